/* The interval timer: the six modes, latches and read-back, BCD, port 0x61, and interrupts that come in time and never too often. */
#include "chipset_fake.h"

#include "chipset/i8254.h"

#define CONTROL 0x43
#define PORT61 0x61

#define BOTH 0x30 /* access: low byte, then high byte */
#define LOW 0x10
#define HIGH 0x20
#define BCD 1
#define MODE(m) ((m) << 1)
#define CHANNEL(n) ((n) << 6)

#define OUT_HIGH 0x80
#define NULL_COUNT 0x40

struct fixture {
    struct bus pio, pio2;
    struct i8254 dev, other;
    struct fake_line line[2];
};

/* The first nanosecond in which the counters have counted n ticks from the start of the test. */
static uint64_t tick_ns(uint64_t n)
{
    return (n * NS_PER_SEC + I8254_HZ - 1) / I8254_HZ;
}

/* Goes on to exactly n ticks from the start, whatever was there before. */
static void to_tick(uint64_t n)
{
    uint64_t at = 1000 * NS_PER_SEC + tick_ns(n);

    assert_true(at >= fake.mono_ns);
    fake_advance(at - fake.mono_ns);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    fake_start(0);
    bus_init(&f->pio);
    bus_init(&f->pio2);
    assert_int_equal(i8254_init(&f->dev, &f->pio, NULL, fake_irq(f->line, 0), &e), 0);
    assert_int_equal(i8254_init(&f->other, &f->pio2, NULL, fake_irq(f->line, 1), &e), 0);
    f->line[0].rises = 0;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    i8254_fini(&f->other);
    i8254_fini(&f->dev);
    assert_int_equal(f->pio.count, 0);
    assert_false(fake_timers_armed());
    bus_fini(&f->pio2);
    bus_fini(&f->pio);
    free(f);
    return 0;
}

static void control(struct fixture *f, uint8_t value)
{
    out8(&f->pio, CONTROL, value);
}

static void write16(struct fixture *f, unsigned n, uint16_t count)
{
    out8(&f->pio, (uint16_t)(0x40 + n), (uint8_t)count);
    out8(&f->pio, (uint16_t)(0x40 + n), (uint8_t)(count >> 8));
}

static uint16_t read16(struct fixture *f, unsigned n)
{
    uint8_t low = in8(&f->pio, (uint16_t)(0x40 + n));

    return (uint16_t)(in8(&f->pio, (uint16_t)(0x40 + n)) << 8 | low);
}

static void start(struct fixture *f, unsigned n, unsigned mode, uint16_t count)
{
    control(f, (uint8_t)(CHANNEL(n) | BOTH | MODE(mode)));
    write16(f, n, count);
}

static uint8_t read_status(struct fixture *f, unsigned n)
{
    control(f, (uint8_t)(0xe0 | 2 << n));
    return in8(&f->pio, (uint16_t)(0x40 + n));
}

static void gate2(struct fixture *f, bool open)
{
    out8(&f->pio, PORT61, open);
}

static bool out2(struct fixture *f)
{
    return in8(&f->pio, PORT61) & 0x20;
}

/* --- modes of channel 2, whose gate and output can be had at port 0x61 --- */

static void mode_0_rises_at_the_terminal_count_and_stays(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    control(f, CHANNEL(2) | BOTH | MODE(0));
    assert_false(out2(f));
    write16(f, 2, 1000);
    to_tick(999);
    assert_false(out2(f));
    assert_int_equal(read16(f, 2), 1);
    to_tick(1000);
    assert_true(out2(f));
    to_tick(1001);
    assert_int_equal(read16(f, 2), 0xffff); /* counts on */
    to_tick(200000);
    assert_true(out2(f));
    write16(f, 2, 10);
    assert_false(out2(f));
}

static void mode_0_stands_while_the_gate_is_low(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    start(f, 2, 0, 1000);
    to_tick(300);
    gate2(f, false);
    to_tick(5000);
    assert_int_equal(read16(f, 2), 700);
    assert_false(out2(f));
    gate2(f, true);
    to_tick(5699);
    assert_false(out2(f));
    to_tick(5700);
    assert_true(out2(f));
}

static void mode_0_stops_at_the_first_byte_of_a_new_count(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    start(f, 2, 0, 100);
    to_tick(200);
    assert_true(out2(f));
    out8(&f->pio, 0x42, 50);
    assert_false(out2(f));
    to_tick(10000);
    assert_false(out2(f));
    out8(&f->pio, 0x42, 0);
    to_tick(10050);
    assert_true(out2(f));
}

