/* The 256 entries of the IDT, their common part, and the way back to the test runner. */
        .text
        .globl vector_table
        .balign 16
vector_table:                           /* 16 bytes each */
vector = 0
        .rept 256
        .balign 16
        .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
        pushq   $0
        .endif
        pushq   $vector
        jmp     trap_common
vector = vector + 1
        .endr

trap_common:
        push    %r15
        push    %r14
        push    %r13
        push    %r12
        push    %r11
        push    %r10
        push    %r9
        push    %r8
        push    %rdi
        push    %rsi
        push    %rbp
        push    %rsp
        push    %rbx
        push    %rdx
        push    %rcx
        push    %rax
        cld
        mov     %rsp, %rdi
        mov     %rsp, %rbp
        and     $-16, %rsp
        call    trap_dispatch
        mov     %rbp, %rsp
        pop     %rax
        pop     %rcx
        pop     %rdx
        pop     %rbx
        add     $8, %rsp
        pop     %rbp
        pop     %rsi
        pop     %rdi
        pop     %r8
        pop     %r9
        pop     %r10
        pop     %r11
        pop     %r12
        pop     %r13
        pop     %r14
        pop     %r15
        add     $16, %rsp
        iretq

        /* int runner_save(void): 0, and 1 when runner_return() comes back to it. */
        .globl runner_save, runner_return
runner_save:
        mov     (%rsp), %rax
        mov     %rax, saved
        lea     8(%rsp), %rax
        mov     %rax, saved + 8
        mov     %rbx, saved + 16
        mov     %rbp, saved + 24
        mov     %r12, saved + 32
        mov     %r13, saved + 40
        mov     %r14, saved + 48
        mov     %r15, saved + 56
        xor     %eax, %eax
        ret
runner_return:
        cld
        mov     saved + 8, %rsp
        mov     saved + 16, %rbx
        mov     saved + 24, %rbp
        mov     saved + 32, %r12
        mov     saved + 40, %r13
        mov     saved + 48, %r14
        mov     saved + 56, %r15
        mov     $1, %eax
        jmp     *saved

        /* After LGDT: CS and the data segments from the new table. */
        .globl seg_reload
seg_reload:
        mov     $0x10, %eax
        mov     %eax, %ss
        mov     $0x23, %eax             /* DPL 3: IRET to ring 3 leaves them alone */
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %fs
        mov     %eax, %gs
        pop     %rax
        pushq   $8
        push    %rax
        lretq

        .section .bss
        .balign 8
saved:  .skip 64

        .section .note.GNU-stack, "", @progbits
