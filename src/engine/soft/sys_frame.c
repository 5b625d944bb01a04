/* Frames: several words on a stack, which may be another ring's, pushed or read as a whole. */
#include "engine/soft/sys_frame.h"

#include "engine/soft/mmu.h"
#include "engine/soft/sys_desc.h"

#define TSS32_BIT 8 /* in the type: set in a 32-bit TSS, clear in a 16-bit one */

static uint64_t width_mask(unsigned bits)
{
    return bits == 64 ? UINT64_MAX : BIT(bits) - 1;
}

static uint64_t pointer_merge(uint64_t old, uint64_t sp, unsigned bits)
{
    switch (bits) {
    case 64: return sp;
    case 32: return (uint32_t)sp;
    default: return (old & ~0xffffULL) | (sp & 0xffff);
    }
}

uint64_t frame_pointer_plus(const struct soft_cpu *cpu, uint64_t n)
{
    return pointer_merge(cpu->gpr[GPR_RSP], cpu->gpr[GPR_RSP] + n, cpu->stack_bits);
}

void frame_current(const struct soft_cpu *cpu, uint32_t ext, struct frame_stack *stack)
{
    stack->ss = cpu->seg[SEG_SS];
    stack->sp = cpu->gpr[GPR_RSP];
    stack->bits = cpu->stack_bits;
    stack->access = 0;
    stack->error = ext;
}

/* size bytes of the TSS at off; #TS(selector of the TSS) beyond its limit. */
static int tss_read(struct soft_cpu *cpu, uint32_t off, unsigned size, uint32_t ext, uint64_t *value)
{
    gva_t gva = cpu->tr.base + off;

    if ((cpu->tr.attr & SEG_UNUSABLE) || off + size - 1 > cpu->tr.limit)
        return desc_raise(cpu, EXC_TS, cpu->tr.sel, ext);
    if (!cpu->long_mode)
        gva = (uint32_t)gva;
    *value = 0;
    return mmu_read(cpu, gva, value, size, MMU_READ | MMU_SUPERVISOR);
}

int frame_task_link(struct soft_cpu *cpu, uint64_t *sel)
{
    return tss_read(cpu, 0, 2, 0, sel);
}

static int long_stack(struct soft_cpu *cpu, uint32_t off, unsigned ring, uint32_t ext, struct frame_stack *stack)
{
    int result = tss_read(cpu, off, 8, ext, &stack->sp);

    if (result != SOFT_OK)
        return result;
    if (!gva_is_canonical(stack->sp))
        return soft_raise_err(cpu, EXC_SS, ext);
    stack->ss = seg_null((uint16_t)ring, ring);
    stack->bits = 64;
    stack->access = ring < 3 ? MMU_SUPERVISOR : 0;
    stack->error = ext;
    return SOFT_OK;
}

int frame_ist(struct soft_cpu *cpu, unsigned ist, unsigned ring, uint32_t ext, struct frame_stack *stack)
{
    return long_stack(cpu, 36 + 8 * (ist - 1), ring, ext, stack); /* SDM vol. 3 figure 7-11 */
}

int frame_ring(struct soft_cpu *cpu, unsigned ring, uint32_t ext, struct frame_stack *stack)
{
    uint64_t pointer;

    if (cpu->long_mode)
        return long_stack(cpu, 4 + 8 * ring, ring, ext, stack);

    /* ESP and SS in one: both are inside the TSS or neither is. */
    bool tss32 = cpu->tr.attr & TSS32_BIT;
    int result = tss32 ? tss_read(cpu, 4 + 8 * ring, 6, ext, &pointer) : tss_read(cpu, 2 + 4 * ring, 4, ext, &pointer);
    if (result != SOFT_OK)
        return result;
    uint16_t sel = (uint16_t)(pointer >> (tss32 ? 32 : 16));
    if (sel_is_null(sel))
        return soft_raise_err(cpu, EXC_TS, ext);
    result = seg_prepare_stack(cpu, sel, ring, EXC_TS, ext, &stack->ss);
    if (result != SOFT_OK)
        return result;
    stack->sp = pointer & (tss32 ? 0xffffffff : 0xffff);
    stack->bits = stack->ss.attr & SEG_DB ? 32 : 16;
    stack->access = MMU_SUPERVISOR;
    stack->error = (sel & 0xfffcU) | ext;
    return SOFT_OK;
}

