/* Tap interfaces, in a network namespace of the test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/backend.h"

#define GIVE_UP_NS (20 * NS_PER_SEC) /* a deadline for a failure, not a measurement */
#define HOST "10.9.0.1"
#define GUEST "10.9.0.2"

static const char *skip_reason;
static const uint8_t guest_mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};

struct guest {
    struct loop *loop;
    struct net_backend *net;
    struct loop_timer deadline;
    bool too_late, stop_at_udp;
    unsigned frames, readables;
    uint8_t host_mac[6];
    struct virtio_net_hdr_v1 header; /* of the last UDP packet that came */
    uint8_t frame[NET_FRAME_MAX];
    size_t len;
};

/* --- the namespace --- */

static bool write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    if (fd >= 0)
        close(fd);
    return good;
}

static int group_setup(void **state)
{
    char map[64];
    unsigned uid = getuid();
    int fd;

    (void)state;
    snprintf(map, sizeof(map), "0 %u 1\n", uid);
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
        skip_reason = "this host gives no user and network namespaces";
    else if (!write_file("/proc/self/uid_map", map))
        skip_reason = "this host gives no rights in a user namespace";
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (!skip_reason && fd < 0)
        skip_reason = "/dev/net/tun cannot be opened";
    if (fd >= 0)
        close(fd);
    if (skip_reason)
        print_message("skipped: %s\n", skip_reason);
    return 0;
}

#define NEEDS_NAMESPACE()                                                                                                                  \
    do {                                                                                                                                   \
        if (skip_reason)                                                                                                                   \
            skip();                                                                                                                        \
    } while (0)

/* A descriptor of the interface, which is made where it is not there. */
static int tap(const char *name, short flags)
{
    struct ifreq request = {.ifr_flags = flags};
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

    assert_true(fd >= 0);
    strcpy(request.ifr_name, name);
    if (ioctl(fd, TUNSETIFF, &request) != 0)
        fail_msg("TUNSETIFF of %s: %s", name, strerror(errno));
    return fd;
}

static void set_persistent(const char *name, bool on, short flags)
{
    int fd = tap(name, flags);

    assert_int_equal(ioctl(fd, TUNSETPERSIST, on), 0);
    close(fd);
}

static void configure(const char *name, unsigned long request, struct ifreq *ifr)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    strcpy(ifr->ifr_name, name);
    if (ioctl(fd, request, ifr) != 0)
        fail_msg("%#lx of %s: %s", request, name, strerror(errno));
    close(fd);
}

static void set_up(const char *name)
{
    struct ifreq address = {0}, flags = {0};
    struct sockaddr_in in = {.sin_family = AF_INET};

    inet_pton(AF_INET, HOST, &in.sin_addr);
    memcpy(&address.ifr_addr, &in, sizeof(in));
    configure(name, SIOCSIFADDR, &address);
    in.sin_addr.s_addr = htonl(0xffffff00);
    memcpy(&address.ifr_addr, &in, sizeof(in));
    configure(name, SIOCSIFNETMASK, &address);
    configure(name, SIOCGIFFLAGS, &flags);
    flags.ifr_flags |= IFF_UP;
    configure(name, SIOCSIFFLAGS, &flags);
}

/* --- the guest --- */

static void send_frame(struct guest *g, uint8_t *frame, size_t len, struct virtio_net_hdr_v1 header)
{
    const struct iovec iov[] = {{&header, sizeof(header)}, {frame, 9}, {frame + 9, len - 9}};

    assert_int_equal(g->net->ops->send(g->net, iov, 3), 0);
}

static void answer_arp(struct guest *g)
{
    uint8_t *f = g->frame, reply[42];

    if (f[21] != 1 || memcmp(f + 38, (uint8_t[]){10, 9, 0, 2}, 4) != 0)
        return;
    memcpy(g->host_mac, f + 6, 6);
    memcpy(reply, f + 6, 6);
    memcpy(reply + 6, guest_mac, 6);
    memcpy(reply + 12, f + 12, 8);
    memcpy(reply + 20, (uint8_t[]){0, 2}, 2);
    memcpy(reply + 22, guest_mac, 6);
    memcpy(reply + 28, f + 38, 4);
    memcpy(reply + 32, f + 22, 10);
    send_frame(g, reply, sizeof(reply), (struct virtio_net_hdr_v1){0});
}

