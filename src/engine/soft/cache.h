/* The code cache: translated blocks by (gpa, mode), the links between them, and the jump caches that find them by rip. */
#pragma once

#include "engine/soft/codemem.h"
#include "engine/soft/host_flags.h"
#include "engine/soft/soft.h"

#ifndef CACHE_BYTES /* unless --code-cache says otherwise; a stress build makes these two small */
#define CACHE_BYTES MIB(128)
#endif
#define CACHE_MAX_BLOCKS BIT(20)
#define CACHE_MAX_MARKS BIT(23)    /* guest instructions of all blocks */
#define CACHE_MAX_SITES BIT(18)    /* instructions left to C */
#define CACHE_SOURCE_BYTES MIB(64) /* guest bytes of all blocks */
#define CACHE_HASH_BITS 18         /* about as many heads as there are blocks: a chain leads through cold memory */
#define CACHE_HASH_HEADS BIT(CACHE_HASH_BITS)
#ifndef CACHE_BLOCK_INSNS
#define CACHE_BLOCK_INSNS 64 /* at most, in one block */
#endif
#define BLOCK_MAX_CODE KIB(32) /* host bytes of one block, and of its cold part, with room to spare */
#define CACHE_MAX_LINKS BIT(21)
#define BLOCK_MAX_BRANCHES 3 /* conditional ones within a block, not at its end */
#define BLOCK_MAX_JUMPS 2    /* and direct jumps that it follows */
#define BLOCK_MAX_ROUNDS 8U  /* of a loop in one block */
#define BLOCK_MAX_LINKS (BLOCK_MAX_ROUNDS + 2)
#define CACHE_UNALIGNED_BITS BIT(17)
#define CACHE_UNALIGNED_PERIOD 256

#define LINK_NONE 0U
#define BLOCK_NONE 0U /* tables of fresh memory are empty, and no page of them is touched before it is needed */

/* What a block's translation depends on besides its bytes. */
enum block_mode {
    BLOCK_USER = 1 << 0,     /* CPL 3 */
    BLOCK_CODE32 = 1 << 1,   /* 32-bit code with CS, SS and DS flat: base 0, limit 4 GiB */
    BLOCK_UNSHARED = 1 << 2, /* its accesses share no lookups: where those of another block that do lie in two pages */
    BLOCK_UNITS_SHIFT = 3,   /* one bit per enum insn_unit that may run: CR0.EM/TS, CR4.OSFXSR/OSXSAVE, XCR0 */
    BLOCK_FS = 1 << 9,       /* 32-bit code: FS reaches 4 GiB from whatever its base is, and may be written */
    BLOCK_GS = 1 << 10,
    BLOCK_NO_TSC = 1 << 11, /* RDTSC faults */
};

/* Where one guest instruction begins: the state map. At its first host byte every guest register is in its home, but that RSP may be late. */
struct block_mark {
    uint32_t host_off;        /* from the block's code */
    uint16_t guest_off : 14;  /* from the page's start */
    uint16_t flags_saved : 1; /* where the instruction itself faults, CTX_SAVE_FLAGS has the arithmetic flags, or a recipe */
    uint16_t string : 1;      /* it is REP MOVS or REP STOS, which faults with host pointers in RSI and RDI: translate_string.c */
    uint16_t flags_dead;      /* arithmetic flags that later code overwrites unread: they may hold anything at a fault here */
    int16_t sp_late;          /* where the instruction itself faults, this is to be added to RSP */
};

/*
 * A jump to another block, which is patched. A near one stays in the guest page and hands over the host's flags; a far one leads to any page:
 * HOST_S1 has the address, flags are in CTX_SAVE_FLAGS, and the target finds out whether it is what the guest has mapped there. A call's link is
 * what its return address gets in the return cache: an address of 31 bits (codemem.h).
 */
enum link_kind { LINK_NEAR, LINK_FAR, LINK_RETURN };

struct block_link {
    uint8_t *site;     /* writable address of the rel32, or of the address */
    uint8_t *unlinked; /* writable address of the code that leaves for lack of a target */
    enum link_kind kind;
    bool polled;           /* near: its block has looked for attention */
    uint16_t guest_off;    /* near: the target, from the page's start */
    uint16_t flags_wanted; /* near: arithmetic flags that it hands over; others may be anything */
    uint32_t from, to;     /* blocks; to may be BLOCK_NONE */
    uint32_t next;         /* next link to the same target */
};