/* Linear address of [off, off+n) of the stack, which does not wrap. */
static int stack_linear(struct soft_cpu *cpu, const struct frame_stack *stack, uint64_t off, unsigned n, gva_t *gva)
{
    const struct cpu_seg *ss = &stack->ss;
    uint64_t last = off + n - 1;

    if (stack->bits == 64) {
        *gva = off;
        return gva_is_canonical(off) && gva_is_canonical(last) ? SOFT_OK : soft_raise_err(cpu, EXC_SS, stack->error);
    }
    bool fits = last <= ss->limit;
    if (cpu->protected_mode && (ss->attr & (DESC_CODE | DESC_EXPAND_DOWN)) == DESC_EXPAND_DOWN)
        fits = off > ss->limit && last <= (ss->attr & SEG_DB ? UINT32_MAX : UINT16_MAX);
    if ((ss->attr & SEG_UNUSABLE) || !fits)
        return soft_raise_err(cpu, EXC_SS, stack->error);
    *gva = (uint32_t)(ss->base + off);
    return SOFT_OK;
}

/* A frame that wraps around in its segment, word by word: all are checked before the first one is written. */
static int push_wrapping(struct soft_cpu *cpu, const struct frame_stack *stack, unsigned size, const uint64_t *values, unsigned n)
{
    uint64_t mask = width_mask(stack->bits);
    gva_t gva[FRAME_MAX];

    for (unsigned i = 0; i < n; i++) {
        struct mmu_target target;
        int result = stack_linear(cpu, stack, (stack->sp - (i + 1) * size) & mask, size, &gva[i]);
        if (result == SOFT_OK)
            result = mmu_translate(cpu, gva[i], MMU_WRITE | stack->access, &target);
        if (result == SOFT_OK && (gva[i] & PAGE_MASK) + size > PAGE_SIZE)
            result = mmu_translate(cpu, gva[i] + size - 1, MMU_WRITE | stack->access, &target);
        if (result != SOFT_OK)
            return result;
    }
    for (unsigned i = 0; i < n; i++) {
        int result = mmu_write(cpu, gva[i], &values[i], size, MMU_WRITE | stack->access);
        if (result != SOFT_OK)
            return result;
    }
    return SOFT_OK;
}

int frame_push(struct soft_cpu *cpu, struct frame_stack *stack, unsigned size, const uint64_t *values, unsigned n)
{
    union {
        uint16_t w[FRAME_MAX];
        uint32_t d[FRAME_MAX];
        uint64_t q[FRAME_MAX];
    } image;
    unsigned bytes = size * n;
    uint64_t top = stack->sp & width_mask(stack->bits);
    int result;

    if (top >= bytes || stack->bits == 64) {
        gva_t gva;
        result = stack_linear(cpu, stack, top - bytes, bytes, &gva);
        if (result != SOFT_OK)
            return result;
        for (unsigned i = 0; i < n; i++) {
            if (size == 8)
                image.q[n - 1 - i] = values[i];
            else if (size == 4)
                image.d[n - 1 - i] = (uint32_t)values[i];
            else
                image.w[n - 1 - i] = (uint16_t)values[i];
        }
        result = mmu_write(cpu, gva, &image, bytes, MMU_WRITE | stack->access);
    } else {
        result = push_wrapping(cpu, stack, size, values, n);
    }
    if (result == SOFT_OK)
        stack->sp = pointer_merge(stack->sp, top - bytes, stack->bits);
    return result;
}

int frame_peek(struct soft_cpu *cpu, unsigned skip, unsigned size, uint64_t *values, unsigned n)
{
    uint64_t mask = width_mask(cpu->stack_bits);
    uint64_t sp = cpu->gpr[GPR_RSP] + skip;

    if (cpu->code_bits == 64 && size == 8 && n > 0) { /* the common case at once: IRETQ */
        gva_t gva;
        int result = soft_linear(cpu, SEG_SS, sp, size * n, false, &gva);
        return result != SOFT_OK ? result : mmu_read(cpu, gva, values, size * n, MMU_READ);
    }
    for (unsigned i = 0; i < n; i++) {
        int result = soft_load(cpu, SEG_SS, (sp + i * size) & mask, size, &values[i]);
        if (result != SOFT_OK)
            return result;
    }
    return SOFT_OK;
}
