/* What 32-bit code has of its own: encodings, addresses and stacks that wrap at 4 GiB, segments that are flat now and not then. */
#include "test.h"

#define SEL_A SEL_TEST
#define LOW 0x7000u /* free memory below 64 KiB */

static uint32_t window[2048] __attribute__((aligned(4096)));
static uint8_t code[3 * PAGE_SIZE] __attribute__((aligned(4096)));

/* Read and write through each segment, by EAX; in assembly so that the very same bytes run under all segments. */
uint32_t read_ds(uint32_t), read_gs(uint32_t), read_fs(uint32_t), write_gs(uint32_t);
__asm__(".text\n.balign 4096\n" /* no data on this page, whose writes would drop the code */
        "read_ds: mov 4(%esp), %eax; mov (%eax), %eax; ret\n"
        "read_gs: mov 4(%esp), %eax; mov %gs:(%eax), %eax; ret\n"
        "read_fs: mov 4(%esp), %eax; mov %fs:(%eax), %eax; ret\n"
        "write_gs: mov 4(%esp), %eax; lock incl %gs:(%eax); mov %gs:(%eax), %eax; ret\n"
        ".balign 4096\n");

static uint32_t call_code(const void *at)
{
    uint32_t (*f)(void) = (uint32_t(*)(void))(word)at;

    return f();
}

static void inc_and_dec_in_one_byte(void)
{
    uint32_t a = 0xffffffff, b = 0x7fffffff, c = 0x12340000, d = 5, flags = 0;

    TRY("stc; inc %%eax; setc %%ch; adc $0, %%eax; inc %%ebx; seto %%cl; incw %%dx; decw %%si; dec %%edi; pushfl; popl %4",
        : "+a"(a), "+b"(b), "=&c"(c), "+d"(d), "=&S"(flags)
        : "4"(0x12340000), "D"(0x80000000)
        : "memory", "cc");
    check_no_fault();
    check_eq(a, 1); /* INC keeps CF for ADC */
    check_eq(b, 0x80000000);
    check_eq(c & 0xffff, 0x101);
    check_eq(d, 6);
    check_eq(flags & (FLAG_OF | FLAG_CF | FLAG_SF), FLAG_OF);
    a = 0x1234ffff;
    TRY("incw %%ax", : "+a"(a) : : "cc");
    check_eq(a, 0x12340000);
}

static void aliases(void)
{
    uint32_t a = 0x11;

    window[0] = 0x22;
    TRY(".byte 0x82, 0xc0, 0x05; .byte 0x82, 0x03, 0x81; .byte 0x82, 0x3b, 0xa3; sete %%ah", : "+a"(a) : "b"(window) : "memory", "cc");
    check_no_fault();
    check_eq(a, 0x116);
    check_eq(window[0], 0xa3);
}

static void plain_offsets(void)
{
    uint32_t a = 0, b = 0;

    window[0] = 0x89abcdef;
    __asm__ volatile("mov %2, %%eax; mov %%eax, %1; mov %3, %%al; movw %%ax, %2"
                     : "=&a"(a), "=m"(window[1]), "+m"(window[0])
                     : "m"(window[1]));
    __asm__ volatile(".byte 0xa1; .long window_of_code; .byte 0xa2; .long window_of_code + 9; .byte 0x66, 0xa3; .long window_of_code + 12"
                     : "=a"(b)
                     :
                     : "memory");
    check_eq(b, window[0]);
    check_eq(window[2], (b & 0xff) << 8);
    check_eq(window[3], b & 0xffff);
    __asm__ volatile(".byte 0xa1; .long 0xf0000000" : "=a"(a)); /* nothing is there */
    check_eq(a, 0xffffffff);
    __asm__ volatile("mov 0xf0000000, %0" : "=b"(a));
    check_eq(a, 0xffffffff);
    __asm__ volatile("mov -16(%1), %0" : "=b"(a) : "b"(0xf0000010));
    check_eq(a, 0xffffffff);
}
__asm__(".set window_of_code, window");

