/* Several vCPUs' threads at once: nobody uses tables that are lent, the code lock excludes, and nothing locks up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine/soft/cache.h"
#include "engine/soft/mmu.h"
#include "engine/soft/smc.h"
#include "engine/soft/smp.h"

#define CPUS 4
#define ROUNDS 3000
#define PAGES 4
#define RAM_GPA 0x10000ULL

struct fixture {
    struct vm vm;
    struct mem mem;
    struct soft_vm svm;
    struct soft_cache cache;
    struct vcpu vcpu[CPUS];
    struct soft_cpu cpu[CPUS];
    /* Not atomic: what the protocols guard. TSan sees it when they do not. */
    uint64_t tables[CPUS]; /* a vCPU's own, or its borrower's */
    uint64_t shared;       /* under code_lock */
    uint64_t alone;        /* with all others outside */
    bool may_write[CPUS][PAGES];
    uint64_t bytes[PAGES]; /* of guest memory: written with a write entry, or said */
    uint64_t dropped;
};

/* --- what the rest of the engine would do --- */

static struct fixture *current; /* the fakes below have only vCPUs */

void mmu_revoke(struct soft_cpu *cpu, uint64_t page)
{
    current->may_write[cpu->vcpu->index][page] = false;
    current->tables[cpu->vcpu->index]++;
}

void cache_drop_page(struct soft_vm *svm, gpa_t page)
{
    (void)svm;
    assert_int_equal(page & PAGE_MASK, 0);
    current->dropped++;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    if (!f)
        return -1;
    current = f;
    f->mem.region_count = 1;
    f->mem.page_count = PAGES;
    f->mem.regions[0] = (struct mem_region){.gpa = RAM_GPA, .size = PAGES * PAGE_SIZE};
    f->svm.vm = &f->vm;
    f->svm.mem = &f->mem;
    f->svm.cache = &f->cache;
    f->svm.cpu_count = CPUS;
    for (unsigned i = 0; i < CPUS; i++) {
        f->vcpu[i].index = i;
        f->cpu[i].svm = &f->svm;
        f->cpu[i].vcpu = &f->vcpu[i];
        f->svm.cpus[i] = &f->cpu[i];
    }
    *state = f;
    return smc_init(&f->svm, &e);
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    smc_fini(&f->svm);
    free(f);
    return 0;
}

/* --- what the threads do --- */

static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* As the run loop: attention is answered between two "instructions". */
static void boundary(struct soft_cpu *cpu)
{
    if (!atomic_load(&cpu->attention))
        return;
    atomic_exchange(&cpu->attention, 0);
    smp_yield(cpu);
    smc_service(cpu);
}

static void be_alone(struct fixture *f, struct soft_cpu *cpu)
{
    smp_exclusive_begin(cpu);
    f->alone++;
    for (unsigned i = 0; i < CPUS; i++)
        f->tables[i]++;
    smp_exclusive_end(cpu);
}

/* As an instruction that stores: by a write entry, or saying so. */
static void store(struct fixture *f, struct soft_cpu *cpu, unsigned page)
{
    unsigned self = cpu->vcpu->index;

    f->tables[self]++;
    if (!f->may_write[self][page]) {
        if (smc_may_write(&f->svm, page, self))
            f->may_write[self][page] = true;
        else
            smc_written(&f->svm, RAM_GPA + page * PAGE_SIZE, 8, SMC_GUEST);
    }
    /* Not as several vCPUs may write one word, which is the guest's affair: only what the translator reads counts here. */
    __atomic_fetch_add(&f->bytes[page], 1, __ATOMIC_RELAXED);
}

/* As translate_find(): while it holds the lock on a protected page, nobody can have a write entry for it. */
static void translate(struct fixture *f, struct soft_cpu *cpu, unsigned page)
{
    gpa_t gpa = RAM_GPA + page * PAGE_SIZE;

    smc_protect(cpu, gpa);
    smp_lock(cpu);
    smc_drop_stale(&f->svm);
    f->shared++;
    if (smc_is_protected(&f->svm, gpa))
        assert_false(f->may_write[cpu->vcpu->index][page]);
    smp_unlock(cpu);
}

