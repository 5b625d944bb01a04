/* The CPU model: an allow-list of features over the host's CPUID, and the CPUID instruction. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bug.h"
#include "engine/soft/cpuid.h"
#include "engine/soft/sys.h"
#include "x86/paging.h"
#include "x86/topology.h"

enum { EAX, EBX, ECX, EDX };

/*
 * Why a feature may be offered. HOST: guest code uses it on the host's own hardware, so the host must have it.
 * OURS: the engine carries it out in C. CLAIM: a promise about speculation, which holds because guest branches never
 * run untranslated.
 */
enum offer { HOST, OURS, CLAIM };
enum vendor { ANY, AMD, INTEL };

struct feature {
    uint16_t bit; /* enum x86_feature */
    uint8_t offer, vendor;
    const char *name;
};

/* A bit is here once the instruction tests cover it. */
static const struct feature features[] = {
    {X86_FPU, HOST, ANY, "fpu"},
    {X86_DE, OURS, ANY, "de"},
    {X86_PSE, OURS, ANY, "pse"},
    {X86_TSC, OURS, ANY, "tsc"},
    {X86_MSR, OURS, ANY, "msr"},
    {X86_PAE, OURS, ANY, "pae"},
    {X86_CX8, HOST, ANY, "cx8"},
    {X86_APIC, OURS, ANY, "apic"},
    {X86_SEP, OURS, ANY, "sep"},
    {X86_PGE, OURS, ANY, "pge"},
    {X86_CMOV, HOST, ANY, "cmov"},
    {X86_PAT, OURS, ANY, "pat"},
    {X86_CLFLUSH, HOST, ANY, "clflush"},
    {X86_MMX, HOST, ANY, "mmx"},
    {X86_FXSR, OURS, ANY, "fxsr"},
    {X86_SSE, HOST, ANY, "sse"},
    {X86_SSE2, HOST, ANY, "sse2"},
    {X86_SSE3, HOST, ANY, "sse3"},
    {X86_PCLMULQDQ, HOST, ANY, "pclmulqdq"},
    {X86_SSSE3, HOST, ANY, "ssse3"},
    {X86_FMA, HOST, ANY, "fma"},
    {X86_CX16, HOST, ANY, "cx16"},
    {X86_SSE41, HOST, ANY, "sse4_1"},
    {X86_SSE42, HOST, ANY, "sse4_2"},
    {X86_X2APIC, OURS, ANY, "x2apic"},
    {X86_MOVBE, HOST, ANY, "movbe"},
    {X86_POPCNT, HOST, ANY, "popcnt"},
    {X86_TSC_DEADLINE, OURS, ANY, "tsc_deadline"},
    {X86_AES, HOST, ANY, "aes"},
    {X86_XSAVE, HOST, ANY, "xsave"},
    {X86_AVX, HOST, ANY, "avx"},
    {X86_F16C, HOST, ANY, "f16c"},
    {X86_RDRAND, HOST, ANY, "rdrand"},
    {X86_HYPERVISOR, OURS, ANY, "hypervisor"},
    {X86_ARAT, OURS, ANY, "arat"},
    {X86_FSGSBASE, OURS, ANY, "fsgsbase"},
    {X86_TSC_ADJUST, OURS, ANY, "tsc_adjust"},
    {X86_BMI1, HOST, ANY, "bmi1"},
    {X86_AVX2, HOST, ANY, "avx2"},
    {X86_SMEP, OURS, ANY, "smep"},
    {X86_BMI2, HOST, ANY, "bmi2"},
    {X86_ERMS, OURS, ANY, "erms"},
    {X86_ZERO_FCS_FDS, OURS, ANY, "zero_fcs_fds"},
    {X86_AVX512F, HOST, ANY, "avx512f"},
    {X86_AVX512DQ, HOST, ANY, "avx512dq"},
    {X86_RDSEED, HOST, ANY, "rdseed"},
    {X86_ADX, HOST, ANY, "adx"},
    {X86_AVX512_IFMA, HOST, ANY, "avx512ifma"},
    {X86_CLFLUSHOPT, HOST, ANY, "clflushopt"},
    {X86_CLWB, HOST, ANY, "clwb"},
    {X86_AVX512CD, HOST, ANY, "avx512cd"},
    {X86_SHA, HOST, ANY, "sha"},
    {X86_AVX512BW, HOST, ANY, "avx512bw"},
    {X86_AVX512VL, HOST, ANY, "avx512vl"},
    {X86_AVX512_VBMI, HOST, ANY, "avx512vbmi"},
    {X86_UMIP, OURS, ANY, "umip"},
    {X86_AVX512_VBMI2, HOST, ANY, "avx512vbmi2"},
    {X86_GFNI, HOST, ANY, "gfni"},
    {X86_VAES, HOST, ANY, "vaes"},
    {X86_VPCLMULQDQ, HOST, ANY, "vpclmulqdq"},
    {X86_AVX512_VNNI, HOST, ANY, "avx512vnni"},
    {X86_AVX512_BITALG, HOST, ANY, "avx512bitalg"},
    {X86_AVX512_VPOPCNTDQ, HOST, ANY, "avx512vpopcntdq"},
    {X86_RDPID, OURS, ANY, "rdpid"},
    {X86_FSRM, OURS, ANY, "fsrm"},
    {X86_AVX512_BF16, HOST, ANY, "avx512bf16"},
    {X86_XSAVEOPT, OURS, ANY, "xsaveopt"},
    {X86_XSAVEC, OURS, ANY, "xsavec"},
    {X86_XGETBV1, OURS, ANY, "xgetbv1"},
    {X86_LAHF_LM, OURS, ANY, "lahf_lm"},
    {X86_LZCNT, HOST, ANY, "lzcnt"},
    {X86_SSE4A, HOST, AMD, "sse4a"},
    {X86_MISALIGNSSE, HOST, AMD, "misalignsse"},
    {X86_PREFETCHW, HOST, ANY, "prefetchw"},
    {X86_TOPOEXT, OURS, AMD, "topoext"},
    {X86_SYSCALL, OURS, ANY, "syscall"},
    {X86_NX, OURS, ANY, "nx"},
    {X86_MMXEXT, HOST, AMD, "mmxext"},
    {X86_PDPE1GB, OURS, ANY, "pdpe1gb"},
    {X86_RDTSCP, OURS, ANY, "rdtscp"},
    {X86_LM, OURS, ANY, "lm"},
    {X86_INVARIANT_TSC, OURS, ANY, "invariant_tsc"},
    {X86_CLZERO, OURS, AMD, "clzero"},
    {X86_XSAVEERPTR, HOST, AMD, "xsaveerptr"},
    {X86_LFENCE_SERIALIZES, OURS, AMD, "lfence_serializes"},
    {X86_NULL_SEL_CLEARS_BASE, OURS, AMD, "null_sel_clears_base"},
    {X86_SPEC_CTRL, CLAIM, INTEL, "spec_ctrl"},
    {X86_ARCH_CAPABILITIES, CLAIM, INTEL, "arch_capabilities"},
    {X86_SSB_NO, CLAIM, AMD, "ssb_no"},
    {X86_BTC_NO, CLAIM, AMD, "btc_no"},
    {X86_AUTO_IBRS, CLAIM, AMD, "auto_ibrs"},
    {X86_SRSO_NO, CLAIM, AMD, "srso_no"},
    {X86_TSA_SQ_NO, CLAIM, AMD, "tsa_sq_no"},
    {X86_TSA_L1_NO, CLAIM, AMD, "tsa_l1_no"},
};

