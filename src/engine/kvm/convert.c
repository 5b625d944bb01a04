/* Conversions between struct cpu_state and KVM's structs. */
#include <string.h>

#include "engine/kvm/state.h"

/* --- general registers --- */

void state_from_regs(struct cpu_state *s, const struct kvm_regs *r)
{
    const uint64_t gpr[GPR_COUNT] = {
        [GPR_RAX] = r->rax, [GPR_RCX] = r->rcx, [GPR_RDX] = r->rdx, [GPR_RBX] = r->rbx, [GPR_RSP] = r->rsp, [GPR_RBP] = r->rbp,
        [GPR_RSI] = r->rsi, [GPR_RDI] = r->rdi, [GPR_R8] = r->r8,   [GPR_R9] = r->r9,   [GPR_R10] = r->r10, [GPR_R11] = r->r11,
        [GPR_R12] = r->r12, [GPR_R13] = r->r13, [GPR_R14] = r->r14, [GPR_R15] = r->r15,
    };

    memcpy(s->gpr, gpr, sizeof(gpr));
    s->rip = r->rip;
    s->rflags = r->rflags;
}

void state_to_regs(const struct cpu_state *s, struct kvm_regs *r)
{
    const uint64_t *g = s->gpr;

    *r = (struct kvm_regs){
        .rax = g[GPR_RAX],
        .rcx = g[GPR_RCX],
        .rdx = g[GPR_RDX],
        .rbx = g[GPR_RBX],
        .rsp = g[GPR_RSP],
        .rbp = g[GPR_RBP],
        .rsi = g[GPR_RSI],
        .rdi = g[GPR_RDI],
        .r8 = g[GPR_R8],
        .r9 = g[GPR_R9],
        .r10 = g[GPR_R10],
        .r11 = g[GPR_R11],
        .r12 = g[GPR_R12],
        .r13 = g[GPR_R13],
        .r14 = g[GPR_R14],
        .r15 = g[GPR_R15],
        .rip = s->rip,
        .rflags = s->rflags | FLAG_ONE,
    };
}

/* --- segments and control registers --- */

static struct cpu_seg from_segment(const struct kvm_segment *k)
{
    return (struct cpu_seg){
        .base = k->base,
        .limit = k->limit,
        .sel = k->selector,
        .attr = (uint32_t)(k->type | (k->s ? SEG_S : 0) | (uint32_t)k->dpl << SEG_DPL_SHIFT | (k->present ? SEG_P : 0) |
                           (k->avl ? SEG_AVL : 0) | (k->l ? SEG_L : 0) | (k->db ? SEG_DB : 0) | (k->g ? SEG_G : 0) |
                           (k->unusable ? SEG_UNUSABLE : 0)),
    };
}

static struct kvm_segment to_segment(const struct cpu_seg *s)
{
    return (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->sel,
        .type = SEG_TYPE(s->attr),
        .s = !!(s->attr & SEG_S),
        .dpl = SEG_DPL(s->attr),
        .present = !!(s->attr & SEG_P),
        .avl = !!(s->attr & SEG_AVL),
        .l = !!(s->attr & SEG_L),
        .db = !!(s->attr & SEG_DB),
        .g = !!(s->attr & SEG_G),
        .unusable = !!(s->attr & SEG_UNUSABLE),
    };
}

static struct cpu_table from_table(const struct kvm_dtable *k)
{
    return (struct cpu_table){.base = k->base, .limit = k->limit};
}

static struct kvm_dtable to_table(const struct cpu_table *t)
{
    return (struct kvm_dtable){.base = t->base, .limit = t->limit};
}

void state_from_sregs(struct cpu_state *s, const struct kvm_sregs *k)
{
    s->seg[SEG_ES] = from_segment(&k->es);
    s->seg[SEG_CS] = from_segment(&k->cs);
    s->seg[SEG_SS] = from_segment(&k->ss);
    s->seg[SEG_DS] = from_segment(&k->ds);
    s->seg[SEG_FS] = from_segment(&k->fs);
    s->seg[SEG_GS] = from_segment(&k->gs);
    s->ldtr = from_segment(&k->ldt);
    s->tr = from_segment(&k->tr);
    s->gdtr = from_table(&k->gdt);
    s->idtr = from_table(&k->idt);
    s->cr0 = k->cr0;
    s->cr2 = k->cr2;
    s->cr3 = k->cr3;
    s->cr4 = k->cr4;
    s->cr8 = k->cr8;
    s->efer = k->efer;
    s->apic_base = k->apic_base;
}

/* interrupt_bitmap stays empty: what is being delivered is among the events. */
void state_to_sregs(const struct cpu_state *s, struct kvm_sregs *k)
{
    *k = (struct kvm_sregs){
        .es = to_segment(&s->seg[SEG_ES]),
        .cs = to_segment(&s->seg[SEG_CS]),
        .ss = to_segment(&s->seg[SEG_SS]),
        .ds = to_segment(&s->seg[SEG_DS]),
        .fs = to_segment(&s->seg[SEG_FS]),
        .gs = to_segment(&s->seg[SEG_GS]),
        .ldt = to_segment(&s->ldtr),
        .tr = to_segment(&s->tr),
        .gdt = to_table(&s->gdtr),
        .idt = to_table(&s->idtr),
        .cr0 = s->cr0,
        .cr2 = s->cr2,
        .cr3 = s->cr3,
        .cr4 = s->cr4,
        .cr8 = s->cr8,
        .efer = s->efer,
        .apic_base = s->apic_base,
    };
}

/* --- debug registers --- */

void state_from_debugregs(struct cpu_state *s, const struct kvm_debugregs *k)
{
    memcpy(s->dr, k->db, sizeof(s->dr));
    s->dr6 = k->dr6;
    s->dr7 = k->dr7;
}

