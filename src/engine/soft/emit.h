/* The host instructions that translated code is made of, one function each. Only these know encodings. */
#pragma once

#include "base/types.h"
#include "engine/soft/ctx.h"
#include "x86/regs.h"

/* Host registers with a role while translated code runs (switch.S loads them). The rest hold the guest's of the same name. */
#define HOST_S1 GPR_R9  /* scratch: addresses */
#define HOST_S2 GPR_R10 /* scratch: addends, values */
#define HOST_SP GPR_R11 /* guest RSP */
#define HOST_CTX GPR_RSP

struct emit {
    uint8_t *rw;      /* where the next byte is written */
    uint8_t *end;     /* no byte at or past it */
    int64_t rx_delta; /* executable address = writable address + rx_delta */
    bool overflow;
};

static inline void emit8(struct emit *e, uint8_t byte)
{
    if (e->rw < e->end)
        *e->rw++ = byte;
    else
        e->overflow = true;
}

static inline void emit32(struct emit *e, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++)
        emit8(e, (uint8_t)(value >> (8 * i)));
}

static inline void emit_bytes(struct emit *e, const uint8_t *bytes, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        emit8(e, bytes[i]);
}

/* ModRM for [base + disp], with SIB and displacement as the base needs. */
static inline void emit_modrm_disp(struct emit *e, unsigned reg, unsigned base, int32_t disp)
{
    bool short_disp = disp >= -128 && disp <= 127;
    unsigned mod = disp == 0 && (base & 7) != 5 ? 0 : short_disp ? 1 : 2;

    emit8(e, (uint8_t)(mod << 6 | (reg & 7) << 3 | (base & 7)));
    if ((base & 7) == 4)
        emit8(e, 0x24);
    if (mod == 1)
        emit8(e, (uint8_t)disp);
    else if (mod == 2)
        emit32(e, (uint32_t)disp);
}

static inline void emit_rex(struct emit *e, bool wide, unsigned reg, unsigned index, unsigned base)
{
    uint8_t rex = (uint8_t)(0x40 | wide << 3 | (reg >> 3 & 1) << 2 | (index >> 3 & 1) << 1 | (base >> 3 & 1));

    if (rex != 0x40)
        emit8(e, rex);
}

/* op reg, [base + disp], 64 or 32 bits */
static inline void emit_op_mem(struct emit *e, uint8_t opcode, bool wide, unsigned reg, unsigned base, int32_t disp)
{
    emit_rex(e, wide, reg, 0, base);
    emit8(e, opcode);
    emit_modrm_disp(e, reg, base, disp);
}

/* op reg, [base + index * scale + disp] */
static inline void emit_op_sib(struct emit *e, uint8_t opcode, bool wide, unsigned reg, unsigned base, unsigned index, unsigned scale,
                               int32_t disp)
{
    bool short_disp = disp >= -128 && disp <= 127;
    unsigned mod = disp == 0 && (base & 7) != 5 ? 0 : short_disp ? 1 : 2;
    unsigned shift = scale == 8 ? 3 : scale == 4 ? 2 : scale == 2 ? 1 : 0;

    emit_rex(e, wide, reg, index, base);
    emit8(e, opcode);
    emit8(e, (uint8_t)(mod << 6 | (reg & 7) << 3 | 4));
    emit8(e, (uint8_t)(shift << 6 | (index & 7) << 3 | (base & 7)));
    if (mod == 1)
        emit8(e, (uint8_t)disp);
    else if (mod == 2)
        emit32(e, (uint32_t)disp);
}

/* op reg, [index * scale + disp32]: no base */
static inline void emit_op_index(struct emit *e, uint8_t opcode, bool wide, unsigned reg, unsigned index, unsigned scale, int32_t disp)
{
    unsigned shift = scale == 8 ? 3 : scale == 4 ? 2 : scale == 2 ? 1 : 0;

    emit_rex(e, wide, reg, index, 0);
    emit8(e, opcode);
    emit8(e, (uint8_t)((reg & 7) << 3 | 4));
    emit8(e, (uint8_t)(shift << 6 | (index & 7) << 3 | 5));
    emit32(e, (uint32_t)disp);
}

