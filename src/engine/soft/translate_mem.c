/* Innocuous instructions and their memory operands: the instruction itself, on redirected registers and addresses. */
#include "engine/soft/translate.h"

static int32_t seg_base_disp(unsigned n)
{
    return (int32_t)(offsetof(struct soft_cpu, seg) + n * sizeof(struct cpu_seg) + offsetof(struct cpu_seg, base)) - CTX_BIAS;
}

unsigned trans_home(unsigned gpr)
{
    if (gpr == GPR_RSP)
        return HOST_SP;
    return gpr >= GPR_R9 && gpr <= GPR_R11 ? REG_NONE : gpr;
}

unsigned trans_value(struct trans *t, unsigned gpr, unsigned scratch)
{
    unsigned home = trans_home(gpr);

    if (home != REG_NONE)
        return home;
    emit_load_ctx(&t->e, scratch, CTX_GPR((int)gpr));
    return scratch;
}

unsigned trans_pointer(struct trans *t, unsigned home)
{
    if (trans_is_wide(t))
        return home;
    emit_op_reg(&t->e, OP_MOV_LOAD, false, HOST_S1, home);
    return HOST_S1;
}

static bool fits_disp(int64_t value)
{
    return value >= INT32_MIN && value <= INT32_MAX;
}

/* Whether an address in this segment is base plus offset, with nothing to check. 64-bit code has no other segments. */
static bool segment_serves(const struct trans *t, unsigned seg)
{
    if (trans_is_wide(t))
        return true;
    switch (seg) {
    case SEG_DS:
    case SEG_SS: return true;
    case SEG_FS: return t->mode & BLOCK_FS;
    case SEG_GS: return t->mode & BLOCK_GS;
    default: return false;
    }
}

static bool is_homeless(unsigned gpr)
{
    return gpr != REG_NONE && trans_home(gpr) == REG_NONE;
}

/* The register's value where it happens to be, or loaded into scratch. */
static unsigned value_at_hand(struct trans *t, unsigned gpr, unsigned scratch)
{
    if (is_homeless(gpr) && t->held[0] == gpr)
        return HOST_S1;
    if (is_homeless(gpr) && t->held[1] == gpr)
        return HOST_S2;
    return trans_value(t, gpr, scratch);
}

/* base + index * scale + disp into dst, which may be a scratch register or an operand's home; 32 bits if it is not to be wide. */
static void effective_address(struct trans *t, unsigned dst, const struct insn *insn, bool wide)
{
    const struct insn_mem *m = &insn->mem;
    struct emit *e = &t->e;

    if (m->base == REG_NONE && m->index == REG_NONE) {
        emit_mov_simm32(e, dst, (int32_t)m->disp);
        if (!wide)
            emit_op_reg(e, OP_MOV_LOAD, false, dst, dst);
        return;
    }
    if (is_homeless(m->base) && is_homeless(m->index))
        trans_forget(t); /* loading one may overwrite the other */
    unsigned base = m->base == REG_NONE ? REG_NONE : value_at_hand(t, m->base, HOST_S1);
    unsigned index = m->index == REG_NONE ? REG_NONE : value_at_hand(t, m->index, HOST_S2);
    if (index == REG_NONE)
        emit_op_mem(e, OP_LEA, wide, dst, base, (int32_t)m->disp);
    else if (base == REG_NONE)
        emit_op_index(e, OP_LEA, wide, dst, index, m->scale, (int32_t)m->disp);
    else
        emit_op_sib(e, OP_LEA, wide, dst, base, index, m->scale, (int32_t)m->disp);
}

static bool rip_address(struct trans *t, unsigned dst, const struct insn *insn)
{
    int64_t off = (int64_t)trans_end(t, t->at) + insn->mem.disp;

    if (!fits_disp(off) || insn->addrsize != 8)
        return false;
    emit_load_ctx(&t->e, dst, CTX_CODE_PAGE);
    emit_lea(&t->e, dst, dst, (int32_t)off);
    return true;
}

