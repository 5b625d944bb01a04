/* Loops that go round by calls and returns, with a jump back and without: an interrupt comes through all the same. For 64-bit and 32-bit guests. */
#include "irq.h"
#include "test.h"

#define TIMER 0x40
#define TIMES 20

#ifdef __x86_64__
#define REG(name) "%r" name
#else
#define REG(name) "%e" name
#endif

extern word kept_sp, kept_bp, kept_bx, page_in_two;
word kept_sp, kept_bp, kept_bx, page_in_two;

void out_of_the_loop(void);
void calls_alone(void);
void returns_alone(void);
void returns_behind_sti(void);
void returns_over_a_page_end(void);
void calls_and_returns(void);
void a_jump_back_to_a_call(void);
void a_jump_back_to_a_way_around_a_call(void);

#define BEGIN(name)                                                                                                                        \
    ".text\n" name ":\n\tmov " REG("sp") ", kept_sp\n\tmov " REG("bp") ", kept_bp\n\tmov " REG("bx") ", kept_bx\n\tsti\n\tnop\n\t"

/* What it called is forgotten each time. */
__asm__(BEGIN("calls_alone") "call 2f\n2: pop " REG("ax") "\n\tcall 2b\n");

/* The address is there again, where the call had it. */
__asm__(BEGIN("returns_alone") "call 1f\n2: push $2b\n\tret\n1: ret\n");

__asm__(BEGIN("returns_behind_sti") "call 1f\n2: push $2b\n\tcli\n\tsti\n\tret\n1: ret\n");

__asm__(
    BEGIN("returns_over_a_page_end") "mov page_in_two, " REG("sp") "\n\tcall 1f\n"
                                                                   "2: push $2b\n\tmov -16(" REG("sp") "), " REG("ax") "\n\tret\n1: ret\n");

__asm__(BEGIN("calls_and_returns") "call 1f\n2: push $2b\n\tcall 3f\n\tret\n3: ret\n1: ret\n");

__asm__(BEGIN("a_jump_back_to_a_call") "1: call 2f\n\tjmp 1b\n2: ret\n");

__asm__(BEGIN("a_jump_back_to_a_way_around_a_call") "mov $1, %eax\n1: test %eax, %eax\n\tjnz 3f\n\tcall 2f\n3: nop\n\tjmp 1b\n2: ret\n");

__asm__(".text\nout_of_the_loop: mov kept_sp, " REG("sp") "\n\tmov kept_bp, " REG("bp") "\n\tmov kept_bx, " REG("bx") "\n\tret\n");

static volatile unsigned count;

static void on_timer(struct trap_frame *f)
{
    apic_eoi();
    if (++count < TIMES)
        return;
    f->rip = (word)out_of_the_loop;
    f->rflags &= ~(word)FLAG_IF; /* the next one may be there already */
}

static void check_ends(void (*loop)(void))
{
    count = 0;
    pic_init(0x20);
    apic_enable();
    set_handler(TIMER, on_timer);
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, TIMER | LVT_PERIODIC);
    apic_write(APIC_TIMER_COUNT, 300000);
    loop();
    apic_write(APIC_TIMER_COUNT, 0);
    check_eq(count, TIMES);
}

static void calls(void)
{
    check_ends(calls_alone);
}

static void returns(void)
{
    check_ends(returns_alone);
}

static void behind_sti(void)
{
    check_ends(returns_behind_sti);
}

static void over_a_page_end(void)
{
    static uint8_t pages[2 * 4096] __attribute__((aligned(4096)));

    page_in_two = (word)pages + 4096 + 16;
    check_ends(returns_over_a_page_end);
}

static void both(void)
{
    check_ends(calls_and_returns);
}

static void back_to_a_call(void)
{
    check_ends(a_jump_back_to_a_call);
}

static void back_to_a_way_around(void)
{
    check_ends(a_jump_back_to_a_way_around_a_call);
}

GUEST_TESTS({"calls", calls}, {"returns", returns}, {"returns behind STI", behind_sti}, {"returns that look at two pages", over_a_page_end},
            {"calls and returns", both}, {"a jump back to a call", back_to_a_call},
            {"a jump back to a way around a call", back_to_a_way_around});
