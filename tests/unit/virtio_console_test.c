/* The virtio console: output and input with back pressure on both sides, the window's size, resets, and drivers that break the rules. */
#include <stdio.h>

#include "chipset_fake.h"
#include "virtio/console.h"
#include "virtq_driver.h"

#define INPUT 0
#define OUTPUT 1
#define AREA 0x40000
#define ENTRIES 16

int loop_add_fd(struct loop *loop, struct loop_fd *fd)
{
    (void)loop, (void)fd;
    return 0;
}

void loop_remove_fd(struct loop *loop, struct loop_fd *fd)
{
    (void)loop, (void)fd;
}

struct test {
    struct mem mem;
    struct virtio_device *dev;
    struct virtq_driver queues[2];
    unsigned interrupts[2], config_interrupts;

    /* The host's end. */
    uint8_t out[1 << 17];
    size_t out_len, out_room; /* what it will take from now on */
    unsigned rooms;
};

static size_t host_out(void *opaque, const uint8_t *data, size_t len)
{
    struct test *t = opaque;
    size_t n = MIN(len, t->out_room);

    assert_int_equal(pthread_mutex_trylock(&t->dev->lock), 0); /* nobody holds it */
    pthread_mutex_unlock(&t->dev->lock);
    assert_true(t->out_len + n <= sizeof(t->out));
    memcpy(t->out + t->out_len, data, n);
    t->out_len += n;
    t->out_room -= n;
    return n;
}

static void host_room(void *opaque)
{
    struct test *t = opaque;

    t->rooms++;
}

static bool interrupt(void *transport, int queue)
{
    struct test *t = transport;

    if (queue < 0)
        t->config_interrupts++;
    else
        t->interrupts[queue]++;
    return false;
}

