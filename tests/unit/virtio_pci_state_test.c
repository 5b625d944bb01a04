/* virtio over PCI: resets, and saved state. */
#include <errno.h>

#include "virtio_pci_driver.h"

/* --- resets --- */

static void a_reset_takes_everything_back(void **state)
{
    struct fixture *f = *state;

    start(f, FEATURES);
    put(f, DEVICE_FEATURE_SELECT, 4, 1);
    echo_once(f, 1);
    assert_true(f->line[SLOT % PCI_INTX_LINES]);
    put(f, STATUS, 1, 0);
    assert_int_equal(get(f, STATUS, 1), 0);
    assert_false(f->line[SLOT % PCI_INTX_LINES]);
    assert_int_equal(read_isr(f), 0);
    assert_int_equal(get(f, DEVICE_FEATURE_SELECT, 4), 0);
    assert_int_equal(get(f, QUEUE_SELECT, 2), 0);
    assert_int_equal(get(f, CONFIG_VECTOR, 2), NO_VECTOR);
    for (unsigned q = 0; q < ECHO_QUEUES; q++) {
        put(f, QUEUE_SELECT, 2, q);
        assert_int_equal(get(f, QUEUE_ENABLE, 2), 0);
        assert_int_equal(get(f, QUEUE_SIZE, 2), ECHO_QUEUE_SIZE);
        assert_int_equal(get(f, QUEUE_VECTOR, 2), NO_VECTOR);
        assert_true(get(f, QUEUE_DESC, 8) == 0);
    }
}

static void status_is_0_when_the_host_is_done(void **state)
{
    struct fixture *f = *state;

    start(f, FEATURES);
    f->echo->hold = true;
    request(f, 0);
    notify(f, 0);
    echo_settle(f->loop);
    put(f, STATUS, 1, 0);
    assert_int_not_equal(get(f, STATUS, 1), 0);
    echo_complete(f->echo);
    assert_int_equal(get(f, STATUS, 1), 0);
    assert_false(f->line[SLOT % PCI_INTX_LINES]);
}

static void queue_reset_is_0_when_the_host_is_done(void **state)
{
    struct fixture *f = *state;

    start(f, FEATURES);
    f->echo->hold = true;
    request(f, 2);
    notify(f, 2);
    echo_settle(f->loop);
    put(f, QUEUE_RESET, 2, 0);
    assert_int_equal(get(f, QUEUE_ENABLE, 2), 1);
    put(f, QUEUE_RESET, 2, 1);
    assert_int_equal(get(f, QUEUE_RESET, 2), 1);
    assert_int_equal(get(f, QUEUE_ENABLE, 2), 0);
    put(f, QUEUE_SELECT, 2, 1);
    assert_int_equal(get(f, QUEUE_RESET, 2), 0);
    put(f, QUEUE_SELECT, 2, 2);
    echo_complete(f->echo);
    assert_int_equal(get(f, QUEUE_RESET, 2), 0);
    f->echo->hold = false;
    set_up_queue(f, 2, FEATURES);
    echo_once(f, 2);
    echo_once(f, 0);
}

static void a_reset_of_the_machine_waits_for_the_host_and_brings_power_on_state(void **state)
{
    struct fixture *f = *state;
    uint64_t bar = f->at.bar;

    turn_on_messages(f);
    start(f, FEATURES);
    f->echo->hold = true;
    request(f, 0);
    notify(f, 0);
    echo_settle(f->loop);
    virtio_pci_device_ops.reset(f->vpci);
    assert_int_equal(f->echo->held_queue, -1);
    assert_int_equal(get(f, STATUS, 1), 0);
    assert_int_equal(cfg_read(f, f->at.msix + 2, 2) & MSIX_ON, 0);
    assert_int_equal(cfg_read(f, 4, 2) & 4, 0);
    assert_int_equal(bus_read(&f->mmio, f->at.bar + 0x4000 + 12, 4), 1); /* masked */
    assert_true(bar_of(f, 0) == bar);
    f->echo->hold = false;
    start(f, FEATURES);
    echo_once(f, 0);
}

/* --- saved state --- */

static struct state_writer save(struct fixture *f)
{
    struct state_writer w;

    state_writer_init(&w);
    virtio_pci_device_ops.drain(f->vpci);
    assert_int_equal(virtio_pci_device_ops.save(f->vpci, &w), 0);
    return w;
}

