/* The parked vector state: reading and writing registers in the standard XSAVE image. */
#include "engine/soft/vector_image.h"

#include <string.h>

static void set_xstate_bv(struct soft_cpu *cpu, uint64_t value)
{
    vec_put64(cpu->xsave + XSAVE_HEADER, value);
}

/* SDM vol. 1 13.6: all registers 0, but FCW = 37FH. */
static void write_initial(struct soft_cpu *cpu, unsigned component)
{
    const struct soft_cpuid *model = cpu->svm->cpuid;

    switch (component) {
    case XSTATE_X87:
        memset(cpu->xsave, 0, FX_MXCSR);
        memset(cpu->xsave + FX_ST, 0, FX_XMM - FX_ST);
        vec_put16(cpu->xsave + FX_FCW, FCW_INIT);
        break;
    case XSTATE_SSE: memset(cpu->xsave + FX_XMM, 0, FX_BYTES_USED - FX_XMM); break;
    default: memset(cpu->xsave + model->xstate[component].offset, 0, model->xstate[component].size);
    }
}

void vec_image_use(struct soft_cpu *cpu, unsigned component)
{
    uint64_t bv = vec_xstate_bv(cpu);

    if (bv & BIT(component))
        return;
    write_initial(cpu, component);
    set_xstate_bv(cpu, bv | BIT(component));
}

void vec_image_init(struct soft_cpu *cpu, unsigned component)
{
    write_initial(cpu, component);
    set_xstate_bv(cpu, vec_xstate_bv(cpu) & ~BIT(component));
}

/* A piece of register n: which component holds it, where in that component, how long, and where in the register. */
struct piece {
    uint8_t component, size, at;
    uint16_t offset;
};

/* Registers 0 to 15 are in three pieces, 16 to 31 in one (SDM vol. 1 13.5). */
static unsigned find_pieces(unsigned n, struct piece piece[3])
{
    if (n >= 16) {
        piece[0] = (struct piece){XSTATE_HI16_ZMM, 64, 0, (uint16_t)(64 * (n - 16))};
        return 1;
    }
    piece[0] = (struct piece){XSTATE_SSE, 16, 0, (uint16_t)(16 * n)};
    piece[1] = (struct piece){XSTATE_AVX, 16, 16, (uint16_t)(16 * n)};
    piece[2] = (struct piece){XSTATE_ZMM_HI256, 32, 32, (uint16_t)(32 * n)};
    return 3;
}

static uint8_t *piece_bytes(const struct soft_cpu *cpu, const struct piece *p)
{
    if (p->component == XSTATE_SSE)
        return cpu->xsave + FX_XMM + p->offset;
    return cpu->xsave + cpu->svm->cpuid->xstate[p->component].offset + p->offset;
}

void vec_image_read(const struct soft_cpu *cpu, unsigned n, uint8_t out[VECTOR_BYTES])
{
    struct piece piece[3];
    unsigned count = find_pieces(n, piece);

    memset(out, 0, VECTOR_BYTES);
    for (unsigned i = 0; i < count; i++)
        if (vec_xstate_bv(cpu) & BIT(piece[i].component))
            memcpy(out + piece[i].at, piece_bytes(cpu, &piece[i]), piece[i].size);
}

static bool all_zero(const uint8_t *bytes, unsigned n)
{
    uint8_t any = 0;

    for (unsigned i = 0; i < n; i++)
        any |= bytes[i];
    return any == 0;
}

void vec_image_write(struct soft_cpu *cpu, unsigned n, const uint8_t *in, unsigned size)
{
    struct piece piece[3];
    unsigned count = find_pieces(n, piece);
    uint8_t full[VECTOR_BYTES];

    memset(full, 0, sizeof(full));
    memcpy(full, in, size);
    for (unsigned i = 0; i < count; i++) {
        const struct piece *p = &piece[i];
        if (!(vec_xstate_bv(cpu) & BIT(p->component)) && all_zero(full + p->at, p->size))
            continue; /* initial and to be 0. Also a component that the host lacks */
        vec_image_use(cpu, p->component);
        memcpy(piece_bytes(cpu, p), full + p->at, p->size);
    }
}

static uint8_t *opmask_bytes(const struct soft_cpu *cpu, unsigned k)
{
    return cpu->xsave + cpu->svm->cpuid->xstate[XSTATE_OPMASK].offset + 8 * k;
}

uint64_t vec_image_opmask(const struct soft_cpu *cpu, unsigned k)
{
    return vec_xstate_bv(cpu) & BIT(XSTATE_OPMASK) ? vec_get64(opmask_bytes(cpu, k)) : 0;
}

void vec_image_set_opmask(struct soft_cpu *cpu, unsigned k, uint64_t value)
{
    vec_image_use(cpu, XSTATE_OPMASK);
    vec_put64(opmask_bytes(cpu, k), value);
}

void vec_image_set_top(struct soft_cpu *cpu, unsigned top)
{
    uint8_t physical[8][16], *st = cpu->xsave + FX_ST;
    uint16_t fsw;
    unsigned old;

    vec_image_use(cpu, XSTATE_X87);
    fsw = vec_get16(cpu->xsave + FX_FSW);
    old = fsw >> 11 & 7;
    if (old == top)
        return;
    for (unsigned i = 0; i < 8; i++)
        memcpy(physical[(old + i) & 7], st + 16 * i, 16);
    for (unsigned i = 0; i < 8; i++)
        memcpy(st + 16 * i, physical[(top + i) & 7], 16);
    vec_put16(cpu->xsave + FX_FSW, (uint16_t)((fsw & ~(7u << 11)) | top << 11));
}

void vec_image_mmx(struct soft_cpu *cpu)
{
    vec_image_set_top(cpu, 0);
    vec_put16(cpu->xsave + FX_FTW, 0xff);
}
