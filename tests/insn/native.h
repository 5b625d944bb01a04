/* Runs one instruction on the host CPU, at its own address, on given registers and vectors, and catches what it raises. */
#pragma once

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "outcome.h"

/*
 * Theory of operation. All sixteen general registers, the flags and the vectors belong to the case, so the runner keeps its
 * own state at a fixed address that instructions can name without any register. The case's instruction is
 * followed by a jump to a trampoline, which leads to native_exit. An instruction that faults, or a branch, ends in
 * a signal instead: its handler takes the state from the signal frame and returns to native_fault_exit.
 */
#define NATIVE_BLOCK 0x0f000000ULL

struct native_block {
    uint64_t gpr[GPR_COUNT];
    uint64_t rflags; /* 128 */
    uint64_t rip;    /* 136 */
    uint64_t rsp;    /* 144: the runner's own */
    uint64_t mask;   /* 152: XSAVE components */
    uint64_t unused[12];
    uint64_t out_gpr[GPR_COUNT]; /* 256 */
    uint64_t out_rflags;         /* 384 */
    uint64_t out_rip;
    uint32_t out_vector, out_error;
    uint64_t out_cr2;
    bool running, signalled;
    uint8_t pad[4096 - 418];
    uint8_t in[XSAVE_MAX];  /* 4096 */
    uint8_t out[XSAVE_MAX]; /* 8192 */
};

_Static_assert(offsetof(struct native_block, out_gpr) == 256, "the assembly below knows");
_Static_assert(offsetof(struct native_block, in) == 4096, "the assembly below knows");
_Static_assert(XSAVE_MAX == 4096, "the assembly below knows");

void native_enter(void);
extern const char native_exit[], native_fault_exit[];

__asm__(".text\n"
        ".intel_syntax noprefix\n"
        ".globl native_enter, native_exit, native_fault_exit\n"
        "native_enter:\n"
        "  push rbx; push rbp; push r12; push r13; push r14; push r15\n"
        "  mov ds:[0xf000090], rsp\n"
        "  mov eax, ds:[0xf000098]; xor edx, edx\n"
        "  xrstor64 ds:[0xf001000]\n"
        "  push qword ptr ds:[0xf000080]; popfq\n"
        "  mov rax, ds:[0xf000000]; mov rcx, ds:[0xf000008]; mov rdx, ds:[0xf000010]; mov rbx, ds:[0xf000018]\n"
        "  mov rsp, ds:[0xf000020]; mov rbp, ds:[0xf000028]; mov rsi, ds:[0xf000030]; mov rdi, ds:[0xf000038]\n"
        "  mov r8, ds:[0xf000040]; mov r9, ds:[0xf000048]; mov r10, ds:[0xf000050]; mov r11, ds:[0xf000058]\n"
        "  mov r12, ds:[0xf000060]; mov r13, ds:[0xf000068]; mov r14, ds:[0xf000070]; mov r15, ds:[0xf000078]\n"
        "  jmp qword ptr ds:[0xf000088]\n"
        "native_exit:\n"
        "  mov ds:[0xf000100], rax; mov ds:[0xf000108], rcx; mov ds:[0xf000110], rdx; mov ds:[0xf000118], rbx\n"
        "  mov ds:[0xf000120], rsp; mov ds:[0xf000128], rbp; mov ds:[0xf000130], rsi; mov ds:[0xf000138], rdi\n"
        "  mov ds:[0xf000140], r8; mov ds:[0xf000148], r9; mov ds:[0xf000150], r10; mov ds:[0xf000158], r11\n"
        "  mov ds:[0xf000160], r12; mov ds:[0xf000168], r13; mov ds:[0xf000170], r14; mov ds:[0xf000178], r15\n"
        "  mov rsp, ds:[0xf000090]\n"
        "  pushfq; pop qword ptr ds:[0xf000180]\n"
        "  push 2; popfq\n"
        "  mov eax, ds:[0xf000098]; xor edx, edx\n"
        "  xsave64 ds:[0xf002000]\n"
        "native_fault_exit:\n"
        "  fninit\n"
        "  push 0x1f80; ldmxcsr [rsp]; pop rax\n"
        "  pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx\n"
        "  ret\n"
        ".att_syntax\n");

static struct sigaction native_previous[NSIG];

static inline struct native_block *native_block(void)
{
    return (struct native_block *)NATIVE_BLOCK;
}

