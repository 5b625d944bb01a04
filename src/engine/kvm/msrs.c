/* Model-specific registers in and out of KVM: those that struct cpu_state names, all others that KVM lists, the TSC's offset. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <x86intrin.h>

#include "engine/kvm/kvm.h"
#include "x86/msr.h"

static const struct {
    uint32_t index;
    size_t offset;
} named[] = {
    {MSR_STAR, offsetof(struct cpu_state, star)},
    {MSR_LSTAR, offsetof(struct cpu_state, lstar)},
    {MSR_CSTAR, offsetof(struct cpu_state, cstar)},
    {MSR_SFMASK, offsetof(struct cpu_state, sfmask)},
    {MSR_KERNEL_GS_BASE, offsetof(struct cpu_state, kernel_gs_base)},
    {MSR_SYSENTER_CS, offsetof(struct cpu_state, sysenter_cs)},
    {MSR_SYSENTER_ESP, offsetof(struct cpu_state, sysenter_esp)},
    {MSR_SYSENTER_EIP, offsetof(struct cpu_state, sysenter_eip)},
    {MSR_PAT, offsetof(struct cpu_state, pat)},
    {MSR_TSC_AUX, offsetof(struct cpu_state, tsc_aux)},
    {MSR_SPEC_CTRL, offsetof(struct cpu_state, spec_ctrl)},
    {MSR_MISC_ENABLE, offsetof(struct cpu_state, misc_enable)},
    {MSR_TSC_ADJUST, offsetof(struct cpu_state, tsc_adjust)},
    {MSR_KVM_SYSTEM_TIME_NEW, offsetof(struct cpu_state, kvm_system_time)},
    {MSR_KVM_WALL_CLOCK_NEW, offsetof(struct cpu_state, kvm_wall_clock)},
};

static const uint64_t *field_of(const struct cpu_state *s, unsigned i)
{
    return (const uint64_t *)(const void *)((const char *)s + named[i].offset);
}

/* Ranges that are no part of the list of others: they are elsewhere in the state, other names of the same, or of what is not offered. */
static const struct {
    uint32_t first, last;
} elsewhere[] = {
    {MSR_TSC, MSR_KVM_SYSTEM_TIME},       /* the TSC is its offset; the two others are old names */
    {MSR_APIC_BASE, MSR_APIC_BASE},       /* CPU_SREGS */
    {MSR_TSC_DEADLINE, MSR_TSC_DEADLINE}, /* CPU_LAPIC */
    {MSR_X2APIC_FIRST, MSR_X2APIC_LAST},  /* CPU_LAPIC */
    {MSR_EFER, MSR_EFER},                 /* CPU_SREGS */
    {MSR_FS_BASE, MSR_GS_BASE},           /* CPU_SREGS */
    {0x480, 0x4ff},                       /* VMX, processor counters' full-width names */
    {0x40000000, 0x400001ff},             /* Hyper-V's */
    {0xc0010114, 0xc0010117},             /* SVM */
};

static bool is_other(uint32_t index)
{
    for (unsigned i = 0; i < ARRAY_SIZE(named); i++)
        if (named[i].index == index)
            return false;
    for (unsigned i = 0; i < ARRAY_SIZE(elsewhere); i++)
        if (index >= elsewhere[i].first && index <= elsewhere[i].last)
            return false;
    return true;
}

/* --- KVM stops at the first that it does not take: transfers go on behind it. Marks by reserved = 1 what failed. --- */

static struct kvm_msrs *new_list(unsigned count)
{
    return calloc(1, sizeof(struct kvm_msrs) + count * sizeof(struct kvm_msr_entry));
}

static int transfer(struct kvm_cpu *cpu, unsigned long request, struct kvm_msrs *list)
{
    struct kvm_msrs *part = new_list(list->nmsrs);
    unsigned done = 0;

    if (!part)
        return -ENOMEM;
    while (done < list->nmsrs) {
        int n;

        part->nmsrs = list->nmsrs - done;
        memcpy(part->entries, &list->entries[done], part->nmsrs * sizeof(part->entries[0]));
        for (unsigned i = 0; i < part->nmsrs; i++)
            part->entries[i].reserved = 0;
        n = kvm_ioctl(cpu->fd, request, part);
        if (n < 0) {
            free(part);
            return n;
        }
        memcpy(&list->entries[done], part->entries, (unsigned)n * sizeof(part->entries[0]));
        done += (unsigned)n;
        if (done < list->nmsrs)
            list->entries[done++].reserved = 1;
    }
    free(part);
    return 0;
}

