/* The 8259A pair: initialization, priorities, ends of interrupt, rotation, masks, polling, edge and level. */
#include "chipset_fake.h"

#include "chipset/i8259.h"

#define MASTER 0x20
#define SLAVE 0xa0
#define ELCR 0x4d0

#define EOI 0x20
#define READ_IRR 0x0a
#define READ_ISR 0x0b

struct fixture {
    struct bus pio, pio2;
    struct i8259 dev, other;
    bool intr, other_intr;
    unsigned changes;
};

static void on_intr(void *opaque, bool level)
{
    struct fixture *f = opaque;

    assert_int_not_equal(f->intr, level); /* called on changes only */
    f->intr = level;
    f->changes++;
}

static void on_other_intr(void *opaque, bool level)
{
    ((struct fixture *)opaque)->other_intr = level;
}

/* ICW1 to ICW4, as a kernel writes them; icw4 0 leaves the fourth out. */
static void init_chip(struct fixture *f, uint16_t port, uint8_t icw1, uint8_t base, uint8_t icw4)
{
    out8(&f->pio, port, icw1);
    out8(&f->pio, port + 1, base);
    if (!(icw1 & 2))
        out8(&f->pio, port + 1, port == MASTER ? 0x04 : 0x02);
    if (icw1 & 1)
        out8(&f->pio, port + 1, icw4);
}

static void init_pair(struct fixture *f)
{
    init_chip(f, MASTER, 0x11, 0x30, 0x01);
    init_chip(f, SLAVE, 0x11, 0x38, 0x01);
}

static int setup_raw(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    fake_start(0);
    bus_init(&f->pio);
    bus_init(&f->pio2);
    assert_int_equal(i8259_init(&f->dev, &f->pio, on_intr, f, &e), 0);
    assert_int_equal(i8259_init(&f->other, &f->pio2, on_other_intr, f, &e), 0);
    *state = f;
    return 0;
}

static int setup(void **state)
{
    setup_raw(state);
    init_pair(*state);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    i8259_fini(&f->other);
    i8259_fini(&f->dev);
    assert_int_equal(f->pio.count, 0);
    bus_fini(&f->pio2);
    bus_fini(&f->pio);
    free(f);
    return 0;
}

static void raise_line(struct fixture *f, unsigned irq)
{
    i8259_set_line(&f->dev, irq, true);
}

static void pulse(struct fixture *f, unsigned irq)
{
    i8259_set_line(&f->dev, irq, true);
    i8259_set_line(&f->dev, irq, false);
}

static uint8_t read_isr(struct fixture *f, uint16_t port)
{
    out8(&f->pio, port, READ_ISR);
    return in8(&f->pio, port);
}

static uint8_t read_irr(struct fixture *f, uint16_t port)
{
    out8(&f->pio, port, READ_IRR);
    return in8(&f->pio, port);
}

/* --- initialization --- */

static void nothing_leaves_a_pair_that_was_never_initialized(void **state)
{
    struct fixture *f = *state;

    for (unsigned irq = 0; irq < 16; irq++)
        pulse(f, irq);
    assert_false(f->intr);
    assert_int_equal(i8259_ack(&f->dev), -1);
}

static void a_half_initialized_pair_is_silent(void **state)
{
    struct fixture *f = *state;

    out8(&f->pio, MASTER, 0x11);
    pulse(f, 1);
    out8(&f->pio, MASTER + 1, 0x30);
    out8(&f->pio, MASTER + 1, 0x04);
    assert_false(f->intr);
    assert_int_equal(i8259_ack(&f->dev), -1);
    out8(&f->pio, MASTER + 1, 0x01);
    assert_true(f->intr); /* the edge came after ICW1 */
    assert_int_equal(i8259_ack(&f->dev), 0x31);
}

static void every_length_of_the_sequence_ends(void **state)
{
    struct fixture *f = *state;
    static const uint8_t icw1[] = {0x10, 0x11, 0x12, 0x13};

    for (unsigned i = 0; i < ARRAY_SIZE(icw1); i++) {
        init_chip(f, MASTER, icw1[i], 0x50, 0x01);
        out8(&f->pio, MASTER + 1, 0xa5); /* OCW1, if the sequence is over */
        assert_int_equal(in8(&f->pio, MASTER + 1), 0xa5);
        pulse(f, 1);
        assert_int_equal(i8259_ack(&f->dev), 0x51);
    }
}

