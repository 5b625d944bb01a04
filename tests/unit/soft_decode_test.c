/* Decoding bytes that another thread writes: whatever comes of it is one instruction. */
#include <pthread.h>

#include "soft_fake.h"

#define TIMES 300000
#define INC_RBX 0xc3 /* the third byte behind 48 ff */
#define JMP_RBX 0xe3

static uint8_t bytes[INSN_MAX_LEN] = {0x48, 0xff, INC_RBX};
static atomic_bool done;

static void *flip(void *nothing)
{
    while (!atomic_load_explicit(&done, memory_order_relaxed)) {
        __atomic_store_n(&bytes[2], JMP_RBX, __ATOMIC_RELAXED);
        __atomic_store_n(&bytes[2], INC_RBX, __ATOMIC_RELAXED);
    }
    return nothing;
}

static void the_verdict_is_about_the_bytes_that_are_kept(void **state)
{
    struct fake *f = *state;
    unsigned jumps = 0;
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, flip, NULL), 0);
    for (unsigned i = 0; i < TIMES; i++) {
        assert_int_equal(insn_decode(&f->svm, &f->insn, bytes, sizeof(bytes), 64), 0);
        bool jump = f->insn.mnemonic == ZYDIS_MNEMONIC_JMP;
        assert_int_equal(f->insn.bytes[2], jump ? JMP_RBX : INC_RBX);
        assert_int_equal(f->insn.modrm, f->insn.bytes[2]);
        assert_int_equal(f->insn.cls, jump ? INSN_CONTROL : INSN_INNOCUOUS);
        jumps += jump;
    }
    atomic_store(&done, true);
    pthread_join(thread, NULL);
    assert_in_range(jumps, 1, TIMES - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_verdict_is_about_the_bytes_that_are_kept, fake_setup, fake_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