/* --- the others --- */

static struct kvm_msrs *read_others(struct kvm_cpu *cpu, int *error)
{
    const struct kvm_msr_list *all = cpu->kvm->msr_list;
    struct kvm_msrs *list = new_list(all->nmsrs);
    unsigned kept = 0;

    *error = -ENOMEM;
    if (!list)
        return NULL;
    for (unsigned i = 0; i < all->nmsrs; i++)
        if (is_other(all->indices[i]))
            list->entries[list->nmsrs++].index = all->indices[i];
    *error = transfer(cpu, KVM_GET_MSRS, list);
    for (unsigned i = 0; i < list->nmsrs; i++)
        if (!list->entries[i].reserved)
            list->entries[kept++] = list->entries[i];
    list->nmsrs = kept;
    if (!*error)
        return list;
    free(list);
    return NULL;
}

int kvm_msrs_init(struct kvm_cpu *cpu, struct err *e)
{
    int error;

    cpu->kvm->reset_msrs = read_others(cpu, &error);
    return cpu->kvm->reset_msrs ? 0 : err_set(e, -error, "cannot read the MSRs of KVM's CPU: %s", strerror(-error));
}

/* Some can be read and not written: that is no failure when it is this host's value. */
static int write_others(struct kvm_cpu *cpu, struct kvm_msrs *list, bool strict)
{
    int error = transfer(cpu, KVM_SET_MSRS, list);

    for (unsigned i = 0; i < list->nmsrs && strict && !error; i++) {
        uint64_t wanted = list->entries[i].data;
        struct kvm_msrs *one = list->entries[i].reserved ? new_list(1) : NULL;

        if (!list->entries[i].reserved)
            continue;
        if (!one)
            return -ENOMEM;
        one->nmsrs = 1;
        one->entries[0].index = list->entries[i].index;
        error = transfer(cpu, KVM_GET_MSRS, one);
        if (!error && (one->entries[0].reserved || one->entries[0].data != wanted))
            error = -EINVAL;
        free(one);
    }
    return error;
}

static int set_others(struct kvm_cpu *cpu, const struct cpu_state *s)
{
    const struct kvm_msrs *reset = cpu->kvm->reset_msrs;
    unsigned count = s->msr_count ? s->msr_count : reset->nmsrs;
    struct kvm_msrs *list;
    int error;

    if (count > CPU_MSRS_MAX && s->msr_count)
        return -EINVAL;
    if (!s->msr_count && !cpu->ran)
        return 0;
    list = new_list(count);
    if (!list)
        return -ENOMEM;
    list->nmsrs = count;
    for (unsigned i = 0; i < count; i++)
        list->entries[i] = s->msr_count ? (struct kvm_msr_entry){.index = s->msrs[i].index, .data = s->msrs[i].value} : reset->entries[i];
    error = write_others(cpu, list, s->msr_count != 0);
    free(list);
    return error;
}

static int get_others(struct kvm_cpu *cpu, struct cpu_state *s)
{
    int error;
    struct kvm_msrs *list = read_others(cpu, &error);

    if (!list)
        return error;
    s->msr_count = MIN(list->nmsrs, CPU_MSRS_MAX);
    for (unsigned i = 0; i < s->msr_count; i++)
        s->msrs[i] = (struct cpu_msr){list->entries[i].index, list->entries[i].data};
    error = list->nmsrs > CPU_MSRS_MAX ? -E2BIG : 0;
    free(list);
    return error;
}

/* --- the TSC: guest TSC = host TSC + offset --- */

static int tsc_attr(struct kvm_cpu *cpu, unsigned long request, uint64_t *offset)
{
    struct kvm_device_attr attr = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)offset};

    return kvm_ioctl(cpu->fd, request, &attr);
}

