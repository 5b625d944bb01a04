/* The PCI host bridge: configuration mechanism 1 at ports 0xcf8-0xcff, ECAM, and the functions of bus 0. */
#include "pci/function.h"

#include <errno.h>

#include "base/bug.h"
#include "pci/regs.h"

#define PORTS 0xcf8
#define PORTS_SIZE 8
#define DATA 4       /* 0xcfc, among the ports */
#define RESET_BYTE 1 /* 0xcf9 */

#define ADDRESS_ENABLE 0x80000000U
#define ADDRESS_BITS (ADDRESS_ENABLE | 0x00fffffcU)

/* A place in configuration space, as ECAM numbers it (PCI Express 3.0 7.2.2): bus, slot, function, register. */
#define PLACE_BUS(place) ((place) >> 20)
#define PLACE_SLOT(place) ((place) >> 15 & 31)
#define PLACE_FUNCTION(place) ((place) >> 12 & 7)
#define PLACE_REGISTER(place) ((unsigned)(place)&0xfff)

static const struct pci_ids bridge_ids = {
    .vendor = 0x1b36, /* a generic PCI Express host bridge, for which no system knows errata */
    .device = 0x0008,
    .class_code = 0x060000,
};

static const struct state_field fields[] = {
    STATE_FIELD(struct pci_host_state, address),
};
static const struct state_desc desc = {"pci_host", 1, fields, ARRAY_SIZE(fields)};

static uint64_t all_ones(unsigned size)
{
    return UINT64_MAX >> (64 - 8 * size);
}

/* NULL: nobody is there. */
static struct pci_device *function_at(struct pci_host *h, uint64_t place)
{
    struct pci_device *dev;

    if (PLACE_BUS(place) || PLACE_FUNCTION(place))
        return NULL;
    pthread_mutex_lock(&h->lock);
    dev = h->slots[PLACE_SLOT(place)];
    pthread_mutex_unlock(&h->lock);
    return dev;
}

/* Into how large pieces an access is cut, so that none leaves its dword. */
static unsigned piece_size(uint64_t place, unsigned size)
{
    if ((place & 3) + size <= 4)
        return size;
    return size == 8 && !(place & 3) ? 4 : 1;
}

static uint64_t config_read(struct pci_host *h, uint64_t place, unsigned size)
{
    unsigned piece = piece_size(place, size);
    uint64_t value = 0;

    for (unsigned i = 0; i < size; i += piece) {
        struct pci_device *dev = function_at(h, place + i);

        value |= (dev ? pci_function_read(dev, PLACE_REGISTER(place + i), piece) : all_ones(piece)) << (8 * i);
    }
    return value;
}

static void config_write(struct pci_host *h, uint64_t place, unsigned size, uint64_t value)
{
    unsigned piece = piece_size(place, size);

    for (unsigned i = 0; i < size; i += piece) {
        struct pci_device *dev = function_at(h, place + i);

        if (dev)
            pci_function_write(dev, PLACE_REGISTER(place + i), piece, (uint32_t)(value >> (8 * i)));
    }
}

static uint64_t ecam_read(void *opaque, uint64_t off, unsigned size)
{
    return config_read(opaque, off, size);
}

static void ecam_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    config_write(opaque, off, size, value);
}

static const struct bus_ops ecam_ops = {ecam_read, ecam_write};

static uint32_t get_address(struct pci_host *h)
{
    uint32_t address;

    pthread_mutex_lock(&h->lock);
    address = h->state.address;
    pthread_mutex_unlock(&h->lock);
    return address;
}

static void set_address(struct pci_host *h, uint32_t address)
{
    pthread_mutex_lock(&h->lock);
    h->state.address = address;
    pthread_mutex_unlock(&h->lock);
}

/* Where the data ports lead: false for nowhere. */
static bool data_place(struct pci_host *h, uint64_t off, uint64_t *place)
{
    uint32_t address = get_address(h);

    *place = (uint64_t)(address & 0xffff00) << 4 | (address & 0xfc) | (off - DATA);
    return address & ADDRESS_ENABLE;
}

/*
 * Only a whole dword is the address register (PCI 3.0 3.2.2.3.2); other accesses to its ports go to whatever lies there, which is the reset
 * control register. One that runs into the data ports comes as bytes.
 */
