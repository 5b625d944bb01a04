/* The software engine's counters, handed to whoever reports them. */
#include "cpu/stats.h"

#include <assert.h>

#include "engine/soft/cache.h"
#include "engine/soft/mmu.h"
#include "engine/soft/run.h"
#include "engine/soft/shadow.h"
#include "engine/soft/smc.h"
#include "engine/soft/step.h"
#include "engine/soft/tsc.h"

#define STEPS_SHOWN 16

#define COUNTER(member) offsetof(struct soft_stats, member)

static const struct {
    const char *name;
    size_t offset;
} counters[] = {
    {"steps", COUNTER(steps)},
    {"block_entries", COUNTER(block_entries)},
    {"exits_next", COUNTER(code_exits[CODE_EXIT_NEXT])},
    {"exits_link", COUNTER(code_exits[CODE_EXIT_LINK])},
    {"exits_miss", COUNTER(code_exits[CODE_EXIT_MISS])},
    {"exits_step", COUNTER(code_exits[CODE_EXIT_STEP])},
    {"exits_insn", COUNTER(code_exits[CODE_EXIT_INSN])},
    {"exits_attention", COUNTER(code_exits[CODE_EXIT_ATTENTION])},
    {"exits_fault", COUNTER(code_exits[CODE_EXIT_FAULT])},
    {"exits_unshared", COUNTER(code_exits[CODE_EXIT_UNSHARED])},
    {"exits_stale", COUNTER(code_exits[CODE_EXIT_STALE])},
    {"exits_call", COUNTER(code_exits[CODE_EXIT_CALL])},
    {"misses_filled", COUNTER(misses_filled)},
    {"misses_faulted", COUNTER(misses_faulted)},
    {"misses_device", COUNTER(misses_device)},
    {"misses_protected", COUNTER(misses_protected)},
    {"misses_crossing", COUNTER(misses_crossing)},
    {"misses_unaligned", COUNTER(misses_unaligned)},
    {"misses_unshared", COUNTER(misses_unshared)},
    {"blocks_translated", COUNTER(blocks_translated)},
    {"guest_bytes_translated", COUNTER(bytes_translated)},
    {"page_walks", COUNTER(page_walks)},
    {"fetch_walks", COUNTER(fetch_walks)},
    {"shadow_fills", COUNTER(shadow_fills)},
    {"fills_read", COUNTER(fills[FILL_READ])},
    {"fills_write", COUNTER(fills[FILL_WRITE])},
    {"fills_dirtied", COUNTER(fills[FILL_DIRTIED])},
    {"fills_allowed", COUNTER(fills[FILL_ALLOWED])},
    {"flushes_all", COUNTER(flushes_all)},
    {"flushes_nonglobal", COUNTER(flushes_nonglobal)},
    {"flushes_page", COUNTER(flushes_page)},
    {"flushes_large_page", COUNTER(flushes_large_page)},
    {"flushes_by_cr0", COUNTER(flushes[FLUSH_CR0])},
    {"flushes_by_cr3", COUNTER(flushes[FLUSH_CR3])},
    {"flushes_by_cr4", COUNTER(flushes[FLUSH_CR4])},
    {"flushes_by_efer", COUNTER(flushes[FLUSH_EFER])},
    {"flushes_by_invlpg", COUNTER(flushes[FLUSH_INVLPG])},
    {"flushes_by_invpcid_address", COUNTER(flushes[FLUSH_INVPCID_ADDRESS])},
    {"flushes_by_invpcid_one", COUNTER(flushes[FLUSH_INVPCID_ONE])},
    {"flushes_by_invpcid_all", COUNTER(flushes[FLUSH_INVPCID_ALL])},
    {"flushes_by_invpcid_all_nonglobal", COUNTER(flushes[FLUSH_INVPCID_ALL_NONGLOBAL])},
    {"flushes_by_apic_base", COUNTER(flushes[FLUSH_APIC_BASE])},
    {"flushes_by_state", COUNTER(flushes[FLUSH_STATE])},
    {"flushes_by_debugger", COUNTER(flushes[FLUSH_DEBUGGER])},
    {"interrupts", COUNTER(interrupts)},
    {"nmis", COUNTER(nmis)},
    {"software_interrupts", COUNTER(software_interrupts)},
    {"syscalls", COUNTER(syscalls)},
    {"msr_accesses", COUNTER(msr_accesses)},
    {"msr_faults", COUNTER(msr_faults)},
    {"cr_writes", COUNTER(cr_writes)},
    {"cr3_writes", COUNTER(cr3_writes)},
    {"cr4_writes", COUNTER(cr4_writes)},
    {"invpcids", COUNTER(invpcids)},
    {"cpuids", COUNTER(cpuids)},
    {"hlts", COUNTER(hlts)},
};
static_assert(CODE_EXIT_COUNT <= ARRAY_SIZE(((struct soft_stats *)0)->code_exits), "every exit is counted");

static const char *const exception_names[32] = {
    [EXC_DE] = "DE", [EXC_DB] = "DB", [EXC_NMI] = "NMI", [EXC_BP] = "BP", [EXC_OF] = "OF", [EXC_BR] = "BR",
    [EXC_UD] = "UD", [EXC_NM] = "NM", [EXC_DF] = "DF",   [EXC_TS] = "TS", [EXC_NP] = "NP", [EXC_SS] = "SS",
    [EXC_GP] = "GP", [EXC_PF] = "PF", [EXC_MF] = "MF",   [EXC_AC] = "AC", [EXC_MC] = "MC", [EXC_XM] = "XM",
};