static inline void emit_op_reg(struct emit *e, uint8_t opcode, bool wide, unsigned reg, unsigned rm)
{
    emit_rex(e, wide, reg, 0, rm);
    emit8(e, opcode);
    emit8(e, (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7)));
}

#define OP_MOV_LOAD 0x8b
#define OP_MOV_STORE 0x89
#define OP_MOV_STORE8 0x88
#define OP_MOV_IMM 0xc7 /* /0, and 32 bits behind it */
#define OP_MOVSXD 0x63
#define OP_LEA 0x8d
#define OP_TEST 0x85
#define OP_XOR_LOAD 0x33
#define OP_ADD_LOAD 0x03
#define OP_CMP_LOAD 0x3b
#define OP_SUB_LOAD 0x2b
#define OP_XCHG 0x87
#define OP_GROUP5 0xff /* /4: JMP */

static inline void emit_load_ctx(struct emit *e, unsigned reg, int32_t disp)
{
    emit_op_mem(e, OP_MOV_LOAD, true, reg, HOST_CTX, disp);
}

static inline void emit_store_ctx(struct emit *e, unsigned reg, int32_t disp)
{
    emit_op_mem(e, OP_MOV_STORE, true, reg, HOST_CTX, disp);
}

static inline void emit_mov(struct emit *e, unsigned dst, unsigned src)
{
    if (dst != src)
        emit_op_reg(e, OP_MOV_LOAD, true, dst, src);
}

static inline void emit_lea(struct emit *e, unsigned dst, unsigned base, int32_t disp)
{
    if (disp == 0)
        emit_mov(e, dst, base);
    else
        emit_op_mem(e, OP_LEA, true, dst, base, disp);
}

/* lea dst, [a + b] */
static inline void emit_lea_sum(struct emit *e, unsigned dst, unsigned a, unsigned b)
{
    emit_op_sib(e, OP_LEA, true, dst, a, b, 1, 0);
}

/* mov dword [ctx + disp], imm32 */
static inline void emit_store_ctx_imm32(struct emit *e, int32_t disp, uint32_t imm)
{
    emit8(e, OP_MOV_IMM);
    emit_modrm_disp(e, 0, HOST_CTX, disp);
    emit32(e, imm);
}

/* /extension of opcode 81 */
#define EXT_OR 1
#define EXT_AND 4
#define EXT_SUB 5
#define EXT_CMP 7

/* op dword [ctx + disp], imm32 */
static inline void emit_ctx_imm32(struct emit *e, unsigned extension, int32_t disp, uint32_t imm)
{
    emit8(e, 0x81);
    emit_modrm_disp(e, extension, HOST_CTX, disp);
    emit32(e, imm);
}

/* op reg, simm32, 64 bits */
static inline void emit_op_imm32(struct emit *e, unsigned extension, unsigned reg, int32_t imm)
{
    emit_rex(e, true, 0, 0, reg);
    emit8(e, 0x81);
    emit8(e, (uint8_t)(0xc0 | extension << 3 | (reg & 7)));
    emit32(e, (uint32_t)imm);
}

/* test dword [ctx + disp], imm32 */
static inline void emit_test_ctx_imm32(struct emit *e, int32_t disp, uint32_t imm)
{
    emit8(e, 0xf7);
    emit_modrm_disp(e, 0, HOST_CTX, disp);
    emit32(e, imm);
}

/* cmp dword [ctx + disp], 0 */
static inline void emit_cmp_ctx_zero(struct emit *e, int32_t disp)
{
    emit8(e, 0x83);
    emit_modrm_disp(e, EXT_CMP, HOST_CTX, disp);
    emit8(e, 0);
}

/* cmp byte [ctx + disp], imm8 */
static inline void emit_cmp_ctx8(struct emit *e, int32_t disp, uint8_t imm)
{
    emit8(e, 0x80);
    emit_modrm_disp(e, EXT_CMP, HOST_CTX, disp);
    emit8(e, imm);
}

