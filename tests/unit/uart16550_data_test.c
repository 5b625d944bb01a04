/* The 16550A moves bytes: transmitter, receiver, line status. */
#include "uart16550_port.h"

/* --- transmitter --- */

static void bytes_reach_the_host_together_and_within_a_millisecond(void **state)
{
    struct fixture *f = *state;

    for (const char *c = "hello, world"; *c; c++) {
        set(f, DATA, (uint8_t)*c);
        fake_advance(1000);
    }
    assert_int_equal(f->out_calls, 0);
    fake_advance(NS_PER_MS);
    assert_sent(f, "hello, world");
    assert_int_equal(f->out_calls, 1);
    assert_int_equal(f->room_calls, 0);
    assert_false(fake_timers_armed());
}

static void much_output_does_not_wait_for_the_millisecond(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < UART_OUT_BYTES / 2; i++)
        set(f, DATA, (uint8_t)i);
    fake_advance(0);
    assert_int_equal(f->out_len, UART_OUT_BYTES / 2);
    for (unsigned i = 0; i < f->out_len; i++)
        assert_int_equal(f->out[i], i & 0xff);
}

/* As a driver's handler: reads IIR, fills the FIFO, looks at IIR again, until there is none. */
static void an_interrupt_driven_transmitter_sends_all_in_one_interrupt(void **state)
{
    struct fixture *f = *state;
    unsigned sent = 0, passes = 0;

    open_port(f, 3, THRI);
    assert_true(f->line[0].level);
    while (id(f) != NONE) {
        assert_int_equal(get(f, LSR) & THRE, THRE);
        for (unsigned i = 0; i < 16 && sent < 1000; i++)
            set(f, DATA, (uint8_t)sent++);
        if (sent == 1000)
            set(f, IER, 0);
        passes++;
    }
    assert_int_equal(sent, 1000);
    assert_int_equal(passes, 63);
    assert_false(f->line[0].level);
    fake_advance(2 * NS_PER_MS);
    assert_int_equal(f->out_len, 1000);
    assert_int_equal(f->line[0].rises, 1);
}

static void a_handler_that_looks_once_gets_the_next_interrupt_from_the_flush(void **state)
{
    struct fixture *f = *state;

    open_port(f, 3, THRI);
    assert_int_equal(id(f), ID_THRE);
    set(f, DATA, 'a');
    assert_false(f->line[0].level);
    fake_advance(NS_PER_MS);
    assert_true(f->line[0].level);
    assert_int_equal(id(f), ID_THRE);
    assert_false(f->line[0].level); /* reading it ends it */
    fake_advance(NS_PER_SEC);
    assert_false(f->line[0].level); /* and nothing more was sent */
    assert_int_equal(f->line[0].rises, 2);
}

static void a_host_that_takes_no_more_holds_the_guest_off(void **state)
{
    struct fixture *f = *state;
    unsigned written = 0;

    open_port(f, 3, 0);
    f->out_room = 100;
    while (get(f, LSR) & THRE) {
        for (unsigned i = 0; i < 16; i++)
            set(f, DATA, (uint8_t)written++);
        assert_in_range(written, 0, 2 * UART_OUT_BYTES);
        fake_advance(10000);
    }
    assert_int_equal(f->out_len, 100);
    assert_int_equal(get(f, LSR) & (THRE | TEMT), 0);
    set(f, IER, THRI);
    assert_int_equal(id(f), NONE);
    assert_is_quiet(10 * NS_PER_SEC, 2); /* no polling of the host */
    f->out_room = SIZE_MAX;
    uart16550_out_ready(&f->dev);
    assert_int_equal(f->out_len, written);
    for (unsigned i = 0; i < written; i++)
        assert_int_equal(f->out[i], i & 0xff);
    assert_true(f->line[0].level);
    assert_int_equal(id(f), ID_THRE);
    assert_int_equal(f->dev.out_lost, 0);
}

static void bytes_that_are_written_without_room_are_lost_and_counted(void **state)
{
    struct fixture *f = *state;

    f->out_room = 0;
    for (unsigned i = 0; i < UART_OUT_BYTES + 100; i++)
        set(f, DATA, (uint8_t)i);
    assert_int_equal(f->dev.out_lost, 100);
    fake_advance(NS_PER_SEC);
    f->out_room = SIZE_MAX;
    uart16550_out_ready(&f->dev);
    assert_int_equal(f->out_len, UART_OUT_BYTES);
}

