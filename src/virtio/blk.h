/* virtio-blk: a disk (virtio 1.2 5.2). */
#pragma once

#include "block/backend.h"
#include "virtio/virtio.h"

/* Feature bits (virtio 1.2 5.2.3). */
#define VIRTIO_BLK_F_SEG_MAX 2
#define VIRTIO_BLK_F_RO 5
#define VIRTIO_BLK_F_BLK_SIZE 6
#define VIRTIO_BLK_F_FLUSH 9
#define VIRTIO_BLK_F_TOPOLOGY 10
#define VIRTIO_BLK_F_CONFIG_WCE 11
#define VIRTIO_BLK_F_MQ 12
#define VIRTIO_BLK_F_DISCARD 13
#define VIRTIO_BLK_F_WRITE_ZEROES 14

/* Request types and what they come to (virtio 1.2 5.2.6). */
#define VIRTIO_BLK_T_IN 0
#define VIRTIO_BLK_T_OUT 1
#define VIRTIO_BLK_T_FLUSH 4
#define VIRTIO_BLK_T_GET_ID 8
#define VIRTIO_BLK_T_DISCARD 11
#define VIRTIO_BLK_T_WRITE_ZEROES 13

#define VIRTIO_BLK_S_OK 0
#define VIRTIO_BLK_S_IOERR 1
#define VIRTIO_BLK_S_UNSUPP 2

#define VIRTIO_BLK_SECTOR 512U
#define VIRTIO_BLK_ID_BYTES 20
#define VIRTIO_BLK_QUEUE_SIZE 256
#define VIRTIO_BLK_RANGES_MAX 16                    /* of one discard or write of zeros */
#define VIRTIO_BLK_RANGE_SECTORS_MAX (GIB(2) / 512) /* of one range */
#define VIRTIO_BLK_WRITE_ZEROES_UNMAP 1U

struct virtio_blk_header {
    uint32_t type, reserved;
    uint64_t sector;
};

struct virtio_blk_range {
    uint64_t sector;
    uint32_t sectors, flags;
};

/* The configuration (virtio 1.2 5.2.4); naturally aligned, little-endian like the host. */
struct virtio_blk_config {
    uint64_t capacity;
    uint32_t size_max;
    uint32_t seg_max;
    uint16_t cylinders;
    uint8_t heads, sectors;
    uint32_t blk_size;
    uint8_t physical_block_exp, alignment_offset;
    uint16_t min_io_size;
    uint32_t opt_io_size;
    uint8_t writeback, unused0;
    uint16_t num_queues;
    uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
    uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap, unused1[3];
};

struct virtio_blk_options {
    char serial[VIRTIO_BLK_ID_BYTES + 1]; /* what GET_ID answers */
    unsigned queues;                      /* 0: one */
    uint32_t physical_block;              /* bytes, a power of two of at least the backend's block_size; 0: 4096 */
    uint32_t optimal_io;                  /* bytes; 0: nothing is better than anything else */
};

/*
 * NULL with a sentence; the backend is then freed, else it is the device's. With inline work requests are submitted on a vCPU's thread.
 * Order of locks: the device's, then the backend's own; completions come without the latter.
 */
struct virtio_device *virtio_blk_new(const struct virtio_env *, const char *label, struct block_backend *,
                                     const struct virtio_blk_options *, struct err *);
