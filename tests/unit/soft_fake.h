/* The software engine without its MMU: linear memory is an arena at the same address on the host, page by page. */
#pragma once

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cmocka.h>

#include "engine/soft/cpuid.h"
#include "engine/soft/lapic.h"
#include "engine/soft/mmu.h"
#include "engine/soft/sys.h"
#include "engine/soft/tsc.h"
#include "engine/soft/vector_image.h"

/* Below 4 GiB, so that 32-bit code reaches it; the same bytes serve native code for comparison. */
#define ARENA 0x10000000ULL
#define ARENA_PAGES 32
#define ARENA_BYTES (ARENA_PAGES * PAGE_SIZE)

enum fake_page { PAGE_RAM, PAGE_ABSENT, PAGE_READONLY, PAGE_DEVICE };

struct fake {
    struct vm vm;
    struct soft_vm svm;
    struct vcpu vcpu;
    struct soft_cpu cpu;
    struct insn insn;
};

/* What the engine's other parts were asked to do. */
static struct {
    enum fake_page page[ARENA_PAGES];
    unsigned flush_all, flush_nonglobal, flush_page, parks, device_reads, device_writes, tsc_changes;
    bool pdptes_bad;
    gva_t flushed;
    uint64_t cr8, tsc, msr_value, port_value;
    uint32_t msr, kvm_msr;
    uint16_t port;
    unsigned port_size, port_reads, port_writes;
    uint8_t xsave[XSAVE_MAX] __attribute__((aligned(64)));
} fake_seen;

static inline uint8_t *arena(uint64_t off)
{
    return (uint8_t *)(uintptr_t)(ARENA + off);
}

static enum fake_page fake_page_at(gva_t gva)
{
    return gva < ARENA || gva >= ARENA + ARENA_BYTES ? PAGE_ABSENT : fake_seen.page[(gva - ARENA) / PAGE_SIZE];
}

static int fake_check(struct soft_cpu *cpu, gva_t gva, unsigned access)
{
    enum fake_page page = fake_page_at(gva);
    uint32_t error = (access & MMU_WRITE ? PF_WRITE : 0) | (cpu->cpl == 3 && !(access & MMU_SUPERVISOR) ? PF_USER : 0);

    if (page == PAGE_ABSENT)
        return soft_raise_pf(cpu, gva, error);
    if (page == PAGE_READONLY && (access & MMU_WRITE))
        return soft_raise_pf(cpu, gva, error | PF_PRESENT);
    return SOFT_OK;
}

int mmu_translate(struct soft_cpu *cpu, gva_t gva, unsigned access, struct mmu_target *target)
{
    *target = (struct mmu_target){.gpa = gva, .hva = fake_page_at(gva) == PAGE_DEVICE ? NULL : (uint8_t *)(uintptr_t)gva};
    return fake_check(cpu, gva, access);
}

static int fake_check_all(struct soft_cpu *cpu, gva_t gva, unsigned n, unsigned access)
{
    for (gva_t at = gva; at < gva + n; at = ALIGN_DOWN(at, PAGE_SIZE) + PAGE_SIZE) {
        int result = fake_check(cpu, at, access);
        if (result != SOFT_OK)
            return result;
    }
    return SOFT_OK;
}

int mmu_read(struct soft_cpu *cpu, gva_t gva, void *buf, unsigned n, unsigned access)
{
    int result = fake_check_all(cpu, gva, n, access);

    if (result == SOFT_OK) {
        fake_seen.device_reads += fake_page_at(gva) == PAGE_DEVICE;
        memcpy(buf, (void *)(uintptr_t)gva, n);
    }
    return result;
}

int mmu_write(struct soft_cpu *cpu, gva_t gva, const void *buf, unsigned n, unsigned access)
{
    int result = fake_check_all(cpu, gva, n, access | MMU_WRITE);

    if (result == SOFT_OK) {
        fake_seen.device_writes += fake_page_at(gva) == PAGE_DEVICE;
        memcpy((void *)(uintptr_t)gva, buf, n);
    }
    return result;
}