static void mode_1_is_a_shot_that_each_rise_of_the_gate_starts_anew(void **state)
{
    struct fixture *f = *state;

    start(f, 2, 1, 100);
    assert_true(out2(f));
    to_tick(500);
    assert_true(out2(f)); /* waits for its trigger */
    gate2(f, true);
    assert_false(out2(f));
    to_tick(560);
    gate2(f, false);
    gate2(f, true);
    to_tick(650);
    assert_false(out2(f));
    to_tick(660);
    assert_true(out2(f));
    write16(f, 2, 10); /* holds from the next trigger on */
    assert_true(out2(f));
    gate2(f, false);
    gate2(f, true);
    to_tick(669);
    assert_false(out2(f));
    to_tick(670);
    assert_true(out2(f));
}

static void mode_2_is_low_for_the_last_tick_of_each_period(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    start(f, 2, 2, 4);
    for (unsigned tick = 0; tick < 40; tick++) {
        to_tick(tick);
        assert_int_equal(out2(f), tick % 4 != 3);
        assert_int_equal(read16(f, 2), 4 - tick % 4);
    }
}

static void mode_2_takes_a_new_count_at_the_end_of_the_period(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    start(f, 2, 2, 100);
    to_tick(50);
    write16(f, 2, 10);
    assert_int_equal(read16(f, 2), 50);
    assert_int_equal(read_status(f, 2) & NULL_COUNT, NULL_COUNT);
    to_tick(100);
    assert_int_equal(read16(f, 2), 10);
    assert_int_equal(read_status(f, 2) & NULL_COUNT, 0);
    to_tick(109);
    assert_false(out2(f));
    to_tick(110);
    assert_true(out2(f));
}

static void mode_2_starts_anew_when_the_gate_rises(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    start(f, 2, 2, 100);
    to_tick(99);
    assert_false(out2(f));
    gate2(f, false);
    assert_true(out2(f)); /* at once */
    to_tick(500);
    assert_true(out2(f));
    gate2(f, true);
    assert_int_equal(read16(f, 2), 100);
    to_tick(599);
    assert_false(out2(f));
}

static void mode_3_is_a_square_wave_of_even_counts(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    start(f, 2, 3, 8);
    for (unsigned tick = 0; tick < 40; tick++) {
        to_tick(tick);
        assert_int_equal(out2(f), tick % 8 < 4);
        assert_int_equal(read16(f, 2), 8 - tick % 4 * 2);
    }
}

static void mode_3_with_an_odd_count_is_high_a_tick_longer(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    start(f, 2, 3, 5);
    for (unsigned tick = 0; tick < 40; tick++) {
        to_tick(tick);
        assert_int_equal(out2(f), tick % 5 < 3);
        assert_int_equal(read16(f, 2) & 1, 0);
    }
}

static void mode_4_is_low_for_the_tick_of_its_terminal_count(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    start(f, 2, 4, 100);
    assert_true(out2(f));
    to_tick(99);
    assert_true(out2(f));
    to_tick(100);
    assert_false(out2(f));
    to_tick(101);
    assert_true(out2(f));
    to_tick(100 + 65536);
    assert_true(out2(f)); /* once only */
    write16(f, 2, 7);
    to_tick(100 + 65536 + 7);
    assert_false(out2(f));
}

static void mode_5_strobes_after_its_trigger(void **state)
{
    struct fixture *f = *state;

    start(f, 2, 5, 100);
    to_tick(1000);
    assert_true(out2(f));
    gate2(f, true);
    to_tick(1050);
    gate2(f, false); /* changes nothing */
    to_tick(1099);
    assert_true(out2(f));
    to_tick(1100);
    assert_false(out2(f));
    to_tick(1101);
    assert_true(out2(f));
}

static void modes_6_and_7_are_2_and_3(void **state)
{
    struct fixture *f = *state;

    start(f, 2, 6, 100);
    assert_int_equal(read_status(f, 2) & 0x3f, BOTH | MODE(2));
    start(f, 2, 7, 100);
    assert_int_equal(read_status(f, 2) & 0x3f, BOTH | MODE(3));
}

/* --- access --- */

static void a_count_of_0_is_65536(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    start(f, 2, 0, 0);
    assert_int_equal(read16(f, 2), 0);
    to_tick(1);
    assert_int_equal(read16(f, 2), 0xffff);
    to_tick(65535);
    assert_false(out2(f));
    to_tick(65536);
    assert_true(out2(f));
}

