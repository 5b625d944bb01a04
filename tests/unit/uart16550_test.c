/* The 16550A is what drivers take it for: registers, probes, modem lines and loopback, reset and saved state, hostile accesses. */
#include "uart16550_port.h"

/* --- registers --- */

static void registers_are_those_of_a_quiet_port_at_power_on(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(get(f, IER), 0);
    assert_int_equal(get(f, IIR), NONE);
    assert_int_equal(get(f, LCR), 3);
    assert_int_equal(get(f, MCR), 0);
    assert_int_equal(get(f, LSR), THRE | TEMT);
    assert_int_equal(get(f, MSR), 0xb0); /* carrier, data set ready, clear to send */
    assert_int_equal(get(f, SCR), 0);
    assert_int_equal(get(f, DATA), 0);
    assert_false(f->line[0].level);
}

static void registers_keep_the_bits_that_exist(void **state)
{
    struct fixture *f = *state;

    for (unsigned value = 0; value < 256; value++) {
        set(f, SCR, (uint8_t)value);
        set(f, IER, (uint8_t)value);
        set(f, MCR, (uint8_t)value);
        assert_int_equal(get(f, SCR), value);
        assert_int_equal(get(f, IER), value & 0x0f);
        assert_int_equal(get(f, MCR), value & 0x1f);
        set(f, MCR, 0);
        set(f, LCR, (uint8_t)value);
        assert_int_equal(get(f, LCR), value);
        set(f, LCR, 3);
    }
    set(f, LSR, 0xff);
    set(f, MSR, 0xff);
    assert_int_equal(get(f, LSR), THRE | TEMT);
}

static void the_divisor_lies_behind_dlab(void **state)
{
    struct fixture *f = *state;

    set(f, IER, RDI);
    set(f, LCR, 0x83);
    assert_int_equal(get(f, 0) | get(f, 1) << 8, 1);
    set(f, 0, 0x34);
    set(f, 1, 0x12);
    assert_int_equal(get(f, 0), 0x34);
    assert_int_equal(get(f, 1), 0x12);
    set(f, LCR, 0x03);
    assert_int_equal(get(f, IER), RDI);
    uart16550_drain(&f->dev);
    assert_sent(f, "");
}

static void iir_tells_whether_the_fifos_are_on(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(get(f, IIR) & 0xc0, 0);
    set(f, FCR, 0x01);
    assert_int_equal(get(f, IIR) & 0xc0, 0xc0);
    set(f, FCR, 0xc0); /* without bit 0 the rest says nothing */
    assert_int_equal(get(f, IIR) & 0xc0, 0);
}

static void wide_accesses_go_byte_by_byte(void **state)
{
    struct fixture *f = *state;

    bus_write(&f->pio, BASE + MCR, 4, 0xaa000003);
    assert_int_equal(get(f, SCR), 0xaa);
    assert_int_equal(bus_read(&f->pio, BASE + LCR, 2), 0x0303);
}

/* --- what drivers probe for --- */

/* An early console knows nothing of interrupts: it sets 8N1 and waits for the transmitter before each byte. */
static void a_polled_console_never_waits(void **state)
{
    struct fixture *f = *state;

    set(f, LCR, 0x03);
    set(f, IER, 0);
    set(f, FCR, 0);
    set(f, MCR, DTR | RTS);
    set(f, LCR, 0x83);
    set(f, 0, 1);
    set(f, 1, 0);
    set(f, LCR, 0x03);
    for (const char *c = "earlycon\n"; *c; c++) {
        assert_int_equal(get(f, LSR) & (THRE | TEMT), THRE | TEMT);
        set(f, DATA, (uint8_t)*c);
    }
    fake_advance(2 * NS_PER_MS);
    assert_sent(f, "earlycon\n");
    assert_int_equal(f->line[0].rises, 0);
}

