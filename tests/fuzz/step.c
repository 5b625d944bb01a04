/* Fuzzes decoding and step: the input is guest code with a mode, a privilege and a seed for the registers; it runs for some steps. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bug.h"
#include "cpu/vcpu.h"
#include "engine/soft/soft.h"
#include "engine/soft/state.h"
#include "insn/rng.h"
#include "x86/paging.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RAM_BYTES KIB(256)
#define STEPS 64
#define HEADER_BYTES 10 /* mode, privilege, seed */

/* Guest memory. */
#define PML4 0x1000
#define PDPT 0x2000
#define PD 0x3000
#define PT 0x4000
#define GDT 0x6000
#define IDT 0x7000
#define TSS 0x8000
#define CODE 0x10000
#define STACK 0x30000

enum { SEL_CODE = 0x10, SEL_DATA = 0x18, SEL_CODE_USER = 0x20, SEL_DATA_USER = 0x28 };

static struct {
    bool ready;
    struct vm vm;
    struct vcpu vcpu;
    struct vm_exit exit;
    struct soft_cpu *cpu;
    uint8_t *ram;
    struct cpu_state state;
} f;

static void set_up(void)
{
    struct err e = {""};

    vm_init(&f.vm);
    bus_init(&f.vm.pio);
    bus_init(&f.vm.mmio);
    f.vm.config.cpus = 1;
    f.vm.engine = &engine_soft;
    f.vm.loop = loop_new(&e);
    BUG_ON(!f.vm.loop);
    BUG_ON(mem_init(&f.vm.mem, RAM_BYTES, false, &e) != 0);
    BUG_ON(engine_soft.vm_init(&f.vm, &e) != 0);
    f.vcpu.vm = &f.vm;
    f.vm.vcpus[0] = &f.vcpu;
    f.vm.vcpu_count = 1;
    BUG_ON(engine_soft.vcpu_init(&f.vcpu, &e) != 0);
    f.cpu = f.vcpu.engine_data;
    f.cpu->exit = &f.exit;
    f.ram = mem_hva(&f.vm.mem, 0, RAM_BYTES);
    BUG_ON(!f.ram);
    f.ready = true;
}

static void put64(gpa_t at, uint64_t value)
{
    memcpy(f.ram + at, &value, sizeof(value));
}

/* Linear addresses are physical ones; a page in eight is absent and one read-only. */
static void put_tables(bool long_mode)
{
    put64(PML4, PDPT | PTE_P | PTE_W | PTE_U);
    put64(PDPT, PD | PTE_P | PTE_W | PTE_U);
    put64(PD, PT | PTE_P | PTE_W | PTE_U);
    for (unsigned i = 0; i < RAM_BYTES / PAGE_SIZE; i++)
        if (i % 8 != 5 || i < 32)
            put64(PT + 8 * i, i * PAGE_SIZE | PTE_P | PTE_U | (i % 8 != 6 || i < 32 ? PTE_W : 0));
    put64(GDT + SEL_CODE, long_mode ? 0x00af9b000000ffff : 0x00cf9b000000ffff);
    put64(GDT + SEL_DATA, 0x00cf93000000ffff);
    put64(GDT + SEL_CODE_USER, long_mode ? 0x00affb000000ffff : 0x00cffb000000ffff);
    put64(GDT + SEL_DATA_USER, 0x00cff3000000ffff);
    for (unsigned v = 0; v < 32; v++) { /* every handler is the code itself */
        uint64_t gate = (CODE & 0xffff) | (uint64_t)SEL_CODE << 16 | 0xee00ULL << 32 | (uint64_t)(CODE >> 16) << 48;
        put64(IDT + (long_mode ? 16 : 8) * v, gate);
    }
    put64(TSS + 4, long_mode ? STACK : STACK | (uint64_t)SEL_DATA << 32);
}

