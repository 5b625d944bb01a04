/* The PCI host bridge: configuration ports, ECAM, slots, the reset byte, the four interrupt lines. */
#include "pci_fake.h"

struct fixture {
    struct fake_pci pci, pci2;
    struct fake_function fn[PCI_SLOTS];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    fake_start(0);
    fake_pci_start(&f->pci);
    fake_pci_start(&f->pci2);
    for (unsigned i = 0; i < PCI_SLOTS; i++)
        fake_function_init(&f->fn[i], NULL, NULL);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < PCI_SLOTS; i++)
        pci_detach(&f->fn[i].dev);
    fake_pci_stop(&f->pci2);
    fake_pci_stop(&f->pci);
    free(f);
    return 0;
}

static void out32(struct fixture *f, uint16_t port, uint32_t value)
{
    bus_write(&f->pci.pio, port, 4, value);
}

static uint32_t in(struct fixture *f, uint16_t port, unsigned size)
{
    return (uint32_t)bus_read(&f->pci.pio, port, size);
}

static void select_register(struct fixture *f, unsigned slot, unsigned reg)
{
    out32(f, CONFIG_ADDRESS, 0x80000000U | slot << 11 | reg);
}

/* --- who is there --- */

static void slot_0_is_a_host_bridge(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(config_get(&f->pci, 0, PCI_CLASS + 1, 2), 0x0600);
    assert_int_equal(config_get(&f->pci, 0, 0x0e, 1), 0);
    assert_int_equal(config_get(&f->pci, 0, PCI_INTERRUPT_PIN, 1), 0);
    for (unsigned i = 0; i < PCI_BARS; i++) {
        config_put(&f->pci, 0, PCI_BAR(i), 4, 0xffffffff);
        assert_int_equal(config_get(&f->pci, 0, PCI_BAR(i), 4), 0);
    }
    select_register(f, 0, PCI_VENDOR_ID);
    assert_int_equal(in(f, CONFIG_DATA, 4), config_get(&f->pci, 0, PCI_VENDOR_ID, 4));
    assert_int_not_equal(in(f, CONFIG_DATA, 2), 0xffff);
}

static void nobody_reads_as_ones_and_takes_writes(void **state)
{
    static const unsigned functions[] = {5 << 15, 5 << 15 | 1 << 12, 5 << 15 | 7 << 12, 1 << 20, 1 << 20 | 5 << 15, 255 << 20 | 31 << 15};
    struct fixture *f = *state;

    fake_attach(&f->pci, &f->fn[0], 6);
    for (unsigned i = 0; i < ARRAY_SIZE(functions); i++) {
        for (unsigned size = 1; size <= 8; size *= 2) {
            bus_write(&f->pci.mmio, ECAM + functions[i], size, 0);
            assert_true(bus_read(&f->pci.mmio, ECAM + functions[i], size) == UINT64_MAX >> (64 - 8 * size));
        }
        out32(f, CONFIG_ADDRESS, 0x80000000U | functions[i] >> 4);
        out32(f, CONFIG_DATA, 0);
        assert_int_equal(in(f, CONFIG_DATA, 4), 0xffffffff);
    }
    fake_attach(&f->pci, &f->fn[1], 5);
    assert_int_equal(config_get(&f->pci, 5, PCI_VENDOR_ID, 4), 0x10421af4);
    assert_int_equal(bus_read(&f->pci.mmio, ECAM + functions[1], 4), 0xffffffff); /* one function each */
    assert_int_equal(bus_read(&f->pci.mmio, ECAM + functions[4], 4), 0xffffffff); /* one bus */
}

static void the_first_free_slot_is_given(void **state)
{
    struct fixture *f = *state;
    struct err e;

    fake_attach(&f->pci, &f->fn[0], 2);
    fake_attach(&f->pci, &f->fn[1], 0);
    fake_attach(&f->pci, &f->fn[2], 0);
    assert_int_equal(f->fn[1].dev.slot, 1);
    assert_int_equal(f->fn[2].dev.slot, 3);
    assert_int_equal(pci_attach(&f->pci.host, &f->fn[3].dev, 2, &e), -EEXIST);
    assert_non_null(strstr(e.text, "slot 2 already has a function"));
    pci_detach(&f->fn[1].dev);
    assert_int_equal(config_get(&f->pci, 1, PCI_VENDOR_ID, 4), 0xffffffff);
    fake_attach(&f->pci, &f->fn[3], 0);
    assert_int_equal(f->fn[3].dev.slot, 1);
}

