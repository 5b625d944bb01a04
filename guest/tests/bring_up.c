/* As many CPUs as there are come up and work at the same time, with nothing that a KVM without hardware could not emulate. */
#include "smp.h"
#include "test.h"

#define ROUNDS 100u

static unsigned sum, seen[SMP_MAX];

static void work(unsigned cpu)
{
    for (unsigned i = 0; i < ROUNDS; i++)
        __atomic_add_fetch(&sum, cpu + 1, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&seen[cpu], 1, __ATOMIC_SEQ_CST);
}

static void all_come_up_and_work(void)
{
    unsigned count = smp_start();

    sum = 0;
    smp_run(count, work);
    check_eq(sum, ROUNDS * count * (count + 1) / 2);
    for (unsigned cpu = 0; cpu < count; cpu++)
        check_eq(seen[cpu], 1);
    print("%u CPUs\n", count);
}

GUEST_TESTS({"all come up and work", all_come_up_and_work});
