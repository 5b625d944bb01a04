/* The network backend seam: where frames go. */
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/state.h"
#include "event/loop.h"

/* Before every frame stands a struct virtio_net_hdr_v1 (virtio 1.2 5.1.6), in the guest's byte order, which is the host's. */
#define NET_HEADER_BYTES 12
#define NET_FRAME_MIN 14               /* an Ethernet header */
#define NET_FRAME_MAX (65536 + 14 + 4) /* with segmentation offload; without the header */

/* What the peer may leave undone in frames, each way apart. */
enum net_offload {
    NET_OFFLOAD_CSUM = 1 << 0,
    NET_OFFLOAD_TSO4 = 1 << 1,
    NET_OFFLOAD_TSO6 = 1 << 2,
    NET_OFFLOAD_ECN = 1 << 3,
};

struct net_backend;

/*
 * All are called by one thread at a time: the owner holds a lock of its own. None blocks, none calls back. Of an iovec array the first is
 * the header alone, NET_HEADER_BYTES long; the frame is in the others.
 */
struct net_ops {
    const char *name;
    /*
     * One frame of NET_FRAME_MIN to NET_FRAME_MAX bytes. Its header asks for no more than offloads allow, and its checksum lies within the
     * frame; the frame itself may change while it is looked at. 0, or -EAGAIN: not now, writable() will tell; or -errno: it is lost.
     */
    int (*send)(struct net_backend *, const struct iovec *, unsigned count);
    /*
     * Ends a batch of send(), always: what they caused may be put off until then. True: reading is on, and recv() has frames, which the
     * owner takes now, or calls set_reading() once more to be told of them. May be NULL.
     */
    bool (*flush)(struct net_backend *);
    /* One frame into iov; what has no room is cut off. Bytes with the header, -EAGAIN: none there, readable() will tell; or -errno. */
    ssize_t (*recv)(struct net_backend *, const struct iovec *, unsigned count);
    /* Reading on: readable() is called as long as recv() has frames. Off at first. */
    void (*set_reading)(struct net_backend *, bool on);
    /* enum net_offload that the owner takes from us from here on; a frame from before may still come. None at first. */
    void (*set_offloads)(struct net_backend *, unsigned offloads);
    void (*drain)(struct net_backend *); /* what was sent has left. May be NULL */
    void (*free)(struct net_backend *);  /* on the loop's thread, or while the loop does not run */
};

struct net_backend {
    const struct net_ops *ops;
    unsigned offloads; /* enum net_offload: what send() understands; and what recv() may give when asked by set_offloads() */
    uint16_t mtu;      /* what a frame's payload may be at most, for the guest to know; 0: the usual 1500 */
    /* The owner's, set before the first call of ops; called on the loop's thread, with no lock held. */
    void (*readable)(void *opaque);
    void (*writable)(void *opaque);
    void *opaque;
};

/* An existing tap interface, with vnet headers. NULL with a sentence. */
struct net_backend *net_tap_open(const char *ifname, struct loop *, struct err *);
/*
 * A tap that somebody opened for us: fd is ours from here on, and closed on failure too. With IFF_VNET_HDR or without; it must have been
 * opened with IFF_NO_PI, which the kernel does not tell.
 */
struct net_backend *net_tap_fd(int fd, struct loop *, struct err *);

struct net_forward {
    bool udp;
    char host_addr[64]; /* "" = 127.0.0.1 */
    uint16_t host_port, guest_port;
};

/* User-mode network: 10.0.2.0/24, host 10.0.2.2, DNS 10.0.2.3, guest by DHCP 10.0.2.15. NULL with a sentence. */
struct net_backend *net_slirp_open(const struct net_forward *, unsigned count, struct loop *, struct err *);

void net_free(struct net_backend *); /* NULL is fine */