/* cmovcc dst, src, 64 bits */
static inline void emit_cmov(struct emit *e, unsigned cc, unsigned dst, unsigned src)
{
    emit_rex(e, true, dst, 0, src);
    emit8(e, 0x0f);
    emit8(e, (uint8_t)(0x40 | cc));
    emit8(e, (uint8_t)(0xc0 | (dst & 7) << 3 | (src & 7)));
}

/* rorx dst, src, imm8, 64 bits: flags stay */
static inline void emit_rorx(struct emit *e, unsigned dst, unsigned src, uint8_t count)
{
    emit8(e, 0xc4);
    emit8(e, (uint8_t)((dst & 8 ? 0 : 0x80) | 0x40 | (src & 8 ? 0 : 0x20) | 3));
    emit8(e, 0xfb);
    emit8(e, 0xf0);
    emit8(e, (uint8_t)(0xc0 | (dst & 7) << 3 | (src & 7)));
    emit8(e, count);
}

/* shr reg, imm8, 64 bits */
static inline void emit_shr(struct emit *e, unsigned reg, unsigned count)
{
    emit_rex(e, true, 0, 0, reg);
    emit8(e, 0xc1);
    emit8(e, (uint8_t)(0xe8 | (reg & 7)));
    emit8(e, (uint8_t)count);
}

/* sar reg, imm8, 64 bits */
static inline void emit_sar(struct emit *e, unsigned reg, unsigned count)
{
    emit_rex(e, true, 0, 0, reg);
    emit8(e, 0xc1);
    emit8(e, (uint8_t)(0xf8 | (reg & 7)));
    emit8(e, (uint8_t)count);
}

/* test reg, simm32, 64 bits */
static inline void emit_test_imm32(struct emit *e, unsigned reg, int32_t imm)
{
    emit_rex(e, true, 0, 0, reg);
    emit8(e, 0xf7);
    emit8(e, (uint8_t)(0xc0 | (reg & 7)));
    emit32(e, (uint32_t)imm);
}

/* mov reg, simm32 sign-extended to 64 bits */
static inline void emit_mov_simm32(struct emit *e, unsigned reg, int32_t imm)
{
    emit_rex(e, true, 0, 0, reg);
    emit8(e, OP_MOV_IMM);
    emit8(e, (uint8_t)(0xc0 | (reg & 7)));
    emit32(e, (uint32_t)imm);
}

/* bextr dst, src, HOST_CTX: the number of the page that src points into */
static inline void emit_page_number(struct emit *e, unsigned dst, unsigned src)
{
    emit8(e, 0xc4);
    emit8(e, (uint8_t)((dst & 8 ? 0 : 0x80) | 0x40 | (src & 8 ? 0 : 0x20) | 2));
    emit8(e, (uint8_t)(0x80 | (~HOST_CTX & 0xf) << 3));
    emit8(e, 0xf7);
    emit8(e, (uint8_t)(0xc0 | (dst & 7) << 3 | (src & 7)));
}

/* and reg, -PAGE_SIZE */
static inline void emit_and_page_start(struct emit *e, unsigned reg)
{
    emit_op_imm32(e, EXT_AND, reg, -(int32_t)PAGE_SIZE);
}

/* op reg, gs:[index * 8 + disp] */
static inline void emit_op_gs(struct emit *e, uint8_t opcode, unsigned reg, unsigned index, int32_t disp)
{
    emit8(e, 0x65);
    emit_op_index(e, opcode, true, reg, index, 8, disp);
}

/* The same with another scale. */
static inline void emit_gs_index(struct emit *e, uint8_t opcode, unsigned reg, unsigned index, unsigned scale, int32_t disp)
{
    emit8(e, 0x65);
    emit_op_index(e, opcode, true, reg, index, scale, disp);
}

