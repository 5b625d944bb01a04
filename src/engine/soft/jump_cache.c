/* Jump caches: rip -> translated code, looked up inline by every jump that is not linked. */
#include <errno.h>
#include <sys/mman.h>

#include "engine/soft/cache.h"

#define FILLED_BYTES (JUMP_ENTRIES * sizeof(uint32_t))

/* A rip that belongs to another entry. */
static uint64_t empty_tag(uint32_t index)
{
    return index ? 0 : 2;
}

int jump_cache_init(struct jump_cache *jc, uint8_t *entries, struct err *e)
{
    void *filled = mmap(NULL, FILLED_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (filled == MAP_FAILED)
        return err_set(e, ENOMEM, "cannot reserve address space for a jump cache; is `ulimit -v` set?");
    *jc = (struct jump_cache){.entries = (struct jump_entry *)(void *)entries, .filled = filled};
    jc->entries[0].tag = empty_tag(0);
    return 0;
}

void jump_cache_fini(struct jump_cache *jc)
{
    if (jc->filled)
        munmap(jc->filled, FILLED_BYTES);
    *jc = (struct jump_cache){0};
}

static unsigned page_bit(gva_t gva)
{
    return (unsigned)((gva >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ULL >> 49);
}

void jump_cache_flush(struct jump_cache *jc)
{
    if (!jc->filled_count)
        return;
    for (unsigned i = 0; i < jc->filled_count; i++)
        jc->entries[jc->filled[i]].tag = empty_tag(jc->filled[i]);
    soft_zero_words(jc->pages, ARRAY_SIZE(jc->pages));
    jc->filled_count = 0;
    jc->has_local = false;
}

static void note_page(struct jump_cache *jc, gva_t gva)
{
    jc->pages[page_bit(gva) / 64] |= BIT(page_bit(gva) % 64);
}

void jump_cache_add(struct jump_cache *jc, uint64_t rip, const struct block *b, bool global)
{
    uint32_t i = jump_index(rip);
    struct jump_entry *entry = &jc->entries[i];

    if (jc->filled_count == JUMP_ENTRIES)
        jump_cache_flush(jc);
    if (entry->tag == empty_tag(i))
        jc->filled[jc->filled_count++] = i;
    entry->code = (uint64_t)(uintptr_t)b->dispatch;
    entry->tag = rip;
    note_page(jc, rip);
    if (block_crosses(b))
        note_page(jc, rip + PAGE_SIZE);
    jc->has_local |= !global;
}

void jump_flush_all(struct soft_cpu *cpu)
{
    for (unsigned i = 0; i < JUMP_CACHES; i++)
        jump_cache_flush(&cpu->jump[i]);
}

void jump_flush_nonglobal(struct soft_cpu *cpu)
{
    for (unsigned i = 0; i < JUMP_CACHES; i++)
        if (cpu->jump[i].has_local)
            jump_cache_flush(&cpu->jump[i]);
}

/* Most flushed pages hold data; the filter spares them the walk. */
void jump_flush_page(struct soft_cpu *cpu, gva_t gva)
{
    gva_t first = ALIGN_DOWN(gva, PAGE_SIZE) - INSN_MAX_LEN; /* instructions of the page before may run on into this one */
    unsigned bit = page_bit(gva);

    for (unsigned i = 0; i < JUMP_CACHES; i++) {
        struct jump_cache *jc = &cpu->jump[i];
        if (!(jc->pages[bit / 64] >> (bit % 64) & 1))
            continue;
        for (gva_t rip = first; rip - first < PAGE_SIZE + INSN_MAX_LEN; rip++) {
            struct jump_entry *entry = &jc->entries[jump_index(rip)];
            if (entry->tag == rip)
                entry->tag = empty_tag(jump_index(rip));
        }
    }
}