static void the_ring_of_bytes_wraps_in_order(void **state)
{
    struct fixture *f = *state;
    unsigned written = 0, checked = 0;

    for (unsigned round = 0; round < 40; round++) {
        for (unsigned i = 0; i < 1777; i++)
            set(f, DATA, (uint8_t)(written++ * 7));
        f->out_len = 0;
        uart16550_drain(&f->dev);
        for (unsigned i = 0; i < f->out_len; i++)
            assert_int_equal(f->out[i], (uint8_t)(checked++ * 7));
    }
    assert_int_equal(checked, written);
}

static size_t on_out_while_the_guest_writes(void *opaque, const uint8_t *data, size_t len)
{
    struct fixture *f = opaque;
    size_t taken = on_out(f, data, len);

    if (f->out_calls < 1000)
        set(f, DATA, 'y');
    return taken;
}

static void a_guest_that_goes_on_writing_holds_nobody_up(void **state)
{
    struct fixture *f = *state;

    f->dev.host.out = on_out_while_the_guest_writes;
    set(f, DATA, 'x');
    uart16550_drain(&f->dev);
    assert_int_equal(f->out_calls, 1);
    f->dev.host.out = on_out;
    assert_int_equal(uart16550_drain(&f->dev), 0);
    assert_int_equal(f->out_len, 2);
}

static void drain_says_what_is_left(void **state)
{
    struct fixture *f = *state;

    f->out_room = 3;
    for (unsigned i = 0; i < 10; i++)
        set(f, DATA, 'x');
    assert_int_equal(uart16550_drain(&f->dev), 7);
    assert_int_equal(uart16550_drain(&f->dev), 7);
    f->out_room = SIZE_MAX;
    assert_int_equal(uart16550_drain(&f->dev), 0);
}

static void without_a_host_output_is_dropped(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < 3 * UART_OUT_BYTES; i++) {
        assert_int_equal(in8(&f->pio2, BASE + LSR) & THRE, THRE);
        out8(&f->pio2, BASE + DATA, (uint8_t)i);
        fake_advance(1000);
    }
    fake_advance(NS_PER_SEC);
    assert_int_equal(f->other.out_count, 0);
}

static void clearing_the_transmitter_loses_nothing_that_counts_as_sent(void **state)
{
    struct fixture *f = *state;

    open_port(f, 3, 0);
    set(f, DATA, 'a');
    set(f, FCR, 0x05);
    set(f, DATA, 'b');
    set(f, FCR, 0x00);
    fake_advance(NS_PER_MS);
    assert_sent(f, "ab");
}

/* --- receiver --- */

static void the_fifo_takes_16_and_gives_them_in_order(void **state)
{
    struct fixture *f = *state;

    open_port(f, 0, 0);
    assert_int_equal(uart16550_room(&f->dev), 16);
    assert_int_equal(uart16550_receive(&f->dev, (const uint8_t *)"0123456789abcdefXYZ", 19), 16);
    assert_int_equal(uart16550_room(&f->dev), 0);
    for (unsigned i = 0; i < 16; i++) {
        assert_int_equal(get(f, LSR) & (DR | OE), DR);
        assert_int_equal(get(f, DATA), "0123456789abcdef"[i]);
    }
    assert_int_equal(get(f, LSR) & DR, 0);
}

static void without_fifos_there_is_room_for_one(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(uart16550_room(&f->dev), 1);
    assert_int_equal(uart16550_receive(&f->dev, (const uint8_t *)"ab", 2), 1);
    assert_int_equal(get(f, DATA), 'a');
}

static void the_host_hears_when_there_is_room_again(void **state)
{
    struct fixture *f = *state;

    open_port(f, 3, 0);
    receive(f, "0123456789abcdef");
    fake_advance(NS_PER_MS);
    get(f, DATA);
    fake_advance(NS_PER_MS);
    assert_int_equal(f->room_calls, 0); /* all was taken: nobody waits */
    receive(f, "g");
    assert_int_equal(uart16550_receive(&f->dev, (const uint8_t *)"x", 1), 0);
    for (unsigned i = 0; i < 16; i++)
        get(f, DATA);
    assert_int_equal(f->room_calls, 0); /* on the loop's thread, not the vCPU's */
    fake_advance(0);
    assert_int_equal(f->room_calls, 1);
    fake_advance(NS_PER_SEC);
    assert_int_equal(f->room_calls, 1);
}

