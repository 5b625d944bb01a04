/* Writes the flat GDT and the identity page tables (SDM vol. 3 3.4.5, 4.5). */
#include "boot/longmode.h"

#include "boot/layout.h"
#include "boot/ram.h"
#include "x86/paging.h"

#define GDT_CODE64 0x00af9b000000ffffULL /* present, accessed, code, L; base 0 */
#define GDT_CODE32 0x00cf9b000000ffffULL /* present, accessed, code, D, G; 4 GiB */
#define GDT_DATA 0x00cf93000000ffffULL   /* present, accessed, writable, D, G; 4 GiB */

#define BOOT_CS 0x10 /* Linux's __BOOT_CS and __BOOT_DS; the other protocols leave the selectors open */
#define BOOT_DS 0x18

#define GDT_ENTRIES 4
#define MAPPED_GIB 4
#define ENTRIES 512

static int write_gdt(struct mem *mem, uint64_t code, struct err *e)
{
    const uint64_t gdt[GDT_ENTRIES] = {[BOOT_CS / 8] = code, [BOOT_DS / 8] = GDT_DATA};

    return ram_write(mem, BOOT_GDT_GPA, gdt, sizeof(gdt), "the GDT", e);
}

static int write_page_tables(struct mem *mem, struct err *e)
{
    const gpa_t pml4 = BOOT_PAGE_TABLES_GPA, pdpt = pml4 + PAGE_SIZE, pd = pdpt + PAGE_SIZE;
    uint64_t table[ENTRIES] = {pdpt | PTE_P | PTE_W};
    int ret = ram_write(mem, pml4, table, sizeof(table), "page tables", e);

    for (unsigned i = 0; i < MAPPED_GIB; i++)
        table[i] = (pd + i * PAGE_SIZE) | PTE_P | PTE_W;
    if (!ret)
        ret = ram_write(mem, pdpt, table, sizeof(table), "page tables", e);
    for (unsigned i = 0; i < MAPPED_GIB && !ret; i++) {
        for (unsigned j = 0; j < ENTRIES; j++)
            table[j] = (GIB(i) + MIB(2) * j) | PTE_P | PTE_W | PTE_PS;
        ret = ram_write(mem, pd + i * PAGE_SIZE, table, sizeof(table), "page tables", e);
    }
    return ret;
}

int longmode_enter(struct mem *mem, uint64_t rip, struct cpu_state *bsp, struct err *e)
{
    int ret = write_gdt(mem, GDT_CODE64, e);

    if (!ret)
        ret = write_page_tables(mem, e);
    if (ret)
        return ret;
    cpu_state_long64(bsp, rip, BOOT_PAGE_TABLES_GPA, BOOT_GDT_GPA, GDT_ENTRIES * 8 - 1);
    bsp->gpr[GPR_RSP] = BOOT_STACK_TOP;
    return 0;
}

int flat32_enter(struct mem *mem, uint32_t eip, struct cpu_state *bsp, struct err *e)
{
    int ret = write_gdt(mem, GDT_CODE32, e);

    if (ret)
        return ret;
    cpu_state_flat32(bsp, eip);
    bsp->gdtr = (struct cpu_table){.base = BOOT_GDT_GPA, .limit = GDT_ENTRIES * 8 - 1};
    for (unsigned i = 0; i < SEG_COUNT; i++)
        bsp->seg[i].sel = i == SEG_CS ? BOOT_CS : BOOT_DS;
    bsp->gpr[GPR_RSP] = BOOT_STACK_TOP;
    return 0;
}