/* The tests by which drivers tell the members of the family apart, in their order: this one has to end at 16550A. */
static void a_driver_finds_a_16550a_and_nothing_more(void **state)
{
    struct fixture *f = *state;

    set(f, IER, 0x00); /* is anything there at all? */
    assert_int_equal(get(f, IER) & 0x0f, 0x00);
    set(f, IER, 0x0f);
    assert_int_equal(get(f, IER) & 0x0f, 0x0f);
    set(f, IER, 0x00);
    set(f, MCR, LOOP | OUT2 | RTS); /* do the modem lines loop? */
    assert_int_equal(get(f, MSR) & 0xf0, 0x90);
    set(f, MCR, 0);
    set(f, LCR, 0xbf);
    set(f, 2, 0);
    set(f, LCR, 0);
    set(f, FCR, 0x01); /* FIFOs that work */
    assert_int_equal(get(f, IIR) >> 6, 3);
    set(f, LCR, 0x80); /* no enhanced feature register behind DLAB */
    assert_int_not_equal(get(f, 2), 0);
    set(f, LCR, 0xbf); /* nor behind 0xbf */
    assert_int_not_equal(get(f, 2), 0);
    set(f, LCR, 0); /* no second bank of registers that shows MCR */
    set(f, MCR, LOOP);
    set(f, LCR, 0xe0);
    assert_int_equal(get(f, 2) & LOOP, 0);
    set(f, LCR, 0);
    set(f, MCR, 0);
    set(f, FCR, 0x21); /* no 64-byte FIFO, with or without DLAB */
    assert_int_equal(get(f, IIR) & 0x20, 0);
    set(f, LCR, 0x80);
    set(f, FCR, 0x21);
    assert_int_equal(get(f, IIR) & 0x20, 0);
    set(f, LCR, 0);
    set(f, IER, 0x40); /* no unit-enable bit */
    assert_int_equal(get(f, IER) & 0x40, 0);
}

/* Drivers check on opening that each enabling of the transmitter-empty interrupt raises it. */
static void enabling_thri_interrupts_each_time(void **state)
{
    struct fixture *f = *state;

    open_port(f, 0, 0);
    for (unsigned i = 1; i <= 3; i++) {
        set(f, IER, THRI);
        assert_true(f->line[0].level);
        assert_int_equal(f->line[0].rises, i);
        assert_int_equal(get(f, LSR) & TEMT, TEMT);
        assert_int_equal(id(f), ID_THRE);
        set(f, IER, 0);
    }
    set(f, IER, THRI);
    set(f, IER, 0);
    set(f, IER, THRI);
    assert_int_equal(id(f), ID_THRE);
}

/* --- modem lines, loopback, the gate --- */

static void loopback_wires_the_outputs_to_the_inputs(void **state)
{
    struct fixture *f = *state;

    for (unsigned lines = 0; lines < 16; lines++) {
        uint8_t want = (uint8_t)((lines & RTS ? 0x10 : 0) | (lines & DTR ? 0x20 : 0) | (lines & OUT1 ? 0x40 : 0) |
                                 (lines & OUT2 ? 0x80 : 0));

        set(f, MCR, (uint8_t)(LOOP | lines));
        assert_int_equal(get(f, MSR) & 0xf0, want);
    }
    set(f, MCR, 0);
    assert_int_equal(get(f, MSR) & 0xf0, 0xb0);
}

static void changes_of_the_lines_are_told_once(void **state)
{
    struct fixture *f = *state;

    set(f, MCR, LOOP);
    get(f, MSR);
    assert_int_equal(get(f, MSR), 0x00);
    set(f, MCR, LOOP | RTS);
    assert_int_equal(get(f, MSR), 0x11);
    assert_int_equal(get(f, MSR), 0x10);
    set(f, MCR, LOOP | RTS | OUT1);
    assert_int_equal(get(f, MSR), 0x50); /* the ring's begin is no change */
    set(f, MCR, LOOP | RTS);
    assert_int_equal(get(f, MSR), 0x14); /* its end is */
    set(f, MCR, LOOP | DTR | OUT2);
    assert_int_equal(get(f, MSR), 0xab);
}

