/* The software engine behind the engine seam: set-up, the loop that runs guest code, sleep and kicks. */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/soft/cpuid.h"
#include "engine/soft/debugger.h"
#include "engine/soft/kvmclock.h"
#include "engine/soft/lapic.h"
#include "engine/soft/lockstep.h"
#include "engine/soft/mmu.h"
#include "engine/soft/perf_map.h"
#include "engine/soft/recover.h"
#include "engine/soft/run.h"
#include "engine/soft/shadow.h"
#include "engine/soft/smc.h"
#include "engine/soft/smp.h"
#include "engine/soft/state.h"
#include "engine/soft/step.h"
#include "engine/soft/translate.h"
#include "engine/soft/tsc.h"

/* A vCPU's shadow tables take 2.5 TiB of address space, of which a process has 128. */
#define MAX_VCPUS 48

static void soft_probe(struct engine_caps *caps)
{
    *caps = (struct engine_caps){.present = true, .usable = true, .max_vcpus = MAX_VCPUS};
    if (!__builtin_cpu_supports("bmi2")) {
        caps->usable = false;
        snprintf(caps->why, sizeof(caps->why), "the software engine needs a CPU with BMI2 (Haswell, Zen or newer)");
    }
}

/* --- the VM --- */

static void code_changed(void *opaque, gpa_t gpa, size_t len)
{
    smc_written(opaque, gpa, len, SMC_DEVICE);
}

static void soft_vm_fini(struct vm *vm)
{
    struct soft_vm *svm = vm->engine_data;

    if (!svm)
        return;
    vm->mem.code_changed = NULL;
    perf_map_free(svm->perf_map);
    if (svm->cache)
        cache_fini(svm);
    if (svm->pages)
        smc_fini(svm);
    if (svm->cpuid)
        soft_cpuid_fini(svm);
    free(svm->cache);
    free(svm);
    vm->engine_data = NULL;
}

/*
 * For tests and diagnosis, UMBRA_SOFT has words with commas between (docs/testing.md): step runs without the translator, lockstep compares the
 * two, perf makes a map of translated code; translate is what happens without a word.
 */
static int read_mode(struct soft_vm *svm, bool *perf, struct err *e)
{
    const char *word = getenv("UMBRA_SOFT");

    *perf = false;
    while (word && *word) {
        int n = (int)strcspn(word, ",");

        if (n == 4 && strncmp(word, "step", 4) == 0)
            svm->step_only = true;
        else if (n == 8 && strncmp(word, "lockstep", 8) == 0)
            svm->lockstep = true;
        else if (n == 4 && strncmp(word, "perf", 4) == 0)
            *perf = true;
        else if (n != 9 || strncmp(word, "translate", 9) != 0)
            return err_set(
                e, EINVAL,
                "UMBRA_SOFT in the environment has \"%.*s\": it can have step, lockstep, translate and perf, with commas between", n, word);
        word += n + (word[n] == ',');
    }
    return 0;
}

static int make_perf_map(struct soft_vm *svm, struct err *e)
{
    svm->perf_map = perf_map_new(e);
    if (!svm->perf_map)
        return -EIO;
    perf_map_add(svm->perf_map, svm->cache->mem.rx, svm->cache->common, "umbra:exit");
    return 0;
}

static int soft_vm_init(struct vm *vm, struct err *e)
{
    struct soft_vm *svm = calloc(1, sizeof(*svm));
    bool perf = false;
    int error;

    if (!svm)
        return err_set(e, ENOMEM, "cannot allocate the software engine's state");
    vm->engine_data = svm;
    svm->vm = vm;
    svm->mem = &vm->mem;
    svm->many = vm->config.cpus > 1;
    svm->count_insns = vm->config.stats;
    error = read_mode(svm, &perf, e);
    if (!error && svm->lockstep && vm->config.cpus > 1)
        error = err_set(e, EINVAL, "UMBRA_SOFT=lockstep compares what one CPU does: it needs --cpus 1");
    svm->cache = calloc(1, sizeof(*svm->cache));
    if (!error && !svm->cache)
        error = err_set(e, ENOMEM, "cannot allocate the code cache's state");
    if (!error)
        error = tsc_init(svm, e);
    if (!error)
        error = soft_cpuid_init(svm, e);
    if (!error)
        error = smc_init(svm, e);
    if (!error)
        error = cache_init(svm, e);
    if (!error && perf)
        error = make_perf_map(svm, e);
    if (error) {
        soft_vm_fini(vm);
        return error;
    }
    vm->mem.code_changed = code_changed;
    vm->mem.code_changed_opaque = svm;
    return 0;
}

