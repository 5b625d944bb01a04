/* Virtqueues: what split and packed rings have in common (virtio 1.2 2.6 - 2.8). */
#include "virtio/queue_ring.h"

#include <errno.h>
#include <stdlib.h>

#include "base/bug.h"

/*
 * Theory of operation. Three positions run through a ring: what was popped, what was pushed, what was published. The driver may fill only
 * what was published to it, so the distance from published to popped is what is out with the device; it never exceeds the queue's size,
 * and a driver that fills more is broken. With that, whatever the driver writes, no more chains are out than the queue has entries.
 *
 * The driver runs on other threads. It and the device follow the orders of 2.7.13, 2.7.14 and 2.8.21: contents before the index or the
 * flags that show them (release, acquire), and on both sides "tell, barrier, look again" wherever one sleeps until the other wakes it.
 */

static const struct state_field fields[] = {
    STATE_FIELD(struct virtq_state, max_size),
    STATE_FIELD(struct virtq_state, size),
    STATE_FIELD(struct virtq_state, enabled),
    STATE_FIELD(struct virtq_state, broken),
    STATE_FIELD(struct virtq_state, desc),
    STATE_FIELD(struct virtq_state, driver),
    STATE_FIELD(struct virtq_state, device),
    STATE_FIELD(struct virtq_state, avail_index),
    STATE_FIELD(struct virtq_state, used_index),
    STATE_FIELD(struct virtq_state, avail_wrap),
    STATE_FIELD(struct virtq_state, used_wrap),
    STATE_FIELD(struct virtq_state, kicks_off),
    STATE_FIELD(struct virtq_state, published_index),
    STATE_FIELD(struct virtq_state, published_wrap),
};
static const struct state_desc desc = {"virtqueue", 1, fields, ARRAY_SIZE(fields)};

static const struct ring_ops *ring_of(uint64_t features)
{
    return features >> VIRTIO_F_RING_PACKED & 1 ? &ring_packed : &ring_split;
}

static bool is_published(const struct virtq_state *s)
{
    return s->used_index == s->published_index && s->used_wrap == s->published_wrap;
}

int ring_broken(struct virtq *q, const char *why)
{
    q->state.broken = 1;
    q->why = why;
    return -EINVAL;
}

/* --- life --- */

void virtq_init(struct virtq *q, struct mem *mem, uint16_t max_size)
{
    BUG_ON(max_size == 0 || max_size > VIRTQ_SIZE_MAX || (max_size & (max_size - 1)));
    *q = (struct virtq){.mem = mem, .state.max_size = max_size};
    virtq_reset(q);
}

void virtq_reset(struct virtq *q)
{
    q->state = (struct virtq_state){
        .max_size = q->state.max_size,
        .size = q->state.max_size,
        .avail_wrap = 1,
        .used_wrap = 1,
        .published_wrap = 1,
    };
    q->features = 0;
    q->desc_hva = q->driver_hva = q->device_hva = NULL;
    q->in_use = 0;
    q->held_flags = 0;
    q->why = NULL;
}

/* NULL: it is not all in one region of RAM, or may not be written. */
static void *find_bytes(const struct mem *mem, gpa_t gpa, uint32_t len, bool write)
{
    const struct mem_region *r = mem_find(mem, gpa);

    if (!r || len > r->size - (gpa - r->gpa) || (write && (r->flags & MEM_READONLY)))
        return NULL;
    return r->hva + (gpa - r->gpa);
}

static const char *map_part(struct virtq *q, const struct ring_part *part, gpa_t gpa, void **hva)
{
    if (gpa % part->align)
        return "gave a ring an address that is not aligned";
    *hva = find_bytes(q->mem, gpa, part->bytes, part->written);
    return *hva ? NULL : "put a ring outside of memory";
}

/* Finds the rings of a queue with this state and these features. NULL or what is wrong with them. */
static const char *map_rings(struct virtq *q)
{
    const struct ring_ops *ring = ring_of(q->features);
    struct ring_parts parts;
    const char *why;

    if (q->state.size == 0 || q->state.size > q->state.max_size)
        return "chose a queue size that was not offered";
    why = ring->size_wrong(q->state.size);
    if (why)
        return why;
    parts = ring->parts(q->state.size);
    why = map_part(q, &parts.desc, q->state.desc, &q->desc_hva);
    if (!why)
        why = map_part(q, &parts.driver, q->state.driver, &q->driver_hva);
    if (!why)
        why = map_part(q, &parts.device, q->state.device, &q->device_hva);
    return why;
}

