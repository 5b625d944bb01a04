/* Looking up guest memory where neither libc nor mem.c, which may use vector registers, can be called. */
#pragma once

#include "mem/mem.h"

#define RAM_NO_PAGE UINT64_MAX

static inline const struct mem_region *ram_find(const struct mem *mem, gpa_t gpa)
{
    for (unsigned i = 0; i < mem->region_count; i++)
        if (gpa >= mem->regions[i].gpa && gpa - mem->regions[i].gpa < mem->regions[i].size)
            return &mem->regions[i];
    return NULL;
}

/* The index of the page that holds gpa, or RAM_NO_PAGE. */
static inline uint64_t ram_page(const struct mem *mem, gpa_t gpa)
{
    const struct mem_region *r = ram_find(mem, gpa);

    return r ? r->first_page + ((gpa - r->gpa) >> PAGE_SHIFT) : RAM_NO_PAGE;
}
