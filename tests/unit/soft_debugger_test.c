/* A debugger on the software engine: where breakpoints, watchpoints and single steps stop, and what the guest sees of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpu/vcpu.h"

#define CODE 0x10000U /* where the code below goes; it takes more than one page */
#define DATA 0x20000U
#define STACK 0x30000U
#define GDT 0x40000U
#define IDT 0x41000U
#define HANDLER 0x42000U /* + 16 * vector: each begins with NOP, IRET */

/* 32-bit code without paging. Addresses: AT(label). */
__asm__(".pushsection .rodata\n"
        ".code32\n"
        "code:\n"
        "count_loop: mov $1000, %ecx\n"
        "again: call far_function\n"
        "after_call: dec %ecx\n"
        "jnz again\n"
        "loop_done: jmp loop_done\n"

        "stores: movl $1, 0x20000\n"
        "stored: movl 0x20000, %eax\n"
        "loaded: incl 0x20000\n"
        "added: movl $5, 0x20ffe\n" /* crosses a page */
        "crossed: movb $7, 0x20004\n"
        "beside: nop\n"
        "jmp beside\n"

        "strings: mov $0x20000, %edi; mov $0x21000, %esi; mov $64, %ecx; cld\n"
        "rep_here: rep movsb\n"
        "rep_done: mov $0x20000, %edi; mov $2048, %ecx; mov $0x55, %eax\n"
        "stos_here: rep stosl\n"
        "stos_done: jmp stos_done\n"

        "events: nop\n"
        "invalid: ud2\n"
        "int_here: int $0x40\n"
        "int_done: mov %ss, %ax\n"
        "mov_ss: mov %ax, %ss\n"
        "in_shadow: nop\n"
        "pushes: push $0x202; popf\n"
        "sleeps: hlt\n"
        "woken: jmp woken\n"

        "traced: pushf; orl $0x100, (%esp)\n"
        "sets_tf: popf\n"
        "under_tf: nop\n"
        "after_tf: jmp after_tf\n"

        "calls_anywhere: mov $0x11800, %eax\n" /* far_function */
        "call *%eax\n"
        "jmp calls_anywhere\n"

        ".org code + 0xffd\n"
        "crosses: mov $1, %eax\n"
        "crossed_page: inc %ebx\n"
        "in_next_page: jmp crosses\n"

        ".org code + 0x1800\n"
        "far_function: incl %ebx\n"
        "ret\n"
        "code_end:\n"
        ".code64\n"
        ".popsection\n");
extern const uint8_t code[], code_end[];
extern const uint8_t count_loop[], after_call[], loop_done[], stores[], stored[], loaded[], added[], crossed[], beside[], strings[],
    rep_here[], rep_done[], stos_here[], stos_done[], events[], invalid[], int_here[], int_done[], mov_ss[], in_shadow[], pushes[],
    sleeps[], woken[], traced[], sets_tf[], under_tf[], after_tf[], calls_anywhere[], crosses[], crossed_page[], in_next_page[],
    far_function[];
#define AT(name) (CODE + (uint32_t)((name)-code))

struct test {
    struct vm vm;
    struct vcpu *vcpu;
    struct cpu_state state; /* after the last stop */
    struct vm_exit exit;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stopped;
};

static void on_stop(void *opaque, struct vcpu *vcpu)
{
    struct test *t = opaque;

    (void)vcpu;
    pthread_mutex_lock(&t->lock);
    t->stopped = true;
    pthread_cond_signal(&t->changed);
    pthread_mutex_unlock(&t->lock);
}

static void put(struct test *t, gpa_t gpa, const void *bytes, size_t n)
{
    assert_int_equal(mem_write(&t->vm.mem, gpa, bytes, n), 0);
}

static uint32_t get32(struct test *t, gpa_t gpa)
{
    uint32_t value;

    assert_int_equal(mem_read(&t->vm.mem, gpa, &value, sizeof(value)), 0);
    return value;
}

static void write_tables(struct test *t)
{
    static const uint64_t gdt[] = {0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff}; /* flat: code 0x10, data 0x18 */

    put(t, GDT, gdt, sizeof(gdt));
    for (uint32_t v = 0; v < 256; v++) {
        uint32_t handler = HANDLER + 16 * v;
        const uint32_t gate[] = {0x10U << 16 | (handler & 0xffff), (handler & 0xffff0000) | 0x8e00};

        put(t, IDT + 8 * v, gate, sizeof(gate));
        put(t, handler, "\x90\xcf", 2);
    }
    put(t, HANDLER + 16 * 6, "\x83\x04\x24\x02\xcf", 5); /* #UD: past the UD2 */
}

