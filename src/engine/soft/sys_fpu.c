/* Vector and x87 state in memory: FXSAVE, XSAVE and their kin, FNSAVE, FNSTENV, MXCSR; on the parked image. */
#include <string.h>

#include "engine/soft/cpuid.h"
#include "engine/soft/mmu.h"
#include "engine/soft/sys.h"
#include "engine/soft/vector_image.h"

/*
 * The instruction and data pointers of the x87 (FIP, FDP, with FCS, FDS, FOP) hold host addresses while guest code runs
 * natively. The guest sees zeros, always: nothing of the host leaks, and what it stores does not depend on us.
 */

/* The host's copy of a memory operand of up to XSAVE_MAX bytes; or the operand itself where it lies in one page. */
struct area {
    struct soft_cpu *cpu;
    gva_t gva;
    uint8_t *host; /* NULL: through mmu_write */
};

static int gp0(struct soft_cpu *cpu)
{
    return soft_raise_err(cpu, EXC_GP, 0);
}

static unsigned xmm_count(const struct soft_cpu *cpu)
{
    return cpu->code_bits == 64 ? 16 : 8;
}

/* The linear address of size bytes at the memory operand, aligned. */
static int operand_linear(struct soft_cpu *cpu, const struct insn *insn, unsigned align, unsigned size, bool write, gva_t *gva)
{
    uint64_t ea = soft_ea(cpu, insn);
    int result = soft_linear(cpu, insn->mem.seg, ea, size, write, gva);

    if (result == SOFT_FAULT && cpu->exc.vector == EXC_SS && (ea & (align - 1)))
        return gp0(cpu); /* alignment comes first */
    if (result == SOFT_OK && (*gva & (align - 1)))
        return gp0(cpu);
    return result;
}

/* Opens [gva, gva+size) for writing: once this succeeds, every area_write() does. */
static int area_open_write(struct area *area, struct soft_cpu *cpu, gva_t gva, unsigned size)
{
    void *host;
    int result = mmu_host(cpu, gva, size, MMU_WRITE, &host);

    if (result == SOFT_OK && !host)
        result = soft_check_write(cpu, gva, size);
    area->cpu = cpu;
    area->gva = gva;
    area->host = host;
    return result;
}

static int area_write(const struct area *area, unsigned off, const void *from, unsigned n)
{
    if (!area->host)
        return mmu_write(area->cpu, area->gva + off, from, n, MMU_WRITE);
    memcpy(area->host + off, from, n);
    return SOFT_OK;
}

/* --- FXSAVE, FXRSTOR: SDM vol. 1 10.5 --- */

static int check_fx(struct soft_cpu *cpu)
{
    return cpu->cr0 & (CR0_TS | CR0_EM) ? soft_raise(cpu, EXC_NM) : SOFT_OK;
}

/* x87 state as an image shows it: 160 bytes of which those from FX_MXCSR to FX_ST are left alone. */
static void get_x87(struct soft_cpu *cpu, uint8_t *out)
{
    vec_image_use(cpu, XSTATE_X87);
    memset(out, 0, FX_MXCSR);
    memcpy(out, cpu->xsave, FX_FOP);
    out[FX_FTW + 1] = 0;
    for (unsigned i = 0; i < 8; i++) { /* 10 bytes each, then reserved ones */
        memcpy(out + FX_ST + 16 * i, cpu->xsave + FX_ST + 16 * i, 10);
        memset(out + FX_ST + 16 * i + 10, 0, 6);
    }
}

static void set_x87(struct soft_cpu *cpu, const uint8_t *in)
{
    vec_image_use(cpu, XSTATE_X87);
    memcpy(cpu->xsave, in, FX_FOP);
    cpu->xsave[FX_FTW + 1] = 0;
    memset(cpu->xsave + FX_FOP, 0, FX_MXCSR - FX_FOP);
    memcpy(cpu->xsave + FX_ST, in + FX_ST, FX_XMM - FX_ST);
}

static void get_mxcsr(const struct soft_cpu *cpu, uint8_t out[8])
{
    vec_put32(out, vec_get32(cpu->xsave + FX_MXCSR));
    vec_put32(out + 4, cpu->svm->cpuid->mxcsr_mask);
}

