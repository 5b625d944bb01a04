/* Step: executes exactly one guest instruction. The slow path, the cold tier and the oracle. */
#include "engine/soft/step.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "engine/soft/ctx.h"
#include "engine/soft/debug.h"
#include "engine/soft/debugger.h"
#include "engine/soft/masked.h"
#include "engine/soft/mmu.h"
#include "engine/soft/smp.h"
#include "engine/soft/stub.h"
#include "engine/soft/switch.h"
#include "engine/soft/vector_image.h"

#define BOUNCE_BYTES (2 * PAGE_SIZE)

int step_init(struct soft_cpu *cpu, struct err *e)
{
    struct soft_exec *exec = cpu->exec;
    size_t bytes = STEP_CACHE_ENTRIES * sizeof(struct step_entry);

    exec->entries = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (exec->entries == MAP_FAILED) {
        exec->entries = NULL;
        return err_set(e, ENOMEM, "cannot allocate %zu bytes for the decode cache", bytes);
    }
    exec->bounce = aligned_alloc(PAGE_SIZE, BOUNCE_BYTES);
    if (!exec->bounce)
        return err_set(e, ENOMEM, "cannot allocate the operand buffer");
    return codemem_init(&exec->stubs, STEP_CACHE_ENTRIES * STEP_STUB_BYTES, e);
}

void step_fini(struct soft_cpu *cpu)
{
    struct soft_exec *exec = cpu->exec;

    if (exec->entries)
        munmap(exec->entries, STEP_CACHE_ENTRIES * sizeof(struct step_entry));
    free(exec->bounce);
    codemem_fini(&exec->stubs);
}

/* --- fetch and decode --- */

/* Linear address of the byte at rip + off, with the checks of a fetch. */
static int code_address(struct soft_cpu *cpu, unsigned off, gva_t *gva)
{
    uint64_t ip = cpu->rip + off;

    if (cpu->code_bits == 64) {
        if (!gva_is_canonical(ip))
            return soft_raise_err(cpu, EXC_GP, 0);
        *gva = ip;
        return SOFT_OK;
    }
    if (ip > cpu->seg[SEG_CS].limit)
        return soft_raise_err(cpu, EXC_GP, 0);
    *gva = (uint32_t)(cpu->seg[SEG_CS].base + ip);
    return SOFT_OK;
}

static bool same_bytes(const struct insn *insn, const uint8_t *bytes, unsigned avail)
{
    if (insn->len > avail)
        return false;
    for (unsigned i = 0; i < insn->len; i++)
        if (insn->bytes[i] != bytes[i])
            return false;
    return true;
}

/* The instruction's bytes up to the end of its page, and from the next page when it runs on into it. */
struct code_bytes {
    uint8_t buf[INSN_MAX_LEN];
    const uint8_t *at;
    unsigned avail;
    gpa_t gpa;
};

/* How many bytes at rip, which is inside, an instruction may have: its segment's limit ends it. In 64-bit mode pages do. */
static unsigned bytes_inside(const struct soft_cpu *cpu)
{
    uint64_t rest = cpu->code_bits == 64 ? INSN_MAX_LEN : cpu->seg[SEG_CS].limit - cpu->rip + 1;

    return (unsigned)MIN(rest, INSN_MAX_LEN);
}

static int fetch_first(struct soft_cpu *cpu, struct code_bytes *code)
{
    gva_t gva;
    int result = code_address(cpu, 0, &gva);

    if (result == SOFT_OK)
        result = mmu_fetch(cpu, gva, &code->gpa, &code->at);
    if (result != SOFT_OK)
        return result;
    if (!code->at)
        return soft_internal(cpu, "the guest executes at physical address 0x%llx, where there is no memory", (unsigned long long)code->gpa);
    code->avail = MIN(PAGE_SIZE - (gva & PAGE_MASK), bytes_inside(cpu));
    return SOFT_OK;
}

