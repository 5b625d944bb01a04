/* Access to the guest's linear memory: translation, fills, reads and writes, the fetch cache, flushes. */
#include "engine/soft/mmu.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/soft/cache.h"
#include "engine/soft/debugger.h"
#include "engine/soft/lapic.h"
#include "engine/soft/lockstep.h"
#include "engine/soft/ram.h"
#include "engine/soft/run.h"
#include "engine/soft/shadow.h"
#include "engine/soft/smc.h"
#include "engine/soft/walk.h"

#define FETCH_ENTRIES 4096 /* a power of two */

struct fetch_entry {
    uint64_t tag; /* gva of the page | 1 for user code */
    uint32_t gen; /* valid while equal to fetch_gen[global] */
    bool global;
    bool anew;     /* as mmu_fetched_anew() says */
    uint8_t shift; /* of the guest's mapping */
    gpa_t gpa;
    const uint8_t *hva;
};

struct soft_mmu {
    struct soft_shadow shadow;
    uint32_t fetch_gen[2]; /* [global]; never 0, so that zeroed entries are invalid */
    struct fetch_entry fetch[FETCH_ENTRIES];
    uint32_t fetches_lost[2]; /* the shadow tables' when the return caches were right */
};

/* One page of an access: where its bytes are. */
struct span {
    uint8_t *hva;  /* NULL: a bus access at gpa */
    gpa_t gpa;     /* known unless it came from the shadow tables */
    uint64_t page; /* guest memory's page that may hold code; RAM_NO_PAGE where it cannot */
};

struct __attribute__((packed, may_alias)) word16 {
    uint16_t v;
};
struct __attribute__((packed, may_alias)) word32 {
    uint32_t v;
};
struct __attribute__((packed, may_alias)) word64 {
    uint64_t v;
};

/*
 * memcpy is libc. The usual sizes are one access each, as the guest's other vCPUs expect of an instruction's
 * operand.
 */
static void copy(void *to, const void *from, size_t n)
{
    switch (n) {
    case 1: *(uint8_t *)to = *(const uint8_t *)from; return;
    case 2: ((struct word16 *)to)->v = ((const struct word16 *)from)->v; return;
    case 4: ((struct word32 *)to)->v = ((const struct word32 *)from)->v; return;
    case 8: ((struct word64 *)to)->v = ((const struct word64 *)from)->v; return;
    default: __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    }
}

int mmu_init(struct soft_cpu *cpu, struct err *e)
{
    struct soft_mmu *mmu = calloc(1, sizeof(*mmu));
    int rc;

    if (!mmu)
        return err_set(e, ENOMEM, "out of memory for the MMU of a vCPU");
    rc = shadow_init(&mmu->shadow, cpu->svm->mem->page_count, e);
    if (rc < 0) {
        free(mmu);
        return rc;
    }
    mmu->fetch_gen[0] = mmu->fetch_gen[1] = 1;
    cpu->mmu = mmu;
    return 0;
}

void mmu_fini(struct soft_cpu *cpu)
{
    if (!cpu->mmu)
        return;
    shadow_fini(&cpu->mmu->shadow);
    free(cpu->mmu);
    cpu->mmu = NULL;
}

/* The LAPIC's registers answer at this address, before any RAM (SDM vol. 3 11.4.1). */
static bool is_apic_page(const struct soft_cpu *cpu, gpa_t gpa)
{
    return ((gpa ^ cpu->apic_base) & ~PAGE_MASK) == 0 && (cpu->apic_base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC)) == APIC_BASE_ENABLE;
}

/* Linear addresses outside 64-bit code wrap at 4 GiB. */
static gva_t wrap(const struct soft_cpu *cpu, gva_t gva, unsigned access)
{
    return !cpu->long_mode || (cpu->code_bits != 64 && !(access & MMU_SUPERVISOR)) ? (uint32_t)gva : gva;
}

int mmu_translate(struct soft_cpu *cpu, gva_t gva, unsigned access, struct mmu_target *target)
{
    const struct mem_region *r;
    struct mmu_mapping m;
    int rc = mmu_walk(cpu, wrap(cpu, gva, access), access, &m);

    if (rc != SOFT_OK)
        return rc;
    *target = (struct mmu_target){.gpa = m.gpa, .global = m.global, .large = m.shift > PAGE_SHIFT};
    r = ram_find(cpu->svm->mem, m.gpa);
    if (r && !is_apic_page(cpu, m.gpa) && !((access & MMU_WRITE) && (r->flags & MEM_READONLY)))
        target->hva = r->hva + (m.gpa - r->gpa);
    return SOFT_OK;
}