/* FXSAVE, FXSAVE64: the forms differ only in the pointers, which are zero. */
int sys_fxsave(struct soft_cpu *cpu, const struct insn *insn)
{
    uint8_t image[FX_BYTES_USED];
    unsigned used = FX_XMM + 16 * xmm_count(cpu);
    struct area area;
    gva_t gva;
    int result = check_fx(cpu);

    if (result == SOFT_OK)
        result = operand_linear(cpu, insn, 16, XSAVE_LEGACY_BYTES, true, &gva);
    if (result != SOFT_OK)
        return result;
    soft_vec_park(cpu);
    result = area_open_write(&area, cpu, gva, XSAVE_LEGACY_BYTES);
    if (result != SOFT_OK)
        return result;
    get_x87(cpu, image);
    get_mxcsr(cpu, image + FX_MXCSR);
    vec_image_use(cpu, XSTATE_SSE);
    memcpy(image + FX_XMM, cpu->xsave + FX_XMM, used - FX_XMM);
    return area_write(&area, 0, image, used);
}

/* FXRSTOR, FXRSTOR64 */
int sys_fxrstor(struct soft_cpu *cpu, const struct insn *insn)
{
    uint8_t image[XSAVE_LEGACY_BYTES];
    gva_t gva;
    int result = check_fx(cpu);

    if (result == SOFT_OK)
        result = operand_linear(cpu, insn, 16, XSAVE_LEGACY_BYTES, false, &gva);
    if (result != SOFT_OK)
        return result;
    soft_vec_park(cpu);
    result = mmu_read(cpu, gva, image, sizeof(image), MMU_READ);
    if (result != SOFT_OK)
        return result;
    if (vec_get32(image + FX_MXCSR) & ~cpu->svm->cpuid->mxcsr_mask)
        return gp0(cpu);
    set_x87(cpu, image);
    vec_image_use(cpu, XSTATE_SSE);
    memcpy(cpu->xsave + FX_MXCSR, image + FX_MXCSR, 4);
    memcpy(cpu->xsave + FX_XMM, image + FX_XMM, 16 * xmm_count(cpu));
    return SOFT_OK;
}

/* --- XSAVE and its kin: SDM vol. 1 13.7 to 13.10 --- */

static int check_xsave(struct soft_cpu *cpu)
{
    if (!(cpu->cr4 & CR4_OSXSAVE))
        return soft_raise(cpu, EXC_UD);
    return cpu->cr0 & CR0_TS ? soft_raise(cpu, EXC_NM) : SOFT_OK;
}

/* The requested-feature bitmap. */
static uint64_t get_rfbm(const struct soft_cpu *cpu)
{
    return ((uint32_t)cpu->gpr[GPR_RAX] | cpu->gpr[GPR_RDX] << 32) & cpu->xcr0;
}

/* Bytes of an extended component that exist in this mode: outside 64-bit mode registers 8 and up do not (13.5). */
static unsigned component_bytes(const struct soft_cpu *cpu, unsigned component)
{
    unsigned size = cpu->svm->cpuid->xstate[component].size;

    if (cpu->code_bits == 64 || component == XSTATE_OPMASK)
        return size;
    return component == XSTATE_HI16_ZMM ? 0 : size / 2;
}

/* Where component i lies in a compacted area of these components (13.4.3). */
static unsigned compacted_offset(const struct soft_cpuid *model, uint64_t components, unsigned component)
{
    unsigned at = cpuid_xsave_size(model, components & (BIT(component) - 1), true);

    return model->xstate[component].align64 ? ALIGN_UP(at, 64u) : at;
}

static int save_x87(struct soft_cpu *cpu, const struct area *area)
{
    uint8_t image[FX_XMM];
    int result;

    get_x87(cpu, image);
    result = area_write(area, 0, image, FX_MXCSR);
    return result != SOFT_OK ? result : area_write(area, FX_ST, image + FX_ST, FX_XMM - FX_ST);
}

static int save_mxcsr(struct soft_cpu *cpu, const struct area *area)
{
    uint8_t image[8];

    get_mxcsr(cpu, image);
    return area_write(area, FX_MXCSR, image, sizeof(image));
}

/* One component whose bytes are wanted; offset: of an extended one in the area. */
static int save_component(struct soft_cpu *cpu, const struct area *area, unsigned component, unsigned offset)
{
    bool in_use = vec_xstate_bv(cpu) & BIT(component);
    int result;

    if (component == XSTATE_X87) {
        result = save_x87(cpu, area);
    } else {
        unsigned at = component == XSTATE_SSE ? FX_XMM : cpu->svm->cpuid->xstate[component].offset;
        unsigned n = component == XSTATE_SSE ? 16 * xmm_count(cpu) : component_bytes(cpu, component);
        vec_image_use(cpu, component);
        result = n ? area_write(area, offset, cpu->xsave + at, n) : SOFT_OK;
    }
    if (!in_use) /* materialized for the copy only */
        vec_image_init(cpu, component);
    return result;
}

