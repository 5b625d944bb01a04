/* The CPUID of KVM's guests: topology of every shape, hypervisor leaves, and what is not offered, from tables that a KVM could give. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu_state.h"
#include "engine/kvm/cpuid.h"

#define INDEXED KVM_CPUID_FLAG_SIGNIFCANT_INDEX
#define KVM_SIGNATURE 0x40000000

static const struct kvm_cpuid_entry2 amd[] = {
    {.function = 0, .eax = 0x10, .ebx = 0x68747541, .ecx = 0x444d4163, .edx = 0x69746e65},
    {.function = 1, .eax = 0xa20f10, .ebx = 0x05100800, .ecx = 0xfffaf3ff, .edx = 0x078bfbff},
    {.function = 7, .index = 0, .flags = INDEXED, .ebx = UINT32_MAX, .ecx = UINT32_MAX, .edx = UINT32_MAX},
    {.function = 0xa, .eax = 7},
    {.function = 0xd, .index = 0, .flags = INDEXED, .eax = 0x602e7, .ebx = 0x988, .ecx = 0x2b00, .edx = 0},
    {.function = 0xd, .index = 1, .flags = INDEXED, .eax = 0xf, .ecx = 0x1800},
    {.function = 0xd, .index = 2, .flags = INDEXED, .eax = 0x100, .ebx = 0x240},
    {.function = 0xd, .index = 9, .flags = INDEXED, .eax = 8, .ebx = 0x980},
    {.function = 0xd, .index = 11, .flags = INDEXED, .eax = 16},
    {.function = 0xd, .index = 18, .flags = INDEXED, .eax = 0x2000, .ebx = 0xb00},
    {.function = 0x1d, .index = 0, .flags = INDEXED, .eax = 1},
    {.function = KVM_SIGNATURE, .eax = 0x40000001, .ebx = 0x4b4d564b, .ecx = 0x564b4d56, .edx = 0x4d},
    {.function = 0x40000001, .eax = 0x01007afb},
    {.function = 0x80000000, .eax = 0x80000021},
    {.function = 0x80000001, .ecx = 0x00400001 | 1U << 2 | 1U << 23, .edx = 0x2fd3fbff},
    {.function = 0x80000008, .eax = 0x3030, .ebx = 0x1000, .ecx = 0x7007},
    {.function = 0x8000000a, .eax = 1},
    {.function = 0x8000001d, .index = 0, .flags = INDEXED, .eax = 0x4121},
    {.function = 0x8000001d, .index = 1, .flags = INDEXED, .eax = 0x7c163},
    {.function = 0x8000001d, .index = 2, .flags = INDEXED, .eax = 0},
    {.function = 0x8000001e, .ebx = 0x107, .ecx = 0x305},
};

static const struct kvm_cpuid_entry2 intel[] = {
    {.function = 0, .eax = 0x1f, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69},
    {.function = 1, .ebx = 0x00100800, .ecx = 0x77fafbff, .edx = 0xbfebfbff},
    {.function = 4, .index = 0, .flags = INDEXED, .eax = 0xfc004121},
    {.function = 4, .index = 1, .flags = INDEXED, .eax = 0xfc1fc163},
    {.function = 4, .index = 2, .flags = INDEXED, .eax = 0},
    {.function = 0xb, .index = 0, .flags = INDEXED, .eax = 1, .ebx = 2, .ecx = 0x100, .edx = 17},
    {.function = 0x1f, .index = 0, .flags = INDEXED, .eax = 1, .ebx = 2, .ecx = 0x100, .edx = 17},
};

static struct kvm_cpuid2 *table_of(const struct kvm_cpuid_entry2 *entries, unsigned count, struct x86_topology t, uint32_t apic_id)
{
    struct kvm_cpuid2 *table = calloc(1, sizeof(*table) + count * sizeof(*entries));
    struct err e;

    memcpy(table->entries, entries, count * sizeof(*entries));
    table->nent = count;
    assert_int_equal(cpuid_adapt(&table, true, &e), 0);
    cpuid_place(table, &t, apic_id);
    return table;
}

static struct kvm_cpuid2 *amd_table(struct x86_topology t, uint32_t apic_id)
{
    return table_of(amd, sizeof(amd) / sizeof(amd[0]), t, apic_id);
}

static struct kvm_cpuid2 *intel_table(struct x86_topology t, uint32_t apic_id)
{
    return table_of(intel, sizeof(intel) / sizeof(intel[0]), t, apic_id);
}

static const struct x86_topology one = {1, 1, 1};

static void what_cannot_be_carried_on_is_not_offered(void **state)
{
    struct kvm_cpuid2 *table = amd_table(one, 0);

    (void)state;
    assert_null(cpuid_find(table, 0xa, 0)); /* performance counters */
    assert_null(cpuid_find(table, 0x1d, 0));
    assert_null(cpuid_find(table, 0x8000000a, 0));
    assert_int_equal(cpuid_find(table, 1, 0)->ecx & (1U << 5 | 1U << 15), 0);                        /* VMX, PDCM */
    assert_int_equal(cpuid_find(table, 0x80000001, 0)->ecx & (1U << 2 | 1U << 23), 0);               /* SVM, counters */
    assert_int_equal(cpuid_find(table, 7, 0)->ebx & (1U << 2 | 1U << 25), 0);                        /* SGX, processor trace */
    assert_int_equal(cpuid_find(table, 7, 0)->ecx & 1U << 7, 0);                                     /* CET */
    assert_int_equal(cpuid_find(table, 7, 0)->edx & (1U << 20 | 1U << 22 | 1U << 24 | 1U << 25), 0); /* CET, AMX */
    free(table);
}