void state_to_debugregs(const struct cpu_state *s, struct kvm_debugregs *k)
{
    *k = (struct kvm_debugregs){.dr6 = s->dr6, .dr7 = s->dr7};
    memcpy(k->db, s->dr, sizeof(k->db));
}

/* --- events --- */

void state_from_events(struct cpu_state *s, const struct kvm_vcpu_events *k, const struct kvm_mp_state *mp)
{
    s->halted = mp->mp_state == KVM_MP_STATE_HALTED;
    s->wait_for_sipi = mp->mp_state == KVM_MP_STATE_UNINITIALIZED || mp->mp_state == KVM_MP_STATE_INIT_RECEIVED;
    s->interrupt_shadow = k->interrupt.shadow;
    s->nmi_pending = k->nmi.pending;
    s->nmi_masked = k->nmi.masked;
    s->nmi_injected = k->nmi.injected;
    s->exception = (struct cpu_exception){
        .pending = k->flags & KVM_VCPUEVENT_VALID_PAYLOAD ? k->exception.pending : false,
        .injected = k->exception.injected,
        .has_error = k->exception.has_error_code,
        .has_payload = k->flags & KVM_VCPUEVENT_VALID_PAYLOAD ? k->exception_has_payload : false,
        .vector = k->exception.nr,
        .error = k->exception.error_code,
        .payload = k->exception_payload,
    };
    s->interrupt_injected = k->interrupt.injected;
    s->interrupt_soft = k->interrupt.soft;
    s->interrupt_vector = k->interrupt.nr;
}

/* k comes from KVM: its flags say which of its parts there are. */
void state_to_events(const struct cpu_state *s, struct kvm_vcpu_events *k, struct kvm_mp_state *mp)
{
    uint32_t has_payload = k->flags & KVM_VCPUEVENT_VALID_PAYLOAD;

    *k = (struct kvm_vcpu_events){
        .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | has_payload,
        .exception = {.injected = s->exception.injected,
                      .nr = s->exception.vector,
                      .has_error_code = s->exception.has_error,
                      .pending = has_payload && s->exception.pending,
                      .error_code = s->exception.error},
        .interrupt = {.injected = s->interrupt_injected,
                      .nr = s->interrupt_vector,
                      .soft = s->interrupt_soft,
                      .shadow = s->interrupt_shadow ? KVM_X86_SHADOW_INT_STI : 0},
        .nmi = {.injected = s->nmi_injected, .pending = s->nmi_pending, .masked = s->nmi_masked},
        .exception_has_payload = has_payload && s->exception.has_payload,
        .exception_payload = s->exception.payload,
    };
    mp->mp_state = s->wait_for_sipi ? KVM_MP_STATE_INIT_RECEIVED : s->halted ? KVM_MP_STATE_HALTED : KVM_MP_STATE_RUNNABLE;
}

/* --- the local APIC: a register in the first four bytes of each 16 (SDM vol. 3 11.4.1) --- */

#define SLOT(offset) ((offset) >> 4)
#define APIC_ID 0x20
#define APIC_VERSION 0x30
#define APIC_DFR 0xe0
#define APIC_SVR 0xf0
#define APIC_LVT 0x320
#define APIC_LVT_LAST 0x370
#define APIC_LINT0 0x350

#define VERSION 0x50014U /* as KVM's own; 6 LVT entries */
#define LVT_MASKED 0x10000U
#define LVT_EXTINT 0x700U
#define SVR_RESET 0xffU

#define APIC_BASE_X2APIC BIT(10)

static uint32_t get_slot(const struct kvm_lapic_state *k, unsigned slot)
{
    uint32_t value;

    memcpy(&value, &k->regs[slot * 16], sizeof(value));
    return value;
}

static void set_slot(struct kvm_lapic_state *k, unsigned slot, uint32_t value)
{
    memcpy(&k->regs[slot * 16], &value, sizeof(value));
}

void state_from_lapic(struct cpu_state *s, const struct kvm_lapic_state *k, uint32_t apic_id)
{
    for (unsigned slot = 0; slot < ARRAY_SIZE(s->lapic); slot++)
        s->lapic[slot] = get_slot(k, slot);
    if (s->apic_base & APIC_BASE_X2APIC)
        s->lapic[SLOT(APIC_ID)] = apic_id; /* which KVM shifts as in the other mode */
}

/* LINT0 of the boot processor as firmware leaves it, for none runs here: an unmasked ExtINT. */
static void reset_lapic(struct kvm_lapic_state *k, uint32_t apic_id)
{
    memset(k, 0, sizeof(*k));
    set_slot(k, SLOT(APIC_VERSION), VERSION);
    set_slot(k, SLOT(APIC_DFR), UINT32_MAX);
    set_slot(k, SLOT(APIC_SVR), SVR_RESET);
    for (unsigned lvt = APIC_LVT; lvt <= APIC_LVT_LAST; lvt += 0x10)
        set_slot(k, SLOT(lvt), LVT_MASKED);
    if (apic_id == 0)
        set_slot(k, SLOT(APIC_LINT0), LVT_EXTINT);
}

void state_to_lapic(const struct cpu_state *s, struct kvm_lapic_state *k, uint32_t apic_id)
{
    if (s->lapic[SLOT(APIC_VERSION)] == 0) {
        reset_lapic(k, apic_id);
    } else {
        memset(k, 0, sizeof(*k));
        for (unsigned slot = 0; slot < ARRAY_SIZE(s->lapic); slot++)
            set_slot(k, slot, s->lapic[slot]);
    }
    set_slot(k, SLOT(APIC_ID), apic_id << 24);
}
