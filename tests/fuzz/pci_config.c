/* Fuzzes PCI: the input is a guest's accesses to configuration ports, ECAM, BARs and MSI-X tables of a few functions, and devices' events. */
#include <stdlib.h>
#include <string.h>

#include "base/bug.h"
#include "base/log.h"
#include "pci/msix.h"
#include "pci/regs.h"

#define FUNCTIONS 4
#define ECAM 0xe0000000ULL
#define MEM32 0xc0000000ULL
#define MEM64 0x4000000000ULL
#define WINDOW MIB(1)
#define IO_WINDOW 0x1000ULL
#define IO_WINDOW_SIZE 0x1000ULL
#define TABLE_BYTES 0x800
#define STEP_BYTES 8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct function {
    struct pci_device dev;
    struct msix msix;
    uint8_t index;
};

struct machine {
    struct bus pio, mmio;
    struct pci_host host;
    struct function fn[FUNCTIONS];
    bool line[PCI_INTX_LINES];
    unsigned resets;
};

void log_guest(struct log_limit *limit, const char *fmt, ...)
{
    (void)limit, (void)fmt;
}

static int on_msi(void *opaque, uint64_t addr, uint32_t message)
{
    (void)opaque;
    BUG_ON(addr & 3);
    return message % 7 ? 0 : -1;
}

static void on_line(void *opaque, unsigned line, bool level)
{
    struct machine *m = opaque;

    BUG_ON(m->line[line] == level); /* only changes are told */
    m->line[line] = level;
}

static uint8_t on_reset_read(struct reset_ctl *c)
{
    return (uint8_t)((struct machine *)c)->resets;
}

static void on_reset_write(struct reset_ctl *c, uint8_t value)
{
    (void)value;
    ((struct machine *)c)->resets++;
}

/* BAR 0 of every function: the table, the PBA, and beyond them a register that says whose BAR it is. */
static uint64_t bar_read(void *opaque, uint64_t off, unsigned size)
{
    struct function *fn = opaque;

    if (off < TABLE_BYTES)
        return msix_table_read(&fn->msix, off, size);
    if (off < 2 * TABLE_BYTES)
        return msix_pba_read(&fn->msix, off - TABLE_BYTES, size);
    return fn->index;
}

static void bar_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct function *fn = opaque;

    if (off < TABLE_BYTES)
        msix_table_write(&fn->msix, off, size, value);
    else if (off >= 2 * TABLE_BYTES) /* a function may be told to move itself */
        bus_write(fn->dev.host->mmio, ECAM + ((uint64_t)fn->dev.slot << 15) + PCI_BAR(0), 4, value);
}

static const struct bus_ops bar_ops = {bar_read, bar_write};

static void config_written(void *opaque, unsigned off, unsigned size)
{
    struct function *fn = opaque;

    msix_config_written(&fn->msix, off, size);
}

static const struct pci_device_ops device_ops = {.config_written = config_written};

static void start(struct machine *m)
{
    static const unsigned slots[FUNCTIONS] = {1, 2, 5, 31};
    static const struct pci_ids ids = {.vendor = 0x1af4, .device = 0x1041, .class_code = 0x020000};
    struct pci_host_options o = {
        .pio = &m->pio,
        .mmio = &m->mmio,
        .windows = {ECAM, MIB(256), MEM32, WINDOW, MEM64, WINDOW, IO_WINDOW, IO_WINDOW_SIZE},
        .msi = on_msi,
        .reset_read = on_reset_read,
        .reset_write = on_reset_write,
        .reset_ctl = (struct reset_ctl *)m,
    };

    memset(m, 0, sizeof(*m));
    bus_init(&m->pio);
    bus_init(&m->mmio);
    for (unsigned i = 0; i < PCI_INTX_LINES; i++)
        o.intx[i] = (struct irq_line){on_line, m, i};
    BUG_ON(pci_host_init(&m->host, &o, NULL));
    for (unsigned i = 0; i < FUNCTIONS; i++) {
        struct function *fn = &m->fn[i];

        fn->index = (uint8_t)i;
        pci_device_init(&fn->dev, "a function", &ids, &device_ops, fn);
        pci_add_bar(&fn->dev, 0, i % 2 ? PCI_BAR_MEM64 : PCI_BAR_MEM32, KIB(8), &bar_ops, fn);
        pci_add_bar(&fn->dev, 2, PCI_BAR_IO, 32, &bar_ops, fn);
        pci_add_bar(&fn->dev, 3, PCI_BAR_MEM64, KIB(64), &bar_ops, fn);
        msix_init(&fn->msix, &fn->dev, 1 + 40 * i, 0, 0, TABLE_BYTES);
        BUG_ON(pci_attach(&m->host, &fn->dev, slots[i], NULL));
    }
}