static void what_kvm_emulates_is_offered_everywhere(void **state)
{
    struct kvm_cpuid2 *table = amd_table(one, 0);
    uint32_t ecx = cpuid_find(table, 1, 0)->ecx;

    (void)state;
    assert_true(ecx & 1U << 31); /* hypervisor */
    assert_true(ecx & 1U << 21); /* x2APIC */
    assert_true(ecx & 1U << 24); /* TSC deadline */
    free(table);
}

static void state_components_fit_what_is_saved(void **state)
{
    struct kvm_cpuid2 *table = amd_table(one, 0);
    const struct kvm_cpuid_entry2 *leaf = cpuid_find(table, 0xd, 0);

    (void)state;
    assert_int_equal(leaf->eax, 0x2e7); /* no tiles */
    assert_int_equal(leaf->ecx, 0x988); /* PKRU is the last */
    assert_true(leaf->ecx <= XSAVE_MAX);
    assert_non_null(cpuid_find(table, 0xd, 9));
    assert_null(cpuid_find(table, 0xd, 18));
    assert_null(cpuid_find(table, 0xd, 11)); /* CET's, of IA32_XSS */
    assert_int_equal(cpuid_find(table, 0xd, 1)->ecx, 0);
    free(table);
}

static void the_hypervisor_is_kvm_with_its_features(void **state)
{
    struct kvm_cpuid2 *table = amd_table(one, 0), *bare = intel_table(one, 0);
    const struct kvm_cpuid_entry2 *leaf = cpuid_find(bare, KVM_SIGNATURE, 0);

    (void)state;
    assert_int_equal(cpuid_find(table, 0x40000001, 0)->eax, 0x01007afb);
    assert_memory_equal(&leaf->ebx, "KVMK", 4);
    assert_memory_equal(&leaf->ecx, "VMKV", 4);
    assert_memory_equal(&leaf->edx, "M\0\0\0", 4);
    assert_int_equal(leaf->eax, 0x40000001);
    assert_int_equal(cpuid_find(bare, 0x40000001, 0)->eax, 0);
    free(bare);
    free(table);
}

static void one_cpu_has_no_siblings(void **state)
{
    struct kvm_cpuid2 *table = amd_table(one, 0);

    (void)state;
    assert_int_equal(cpuid_find(table, 1, 0)->ebx, 0x00010800); /* one logical CPU, CLFLUSH stays */
    assert_int_equal(cpuid_find(table, 1, 0)->edx & 1U << 28, 0);
    assert_int_equal(cpuid_find(table, 0x80000001, 0)->ecx & 2, 0);
    assert_int_equal(cpuid_find(table, 0x80000008, 0)->ecx & 0xf0ff, 0);
    assert_int_equal(cpuid_find(table, 0xb, 0)->ebx, 1);
    assert_int_equal(cpuid_find(table, 0xb, 1)->ebx, 1);
    free(table);
}