static void on_readable(void *opaque)
{
    struct guest *g = opaque;
    struct virtio_net_hdr_v1 header;
    const struct iovec iov[] = {{&header, sizeof(header)}, {g->frame, sizeof(g->frame)}};
    ssize_t n;

    g->readables++;
    while ((n = g->net->ops->recv(g->net, iov, 2)) > 0) {
        assert_true(n >= NET_HEADER_BYTES + NET_FRAME_MIN);
        g->len = (size_t)n - NET_HEADER_BYTES;
        g->frames++;
        if (g->frame[12] == 0x08 && g->frame[13] == 0x06)
            answer_arp(g);
        if (g->frame[12] == 0x08 && g->frame[13] == 0x00 && g->frame[23] == IPPROTO_UDP) {
            g->header = header;
            if (g->stop_at_udp)
                loop_stop(g->loop);
            return;
        }
    }
}

static void on_deadline(struct loop_timer *timer)
{
    struct guest *g = container_of(timer, struct guest, deadline);

    g->too_late = true;
    loop_stop(g->loop);
}

static void stop(void *loop)
{
    loop_stop(loop);
}

static void run_once(struct guest *g)
{
    loop_post(g->loop, stop, g->loop);
    assert_int_equal(loop_run(g->loop), 0);
    assert_false(g->too_late);
}

static void await_udp(struct guest *g)
{
    g->stop_at_udp = true;
    assert_int_equal(loop_run(g->loop), 0);
    g->stop_at_udp = false;
    assert_false(g->too_late);
}

static void attach(struct guest *g, struct net_backend *net, const struct err *e)
{
    if (!net)
        fail_msg("%s", e->text);
    g->net = net;
    net->readable = on_readable;
    net->opaque = g;
    net->ops->set_reading(net, true);
}

static int setup(void **state)
{
    struct guest *g = calloc(1, sizeof(*g));
    struct err e;

    assert_non_null(g);
    g->loop = loop_new(&e);
    assert_non_null(g->loop);
    loop_timer_init(g->loop, &g->deadline, on_deadline);
    loop_timer_set(&g->deadline, clock_monotonic_ns() + GIVE_UP_NS);
    *state = g;
    return 0;
}

static int teardown(void **state)
{
    struct guest *g = *state;

    net_free(g->net);
    loop_timer_cancel(&g->deadline);
    loop_free(g->loop);
    free(g);
    return 0;
}

static int host_socket(uint16_t *port)
{
    struct sockaddr_in in = {.sin_family = AF_INET};
    socklen_t len = sizeof(in);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    inet_pton(AF_INET, HOST, &in.sin_addr);
    assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &len), 0);
    *port = ntohs(in.sin_port);
    return fd;
}

static void send_from_host(int fd, const void *data, size_t len)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(7)};

    inet_pton(AF_INET, GUEST, &in.sin_addr);
    assert_int_equal(sendto(fd, data, len, 0, (struct sockaddr *)&in, sizeof(in)), len);
}

