/* Messages into KVM's local APICs: at once, or by GSI routes for irqfds; which vectors' ends KVM reports; ioeventfds. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/kvm.h"

/*
 * Theory of operation. KVM's table of routes says which message a GSI is. The first 24 GSIs are the IOAPIC's: nobody raises them, for the
 * IOAPIC sends its messages by KVM_SIGNAL_MSI; but KVM leaves the guest for the end of a vector only where one of these routes is a
 * level-triggered message with that vector to that vCPU. The others belong to eventfds, and change when a guest writes to an MSI-X table.
 * KVM takes the table whole, so a copy is kept here.
 */

static void count(atomic_ulong *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

int kvm_msi(struct vm *vm, uint64_t addr, uint32_t data)
{
    struct kvm_vm *kvm = vm->engine_data;
    struct kvm_msi msi = {.address_lo = (uint32_t)addr, .address_hi = (uint32_t)(addr >> 32), .data = data};
    int rc = kvm_ioctl(kvm->fd, KVM_SIGNAL_MSI, &msi);

    count(&kvm->stats.messages);
    return rc > 0 ? 0 : -ENOENT; /* 0: who it is for has its local APIC off; an error: there is no such CPU */
}

/* --- routes --- */

static void set_route(struct kvm_vm *kvm, unsigned gsi, bool set, uint64_t addr, uint32_t data)
{
    struct kvm_route *route = &kvm->routes[gsi];

    if (route->set == set && (!set || (route->addr == addr && route->data == data)))
        return;
    route->set = set;
    route->addr = addr;
    route->data = data;
    kvm->routes_changed = true;
}

/* Lock held. */
static int commit(struct kvm_vm *kvm)
{
    struct kvm_irq_routing *table;
    int error;

    if (!kvm->routes_changed)
        return 0;
    table = calloc(1, sizeof(*table) + KVM_ROUTES_MAX * sizeof(table->entries[0]));
    if (!table)
        return -ENOMEM;
    for (unsigned gsi = 0; gsi < KVM_ROUTES_MAX; gsi++) {
        const struct kvm_route *route = &kvm->routes[gsi];

        if (!route->set)
            continue;
        table->entries[table->nr++] = (struct kvm_irq_routing_entry){
            .gsi = gsi,
            .type = KVM_IRQ_ROUTING_MSI,
            .u.msi = {.address_lo = (uint32_t)route->addr, .address_hi = (uint32_t)(route->addr >> 32), .data = route->data},
        };
    }
    error = kvm_ioctl(kvm->fd, KVM_SET_GSI_ROUTING, table);
    free(table);
    if (!error)
        kvm->routes_changed = false;
    count(&kvm->stats.routings);
    return error;
}

void kvm_ioapic_level(struct vm *vm, unsigned pin, uint64_t addr, uint32_t data)
{
    struct kvm_vm *kvm = vm->engine_data;

    pthread_mutex_lock(&kvm->routes_lock);
    set_route(kvm, pin, data != 0, addr, data);
    if (commit(kvm) != 0)
        log_error("KVM does not take the route of I/O APIC input %u: the guest's level-triggered interrupts may stop", pin);
    pthread_mutex_unlock(&kvm->routes_lock);
}

/* --- eventfds as sources of messages --- */

static int irqfd_add(void *opaque)
{
    struct kvm_vm *kvm = ((struct vm *)opaque)->engine_data;
    int source = -ENOSPC;

    pthread_mutex_lock(&kvm->routes_lock);
    for (unsigned gsi = KVM_IOAPIC_PINS; gsi < KVM_ROUTES_MAX && source < 0; gsi++)
        if (!kvm->routes[gsi].taken)
            source = (int)gsi;
    if (source >= 0)
        kvm->routes[source].taken = true;
    pthread_mutex_unlock(&kvm->routes_lock);
    return source;
}

static void irqfd_remove(void *opaque, int source)
{
    struct kvm_vm *kvm = ((struct vm *)opaque)->engine_data;

    pthread_mutex_lock(&kvm->routes_lock);
    kvm->routes[source].taken = false;
    set_route(kvm, (unsigned)source, false, 0, 0); /* goes with the next commit: nothing is connected to it */
    pthread_mutex_unlock(&kvm->routes_lock);
}

static void irqfd_route(void *opaque, int source, uint64_t addr, uint32_t data)
{
    struct kvm_vm *kvm = ((struct vm *)opaque)->engine_data;

    pthread_mutex_lock(&kvm->routes_lock);
    set_route(kvm, (unsigned)source, true, addr, data);
    pthread_mutex_unlock(&kvm->routes_lock);
}

static int irqfd_commit(void *opaque)
{
    struct kvm_vm *kvm = ((struct vm *)opaque)->engine_data;
    int error;

    pthread_mutex_lock(&kvm->routes_lock);
    error = commit(kvm);
    pthread_mutex_unlock(&kvm->routes_lock);
    return error;
}

static int irqfd_connect(void *opaque, int source, int fd, bool on)
{
    struct kvm_vm *kvm = ((struct vm *)opaque)->engine_data;
    struct kvm_irqfd irqfd = {.fd = (uint32_t)fd, .gsi = (uint32_t)source, .flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN};
    int error = kvm_ioctl(kvm->fd, KVM_IRQFD, &irqfd);

    if (!error)
        atomic_fetch_add_explicit(&kvm->stats.irqfds, on ? 1UL : -1UL, memory_order_relaxed);
    return error;
}

const struct irqfd_ops kvm_irqfds = {
    .add = irqfd_add,
    .remove = irqfd_remove,
    .route = irqfd_route,
    .commit = irqfd_commit,
    .connect = irqfd_connect,
};

/* --- doorbells --- */

/* Without KVM_CAP_IOEVENTFD_ANY_LENGTH: of the width that virtio's drivers use. */
#define DOORBELL_BYTES 2

int kvm_ioeventfd(void *opaque, gpa_t gpa, int fd, bool on)
{
    struct kvm_vm *kvm = ((struct vm *)opaque)->engine_data;
    struct kvm_ioeventfd ioeventfd = {
        .addr = gpa,
        .len = kvm->any_length ? 0 : DOORBELL_BYTES,
        .fd = fd,
        .flags = on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN,
    };
    int error = kvm_ioctl(kvm->fd, KVM_IOEVENTFD, &ioeventfd);

    if (!error)
        atomic_fetch_add_explicit(&kvm->stats.ioeventfds, on ? 1UL : -1UL, memory_order_relaxed);
    return error;
}
