/* The code cache: translated blocks by (gpa, mode), the links between them, and where a host pc belongs. */
#include "engine/soft/cache.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bug.h"
#include "engine/soft/emit.h"
#include "engine/soft/flags_recipe.h"
#include "engine/soft/ram.h"
#include "engine/soft/run.h"
#include "engine/soft/smc.h"
#include "engine/soft/switch.h"

static void *reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

/* The end of a common piece: on to the way out, of which it is in reach. */
static void emit_leave(struct soft_cache *cache, struct emit *e, enum code_exit exit)
{
    emit_store_ctx_imm32(e, CTX_EXIT, exit);
    emit_land_at(emit_jmp(e), cache->exit, e);
}

/* The flags from CTX_SAVE_FLAGS, whatever that has. */
static void emit_flags_fetch(struct soft_cache *cache, struct emit *e)
{
    emit_cmp_ctx8(e, CTX_SAVE_FLAGS, FLAGS_RECIPE_FIRST);
    uint8_t *flags = emit_short_jcc(e, CC_B);
    emit_call_to(e, cache->follow_recipe);
    emit_land_short(e, flags);
    emit_flags_restore(e);
}

/* A look into a jump cache that found nothing: trans_jump()'s caller has handed over the flags. */
static uint8_t *emit_not_found(struct soft_cache *cache, struct emit *e, enum code_exit exit)
{
    uint8_t *start = e->rw;

    emit_flags_fetch(cache, e);
    emit_leave(cache, e, exit);
    return start;
}

/* What cold code calls: the return address, where the operand is, goes to CTX_RESUME. */
static uint8_t *emit_called(struct soft_cache *cache, struct emit *e, enum code_exit exit, bool flags_saved)
{
    uint8_t *start = e->rw;

    emit_pop_ctx(e, CTX_RESUME);
    if (flags_saved)
        emit_flags_fetch(cache, e);
    emit_leave(cache, e, exit);
    return start;
}

/* The way out to switch.S, within reach of a rel32 from every block. */
static void emit_common(struct soft_cache *cache)
{
    uint64_t target = (uint64_t)(uintptr_t)switch_code_exit;
    struct emit e = {.rw = cache->mem.rw, .end = cache->mem.rw + PAGE_SIZE};

    cache->exit = e.rw;
    emit8(&e, 0xff); /* jmp [rip + 0] */
    emit8(&e, 0x25);
    emit32(&e, 0);
    emit32(&e, (uint32_t)target);
    emit32(&e, (uint32_t)(target >> 32));
    cache->follow_recipe = e.rw;
    flags_recipe_emit(&e);
    cache->exit_next = emit_not_found(cache, &e, CODE_EXIT_NEXT);
    cache->exit_unshared = emit_not_found(cache, &e, CODE_EXIT_UNSHARED);
    for (unsigned exit = 0; exit < CODE_EXIT_COUNT; exit++)
        for (unsigned flags_saved = 0; flags_saved < 2; flags_saved++)
            cache->call[exit][flags_saved] = emit_called(cache, &e, exit, flags_saved);
    BUG_ON(e.overflow);
    cache->common = ALIGN_UP((size_t)(e.rw - cache->mem.rw), 64);
}

static void empty(struct soft_cache *cache)
{
    atomic_store(&cache->block_count, BLOCK_NONE + 1);
    cache->link_count = LINK_NONE + 1;
    cache->mark_count = cache->site_count = 0;
    cache->source_used = 0;
    cache->used = cache->common;
    cache->cold_used = 0;
}

int cache_init(struct soft_vm *svm, struct err *e)
{
    struct soft_cache *cache = svm->cache;
    size_t bytes = svm->vm->config.code_cache ? svm->vm->config.code_cache : CACHE_BYTES;
    int error = codemem_init(&cache->mem, bytes, e);

    if (error)
        return error;
    cache->cold_start = ALIGN_DOWN(bytes / 8 * 5, 64);
    cache->blocks = reserve(CACHE_MAX_BLOCKS * sizeof(*cache->blocks));
    cache->links = reserve(CACHE_MAX_LINKS * sizeof(*cache->links));
    cache->marks = reserve(CACHE_MAX_MARKS * sizeof(*cache->marks));
    cache->sites = reserve(CACHE_MAX_SITES * sizeof(*cache->sites));
    cache->source = reserve(CACHE_SOURCE_BYTES);
    cache->hash = reserve(CACHE_HASH_HEADS * sizeof(*cache->hash));
    cache->page_head = reserve(svm->mem->page_count * sizeof(*cache->page_head));
    cache->crossing_head = reserve(svm->mem->page_count * sizeof(*cache->crossing_head));
    if (!cache->blocks || !cache->links || !cache->marks || !cache->sites || !cache->source || !cache->hash || !cache->page_head ||
        !cache->crossing_head) {
        cache_fini(svm);
        return err_set(e, ENOMEM, "cannot reserve address space for the code cache; is `ulimit -v` set?");
    }
    cache->host_flags = host_flags_probe();
    emit_common(cache);
    empty(cache);
    return 0;
}

