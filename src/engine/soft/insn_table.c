/* Which instructions C carries out, and which instruction sets the CPU model's features stand for. */
#include "engine/soft/insn_table.h"

#include "engine/soft/cpuid.h"
#include "engine/soft/sys.h"

#define ROW(mnemonic, c, handler) [ZYDIS_MNEMONIC_##mnemonic] = {INSN_##c, sys_##handler}

/* Several entries a line. */
/* clang-format off */
static const struct insn_row rows[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
    /* near control flow */
    ROW(JMP, CONTROL, jmp), ROW(CALL, CONTROL, call), ROW(RET, CONTROL, ret),
    ROW(JB, CONTROL, jcc), ROW(JBE, CONTROL, jcc), ROW(JL, CONTROL, jcc), ROW(JLE, CONTROL, jcc),
    ROW(JNB, CONTROL, jcc), ROW(JNBE, CONTROL, jcc), ROW(JNL, CONTROL, jcc), ROW(JNLE, CONTROL, jcc),
    ROW(JNO, CONTROL, jcc), ROW(JNP, CONTROL, jcc), ROW(JNS, CONTROL, jcc), ROW(JNZ, CONTROL, jcc),
    ROW(JO, CONTROL, jcc), ROW(JP, CONTROL, jcc), ROW(JS, CONTROL, jcc), ROW(JZ, CONTROL, jcc),
    ROW(LOOP, CONTROL, loop), ROW(LOOPE, CONTROL, loop), ROW(LOOPNE, CONTROL, loop),
    ROW(JCXZ, CONTROL, jrcxz), ROW(JECXZ, CONTROL, jrcxz), ROW(JRCXZ, CONTROL, jrcxz),

    /* the stack and the flags that do not ride in the host's */
    ROW(PUSH, STACK, push), ROW(POP, STACK, pop), ROW(LEAVE, STACK, leave), ROW(ENTER, STACK, enter),
    ROW(PUSHA, STACK, pusha), ROW(PUSHAD, STACK, pusha), ROW(POPA, STACK, popa), ROW(POPAD, STACK, popa),
    ROW(PUSHF, STACK, pushf), ROW(PUSHFD, STACK, pushf), ROW(PUSHFQ, STACK, pushf),
    ROW(POPF, STACK, popf), ROW(POPFD, STACK, popf), ROW(POPFQ, STACK, popf),
    ROW(CLI, SENSITIVE, cli), ROW(STI, SENSITIVE, sti), ROW(CLD, SENSITIVE, cld), ROW(STD, SENSITIVE, std),

    /* strings */
    ROW(MOVSB, STRING, movs), ROW(MOVSW, STRING, movs), ROW(MOVSD, STRING, movs), ROW(MOVSQ, STRING, movs),
    ROW(STOSB, STRING, stos), ROW(STOSW, STRING, stos), ROW(STOSD, STRING, stos), ROW(STOSQ, STRING, stos),
    ROW(LODSB, STRING, lods), ROW(LODSW, STRING, lods), ROW(LODSD, STRING, lods), ROW(LODSQ, STRING, lods),
    ROW(CMPSB, STRING, cmps), ROW(CMPSW, STRING, cmps), ROW(CMPSD, STRING, cmps), ROW(CMPSQ, STRING, cmps),
    ROW(SCASB, STRING, scas), ROW(SCASW, STRING, scas), ROW(SCASD, STRING, scas), ROW(SCASQ, STRING, scas),
    ROW(INSB, STRING, ins), ROW(INSW, STRING, ins), ROW(INSD, STRING, ins),
    ROW(OUTSB, STRING, outs), ROW(OUTSW, STRING, outs), ROW(OUTSD, STRING, outs),

    /* segments and descriptor tables */
    ROW(LDS, SENSITIVE, load_far_pointer), ROW(LES, SENSITIVE, load_far_pointer),
    ROW(LFS, SENSITIVE, load_far_pointer), ROW(LGS, SENSITIVE, load_far_pointer),
    ROW(LSS, SENSITIVE, load_far_pointer),
    ROW(RDFSBASE, SENSITIVE, rdfsbase), ROW(RDGSBASE, SENSITIVE, rdgsbase),
    ROW(WRFSBASE, SENSITIVE, wrfsbase), ROW(WRGSBASE, SENSITIVE, wrgsbase), ROW(SWAPGS, SENSITIVE, swapgs),
    ROW(LGDT, SENSITIVE, lgdt), ROW(LIDT, SENSITIVE, lidt), ROW(SGDT, SENSITIVE, sgdt), ROW(SIDT, SENSITIVE, sidt),
    ROW(LLDT, SENSITIVE, lldt), ROW(SLDT, SENSITIVE, sldt), ROW(LTR, SENSITIVE, ltr), ROW(STR, SENSITIVE, str),
    ROW(LAR, SENSITIVE, lar), ROW(LSL, SENSITIVE, lsl), ROW(VERR, SENSITIVE, verr), ROW(VERW, SENSITIVE, verw),
    ROW(ARPL, SENSITIVE, arpl),

    /* far transfers, interrupts, system calls */
    ROW(IRET, SENSITIVE, iret), ROW(IRETD, SENSITIVE, iret), ROW(IRETQ, SENSITIVE, iret),
    ROW(INT, SENSITIVE, int), ROW(INT3, SENSITIVE, int3), ROW(INT1, SENSITIVE, int1), ROW(INTO, SENSITIVE, into),
    ROW(BOUND, SENSITIVE, bound), ROW(UD0, SENSITIVE, ud), ROW(UD1, SENSITIVE, ud), ROW(UD2, SENSITIVE, ud),
    ROW(SYSCALL, SENSITIVE, syscall), ROW(SYSRET, SENSITIVE, sysret),
    ROW(SYSENTER, SENSITIVE, sysenter), ROW(SYSEXIT, SENSITIVE, sysexit),

    /* control registers and processor control */
    ROW(CLTS, SENSITIVE, clts), ROW(LMSW, SENSITIVE, lmsw), ROW(SMSW, SENSITIVE, smsw),
    ROW(INVLPG, SENSITIVE, invlpg), ROW(INVPCID, SENSITIVE, invpcid), ROW(HLT, SENSITIVE, hlt),
    ROW(PAUSE, SENSITIVE, pause),
    ROW(INVD, SENSITIVE, cache_flush), ROW(WBINVD, SENSITIVE, cache_flush),
    ROW(XGETBV, SENSITIVE, xgetbv), ROW(XSETBV, SENSITIVE, xsetbv),
    ROW(VMCALL, SENSITIVE, vmcall), ROW(VMMCALL, SENSITIVE, vmcall),
    ROW(RDMSR, SENSITIVE, rdmsr), ROW(WRMSR, SENSITIVE, wrmsr), ROW(RDTSC, SENSITIVE, rdtsc),
    ROW(RDTSCP, SENSITIVE, rdtscp), ROW(RDPID, SENSITIVE, rdpid), ROW(RDPMC, SENSITIVE, rdpmc),
    ROW(CPUID, SENSITIVE, cpuid), ROW(IN, SENSITIVE, in), ROW(OUT, SENSITIVE, out),

    /* vector state in memory */
    ROW(FXSAVE, SENSITIVE, fxsave), ROW(FXSAVE64, SENSITIVE, fxsave),
    ROW(FXRSTOR, SENSITIVE, fxrstor), ROW(FXRSTOR64, SENSITIVE, fxrstor),
    ROW(XSAVE, SENSITIVE, xsave), ROW(XSAVE64, SENSITIVE, xsave),
    ROW(XSAVEOPT, SENSITIVE, xsave), ROW(XSAVEOPT64, SENSITIVE, xsave),
    ROW(XSAVEC, SENSITIVE, xsavec), ROW(XSAVEC64, SENSITIVE, xsavec),
    ROW(XRSTOR, SENSITIVE, xrstor), ROW(XRSTOR64, SENSITIVE, xrstor),
    ROW(FNSAVE, SENSITIVE, fnsave), ROW(FRSTOR, SENSITIVE, frstor),
    ROW(FNSTENV, SENSITIVE, fnstenv), ROW(FLDENV, SENSITIVE, fldenv),
    ROW(LDMXCSR, SENSITIVE, ldmxcsr), ROW(STMXCSR, SENSITIVE, stmxcsr),
    ROW(VLDMXCSR, SENSITIVE, ldmxcsr), ROW(VSTMXCSR, SENSITIVE, stmxcsr),

    /* no form in 64-bit mode, or memory that no operand names */
    ROW(AAA, SENSITIVE, aaa), ROW(AAS, SENSITIVE, aas), ROW(AAM, SENSITIVE, aam), ROW(AAD, SENSITIVE, aad),
    ROW(DAA, SENSITIVE, daa), ROW(DAS, SENSITIVE, das), ROW(SALC, SENSITIVE, salc), ROW(XLAT, SENSITIVE, xlat),
    ROW(CLZERO, SENSITIVE, clzero),

    /* lane by lane */
    ROW(MASKMOVQ, SENSITIVE, maskmov_bytes), ROW(MASKMOVDQU, SENSITIVE, maskmov_bytes),
    ROW(VMASKMOVDQU, SENSITIVE, maskmov_bytes),
    ROW(VMASKMOVPS, SENSITIVE, maskmov), ROW(VMASKMOVPD, SENSITIVE, maskmov),
    ROW(VPMASKMOVD, SENSITIVE, maskmov), ROW(VPMASKMOVQ, SENSITIVE, maskmov),
    ROW(VGATHERDPS, SENSITIVE, gather), ROW(VGATHERDPD, SENSITIVE, gather), ROW(VGATHERQPS, SENSITIVE, gather),
    ROW(VGATHERQPD, SENSITIVE, gather), ROW(VPGATHERDD, SENSITIVE, gather), ROW(VPGATHERDQ, SENSITIVE, gather),
    ROW(VPGATHERQD, SENSITIVE, gather), ROW(VPGATHERQQ, SENSITIVE, gather),
    ROW(VSCATTERDPS, SENSITIVE, scatter), ROW(VSCATTERDPD, SENSITIVE, scatter), ROW(VSCATTERQPS, SENSITIVE, scatter),
    ROW(VSCATTERQPD, SENSITIVE, scatter), ROW(VPSCATTERDD, SENSITIVE, scatter), ROW(VPSCATTERDQ, SENSITIVE, scatter),
    ROW(VPSCATTERQD, SENSITIVE, scatter), ROW(VPSCATTERQQ, SENSITIVE, scatter),
};
/* clang-format on */

