/* Every fault and interrupt finds the exact registers, in 32-bit code in compatibility mode. */
#include "precise_common.h"

const word block_window = TEST_LOW;

/*
 * Loads, stores, read-modify-writes, the stack, calls, strings and vectors. RBX, RSI and R8 to R15 come with upper halves that are not 0, and
 * keep them as long as nothing writes them. FS begins at the window's second page.
 */
__asm__(".text\n.globl block\n"
        "block:\n\t"
        "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; mov %rsp, block_sp\n\t"
        "movabs $0xdeadbeef40000000, %rbx; movabs $0x8000000000000005, %rsi\n\t"
        "mov $1, %eax; mov $2, %ecx; mov $3, %edx; mov $6, %edi; mov $7, %ebp\n\t"
        "mov $-8, %r8; mov $-9, %r9; mov $-10, %r10; mov $-11, %r11; mov $-12, %r12; mov $-13, %r13; mov $-14, %r14; mov $-15, %r15\n\t"
        "mov block_fs, %rax; mov %rax, gdt + 0x68; mov $0x68, %eax; mov %eax, %fs; mov $1, %eax\n\t"
        "pushq $0x30; pushq $5f; lretq\n\t"
        ".code32\n"
        "5: mov $0x40003800, %esp\n"
        "block_start:\n\t"
        "mov (%ebx), %eax\n\t"
        "add 0x1000(%ebx), %eax\n\t"
        "adc %eax, %ecx\n\t"
        "xor 0x2010(%ebx,%esi,4), %ecx\n\t"
        "push %eax\n\t"
        "pushl 0x1008(%ebx)\n\t"
        "pop %edx\n\t"
        "inc %edx\n\t"
        "imul 0x4000(%ebx), %edx\n\t"
        "lea (%edx,%eax,4), %esi\n\t"
        "add %esi, 0x5000(%ebx)\n\t"
        "rol $3, %ebp\n\t"
        "sbb %edi, 0x6000(%ebx)\n\t"
        "movups 0x7000(%ebx), %xmm0\n\t"
        ".byte 0xa1; .long 0x40004100\n\t" /* mov 0x40004100, %eax */
        "cmp %ecx, %edx\n\t"
        "cmovb 0x4104(%ebx), %edi\n\t"
        "mov %fs:-0x800, %edi\n\t"
        "sub %edi, %fs:0x10(%ebp)\n\t"
        "xadd %ecx, 0x5010(%ebx)\n\t"
        "cmpxchg %edi, 0x6010(%ebx)\n\t"
        "call 1f\n\t"
        "setc 0x4200(%ebx)\n\t"
        "jnc 2f\n\t"
        "dec %ebp\n"
        "2: movups %xmm0, 0x7ff8(%ebx)\n\t" /* from the last page into the one behind */
        "addps 0x2000(%ebx), %xmm0\n\t"
        "mov 0xffe(%ebx), %edx\n\t" /* across two pages */
        "mov %edx, 0x1ffd(%ebx)\n\t"
        "lea 0x2ff0(%ebx), %esi; lea 0x4ff8(%ebx), %edi; mov $24, %ecx\n\t"
        "rep movsb\n\t"
        "lea 0x6ff0(%ebx), %edi; mov $4, %ecx; std\n\t"
        "rep stosl\n\t"
        "cld\n\t"
        "xchg %ebp, 0x6800(%ebx)\n\t"
        "mull 0x2100(%ebx)\n\t"
        "popl 0x2200(%ebx)\n\t"
        "push %ebp; mov %esp, %ebp; sub $64, %esp; leave\n\t"
        "mov $3, %ecx\n"
        "3: add 0x1000(%ebx,%ecx,8), %edx\n\t"
        "loop 3b\n\t"
        "dec %edx\n"
        "block_end:\n\t"
        "ljmp $0x08, $4f\n"
        "1: stc; adc $5, %eax; push %ebx; pop %edi; ret $0\n\t"
        ".code64\n"
        "4: mov block_sp, %rsp; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n"
        ".bss\nblock_sp: .quad 0\n.text");

extern const uint64_t block_fs; /* a descriptor for SEL_TEST */
const uint64_t block_fs = DESC_P | DESC_DATA | DESC_G | DESC_DB | BIT(48) * 0xf | 0xffff | 0x1000ull << 16 | 0x40ull << 56;

GUEST_TESTS(PRECISE_TESTS);
