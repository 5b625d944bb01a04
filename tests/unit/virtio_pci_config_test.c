/* virtio over PCI: what a driver finds, the registers of the common configuration, the access window. */
#include "virtio_pci_driver.h"

#include "virtio/rng.h"

/* --- what a driver finds --- */

static void the_function_is_a_modern_virtio_device(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(cfg_read(f, 0x00, 4), (0x1040U + ECHO_ID) << 16 | 0x1af4);
    assert_int_equal(cfg_read(f, 0x08, 4), echo_ops.pci_class << 8 | 1);
    assert_int_equal(cfg_read(f, 0x2c, 4), (0x1040U + ECHO_ID) << 16 | 0x1af4);
    assert_int_equal(cfg_read(f, 0x3d, 1), 1);       /* INTA */
    assert_int_equal(cfg_read(f, 0x10, 4) & 0xf, 4); /* memory, 64 bits */
}

static void capabilities_name_parts_that_do_not_overlap(void **state)
{
    const uint32_t least[] = {0, 0x3c, 4 * ECHO_QUEUES, 1, ECHO_CONFIG_BYTES, 0};
    struct fixture *f = *state;

    for (unsigned type = CAP_COMMON; type <= CAP_WINDOW; type++) {
        unsigned cap = f->at.caps[type];

        assert_int_not_equal(cap, 0);
        assert_int_equal(cap % 4, 0);
        assert_int_equal(cfg_read(f, cap + 2, 1), type == CAP_NOTIFY || type == CAP_WINDOW ? 20 : 16);
        assert_int_equal(cfg_read(f, cap + 12, 4), least[type]);
        assert_int_equal(cfg_read(f, cap + 8, 4) % 4, 0);
        for (unsigned other = CAP_COMMON; other < type && type < CAP_WINDOW; other++) {
            uint32_t a = cfg_read(f, cap + 8, 4), b = cfg_read(f, f->at.caps[other] + 8, 4);

            assert_true(a >= b + least[other] || b >= a + least[type]);
        }
    }
    assert_int_equal((cfg_read(f, f->at.msix + 2, 2) & 0x7ff) + 1, ECHO_QUEUES + 1);
}

static void a_device_without_configuration_has_no_such_capability(void **state)
{
    struct fixture *f = *state;
    struct err e;

    virtio_pci_free(f->vpci);
    f->vpci = virtio_pci_new(&f->host, virtio_rng_new(&f->env, "rng0", 0, &e), SLOT, &e);
    assert_non_null(f->vpci);
    find_parts(f);
    assert_int_equal(f->at.caps[CAP_CONFIG], 0);
    assert_int_not_equal(f->at.caps[CAP_COMMON], 0);
    assert_int_equal(bus_read(&f->mmio, f->at.bar + 0x2000, 4), 0);
}

static void a_slot_that_is_taken_is_told_and_the_device_freed(void **state)
{
    struct fixture *f = *state;
    struct err e = {""};
    struct echo *echo = echo_new(&f->env, "echo1", &e);
    bool freed = false;

    assert_non_null(echo);
    echo->freed = &freed;
    assert_null(virtio_pci_new(&f->host, &echo->dev, SLOT, &e));
    assert_true(freed);
    assert_non_null(strstr(e.text, "echo1"));
    virtio_pci_free(NULL);
}

/* --- common configuration --- */

static void features_are_seen_in_halves(void **state)
{
    struct fixture *f = *state;
    uint64_t offered = f->echo->dev.features;

    put(f, DEVICE_FEATURE_SELECT, 4, 0);
    assert_int_equal(get(f, DEVICE_FEATURE, 4), (uint32_t)offered);
    put(f, DEVICE_FEATURE_SELECT, 4, 1);
    assert_int_equal(get(f, DEVICE_FEATURE, 4), offered >> 32);
    put(f, DEVICE_FEATURE_SELECT, 4, 2);
    assert_int_equal(get(f, DEVICE_FEATURE, 4), 0);
    put(f, DRIVER_FEATURE_SELECT, 4, 0x80000001);
    put(f, DRIVER_FEATURE, 4, 0xffffffff);
    assert_true(f->echo->dev.state.driver_features == 0);
    put(f, DRIVER_FEATURE_SELECT, 4, 1);
    put(f, DRIVER_FEATURE, 4, 0x12345678);
    assert_true(f->echo->dev.state.driver_features == 0x1234567800000000);
    assert_int_equal(get(f, DRIVER_FEATURE, 4), 0x12345678);
}

