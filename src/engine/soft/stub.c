/* Stubs: one innocuous instruction as host code on the guest's registers, its memory operand behind a pointer. */
#include "engine/soft/stub.h"

#include "engine/soft/ctx.h"
#include "engine/soft/switch.h"

struct out {
    uint8_t *at;
};

static void put(struct out *o, uint8_t byte)
{
    *o->at++ = byte;
}

/* mov reg, [rsp + disp8] (0x8b) or mov [rsp + disp8], reg (0x89); flags stay. */
static void put_mov(struct out *o, uint8_t opcode, unsigned reg, int disp)
{
    put(o, 0x48 | (reg >> 3) << 2);
    put(o, opcode);
    put(o, 0x44 | (reg & 7) << 3);
    put(o, 0x24);
    put(o, (uint8_t)disp);
}

static void put_jump(struct out *o, const void *target)
{
    uint64_t address = (uint64_t)(uintptr_t)target;

    put(o, 0xff); /* jmp [rip + 0] */
    put(o, 0x25);
    for (unsigned i = 0; i < 4; i++)
        put(o, 0);
    for (unsigned i = 0; i < 8; i++)
        put(o, (uint8_t)(address >> (8 * i)));
}

/*
 * A host register that the instruction does not use. AH..BH allow no REX prefix, and SPL..DIL may not turn into
 * AH..BH, so the lower eight come first; RSP is the context's.
 */
static unsigned free_register(const struct insn *insn, unsigned taken)
{
    static const uint8_t order[] = {GPR_RBX, GPR_RBP, GPR_RSI, GPR_RDI, GPR_RDX, GPR_RCX, GPR_RAX, GPR_R8};

    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        if (!((insn->gprs_used | taken) & BIT(order[i])))
            return order[i];
    return REG_NONE;
}

int stub_emit(const struct insn *insn, uint8_t *rw)
{
    struct out o = {rw};
    struct insn_rewrite rewrite = {.mem_base = REG_NONE, .mem_index = REG_NONE};
    uint8_t code[INSN_REWRITE_MAX];
    unsigned stack = REG_NONE;
    unsigned taken = 0;

    for (unsigned i = 0; i < GPR_COUNT; i++)
        rewrite.map[i] = (uint8_t)i;
    if (insn->gprs_used & BIT(GPR_RSP)) {
        stack = free_register(insn, taken);
        rewrite.map[GPR_RSP] = (uint8_t)stack;
        taken |= BIT(stack);
    }
    if (insn->has_mem)
        rewrite.mem_base = (uint8_t)free_register(insn, taken);
    int len = insn_rewrite(insn, &rewrite, code);
    if (len < 0)
        return -1;

    if (stack != REG_NONE)
        put_mov(&o, 0x8b, stack, CTX_GPR(GPR_RSP));
    if (insn->has_mem)
        put_mov(&o, 0x8b, rewrite.mem_base, CTX_TEMP);
    for (int i = 0; i < len; i++)
        put(&o, code[i]);
    if (stack != REG_NONE) {
        put_mov(&o, 0x89, stack, CTX_GPR(GPR_RSP));
        put_mov(&o, 0x8b, stack, CTX_GPR(stack));
    }
    if (insn->has_mem)
        put_mov(&o, 0x8b, rewrite.mem_base, CTX_GPR(rewrite.mem_base));
    put_jump(&o, switch_stub_done);
    return (int)(o.at - rw);
}
