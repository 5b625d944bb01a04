/* A virtual machine whose one vCPU runs a case at CPL 3 with real page tables, by step or through translated code. */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/vcpu.h"
#include "engine/soft/cpuid.h"
#include "engine/soft/run.h"
#include "engine/soft/step.h"
#include "outcome.h"
#include "x86/paging.h"

#define RAM_BYTES MIB(2)
/* Where things lie in guest memory. */
#define PML4_GPA 0x1000ULL
#define PDPT_GPA 0x2000ULL
#define PD_GPA 0x3000ULL
#define PT_GPA 0x4000ULL
#define ARENA_GPA 0x100000ULL

struct machine {
    struct vm vm;
    struct vcpu vcpu;
    struct soft_cpu *cpu;
    struct vm_exit exit;
    uint8_t *arena; /* the arena's pages as the guest's memory holds them */
};

/* The event that ended a case; soft_deliver() below takes the place of the engine's. */
static struct {
    bool seen;
    enum soft_event event;
    struct soft_exception exc;
    uint64_t rip;
} delivered;

int soft_deliver(struct soft_cpu *cpu, enum soft_event event, const struct soft_exception *e)
{
    soft_vec_park(cpu); /* this file may use vector registers */
    delivered.seen = true;
    delivered.event = event;
    delivered.exc = *e;
    delivered.rip = cpu->rip;
    cpu->exit->reason = VM_EXIT_DEBUG;
    return SOFT_EXIT;
}

static inline void machine_put(struct machine *m, gpa_t gpa, uint64_t value)
{
    if (mem_write(&m->vm.mem, gpa, &value, sizeof(value)) != 0)
        abort();
}

static inline void machine_page_tables(struct machine *m)
{
    uint64_t table = PTE_P | PTE_W | PTE_U;

    machine_put(m, PML4_GPA + 8 * (ARENA >> 39), PDPT_GPA | table);
    machine_put(m, PDPT_GPA + 8 * (ARENA >> 30 & 0x1ff), PD_GPA | table);
    machine_put(m, PD_GPA + 8 * (ARENA >> 21 & 0x1ff), PT_GPA | table);
    for (unsigned i = 0; i < ARENA_PAGES; i++)
        if (arena_page[i] != PAGE_ABSENT)
            machine_put(m, PT_GPA + 8 * i,
                        (ARENA_GPA + i * PAGE_SIZE) | PTE_P | PTE_U | (arena_page[i] == PAGE_RO ? 0 : PTE_W) |
                            (arena_page[i] == PAGE_CODE ? 0 : PTE_NX));
}

/* A 64-bit process as Linux runs it; bits 32: one in a compatibility segment. */
static inline void machine_mode(struct machine *m, unsigned bits, uint64_t fs_base, uint64_t gs_base)
{
    struct soft_cpu *cpu = m->cpu;
    static const uint16_t selectors[SEG_COUNT] = {[SEG_SS] = 0x2b};

    cpu->cr0 = CR0_PG | CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_MP | CR0_AM;
    cpu->cr3 = PML4_GPA;
    cpu->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
    cpu->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    cpu->xcr0 = cpu->svm->cpuid->xcr0;
    cpu->rflags = FLAG_ONE | FLAG_IF;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        cpu->seg[i] = (struct cpu_seg){.limit = UINT32_MAX, .attr = 0xf3 | SEG_DB | SEG_G, .sel = selectors[i]};
    cpu->seg[SEG_CS].attr = 0xfb | SEG_G | (bits == 64 ? SEG_L : SEG_DB);
    cpu->seg[SEG_CS].sel = bits == 64 ? 0x33 : 0x23;
    if (bits == 32)
        cpu->seg[SEG_DS].sel = cpu->seg[SEG_ES].sel = 0x2b;
    cpu->seg[SEG_FS].base = fs_base;
    cpu->seg[SEG_GS].base = gs_base;
    soft_mode_update(cpu);
}

