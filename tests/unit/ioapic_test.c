/* The I/O APIC: registers, messages, edge and level inputs, remote IRR, masks and ends of interrupt. */
#include "chipset_fake.h"

#include "chipset/ioapic.h"

#define SELECT IOAPIC_GPA
#define WINDOW (IOAPIC_GPA + 0x10)
#define EOI_REGISTER (IOAPIC_GPA + 0x40)

#define LEVEL 0x8000U
#define REMOTE_IRR 0x4000U
#define MASKED 0x10000U
#define LOGICAL 0x0800U
#define LOWEST 0x0100U
#define NMI 0x0400U
#define EXTINT 0x0700U

struct message {
    uint64_t addr;
    uint32_t data;
};

struct fixture {
    struct bus mmio, mmio2;
    struct ioapic dev, other;
    struct message message[64];
    unsigned sent;
    int taken;                         /* what the local APICs answer */
    struct message level[IOAPIC_PINS]; /* what ioapic_watch_levels() was last told of each input */
    unsigned told;
};

static int on_msi(void *opaque, uint64_t addr, uint32_t data)
{
    struct fixture *f = opaque;

    if (f->taken)
        return f->taken;
    f->message[f->sent++ % ARRAY_SIZE(f->message)] = (struct message){addr, data};
    return 0;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    fake_start(0);
    bus_init(&f->mmio);
    bus_init(&f->mmio2);
    assert_int_equal(ioapic_init(&f->dev, &f->mmio, on_msi, f, &e), 0);
    assert_int_equal(ioapic_init(&f->other, &f->mmio2, on_msi, f, &e), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    ioapic_fini(&f->other);
    ioapic_fini(&f->dev);
    assert_int_equal(f->mmio.count, 0);
    bus_fini(&f->mmio2);
    bus_fini(&f->mmio);
    free(f);
    return 0;
}

static uint32_t read_reg(struct fixture *f, unsigned index)
{
    bus_write(&f->mmio, SELECT, 4, index);
    return (uint32_t)bus_read(&f->mmio, WINDOW, 4);
}

static void write_reg(struct fixture *f, unsigned index, uint32_t value)
{
    bus_write(&f->mmio, SELECT, 4, index);
    bus_write(&f->mmio, WINDOW, 4, value);
}

static void write_entry(struct fixture *f, unsigned pin, uint8_t destination, uint32_t low)
{
    write_reg(f, 0x11 + 2 * pin, (uint32_t)destination << 24);
    write_reg(f, 0x10 + 2 * pin, low);
}

static uint32_t read_low(struct fixture *f, unsigned pin)
{
    return read_reg(f, 0x10 + 2 * pin);
}

static void pulse(struct fixture *f, unsigned pin)
{
    ioapic_set_line(&f->dev, pin, true);
    ioapic_set_line(&f->dev, pin, false);
}

static const struct message *last(struct fixture *f)
{
    assert_true(f->sent > 0);
    return &f->message[(f->sent - 1) % ARRAY_SIZE(f->message)];
}

/* --- registers --- */

static void it_is_version_0x20_with_24_entries(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(read_reg(f, 1), 0x00170020);
    write_reg(f, 1, 0xffffffff);
    assert_int_equal(read_reg(f, 1), 0x00170020);
}

static void the_identifier_has_4_bits_and_is_the_arbitration_identifier(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(read_reg(f, 0), 0);
    write_reg(f, 0, 0xffffffff);
    assert_int_equal(read_reg(f, 0), 0x0f000000);
    assert_int_equal(read_reg(f, 2), 0x0f000000);
    write_reg(f, 2, 0);
    assert_int_equal(read_reg(f, 0), 0x0f000000);
}

static void entries_are_masked_at_power_on(void **state)
{
    struct fixture *f = *state;

    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        assert_int_equal(read_low(f, pin), MASKED);
        assert_int_equal(read_reg(f, 0x11 + 2 * pin), 0);
        pulse(f, pin);
    }
    assert_int_equal(f->sent, 0);
}