static void icw1_clears_masks_service_edges_and_modes(void **state)
{
    struct fixture *f = *state;

    out8(&f->pio, MASTER + 1, 0x0c);
    pulse(f, 0);
    assert_int_equal(i8259_ack(&f->dev), 0x30);
    pulse(f, 3);
    out8(&f->pio, MASTER, 0xc4); /* input 4 is lowest */
    out8(&f->pio, MASTER, 0x68); /* special mask mode */
    out8(&f->pio, MASTER, READ_ISR);
    out8(&f->pio, MASTER, 0x11);
    assert_int_equal(in8(&f->pio, MASTER), 0); /* IRR again: the edge is forgotten */
    init_chip(f, MASTER, 0x11, 0x30, 0x01);
    assert_int_equal(in8(&f->pio, MASTER + 1), 0);
    assert_int_equal(read_isr(f, MASTER), 0);
    assert_false(f->intr);
    pulse(f, 5);
    pulse(f, 1);
    assert_int_equal(i8259_ack(&f->dev), 0x31); /* and 7 is lowest */
    out8(&f->pio, MASTER, 0x80);                /* rotation in automatic EOI mode */
    out8(&f->pio, MASTER, READ_ISR);
    init_chip(f, MASTER, 0x11, 0x30, 0x03);
    out8(&f->pio, MASTER + 1, 0x10);
    pulse(f, 4);
    assert_int_equal(in8(&f->pio, MASTER), 0x10); /* IRR */
    pulse(f, 0);
    i8259_ack(&f->dev);
    pulse(f, 1);
    pulse(f, 0);
    assert_int_equal(i8259_ack(&f->dev), 0x30); /* no rotation */
}

static void a_line_that_stands_needs_a_new_edge_after_initialization(void **state)
{
    struct fixture *f = *state;

    raise_line(f, 1);
    init_pair(f);
    assert_false(f->intr);
    raise_line(f, 1); /* no edge: it stood already */
    assert_false(f->intr);
    i8259_set_line(&f->dev, 1, false);
    raise_line(f, 1);
    assert_true(f->intr);
}

static void vector_bases_ignore_their_low_bits(void **state)
{
    struct fixture *f = *state;

    init_chip(f, MASTER, 0x11, 0x37, 0x01);
    pulse(f, 0);
    assert_int_equal(i8259_ack(&f->dev), 0x30);
}

/* The test by which kernels find out whether there is a pair at all. */
static void the_mask_reads_as_written(void **state)
{
    struct fixture *f = *state;

    out8(&f->pio, SLAVE + 1, 0xff);
    out8(&f->pio, MASTER + 1, 0xfb);
    assert_int_equal(in8(&f->pio, MASTER + 1), 0xfb);
    assert_int_equal(in8(&f->pio, SLAVE + 1), 0xff);
}

/* --- priorities and ends --- */

static void each_input_has_its_vector(void **state)
{
    struct fixture *f = *state;

    for (unsigned irq = 0; irq < 16; irq++) {
        if (irq == 2)
            continue;
        pulse(f, irq);
        assert_true(f->intr);
        assert_int_equal(i8259_ack(&f->dev), 0x30 + irq);
        assert_false(f->intr);
        if (irq >= 8)
            out8(&f->pio, SLAVE, EOI);
        out8(&f->pio, MASTER, EOI);
        assert_int_equal(read_isr(f, MASTER) | read_isr(f, SLAVE), 0);
    }
}

static void the_lowest_input_goes_first_and_the_slave_is_input_2(void **state)
{
    struct fixture *f = *state;
    static const unsigned order[] = {0, 1, 8, 9, 10, 11, 12, 13, 14, 15, 3, 4, 5, 6, 7};

    for (unsigned irq = 16; irq-- > 0;)
        pulse(f, irq);
    for (unsigned i = 0; i < ARRAY_SIZE(order); i++) {
        assert_int_equal(i8259_ack(&f->dev), 0x30 + order[i]);
        if (order[i] >= 8)
            out8(&f->pio, SLAVE, EOI);
        out8(&f->pio, MASTER, EOI);
    }
    assert_false(f->intr);
}