void cache_fini(struct soft_vm *svm)
{
    struct soft_cache *cache = svm->cache;

    if (cache->blocks)
        munmap(cache->blocks, CACHE_MAX_BLOCKS * sizeof(*cache->blocks));
    if (cache->links)
        munmap(cache->links, CACHE_MAX_LINKS * sizeof(*cache->links));
    if (cache->marks)
        munmap(cache->marks, CACHE_MAX_MARKS * sizeof(*cache->marks));
    if (cache->sites)
        munmap(cache->sites, CACHE_MAX_SITES * sizeof(*cache->sites));
    if (cache->source)
        munmap(cache->source, CACHE_SOURCE_BYTES);
    if (cache->hash)
        munmap(cache->hash, CACHE_HASH_HEADS * sizeof(*cache->hash));
    if (cache->page_head)
        munmap(cache->page_head, svm->mem->page_count * sizeof(*cache->page_head));
    if (cache->crossing_head)
        munmap(cache->crossing_head, svm->mem->page_count * sizeof(*cache->crossing_head));
    codemem_fini(&cache->mem);
    *cache = (struct soft_cache){0};
}

bool cache_holds(const struct soft_cache *cache, const void *pc)
{
    return codemem_holds(&cache->mem, pc);
}

static uint32_t hash_of(gpa_t gpa, uint32_t mode)
{
    uint64_t h = (gpa ^ (uint64_t)mode << 40) * 0x9e3779b97f4a7c15ULL;

    return (uint32_t)(h >> (64 - CACHE_HASH_BITS));
}

static uint64_t page_index(struct soft_vm *svm, gpa_t gpa)
{
    uint64_t page = ram_page(svm->mem, gpa);

    BUG_ON(page == RAM_NO_PAGE);
    return page;
}

struct block *cache_find(struct soft_vm *svm, gpa_t gpa, gpa_t next_gpa, uint32_t mode)
{
    struct soft_cache *cache = svm->cache;
    uint32_t n = atomic_load_explicit(&cache->hash[hash_of(gpa, mode)], memory_order_acquire);

    while (n != BLOCK_NONE) {
        struct block *b = &cache->blocks[n];
        if (b->gpa == gpa && b->mode == mode && (!block_crosses(b) || b->next_gpa == next_gpa))
            return b;
        n = atomic_load_explicit(&b->next_hash, memory_order_acquire);
    }
    return NULL;
}

bool cache_full(const struct soft_cache *cache)
{
    return cache->block_count == CACHE_MAX_BLOCKS || cache->mark_count + CACHE_BLOCK_INSNS + 1 > CACHE_MAX_MARKS ||
           cache->link_count + BLOCK_MAX_LINKS > CACHE_MAX_LINKS || cache->site_count == CACHE_MAX_SITES ||
           cache->source_used + CACHE_BLOCK_INSNS * INSN_MAX_LEN > CACHE_SOURCE_BYTES || cache->used + BLOCK_MAX_CODE > cache->cold_start ||
           cache->cold_used + BLOCK_MAX_CODE > cache->mem.size - cache->cold_start;
}

static void flush_jump_caches(struct soft_cpu *cpu)
{
    for (unsigned k = 0; k < JUMP_CACHES; k++)
        jump_cache_flush(&cpu->jump[k]);
}

void cache_flush(struct soft_vm *svm)
{
    struct soft_cache *cache = svm->cache;

    for (uint32_t n = BLOCK_NONE + 1; n < atomic_load(&cache->block_count); n++) {
        const struct block *b = &cache->blocks[n];
        cache->page_head[page_index(svm, b->gpa)] = BLOCK_NONE;
        if (block_crosses(b))
            cache->crossing_head[page_index(svm, b->next_gpa)] = BLOCK_NONE;
    }
    memset(cache->hash, 0, CACHE_HASH_HEADS * sizeof(*cache->hash));
    empty(cache);
    atomic_fetch_add(&cache->generation, 1);
    for (unsigned i = 0; i < svm->cpu_count; i++)
        flush_jump_caches(svm->cpus[i]);
}

