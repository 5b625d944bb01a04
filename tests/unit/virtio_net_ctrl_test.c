/* The virtio network device: the control queue with its filters, resets, saved state, statistics. */
#include "virtio_net_fake.h"

/* --- control --- */

static bool gets_frame_to(struct fixture *f, const uint8_t *to)
{
    struct virtio_net_hdr_v1 header;
    uint8_t data[2048];
    size_t len;

    if (!f->queues[RX].out)
        buffers(f, 1, 1536);
    put_frame_to(f, to, 60, 1, (struct virtio_net_hdr_v1){0});
    wire(f);
    return take_frame(f, &header, data, &len) == 1;
}

static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, other[6] = {2, 0, 0, 0, 0, 1},
                     multicast[6] = {1, 0, 0x5e, 0, 0, 1};

static void modes_choose_what_comes(void **state)
{
    static const struct {
        int on; /* after promiscuous mode was left; -1: none */
        bool mac, other, multicast, broadcast;
    } cases[] = {
        {-1, true, false, false, true},
        {VIRTIO_NET_CTRL_RX_PROMISC, true, true, true, true},
        {VIRTIO_NET_CTRL_RX_ALLMULTI, true, false, true, true},
        {VIRTIO_NET_CTRL_RX_ALLUNI, true, true, false, true},
        {VIRTIO_NET_CTRL_RX_NOUNI, false, false, false, true},
        {VIRTIO_NET_CTRL_RX_NOBCAST, true, false, false, false},
        {VIRTIO_NET_CTRL_RX_NOMULTI, true, false, false, true},
    };
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        start_driver(f, USUAL);
        assert_true(gets_frame_to(f, other)); /* before the driver says anything */
        assert_true(set_mode(f, VIRTIO_NET_CTRL_RX_PROMISC, 0));
        if (cases[i].on >= 0)
            assert_true(set_mode(f, (uint8_t)cases[i].on, 1));
        if (gets_frame_to(f, mac) != cases[i].mac || gets_frame_to(f, other) != cases[i].other ||
            gets_frame_to(f, multicast) != cases[i].multicast || gets_frame_to(f, broadcast) != cases[i].broadcast)
            fail_msg("case %u", i);
        virtio_set_status(f->dev, 0);
    }
    start_driver(f, USUAL);
    assert_true(set_mode(f, VIRTIO_NET_CTRL_RX_PROMISC, 0));
    assert_true(set_mode(f, VIRTIO_NET_CTRL_RX_ALLMULTI, 1));
    assert_true(set_mode(f, VIRTIO_NET_CTRL_RX_NOMULTI, 1));
    assert_false(gets_frame_to(f, multicast));
}

static size_t add_table(uint8_t *to, uint32_t count, const uint8_t *address)
{
    memcpy(to, &count, 4);
    for (uint32_t i = 0; i < count; i++) {
        memcpy(to + 4 + 6 * i, address, 6);
        to[4 + 6 * i + 4] = (uint8_t)i;
    }
    return 4 + 6 * (size_t)count;
}

static void tables_choose_what_comes(void **state)
{
    struct fixture *f = *state;
    uint8_t request[2000], address[6];
    size_t len;

    start_driver(f, USUAL);
    assert_true(set_mode(f, VIRTIO_NET_CTRL_RX_PROMISC, 0));
    len = add_table(request, 64, other);
    len += add_table(request + len, 3, multicast);
    assert_int_equal(control(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, request, (uint32_t)len), VIRTIO_NET_OK);
    for (unsigned i = 0; i < 70; i++) {
        memcpy(address, other, 6);
        address[4] = (uint8_t)i;
        assert_int_equal(gets_frame_to(f, address), i < 64);
        memcpy(address, multicast, 6);
        address[4] = (uint8_t)i;
        assert_int_equal(gets_frame_to(f, address), i < 3);
    }
    /* More than it can keep: the kind is taken whole, the other is not. */
    len = add_table(request, 0, other);
    len += add_table(request + len, 65, multicast);
    assert_int_equal(control(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, request, (uint32_t)len), VIRTIO_NET_OK);
    address[4] = 200;
    assert_true(gets_frame_to(f, address));
    assert_false(gets_frame_to(f, other));
    /* One that is cut off changes nothing. */
    assert_int_equal(control(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, request, (uint32_t)len - 1), VIRTIO_NET_ERR);
    assert_true(gets_frame_to(f, address));
}