int mmu_host(struct soft_cpu *cpu, gva_t gva, unsigned n, unsigned access, void **hva)
{
    int result = fake_check_all(cpu, gva, n, access);

    *hva = NULL;
    if (result == SOFT_OK && (gva & PAGE_MASK) + n <= PAGE_SIZE && fake_page_at(gva) != PAGE_DEVICE)
        *hva = (void *)(uintptr_t)gva;
    return result;
}

void mmu_flush_all(struct soft_cpu *cpu)
{
    (void)cpu;
    fake_seen.flush_all++;
}

void mmu_flush_nonglobal(struct soft_cpu *cpu)
{
    (void)cpu;
    fake_seen.flush_nonglobal++;
}

void mmu_flush_page(struct soft_cpu *cpu, gva_t gva)
{
    (void)cpu;
    fake_seen.flush_page++;
    fake_seen.flushed = gva;
}

bool mmu_pdptes_valid(struct soft_cpu *cpu, uint64_t cr3)
{
    (void)cpu;
    (void)cr3;
    return !fake_seen.pdptes_bad;
}

uint64_t lapic_cr8(const struct soft_cpu *cpu)
{
    (void)cpu;
    return fake_seen.cr8;
}

void lapic_set_cr8(struct soft_cpu *cpu, uint64_t value)
{
    (void)cpu;
    fake_seen.cr8 = value;
}

int lapic_msr_read(struct soft_cpu *cpu, uint32_t msr, uint64_t *value)
{
    (void)cpu;
    fake_seen.msr = msr;
    *value = fake_seen.msr_value;
    return SOFT_OK;
}

int lapic_msr_write(struct soft_cpu *cpu, uint32_t msr, uint64_t value)
{
    (void)cpu;
    fake_seen.msr = msr;
    fake_seen.msr_value = value;
    return SOFT_OK;
}

int kvmclock_msr_write(struct soft_cpu *cpu, uint32_t msr, uint64_t value)
{
    fake_seen.kvm_msr = msr;
    cpu->kvm_system_time = value;
    return SOFT_OK;
}

uint64_t tsc_guest(const struct soft_cpu *cpu)
{
    return fake_seen.tsc + cpu->tsc_offset;
}

void tsc_changed(struct soft_cpu *cpu)
{
    (void)cpu;
    fake_seen.tsc_changes++;
}

uint64_t vcpu_pio_read(struct vcpu *vcpu, uint16_t port, unsigned size)
{
    (void)vcpu;
    fake_seen.port = port;
    fake_seen.port_size = size;
    fake_seen.port_reads++;
    return fake_seen.port_value++;
}

void vcpu_pio_write(struct vcpu *vcpu, uint16_t port, unsigned size, uint64_t value)
{
    (void)vcpu;
    fake_seen.port = port;
    fake_seen.port_size = size;
    fake_seen.port_writes++;
    fake_seen.port_value = value;
}

void soft_vec_park(struct soft_cpu *cpu)
{
    (void)cpu;
    fake_seen.parks++;
}

void soft_vec_unpark(struct soft_cpu *cpu)
{
    (void)cpu;
}

int soft_internal(struct soft_cpu *cpu, const char *fmt, ...)
{
    (void)cpu;
    fail_msg("the engine gave up: %s", fmt);
    return SOFT_EXIT;
}

/* A 64-bit kernel at CPL 0 with everything enabled. */
static void fake_long_mode(struct fake *f)
{
    struct soft_cpu *cpu = &f->cpu;

    cpu->cr0 = CR0_PG | CR0_PE | CR0_ET | CR0_NE | CR0_WP;
    cpu->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    cpu->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    cpu->rflags = FLAG_ONE;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        cpu->seg[i] = (struct cpu_seg){.limit = UINT32_MAX, .attr = 0x93 | SEG_DB | SEG_G, .sel = 0x10};
    cpu->seg[SEG_CS].attr = 0x9b | SEG_L | SEG_G;
    cpu->seg[SEG_CS].sel = 8;
    soft_mode_update(cpu);
}