static void stop(struct machine *m)
{
    for (unsigned i = 0; i < FUNCTIONS; i++) {
        pci_detach(&m->fn[i].dev);
        msix_fini(&m->fn[i].msix);
    }
    for (unsigned i = 0; i < PCI_INTX_LINES; i++)
        BUG_ON(m->line[i]);
    pci_host_fini(&m->host);
    BUG_ON(m->pio.count || m->mmio.count);
    bus_fini(&m->mmio);
    bus_fini(&m->pio);
}

static bool within(uint64_t base, uint64_t size, uint64_t window, uint64_t window_size)
{
    return base >= window && base < window + window_size && window + window_size - base >= size;
}

static bool in_windows(const struct pci_bar *bar, uint64_t base)
{
    if (bar->kind == PCI_BAR_IO)
        return within(base, bar->size, IO_WINDOW, IO_WINDOW_SIZE);
    return within(base, bar->size, MEM32, WINDOW) || within(base, bar->size, MEM64, WINDOW);
}

static uint64_t address(const struct pci_device *dev, unsigned index)
{
    uint64_t base = pci_config_get(dev, PCI_BAR(index), 4);

    if (dev->bars[index].kind == PCI_BAR_MEM64)
        base |= (uint64_t)pci_config_get(dev, PCI_BAR(index + 1), 4) << 32;
    return base & ~(dev->bars[index].size - 1);
}

static const struct bus_range *range_at(const struct bus *bus, uint64_t base, uint64_t size)
{
    for (unsigned i = 0; i < bus->count; i++)
        if (base < bus->ranges[i]->base + bus->ranges[i]->size && bus->ranges[i]->base < base + size)
            return bus->ranges[i];
    return NULL;
}

/* It is on its bus, or does not belong there, or another has its place. */
static void check_bar(struct machine *m, const struct pci_device *dev, unsigned index)
{
    const struct pci_bar *bar = &dev->bars[index];
    struct bus *bus = bar->kind == PCI_BAR_IO ? &m->pio : &m->mmio;
    uint32_t decode = bar->kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
    uint64_t base = address(dev, index);
    bool wanted = (pci_config_get(dev, PCI_COMMAND, 2) & decode) && in_windows(bar, base);
    const struct bus_range *there = wanted ? range_at(bus, base, bar->size) : NULL;

    if (bar->mapped)
        BUG_ON(!wanted || there != &bar->range || bar->range.base != base || bar->range.size != bar->size);
    else
        BUG_ON(wanted && (!there || there == &bar->range));
}

static void check_function(struct machine *m, struct function *fn)
{
    uint32_t command = pci_config_get(&fn->dev, PCI_COMMAND, 2);
    uint32_t status = pci_config_get(&fn->dev, PCI_STATUS, 2);

    for (unsigned i = 0; i < PCI_BARS; i++)
        if (fn->dev.bars[i].kind != PCI_BAR_NONE)
            check_bar(m, &fn->dev, i);
    BUG_ON(!!(status & PCI_STATUS_INTERRUPT) != fn->dev.state.intx);
    BUG_ON(fn->dev.asserted != (fn->dev.state.intx && !(command & PCI_COMMAND_INTX_DISABLE)));
}

