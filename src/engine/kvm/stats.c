/* The KVM engine's counters, handed to whoever reports them. */
#include "engine/kvm/kvm.h"

void kvm_report_stats(struct vm *vm, struct stats_out *out)
{
    struct kvm_vm *kvm = vm->engine_data;
    const struct {
        const char *name;
        const atomic_ulong *value;
    } rows[] = {
        {"kick_signals", &kvm->stats.kick_signals}, {"messages", &kvm->stats.messages},
        {"extints", &kvm->stats.extints},           {"nmis", &kvm->stats.nmis},
        {"routings", &kvm->stats.routings},         {"irqfds", &kvm->stats.irqfds},
        {"ioeventfds", &kvm->stats.ioeventfds},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
        out->number(out, "engine", rows[i].name, atomic_load_explicit(rows[i].value, memory_order_relaxed));
}
