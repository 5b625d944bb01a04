/* A tap interface of the host's as network backend. */
#include "net/backend.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/log.h"

#define DEVICE "/dev/net/tun"

struct tap {
    struct net_backend base;
    struct loop *loop;
    char name[IFNAMSIZ];
    bool vnet; /* frames have headers on the file descriptor */

    pthread_mutex_t lock; /* guards what follows: the owner's thread and the loop's change it */
    struct loop_fd lfd;
    bool gone; /* the interface was deleted: the descriptor has left the loop */
};

static struct tap *tap_of(struct net_backend *backend)
{
    return container_of(backend, struct tap, base);
}

/* The events to wait for. 0, or -errno: there will be none. */
static int change_events(struct tap *tap, uint32_t on, uint32_t off)
{
    uint32_t events;
    int rc = 0;

    pthread_mutex_lock(&tap->lock);
    events = (tap->lfd.events | on) & ~off;
    if (tap->gone)
        rc = -ENODEV;
    else if (events != tap->lfd.events) {
        tap->lfd.events = events;
        rc = loop_modify_fd(tap->loop, &tap->lfd);
    }
    pthread_mutex_unlock(&tap->lock);
    return rc;
}

/* --- frames --- */

static int tap_send(struct net_backend *backend, const struct iovec *iov, unsigned count)
{
    struct tap *tap = tap_of(backend);
    unsigned skip = tap->vnet ? 0 : 1;
    int rc;

    while (writev(tap->lfd.fd, iov + skip, (int)(count - skip)) < 0) {
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return -errno;
        rc = change_events(tap, EPOLLOUT, 0);
        return rc ? rc : -EAGAIN;
    }
    return 0;
}

static ssize_t tap_recv(struct net_backend *backend, const struct iovec *iov, unsigned count)
{
    struct tap *tap = tap_of(backend);
    unsigned skip = tap->vnet ? 0 : 1;
    ssize_t n;

    do {
        n = readv(tap->lfd.fd, iov + skip, (int)(count - skip));
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    if (tap->vnet)
        return n;
    memset(iov[0].iov_base, 0, NET_HEADER_BYTES);
    return n + NET_HEADER_BYTES;
}

static void tap_set_reading(struct net_backend *backend, bool on)
{
    change_events(tap_of(backend), on ? EPOLLIN : 0, on ? 0 : EPOLLIN);
}

static void tap_set_offloads(struct net_backend *backend, unsigned offloads)
{
    struct tap *tap = tap_of(backend);
    unsigned long flags = 0;

    if (!tap->vnet)
        return;
    flags |= offloads & NET_OFFLOAD_CSUM ? TUN_F_CSUM : 0;
    flags |= offloads & NET_OFFLOAD_TSO4 ? TUN_F_TSO4 : 0;
    flags |= offloads & NET_OFFLOAD_TSO6 ? TUN_F_TSO6 : 0;
    flags |= offloads & NET_OFFLOAD_ECN ? TUN_F_TSO_ECN : 0;
    /* Only a kernel that does not know a flag refuses; the one that named its flags before was this one. */
    if (ioctl(tap->lfd.fd, TUNSETOFFLOAD, flags) < 0)
        log_warn("the tap interface %s refuses offloads %#lx: %s", tap->name, flags, strerror(errno));
}

static void tap_ready(struct loop_fd *lfd, uint32_t events)
{
    struct tap *tap = container_of(lfd, struct tap, lfd);

    if (events & EPOLLERR) { /* always reported, so that it would keep the loop busy */
        log_error("the tap interface %s is gone: what the guest sends there is lost", tap->name);
        pthread_mutex_lock(&tap->lock);
        tap->gone = true;
        pthread_mutex_unlock(&tap->lock);
        loop_remove_fd(tap->loop, lfd);
        events |= EPOLLOUT; /* who waits to send shall see it fail */
    }
    if (events & EPOLLOUT) {
        change_events(tap, 0, EPOLLOUT);
        tap->base.writable(tap->base.opaque);
    }
    if (events & EPOLLIN)
        tap->base.readable(tap->base.opaque);
}

/* --- life --- */

static void tap_free(struct net_backend *backend)
{
    struct tap *tap = tap_of(backend);

    if (!tap->gone)
        loop_remove_fd(tap->loop, &tap->lfd);
    close(tap->lfd.fd);
    pthread_mutex_destroy(&tap->lock);
    free(tap);
}

static const struct net_ops ops = {
    .name = "tap",
    .send = tap_send,
    .recv = tap_recv,
    .set_reading = tap_set_reading,
    .set_offloads = tap_set_offloads,
    .free = tap_free,
};

/* What recv() may give has to be told to the kernel, which knows each flag since 2.6.27. */
static int set_headers(struct tap *tap, struct err *e)
{
    int size = NET_HEADER_BYTES;

    if (ioctl(tap->lfd.fd, TUNSETVNETHDRSZ, &size) < 0 || ioctl(tap->lfd.fd, TUNSETOFFLOAD, 0) < 0)
        return err_set(e, errno, "cannot set the header of frames on the tap interface %s: %s", tap->name, strerror(errno));
    tap->base.offloads = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN;
    return 0;
}

/* fd is closed on failure. */
static struct net_backend *tap_new(int fd, const char *name, bool vnet, struct loop *loop, struct err *e)
{
    struct tap *tap = calloc(1, sizeof(*tap));
    int flags = fcntl(fd, F_GETFL), rc;

    if (!tap) {
        err_set(e, ENOMEM, "no memory for the tap interface %s", name);
        goto close_fd;
    }
    tap->base.ops = &ops;
    tap->loop = loop;
    tap->lfd = (struct loop_fd){.fd = fd, .ready = tap_ready};
    tap->vnet = vnet;
    memccpy(tap->name, name, '\0', sizeof(tap->name) - 1);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        err_set(e, errno, "cannot make the tap interface %s non-blocking: %s", name, strerror(errno));
        goto free_tap;
    }
    if (vnet && set_headers(tap, e))
        goto free_tap;
    pthread_mutex_init(&tap->lock, NULL);
    rc = loop_add_fd(loop, &tap->lfd);
    if (rc) {
        err_set(e, -rc, "cannot watch the tap interface %s: %s", name, strerror(-rc));
        goto destroy_lock;
    }
    return &tap->base;
destroy_lock:
    pthread_mutex_destroy(&tap->lock);
free_tap:
    free(tap);
close_fd:
    close(fd);
    return NULL;
}