static void one_byte_accesses_have_the_other_byte_0(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    control(f, CHANNEL(2) | LOW | MODE(2));
    out8(&f->pio, 0x42, 0x80);
    assert_int_equal(in8(&f->pio, 0x42), 0x80);
    assert_int_equal(in8(&f->pio, 0x42), 0x80);
    control(f, CHANNEL(2) | HIGH | MODE(2));
    out8(&f->pio, 0x42, 0x80);
    assert_int_equal(in8(&f->pio, 0x42), 0x80);
    to_tick(1);
    assert_int_equal(in8(&f->pio, 0x42), 0x7f);
}

static void bcd_counts_in_decimal(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    control(f, CHANNEL(2) | BOTH | MODE(0) | BCD);
    write16(f, 2, 0x1234);
    to_tick(1);
    assert_int_equal(read16(f, 2), 0x1233);
    to_tick(235);
    assert_int_equal(read16(f, 2), 0x0999);
    to_tick(1233);
    assert_false(out2(f));
    to_tick(1234);
    assert_true(out2(f));
    to_tick(1235);
    assert_int_equal(read16(f, 2), 0x9999);
    write16(f, 2, 0); /* 10000 */
    to_tick(1235 + 9999);
    assert_false(out2(f));
    assert_int_equal(read16(f, 2), 0x0001);
    to_tick(1235 + 10000);
    assert_true(out2(f));
}

static void a_latched_count_stands_until_it_is_read(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    start(f, 2, 2, 1000);
    to_tick(100);
    control(f, CHANNEL(2));
    to_tick(200);
    control(f, CHANNEL(2)); /* changes nothing */
    assert_int_equal(in8(&f->pio, 0x42), 900 & 0xff);
    to_tick(300);
    assert_int_equal(in8(&f->pio, 0x42), 900 >> 8);
    assert_int_equal(read16(f, 2), 700);
}

static void read_back_latches_counts_of_several_channels(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    start(f, 0, 2, 1000);
    start(f, 1, 2, 2000);
    start(f, 2, 2, 3000);
    to_tick(100);
    control(f, 0xc0 | 0x10 | 0x0a); /* counts of 0 and 2 */
    to_tick(200);
    assert_int_equal(read16(f, 0), 900);
    assert_int_equal(read16(f, 1), 1800);
    assert_int_equal(read16(f, 2), 2900);
}

static void read_back_gives_status_before_the_count(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    start(f, 2, 2, 1000);
    to_tick(100);
    control(f, 0xc0 | 0x08);
    to_tick(200);
    assert_int_equal(in8(&f->pio, 0x42), OUT_HIGH | BOTH | MODE(2));
    assert_int_equal(read16(f, 2), 900);
    assert_int_equal(read16(f, 2), 800);
}

static void status_tells_output_mode_access_and_whether_the_count_is_loaded(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    control(f, CHANNEL(2) | BOTH | MODE(0) | BCD);
    assert_int_equal(read_status(f, 2), NULL_COUNT | BOTH | MODE(0) | BCD);
    write16(f, 2, 0x0100);
    assert_int_equal(read_status(f, 2), BOTH | MODE(0) | BCD);
    to_tick(100);
    assert_int_equal(read_status(f, 2), OUT_HIGH | BOTH | MODE(0) | BCD);
    control(f, CHANNEL(2) | LOW | MODE(4));
    assert_int_equal(read_status(f, 2), OUT_HIGH | NULL_COUNT | LOW | MODE(4));
}

static void a_control_word_forgets_latches_and_half_written_counts(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    start(f, 2, 2, 1000);
    control(f, CHANNEL(2));
    out8(&f->pio, 0x42, 0x55);
    start(f, 2, 2, 500);
    assert_int_equal(read16(f, 2), 500);
}

static void the_control_word_cannot_be_read(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(in8(&f->pio, CONTROL), 0xff);
}

/* --- port 0x61 --- */

static void port_61_keeps_its_low_bits(void **state)
{
    struct fixture *f = *state;

    for (unsigned value = 0; value < 256; value++) {
        out8(&f->pio, PORT61, (uint8_t)value);
        assert_int_equal(in8(&f->pio, PORT61) & 0xcf, value & 0x0f);
    }
}