/* XSTATE_BV: bits outside the request stay what they are in memory. */
static int save_header_standard(struct soft_cpu *cpu, const struct area *area, uint64_t rfbm, uint64_t in_use)
{
    uint64_t bv;
    int result = mmu_read(cpu, area->gva + XSAVE_HEADER, &bv, sizeof(bv), MMU_READ);

    if (result != SOFT_OK)
        return result;
    bv = (bv & ~rfbm) | (in_use & rfbm);
    return area_write(area, XSAVE_HEADER, &bv, sizeof(bv));
}

/* Checks and opens the operand of a save instruction. */
static int save_begin(struct soft_cpu *cpu, const struct insn *insn, struct area *area, uint64_t rfbm, bool compacted)
{
    unsigned size = cpuid_xsave_size(cpu->svm->cpuid, rfbm, compacted);
    gva_t gva;
    int result = check_xsave(cpu);

    if (result == SOFT_OK)
        result = operand_linear(cpu, insn, 64, size, true, &gva);
    if (result != SOFT_OK)
        return result;
    soft_vec_park(cpu);
    return area_open_write(area, cpu, gva, size);
}

/* XSAVE, XSAVE64, XSAVEOPT, XSAVEOPT64. XSAVEOPT leaves out initial components; that it may leave out unmodified ones is a hint. */
int sys_xsave(struct soft_cpu *cpu, const struct insn *insn)
{
    bool optimized = insn->mnemonic == ZYDIS_MNEMONIC_XSAVEOPT || insn->mnemonic == ZYDIS_MNEMONIC_XSAVEOPT64;
    uint64_t rfbm = get_rfbm(cpu), in_use;
    struct area area;
    int result = save_begin(cpu, insn, &area, rfbm, false);

    if (result != SOFT_OK)
        return result;
    in_use = vec_xstate_bv(cpu);
    for (unsigned i = 0; i < XSTATE_COUNT && result == SOFT_OK; i++) {
        if (!(rfbm & BIT(i)) || (optimized && !(in_use & BIT(i))))
            continue;
        result = save_component(cpu, &area, i, i == XSTATE_SSE ? FX_XMM : cpu->svm->cpuid->xstate[i].offset);
    }
    if (result == SOFT_OK && (rfbm & (XCR0_SSE | XCR0_AVX)))
        result = save_mxcsr(cpu, &area);
    return result != SOFT_OK ? result : save_header_standard(cpu, &area, rfbm, in_use);
}

/* XSAVEC, XSAVEC64 */
int sys_xsavec(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t rfbm = get_rfbm(cpu), saved, header[2];
    struct area area;
    int result = save_begin(cpu, insn, &area, rfbm, true);

    if (result != SOFT_OK)
        return result;
    saved = vec_xstate_bv(cpu);
    if (vec_get32(cpu->xsave + FX_MXCSR) != MXCSR_INIT) /* counts as SSE state here (13.10) */
        saved |= XCR0_SSE;
    saved &= rfbm;
    for (unsigned i = 0; i < XSTATE_COUNT && result == SOFT_OK; i++)
        if (saved & BIT(i))
            result = save_component(cpu, &area, i, i == XSTATE_SSE ? FX_XMM : compacted_offset(cpu->svm->cpuid, rfbm, i));
    if (result == SOFT_OK && (saved & XCR0_SSE))
        result = save_mxcsr(cpu, &area);
    header[0] = saved;
    header[1] = rfbm | XCOMP_COMPACTED;
    return result != SOFT_OK ? result : area_write(&area, XSAVE_HEADER, header, sizeof(header));
}

struct xrstor {
    uint64_t rfbm, bv, xcomp;
    bool compacted;
    uint8_t legacy[XSAVE_EXTENDED]; /* the legacy region and the header, copied once and then checked */
};

/* SDM vol. 1 13.8: what of the header is #GP. */
static bool header_is_valid(const struct soft_cpu *cpu, const struct xrstor *x)
{
    const uint8_t *header = x->legacy + XSAVE_HEADER;

    for (unsigned i = 16; i < (x->compacted ? 64 : 24); i++)
        if (header[i])
            return false;
    if (!x->compacted)
        return !(x->bv & ~cpu->xcr0) && x->xcomp == 0;
    uint64_t present = x->xcomp & ~XCOMP_COMPACTED;
    return cpuid_offers(cpu->svm, X86_XSAVEC) && !(present & ~cpu->xcr0) && !(x->bv & ~present);
}

