/* The virtio entropy device: answers, the rate limit and who waits for it, resets while somebody waits, saved state. */
#include "chipset_fake.h"

#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "virtio/rng.h"
#include "virtq_driver.h"

#define SPLIT (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_RESET))
#define PACKED (SPLIT | BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_F_EVENT_IDX))
#define AGREED (VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK)
#define STARTED (AGREED | VIRTIO_STATUS_DRIVER_OK)

#define QUEUE_SIZE 16
#define RING_BASE 0x10000
#define RING_BYTES KIB(512)

/* How the host's generator behaves. */
static struct {
    int interruptions; /* that come before an answer */
    int error;
    size_t most; /* bytes per call */
    unsigned calls;
} host;

ssize_t getrandom(void *buf, size_t len, unsigned flags)
{
    host.calls++;
    errno = host.interruptions ? EINTR : host.error;
    if (host.interruptions && host.interruptions--)
        return -1;
    return host.error ? -1 : syscall(SYS_getrandom, buf, MIN(len, host.most), flags);
}

struct fixture {
    struct mem mem;
    struct loop *loop;
    struct virtio_env env;
    struct virtio_device *dev;
    struct virtq_driver driver;
    unsigned interrupts;
    unsigned greed; /* requests that the driver adds at once, one for each that comes back */
};

static bool on_interrupt(void *transport, int queue)
{
    struct fixture *f = transport;

    f->interrupts += queue == 0;
    if (f->greed) {
        uint32_t len;
        f->greed--;
        assert_true(driver_take(&f->driver, &len) >= 0);
        assert_true(driver_request(&f->driver, NULL, 0, 16) >= 0);
        driver_show(&f->driver);
    }
    return false;
}

static void make_device(struct fixture *f, uint64_t bytes_per_second)
{
    struct err e;

    virtio_free(f->dev);
    f->dev = virtio_rng_new(&f->env, "rng0", bytes_per_second, &e);
    assert_non_null(f->dev);
    f->dev->interrupt = on_interrupt;
    f->dev->transport = f;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    fake_start(0);
    memset(&host, 0, sizeof(host));
    host.most = SIZE_MAX;
    assert_int_equal(mem_init(&f->mem, MIB(1), false, &e), 0);
    f->loop = loop_new(&e);
    assert_non_null(f->loop);
    f->env = (struct virtio_env){.mem = &f->mem, .loop = f->loop, .inline_work = true};
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    virtio_free(f->dev);
    assert_false(fake_timers_armed());
    loop_free(f->loop);
    mem_fini(&f->mem);
    free(f);
    return 0;
}

static void enable_queue(struct fixture *f, uint64_t features)
{
    driver_init(&f->driver, &f->mem, RING_BASE, RING_BYTES, QUEUE_SIZE, features);
    driver_connect(&f->driver, &f->dev->queues[0].state);
    assert_int_equal(virtio_enable_queue(f->dev, 0), 0);
}

static void start(struct fixture *f, uint64_t features)
{
    virtio_set_status(f->dev, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    virtio_set_driver_features(f->dev, 0, (uint32_t)features);
    virtio_set_driver_features(f->dev, 1, (uint32_t)(features >> 32));
    virtio_set_status(f->dev, AGREED);
    enable_queue(f, features);
    virtio_set_status(f->dev, STARTED);
    assert_int_equal(f->dev->state.status, STARTED);
}

static int request(struct fixture *f, uint32_t bytes)
{
    int token = driver_request(&f->driver, NULL, 0, bytes);

    assert_true(token >= 0);
    if (driver_show(&f->driver))
        virtio_doorbell(f->dev, 0);
    return token;
}

static void expect_bytes(struct fixture *f, int token, uint32_t bytes)
{
    uint32_t len = 0;

    assert_int_equal(driver_take(&f->driver, &len), token);
    assert_int_equal(len, bytes);
}

static void expect_silence(struct fixture *f)
{
    uint32_t len;

    assert_int_equal(driver_take(&f->driver, &len), DRIVER_NONE);
}

/* --- answers --- */

static void a_driver_that_is_quick_has_its_turn_and_no_more(void **state)
{
    struct fixture *f = *state;

    make_device(f, 0);
    start(f, SPLIT);
    f->greed = 1000;
    request(f, 16);
    assert_int_equal(host.calls, 64);
    f->greed = 0;
    fake_advance(1);
    assert_int_equal(host.calls, 65);
    assert_false(fake_timers_armed());
}

static void a_request_is_filled_with_bytes_that_are_not_those_of_another(void **state)
{
    const uint64_t features[] = {SPLIT, PACKED};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        int a, b;

        make_device(f, 0);
        start(f, features[i]);
        a = request(f, 64);
        b = request(f, 64);
        expect_bytes(f, a, 64);
        expect_bytes(f, b, 64);
        assert_memory_not_equal(driver_in(&f->driver, a), driver_in(&f->driver, b), 64);
        assert_true(f->interrupts > 0);
    }
}

