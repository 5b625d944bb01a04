/* The network backend seam: where frames go. */
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/state.h"
#include "event/loop.h"

/* Before every frame stands a struct virtio_net_hdr_v1 (virtio 1.2 5.1.6), in the guest's byte order, which is the host's. */
#define NET_HEADER_BYTES 12
#define NET_FRAME_MAX (65536 + 14 + 4) /* with segmentation offload; without the header */

/* What the peer may leave undone in frames, each way apart. */
enum net_offload {
    NET_OFFLOAD_CSUM = 1 << 0,
    NET_OFFLOAD_TSO4 = 1 << 1,
    NET_OFFLOAD_TSO6 = 1 << 2,
    NET_OFFLOAD_ECN = 1 << 3,
    NET_OFFLOAD_UFO = 1 << 4,
};

struct net_backend;

/* All are called by one thread at a time: the owner holds a lock of its own. None blocks. */
struct net_ops {
    const char *name;
    /* One frame with its header. 0, or -EAGAIN: not now, writable() will tell; or -errno: it is lost. */
    int (*send)(struct net_backend *, const struct iovec *, unsigned count);
    /* One frame with its header into iov, of whatever size. Bytes, -EAGAIN: none there, readable() will tell; or -errno. */
    ssize_t (*recv)(struct net_backend *, const struct iovec *, unsigned count);
    /* The owner has room for frames, or none: without room readable() is not called. Off at first. */
    void (*set_reading)(struct net_backend *, bool on);
    /* enum net_offload that the owner takes from us. */
    void (*set_offloads)(struct net_backend *, unsigned offloads);
    void (*drain)(struct net_backend *); /* what was sent has left. May be NULL */
    void (*free)(struct net_backend *);
};

struct net_backend {
    const struct net_ops *ops;
    unsigned offloads; /* enum net_offload: what send() understands; and what recv() may give when asked by set_offloads() */
    /* The owner's; called on the loop's thread, with no lock held. */
    void (*readable)(void *opaque);
    void (*writable)(void *opaque);
    void *opaque;
};

/* An existing or new tap interface, with vnet headers. NULL with a sentence. */
struct net_backend *net_tap_open(const char *ifname, struct loop *, struct err *);
/* A tap that somebody opened for us: fd is ours from here on. */
struct net_backend *net_tap_fd(int fd, struct loop *, struct err *);

struct net_forward {
    bool udp;
    char host_addr[64]; /* "" = 127.0.0.1 */
    uint16_t host_port, guest_port;
};

/* User-mode network: 10.0.2.0/24, host 10.0.2.2, DNS 10.0.2.3, guest by DHCP 10.0.2.15. NULL with a sentence. */
struct net_backend *net_slirp_open(const struct net_forward *, unsigned count, struct loop *, struct err *);

void net_free(struct net_backend *); /* NULL is fine */
