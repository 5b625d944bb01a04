/* A PCI function: configuration space under its mask, capabilities, BARs that move, INTx, reset, saved state. */
#include "pci_fake.h"

#include <pthread.h>

#define SLOT 3
#define DECODING (PCI_COMMAND_IO | PCI_COMMAND_MEMORY)

/* BAR 0: 32-bit memory, 1: ports, 2 and 3: 64-bit memory, 4: 32-bit memory smaller than a page */
#define BAR_MEM32 0
#define BAR_IO 1
#define BAR_MEM64 2
#define BAR_SMALL 4

struct fixture {
    struct fake_pci pci, pci2;
    struct fake_function fn, other;
};

static void make(struct fake_function *fn, uint8_t tag)
{
    fake_function_init(fn, NULL, NULL);
    fake_add_bar(fn, BAR_MEM32, PCI_BAR_MEM32, KIB(64), tag);
    fake_add_bar(fn, BAR_IO, PCI_BAR_IO, 64, tag + 1);
    fake_add_bar(fn, BAR_MEM64, PCI_BAR_MEM64, KIB(16), tag + 2);
    fake_add_bar(fn, BAR_SMALL, PCI_BAR_MEM32, 16, tag + 3);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    fake_start(0);
    fake_pci_start(&f->pci);
    fake_pci_start(&f->pci2);
    make(&f->fn, 0x10);
    make(&f->other, 0x20);
    fake_attach(&f->pci, &f->fn, SLOT);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    pci_detach(&f->fn.dev);
    pci_detach(&f->other.dev);
    fake_pci_stop(&f->pci2);
    fake_pci_stop(&f->pci);
    free(f);
    return 0;
}

static uint64_t mem(struct fixture *f, uint64_t addr)
{
    return bus_read(&f->pci.mmio, addr, 1);
}

static uint64_t port(struct fixture *f, uint64_t addr)
{
    return bus_read(&f->pci.pio, addr, 1);
}

static void move(struct fixture *f, unsigned slot, unsigned index, uint32_t addr)
{
    config_put(&f->pci, slot, PCI_BAR(index), 4, addr);
}

/* --- configuration space --- */

static void the_header_has_identity_and_class(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(config_get(&f->pci, SLOT, PCI_VENDOR_ID, 2), 0x1af4);
    assert_int_equal(config_get(&f->pci, SLOT, PCI_DEVICE_ID, 2), 0x1042);
    assert_int_equal(config_get(&f->pci, SLOT, PCI_REVISION, 4), 0x01800001);
    assert_int_equal(config_get(&f->pci, SLOT, PCI_SUBSYSTEM_VENDOR_ID, 4), 0x56781234);
    assert_int_equal(config_get(&f->pci, SLOT, 0x0e, 1), 0); /* header type 0, one function */
    assert_int_equal(config_get(&f->pci, SLOT, PCI_INTERRUPT_PIN, 1), 1);
    assert_int_equal(config_get(&f->pci, SLOT, PCI_INTERRUPT_LINE, 1), 0xff);
    assert_int_equal(config_get(&f->pci, SLOT, 0x30, 4), 0); /* no expansion ROM */
}

/* What a guest may write of a header with the BARs of make(). */
static uint32_t header_mask(unsigned off)
{
    switch (off) {
    case PCI_COMMAND: return 0x0547; /* neither special cycles nor fast back-to-back; status is read-only */
    case PCI_CACHE_LINE_SIZE: return 0xff;
    case PCI_BAR(BAR_MEM32): return 0xffff0000;
    case PCI_BAR(BAR_IO): return 0xffffffc0;
    case PCI_BAR(BAR_MEM64): return 0xffffc000;
    case PCI_BAR(BAR_MEM64 + 1): return 0xffffffff;
    case PCI_BAR(BAR_SMALL): return 0xfffffff0;
    case PCI_INTERRUPT_LINE: return 0xff;
    default: return 0;
    }
}

static void only_what_is_writable_changes(void **state)
{
    struct fixture *f = *state;

    for (unsigned off = 0; off < PCI_CONFIG_BYTES; off += 4) {
        uint32_t before = config_get(&f->pci, SLOT, off, 4), mask = header_mask(off);

        config_put(&f->pci, SLOT, off, 4, 0xffffffff);
        assert_int_equal(config_get(&f->pci, SLOT, off, 4), before | mask);
        config_put(&f->pci, SLOT, off, 4, 0);
        assert_int_equal(config_get(&f->pci, SLOT, off, 4), before & ~mask);
        config_put(&f->pci, SLOT, off, 4, before);
    }
}