static void addresses_wrap(void)
{
    uint32_t a, b, c, d;

    for (unsigned i = 0; i < 8; i++)
        window[i] = 0x1000 + i;
    __asm__ volatile("mov (%2,%3), %0; lea (%2,%3,2), %1" : "=&a"(a), "=&d"(d) : "r"(0x90000000), "r"((word)window + 0x70000004u));
    __asm__ volatile("mov 0x10(%2,%3,4), %0; lea 0x10(%2,%3,4), %1" : "=&a"(b), "=&d"(c) : "r"((word)window - 4), "r"(0xfffffffe));
    check_eq(a, window[1]);
    check_eq(b, window[1]);
    check_eq(c, (word)&window[1]);
    check_eq(d, 2 * ((word)window + 0x70000004u) + 0x90000000u);
    *(volatile uint32_t *)(word)LOW = 0xcafe;
    __asm__ volatile(".byte 0x67, 0x8b, 0x07" : "=a"(a) : "b"(0x12340000 | LOW)); /* mov (%bx), %eax */
    check_eq(a, 0xcafe);
    __asm__ volatile(".byte 0x67, 0x8d, 0x40, 0xff" : "=a"(a) : "b"(5), "S"(0xfffc)); /* lea -1(%bx,%si), %eax */
    check_eq(a, 0);
}

static void pushes_and_pops(void)
{
    uint32_t v[8], sp;

    __asm__ volatile("mov %%esp, %%esi\n\t"
                     "pushl $-2; pushl $0x12345678; pushl 4(%%esp); push %%esp\n\t"
                     "mov %%esp, %%edx; sub %%esi, %%edx; mov %%edx, 16(%1)\n\t"
                     "popl (%1); popl 4(%1); popl 8(%1); popl 12(%1)\n\t"
                     "pushw $0x99; pushw $0x88; popl 20(%1)\n\t"
                     "push %%esi; pop %%esp; mov %%esp, %%edx; sub %%esi, %%edx; mov %%edx, 24(%1)\n\t"
                     "push %%ebp; mov %%esp, %%ebp; sub $40, %%esp; leave\n\t"
                     "mov %%esp, %0; sub %%esi, %0"
                     : "=&c"(sp)
                     : "b"(v)
                     : "memory", "edx", "esi");
    check_eq(v[1], 0xfffffffe);
    check_eq(v[2], 0x12345678);
    check_eq(v[3], 0xfffffffe);
    check_eq(v[4], (uint32_t)-16);
    check_eq(v[5], 0x990088);
    check_eq(v[6], 0);
    check_eq(sp, 0);
    /* What was pushed of ESP is its value before. */
    __asm__ volatile("push %%esp; mov %%esp, %%edx; popl %0; sub %%edx, %0" : "=&r"(sp) : : "edx", "memory");
    check_eq(sp, 4);
    __asm__ volatile("push %%ebx; movl $0x1111, %%ebx; pusha; movl $0, 16(%%esp); popa; mov %%ebx, %0; pop %%ebx"
                     : "=&a"(sp)
                     :
                     : "memory", "ecx", "edx", "esi", "edi");
    check_eq(sp, 0);
}

static void stacks_wrap(void)
{
    uint32_t v[3];

    __asm__ volatile("mov %%esp, %%ecx; xor %%esp, %%esp; pushl $5; mov %%esp, %0; popl %1; mov %%esp, %2; mov %%ecx, %%esp"
                     : "=&a"(v[0]), "=&d"(v[1]), "=&S"(v[2])
                     :
                     : "memory", "ecx");
    check_eq(v[0], 0xfffffffc);
    check_eq(v[1], 0xffffffff); /* there is no memory */
    check_eq(v[2], 0);
}

static void calls_and_returns(void)
{
    uint32_t n, sp;
    static uint32_t table[2];

    __asm__ volatile("mov %%esp, %%esi; xor %0, %0\n\t"
                     "movl $1f, (%2); movl $4f, 4(%2); mov $2f, %%eax; mov $1, %%ecx\n\t"
                     "call 1f; call *%%eax; call *(%2); call *-4(%2,%%ecx,8)\n\t"
                     "pushl $7; pushl $8; call 3f\n\t"
                     "jmp 9f\n"
                     "1: add $1, %0; ret\n"
                     "2: add $0x10, %0; ret\n"
                     "3: add 4(%%esp), %0; ret $8\n"
                     "4: add $0x100, %0; jmp *(%2)\n"
                     "9: mov %%esp, %1; sub %%esi, %1"
                     : "=&b"(n), "=&d"(sp)
                     : "D"(table)
                     : "memory", "eax", "ecx", "esi", "cc");
    check_eq(n, 1 + 0x10 + 1 + 0x101 + 8);
    check_eq(sp, 0);
    __asm__ volatile("mov $10, %%ecx; xor %0, %0; 1: inc %0; loop 1b; jecxz 2f; xor %0, %0; 2:" : "=&r"(n) : : "ecx", "cc");
    check_eq(n, 10);
}