/* --- filling --- */

/* Returns come in behind the look whether their page is mapped: where it may no longer be, they are forgotten. */
static void forget_returns(struct soft_cpu *cpu)
{
    struct soft_mmu *mmu = cpu->mmu;

    for (unsigned user = 0; user < 2; user++) {
        if (mmu->fetches_lost[user] == mmu->shadow.fetches_lost[user])
            continue;
        mmu->fetches_lost[user] = mmu->shadow.fetches_lost[user];
        jump_caches_forget_returns(cpu->jump, user);
    }
}

static enum fill_cause fill_cause(const struct soft_cpu *cpu, const struct shadow_fill *f, bool write, bool dirtied)
{
    if (!write)
        return FILL_READ;
    if (!shadow_lookup(&cpu->mmu->shadow, f->gva, f->user, false))
        return FILL_WRITE;
    return dirtied ? FILL_DIRTIED : FILL_ALLOWED;
}

static void tell_of_fill(struct soft_cpu *cpu, gva_t gva, gpa_t gpa)
{
    struct trace *trace = &cpu->svm->vm->trace;

    if (trace_is_open(trace))
        soft_vec_park(cpu);
    trace_fill(trace, cpu->vcpu->index, gva, gpa);
}

/*
 * Walks and, where the access may go straight to memory from now on, fills the shadow entry. SOFT_FAULT, or
 * SOFT_OK with the span; *filled says whether the next access of this kind finds its entry.
 */
static int walk_and_fill(struct soft_cpu *cpu, gva_t gva, unsigned access, struct span *span, bool *filled)
{
    bool user = mmu_access_is_user(cpu, access), write = access & MMU_WRITE, writable;
    const struct mem_region *r;
    struct shadow_fill fill;
    struct mmu_mapping m;
    int rc = mmu_walk(cpu, gva, access, &m);

    *filled = false;
    if (rc != SOFT_OK)
        return rc;
    *span = (struct span){.gpa = m.gpa, .page = RAM_NO_PAGE};
    r = ram_find(cpu->svm->mem, m.gpa);
    if (!r || is_apic_page(cpu, m.gpa) || (write && (r->flags & MEM_READONLY)))
        return SOFT_OK;
    span->hva = r->hva + (m.gpa - r->gpa);
    span->page = r->first_page + ((m.gpa - r->gpa) >> PAGE_SHIFT);
    writable = m.writable && m.dirty && !(r->flags & MEM_READONLY) && (write || !smc_page_has_code(cpu->svm, span->page)) &&
               smc_may_write(cpu->svm, span->page, cpu->vcpu->index);
    if ((write && !writable) || (access & MMU_FETCH) || (cpu->debugger && debugger_watches(cpu, gva)))
        return SOFT_OK;
    fill = (struct shadow_fill){
        .gva = gva,
        .hva = span->hva - (m.gpa & PAGE_MASK),
        .page = span->page,
        .shift = m.shift,
        .user = user,
        .write = writable,
        .global = m.global,
    };
    cpu->stats.fills[fill_cause(cpu, &fill, write, m.dirtied)]++;
    uint32_t changes = mmu_changes(cpu);
    shadow_fill(&cpu->mmu->shadow, &fill);
    if (mmu_changes(cpu) != changes)
        soft_forget_stacks(cpu); /* a list was full */
    tell_of_fill(cpu, gva, m.gpa);
    cpu->stats.shadow_fills++;
    if (cpu->mmu->shadow.reclaim)
        soft_want_attention(cpu);
    *filled = true;
    return SOFT_OK;
}

void mmu_note_miss(struct soft_cpu *cpu, gva_t gva, unsigned access)
{
    struct soft_shadow *shadow = &cpu->mmu->shadow;

    if (access & MMU_FETCH)
        shadow_note_fetch_miss(shadow, gva);
    else
        shadow_note_miss(shadow, gva, mmu_access_is_user(cpu, access), access & MMU_WRITE);
    if (shadow->reclaim)
        soft_want_attention(cpu);
}