/* A register offset of BT and its kin reaches beyond the operand, which only C can follow (SDM vol. 2 BT). */
static bool is_far_bit_test(const struct insn *insn)
{
    return insn->has_mem && insn->operand_count == 2 && insn->op[1].kind == OPERAND_GPR &&
           (insn->mnemonic == ZYDIS_MNEMONIC_BT || insn->mnemonic == ZYDIS_MNEMONIC_BTS || insn->mnemonic == ZYDIS_MNEMONIC_BTR ||
            insn->mnemonic == ZYDIS_MNEMONIC_BTC);
}

static struct insn_row mov_row(const struct insn *insn)
{
    const struct insn_operand *dst = &insn->op[0];
    const struct insn_operand *src = &insn->op[1];

    if (dst->kind == OPERAND_SEG)
        return (struct insn_row){INSN_SENSITIVE, sys_mov_to_seg};
    if (src->kind == OPERAND_SEG)
        return (struct insn_row){INSN_SENSITIVE, sys_mov_from_seg};
    if (dst->kind == OPERAND_CR || src->kind == OPERAND_CR)
        return (struct insn_row){INSN_SENSITIVE, sys_mov_cr};
    if (dst->kind == OPERAND_DR || src->kind == OPERAND_DR)
        return (struct insn_row){INSN_SENSITIVE, sys_mov_dr};
    return (struct insn_row){INSN_INNOCUOUS, NULL};
}