static int fetch_rest(struct soft_cpu *cpu, struct code_bytes *code)
{
    gpa_t gpa;
    const uint8_t *next;
    gva_t gva;
    int result = code_address(cpu, code->avail, &gva);

    if (result == SOFT_OK)
        result = mmu_fetch(cpu, gva, &gpa, &next);
    if (result != SOFT_OK)
        return result;
    if (!next)
        return soft_internal(cpu, "the guest executes at physical address 0x%llx, where there is no memory", (unsigned long long)gpa);
    for (unsigned i = 0; i < code->avail; i++)
        code->buf[i] = code->at[i];
    unsigned inside = bytes_inside(cpu);
    for (unsigned i = code->avail; i < inside; i++)
        code->buf[i] = next[i - code->avail];
    code->at = code->buf;
    code->avail = inside;
    return SOFT_OK;
}

static int decode_into(struct soft_cpu *cpu, struct step_entry *entry, struct code_bytes *code)
{
    soft_vec_park(cpu);
    entry->gpa = GPA_INVALID;
    int error = insn_decode(cpu->svm, &entry->insn, code->at, code->avail, cpu->code_bits);
    if (error == -EAGAIN && code->avail < INSN_MAX_LEN) {
        int result = fetch_rest(cpu, code);
        if (result != SOFT_OK)
            return result;
        error = insn_decode(cpu->svm, &entry->insn, code->at, code->avail, cpu->code_bits);
        if (error == -EAGAIN) /* and beyond its segment there */
            return soft_raise_err(cpu, EXC_GP, 0);
    }
    if (error)
        return soft_internal(cpu, "no decoder for %u-bit code", cpu->code_bits);
    entry->has_stub = false;
    if (entry->insn.cls == INSN_INNOCUOUS && !entry->insn.nop) {
        size_t slot = (size_t)(entry - cpu->exec->entries) * STEP_STUB_BYTES;
        entry->has_stub = stub_emit(&entry->insn, cpu->exec->stubs.rw + slot) > 0;
        entry->stub = cpu->exec->stubs.rx + slot;
    }
    entry->gpa = code->gpa;
    return SOFT_OK;
}

int step_fetch(struct soft_cpu *cpu, struct step_entry **found)
{
    struct code_bytes code;
    int result = fetch_first(cpu, &code);

    if (result != SOFT_OK)
        return result;
    uint64_t hash = code.gpa ^ code.gpa >> 14;
    struct step_entry *entry = &cpu->exec->entries[hash % STEP_CACHE_ENTRIES];
    *found = entry;
    if (entry->gpa == code.gpa && entry->insn.mode_bits == cpu->code_bits) {
        if (same_bytes(&entry->insn, code.at, code.avail))
            return SOFT_OK;
        if (entry->insn.len > code.avail && code.avail < INSN_MAX_LEN) { /* runs on into the next page */
            result = fetch_rest(cpu, &code);
            if (result != SOFT_OK)
                return result;
            if (same_bytes(&entry->insn, code.at, code.avail))
                return SOFT_OK;
        }
    }
    return decode_into(cpu, entry, &code);
}

/* --- what must hold before an instruction may run --- */

static int check_unit(struct soft_cpu *cpu, const struct insn *insn)
{
    bool em = cpu->cr0 & CR0_EM;
    bool ts = cpu->cr0 & CR0_TS;

    switch (insn->unit) {
    case UNIT_GPR:
        if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && !cpu->protected_mode)
            return soft_raise(cpu, EXC_UD);
        return SOFT_OK;
    case UNIT_X87:
        if (insn->mnemonic == ZYDIS_MNEMONIC_FWAIT)
            return ts && (cpu->cr0 & CR0_MP) ? soft_raise(cpu, EXC_NM) : SOFT_OK;
        return em || ts ? soft_raise(cpu, EXC_NM) : SOFT_OK;
    case UNIT_SSE:
        if (!(cpu->cr4 & CR4_OSFXSR))
            return soft_raise(cpu, EXC_UD);
        __attribute__((fallthrough));
    case UNIT_MMX:
        if (em)
            return soft_raise(cpu, EXC_UD);
        break;
    default: {
        uint64_t need = insn->unit == UNIT_AVX512 ? 0xe6 : 0x6;
        if (!cpu->protected_mode || !(cpu->cr4 & CR4_OSXSAVE) || (cpu->xcr0 & need) != need)
            return soft_raise(cpu, EXC_UD);
    }
    }
    return ts ? soft_raise(cpu, EXC_NM) : SOFT_OK;
}

/* --- innocuous instructions --- */

