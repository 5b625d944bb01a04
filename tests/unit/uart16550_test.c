/* The 16550A: registers, FIFOs, every interrupt and its end, loopback, breaks, flow to and from the host, and what drivers probe for. */
#include "chipset_fake.h"

#include "chipset/uart16550.h"

#define BASE 0x3f8
#define DATA 0
#define IER 1
#define IIR 2
#define FCR 2
#define LCR 3
#define MCR 4
#define LSR 5
#define MSR 6
#define SCR 7

#define RDI 0x01
#define THRI 0x02
#define RLSI 0x04
#define MSI 0x08

#define NONE 0x01
#define ID_MODEM 0x00
#define ID_THRE 0x02
#define ID_DATA 0x04
#define ID_LINE 0x06
#define ID_TIMEOUT 0x0c

#define DR 0x01
#define OE 0x02
#define BI 0x10
#define THRE 0x20
#define TEMT 0x40
#define FIFO_ERROR 0x80

#define DTR 0x01
#define RTS 0x02
#define OUT1 0x04
#define OUT2 0x08
#define LOOP 0x10

struct fixture {
    struct bus pio, pio2;
    struct uart16550 dev, other;
    struct fake_line line[2];
    uint8_t out[3 * UART_OUT_BYTES];
    size_t out_len, out_room; /* how much the host takes before it is blocked */
    unsigned out_calls, room_calls;
};

static size_t on_out(void *opaque, const uint8_t *data, size_t len)
{
    struct fixture *f = opaque;
    size_t taken = MIN(len, f->out_room);

    assert_int_equal(pthread_mutex_trylock(&f->dev.lock), 0); /* no lock is held */
    pthread_mutex_unlock(&f->dev.lock);
    assert_true(len > 0);
    for (size_t i = 0; i < taken; i++)
        f->out[f->out_len++ % sizeof(f->out)] = data[i];
    f->out_room -= taken;
    f->out_calls++;
    return taken;
}

static void on_room(void *opaque)
{
    ((struct fixture *)opaque)->room_calls++;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    const struct uart16550_host host = {.opaque = f, .out = on_out, .room = on_room}, nobody = {0};
    struct err e;

    fake_start(0);
    f->out_room = SIZE_MAX;
    bus_init(&f->pio);
    bus_init(&f->pio2);
    assert_int_equal(uart16550_init(&f->dev, &f->pio, BASE, fake_irq(f->line, 0), NULL, &host, &e), 0);
    assert_int_equal(uart16550_init(&f->other, &f->pio2, BASE, fake_irq(f->line, 1), NULL, &nobody, &e), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    uart16550_fini(&f->other);
    uart16550_fini(&f->dev);
    assert_int_equal(f->pio.count, 0);
    assert_false(fake_timers_armed());
    bus_fini(&f->pio2);
    bus_fini(&f->pio);
    free(f);
    return 0;
}

static uint8_t get(struct fixture *f, unsigned reg)
{
    return in8(&f->pio, (uint16_t)(BASE + reg));
}

static void set(struct fixture *f, unsigned reg, uint8_t value)
{
    out8(&f->pio, (uint16_t)(BASE + reg), value);
}

/* The interrupt identification without the FIFO bits. */
static uint8_t id(struct fixture *f)
{
    return get(f, IIR) & 0x0f;
}

/* FIFOs on with that trigger level (0-3 for 1, 4, 8, 14), interrupts through to the line. */
static void open_port(struct fixture *f, uint8_t trigger, uint8_t ier)
{
    set(f, FCR, (uint8_t)(trigger << 6 | 0x07));
    set(f, MCR, DTR | RTS | OUT2);
    set(f, IER, ier);
}

static void receive(struct fixture *f, const char *text)
{
    assert_int_equal(uart16550_receive(&f->dev, (const uint8_t *)text, strlen(text)), strlen(text));
}

static void assert_sent(struct fixture *f, const char *text)
{
    assert_int_equal(f->out_len, strlen(text));
    assert_memory_equal(f->out, text, strlen(text));
}

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
        UART_TEST(bytes_reach_the_host_together_and_within_a_millisecond),
        UART_TEST(much_output_does_not_wait_for_the_millisecond),
        UART_TEST(an_interrupt_driven_transmitter_sends_all_in_one_interrupt),
        UART_TEST(a_handler_that_looks_once_gets_the_next_interrupt_from_the_flush),
        UART_TEST(a_host_that_takes_no_more_holds_the_guest_off),
        UART_TEST(bytes_that_are_written_without_room_are_lost_and_counted),
        UART_TEST(the_ring_of_bytes_wraps_in_order),
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
