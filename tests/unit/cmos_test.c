/* The real-time clock: the date in every format, setting it, updates, alarms, periodic ticks, and the memory bytes. */
#include "chipset_fake.h"

#include <time.h>

#include "chipset/cmos.h"

#define INDEX 0x70
#define DATA 0x71

enum { SECOND = 0, SECOND_ALARM, MINUTE, MINUTE_ALARM, HOUR, HOUR_ALARM, WEEKDAY, DAY, MONTH, YEAR, A, B, C, D, CENTURY = 0x32 };

#define UIP 0x80
#define SET 0x80
#define PIE 0x40
#define AIE 0x20
#define UIE 0x10
#define BINARY 0x04
#define H24 0x02
#define IRQF 0x80
#define PF 0x40
#define AF 0x20
#define UF 0x10

/* Tue 2023-11-14 22:13:20 UTC */
#define START_S 1700000000ULL

struct fixture {
    struct bus pio, pio2;
    struct cmos dev, other;
    struct fake_line line[2];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    fake_start(START_S * NS_PER_SEC);
    bus_init(&f->pio);
    bus_init(&f->pio2);
    assert_int_equal(cmos_init(&f->dev, &f->pio, NULL, fake_irq(f->line, 0), GIB(3), GIB(5), &e), 0);
    assert_int_equal(cmos_init(&f->other, &f->pio2, NULL, fake_irq(f->line, 1), MIB(48), 0, &e), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    cmos_fini(&f->other);
    cmos_fini(&f->dev);
    assert_int_equal(f->pio.count, 0);
    assert_false(fake_timers_armed());
    bus_fini(&f->pio2);
    bus_fini(&f->pio);
    free(f);
    return 0;
}

static uint8_t get_from(struct bus *bus, uint8_t index)
{
    out8(bus, INDEX, index);
    return in8(bus, DATA);
}

static uint8_t get(struct fixture *f, uint8_t index)
{
    return get_from(&f->pio, index);
}

static void set(struct fixture *f, uint8_t index, uint8_t value)
{
    out8(&f->pio, INDEX, index);
    out8(&f->pio, DATA, value);
}

struct date {
    uint8_t century, year, month, day, weekday, hour, minute, second;
};

static void assert_date_of(struct bus *bus, struct date want)
{
    assert_int_equal(get_from(bus, CENTURY), want.century);
    assert_int_equal(get_from(bus, YEAR), want.year);
    assert_int_equal(get_from(bus, MONTH), want.month);
    assert_int_equal(get_from(bus, DAY), want.day);
    assert_int_equal(get_from(bus, WEEKDAY), want.weekday);
    assert_int_equal(get_from(bus, HOUR), want.hour);
    assert_int_equal(get_from(bus, MINUTE), want.minute);
    assert_int_equal(get_from(bus, SECOND), want.second);
}

static void assert_date(struct fixture *f, struct date want)
{
    assert_date_of(&f->pio, want);
}

/* As drivers set the clock: halt it, write, let it go. */
static void write_date(struct fixture *f, struct date d)
{
    uint8_t b = get(f, B);

    set(f, B, b | SET);
    set(f, CENTURY, d.century);
    set(f, YEAR, d.year);
    set(f, MONTH, d.month);
    set(f, DAY, d.day);
    set(f, WEEKDAY, d.weekday);
    set(f, HOUR, d.hour);
    set(f, MINUTE, d.minute);
    set(f, SECOND, d.second);
    set(f, B, b);
}

/* --- the date --- */

static void it_shows_the_hosts_date_in_bcd_and_24_hours(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(get(f, B), H24);
    assert_date(f, (struct date){0x20, 0x23, 0x11, 0x14, 3, 0x22, 0x13, 0x20});
    fake_advance(45 * NS_PER_SEC);
    assert_date(f, (struct date){0x20, 0x23, 0x11, 0x14, 3, 0x22, 0x14, 0x05});
}

static void binary_and_12_hours_are_other_ways_to_show_it(void **state)
{
    struct fixture *f = *state;

    set(f, B, H24 | BINARY);
    assert_date(f, (struct date){20, 23, 11, 14, 3, 22, 13, 20});
    set(f, B, BINARY);
    assert_int_equal(get(f, HOUR), 0x80 | 10);
    set(f, B, 0);
    assert_int_equal(get(f, HOUR), 0x80 | 0x10);
    assert_int_equal(get(f, MINUTE), 0x13);
}

static void twelve_hours_begin_with_12(void **state)
{
    struct fixture *f = *state;

    set(f, B, 0);
    for (unsigned hour = 0; hour < 24; hour++) {
        unsigned shown = hour % 12 ? hour % 12 : 12;

        fake.real_ns = (START_S / 86400 * 86400 + hour * 3600) * NS_PER_SEC;
        assert_int_equal(get(f, HOUR), (hour >= 12 ? 0x80 : 0) | (shown / 10 << 4) | shown % 10);
    }
}

static void each_register_is_right_on_its_own(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint8_t index, value;
    } want[] = {{SECOND, 0x29}, {MINUTE, 0x28}, {HOUR, 0x15}, {WEEKDAY, 5}, {DAY, 0x17}, {MONTH, 0x07}, {YEAR, 0x25}, {CENTURY, 0x20}};

