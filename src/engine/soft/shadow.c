/* Flat shadow tables: reservation, fill, flush, revocation by guest page, and giving memory back. */
#include "engine/soft/shadow.h"

#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/bug.h"
#include "engine/soft/mmu.h"

#define REGION_SHIFT 21 /* one 4 KiB page of a table serves 512 guest pages */
#define GIANT_SHIFT 30
#define REGION_COUNT (MMU_TABLE_ENTRIES >> (REGION_SHIFT - PAGE_SHIFT))
#define GIANT_COUNT (MMU_TABLE_ENTRIES >> (GIANT_SHIFT - PAGE_SHIFT))
#define REGION_ENTRIES BIT(REGION_SHIFT - PAGE_SHIFT)

#define FETCH_TABLE_BYTES (MMU_TABLE_ENTRIES * sizeof(uint32_t))
#define FRONT_AND_TABLES (SHADOW_FRONT + 4 * MMU_TABLE_BYTES + 2 * FETCH_TABLE_BYTES)

/* A byte of regions: one bit a table, a bit for both fetch tables, and: */
#define REGION_LARGE 0x10
#define REGION_FETCH 0x20

/* A record: entry index 35:0, user 36, write 37, the page's next record 63:38. */
#define RECORD_INDEX (BIT(36) - 1)
#define RECORD_USER BIT(36)
#define RECORD_WRITE BIT(37)
#define RECORD_NEXT_SHIFT 38

_Static_assert(SHADOW_RECORDS <= BIT(64 - RECORD_NEXT_SHIFT), "a record's link must reach every record");

static inline uint64_t entry_index(gva_t gva)
{
    return (gva >> PAGE_SHIFT) & (MMU_TABLE_ENTRIES - 1);
}

static inline uint8_t table_bit(bool user, bool write)
{
    return 1U << (user * 2 + write);
}

#ifdef SOFT_TSAN
/*
 * ThreadSanitizer keeps the addresses that it has no shadow memory for, and what is left has no 2.5 TiB in one piece. From the largest of its gaps
 * room for eight vCPUs comes back. Nothing in there is an access that it sees: this file and jump_cache.c are compiled without it.
 */
static void open_gap(void)
{
    syscall(SYS_munmap, 0x400000000000, 0x550000000000 - 0x400000000000);
}
static pthread_once_t gap = PTHREAD_ONCE_INIT;
#endif

/* By the system call: ThreadSanitizer's mmap() takes no address outside of its own ranges. */
static void *reserve(size_t bytes, void *at)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0);
    void *p = (void *)syscall(SYS_mmap, at, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    /*
     * Touched sparsely: a huge page would be 2 MiB for a few entries. Both calls are advice: their failure
     * changes no result.
     */
    (void)madvise(p, bytes, MADV_NOHUGEPAGE);
    (void)madvise(p, bytes, MADV_DONTDUMP);
    return p;
}

static void release(void *p, size_t bytes)
{
    if (p)
        syscall(SYS_munmap, p, bytes);
}

int shadow_init(struct soft_shadow *s, uint64_t page_count, struct err *e)
{
    bool ok = true;

#ifdef SOFT_TSAN
    pthread_once(&gap, open_gap);
#endif
    *s = (struct soft_shadow){.page_count = page_count, .populated_limit = shadow_populated_limit(page_count)};
    s->front = reserve(FRONT_AND_TABLES, NULL);
    if (s->front) {
        s->table[1] = (uint64_t *)(void *)(s->front + SHADOW_FRONT);
        s->table[0] = s->table[1] + 2 * MMU_TABLE_ENTRIES;
        s->fetch[1] = (uint32_t *)(void *)(s->table[0] + 2 * MMU_TABLE_ENTRIES);
        s->fetch[0] = s->fetch[1] + MMU_TABLE_ENTRIES;
    }
    for (unsigned i = 0; i < 2; i++) {
        s->list[i].records = reserve(SHADOW_RECORDS * sizeof(uint64_t), NULL);
        s->list[i].heads = reserve(MAX(page_count, 1) * sizeof(uint64_t), NULL);
        s->list[i].count = 1;
        s->list[i].gen = 1;
        s->fetches[i].records = reserve(SHADOW_FETCHES * sizeof(uint64_t), NULL);
        ok = ok && s->list[i].records && s->list[i].heads && s->fetches[i].records;
    }
    s->regions = reserve(REGION_COUNT, NULL);
    s->giants = reserve(GIANT_COUNT, NULL);
    if (ok && s->front && s->regions && s->giants)
        return 0;
    shadow_fini(s);
    return err_set(e, ENOMEM,
                   "cannot reserve 2.5 TiB of address space for the shadow page tables of a vCPU; "
                   "\"ulimit -v unlimited\" and vm.overcommit_memory 0 or 1 allow it (no memory is used by it)");
}

