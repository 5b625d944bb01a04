/* The ISA lines reach both interrupt controllers; a kernel that looks for its timer finds it on either. */
#include "chipset_fake.h"

#include "chipset/acpi_pm.h"
#include "chipset/cmos.h"
#include "chipset/i8254.h"
#include "chipset/i8259.h"
#include "chipset/ioapic.h"
#include "chipset/isa_irq.h"

#define WINDOW (IOAPIC_GPA + 0x10)
#define LEVEL 0x8000U
#define MASKED 0x10000U

#define HZ 250
#define LATCH ((I8254_HZ + HZ / 2) / HZ)

struct fixture {
    struct bus pio, mmio;
    struct i8259 pic;
    struct ioapic ioapic;
    struct isa_irq isa;
    struct i8254 pit;
    struct cmos cmos;
    struct acpi_pm acpi_pm;
    bool intr;
    unsigned messages[256]; /* by vector */
};

static void on_intr(void *opaque, bool level)
{
    ((struct fixture *)opaque)->intr = level;
}

static int on_msi(void *opaque, uint64_t addr, uint32_t data)
{
    (void)addr;
    ((struct fixture *)opaque)->messages[data & 0xff]++;
    return 0;
}

static void on_power_off(void *opaque)
{
    (void)opaque;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    fake_start(1700000000 * NS_PER_SEC);
    bus_init(&f->pio);
    bus_init(&f->mmio);
    assert_int_equal(i8259_init(&f->pic, &f->pio, on_intr, f, &e), 0);
    assert_int_equal(ioapic_init(&f->ioapic, &f->mmio, on_msi, f, &e), 0);
    isa_irq_init(&f->isa, &f->pic, &f->ioapic);
    assert_int_equal(i8254_init(&f->pit, &f->pio, NULL, isa_irq_line(&f->isa, 0), &e), 0);
    assert_int_equal(cmos_init(&f->cmos, &f->pio, NULL, isa_irq_line(&f->isa, 8), MIB(256), 0, &e), 0);
    assert_int_equal(acpi_pm_init(&f->acpi_pm, &f->pio, NULL, isa_irq_line(&f->isa, 9), on_power_off, f, &e), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    acpi_pm_fini(&f->acpi_pm);
    cmos_fini(&f->cmos);
    i8254_fini(&f->pit);
    ioapic_fini(&f->ioapic);
    i8259_fini(&f->pic);
    assert_int_equal(f->pio.count + f->mmio.count, 0);
    bus_fini(&f->mmio);
    bus_fini(&f->pio);
    free(f);
    return 0;
}

static void init_pic(struct fixture *f, uint8_t master_mask, uint8_t slave_mask)
{
    static const struct {
        uint16_t port;
        uint8_t value;
    } sequence[] = {{0x20, 0x11}, {0x21, 0x30}, {0x21, 0x04}, {0x21, 0x01}, {0xa0, 0x11}, {0xa1, 0x38}, {0xa1, 0x02}, {0xa1, 0x01}};

    for (unsigned i = 0; i < ARRAY_SIZE(sequence); i++)
        out8(&f->pio, sequence[i].port, sequence[i].value);
    out8(&f->pio, 0x21, master_mask);
    out8(&f->pio, 0xa1, slave_mask);
}

static void write_entry(struct fixture *f, unsigned pin, uint32_t low)
{
    bus_write(&f->mmio, IOAPIC_GPA, 4, 0x10 + 2 * pin);
    bus_write(&f->mmio, WINDOW, 4, low);
}

static void start_tick(struct fixture *f)
{
    out8(&f->pio, 0x43, 0x34);
    out8(&f->pio, 0x40, LATCH & 0xff);
    out8(&f->pio, 0x40, LATCH >> 8);
}

/* Counts the interrupts that the 8259 pair gives while time goes by. */
static unsigned serve_pic(struct fixture *f, int vector, unsigned ms)
{
    unsigned count = 0;

    for (unsigned i = 0; i < ms; i++) {
        fake_advance(NS_PER_MS);
        while (f->intr) {
            assert_int_equal(i8259_ack(&f->pic), vector);
            if (vector >= 0x38)
                out8(&f->pio, 0xa0, 0x20);
            out8(&f->pio, 0x20, 0x20);
            count++;
        }
    }
    return count;
}

static void every_line_reaches_both_controllers(void **state)
{
    struct fixture *f = *state;

    init_pic(f, 0, 0);
    for (unsigned irq = 0; irq < ISA_IRQS; irq++) {
        struct irq_line line;

        if (irq == 2)
            continue;
        line = isa_irq_line(&f->isa, irq);
        write_entry(f, irq == 0 ? ISA_IRQ0_GSI : irq, 0x60 + irq);
        irq_set(&line, false);
        irq_pulse(&line);
        assert_true(f->intr);
        assert_int_equal(i8259_ack(&f->pic), 0x30 + irq);
        if (irq >= 8)
            out8(&f->pio, 0xa0, 0x20);
        out8(&f->pio, 0x20, 0x20);
        assert_int_equal(f->messages[0x60 + irq], 1);
    }
}

/* The 8259 pair is masked, the tick runs, and input 2 is unmasked as an edge: ten ticks later time must have gone on. */
static void the_tick_comes_through_input_2_of_the_io_apic(void **state)
{
    struct fixture *f = *state;

    init_pic(f, 0xff, 0xff);
    start_tick(f);
    write_entry(f, 2, MASKED | 0x30);
    fake_advance(20 * NS_PER_MS);
    assert_int_equal(f->messages[0x30], 0);
    write_entry(f, 2, 0x30);
    fake_advance(40 * NS_PER_MS);
    assert_in_range(f->messages[0x30], 9, 11);
    assert_false(f->intr);
}

static void no_tick_comes_through_input_0(void **state)
{
    struct fixture *f = *state;

    init_pic(f, 0xff, 0xff);
    start_tick(f);
    write_entry(f, 0, 0x31);
    fake_advance(NS_PER_SEC);
    assert_int_equal(f->messages[0x31], 0);
}

static void the_tick_comes_through_the_8259_pair(void **state)
{
    struct fixture *f = *state;

    init_pic(f, 0xfe, 0xff);
    start_tick(f);
    assert_in_range(serve_pic(f, 0x30, 1000), HZ - 1, HZ + 1);
}

static void a_one_shot_comes_once_through_the_io_apic(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 2, 0x30);
    for (unsigned i = 0; i < 5; i++) {
        out8(&f->pio, 0x43, 0x38); /* mode 4 */
        out8(&f->pio, 0x40, 0x00);
        out8(&f->pio, 0x40, 0x10);
        f->messages[0x30] = 0; /* the mode's change may be an edge */
        fake_advance(0x1000 * NS_PER_SEC / I8254_HZ - 1000);
        assert_int_equal(f->messages[0x30], 0);
        fake_advance(3000);
        assert_int_equal(f->messages[0x30], 1);
        fake_advance(NS_PER_SEC);
        assert_int_equal(f->messages[0x30], 1);
    }
}

