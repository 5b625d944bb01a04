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

/* An empty entry is as good as any: its code is the way out. */
static void flush_returns(struct jump_cache *jc)
{
    for (unsigned i = 0; i < RETURN_ENTRIES; i++)
        jc->returns[i] = (struct jump_entry){.tag = 0, .code = (uint64_t)(uintptr_t)jc->out};
}

int jump_cache_init(struct jump_cache *jc, unsigned k, uint8_t *tables, const struct soft_cache *cache, struct err *e)
{
    void *filled = mmap(NULL, FILLED_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (filled == MAP_FAILED)
        return err_set(e, ENOMEM, "cannot reserve address space for a jump cache; is `ulimit -v` set?");
    *jc = (struct jump_cache){.entries = (struct jump_entry *)(void *)(tables + JUMP_CACHE_DISP(k)),
                              .returns = (struct jump_entry *)(void *)(tables + RETURN_CACHE_DISP(k)),
                              .out = cache->exit_next - cache->mem.rw + cache->mem.rx,
                              .filled = filled};
    jc->entries[0].tag = empty_tag(0);
    flush_returns(jc);
    return 0;
}

void jump_cache_fini(struct jump_cache *jc)
{
    if (jc->filled)
        munmap(jc->filled, FILLED_BYTES);
    *jc = (struct jump_cache){0};
}

void jump_cache_flush(struct jump_cache *jc)
{
    flush_returns(jc);
    for (unsigned i = 0; i < jc->filled_count; i++)
        jc->entries[jc->filled[i]].tag = empty_tag(jc->filled[i]);
    jc->filled_count = 0;
}

void jump_caches_forget_returns(struct jump_cache *jc, bool user)
{
    for (unsigned k = 0; k < JUMP_CACHES; k++)
        if (jc[k].mode && !(k & BLOCK_UNSHARED) && !!(k & BLOCK_USER) == user)
            flush_returns(&jc[k]);
}

static void add(struct jump_cache *jc, uint64_t rip, const uint8_t *code)
{
    uint32_t i = jump_index(rip);
    struct jump_entry *entry = &jc->entries[i];

    if (jc->filled_count == JUMP_ENTRIES)
        jump_cache_flush(jc);
    if (entry->tag == empty_tag(i))
        jc->filled[jc->filled_count++] = i;
    entry->code = (uint64_t)(uintptr_t)code;
    entry->tag = rip;
}

void jump_cache_add(struct jump_cache *jc, uint64_t rip, const struct block *b)
{
    add(jc, rip, b->dispatch);
}

void jump_cache_add_out(struct jump_cache *jc, uint64_t rip)
{
    add(jc, rip, jc->out);
}
