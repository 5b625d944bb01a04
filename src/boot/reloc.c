/* Finds, checks and applies the kernel's relocation table: what its own decompressor does for KASLR. */
#include "boot/reloc.h"

#include <string.h>

#define KERNEL_MAP_BASE 0xffffffff80000000ULL /* __START_KERNEL_map: virtual = physical as linked + this */
#define KERNEL_WINDOW GIB(1)                  /* KERNEL_IMAGE_SIZE with CONFIG_RANDOMIZE_BASE, which the table implies */
#define MAX_GROUPS 3

static int32_t word_at(const struct elf_image *elf, size_t at)
{
    int32_t word;

    memcpy(&word, elf->data + at, sizeof(word));
    return word;
}

/* Where in the payload the len bytes stand that are linked at this virtual address; SIZE_MAX when nowhere. */
static size_t offset_of(const struct elf_image *elf, int32_t address, unsigned len)
{
    uint64_t paddr = (uint64_t)(int64_t)address - KERNEL_MAP_BASE;

    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *s = &elf->seg[i];

        if (paddr >= s->paddr && paddr - s->paddr < s->file_len)
            return s->file_len - (paddr - s->paddr) >= len ? s->off + (paddr - s->paddr) : SIZE_MAX;
    }
    return SIZE_MAX;
}

static bool group_fits(const struct elf_image *elf, size_t at, size_t count, unsigned len)
{
    for (size_t i = 0; i < count; i++)
        if (offset_of(elf, word_at(elf, at + i * 4), len) == SIZE_MAX)
            return false;
    return true;
}

/*
 * The table is appended to the ELF file by the kernel's build: a zero and the 64-bit addresses, a zero and the 32-bit ones to subtract
 * from (per-CPU offsets; gone with Linux 6.15), a zero and the 32-bit ones to add to. No entry is 0, and the file ends with the table.
 */
bool reloc_find(struct reloc_table *t, const struct elf_image *elf)
{
    size_t start[MAX_GROUPS] = {0}, count[MAX_GROUPS] = {0}, at = elf->file_end;
    unsigned groups = 0;

    memset(t, 0, sizeof(*t));
    if (!elf->is64 || at >= elf->size || (elf->size - at) % 4 || word_at(elf, at))
        return false;
    for (; at < elf->size; at += 4) {
        if (word_at(elf, at)) {
            count[groups - 1]++;
            continue;
        }
        if (groups == MAX_GROUPS)
            return false;
        start[groups] = at + 4;
        count[groups++] = 0;
    }
    if (groups < 2)
        return false;
    t->abs64 = start[0];
    t->abs64_count = count[0];
    t->abs32 = start[groups - 1];
    t->abs32_count = count[groups - 1];
    if (groups == 3) {
        t->inverse32 = start[1];
        t->inverse32_count = count[1];
    }
    return t->abs32_count && group_fits(elf, t->abs64, t->abs64_count, 8) && group_fits(elf, t->inverse32, t->inverse32_count, 4) &&
           group_fits(elf, t->abs32, t->abs32_count, 4);
}

static void add32(const struct elf_image *elf, uint8_t *data, size_t at, size_t count, uint32_t delta)
{
    for (size_t i = 0; i < count; i++) {
        uint8_t *p = data + offset_of(elf, word_at(elf, at + i * 4), 4);
        uint32_t value;

        memcpy(&value, p, sizeof(value));
        value += delta;
        memcpy(p, &value, sizeof(value));
    }
}

void reloc_apply(const struct reloc_table *t, const struct elf_image *elf, uint8_t *data, uint64_t delta)
{
    for (size_t i = 0; i < t->abs64_count; i++) {
        uint8_t *p = data + offset_of(elf, word_at(elf, t->abs64 + i * 4), 8);
        uint64_t value;

        memcpy(&value, p, sizeof(value));
        value += delta;
        memcpy(p, &value, sizeof(value));
    }
    add32(elf, data, t->inverse32, t->inverse32_count, -(uint32_t)delta);
    add32(elf, data, t->abs32, t->abs32_count, (uint32_t)delta);
}

uint64_t reloc_pick(uint64_t random, uint64_t low, uint64_t size, uint64_t align)
{
    if (low >= KERNEL_WINDOW || size > KERNEL_WINDOW - low)
        return 0;
    return random % ((KERNEL_WINDOW - low - size) / align + 1) * align;
}

bool cmdline_has(const char *cmdline, const char *word)
{
    size_t len = strlen(word);

    for (const char *p = cmdline; (p = strstr(p, word)); p += len)
        if ((p == cmdline || p[-1] == ' ') && (p[len] == ' ' || !p[len]))
            return true;
    return false;
}