static void clock_updates_come_as_irq_8(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 8, 0x38);
    out8(&f->pio, 0x70, 0x0b);
    out8(&f->pio, 0x71, 0x12);
    for (unsigned second = 1; second <= 5; second++) {
        fake_advance(NS_PER_SEC);
        assert_int_equal(f->messages[0x38], second);
        out8(&f->pio, 0x70, 0x0c);
        assert_int_equal(in8(&f->pio, 0x71) & 0x90, 0x90);
    }
}

static void the_sci_is_a_level_at_input_9(void **state)
{
    struct fixture *f = *state;

    write_entry(f, 9, LEVEL | 0x39);
    bus_write(&f->pio, ACPI_PM1_EVENT_PORT + 2, 2, 0x100);
    acpi_pm_power_button(&f->acpi_pm);
    assert_int_equal(f->messages[0x39], 1);
    ioapic_eoi(&f->ioapic, 0x39);
    assert_int_equal(f->messages[0x39], 2); /* the event is still there */
    bus_write(&f->pio, ACPI_PM1_EVENT_PORT, 2, 0x100);
    ioapic_eoi(&f->ioapic, 0x39);
    assert_int_equal(f->messages[0x39], 2);
}

#define ISA_IRQ_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ISA_IRQ_TEST(every_line_reaches_both_controllers),
        ISA_IRQ_TEST(the_tick_comes_through_input_2_of_the_io_apic),
        ISA_IRQ_TEST(no_tick_comes_through_input_0),
        ISA_IRQ_TEST(the_tick_comes_through_the_8259_pair),
        ISA_IRQ_TEST(a_one_shot_comes_once_through_the_io_apic),
        ISA_IRQ_TEST(clock_updates_come_as_irq_8),
        ISA_IRQ_TEST(the_sci_is_a_level_at_input_9),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
