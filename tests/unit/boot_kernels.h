/* Kernels made for the tests of src/boot: ELF images, relocation tables, compressed payloads, bzImages. */
#pragma once

#include <asm/bootparam.h>
#include <elf.h>
#include <lz4.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "boot/boot.h"
#include "boot/layout.h"
#include "mem/mem.h"

#define FAKE_KERNEL_MAP 0xffffffff80000000ULL
#define FAKE_BANNER "Linux version 0.0 (test)"
#define FAKE_MULTIBOOT_AT 0x300
#define FAKE_NOTE_AT 0x200
#define FAKE_DATA_AT 0x400

/* For what cannot fail but for a mistake in here; fuzzers, which have no cmocka, use this file as well. */
static inline void fake_check(bool ok)
{
    if (!ok)
        abort();
}

struct fake_bytes {
    uint8_t *data;
    size_t len;
};

struct fake_segment {
    uint64_t vaddr, paddr;
    size_t file_len, mem_len;
};

struct fake_elf {
    bool is64, linux_banner, multiboot;
    uint64_t entry;
    uint32_t pvh_entry; /* 0 = no note */
    uint32_t multiboot_flags;
    unsigned count;
    struct fake_segment seg[4];
};

/* Byte i of a segment's file part. */
static inline uint8_t fake_byte(unsigned seg, size_t i)
{
    return (uint8_t)(i * 7 + (i >> 8) + seg * 31 + 1);
}

static inline struct fake_bytes fake_alloc(size_t len)
{
    struct fake_bytes b = {.data = calloc(1, len ? len : 1), .len = len};

    fake_check(b.data != NULL);
    return b;
}

/* A copy of exactly the first len bytes, so that a sanitizer sees a read beyond them. */
static inline struct fake_bytes fake_cut(struct fake_bytes whole, size_t len)
{
    struct fake_bytes b = fake_alloc(len);

    memcpy(b.data, whole.data, len);
    return b;
}

static inline void fake_put32(struct fake_bytes b, size_t at, uint32_t value)
{
    fake_check(at + sizeof(value) <= b.len);
    memcpy(b.data + at, &value, sizeof(value));
}

static inline void fake_phdr(struct fake_bytes b, bool is64, unsigned i, uint32_t type, uint64_t off, const struct fake_segment *s)
{
    if (is64) {
        Elf64_Phdr p = {.p_type = type,
                        .p_offset = off,
                        .p_vaddr = s->vaddr,
                        .p_paddr = s->paddr,
                        .p_filesz = s->file_len,
                        .p_memsz = s->mem_len,
                        .p_align = 4};
        memcpy(b.data + sizeof(Elf64_Ehdr) + i * sizeof(p), &p, sizeof(p));
    } else {
        Elf32_Phdr p = {.p_type = type,
                        .p_offset = (uint32_t)off,
                        .p_vaddr = (uint32_t)s->vaddr,
                        .p_paddr = (uint32_t)s->paddr,
                        .p_filesz = (uint32_t)s->file_len,
                        .p_memsz = (uint32_t)s->mem_len,
                        .p_align = 4};
        memcpy(b.data + sizeof(Elf32_Ehdr) + i * sizeof(p), &p, sizeof(p));
    }
}

static inline void fake_ehdr(struct fake_bytes b, const struct fake_elf *f, unsigned phnum)
{
    if (f->is64) {
        Elf64_Ehdr h = {.e_type = ET_EXEC,
                        .e_machine = EM_X86_64,
                        .e_version = 1,
                        .e_entry = f->entry,
                        .e_phoff = sizeof(h),
                        .e_ehsize = sizeof(h),
                        .e_phentsize = sizeof(Elf64_Phdr),
                        .e_phnum = (uint16_t)phnum};
        memcpy(h.e_ident, ELFMAG, SELFMAG);
        h.e_ident[EI_CLASS] = ELFCLASS64;
        h.e_ident[EI_DATA] = ELFDATA2LSB;
        memcpy(b.data, &h, sizeof(h));
    } else {
        Elf32_Ehdr h = {.e_type = ET_EXEC,
                        .e_machine = EM_386,
                        .e_version = 1,
                        .e_entry = (uint32_t)f->entry,
                        .e_phoff = sizeof(h),
                        .e_ehsize = sizeof(h),
                        .e_phentsize = sizeof(Elf32_Phdr),
                        .e_phnum = (uint16_t)phnum};
        memcpy(h.e_ident, ELFMAG, SELFMAG);
        h.e_ident[EI_CLASS] = ELFCLASS32;
        h.e_ident[EI_DATA] = ELFDATA2LSB;
        memcpy(b.data, &h, sizeof(h));
    }
}

