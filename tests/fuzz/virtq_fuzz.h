/* Fuzzes a virtqueue of one format: the input says what driver and device do in turn, and what is overwritten in guest memory meanwhile. */
#pragma once

#include <errno.h>
#include <stdlib.h>

#include "unit/virtq_driver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RAM KIB(256)
#define BASE 0x1000
#define BYTES KIB(128)
#define ROM_GPA 0xf0000000ULL
#define SIZE_MAX_HERE 64
#define OUT_MAX (SIZE_MAX_HERE + 1)

struct input {
    const uint8_t *data;
    size_t size;
};

struct world {
    struct input in;
    struct mem mem;
    struct virtq q;
    struct virtq_driver d;
    struct virtq_chain out[OUT_MAX];
    unsigned popped;
    bool last_can_go_back; /* nothing came after the last pop */
};

static uint8_t take8(struct input *in)
{
    if (in->size == 0)
        return 0;
    in->size--;
    return *in->data++;
}

static uint32_t take32(struct input *in)
{
    uint32_t low = take8(in) | (uint32_t)take8(in) << 8;

    return low | (uint32_t)take8(in) << 16 | (uint32_t)take8(in) << 24;
}

/* Near something more often than anywhere. */
static gpa_t take_gpa(struct input *in)
{
    static const gpa_t near[] = {0, BASE, BASE + BYTES, RAM, ROM_GPA, ROM_GPA + PAGE_SIZE, UINT32_MAX, UINT64_MAX};
    uint8_t which = take8(in);

    return near[which % ARRAY_SIZE(near)] + (gpa_t)(which & 8 ? take32(in) << 12 : (uint32_t)(int8_t)take8(in));
}

static void enable(struct world *w, bool hostile)
{
    static const uint8_t sizes[] = {1, 2, 4, 8, 16, SIZE_MAX_HERE, 3, 37};
    uint8_t choice = take8(&w->in);
    uint64_t features = FORMAT | (choice & 1 ? BIT(VIRTIO_F_EVENT_IDX) : 0) | (choice & 2 ? BIT(VIRTIO_F_INDIRECT_DESC) : 0);
    uint16_t size = sizes[(choice >> 2) % (FORMAT != 0 ? 8 : 6)];
    int rc;

    virtq_reset(&w->q);
    BUG_ON(w->q.in_use);
    w->popped = 0;
    driver_init(&w->d, &w->mem, BASE, BYTES, size, features);
    driver_connect(&w->d, &w->q.state);
    if (hostile) {
        w->q.state.desc = take_gpa(&w->in);
        w->q.state.driver = take_gpa(&w->in);
        w->q.state.device = take_gpa(&w->in);
        w->q.state.size = (uint16_t)take32(&w->in);
    }
    rc = virtq_enable(&w->q, features);
    BUG_ON(rc && (rc != -EINVAL || !hostile || !w->q.why || w->q.state.enabled));
}

/* --- the device --- */

static void check_chain(struct world *w, const struct virtq_chain *c)
{
    uint64_t readable = 0, writable = 0;

    BUG_ON(c->readable + c->writable > w->q.state.size);
    BUG_ON(c->slots == 0 || c->slots > w->q.state.size);
    for (unsigned i = 0; i < c->readable + c->writable; i++) {
        uint8_t *p = c->iov[i].iov_base;
        size_t len = c->iov[i].iov_len;
        bool rom = c->gpas[i] >= ROM_GPA;

        BUG_ON(len == 0 || p < w->mem.base || p + len > w->mem.base + (rom ? PAGE_SIZE : RAM));
        BUG_ON(mem_hva(&w->mem, c->gpas[i], len) != p);
        BUG_ON(rom && i >= c->readable);
        if (i < c->readable) {
            readable += len;
        } else {
            writable += len;
            p[0] ^= 0xff; /* may well be a ring */
            p[len - 1]++;
        }
    }
    BUG_ON(readable != c->readable_len || writable != c->writable_len);
}

static void pop(struct world *w)
{
    bool was_broken = w->q.state.broken;
    int rc;

    BUG_ON(w->popped == OUT_MAX);
    rc = virtq_pop(&w->q, &w->out[w->popped]);
    w->last_can_go_back = rc == 1;
    BUG_ON(was_broken && rc != -EINVAL);
    BUG_ON(rc == -EINVAL && (!w->q.state.broken || !w->q.why));
    BUG_ON(rc == 1 && !w->q.state.enabled);
    if (rc == 1)
        check_chain(w, &w->out[w->popped++]);
    else
        BUG_ON(rc != 0 && rc != -EINVAL);
}

static void unpop(struct world *w)
{
    if (!w->popped || !w->last_can_go_back)
        return;
    virtq_unpop(&w->q, &w->out[--w->popped]);
    w->last_can_go_back = false;
}

static void push(struct world *w, uint8_t which)
{
    struct virtq_chain chain;
    uint8_t bytes[64];
    size_t len;

    if (!w->popped)
        return;
    which %= w->popped;
    chain = w->out[which];
    len = virtq_read(&chain, which, bytes, sizeof(bytes));
    BUG_ON(len != MIN(sizeof(bytes), chain.readable_len - MIN(chain.readable_len, which)));
    len = virtq_write(&chain, which, bytes, len);
    BUG_ON(len > chain.writable_len);
    virtq_push(&w->q, &chain, (uint32_t)MIN(chain.writable_len, which + len));
    w->out[which] = w->out[--w->popped];
    w->out[w->popped] = chain;
    w->last_can_go_back = false;
}