static void the_driver_may_change_the_address_until_a_reset(void **state)
{
    struct fixture *f = *state;

    start_driver(f, USUAL);
    assert_true(set_mode(f, VIRTIO_NET_CTRL_RX_PROMISC, 0));
    assert_int_equal(control(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, other, 5), VIRTIO_NET_ERR);
    assert_int_equal(control(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, other, 6), VIRTIO_NET_OK);
    assert_true(gets_frame_to(f, other));
    assert_false(gets_frame_to(f, mac));
    assert_int_equal(virtio_config_read(f->dev, 0, 4), 2);
    virtio_set_status(f->dev, 0);
    assert_int_equal(virtio_config_read(f->dev, 0, 4), 0x12005452);
}

static void the_driver_may_change_its_offloads(void **state)
{
    struct fixture *f = *state;
    uint64_t bits = F(GUEST_CSUM) | F(GUEST_TSO6);

    start_driver(f, USUAL | (OFFLOADS & ~F(GUEST_ECN)));
    assert_int_equal(f->backend->offloads, NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6);
    assert_int_equal(control(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &bits, 8), VIRTIO_NET_OK);
    assert_int_equal(f->backend->offloads, NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO6);
    bits = F(GUEST_CSUM) | F(GUEST_ECN); /* was not negotiated */
    assert_int_equal(control(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &bits, 8), VIRTIO_NET_ERR);
    bits = F(CSUM); /* is not the driver's */
    assert_int_equal(control(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &bits, 8), VIRTIO_NET_ERR);
    assert_int_equal(f->backend->offloads, NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO6);
    bits = 0;
    assert_int_equal(control(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &bits, 7), VIRTIO_NET_ERR);
    assert_int_equal(control(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 1, &bits, 8), VIRTIO_NET_ERR);
    assert_int_equal(control(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &bits, 8), VIRTIO_NET_OK);
    assert_int_equal(f->backend->offloads, 0);
}

static void unknown_commands_are_refused(void **state)
{
    struct fixture *f = *state;
    uint8_t bytes[16] = {1};
    uint32_t len;

    start_driver(f, F(CTRL_VQ) | F(CTRL_RX)); /* of all classes only this one */
    for (unsigned class = 0; class < 256; class ++)
        for (unsigned cmd = 0; cmd < 8; cmd++) {
            bool good = (class == VIRTIO_NET_CTRL_RX && cmd <= 1) || (class == VIRTIO_NET_CTRL_MAC && cmd == VIRTIO_NET_CTRL_MAC_TABLE_SET);

            memset(bytes, 0, sizeof(bytes));
            assert_int_equal(control(f, (uint8_t) class, (uint8_t)cmd, bytes, 8), good ? VIRTIO_NET_OK : VIRTIO_NET_ERR);
        }
    assert_int_equal(control(f, VIRTIO_NET_CTRL_RX, 0, bytes, 0), VIRTIO_NET_ERR);
    /* Too short for a command, and without room for an answer. */
    assert_true(driver_request(&f->queues[CTRL], bytes, 1, 1) >= 0);
    show(f, CTRL);
    assert_int_equal(take_all(f, CTRL), 1);
    assert_true(driver_request(&f->queues[CTRL], bytes, 3, 0) >= 0);
    show(f, CTRL);
    assert_int_equal(driver_take(&f->queues[CTRL], &len) >= 0, true);
    assert_int_equal(len, 0);
}

/* --- resets, saved state --- */

static void a_reset_forgets_frames_and_buffers(void **state)
{
    struct fixture *f = *state;

    start_driver(f, USUAL);
    buffers(f, 2, 1000);
    put_frame(f, 4000, 1);
    wire(f);
    f->backend->send_result = -EAGAIN;
    send_frame(f, 60, 1);
    show(f, TX);
    virtio_set_status(f->dev, 0);
    assert_false(f->backend->reading);
    f->backend->send_result = 0;
    start_driver(f, USUAL);
    buffers(f, 8, 1000);
    assert_gets_nothing(f);
    put_frame(f, 60, 2);
    wire(f);
    assert_gets(f, 60, 2, 1);
    send_frame(f, 60, 3);
    show(f, TX);
    assert_sent(f, 0, 60, 3);
}