    for (unsigned i = 0; i < ARRAY_SIZE(want); i++) {
        fake.real_ns = 0;
        get(f, SECOND);
        fake.real_ns = 1752766109 * NS_PER_SEC; /* Thu 2025-07-17 15:28:29 */
        assert_int_equal(get(f, want[i].index), want[i].value);
    }
}

static void leap_days_and_centuries_are_right(void **state)
{
    struct fixture *f = *state;

    write_date(f, (struct date){0x20, 0x24, 0x02, 0x28, 4, 0x23, 0x59, 0x59});
    fake_advance(NS_PER_SEC);
    assert_date(f, (struct date){0x20, 0x24, 0x02, 0x29, 5, 0x00, 0x00, 0x00});
    fake_advance(86400 * NS_PER_SEC);
    assert_date(f, (struct date){0x20, 0x24, 0x03, 0x01, 6, 0x00, 0x00, 0x00});
    write_date(f, (struct date){0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x59});
    fake_advance(NS_PER_SEC);
    assert_date(f, (struct date){0x20, 0x00, 0x01, 0x01, 7, 0x00, 0x00, 0x00});
    write_date(f, (struct date){0x20, 0x99, 0x12, 0x31, 5, 0x23, 0x59, 0x59});
    fake_advance(NS_PER_SEC);
    assert_date(f, (struct date){0x21, 0x00, 0x01, 0x01, 6, 0x00, 0x00, 0x00});
}

static void dates_before_1970_can_be_set(void **state)
{
    struct fixture *f = *state;

    write_date(f, (struct date){0x19, 0x00, 0x01, 0x01, 2, 0x00, 0x00, 0x00});
    assert_date(f, (struct date){0x19, 0x00, 0x01, 0x01, 2, 0x00, 0x00, 0x00});
    fake_advance(61 * NS_PER_SEC);
    assert_date(f, (struct date){0x19, 0x00, 0x01, 0x01, 2, 0x00, 0x01, 0x01});
}

/* --- setting it --- */

static void a_date_that_was_set_goes_on_from_there(void **state)
{
    struct fixture *f = *state;

    set(f, B, H24 | BINARY);
    write_date(f, (struct date){20, 31, 5, 6, 3, 7, 8, 9});
    assert_date(f, (struct date){20, 31, 5, 6, 3, 7, 8, 9});
    fake_advance(3600 * NS_PER_SEC);
    assert_date(f, (struct date){20, 31, 5, 6, 3, 8, 8, 9});
}

static void every_hour_can_be_set_in_12_hours(void **state)
{
    struct fixture *f = *state;

    for (unsigned hour = 0; hour < 24; hour++) {
        uint8_t shown = (uint8_t)((hour >= 12 ? 0x80 : 0) | (hour % 12 ? hour % 12 : 12));

        set(f, B, BINARY);
        write_date(f, (struct date){20, 23, 11, 14, 3, shown, 0, 0});
        assert_int_equal(get(f, HOUR), shown);
        set(f, B, BINARY | H24);
        assert_int_equal(get(f, HOUR), hour);
    }
}

static void set_halts_the_clock_and_keeps_what_is_written(void **state)
{
    struct fixture *f = *state;

    set(f, B, H24 | SET);
    fake_advance(10 * NS_PER_SEC);
    assert_date(f, (struct date){0x20, 0x23, 0x11, 0x14, 3, 0x22, 0x13, 0x20});
    set(f, SECOND, 0x33);
    fake_advance(10 * NS_PER_SEC);
    assert_int_equal(get(f, SECOND), 0x33);
    assert_int_equal(get(f, A) & UIP, 0);
    set(f, B, H24);
    assert_int_equal(get(f, SECOND), 0x33);
    fake_advance(NS_PER_SEC);
    assert_int_equal(get(f, SECOND), 0x34);
}