/* True when MXCSR comes from memory: always in the standard form, with SSE state in the compacted one. */
static bool loads_mxcsr(const struct xrstor *x)
{
    return x->compacted ? (x->rfbm & x->bv & XCR0_SSE) : (x->rfbm & (XCR0_SSE | XCR0_AVX));
}

static void restore_legacy(struct soft_cpu *cpu, const struct xrstor *x)
{
    unsigned xmm_bytes = 16 * xmm_count(cpu);

    if (loads_mxcsr(x))
        memcpy(cpu->xsave + FX_MXCSR, x->legacy + FX_MXCSR, 4);
    else if (x->rfbm & XCR0_SSE)
        vec_put32(cpu->xsave + FX_MXCSR, MXCSR_INIT);
    if (x->rfbm & x->bv & XCR0_X87)
        set_x87(cpu, x->legacy);
    else if (x->rfbm & XCR0_X87)
        vec_image_init(cpu, XSTATE_X87);
    if (!(x->rfbm & XCR0_SSE))
        return;
    if (x->bv & XCR0_SSE) {
        vec_image_use(cpu, XSTATE_SSE);
        memcpy(cpu->xsave + FX_XMM, x->legacy + FX_XMM, xmm_bytes);
    } else if (cpu->code_bits == 64) {
        vec_image_init(cpu, XSTATE_SSE);
    } else {
        vec_image_use(cpu, XSTATE_SSE);
        memset(cpu->xsave + FX_XMM, 0, xmm_bytes);
    }
}

/* extended: the bytes of the area from its start; components that are not in bv become initial. */
static void restore_extended(struct soft_cpu *cpu, const struct xrstor *x, const uint8_t *extended)
{
    const struct soft_cpuid *model = cpu->svm->cpuid;

    for (unsigned i = XSTATE_AVX; i < XSTATE_COUNT; i++) {
        unsigned n = component_bytes(cpu, i);
        if (!(x->rfbm & BIT(i)) || !n)
            continue;
        if (x->bv & BIT(i)) {
            unsigned at = x->compacted ? compacted_offset(model, x->xcomp, i) : model->xstate[i].offset;
            vec_image_use(cpu, i);
            memcpy(cpu->xsave + model->xstate[i].offset, extended + at, n);
        } else if (n == model->xstate[i].size) {
            vec_image_init(cpu, i);
        } else {
            vec_image_use(cpu, i);
            memset(cpu->xsave + model->xstate[i].offset, 0, n);
        }
    }
}

/* How much of the area XRSTOR reads: up to the last component that it loads. */
static unsigned restore_size(const struct soft_cpuid *model, const struct xrstor *x)
{
    uint64_t loaded = x->rfbm & x->bv, below;

    if (!x->compacted)
        return cpuid_xsave_size(model, loaded, false);
    loaded &= ~(XCR0_X87 | XCR0_SSE);
    if (!loaded)
        return XSAVE_EXTENDED;
    below = (2ULL << (63 - __builtin_clzll(loaded))) - 1;
    return cpuid_xsave_size(model, x->xcomp & below, true);
}

static int xrstor_begin(struct soft_cpu *cpu, const struct insn *insn, struct xrstor *x, gva_t *gva)
{
    int result = check_xsave(cpu);

    if (result == SOFT_OK)
        result = operand_linear(cpu, insn, 64, XSAVE_EXTENDED, false, gva);
    if (result != SOFT_OK)
        return result;
    soft_vec_park(cpu);
    result = mmu_read(cpu, *gva, x->legacy, sizeof(x->legacy), MMU_READ);
    if (result != SOFT_OK)
        return result;
    x->rfbm = get_rfbm(cpu);
    x->bv = vec_get64(x->legacy + XSAVE_HEADER);
    x->xcomp = vec_get64(x->legacy + XSAVE_HEADER + 8);
    x->compacted = x->xcomp & XCOMP_COMPACTED;
    if (!header_is_valid(cpu, x))
        return gp0(cpu);
    if (loads_mxcsr(x) && (vec_get32(x->legacy + FX_MXCSR) & ~cpu->svm->cpuid->mxcsr_mask))
        return gp0(cpu);
    return SOFT_OK;
}

