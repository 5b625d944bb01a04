/* Into guest code and out of it: host registers for guest registers, and back. */
#include "engine/soft/ctx.h"

        .intel_syntax noprefix
        .text

        .macro push_callee_saved
        push rbx
        push rbp
        push r12
        push r13
        push r14
        push r15
        .endm

        .macro pop_callee_saved
        pop r15
        pop r14
        pop r13
        pop r12
        pop rbp
        pop rbx
        .endm

        /* Arithmetic flags from the RFLAGS image; clobbers rax. SAHF gives SF ZF AF PF CF, an addition that overflows OF. */
        .macro load_flags
        mov rax, [rsp + CTX_RFLAGS]
        mov ah, al
        bt qword ptr [rsp + CTX_RFLAGS], 11
        setc al
        add al, 0x7f
        sahf
        .endm

        /* And back into the image; rax and rcx are already saved. */
        .macro store_flags
        lahf
        seto al
        movzx ecx, ah
        movzx eax, al
        and ecx, 0xd5
        shl eax, 11
        or ecx, eax
        mov rax, [rsp + CTX_RFLAGS]
        and rax, ~0x8d5
        or rax, rcx
        mov [rsp + CTX_RFLAGS], rax
        .endm

        .macro load_common
        mov rax, [rsp + CTX_GPR(0)]
        mov rcx, [rsp + CTX_GPR(1)]
        mov rdx, [rsp + CTX_GPR(2)]
        mov rbx, [rsp + CTX_GPR(3)]
        mov rbp, [rsp + CTX_GPR(5)]
        mov rsi, [rsp + CTX_GPR(6)]
        mov rdi, [rsp + CTX_GPR(7)]
        mov r8, [rsp + CTX_GPR(8)]
        mov r12, [rsp + CTX_GPR(12)]
        mov r13, [rsp + CTX_GPR(13)]
        mov r14, [rsp + CTX_GPR(14)]
        mov r15, [rsp + CTX_GPR(15)]
        .endm

        .macro store_common
        mov [rsp + CTX_GPR(0)], rax
        mov [rsp + CTX_GPR(1)], rcx
        mov [rsp + CTX_GPR(2)], rdx
        mov [rsp + CTX_GPR(3)], rbx
        mov [rsp + CTX_GPR(5)], rbp
        mov [rsp + CTX_GPR(6)], rsi
        mov [rsp + CTX_GPR(7)], rdi
        mov [rsp + CTX_GPR(8)], r8
        mov [rsp + CTX_GPR(12)], r12
        mov [rsp + CTX_GPR(13)], r13
        mov [rsp + CTX_GPR(14)], r14
        mov [rsp + CTX_GPR(15)], r15
        .endm

        .macro function name
        .globl \name
        .type \name, @function
        .p2align 4
\name:
        .endm

/*
 * int switch_to_stub(struct soft_cpu *cpu, const void *stub)
 * Runs one instruction's stub with every guest register but RSP in its own host register.
 * Returns 0, or 1 when it faulted (recover.c then filled in cpu->host_fault).
 */
function switch_to_stub
        push_callee_saved
        lea rax, [rdi + CTX_BIAS]
        mov [rax + CTX_HOST_RSP], rsp
        mov [rax + CTX_ENTRY], rsi
        mov rsp, rax
        load_flags
        load_common
        mov r9, [rsp + CTX_GPR(9)]
        mov r10, [rsp + CTX_GPR(10)]
        mov r11, [rsp + CTX_GPR(11)]
        jmp [rsp + CTX_ENTRY]

function switch_stub_done
        store_common
        mov [rsp + CTX_GPR(9)], r9
        mov [rsp + CTX_GPR(10)], r10
        mov [rsp + CTX_GPR(11)], r11
        store_flags
        xor eax, eax
        mov rsp, [rsp + CTX_HOST_RSP]
        pop_callee_saved
        ret

/* The stub faulted: the instruction did not happen, so nothing is stored. */
function switch_stub_fault
        mov eax, 1
        mov rsp, [rsp + CTX_HOST_RSP]
        pop_callee_saved
        ret

/*
 * void switch_to_code(struct soft_cpu *cpu, const void *code)
 * Runs translated code: guest RSP in r11; R9, R10 and R11 in the context; r9 and r10 are the code's own.
 * Why it came back is in the slot CTX_EXIT.
 */
function switch_to_code
        push_callee_saved
        lea rax, [rdi + CTX_BIAS]
        mov [rax + CTX_HOST_RSP], rsp
        mov [rax + CTX_ENTRY], rsi
        mov rsp, rax
        load_flags
        load_common
        mov r11, [rsp + CTX_GPR(4)]
        mov r9, [rsp + CTX_TEMP]
        jmp [rsp + CTX_ENTRY]

/* Where translated code leaves, with CTX_EXIT filled; r9 is handed over in CTX_TEMP. */
function switch_code_exit
        store_common
        mov [rsp + CTX_GPR(4)], r11
        mov [rsp + CTX_TEMP], r9
        store_flags
        mov rsp, [rsp + CTX_HOST_RSP]
        pop_callee_saved
        ret

/* void switch_xsave(void *image, uint64_t mask), void switch_xrstor(const void *image, uint64_t mask) */
function switch_xsave
        mov eax, esi
        mov rdx, rsi
        shr rdx, 32
        xsave64 [rdi]
        ret

function switch_xrstor
        mov eax, esi
        mov rdx, rsi
        shr rdx, 32
        xrstor64 [rdi]
        ret

        .section .note.GNU-stack, "", @progbits
