/* The 256 entries of the IDT of 32-bit guests, their common part, and the way back to the test runner. */
        .text
        .globl vector_table
        .balign 16
vector_table:                           /* 16 bytes each */
vector = 0
        .rept 256
        .balign 16
        .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
        pushl   $0
        .endif
        pushl   $vector
        jmp     trap_common
vector = vector + 1
        .endr

trap_common:
        push    %edi
        push    %esi
        push    %ebp
        push    %esp
        push    %ebx
        push    %edx
        push    %ecx
        push    %eax
        push    %ds
        push    %es
        push    %fs
        push    %gs
        cld
        mov     $0x23, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %esp, %ebp
        push    %ebp
        call    trap_dispatch
        mov     %ebp, %esp
        pop     %gs
        pop     %fs
        pop     %es
        pop     %ds
        pop     %eax
        pop     %ecx
        pop     %edx
        pop     %ebx
        add     $4, %esp
        pop     %ebp
        pop     %esi
        pop     %edi
        add     $8, %esp
        iret

        /*
         * trap_resume(regs, eip, eflags, esp): leaves the handler for ring 0 on another stack. IRET to the same privilege
         * takes no ESP from its frame, so the frame is built on the target stack.
         */
        .globl trap_resume
trap_resume:
        mov     4(%esp), %esi           /* regs: AX CX DX BX SP BP SI DI */
        mov     8(%esp), %ebx
        mov     12(%esp), %ecx
        mov     16(%esp), %edx
        mov     $0x10, %eax
        mov     %eax, %ss
        mov     %edx, %esp
        mov     $0x23, %eax
        mov     %eax, %fs
        mov     %eax, %gs
        push    %ecx
        pushl   $8
        push    %ebx
        pushl   0(%esi)
        pushl   4(%esi)
        pushl   8(%esi)
        pushl   12(%esi)
        pushl   16(%esi)
        pushl   20(%esi)
        pushl   24(%esi)
        pushl   28(%esi)
        popa
        iret

        .globl runner_save, runner_return
runner_save:
        mov     (%esp), %eax
        mov     %eax, saved
        lea     4(%esp), %eax
        mov     %eax, saved + 4
        mov     %ebx, saved + 8
        mov     %ebp, saved + 12
        mov     %esi, saved + 16
        mov     %edi, saved + 20
        xor     %eax, %eax
        ret
runner_return:
        cld
        mov     saved + 4, %esp
        mov     saved + 8, %ebx
        mov     saved + 12, %ebp
        mov     saved + 16, %esi
        mov     saved + 20, %edi
        mov     $1, %eax
        jmp     *saved

        .globl seg_reload
seg_reload:
        mov     $0x10, %eax
        mov     %eax, %ss
        mov     $0x23, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %fs
        mov     %eax, %gs
        pop     %eax
        pushl   $8
        push    %eax
        lretl

        .section .bss
        .balign 8
saved:  .skip 32

        .section .note.GNU-stack, "", @progbits
