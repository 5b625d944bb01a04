/* Sockets, cores and threads: APIC ids by bit fields, and the CPUID leaves that agree with them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "x86/topology.h"

static void ask(const struct x86_topology *t, bool amd, unsigned index, uint32_t leaf, uint32_t sub, uint32_t out[4])
{
    x86_topology_cpuid(t, amd, x86_apic_id(t, index), leaf, sub, out);
}

static void ids_are_dense_where_counts_are_powers_of_2(void **state)
{
    static const struct x86_topology t = {.sockets = 2, .cores = 4, .threads = 2};

    (void)state;
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(x86_apic_id(&t, i), i);
}

static void ids_have_gaps_where_they_are_not(void **state)
{
    static const struct x86_topology t = {.sockets = 2, .cores = 3, .threads = 3};
    static const uint32_t want[] = {0, 1, 2, 4, 5, 6, 8, 9, 10, 16, 17, 18, 20, 21, 22, 24, 25, 26};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(want); i++)
        assert_int_equal(x86_apic_id(&t, i), want[i]);
}

/* 255 is the broadcast. */
static void ids_of_64_cpus_fit_into_8_bits_and_differ(void **state)
{
    (void)state;
    for (unsigned cores = 1; cores <= 64; cores++)
        for (unsigned threads = 1; cores * threads <= 64; threads++)
            for (unsigned sockets = 1; sockets * cores * threads <= 64; sockets++) {
                struct x86_topology t = {sockets, cores, threads};
                uint32_t before = 0;

                for (unsigned i = 1; i < sockets * cores * threads; i++) {
                    assert_true(x86_apic_id(&t, i) > before);
                    before = x86_apic_id(&t, i);
                }
                assert_true(before < 255);
            }
}

static void leaf_1_has_the_id_and_how_many_there_are(void **state)
{
    static const struct x86_topology t = {.sockets = 2, .cores = 3, .threads = 2}, one = {1, 1, 1};
    uint32_t out[4] = {7, 0x12345678, 9, 0};

    (void)state;
    ask(&t, false, 7, 1, 0, out);
    assert_int_equal(out[CPUID_EBX], 0x09085678); /* 8 ids */
    assert_int_equal(out[CPUID_EDX], 1 << 28);
    assert_true(out[CPUID_EAX] == 7 && out[CPUID_ECX] == 9);
    ask(&t, true, 7, 1, 0, out);
    assert_int_equal(out[CPUID_EBX], 0x09065678); /* 6 CPUs */
    ask(&one, false, 0, 1, 0, out);
    assert_int_equal(out[CPUID_EDX], 0);
}

static void leaf_4_shares_l3_in_the_socket_and_the_rest_in_the_core(void **state)
{
    static const struct x86_topology t = {.sockets = 2, .cores = 3, .threads = 2};
    uint32_t l2[4] = {0xffffc043, 1, 2, 3}, l3[4] = {0x163, 1, 2, 3}, none[4] = {0xffffffe0};

    (void)state;
    ask(&t, false, 0, 4, 2, l2);
    assert_int_equal(l2[CPUID_EAX], 3u << 26 | 1 << 14 | 0x43);
    assert_int_equal(l2[CPUID_EBX], 1);
    ask(&t, false, 0, 4, 3, l3);
    assert_int_equal(l3[CPUID_EAX], 3u << 26 | 7 << 14 | 0x163);
    ask(&t, false, 0, 4, 4, none);
    assert_int_equal(none[CPUID_EAX], 0xffffffe0);
    ask(&t, true, 0, 0x8000001d, 3, (memset(l3, 0, sizeof(l3)), l3[CPUID_EAX] = 0x163, l3));
    assert_int_equal(l3[CPUID_EAX], 7 << 14 | 0x163);
}

static void the_extended_leaves_have_two_levels_and_always_the_id(void **state)
{
    static const struct x86_topology t = {.sockets = 2, .cores = 3, .threads = 2};
    static const uint32_t want[][4] = {{1, 2, 0x100, 9}, {3, 6, 0x201, 9}, {0, 0, 2, 9}, {0, 0, 0xff, 9}};
    static const uint32_t subs[] = {0, 1, 2, 0xff};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(subs); i++) {
        uint32_t out[4] = {1, 2, 3, 4}, other[4] = {1, 2, 3, 4};

        ask(&t, i & 1, 7, 0xb, subs[i], out);
        assert_memory_equal(out, want[i], sizeof(out));
        ask(&t, false, 7, 0x1f, subs[i], other);
        assert_memory_equal(other, want[i], sizeof(other));
    }
}

static void amds_leaves_agree(void **state)
{
    static const struct x86_topology t = {.sockets = 2, .cores = 3, .threads = 2};
    uint32_t size[4] = {1, 2, 0xffffffff, 4}, node[4] = {0}, legacy[4] = {0};

    (void)state;
    ask(&t, true, 9, 0x80000008, 0, size);
    assert_int_equal(size[CPUID_ECX], 0xffff3f05); /* 3 bits of id; 6 CPUs */
    ask(&t, true, 9, 0x8000001e, 0, node);
    assert_int_equal(node[CPUID_EAX], 11);
    assert_int_equal(node[CPUID_EBX], 1 << 8 | 1);
    assert_int_equal(node[CPUID_ECX], 1);
    ask(&t, true, 9, 0x80000001, 0, legacy);
    assert_int_equal(legacy[CPUID_ECX], 2);
}

static void other_leaves_are_left_alone(void **state)
{
    static const struct x86_topology t = {.sockets = 2, .cores = 3, .threads = 2};
    static const uint32_t amd_only[] = {0x80000001, 0x80000008, 0x8000001d, 0x8000001e}, others[] = {0, 2, 7, 0xd, 0x40000000};
    static const uint32_t want[4] = {0x163, 2, 3, 4};
    uint32_t out[4] = {0x163, 2, 3, 4};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(amd_only); i++)
        ask(&t, false, 9, amd_only[i], 0, out);
    for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
        ask(&t, true, 9, others[i], 0, out);
    ask(&t, true, 9, 4, 0, out);
    ask(&t, true, 9, 0x1f, 0, out);
    assert_memory_equal(out, want, sizeof(out));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_dense_where_counts_are_powers_of_2),
        cmocka_unit_test(ids_have_gaps_where_they_are_not),
        cmocka_unit_test(ids_of_64_cpus_fit_into_8_bits_and_differ),
        cmocka_unit_test(leaf_1_has_the_id_and_how_many_there_are),
        cmocka_unit_test(leaf_4_shares_l3_in_the_socket_and_the_rest_in_the_core),
        cmocka_unit_test(the_extended_leaves_have_two_levels_and_always_the_id),
        cmocka_unit_test(amds_leaves_agree),
        cmocka_unit_test(other_leaves_are_left_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