struct insn_row insn_row(const struct insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_MOV: return mov_row(insn);
    case ZYDIS_MNEMONIC_JMP:
        if (sys_is_far(insn))
            return (struct insn_row){INSN_SENSITIVE, sys_jmp_far};
        break;
    case ZYDIS_MNEMONIC_CALL:
        if (sys_is_far(insn))
            return (struct insn_row){INSN_SENSITIVE, sys_call_far};
        break;
    case ZYDIS_MNEMONIC_RET:
        if (sys_is_far(insn))
            return (struct insn_row){INSN_SENSITIVE, sys_ret_far};
        break;
    case ZYDIS_MNEMONIC_MOVSD: /* SSE2 has instructions of the same name */
    case ZYDIS_MNEMONIC_CMPSD:
        if (insn->opcode_map != 0)
            return (struct insn_row){INSN_INNOCUOUS, NULL};
        break;
    default:
        if (is_far_bit_test(insn))
            return (struct insn_row){INSN_SENSITIVE, sys_bit_test};
    }
    return rows[insn->mnemonic];
}

/* --- features --- */

#define ALWAYS 0x7fff /* in every x86-64 CPU */
/* NOLINTNEXTLINE(bugprone-macro-parentheses): a row of the table */
#define SET(set, feature) [ZYDIS_ISA_SET_##set] = (feature) + 1
#define SET_VL(set, feature) SET(set##_128, feature), SET(set##_256, feature), SET(set##_512, feature)