/* A fault of the stub is the guest's: the CPU itself found it (SDM vol. 3 6.15). */
static int stub_fault(struct soft_cpu *cpu, const struct insn *insn)
{
    switch (cpu->host_fault.trapno) {
    case EXC_DE: return soft_raise(cpu, EXC_DE);
    case EXC_UD: return soft_raise(cpu, EXC_UD);
    case EXC_MF: return soft_raise(cpu, EXC_MF);
    case EXC_XM: return soft_raise(cpu, cpu->cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD);
    case EXC_GP: return soft_raise_err(cpu, EXC_GP, 0); /* a misaligned vector operand, bad MXCSR bits */
    default:
        return soft_internal(cpu, "host exception %d in the stub of mnemonic %u at guest 0x%llx", cpu->host_fault.trapno, insn->mnemonic,
                             (unsigned long long)cpu->rip);
    }
}

static int run_stub(struct soft_cpu *cpu, const struct step_entry *entry, void *operand)
{
    cpu->slot[(CTX_TEMP - CTX_SLOT(0)) / 8] = (uint64_t)(uintptr_t)operand;
    if (entry->insn.unit != UNIT_GPR)
        soft_vec_unpark(cpu);
    return switch_to_stub(cpu, entry->stub) == 0 ? SOFT_OK : stub_fault(cpu, &entry->insn);
}

/* Vector operands whose misalignment is #GP, before any page fault; the others of 16 bytes and more may lie anywhere. */
static bool must_be_aligned(const struct insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM:
    /* these are the CPU's affair: AMD's allow any address */
    case ZYDIS_MNEMONIC_SHA1MSG1:
    case ZYDIS_MNEMONIC_SHA1MSG2:
    case ZYDIS_MNEMONIC_SHA1NEXTE:
    case ZYDIS_MNEMONIC_SHA1RNDS4:
    case ZYDIS_MNEMONIC_SHA256MSG1:
    case ZYDIS_MNEMONIC_SHA256MSG2:
    case ZYDIS_MNEMONIC_SHA256RNDS2: return false;
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
    case ZYDIS_MNEMONIC_VMOVDQA32:
    case ZYDIS_MNEMONIC_VMOVDQA64:
    case ZYDIS_MNEMONIC_VMOVNTPS:
    case ZYDIS_MNEMONIC_VMOVNTPD:
    case ZYDIS_MNEMONIC_VMOVNTDQ:
    case ZYDIS_MNEMONIC_VMOVNTDQA:
    case ZYDIS_MNEMONIC_CMPXCHG16B: return true;
    default: return insn->unit == UNIT_SSE && insn->mem_size == 16;
    }
}

/* #AC, or #GP for a vector operand (SDM vol. 3 6.15; vol. 2 tables 2-18 ff.). */
static int check_alignment(struct soft_cpu *cpu, const struct insn *insn, gva_t gva)
{
    unsigned size = insn->mem_size;

    if (size == 10)
        size = 8; /* x87's longest */
    if ((size & (size - 1)) || (gva & (size - 1)) == 0)
        return SOFT_OK;
    if (must_be_aligned(insn))
        return soft_raise_err(cpu, EXC_GP, 0);
    return size <= 8 ? soft_check_alignment(cpu, gva, size) : SOFT_OK; /* CPUs differ about longer ones */
}

/* Stores that may leave (parts of) the operand as it was: lanes that an opmask switches off, x87 with an unmasked exception. */
static bool stores_in_part(const struct insn *insn)
{
    bool masked = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX && (insn->bytes[insn->vex_off + 3] & 7);

    return masked || insn->unit == UNIT_X87;
}

/* The operand crosses a page or is a device's: through a buffer, aligned as the guest's address is. */
static int run_bounced(struct soft_cpu *cpu, const struct step_entry *entry, gva_t gva, unsigned access)
{
    const struct insn *insn = &entry->insn;
    uint8_t *buf = cpu->exec->bounce + (gva & 63);
    uint64_t rflags = cpu->rflags;
    int result;

    if (access == MMU_WRITE && !insn->mem_read && !stores_in_part(insn)) {
        result = soft_check_write(cpu, gva, insn->mem_size);
    } else {
        if (access == MMU_WRITE && (result = soft_check_write(cpu, gva, insn->mem_size)) != SOFT_OK)
            return result;
        result = mmu_read(cpu, gva, buf, insn->mem_size, MMU_READ);
    }
    if (result == SOFT_OK)
        result = run_stub(cpu, entry, buf);
    if (result == SOFT_OK && insn->mem_written) {
        result = mmu_write(cpu, gva, buf, insn->mem_size, MMU_WRITE);
        if (result != SOFT_OK)
            cpu->rflags = rflags;
    }
    return result;
}

