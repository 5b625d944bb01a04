/* Single instructions: which of them single-stepping sees, what becomes of breakpoints that a fault met, where a fetch ends. */
#include "soft_fake.h"

#include "engine/soft/debug.h"
#include "engine/soft/step.h"

#define CODE ARENA
#define DATA (ARENA + 0x4000)

static struct {
    unsigned count;
    enum soft_event event;
    uint8_t vector;
    uint64_t dr6;
} delivered;

/* Every gate clears TF and leads to CODE. */
int soft_deliver(struct soft_cpu *cpu, enum soft_event event, const struct soft_exception *e)
{
    delivered.count++;
    delivered.event = event;
    delivered.vector = e->vector;
    delivered.dr6 = e->dr6;
    cpu->rflags &= ~FLAG_TF;
    cpu->rip = cpu->next_rip = CODE;
    return SOFT_OK;
}

int mmu_fetch(struct soft_cpu *cpu, gva_t gva, gpa_t *gpa, const uint8_t **hva)
{
    (void)cpu;
    *gpa = gva;
    *hva = (const uint8_t *)(uintptr_t)gva;
    return SOFT_OK;
}

static struct soft_exec exec;

static int setup(void **state)
{
    struct fake *f;
    struct err e;

    if (fake_setup(state) != 0)
        return -1;
    f = *state;
    exec = (struct soft_exec){0};
    f->cpu.exec = &exec;
    f->cpu.dr7 = DR7_FIXED;
    f->cpu.gpr[GPR_RSP] = DATA + 0x100;
    memset(&delivered, 0, sizeof(delivered));
    return step_init(&f->cpu, &e);
}

static int teardown(void **state)
{
    struct fake *f = *state;

    step_fini(&f->cpu);
    return fake_teardown(state);
}

static void run(struct fake *f, const void *bytes, size_t n)
{
    memcpy(arena(0), bytes, n);
    f->cpu.rip = CODE;
    assert_int_equal(soft_step(&f->cpu), SOFT_OK);
}

#define STEP(f, ...) run(f, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void instructions_trap_while_tf_is_set(void **state)
{
    struct fake *f = *state;

    STEP(f, 0x50); /* push rax */
    assert_int_equal(delivered.count, 0);
    f->cpu.rflags |= FLAG_TF;
    STEP(f, 0x50);
    assert_int_equal(delivered.count, 1);
    assert_int_equal(delivered.event, EVENT_EXCEPTION);
    assert_int_equal(delivered.vector, EXC_DB);
    assert_int_equal(delivered.dr6, DR6_BS);
}

static void software_interrupts_do_not_trap_in_their_handler(void **state)
{
    struct fake *f = *state;

    f->cpu.rflags |= FLAG_TF;
    STEP(f, 0xcd, 0x80); /* int 80h */
    assert_int_equal(delivered.count, 1);
    assert_int_equal(delivered.event, EVENT_SOFTWARE_INT);
    f->cpu.rflags |= FLAG_TF;
    STEP(f, 0xcc); /* int3 */
    assert_int_equal(delivered.count, 2);
    assert_int_equal(delivered.vector, EXC_BP);
}

/* Linux masks TF and warns about a trap at its entry. */
static void syscall_traps_unless_its_mask_clears_tf(void **state)
{
    struct fake *f = *state;

    f->cpu.lstar = CODE;
    f->cpu.sfmask = FLAG_TF;
    f->cpu.rflags |= FLAG_TF;
    STEP(f, 0x0f, 0x05);
    assert_int_equal(delivered.count, 0);
    assert_true(f->cpu.gpr[GPR_R11] & FLAG_TF);
    f->cpu.sfmask = 0;
    f->cpu.rflags |= FLAG_TF;
    STEP(f, 0x0f, 0x05);
    assert_int_equal(delivered.count, 1);
    assert_int_equal(delivered.vector, EXC_DB);
}

static void sysret_that_sets_tf_traps_at_once(void **state)
{
    struct fake *f = *state;

    f->cpu.gpr[GPR_RCX] = CODE;
    f->cpu.gpr[GPR_R11] = FLAG_ONE | FLAG_TF;
    STEP(f, 0x48, 0x0f, 0x07);
    assert_int_equal(delivered.count, 1);
    assert_int_equal(delivered.dr6, DR6_BS);
}