int virtq_enable(struct virtq *q, uint64_t features)
{
    if (q->state.enabled)
        return 0;
    q->features = features;
    q->why = map_rings(q);
    if (q->why)
        return -EINVAL;
    q->state.enabled = 1;
    return 0;
}

/* --- chains --- */

int virtq_chain_init(struct virtq_chain *c, const struct virtq *q)
{
    *c = (struct virtq_chain){.capacity = q->state.max_size};
    c->iov = malloc(c->capacity * sizeof(*c->iov));
    c->gpas = malloc(c->capacity * sizeof(*c->gpas));
    if (!c->iov || !c->gpas) {
        virtq_chain_fini(c);
        return -ENOMEM;
    }
    return 0;
}

void virtq_chain_fini(struct virtq_chain *c)
{
    free(c->iov);
    free(c->gpas);
    *c = (struct virtq_chain){0};
}

int ring_add(struct virtq *q, struct virtq_chain *c, unsigned nth, uint64_t gpa, uint32_t len, bool writable)
{
    unsigned n = c->readable + c->writable;
    void *hva;

    /* This also ends a loop (2.7.5.3.1, 2.8.17). */
    if (nth >= q->state.size)
        return ring_broken(q, "made a chain that is longer than the queue, or a loop");
    if (len == 0)
        return 0; /* no rule forbids it, and its address means nothing */
    if (!writable && c->writable)
        return ring_broken(q, "put a readable buffer behind a writable one"); /* 2.7.4.2 */
    hva = find_bytes(q->mem, gpa, len, writable);
    if (!hva)
        return ring_broken(q, "gave a buffer outside of memory");
    if (c->readable_len + c->writable_len + len > UINT32_MAX)
        return ring_broken(q, "made a chain of 4 GiB or more"); /* 2.7.5.2 */
    c->iov[n] = (struct iovec){hva, len};
    c->gpas[n] = gpa;
    if (writable) {
        c->writable++;
        c->writable_len += len;
    } else {
        c->readable++;
        c->readable_len += len;
    }
    return 0;
}

const uint8_t *ring_table(struct virtq *q, uint64_t gpa, uint32_t len, uint32_t *entries)
{
    const uint8_t *table;

    if (!(q->features >> VIRTIO_F_INDIRECT_DESC & 1)) {
        ring_broken(q, "used an indirect descriptor without having agreed on them");
        return NULL;
    }
    if (len == 0 || len % DESC_BYTES) {
        ring_broken(q, "gave an indirect table that is no whole number of descriptors");
        return NULL;
    }
    table = find_bytes(q->mem, gpa, len, false);
    if (!table)
        ring_broken(q, "put an indirect table outside of memory");
    *entries = len / DESC_BYTES;
    return table;
}

int virtq_pop(struct virtq *q, struct virtq_chain *c)
{
    const struct ring_ops *ring = ring_of(q->features);
    int rc;

    if (q->state.broken)
        return -EINVAL;
    if (!q->state.enabled)
        return 0;
    BUG_ON(c->capacity < q->state.size);
    if (!ring->waiting(q)) {
        /* The last kick's promise is used up. With EVENT_IDX the next one comes only when it is asked for, and not for what is there. */
        if (q->state.kicks_off || !ring_has_event_idx(q) || !virtq_set_kicks(q, true))
            return 0;
    }
    c->id = 0;
    c->slots = 1;
    c->readable = c->writable = 0;
    c->readable_len = c->writable_len = 0;
    rc = ring->pop(q, c);
    if (rc == 1)
        q->in_use++;
    return rc;
}

void virtq_unpop(struct virtq *q, const struct virtq_chain *c)
{
    BUG_ON(q->in_use == 0);
    ring_of(q->features)->unpop(q, c);
    q->in_use--;
}

/* --- the way back --- */

static void tell_code_changed(const struct virtq *q, const struct virtq_chain *c, uint32_t written)
{
    if (!q->mem->code_changed)
        return;
    for (unsigned i = c->readable; written; i++) {
        uint32_t len = (uint32_t)MIN(written, c->iov[i].iov_len);

        q->mem->code_changed(q->mem->code_changed_opaque, c->gpas[i], len);
        written -= len;
    }
}