/* A locked instruction there is one access for all vCPUs too: none but this one runs meanwhile. On a page of RAM the stub's LOCK serves. */
static int run_bounced_locked(struct soft_cpu *cpu, const struct step_entry *entry, gva_t gva, unsigned access)
{
    bool locked = entry->insn.lock || entry->insn.mnemonic == ZYDIS_MNEMONIC_XCHG;
    int result;

    if (!locked || !cpu->svm->many)
        return run_bounced(cpu, entry, gva, access);
    smp_exclusive_begin(cpu);
    result = run_bounced(cpu, entry, gva, access);
    smp_exclusive_end(cpu);
    return result;
}

/* Aligned moves fault on a misaligned operand as soon as any lane is on. */
static bool masked_misaligned(struct soft_cpu *cpu, const struct insn *insn)
{
    bool based = cpu->code_bits != 64 || insn->mem.seg >= SEG_FS;
    uint64_t at = soft_ea(cpu, insn) + (based ? cpu->seg[insn->mem.seg].base : 0);

    if (!(at & (insn->mem_size - 1u)) || !must_be_aligned(insn))
        return false;
    soft_vec_park(cpu);
    return (vec_image_opmask(cpu, insn->mask_reg) & (BIT(insn->mem_size / insn->mem_elem) - 1)) != 0;
}

/* An x87 exception that waits comes before any fault of the operand, and misalignment before others (SDM vol. 3 table 6-2). */
static int memory_fault(struct soft_cpu *cpu, const struct insn *insn)
{
    bool waits = insn->unit == UNIT_MMX || insn->unit == UNIT_X87;

    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FNSTSW: waits = false; break;
    case ZYDIS_MNEMONIC_CVTPS2PI:
    case ZYDIS_MNEMONIC_CVTTPS2PI:
    case ZYDIS_MNEMONIC_CVTPD2PI:
    case ZYDIS_MNEMONIC_CVTTPD2PI: waits = true; break; /* to an MMX register; CVTPI2PS from memory has none */
    default: break;
    }
    if (cpu->exc.vector == EXC_SS && must_be_aligned(insn) && (soft_ea(cpu, insn) & (insn->mem_size - 1u)))
        return soft_raise_err(cpu, EXC_GP, 0);
    if (!waits)
        return SOFT_FAULT;
    soft_vec_park(cpu);
    return vec_image_x87_pending(cpu) ? soft_raise(cpu, EXC_MF) : SOFT_FAULT;
}

static int run_with_memory(struct soft_cpu *cpu, const struct step_entry *entry)
{
    const struct insn *insn = &entry->insn;
    unsigned access = insn->mem_written ? MMU_WRITE : MMU_READ;
    gva_t gva;
    void *hva;
    int result;

    if (insn->masked_mem)
        return masked_misaligned(cpu, insn) ? soft_raise_err(cpu, EXC_GP, 0) : masked_run(cpu, entry);
    result = soft_linear(cpu, insn->mem.seg, soft_ea(cpu, insn), insn->mem_size, insn->mem_written, &gva);
    if (result == SOFT_OK)
        result = check_alignment(cpu, insn, gva);
    if (result == SOFT_OK)
        result = mmu_host(cpu, gva, insn->mem_size, access, &hva);
    if (result == SOFT_OK)
        result = hva ? run_stub(cpu, entry, hva) : run_bounced_locked(cpu, entry, gva, access);
    return result == SOFT_FAULT ? memory_fault(cpu, insn) : result;
}

int step_run_stub(struct soft_cpu *cpu, const struct step_entry *entry, void *operand)
{
    return run_stub(cpu, entry, operand);
}