static int one_msr(struct kvm_cpu *cpu, unsigned long request, uint32_t index, uint64_t *value)
{
    struct kvm_msrs *list = new_list(1);
    int n;

    if (!list)
        return -ENOMEM;
    list->nmsrs = 1;
    list->entries[0] = (struct kvm_msr_entry){.index = index, .data = *value};
    n = kvm_ioctl(cpu->fd, request, list);
    *value = list->entries[0].data;
    free(list);
    return n == 1 ? 0 : n < 0 ? n : -EINVAL;
}

static int get_tsc(struct kvm_cpu *cpu, struct cpu_state *s)
{
    uint64_t tsc = 0, before = __rdtsc();
    int error;

    if (cpu->kvm->tsc_offset && tsc_attr(cpu, KVM_GET_DEVICE_ATTR, &s->tsc_offset) == 0)
        return 0;
    error = one_msr(cpu, KVM_GET_MSRS, MSR_TSC, &tsc);
    s->tsc_offset = tsc - before;
    return error;
}

/* Kernels without the attribute (before 5.16) keep vCPUs in step that are set to the same time within a second. */
static int set_tsc(struct kvm_cpu *cpu, const struct cpu_state *s)
{
    uint64_t offset = s->tsc_offset, tsc;

    if (cpu->kvm->tsc_offset && tsc_attr(cpu, KVM_SET_DEVICE_ATTR, &offset) == 0)
        return 0;
    tsc = __rdtsc() + offset;
    return one_msr(cpu, KVM_SET_MSRS, MSR_TSC, &tsc);
}

/* --- all of them --- */

static struct kvm_msrs *named_list(const struct cpu_state *s)
{
    struct kvm_msrs *list = new_list(ARRAY_SIZE(named));

    if (!list)
        return NULL;
    list->nmsrs = ARRAY_SIZE(named);
    for (unsigned i = 0; i < ARRAY_SIZE(named); i++)
        list->entries[i] = (struct kvm_msr_entry){.index = named[i].index, .data = *field_of(s, i)};
    return list;
}

int kvm_msrs_get(struct kvm_cpu *cpu, struct cpu_state *s)
{
    struct kvm_msrs *list = named_list(s);
    int error = list ? transfer(cpu, KVM_GET_MSRS, list) : -ENOMEM;

    for (unsigned i = 0; i < ARRAY_SIZE(named) && !error; i++) /* one that this CPU does not have is 0 */
        *(uint64_t *)(void *)((char *)s + named[i].offset) = list->entries[i].reserved ? 0 : list->entries[i].data;
    free(list);
    if (!error)
        error = get_tsc(cpu, s);
    return error ? error : get_others(cpu, s);
}

int kvm_msrs_set(struct kvm_cpu *cpu, const struct cpu_state *s)
{
    struct kvm_msrs *list = named_list(s);
    int error = list ? transfer(cpu, KVM_SET_MSRS, list) : -ENOMEM;

    for (unsigned i = 0; i < ARRAY_SIZE(named) && !error; i++)
        if (list->entries[i].reserved && list->entries[i].data != 0) /* it does not have that, and cannot do what it says */
            error = named[i].index == MSR_MISC_ENABLE ? 0 : -EINVAL;
    free(list);
    if (!error)
        error = set_tsc(cpu, s);
    return error ? error : set_others(cpu, s);
}

int kvm_deadline_get(struct kvm_cpu *cpu, struct cpu_state *s)
{
    s->tsc_deadline = 0;
    if (one_msr(cpu, KVM_GET_MSRS, MSR_TSC_DEADLINE, &s->tsc_deadline) == -ENOMEM)
        return -ENOMEM;
    return 0; /* a host without the timer has no deadline */
}

int kvm_deadline_set(struct kvm_cpu *cpu, const struct cpu_state *s)
{
    uint64_t deadline = s->tsc_deadline;

    return deadline ? one_msr(cpu, KVM_SET_MSRS, MSR_TSC_DEADLINE, &deadline) : 0;
}
