/* Hardware task switches: the old task into its TSS, the new one out of its own (SDM vol. 3 ch. 7). */
#include "engine/soft/sys_task.h"

#include "engine/soft/mmu.h"
#include "engine/soft/sys.h"

#define TSS_LINK_BYTES 2
#define TSS_CR3 28
#define TSS_TRAP 100 /* bit 0: trap on entry */
#define TSS_MAX 104
#define TSS32_BIT 8 /* in the descriptor's type */
#define DR6_BT BIT(15)
#define DR7_LOCAL 0x55ULL
#define FLAGS_LOADED                                                                                                                       \
    (FLAG_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_VM | FLAG_AC | FLAG_VIF | FLAG_VIP | FLAG_ID)

/*
 * What a switch saves and loads is one run of words: EIP, EFLAGS, eight general registers, the segment selectors from ES on (FIGURE 7-2 and
 * 7-10).
 */
struct layout {
    unsigned word;     /* bytes */
    unsigned first;    /* offset of the run */
    unsigned segments; /* a 16-bit TSS lacks FS and GS */
    unsigned ldt, bytes;
};

#define GPRS 8
#define RUN_MAX (2 + GPRS + SEG_COUNT)

static const struct layout layouts[] = {{2, 14, 4, 42, 44}, {4, 32, 6, 96, 104}};

static const struct layout *layout_of(uint32_t type)
{
    return &layouts[(type & TSS32_BIT) != 0];
}

static unsigned run_words(const struct layout *l)
{
    return 2 + GPRS + l->segments;
}

