/* The way into long mode that all 64-bit CPUs take, for assembly. */
#pragma once

#include "seg.h"

#ifdef __ASSEMBLER__
/*
 * From 32-bit protected mode with the GDT loaded and interrupts off to 64-bit code behind the macro, by way of the tables at boot_pml4, with flat data
 * segments. cr4: bits to set beside PAE. Clobbers eax, ecx and edx.
 */
        .macro  enter_long_mode cr4=0
        mov     %cr4, %eax
        or      $(0x20 | \cr4), %eax    /* PAE */
        mov     %eax, %cr4
        mov     $boot_pml4, %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx       /* EFER: SCE LME NXE */
        rdmsr
        or      $0x901, %eax
        wrmsr
        mov     %cr0, %eax
        and     $~0x60000000, %eax      /* CD NW */
        or      $0x80010023, %eax       /* PG WP NE MP PE */
        mov     %eax, %cr0
        ljmp    $SEL_KCODE, $long_mode_\@
        .code64
long_mode_\@:
        mov     $SEL_KDATA, %eax
        mov     %eax, %ss
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %fs
        mov     %eax, %gs
        .endm
#endif
