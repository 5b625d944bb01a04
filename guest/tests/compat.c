/* 32-bit code under a 64-bit kernel: upper halves of registers do not count, and everything wraps at 4 GiB. */
#include "paging.h"
#include "test.h"

#define ABOVE 0x100000000UL /* what addresses that do not wrap would reach */
#define GARBAGE 0xdead000000000000UL

extern volatile uint64_t seen[8];
volatile uint64_t seen[8];

void upper_halves(void);
__asm__(".text\nupper_halves:\n\t"
        "push %rbx; push %rbp; mov %rsp, seen+56\n\t"
        "movabs $0x1111111100000005, %rcx\n\t"
        "movabs $0xdead000040000000, %rbx; movabs $0xdead000000000000, %rdx; mov $2f, %eax; or %rdx, %rax\n\t"
        "pushq $0x30; pushq $1f; lretq\n\t"
        ".code32\n"
        "1: mov (%ebx), %edi\n\t"
        "jmp 4f\n"
        "4: push %edi\n\t"
        "jmp *%eax; ud2\n"
        "2: pop %esi\n\t"
        "ljmp $8, $3f\n\t"
        ".code64\n"
        "3: mov %rbx, seen; mov %rcx, seen+8; mov %rsi, seen+16; mov %rax, seen+24; mov %rsp, seen+32\n\t"
        "mov seen+56, %rsp; pop %rbp; pop %rbx; ret\n");

static void upper_halves_of_registers(void)
{
    uint32_t *page = page_alloc();

    map_page(TEST_LOW, page, PTE_P | PTE_W);
    for (uint32_t i = 0; i < 5; i++) {
        *page = 77 + i;
        upper_halves();
        check_eq(seen[0], GARBAGE | TEST_LOW); /* nothing wrote it */
        check_eq(seen[1], 0x1111111100000005);
        check_eq(seen[2], 77 + i);
        check_eq(seen[3] >> 48, 0xdead);
        check_eq(seen[4], seen[7]);
    }
}

void wide_stack(void);
__asm__(".text\nwide_stack:\n\t"
        "push %rbx; push %rbp; mov %rsp, seen+56\n\t"
        "movabs $0x140000800, %rsp; movabs $0x140000700, %rbp\n\t"
        "ljmp *1f\n\t"
        ".code32\n"
        "2: pop %eax\n\t"
        "mov %eax, seen\n\t"
        "movl $0xf, 4(%ebp)\n\t"
        "call 3f\n\t"
        "leave\n\t"
        "xor %esp, %esp; pushl $0x4321; mov 0xfffffffc, %edx; jmp 4f\n"
        "3: ret\n"
        "4: ljmp $8, $5f\n\t"
        ".code64\n"
        "5: mov %edx, seen+8; mov %rsp, seen+16; mov %ebp, seen+24\n\t"
        "mov seen+56, %rsp; pop %rbp; pop %rbx; ret\n"
        ".data\n1: .long 2b; .word 0x30\n.text");

static void stacks(void)
{
    uint32_t *page = page_alloc(), *top = page_alloc(), *above = page_alloc();

    map_page(TEST_LOW, page, PTE_P | PTE_W);
    memset((void *)seen, 0, sizeof(seen));
    map_page(0xfffff000, top, PTE_P | PTE_W);
    map_page(ABOVE, above, PTE_P | PTE_W);
    map_page(ABOVE + TEST_LOW, above, PTE_P | PTE_W);
    for (uint32_t i = 0; i < 5; i++) {
        page[0x800 / 4] = 0x600d + i;
        page[0x700 / 4] = 0xbad0 + i;
        top[1023] = 0;
        wide_stack();
        check_eq(seen[0], 0x600d + i);
        check_eq(seen[1], 0x4321);
        check_eq(top[1023], 0x4321);
        check_eq(seen[2], 0xfffffffc);
        check_eq(seen[3], 0xbad0 + i);
        check_eq(page[0x704 / 4], 0xf);
    }
}

/* A segment's base, an index, and a jump, each past 4 GiB, where something else is mapped. */
static void addresses_wrap(void)
{
    uint32_t *right = page_alloc(), *wrong = page_alloc(), a = 0, b = 0;
    uint8_t *low = page_alloc(), *high = page_alloc();

    map_page(TEST_LOW, right, PTE_P | PTE_W);
    map_page(ABOVE + TEST_LOW, wrong, PTE_P | PTE_W);
    gdt[SEL_TEST / 8] = desc(TEST_LOW + 0x100, 0xfffff, DESC_P | DESC_DATA | DESC_G | DESC_DB);
    for (unsigned i = 0; i < 1024; i++) {
        right[i] = i;
        wrong[i] = 0xbad;
    }
    for (unsigned i = 0; i < 5; i++) {
        TRY_COMPAT("mov %%ecx, %%gs; mov %%gs:-4, %%eax; mov (%%esi,%%edi), %%ebx; addl $1000, %%gs:-8(%%edx)",
                   : "=&a"(a), "=&b"(b)
                   : "c"(SEL_TEST), "d"(0), "S"(0x80000000), "D"(0xc0000010)
                   : "memory");
        check_no_fault();
        check_eq(a, 0xfc / 4);
        check_eq(b, 4);
        check_eq(right[0xf8 / 4], 0xf8 / 4 + 1000 * (i + 1));
    }
    map_page(0xfffff000, high, PTE_P | PTE_W);
    map_page(ABOVE, low, PTE_P | PTE_W);                                          /* 4 GiB: where a jump that does not wrap would go */
    memcpy(high + 0xf00, (uint8_t[]){0xb8, 1, 0, 0, 0, 0xe9, 0, 0x02, 0, 0}, 10); /* mov $1, %eax; jmp .+0x200 */
    memcpy(low + 0x10a, (uint8_t[]){0x0f, 0x0b}, 2);
    uint8_t *zero = (uint8_t *)TEST_LOW; /* page 0 is RAM and has no other use here */
    map_page(TEST_LOW, (void *)0, PTE_P | PTE_W);
    memcpy(zero + 0x10a, (uint8_t[]){0xff, 0xc0, 0xc3}, 3); /* inc %eax; ret */
    for (unsigned i = 0; i < 5; i++) {
        TRY_COMPAT("call *%%edx", : "=&a"(a) : "d"(0xffffff00) : "memory");
        check_eq(fault_count, 0);
        check_eq(a, 2);
    }
}

GUEST_TESTS({"upper halves of registers", upper_halves_of_registers}, {"stacks", stacks}, {"addresses wrap", addresses_wrap});