static void entries_keep_what_is_writable(void **state)
{
    struct fixture *f = *state;

    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        write_entry(f, pin, 0xff, 0xffffffff);
        assert_int_equal(read_low(f, pin), 0x1afff); /* neither delivery status nor remote IRR */
        assert_int_equal(read_reg(f, 0x11 + 2 * pin), 0xff000000);
        write_entry(f, pin, 0, MASKED);
        assert_int_equal(read_low(f, pin), MASKED);
    }
}

static void other_indices_and_offsets_read_0(void **state)
{
    struct fixture *f = *state;

    for (unsigned index = 3; index < 256; index++) {
        if (index >= 0x10 && index < 0x10 + 2 * IOAPIC_PINS)
            continue;
        write_reg(f, index, 0xffffffff);
        assert_int_equal(read_reg(f, index), 0);
    }
    bus_write(&f->mmio, IOAPIC_GPA + 0x20, 4, 0xffffffff);
    assert_int_equal(bus_read(&f->mmio, IOAPIC_GPA + 0x20, 4), 0);
    assert_int_equal(bus_read(&f->mmio, EOI_REGISTER, 4), 0);
}

static void the_select_register_reads_back(void **state)
{
    struct fixture *f = *state;

    bus_write(&f->mmio, SELECT, 4, 0xffffff12);
    assert_int_equal(bus_read(&f->mmio, SELECT, 4), 0x12);
    bus_write(&f->mmio, SELECT, 1, 0x01);
    assert_int_equal(bus_read(&f->mmio, WINDOW, 1), 0x20);
    assert_int_equal(bus_read(&f->mmio, WINDOW, 2), 0x0020);
}

/* --- messages --- */

static void an_edge_is_one_message_with_vector_and_destination(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 4, 3, 0x34);
    pulse(f, 4);
    assert_int_equal(f->sent, 1);
    assert_int_equal(last(f)->addr, 0xfee03000);
    assert_int_equal(last(f)->data, 0x34);
}

static void mode_and_delivery_come_through(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 4, 0xff, LOGICAL | LOWEST | 0x51);
    pulse(f, 4);
    assert_int_equal(last(f)->addr, 0xfeeff004);
    assert_int_equal(last(f)->data, 0x151);
    write_entry(f, 4, 0, NMI);
    pulse(f, 4);
    assert_int_equal(last(f)->data, NMI);
    write_entry(f, 4, 0, EXTINT);
    pulse(f, 4);
    assert_int_equal(last(f)->data, EXTINT);
    assert_int_equal(f->sent, 3);
}

static void polarity_changes_nothing(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 9, 0, 0x2000 | LEVEL | 0x39);
    assert_int_equal(f->sent, 0);
    ioapic_set_line(&f->dev, 9, true);
    assert_int_equal(f->sent, 1);
}

static void each_input_has_its_own_entry(void **state)
{
    struct fixture *f = *state;

    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        write_entry(f, pin, (uint8_t)pin, 0x40 + pin);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        pulse(f, pin);
        assert_int_equal(last(f)->data, 0x40 + pin);
        assert_int_equal(last(f)->addr, 0xfee00000 | pin << 12);
    }
    assert_int_equal(f->sent, IOAPIC_PINS);
    ioapic_set_line(&f->dev, IOAPIC_PINS, true);
    ioapic_set_line(&f->dev, 1000, true);
    assert_int_equal(f->sent, IOAPIC_PINS);
}

static void illegal_vectors_are_not_sent(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 4, 0, 0x0f);
    pulse(f, 4);
    write_entry(f, 4, 0, LOWEST | 0x0f);
    pulse(f, 4);
    write_entry(f, 4, 0, LEVEL | 0x0f);
    ioapic_set_line(&f->dev, 4, true);
    assert_int_equal(f->sent, 0);
    assert_int_equal(fake.complaints, 3);
    assert_int_equal(read_low(f, 4) & REMOTE_IRR, 0);
    write_entry(f, 4, 0, LEVEL | 0x10);
    assert_int_equal(f->sent, 1);
}

