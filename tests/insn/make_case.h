/* Makes a whole case from the seed and its number: an instruction, registers, vectors and the memory that it meets. */
#pragma once

#include "aim.h"
#include "engine/soft/insn_table.h"

/* The arena as the host has it and as the guest's memory has it, always written together. */
struct memory {
    uint8_t *guest;
    uint8_t pristine[ARENA_PAGES * PAGE_SIZE];
};

static inline enum page_kind page_at(uint64_t at)
{
    return at - ARENA < ARENA_PAGES * PAGE_SIZE ? (enum page_kind)arena_page[(at - ARENA) / PAGE_SIZE] : PAGE_ABSENT;
}

static inline void memory_put(struct memory *m, uint64_t at, const void *from, unsigned n)
{
    const uint8_t *bytes = from;

    for (unsigned i = 0; i < n; i++) {
        uint64_t off = at + i - ARENA;
        if (page_at(at + i) != PAGE_RW && page_at(at + i) != PAGE_CODE)
            continue;
        *(uint8_t *)(ARENA + off) = bytes[i];
        m->guest[off] = bytes[i];
    }
}

/* What other tests look at, or what differs by nature between this process and a guest. */
static inline bool case_is_sensitive(const struct insn_case *c)
{
    switch (c->z.mnemonic) {
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
    case ZYDIS_MNEMONIC_RDPID:
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_SYSEXIT:
    case ZYDIS_MNEMONIC_INT:
    case ZYDIS_MNEMONIC_INT1:
    case ZYDIS_MNEMONIC_INT3:
    case ZYDIS_MNEMONIC_INTO:
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_SMSW:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_VMCALL:
    case ZYDIS_MNEMONIC_VMMCALL:
    case ZYDIS_MNEMONIC_RDFSBASE:
    case ZYDIS_MNEMONIC_RDGSBASE:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE:
    case ZYDIS_MNEMONIC_IN:
    case ZYDIS_MNEMONIC_OUT:
    case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_INSW:
    case ZYDIS_MNEMONIC_INSD:
    case ZYDIS_MNEMONIC_OUTSB:
    case ZYDIS_MNEMONIC_OUTSW:
    case ZYDIS_MNEMONIC_OUTSD: return true;
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_POP:
        return c->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(c->op[0].reg.value) == ZYDIS_REGCLASS_SEGMENT;
    default: return c->z.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
    }
}

static inline bool is_branch(const struct insn_case *c)
{
    return c->z.meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR || c->z.meta.branch_type == ZYDIS_BRANCH_TYPE_SHORT ||
           c->z.mnemonic == ZYDIS_MNEMONIC_RET;
}

/* Where CPUs do as they please. */
static inline bool is_undefined(const struct insn_case *c)
{
    bool size = false, rep = false;

    for (unsigned i = 0; i < c->z.raw.prefix_count; i++) {
        size |= c->z.raw.prefixes[i].value == 0x66;
        rep |= c->z.raw.prefixes[i].value == 0xf2 || c->z.raw.prefixes[i].value == 0xf3;
    }
    switch (c->z.mnemonic) {
    case ZYDIS_MNEMONIC_LOOPE:
    case ZYDIS_MNEMONIC_LOOPNE:
        if (rep)
            return true; /* a repeat prefix replaces the condition on some */
        break;
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1: return true; /* whether they have a ModRM */
    case ZYDIS_MNEMONIC_CLZERO: return size || rep;
    case ZYDIS_MNEMONIC_ENTER: return (c->in.rflags & FLAG_AC) != 0;                 /* which of its accesses is checked first */
    case ZYDIS_MNEMONIC_PAUSE: return (c->z.attributes & ZYDIS_ATTRIB_HAS_REX) != 0; /* some exchange R8 and RAX */
    case ZYDIS_MNEMONIC_NOP: return c->z.opcode == 0x0d && c->z.opcode_map == ZYDIS_OPCODE_MAP_0F; /* #UD on AMD's */
    default: break;
    }
    for (unsigned i = 0; i < c->z.operand_count && (c->in.rflags & FLAG_AC); i++) /* whether alignment is checked, and where first */
        if (c->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && (c->z.meta.category == ZYDIS_CATEGORY_STRINGOP || c->op[i].size > 64) &&
            c->z.meta.isa_ext != ZYDIS_ISA_EXT_X87)
            return true;
    return is_branch(c) && c->code.bits == 64 && size; /* vendors disagree on its length, and the model follows Intel */
}

/* Somewhere in the code pages, which hold INT3 but for the case's own bytes, or where nothing can be fetched. */
static inline uint64_t branch_target(struct insn_case *c)
{
    uint64_t at;

    if (rng_one_in(&c->rng, 8))
        return ARENA + PICK(&c->rng, 0, 3, 5, 10) * PAGE_SIZE + rng_below(&c->rng, PAGE_SIZE);
    do
        at = ARENA + CODE_FIRST * PAGE_SIZE + rng_below(&c->rng, CODE_PAGES * PAGE_SIZE);
    while (at + 40 > c->in.rip && at < c->in.rip + 40);
    return at;
}

