/* The receive filter of a network device. */
#include "virtio/net_filter.h"

#include <errno.h>
#include <linux/virtio_net.h>
#include <string.h>

#define COMMAND_BYTES sizeof(struct virtio_net_ctrl_hdr)

static const struct state_field fields[] = {
    STATE_ARRAY(struct net_filter, mac),
    STATE_FIELD(struct net_filter, promiscuous),
    STATE_FIELD(struct net_filter, all_multicast),
    STATE_FIELD(struct net_filter, all_unicast),
    STATE_FIELD(struct net_filter, no_multicast),
    STATE_FIELD(struct net_filter, no_unicast),
    STATE_FIELD(struct net_filter, no_broadcast),
    STATE_FIELD(struct net_filter, unicast_overflow),
    STATE_FIELD(struct net_filter, multicast_overflow),
    STATE_FIELD(struct net_filter, unicast_count),
    STATE_FIELD(struct net_filter, multicast_count),
    STATE_ARRAY(struct net_filter, unicast),
    STATE_ARRAY(struct net_filter, multicast),
};
static const struct state_desc desc = {"virtio-net-filter", 1, fields, ARRAY_SIZE(fields)};

void net_filter_reset(struct net_filter *f, const uint8_t mac[NET_MAC_BYTES])
{
    struct net_filter fresh = {.promiscuous = 1};

    memcpy(fresh.mac, mac, NET_MAC_BYTES);
    *f = fresh;
}

static bool is_in(const uint8_t *table, unsigned count, const uint8_t *mac)
{
    for (unsigned i = 0; i < count; i++)
        if (memcmp(table + (size_t)i * NET_MAC_BYTES, mac, NET_MAC_BYTES) == 0)
            return true;
    return false;
}

bool net_filter_takes(const struct net_filter *f, const uint8_t *frame)
{
    static const uint8_t broadcast[NET_MAC_BYTES] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

    if (f->promiscuous)
        return true;
    if (memcmp(frame, broadcast, NET_MAC_BYTES) == 0)
        return !f->no_broadcast;
    if (frame[0] & 1)
        return !f->no_multicast && (f->all_multicast || f->multicast_overflow || is_in(f->multicast, f->multicast_count, frame));
    return !f->no_unicast && (f->all_unicast || f->unicast_overflow || memcmp(f->mac, frame, NET_MAC_BYTES) == 0 ||
                              is_in(f->unicast, f->unicast_count, frame));
}

bool net_filter_set_mode(struct net_filter *f, uint8_t command, const struct virtq_chain *chain)
{
    uint8_t *const modes[] = {
        [VIRTIO_NET_CTRL_RX_PROMISC] = &f->promiscuous, [VIRTIO_NET_CTRL_RX_ALLMULTI] = &f->all_multicast,
        [VIRTIO_NET_CTRL_RX_ALLUNI] = &f->all_unicast,  [VIRTIO_NET_CTRL_RX_NOMULTI] = &f->no_multicast,
        [VIRTIO_NET_CTRL_RX_NOUNI] = &f->no_unicast,    [VIRTIO_NET_CTRL_RX_NOBCAST] = &f->no_broadcast,
    };
    uint8_t on;

    if (command >= ARRAY_SIZE(modes) || virtq_read(chain, COMMAND_BYTES, &on, 1) != 1)
        return false;
    *modes[command] = on != 0;
    return true;
}

/* A counted list of addresses at *off, which then stands behind it. What does not fit into the table is skipped: the kind is taken whole. */
static bool read_table(const struct virtq_chain *chain, size_t *off, uint8_t *macs, uint8_t *count, uint8_t *overflow)
{
    uint32_t entries;

    if (virtq_read(chain, *off, &entries, sizeof(entries)) != sizeof(entries))
        return false;
    *off += sizeof(entries);
    if (entries > (chain->readable_len - *off) / NET_MAC_BYTES)
        return false;
    *overflow = entries > NET_FILTER_MACS;
    *count = *overflow ? 0 : (uint8_t)entries;
    virtq_read(chain, *off, macs, (size_t)*count * NET_MAC_BYTES);
    *off += (size_t)entries * NET_MAC_BYTES;
    return true;
}

bool net_filter_set_mac(struct net_filter *f, uint8_t command, const struct virtq_chain *chain)
{
    struct net_filter changed = *f;
    size_t off = COMMAND_BYTES;

    if (command == VIRTIO_NET_CTRL_MAC_ADDR_SET)
        return chain->readable_len == off + NET_MAC_BYTES && virtq_read(chain, off, f->mac, NET_MAC_BYTES) == NET_MAC_BYTES;
    if (command != VIRTIO_NET_CTRL_MAC_TABLE_SET)
        return false;
    if (!read_table(chain, &off, changed.unicast, &changed.unicast_count, &changed.unicast_overflow) ||
        !read_table(chain, &off, changed.multicast, &changed.multicast_count, &changed.multicast_overflow))
        return false;
    *f = changed;
    return true;
}

int net_filter_save(const struct net_filter *f, struct state_writer *w)
{
    return state_save(&desc, f, w);
}

int net_filter_load(struct net_filter *f, struct state_reader *r, struct err *e)
{
    struct net_filter copy = {0};
    int rc = state_load(&desc, &copy, r, e);

    if (rc)
        return rc;
    if ((copy.promiscuous | copy.all_multicast | copy.all_unicast | copy.no_multicast | copy.no_unicast | copy.no_broadcast |
         copy.unicast_overflow | copy.multicast_overflow) > 1 ||
        copy.unicast_count > NET_FILTER_MACS || copy.multicast_count > NET_FILTER_MACS)
        return err_set(e, EINVAL, "the saved state of %s holds impossible values", desc.name);
    *f = copy;
    return 0;
}
