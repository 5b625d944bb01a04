/* Calls and returns: into code that is not what it was at the call, on stacks that are not aligned, and to where nothing is. */
#include "paging.h"
#include "test.h"

#define RW (PTE_P | PTE_W | PTE_U)
#define TIMES 40 /* enough for every jump on the way to be linked and cached */

/* call rdi; mov eax, value; ret */
static uint8_t *caller_page(uint32_t value)
{
    static const uint8_t code[] = {0xff, 0xd7, 0xb8, 0, 0, 0, 0, 0xc3};
    uint8_t *p = page_alloc();

    memcpy(p, code, sizeof(code));
    *(uint32_t *)(p + 3) = value;
    return p;
}

static uint32_t call(void (*callee)(void))
{
    uint32_t value;

    __asm__ volatile("call *%1"
                     : "=a"(value)
                     : "r"(TEST_HIGH), "D"(callee)
                     : "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc");
    return value;
}

static uint8_t *page[2];
static unsigned turn;
static word space[2];

static void nothing(void)
{
}

static void map_the_other(void)
{
    turn ^= 1;
    *pte_at(TEST_HIGH, 1) = (word)page[turn] | RW;
    invlpg((void *)TEST_HIGH);
}

static void other_space(void)
{
    turn ^= 1;
    write_cr3(space[turn]);
}

static void count(void)
{
    (*(volatile uint32_t *)(page[0] + 3))++;
}

static void check_turns(void (*callee)(void))
{
    for (unsigned i = 0; i < TIMES; i++) {
        check_eq(call(nothing), turn + 1);
        check_eq(call(callee), turn + 1);
    }
}

static void set_up(void)
{
    turn = 0;
    page[0] = caller_page(1);
    page[1] = caller_page(2);
    map_page(TEST_HIGH, page[0], RW);
}

static void mapped_elsewhere(void)
{
    set_up();
    check_turns(map_the_other);
}

static void in_another_address_space(void)
{
    uint64_t *other = page_alloc();

    set_up();
    memcpy(other, boot_pml4, PAGE_SIZE);
    other[TEST_HIGH >> 39 & 511] = 0;
    space[0] = read_cr3();
    space[1] = (word)other;
    write_cr3(space[1]);
    map_page(TEST_HIGH, page[1], RW);
    write_cr3(space[0]);
    check_turns(other_space);
    write_cr3(space[0]);
}

static void rewritten(void)
{
    set_up();
    for (unsigned i = 0; i < TIMES; i++) {
        check_eq(call(nothing), 1 + i);
        check_eq(call(count), 2 + i);
    }
}

/* call *rdi on the stack at sp, and back; the number that the callee leaves in rax. */
static uint64_t call_on(word sp, void (*callee)(void))
{
    uint64_t value;
    word behind;

    __asm__ volatile("mov %%rsp, %%rbx\n mov %2, %%rsp\n call *%%rdi\n mov %%rsp, %%rcx\n mov %%rbx, %%rsp"
                     : "=a"(value), "=c"(behind)
                     : "r"(sp), "D"(callee)
                     : "rbx", "rdx", "rsi", "r8", "r9", "r10", "r11", "memory", "cc");
    check_eq(behind, sp);
    return value;
}

volatile word skew;

/* Calls that go three deep, with nothing between them on the stack; each adds what tells the way that it was gone. */
void deep_callee(void);
__asm__("deep_callee:\n xor %eax, %eax\n call 1f\n add $1, %rax\n call 1f\n add $2, %rax\n ret\n"
        "1: lea 2f(%rip), %rdx\n call *%rdx\n add $16, %rax\n ret\n"
        "2: add $256, %rax\n ret");

static void on_odd_stacks(void)
{
    map_page(TEST_HIGH, page_alloc(), RW);
    map_page(TEST_HIGH + PAGE_SIZE, page_alloc(), RW);
    for (unsigned again = 0; again < 3; again++)
        for (unsigned i = 0; i < 64; i++) /* the stack's page ends within one of the return addresses, or between two */
            check_eq(call_on(TEST_HIGH + PAGE_SIZE + 40 - i, deep_callee), 1 + 2 + 2 * 16 + 2 * 256);
}

