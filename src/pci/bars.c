/* Base address registers: the addresses that firmware would give, and which BARs are on the buses. */
#include "pci/function.h"

#include <errno.h>

#include "base/bug.h"
#include "pci/regs.h"

/*
 * Theory of operation. What is on the buses is a pure function of the configuration spaces of all functions: a BAR is there when its
 * decoding is on, it lies in a window of its kind, and no BAR of a lower slot (or of the same function with a lower number) overlaps it.
 * So it does not matter in which order a guest moves two BARs past each other, and a loaded state needs nothing beyond configuration space.
 * Sizing is what hardware does: with all ones written a BAR is for a moment at an address that no window has.
 */

struct placement {
    struct pci_bar *bar;
    uint64_t base;
};

static bool is_io(const struct pci_bar *bar)
{
    return bar->kind == PCI_BAR_IO;
}

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a < b + b_size && b < a + a_size; /* neither wraps: both are in windows */
}

static bool in_window(uint64_t window, uint64_t window_size, uint64_t base, uint64_t size)
{
    return size <= window_size && base >= window && base - window <= window_size - size;
}

static bool is_allowed(const struct pci_windows *w, const struct pci_bar *bar, uint64_t base)
{
    if (is_io(bar))
        return in_window(w->io, w->io_size, base, bar->size);
    return in_window(w->mem32, w->mem32_size, base, bar->size) || in_window(w->mem64, w->mem64_size, base, bar->size);
}

static uint64_t address(const struct pci_device *dev, unsigned index)
{
    uint64_t base = pci_bytes_get(dev, PCI_BAR(index), 4);

    if (dev->bars[index].kind == PCI_BAR_IO)
        return base & ~(uint64_t)PCI_BAR_IO_FLAGS;
    if (dev->bars[index].kind == PCI_BAR_MEM64)
        base |= (uint64_t)pci_bytes_get(dev, PCI_BAR(index + 1), 4) << 32;
    return base & ~(uint64_t)PCI_BAR_MEM_FLAGS;
}

static struct bus *bus_of(const struct pci_host *h, const struct pci_bar *bar)
{
    return is_io(bar) ? h->pio : h->mmio;
}

static bool is_decoded(const struct pci_device *dev, const struct pci_bar *bar)
{
    return pci_bytes_get(dev, PCI_COMMAND, 2) & (is_io(bar) ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY);
}

static bool is_free(const struct placement *placed, unsigned n, const struct pci_bar *bar, uint64_t base)
{
    for (unsigned i = 0; i < n; i++)
        if (is_io(placed[i].bar) == is_io(bar) && overlap(placed[i].base, placed[i].bar->size, base, bar->size))
            return false;
    return true;
}

static void unmap(struct pci_host *h, struct pci_bar *bar)
{
    if (bar->mapped) {
        bus_doorbells(bus_of(h, bar), bar->range.base, bar->doorbells, bar->doorbell_count, false);
        bus_remove(bus_of(h, bar), &bar->range);
    }
    bar->mapped = false;
}

void pci_bars_update(struct pci_host *h)
{
    struct placement placed[PCI_SLOTS * PCI_BARS];
    unsigned n = 0;

    for (unsigned i = 0; i < PCI_SLOTS * PCI_BARS; i++) {
        struct pci_device *dev = h->slots[i / PCI_BARS];
        struct pci_bar *bar = dev ? &dev->bars[i % PCI_BARS] : NULL;
        uint64_t base;

        if (!bar || bar->kind == PCI_BAR_NONE)
            continue;
        base = address(dev, i % PCI_BARS);
        if (!is_decoded(dev, bar) || !is_allowed(&h->windows, bar, base) || !is_free(placed, n, bar, base)) {
            unmap(h, bar);
            continue;
        }
        if (bar->range.base != base)
            unmap(h, bar);
        placed[n++] = (struct placement){bar, base};
    }
    for (unsigned i = 0; i < n; i++) {
        struct pci_bar *bar = placed[i].bar;

        if (bar->mapped)
            continue;
        bar->range.base = placed[i].base; /* only while off the bus, which reads it under its own lock */
        bar->mapped = bus_add(bus_of(h, bar), &bar->range, NULL) == 0;
        if (bar->mapped)
            bus_doorbells(bus_of(h, bar), bar->range.base, bar->doorbells, bar->doorbell_count, true);
    }
}

/* What firmware keeps for a BAR: for memory whole pages, so that a guest can map each for itself. */
static uint64_t reserved(const struct pci_bar *bar)
{
    return is_io(bar) ? bar->size : MAX(bar->size, PAGE_SIZE);
}

/* A BAR whose home overlaps. One that has none yet, as bar itself, has 0 there, which is no home. */
static const struct pci_bar *neighbour(const struct pci_host *h, const struct pci_bar *bar, uint64_t base)
{
    for (unsigned i = 0; i < PCI_SLOTS * PCI_BARS; i++) {
        const struct pci_device *dev = h->slots[i / PCI_BARS];
        const struct pci_bar *other = dev ? &dev->bars[i % PCI_BARS] : NULL;

        if (other && other->home && is_io(other) == is_io(bar) && overlap(base, reserved(bar), other->home, reserved(other)))
            return other;
    }
    return NULL;
}

static bool find_home(const struct pci_host *h, struct pci_bar *bar, uint64_t window, uint64_t window_size)
{
    uint64_t size = reserved(bar), base = ALIGN_UP(window, size);

    while (in_window(window, window_size, base, size)) {
        const struct pci_bar *other = neighbour(h, bar, base);

        if (!other) {
            bar->home = base;
            return base != 0;
        }
        base = ALIGN_UP(other->home + reserved(other), size);
    }
    return false;
}

static bool assign(const struct pci_host *h, struct pci_bar *bar)
{
    const struct pci_windows *w = &h->windows;

    if (is_io(bar))
        return find_home(h, bar, w->io, w->io_size);
    return find_home(h, bar, w->mem32, w->mem32_size) || (bar->kind == PCI_BAR_MEM64 && find_home(h, bar, w->mem64, w->mem64_size));
}

int pci_bars_assign(struct pci_device *dev, struct err *e)
{
    for (unsigned i = 0; i < PCI_BARS; i++)
        dev->bars[i].home = 0;
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar *bar = &dev->bars[i];
        uint32_t flags = pci_bytes_get(dev, PCI_BAR(i), 4) & (is_io(bar) ? PCI_BAR_IO_FLAGS : PCI_BAR_MEM_FLAGS);

        if (bar->kind == PCI_BAR_NONE)
            continue;
        if (!assign(dev->host, bar))
            return err_set(e, ENOSPC, "%s: no room for its BAR %u of %llu bytes among those of the other PCI devices; give fewer devices",
                           dev->name, i, (unsigned long long)bar->size);
        pci_bytes_put(dev, PCI_BAR(i), 4, (uint32_t)bar->home | flags);
        if (bar->kind == PCI_BAR_MEM64)
            pci_bytes_put(dev, PCI_BAR(i + 1), 4, (uint32_t)(bar->home >> 32));
    }
    return 0;
}