static void a_device_says_what_more_is_writable(void **state)
{
    static const uint8_t mask[] = {0x0f, 0x00, 0xff};
    struct fixture *f = *state;

    pci_set_writable(&f->other.dev, 0x80, mask, sizeof(mask));
    fake_attach(&f->pci, &f->other, 7);
    config_put(&f->pci, 7, 0x80, 4, 0xffffffff);
    assert_int_equal(config_get(&f->pci, 7, 0x80, 4), 0x00ff000f);
    config_put(&f->pci, 7, 0x82, 1, 0x12);
    assert_int_equal(config_get(&f->pci, 7, 0x80, 4), 0x0012000f);
}

static void a_function_without_bars_decodes_nothing(void **state)
{
    struct fixture *f = *state;
    struct fake_function bare;

    fake_function_init(&bare, NULL, NULL);
    fake_attach(&f->pci, &bare, 9);
    config_put(&f->pci, 9, PCI_COMMAND, 2, 0xffff);
    assert_int_equal(config_get(&f->pci, 9, PCI_COMMAND, 2), 0x0544);
    pci_detach(&bare.dev);
}

static void capabilities_are_a_list_of_aligned_entries(void **state)
{
    static const uint8_t body[] = {1, 2, 3};
    struct fixture *f = *state;
    unsigned first, second;

    assert_int_equal(config_get(&f->pci, SLOT, PCI_STATUS, 2), 0);
    assert_int_equal(config_get(&f->pci, SLOT, PCI_CAPABILITIES, 1), 0);
    first = pci_add_capability(&f->other.dev, 0x09, body, 3);
    second = pci_add_capability(&f->other.dev, 0x05, body, 2);
    fake_attach(&f->pci, &f->other, 7);
    assert_int_equal(config_get(&f->pci, 7, PCI_STATUS, 2), PCI_STATUS_CAPABILITIES);
    assert_int_equal(config_get(&f->pci, 7, PCI_CAPABILITIES, 1), first);
    assert_in_range(first, 0x40, 0xff);
    assert_int_equal(first % 4, 0);
    assert_int_equal(second % 4, 0);
    assert_true(second >= first + 5);
    assert_int_equal(config_get(&f->pci, 7, first, 4), 0x02010009 | second << 8);
    assert_int_equal(config_get(&f->pci, 7, first + 4, 1), 3);
    assert_int_equal(config_get(&f->pci, 7, second, 4), 0x02010005);
}

struct hooked {
    struct fake_function fn;
    unsigned reads, writes, off, size;
};

static void on_config_read(void *opaque, unsigned off, unsigned size)
{
    struct hooked *h = opaque;

    if (off == 0x84) /* a register that counts its reads */
        pci_config_put(&h->fn.dev, off, size, ++h->reads);
}

static void on_config_written(void *opaque, unsigned off, unsigned size)
{
    struct hooked *h = opaque;

    h->writes++;
    h->off = off;
    h->size = size;
    pci_set_intx(&h->fn.dev, pci_config_get(&h->fn.dev, 0x84, 1) == 0x55);
}

static void a_device_sees_accesses_and_may_use_its_function_then(void **state)
{
    static const struct pci_device_ops ops = {on_config_read, on_config_written};
    static const uint8_t mask[4] = {0xff};
    struct fixture *f = *state;
    struct hooked h = {0};

    fake_function_init(&h.fn, &ops, &h);
    pci_set_writable(&h.fn.dev, 0x84, mask, sizeof(mask));
    fake_attach(&f->pci, &h.fn, 9);
    assert_int_equal(config_get(&f->pci, 9, 0x84, 4), 1);
    assert_int_equal(config_get(&f->pci, 9, 0x84, 4), 2);
    config_put(&f->pci, 9, 0x84, 2, 0x1155);
    assert_int_equal(h.writes, 1);
    assert_int_equal(h.off, 0x84);
    assert_int_equal(h.size, 2);
    assert_true(f->pci.lines[9 % 4].level);
    pci_detach(&h.fn.dev);
    assert_false(f->pci.lines[9 % 4].level);
}

/* --- BARs --- */

