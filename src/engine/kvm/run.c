/* VM entry to VM exit: what goes in before KVM_RUN, and what its exits are to the run loop. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "engine/kvm/kvm.h"

static void count(atomic_ulong *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

/* --- before the entry --- */

/* Element i of an IN, OUT, INS or OUTS. */
static void *pio_data(struct kvm_cpu *cpu, uint32_t i)
{
    return (uint8_t *)cpu->run + cpu->run->io.data_offset + (size_t)i * cpu->run->io.size;
}

/* The value that the run loop read goes to where KVM takes it from. */
static void answer(struct kvm_cpu *cpu, const struct vm_exit *exit)
{
    struct kvm_run *run = cpu->run;

    if (run->exit_reason == KVM_EXIT_IO && exit->reason == VM_EXIT_PIO && !exit->pio.write)
        memcpy(pio_data(cpu, run->io.count - 1), &exit->pio.value, exit->pio.size);
    else if (run->exit_reason == KVM_EXIT_MMIO && exit->reason == VM_EXIT_MMIO && !exit->mmio.write)
        memcpy(run->mmio.data, &exit->mmio.value, exit->mmio.size);
}

/*
 * The 8259 pair's INTR: KVM takes a vector when the guest would take the interrupt now, and leaves the guest as soon as it would while
 * request_interrupt_window is set. It is the pair's LINT0 that decides: with it masked, neither happens.
 */
static void offer_extint(struct kvm_cpu *cpu)
{
    const struct vm_irqchip *irqchip = &cpu->vcpu->vm->irqchip;
    struct kvm_vm *kvm = cpu->kvm;
    bool intr = atomic_load(&kvm->intr);

    if (intr && cpu->run->ready_for_interrupt_injection) {
        int vector = irqchip->extint_ack(irqchip->opaque);
        struct kvm_interrupt interrupt = {.irq = (uint32_t)vector};

        if (vector >= 0 && kvm_ioctl(cpu->fd, KVM_INTERRUPT, &interrupt) == 0)
            count(&kvm->stats.extints);
        intr = atomic_load(&kvm->intr);
    }
    cpu->run->request_interrupt_window = intr;
}

static void prepare(struct kvm_cpu *cpu)
{
    if (atomic_load_explicit(&cpu->nmi, memory_order_relaxed) && atomic_exchange(&cpu->nmi, false)) {
        count(&cpu->kvm->stats.nmis);
        (void)kvm_ioctl_number(cpu->fd, KVM_NMI, 0); /* fails for no vCPU that runs */
    }
    if (cpu->vcpu->index == 0)
        offer_extint(cpu);
}

/* --- after the exit --- */

