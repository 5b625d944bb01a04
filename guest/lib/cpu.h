/* Registers, ports and instructions of the CPU as small inline functions. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uintptr_t word; /* a general register's width: 64 bits, or 32 in the *_32 guests */

#define BIT(n) (1ULL << (n))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define PAGE_SIZE 4096UL

enum {
    EXC_DE,
    EXC_DB,
    EXC_NMI,
    EXC_BP,
    EXC_OF,
    EXC_BR,
    EXC_UD,
    EXC_NM,
    EXC_DF,
    EXC_TS = 10,
    EXC_NP,
    EXC_SS,
    EXC_GP,
    EXC_PF,
    EXC_MF = 16,
    EXC_AC,
    EXC_MC,
    EXC_XM,
};

#define FLAG_CF 0x1u
#define FLAG_PF 0x4u
#define FLAG_AF 0x10u
#define FLAG_ZF 0x40u
#define FLAG_SF 0x80u
#define FLAG_TF 0x100u
#define FLAG_IF 0x200u
#define FLAG_DF 0x400u
#define FLAG_OF 0x800u
#define FLAG_IOPL 0x3000u
#define FLAG_NT 0x4000u
#define FLAG_RF 0x10000u
#define FLAG_VM 0x20000u
#define FLAG_AC 0x40000u
#define FLAG_VIF 0x80000u
#define FLAG_VIP 0x100000u
#define FLAG_ID 0x200000u
#define FLAGS_ARITH (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

#define CR0_PE 0x1u
#define CR0_MP 0x2u
#define CR0_EM 0x4u
#define CR0_TS 0x8u
#define CR0_ET 0x10u
#define CR0_NE 0x20u
#define CR0_WP 0x10000u
#define CR0_AM 0x40000u
#define CR0_NW 0x20000000u
#define CR0_CD 0x40000000u
#define CR0_PG 0x80000000u

#define CR4_TSD 0x4u
#define CR4_DE 0x8u
#define CR4_PSE 0x10u
#define CR4_PAE 0x20u
#define CR4_PGE 0x80u
#define CR4_OSFXSR 0x200u
#define CR4_OSXMMEXCPT 0x400u
#define CR4_UMIP 0x800u
#define CR4_FSGSBASE 0x10000u
#define CR4_PCIDE 0x20000u
#define CR4_OSXSAVE 0x40000u
#define CR4_SMEP 0x100000u
#define CR4_SMAP 0x200000u

#define MSR_TSC 0x10
#define MSR_APIC_BASE 0x1b
#define MSR_TSC_ADJUST 0x3b
#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_PAT 0x277
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_SFMASK 0xc0000084
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_TSC_AUX 0xc0000103

#define EFER_SCE BIT(0)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)
#define EFER_NXE BIT(11)

static inline void outb(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t v)
{
    __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}

static inline void outl(uint16_t port, uint32_t v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static inline uint32_t inl(uint16_t port)
{
    uint32_t v;
    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static inline uint64_t rdmsr(uint32_t msr)
{
    uint32_t lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
    return (uint64_t)hi << 32 | lo;
}

static inline void wrmsr(uint32_t msr, uint64_t v)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}

static inline uint64_t rdtsc(void)
{
    uint32_t lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
    return (uint64_t)hi << 32 | lo;
}

static inline uint64_t xgetbv(uint32_t n)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(n));
    return (uint64_t)hi << 32 | lo;
}

