/* A map of translated code for perf: /tmp/perf-PID.map names each block by its guest address. */
#include "engine/soft/perf_map.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/soft/cache.h"

struct perf_map {
    int fd;
    size_t used;
    char buffer[8192];
};

struct perf_map *perf_map_new(struct err *e)
{
    char path[64];
    struct perf_map *map = calloc(1, sizeof(*map));

    if (!map) {
        err_set(e, ENOMEM, "cannot allocate the map for perf");
        return NULL;
    }
    snprintf(path, sizeof(path), "/tmp/perf-%d.map", getpid());
    /* A process that had this number before may have left one. Never through a link that somebody put there. */
    if (unlink(path) != 0 && errno != ENOENT)
        goto failed;
    map->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (map->fd < 0)
        goto failed;
    return map;

failed:
    err_set(e, errno, "cannot make the map for perf, %s: %s; without \"perf\" in UMBRA_SOFT there is none", path, strerror(errno));
    free(map);
    return NULL;
}

/* A full disk costs names in a report, and nothing else. */
static void flush(struct perf_map *map)
{
    for (size_t done = 0; done < map->used;) {
        ssize_t n = write(map->fd, map->buffer + done, map->used - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    map->used = 0;
}

void perf_map_free(struct perf_map *map)
{
    if (!map)
        return;
    flush(map);
    close(map->fd);
    free(map);
}

void perf_map_add(struct perf_map *map, const void *code, size_t size, const char *name)
{
    int n;

    if (map->used + 128 > sizeof(map->buffer))
        flush(map);
    n = snprintf(map->buffer + map->used, 128, "%" PRIxPTR " %zx %s\n", (uintptr_t)code, size, name);
    if (n > 0 && n < 128)
        map->used += (size_t)n;
}

void perf_map_add_block(struct perf_map *map, const struct block *b, uint64_t rip)
{
    char name[48];

    snprintf(name, sizeof(name), "guest:%c%d:%016" PRIx64, b->mode & BLOCK_USER ? 'u' : 'k', b->mode & BLOCK_CODE32 ? 32 : 64, rip);
    perf_map_add(map, b->code, b->code_size, name);
    perf_map_add(map, b->cold, b->cold_size, name);
}