static void data_interrupts_at_the_trigger_level_and_below_it_no_more(void **state)
{
    struct fixture *f = *state;
    static const unsigned levels[] = {1, 4, 8, 14};

    for (uint8_t t = 0; t < 4; t++) {
        open_port(f, t, RDI);
        for (unsigned i = 1; i < levels[t]; i++) {
            receive(f, "x");
            assert_int_equal(id(f), NONE);
        }
        receive(f, "x");
        assert_true(f->line[0].level);
        assert_int_equal(id(f), ID_DATA);
        assert_int_equal(id(f), ID_DATA); /* reading it ends it not */
        get(f, DATA);
        assert_int_equal(id(f), NONE);
        assert_false(f->line[0].level);
    }
}

static void a_rest_below_the_trigger_level_times_out(void **state)
{
    struct fixture *f = *state;

    open_port(f, 3, RDI);
    receive(f, "abc");
    fake_advance(300000); /* four characters at 115200 bit/s take 347 us */
    assert_int_equal(id(f), NONE);
    fake_advance(60000);
    assert_true(f->line[0].level);
    assert_int_equal(id(f), ID_TIMEOUT);
    assert_int_equal(get(f, DATA), 'a');
    assert_int_equal(id(f), NONE); /* a read ends it and starts the time anew */
    assert_false(f->line[0].level);
    fake_advance(360000);
    assert_int_equal(id(f), ID_TIMEOUT);
    get(f, DATA);
    get(f, DATA);
    fake_advance(NS_PER_SEC);
    assert_int_equal(id(f), NONE);
}

static void each_new_byte_starts_the_timeout_anew(void **state)
{
    struct fixture *f = *state;

    open_port(f, 3, RDI);
    for (unsigned i = 0; i < 10; i++) {
        receive(f, "x");
        fake_advance(300000);
        assert_int_equal(id(f), NONE);
    }
    fake_advance(60000);
    assert_int_equal(id(f), ID_TIMEOUT);
}

static void a_slow_line_times_out_after_a_millisecond(void **state)
{
    struct fixture *f = *state;

    set(f, LCR, 0x83);
    set(f, 0, 0xff);
    set(f, 1, 0xff);
    set(f, LCR, 0x03);
    open_port(f, 3, RDI);
    receive(f, "x");
    fake_advance(NS_PER_MS);
    assert_int_equal(id(f), ID_TIMEOUT);
}

static void without_fifos_there_is_no_timeout(void **state)
{
    struct fixture *f = *state;

    set(f, MCR, OUT2);
    set(f, IER, RDI);
    receive(f, "x");
    fake_advance(NS_PER_SEC);
    assert_int_equal(id(f), ID_DATA);
    assert_int_equal(fake.expiries, 0);
}

static void resetting_the_receiver_empties_it(void **state)
{
    struct fixture *f = *state;

    open_port(f, 3, RDI);
    receive(f, "0123456789abcdef");
    assert_true(f->line[0].level);
    set(f, FCR, 0xc3);
    assert_false(f->line[0].level);
    assert_int_equal(get(f, LSR) & DR, 0);
    assert_int_equal(uart16550_room(&f->dev), 16);
    receive(f, "xy");
    set(f, FCR, 0xc5); /* the transmitter's reset leaves it */
    assert_int_equal(get(f, DATA), 'x');
    set(f, FCR, 0x00); /* switching the FIFOs empties them */
    assert_int_equal(get(f, LSR) & DR, 0);
    fake_advance(NS_PER_SEC);
    assert_int_equal(id(f), NONE);
}

static void a_lower_trigger_level_interrupts_at_once(void **state)
{
    struct fixture *f = *state;

    open_port(f, 3, RDI);
    receive(f, "01234");
    assert_int_equal(id(f), NONE);
    set(f, FCR, 0x41);
    assert_true(f->line[0].level);
    assert_int_equal(id(f), ID_DATA);
}

/* --- line status --- */

