/* The instruction record: what decoding makes of guest bytes, for step, sys and translate alike. */
#pragma once

#include <Zydis/Zydis.h>

#include "x86/regs.h"

struct soft_cpu;

#define INSN_MAX_LEN 15
#define INSN_MAX_OPERANDS 5

/* Popek and Goldberg's distinction, and what a translator has to know beyond it. */
enum insn_class {
    INSN_INVALID,   /* #UD: not an instruction, or of a feature that the CPU model does not offer */
    INSN_INNOCUOUS, /* runs natively on guest registers, its memory operand redirected */
    INSN_CONTROL,   /* near control flow: jmp, jcc, call, ret, loop */
    INSN_STACK,     /* push, pop, leave, enter, pusha, popa */
    INSN_STRING,    /* movs, stos, lods, cmps, scas, with and without rep */
    INSN_SENSITIVE, /* carried out in C by a sys_ function */
};

/* Where the encoding names a general register, for rewriting. */
struct insn_field {
    uint8_t gpr;  /* guest register or REG_NONE */
    uint8_t size; /* bytes */
    bool read, written;
};

/* What must hold before the instruction may run; checked in this order by step (SDM vol. 3 table 2-2 to 2-4). */
enum insn_unit { UNIT_GPR, UNIT_X87, UNIT_MMX, UNIT_SSE, UNIT_AVX, UNIT_AVX512 };

enum operand_kind {
    OPERAND_NONE,
    OPERAND_GPR,
    OPERAND_SEG,
    OPERAND_CR,
    OPERAND_DR,
    OPERAND_VECTOR,
    OPERAND_OTHER,
    OPERAND_MEM,
    OPERAND_IMM,
    OPERAND_REL,
    OPERAND_FAR
};

struct insn_operand {
    uint8_t kind; /* enum operand_kind */
    uint8_t reg;  /* number; for 8-bit AH..BH: 4..7 with high set */
    bool high;    /* AH, CH, DH, BH */
    bool read, written;
    uint16_t size;    /* bytes */
    uint64_t imm;     /* OPERAND_IMM (sign-extended where the encoding does), OPERAND_REL (displacement), OPERAND_FAR (offset) */
    uint16_t far_sel; /* OPERAND_FAR */
};

#define REG_NONE 0xff

struct insn_mem {
    uint8_t seg;   /* effective segment after overrides and defaults */
    uint8_t base;  /* enum gpr or REG_NONE */
    uint8_t index; /* enum gpr, vector number when vsib, or REG_NONE */
    uint8_t scale; /* 1, 2, 4, 8 */
    bool rip_relative;
    bool vsib;
    int64_t disp;
};

struct insn {
    uint8_t bytes[INSN_MAX_LEN];
    uint8_t len;
    uint8_t cls;           /* enum insn_class */
    uint8_t unit;          /* enum insn_unit */
    uint8_t mode_bits;     /* 16, 32, 64: the code segment it was decoded for */
    uint8_t opsize;        /* effective operand size: 1?, 2, 4, 8 bytes (2, 4, 8 where the opcode has no byte form) */
    uint8_t addrsize;      /* effective address size: 2, 4, 8 */
    bool lock, rep, repne; /* rep = F3, repne = F2, as prefixes with that meaning (not mandatory ones) */
    bool has_mem;          /* mem is an explicit memory operand (not the implicit ones of string and stack instructions) */
    bool masked_mem;       /* lanes may be suppressed: EVEX mask, vmaskmov, gather, scatter, maskmovdqu */
    uint8_t operand_count; /* explicit operands, in encoding order (Intel syntax) */
    uint16_t mnemonic;     /* ZydisMnemonic */
    struct insn_operand op[INSN_MAX_OPERANDS];
    struct insn_mem mem;
    bool implicit_mem; /* accesses memory that no operand of the encoding names */
    bool nop;          /* a hint or reserved NOP: nothing happens, its operand is not accessed */
    bool too_long;     /* more than 15 bytes: #GP, not #UD */
    bool compressed;   /* EVEX compress/expand: the active lanes lie side by side in memory */
    uint8_t broadcast; /* the memory operand's elements serve this many lanes, over and over; else 0 */
    uint8_t mask_reg;  /* opmask of masked_mem: 1..7 */
    uint8_t mem_elem;  /* bytes of one element of the memory operand */
    uint16_t mem_size; /* bytes accessed at mem */
    bool mem_read, mem_written;
    uint16_t cpuflags_read;    /* arithmetic flags (FLAG_ARITH bits) */
    uint16_t cpuflags_written; /* includes undefined ones */
    uint16_t cpuflags_undefined;

    /* The encoding, for rewriting: offsets into bytes. */
    uint8_t encoding;                    /* ZydisInstructionEncoding: legacy, 3DNOW, XOP, VEX, EVEX */
    uint8_t vex_off, modrm_off, imm_off; /* 0xff where absent */
    uint8_t imm_len;
    uint8_t rex;        /* the REX byte, 0 where absent */
    uint8_t prefix;     /* mandatory prefix or REP/REPNE to copy: 0xf2, 0xf3 or 0 */
    bool prefix66;      /* 0x66 in 64-bit form: mandatory, or for 16-bit operands */
    uint8_t opcode;     /* the last opcode byte */
    uint8_t opcode_map; /* 0 = one byte, 1 = 0F, 2 = 0F38, 3 = 0F3A */
    uint8_t modrm;
    bool high_byte;                       /* AH, CH, DH or BH is an operand: no REX possible */
    struct insn_field reg, rm, vvvv, opc; /* GPRs in ModRM.reg, ModRM.rm, VEX.vvvv and the opcode's low bits */
    uint16_t gprs_written;                /* as gprs_used */
    uint16_t gprs_used;                   /* bit n: GPR n is an operand, explicit or implicit (not as a part of an address) */
    int (*exec)(struct soft_cpu *, const struct insn *); /* classes other than INNOCUOUS; NULL = not carried out */
};

struct soft_vm;

/*
 * Decodes the instruction in bytes[0..avail) for a code segment of 16, 32 or 64 bits. Returns 0; -EAGAIN when avail is
 * too short; otherwise insn->cls may be INSN_INVALID. Calls Zydis: vectors must be parked.
 */
int insn_decode(const struct soft_vm *, struct insn *, const uint8_t *bytes, unsigned avail, unsigned mode_bits);

/* Where a rewritten instruction finds its operands on the host. */
struct insn_rewrite {
    uint8_t map[GPR_COUNT]; /* guest GPR -> host GPR, for explicit operands */
    uint8_t mem_base;       /* the memory operand becomes [mem_base + mem_index * mem_scale + mem_disp] */
    uint8_t mem_index;      /* or REG_NONE */
    uint8_t mem_scale;
    int32_t mem_disp;
    bool rm_in_memory; /* ModRM.rm, which names a register that is only read, becomes [mem_base + mem_disp] */
};

#define INSN_REWRITE_MAX 20

/* The same operation in 64-bit encoding on other registers. Returns the length, or -1 where no encoding exists. */
int insn_rewrite(const struct insn *, const struct insn_rewrite *, uint8_t out[INSN_REWRITE_MAX]);
