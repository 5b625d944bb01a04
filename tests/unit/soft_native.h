/* Runs a few instructions on the host CPU with chosen registers and vector state, and catches their page faults. */
#pragma once

#include "soft_fake.h"

struct native {
    uint64_t gpr[16]; /* in and out; RSP is not used */
    uint64_t rflags;  /* arithmetic flags and DF */
    bool faulted;
    uint64_t fault_address;
    uint8_t in[XSAVE_MAX] __attribute__((aligned(64)));
    uint8_t out[XSAVE_MAX] __attribute__((aligned(64)));
};

#define NATIVE_FLAGS 128
#define NATIVE_IN 192
#define NATIVE_OUT (192 + 4096)

_Static_assert(offsetof(struct native, rflags) == NATIVE_FLAGS, "the assembly below knows");
_Static_assert(offsetof(struct native, in) == NATIVE_IN, "the assembly below knows");
_Static_assert(offsetof(struct native, out) == NATIVE_OUT, "the assembly below knows");

/* native_call(struct native *, const void *code): code ends in RET and leaves R12 and RSP alone. */
void native_call(struct native *, const void *code);

__asm__(".text\n"
        ".globl native_call\n"
        "native_call:\n"
        "  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
        "  sub $8, %rsp\n"
        "  mov %rdi, %r12; mov %rsi, %r13\n"
        "  mov $-1, %eax; mov $-1, %edx\n"
        "  xrstor64 192(%r12)\n"
        "  pushq 128(%r12); popfq\n"
        "  mov 0(%r12), %rax; mov 8(%r12), %rcx; mov 16(%r12), %rdx; mov 24(%r12), %rbx\n"
        "  mov 48(%r12), %rsi; mov 56(%r12), %rdi\n"
        "  call *%r13\n"
        "  mov %rax, 0(%r12); mov %rcx, 8(%r12); mov %rdx, 16(%r12); mov %rbx, 24(%r12)\n"
        "  mov %rsi, 48(%r12); mov %rdi, 56(%r12)\n"
        "  pushfq; popq 128(%r12); cld\n"
        "  mov $-1, %eax; mov $-1, %edx\n"
        "  xsave64 4288(%r12)\n"
        "  fninit\n"
        "  movl $0x1f80, (%rsp); ldmxcsr (%rsp)\n"
        "  add $8, %rsp\n"
        "  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n"
        "  ret\n");

static struct native *native_current;
static sigjmp_buf native_escape;

static inline void native_fault(int sig, siginfo_t *info, void *context)
{
    static const int greg[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI};
    ucontext_t *uc = context;

    (void)sig;
    for (unsigned i = 0; i < ARRAY_SIZE(greg); i++)
        native_current->gpr[i] = (uint64_t)uc->uc_mcontext.gregs[greg[i]];
    native_current->rflags = (uint64_t)uc->uc_mcontext.gregs[REG_EFL];
    native_current->faulted = true;
    native_current->fault_address = (uint64_t)(uintptr_t)info->si_addr;
    /* The kernel writes the standard form, and its size into bytes that the CPU leaves alone (struct _fpx_sw_bytes). */
    const struct _fpx_sw_bytes *sw = (const void *)((const uint8_t *)uc->uc_mcontext.fpregs + 464);
    memset(native_current->out, 0, XSAVE_MAX);
    memcpy(native_current->out, uc->uc_mcontext.fpregs, MIN(sw->xstate_size, XSAVE_MAX));
    siglongjmp(native_escape, 1);
}

/* Runs code; a fault ends it with the registers as they were then. */
static inline void native_run(struct native *n, const void *code)
{
    static uint8_t stack[65536];
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof(stack)};
    struct sigaction action = {.sa_sigaction = native_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK}, old_segv, old_bus;

    sigaltstack(&ss, NULL);
    sigaction(SIGSEGV, &action, &old_segv);
    sigaction(SIGBUS, &action, &old_bus);
    native_current = n;
    n->faulted = false;
    if (sigsetjmp(native_escape, 1) == 0)
        native_call(n, code);
    sigaction(SIGSEGV, &old_segv, NULL);
    sigaction(SIGBUS, &old_bus, NULL);
}

/* Makes the host agree with fake_seen.page. */
static inline void native_protect(unsigned page, enum fake_page kind)
{
    fake_seen.page[page] = kind;
    mprotect(arena(page * PAGE_SIZE), PAGE_SIZE,
             kind == PAGE_ABSENT     ? PROT_NONE
             : kind == PAGE_READONLY ? PROT_READ
                                     : PROT_READ | PROT_WRITE);
}

/* A small generator that gives the same numbers every time (xorshift64*). */
static uint64_t random_state = 0x9e3779b97f4a7c15;

static inline uint64_t random64(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545f4914f6cdd1d;
}

static inline void random_fill(void *p, size_t n)
{
    uint8_t *bytes = p;

    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)(random64() >> 32);
}

/* A legal XSAVE image in standard form, every component with random contents or initial. */
static inline void random_image(const struct soft_cpuid *model, uint8_t *image, uint64_t bv)
{
    memset(image, 0, XSAVE_MAX);
    random_fill(image + FX_ST, FX_BYTES_USED - FX_ST);
    for (unsigned i = 0; i < 8; i++)
        memset(image + FX_ST + 16 * i + 10, 0, 6);
    vec_put16(image + FX_FCW, (uint16_t)((random64() & 0xf00) | 0x7f)); /* exceptions masked: nothing pends */
    vec_put16(image + FX_FSW, (uint16_t)(random64() & 0x7f7f));         /* B and ES clear */
    image[FX_FTW] = (uint8_t)(random64() >> 20);
    vec_put32(image + FX_MXCSR, (uint32_t)(random64() & 0xe03f) | 0x1f80);
    for (unsigned i = XSTATE_AVX; i < XSTATE_COUNT; i++)
        random_fill(image + model->xstate[i].offset, model->xstate[i].size);
    vec_put64(image + XSAVE_HEADER, bv & model->xcr0);
}

/* Between two labels of an assembly block. */
struct snippet {
    const char *name;
    const uint8_t *start, *end; /* end: at the RET */
    bool avx512;
};