static void the_refresh_bit_toggles_every_15_us(void **state)
{
    struct fixture *f = *state;
    unsigned toggles = 0;
    uint8_t before = in8(&f->pio, PORT61) & 0x10;

    for (unsigned us = 0; us < 15085; us++) {
        uint8_t now;

        fake_advance(1000);
        now = in8(&f->pio, PORT61) & 0x10;
        toggles += now != before;
        before = now;
    }
    assert_in_range(toggles, 999, 1001);
}

/* How kernels find the TSC's frequency: a 50 ms shot, and the time until OUT is seen high. */
static void a_calibration_shot_takes_its_time(void **state)
{
    struct fixture *f = *state;
    uint64_t count = I8254_HZ / 20, started, took;

    out8(&f->pio, PORT61, (in8(&f->pio, PORT61) & ~2) | 1);
    control(f, 0xb0);
    write16(f, 2, (uint16_t)count);
    started = fake.mono_ns;
    while (!out2(f))
        fake_advance(1000);
    took = fake.mono_ns - started;
    assert_in_range(took, tick_ns(count) - 1000, tick_ns(count) + 1000);
}

/* --- interrupts of channel 0 --- */

static void the_tick_has_the_programmed_rate(void **state)
{
    struct fixture *f = *state;
    static const unsigned modes[] = {2, 3};

    for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
        start(f, 0, modes[i], 11932); /* 100 Hz */
        f->line[0].rises = 0;
        fake_advance(10 * NS_PER_SEC);
        assert_in_range(f->line[0].rises, 999, 1000);
        assert_true(f->line[0].level);
    }
}

static void each_tick_comes_at_the_end_of_its_period(void **state)
{
    struct fixture *f = *state;

    start(f, 0, 2, 1000);
    for (unsigned i = 1; i < 100; i++) {
        to_tick(i * 1000 - 1);
        assert_int_equal(f->line[0].rises, i - 1);
        to_tick(i * 1000);
        assert_int_equal(f->line[0].rises, i);
    }
}

static void programming_the_tick_is_no_interrupt(void **state)
{
    struct fixture *f = *state;

    start(f, 0, 2, 1000);
    assert_int_equal(f->line[0].rises, 0);
}

static void a_single_shot_interrupts_once(void **state)
{
    struct fixture *f = *state;

    start(f, 0, 0, 1000);
    assert_false(f->line[0].level);
    to_tick(999);
    assert_int_equal(f->line[0].rises, 0);
    to_tick(1000);
    assert_int_equal(f->line[0].rises, 1);
    fake_advance(10 * NS_PER_SEC);
    assert_int_equal(f->line[0].rises, 1);
    assert_false(fake_timers_armed());
}

static void a_new_count_takes_over_after_the_tick_of_the_old(void **state)
{
    struct fixture *f = *state;

    start(f, 0, 2, 1000);
    to_tick(500);
    write16(f, 0, 300);
    to_tick(999);
    assert_int_equal(f->line[0].rises, 0);
    to_tick(1000);
    assert_int_equal(f->line[0].rises, 1);
    to_tick(1300);
    assert_int_equal(f->line[0].rises, 2);
}

static void a_strobe_interrupts_a_tick_after_its_count(void **state)
{
    struct fixture *f = *state;

    start(f, 0, 4, 1000);
    to_tick(1000);
    assert_int_equal(f->line[0].rises, 0);
    to_tick(1001);
    assert_int_equal(f->line[0].rises, 1);
    write16(f, 0, 500);
    to_tick(1502);
    assert_int_equal(f->line[0].rises, 2);
    fake_advance(NS_PER_SEC);
    assert_int_equal(f->line[0].rises, 2);
}

/* A long period before must not hold back a short shot: kernels go from the tick to single shots. */
static void a_new_mode_does_not_wait_for_the_old_period(void **state)
{
    struct fixture *f = *state;

    start(f, 0, 2, 0); /* 55 ms */
    to_tick(65536);
    assert_int_equal(f->line[0].rises, 1);
    start(f, 0, 4, 1000);
    to_tick(65536 + 1001);
    assert_int_equal(f->line[0].rises, 2);
}

static void channels_1_and_2_interrupt_nobody(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    start(f, 1, 2, 18);
    start(f, 2, 3, 1000);
    fake_advance(NS_PER_SEC);
    assert_int_equal(f->line[0].rises, 0);
    assert_int_equal(fake.expiries, 0);
}

static void a_channel_that_is_not_programmed_is_quiet(void **state)
{
    struct fixture *f = *state;

    fake_advance(NS_PER_SEC);
    control(f, BOTH | MODE(2));
    fake_advance(NS_PER_SEC);
    out8(&f->pio, 0x40, 100); /* half a count */
    fake_advance(NS_PER_SEC);
    assert_int_equal(f->line[0].rises, 0);
    assert_int_equal(fake.expiries, 0);
}