static void high_bytes(void)
{
    uint32_t a = 0x11223344, b = 0;

    window[0] = 0xa0b0c0d0;
    __asm__ volatile("mov %%ah, 1(%2); add 2(%2), %%ah; mov (%2), %%bh; xchg %%bh, %%al; test $0x40, %%ah; setnz %%bl"
                     : "+a"(a), "+b"(b)
                     : "S"(window)
                     : "memory", "cc");
    check_eq(window[0], 0xa0b033d0);
    check_eq(a, 0x1122e3d0);
    check_eq(b, 0x4401);
}

/* The base is added to an offset of either sign; all that goes through memory may be there. */
static void thread_local_data(void)
{
    uint32_t a = 0, b = 0, c = 0;

    for (unsigned ring = 0; ring <= 3; ring += 3) {
        for (unsigned i = 0; i < 64; i++)
            window[i] = i;
        window[20] = (word)read_ds;
        gdt[SEL_A / 8] = desc((word)&window[16], 0xfffff, DESC_P | DESC_DPL(3) | DESC_DATA | DESC_G | DESC_DB);
#define BODY                                                                                                                               \
    "mov %4, %%gs; mov %4, %%fs; mov %%gs:-4, %%eax; mov %%fs:8(%%ecx,%%edx,4), %%ebx; addl %%eax, %%gs:12; pushl %%gs:-8; popl "          \
    "%%fs:(%%edx); pushl %%esi; call *%%gs:16; add $4, %%esp; mov %%eax, %%ecx"
        a = 0;
        b = 0xfffffff8;
        if (ring)
            TRY_USER(BODY, : "=&a"(a), "=&b"(c), "+c"(b) : "d"(4), "D"(SEL_A | 3), "S"(&window[5]) : "memory", "cc");
        else
            TRY(BODY, : "=&a"(a), "=&b"(c), "+c"(b) : "d"(4), "D"(SEL_A | 3), "S"(&window[5]) : "memory", "cc");
        check_no_fault();
        check_eq(c, window[20]);
        check_eq(window[19], 19 + 15);
        check_eq(window[17], 14);
        check_eq(b, 5);
    }
}

struct gs_case {
    uint64_t bits;
    uint32_t limit;
    bool readable, writable;
};

/* The same code again and again while what GS selects changes. */
static void a_segment_of_any_kind(void)
{
    static const struct gs_case cases[] = {
        {DESC_P | DESC_DPL(3) | DESC_DATA | DESC_DB | DESC_G, 0xfffff, true, true},
        {DESC_P | DESC_DPL(3) | DESC_DATA | DESC_DB | DESC_G, 1, true, true},
        {DESC_P | DESC_DPL(3) | DESC_DATA | DESC_DB, 43, true, true},
        {DESC_P | DESC_DPL(3) | DESC_DATA | DESC_DB, 42, false, false},
        {DESC_P | DESC_DPL(3) | DESC_S | DESC_TYPE(1) | DESC_DB | DESC_G, 0xfffff, true, false},  /* read-only */
        {DESC_P | DESC_DPL(3) | DESC_S | DESC_TYPE(7) | DESC_DB | DESC_G, 0xfffff, false, false}, /* expand-down, and nothing is above */
        {DESC_P | DESC_DPL(3) | DESC_S | DESC_TYPE(7) | DESC_DB, 39, true, true},
        {DESC_P | DESC_DPL(3) | DESC_CODE | DESC_DB | DESC_G, 0xfffff, true, false},
        {0, 0, false, false}, /* null */
    };
    uint32_t a;

    for (unsigned n = 0; n < ARRAY_SIZE(cases); n++)
        gdt[SEL_A / 8 + n] = desc((word)window, cases[n].limit, cases[n].bits);
    for (unsigned n = 0; n < 5 * ARRAY_SIZE(cases); n++) {
        const struct gs_case *k = &cases[n % ARRAY_SIZE(cases)];
        uint16_t sel = k->bits ? (SEL_A + 8 * (n % ARRAY_SIZE(cases))) | 3 : 0;
        window[10] = n;
        TRY("mov %%ebx, %%gs; pushl $40; call read_gs; add $4, %%esp", : "=&a"(a) : "b"(sel) : "memory", "cc");
        check_eq(fault_count, !k->readable);
        check(k->readable ? a == n : fault_is(EXC_GP, 0));
        TRY_USER("mov %%ebx, %%gs; pushl $40; call write_gs; add $4, %%esp", : "=&a"(a) : "b"(sel) : "memory", "cc");
        check_eq(fault_count, !k->writable);
        check(k->writable ? a == n + 1 : fault_is(EXC_GP, 0));
        TRY("mov %%ebx, %%fs; pushl $40; call read_fs; add $4, %%esp", : "=&a"(a) : "b"(sel) : "memory", "cc");
        check_eq(fault_count, !k->readable);
        check_eq(window[10], n + k->writable);
    }
}

