/* A 64-bit program that calls 32-bit code through far pointers and comes back, through the kernel's and its own segments. */
#include <asm/ldt.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"

struct far {
    uint32_t offset;
    uint16_t selector;
} __attribute__((packed));

/* Runs 32-bit code on a stack below 4 GiB: lcall there, lret back. eax in and out. */
static unsigned call_far(const struct far *target, char *stack_top, unsigned value)
{
    __asm__ volatile("mov %%rsp, %%r12\n\tmov %2, %%rsp\n\tlcall *(%1)\n\tmov %%r12, %%rsp"
                     : "+a"(value)
                     : "r"(target), "r"(stack_top)
                     : "r12", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
    return value;
}

static const unsigned char code[] = {
    0x60,                   /* pusha: no such instruction in 64-bit mode */
    0x89, 0xc1,             /* mov %eax, %ecx */
    0x40,                   /* inc %eax: a REX prefix in 64-bit mode */
    0x0f, 0xaf, 0xc1,       /* imul %ecx, %eax */
    0x89, 0x44, 0x24, 0x1c, /* mov %eax, 28(%esp): popa's eax */
    0x61,                   /* popa */
    0xcb,                   /* lret */
};

/* int $0x80 from 32-bit code: getpid */
static const unsigned char system_call[] = {0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xcb};

static unsigned own_segment(unsigned base, unsigned limit, int wide)
{
    struct user_desc d = {.entry_number = 3,
                          .base_addr = base,
                          .limit = limit,
                          .seg_32bit = (unsigned)wide & 1,
                          .contents = MODIFY_LDT_CONTENTS_CODE,
                          .useable = 1};

    CHECK(syscall(SYS_modify_ldt, 1, &d, sizeof(d)) == 0);
    return 3 << 3 | 7;
}

int main(void)
{
    char *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    struct far target = {.selector = 0x23}; /* the kernel's 32-bit user code segment */
    uint64_t sum = SUM_START;

    CHECK(p != MAP_FAILED);
    memcpy(p, code, sizeof(code));
    memcpy(p + 64, system_call, sizeof(system_call));
    target.offset = (uint32_t)(uintptr_t)p;
    for (unsigned i = 0; i < 10000; i++) {
        unsigned result = call_far(&target, p + 65536 - 64, i * 77777);
        CHECK(result == i * 77777 * (i * 77777 + 1));
        SUM(sum, result);
    }
    target.offset = (uint32_t)(uintptr_t)p + 64;
    CHECK(call_far(&target, p + 65536 - 64, 0) == (unsigned)getpid());

    /* A segment of our own, whose base is not zero. */
    target.selector = (uint16_t)own_segment((unsigned)(uintptr_t)p, 0xfff, 1);
    target.offset = 0;
    CHECK(call_far(&target, p + 65536 - 64, 9) == 90);
    report("compat", sum);
    return 0;
}