/* The host did not run us for a while: the ticks are made up for, at twice the rate, up to a limit. */
static void ticks_that_came_too_late_are_made_up_for(void **state)
{
    struct fixture *f = *state;

    start(f, 0, 2, 11932);
    fake.mono_ns += 100 * NS_PER_MS; /* ten periods, and no timer ran */
    fake_advance(NS_PER_SEC);
    assert_in_range(f->line[0].rises, 108, 110);
    f->line[0].rises = 0;
    fake.mono_ns += 10 * NS_PER_SEC;
    fake_advance(NS_PER_SEC);
    assert_in_range(f->line[0].rises, 99 + 14, 101 + 16);
}

static void the_fastest_tick_keeps_the_loop_free(void **state)
{
    struct fixture *f = *state;

    for (uint16_t count = 1; count < 120; count++) {
        uint64_t before = fake.expiries;

        start(f, 0, 2, count);
        fake_advance(100 * NS_PER_MS);
        assert_in_range(fake.expiries - before, 900, 1001); /* one per 100 us */
    }
}

/* --- life --- */

static void a_reset_stops_everything(void **state)
{
    struct fixture *f = *state;

    gate2(f, true);
    start(f, 0, 2, 1000);
    start(f, 2, 2, 1000);
    i8254_device.reset(&f->dev);
    assert_false(fake_timers_armed());
    assert_int_equal(in8(&f->pio, PORT61) & 0x0f, 0);
    assert_true(f->line[0].level);
    assert_int_equal(read_status(f, 0), OUT_HIGH | NULL_COUNT | BOTH | MODE(3));
}

static void saved_state_is_restored_and_counts_on(void **state)
{
    struct fixture *f = *state;
    struct state_writer w;

    gate2(f, true);
    start(f, 0, 2, 10000);
    start(f, 1, 3, 18);
    start(f, 2, 0, 50000);
    to_tick(12345);
    control(f, CHANNEL(2));
    in8(&f->pio, 0x42);
    out8(&f->pio, 0x41, 7);
    assert_round_trip(&i8254_device, &f->dev, &f->other);
    w = fake_save(&i8254_device, &f->dev);
    fake.mono_ns = 10; /* a host that is up for less long */
    assert_int_equal(fake_load(&i8254_device, &f->other, &w, w.len), 0);
    assert_int_equal(in8(&f->pio2, 0x42), (50000 - 12345) >> 8); /* the latch's second half */
    f->line[1].rises = 0;
    fake_advance(tick_ns(20000 - 12345) - 2000);
    assert_int_equal(f->line[1].rises, 0);
    fake_advance(4000);
    assert_int_equal(f->line[1].rises, 1);
    assert_false(in8(&f->pio2, PORT61) & 0x20);
    fake_advance(tick_ns(30000) + 2000);
    assert_true(in8(&f->pio2, PORT61) & 0x20);
    state_writer_fini(&w);
}

static void loading_raises_nothing_and_loses_nothing(void **state)
{
    struct fixture *f = *state;
    struct state_writer w;

    start(f, 0, 0, 1000);
    to_tick(1000);
    assert_round_trip(&i8254_device, &f->dev, &f->dev);
    assert_int_equal(f->line[0].rises, 1);
    assert_true(f->line[0].level);
    out8(&f->pio, 0x40, 1); /* takes OUT low */
    assert_round_trip(&i8254_device, &f->dev, &f->dev);
    assert_false(f->line[0].level);
    start(f, 0, 2, 11932);
    f->line[0].rises = 0;
    fake.mono_ns += 35 * NS_PER_MS; /* three periods that nobody saw */
    w = fake_save(&i8254_device, &f->dev);
    assert_int_equal(fake_load(&i8254_device, &f->dev, &w, w.len), 0);
    assert_int_equal(f->line[0].rises, 0);
    fake_advance(NS_PER_SEC);
    assert_in_range(f->line[0].rises, 102, 104);
    state_writer_fini(&w);
}

