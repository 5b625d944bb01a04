/* The virtio device core: status, features, queues, drivers that break the rules, configuration, statistics. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "virtio_echo_driver.h"

#define RING_FEATURES                                                                                                                      \
    (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_INDIRECT_DESC) | BIT(VIRTIO_F_EVENT_IDX) | BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_F_RING_RESET))

/* --- status and features --- */

static void ring_features_are_added_to_the_devices_own(void **state)
{
    struct fixture *f = *state;

    assert_true(f->dev->features == (RING_FEATURES | BIT(ECHO_FEATURE)));
}

static void features_that_are_not_offered_are_refused(void **state)
{
    struct fixture *f = *state;

    for (unsigned bit = 0; bit < 64; bit++) {
        bool offered = f->dev->features >> bit & 1;

        virtio_set_status(f->dev, 0);
        negotiate(f, BIT(VIRTIO_F_VERSION_1) | BIT(bit));
        assert_int_equal(!!(f->dev->state.status & VIRTIO_STATUS_FEATURES_OK), offered);
    }
    assert_true(complaints > 0);
}

static void a_driver_of_the_legacy_interface_is_refused(void **state)
{
    struct fixture *f = *state;

    negotiate(f, BIT(ECHO_FEATURE));
    assert_int_equal(f->dev->state.status, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    negotiate(f, BIT(ECHO_FEATURE) | BIT(VIRTIO_F_VERSION_1)); /* it may try again */
    assert_int_equal(f->dev->state.status, AGREED);
}

static void features_are_fixed_once_they_are_agreed(void **state)
{
    struct fixture *f = *state;

    negotiate(f, SPLIT);
    set_features(f->dev, PACKED);
    assert_true(f->dev->state.driver_features == SPLIT);
    virtio_set_driver_features(f->dev, 2, 0xffffffff);
    virtio_set_status(f->dev, 0);
    assert_true(f->dev->state.driver_features == 0);
    virtio_set_driver_features(f->dev, 2, 0xffffffff); /* there is no such half */
    assert_true(f->dev->state.driver_features == 0);
}

static void status_bits_stay_until_a_reset(void **state)
{
    struct fixture *f = *state;

    start(f, SPLIT);
    virtio_set_status(f->dev, VIRTIO_STATUS_ACKNOWLEDGE);
    assert_int_equal(f->dev->state.status, STARTED);
    virtio_set_status(f->dev, STARTED | VIRTIO_STATUS_FAILED);
    assert_int_equal(f->dev->state.status, STARTED | VIRTIO_STATUS_FAILED);
    virtio_set_status(f->dev, 0);
    assert_int_equal(f->dev->state.status, 0);
}

static void the_driver_cannot_set_bits_that_are_not_its_own(void **state)
{
    struct fixture *f = *state;

    virtio_set_status(f->dev, 0xff & ~(VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK));
    assert_int_equal(f->dev->state.status, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FAILED);
}

static void a_device_starts_once_and_only_with_agreed_features(void **state)
{
    struct fixture *f = *state;

    virtio_set_status(f->dev, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK);
    assert_int_equal(f->dev->state.status, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    assert_int_equal(f->echo->starts, 0);
    start(f, SPLIT);
    virtio_set_status(f->dev, STARTED);
    assert_int_equal(f->echo->starts, 1);
}

/* --- queues --- */

static void queues_are_enabled_between_features_and_start(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(enable(f, 0), -EINVAL); /* too early */
    assert_false(f->dev->queues[0].state.enabled);
    negotiate(f, SPLIT & ~BIT(VIRTIO_F_RING_RESET));
    assert_int_equal(enable(f, 0), 0);
    assert_int_equal(virtio_enable_queue(f->dev, 0), 0); /* it is */
    virtio_set_status(f->dev, STARTED);
    assert_int_equal(enable(f, 1), -EINVAL); /* too late */
    assert_int_equal(f->dev->state.status, STARTED);
    echo_once(f, 0, "still well");
    assert_int_equal(virtio_enable_queue(f->dev, ECHO_QUEUES), -EINVAL);
}

static void impossible_rings_make_the_device_need_a_reset(void **state)
{
    struct fixture *f = *state;

    negotiate(f, SPLIT);
    f->dev->queues[0].state.desc = GIB(64);
    assert_int_equal(virtio_enable_queue(f->dev, 0), -EINVAL);
    assert_int_equal(f->dev->state.status, AGREED | VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(f->config_interrupts, 0); /* none is sent before DRIVER_OK */
    assert_int_equal(enable(f, 1), -EINVAL);
    virtio_set_status(f->dev, STARTED | VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(f->dev->state.status, AGREED | VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(f->echo->starts, 0);
    virtio_set_status(f->dev, 0);
    start(f, SPLIT);
    echo_once(f, 0, "well again");
}

static void a_queue_is_reset_and_used_anew_while_others_go_on(void **state)
{
    struct fixture *f = *state;

    start(f, PACKED);
    echo_once(f, 0, "before");
    virtio_reset_queue(f->dev, 0);
    assert_int_equal(f->echo->queue_resets, 1);
    assert_false(f->dev->queues[0].state.enabled);
    assert_int_equal(f->dev->queues[0].state.size, ECHO_QUEUE_SIZE);
    virtio_doorbell(f->dev, 0); /* of a queue that is none: nothing */
    echo_once(f, 1, "others go on");
    assert_int_equal(enable(f, 0), 0);
    echo_once(f, 0, "after");
}

static void queues_are_not_reset_by_a_driver_that_did_not_agree_on_it(void **state)
{
    struct fixture *f = *state;

    start(f, SPLIT & ~BIT(VIRTIO_F_RING_RESET));
    virtio_reset_queue(f->dev, 0);
    virtio_reset_queue(f->dev, ECHO_QUEUES);
    assert_int_equal(f->echo->queue_resets, 0);
    echo_once(f, 0, "it is still there");
}

/* --- drivers that break the rules --- */

static void break_ring(struct fixture *f, unsigned queue)
{
    struct virtq_segment outside = {GIB(64), 1};

    driver_add(&f->driver[queue], &outside, 1, 0);
    driver_show(&f->driver[queue]);
    virtio_doorbell(f->dev, queue);
    echo_settle(f->loop);
}

static void a_broken_ring_makes_the_device_need_a_reset_and_tells_once(void **state)
{
    struct fixture *f = *state;

    start(f, SPLIT);
    break_ring(f, 1);
    assert_int_equal(f->dev->state.status, STARTED | VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(f->config_interrupts, 1);
    assert_int_equal(complaints, 1);
    for (unsigned q = 0; q < ECHO_QUEUES; q++) { /* nothing is done any more */
        request(f, q, "in vain");
        virtio_doorbell(f->dev, q);
    }
    echo_settle(f->loop);
    virtio_broken(f->dev, "it breaks %s more rules", "two");
    assert_int_equal(f->config_interrupts, 1);
    assert_int_equal(complaints, 2);
    expect_silence(f, 0);
    virtio_set_status(f->dev, 0);
    start(f, SPLIT);
    echo_once(f, 1, "well again");
}

static void breaking_a_device_that_is_being_reset_only_complains(void **state)
{
    struct fixture *f = *state;

    start_and_hold(f);
    virtio_set_status(f->dev, 0);
    virtio_broken(f->dev, "%s", "it does what it must not");
    assert_int_equal(complaints, 1);
    assert_false(f->dev->state.status & VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(f->config_interrupts, 0);
}

/* --- the device's configuration --- */

static void configuration_is_read_in_any_size_and_beyond_its_end_as_zeros(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(virtio_config_read(f->dev, 0, 1), 0xc0);
    assert_int_equal(virtio_config_read(f->dev, 2, 2), 0xc3c2);
    assert_int_equal(virtio_config_read(f->dev, 16, 4), 0xd3d2d1d0);
    assert_true(virtio_config_read(f->dev, 8, 8) == 0xcfcecdcccbcac9c8);
    assert_int_equal(virtio_config_read(f->dev, 18, 4), 0xd3d2);
    assert_int_equal(virtio_config_read(f->dev, 16, 8), 0xd3d2d1d0);
    assert_int_equal(virtio_config_read(f->dev, 20, 1), 0);
    assert_int_equal(virtio_config_read(f->dev, 4088, 8), 0);
}

static void configuration_is_written_within_its_bounds(void **state)
{
    struct fixture *f = *state;

    virtio_config_write(f->dev, 4, 4, 0x11223344);
    assert_int_equal(virtio_config_read(f->dev, 4, 4), 0x11223344);
    virtio_config_write(f->dev, 18, 4, 0);
    virtio_config_write(f->dev, 20, 1, 0);
    assert_int_equal(f->echo->config_writes, 1);
}

static void a_change_is_told_by_generation_and_interrupt(void **state)
{
    struct fixture *f = *state;
    uint8_t generation = f->dev->state.config_generation;

    virtio_config_changed(f->dev);
    assert_int_equal(f->dev->state.config_generation, (uint8_t)(generation + 1));
    assert_int_equal(f->config_interrupts, 0);
    start(f, SPLIT);
    virtio_config_changed(f->dev);
    assert_int_equal(f->dev->state.config_generation, (uint8_t)(generation + 2));
    assert_int_equal(f->config_interrupts, 1);
}

/* --- statistics, and what the host lacks --- */

struct numbers {
    struct stats_out out;
    struct {
        char name[48];
        uint64_t value;
    } rows[64];
    unsigned count;
};

static void on_number(struct stats_out *out, const char *group, const char *name, uint64_t value)
{
    struct numbers *n = container_of(out, struct numbers, out);

    assert_string_equal(group, "echo0");
    assert_in_range(n->count, 0, ARRAY_SIZE(n->rows) - 1);
    snprintf(n->rows[n->count].name, sizeof(n->rows[0].name), "%s", name);
    n->rows[n->count++].value = value;
}

static uint64_t number(const struct numbers *n, const char *name)
{
    for (unsigned i = 0; i < n->count; i++)
        if (!strcmp(n->rows[i].name, name))
            return n->rows[i].value;
    fail_msg("no number is called %s", name);
    return 0;
}

static void each_queue_counts_kicks_chains_bytes_and_interrupts(void **state)
{
    struct fixture *f = *state;
    struct numbers n = {.out = {.number = on_number}};

    start(f, SPLIT);
    echo_once(f, 1, "12345");
    driver_set_interrupts(&f->driver[1], false);
    echo_once(f, 1, "1234567");
    virtio_stats(f->dev, &n.out);
    assert_int_equal(number(&n, "queue 1 kicks"), 2);
    assert_int_equal(number(&n, "queue 1 chains"), 2);
    assert_int_equal(number(&n, "queue 1 bytes read"), 12);
    assert_int_equal(number(&n, "queue 1 bytes written"), 12);
    assert_int_equal(number(&n, "queue 1 interrupts"), 1);
    assert_int_equal(number(&n, "queue 1 interrupts suppressed"), 1);
    assert_int_equal(number(&n, "queue 0 kicks"), 0);
    assert_int_equal(number(&n, "queue 2 chains"), 0);
    assert_int_equal(number(&n, "starts"), 1);
    assert_int_equal(f->interrupts[1], 1);
}

static unsigned open_files(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned count = 0;

    assert_non_null(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

static void a_host_without_files_to_spare_is_told_and_nothing_leaks(void **state)
{
    struct fixture *f = *state;
    unsigned before = open_files();
    struct rlimit limit, low;
    struct err e = {""};
    struct echo *echo;
    int lowest = dup(STDIN_FILENO);

    assert_true(lowest >= 0);
    close(lowest);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    low = limit;
    low.rlim_cur = (rlim_t)lowest + ECHO_QUEUES - 1; /* one too few */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    echo = echo_new(&f->env, "echo1", &e);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_null(echo);
    assert_non_null(strstr(e.text, "echo1"));
    assert_non_null(strstr(e.text, "ulimit -n"));
    assert_int_equal(open_files(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(ring_features_are_added_to_the_devices_own),
        TEST(features_that_are_not_offered_are_refused),
        TEST(a_driver_of_the_legacy_interface_is_refused),
        TEST(features_are_fixed_once_they_are_agreed),
        TEST(status_bits_stay_until_a_reset),
        TEST(the_driver_cannot_set_bits_that_are_not_its_own),
        TEST(a_device_starts_once_and_only_with_agreed_features),
        TEST(queues_are_enabled_between_features_and_start),
        TEST(impossible_rings_make_the_device_need_a_reset),
        TEST(a_queue_is_reset_and_used_anew_while_others_go_on),
        TEST(queues_are_not_reset_by_a_driver_that_did_not_agree_on_it),
        TEST(a_broken_ring_makes_the_device_need_a_reset_and_tells_once),
        TEST(breaking_a_device_that_is_being_reset_only_complains),
        TEST(configuration_is_read_in_any_size_and_beyond_its_end_as_zeros),
        TEST(configuration_is_written_within_its_bounds),
        TEST(a_change_is_told_by_generation_and_interrupt),
        TEST(each_queue_counts_kicks_chains_bytes_and_interrupts),
        TEST(a_host_without_files_to_spare_is_told_and_nothing_leaks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
