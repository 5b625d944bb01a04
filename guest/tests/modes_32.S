/* The ways between protected, real and long mode; what runs in 16 bits is copied to 0x8000. */
#include "seg.h"

#define AT(label) (label - low_code + 0x8000)
#define RESULTS 0x7800

        .text
        /* void real_mode_run(void): low_code in real mode, and back. The GDT is the library's. */
        .globl real_mode_run
real_mode_run:
        pusha
        mov     %esp, saved_esp
        sidt    saved_idt
        mov     $SEL_UDATA, %eax        /* flat: FS keeps this limit in real mode */
        mov     %eax, %fs
        ljmp    $SEL_KCODE16, $AT(low_protected)

        .globl real_mode_back
real_mode_back:
        mov     $SEL_KDATA, %eax
        mov     %eax, %ss
        mov     $SEL_UDATA, %eax
        mov     %eax, %ds               /* real mode's ends at 64 KiB */
        mov     saved_esp, %esp
        mov     %eax, %es
        mov     %eax, %fs
        mov     %eax, %gs
        lidt    saved_idt
        popa
        ret

        .globl low_code, low_code_end
        .code16
low_code:
low_protected:                          /* 16-bit protected mode still */
        mov     $SEL_KDATA16, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     %cr0, %eax
        and     $~1, %al
        mov     %eax, %cr0
        ljmpw   $0, $AT(low_real)
low_real:
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7000, %sp
        lidtw   AT(real_idt)
        mov     $RESULTS, %di

        mov     %cr0, %eax              /* [0] PE is off */
        and     $1, %ax
        mov     %ax, 0(%di)

        mov     $0x900, %ax             /* [2] a segment's base is 16 times its selector */
        mov     %ax, %es
        mov     %es:4, %ax
        mov     %ax, 2(%di)

        mov     $0xffff, %ax            /* [4] 16-bit operands wrap */
        add     $2, %ax
        mov     %ax, 4(%di)

        movl    $0x12345678, %eax       /* [6] 32-bit operands by prefix */
        rol     $4, %eax
        movl    %eax, 6(%di)

        mov     %sp, %bx                /* [10] INT through the IVT, back with the stack even */
        stc
        int     $0x60
        sub     %sp, %bx
        mov     %bx, 10(%di)            /* [12] by the handler */

        mov     $AT(on_divide), %ax     /* [14] the IP that #DE saves */
        mov     %ax, 0
        movw    $0, 2
        xor     %bl, %bl
        mov     $1, %ax
fault1: div     %bl
        mov     $AT(on_limit), %ax      /* [16] a word at the segment's end: #GP, with no error code */
        mov     %ax, 13 * 4
        movw    $0, 13 * 4 + 2
fault2: mov     0xffff, %ax
        mov     $AT(on_undefined), %ax  /* [18] #UD */
        mov     %ax, 6 * 4
        movw    $0, 6 * 4 + 2
fault3: ud2
        mov     $0x110000, %ebx         /* [20] the limit that FS had in protected mode */
        mov     %fs:(%ebx), %eax
        movl    %eax, 20(%di)
        lcallw  $0x800, $(far_target - low_code) /* [24] a far call to another CS */
        mov     %ax, 24(%di)
        xor     %ax, %ax                /* [26] LOOP and a string instruction by SI, DI, CX */
        mov     %ax, %es
        mov     $5, %cx
1:      inc     %ax
        loop    1b
        mov     %ax, 26(%di)
        push    %di
        mov     $RESULTS, %si
        mov     $RESULTS + 0x100, %di
        mov     $16, %cx
        cld
        rep movsw
        pop     %di

        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        ljmpl   $SEL_KCODE, $real_mode_back

on_int60:
        push    %bp
        mov     %sp, %bp
        mov     6(%bp), %ax             /* the saved flags */
        pop     %bp
        mov     %ax, 12(%di)
        iretw
on_divide:
        mov     $RESULTS + 14, %si
        jmp     skip_two
on_limit:
        mov     $RESULTS + 16, %si
        push    %bp
        mov     %sp, %bp
        mov     2(%bp), %ax
        mov     %ax, (%si)
        addw    $3, 2(%bp)              /* MOV AX, moffs16 */
        pop     %bp
        iretw
on_undefined:
        mov     $RESULTS + 18, %si
skip_two:
        push    %bp
        mov     %sp, %bp
        mov     2(%bp), %ax
        mov     %ax, (%si)
        addw    $2, 2(%bp)
        pop     %bp
        iretw
far_target:
        mov     %cs, %ax
        lretw
        .balign 4
real_idt:
        .word   0x3ff
        .long   0
low_code_end:

        .data
        .globl low_offsets
low_offsets:                            /* of what C names */
        .word   AT(on_int60), AT(fault1), AT(fault2), AT(fault3)

        .text
        .code32
        /* void long_mode_run(uint32_t pml4): there and back; what it saw is in long_seen. */
        .globl long_mode_run
long_mode_run:
        push    %ebp
        mov     %esp, %ebp
        pusha
        mov     %cr4, %eax
        or      $0x20, %eax
        mov     %eax, %cr4
        mov     8(%ebp), %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx
        rdmsr
        or      $0x100, %eax
        wrmsr
        mov     %cr0, %eax
        or      $0x80000000, %eax
        mov     %eax, %cr0
        rdmsr
        mov     %eax, long_seen         /* LMA */
        mov     $0x7fffffff, %edx       /* compatibility mode still: 48 is DEC EAX */
        .byte   0x42
        mov     %edx, long_seen + 4
        mov     $long_seen, %ebx        /* 64-bit addresses have no relocation in this object */
        mov     $back32, %esi
        ljmp    $SEL_TEST, $1f
        .code64
1:      movabs  $0x1122334455667788, %r9
        mov     %r9, 8(%rbx)
        push    %r9
        pop     16(%rbx)
        mov     $0x4000001000, %rax     /* above 4 GiB */
        mov     (%rax), %rcx
        mov     %rcx, 24(%rbx)
        ljmp    *(%rsi)
        .code32
2:      mov     %cr0, %eax
        and     $0x7fffffff, %eax
        mov     %eax, %cr0
        mov     $0xc0000080, %ecx
        rdmsr
        mov     %eax, long_seen + 32    /* LMA is gone */
        and     $~0x100, %eax
        wrmsr
        mov     %cr4, %eax
        and     $~0x20, %eax
        mov     %eax, %cr4
        popa
        pop     %ebp
        ret

        .data
        .balign 8
back32: .long   2b
        .word   SEL_KCODE
        .bss
        .balign 8
        .globl long_seen
long_seen: .skip 64
saved_esp: .skip 4
saved_idt: .skip 8

        .section .note.GNU-stack, "", @progbits