static void one_in_service_holds_back_its_like_and_below_only(void **state)
{
    struct fixture *f = *state;

    pulse(f, 4);
    assert_int_equal(i8259_ack(&f->dev), 0x34);
    pulse(f, 4);
    pulse(f, 5);
    assert_false(f->intr);
    pulse(f, 1);
    assert_true(f->intr);
    assert_int_equal(i8259_ack(&f->dev), 0x31);
    assert_int_equal(read_isr(f, MASTER), 0x12);
    out8(&f->pio, MASTER, EOI); /* non-specific: the highest in service */
    assert_int_equal(read_isr(f, MASTER), 0x10);
    assert_false(f->intr);
    out8(&f->pio, MASTER, EOI);
    assert_int_equal(i8259_ack(&f->dev), 0x34);
    out8(&f->pio, MASTER, EOI);
    assert_int_equal(i8259_ack(&f->dev), 0x35);
}

static void a_specific_eoi_ends_that_input(void **state)
{
    struct fixture *f = *state;

    pulse(f, 5);
    i8259_ack(&f->dev);
    pulse(f, 1);
    i8259_ack(&f->dev);
    out8(&f->pio, MASTER, 0x60 | 5);
    assert_int_equal(read_isr(f, MASTER), 0x02);
    out8(&f->pio, MASTER, 0x60 | 7); /* not in service: nothing */
    out8(&f->pio, MASTER, 0x40);     /* no operation */
    assert_int_equal(read_isr(f, MASTER), 0x02);
}

static void the_slave_is_held_back_until_both_are_ended(void **state)
{
    struct fixture *f = *state;

    pulse(f, 12);
    assert_int_equal(i8259_ack(&f->dev), 0x3c);
    assert_int_equal(read_isr(f, MASTER), 0x04);
    pulse(f, 8); /* higher, but the master sees one input in service */
    assert_false(f->intr);
    out8(&f->pio, MASTER, EOI);
    assert_true(f->intr);
    assert_int_equal(i8259_ack(&f->dev), 0x38);
    assert_int_equal(read_isr(f, SLAVE), 0x11);
}

static void special_fully_nested_lets_a_higher_slave_input_through(void **state)
{
    struct fixture *f = *state;

    init_chip(f, MASTER, 0x11, 0x30, 0x11);
    pulse(f, 12);
    assert_int_equal(i8259_ack(&f->dev), 0x3c);
    pulse(f, 13);
    assert_false(f->intr);
    pulse(f, 8);
    assert_true(f->intr);
    assert_int_equal(i8259_ack(&f->dev), 0x38);
    out8(&f->pio, SLAVE, EOI);
    assert_int_equal(read_isr(f, SLAVE), 0x10);
}

static void automatic_eoi_leaves_nothing_in_service(void **state)
{
    struct fixture *f = *state;

    init_chip(f, MASTER, 0x11, 0x30, 0x03);
    init_chip(f, SLAVE, 0x11, 0x38, 0x03);
    pulse(f, 4);
    assert_int_equal(i8259_ack(&f->dev), 0x34);
    pulse(f, 4);
    assert_int_equal(i8259_ack(&f->dev), 0x34);
    pulse(f, 9);
    assert_int_equal(i8259_ack(&f->dev), 0x39);
    assert_int_equal(read_isr(f, MASTER) | read_isr(f, SLAVE), 0);
}

/* --- rotation --- */

static void rotation_on_eoi_makes_the_input_lowest(void **state)
{
    struct fixture *f = *state;

    pulse(f, 4);
    i8259_ack(&f->dev);
    out8(&f->pio, MASTER, 0xa0); /* rotate on non-specific EOI: 5 is highest now */
    pulse(f, 4);
    pulse(f, 6);
    pulse(f, 0);
    assert_int_equal(i8259_ack(&f->dev), 0x36);
    out8(&f->pio, MASTER, 0xe6); /* rotate on specific EOI: 7 is highest now */
    assert_int_equal(i8259_ack(&f->dev), 0x30);
    out8(&f->pio, MASTER, EOI);
    assert_int_equal(i8259_ack(&f->dev), 0x34);
}

