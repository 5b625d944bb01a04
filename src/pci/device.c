/* A PCI function: configuration space under its write mask, capabilities, INTx, reset and saved state. */
#include "pci/function.h"

#include <errno.h>
#include <string.h>

#include "base/bug.h"
#include "pci/regs.h"

#define MEM_BAR_MIN 16 /* the flags are below */
#define IO_BAR_MIN 4
#define IO_BAR_MAX 256 /* PCI 3.0 6.2.5.1 */
#define CAPABILITY_HEADER 2
#define INTERRUPT_LINE_UNKNOWN 0xff

static const struct state_field fields[] = {
    STATE_ARRAY(struct pci_device_state, config),
    STATE_FIELD(struct pci_device_state, intx),
};
static const struct state_desc desc = {"pci_function", 1, fields, ARRAY_SIZE(fields)};

/* A function that is being set up has nobody to lock out. */
static void lock(const struct pci_device *dev)
{
    if (dev->host)
        pthread_mutex_lock(&dev->host->lock);
}

static void unlock(const struct pci_device *dev)
{
    if (dev->host)
        pthread_mutex_unlock(&dev->host->lock);
}

uint32_t pci_bytes_get(const struct pci_device *dev, unsigned off, unsigned size)
{
    uint32_t value = 0;

    BUG_ON(size > 4 || off > PCI_CONFIG_BYTES - size);
    memcpy(&value, &dev->state.config[off], size);
    return value;
}

void pci_bytes_put(struct pci_device *dev, unsigned off, unsigned size, uint32_t value)
{
    BUG_ON(size > 4 || off > PCI_CONFIG_BYTES - size);
    memcpy(&dev->state.config[off], &value, size);
}

uint32_t pci_config_get(const struct pci_device *dev, unsigned off, unsigned size)
{
    uint32_t value;

    lock(dev);
    value = pci_bytes_get(dev, off, size);
    unlock(dev);
    return value;
}

void pci_config_put(struct pci_device *dev, unsigned off, unsigned size, uint32_t value)
{
    lock(dev);
    pci_bytes_put(dev, off, size, value);
    unlock(dev);
}

void pci_set_writable(struct pci_device *dev, unsigned off, const void *mask, unsigned len)
{
    const uint8_t *bits = mask;

    BUG_ON(off > PCI_CONFIG_BYTES || len > PCI_CONFIG_BYTES - off);
    for (unsigned i = 0; i < len; i++)
        dev->writable[off + i] |= bits[i];
}

static void set_writable(struct pci_device *dev, unsigned off, unsigned size, uint32_t mask)
{
    pci_set_writable(dev, off, &mask, size);
}

void pci_device_init(struct pci_device *dev, const char *name, const struct pci_ids *ids, const struct pci_device_ops *ops, void *opaque)
{
    memset(dev, 0, sizeof(*dev));
    dev->name = name;
    dev->ops = ops;
    dev->opaque = opaque;
    dev->next_capability = PCI_HEADER_END;
    dev->last_capability = PCI_CAPABILITIES - 1; /* its "next pointer" is the list's head */
    pci_bytes_put(dev, PCI_VENDOR_ID, 2, ids->vendor);
    pci_bytes_put(dev, PCI_DEVICE_ID, 2, ids->device);
    pci_bytes_put(dev, PCI_REVISION, 1, ids->revision);
    pci_bytes_put(dev, PCI_CLASS, 3, ids->class_code);
    pci_bytes_put(dev, PCI_SUBSYSTEM_VENDOR_ID, 2, ids->subsystem_vendor);
    pci_bytes_put(dev, PCI_SUBSYSTEM_ID, 2, ids->subsystem);
    pci_bytes_put(dev, PCI_INTERRUPT_PIN, 1, 1);
    pci_bytes_put(dev, PCI_INTERRUPT_LINE, 1, INTERRUPT_LINE_UNKNOWN);
    set_writable(dev, PCI_COMMAND, 2, PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE);
    set_writable(dev, PCI_CACHE_LINE_SIZE, 1, 0xff);
    set_writable(dev, PCI_INTERRUPT_LINE, 1, 0xff);
}

