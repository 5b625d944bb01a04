/* Memory accesses: every size at every offset around a page's end, faults in the middle, one page seen twice, code that changes. */
#include "paging.h"
#include "test.h"

#define EDGE TEST_HIGH
#define ALIAS (TEST_HIGH + 0x10000000)

typedef uint64_t (*function)(uint64_t);

static uint8_t *two_pages(void)
{
    uint8_t *a = page_alloc(), *b = page_alloc();

    map_page(EDGE, a, PTE_P | PTE_W);
    map_page(EDGE + PAGE_SIZE, b, PTE_P | PTE_W);
    return (uint8_t *)EDGE;
}

static uint64_t load(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;

    switch (size) {
    case 1: __asm__ volatile("movzbq (%1), %0" : "=r"(v) : "r"(p) : "memory"); break;
    case 2: __asm__ volatile("movzwq (%1), %0" : "=r"(v) : "r"(p) : "memory"); break;
    case 4: __asm__ volatile("movl (%1), %k0" : "=r"(v) : "r"(p) : "memory"); break;
    default: __asm__ volatile("movq (%1), %0" : "=r"(v) : "r"(p) : "memory"); break;
    }
    return v;
}

static void store(uint8_t *p, unsigned size, uint64_t v)
{
    switch (size) {
    case 1: __asm__ volatile("movb %b0, (%1)" : : "r"(v), "r"(p) : "memory"); break;
    case 2: __asm__ volatile("movw %w0, (%1)" : : "r"(v), "r"(p) : "memory"); break;
    case 4: __asm__ volatile("movl %k0, (%1)" : : "r"(v), "r"(p) : "memory"); break;
    default: __asm__ volatile("movq %0, (%1)" : : "r"(v), "r"(p) : "memory"); break;
    }
}

static uint64_t bytes_at(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < size; i++)
        v |= (uint64_t)p[i] << 8 * i;
    return v;
}

static void every_size_and_offset(void)
{
    uint8_t *base = two_pages() + PAGE_SIZE;

    for (unsigned i = 0; i < 128; i++)
        base[(int)i - 64] = (uint8_t)(i * 37 + 11);
    for (unsigned size = 1; size <= 8; size *= 2)
        for (int off = -16; off <= 8; off++) {
            check_eq(load(base + off, size), bytes_at(base + off, size));
            store(base + off, size, 0x1122334455667788ULL * (uint64_t)(off + 20));
            check_eq(load(base + off, size), bytes_at(base + off, size));
        }
}

static void vectors_across_pages(void)
{
    uint8_t *base = two_pages() + PAGE_SIZE, back[16];

    for (int off = -16; off <= 0; off++) {
        for (unsigned i = 0; i < 16; i++)
            base[off + (int)i] = (uint8_t)(i * 7 + (unsigned)(off + 16));
        __asm__ volatile("movdqu (%0), %%xmm3; movdqu %%xmm3, (%1)" : : "r"(base + off), "r"(back) : "memory");
        check(memcmp(back, base + off, 16) == 0);
        __asm__ volatile("pcmpeqb %%xmm4, %%xmm4; movdqu %%xmm4, (%0)" : : "r"(base + off) : "memory");
        check(base[off] == 0xff && base[off + 15] == 0xff);
    }
}

static void a_crossing_store_is_all_or_nothing(void)
{
    uint8_t *p = map_edge(EDGE);

    for (unsigned n = 1; n < 8; n++) {
        uint8_t *at = p + PAGE_SIZE - n;
        for (unsigned i = 0; i < n; i++)
            at[i] = 0x5a;
        TRY("movq %0, (%1)", : : "r"(0UL), "r"(at) : "memory");
        check_pf(PF_W, EDGE + PAGE_SIZE);
        for (unsigned i = 0; i < n; i++)
            check_eq(at[i], 0x5a);
        TRY("addq %0, (%1)", : : "r"(1UL), "r"(at) : "memory");
        check_fault_but_qemu(EXC_PF, PF_W, "a read-modify-write faults as a read");
        TRY("movq (%0), %%rax", : : "r"(at) : "memory", "rax");
        check_pf(0, EDGE + PAGE_SIZE);
    }
}

