/* A 16550A whose host end is a buffer. */
#pragma once

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

static inline size_t on_out(void *opaque, const uint8_t *data, size_t len)
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

static inline void on_room(void *opaque)
{
    ((struct fixture *)opaque)->room_calls++;
}

static inline int setup(void **state)
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

static inline int teardown(void **state)
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

static inline uint8_t get(struct fixture *f, unsigned reg)
{
    return in8(&f->pio, (uint16_t)(BASE + reg));
}

static inline void set(struct fixture *f, unsigned reg, uint8_t value)
{
    out8(&f->pio, (uint16_t)(BASE + reg), value);
}

/* The interrupt identification without the FIFO bits. */
static inline uint8_t id(struct fixture *f)
{
    return get(f, IIR) & 0x0f;
}

/* FIFOs on with that trigger level (0-3 for 1, 4, 8, 14), interrupts through to the line. */
static inline void open_port(struct fixture *f, uint8_t trigger, uint8_t ier)
{
    set(f, FCR, (uint8_t)(trigger << 6 | 0x07));
    set(f, MCR, DTR | RTS | OUT2);
    set(f, IER, ier);
}

static inline void receive(struct fixture *f, const char *text)
{
    assert_int_equal(uart16550_receive(&f->dev, (const uint8_t *)text, strlen(text)), strlen(text));
}

static inline void assert_sent(struct fixture *f, const char *text)
{
    assert_int_equal(f->out_len, strlen(text));
    assert_memory_equal(f->out, text, strlen(text));
}