/* --- edges --- */

static void an_edge_input_sends_when_it_rises_only(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 4, 0, 0x34);
    ioapic_set_line(&f->dev, 4, true);
    ioapic_set_line(&f->dev, 4, true);
    assert_int_equal(f->sent, 1);
    ioapic_set_line(&f->dev, 4, false);
    assert_int_equal(f->sent, 1);
    ioapic_set_line(&f->dev, 4, true);
    assert_int_equal(f->sent, 2);
    assert_int_equal(read_low(f, 4), 0x34); /* no remote IRR */
    ioapic_eoi(&f->dev, 0x34);
    assert_int_equal(f->sent, 2);
}

static void an_edge_that_finds_its_input_masked_is_lost(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 4, 0, MASKED | 0x34);
    ioapic_set_line(&f->dev, 4, true);
    write_entry(f, 4, 0, 0x34);
    assert_int_equal(f->sent, 0);
    ioapic_set_line(&f->dev, 4, false);
    ioapic_set_line(&f->dev, 4, true);
    assert_int_equal(f->sent, 1);
}

/* --- levels --- */

static void a_level_is_sent_once_until_it_is_ended(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 9, 0, LEVEL | 0x39);
    ioapic_set_line(&f->dev, 9, true);
    assert_int_equal(f->sent, 1);
    assert_int_equal(last(f)->data, 0xc039);
    assert_int_equal(read_low(f, 9), REMOTE_IRR | LEVEL | 0x39);
    ioapic_set_line(&f->dev, 9, false);
    ioapic_set_line(&f->dev, 9, true);
    assert_int_equal(f->sent, 1);
    ioapic_eoi(&f->dev, 0x39);
    assert_int_equal(f->sent, 2); /* it still stands */
    ioapic_set_line(&f->dev, 9, false);
    ioapic_eoi(&f->dev, 0x39);
    assert_int_equal(f->sent, 2);
    assert_int_equal(read_low(f, 9), LEVEL | 0x39);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin += IOAPIC_PINS - 1) { /* the first and the last */
        write_entry(f, pin, 0, LEVEL | 0x40);
        ioapic_set_line(&f->dev, pin, true);
        ioapic_set_line(&f->dev, pin, false);
        ioapic_eoi(&f->dev, 0x40);
        assert_int_equal(read_low(f, pin), LEVEL | 0x40);
    }
}

static void other_vectors_end_nothing(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 9, 0, LEVEL | 0x39);
    ioapic_set_line(&f->dev, 9, true);
    for (unsigned vector = 0; vector < 256; vector++)
        if (vector != 0x39)
            ioapic_eoi(&f->dev, (uint8_t)vector);
    assert_int_equal(f->sent, 1);
    assert_int_equal(read_low(f, 9) & REMOTE_IRR, REMOTE_IRR);
}

static void inputs_that_share_a_vector_are_ended_together(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 10, 0, LEVEL | 0x41);
    write_entry(f, 11, 0, LEVEL | 0x41);
    ioapic_set_line(&f->dev, 10, true);
    ioapic_set_line(&f->dev, 11, true);
    assert_int_equal(f->sent, 2);
    ioapic_set_line(&f->dev, 10, false);
    ioapic_eoi(&f->dev, 0x41);
    assert_int_equal(f->sent, 3);
    assert_int_equal(read_low(f, 10) & REMOTE_IRR, 0);
    assert_int_equal(read_low(f, 11) & REMOTE_IRR, REMOTE_IRR);
}

static void the_eoi_register_ends_as_the_bus_message_does(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 9, 0, LEVEL | 0x39);
    ioapic_set_line(&f->dev, 9, true);
    bus_write(&f->mmio, EOI_REGISTER, 4, 0x38);
    assert_int_equal(f->sent, 1);
    bus_write(&f->mmio, EOI_REGISTER, 4, 0x39);
    assert_int_equal(f->sent, 2);
}