static void segments(struct cpu_state *s, bool user, uint32_t code_flag)
{
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = (struct cpu_seg){.limit = UINT32_MAX, .attr = 0x93 | SEG_DB | SEG_G, .sel = SEL_DATA};
    s->seg[SEG_CS] = (struct cpu_seg){.limit = UINT32_MAX, .attr = 0x9b | code_flag | SEG_G, .sel = SEL_CODE};
    for (unsigned i = 0; i < SEG_COUNT && user; i++) {
        s->seg[i].attr |= 3 << SEG_DPL_SHIFT;
        s->seg[i].sel = (uint16_t)(i == SEG_CS ? SEL_CODE_USER | 3 : SEL_DATA_USER | 3);
    }
    s->gdtr = (struct cpu_table){GDT, 0x2f};
    s->idtr = (struct cpu_table){IDT, 0x1ff};
    s->tr = (struct cpu_seg){.base = TSS, .limit = 0x67, .attr = 0x8b, .sel = 0x30};
}

/* mode 0: 16-bit real mode; 1: 32-bit protected mode; 2: 64-bit mode. */
static void enter(unsigned mode, bool user, struct rng *r)
{
    struct cpu_state *s = &f.state;

    cpu_state_reset(s);
    s->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    s->xcr0 = f.cpu->vec_mask;
    if (mode == 0) {
        s->seg[SEG_CS] = (struct cpu_seg){.base = CODE, .limit = 0xffff, .attr = 0x9b, .sel = CODE >> 4};
        s->rip = 0;
    } else {
        s->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_MP | CR0_AM;
        segments(s, user, mode == 2 ? SEG_L : SEG_DB);
        s->rip = CODE;
    }
    if (mode == 2) {
        s->cr0 |= CR0_PG | CR0_WP;
        s->cr3 = PML4;
        s->cr4 |= CR4_PAE | CR4_PGE;
        s->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
    }
    for (unsigned i = 0; i < GPR_COUNT; i++)
        s->gpr[i] = rng_one_in(r, 3) ? rng_next(r) : rng_below(r, RAM_BYTES + PAGE_SIZE);
    s->gpr[GPR_RSP] = STACK - 0x800 - 8 * rng_below(r, 64);
    s->rflags = FLAG_ONE | (rng_next(r) & (FLAG_ARITH | FLAG_DF | FLAG_TF | FLAG_AC));
    state_set(f.cpu, s, CPU_ALL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rng r;
    uint64_t seed;

    if (size <= HEADER_BYTES)
        return 0;
    if (!f.ready)
        set_up();
    memset(f.ram, 0, RAM_BYTES);
    unsigned mode = data[0] % 3;
    put_tables(mode == 2);
    memcpy(&seed, data + 2, sizeof(seed));
    rng_start(&r, seed, 0);
    memcpy(f.ram + CODE, data + HEADER_BYTES, MIN(size - HEADER_BYTES, 2 * PAGE_SIZE));
    f.vm.mem.code_changed(f.vm.mem.code_changed_opaque, 0, RAM_BYTES);
    enter(mode, data[1] & 1, &r);
    f.exit.reason = VM_EXIT_INTR;
    for (unsigned i = 0, stood = 0; i < STEPS && stood < 2; i++) {
        uint64_t rip = f.cpu->rip;
        f.cpu->halted = f.cpu->wait_for_sipi = false;
        if (soft_step(f.cpu) != SOFT_OK)
            break;
        stood += f.cpu->rip == rip; /* a string instruction that has some way to go yet, where there is no memory even */
    }
    soft_vec_park(f.cpu);
    BUG_ON(f.exit.reason >= VM_EXIT_REASON_COUNT);
    /* What the engine may be unable to carry out: code where there is no memory, task switches and virtual-8086 mode. */
    if (f.exit.reason != VM_EXIT_INTERNAL || strstr(f.exit.internal.text, "where there is no memory") ||
        strstr(f.exit.internal.text, "which this engine lacks"))
        return 0;
    fprintf(stderr, "%s\n", f.exit.internal.text);
    abort();
}