static void set_clears_the_update_interrupt_enable(void **state)
{
    struct fixture *f = *state;

    set(f, B, H24 | UIE | AIE | PIE);
    set(f, B, H24 | UIE | AIE | PIE | SET);
    assert_int_equal(get(f, B), H24 | AIE | PIE | SET);
}

static void the_fraction_of_the_second_survives_a_set(void **state)
{
    struct fixture *f = *state;

    fake_advance(300 * NS_PER_MS);
    set(f, B, H24 | SET);
    set(f, SECOND, 0x00);
    set(f, B, H24);
    fake_advance(699 * NS_PER_MS);
    assert_int_equal(get(f, SECOND), 0x00);
    fake_advance(NS_PER_MS);
    assert_int_equal(get(f, SECOND), 0x01);
}

/* By this drivers set the clock to a half second exactly. */
static void the_first_update_comes_half_a_second_after_a_divider_reset(void **state)
{
    struct fixture *f = *state;

    fake_advance(123 * NS_PER_MS);
    set(f, B, H24 | SET);
    set(f, A, 0x76);
    assert_int_equal(get(f, A), 0x76);
    set(f, SECOND, 0x40);
    fake_advance(5 * NS_PER_SEC);
    set(f, B, H24);
    assert_int_equal(get(f, SECOND), 0x40);
    fake_advance(321 * NS_PER_MS);
    set(f, A, 0x26);
    fake_advance(499 * NS_PER_MS);
    assert_int_equal(get(f, SECOND), 0x40);
    fake_advance(2 * NS_PER_MS);
    assert_int_equal(get(f, SECOND), 0x41);
    fake_advance(NS_PER_SEC);
    assert_int_equal(get(f, SECOND), 0x42);
}

static void a_running_clock_takes_single_values(void **state)
{
    struct fixture *f = *state;

    set(f, MINUTE, 0x45);
    assert_date(f, (struct date){0x20, 0x23, 0x11, 0x14, 3, 0x22, 0x45, 0x20});
}

static void impossible_dates_do_no_harm(void **state)
{
    struct fixture *f = *state;

    for (unsigned v = 0; v < 256; v++) {
        uint8_t x = (uint8_t)v;

        for (unsigned format = 0; format < 8; format += 2) {
            set(f, B, (uint8_t)format);
            write_date(f, (struct date){x, x, x, x, x, x, x, x});
            fake_advance(NS_PER_SEC);
            set(f, B, BINARY | H24);
            assert_in_range(get(f, SECOND), 0, 59);
            assert_in_range(get(f, MINUTE), 0, 59);
            assert_in_range(get(f, HOUR), 0, 23);
            assert_in_range(get(f, DAY), 1, 31);
            assert_in_range(get(f, MONTH), 1, 12);
            assert_in_range(get(f, WEEKDAY), 1, 7);
        }
    }
}

static void a_step_of_the_hosts_date_is_followed(void **state)
{
    struct fixture *f = *state;

    fake.real_ns -= 3600 * NS_PER_SEC;
    assert_int_equal(get(f, HOUR), 0x21);
    fake.real_ns += 2 * 3600 * NS_PER_SEC;
    assert_int_equal(get(f, HOUR), 0x23);
}

/* --- updates --- */

static void uip_announces_the_update_by_244_us(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(get(f, A), 0x26);
    fake_advance(NS_PER_SEC - 244001);
    assert_int_equal(get(f, A), 0x26);
    fake_advance(1);
    assert_int_equal(get(f, A), 0x26 | UIP);
    assert_int_equal(get(f, SECOND), 0x20);
    fake_advance(243999);
    assert_int_equal(get(f, A), 0x26 | UIP);
    fake_advance(1);
    assert_int_equal(get(f, A), 0x26);
    assert_int_equal(get(f, SECOND), 0x21);
}

