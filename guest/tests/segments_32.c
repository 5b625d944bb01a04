/* Segments of a 32-bit kernel: call gates with parameters, far returns outward, conforming code, 16-bit stacks, bases. */
#include "test.h"

#define SEL_A SEL_TEST
#define SEL_B (SEL_TEST + 8)
extern volatile uint32_t seen[8];
volatile uint32_t seen[8]; /* the gate's target writes it by name */
static uint32_t window[1024] __attribute__((aligned(4096)));

void gate_target(void);
__asm__(".text\ngate_target:\n\t"
        "mov %esp, seen\n\tmov %ss, %eax\n\tmov %eax, seen+4\n\t"
        "mov 8(%esp), %eax\n\tmov %eax, seen+8\n\t" /* the parameters lie above the return address */
        "mov 12(%esp), %eax\n\tmov %eax, seen+12\n\t"
        "mov %cs, %eax\n\tmov %eax, seen+16\n\t"
        "lret $8\n");

struct far_pointer {
    uint32_t offset;
    uint16_t selector;
} __attribute__((packed));
extern const struct far_pointer through_a_ptr;
const struct far_pointer through_a_ptr = {0, SEL_A | 3};

static void set_gate(uint16_t code, uint8_t attr, uint8_t parameters)
{
    gate_set((struct gate *)&gdt[SEL_A / 8], (word)gate_target, code, attr);
    ((struct gate *)&gdt[SEL_A / 8])->ist = parameters;
}

static void call_gate_with_parameters(void)
{
    uint32_t left = 0;

    set_gate(SEL_KCODE, GATE_CALL(3), 2);
    TRY_USER("pushl $0x1111\npushl $0x2222\nlcall *through_a_ptr\nmov %%esp, %0", : "=r"(left) : : "memory", "eax");
    check_no_fault();
    check_eq(seen[0], tss.esp0 - 24); /* SS ESP, two parameters, CS EIP */
    check_eq(seen[1], SEL_KDATA);
    check_eq(seen[2], 0x2222);
    check_eq(seen[3], 0x1111);
    check_eq(seen[4], SEL_KCODE);
    check_eq(left, try_sp); /* RET 8 takes the parameters off both stacks */
    /* The same ring: no copy. */
    TRY("pushl $0x1111\npushl $0x2222\nlcall *through_a_ptr\nmov %%esp, %0", : "=r"(left) : : "memory", "eax");
    check_no_fault();
    check_eq(seen[0], try_sp - 16);
    check_eq(seen[2], 0x2222);
    check_eq(left, try_sp);
}

static void call_gate_faults(void)
{
    set_gate(SEL_KCODE, GATE_CALL(0), 0);
    TRY_USER("lcall *through_a_ptr", : : : "memory");
    check_fault(EXC_GP, SEL_A);
    set_gate(SEL_KCODE, GATE_CALL(3) & 0x7f, 0);
    TRY_USER("lcall *through_a_ptr", : : : "memory");
    check_fault(EXC_NP, SEL_A);
    set_gate(SEL_KDATA, GATE_CALL(3), 0);
    TRY_USER("lcall *through_a_ptr", : : : "memory");
    check_fault(EXC_GP, SEL_KDATA);
    set_gate(0, GATE_CALL(3), 0);
    TRY_USER("lcall *through_a_ptr", : : : "memory");
    check_fault(EXC_GP, 0);
    set_gate(SEL_KCODE, GATE_CALL(3), 0);
    TRY_USER("ljmp *through_a_ptr", : : : "memory"); /* JMP never goes inward */
    check_fault(EXC_GP, SEL_KCODE);
}

static void far_return_outward(void)
{
    uint32_t cs = 0, ds = 0, es = 0;

    gdt[SEL_B / 8] = desc(0, 0xfffff, DESC_P | DESC_DATA | DESC_G | DESC_DB);
    TRY("mov %3, %%es\n"
        "mov %%esp, %%eax\npushl $0x23\npushl %%eax\npushl $0x1b\npushl $1f\nlret\n"
        "1: mov %%cs, %0\nmov %%ds, %1\nmov %%es, %2\nint $0x81",
        : "=&b"(cs), "=&c"(ds), "=&d"(es)
        : "S"(SEL_B)
        : "memory", "eax");
    check_no_fault();
    check_eq(cs, SEL_UCODE32);
    check_eq(ds, SEL_UDATA); /* ring 3 may keep it */
    check_eq(es, 0);         /* but not ring 0's data */
}

static void conforming_code(void)
{
    uint32_t cs = 0;

    gdt[SEL_B / 8] = desc(0, 0xfffff, DESC_P | DESC_S | DESC_TYPE(0xf) | DESC_G | DESC_DB);
    TRY_USER("ljmp $0x73, $1f\n1: mov %%cs, %0", : "=r"(cs) : : "memory");
    check_no_fault();
    check_eq(cs, SEL_B | 3);
    /* A data segment register takes conforming code of any DPL. */
    TRY_USER("mov %0, %%es", : : "r"(SEL_B | 3) : "memory");
    check_no_fault();
}

