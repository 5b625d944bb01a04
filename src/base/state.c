/* Saved state: sections of named little-endian fields in a growing buffer. */
#include "base/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bug.h"

/*
 * A section: name, version (2 bytes), number of fields (2), then for each field name, element size (1), count (2) and the elements.
 * A name is its length in one byte and its characters. All numbers are little-endian.
 */

void state_writer_init(struct state_writer *w)
{
    *w = (struct state_writer){0};
}

void state_writer_fini(struct state_writer *w)
{
    free(w->data);
    *w = (struct state_writer){0};
}

void state_reader_init(struct state_reader *r, const void *data, size_t len)
{
    *r = (struct state_reader){.data = data, .len = len};
}

static void put_bytes(struct state_writer *w, const void *bytes, size_t len)
{
    if (w->error)
        return;
    if (len > w->cap - w->len) {
        size_t cap = MAX(w->cap * 2, w->len + len + 256);
        uint8_t *data = realloc(w->data, cap);
        if (!data) {
            w->error = -ENOMEM;
            return;
        }
        w->data = data;
        w->cap = cap;
    }
    memcpy(w->data + w->len, bytes, len);
    w->len += len;
}

static void put_number(struct state_writer *w, uint64_t value, unsigned size)
{
    uint8_t bytes[8];

    for (unsigned i = 0; i < size; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
    put_bytes(w, bytes, size);
}

static void put_name(struct state_writer *w, const char *name)
{
    size_t len = strlen(name);

    BUG_ON(len == 0 || len > UINT8_MAX);
    put_number(w, len, 1);
    put_bytes(w, name, len);
}

int state_save(const struct state_desc *desc, const void *object, struct state_writer *w)
{
    put_name(w, desc->name);
    put_number(w, desc->version, 2);
    put_number(w, desc->n, 2);
    for (unsigned i = 0; i < desc->n; i++) {
        const struct state_field *f = &desc->fields[i];
        const uint8_t *from = (const uint8_t *)object + f->offset;

        BUG_ON(f->since == 0 || f->since > desc->version);
        BUG_ON(f->size != 1 && f->size != 2 && f->size != 4 && f->size != 8);
        put_name(w, f->name);
        put_number(w, f->size, 1);
        put_number(w, f->count, 2);
        for (unsigned n = 0; n < f->count; n++, from += f->size) {
            uint64_t value = 0;

            memcpy(&value, from, f->size); /* x86-64: the low bytes come first */
            put_number(w, value, f->size);
        }
    }
    return w->error;
}

/* False when fewer than size bytes are left. */
static bool get_number(struct state_reader *r, unsigned size, uint64_t *value)
{
    if (r->len - r->pos < size)
        return false;
    *value = 0;
    for (unsigned i = 0; i < size; i++)
        *value |= (uint64_t)r->data[r->pos + i] << (8 * i);
    r->pos += size;
    return true;
}

/* The name's characters stay in the buffer and have no terminator. */
static bool get_name(struct state_reader *r, const char **name, size_t *len)
{
    uint64_t n;

    if (!get_number(r, 1, &n) || r->len - r->pos < n)
        return false;
    *name = (const char *)r->data + r->pos;
    *len = n;
    r->pos += n;
    return true;
}

static bool name_is(const char *want, const char *name, size_t len)
{
    return strlen(want) == len && memcmp(want, name, len) == 0;
}

static int load_field(const struct state_desc *desc, uint8_t *object, struct state_reader *r, uint64_t *seen, struct err *e)
{
    const char *name;
    size_t name_len;
    uint64_t size, count;

    if (!get_name(r, &name, &name_len) || !get_number(r, 1, &size) || !get_number(r, 2, &count))
        return err_set(e, EINVAL, "the saved state of %s is truncated", desc->name);
    for (unsigned i = 0; i < desc->n; i++) {
        const struct state_field *f = &desc->fields[i];

        if (!name_is(f->name, name, name_len))
            continue;
        if (f->size != size || f->count != count || (*seen & BIT(i)))
            return err_set(e, EINVAL, "the saved state of %s has a malformed field %s", desc->name, f->name);
        *seen |= BIT(i);
        for (unsigned n = 0; n < f->count; n++) {
            uint64_t value;

            if (!get_number(r, f->size, &value))
                return err_set(e, EINVAL, "the saved state of %s is truncated", desc->name);
            memcpy(object + f->offset + (size_t)n * f->size, &value, f->size);
        }
        return 0;
    }
    return err_set(e, EINVAL, "the saved state of %s has a field that this program does not know", desc->name);
}

int state_load(const struct state_desc *desc, void *object, struct state_reader *r, struct err *e)
{
    const char *name;
    size_t name_len;
    uint64_t version, n, seen = 0;
    int rc;

    BUG_ON(desc->n > 64);
    if (!get_name(r, &name, &name_len) || !get_number(r, 2, &version) || !get_number(r, 2, &n))
        return err_set(e, EINVAL, "the saved state ends where that of %s should begin", desc->name);
    if (!name_is(desc->name, name, name_len))
        return err_set(e, EINVAL, "the saved state has something else where %s should be", desc->name);
    if (version == 0 || version > desc->version)
        return err_set(e, EINVAL, "the saved state of %s has version %u, and this program knows up to %u", desc->name, (unsigned)version,
                       desc->version);
    for (uint64_t i = 0; i < n; i++) {
        rc = load_field(desc, object, r, &seen, e);
        if (rc)
            return rc;
    }
    for (unsigned i = 0; i < desc->n; i++) {
        if (desc->fields[i].since <= version && !(seen & BIT(i)))
            return err_set(e, EINVAL, "the saved state of %s has no field %s", desc->name, desc->fields[i].name);
    }
    return 0;
}