static void there_are_31_slots(void **state)
{
    struct fixture *f = *state;
    struct err e;

    for (unsigned i = 1; i < PCI_SLOTS; i++) {
        fake_add_bar(&f->fn[i], 0, PCI_BAR_MEM32, 4096, (uint8_t)i);
        fake_add_bar(&f->fn[i], 1, PCI_BAR_IO, 32, (uint8_t)i);
        fake_add_bar(&f->fn[i], 2, PCI_BAR_MEM64, 16384, (uint8_t)i);
        fake_add_bar(&f->fn[i], 4, PCI_BAR_MEM64, 4096, (uint8_t)i);
        fake_attach(&f->pci, &f->fn[i], 0);
    }
    assert_int_equal(pci_attach(&f->pci.host, &f->fn[0].dev, 0, &e), -ENOSPC);
    assert_non_null(strstr(e.text, "all 31 PCI slots"));
    for (unsigned i = 1; i < PCI_SLOTS; i++) {
        assert_int_equal(bus_read(&f->pci.mmio, bar_get(&f->pci, i, 0), 1), i);
        assert_int_equal(bus_read(&f->pci.pio, bar_get(&f->pci, i, 1), 1), i);
        assert_int_equal(bus_read(&f->pci.mmio, bar_get(&f->pci, i, 2), 1), i);
        assert_int_equal(bus_read(&f->pci.mmio, bar_get(&f->pci, i, 4), 1), i);
    }
}

static void slot_s_has_line_s_modulo_4(void **state)
{
    struct fixture *f = *state;

    for (unsigned slot = 1; slot < PCI_SLOTS; slot++) {
        fake_attach(&f->pci, &f->fn[slot], slot);
        pci_set_intx(&f->fn[slot].dev, true);
        for (unsigned line = 0; line < PCI_INTX_LINES; line++)
            assert_int_equal(f->pci.lines[line].level, line == slot % 4);
        pci_set_intx(&f->fn[slot].dev, false);
    }
}

/* --- mechanism 1 --- */

static void the_address_register_is_a_dword(void **state)
{
    struct fixture *f = *state;

    out32(f, CONFIG_ADDRESS, 0xffffffff);
    assert_int_equal(in(f, CONFIG_ADDRESS, 4), 0x80fffffc); /* reserved bits are 0 */
    out32(f, CONFIG_ADDRESS, 0x80001234);
    for (unsigned off = 0; off < 4; off++) {
        bus_write(&f->pci.pio, CONFIG_ADDRESS + off, 1, 0x02);
        if (off != 1)
            assert_int_equal(in(f, CONFIG_ADDRESS + (uint16_t)off, 1), 0xff);
        if (off < 3) {
            bus_write(&f->pci.pio, CONFIG_ADDRESS + off, 2, 0);
            assert_int_equal(in(f, CONFIG_ADDRESS + (uint16_t)off, 2), 0xffff);
        }
    }
    assert_int_equal(in(f, CONFIG_ADDRESS, 4), 0x80001234);
}

static void a_byte_at_cf9_is_the_reset_register(void **state)
{
    struct fixture *f = *state;

    f->pci.reset_ctl.value = 0x5a;
    assert_int_equal(in(f, RESET_PORT, 1), 0x5a);
    out8(&f->pci.pio, RESET_PORT, 0x06);
    assert_int_equal(f->pci.reset_ctl.value, 0x06);
    assert_int_equal(f->pci.reset_ctl.writes, 1);
    out32(f, CONFIG_ADDRESS, 0xffffffff);
    bus_write(&f->pci.pio, CONFIG_ADDRESS, 2, 0xffff);
    bus_write(&f->pci.pio, RESET_PORT, 2, 0xffff);
    out8(&f->pci.pio, CONFIG_ADDRESS, 0xff);
    assert_int_equal(f->pci.reset_ctl.writes, 1);
    assert_int_equal(in(f, RESET_PORT, 2), 0xffff);
}