static void a_request_in_pieces_is_filled_throughout(void **state)
{
    struct fixture *f = *state;
    unsigned left_alone = 0;
    int token;

    make_device(f, 0);
    start(f, SPLIT);
    f->driver.piece = 100;
    token = request(f, 1000);
    expect_bytes(f, token, 1000);
    for (unsigned i = 0; i < 1000; i++)
        left_alone += driver_in(&f->driver, token)[i] == DRIVER_FILL;
    assert_in_range(left_alone, 0, 50); /* 4 are to be expected, by chance */
}

static void a_huge_request_gets_a_page_and_the_rest_is_left_alone(void **state)
{
    struct fixture *f = *state;
    int token;

    make_device(f, 0);
    start(f, SPLIT);
    token = request(f, 8192);
    expect_bytes(f, token, 4096);
    for (unsigned i = 4096; i < 8192; i++)
        assert_int_equal(driver_in(&f->driver, token)[i], DRIVER_FILL);
}

static void a_request_with_no_room_is_answered_with_nothing(void **state)
{
    struct fixture *f = *state;
    int token;

    make_device(f, 1);
    start(f, SPLIT);
    token = driver_request(&f->driver, "read", 4, 0);
    driver_show(&f->driver);
    virtio_doorbell(f->dev, 0);
    expect_bytes(f, token, 0);
    assert_int_equal(host.calls, 0);
}

static void the_host_may_be_interrupted_short_or_unable(void **state)
{
    struct fixture *f = *state;

    make_device(f, 0);
    start(f, SPLIT);
    host.interruptions = 3;
    expect_bytes(f, request(f, 64), 64);
    assert_int_equal(host.calls, 4);
    host.most = 10;
    expect_bytes(f, request(f, 64), 10);
    host.error = ENOSYS;
    expect_bytes(f, request(f, 64), 0);
}

static void a_broken_ring_makes_the_device_need_a_reset(void **state)
{
    struct virtq_segment outside = {GIB(64), 1};
    struct fixture *f = *state;

    make_device(f, 0);
    start(f, SPLIT);
    driver_add(&f->driver, &outside, 0, 1);
    driver_show(&f->driver);
    virtio_doorbell(f->dev, 0);
    assert_true(f->dev->state.status & VIRTIO_STATUS_NEEDS_RESET);
}

/* --- the limit --- */

static void beyond_a_seconds_worth_requests_wait_and_none_is_lost(void **state)
{
    const uint64_t features[] = {SPLIT, PACKED};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        int tokens[10];

        make_device(f, 1000);
        start(f, features[i]);
        for (unsigned n = 0; n < ARRAY_SIZE(tokens); n++)
            tokens[n] = request(f, 500);
        expect_bytes(f, tokens[0], 500);
        expect_bytes(f, tokens[1], 500);
        for (unsigned n = 2; n < ARRAY_SIZE(tokens); n++) {
            fake_advance(500 * NS_PER_MS - 1);
            expect_silence(f);
            fake_advance(1);
            expect_bytes(f, tokens[n], 500);
        }
        expect_silence(f);
        assert_false(fake_timers_armed());
        fake_advance(5 * NS_PER_SEC); /* idle time is saved up for one second only */
        for (unsigned n = 0; n < 3; n++)
            tokens[n] = request(f, 500);
        expect_bytes(f, tokens[0], 500);
        expect_bytes(f, tokens[1], 500);
        expect_silence(f);
        fake_advance(500 * NS_PER_MS);
        expect_bytes(f, tokens[2], 500);
    }
}

static void a_request_for_more_than_the_limit_gets_a_seconds_worth(void **state)
{
    struct fixture *f = *state;
    int token;

    make_device(f, 7);
    start(f, SPLIT);
    expect_bytes(f, request(f, 64), 7);
    token = request(f, 64);
    expect_silence(f);
    fake_advance(NS_PER_SEC + 7); /* times are rounded up */
    expect_bytes(f, token, 7);
}

static void the_highest_limits_are_as_good_as_none(void **state)
{
    const uint64_t limits[] = {UINT64_MAX, UINT64_MAX - 1, BIT(63), GIB(1024)};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(limits); i++) {
        make_device(f, limits[i]);
        start(f, SPLIT);
        for (unsigned n = 0; n < 100; n++)
            expect_bytes(f, request(f, 4096), 4096);
    }
}

static void doorbells_while_a_request_waits_change_nothing(void **state)
{
    struct fixture *f = *state;
    int token;

    make_device(f, 100);
    start(f, SPLIT);
    expect_bytes(f, request(f, 100), 100);
    token = request(f, 100);
    for (unsigned i = 0; i < 10; i++)
        virtio_doorbell(f->dev, 0);
    expect_silence(f);
    fake_advance(NS_PER_SEC);
    expect_bytes(f, token, 100);
    expect_silence(f);
}

/* --- while a request waits --- */

