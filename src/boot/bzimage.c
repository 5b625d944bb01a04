/* Unpacks the vmlinux in a bzImage and has it entered by Linux's 64-bit boot protocol. */
#include "boot/bzimage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "boot/decompress.h"
#include "boot/linux64.h"
#include "boot/loader.h"

#define SECTOR 512
#define HEADER_AT 0x1f1       /* Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header" */
#define HEADER_END_BYTE 0x201 /* the distance from 0x202 to the header's end */
#define HEADER_MAGIC_AT 0x202
#define HEADER_MAGIC 0x53726448u /* "HdrS" */
#define BOOT_FLAG_AT 0x1fe
#define BOOT_FLAG 0xaa55
#define HEADER_MIN_END 0x250 /* through payload_length */

#define PROTOCOL_PAYLOAD 0x208 /* has payload_offset: Linux 2.6.26 */
#define PROTOCOL_XLOADFLAGS 0x20c

#define VMLINUX_MAX GIB(1)

static uint32_t le32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

bool bzimage_recognize(const void *data, size_t size)
{
    const uint8_t *p = data;

    return size >= HEADER_MAGIC_AT + 4 && (p[BOOT_FLAG_AT] | p[BOOT_FLAG_AT + 1] << 8) == BOOT_FLAG &&
           le32(p + HEADER_MAGIC_AT) == HEADER_MAGIC;
}

static int cut_short(const struct boot_file *f, struct err *e)
{
    return err_set(e, EINVAL, "kernel %s is cut short: its payload lies beyond the end of the file (%zu bytes); copy it again", f->name,
                   f->size);
}

static int find_payload(struct bzimage *bz, const struct boot_file *f, struct err *e)
{
    uint64_t at = (bz->header.setup_sects ? bz->header.setup_sects + 1 : 5) * SECTOR + (uint64_t)bz->header.payload_offset;
    const char *name;
    bool supported;

    if (at > f->size || bz->header.payload_length > f->size - at)
        return cut_short(f, e);
    if (bz->header.payload_length < sizeof(uint32_t))
        return err_set(e, EINVAL, "kernel %s is damaged: its header names no payload", f->name);
    bz->payload = f->data + at;
    bz->payload_len = bz->header.payload_length;
    bz->vmlinux_len = le32(bz->payload + bz->payload_len - sizeof(uint32_t));
    name = decompress_name(bz->payload, bz->payload_len, &supported);
    if (!name && !elf_recognize(bz->payload, bz->payload_len))
        return err_set(e, EINVAL, "kernel %s is damaged, or compressed in a way that umbra does not know; extract its vmlinux", f->name);
    if (name && !supported)
        return err_set(e, EINVAL, "kernel %s is compressed with %s, umbra unpacks LZ4, zstd, gzip and xz; extract its vmlinux", f->name,
                       name);
    if (name && (!bz->vmlinux_len || bz->vmlinux_len > VMLINUX_MAX))
        return err_set(e, EINVAL, "kernel %s is damaged: its payload would unpack to %zu bytes", f->name, bz->vmlinux_len);
    return 0;
}

int bzimage_parse(struct bzimage *bz, const struct boot_file *f, struct err *e)
{
    size_t end;

    memset(bz, 0, sizeof(*bz));
    if (f->size < HEADER_MIN_END)
        return cut_short(f, e);
    end = HEADER_MAGIC_AT + (size_t)f->data[HEADER_END_BYTE];
    memcpy(&bz->header, f->data + HEADER_AT, MIN(MIN(end, f->size) - HEADER_AT, sizeof(bz->header)));
    if (bz->header.version < PROTOCOL_PAYLOAD || end < HEADER_MIN_END)
        return err_set(e, EINVAL, "kernel %s is too old (boot protocol %u.%02u); umbra boots Linux 2.6.26 and later", f->name,
                       bz->header.version >> 8, bz->header.version & 0xff);
    if (bz->header.version >= PROTOCOL_XLOADFLAGS && !(bz->header.xloadflags & XLF_KERNEL_64))
        return err_set(e, EINVAL, "kernel %s is a 32-bit Linux; umbra boots 64-bit ones", f->name);
    return find_payload(bz, f, e);
}

/* The vmlinux in memory of our own, for the relocations change it. */
static int unpack(const struct bzimage *bz, const char *name, uint8_t **out, size_t *out_len, struct err *e)
{
    bool plain = elf_recognize(bz->payload, bz->payload_len); /* CONFIG_KERNEL_UNCOMPRESSED */
    size_t len = plain ? bz->payload_len : bz->vmlinux_len;
    uint8_t *data = malloc(len);
    const char *why = "";
    int ret = 0;

    if (!data)
        return err_set(e, ENOMEM, "no memory to unpack kernel %s (%zu MiB)", name, len >> 20);
    if (plain)
        memcpy(data, bz->payload, len);
    else
        ret = decompress(bz->payload, bz->payload_len, data, len, &why);
    if (ret) {
        free(data);
        return ret == -ENOMEM ? err_set(e, ENOMEM, "no memory to unpack kernel %s (%zu MiB)", name, len >> 20)
                              : err_set(e, -ret, "kernel %s cannot be unpacked: %s; copy it again", name, why);
    }
    *out = data;
    *out_len = len;
    return 0;
}

static int bzimage_place(const struct boot_image *img, const struct boot_job *job, struct cpu_state *bsp, struct err *e)
{
    struct elf_image elf;
    uint8_t *vmlinux = NULL;
    size_t len;
    int ret = unpack(&img->bzimage, img->kernel.name, &vmlinux, &len, e);

    if (ret)
        return ret;
    ret = elf_parse(&elf, vmlinux, len, img->kernel.name, e);
    if (!ret && !elf.is64)
        ret = err_set(e, EINVAL, "kernel %s is a 32-bit Linux; umbra boots 64-bit ones", img->kernel.name);
    if (!ret)
        ret = linux64_place(&elf, vmlinux, &img->bzimage.header, job, bsp, e);
    free(vmlinux);
    return ret;
}

const struct boot_protocol bzimage_protocol = {.name = "Linux 64-bit", .place = bzimage_place};
