/* The user-mode network: libslirp as the guest's router, needing no rights on the host. */
#include "net/backend.h"

#include <errno.h>
#include <pthread.h>
#include <slirp/libslirp.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/bug.h"
#include "base/clock.h"
#include "base/log.h"
#include "net/checksum.h"

/*
 * Theory of operation. libslirp wants to be asked which sockets it would poll, for what and for how long, and then to be told what came. Its
 * sockets are in an epoll set of their own, which is one file descriptor to the loop: when that is readable, or the time is over, a round
 * takes all events at once, hands them to libslirp and asks anew. What libslirp sends to the guest waits in a queue for recv(). A full queue
 * takes the set out of the loop, so that what the guest is too slow for stays in the host's sockets.
 *
 * Frames are as large as libslirp allows, for their number is what costs: the guest is told an MTU of 65520, and segments that it left to be
 * cut are handed on whole, with their checksum completed.
 */

#define MTU 65520
#define QUEUE_FULL (1U << 20)   /* bytes: no more is read from sockets */
#define QUEUE_LIMIT (16U << 20) /* bytes: what is sent nevertheless is lost, as on a wire */
#define EVENTS 64
#define GUEST_ADDR 0x0a00020f

struct queued {
    struct queued *next;
    size_t len;
    uint8_t data[];
};

/* Of a socket, found by its file descriptor. */
struct watch {
    uint32_t registered; /* EPOLL* in the set; 0: it is not there */
    uint32_t wanted;     /* what libslirp asks for in this round */
    int revents;         /* SLIRP_POLL_* for this round */
};

struct user_net {
    struct net_backend base;
    struct loop *loop;

    /* Guards what follows: frames come from the owner's thread, events from the loop's. Taken after the owner's. */
    pthread_mutex_t lock;
    Slirp *slirp;
    int epoll_fd;
    struct loop_fd sockets; /* the set, in the loop */
    bool paused;            /* it waits for no event: the queue was full */
    struct loop_timer timer;
    struct watch *watches;
    unsigned watch_count;
    struct queued *first, **last;
    size_t queue_bytes;
    bool reading;
    bool checksums_known; /* the guest believes us that checksums are good */
    struct log_limit complaints;
    uint8_t frame[NET_FRAME_MAX];
};

static struct user_net *user_net_of(struct net_backend *backend)
{
    return container_of(backend, struct user_net, base);
}

/* --- what libslirp calls, with the lock held --- */

static ssize_t send_packet(const void *data, size_t len, void *opaque)
{
    struct user_net *net = opaque;
    struct queued *q = net->queue_bytes + len <= QUEUE_LIMIT ? malloc(sizeof(*q) + len) : NULL;

    if (!q)
        return (ssize_t)len; /* lost; an error would mean nothing else to libslirp */
    q->next = NULL;
    q->len = len;
    memcpy(q->data, data, len);
    *net->last = q;
    net->last = &q->next;
    net->queue_bytes += len;
    return (ssize_t)len;
}

static void guest_error(const char *message, void *opaque)
{
    struct user_net *net = opaque;

    log_guest(&net->complaints, "user network: %s", message);
}

static int64_t clock_ns(void *opaque)
{
    (void)opaque;
    return (int64_t)clock_monotonic_ns();
}

/* Sockets are found when libslirp is asked what it would poll. */
static void register_socket(int fd, void *opaque)
{
    (void)fd, (void)opaque;
}

/* Before it is closed: the number may come again for another socket. */
static void unregister_socket(int fd, void *opaque)
{
    struct user_net *net = opaque;

    if (fd < 0 || (unsigned)fd >= net->watch_count)
        return;
    if (net->watches[fd].registered)
        epoll_ctl(net->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    net->watches[fd] = (struct watch){0};
}

/* It would read again from a socket. Nothing to do: this happens in send() and in rounds, and both ask anew at their ends. */
static void notify(void *opaque)
{
    (void)opaque;
}

static const SlirpCb callbacks = {
    .send_packet = send_packet,
    .guest_error = guest_error,
    .clock_get_ns = clock_ns,
    .register_poll_fd = register_socket,
    .unregister_poll_fd = unregister_socket,
    .notify = notify,
};

/* --- rounds --- */

static const struct {
    int slirp;
    uint32_t epoll;
} poll_bits[] = {
    {SLIRP_POLL_IN, EPOLLIN},   {SLIRP_POLL_OUT, EPOLLOUT}, {SLIRP_POLL_PRI, EPOLLPRI},
    {SLIRP_POLL_ERR, EPOLLERR}, {SLIRP_POLL_HUP, EPOLLHUP},
};

static uint32_t to_epoll(int events)
{
    uint32_t out = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(poll_bits); i++)
        out |= events & poll_bits[i].slirp ? poll_bits[i].epoll : 0;
    return out;
}