/* Where each feature word comes from. */
static const struct {
    uint32_t leaf, sub;
    uint8_t reg;
} words[CPUID_WORD_COUNT] = {
    [CPUID_1_ECX] = {1, 0, ECX},
    [CPUID_1_EDX] = {1, 0, EDX},
    [CPUID_6_EAX] = {6, 0, EAX},
    [CPUID_7_EBX] = {7, 0, EBX},
    [CPUID_7_ECX] = {7, 0, ECX},
    [CPUID_7_EDX] = {7, 0, EDX},
    [CPUID_7_1_EAX] = {7, 1, EAX},
    [CPUID_D_1_EAX] = {0xd, 1, EAX},
    [CPUID_80000001_ECX] = {0x80000001, 0, ECX},
    [CPUID_80000001_EDX] = {0x80000001, 0, EDX},
    [CPUID_80000007_EDX] = {0x80000007, 0, EDX},
    [CPUID_80000008_EBX] = {0x80000008, 0, EBX},
    [CPUID_80000021_EAX] = {0x80000021, 0, EAX},
    [CPUID_80000021_ECX] = {0x80000021, 0, ECX},
};

/* The hypervisor's leaves (Documentation/virt/kvm/x86/cpuid.rst). */
#define KVM_LEAF 0x40000000u
#define KVM_LEAF_FEATURES 0x40000001u
#define KVM_FEATURE_NOP_IO_DELAY BIT(1)
#define KVM_FEATURE_CLOCKSOURCE2 BIT(3)
#define KVM_FEATURE_CLOCKSOURCE_STABLE_BIT BIT(24)