/* Saved, perhaps changed, and loaded. */
static void save_and_load(struct world *w, bool hostile)
{
    uint64_t features = w->q.features;
    struct virtq before;
    struct state_writer writer;
    struct state_reader reader;
    struct err e = {{0}};
    int rc;

    while (w->popped)
        push(w, 0);
    virtq_publish(&w->q);
    before = w->q;
    state_writer_init(&writer);
    BUG_ON(virtq_save(&w->q, &writer));
    if (hostile) {
        for (unsigned n = take8(&w->in) % 8; n; n--)
            writer.data[take32(&w->in) % writer.len] = take8(&w->in);
    }
    state_reader_init(&reader, writer.data, writer.len);
    rc = virtq_load(&w->q, features, &reader, &e);
    BUG_ON(rc && (!hostile || !e.text[0]));
    BUG_ON((rc || !hostile) && memcmp(&before.state, &w->q.state, sizeof(before.state)) != 0);
    if (w->q.state.size > SIZE_MAX_HERE && w->q.state.enabled)
        enable(w, false);
    state_writer_fini(&writer);
}

/* --- the driver --- */

static void request(struct world *w)
{
    static const uint8_t bytes[256];
    uint8_t knobs = take8(&w->in);
    uint32_t out_len = take8(&w->in) % 64, in_len = 1 + take8(&w->in) % 64;

    w->d.indirect = knobs % (FORMAT != 0 ? 2 : 3);
    w->d.piece = knobs & 4 ? 8U + (knobs >> 4) : 0;
    driver_request(&w->d, bytes, out_len, in_len);
}

static void any_segments(struct world *w)
{
    struct virtq_segment segs[8];
    unsigned n = 1 + take8(&w->in) % ARRAY_SIZE(segs), out = take8(&w->in) % (n + 1);

    for (unsigned i = 0; i < n; i++) {
        segs[i].gpa = take_gpa(&w->in);
        segs[i].len = take8(&w->in) & 1 ? take8(&w->in) : take32(&w->in);
    }
    w->d.indirect = DRIVER_DIRECT;
    driver_add(&w->d, segs, out, n - out);
}

/* The rings and what is behind them: tables, buffers. */
static void overwrite(struct world *w)
{
    uint32_t where = take32(&w->in), rings = (uint32_t)(w->d.area - BASE);
    gpa_t gpa = BASE + (where & 1 ? where >> 1 : (where >> 1) % rings) % BYTES;

    for (unsigned n = 1 + take8(&w->in) % 8; n; n--) {
        uint8_t byte = take8(&w->in);

        BUG_ON(mem_write(&w->mem, gpa++, &byte, 1));
    }
}

/* Flags and indexes are where most is decided. */
static void overwrite_index(struct world *w)
{
    uint8_t which = take8(&w->in);
    uint16_t value = (uint16_t)(which & 0x80 ? take32(&w->in) : take8(&w->in));

    if (FORMAT != 0)
        driver_put16(&w->d, w->d.desc + 16U * (which % w->d.size) + 14, (uint16_t)(value | (which & 0x40 ? DRIVER_AVAIL : DRIVER_USED)));
    else
        driver_put16(&w->d, w->d.driver + 2, which & 0x40 ? value : (uint16_t)(w->q.state.avail_index + value % 8));
}

/* --- */

static void step(struct world *w)
{
    uint8_t op = take8(&w->in);
    uint32_t len;

    switch (op % 32) {
    case 0 ... 3: request(w); break;
    case 4: any_segments(w); break;
    case 5 ... 8: driver_show(&w->d); break;
    case 9: driver_take(&w->d, &len); break;
    case 10: driver_set_interrupts(&w->d, op & 0x80); break;
    case 11: driver_interrupt_after(&w->d, op >> 5); break;
    case 12: overwrite(w); break;
    case 13: overwrite_index(w); break;
    case 14 ... 20: pop(w); break;
    case 21: unpop(w); break;
    case 22 ... 24: push(w, op >> 5); break;
    case 25 ... 27: virtq_publish(&w->q); break;
    case 28: virtq_set_kicks(&w->q, op & 0x80); break;
    case 29: save_and_load(w, false); break;
    case 30: save_and_load(w, true); break;
    default: enable(w, op & 0x80); break;
    }
    BUG_ON(w->q.in_use != w->popped);
    BUG_ON(w->q.state.enabled && w->popped > w->q.state.size);
}

static void on_change(void *opaque, gpa_t gpa, size_t len)
{
    struct world *w = opaque;

    BUG_ON(len == 0 || gpa >= ROM_GPA || !mem_hva(&w->mem, gpa, len));
}

static struct world *world_new(void)
{
    struct world *w = calloc(1, sizeof(*w));
    struct err e;

    BUG_ON(!w || mem_init(&w->mem, RAM, false, &e));
    w->mem.regions[w->mem.region_count++] = (struct mem_region){
        .gpa = ROM_GPA, .size = PAGE_SIZE, .hva = w->mem.base, .flags = MEM_READONLY};
    w->mem.code_changed = on_change;
    w->mem.code_changed_opaque = w;
    virtq_init(&w->q, &w->mem, SIZE_MAX_HERE);
    for (unsigned i = 0; i < OUT_MAX; i++)
        BUG_ON(virtq_chain_init(&w->out[i], &w->q));
    return w;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world *w;

    if (!w)
        w = world_new();
    memset(w->mem.base, 0, RAM);
    virtq_init(&w->q, &w->mem, SIZE_MAX_HERE);
    w->in = (struct input){data, size};
    enable(w, false);
    while (w->in.size)
        step(w);
    return 0;
}
