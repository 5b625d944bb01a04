/* The reset control register: which writes reset, and that it lives with PCI's configuration ports around it. */
#include "chipset_fake.h"

#include "chipset/reset_ctl.h"

#define PORT 0xcf9

struct fixture {
    struct bus pio;
    struct reset_ctl dev, behind_a_bridge;
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
    assert_int_equal(reset_ctl_init(&f->dev, &f->pio, on_reset, f, &e), 0);
    assert_int_equal(reset_ctl_init(&f->behind_a_bridge, NULL, on_reset, f, &e), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    reset_ctl_fini(&f->behind_a_bridge);
    reset_ctl_fini(&f->dev);
    assert_int_equal(f->pio.count, 0);
    bus_fini(&f->pio);
    free(f);
    return 0;
}

/* As kernels do it: choose the kind, wait, trigger. */
static void choosing_a_reset_and_triggering_it_resets_once(void **state)
{
    struct fixture *f = *state;
    uint8_t old = in8(&f->pio, PORT) & ~0x0e;

    assert_int_equal(old, 0);
    out8(&f->pio, PORT, old | 0x02);
    assert_int_equal(f->resets, 0);
    assert_int_equal(in8(&f->pio, PORT), 0x02);
    out8(&f->pio, PORT, old | 0x06);
    assert_int_equal(f->resets, 1);
}

static void one_write_of_the_acpi_reset_value_is_enough(void **state)
{
    struct fixture *f = *state;

    out8(&f->pio, PORT, 0x06);
    assert_int_equal(f->resets, 1);
    out8(&f->pio, PORT, 0x0e);
    assert_int_equal(f->resets, 2);
    out8(&f->pio, PORT, 0x04);
    assert_int_equal(f->resets, 3);
}

static void only_the_kind_of_reset_is_kept(void **state)
{
    struct fixture *f = *state;

    out8(&f->pio, PORT, 0xff);
    assert_int_equal(in8(&f->pio, PORT), 0x0a);
    reset_ctl_device.reset(&f->dev);
    assert_int_equal(in8(&f->pio, PORT), 0x00);
}

static void pci_address_writes_are_not_resets(void **state)
{
    struct fixture *f = *state;

    bus_write(&f->pio, 0xcf8, 4, 0x80000600);
    bus_write(&f->pio, 0xcf8, 4, 0xffffffff);
    bus_write(&f->pio, 0xcf8, 2, 0xffff);
    bus_write(&f->pio, 0xcf8, 1, 0xff);
    bus_write(&f->pio, 0xcfa, 2, 0xffff);
    bus_write(&f->pio, 0xcfb, 1, 0xff);
    assert_int_equal(f->resets, 0);
    assert_int_equal(bus_read(&f->pio, 0xcf9, 2), 0xffff);
    assert_int_equal(in8(&f->pio, 0xcfa), 0xff);
    assert_int_equal(bus_read(&f->pio, 0xcf8, 4), 0xffffffff); /* no configuration mechanism 1 */
}

static void a_host_bridge_can_forward_the_byte(void **state)
{
    struct fixture *f = *state;

    reset_ctl_write(&f->behind_a_bridge, 0x0a);
    assert_int_equal(f->resets, 0);
    assert_int_equal(reset_ctl_read(&f->behind_a_bridge), 0x0a);
    reset_ctl_write(&f->behind_a_bridge, 0x0e);
    assert_int_equal(f->resets, 1);
}

static void saved_state_is_restored_and_checked(void **state)
{
    struct fixture *f = *state;

    out8(&f->pio, PORT, 0x0a);
    assert_round_trip(&reset_ctl_device, &f->dev, &f->behind_a_bridge);
    assert_int_equal(reset_ctl_read(&f->behind_a_bridge), 0x0a);
    for (unsigned bit = 0; bit < 8; bit++)
        if (!(0x0a & BIT(bit)))
            assert_refused(&reset_ctl_device, &f->dev, "value", 0, 0, BIT(bit));
    assert_truncations_are_refused(&reset_ctl_device, &f->dev);
}

static void hostile_accesses_do_no_harm(void **state)
{
    struct fixture *f = *state;
    const uint64_t bases[] = {0xcf8};

    fake_seed(0xcf9);
    fuzz_registers(&f->pio, bases, 1, 4, 20000, &reset_ctl_device, &f->dev);
    fuzz_load(&reset_ctl_device, &f->dev, 2000);
    assert_int_equal(in8(&f->pio, PORT) & ~0x0a, 0);
}

#define RESET_CTL_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RESET_CTL_TEST(choosing_a_reset_and_triggering_it_resets_once),
        RESET_CTL_TEST(one_write_of_the_acpi_reset_value_is_enough),
        RESET_CTL_TEST(only_the_kind_of_reset_is_kept),
        RESET_CTL_TEST(pci_address_writes_are_not_resets),
        RESET_CTL_TEST(a_host_bridge_can_forward_the_byte),
        RESET_CTL_TEST(saved_state_is_restored_and_checked),
        RESET_CTL_TEST(hostile_accesses_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