/* What a driver does up to DRIVER_OK. */
static void bring_up(struct test *t, uint64_t features)
{
    virtio_set_status(t->dev, VIRTIO_STATUS_ACKNOWLEDGE);
    virtio_set_status(t->dev, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    virtio_set_driver_features(t->dev, 0, (uint32_t)features);
    virtio_set_driver_features(t->dev, 1, (uint32_t)(features >> 32));
    virtio_set_status(t->dev, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK);
    for (unsigned q = 0; q < 2; q++) {
        driver_init(&t->queues[q], &t->mem, 0x10000 + q * AREA, AREA, ENTRIES, features);
        driver_connect(&t->queues[q], &t->dev->queues[q].state);
        assert_int_equal(virtio_enable_queue(t->dev, q), 0);
    }
    virtio_set_status(t->dev, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK);
    assert_true(t->dev->state.status & VIRTIO_STATUS_DRIVER_OK);
}

#define SPLIT (BIT(VIRTIO_F_VERSION_1) | BIT(0))
#define PACKED (SPLIT | BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_F_EVENT_IDX))

static struct test *start(void)
{
    struct test *t = calloc(1, sizeof(*t));
    struct virtio_env env = {.inline_work = true};
    const struct virtio_console_host host = {t, host_out, host_room};
    struct err e;

    assert_non_null(t);
    fake_start(0);
    assert_int_equal(mem_init(&t->mem, MIB(2), false, &e), 0);
    env.mem = &t->mem;
    t->dev = virtio_console_new(&env, "console0", &host, &e);
    assert_non_null(t->dev);
    t->dev->interrupt = interrupt;
    t->dev->transport = t;
    t->out_room = sizeof(t->out);
    return t;
}

static struct test *start_with(uint64_t features)
{
    struct test *t = start();

    bring_up(t, features);
    return t;
}

static void finish(struct test *t)
{
    virtio_free(t->dev);
    assert_false(fake_timers_armed());
    mem_fini(&t->mem);
    free(t);
}

static void ring(struct test *t, unsigned queue)
{
    driver_show(&t->queues[queue]);
    virtio_doorbell(t->dev, queue);
}

static int write_out(struct test *t, const void *data, size_t len)
{
    int token = driver_request(&t->queues[OUTPUT], data, (uint32_t)len, 0);

    assert_true(token >= 0);
    ring(t, OUTPUT);
    return token;
}

static int give_room(struct test *t, uint32_t len)
{
    int token = driver_request(&t->queues[INPUT], NULL, 0, len);

    assert_true(token >= 0);
    ring(t, INPUT);
    return token;
}

static void assert_input(struct test *t, const char *text)
{
    uint32_t len;
    int token = driver_take(&t->queues[INPUT], &len);

    assert_true(token >= 0);
    assert_int_equal(len, strlen(text));
    assert_memory_equal(driver_in(&t->queues[INPUT], token), text, len);
}

/* --- output --- */

static void output_reaches_the_host_in_order_on_the_loop(uint64_t features, uint32_t piece)
{
    struct test *t = start_with(features);
    uint32_t len;
    int first, second;

    t->queues[OUTPUT].piece = piece;
    first = write_out(t, "hello ", 6);
    second = write_out(t, "world", 5);
    assert_int_equal(t->out_len, 0); /* not on the thread that rang */
    fake_advance(0);
    assert_int_equal(t->out_len, 11);
    assert_memory_equal(t->out, "hello world", 11);
    assert_int_equal(driver_take(&t->queues[OUTPUT], &len), first);
    assert_int_equal(len, 0);
    assert_int_equal(driver_take(&t->queues[OUTPUT], &len), second);
    assert_true(t->interrupts[OUTPUT] > 0);
    assert_false(fake_timers_armed());
    finish(t);
}

static void output_reaches_the_host_in_order(void **state)
{
    (void)state;
    output_reaches_the_host_in_order_on_the_loop(SPLIT, 0);
    output_reaches_the_host_in_order_on_the_loop(SPLIT, 2);
    output_reaches_the_host_in_order_on_the_loop(PACKED, 0);
    output_reaches_the_host_in_order_on_the_loop(PACKED, 3);
}

static void fill(uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        data[i] = (uint8_t)(i * 7 + i / 251);
}

/* The first ones fill what there is here; the driver then waits until the host takes again. */
static void a_host_that_takes_nothing_holds_the_driver_up_and_loses_nothing(void **state)
{
    static uint8_t data[12000];
    struct test *t = start_with(SPLIT);
    uint32_t len;

    (void)state;
    fill(data, sizeof(data));
    t->out_room = 0;
    for (unsigned i = 0; i < 4; i++)
        write_out(t, data, sizeof(data));
    fake_advance(NS_PER_SEC);
    assert_true(driver_take(&t->queues[OUTPUT], &len) >= 0);
    assert_int_equal(driver_take(&t->queues[OUTPUT], &len), DRIVER_NONE);
    assert_int_equal(t->queues[OUTPUT].out, 3);
    assert_false(fake_timers_armed()); /* nobody is asked again and again */
    while (t->out_len < 4 * sizeof(data)) {
        size_t before = t->out_len;

        t->out_room = 1000;
        virtio_console_out_ready(t->dev);
        fake_advance(0);
        assert_int_equal(t->out_len, before + 1000);
    }
    for (unsigned i = 0; i < 4; i++)
        assert_memory_equal(t->out + i * sizeof(data), data, sizeof(data));
    for (unsigned i = 0; i < 3; i++)
        assert_true(driver_take(&t->queues[OUTPUT], &len) >= 0);
    finish(t);
}

static void a_buffer_larger_than_everything_here_passes_in_parts(void **state)
{
    static uint8_t data[100000];
    struct test *t = start_with(PACKED);
    struct virtq_segment segment = {0x100000, sizeof(data)};
    uint32_t len;

    (void)state;
    fill(data, sizeof(data));
    assert_int_equal(mem_write(&t->mem, segment.gpa, data, sizeof(data)), 0);
    assert_true(driver_add(&t->queues[OUTPUT], &segment, 1, 0) >= 0);
    ring(t, OUTPUT);
    fake_advance(0);
    assert_int_equal(t->out_len, sizeof(data));
    assert_memory_equal(t->out, data, sizeof(data));
    assert_true(driver_take(&t->queues[OUTPUT], &len) >= 0);
    assert_int_equal(driver_take(&t->queues[OUTPUT], &len), DRIVER_NONE);
    finish(t);
}

static void what_was_taken_is_out_after_a_drain(void **state)
{
    struct test *t = start_with(SPLIT);

    (void)state;
    write_out(t, "last words", 10);
    t->out_room = 4;
    assert_int_equal(virtio_console_drain(t->dev), 6);
    t->out_room = 100;
    assert_int_equal(virtio_console_drain(t->dev), 0);
    assert_memory_equal(t->out, "last words", 10);
    assert_int_equal(t->out_len, 10);
    fake_advance(0);
    assert_int_equal(t->out_len, 10);
    finish(t);
}

static void an_output_buffer_without_bytes_is_given_back(void **state)
{
    struct test *t = start_with(SPLIT);
    uint32_t len;

    (void)state;
    assert_true(driver_request(&t->queues[OUTPUT], NULL, 0, 8) >= 0);
    ring(t, OUTPUT);
    assert_true(driver_take(&t->queues[OUTPUT], &len) >= 0);
    assert_int_equal(len, 0);
    finish(t);
}

/* --- input --- */

static void input_waits_for_a_driver_and_for_its_buffers(void **state)
{
    struct test *t = start();

    (void)state;
    assert_int_equal(virtio_console_receive(t->dev, (const uint8_t *)"abc", 3), 0);
    bring_up(t, SPLIT);
    fake_advance(0);
    assert_int_equal(t->rooms, 0);
    give_room(t, 2);
    fake_advance(0);
    assert_int_equal(t->rooms, 1);
    assert_int_equal(virtio_console_receive(t->dev, (const uint8_t *)"abc", 3), 2);
    assert_input(t, "ab");
    assert_int_equal(t->interrupts[INPUT], 1);
    give_room(t, 100);
    fake_advance(0);
    assert_int_equal(t->rooms, 2);
    assert_int_equal(virtio_console_receive(t->dev, (const uint8_t *)"c", 1), 1);
    assert_input(t, "c");
    give_room(t, 100);
    fake_advance(0);
    assert_int_equal(t->rooms, 2); /* all was taken: nobody waits */
    finish(t);
}

static void input_fills_one_buffer_after_the_other(void **state)
{
    struct test *t = start_with(PACKED);

    (void)state;
    t->queues[INPUT].piece = 2;
    for (unsigned i = 0; i < 3; i++)
        give_room(t, 4);
    assert_int_equal(virtio_console_receive(t->dev, (const uint8_t *)"0123456789", 10), 10);
    assert_input(t, "0123");
    assert_input(t, "4567");
    assert_input(t, "89");
    finish(t);
}

static void an_input_buffer_without_room_breaks_the_device(void **state)
{
    struct test *t = start_with(SPLIT);

    (void)state;
    assert_true(driver_request(&t->queues[INPUT], "x", 1, 0) >= 0);
    ring(t, INPUT);
    assert_int_equal(virtio_console_receive(t->dev, (const uint8_t *)"abc", 3), 0);
    assert_true(t->dev->state.status & VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(fake.complaints, 1);
    finish(t);
}

static void a_segment_outside_of_memory_breaks_the_device_until_it_is_reset(void **state)
{
    struct test *t = start_with(SPLIT);
    struct virtq_segment segment = {MIB(64), 10};

    (void)state;
    assert_true(driver_add(&t->queues[OUTPUT], &segment, 1, 0) >= 0);
    ring(t, OUTPUT);
    fake_advance(0);
    assert_true(t->dev->state.status & VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(t->out_len, 0);
    virtio_set_status(t->dev, 0);
    bring_up(t, SPLIT);
    write_out(t, "again", 5);
    fake_advance(0);
    assert_memory_equal(t->out, "again", 5);
    finish(t);
}

/* --- the window --- */

static void a_new_size_is_in_the_configuration_and_interrupts(void **state)
{
    struct test *t = start();
    uint8_t generation;

    (void)state;
    virtio_console_resize(t->dev, 80, 25); /* before there is a driver */
    assert_int_equal(t->config_interrupts, 0);
    bring_up(t, SPLIT);
    assert_int_equal(virtio_config_read(t->dev, 0, 4), 25 << 16 | 80);
    generation = t->dev->state.config_generation;
    virtio_console_resize(t->dev, 132, 43);
    assert_int_equal(t->config_interrupts, 1);
    assert_int_not_equal(t->dev->state.config_generation, generation);
    assert_int_equal(virtio_config_read(t->dev, 0, 2), 132);
    assert_int_equal(virtio_config_read(t->dev, 2, 2), 43);
    assert_int_equal(virtio_config_read(t->dev, 3, 1), 0);
    assert_int_equal(virtio_config_read(t->dev, 0, 8), 43 << 16 | 132);
    virtio_console_resize(t->dev, 132, 43);
    assert_int_equal(t->config_interrupts, 1);
    virtio_config_write(t->dev, 0, 4, 0); /* read-only */
    assert_int_equal(virtio_config_read(t->dev, 0, 2), 132);
    finish(t);
}

static void the_size_is_an_offered_feature_and_it_is_a_console(void **state)
{
    struct test *t = start();

    (void)state;
    assert_true(t->dev->features & BIT(0));
    assert_false(t->dev->features & (BIT(1) | BIT(2))); /* several ports, emergency write */
    assert_int_equal(t->dev->ops->id, VIRTIO_ID_CONSOLE);
    assert_int_equal(t->dev->queue_count, 2);
    finish(t);
}

/* --- resets, saved state --- */

static void a_reset_forgets_the_driver_but_not_what_it_wrote(void **state)
{
    static uint8_t data[20000];
    struct test *t = start_with(SPLIT);
    struct virtq_segment segment = {0x100000, sizeof(data)};

    (void)state;
    fill(data, sizeof(data));
    assert_int_equal(mem_write(&t->mem, segment.gpa, data, sizeof(data)), 0);
    assert_true(driver_add(&t->queues[OUTPUT], &segment, 1, 0) >= 0);
    t->out_room = 0;
    ring(t, OUTPUT);
    fake_advance(0);
    virtio_set_status(t->dev, 0);
    bring_up(t, SPLIT);
    write_out(t, "next", 4); /* from its first byte, although the last one stopped in the middle */
    t->out_room = sizeof(t->out);
    virtio_console_out_ready(t->dev);
    fake_advance(0);
    assert_int_equal(t->out_len, 16384 + 4);
    assert_memory_equal(t->out, data, 16384);
    assert_memory_equal(t->out + 16384, "next", 4);
    finish(t);
}

/* Half of a buffer was taken; the other half goes out where the state was loaded. */
static void what_was_saved_goes_on_in_another_device(void **state)
{
    static uint8_t data[30000];
    struct test *t = start_with(PACKED);
    struct virtq_segment segment = {0x100000, sizeof(data)};
    const struct virtio_console_host host = {t, host_out, host_room};
    struct state_writer w;
    struct state_reader r;
    struct virtio_device *old = t->dev, *loaded;
    struct err e = {""};
    uint32_t len;

    (void)state;
    fill(data, sizeof(data));
    assert_int_equal(mem_write(&t->mem, segment.gpa, data, sizeof(data)), 0);
    virtio_console_resize(old, 80, 25);
    assert_true(driver_add(&t->queues[OUTPUT], &segment, 1, 0) >= 0);
    t->out_room = 1000;
    ring(t, OUTPUT);
    fake_advance(0);
    t->out_room = sizeof(t->out);
    virtio_drain(old);
    assert_int_equal(t->out_len, 16384 + 1000);
    state_writer_init(&w);
    assert_int_equal(virtio_save(old, &w), 0);

    loaded = virtio_console_new(&old->env, "console0", &host, &e);
    assert_non_null(loaded);
    loaded->interrupt = interrupt;
    loaded->transport = t;
    virtio_console_resize(loaded, 100, 30);
    t->dev = loaded;
    state_reader_init(&r, w.data, w.len);
    if (virtio_load(loaded, &r, &e) != 0)
        fail_msg("%s", e.text);
    assert_int_equal(r.pos, w.len);
    assert_int_equal(t->config_interrupts, 2); /* the window differs; the first was for the old device */
    assert_int_equal(virtio_config_read(loaded, 0, 2), 100);
    fake_advance(0);
    assert_int_equal(t->out_len, sizeof(data));
    assert_memory_equal(t->out, data, sizeof(data));
    assert_true(driver_take(&t->queues[OUTPUT], &len) >= 0);

    for (size_t cut = 0; cut < w.len; cut += 7) { /* and a truncated one is refused */
        virtio_set_status(loaded, 0);
        state_reader_init(&r, w.data, cut);
        assert_int_equal(virtio_load(loaded, &r, &e), -EINVAL);
    }
    state_writer_fini(&w);
    virtio_free(old);
    finish(t);
}

static void without_a_host_output_is_dropped(void **state)
{
    struct test *t = start();
    struct virtio_env env = t->dev->env;
    const struct virtio_console_host nobody = {0};
    uint32_t len;

    (void)state;
    virtio_free(t->dev);
    t->dev = virtio_console_new(&env, "console0", &nobody, NULL);
    assert_non_null(t->dev);
    bring_up(t, SPLIT);
    write_out(t, "unheard", 7);
    fake_advance(0);
    assert_true(driver_take(&t->queues[OUTPUT], &len) >= 0);
    assert_int_equal(virtio_console_drain(t->dev), 0);
    assert_int_equal(virtio_console_receive(t->dev, (const uint8_t *)"x", 1), 0);
    give_room(t, 10);
    fake_advance(0);
    finish(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(output_reaches_the_host_in_order),
        cmocka_unit_test(a_host_that_takes_nothing_holds_the_driver_up_and_loses_nothing),
        cmocka_unit_test(a_buffer_larger_than_everything_here_passes_in_parts),
        cmocka_unit_test(what_was_taken_is_out_after_a_drain),
        cmocka_unit_test(an_output_buffer_without_bytes_is_given_back),
        cmocka_unit_test(input_waits_for_a_driver_and_for_its_buffers),
        cmocka_unit_test(input_fills_one_buffer_after_the_other),
        cmocka_unit_test(an_input_buffer_without_room_breaks_the_device),
        cmocka_unit_test(a_segment_outside_of_memory_breaks_the_device_until_it_is_reset),
        cmocka_unit_test(a_new_size_is_in_the_configuration_and_interrupts),
        cmocka_unit_test(the_size_is_an_offered_feature_and_it_is_a_console),
        cmocka_unit_test(a_reset_forgets_the_driver_but_not_what_it_wrote),
        cmocka_unit_test(what_was_saved_goes_on_in_another_device),
        cmocka_unit_test(without_a_host_output_is_dropped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
