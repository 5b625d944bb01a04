/* A virtio network device (virtio 1.2 5.1). */
#pragma once

#include "net/backend.h"
#include "virtio/virtio.h"

/* One pair of queues and a control queue. backend is the device's from here on, and freed on failure too. NULL with a sentence. */
struct virtio_device *virtio_net_new(const struct virtio_env *, const char *label, struct net_backend *backend, const uint8_t mac[6],
                                     struct err *);
