/* Why KVM cannot run a vCPU any further: a sentence for the user, and in the log its registers and the bytes at RIP. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/kvm/kvm.h"

#define CODE_BYTES 16

/* Exits that no guest of ours should cause. */
static const struct {
    uint32_t reason;
    const char *name;
} names[] = {
    {KVM_EXIT_UNKNOWN, "UNKNOWN"},
    {KVM_EXIT_EXCEPTION, "EXCEPTION"},
    {KVM_EXIT_HYPERCALL, "HYPERCALL"},
    {KVM_EXIT_HLT, "HLT"},
    {KVM_EXIT_SET_TPR, "SET_TPR"},
    {KVM_EXIT_TPR_ACCESS, "TPR_ACCESS"},
    {KVM_EXIT_NMI, "NMI"},
    {KVM_EXIT_SYSTEM_EVENT, "SYSTEM_EVENT"},
    {KVM_EXIT_X86_RDMSR, "X86_RDMSR"},
    {KVM_EXIT_X86_WRMSR, "X86_WRMSR"},
    {KVM_EXIT_X86_BUS_LOCK, "X86_BUS_LOCK"},
    {KVM_EXIT_NOTIFY, "NOTIFY"},
};

const uint8_t *kvm_code(struct kvm_cpu *cpu, gva_t gva, size_t len)
{
    struct kvm_translation at = {.linear_address = gva};

    if (kvm_ioctl(cpu->fd, KVM_TRANSLATE, &at) != 0 || !at.valid)
        return NULL;
    return mem_hva(&cpu->vcpu->vm->mem, at.physical_address, len);
}

/* The bytes that RIP points to, as hexadecimal; where they cannot be read, why. */
static void describe_code(struct kvm_cpu *cpu, const struct kvm_regs *regs, const struct kvm_sregs *sregs, char text[3 * CODE_BYTES + 1])
{
    gva_t linear = (sregs->efer & EFER_LMA && sregs->cs.l ? 0 : sregs->cs.base) + regs->rip;
    size_t len = MIN(CODE_BYTES, PAGE_SIZE - (linear & PAGE_MASK));
    const uint8_t *code = kvm_code(cpu, linear, len);

    if (!code) {
        snprintf(text, 3 * CODE_BYTES + 1, "none: nothing is mapped there");
        return;
    }
    for (size_t i = 0; i < len; i++)
        snprintf(text + 3 * i, 4, "%02x ", code[i]);
    text[3 * len - 1] = '\0';
}

static void log_segment(const char *name, const struct kvm_segment *s)
{
    log_error("  %-4s %04x  base %016" PRIx64 "  limit %08x  type %x s %u dpl %u present %u l %u db %u g %u", name, (unsigned)s->selector,
              (uint64_t)s->base, s->limit, (unsigned)s->type, (unsigned)s->s, (unsigned)s->dpl, (unsigned)s->present, (unsigned)s->l,
              (unsigned)s->db, (unsigned)s->g);
}

static void log_registers(const struct kvm_regs *r, const struct kvm_sregs *s)
{
    log_error("  rax %016" PRIx64 "  rbx %016" PRIx64 "  rcx %016" PRIx64 "  rdx %016" PRIx64, (uint64_t)r->rax, (uint64_t)r->rbx,
              (uint64_t)r->rcx, (uint64_t)r->rdx);
    log_error("  rsi %016" PRIx64 "  rdi %016" PRIx64 "  rbp %016" PRIx64 "  rsp %016" PRIx64, (uint64_t)r->rsi, (uint64_t)r->rdi,
              (uint64_t)r->rbp, (uint64_t)r->rsp);
    log_error("  r8  %016" PRIx64 "  r9  %016" PRIx64 "  r10 %016" PRIx64 "  r11 %016" PRIx64, (uint64_t)r->r8, (uint64_t)r->r9,
              (uint64_t)r->r10, (uint64_t)r->r11);
    log_error("  r12 %016" PRIx64 "  r13 %016" PRIx64 "  r14 %016" PRIx64 "  r15 %016" PRIx64, (uint64_t)r->r12, (uint64_t)r->r13,
              (uint64_t)r->r14, (uint64_t)r->r15);
    log_error("  rip %016" PRIx64 "  rflags %08" PRIx64 "  cr0 %08" PRIx64 "  cr2 %016" PRIx64 "  cr3 %016" PRIx64 "  cr4 %08" PRIx64
              "  efer %04" PRIx64,
              (uint64_t)r->rip, (uint64_t)r->rflags, (uint64_t)s->cr0, (uint64_t)s->cr2, (uint64_t)s->cr3, (uint64_t)s->cr4,
              (uint64_t)s->efer);
    log_segment("cs", &s->cs);
    log_segment("ss", &s->ss);
    log_segment("ds", &s->ds);
    log_segment("es", &s->es);
    log_segment("fs", &s->fs);
    log_segment("gs", &s->gs);
    log_segment("tr", &s->tr);
    log_segment("ldtr", &s->ldt);
    log_error("  gdt  base %016" PRIx64 "  limit %04x  idt  base %016" PRIx64 "  limit %04x", (uint64_t)s->gdt.base, (unsigned)s->gdt.limit,
              (uint64_t)s->idt.base, (unsigned)s->idt.limit);
}

