/* A 16550A UART: the serial console. */
#pragma once

#include <pthread.h>

#include "base/device.h"
#include "cpu/irq.h"
#include "event/loop.h"
#include "mem/bus.h"

#define UART_FIFO_BYTES 16
#define UART_OUT_BYTES 16384

struct uart16550_state {
    uint8_t ier, fcr, lcr, mcr, msr, scratch;
    uint8_t overrun; /* LSR.OE */
    uint16_t divisor;
    uint8_t thre_pending; /* the transmitter-empty interrupt is latched */
    uint8_t thre_due;     /* a byte was sent whose transmitter-empty interrupt is not latched yet */
    uint8_t rx_timeout;   /* the receive timeout is latched */
    uint8_t rx_head, rx_count;
    uint8_t rx_data[UART_FIFO_BYTES];
    uint8_t rx_break[UART_FIFO_BYTES]; /* 1 = this character is a break */
};

/* Who is at the other end of the line. Both run on the loop's thread with no lock held. */
struct uart16550_host {
    void *opaque;
    /*
     * Takes as many of the bytes as it can without blocking and returns how many. When that is fewer than len, it calls
     * uart16550_out_ready() once it can take more. NULL: output is dropped.
     */
    size_t (*out)(void *opaque, const uint8_t *data, size_t len);
    /* There is room again, after uart16550_receive() took less than it was given or uart16550_room() was 0. NULL: not wanted. */
    void (*room)(void *opaque);
    /*
     * There is room only while the guest raises RTS, as on a line with flow control. Without it, what comes before a driver has set up its
     * FIFOs is lost, as a driver clears them.
     */
    bool waits_for_rts;
};

struct uart16550 {
    struct uart16550_state state;

    pthread_mutex_t lock;
    struct bus *bus;
    struct bus_range range;
    struct loop_timer work;    /* output to flush, a latched THRE, the room callback */
    struct loop_timer timeout; /* receive timeout */
    struct irq_line irq;
    bool irq_level;
    struct uart16550_host host;
    uint64_t work_at_ns; /* 0 = not armed */
    bool timeout_armed;
    uint64_t rx_touched_ns; /* the last time that the receive FIFO was read or filled */
    bool room_wanted;       /* the host waits for room */
    bool out_blocked;       /* the host took less than it was given */
    uint64_t out_lost;      /* bytes that the guest wrote although THRE was clear for want of room */
    size_t out_head, out_count;
    uint8_t out[UART_OUT_BYTES];
};

/* pio: base .. base + 7. host is copied. */
int uart16550_init(struct uart16550 *, struct bus *pio, uint16_t base, struct irq_line irq, struct loop *, const struct uart16550_host *,
                   struct err *);
void uart16550_fini(struct uart16550 *);  /* loop thread, or with no loop running; drain first to lose nothing */
void uart16550_reset(struct uart16550 *); /* what the guest wrote before still goes out */

/* Input, on the loop's thread: how many bytes the guest's side can take now, and taking them. Returns how many were taken. */
size_t uart16550_room(struct uart16550 *);
size_t uart16550_receive(struct uart16550 *, const uint8_t *data, size_t len);
void uart16550_receive_break(struct uart16550 *); /* dropped when the FIFO is full */

/* The host can take output again. Loop thread. */
void uart16550_out_ready(struct uart16550 *);

/*
 * Hands all buffered output to host->out, until none is left or out takes nothing. Loop thread, or any while the loop does not run.
 * Returns the bytes that are left.
 */
size_t uart16550_drain(struct uart16550 *);

extern const struct device_ops uart16550_device;