/* A flat 32-bit or 16-bit protected-mode kernel. */
static inline void fake_protected_mode(struct fake *f, unsigned bits)
{
    fake_long_mode(f);
    f->cpu.cr0 = CR0_PE | CR0_ET | CR0_NE;
    f->cpu.efer = 0;
    f->cpu.seg[SEG_CS].attr = 0x9b | SEG_G | (bits == 32 ? SEG_DB : 0);
    f->cpu.seg[SEG_SS].attr = 0x93 | SEG_G | (bits == 32 ? SEG_DB : 0);
    soft_mode_update(&f->cpu);
}

static inline void fake_user(struct fake *f)
{
    f->cpu.seg[SEG_SS].attr |= 3 << SEG_DPL_SHIFT;
    f->cpu.seg[SEG_CS].attr |= 3 << SEG_DPL_SHIFT;
    f->cpu.seg[SEG_CS].sel |= 3;
    soft_mode_update(&f->cpu);
}

static inline int fake_setup(void **state)
{
    struct fake *f = calloc(1, sizeof(*f));
    void *p = mmap((void *)ARENA, ARENA_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
                   0);

    if (!f || p != (void *)ARENA)
        return -1;
    memset(&fake_seen, 0, sizeof(fake_seen));
    f->svm.vm = &f->vm;
    f->vm.topology = (struct x86_topology){1, 1, 1};
    f->svm.cpu_count = 1;
    f->svm.cpus[0] = &f->cpu;
    f->cpu.svm = &f->svm;
    f->cpu.vcpu = &f->vcpu;
    f->cpu.xsave = fake_seen.xsave;
    f->cpu.apic_base = 0xfee00900;
    if (soft_cpuid_init(&f->svm, NULL) != 0)
        return -1;
    f->cpu.xcr0 = f->svm.cpuid->xcr0;
    vec_put32(f->cpu.xsave + FX_MXCSR, MXCSR_INIT);
    fake_long_mode(f);
    *state = f;
    return 0;
}

static inline int fake_teardown(void **state)
{
    struct fake *f = *state;

    soft_cpuid_fini(&f->svm);
    free(f);
    return munmap((void *)ARENA, ARENA_BYTES);
}

/* Decodes and carries out one instruction in the current mode, as step would; rip is 0x1000 before it. */
static inline int fake_run(struct fake *f, const void *bytes, unsigned len)
{
    struct soft_cpu *cpu = &f->cpu;
    uint8_t padded[INSN_MAX_LEN] = {0};
    int result;

    memcpy(padded, bytes, len);
    assert_int_equal(insn_decode(&f->svm, &f->insn, padded, sizeof(padded), cpu->code_bits), 0);
    if (f->insn.cls == INSN_INVALID)
        return soft_raise(cpu, EXC_UD);
    assert_int_equal(f->insn.len, len);
    assert_non_null(f->insn.exec);
    cpu->rip = 0x1000;
    cpu->next_rip = cpu->rip + len;
    result = f->insn.exec(cpu, &f->insn);
    if (result == SOFT_OK)
        cpu->rip = cpu->next_rip;
    return result;
}

#define RUN(f, ...)                                                                                                                        \
    ({                                                                                                                                     \
        static const uint8_t run_bytes[] = {__VA_ARGS__};                                                                                  \
        fake_run(f, run_bytes, sizeof(run_bytes));                                                                                         \
    })

static inline void expect_fault(struct fake *f, int result, unsigned vector)
{
    assert_int_equal(result, SOFT_FAULT);
    assert_int_equal(f->cpu.exc.vector, vector);
    if (vector == EXC_GP) {
        assert_true(f->cpu.exc.has_error);
        assert_int_equal(f->cpu.exc.error, 0);
    }
}
