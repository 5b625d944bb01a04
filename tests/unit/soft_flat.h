/* A vCPU over flat memory without paging tables, for tests of the software engine's system instructions. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/soft/cpuid.h"
#include "engine/soft/mmu.h"
#include "engine/soft/sys.h"

#define FLAT_BYTES MIB(1)
#define FLAT_USER 0x10000ULL /* addresses from here on are accessible at CPL 3 */

/* Where things lie. */
#define GDT 0x1000ULL
#define IDT 0x2000ULL
#define TSS 0x3000ULL
#define LDT 0x3800ULL
#define KERNEL_STACK 0x8000ULL
#define IST_STACK 0xa008ULL /* not 16-aligned */
#define USER_STACK 0x18000ULL
#define HANDLER 0x5000ULL

/* The GDT's selectors. */
enum {
    CODE32 = 0x08,
    DATA0 = 0x10,
    CODE32_USER = 0x18,
    DATA_USER = 0x20,
    CODE64 = 0x28,
    CODE64_USER = 0x30,
    CODE32_CONFORMING = 0x38,
    CODE64_CONFORMING = 0x40,
    DATA_READONLY = 0x48, /* DPL 3 */
    DATA_ABSENT = 0x50,
    CODE16 = 0x58,
    DATA16 = 0x60,
    TSS_SEL = 0x68,
    LDT_SEL = 0x78,
    GATE = 0x88,
    FREE = 0x98, /* 16 bytes for one test's own descriptor */
    CODE_ABSENT = 0xa8,
    CODE_NOREAD = 0xb0, /* execute-only, DPL 3 */
    DATA_RING1 = 0xb8,
    CODE64_RING1 = 0xc0,
    DATA16_USER = 0xc8,
    GDT_BYTES = 0xd0,
};

static struct {
    struct soft_cpu cpu;
    struct soft_vm svm;
    struct soft_cpuid cpuid;
    struct vm_exit exit;
    uint8_t ram[FLAT_BYTES];
    uint64_t absent;   /* page without mapping; 0 = none */
    uint64_t readonly; /* page that cannot be written; 0 = none */
    unsigned writes;
    bool internal;
} flat;

#define cpu (&flat.cpu)

/* --- what the rest of the engine does --- */

int mmu_translate(struct soft_cpu *c, gva_t gva, unsigned access, struct mmu_target *target)
{
    bool user = c->cpl == 3 && !(access & MMU_SUPERVISOR);
    uint64_t page = ALIGN_DOWN(gva, PAGE_SIZE);
    uint32_t error = (access & MMU_WRITE ? PF_WRITE : 0) | (user ? PF_USER : 0);

    if (gva >= FLAT_BYTES || (flat.absent && page == flat.absent))
        return soft_raise_pf(c, gva, error);
    if ((user && gva < FLAT_USER) || ((access & MMU_WRITE) && flat.readonly && page == flat.readonly))
        return soft_raise_pf(c, gva, error | PF_PRESENT);
    *target = (struct mmu_target){.gpa = gva, .hva = flat.ram + gva};
    return SOFT_OK;
}

static int flat_check(struct soft_cpu *c, gva_t gva, unsigned n, unsigned access)
{
    struct mmu_target target;
    int result = mmu_translate(c, gva, access, &target);

    if (result == SOFT_OK && (gva & PAGE_MASK) + n > PAGE_SIZE)
        result = mmu_translate(c, ALIGN_DOWN(gva, PAGE_SIZE) + PAGE_SIZE, access, &target);
    return result;
}

int mmu_read(struct soft_cpu *c, gva_t gva, void *buf, unsigned n, unsigned access)
{
    int result = flat_check(c, gva, n, access);

    if (result == SOFT_OK)
        memcpy(buf, flat.ram + gva, n);
    return result;
}

int mmu_write(struct soft_cpu *c, gva_t gva, const void *buf, unsigned n, unsigned access)
{
    int result = flat_check(c, gva, n, access);

    if (result == SOFT_OK) {
        memcpy(flat.ram + gva, buf, n);
        flat.writes++;
    }
    return result;
}

int mmu_host(struct soft_cpu *c, gva_t gva, unsigned n, unsigned access, void **hva)
{
    int result = flat_check(c, gva, n, access);

    *hva = flat.ram + gva;
    return result;
}

void soft_mode_update(struct soft_cpu *c)
{
    c->protected_mode = c->cr0 & CR0_PE;
    c->long_mode = c->efer & EFER_LMA;
    c->cpl = c->protected_mode ? SEG_DPL(c->seg[SEG_SS].attr) : 0;
    c->code_bits = c->stack_bits = 64;
    if (!c->long_mode || !(c->seg[SEG_CS].attr & SEG_L)) {
        c->code_bits = c->seg[SEG_CS].attr & SEG_DB ? 32 : 16;
        c->stack_bits = c->seg[SEG_SS].attr & SEG_DB ? 32 : 16;
    }
}

