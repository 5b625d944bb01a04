/* QEMU's firmware configuration device: what the machine tells a kernel, and files that the user hands to it, by ports or by DMA. */
#include "chipset/fw_cfg.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bug.h"

/*
 * Theory of operation (QEMU's docs/specs/fw_cfg.rst). Everything that there is to read is an item with a key of 16 bits. A word written to port
 * 0x510 selects an item and goes to its beginning; each byte read from 0x511 is the next of it, and zero behind its end or where there is no
 * item. The directory is an item too: it lists names, sizes and keys of the files. By DMA the guest writes the address of a descriptor to 0x514
 * (upper half) and 0x518 (lower half, which starts it), both big-endian as the descriptor itself. The transfer is done before the write ends, and
 * the descriptor's control word is then zero or says that it failed. Nothing can be written to an item.
 */

#define REGISTERS_PORT 0x510
#define SELECT 0
#define DATA 1
#define DMA_PORT 0x514

#define KEY_WRITE BIT(14) /* asked for writing, once; an item is the same with it */

#define ID_PORTS BIT(0)
#define ID_DMA BIT(1)

#define DMA_ERROR BIT(0)
#define DMA_READ BIT(1)
#define DMA_SKIP BIT(2)
#define DMA_SELECT BIT(3) /* the key is in the upper half */
#define DMA_WRITE BIT(4)

struct dma_descriptor {
    uint32_t control, length;
    uint64_t address;
};

static_assert(sizeof(struct fw_cfg_dir_entry) == 64, "the directory's layout");
static_assert(sizeof(struct dma_descriptor) == 16, "the descriptor's layout");

static const uint8_t signature[4] = {'Q', 'E', 'M', 'U'};
static const uint8_t features[4] = {ID_PORTS | ID_DMA};
static const uint8_t dma_signature[8] = {'Q', 'E', 'M', 'U', ' ', 'C', 'F', 'G'};

static const struct state_field fields[] = {
    STATE_FIELD(struct fw_cfg_state, key),
    STATE_FIELD(struct fw_cfg_state, offset),
    STATE_FIELD(struct fw_cfg_state, dma_high),
};
static const struct state_desc desc = {"fw_cfg", 1, fields, ARRAY_SIZE(fields)};

static struct fw_cfg_item item_of(const struct fw_cfg *f, uint16_t key)
{
    unsigned index = key & ~KEY_WRITE;

    return index < ARRAY_SIZE(f->items) ? f->items[index] : (struct fw_cfg_item){0};
}

static void select_item(struct fw_cfg *f, uint16_t key)
{
    f->state.key = key;
    f->state.offset = 0;
}

/* --- ports --- */

static uint64_t registers_read(void *opaque, uint64_t off, unsigned size)
{
    struct fw_cfg *f = opaque;
    struct fw_cfg_item item;
    uint8_t value = 0;

    if (off != DATA || size != 1)
        return 0; /* the selector can only be written */
    pthread_mutex_lock(&f->lock);
    item = item_of(f, f->state.key);
    if (f->state.offset < item.size)
        value = item.data[f->state.offset++];
    pthread_mutex_unlock(&f->lock);
    return value;
}

static void registers_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct fw_cfg *f = opaque;

    if (off != SELECT || size != 2)
        return;
    pthread_mutex_lock(&f->lock);
    select_item(f, (uint16_t)value);
    pthread_mutex_unlock(&f->lock);
}

static const struct bus_ops registers_ops = {registers_read, registers_write};

/* --- DMA --- */

/* The item's bytes from the offset on, and zeroes behind its end. 0, or -EFAULT with nothing changed where that is not all RAM. */
static int read_to_memory(struct fw_cfg *f, struct fw_cfg_item item, gpa_t at, uint32_t length)
{
    uint32_t there = MIN(length, item.size - f->state.offset);

    if (!length)
        return 0;
    if (!mem_hva(f->mem, at, length))
        return -EFAULT;
    if (there && mem_write(f->mem, at, item.data + f->state.offset, there))
        return -EFAULT;
    return length > there ? mem_fill(f->mem, at + there, 0, length - there) : 0;
}

/* What the descriptor asks for; the control word that it gets for that. */
static uint32_t transfer(struct fw_cfg *f, uint32_t control, uint32_t length, gpa_t at)
{
    struct fw_cfg_item item;

    if (control & DMA_SELECT)
        select_item(f, (uint16_t)(control >> 16));
    item = item_of(f, f->state.key);
    if (control & DMA_READ) {
        if (read_to_memory(f, item, at, length))
            return DMA_ERROR;
    } else if (control & DMA_WRITE) {
        return DMA_ERROR;
    } else if (!(control & DMA_SKIP)) {
        return 0;
    }
    f->state.offset += MIN(length, item.size - f->state.offset);
    return 0;
}

/* The descriptor is read once, and control is written last: it tells the guest that the transfer is over. */
static void run_dma(struct fw_cfg *f, gpa_t at)
{
    struct dma_descriptor d;
    uint32_t control;

    if (mem_read(f->mem, at, &d, sizeof(d))) {
        log_guest(&f->complaints, "fw_cfg: the guest's DMA descriptor at 0x%llx is outside of its memory", (unsigned long long)at);
        return;
    }
    control = htobe32(transfer(f, be32toh(d.control), be32toh(d.length), be64toh(d.address)));
    if (mem_write(f->mem, at, &control, sizeof(control)))
        log_guest(&f->complaints, "fw_cfg: the guest's DMA descriptor at 0x%llx cannot be written", (unsigned long long)at);
}

