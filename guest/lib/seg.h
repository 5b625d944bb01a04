/* Selectors, and the guest's GDT, IDT and TSS. */
#pragma once

#ifdef __ASSEMBLER__
#define SEL_BYTES(n) n
#else
#include "cpu.h"
#endif

/* The order of 0x08-0x28 is what SYSCALL and SYSRET want of STAR. */
#define SEL_KCODE 0x08 /* of this guest's own width */
#define SEL_KDATA 0x10
#define SEL_UCODE32 0x1b
#define SEL_UDATA 0x23
#define SEL_UCODE64 0x2b
#define SEL_KCODE32 0x30
#define SEL_KCODE16 0x38
#define SEL_KDATA16 0x40
#define SEL_TSS 0x48  /* 16 bytes in the 64-bit guests */
#define SEL_LDT 0x58  /* the same */
#define SEL_TEST 0x68 /* from here on free for tests, null before each */
#define GDT_ENTRIES 32

#ifdef __x86_64__
#define SEL_UCODE SEL_UCODE64
#else
#define SEL_UCODE SEL_UCODE32
#endif

#define VECTOR_LEAVE_USER 0x81 /* INT with it goes on in ring 0 behind the INT */

#ifndef __ASSEMBLER__

/* Descriptor bits, as they stand in the upper half. */
#define DESC_TYPE(t) ((uint64_t)(t) << 40)
#define DESC_S BIT(44)
#define DESC_DPL(n) ((uint64_t)(n) << 45)
#define DESC_P BIT(47)
#define DESC_L BIT(53)
#define DESC_DB BIT(54)
#define DESC_G BIT(55)
#define DESC_CODE (DESC_S | DESC_TYPE(0xb)) /* readable, accessed */
#define DESC_DATA (DESC_S | DESC_TYPE(0x3)) /* writable, accessed */

static inline uint64_t desc(uint32_t base, uint32_t limit, uint64_t bits)
{
    return bits | (limit & 0xffff) | (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(base >> 24) << 56;
}

#ifdef __x86_64__
struct tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t ist[8]; /* [0] is reserved */
    uint64_t reserved1;
    uint16_t reserved2;
    uint16_t iomap;
    uint8_t io[16]; /* permissions of ports 0-127 */
} __attribute__((packed));

struct gate {
    uint16_t offset_lo, selector;
    uint8_t ist, attr;
    uint16_t offset_mid;
    uint32_t offset_hi, reserved;
} __attribute__((packed));
#else
struct tss {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, gpr[8], seg[6], ldt;
    uint16_t trap, iomap;
    uint8_t io[16];
} __attribute__((packed));

struct gate {
    uint16_t offset_lo, selector;
    uint8_t ist, attr;
    uint16_t offset_mid;
} __attribute__((packed));
#endif

struct table_ptr {
    uint16_t limit;
    word base;
} __attribute__((packed));

#define GATE_INT(dpl) (0x8e | (dpl) << 5)
#define GATE_TRAP(dpl) (0x8f | (dpl) << 5)
#define GATE_CALL(dpl) (0x8c | (dpl) << 5)

extern uint64_t gdt[GDT_ENTRIES];
extern struct gate idt[256];
extern struct tss tss;

/* All three as every test finds them: flat segments, every vector to the library's handlers with DPL 0 but for 3, 4, 0x80, 0x81. */
void seg_reset(void);

void gate_set(struct gate *, word handler, uint16_t selector, uint8_t attr);
/* The library's own entry of a vector. */
word vector_entry(unsigned vector);
/* The top of one of the four spare stacks, 8 KiB each. */
word spare_stack(unsigned n);

static inline void lgdt(const void *base, unsigned limit)
{
    struct table_ptr p = {(uint16_t)limit, (word)base};
    __asm__ volatile("lgdt %0" : : "m"(p) : "memory");
}

static inline void lidt(const void *base, unsigned limit)
{
    struct table_ptr p = {(uint16_t)limit, (word)base};
    __asm__ volatile("lidt %0" : : "m"(p) : "memory");
}

#endif