static void input_waits_for_rts_where_the_host_wants_flow_control(void **state)
{
    struct fixture *f = *state;

    f->dev.host.waits_for_rts = true;
    assert_int_equal(uart16550_room(&f->dev), 0);
    assert_int_equal(uart16550_receive(&f->dev, (const uint8_t *)"a", 1), 0);
    assert_int_equal(get(f, LSR) & DR, 0);
    set(f, MCR, DTR);
    fake_advance(NS_PER_MS);
    assert_int_equal(f->room_calls, 0);
    set(f, MCR, DTR | RTS);
    fake_advance(NS_PER_MS);
    assert_int_equal(f->room_calls, 1);
    receive(f, "a");
    assert_int_equal(get(f, DATA), 'a');
    set(f, MCR, DTR);
    assert_int_equal(uart16550_room(&f->dev), 0);
    uart16550_reset(&f->dev);
    assert_int_equal(uart16550_room(&f->dev), 0);
}

static void loopback_takes_the_line_from_the_host(void **state)
{
    struct fixture *f = *state;

    open_port(f, 0, 0);
    set(f, MCR, LOOP);
    for (const char *c = "loop"; *c; c++)
        set(f, DATA, (uint8_t)*c);
    assert_int_equal(uart16550_room(&f->dev), 0);
    assert_int_equal(uart16550_receive(&f->dev, (const uint8_t *)"x", 1), 0);
    for (const char *c = "loop"; *c; c++)
        assert_int_equal(get(f, DATA), *c);
    assert_int_equal(get(f, LSR) & DR, 0);
    fake_advance(NS_PER_SEC);
    assert_sent(f, "");
    set(f, MCR, 0);
    fake_advance(0);
    assert_int_equal(f->room_calls, 1);
}

static void out2_is_the_gate_of_the_interrupt(void **state)
{
    struct fixture *f = *state;

    open_port(f, 0, RDI);
    set(f, MCR, 0);
    receive(f, "x");
    assert_false(f->line[0].level);
    assert_int_equal(id(f), ID_DATA);
    set(f, MCR, OUT2);
    assert_true(f->line[0].level);
    set(f, MCR, OUT2 | LOOP); /* loopback takes the pin away */
    assert_false(f->line[0].level);
}

static void an_idle_port_needs_no_timer(void **state)
{
    struct fixture *f = *state;

    open_port(f, 3, RDI | THRI | RLSI | MSI);
    get(f, IIR);
    receive(f, "0123456789");
    set(f, DATA, 'x');
    fake_advance(10 * NS_PER_MS);
    assert_is_quiet(3600 * NS_PER_SEC, 0);
    assert_false(fake_timers_armed());
}

/* --- life --- */

static void a_reset_keeps_what_was_sent(void **state)
{
    struct fixture *f = *state;

    open_port(f, 0, RDI | THRI);
    receive(f, "in");
    set(f, DATA, 'o');
    uart16550_device.reset(&f->dev);
    assert_false(f->line[0].level);
    assert_int_equal(get(f, LSR), THRE | TEMT);
    assert_int_equal(get(f, IER) | get(f, MCR), 0);
    assert_int_equal(get(f, IIR), NONE);
    fake_advance(NS_PER_MS);
    assert_sent(f, "o");
}

static void saved_state_is_restored(void **state)
{
    struct fixture *f = *state;

    open_port(f, 2, RDI | THRI | RLSI);
    get(f, IIR);
    receive(f, "0123456789abcdef");
    for (unsigned i = 0; i < 12; i++)
        get(f, DATA);
    receive(f, "0123456789");
    uart16550_receive_break(&f->dev);
    set(f, SCR, 0x5a);
    set(f, DATA, 'x');
    uart16550_device.drain(&f->dev);
    assert_round_trip(&uart16550_device, &f->dev, &f->other);
    assert_int_equal(f->line[1].level, f->line[0].level);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(in8(&f->pio2, BASE + DATA), get(f, DATA));
}

static void a_restored_receiver_times_out(void **state)
{
    struct fixture *f = *state;

    open_port(f, 3, RDI);
    receive(f, "abc");
    assert_round_trip(&uart16550_device, &f->dev, &f->other);
    fake_advance(NS_PER_MS);
    assert_true(f->line[1].level);
    assert_int_equal(in8(&f->pio2, BASE + IIR) & 0x0f, ID_TIMEOUT);
}