/* The ELF file, which ends with the last segment's last byte. */
static inline struct fake_bytes fake_elf(const struct fake_elf *f)
{
    const uint32_t note[] = {4, 4, 18, 0x006e6558 /* "Xen" */, f->pvh_entry};
    struct fake_segment note_segment = {.file_len = sizeof(note), .mem_len = sizeof(note)};
    size_t at = FAKE_DATA_AT, len = FAKE_DATA_AT;
    struct fake_bytes b;

    for (unsigned i = 0; i < f->count; i++)
        len += f->seg[i].file_len;
    b = fake_alloc(len);
    fake_ehdr(b, f, f->count + !!f->pvh_entry);
    for (unsigned i = 0; i < f->count; i++) {
        fake_phdr(b, f->is64, i, PT_LOAD, at, &f->seg[i]);
        for (size_t j = 0; j < f->seg[i].file_len; j++)
            b.data[at + j] = fake_byte(i, j);
        at += f->seg[i].file_len;
    }
    if (f->linux_banner)
        memcpy(b.data + FAKE_DATA_AT + 0x10, FAKE_BANNER, sizeof(FAKE_BANNER));
    if (f->pvh_entry) {
        fake_phdr(b, f->is64, f->count, PT_NOTE, FAKE_NOTE_AT, &note_segment);
        memcpy(b.data + FAKE_NOTE_AT, note, sizeof(note));
    }
    if (f->multiboot) {
        fake_put32(b, FAKE_MULTIBOOT_AT, 0x1badb002);
        fake_put32(b, FAKE_MULTIBOOT_AT + 4, f->multiboot_flags);
        fake_put32(b, FAKE_MULTIBOOT_AT + 8, -(0x1badb002u + f->multiboot_flags));
    }
    return b;
}

/* A small vmlinux at 16 MiB: text and data, and zeroes behind the data. */
static inline struct fake_elf fake_vmlinux_spec(void)
{
    return (struct fake_elf){
        .is64 = true,
        .linux_banner = true,
        .entry = MIB(16) + 0x40,
        .count = 2,
        .seg = {{FAKE_KERNEL_MAP + MIB(16), MIB(16), 0x3000, 0x3000}, {FAKE_KERNEL_MAP + MIB(18), MIB(18), 0x800, 0x5000}}};
}

/* Where the relocations of fake_vmlinux() point, within segment 0; the words there hold the link-time addresses below. */
#define FAKE_RELOC64 0x100
#define FAKE_RELOC32 0x200
#define FAKE_RELOC_INVERSE 0x300
#define FAKE_RELOC_VALUE (FAKE_KERNEL_MAP + MIB(18) + 0x123)

/* fake_vmlinux_spec() with the relocation table that the kernel's build appends. */
static inline struct fake_bytes fake_vmlinux(void)
{
    struct fake_elf spec = fake_vmlinux_spec();
    struct fake_bytes plain = fake_elf(&spec), b = fake_alloc(plain.len + 6 * 4);
    const uint32_t base = (uint32_t)(FAKE_KERNEL_MAP + MIB(16));
    const uint32_t table[] = {0, base + FAKE_RELOC64, 0, base + FAKE_RELOC_INVERSE, 0, base + FAKE_RELOC32};
    const uint64_t value = FAKE_RELOC_VALUE;

    memcpy(b.data, plain.data, plain.len);
    memcpy(b.data + FAKE_DATA_AT + FAKE_RELOC64, &value, 8);
    memcpy(b.data + FAKE_DATA_AT + FAKE_RELOC32, &value, 4);
    memcpy(b.data + FAKE_DATA_AT + FAKE_RELOC_INVERSE, &value, 4);
    memcpy(b.data + plain.len, table, sizeof(table));
    free(plain.data);
    return b;
}

