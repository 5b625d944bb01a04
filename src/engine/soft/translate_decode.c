/* What a block is made of: guest instructions up to where it ends, and where it goes on behind a branch or a jump. */
#include "engine/soft/translate.h"

#include <errno.h>

#define UNROLLED_INSNS (CACHE_BLOCK_INSNS * 3 / 4)

static bool ends_block(const struct trans *t, const struct insn *insn)
{
    return insn->cls != INSN_INNOCUOUS && !trans_is_plain_stack(insn) && !trans_is_system(t->mode, insn) && !trans_is_string(t->mode, insn);
}

static int decode_at(struct trans *t, const struct code_place *place, unsigned off, struct insn *insn)
{
    unsigned bits = trans_is_wide(t) ? 64 : 32, here = (unsigned)PAGE_SIZE - off;
    uint8_t bytes[INSN_MAX_LEN];
    int rc = insn_decode(t->cpu->svm, insn, t->page + off, here, bits);
    bool whole = rc == 0 && (insn->cls != INSN_INVALID || here >= INSN_MAX_LEN);

    if (whole || t->count > 0 || here >= INSN_MAX_LEN || place->next_gpa == GPA_INVALID)
        return whole ? 0 : -EAGAIN;
    for (unsigned i = 0; i < INSN_MAX_LEN; i++)
        bytes[i] = i < here ? t->page[off + i] : place->next_hva[i - here];
    rc = insn_decode(t->cpu->svm, insn, bytes, INSN_MAX_LEN, bits);
    if (rc == 0)
        t->block->next_gpa = ALIGN_DOWN(place->next_gpa, PAGE_SIZE);
    return rc;
}

/* Whether the block goes on behind the branch: not where that leads back, for mostly it is taken then. */
static bool goes_on(const struct insn *insn, unsigned branches)
{
    return trans_is_conditional(insn) && (int64_t)insn->op[0].imm > 0 && branches < BLOCK_MAX_BRANCHES;
}

/*
 * Whether the block goes on where the jump leads: not where it has been. Kept source is compared with guest memory in one piece (keep_source()), so not
 * where others may write to that.
 */
static bool follows(const struct trans *t, const struct insn *insn, int64_t target, unsigned jumps)
{
    if (insn->mnemonic != ZYDIS_MNEMONIC_JMP || insn->op[0].kind != OPERAND_REL || jumps == BLOCK_MAX_JUMPS || target < 0 ||
        target >= (int64_t)PAGE_SIZE || (!trans_is_wide(t) && insn->opsize != 4) || block_crosses(t->block) || t->cpu->svm->mem->fd >= 0)
        return false;
    for (unsigned i = 0; i < t->count; i++)
        if (t->off[i] == target)
            return false;
    return true;
}

/* Whether the first `count` instructions, all of them innocuous, access memory. */
static bool access_memory(const struct trans *t, unsigned count)
{
    bool some = false;

    for (unsigned i = 0; i < count; i++) {
        if (t->insn[i].cls != INSN_INNOCUOUS)
            return false;
        some |= t->insn[i].has_mem && !t->insn[i].nop && t->insn[i].mnemonic != ZYDIS_MNEMONIC_LEA;
    }
    return some;
}

/* A block of nothing but a loop is made of the loop several times, so that its accesses share lookups, and one branch leads back. */
static void unroll(struct trans *t)
{
    unsigned last = t->count - 1;

    if (t->count == 0 || t->count > UNROLLED_INSNS / 2 || block_crosses(t->block) || !trans_is_conditional(&t->insn[last]) ||
        (int64_t)trans_end(t, last) + (int64_t)t->insn[last].op[0].imm != t->off[0] || !access_memory(t, last))
        return;
    for (unsigned copies = MIN(UNROLLED_INSNS / t->count, BLOCK_MAX_ROUNDS); copies > 1; copies--)
        for (unsigned i = 0; i <= last; i++) {
            t->insn[t->count] = t->insn[i];
            t->off[t->count++] = t->off[i];
        }
}

/* A block stays within one page, but for one of a single instruction that runs on into the next. */
void trans_decode(struct trans *t, const struct code_place *place)
{
    unsigned off = place->gpa & PAGE_MASK, branches = 0, jumps = 0;

    t->count = 0;
    while (t->count < CACHE_BLOCK_INSNS && off < PAGE_SIZE) {
        struct insn *insn = &t->insn[t->count];
        if (decode_at(t, place, off, insn) != 0)
            break;
        t->block->vectors |= insn->unit != UNIT_GPR;
        t->off[t->count++] = (uint16_t)off;
        off += insn->len;
        if (goes_on(insn, branches)) {
            branches++;
        } else if (follows(t, insn, off + (int64_t)insn->op[0].imm, jumps)) {
            off += (int32_t)insn->op[0].imm;
            jumps++;
        } else if (ends_block(t, insn)) {
            break;
        }
    }
    t->decoded = t->count;
    unroll(t);
    t->off[t->count] = (uint16_t)off;
}

bool trans_runs_on(const struct trans *t, int64_t off)
{
    unsigned bits = trans_is_wide(t) ? 64 : 32;
    struct insn insn;

    if (off + INSN_MAX_LEN <= (int64_t)PAGE_SIZE)
        return false;
    return insn_decode(t->cpu->svm, &insn, t->page + off, (unsigned)(PAGE_SIZE - off), bits) != 0 || insn.cls == INSN_INVALID;
}
