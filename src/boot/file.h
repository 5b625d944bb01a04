/* The files that a VM boots from, as bytes in memory. */
#pragma once

#include "base/err.h"
#include "base/types.h"

#include <sys/types.h>
#include <time.h>

/*
 * A regular file is mapped, so that it costs page cache and no memory of ours; a pipe is read to its end. A mapped file must stay as
 * it is: boot_file_check() tells.
 */
struct boot_file {
    char *name; /* as the user gave it */
    const uint8_t *data;
    size_t size;
    int fd;     /* regular file, else -1 */
    bool owned; /* data came from malloc (a pipe) */
    struct timespec mtime;
};

/* what: "kernel" or "initrd", for the sentence. Refuses a missing, unreadable or empty file, a directory, more than max bytes. */
int boot_file_open(struct boot_file *, const char *what, const char *path, size_t max, struct err *);
/* Bytes that the caller keeps. */
int boot_file_borrow(struct boot_file *, const char *name, const void *data, size_t size, struct err *);
void boot_file_close(struct boot_file *);

/* -ESTALE when the file was written to or cut since it was opened. */
int boot_file_check(const struct boot_file *, const char *what, struct err *);
/* The bytes were copied: let the host have the pages back. */
void boot_file_release_pages(const struct boot_file *);
