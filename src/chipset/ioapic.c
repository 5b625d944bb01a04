/* The I/O APIC (Intel 82093AA data sheet; the EOI register as in the ICH series). */
#include "chipset/ioapic.h"

#include <errno.h>

#define REG_SELECT 0x00
#define REG_WINDOW 0x10
#define REG_EOI 0x40

#define INDEX_ID 0
#define INDEX_VERSION 1
#define INDEX_ARBITRATION 2
#define INDEX_REDIRECTION 0x10

#define VERSION (0x20 | (IOAPIC_PINS - 1) << 16)
#define ID_MASK 0x0f

#define RTE_VECTOR 0xffULL
#define RTE_DELIVERY(rte) ((rte) >> 8 & 7)
#define RTE_LOGICAL BIT(11)
#define RTE_REMOTE_IRR BIT(14)
#define RTE_LEVEL BIT(15)
#define RTE_MASKED BIT(16)
#define RTE_DESTINATION(rte) ((rte) >> 56)
#define RTE_WRITABLE_LOW 0x1afffULL /* all but delivery status and remote IRR */
#define RTE_WRITABLE_HIGH 0xff000000ULL

#define DELIVERY_LOWEST 1

#define MSI_BASE 0xfee00000ULL
#define MSI_LEVEL_ASSERT 0xc000U

static const struct state_field fields[] = {
    STATE_ARRAY(struct ioapic_state, redirection),
    STATE_FIELD(struct ioapic_state, lines),
    STATE_FIELD(struct ioapic_state, id),
    STATE_FIELD(struct ioapic_state, select),
};
static const struct state_desc desc = {"ioapic", 1, fields, ARRAY_SIZE(fields)};

/* Only fixed and lowest-priority messages can be level-triggered; NMI, SMI, INIT and ExtINT are edges whatever bit 15 says. */
static bool is_level(uint64_t rte)
{
    return (rte & RTE_LEVEL) && RTE_DELIVERY(rte) <= DELIVERY_LOWEST;
}

static struct ioapic_message message_of(uint64_t rte)
{
    return (struct ioapic_message){
        .addr = MSI_BASE | RTE_DESTINATION(rte) << 12 | (rte & RTE_LOGICAL ? 1U << 2 : 0),
        .data = (uint32_t)(rte & RTE_VECTOR) | (uint32_t)RTE_DELIVERY(rte) << 8 | (is_level(rte) ? MSI_LEVEL_ASSERT : 0),
    };
}

/* Lock held. */
static void tell_level(struct ioapic *io, unsigned pin)
{
    uint64_t rte = io->state.redirection[pin];
    struct ioapic_message message = {0}, *told = &io->told[pin];

    if (!io->level)
        return;
    if (is_level(rte) && (rte & RTE_VECTOR) >= 16)
        message = message_of(rte);
    if (message.addr == told->addr && message.data == told->data)
        return;
    *told = message;
    io->level(io->opaque, pin, message.addr, message.data);
}

static void tell_levels(struct ioapic *io)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        tell_level(io, pin);
}

static bool send(struct ioapic *io, unsigned pin)
{
    uint64_t rte = io->state.redirection[pin];
    struct ioapic_message message = message_of(rte);

    if (RTE_DELIVERY(rte) <= DELIVERY_LOWEST && (rte & RTE_VECTOR) < 16) {
        log_guest(&io->complaints, "I/O APIC input %u is unmasked with the illegal vector %u", pin, (unsigned)(rte & RTE_VECTOR));
        return false;
    }
    if (io->msi(io->opaque, message.addr, message.data)) {
        log_guest(&io->complaints, "no processor takes the interrupt of I/O APIC input %u (destination %#x)", pin,
                  (unsigned)RTE_DESTINATION(rte));
        return false;
    }
    return true;
}

/* A level-triggered input that stands, is unmasked and not yet being served. */
static void serve_level(struct ioapic *io, unsigned pin)
{
    uint64_t *rte = &io->state.redirection[pin];

    if (!is_level(*rte) || !(io->state.lines & BIT(pin)) || (*rte & (RTE_MASKED | RTE_REMOTE_IRR)))
        return;
    if (send(io, pin))
        *rte |= RTE_REMOTE_IRR;
}

void ioapic_set_line(struct ioapic *io, unsigned pin, bool level)
{
    bool was;

    if (pin >= IOAPIC_PINS)
        return;
    pthread_mutex_lock(&io->lock);
    was = io->state.lines & BIT(pin);
    if (level != was) {
        io->state.lines ^= (uint32_t)BIT(pin);
        if (is_level(io->state.redirection[pin]))
            serve_level(io, pin);
        else if (level && !(io->state.redirection[pin] & RTE_MASKED))
            send(io, pin); /* an edge that finds its input masked is lost (82093AA 3.2.4) */
    }
    pthread_mutex_unlock(&io->lock);
}

static void end_vector(struct ioapic *io, uint8_t vector)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t *rte = &io->state.redirection[pin];

        if (!(*rte & RTE_REMOTE_IRR) || (*rte & RTE_VECTOR) != vector)
            continue;
        *rte &= ~RTE_REMOTE_IRR;
        serve_level(io, pin);
    }
}

void ioapic_eoi(struct ioapic *io, uint8_t vector)
{
    pthread_mutex_lock(&io->lock);
    end_vector(io, vector);
    pthread_mutex_unlock(&io->lock);
}