/* A UDP packet of "good" to the host's port, its checksum left to the device or, without offload, absent. */
static void send_from_guest(struct guest *g, uint16_t port, bool offload)
{
    uint8_t f[46] = {0};
    struct virtio_net_hdr_v1 header = {0};
    uint32_t sum = 0;

    memcpy(f, g->host_mac, 6);
    memcpy(f + 6, guest_mac, 6);
    memcpy(f + 12, (uint8_t[]){8, 0, 0x45, 0, 0, 32}, 6);
    memcpy(f + 22, (uint8_t[]){64, IPPROTO_UDP, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1, 0, 7}, 14);
    f[36] = (uint8_t)(port >> 8);
    f[37] = (uint8_t)port;
    f[39] = 12;
    memcpy(f + 42, "good", 4);
    for (unsigned i = 14; i < 34; i += 2)
        sum += (uint32_t)(f[i] << 8 | f[i + 1]);
    sum = ~((sum & 0xffff) + (sum >> 16));
    f[24] = (uint8_t)(sum >> 8);
    f[25] = (uint8_t)sum;
    if (offload) {
        header = (struct virtio_net_hdr_v1){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 6};
        sum = 0x0a09 * 2 + 2 + 1 + IPPROTO_UDP + 12; /* the pseudo-header's: addresses, protocol, length */
        f[40] = (uint8_t)(sum >> 8);
        f[41] = (uint8_t)sum;
    }
    send_frame(g, f, sizeof(f), header);
}

static void assert_host_gets_it(int fd)
{
    char text[8] = "";

    assert_int_equal(poll(&(struct pollfd){fd, POLLIN, 0}, 1, 10000), 1);
    assert_int_equal(recv(fd, text, sizeof(text), 0), 4);
    assert_string_equal(text, "good");
}

/* --- the tests --- */

static void frames_go_both_ways(struct guest *g, bool offload)
{
    uint16_t port;
    int fd = host_socket(&port);

    send_from_host(fd, "hello", 5);
    await_udp(g); /* the host has asked for the guest's address before */
    assert_memory_equal(g->frame + 42, "hello", 5);
    assert_int_equal(g->len, 47);
    assert_int_equal(g->header.gso_type, VIRTIO_NET_HDR_GSO_NONE);
    assert_int_equal(g->header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM, 0); /* nobody has offered to complete it */
    if (offload) {
        g->net->ops->set_offloads(g->net, NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN);
        send_from_host(fd, "again", 5);
        await_udp(g);
        assert_int_equal(g->header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_F_NEEDS_CSUM);
        assert_int_equal(g->header.csum_start, 34);
        send_from_guest(g, port, true);
        assert_host_gets_it(fd);
        g->net->ops->set_offloads(g->net, 0);
        send_from_host(fd, "plain", 5);
        await_udp(g);
        assert_int_equal(g->header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM, 0);
    }
    send_from_guest(g, port, false);
    assert_host_gets_it(fd);
    close(fd);
}

static void a_named_tap_carries_frames_with_their_headers(void **state)
{
    struct guest *g = *state;
    struct err e;

    NEEDS_NAMESPACE();
    set_persistent("tap0", true, IFF_TAP | IFF_NO_PI);
    attach(g, net_tap_open("tap0", g->loop, &e), &e);
    assert_int_equal(g->net->offloads, NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN);
    set_up("tap0");
    frames_go_both_ways(g, true);
    net_free(g->net);
    g->net = NULL;
    set_persistent("tap0", false, IFF_TAP | IFF_NO_PI);
}

static void an_open_tap_is_taken_with_headers_and_without(void **state)
{
    struct guest *g = *state;
    struct err e;

    NEEDS_NAMESPACE();
    for (unsigned vnet = 0; vnet < 2; vnet++) {
        attach(g, net_tap_fd(tap("tap1", (short)(IFF_TAP | IFF_NO_PI | (vnet ? IFF_VNET_HDR : 0))), g->loop, &e), &e);
        assert_int_equal(g->net->offloads != 0, vnet);
        set_up("tap1");
        frames_go_both_ways(g, vnet);
        net_free(g->net); /* the interface goes with it */
        g->net = NULL;
        assert_int_equal(if_nametoindex("tap1"), 0);
    }
}