static void report_counters(const struct soft_vm *svm, struct stats_out *out)
{
    for (unsigned k = 0; k < ARRAY_SIZE(counters); k++) {
        uint64_t total = 0;
        for (unsigned i = 0; i < svm->cpu_count; i++)
            total += *(const uint64_t *)(const void *)((const char *)&svm->cpus[i]->stats + counters[k].offset);
        out->number(out, "engine", counters[k].name, total);
    }
}

static void report_code_pages(const struct soft_pages *pages, struct stats_out *out)
{
    static const char *const names[SMC_WRITERS] = {[SMC_GUEST] = "code_pages_written_by_guest",
                                                   [SMC_DEVICE] = "code_pages_written_by_device",
                                                   [SMC_OUTSIDE] = "code_pages_written_outside"};

    out->number(out, "engine", "code_pages", atomic_load_explicit(&pages->marked, memory_order_relaxed));
    for (unsigned i = 0; i < SMC_WRITERS; i++)
        out->number(out, "engine", names[i], atomic_load_explicit(&pages->written[i], memory_order_relaxed));
}

static void report_memory(const struct soft_vm *svm, struct stats_out *out)
{
    const struct soft_cache *cache = svm->cache;
    struct shadow_counts total = {0};

    for (unsigned i = 0; i < svm->cpu_count; i++) {
        const struct shadow_counts *counts = mmu_shadow_counts(svm->cpus[i]);
        total.flushed += counts->flushed;
        total.full += counts->full;
        total.reclaims += counts->reclaims;
        total.table_pages += counts->table_pages;
    }
    out->number(out, "engine", "shadow_entries_flushed", total.flushed);
    out->number(out, "engine", "shadow_lists_full", total.full);
    out->number(out, "engine", "shadow_reclaims", total.reclaims);
    out->number(out, "engine", "shadow_table_pages", total.table_pages);
    report_code_pages(svm->pages, out);
    out->number(out, "engine", "code_blocks_dropped", cache->blocks_dropped);
    out->number(out, "engine", "code_links_made", cache->links_made);
    out->number(out, "engine", "code_links_cut", cache->links_cut);
    out->number(out, "engine", "code_cache_flushes", cache->generation);
    out->number(out, "engine", "code_cache_bytes", cache->used);
    out->number(out, "engine", "code_cache_bytes_cold", cache->cold_used);
}

/* Where the vCPUs' time went that they did not sleep. Entering and leaving code is measured only together with instructions. */
static void report_time(const struct soft_vm *svm, struct stats_out *out)
{
    uint64_t run = 0, translate = 0, code = 0, entries = 0, blocks = 0, insns = 0, steps = 0;

    for (unsigned i = 0; i < svm->cpu_count; i++) {
        const struct soft_cpu *cpu = svm->cpus[i];
        run += cpu->stats.run_ticks;
        translate += cpu->stats.translate_ticks;
        code += cpu->stats.code_ticks;
        entries += cpu->stats.block_entries;
        blocks += cpu->stats.blocks_translated;
        steps += cpu->stats.steps;
        insns += SLOT(cpu, CTX_INSNS);
    }
    out->timed(out, "engine_time", "translator", blocks, tsc_to_ns(svm, translate));
    if (!svm->count_insns)
        return;
    out->number(out, "engine", "instructions", insns + steps);
    out->timed(out, "engine_time", "translated_code", entries, tsc_to_ns(svm, code));
    out->timed(out, "engine_time", "rest", steps, tsc_to_ns(svm, run > code + translate ? run - code - translate : 0));
}

static uint64_t steps_of(const struct soft_vm *svm, unsigned mnemonic)
{
    uint64_t total = 0;

    for (unsigned i = 0; i < svm->cpu_count; i++)
        total += svm->cpus[i]->exec->counts[mnemonic];
    return total;
}

/* The instructions that were stepped most, each time with fewer than the one before. */
static void report_steps(const struct soft_vm *svm, struct stats_out *out)
{
    uint64_t below = UINT64_MAX;

    for (unsigned n = 0; n < STEPS_SHOWN; n++) {
        uint64_t most = 0;
        unsigned found = 0;

        for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
            uint64_t count = steps_of(svm, m);
            if (count > most && count < below) {
                most = count;
                found = m;
            }
        }
        if (!most)
            return;
        out->number(out, "steps", ZydisMnemonicGetString((ZydisMnemonic)found), most);
        below = most;
    }
}

static void report_exceptions(const struct soft_vm *svm, struct stats_out *out)
{
    for (unsigned v = 0; v < 32; v++) {
        uint64_t total = 0;
        for (unsigned i = 0; i < svm->cpu_count; i++)
            total += svm->cpus[i]->stats.exceptions[v];
        if (exception_names[v] && total)
            out->number(out, "exceptions", exception_names[v], total);
    }
}

void soft_stats_report(struct vm *vm, struct stats_out *out)
{
    const struct soft_vm *svm = vm->engine_data;

    report_time(svm, out);
    report_counters(svm, out);
    report_memory(svm, out);
    report_steps(svm, out);
    report_exceptions(svm, out);
}