static void a_reset_forgets_the_request_but_not_the_limit(void **state)
{
    struct fixture *f = *state;
    int token;

    make_device(f, 100);
    start(f, SPLIT);
    expect_bytes(f, request(f, 100), 100);
    request(f, 100);
    assert_true(fake_timers_armed());
    virtio_set_status(f->dev, 0);
    assert_int_equal(f->dev->state.status, 0);
    assert_false(fake_timers_armed());
    start(f, PACKED);
    token = request(f, 100);
    expect_silence(f);
    fake_advance(NS_PER_SEC);
    expect_bytes(f, token, 100);
}

static void a_timer_that_expires_during_a_reset_finds_nothing(void **state)
{
    struct fixture *f = *state;
    struct loop_timer *timer;
    int token;

    make_device(f, 100);
    start(f, SPLIT);
    expect_bytes(f, request(f, 100), 100);
    request(f, 100);
    timer = fake.timers[0];
    assert_non_null(timer);
    virtio_set_status(f->dev, 0);
    fake.mono_ns += NS_PER_SEC;
    timer->expired(timer); /* it was waiting for the device's lock */
    expect_silence(f);
    start(f, SPLIT);
    expect_bytes(f, request(f, 100), 100);
    token = request(f, 100);
    timer->expired(timer); /* or it comes even later: too early for what waits now */
    expect_silence(f);
    fake_advance(NS_PER_SEC);
    expect_bytes(f, token, 100);
}

static void a_reset_of_the_queue_forgets_the_request(void **state)
{
    struct fixture *f = *state;

    make_device(f, 100);
    start(f, SPLIT);
    expect_bytes(f, request(f, 100), 100);
    request(f, 100);
    virtio_reset_queue(f->dev, 0);
    assert_false(fake_timers_armed());
    fake_advance(NS_PER_SEC);
    expect_silence(f);
    enable_queue(f, SPLIT);
    expect_bytes(f, request(f, 100), 100);
}

static void stop_loop(void *loop)
{
    loop_stop(loop);
}

static void it_is_answered_in_a_fresh_machine(void **state)
{
    const uint64_t features[] = {SPLIT, PACKED};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        struct state_writer w;
        struct state_reader r;
        struct err e;
        int token;

        make_device(f, 100);
        start(f, features[i]);
        expect_bytes(f, request(f, 100), 100);
        token = request(f, 100);
        state_writer_init(&w);
        virtio_drain(f->dev);
        assert_int_equal(virtio_save(f->dev, &w), 0);
        make_device(f, 100);
        state_reader_init(&r, w.data, w.len);
        assert_int_equal(virtio_load(f->dev, &r, &e), 0);
        state_writer_fini(&w);
        loop_post(f->loop, stop_loop, f->loop);
        assert_int_equal(loop_run(f->loop), 0);
        expect_bytes(f, token, 100); /* it has a limit of its own, of which nothing is used */
        token = request(f, 100);
        expect_silence(f);
        fake_advance(NS_PER_SEC);
        expect_bytes(f, token, 100);
    }
}

/* --- statistics --- */

static uint64_t reported_bytes, reported_waits;

static void on_number(struct stats_out *out, const char *group, const char *name, uint64_t value)
{
    (void)out;
    assert_string_equal(group, "rng0");
    if (!strcmp(name, "random bytes"))
        reported_bytes = value;
    if (!strcmp(name, "waits for the limit"))
        reported_waits = value;
}

static void bytes_and_waits_are_counted(void **state)
{
    struct stats_out out = {.number = on_number};
    struct fixture *f = *state;

    make_device(f, 100);
    start(f, SPLIT);
    expect_bytes(f, request(f, 100), 100);
    request(f, 50);
    fake_advance(NS_PER_SEC);
    virtio_stats(f->dev, &out);
    assert_int_equal(reported_bytes, 150);
    assert_int_equal(reported_waits, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_driver_that_is_quick_has_its_turn_and_no_more),
        TEST(a_request_is_filled_with_bytes_that_are_not_those_of_another),
        TEST(a_request_in_pieces_is_filled_throughout),
        TEST(a_huge_request_gets_a_page_and_the_rest_is_left_alone),
        TEST(a_request_with_no_room_is_answered_with_nothing),
        TEST(the_host_may_be_interrupted_short_or_unable),
        TEST(a_broken_ring_makes_the_device_need_a_reset),
        TEST(beyond_a_seconds_worth_requests_wait_and_none_is_lost),
        TEST(a_request_for_more_than_the_limit_gets_a_seconds_worth),
        TEST(the_highest_limits_are_as_good_as_none),
        TEST(doorbells_while_a_request_waits_change_nothing),
        TEST(a_reset_forgets_the_request_but_not_the_limit),
        TEST(a_timer_that_expires_during_a_reset_finds_nothing),
        TEST(a_reset_of_the_queue_forgets_the_request),
        TEST(it_is_answered_in_a_fresh_machine),
        TEST(bytes_and_waits_are_counted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
