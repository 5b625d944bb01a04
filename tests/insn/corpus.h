/* Pieces of guest code by hand: one for each shape that the translator makes, for anywhere_test. */
#pragma once

#include <stdint.h>

/*
 * Each begins with RBX, RSI, RDI, RBP, RSP, R8, R9, R12 and R13 in the middle of memory of their own, RAX, RDX, R10, R11 and R14 with anything,
 * RCX 3 and R15 2, and ends at its UD2. Zeros lie around R13, numbers everywhere else. KERNEL_GS_BASE is R13.
 */

#define PIECE_SUPERVISOR 1
#define PIECE_32 2      /* 32-bit code */
#define PIECE_CHANGES 4 /* its own code */

struct piece {
    const char *name;
    const uint8_t *code, *end;
    unsigned flags;
};

/* clang-format off */
#define PIECES(piece) \
    piece(shared, 0,                                                                                                                       \
          "mov rax, [rbx]; add rdx, [rbx + 8]; mov [rbx + 16], rax; inc dword ptr [rbx + 24]; "                                            \
          "movzx ecx, byte ptr [rbx + 31]; mov [rbx + 40], r10; lea r14, [rbx + rcx]; cmp r14, [rbx + 48]; "                               \
          "mov r11, [rbx + 56]")                                                                                                           \
    piece(shared_moving, 0,                                                                                                                \
          "mov rax, [rsi]; add rsi, 8; mov rdx, [rsi]; sub rsi, 24; mov [rsi], rdx; mov [rsi + 32], eax; add rsi, 120; "                   \
          "mov [rsi], rax")                                                                                                                \
    piece(shared_read_then_written, 0,                                                                                                     \
          "mov rax, [rbx]; mov rdx, [rbx + 8]; mov [rbx + 8], rax; mov [rbx], rdx; xchg [rbx + 16], rax")                                  \
    piece(shared_read_first, 0,                                                                                                            \
          "cmp rax, rdx; mov r10, [rbx]; mov rax, [rbx + 8]; mov [rbx + 16], rax; setc [rbx + 25]; mov rax, [rsi + rcx * 8]; "             \
          "mov rdx, [r12 + 8]; mov [rsi + rcx * 8 + 8], rdx; mov [r12], rax; mov rdx, [r12 + 16]; adc rdx, [rbx + 32]; mov [rsi], rdx")    \
    piece(shared_read_first_behind_branches, 0,                                                                                            \
          "cmp rax, rdx; mov rax, [rbx]; jb 1f; mov [rbx + 8], rax; 1: mov rdx, [rbx + 16]; mov r10, [rsi]; mov [rsi + 8], rdx; jno 2f; "  \
          "mov [rsi + 16], rax; 2: adc rax, [rsi + 24]; mov [rbx + 24], rax; mov [rsi + 32], r10")                                         \
    piece(shared_read_first_in_a_loop, 0,                                                                                                  \
          "mov ecx, 10; 1: mov rax, [rsi]; add rax, [rdi]; add rsi, 8; add rdi, 8; mov [rdi - 8], rax; dec ecx; jnz 1b; setp [rbx]")       \
    piece(shared_read_first_on_the_stack, 0,                                                                                               \
          "pop rax; pop r10; mov rdx, [rsp + 8]; push rdx; push r10; mov [rsp - 24], rax; call 1f; mov rax, [rsp]; push 7; pop rdx; ud2; " \
          "1: pop r11; push r11; ret")                                                                                                     \
    piece(shared_read_first_of_code, PIECE_CHANGES,                                                                                        \
          "lea rdi, [rip + 1f]; mov al, [rdi + 1]; inc al; mov [rdi + 1], al; mov rcx, [rbx]; 1: mov dl, 1; mov [rsi], dl; "               \
          "lea rdi, [rip + 3f]; mov ecx, 10; 2: mov rax, [rdi]; add rax, rcx; mov [rdi + 8], rax; mov [rdi], rcx; dec ecx; jnz 2b; ud2; "  \
          "3: .quad 1, 2")                                                                                                                 \
    piece(flags_kept, 0,                                                                                                                   \
          "cmp rax, rdx; mov r10, [rbx]; mov [rsi], r10; setc al; cmovg rdx, [r8]; adc rdx, [rdi]; sbb [rbp], rdx; jc 1f; "                \
          "inc qword ptr [rbx]; 1: seto [r12]; pushfq; pop rax")                                                                           \
    piece(flags_in_part, 0,                                                                                                                \
          "stc; dec dword ptr [rsi]; rcl qword ptr [rdi], 1; inc eax; adc rdx, [rbx]; xor ecx, ecx; "                                      \
          "shl qword ptr [r12], cl; jz 1f; sar dword ptr [rbp], 3; 1: setbe [r8]; cmc; mov rax, [rbx]; rcr rax, 1; "                       \
          "bt qword ptr [rsi], 5; adc rax, 0; lahf")                                                                                       \
    piece(flags_forward, 0,                                                                                                                \
          "add rax, rdx; mov rcx, [rbx]; jz 1f; mov rcx, [rsi]; js 2f; mov [rdi], rcx; jmp 2f; 1: setc [rbp]; "                            \
          "2: setno [r8]; adc rax, 1")                                                                                                     \
    piece(stack, 0,                                                                                                                        \
          "push rax; push r10; push 5; push qword ptr [rbx]; pop rcx; pop r11; pop rdx; pop rax; push rbp; mov rbp, rsp; "                 \
          "sub rsp, 32; mov [rbp - 8], rax; mov [rsp], rdx; call 1f; leave; push rsp; pop rsp; push -70000; pop r9; ud2; "                 \
          "1: mov rax, [rsp]; ret")                                                                                                        \
    piece(stack_pointer_late, 0,                                                                                                           \
          "push rax; push r10; mov rax, [r13 + 8]; sub rsp, 24; mov eax, 100; mov [rsp + 8], rdx; xor edx, edx; div qword ptr [r13]; "     \
          "push rax; mov r11, [rsp + 16]; cqo; idiv qword ptr [r13 + 24]; add rsp, 24; lea rdx, [rsp + 8]; pop rcx; inc rcx; call 1f; "    \
          "cmp rcx, rax; pop r9; sub rsp, 8; setc [rsp]; pop rax; ud2; "                                                                   \
          "1: push rbx; push rsp; push rbp; sub rsp, 64; mov [rsp + 48], rcx; mov rbx, rsp; add rsp, 72; pop rbp; pop rbx; "               \
          "cmp rbx, rsp; ret 8")                                                                                                           \
    piece(stack_unshared, 0,                                                                                                               \
          "push rax; mov [rbx], rcx; push r11; mov rdx, [rsi]; pop r14; mov [rdi], r14; pop r10; push qword ptr [r9]")                     \
    piece(as_long_as_a_block_can_be, 0,                                                                                                    \
          "cmp rax, rdx; .rept 31; lea r14, [r14 + 1]; .endr; .rept 32; rep movsw; .endr; .rept 8; adc rax, 1; .endr; mov [rbx], rax")     \
    piece(calls, 0,                                                                                                                        \
          "call 1f; call 1f; cmp rax, rdx; call 1f; ud2; 1: adc [rbx], rax; ret")                                                          \
    piece(calls_deep, 0,                                                                                                                   \
          "mov eax, 4; call 1f; ud2; 1: push rax; dec eax; jz 2f; call 1b; 2: pop rdx; add [rbx], rdx; ret")                               \
    piece(returns_with_more, 0,                                                                                                            \
          "push 1; push 2; call 1f; mov [rsi], rax; ud2; 1: mov rax, [rsp + 8]; ret 16")                                                   \
    piece(jumps_anywhere, 0,                                                                                                               \
          "lea rax, [rip + 1f]; cmp rdx, rcx; jmp rax; ud2; 1: setl [rbx]; lea r10, [rip + 2f]; call r10; mov [rsi], r10; "                \
          "call qword ptr [rsi]; lea rdx, [rip + 3f]; push rdx; ret; 2: inc dword ptr [rdi]; ret; 3: mov [rdi + 8], rdx; "                 \
          "lea r11, [rip + 4f]; mov [r9], r11; jmp qword ptr [r9]; ud2; 4: nop")                                                           \
    piece(calls_through_memory, 0,                                                                                                         \
          "lea rax, [rip + 1f]; mov [rsi], rax; push rcx; cmp rdx, rcx; push rax; call qword ptr [rsi]; setl [rbx]; pop rcx; and rcx, rdx; "\
          "call qword ptr [rsp - 32]; ud2; 1: lea r14, [r14 + 3]; mov [rsp - 16], rax; call 2f; 2: pop rdi; ret")                          \
    piece(jumps_followed, 0,                                                                                                               \
          "cmp rax, rdx; mov rcx, [rbx]; push rcx; jmp 1f; ud2; 2: adc rax, [rbx + 16]; push rax; jmp 3f; ud2; "                           \
          "1: mov [rbx + 8], rcx; mov r10, [rsi]; jmp 2b; 3: setc [rdi]; pop rdx; pop r11; mov ecx, 6; "                                   \
          "4: mov rax, [rsi]; jmp 5f; 6: dec ecx; jnz 4b; jmp 7f; 5: add [rdi + 8], rax; jmp 6b; 7: jmp 8f; 8: jmp 9f; 9: adc rax, rcx")   \
    piece(loop, 0,                                                                                                                         \
          "mov ecx, 5; 1: add rax, [rbx]; mov [rsi], rax; add rsi, 8; dec ecx; jnz 1b; mov [rdi], rax")                                    \
    piece(loop_with_flags, 0,                                                                                                              \
          "mov ecx, 6; clc; 1: adc rax, [rbx]; lea rbx, [rbx + 8]; dec rcx; jnz 1b; setc [rsi]")                                           \
    piece(loop_of_blocks, 0,                                                                                                               \
          "mov ecx, 6; 1: test cl, 1; jz 2f; add [rbx], rcx; jmp 3f; 2: sub [rsi], rcx; 3: mov [rdi], rax; sub rcx, 1; "                   \
          "jnc 1b")                                                                                                                        \
    piece(loops_that_last, 0,                                                                                                              \
          "mov ecx, 27; 1: add [rbx], rcx; dec ecx; jnz 1b; mov ecx, 14; 2: test cl, 1; jz 3f; add [rsi], rcx; jmp 4f; "                   \
          "3: sub [rsi], rcx; 4: sub rcx, 1; jnz 2b; lea rax, [rip + 5f]; mov ecx, 13; "                                                   \
          "5: dec ecx; jz 6f; mov [rdi], ecx; jmp rax; 6: nop")                                                                            \
    piece(loops_of_step, 0,                                                                                                                \
          "mov ecx, 3; 1: inc qword ptr [rbx]; loop 1b; jrcxz 2f; ud2; 2: mov rdx, [rsi]; cmp rdx, [rdi]; jae 3f; nop; "                   \
          "3: mov [rsi], rax")                                                                                                             \
    piece(rep_movs, 0,                                                                                                                     \
          "cmp rax, rdx; mov ecx, 9; rep movsq; setc al; mov ecx, 30; rep movsb; lea rsi, [rbx]; mov ecx, 5; rep movsd; "                  \
          "mov ecx, 3; rep movsw; mov rax, [rdi - 8]")                                                                                     \
    piece(rep_stos, 0,                                                                                                                     \
          "sub rax, rdx; mov ecx, 9; rep stosq; mov ecx, 21; rep stosb; mov ecx, 4; rep stosd; jo 1f; stc; 1: mov ecx, 0; "                \
          "rep stosb; rcl dword ptr [rbx], 1; inc rdi; mov ecx, 3; rep stosd; mov rax, [rdi - 8]")                                         \
    piece(rep_down, 0,                                                                                                                     \
          "std; mov ecx, 5; rep movsq; mov ecx, 3; rep stosb; cld; movsb; lodsq; stosd; scasb; cmpsd")                                     \
    piece(rep_overlaps, 0,                                                                                                                 \
          "lea rdi, [rsi + 1]; mov ecx, 40; rep movsb; mov rax, [rsi]; mov [rbx], rax")                                                    \
    piece(rep_scans, 0,                                                                                                                    \
          "mov rdi, r13; mov al, 1; mov ecx, 20; repne scasb; mov [rbx], rcx; mov ecx, 9; repe cmpsq; pushfq; pop rdx")                    \
    piece(high_bytes, 0,                                                                                                                   \
          "mov [rbx], ah; mov [rsi + 1], dh; mov [rdi + 2], ch; mov bh, [rsi + 3]; mov dh, [rsi]; add [rdi], ah; "                         \
          "mov ah, [rbp]; mov [rbp + 7], dh; cmp ah, [rsi]; mov [rdi + 9], bh; movzx eax, ah")                                             \
    piece(unaligned, 0,                                                                                                                    \
          "mov rax, [rbx + 1]; add dword ptr [rsi + 3], 7; mov [rdi + 5], ax; movups xmm1, [rbp + 9]; "                                    \
          "movups [r8 + 3], xmm1; cmp rdx, [r12 + 7]; jb 1f; push qword ptr [r9 + 1]; 1: adc [r13 + 2], rdx")                              \
    piece(locked, 0,                                                                                                                       \
          "lock xadd [rsi], rax; xchg [rdi], rdx; lock cmpxchg [rbx], rcx; setz [rbp]; lock inc dword ptr [r8]; "                          \
          "lock bts dword ptr [r12],3; setc [r9]; mov rbx, rcx; cmpxchg8b [rsi]; lock xadd [r9], r10; mfence")                             \
    piece(homeless, 0,                                                                                                                     \
          "mov rax, [r9 + 8]; mov [r9], r10; add r11, [r9 + r15 * 8]; lea r10, [r9 + r11 * 2 + 5]; xadd [r9 + 24], r10; "                  \
          "adc r10, r11; imul r11, [rbx], 77; shld [rsi], r10, 5; bswap r11; cmovc r10, [rdi]; movnti [r9 + 32], r11; "                    \
          "andn r10, r11, [rbp]; mulx r10, r11, [rsi]; shlx r11, [r8], r10")                                                               \
    piece(homeless_loaded, 0,                                                                                                              \
          "lea rax, [rbx - 0x10004000]; mov [rdi + 48], rax; lea rax, [rsi - 0x10006000]; mov [rdi + 56], rax; "                           \
          "lea rax, [rbp - 0x1000a000]; mov [rdi + 64], rax; jmp 1f; 1: mov r9, [rdi + 48]; mov rax, [r9 + 0x10004028]; jmp 2f; "          \
          "2: mov r10, [rdi + 56]; mov [r10 + 0x10006028], rdx; jmp 3f; 3: mov r11, [rdi + 64]; add [r11 + 0x1000a008], rax; "             \
          "mov r11, [r8]")                                                                                                                 \
    piece(homeless_loaded_together, 0,                                                                                                     \
          "mov [rdi + 48], rbx; mov [rdi + 56], rsi; mov [rdi + 64], rbp; mov r9, [rdi + 48]; mov rax, [r9 + 40]; "                        \
          "mov r10, [rdi + 56]; mov [r10 + 40], rax; mov r11, [rdi + 64]; xadd [r11 + 8], rdx")                                            \
    piece(homeless_computed, 0,                                                                                                            \
          "lea r9, [rbx + 8]; mov rax, [r9 + 16]; mov r10, rsi; mov [r10 + 8], rax; lea r11, [rbp + rcx * 8]; movups xmm1, [r11 + 8]; "    \
          "mov r9, rdi; add r9, 16; cmp dword ptr [r9 + 4], 7; setc al; lea r10, [r8 + 8]; lea r11, [r13 + 24]; "                          \
          "push qword ptr [r10 + 8]; adc rax, [r11 + 8]")                                                                                  \
    piece(homeless_index, 0,                                                                                                               \
          "mov edx, 64; mov r9, rbx; mov rax, [rdx + r9 * 1]; lea r10, [rsi + 8]; mov [r10 * 1 + 16], rax; lea r11, [rdi - 1]; "           \
          "imul rdx, rdi, -7; add rdx, 8; add [rdx + r11 * 8], rax; mov r9, r12; lea r10, [rcx + 1]; mov rdx, [r9 + r10 * 8]; "            \
          "lea r11, [rcx + 2]; mov r10, rbp; mov [r10 + r11 * 8], r10")                                                                    \
    piece(homeless_among_shared, 0,                                                                                                        \
          "lea r9, [rbp + 8]; mov rax, [rbx]; add rdx, [rbx + 8]; add rdx, r9; mov rax, [rsi + rcx * 8]; mov r10, [r12]; "                 \
          "add rdx, [rsi + rcx * 8 + 8]; add rdx, r10; mov r11, rbp; add rax, [rsi + rcx * 8 + 16]; add rdx, r11; "                        \
          "mov r10, [r12 + 0x800]; add rax, [rbx + 16]; add rdx, r10; mov r9, rdx; add r9, [rdi]; add r9, [rdi + 8]; lea r10, [rbp + 8]; " \
          "mov [r8 + r15 * 8], rax; mov [r8 + r15 * 8 + 8], rdx; mov [r10 + 16], r9")                                                      \
    piece(homeless_in_loops, 0,                                                                                                            \
          "mov ecx, 10; 1: add r9, 0x100; mov rax, [r9 + 8]; dec ecx; jnz 1b; lea r10, [rsi + 8]; mov ecx, 10; 2: mov [r10 + 16], rcx; "   \
          "lea r10, [r10 + 0x100]; dec ecx; jnz 2b; mov r11, rdi; mov ecx, 10; 3: add [r11 + 8], rax; lea r11, [r11 + 0x100]; "            \
          "dec ecx; jnz 3b")                                                                                                               \
    piece(homeless_chased, PIECE_SUPERVISOR,                                                                                               \
          "lea rdx, [rsi - 0x10006000]; mov [rbx], rdx; lea rdx, [rdi - 0x10006000]; mov [rsi], rdx; lea rdx, [rbp - 0x10006000]; "        \
          "mov [rdi], rdx; mov [rbp], r15; lea r9, [rbx - 0x10006000]; mov rax, cr3; mov cr3, rax; mov ecx, 4; "                           \
          "1: mov r9, [r9 + 0x10006000]; dec ecx; jnz 1b; mov [rbx + 8], rsi; mov [rsi + 8], rdi; mov [rdi + 8], rbp; "                    \
          "mov cr3, rax; mov r10, rbx; mov ecx, 4; 2: mov r11, r10; mov r10, [r11 + 8]; dec ecx; jnz 2b")                                  \
    piece(vectors, 0,                                                                                                                      \
          "movups xmm0, [rbx]; paddq xmm0, xmm1; movups [rsi], xmm0; cvtsi2sd xmm2, rax; ucomisd xmm2, [rdi]; ja 1f; "                     \
          "movq [rbp], xmm2; 1: movmskps eax, xmm0; pinsrw xmm3, [r8], 2; movd r10d, xmm3; mov [r12], r10d; "                              \
          "pshufb xmm0, xmm3; movlps [r9], xmm0")                                                                                          \
    piece(x87, 0,                                                                                                                          \
          "fninit; fild qword ptr [rbx]; fadd dword ptr [r13]; fistp dword ptr [rsi]; fild word ptr [rdi]; "                               \
          "fstp tbyte ptr [rbp]; fnstcw [r8]; fldcw [r8]; fnstsw ax; mov [r12], ax")                                                       \
    piece(divides, 0,                                                                                                                      \
          "mov eax, 100; xor edx, edx; cmp ecx, 7; div qword ptr [rbx]; mov [rsi], rax; stc; adc rax, [r8]; xor edx, edx; "                \
          "div qword ptr [r13]")                                                                                                           \
    piece(long_one, 0,                                                                                                                     \
          "xor eax, eax; .rept 70; adc rax, [rbx + 8]; .endr; setc [rsi]; mov [rdi], rax")                                                 \
    piece(at_constants, 0,                                                                                                                 \
          "mov rax, [rip + 1f]; add rax, [rip + 2f]; mov [0x10004010], rax; add edx, [0x10006018]; jmp 3f; 1: .quad 3; "                   \
          "2: .quad 9; 3: mov [rbx], edx; lea rdx, [0x1000a000]; mov rax, [rdx + rcx * 8]; mov rax, [rdx * 1 + 0x1005]")                   \
    piece(step_within, 0,                                                                                                                  \
          "cmp rax, rdx; mov rcx, [rbx]; xlatb; setc [rsi]; mov [rdi], fs; enter 16, 0; leave; bts [rbp], r15; sbb rax, 0; "               \
          "mov [r8], rax; sfence; mov ax, [r9]")                                                                                           \
    piece(changes_itself, PIECE_CHANGES,                                                                                                   \
          "mov byte ptr [rip + 1f + 1], 5; mov rdx, [rbx]; 1: mov al, 1; mov [rsi], al; mov ecx, 3; "                                      \
          "2: inc byte ptr [rip + 3f + 2]; mov [rdi], ecx; 3: mov byte ptr [rbx], 1; dec ecx; jnz 2b")                                     \
    piece(not_canonical, 0,                                                                                                                \
          "mov r14, 0x8000000010004000; cmp rax, rdx; mov rcx, [rbx]; mov [rsi], rcx; mov rdx, [r14]; setc [rdi]; "                        \
          "cmovo rcx, rdx; mov r14, 0x8000000010004000; sub ecx, edx; movups xmm1, [rbp]; movups [r14 + 8], xmm1; adc rcx, [rbx]")         \
    piece(not_canonical_strings, 0,                                                                                                        \
          "mov rsi, 0x8000000010004000; mov ecx, 20; add rax, rdx; mov rax, [rbx]; rep movsb; setc [rbx]; mov rdi, 0x8000000010004000; "   \
          "mov ecx, 4; rep stosq; seto [rbx + 1]; mov rax, [r8]")                                                                          \
    piece(call_to_nowhere, 0,                                                                                                              \
          "mov r14, 0x8000000010004000; mov rax, [rbx]; stc; call r14")                                                                    \
    piece(call_to_nowhere_shared, 0,                                                                                                       \
          "mov r14, 0x8000000010004000; push rax; push rdx; call r14")                                                                     \
    piece(call_to_nowhere_through_stack, 0,                                                                                                \
          "mov rax, 0x8000000010004000; mov [rsp - 8], rax; call qword ptr [rsp - 8]")                                                     \
    piece(return_to_nowhere, 0,                                                                                                            \
          "mov rax, 0x8000000010004000; push rax; mov rdx, [rbx]; ret")                                                                    \
    piece(return_to_nowhere_with_more, 0,                                                                                                  \
          "mov rax, 0x8000000010004000; push rax; add rax, rdx; ret 24")                                                                   \
    piece(jump_to_nowhere, 0,                                                                                                              \
          "mov r14, 0x8000000010004000; mov rax, [rbx]; cmp rax, rdx; jmp r14")                                                            \
    piece(jump_to_nowhere_through_memory, 0,                                                                                               \
          "mov r10, 0x8000000010004000; mov [rsi], r10; sub rax, rdx; jmp qword ptr [rsi]")                                                \
    piece(interrupt_flag, PIECE_SUPERVISOR,                                                                                                \
          "cli; mov [rbx], rax; add rax, rdx; sti; mov [rsi], rdx; setc [rdi]; pushfq; cli; popfq; jo 1f; nop; 1: cli; "                   \
          "pushfq; and qword ptr [rsp], -0x201; popfq; mov rax, [rbx]; push 0x202; popfq; nop; cli; push 0x202; popfq; "                   \
          "mov [rbp], rax; jmp 2f; 2: cli; jmp 3f; 3: sti; jmp 4f; 4: mov rcx, [r8]; pushfq; pop rdx")                                     \
    piece(interrupts_on_at_the_end, PIECE_SUPERVISOR,                                                                                      \
          "cli; .rept 62; nop; .endr; sti; mov [rbx], rax; mov ecx, 3; 1: cli; inc qword ptr [rsi]; sti; dec ecx; jnz 1b; "                \
          "cli; sti; sti; mov [rdi], rcx; cli; call 2f; mov [rsi], rax; ud2; 2: sti; ret")                                                 \
    piece(interrupts_off_in_a_loop, PIECE_SUPERVISOR,                                                                                      \
          "mov ecx, 4; 1: pushfq; cli; add [rbx], rcx; popfq; dec ecx; jnz 1b; cli; mov [rsi], ecx; sti; nop; "                            \
          "mov [rdi], ecx")                                                                                                                \
    piece(interrupt_waits_for_sti, PIECE_SUPERVISOR,                                                                                       \
          "cli; mov ecx, 3; 1: inc qword ptr [rbx]; dec ecx; jnz 1b; add rax, rdx; sti; setc [rsi]; mov ecx, 4; "                          \
          "2: inc qword ptr [rdi]; dec ecx; jnz 2b")                                                                                       \
    piece(interrupts_on_before_accesses_in_two_pages, PIECE_SUPERVISOR,                                                                    \
          "cli; mov r8, rsp; and r8, -4096; mov [rsi], rax; sti; mov [r8 - 8], rax; mov [r8 + 8], rdx; mov [rsi + 8], rdx; "               \
          "lea rsp, [r8 + 16]; cli; sti; push rax; push rdx; push rcx; cli; sti; pop r10; pop r11; mov [rsi + 16], r11")                   \
    piece(interrupt_waits_for_popf, PIECE_SUPERVISOR,                                                                                      \
          "pushfq; cli; mov ecx, 3; 1: inc qword ptr [rbx]; dec ecx; jnz 1b; add rax, rdx; popfq; setc [rsi]; "                            \
          "mov ecx, 4; 2: inc qword ptr [rdi]; dec ecx; jnz 2b")                                                                           \
    piece(gs_swapped, PIECE_SUPERVISOR,                                                                                                    \
          "swapgs; mov rax, gs:[8]; mov gs:[16], rdx; cmp rax, rdx; swapgs; setc [rbx]; swapgs; "                                          \
          "inc qword ptr gs:[rcx * 8]; swapgs; call 1f; mov [rsi], rax; ud2; 1: swapgs; push qword ptr gs:[24]; swapgs; "                  \
          "pop rax; ret")                                                                                                                  \
    piece(registers_of_control, PIECE_SUPERVISOR,                                                                                          \
          "mov rax, cr3; add rdx, rax; mov cr3, rax; setc [rbx]; invlpg [rsi]; mov [rsi], rdx; clts; mov rax, cr4; "                       \
          "mov [rdi], rax; std; mov rax, [rbp]; cld; mov rax, cr0; mov cr0, rax; mov [r8], rax")