/* mov qword gs:[index * scale + disp], simm32 with the value still open; returns where that stands. */
#define EMIT_GS_IMM32_AHEAD 9 /* so many bytes from the start on */
static inline uint8_t *emit_store_gs_imm32(struct emit *e, unsigned index, unsigned scale, int32_t disp)
{
    emit8(e, 0x65);
    emit_op_index(e, OP_MOV_IMM, true, 0, index, scale, disp);
    emit32(e, 0);
    return e->rw - 4;
}

/* Arithmetic flags as CTX_SAVE_FLAGS has them. */
static inline void emit_flags_to_rax(struct emit *e)
{
    static const uint8_t lahf_seto_al[] = {0x9f, 0x0f, 0x90, 0xc0};

    emit_bytes(e, lahf_seto_al, sizeof(lahf_seto_al));
}

/* Arithmetic flags to CTX_SAVE_FLAGS, by way of RAX, which keeps its value. */
static inline void emit_flags_save(struct emit *e, unsigned scratch)
{
    emit_mov(e, scratch, GPR_RAX);
    emit_flags_to_rax(e);
    emit_op_mem(e, OP_MOV_STORE, false, GPR_RAX, HOST_CTX, CTX_SAVE_FLAGS);
    emit_mov(e, GPR_RAX, scratch);
}

/* And back, where they are no recipe; no scratch register is lost. */
static inline void emit_flags_restore(struct emit *e)
{
    static const uint8_t add_al_7f_sahf[] = {0x04, 0x7f, 0x9e};

    emit_store_ctx(e, GPR_RAX, CTX_SAVE_RAX);
    emit_op_mem(e, OP_MOV_LOAD, false, GPR_RAX, HOST_CTX, CTX_SAVE_FLAGS);
    emit_bytes(e, add_al_7f_sahf, sizeof(add_al_7f_sahf));
    emit_load_ctx(e, GPR_RAX, CTX_SAVE_RAX);
}

/* test reg8, imm8 of the register's low byte */
static inline void emit_test_low(struct emit *e, unsigned reg, uint8_t imm)
{
    emit8(e, (uint8_t)(0x40 | (reg >> 3 & 1))); /* without REX, 4 to 7 are AH to BH */
    emit8(e, 0xf6);
    emit8(e, (uint8_t)(0xc0 | (reg & 7)));
    emit8(e, imm);
}

/* ZF: whether [reg, reg + size) lies in one page. Its first and last byte differ in bit 12 exactly when a boundary lies between them. */
static inline void emit_test_crossing(struct emit *e, unsigned reg, unsigned size, unsigned scratch)
{
    emit_lea(e, scratch, reg, (int32_t)size - 1);
    emit_op_reg(e, OP_XOR_LOAD, true, scratch, reg);
    emit_rex(e, false, 0, 0, scratch); /* test scratch, 1 << 12 */
    emit8(e, 0xf7);
    emit8(e, (uint8_t)(0xc0 | (scratch & 7)));
    emit32(e, 1U << 12);
}

#define CC_B 2
#define CC_Z 4
#define CC_NZ 5
#define CC_A 7

/* jmp rel32 or jcc rel32 with the target still open; returns where its rel32 stands. */
static inline uint8_t *emit_jmp(struct emit *e)
{
    emit8(e, 0xe9);
    emit32(e, 0);
    return e->rw - 4;
}

static inline uint8_t *emit_jcc(struct emit *e, unsigned cc)
{
    emit8(e, 0x0f);
    emit8(e, (uint8_t)(0x80 | cc));
    emit32(e, 0);
    return e->rw - 4;
}

/* Points a rel32 at a writable-side address of the same code memory. */
static inline void emit_patch(uint8_t *rel32, const uint8_t *target)
{
    int32_t rel = (int32_t)(target - (rel32 + 4));

    __atomic_store_n((int32_t *)(void *)rel32, rel, __ATOMIC_RELEASE);
}

static inline void emit_land(struct emit *e, uint8_t *rel32)
{
    if (!e->overflow)
        emit_patch(rel32, e->rw);
}