static uint64_t dma_read(void *opaque, uint64_t off, unsigned size)
{
    uint64_t value = 0;

    (void)opaque;
    memcpy(&value, dma_signature + off, size);
    return value;
}

static void dma_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct fw_cfg *f = opaque;

    if (size != 4 || off % 4)
        return;
    pthread_mutex_lock(&f->lock);
    if (off == 0) {
        f->state.dma_high = be32toh((uint32_t)value);
    } else {
        gpa_t at = (gpa_t)f->state.dma_high << 32 | be32toh((uint32_t)value);

        f->state.dma_high = 0;
        run_dma(f, at);
    }
    pthread_mutex_unlock(&f->lock);
}

static const struct bus_ops dma_ops = {dma_read, dma_write};

/* --- the device --- */

void fw_cfg_add_file(struct fw_cfg *f, const char *name, const void *data, uint32_t size)
{
    uint32_t index = be32toh(f->directory.count);
    struct fw_cfg_dir_entry *entry = &f->directory.entry[index];

    BUG_ON(index == FW_CFG_FILES_MAX || strlen(name) > FW_CFG_NAME_MAX);
    *entry = (struct fw_cfg_dir_entry){.size = htobe32(size), .select = htobe16((uint16_t)(FW_CFG_FILE_FIRST + index))};
    snprintf(entry->name, sizeof(entry->name), "%s", name);
    f->items[FW_CFG_FILE_FIRST + index] = (struct fw_cfg_item){data, size};
    f->directory.count = htobe32(++index);
    f->items[FW_CFG_FILE_DIR].size = (uint32_t)(sizeof(f->directory.count) + index * sizeof(*entry));
}

static void fill_items(struct fw_cfg *f, uint64_t ram_size, unsigned cpus)
{
    uint64_t size = htole64(ram_size);
    uint16_t count = htole16((uint16_t)cpus);

    memcpy(f->ram_size, &size, sizeof(size));
    memcpy(f->cpus, &count, sizeof(count));
    f->items[FW_CFG_SIGNATURE] = (struct fw_cfg_item){signature, sizeof(signature)};
    f->items[FW_CFG_ID] = (struct fw_cfg_item){features, sizeof(features)};
    f->items[FW_CFG_RAM_SIZE] = (struct fw_cfg_item){f->ram_size, sizeof(f->ram_size)};
    f->items[FW_CFG_NB_CPUS] = (struct fw_cfg_item){f->cpus, sizeof(f->cpus)};
    f->items[FW_CFG_FILE_DIR] = (struct fw_cfg_item){(const uint8_t *)&f->directory, sizeof(f->directory.count)};
}

int fw_cfg_init(struct fw_cfg *f, struct bus *pio, struct mem *mem, unsigned cpus, struct err *e)
{
    int error;

    *f = (struct fw_cfg){.pio = pio, .mem = mem};
    f->registers = (struct bus_range){.name = "fw_cfg", .base = REGISTERS_PORT, .size = 2, .ops = &registers_ops, .opaque = f};
    f->dma = (struct bus_range){.name = "fw_cfg DMA", .base = DMA_PORT, .size = 8, .ops = &dma_ops, .opaque = f};
    fill_items(f, mem->size, cpus);
    pthread_mutex_init(&f->lock, NULL);
    error = bus_add(pio, &f->registers, e);
    if (error)
        goto destroy_lock;
    error = bus_add(pio, &f->dma, e);
    if (error)
        goto remove_registers;
    return 0;

remove_registers:
    bus_remove(pio, &f->registers);
destroy_lock:
    pthread_mutex_destroy(&f->lock);
    return error;
}

void fw_cfg_fini(struct fw_cfg *f)
{
    bus_remove(f->pio, &f->dma);
    bus_remove(f->pio, &f->registers);
    pthread_mutex_destroy(&f->lock);
}

void fw_cfg_reset(struct fw_cfg *f)
{
    pthread_mutex_lock(&f->lock);
    f->state = (struct fw_cfg_state){0};
    pthread_mutex_unlock(&f->lock);
}

static void device_reset(void *dev)
{
    fw_cfg_reset(dev);
}

static int device_save(void *dev, struct state_writer *w)
{
    struct fw_cfg *f = dev;
    struct fw_cfg_state copy;

    pthread_mutex_lock(&f->lock);
    copy = f->state;
    pthread_mutex_unlock(&f->lock);
    return state_save(&desc, &copy, w);
}

static int device_load(void *dev, struct state_reader *r, struct err *e)
{
    struct fw_cfg *f = dev;
    struct fw_cfg_state copy = {0};
    int rc = state_load(&desc, &copy, r, e);

    if (rc)
        return rc;
    if (copy.offset > item_of(f, copy.key).size)
        return err_set(e, EINVAL, "the saved state of %s stands behind the end of an item: give this VM the same --fw-cfg files",
                       desc.name);
    pthread_mutex_lock(&f->lock);
    f->state = copy;
    pthread_mutex_unlock(&f->lock);
    return 0;
}

const struct device_ops fw_cfg_device = {"fw_cfg", device_reset, NULL, device_save, device_load};