unsigned trans_address(struct trans *t)
{
    const struct insn *insn = &t->insn[t->at];
    const struct insn_mem *m = &insn->mem;
    bool based = m->seg == SEG_FS || m->seg == SEG_GS;

    if (insn->addrsize < 4 || !fits_disp(m->disp) || !segment_serves(t, m->seg))
        return REG_NONE;
    trans_forget(t); /* a lookup follows, after which the instruction may begin once more */
    if (m->rip_relative) {
        if (!rip_address(t, HOST_S1, insn))
            return REG_NONE;
    } else if (m->base != REG_NONE && m->index == REG_NONE && m->disp == 0 && insn->addrsize == 8 && !based &&
               trans_home(m->base) != REG_NONE) {
        return trans_home(m->base);
    } else {
        effective_address(t, HOST_S1, insn, insn->addrsize == 8);
    }
    if (based) {
        emit_load_ctx(&t->e, HOST_S2, seg_base_disp(m->seg));
        emit_op_sib(&t->e, OP_LEA, trans_is_wide(t), HOST_S1, HOST_S1, HOST_S2, 1, 0);
    }
    return HOST_S1;
}

static struct trans_cold *cold_miss(struct trans *t, unsigned gva_reg, unsigned size, bool write)
{
    trans_flags_keep(t);
    struct trans_cold *cold = trans_cold(t, COLD_MISS);
    cold->gva_reg = gva_reg;
    cold->size = size;
    cold->write = write;
    return cold;
}

void trans_find_entry(struct trans *t, struct trans_cold *cold, unsigned gva_reg, bool write)
{
    struct emit *e = &t->e;
    bool user = t->mode & BLOCK_USER;

    emit_page_number(e, HOST_S2, gva_reg);
    if (write || !user)
        emit_op_mem(e, OP_ADD_LOAD, true, HOST_S2, HOST_CTX, user ? CTX_USER_WRITE : write ? CTX_WRITE : CTX_READ);
    emit_op_gs(e, OP_MOV_LOAD, HOST_S2, HOST_S2, 0);
    emit_op_reg(e, OP_TEST, true, HOST_S2, HOST_S2);
    trans_cold_from(cold, emit_jcc(e, CC_Z));
}

void trans_lookup_entry(struct trans *t, unsigned gva_reg, unsigned size, bool write)
{
    trans_find_entry(t, cold_miss(t, gva_reg, size, write), gva_reg, write);
}

void trans_lookup(struct trans *t, unsigned gva_reg, unsigned size, bool write)
{
    struct emit *e = &t->e;
    struct trans_cold *cold = cold_miss(t, gva_reg, size, write);

    bool unaligned = cache_is_unaligned(t->cache, ALIGN_DOWN(t->block->gpa, PAGE_SIZE) + t->off[t->at]);

    if (size > 8 || (size & (size - 1)) || (unaligned && size > 1)) {
        emit_test_crossing(e, gva_reg, size, HOST_S2);
        trans_cold_from(cold, emit_jcc(e, CC_NZ));
    } else if (size > 1) { /* nearly all are aligned, and so cross nothing */
        emit_test_low(e, gva_reg, (uint8_t)(size - 1));
        cold->unaligned = emit_jcc(e, CC_NZ);
        cold->aligned = e->rw;
    }
    trans_find_entry(t, cold, gva_reg, write);
}

/* --- the instruction itself --- */

/* Registers among the operands that live in the context, each with the scratch register that stands for it. */
struct homeless {
    unsigned count;
    unsigned gpr[2];
    bool read[2], written[2];
};

static bool note_homeless(struct homeless *h, const struct insn_field *f, unsigned limit)
{
    if (f->gpr == REG_NONE || trans_home(f->gpr) != REG_NONE)
        return true;
    unsigned i = 0;
    while (i < h->count && h->gpr[i] != f->gpr)
        i++;
    if (i == limit)
        return false;
    if (i == h->count) {
        h->gpr[h->count++] = f->gpr;
        h->read[i] = h->written[i] = false;
    }
    h->read[i] |= f->read || f->size < 4; /* narrow results keep the rest of the register */
    h->written[i] |= f->written;
    return true;
}

static bool find_homeless(struct homeless *h, const struct insn *insn, unsigned limit)
{
    *h = (struct homeless){0};
    return note_homeless(h, &insn->reg, limit) && note_homeless(h, &insn->rm, limit) && note_homeless(h, &insn->vvvv, limit) &&
           note_homeless(h, &insn->opc, limit);
}

