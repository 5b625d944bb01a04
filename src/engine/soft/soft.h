/* The software engine's state: one soft_vm a VM, one soft_cpu a vCPU, and the functions its files offer each other. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/log.h"
#include "cpu/vcpu.h"
#include "engine/soft/ctx.h"
#include "engine/soft/insn.h"
#include "event/loop.h"
#include "mem/mem.h"
#include "x86/msr.h"
#include "x86/regs.h"

/*
 * Rules of this folder
 *
 * - C code here sees the complete guest state in struct soft_cpu: gpr, rip, rflags and so on. Translated
 *   code keeps it in host registers and puts it back on its way out.
 * - Guest vectors, x87 and MXCSR may be live in the host's registers while this code runs
 *   (soft_cpu.vec_live). So all of this folder is compiled -mgeneral-regs-only, and nothing here may
 *   call libc (memcpy included) or any other folder's code before soft_vec_park(cpu).
 * - A function that carries out (part of) a guest instruction returns enum soft_result. On SOFT_FAULT
 *   the exception is in cpu->exc and the instruction has changed no guest register; the caller just
 *   returns it upward. Memory already written by the instruction (a string instruction's earlier elements) stays.
 * - cpu->rip is the address of the running instruction until it commits. Handlers see cpu->next_rip = rip + length
 *   and change next_rip to branch; step copies next_rip to rip on SOFT_OK.
 */
enum soft_result {
    SOFT_OK = 0,
    SOFT_FAULT, /* cpu->exc describes the exception */
    SOFT_EXIT,  /* leave to the run loop: cpu->exit is filled; the instruction is complete (HLT) or cannot be (internal) */
    SOFT_SLOW,  /* only from mmu_fill(): this access must go through step (MMIO, code page, page crossing) */
};

struct soft_exception {
    uint8_t vector;
    bool has_error;
    uint32_t error;
    uint64_t cr2; /* EXC_PF only; stored into CR2 at delivery */
    uint64_t dr6; /* EXC_DB only: bits to set */
};

struct soft_shadow; /* mmu.c: one flat table pair with its list of filled entries */

/* What a shadow entry was made for. */
enum fill_cause {
    FILL_READ,    /* a read of a page without entries */
    FILL_WRITE,   /* a write to one */
    FILL_DIRTIED, /* a write to a page with a read entry, whose D bit was clear */
    FILL_ALLOWED, /* the same with D set: the page held code until now, or became writable */
    FILL_CAUSES
};

/* Who flushed. INVPCID's are in the order of its types. */
enum flush_cause {
    FLUSH_CR0,
    FLUSH_CR3,
    FLUSH_CR4,
    FLUSH_EFER,
    FLUSH_INVLPG,
    FLUSH_INVPCID_ADDRESS,
    FLUSH_INVPCID_ONE,
    FLUSH_INVPCID_ALL,
    FLUSH_INVPCID_ALL_NONGLOBAL,
    FLUSH_APIC_BASE, /* the local APIC's page */
    FLUSH_STATE,     /* the whole state was set: at the start, by INIT and reset */
    FLUSH_DEBUGGER,
    FLUSH_CAUSES
};

struct soft_stats {
    uint64_t steps, blocks_translated, bytes_translated, block_entries;
    uint64_t code_exits[10]; /* from translated code, by enum code_exit */
    uint64_t fills[FILL_CAUSES];
    uint64_t flushes[FLUSH_CAUSES]; /* by cause: as many as all, nonglobal and page together */
    uint64_t shadow_fills, flushes_all, flushes_nonglobal, flushes_page, flushes_large_page, page_walks, fetch_walks;
    /* What translated code missed: served by a fill, the guest's own fault, a device, a page that may not be written here, a page's end. */
    uint64_t misses_filled, misses_faulted, misses_device, misses_protected, misses_crossing, misses_unaligned, misses_unshared;
    uint64_t exceptions[32], interrupts, nmis, software_interrupts;
    uint64_t syscalls, msr_accesses, msr_faults, cr_writes, cr3_writes, cr4_writes, invpcids, cpuids, hlts;
    uint64_t run_ticks, translate_ticks; /* host TSC, on the way outside of sleep, and within the translator */
    uint64_t code_ticks;                 /* within translated code; only while soft_vm.count_insns */
};