static inline void emit_land_at(uint8_t *rel32, const uint8_t *target, struct emit *e)
{
    if (!e->overflow)
        emit_patch(rel32, target);
}

/* call, to a writable-side address of the same code memory */
static inline void emit_call_to(struct emit *e, const uint8_t *target)
{
    emit8(e, 0xe8);
    emit32(e, (uint32_t)(target - (e->rw + 4)));
}

/* sub dword [ctx + disp], 1 */
static inline void emit_count_down(struct emit *e, int32_t disp)
{
    emit8(e, 0x83);
    emit_modrm_disp(e, EXT_SUB, HOST_CTX, disp);
    emit8(e, 1);
}

/* jcc rel8 with the target still open; returns where its rel8 stands. */
static inline uint8_t *emit_short_jcc(struct emit *e, unsigned cc)
{
    emit8(e, (uint8_t)(0x70 | cc));
    emit8(e, 0);
    return e->rw - 1;
}

static inline void emit_land_short(struct emit *e, uint8_t *rel8)
{
    if (!e->overflow)
        *rel8 = (uint8_t)(e->rw - (rel8 + 1));
}

/* pop [ctx + disp], where a call has just pushed. */
static inline void emit_pop_ctx(struct emit *e, int32_t disp)
{
    emit8(e, 0x8f);
    emit_modrm_disp(e, 0, HOST_CTX, disp);
}

/* One instruction of up to 7 bytes that does nothing. */
static inline void emit_nop(struct emit *e, unsigned n)
{
    static const uint8_t nops[8][7] = {{0},
                                       {0x90},
                                       {0x66, 0x90},
                                       {0x0f, 0x1f, 0x00},
                                       {0x0f, 0x1f, 0x40, 0x00},
                                       {0x0f, 0x1f, 0x44, 0x00, 0x00},
                                       {0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00},
                                       {0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00}};

    emit_bytes(e, nops[n & 7], n & 7);
}

/* cmp dword gs:[index * 4], imm32; returns where the immediate stands, of which an aligned store is whole. */
static inline uint8_t *emit_cmp_gs_imm32(struct emit *e, unsigned index, uint32_t imm)
{
    emit_nop(e, -((uintptr_t)e->rw + 9) & 3);
    emit8(e, 0x65);
    emit8(e, (uint8_t)(0x40 | (index >> 3 & 1) << 1));
    emit8(e, 0x81);
    emit8(e, EXT_CMP << 3 | 4);
    emit8(e, (uint8_t)(2 << 6 | (index & 7) << 3 | 5));
    emit32(e, 0);
    emit32(e, imm);
    return e->rw - 4;
}

static inline void emit_store32(uint8_t *at, uint32_t value)
{
    __atomic_store_n((uint32_t *)(void *)at, value, __ATOMIC_RELEASE);
}

/* jmp rel32 over the first bytes of an instruction, in one store: emit_align_jmp() was called before that was emitted. */
static inline void emit_patch_jmp(uint8_t *at, const uint8_t *target)
{
    uint64_t *word = (uint64_t *)(void *)((uintptr_t)at & ~(uintptr_t)7);
    unsigned shift = ((uintptr_t)at & 7) * 8;
    uint64_t jmp = 0xe9 | (uint64_t)(uint32_t)(target - (at + 5)) << 8;

    __atomic_store_n(word, (*word & ~(0xffffffffffULL << shift)) | jmp << shift, __ATOMIC_RELEASE);
}

/* Pads so that the five bytes from here on lie within eight aligned ones. */
static inline void emit_align_jmp(struct emit *e)
{
    unsigned at = (uintptr_t)e->rw & 7;

    emit_nop(e, at > 3 ? 8 - at : 0);
}

/* Pads so that a rel32 that starts `ahead` bytes from here lies within eight aligned bytes and can be patched in one store. */
static inline void emit_align_site(struct emit *e, unsigned ahead)
{
    unsigned at = ((uintptr_t)e->rw + ahead) & 7;

    emit_nop(e, at > 4 ? 8 - at : 0);
}