/* The bits of leaf 1 EDX that AMD repeats in 0x80000001 EDX: 9:0, 17:12, 24:23 (APM vol. 3 E.4.2). */
#define AMD_REPEATED_EDX 0x0183f3ffu

static void host_cpuid(uint32_t leaf, uint32_t sub, uint32_t out[4])
{
    __asm__ volatile("cpuid" : "=a"(out[EAX]), "=b"(out[EBX]), "=c"(out[ECX]), "=d"(out[EDX]) : "a"(leaf), "c"(sub));
}

/* All zero for a leaf that the host does not have: Intel would answer with some other leaf's data. */
static void host_leaf(uint32_t leaf, uint32_t sub, uint32_t out[4])
{
    uint32_t max[4];

    host_cpuid(leaf & 0x80000000, 0, max);
    if (leaf <= max[EAX])
        host_cpuid(leaf, sub, out);
    else
        out[EAX] = out[EBX] = out[ECX] = out[EDX] = 0;
}

static uint64_t host_xcr0(void)
{
    uint32_t out[4], lo, hi;

    host_leaf(1, 0, out);
    if (!(out[ECX] & BIT(X86_FEATURE_BIT(X86_OSXSAVE))))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

static void host_words(uint32_t word[CPUID_WORD_COUNT])
{
    for (unsigned i = 0; i < CPUID_WORD_COUNT; i++) {
        uint32_t out[4];
        host_leaf(words[i].leaf, words[i].sub, out);
        word[i] = out[words[i].reg];
    }
}

static bool host_is_amd(void)
{
    uint32_t out[4];

    host_cpuid(0, 0, out);
    /* "AuthenticAMD", "HygonGenuine" */
    return out[ECX] == 0x444d4163 || out[ECX] == 0x656e6975;
}

static bool word_has(const uint32_t word[CPUID_WORD_COUNT], unsigned feature)
{
    return word[X86_FEATURE_WORD(feature)] >> X86_FEATURE_BIT(feature) & 1;
}

/* Which XSAVE component an instruction set needs, beyond x87 and SSE. */
static uint64_t feature_xcr0(unsigned feature)
{
    switch (feature) {
    case X86_AVX:
    case X86_AVX2:
    case X86_F16C:
    case X86_FMA:
    case X86_VAES:
    case X86_VPCLMULQDQ: return XCR0_AVX;
    case X86_AVX512F:
    case X86_AVX512DQ:
    case X86_AVX512_IFMA:
    case X86_AVX512CD:
    case X86_AVX512BW:
    case X86_AVX512VL:
    case X86_AVX512_VBMI:
    case X86_AVX512_VBMI2:
    case X86_AVX512_VNNI:
    case X86_AVX512_BITALG:
    case X86_AVX512_VPOPCNTDQ:
    case X86_AVX512_BF16: return XCR0_AVX512;
    default: return 0;
    }
}

/* Host features AND the allow-list, with the vector state that the host's own kernel has enabled. */
static void choose_features(struct soft_cpuid *model)
{
    uint32_t host[CPUID_WORD_COUNT];
    uint64_t xcr0 = host_xcr0() & (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512);

    host_words(host);
    if ((xcr0 & XCR0_AVX512) != XCR0_AVX512 || !word_has(host, X86_AVX512F))
        xcr0 &= ~XCR0_AVX512;
    if (!(xcr0 & XCR0_AVX) || !word_has(host, X86_AVX))
        xcr0 &= XCR0_X87 | XCR0_SSE;
    if (!word_has(host, X86_XSAVE))
        xcr0 = 0;
    model->xcr0 = xcr0;
    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        const struct feature *f = &features[i];
        uint64_t needs = feature_xcr0(f->bit);
        if (f->offer == HOST && (!word_has(host, f->bit) || (needs & ~xcr0)))
            continue;
        if ((f->vendor == AMD && !model->amd) || (f->vendor == INTEL && model->amd))
            continue;
        model->word[X86_FEATURE_WORD(f->bit)] |= 1u << X86_FEATURE_BIT(f->bit);
    }
    if (!xcr0)
        model->word[CPUID_D_1_EAX] = 0;
    if (model->amd)
        model->word[CPUID_80000001_EDX] |= model->word[CPUID_1_EDX] & AMD_REPEATED_EDX;
}

