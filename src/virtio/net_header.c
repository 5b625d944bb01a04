/* Offloads of network devices: features, and the headers that use them. */
#include "virtio/net_header.h"

#include "net/backend.h"

/* What an offload is called where the driver leaves it to the device, and where the device leaves it to the driver. */
static const struct {
    unsigned offload;
    uint64_t host, guest;
} names[] = {
    {NET_OFFLOAD_CSUM, BIT(VIRTIO_NET_F_CSUM), BIT(VIRTIO_NET_F_GUEST_CSUM)},
    {NET_OFFLOAD_TSO4, BIT(VIRTIO_NET_F_HOST_TSO4), BIT(VIRTIO_NET_F_GUEST_TSO4)},
    {NET_OFFLOAD_TSO6, BIT(VIRTIO_NET_F_HOST_TSO6), BIT(VIRTIO_NET_F_GUEST_TSO6)},
    {NET_OFFLOAD_ECN, BIT(VIRTIO_NET_F_HOST_ECN), BIT(VIRTIO_NET_F_GUEST_ECN)},
};

uint64_t net_offload_features(unsigned offloads)
{
    uint64_t features = offloads & NET_OFFLOAD_CSUM ? BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) : 0;

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        features |= offloads & names[i].offload ? names[i].host | names[i].guest : 0;
    return features;
}

static unsigned offloads_of(uint64_t features, bool host)
{
    unsigned offloads = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        offloads |= features & (host ? names[i].host : names[i].guest) ? names[i].offload : 0;
    /* Segments have no checksums of their own, so there are none without that (5.1.3.1). */
    return offloads & NET_OFFLOAD_CSUM ? offloads : 0;
}

unsigned net_offloads_of(uint64_t guest_offloads)
{
    return offloads_of(guest_offloads, false);
}

/* False: the header means nothing that is known here. */
static bool find_needed(const struct virtio_net_hdr_v1 *h, unsigned *needed)
{
    *needed = h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM ? NET_OFFLOAD_CSUM : 0;
    if (h->gso_type == VIRTIO_NET_HDR_GSO_NONE)
        return true;
    switch (h->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
    case VIRTIO_NET_HDR_GSO_TCPV4: *needed |= NET_OFFLOAD_TSO4; break;
    case VIRTIO_NET_HDR_GSO_TCPV6: *needed |= NET_OFFLOAD_TSO6; break;
    default: return false;
    }
    if (h->gso_type & VIRTIO_NET_HDR_GSO_ECN)
        *needed |= NET_OFFLOAD_ECN;
    return true;
}

bool net_header_is_takeable(const struct virtio_net_hdr_v1 *h, uint64_t guest_offloads)
{
    unsigned needed;

    return find_needed(h, &needed) && (needed & ~offloads_of(guest_offloads, false)) == 0;
}

bool net_header_is_sendable(struct virtio_net_hdr_v1 *h, size_t len, uint64_t features)
{
    struct virtio_net_hdr_v1 clean = {0};
    unsigned needed;

    if (!find_needed(h, &needed) || (needed & ~offloads_of(features, true)))
        return false;
    if (h->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        if ((size_t)h->csum_start + h->csum_offset + sizeof(uint16_t) > len)
            return false;
        clean.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        clean.csum_start = h->csum_start;
        clean.csum_offset = h->csum_offset;
    }
    if (h->gso_type != VIRTIO_NET_HDR_GSO_NONE) {
        if (!clean.flags || !h->gso_size)
            return false;
        clean.gso_type = h->gso_type;
        clean.gso_size = h->gso_size;
        clean.hdr_len = (uint16_t)MIN(h->hdr_len, len); /* a hint (5.1.6.2) */
    }
    *h = clean;
    return true;
}
