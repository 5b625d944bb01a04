/* Where the other CPUs start: from real mode at AP_PAGE to long mode in C, each on its own stack. */
#include "long_mode.inc"

        .section .rodata
        .globl ap_page, ap_page_end
        .code16
ap_page:                                /* a copy of this lies at AP_PAGE, and CS is AP_PAGE >> 4 */
        cli
        mov     %cs, %bx
        mov     %bx, %ds
        lgdtl   ap_gdt_ptr - ap_page
        mov     %cr0, %eax
        or      $1, %eax                /* PE */
        mov     %eax, %cr0
        ljmpl   $SEL_KCODE32, $ap_start32
        .balign 8
ap_gdt_ptr:
        .word   GDT_ENTRIES * 8 - 1
        .long   gdt
ap_page_end:

        .text
        .code32
ap_start32:
        enter_long_mode cr4=0x680       /* OSXMMEXCPT OSFXSR PGE */
        mov     0xfee00020, %eax        /* local APIC id, in the upper 8 bits */
        shr     $24, %eax
        movzbl  ap_cpu_of_id(%rax), %edi
        lea     1(%rdi), %eax
        shl     $13, %rax
        lea     ap_stacks(%rax), %rsp
        movzwl  %bx, %esi
        xor     %ebp, %ebp
        call    ap_main

        .section .note.GNU-stack, "", @progbits