static void choose_xstate(struct soft_cpuid *model)
{
    model->xstate[XSTATE_X87].size = 160;
    model->xstate[XSTATE_SSE].size = 256;
    model->xstate[XSTATE_SSE].offset = 160;
    for (unsigned i = XSTATE_AVX; i < XSTATE_COUNT; i++) {
        uint32_t out[4];
        if (!(model->xcr0 & BIT(i)))
            continue;
        host_leaf(0xd, i, out);
        model->xstate[i].size = out[EAX];
        model->xstate[i].offset = out[EBX];
        model->xstate[i].align64 = out[ECX] & 2;
    }
}

uint32_t cpuid_xsave_size(const struct soft_cpuid *model, uint64_t components, bool compacted)
{
    uint32_t end = XSAVE_EXTENDED;

    for (unsigned i = XSTATE_AVX; i < XSTATE_COUNT; i++) {
        if (!(components & model->xcr0 & BIT(i)))
            continue;
        if (!compacted)
            end = MAX(end, model->xstate[i].offset + model->xstate[i].size);
        else
            end = (model->xstate[i].align64 ? ALIGN_UP(end, 64u) : end) + model->xstate[i].size;
    }
    return end;
}

static uint32_t host_mxcsr_mask(void)
{
    uint8_t image[XSAVE_LEGACY_BYTES] __attribute__((aligned(16)));
    uint32_t mask;

    memset(image, 0, sizeof(image));
    __asm__ volatile("fxsave %0" : "=m"(image) : : "memory");
    memcpy(&mask, image + 28, sizeof(mask));
    return mask ? mask : 0xffbf; /* SDM vol. 1 11.6.6 */
}

static bool model_has(const struct soft_cpuid *model, unsigned feature)
{
    return word_has(model->word, feature);
}

/* Bits of CR4 and EFER that the offered features define. */
static void choose_control_bits(struct soft_cpuid *model)
{
    static const struct {
        uint16_t feature;
        uint64_t bits;
    } cr4[] = {
        {X86_VME, CR4_VME | CR4_PVI}, {X86_TSC, CR4_TSD},        {X86_DE, CR4_DE},         {X86_PSE, CR4_PSE},
        {X86_PAE, CR4_PAE},           {X86_MCE, CR4_MCE},        {X86_PGE, CR4_PGE},       {X86_MSR, CR4_PCE},
        {X86_FXSR, CR4_OSFXSR},       {X86_SSE, CR4_OSXMMEXCPT}, {X86_UMIP, CR4_UMIP},     {X86_LA57, CR4_LA57},
        {X86_FSGSBASE, CR4_FSGSBASE}, {X86_PCID, CR4_PCIDE},     {X86_XSAVE, CR4_OSXSAVE}, {X86_SMEP, CR4_SMEP},
        {X86_SMAP, CR4_SMAP},         {X86_PKU, CR4_PKE},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cr4); i++)
        if (model_has(model, cr4[i].feature))
            model->cr4 |= cr4[i].bits;
    model->efer = EFER_SCE | EFER_LME | EFER_NXE;
    if (model_has(model, X86_AUTO_IBRS))
        model->efer |= EFER_AIBRSE;
}

static void add_leaf(struct soft_cpuid *model, uint32_t leaf, uint32_t sub, bool any_sub, const uint32_t out[4])
{
    BUG_ON(model->leaf_count == SOFT_CPUID_LEAVES);
    struct soft_cpuid_leaf *l = &model->leaf[model->leaf_count++];

    l->leaf = leaf;
    l->sub = sub;
    l->any_sub = any_sub;
    memcpy(l->out, out, sizeof(l->out));
}

static void add_basic(struct soft_cpuid *model)
{
    uint32_t out[4];

    host_leaf(0, 0, out);
    out[EAX] = model->amd ? 0xd : 0x1f;
    add_leaf(model, 0, 0, true, out);

    host_leaf(1, 0, out); /* family, model and stepping are the host's */
    out[EBX] &= 0xff00;
    out[ECX] = model->word[CPUID_1_ECX];
    out[EDX] = model->word[CPUID_1_EDX];
    add_leaf(model, 1, 0, true, out);

    if (!model->amd) {
        host_leaf(2, 0, out);
        add_leaf(model, 2, 0, true, out);
    }
    add_leaf(model, 6, 0, true, (uint32_t[4]){model->word[CPUID_6_EAX]});
    add_leaf(model, 7, 0, false, (uint32_t[4]){1, model->word[CPUID_7_EBX], model->word[CPUID_7_ECX], model->word[CPUID_7_EDX]});
    add_leaf(model, 7, 1, false, (uint32_t[4]){model->word[CPUID_7_1_EAX]});
}

