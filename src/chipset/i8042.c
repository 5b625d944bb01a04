/* The keyboard controller (Intel 8042 as in the PC/AT) with nothing plugged in: commands answer, devices do not. */
#include "chipset/i8042.h"

#include <errno.h>
#include <string.h>

#define DATA_PORT 0x60
#define COMMAND_PORT 0x64

#define STATUS_OBF 0x01
#define STATUS_SYSTEM 0x04
#define STATUS_COMMAND 0x08
#define STATUS_UNLOCKED 0x10
#define STATUS_AUX 0x20
#define STATUS_TIMEOUT 0x40

#define CONFIG_KEYBOARD_IRQ 0x01
#define CONFIG_AUX_IRQ 0x02
#define CONFIG_SYSTEM 0x04
#define CONFIG_KEYBOARD_OFF 0x10
#define CONFIG_AUX_OFF 0x20

#define OUTPUT_RUNNING 0x01 /* 0 pulls the processor's reset line */
#define OUTPUT_A20 0x02

#define DEVICE_TIMEOUT 0xfe /* what the controller puts for a device that does not answer */

static const struct state_field fields[] = {
    STATE_FIELD(struct i8042_state, config),
    STATE_FIELD(struct i8042_state, output_port),
    STATE_ARRAY(struct i8042_state, ram),
    STATE_FIELD(struct i8042_state, command),
    STATE_FIELD(struct i8042_state, data),
    STATE_FIELD(struct i8042_state, full),
    STATE_FIELD(struct i8042_state, from_aux),
    STATE_FIELD(struct i8042_state, timeout),
    STATE_FIELD(struct i8042_state, last_was_command),
};
static const struct state_desc desc = {"i8042", 1, fields, ARRAY_SIZE(fields)};

/* A full output buffer is an interrupt of the device that its byte came from. Lock held, here and below. */
static void update_irqs(struct i8042 *c)
{
    const struct i8042_state *s = &c->state;

    irq_set(&c->keyboard_irq, s->full && !s->from_aux && (s->config & CONFIG_KEYBOARD_IRQ));
    irq_set(&c->aux_irq, s->full && s->from_aux && (s->config & CONFIG_AUX_IRQ));
}

static void put(struct i8042 *c, uint8_t byte, bool aux, bool timeout)
{
    struct i8042_state *s = &c->state;

    s->data = byte;
    s->full = 1;
    s->from_aux = aux;
    s->timeout = timeout;
    update_irqs(c);
}

static uint8_t take(struct i8042 *c)
{
    c->state.full = 0;
    update_irqs(c);
    return c->state.data; /* an empty buffer gives its last byte */
}

/* A command without a data byte. True: pull the reset line. */
static bool run_command(struct i8042 *c, uint8_t command)
{
    struct i8042_state *s = &c->state;

    switch (command) {
    case 0x20: put(c, s->config, false, false); break;
    case 0x21 ... 0x3f: put(c, s->ram[command & 0x1f], false, false); break;
    case 0x60 ... 0x7f:
    case 0xd1 ... 0xd4: s->command = command; break;
    case 0xa7: s->config |= CONFIG_AUX_OFF; break;
    case 0xa8: s->config &= ~CONFIG_AUX_OFF; break;
    case 0xa9:                                    /* test of the auxiliary port's lines: */
    case 0xab: put(c, 0x00, false, false); break; /* and the keyboard's: nothing stuck */
    case 0xaa:
        s->config |= CONFIG_SYSTEM;
        put(c, 0x55, false, false); /* the self-test passed */
        break;
    case 0xad: s->config |= CONFIG_KEYBOARD_OFF; break;
    case 0xae: s->config &= ~CONFIG_KEYBOARD_OFF; break;
    case 0xc0: put(c, 0x80, false, false); break; /* input port: not locked */
    case 0xd0: put(c, s->output_port, false, false); break;
    case 0xe0: put(c, 0x00, false, false); break; /* test inputs */
    case 0xf0 ... 0xff: return !(command & OUTPUT_RUNNING);
    default: break;
    }
    return false;
}

static bool run_with_data(struct i8042 *c, uint8_t command, uint8_t data)
{
    struct i8042_state *s = &c->state;

    switch (command) {
    case 0x60:
        s->config = data;
        update_irqs(c);
        break;
    case 0x61 ... 0x7f: s->ram[command & 0x1f] = data; break;
    case 0xd1: s->output_port = data | OUTPUT_A20; return !(data & OUTPUT_RUNNING);
    case 0xd2: put(c, data, false, false); break;
    case 0xd3: put(c, data, true, false); break;
    case 0xd4: put(c, DEVICE_TIMEOUT, true, true); break;
    default: put(c, DEVICE_TIMEOUT, false, true); break; /* 0: for the keyboard */
    }
    return false;
}

static uint64_t data_read(void *opaque, uint64_t off, unsigned size)
{
    struct i8042 *c = opaque;
    uint8_t value;

    (void)off, (void)size;
    pthread_mutex_lock(&c->lock);
    value = take(c);
    pthread_mutex_unlock(&c->lock);
    return value;
}

