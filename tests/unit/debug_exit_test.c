/* The debug-exit port: a byte that is written there reaches the machine, and nothing else does. */
#include "chipset_fake.h"

#include "chipset/debug_exit.h"

struct fixture {
    struct bus pio;
    struct debug_exit dev;
    unsigned exits;
    uint8_t value;
};

static void on_exit_value(void *opaque, uint8_t value)
{
    struct fixture *f = opaque;

    f->exits++;
    f->value = value;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    bus_init(&f->pio);
    assert_int_equal(debug_exit_init(&f->dev, &f->pio, on_exit_value, f, &e), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    debug_exit_fini(&f->dev);
    assert_int_equal(f->pio.count, 0);
    bus_fini(&f->pio);
    free(f);
    return 0;
}

static void the_byte_that_is_written_comes_through(void **state)
{
    struct fixture *f = *state;

    for (unsigned v = 0; v < 256; v++) {
        out8(&f->pio, 0xf4, (uint8_t)v);
        assert_int_equal(f->exits, v + 1);
        assert_int_equal(f->value, v);
    }
}

static void a_doubleword_counts_once_with_its_low_byte(void **state)
{
    struct fixture *f = *state;

    bus_write(&f->pio, 0xf4, 4, 0x12345678);
    assert_int_equal(f->exits, 1);
    assert_int_equal(f->value, 0x78);
    bus_write(&f->pio, 0xf4, 2, 0xaa01);
    assert_int_equal(f->exits, 2);
    assert_int_equal(f->value, 1);
}

static void other_ports_and_reads_end_nothing(void **state)
{
    struct fixture *f = *state;

    for (uint16_t port = 0xf0; port < 0x100; port++) {
        if (port != 0xf4)
            out8(&f->pio, port, 1);
        in8(&f->pio, port);
    }
    assert_int_equal(f->exits, 0);
}

static void it_can_be_told_from_an_absent_port(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(in8(&f->pio, 0xf4), 0);
    assert_int_equal(in8(&f->pio, 0xf8), 0xff);
}

static void a_second_one_is_refused(void **state)
{
    struct fixture *f = *state;
    struct debug_exit second;
    struct err e = {{0}};

    assert_int_equal(debug_exit_init(&second, &f->pio, on_exit_value, f, &e), -EEXIST);
    assert_non_null(strstr(e.text, "debug-exit"));
}

static void it_has_no_state_to_save(void **state)
{
    struct fixture *f = *state;
    struct state_writer w = fake_save(&debug_exit_device, &f->dev);

    assert_int_equal(w.len, 0);
    assert_int_equal(fake_load(&debug_exit_device, &f->dev, &w, 0), 0);
    debug_exit_device.reset(&f->dev);
    assert_int_equal(f->exits, 0);
    state_writer_fini(&w);
}

#define DEBUG_EXIT_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        DEBUG_EXIT_TEST(the_byte_that_is_written_comes_through),
        DEBUG_EXIT_TEST(a_doubleword_counts_once_with_its_low_byte),
        DEBUG_EXIT_TEST(other_ports_and_reads_end_nothing),
        DEBUG_EXIT_TEST(it_can_be_told_from_an_absent_port),
        DEBUG_EXIT_TEST(a_second_one_is_refused),
        DEBUG_EXIT_TEST(it_has_no_state_to_save),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