static void without_a_reset_register_cf9_is_nobodys(void **state)
{
    struct fixture *f = *state;

    f->pci.host.reset_read = NULL;
    f->pci.host.reset_write = NULL;
    out8(&f->pci.pio, RESET_PORT, 0x06);
    assert_int_equal(in(f, RESET_PORT, 1), 0xff);
}

static void data_ports_and_ecam_show_the_same(void **state)
{
    struct fixture *f = *state;

    fake_add_bar(&f->fn[0], 0, PCI_BAR_MEM32, 4096, 0x11);
    fake_attach(&f->pci, &f->fn[0], 17);
    for (unsigned reg = 0; reg < 256; reg += 4) {
        select_register(f, 17, reg);
        assert_int_equal(in(f, CONFIG_DATA, 4), config_get(&f->pci, 17, reg, 4));
        for (unsigned i = 0; i < 4; i++)
            assert_int_equal(in(f, CONFIG_DATA + (uint16_t)i, 1), config_get(&f->pci, 17, reg + i, 1));
        for (unsigned i = 0; i < 3; i++)
            assert_int_equal(in(f, CONFIG_DATA + (uint16_t)i, 2), config_get(&f->pci, 17, reg + i, 2));
    }
    select_register(f, 17, PCI_BAR(0));
    out32(f, CONFIG_DATA, MEM32 + MIB(1));
    assert_int_equal(bus_read(&f->pci.mmio, MEM32 + MIB(1), 1), 0x11);
    bus_write(&f->pci.pio, CONFIG_DATA + 2, 2, MEM32 >> 16 | 0x23);
    assert_int_equal(bus_read(&f->pci.mmio, MEM32 + MIB(2) + 0x30000, 1), 0x11);
    bus_write(&f->pci.pio, CONFIG_DATA + 1, 1, 0x50);
    assert_int_equal(bus_read(&f->pci.mmio, MEM32 + MIB(2) + 0x35000, 1), 0x11);
}

static void without_the_enable_bit_the_data_ports_lead_nowhere(void **state)
{
    struct fixture *f = *state;

    fake_attach(&f->pci, &f->fn[0], 1);
    out32(f, CONFIG_ADDRESS, 1 << 11 | PCI_INTERRUPT_LINE);
    assert_int_equal(in(f, CONFIG_DATA, 4), 0xffffffff);
    out32(f, CONFIG_DATA, 0);
    assert_int_equal(config_get(&f->pci, 1, PCI_INTERRUPT_LINE, 1), 0xff);
}

static void an_access_over_both_registers_comes_as_bytes(void **state)
{
    struct fixture *f = *state;

    fake_attach(&f->pci, &f->fn[0], 1);
    select_register(f, 1, PCI_VENDOR_ID);
    assert_int_equal(in(f, CONFIG_DATA - 2, 4), 0x1af4ffff);
    assert_int_equal(in(f, CONFIG_DATA - 1, 2), 0xf4ff);
    assert_int_equal(in(f, CONFIG_DATA + 2, 4), 0xffff1042); /* and the last two are nobody's */
    select_register(f, 1, PCI_INTERRUPT_LINE);
    bus_write(&f->pci.pio, CONFIG_DATA - 1, 2, 0x2b00);
    assert_int_equal(config_get(&f->pci, 1, PCI_INTERRUPT_LINE, 1), 0x2b);
    assert_int_equal(in(f, CONFIG_ADDRESS, 4), 0x80000000U | 1 << 11 | PCI_INTERRUPT_LINE);
}

/* --- ECAM --- */

static void ecam_has_all_4096_bytes(void **state)
{
    static const uint8_t mask[4] = {0xff, 0xff, 0xff, 0xff};
    struct fixture *f = *state;

    pci_set_writable(&f->fn[0].dev, PCI_CONFIG_BYTES - 4, mask, sizeof(mask));
    fake_attach(&f->pci, &f->fn[0], 31);
    config_put(&f->pci, 31, PCI_CONFIG_BYTES - 4, 4, 0x12345678);
    assert_int_equal(config_get(&f->pci, 31, PCI_CONFIG_BYTES - 4, 4), 0x12345678);
    assert_int_equal(config_get(&f->pci, 31, PCI_CONVENTIONAL_END, 4), 0); /* no extended capability */
    select_register(f, 31, 0xfc);
    assert_int_equal(in(f, CONFIG_DATA, 4), 0);
}

