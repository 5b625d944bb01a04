/* Never ends: spins with interrupts off, so that only what is outside can end the VM. */
#include "test.h"

static void spin(void)
{
    cli();
    print("spinning\n");
    __asm__ volatile("1: jmp 1b");
}

GUEST_TESTS({"spins", spin});