static void a_bar_tells_kind_and_size(void **state)
{
    struct fixture *f = *state;
    static const struct {
        unsigned index;
        uint32_t sized;
    } bars[] = {{BAR_MEM32, 0xffff0000},     {BAR_IO, 0xffffffc1},    {BAR_MEM64, 0xffffc004},
                {BAR_MEM64 + 1, 0xffffffff}, {BAR_SMALL, 0xfffffff0}, {5, 0}};

    for (unsigned i = 0; i < ARRAY_SIZE(bars); i++) {
        uint32_t before = config_get(&f->pci, SLOT, PCI_BAR(bars[i].index), 4);

        move(f, SLOT, bars[i].index, 0xffffffff);
        assert_int_equal(config_get(&f->pci, SLOT, PCI_BAR(bars[i].index), 4), bars[i].sized);
        move(f, SLOT, bars[i].index, before);
        assert_int_equal(config_get(&f->pci, SLOT, PCI_BAR(bars[i].index), 4), before);
    }
    assert_int_equal(mem(f, bar_get(&f->pci, SLOT, BAR_MEM32)), 0x10);
    assert_int_equal(mem(f, bar_get(&f->pci, SLOT, BAR_MEM64)), 0x12);
}

static void a_large_64_bit_bar_has_its_size_in_both_halves(void **state)
{
    struct fixture *f = *state;
    struct fake_function large;

    fake_function_init(&large, NULL, NULL);
    fake_add_bar(&large, 4, PCI_BAR_MEM64, GIB(8), 0x77);
    fake_attach(&f->pci, &large, 9);
    assert_int_equal(bar_get(&f->pci, 9, 4), MEM64);
    assert_int_equal(mem(f, MEM64 + GIB(8) - 1), 0x77);
    move(f, 9, 4, 0xffffffff);
    move(f, 9, 5, 0xffffffff);
    assert_int_equal(config_get(&f->pci, 9, PCI_BAR(4), 4), PCI_BAR_64BIT);
    assert_int_equal(config_get(&f->pci, 9, PCI_BAR(5), 4), 0xfffffffe);
    pci_detach(&large.dev);
}

static void firmware_has_given_addresses_and_turned_decoding_on(void **state)
{
    struct fixture *f = *state;
    uint64_t page[2 * 3], addr;

    fake_attach(&f->pci, &f->other, 1);
    for (unsigned i = 0; i < ARRAY_SIZE(page); i++) {
        static const unsigned index[] = {BAR_MEM32, BAR_MEM64, BAR_SMALL};
        struct fake_function *fn = i / 3 ? &f->other : &f->fn;

        addr = bar_get(&f->pci, fn->dev.slot, index[i % 3]);
        assert_in_range(addr, MEM32, MEM32 + MEM32_SIZE - 1);
        assert_int_equal(addr % fn->dev.bars[index[i % 3]].size, 0);
        assert_int_equal(mem(f, addr), fn->bar[index[i % 3]].tag);
        page[i] = addr >> PAGE_SHIFT;
        for (unsigned n = 0; n < i; n++)
            assert_true(page[n] != page[i]);
    }
    addr = bar_get(&f->pci, 1, BAR_IO);
    assert_in_range(addr, IO_WINDOW, IO_WINDOW + IO_WINDOW_SIZE - 1);
    assert_true(addr != bar_get(&f->pci, SLOT, BAR_IO));
    assert_int_equal(port(f, addr), 0x21);
    assert_int_equal(config_get(&f->pci, SLOT, PCI_COMMAND, 2), DECODING); /* no bus master */
}

static void a_64_bit_bar_lies_above_where_there_is_no_room_below(void **state)
{
    struct fixture *f = *state;
    struct fake_function large;

    fake_function_init(&large, NULL, NULL);
    fake_add_bar(&large, 0, PCI_BAR_MEM64, MEM32_SIZE, 0x77);
    fake_attach(&f->pci, &large, 0);
    assert_int_equal(bar_get(&f->pci, large.dev.slot, 0), MEM64);
    assert_int_equal(mem(f, MEM64), 0x77);
    pci_detach(&large.dev);
}

static void bars_without_room_are_refused_and_leave_nothing(void **state)
{
    struct fixture *f = *state;
    struct fake_function large;
    unsigned ranges = f->pci.mmio.count;
    struct err e;

    fake_function_init(&large, NULL, NULL);
    fake_add_bar(&large, 0, PCI_BAR_MEM32, 4096, 0x70);
    fake_add_bar(&large, 1, PCI_BAR_MEM32, MEM32_SIZE, 0x77);
    assert_int_equal(pci_attach(&f->pci.host, &large.dev, 9, &e), -ENOSPC);
    assert_non_null(strstr(e.text, "BAR 1 of 16777216 bytes"));
    assert_int_equal(f->pci.mmio.count, ranges);
    assert_int_equal(config_get(&f->pci, 9, PCI_VENDOR_ID, 4), 0xffffffff);
    fake_attach(&f->pci, &f->other, 9); /* the slot is free */
    pci_detach(&large.dev);             /* never attached: nothing happens */
}