static uint32_t get(const uint8_t *at, unsigned size)
{
    uint32_t value = at[0] | (uint32_t)at[1] << 8;

    return size == 2 ? value : value | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* The new task's TSS, with the checks before anything changes. */
static int find_tss(struct soft_cpu *cpu, enum task_switch how, uint16_t sel, uint32_t ext, struct desc *d)
{
    uint8_t vector = how == TASK_RETURN ? EXC_TS : EXC_GP;
    unsigned wanted = how == TASK_RETURN ? DESC_TSS16_BUSY : DESC_TSS16;

    if (sel & 4) /* in the LDT */
        return desc_raise(cpu, vector, sel, ext);
    int result = desc_get(cpu, sel, vector, ext, d);
    if (result != SOFT_OK)
        return result;
    if ((desc_type(d) & ~(unsigned)TSS32_BIT) != wanted)
        return desc_raise(cpu, vector, sel, ext);
    if (!desc_present(d))
        return desc_raise(cpu, EXC_NP, sel, ext);
    return desc_limit(d) + 1ULL < layout_of(desc_type(d))->bytes ? desc_raise(cpu, EXC_TS, sel, ext) : SOFT_OK;
}

/* A write of [gva, gva + n) that will not fault. */
static int check_room(struct soft_cpu *cpu, gva_t gva, unsigned n)
{
    struct mmu_target target;
    int result = mmu_translate(cpu, (uint32_t)gva, MMU_WRITE | MMU_SUPERVISOR, &target);

    return result != SOFT_OK ? result : mmu_translate(cpu, (uint32_t)(gva + n - 1), MMU_WRITE | MMU_SUPERVISOR, &target);
}

static int save(struct soft_cpu *cpu, const struct task_old *old, uint64_t flags)
{
    const struct layout *l = layout_of(cpu->tr.attr);
    uint32_t run[RUN_MAX] = {(uint32_t)old->rip, (uint32_t)flags};
    union {
        uint16_t w[RUN_MAX];
        uint32_t d[RUN_MAX];
    } image;

    for (unsigned i = 0; i < GPRS; i++)
        run[2 + i] = (uint32_t)cpu->gpr[i];
    for (unsigned i = 0; i < l->segments; i++)
        run[2 + GPRS + i] = cpu->seg[i].sel;
    for (unsigned i = 0; i < run_words(l); i++) {
        if (l->word == 4)
            image.d[i] = run[i];
        else
            image.w[i] = (uint16_t)run[i];
    }
    return mmu_write(cpu, (uint32_t)(cpu->tr.base + l->first), &image, run_words(l) * l->word, MMU_WRITE | MMU_SUPERVISOR);
}

/* The descriptor of the task that is left is available again. */
static int clear_busy(struct soft_cpu *cpu)
{
    struct desc d;
    bool found;
    int result = desc_find(cpu, cpu->tr.sel, &d, &found);

    if (result != SOFT_OK || !found)
        return result;
    uint8_t byte = (uint8_t)(d.lo >> 40) & ~(unsigned)DESC_BUSY;
    return mmu_write(cpu, (uint32_t)(d.gva + 5), &byte, 1, MMU_WRITE | MMU_SUPERVISOR);
}

/* --- the new task's segments; each has its selector already (SDM vol. 3 table 7-1) --- */

static int load_ldt(struct soft_cpu *cpu, uint16_t sel, uint32_t ext)
{
    struct desc d;

    if (sel_is_null(sel))
        return SOFT_OK;
    if (sel & 4)
        return desc_raise(cpu, EXC_TS, sel, ext);
    int result = desc_get(cpu, sel, EXC_TS, ext, &d);
    if (result != SOFT_OK)
        return result;
    if (desc_type(&d) != DESC_LDT || !desc_present(&d))
        return desc_raise(cpu, EXC_TS, sel, ext);
    cpu->ldtr = (struct cpu_seg){.base = desc_base(&d), .limit = desc_limit(&d), .attr = desc_attr(&d), .sel = sel};
    return SOFT_OK;
}

static int load_code(struct soft_cpu *cpu, uint32_t ext)
{
    uint16_t sel = cpu->seg[SEG_CS].sel;
    unsigned ring = sel & 3;
    struct desc d;
    int result = desc_get(cpu, sel, EXC_TS, ext, &d);

    if (result != SOFT_OK)
        return result;
    if (!desc_is_code(&d) || (desc_is_conforming(&d) ? desc_dpl(&d) > ring : desc_dpl(&d) != ring))
        return desc_raise(cpu, EXC_TS, sel, ext);
    if (!desc_present(&d))
        return desc_raise(cpu, EXC_NP, sel, ext);
    return seg_prepare_code(cpu, &d, sel, ring, &cpu->seg[SEG_CS]);
}

static int load_data(struct soft_cpu *cpu, uint32_t ext)
{
    static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

    for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
        int result = seg_prepare_data(cpu, cpu->seg[data[i]].sel, &cpu->seg[data[i]]);
        if (result == SOFT_FAULT && cpu->exc.vector != EXC_PF) {
            cpu->exc.vector = cpu->exc.vector == EXC_GP ? EXC_TS : cpu->exc.vector;
            cpu->exc.error |= ext;
        }
        if (result != SOFT_OK)
            return result;
    }
    return SOFT_OK;
}

static int load_segments(struct soft_cpu *cpu, uint16_t ldt, uint32_t ext)
{
    uint16_t ss = cpu->seg[SEG_SS].sel;
    int result = load_ldt(cpu, ldt, ext);

    if (result == SOFT_OK)
        result = load_code(cpu, ext);
    if (result == SOFT_OK)
        result = seg_prepare_stack(cpu, ss, cpu->seg[SEG_CS].sel & 3, EXC_TS, ext, &cpu->seg[SEG_SS]);
    soft_mode_update(cpu);
    if (result == SOFT_OK)
        result = load_data(cpu, ext);
    return result != SOFT_OK ? result : seg_check_target(cpu, &cpu->seg[SEG_CS], cpu->rip, ext);
}

/* --- the switch --- */