struct block {
    gpa_t gpa;
    gpa_t next_gpa; /* of the page into which its only instruction runs on; GPA_INVALID: it lies in one page */
    uint32_t mode;
    atomic_uint next_hash;
    uint32_t next_page, next_crossing;
    uint32_t incoming;   /* first link to this block */
    uint32_t first_link; /* of its own, which are link_count in a row */
    uint8_t link_count;
    uint32_t first_mark;
    uint16_t mark_count;
    uint16_t guest_bytes;
    uint32_t source; /* where they are kept: soft_cache.source */
    bool vectors;    /* some instruction uses x87, MMX, SSE or AVX state */
    bool dropped;    /* its guest bytes changed: found by nobody any more */
    uint32_t code_size;
    uint8_t *code; /* executable address */
    uint8_t *cold; /* and of what is seldom executed: out of the way of the rest */
    uint32_t cold_size;
    uint8_t *entry;  /* where C and near links come in, with the host's flags */
    uint8_t *polled; /* the same behind a look for attention */
    bool looks;      /* every way out of the block has one, too */
    /*
     * Where far links and the jump caches lead, with the address in HOST_S1: it leaves unless the fetch table says that this block's page is
     * mapped there, and fetches flags from CTX_SAVE_FLAGS where they are wanted. check: writable address of the page's number in it.
     */
    uint8_t *dispatch;
    uint8_t *check;
    /*
     * Returns to the page of the call come in behind that look, landing_off bytes after dispatch: nothing was unmapped since the call, or
     * the return cache would have forgotten it. stale: writable address of the way out, where a dropped block's returns are sent.
     */
    uint8_t landing_off;
    uint8_t *stale;
};

/* Why translated code was left. A call of common code tells, and behind it stands the operand, in words of 32 bits. */
enum code_exit {
    CODE_EXIT_NEXT,      /* rip is in CTX_TEMP and not in the jump cache; operand: enum code_next */
    CODE_EXIT_LINK,      /* the number of a link that leads nowhere yet; of a far one, rip is in CTX_TEMP */
    CODE_EXIT_MISS,      /* struct cache_miss: a memory access found no shadow entry */
    CODE_EXIT_STEP,      /* guest offset of an instruction that is not translated */
    CODE_EXIT_ATTENTION, /* guest offset where somebody wants this vCPU */
    CODE_EXIT_FAULT,     /* a signal at cpu->host_fault.pc */
    CODE_EXIT_INSN,      /* guest offset of an instruction that is C's, and its number among the sites */
    CODE_EXIT_UNSHARED,  /* rip is in CTX_TEMP: on with a block that shares no lookups */
    CODE_EXIT_STALE,     /* rip is in CTX_TEMP: the number of a block that does not know itself mapped there */
    CODE_EXIT_CALL, /* where an indirect call leads is in CTX_TEMP and not in the jump cache; guest offset of the call, and from here to its code */
    CODE_EXIT_COUNT,
};

/*
 * One for all vCPUs. It changes under code_lock (smp.h); cache_find() and cache_block_at() need no lock, for a block is complete before it is
 * found, and stays what it was until a flush, for which all vCPUs are outside. A dropped block's code may be running still: nothing of it
 * is used again before the next flush.
 */
