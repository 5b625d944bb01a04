/* The user-mode network, with a guest made of frames: ARP, DHCP, UDP and TCP to a server on the host, forwards from the host. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/backend.h"
#include "net/checksum.h"

#define GUEST 0x0a00020f
#define HOST 0x0a000202
#define GIVE_UP_NS (20 * NS_PER_SEC) /* a deadline for a failure, not a measurement */
#define SEED 0x51173

static const uint8_t guest_mac[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56};

struct guest {
    struct loop *loop;
    struct net_backend *net;
    struct loop_timer deadline;
    bool done, too_late;

    bool stop_at_frame; /* loop_run() ends with the next one that is not ARP */
    unsigned arp_replies, frames;
    uint8_t host_mac[6];
    uint8_t frame[NET_FRAME_MAX]; /* the last one, but for ARP */
    struct virtio_net_hdr_v1 header;
    size_t len;
    /* TCP: a receiver that takes everything in order. */
    uint16_t port;
    uint32_t seq, ack, peer_acked;
    uint32_t received, received_sum;
    bool connected, closed;
    bool silent; /* it answers nothing: with nonsense in the air the answers would go to and fro for ever */
};

/* --- frames --- */

static void put16(uint8_t *p, unsigned value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

static void put32(uint8_t *p, uint32_t value)
{
    put16(p, value >> 16);
    put16(p + 2, value & 0xffff);
}

static unsigned get16(const uint8_t *p)
{
    return (unsigned)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

/* What the tests' own arithmetic says, word for word. */
static unsigned plain_sum(const uint8_t *p, size_t len, uint32_t sum)
{
    for (size_t i = 0; i < len; i++)
        sum += i % 2 ? p[i] : (uint32_t)p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static void send_frame(struct guest *g, uint8_t *frame, size_t len, struct virtio_net_hdr_v1 header)
{
    /* Cut at odd places. */
    const struct iovec iov[] = {{&header, sizeof(header)}, {frame, 13}, {frame + 13, len - 13}};

    assert_int_equal(g->net->ops->send(g->net, iov, 3), 0);
}

static void flush(struct guest *g)
{
    if (g->net->ops->flush(g->net))
        g->net->ops->set_reading(g->net, true); /* be told */
}

static void ethernet(const struct guest *g, uint8_t *frame, unsigned type)
{
    memcpy(frame, g->host_mac, 6);
    memcpy(frame + 6, guest_mac, 6);
    put16(frame + 12, type);
}

/* An IPv4 packet whose payload stands at frame + 34, with the checksum at csum_offset of it left to be completed. */
static void send_ip(struct guest *g, uint8_t *frame, unsigned protocol, uint32_t from, uint32_t to, size_t payload, unsigned csum_offset)
{
    uint8_t *ip = frame + 14;
    struct virtio_net_hdr_v1 header = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = (uint16_t)csum_offset};

    ethernet(g, frame, ETHERTYPE_IP);
    memset(ip, 0, 20);
    ip[0] = 0x45;
    put16(ip + 2, (unsigned)(20 + payload));
    ip[8] = 64;
    ip[9] = (uint8_t)protocol;
    put32(ip + 12, from);
    put32(ip + 16, to);
    put16(ip + 10, ~plain_sum(ip, 20, 0) & 0xffff);
    put16(frame + 34 + csum_offset, plain_sum(ip + 12, 8, protocol + (uint32_t)payload)); /* the pseudo-header's */
    send_frame(g, frame, 34 + payload, header);
}

static void send_udp(struct guest *g, uint32_t from, uint32_t to, unsigned from_port, unsigned to_port, const void *data, size_t len)
{
    uint8_t *frame = calloc(1, 42 + len);

    assert_non_null(frame);
    put16(frame + 34, from_port);
    put16(frame + 36, to_port);
    put16(frame + 38, (unsigned)(8 + len));
    memcpy(frame + 42, data, len);
    send_ip(g, frame, IPPROTO_UDP, from, to, 8 + len, 6);
    free(frame);
}

#define FIN 1
#define SYN 2
#define RST 4
#define PSH 8
#define ACK 16

static void send_tcp(struct guest *g, unsigned to_port, unsigned flags, const void *data, size_t len)
{
    unsigned header = flags & SYN ? 24 : 20;
    uint8_t *frame = calloc(1, 34 + header + len);

    assert_non_null(frame);
    put16(frame + 34, g->port);
    put16(frame + 36, to_port);
    put32(frame + 38, g->seq);
    put32(frame + 42, g->ack);
    frame[46] = (uint8_t)(header / 4 << 4);
    frame[47] = (uint8_t)flags;
    put16(frame + 48, 0xffff);
    if (flags & SYN) {
        frame[54] = 2; /* segment size */
        frame[55] = 4;
        put16(frame + 56, 65480);
    }
    if (len)
        memcpy(frame + 34 + header, data, len);
    send_ip(g, frame, IPPROTO_TCP, GUEST, HOST, header + len, 16);
    free(frame);
    g->seq += (uint32_t)len + (flags & (SYN | FIN) ? 1 : 0);
}

/* --- the guest's side of what comes --- */

static void answer_arp(struct guest *g, const uint8_t *request)
{
    uint8_t reply[42];

    memcpy(g->host_mac, request + 6, 6);
    if (get16(request + 20) == 2) {
        g->arp_replies++;
        return;
    }
    if (get32(request + 38) != GUEST)
        return;
    ethernet(g, reply, ETHERTYPE_ARP);
    memcpy(reply + 14, request + 14, 6);
    put16(reply + 20, 2);
    memcpy(reply + 22, guest_mac, 6);
    put32(reply + 28, GUEST);
    memcpy(reply + 32, request + 22, 10);
    send_frame(g, reply, sizeof(reply), (struct virtio_net_hdr_v1){0});
    flush(g);
}

static void on_tcp(struct guest *g)
{
    const uint8_t *tcp = g->frame + 34;
    size_t header = (size_t)(tcp[12] >> 4) * 4, len = get16(g->frame + 16) - 20 - header;
    unsigned flags = tcp[13], from = get16(tcp);

    if (flags & ACK)
        g->peer_acked = get32(tcp + 8);
    if (flags & RST) {
        g->closed = true;
        return;
    }
    if (flags & SYN) {
        g->ack = get32(tcp + 4) + 1;
        g->port = (uint16_t)get16(tcp + 2);
        g->connected = true;
        send_tcp(g, from, flags & ACK ? ACK : SYN | ACK, NULL, 0);
        return;
    }
    if (len == 0 && !(flags & FIN))
        return;
    if (get32(tcp + 4) == g->ack) {
        for (size_t i = 0; i < len; i++)
            g->received_sum = g->received_sum * 31 + tcp[header + i];
        g->received += (uint32_t)len;
        g->ack += (uint32_t)len + (flags & FIN ? 1 : 0);
        g->closed |= flags & FIN;
    }
    send_tcp(g, from, ACK, NULL, 0);
}

static void on_frame(struct guest *g)
{
    if (get16(g->frame + 12) == ETHERTYPE_ARP) {
        answer_arp(g, g->frame);
        return;
    }
    g->frames++;
    if (get16(g->frame + 12) == ETHERTYPE_IP && g->frame[23] == IPPROTO_TCP && !g->silent)
        on_tcp(g);
    if (g->stop_at_frame)
        loop_stop(g->loop);
}

static void on_readable(void *opaque)
{
    struct guest *g = opaque;
    const struct iovec iov[] = {{&g->header, sizeof(g->header)}, {g->frame, 40}, {g->frame + 40, sizeof(g->frame) - 40}};
    ssize_t n;

    while ((n = g->net->ops->recv(g->net, iov, 3)) != -EAGAIN) {
        assert_true(n >= NET_HEADER_BYTES + NET_FRAME_MIN);
        g->len = (size_t)n - NET_HEADER_BYTES;
        on_frame(g);
    }
    flush(g);
}

static void on_deadline(struct loop_timer *timer)
{
    struct guest *g = container_of(timer, struct guest, deadline);

    g->too_late = true;
    loop_stop(g->loop);
}

/* Until the next frame, while nothing else ends it. */
static void await_frame(struct guest *g)
{
    g->stop_at_frame = true;
    assert_int_equal(loop_run(g->loop), 0);
    g->stop_at_frame = false;
    assert_false(g->too_late);
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

static void open_net(struct guest *g, const struct net_forward *forwards, unsigned count)
{
    struct err e;

    g->net = net_slirp_open(forwards, count, g->loop, &e);
    if (!g->net)
        fail_msg("%s", e.text);
    g->net->readable = on_readable;
    g->net->opaque = g;
    g->net->ops->set_reading(g->net, true);
}

static void ask_arp(struct guest *g, uint32_t who)
{
    uint8_t request[42] = {0};

    memset(request, 0xff, 6);
    memcpy(request + 6, guest_mac, 6);
    put16(request + 12, ETHERTYPE_ARP);
    put16(request + 14, 1);
    put16(request + 16, ETHERTYPE_IP);
    request[18] = 6;
    request[19] = 4;
    put16(request + 20, 1);
    memcpy(request + 22, guest_mac, 6);
    put32(request + 28, GUEST);
    put32(request + 38, who);
    send_frame(g, request, sizeof(request), (struct virtio_net_hdr_v1){0});
    flush(g);
}

static void find_host(struct guest *g)
{
    ask_arp(g, HOST);
    while (!g->arp_replies)
        run_once(g);
}

static int setup(void **state)
{
    struct guest *g = calloc(1, sizeof(*g));
    struct err e;

    assert_non_null(g);
    signal(SIGPIPE, SIG_IGN); /* as the program does: libslirp writes to sockets that the peer has closed */
    g->loop = loop_new(&e);
    assert_non_null(g->loop);
    loop_timer_init(g->loop, &g->deadline, on_deadline);
    loop_timer_set(&g->deadline, clock_monotonic_ns() + GIVE_UP_NS);
    g->port = 40000;
    g->seq = 1000;
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

/* --- the host's side --- */

static int listen_on_loopback(int type, uint16_t *port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    if (type == SOCK_STREAM)
        assert_int_equal(listen(fd, 4), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    *port = ntohs(addr.sin_port);
    return fd;
}

static int connect_to_loopback(int type, uint16_t port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

static uint16_t free_port(int type)
{
    uint16_t port;

    close(listen_on_loopback(type, &port));
    return port;
}

/* --- the tests --- */

static void the_router_answers_for_its_addresses_only(void **state)
{
    struct guest *g = *state;

    open_net(g, NULL, 0);
    ask_arp(g, 0x0a000277);
    run_once(g);
    run_once(g);
    assert_int_equal(g->arp_replies, 0);
    find_host(g);
    ask_arp(g, 0x0a000203);
    while (g->arp_replies < 2)
        run_once(g);
}

/* The value of a DHCP option of 4 bytes, or 0. */
static uint32_t dhcp_option(const uint8_t *dhcp, size_t len, unsigned option)
{
    for (size_t at = 240; at + 6 <= len && dhcp[at] != 255; at += dhcp[at] ? dhcp[at + 1] + 2U : 1)
        if (dhcp[at] == option)
            return dhcp[at + 1] == 1 ? dhcp[at + 2] : get32(dhcp + at + 2);
    return 0;
}

static void ask_dhcp(struct guest *g, unsigned type, unsigned answer)
{
    uint8_t dhcp[300] = {1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef};
    const uint8_t *reply = g->frame + 42;

    memcpy(dhcp + 28, guest_mac, 6);
    put32(dhcp + 236, 0x63825363);
    dhcp[240] = 53;
    dhcp[241] = 1;
    dhcp[242] = (uint8_t)type;
    dhcp[243] = 50; /* the address that it wants */
    dhcp[244] = 4;
    put32(dhcp + 245, GUEST);
    dhcp[249] = 255;
    memset(g->host_mac, 0xff, 6);
    send_udp(g, 0, 0xffffffff, 68, 67, dhcp, sizeof(dhcp));
    flush(g);
    await_frame(g);
    assert_int_equal(get32(reply + 4), 0xdeadbeef);
    assert_int_equal(get32(reply + 16), GUEST);
    assert_int_equal(dhcp_option(reply, g->len - 42, 53), answer);
    assert_int_equal(dhcp_option(reply, g->len - 42, 1), 0xffffff00);
    assert_int_equal(dhcp_option(reply, g->len - 42, 3), HOST);
    assert_int_equal(dhcp_option(reply, g->len - 42, 6), 0x0a000203);
}

static void the_guest_gets_its_address_by_dhcp(void **state)
{
    struct guest *g = *state;

    open_net(g, NULL, 0);
    ask_dhcp(g, 1, 2); /* discover, offer */
    ask_dhcp(g, 3, 5); /* request, acknowledge */
}

static void a_datagram_reaches_the_host_and_its_answer_the_guest(void **state)
{
    struct guest *g = *state;
    struct sockaddr_in from;
    socklen_t from_len = sizeof(from);
    char text[16] = "";
    uint16_t port;
    int fd = listen_on_loopback(SOCK_DGRAM, &port);

    open_net(g, NULL, 0);
    find_host(g);
    send_udp(g, GUEST, HOST, 5000, port, "question", 8);
    flush(g);
    assert_int_equal(poll(&(struct pollfd){fd, POLLIN, 0}, 1, 10000), 1);
    assert_int_equal(recvfrom(fd, text, sizeof(text), 0, (struct sockaddr *)&from, &from_len), 8);
    assert_string_equal(text, "question");
    assert_int_equal(sendto(fd, "answer", 6, 0, (struct sockaddr *)&from, from_len), 6);
    await_frame(g);
    assert_int_equal(get16(g->frame + 34), port);
    assert_int_equal(get16(g->frame + 36), 5000);
    assert_memory_equal(g->frame + 42, "answer", 6);
    close(fd);
}

static void a_wrong_checksum_is_not_mended_unasked(void **state)
{
    struct guest *g = *state;
    uint8_t frame[64] = {0};
    uint16_t port;
    int fd = listen_on_loopback(SOCK_DGRAM, &port);

    open_net(g, NULL, 0);
    find_host(g);
    send_udp(g, GUEST, HOST, 5000, port, "good", 4);
    /* The same, with a checksum that is complete and wrong. */
    ethernet(g, frame, ETHERTYPE_IP);
    frame[14] = 0x45;
    put16(frame + 16, 32);
    frame[22] = 64;
    frame[23] = IPPROTO_UDP;
    put32(frame + 26, GUEST);
    put32(frame + 30, HOST);
    put16(frame + 24, ~plain_sum(frame + 14, 20, 0) & 0xffff);
    put16(frame + 34, 5000);
    put16(frame + 36, port);
    put16(frame + 38, 12);
    put16(frame + 40, 0x1234);
    memcpy(frame + 42, "evil", 4);
    send_frame(g, frame, 46, (struct virtio_net_hdr_v1){0});
    send_udp(g, GUEST, HOST, 5000, port, "last", 4);
    flush(g);
    for (unsigned i = 0; i < 2; i++) {
        char text[8] = "";

        assert_int_equal(poll(&(struct pollfd){fd, POLLIN, 0}, 1, 10000), 1);
        assert_int_equal(recv(fd, text, sizeof(text), 0), 4);
        assert_string_equal(text, i ? "last" : "good");
    }
    close(fd);
}

static void checksums_are_right_at_every_length_and_place(void **state)
{
    static uint8_t frame[400], copy[400];

    (void)state;
    srand(SEED);
    for (size_t len = 4; len < 300; len++) {
        size_t start = (size_t)rand() % (len - 3), offset = (size_t)rand() % (len - start - 1) & ~(size_t)1;

        for (size_t i = 0; i < sizeof(frame); i++)
            frame[i] = len % 7 ? (uint8_t)rand() : 0xff; /* carries all the way */
        memcpy(copy, frame, sizeof(frame));
        net_complete_checksum(frame, len, start, offset);
        assert_true(get16(frame + start + offset) != 0);
        if ((uint16_t)~plain_sum(copy + start, len - start, 0) % 0xffff != get16(frame + start + offset) % 0xffff)
            fail_msg("length %zu, start %zu, offset %zu, seed %#x", len, start, offset, SEED);
        frame[start + offset] = copy[start + offset];
        frame[start + offset + 1] = copy[start + offset + 1];
        assert_memory_equal(frame, copy, sizeof(frame));
    }
}

static void good_checksums_are_said_to_be_good_where_the_guest_believes_it(void **state)
{
    struct guest *g = *state;

    open_net(g, NULL, 0);
    ask_dhcp(g, 1, 2);
    assert_int_equal(g->header.flags, 0);
    g->net->ops->set_offloads(g->net, NET_OFFLOAD_CSUM);
    ask_dhcp(g, 1, 2);
    assert_int_equal(g->header.flags, VIRTIO_NET_HDR_F_DATA_VALID);
    assert_int_equal(g->header.gso_type, VIRTIO_NET_HDR_GSO_NONE);
}

/* The guest opens a connection to a server on the host; the server's side of it. */
static int open_connection(struct guest *g, uint16_t *port)
{
    int server = listen_on_loopback(SOCK_STREAM, port), fd;

    find_host(g);
    send_tcp(g, *port, SYN, NULL, 0);
    flush(g);
    while (!g->connected)
        run_once(g);
    assert_int_equal(poll(&(struct pollfd){server, POLLIN, 0}, 1, 10000), 1);
    fd = accept4(server, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    assert_true(fd >= 0);
    close(server);
    return fd;
}

static void a_stream_reaches_the_guest_whole(void **state)
{
    enum { TOTAL = 8 << 20 };
    struct guest *g = *state;
    uint8_t *data = malloc(TOTAL);
    uint32_t sum = 0, sent = 0, largest = 0;
    uint16_t port;
    int fd;

    assert_non_null(data);
    srand(SEED);
    for (size_t i = 0; i < TOTAL; i++) {
        data[i] = (uint8_t)rand();
        sum = sum * 31 + data[i];
    }
    open_net(g, NULL, 0);
    fd = open_connection(g, &port);
    while (g->received < TOTAL) {
        ssize_t n = sent < TOTAL ? write(fd, data + sent, TOTAL - sent) : 0;

        sent += n > 0 ? (uint32_t)n : 0;
        run_once(g);
        largest = g->len > largest ? (uint32_t)g->len : largest;
    }
    assert_int_equal(g->received_sum, sum);
    assert_true(largest > 9000); /* as large as the guest takes them */
    close(fd);
    while (!g->closed)
        run_once(g);
    free(data);
}

static void a_stream_from_the_guest_arrives_whole_in_segments_of_64_k(void **state)
{
    enum { PIECE = 65000, PIECES = 60 };
    struct guest *g = *state;
    uint8_t *data = malloc(PIECE), *got = malloc(PIECE);
    uint16_t port;
    int fd;

    assert_non_null(data);
    assert_non_null(got);
    srand(SEED);
    open_net(g, NULL, 0);
    fd = open_connection(g, &port);
    for (unsigned piece = 0; piece < PIECES; piece++) {
        size_t have = 0;

        for (size_t i = 0; i < PIECE; i++)
            data[i] = (uint8_t)rand();
        send_tcp(g, port, ACK | PSH, data, PIECE);
        flush(g);
        while (have < PIECE || g->peer_acked != g->seq) {
            ssize_t n = have < PIECE ? read(fd, got + have, PIECE - have) : 0;

            have += n > 0 ? (size_t)n : 0;
            run_once(g);
        }
        if (memcmp(got, data, PIECE) != 0)
            fail_msg("piece %u, seed %#x", piece, SEED);
    }
    close(fd);
    free(data);
    free(got);
}

/* The server goes away with data on its way: no signal, and the guest learns of it. */
static void a_server_that_resets_ends_the_connection(void **state)
{
    struct guest *g = *state;
    struct linger linger = {1, 0};
    uint16_t port;
    int fd;

    open_net(g, NULL, 0);
    fd = open_connection(g, &port);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
    close(fd);
    send_tcp(g, port, ACK | PSH, "anybody?", 8);
    flush(g);
    while (!g->closed) {
        run_once(g);
        send_tcp(g, port, ACK | PSH, "x", 1);
        flush(g);
    }
}

static void while_the_guest_does_not_read_the_host_keeps_what_it_sends(void **state)
{
    struct guest *g = *state;
    uint8_t *data = calloc(1, 1 << 20);
    uint32_t sent = 0;
    uint16_t port;
    unsigned idle = 0;
    int fd;

    assert_non_null(data);
    open_net(g, NULL, 0);
    fd = open_connection(g, &port);
    g->net->ops->set_reading(g->net, false);
    g->frames = 0;
    while (idle < 50) {
        ssize_t n = write(fd, data, 1 << 20);

        idle = n > 0 ? 0 : idle + 1;
        sent += n > 0 ? (uint32_t)n : 0;
        run_once(g);
    }
    assert_int_equal(g->frames, 0);
    g->net->ops->set_reading(g->net, true);
    while (g->received < sent)
        run_once(g);
    assert_int_equal(g->received, sent);
    close(fd);
    free(data);
}

/* --- forwards --- */

static void a_tcp_forward_leads_into_the_guest(void **state)
{
    struct guest *g = *state;
    struct net_forward forward = {.host_port = free_port(SOCK_STREAM), .guest_port = 22};
    char text[16] = "";
    int fd;

    open_net(g, &forward, 1);
    fd = connect_to_loopback(SOCK_STREAM, forward.host_port);
    while (!g->connected) /* the router asks for the guest's address, and then for a connection */
        run_once(g);
    assert_int_equal(g->port, 22);
    assert_int_equal(write(fd, "hello", 5), 5);
    while (g->received < 5)
        run_once(g);
    send_tcp(g, get16(g->frame + 34), ACK | PSH, "welcome", 7);
    flush(g);
    assert_int_equal(poll(&(struct pollfd){fd, POLLIN, 0}, 1, 10000), 1);
    assert_int_equal(read(fd, text, sizeof(text)), 7);
    assert_string_equal(text, "welcome");
    close(fd);
}

static void a_udp_forward_leads_into_the_guest(void **state)
{
    struct guest *g = *state;
    struct net_forward forward = {.udp = true, .host_addr = "127.0.0.1", .host_port = free_port(SOCK_DGRAM), .guest_port = 53};
    int fd;

    open_net(g, &forward, 1);
    fd = connect_to_loopback(SOCK_DGRAM, forward.host_port);
    assert_int_equal(send(fd, "hello", 5, 0), 5);
    await_frame(g);
    assert_int_equal(get16(g->frame + 36), 53);
    assert_memory_equal(g->frame + 42, "hello", 5);
    close(fd);
}

static void a_forward_that_cannot_be_is_refused(void **state)
{
    struct guest *g = *state;
    struct net_forward forwards[] = {{.guest_port = 80}, {.guest_port = 22}};
    struct err e;
    int tcp = listen_on_loopback(SOCK_STREAM, &forwards[1].host_port), udp;

    forwards[0].host_port = free_port(SOCK_STREAM);
    assert_null(net_slirp_open(forwards, 2, g->loop, &e));
    assert_non_null(strstr(e.text, "another program has it"));
    close(listen_on_loopback(SOCK_STREAM, &forwards[0].host_port)); /* the one that went well is not kept */
    close(tcp);

    udp = listen_on_loopback(SOCK_DGRAM, &forwards[1].host_port);
    forwards[1].udp = true;
    assert_null(net_slirp_open(&forwards[1], 1, g->loop, &e));
    assert_non_null(strstr(e.text, "udp port 127.0.0.1:"));
    close(udp);

    strcpy(forwards[1].host_addr, "192.0.2.77");
    assert_null(net_slirp_open(&forwards[1], 1, g->loop, &e));
    assert_non_null(strstr(e.text, "does not have that address"));
    strcpy(forwards[1].host_addr, "nowhere");
    assert_null(net_slirp_open(&forwards[1], 1, g->loop, &e));
    assert_non_null(strstr(e.text, "nowhere"));
}

/* --- hostility --- */

static void nonsense_from_the_guest_does_no_harm(void **state)
{
    struct guest *g = *state;
    static uint8_t frame[4096];

    open_net(g, NULL, 0);
    find_host(g);
    g->silent = true;
    srand(SEED);
    for (unsigned i = 0; i < 20000; i++) {
        size_t len = 54 + (size_t)rand() % (rand() % 16 ? 100 : 2000);
        unsigned protocol = (uint8_t[]){IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, 2}[rand() % 4];

        for (size_t n = 0; n < len; n++)
            frame[n] = (uint8_t)rand();
        if (rand() % 4) { /* past the checksums */
            put16(frame + 34, (unsigned)rand() % 4);
            put16(frame + 36, 1); /* nobody listens there */
            put16(frame + 38, (unsigned)rand() % 2 ? (unsigned)len - 34 : (unsigned)rand());
            send_ip(g, frame, protocol, GUEST, HOST, len - 34, protocol == IPPROTO_TCP ? 16 : protocol == IPPROTO_UDP ? 6 : 2);
        } else {
            ethernet(g, frame, rand() % 4 ? ETHERTYPE_IP : rand() % 2 ? ETHERTYPE_ARP : ETHERTYPE_IPV6);
            send_frame(g, frame, len, (struct virtio_net_hdr_v1){0});
        }
        if (i % 64 == 0) {
            flush(g);
            run_once(g);
        }
    }
    g->arp_replies = 0;
    find_host(g);
}

/* Some versions of libslirp corrupt their memory by them. */
static void fragments_do_no_harm(void **state)
{
    struct guest *g = *state;
    static uint8_t frame[4096];

    open_net(g, NULL, 0);
    find_host(g);
    g->silent = true;
    srand(SEED);
    for (unsigned i = 0; i < 20000; i++) {
        size_t len = 34 + (size_t)rand() % (rand() % 16 ? 100 : 2000);

        for (size_t n = 0; n < len; n++)
            frame[n] = (uint8_t)rand();
        ethernet(g, frame, ETHERTYPE_IP);
        frame[14] = 0x45;
        put16(frame + 16, (unsigned)len - 14);
        put16(frame + 18, (unsigned)rand() % 4);
        put16(frame + 20, (unsigned)rand());
        frame[23] = rand() % 2 ? IPPROTO_UDP : IPPROTO_ICMP;
        put32(frame + 26, GUEST);
        put32(frame + 30, HOST);
        put16(frame + 24, 0);
        put16(frame + 24, ~plain_sum(frame + 14, 20, 0) & 0xffff);
        send_frame(g, frame, len, (struct virtio_net_hdr_v1){0});
        if (i % 64 == 0) {
            flush(g);
            run_once(g);
        }
    }
    g->arp_replies = 0;
    find_host(g);
}

#define SLIRP_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SLIRP_TEST(the_router_answers_for_its_addresses_only),
        SLIRP_TEST(the_guest_gets_its_address_by_dhcp),
        SLIRP_TEST(a_datagram_reaches_the_host_and_its_answer_the_guest),
        SLIRP_TEST(a_wrong_checksum_is_not_mended_unasked),
        SLIRP_TEST(checksums_are_right_at_every_length_and_place),
        SLIRP_TEST(good_checksums_are_said_to_be_good_where_the_guest_believes_it),
        SLIRP_TEST(a_stream_reaches_the_guest_whole),
        SLIRP_TEST(a_stream_from_the_guest_arrives_whole_in_segments_of_64_k),
        SLIRP_TEST(a_server_that_resets_ends_the_connection),
        SLIRP_TEST(while_the_guest_does_not_read_the_host_keeps_what_it_sends),
        SLIRP_TEST(a_tcp_forward_leads_into_the_guest),
        SLIRP_TEST(a_udp_forward_leads_into_the_guest),
        SLIRP_TEST(a_forward_that_cannot_be_is_refused),
        SLIRP_TEST(nonsense_from_the_guest_does_no_harm),
        SLIRP_TEST(fragments_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
