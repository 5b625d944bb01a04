/* What vCPUs do to each other: the lock of the code cache, lending a vCPU's tables, and running alone. */
#include "engine/soft/smp.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>

#include "base/bug.h"
#include "engine/soft/cache.h"

#define SPINS 200 /* a vCPU inside is mostly a block away from its boundary */

/* A system call keeps the vector registers; libc's way to it need not. */
static long system_call(long number, const void *a, long b, long c)
{
    register long r10 __asm__("r10") = 0;
    long result;

    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return result;
}

/* An interrupted or needless wait is no harm: all callers look again. */
static void wait_while(atomic_uint *word, unsigned value)
{
    system_call(SYS_futex, word, FUTEX_WAIT_PRIVATE, value);
}

static void wake_all(atomic_uint *word)
{
    system_call(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX);
}

static void pause_host(void)
{
    __asm__ volatile("pause");
}

void smp_relax(void)
{
    system_call(SYS_sched_yield, NULL, 0, 0);
}

/* The code cache's memory was used anew: nothing that this CPU has fetched of it may be executed (SDM vol. 3 8.1.3). */
static void serialize(struct soft_cpu *cpu)
{
    uint32_t generation = atomic_load_explicit(&cpu->svm->cache->generation, memory_order_relaxed);
    uint32_t a = 0, b, c = 0, d;

    if (cpu->seen_generation == generation)
        return;
    cpu->seen_generation = generation;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}

void smp_enter(struct soft_cpu *cpu)
{
    unsigned gate = 0;

    while (!atomic_compare_exchange_strong(&cpu->gate, &gate, GATE_INSIDE)) {
        BUG_ON(gate & GATE_INSIDE);
        wait_while(&cpu->gate, gate);
        gate = 0;
    }
    serialize(cpu);
}

void smp_leave(struct soft_cpu *cpu)
{
    unsigned before = atomic_fetch_and(&cpu->gate, ~GATE_INSIDE);

    BUG_ON(!(before & GATE_INSIDE));
    if (before >= GATE_WANTED)
        wake_all(&cpu->gate);
}

/* --- code_lock: 0 free, 1 held, 2 held and somebody may be waiting --- */

void smp_lock(struct soft_cpu *cpu)
{
    atomic_uint *lock = &cpu->svm->code_lock;
    unsigned expected = 0;

    if (atomic_compare_exchange_strong(lock, &expected, 1))
        return;
    smp_leave(cpu);
    while (atomic_exchange(lock, 2) != 0)
        wait_while(lock, 2);
    smp_enter(cpu); /* who has borrowed this one meanwhile does not wait for the lock */
}

void smp_unlock(struct soft_cpu *cpu)
{
    if (atomic_exchange(&cpu->svm->code_lock, 0) == 2)
        wake_all(&cpu->svm->code_lock);
}

/* --- borrowing --- */

void smp_borrow(struct soft_cpu *other)
{
    unsigned gate = atomic_fetch_add(&other->gate, GATE_WANTED) + GATE_WANTED;
    unsigned spins = 0;

    if (gate & GATE_INSIDE)
        soft_want_attention(other);
    for (;;) {
        if (!(gate & (GATE_INSIDE | GATE_BORROWED))) {
            if (atomic_compare_exchange_weak(&other->gate, &gate, gate | GATE_BORROWED))
                return;
            continue;
        }
        if (spins++ < SPINS)
            pause_host();
        else
            wait_while(&other->gate, gate);
        gate = atomic_load(&other->gate);
    }
}

void smp_return(struct soft_cpu *other)
{
    atomic_fetch_sub(&other->gate, GATE_WANTED | GATE_BORROWED);
    wake_all(&other->gate);
}

/* Comes in before those that want to borrow this vCPU, as all others are outside; they get it at the next boundary. */
static void enter_first(struct soft_cpu *cpu)
{
    unsigned gate = atomic_load(&cpu->gate);

    for (;;) {
        if (gate & GATE_BORROWED) {
            wait_while(&cpu->gate, gate);
            gate = atomic_load(&cpu->gate);
        } else if (atomic_compare_exchange_weak(&cpu->gate, &gate, gate | GATE_INSIDE)) {
            break;
        }
    }
    if (gate >= GATE_WANTED)
        soft_want_attention(cpu);
    serialize(cpu);
}

void smp_exclusive_begin(struct soft_cpu *cpu)
{
    const struct soft_vm *svm = cpu->svm;

    smp_lock(cpu);
    smp_leave(cpu);
    for (unsigned i = 0; i < svm->cpu_count; i++)
        if (svm->cpus[i] != cpu)
            smp_borrow(svm->cpus[i]);
    enter_first(cpu);
}

void smp_exclusive_end(struct soft_cpu *cpu)
{
    const struct soft_vm *svm = cpu->svm;

    for (unsigned i = 0; i < svm->cpu_count; i++)
        if (svm->cpus[i] != cpu)
            smp_return(svm->cpus[i]);
    smp_unlock(cpu);
}
