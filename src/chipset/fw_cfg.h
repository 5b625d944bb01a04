/* QEMU's firmware configuration device: what the machine tells a kernel, and files that the user hands to it, by ports or by DMA. */
#pragma once

#include <pthread.h>

#include "base/device.h"
#include "base/log.h"
#include "mem/bus.h"
#include "mem/mem.h"

/* The keys that are not files (QEMU's docs/specs/fw_cfg.rst). */
enum fw_cfg_key {
    FW_CFG_SIGNATURE = 0x00,
    FW_CFG_ID = 0x01,
    FW_CFG_RAM_SIZE = 0x03,
    FW_CFG_NB_CPUS = 0x05,
    FW_CFG_FILE_DIR = 0x19,
    FW_CFG_FILE_FIRST = 0x20,
};

#define FW_CFG_FILES_MAX 32
#define FW_CFG_NAME_MAX 55 /* characters; the directory has a byte more, for the NUL */

struct fw_cfg_item {
    const uint8_t *data; /* NULL: there is none of this key */
    uint32_t size;       /* bytes */
};

/* An entry of the directory as the guest reads it; numbers are big-endian. */
struct fw_cfg_dir_entry {
    uint32_t size;
    uint16_t select, reserved;
    char name[FW_CFG_NAME_MAX + 1];
};

struct fw_cfg_state {
    uint16_t key;      /* that was selected */
    uint32_t offset;   /* of the next byte in its item; never beyond the item's end */
    uint32_t dma_high; /* the upper half of a descriptor's address, until the lower one comes */
};

struct fw_cfg {
    struct fw_cfg_state state;

    pthread_mutex_t lock; /* the state; items stay as they are once the guest runs */
    struct bus *pio;
    struct mem *mem;
    struct bus_range registers, dma;
    struct fw_cfg_item items[FW_CFG_FILE_FIRST + FW_CFG_FILES_MAX];
    uint8_t ram_size[8], cpus[2]; /* little-endian */
    struct {
        uint32_t count;
        struct fw_cfg_dir_entry entry[FW_CFG_FILES_MAX];
    } directory;
    struct log_limit complaints;
};

/* pio: 0x510 and 0x511, and 0x514 to 0x51b for DMA to mem. */
int fw_cfg_init(struct fw_cfg *, struct bus *pio, struct mem *mem, unsigned cpus, struct err *);
void fw_cfg_fini(struct fw_cfg *);
void fw_cfg_reset(struct fw_cfg *);

/*
 * One more file of the directory, before the guest runs. data is borrowed until fini. There are at most FW_CFG_FILES_MAX, and the name, which
 * was checked, has at most FW_CFG_NAME_MAX characters.
 */
void fw_cfg_add_file(struct fw_cfg *, const char *name, const void *data, uint32_t size);

extern const struct device_ops fw_cfg_device;