static void wide_and_unaligned_accesses_are_cut(void **state)
{
    struct fixture *f = *state;

    fake_attach(&f->pci, &f->fn[0], 1);
    assert_true(bus_read(&f->pci.mmio, ecam_at(1, PCI_VENDOR_ID), 8) == 0x0000000010421af4ULL);
    assert_int_equal(config_get(&f->pci, 1, PCI_VENDOR_ID + 1, 2), 0x421a);
    assert_int_equal(config_get(&f->pci, 1, PCI_VENDOR_ID + 3, 2), 0x0010);
    assert_int_equal(config_get(&f->pci, 1, PCI_DEVICE_ID, 4), 0x1042);
    bus_write(&f->pci.mmio, ecam_at(1, PCI_INTERRUPT_LINE - 4), 8, 0x0000002200000000ULL);
    assert_int_equal(config_get(&f->pci, 1, PCI_INTERRUPT_LINE, 1), 0x22);
    bus_write(&f->pci.mmio, ecam_at(1, PCI_INTERRUPT_LINE - 1), 4, 0x3300);
    assert_int_equal(config_get(&f->pci, 1, PCI_INTERRUPT_LINE, 1), 0x33);
    /* from the last function's space to that of nobody */
    assert_int_equal(bus_read(&f->pci.mmio, ecam_at(1, PCI_CONFIG_BYTES - 2), 4), 0xffff0000);
}

/* --- setting up --- */

static void what_is_in_the_way_is_told_and_nothing_stays(void **state)
{
    struct fake_bar foreign = {0};
    struct bus_range at_port = {"foreign port", CONFIG_DATA, 1, &fake_bar_ops, &foreign};
    struct bus_range in_ecam = {"foreign page", ECAM + MIB(255), PAGE_SIZE, &fake_bar_ops, &foreign};
    struct fixture *f = *state;
    struct pci_host_options o;
    struct pci_host host;
    struct bus pio, mmio;
    struct err e;

    bus_init(&pio);
    bus_init(&mmio);
    o = fake_pci_options(&f->pci);
    o.pio = &pio;
    o.mmio = &mmio;
    assert_int_equal(bus_add(&pio, &at_port, NULL), 0);
    assert_int_equal(pci_host_init(&host, &o, &e), -EEXIST);
    assert_non_null(strstr(e.text, "foreign port"));
    bus_remove(&pio, &at_port);
    assert_int_equal(bus_add(&mmio, &in_ecam, NULL), 0);
    assert_int_equal(pci_host_init(&host, &o, &e), -EEXIST);
    assert_non_null(strstr(e.text, "foreign page"));
    bus_remove(&mmio, &in_ecam);
    assert_int_equal(pio.count + mmio.count, 0);
    assert_int_equal(pci_host_init(&host, &o, &e), 0);
    pci_host_fini(&host);
    assert_int_equal(pio.count + mmio.count, 0);
    bus_fini(&mmio);
    bus_fini(&pio);
}

/* --- reset and saved state --- */

static void a_reset_clears_address_and_bridge(void **state)
{
    struct fixture *f = *state;
    struct state_writer fresh = fake_save(&pci_host_device, &f->pci.host);

    select_register(f, 0, PCI_COMMAND);
    bus_write(&f->pci.pio, CONFIG_DATA, 2, PCI_COMMAND_MASTER);
    assert_int_equal(config_get(&f->pci, 0, PCI_COMMAND, 2), PCI_COMMAND_MASTER);
    pci_host_device.reset(&f->pci.host);
    assert_int_equal(in(f, CONFIG_ADDRESS, 4), 0);
    assert_int_equal(config_get(&f->pci, 0, PCI_COMMAND, 2), 0);
    assert_saves_as(&pci_host_device, &f->pci.host, &fresh);
    state_writer_fini(&fresh);
}