int soft_internal(struct soft_cpu *c, const char *fmt, ...)
{
    c->exit->reason = VM_EXIT_INTERNAL;
    flat.internal = fmt != NULL;
    return SOFT_EXIT;
}

/* --- memory --- */

static inline void poke(uint64_t at, unsigned size, uint64_t value)
{
    memcpy(flat.ram + at, &value, size);
}

static inline uint64_t peek(uint64_t at, unsigned size)
{
    uint64_t value = 0;

    memcpy(&value, flat.ram + at, size);
    return value;
}

/* A descriptor with base 0 and limit 4 GiB unless limit says otherwise (in bytes, up to 64 KiB). */
static inline void put_segment(unsigned sel, unsigned type, unsigned dpl, uint32_t flags, uint32_t limit)
{
    uint64_t raw = limit ? limit & 0xffff : 0x008f00000000ffff;

    poke(GDT + sel, 8, raw | (uint64_t)(type | SEG_S | SEG_P | dpl << 5) << 40 | (uint64_t)(flags >> 12) << 52);
}

static inline void put_system(unsigned sel, unsigned type, unsigned dpl, uint64_t base, uint32_t limit)
{
    poke(GDT + sel, 8, (limit & 0xffff) | (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56 | (uint64_t)(type | SEG_P | dpl << 5) << 40);
    if (cpu->long_mode)
        poke(GDT + sel + 8, 8, base >> 32);
}

/* A call, interrupt or trap gate; extra is the parameter count or the IST index. */
static inline void put_gate(uint64_t at, unsigned type, unsigned dpl, unsigned sel, uint64_t rip, unsigned extra)
{
    poke(at, 8,
         (rip & 0xffff) | (uint64_t)sel << 16 | (uint64_t)extra << 32 | (uint64_t)(type | SEG_P | dpl << 5) << 40 |
             (rip >> 16 & 0xffff) << 48);
    if (cpu->long_mode)
        poke(at + 8, 8, rip >> 32);
}

static inline void put_idt(unsigned vector, unsigned type, unsigned dpl, unsigned sel, uint64_t rip, unsigned ist)
{
    put_gate(IDT + vector * (cpu->long_mode ? 16 : 8), type, dpl, sel, rip, ist);
}

static inline void put_gdt(void)
{
    put_segment(CODE32, 0xb, 0, SEG_DB, 0);
    put_segment(DATA0, 0x3, 0, SEG_DB, 0);
    put_segment(CODE32_USER, 0xb, 3, SEG_DB, 0);
    put_segment(DATA_USER, 0x3, 3, SEG_DB, 0);
    put_segment(CODE64, 0xb, 0, SEG_L, 0);
    put_segment(CODE64_USER, 0xb, 3, SEG_L, 0);
    put_segment(CODE32_CONFORMING, 0xf, 0, SEG_DB, 0);
    put_segment(CODE64_CONFORMING, 0xf, 0, SEG_L, 0);
    put_segment(DATA_READONLY, 0x1, 3, SEG_DB, 0);
    put_segment(DATA_ABSENT, 0x3, 0, SEG_DB, 0);
    flat.ram[GDT + DATA_ABSENT + 5] &= 0x7f;
    put_segment(CODE16, 0xb, 0, 0, 0xffff);
    put_segment(DATA16, 0x3, 0, 0, 0xffff);
    put_segment(CODE_ABSENT, 0xb, 0, cpu->long_mode ? SEG_L : SEG_DB, 0);
    flat.ram[GDT + CODE_ABSENT + 5] &= 0x7f;
    put_segment(CODE_NOREAD, 0x9, 3, SEG_DB, 0);
    put_segment(DATA_RING1, 0x3, 1, SEG_DB, 0);
    put_segment(CODE64_RING1, 0xb, 1, SEG_L, 0);
    put_segment(DATA16_USER, 0x3, 3, 0, 0xffff);
}

/* --- modes --- */

static inline void set_segment(unsigned seg, unsigned sel)
{
    uint64_t raw = peek(GDT + (sel & 0xfff8), 8);
    uint32_t attr = (uint32_t)(raw >> 40 & 0xff) | (uint32_t)(raw >> 52 & 0xf) << 12;
    uint32_t limit = (uint32_t)(raw & 0xffff) | (uint32_t)(raw >> 32 & 0xf0000);

    cpu->seg[seg] = (struct cpu_seg){
        .sel = (uint16_t)sel,
        .attr = attr,
        .limit = attr & SEG_G ? limit << 12 | 0xfff : limit,
    };
}

static inline void flat_reset(void)
{
    memset(&flat, 0, sizeof(flat));
    cpu->svm = &flat.svm;
    flat.svm.cpuid = &flat.cpuid;
    cpu->exit = &flat.exit;
    cpu->exit->reason = VM_EXIT_HLT;
    cpu->rflags = FLAG_ONE | FLAG_IF;
    cpu->rip = 0x20000;
    cpu->next_rip = 0x20002;
    cpu->gdtr = (struct cpu_table){GDT, GDT_BYTES - 1};
    cpu->idtr = (struct cpu_table){IDT, 0xfff};
    cpu->ldtr.attr = SEG_UNUSABLE;
    cpu->dr6 = DR6_FIXED;
    cpu->dr7 = DR7_FIXED;
}

static inline void start_protected(unsigned ring)
{
    flat_reset();
    cpu->cr0 = CR0_PE;
    put_gdt();
    set_segment(SEG_CS, ring ? CODE32_USER | 3 : CODE32);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        if (i != SEG_CS)
            set_segment(i, ring ? DATA_USER | 3 : DATA0);
    cpu->gpr[GPR_RSP] = ring ? USER_STACK : KERNEL_STACK;
    cpu->tr = (struct cpu_seg){.base = TSS, .limit = 0x67, .attr = 0x8b, .sel = TSS_SEL};
    poke(TSS + 4, 4, KERNEL_STACK);
    poke(TSS + 8, 2, DATA0);
    soft_mode_update(cpu);
}

static inline void start_long(unsigned ring)
{
    start_protected(ring);
    cpu->cr0 |= CR0_PG;
    cpu->cr4 = CR4_PAE;
    cpu->efer = EFER_LMA | EFER_LME | EFER_SCE;
    soft_mode_update(cpu);
    put_gdt();
    set_segment(SEG_CS, ring ? CODE64_USER | 3 : CODE64);
    poke(TSS + 4, 8, KERNEL_STACK);
    poke(TSS + 36, 8, IST_STACK);
    soft_mode_update(cpu);
}

static inline void start_real(void)
{
    flat_reset();
    for (unsigned i = 0; i < SEG_COUNT; i++)
        cpu->seg[i] = (struct cpu_seg){.limit = 0xffff, .attr = 0x93};
    cpu->seg[SEG_CS] = (struct cpu_seg){.base = 0x20000, .sel = 0x2000, .limit = 0xffff, .attr = 0x93};
    cpu->seg[SEG_SS] = (struct cpu_seg){.base = 0x30000, .sel = 0x3000, .limit = 0xffff, .attr = 0x93};
    cpu->idtr = (struct cpu_table){0, 0x3ff};
    cpu->rip = 0x100;
    cpu->next_rip = 0x102;
    cpu->gpr[GPR_RSP] = 0x1000;
    soft_mode_update(cpu);
}

/* --- expectations --- */

static inline void expect_fault(int result, uint8_t vector, uint32_t error)
{
    assert_int_equal(result, SOFT_FAULT);
    assert_int_equal(cpu->exc.vector, vector);
    assert_true(cpu->exc.has_error);
    assert_int_equal(cpu->exc.error, error);
}

static inline void expect_ud(int result)
{
    assert_int_equal(result, SOFT_FAULT);
    assert_int_equal(cpu->exc.vector, EXC_UD);
    assert_false(cpu->exc.has_error);
}

/* Runs a handler that must fault and leave every register as it was. */
static inline void expect_clean_fault(int (*handler)(struct soft_cpu *, const struct insn *), const struct insn *insn, uint8_t vector,
                                      uint32_t error)
{
    struct soft_cpu before = *cpu;
    int result = handler(cpu, insn);

    expect_fault(result, vector, error);
    assert_memory_equal(before.gpr, cpu->gpr, sizeof(before.gpr));
    assert_memory_equal(before.seg, cpu->seg, sizeof(before.seg));
    assert_int_equal(before.rflags, cpu->rflags);
    assert_int_equal(before.rip, cpu->rip);
    assert_int_equal(before.next_rip, cpu->next_rip);
    assert_int_equal(before.cpl, cpu->cpl);
}

/* --- instructions --- */

static inline struct insn plain_insn(unsigned opsize)
{
    return (struct insn){
        .opsize = (uint8_t)opsize,
        .addrsize = cpu->code_bits / 8,
        .len = 2,
        .mem = {.seg = SEG_DS, .base = REG_NONE, .index = REG_NONE, .scale = 1},
    };
}

static inline struct insn mem_insn(unsigned opsize, uint64_t at, unsigned size)
{
    struct insn insn = plain_insn(opsize);

    insn.has_mem = true;
    insn.mem.disp = (int64_t)at;
    insn.op[0] = (struct insn_operand){.kind = OPERAND_MEM, .size = (uint16_t)size};
    insn.operand_count = 1;
    return insn;
}

static inline struct insn gpr_insn(unsigned opsize, unsigned gpr, unsigned size)
{
    struct insn insn = plain_insn(opsize);

    insn.op[0] = (struct insn_operand){.kind = OPERAND_GPR, .reg = (uint8_t)gpr, .size = (uint16_t)size};
    insn.operand_count = 1;
    return insn;
}

static inline struct insn imm_insn(unsigned opsize, uint64_t imm)
{
    struct insn insn = plain_insn(opsize);

    insn.op[0] = (struct insn_operand){.kind = OPERAND_IMM, .imm = imm};
    insn.operand_count = 1;
    return insn;
}