/* A driver that saw UIP clear has 244 us in which all registers are of one second. */
static void the_registers_agree_while_uip_is_clear(void **state)
{
    struct fixture *f = *state;

    write_date(f, (struct date){0x20, 0x23, 0x12, 0x31, 1, 0x23, 0x59, 0x59});
    fake_advance(NS_PER_SEC - 244001);
    assert_int_equal(get(f, A) & UIP, 0);
    assert_int_equal(get(f, SECOND), 0x59);
    fake_advance(240000);
    assert_int_equal(get(f, YEAR), 0x23);
    assert_int_equal(get(f, MINUTE), 0x59);
}

static void uf_is_set_once_a_second_with_or_without_its_interrupt(void **state)
{
    struct fixture *f = *state;

    get(f, C);
    assert_int_equal(get(f, C) & ~PF, 0);
    fake_advance(NS_PER_SEC);
    assert_int_equal(get(f, C) & ~PF, UF);
    assert_int_equal(get(f, C), 0); /* reading clears */
    assert_int_equal(f->line[0].rises, 0);
    assert_int_equal(fake.expiries, 0); /* found out when it is asked for */
}

static void update_interrupts_come_every_second(void **state)
{
    struct fixture *f = *state;

    set(f, B, H24 | UIE);
    for (unsigned i = 1; i <= 10; i++) {
        fake_advance(NS_PER_SEC - 1);
        assert_int_equal(f->line[0].rises, i - 1);
        fake_advance(1);
        assert_int_equal(f->line[0].rises, i);
        assert_true(f->line[0].level);
        assert_int_equal(get(f, C) & (IRQF | UF), IRQF | UF);
        assert_false(f->line[0].level);
    }
}

static void an_interrupt_that_is_not_served_keeps_the_loop_free(void **state)
{
    struct fixture *f = *state;

    set(f, B, H24 | UIE | PIE);
    set(f, A, 0x23); /* 8192 Hz */
    fake_advance(10 * NS_PER_SEC);
    assert_true(f->line[0].level);
    assert_int_equal(f->line[0].rises, 1);
    assert_in_range(fake.expiries, 1, 2);
}

static void disabling_an_interrupt_lowers_the_line_and_keeps_the_flag(void **state)
{
    struct fixture *f = *state;

    set(f, B, H24 | UIE);
    fake_advance(NS_PER_SEC);
    assert_true(f->line[0].level);
    set(f, B, H24);
    assert_false(f->line[0].level);
    set(f, B, H24 | UIE);
    assert_true(f->line[0].level);
    assert_int_equal(get(f, C) & (IRQF | UF), IRQF | UF);
}

/* --- alarms --- */

static void an_alarm_goes_off_at_its_time_of_day(void **state)
{
    struct fixture *f = *state;

    set(f, SECOND_ALARM, 0x30);
    set(f, MINUTE_ALARM, 0x15);
    set(f, HOUR_ALARM, 0x22);
    set(f, B, H24 | AIE);
    fake_advance(129 * NS_PER_SEC);
    assert_false(f->line[0].level);
    fake_advance(NS_PER_SEC);
    assert_true(f->line[0].level);
    assert_int_equal(get(f, C) & (IRQF | AF), IRQF | AF);
    fake_advance(86399 * NS_PER_SEC);
    assert_false(f->line[0].level);
    fake_advance(NS_PER_SEC);
    assert_true(f->line[0].level);
}

static void alarm_bytes_from_c0_match_anything(void **state)
{
    struct fixture *f = *state;

    set(f, SECOND_ALARM, 0x05);
    set(f, MINUTE_ALARM, 0xc0);
    set(f, HOUR_ALARM, 0xff);
    set(f, B, H24 | AIE);
    for (unsigned i = 0; i < 5; i++) {
        fake_advance((i ? 60 : 45) * NS_PER_SEC - 1);
        assert_false(f->line[0].level);
        fake_advance(1);
        assert_true(f->line[0].level);
        get(f, C);
    }
    set(f, SECOND_ALARM, 0xc0);
    fake_advance(NS_PER_SEC);
    assert_true(f->line[0].level);
}

static void alarms_are_compared_in_the_clocks_format(void **state)
{
    struct fixture *f = *state;

    set(f, B, BINARY | AIE);
    set(f, SECOND_ALARM, 0);
    set(f, MINUTE_ALARM, 30);
    set(f, HOUR_ALARM, 0x80 | 11); /* 11 p.m. */
    fake_advance((46 * 60 + 39) * NS_PER_SEC + 60 * 30 * NS_PER_SEC);
    assert_false(f->line[0].level);
    fake_advance(NS_PER_SEC);
    assert_true(f->line[0].level);
}