static void saved_state_is_restored(void **state)
{
    struct fixture *f = *state;

    select_register(f, 7, 0x20);
    config_put(&f->pci, 0, PCI_INTERRUPT_LINE, 1, 5);
    assert_round_trip(&pci_host_device, &f->pci.host, &f->pci2.host);
    assert_int_equal(bus_read(&f->pci2.pio, CONFIG_ADDRESS, 4), 0x80003820);
    assert_int_equal(config_get(&f->pci2, 0, PCI_INTERRUPT_LINE, 1), 5);
}

static void impossible_state_is_refused(void **state)
{
    struct fixture *f = *state;

    select_register(f, 7, 0x20);
    assert_refused(&pci_host_device, &f->pci.host, "address", 0, 0, 1);
    assert_refused(&pci_host_device, &f->pci.host, "address", 0, 0, 0x01000000);
    assert_refused(&pci_host_device, &f->pci.host, "config", 0, PCI_VENDOR_ID, 0);
    assert_refused(&pci_host_device, &f->pci.host, "config", 0, PCI_STATUS, PCI_STATUS_INTERRUPT);
    assert_truncations_are_refused(&pci_host_device, &f->pci.host);
}

static void hostile_accesses_do_no_harm(void **state)
{
    static const uint64_t ports[] = {CONFIG_ADDRESS, CONFIG_DATA, IO_WINDOW};
    static const uint64_t addresses[] = {ECAM, ECAM + (1 << 15), ECAM + (2 << 15), ECAM + MIB(1), ECAM + MIB(256), MEM32};
    struct fixture *f = *state;

    fake_seed(3322);
    for (unsigned i = 1; i <= 2; i++) {
        fake_add_bar(&f->fn[i], 0, PCI_BAR_MEM64, KIB(512), (uint8_t)i);
        fake_add_bar(&f->fn[i], 2, PCI_BAR_IO, 256, (uint8_t)i);
        fake_attach(&f->pci, &f->fn[i], i);
    }
    for (unsigned i = 0; i < 400; i++) {
        fuzz_registers(&f->pci.pio, ports, ARRAY_SIZE(ports), 8, 32, &pci_host_device, &f->pci.host);
        fuzz_registers(&f->pci.mmio, addresses, ARRAY_SIZE(addresses), 64, 32, &pci_host_device, &f->pci.host);
        pci_set_intx(&f->fn[1 + fake_random() % 2].dev, fake_random() & 1);
    }
    fuzz_load(&pci_host_device, &f->pci.host, 400);
    for (unsigned i = 1; i <= 2; i++)
        pci_device_reset(&f->fn[i].dev);
    for (unsigned i = 1; i <= 2; i++) {
        assert_int_equal(bus_read(&f->pci.mmio, bar_get(&f->pci, i, 0), 1), i);
        assert_int_equal(bus_read(&f->pci.pio, bar_get(&f->pci, i, 2), 1), i);
    }
}

#define HOST_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        HOST_TEST(slot_0_is_a_host_bridge),
        HOST_TEST(nobody_reads_as_ones_and_takes_writes),
        HOST_TEST(the_first_free_slot_is_given),
        HOST_TEST(there_are_31_slots),
        HOST_TEST(slot_s_has_line_s_modulo_4),
        HOST_TEST(the_address_register_is_a_dword),
        HOST_TEST(a_byte_at_cf9_is_the_reset_register),
        HOST_TEST(without_a_reset_register_cf9_is_nobodys),
        HOST_TEST(data_ports_and_ecam_show_the_same),
        HOST_TEST(without_the_enable_bit_the_data_ports_lead_nowhere),
        HOST_TEST(an_access_over_both_registers_comes_as_bytes),
        HOST_TEST(ecam_has_all_4096_bytes),
        HOST_TEST(wide_and_unaligned_accesses_are_cut),
        HOST_TEST(what_is_in_the_way_is_told_and_nothing_stays),
        HOST_TEST(a_reset_clears_address_and_bridge),
        HOST_TEST(saved_state_is_restored),
        HOST_TEST(impossible_state_is_refused),
        HOST_TEST(hostile_accesses_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
