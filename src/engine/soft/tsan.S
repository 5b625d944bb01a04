/* The calls that ThreadSanitizer puts into this folder's C code, which keep the guest's vectors: the runtime is compiled for SSE2 (m=tsan). */
#ifdef SOFT_TSAN
#include "engine/soft/tsan.h"

        .intel_syntax noprefix
        .text

#define VECTORS 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15

/* After these, rsp is a multiple of 16, and the caller's return address is at [rsp + FRAME]. */
#define FRAME 312
        .macro begin name
        .globl soft_tsan_\name
        .type soft_tsan_\name, @function
        .p2align 4
soft_tsan_\name:
        sub rsp, FRAME
        .irp n, VECTORS
        movups [rsp + 16 * \n], xmm\n
        .endr
        .endm

        .macro end
        .irp n, VECTORS
        movups xmm\n, [rsp + 16 * \n]
        .endr
        add rsp, FRAME
        ret
        .endm

        .irp name, SOFT_TSAN_BORDERS
        begin \name
        call __tsan_\name@PLT
        end
        .endr

/* A report names the access's place, which is where this returns to. */
        .irp name, SOFT_TSAN_ACCESSES
        begin \name
        mov rsi, [rsp + FRAME]
        call __tsan_\name\()_pc@PLT
        end
        .endr

        .irp name, SOFT_TSAN_RANGES
        begin \name
        mov rdx, [rsp + FRAME]
        call __tsan_\name\()_pc@PLT
        end
        .endr

/* These cannot be told the place: it is that of a call around them. */
        .irp name, SOFT_TSAN_UNALIGNED, SOFT_TSAN_ATOMICS
        begin \name
        mov [rsp + 256], rdi
        mov [rsp + 264], rsi
        mov [rsp + 272], rdx
        mov [rsp + 280], rcx
        mov [rsp + 288], r8
        mov rdi, [rsp + FRAME]
        call __tsan_func_entry@PLT
        mov rdi, [rsp + 256]
        mov rsi, [rsp + 264]
        mov rdx, [rsp + 272]
        mov rcx, [rsp + 280]
        mov r8, [rsp + 288]
        call __tsan_\name@PLT
        mov [rsp + 256], rax
        call __tsan_func_exit@PLT
        mov rax, [rsp + 256]
        end
        .endr
#endif

        .section .note.GNU-stack, "", @progbits
