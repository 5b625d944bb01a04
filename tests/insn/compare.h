/* Compares two outcomes of one case, less what the architecture leaves open, and says where they differ. */
#pragma once

#include <stdio.h>

#include "aim.h"

/* Components that are in their initial state get its bytes, so that images can be compared as bytes. */
static inline void canonical_image(const struct soft_cpuid *model, uint8_t *image)
{
    uint64_t bv = vec_get64(image + XSAVE_HEADER);

    if (!(bv & BIT(XSTATE_X87))) {
        memset(image, 0, FX_MXCSR);
        memset(image + FX_ST, 0, FX_XMM - FX_ST);
        vec_put16(image + FX_FCW, FCW_INIT);
    }
    if (!(bv & BIT(XSTATE_SSE)))
        memset(image + FX_XMM, 0, FX_BYTES_USED - FX_XMM);
    for (unsigned i = XSTATE_AVX; i < XSTATE_COUNT; i++)
        if (model->xcr0 & BIT(i) && !(bv & BIT(i)))
            memset(image + model->xstate[i].offset, 0, model->xstate[i].size);
    /* What the CPU makes of an image when it loads it. */
    uint16_t control = (uint16_t)((vec_get16(image + FX_FCW) & 0x1f3f) | 0x40);
    uint16_t status = vec_get16(image + FX_FSW) & 0x7f7f;
    vec_put16(image + FX_FCW, control);
    vec_put16(image + FX_FSW, status & ~control & 0x3f ? status | 0x8080 : status);
    for (unsigned i = 0; i < 8; i++)
        memset(image + FX_ST + 16 * i + 10, 0, 6);
    /* The last x87 instruction's opcode and addresses: a stub's own on this side, and CPUs keep them only sometimes. */
    memset(image + FX_FOP, 0, FX_MXCSR - FX_FOP);
}

/*
 * Flags that need not agree. At a fault translated code may have lost flags that the instruction, once it is run again,
 * overwrites unread (block_mark.flags_dead). Where the CPU itself carried the instruction out on both sides, even undefined ones do.
 */
static inline uint64_t open_flags(const struct insn_case *c, bool by_cpu, bool lost)
{
    uint64_t open = FLAG_RF;

    if (lost && c->z.cpu_flags)
        open |= (c->z.cpu_flags->modified | c->z.cpu_flags->set_0 | c->z.cpu_flags->set_1 | c->z.cpu_flags->undefined) & FLAG_ARITH;
    if (!by_cpu && c->decoded && c->z.cpu_flags)
        open |= c->z.cpu_flags->undefined;
    return open;
}

/*
 * Operands of many bytes, lanes, and two operands are accessed in pieces, in an order of the CPU's own: which page fails first is
 * its affair.
 */
static inline bool in_pieces(const struct insn_case *c, uint64_t a, uint64_t b)
{
    if (c->z.meta.category == ZYDIS_CATEGORY_STRINGOP)
        return true;
    for (unsigned i = 0; i < c->z.operand_count; i++) {
        const ZydisDecodedOperand *op = &c->op[i];
        bool area = c->z.meta.category == ZYDIS_CATEGORY_XSAVE || c->z.meta.category == ZYDIS_CATEGORY_XSAVEOPT;
        bool pieces = area || op->size > 64 * 8 || c->z.avx.mask.reg > ZYDIS_REGISTER_K0 ||
                      (c->z.meta.isa_ext == ZYDIS_ISA_EXT_X87 && op->size > 80) || is_maskmov(c);
        if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || !pieces)
            continue;
        uint64_t at = linear_of(c, op), end = at + (area ? XSAVE_MAX : op->size / 8);
        if (a >= at && a < end && b >= at && b < end)
            return true;
    }
    return false;
}

static const char *const gpr_names[GPR_COUNT] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                                 "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