static inline void xsetbv(uint32_t n, uint64_t v)
{
    __asm__ volatile("xsetbv" : : "c"(n), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}

#define CR_ACCESS(n)                                                                                                                       \
    static inline word read_cr##n(void)                                                                                                    \
    {                                                                                                                                      \
        word v;                                                                                                                            \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(v) : : "memory");                                                                     \
        return v;                                                                                                                          \
    }                                                                                                                                      \
    static inline void write_cr##n(word v)                                                                                                 \
    {                                                                                                                                      \
        __asm__ volatile("mov %0, %%cr" #n : : "r"(v) : "memory");                                                                         \
    }
CR_ACCESS(0)
CR_ACCESS(2)
CR_ACCESS(3)
CR_ACCESS(4)
#ifdef __x86_64__
CR_ACCESS(8)
#endif

#define DR_ACCESS(n)                                                                                                                       \
    static inline word read_dr##n(void)                                                                                                    \
    {                                                                                                                                      \
        word v;                                                                                                                            \
        __asm__ volatile("mov %%dr" #n ", %0" : "=r"(v));                                                                                  \
        return v;                                                                                                                          \
    }                                                                                                                                      \
    static inline void write_dr##n(word v)                                                                                                 \
    {                                                                                                                                      \
        __asm__ volatile("mov %0, %%dr" #n : : "r"(v) : "memory");                                                                         \
    }
DR_ACCESS(0)
DR_ACCESS(1)
DR_ACCESS(2)
DR_ACCESS(3)
DR_ACCESS(6)
DR_ACCESS(7)

static inline word read_flags(void)
{
    word v;
    __asm__ volatile("pushf; pop %0" : "=r"(v) : : "memory");
    return v;
}

static inline void write_flags(word v)
{
    __asm__ volatile("push %0; popf" : : "r"(v) : "memory", "cc");
}

static inline void cli(void)
{
    __asm__ volatile("cli" : : : "memory");
}

static inline void sti(void)
{
    __asm__ volatile("sti" : : : "memory");
}

static inline void pause_cpu(void)
{
    __asm__ volatile("pause" : : : "memory");
}

static inline void invlpg(const volatile void *p)
{
    __asm__ volatile("invlpg (%0)" : : "r"(p) : "memory");
}

static inline void barrier(void)
{
    __asm__ volatile("" : : : "memory");
}

struct cpuid {
    uint32_t a, b, c, d;
};

static inline struct cpuid cpuid(uint32_t leaf, uint32_t sub)
{
    struct cpuid r;
    __asm__ volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(sub));
    return r;
}

/* Feature bits that the tests ask for: leaf, subleaf, register (0-3 = EAX-EDX), bit. */
#define FEATURE(leaf, sub, reg, bit) ((uint64_t)(leaf) << 32 | (uint64_t)(sub) << 16 | (reg) << 8 | (bit))
#define F_MONITOR FEATURE(1, 0, 2, 3)
#define F_CX16 FEATURE(1, 0, 2, 13)
#define F_PCID FEATURE(1, 0, 2, 17)
#define F_SSE42 FEATURE(1, 0, 2, 20)
#define F_X2APIC FEATURE(1, 0, 2, 21)
#define F_MOVBE FEATURE(1, 0, 2, 22)
#define F_POPCNT FEATURE(1, 0, 2, 23)
#define F_TSC_DEADLINE FEATURE(1, 0, 2, 24)
#define F_AES FEATURE(1, 0, 2, 25)
#define F_XSAVE FEATURE(1, 0, 2, 26)
#define F_AVX FEATURE(1, 0, 2, 28)
#define F_RDRAND FEATURE(1, 0, 2, 30)
#define F_PSE FEATURE(1, 0, 3, 3)
#define F_APIC FEATURE(1, 0, 3, 9)
#define F_SEP FEATURE(1, 0, 3, 11)
#define F_PGE FEATURE(1, 0, 3, 13)
#define F_FSGSBASE FEATURE(7, 0, 1, 0)
#define F_TSC_ADJUST FEATURE(7, 0, 1, 1)
#define F_BMI1 FEATURE(7, 0, 1, 3)
#define F_AVX2 FEATURE(7, 0, 1, 5)
#define F_SMEP FEATURE(7, 0, 1, 7)
#define F_BMI2 FEATURE(7, 0, 1, 8)
#define F_INVPCID FEATURE(7, 0, 1, 10)
#define F_AVX512F FEATURE(7, 0, 1, 16)
#define F_RDSEED FEATURE(7, 0, 1, 18)
#define F_ADX FEATURE(7, 0, 1, 19)
#define F_SMAP FEATURE(7, 0, 1, 20)
#define F_SHA FEATURE(7, 0, 1, 29)
#define F_AVX512BW FEATURE(7, 0, 1, 30)
#define F_AVX512VL FEATURE(7, 0, 1, 31)
#define F_UMIP FEATURE(7, 0, 2, 2)
#define F_PKU FEATURE(7, 0, 2, 3)
#define F_RDPID FEATURE(7, 0, 2, 22)
#define F_XSAVEOPT FEATURE(0xd, 1, 0, 0)
#define F_XSAVEC FEATURE(0xd, 1, 0, 1)
#define F_XGETBV1 FEATURE(0xd, 1, 0, 2)
#define F_XSAVES FEATURE(0xd, 1, 0, 3)
#define F_LAHF_LM FEATURE(0x80000001, 0, 2, 0)
#define F_SVM FEATURE(0x80000001, 0, 2, 2)
#define F_LZCNT FEATURE(0x80000001, 0, 2, 5)
#define F_SSE4A FEATURE(0x80000001, 0, 2, 6)
#define F_PDPE1GB FEATURE(0x80000001, 0, 3, 26)
#define F_RDTSCP FEATURE(0x80000001, 0, 3, 27)

bool cpu_has(uint64_t feature);
bool cpu_is_amd(void);
/* QEMU's TCG, whose known deviations test.h lets pass. */
bool cpu_is_tcg(void);
/* CR0, CR4, EFER, XCR0, debug registers and flags as every test finds them. */
void cpu_reset_controls(void);
