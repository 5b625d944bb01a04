/* A virtio console of one port, whose window size the driver is told (virtio 1.2 5.3). */
#pragma once

#include "virtio/virtio.h"

/* Who is at the other end. Both run on the loop's thread with no lock held. */
struct virtio_console_host {
    void *opaque;
    /*
     * Takes as many of the bytes as it can without blocking and returns how many. When that is fewer than len, it calls
     * virtio_console_out_ready() once it can take more. NULL: output is dropped.
     */
    size_t (*out)(void *opaque, const uint8_t *data, size_t len);
    /* The driver has room again, after virtio_console_receive() took less than it was given. NULL: not wanted. */
    void (*room)(void *opaque);
};

/* host is copied. NULL with a sentence. */
struct virtio_device *virtio_console_new(const struct virtio_env *, const char *label, const struct virtio_console_host *host,
                                         struct err *);

/* --- for the host's end; all on the loop's thread --- */

/* Input: as much as the driver has room for now. Returns how many bytes it took: none before there is a driver. */
size_t virtio_console_receive(struct virtio_device *, const uint8_t *data, size_t len);

/* The host can take output again. */
void virtio_console_out_ready(struct virtio_device *);

/* The size of the window, in characters; 0 x 0, as at first, when there is none. */
void virtio_console_resize(struct virtio_device *, uint16_t cols, uint16_t rows);

/*
 * Hands over the output that was taken from the driver, until none is left or out takes nothing; also while the loop does not run. Returns the
 * bytes that are left.
 */
size_t virtio_console_drain(struct virtio_device *);