static void impossible_state_is_refused(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *name;
        uint64_t value;
    } wrong[] = {
        {"mode", 6},      {"access", 0},        {"access", 4},         {"bcd", 2},
        {"gate", 2},      {"reload", 65537},    {"reload", 0},         {"next_reload", 1 << 17},
        {"backlog", 17},  {"fired", 2},         {"counting", 2},       {"write_high", 2},
        {"read_high", 2}, {"count_latched", 2}, {"status_latched", 2},
    };

    gate2(f, true);
    for (unsigned n = 0; n < 3; n++)
        start(f, n, 2, 1000);
    to_tick(10);
    for (unsigned n = 0; n < 3; n++) {
        for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++)
            assert_refused(&i8254_device, &f->dev, wrong[i].name, n, 0, wrong[i].value);
        assert_refused(&i8254_device, &f->dev, "gate", n, 0, 0); /* wired, or a bit of port 0x61 */
    }
    assert_refused(&i8254_device, &f->dev, "port61", 0, 0, 0x00);
    assert_refused(&i8254_device, &f->dev, "port61", 0, 0, 0x11);
    assert_truncations_are_refused(&i8254_device, &f->dev);
    to_tick(1000);
    assert_int_equal(f->line[0].rises, 1);
}

static void hostile_accesses_do_no_harm(void **state)
{
    struct fixture *f = *state;
    const uint64_t bases[] = {0x40, PORT61};

    fake_seed(8254);
    fuzz_registers(&f->pio, bases, 2, 4, 60000, &i8254_device, &f->dev);
    fuzz_load(&i8254_device, &f->dev, 4000);
    i8254_device.reset(&f->dev);
    f->line[0].rises = 0;
    start(f, 0, 2, 11932);
    fake_advance(NS_PER_SEC);
    assert_in_range(f->line[0].rises, 99, 100);
}

#define I8254_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        I8254_TEST(mode_0_rises_at_the_terminal_count_and_stays),
        I8254_TEST(mode_0_stands_while_the_gate_is_low),
        I8254_TEST(mode_0_stops_at_the_first_byte_of_a_new_count),
        I8254_TEST(mode_1_is_a_shot_that_each_rise_of_the_gate_starts_anew),
        I8254_TEST(mode_2_is_low_for_the_last_tick_of_each_period),
        I8254_TEST(mode_2_takes_a_new_count_at_the_end_of_the_period),
        I8254_TEST(mode_2_starts_anew_when_the_gate_rises),
        I8254_TEST(mode_3_is_a_square_wave_of_even_counts),
        I8254_TEST(mode_3_with_an_odd_count_is_high_a_tick_longer),
        I8254_TEST(mode_4_is_low_for_the_tick_of_its_terminal_count),
        I8254_TEST(mode_5_strobes_after_its_trigger),
        I8254_TEST(modes_6_and_7_are_2_and_3),
        I8254_TEST(a_count_of_0_is_65536),
        I8254_TEST(one_byte_accesses_have_the_other_byte_0),
        I8254_TEST(bcd_counts_in_decimal),
        I8254_TEST(a_latched_count_stands_until_it_is_read),
        I8254_TEST(read_back_latches_counts_of_several_channels),
        I8254_TEST(read_back_gives_status_before_the_count),
        I8254_TEST(status_tells_output_mode_access_and_whether_the_count_is_loaded),
        I8254_TEST(a_control_word_forgets_latches_and_half_written_counts),
        I8254_TEST(the_control_word_cannot_be_read),
        I8254_TEST(port_61_keeps_its_low_bits),
        I8254_TEST(the_refresh_bit_toggles_every_15_us),
        I8254_TEST(a_calibration_shot_takes_its_time),
        I8254_TEST(the_tick_has_the_programmed_rate),
        I8254_TEST(each_tick_comes_at_the_end_of_its_period),
        I8254_TEST(programming_the_tick_is_no_interrupt),
        I8254_TEST(a_single_shot_interrupts_once),
        I8254_TEST(a_new_count_takes_over_after_the_tick_of_the_old),
        I8254_TEST(a_strobe_interrupts_a_tick_after_its_count),
        I8254_TEST(a_new_mode_does_not_wait_for_the_old_period),
        I8254_TEST(channels_1_and_2_interrupt_nobody),
        I8254_TEST(a_channel_that_is_not_programmed_is_quiet),
        I8254_TEST(ticks_that_came_too_late_are_made_up_for),
        I8254_TEST(the_fastest_tick_keeps_the_loop_free),
        I8254_TEST(a_reset_stops_everything),
        I8254_TEST(saved_state_is_restored_and_counts_on),
        I8254_TEST(loading_raises_nothing_and_loses_nothing),
        I8254_TEST(impossible_state_is_refused),
        I8254_TEST(hostile_accesses_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