static inline void fill_operands(struct insn_case *c, struct memory *m)
{
    uint8_t v[2 * VECTOR_BYTES];

    for (unsigned i = 0; i < c->z.operand_count; i++) {
        if (c->op[i].type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        random_vector(&c->rng, v);
        random_vector(&c->rng, v + VECTOR_BYTES);
        memory_put(m, linear_of(c, &c->op[i]), v, sizeof(v));
    }
}

/* Branches go where they can be followed; RFLAGS and XSAVE's component bits are values that the process may load. */
static inline bool tame(struct insn_case *c, struct memory *m)
{
    uint64_t value;

    if (c->z.mnemonic == ZYDIS_MNEMONIC_POPF || c->z.mnemonic == ZYDIS_MNEMONIC_POPFQ || c->z.mnemonic == ZYDIS_MNEMONIC_POPFD) {
        value = rng_next(&c->rng) & ~(FLAG_TF | FLAG_AC | FLAG_NT); /* hosts may drop NT on an interrupt */
        for (unsigned i = 0; i < 8; i++)                            /* what the stack cannot be given, it has already */
            if (page_at(c->in.gpr[GPR_RSP] + i) == PAGE_RO)
                return false;
        memory_put(m, c->in.gpr[GPR_RSP], &value, 8);
    }
    if (c->z.meta.category == ZYDIS_CATEGORY_XSAVE || c->z.meta.category == ZYDIS_CATEGORY_XSAVEOPT)
        c->in.gpr[GPR_RDX] = 0, c->in.gpr[GPR_RAX] &= 0xff;
    if (!is_branch(c))
        return true;
    value = branch_target(c);
    if (c->z.mnemonic == ZYDIS_MNEMONIC_RET) {
        memory_put(m, c->in.gpr[GPR_RSP], &value, 8);
        return true;
    }
    switch (c->op[0].type) {
    case ZYDIS_OPERAND_TYPE_REGISTER: {
        int gpr = gpr_of(c->op[0].reg.value);
        if (gpr == GPR_RSP)
            return false;
        c->in.gpr[gpr] = value;
        return true;
    }
    case ZYDIS_OPERAND_TYPE_MEMORY: {
        uint64_t at = linear_of(c, &c->op[0]);
        uint64_t stack = c->in.gpr[GPR_RSP];
        if (at + 32 > stack && at < stack + 32)
            return false;
        for (unsigned b = 0; b < 8; b++) /* a target in memory that cannot be written is not ours to choose */
            if (page_at(at + b) == PAGE_RO)
                return false;
        memory_put(m, at, &value, 8);
        return true;
    }
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        value = c->in.rip + c->z.length + (uint64_t)c->op[0].imm.value.s;
        if (value == c->in.rip + c->z.length)
            return true;
        if (value + 40 > c->in.rip && value < c->in.rip + 40)
            return false;
        return value > ARENA - MIB(1) && value < ARENA + MIB(64);
    default: return false;
    }
}

static inline uint64_t random_rip(struct rng *r)
{
    uint64_t page = ARENA + CODE_FIRST * PAGE_SIZE;

    if (rng_one_in(r, 10))
        return page + PAGE_SIZE - 1 - rng_below(r, 14);
    if (rng_one_in(r, 60))
        return page + CODE_PAGES * PAGE_SIZE - 1 - rng_below(r, 14);
    return page + 64 + rng_below(r, CODE_PAGES * PAGE_SIZE - 192);
}

/* Relative branches end up near. */
static inline void shorten_branch(struct insn_case *c)
{
    if (c->decoded && is_branch(c) && c->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && c->z.raw.imm[0].size == 32) {
        int32_t rel = (int32_t)(branch_target(c) - c->in.rip - c->z.length);
        memcpy(c->code.bytes + c->z.raw.imm[0].offset, &rel, 4);
        c->decoded = decode_again(c);
    }
}

/* Of the segment that an instruction's prefixes name, for memory operands that the decoder does not list. */
static inline uint64_t override_base(const struct insn_case *c)
{
    uint64_t base = 0;

    for (unsigned i = 0; i < c->z.raw.prefix_count; i++) {
        if (c->z.raw.prefixes[i].value == 0x64)
            base = c->fs_base;
        else if (c->z.raw.prefixes[i].value == 0x65)
            base = c->gs_base;
    }
    return base;
}

/* False: try another. */
static inline bool try_case(struct insn_case *c, struct memory *m, const struct soft_vm *svm)
{
    c->source = random_code(&c->rng, &c->code, 64);
    c->decoded = decode_again(c);
    c->in.rip = random_rip(&c->rng);
    if (!c->decoded && !rng_one_in(&c->rng, 20))
        return false;
    random_registers(&c->rng, &c->in);
    if (!c->decoded || !(insn_offered(svm, &c->z) || insn_is_hint(&c->z))) {
        for (unsigned i = 0; i < GPR_COUNT; i++)
            c->in.gpr[i] = random_target(&c->rng, 64);
        return c->decoded ? rng_one_in(&c->rng, 8) : true;
    }
    if (case_is_sensitive(c))
        return false;
    if (is_undefined(c) || (c->z.avx.mask.reg > ZYDIS_REGISTER_K0 && (c->in.rflags & FLAG_AC)))
        return false;
    shorten_branch(c);
    if (!c->decoded)
        return false;
    random_image(&c->rng, svm->cpuid, c->in.image);
    aim(c, svm->cpuid);
    if (c->z.mnemonic == ZYDIS_MNEMONIC_CLZERO)
        c->in.gpr[GPR_RAX] = random_target(&c->rng, 64) - override_base(c);
    if (!c->decoded || !aimed(c))
        return false;
    fill_operands(c, m);
    return tame(c, m) && aimed(c);
}

static inline void make_case(struct insn_case *c, uint64_t seed, uint64_t number, struct memory *m, const struct soft_vm *svm,
                             uint64_t fs_base, uint64_t gs_base)
{
    *c = (struct insn_case){.seed = seed, .number = number, .fs_base = fs_base, .gs_base = gs_base};
    rng_start(&c->rng, seed, number);
    random_image(&c->rng, svm->cpuid, c->in.image);
    while (!try_case(c, m, svm))
        ;
}