int mmu_fill(struct soft_cpu *cpu, gva_t gva, unsigned access)
{
    struct span span;
    bool filled;
    int rc = walk_and_fill(cpu, gva, access, &span, &filled);

    if (rc == SOFT_OK && filled) {
        cpu->stats.misses_filled++;
        return SOFT_OK;
    }
    if (rc != SOFT_OK)
        cpu->stats.misses_faulted++;
    else if (!span.hva)
        cpu->stats.misses_device++;
    else
        cpu->stats.misses_protected++;
    mmu_note_miss(cpu, gva, access);
    return SOFT_SLOW;
}

bool mmu_has_write_entry(const struct soft_cpu *cpu, gva_t gva)
{
    return shadow_lookup(&cpu->mmu->shadow, gva, cpu->cpl == 3, true);
}

/*
 * The shadow tables serve step like a TLB: the first access of a page walks, the others do not. They see bits 47:0 alone:
 * a structure that begins at a canonical address (the TSS) may run on past the last one.
 */
static int span_find(struct soft_cpu *cpu, gva_t gva, unsigned access, struct span *span)
{
    bool filled;

    if (!gva_is_canonical(gva))
        return soft_raise_err(cpu, EXC_GP, 0);
    if (!(access & MMU_FETCH)) {
        uint64_t addend = shadow_lookup(&cpu->mmu->shadow, gva, mmu_access_is_user(cpu, access), access & MMU_WRITE);

        if (addend) {
            *span = (struct span){.hva = (uint8_t *)(uintptr_t)(addend + gva), .gpa = GPA_INVALID, .page = RAM_NO_PAGE};
            return SOFT_OK;
        }
    }
    int result = walk_and_fill(cpu, gva, access, span, &filled);
    if (!filled && !(access & MMU_FETCH))
        mmu_note_miss(cpu, gva, access);
    return result;
}

/* --- access --- */

/* The first address of the next page. */
static gva_t page_after(const struct soft_cpu *cpu, gva_t gva, unsigned access)
{
    return wrap(cpu, (gva | PAGE_MASK) + 1, access);
}

/* The largest naturally aligned piece at the start of n bytes at gpa. */
static unsigned mmio_piece(gpa_t gpa, unsigned n)
{
    unsigned size = 8;

    while (size > n || (gpa & (size - 1)))
        size /= 2;
    return size;
}

/* The LAPIC has 32-bit registers on 16-byte boundaries; between them nothing answers (SDM vol. 3 11.4.1). */
static uint64_t apic_read(struct soft_cpu *cpu, unsigned off, unsigned size)
{
    uint32_t value;

    if (off & 0xc)
        return 0;
    value = lapic_mmio_read(cpu, off & ~3U);
    return value >> (off & 3) * 8 & (size < 4 ? BIT(size * 8) - 1 : UINT32_MAX);
}

static void apic_write(struct soft_cpu *cpu, unsigned off, unsigned size, uint64_t value)
{
    if (size >= 4 && !(off & 0xf))
        lapic_mmio_write(cpu, off, (uint32_t)value);
}

static void mmio_read(struct soft_cpu *cpu, gpa_t gpa, uint8_t *buf, unsigned n)
{
    soft_vec_park(cpu);
    while (n > 0) {
        unsigned size = mmio_piece(gpa, n);
        uint64_t value = is_apic_page(cpu, gpa) ? apic_read(cpu, gpa & PAGE_MASK, size) : vcpu_mmio_read(cpu->vcpu, gpa, size);

        copy(buf, &value, size);
        gpa += size;
        buf += size;
        n -= size;
    }
}

static void mmio_write(struct soft_cpu *cpu, gpa_t gpa, const uint8_t *buf, unsigned n)
{
    soft_vec_park(cpu);
    while (n > 0) {
        unsigned size = mmio_piece(gpa, n);
        uint64_t value = 0;

        copy(&value, buf, size);
        if (is_apic_page(cpu, gpa))
            apic_write(cpu, gpa & PAGE_MASK, size, value);
        else
            vcpu_mmio_write(cpu->vcpu, gpa, size, value);
        gpa += size;
        buf += size;
        n -= size;
    }
}

