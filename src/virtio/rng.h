/* The virtio entropy device: random bytes of the host's, at a limited rate if wanted (virtio 1.2 5.4). */
#pragma once

#include "virtio/virtio.h"

/*
 * bytes_per_second: 0 for no limit; else a second's worth may be had at once, and requests beyond that wait. NULL with a sentence. Freed by
 * virtio_free().
 */
struct virtio_device *virtio_rng_new(const struct virtio_env *, const char *label, uint64_t bytes_per_second, struct err *);