static void while_reading_is_off_nothing_is_read(void **state)
{
    struct guest *g = *state;
    struct err e;
    uint16_t port;
    int fd;

    NEEDS_NAMESPACE();
    attach(g, net_tap_fd(tap("tap2", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR), g->loop, &e), &e);
    set_up("tap2");
    fd = host_socket(&port);
    send_from_host(fd, "first", 5);
    await_udp(g);
    g->net->ops->set_reading(g->net, false);
    g->readables = 0;
    send_from_host(fd, "second", 6);
    for (unsigned i = 0; i < 20; i++)
        run_once(g);
    assert_int_equal(g->readables, 0);
    g->net->ops->set_reading(g->net, true);
    await_udp(g);
    assert_memory_equal(g->frame + 42, "second", 6);
    close(fd);
}

static void what_cannot_be_opened_is_said(void **state)
{
    struct guest *g = *state;
    struct err e;
    int busy, pipes[2];

    NEEDS_NAMESPACE();
    assert_null(net_tap_open("tap9", g->loop, &e));
    assert_non_null(strstr(e.text, "sudo ip tuntap add dev tap9 mode tap"));
    assert_int_equal(if_nametoindex("tap9"), 0); /* and was not made on the way */
    busy = tap("tap9", IFF_TAP | IFF_NO_PI);
    assert_null(net_tap_open("tap9", g->loop, &e));
    assert_non_null(strstr(e.text, "busy"));
    close(busy);
    assert_null(net_tap_open("lo", g->loop, &e));
    assert_non_null(strstr(e.text, "lo is no tap interface"));
    assert_null(net_tap_open("", g->loop, &e));
    assert_null(net_tap_open("a-name-that-is-too-long", g->loop, &e));
    assert_non_null(strstr(e.text, "1 to 15 characters"));

    assert_null(net_tap_fd(987, g->loop, &e));
    assert_non_null(strstr(e.text, "987 is not open"));
    assert_int_equal(pipe(pipes), 0);
    assert_null(net_tap_fd(pipes[0], g->loop, &e));
    assert_non_null(strstr(e.text, "is no open tap interface"));
    assert_int_equal(fcntl(pipes[0], F_GETFD), -1); /* was closed */
    close(pipes[1]);
    assert_null(net_tap_fd(open("/dev/net/tun", O_RDWR), g->loop, &e)); /* attached to nothing */
    assert_non_null(strstr(e.text, "is no open tap interface"));
    assert_null(net_tap_fd(tap("tun9", IFF_TUN | IFF_NO_PI), g->loop, &e));
    assert_non_null(strstr(e.text, "tun interface tun9"));
}

static void an_interface_that_is_deleted_leaves_the_loop_quiet(void **state)
{
    struct guest *g = *state;
    uint8_t frame[60] = {0};
    struct virtio_net_hdr_v1 header = {0};
    const struct iovec iov[] = {{&header, sizeof(header)}, {frame, sizeof(frame)}};
    struct err e;
    char command[] = "ip link del tap3";

    NEEDS_NAMESPACE();
    set_persistent("tap3", true, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
    attach(g, net_tap_open("tap3", g->loop, &e), &e);
    g->net->writable = on_readable;
    set_up("tap3");
    if (system(command) != 0) { /* no ip(8) here: at least it goes in the end */
        net_free(g->net);
        g->net = NULL;
        set_persistent("tap3", false, IFF_TAP | IFF_NO_PI);
        skip();
    }
    while (g->net->ops->send(g->net, iov, 2) == 0)
        run_once(g);
    run_once(g);
    g->readables = 0;
    for (unsigned i = 0; i < 20; i++)
        run_once(g);
    assert_int_equal(g->readables, 0);
    assert_true(g->net->ops->send(g->net, iov, 2) < 0);
}

#define TAP_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TAP_TEST(a_named_tap_carries_frames_with_their_headers),
        TAP_TEST(an_open_tap_is_taken_with_headers_and_without),
        TAP_TEST(while_reading_is_off_nothing_is_read),
        TAP_TEST(what_cannot_be_opened_is_said),
        TAP_TEST(an_interface_that_is_deleted_leaves_the_loop_quiet),
    };

    return cmocka_run_group_tests(tests, group_setup, NULL);
}