static void the_windows_fill_to_the_last_byte(void **state)
{
    struct fixture *f = *state;
    struct fake_function half[3];
    struct err e;

    pci_detach(&f->fn.dev);
    for (unsigned i = 0; i < 3; i++) {
        fake_function_init(&half[i], NULL, NULL);
        fake_add_bar(&half[i], 0, PCI_BAR_MEM32, MEM32_SIZE / 2, 0x70);
    }
    fake_attach(&f->pci, &half[0], 0);
    fake_attach(&f->pci, &half[1], 0);
    assert_int_equal(bar_get(&f->pci, 1, 0), MEM32);
    assert_int_equal(bar_get(&f->pci, 2, 0), MEM32 + MEM32_SIZE / 2);
    assert_int_equal(pci_attach(&f->pci.host, &half[2].dev, 0, &e), -ENOSPC);
    pci_detach(&half[0].dev); /* makes room again */
    fake_attach(&f->pci, &half[2], 0);
    assert_int_equal(bar_get(&f->pci, 1, 0), MEM32);
    pci_detach(&half[1].dev);
    pci_detach(&half[2].dev);
}

static void a_moved_bar_answers_at_its_new_address_alone(void **state)
{
    struct fixture *f = *state;
    uint64_t old = bar_get(&f->pci, SLOT, BAR_MEM32), old_port = bar_get(&f->pci, SLOT, BAR_IO);

    move(f, SLOT, BAR_MEM32, MEM32 + MIB(8));
    assert_int_equal(mem(f, old), 0xff);
    assert_int_equal(mem(f, MEM32 + MIB(8)), 0x10);
    assert_int_equal(mem(f, MEM32 + MIB(8) + KIB(64) - 1), 0x10);
    assert_int_equal(mem(f, MEM32 + MIB(8) + KIB(64)), 0xff);
    assert_int_equal(mem(f, MEM32 + MIB(8) - 1), 0xff);
    bus_write(&f->pci.mmio, MEM32 + MIB(8) + 0x1234, 4, 0xabcd);
    assert_int_equal(f->fn.bar[BAR_MEM32].off, 0x1234);
    assert_int_equal(f->fn.bar[BAR_MEM32].value, 0xabcd);
    move(f, SLOT, BAR_IO, 0x1fc0);
    assert_int_equal(port(f, old_port), 0xff);
    assert_int_equal(port(f, 0x1fc0), 0x11);
    assert_int_equal(port(f, 0x1fff), 0x11);
}

static void a_64_bit_bar_moves_above_4_gib_and_back(void **state)
{
    struct fixture *f = *state;
    uint64_t old = bar_get(&f->pci, SLOT, BAR_MEM64);

    move(f, SLOT, BAR_MEM64, 0x8000);
    assert_int_equal(mem(f, old), 0xff);
    move(f, SLOT, BAR_MEM64 + 1, MEM64 >> 32);
    assert_int_equal(mem(f, MEM64 + 0x8000), 0x12);
    assert_int_equal(mem(f, MEM64 + 0xbfff), 0x12);
    assert_int_equal(mem(f, MEM64 + 0xc000), 0xff);
    move(f, SLOT, BAR_MEM64 + 1, 0);
    assert_int_equal(mem(f, MEM64 + 0x8000), 0xff);
    move(f, SLOT, BAR_MEM64, (uint32_t)old);
    assert_int_equal(mem(f, old), 0x12);
}

static void every_one_of_six_bars_moves(void **state)
{
    struct fixture *f = *state;
    struct fake_function six;

    fake_function_init(&six, NULL, NULL);
    for (unsigned i = 0; i < PCI_BARS; i++)
        fake_add_bar(&six, i, PCI_BAR_MEM32, 4096, (uint8_t)(0x60 + i));
    fake_attach(&f->pci, &six, 9);
    for (unsigned i = 0; i < PCI_BARS; i++) {
        uint32_t to = (uint32_t)(MEM32 + MIB(10 + i % 3) + KIB(64) * i);

        move(f, 9, i, to);
        assert_int_equal(mem(f, to), 0x60 + i);
    }
    pci_detach(&six.dev);
}

