/* Reads ELF images with every header checked, and loads their segments (System V gABI ch. 4 and 5). */
#include "boot/elf.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#include "boot/layout.h"
#include "boot/ram.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18 /* Xen public/elfnote.h */

/* The fields that both classes have, widened. */
struct elf_header {
    uint16_t type, machine, phentsize, phnum, shentsize, shnum;
    uint64_t entry, phoff, shoff;
};

struct elf_phdr {
    uint32_t type;
    uint64_t off, vaddr, paddr, filesz, memsz, align;
};

bool elf_recognize(const void *data, size_t size)
{
    return size >= SELFMAG && !memcmp(data, ELFMAG, SELFMAG);
}

/* [off, off + len) inside size bytes, without overflow. */
static bool in_file(uint64_t off, uint64_t len, size_t size)
{
    return off <= size && len <= size - off;
}

static int cut_short(const struct elf_image *elf, const char *part, struct err *e)
{
    return err_set(e, EINVAL, "%s is cut short: its %s lies beyond the end of the file (%zu bytes); copy or unpack it again", elf->name,
                   part, elf->size);
}

#define WIDEN_HEADER(h, raw)                                                                                                               \
    (*(h) = (struct elf_header){.type = (raw).e_type,                                                                                      \
                                .machine = (raw).e_machine,                                                                                \
                                .phentsize = (raw).e_phentsize,                                                                            \
                                .phnum = (raw).e_phnum,                                                                                    \
                                .shentsize = (raw).e_shentsize,                                                                            \
                                .shnum = (raw).e_shnum,                                                                                    \
                                .entry = (raw).e_entry,                                                                                    \
                                .phoff = (raw).e_phoff,                                                                                    \
                                .shoff = (raw).e_shoff})

#define WIDEN_PHDR(p, raw)                                                                                                                 \
    (*(p) = (struct elf_phdr){.type = (raw).p_type,                                                                                        \
                              .off = (raw).p_offset,                                                                                       \
                              .vaddr = (raw).p_vaddr,                                                                                      \
                              .paddr = (raw).p_paddr,                                                                                      \
                              .filesz = (raw).p_filesz,                                                                                    \
                              .memsz = (raw).p_memsz,                                                                                      \
                              .align = (raw).p_align})

static int read_header(struct elf_image *elf, struct elf_header *h, struct err *e)
{
    uint8_t ident[EI_NIDENT];

    if (elf->size < sizeof(ident))
        return cut_short(elf, "ELF header", e);
    memcpy(ident, elf->data, sizeof(ident));
    if (ident[EI_DATA] != ELFDATA2LSB || (ident[EI_CLASS] != ELFCLASS64 && ident[EI_CLASS] != ELFCLASS32))
        return err_set(e, EINVAL, "%s is an ELF file for another kind of processor; umbra boots x86-64 and i386 kernels", elf->name);
    elf->is64 = ident[EI_CLASS] == ELFCLASS64;
    if (elf->size < (elf->is64 ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr)))
        return cut_short(elf, "ELF header", e);
    if (elf->is64) {
        Elf64_Ehdr raw;

        memcpy(&raw, elf->data, sizeof(raw));
        WIDEN_HEADER(h, raw);
    } else {
        Elf32_Ehdr raw;

        memcpy(&raw, elf->data, sizeof(raw));
        WIDEN_HEADER(h, raw);
    }
    if (h->machine != (elf->is64 ? EM_X86_64 : EM_386))
        return err_set(e, EINVAL, "%s is an ELF file for another kind of processor (machine %u); umbra boots x86-64 and i386 kernels",
                       elf->name, h->machine);
    if (h->type == ET_REL)
        return err_set(e, EINVAL, "%s is an object file or a kernel module, not a linked kernel", elf->name);
    if (h->type != ET_EXEC && h->type != ET_DYN)
        return err_set(e, EINVAL, "%s is an ELF file of type %u, not a linked kernel", elf->name, h->type);
    if (h->phentsize != (elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)) || !h->phnum)
        return err_set(e, EINVAL, "%s has no program headers, so it does not say what to load", elf->name);
    if (!in_file(h->phoff, (uint64_t)h->phentsize * h->phnum, elf->size))
        return cut_short(elf, "table of program headers", e);
    return 0;
}

static void read_phdr(const struct elf_image *elf, const struct elf_header *h, unsigned i, struct elf_phdr *p)
{
    const uint8_t *at = elf->data + h->phoff + (size_t)i * h->phentsize;

    if (elf->is64) {
        Elf64_Phdr raw;

        memcpy(&raw, at, sizeof(raw));
        WIDEN_PHDR(p, raw);
    } else {
        Elf32_Phdr raw;

        memcpy(&raw, at, sizeof(raw));
        WIDEN_PHDR(p, raw);
    }
}

