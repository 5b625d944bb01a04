/* A 16550A UART (National PC16550D data sheet) whose line is as fast as the host takes bytes. */
#include "chipset/uart16550.h"

#include <errno.h>

#include "base/bug.h"
#include "base/clock.h"

/*
 * Theory of operation. A byte that the guest writes goes to a buffer and counts as sent: THRE and TEMT stay set while the buffer has room
 * for a FIFO's worth. The loop's thread hands the buffer to the host, FLUSH_NS after its first byte or when it is half full, so that a
 * write costs no system call. When the host takes no more, THRE stays clear until it does, as on a line that is held off.
 *
 * The transmitter-empty interrupt of a byte is due at once, but latched only when the guest next reads IIR, or by the flush: a driver
 * that fills the FIFO in its handler and looks at IIR again goes on in the same interrupt, and no edge is left behind in the interrupt
 * controllers while the line is low again.
 *
 * Only the loop's thread calls the host, so what it takes off out[] needs no lock while it is written elsewhere: the writer appends
 * behind it.
 */
#define FLUSH_NS NS_PER_MS
#define FLUSH_BYTES (UART_OUT_BYTES / 2)
#define TIMEOUT_MAX_NS NS_PER_MS /* for slow divisors: there is no wire to wait for */
#define CLOCK_HZ 115200          /* the 1.8432 MHz crystal over 16 */

#define IER_RDI 0x01
#define IER_THRI 0x02
#define IER_RLSI 0x04
#define IER_MSI 0x08
#define IER_ALL 0x0f

#define IIR_NONE 0x01
#define IIR_MODEM 0x00
#define IIR_THRE 0x02
#define IIR_DATA 0x04
#define IIR_LINE 0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFO 0xc0

#define FCR_ENABLE 0x01
#define FCR_CLEAR_RX 0x02
#define FCR_CLEAR_TX 0x04
#define FCR_KEPT 0xc9 /* enable, DMA mode, trigger */

#define LCR_WORD 0x03
#define LCR_STOP 0x04
#define LCR_PARITY 0x08
#define LCR_DLAB 0x80

#define MCR_DTR 0x01
#define MCR_RTS 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_ALL 0x1f

#define LSR_DR 0x01
#define LSR_OE 0x02
#define LSR_BI 0x10
#define LSR_THRE 0x20
#define LSR_TEMT 0x40
#define LSR_FIFO_ERROR 0x80

#define MSR_DCTS 0x01
#define MSR_DDSR 0x02
#define MSR_TERI 0x04
#define MSR_DDCD 0x08
#define MSR_DELTAS 0x0f
#define MSR_CTS 0x10
#define MSR_DSR 0x20
#define MSR_RI 0x40
#define MSR_DCD 0x80
#define MSR_CONNECTED (MSR_CTS | MSR_DSR | MSR_DCD) /* the terminal is always there */

#define UART(member) STATE_FIELD(struct uart16550_state, member)
static const struct state_field fields[] = {
    UART(ier),
    UART(fcr),
    UART(lcr),
    UART(mcr),
    UART(msr),
    UART(scratch),
    UART(overrun),
    UART(divisor),
    UART(thre_pending),
    UART(thre_due),
    UART(rx_timeout),
    UART(rx_head),
    UART(rx_count),
    STATE_ARRAY(struct uart16550_state, rx_data),
    STATE_ARRAY(struct uart16550_state, rx_break),
};
static const struct state_desc desc = {"uart16550", 1, fields, ARRAY_SIZE(fields)};

static bool fifos_on(const struct uart16550_state *s)
{
    return s->fcr & FCR_ENABLE;
}

static unsigned fifo_size(const struct uart16550_state *s)
{
    return fifos_on(s) ? UART_FIFO_BYTES : 1;
}

static unsigned trigger(const struct uart16550_state *s)
{
    static const uint8_t levels[4] = {1, 4, 8, 14};

    return fifos_on(s) ? levels[s->fcr >> 6] : 1;
}

/* THRE promises room for a whole FIFO. */
static bool is_empty(const struct uart16550 *u)
{
    return UART_OUT_BYTES - u->out_count >= UART_FIFO_BYTES;
}

