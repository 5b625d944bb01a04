/* Running instructions that may fault: what TRY and TRY_USER arm, and what they found. */
/*
 * TRY("insn", : out : in : clobbers) arms a resume address behind insn: an exception in it
 * is recorded in `fault` and execution goes on behind it, with the general registers and arithmetic flags as they were at the fault.
 * TRY_USER does the same in ring 3, on the same stack.
 */
#pragma once

#include "cpu.h"
#include "seg.h"

/* The last exception. */
struct fault {
    unsigned vector;
    word error, rip, cs, rflags, rsp, ss, cr2, dr6;
    word handler_rsp; /* in the handler, less what it pushed itself: the address of the frame's error code */
    word handler_ss, handler_flags;
    word reg[16]; /* by their number in encodings: AX CX DX BX SP BP SI DI R8-R15 */
};

struct trap_frame {
#ifndef __x86_64__
    word gs, fs, es, ds;
#endif
#ifdef __x86_64__
    word reg[16];
#else
    word reg[8];
#endif
    word vector, error, rip, cs, rflags;
    word rsp, ss; /* in 32-bit guests only there when the CPL changed */
};

extern volatile struct fault fault;
extern volatile unsigned fault_count; /* since the last TRY */
extern volatile word try_resume, try_sp, try_at;

/* A handler gets vectors before the recording does; NULL takes it away. */
typedef void irq_handler(struct trap_frame *);
void set_handler(unsigned vector, irq_handler *);

#ifdef __x86_64__
#define MOVW "movq"
#define SP_REG "%%rsp"
#define ENTER_USER "pushq $0x23\n\tpushq try_sp\n\tpushfq\n\tpushq $0x2b\n\tpushq $7773f\n\tiretq\n7773:\n\t"
#else
#define MOVW "movl"
#define SP_REG "%%esp"
#define ENTER_USER "pushl $0x23\n\tpushl try_sp\n\tpushfl\n\tpushl $0x1b\n\tpushl $7773f\n\tiretl\n7773:\n\t"
#endif
#define LEAVE_USER "\n\tint $0x81"

#define TRY_ARM "movl $0, fault_count\n\t" MOVW " $7770f, try_resume\n\t mov " SP_REG ", try_sp\n\t"
#define TRY_DISARM "\n7770: " MOVW " $0, try_resume\n\t"
/* In front of the instruction that is expected to fault, when it is not the first of the text; changes no flags. */
#define AT MOVW " $7772f, try_at\n7772: "

#define TRY(insn, ...) __asm__ volatile(TRY_ARM AT insn TRY_DISARM __VA_ARGS__)
#define TRY_USER(insn, ...) __asm__ volatile(TRY_ARM ENTER_USER AT insn LEAVE_USER TRY_DISARM __VA_ARGS__)

#ifdef __x86_64__
/*
 * The same in a 32-bit code segment: ring 0 and ring 3. Only the lower halves of registers are worth something then: name registers
 * literally (%%eax) or with the k modifier.
 */
#define ENTER_COMPAT "pushq $0x30\n\tpushq $7774f\n\tlretq\n\t.code32\n7774:\n\t"
#define LEAVE_COMPAT "\n\tljmp $0x08, $7775f\n\t.code64\n7775:"
#define ENTER_COMPAT_USER "pushq $0x23\n\tpushq try_sp\n\tpushfq\n\tpushq $0x1b\n\tpushq $7773f\n\tiretq\n\t.code32\n7773:\n\t"
#define AT32 "movl $7772f, try_at\n7772: "
#define TRY_COMPAT(insn, ...) __asm__ volatile(TRY_ARM ENTER_COMPAT AT32 insn LEAVE_COMPAT TRY_DISARM __VA_ARGS__)
#define TRY_COMPAT_USER(insn, ...) __asm__ volatile(TRY_ARM ENTER_COMPAT_USER AT32 insn LEAVE_USER "\n\t.code64" TRY_DISARM __VA_ARGS__)
#endif