enum fake_codec { FAKE_LZ4, FAKE_ZSTD, FAKE_GZIP, FAKE_XZ, FAKE_CODECS };

static inline size_t fake_lz4(struct fake_bytes in, struct fake_bytes out)
{
    size_t at = 4;

    fake_put32(out, 0, 0x184c2102);
    for (size_t done = 0; done < in.len; done += MIN(in.len - done, MIB(8))) {
        int len = LZ4_compress_default((char *)in.data + done, (char *)out.data + at + 4, (int)MIN(in.len - done, MIB(8)),
                                       (int)(out.len - at - 4));

        fake_check(len > 0);
        fake_put32(out, at, (uint32_t)len);
        at += 4 + (size_t)len;
    }
    return at;
}

static inline size_t fake_gzip(struct fake_bytes in, struct fake_bytes out)
{
    z_stream z = {.next_in = in.data, .avail_in = (uInt)in.len, .next_out = out.data, .avail_out = (uInt)out.len};

    fake_check(deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    fake_check(deflate(&z, Z_FINISH) == Z_STREAM_END);
    deflateEnd(&z);
    return z.total_out;
}

/* The stream alone; gzip's ends with the unpacked size by itself. */
static inline struct fake_bytes fake_compress(enum fake_codec codec, struct fake_bytes in)
{
    struct fake_bytes out = fake_alloc(in.len + in.len / 8 + 4096);
    size_t len = 0;

    switch (codec) {
    case FAKE_LZ4: len = fake_lz4(in, out); break;
    case FAKE_ZSTD:
        len = ZSTD_compress(out.data, out.len, in.data, in.len, 3);
        fake_check(!ZSTD_isError(len));
        break;
    case FAKE_GZIP: len = fake_gzip(in, out); break;
    default: fake_check(lzma_easy_buffer_encode(1, LZMA_CHECK_CRC32, NULL, in.data, in.len, out.data, &len, out.len) == LZMA_OK);
    }
    out.len = len;
    return out;
}

#define FAKE_SETUP_SECTS 2

/* A bzImage of protocol 2.15, which ends with its payload. */
static inline struct fake_bytes fake_bzimage(enum fake_codec codec, struct fake_bytes vmlinux)
{
    struct fake_bytes stream = fake_compress(codec, vmlinux);
    size_t tail = codec == FAKE_GZIP ? 0 : 4, setup = (FAKE_SETUP_SECTS + 1) * 512, off = 0x40;
    struct fake_bytes b = fake_alloc(setup + off + stream.len + tail);
    struct setup_header h = {
        .setup_sects = FAKE_SETUP_SECTS,
        .boot_flag = 0xaa55,
        .jump = (uint16_t)(0xeb | (0x1f1 + sizeof(h) - 0x202) << 8),
        .header = 0x53726448,
        .version = 0x20f,
        .loadflags = LOADED_HIGH,
        .initrd_addr_max = 0x7fffffff,
        .kernel_alignment = (uint32_t)MIB(2),
        .relocatable_kernel = 1,
        .xloadflags = XLF_KERNEL_64,
        .cmdline_size = 2047,
        .payload_offset = (uint32_t)off,
        .payload_length = (uint32_t)(stream.len + tail),
        .pref_address = MIB(16),
        .init_size = (uint32_t)MIB(4),
    };

    memcpy(b.data + 0x1f1, &h, sizeof(h));
    memcpy(b.data + setup + off, stream.data, stream.len);
    if (tail)
        fake_put32(b, b.len - 4, (uint32_t)vmlinux.len);
    free(stream.data);
    return b;
}

/* Whether guest memory holds the file part of segment i as fake_elf() made it, and zeroes behind it. [from, to) may differ. */
static inline bool fake_segment_loaded(const struct mem *mem, const struct fake_elf *f, unsigned i, size_t from, size_t to)
{
    const uint8_t *p = mem_hva(mem, f->seg[i].paddr, f->seg[i].mem_len);

    for (size_t j = 0; p && j < f->seg[i].mem_len; j++)
        if (p[j] != (j < f->seg[i].file_len ? fake_byte(i, j) : 0) && (j < from || j >= to))
            return false;
    return p != NULL;
}