/* 0 or -errno with a sentence. */
static inline int machine_init(struct machine *m, struct err *e)
{
    memset(m, 0, sizeof(*m));
    vm_init(&m->vm);
    m->vm.config.cpus = 1;
    m->vm.engine = &engine_soft;
    bus_init(&m->vm.pio);
    bus_init(&m->vm.mmio);
    m->vm.loop = loop_new(e);
    if (!m->vm.loop)
        return -1;
    int error = mem_init(&m->vm.mem, RAM_BYTES, false, e);
    if (!error)
        error = engine_soft.vm_init(&m->vm, e);
    m->vcpu.vm = &m->vm;
    m->vm.vcpus[0] = &m->vcpu;
    m->vm.vcpu_count = 1;
    if (!error)
        error = engine_soft.vcpu_init(&m->vcpu, e);
    if (error)
        return error;
    m->cpu = m->vcpu.engine_data;
    m->cpu->exit = &m->exit;
    m->arena = mem_hva(&m->vm.mem, ARENA_GPA, ARENA_PAGES * PAGE_SIZE);
    machine_page_tables(m);
    return 0;
}

static inline void machine_fini(struct machine *m)
{
    engine_soft.vcpu_fini(&m->vcpu);
    engine_soft.vm_fini(&m->vm);
    mem_fini(&m->vm.mem);
    bus_fini(&m->vm.pio);
    bus_fini(&m->vm.mmio);
    loop_free(m->vm.loop);
    vm_fini(&m->vm);
}

static inline void machine_load(struct machine *m, const struct outcome *in)
{
    struct soft_cpu *cpu = m->cpu;

    soft_vec_park(cpu);
    memcpy(cpu->gpr, in->gpr, sizeof(cpu->gpr));
    cpu->rip = in->rip;
    cpu->rflags = in->rflags | FLAG_ONE | FLAG_IF;
    memcpy(cpu->xsave, in->image, XSAVE_MAX);
    delivered.seen = false;
    m->exit.reason = VM_EXIT_INTR;
}

/* A fault leaves rip at its instruction; INT3 where a branch went counts as its end. */
static inline void machine_store(struct machine *m, struct outcome *out)
{
    struct soft_cpu *cpu = m->cpu;

    soft_vec_park(cpu);
    memcpy(out->gpr, cpu->gpr, sizeof(cpu->gpr));
    out->rip = delivered.seen ? delivered.rip : cpu->rip;
    out->rflags = cpu->rflags;
    memcpy(out->image, cpu->xsave, XSAVE_MAX);
    out->faulted = delivered.seen;
    out->vector = delivered.exc.vector;
    out->error = delivered.exc.has_error ? delivered.exc.error : 0;
    out->cr2 = delivered.exc.vector == EXC_PF ? delivered.exc.cr2 : 0;
}

/* One instruction; a repeated one until it is through. False when the engine gave up: exit says why. */
static inline bool machine_step(struct machine *m, const struct outcome *in, struct outcome *out)
{
    machine_load(m, in);
    for (unsigned n = 0; n < 64; n++)
        if (soft_step(m->cpu) != SOFT_OK || m->cpu->rip != in->rip)
            break;
    machine_store(m, out);
    return m->exit.reason != VM_EXIT_INTERNAL;
}

/*
 * As a block of translated code, which goes on to whatever stops it: the UD2 behind the instruction, INT3 at a branch's target, or
 * a target that cannot be fetched.
 */
static inline bool machine_translate(struct machine *m, const struct outcome *in, struct outcome *out)
{
    machine_load(m, in);
    m->vm.mem.code_changed(m->vm.mem.code_changed_opaque, ARENA_GPA + CODE_FIRST * PAGE_SIZE, CODE_PAGES * PAGE_SIZE);
    run_vcpu(&m->vcpu, &m->exit);
    machine_store(m, out);
    if (out->faulted && out->rip != in->rip)
        out->faulted = false;
    return m->exit.reason != VM_EXIT_INTERNAL;
}