static uint32_t window_read(const struct ioapic *io)
{
    const struct ioapic_state *s = &io->state;

    if (s->select == INDEX_ID || s->select == INDEX_ARBITRATION)
        return (uint32_t)s->id << 24;
    if (s->select == INDEX_VERSION)
        return VERSION;
    if (s->select >= INDEX_REDIRECTION && s->select < INDEX_REDIRECTION + 2 * IOAPIC_PINS) {
        unsigned n = s->select - INDEX_REDIRECTION;

        return (uint32_t)(s->redirection[n / 2] >> (n % 2 * 32));
    }
    return 0;
}

static void window_write(struct ioapic *io, uint32_t value)
{
    struct ioapic_state *s = &io->state;

    if (s->select == INDEX_ID) {
        s->id = value >> 24 & ID_MASK;
    } else if (s->select >= INDEX_REDIRECTION && s->select < INDEX_REDIRECTION + 2 * IOAPIC_PINS) {
        unsigned n = s->select - INDEX_REDIRECTION;
        uint64_t *rte = &s->redirection[n / 2];

        if (n % 2) {
            *rte = (*rte & UINT32_MAX) | (value & RTE_WRITABLE_HIGH) << 32;
            tell_level(io, n / 2);
            return;
        }
        *rte = (*rte & ~RTE_WRITABLE_LOW) | (value & RTE_WRITABLE_LOW);
        if (!is_level(*rte))
            *rte &= ~RTE_REMOTE_IRR; /* kernels clear it by a switch to edge and back */
        tell_level(io, n / 2);
        serve_level(io, n / 2);
    }
}

static uint64_t mmio_read(void *opaque, uint64_t off, unsigned size)
{
    struct ioapic *io = opaque;
    uint64_t value = 0;

    pthread_mutex_lock(&io->lock);
    if (off == REG_SELECT)
        value = io->state.select;
    else if (off == REG_WINDOW)
        value = window_read(io);
    pthread_mutex_unlock(&io->lock);
    return size < 4 ? value & (BIT(8 * size) - 1) : value;
}

static void mmio_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct ioapic *io = opaque;

    pthread_mutex_lock(&io->lock);
    if (off == REG_SELECT)
        io->state.select = (uint8_t)value;
    else if (off == REG_WINDOW && size >= 4)
        window_write(io, (uint32_t)value);
    else if (off == REG_EOI)
        end_vector(io, (uint8_t)value);
    pthread_mutex_unlock(&io->lock);
}

static const struct bus_ops mmio_ops = {mmio_read, mmio_write};

static void state_reset(struct ioapic_state *s)
{
    uint32_t lines = s->lines; /* the devices' outputs stand until they are reset themselves */

    *s = (struct ioapic_state){.lines = lines};
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        s->redirection[pin] = RTE_MASKED;
}

int ioapic_init(struct ioapic *io, struct bus *mmio, int (*msi)(void *opaque, uint64_t addr, uint32_t data), void *opaque, struct err *e)
{
    int rc;

    *io = (struct ioapic){
        .bus = mmio,
        .range = {"ioapic", IOAPIC_GPA, PAGE_SIZE, &mmio_ops, io},
        .msi = msi,
        .opaque = opaque,
    };
    state_reset(&io->state);
    rc = pthread_mutex_init(&io->lock, NULL);
    if (rc)
        return err_set(e, rc, "cannot create the lock of the I/O APIC");
    rc = bus_add(mmio, &io->range, e);
    if (rc)
        pthread_mutex_destroy(&io->lock);
    return rc;
}

void ioapic_watch_levels(struct ioapic *io, void (*level)(void *opaque, unsigned pin, uint64_t addr, uint32_t data))
{
    pthread_mutex_lock(&io->lock);
    io->level = level;
    tell_levels(io);
    pthread_mutex_unlock(&io->lock);
}

void ioapic_fini(struct ioapic *io)
{
    bus_remove(io->bus, &io->range);
    pthread_mutex_destroy(&io->lock);
}

void ioapic_reset(struct ioapic *io)
{
    pthread_mutex_lock(&io->lock);
    state_reset(&io->state);
    tell_levels(io);
    pthread_mutex_unlock(&io->lock);
}

static void device_reset(void *dev)
{
    ioapic_reset(dev);
}

static int device_save(void *dev, struct state_writer *w)
{
    struct ioapic *io = dev;
    struct ioapic_state copy;

    pthread_mutex_lock(&io->lock);
    copy = io->state;
    pthread_mutex_unlock(&io->lock);
    return state_save(&desc, &copy, w);
}

static bool is_possible(const struct ioapic_state *s)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t rte = s->redirection[pin];
        uint64_t legal = RTE_WRITABLE_HIGH << 32 | RTE_WRITABLE_LOW | (is_level(rte) ? RTE_REMOTE_IRR : 0);

        if (rte & ~legal)
            return false;
    }
    return !(s->id & ~ID_MASK) && s->lines < BIT(IOAPIC_PINS);
}

/* A message that was sent is in the local APICs' state, so nothing is sent here. */
static int device_load(void *dev, struct state_reader *r, struct err *e)
{
    struct ioapic *io = dev;
    struct ioapic_state copy = {0};
    int rc = state_load(&desc, &copy, r, e);

    if (rc)
        return rc;
    if (!is_possible(&copy))
        return err_set(e, EINVAL, "the saved state of %s holds impossible values", desc.name);
    pthread_mutex_lock(&io->lock);
    io->state = copy;
    tell_levels(io);
    pthread_mutex_unlock(&io->lock);
    return 0;
}

const struct device_ops ioapic_device = {"ioapic", device_reset, NULL, device_save, device_load};