struct soft_cache {
    struct codemem mem;
    struct block *blocks;
    struct block_mark *marks;
    uint8_t *source;         /* the guest bytes that blocks were made from */
    struct insn *sites;      /* what CODE_EXIT_INSN leaves for, decoded */
    atomic_uint *hash;       /* heads: block numbers */
    uint32_t *page_head;     /* per guest page (mem page index): first block */
    uint32_t *crossing_head; /* and first of the blocks that run on into it */
    atomic_uint block_count; /* blocks below it are complete */
    uint32_t mark_count, site_count;
    uint64_t unaligned[CACHE_UNALIGNED_BITS / 64]; /* a filter of the instructions whose accesses are often not aligned */
    struct block_link *links;
    uint32_t link_count;
    atomic_uint generation; /* of cache_flush(): block and link numbers of an older one mean nothing */
    size_t used, cold_used; /* bytes of mem, and of those from cold_start on */
    size_t cold_start;
    size_t source_used; /* bytes of source */
    size_t common;      /* bytes at the start of mem that stay: exits */
    /* Writable addresses of the common pieces. The second of two restores the flags from CTX_SAVE_FLAGS, and follow_recipe leaves them there. */
    uint8_t *exit, *exit_next, *exit_unshared, *follow_recipe;
    uint8_t *call[CODE_EXIT_COUNT][2];
    struct host_flags host_flags;
    uint64_t links_made, links_cut, blocks_dropped; /* counted; a flush cuts and drops without counting */
};

/* The operand of a lookup that found nothing. */
struct cache_miss {
    int32_t restart; /* from here to the host code of the instruction */
    uint16_t guest_off;
    uint8_t size;
    uint8_t gva_reg : 4; /* the host register that had the address */
    uint8_t write : 1;
    uint8_t mixed : 1; /* it serves reads, after which writes are certain to follow: translate_share.c */
} __attribute__((packed));

struct cache_operand {
    uint32_t word[2];
} __attribute__((packed));

/* What followed the call that led to the exit. */
static inline const void *cache_operand(const struct soft_cpu *cpu)
{
    return (const void *)(uintptr_t)cpu->slot[(CTX_RESUME - CTX_SLOT(0)) / 8];
}

static inline uint32_t cache_operand_word(const struct soft_cpu *cpu, unsigned n)
{
    return ((const struct cache_operand *)cache_operand(cpu))->word[n];
}

/* The address that a lookup found nothing for. */
gva_t cache_miss_gva(const struct soft_cpu *, const struct cache_miss *);

int cache_init(struct soft_vm *, struct err *);
void cache_fini(struct soft_vm *);

/* Whether pc is in translated code. Any thread, signal handlers included. */
bool cache_holds(const struct soft_cache *, const void *pc);

/*
 * The block at (gpa, mode), or NULL. One that runs on into the next page must do so into next_gpa. vCPU thread, inside; what it returns is good
 * until it goes outside.
 */
struct block *cache_find(struct soft_vm *, gpa_t gpa, gpa_t next_gpa, uint32_t mode);

static inline bool block_crosses(const struct block *b)
{
    return b->next_gpa != GPA_INVALID;
}

/* Whether the block lies, whole, in the page of the other one. */
static inline bool block_in_page_of(const struct block *b, const struct block *other)
{
    return !block_crosses(b) && ALIGN_DOWN(b->gpa, PAGE_SIZE) == ALIGN_DOWN(other->gpa, PAGE_SIZE);
}

/* Room for a new block is made by dropping everything when the cache is full. The caller is alone (smp_exclusive_begin()). */
bool cache_full(const struct soft_cache *);
void cache_flush(struct soft_vm *);
/* Enters a translated block, the next one, into the tables. code_lock held, as for the two below. */
void cache_insert(struct soft_vm *, struct block *);
/* Every block of the guest page is unlinked and found no more, but by jump caches. Called by smc.c. */
void cache_drop_page(struct soft_vm *, gpa_t page);
/* Whether some block of the guest page, whose first byte is at hva, was made from other bytes than are there now. */
bool cache_page_differs(struct soft_vm *, gpa_t page, const uint8_t *hva);

/* Whether accesses of the instruction at gpa are often not aligned, as those are of which cache_note_unaligned() was told. */
bool cache_is_unaligned(const struct soft_cache *, gpa_t gpa);
/* Whether the lookup that left found nothing, or, for once, counted down to an end. */
static inline bool cache_is_unaligned_miss(const struct soft_cpu *cpu)
{
    return (int32_t)cpu->slot[(CTX_UNALIGNED - CTX_SLOT(0)) / 8] < 0;
}
/* The instruction of a lookup makes such an access: its block is dropped. */
void cache_note_unaligned(struct soft_vm *, const struct cache_miss *);

