/* Translation of one guest block: decoded instructions, what they need of the flags, and the host code being made. */
#pragma once

#include "engine/soft/cache.h"
#include "engine/soft/emit.h"

#define TRANS_MAX_COLD (CACHE_BLOCK_INSNS * 4 + 12) /* four an instruction, and more for the last and the entries */

enum trans_cold_kind {
    COLD_MISS,     /* a shadow lookup found nothing */
    COLD_EXIT,     /* leaves for what exit says */
    COLD_UNSHARED, /* goes on at guest_off in a block that shares no lookups */
    COLD_MIXED,    /* the same, but where there is none yet, a fill may help: a mixed group's lookup found nothing */
    COLD_FAR,      /* goes on at guest_off, out of the page, where nobody wants attention */
    COLD_DISPATCH, /* goes on at the address in HOST_S1: flags are handed over already; leaves as COLD_NEXT does */
    COLD_NEXT,     /* leaves for the address in HOST_S1, which the jump cache does not have */
    COLD_CALL,     /* leaves for an indirect call's target in HOST_S1, which the jump cache does not have */
    COLD_STACK,    /* the stack is not in the page where it was last */
    COLD_RECIPE,   /* CTX_SAVE_FLAGS has a recipe where flags are wanted */
    COLD_STALE,    /* the block is not what is mapped at the address in HOST_S1 */
};

/* Code out of the way of the rest. */
struct trans_cold {
    enum trans_cold_kind kind;
    uint8_t *sites[3]; /* rel32s of the branches that come here */
    unsigned site_count;
    bool flags_saved; /* as in struct trans */
    int32_t guest_off;
    enum code_exit exit;
    uint8_t at;          /* the instruction */
    const uint8_t *back; /* of COLD_STACK and COLD_RECIPE: where its code goes on */
    uint32_t jump;       /* of COLD_NEXT: CODE_EXIT_NEXT's operand */
    /* Of a miss: */
    unsigned gva_reg; /* holds the address */
    unsigned size;    /* bytes of the access */
    bool write;
    const uint8_t *restart; /* writable address of the instruction's first byte; of COLD_CALL, too */
    uint8_t *unaligned;     /* rel32 of the branch for an address that may cross a page; NULL: none */
    uint8_t *aligned;       /* where it goes on when it does not */
};

#define TRANS_NO_GROUP UINT8_MAX

/* Accesses that share a lookup: translate_share.c. */
struct trans_group {
    uint8_t base;         /* a guest register with a home */
    uint8_t index, scale; /* and another one, or REG_NONE */
    bool write;           /* into the write table, which serves reads too */
    bool mixed;           /* the leader only reads */
    bool certain;         /* whoever comes by the leader comes here */
    bool open;            /* more may follow */
    bool stored;          /* CTX_ADDEND(slot) has the addend for those that find it gone from HOST_S2 */
    uint8_t slot;
    uint8_t leader; /* instruction */
    unsigned followers;
    int32_t base_at; /* what base has moved by since the leader */
    int64_t at;      /* and the address, index included */
    int64_t lo, hi;  /* all lie within [base + lo, base + hi) as base was at the leader */
};

struct trans {
    struct soft_cpu *cpu;
    struct soft_cache *cache;
    struct block *block;
    struct emit e;
    struct emit cold_e; /* the same for the block's cold part */
    uint32_t mode;
    const uint8_t *page; /* guest bytes */

    struct insn insn[CACHE_BLOCK_INSNS];
    uint16_t off[CACHE_BLOCK_INSNS + 1]; /* guest offsets in the page; the last is where the block ends */
    uint16_t live[CACHE_BLOCK_INSNS];    /* arithmetic flags that must survive up to the instruction's own commit */
    struct trans_group group[CACHE_BLOCK_INSNS];
    int32_t base_at[CACHE_BLOCK_INSNS];   /* of a member: its group's */
    uint8_t member_of[CACHE_BLOCK_INSNS]; /* an instruction's group, or TRANS_NO_GROUP */
    /* The guest register whose value HOST_S1 or HOST_S2 has, or REG_NONE. Not for an instruction that may leave and begin once more. */
    uint8_t held[2];
    bool tracked;      /* held[] was kept up to date by what has just been emitted */
    uint8_t addend_of; /* the group whose addend is in HOST_S2 here, or TRANS_NO_GROUP */
    unsigned count;
    unsigned decoded; /* instructions of it that are not a loop's once more */

    unsigned at;          /* the instruction being emitted */
    uint8_t *insn_start;  /* its first host byte */
    bool flags_saved;     /* here the arithmetic flags are in CTX_SAVE_FLAGS, and the host's are anything */
    bool saved_as_recipe; /* or a recipe for them may be */
    bool starts_saved;    /* so it is at the block's first instruction */
    /* Arithmetic flags that links hand over: behind the block's end, and where a conditional branch is taken. */
    uint16_t wanted_behind, wanted_there[CACHE_BLOCK_INSNS];
    struct trans_cold cold[TRANS_MAX_COLD];
    unsigned cold_count;
    bool ended;      /* the last emitted instruction leaves the block */
    int32_t sp_late; /* guest RSP less HOST_SP: translate_stack.c */
};