/* XRSTOR, XRSTOR64 */
int sys_xrstor(struct soft_cpu *cpu, const struct insn *insn)
{
    struct xrstor x;
    uint8_t copy[XSAVE_MAX];
    unsigned size;
    gva_t gva;
    int result = xrstor_begin(cpu, insn, &x, &gva);

    if (result != SOFT_OK)
        return result;
    size = restore_size(cpu->svm->cpuid, &x);
    if (size > XSAVE_EXTENDED) {
        result = operand_linear(cpu, insn, 64, size, false, &gva);
        if (result == SOFT_OK)
            result = mmu_read(cpu, gva, copy, size, MMU_READ);
        if (result != SOFT_OK)
            return result;
    }
    restore_legacy(cpu, &x);
    restore_extended(cpu, &x, copy);
    return SOFT_OK;
}

/* --- the x87 environment: SDM vol. 1 8.1.10 --- */

#define FSW_ES 0x80u
#define FSW_B 0x8000u
#define FCW_EXCEPTIONS 0x3fu
#define ENV_BYTES(size) ((size) == 2 ? 14u : 28u)
#define ST_BYTES 80

/* The operand-size attribute chooses the layout; REX.W changes nothing. */
static unsigned env_field(const struct insn *insn)
{
    return insn->opsize == 2 ? 2 : 4;
}

/* Two bits a physical register: valid, zero, special, empty. The image has one. */
static uint16_t full_tags(const struct soft_cpu *cpu)
{
    uint8_t abridged = cpu->xsave[FX_FTW];
    unsigned top = vec_get16(cpu->xsave + FX_FSW) >> 11 & 7, tags = 0;

    for (unsigned i = 0; i < 8; i++) {
        const uint8_t *st = cpu->xsave + FX_ST + 16 * ((i - top) & 7);
        uint64_t mantissa = vec_get64(st);
        unsigned exponent = vec_get16(st + 8) & 0x7fff, tag = 2;
        if (!(abridged >> i & 1))
            tag = 3;
        else if (exponent == 0 && mantissa == 0)
            tag = 1;
        else if (exponent != 0 && exponent != 0x7fff && mantissa >> 63)
            tag = 0;
        tags |= tag << (2 * i);
    }
    return (uint16_t)tags;
}

/* Seven fields: FCW, FSW, FTW, FIP, FCS and FOP, FDP, FDS; 32-bit ones have ones in their reserved halves. */
static void put_env(const struct soft_cpu *cpu, uint8_t *out, unsigned field)
{
    uint16_t word[3] = {vec_get16(cpu->xsave + FX_FCW), vec_get16(cpu->xsave + FX_FSW), full_tags(cpu)};

    memset(out, 0, ENV_BYTES(field));
    for (unsigned i = 0; i < 3; i++) {
        vec_put16(out + i * field, word[i]);
        if (field == 4)
            vec_put16(out + i * 4 + 2, 0xffff);
    }
    if (field == 4)
        vec_put16(out + 6 * 4 + 2, 0xffff);
}

/* ES and B say whether an unmasked exception is pending; they follow from the rest. */
static void update_summary(struct soft_cpu *cpu)
{
    unsigned fcw = vec_get16(cpu->xsave + FX_FCW), fsw = vec_get16(cpu->xsave + FX_FSW);

    fsw &= ~(FSW_ES | FSW_B);
    if (fsw & ~fcw & FCW_EXCEPTIONS)
        fsw |= FSW_ES | FSW_B;
    vec_put16(cpu->xsave + FX_FSW, (uint16_t)fsw);
}

static void get_env(struct soft_cpu *cpu, const uint8_t *in, unsigned field)
{
    unsigned tags = vec_get16(in + 2 * field), abridged = 0;

    vec_image_use(cpu, XSTATE_X87);
    for (unsigned i = 0; i < 8; i++)
        if ((tags >> (2 * i) & 3) != 3)
            abridged |= 1u << i;
    vec_put16(cpu->xsave + FX_FCW, (vec_get16(in) & 0x1f3f) | 0x40); /* bit 6 reads as 1, the other reserved ones as 0 */
    vec_image_set_top(cpu, vec_get16(in + field) >> 11 & 7);
    vec_put16(cpu->xsave + FX_FSW, vec_get16(in + field));
    vec_put16(cpu->xsave + FX_FTW, (uint16_t)abridged);
    memset(cpu->xsave + FX_FOP, 0, FX_MXCSR - FX_FOP);
    update_summary(cpu);
}