int mmu_read(struct soft_cpu *cpu, gva_t gva, void *buf, unsigned n, unsigned access)
{
    uint8_t *to = buf;

    if (cpu->debugger)
        debugger_note(cpu, gva, n, access);
    while (n > 0) {
        unsigned here = MIN(n, PAGE_SIZE - (gva & PAGE_MASK));
        struct span span;
        int rc = span_find(cpu, gva, access, &span);

        if (rc != SOFT_OK)
            return rc;
        if (span.hva)
            copy(to, span.hva, here);
        else
            mmio_read(cpu, span.gpa, to, here);
        to += here;
        n -= here;
        gva = page_after(cpu, gva, access);
    }
    return SOFT_OK;
}

static void span_write(struct soft_cpu *cpu, const struct span *span, const uint8_t *from, unsigned n)
{
    if (!span->hva) {
        mmio_write(cpu, span->gpa, from, n);
        return;
    }
    lockstep_note(cpu, span->hva, n);
    copy(span->hva, from, n);
    if (span->page != RAM_NO_PAGE && smc_page_has_code(cpu->svm, span->page))
        smc_written(cpu->svm, span->gpa, n, SMC_GUEST);
}

int mmu_write(struct soft_cpu *cpu, gva_t gva, const void *buf, unsigned n, unsigned access)
{
    unsigned first = MIN(n, PAGE_SIZE - (gva & PAGE_MASK));
    struct span span[2];
    int rc;

    if (n == 0)
        return SOFT_OK;
    access |= MMU_WRITE;
    if (cpu->debugger)
        debugger_note(cpu, gva, n, access);
    rc = span_find(cpu, gva, access, &span[0]);
    if (rc == SOFT_OK && n > first)
        rc = span_find(cpu, page_after(cpu, gva, access), access, &span[1]);
    if (rc != SOFT_OK)
        return rc;
    span_write(cpu, &span[0], buf, first);
    if (n > first)
        span_write(cpu, &span[1], (const uint8_t *)buf + first, n - first);
    return SOFT_OK;
}

int mmu_host(struct soft_cpu *cpu, gva_t gva, unsigned n, unsigned access, void **hva)
{
    struct span span;
    int rc;

    *hva = NULL;
    if (n > PAGE_SIZE - (gva & PAGE_MASK))
        return SOFT_OK;
    if (cpu->debugger)
        debugger_note(cpu, gva, n, access);
    rc = span_find(cpu, gva, access, &span);
    if (rc != SOFT_OK)
        return rc;
    *hva = span.hva;
    if ((access & MMU_WRITE) && span.hva)
        lockstep_note(cpu, span.hva, n);
    if ((access & MMU_WRITE) && span.hva && span.page != RAM_NO_PAGE && smc_page_has_code(cpu->svm, span.page))
        smc_written(cpu->svm, span.gpa, n, SMC_GUEST);
    return SOFT_OK;
}

/* --- the instruction side --- */

int mmu_fetch(struct soft_cpu *cpu, gva_t gva, gpa_t *gpa, const uint8_t **hva)
{
    struct soft_mmu *mmu = cpu->mmu;
    uint64_t off = gva & PAGE_MASK;
    uint64_t tag = (gva - off) | (cpu->cpl == 3);
    struct fetch_entry *f = &mmu->fetch[(gva >> PAGE_SHIFT) % FETCH_ENTRIES];

    if (f->tag != tag || f->gen != mmu->fetch_gen[f->global]) {
        const struct mem_region *r;
        struct mmu_mapping m;
        int rc = mmu_walk(cpu, gva, MMU_FETCH, &m);

        cpu->stats.fetch_walks++;
        if (rc != SOFT_OK)
            return rc;
        r = ram_find(cpu->svm->mem, m.gpa);
        if (!r || is_apic_page(cpu, m.gpa)) {
            *gpa = m.gpa;
            *hva = NULL;
            return SOFT_OK;
        }
        *f = (struct fetch_entry){
            .tag = tag,
            .gen = mmu->fetch_gen[m.global],
            .global = m.global,
            .anew = true,
            .shift = (uint8_t)m.shift,
            .gpa = m.gpa - off,
            .hva = r->hva + (m.gpa - off - r->gpa),
        };
        shadow_note_large(&mmu->shadow, gva, m.shift);
    }
    *gpa = f->gpa + off;
    *hva = f->hva + off;
    return SOFT_OK;
}

