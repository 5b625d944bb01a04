/* Statistics: engines and devices report named numbers; the writer makes a table or JSON of them. */
#pragma once

#include <stdio.h>

#include "base/err.h"
#include "base/types.h"

struct vm;
struct json_t;

/* Handed to a reporter; group and name are the keys in JSON. */
struct stats_out {
    void (*number)(struct stats_out *, const char *group, const char *name, uint64_t value);
    /* A count with the time that went into it. */
    void (*timed)(struct stats_out *, const char *group, const char *name, uint64_t count, uint64_t ns);
};

/* Somebody beside vCPUs and engine who counts. Embedded in the owner. */
struct stats_reporter {
    void (*report)(void *opaque, struct stats_out *);
    void *opaque;
    struct stats_reporter *next; /* the VM's */
};

/* From now on stats_write() asks it too, after those added before; until it is removed. On the thread that calls stats_write(), the loop's. */
void stats_add(struct vm *, struct stats_reporter *);
void stats_remove(struct vm *, struct stats_reporter *);

/*
 * Everything that the VM counted; "guest" of a vCPU's group is its VM entries with the time in the guest: a table, or one JSON object {"name", "seconds", GROUP: {NAME: number or {"count", "ns"}}}. While the vCPUs
 * stand, or as a rough look while they run. 0 or -errno (no memory, or the file could not be written). stats_json() makes the object, which is
 * the caller's.
 */
int stats_json(struct vm *, struct json_t **, struct err *);
int stats_write(struct vm *, FILE *, bool json, struct err *);