static void a_reset_of_the_receive_queue_is_one_of_its_buffers(void **state)
{
    struct fixture *f = *state;

    start_driver(f, USUAL);
    buffers(f, 2, 1000);
    put_frame(f, 4000, 1);
    wire(f);
    virtio_reset_queue(f->dev, RX);
    assert_false(f->backend->reading);
    connect_queue(f, RX);
    buffers(f, 8, 1000);
    put_frame(f, 60, 2);
    wire(f);
    assert_gets(f, 60, 2, 1);
    send_frame(f, 60, 3);
    show(f, TX);
    assert_sent(f, 0, 60, 3);
}

static struct state_writer save(struct virtio_device *dev)
{
    struct state_writer w;

    state_writer_init(&w);
    virtio_drain(dev);
    assert_int_equal(virtio_save(dev, &w), 0);
    return w;
}

static int load(struct virtio_device *dev, const struct state_writer *w)
{
    struct state_reader r;
    struct err e = {{0}};
    int rc;

    state_reader_init(&r, w->data, w->len);
    rc = virtio_load(dev, &r, &e);
    assert_true(rc == 0 || e.text[0]);
    return rc;
}

static void assert_same_from(const char *section, const struct state_writer *a, const struct state_writer *b)
{
    const uint8_t *at = memmem(a->data, a->len, section, strlen(section));

    assert_non_null(at);
    assert_int_equal(a->len, b->len);
    assert_memory_equal(at, b->data + (at - a->data), a->len - (size_t)(at - a->data));
}

/* The device goes on in another one, with buffers and frames where they were, but for the frame that waited. */
static void saved_state_is_restored(void **state)
{
    static const uint64_t formats[] = {0, EVENT_IDX, PACKED, PACKED | EVENT_IDX};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        struct state_writer saved, again;
        struct recorder *backend;
        struct virtio_device *to = make_device(f, ALL_OFFLOADS, &backend);
        uint64_t bits = F(GUEST_CSUM);

        start_driver(f, USUAL | OFFLOADS | formats[i]);
        assert_int_equal(control(f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &bits, 8), VIRTIO_NET_OK);
        assert_int_equal(control(f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, other, 6), VIRTIO_NET_OK);
        assert_true(set_mode(f, VIRTIO_NET_CTRL_RX_PROMISC, 0));
        buffers(f, 3, 1000);
        put_frame_to(f, other, 4000, 1, (struct virtio_net_hdr_v1){0});
        wire(f);
        f->backend->send_result = -EAGAIN;
        send_frame(f, 60, 1);
        show(f, TX);
        saved = save(f->dev);
        assert_int_equal(load(to, &saved), 0);
        again = save(to);
        assert_same_from("virtio-net", &again, &saved); /* the queues have gone on: kicks are off, for there are buffers */
        state_writer_fini(&again);
        state_writer_fini(&saved);

        virtio_free(f->dev);
        f->dev = to;
        f->backend = backend;
        run_loop(f); /* every queue is looked at */
        assert_sent(f, 0, 60, 1);
        assert_int_equal(backend->offloads, NET_OFFLOAD_CSUM);
        put_frame_to(f, other, 1900, 2, (struct virtio_net_hdr_v1){0});
        put_frame_to(f, mac, 50, 3, (struct virtio_net_hdr_v1){0});
        wire(f);
        assert_gets(f, 1900, 2, 2);
        assert_gets_nothing(f);
        virtio_set_status(f->dev, 0);
    }
}

/* Of a batch, the first frame has got its buffer when the next buffer turns out to be none. */
static void a_device_that_the_driver_broke_can_be_saved(void **state)
{
    static const uint64_t formats[] = {0, PACKED};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        struct state_writer saved;

        start_driver(f, USUAL | formats[i]);
        assert_true(driver_request(&f->queues[RX], NULL, 0, 1536) >= 0);
        assert_true(driver_add(&f->queues[RX], &(struct virtq_segment){GIB(100), 1536}, 0, 1) >= 0);
        show(f, RX);
        put_frame(f, 60, 1);
        put_frame(f, 60, 2);
        wire(f);
        assert_true(f->dev->state.status & VIRTIO_STATUS_NEEDS_RESET);
        saved = save(f->dev);
        assert_int_equal(load(f->dev, &saved), 0);
        assert_true(f->dev->state.status & VIRTIO_STATUS_NEEDS_RESET);
        state_writer_fini(&saved);
        virtio_set_status(f->dev, 0);
        start_driver(f, USUAL | formats[i]);
        buffers(f, 8, 1536);
        put_frame(f, 60, 3);
        wire(f);
        assert_gets(f, 60, 3, 1);
        virtio_set_status(f->dev, 0);
    }
}

