/* Memory for generated code: what is written is executed, and where it lies, however full the low address space is. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "engine/soft/codemem.h"

#define BYTES MIB(64)
#define FLAGS (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)

static void works(struct codemem *m)
{
    static const uint8_t code[] = {0xb8, 0x2a, 0, 0, 0, 0xc3}; /* mov eax, 42; ret */
    int (*function)(void);
    uint8_t *last;
    struct err e;

    assert_int_equal(codemem_init(m, BYTES, &e), 0);
    last = m->rx + BYTES - sizeof(code);
    assert_true((uintptr_t)last < GIB(2));
    memcpy(m->rw + BYTES - sizeof(code), code, sizeof(code));
    memcpy(&function, &last, sizeof(function));
    assert_int_equal(function(), 42);
    assert_true(codemem_holds(m, last));
    assert_false(codemem_holds(m, m->rw));
}

static void addresses_have_31_bits(void **state)
{
    struct codemem m[3];

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(m); i++)
        works(&m[i]);
    for (unsigned i = 0; i < ARRAY_SIZE(m); i++)
        codemem_fini(&m[i]);
}

/* Where the kernel looks of its own is nothing left; below there is. */
static void it_is_looked_for(void **state)
{
    void *taken[GIB(2) / MIB(16)];
    unsigned count = 0;
    struct codemem m;

    (void)state;
    while (count < ARRAY_SIZE(taken) && (taken[count] = mmap(NULL, MIB(16), PROT_NONE, FLAGS | MAP_32BIT, -1, 0)) != MAP_FAILED)
        count++;
    assert_in_range(count, 1, ARRAY_SIZE(taken) - 1);
    works(&m);
    codemem_fini(&m);
    while (count > 0)
        munmap(taken[--count], MIB(16));
}

static void without_room_it_says_so(void **state)
{
    struct codemem m;
    struct err e;
    int error;

    (void)state;
    for (uint64_t at = MIB(1); at < GIB(2); at += MIB(1))
        (void)mmap((void *)(uintptr_t)at, MIB(1), PROT_NONE, FLAGS | MAP_FIXED_NOREPLACE, -1, 0);
    error = codemem_init(&m, BYTES, &e);
    assert_int_equal(error, -ENOMEM);
    assert_non_null(strstr(e.text, "low 2 GiB"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_have_31_bits), cmocka_unit_test(it_is_looked_for),
        cmocka_unit_test(without_room_it_says_so), /* the last, for it takes all there is */
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