static void *vcpu_thread(void *arg)
{
    struct soft_cpu *cpu = arg;
    struct fixture *f = current;
    uint64_t seed = 0x9e3779b97f4a7c15ULL + cpu->vcpu->index;

    smp_enter(cpu);
    for (unsigned i = 0; i < ROUNDS; i++) {
        unsigned what = next(&seed) % 64, page = seed >> 32 & (PAGES - 1);

        if (what == 0) {
            be_alone(f, cpu);
        } else if (what == 1) { /* HLT */
            smp_leave(cpu);
            smp_relax();
            smp_enter(cpu);
        } else if (what < 8) {
            translate(f, cpu, page);
        } else {
            store(f, cpu, page);
        }
        boundary(cpu);
    }
    smp_leave(cpu);
    return NULL;
}

static void *device_thread(void *arg)
{
    struct fixture *f = arg;

    for (unsigned i = 0; i < ROUNDS / 4; i++) {
        __atomic_fetch_add(&f->bytes[i % PAGES], 1, __ATOMIC_RELAXED);
        smc_written(&f->svm, RAM_GPA + i % PAGES * PAGE_SIZE, PAGE_SIZE, SMC_GUEST);
        smp_relax();
    }
    return NULL;
}

static void vcpus_and_a_device_come_through_a_random_history(void **state)
{
    struct fixture *f = *state;
    pthread_t thread[CPUS], device;

    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, vcpu_thread, &f->cpu[i]), 0);
    assert_int_equal(pthread_create(&device, NULL, device_thread, f), 0);
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(pthread_join(thread[i], NULL), 0);
    assert_int_equal(pthread_join(device, NULL), 0);
    assert_true(f->alone > 0 && f->shared > 0 && f->dropped > 0);
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(atomic_load(&f->cpu[i].gate), 0);
    assert_int_equal(atomic_load(&f->svm.code_lock), 0);
}

static void a_vcpu_that_is_outside_is_borrowed_at_once(void **state)
{
    struct fixture *f = *state;

    smp_borrow(&f->cpu[1]);
    assert_int_equal(atomic_load(&f->cpu[1].attention), 0); /* nobody is disturbed */
    smp_return(&f->cpu[1]);
    assert_int_equal(atomic_load(&f->cpu[1].gate), 0);
}

static void *borrow_and_return(void *arg)
{
    struct fixture *f = arg;

    smp_borrow(&f->cpu[0]);
    f->tables[0]++;
    smp_return(&f->cpu[0]);
    return NULL;
}

static void a_vcpu_that_is_inside_is_lent_at_its_boundary(void **state)
{
    struct fixture *f = *state;
    pthread_t thread;

    smp_enter(&f->cpu[0]);
    assert_int_equal(pthread_create(&thread, NULL, borrow_and_return, f), 0);
    while (!atomic_load(&f->cpu[0].attention))
        smp_relax();
    f->tables[0]++; /* its own as long as it does not yield */
    boundary(&f->cpu[0]);
    assert_int_equal(f->tables[0], 2);
    assert_int_equal(pthread_join(thread, NULL), 0);
    smp_leave(&f->cpu[0]);
}

static void protecting_a_page_takes_the_entries_of_sleepers(void **state)
{
    struct fixture *f = *state;

    smp_enter(&f->cpu[0]);
    store(f, &f->cpu[0], 2);
    store(f, &f->cpu[1], 2);
    store(f, &f->cpu[3], 2);
    assert_true(f->may_write[0][2] && f->may_write[1][2] && f->may_write[3][2]);
    smc_protect(&f->cpu[0], RAM_GPA + 2 * PAGE_SIZE);
    assert_false(f->may_write[0][2] || f->may_write[1][2] || f->may_write[3][2]);
    assert_true(smc_is_protected(&f->svm, RAM_GPA + 2 * PAGE_SIZE));
    store(f, &f->cpu[1], 2);
    assert_false(f->may_write[1][2]);
    assert_false(smc_is_protected(&f->svm, RAM_GPA + 2 * PAGE_SIZE));
    for (unsigned i = 0; i < CPUS; i++)
        assert_true(atomic_load(&f->cpu[i].stale));
    smp_leave(&f->cpu[0]);
}

#define SMP_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SMP_TEST(vcpus_and_a_device_come_through_a_random_history),
        SMP_TEST(a_vcpu_that_is_outside_is_borrowed_at_once),
        SMP_TEST(a_vcpu_that_is_inside_is_lent_at_its_boundary),
        SMP_TEST(protecting_a_page_takes_the_entries_of_sleepers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
