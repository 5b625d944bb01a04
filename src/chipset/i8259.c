/* The 8259A pair (Intel 8259A data sheet 231468) and the ELCR ports 0x4d0/0x4d1. */
#include "chipset/i8259.h"

#include <errno.h>

#define MASTER 0
#define SLAVE 1
#define CASCADE 2 /* the master's input that the slave is on */

#define ICW1_IC4 0x01
#define ICW1_SINGLE 0x02
#define ICW1_LTIM 0x08
#define ICW1_INIT 0x10
#define ICW4_AEOI 0x02
#define ICW4_SFNM 0x10
#define OCW3_SELECT 0x08

/* Inputs that can be level-triggered: not the timer, keyboard, cascade, RTC and FPU. */
static const uint8_t elcr_writable[2] = {0xf8, 0xde};

#define CHIP(member) STATE_FIELD(struct i8259_chip, member)
static const struct state_field chip_fields[] = {
    CHIP(lines),     CHIP(irr),   CHIP(imr),    CHIP(isr),         CHIP(elcr),         CHIP(icw1),     CHIP(icw2), CHIP(icw4),
    CHIP(init_step), CHIP(ready), CHIP(lowest), CHIP(rotate_aeoi), CHIP(special_mask), CHIP(read_isr), CHIP(poll),
};
static const struct state_desc chip_desc = {"i8259", 1, chip_fields, ARRAY_SIZE(chip_fields)};

static uint8_t level_inputs(const struct i8259_chip *c)
{
    return c->icw1 & ICW1_LTIM ? 0xff : c->elcr;
}

/* 0 = the highest priority at present. */
static unsigned rank_of(const struct i8259_chip *c, unsigned input)
{
    return (input - c->lowest - 1) & 7;
}

/* The input of highest priority among bits, or -1. */
static int highest(const struct i8259_chip *c, uint8_t bits)
{
    for (unsigned rank = 0; rank < 8; rank++) {
        unsigned input = (rank + c->lowest + 1) & 7;

        if (bits & BIT(input))
            return (int)input;
    }
    return -1;
}

/* The input that the chip would put through now, or -1: the chip's INT output is that this is >= 0. */
static int chip_request(const struct i8259_chip *c, bool master)
{
    int request = highest(c, c->irr & ~c->imr);
    uint8_t serving = c->isr;
    int served;

    if (!c->ready || request < 0)
        return -1;
    if (c->special_mask)
        serving &= ~c->imr;
    served = highest(c, serving);
    if (served < 0 || rank_of(c, (unsigned)request) < rank_of(c, (unsigned)served))
        return request;
    if (master && (c->icw4 & ICW4_SFNM) && request == CASCADE && served == CASCADE)
        return request; /* special fully nested: the slave's own priorities decide */
    return -1;
}

static void input_set(struct i8259_chip *c, unsigned input, bool level)
{
    uint8_t bit = (uint8_t)BIT(input), was = c->lines & bit;

    c->lines = level ? c->lines | bit : c->lines & ~bit;
    if (level_inputs(c) & bit)
        c->irr = level ? c->irr | bit : c->irr & ~bit;
    else if (level && !was)
        c->irr |= bit; /* kept when the line falls: a pulse is a request */
}

/* The cascade and the INTR output follow from the rest. */
static void update(struct i8259 *pic)
{
    struct i8259_chip *master = &pic->state.chip[MASTER];
    bool cascade = chip_request(&pic->state.chip[SLAVE], false) >= 0;
    bool intr;

    /* Transparent, not latched: a slave's request that goes away takes the master's with it. */
    master->lines = cascade ? master->lines | BIT(CASCADE) : master->lines & ~BIT(CASCADE);
    master->irr = cascade ? master->irr | BIT(CASCADE) : master->irr & ~BIT(CASCADE);
    intr = chip_request(master, true) >= 0;
    if (intr != pic->intr_level) {
        pic->intr_level = intr;
        pic->intr(pic->opaque, intr);
    }
}

static void end_of_interrupt(struct i8259_chip *c, int input, bool rotate)
{
    if (input < 0)
        return;
    c->isr &= ~BIT(input);
    if (rotate)
        c->lowest = (uint8_t)input;
}

/* One chip's half of INTA (or a poll): the input, taken into service; 7 when there is none. */
static unsigned chip_ack(struct i8259_chip *c, bool master)
{
    int input = chip_request(c, master);

    if (input < 0)
        return 7;
    c->isr |= BIT(input);
    if (!(level_inputs(c) & BIT(input)))
        c->irr &= ~BIT(input);
    if (c->icw4 & ICW4_AEOI)
        end_of_interrupt(c, input, c->rotate_aeoi);
    return (unsigned)input;
}

int i8259_ack(struct i8259 *pic)
{
    struct i8259_chip *master = &pic->state.chip[MASTER], *slave = &pic->state.chip[SLAVE];
    int vector = -1;

    pthread_mutex_lock(&pic->lock);
    if (master->ready) {
        bool any = chip_request(master, true) >= 0;
        unsigned input = chip_ack(master, true);

        vector = master->icw2 | (int)input;
        if (any && input == CASCADE)
            vector = slave->icw2 | (int)chip_ack(slave, false);
        update(pic);
    }
    pthread_mutex_unlock(&pic->lock);
    return vector;
}