static void set_priority_names_the_lowest_input(void **state)
{
    struct fixture *f = *state;

    for (unsigned lowest = 0; lowest < 8; lowest++) {
        out8(&f->pio, MASTER, (uint8_t)(0xc0 | lowest));
        for (unsigned irq = 0; irq < 8; irq++)
            pulse(f, irq);
        for (unsigned rank = 0; rank < 8; rank++) {
            unsigned input = (lowest + 1 + rank) & 7;

            if (input == 2)
                continue;
            assert_int_equal(i8259_ack(&f->dev), 0x30 + input);
            out8(&f->pio, MASTER, EOI);
        }
    }
}

static void automatic_eoi_can_rotate(void **state)
{
    struct fixture *f = *state;

    init_chip(f, MASTER, 0x11, 0x30, 0x03);
    out8(&f->pio, MASTER, 0x80);
    pulse(f, 0);
    assert_int_equal(i8259_ack(&f->dev), 0x30);
    pulse(f, 0);
    pulse(f, 7);
    assert_int_equal(i8259_ack(&f->dev), 0x37);
    assert_int_equal(i8259_ack(&f->dev), 0x30);
    out8(&f->pio, MASTER, 0x00); /* no more; 1 is highest from here on */
    pulse(f, 7);
    pulse(f, 0);
    assert_int_equal(i8259_ack(&f->dev), 0x37);
    pulse(f, 7);
    assert_int_equal(i8259_ack(&f->dev), 0x37);
}

/* --- masks --- */

static void a_masked_input_keeps_its_request(void **state)
{
    struct fixture *f = *state;

    out8(&f->pio, MASTER + 1, 0x08);
    pulse(f, 3);
    assert_false(f->intr);
    assert_int_equal(read_irr(f, MASTER), 0x08);
    out8(&f->pio, MASTER + 1, 0x00);
    assert_true(f->intr);
    assert_int_equal(i8259_ack(&f->dev), 0x33);
    assert_int_equal(read_irr(f, MASTER), 0x00);
}

static void masking_the_cascade_masks_the_slave(void **state)
{
    struct fixture *f = *state;

    out8(&f->pio, MASTER + 1, 0x04);
    pulse(f, 8);
    assert_false(f->intr);
    out8(&f->pio, MASTER + 1, 0x00);
    assert_int_equal(i8259_ack(&f->dev), 0x38);
}

static void special_mask_mode_lets_lower_inputs_through(void **state)
{
    struct fixture *f = *state;

    pulse(f, 1);
    i8259_ack(&f->dev);
    pulse(f, 6);
    assert_false(f->intr);
    out8(&f->pio, MASTER + 1, 0x02); /* masking the one in service is not enough */
    assert_false(f->intr);
    out8(&f->pio, MASTER, 0x68);
    assert_true(f->intr);
    assert_int_equal(i8259_ack(&f->dev), 0x36);
    out8(&f->pio, MASTER, EOI); /* passes over the masked one */
    assert_int_equal(read_isr(f, MASTER), 0x02);
    out8(&f->pio, MASTER, 0x08); /* ESMM clear: the mode stays */
    pulse(f, 6);
    assert_true(f->intr);
    out8(&f->pio, MASTER, 0x48);
    assert_false(f->intr);
}

/* --- edges, levels, spurious --- */

static void an_edge_that_is_gone_is_still_a_request_and_counts_once(void **state)
{
    struct fixture *f = *state;

    raise_line(f, 4);
    raise_line(f, 4);
    assert_int_equal(i8259_ack(&f->dev), 0x34);
    out8(&f->pio, MASTER, EOI);
    assert_false(f->intr); /* the line stands, but there was no new edge */
    i8259_set_line(&f->dev, 4, false);
    raise_line(f, 4);
    assert_true(f->intr);
}