static void begin(struct test *t, uint32_t eip)
{
    cpu_state_flat32(&t->state, eip);
    t->state.seg[SEG_CS].sel = 0x10;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        if (i != SEG_CS)
            t->state.seg[i].sel = 0x18;
    t->state.gdtr = (struct cpu_table){.base = GDT, .limit = 31};
    t->state.idtr = (struct cpu_table){.base = IDT, .limit = 2047};
    t->state.gpr[GPR_RSP] = STACK;
    assert_int_equal(vcpu_set_state(t->vcpu, &t->state, CPU_ALL), 0);
}

static int setup(void **state)
{
    struct test *t = aligned_alloc(64, ALIGN_UP(sizeof(*t), 64));
    struct err e;

    assert_non_null(t);
    memset(t, 0, sizeof(*t));
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->changed, NULL);
    vm_init(&t->vm);
    t->vm.config.cpus = 1;
    t->vm.engine = &engine_soft;
    t->vm.loop = loop_new(&e);
    bus_init(&t->vm.pio);
    bus_init(&t->vm.mmio);
    t->vm.debugger = (struct vm_debugger){.opaque = t, .stopped = on_stop};
    if (mem_init(&t->vm.mem, MIB(2), false, &e) != 0 || t->vm.engine->vm_init(&t->vm, &e) != 0 || vcpu_new(&t->vm, 0, &e) != 0)
        fail_msg("%s", e.text);
    t->vcpu = t->vm.vcpus[0];
    write_tables(t);
    put(t, CODE, code, (size_t)(code_end - code));
    vcpu_hold_all(&t->vm);
    vcpu_resume_all(&t->vm, VM_HOLD_MACHINE);
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    struct test *t = *state;

    vcpu_free(t->vcpu);
    t->vm.engine->vm_fini(&t->vm);
    mem_fini(&t->vm.mem);
    bus_fini(&t->vm.mmio);
    bus_fini(&t->vm.pio);
    loop_free(t->vm.loop);
    vm_fini(&t->vm);
    free(t);
    return 0;
}

static void release(struct test *t, const struct vcpu_debug *wish)
{
    assert_int_equal(vcpu_debug(t->vcpu, wish), 0);
    t->stopped = false;
    t->vcpu->debug_stopped = false;
    vcpu_release(t->vcpu);
}

static void wait_for_stop(struct test *t)
{
    pthread_mutex_lock(&t->lock);
    while (!t->stopped)
        pthread_cond_wait(&t->changed, &t->lock);
    pthread_mutex_unlock(&t->lock);
    vcpu_hold_all(&t->vm);
    t->exit = t->vcpu->debug;
    assert_int_equal(vcpu_get_state(t->vcpu, &t->state, CPU_ALL), 0);
}

/* Runs until the debugger's wish comes true. */
static void go(struct test *t, const struct vcpu_debug *wish)
{
    release(t, wish);
    wait_for_stop(t);
}

static void step_to(struct test *t, uint32_t eip)
{
    static const struct vcpu_debug step = {.single_step = true};

    go(t, &step);
    assert_int_equal(t->exit.debug.stop, DEBUG_STOP_STEP);
    assert_int_equal(t->state.rip, eip);
}

static struct vcpu_debug breakpoint(uint32_t eip)
{
    return (struct vcpu_debug){.breakpoint_count = 1, .breakpoint = {eip}};
}

static struct vcpu_debug point(gva_t gva, unsigned len, enum vcpu_debug_kind kind)
{
    return (struct vcpu_debug){.point_count = 1, .point = {{.gva = gva, .len = (uint8_t)len, .kind = kind}}};
}

static void run_to(struct test *t, uint32_t eip)
{
    const struct vcpu_debug wish = breakpoint(eip);

    go(t, &wish);
    assert_int_equal(t->exit.debug.stop, DEBUG_STOP_BREAKPOINT);
    assert_int_equal(t->exit.debug.gva, eip);
    assert_int_equal(t->state.rip, eip);
}

/* --- breakpoints --- */

static void a_breakpoint_stops_before_its_instruction_every_time(void **state)
{
    struct test *t = *state;

    begin(t, AT(count_loop));
    for (uint32_t round = 0; round < 5; round++) {
        run_to(t, AT(far_function));
        assert_int_equal(t->state.gpr[GPR_RBX], round);
        assert_int_equal(t->state.gpr[GPR_RCX], 1000 - round);
        step_to(t, AT(far_function) + 1);
    }
    run_to(t, AT(loop_done)); /* what ran meanwhile is translated */
    assert_int_equal(t->state.gpr[GPR_RBX], 1000);
}