/* The sentence, with RIP and the bytes there at its end; the rest goes to the log. */
static void PRINTF_LIKE(3, 4) explain(struct kvm_cpu *cpu, struct vm_exit *exit, const char *fmt, ...)
{
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    char what[sizeof(exit->internal.text)], code[3 * CODE_BYTES + 1];
    va_list args;

    va_start(args, fmt);
    vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    exit->reason = VM_EXIT_INTERNAL;
    if (kvm_ioctl(cpu->fd, KVM_GET_REGS, &regs) != 0 || kvm_ioctl(cpu->fd, KVM_GET_SREGS, &sregs) != 0) {
        snprintf(exit->internal.text, sizeof(exit->internal.text), "%s", what);
        return;
    }
    describe_code(cpu, &regs, &sregs, code);
    snprintf(exit->internal.text, sizeof(exit->internal.text), "%s; rip 0x%" PRIx64 ", bytes there: %s", what, (uint64_t)regs.rip, code);
    log_error("CPU %u: %s; its registers:", cpu->vcpu->index, what);
    log_registers(&regs, &sregs);
    log_error("  bytes at rip: %s", code);
}

static void explain_internal_error(struct kvm_cpu *cpu, struct vm_exit *exit)
{
    const struct kvm_run *run = cpu->run;

    switch (run->internal.suberror) {
    case KVM_INTERNAL_ERROR_EMULATION: explain(cpu, exit, "KVM had to emulate an instruction and cannot (internal error 1)"); break;
    case KVM_INTERNAL_ERROR_SIMUL_EX: explain(cpu, exit, "an exception came while KVM delivered another (internal error 2)"); break;
    case KVM_INTERNAL_ERROR_DELIVERY_EV:
        explain(cpu, exit, "the guest's interrupt table or stack lies where no memory is, so KVM delivers no event (internal error 3)");
        break;
    case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON:
        explain(cpu, exit, "the processor left the guest for a reason that KVM does not know, 0x%" PRIx64 " (internal error 4)",
                (uint64_t)(run->internal.ndata ? run->internal.data[0] : 0));
        break;
    default: explain(cpu, exit, "KVM reports its internal error %u", run->internal.suberror); break;
    }
}

void kvm_explain_exit(struct kvm_cpu *cpu, struct vm_exit *exit)
{
    const struct kvm_run *run = cpu->run;
    const char *name = "an unknown one";

    if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR) {
        explain_internal_error(cpu, exit);
        return;
    }
    if (run->exit_reason == KVM_EXIT_FAIL_ENTRY) {
        explain(cpu, exit, "the processor refuses to enter the guest, reason 0x%" PRIx64 "%s",
                (uint64_t)run->fail_entry.hardware_entry_failure_reason,
                (uint32_t)run->fail_entry.hardware_entry_failure_reason == 0x80000021 ? " (its registers contradict each other)" : "");
        return;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (names[i].reason == run->exit_reason)
            name = names[i].name;
    explain(cpu, exit, "KVM left the guest by exit %u (%s), which was not asked for", run->exit_reason, name);
}

void kvm_explain_errno(struct kvm_cpu *cpu, struct vm_exit *exit, int error)
{
    if (error == EFAULT)
        explain(cpu, exit, "KVM_RUN: the host cannot give a page of guest memory (%s)", strerror(error));
    else
        explain(cpu, exit, "KVM_RUN: %s", strerror(error));
}