struct soft_cpu {
    /* --- reached by translated code at small displacements from the context pointer; order and offsets: ctx.h --- */
    uint64_t gpr[GPR_COUNT];
    uint64_t stack[2]; /* room below the context pointer */
    uint64_t rip;
    uint64_t rflags;          /* complete while C runs */
    uint64_t slot[CTX_SLOTS]; /* translated code's own: ctx.h */

    /* --- architectural state --- */
    uint64_t next_rip;
    struct cpu_seg seg[SEG_COUNT];
    struct cpu_seg ldtr, tr;
    struct cpu_table gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, efer, apic_base; /* CR8 lives in the LAPIC's TPR */
    uint64_t xcr0;
    uint64_t dr[4], dr6, dr7;
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, tsc_aux, spec_ctrl, misc_enable, mtrr_def_type;
    uint64_t tsc_offset, tsc_adjust; /* guest TSC = host TSC + tsc_offset */
    uint64_t kvm_system_time, kvm_wall_clock;

    /* Derived from the above by soft_mode_update(). */
    uint8_t cpl;        /* 0 in real mode */
    uint8_t code_bits;  /* 16, 32, 64 */
    uint8_t stack_bits; /* 16, 32, 64 */
    bool long_mode;     /* EFER.LMA */
    bool protected_mode;

    /* --- events --- */
    struct soft_exception exc; /* valid with SOFT_FAULT */
    bool halted, wait_for_sipi;
    bool interrupt_shadow; /* the next instruction runs before any interrupt (STI); set by handlers */
    bool mov_ss_shadow;    /* the same, holding back debug traps too */
    bool nmi_masked;
    bool interrupt_waits; /* for IF: whoever sets it must deliver */
    bool ask_lapic;       /* interrupt_waits may be out of date */
    uint8_t pauses;       /* PAUSEs executed, for one in many to mean something */
    uint8_t debug_hit;    /* DR6 bits B0-B3 of data breakpoints that the running instruction met */
    atomic_bool nmi_pending;
    atomic_uint attention; /* non-zero: translated code leaves soon; soft_want_attention() */
    struct vm_exit *exit;  /* where SOFT_EXIT fills in why */

    /* --- vectors --- */
    bool vec_live;     /* guest x87/SSE/AVX state is in the host's registers, not in xsave */
    uint64_t vec_mask; /* components that the guest may ever use, a subset of the host's XCR0 */
    uint8_t *xsave;    /* XSAVE_MAX bytes, 64-aligned, standard form; exact while !vec_live */

    /* What a signal said about a fault in guest code: recover.c. */
    struct {
        int trapno; /* exception vector */
        uint64_t error;
        uint64_t pc; /* host address */
    } host_fault;

    atomic_uint asleep;           /* the thread waits on attention */
    atomic_uint gate;             /* smp.h: whether the thread uses the tables, or somebody else does */
    atomic_bool stale;            /* smc.h: code was written to, look before the next block */
    uint32_t seen_generation;     /* cache.h: as of this flush is what the host CPU may have fetched */
    struct cpu_state *init_state; /* work space of soft_cpu_init_reset() */
    void *alt_stack;              /* for signals while guest code has the stack pointer */