void virtq_push(struct virtq *q, const struct virtq_chain *c, uint32_t written)
{
    BUG_ON(q->in_use == 0);
    BUG_ON(written > c->writable_len);
    tell_code_changed(q, c, written);
    ring_of(q->features)->push(q, c, written);
    q->in_use--;
    q->stats.chains++;
    q->stats.bytes_read += c->readable_len;
    q->stats.bytes_written += written;
}

bool virtq_publish(struct virtq *q)
{
    bool wanted;

    if (is_published(&q->state))
        return false;
    wanted = ring_of(q->features)->publish(q);
    q->state.published_index = q->state.used_index;
    q->state.published_wrap = q->state.used_wrap;
    if (wanted)
        q->stats.interrupts++;
    else
        q->stats.interrupts_suppressed++;
    return wanted;
}

bool virtq_set_kicks(struct virtq *q, bool on)
{
    const struct ring_ops *ring = ring_of(q->features);

    if (!q->state.enabled || q->state.broken)
        return false;
    q->state.kicks_off = !on;
    ring->kicks(q);
    if (!on)
        return false;
    /* The driver fills, then looks whether to kick; we say that it shall, then look whether it has filled. One of us sees the other. */
    barrier_store_load();
    return ring->waiting(q);
}

/* --- bytes --- */

static size_t copy_bytes(const struct iovec *iov, unsigned count, size_t off, uint8_t *buf, size_t len, bool to_guest)
{
    size_t done = 0;

    for (unsigned i = 0; i < count && done < len; i++) {
        size_t here;

        if (off >= iov[i].iov_len) {
            off -= iov[i].iov_len;
            continue;
        }
        here = MIN(len - done, iov[i].iov_len - off);
        if (to_guest)
            memcpy((uint8_t *)iov[i].iov_base + off, buf + done, here);
        else
            copy_once(buf + done, (const uint8_t *)iov[i].iov_base + off, here);
        done += here;
        off = 0;
    }
    return done;
}

size_t virtq_read(const struct virtq_chain *c, size_t off, void *buf, size_t len)
{
    return copy_bytes(c->iov, c->readable, off, buf, len, false);
}

size_t virtq_write(const struct virtq_chain *c, size_t off, const void *buf, size_t len)
{
    return copy_bytes(c->iov + c->readable, c->writable, off, (uint8_t *)buf, len, true);
}

/* --- saved state --- */

int virtq_save(struct virtq *q, struct state_writer *w)
{
    BUG_ON(q->in_use || !is_published(&q->state));
    return state_save(&desc, &q->state, w);
}

static bool is_possible(const struct virtq *q, const struct virtq_state *s, uint64_t features)
{
    if (s->max_size != q->state.max_size || s->enabled > 1 || s->broken > 1 || s->kicks_off > 1)
        return false;
    if (s->enabled)
        return ring_of(features)->possible(s);
    /* What the driver has chosen so far is checked when it enables the queue. */
    return !s->broken && !s->kicks_off && !s->avail_index && !s->used_index && !s->published_index && s->avail_wrap == 1 &&
           s->used_wrap == 1 && s->published_wrap == 1;
}

int virtq_load(struct virtq *q, uint64_t features, struct state_reader *r, struct err *e)
{
    struct virtq copy = *q;
    const char *why;
    int rc;

    copy.state = (struct virtq_state){0};
    rc = state_load(&desc, &copy.state, r, e);
    if (rc)
        return rc;
    if (!is_possible(q, &copy.state, features))
        return err_set(e, EINVAL, "the saved state of a %s holds impossible values", desc.name);
    copy.features = copy.state.enabled ? features : 0;
    copy.desc_hva = copy.driver_hva = copy.device_hva = NULL;
    copy.in_use = 0;
    copy.why = copy.state.broken ? "broke the rules before the state was saved" : NULL;
    if (copy.state.enabled) {
        why = map_rings(&copy);
        if (why)
            return err_set(e, EINVAL, "the saved state of a %s is impossible: the driver %s", desc.name, why);
    }
    *q = copy;
    return 0;
}
