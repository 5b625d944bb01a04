/* virtio over PCI: notifications by MSI-X and INTx, and the doorbells that the driver rings. */
#include "virtio_pci_driver.h"

/* --- interrupts --- */

static void without_messages_isr_and_the_line_tell(void **state)
{
    struct fixture *f = *state;

    start(f, FEATURES);
    echo_once(f, 1);
    assert_true(f->line[SLOT % PCI_INTX_LINES]);
    assert_int_equal(cfg_read(f, 6, 2) & 8, 8); /* Interrupt Status */
    assert_int_equal(read_isr(f), 1);
    assert_false(f->line[SLOT % PCI_INTX_LINES]);
    assert_int_equal(read_isr(f), 0);
    pthread_mutex_lock(&f->echo->dev.lock);
    virtio_config_changed(&f->echo->dev);
    pthread_mutex_unlock(&f->echo->dev.lock);
    assert_int_equal(bus_read(&f->mmio, f->at.isr + 1, 1), 0); /* reads nothing, and so clears nothing */
    assert_true(f->line[SLOT % PCI_INTX_LINES]);
    assert_int_equal(read_isr(f), 2);
    assert_int_equal(f->sent, 0);
}

static void with_messages_each_queue_has_its_own(void **state)
{
    struct fixture *f = *state;

    turn_on_messages(f);
    start(f, FEATURES);
    for (unsigned q = 0; q < ECHO_QUEUES; q++) {
        echo_once(f, q);
        assert_int_equal(f->sent, q + 1);
        assert_int_equal(f->messages[q], 0x41 + q);
    }
    assert_int_equal(read_isr(f), 0);
    pthread_mutex_lock(&f->echo->dev.lock);
    virtio_config_changed(&f->echo->dev);
    pthread_mutex_unlock(&f->echo->dev.lock);
    assert_int_equal(f->messages[ECHO_QUEUES], 0x40);
    assert_int_equal(get(f, GENERATION, 1), 1);
    assert_int_equal(read_isr(f), 2); /* with MSI-X too (4.1.4.5.1) */
    assert_false(f->line[SLOT % PCI_INTX_LINES]);
}

static void a_queue_without_a_vector_sends_nothing(void **state)
{
    struct fixture *f = *state;

    turn_on_messages(f);
    start(f, FEATURES);
    put(f, QUEUE_SELECT, 2, 0);
    put(f, QUEUE_VECTOR, 2, NO_VECTOR);
    echo_once(f, 0);
    assert_int_equal(f->sent, 0);
}

static void a_masked_vector_is_pending_and_sent_when_unmasked(void **state)
{
    struct fixture *f = *state;
    uint64_t table = f->at.bar + (cfg_read(f, f->at.msix + 4, 4) & ~7U), pba = f->at.bar + (cfg_read(f, f->at.msix + 8, 4) & ~7U);

    turn_on_messages(f);
    start(f, FEATURES);
    bus_write(&f->mmio, table + 16 * 2 + 12, 4, 1);
    echo_once(f, 1);
    assert_int_equal(f->sent, 0);
    assert_true(bus_read(&f->mmio, pba, 8) == BIT(2));
    bus_write(&f->mmio, table + 16 * 2 + 12, 4, 0);
    assert_int_equal(f->sent, 1);
    assert_int_equal(f->messages[0], 0x42);
    assert_true(bus_read(&f->mmio, pba, 8) == 0);
}

static void the_line_falls_when_messages_are_turned_on_and_stays_down(void **state)
{
    struct fixture *f = *state;

    start(f, FEATURES);
    echo_once(f, 0);
    assert_true(f->line[SLOT % PCI_INTX_LINES]);
    turn_on_messages(f);
    assert_false(f->line[SLOT % PCI_INTX_LINES]);
    pthread_mutex_lock(&f->echo->dev.lock);
    virtio_config_changed(&f->echo->dev); /* leaves a bit in ISR */
    pthread_mutex_unlock(&f->echo->dev.lock);
    cfg_write(f, f->at.msix + 2, 2, 0);
    assert_false(f->line[SLOT % PCI_INTX_LINES]);
}

static void a_broken_driver_is_told_by_the_configuration_interrupt(void **state)
{
    struct fixture *f = *state;
    struct virtq_segment outside = {GIB(64), 1};

    turn_on_messages(f);
    start(f, FEATURES);
    driver_add(&f->driver[0], &outside, 1, 0);
    driver_show(&f->driver[0]);
    notify(f, 0);
    echo_settle(f->loop);
    assert_int_equal(get(f, STATUS, 1), STARTED | VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(f->sent, 1);
    assert_int_equal(f->messages[0], 0x40);
    assert_int_equal(complaints, 1);
}

/* --- doorbells --- */

static void every_queue_answers_at_its_own_address(void **state)
{
    struct fixture *f = *state;

    start(f, FEATURES);
    for (unsigned q = 0; q < ECHO_QUEUES; q++)
        echo_once(f, q);
    assert_int_equal(f->echo->kicks, ECHO_QUEUES);
    bus_write(&f->mmio, f->at.notify + 4 * ECHO_QUEUES, 2, 0);
    bus_write(&f->mmio, f->at.notify + 1, 1, 0);
    bus_write(&f->mmio, f->at.notify + 0xffc, 4, 0);
    echo_settle(f->loop);
    assert_int_equal(f->echo->kicks, ECHO_QUEUES);
    assert_int_equal(bus_read(&f->mmio, f->at.notify, 2), 0);
}

struct bells {
    uint64_t on[ECHO_QUEUES], off[ECHO_QUEUES]; /* addresses, by queue */
    struct virtio_device *dev;
};

static int on_doorbell(void *opaque, uint64_t addr, int fd, bool on)
{
    struct bells *b = opaque;

    for (unsigned q = 0; q < ECHO_QUEUES; q++)
        if (b->dev->kicks[q].event.fd == fd)
            *(on ? &b->on[q] : &b->off[q]) = addr;
    return 0;
}

static void doorbells_follow_the_bar(void **state)
{
    struct fixture *f = *state;
    struct bells bells = {.dev = &f->echo->dev};
    uint64_t before = f->at.notify, moved = f->at.bar + MIB(4);

    f->mmio.doorbell = on_doorbell;
    f->mmio.doorbell_opaque = &bells;
    cfg_write(f, 0x10, 4, (uint32_t)moved);
    for (unsigned q = 0; q < ECHO_QUEUES; q++) {
        assert_true(bells.off[q] == before + 4 * q);
        assert_true(bells.on[q] == before + MIB(4) + 4 * q);
    }
    memset(bells.on, 0, sizeof(bells.on));
    cfg_write(f, 4, 2, 0); /* decoding off */
    assert_true(bells.off[1] == before + MIB(4) + 4 && bells.on[1] == 0);
    cfg_write(f, 4, 2, 2);
    assert_true(bells.on[2] == before + MIB(4) + 8);
    cfg_write(f, 0x10, 4, (uint32_t)f->at.bar);
    f->mmio.doorbell = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_queue_answers_at_its_own_address),
        TEST(without_messages_isr_and_the_line_tell),
        TEST(with_messages_each_queue_has_its_own),
        TEST(a_queue_without_a_vector_sends_nothing),
        TEST(a_masked_vector_is_pending_and_sent_when_unmasked),
        TEST(the_line_falls_when_messages_are_turned_on_and_stays_down),
        TEST(a_broken_driver_is_told_by_the_configuration_interrupt),
        TEST(doorbells_follow_the_bar),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