/* Feature number + 1; 0 = never offered. */
/* clang-format off */
static const uint16_t set_feature[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
    SET(I86, ALWAYS), SET(I186, ALWAYS), SET(I286PROTECTED, ALWAYS), SET(I286REAL, ALWAYS), SET(I386, ALWAYS),
    SET(I486, ALWAYS), SET(I486REAL, ALWAYS), SET(PENTIUMREAL, ALWAYS), SET(PPRO, ALWAYS), SET(CMOV, X86_CMOV),
    SET(FCMOV, X86_CMOV), SET(FAT_NOP, ALWAYS), SET(PREFETCH_NOP, ALWAYS), SET(LONGMODE, X86_LM), SET(AMD, ALWAYS),
    SET(PAUSE, ALWAYS), SET(RDPMC, ALWAYS), SET(X87, X86_FPU), SET(PENTIUMMMX, X86_MMX), SET(FXSAVE, X86_FXSR),
    SET(FXSAVE64, X86_FXSR), SET(SSE, X86_SSE), SET(SSEMXCSR, X86_SSE), SET(SSE_PREFETCH, X86_SSE),
    SET(SSE2, X86_SSE2), SET(SSE2MMX, X86_SSE2), SET(SSE3, X86_SSE3), SET(SSE3X87, X86_SSE3), SET(SSSE3, X86_SSSE3),
    SET(SSSE3MMX, X86_SSSE3), SET(SSE4, X86_SSE41), SET(SSE42, X86_SSE42), SET(SSE4A, X86_SSE4A),
    SET(AES, X86_AES), SET(PCLMULQDQ, X86_PCLMULQDQ), SET(SHA, X86_SHA), SET(GFNI, X86_GFNI),
    SET(AVX, X86_AVX), SET(AVXAES, X86_AES), SET(AVX2, X86_AVX2), SET(AVX2GATHER, X86_AVX2), SET(FMA, X86_FMA),
    SET(F16C, X86_F16C), SET(AVX_GFNI, X86_GFNI), SET(VAES, X86_VAES), SET(VPCLMULQDQ, X86_VPCLMULQDQ),
    SET(AVX_VNNI, X86_AVX_VNNI), SET(BMI1, X86_BMI1), SET(BMI2, X86_BMI2), SET(LZCNT, X86_LZCNT),
    SET(POPCNT, X86_POPCNT), SET(ADOX_ADCX, X86_ADX), SET(MOVBE, X86_MOVBE), SET(CMPXCHG16B, X86_CX16),
    SET(LAHF, X86_LAHF_LM), SET(RDRAND, X86_RDRAND), SET(RDSEED, X86_RDSEED), SET(RDTSCP, X86_RDTSCP),
    SET(RDPID, X86_RDPID), SET(RDWRFSGS, X86_FSGSBASE), SET(CLFSH, X86_CLFLUSH), SET(CLFLUSHOPT, X86_CLFLUSHOPT),
    SET(CLWB, X86_CLWB), SET(CLZERO, X86_CLZERO), SET(INVPCID, X86_INVPCID), SET(XSAVE, X86_XSAVE),
    SET(XSAVEOPT, X86_XSAVEOPT), SET(XSAVEC, X86_XSAVEC),

    SET_VL(AVX512F, X86_AVX512F), SET(AVX512F_128N, X86_AVX512F), SET(AVX512F_KOP, X86_AVX512F),
    SET(AVX512F_SCALAR, X86_AVX512F), SET_VL(AVX512BW, X86_AVX512BW), SET(AVX512BW_128N, X86_AVX512BW),
    SET(AVX512BW_KOP, X86_AVX512BW), SET_VL(AVX512DQ, X86_AVX512DQ), SET(AVX512DQ_128N, X86_AVX512DQ),
    SET(AVX512DQ_KOP, X86_AVX512DQ), SET(AVX512DQ_SCALAR, X86_AVX512DQ), SET_VL(AVX512CD, X86_AVX512CD),
    SET_VL(AVX512_IFMA, X86_AVX512_IFMA), SET_VL(AVX512_VBMI, X86_AVX512_VBMI),
    SET_VL(AVX512_VBMI2, X86_AVX512_VBMI2), SET_VL(AVX512_VNNI, X86_AVX512_VNNI),
    SET_VL(AVX512_BITALG, X86_AVX512_BITALG), SET_VL(AVX512_VPOPCNTDQ, X86_AVX512_VPOPCNTDQ),
    SET_VL(AVX512_BF16, X86_AVX512_BF16), SET_VL(AVX512_GFNI, X86_GFNI), SET_VL(AVX512_VAES, X86_VAES),
    SET_VL(AVX512_VPCLMULQDQ, X86_VPCLMULQDQ),
};
/* clang-format on */