static uint64_t ports_read(void *opaque, uint64_t off, unsigned size)
{
    struct pci_host *h = opaque;
    uint64_t place, value = 0;

    if (off >= DATA)
        return data_place(h, off, &place) ? config_read(h, place, size) : all_ones(size);
    if (off == 0 && size == 4)
        return get_address(h);
    if (off == RESET_BYTE && size == 1 && h->reset_read)
        return h->reset_read(h->reset_ctl);
    if (off + size <= DATA)
        return all_ones(size);
    for (unsigned i = 0; i < size; i++)
        value |= ports_read(h, off + i, 1) << (8 * i);
    return value;
}

static void ports_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct pci_host *h = opaque;
    uint64_t place;

    if (off >= DATA) {
        if (data_place(h, off, &place))
            config_write(h, place, size, value);
    } else if (off == 0 && size == 4) {
        set_address(h, (uint32_t)value & ADDRESS_BITS);
    } else if (off == RESET_BYTE && size == 1) {
        if (h->reset_write)
            h->reset_write(h->reset_ctl, (uint8_t)value);
    } else if (off + size > DATA) {
        for (unsigned i = 0; i < size; i++)
            ports_write(h, off + i, 1, value >> (8 * i) & 0xff);
    }
}

static const struct bus_ops ports_ops = {ports_read, ports_write};

int pci_host_init(struct pci_host *h, const struct pci_host_options *o, struct err *e)
{
    int rc;

    *h = (struct pci_host){
        .pio = o->pio,
        .mmio = o->mmio,
        .windows = o->windows,
        .config_ports = {"PCI configuration ports", PORTS, PORTS_SIZE, &ports_ops, h},
        .ecam = {"PCI configuration window", o->windows.ecam, o->windows.ecam_size, &ecam_ops, h},
        .msi = o->msi,
        .msi_opaque = o->msi_opaque,
        .trace = o->trace,
        .irqfds = o->irqfds,
        .irqfd_opaque = o->irqfd_opaque,
        .reset_read = o->reset_read,
        .reset_write = o->reset_write,
        .reset_ctl = o->reset_ctl,
    };
    for (unsigned i = 0; i < PCI_INTX_LINES; i++)
        h->intx[i] = o->intx[i];
    rc = pthread_mutex_init(&h->lock, NULL);
    if (rc)
        return err_set(e, rc, "cannot create the lock of the PCI host bridge");
    pci_device_init(&h->bridge, "PCI host bridge", &bridge_ids, NULL, NULL);
    pci_config_put(&h->bridge, PCI_INTERRUPT_PIN, 1, 0);
    rc = pci_attach_at(h, &h->bridge, 0, e);
    if (rc)
        goto destroy_lock;
    rc = bus_add(h->pio, &h->config_ports, e);
    if (rc)
        goto detach;
    rc = bus_add(h->mmio, &h->ecam, e);
    if (rc)
        goto remove_ports;
    return 0;

remove_ports:
    bus_remove(h->pio, &h->config_ports);
detach:
    pci_detach(&h->bridge);
destroy_lock:
    pthread_mutex_destroy(&h->lock);
    return rc;
}

void pci_host_fini(struct pci_host *h)
{
    bus_remove(h->mmio, &h->ecam);
    bus_remove(h->pio, &h->config_ports);
    pci_detach(&h->bridge);
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++)
        BUG_ON(h->slots[slot]);
    pthread_mutex_destroy(&h->lock);
}

static void device_reset(void *dev)
{
    struct pci_host *h = dev;

    set_address(h, 0);
    pci_device_reset(&h->bridge);
}

static int device_save(void *dev, struct state_writer *w)
{
    struct pci_host *h = dev;
    struct pci_host_state copy = {get_address(h)};
    int rc = state_save(&desc, &copy, w);

    return rc ? rc : pci_device_save(&h->bridge, w);
}

static int device_load(void *dev, struct state_reader *r, struct err *e)
{
    struct pci_host *h = dev;
    struct pci_host_state copy = {0};
    int rc = state_load(&desc, &copy, r, e);

    if (rc)
        return rc;
    if (copy.address & ~ADDRESS_BITS)
        return err_set(e, EINVAL, "the saved state of %s holds impossible values", desc.name);
    rc = pci_device_load(&h->bridge, r, e);
    if (!rc)
        set_address(h, copy.address);
    return rc;
}

const struct device_ops pci_host_device = {"pci_host", device_reset, NULL, device_save, device_load};