/* Requests are looked at after this: a kick that comes later finds immediate_exit 0 and sets it again. */
static void take_kick(struct kvm_cpu *cpu)
{
    static const struct timespec at_once = {0};
    sigset_t set;

    __atomic_store_n(&cpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    sigemptyset(&set);
    sigaddset(&set, KVM_KICK_SIGNAL);
    while (sigtimedwait(&set, NULL, &at_once) > 0)
        ;
}

/* INS and OUTS come with several elements: all but the last are carried out here. */
static void pio_exit(struct kvm_cpu *cpu, struct vm_exit *exit)
{
    const struct kvm_run *run = cpu->run;
    bool write = run->io.direction == KVM_EXIT_IO_OUT;
    uint8_t size = run->io.size;
    uint64_t value = 0;

    for (uint32_t i = 0; i + 1 < run->io.count; i++) {
        if (write) {
            memcpy(&value, pio_data(cpu, i), size);
            vcpu_pio_write(cpu->vcpu, run->io.port, size, value);
        } else {
            value = vcpu_pio_read(cpu->vcpu, run->io.port, size);
            memcpy(pio_data(cpu, i), &value, size);
        }
    }
    exit->reason = VM_EXIT_PIO;
    exit->pio.port = run->io.port;
    exit->pio.size = size;
    exit->pio.write = write;
    exit->pio.value = 0;
    if (write)
        memcpy(&exit->pio.value, pio_data(cpu, run->io.count - 1), size);
}

static bool is_width(unsigned size)
{
    return size == 1 || size == 2 || size == 4 || size == 8;
}

/* An access that crosses a page comes in two pieces of any length: such a piece goes byte by byte. False: it is carried out. */
static bool mmio_exit(struct kvm_cpu *cpu, struct vm_exit *exit)
{
    struct kvm_run *run = cpu->run;
    gpa_t gpa = run->mmio.phys_addr;

    if (!is_width(run->mmio.len)) {
        for (uint32_t i = 0; i < run->mmio.len; i++) {
            if (run->mmio.is_write)
                vcpu_mmio_write(cpu->vcpu, gpa + i, 1, run->mmio.data[i]);
            else
                run->mmio.data[i] = (uint8_t)vcpu_mmio_read(cpu->vcpu, gpa + i, 1);
        }
        return false;
    }
    exit->reason = VM_EXIT_MMIO;
    exit->mmio.gpa = gpa;
    exit->mmio.size = (uint8_t)run->mmio.len;
    exit->mmio.write = run->mmio.is_write;
    exit->mmio.value = 0;
    if (run->mmio.is_write)
        memcpy(&exit->mmio.value, run->mmio.data, run->mmio.len);
    return true;
}

static void eoi_exit(struct kvm_cpu *cpu, struct vm_exit *exit)
{
    const struct vm_irqchip *irqchip = &cpu->vcpu->vm->irqchip;

    irqchip->eoi(irqchip->opaque, cpu->run->eoi.vector);
    exit->reason = VM_EXIT_EOI;
}

/* False: there is nothing left to do for it, and the guest can go on. */
static bool translate(struct kvm_cpu *cpu, struct vm_exit *exit)
{
    switch (cpu->run->exit_reason) {
    case KVM_EXIT_IO:
        cpu->unfinished = true;
        pio_exit(cpu, exit);
        return true;
    case KVM_EXIT_MMIO: cpu->unfinished = true; return mmio_exit(cpu, exit);
    case KVM_EXIT_IOAPIC_EOI: eoi_exit(cpu, exit); return true;
    case KVM_EXIT_DEBUG: return kvm_debug_exit(cpu, exit);
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_INTR: exit->reason = VM_EXIT_INTR; return true;
    case KVM_EXIT_SHUTDOWN: exit->reason = VM_EXIT_SHUTDOWN; return true;
    default: kvm_explain_exit(cpu, exit); return true;
    }
}

/* --- between the two --- */

/* 0, or -errno; -EINTR when it was kicked. */
static int enter(struct kvm_cpu *cpu)
{
    int rc;

    atomic_store(&cpu->inside, true); /* before the kernel looks at immediate_exit */
    rc = kvm_ioctl_number(cpu->fd, KVM_RUN, 0);
    atomic_store(&cpu->inside, false);
    if (rc == 0)
        return 0;
    if (rc == -EINTR || rc == -EAGAIN) { /* EAGAIN: a processor that waited for a SIPI was sent one */
        take_kick(cpu);
        return -EINTR;
    }
    return rc;
}

int kvm_run_vcpu(struct vcpu *vcpu, struct vm_exit *exit)
{
    struct kvm_cpu *cpu = vcpu->engine_data;
    int error;

    if (cpu->unfinished)
        answer(cpu, exit);
    cpu->exit = exit;
    cpu->ran = true;
    do {
        prepare(cpu);
        error = enter(cpu);
        cpu->unfinished = false;
        if (error == -EINTR)
            exit->reason = VM_EXIT_INTR;
        else if (error)
            kvm_explain_errno(cpu, exit, -error);
    } while (!error && !translate(cpu, exit));
    return 0;
}

static void carry_out(struct vcpu *vcpu, struct vm_exit *exit)
{
    if (exit->reason == VM_EXIT_PIO && exit->pio.write)
        vcpu_pio_write(vcpu, exit->pio.port, exit->pio.size, exit->pio.value);
    else if (exit->reason == VM_EXIT_PIO)
        exit->pio.value = (uint32_t)vcpu_pio_read(vcpu, exit->pio.port, exit->pio.size);
    else if (exit->mmio.write)
        vcpu_mmio_write(vcpu, exit->mmio.gpa, exit->mmio.size, exit->mmio.value);
    else
        exit->mmio.value = vcpu_mmio_read(vcpu, exit->mmio.gpa, exit->mmio.size);
}

int kvm_settle(struct kvm_cpu *cpu)
{
    struct vm_exit next;

    if (!cpu->unfinished)
        return 0;
    answer(cpu, cpu->exit);
    for (;;) {
        int rc;

        __atomic_store_n(&cpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
        rc = kvm_ioctl_number(cpu->fd, KVM_RUN, 0);
        if (rc == -EINTR)
            break;
        if (rc < 0)
            return rc;
        /* The next piece of the same access. */
        if (cpu->run->exit_reason != KVM_EXIT_IO && cpu->run->exit_reason != KVM_EXIT_MMIO)
            return -EPROTO;
        if (!translate(cpu, &next))
            continue;
        carry_out(cpu->vcpu, &next);
        answer(cpu, &next);
    }
    cpu->unfinished = false;
    take_kick(cpu);
    return 0;
}