bool insn_offered(const struct soft_vm *svm, const ZydisDecodedInstruction *z)
{
    uint16_t feature = set_feature[z->meta.isa_set];

    if (z->mnemonic == ZYDIS_MNEMONIC_VMCALL || z->mnemonic == ZYDIS_MNEMONIC_VMMCALL)
        return true; /* hypercalls, of sets that are not offered otherwise */
    if (feature == ALWAYS + 1)
        return true;
    return feature && cpuid_offers(svm, (enum x86_feature)(feature - 1));
}

bool insn_is_hint(const ZydisDecodedInstruction *z)
{
    switch (z->mnemonic) {
    case ZYDIS_MNEMONIC_NOP:
    case ZYDIS_MNEMONIC_ENDBR32:
    case ZYDIS_MNEMONIC_ENDBR64:
    case ZYDIS_MNEMONIC_RDSSPD:
    case ZYDIS_MNEMONIC_RDSSPQ:
    case ZYDIS_MNEMONIC_CLDEMOTE:
    case ZYDIS_MNEMONIC_PREFETCH:
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1:
    case ZYDIS_MNEMONIC_PREFETCHT2:
    case ZYDIS_MNEMONIC_PREFETCHW:
    case ZYDIS_MNEMONIC_PREFETCHWT1: return true;
    default: return z->meta.isa_ext == ZYDIS_ISA_EXT_MPX; /* 0F 1A and 0F 1B are NOPs without MPX */
    }
}

bool insn_is_compressed(uint16_t mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_VCOMPRESSPD:
    case ZYDIS_MNEMONIC_VCOMPRESSPS:
    case ZYDIS_MNEMONIC_VPCOMPRESSB:
    case ZYDIS_MNEMONIC_VPCOMPRESSW:
    case ZYDIS_MNEMONIC_VPCOMPRESSD:
    case ZYDIS_MNEMONIC_VPCOMPRESSQ:
    case ZYDIS_MNEMONIC_VEXPANDPD:
    case ZYDIS_MNEMONIC_VEXPANDPS:
    case ZYDIS_MNEMONIC_VPEXPANDB:
    case ZYDIS_MNEMONIC_VPEXPANDW:
    case ZYDIS_MNEMONIC_VPEXPANDD:
    case ZYDIS_MNEMONIC_VPEXPANDQ: return true;
    default: return false;
    }
}

uint8_t insn_sse_unit(const ZydisDecodedInstruction *z)
{
    switch (z->mnemonic) {
    /* no vector register: SDM vol. 2 table 2-22 ff. give them no #NM */
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
    case ZYDIS_MNEMONIC_MOVNTI:
    case ZYDIS_MNEMONIC_CRC32:
    case ZYDIS_MNEMONIC_POPCNT:
    case ZYDIS_MNEMONIC_PAUSE: return UNIT_GPR;
    case ZYDIS_MNEMONIC_FISTTP: return UNIT_X87;
    default: break;
    }
    return z->meta.isa_set == ZYDIS_ISA_SET_SSE2MMX || z->meta.isa_set == ZYDIS_ISA_SET_SSSE3MMX ? UNIT_MMX : UNIT_SSE;
}
