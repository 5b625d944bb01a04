/* The test runner, the entry from the start code, the boot information and the CPU's state between tests. */
#include "test.h"
#ifdef __x86_64__
#include "paging.h"
#endif
#include "irq.h"

#define MULTIBOOT_MAGIC 0x2badb002u /* multiboot 0.6.96 3.2 */
#define MULTIBOOT_CMDLINE 4u
#define PVH_MAGIC 0x336ec578u /* xen/include/public/arch-x86/hvm/start_info.h */
#define DEBUG_EXIT_PORT 0xf4

int runner_save(void) __attribute__((returns_twice));
void runner_return(void) __attribute__((noreturn));
void guest_start(uint32_t magic, word info);

static char cmdline[1024];
static const char *protocol;
static enum { PASSED, FAILED, SKIPPED } result;
static const struct test *running;

void *memset(void *p, int c, size_t n)
{
    for (uint8_t *b = p; n; n--)
        *b++ = (uint8_t)c;
    return p;
}

void *memcpy(void *to, const void *from, size_t n)
{
    const uint8_t *f = from;

    for (uint8_t *t = to; n; n--)
        *t++ = *f++;
    return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *x = a, *y = b;

    for (; n; n--, x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}

void guest_exit(uint8_t value)
{
    outb(DEBUG_EXIT_PORT, value);
    for (;;)
        __asm__ volatile("cli; hlt");
}

bool cpu_has(uint64_t feature)
{
    uint32_t leaf = (uint32_t)(feature >> 32);
    struct cpuid r;

    if (cpuid(leaf & 0x80000000, 0).a < leaf)
        return false;
    r = cpuid(leaf, feature >> 16 & 0xff);
    return (&r.a)[feature >> 8 & 3] >> (feature & 31) & 1;
}

bool cpu_is_amd(void)
{
    uint32_t c = cpuid(0, 0).c;
    return c == 0x444d4163 || c == 0x656e6975; /* "AuthenticAMD", "HygonGenuine" */
}

bool cpu_is_tcg(void)
{
    struct cpuid r = cpuid(0x40000000, 0);
    /* "TCGTCGTCGTCG"; or a KVM whose CPU is TCG's */
    return r.b == 0x54474354 || cmdline_has("cpu=tcg");
}

/* As FNINIT leaves it, and MXCSR as it is after a reset. */
static const struct {
    uint16_t fcw, unused[11];
    uint32_t mxcsr, rest[121];
} __attribute__((aligned(16))) initial_fx = {.fcw = 0x37f, .mxcsr = 0x1f80};

void cpu_reset_controls(void)
{
    word cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_DE;

    write_flags(0);
    write_cr0((read_cr0() & CR0_PG) | CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP);
#ifdef __x86_64__
    cr4 |= CR4_PAE | CR4_PGE;
    wrmsr(MSR_EFER, EFER_SCE | EFER_LME | EFER_NXE | EFER_LMA);
    write_cr8(0);
#endif
    if (cpu_has(F_XSAVE))
        cr4 |= CR4_OSXSAVE;
    write_cr4(cr4);
    if (cr4 & CR4_OSXSAVE)
        xsetbv(0, cpuid(0xd, 0).a & 0xe7);
    write_dr7(0x400);
    write_dr6(0xffff0ff0);
    /* Not by LDMXCSR, which KVM cannot emulate where it has no hardware. */
    __asm__ volatile("fxrstor %0" : : "m"(initial_fx));
}

void test_fail(const char *file, int line, const char *fmt, ...)
{
    va_list ap;

    print("FAIL %s: %s:%d: ", running->name, file, line);
    va_start(ap, fmt);
    vprint(fmt, ap);
    va_end(ap);
    print("\n");
    result = FAILED;
    runner_return();
}

void test_skip(const char *why)
{
    print("skip %s: %s\n", running->name, why);
    result = SKIPPED;
    runner_return();
}

static const char *vector_name(unsigned v)
{
    static const char *const names[] = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9",
                                        "#TS", "#NP", "#SS", "#GP", "#PF", "15",  "#MF", "#AC", "#MC", "#XM"};
    return v < ARRAY_SIZE(names) ? names[v] : "vector";
}

void check_fault_at(const char *file, int line, unsigned vector, word error, word rip)
{
    if (!fault_count)
        test_fail(file, line, "no %s(0x%lx)", vector_name(vector), (unsigned long)error);
    if (fault.vector != vector || fault.error != error)
        test_fail(file, line, "%s %u (0x%lx) at 0x%lx, not %s (0x%lx)", vector_name(fault.vector), fault.vector, (unsigned long)fault.error,
                  (unsigned long)fault.rip, vector_name(vector), (unsigned long)error);
    if (fault.rip != rip)
        test_fail(file, line, "%s with rip 0x%lx, not 0x%lx", vector_name(vector), (unsigned long)fault.rip, (unsigned long)rip);
}

void check_none_at(const char *file, int line)
{
    if (fault_count)
        test_fail(file, line, "%s %u (0x%lx) at 0x%lx, cr2 0x%lx", vector_name(fault.vector), fault.vector, (unsigned long)fault.error,
                  (unsigned long)fault.rip, (unsigned long)fault.cr2);
}

static void between_tests(void)
{
    cli();
    try_resume = 0;
    fault_count = 0;
    for (unsigned i = 0; i < 256; i++)
        set_handler(i, NULL);
    seg_reset();
    cpu_reset_controls();
#ifdef __x86_64__
    paging_reset();
#endif
}

static void run_one(const struct test *t)
{
    running = t;
    result = PASSED;
    between_tests();
    if (!runner_save()) {
        t->run();
    } else if (fault_count == ~0u) {
        cli();
        print("FAIL %s: unexpected %s at 0x%lx\n", t->name, vector_name(fault.vector), (unsigned long)fault.rip);
        result = FAILED;
    }
    cli();
    if (result == PASSED)
        print("ok %s\n", t->name);
}

const char *guest_cmdline(void)
{
    return cmdline;
}

const char *guest_protocol(void)
{
    return protocol;
}

bool cmdline_has(const char *wanted)
{
    const char *p = cmdline;

    while (*p) {
        const char *w = wanted;
        while (*w && *p == *w) {
            p++;
            w++;
        }
        if (!*w && (*p == ' ' || !*p))
            return true;
        while (*p && *p != ' ')
            p++;
        while (*p == ' ')
            p++;
    }
    return false;
}

static void copy_cmdline(word from)
{
    const char *s = (const char *)from;

    for (unsigned i = 0; s && s[i] && i < sizeof(cmdline) - 1; i++)
        cmdline[i] = s[i];
}

static void read_boot_info(uint32_t magic, word info)
{
    const uint32_t *words = (const uint32_t *)info;

    if (magic == MULTIBOOT_MAGIC) {
        protocol = "multiboot";
        if (words[0] & MULTIBOOT_CMDLINE)
            copy_cmdline(words[4]);
    } else if (words[0] == PVH_MAGIC) {
        protocol = "pvh";
        copy_cmdline(words[6]); /* cmdline_paddr, the low half */
    } else {
        protocol = "unknown";
    }
}

void guest_start(uint32_t magic, word info)
{
    unsigned counts[3] = {0};

    console_init();
    read_boot_info(magic, info);
    for (const struct test *t = guest_tests; t->name; t++) {
        run_one(t);
        counts[result]++;
    }
    between_tests();
    print("%u passed, %u failed, %u skipped\n", counts[PASSED], counts[FAILED], counts[SKIPPED]);
    guest_exit(counts[FAILED] ? 1 : 0);
}