/* --- vCPUs --- */

/* Where in 64 KiB the context pointer's low bits are what ctx.h promises. */
#define CPU_ALIGN KIB(64)
#define CPU_OFFSET (CTX_LOW - CTX_BIAS)
_Static_assert(CPU_OFFSET % 64 == 0, "a vCPU begins at a cache line");

static struct soft_cpu *new_cpu(void)
{
    size_t bytes = ALIGN_UP(CPU_OFFSET + sizeof(struct soft_cpu), CPU_ALIGN);
    uint8_t *p = aligned_alloc(CPU_ALIGN, bytes);

    if (!p)
        return NULL;
    memset(p + CPU_OFFSET, 0, sizeof(struct soft_cpu));
    return (struct soft_cpu *)(void *)(p + CPU_OFFSET);
}

static void free_cpu(struct soft_cpu *cpu)
{
    free((uint8_t *)cpu - CPU_OFFSET);
}

static void soft_vcpu_fini(struct vcpu *vcpu)
{
    struct soft_cpu *cpu = vcpu->engine_data;

    if (!cpu)
        return;
    recover_detach(cpu);
    if (cpu->svm->cpus[vcpu->index] == cpu) {
        cpu->svm->cpus[vcpu->index] = NULL;
        cpu->svm->cpu_count = vcpu->index; /* the last goes first */
    }
    if (cpu->lapic)
        lapic_fini(cpu);
    if (cpu->mmu)
        mmu_fini(cpu);
    if (cpu->exec) {
        step_fini(cpu);
        free(cpu->exec);
    }
    for (unsigned i = 0; cpu->jump && i < JUMP_CACHES; i++)
        jump_cache_fini(&cpu->jump[i]);
    free(cpu->jump);
    free(cpu->trans);
    lockstep_fini(cpu);
    free(cpu->debugger);
    free(cpu->init_state);
    free(cpu->xsave);
    free_cpu(cpu);
    vcpu->engine_data = NULL;
}

static int allocate(struct soft_cpu *cpu, struct err *e)
{
    cpu->xsave = aligned_alloc(64, XSAVE_MAX);
    cpu->init_state = aligned_alloc(64, ALIGN_UP(sizeof(*cpu->init_state), 64));
    cpu->exec = calloc(1, sizeof(*cpu->exec));
    cpu->trans = malloc(sizeof(*cpu->trans));
    cpu->jump = calloc(JUMP_CACHES, sizeof(*cpu->jump));
    if (!cpu->xsave || !cpu->init_state || !cpu->exec || !cpu->trans || !cpu->jump)
        return err_set(e, ENOMEM, "cannot allocate a vCPU");
    memset(cpu->xsave, 0, XSAVE_MAX);
    return 0;
}

static int init_jump_caches(struct soft_cpu *cpu, struct err *e)
{
    int error = 0;

    _Static_assert(JUMP_CACHES * (JUMP_CACHE_BYTES + RETURN_CACHE_BYTES) <= SHADOW_FRONT, "they are in the room in front of the tables");
    for (unsigned i = 0; i < JUMP_CACHES && !error; i++)
        error = jump_cache_init(&cpu->jump[i], i, (uint8_t *)mmu_table(cpu, true), cpu->svm->cache, e);
    return error;
}

static void init_slots(struct soft_cpu *cpu)
{
    SLOT(cpu, CTX_USER_WRITE) = MMU_TABLE_ENTRIES;
    SLOT(cpu, CTX_READ) = (uint64_t)(mmu_table(cpu, false) - mmu_table(cpu, true));
    SLOT(cpu, CTX_WRITE) = SLOT(cpu, CTX_READ) + MMU_TABLE_ENTRIES;
    SLOT(cpu, CTX_USER_FETCH) = mmu_fetch_distance(cpu, true);
    SLOT(cpu, CTX_FETCH) = mmu_fetch_distance(cpu, false);
    SLOT(cpu, CTX_USER_STACK) = SLOT(cpu, CTX_STACK) = CTX_NO_PAGE;
}

