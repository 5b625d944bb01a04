/* Which frames a network device takes from the wire: modes, addresses, and the control commands that set them (virtio 1.2 5.1.6.5.1, .2). */
#pragma once

#include "virtio/queue.h"

#define NET_MAC_BYTES 6
#define NET_FILTER_MACS 64 /* of each kind; a driver that wants more gets all frames of that kind */

struct net_filter {
    uint8_t mac[NET_MAC_BYTES];
    uint8_t promiscuous, all_multicast, all_unicast, no_multicast, no_unicast, no_broadcast;
    uint8_t unicast_overflow, multicast_overflow;
    uint8_t unicast_count, multicast_count;
    uint8_t unicast[NET_FILTER_MACS * NET_MAC_BYTES];
    uint8_t multicast[NET_FILTER_MACS * NET_MAC_BYTES];
};

/* Everything is taken until a driver says otherwise. */
void net_filter_reset(struct net_filter *, const uint8_t mac[NET_MAC_BYTES]);

/* frame: at least an Ethernet header. */
bool net_filter_takes(const struct net_filter *, const uint8_t *frame);

/* A command of class RX or MAC; its data is in the chain's readable part behind the header. False: it is unknown or malformed. */
bool net_filter_set_mode(struct net_filter *, uint8_t command, const struct virtq_chain *);
bool net_filter_set_mac(struct net_filter *, uint8_t command, const struct virtq_chain *);

int net_filter_save(const struct net_filter *, struct state_writer *);
/* 0 or -EINVAL, and the filter is as before. */
int net_filter_load(struct net_filter *, struct state_reader *, struct err *);
