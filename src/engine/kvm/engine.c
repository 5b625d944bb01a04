/* The KVM engine behind the engine seam: what a VM and a vCPU are made of, kicks, and the table. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/kvm/cpuid.h"
#include "engine/kvm/kvm.h"

/*
 * On Intel CPUs KVM keeps four pages of guest-physical memory for itself, for real mode; they must be nobody's. They lie in what the address
 * map keeps free for firmware.
 */
#define IDENTITY_MAP_GPA 0xfffbc000ULL
#define TSS_GPA 0xfffbd000ULL /* three pages */

#define MSRS_FIRST_GUESS 256

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
    int rc = ioctl(fd, request, arg);

    return rc < 0 ? -errno : rc;
}

int kvm_ioctl_number(int fd, unsigned long request, unsigned long arg)
{
    int rc = ioctl(fd, request, arg);

    return rc < 0 ? -errno : rc;
}

/* --- the VM --- */

static int enable(struct kvm_vm *kvm, uint32_t capability, uint64_t arg)
{
    struct kvm_enable_cap cap = {.cap = capability, .args = {arg}};

    return kvm_ioctl(kvm->fd, KVM_ENABLE_CAP, &cap);
}

/* Interrupt controllers and what else is fixed before the first vCPU. */
static int configure(struct kvm_vm *kvm, struct err *e)
{
    uint64_t identity_map = IDENTITY_MAP_GPA;
    int error = kvm_ioctl(kvm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);

    if (!error)
        error = kvm_ioctl_number(kvm->fd, KVM_SET_TSS_ADDR, TSS_GPA);
    if (error)
        return err_set(e, -error, "KVM cannot keep the pages at 0x%llx for real mode: %s", IDENTITY_MAP_GPA, strerror(-error));
    error = enable(kvm, KVM_CAP_SPLIT_IRQCHIP, KVM_IOAPIC_PINS);
    if (error)
        return err_set(e, -error, "KVM makes no local APICs: %s", strerror(-error));
    /* A pending exception is told apart from one whose effects on DR6 and CR2 have happened; performance counters are not offered. */
    if (kvm_has(kvm->fd, KVM_CAP_EXCEPTION_PAYLOAD))
        (void)enable(kvm, KVM_CAP_EXCEPTION_PAYLOAD, 1);
    if (kvm_has(kvm->fd, KVM_CAP_PMU_CAPABILITY) & KVM_PMU_CAP_DISABLE)
        (void)enable(kvm, KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE);
    kvm->tsc_offset = kvm_has(kvm->fd, KVM_CAP_VCPU_ATTRIBUTES);
    kvm->step_blocks_irqs = kvm_has(kvm->fd, KVM_CAP_SET_GUEST_DEBUG2) & KVM_GUESTDBG_BLOCKIRQ;
    kvm->any_length = kvm_has(kvm->fd, KVM_CAP_IOEVENTFD_ANY_LENGTH);
    return 0;
}

static int read_msr_list(struct kvm_vm *kvm, int host, struct err *e)
{
    unsigned count = MSRS_FIRST_GUESS;

    for (;;) {
        struct kvm_msr_list *list = calloc(1, sizeof(*list) + count * sizeof(list->indices[0]));
        int error;

        if (!list)
            return err_set(e, ENOMEM, "no memory for KVM's list of MSRs");
        list->nmsrs = count;
        error = kvm_ioctl(host, KVM_GET_MSR_INDEX_LIST, list);
        if (!error) {
            kvm->msr_list = list;
            return 0;
        }
        count = list->nmsrs;
        free(list);
        if (error != -E2BIG)
            return err_set(e, -error, "KVM does not list its MSRs: %s", strerror(-error));
    }
}

static int read_host(struct kvm_vm *kvm, int host, struct err *e)
{
    int bytes = kvm_ioctl_number(host, KVM_GET_VCPU_MMAP_SIZE, 0);
    int error;

    if (bytes < (int)sizeof(struct kvm_run))
        return err_set(e, bytes < 0 ? -bytes : EPROTO, "KVM does not tell the size of a vCPU");
    kvm->run_bytes = (size_t)bytes;
    error = read_msr_list(kvm, host, e);
    if (!error)
        error = cpuid_read(host, &kvm->cpuid, e);
    if (!error)
        error = cpuid_adapt(&kvm->cpuid, kvm_has(host, KVM_CAP_TSC_DEADLINE_TIMER), e);
    return error;
}

