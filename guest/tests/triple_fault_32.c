/* Ends by a triple fault in protected mode without paging: a stack that no frame can be pushed on, and no way to change it. */
#include "test.h"

static void triple_fault(void)
{
    print("about to triple-fault\n");
    gdt[SEL_TEST / 8] = desc(0, 0, DESC_P | DESC_DATA | DESC_DB);
    __asm__ volatile("mov %0, %%ss\n\tmov $0x100, %%esp\n\tpush $0" : : "r"(SEL_TEST));
}

GUEST_TESTS({"a stack without room is a triple fault", triple_fault});