static void a_breakpoint_at_rip_stops_at_once(void **state)
{
    struct test *t = *state;

    begin(t, AT(count_loop));
    run_to(t, AT(count_loop));
    run_to(t, AT(count_loop));
    assert_int_equal(t->state.gpr[GPR_RCX], 0);
}

static void code_that_is_translated_and_linked_meets_a_new_breakpoint(void **state)
{
    struct test *t = *state;
    struct vcpu_debug wish = point(AT(after_call), 1, VCPU_DEBUG_EXECUTE);

    begin(t, AT(count_loop));
    run_to(t, AT(loop_done));
    begin(t, AT(count_loop));
    go(t, &wish);
    assert_int_equal(t->exit.debug.stop, DEBUG_STOP_EXECUTE);
    assert_int_equal(t->exit.debug.point, 0);
    assert_int_equal(t->state.rip, AT(after_call));
    assert_int_equal(t->state.gpr[GPR_RBX], 1);
}

static void a_call_to_anywhere_meets_it(void **state)
{
    struct test *t = *state;

    begin(t, AT(calls_anywhere));
    for (uint32_t round = 0; round < 3; round++) {
        run_to(t, AT(far_function));
        assert_int_equal(t->state.gpr[GPR_RBX], round);
        step_to(t, AT(far_function) + 1);
    }
}

/* The instruction before lies in a page that has no breakpoint, too, and its block knows both. */
static void behind_an_instruction_that_crosses_pages_it_is_met(void **state)
{
    struct test *t = *state;
    struct vcpu_debug rounds = point(DATA, 4, VCPU_DEBUG_WRITE); /* never */

    begin(t, AT(crosses));
    release(t, &rounds);
    usleep(20000); /* enough for translated blocks and links between them */
    vcpu_hold_all(&t->vm);
    run_to(t, AT(crossed_page));
    run_to(t, AT(in_next_page));
    run_to(t, AT(crossed_page));
}

static void guest_memory_shows_nothing_of_a_breakpoint(void **state)
{
    struct test *t = *state;
    uint8_t bytes[0x1804];

    begin(t, AT(count_loop));
    run_to(t, AT(far_function));
    assert_int_equal(mem_read(&t->vm.mem, CODE, bytes, sizeof(bytes)), 0);
    assert_memory_equal(bytes, code, MIN(sizeof(bytes), (size_t)(code_end - code)));
}

/* --- single steps --- */

static void a_step_is_one_instruction_and_one_iteration(void **state)
{
    struct test *t = *state;

    begin(t, AT(count_loop));
    step_to(t, AT(count_loop) + 5);
    step_to(t, AT(far_function));
    step_to(t, AT(far_function) + 1);
    step_to(t, AT(after_call));
    begin(t, AT(strings));
    run_to(t, AT(rep_here));
    for (uint32_t left = 63; left > 0; left--) {
        step_to(t, AT(rep_here));
        assert_int_equal(t->state.gpr[GPR_RCX], left);
    }
    step_to(t, AT(rep_done));
}

static void a_step_ends_in_front_of_a_handler(void **state)
{
    struct test *t = *state;

    begin(t, AT(events));
    step_to(t, AT(invalid));
    step_to(t, HANDLER + 16 * EXC_UD);
    assert_int_equal(get32(t, STACK - 12), AT(invalid));
    step_to(t, HANDLER + 16 * EXC_UD + 4);
    step_to(t, AT(int_here));
    step_to(t, HANDLER + 16 * 0x40);
    step_to(t, HANDLER + 16 * 0x40 + 1);
    step_to(t, AT(int_done));
    step_to(t, AT(mov_ss));
    step_to(t, AT(in_shadow));
    step_to(t, AT(pushes));
}

static void an_interrupt_waits_while_code_is_stepped(void **state)
{
    struct test *t = *state;

    begin(t, AT(count_loop));
    run_to(t, AT(far_function));
    assert_int_equal(t->vm.engine->nmi(t->vcpu), 0);
    step_to(t, AT(far_function) + 1);
    step_to(t, AT(after_call));
    run_to(t, HANDLER + 16 * EXC_NMI);
    assert_int_equal(get32(t, STACK - 12), AT(after_call));
}