/* Where code is in guest memory. */
struct code_place {
    gpa_t gpa;
    const uint8_t *hva;
    gpa_t next_gpa;          /* of the page behind that in linear memory, for instructions that may run on into it; else GPA_INVALID */
    const uint8_t *next_hva; /* its first byte */
    bool linked;             /* the guest came by a near link, and so may not come by other jumps */
};

/*
 * The block at a place, translated if it is not in the cache; NULL where others write to the page all the time, so that
 * only step comes on. Parks the vectors where it has to translate, and may go outside then: nothing between two instructions but rip counts.
 */
struct block *translate_find(struct soft_cpu *, const struct code_place *, uint32_t mode);

/* The guest offset behind an instruction. */
static inline unsigned trans_end(const struct trans *t, unsigned i)
{
    return t->off[i] + t->insn[i].len;
}

/* The instruction behind STI: nothing may come between the two. */
static inline bool trans_is_behind_sti(const struct trans *t, unsigned i)
{
    return i > 0 && t->insn[i - 1].mnemonic == ZYDIS_MNEMONIC_STI;
}

/* Whether the block goes on where a branch leads, and not behind it: a loop's, which is there several times. */
static inline bool trans_goes_round(const struct trans *t, unsigned i)
{
    return i + 1 < t->count && t->off[i + 1] != trans_end(t, i);
}

/* Whether the instruction is a jump to where the block goes on. */
static inline bool trans_is_followed(const struct trans *t, unsigned i)
{
    return i + 1 < t->count && t->insn[i].mnemonic == ZYDIS_MNEMONIC_JMP;
}

/* --- 32-bit code (BLOCK_CODE32): addresses are 32 bits, computed anew for every access, since a register's upper half may hold anything --- */

static inline bool trans_is_wide(const struct trans *t) /* 64-bit code */
{
    return !(t->mode & BLOCK_CODE32);
}

/* Bytes of an address, and of what PUSH, POP, CALL and RET move. */
static inline unsigned trans_word(const struct trans *t)
{
    return trans_is_wide(t) ? 8 : 4;
}

/* dst = base + disp as an address */
static inline void trans_lea(struct trans *t, unsigned dst, unsigned base, int32_t disp)
{
    if (trans_is_wide(t))
        emit_lea(&t->e, dst, base, disp);
    else
        emit_op_mem(&t->e, OP_LEA, false, dst, base, disp);
}

/* --- arithmetic flags: translate_flags.c --- */

/* Fills live[], wanted_behind and starts_saved of the decoded block, to which the guest came by a near link or not. */
void trans_flags_find(struct trans *, bool linked);
/* Whether the instruction reads or writes any. */
bool trans_flags_touched(const struct insn *);
/* Code follows that destroys the host's flags: the guest's are kept if they are wanted. HOST_S2 is lost. */
void trans_flags_keep(struct trans *);
/* The host's flags are the guest's from here on. No scratch register is lost. */
void trans_flags_use(struct trans *);
/* The same where they are what a jump has handed over. */
void trans_flags_fetch(struct trans *);

/* --- parts of the translator; each returns false where the instruction is left to step --- */

/* Home of a guest register on the host, or REG_NONE for R9, R10 and R11, which live in the context. */
unsigned trans_home(unsigned gpr);
/* The register's value in a host register: its home, or scratch loaded from the context. */
unsigned trans_value(struct trans *, unsigned gpr, unsigned scratch);

/* The scratch registers have been used for something else. */
static inline void trans_forget(struct trans *t)
{
    t->held[0] = t->held[1] = REG_NONE;
}

/* The linear address of the explicit memory operand; returns the register that holds it (HOST_S1 or a home). REG_NONE: not possible. */
unsigned trans_address(struct trans *);
/* Shadow lookup of [gva_reg, size): afterwards gva_reg + HOST_S2 is the host address. gva_reg is never HOST_S2. Keeps the flags. */
void trans_lookup(struct trans *, unsigned gva_reg, unsigned size, bool write);

/* The same of an address that is aligned: only whether the page has an entry. */
void trans_lookup_entry(struct trans *, unsigned gva_reg, unsigned size, bool write);
/* The same with cold code of the caller's for a page that has none. The flags are lost. */
void trans_find_entry(struct trans *, struct trans_cold *, unsigned gva_reg, bool write);

/* --- shared lookups: translate_share.c --- */

