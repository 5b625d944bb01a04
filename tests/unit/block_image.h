/* Files to be disks in tests: a directory of their own that goes with the test. */
#pragma once

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/types.h"

static char image_dir[64];

static inline void image_dir_make(void)
{
    snprintf(image_dir, sizeof(image_dir), "%s", "/tmp/umbra-disk-XXXXXX");
    assert_non_null(mkdtemp(image_dir));
    assert_int_equal(chmod(image_dir, 0755), 0);
}

static inline void image_dir_remove(void)
{
    char command[128];

    snprintf(command, sizeof(command), "rm -rf '%s'", image_dir);
    assert_int_equal(system(command), 0); // NOLINT(cert-env33-c): a name that we made
}

/* The path of a file in the directory; valid until the fourth call from here. */
static inline const char *image_path(const char *name)
{
    static char paths[4][128];
    static unsigned next;
    char *path = paths[next++ % 4];

    snprintf(path, sizeof(paths[0]), "%s/%s", image_dir, name);
    return path;
}

/* A sparse file of that size. */
static inline const char *image_make(const char *name, uint64_t size)
{
    const char *path = image_path(name);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    close(fd);
    return path;
}

static inline void image_write(const char *path, uint64_t offset, const void *bytes, size_t len)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, len, (off_t)offset), len);
    close(fd);
}

static inline void image_read(const char *path, uint64_t offset, void *bytes, size_t len)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, bytes, len, (off_t)offset), len);
    close(fd);
}