/* A waiting instruction: an exception that is pending comes first. */
static int check_pending(struct soft_cpu *cpu)
{
    if (!(vec_xstate_bv(cpu) & XCR0_X87) || !(vec_get16(cpu->xsave + FX_FSW) & FSW_ES) || !(cpu->cr0 & CR0_NE))
        return SOFT_OK;
    return soft_raise(cpu, EXC_MF);
}

static int store_x87(struct soft_cpu *cpu, const struct insn *insn, bool registers)
{
    uint8_t image[28 + ST_BYTES];
    unsigned field = env_field(insn), env = ENV_BYTES(field), size = registers ? env + ST_BYTES : env;
    gva_t gva;
    int result = operand_linear(cpu, insn, 1, size, true, &gva);

    if (result == SOFT_OK)
        result = soft_check_alignment(cpu, gva, field);
    if (result != SOFT_OK)
        return result;
    soft_vec_park(cpu);
    vec_image_use(cpu, XSTATE_X87);
    put_env(cpu, image, field);
    for (unsigned i = 0; i < 8 && registers; i++)
        memcpy(image + env + 10 * i, cpu->xsave + FX_ST + 16 * i, 10);
    return mmu_write(cpu, gva, image, size, MMU_WRITE);
}

/* FNSTENV: masks all exceptions afterwards. */
int sys_fnstenv(struct soft_cpu *cpu, const struct insn *insn)
{
    int result = store_x87(cpu, insn, false);

    if (result != SOFT_OK)
        return result;
    vec_put16(cpu->xsave + FX_FCW, vec_get16(cpu->xsave + FX_FCW) | FCW_EXCEPTIONS);
    update_summary(cpu);
    return SOFT_OK;
}

/* FNSAVE: initializes the x87 afterwards, as FNINIT does; register contents stay but are tagged empty. */
int sys_fnsave(struct soft_cpu *cpu, const struct insn *insn)
{
    int result = store_x87(cpu, insn, true);

    if (result != SOFT_OK)
        return result;
    vec_image_set_top(cpu, 0);
    memset(cpu->xsave, 0, FX_MXCSR);
    vec_put16(cpu->xsave + FX_FCW, FCW_INIT);
    return SOFT_OK;
}

static int load_x87(struct soft_cpu *cpu, const struct insn *insn, bool registers)
{
    uint8_t image[28 + ST_BYTES];
    unsigned field = env_field(insn), env = ENV_BYTES(field), size = registers ? env + ST_BYTES : env;
    gva_t gva;
    int result;

    soft_vec_park(cpu);
    result = check_pending(cpu);
    if (result == SOFT_OK)
        result = operand_linear(cpu, insn, 1, size, false, &gva);
    if (result == SOFT_OK)
        result = soft_check_alignment(cpu, gva, field);
    if (result == SOFT_OK)
        result = mmu_read(cpu, gva, image, size, MMU_READ);
    if (result != SOFT_OK)
        return result;
    get_env(cpu, image, field);
    for (unsigned i = 0; i < 8 && registers; i++) {
        memset(cpu->xsave + FX_ST + 16 * i, 0, 16);
        memcpy(cpu->xsave + FX_ST + 16 * i, image + env + 10 * i, 10);
    }
    return SOFT_OK;
}

/* FLDENV */
int sys_fldenv(struct soft_cpu *cpu, const struct insn *insn)
{
    return load_x87(cpu, insn, false);
}

/* FRSTOR */
int sys_frstor(struct soft_cpu *cpu, const struct insn *insn)
{
    return load_x87(cpu, insn, true);
}

/* --- MXCSR --- */

/* LDMXCSR, VLDMXCSR */
int sys_ldmxcsr(struct soft_cpu *cpu, const struct insn *insn)
{
    uint64_t value;
    int result = soft_op_read(cpu, insn, 0, &value);

    if (result != SOFT_OK)
        return result;
    if (value & ~(uint64_t)cpu->svm->cpuid->mxcsr_mask)
        return gp0(cpu);
    soft_vec_park(cpu);
    vec_put32(cpu->xsave + FX_MXCSR, (uint32_t)value);
    return SOFT_OK;
}

/* STMXCSR, VSTMXCSR */
int sys_stmxcsr(struct soft_cpu *cpu, const struct insn *insn)
{
    soft_vec_park(cpu);
    return soft_op_write(cpu, insn, 0, vec_get32(cpu->xsave + FX_MXCSR));
}