static void a_level_is_requested_as_long_as_it_stands(void **state)
{
    struct fixture *f = *state;

    out8(&f->pio, ELCR + 1, 0x02); /* IRQ 9 */
    raise_line(f, 9);
    assert_int_equal(i8259_ack(&f->dev), 0x39);
    out8(&f->pio, SLAVE, EOI);
    out8(&f->pio, MASTER, EOI);
    assert_true(f->intr);
    assert_int_equal(i8259_ack(&f->dev), 0x39);
    i8259_set_line(&f->dev, 9, false);
    out8(&f->pio, SLAVE, EOI);
    out8(&f->pio, MASTER, EOI);
    assert_false(f->intr);
}

static void elcr_has_no_bits_for_the_system_inputs(void **state)
{
    struct fixture *f = *state;

    bus_write(&f->pio, ELCR, 2, 0xffff);
    assert_int_equal(bus_read(&f->pio, ELCR, 2), 0xdef8);
    out8(&f->pio, ELCR, 0);
    assert_int_equal(bus_read(&f->pio, ELCR, 2), 0xde00);
}

static void a_switch_to_level_takes_the_line_as_it_stands(void **state)
{
    struct fixture *f = *state;

    pulse(f, 5);
    assert_true(f->intr);
    out8(&f->pio, ELCR, 0x20);
    assert_false(f->intr);
    out8(&f->pio, ELCR, 0);
    raise_line(f, 5);
    i8259_ack(&f->dev);
    out8(&f->pio, MASTER, EOI);
    out8(&f->pio, ELCR, 0x20);
    assert_true(f->intr);
}

static void a_request_that_is_withdrawn_is_a_spurious_7(void **state)
{
    struct fixture *f = *state;

    out8(&f->pio, ELCR, 0x20);
    raise_line(f, 5);
    assert_true(f->intr);
    i8259_set_line(&f->dev, 5, false);
    assert_false(f->intr);
    assert_int_equal(i8259_ack(&f->dev), 0x37);
    assert_int_equal(read_isr(f, MASTER), 0); /* told from a real one by this */
    pulse(f, 7);
    assert_int_equal(i8259_ack(&f->dev), 0x37);
    assert_int_equal(read_isr(f, MASTER), 0x80);
}

static void masking_after_the_request_is_spurious_too(void **state)
{
    struct fixture *f = *state;

    pulse(f, 3);
    out8(&f->pio, MASTER + 1, 0xff);
    assert_int_equal(i8259_ack(&f->dev), 0x37);
    assert_int_equal(read_isr(f, MASTER), 0);
}

static void ltim_makes_every_input_level_triggered(void **state)
{
    struct fixture *f = *state;

    init_chip(f, MASTER, 0x19, 0x30, 0x01);
    pulse(f, 1);
    assert_false(f->intr);
    raise_line(f, 1);
    assert_int_equal(i8259_ack(&f->dev), 0x31);
    out8(&f->pio, MASTER, EOI);
    assert_true(f->intr);
    raise_line(f, 3);
    out8(&f->pio, ELCR, 0x08);
    out8(&f->pio, ELCR, 0x00); /* says nothing while LTIM does */
    assert_int_equal(read_irr(f, MASTER), 0x0a);
}

static void inputs_that_do_not_exist_are_ignored(void **state)
{
    struct fixture *f = *state;

    raise_line(f, 2);
    raise_line(f, 16);
    raise_line(f, 1000);
    assert_false(f->intr);
    assert_int_equal(read_irr(f, MASTER) | read_irr(f, SLAVE), 0);
}

/* --- polling --- */

static void a_poll_takes_the_highest_request_into_service(void **state)
{
    struct fixture *f = *state;

    pulse(f, 6);
    pulse(f, 3);
    out8(&f->pio, MASTER, 0x0c);
    assert_int_equal(in8(&f->pio, MASTER), 0x83);
    assert_int_equal(read_isr(f, MASTER), 0x08);
    out8(&f->pio, MASTER, EOI);
    out8(&f->pio, MASTER, 0x0c);
    assert_int_equal(in8(&f->pio, MASTER + 1), 0x86); /* at either port */
    out8(&f->pio, MASTER + 1, 0x80);
    assert_int_equal(in8(&f->pio, MASTER + 1), 0x80); /* one read only */
    assert_false(f->intr);
}

