/* Which guest pages hold translated code: marks, revocation of write entries, dropping what was written to. */
#include "engine/soft/smc.h"

#include <errno.h>
#include <sys/mman.h>

#include "engine/soft/cache.h"
#include "engine/soft/mmu.h"
#include "engine/soft/ram.h"

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

void smc_protect(struct soft_vm *svm, gpa_t gpa)
{
    uint64_t page = ram_page(svm->mem, gpa);
    uint64_t writers;

    if (page == RAM_NO_PAGE || smc_page_has_code(svm, page))
        return;
    atomic_store(&svm->pages->code[page], 1);
    writers = atomic_exchange(&svm->pages->writers[page], 0);
    for (unsigned i = 0; i < svm->cpu_count; i++)
        if (writers & BIT(i))
            mmu_revoke(svm->cpus[i], page);
}

bool smc_has_code(const struct soft_vm *svm, gpa_t gpa)
{
    uint64_t page = ram_page(svm->mem, gpa);

    return page != RAM_NO_PAGE && smc_page_has_code(svm, page);
}

void smc_written(struct soft_vm *svm, gpa_t gpa, uint64_t len)
{
    const struct mem *mem = svm->mem;
    gpa_t last = gpa + len - 1;

    if (len == 0)
        return;
    if (last < gpa)
        last = UINT64_MAX;
    for (unsigned i = 0; i < mem->region_count; i++) {
        const struct mem_region *r = &mem->regions[i];
        gpa_t from = MAX(gpa, r->gpa), to = MIN(last, r->gpa + r->size - 1);

        if (from > to)
            continue;
        for (uint64_t n = (from - r->gpa) >> PAGE_SHIFT; n <= (to - r->gpa) >> PAGE_SHIFT; n++) {
            _Atomic uint8_t *code = &svm->pages->code[r->first_page + n];

            /* The mark first: code that is translated while the old one is dropped marks the page again. */
            if (!atomic_load(code) || !atomic_exchange(code, 0))
                continue;
            atomic_fetch_add_explicit(&svm->pages->dropped, 1, memory_order_relaxed);
            cache_drop_page(svm, r->gpa + (n << PAGE_SHIFT));
        }
    }
}