void pci_add_bar(struct pci_device *dev, unsigned index, enum pci_bar_kind kind, uint64_t size, const struct bus_ops *ops, void *opaque)
{
    uint32_t flags = kind == PCI_BAR_IO ? PCI_BAR_IO_BIT : kind == PCI_BAR_MEM64 ? PCI_BAR_64BIT : 0;
    uint64_t mask = ~(size - 1);

    BUG_ON(dev->host || kind == PCI_BAR_NONE || (size & (size - 1)));
    BUG_ON(kind == PCI_BAR_IO ? size < IO_BAR_MIN || size > IO_BAR_MAX : size < MEM_BAR_MIN);
    BUG_ON(kind == PCI_BAR_MEM32 && size > GIB(2));
    BUG_ON(index + (kind == PCI_BAR_MEM64) >= PCI_BARS);
    /* Nobody else has the one or two dwords. */
    BUG_ON(dev->bars[index].kind != PCI_BAR_NONE || (index > 0 && dev->bars[index - 1].kind == PCI_BAR_MEM64));
    BUG_ON(kind == PCI_BAR_MEM64 && dev->bars[index + 1].kind != PCI_BAR_NONE);
    dev->bars[index] = (struct pci_bar){.kind = kind, .size = size, .range = {dev->name, 0, size, ops, opaque}};
    pci_bytes_put(dev, PCI_BAR(index), 4, flags);
    set_writable(dev, PCI_BAR(index), 4, (uint32_t)mask);
    if (kind == PCI_BAR_MEM64)
        set_writable(dev, PCI_BAR(index + 1), 4, (uint32_t)(mask >> 32));
    set_writable(dev, PCI_COMMAND, 2, kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY);
}

void pci_set_doorbells(struct pci_device *dev, unsigned index, const struct bus_doorbell *doorbells, unsigned count)
{
    BUG_ON(dev->host || index >= PCI_BARS || dev->bars[index].kind == PCI_BAR_NONE);
    dev->bars[index].doorbells = doorbells;
    dev->bars[index].doorbell_count = count;
}

unsigned pci_add_capability(struct pci_device *dev, uint8_t id, const void *body, unsigned len)
{
    unsigned at = dev->next_capability;

    BUG_ON(dev->host || len > PCI_CONVENTIONAL_END || at + CAPABILITY_HEADER + len > PCI_CONVENTIONAL_END);
    pci_bytes_put(dev, at, 1, id);
    memcpy(&dev->state.config[at + CAPABILITY_HEADER], body, len);
    pci_bytes_put(dev, dev->last_capability + 1, 1, at);
    pci_bytes_put(dev, PCI_STATUS, 2, pci_bytes_get(dev, PCI_STATUS, 2) | PCI_STATUS_CAPABILITIES);
    dev->last_capability = at;
    dev->next_capability = ALIGN_UP(at + CAPABILITY_HEADER + len, 4U);
    return at;
}