static void a_poll_without_a_request_says_so(void **state)
{
    struct fixture *f = *state;

    out8(&f->pio, MASTER, 0x0c);
    assert_int_equal(in8(&f->pio, MASTER) & 0x80, 0);
    assert_int_equal(read_isr(f, MASTER), 0);
}

static void the_slave_is_polled_after_the_master(void **state)
{
    struct fixture *f = *state;

    pulse(f, 14);
    out8(&f->pio, MASTER, 0x0c);
    assert_int_equal(in8(&f->pio, MASTER), 0x82);
    out8(&f->pio, SLAVE, 0x0c);
    assert_int_equal(in8(&f->pio, SLAVE), 0x86);
    assert_int_equal(read_isr(f, SLAVE), 0x40);
}

static void the_register_to_read_is_remembered(void **state)
{
    struct fixture *f = *state;

    pulse(f, 3);
    i8259_ack(&f->dev);
    pulse(f, 4);
    out8(&f->pio, MASTER, READ_ISR);
    assert_int_equal(in8(&f->pio, MASTER), 0x08);
    out8(&f->pio, MASTER, 0x08); /* no read command: stays */
    assert_int_equal(in8(&f->pio, MASTER), 0x08);
    out8(&f->pio, MASTER, READ_IRR);
    assert_int_equal(in8(&f->pio, MASTER), 0x10);
    assert_int_equal(bus_read(&f->pio, MASTER, 2), 0x0010); /* a word: both ports */
}

/* --- life --- */

static void a_reset_silences_it_and_keeps_the_lines(void **state)
{
    struct fixture *f = *state;

    raise_line(f, 4);
    pulse(f, 9);
    i8259_device.reset(&f->dev);
    assert_false(f->intr);
    assert_int_equal(i8259_ack(&f->dev), -1);
    init_pair(f);
    raise_line(f, 4); /* it stood already */
    assert_false(f->intr);
}

static void saved_state_is_restored(void **state)
{
    struct fixture *f = *state;

    out8(&f->pio, ELCR + 1, 0x02);
    out8(&f->pio, MASTER, 0xc3);
    pulse(f, 5);
    i8259_ack(&f->dev);
    raise_line(f, 9);
    pulse(f, 4);
    assert_true(f->intr == f->dev.intr_level);
    out8(&f->pio, SLAVE, READ_ISR);
    assert_round_trip(&i8259_device, &f->dev, &f->other);
    assert_int_equal(f->other_intr, f->intr);
    assert_int_equal(i8259_ack(&f->other), i8259_ack(&f->dev));
    out8(&f->pio, SLAVE, 0x11);
    out8(&f->pio, SLAVE + 1, 0x40); /* ICW3 comes next */
    assert_round_trip(&i8259_device, &f->dev, &f->other);
    out8(&f->pio2, SLAVE + 1, 0x02);
    out8(&f->pio2, SLAVE + 1, 0x01);
    out8(&f->pio2, SLAVE + 1, 0x99);
    assert_int_equal(in8(&f->pio2, SLAVE + 1), 0x99);
}

static void impossible_state_is_refused(void **state)
{
    struct fixture *f = *state;

    out8(&f->pio, ELCR, 0x20);
    pulse(f, 4);
    for (unsigned chip = 0; chip < 2; chip++) {
        assert_refused(&i8259_device, &f->dev, "lowest", chip, 0, 8);
        assert_refused(&i8259_device, &f->dev, "init_step", chip, 0, 1);
        assert_refused(&i8259_device, &f->dev, "init_step", chip, 0, 2); /* and yet ready */
        assert_refused(&i8259_device, &f->dev, "init_step", chip, 0, 5);
        assert_refused(&i8259_device, &f->dev, "icw2", chip, 0, 0x33);
        assert_refused(&i8259_device, &f->dev, "elcr", chip, 0, 0x01);
        assert_refused(&i8259_device, &f->dev, "ready", chip, 0, 2);
        assert_refused(&i8259_device, &f->dev, "rotate_aeoi", chip, 0, 2);
        assert_refused(&i8259_device, &f->dev, "special_mask", chip, 0, 2);
        assert_refused(&i8259_device, &f->dev, "read_isr", chip, 0, 2);
        assert_refused(&i8259_device, &f->dev, "poll", chip, 0, 2);
    }
    assert_refused(&i8259_device, &f->dev, "irr", 0, 0, 0x20); /* a level that does not stand */
    out8(&f->pio, SLAVE, 0x12);                                /* neither ICW3 nor ICW4 */
    assert_refused(&i8259_device, &f->dev, "init_step", 1, 0, 3);
    assert_refused(&i8259_device, &f->dev, "init_step", 1, 0, 4);
    assert_truncations_are_refused(&i8259_device, &f->dev);
    assert_true(f->intr);
}