static void an_alarm_flag_is_set_without_its_interrupt(void **state)
{
    struct fixture *f = *state;

    set(f, SECOND_ALARM, 0x21);
    set(f, MINUTE_ALARM, 0x13);
    set(f, HOUR_ALARM, 0x22);
    fake_advance(NS_PER_SEC);
    assert_int_equal(get(f, C) & (AF | IRQF), AF);
    assert_int_equal(f->line[0].rises, 0);
}

static void an_alarm_that_names_no_time_never_comes(void **state)
{
    struct fixture *f = *state;

    set(f, SECOND_ALARM, 0x7f);
    set(f, MINUTE_ALARM, 0xc0);
    set(f, HOUR_ALARM, 0xc0);
    set(f, B, H24 | AIE);
    fake_advance(3 * 86400 * NS_PER_SEC);
    assert_int_equal(f->line[0].rises, 0);
    assert_int_equal(fake.expiries, 0);
}

static void an_alarm_follows_a_step_of_the_hosts_date(void **state)
{
    struct fixture *f = *state;

    set(f, SECOND_ALARM, 0x00);
    set(f, MINUTE_ALARM, 0x00);
    set(f, HOUR_ALARM, 0x23);
    set(f, B, H24 | AIE);
    fake_advance(NS_PER_SEC);
    fake.real_ns += 3600 * NS_PER_SEC; /* over the alarm */
    fake_advance(11 * NS_PER_SEC);
    assert_true(f->line[0].level);
}

/* --- periodic ticks --- */

static void periodic_rates_are_those_of_the_data_sheet(void **state)
{
    struct fixture *f = *state;
    static const unsigned hz[16] = {0, 256, 128, 8192, 4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2};

    set(f, B, H24 | PIE);
    for (unsigned rate = 0; rate < 16; rate++) {
        unsigned count = 0;

        set(f, A, (uint8_t)(0x20 | rate));
        get(f, C);
        for (unsigned i = 0; i < 4 * 8192; i++) {
            fake_advance(NS_PER_SEC / 4 / 8192);
            if (f->line[0].level) {
                assert_int_equal(get(f, C) & (IRQF | PF), IRQF | PF);
                count++;
            }
        }
        assert_in_range(count, hz[rate] - (hz[rate] > 0) - hz[rate] / 1000, hz[rate] + 1);
    }
}

static void a_divider_reset_stops_the_ticks(void **state)
{
    struct fixture *f = *state;

    set(f, B, H24 | PIE);
    set(f, A, 0x66);
    get(f, C);
    fake_advance(10 * NS_PER_SEC);
    assert_false(f->line[0].level);
    assert_int_equal(get(f, C), 0);
}

static void pf_is_set_without_its_interrupt(void **state)
{
    struct fixture *f = *state;

    get(f, C);
    fake_advance(NS_PER_MS);
    assert_int_equal(get(f, C), PF);
    assert_int_equal(get(f, C), 0);
}

/* --- memory bytes --- */

static void register_d_says_that_the_battery_is_good(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(get(f, D), 0x80);
    set(f, D, 0);
    assert_int_equal(get(f, D), 0x80);
    set(f, C, 0xff);
    assert_int_equal(get(f, C) & ~PF, 0);
}

static void memory_sizes_stand_where_a_bios_puts_them(void **state)
{
    struct fixture *f = *state;
    struct bus *small = &f->pio2;

    assert_int_equal(get(f, 0x15) | get(f, 0x16) << 8, 640);
    assert_int_equal(get(f, 0x17) | get(f, 0x18) << 8, 0xffff);
    assert_int_equal(get(f, 0x30) | get(f, 0x31) << 8, 0xffff);
    assert_int_equal(get(f, 0x34) | get(f, 0x35) << 8, (GIB(3) - MIB(16)) >> 16);
    assert_int_equal(get(f, 0x5b) | get(f, 0x5c) << 8 | get(f, 0x5d) << 16, GIB(5) >> 16);
    assert_int_equal(get_from(small, 0x34) | get_from(small, 0x35) << 8, (MIB(48) - MIB(16)) >> 16);
    assert_int_equal(get_from(small, 0x17) | get_from(small, 0x18) << 8, 47 * 1024);
    assert_int_equal(get_from(small, 0x30) | get_from(small, 0x31) << 8, 47 * 1024);
    assert_int_equal(get_from(small, 0x5b) | get_from(small, 0x5c) | get_from(small, 0x5d), 0);
}