/* Without flat DS and SS code is the same, but limits hold. */
static void data_and_stack_that_are_not_flat(void)
{
    uint32_t a, limit = (word)&window[100] + 3;

    window[100] = 5;
    window[101] = 6;
    for (unsigned n = 0; n < 20; n++) {
        bool flat = n & 1;
        gdt[SEL_A / 8] = flat ? desc(0, 0xfffff, DESC_P | DESC_DATA | DESC_DB | DESC_G)
                              : desc(0, limit >> 12, DESC_P | DESC_DATA | DESC_DB | DESC_G);
        a = flat ? 0x9000000 : (limit | 0xfff) - 3; /* the last word inside */
        TRY("mov %%ds, %%esi; mov %2, %%ds; pushl %1; call read_ds; mov %%esi, %%ds; add $4, %%esp",
            : "=&a"(a)
            : "r"(a), "r"(SEL_A)
            : "memory", "esi");
        check_no_fault();
        a = (limit | 0xfff) + 1;
        TRY("mov %%ds, %%esi; mov %2, %%ds; pushl %1; call read_ds; mov %%esi, %%ds; add $4, %%esp",
            : "=&a"(a)
            : "r"(a), "r"(SEL_A)
            : "memory", "esi");
        check_eq(fault_count, !flat);
        check(flat || fault_is(EXC_GP, 0));
        __asm__ volatile("mov %0, %%ds" : : "r"(SEL_UDATA)); /* the fault left it */
    }
    for (unsigned n = 0; n < 20; n++) {
        bool flat = n & 1;
        gdt[SEL_A / 8] = desc(0, flat ? 0xfffff : limit >> 12, DESC_P | DESC_DPL(3) | DESC_DATA | DESC_DB | DESC_G);
        window[49] = 0;
        TRY_USER("mov %1, %%ss; mov %2, %%esp; pushl $0x77; popl %0", : "=&a"(a) : "b"(SEL_A | 3), "c"(&window[50]) : "memory");
        check_no_fault();
        check_eq(a, 0x77);
        check_eq(window[49], 0x77);
        TRY_USER("mov %1, %%ss; mov %2, %%esp; pushl $0x77; popl %0", : "=&a"(a) : "b"(SEL_A | 3), "c"((limit | 0xfff) + 5) : "memory");
        check_eq(fault_count, !flat);
        check(flat || fault_is(EXC_SS, 0));
    }
}

static void other_overrides(void)
{
    uint32_t a;

    window[10] = 0x1234;
    gdt[SEL_A / 8] = desc((word)window, 43, DESC_P | DESC_DATA | DESC_DB);
    TRY("mov %%es, %%ecx; mov %1, %%es; mov %%es:40, %0; mov %%ecx, %%es", : "=a"(a) : "b"(SEL_A) : "ecx");
    check_no_fault();
    check_eq(a, 0x1234);
    TRY("mov %1, %%es\n" AT "mov %%es:44, %0", : "=a"(a) : "b"(SEL_A));
    check_fault(EXC_GP, 0);
    __asm__ volatile("mov %0, %%es" : : "r"(SEL_UDATA));
    TRY("mov %%cs:(%1), %0", : "=a"(a) : "b"(&window[10]));
    check_no_fault();
    check_eq(a, 0x1234);
    TRY("mov %0, %%cs:(%1)", : : "a"(1), "b"(&window[10]) : "memory");
    check_fault(EXC_GP, 0);
    check_eq(window[10], 0x1234);
}

/* The same EIP in segments with and without a base. */
static void code_with_a_base(void)
{
    static const uint8_t here[] = {0xb8, 0x55, 0, 0, 0, 0xcb}, there[] = {0xb8, 0x66, 0, 0, 0, 0xcb}; /* mov, lret */
    struct far_pointer {
        uint32_t offset;
        uint16_t selector;
    } __attribute__((packed)) based = {LOW, SEL_A}, flat = {LOW, SEL_KCODE};
    uint32_t a;

    gdt[SEL_A / 8] = desc((word)code - LOW, 0xfffff, DESC_P | DESC_CODE | DESC_DB | DESC_G);
    memcpy(code, here, sizeof(here));
    memcpy((void *)(word)LOW, there, sizeof(there));
    for (unsigned i = 0; i < 5; i++) {
        TRY("lcall *%1", : "=a"(a) : "m"(flat) : "memory");
        check_eq(a, 0x66);
        TRY("lcall *%1", : "=a"(a) : "m"(based) : "memory");
        check_eq(a, 0x55);
    }
}

