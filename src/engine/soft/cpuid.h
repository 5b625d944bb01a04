/* The CPU model of the software engine: what CPUID tells the guest, and what follows from it. */
#pragma once

#include "engine/soft/soft.h"
#include "x86/cpuid.h"

struct soft_cpuid_leaf {
    uint32_t leaf, sub;
    bool any_sub;    /* the leaf ignores ECX */
    uint32_t out[4]; /* EAX, EBX, ECX, EDX */
};

#define SOFT_CPUID_LEAVES 64

/* Fixed from soft_cpuid_init() on; any thread may read it. */
struct soft_cpuid {
    bool amd;                        /* vendor as the host's; everything else behaves as Intel */
    uint32_t word[CPUID_WORD_COUNT]; /* the offered features */
    uint64_t xcr0;                   /* components offered */
    uint64_t cr4;                    /* bits that the guest may set */
    uint64_t efer;                   /* bits that the guest may set (LMA is not one) */
    uint32_t mxcsr_mask;             /* bits of MXCSR that exist */
    struct {
        uint32_t size, offset; /* in the standard form, which is the host's */
        bool align64;          /* in the compacted form */
    } xstate[XSTATE_COUNT];
    struct soft_cpuid_leaf leaf[SOFT_CPUID_LEAVES];
    unsigned leaf_count;
};

/* Asks the host and makes the model into svm->cpuid. 0 or -errno. Before any guest code runs. */
int soft_cpuid_init(struct soft_vm *, struct err *);
void soft_cpuid_fini(struct soft_vm *);

/* True when the model has the feature, whatever the guest has enabled. No libc inside. */
bool cpuid_offers(const struct soft_vm *, enum x86_feature);

/* What CPUID answers on this vCPU: EAX, EBX, ECX, EDX. No libc inside. */
void cpuid_guest(const struct soft_cpu *, uint32_t leaf, uint32_t sub, uint32_t out[4]);

/*
 * AMD's leaf 0x8000001D, subleaf n, made from leaves 0x80000005 and 0x80000006. False where there is no such cache. The sharing is left open.
 */
bool cpuid_amd_cache(const uint32_t l1[4], const uint32_t l2_l3[4], unsigned n, uint32_t out[4]);

/* Bytes of an XSAVE area for these components, standard or compacted (SDM vol. 1 13.4). */
uint32_t cpuid_xsave_size(const struct soft_cpuid *, uint64_t components, bool compacted);

/*
 * The names of the features that this host's guests are offered, separated by spaces, into buf (always terminated).
 * Returns the length that all of them need, as snprintf does. For people (umbra probe).
 */
int cpuid_describe(char *buf, size_t size);