static void hostile_accesses_do_no_harm(void **state)
{
    struct fixture *f = *state;
    const uint64_t bases[] = {MASTER, SLAVE, ELCR};

    fake_seed(8259);
    for (unsigned i = 0; i < 2000; i++) {
        fuzz_registers(&f->pio, bases, 3, 2, 32, &i8259_device, &f->dev);
        i8259_set_line(&f->dev, (unsigned)fake_random() % 20, fake_random() & 1);
        if (fake_random() & 1)
            assert_in_range(i8259_ack(&f->dev) + 1, 0, 256);
        assert_int_equal(f->intr, f->dev.intr_level);
    }
    fuzz_load(&i8259_device, &f->dev, 4000);
    i8259_device.reset(&f->dev);
    for (unsigned irq = 0; irq < 16; irq++)
        i8259_set_line(&f->dev, irq, false);
    init_pair(f);
    pulse(f, 6);
    assert_int_equal(i8259_ack(&f->dev), 0x36);
}

#define RAW_TEST(name) cmocka_unit_test_setup_teardown(name, setup_raw, teardown)
#define I8259_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RAW_TEST(nothing_leaves_a_pair_that_was_never_initialized),
        RAW_TEST(a_half_initialized_pair_is_silent),
        RAW_TEST(every_length_of_the_sequence_ends),
        I8259_TEST(icw1_clears_masks_service_edges_and_modes),
        I8259_TEST(a_line_that_stands_needs_a_new_edge_after_initialization),
        I8259_TEST(vector_bases_ignore_their_low_bits),
        I8259_TEST(the_mask_reads_as_written),
        I8259_TEST(each_input_has_its_vector),
        I8259_TEST(the_lowest_input_goes_first_and_the_slave_is_input_2),
        I8259_TEST(one_in_service_holds_back_its_like_and_below_only),
        I8259_TEST(a_specific_eoi_ends_that_input),
        I8259_TEST(the_slave_is_held_back_until_both_are_ended),
        I8259_TEST(special_fully_nested_lets_a_higher_slave_input_through),
        I8259_TEST(automatic_eoi_leaves_nothing_in_service),
        I8259_TEST(rotation_on_eoi_makes_the_input_lowest),
        I8259_TEST(set_priority_names_the_lowest_input),
        I8259_TEST(automatic_eoi_can_rotate),
        I8259_TEST(a_masked_input_keeps_its_request),
        I8259_TEST(masking_the_cascade_masks_the_slave),
        I8259_TEST(special_mask_mode_lets_lower_inputs_through),
        I8259_TEST(an_edge_that_is_gone_is_still_a_request_and_counts_once),
        I8259_TEST(a_level_is_requested_as_long_as_it_stands),
        I8259_TEST(elcr_has_no_bits_for_the_system_inputs),
        I8259_TEST(a_switch_to_level_takes_the_line_as_it_stands),
        I8259_TEST(a_request_that_is_withdrawn_is_a_spurious_7),
        I8259_TEST(masking_after_the_request_is_spurious_too),
        I8259_TEST(ltim_makes_every_input_level_triggered),
        I8259_TEST(inputs_that_do_not_exist_are_ignored),
        I8259_TEST(a_poll_takes_the_highest_request_into_service),
        I8259_TEST(a_poll_without_a_request_says_so),
        I8259_TEST(the_slave_is_polled_after_the_master),
        I8259_TEST(the_register_to_read_is_remembered),
        I8259_TEST(a_reset_silences_it_and_keeps_the_lines),
        I8259_TEST(saved_state_is_restored),
        I8259_TEST(impossible_state_is_refused),
        I8259_TEST(hostile_accesses_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