void i8259_set_line(struct i8259 *pic, unsigned irq, bool level)
{
    if (irq >= 16 || irq == CASCADE)
        return;
    pthread_mutex_lock(&pic->lock);
    input_set(&pic->state.chip[irq / 8], irq % 8, level);
    update(pic);
    pthread_mutex_unlock(&pic->lock);
}

static void write_icw1(struct i8259_chip *c, uint8_t value)
{
    c->icw1 = value;
    c->icw4 = 0;
    c->imr = 0;
    c->isr = 0;
    c->irr = c->lines & level_inputs(c); /* edges that came before count no more */
    c->lowest = 7;
    c->rotate_aeoi = 0;
    c->special_mask = 0;
    c->read_isr = 0;
    c->poll = 0;
    c->ready = 0;
    c->init_step = 2;
}

static void write_icw(struct i8259_chip *c, uint8_t value)
{
    bool wants_icw4 = c->icw1 & ICW1_IC4;

    switch (c->init_step) {
    case 2:
        c->icw2 = value & 0xf8;
        c->init_step = c->icw1 & ICW1_SINGLE ? (wants_icw4 ? 4 : 0) : 3;
        break;
    case 3: /* which inputs have slaves: wired, so the value changes nothing */ c->init_step = wants_icw4 ? 4 : 0; break;
    default:
        c->icw4 = value;
        c->init_step = 0;
        break;
    }
    c->ready = c->init_step == 0;
}

static void write_ocw2(struct i8259_chip *c, uint8_t value)
{
    int input = value & 7;
    uint8_t serving = c->special_mask ? c->isr & ~c->imr : c->isr;

    switch (value >> 5) {
    case 0: /* rotate in automatic EOI mode: clear, set */
    case 4: c->rotate_aeoi = value >> 7; break;
    case 1: /* non-specific EOI, without and with rotation */
    case 5: end_of_interrupt(c, highest(c, serving), value >> 7); break;
    case 3: /* specific EOI, without and with rotation */
    case 7: end_of_interrupt(c, input, value >> 7); break;
    case 6: c->lowest = (uint8_t)input; break;
    default: /* 2: no operation */ break;
    }
}

static void write_ocw3(struct i8259_chip *c, uint8_t value)
{
    if (value & 0x40)
        c->special_mask = value >> 5 & 1;
    c->poll = value >> 2 & 1;
    if (!c->poll && (value & 2))
        c->read_isr = value & 1;
}

static void chip_write(struct i8259_chip *c, unsigned a0, uint8_t value)
{
    if (a0 && c->init_step)
        write_icw(c, value);
    else if (a0)
        c->imr = value;
    else if (value & ICW1_INIT)
        write_icw1(c, value);
    else if (value & OCW3_SELECT)
        write_ocw3(c, value);
    else
        write_ocw2(c, value);
}

static uint8_t chip_read(struct i8259_chip *c, unsigned a0, bool master)
{
    if (c->poll) {
        bool any = chip_request(c, master) >= 0;

        c->poll = 0;
        return any ? (uint8_t)(0x80 | chip_ack(c, master)) : 0;
    }
    if (a0)
        return c->imr;
    return c->read_isr ? c->isr : c->irr;
}

/* Accesses of more than a byte go byte by byte, as on the ISA bus. */
static uint64_t port_read(struct i8259 *pic, unsigned which, uint64_t off, unsigned size)
{
    uint64_t value = 0;

    pthread_mutex_lock(&pic->lock);
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)chip_read(&pic->state.chip[which], (off + i) & 1, which == MASTER) << (8 * i);
    update(pic);
    pthread_mutex_unlock(&pic->lock);
    return value;
}

static void port_write(struct i8259 *pic, unsigned which, uint64_t off, unsigned size, uint64_t value)
{
    pthread_mutex_lock(&pic->lock);
    for (unsigned i = 0; i < size; i++)
        chip_write(&pic->state.chip[which], (off + i) & 1, (uint8_t)(value >> (8 * i)));
    update(pic);
    pthread_mutex_unlock(&pic->lock);
}

static uint64_t master_read(void *opaque, uint64_t off, unsigned size)
{
    return port_read(opaque, MASTER, off, size);
}

static void master_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    port_write(opaque, MASTER, off, size, value);
}

static uint64_t slave_read(void *opaque, uint64_t off, unsigned size)
{
    return port_read(opaque, SLAVE, off, size);
}

static void slave_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    port_write(opaque, SLAVE, off, size, value);
}

static uint64_t elcr_read(void *opaque, uint64_t off, unsigned size)
{
    struct i8259 *pic = opaque;
    uint64_t value = 0;

    pthread_mutex_lock(&pic->lock);
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)pic->state.chip[(off + i) & 1].elcr << (8 * i);
    pthread_mutex_unlock(&pic->lock);
    return value;
}

