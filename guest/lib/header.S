/* What loaders look for: the multiboot1 header and the note of PVH's entry. */
        .section .boot, "a"
        .balign 4
#ifndef NO_MULTIBOOT
        .long 0x1badb002, 0x00000003, -(0x1badb002 + 0x00000003) /* page-aligned modules, memory map (multiboot 0.6.96 3.1) */
#endif

        .section .note.pvh, "a", @note
        .balign 4
        .long 4, 4, 18 /* XEN_ELFNOTE_PHYS32_ENTRY (xen/include/public/elfnote.h) */
        .asciz "Xen"
        .long pvh_start

        .section .note.GNU-stack, "", @progbits
