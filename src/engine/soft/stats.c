/* The software engine's counters, handed to whoever reports them. */
#include "cpu/stats.h"

#include "engine/soft/cache.h"
#include "engine/soft/run.h"
#include "engine/soft/smc.h"

static const struct {
    const char *name;
    size_t offset;
} counters[] = {
    {"steps", offsetof(struct soft_stats, steps)},
    {"block_entries", offsetof(struct soft_stats, block_entries)},
    {"blocks_translated", offsetof(struct soft_stats, blocks_translated)},
    {"guest_bytes_translated", offsetof(struct soft_stats, bytes_translated)},
    {"page_walks", offsetof(struct soft_stats, page_walks)},
    {"shadow_fills", offsetof(struct soft_stats, shadow_fills)},
    {"shadow_fills_failed", offsetof(struct soft_stats, shadow_fills_failed)},
    {"flushes_all", offsetof(struct soft_stats, flushes_all)},
    {"flushes_nonglobal", offsetof(struct soft_stats, flushes_nonglobal)},
    {"flushes_page", offsetof(struct soft_stats, flushes_page)},
    {"interrupts", offsetof(struct soft_stats, interrupts)},
    {"nmis", offsetof(struct soft_stats, nmis)},
    {"software_interrupts", offsetof(struct soft_stats, software_interrupts)},
    {"syscalls", offsetof(struct soft_stats, syscalls)},
    {"msr_accesses", offsetof(struct soft_stats, msr_accesses)},
    {"msr_faults", offsetof(struct soft_stats, msr_faults)},
    {"cr_writes", offsetof(struct soft_stats, cr_writes)},
    {"cpuids", offsetof(struct soft_stats, cpuids)},
    {"hlts", offsetof(struct soft_stats, hlts)},
};

static const char *const exception_names[32] = {
    [EXC_DE] = "DE", [EXC_DB] = "DB", [EXC_NMI] = "NMI", [EXC_BP] = "BP", [EXC_OF] = "OF", [EXC_BR] = "BR",
    [EXC_UD] = "UD", [EXC_NM] = "NM", [EXC_DF] = "DF",   [EXC_TS] = "TS", [EXC_NP] = "NP", [EXC_SS] = "SS",
    [EXC_GP] = "GP", [EXC_PF] = "PF", [EXC_MF] = "MF",   [EXC_AC] = "AC", [EXC_MC] = "MC", [EXC_XM] = "XM",
};

void soft_stats_report(struct vm *vm, struct stats_out *out)
{
    const struct soft_vm *svm = vm->engine_data;
    uint64_t total[ARRAY_SIZE(counters)] = {0};
    uint64_t exceptions[32] = {0};
    uint64_t insns = 0;

    for (unsigned i = 0; i < svm->cpu_count; i++) {
        const struct soft_cpu *cpu = svm->cpus[i];
        for (unsigned k = 0; k < ARRAY_SIZE(counters); k++)
            total[k] += *(const uint64_t *)(const void *)((const char *)&cpu->stats + counters[k].offset);
        for (unsigned v = 0; v < 32; v++)
            exceptions[v] += cpu->stats.exceptions[v];
        insns += SLOT(cpu, CTX_INSNS) + cpu->stats.steps;
    }
    if (svm->count_insns)
        out->number(out, "engine", "instructions", insns);
    for (unsigned k = 0; k < ARRAY_SIZE(counters); k++)
        out->number(out, "engine", counters[k].name, total[k]);
    out->number(out, "engine", "code_pages_dropped", atomic_load_explicit(&svm->pages->dropped, memory_order_relaxed));
    out->number(out, "engine", "code_cache_bytes", svm->cache->used);
    for (unsigned v = 0; v < 32; v++)
        if (exception_names[v] && exceptions[v])
            out->number(out, "exceptions", exception_names[v], exceptions[v]);
}
