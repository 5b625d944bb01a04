/* Linux's bzImage: the setup header, and the compressed vmlinux behind it. */
#pragma once

#include <asm/bootparam.h>

#include "boot/file.h"

struct bzimage {
    struct setup_header header; /* what the file has of it; the rest is 0 */
    const uint8_t *payload;     /* in the file: the compressed vmlinux, which ends with its unpacked size */
    size_t payload_len;
    size_t vmlinux_len;
};

bool bzimage_recognize(const void *data, size_t size);

/* Reads and checks the header and finds the payload. 0 or -errno with a sentence. */
int bzimage_parse(struct bzimage *, const struct boot_file *, struct err *);
