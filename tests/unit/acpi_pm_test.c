/* ACPI fixed hardware: the timer's rate and carry, the PM1 registers, the SCI, soft-off and the power button. */
#include "chipset_fake.h"

#include "chipset/acpi_pm.h"

#define STATUS 0x600
#define ENABLE 0x602
#define CONTROL 0x604
#define TIMER 0x608

#define TMR 0x0001
#define GLOBAL 0x0020
#define POWER_BUTTON 0x0100
#define RTC_ALARM 0x0400
#define SLP_EN 0x2000
#define S5 (ACPI_SLP_TYP_S5 << 10)

/* How long the timer needs for that many counts, rounded up. */
#define COUNTS_NS(n) (((n)*NS_PER_SEC + ACPI_PM_TIMER_HZ - 1) / ACPI_PM_TIMER_HZ)
#define HALF (1ULL << 31)

struct fixture {
    struct bus pio, pio2;
    struct acpi_pm dev, other;
    struct fake_line sci[2];
    unsigned power_offs;
};

static void on_power_off(void *opaque)
{
    struct fixture *f = opaque;

    f->power_offs++;
    assert_int_equal(pthread_mutex_trylock(&f->dev.lock), 0); /* no lock is held */
    pthread_mutex_unlock(&f->dev.lock);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    fake_start(0);
    bus_init(&f->pio);
    bus_init(&f->pio2);
    assert_int_equal(acpi_pm_init(&f->dev, &f->pio, NULL, fake_irq(f->sci, 0), on_power_off, f, &e), 0);
    assert_int_equal(acpi_pm_init(&f->other, &f->pio2, NULL, fake_irq(f->sci, 1), on_power_off, f, &e), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    acpi_pm_fini(&f->other);
    acpi_pm_fini(&f->dev);
    assert_int_equal(f->pio.count, 0);
    assert_false(fake_timers_armed());
    bus_fini(&f->pio2);
    bus_fini(&f->pio);
    free(f);
    return 0;
}

static uint16_t in16(struct fixture *f, uint16_t port)
{
    return (uint16_t)bus_read(&f->pio, port, 2);
}

static void out16(struct fixture *f, uint16_t port, uint16_t value)
{
    bus_write(&f->pio, port, 2, value);
}

static uint32_t timer(struct fixture *f)
{
    return (uint32_t)bus_read(&f->pio, TIMER, 4);
}

static void the_timer_counts_at_3579545_hz(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(timer(f), 0);
    fake_advance(NS_PER_SEC);
    assert_int_equal(timer(f), 3579545);
    fake_advance(99 * NS_PER_SEC);
    assert_int_equal(timer(f), 357954500);
    fake_advance(NS_PER_MS);
    assert_int_equal(timer(f), 357954500 + 3579);
}

static void the_timer_is_32_bits_wide_and_wraps(void **state)
{
    struct fixture *f = *state;

    fake_advance(COUNTS_NS(UINT32_MAX));
    assert_int_equal(timer(f), UINT32_MAX);
    fake_advance(COUNTS_NS(2));
    assert_in_range(timer(f), 0, 2);
}

static void the_timer_can_be_read_in_parts_and_not_written(void **state)
{
    struct fixture *f = *state;
    uint32_t whole;

    fake_advance(123 * NS_PER_SEC);
    whole = timer(f);
    bus_write(&f->pio, TIMER, 4, 0);
    assert_int_equal(timer(f), whole);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(in8(&f->pio, (uint16_t)(TIMER + i)), whole >> 8 * i & 0xff);
    assert_int_equal(in16(f, TIMER + 2), whole >> 16);
}

static void tmr_sts_is_set_by_every_change_of_bit_31(void **state)
{
    struct fixture *f = *state;

    fake_advance(COUNTS_NS(HALF) - 1000);
    assert_int_equal(in16(f, STATUS), 0);
    for (unsigned i = 0; i < 3; i++) {
        fake_advance(2000);
        assert_int_equal(in16(f, STATUS), TMR);
        assert_int_equal(timer(f) >> 31, (i + 1) & 1);
        out16(f, STATUS, TMR);
        assert_int_equal(in16(f, STATUS), 0);
        fake_advance(COUNTS_NS(HALF) - 2000);
        assert_int_equal(in16(f, STATUS), 0);
    }
    assert_false(fake_timers_armed()); /* nobody enabled it: it is found out when it is asked for */
    assert_false(f->sci[0].level);
}

static void an_enabled_carry_raises_the_sci_when_it_comes(void **state)
{
    struct fixture *f = *state;

    out16(f, ENABLE, TMR);
    fake_advance(COUNTS_NS(HALF) - 1);
    assert_false(f->sci[0].level);
    fake_advance(1);
    assert_true(f->sci[0].level);
    assert_false(fake_timers_armed());
    out16(f, STATUS, TMR);
    assert_false(f->sci[0].level);
    fake_advance(COUNTS_NS(HALF) + 1);
    assert_true(f->sci[0].level);
    assert_int_equal(f->sci[0].rises, 2);
    out16(f, ENABLE, 0);
    assert_false(f->sci[0].level);
    assert_int_equal(in16(f, STATUS), TMR);
}

static void enabling_a_carry_that_was_there_raises_the_sci_at_once(void **state)
{
    struct fixture *f = *state;

    fake_advance(COUNTS_NS(HALF) * 3);
    out16(f, ENABLE, TMR);
    assert_true(f->sci[0].level);
    assert_int_equal(fake.expiries, 0);
}

static void the_power_button_reaches_a_guest_that_listens(void **state)
{
    struct fixture *f = *state;

    assert_false(acpi_pm_power_button_enabled(&f->dev));
    out16(f, ENABLE, POWER_BUTTON);
    assert_true(acpi_pm_power_button_enabled(&f->dev));
    acpi_pm_power_button(&f->dev);
    assert_true(f->sci[0].level);
    assert_int_equal(in16(f, STATUS), POWER_BUTTON);
    out16(f, STATUS, POWER_BUTTON);
    assert_int_equal(in16(f, STATUS), 0);
    assert_false(f->sci[0].level);
    assert_int_equal(f->power_offs, 0);
}

static void a_press_before_the_guest_listens_is_kept(void **state)
{
    struct fixture *f = *state;

    acpi_pm_power_button(&f->dev);
    assert_false(f->sci[0].level);
    out16(f, ENABLE, POWER_BUTTON);
    assert_true(f->sci[0].level);
}

static void status_bits_are_cleared_only_by_ones(void **state)
{
    struct fixture *f = *state;

    acpi_pm_power_button(&f->dev);
    out16(f, STATUS, (uint16_t)~POWER_BUTTON);
    assert_int_equal(in16(f, STATUS), POWER_BUTTON);
    out8(&f->pio, STATUS, 0xff); /* the other byte */
    assert_int_equal(in16(f, STATUS), POWER_BUTTON);
    out8(&f->pio, STATUS + 1, 0x01);
    assert_int_equal(in16(f, STATUS), 0);
}

static void enable_keeps_the_bits_of_events_that_exist(void **state)
{
    struct fixture *f = *state;

    out16(f, ENABLE, 0xffff);
    assert_int_equal(in16(f, ENABLE), TMR | GLOBAL | POWER_BUTTON | RTC_ALARM);
    out8(&f->pio, ENABLE + 1, 0);
    assert_int_equal(in16(f, ENABLE), TMR | GLOBAL);
}

static void event_registers_can_be_accessed_together(void **state)
{
    struct fixture *f = *state;

    acpi_pm_power_button(&f->dev);
    bus_write(&f->pio, STATUS, 4, (uint32_t)POWER_BUTTON << 16);
    assert_int_equal(bus_read(&f->pio, STATUS, 4), (uint32_t)POWER_BUTTON << 16 | POWER_BUTTON);
    assert_true(f->sci[0].level);
    bus_write(&f->pio, STATUS, 4, POWER_BUTTON);
    assert_int_equal(bus_read(&f->pio, STATUS, 4), 0);
    assert_false(f->sci[0].level);
}

static void acpi_mode_is_on_and_stays_on(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(in16(f, CONTROL), 1);
    out16(f, CONTROL, 0);
    assert_int_equal(in16(f, CONTROL), 1);
}

/* As kernels do it: the type first, then the type with SLP_EN. */
static void sleep_type_s5_powers_off_when_enabled(void **state)
{
    struct fixture *f = *state;
    uint16_t control = in16(f, CONTROL);

    out16(f, CONTROL, control | S5);
    assert_int_equal(f->power_offs, 0);
    assert_int_equal(in16(f, CONTROL), control | S5);
    out16(f, CONTROL, control | S5 | SLP_EN);
    assert_int_equal(f->power_offs, 1);
    assert_int_equal(in16(f, CONTROL), control | S5); /* SLP_EN reads 0 */
}

static void the_high_byte_alone_powers_off(void **state)
{
    struct fixture *f = *state;

    out8(&f->pio, CONTROL + 1, (S5 | SLP_EN) >> 8);
    assert_int_equal(f->power_offs, 1);
    out8(&f->pio, CONTROL, 0); /* the other byte */
    assert_int_equal(in16(f, CONTROL), S5 | 1);
}

static void other_sleep_types_do_nothing(void **state)
{
    struct fixture *f = *state;

    for (unsigned type = 0; type < 8; type++)
        if (type != ACPI_SLP_TYP_S5)
            out16(f, CONTROL, (uint16_t)(type << 10 | SLP_EN));
    assert_int_equal(f->power_offs, 0);
    assert_int_equal(fake.complaints, 7);
    out8(&f->pio, CONTROL, 0xff);
    assert_int_equal(f->power_offs, 0);
}

static void a_reset_clears_everything_and_lowers_the_sci(void **state)
{
    struct fixture *f = *state;

    out16(f, ENABLE, POWER_BUTTON | TMR);
    acpi_pm_power_button(&f->dev);
    fake_advance(NS_PER_SEC);
    acpi_pm_device.reset(&f->dev);
    assert_false(f->sci[0].level);
    assert_int_equal(bus_read(&f->pio, STATUS, 4), 0);
    assert_int_equal(timer(f), 0);
    assert_false(fake_timers_armed());
}

static void saved_state_is_restored_and_the_timer_goes_on(void **state)
{
    struct fixture *f = *state;
    struct state_writer w;

    out16(f, ENABLE, POWER_BUTTON | TMR);
    out16(f, CONTROL, S5);
    acpi_pm_power_button(&f->dev);
    fake_advance(COUNTS_NS(HALF) + NS_PER_SEC);
    assert_round_trip(&acpi_pm_device, &f->dev, &f->other);
    assert_true(f->sci[1].level);
    w = fake_save(&acpi_pm_device, &f->dev);
    fake.mono_ns = 5 * NS_PER_SEC; /* a host that is up for less long */
    assert_int_equal(fake_load(&acpi_pm_device, &f->other, &w, w.len), 0);
    assert_saves_as(&acpi_pm_device, &f->other, &w);
    assert_int_equal(bus_read(&f->pio2, STATUS, 2), POWER_BUTTON | TMR);
    bus_write(&f->pio2, STATUS, 2, 0xffff);
    assert_false(f->sci[1].level);
    fake_advance(COUNTS_NS(HALF) - NS_PER_SEC - 10);
    assert_false(f->sci[1].level);
    fake_advance(20);
    assert_true(f->sci[1].level);
    state_writer_fini(&w);
}

static void impossible_state_is_refused(void **state)
{
    struct fixture *f = *state;

    acpi_pm_power_button(&f->dev);
    assert_refused(&acpi_pm_device, &f->dev, "status", 0, 0, TMR); /* follows from the timer */
    assert_refused(&acpi_pm_device, &f->dev, "status", 0, 0, 0x0002);
    assert_refused(&acpi_pm_device, &f->dev, "enable", 0, 0, 0x8000);
    assert_refused(&acpi_pm_device, &f->dev, "control", 0, 0, 0);
    assert_refused(&acpi_pm_device, &f->dev, "control", 0, 0, 1 | SLP_EN);
    assert_refused(&acpi_pm_device, &f->dev, "carries_seen", 0, 0, 1); /* of the future */
    assert_refused(&acpi_pm_device, &f->dev, "carries_seen", 0, 0, UINT64_MAX);
    assert_truncations_are_refused(&acpi_pm_device, &f->dev);
}

static void a_timer_of_any_age_is_taken(void **state)
{
    struct fixture *f = *state;
    struct state_writer w;

    out16(f, ENABLE, TMR);
    w = fake_save(&acpi_pm_device, &f->dev);
    fake_set_field(&w, "timer_zero_ns", 0, 0, UINT64_MAX);
    assert_int_equal(fake_load(&acpi_pm_device, &f->dev, &w, w.len), 0);
    assert_int_equal(in16(f, STATUS), TMR);
    out16(f, STATUS, TMR);
    assert_is_quiet(3600 * NS_PER_SEC, 10);
    state_writer_fini(&w);
}

static void hostile_accesses_do_no_harm(void **state)
{
    struct fixture *f = *state;
    const uint64_t bases[] = {STATUS, TIMER};

    fake_seed(0x600);
    fuzz_registers(&f->pio, bases, 2, 6, 60000, &acpi_pm_device, &f->dev);
    fuzz_load(&acpi_pm_device, &f->dev, 4000);
    assert_true(f->power_offs > 0);
    acpi_pm_device.reset(&f->dev);
    assert_false(f->sci[0].level);
}

#define ACPI_PM_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ACPI_PM_TEST(the_timer_counts_at_3579545_hz),
        ACPI_PM_TEST(the_timer_is_32_bits_wide_and_wraps),
        ACPI_PM_TEST(the_timer_can_be_read_in_parts_and_not_written),
        ACPI_PM_TEST(tmr_sts_is_set_by_every_change_of_bit_31),
        ACPI_PM_TEST(an_enabled_carry_raises_the_sci_when_it_comes),
        ACPI_PM_TEST(enabling_a_carry_that_was_there_raises_the_sci_at_once),
        ACPI_PM_TEST(the_power_button_reaches_a_guest_that_listens),
        ACPI_PM_TEST(a_press_before_the_guest_listens_is_kept),
        ACPI_PM_TEST(status_bits_are_cleared_only_by_ones),
        ACPI_PM_TEST(enable_keeps_the_bits_of_events_that_exist),
        ACPI_PM_TEST(event_registers_can_be_accessed_together),
        ACPI_PM_TEST(acpi_mode_is_on_and_stays_on),
        ACPI_PM_TEST(sleep_type_s5_powers_off_when_enabled),
        ACPI_PM_TEST(the_high_byte_alone_powers_off),
        ACPI_PM_TEST(other_sleep_types_do_nothing),
        ACPI_PM_TEST(a_reset_clears_everything_and_lowers_the_sci),
        ACPI_PM_TEST(saved_state_is_restored_and_the_timer_goes_on),
        ACPI_PM_TEST(impossible_state_is_refused),
        ACPI_PM_TEST(a_timer_of_any_age_is_taken),
        ACPI_PM_TEST(hostile_accesses_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
