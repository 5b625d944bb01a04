/* virtio-blk: the device's configuration, features and life. */
#include "virtio/blk.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/blk_request.h"

#define CONFIG_BYTES 60 /* the struct has padding behind */

static_assert(offsetof(struct virtio_blk_config, unused1) + 3 == CONFIG_BYTES, "virtio 1.2 5.2.4");

static const struct state_field fields[] = {STATE_FIELD(struct blk_state, cache)};
static const struct state_desc desc = {"virtio-blk", 1, fields, ARRAY_SIZE(fields)};

bool blk_is_write_back(const struct virtio_blk *blk)
{
    if (blk->state.cache != CACHE_DEFAULT)
        return blk->state.cache == CACHE_WRITEBACK;
    return virtio_has(&blk->dev, VIRTIO_BLK_F_FLUSH);
}

static void reset_queue(struct virtio_device *dev, unsigned queue)
{
    struct virtio_blk *blk = blk_of(dev);

    blk->unpublished &= ~BIT(queue);
    blk->stalled &= ~BIT(queue);
}

static void reset(struct virtio_device *dev)
{
    struct virtio_blk *blk = blk_of(dev);

    blk->unpublished = blk->stalled = 0;
    blk->state.cache = CACHE_DEFAULT;
}

static uint64_t config_read(struct virtio_device *dev, unsigned off, unsigned size)
{
    struct virtio_blk_config config = blk_of(dev)->config;
    uint64_t value = 0;

    config.writeback = blk_is_write_back(blk_of(dev));
    memcpy(&value, (const uint8_t *)&config + off, size);
    return value;
}

static void config_write(struct virtio_device *dev, unsigned off, unsigned size, uint64_t value)
{
    if (off != offsetof(struct virtio_blk_config, writeback) || size != 1 || value > 1 || !virtio_has(dev, VIRTIO_BLK_F_CONFIG_WCE))
        return;
    blk_of(dev)->state.cache = value ? CACHE_WRITEBACK : CACHE_WRITETHROUGH;
}

static void drain(struct virtio_device *dev)
{
    struct block_backend *b = blk_of(dev)->backend;

    b->ops->drain(b);
}

static int save(struct virtio_device *dev, struct state_writer *w)
{
    return state_save(&desc, &blk_of(dev)->state, w);
}

static int load(struct virtio_device *dev, struct state_reader *r, struct err *e)
{
    struct blk_state loaded = {0};
    int error = state_load(&desc, &loaded, r, e);

    if (error)
        return error;
    if (loaded.cache > CACHE_WRITEBACK)
        return err_set(e, EINVAL, "the saved state of %s has a cache mode that is none: %u", dev->label, loaded.cache);
    blk_of(dev)->state = loaded;
    return 0;
}

static void stats(struct virtio_device *dev, struct stats_out *out)
{
    const struct virtio_blk *blk = blk_of(dev);

    out->number(out, dev->label, "reads", blk->reads);
    out->number(out, dev->label, "writes", blk->writes);
    out->number(out, dev->label, "flushes", blk->flushes);
    out->number(out, dev->label, "discards", blk->discards);
    out->number(out, dev->label, "writes of zeros", blk->write_zeroes);
    out->number(out, dev->label, "errors", blk->errors);
}

static void blk_free(struct virtio_device *dev)
{
    struct virtio_blk *blk = blk_of(dev);

    block_free(blk->backend);
    virtio_fini(dev);
    blk_fini_requests(blk);
    free(blk);
}

static const struct virtio_ops virtio_blk_ops = {
    .name = "blk",
    .id = VIRTIO_ID_BLK,
    .pci_class = 0x018000, /* mass storage of another kind */
    .reset = reset,
    .queue_reset = reset_queue,
    .kick = blk_on_kick,
    .config_read = config_read,
    .config_write = config_write,
    .drain = drain,
    .save = save,
    .load = load,
    .stats = stats,
    .free = blk_free,
};

/* --- making one --- */

static uint64_t offered(const struct block_backend *b, unsigned queues)
{
    uint64_t features = BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_TOPOLOGY);

    if (queues > 1)
        features |= BIT(VIRTIO_BLK_F_MQ);
    if (b->read_only)
        return features | BIT(VIRTIO_BLK_F_RO);
    features |= BIT(VIRTIO_BLK_F_CONFIG_WCE) | BIT(VIRTIO_BLK_F_WRITE_ZEROES);
    return b->discard ? features | BIT(VIRTIO_BLK_F_DISCARD) : features;
}

static void make_config(struct virtio_blk_config *c, const struct block_backend *b, unsigned queues, uint32_t physical, uint32_t optimal)
{
    *c = (struct virtio_blk_config){
        .capacity = b->size / VIRTIO_BLK_SECTOR,
        .seg_max = VIRTIO_BLK_QUEUE_SIZE - 2, /* header and status take one each */
        .blk_size = b->block_size,
        .physical_block_exp = (uint8_t)__builtin_ctz(physical / b->block_size),
        .min_io_size = (uint16_t)MIN(physical / b->block_size, UINT16_MAX),
        .opt_io_size = optimal / b->block_size,
        .num_queues = (uint16_t)queues,
        .max_discard_sectors = VIRTIO_BLK_RANGE_SECTORS_MAX,
        .max_discard_seg = VIRTIO_BLK_RANGES_MAX,
        .discard_sector_alignment = physical / VIRTIO_BLK_SECTOR,
        .max_write_zeroes_sectors = VIRTIO_BLK_RANGE_SECTORS_MAX,
        .max_write_zeroes_seg = VIRTIO_BLK_RANGES_MAX,
        .write_zeroes_may_unmap = 1,
    };
}

static int check_options(const struct block_backend *b, unsigned queues, uint32_t physical, struct err *e)
{
    if (queues > VIRTIO_QUEUES_MAX)
        return err_set(e, EINVAL, "disk %s: %u queues are too many: %u is the limit, and one per vCPU is enough", b->path, queues,
                       VIRTIO_QUEUES_MAX);
    if (physical < b->block_size || (physical & (physical - 1)))
        return err_set(e, EINVAL, "disk %s: a physical block of %u bytes is not possible: a power of two from %u on is", b->path, physical,
                       b->block_size);
    return 0;
}

struct virtio_device *virtio_blk_new(const struct virtio_env *env, const char *label, struct block_backend *b,
                                     const struct virtio_blk_options *o, struct err *e)
{
    unsigned queues = MAX(o->queues, 1);
    uint32_t physical = o->physical_block ? o->physical_block : 4096;
    struct virtio_blk *blk = calloc(1, sizeof(*blk));

    if (!blk) {
        err_set(e, ENOMEM, "no memory for disk %s", b->path);
        goto free_backend;
    }
    if (check_options(b, queues, physical, e) ||
        virtio_init(&blk->dev, &virtio_blk_ops, env, label, offered(b, queues), CONFIG_BYTES, queues, VIRTIO_BLK_QUEUE_SIZE, e))
        goto free_struct;
    if (blk_init_requests(blk)) {
        err_set(e, ENOMEM, "no memory for disk %s", b->path);
        goto fini_device;
    }
    make_config(&blk->config, b, queues, physical, o->optimal_io);
    memcpy(blk->serial, o->serial, strnlen(o->serial, sizeof(blk->serial)));
    blk->backend = b;
    b->batch_done = blk_on_batch_done;
    b->owner = blk;
    return &blk->dev;
fini_device:
    virtio_fini(&blk->dev);
free_struct:
    free(blk);
free_backend:
    block_free(b);
    return NULL;
}
