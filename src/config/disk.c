/* --disk: a raw image or block device with how the guest sees it, and what no two of them may share. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/options.h"

static int set_serial(struct config_disk *disk, const struct config_item *item, struct err *why)
{
    int error = config_item_text(item, "a serial number", why);

    if (error)
        return error;
    if (strlen(item->value) > CONFIG_SERIAL_MAX)
        return err_set(why, EINVAL, "has a serial number of more than %d characters: '%.100s'", CONFIG_SERIAL_MAX, item->value);
    for (const char *p = item->value; *p; p++)
        if (*p <= ' ' || *p > '~')
            return err_set(why, EINVAL, "needs a serial number of plain ASCII characters without spaces");
    snprintf(disk->serial, sizeof(disk->serial), "%s", item->value);
    return 0;
}

static int set_block_size(struct config_disk *disk, const struct config_item *item, struct err *why)
{
    const char *value = item->value ? item->value : "";

    if (strcmp(value, "512") == 0)
        disk->block_size = 512;
    else if (strcmp(value, "4096") == 0 || strcmp(value, "4K") == 0)
        disk->block_size = 4096;
    else
        return err_set(why, EINVAL, "needs 512 or 4096 for 'block-size', not '%.100s'", value);
    return 0;
}

static int set_engine(struct config_disk *disk, const struct config_item *item, struct err *why)
{
    const char *value = item->value ? item->value : "";

    if (strcmp(value, "auto") == 0)
        disk->engine = DISK_ENGINE_AUTO;
    else if (strcmp(value, "io_uring") == 0)
        disk->engine = DISK_ENGINE_URING;
    else if (strcmp(value, "threads") == 0)
        disk->engine = DISK_ENGINE_THREADS;
    else
        return err_set(why, EINVAL, "needs auto, io_uring or threads for 'engine', not '%.100s'", value);
    return 0;
}

static int set_item(struct config_disk *disk, const struct config_item *item, const char **path, struct err *why)
{
    if (strcmp(item->key, "path") == 0) {
        *path = item->value;
        return config_item_text(item, "the name of a file", why);
    }
    if (strcmp(item->key, "ro") == 0)
        return config_item_switch(item, &disk->read_only, why);
    if (strcmp(item->key, "direct") == 0)
        return config_item_switch(item, &disk->direct, why);
    if (strcmp(item->key, "serial") == 0)
        return set_serial(disk, item, why);
    if (strcmp(item->key, "queues") == 0)
        return config_item_number(item, 1, CONFIG_QUEUES_MAX, &disk->queues, why);
    if (strcmp(item->key, "block-size") == 0)
        return set_block_size(disk, item, why);
    if (strcmp(item->key, "engine") == 0)
        return set_engine(disk, item, why);
    return err_set(why, EINVAL,
                   "has no setting '%.60s': there are ro, direct, serial=S, queues=N, block-size=512|4096 and engine=auto|io_uring|threads "
                   "(a comma in a file's name is written twice)",
                   item->key);
}

int config_add_disk(struct config *c, const struct config_items *items, struct err *why)
{
    struct config_disk disk = {.queues = 1};
    const char *path = NULL;
    int error = config_items_once(items, NULL, why);

    for (unsigned i = 0; i < items->count && !error; i++)
        error = set_item(&disk, &items->item[i], &path, why);
    if (error)
        return error;
    if (!path)
        return err_set(why, EINVAL, "needs the name of a file as 'path'");
    if (c->disk_count == CONFIG_DISKS_MAX)
        return err_set(why, EINVAL, "was given more than %d times: a machine has at most so many disks", CONFIG_DISKS_MAX);
    disk.path = strdup(path);
    if (!disk.path)
        return err_set(why, ENOMEM, "does not fit into memory");
    c->disks[c->disk_count++] = disk;
    return 0;
}

void config_clear_disks(struct config *c)
{
    while (c->disk_count > 0)
        free(c->disks[--c->disk_count].path);
}

/* The same name, or two names of one file. */
static bool same_file(const char *a, const char *b)
{
    struct stat x, y;

    if (strcmp(a, b) == 0)
        return true;
    if (stat(a, &x) != 0 || stat(b, &y) != 0)
        return false;
    if (S_ISBLK(x.st_mode) && S_ISBLK(y.st_mode))
        return x.st_rdev == y.st_rdev;
    return x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

int config_check_disks(const struct config *c, struct err *e)
{
    for (unsigned i = 0; i < c->disk_count; i++)
        for (unsigned j = 0; j < i; j++) {
            const struct config_disk *a = &c->disks[j], *b = &c->disks[i];

            if (a->read_only && b->read_only)
                continue;
            if (strcmp(a->path, b->path) == 0)
                return err_set(e, EINVAL, "the disk %.200s was given twice: a disk that is written to can be there only once", a->path);
            if (same_file(a->path, b->path))
                return err_set(e, EINVAL, "the disks %.150s and %.150s are the same: a disk that is written to can be there only once",
                               a->path, b->path);
        }
    return 0;
}