/* --- many accesses through one register, in one block --- */

/* Reads three fields, writes their sums to three others, and moves on by constants: an engine may look at the page once for all. */
static uint64_t walk_fields(uint8_t *p)
{
    uint64_t sum, at = (uint64_t)p;

    __asm__ volatile("mov (%1), %0\n\t"
                     "add 8(%1), %0\n\t"
                     "adc 40(%1), %0\n\t"
                     "mov %0, 16(%1)\n\t"
                     "add $24, %1\n\t"
                     "movb $7, 3(%1)\n\t"
                     "xor %0, (%1)\n\t"
                     "sub $8, %1\n\t"
                     "movups (%1), %%xmm3\n\t"
                     "movups %%xmm3, 32(%1)\n\t"
                     "add 34(%1), %0"
                     : "=&r"(sum), "+r"(at)
                     :
                     : "memory");
    check_eq(at, (uint64_t)p + 16);
    return sum;
}

/* Pushes six registers on another stack, and takes them from it in their order. */
static uint64_t push_and_pop(uint8_t *top)
{
    uint64_t sum, old;

    __asm__ volatile("mov %%rsp, %1; mov %2, %%rsp\n\t"
                     "mov $1, %%eax; mov $20, %%ecx; mov $300, %%r9d; mov $4000, %%r12d\n\t"
                     "push %%rax; push %%rcx; push %%r9; push %%r12; pushq $-5; sub $16, %%rsp; mov %%rcx, 8(%%rsp); push %%rax\n\t"
                     "pop %%r12; mov (%%rsp), %0; xor %0, %0; pop %%r9; pop %%rcx; pop %%rax; add %%rax, %0; pop %%rax\n\t"
                     "lea (%0,%%rax,2), %0; pop %%r9; lea (%0,%%r9,4), %0; pop %%rcx; add %%rcx, %0; pop %%rcx; lea (%0,%%rcx,8), %0\n\t"
                     "lea (%0,%%r12,2), %0; mov %%rsp, %%rcx; mov %1, %%rsp; sub %2, %%rcx; add %%rcx, %0"
                     : "=&r"(sum), "=&r"(old)
                     : "r"(top)
                     : "rax", "rcx", "r9", "r12", "memory");
    return sum;
}

static void many_accesses_at_every_offset(void)
{
    static uint8_t plain[256] __attribute__((aligned(8))), before[256];
    uint8_t *edge = two_pages() + PAGE_SIZE;
    uint64_t expected = push_and_pop(plain + 200);

    for (int off = -80; off <= 8; off++) {
        for (unsigned i = 0; i < sizeof(plain); i++)
            plain[i] = before[i] = (uint8_t)(i * 29 + (unsigned)off);
        memcpy(edge - 128, before, sizeof(before));
        check_eq(walk_fields(edge + off), walk_fields(plain + 128 + off));
        check(memcmp(edge - 128, plain, sizeof(plain)) == 0);
    }
    for (int off = -16; off <= 80; off++)
        check_eq(push_and_pop(edge + off), expected);
}

/* The second page of two is not there, or not writable: what was done before the fault is done, and nothing after it. */
static void many_accesses_stop_at_the_fault(void)
{
    uint8_t *p = map_edge(EDGE), *end = p + PAGE_SIZE;

    for (unsigned before = 0; before < 4; before++) {
        uint8_t *at = end - 8 * before;
        memset(p, 0, PAGE_SIZE);
        TRY("movq $1, (%0); movq $1, 8(%0); movq $1, 16(%0); movq $1, 24(%0)", : : "r"(at) : "memory");
        check(fault_count == 1 && fault.vector == EXC_PF);
        check_eq(fault.cr2, (word)end);
        for (unsigned i = 0; i < 4; i++)
            check_eq(p[PAGE_SIZE - 8 * (i + 1)], i < before ? 1 : 0);
    }
    map_page(EDGE + PAGE_SIZE, page_alloc(), PTE_P);
    TRY("mov 8(%0), %%rax; add (%0), %%rax; mov %%rax, 8(%0)", : : "r"(end) : "memory", "rax"); /* in ring 0 with CR0.WP */
    check(fault_count == 1 && fault.vector == EXC_PF);
    check_eq(fault.cr2, (word)end + 8);
}