static void a_breakpoint_on_data_traps_behind_the_access_alone(void **state)
{
    struct fake *f = *state;

    f->cpu.dr[0] = DATA + 0xf8;
    f->cpu.dr7 |= 0xb0002; /* DR0: writes and reads of 8 bytes */
    fake_seen.page[(DATA - ARENA) / PAGE_SIZE] = PAGE_ABSENT;
    STEP(f, 0x50); /* push rax: faults */
    assert_int_equal(delivered.count, 1);
    assert_int_equal(delivered.vector, EXC_PF);
    STEP(f, 0x90); /* the handler's first instruction */
    assert_int_equal(delivered.count, 1);
    fake_seen.page[(DATA - ARENA) / PAGE_SIZE] = PAGE_RAM;
    STEP(f, 0x50); /* again, and now it happens */
    assert_int_equal(delivered.count, 2);
    assert_int_equal(delivered.vector, EXC_DB);
    assert_int_equal(delivered.dr6, 1);
}

/* mov eax, imm32 with two bytes in the first page; the segment ends somewhere in the second. */
static void an_instruction_ends_inside_its_segment(void **state)
{
    struct fake *f = *state;
    static const uint8_t mov[] = {0xb8, 0x11, 0x22, 0x33, 0x44};
    uint64_t start = ARENA + PAGE_SIZE - 2;

    fake_protected_mode(f, 32);
    memcpy(arena(PAGE_SIZE - 2), mov, sizeof(mov));
    for (unsigned last = 0; last < 6; last++) {        /* of its bytes, with the segment's limit there */
        for (unsigned again = 0; again < 2; again++) { /* decoded anew, and from the cache */
            unsigned before = delivered.count;
            f->cpu.seg[SEG_CS].limit = (uint32_t)start + last;
            f->cpu.rip = start;
            f->cpu.gpr[GPR_RAX] = 0;
            assert_int_equal(soft_step(&f->cpu), SOFT_OK);
            assert_int_equal(delivered.count - before, last < 4);
            assert_int_equal(f->cpu.gpr[GPR_RAX], last < 4 ? 0 : 0x44332211);
            if (last < 4)
                assert_int_equal(delivered.vector, EXC_GP);
        }
    }
    f->cpu.seg[SEG_CS].limit = (uint32_t)start + 3; /* cut off, where it was whole a moment ago */
    f->cpu.rip = start;
    unsigned before = delivered.count;
    assert_int_equal(soft_step(&f->cpu), SOFT_OK);
    assert_int_equal(delivered.count - before, 1);
    assert_int_equal(delivered.vector, EXC_GP);
}

/* What waits in the x87 unit comes before a page fault of MMX instructions, but CVTPI2PS from memory has no MMX register. */
static void a_waiting_x87_exception_is_looked_at_by_mmx_instructions(void **state)
{
    struct fake *f = *state;

    f->cpu.gpr[GPR_RAX] = ARENA + ARENA_BYTES; /* nothing there */
    vec_image_use(&f->cpu, XSTATE_X87);
    vec_put16(f->cpu.xsave + FX_FSW, 0x80 | 0x01); /* ES, IE */
    STEP(f, 0x0f, 0xfc, 0x00);                     /* paddb mm0, [rax] */
    assert_int_equal(delivered.vector, EXC_MF);
    STEP(f, 0x0f, 0x2d, 0x00); /* cvtps2pi mm0, [rax] */
    assert_int_equal(delivered.vector, EXC_MF);
    STEP(f, 0x0f, 0x2a, 0x00); /* cvtpi2ps xmm0, [rax] */
    assert_int_equal(delivered.vector, EXC_PF);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(instructions_trap_while_tf_is_set),
        TEST(software_interrupts_do_not_trap_in_their_handler),
        TEST(syscall_traps_unless_its_mask_clears_tf),
        TEST(sysret_that_sets_tf_traps_at_once),
        TEST(a_breakpoint_on_data_traps_behind_the_access_alone),
        TEST(an_instruction_ends_inside_its_segment),
        TEST(a_waiting_x87_exception_is_looked_at_by_mmx_instructions),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
