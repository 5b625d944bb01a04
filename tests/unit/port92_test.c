/* System control port A: the reset edge, and an A20 gate that reads as written. */
#include "chipset_fake.h"

#include "chipset/port92.h"

#define PORT 0x92

struct fixture {
    struct bus pio, pio2;
    struct port92 dev, other;
    unsigned resets;
};

static void on_reset(void *opaque)
{
    ((struct fixture *)opaque)->resets++;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    bus_init(&f->pio);
    bus_init(&f->pio2);
    assert_int_equal(port92_init(&f->other, &f->pio2, on_reset, f, &e), 0);
    assert_int_equal(port92_init(&f->dev, &f->pio, on_reset, f, &e), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    port92_fini(&f->other);
    port92_fini(&f->dev);
    assert_int_equal(f->pio.count, 0);
    bus_fini(&f->pio2);
    bus_fini(&f->pio);
    free(f);
    return 0;
}

static void a20_is_open_at_power_on_and_reads_as_written(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(in8(&f->pio, PORT), 0x02);
    out8(&f->pio, PORT, 0x00);
    assert_int_equal(in8(&f->pio, PORT), 0x00);
    out8(&f->pio, PORT, 0xfe);
    assert_int_equal(in8(&f->pio, PORT), 0x02);
    assert_int_equal(f->resets, 0);
}

static void bit_0_resets_when_it_rises(void **state)
{
    struct fixture *f = *state;

    out8(&f->pio, PORT, 0x03);
    assert_int_equal(f->resets, 1);
    out8(&f->pio, PORT, 0x01);
    assert_int_equal(f->resets, 1);
    out8(&f->pio, PORT, 0x02);
    out8(&f->pio, PORT, 0x03);
    assert_int_equal(f->resets, 2);
}

static void a_reset_makes_it_as_new(void **state)
{
    struct fixture *f = *state;

    out8(&f->pio, PORT, 0x01);
    port92_device.reset(&f->dev);
    assert_int_equal(in8(&f->pio, PORT), 0x02);
    out8(&f->pio, PORT, 0x03);
    assert_int_equal(f->resets, 2);
}

static void saved_state_is_restored_and_checked(void **state)
{
    struct fixture *f = *state;

    out8(&f->pio, PORT, 0x01);
    assert_round_trip(&port92_device, &f->dev, &f->other);
    assert_int_equal(f->other.state.value, 1);
    for (unsigned value = 4; value < 256; value++)
        assert_refused(&port92_device, &f->dev, "value", 0, 0, value);
    assert_truncations_are_refused(&port92_device, &f->dev);
}

static void hostile_accesses_do_no_harm(void **state)
{
    struct fixture *f = *state;
    const uint64_t bases[] = {PORT};

    fake_seed(92);
    fuzz_registers(&f->pio, bases, 1, 1, 20000, &port92_device, &f->dev);
    fuzz_load(&port92_device, &f->dev, 2000);
    assert_int_equal(in8(&f->pio, PORT) & ~3, 0);
}

#define PORT92_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PORT92_TEST(a20_is_open_at_power_on_and_reads_as_written),
        PORT92_TEST(bit_0_resets_when_it_rises),
        PORT92_TEST(a_reset_makes_it_as_new),
        PORT92_TEST(saved_state_is_restored_and_checked),
        PORT92_TEST(hostile_accesses_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
