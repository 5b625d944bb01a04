/* The keyboard controller with nothing plugged in: its commands, its interrupts, the reset line, and probes that end at once. */
#include "chipset_fake.h"

#include "chipset/i8042.h"

#define DATA 0x60
#define COMMAND 0x64

#define OBF 0x01
#define IBF 0x02
#define SYSTEM 0x04
#define CMD 0x08
#define AUX 0x20
#define TIMEOUT 0x40

enum { KEYBOARD_LINE, AUX_LINE, LINES };

struct fixture {
    struct bus pio, pio2;
    struct i8042 dev, other;
    struct fake_line line[LINES];
    unsigned resets;
};

static void on_reset(void *opaque)
{
    ((struct fixture *)opaque)->resets++;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    static struct fake_line unseen[LINES];
    struct err e;

    fake_start(0);
    bus_init(&f->pio);
    bus_init(&f->pio2);
    assert_int_equal(i8042_init(&f->dev, &f->pio, fake_irq(f->line, KEYBOARD_LINE), fake_irq(f->line, AUX_LINE), on_reset, f, &e), 0);
    assert_int_equal(i8042_init(&f->other, &f->pio2, fake_irq(unseen, KEYBOARD_LINE), fake_irq(unseen, AUX_LINE), on_reset, f, &e), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    i8042_fini(&f->other);
    i8042_fini(&f->dev);
    assert_int_equal(f->pio.count, 0);
    bus_fini(&f->pio2);
    bus_fini(&f->pio);
    free(f);
    return 0;
}

static uint8_t status(struct fixture *f)
{
    return in8(&f->pio, COMMAND);
}

/* A driver's "wait until the controller takes a byte" must never have to wait. */
static void command(struct fixture *f, uint8_t value)
{
    assert_int_equal(status(f) & IBF, 0);
    out8(&f->pio, COMMAND, value);
}

static void data(struct fixture *f, uint8_t value)
{
    assert_int_equal(status(f) & IBF, 0);
    out8(&f->pio, DATA, value);
}

/* ... nor its wait for an answer. */
static uint8_t answer(struct fixture *f)
{
    assert_int_equal(status(f) & OBF, OBF);
    return in8(&f->pio, DATA);
}

static void assert_no_answer(struct fixture *f)
{
    assert_int_equal(status(f) & (OBF | AUX | TIMEOUT), 0);
}

static void write_config(struct fixture *f, uint8_t config)
{
    command(f, 0x60);
    data(f, config);
}

static uint8_t read_config(struct fixture *f)
{
    command(f, 0x20);
    return answer(f);
}

static void it_is_idle_and_empty_at_power_on(void **state)
{
    struct fixture *f = *state;

    assert_no_answer(f);
    assert_int_equal(status(f) & SYSTEM, SYSTEM);
    assert_int_equal(read_config(f), 0x34);
    assert_no_answer(f);
}

static void the_command_byte_keeps_what_is_written(void **state)
{
    struct fixture *f = *state;

    for (unsigned value = 0; value < 256; value++) {
        write_config(f, (uint8_t)(value & ~3));
        assert_int_equal(read_config(f), value & ~3);
        assert_int_equal(status(f) & SYSTEM, value & SYSTEM);
    }
}

static void ports_are_switched_in_the_command_byte(void **state)
{
    struct fixture *f = *state;

    write_config(f, 0);
    command(f, 0xa7);
    assert_int_equal(read_config(f), 0x20);
    command(f, 0xad);
    assert_int_equal(read_config(f), 0x30);
    command(f, 0xa8);
    assert_int_equal(read_config(f), 0x10);
    command(f, 0xae);
    assert_int_equal(read_config(f), 0);
}

static void tests_pass(void **state)
{
    struct fixture *f = *state;

    command(f, 0xaa);
    assert_int_equal(answer(f), 0x55);
    command(f, 0xab);
    assert_int_equal(answer(f), 0x00);
    command(f, 0xa9);
    assert_int_equal(answer(f), 0x00);
    command(f, 0xc0);
    assert_int_equal(answer(f) & 0x80, 0x80); /* no keylock */
}

static void bit_3_tells_a_command_from_data(void **state)
{
    struct fixture *f = *state;

    command(f, 0xd1);
    assert_int_equal(status(f) & CMD, CMD);
    data(f, 0x03);
    assert_int_equal(status(f) & CMD, 0);
}

static void internal_memory_keeps_its_31_bytes(void **state)
{
    struct fixture *f = *state;

    for (uint8_t i = 1; i < 32; i++) {
        command(f, 0x60 + i);
        data(f, 0x80 | i);
    }
    assert_int_equal(read_config(f), 0x34);
    for (uint8_t i = 1; i < 32; i++) {
        command(f, 0x20 + i);
        assert_int_equal(answer(f), 0x80 | i);
    }
}

static void a_command_forgets_the_one_that_waits_for_data(void **state)
{
    struct fixture *f = *state;

    command(f, 0x60);
    command(f, 0xad);
    data(f, 0xff); /* goes to the keyboard */
    assert_int_equal(answer(f), 0xfe);
    assert_int_equal(read_config(f), 0x34);
}

static void loops_give_back_the_byte_at_the_right_device(void **state)
{
    struct fixture *f = *state;

    for (unsigned value = 0; value < 256; value++) {
        command(f, 0xd2);
        data(f, (uint8_t)value);
        assert_int_equal(status(f) & (AUX | TIMEOUT), 0);
        assert_int_equal(answer(f), value);
        command(f, 0xd3);
        data(f, (uint8_t)value);
        assert_int_equal(status(f) & (AUX | TIMEOUT), AUX);
        assert_int_equal(answer(f), value);
    }
    assert_no_answer(f);
}

static void absent_devices_time_out_at_once(void **state)
{
    struct fixture *f = *state;

    data(f, 0xf2); /* keyboard: identify */
    assert_int_equal(status(f) & (OBF | AUX | TIMEOUT), OBF | TIMEOUT);
    assert_int_equal(answer(f), 0xfe);
    command(f, 0xd4);
    data(f, 0xf2); /* mouse: identify */
    assert_int_equal(status(f) & (OBF | AUX | TIMEOUT), OBF | AUX | TIMEOUT);
    assert_int_equal(answer(f), 0xfe);
    assert_no_answer(f);
}

static void a_full_buffer_is_the_interrupt_of_its_device(void **state)
{
    struct fixture *f = *state;

    data(f, 0xed);
    assert_false(f->line[KEYBOARD_LINE].level); /* not enabled */
    answer(f);
    write_config(f, 0x03);
    data(f, 0xed);
    assert_true(f->line[KEYBOARD_LINE].level);
    assert_false(f->line[AUX_LINE].level);
    answer(f);
    assert_false(f->line[KEYBOARD_LINE].level);
    command(f, 0xd3);
    data(f, 0x5a);
    assert_true(f->line[AUX_LINE].level);
    assert_false(f->line[KEYBOARD_LINE].level);
    answer(f);
    assert_false(f->line[AUX_LINE].level);
    assert_int_equal(f->line[KEYBOARD_LINE].rises, 1);
    assert_int_equal(f->line[AUX_LINE].rises, 1);
}

/* Two bytes without a read between them: the first one's interrupt must not stay for ever. */
static void a_byte_that_is_replaced_takes_its_interrupt_with_it(void **state)
{
    struct fixture *f = *state;

    write_config(f, 0x03);
    data(f, 0xed);
    command(f, 0xd3);
    data(f, 0x5a);
    assert_false(f->line[KEYBOARD_LINE].level);
    assert_true(f->line[AUX_LINE].level);
    assert_int_equal(answer(f), 0x5a);
    assert_false(f->line[AUX_LINE].level);
}

static void disabling_an_interrupt_lowers_its_line(void **state)
{
    struct fixture *f = *state;

    write_config(f, 0x01);
    data(f, 0xed);
    assert_true(f->line[KEYBOARD_LINE].level);
    write_config(f, 0x00);
    assert_false(f->line[KEYBOARD_LINE].level);
    write_config(f, 0x01);
    assert_true(f->line[KEYBOARD_LINE].level);
    i8042_device.reset(&f->dev);
    assert_false(f->line[KEYBOARD_LINE].level);
    assert_no_answer(f);
}

static void pulsing_output_bit_0_resets(void **state)
{
    struct fixture *f = *state;

    command(f, 0xfe);
    assert_int_equal(f->resets, 1);
    command(f, 0xf0);
    assert_int_equal(f->resets, 2);
    command(f, 0xff); /* pulses nothing */
    command(f, 0xfd);
    assert_int_equal(f->resets, 2);
}

static void the_output_port_resets_and_keeps_a20_open(void **state)
{
    struct fixture *f = *state;

    command(f, 0xd1);
    data(f, 0xdf);
    assert_int_equal(f->resets, 0);
    command(f, 0xd1);
    data(f, 0x01); /* A20 off: it stays on */
    command(f, 0xd0);
    assert_int_equal(answer(f), 0x03);
    command(f, 0xd1);
    data(f, 0x02);
    assert_int_equal(f->resets, 1);
}

/*
 * The sequence by which kernels decide about the controller: flush, save the command byte, disable both, loop bytes through the auxiliary
 * port, look for a multiplexer, then ask both devices who they are. Nothing in it may have to wait for a time-out.
 */
static void a_driver_that_probes_finds_a_controller_without_devices(void **state)
{
    struct fixture *f = *state;
    uint8_t config;

    assert_no_answer(f); /* nothing to flush */
    config = read_config(f);
    assert_int_equal(read_config(f), config);
    write_config(f, config | 0x30);
    assert_int_equal(read_config(f), config | 0x30);
    for (unsigned i = 0; i < 3; i++) {
        static const uint8_t multiplexer_keys[3] = {0xf0, 0x56, 0xa4};

        command(f, 0xd3);
        data(f, multiplexer_keys[i]);
        assert_int_equal(status(f) & AUX, AUX);
        assert_int_equal(answer(f), multiplexer_keys[i]); /* unchanged: no multiplexer */
    }
    command(f, 0xa7);
    assert_int_equal(read_config(f) & 0x20, 0x20);
    command(f, 0xa8);
    assert_int_equal(read_config(f) & 0x20, 0);
    write_config(f, 0x03);
    data(f, 0xf2);
    assert_int_equal(f->line[KEYBOARD_LINE].rises, 1);
    assert_int_equal(answer(f), 0xfe);
    command(f, 0xd4);
    data(f, 0xf2);
    assert_int_equal(answer(f), 0xfe);
    write_config(f, config);
    assert_no_answer(f);
    assert_false(f->line[KEYBOARD_LINE].level || f->line[AUX_LINE].level);
    assert_int_equal(f->resets, 0);
}

static void an_empty_buffer_gives_its_last_byte(void **state)
{
    struct fixture *f = *state;

    command(f, 0xaa);
    assert_int_equal(answer(f), 0x55);
    assert_no_answer(f);
    assert_int_equal(in8(&f->pio, DATA), 0x55);
    assert_no_answer(f);
}

static void the_ports_between_are_not_its_own(void **state)
{
    struct fixture *f = *state;

    for (uint16_t port = 0x61; port < 0x64; port++)
        assert_int_equal(in8(&f->pio, port), 0xff);
}

static void saved_state_is_restored(void **state)
{
    struct fixture *f = *state;

    write_config(f, 0x43);
    command(f, 0x65);
    data(f, 0x99);
    command(f, 0xd4);
    data(f, 0xf2);
    command(f, 0xd3); /* waits for its data */
    assert_round_trip(&i8042_device, &f->dev, &f->other);
    assert_int_equal(in8(&f->pio2, COMMAND), status(f));
    out8(&f->pio2, DATA, 0x77);
    assert_int_equal(in8(&f->pio2, DATA), 0x77);
    out8(&f->pio2, COMMAND, 0x25);
    assert_int_equal(in8(&f->pio2, DATA), 0x99);
}

static void loading_sets_the_lines(void **state)
{
    struct fixture *f = *state;
    struct state_writer idle = fake_save(&i8042_device, &f->dev), full;

    write_config(f, 0x03);
    data(f, 0xed);
    full = fake_save(&i8042_device, &f->dev);
    assert_true(f->line[KEYBOARD_LINE].level);
    assert_int_equal(fake_load(&i8042_device, &f->dev, &idle, idle.len), 0);
    assert_false(f->line[KEYBOARD_LINE].level);
    assert_int_equal(fake_load(&i8042_device, &f->dev, &full, full.len), 0);
    assert_true(f->line[KEYBOARD_LINE].level);
    state_writer_fini(&full);
    state_writer_fini(&idle);
}

static void impossible_state_is_refused(void **state)
{
    struct fixture *f = *state;

    write_config(f, 0x01);
    data(f, 0xed);
    assert_refused(&i8042_device, &f->dev, "full", 0, 0, 2);
    assert_refused(&i8042_device, &f->dev, "from_aux", 0, 0, 0xff);
    assert_refused(&i8042_device, &f->dev, "timeout", 0, 0, 2);
    assert_refused(&i8042_device, &f->dev, "last_was_command", 0, 0, 2);
    assert_refused(&i8042_device, &f->dev, "command", 0, 0, 0x20);
    assert_refused(&i8042_device, &f->dev, "command", 0, 0, 0xd0);
    assert_refused(&i8042_device, &f->dev, "output_port", 0, 0, 0x01);
    assert_truncations_are_refused(&i8042_device, &f->dev);
    assert_true(f->line[KEYBOARD_LINE].level);
}

static void hostile_accesses_do_no_harm(void **state)
{
    struct fixture *f = *state;
    const uint64_t bases[] = {DATA, COMMAND};

    fake_seed(8042);
    fuzz_registers(&f->pio, bases, 2, 1, 60000, &i8042_device, &f->dev);
    fuzz_load(&i8042_device, &f->dev, 4000);
    i8042_device.reset(&f->dev);
    assert_false(f->line[KEYBOARD_LINE].level || f->line[AUX_LINE].level);
    assert_int_equal(read_config(f), 0x34);
}

#define I8042_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        I8042_TEST(it_is_idle_and_empty_at_power_on),
        I8042_TEST(the_command_byte_keeps_what_is_written),
        I8042_TEST(ports_are_switched_in_the_command_byte),
        I8042_TEST(tests_pass),
        I8042_TEST(bit_3_tells_a_command_from_data),
        I8042_TEST(internal_memory_keeps_its_31_bytes),
        I8042_TEST(a_command_forgets_the_one_that_waits_for_data),
        I8042_TEST(loops_give_back_the_byte_at_the_right_device),
        I8042_TEST(absent_devices_time_out_at_once),
        I8042_TEST(a_full_buffer_is_the_interrupt_of_its_device),
        I8042_TEST(a_byte_that_is_replaced_takes_its_interrupt_with_it),
        I8042_TEST(disabling_an_interrupt_lowers_its_line),
        I8042_TEST(pulsing_output_bit_0_resets),
        I8042_TEST(the_output_port_resets_and_keeps_a20_open),
        I8042_TEST(a_driver_that_probes_finds_a_controller_without_devices),
        I8042_TEST(an_empty_buffer_gives_its_last_byte),
        I8042_TEST(the_ports_between_are_not_its_own),
        I8042_TEST(saved_state_is_restored),
        I8042_TEST(loading_sets_the_lines),
        I8042_TEST(impossible_state_is_refused),
        I8042_TEST(hostile_accesses_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
