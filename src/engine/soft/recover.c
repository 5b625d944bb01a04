/* Signals that guest instructions cause on the host, turned into what the engine can handle. */
#include "engine/soft/recover.h"

#include <asm/prctl.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "engine/soft/cache.h"
#include "engine/soft/ctx.h"
#include "engine/soft/mmu.h"
#include "engine/soft/step.h"
#include "engine/soft/switch.h"

#define ALT_STACK_BYTES (64 * 1024) /* an AVX-512 frame takes some 3 KiB of it */

/* A signal handler has no argument of ours: the vCPU that runs on this thread. */
static __thread struct soft_cpu *current_cpu;

static const int caught[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};

/* What was installed before us, for faults that are not the guest's. Written once, before any vCPU runs. */
static struct sigaction previous[ARRAY_SIZE(caught)];
static pthread_once_t installed = PTHREAD_ONCE_INIT;
static int install_error;

static void pass_on(int signo)
{
    for (unsigned i = 0; i < ARRAY_SIZE(caught); i++)
        if (caught[i] == signo)
            sigaction(signo, &previous[i], NULL); /* the instruction runs again and meets the previous handler */
}

static void handle(int signo, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *regs = uc->uc_mcontext.gregs;
    struct soft_cpu *cpu = current_cpu;
    const void *pc = (const void *)regs[REG_RIP];

    (void)info;
    if (!cpu) {
        pass_on(signo);
        return;
    }
    cpu->host_fault.trapno = (int)regs[REG_TRAPNO];
    cpu->host_fault.error = (uint64_t)regs[REG_ERR];
    cpu->host_fault.pc = (uint64_t)regs[REG_RIP];
    if (codemem_holds(&cpu->exec->stubs, pc)) {
        regs[REG_RIP] = (greg_t)(uintptr_t)switch_stub_fault;
    } else if (cache_holds(cpu->svm->cache, pc)) {
        cpu->slot[(CTX_EXIT - CTX_SLOT(0)) / 8] = CODE_EXIT_FAULT;
        regs[REG_RIP] = (greg_t)(uintptr_t)switch_code_exit;
    } else {
        pass_on(signo);
    }
}

static void install(void)
{
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};

    sigemptyset(&action.sa_mask);
    for (unsigned i = 0; i < ARRAY_SIZE(caught); i++)
        if (sigaction(caught[i], &action, &previous[i]) != 0)
            install_error = errno;
}

int recover_attach(struct soft_cpu *cpu, struct err *e)
{
    stack_t stack = {.ss_size = ALT_STACK_BYTES};

    pthread_once(&installed, install);
    if (install_error)
        return err_set(e, install_error, "cannot install signal handlers: %s", strerror(install_error));
    stack.ss_sp = mmap(NULL, stack.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack.ss_sp == MAP_FAILED)
        return err_set(e, errno, "cannot allocate a signal stack: %s", strerror(errno));
    if (sigaltstack(&stack, NULL) != 0) {
        int error = errno;
        munmap(stack.ss_sp, stack.ss_size);
        return err_set(e, error, "cannot use a signal stack: %s", strerror(error));
    }
    cpu->alt_stack = stack.ss_sp;
    /*
     * Translated code finds the shadow tables through GS. By the system call: WRGSBASE may work for a program and yet be lost at the next
     * context switch, where the kernel runs with FSGSBASE off.
     */
    if (syscall(SYS_arch_prctl, ARCH_SET_GS, mmu_table(cpu, true)) != 0)
        return err_set(e, errno, "cannot set the GS base of a vCPU's thread: %s", strerror(errno));
    current_cpu = cpu;
    return 0;
}

void recover_detach(struct soft_cpu *cpu)
{
    stack_t off = {.ss_flags = SS_DISABLE};

    current_cpu = NULL;
    if (!cpu->alt_stack)
        return;
    sigaltstack(&off, NULL);
    munmap(cpu->alt_stack, ALT_STACK_BYTES);
    cpu->alt_stack = NULL;
}