/* An operand size of 16 bits cuts a branch's target. */
static void short_branches(void)
{
    static const uint8_t target[] = {0xb8, 0x55, 0, 0, 0, 0xc3};
    uint16_t rel = (uint16_t)(LOW - ((word)code + 4));

    memcpy((void *)(word)LOW, target, sizeof(target));
    memcpy((void *)code, (uint8_t[]){0x66, 0xe9, (uint8_t)rel, (uint8_t)(rel >> 8), 0xf4}, 5);
    for (unsigned i = 0; i < 3; i++)
        check_eq(call_code(code), 0x55);
    rel = (uint16_t)(LOW - ((word)code + 7));
    memcpy((void *)code, (uint8_t[]){0x31, 0xc0, 0x66, 0x0f, 0x84, (uint8_t)rel, (uint8_t)(rel >> 8), 0xf4}, 8);
    check_eq(call_code(code), 0x55);
    /* push $0x12347000; retw: two bytes stay, which the target takes. */
    memcpy((void *)code, (uint8_t[]){0x68, 0, (uint8_t)(LOW >> 8), 0x34, 0x12, 0x66, 0xc3}, 7);
    memcpy((void *)(word)LOW, (uint8_t[]){0x58, 0x83, 0xec, 0x02, 0xc3}, 5); /* pop %eax; sub $2, %esp; ret */
    check_eq(call_code(code) & 0xffff, 0x1234);
}

static void code_at_address_zero_and_across_pages(void)
{
    static const uint8_t add[] = {0xb8, 0x01, 0, 0, 0, 0x05, 0x10, 0x20, 0x30, 0x40, 0xc3}; /* mov, add, ret */
    uint8_t old[sizeof(add)];

    memcpy(old, (void *)(word)LOW, sizeof(old)); /* whatever */
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned at = 0; at < 12; at++) {
            memcpy(code + PAGE_SIZE - at, add, sizeof(add));
            check_eq(call_code(code + PAGE_SIZE - at), 0x40302011);
        }
        uint8_t *zero = (uint8_t *)(word)0x100000;
        __asm__("" : "+r"(zero)); /* gcc has opinions on pointers to nothing */
        zero -= 0x100000;
        memcpy(zero, add, sizeof(add));
        check_eq(call_code(zero), 0x40302011);
    }
}

static void code_that_changes(void)
{
    memcpy(code, (uint8_t[]){0xb8, 0, 0, 0, 0, 0x40, 0x90, 0xc3}, 8); /* mov $0, %eax; inc %eax; nop; ret */
    for (unsigned i = 0; i < 50; i++) {
        *(volatile uint8_t *)(code + 1) = (uint8_t)i;
        check_eq(call_code(code), i + 1);
    }
    /* movb $0x48, 1f; 1: inc %eax -> dec %eax */
    uint32_t at = (word)code + 12;
    memcpy(code,
           (uint8_t[]){0xb8, 5, 0, 0, 0, 0xc6, 0x05, (uint8_t)at, (uint8_t)(at >> 8), (uint8_t)(at >> 16), (uint8_t)(at >> 24), 0x48, 0x40,
                       0xc3},
           14);
    check_eq(call_code(code), 4);
    check_eq(call_code(code), 4);
}

GUEST_TESTS({"INC and DEC of one byte", inc_and_dec_in_one_byte}, {"opcode 82 is 80", aliases}, {"plain offsets", plain_offsets},
            {"addresses wrap", addresses_wrap}, {"pushes and pops", pushes_and_pops}, {"stacks wrap", stacks_wrap},
            {"calls and returns", calls_and_returns}, {"high bytes", high_bytes}, {"thread-local data", thread_local_data},
            {"a segment of any kind", a_segment_of_any_kind}, {"data and stack that are not flat", data_and_stack_that_are_not_flat},
            {"other overrides", other_overrides}, {"code with a base", code_with_a_base}, {"branches of 16 bits", short_branches},
            {"code at address 0 and across pages", code_at_address_zero_and_across_pages}, {"code that changes", code_that_changes});