static void the_checksum_is_right(void **state)
{
    struct fixture *f = *state;
    unsigned sum = 0;

    for (uint8_t i = 0x10; i < 0x2e; i++)
        sum += get(f, i);
    assert_int_equal(get(f, 0x2e) << 8 | get(f, 0x2f), sum);
    assert_int_equal(get(f, 0x14), 0x02);
}

static void other_bytes_are_memory_and_bit_7_of_the_index_is_not_part_of_it(void **state)
{
    struct fixture *f = *state;

    for (uint8_t i = 0x40; i < 0x80; i++)
        set(f, i, (uint8_t)~i);
    for (uint8_t i = 0x40; i < 0x80; i++)
        assert_int_equal(get(f, i | 0x80), (uint8_t)~i);
    assert_int_equal(in8(&f->pio, INDEX), 0xff);
}

static void a_word_written_is_index_and_value(void **state)
{
    struct fixture *f = *state;

    bus_write(&f->pio, INDEX, 2, 0xa550);
    assert_int_equal(get(f, 0x50), 0xa5);
}

/* --- life --- */

static void a_reset_keeps_date_and_memory_and_ends_interrupts(void **state)
{
    struct fixture *f = *state;

    set(f, 0x50, 0x77);
    set(f, B, H24 | BINARY | UIE | AIE | PIE);
    write_date(f, (struct date){20, 31, 5, 6, 3, 7, 8, 9});
    fake_advance(NS_PER_SEC);
    assert_true(f->line[0].level);
    cmos_device.reset(&f->dev);
    assert_false(f->line[0].level);
    assert_int_equal(get(f, B), H24 | BINARY);
    assert_int_equal(get(f, C), 0);
    assert_int_equal(get(f, 0x50), 0x77);
    assert_date(f, (struct date){20, 31, 5, 6, 3, 7, 8, 10});
    assert_false(fake_timers_armed());
}

static void saved_state_is_restored(void **state)
{
    struct fixture *f = *state;
    struct state_writer w;

    set(f, B, H24 | BINARY | UIE);
    write_date(f, (struct date){20, 31, 5, 6, 3, 7, 8, 9});
    set(f, 0x50, 0x77);
    fake_advance(NS_PER_SEC / 2);
    out8(&f->pio, INDEX, 0x50);
    assert_round_trip(&cmos_device, &f->dev, &f->other);
    assert_int_equal(in8(&f->pio2, DATA), 0x77);
    w = fake_save(&cmos_device, &f->dev);
    fake.mono_ns = 10; /* another host, whose date is the same */
    assert_int_equal(fake_load(&cmos_device, &f->other, &w, w.len), 0);
    assert_date_of(&f->pio2, (struct date){20, 31, 5, 6, 3, 7, 8, 9});
    assert_int_equal(f->line[1].rises, 0);
    fake_advance(NS_PER_SEC / 2);
    assert_int_equal(f->line[1].rises, 1);
    assert_date_of(&f->pio2, (struct date){20, 31, 5, 6, 3, 7, 8, 10});
    state_writer_fini(&w);
}

static void a_halted_clock_is_restored_halted(void **state)
{
    struct fixture *f = *state;

    set(f, B, H24 | SET);
    set(f, SECOND, 0x42);
    assert_round_trip(&cmos_device, &f->dev, &f->other);
    fake_advance(100 * NS_PER_SEC);
    assert_int_equal(get_from(&f->pio2, SECOND), 0x42);
}

static void impossible_state_is_refused(void **state)
{
    struct fixture *f = *state;

    set(f, B, H24 | UIE);
    assert_refused(&cmos_device, &f->dev, "index", 0, 0, 0x80);
    assert_refused(&cmos_device, &f->dev, "reg", 0, A, 0xa6);
    assert_refused(&cmos_device, &f->dev, "reg", 0, B, SET | UIE);
    assert_refused(&cmos_device, &f->dev, "reg", 0, C, 0x01);
    assert_refused(&cmos_device, &f->dev, "reg", 0, D, 0x00);
    assert_refused(&cmos_device, &f->dev, "offset_ns", 0, 0, INT64_MAX);
    assert_refused(&cmos_device, &f->dev, "offset_ns", 0, 0, (uint64_t)INT64_MIN);
    assert_refused(&cmos_device, &f->dev, "second_seen", 0, 0, INT64_MAX);
    assert_refused(&cmos_device, &f->dev, "second_seen", 0, 0, (uint64_t)INT64_MIN);
    assert_truncations_are_refused(&cmos_device, &f->dev);
    fake_advance(NS_PER_SEC);
    assert_true(f->line[0].level);
}