bool mmu_fetched_anew(struct soft_cpu *cpu, gva_t gva)
{
    struct fetch_entry *f = &cpu->mmu->fetch[(gva >> PAGE_SHIFT) % FETCH_ENTRIES];
    bool anew = f->anew;

    f->anew = false;
    return anew;
}

bool mmu_allow_fetch(struct soft_cpu *cpu, gva_t gva)
{
    struct soft_mmu *mmu = cpu->mmu;
    const struct fetch_entry *f = &mmu->fetch[(gva >> PAGE_SHIFT) % FETCH_ENTRIES];

    if (f->tag != (ALIGN_DOWN(gva, PAGE_SIZE) | (cpu->cpl == 3)) || f->gen != mmu->fetch_gen[f->global])
        return false;
    shadow_allow_fetch(&mmu->shadow, gva, ram_page(cpu->svm->mem, f->gpa), f->shift, cpu->cpl == 3, f->global);
    forget_returns(cpu); /* the list was full */
    if (mmu->shadow.reclaim)
        soft_want_attention(cpu);
    return true;
}

static void fetch_flush(struct soft_mmu *mmu, bool global)
{
    if (++mmu->fetch_gen[global] != 0)
        return;
    /* After 2^32 flushes old entries would come to life again. */
    mmu->fetch_gen[global] = 1;
    for (unsigned i = 0; i < FETCH_ENTRIES; i++)
        *(volatile uint32_t *)&mmu->fetch[i].gen = 0;
}

/* --- flushing --- */

void mmu_flush_all(struct soft_cpu *cpu)
{
    soft_forget_stacks(cpu);
    cpu->stats.flushes_all++;
    shadow_flush(&cpu->mmu->shadow, true);
    forget_returns(cpu);
    fetch_flush(cpu->mmu, false);
    fetch_flush(cpu->mmu, true);
}

void mmu_flush_nonglobal(struct soft_cpu *cpu)
{
    soft_forget_stacks(cpu);
    cpu->stats.flushes_nonglobal++;
    shadow_flush(&cpu->mmu->shadow, false);
    forget_returns(cpu);
    fetch_flush(cpu->mmu, false);
}

void mmu_flush_page(struct soft_cpu *cpu, gva_t gva)
{
    struct fetch_entry *f = &cpu->mmu->fetch[(gva >> PAGE_SHIFT) % FETCH_ENTRIES];

    soft_forget_stacks(cpu);
    cpu->stats.flushes_page++;
    bool large = shadow_flush_page(&cpu->mmu->shadow, gva);
    forget_returns(cpu);
    if (large) {
        cpu->stats.flushes_large_page++;
        fetch_flush(cpu->mmu, false);
        fetch_flush(cpu->mmu, true);
        return;
    }
    if (((f->tag ^ gva) & ~PAGE_MASK) == 0)
        f->gen = 0;
}

uint32_t mmu_changes(const struct soft_cpu *cpu)
{
    return cpu->mmu->shadow.changes;
}

void mmu_revoke(struct soft_cpu *cpu, uint64_t page)
{
    soft_forget_stacks(cpu);
    shadow_revoke(&cpu->mmu->shadow, page);
}

void mmu_maintain(struct soft_cpu *cpu)
{
    if (!cpu->mmu->shadow.reclaim)
        return;
    soft_vec_park(cpu);
    soft_forget_stacks(cpu);
    shadow_maintain(&cpu->mmu->shadow);
    forget_returns(cpu);
    fetch_flush(cpu->mmu, false); /* which of its pages are large is forgotten */
    fetch_flush(cpu->mmu, true);
}

const struct shadow_counts *mmu_shadow_counts(const struct soft_cpu *cpu)
{
    return &cpu->mmu->shadow.counts;
}

uint64_t *mmu_table(struct soft_cpu *cpu, bool user)
{
    return cpu->mmu->shadow.table[user];
}

uint64_t mmu_fetch_distance(struct soft_cpu *cpu, bool user)
{
    const struct soft_shadow *s = &cpu->mmu->shadow;

    return (uint64_t)(s->fetch[user] - (uint32_t *)(void *)s->table[1]);
}
