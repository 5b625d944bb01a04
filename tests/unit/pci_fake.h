/* A PCI host on buses of its own with recorded lines and messages, functions to put on it, and the guest's accesses. */
#pragma once

#include "chipset_fake.h"

#include "pci/pci.h"
#include "pci/regs.h"

#define ECAM 0xe0000000ULL
#define MEM32 0xc0000000ULL
#define MEM32_SIZE MIB(16)
#define MEM64 0x4000000000ULL
#define MEM64_SIZE GIB(16)
#define IO_WINDOW 0x1000ULL
#define IO_WINDOW_SIZE 0x1000ULL

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA 0xcfc
#define RESET_PORT 0xcf9

struct message {
    uint64_t addr;
    uint32_t data;
};

/* The PCI host only hands it on. */
struct reset_ctl {
    uint8_t value;
    unsigned writes;
};

struct fake_pci {
    struct bus pio, mmio;
    struct pci_host host;
    struct fake_line lines[PCI_INTX_LINES];
    struct message message[512];
    unsigned sent;
    int taken; /* what the local APICs answer */
    struct reset_ctl reset_ctl;
};

static inline int fake_msi(void *opaque, uint64_t addr, uint32_t data)
{
    struct fake_pci *f = opaque;

    if (f->taken)
        return f->taken;
    f->message[f->sent++ % ARRAY_SIZE(f->message)] = (struct message){addr, data};
    return 0;
}

static inline uint8_t fake_reset_read(struct reset_ctl *c)
{
    return c->value;
}

static inline void fake_reset_write(struct reset_ctl *c, uint8_t value)
{
    c->value = value;
    c->writes++;
}

static inline struct pci_host_options fake_pci_options(struct fake_pci *f)
{
    struct pci_host_options o = {
        .pio = &f->pio,
        .mmio = &f->mmio,
        .windows = {ECAM, MIB(256), MEM32, MEM32_SIZE, MEM64, MEM64_SIZE, IO_WINDOW, IO_WINDOW_SIZE},
        .msi = fake_msi,
        .msi_opaque = f,
        .reset_read = fake_reset_read,
        .reset_write = fake_reset_write,
        .reset_ctl = &f->reset_ctl,
    };

    for (unsigned i = 0; i < PCI_INTX_LINES; i++)
        o.intx[i] = fake_irq(f->lines, i);
    return o;
}

static inline void fake_pci_start(struct fake_pci *f)
{
    struct pci_host_options o = fake_pci_options(f);
    struct err e;

    memset(f, 0, sizeof(*f));
    bus_init(&f->pio);
    bus_init(&f->mmio);
    assert_int_equal(pci_host_init(&f->host, &o, &e), 0);
}

/* Every device is detached before; then nothing of the host is left. */
static inline void fake_pci_stop(struct fake_pci *f)
{
    pci_host_fini(&f->host);
    assert_int_equal(f->pio.count, 0);
    assert_int_equal(f->mmio.count, 0);
    for (unsigned i = 0; i < PCI_INTX_LINES; i++) {
        assert_int_equal(f->host.asserted[i], 0);
        assert_false(f->lines[i].level);
    }
    bus_fini(&f->mmio);
    bus_fini(&f->pio);
}

/* --- the guest's accesses --- */

static inline uint64_t ecam_at(unsigned slot, unsigned off)
{
    return ECAM + ((uint64_t)slot << 15) + off;
}

static inline uint32_t config_get(struct fake_pci *f, unsigned slot, unsigned off, unsigned size)
{
    return (uint32_t)bus_read(&f->mmio, ecam_at(slot, off), size);
}

static inline void config_put(struct fake_pci *f, unsigned slot, unsigned off, unsigned size, uint32_t value)
{
    bus_write(&f->mmio, ecam_at(slot, off), size, value);
}

/* --- a function whose BARs answer with a tag of their own, and remember what was written --- */

struct fake_bar {
    uint64_t tag;
    uint64_t off, value; /* of the last write */
    unsigned writes;
    void (*on_write)(struct fake_bar *);
    void *opaque;
};

struct fake_function {
    struct pci_device dev;
    struct fake_bar bar[PCI_BARS];
};

static inline uint64_t fake_bar_read(void *opaque, uint64_t off, unsigned size)
{
    (void)off, (void)size;
    return ((struct fake_bar *)opaque)->tag;
}

static inline void fake_bar_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct fake_bar *bar = opaque;

    (void)size;
    bar->off = off;
    bar->value = value;
    bar->writes++;
    if (bar->on_write)
        bar->on_write(bar);
}

static const struct bus_ops fake_bar_ops = {fake_bar_read, fake_bar_write};
static const struct pci_ids fake_ids = {0x1af4, 0x1042, 0x1234, 0x5678, 0x018000, 1};

static inline void fake_function_init(struct fake_function *fn, const struct pci_device_ops *ops, void *opaque)
{
    memset(fn, 0, sizeof(*fn));
    pci_device_init(&fn->dev, "a function", &fake_ids, ops, opaque);
}

static inline void fake_add_bar(struct fake_function *fn, unsigned index, enum pci_bar_kind kind, uint64_t size, uint8_t tag)
{
    fn->bar[index].tag = tag;
    pci_add_bar(&fn->dev, index, kind, size, &fake_bar_ops, &fn->bar[index]);
}

static inline void fake_attach(struct fake_pci *f, struct fake_function *fn, unsigned slot)
{
    struct err e = {{0}};

    if (pci_attach(&f->host, &fn->dev, slot, &e))
        fail_msg("%s", e.text);
}

static inline uint64_t bar_get(struct fake_pci *f, unsigned slot, unsigned index)
{
    uint32_t low = config_get(f, slot, PCI_BAR(index), 4);

    if (low & PCI_BAR_IO_BIT)
        return low & ~PCI_BAR_IO_FLAGS;
    return (low & ~PCI_BAR_MEM_FLAGS) | (low & PCI_BAR_64BIT ? (uint64_t)config_get(f, slot, PCI_BAR(index + 1), 4) << 32 : 0);
}

/* --- device_ops of a function alone --- */

static inline void function_reset(void *dev)
{
    pci_device_reset(dev);
}

static inline int function_save(void *dev, struct state_writer *w)
{
    return pci_device_save(dev, w);
}

static inline int function_load(void *dev, struct state_reader *r, struct err *e)
{
    return pci_device_load(dev, r, e);
}

static const struct device_ops function_ops __attribute__((unused)) = {"function", function_reset, NULL, function_save, function_load};