/* Leaves for a stack of another page meanwhile, by `skew` beside where it stands in this one. */
void leaving_callee(void);
__asm__("leaving_callee:\n mov %rsp, %rdx\n mov %rsp, %rcx\n add skew, %rcx\n lea 4096+8(%rcx), %rsp\n xor %eax, %eax\n call 2b\n"
        "mov %rdx, %rsp\n ret");

static void on_two_stacks(void)
{
    map_page(TEST_HIGH, page_alloc(), RW);
    map_page(TEST_HIGH + PAGE_SIZE, page_alloc(), RW);
    for (unsigned i = 0; i < TIMES; i++) {
        skew = i & 15;
        check_eq(call_on(TEST_HIGH + 64, leaving_callee), 256);
    }
}

/* Returns not behind the call, but three bytes further on. */
void skipping_callee(void);
__asm__("skipping_callee:\n addq $3, (%rsp)\n ret");

static void to_where_the_callee_points(void)
{
    for (unsigned i = 0; i < TIMES; i++) {
        uint64_t value = i;
        __asm__ volatile("call *%1\n inc %0\n add $2, %0" : "+r"(value) : "r"(i & 1 ? skipping_callee : nothing) : "memory", "cc");
        check_eq(value, i + (i & 1 ? 2 : 3));
    }
}

/* Nothing of such a call has happened: the stack and what lies below are what they were. */
static void calls_to_no_address(void)
{
    uint64_t *below = (uint64_t *)(page_alloc() + 64);

    tss.ist[1] = (word)page_alloc() + PAGE_SIZE;
    idt[EXC_GP].ist = 1;
    for (unsigned i = 0; i < 3; i++) {
        below[-1] = 0x1234;
        TRY("mov %%rsp, %%rbx\n mov %0, %%rsp\n" AT "call *%1", : : "r"(below), "r"(0x8000000000000000UL) : "rbx", "memory");
        check_fault(EXC_GP, 0);
        check_eq(fault.rsp, (word)below);
        check_eq(below[-1], 0x1234);
    }
}

/* The last page below the hole in the address space: what a call at its end pushes is no address, and the return faults itself. */
static void returns_to_no_address(void)
{
    const word last = 0x7ffffffff000;
    uint8_t *bytes = page_alloc();

    bytes[0] = 0xc3; /* ret */
    bytes[PAGE_SIZE - 5] = 0xe8;
    *(uint32_t *)(bytes + PAGE_SIZE - 4) = -(uint32_t)PAGE_SIZE; /* call the page's start */
    map_page(last, bytes, RW);
    tss.ist[1] = (word)page_alloc() + PAGE_SIZE;
    idt[EXC_GP].ist = 1;
    for (unsigned i = 0; i < 3; i++) {
        TRY("jmp *%0", : : "r"(last + PAGE_SIZE - 5) : "memory");
        check_fault_rip(EXC_GP, 0, last);
        check_eq(fault.rsp, try_sp - 8);
    }
}

/* Each of them looks its page up by itself, in one block. */
static void many_of_one_stack(void)
{
    word *stack = page_alloc();

    *stack = (word)stack;
    __asm__ volatile("mov %%rsp, %%rbx\n mov %0, %%rsp\n .fill 64, 1, 0x5c\n mov %%rsp, %%rcx\n mov %%rbx, %%rsp\n" /* pop rsp */
                     : "+r"(stack)
                     :
                     : "rbx", "rcx", "memory");
}

GUEST_TESTS({"to a page that was mapped elsewhere", mapped_elsewhere}, {"to another address space", in_another_address_space},
            {"to bytes that were changed", rewritten}, {"on stacks that are not aligned, where a page ends", on_odd_stacks},
            {"on two stacks that are not aligned to each other", on_two_stacks}, {"to where the callee points", to_where_the_callee_points},
            {"a call to no address does nothing", calls_to_no_address}, {"nor does a return", returns_to_no_address},
            {"64 stack pointers from the stack", many_of_one_stack});