static void start_map(struct insn_rewrite *rw)
{
    for (unsigned i = 0; i < GPR_COUNT; i++)
        rw->map[i] = (uint8_t)trans_home(i);
    rw->mem_base = rw->mem_index = REG_NONE;
    rw->mem_scale = 1;
    rw->mem_disp = 0;
    rw->rm_in_memory = false;
}

static uint8_t *held_by(struct trans *t, unsigned scratch)
{
    return &t->held[scratch == HOST_S2];
}

/* scratch: the registers for those of h. What they held is good; whatever else was done to them has been told to trans_forget(). */
static bool emit_rewritten(struct trans *t, const struct insn *insn, struct insn_rewrite *rw, const struct homeless *h,
                           const unsigned scratch[2])
{
    uint8_t code[INSN_REWRITE_MAX];
    bool touched = trans_flags_touched(insn);

    if (touched && t->live[t->at])
        trans_flags_use(t);
    for (unsigned i = 0; i < h->count; i++) {
        rw->map[h->gpr[i]] = (uint8_t)scratch[i];
        if (h->read[i] && *held_by(t, scratch[i]) != h->gpr[i])
            emit_load_ctx(&t->e, scratch[i], CTX_GPR((int)h->gpr[i]));
    }
    int len = insn_rewrite(insn, rw, code);
    if (len < 0)
        return false;
    emit_bytes(&t->e, code, (unsigned)len);
    if (touched)
        t->flags_saved = false;
    for (unsigned i = 0; i < h->count; i++) {
        for (unsigned k = 0; k < 2; k++)
            if (t->held[k] == h->gpr[i])
                t->held[k] = REG_NONE; /* an old copy, or the new one */
        *held_by(t, scratch[i]) = (uint8_t)h->gpr[i];
        if (h->written[i])
            emit_store_ctx(&t->e, scratch[i], CTX_GPR((int)h->gpr[i]));
    }
    t->tracked = true;
    return true;
}

/*
 * Whether the instruction with a register in ModRM.rm, which it only reads, does the same with the context's memory there: BT, for one, does
 * not, and string and system instructions have no such form.
 */
static bool may_read_context(const struct insn *insn)
{
    unsigned op = insn->opcode;

    if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || insn->rm.written || !insn->rm.read || insn->lock || insn->unit != UNIT_GPR)
        return false;
    if (insn->opcode_map == 0)
        return (op < 0x40 && (op & 7) < 4) || op == 0x63 || op == 0x69 || op == 0x6b || op == 0x80 || op == 0x81 || op == 0x83 ||
               op == 0x84 || op == 0x85 || op == 0x8a || op == 0x8b || op == 0xf6 || op == 0xf7;
    return insn->opcode_map == 1 && ((op & 0xf0) == 0x40 || op == 0xaf || op == 0xb6 || op == 0xb7 || op == 0xbe || op == 0xbf);
}

static bool is_elsewhere(const struct insn *insn, unsigned gpr)
{
    return insn->reg.gpr == gpr || insn->vvvv.gpr == gpr || insn->opc.gpr == gpr;
}

/* Which scratch register each of the homeless gets: the one that has its value, if any does. */
static void choose_scratch(const struct trans *t, const struct homeless *h, unsigned scratch[2])
{
    scratch[0] = HOST_S1;
    scratch[1] = HOST_S2;
    if (h->count && (t->held[1] == h->gpr[0] || (h->count == 2 && t->held[0] == h->gpr[1]))) {
        scratch[0] = HOST_S2;
        scratch[1] = HOST_S1;
    }
}

static bool with_registers(struct trans *t, const struct insn *insn)
{
    unsigned scratch[2], rm = insn->rm.gpr;
    struct insn regs = *insn;
    struct insn_rewrite rw;
    struct homeless h;

    start_map(&rw);
    if (is_homeless(rm) && t->held[0] != rm && t->held[1] != rm && may_read_context(insn) && !is_elsewhere(insn, rm)) {
        regs.rm.gpr = REG_NONE;
        rw.rm_in_memory = true;
        rw.mem_base = HOST_CTX;
        rw.mem_disp = CTX_GPR((int)rm);
    }
    if (!find_homeless(&h, &regs, 2))
        return false;
    choose_scratch(t, &h, scratch);
    return emit_rewritten(t, insn, &rw, &h, scratch);
}