static void a_masked_level_waits_for_its_unmasking(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 9, 0, MASKED | LEVEL | 0x39);
    ioapic_set_line(&f->dev, 9, true);
    assert_int_equal(f->sent, 0);
    write_entry(f, 9, 0, LEVEL | 0x39);
    assert_int_equal(f->sent, 1);
}

/* Mask in the handler, end, unmask in the thread: as kernels run threaded handlers of level interrupts. */
static void a_level_that_is_masked_in_service_comes_again_after_unmasking(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 9, 0, LEVEL | 0x39);
    ioapic_set_line(&f->dev, 9, true);
    write_entry(f, 9, 0, MASKED | LEVEL | 0x39);
    assert_int_equal(read_low(f, 9), REMOTE_IRR | MASKED | LEVEL | 0x39);
    ioapic_eoi(&f->dev, 0x39);
    assert_int_equal(f->sent, 1);
    assert_int_equal(read_low(f, 9), MASKED | LEVEL | 0x39);
    write_entry(f, 9, 0, LEVEL | 0x39);
    assert_int_equal(f->sent, 2);
}

static void unmasking_in_service_sends_nothing(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 9, 0, LEVEL | 0x39);
    ioapic_set_line(&f->dev, 9, true);
    write_entry(f, 9, 0, MASKED | LEVEL | 0x39);
    write_entry(f, 9, 0, LEVEL | 0x39);
    assert_int_equal(f->sent, 1);
}

/* By this trick kernels clear remote IRR on an I/O APIC without an EOI register. */
static void a_switch_to_edge_and_back_clears_remote_irr(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 9, 0, LEVEL | 0x39);
    ioapic_set_line(&f->dev, 9, true);
    ioapic_set_line(&f->dev, 9, false);
    write_entry(f, 9, 0, MASKED | 0x39);
    assert_int_equal(read_low(f, 9), MASKED | 0x39);
    write_entry(f, 9, 0, MASKED | LEVEL | 0x39);
    assert_int_equal(read_low(f, 9), MASKED | LEVEL | 0x39);
}

static void a_switch_to_level_takes_the_line_as_it_stands(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 9, 0, 0x39);
    ioapic_set_line(&f->dev, 9, true);
    assert_int_equal(f->sent, 1);
    write_entry(f, 9, 0, LEVEL | 0x39);
    assert_int_equal(f->sent, 2);
}

static void a_change_of_destination_in_service_keeps_remote_irr(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 9, 0, LEVEL | 0x39);
    ioapic_set_line(&f->dev, 9, true);
    write_reg(f, 0x11 + 2 * 9, 0x02000000);
    assert_int_equal(f->sent, 1);
    assert_int_equal(read_low(f, 9) & REMOTE_IRR, REMOTE_IRR);
    ioapic_eoi(&f->dev, 0x39);
    assert_int_equal(last(f)->addr, 0xfee02000);
}

static void nmi_is_an_edge_whatever_the_trigger_bit_says(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 9, 0, LEVEL | NMI);
    pulse(f, 9);
    pulse(f, 9);
    assert_int_equal(f->sent, 2);
    assert_int_equal(last(f)->data, NMI);
    assert_int_equal(read_low(f, 9) & REMOTE_IRR, 0);
}

static void a_level_that_nobody_took_is_tried_again(void **state)
{
    struct fixture *f = *state;

    f->taken = -ENOENT;
    write_entry(f, 9, 7, LEVEL | 0x39);
    ioapic_set_line(&f->dev, 9, true);
    assert_int_equal(read_low(f, 9) & REMOTE_IRR, 0);
    assert_int_equal(fake.complaints, 1);
    f->taken = 0;
    write_entry(f, 9, 0, LEVEL | 0x39);
    assert_int_equal(f->sent, 1);
}

