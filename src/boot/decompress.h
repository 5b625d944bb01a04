/* Unpacks kernel payloads: LZ4 in its legacy frame, zstd, gzip, xz. */
#pragma once

#include "base/err.h"
#include "base/types.h"

/* What a compressed stream starts with, or NULL. supported: decompress() can unpack it. */
const char *decompress_name(const void *data, size_t size, bool *supported);

/*
 * Unpacks exactly out_len bytes into out. The stream may be followed by a 4-byte size, as the kernel's build appends it. Never
 * writes beyond out + out_len, whatever the data. 0, -ENOMEM, or -EINVAL with the reason in why (a clause, not a sentence).
 */
int decompress(const void *data, size_t size, void *out, size_t out_len, const char **why);
