/* Every fault and interrupt finds the exact registers: one block's states by single-step are the measure for all other ways in. */
/*
 * A guest defines block_window, an address, and block(): code from block_start to block_end that works on the PAGES pages from there on; the
 * one behind them is the first again. Every register that block() sets is compared.
 */
#pragma once

#include "irq.h"
#include "paging.h"
#include "test.h"

#define PAGES 8
#define STATES 256
#define TICK 0x50
/*
 * Arithmetic flags that the next instructions overwrite unread may hold anything at a fault; the live ones show in what ADC, SBB,
 * CMOV, SETC and JNC make of them.
 */
#define COMPARED FLAG_DF

/* The registers in front of an instruction of the block. */
struct state {
    word rip, flags, reg[16];
};

static struct state states[STATES];
static unsigned state_count;
static uint8_t *pages[PAGES];
static uint8_t after[PAGES][PAGE_SIZE] __attribute__((aligned(8)));
static volatile unsigned faults, ticks, ticks_inside;
static const char *mismatch; /* handlers only note it */
static struct state mismatch_at;

extern const word block_window;
void block(void);
extern uint8_t block_start[], block_end[];

static bool inside(word rip)
{
    return rip >= (word)block_start && rip < (word)block_end;
}

static bool same(const struct state *s, const struct trap_frame *f)
{
    if (s->rip != f->rip || (s->flags ^ f->rflags) & COMPARED)
        return false;
    for (unsigned i = 0; i < 16; i++)
        if (i != 4 && s->reg[i] != f->reg[i])
            return false;
    return s->reg[4] == f->rsp;
}

static void keep(struct state *s, const struct trap_frame *f)
{
    s->rip = f->rip;
    s->flags = f->rflags;
    for (unsigned i = 0; i < 16; i++)
        s->reg[i] = f->reg[i];
    s->reg[4] = f->rsp;
}

static void compare(const struct trap_frame *f, const char *what)
{
    if (mismatch || !inside(f->rip))
        return;
    for (unsigned i = 0; i < state_count; i++)
        if (same(&states[i], f))
            return;
    mismatch = what;
    keep(&mismatch_at, f);
}

static void on_step(struct trap_frame *f)
{
    if (inside(f->rip) && state_count < STATES)
        keep(&states[state_count++], f);
    write_dr6(0xffff0ff0);
}

/* Gives the page read-only first, so that stores fault twice. */
static void on_page_fault(struct trap_frame *f)
{
    word va = read_cr2() & ~(PAGE_SIZE - 1);
    unsigned n = (unsigned)((va - block_window) / PAGE_SIZE);

    faults++;
    compare(f, "fault");
    map_page(va, pages[n % PAGES], f->error & PF_P ? PTE_P | PTE_W : PTE_P);
}

static void on_tick(struct trap_frame *f)
{
    ticks++;
    ticks_inside += inside(f->rip);
    compare(f, "interrupt");
    apic_eoi();
}

static void fill_pages(void)
{
    uint64_t x = 12345;

    for (unsigned p = 0; p < PAGES; p++)
        for (unsigned i = 0; i < PAGE_SIZE / 8; i++) {
            x = x * 6364136223846793005 + 1442695040888963407;
            ((uint64_t *)pages[p])[i] = x;
        }
}

static void map_all(uint64_t bits)
{
    for (unsigned p = 0; p <= PAGES; p++) /* the one behind is the first again */
        map_page(block_window + p * PAGE_SIZE, pages[p % PAGES], bits);
}

static void check_mismatch(void)
{
    if (!mismatch)
        return;
    print("# %s at block+0x%lx:", mismatch, mismatch_at.rip - (word)block_start);
    for (unsigned i = 0; i < 16; i++)
        print(" %lx", mismatch_at.reg[i]);
    print(" flags %lx\n", mismatch_at.flags);
    for (unsigned i = 0; i < state_count; i++) {
        if (states[i].rip != mismatch_at.rip)
            continue;
        print("# measure:");
        for (unsigned r = 0; r < 16; r++)
            print(" %lx", states[i].reg[r]);
        print(" flags %lx\n", states[i].flags);
    }
    test_fail(__FILE_NAME__, __LINE__, "a state that single-step has not seen, by an %s", mismatch);
}

/* The measure: states by single-step, and what memory holds after it. */
static void measure(void)
{
    tss.ist[1] = spare_stack(0); /* the block's stack may be away */
    tss.ist[2] = spare_stack(1);
    idt[EXC_DB].ist = 1;
    idt[EXC_PF].ist = 1;
    idt[TICK].ist = 2;
    for (unsigned p = 0; p < PAGES; p++)
        pages[p] = page_alloc();
    mismatch = NULL;
    state_count = 0;
    faults = ticks = ticks_inside = 0;
    fill_pages();
    map_all(PTE_P | PTE_W);
    set_handler(EXC_DB, on_step);
    __asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq; call block; pushfq; andl $~0x100, (%%rsp); popfq"
                     :
                     :
                     : "memory", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11");
    for (unsigned p = 0; p < PAGES; p++)
        memcpy(after[p], pages[p], PAGE_SIZE);
    check(state_count > 60 && state_count < STATES);
}

static void check_memory(void)
{
    for (unsigned p = 0; p < PAGES; p++)
        for (unsigned i = 0; i < PAGE_SIZE / 8; i++)
            if (((uint64_t *)after[p])[i] != ((uint64_t *)pages[p])[i])
                test_fail(__FILE_NAME__, __LINE__, "page %u differs at word %u", p, i);
}

static void without_faults(void)
{
    measure();
    for (unsigned i = 0; i < 10; i++) {
        fill_pages();
        block();
        check_memory();
    }
}

static void faults_find_exact_registers(void)
{
    measure();
    set_handler(EXC_PF, on_page_fault);
    for (unsigned i = 0; i < 50; i++) {
        for (unsigned p = 0; p <= PAGES; p++)
            unmap_page(block_window + p * PAGE_SIZE);
        fill_pages();
        block();
        check_mismatch();
        check_memory();
    }
    check(faults >= 50 * PAGES);
}

static void interrupts_find_exact_registers(void)
{
    measure();
    set_handler(TICK, on_tick);
    apic_enable();
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, TICK | LVT_PERIODIC);
    apic_write(APIC_TIMER_COUNT, 50000);
    for (unsigned i = 0; i < 200 || ticks < 50; i++) {
        fill_pages();
        sti();
        block();
        cli();
        check_mismatch();
        check_memory();
    }
    apic_disable_lvts();
    print("# %u of %u interrupts inside\n", ticks_inside, ticks);
}

/* Interrupts that are due at once: each of them falls on the block's first instructions. */
static void an_interrupt_at_the_entry(void)
{
    measure();
    set_handler(TICK, on_tick);
    apic_enable();
    for (unsigned i = 0; i < 200; i++) {
        fill_pages();
        apic_self_ipi(TICK);
        sti();
        block();
        cli();
        check_mismatch();
        check_memory();
        check_eq(ticks, i + 1);
    }
}

/* clang-format off */
#define PRECISE_TESTS                                                                                                                      \
    {"the block is the same with and without TF", without_faults}, {"faults find exact registers", faults_find_exact_registers},          \
    {"interrupts find exact registers", interrupts_find_exact_registers}, {"an interrupt at the entry", an_interrupt_at_the_entry}
/* clang-format on */
