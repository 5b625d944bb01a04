/* The least of guests: it halts nothing, asks nothing and needs no instruction that KVM cannot emulate where it has no hardware. */
    .code32
    .text
    .long 0x1badb002, 0, -0x1badb002 /* a multiboot header without wishes */
    .globl _start
_start:
    cli
1:  jmp 1b

    .section .note.GNU-stack, "", @progbits