static int from_epoll(uint32_t events)
{
    int out = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(poll_bits); i++)
        out |= events & poll_bits[i].epoll ? poll_bits[i].slirp : 0;
    return out;
}

/* The index that libslirp gets is the file descriptor. */
static int add_poll(int fd, int events, void *opaque)
{
    struct user_net *net = opaque;

    if ((unsigned)fd >= net->watch_count) {
        unsigned count = MAX((unsigned)fd + 1, 2 * net->watch_count);
        struct watch *watches = reallocarray(net->watches, count, sizeof(*watches));

        if (!watches)
            return -1; /* not polled in this round */
        memset(watches + net->watch_count, 0, (count - net->watch_count) * sizeof(*watches));
        net->watches = watches;
        net->watch_count = count;
    }
    net->watches[fd].wanted = to_epoll(events);
    return fd;
}

static int get_revents(int fd, void *opaque)
{
    struct user_net *net = opaque;

    return net->watches[fd].revents;
}

static void update_watch(struct user_net *net, unsigned fd)
{
    struct watch *w = &net->watches[fd];
    struct epoll_event event = {.events = w->wanted, .data.fd = (int)fd};
    int op = !w->wanted ? EPOLL_CTL_DEL : w->registered ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;

    if (w->wanted == w->registered)
        return;
    w->registered = epoll_ctl(net->epoll_fd, op, (int)fd, &event) == 0 ? w->wanted : 0;
}

/* Asks for what to wait. A full queue waits for no socket; the owner's set_reading() or recv() ends that. */
static void ask(struct user_net *net)
{
    uint32_t timeout_ms = UINT32_MAX;
    bool pause = net->queue_bytes >= QUEUE_FULL;

    for (unsigned fd = 0; fd < net->watch_count; fd++)
        net->watches[fd].wanted = 0;
    slirp_pollfds_fill(net->slirp, &timeout_ms, add_poll, net);
    for (unsigned fd = 0; fd < net->watch_count; fd++)
        update_watch(net, fd);
    if (pause != net->paused) {
        net->paused = pause;
        net->sockets.events = pause ? 0 : EPOLLIN;
        loop_modify_fd(net->loop, &net->sockets);
    }
    loop_timer_set(&net->timer, clock_monotonic_ns() + timeout_ms * NS_PER_MS);
}

/* Tells what came, lets libslirp do what is due and send what it has kept back, and asks anew. */
static void round_of(struct user_net *net, const struct epoll_event *events, int count)
{
    for (int i = 0; i < count; i++)
        net->watches[events[i].data.fd].revents = from_epoll(events[i].events);
    slirp_pollfds_poll(net->slirp, 0, get_revents, net);
    for (int i = 0; i < count; i++)
        net->watches[events[i].data.fd].revents = 0;
    ask(net);
}

/* On the loop's thread. */
static void serve(struct user_net *net)
{
    struct epoll_event events[EVENTS];
    bool tell;
    int count = 0;

    pthread_mutex_lock(&net->lock);
    if (!net->paused)
        count = epoll_wait(net->epoll_fd, events, EVENTS, 0);
    round_of(net, events, count);
    tell = net->reading && net->first;
    pthread_mutex_unlock(&net->lock);
    if (!tell)
        return;
    net->base.readable(net->base.opaque);
    pthread_mutex_lock(&net->lock);
    if (net->reading && net->first) /* it took a part */
        loop_timer_set(&net->timer, 0);
    pthread_mutex_unlock(&net->lock);
}

