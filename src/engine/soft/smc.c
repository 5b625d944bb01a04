/* Which guest pages hold translated code: marks, revocation of write entries, dropping what was written to. */
#include "engine/soft/smc.h"

#include <errno.h>
#include <sys/mman.h>

#include "engine/soft/cache.h"
#include "engine/soft/mmu.h"
#include "engine/soft/ram.h"
#include "engine/soft/smp.h"

static void *array_new(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

int smc_init(struct soft_vm *svm, struct err *e)
{
    uint64_t count = MAX(svm->mem->page_count, 1);
    struct soft_pages *pages = array_new(sizeof(*pages));

    if (!pages)
        goto fail;
    pages->count = count;
    pages->code = array_new(count * sizeof(pages->code[0]));
    if (!pages->code)
        goto free_pages;
    pages->writers = array_new(count * sizeof(pages->writers[0]));
    if (!pages->writers)
        goto free_code;
    svm->pages = pages;
    return 0;

free_code:
    munmap(pages->code, count * sizeof(pages->code[0]));
free_pages:
    munmap(pages, sizeof(*pages));
fail:
    return err_set(e, ENOMEM, "cannot allocate the table of %llu guest pages; a smaller --memory needs less", (unsigned long long)count);
}

void smc_fini(struct soft_vm *svm)
{
    struct soft_pages *pages = svm->pages;

    if (!pages)
        return;
    munmap(pages->writers, pages->count * sizeof(pages->writers[0]));
    munmap(pages->code, pages->count * sizeof(pages->code[0]));
    munmap(pages, sizeof(*pages));
    svm->pages = NULL;
}

/* --- marks --- */

/* Borrows the vCPU whose bit it is; self is outside. */
static void revoke_other(struct soft_vm *svm, unsigned i, uint64_t page)
{
    smp_borrow(svm->cpus[i]);
    mmu_revoke(svm->cpus[i], page);
    atomic_fetch_and(&svm->pages->writers[page], ~BIT(i));
    smp_return(svm->cpus[i]);
}

void smc_protect(struct soft_cpu *cpu, gpa_t gpa)
{
    struct soft_vm *svm = cpu->svm;
    uint64_t page = ram_page(svm->mem, gpa), writers;
    uint8_t plain = PAGE_PLAIN;

    if (page == RAM_NO_PAGE)
        return;
    if (atomic_compare_exchange_strong(&svm->pages->code[page], &plain, PAGE_CODE))
        atomic_fetch_add_explicit(&svm->pages->marked, 1, memory_order_relaxed);
    writers = atomic_load(&svm->pages->writers[page]);
    if (writers & BIT(cpu->vcpu->index)) {
        mmu_revoke(cpu, page);
        atomic_fetch_and(&svm->pages->writers[page], ~BIT(cpu->vcpu->index));
        writers &= ~BIT(cpu->vcpu->index);
    }
    if (!writers)
        return;
    smp_leave(cpu);
    for (unsigned i = 0; i < svm->cpu_count; i++)
        if (writers & BIT(i))
            revoke_other(svm, i, page);
    smp_enter(cpu);
}

bool smc_is_protected(const struct soft_vm *svm, gpa_t gpa)
{
    uint64_t page = ram_page(svm->mem, gpa);

    return page == RAM_NO_PAGE || (atomic_load(&svm->pages->code[page]) == PAGE_CODE && atomic_load(&svm->pages->writers[page]) == 0);
}

bool smc_has_code(const struct soft_vm *svm, gpa_t gpa)
{
    uint64_t page = ram_page(svm->mem, gpa);

    return page != RAM_NO_PAGE && smc_page_has_code(svm, page);
}

/* --- what was written to --- */

static void stale_lock(struct soft_pages *pages)
{
    while (atomic_exchange_explicit(&pages->stale_lock, 1, memory_order_acquire))
        while (atomic_load_explicit(&pages->stale_lock, memory_order_relaxed))
            smp_relax();
}

static void stale_unlock(struct soft_pages *pages)
{
    atomic_store_explicit(&pages->stale_lock, 0, memory_order_release);
}

static void page_written(struct soft_vm *svm, uint64_t page, enum smc_writer writer)
{
    struct soft_pages *pages = svm->pages;

    stale_lock(pages);
    if (atomic_load(&pages->code[page]) == PAGE_CODE) {
        atomic_store(&pages->code[page], PAGE_STALE);
        if (pages->stale_count < SMC_STALE_MAX)
            pages->stale[pages->stale_count++] = page;
        else
            pages->more_stale = true;
        atomic_fetch_add_explicit(&pages->written[writer], 1, memory_order_relaxed);
    }
    stale_unlock(pages);
    /* Also where it was stale already: whoever drops it may not be done when this vCPU looks for its code. */
    for (unsigned i = 0; i < svm->cpu_count; i++) {
        atomic_store(&svm->cpus[i]->stale, true);
        soft_want_attention(svm->cpus[i]);
    }
}

void smc_written(struct soft_vm *svm, gpa_t gpa, uint64_t len, enum smc_writer writer)
{
    const struct mem *mem = svm->mem;
    gpa_t last = gpa + len - 1;

    if (len == 0)
        return;
    if (last < gpa)
        last = UINT64_MAX;
    atomic_thread_fence(memory_order_seq_cst); /* the bytes first, the look at the marks then */
    for (unsigned i = 0; i < mem->region_count; i++) {
        const struct mem_region *r = &mem->regions[i];
        gpa_t from = MAX(gpa, r->gpa), to = MIN(last, r->gpa + r->size - 1);

        if (from > to)
            continue;
        for (uint64_t n = (from - r->gpa) >> PAGE_SHIFT; n <= (to - r->gpa) >> PAGE_SHIFT; n++)
            if (smc_page_has_code(svm, r->first_page + n))
                page_written(svm, r->first_page + n, writer);
    }
}

/* --- dropping --- */

static gpa_t page_gpa(const struct soft_vm *svm, uint64_t page)
{
    for (unsigned i = 0; i < svm->mem->region_count; i++) {
        const struct mem_region *r = &svm->mem->regions[i];

        if (page >= r->first_page && page - r->first_page < r->size >> PAGE_SHIFT)
            return r->gpa + ((page - r->first_page) << PAGE_SHIFT);
    }
    return GPA_INVALID;
}

/* The blocks first: while the page is stale nobody fills a write entry. The bytes that come then are announced by marks anew. */
static void drop(struct soft_vm *svm, uint64_t page)
{
    if (atomic_load(&svm->pages->code[page]) != PAGE_STALE)
        return;
    cache_drop_page(svm, page_gpa(svm, page));
    atomic_store(&svm->pages->code[page], PAGE_PLAIN);
}

/* RAM_NO_PAGE: none is left in the list. */
static uint64_t take_stale(struct soft_pages *pages, bool *more)
{
    uint64_t page = RAM_NO_PAGE;

    stale_lock(pages);
    if (pages->stale_count)
        page = pages->stale[--pages->stale_count];
    *more |= pages->more_stale;
    pages->more_stale = false;
    stale_unlock(pages);
    return page;
}

void smc_drop_stale(struct soft_vm *svm)
{
    struct soft_pages *pages = svm->pages;
    bool more = false;
    uint64_t page;

    while ((page = take_stale(pages, &more)) != RAM_NO_PAGE)
        drop(svm, page);
    for (page = 0; more && page < pages->count; page++)
        drop(svm, page);
}

void smc_service(struct soft_cpu *cpu)
{
    if (atomic_load_explicit(&cpu->stale, memory_order_relaxed) && atomic_exchange(&cpu->stale, false)) {
        smp_lock(cpu);
        smc_drop_stale(cpu->svm);
        smp_unlock(cpu);
    }
}
