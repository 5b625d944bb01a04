/* What a debugger looks at: functions that call each other, data that changes, a fault, strings. By itself it passes. */
#include "test.h"

#define NOINLINE __attribute__((noinline, used))

volatile uint32_t counter;
volatile uint32_t answer = 42;
volatile uint8_t buffer[64] __attribute__((aligned(64)));

/* Its first instruction loads the value, which a debugger may change in the code. The compiler shall not know the result. */
static NOINLINE uint32_t constant(void)
{
    uint32_t value;

    __asm__ volatile("mov $1, %0" : "=a"(value));
    return value;
}

static NOINLINE void half_way(void)
{
    __asm__ volatile("");
}

static NOINLINE uint32_t inner(uint32_t n)
{
    counter += n;
    return counter;
}

static NOINLINE uint32_t outer(uint32_t n)
{
    return inner(n + 1) + 1;
}

static NOINLINE void fill(uint8_t value)
{
    void *to = (void *)(uintptr_t)buffer;
    uint64_t count = sizeof(buffer);

    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory");
}

static void functions_call_each_other(void)
{
    counter = 0;
    check_eq(outer(1), 3);
    check_eq(outer(2), 6);
    check_eq(outer(3), 10);
    print("# the answer is %u\n", answer);
}

static void code_runs_often(void)
{
    uint32_t sum = 0;

    for (unsigned i = 0; i < 2000; i++)
        sum += constant();
    print("# the sum is %u\n", sum);
    half_way();
    sum = 0;
    for (unsigned i = 0; i < 2000; i++)
        sum += constant();
    print("# the sum is %u\n", sum);
}

static void memory_is_filled(void)
{
    fill(7);
    check_eq(buffer[63], 7);
}

static void a_fault_is_survived(void)
{
    TRY("ud2", : : : "memory");
    check_fault(EXC_UD, 0);
}

GUEST_TESTS({"functions call each other", functions_call_each_other}, {"code runs often", code_runs_often},
            {"memory is filled", memory_is_filled}, {"a fault is survived", a_fault_is_survived});
