/* The guest's GDT, IDT, TSS and spare stacks. */
#include "seg.h"
#include "test.h"

#define STACK_BYTES 8192

void seg_reload(void);
extern uint8_t vector_table[256][16];

#ifdef __x86_64__
#define KCODE_BITS (DESC_L | DESC_G)
#else
#define KCODE_BITS (DESC_DB | DESC_G)
#endif
#define FLAT (DESC_P | DESC_DB | DESC_G)

static const uint64_t fresh_gdt[SEL_TEST / 8] = {
    0,
    0xf0000 * BIT(32) | 0xffff | DESC_P | DESC_CODE | KCODE_BITS,
    0xf0000 * BIT(32) | 0xffff | FLAT | DESC_DATA,
    0xf0000 * BIT(32) | 0xffff | FLAT | DESC_CODE | DESC_DPL(3),
    0xf0000 * BIT(32) | 0xffff | FLAT | DESC_DATA | DESC_DPL(3),
    0xf0000 * BIT(32) | 0xffff | DESC_P | DESC_CODE | DESC_L | DESC_G | DESC_DPL(3),
    0xf0000 * BIT(32) | 0xffff | FLAT | DESC_CODE,
    0xffff | DESC_P | DESC_CODE, /* 16-bit, base 0, 64 KiB */
    0xffff | DESC_P | DESC_DATA,
};

/* The entry code loads this before any C runs. */
uint64_t gdt[GDT_ENTRIES] = {
    0,
    0xf0000 * BIT(32) | 0xffff | DESC_P | DESC_CODE | KCODE_BITS,
    0xf0000 * BIT(32) | 0xffff | FLAT | DESC_DATA,
    0xf0000 * BIT(32) | 0xffff | FLAT | DESC_CODE | DESC_DPL(3),
    0xf0000 * BIT(32) | 0xffff | FLAT | DESC_DATA | DESC_DPL(3),
};
struct gate idt[256] __attribute__((aligned(16)));
struct tss tss __attribute__((aligned(16)));
static uint8_t stacks[5][STACK_BYTES] __attribute__((aligned(4096)));

word vector_entry(unsigned vector)
{
    return (word)vector_table[vector];
}

word spare_stack(unsigned n)
{
    return (word)stacks[n + 1] + STACK_BYTES;
}

void gate_set(struct gate *g, word handler, uint16_t selector, uint8_t attr)
{
    memset(g, 0, sizeof(*g));
    g->offset_lo = (uint16_t)handler;
    g->selector = selector;
    g->attr = attr;
    g->offset_mid = (uint16_t)(handler >> 16);
#ifdef __x86_64__
    g->offset_hi = (uint32_t)(handler >> 32);
#endif
}

static void tss_reset(void)
{
    word kernel_stack = (word)stacks[0] + STACK_BYTES;

    memset(&tss, 0, sizeof(tss));
    tss.iomap = sizeof(tss); /* no port is open to ring 3 */
#ifdef __x86_64__
    tss.rsp[0] = kernel_stack;
    gdt[SEL_TSS / 8 + 1] = (uint64_t)&tss >> 32;
#else
    tss.esp0 = kernel_stack;
    tss.ss0 = SEL_KDATA;
#endif
    gdt[SEL_TSS / 8] = desc((uint32_t)(word)&tss, sizeof(tss) - 1, DESC_P | DESC_TYPE(9));
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}

void seg_reset(void)
{
    memset(gdt, 0, sizeof(gdt));
    memcpy(gdt, fresh_gdt, sizeof(fresh_gdt));
    lgdt(gdt, sizeof(gdt) - 1);
    seg_reload();
    for (unsigned i = 0; i < 256; i++) {
        bool user = i == EXC_BP || i == EXC_OF || i == 0x80 || i == VECTOR_LEAVE_USER;
        gate_set(&idt[i], vector_entry(i), SEL_KCODE, GATE_INT(user ? 3 : 0));
    }
    lidt(idt, sizeof(idt) - 1);
    __asm__ volatile("lldt %w0" : : "r"(0));
    tss_reset();
}