static void a_bar_moves_by_bytes_too(void **state)
{
    struct fixture *f = *state;

    config_put(&f->pci, SLOT, PCI_BAR(BAR_MEM32), 1, 0xff); /* all of it read-only */
    config_put(&f->pci, SLOT, PCI_BAR(BAR_MEM32) + 2, 1, 0x42);
    assert_int_equal(mem(f, MEM32 + 0x420000), 0x10);
    config_put(&f->pci, SLOT, PCI_BAR(BAR_MEM32) + 2, 2, 0xc023);
    assert_int_equal(mem(f, MEM32 + 0x420000), 0xff);
    assert_int_equal(mem(f, MEM32 + 0x230000), 0x10);
}

static void decoding_bits_map_and_unmap(void **state)
{
    struct fixture *f = *state;
    uint64_t at = bar_get(&f->pci, SLOT, BAR_MEM32), at64 = bar_get(&f->pci, SLOT, BAR_MEM64), at_port = bar_get(&f->pci, SLOT, BAR_IO);

    for (unsigned command = 0; command <= DECODING; command++) {
        bool memory = command & PCI_COMMAND_MEMORY, io = command & PCI_COMMAND_IO;

        config_put(&f->pci, SLOT, PCI_COMMAND, 2, command);
        assert_int_equal(mem(f, at), memory ? 0x10 : 0xff);
        assert_int_equal(mem(f, at64), memory ? 0x12 : 0xff);
        assert_int_equal(port(f, at_port), io ? 0x11 : 0xff);
    }
    config_put(&f->pci, SLOT, PCI_COMMAND, 2, 0);
    move(f, SLOT, BAR_MEM32, MEM32 + MIB(2));
    assert_int_equal(mem(f, MEM32 + MIB(2)), 0xff);
    config_put(&f->pci, SLOT, PCI_COMMAND, 1, PCI_COMMAND_MEMORY);
    assert_int_equal(mem(f, MEM32 + MIB(2)), 0x10);
}

static void outside_of_the_windows_a_bar_is_unmapped_until_moved(void **state)
{
    static const uint32_t bad[] = {0, 0x10000, MEM32 - KIB(64), MEM32 + MEM32_SIZE, ECAM, 0xfec00000, 0xffff0000};
    static const uint32_t bad_ports[] = {0, 0xcc0, 0xfc0, 0x2000, 0x11000, 0xffffffc0};
    struct fixture *f = *state;
    unsigned mapped = f->pci.mmio.count, ports = f->pci.pio.count;

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        move(f, SLOT, BAR_MEM32, bad[i]);
        assert_int_equal(config_get(&f->pci, SLOT, PCI_BAR(BAR_MEM32), 4), bad[i]);
        assert_int_equal(f->pci.mmio.count, mapped - 1);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(bad_ports); i++) {
        move(f, SLOT, BAR_IO, bad_ports[i]);
        assert_int_equal(f->pci.pio.count, ports - 1);
    }
    move(f, SLOT, BAR_MEM64 + 1, 0xffffffff);
    assert_int_equal(f->pci.mmio.count, mapped - 2);
    move(f, SLOT, BAR_MEM32, MEM32 + MEM32_SIZE - KIB(64));
    assert_int_equal(mem(f, MEM32 + MEM32_SIZE - 1), 0x10);
}

static void of_two_bars_at_one_address_the_lower_slot_answers(void **state)
{
    struct fixture *f = *state;
    const uint64_t there = MEM32 + MIB(4);

    fake_attach(&f->pci, &f->other, 9);
    move(f, 9, BAR_MEM32, there);
    assert_int_equal(mem(f, there), 0x20);
    move(f, SLOT, BAR_SMALL, there + 0x8000); /* in the midst of it */
    assert_int_equal(mem(f, there + 0x8000), 0x13);
    assert_int_equal(mem(f, there), 0xff);
    move(f, SLOT, BAR_SMALL, there + KIB(64)); /* beside it */
    assert_int_equal(mem(f, there), 0x20);
    assert_int_equal(mem(f, there + KIB(64)), 0x13);
    move(f, SLOT, BAR_MEM32, there); /* two of one function: the lower number */
    move(f, SLOT, BAR_SMALL, there);
    assert_int_equal(mem(f, there), 0x10);
    move(f, SLOT, BAR_MEM32, MEM32 + MIB(6));
    assert_int_equal(mem(f, there), 0x13);
}

