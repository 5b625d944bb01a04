/* Returns into code that is not what it was at the call: the caller's page is mapped elsewhere, or its bytes are others. */
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

GUEST_TESTS({"to a page that was mapped elsewhere", mapped_elsewhere}, {"to another address space", in_another_address_space},
            {"to bytes that were changed", rewritten});
