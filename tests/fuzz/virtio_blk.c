/* Fuzzes the virtio disk: requests good and bad, rings overwritten, completions in any order and with errors, resets and saves meanwhile. */
#include "unit/block_fake.h"
#include "unit/virtq_driver.h"
#include "virtio/blk_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RAM KIB(512)
#define BASE 0x1000
#define BYTES KIB(192) /* of each queue */
#define QUEUES 2
#define SECTORS 64
#define STEPS_MAX 400

struct input {
    const uint8_t *data;
    size_t size;
};

struct world {
    struct input in;
    struct mem mem;
    struct loop *loop;
    struct block_fake *fake;
    struct virtio_device *dev;
    struct virtq_driver d[QUEUES];
    uint32_t block_size;
    bool read_only;
};

static uint64_t take(struct input *in, unsigned bytes)
{
    uint64_t value = 0;

    bytes = (unsigned)MIN(bytes, in->size);
    if (bytes)
        memcpy(&value, in->data, bytes);
    in->data += bytes;
    in->size -= bytes;
    return value;
}

/* Near the ends more often than anywhere. */
static uint64_t take_sector(struct input *in)
{
    static const uint64_t near[] = {0, SECTORS - 1, SECTORS, 1ULL << 55, UINT64_MAX / 512, UINT64_MAX};
    uint64_t which = take(in, 1);

    return which & 1 ? take(in, 1) % SECTORS : near[(which >> 1) % ARRAY_SIZE(near)] + take(in, 1) % 8;
}

/* --- the machine --- */

static void make(struct world *w)
{
    struct virtio_env env = {.mem = &w->mem, .loop = w->loop, .inline_work = true};
    struct virtio_blk_options o = {.serial = "fuzz", .queues = QUEUES};
    struct err e;

    w->fake = block_fake_new(SECTORS * 512, w->block_size, w->read_only);
    w->dev = virtio_blk_new(&env, "blk0", &w->fake->backend, &o, &e);
    BUG_ON(!w->dev);
    w->dev->complaints.next_ns = UINT64_MAX; /* quiet */
    blk_of(w->dev)->next_complaint_ns = UINT64_MAX;
}

static void bring_up_queue(struct world *w, unsigned queue)
{
    driver_init(&w->d[queue], &w->mem, BASE + queue * BYTES, BYTES, 16, w->dev->state.driver_features);
    driver_connect(&w->d[queue], &w->dev->queues[queue].state);
    virtio_enable_queue(w->dev, queue);
}

