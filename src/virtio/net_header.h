/* What device and driver may leave undone in frames, and whether a frame's header keeps to it (virtio 1.2 5.1.3, 5.1.6). */
#pragma once

#include <linux/virtio_net.h>

#include "base/types.h"

/* Features that say what the driver takes. */
#define NET_GUEST_OFFLOADS                                                                                                                 \
    (BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_GUEST_ECN))

/* The features that can be offered with a backend of these enum net_offload. */
uint64_t net_offload_features(unsigned offloads);

/* enum net_offload of what the driver takes by these of NET_GUEST_OFFLOADS. */
unsigned net_offloads_of(uint64_t guest_offloads);

/* A header from the backend asks the driver for no more than these of NET_GUEST_OFFLOADS. */
bool net_header_is_takeable(const struct virtio_net_hdr_v1 *, uint64_t guest_offloads);

/*
 * A header from the driver, before a frame of len bytes, asks for no more than features, and makes sense. Then what a backend need not see is
 * taken out of it.
 */
bool net_header_is_sendable(struct virtio_net_hdr_v1 *, size_t len, uint64_t features);
