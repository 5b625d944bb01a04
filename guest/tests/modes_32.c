/* Protected to real mode and back, and to long mode and back. */
#include "test.h"

#define RESULTS 0x7800u
#define LOW_CODE 0x8000u

extern uint8_t low_code[], low_code_end[];
extern const uint16_t low_offsets[4]; /* on_int60, three faulting instructions */
extern volatile uint64_t long_seen[8];
void real_mode_run(void);
void long_mode_run(uint32_t pml4);

static uint16_t word_at(uint32_t address)
{
    return *(volatile uint16_t *)address;
}

static void prepare_low_memory(void)
{
    memset((void *)RESULTS, 0x55, 0x200);
    memcpy((void *)LOW_CODE, low_code, (size_t)(low_code_end - low_code));
    *(volatile uint16_t *)0x9004 = 0xabcd;
    *(volatile uint32_t *)(0x60 * 4) = low_offsets[0]; /* segment 0 */
}

static void real_mode(void)
{
    uint32_t there = *(volatile uint32_t *)0x110000;

    prepare_low_memory();
    real_mode_run();
    check_eq(word_at(RESULTS), 0);
    check_eq(word_at(RESULTS + 2), 0xabcd);
    check_eq(word_at(RESULTS + 4), 1);
    check_eq(*(volatile uint32_t *)(RESULTS + 6), 0x23456781);
    check_eq(word_at(RESULTS + 10), 0);
    check_eq(word_at(RESULTS + 12) & (FLAG_CF | FLAG_IF | 2), FLAG_CF | 2);
    check_eq(word_at(RESULTS + 14), low_offsets[1]);
    check_but_qemu(word_at(RESULTS + 16) == low_offsets[2], "segment limits are not checked");
    check_eq(word_at(RESULTS + 18), low_offsets[3]);
    check_eq(*(volatile uint32_t *)(RESULTS + 20), there);
    check_eq(word_at(RESULTS + 24), 0x800);
    check_eq(word_at(RESULTS + 26), 5);
    check_eq(memcmp((void *)RESULTS, (void *)(RESULTS + 0x100), 28), 0);
}

static void real_mode_many_times(void)
{
    prepare_low_memory();
    for (unsigned i = 0; i < 50; i++) {
        *(volatile uint16_t *)0x9004 = (uint16_t)i;
        real_mode_run();
        check_eq(word_at(RESULTS + 2), i);
    }
}

static void long_mode(void)
{
    static uint64_t pml4[512] __attribute__((aligned(4096))), pdpt[512] __attribute__((aligned(4096)));
    static uint64_t directory[512] __attribute__((aligned(4096)));

    for (unsigned i = 0; i < 512; i++)
        directory[i] = i * 0x200000ull | 0x83;
    pdpt[0] = (word)directory | 3;
    pdpt[256] = (word)directory | 3; /* 0x4000000000 is the same memory */
    pml4[0] = (word)pdpt | 3;
    gdt[SEL_TEST / 8] = desc(0, 0xfffff, DESC_P | DESC_CODE | DESC_L | DESC_G);
    *(volatile uint64_t *)0x1000 = 0x8877665544332211;
    for (unsigned i = 0; i < 20; i++) {
        memset((void *)long_seen, 0, 64);
        long_mode_run((word)pml4);
        check_eq(long_seen[0] & (EFER_LME | EFER_LMA), EFER_LME | EFER_LMA);
        check_eq(long_seen[0] >> 32, 0x80000000);
        check_eq(long_seen[1], 0x1122334455667788);
        check_eq(long_seen[2], 0x1122334455667788);
        check_eq(long_seen[3], 0x8877665544332211);
        check_eq(long_seen[4] & (EFER_LME | EFER_LMA), EFER_LME);
        check_eq(rdmsr(MSR_EFER) & (EFER_LME | EFER_LMA), 0);
    }
}

/* Each step has its rule (SDM vol. 3 9.8.5). */
static void rules_of_long_mode(void)
{
    if (cpu_is_tcg())
        test_skip("TCG knows none of the rules");
    wrmsr(MSR_EFER, EFER_LME);
    TRY("mov %0, %%cr0", : : "r"(read_cr0() | CR0_PG) : "memory"); /* without PAE */
    check_fault(EXC_GP, 0);
    wrmsr(MSR_EFER, 0);
    TRY("wrmsr", : : "c"(MSR_EFER), "a"(0x80000000), "d"(0) : "memory"); /* a reserved bit */
    check_fault(EXC_GP, 0);
}

GUEST_TESTS({"real mode", real_mode}, {"real mode, many times", real_mode_many_times}, {"long mode and back", long_mode},
            {"rules of long mode", rules_of_long_mode});