static void a_break_is_a_zero_with_its_bit_when_it_is_at_the_head(void **state)
{
    struct fixture *f = *state;

    open_port(f, 3, RLSI);
    receive(f, "a");
    uart16550_receive_break(&f->dev);
    receive(f, "b");
    assert_int_equal(get(f, LSR) & (DR | BI | FIFO_ERROR), DR | FIFO_ERROR);
    assert_int_equal(id(f), NONE);
    assert_int_equal(get(f, DATA), 'a');
    assert_true(f->line[0].level);
    assert_int_equal(id(f), ID_LINE);
    assert_int_equal(get(f, LSR) & (DR | BI | FIFO_ERROR), DR | BI | FIFO_ERROR);
    assert_int_equal(id(f), NONE); /* reading LSR ends it */
    assert_int_equal(get(f, LSR) & (BI | FIFO_ERROR), 0);
    assert_int_equal(get(f, DATA), 0);
    assert_int_equal(get(f, DATA), 'b');
}

static void an_overrun_is_told_once(void **state)
{
    struct fixture *f = *state;

    open_port(f, 0, RLSI);
    set(f, MCR, LOOP | OUT2);
    for (unsigned i = 0; i < 17; i++)
        set(f, DATA, (uint8_t)('a' + i));
    assert_int_equal(id(f), ID_LINE);
    assert_int_equal(get(f, LSR) & (DR | OE), DR | OE);
    assert_int_equal(get(f, LSR) & OE, 0);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(get(f, DATA), 'a' + i); /* the FIFO keeps what it has */
    assert_int_equal(get(f, LSR) & DR, 0);
}

static void without_fifos_an_overrun_keeps_the_new_byte(void **state)
{
    struct fixture *f = *state;

    set(f, MCR, LOOP);
    set(f, DATA, 'a');
    set(f, DATA, 'b');
    assert_int_equal(get(f, LSR) & (DR | OE), DR | OE);
    assert_int_equal(get(f, DATA), 'b');
    assert_int_equal(get(f, LSR) & DR, 0);
}

static void interrupts_are_told_by_priority(void **state)
{
    struct fixture *f = *state;

    open_port(f, 0, RDI | THRI | RLSI | MSI);
    set(f, MCR, LOOP | OUT2 | RTS);
    set(f, MCR, OUT2 | RTS | DTR); /* modem lines changed */
    uart16550_receive_break(&f->dev);
    assert_int_equal(id(f), ID_LINE);
    get(f, LSR);
    assert_int_equal(id(f), ID_DATA);
    get(f, DATA);
    assert_int_equal(id(f), ID_THRE);
    assert_int_equal(id(f), ID_MODEM);
    get(f, MSR);
    assert_int_equal(id(f), NONE);
    assert_false(f->line[0].level);
}

#define UART_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        UART_TEST(bytes_reach_the_host_together_and_within_a_millisecond),
        UART_TEST(much_output_does_not_wait_for_the_millisecond),
        UART_TEST(an_interrupt_driven_transmitter_sends_all_in_one_interrupt),
        UART_TEST(a_handler_that_looks_once_gets_the_next_interrupt_from_the_flush),
        UART_TEST(a_host_that_takes_no_more_holds_the_guest_off),
        UART_TEST(bytes_that_are_written_without_room_are_lost_and_counted),
        UART_TEST(the_ring_of_bytes_wraps_in_order),
        UART_TEST(a_guest_that_goes_on_writing_holds_nobody_up),
        UART_TEST(drain_says_what_is_left),
        UART_TEST(without_a_host_output_is_dropped),
        UART_TEST(clearing_the_transmitter_loses_nothing_that_counts_as_sent),
        UART_TEST(the_fifo_takes_16_and_gives_them_in_order),
        UART_TEST(without_fifos_there_is_room_for_one),
        UART_TEST(the_host_hears_when_there_is_room_again),
        UART_TEST(data_interrupts_at_the_trigger_level_and_below_it_no_more),
        UART_TEST(a_rest_below_the_trigger_level_times_out),
        UART_TEST(each_new_byte_starts_the_timeout_anew),
        UART_TEST(a_slow_line_times_out_after_a_millisecond),
        UART_TEST(without_fifos_there_is_no_timeout),
        UART_TEST(resetting_the_receiver_empties_it),
        UART_TEST(a_lower_trigger_level_interrupts_at_once),
        UART_TEST(a_break_is_a_zero_with_its_bit_when_it_is_at_the_head),
        UART_TEST(an_overrun_is_told_once),
        UART_TEST(without_fifos_an_overrun_keeps_the_new_byte),
        UART_TEST(interrupts_are_told_by_priority),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