/* Not in one block with an access that sets them, which lockstep carries out twice. */
static __attribute__((noinline)) uint64_t accessed_and_dirty(const volatile uint64_t *pte)
{
    return *pte & (PTE_A | PTE_D);
}

/* Reads that a write follows in the same page take no right to write, and leave the page clean when the write does not come about. */
static void reads_before_a_write_only_read(void)
{
    volatile uint64_t *p = page_alloc(), *pte = pte_at(EDGE, 1);
    uint64_t sum;

    p[0] = 0;
    p[1] = 5;
    for (unsigned i = 0; i < 20; i++) {
        map_page(EDGE, (void *)p, PTE_P | PTE_W);
        TRY("mov (%1), %0; add 8(%1), %0; " AT "mov (%2), %0; mov %0, 16(%1)", : "=&a"(sum) : "D"(EDGE), "S"(EDGE + PAGE_SIZE) : "memory");
        check_pf(0, EDGE + PAGE_SIZE);
        check_eq(sum, 5);
        check_eq(accessed_and_dirty(pte), PTE_A);
        __asm__ volatile("mov (%1), %0; test %0, %0; jz 1f; mov %0, 16(%1); 1: add 8(%1), %0" : "=&a"(sum) : "D"(EDGE) : "memory");
        check_eq(sum, 5);
        check_eq(accessed_and_dirty(pte), PTE_A);
        __asm__ volatile("mov 16(%1), %0; add 8(%1), %0; mov %0, 16(%1); add 16(%1), %0" : "=&a"(sum) : "D"(EDGE) : "memory");
        check_eq(sum, 10 * (i + 1));
        check_eq(accessed_and_dirty(pte), PTE_A | PTE_D);
        map_page(EDGE, (void *)p, PTE_P);
        TRY("mov 16(%1), %0; add 8(%1), %0; " AT "mov %0, 16(%1); add 16(%1), %0", : "=&a"(sum) : "D"(EDGE) : "memory");
        check_pf(PF_P | PF_W, EDGE + 16);
        check_eq(sum, 5 * (i + 2));
        check_eq(p[2], 5 * (i + 1));
        check_eq(accessed_and_dirty(pte), PTE_A);
    }
}

/* SDM vol. 2 REP: the elements before the fault are done, and the registers say how many. */
static void string_instructions_stop_at_the_fault(void)
{
    uint8_t *p = map_edge(EDGE);
    static uint8_t source[64];

    for (unsigned i = 0; i < sizeof(source); i++)
        source[i] = (uint8_t)(i + 1);
    memset(p, 0, PAGE_SIZE);
    TRY("rep movsb", : : "D"(p + PAGE_SIZE - 10), "S"(source), "c"(30) : "memory");
    check_pf(PF_W, EDGE + PAGE_SIZE);
    check_eq(fault.reg[7], EDGE + PAGE_SIZE);
    check_eq(fault.reg[6], (word)source + 10);
    check_eq(fault.reg[1], 20);
    check(memcmp(p + PAGE_SIZE - 10, source, 10) == 0);
    TRY("rep stosl", : : "D"(p + PAGE_SIZE - 10), "a"(0x01020304), "c"(9) : "memory");
    check_pf(PF_W, EDGE + PAGE_SIZE);
    check_eq(fault.reg[7], EDGE + PAGE_SIZE - 2);
    check_eq(fault.reg[1], 7);
    TRY("repe cmpsb", : : "D"(p + PAGE_SIZE - 2), "S"(p + PAGE_SIZE - 2), "c"(9) : "memory");
    check_pf(0, EDGE + PAGE_SIZE);
    check_eq(fault.reg[1], 7);
    TRY("rep lodsq", : : "S"(p + PAGE_SIZE - 16), "c"(4) : "memory", "rax");
    check_pf(0, EDGE + PAGE_SIZE);
    check_eq(fault.reg[1], 2);
    TRY("std; rep stosb; cld", : : "D"(p + 3), "a"(7), "c"(5) : "memory");
    __asm__ volatile("cld");
}

