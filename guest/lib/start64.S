/* Entry of the 64-bit guests: from 32-bit protected mode by multiboot1 or PVH to long mode, with 0-1 GiB identity-mapped. */
#include "long_mode.inc"

        .section .text.start, "ax"
        .code32
        .globl multiboot_start, pvh_start
pvh_start:
        xor     %eax, %eax
multiboot_start:
        cli
        cld
        mov     %eax, boot_magic
        mov     %ebx, boot_info
        mov     $stack_top, %esp

        /* Page tables: see paging.h. Entries: P W U. */
        movl    $boot_pdpt + 7, boot_pml4
        movl    $boot_pd0 + 7, boot_pdpt
        movl    $boot_pd3 + 7, boot_pdpt + 3 * 8
        mov     $boot_pd0, %edi
        mov     $0x87, %eax             /* PS */
1:      mov     %eax, (%edi)
        add     $8, %edi
        add     $0x200000, %eax
        cmp     $boot_pd0 + 4096, %edi
        jb      1b
        movl    $0xfec00000 + 0x9b, boot_pd3 + 502 * 8 /* PS PCD PWT W P: I/O APIC, local APIC */
        movl    $0xfee00000 + 0x9b, boot_pd3 + 503 * 8

        lgdt    boot_gdt_ptr
        enter_long_mode
        xor     %ebp, %ebp
        mov     boot_magic, %edi
        mov     boot_info, %esi
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
        .globl boot_pml4, boot_pdpt, boot_pd0, boot_pd3, stack_top
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd0: .skip 4096
boot_pd3: .skip 4096
        .skip 65536
stack_top:
boot_magic: .skip 4
boot_info: .skip 4

        .section .note.GNU-stack, "", @progbits
