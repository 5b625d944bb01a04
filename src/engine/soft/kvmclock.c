/* The KVM paravirtual clock: how the guest's TSC turns into time, and the wall clock at the VM's start. */
#include "engine/soft/kvmclock.h"

#include "base/clock.h"

#define SYSTEM_TIME_ENABLE BIT(0)
#define PVCLOCK_TSC_STABLE 0x01    /* flags: one reading serves all vCPUs */
#define PVCLOCK_GUEST_STOPPED 0x02 /* cleared by the guest when it has seen it */

/* Both as in Documentation/virt/kvm/x86/msr.rst. An odd version: the rest is being written. */
struct pvclock_vcpu_time_info {
    uint32_t version;
    uint32_t pad0;
    uint64_t tsc_timestamp;
    uint64_t system_time;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags;
    uint8_t pad[2];
};

struct pvclock_wall_clock {
    uint32_t version;
    uint32_t sec;
    uint32_t nsec;
};

_Static_assert(sizeof(struct pvclock_vcpu_time_info) == 32, "the guest's layout");
_Static_assert(sizeof(struct pvclock_wall_clock) == 12, "the guest's layout");

/* ns = ((ticks << shift, or >> -shift) * mul) >> 32, with mul as large as it gets. */
static void scale(uint64_t hz, uint32_t *mul, int8_t *shift)
{
    *shift = 0;
    while (hz >= 2 * NS_PER_SEC) {
        hz >>= 1;
        (*shift)--;
    }
    while (hz <= NS_PER_SEC) {
        hz <<= 1;
        (*shift)++;
    }
    /* hz is above 10^9 by now, so that the quotient fits; 10^9 << 32 fits 64 bits. */
    *mul = (uint32_t)((NS_PER_SEC << 32) / hz);
}

/*
 * Writes body between two versions. A guest may point this at anything: outside of RAM the write is lost, as
 * on KVM.
 */
static void write_versioned(struct mem *mem, gpa_t gpa, void *body, size_t size)
{
    uint32_t *version = body;

    if (mem_read(mem, gpa, version, sizeof(*version)) < 0)
        return;
    *version = (*version + 1) | 1; /* odd, and newer */
    if (mem_write(mem, gpa, version, sizeof(*version)) < 0)
        return;
    atomic_thread_fence(memory_order_seq_cst);
    if (mem_write(mem, gpa + sizeof(*version), version + 1, size - sizeof(*version)) < 0)
        return;
    atomic_thread_fence(memory_order_seq_cst);
    (*version)++;
    (void)mem_write(mem, gpa, version, sizeof(*version)); /* it was writable a moment ago */
}

static void write_clock(struct soft_cpu *cpu, uint8_t flags)
{
    const struct soft_vm *svm = cpu->svm;
    /*
     * The same origin for every vCPU and every update, so that no two readings disagree by a rounding:
     * time 0 is when the VM's clock started.
     */
    struct pvclock_vcpu_time_info info = {
        .tsc_timestamp = svm->tsc_base + cpu->tsc_offset,
        .system_time = 0,
        .flags = flags,
    };

    if (!(cpu->kvm_system_time & SYSTEM_TIME_ENABLE))
        return;
    scale(svm->tsc_hz, &info.tsc_to_system_mul, &info.tsc_shift);
    write_versioned(svm->mem, cpu->kvm_system_time & ~SYSTEM_TIME_ENABLE, &info, sizeof(info));
}

void kvmclock_update(struct soft_cpu *cpu)
{
    write_clock(cpu, PVCLOCK_TSC_STABLE);
}

void kvmclock_stopped(struct soft_cpu *cpu)
{
    write_clock(cpu, PVCLOCK_TSC_STABLE | PVCLOCK_GUEST_STOPPED);
}

static void write_wall_clock(struct soft_cpu *cpu)
{
    uint64_t since = tsc_to_ns(cpu->svm, tsc_host() - cpu->svm->tsc_base);
    uint64_t start = clock_realtime_ns() - since;
    struct pvclock_wall_clock wall = {
        .sec = (uint32_t)(start / NS_PER_SEC),
        .nsec = (uint32_t)(start % NS_PER_SEC),
    };

    write_versioned(cpu->svm->mem, cpu->kvm_wall_clock, &wall, sizeof(wall));
}

int kvmclock_msr_write(struct soft_cpu *cpu, uint32_t msr, uint64_t value)
{
    soft_vec_park(cpu);
    if (msr == MSR_KVM_WALL_CLOCK || msr == MSR_KVM_WALL_CLOCK_NEW) {
        cpu->kvm_wall_clock = value;
        write_wall_clock(cpu);
        return SOFT_OK;
    }
    cpu->kvm_system_time = value;
    kvmclock_update(cpu);
    return SOFT_OK;
}
