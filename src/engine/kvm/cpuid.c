/* Makes a guest's CPUID table of what KVM offers: the machine's topology, the hypervisor's leaves, and nothing that Umbra cannot carry on. */
#include "engine/kvm/cpuid.h"

#include <asm/kvm_para.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu_state.h"
#include "engine/kvm/kvm.h"
#include "x86/cpuid.h"

#define ENTRIES_FIRST_GUESS 128
#define ENTRIES_MORE 8 /* that cpuid_adapt() may add */

#define LEAF_FEATURES 1
#define LEAF_PERFMON 0xa
#define LEAF_TOPOLOGY 0xb
#define LEAF_XSTATE 0xd
#define LEAF_TOPOLOGY_V2 0x1f
#define LEAF_AMD_EXTENDED 0x80000001

/* Leaves of which nothing is offered: performance counters, SGX, processor trace, AMX, SVM, SEV, AMD's counters. */
static const uint32_t dropped[] = {LEAF_PERFMON, 0x12, 0x14, 0x1d, 0x1e, 0x8000000a, 0x8000001f, 0x80000022};

/* Nested virtualization, AMX and CET have state that struct cpu_state does not hold. */
static const enum x86_feature not_offered[] = {X86_VMX, X86_SMX, X86_SVM};
#define LEAF7_EDX_AMX_IBT (BIT(20) | BIT(22) | BIT(24) | BIT(25))
#define LEAF7_ECX_SHSTK BIT(7)
#define LEAF7_EBX_SGX_PT (BIT(2) | BIT(25))
#define LEAF1_ECX_PDCM BIT(15)
#define AMD_ECX_COUNTERS (BIT(23) | BIT(24) | BIT(28)) /* core, northbridge and L2 performance counters */

/* Components whose place in the standard form is within XSAVE_MAX: x87 to AVX-512, and PKRU. */
#define XSTATE_OFFERED 0x2ffULL

static bool is_indexed(const struct kvm_cpuid_entry2 *entry)
{
    return entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
}

struct kvm_cpuid_entry2 *cpuid_find(struct kvm_cpuid2 *table, uint32_t function, uint32_t index)
{
    for (unsigned i = 0; i < table->nent; i++) {
        struct kvm_cpuid_entry2 *entry = &table->entries[i];

        if (entry->function == function && (!is_indexed(entry) || entry->index == index))
            return entry;
    }
    return NULL;
}

int cpuid_read(int host, struct kvm_cpuid2 **table, struct err *e)
{
    for (unsigned count = ENTRIES_FIRST_GUESS;; count *= 2) {
        struct kvm_cpuid2 *t = calloc(1, sizeof(*t) + count * sizeof(t->entries[0]));
        int error;

        if (!t)
            return err_set(e, ENOMEM, "no memory for KVM's CPUID table");
        t->nent = count;
        error = kvm_ioctl(host, KVM_GET_SUPPORTED_CPUID, t);
        if (!error) {
            *table = t;
            return 0;
        }
        free(t);
        if (error != -E2BIG)
            return err_set(e, -error, "KVM does not tell its CPUID: %s", strerror(-error));
    }
}

/* --- taking away, and making room --- */

static bool is_dropped(uint32_t function)
{
    for (unsigned i = 0; i < ARRAY_SIZE(dropped); i++)
        if (function == dropped[i])
            return true;
    return function == LEAF_TOPOLOGY || function == LEAF_TOPOLOGY_V2; /* these come anew */
}

static void drop_leaves(struct kvm_cpuid2 *table)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < table->nent; i++) {
        const struct kvm_cpuid_entry2 *entry = &table->entries[i];
        bool beyond = entry->function == LEAF_XSTATE && entry->index >= 2 && !(XSTATE_OFFERED >> entry->index & 1);

        if (!is_dropped(entry->function) && !(entry->function == LEAF_XSTATE && entry->index > 63) && !beyond)
            table->entries[kept++] = *entry;
    }
    table->nent = kept;
}

/* There is room for it: cpuid_adapt() made it. */
static struct kvm_cpuid_entry2 *add(struct kvm_cpuid2 *table, uint32_t function, uint32_t index, bool indexed)
{
    struct kvm_cpuid_entry2 *entry = &table->entries[table->nent++];

    *entry = (struct kvm_cpuid_entry2){.function = function, .index = index, .flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0};
    return entry;
}

static bool is_amd(struct kvm_cpuid2 *table)
{
    const struct kvm_cpuid_entry2 *vendor = cpuid_find(table, 0, 0);

    return vendor && (vendor->ecx == 0x444d4163 || vendor->ecx == 0x656e6975); /* AuthenticAMD, HygonGenuine */
}

/* --- features --- */

static uint32_t *word_of(struct kvm_cpuid2 *table, enum x86_feature feature)
{
    struct kvm_cpuid_entry2 *leaf;

    switch (X86_FEATURE_WORD(feature)) {
    case CPUID_1_ECX: leaf = cpuid_find(table, LEAF_FEATURES, 0); return leaf ? &leaf->ecx : NULL;
    case CPUID_1_EDX: leaf = cpuid_find(table, LEAF_FEATURES, 0); return leaf ? &leaf->edx : NULL;
    case CPUID_80000001_ECX: leaf = cpuid_find(table, LEAF_AMD_EXTENDED, 0); return leaf ? &leaf->ecx : NULL;
    default: return NULL;
    }
}