static int add_segment(struct elf_image *elf, const struct elf_phdr *p, struct err *e)
{
    if (!p->memsz)
        return 0;
    if (elf->count == ELF_MAX_SEGMENTS)
        return err_set(e, EINVAL, "%s has more than %u segments to load", elf->name, ELF_MAX_SEGMENTS);
    if (p->filesz > p->memsz || p->paddr + p->memsz < p->paddr)
        return err_set(e, EINVAL, "%s is damaged: segment %u has impossible sizes", elf->name, elf->count);
    if (!in_file(p->off, p->filesz, elf->size))
        return cut_short(elf, "segment to load", e);
    elf->seg[elf->count++] = (struct elf_segment){
        .off = p->off, .file_len = p->filesz, .vaddr = p->vaddr, .paddr = p->paddr, .mem_len = p->memsz};
    elf->low = MIN(elf->low, p->paddr);
    elf->high = MAX(elf->high, p->paddr + p->memsz);
    elf->file_end = MAX(elf->file_end, p->off + p->filesz);
    return 0;
}

/* Notes are padded to 4 bytes, or to 8 when the segment says so (GNU properties). */
static void read_notes(struct elf_image *elf, const struct elf_phdr *p)
{
    uint64_t pad = p->align == 8 ? 8 : 4;
    uint64_t at = p->off, end = p->off + p->filesz;

    while (end - at >= sizeof(Elf32_Nhdr)) { /* the note header is the same in both classes */
        Elf32_Nhdr note;
        uint64_t name, desc, next;

        memcpy(&note, elf->data + at, sizeof(note));
        name = at + sizeof(note);
        desc = name + ALIGN_UP((uint64_t)note.n_namesz, pad);
        next = desc + ALIGN_UP((uint64_t)note.n_descsz, pad);
        if (desc > end || note.n_descsz > end - desc)
            return;
        if (note.n_type == XEN_ELFNOTE_PHYS32_ENTRY && note.n_namesz == 4 && !memcmp(elf->data + name, "Xen", 4) &&
            (note.n_descsz == 4 || note.n_descsz == 8)) {
            elf->pvh_entry = 0;
            memcpy(&elf->pvh_entry, elf->data + desc, note.n_descsz);
            elf->has_pvh = true;
        }
        if (next > end)
            return;
        at = next;
    }
}

static bool loaded_at(const struct elf_image *elf, uint64_t paddr)
{
    for (unsigned i = 0; i < elf->count; i++)
        if (paddr >= elf->seg[i].paddr && paddr - elf->seg[i].paddr < elf->seg[i].mem_len)
            return true;
    return false;
}

/* Kernels give a physical entry, programs a virtual one: take it for what it can be. */
static int resolve_entry(struct elf_image *elf, uint64_t entry, struct err *e)
{
    elf->entry = entry;
    if (loaded_at(elf, entry))
        return 0;
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *s = &elf->seg[i];

        if (entry >= s->vaddr && entry - s->vaddr < s->mem_len) {
            elf->entry = s->paddr + (entry - s->vaddr);
            return 0;
        }
    }
    return err_set(e, EINVAL, "%s is damaged: its entry point 0x%llx lies in none of its segments", elf->name, (unsigned long long)entry);
}

int elf_parse(struct elf_image *elf, const void *data, size_t size, const char *name, struct err *e)
{
    struct elf_header h;
    int ret;

    *elf = (struct elf_image){.data = data, .size = size, .name = name, .low = UINT64_MAX};
    ret = read_header(elf, &h, e);
    if (ret)
        return ret;
    elf->file_end = h.phoff + (uint64_t)h.phentsize * h.phnum;
    if (in_file(h.shoff, (uint64_t)h.shentsize * h.shnum, size))
        elf->file_end = MAX(elf->file_end, h.shoff + (uint64_t)h.shentsize * h.shnum);

    for (unsigned i = 0; i < h.phnum; i++) {
        struct elf_phdr p;

        read_phdr(elf, &h, i, &p);
        if (p.type == PT_LOAD) {
            ret = add_segment(elf, &p, e);
            if (ret)
                return ret;
        } else if (p.type == PT_NOTE && in_file(p.off, p.filesz, size)) {
            read_notes(elf, &p);
        }
    }
    if (!elf->count)
        return err_set(e, EINVAL, "%s has no segment to load", name);
    if (elf->has_pvh && (elf->pvh_entry > UINT32_MAX || !loaded_at(elf, elf->pvh_entry)))
        return err_set(e, EINVAL, "%s is damaged: its PVH entry 0x%llx lies in none of its segments", name,
                       (unsigned long long)elf->pvh_entry);
    return resolve_entry(elf, h.entry, e);
}

int elf_fits(const struct elf_image *elf, const struct mem *mem, struct err *e)
{
    return ram_holds_kernel(mem, elf->low, elf->high - elf->low, elf->name, e);
}

int elf_place(const struct elf_image *elf, struct mem *mem, struct err *e)
{
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *s = &elf->seg[i];
        int ret = ram_write(mem, s->paddr, elf->data + s->off, s->file_len, elf->name, e);

        if (!ret)
            ret = ram_zero(mem, s->paddr + s->file_len, s->mem_len - s->file_len, elf->name, e);
        if (ret)
            return ret;
    }
    return 0;
}