void cache_insert(struct soft_vm *svm, struct block *b)
{
    struct soft_cache *cache = svm->cache;
    uint32_t number = (uint32_t)(b - cache->blocks);
    atomic_uint *hash = &cache->hash[hash_of(b->gpa, b->mode)];
    uint32_t *page = &cache->page_head[page_index(svm, b->gpa)];

    b->next_page = *page;
    *page = number;
    if (block_crosses(b)) {
        uint32_t *crossing = &cache->crossing_head[page_index(svm, b->next_gpa)];
        b->next_crossing = *crossing;
        *crossing = number;
    }
    b->incoming = LINK_NONE;
    atomic_store_explicit(&b->next_hash, atomic_load_explicit(hash, memory_order_relaxed), memory_order_relaxed);
    atomic_store_explicit(&cache->block_count, number + 1, memory_order_release);
    atomic_store_explicit(hash, number, memory_order_release);
}

static const uint8_t *link_target(const struct block_link *link, const struct block *from, const struct block *to)
{
    switch (link->kind) {
    case LINK_NEAR:
        if (link->polled || to->looks || link->guest_off > (from->gpa & PAGE_MASK))
            return to->entry;
        return to->polled;
    case LINK_RETURN:
        if (block_in_page_of(to, from))
            return to->dispatch + to->landing_off;
        break;
    case LINK_FAR: break;
    }
    return to->dispatch;
}

void cache_point_link(const struct soft_cache *cache, const struct block_link *link, const uint8_t *target)
{
    if (link->kind == LINK_RETURN)
        emit_store32(link->site, (uint32_t)(uintptr_t)(target - cache->mem.rw + cache->mem.rx));
    else
        emit_patch(link->site, target);
}

void cache_link(struct soft_vm *svm, struct block_link *link, struct block *to)
{
    struct soft_cache *cache = svm->cache;
    const struct block *from = &cache->blocks[link->from];

    BUG_ON(from->dropped || to->dropped || (link->kind == LINK_NEAR && !block_in_page_of(to, from)));
    if (link->to != BLOCK_NONE)
        return;
    link->to = (uint32_t)(to - cache->blocks);
    link->next = to->incoming;
    to->incoming = (uint32_t)(link - cache->links);
    cache->links_made++;
    cache_point_link(cache, link, link_target(link, from, to) - cache->mem.rx + cache->mem.rw);
}

/* Takes a link out of its target's list. */
static void cut(struct soft_cache *cache, struct block_link *link)
{
    uint32_t self = (uint32_t)(link - cache->links);

    if (link->to == BLOCK_NONE)
        return;
    uint32_t *at = &cache->blocks[link->to].incoming;
    while (*at != self)
        at = &cache->links[*at].next;
    *at = link->next;
    link->to = BLOCK_NONE;
    cache->links_cut++;
    cache_point_link(cache, link, link->unlinked);
}

void cache_cut_far_links(struct soft_vm *svm, struct block *b)
{
    struct soft_cache *cache = svm->cache;

    for (uint32_t n = b->incoming, next; n != LINK_NONE; n = next) {
        next = cache->links[n].next;
        if (cache->links[n].kind != LINK_NEAR)
            cut(cache, &cache->links[n]);
    }
}

static void drop_block(struct soft_cache *cache, struct block *b)
{
    uint32_t number = (uint32_t)(b - cache->blocks);

    if (b->dropped) /* for the other one of its two pages */
        return;
    while (b->incoming != LINK_NONE)
        cut(cache, &cache->links[b->incoming]);
    for (unsigned n = 0; n < b->link_count; n++)
        cut(cache, &cache->links[b->first_link + n]);
    emit_store32(b->check, UINT32_MAX); /* no page: what jump caches have of it leads to CODE_EXIT_STALE from now on */
    if (!block_crosses(b))
        emit_patch_jmp(b->dispatch + b->landing_off - cache->mem.rx + cache->mem.rw, b->stale); /* and what return caches have */
    atomic_uint *at = &cache->hash[hash_of(b->gpa, b->mode)];
    while (atomic_load_explicit(at, memory_order_relaxed) != number)
        at = &cache->blocks[atomic_load_explicit(at, memory_order_relaxed)].next_hash;
    atomic_store_explicit(at, atomic_load_explicit(&b->next_hash, memory_order_relaxed), memory_order_release);
    b->dropped = true;
    cache->blocks_dropped++;
}