/* --- life --- */

static void a_reset_masks_all_and_keeps_the_lines(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 9, 1, LEVEL | 0x39);
    write_reg(f, 0, 0x05000000);
    ioapic_set_line(&f->dev, 9, true);
    ioapic_device.reset(&f->dev);
    assert_int_equal(read_low(f, 9), MASKED);
    assert_int_equal(read_reg(f, 0), 0);
    write_entry(f, 9, 0, LEVEL | 0x39);
    assert_int_equal(f->sent, 2);
}

static void saved_state_is_restored_and_sends_nothing(void **state)
{
    struct fixture *f = *state;

    write_reg(f, 0, 0x03000000);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        write_entry(f, pin, (uint8_t)pin, (pin & 1 ? LEVEL : 0) | (pin % 3 ? 0 : MASKED) | (0x40 + pin));
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin += 5)
        ioapic_set_line(&f->dev, pin, true);
    f->sent = 0;
    assert_round_trip(&ioapic_device, &f->dev, &f->other);
    assert_int_equal(f->sent, 0);
    ioapic_eoi(&f->other, 0x40 + 5);
    assert_int_equal(f->sent, 1);
    assert_int_equal(last(f)->data, 0xc000 | 0x45);
}

static void impossible_state_is_refused(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 9, 0, LEVEL | 0x39);
    ioapic_set_line(&f->dev, 9, true);
    assert_refused(&ioapic_device, &f->dev, "redirection", 0, 0, BIT(12));
    assert_refused(&ioapic_device, &f->dev, "redirection", 0, 23, BIT(17));
    assert_refused(&ioapic_device, &f->dev, "redirection", 0, 23, BIT(40));
    assert_refused(&ioapic_device, &f->dev, "redirection", 0, 5, REMOTE_IRR); /* of an edge */
    assert_refused(&ioapic_device, &f->dev, "redirection", 0, 5, REMOTE_IRR | LEVEL | NMI);
    assert_refused(&ioapic_device, &f->dev, "lines", 0, 0, BIT(24));
    assert_refused(&ioapic_device, &f->dev, "id", 0, 0, 0x10);
    assert_truncations_are_refused(&ioapic_device, &f->dev);
    assert_int_equal(f->sent, 1);
}

static void hostile_accesses_do_no_harm(void **state)
{
    struct fixture *f = *state;
    const uint64_t bases[] = {SELECT, WINDOW, EOI_REGISTER, IOAPIC_GPA + 0xff8};

    fake_seed(82093);
    for (unsigned i = 0; i < 2000; i++) {
        fuzz_registers(&f->mmio, bases, ARRAY_SIZE(bases), 8, 32, &ioapic_device, &f->dev);
        f->taken = fake_random() % 4 ? 0 : -ENOENT;
        ioapic_set_line(&f->dev, (unsigned)fake_random() % 30, fake_random() & 1);
        ioapic_eoi(&f->dev, (uint8_t)fake_random());
    }
    fuzz_load(&ioapic_device, &f->dev, 4000);
    f->taken = 0;
    ioapic_device.reset(&f->dev);
    ioapic_set_line(&f->dev, 4, false);
    write_entry(f, 4, 0, 0x34);
    pulse(f, 4);
    assert_int_equal(last(f)->data, 0x34);
}

static void on_level(void *opaque, unsigned pin, uint64_t addr, uint32_t data)
{
    struct fixture *f = opaque;

    f->level[pin] = (struct message){addr, data};
    f->told++;
}