/* The receiver's half of LSR: the break bit is that of the character at the FIFO's head. */
static uint8_t receive_status(const struct uart16550_state *s)
{
    uint8_t status = s->overrun ? LSR_OE : 0;

    if (s->rx_count)
        status |= LSR_DR | (s->rx_break[s->rx_head] ? LSR_BI : 0);
    return status;
}

/* The interrupt of highest priority (data sheet, table IV). */
static uint8_t interrupt_id(const struct uart16550_state *s)
{
    if ((s->ier & IER_RLSI) && (receive_status(s) & (LSR_OE | LSR_BI)))
        return IIR_LINE;
    if ((s->ier & IER_RDI) && s->rx_count >= trigger(s))
        return IIR_DATA;
    if ((s->ier & IER_RDI) && s->rx_timeout)
        return IIR_TIMEOUT;
    if ((s->ier & IER_THRI) && s->thre_pending)
        return IIR_THRE;
    if ((s->ier & IER_MSI) && (s->msr & MSR_DELTAS))
        return IIR_MODEM;
    return IIR_NONE;
}

/* On a PC the interrupt leaves the chip through a gate that OUT2 opens; loopback takes the pin OUT2 away from it. */
static void update_irq(struct uart16550 *u)
{
    const struct uart16550_state *s = &u->state;
    bool level = interrupt_id(s) != IIR_NONE && (s->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;

    if (level != u->irq_level) {
        u->irq_level = level;
        irq_set(&u->irq, level);
    }
}

static void want_work(struct uart16550 *u, uint64_t at_ns)
{
    if (u->work_at_ns && u->work_at_ns <= at_ns)
        return;
    u->work_at_ns = at_ns;
    loop_timer_set(&u->work, at_ns);
}

static void want_work_now(struct uart16550 *u)
{
    want_work(u, 1); /* a time in the past */
}

/* --- receiver --- */

static size_t room_of(const struct uart16550 *u)
{
    const struct uart16550_state *s = &u->state;

    if ((s->mcr & MCR_LOOP) || (u->host.waits_for_rts && !(s->mcr & MCR_RTS)))
        return 0;
    return fifo_size(s) - MIN(s->rx_count, fifo_size(s));
}

static void room_again(struct uart16550 *u)
{
    if (u->room_wanted && room_of(u))
        want_work_now(u);
}

/* Four characters' time (data sheet, "FIFO interrupt mode operation"). */
static uint64_t timeout_ns(const struct uart16550_state *s)
{
    unsigned bits = 1 + 5 + (s->lcr & LCR_WORD) + (s->lcr & LCR_PARITY ? 1 : 0) + (s->lcr & LCR_STOP ? 2 : 1);

    return MIN(4 * bits * s->divisor * NS_PER_SEC / CLOCK_HZ, TIMEOUT_MAX_NS);
}

static bool timeout_runs(const struct uart16550_state *s)
{
    return fifos_on(s) && s->rx_count && s->rx_count < trigger(s) && !s->rx_timeout;
}

static void receiver_touched(struct uart16550 *u)
{
    if (!timeout_runs(&u->state))
        return;
    u->rx_touched_ns = clock_monotonic_ns();
    if (!u->timeout_armed) {
        u->timeout_armed = true;
        loop_timer_set(&u->timeout, u->rx_touched_ns + timeout_ns(&u->state));
    }
}

static void timeout_expired(struct loop_timer *timer)
{
    struct uart16550 *u = container_of(timer, struct uart16550, timeout);

    pthread_mutex_lock(&u->lock);
    u->timeout_armed = false;
    if (timeout_runs(&u->state)) {
        uint64_t at = u->rx_touched_ns + timeout_ns(&u->state);

        if (clock_monotonic_ns() >= at) {
            u->state.rx_timeout = 1;
            update_irq(u);
        } else {
            u->timeout_armed = true;
            loop_timer_set(&u->timeout, at);
        }
    }
    pthread_mutex_unlock(&u->lock);
}

static void push(struct uart16550_state *s, uint8_t byte, bool is_break)
{
    unsigned at;

    if (s->rx_count >= fifo_size(s)) {
        s->overrun = 1; /* without FIFOs the new character takes the old one's place, with them it is lost */
        if (fifos_on(s))
            return;
        s->rx_count = 0;
    }
    at = (s->rx_head + s->rx_count++) % UART_FIFO_BYTES;
    s->rx_data[at] = byte;
    s->rx_break[at] = is_break;
}

static uint8_t pop(struct uart16550 *u)
{
    struct uart16550_state *s = &u->state;
    uint8_t byte = s->rx_data[s->rx_head];

    if (!s->rx_count)
        return 0;
    s->rx_head = (s->rx_head + 1) % UART_FIFO_BYTES;
    s->rx_count--;
    s->rx_timeout = 0;
    if (s->rx_count)
        receiver_touched(u);
    else
        room_again(u);
    update_irq(u);
    return byte;
}

static void clear_receiver(struct uart16550_state *s)
{
    s->rx_count = 0;
    s->rx_timeout = 0;
}

size_t uart16550_room(struct uart16550 *u)
{
    size_t room;

    pthread_mutex_lock(&u->lock);
    room = room_of(u);
    if (!room)
        u->room_wanted = true;
    pthread_mutex_unlock(&u->lock);
    return room;
}

size_t uart16550_receive(struct uart16550 *u, const uint8_t *data, size_t len)
{
    size_t taken;

    pthread_mutex_lock(&u->lock);
    taken = MIN(len, room_of(u));
    for (size_t i = 0; i < taken; i++)
        push(&u->state, data[i], false);
    if (taken < len)
        u->room_wanted = true;
    receiver_touched(u);
    update_irq(u);
    pthread_mutex_unlock(&u->lock);
    return taken;
}

void uart16550_receive_break(struct uart16550 *u)
{
    pthread_mutex_lock(&u->lock);
    if (room_of(u)) {
        push(&u->state, 0, true);
        receiver_touched(u);
        update_irq(u);
    }
    pthread_mutex_unlock(&u->lock);
}

/* --- transmitter --- */

/* Latches the transmitter-empty interrupt that is due. */
static void settle_thre(struct uart16550 *u)
{
    if (!u->state.thre_due || !is_empty(u))
        return;
    u->state.thre_due = 0;
    u->state.thre_pending = 1;
}

static void transmit(struct uart16550 *u, uint8_t byte)
{
    struct uart16550_state *s = &u->state;

    s->thre_pending = 0;
    s->thre_due = 1;
    if (s->mcr & MCR_LOOP) {
        push(s, byte, false);
        receiver_touched(u);
    } else if (u->out_count == UART_OUT_BYTES) {
        u->out_lost++;
    } else {
        u->out[(u->out_head + u->out_count++) % UART_OUT_BYTES] = byte;
    }
    if (!u->work_at_ns)
        want_work(u, clock_monotonic_ns() + FLUSH_NS);
    else if (u->out_count == FLUSH_BYTES)
        want_work_now(u);
    update_irq(u);
}

/*
 * Called with the lock held, which it lets go of while the host takes bytes. What vCPUs add meanwhile waits for the next time, for which transmit()
 * has asked, or else a guest could keep the event loop here.
 */
static void flush(struct uart16550 *u)
{
    size_t left = u->out_count;

    while (left && !u->out_blocked) {
        size_t len = MIN(left, UART_OUT_BYTES - u->out_head), taken = len;

        if (u->host.out) {
            pthread_mutex_unlock(&u->lock);
            taken = u->host.out(u->host.opaque, u->out + u->out_head, len);
            pthread_mutex_lock(&u->lock);
        }
        BUG_ON(taken > len);
        u->out_head = (u->out_head + taken) % UART_OUT_BYTES;
        u->out_count -= taken;
        left -= taken;
        u->out_blocked = taken < len;
    }
    settle_thre(u);
    update_irq(u);
}

static void work_expired(struct loop_timer *timer)
{
    struct uart16550 *u = container_of(timer, struct uart16550, work);
    bool tell;

    pthread_mutex_lock(&u->lock);
    u->work_at_ns = 0;
    flush(u);
    tell = u->room_wanted && room_of(u);
    if (tell)
        u->room_wanted = false;
    pthread_mutex_unlock(&u->lock);
    if (tell && u->host.room)
        u->host.room(u->host.opaque);
}

void uart16550_out_ready(struct uart16550 *u)
{
    uart16550_drain(u);
}

size_t uart16550_drain(struct uart16550 *u)
{
    size_t left;

    pthread_mutex_lock(&u->lock);
    u->out_blocked = false;
    flush(u);
    left = u->out_count;
    pthread_mutex_unlock(&u->lock);
    return left;
}

/* --- modem lines --- */

static uint8_t modem_lines(const struct uart16550_state *s)
{
    if (!(s->mcr & MCR_LOOP))
        return MSR_CONNECTED;
    return (s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) | (s->mcr & MCR_OUT1 ? MSR_RI : 0) |
           (s->mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static void update_modem(struct uart16550_state *s)
{
    uint8_t lines = modem_lines(s), changed = lines ^ s->msr, deltas = s->msr & MSR_DELTAS;

    deltas |= (changed & MSR_CTS ? MSR_DCTS : 0) | (changed & MSR_DSR ? MSR_DDSR : 0) | (changed & MSR_DCD ? MSR_DDCD : 0);
    deltas |= (changed & MSR_RI) && !(lines & MSR_RI) ? MSR_TERI : 0; /* RI counts when it ends */
    s->msr = lines | deltas;
}

/* --- registers --- */

static void write_ier(struct uart16550 *u, uint8_t value)
{
    struct uart16550_state *s = &u->state;

    /* Enabling it while the transmitter is empty is an interrupt in itself (data sheet, "Interrupt enable register"). */
    if ((value & IER_THRI) && !(s->ier & IER_THRI)) {
        s->thre_due = 1;
        settle_thre(u);
    }
    s->ier = value & IER_ALL;
    update_irq(u);
}

/* Bytes in the transmitter count as sent, so that clearing its FIFO finds it empty. */
static void write_fcr(struct uart16550 *u, uint8_t value)
{
    struct uart16550_state *s = &u->state;

    if (((value ^ s->fcr) & FCR_ENABLE) || (value & FCR_CLEAR_RX))
        clear_receiver(s);
    s->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
    room_again(u);
    update_irq(u);
}

static void write_mcr(struct uart16550 *u, uint8_t value)
{
    u->state.mcr = value & MCR_ALL;
    update_modem(&u->state);
    room_again(u);
    update_irq(u);
}

static void write_register(struct uart16550 *u, unsigned reg, uint8_t value)
{
    struct uart16550_state *s = &u->state;
    bool divisor = s->lcr & LCR_DLAB;

    switch (reg) {
    case 0:
        if (divisor)
            s->divisor = (s->divisor & 0xff00) | value;
        else
            transmit(u, value);
        break;
    case 1:
        if (divisor)
            s->divisor = (uint16_t)(value << 8 | (s->divisor & 0xff));
        else
            write_ier(u, value);
        break;
    case 2: write_fcr(u, value); break;
    case 3: s->lcr = value; break;
    case 4: write_mcr(u, value); break;
    case 7: s->scratch = value; break;
    default: break; /* LSR and MSR: written in the factory only */
    }
}

static uint8_t read_iir(struct uart16550 *u)
{
    struct uart16550_state *s = &u->state;
    uint8_t id;

    settle_thre(u);
    id = interrupt_id(s);
    if (id == IIR_THRE)
        s->thre_pending = 0;
    update_irq(u);
    return id | (fifos_on(s) ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct uart16550 *u)
{
    struct uart16550_state *s = &u->state;
    uint8_t status = receive_status(s) | (is_empty(u) ? LSR_THRE | LSR_TEMT : 0);

    for (unsigned i = 0; fifos_on(s) && i < s->rx_count; i++)
        status |= s->rx_break[(s->rx_head + i) % UART_FIFO_BYTES] ? LSR_FIFO_ERROR : 0;
    if (status & (LSR_OE | LSR_BI)) {
        s->overrun = 0;
        s->rx_break[s->rx_head] = 0;
        update_irq(u);
    }
    return status;
}

static uint8_t read_register(struct uart16550 *u, unsigned reg)
{
    struct uart16550_state *s = &u->state;
    bool divisor = s->lcr & LCR_DLAB;
    uint8_t value;

    switch (reg) {
    case 0: return divisor ? (uint8_t)s->divisor : pop(u);
    case 1: return divisor ? s->divisor >> 8 : s->ier;
    case 2: return read_iir(u);
    case 3: return s->lcr;
    case 4: return s->mcr;
    case 5: return read_lsr(u);
    case 6:
        value = s->msr;
        s->msr &= ~MSR_DELTAS;
        update_irq(u);
        return value;
    default: return s->scratch;
    }
}

/* Accesses of more than a byte go byte by byte, as on the ISA bus. */
static uint64_t port_read(void *opaque, uint64_t off, unsigned size)
{
    struct uart16550 *u = opaque;
    uint64_t value = 0;

    pthread_mutex_lock(&u->lock);
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)read_register(u, (unsigned)(off + i) & 7) << (8 * i);
    pthread_mutex_unlock(&u->lock);
    return value;
}

static void port_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct uart16550 *u = opaque;

    pthread_mutex_lock(&u->lock);
    for (unsigned i = 0; i < size; i++)
        write_register(u, (unsigned)(off + i) & 7, (uint8_t)(value >> (8 * i)));
    pthread_mutex_unlock(&u->lock);
}

static const struct bus_ops ops = {port_read, port_write};

static void state_reset(struct uart16550_state *s)
{
    *s = (struct uart16550_state){
        .lcr = LCR_WORD, /* 8N1 and 115200 bit/s, as a firmware leaves its console */
        .divisor = 1,
        .msr = MSR_CONNECTED,
    };
}

int uart16550_init(struct uart16550 *u, struct bus *pio, uint16_t base, struct irq_line irq, struct loop *loop,
                   const struct uart16550_host *host, struct err *e)
{
    int rc;

    *u = (struct uart16550){.bus = pio, .range = {"uart16550", base, 8, &ops, u}, .irq = irq, .host = *host};
    state_reset(&u->state);
    loop_timer_init(loop, &u->work, work_expired);
    loop_timer_init(loop, &u->timeout, timeout_expired);
    rc = pthread_mutex_init(&u->lock, NULL);
    if (rc)
        return err_set(e, rc, "cannot create the lock of the serial port");
    rc = bus_add(pio, &u->range, e);
    if (rc)
        pthread_mutex_destroy(&u->lock);
    return rc;
}

void uart16550_fini(struct uart16550 *u)
{
    loop_timer_cancel(&u->work);
    loop_timer_cancel(&u->timeout);
    bus_remove(u->bus, &u->range);
    pthread_mutex_destroy(&u->lock);
}

void uart16550_reset(struct uart16550 *u)
{
    pthread_mutex_lock(&u->lock);
    state_reset(&u->state);
    room_again(u);
    update_irq(u);
    pthread_mutex_unlock(&u->lock);
}

static void device_reset(void *dev)
{
    uart16550_reset(dev);
}

static void device_drain(void *dev)
{
    uart16550_drain(dev);
}

/* Drain first: the bytes that wait for the host are not the guest's any more and are not saved. */
static int device_save(void *dev, struct state_writer *w)
{
    struct uart16550 *u = dev;
    struct uart16550_state copy;

    pthread_mutex_lock(&u->lock);
    copy = u->state;
    pthread_mutex_unlock(&u->lock);
    return state_save(&desc, &copy, w);
}

static bool is_possible(const struct uart16550_state *s)
{
    for (unsigned i = 0; i < UART_FIFO_BYTES; i++)
        if (s->rx_break[i] > 1)
            return false;
    return s->ier <= IER_ALL && !(s->fcr & ~(fifos_on(s) ? FCR_KEPT : 0)) && s->mcr <= MCR_ALL &&
           (s->msr & ~MSR_DELTAS) == modem_lines(s) && s->overrun <= 1 && s->thre_pending <= 1 && s->thre_due <= 1 &&
           s->rx_timeout <= (fifos_on(s) && s->rx_count) && s->rx_head < UART_FIFO_BYTES && s->rx_count <= fifo_size(s);
}

static int device_load(void *dev, struct state_reader *r, struct err *e)
{
    struct uart16550 *u = dev;
    struct uart16550_state copy;
    int rc;

    state_reset(&copy);
    rc = state_load(&desc, &copy, r, e);
    if (rc)
        return rc;
    if (!is_possible(&copy))
        return err_set(e, EINVAL, "the saved state of %s holds impossible values", desc.name);
    pthread_mutex_lock(&u->lock);
    u->state = copy;
    receiver_touched(u);
    if (copy.thre_due)
        want_work_now(u);
    room_again(u);
    update_irq(u);
    pthread_mutex_unlock(&u->lock);
    return 0;
}

const struct device_ops uart16550_device = {"uart16550", device_reset, device_drain, device_save, device_load};
