/* A map of translated code for perf: /tmp/perf-PID.map names each block by its guest address. */
#pragma once

#include "base/err.h"
#include "base/types.h"

struct block;
struct perf_map;

/*
 * Makes the file. perf reads it when it reports, and takes it only from its own user or root. Set-up; NULL with *e filled on failure. What a
 * flushed cache held stays in the file beside what came after.
 */
struct perf_map *perf_map_new(struct err *e);
/* Writes what is still to be written. The file stays: it is read after this process has ended. NULL is nothing. */
void perf_map_free(struct perf_map *);

/* size bytes of code at code (executable addresses) by a name. */
void perf_map_add(struct perf_map *, const void *code, size_t size, const char *name);
/*
 * A block that was translated at guest address rip: "guest:k64:ffffffff81000000", k for CPL 0 and u for CPL 3. Vectors are parked. By the
 * thread that translates, one at a time.
 */
void perf_map_add_block(struct perf_map *, const struct block *, uint64_t rip);
