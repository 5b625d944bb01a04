/* Flat shadow tables: guest page -> host address, with the lists that make flushing and revoking cheap. */
#pragma once

#include "base/err.h"
#include "base/types.h"

/*
 * Theory of operation
 *
 * A struct soft_shadow is one address space's view: a read and a write table for user code and the same for
 * supervisor code. Translated code reads the tables; only the owning vCPU's thread writes them.
 *
 * Every fill appends a record (which entry, of which table, written too or not) to one of two lists, for
 * global and for other mappings. A flush walks the list and zeroes what it names: its cost is what was
 * filled, not what could have been. The records are also linked by guest page, which is the reverse map.
 *
 * A record may be stale: its entry was zeroed by INVLPG and perhaps filled again for another page. That is
 * harmless, because zeroing an entry only costs a fill. A full list is flushed.
 *
 * Nothing here calls libc but shadow_init(), shadow_fini() and shadow_maintain(): all memory is reserved at
 * the start and populated by the kernel on first touch.
 */

/* Records a list holds. A stress build makes it small. */
#ifndef SHADOW_RECORDS
#define SHADOW_RECORDS (1U << 18)
#endif

/*
 * Populated table pages (4 KiB of host memory each) after which the tables are given back to the kernel: as many as four tables need for all of
 * the guest's memory, within these bounds.
 */
#ifndef SHADOW_POPULATED_MAX
#define SHADOW_POPULATED_MAX 16384U
#endif
#define SHADOW_POPULATED_MIN 4096U

static inline uint32_t shadow_populated_limit(uint64_t page_count)
{
    return (uint32_t)MIN(MAX(page_count / 512 * 4, SHADOW_POPULATED_MIN), SHADOW_POPULATED_MAX);
}

struct shadow_list {
    uint64_t *records; /* [SHADOW_RECORDS]; record 0 means none. Layout in shadow.c */
    uint32_t count;    /* the next free record */
    uint32_t gen;      /* heads of older generations are void, so that a flush need not touch them */
    uint64_t *heads;   /* per guest page: generation << 32 | first record */
};

struct shadow_counts {
    uint64_t flushed;     /* entries that flushes of a list zeroed */
    uint64_t full;        /* lists that were flushed for want of room */
    uint64_t reclaims;    /* of table memory, which empties everything */
    uint64_t table_pages; /* of the host's, that tables came to need, anew after a reclaim */
};

/* Room in front of the tables, for others: translated code reaches it by a displacement from the tables' base. */
#define SHADOW_FRONT MIB(34)

/* Pages that a list of fetch entries holds; a full one is flushed. */
#define SHADOW_FETCHES (1U << 16)

/*
 * The fetch tables tell translated code which page of guest memory is mapped where, for execution: its number and 1, or 0 where nobody has
 * asked since the last flush. Their fills are listed as those of the others are.
 */
struct shadow_fetches {
    uint64_t *records; /* [SHADOW_FETCHES]: entry index, and RECORD_USER */
    uint32_t count;
};

struct soft_shadow {
    uint8_t *front;             /* SHADOW_FRONT bytes; zero. The user's read table follows them */
    uint64_t *table[2];         /* [user]: the read table; the write table follows at MMU_TABLE_BYTES */
    uint32_t *fetch[2];         /* [user]: the fetch tables, behind the others */
    struct shadow_list list[2]; /* [global] */
    struct shadow_fetches fetches[2];
    uint32_t fetches_lost[2]; /* [user]: times that entries of the fetch table were taken away */
    uint8_t *regions;         /* per 2 MiB of gva: which table pages are populated, and was a large page filled */
    uint8_t *giants;          /* per 1 GiB of gva: whether a 1 GiB page was filled */
    uint64_t page_count;      /* of guest memory */
    uint32_t populated;       /* table pages */
    uint32_t populated_limit;
    bool reclaim;     /* populated went past its limit: shadow_maintain() has work */
    uint32_t changes; /* times that entries were taken away */
    struct shadow_counts counts;
};

int shadow_init(struct soft_shadow *, uint64_t page_count, struct err *);
void shadow_fini(struct soft_shadow *);

struct shadow_fill {
    gva_t gva;
    uint8_t *hva;   /* of the page's first byte */
    uint64_t page;  /* its index in guest memory */
    unsigned shift; /* of the guest's mapping: 12, 21, 22 or 30 */
    bool user, write, global;
};

/* Makes the read entry, and with write the write entry too. */
void shadow_fill(struct soft_shadow *, const struct shadow_fill *);

/* Page number `page` of guest memory may be executed at gva. shift as above. */
void shadow_allow_fetch(struct soft_shadow *, gva_t gva, uint64_t page, unsigned shift, bool user, bool global);

/* The entry for gva: hva - gva of its page, or 0. */
uint64_t shadow_lookup(const struct soft_shadow *, gva_t gva, bool user, bool write);

/*
 * The mapping at gva was (also) used in another way, by the instruction side: makes shadow_flush_page()
 * answer for large pages.
 */
void shadow_note_large(struct soft_shadow *, gva_t gva, unsigned shift);

/*
 * Translated code looked at gva's entry, and nothing was filled: the host's kernel has made a page of the table for it all the
 * same, which counts.
 */
void shadow_note_miss(struct soft_shadow *, gva_t gva, bool user, bool write);
void shadow_note_fetch_miss(struct soft_shadow *, gva_t gva);

void shadow_flush(struct soft_shadow *, bool global_too);

/*
 * INVLPG: drops gva in all tables, and everything that was filled from the same large page (SDM vol.
 * 3 4.10.4.1). True when the page may have been large, so that other caches must forget more than this one
 * page.
 */
bool shadow_flush_page(struct soft_shadow *, gva_t gva);

/* Zeroes every write entry that maps this page of guest memory. */
void shadow_revoke(struct soft_shadow *, uint64_t page);

/*
 * Gives the tables back to the kernel if they grew too big; empties them then. Calls the kernel. True when it
 * did.
 */
bool shadow_maintain(struct soft_shadow *);