/* From here on faults are the new task's. */
static int load(struct soft_cpu *cpu, const struct layout *l, const uint8_t *tss, bool nested, uint32_t ext)
{
    const uint8_t *run = tss + l->first;
    uint16_t ldt = (uint16_t)get(tss + l->ldt, 2);
    unsigned ring = get(run + (2 + GPRS + SEG_CS) * l->word, 2) & 3;

    cpu->rip = cpu->next_rip = get(run, l->word);
    cpu->rflags = (get(run + l->word, l->word) & FLAGS_LOADED) | FLAG_ONE | (nested ? FLAG_NT : 0);
    for (unsigned i = 0; i < GPRS; i++)
        soft_gpr_write(cpu, i, false, l->word, get(run + (2 + i) * l->word, l->word));
    for (unsigned i = 0; i < SEG_COUNT; i++)
        cpu->seg[i] = seg_null(i < l->segments ? (uint16_t)get(run + (2 + GPRS + i) * l->word, 2) : 0, ring);
    cpu->ldtr = seg_null(ldt, 0);
    cpu->cr0 |= CR0_TS;
    cpu->dr7 &= ~DR7_LOCAL;
    soft_mode_update(cpu);
    if (l->word == 4 && (cpu->cr0 & CR0_PG)) {
        int result = sys_write_cr3(cpu, get(tss + TSS_CR3, 4));
        if (result != SOFT_OK)
            return result;
    }
    return load_segments(cpu, ldt, ext);
}

/* An event's error code, then the trap on entry. */
static int enter(struct soft_cpu *cpu, const struct layout *l, const uint8_t *tss, const struct task_old *old)
{
    if (old->has_error) {
        int result = soft_push(cpu, l->word, old->error);
        if (result != SOFT_OK)
            return result;
    }
    if (l->word == 2 || !(tss[TSS_TRAP] & 1))
        return SOFT_OK;
    soft_raise(cpu, EXC_DB);
    cpu->exc.dr6 = DR6_BT;
    return SOFT_FAULT;
}

int task_switch(struct soft_cpu *cpu, enum task_switch how, uint16_t sel, const struct task_old *old)
{
    const struct layout *from = layout_of(cpu->tr.attr), *to;
    uint16_t back = cpu->tr.sel;
    uint8_t tss[TSS_MAX];
    struct desc d;
    int result = find_tss(cpu, how, sel, old->ext, &d);

    if (result != SOFT_OK)
        return result;
    to = layout_of(desc_type(&d));
    if ((cpu->tr.attr & SEG_UNUSABLE) || cpu->tr.limit + 1ULL < from->first + run_words(from) * from->word)
        return desc_raise(cpu, EXC_TS, back, old->ext);
    result = mmu_read(cpu, desc_base(&d), tss, to->bytes, MMU_READ | MMU_SUPERVISOR);
    if (result == SOFT_OK && to->word == 4 && (get(tss + to->first + 4, 4) & FLAG_VM))
        return soft_internal(cpu, "the task of selector 0x%x is in virtual-8086 mode, which this engine lacks", sel);
    if (result == SOFT_OK)
        result = check_room(cpu, cpu->tr.base + from->first, run_words(from) * from->word);
    if (result == SOFT_OK && how == TASK_CALL)
        result = check_room(cpu, desc_base(&d), TSS_LINK_BYTES);
    if (result == SOFT_OK && how != TASK_CALL)
        result = clear_busy(cpu);
    if (result == SOFT_OK && how != TASK_RETURN)
        result = desc_mark(cpu, &d, DESC_BUSY);
    if (result == SOFT_OK)
        result = save(cpu, old, old->flags & ~(how == TASK_RETURN ? FLAG_NT : 0ULL));
    if (result == SOFT_OK && how == TASK_CALL)
        result = mmu_write(cpu, desc_base(&d), &back, TSS_LINK_BYTES, MMU_WRITE | MMU_SUPERVISOR);
    if (result != SOFT_OK)
        return result;
    cpu->tr = desc_segment(&d, sel);
    result = load(cpu, to, tss, how == TASK_CALL, old->ext);
    return result != SOFT_OK ? result : enter(cpu, to, tss, old);
}
