/* Saved state: versioned tables of the fields of a plain struct, and the tagged byte buffer that they are written to. */
#pragma once

#include "base/err.h"
#include "base/types.h"

/* count elements of size 1, 2, 4 or 8 bytes, stored little-endian. */
struct state_field {
    const char *name; /* the key in the buffer; never reused for another meaning */
    size_t offset;
    uint16_t size;
    uint16_t count;
    uint16_t since; /* version of the description that brought the field */
};

struct state_desc {
    const char *name;
    uint16_t version; /* one up with every added field */
    const struct state_field *fields;
    unsigned n;
};

/* Rows for a member of struct type that is one integer, or an array of integers; both were there in version 1. */
#define STATE_FIELD(type, member)                                                                                                          \
    {                                                                                                                                      \
#member, offsetof(type, member), sizeof(((type *)0)->member), 1, 1                                                                 \
    }
#define STATE_ARRAY(type, member)                                                                                                          \
    {                                                                                                                                      \
#member, offsetof(type, member), sizeof(((type *)0)->member[0]), ARRAY_SIZE(((type *)0)->member), 1                                \
    }

/* Grows as needed. After the first failure every further write does nothing, and error tells it. */
struct state_writer {
    uint8_t *data;
    size_t len, cap;
    int error; /* 0 or -ENOMEM */
};

struct state_reader {
    const uint8_t *data;
    size_t len, pos;
};

void state_writer_init(struct state_writer *);
void state_writer_fini(struct state_writer *);
void state_reader_init(struct state_reader *, const void *data, size_t len);

/* Appends one section. 0 or -ENOMEM. */
int state_save(const struct state_desc *, const void *object, struct state_writer *);

/*
 * Reads the section at the reader's position into object, whose fields already hold their reset values: a field that is younger than the
 * saved version keeps its own. -EINVAL with one sentence when the section is of another name, a newer version, truncated or malformed;
 * object may then be half written, so load into a copy. The values themselves are the caller's to check.
 */
int state_load(const struct state_desc *, void *object, struct state_reader *, struct err *);