static void a_drained_device_goes_on(void **state)
{
    struct fixture *f = *state;

    start_driver(f, USUAL);
    buffers(f, 3, 1000);
    put_frame(f, 4000, 1);
    wire(f);
    virtio_drain(f->dev);
    assert_int_equal(f->backend->drains, 1);
    put_frame(f, 1900, 2);
    wire(f);
    assert_gets(f, 1900, 2, 2);
}

static void impossible_state_is_refused(void **state)
{
    static const char *const fields[] = {"promiscuous", "no_broadcast", "unicast_count", "multicast_count", "guest_offloads"};
    struct fixture *f = *state;
    struct state_writer saved;

    start_driver(f, USUAL);
    saved = save(f->dev);
    for (unsigned i = 0; i < ARRAY_SIZE(fields); i++) {
        size_t len = strlen(fields[i]), at = 0;
        uint8_t before;

        while (saved.data[at] != len || memcmp(saved.data + at + 1, fields[i], len) != 0)
            assert_in_range(++at, 0, saved.len - len - 5);
        at += len + 4; /* the element size and the count */
        before = saved.data[at];
        saved.data[at] = 0x82;
        if (load(f->dev, &saved) == 0)
            fail_msg("%s", fields[i]);
        saved.data[at] = before;
        assert_int_equal(load(f->dev, &saved), 0);
    }
    for (size_t len = 0; len < saved.len; len++) {
        struct state_writer cut = saved;

        cut.len = len;
        assert_int_equal(load(f->dev, &cut), -EINVAL);
    }
    state_writer_fini(&saved);
}

struct row {
    const char *name;
    uint64_t value;
    unsigned seen;
};
struct rows {
    struct stats_out out;
    struct row rows[6];
};

static void check_row(struct stats_out *out, const char *group, const char *name, uint64_t value)
{
    struct rows *r = container_of(out, struct rows, out);

    assert_string_equal(group, "net0");
    for (unsigned i = 0; i < ARRAY_SIZE(r->rows); i++)
        if (strcmp(r->rows[i].name, name) == 0) {
            assert_int_equal(value, r->rows[i].value);
            r->rows[i].seen++;
        }
}

static void frames_are_counted(void **state)
{
    struct fixture *f = *state;
    struct rows r = {.out.number = check_row,
                     .rows = {{"frames received", 2, 0},
                              {"frames not for the guest", 1, 0},
                              {"frames too large to receive", 1, 0},
                              {"frames sent", 1, 0},
                              {"frames with wrong headers", 1, 0},
                              {"frames lost by the host", 1, 0}}};

    start_driver(f, USUAL & ~F(MRG_RXBUF));
    assert_true(set_mode(f, VIRTIO_NET_CTRL_RX_PROMISC, 0));
    assert_true(gets_frame_to(f, mac));
    assert_true(gets_frame_to(f, mac));
    assert_false(gets_frame_to(f, other));
    put_frame(f, 1600, 1);
    wire(f);
    send_frame(f, 60, 1);
    send_frame(f, 5, 1);
    show(f, TX);
    f->backend->send_result = -EIO;
    send_frame(f, 60, 1);
    show(f, TX);
    virtio_stats(f->dev, &r.out);
    for (unsigned i = 0; i < ARRAY_SIZE(r.rows); i++)
        assert_int_equal(r.rows[i].seen, 1);
}

#define NET_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        NET_TEST(modes_choose_what_comes),
        NET_TEST(tables_choose_what_comes),
        NET_TEST(the_driver_may_change_the_address_until_a_reset),
        NET_TEST(the_driver_may_change_its_offloads),
        NET_TEST(unknown_commands_are_refused),
        NET_TEST(a_reset_forgets_frames_and_buffers),
        NET_TEST(a_reset_of_the_receive_queue_is_one_of_its_buffers),
        NET_TEST(saved_state_is_restored),
        NET_TEST(a_device_that_the_driver_broke_can_be_saved),
        NET_TEST(a_drained_device_goes_on),
        NET_TEST(impossible_state_is_refused),
        NET_TEST(frames_are_counted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
