/* Where the other CPUs start: from real mode at AP_PAGE to long mode in C, each on its own stack. */
#include "seg.h"

        .section .rodata
        .globl ap_page, ap_page_end
        .code16
ap_page:                                /* a copy of this lies at AP_PAGE, and CS is AP_PAGE >> 4 */
        cli
        mov     %cs, %bx
        mov     %bx, %ds
        lgdtl   ap_gdt_ptr - ap_page
        mov     %cr0, %eax
        and     $~0x60000000, %eax      /* CD NW */
        or      $0x21, %eax             /* NE PE */
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
        mov     $SEL_KDATA, %eax
        mov     %eax, %ss
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %fs
        mov     %eax, %gs
        mov     $0x6a0, %eax            /* OSXMMEXCPT OSFXSR PGE PAE */
        mov     %eax, %cr4
        mov     $boot_pml4, %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx       /* EFER: SCE LME NXE */
        rdmsr
        or      $0x901, %eax
        wrmsr
        mov     %cr0, %eax
        or      $0x80010002, %eax       /* PG WP MP */
        mov     %eax, %cr0
        ljmp    $SEL_KCODE, $ap_start64
        .code64
ap_start64:
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
