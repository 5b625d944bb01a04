/* What every exception and interrupt comes to: a handler of the test, the record of a fault that TRY waits for, or the test's end. */
#include "fault.h"
#include "test.h"

volatile struct fault fault;
volatile unsigned fault_count;
volatile word try_resume, try_sp, try_at;
static irq_handler *handlers[256];

void trap_dispatch(struct trap_frame *);
void runner_return(void) __attribute__((noreturn));
#ifndef __x86_64__
void trap_resume(const word *regs, word eip, word eflags, word esp) __attribute__((noreturn));
#endif

void set_handler(unsigned vector, irq_handler *handler)
{
    handlers[vector] = handler;
}

bool fault_is(unsigned vector, word error)
{
    return fault_count == 1 && fault.vector == vector && fault.error == error;
}

static bool from_user(const struct trap_frame *f)
{
    return f->cs & 3;
}

static void record(const struct trap_frame *f)
{
    word here;

    fault_count++;
    fault.vector = (unsigned)f->vector;
    fault.error = f->error;
    fault.rip = f->rip;
    fault.cs = f->cs & 0xffff;
    fault.rflags = f->rflags;
    fault.cr2 = read_cr2();
    fault.dr6 = read_dr6();
    for (unsigned i = 0; i < ARRAY_SIZE(f->reg); i++)
        fault.reg[i] = f->reg[i];
#ifdef __x86_64__
    fault.rsp = f->rsp;
    fault.ss = f->ss;
#else
    /* The frame has ESP and SS only when the privilege changed; else the stack is what lies behind the frame. */
    fault.rsp = from_user(f) ? f->rsp : (word)&f->rsp;
    fault.ss = from_user(f) ? f->ss : SEL_KDATA;
#endif
    fault.reg[4] = fault.rsp;
    fault.handler_rsp = (word)&f->error;
    __asm__ volatile("mov %%ss, %k0" : "=r"(here));
    fault.handler_ss = here & 0xffff;
    fault.handler_flags = read_flags();
}

/* Goes on in ring 0 at rip on the stack sp, with the registers and arithmetic flags of the frame. */
static void resume(struct trap_frame *f, word rip, word sp)
{
    word flags = f->rflags & ~(word)(FLAG_TF | FLAG_RF | FLAG_NT | FLAG_AC | FLAG_IOPL | FLAG_VM | FLAG_DF);

#ifdef __x86_64__
    f->rip = rip;
    f->cs = SEL_KCODE;
    f->ss = SEL_KDATA;
    f->rsp = sp;
    f->rflags = flags;
#else
    static word regs[8];

    /* Out of the way: the stack to go on with may be the very one that the frame lies on. */
    memcpy(regs, f->reg, sizeof(regs));
    trap_resume(regs, rip, flags, sp);
#endif
}

static void unexpected(const struct trap_frame *f)
{
    record(f);
    print("# unexpected exception %lu, error 0x%lx, at %lx:0x%lx, flags 0x%lx, sp 0x%lx, cr2 0x%lx\n", (unsigned long)f->vector,
          (unsigned long)f->error, (unsigned long)fault.cs, (unsigned long)f->rip, (unsigned long)f->rflags, (unsigned long)fault.rsp,
          (unsigned long)fault.cr2);
    fault_count = ~0u; /* the runner's sign for it */
}

void trap_dispatch(struct trap_frame *f)
{
    if (handlers[f->vector]) {
        handlers[f->vector](f);
        return;
    }
    if (f->vector == VECTOR_LEAVE_USER && from_user(f)) {
        resume(f, f->rip, try_sp); /* ring 3 may have left a stack of its own */
        return;
    }
    if (!try_resume) {
        unexpected(f);
        runner_return();
    }
    record(f);
    word rip = try_resume;
    try_resume = 0;
    resume(f, rip, try_sp);
}
