/* The handlers of instructions that C carries out: control flow, stack, segments, far transfers, and the system's. */
#pragma once

#include "engine/soft/soft.h"

/*
 * Every handler: SOFT_OK, SOFT_FAULT or SOFT_EXIT; on SOFT_FAULT no guest register has changed. The comment above each
 * definition names the mnemonics that it serves.
 */
#define SYS_HANDLER(name) int sys_##name(struct soft_cpu *, const struct insn *)

/*
 * A far transfer (ptr16:n, m16:n, RETF), which shares its mnemonic with the near form: JMP, CALL, RET. The handlers serve
 * both, but only the near ones are INSN_CONTROL.
 */
static inline bool sys_is_far(const struct insn *insn)
{
    unsigned reg = insn->modrm >> 3 & 7;

    if (insn->opcode_map != 0)
        return false;
    switch (insn->opcode) {
    case 0x9a:
    case 0xca:
    case 0xcb:
    case 0xea: return true;
    case 0xff: return reg == 3 || reg == 5;
    default: return false;
    }
}

/* --- sys_control.c: near control flow --- */
SYS_HANDLER(jmp); /* near; a far one goes to sys_jmp_far */
SYS_HANDLER(jcc);
SYS_HANDLER(call);
SYS_HANDLER(ret);
SYS_HANDLER(loop);
SYS_HANDLER(jrcxz);

/* --- sys_stack.c --- */
SYS_HANDLER(push);
SYS_HANDLER(pop);
SYS_HANDLER(pusha);
SYS_HANDLER(popa);
SYS_HANDLER(pushf);
SYS_HANDLER(popf);
SYS_HANDLER(enter);
SYS_HANDLER(leave);
SYS_HANDLER(cli);
SYS_HANDLER(sti);
SYS_HANDLER(cld);
SYS_HANDLER(std);

/* --- sys_seg.c: segment registers and descriptor tables --- */
SYS_HANDLER(mov_to_seg);
SYS_HANDLER(mov_from_seg);
SYS_HANDLER(load_far_pointer);
SYS_HANDLER(rdfsbase);
SYS_HANDLER(rdgsbase);
SYS_HANDLER(wrfsbase);
SYS_HANDLER(wrgsbase);
SYS_HANDLER(swapgs);
SYS_HANDLER(lgdt);
SYS_HANDLER(lidt);
SYS_HANDLER(sgdt);
SYS_HANDLER(sidt);
SYS_HANDLER(lldt);
SYS_HANDLER(sldt);
SYS_HANDLER(ltr);
SYS_HANDLER(str);
SYS_HANDLER(lar);
SYS_HANDLER(lsl);
SYS_HANDLER(verr);
SYS_HANDLER(verw);
SYS_HANDLER(arpl);

/* --- sys_far.c: far transfers, interrupts by instruction, system calls --- */
SYS_HANDLER(jmp_far);
SYS_HANDLER(call_far);
SYS_HANDLER(ret_far);
SYS_HANDLER(iret);
SYS_HANDLER(int);
SYS_HANDLER(int3);
SYS_HANDLER(int1);
SYS_HANDLER(into);
SYS_HANDLER(bound);
SYS_HANDLER(ud);
SYS_HANDLER(syscall);
SYS_HANDLER(sysret);
SYS_HANDLER(sysenter);
SYS_HANDLER(sysexit);

/* --- sys_cr.c, sys_msr.c, sys_cpuid.c, sys_io.c, sys_string.c, sys_fpu.c, sys_legacy.c --- */