static void bring_up(struct world *w)
{
    uint64_t features = (take(&w->in, 5) & w->dev->features) | BIT(VIRTIO_F_VERSION_1);

    virtio_set_status(w->dev, 0);
    virtio_set_status(w->dev, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    virtio_set_driver_features(w->dev, 0, (uint32_t)features);
    virtio_set_driver_features(w->dev, 1, (uint32_t)(features >> 32));
    virtio_set_status(w->dev, VIRTIO_STATUS_FEATURES_OK);
    for (unsigned q = 0; q < QUEUES; q++)
        bring_up_queue(w, q);
    virtio_set_status(w->dev, VIRTIO_STATUS_DRIVER_OK);
}

/* --- the driver --- */

static void request(struct world *w)
{
    static const uint32_t types[] = {
        VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES, 10,
        UINT32_MAX};
    struct virtq_driver *d = &w->d[take(&w->in, 1) % QUEUES];
    uint8_t bytes[KIB(5)] = {0};
    uint8_t knobs = (uint8_t)take(&w->in, 1);
    struct virtio_blk_header header = {.type = types[knobs % 8], .sector = take_sector(&w->in)};
    struct virtio_blk_range *ranges = (void *)(bytes + sizeof(header));
    uint32_t out = sizeof(header), in = 1;
    unsigned n = (unsigned)take(&w->in, 1) % 20;

    memcpy(bytes, &header, sizeof(header));
    if (header.type == VIRTIO_BLK_T_DISCARD || header.type == VIRTIO_BLK_T_WRITE_ZEROES) {
        for (unsigned i = 0; i < n; i++)
            ranges[i] = (struct virtio_blk_range){take_sector(&w->in), (uint32_t)take(&w->in, 1), (uint32_t)(take(&w->in, 1) % 4) / 2};
        out += n * (uint32_t)sizeof(*ranges);
    } else if (header.type == VIRTIO_BLK_T_OUT) {
        out += n % 9 * 512;
    } else {
        in += n % 9 * 512;
    }
    if (knobs & 8) { /* not as it should be */
        out = (uint32_t)take(&w->in, 1) % sizeof(bytes);
        in = (uint32_t)take(&w->in, 1);
    }
    d->indirect = knobs & 16 ? DRIVER_TABLE : DRIVER_DIRECT;
    d->piece = knobs & 32 ? 600 + (uint32_t)take(&w->in, 1) : 0;
    if (out + in)
        driver_request(d, bytes, out, in);
}

static void any_segments(struct world *w)
{
    struct virtq_driver *d = &w->d[take(&w->in, 1) % QUEUES];
    struct virtq_segment segs[6];
    unsigned n = 1 + (unsigned)take(&w->in, 1) % ARRAY_SIZE(segs), out = (unsigned)take(&w->in, 1) % (n + 1);

    for (unsigned i = 0; i < n; i++)
        segs[i] = (struct virtq_segment){take(&w->in, 2) * 8, (uint32_t)take(&w->in, 2)};
    d->indirect = DRIVER_DIRECT;
    driver_add(d, segs, out, n - out);
}

static void overwrite(struct world *w)
{
    gpa_t gpa = BASE + take(&w->in, 3) % (2 * BYTES);

    for (unsigned n = 1 + (unsigned)take(&w->in, 1) % 16; n; n--) {
        uint8_t byte = (uint8_t)take(&w->in, 1);

        BUG_ON(mem_write(&w->mem, gpa++, &byte, 1));
    }
}

static void show(struct world *w, unsigned queue)
{
    driver_show(&w->d[queue]);
    virtio_doorbell(w->dev, queue);
}

static void take_used(struct world *w, unsigned queue)
{
    uint32_t len;

    while (driver_take(&w->d[queue], &len) >= 0)
        continue;
}

/* --- the backend --- */

static void complete(struct world *w)
{
    static const int errors[] = {0, 0, 0, 0, 0, -EIO, -ENOSPC, -EROFS};

    if (w->fake->waiting) {
        uint64_t which = take(&w->in, 1);

        block_fake_done(w->fake, (unsigned)(which >> 3) % w->fake->waiting, errors[which & 7]);
    }
}

static void save_and_load(struct world *w)
{
    bool bend = take(&w->in, 1) & 1;
    struct state_writer writer;
    struct state_reader reader;
    struct err e = {""};
    int error;

    virtio_drain(w->dev);
    BUG_ON(w->fake->first);
    state_writer_init(&writer);
    BUG_ON(virtio_save(w->dev, &writer));
    if (bend)
        writer.data[take(&w->in, 2) % writer.len] ^= (uint8_t)take(&w->in, 1);
    state_reader_init(&reader, writer.data, writer.len);
    error = virtio_load(w->dev, &reader, &e);
    BUG_ON(error && (!bend || !e.text[0]));
    state_writer_fini(&writer);
}

/* --- */

static void step(struct world *w)
{
    unsigned queue;

    switch (take(&w->in, 1) % 24) {
    case 0 ... 6: request(w); break;
    case 7: any_segments(w); break;
    case 8 ... 10: show(w, (unsigned)take(&w->in, 1) % QUEUES); break;
    case 11 ... 13: complete(w); break;
    case 14 ... 15: block_fake_batch_done(w->fake); break;
    case 16: take_used(w, (unsigned)take(&w->in, 1) % QUEUES); break;
    case 17 ... 18: overwrite(w); break;
    case 19:
        virtio_config_write(w->dev, (unsigned)take(&w->in, 1) % 64, 1U << take(&w->in, 1) % 4, take(&w->in, 2));
        virtio_config_read(w->dev, (unsigned)take(&w->in, 1) % 64, 1U << take(&w->in, 1) % 4);
        break;
    case 20: virtio_set_status(w->dev, 0); break;
    case 21: bring_up(w); break;
    case 22:
        queue = (unsigned)take(&w->in, 1) % QUEUES;
        virtio_reset_queue(w->dev, queue);
        if (take(&w->in, 1) & 1)
            bring_up_queue(w, queue);
        break;
    default: save_and_load(w); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w = {.in = {data, size}};
    uint8_t how = (uint8_t)take(&w.in, 1);
    struct err e;

    w.block_size = how & 1 ? 4096 : 512;
    w.read_only = how & 2;
    BUG_ON(mem_init(&w.mem, RAM, false, &e));
    w.loop = loop_new(&e);
    BUG_ON(!w.loop);
    make(&w);
    bring_up(&w);
    for (unsigned steps = 0; steps < STEPS_MAX && w.in.size; steps++)
        step(&w);
    virtio_free(w.dev); /* with whatever is under way */
    loop_free(w.loop);
    mem_fini(&w.mem);
    return 0;
}
