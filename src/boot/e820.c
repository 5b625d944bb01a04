/* Builds the e820 map from guest memory and the machine's fixed ranges. */
#include "boot/e820.h"

#include "base/bug.h"
#include "boot/layout.h"

static void add(struct e820_map *map, gpa_t gpa, uint64_t end, uint32_t type)
{
    if (gpa >= end)
        return;
    BUG_ON(map->count == E820_MAX);
    map->range[map->count++] = (struct e820_range){gpa, end - gpa, type};
}

/* Regions ascend by gpa: mem_init() makes low RAM and then high RAM. */
void e820_build(struct e820_map *map, const struct mem *mem)
{
    bool ecam = false;

    map->count = 0;
    for (unsigned i = 0; i < mem->region_count; i++) {
        const struct mem_region *r = &mem->regions[i];
        gpa_t end = r->gpa + r->size;
        uint32_t type = r->flags & MEM_READONLY ? E820_RESERVED : E820_RAM;

        if (!ecam && r->gpa >= BOOT_ECAM_GPA) {
            add(map, BOOT_ECAM_GPA, BOOT_ECAM_GPA + BOOT_ECAM_SIZE, E820_RESERVED);
            ecam = true;
        }
        if (r->gpa == 0) {
            /* Video memory, option ROMs and the ACPI tables are where every PC has them. */
            add(map, 0, MIN(end, BOOT_EBDA_GPA), type);
            add(map, BOOT_EBDA_GPA, BOOT_KERNEL_MIN_GPA, E820_RESERVED);
            add(map, BOOT_KERNEL_MIN_GPA, end, type);
        } else {
            add(map, r->gpa, end, type);
        }
    }
    if (!ecam)
        add(map, BOOT_ECAM_GPA, BOOT_ECAM_GPA + BOOT_ECAM_SIZE, E820_RESERVED);
}