#define PIECES_32(piece) \
    piece(code_32_flags, PIECE_32,                                                                                                         \
          "cmp eax, ecx; mov edx, [ebx]; mov [esi], edx; setl [edi]; adc edx, [ebp]; stc; dec dword ptr [esi]; rcl dword ptr [edi], 1; "   \
          "jo 1f; mov dl, ah; 1: sbb [ebp + 8], dh; pushfd; popfd; cmovs eax, [ebx + 4]; das; xchg [esi + 4], eax")                        \
    piece(code_32_jumps, PIECE_32,                                                                                                         \
          "call 1f; 1: pop eax; add eax, 2f - 1b; cmp ecx, 2; jmp eax; ud2; 2: seta [ebx]; add eax, 3f - 2b; call eax; mov [esi], eax; "   \
          "add eax, 4f - 3f; mov [edi], eax; jmp dword ptr [edi]; ud2; 3: inc dword ptr [esi + 8]; ret 0; 4: push edx; "                   \
          "call 5f; pop ecx; mov [ebp], ecx; ud2; 5: adc dword ptr [esp + 4], 7; ret")                                                     \
    piece(code_32_loop, PIECE_32,                                                                                                          \
          "mov ecx, 5; clc; 1: adc eax, [ebx]; mov [esi], eax; lea ebx, [ebx + 4]; lea esi, [esi + 8]; dec ecx; jnz 1b; setc [edi]; "      \
          "movups xmm1, [ebp + 3]; movups [edi + 5], xmm1; mov edi, [esp]; add edx, fs:[ebp]; mov gs:[ebp + 4], edx; rep stosb")           \
    piece(code_32, PIECE_32,                                                                                                               \
          "push eax; inc ecx; dec edx; add [ebx], eax; mov edx, [esi + 4]; call 1f; pop ecx; push dword ptr [edi]; "                       \
          "pop dword ptr [ebp]; jmp 2f; 1: cmp eax, ecx; mov [edi], ecx; setc [edi]; ret; 2: mov ecx, 4; "                                 \
          "3: adc eax, [ebx]; lea ebx, [ebx + 4]; dec ecx; jnz 3b; mov [esi], ah; mov ecx, 5; rep stosd; "                                 \
          "mov eax, [0x10004018]; pushfd; pop eax; push ebp; mov ebp, esp; leave")
/* clang-format on */

/* The assembler makes the bytes. */
#define PIECE_CODE(bits, name, code)                                                                                                       \
    extern const uint8_t piece_##name[], piece_##name##_end[];                                                                             \
    __asm__(".pushsection .rodata\n.intel_syntax noprefix\n.code" #bits "\npiece_" #name ": " code "; ud2\npiece_" #name                   \
            "_end: .byte 0\n.code64\n.att_syntax prefix\n.popsection");
#define PIECE_CODE_64(name, flags, code) PIECE_CODE(64, name, code)
#define PIECE_CODE_32(name, flags, code) PIECE_CODE(32, name, code)
#define PIECE_ENTRY(name, flags, code) {#name, piece_##name, piece_##name##_end, flags},

PIECES(PIECE_CODE_64)
PIECES_32(PIECE_CODE_32)

static const struct piece corpus[] = {PIECES(PIECE_ENTRY) PIECES_32(PIECE_ENTRY)};