static int run_innocuous(struct soft_cpu *cpu, const struct step_entry *entry)
{
    const struct insn *insn = &entry->insn;

    if (insn->nop)
        return SOFT_OK;
    if (insn->mnemonic == ZYDIS_MNEMONIC_LEA) {
        soft_gpr_write(cpu, insn->op[0].reg, false, insn->op[0].size, soft_ea(cpu, insn));
        return SOFT_OK;
    }
    if (!entry->has_stub)
        return soft_internal(cpu, "no stub for mnemonic %u at guest 0x%llx", insn->mnemonic, (unsigned long long)cpu->rip);
    return insn->has_mem ? run_with_memory(cpu, entry) : run_stub(cpu, entry, NULL);
}

/* --- one instruction --- */

static int execute(struct soft_cpu *cpu, const struct step_entry *entry)
{
    const struct insn *insn = &entry->insn;
    int result;

    if (insn->cls == INSN_INVALID)
        return insn->too_long ? soft_raise_err(cpu, EXC_GP, 0) : soft_raise(cpu, EXC_UD);
    result = check_unit(cpu, insn);
    if (result != SOFT_OK)
        return result;
    return insn->cls == INSN_INNOCUOUS ? run_innocuous(cpu, entry) : insn->exec(cpu, insn);
}

/*
 * Whether a single-step trap follows. For most instructions TF before them decides; the ones that enter a handler or a kernel, or
 * come back from it, go by what they leave in it (SDM vol. 3 17.3.1.4; vol. 2 SYSCALL, SYSRET).
 */
static bool single_steps(const struct soft_cpu *cpu, const struct insn *insn, bool before)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_INT:
    case ZYDIS_MNEMONIC_INT1:
    case ZYDIS_MNEMONIC_INT3:
    case ZYDIS_MNEMONIC_INTO:
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSRET: return cpu->rflags & FLAG_TF;
    default: return before;
    }
}

static void begin(struct soft_cpu *cpu, const struct insn *insn)
{
    cpu->exec->counts[insn->mnemonic]++;
    cpu->next_rip = cpu->rip + insn->len;
    if (cpu->code_bits != 64)
        cpu->next_rip = (uint32_t)cpu->next_rip;
}

/* trap: TF was set before it. */
static int commit(struct soft_cpu *cpu, const struct insn *insn, bool trap, int result)
{
    if (result == SOFT_FAULT) {
        if (cpu->debugger)
            debugger_forget(cpu);
        return result;
    }
    cpu->rip = cpu->next_rip;
    if (cpu->debugger)
        debugger_complete(cpu, insn);
    trap = single_steps(cpu, insn, trap);
    if (result == SOFT_OK && (trap || cpu->debug_hit))
        return debug_trap(cpu, trap);
    return result;
}

static int step_insn(struct soft_cpu *cpu)
{
    struct step_entry *entry;
    bool trap = cpu->rflags & FLAG_TF;
    int result = debug_check_fetch(cpu);

    cpu->interrupt_shadow = false;
    cpu->mov_ss_shadow = false;
    cpu->rflags &= ~FLAG_RF;
    if (result == SOFT_OK)
        result = step_fetch(cpu, &entry);
    if (result != SOFT_OK)
        return result;
    begin(cpu, &entry->insn);
    return commit(cpu, &entry->insn, trap, execute(cpu, entry));
}

static int deliver_fault(struct soft_cpu *cpu)
{
    cpu->debug_hit = 0; /* what did not happen met no breakpoint */
    return soft_deliver(cpu, EVENT_EXCEPTION, &cpu->exc);
}

int soft_step(struct soft_cpu *cpu)
{
    cpu->stats.steps++;
    int result = step_insn(cpu);

    return result == SOFT_FAULT ? deliver_fault(cpu) : result;
}

/* Translated code runs without TF, RF, breakpoints and shadows, and its bytes are what they were, or its block would be gone. */
int soft_step_insn(struct soft_cpu *cpu, const struct insn *insn)
{
    cpu->stats.steps++;
    begin(cpu, insn);
    int result = check_unit(cpu, insn);
    if (result == SOFT_OK)
        result = insn->exec(cpu, insn);
    result = commit(cpu, insn, false, result);
    return result == SOFT_FAULT ? deliver_fault(cpu) : result;
}