/* One of several accesses that share a lookup. */
static bool with_shared_memory(struct trans *t, const struct insn *insn, const struct homeless *h)
{
    static const unsigned scratch[] = {HOST_S1, REG_NONE};
    unsigned base = trans_home(insn->mem.base);
    struct insn_rewrite rw;

    trans_shared(t);
    start_map(&rw);
    if (insn->mem.index == REG_NONE) {
        rw.mem_base = (uint8_t)base;
        rw.mem_index = HOST_S2;
        rw.mem_disp = (int32_t)insn->mem.disp + (base == HOST_SP ? t->sp_late : 0);
    } else {
        rw.mem_base = HOST_S2;
        rw.mem_index = (uint8_t)trans_home(insn->mem.index);
        rw.mem_scale = insn->mem.scale;
        rw.mem_disp = (int32_t)insn->mem.disp + t->base_at[t->at];
    }
    return emit_rewritten(t, insn, &rw, h, scratch);
}

/* MOV of AH to BH to memory, whose address takes a REX prefix here, with which there is no such register. */
static bool store_high_byte(struct trans *t, const struct insn *insn)
{
    unsigned gva = trans_address(t);

    if (gva == REG_NONE)
        return false;
    trans_lookup(t, gva, 1, true);
    emit_lea_sum(&t->e, HOST_S1, gva, HOST_S2);
    emit_rorx(&t->e, HOST_S2, insn->op[1].reg - 4, 8);
    emit_op_mem(&t->e, OP_MOV_STORE8, false, HOST_S2, HOST_S1, 0);
    return true;
}

static bool with_memory(struct trans *t, const struct insn *insn)
{
    static const unsigned scratch[] = {HOST_S2, REG_NONE};
    struct insn_rewrite rw;
    struct homeless h;

    if (insn->mem_size == 0 || insn->mem_size > 64 || !find_homeless(&h, insn, 1))
        return false;
    if (insn->high_byte && insn->opcode == 0x88 && insn->opcode_map == 0)
        return store_high_byte(t, insn);
    if (t->member_of[t->at] != TRANS_NO_GROUP)
        return with_shared_memory(t, insn, &h);
    unsigned gva = trans_address(t);
    if (gva == REG_NONE)
        return false;
    trans_lookup(t, gva, insn->mem_size, insn->mem_written);
    trans_forget(t);
    start_map(&rw);
    rw.mem_base = (uint8_t)gva;
    rw.mem_index = HOST_S2;
    if (h.count) {
        emit_lea_sum(&t->e, HOST_S1, gva, HOST_S2);
        rw.mem_base = HOST_S1;
        rw.mem_index = REG_NONE;
    }
    return emit_rewritten(t, insn, &rw, &h, scratch);
}

static bool emit_lea_insn(struct trans *t, const struct insn *insn)
{
    unsigned gpr = insn->op[0].reg;
    unsigned home = trans_home(gpr);
    unsigned dst = home == REG_NONE ? HOST_S1 : home;

    if (insn->op[0].size < 4 || insn->addrsize < 4 || !fits_disp(insn->mem.disp))
        return false;
    if (insn->mem.rip_relative) {
        if (!rip_address(t, dst, insn))
            return false;
        if (insn->op[0].size == 4)
            emit_op_reg(&t->e, OP_MOV_LOAD, false, dst, dst);
    } else {
        effective_address(t, dst, insn, insn->addrsize == 8 && insn->op[0].size == 8);
    }
    trans_forget(t);
    t->tracked = true;
    if (home == REG_NONE) {
        emit_store_ctx(&t->e, dst, CTX_GPR((int)gpr));
        t->held[0] = (uint8_t)gpr;
    }
    return true;
}

bool trans_innocuous(struct trans *t)
{
    const struct insn *insn = &t->insn[t->at];

    if (insn->nop) {
        t->tracked = true;
        return true;
    }
    if (insn->mnemonic == ZYDIS_MNEMONIC_LEA)
        return emit_lea_insn(t, insn);
    if (trans_moves_sp(t)) {
        t->tracked = true;
        return true;
    }
    return insn->has_mem ? with_memory(t, insn) : with_registers(t, insn);
}