/* --- code --- */

/* mov $n, %eax; ret */
static void write_constant(uint8_t *code, uint32_t n)
{
    code[0] = 0xb8;
    memcpy(code + 1, &n, 4);
    code[5] = 0xc3;
}

static void changed_code_runs_changed(void)
{
    uint8_t *code = page_alloc();

    map_page(EDGE, code, PTE_P | PTE_W);
    for (uint32_t i = 0; i < 200; i++) {
        write_constant((uint8_t *)EDGE + 100, i);
        check_eq(((function)(EDGE + 100))(0), i);
    }
}

/* MOV EAX, imm32 in two pages: the second is written to, through another mapping too, is another one, and is not there. */
static void an_instruction_in_two_pages(void)
{
    uint8_t *first = page_alloc(), *second[2] = {page_alloc(), page_alloc()}, *next = (uint8_t *)EDGE + PAGE_SIZE;

    for (unsigned before = 1; before < 5; before++) {
        function code = (function)(next - before);
        uint8_t bytes[6];
        map_page(EDGE, first, PTE_P | PTE_W);
        for (uint32_t i = 0; i < 2; i++) {
            write_constant(bytes, 0x01010101 * (i + 1));
            map_page(EDGE + PAGE_SIZE, second[i], PTE_P | PTE_W);
            memcpy(next - before, bytes, before);
            memcpy(next, bytes + before, 6 - before);
        }
        uint32_t low = (0x02020202U & (uint32_t)(BIT(8 * (before - 1)) - 1)), high = ~(uint32_t)(BIT(8 * (before - 1)) - 1);
        for (uint32_t i = 0; i < 20; i++) {
            map_page(EDGE + PAGE_SIZE, second[i % 2], PTE_P | PTE_W);
            check_eq(code(0), low | (0x01010101 * (i % 2 + 1) & high));
            check_eq(code(0), low | (0x01010101 * (i % 2 + 1) & high));
        }
        for (uint32_t i = 0; i < 20; i++) {
            uint8_t *last = (i & 1 ? second[1] : next) + 4 - before; /* the immediate's last byte */
            *last = (uint8_t)(i + 3);
            check_eq(code(0) >> 24, i + 3);
        }
        unmap_page(EDGE + PAGE_SIZE);
        TRY("call *%0", : : "r"(code) : "memory", "rax");
        check(fault_count == 1 && fault.vector == EXC_PF);
        check_eq(fault.cr2, (word)next);
        check_eq(fault.rip, (word)code);
    }
}

/* The same block reads and writes a page that is code one time and another one not. */
static void code_that_is_read_and_written(void)
{
    uint8_t *code = page_alloc(), *data = page_alloc();

    map_page(EDGE, code, PTE_P | PTE_W);
    map_page(EDGE + PAGE_SIZE, data, PTE_P | PTE_W);
    for (uint32_t i = 0; i < 200; i++) {
        uint64_t at = EDGE + (i & 1) * PAGE_SIZE;
        if (i % 20 == 0)
            write_constant(code + 100, i);
        __asm__ volatile("mov 101(%0), %%eax; add $2, %%eax; incl (%0); mov %%eax, 101(%0)" : : "D"(at) : "memory", "rax");
        check_eq(((function)(EDGE + 100))(0), i / 20 * 20 + (i % 20 / 2 + 1) * 2);
        check_eq(bytes_at((uint8_t *)at, 4), i / 2 + 1);
        check_eq(bytes_at(data + 101, 4), (i + 1) / 2 * 2);
    }
}