static int load(struct fixture *f, const struct state_writer *w, size_t len)
{
    struct state_reader r;
    struct err e = {""};
    int rc;

    state_reader_init(&r, w->data, len);
    rc = virtio_pci_device_ops.load(f->vpci, &r, &e);
    if (rc)
        assert_true(e.text[0]);
    else
        assert_int_equal(r.pos, len);
    return rc;
}

static void move_to_fresh_machine(struct fixture *f)
{
    struct state_writer w = save(f);
    struct map at = f->at;

    virtio_pci_free(f->vpci);
    pci_host_fini(&f->host);
    make_host(f);
    make_device(f);
    assert_int_equal(load(f, &w, w.len), 0);
    f->at = at;
    state_writer_fini(&w);
}

static void a_started_device_goes_on_in_a_fresh_machine(void **state)
{
    struct fixture *f = *state;

    turn_on_messages(f);
    start(f, FEATURES | BIT(VIRTIO_F_RING_PACKED));
    echo_once(f, 1);
    put(f, QUEUE_SELECT, 2, 2);
    put(f, DEVICE_FEATURE_SELECT, 4, 1);
    move_to_fresh_machine(f);
    assert_int_equal(get(f, STATUS, 1), STARTED);
    assert_int_equal(get(f, QUEUE_SELECT, 2), 2);
    assert_int_equal(get(f, DEVICE_FEATURE_SELECT, 4), 1);
    assert_int_equal(get(f, QUEUE_VECTOR, 2), 3);
    f->sent = 0;
    for (unsigned q = 0; q < ECHO_QUEUES; q++)
        echo_once(f, q);
    assert_int_equal(f->sent, ECHO_QUEUES);
    assert_int_equal(f->messages[2], 0x43);
}

static void a_raised_line_stays_so_in_a_fresh_machine(void **state)
{
    struct fixture *f = *state;

    start(f, FEATURES);
    echo_once(f, 1);
    move_to_fresh_machine(f);
    assert_true(f->line[SLOT % PCI_INTX_LINES]);
    assert_int_equal(read_isr(f), 1);
    assert_false(f->line[SLOT % PCI_INTX_LINES]);
}

static void state_that_is_refused_leaves_the_device_as_it_was(void **state)
{
    struct fixture *f = *state;
    struct state_writer empty = save(f), started;

    turn_on_messages(f);
    start(f, FEATURES);
    echo_once(f, 0);
    started = save(f);
    for (size_t len = 0; len < empty.len; len += 1 + len % 97)
        assert_int_equal(load(f, &empty, len), -EINVAL);
    f->sent = 0;
    echo_once(f, 0);
    assert_int_equal(f->sent, 1);
    assert_int_equal(load(f, &empty, empty.len), 0);
    assert_int_equal(get(f, STATUS, 1), 0);
    for (size_t len = 0; len < started.len; len += 1 + len % 97)
        assert_int_equal(load(f, &started, len), -EINVAL);
    assert_int_equal(get(f, STATUS, 1), 0);
    state_writer_fini(&started);
    state_writer_fini(&empty);
}

/* Changes a byte of the field of that name in the saved bytes. */
static void bend(struct state_writer *w, const char *name, unsigned at, uint8_t value)
{
    uint8_t *field = memmem(w->data, w->len, name, strlen(name));

    assert_non_null(field);
    field[strlen(name) + 3 + at] = value; /* behind the name: size of an element (1), their count (2) */
}

static void impossible_state_is_refused(void **state)
{
    static const struct {
        const char *name;
        unsigned at;
        uint8_t value;
    } bends[] = {
        {"isr", 0, 4},
        {"config_vector", 1, 0},
        {"queue_vectors", 1, 0},
        {"queue_vectors", 2 * ECHO_QUEUES + 1, 0},
    };
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(bends); i++) {
        struct state_writer w = save(f);

        bend(&w, bends[i].name, bends[i].at, bends[i].value);
        assert_int_equal(load(f, &w, w.len), -EINVAL);
        state_writer_fini(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_reset_takes_everything_back),
        TEST(status_is_0_when_the_host_is_done),
        TEST(queue_reset_is_0_when_the_host_is_done),
        TEST(a_reset_of_the_machine_waits_for_the_host_and_brings_power_on_state),
        TEST(a_started_device_goes_on_in_a_fresh_machine),
        TEST(a_raised_line_stays_so_in_a_fresh_machine),
        TEST(state_that_is_refused_leaves_the_device_as_it_was),
        TEST(impossible_state_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