static void explain(int error, const char *ifname, struct err *e)
{
    if (error == EBUSY)
        err_set(e, EBUSY, "the tap interface %s is busy: another program has it open, and each machine needs one of its own", ifname);
    else if (error == EPERM)
        err_set(e, EPERM, "no right to open the tap interface %s: make it yours with: sudo ip tuntap add dev %s mode tap user $USER",
                ifname, ifname);
    else if (error == EINVAL)
        err_set(e, EINVAL, "%s is no tap interface of one queue: such a one is made by: sudo ip tuntap add dev NAME mode tap user $USER",
                ifname);
    else
        err_set(e, error, "cannot open the tap interface %s: %s", ifname, strerror(error));
}

/* Opening an interface that is not there would make one, which nobody has connected to anything. */
static int check_name(const char *ifname, struct err *e)
{
    if (!ifname[0] || strlen(ifname) >= IFNAMSIZ)
        return err_set(e, EINVAL, "\"%s\" is no name of a tap interface: it has 1 to %d characters", ifname, IFNAMSIZ - 1);
    if (!if_nametoindex(ifname))
        return err_set(e, ENODEV, "there is no tap interface %s: make it with: sudo ip tuntap add dev %s mode tap user $USER", ifname,
                       ifname);
    return 0;
}

struct net_backend *net_tap_open(const char *ifname, struct loop *loop, struct err *e)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int fd;

    if (check_name(ifname, e))
        return NULL;
    fd = open(DEVICE, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        err_set(e, errno, "cannot open " DEVICE " for the tap interface %s: %s%s", ifname, strerror(errno),
                errno == ENOENT ? "; the kernel module tun is missing" : "");
        return NULL;
    }
    memcpy(request.ifr_name, ifname, strlen(ifname));
    if (ioctl(fd, TUNSETIFF, &request) < 0) {
        explain(errno, ifname, e);
        close(fd);
        return NULL;
    }
    return tap_new(fd, ifname, true, loop, e);
}

struct net_backend *net_tap_fd(int fd, struct loop *loop, struct err *e)
{
    struct ifreq request = {.ifr_flags = 0};

    if (fcntl(fd, F_GETFD) < 0) {
        err_set(e, EBADF, "file descriptor %d is not open: whoever starts umbra opens the tap interface and hands it down", fd);
        return NULL;
    }
    if (ioctl(fd, TUNGETIFF, &request) < 0) {
        err_set(e, EINVAL, "file descriptor %d is no open tap interface", fd);
    } else if (!(request.ifr_flags & IFF_TAP)) {
        err_set(e, EINVAL, "file descriptor %d is the tun interface %s, which has packets without Ethernet headers: use a tap", fd,
                request.ifr_name);
    } else {
        return tap_new(fd, request.ifr_name, request.ifr_flags & IFF_VNET_HDR, loop, e);
    }
    close(fd);
    return NULL;
}