static void who_watches_levels_is_told_of_each_change_once(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 5, 1, LEVEL | 0x41);
    ioapic_watch_levels(&f->dev, on_level);
    assert_int_equal(f->told, 1);
    assert_int_equal(f->level[5].addr, 0xfee01000);
    assert_int_equal(f->level[5].data, 0xc041);
    write_entry(f, 5, 1, LEVEL | MASKED | 0x41); /* one in service may be masked: it stays */
    write_entry(f, 6, 1, 0x42);                  /* an edge is nobody's business */
    assert_int_equal(f->told, 1);
    write_entry(f, 5, 3, LEVEL | 0x41);
    assert_int_equal(f->level[5].addr, 0xfee03000);
    write_entry(f, 5, 3, LEVEL | 0x51);
    assert_int_equal(f->level[5].data, 0xc051);
    write_entry(f, 5, 3, 0x51);
    assert_int_equal(f->level[5].data, 0);
    write_entry(f, 7, 0, LEVEL | 0x0f); /* an illegal vector is never sent */
    assert_int_equal(f->level[7].data, 0);
}

static void who_watches_levels_is_told_of_resets_and_loads(void **state)
{
    struct fixture *f = *state;
    struct state_writer w;
    struct state_reader r;
    struct err e;

    ioapic_watch_levels(&f->dev, on_level);
    write_entry(f, 9, 2, LEVEL | 0x61);
    state_writer_init(&w);
    assert_int_equal(ioapic_device.save(&f->dev, &w), 0);
    ioapic_device.reset(&f->dev);
    assert_int_equal(f->level[9].data, 0);
    state_reader_init(&r, w.data, w.len);
    assert_int_equal(ioapic_device.load(&f->dev, &r, &e), 0);
    assert_int_equal(f->level[9].addr, 0xfee02000);
    assert_int_equal(f->level[9].data, 0xc061);
    state_writer_fini(&w);
}

#define IOAPIC_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IOAPIC_TEST(it_is_version_0x20_with_24_entries),
        IOAPIC_TEST(the_identifier_has_4_bits_and_is_the_arbitration_identifier),
        IOAPIC_TEST(entries_are_masked_at_power_on),
        IOAPIC_TEST(entries_keep_what_is_writable),
        IOAPIC_TEST(other_indices_and_offsets_read_0),
        IOAPIC_TEST(the_select_register_reads_back),
        IOAPIC_TEST(an_edge_is_one_message_with_vector_and_destination),
        IOAPIC_TEST(mode_and_delivery_come_through),
        IOAPIC_TEST(polarity_changes_nothing),
        IOAPIC_TEST(each_input_has_its_own_entry),
        IOAPIC_TEST(illegal_vectors_are_not_sent),
        IOAPIC_TEST(an_edge_input_sends_when_it_rises_only),
        IOAPIC_TEST(an_edge_that_finds_its_input_masked_is_lost),
        IOAPIC_TEST(a_level_is_sent_once_until_it_is_ended),
        IOAPIC_TEST(other_vectors_end_nothing),
        IOAPIC_TEST(inputs_that_share_a_vector_are_ended_together),
        IOAPIC_TEST(the_eoi_register_ends_as_the_bus_message_does),
        IOAPIC_TEST(a_masked_level_waits_for_its_unmasking),
        IOAPIC_TEST(a_level_that_is_masked_in_service_comes_again_after_unmasking),
        IOAPIC_TEST(unmasking_in_service_sends_nothing),
        IOAPIC_TEST(a_switch_to_edge_and_back_clears_remote_irr),
        IOAPIC_TEST(a_switch_to_level_takes_the_line_as_it_stands),
        IOAPIC_TEST(a_change_of_destination_in_service_keeps_remote_irr),
        IOAPIC_TEST(nmi_is_an_edge_whatever_the_trigger_bit_says),
        IOAPIC_TEST(a_level_that_nobody_took_is_tried_again),
        IOAPIC_TEST(a_reset_masks_all_and_keeps_the_lines),
        IOAPIC_TEST(saved_state_is_restored_and_sends_nothing),
        IOAPIC_TEST(impossible_state_is_refused),
        IOAPIC_TEST(hostile_accesses_do_no_harm),
        IOAPIC_TEST(who_watches_levels_is_told_of_each_change_once),
        IOAPIC_TEST(who_watches_levels_is_told_of_resets_and_loads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