/* 2 sockets of 3 cores of 2 threads: core ids need two bits, so a socket's APIC ids are 8 apart. */
static void amd_leaves_tell_the_topology(void **state)
{
    struct kvm_cpuid2 *table = amd_table((struct x86_topology){2, 3, 2}, 8 + 5);
    const struct kvm_cpuid_entry2 *leaf;

    (void)state;
    assert_int_equal(cpuid_find(table, 1, 0)->ebx >> 16 & 0xff, 6);
    assert_true(cpuid_find(table, 1, 0)->edx & 1U << 28);
    assert_true(cpuid_find(table, 0x80000001, 0)->ecx & 2); /* CmpLegacy */
    assert_int_equal(cpuid_find(table, 0x80000008, 0)->ecx & 0xf0ff, 0x3005);
    leaf = cpuid_find(table, 0x8000001d, 0); /* a core's */
    assert_int_equal(leaf->eax >> 14 & 0xfff, 1);
    assert_int_equal(leaf->eax & 0x3fff, 0x121 & 0x3fff);
    assert_int_equal(cpuid_find(table, 0x8000001d, 1)->eax >> 14 & 0xfff, 7); /* the socket's */
    assert_int_equal(cpuid_find(table, 0x8000001d, 2)->eax, 0);
    leaf = cpuid_find(table, 0x8000001e, 0);
    assert_int_equal(leaf->eax, 13);
    assert_int_equal(leaf->ebx, 0x102); /* two threads, core 2 */
    assert_int_equal(leaf->ecx, 1);     /* one node a socket, the second */
    assert_int_equal(cpuid_find(table, 1, 0)->ebx >> 24, 13);
    free(table);
}

static void intel_leaves_tell_the_topology(void **state)
{
    struct kvm_cpuid2 *table = intel_table((struct x86_topology){1, 4, 2}, 6);
    const uint32_t functions[] = {0xb, 0x1f};

    (void)state;
    assert_int_equal(cpuid_find(table, 4, 0)->eax >> 26, 3); /* cores of the package */
    assert_int_equal(cpuid_find(table, 4, 0)->eax >> 14 & 0xfff, 1);
    assert_int_equal(cpuid_find(table, 4, 1)->eax >> 14 & 0xfff, 7);
    assert_int_equal(cpuid_find(table, 4, 2)->eax, 0);
    for (unsigned i = 0; i < 2; i++) {
        const struct kvm_cpuid_entry2 *smt = cpuid_find(table, functions[i], 0), *core = cpuid_find(table, functions[i], 1),
                                      *end = cpuid_find(table, functions[i], 2);

        assert_int_equal(smt->eax, 1);
        assert_int_equal(smt->ebx, 2);
        assert_int_equal(smt->ecx, 0x100);
        assert_int_equal(core->eax, 3);
        assert_int_equal(core->ebx, 8);
        assert_int_equal(core->ecx, 0x201);
        assert_int_equal(end->ebx, 0);
        assert_int_equal(end->ecx, 2);
        assert_int_equal(smt->edx, 6);
        assert_int_equal(core->edx, 6);
        assert_int_equal(end->edx, 6);
    }
    free(table);
}

static void the_topology_leaf_is_there_whatever_the_host_has(void **state)
{
    static const struct kvm_cpuid_entry2 old[] = {{.function = 0, .eax = 5}, {.function = 1, .ebx = 0x800}};
    struct kvm_cpuid2 *table = table_of(old, 2, (struct x86_topology){1, 64, 1}, 0);

    (void)state;
    assert_int_equal(cpuid_find(table, 0, 0)->eax, 0xb);
    assert_int_equal(cpuid_find(table, 0xb, 0)->eax, 0);
    assert_int_equal(cpuid_find(table, 0xb, 1)->eax, 6);
    assert_null(cpuid_find(table, 0x1f, 0));
    free(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_cannot_be_carried_on_is_not_offered),
        cmocka_unit_test(what_kvm_emulates_is_offered_everywhere),
        cmocka_unit_test(state_components_fit_what_is_saved),
        cmocka_unit_test(the_hypervisor_is_kvm_with_its_features),
        cmocka_unit_test(one_cpu_has_no_siblings),
        cmocka_unit_test(amd_leaves_tell_the_topology),
        cmocka_unit_test(intel_leaves_tell_the_topology),
        cmocka_unit_test(the_topology_leaf_is_there_whatever_the_host_has),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