/* Brings Interrupt Status and the line to what intx and Interrupt Disable say. Lock held. */
static void update_intx(struct pci_device *dev)
{
    bool level = dev->state.intx && !(pci_bytes_get(dev, PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE);
    uint32_t status = pci_bytes_get(dev, PCI_STATUS, 2) & ~PCI_STATUS_INTERRUPT;
    unsigned line = dev->slot % PCI_INTX_LINES;
    struct pci_host *h = dev->host;

    pci_bytes_put(dev, PCI_STATUS, 2, status | (dev->state.intx ? PCI_STATUS_INTERRUPT : 0));
    if (!h || level == dev->asserted)
        return;
    dev->asserted = level;
    h->asserted[line] += level ? 1 : -1U;
    if (h->asserted[line] == level) /* the first that holds it, or nobody any more */
        irq_set(&h->intx[line], level);
}

void pci_set_intx(struct pci_device *dev, bool level)
{
    lock(dev);
    dev->state.intx = level;
    update_intx(dev);
    unlock(dev);
}

static int first_free_slot(const struct pci_host *h)
{
    for (int slot = 1; slot < PCI_SLOTS; slot++)
        if (!h->slots[slot])
            return slot;
    return -1;
}

/* What the guest finds after power-on: firmware has given addresses and turned decoding on. */
static void power_on(struct pci_device *dev)
{
    pci_bytes_put(dev, PCI_COMMAND, 2, 0);
    for (unsigned i = 0; i < PCI_BARS; i++) {
        uint32_t decode = dev->bars[i].kind == PCI_BAR_NONE ? 0 : dev->bars[i].kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;

        pci_bytes_put(dev, PCI_COMMAND, 2, pci_bytes_get(dev, PCI_COMMAND, 2) | decode);
    }
    memcpy(dev->reset_config, dev->state.config, sizeof(dev->reset_config));
}

int pci_attach_at(struct pci_host *h, struct pci_device *dev, unsigned slot, struct err *e)
{
    int rc;

    BUG_ON(dev->host || slot >= PCI_SLOTS);
    pthread_mutex_lock(&h->lock);
    if (h->slots[slot]) {
        rc = err_set(e, EEXIST, "%s: PCI slot %u already has %s", dev->name, slot, h->slots[slot]->name);
        goto unlock;
    }
    dev->host = h;
    dev->slot = slot;
    h->slots[slot] = dev;
    rc = pci_bars_assign(dev, e);
    if (rc) {
        h->slots[slot] = NULL;
        dev->host = NULL;
        goto unlock;
    }
    power_on(dev);
    pci_bars_update(h);
    update_intx(dev);
unlock:
    pthread_mutex_unlock(&h->lock);
    return rc;
}

int pci_attach(struct pci_host *h, struct pci_device *dev, unsigned slot, struct err *e)
{
    int first;

    if (slot)
        return pci_attach_at(h, dev, slot, e);
    pthread_mutex_lock(&h->lock);
    first = first_free_slot(h);
    pthread_mutex_unlock(&h->lock);
    if (first < 0)
        return err_set(e, ENOSPC, "%s: all %u PCI slots are taken; give fewer devices", dev->name, PCI_SLOTS - 1);
    return pci_attach_at(h, dev, (unsigned)first, e);
}

void pci_detach(struct pci_device *dev)
{
    struct pci_host *h = dev->host;

    if (!h)
        return;
    pthread_mutex_lock(&h->lock);
    dev->state.intx = 0;
    update_intx(dev);
    pci_bytes_put(dev, PCI_COMMAND, 2, 0);
    pci_bars_update(h); /* takes its BARs off the buses */
    h->slots[dev->slot] = NULL;
    dev->host = NULL;
    pthread_mutex_unlock(&h->lock);
}

uint32_t pci_function_read(struct pci_device *dev, unsigned off, unsigned size)
{
    if (dev->ops && dev->ops->config_read)
        dev->ops->config_read(dev->opaque, off, size);
    return pci_config_get(dev, off, size);
}

/* Whether this byte has to do with where BARs lie. */
static bool is_place(unsigned off)
{
    return off == PCI_COMMAND || (off >= PCI_BAR(0) && off < PCI_BAR(PCI_BARS));
}

void pci_function_write(struct pci_device *dev, unsigned off, unsigned size, uint32_t value)
{
    bool moved = false;

    BUG_ON(size > 4 || off > PCI_CONFIG_BYTES - size);
    pthread_mutex_lock(&dev->host->lock);
    for (unsigned i = 0; i < size; i++) {
        uint8_t *byte = &dev->state.config[off + i], mask = dev->writable[off + i];
        uint8_t new = (uint8_t)((*byte & ~mask) | ((value >> (8 * i)) & mask));

        moved |= new != *byte &&is_place(off + i);
        *byte = new;
    }
    if (moved)
        pci_bars_update(dev->host);
    update_intx(dev);
    pthread_mutex_unlock(&dev->host->lock);
    if (dev->ops && dev->ops->config_written)
        dev->ops->config_written(dev->opaque, off, size);
}

/* Takes over a whole state. */
static void set_state(struct pci_device *dev, const uint8_t *config, uint8_t intx)
{
    pthread_mutex_lock(&dev->host->lock);
    memcpy(dev->state.config, config, sizeof(dev->state.config));
    dev->state.intx = intx;
    update_intx(dev);
    pci_bars_update(dev->host);
    pthread_mutex_unlock(&dev->host->lock);
}

void pci_device_reset(struct pci_device *dev)
{
    set_state(dev, dev->reset_config, 0);
}

int pci_device_save(struct pci_device *dev, struct state_writer *w)
{
    struct pci_device_state copy;

    lock(dev);
    copy = dev->state;
    unlock(dev);
    return state_save(&desc, &copy, w);
}

/* Only what a guest can write, and Interrupt Status, is other than after reset. */
static bool is_possible(const struct pci_device *dev, const struct pci_device_state *s)
{
    for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++) {
        uint8_t mask = dev->writable[i] | (i == PCI_STATUS ? PCI_STATUS_INTERRUPT : 0);

        if ((s->config[i] ^ dev->reset_config[i]) & ~mask)
            return false;
    }
    return s->intx == !!(s->config[PCI_STATUS] & PCI_STATUS_INTERRUPT);
}

int pci_device_load(struct pci_device *dev, struct state_reader *r, struct err *e)
{
    struct pci_device_state copy = {0};
    int rc = state_load(&desc, &copy, r, e);

    if (rc)
        return rc;
    if (!is_possible(dev, &copy))
        return err_set(e, EINVAL, "the saved state of %s is not one of %s: give the machine the same devices", desc.name, dev->name);
    set_state(dev, copy.config, copy.intx);
    return 0;
}