/* Fills member_of[] and its groups of the decoded block. */
void trans_share_find(struct trans *);
/* COLD_STACK's code. */
void trans_share_cold(struct trans *, const struct trans_cold *);
/* The first address of the group that begins at instruction number i, into HOST_S1, before that instruction. */
void trans_share_address(struct trans *, unsigned i);
/* What HOST_S2 has behind an instruction, of the code that was emitted for it. */
void trans_share_emitted(struct trans *, unsigned i);
/*
 * If the running instruction's access at a constant from a home is one of several that share a lookup: HOST_S2 and that register is the host's
 * address for what the register is for the guest's, and HOST_S1 is free. Else false, and nothing is emitted.
 */
bool trans_shared(struct trans *);

/*
 * The same of a call or return whose access shares nothing, and which is in the page where the stack was last: HOST_S2 is its offset there, a
 * multiple of 8, as the return cache is indexed by. A return's HOST_S1 is the addend; a call's is in the context, at trans_stack_addend().
 */
bool trans_alone_on_stack(struct trans *);
int32_t trans_stack_addend(const struct trans *);

/* The address in a home: that register itself, or in 32-bit code its lower half in HOST_S1. */
unsigned trans_pointer(struct trans *, unsigned home);

/* Conditional branches that are translated: a block goes on behind most. */
bool trans_is_conditional(const struct insn *);
/* PUSH, POP and LEAVE in forms that are translated: they neither end a block nor touch flags. */
bool trans_is_plain_stack(const struct insn *);
/*
 * Sensitive instructions that the state of the mode and a few fields of the context decide: interrupt and direction flag, PUSHF and POPF,
 * SWAPGS, the TSC. In this mode they do not end a block.
 */
bool trans_is_system(uint32_t mode, const struct insn *);
/* REP MOVS and REP STOS in forms that are translated: they neither end a block nor touch flags. */
bool trans_is_string(uint32_t mode, const struct insn *);
bool trans_system(struct trans *);
bool trans_string(struct trans *);
/* After a fault within a run (struct block_mark.string): makes RCX, RSI and RDI what they are between two runs. */
void trans_string_faulted(struct soft_cpu *);
bool trans_innocuous(struct trans *);
bool trans_stack(struct trans *);
bool trans_control(struct trans *);
/* On through a jump cache to the address in HOST_S1, with the code that its entry has. The branch for where it has none. */
uint8_t *trans_jump(struct trans *, uint32_t mode);

/* --- what a block is made of: translate_decode.c --- */

/* Fills insn[], off[], count and decoded, and of the block next_gpa and vectors. */
void trans_decode(struct trans *, const struct code_place *);
/* Whether the instruction at a guest offset of this page runs on into the next one. */
bool trans_runs_on(const struct trans *, int64_t guest_off);

/* --- ways out of a block: translate_leave.c --- */

/* Whether a jump to a guest offset is a link, which is one to this page, but for what depends on the next one's mapping too. */
bool trans_is_linked(const struct trans *, int64_t guest_off);
/* Ends the block: goes on at a guest offset from this page's start. polled: whoever comes here has looked for attention in this block. */
void trans_goto(struct trans *, int64_t guest_off, bool polled);
/* A branch to the guest offset, whose site is whole in eight aligned bytes. */
struct block_link *trans_link(struct trans *, uint8_t *site, enum link_kind, int64_t guest_off, uint16_t flags);
/* Ends the block by leaving for step at the running instruction. */
void trans_step_exit(struct trans *);
/* New cold code at the running instruction. */
struct trans_cold *trans_cold(struct trans *, enum trans_cold_kind);
/* The rel32 of a branch to the cold code. */
void trans_cold_from(struct trans_cold *, uint8_t *site);
/* Leaves for step before the running instruction from a branch that the caller emits next. */
struct trans_cold *trans_cold_step(struct trans *);
/* Leaves for attention before the running instruction, where that is wanted. The flags are lost. */
void trans_poll(struct trans *);
/* The same from cold code, of which it makes no other. */
void trans_poll_cold(struct trans *);
/* The same before the block's first instruction, with the flags kept that are wanted there. */
void trans_poll_at_entry(struct trans *);
/* When all else is emitted: the cold code, and what links lead to that have no target. */
void trans_emit_cold(struct trans *);
void trans_emit_link_exits(struct trans *);

/* --- the stack pointer, which moves once for several instructions: translate_stack.c --- */

/* Whether the instruction can do with a stack pointer that is late. */
bool trans_bears_late_sp(const struct trans *, unsigned i);
/* HOST_SP is the guest's RSP from here on. */
void trans_settle_sp(struct trans *);
/* If the running instruction adds to RSP and nobody wants its flags: true, and nothing is emitted. */
bool trans_moves_sp(struct trans *);
/* A pop's: the host address of the stack's top is HOST_S2 and the register that it returns, HOST_SP or HOST_S1. */
unsigned trans_top_lookup(struct trans *);
/* A push's lookup and address: HOST_S1 + HOST_S2 is where the value goes; trans_push_done() then moves the stack pointer. */
void trans_push_lookup(struct trans *);
void trans_push_done(struct trans *);