static void refused_features_leave_features_ok_clear(void **state)
{
    struct fixture *f = *state;

    put(f, STATUS, 1, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    put(f, STATUS, 1, AGREED);
    assert_int_equal(get(f, STATUS, 1), VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
}

static void a_queue_that_is_none_reads_as_size_0_and_takes_nothing(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(get(f, NUM_QUEUES, 2), ECHO_QUEUES);
    agree(f, FEATURES);
    for (unsigned q = ECHO_QUEUES; q < 0x10000; q = q * 3 + 1) {
        put(f, QUEUE_SELECT, 2, q);
        assert_int_equal(get(f, QUEUE_SELECT, 2), q);
        put(f, QUEUE_SIZE, 2, 8);
        put(f, QUEUE_VECTOR, 2, 1);
        put64(f, QUEUE_DESC, 0x1000);
        put(f, QUEUE_ENABLE, 2, 1);
        put(f, QUEUE_RESET, 2, 1);
        assert_int_equal(get(f, QUEUE_SIZE, 2), 0);
        assert_int_equal(get(f, QUEUE_VECTOR, 2), NO_VECTOR);
        assert_int_equal(get(f, QUEUE_ENABLE, 2), 0);
        assert_true(get(f, QUEUE_DESC, 8) == 0);
    }
    assert_int_equal(get(f, STATUS, 1), AGREED);
}

static void addresses_are_written_whole_or_in_halves_and_nothing_else(void **state)
{
    const unsigned registers[] = {QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(registers); i++) {
        put(f, registers[i] + 4, 4, 0x11223344);
        put(f, registers[i], 4, 0x55667788);
        assert_true(get(f, registers[i], 8) == 0x1122334455667788);
        assert_int_equal(get(f, registers[i] + 2, 4), 0x33445566);
        put(f, registers[i], 2, 0);
        put(f, registers[i] + 4, 1, 0);
        put(f, registers[i] + 2, 4, 0);
        assert_true(get(f, registers[i], 8) == 0x1122334455667788);
        put(f, registers[i], 8, 0x8877665544332211 + i);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(registers); i++)
        assert_true(get(f, registers[i], 8) == 0x8877665544332211 + i);
}

static void fields_take_their_own_width_alone(void **state)
{
    struct fixture *f = *state;

    put(f, QUEUE_SELECT, 4, 1);
    put(f, QUEUE_SELECT, 1, 1);
    assert_int_equal(get(f, QUEUE_SELECT, 2), 0);
    put(f, DEVICE_FEATURE_SELECT, 2, 1);
    assert_int_equal(get(f, DEVICE_FEATURE_SELECT, 4), 0);
    put(f, STATUS, 2, VIRTIO_STATUS_ACKNOWLEDGE);
    put(f, STATUS, 4, VIRTIO_STATUS_ACKNOWLEDGE);
    assert_int_equal(get(f, STATUS, 1), 0);
    put(f, NUM_QUEUES, 2, 1);
    put(f, GENERATION, 1, 77);
    put(f, QUEUE_NOTIFY_OFF, 2, 77);
    assert_int_equal(get(f, NUM_QUEUES, 2), ECHO_QUEUES);
    assert_int_equal(get(f, GENERATION, 1), 0);
    assert_int_equal(get(f, QUEUE_NOTIFY_OFF, 2), 0);
    assert_int_equal(bus_read(&f->mmio, f->at.common + 0x3c, 4), 0);
    assert_int_equal(bus_read(&f->mmio, f->at.bar + 0x7ffc, 4), 0);
    bus_write(&f->mmio, f->at.bar + 0x7ffc, 4, 1);
}

static void vectors_that_are_none_are_not_taken(void **state)
{
    struct fixture *f = *state;

    put(f, CONFIG_VECTOR, 2, ECHO_QUEUES);
    assert_int_equal(get(f, CONFIG_VECTOR, 2), ECHO_QUEUES);
    put(f, CONFIG_VECTOR, 2, ECHO_QUEUES + 1);
    assert_int_equal(get(f, CONFIG_VECTOR, 2), NO_VECTOR);
    put(f, QUEUE_VECTOR, 2, 0);
    assert_int_equal(get(f, QUEUE_VECTOR, 2), 0);
    put(f, QUEUE_VECTOR, 2, 0xfffe);
    assert_int_equal(get(f, QUEUE_VECTOR, 2), NO_VECTOR);
}

static void an_enabled_queue_keeps_its_rings(void **state)
{
    struct fixture *f = *state;

    start(f, FEATURES);
    put(f, QUEUE_SELECT, 2, 0);
    put64(f, QUEUE_DESC, 0);
    put(f, QUEUE_SIZE, 2, 2);
    put(f, QUEUE_ENABLE, 2, 0);
    assert_true(get(f, QUEUE_DESC, 8) == f->driver[0].desc);
    assert_int_equal(get(f, QUEUE_SIZE, 2), f->driver[0].size);
    assert_int_equal(get(f, QUEUE_ENABLE, 2), 1);
    put(f, QUEUE_VECTOR, 2, 0);
    assert_int_equal(get(f, QUEUE_VECTOR, 2), 0);
    echo_once(f, 0);
}

static void the_devices_configuration_is_in_its_part(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(bus_read(&f->mmio, f->at.config + 2, 2), 0xc3c2);
    bus_write(&f->mmio, f->at.config + 4, 4, 0x01020304);
    assert_int_equal(f->echo->saved.config[4], 4);
    assert_true(bus_read(&f->mmio, f->at.config + ECHO_CONFIG_BYTES, 8) == 0);
}

/* --- the access window --- */

static void set_window(struct fixture *f, uint8_t bar, uint32_t off, uint32_t len)
{
    unsigned cap = f->at.caps[CAP_WINDOW];

    cfg_write(f, cap + 4, 1, bar);
    cfg_write(f, cap + 8, 4, off);
    cfg_write(f, cap + 12, 4, len);
}

static uint32_t window_read(struct fixture *f, uint32_t off, unsigned size)
{
    set_window(f, 0, off, size);
    return cfg_read(f, f->at.caps[CAP_WINDOW] + 16, size);
}

static void window_write(struct fixture *f, uint32_t off, unsigned size, uint32_t value)
{
    set_window(f, 0, off, size);
    cfg_write(f, f->at.caps[CAP_WINDOW] + 16, size, value);
}

static void the_window_reaches_the_bar_even_when_it_is_not_decoded(void **state)
{
    struct fixture *f = *state;

    cfg_write(f, 4, 2, 0);
    window_write(f, STATUS, 1, VIRTIO_STATUS_ACKNOWLEDGE);
    assert_int_equal(f->echo->dev.state.status, VIRTIO_STATUS_ACKNOWLEDGE);
    assert_int_equal(window_read(f, STATUS, 1), VIRTIO_STATUS_ACKNOWLEDGE);
    window_write(f, DEVICE_FEATURE_SELECT, 4, 1);
    assert_int_equal(window_read(f, DEVICE_FEATURE, 4), f->echo->dev.features >> 32);
    assert_int_equal(window_read(f, NUM_QUEUES, 2), ECHO_QUEUES);
    assert_int_equal(window_read(f, 0x2000 + 6, 2), 0xc7c6);
    window_write(f, 0x2000 + 6, 2, 0x1234);
    assert_int_equal(window_read(f, 0x2000 + 4, 4), 0x1234c5c4);
    assert_int_equal(cfg_read(f, f->at.caps[CAP_WINDOW] + 8, 4), 0x2000 + 4);
}

static void a_window_that_is_set_wrongly_reaches_nothing(void **state)
{
    static const struct {
        uint8_t bar;
        uint32_t off, len;
    } wrong[] = {
        {1, 0x2004, 4},          {0xff, 0x2004, 4},      {0, 0x2004, 0},     {0, 0x2004, 3},          {0, 0x2004, 8},
        {0, 0x2004, 0x80000004}, {0, 0x2002, 4},         {0, 0x2005, 2},     {0, KIB(32), 4},         {0, 0xfffffffc, 4},
        {0, 0x80002004, 4},      {0, UINT32_MAX - 1, 2}, {0, UINT32_MAX, 1}, {0, 0x2004, UINT32_MAX},
    };
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
        unsigned data = f->at.caps[CAP_WINDOW] + 16;

        set_window(f, 0, 0x2004, 4);
        set_window(f, wrong[i].bar, wrong[i].off, wrong[i].len);
        cfg_write(f, data, 4, 0x5a5a5a5a);
        assert_int_equal(cfg_read(f, data, 4), 0x5a5a5a5a); /* what was written, not what is there */
    }
    assert_int_equal(f->echo->config_writes, 0);
}

static void the_window_acts_only_when_its_data_are_touched(void **state)
{
    struct fixture *f = *state;

    start(f, FEATURES);
    echo_once(f, 0);
    set_window(f, 0, 0x1000, 1);
    for (unsigned off = 0; off < 256; off += 4)
        if (off != f->at.caps[CAP_WINDOW] + 16)
            cfg_read(f, off, 4);
    assert_true(f->line[SLOT % PCI_INTX_LINES]);
    assert_int_equal(cfg_read(f, f->at.caps[CAP_WINDOW] + 16, 1), 1); /* reads ISR */
    assert_false(f->line[SLOT % PCI_INTX_LINES]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_function_is_a_modern_virtio_device),
        TEST(capabilities_name_parts_that_do_not_overlap),
        TEST(a_device_without_configuration_has_no_such_capability),
        TEST(a_slot_that_is_taken_is_told_and_the_device_freed),
        TEST(features_are_seen_in_halves),
        TEST(refused_features_leave_features_ok_clear),
        TEST(a_queue_that_is_none_reads_as_size_0_and_takes_nothing),
        TEST(addresses_are_written_whole_or_in_halves_and_nothing_else),
        TEST(fields_take_their_own_width_alone),
        TEST(vectors_that_are_none_are_not_taken),
        TEST(an_enabled_queue_keeps_its_rings),
        TEST(the_devices_configuration_is_in_its_part),
        TEST(the_window_reaches_the_bar_even_when_it_is_not_decoded),
        TEST(a_window_that_is_set_wrongly_reaches_nothing),
        TEST(the_window_acts_only_when_its_data_are_touched),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