static void a_restored_transmitter_interrupts(void **state)
{
    struct fixture *f = *state;

    open_port(f, 3, THRI);
    get(f, IIR);
    set(f, DATA, 'x'); /* its interrupt is due */
    assert_round_trip(&uart16550_device, &f->dev, &f->other);
    assert_false(f->line[1].level);
    fake_advance(NS_PER_MS);
    assert_true(f->line[1].level);
}

static void impossible_state_is_refused(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *name;
        uint64_t value;
    } wrong[] = {
        {"ier", 0x10},       {"fcr", 0x10},   {"fcr", 0x80},     {"mcr", 0x20},   {"mcr", 0x10},    {"msr", 0x30},     {"overrun", 2},
        {"thre_pending", 2}, {"thre_due", 2}, {"rx_timeout", 2}, {"rx_head", 16}, {"rx_count", 17}, {"rx_count", 255},
    };

    open_port(f, 3, RDI);
    receive(f, "abc");
    for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++)
        assert_refused(&uart16550_device, &f->dev, wrong[i].name, 0, 0, wrong[i].value);
    assert_refused(&uart16550_device, &f->dev, "rx_break", 0, 15, 2);
    assert_refused(&uart16550_device, &f->dev, "fcr", 0, 0, 0); /* three bytes without FIFOs */
    assert_truncations_are_refused(&uart16550_device, &f->dev);
    for (unsigned i = 0; i < 3; i++)
        get(f, DATA);
    assert_refused(&uart16550_device, &f->dev, "rx_timeout", 0, 0, 1); /* of nothing */
}

static void hostile_accesses_do_no_harm(void **state)
{
    struct fixture *f = *state;
    const uint64_t bases[] = {BASE};
    uint8_t bytes[32] = {0};

    fake_seed(16550);
    for (unsigned i = 0; i < 2000; i++) {
        fuzz_registers(&f->pio, bases, 1, 8, 32, &uart16550_device, &f->dev);
        f->out_room = fake_random() % 4 ? fake_random() % 100 : 0;
        if (fake_random() % 2)
            uart16550_out_ready(&f->dev);
        if (fake_random() % 2)
            uart16550_receive_break(&f->dev);
        assert_in_range(uart16550_receive(&f->dev, bytes, fake_random() % sizeof(bytes)), 0, 16);
        assert_in_range(uart16550_room(&f->dev), 0, 16);
    }
    f->out_room = SIZE_MAX;
    uart16550_out_ready(&f->dev);
    fuzz_load(&uart16550_device, &f->dev, 4000);
    uart16550_device.reset(&f->dev);
    uart16550_drain(&f->dev);
    assert_int_equal(get(f, LSR), THRE | TEMT);
    assert_false(f->line[0].level);
    f->out_len = 0;
    set(f, DATA, '!');
    fake_advance(NS_PER_MS);
    assert_sent(f, "!");
}

#define UART_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        UART_TEST(registers_are_those_of_a_quiet_port_at_power_on),
        UART_TEST(registers_keep_the_bits_that_exist),
        UART_TEST(the_divisor_lies_behind_dlab),
        UART_TEST(iir_tells_whether_the_fifos_are_on),
        UART_TEST(wide_accesses_go_byte_by_byte),
        UART_TEST(a_polled_console_never_waits),
        UART_TEST(a_driver_finds_a_16550a_and_nothing_more),
        UART_TEST(enabling_thri_interrupts_each_time),
        UART_TEST(loopback_wires_the_outputs_to_the_inputs),
        UART_TEST(changes_of_the_lines_are_told_once),
        UART_TEST(input_waits_for_rts_where_the_host_wants_flow_control),
        UART_TEST(loopback_takes_the_line_from_the_host),
        UART_TEST(out2_is_the_gate_of_the_interrupt),
        UART_TEST(an_idle_port_needs_no_timer),
        UART_TEST(a_reset_keeps_what_was_sent),
        UART_TEST(saved_state_is_restored),
        UART_TEST(a_restored_receiver_times_out),
        UART_TEST(a_restored_transmitter_interrupts),
        UART_TEST(impossible_state_is_refused),
        UART_TEST(hostile_accesses_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