static void sockets_ready(struct loop_fd *lfd, uint32_t events)
{
    (void)events;
    serve(container_of(lfd, struct user_net, sockets));
}

static void timer_expired(struct loop_timer *timer)
{
    serve(container_of(timer, struct user_net, timer));
}

/* --- frames --- */

/*
 * libslirp 4.7 can be made to corrupt its memory with fragments of IPv4 packets, so it gets none. With this MTU a guest has hardly a reason
 * to make any. (RFC 791 3.1: all bits of this word but "don't fragment".)
 */
static bool is_fragment(const uint8_t *frame, size_t len)
{
    return len >= 34 && frame[12] == 0x08 && frame[13] == 0x00 && ((frame[20] & 0xbf) || frame[21]);
}

static int user_net_send(struct net_backend *backend, const struct iovec *iov, unsigned count)
{
    struct user_net *net = user_net_of(backend);
    struct virtio_net_hdr_v1 header;
    size_t len = 0;

    memcpy(&header, iov[0].iov_base, sizeof(header));
    pthread_mutex_lock(&net->lock);
    for (unsigned i = 1; i < count; i++) {
        BUG_ON(iov[i].iov_len > sizeof(net->frame) - len);
        memcpy(net->frame + len, iov[i].iov_base, iov[i].iov_len);
        len += iov[i].iov_len;
    }
    if (header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
        net_complete_checksum(net->frame, len, header.csum_start, header.csum_offset);
    if (!is_fragment(net->frame, len))
        slirp_input(net->slirp, net->frame, (int)len);
    pthread_mutex_unlock(&net->lock);
    return 0;
}

static bool user_net_flush(struct net_backend *backend)
{
    struct user_net *net = user_net_of(backend);
    bool more;

    pthread_mutex_lock(&net->lock);
    round_of(net, NULL, 0);
    more = net->reading && net->first;
    pthread_mutex_unlock(&net->lock);
    return more;
}

static struct queued *take(struct user_net *net)
{
    struct queued *q;

    pthread_mutex_lock(&net->lock);
    q = net->first;
    if (q) {
        net->first = q->next;
        net->queue_bytes -= q->len;
        if (!net->first)
            net->last = &net->first;
        if (net->paused && net->queue_bytes < QUEUE_FULL / 2)
            loop_timer_set(&net->timer, 0); /* a round, which sees that there is room again */
    }
    pthread_mutex_unlock(&net->lock);
    return q;
}

static ssize_t user_net_recv(struct net_backend *backend, const struct iovec *iov, unsigned count)
{
    struct user_net *net = user_net_of(backend);
    struct virtio_net_hdr_v1 header = {.flags = net->checksums_known ? VIRTIO_NET_HDR_F_DATA_VALID : 0};
    struct queued *q = take(net);
    size_t done = 0;

    if (!q)
        return -EAGAIN;
    memcpy(iov[0].iov_base, &header, sizeof(header));
    for (unsigned i = 1; i < count && done < q->len; i++) {
        size_t n = MIN(iov[i].iov_len, q->len - done);

        memcpy(iov[i].iov_base, q->data + done, n);
        done += n;
    }
    free(q);
    return (ssize_t)(NET_HEADER_BYTES + done);
}

static void user_net_set_reading(struct net_backend *backend, bool on)
{
    struct user_net *net = user_net_of(backend);

    pthread_mutex_lock(&net->lock);
    if (on && net->first)
        loop_timer_set(&net->timer, 0);
    net->reading = on;
    pthread_mutex_unlock(&net->lock);
}

static void user_net_set_offloads(struct net_backend *backend, unsigned offloads)
{
    struct user_net *net = user_net_of(backend);

    net->checksums_known = offloads & NET_OFFLOAD_CSUM;
}

/* --- life --- */

static void user_net_free(struct net_backend *backend)
{
    struct user_net *net = user_net_of(backend);
    struct queued *q;

    loop_timer_cancel(&net->timer);
    if (net->sockets.fd >= 0)
        loop_remove_fd(net->loop, &net->sockets);
    if (net->slirp)
        slirp_cleanup(net->slirp);
    if (net->epoll_fd >= 0)
        close(net->epoll_fd);
    while ((q = net->first)) {
        net->first = q->next;
        free(q);
    }
    free(net->watches);
    pthread_mutex_destroy(&net->lock);
    free(net);
}

static const struct net_ops ops = {
    .name = "user",
    .send = user_net_send,
    .flush = user_net_flush,
    .recv = user_net_recv,
    .set_reading = user_net_set_reading,
    .set_offloads = user_net_set_offloads,
    .free = user_net_free,
};

static int add_forward(struct user_net *net, const struct net_forward *f, struct err *e)
{
    const char *host = f->host_addr[0] ? f->host_addr : "127.0.0.1", *protocol = f->udp ? "udp" : "tcp";
    struct in_addr host_addr, guest_addr = {htonl(GUEST_ADDR)};

    if (inet_pton(AF_INET, host, &host_addr) != 1)
        return err_set(e, EINVAL, "\"%s\" is no IPv4 address to forward from", host);
    errno = 0;
    if (slirp_add_hostfwd(net->slirp, f->udp, host_addr, f->host_port, guest_addr, f->guest_port) == 0)
        return 0;
    if (errno == EADDRINUSE)
        return err_set(e, EADDRINUSE, "cannot forward %s port %s:%u to the guest: another program has it; choose another port", protocol,
                       host, f->host_port);
    if (errno == EACCES)
        return err_set(e, EACCES, "cannot forward %s port %s:%u to the guest: ports below 1024 are root's; choose a higher one", protocol,
                       host, f->host_port);
    if (errno == EADDRNOTAVAIL)
        return err_set(e, EADDRNOTAVAIL, "cannot forward %s port %s:%u to the guest: this host does not have that address", protocol, host,
                       f->host_port);
    return err_set(e, errno ? errno : EIO, "cannot forward %s port %s:%u to the guest: %s", protocol, host, f->host_port,
                   errno ? strerror(errno) : "libslirp refuses");
}

static int start(struct user_net *net, struct err *e)
{
    SlirpConfig config = {
        .version = SLIRP_CONFIG_VERSION_MAX,
        .in_enabled = true,
        .vnetwork.s_addr = htonl(0x0a000200),
        .vnetmask.s_addr = htonl(0xffffff00),
        .vhost.s_addr = htonl(0x0a000202),
        .vnameserver.s_addr = htonl(0x0a000203),
        .vdhcp_start.s_addr = htonl(GUEST_ADDR),
        .if_mtu = MTU,
        .if_mru = MTU,
    };
    int fd, rc;

    net->slirp = slirp_new(&config, &callbacks, net);
    if (!net->slirp)
        return err_set(e, EIO, "libslirp %s gives no user network", slirp_version_string());
    fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0)
        return err_set(e, errno, "cannot create the epoll set of the user network: %s", strerror(errno));
    net->epoll_fd = fd;
    net->sockets = (struct loop_fd){fd, EPOLLIN, sockets_ready};
    rc = loop_add_fd(net->loop, &net->sockets);
    if (rc) {
        net->sockets.fd = -1;
        return err_set(e, -rc, "cannot watch the sockets of the user network: %s", strerror(-rc));
    }
    return 0;
}

struct net_backend *net_slirp_open(const struct net_forward *forwards, unsigned count, struct loop *loop, struct err *e)
{
    struct user_net *net = calloc(1, sizeof(*net));
    int rc;

    if (!net) {
        err_set(e, ENOMEM, "no memory for the user network");
        return NULL;
    }
    net->base = (struct net_backend){
        .ops = &ops,
        .offloads = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_ECN,
        .mtu = MTU,
    };
    net->loop = loop;
    net->epoll_fd = net->sockets.fd = -1;
    net->last = &net->first;
    pthread_mutex_init(&net->lock, NULL);
    loop_timer_init(loop, &net->timer, timer_expired);
    rc = start(net, e);
    for (unsigned i = 0; !rc && i < count; i++)
        rc = add_forward(net, &forwards[i], e);
    if (rc) {
        user_net_free(&net->base);
        return NULL;
    }
    ask(net);
    return &net->base;
}