static void kvm_vm_fini(struct vm *vm)
{
    struct kvm_vm *kvm = vm->engine_data;

    if (!kvm)
        return;
    if (kvm->fd >= 0)
        close(kvm->fd); /* slots, routes and irqfds go with it */
    pthread_mutex_destroy(&kvm->routes_lock);
    free(kvm->cpuid);
    free(kvm->msr_list);
    free(kvm->reset_msrs);
    free(kvm);
    vm->engine_data = NULL;
}

static void on_kick_signal(int number)
{
    (void)number;
}

/* The signal is blocked wherever it could be delivered; only were it ignored or deadly, KVM_RUN would not return for it. */
static void prepare_kick_signal(void)
{
    struct sigaction action = {.sa_handler = on_kick_signal};

    sigemptyset(&action.sa_mask);
    sigaction(KVM_KICK_SIGNAL, &action, NULL);
}

static int create(struct kvm_vm *kvm, struct err *e)
{
    int host = open("/dev/kvm", O_RDWR | O_CLOEXEC), error;

    if (host < 0)
        return err_set(e, errno, "cannot open /dev/kvm: %s", strerror(errno));
    kvm->fd = kvm_ioctl_number(host, KVM_CREATE_VM, 0);
    if (kvm->fd < 0)
        error = err_set(e, -kvm->fd, "KVM makes no VM: %s", strerror(-kvm->fd));
    else
        error = read_host(kvm, host, e);
    close(host);
    return error;
}

static int kvm_vm_init(struct vm *vm, struct err *e)
{
    struct kvm_vm *kvm;
    int error;

    if (vm->config.code_cache)
        return err_set(e, EINVAL, "--code-cache is for the software engine, and KVM runs this guest: leave it out, or say --engine soft");
    kvm = calloc(1, sizeof(*kvm));
    if (!kvm)
        return err_set(e, ENOMEM, "no memory for the KVM engine");
    vm->engine_data = kvm;
    kvm->vm = vm;
    kvm->fd = -1;
    pthread_mutex_init(&kvm->routes_lock, NULL);
    prepare_kick_signal();
    error = create(kvm, e);
    if (!error)
        error = configure(kvm, e);
    if (!error)
        error = kvm_memory_init(kvm, e);
    if (error)
        kvm_vm_fini(vm);
    return error;
}

/* --- vCPUs --- */

static void kvm_vcpu_fini(struct vcpu *vcpu)
{
    struct kvm_cpu *cpu = vcpu->engine_data;

    if (!cpu)
        return;
    cpu->kvm->cpus[vcpu->index] = NULL;
    if (cpu->run)
        munmap(cpu->run, cpu->kvm->run_bytes);
    if (cpu->fd >= 0)
        close(cpu->fd);
    free(cpu);
    vcpu->engine_data = NULL;
}

/* In KVM_RUN every signal is blocked that is blocked outside, but for kicks. */
static int open_to_kicks(struct kvm_cpu *cpu)
{
    uint32_t mask[3] = {2 * sizeof(mask[0])}; /* struct kvm_signal_mask: a length, and the kernel's 64 bits */
    sigset_t set;

    pthread_sigmask(SIG_SETMASK, NULL, &set);
    sigdelset(&set, KVM_KICK_SIGNAL);
    memcpy(&mask[1], &set, mask[0]);
    return kvm_ioctl(cpu->fd, KVM_SET_SIGNAL_MASK, mask);
}

/* The CPUID table is the same for all but for their places in the topology. */
static int set_cpuid(struct kvm_cpu *cpu)
{
    const struct kvm_cpuid2 *common = cpu->kvm->cpuid;
    size_t bytes = sizeof(*common) + common->nent * sizeof(common->entries[0]);
    struct kvm_cpuid2 *own = malloc(bytes);
    int error;

    if (!own)
        return -ENOMEM;
    memcpy(own, common, bytes);
    cpuid_place(own, &cpu->vcpu->vm->topology, cpu->vcpu->apic_id);
    error = kvm_ioctl(cpu->fd, KVM_SET_CPUID2, own);
    free(own);
    return error;
}