    /* --- parts --- */
    struct soft_vm *svm;
    struct vcpu *vcpu;
    struct soft_mmu *mmu;           /* mmu.h */
    struct soft_lapic *lapic;       /* lapic.h */
    struct soft_exec *exec;         /* step.h: decode cache and stubs */
    struct trans *trans;            /* translate.h: the translator's work space */
    struct lockstep *lockstep;      /* lockstep.h; NULL unless compared */
    struct jump_cache *jump;        /* cache.h: [JUMP_CACHES] rip -> code, by the low bits of the block mode */
    struct soft_debugger *debugger; /* debugger.h; NULL: none wants anything. The vCPU thread's */
    struct soft_stats stats;        /* written by the vCPU thread only */
};

struct soft_vm {
    struct vm *vm;
    struct mem *mem;
    unsigned cpu_count;
    struct soft_cpu *cpus[VCPU_MAX];
    uint64_t tsc_hz;
    uint64_t tsc_mult;         /* ns per tick << 48 */
    uint64_t tsc_base;         /* host TSC when the VM's clock (kvmclock) was 0 */
    struct soft_pages *pages;  /* smc.h: per guest page: holds code?, which shadow entries map it */
    struct soft_cache *cache;  /* cache.h: translated code */
    bool many;                 /* vCPUs, that is: spinning may be waiting for one that does not run */
    bool count_insns;          /* translated code counts what it executes */
    bool step_only;            /* no translation */
    bool lockstep;             /* every block is compared with step */
    struct soft_cpuid *cpuid;  /* cpuid.h: the CPU model */
    struct perf_map *perf_map; /* perf_map.h; NULL unless wanted */
    atomic_uint code_lock;     /* smp.h: the code cache changes under it */
    bool extint_level;         /* the 8259's INTR */
};

/* --- vectors: switch.S, vec.c --- */

/* Guest vectors go to cpu->xsave, and the host's x87/MXCSR to the state that C code expects. Cheap when already parked. */
void soft_vec_park(struct soft_cpu *);
/* And back into the host's registers. Nothing that uses vectors may run after it. */
void soft_vec_unpark(struct soft_cpu *);

/* A loop that does this would become a call of memset. */
static inline void soft_zero_words(uint64_t *p, size_t count)
{
    __asm__ volatile("rep stosq" : "+D"(p), "+c"(count) : "a"(0) : "memory");
}

/* --- raising --- */

static inline int soft_raise(struct soft_cpu *cpu, uint8_t vector) /* no error code */
{
    cpu->exc = (struct soft_exception){.vector = vector};
    return SOFT_FAULT;
}

static inline int soft_raise_err(struct soft_cpu *cpu, uint8_t vector, uint32_t error)
{
    cpu->exc = (struct soft_exception){.vector = vector, .has_error = true, .error = error};
    return SOFT_FAULT;
}

/* #PF with its CR2. */
static inline int soft_raise_pf(struct soft_cpu *cpu, gva_t gva, uint32_t error)
{
    cpu->exc = (struct soft_exception){.vector = EXC_PF, .has_error = true, .error = error, .cr2 = gva};
    return SOFT_FAULT;
}

#define SLOT(cpu, disp) ((cpu)->slot[((disp)-CTX_SLOT(0)) / 8])

/* The pages of the stacks are looked up anew. */
static inline void soft_forget_stacks(struct soft_cpu *cpu)
{
    __atomic_store_n(&SLOT(cpu, CTX_USER_STACK), CTX_NO_PAGE, __ATOMIC_RELEASE);
    __atomic_store_n(&SLOT(cpu, CTX_STACK), CTX_NO_PAGE, __ATOMIC_RELEASE);
}

/*
 * Anyone with work for this vCPU: its thread leaves translated code soon and looks. Calls and returns look for attention no more than by asking for the
 * page of the stack, so that is taken away too; where translated code enters it, it looks afterwards (translate_share.c).
 */
static inline void soft_want_attention(struct soft_cpu *cpu)
{
    atomic_fetch_or(&cpu->attention, 1);
    soft_forget_stacks(cpu);
}