static void data_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct i8042 *c = opaque;
    uint8_t command;
    bool reset;

    (void)off, (void)size;
    pthread_mutex_lock(&c->lock);
    command = c->state.command;
    c->state.command = 0;
    c->state.last_was_command = 0;
    reset = run_with_data(c, command, (uint8_t)value);
    pthread_mutex_unlock(&c->lock);
    if (reset)
        c->reset(c->opaque);
}

static uint64_t status_read(void *opaque, uint64_t off, unsigned size)
{
    struct i8042 *c = opaque;
    const struct i8042_state *s = &c->state;
    uint8_t value = STATUS_UNLOCKED;

    (void)off, (void)size;
    pthread_mutex_lock(&c->lock);
    value |= s->full ? STATUS_OBF : 0;
    value |= s->full && s->from_aux ? STATUS_AUX : 0;
    value |= s->full && s->timeout ? STATUS_TIMEOUT : 0;
    value |= s->config & CONFIG_SYSTEM ? STATUS_SYSTEM : 0;
    value |= s->last_was_command ? STATUS_COMMAND : 0;
    pthread_mutex_unlock(&c->lock);
    return value;
}

static void command_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct i8042 *c = opaque;
    bool reset;

    (void)off, (void)size;
    pthread_mutex_lock(&c->lock);
    c->state.command = 0;
    c->state.last_was_command = 1;
    reset = run_command(c, (uint8_t)value);
    pthread_mutex_unlock(&c->lock);
    if (reset)
        c->reset(c->opaque);
}

static const struct bus_ops data_ops = {data_read, data_write};
static const struct bus_ops command_ops = {status_read, command_write};

static void state_reset(struct i8042_state *s)
{
    *s = (struct i8042_state){.config = CONFIG_SYSTEM | CONFIG_KEYBOARD_OFF | CONFIG_AUX_OFF, .output_port = OUTPUT_RUNNING | OUTPUT_A20};
}

int i8042_init(struct i8042 *c, struct bus *pio, struct irq_line keyboard_irq, struct irq_line aux_irq, void (*reset)(void *opaque),
               void *opaque, struct err *e)
{
    int error;

    *c = (struct i8042){.bus = pio, .keyboard_irq = keyboard_irq, .aux_irq = aux_irq, .reset = reset, .opaque = opaque};
    c->data_port = (struct bus_range){.name = "i8042 data", .base = DATA_PORT, .size = 1, .ops = &data_ops, .opaque = c};
    c->command_port = (struct bus_range){.name = "i8042 command", .base = COMMAND_PORT, .size = 1, .ops = &command_ops, .opaque = c};
    pthread_mutex_init(&c->lock, NULL);
    state_reset(&c->state);
    error = bus_add(pio, &c->data_port, e);
    if (error)
        goto destroy_lock;
    error = bus_add(pio, &c->command_port, e);
    if (error)
        goto remove_data_port;
    return 0;

remove_data_port:
    bus_remove(pio, &c->data_port);
destroy_lock:
    pthread_mutex_destroy(&c->lock);
    return error;
}

void i8042_fini(struct i8042 *c)
{
    bus_remove(c->bus, &c->command_port);
    bus_remove(c->bus, &c->data_port);
    pthread_mutex_destroy(&c->lock);
}

void i8042_reset(struct i8042 *c)
{
    pthread_mutex_lock(&c->lock);
    state_reset(&c->state);
    update_irqs(c);
    pthread_mutex_unlock(&c->lock);
}

static void device_reset(void *dev)
{
    i8042_reset(dev);
}

static int device_save(void *dev, struct state_writer *w)
{
    struct i8042 *c = dev;
    struct i8042_state copy;

    pthread_mutex_lock(&c->lock);
    copy = c->state;
    pthread_mutex_unlock(&c->lock);
    return state_save(&desc, &copy, w);
}

static bool takes_data(uint8_t command)
{
    return (command >= 0x60 && command <= 0x7f) || (command >= 0xd1 && command <= 0xd4);
}

static bool is_possible(const struct i8042_state *s)
{
    return (!s->command || takes_data(s->command)) && (s->output_port & OUTPUT_A20) && s->full <= 1 && s->from_aux <= 1 &&
           s->timeout <= 1 && s->last_was_command <= 1;
}

static int device_load(void *dev, struct state_reader *r, struct err *e)
{
    struct i8042 *c = dev;
    struct i8042_state copy;
    int rc;

    state_reset(&copy);
    rc = state_load(&desc, &copy, r, e);
    if (rc)
        return rc;
    if (!is_possible(&copy))
        return err_set(e, EINVAL, "the saved state of %s holds impossible values", desc.name);
    pthread_mutex_lock(&c->lock);
    c->state = copy;
    update_irqs(c);
    pthread_mutex_unlock(&c->lock);
    return 0;
}

const struct device_ops i8042_device = {"i8042", device_reset, NULL, device_save, device_load};