static int soft_vcpu_init(struct vcpu *vcpu, struct err *e)
{
    struct soft_vm *svm = vcpu->vm->engine_data;
    struct soft_cpu *cpu = new_cpu();
    int error;

    if (!cpu)
        return err_set(e, ENOMEM, "cannot allocate a vCPU");
    vcpu->engine_data = cpu;
    cpu->svm = svm;
    cpu->vcpu = vcpu;
    cpu->vec_mask = svm->cpuid->xcr0;
    error = allocate(cpu, e);
    if (!error)
        error = step_init(cpu, e);
    if (!error && svm->perf_map)
        perf_map_add(svm->perf_map, cpu->exec->stubs.rx, cpu->exec->stubs.size, "umbra:stubs");
    if (!error)
        error = mmu_init(cpu, e);
    if (!error)
        init_slots(cpu);
    if (!error)
        error = init_jump_caches(cpu, e);
    if (!error)
        error = lapic_init(cpu, e);
    if (!error && svm->lockstep)
        error = lockstep_init(cpu, e);
    if (!error)
        error = recover_attach(cpu, e);
    if (error) {
        soft_vcpu_fini(vcpu);
        return error;
    }
    cpu_state_reset(cpu->init_state);
    state_set(cpu, cpu->init_state, CPU_ALL);
    svm->cpus[vcpu->index] = cpu;
    svm->cpu_count = MAX(svm->cpu_count, vcpu->index + 1);
    return 0;
}

int soft_internal(struct soft_cpu *cpu, const char *fmt, ...)
{
    va_list args;

    soft_vec_park(cpu);
    cpu->exit->reason = VM_EXIT_INTERNAL;
    va_start(args, fmt);
    vsnprintf(cpu->exit->internal.text, sizeof(cpu->exit->internal.text), fmt, args);
    va_end(args);
    return SOFT_EXIT;
}

/* --- sleep and kicks --- */

static void soft_kick(struct vcpu *vcpu)
{
    struct soft_cpu *cpu = vcpu->engine_data;

    if (!cpu)
        return;
    soft_want_attention(cpu);
    if (atomic_load(&cpu->asleep))
        syscall(SYS_futex, &cpu->attention, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void run_sleep(struct soft_cpu *cpu)
{
    uint64_t start = clock_monotonic_ns();

    soft_vec_park(cpu);
    trace_exit(&cpu->svm->vm->trace, cpu->vcpu->index, VM_EXIT_HLT, 0);
    smp_leave(cpu);
    atomic_store(&cpu->asleep, 1);
    while (!atomic_load(&cpu->attention))
        syscall(SYS_futex, &cpu->attention, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    atomic_store(&cpu->asleep, 0);
    smp_enter(cpu);
    atomic_fetch_add_explicit(&cpu->vcpu->exits[VM_EXIT_HLT], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&cpu->vcpu->exit_ns[VM_EXIT_HLT], clock_monotonic_ns() - start, memory_order_relaxed);
    trace_entry(&cpu->svm->vm->trace, cpu->vcpu->index);
}

static int soft_get_state(struct vcpu *vcpu, struct cpu_state *state, unsigned groups)
{
    smp_enter(vcpu->engine_data);
    state_get(vcpu->engine_data, state, groups);
    smp_leave(vcpu->engine_data);
    return 0;
}

static int soft_set_state(struct vcpu *vcpu, const struct cpu_state *state, unsigned groups)
{
    smp_enter(vcpu->engine_data);
    state_set(vcpu->engine_data, state, groups);
    smp_leave(vcpu->engine_data);
    return 0;
}

static void soft_stood(struct vcpu *vcpu)
{
    kvmclock_stopped(vcpu->engine_data);
}

static int soft_msi(struct vm *vm, uint64_t addr, uint32_t data)
{
    return lapic_msi(vm->engine_data, addr, data);
}

static void soft_extint(struct vm *vm, bool level)
{
    lapic_extint(vm->engine_data, level);
}

static int soft_nmi(struct vcpu *vcpu)
{
    struct soft_cpu *cpu = vcpu->engine_data;

    atomic_store(&cpu->nmi_pending, true);
    soft_kick(vcpu);
    return 0;
}

const struct engine engine_soft = {
    .name = "soft",
    .probe = soft_probe,
    .vm_init = soft_vm_init,
    .vm_fini = soft_vm_fini,
    .vcpu_init = soft_vcpu_init,
    .vcpu_fini = soft_vcpu_fini,
    .run = run_vcpu,
    .kick = soft_kick,
    .get_state = soft_get_state,
    .set_state = soft_set_state,
    .msi = soft_msi,
    .extint = soft_extint,
    .nmi = soft_nmi,
    .debug = debugger_set,
    .debug_caps = ENGINE_DEBUG_BREAKPOINTS | ENGINE_DEBUG_READS,
    .stood = soft_stood,
    .stats = soft_stats_report,
};
