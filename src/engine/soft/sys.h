/* The handlers of instructions that C carries out: control flow, stack, segments, system. */
#pragma once

#include "engine/soft/soft.h"

/*
 * Every handler: SOFT_OK, SOFT_FAULT or SOFT_EXIT; on SOFT_FAULT no guest register has changed. The comment above
 * each definition names the mnemonics that it serves.
 */
#define SYS_HANDLER(name) int sys_##name(struct soft_cpu *, const struct insn *)

/*
 * A far transfer (ptr16:n, m16:n, RETF), which shares its mnemonic with the near form: JMP, CALL, RET. The handlers
 * serve both, but only the near ones are INSN_CONTROL.
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

/* --- sys_seg.c: segment registers and their bases; queries about descriptors --- */
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

/* --- sys_cr.c: control and debug registers, processor control --- */
int sys_mov_cr(struct soft_cpu *, const struct insn *);
int sys_mov_dr(struct soft_cpu *, const struct insn *);
int sys_clts(struct soft_cpu *, const struct insn *);
int sys_lmsw(struct soft_cpu *, const struct insn *);
int sys_smsw(struct soft_cpu *, const struct insn *);
int sys_invlpg(struct soft_cpu *, const struct insn *);
int sys_invpcid(struct soft_cpu *, const struct insn *);
int sys_cache_flush(struct soft_cpu *, const struct insn *);
int sys_hlt(struct soft_cpu *, const struct insn *);
int sys_pause(struct soft_cpu *, const struct insn *);
int sys_xgetbv(struct soft_cpu *, const struct insn *);
int sys_xsetbv(struct soft_cpu *, const struct insn *);
int sys_vmcall(struct soft_cpu *, const struct insn *);
int sys_undefined(struct soft_cpu *, const struct insn *);

/* Architectural writes with their checks: SOFT_OK, or SOFT_FAULT with #GP(0). For instructions and tests. */
int sys_write_cr0(struct soft_cpu *, uint64_t value);
int sys_write_cr3(struct soft_cpu *, uint64_t value);
int sys_write_cr4(struct soft_cpu *, uint64_t value);
int sys_write_efer(struct soft_cpu *, uint64_t value);

/* --- sys_msr.c --- */
int sys_rdmsr(struct soft_cpu *, const struct insn *);
int sys_wrmsr(struct soft_cpu *, const struct insn *);
int sys_rdtsc(struct soft_cpu *, const struct insn *);
int sys_rdtscp(struct soft_cpu *, const struct insn *);
int sys_rdpid(struct soft_cpu *, const struct insn *);
int sys_rdpmc(struct soft_cpu *, const struct insn *);

/* One MSR by number, without the privilege check. SOFT_OK, or SOFT_FAULT with #GP(0). */
int sys_msr_read(struct soft_cpu *, uint32_t msr, uint64_t *value);
int sys_msr_write(struct soft_cpu *, uint32_t msr, uint64_t value);

/* --- sys_cpuid.c --- */
int sys_cpuid(struct soft_cpu *, const struct insn *);

/* --- sys_io.c --- */
int sys_in(struct soft_cpu *, const struct insn *);
int sys_out(struct soft_cpu *, const struct insn *);
int sys_ins(struct soft_cpu *, const struct insn *);
int sys_outs(struct soft_cpu *, const struct insn *);

/* --- sys_string.c --- */
int sys_movs(struct soft_cpu *, const struct insn *);
int sys_stos(struct soft_cpu *, const struct insn *);
int sys_lods(struct soft_cpu *, const struct insn *);
int sys_cmps(struct soft_cpu *, const struct insn *);
int sys_scas(struct soft_cpu *, const struct insn *);

/* --- sys_fpu.c --- */
int sys_fxsave(struct soft_cpu *, const struct insn *);
int sys_fxrstor(struct soft_cpu *, const struct insn *);
int sys_xsave(struct soft_cpu *, const struct insn *);
int sys_xsavec(struct soft_cpu *, const struct insn *);
int sys_xrstor(struct soft_cpu *, const struct insn *);
int sys_fnsave(struct soft_cpu *, const struct insn *);
int sys_frstor(struct soft_cpu *, const struct insn *);
int sys_fnstenv(struct soft_cpu *, const struct insn *);
int sys_fldenv(struct soft_cpu *, const struct insn *);
int sys_ldmxcsr(struct soft_cpu *, const struct insn *);
int sys_stmxcsr(struct soft_cpu *, const struct insn *);

/* --- sys_legacy.c --- */
int sys_aaa(struct soft_cpu *, const struct insn *);
int sys_aas(struct soft_cpu *, const struct insn *);
int sys_aam(struct soft_cpu *, const struct insn *);
int sys_aad(struct soft_cpu *, const struct insn *);
int sys_daa(struct soft_cpu *, const struct insn *);
int sys_das(struct soft_cpu *, const struct insn *);
int sys_salc(struct soft_cpu *, const struct insn *);
int sys_xlat(struct soft_cpu *, const struct insn *);
int sys_bit_test(struct soft_cpu *, const struct insn *);
int sys_clzero(struct soft_cpu *, const struct insn *);

/* --- sys_lanes.c --- */
int sys_maskmov_bytes(struct soft_cpu *, const struct insn *);
int sys_maskmov(struct soft_cpu *, const struct insn *);
int sys_gather(struct soft_cpu *, const struct insn *);
int sys_scatter(struct soft_cpu *, const struct insn *);