void shadow_fini(struct soft_shadow *s)
{
    release(s->front, FRONT_AND_TABLES);
    for (unsigned i = 0; i < 2; i++) {
        release(s->list[i].records, SHADOW_RECORDS * sizeof(uint64_t));
        release(s->list[i].heads, MAX(s->page_count, 1) * sizeof(uint64_t));
        release(s->fetches[i].records, SHADOW_FETCHES * sizeof(uint64_t));
    }
    release(s->regions, REGION_COUNT);
    release(s->giants, GIANT_COUNT);
    *s = (struct soft_shadow){0};
}

uint64_t shadow_lookup(const struct soft_shadow *s, gva_t gva, bool user, bool write)
{
    return s->table[user][write * MMU_TABLE_ENTRIES + entry_index(gva)];
}

static void list_forget(struct soft_shadow *s, struct shadow_list *list)
{
    list->count = 1;
    /* After 2^32 flushes old heads would come to life again. */
    if (++list->gen == 0) {
        soft_zero_words(list->heads, s->page_count);
        list->gen = 1;
    }
}

static void list_flush(struct soft_shadow *s, struct shadow_list *list)
{
    s->changes++;
    s->counts.flushed += list->count - 1;
    for (uint32_t i = 1; i < list->count; i++) {
        uint64_t record = list->records[i];
        uint64_t *entry = &s->table[!!(record & RECORD_USER)][record & RECORD_INDEX];

        entry[0] = 0;
        if (record & RECORD_WRITE)
            entry[MMU_TABLE_ENTRIES] = 0;
    }
    list_forget(s, list);
}

static void fetches_flush(struct soft_shadow *s, struct shadow_fetches *f)
{
    for (uint32_t i = 0; i < f->count; i++) {
        bool user = f->records[i] & RECORD_USER;
        s->fetch[user][f->records[i] & RECORD_INDEX] = 0;
        s->fetches_lost[user]++;
    }
    f->count = 0;
}

void shadow_flush(struct soft_shadow *s, bool global_too)
{
    list_flush(s, &s->list[0]);
    fetches_flush(s, &s->fetches[0]);
    if (global_too) {
        list_flush(s, &s->list[1]);
        fetches_flush(s, &s->fetches[1]);
    }
}

static inline void populate(struct soft_shadow *s, uint8_t *region, uint8_t bit)
{
    if (*region & bit)
        return;
    *region |= bit;
    s->counts.table_pages++;
    if (++s->populated > s->populated_limit)
        s->reclaim = true;
}

void shadow_note_large(struct soft_shadow *s, gva_t gva, unsigned shift)
{
    uint64_t index = entry_index(gva);

    if (shift >= GIANT_SHIFT)
        s->giants[index >> (GIANT_SHIFT - PAGE_SHIFT)] = 1;
    else if (shift > PAGE_SHIFT)
        s->regions[index >> (REGION_SHIFT - PAGE_SHIFT)] |= REGION_LARGE;
}

void shadow_note_miss(struct soft_shadow *s, gva_t gva, bool user, bool write)
{
    populate(s, &s->regions[entry_index(gva) >> (REGION_SHIFT - PAGE_SHIFT)], table_bit(user, write));
}

void shadow_note_fetch_miss(struct soft_shadow *s, gva_t gva)
{
    populate(s, &s->regions[entry_index(gva) >> (REGION_SHIFT - PAGE_SHIFT)], REGION_FETCH);
}

void shadow_fill(struct soft_shadow *s, const struct shadow_fill *f)
{
    struct shadow_list *list = &s->list[f->global];
    uint64_t index = entry_index(f->gva);
    uint64_t *entry = &s->table[f->user][index];
    uint8_t *region = &s->regions[index >> (REGION_SHIFT - PAGE_SHIFT)];
    uint64_t addend = (uint64_t)(uintptr_t)f->hva - (f->gva & ~PAGE_MASK);
    uint64_t head;
    uint32_t next;

    BUG_ON(f->page >= s->page_count);
    if (list->count == SHADOW_RECORDS) {
        s->counts.full++;
        list_flush(s, list);
    }

    head = list->heads[f->page];
    next = head >> 32 == list->gen ? (uint32_t)head : 0;
    list->records[list->count] = index | (f->user ? RECORD_USER : 0) | (f->write ? RECORD_WRITE : 0) | (uint64_t)next << RECORD_NEXT_SHIFT;
    list->heads[f->page] = (uint64_t)list->gen << 32 | list->count;
    list->count++;

    shadow_note_large(s, f->gva, f->shift);
    populate(s, region, table_bit(f->user, false));
    entry[0] = addend;
    if (f->write) {
        populate(s, region, table_bit(f->user, true));
        entry[MMU_TABLE_ENTRIES] = addend;
    }
}

