/* Faults become the right signals with the right addresses, on either stack, and vector state survives handlers. */
#include <errno.h>
#include <immintrin.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "check.h"

#ifdef __x86_64__
#define SP "rsp"
#else
#define SP "esp"
#endif

static sigjmp_buf back;
static volatile int last_signal, last_code;
static void *volatile last_address;
static volatile long last_trap, last_error;

static void caught(int number, siginfo_t *info, void *context)
{
    const ucontext_t *u = context;

    last_signal = number;
    last_code = info->si_code;
    last_address = info->si_addr;
    last_trap = u->uc_mcontext.gregs[REG_TRAPNO];
    last_error = u->uc_mcontext.gregs[REG_ERR];
    siglongjmp(back, 1);
}

static void catch_signal(int number, int flags)
{
    struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO | flags};

    CHECK(sigaction(number, &action, NULL) == 0);
}

/* Runs a statement that must end in a signal. */
#define FAULTS(statement, number, code)                                                                                                    \
    do {                                                                                                                                   \
        last_signal = 0;                                                                                                                   \
        if (sigsetjmp(back, 1) == 0) {                                                                                                     \
            statement;                                                                                                                     \
        }                                                                                                                                  \
        if (last_signal != (number) || last_code != (code)) {                                                                              \
            printf("%s: signal %d code %d\n", #statement, last_signal, last_code);                                                         \
            exit(1);                                                                                                                       \
        }                                                                                                                                  \
    } while (0)

static void page_faults(void)
{
    long page = sysconf(_SC_PAGESIZE);
    char *p = mmap(NULL, 3 * (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    volatile char *v = p;

    CHECK(p != MAP_FAILED);
    CHECK(munmap(p + 2 * page, (size_t)page) == 0 && mprotect(p + page, (size_t)page, PROT_READ) == 0);
    FAULTS((void)*(volatile char *)8, SIGSEGV, SEGV_MAPERR);
    CHECK(last_address == (void *)8 && last_trap == 14 && last_error == 4);
    FAULTS(v[page + 5] = 1, SIGSEGV, SEGV_ACCERR);
    CHECK(last_address == p + page + 5 && last_error == 6);
    (void)v[page];
    FAULTS(v[page + 5] = 1, SIGSEGV, SEGV_ACCERR);
    CHECK(last_address == p + page + 5 && last_error == 7);
    FAULTS((void)v[2 * page + 77], SIGSEGV, SEGV_MAPERR);
    CHECK(last_address == p + 2 * page + 77);
    /* An access that crosses into the missing page faults on that page's first byte. */
    FAULTS((void)*(volatile uint64_t *)(p + 2 * page - 4), SIGSEGV, SEGV_MAPERR);
    CHECK(last_address == p + 2 * page);
    *v = (char)0xc3;
    FAULTS(((void (*)(void))(void *)p)(), SIGSEGV, SEGV_ACCERR); /* not executable */
    CHECK(last_address == p && (last_error & 0x10));
#ifdef __x86_64__
    FAULTS((void)*(volatile char *)0x8000000000000000ul, SIGSEGV, SI_KERNEL); /* not canonical: a general protection fault */
    CHECK(last_address == NULL && last_trap == 13);
    FAULTS((void)*(volatile char *)0xffffffff81000000ul, SIGSEGV, SEGV_MAPERR); /* the kernel's */
    CHECK(last_error & 1 || last_error & 4);
#endif
    CHECK(munmap(p, 2 * (size_t)page) == 0);
    printf("page faults ok\n");
}

static void bus_errors(void)
{
    char name[] = "/tmp/signals-XXXXXX";
    int fd = mkstemp(name);
    char *p;

    CHECK(fd >= 0 && unlink(name) == 0 && ftruncate(fd, 100) == 0);
    p = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED);
    FAULTS((void)*(volatile char *)(p + 4096), SIGBUS, BUS_ADRERR);
    CHECK(last_address == p + 4096);
    close(fd);
    munmap(p, 8192);
    printf("bus errors ok\n");
}

static void instructions(void)
{
    volatile int zero = 0, lowest = (int)0x80000000, minus_one = -1;

    FAULTS(zero = 7 / zero, SIGFPE, FPE_INTDIV);
    CHECK(last_trap == 0);
    FAULTS(lowest = lowest / minus_one, SIGFPE, FPE_INTDIV);
    FAULTS(__asm__ volatile("ud2"), SIGILL, ILL_ILLOPN);
    CHECK(last_trap == 6);
    FAULTS(__asm__ volatile("int3"), SIGTRAP, SI_KERNEL);
    CHECK(last_trap == 3);
    FAULTS(__asm__ volatile("hlt"), SIGSEGV, SI_KERNEL);
    CHECK(last_trap == 13);
    FAULTS(__asm__ volatile("cli"), SIGSEGV, SI_KERNEL);
    FAULTS(__asm__ volatile("inb $0x80, %%al" : : : "eax"), SIGSEGV, SI_KERNEL);
    FAULTS(__asm__ volatile("mov %%cr0, %0" : "=r"(last_trap)), SIGSEGV, SI_KERNEL);
    FAULTS(__asm__ volatile("int $0x77"), SIGSEGV, SI_KERNEL);
    CHECK(last_error == 0x77 * 8 + 2);
    FAULTS(__asm__ volatile("mov %0, %%fs" : : "r"(0x1234)), SIGSEGV, SI_KERNEL);
    CHECK(last_error == 0x1234);
    /* The trap flag stops behind the next instruction. */
    FAULTS(__asm__ volatile("pushf\n\torl $0x100, (%%" SP ")\n\tpopf\n\tnop\n\tnop" : : : "cc", "memory"), SIGTRAP, TRAP_TRACE);
    printf("instructions ok\n");
}

static void floating_point(void)
{
    volatile float one = 1, zero = 0;
    unsigned short x87 = 0x037b; /* division by zero is not masked */
    unsigned mxcsr = 0x1f80 & ~0x200u;

    FAULTS(_mm_setcsr(mxcsr); __asm__ volatile("divss %1, %0" : "+x"(*(float *)(uintptr_t)&one) : "x"(zero)), SIGFPE, FPE_FLTDIV);
    CHECK(last_trap == 19);
    _mm_setcsr(0x1f80);
    FAULTS(__asm__ volatile("fldcw %0\n\tfld1\n\tfldz\n\tfdivrp\n\tfwait" : : "m"(x87)), SIGFPE, FPE_FLTDIV);
    CHECK(last_trap == 16);
    __asm__ volatile("fninit");
    printf("floating point ok\n");
}

static char other_stack[64 << 10] __attribute__((aligned(64)));

static void on_other_stack(int number)
{
    char here;

    CHECK(&here >= other_stack && &here < other_stack + sizeof(other_stack));
    last_signal = number;
}

static int overflow(volatile int depth)
{
    volatile char space[4096];

    space[0] = (char)depth;
    if (depth < 0) /* it never is: the stack ends long before */
        return 0;
    return overflow(depth + 1) + space[0];
}

static void stacks(void)
{
    stack_t stack = {.ss_sp = other_stack, .ss_size = sizeof(other_stack)};
    struct sigaction action = {.sa_handler = on_other_stack, .sa_flags = SA_ONSTACK};

    CHECK(sigaltstack(&stack, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
    last_signal = 0;
    raise(SIGUSR1);
    CHECK(last_signal == SIGUSR1);
    catch_signal(SIGSEGV, SA_ONSTACK);
    FAULTS(overflow(0), SIGSEGV, SEGV_MAPERR); /* the handler runs although the stack is used up */
    printf("stacks ok\n");
}

static volatile unsigned ticks;

/* Leaves every vector register and the x87 stack changed. */
static void tick(int number)
{
    (void)number;
    ticks++;
    __asm__ volatile("fninit\n\tfldpi\n\tfldpi\n\tpcmpeqd %%xmm0, %%xmm0\n\tpcmpeqd %%xmm1, %%xmm1\n\tpcmpeqd %%xmm7, %%xmm7"
                     :
                     :
                     : "xmm0", "xmm1", "xmm7");
    if (__builtin_cpu_supports("avx"))
        __asm__ volatile("vxorps %%ymm0, %%ymm0, %%ymm0\n\tvxorps %%ymm6, %%ymm6, %%ymm6" : : : "xmm0", "xmm6");
    if (__builtin_cpu_supports("avx512f"))
        __asm__ volatile("vpternlogd $0xff, %%zmm5, %%zmm5, %%zmm5\n\tkxnorw %%k1, %%k1, %%k1" : : : "xmm5");
}

static void start_ticks(long microseconds)
{
    struct itimerval timer = {.it_interval.tv_usec = microseconds, .it_value.tv_usec = microseconds};
    struct sigaction action = {.sa_handler = tick, .sa_flags = SA_RESTART};

    CHECK(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

/* Known values in registers for as long as it takes a handler to run in between. */
#define HOLD(load, store, image_in, image_out)                                                                                             \
    do {                                                                                                                                   \
        unsigned start_ = ticks;                                                                                                           \
        const volatile unsigned *now_ = &ticks;                                                                                            \
        __asm__ volatile(load "\n1:\tpause\n\tcmp %2, %1\n\tje 1b\n\t" store                                                               \
                         : "=m"(image_out)                                                                                                 \
                         : "m"(*now_), "r"(start_), "m"(image_in)                                                                          \
                         : "cc", "memory", "xmm0", "xmm1", "xmm5", "xmm6", "xmm7");                                                        \
        CHECK(memcmp(&(image_in), &(image_out), sizeof(image_in)) == 0);                                                                   \
    } while (0)

static void vector_state(void)
{
    static unsigned char in16[16], out16[16], in32[32], out32[32], in64[64], out64[64];
    long double value = 1.25L, seen;

    for (int i = 0; i < 64; i++)
        in64[i] = (unsigned char)(i * 37 + 11);
    memcpy(in16, in64, 16);
    memcpy(in32, in64, 32);
    start_ticks(2000);
    for (int round = 0; round < 10; round++) {
        HOLD("movdqu %3, %%xmm0", "movdqu %%xmm0, %0", in16, out16);
        HOLD("movdqu %3, %%xmm7", "movdqu %%xmm7, %0", in16, out16);
        if (__builtin_cpu_supports("avx")) {
            HOLD("vmovdqu %3, %%ymm0", "vmovdqu %%ymm0, %0\n\tvzeroupper", in32, out32);
            HOLD("vmovdqu %3, %%ymm6", "vmovdqu %%ymm6, %0\n\tvzeroupper", in32, out32);
        }
        if (__builtin_cpu_supports("avx512f"))
            HOLD("vmovdqu64 %3, %%zmm5", "vmovdqu64 %%zmm5, %0\n\tvzeroupper", in64, out64);
        unsigned start = ticks;
        __asm__ volatile("fldt %1" : : "m"(seen), "m"(value));
        while (ticks == start)
            __asm__ volatile("pause");
        __asm__ volatile("fstpt %0" : "=m"(seen));
        CHECK(seen == value);
    }
    start_ticks(0);
    printf("vector state ok\n");
}

/* A handler changes the interrupted context: execution goes on where it says. */
static void skip(int number, siginfo_t *info, void *context)
{
    ucontext_t *u = context;

    (void)number;
    (void)info;
#ifdef __x86_64__
    u->uc_mcontext.gregs[REG_RIP] += 2;
    u->uc_mcontext.gregs[REG_RAX] = 4711;
#else
    u->uc_mcontext.gregs[REG_EIP] += 2;
    u->uc_mcontext.gregs[REG_EAX] = 4711;
#endif
}

static void contexts(void)
{
    struct sigaction action = {.sa_sigaction = skip, .sa_flags = SA_SIGINFO};
    long result = 0;

    CHECK(sigaction(SIGILL, &action, NULL) == 0);
    for (int i = 0; i < 1000; i++) {
        __asm__ volatile("ud2" : "+a"(result));
        CHECK(result == 4711);
        result = 0;
    }
    printf("contexts ok\n");
}

int main(void)
{
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};

    for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        catch_signal(numbers[i], SA_NODEFER);
    page_faults();
    bus_errors();
    instructions();
    floating_point();
    vector_state();
    contexts();
    stacks();
    return 0;
}