static void segment_bases_are_added(void)
{
    uint32_t v = 0;

    window[10] = 0xfeedface;
    gdt[SEL_A / 8] = desc((uint32_t)window, 0xfff, DESC_P | DESC_DATA | DESC_DB);
    TRY("mov %1, %%gs\nmov %%gs:40, %0", : "=&r"(v) : "r"(SEL_A) : "memory");
    check_no_fault();
    check_eq(v, 0xfeedface);
    /* Addresses wrap at 4 GiB. */
    gdt[SEL_A / 8] = desc((uint32_t)window + 0x1000, 0xfffff, DESC_P | DESC_DATA | DESC_DB | DESC_G);
    TRY("mov %1, %%gs\nmov %%gs:(%2), %0", : "=&r"(v) : "r"(SEL_A), "r"(40 - 0x1000) : "memory");
    check_no_fault();
    check_eq(v, 0xfeedface);
    /* Strings: DS by an override, ES never. */
    uint32_t *to = &window[20];
    *to = 0;
    gdt[SEL_A / 8] = desc((uint32_t)window, 0xfff, DESC_P | DESC_DATA | DESC_DB);
    TRY("mov %1, %%fs\nmovl $40, %%esi\nfs movsl", : "+D"(to) : "r"(SEL_A) : "memory", "esi");
    check_no_fault();
    check_eq(window[20], 0xfeedface);
}

/* Code at another base: EIP is an offset. */
static void code_segment_base(void)
{
    uint32_t ip = 0, base = (uint32_t)(word)gate_target & ~0xfffu;

    gdt[SEL_A / 8] = desc(base, 0xfffff, DESC_P | DESC_CODE | DESC_DB | DESC_G);
    TRY("pushl $0x68\nmovl $1f, %%eax\nsubl %1, %%eax\npushl %%eax\nlret\n"
        "1: call 2f\n2: popl %0\nljmp $8, $3f\n3: addl %1, %0\nsubl $2b, %0",
        : "=&b"(ip)
        : "c"(base)
        : "memory", "eax");
    check_no_fault();
    check_eq(ip, 0);
    TRY("pushl $0x68\nmovl $1f, %%eax\nsubl %0, %%eax\npushl %%eax\nlret\n"
        "1: ud2",
        :
        : "c"(base)
        : "memory", "eax");
    check(fault_is(EXC_UD, 0));
    check_eq(fault.cs, SEL_A);
    check_eq(*(volatile uint16_t *)(fault.rip + base), 0x0b0f);
}

/* A 16-bit stack uses SP alone. */
static void sixteen_bit_stack(void)
{
    uint32_t esp = 0;

    gdt[SEL_A / 8] = desc((uint32_t)window, 0xffff, DESC_P | DESC_DATA);
    window[0x3f0 / 4] = 0;
    TRY("mov %%esp, %%ebx\nmov %%ss, %%edx\nmov %1, %%ss\nmov $0x123403f4, %%esp\npushl $0x77\nmov %%esp, %0\npopl %%eax\n"
        "mov %%edx, %%ss\nmov %%ebx, %%esp",
        : "=&c"(esp)
        : "S"(SEL_A)
        : "memory", "eax", "ebx", "edx");
    check_no_fault();
    check_eq(esp, 0x123403f0);
    check_eq(window[0x3f0 / 4], 0x77);
}

static void sixteen_bit_code(void)
{
    uint32_t ax = 0;

    gdt[SEL_A / 8] = desc(0x100000, 0xffff, DESC_P | DESC_CODE);
    TRY("movl $0x55550000, %%eax\npushl $0x68\nmovl $1f, %%ecx\nsubl $0x100000, %%ecx\npushl %%ecx\nlret\n"
        ".code16\n1: movw $0x8001, %%ax\naddw %%ax, %%ax\nljmpl $8, $2f\n.code32\n2:",
        : "=&a"(ax)
        :
        : "memory", "ecx");
    check_no_fault();
    check_eq(ax, 0x55550002);
}

static void push_and_pop_of_segment_registers(void)
{
    uint32_t v = 0;

    TRY("pushl $-1\naddl $4, %%esp\npushl %%ds\npopl %0", : "=r"(v) : : "memory");
    check_eq(v & 0xffff, SEL_UDATA);
    TRY("pushl $0x23\npopl %%es\npushw %%es\npopw %w0", : "+r"(v) : : "memory");
    check_no_fault();
    check_eq(v & 0xffff, SEL_UDATA);
    TRY("pushl $0xfff8\n" AT "popl %%es", : : : "memory");
    check_fault(EXC_GP, 0xfff8);
    check_eq(fault.rsp, try_sp - 4); /* nothing is popped */
    static struct far_pointer far = {0x1234, SEL_UDATA};
    TRY("les %1, %0", : "=r"(v) : "m"(far) : "memory");
    check_no_fault();
    check_eq(v, 0x1234);
}

GUEST_TESTS({"call gates copy parameters", call_gate_with_parameters}, {"faults of call gates", call_gate_faults},
            {"far returns outward clear what ring 3 may not have", far_return_outward}, {"conforming code", conforming_code},
            {"bases are added", segment_bases_are_added}, {"code at another base", code_segment_base}, {"16-bit stacks", sixteen_bit_stack},
            {"16-bit code", sixteen_bit_code}, {"PUSH, POP and LES of segment registers", push_and_pop_of_segment_registers});