static void elcr_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct i8259 *pic = opaque;

    pthread_mutex_lock(&pic->lock);
    for (unsigned i = 0; i < size; i++) {
        unsigned which = (off + i) & 1;
        struct i8259_chip *c = &pic->state.chip[which];
        uint8_t before = level_inputs(c), changed;

        c->elcr = (uint8_t)(value >> (8 * i)) & elcr_writable[which];
        changed = before ^ level_inputs(c);
        c->irr = (c->irr & ~changed) | (c->lines & level_inputs(c) & changed);
    }
    update(pic);
    pthread_mutex_unlock(&pic->lock);
}

static const struct bus_ops master_ops = {master_read, master_write};
static const struct bus_ops slave_ops = {slave_read, slave_write};
static const struct bus_ops elcr_ops = {elcr_read, elcr_write};

static void state_reset(struct i8259_state *s)
{
    *s = (struct i8259_state){0};
    s->chip[MASTER].lowest = s->chip[SLAVE].lowest = 7;
}

int i8259_init(struct i8259 *pic, struct bus *pio, void (*intr)(void *opaque, bool level), void *opaque, struct err *e)
{
    int rc;

    *pic = (struct i8259){
        .bus = pio,
        .ports = {{"i8259 master", 0x20, 2, &master_ops, pic}, {"i8259 slave", 0xa0, 2, &slave_ops, pic}},
        .elcr = {"i8259 elcr", 0x4d0, 2, &elcr_ops, pic},
        .intr = intr,
        .opaque = opaque,
    };
    state_reset(&pic->state);
    rc = pthread_mutex_init(&pic->lock, NULL);
    if (rc)
        return err_set(e, rc, "cannot create the lock of the interrupt controller");
    rc = bus_add(pio, &pic->ports[MASTER], e);
    if (rc)
        goto destroy_lock;
    rc = bus_add(pio, &pic->ports[SLAVE], e);
    if (rc)
        goto remove_master;
    rc = bus_add(pio, &pic->elcr, e);
    if (rc)
        goto remove_slave;
    return 0;

remove_slave:
    bus_remove(pio, &pic->ports[SLAVE]);
remove_master:
    bus_remove(pio, &pic->ports[MASTER]);
destroy_lock:
    pthread_mutex_destroy(&pic->lock);
    return rc;
}

void i8259_fini(struct i8259 *pic)
{
    bus_remove(pic->bus, &pic->elcr);
    bus_remove(pic->bus, &pic->ports[SLAVE]);
    bus_remove(pic->bus, &pic->ports[MASTER]);
    pthread_mutex_destroy(&pic->lock);
}

void i8259_reset(struct i8259 *pic)
{
    pthread_mutex_lock(&pic->lock);
    for (unsigned i = 0; i < 2; i++) {
        uint8_t lines = pic->state.chip[i].lines; /* the devices' outputs stand until they are reset themselves */

        pic->state.chip[i] = (struct i8259_chip){.lines = lines, .lowest = 7};
    }
    update(pic);
    pthread_mutex_unlock(&pic->lock);
}

static void device_reset(void *dev)
{
    i8259_reset(dev);
}

static int device_save(void *dev, struct state_writer *w)
{
    struct i8259 *pic = dev;
    struct i8259_state copy;

    pthread_mutex_lock(&pic->lock);
    copy = pic->state;
    pthread_mutex_unlock(&pic->lock);
    state_save(&chip_desc, &copy.chip[MASTER], w);
    return state_save(&chip_desc, &copy.chip[SLAVE], w);
}

static bool is_possible(const struct i8259_chip *c, unsigned which)
{
    uint8_t outside = which == MASTER ? (uint8_t)~BIT(CASCADE) : 0xff; /* update() sets the cascade's input */
    bool step = c->init_step == 0 || c->init_step == 2 || (c->init_step == 3 && !(c->icw1 & ICW1_SINGLE)) ||
                (c->init_step == 4 && (c->icw1 & ICW1_IC4));

    return step && !(c->ready && c->init_step) && c->ready <= 1 && c->lowest <= 7 && !(c->icw2 & 7) && c->rotate_aeoi <= 1 &&
           c->special_mask <= 1 && c->read_isr <= 1 && c->poll <= 1 && !(c->elcr & ~elcr_writable[which]) &&
           !((c->irr ^ c->lines) & level_inputs(c) & outside);
}

static int device_load(void *dev, struct state_reader *r, struct err *e)
{
    struct i8259 *pic = dev;
    struct i8259_state copy;

    state_reset(&copy);
    for (unsigned i = 0; i < 2; i++) {
        struct i8259_chip *c = &copy.chip[i];
        int rc = state_load(&chip_desc, c, r, e);

        if (rc)
            return rc;
        if (!is_possible(c, i))
            return err_set(e, EINVAL, "the saved state of %s holds impossible values", chip_desc.name);
    }
    pthread_mutex_lock(&pic->lock);
    pic->state = copy;
    update(pic);
    pthread_mutex_unlock(&pic->lock);
    return 0;
}

const struct device_ops i8259_device = {"i8259", device_reset, NULL, device_save, device_load};