/* Where the link leads from now on: a writable address of the code memory. */
void cache_point_link(const struct soft_cache *, const struct block_link *, const uint8_t *target);
/* Resolves a link and enters it in the target's list. */
void cache_link(struct soft_vm *, struct block_link *, struct block *to);
/* Far links to the block were found to lead astray: they are made anew when they are used. */
void cache_cut_far_links(struct soft_vm *, struct block *);

/* The block whose code holds pc, and in it the guest instruction: NULL when none. */
struct block *cache_block_at(struct soft_cache *, const void *pc, const struct block_mark **mark);

/*
 * --- jump caches: rip -> code, one per vCPU and privilege; translated code looks into them inline ---
 *
 * They know nothing of the guest's mappings, and keep what they have when those change: the block itself looks whether it is mapped. Not so
 * the return caches below.
 */

#define JUMP_CACHES 8        /* by BLOCK_USER, BLOCK_CODE32 and BLOCK_UNSHARED; what is in one is for one value of the mode's other bits */
#define JUMP_ENTRIES BIT(18) /* by the low bits of rip but the last, so that a mask of them scales to an entry's size */

struct jump_entry {
    uint64_t tag;  /* rip; in an empty entry what no rip that belongs there can be */
    uint64_t code; /* the block's dispatch */
};

/* Where cache number k is, from the user's read table, where GS points: in the room in front of the tables. */
#define JUMP_CACHE_BYTES (JUMP_ENTRIES * sizeof(struct jump_entry))
#define JUMP_CACHE_DISP(k) (-(int32_t)((JUMP_CACHES - (k)) * JUMP_CACHE_BYTES))

/*
 * In front of these, a cache of return addresses for each, by the stack pointer: a call enters where its return leads, so that returns look
 * at few lines of memory. Its code is a return link's.
 */
#define RETURN_ENTRIES 512
#define RETURN_CACHE_BYTES (RETURN_ENTRIES * sizeof(struct jump_entry))
#define RETURN_CACHE_DISP(k) (JUMP_CACHE_DISP(0) - (int32_t)((JUMP_CACHES - (k)) * RETURN_CACHE_BYTES))

struct jump_cache {
    uint32_t mode; /* of its blocks */
    struct jump_entry *entries, *returns;
    const uint8_t *out; /* executable address of the way to CODE_EXIT_NEXT */
    uint32_t *filled;   /* entries filled since the last flush */
    unsigned filled_count;
};

/* Jump cache number k; tables: the user's read table, in front of which is zeroed memory for all, not owned. */
int jump_cache_init(struct jump_cache *, unsigned k, uint8_t *tables, const struct soft_cache *, struct err *);
void jump_cache_fini(struct jump_cache *);
void jump_cache_flush(struct jump_cache *);
/* Of a vCPU's caches, those of user or supervisor forget where returns lead: a page that code was in may be mapped there no longer. */
void jump_caches_forget_returns(struct jump_cache *, bool user);
void jump_cache_add(struct jump_cache *, uint64_t rip, const struct block *);
/* Jumps to rip are found, and leave all the same. */
void jump_cache_add_out(struct jump_cache *, uint64_t rip);

static inline struct jump_cache *jump_cache_of(struct soft_cpu *cpu, uint32_t mode)
{
    return &cpu->jump[mode & (JUMP_CACHES - 1)];
}

static inline uint32_t jump_index(uint64_t rip)
{
    return (uint32_t)(rip / 2 & (JUMP_ENTRIES - 1));
}

/* The tables' reservation is none of ThreadSanitizer's: shadow.c. */
__attribute__((no_sanitize("thread"))) static inline const void *jump_cache_find(const struct jump_cache *jc, uint64_t rip)
{
    const struct jump_entry *entry = &jc->entries[jump_index(rip)];

    return entry->tag == rip ? (const void *)(uintptr_t)entry->code : NULL;
}

/*
 * A jump to an address that is not canonical faults itself, and nothing of it has happened (SDM vol. 2 CALL, JMP, RET). Translated code finds
 * out when it has happened, for there is no code for such an address. This is how C takes an indirect jump or a return back.
 */
enum code_next {
    CODE_NEXT_OFF = 0xfff,      /* guest offset of the jump in CTX_CODE_PAGE */
    CODE_NEXT_POPPED_SHIFT = 12 /* bytes that it has popped */
};