void cache_drop_page(struct soft_vm *svm, gpa_t page)
{
    struct soft_cache *cache = svm->cache;
    uint32_t *head = &cache->page_head[page_index(svm, page)], *crossing = &cache->crossing_head[page_index(svm, page)];

    if (*head == BLOCK_NONE && *crossing == BLOCK_NONE)
        return;
    for (uint32_t n = *head; n != BLOCK_NONE; n = cache->blocks[n].next_page)
        drop_block(cache, &cache->blocks[n]);
    for (uint32_t n = *crossing; n != BLOCK_NONE; n = cache->blocks[n].next_crossing)
        drop_block(cache, &cache->blocks[n]);
    *head = *crossing = BLOCK_NONE;
}

/* --- accesses that are not aligned --- */

static uint32_t unaligned_bit(gpa_t gpa)
{
    return (uint32_t)(gpa * 0x9e3779b97f4a7c15ULL >> 32 & (CACHE_UNALIGNED_BITS - 1));
}

bool cache_is_unaligned(const struct soft_cache *cache, gpa_t gpa)
{
    return cache->unaligned[unaligned_bit(gpa) / 64] >> unaligned_bit(gpa) % 64 & 1;
}

/* Cold parts lie in the order of their blocks' numbers too. */
static struct block *block_of_cold(struct soft_cache *cache, const uint8_t *pc)
{
    uint32_t low = BLOCK_NONE + 1, high = atomic_load_explicit(&cache->block_count, memory_order_relaxed);

    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (cache->blocks[middle].cold <= pc)
            low = middle;
        else
            high = middle;
    }
    return &cache->blocks[low];
}

void cache_note_unaligned(struct soft_vm *svm, const struct cache_miss *miss)
{
    struct soft_cache *cache = svm->cache;
    struct block *b = block_of_cold(cache, (const uint8_t *)miss);
    uint32_t bit = unaligned_bit(ALIGN_DOWN(b->gpa, PAGE_SIZE) + miss->guest_off);

    cache->unaligned[bit / 64] |= BIT(bit % 64);
    drop_block(cache, b);
}

static bool differs(const uint8_t *kept, const uint8_t *now, unsigned n)
{
    while (n > 0 && *kept == *now) {
        kept++;
        now++;
        n--;
    }
    return n > 0;
}

bool cache_page_differs(struct soft_vm *svm, gpa_t page, const uint8_t *hva)
{
    struct soft_cache *cache = svm->cache;
    uint64_t index = page_index(svm, page);

    for (uint32_t n = cache->page_head[index]; n != BLOCK_NONE; n = cache->blocks[n].next_page) {
        const struct block *b = &cache->blocks[n];
        unsigned off = b->gpa & PAGE_MASK;
        if (!b->dropped && differs(cache->source + b->source, hva + off, MIN(b->guest_bytes, (unsigned)PAGE_SIZE - off)))
            return true;
    }
    for (uint32_t n = cache->crossing_head[index]; n != BLOCK_NONE; n = cache->blocks[n].next_crossing) {
        const struct block *b = &cache->blocks[n];
        unsigned before = (unsigned)PAGE_SIZE - (unsigned)(b->gpa & PAGE_MASK);
        if (!b->dropped && differs(cache->source + b->source + before, hva, b->guest_bytes - before))
            return true;
    }
    return false;
}

/* Blocks lie in the order of their numbers, so a binary search finds the one around pc. */
struct block *cache_block_at(struct soft_cache *cache, const void *pc, const struct block_mark **mark)
{
    uint32_t low = 0;
    uint32_t high = atomic_load_explicit(&cache->block_count, memory_order_acquire);

    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if ((const uint8_t *)pc >= cache->blocks[middle].code)
            low = middle;
        else
            high = middle;
    }
    if (low >= high || (const uint8_t *)pc < cache->blocks[low].code)
        return NULL;
    struct block *b = &cache->blocks[low];
    uint64_t off = (uint64_t)((const uint8_t *)pc - b->code);
    if (off >= b->code_size)
        return NULL;
    *mark = &cache->marks[b->first_mark];
    for (unsigned i = 1; i < b->mark_count && cache->marks[b->first_mark + i].host_off <= off; i++)
        *mark = &cache->marks[b->first_mark + i];
    return b;
}

gva_t cache_miss_gva(const struct soft_cpu *cpu, const struct cache_miss *miss)
{
    switch (miss->gva_reg) {
    case HOST_S1: return SLOT(cpu, CTX_TEMP);
    case HOST_SP: return cpu->gpr[GPR_RSP];
    default: return cpu->gpr[miss->gva_reg];
    }
}
