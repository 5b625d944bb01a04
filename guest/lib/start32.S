/* Entry of the 32-bit guests: protected mode with paging off, by multiboot1 or PVH. */
#include "seg.h"

        .section .text.start, "ax"
        .globl multiboot_start, pvh_start
pvh_start:
        xor     %eax, %eax
multiboot_start:
        cli
        cld
        mov     $stack_top, %esp
        lgdt    boot_gdt_ptr
        ljmp    $SEL_KCODE, $1f
1:      mov     $SEL_KDATA, %edx
        mov     %edx, %ss
        mov     $SEL_UDATA, %edx
        mov     %edx, %ds
        mov     %edx, %es
        mov     %edx, %fs
        mov     %edx, %gs
        xor     %ebp, %ebp
        push    %ebx
        push    %eax
        call    guest_start
1:      cli
        hlt
        jmp     1b

        .section .data
        .balign 8
boot_gdt_ptr:
        .word   SEL_TEST - 1
        .long   gdt

        .section .bss
        .balign 4096
        .globl stack_top
        .skip 65536
stack_top:

        .section .note.GNU-stack, "", @progbits
