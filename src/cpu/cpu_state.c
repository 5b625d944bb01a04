/* The states in which a CPU starts: after RESET, and as the boot protocols want it. */
#include "cpu/cpu_state.h"

#include <string.h>

#define TYPE_DATA 3  /* read/write, accessed */
#define TYPE_CODE 11 /* execute/read, accessed */
#define TYPE_LDT 2
#define TYPE_TSS_BUSY 11
#define FLAT_LIMIT 0xffffffffu
#define SEL_CODE 0x10
#define SEL_DATA 0x18

#define PAT_RESET 0x0007040600070406ULL /* SDM vol. 3 11.12.4 */
#define APIC_BASE_RESET 0xfee00900ULL   /* enabled, boot processor (SDM vol. 3 10.4.4) */
#define APIC_BASE_BSP BIT(8)
#define MISC_FAST_STRINGS BIT(0)

/* The legacy part of an XSAVE area (SDM vol. 1 13.4.1) and its header. */
#define XSAVE_FCW 0
#define XSAVE_FTW 4
#define XSAVE_MXCSR 24
#define XSAVE_XSTATE_BV 512
#define FCW_RESET 0x40
#define FTW_ALL_VALID 0xff /* the abridged form of the tag word 5555h: every register holds +0 */
#define MXCSR_RESET 0x1f80

static void put_le(uint8_t *p, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        p[i] = (uint8_t)(value >> (8 * i));
}

void cpu_state_reset(struct cpu_state *s)
{
    static const struct cpu_seg data = {.limit = 0xffff, .attr = SEG_P | SEG_S | TYPE_DATA};

    memset(s, 0, sizeof(*s));
    s->rip = 0xfff0;
    s->rflags = FLAG_ONE;
    s->gpr[GPR_RDX] = 0x600; /* a family; CPUID tells the rest */
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = data;
    s->seg[SEG_CS] = (struct cpu_seg){.base = 0xffff0000, .limit = 0xffff, .attr = SEG_P | SEG_S | TYPE_CODE, .sel = 0xf000};
    s->ldtr = (struct cpu_seg){.limit = 0xffff, .attr = SEG_P | TYPE_LDT};
    s->tr = (struct cpu_seg){.limit = 0xffff, .attr = SEG_P | TYPE_TSS_BUSY};
    s->gdtr.limit = 0xffff;
    s->idtr.limit = 0xffff;
    s->cr0 = CR0_CD | CR0_NW | CR0_ET;
    s->apic_base = APIC_BASE_RESET;
    s->xcr0 = 1; /* x87 */
    put_le(s->xsave + XSAVE_FCW, FCW_RESET, 2);
    s->xsave[XSAVE_FTW] = FTW_ALL_VALID;
    put_le(s->xsave + XSAVE_MXCSR, MXCSR_RESET, 4);
    put_le(s->xsave + XSAVE_XSTATE_BV, 3, 8); /* x87 and SSE are in the image */
    s->dr6 = DR6_FIXED;
    s->dr7 = DR7_FIXED;
    s->pat = PAT_RESET;
    s->misc_enable = MISC_FAST_STRINGS;
}

void cpu_state_reset_ap(struct cpu_state *s)
{
    cpu_state_reset(s);
    s->apic_base &= ~APIC_BASE_BSP;
    s->wait_for_sipi = true;
}

static void flat_segments(struct cpu_state *s, uint32_t code_mode)
{
    static const struct cpu_seg data = {.limit = FLAT_LIMIT, .attr = SEG_P | SEG_S | SEG_G | SEG_DB | TYPE_DATA, .sel = SEL_DATA};

    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = data;
    s->seg[SEG_CS] = (struct cpu_seg){.limit = FLAT_LIMIT, .attr = SEG_P | SEG_S | SEG_G | TYPE_CODE | code_mode, .sel = SEL_CODE};
    s->ldtr = (struct cpu_seg){.attr = SEG_UNUSABLE};
    s->tr = (struct cpu_seg){.limit = 0x67, .attr = SEG_P | TYPE_TSS_BUSY}; /* as the PVH boot protocol has it */
    s->gdtr.limit = 0;
    s->idtr.limit = 0;
    s->gpr[GPR_RDX] = 0;
}

void cpu_state_flat32(struct cpu_state *s, uint32_t eip)
{
    cpu_state_reset(s);
    flat_segments(s, SEG_DB);
    s->cr0 = CR0_PE | CR0_ET;
    s->rip = eip;
}

void cpu_state_long64(struct cpu_state *s, uint64_t rip, gpa_t cr3, gpa_t gdt, uint16_t gdt_limit)
{
    cpu_state_reset(s);
    flat_segments(s, SEG_L);
    s->gdtr = (struct cpu_table){.base = gdt, .limit = gdt_limit};
    s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_PG;
    s->cr3 = cr3;
    s->cr4 = CR4_PAE;
    s->efer = EFER_LME | EFER_LMA;
    s->rip = rip;
}