void shadow_allow_fetch(struct soft_shadow *s, gva_t gva, uint64_t page, unsigned shift, bool user, bool global)
{
    struct shadow_fetches *f = &s->fetches[global];
    uint64_t index = entry_index(gva);
    uint32_t *entry = &s->fetch[user][index];

    BUG_ON(page >= s->page_count);
    if (*entry == page + 1)
        return;
    if (f->count == SHADOW_FETCHES) {
        fetches_flush(s, f);
        s->changes++;
    }
    f->records[f->count++] = index | (user ? RECORD_USER : 0);
    shadow_note_large(s, gva, shift);
    populate(s, &s->regions[index >> (REGION_SHIFT - PAGE_SHIFT)], REGION_FETCH);
    *entry = (uint32_t)page + 1;
}

/* Zeroes all entries of a 2 MiB region, in the table pages that exist. */
static void region_clear(struct soft_shadow *s, uint64_t number)
{
    uint8_t *region = &s->regions[number];
    uint64_t first = number * REGION_ENTRIES;

    for (unsigned user = 0; user < 2; user++) {
        if (*region & table_bit(user, false))
            soft_zero_words(&s->table[user][first], REGION_ENTRIES);
        if (*region & table_bit(user, true))
            soft_zero_words(&s->table[user][MMU_TABLE_ENTRIES + first], REGION_ENTRIES);
        if (*region & REGION_FETCH) {
            soft_zero_words((uint64_t *)(void *)&s->fetch[user][first], REGION_ENTRIES / 2);
            s->fetches_lost[user]++;
        }
    }
    *region &= (uint8_t)~REGION_LARGE;
}

bool shadow_flush_page(struct soft_shadow *s, gva_t gva)
{
    uint64_t index = entry_index(gva);
    uint64_t number = index >> (REGION_SHIFT - PAGE_SHIFT);
    uint8_t *giant = &s->giants[index >> (GIANT_SHIFT - PAGE_SHIFT)];

    s->changes++;
    if (*giant) {
        *giant = 0;
        shadow_flush(s, true);
        return true;
    }
    /* A 4 MiB page of 2-level paging covers an even region and the odd one after it. */
    if ((s->regions[number] | s->regions[number ^ 1]) & REGION_LARGE) {
        region_clear(s, number);
        region_clear(s, number ^ 1);
        return true;
    }
    for (unsigned user = 0; user < 2; user++) {
        if (s->regions[number] & table_bit(user, false))
            s->table[user][index] = 0;
        if (s->regions[number] & table_bit(user, true))
            s->table[user][MMU_TABLE_ENTRIES + index] = 0;
        if (s->regions[number] & REGION_FETCH && s->fetch[user][index]) {
            s->fetch[user][index] = 0;
            s->fetches_lost[user]++;
        }
    }
    return false;
}

void shadow_revoke(struct soft_shadow *s, uint64_t page)
{
    BUG_ON(page >= s->page_count);
    s->changes++;
    for (unsigned i = 0; i < 2; i++) {
        struct shadow_list *list = &s->list[i];
        uint64_t head = list->heads[page];
        uint32_t at = head >> 32 == list->gen ? (uint32_t)head : 0;

        while (at) {
            uint64_t record = list->records[at];

            if (record & RECORD_WRITE)
                s->table[!!(record & RECORD_USER)][MMU_TABLE_ENTRIES + (record & RECORD_INDEX)] = 0;
            at = record >> RECORD_NEXT_SHIFT;
        }
    }
}

bool shadow_maintain(struct soft_shadow *s)
{
    if (!s->reclaim)
        return false;
    /*
     * Mapping anew frees the host's page tables too, which MADV_DONTNEED keeps. Replacing a mapping by one of
     * the same size needs nothing that the kernel could refuse.
     */
    for (unsigned user = 0; user < 2; user++) {
        void *p = reserve(2 * MMU_TABLE_BYTES, s->table[user]);

        BUG_ON(p != s->table[user]);
        list_forget(s, &s->list[user]);
        s->fetches[user].count = 0;
        s->fetches_lost[user]++;
    }
    BUG_ON(reserve(2 * FETCH_TABLE_BYTES, s->fetch[1]) != s->fetch[1]);
    BUG_ON(reserve(REGION_COUNT, s->regions) != s->regions);
    BUG_ON(reserve(GIANT_COUNT, s->giants) != s->giants);
    s->changes++;
    s->populated = 0;
    s->reclaim = false;
    s->counts.reclaims++;
    return true;
}
