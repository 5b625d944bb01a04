/* ptrace: single steps, breakpoints, and the debug registers' breakpoints and watchpoints. */
#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#ifdef __x86_64__
#define IP rip
#define AX rax
#else
#define IP eip
#define AX eax
#endif

static volatile long watched;

/* Instructions whose number is known. */
__attribute__((noinline)) static long steps(long n)
{
    __asm__ volatile(".globl steps_start, steps_end\nsteps_start:\n1:\tdec %0\n\tjnz 1b\nsteps_end:\n\tnop" : "+r"(n) : : "cc");
    return n;
}

extern char steps_start[], steps_end[];

static void child_main(void)
{
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    raise(SIGSTOP);
    steps(500);
    raise(SIGSTOP);
    steps(3);
    raise(SIGSTOP);
    watched = 1;
    (void)watched;
    raise(SIGSTOP);
    _exit(42);
}

static int wait_stop(pid_t child)
{
    int status;

    CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
    return WSTOPSIG(status);
}

static unsigned long ip_of(pid_t child)
{
    struct user_regs_struct regs;

    CHECK(ptrace(PTRACE_GETREGS, child, NULL, &regs) == 0);
    return (unsigned long)regs.IP;
}

static void single_steps(pid_t child)
{
    unsigned inside = 0, total = 0;

    for (;;) {
        CHECK(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0);
        int number = wait_stop(child);
        if (number == SIGSTOP)
            break;
        CHECK(number == SIGTRAP);
        unsigned long ip = ip_of(child);
        inside += ip >= (unsigned long)steps_start && ip < (unsigned long)steps_end;
        CHECK(++total < 100000);
    }
    CHECK(inside == 1000); /* 500 rounds of two instructions */
}

static void breakpoint(pid_t child)
{
    long word = ptrace(PTRACE_PEEKTEXT, child, steps_end, NULL);
    struct user_regs_struct regs;

    CHECK(ptrace(PTRACE_POKETEXT, child, steps_end, (void *)((word & ~0xffl) | 0xcc)) == 0);
    CHECK(ptrace(PTRACE_CONT, child, NULL, NULL) == 0);
    CHECK(wait_stop(child) == SIGTRAP);
    CHECK(ip_of(child) == (unsigned long)steps_end + 1);
    CHECK(ptrace(PTRACE_POKETEXT, child, steps_end, (void *)word) == 0);
    CHECK(ptrace(PTRACE_GETREGS, child, NULL, &regs) == 0);
    regs.IP = (unsigned long)steps_end;
    CHECK(ptrace(PTRACE_SETREGS, child, NULL, &regs) == 0);
    CHECK(ptrace(PTRACE_CONT, child, NULL, NULL) == 0);
    CHECK(wait_stop(child) == SIGSTOP);
}

static int set_debug(pid_t child, int number, unsigned long value)
{
    return ptrace(PTRACE_POKEUSER, child, (void *)(offsetof(struct user, u_debugreg) + (size_t)number * sizeof(long)), (void *)value) == 0;
}

static unsigned long get_debug(pid_t child, int number)
{
    return (unsigned long)ptrace(PTRACE_PEEKUSER, child, (void *)(offsetof(struct user, u_debugreg) + (size_t)number * sizeof(long)), NULL);
}

static void watchpoint(pid_t child)
{
    unsigned long length = sizeof(long) == 8 ? 2 : 3;

    CHECK(set_debug(child, 0, (unsigned long)&watched));
    CHECK(set_debug(child, 7, 1 | 1ul << 16 | length << 18)); /* writes */
    CHECK(ptrace(PTRACE_CONT, child, NULL, NULL) == 0);
    CHECK(wait_stop(child) == SIGTRAP);
    CHECK((get_debug(child, 6) & 0xf) == 1);
    CHECK(ptrace(PTRACE_PEEKDATA, child, (void *)&watched, NULL) == 1); /* a trap: the write is done */
    CHECK(set_debug(child, 7, 0));
    CHECK(ptrace(PTRACE_CONT, child, NULL, NULL) == 0);
    CHECK(wait_stop(child) == SIGSTOP);
}

int main(void)
{
    pid_t child = fork();
    int status;

    CHECK(child >= 0);
    if (child == 0)
        child_main();
    CHECK(wait_stop(child) == SIGSTOP);
    single_steps(child);
    breakpoint(child);
    watchpoint(child);
    CHECK(ptrace(PTRACE_CONT, child, NULL, NULL) == 0);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 42);
    printf("tracing ok\n");
    return 0;
}