static void a_step_of_a_halted_cpu_ends_in_front_of_the_handler_that_wakes_it(void **state)
{
    static const struct vcpu_debug step = {.single_step = true};
    struct test *t = *state;

    begin(t, AT(events));
    run_to(t, AT(sleeps));
    step_to(t, AT(woken));
    assert_true(t->state.halted);
    release(t, &step);
    vcpu_hold_all(&t->vm); /* as an impatient debugger does */
    vcpu_release(t->vcpu);
    assert_int_equal(t->vm.engine->nmi(t->vcpu), 0);
    wait_for_stop(t);
    assert_int_equal(t->exit.debug.stop, DEBUG_STOP_STEP);
    assert_int_equal(t->state.rip, HANDLER + 16 * EXC_NMI);
    assert_int_equal(get32(t, STACK - 12), AT(woken));
    step_to(t, HANDLER + 16 * EXC_NMI + 1);
}

static void a_guests_own_trap_flag_stays_its_own(void **state)
{
    struct test *t = *state;

    begin(t, AT(traced));
    run_to(t, AT(sets_tf));
    assert_false(t->state.rflags & FLAG_TF);
    step_to(t, AT(under_tf));
    assert_true(t->state.rflags & FLAG_TF);
    step_to(t, HANDLER + 16 * EXC_DB);
    assert_int_equal(get32(t, STACK - 12), AT(after_tf));
    assert_int_equal(get32(t, STACK - 4) & FLAG_TF, FLAG_TF);
    assert_int_equal(t->state.dr6 & BIT(14), BIT(14));
}

static void a_guests_own_breakpoint_stays_its_own(void **state)
{
    struct test *t = *state;
    const struct vcpu_debug wish = point(DATA, 4, VCPU_DEBUG_WRITE);

    begin(t, AT(stores));
    t->state.dr[0] = DATA;
    t->state.dr7 = DR7_FIXED | 1 | 0xfU << 16; /* DR0: accesses of 4 bytes */
    assert_int_equal(vcpu_set_state(t->vcpu, &t->state, CPU_DEBUG), 0);
    go(t, &wish);
    assert_int_equal(t->exit.debug.stop, DEBUG_STOP_WATCH);
    assert_int_equal(t->state.rip, HANDLER + 16 * EXC_DB); /* both met: the guest's #DB is delivered */
    assert_int_equal(get32(t, STACK - 12), AT(stored));
    assert_int_equal(t->state.dr7, DR7_FIXED | 1 | 0xfU << 16);
}

/* --- watchpoints --- */

static void watch(struct test *t, const struct vcpu_debug *wish, gva_t gva, uint32_t eip)
{
    go(t, wish);
    assert_int_equal(t->exit.debug.stop, DEBUG_STOP_WATCH);
    assert_int_equal(t->exit.debug.gva, gva);
    assert_int_equal(t->state.rip, eip);
}

static void a_write_watchpoint_stops_behind_each_write(void **state)
{
    struct test *t = *state;
    const struct vcpu_debug first = point(DATA, 4, VCPU_DEBUG_WRITE), second = point(DATA + 0x1000, 2, VCPU_DEBUG_WRITE);

    begin(t, AT(stores));
    watch(t, &first, DATA, AT(stored));
    assert_int_equal(get32(t, DATA), 1);
    watch(t, &first, DATA, AT(added));
    assert_int_equal(get32(t, DATA), 2);
    watch(t, &second, DATA + 0x1000, AT(crossed));
    run_to(t, AT(beside)); /* a byte beside it is nothing to the first one */
    begin(t, AT(crossed));
    struct vcpu_debug both = point(DATA, 4, VCPU_DEBUG_WRITE);
    both.breakpoint[both.breakpoint_count++] = AT(beside);
    go(t, &both);
    assert_int_equal(t->exit.debug.stop, DEBUG_STOP_BREAKPOINT);
}

static void a_read_watchpoint_sees_reads_and_updates_but_no_stores(void **state)
{
    struct test *t = *state;
    const struct vcpu_debug wish = point(DATA, 4, VCPU_DEBUG_READ);

    begin(t, AT(stores));
    watch(t, &wish, DATA, AT(loaded));
    watch(t, &wish, DATA, AT(added));
}

static void an_access_watchpoint_sees_both(void **state)
{
    struct test *t = *state;
    const struct vcpu_debug wish = point(DATA + 1, 1, VCPU_DEBUG_ACCESS);

    begin(t, AT(stores));
    watch(t, &wish, DATA + 1, AT(stored));
    watch(t, &wish, DATA + 1, AT(loaded));
    watch(t, &wish, DATA + 1, AT(added));
}

static void a_repeated_string_stops_behind_the_element(void **state)
{
    struct test *t = *state;
    const struct vcpu_debug byte = point(DATA + 40, 1, VCPU_DEBUG_WRITE), word = point(DATA + 0x1008, 8, VCPU_DEBUG_WRITE);

    begin(t, AT(strings));
    watch(t, &byte, DATA + 40, AT(rep_here));
    assert_int_equal(t->state.gpr[GPR_RCX], 64 - 41);
    watch(t, &word, DATA + 0x1008, AT(stos_here));
    assert_int_equal(t->state.gpr[GPR_RDI], DATA + 0x100c);
    watch(t, &word, DATA + 0x100c, AT(stos_here));
    run_to(t, AT(stos_done));
    assert_int_equal(get32(t, DATA + 8188), 0x55);
}

