/* Which arithmetic flags instructions overwrite for sure: by the manual, by what the CPU is like, and by what it does. */
#include "soft_fake.h"

#include "engine/soft/host_flags.h"

static const struct host_flags keeps_all = {.logic = FLAG_AF, .shift = FLAG_AF | FLAG_OF}, keeps_none;

static uint16_t killed(struct fake *f, const struct host_flags *host, const uint8_t *bytes, unsigned len)
{
    uint8_t padded[INSN_MAX_LEN] = {0};

    memcpy(padded, bytes, len);
    assert_int_equal(insn_decode(&f->svm, &f->insn, padded, sizeof(padded), 64), 0);
    assert_int_equal(f->insn.len, len);
    return host_flags_killed(host, &f->insn);
}

#define KILLED(f, host, ...)                                                                                                               \
    ({                                                                                                                                     \
        static const uint8_t killed_bytes[] = {__VA_ARGS__};                                                                               \
        killed(f, host, killed_bytes, sizeof(killed_bytes));                                                                               \
    })

static void defined_flags_are_overwritten(void **state)
{
    struct fake *f = *state;

    assert_int_equal(KILLED(f, &keeps_all, 0x48, 0x01, 0xd8), FLAG_ARITH);               /* add rax, rbx */
    assert_int_equal(KILLED(f, &keeps_all, 0x48, 0x83, 0x3b, 0x05), FLAG_ARITH);         /* cmp qword [rbx], 5 */
    assert_int_equal(KILLED(f, &keeps_all, 0x48, 0xff, 0xc0), FLAG_ARITH & ~FLAG_CF);    /* inc rax */
    assert_int_equal(KILLED(f, &keeps_all, 0x48, 0x0f, 0xaf, 0xc3), FLAG_CF | FLAG_OF);  /* imul rax, rbx */
    assert_int_equal(KILLED(f, &keeps_none, 0x48, 0x0f, 0xaf, 0xc3), FLAG_CF | FLAG_OF); /* which nobody tries out */
    assert_int_equal(KILLED(f, &keeps_all, 0x48, 0x89, 0xd8), 0);                        /* mov rax, rbx */
    assert_int_equal(KILLED(f, &keeps_none, 0x48, 0x8d, 0x03), 0);                       /* lea rax, [rbx] */
    assert_int_equal(KILLED(f, &keeps_none, 0x48, 0x11, 0xd8), FLAG_ARITH);              /* adc rax, rbx */
}

static void undefined_ones_of_logic_are_where_the_cpu_says_so(void **state)
{
    struct fake *f = *state;

    assert_int_equal(KILLED(f, &keeps_all, 0x21, 0xd8), FLAG_ARITH & ~FLAG_AF); /* and eax, ebx */
    assert_int_equal(KILLED(f, &keeps_none, 0x21, 0xd8), FLAG_ARITH);
    assert_int_equal(KILLED(f, &keeps_none, 0x31, 0xc0), FLAG_ARITH);       /* xor eax, eax */
    assert_int_equal(KILLED(f, &keeps_none, 0x84, 0xc0), FLAG_ARITH);       /* test al, al */
    assert_int_equal(KILLED(f, &keeps_none, 0x83, 0x0b, 0x10), FLAG_ARITH); /* or dword [rbx], 16 */
}

static void a_shift_is_one_only_by_a_constant_within_the_operand(void **state)
{
    struct fake *f = *state;

    assert_int_equal(KILLED(f, &keeps_none, 0xc1, 0xe0, 0x05), FLAG_ARITH);       /* shl eax, 5 */
    assert_int_equal(KILLED(f, &keeps_none, 0xd1, 0xe8), FLAG_ARITH);             /* shr eax, 1 */
    assert_int_equal(KILLED(f, &keeps_none, 0x48, 0xc1, 0xf8, 0x3f), FLAG_ARITH); /* sar rax, 63 */
    assert_int_equal(KILLED(f, &keeps_all, 0xc1, 0xe0, 0x05), FLAG_ARITH & ~(FLAG_AF | FLAG_OF));
    assert_int_equal(KILLED(f, &keeps_none, 0xc1, 0xe0, 0x00), 0);       /* shl eax, 0 */
    assert_int_equal(KILLED(f, &keeps_none, 0xc1, 0xe0, 0x20), 0);       /* shl eax, 32, which is 0 */
    assert_int_equal(KILLED(f, &keeps_none, 0xc0, 0xe0, 0x09), 0);       /* shl al, 9 */
    assert_int_equal(KILLED(f, &keeps_none, 0xd3, 0xe0), 0);             /* shl eax, cl */
    assert_int_equal(KILLED(f, &keeps_none, 0xc1, 0xc0, 0x05), 0);       /* rol eax, 5 */
    assert_int_equal(KILLED(f, &keeps_none, 0x0f, 0xa4, 0xd8, 0x05), 0); /* shld eax, ebx, 5 */
}

/* No x86 CPU is known that keeps any of them: a translator that finds one slows down, and says nothing. */
static void this_cpu_keeps_none(void **state)
{
    struct host_flags host = host_flags_probe();

    (void)state;
    assert_int_equal(host.logic, 0);
    assert_int_equal(host.shift, 0);
}

#define FLAGS_TEST(name) cmocka_unit_test_setup_teardown(name, fake_setup, fake_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FLAGS_TEST(defined_flags_are_overwritten),
        FLAGS_TEST(undefined_ones_of_logic_are_where_the_cpu_says_so),
        FLAGS_TEST(a_shift_is_one_only_by_a_constant_within_the_operand),
        FLAGS_TEST(this_cpu_keeps_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