static void two_bars_change_places(void **state)
{
    struct fixture *f = *state;
    uint32_t a = (uint32_t)bar_get(&f->pci, SLOT, BAR_MEM32), b;

    fake_attach(&f->pci, &f->other, 9);
    b = (uint32_t)bar_get(&f->pci, 9, BAR_MEM32);
    move(f, 9, BAR_MEM32, a);
    move(f, SLOT, BAR_MEM32, b);
    assert_int_equal(mem(f, a), 0x20);
    assert_int_equal(mem(f, b), 0x10);
    move(f, SLOT, BAR_MEM32, a);
    move(f, 9, BAR_MEM32, b);
    assert_int_equal(mem(f, a), 0x10);
    assert_int_equal(mem(f, b), 0x20);
}

static void a_bar_stays_off_what_others_have(void **state)
{
    struct fixture *f = *state;
    struct fake_bar foreign = {.tag = 0x99};
    struct bus_range range = {"foreign", MEM32 + MIB(3) + 16, 4, &fake_bar_ops, &foreign};

    assert_int_equal(bus_add(&f->pci.mmio, &range, NULL), 0);
    move(f, SLOT, BAR_MEM32, MEM32 + MIB(3));
    assert_int_equal(mem(f, MEM32 + MIB(3)), 0xff);
    assert_int_equal(mem(f, range.base), 0x99);
    move(f, SLOT, BAR_MEM32, MEM32 + MIB(5));
    assert_int_equal(mem(f, MEM32 + MIB(5)), 0x10);
    bus_remove(&f->pci.mmio, &range);
}

static void move_itself(struct fake_bar *bar)
{
    struct fixture *f = bar->opaque;

    move(f, SLOT, BAR_MEM32, (uint32_t)bar->value);
}

static void a_bar_is_moved_from_its_own_callback(void **state)
{
    struct fixture *f = *state;

    f->fn.bar[BAR_MEM32].on_write = move_itself;
    f->fn.bar[BAR_MEM32].opaque = f;
    bus_write(&f->pci.mmio, bar_get(&f->pci, SLOT, BAR_MEM32), 4, MEM32 + MIB(7));
    assert_int_equal(mem(f, MEM32 + MIB(7)), 0x10);
    bus_write(&f->pci.mmio, MEM32 + MIB(7), 4, 0);
    assert_int_equal(mem(f, MEM32 + MIB(7)), 0xff);
}

/* --- a BAR that is read while it moves --- */

struct reader {
    struct fixture *f;
    unsigned strange;
};

static void *read_both_places(void *arg)
{
    struct reader *r = arg;

    for (unsigned i = 0; i < 20000; i++) {
        uint64_t value = bus_read(&r->f->pci.mmio, MEM32 + MIB(1 + i % 2) + i % 128, 1);

        if (value != 0x10 && value != 0xff)
            r->strange++;
        if (config_get(&r->f->pci, SLOT, PCI_BAR(BAR_SMALL), 1) != 0)
            r->strange++;
    }
    return NULL;
}

static void a_bar_that_is_read_while_it_moves_answers_or_is_absent(void **state)
{
    struct fixture *f = *state;
    struct reader r[2] = {{f, 0}, {f, 0}};
    pthread_t thread[2];

    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, read_both_places, &r[i]), 0);
    for (unsigned i = 0; i < 20000; i++)
        move(f, SLOT, BAR_MEM32, (uint32_t)(MEM32 + MIB(1 + i % 2)));
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(thread[i], NULL);
        assert_int_equal(r[i].strange, 0);
    }
    assert_int_equal(mem(f, MEM32 + MIB(2)), 0x10);
}

/* --- INTx --- */