/* Nothing has changed but what the guest may write. */
static void check_bytes(const struct pci_device *dev)
{
    for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++)
        if (i != PCI_STATUS)
            BUG_ON((dev->state.config[i] ^ dev->reset_config[i]) & ~dev->writable[i]);
}

/* The lines are what the functions say, and every range on the buses is one of the host's or of a BAR. */
static void check(struct machine *m)
{
    unsigned holders[PCI_INTX_LINES] = {0}, mapped = 0;

    for (unsigned i = 0; i < FUNCTIONS; i++) {
        check_function(m, &m->fn[i]);
        holders[m->fn[i].dev.slot % PCI_INTX_LINES] += m->fn[i].dev.asserted;
        for (unsigned n = 0; n < PCI_BARS; n++)
            mapped += m->fn[i].dev.bars[n].mapped;
    }
    for (unsigned i = 0; i < PCI_INTX_LINES; i++)
        BUG_ON(holders[i] != m->host.asserted[i] || (holders[i] > 0) != m->line[i]);
    BUG_ON(m->pio.count + m->mmio.count != mapped + 2);
}

/* What was saved of a function is loaded, whether the input changed it or not; what is refused changes nothing. */
static void save_and_load(struct function *fn, uint32_t at, uint8_t value, bool change)
{
    struct state_writer w;
    struct state_reader r;
    struct err e;
    size_t config_len;

    state_writer_init(&w);
    BUG_ON(pci_device_save(&fn->dev, &w));
    config_len = w.len;
    BUG_ON(msix_save(&fn->msix, &w));
    if (change)
        w.data[at % w.len] ^= value;
    state_reader_init(&r, w.data, config_len);
    BUG_ON(pci_device_load(&fn->dev, &r, &e) && !change);
    state_reader_init(&r, w.data + config_len, w.len - config_len);
    BUG_ON(msix_load(&fn->msix, &r, &e) && !change);
    state_writer_fini(&w);
}

static void access(struct bus *bus, uint64_t addr, unsigned size, bool write, uint32_t value)
{
    if (write)
        bus_write(bus, addr, size, value * 0x100000001ULL);
    else
        BUG_ON(bus_read(bus, addr, size) & ~(UINT64_MAX >> (64 - 8 * size)));
}

/* One step: kind, size and direction; a place; a value. */
static void step(struct machine *m, const uint8_t *s)
{
    struct function *fn = &m->fn[s[1] % FUNCTIONS];
    unsigned size = 1U << (s[0] >> 4 & 3);
    bool write = s[0] & 0x80;
    uint32_t place = s[2] | (uint32_t)s[3] << 8, value;

    memcpy(&value, s + 4, sizeof(value));
    switch (s[0] & 7) {
    case 0: access(&m->pio, 0xcf8 + place % 10, size, write, value); break;
    case 1: access(&m->mmio, ECAM + ((uint64_t)fn->dev.slot << 15) + place % 0x100, size, write, value); break;
    case 2: access(&m->mmio, ECAM + ((uint64_t)s[1] << 15) + place, size, write, value); break;
    case 3: access(&m->mmio, fn->dev.bars[place & 0x8000 ? 0 : 3].range.base + place % 0x2000, size, write, value); break;
    case 4: access(&m->pio, IO_WINDOW + place % (IO_WINDOW_SIZE + 0x100), size, write, value); break;
    case 5: pci_set_intx(&fn->dev, write); break;
    case 6: msix_notify(&fn->msix, place); break;
    default:
        if (place % 4 == 0)
            pci_device_reset(&fn->dev);
        else
            save_and_load(fn, place, (uint8_t)value, write);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct machine machine;

    start(&machine);
    for (; size >= STEP_BYTES; data += STEP_BYTES, size -= STEP_BYTES) {
        step(&machine, data);
        check(&machine);
    }
    for (unsigned i = 0; i < FUNCTIONS; i++)
        check_bytes(&machine.fn[i].dev);
    stop(&machine);
    return 0;
}
