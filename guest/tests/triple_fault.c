/* Ends by a triple fault: an exception with no IDT to take it. */
#include "test.h"

static void triple_fault(void)
{
    print("about to triple-fault\n");
    lidt(NULL, 0);
    __asm__ volatile("ud2");
}

GUEST_TESTS({"no IDT is a triple fault", triple_fault});