static void hostile_accesses_do_no_harm(void **state)
{
    struct fixture *f = *state;
    const uint64_t bases[] = {INDEX};

    fake_seed(146818);
    for (unsigned i = 0; i < 1000; i++) {
        fuzz_registers(&f->pio, bases, 1, 2, 32, &cmos_device, &f->dev);
        set(f, (uint8_t)(fake_random() % 14), (uint8_t)fake_random());
        if (i % 100 == 0)
            fake.real_ns += fake_random() % (NS_PER_SEC * 100000);
    }
    fuzz_load(&cmos_device, &f->dev, 2000);
    cmos_device.reset(&f->dev);
    assert_false(f->line[0].level);
    set(f, A, 0x26);
    set(f, B, H24);
    write_date(f, (struct date){0x20, 0x23, 0x11, 0x14, 3, 0x22, 0x13, 0x20});
    assert_date(f, (struct date){0x20, 0x23, 0x11, 0x14, 3, 0x22, 0x13, 0x20});
}

#define CMOS_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CMOS_TEST(it_shows_the_hosts_date_in_bcd_and_24_hours),
        CMOS_TEST(binary_and_12_hours_are_other_ways_to_show_it),
        CMOS_TEST(twelve_hours_begin_with_12),
        CMOS_TEST(each_register_is_right_on_its_own),
        CMOS_TEST(leap_days_and_centuries_are_right),
        CMOS_TEST(dates_before_1970_can_be_set),
        CMOS_TEST(a_date_that_was_set_goes_on_from_there),
        CMOS_TEST(every_hour_can_be_set_in_12_hours),
        CMOS_TEST(set_halts_the_clock_and_keeps_what_is_written),
        CMOS_TEST(set_clears_the_update_interrupt_enable),
        CMOS_TEST(the_fraction_of_the_second_survives_a_set),
        CMOS_TEST(the_first_update_comes_half_a_second_after_a_divider_reset),
        CMOS_TEST(a_running_clock_takes_single_values),
        CMOS_TEST(impossible_dates_do_no_harm),
        CMOS_TEST(a_step_of_the_hosts_date_is_followed),
        CMOS_TEST(uip_announces_the_update_by_244_us),
        CMOS_TEST(the_registers_agree_while_uip_is_clear),
        CMOS_TEST(uf_is_set_once_a_second_with_or_without_its_interrupt),
        CMOS_TEST(update_interrupts_come_every_second),
        CMOS_TEST(an_interrupt_that_is_not_served_keeps_the_loop_free),
        CMOS_TEST(disabling_an_interrupt_lowers_the_line_and_keeps_the_flag),
        CMOS_TEST(an_alarm_goes_off_at_its_time_of_day),
        CMOS_TEST(alarm_bytes_from_c0_match_anything),
        CMOS_TEST(alarms_are_compared_in_the_clocks_format),
        CMOS_TEST(an_alarm_flag_is_set_without_its_interrupt),
        CMOS_TEST(an_alarm_that_names_no_time_never_comes),
        CMOS_TEST(an_alarm_follows_a_step_of_the_hosts_date),
        CMOS_TEST(periodic_rates_are_those_of_the_data_sheet),
        CMOS_TEST(a_divider_reset_stops_the_ticks),
        CMOS_TEST(pf_is_set_without_its_interrupt),
        CMOS_TEST(register_d_says_that_the_battery_is_good),
        CMOS_TEST(memory_sizes_stand_where_a_bios_puts_them),
        CMOS_TEST(the_checksum_is_right),
        CMOS_TEST(other_bytes_are_memory_and_bit_7_of_the_index_is_not_part_of_it),
        CMOS_TEST(a_word_written_is_index_and_value),
        CMOS_TEST(a_reset_keeps_date_and_memory_and_ends_interrupts),
        CMOS_TEST(saved_state_is_restored),
        CMOS_TEST(a_halted_clock_is_restored_halted),
        CMOS_TEST(impossible_state_is_refused),
        CMOS_TEST(hostile_accesses_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