static void the_line_follows_and_interrupt_disable_takes_it_off(void **state)
{
    struct fixture *f = *state;
    struct fake_line *line = &f->pci.lines[SLOT % 4];

    pci_set_intx(&f->fn.dev, true);
    pci_set_intx(&f->fn.dev, true);
    assert_true(line->level);
    assert_int_equal(line->rises, 1);
    assert_int_equal(config_get(&f->pci, SLOT, PCI_STATUS, 2), PCI_STATUS_INTERRUPT);
    config_put(&f->pci, SLOT, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
    assert_false(line->level);
    assert_int_equal(config_get(&f->pci, SLOT, PCI_STATUS, 2), PCI_STATUS_INTERRUPT); /* what the device wants, still */
    config_put(&f->pci, SLOT, PCI_COMMAND, 2, 0);
    assert_true(line->level);
    assert_int_equal(line->rises, 2);
    pci_set_intx(&f->fn.dev, false);
    assert_false(line->level);
    assert_int_equal(config_get(&f->pci, SLOT, PCI_STATUS, 2), 0);
    config_put(&f->pci, SLOT, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
    pci_set_intx(&f->fn.dev, true);
    assert_false(line->level);
}

static void a_shared_line_stands_until_the_last_lets_go(void **state)
{
    struct fixture *f = *state;
    struct fake_line *line = &f->pci.lines[SLOT % 4];

    fake_attach(&f->pci, &f->other, SLOT + 4);
    pci_set_intx(&f->fn.dev, true);
    pci_set_intx(&f->other.dev, true);
    pci_set_intx(&f->fn.dev, false);
    assert_true(line->level);
    config_put(&f->pci, SLOT + 4, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
    assert_false(line->level);
    assert_int_equal(line->rises, 1);
    config_put(&f->pci, SLOT + 4, PCI_COMMAND, 2, 0);
    pci_detach(&f->other.dev);
    assert_false(line->level);
    assert_int_equal(line->rises, 2);
}

static void a_line_that_is_up_before_comes_with_the_function(void **state)
{
    struct fixture *f = *state;

    pci_set_intx(&f->other.dev, true);
    assert_false(f->pci.lines[9 % 4].level);
    fake_attach(&f->pci, &f->other, 9);
    assert_true(f->pci.lines[9 % 4].level);
    pci_set_intx(&f->other.dev, false);
    assert_false(f->pci.lines[9 % 4].level);
}

/* --- reset and saved state --- */

static void disturb(struct fixture *f)
{
    config_put(&f->pci, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    config_put(&f->pci, SLOT, PCI_INTERRUPT_LINE, 1, 11);
    move(f, SLOT, BAR_MEM32, MEM32 + MIB(9));
    move(f, SLOT, BAR_IO, 0x1800);
    move(f, SLOT, BAR_MEM64 + 1, MEM64 >> 32);
    pci_set_intx(&f->fn.dev, true);
}

static void a_reset_brings_back_what_firmware_gave(void **state)
{
    struct fixture *f = *state;
    struct state_writer fresh = fake_save(&function_ops, &f->fn.dev);
    uint64_t at = bar_get(&f->pci, SLOT, BAR_MEM32);

    disturb(f);
    fake_attach(&f->pci, &f->other, 1);
    move(f, 1, BAR_MEM32, (uint32_t)at); /* somebody sits there; his own reset comes later */
    function_ops.reset(&f->fn.dev);
    assert_saves_as(&function_ops, &f->fn.dev, &fresh);
    assert_false(f->pci.lines[SLOT % 4].level);
    assert_int_equal(mem(f, MEM32 + MIB(9)), 0xff);
    function_ops.reset(&f->other.dev);
    assert_int_equal(mem(f, at), 0x10);
    assert_int_equal(mem(f, bar_get(&f->pci, 1, BAR_MEM32)), 0x20);
    state_writer_fini(&fresh);
}

static void saved_state_is_restored_with_its_mappings_and_its_line(void **state)
{
    struct fixture *f = *state;

    fake_attach(&f->pci2, &f->other, SLOT);
    disturb(f);
    assert_round_trip(&function_ops, &f->fn.dev, &f->other.dev);
    assert_true(f->pci2.lines[SLOT % 4].level);
    assert_int_equal(bus_read(&f->pci2.mmio, MEM32 + MIB(9), 1), 0x20);
    assert_int_equal(bus_read(&f->pci2.pio, 0x1800, 1), 0xff); /* its decoding is off */
    config_put(&f->pci2, SLOT, PCI_COMMAND, 2, DECODING);
    assert_int_equal(bus_read(&f->pci2.pio, 0x1800, 1), 0x21);
    function_ops.reset(&f->fn.dev);
    assert_round_trip(&function_ops, &f->fn.dev, &f->other.dev);
    assert_false(f->pci2.lines[SLOT % 4].level);
}

static void impossible_state_is_refused(void **state)
{
    struct fixture *f = *state;

    disturb(f);
    assert_refused(&function_ops, &f->fn.dev, "config", 0, PCI_VENDOR_ID, 0x12);
    assert_refused(&function_ops, &f->fn.dev, "config", 0, PCI_BAR(BAR_MEM32), 0x01);     /* flags */
    assert_refused(&function_ops, &f->fn.dev, "config", 0, PCI_BAR(BAR_MEM32) + 1, 0x80); /* below its size */
    assert_refused(&function_ops, &f->fn.dev, "config", 0, PCI_BAR(5), 0x10);             /* there is none */
    assert_refused(&function_ops, &f->fn.dev, "config", 0, PCI_STATUS, 0);                /* INTx is on */
    assert_refused(&function_ops, &f->fn.dev, "config", 0, PCI_CAPABILITIES, 0x40);
    assert_refused(&function_ops, &f->fn.dev, "config", 0, 4095, 1);
    assert_refused(&function_ops, &f->fn.dev, "intx", 0, 0, 0);
    assert_refused(&function_ops, &f->fn.dev, "intx", 0, 0, 2);
    assert_truncations_are_refused(&function_ops, &f->fn.dev);
}

static void hostile_state_is_refused_or_works(void **state)
{
    struct fixture *f = *state;

    fake_seed(3060);
    fake_attach(&f->pci, &f->other, 9);
    disturb(f);
    for (unsigned i = 0; i < 600; i++) {
        struct state_writer bad = fake_save(&function_ops, &f->fn.dev);

        /* the writable places, where what is loaded differs without being impossible */
        for (unsigned n = 0; n < 6; n++)
            fake_set_field(&bad, "config", 0, PCI_COMMAND + (unsigned)fake_random() % 0x24, fake_random() & 0xff);
        if (fake_load(&function_ops, &f->fn.dev, &bad, bad.len) == 0)
            assert_state_is_loadable(&function_ops, &f->fn.dev);
        state_writer_fini(&bad);
    }
    fuzz_load(&function_ops, &f->fn.dev, 600);
    function_ops.reset(&f->fn.dev);
    function_ops.reset(&f->other.dev);
    assert_int_equal(mem(f, bar_get(&f->pci, SLOT, BAR_MEM32)), 0x10);
    assert_int_equal(mem(f, bar_get(&f->pci, 9, BAR_MEM32)), 0x20);
}

#define DEVICE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        DEVICE_TEST(the_header_has_identity_and_class),
        DEVICE_TEST(only_what_is_writable_changes),
        DEVICE_TEST(a_device_says_what_more_is_writable),
        DEVICE_TEST(a_function_without_bars_decodes_nothing),
        DEVICE_TEST(capabilities_are_a_list_of_aligned_entries),
        DEVICE_TEST(a_device_sees_accesses_and_may_use_its_function_then),
        DEVICE_TEST(a_bar_tells_kind_and_size),
        DEVICE_TEST(a_large_64_bit_bar_has_its_size_in_both_halves),
        DEVICE_TEST(firmware_has_given_addresses_and_turned_decoding_on),
        DEVICE_TEST(a_64_bit_bar_lies_above_where_there_is_no_room_below),
        DEVICE_TEST(bars_without_room_are_refused_and_leave_nothing),
        DEVICE_TEST(the_windows_fill_to_the_last_byte),
        DEVICE_TEST(a_moved_bar_answers_at_its_new_address_alone),
        DEVICE_TEST(a_64_bit_bar_moves_above_4_gib_and_back),
        DEVICE_TEST(every_one_of_six_bars_moves),
        DEVICE_TEST(a_bar_moves_by_bytes_too),
        DEVICE_TEST(decoding_bits_map_and_unmap),
        DEVICE_TEST(outside_of_the_windows_a_bar_is_unmapped_until_moved),
        DEVICE_TEST(of_two_bars_at_one_address_the_lower_slot_answers),
        DEVICE_TEST(two_bars_change_places),
        DEVICE_TEST(a_bar_stays_off_what_others_have),
        DEVICE_TEST(a_bar_is_moved_from_its_own_callback),
        DEVICE_TEST(a_bar_that_is_read_while_it_moves_answers_or_is_absent),
        DEVICE_TEST(the_line_follows_and_interrupt_disable_takes_it_off),
        DEVICE_TEST(a_shared_line_stands_until_the_last_lets_go),
        DEVICE_TEST(a_line_that_is_up_before_comes_with_the_function),
        DEVICE_TEST(a_reset_brings_back_what_firmware_gave),
        DEVICE_TEST(saved_state_is_restored_with_its_mappings_and_its_line),
        DEVICE_TEST(impossible_state_is_refused),
        DEVICE_TEST(hostile_state_is_refused_or_works),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