/* The engine cannot carry this out: ends the VM with a sentence (parks the vectors first). Returns SOFT_EXIT. */
int soft_internal(struct soft_cpu *, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* --- operands: operand.c --- */

/* Effective address (offset within its segment) of insn->mem, truncated to the address size. */
uint64_t soft_ea(const struct soft_cpu *, const struct insn *);

/*
 * Linear address of offset off in segment seg for an access of size bytes, after limit, type and canonical
 * checks: #GP(0) or #SS(0). write: the access writes. In 64-bit mode only FS and GS bases count.
 */
int soft_linear(struct soft_cpu *, unsigned seg, uint64_t off, unsigned size, bool write, gva_t *gva);

/* Operand i of insn as a number (up to 8 bytes), through memory where it is a memory operand. */
int soft_op_read(struct soft_cpu *, const struct insn *, unsigned i, uint64_t *value);
int soft_op_write(struct soft_cpu *, const struct insn *, unsigned i, uint64_t value);

/* General registers by operand rules: 1 byte (with high), 2 bytes keep the rest, 4 bytes zero-extend. */
uint64_t soft_gpr_read(const struct soft_cpu *, unsigned reg, bool high, unsigned size);
void soft_gpr_write(struct soft_cpu *, unsigned reg, bool high, unsigned size, uint64_t value);

/* Memory of size bytes (up to 8) by segment and offset, with all checks: the explicit form for handlers. */
int soft_load(struct soft_cpu *, unsigned seg, uint64_t off, unsigned size, uint64_t *value);
int soft_store(struct soft_cpu *, unsigned seg, uint64_t off, unsigned size, uint64_t value);

/* #AC where alignment is checked (CR0.AM, EFLAGS.AC, CPL 3; SDM vol. 3 6.15) and gva is not a multiple of size, a power of 2. */
int soft_check_alignment(struct soft_cpu *, gva_t gva, unsigned size);

/* SOFT_FAULT unless every page of [gva, gva+n) may be written; writes nothing. */
int soft_check_write(struct soft_cpu *, gva_t gva, unsigned n);

/* One push or pop of size bytes at SS:SP with the stack's width; SP changes only on success. */
int soft_push(struct soft_cpu *, unsigned size, uint64_t value);
int soft_pop(struct soft_cpu *, unsigned size, uint64_t *value);

/* --- mode: sys_cr.c --- */

/* After a change of CR0, CR4, EFER, CS, SS or RFLAGS.VM: recomputes the derived fields. Does not flush. */
void soft_mode_update(struct soft_cpu *);

/* --- events: sys_event.c --- */

enum soft_event { EVENT_EXCEPTION, EVENT_SOFTWARE_INT /* INT n, INT3, INTO */, EVENT_EXTERNAL, EVENT_NMI };

/*
 * Delivers a vector through the IVT or IDT in any mode: gate checks, stack switch (TSS, IST), frame, flags; contributory
 * faults become #DF, and a fault in that SOFT_EXIT with VM_EXIT_SHUTDOWN. rip is the return address for everything
 * but faults of an instruction, whose rip it is too. For EVENT_SOFTWARE_INT a fault is returned as SOFT_FAULT (it belongs to
 * the instruction, rip unchanged); otherwise SOFT_OK (rip is the handler) or SOFT_EXIT.
 */
int soft_deliver(struct soft_cpu *, enum soft_event, const struct soft_exception *);

/* --- step: step.c --- */

/* One instruction at cpu->rip, or the delivery of its fault. SOFT_OK or SOFT_EXIT. */
int soft_step(struct soft_cpu *);
/* The same, of an instruction that the translator has decoded there and left to its handler. */
int soft_step_insn(struct soft_cpu *, const struct insn *);

/* --- engine.c --- */

/* INIT (SDM vol. 3 table 9-1): everything but the LAPIC, which calls this, and what INIT leaves alone. vCPU thread. */
void soft_cpu_init_reset(struct soft_cpu *);