static inline void native_signal(int signo, siginfo_t *info, void *context)
{
    static const int number[GPR_COUNT] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                          REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    struct native_block *n = native_block();
    ucontext_t *uc = context;
    greg_t *regs = uc->uc_mcontext.gregs;

    if (!n->running) { /* a stub's or translated code's */
        if (native_previous[signo].sa_flags & SA_SIGINFO)
            native_previous[signo].sa_sigaction(signo, info, context);
        else
            sigaction(signo, &native_previous[signo], NULL);
        return;
    }
    for (unsigned i = 0; i < GPR_COUNT; i++)
        n->out_gpr[i] = (uint64_t)regs[number[i]];
    n->out_rflags = (uint64_t)regs[REG_EFL];
    n->out_rip = (uint64_t)regs[REG_RIP];
    n->out_vector = (uint32_t)regs[REG_TRAPNO];
    n->out_error = (uint32_t)regs[REG_ERR];
    n->out_cr2 = (uint64_t)regs[REG_CR2];
    n->signalled = true;
    /* The kernel writes the standard form and says in the frame's software bytes how long it is. */
    const uint8_t *frame = (const uint8_t *)uc->uc_mcontext.fpregs;
    uint32_t size;
    memcpy(&size, frame + 464 + 16, sizeof(size));
    memcpy(n->out, frame, size < XSAVE_MAX ? size : XSAVE_MAX);
    regs[REG_RIP] = (greg_t)(uintptr_t)native_fault_exit;
    regs[REG_RSP] = (greg_t)n->rsp;
    regs[REG_EFL] = 2;
}

/* Maps the arena and the runner's own block. 0 or -1. After engine_soft.vcpu_init(), whose signal handlers it takes over. */
static inline int native_init(uint64_t components)
{
    static const int caught[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    static const int protection[] = {PROT_NONE, PROT_READ | PROT_WRITE, PROT_READ, PROT_READ | PROT_WRITE | PROT_EXEC};
    struct sigaction action = {.sa_sigaction = native_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE;

    if (mmap((void *)(ARENA - MIB(1)), ZONE_BYTES, PROT_NONE, flags, -1, 0) == MAP_FAILED ||
        mmap((void *)NATIVE_BLOCK, sizeof(struct native_block), PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED ||
        mmap((void *)TRAMPOLINE, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, flags, -1, 0) == MAP_FAILED)
        return -1;
    for (unsigned i = 0; i < ARENA_PAGES; i++)
        if (mprotect((void *)(ARENA + i * PAGE_SIZE), PAGE_SIZE, protection[arena_page[i]]) != 0)
            return -1;
    uint8_t *jump = (uint8_t *)TRAMPOLINE; /* jmp [rip + 2]: aligned, for cases with EFLAGS.AC */
    uint64_t to = (uint64_t)(uintptr_t)native_exit;
    memcpy(jump, "\xff\x25\x02\0\0\0", 6);
    memcpy(jump + 8, &to, 8);
    native_block()->mask = components;
    for (unsigned i = 0; i < ARRAY_SIZE(caught); i++)
        if (sigaction(caught[i], &action, &native_previous[caught[i]]) != 0)
            return -1;
    return 0;
}

/* start: where the case's instruction lies; end: the address behind it. */
static inline void native_run(const struct outcome *in, uint64_t end, struct outcome *out)
{
    struct native_block *n = native_block();

    memcpy(n->gpr, in->gpr, sizeof(n->gpr));
    n->rflags = in->rflags;
    n->rip = in->rip;
    memcpy(n->in, in->image, XSAVE_MAX);
    memset(n->out, 0, 576);
    n->signalled = false;
    n->running = true;
    native_enter();
    n->running = false;

    memcpy(out->gpr, n->out_gpr, sizeof(n->out_gpr));
    memcpy(out->image, n->out, XSAVE_MAX);
    out->rflags = n->out_rflags;
    out->rip = end;
    out->faulted = n->signalled;
    if (!n->signalled)
        return;
    out->rip = n->out_rip;
    out->vector = (uint8_t)n->out_vector;
    out->error = n->out_error;
    out->cr2 = n->out_vector == EXC_PF ? n->out_cr2 : 0;
    /* Whatever is raised elsewhere comes after the instruction: a branch's target that cannot be fetched, or INT3 there. */
    if (out->vector == EXC_BP)
        out->rip--;
    if (out->rip != in->rip)
        out->faulted = false;
}