/* Deterministic cache parameters: the host's, but for who shares them. */
static void add_caches(struct soft_cpuid *model, uint32_t leaf)
{
    for (unsigned i = 0; i < 8; i++) {
        uint32_t out[4];
        host_leaf(leaf, i, out);
        if (!(out[EAX] & 0x1f)) /* no more caches */
            break;
        out[EAX] &= 0x3fff;
        add_leaf(model, leaf, i, false, out);
    }
}

/* A host may be a guest itself, without this leaf. */
static void add_amd_caches(struct soft_cpuid *model)
{
    uint32_t l1[4], l2_l3[4], out[4];

    host_leaf(0x8000001d, 0, out);
    if (out[EAX] & 0x1f) {
        add_caches(model, 0x8000001d);
        return;
    }
    host_leaf(0x80000005, 0, l1);
    host_leaf(0x80000006, 0, l2_l3);
    for (unsigned i = 0; cpuid_amd_cache(l1, l2_l3, i, out); i++)
        add_leaf(model, 0x8000001d, i, false, out);
}

static void add_xsave(struct soft_cpuid *model)
{
    uint32_t size = cpuid_xsave_size(model, model->xcr0, false);

    if (!model->xcr0)
        return;
    /* EBX depends on XCR0: cpuid_guest() */
    add_leaf(model, 0xd, 0, false, (uint32_t[4]){(uint32_t)model->xcr0, size, size, 0});
    add_leaf(model, 0xd, 1, false, (uint32_t[4]){model->word[CPUID_D_1_EAX]});
    for (unsigned i = XSTATE_AVX; i < XSTATE_COUNT; i++)
        if (model->xcr0 & BIT(i))
            add_leaf(model, 0xd, i, false, (uint32_t[4]){model->xstate[i].size, model->xstate[i].offset, model->xstate[i].align64 ? 2 : 0});
}

static void add_hypervisor(struct soft_cpuid *model)
{
    uint32_t out[4] = {KVM_LEAF_FEATURES};

    memcpy(&out[EBX], "KVMKVMKVM\0\0\0", 12);
    add_leaf(model, KVM_LEAF, 0, true, out);
    add_leaf(model, KVM_LEAF_FEATURES, 0, true,
             (uint32_t[4]){KVM_FEATURE_NOP_IO_DELAY | KVM_FEATURE_CLOCKSOURCE2 | KVM_FEATURE_CLOCKSOURCE_STABLE_BIT});
}

static void add_extended(struct soft_cpuid *model)
{
    uint32_t out[4];

    host_leaf(0x80000000, 0, out);
    out[EAX] = model->amd ? 0x80000021 : 0x80000008;
    add_leaf(model, 0x80000000, 0, true, out);

    host_leaf(0x80000001, 0, out);
    out[EBX] &= model->amd ? 0xf0000000 : 0; /* AMD: package type */
    out[ECX] = model->word[CPUID_80000001_ECX];
    out[EDX] = model->word[CPUID_80000001_EDX];
    add_leaf(model, 0x80000001, 0, true, out);

    /* The brand string, and caches and TLBs as they are. */
    for (uint32_t leaf = 0x80000002; leaf <= 0x80000006; leaf++) {
        host_leaf(leaf, 0, out);
        add_leaf(model, leaf, 0, true, out);
    }
    add_leaf(model, 0x80000007, 0, true, (uint32_t[4]){0, 0, 0, model->word[CPUID_80000007_EDX]});
    out[EAX] = 48 << 8 | GUEST_PHYS_BITS;
    out[EBX] = model->word[CPUID_80000008_EBX];
    out[ECX] = out[EDX] = 0;
    add_leaf(model, 0x80000008, 0, true, out);
    if (!model->amd)
        return;
    add_amd_caches(model);
    add_leaf(model, 0x8000001e, 0, true, (uint32_t[4]){0});
    add_leaf(model, 0x80000021, 0, true, (uint32_t[4]){model->word[CPUID_80000021_EAX], 0, model->word[CPUID_80000021_ECX], 0});
}