static void the_frame_of_an_exception_is_a_write(void **state)
{
    struct test *t = *state;
    const struct vcpu_debug wish = point(STACK - 12, 4, VCPU_DEBUG_WRITE);

    begin(t, AT(events));
    watch(t, &wish, STACK - 12, HANDLER + 16 * EXC_UD);
    run_to(t, AT(int_here));
    assert_int_equal(t->vm.engine->nmi(t->vcpu), 0);
    watch(t, &wish, STACK - 12, HANDLER + 16 * EXC_NMI);
}

static void code_that_is_translated_meets_a_new_watchpoint(void **state)
{
    struct test *t = *state;
    const struct vcpu_debug wish = point(STACK - 4, 4, VCPU_DEBUG_READ);

    begin(t, AT(count_loop));
    run_to(t, AT(loop_done));
    begin(t, AT(count_loop));
    for (uint32_t round = 1; round < 4; round++) {
        watch(t, &wish, STACK - 4, AT(after_call)); /* RET */
        assert_int_equal(t->state.gpr[GPR_RBX], round);
    }
    run_to(t, AT(loop_done));
    assert_int_equal(t->state.gpr[GPR_RBX], 1000);
}

/* --- what cannot be --- */

static void what_no_debug_register_could_hold_is_refused(void **state)
{
    struct test *t = *state;
    static const struct vcpu_debug bad[] = {
        {.point_count = 1, .point = {{.gva = DATA, .len = 3, .kind = VCPU_DEBUG_WRITE}}},
        {.point_count = 1, .point = {{.gva = DATA + 1, .len = 2, .kind = VCPU_DEBUG_WRITE}}},
        {.point_count = 1, .point = {{.gva = DATA, .len = 0, .kind = VCPU_DEBUG_WRITE}}},
        {.point_count = 1, .point = {{.gva = DATA, .len = 2, .kind = VCPU_DEBUG_EXECUTE}}},
        {.point_count = VCPU_DEBUG_POINTS + 1},
        {.breakpoint_count = VCPU_DEBUG_BREAKPOINTS + 1},
    };
    const struct vcpu_debug good = point(DATA, 4, VCPU_DEBUG_WRITE);

    begin(t, AT(stores));
    assert_int_equal(vcpu_debug(t->vcpu, &good), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(vcpu_debug(t->vcpu, &bad[i]), -EINVAL);
    vcpu_release(t->vcpu); /* what was asked before stays */
    wait_for_stop(t);
    assert_int_equal(t->state.rip, AT(stored));
}

#define DEBUGGER_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        DEBUGGER_TEST(a_breakpoint_stops_before_its_instruction_every_time),
        DEBUGGER_TEST(a_breakpoint_at_rip_stops_at_once),
        DEBUGGER_TEST(code_that_is_translated_and_linked_meets_a_new_breakpoint),
        DEBUGGER_TEST(a_call_to_anywhere_meets_it),
        DEBUGGER_TEST(behind_an_instruction_that_crosses_pages_it_is_met),
        DEBUGGER_TEST(guest_memory_shows_nothing_of_a_breakpoint),
        DEBUGGER_TEST(a_step_is_one_instruction_and_one_iteration),
        DEBUGGER_TEST(a_step_ends_in_front_of_a_handler),
        DEBUGGER_TEST(an_interrupt_waits_while_code_is_stepped),
        DEBUGGER_TEST(a_step_of_a_halted_cpu_ends_in_front_of_the_handler_that_wakes_it),
        DEBUGGER_TEST(a_guests_own_trap_flag_stays_its_own),
        DEBUGGER_TEST(a_guests_own_breakpoint_stays_its_own),
        DEBUGGER_TEST(a_write_watchpoint_stops_behind_each_write),
        DEBUGGER_TEST(a_read_watchpoint_sees_reads_and_updates_but_no_stores),
        DEBUGGER_TEST(an_access_watchpoint_sees_both),
        DEBUGGER_TEST(a_repeated_string_stops_behind_the_element),
        DEBUGGER_TEST(the_frame_of_an_exception_is_a_write),
        DEBUGGER_TEST(code_that_is_translated_meets_a_new_watchpoint),
        DEBUGGER_TEST(what_no_debug_register_could_hold_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