static inline void print_case(const struct insn_case *c)
{
    ZydisFormatter formatter;
    char text[128] = "(no instruction)";

    if (c->decoded) {
        ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
        ZydisFormatterFormatInstruction(&formatter, &c->z, c->op, c->z.operand_count_visible, text, sizeof(text), c->in.rip, NULL);
    }
    printf("case %llu:", (unsigned long long)c->number);
    for (unsigned i = 0; i < (c->decoded ? c->z.length : INSN_MAX_LEN); i++)
        printf(" %02x", c->code.bytes[i]);
    printf(": %s\n  at 0x%llx with rflags 0x%llx fs 0x%llx gs 0x%llx fcw 0x%x fsw 0x%x mxcsr 0x%x xstate_bv 0x%llx", text,
           (unsigned long long)c->in.rip, (unsigned long long)c->in.rflags, (unsigned long long)c->fs_base, (unsigned long long)c->gs_base,
           vec_get16(c->in.image + FX_FCW), vec_get16(c->in.image + FX_FSW), vec_get32(c->in.image + FX_MXCSR),
           (unsigned long long)vec_get64(c->in.image + XSAVE_HEADER));
    for (unsigned i = 0; i < GPR_COUNT; i++)
        printf("%s%s 0x%llx", i % 4 ? " " : "\n    ", gpr_names[i], (unsigned long long)c->in.gpr[i]);
    printf("\n");
}

/* The case that is being compared; its first difference prints it. */
static const struct insn_case *shown_case;

static inline bool differ(const char *what, uint64_t a, uint64_t b, const char *who)
{
    if (shown_case)
        print_case(shown_case);
    shown_case = NULL;
    printf("  %s: host 0x%llx, %s 0x%llx\n", what, (unsigned long long)a, who, (unsigned long long)b);
    return true;
}

static inline bool compare_images(const struct soft_cpuid *model, uint8_t *host, uint8_t *other, const char *who)
{
    unsigned count = 0;
    char text[64];

    canonical_image(model, host);
    canonical_image(model, other);
    for (unsigned i = 0; i < XSAVE_MAX; i++) {
        unsigned component = i < FX_BYTES_USED ? XSTATE_SSE : XSTATE_COUNT;
        for (unsigned k = XSTATE_AVX; k < XSTATE_COUNT; k++)
            if (model->xcr0 & BIT(k) && i >= model->xstate[k].offset && i < model->xstate[k].offset + model->xstate[k].size)
                component = k;
        if (component == XSTATE_COUNT || host[i] == other[i] || (i >= FX_MXCSR_MASK && i < FX_ST))
            continue;
        snprintf(text, sizeof(text), "vector state, component %u, image byte %u", component, i);
        if (count++ < 8)
            differ(text, host[i], other[i], who);
    }
    return count > 0;
}

/* Prints every difference; true when there is one. Both images are brought into canonical form. */
static inline bool compare_outcomes(const struct insn_case *c, const struct soft_cpuid *model, struct outcome *host, struct outcome *other,
                                    bool by_cpu, bool translated, const char *who)
{
    bool bad = false;

    /* A return to an address that is not canonical faults in translated code when the target is fetched. */
    if (translated && host->faulted && host->vector == EXC_GP && !other->faulted && !gva_is_canonical(other->rip))
        return false;
    if (host->faulted != other->faulted || (host->faulted && host->vector != other->vector)) {
        differ("exception", host->faulted ? host->vector : 0xffff, other->faulted ? other->vector : 0xffff, who);
        bad = true;
    } else if (host->faulted) {
        bool open = host->vector == EXC_PF && in_pieces(c, host->cr2, other->cr2);
        if (!open && host->error != other->error)
            bad |= differ("error code", host->error, other->error, who);
        if (!open && host->cr2 != other->cr2)
            bad |= differ("cr2", host->cr2, other->cr2, who);
    }
    if (host->rip != other->rip)
        bad |= differ("rip", host->rip, other->rip, who);
    for (unsigned i = 0; i < GPR_COUNT; i++)
        if (host->gpr[i] != other->gpr[i])
            bad |= differ(gpr_names[i], host->gpr[i], other->gpr[i], who);
    if ((host->rflags ^ other->rflags) & ~open_flags(c, by_cpu, translated && host->faulted))
        bad |= differ("rflags", host->rflags, other->rflags, who);
    if (bad)
        return true;
    /* Which elements were through before one faulted is the CPU's affair, as long as the rest can go on from there. */
    if (host->faulted && (c->z.meta.category == ZYDIS_CATEGORY_AVX2GATHER || c->z.meta.category == ZYDIS_CATEGORY_GATHER ||
                          c->z.meta.category == ZYDIS_CATEGORY_SCATTER))
        return false;
    if (host->faulted && c->z.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ)
        return false; /* nor whether MMX has been entered by then */
    return compare_images(model, host->image, other->image, who);
}