int soft_cpuid_init(struct soft_vm *svm, struct err *e)
{
    struct soft_cpuid *model = calloc(1, sizeof(*model));

    if (!model)
        return err_set(e, ENOMEM, "no memory for the CPU model");
    model->amd = host_is_amd();
    choose_features(model);
    choose_xstate(model);
    choose_control_bits(model);
    model->mxcsr_mask = host_mxcsr_mask();
    if (cpuid_xsave_size(model, model->xcr0, false) > XSAVE_MAX || !model->xcr0) {
        free(model);
        return err_set(e, ENOTSUP, "the software engine needs a host CPU with XSAVE and at most %d bytes of it", XSAVE_MAX);
    }
    add_basic(model);
    if (!model->amd)
        add_caches(model, 4);
    add_leaf(model, 0xb, 0, true, (uint32_t[4]){0});
    if (!model->amd)
        add_leaf(model, 0x1f, 0, true, (uint32_t[4]){0});
    add_xsave(model);
    add_hypervisor(model);
    add_extended(model);
    svm->cpuid = model;
    return 0;
}

void soft_cpuid_fini(struct soft_vm *svm)
{
    free(svm->cpuid);
    svm->cpuid = NULL;
}

bool cpuid_offers(const struct soft_vm *svm, enum x86_feature feature)
{
    return model_has(svm->cpuid, feature);
}

/* What depends on the vCPU, on its place in the topology and on what it has enabled. */
static void patch_leaf(const struct soft_cpu *cpu, uint32_t leaf, uint32_t sub, uint32_t out[4])
{
    x86_topology_cpuid(&cpu->svm->vm->topology, cpu->svm->cpuid->amd, cpu->vcpu->apic_id, leaf, sub, out);
    switch (leaf) {
    case 1:
        if (cpu->cr4 & CR4_OSXSAVE)
            out[ECX] |= 1u << X86_FEATURE_BIT(X86_OSXSAVE);
        if (!(cpu->apic_base & BIT(11))) /* EN */
            out[EDX] &= ~(1u << X86_FEATURE_BIT(X86_APIC));
        break;
    case 0xd:
        if (sub == 0)
            out[EBX] = cpuid_xsave_size(cpu->svm->cpuid, cpu->xcr0, false);
        else if (sub == 1)
            out[EBX] = cpuid_xsave_size(cpu->svm->cpuid, cpu->xcr0, true);
        break;
    case 0x80000001:
        if (!(cpu->apic_base & BIT(11)) && cpu->svm->cpuid->amd)
            out[EDX] &= ~(1u << X86_FEATURE_BIT(X86_APIC));
        break;
    default: break;
    }
}

void cpuid_guest(const struct soft_cpu *cpu, uint32_t leaf, uint32_t sub, uint32_t out[4])
{
    const struct soft_cpuid *model = cpu->svm->cpuid;

    out[EAX] = out[EBX] = out[ECX] = out[EDX] = 0;
    for (unsigned i = 0; i < model->leaf_count; i++) {
        const struct soft_cpuid_leaf *l = &model->leaf[i];
        if (l->leaf != leaf || (!l->any_sub && l->sub != sub))
            continue;
        for (unsigned r = 0; r < 4; r++)
            out[r] = l->out[r];
        patch_leaf(cpu, leaf, sub, out);
        return;
    }
}

int cpuid_describe(char *buf, size_t size)
{
    struct soft_cpuid model = {.amd = host_is_amd()};
    size_t len = 0;

    choose_features(&model);
    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        if (!model_has(&model, features[i].bit))
            continue;
        for (const char *p = len ? " " : ""; *p; p++, len++)
            if (len + 1 < size)
                buf[len] = *p;
        for (const char *p = features[i].name; *p; p++, len++)
            if (len + 1 < size)
                buf[len] = *p;
    }
    if (size)
        buf[MIN(len, size - 1)] = '\0';
    return (int)len;
}

/* CPUID */
int sys_cpuid(struct soft_cpu *cpu, const struct insn *insn)
{
    uint32_t out[4];

    (void)insn;
    cpu->stats.cpuids++;
    cpuid_guest(cpu, (uint32_t)cpu->gpr[GPR_RAX], (uint32_t)cpu->gpr[GPR_RCX], out);
    cpu->gpr[GPR_RAX] = out[EAX];
    cpu->gpr[GPR_RBX] = out[EBX];
    cpu->gpr[GPR_RCX] = out[ECX];
    cpu->gpr[GPR_RDX] = out[EDX];
    return SOFT_OK;
}
