/* A debugger's wishes on KVM: single steps, hardware breakpoints and watchpoints, and its INT3s told from the guest's. */
#include <errno.h>
#include <string.h>

#include "engine/kvm/kvm.h"

/*
 * Theory of operation. While anything is wished for, KVM leaves the guest for every #DB, or every #BP, that could be the debugger's; what is
 * not, is given to the guest as its own exception. The debug registers of the hardware are the debugger's as long as it uses points: the
 * guest reads its own back, but they have no effect meanwhile.
 */

/* DR7 (SDM vol. 3 17.2.4): four bits a point from bit 16 on. */
#define DR7_GLOBAL_ENABLE(i) (2U << 2 * (i))
#define DR7_TYPE(i, type) ((uint64_t)(type) << (16 + 4 * (i)))
#define DR7_LEN(i, len) ((uint64_t)(len) << (18 + 4 * (i)))
#define TYPE_EXECUTE 0
#define TYPE_WRITE 1
#define TYPE_ACCESS 3

#define DR6_POINT(i) BIT(i)
#define DR6_POINTS 0xfULL
#define DR6_BS BIT(14)

#define INT1 0xf1

static int add_point(struct kvm_guest_debug *k, unsigned i, const struct vcpu_debug_point *p)
{
    static const int types[] = {
        [VCPU_DEBUG_EXECUTE] = TYPE_EXECUTE, [VCPU_DEBUG_WRITE] = TYPE_WRITE, [VCPU_DEBUG_READ] = -1, [VCPU_DEBUG_ACCESS] = TYPE_ACCESS};
    static const int lens[] = {[1] = 0, [2] = 1, [4] = 3, [8] = 2};

    if (p->kind >= ARRAY_SIZE(types) || types[p->kind] < 0 || (p->len != 1 && p->len != 2 && p->len != 4 && p->len != 8))
        return -EINVAL;
    if (p->gva % p->len || (p->kind == VCPU_DEBUG_EXECUTE && p->len != 1))
        return -EINVAL;
    k->arch.debugreg[i] = p->gva;
    k->arch.debugreg[7] |= DR7_GLOBAL_ENABLE(i) | DR7_TYPE(i, types[p->kind]) | DR7_LEN(i, lens[p->len]);
    return 0;
}

static int to_kvm(const struct kvm_cpu *cpu, const struct vcpu_debug *d, struct kvm_guest_debug *k)
{
    *k = (struct kvm_guest_debug){0};
    if (!d->single_step && !d->point_count && !d->breakpoint_count)
        return 0;
    if (d->point_count > VCPU_DEBUG_POINTS || d->breakpoint_count > VCPU_DEBUG_BREAKPOINTS)
        return -EINVAL;
    k->control = KVM_GUESTDBG_ENABLE;
    if (d->single_step)
        k->control |= KVM_GUESTDBG_SINGLESTEP | (cpu->kvm->step_blocks_irqs ? KVM_GUESTDBG_BLOCKIRQ : 0);
    if (d->breakpoint_count)
        k->control |= KVM_GUESTDBG_USE_SW_BP;
    if (d->point_count)
        k->control |= KVM_GUESTDBG_USE_HW_BP;
    k->arch.debugreg[7] = DR7_FIXED;
    for (unsigned i = 0; i < d->point_count; i++) {
        int error = add_point(k, i, &d->point[i]);

        if (error)
            return error;
    }
    return 0;
}

int kvm_debug(struct vcpu *vcpu, const struct vcpu_debug *debug)
{
    static const struct vcpu_debug nothing;
    struct kvm_cpu *cpu = vcpu->engine_data;
    struct kvm_guest_debug k;
    int error;

    if (!debug)
        debug = &nothing;
    error = to_kvm(cpu, debug, &k);
    if (!error)
        error = kvm_settle(cpu);
    if (!error)
        error = kvm_ioctl(cpu->fd, KVM_SET_GUEST_DEBUG, &k);
    if (!error)
        cpu->debug = *debug;
    return error;
}

/* --- exits --- */

static void give_to_guest(struct kvm_cpu *cpu, uint32_t control)
{
    struct kvm_guest_debug k;

    (void)to_kvm(cpu, &cpu->debug, &k); /* it was taken before */
    k.control |= KVM_GUESTDBG_ENABLE | control;
    (void)kvm_ioctl(cpu->fd, KVM_SET_GUEST_DEBUG, &k);
}

/* The guest finds in its DR6 why it has a #DB. */
static void give_db(struct kvm_cpu *cpu, uint64_t dr6)
{
    struct kvm_debugregs regs;

    if (kvm_ioctl(cpu->fd, KVM_GET_DEBUGREGS, &regs) == 0) {
        regs.dr6 |= dr6 & (DR6_POINTS | DR6_BS);
        (void)kvm_ioctl(cpu->fd, KVM_SET_DEBUGREGS, &regs);
    }
    give_to_guest(cpu, KVM_GUESTDBG_INJECT_DB);
}

/* A #DB that DR6 has no reason for: Intel's CPUs leave the guest before an INT1 of its own, AMD's behind it. */
static bool is_before_int1(struct kvm_cpu *cpu, const struct kvm_debug_exit_arch *arch)
{
    const uint8_t *code = arch->dr6 & (DR6_POINTS | DR6_BS) ? NULL : kvm_code(cpu, arch->pc, 1);

    return code && *code == INT1;
}

/* The #DB of an INT1 is a trap: the guest goes on behind it. */
static void give_int1(struct kvm_cpu *cpu)
{
    struct kvm_regs regs;

    if (kvm_ioctl(cpu->fd, KVM_GET_REGS, &regs) == 0) {
        regs.rip++;
        (void)kvm_ioctl(cpu->fd, KVM_SET_REGS, &regs);
    }
    give_to_guest(cpu, KVM_GUESTDBG_INJECT_DB);
}

static bool is_breakpoint(const struct vcpu_debug *d, gva_t gva)
{
    for (unsigned i = 0; i < d->breakpoint_count; i++)
        if (d->breakpoint[i] == gva)
            return true;
    return false;
}

static bool stop(struct vm_exit *exit, enum vcpu_debug_stop why, gva_t gva, unsigned point)
{
    exit->reason = VM_EXIT_DEBUG;
    exit->debug.stop = why;
    exit->debug.gva = gva;
    exit->debug.point = (uint8_t)point;
    return true;
}

bool kvm_debug_exit(struct kvm_cpu *cpu, struct vm_exit *exit)
{
    const struct kvm_debug_exit_arch *arch = &cpu->run->debug.arch;
    const struct vcpu_debug *d = &cpu->debug;

    if (arch->exception == EXC_BP) {
        if (is_breakpoint(d, arch->pc))
            return stop(exit, DEBUG_STOP_BREAKPOINT, arch->pc, 0);
        give_to_guest(cpu, KVM_GUESTDBG_INJECT_BP);
        return false;
    }
    if (is_before_int1(cpu, arch)) {
        give_int1(cpu);
        return false;
    }
    for (unsigned i = 0; i < d->point_count; i++)
        if (arch->dr6 & DR6_POINT(i))
            return stop(exit, d->point[i].kind == VCPU_DEBUG_EXECUTE ? DEBUG_STOP_EXECUTE : DEBUG_STOP_WATCH, d->point[i].gva, i);
    if (d->single_step)
        return stop(exit, DEBUG_STOP_STEP, arch->pc, 0);
    give_db(cpu, arch->dr6);
    return false;
}