static void code_changed_through_another_mapping(void)
{
    uint8_t *code = page_alloc();

    map_page(EDGE, code, PTE_P);
    map_page(ALIAS, code, PTE_P | PTE_W);
    for (uint32_t i = 0; i < 200; i++) {
        write_constant((uint8_t *)ALIAS + 100, i);
        check_eq(((function)(EDGE + 100))(0), i);
        __asm__ volatile("lock incl (%0)" : : "r"(ALIAS + 101) : "memory");
        check_eq(((function)(EDGE + 100))(0), i + 1);
    }
}

/* The block that runs writes to its own next instruction. */
static void a_block_may_change_itself(void)
{
    static const uint8_t text[] = {
        0xc6, 0x47, 0x0a, 0x2a, /* movb $42, 10(%rdi): the constant below */
        0x31, 0xc0,             /* xor %eax, %eax */
        0x90, 0x90, 0x90,       /* nop */
        0x83, 0xc0, 0x01,       /* add $1, %eax: offset 11 is the constant */
        0xc3,
    };
    uint8_t *code = page_alloc();

    map_page(EDGE, code, PTE_P | PTE_W);
    for (unsigned i = 0; i < 20; i++) {
        memcpy((uint8_t *)EDGE, text, sizeof(text));
        ((uint8_t *)EDGE)[2] = 11;
        check_eq(((function)EDGE)(EDGE), 42);
    }
}

static void code_across_two_pages(void)
{
    uint8_t *base = two_pages() + PAGE_SIZE;

    for (int off = -6; off <= 0; off++)
        for (uint32_t i = 0; i < 5; i++) {
            write_constant(base + off, i * 1000 + (uint32_t)(off + 6));
            check_eq(((function)(word)(base + off))(0), i * 1000 + (uint32_t)(off + 6));
        }
}

static void a_mapping_that_moves_takes_its_code_along(void)
{
    uint8_t *one = page_alloc(), *two = page_alloc();

    write_constant(one, 1);
    write_constant(two, 2);
    for (unsigned i = 0; i < 50; i++) {
        map_page(EDGE, i & 1 ? two : one, PTE_P);
        check_eq(((function)EDGE)(0), (i & 1) + 1);
    }
}

static void fetch_across_a_page_faults_at_the_second(void)
{
    uint8_t *p = map_edge(EDGE);

    p[PAGE_SIZE - 2] = 0xb8;
    TRY("call *%0", : : "r"(p + PAGE_SIZE - 2) : "memory", "rax");
    check(fault_count == 1 && fault.vector == EXC_PF);
    check_eq(fault.cr2, EDGE + PAGE_SIZE);
    check_eq(fault.rip, EDGE + PAGE_SIZE - 2);
}

GUEST_TESTS({"every size at every offset", every_size_and_offset}, {"vectors across pages", vectors_across_pages},
            {"a crossing store is all or nothing", a_crossing_store_is_all_or_nothing},
            {"many accesses at every offset", many_accesses_at_every_offset},
            {"many accesses stop at the fault", many_accesses_stop_at_the_fault},
            {"reads before a write only read", reads_before_a_write_only_read},
            {"string instructions stop at the fault", string_instructions_stop_at_the_fault},
            {"changed code runs changed", changed_code_runs_changed}, {"an instruction in two pages", an_instruction_in_two_pages},
            {"code that is read and written", code_that_is_read_and_written},
            {"code changed through another mapping", code_changed_through_another_mapping},
            {"a block may change itself", a_block_may_change_itself}, {"code across two pages", code_across_two_pages},
            {"a mapping that moves takes its code along", a_mapping_that_moves_takes_its_code_along},
            {"a fetch across a page faults at the second", fetch_across_a_page_faults_at_the_second});
