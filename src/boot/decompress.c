/* Unpacks kernel payloads with the libraries of each format, bounded by the caller's buffer. */
#include "boot/decompress.h"

#include <errno.h>
#include <lz4.h>
#include <lzma.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#define LZ4_BLOCK_MAX MIB(8) /* LZ4 frame format, "Legacy frame": every block but the last unpacks to this */
#define LZ4_LEGACY_MAGIC 0x184c2102u
#define XZ_MEMORY_MAX MIB(256) /* for the dictionary; kernels use up to 128 MiB */

/* LZ4 frame format, "Legacy frame": magic, then blocks of a 32-bit packed size and their data, to the end of the file. */
static int unpack_lz4(const uint8_t *in, size_t len, uint8_t *out, size_t out_len, const char **why)
{
    size_t at = 4, done = 0;

    while (done < out_len) {
        uint32_t packed;
        int got;

        if (len - at < sizeof(packed)) {
            *why = "the LZ4 stream ends early";
            return -EINVAL;
        }
        memcpy(&packed, in + at, sizeof(packed));
        at += sizeof(packed);
        if (packed == LZ4_LEGACY_MAGIC) /* another frame follows */
            continue;
        if (packed > len - at || packed > (uint32_t)LZ4_COMPRESSBOUND(LZ4_BLOCK_MAX)) {
            *why = "the LZ4 stream ends early";
            return -EINVAL;
        }
        got = LZ4_decompress_safe((const char *)in + at, (char *)out + done, (int)packed, (int)MIN(out_len - done, LZ4_BLOCK_MAX));
        if (got <= 0) {
            *why = "an LZ4 block is damaged or larger than announced";
            return -EINVAL;
        }
        at += packed;
        done += (size_t)got;
    }
    return 0;
}

static int unpack_zstd(const uint8_t *in, size_t len, uint8_t *out, size_t out_len, const char **why)
{
    size_t frame = ZSTD_findFrameCompressedSize(in, len), got;

    if (ZSTD_isError(frame)) {
        *why = "the zstd frame is damaged or ends early";
        return -EINVAL;
    }
    got = ZSTD_decompress(out, out_len, in, frame);
    if (ZSTD_isError(got)) {
        *why = ZSTD_getErrorName(got);
        return -EINVAL;
    }
    if (got != out_len) {
        *why = "it unpacks to fewer bytes than announced";
        return -EINVAL;
    }
    return 0;
}

static int unpack_gzip(const uint8_t *in, size_t len, uint8_t *out, size_t out_len, const char **why)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)in, .avail_in = (uInt)len, .next_out = out, .avail_out = (uInt)out_len};
    int ret = inflateInit2(&z, 16 + MAX_WBITS);

    if (ret != Z_OK)
        return -ENOMEM;
    ret = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    if (ret == Z_MEM_ERROR)
        return -ENOMEM;
    if (ret != Z_STREAM_END || z.avail_out) {
        *why = ret == Z_STREAM_END ? "it unpacks to fewer bytes than announced"
                                   : "the gzip stream is damaged, ends early or is larger than announced";
        return -EINVAL;
    }
    return 0;
}

static int unpack_xz(const uint8_t *in, size_t len, uint8_t *out, size_t out_len, const char **why)
{
    uint64_t memory = XZ_MEMORY_MAX;
    size_t in_at = 0, out_at = 0;
    lzma_ret ret = lzma_stream_buffer_decode(&memory, 0, NULL, in, &in_at, len, out, &out_at, out_len);

    if (ret == LZMA_MEM_ERROR)
        return -ENOMEM;
    if (ret != LZMA_OK || out_at != out_len) {
        *why = ret == LZMA_OK               ? "it unpacks to fewer bytes than announced"
               : ret == LZMA_MEMLIMIT_ERROR ? "the xz stream wants a dictionary of more than 256 MiB"
                                            : "the xz stream is damaged, ends early or is larger than announced";
        return -EINVAL;
    }
    return 0;
}

static const struct codec {
    const char *name;
    size_t magic_len;
    uint8_t magic[6];
    int (*unpack)(const uint8_t *in, size_t len, uint8_t *out, size_t out_len, const char **why);
} codecs[] = {
    {"LZ4", 4, {0x02, 0x21, 0x4c, 0x18}, unpack_lz4},
    {"zstd", 4, {0x28, 0xb5, 0x2f, 0xfd}, unpack_zstd},
    {"gzip", 3, {0x1f, 0x8b, 0x08}, unpack_gzip},
    {"xz", 6, {0xfd, '7', 'z', 'X', 'Z', 0}, unpack_xz},
    {"bzip2", 3, {'B', 'Z', 'h'}, NULL},
    {"LZMA", 3, {0x5d, 0, 0}, NULL},
    {"LZO", 4, {0x89, 'L', 'Z', 'O'}, NULL},
};

static const struct codec *find_codec(const void *data, size_t size)
{
    for (unsigned i = 0; i < ARRAY_SIZE(codecs); i++)
        if (size >= codecs[i].magic_len && !memcmp(data, codecs[i].magic, codecs[i].magic_len))
            return &codecs[i];
    return NULL;
}

const char *decompress_name(const void *data, size_t size, bool *supported)
{
    const struct codec *c = find_codec(data, size);

    *supported = c && c->unpack;
    return c ? c->name : NULL;
}

int decompress(const void *data, size_t size, void *out, size_t out_len, const char **why)
{
    const struct codec *c = find_codec(data, size);

    *why = "";
    if (!c || !c->unpack) {
        *why = "its compression is unknown";
        return -EINVAL;
    }
    if (size > INT32_MAX || out_len > INT32_MAX) {
        *why = "it is larger than 2 GiB";
        return -EINVAL;
    }
    return c->unpack(data, size, out, out_len, why);
}
