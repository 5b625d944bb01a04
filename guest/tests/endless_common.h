/* Loops that go round by calls, returns and jumps of every kind: an interrupt comes through all the same. For 64-bit and 32-bit guests. */
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
void jumps_to_anywhere(void);
void jumps_to_anywhere_behind_sti(void);
void jumps_between_pages(void);
void jumps_between_pages_behind_sti(void);
void branches_between_pages(void);
void a_page_that_ends_behind_sti(void);

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

__asm__(BEGIN("jumps_to_anywhere") "mov $2f, " REG("ax") "\n2: jmp *" REG("ax") "\n");

__asm__(BEGIN("jumps_to_anywhere_behind_sti") "mov $2f, " REG("ax") "\n2: cli\n\tsti\n\tjmp *" REG("ax") "\n");

__asm__(BEGIN("jumps_between_pages") "jmp 1f\n\t.balign 4096\n1: jmp 2f\n\t.balign 4096\n2: jmp 1b\n");

__asm__(
    BEGIN("jumps_between_pages_behind_sti") "jmp 1f\n\t.balign 4096\n1: cli\n\tsti\n\tjmp 2f\n\t.balign 4096\n2: cli\n\tsti\n\tjmp 1b\n");

__asm__(BEGIN("branches_between_pages") "mov $1, %eax\n\tjmp 1f\n\t.balign 4096\n1: test %eax, %eax\n\tjnz 2f\n\tud2\n"
                                        "\t.balign 4096\n2: test %eax, %eax\n\tjnz 1b\n\tud2\n");

__asm__(BEGIN("a_page_that_ends_behind_sti") "jmp 1f\n\t.balign 4096\n1: cli\n\t.fill 4094, 1, 0x90\n\tsti\n\tjmp 1b\n");

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

static void anywhere(void)
{
    check_ends(jumps_to_anywhere);
    check_ends(jumps_to_anywhere_behind_sti);
}

static void between_pages(void)
{
    check_ends(jumps_between_pages);
    check_ends(jumps_between_pages_behind_sti);
    check_ends(branches_between_pages);
    check_ends(a_page_that_ends_behind_sti);
}

GUEST_TESTS({"calls", calls}, {"returns", returns}, {"returns behind STI", behind_sti}, {"returns that look at two pages", over_a_page_end},
            {"calls and returns", both}, {"a jump back to a call", back_to_a_call},
            {"a jump back to a way around a call", back_to_a_way_around}, {"jumps to anywhere", anywhere},
            {"jumps out of the page", between_pages});