static void set_feature(struct kvm_cpuid2 *table, enum x86_feature feature, bool on)
{
    uint32_t *word = word_of(table, feature), bit = 1U << X86_FEATURE_BIT(feature);

    if (word)
        *word = on ? *word | bit : *word & ~bit;
}

static void adapt_features(struct kvm_cpuid2 *table, bool deadline_timer)
{
    struct kvm_cpuid_entry2 *leaf;

    for (unsigned i = 0; i < ARRAY_SIZE(not_offered); i++)
        set_feature(table, not_offered[i], false);
    set_feature(table, X86_HYPERVISOR, true);
    set_feature(table, X86_X2APIC, true); /* KVM's local APIC has it on every host */
    if (deadline_timer)
        set_feature(table, X86_TSC_DEADLINE, true);
    if ((leaf = cpuid_find(table, LEAF_FEATURES, 0)))
        leaf->ecx &= (uint32_t)~LEAF1_ECX_PDCM;
    if ((leaf = cpuid_find(table, 7, 0))) {
        leaf->ebx &= (uint32_t)~LEAF7_EBX_SGX_PT;
        leaf->ecx &= (uint32_t)~LEAF7_ECX_SHSTK;
        leaf->edx &= (uint32_t)~LEAF7_EDX_AMX_IBT;
    }
    if ((leaf = cpuid_find(table, LEAF_AMD_EXTENDED, 0)))
        leaf->ecx &= (uint32_t)~AMD_ECX_COUNTERS;
}

/* Sizes follow from the components that are left: the last one's end, in the standard form. */
static void adapt_xstate(struct kvm_cpuid2 *table)
{
    struct kvm_cpuid_entry2 *leaf = cpuid_find(table, LEAF_XSTATE, 0), *compact = cpuid_find(table, LEAF_XSTATE, 1);
    uint32_t end = XSAVE_EXTENDED;

    if (!leaf)
        return;
    leaf->eax &= (uint32_t)XSTATE_OFFERED;
    leaf->edx = 0;
    for (uint32_t i = 2; i < 32; i++) {
        const struct kvm_cpuid_entry2 *component = leaf->eax >> i & 1 ? cpuid_find(table, LEAF_XSTATE, i) : NULL;

        if (component)
            end = MAX(end, component->ebx + component->eax);
    }
    leaf->ecx = end; /* EBX, the size for XCR0 as it is, is KVM's to keep */
    if (compact)
        compact->ecx = compact->edx = 0; /* IA32_XSS */
}

/* --- topology --- */

/* Room for what x86_topology_cpuid() fills in: a level each, and the end. */
static void add_levels(struct kvm_cpuid2 *table, uint32_t function)
{
    for (uint32_t i = 0; i < 3; i++)
        add(table, function, i, true);
}

static void adapt_topology(struct kvm_cpuid2 *table)
{
    struct kvm_cpuid_entry2 *basic = cpuid_find(table, 0, 0);

    add_levels(table, LEAF_TOPOLOGY);
    if (!basic)
        return;
    if (basic->eax >= LEAF_TOPOLOGY_V2 && !is_amd(table))
        add_levels(table, LEAF_TOPOLOGY_V2);
    basic->eax = MAX(basic->eax, LEAF_TOPOLOGY);
}

void cpuid_place(struct kvm_cpuid2 *table, const struct x86_topology *topology, uint32_t apic_id)
{
    bool amd = is_amd(table);

    for (unsigned i = 0; i < table->nent; i++) {
        struct kvm_cpuid_entry2 *entry = &table->entries[i];
        uint32_t out[4] = {entry->eax, entry->ebx, entry->ecx, entry->edx};

        x86_topology_cpuid(topology, amd, apic_id, entry->function, entry->index, out);
        entry->eax = out[CPUID_EAX];
        entry->ebx = out[CPUID_EBX];
        entry->ecx = out[CPUID_ECX];
        entry->edx = out[CPUID_EDX];
    }
}

/* --- the hypervisor's leaves: KVM's own, so that its guests know what to make of them --- */

static void adapt_hypervisor(struct kvm_cpuid2 *table)
{
    static const char signature[12] = "KVMKVMKVM";
    struct kvm_cpuid_entry2 *leaf = cpuid_find(table, KVM_CPUID_SIGNATURE, 0);

    if (!leaf)
        leaf = add(table, KVM_CPUID_SIGNATURE, 0, false);
    leaf->eax = KVM_CPUID_FEATURES;
    memcpy(&leaf->ebx, signature, 4);
    memcpy(&leaf->ecx, signature + 4, 4);
    memcpy(&leaf->edx, signature + 8, 4);
    if (!cpuid_find(table, KVM_CPUID_FEATURES, 0))
        add(table, KVM_CPUID_FEATURES, 0, false);
}

int cpuid_adapt(struct kvm_cpuid2 **table, bool deadline_timer, struct err *e)
{
    unsigned room = (*table)->nent + ENTRIES_MORE;
    struct kvm_cpuid2 *t = realloc(*table, sizeof(*t) + room * sizeof(t->entries[0]));

    if (!t)
        return err_set(e, ENOMEM, "no memory for the guest's CPUID table");
    *table = t;
    drop_leaves(t);
    adapt_features(t, deadline_timer);
    adapt_xstate(t);
    adapt_topology(t);
    adapt_hypervisor(t);
    t->padding = 0;
    return 0;
}