static int create_vcpu(struct kvm_cpu *cpu, struct err *e)
{
    unsigned index = cpu->vcpu->index;
    void *run;
    int error;

    cpu->fd = kvm_ioctl_number(cpu->kvm->fd, KVM_CREATE_VCPU, cpu->vcpu->apic_id);
    if (cpu->fd < 0)
        return err_set(e, -cpu->fd, "KVM makes no CPU %u: %s", index, strerror(-cpu->fd));
    run = mmap(NULL, cpu->kvm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, cpu->fd, 0);
    if (run == MAP_FAILED)
        return err_set(e, errno, "cannot map KVM's CPU %u: %s", index, strerror(errno));
    cpu->run = run;
    error = set_cpuid(cpu);
    if (error)
        return err_set(e, -error, "KVM does not take the CPUID of CPU %u: %s", index, strerror(-error));
    error = open_to_kicks(cpu);
    if (error)
        return err_set(e, -error, "KVM does not take the signal mask of CPU %u: %s", index, strerror(-error));
    return index == 0 ? kvm_msrs_init(cpu, e) : 0;
}

static int kvm_vcpu_init(struct vcpu *vcpu, struct err *e)
{
    struct kvm_cpu *cpu = calloc(1, sizeof(*cpu));
    int error;

    if (!cpu)
        return err_set(e, ENOMEM, "no memory for CPU %u", vcpu->index);
    vcpu->engine_data = cpu;
    cpu->vcpu = vcpu;
    cpu->kvm = vcpu->vm->engine_data;
    cpu->fd = -1;
    cpu->thread = pthread_self();
    error = create_vcpu(cpu, e);
    if (error) {
        kvm_vcpu_fini(vcpu);
        return error;
    }
    cpu->kvm->cpus[vcpu->index] = cpu;
    return 0;
}

/*
 * Race-free: what the kick is about was written before, and the vCPU's thread clears immediate_exit before it looks for it. One that is not
 * in the guest, nor on its way, needs no signal.
 */
static void kvm_kick(struct vcpu *vcpu)
{
    struct kvm_cpu *cpu = vcpu->engine_data;

    if (!cpu || pthread_equal(cpu->thread, pthread_self())) /* it looks before its next entry */
        return;
    __atomic_store_n(&cpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (!atomic_load(&cpu->inside))
        return;
    atomic_fetch_add_explicit(&cpu->kvm->stats.kick_signals, 1, memory_order_relaxed);
    pthread_kill(cpu->thread, KVM_KICK_SIGNAL);
}

/* The 8259 pair is outside of KVM: the boot processor asks it for the vector, at its next entry (run.c). */
static void kvm_extint(struct vm *vm, bool level)
{
    struct kvm_vm *kvm = vm->engine_data;

    atomic_store(&kvm->intr, level);
    if (level && kvm->cpus[0])
        kvm_kick(kvm->cpus[0]->vcpu);
}

static int kvm_nmi(struct vcpu *vcpu)
{
    struct kvm_cpu *cpu = vcpu->engine_data;

    atomic_store(&cpu->nmi, true);
    kvm_kick(vcpu);
    return 0;
}

/* -EINVAL where the guest has no kvmclock: then there is nobody to tell. */
static void kvm_stood(struct vcpu *vcpu)
{
    const struct kvm_cpu *cpu = vcpu->engine_data;

    (void)kvm_ioctl_number(cpu->fd, KVM_KVMCLOCK_CTRL, 0);
}

const struct engine engine_kvm = {
    .name = "kvm",
    .probe = kvm_probe,
    .vm_init = kvm_vm_init,
    .vm_fini = kvm_vm_fini,
    .vcpu_init = kvm_vcpu_init,
    .vcpu_fini = kvm_vcpu_fini,
    .run = kvm_run_vcpu,
    .kick = kvm_kick,
    .get_state = kvm_get_state,
    .set_state = kvm_set_state,
    .msi = kvm_msi,
    .extint = kvm_extint,
    .nmi = kvm_nmi,
    .debug = kvm_debug,
    .stood = kvm_stood,
    .ioapic_level = kvm_ioapic_level,
    .ioeventfd = kvm_ioeventfd,
    .irqfds = &kvm_irqfds,
    .dirty_start = kvm_dirty_start,
    .dirty_fetch = kvm_dirty_fetch,
    .dirty_stop = kvm_dirty_stop,
    .stats = kvm_report_stats,
};
