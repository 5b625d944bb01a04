/* The firmware configuration device as a kernel reads it: by ports, by string I/O and by DMA. A file opt/umbra/test is compared, if there. */
#include "test.h"

#define SELECTOR 0x510
#define DATA 0x511
#define DMA 0x514

#define KEY_SIGNATURE 0x00
#define KEY_ID 0x01
#define KEY_RAM_SIZE 0x03
#define KEY_CPUS 0x05
#define KEY_DIRECTORY 0x19
#define KEY_FIRST_FILE 0x20

#define DMA_READ 2u
#define DMA_SKIP 4u
#define DMA_SELECT 8u

#define FILE_NAME "opt/umbra/test"
static const char content[] = "what the host wrote\n";

struct file {
    uint32_t size;
    uint16_t key, reserved;
    char name[56];
};

static struct {
    uint32_t control, length;
    uint64_t address;
} descriptor __attribute__((aligned(16)));
static char buffer[64];

static uint64_t next(unsigned size) /* the first byte is the lowest */
{
    uint64_t value = 0;

    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)inb(DATA) << 8 * i;
    return value;
}

static void insb(void *to, word count)
{
    __asm__ volatile("rep insb" : "+D"(to), "+c"(count) : "d"(DATA) : "memory");
}

static bool same(const char *a, const char *b, size_t len)
{
    while (len > 0 && *a == *b)
        a++, b++, len--;
    return len == 0;
}

/* The named file's entry; false: there is none. */
static bool find(const char *name, size_t len, struct file *f)
{
    uint32_t count;

    outw(SELECTOR, KEY_DIRECTORY);
    count = __builtin_bswap32((uint32_t)next(4));
    for (uint32_t i = 0; i < count; i++) {
        insb(f, sizeof(*f));
        if (same(f->name, name, len))
            return true;
    }
    return false;
}

/* Waits for the end; the control word, which is zero or an error. */
static uint32_t dma(uint32_t control, void *to, uint32_t length)
{
    volatile uint32_t *done = &descriptor.control;

    descriptor.length = __builtin_bswap32(length);
    descriptor.address = __builtin_bswap64((word)to);
    *done = __builtin_bswap32(control);
    outl(DMA, 0);
    outl(DMA + 4, __builtin_bswap32((uint32_t)(word)&descriptor));
    while (__builtin_bswap32(*done) & ~1u)
        pause_cpu();
    return __builtin_bswap32(*done);
}

static void signature(void)
{
    outw(SELECTOR, KEY_SIGNATURE);
    check_eq(next(4), 0x554d4551); /* QEMU */
    check_eq(next(4), 0);
    outw(SELECTOR, KEY_ID);
    check_eq(next(4), 3);
    check_eq(inl(DMA), 0x554d4551);
    check_eq(inl(DMA + 4), 0x47464320);
}

static void machine(void)
{
    outw(SELECTOR, KEY_CPUS);
    check(next(2) >= 1);
    outw(SELECTOR, KEY_RAM_SIZE);
    uint64_t ram = next(8);
    check(ram >= 0x200000 && ram % PAGE_SIZE == 0);
}

static void directory(void)
{
    struct file f;
    uint32_t count;

    outw(SELECTOR, KEY_DIRECTORY);
    count = __builtin_bswap32((uint32_t)next(4));
    for (uint32_t i = 0; i < count; i++) {
        insb(&f, sizeof(f));
        check(__builtin_bswap16(f.key) >= KEY_FIRST_FILE);
        check(f.name[0] && !f.name[sizeof(f.name) - 1]);
    }
}

static void by_ports(void)
{
    struct file f;

    if (!find(FILE_NAME, sizeof(FILE_NAME), &f))
        test_skip("no file " FILE_NAME);
    check_eq(__builtin_bswap32(f.size), sizeof(content) - 1);
    outw(SELECTOR, __builtin_bswap16(f.key));
    insb(buffer, sizeof(content));
    check(same(buffer, content, sizeof(content))); /* the zero behind its end, too */
}

static void by_dma(void)
{
    struct file f;

    if (!find(FILE_NAME, sizeof(FILE_NAME), &f))
        test_skip("no file " FILE_NAME);
    check_eq(dma((uint32_t)__builtin_bswap16(f.key) << 16 | DMA_SELECT | DMA_READ, buffer, 5), 0);
    check(same(buffer, content, 5));
    check_eq(dma(DMA_SKIP, 0, 2), 0);
    check_eq(dma(DMA_READ, buffer, sizeof(content) - 7), 0);
    check(same(buffer, content + 7, sizeof(content) - 7));
}

static void dma_beyond_memory(void)
{
    /* The last page below 4 GiB is never RAM. QEMU writes where there is something and says no more. */
    uint32_t control = dma(KEY_SIGNATURE << 16 | DMA_SELECT | DMA_READ, (void *)(word)0xfffff000, 4);

    check_but_qemu(control == 1, "DMA to what is no RAM is no error");
}

GUEST_TESTS({"the signature and what the device can do", signature}, {"CPUs and memory", machine},
            {"the directory is well-formed", directory}, {"a file by ports", by_ports}, {"a file by DMA", by_dma},
            {"DMA beyond memory is an error", dma_beyond_memory});
