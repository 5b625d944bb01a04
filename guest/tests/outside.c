/* Code that another process writes into guest memory: once it is told of, and the page is mapped anew, it runs. tests/guest does the writing. */
#include "paging.h"
#include "test.h"

#define WINDOW TEST_HIGH
#define ROUNDS 20
#define FLAG 0xffc /* where in the page the writer says how many times it wrote */

/* mov $ROUND, %eax; ret */
static void changed_from_outside(void)
{
    uint8_t *page = page_alloc();
    volatile uint32_t *flag = (volatile uint32_t *)(page + FLAG);

    page[0] = 0xb8;
    page[5] = 0xc3;
    print("code at %lx\n", (word)page);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        map_page(WINDOW, page, PTE_P | PTE_W);
        for (unsigned i = 0; i < 3; i++)
            check_eq(((uint32_t(*)(void))WINDOW)(), round);
        print("ran %lx\n", (word)round);
        while (*flag != round + 1)
            __asm__ volatile("pause");
    }
}

GUEST_TESTS({"changed from outside", changed_from_outside});
