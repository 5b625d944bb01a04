/* The library itself: the console, the boot information, a fault taken and survived in each ring. */
#include "test.h"

static void entered_by_a_protocol(void)
{
    print("# entered by %s, command line \"%s\"\n", guest_protocol(), guest_cmdline());
    check(memcmp(guest_protocol(), "unknown", 7) != 0);
}

static void fault_is_survived(void)
{
    TRY("ud2", : : : "memory");
    check_fault(EXC_UD, 0);
    check_eq(fault.cs, SEL_KCODE);
}

static void nothing_is_no_fault(void)
{
    TRY("nop", : : : "memory");
    check_no_fault();
}

static void ring3_faults_and_returns(void)
{
    uint32_t cs = 0;

    TRY_USER("mov %%cs, %0", : "=r"(cs) : : "memory");
    check_no_fault();
    check_eq(cs, SEL_UCODE);
    TRY_USER("cli", : : : "memory");
    check_fault(EXC_GP, 0);
    check_eq(fault.cs, SEL_UCODE);
    check_eq(fault.ss, SEL_UDATA);
}

GUEST_TESTS({"entered by a known protocol", entered_by_a_protocol}, {"a fault is recorded and survived", fault_is_survived},
            {"no fault is recorded where there is none", nothing_is_no_fault},
            {"ring 3 is entered and left, by a fault too", ring3_faults_and_returns});
