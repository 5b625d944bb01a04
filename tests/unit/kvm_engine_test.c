/* The KVM engine: accesses, state, memory, ends, and as many processors as there can be. */
#include "kvm_guest.h"

#include <sys/mman.h>

static struct cpu_state other; /* too large for the stack */

/* --- accesses and state --- */

GUEST(says, "movw $0x1234, %bx\n movb $0x42, %al\n out %al, $0x80\n movw $0x5678, %cx\n 1: jmp 1b");

static void code_runs_and_its_registers_are_read(void **s)
{
    struct fixture *f = *s;

    SKIP_WITHOUT_KVM();
    LOAD(f, says);
    vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
    assert_int_equal(wait_told(f), 0x42);
    stand(f);
    assert_int_equal(state.gpr[GPR_RBX] & 0xffff, 0x1234);
    assert_int_equal(exits(f, VM_EXIT_PIO), 1);
}

/* IN is left for its value; the state that is read then is that behind it. */
GUEST(asks, "movb $1, %al\n out %al, $0x80\n in $0x90, %al\n 1: jmp 1b");

static void an_access_is_finished_before_the_state_is_read(void **s)
{
    struct fixture *f = *s;

    SKIP_WITHOUT_KVM();
    LOAD(f, asks);
    f->next = 0x77;
    for (unsigned i = 0; i < 20; i++) {
        real_mode(&state);
        assert_int_equal(vcpu_set_state(f->vm.vcpus[0], &state, CPU_ALL), 0);
        vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
        wait_told(f);
        stand(f); /* before the IN, or behind it */
        if (state.rip == CODE + 6)
            assert_int_equal(state.gpr[GPR_RAX] & 0xff, (uint8_t)(f->next - 1));
        else
            assert_int_equal(state.rip, CODE + 4);
    }
}

GUEST(strings, "movw $4, %cx\n movw $0x600, %di\n movw $0x90, %dx\n rep insb\n movw $4, %cx\n movw $0x600, %si\n rep outsb\n"
               "movb $1, %al\n out %al, $0x80\n 1: jmp 1b");

static void string_instructions_move_every_element(void **s)
{
    struct fixture *f = *s;
    uint8_t in[4], sum = 4;

    SKIP_WITHOUT_KVM();
    LOAD(f, strings);
    vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
    wait_told(f);
    mem_read(&f->vm.mem, 0x600, in, sizeof(in));
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(in[i], i);
        sum = (uint8_t)(sum * 3 + i);
    }
    assert_int_equal(f->next, sum);
}

GUEST(
    device,
    "movl $0x11223344, %fs:0x10\n movw %fs:0x12, %bx\n movb %bl, %fs:0x20\n movl %fs:0x7, %ecx\n movb $1, %al\n out %al, $0x80\n 1: jmp 1b");

static void mmio_is_answered_by_the_bus(void **s)
{
    struct fixture *f = *s;

    SKIP_WITHOUT_KVM();
    LOAD(f, device);
    memset(f->bytes + 7, 0xa5, 4);
    vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
    wait_told(f);
    stand(f);
    assert_int_equal(f->bytes[0x10], 0x44);
    assert_int_equal(f->bytes[0x20], 0x22);
    assert_int_equal(state.gpr[GPR_RBX] & 0xffff, 0x1122);
    assert_int_equal(state.gpr[GPR_RCX], 0xa5a5a5a5);
    assert_int_equal(exits(f, VM_EXIT_MMIO), 4);
}

/* MXCSR and x87 control, XMM0, every general register: what is set is got. */
static void state_is_got_as_it_was_set(void **s)
{
    struct fixture *f = *s;
    const struct vcpu *cpu;

    SKIP_WITHOUT_KVM();
    cpu = f->vm.vcpus[0];
    real_mode(&state);
    for (unsigned i = 0; i < GPR_COUNT; i++)
        state.gpr[i] = 0x1111111111111111ULL * i + i;
    memset(state.xsave + 160, 0x5a, 16);
    state.dr[1] = 0x1000;
    state.lstar = 0xffffffff81000000;
    state.kernel_gs_base = 0x1234000;
    state.tsc_offset = 1ULL << 40;
    state.nmi_masked = state.halted = true;
    state.cr2 = 0xabc;
    state.lapic[0x80 >> 4] = 0x20; /* TPR */
    state.cr8 = 2;
    assert_int_equal(vcpu_set_state(f->vm.vcpus[cpu->index], &state, CPU_ALL), 0);
    assert_int_equal(vcpu_get_state(f->vm.vcpus[0], &other, CPU_ALL), 0);
    assert_memory_equal(other.gpr, state.gpr, sizeof(state.gpr));
    assert_memory_equal(other.xsave + 160, state.xsave + 160, 16);
    assert_true(other.rip == CODE && other.dr[1] == 0x1000 && other.lstar == state.lstar && other.kernel_gs_base == 0x1234000);
    assert_true(other.tsc_offset == 1ULL << 40 && other.nmi_masked && other.halted && other.cr2 == 0xabc && other.cr8 == 2);
    assert_true(other.seg[SEG_GS].base == APIC && other.lapic[0x80 >> 4] == 0x20 && other.lapic[0xf0 >> 4] == 0x1ff);
    assert_true(other.msr_count > 0);
    /* And the same once more by what was got. */
    assert_int_equal(vcpu_set_state(f->vm.vcpus[0], &other, CPU_ALL), 0);
    assert_int_equal(vcpu_get_state(f->vm.vcpus[0], &state, CPU_ALL), 0);
    assert_memory_equal(state.msrs, other.msrs, sizeof(state.msrs));
    assert_memory_equal(state.lapic, other.lapic, sizeof(state.lapic));
    assert_memory_equal(state.xsave, other.xsave, sizeof(state.xsave));
    assert_true(state.rip == CODE && state.tsc_offset == 1ULL << 40);
}

/* --- memory --- */

GUEST(writes, "movw $0x2000, %ax\n movw %ax, %es\n movb $1, %es:0x10\n movb $1, %al\n out %al, $0x80\n"
              "movb $1, %es:0x1010\n out %al, $0x80\n 1: jmp 1b");

static bool is_dirty(const uint64_t *bitmap, unsigned page)
{
    return bitmap[page / 64] >> (page % 64) & 1;
}

static void the_log_has_the_pages_that_the_guest_wrote(void **s)
{
    struct fixture *f = *s;
    uint64_t bitmap[MIB(1) / PAGE_SIZE / 64] = {0};

    SKIP_WITHOUT_KVM();
    LOAD(f, writes);
    assert_int_equal(engine_kvm.dirty_fetch(&f->vm, bitmap), -EINVAL); /* not on */
    assert_int_equal(engine_kvm.dirty_start(&f->vm), 0);
    vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
    wait_told(f);
    wait_told(f);
    vcpu_pause_all(&f->vm, VM_HOLD_MACHINE);
    assert_int_equal(engine_kvm.dirty_fetch(&f->vm, bitmap), 0);
    assert_true(is_dirty(bitmap, SPARE_PAGE / PAGE_SIZE) && is_dirty(bitmap, SPARE_PAGE / PAGE_SIZE + 1));
    assert_false(is_dirty(bitmap, SPARE_PAGE / PAGE_SIZE + 2) || is_dirty(bitmap, 0x50));
    memset(bitmap, 0, sizeof(bitmap));
    assert_int_equal(engine_kvm.dirty_fetch(&f->vm, bitmap), 0); /* once */
    assert_false(is_dirty(bitmap, SPARE_PAGE / PAGE_SIZE));
    engine_kvm.dirty_stop(&f->vm);
}

GUEST(writes_rom, "movl %fs:0, %ebx\n movb $9, %fs:0\n movb %fs:0, %cl\n movb $1, %al\n out %al, $0x80\n 1: jmp 1b");

static void read_only_memory_is_read_and_its_writes_go_to_the_bus(void **s)
{
    struct fixture *f = *s;
    uint8_t *rom;

    SKIP_WITHOUT_KVM();
    stop(f);
    start(f, 1);
    bus_remove(&f->vm.mmio, &f->mmio);
    rom = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(rom, 0x3c, PAGE_SIZE);
    f->vm.mem.regions[f->vm.mem.region_count++] = (struct mem_region){
        .gpa = MMIO, .size = PAGE_SIZE, .hva = rom, .flags = MEM_READONLY, .first_page = f->vm.mem.page_count++};
    create(f);
    LOAD(f, writes_rom);
    vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
    wait_told(f);
    stand(f);
    assert_int_equal(state.gpr[GPR_RBX], 0x3c3c3c3c);
    assert_int_equal(state.gpr[GPR_RCX] & 0xff, 0x3c);
    assert_int_equal(exits(f, VM_EXIT_MMIO), 1);
    assert_int_equal(rom[0], 0x3c);
}

/* --- ends --- */

static void wait_end(struct fixture *f)
{
    pthread_mutex_lock(&f->vm.lock);
    for (unsigned i = 0; i < WAIT_S * 100 && f->vm.end == VM_RUNNING; i++) {
        pthread_mutex_unlock(&f->vm.lock);
        usleep(10000);
        pthread_mutex_lock(&f->vm.lock);
    }
    pthread_mutex_unlock(&f->vm.lock);
    vcpu_pause_all(&f->vm, VM_HOLD_MACHINE);
}

GUEST(faults, "ud2");

static void a_triple_fault_ends_the_vm(void **s)
{
    struct fixture *f = *s;

    SKIP_WITHOUT_KVM();
    LOAD(f, faults);
    state.idtr.limit = 0; /* no exception can be delivered */
    assert_int_equal(vcpu_set_state(f->vm.vcpus[0], &state, CPU_ALL), 0);
    vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
    wait_end(f);
    assert_int_equal(f->vm.end, VM_END_TRIPLE_FAULT);
}

/* Code in a device's memory: there is nobody who could carry it out. */
static void what_kvm_cannot_do_is_told_with_registers_and_bytes(void **s)
{
    struct fixture *f = *s;

    SKIP_WITHOUT_KVM();
    real_mode(&state);
    state.seg[SEG_CS].base = MMIO;
    state.rip = 0x123;
    assert_int_equal(vcpu_set_state(f->vm.vcpus[0], &state, CPU_ALL), 0);
    vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
    wait_end(f);
    assert_int_equal(f->vm.end, VM_END_INTERNAL);
    assert_non_null(strstr(f->vm.end_text, "the kvm engine cannot run CPU 0 any further"));
    assert_non_null(strstr(f->vm.end_text, "rip 0x123"));
}

/* --- many --- */

/* INIT to all but itself, SIPI to AP_CODE; waits until the counter is what %di says. */
GUEST(wakes, "movl $0xc4500, %gs:0x300\n movw $10000, %cx\n 1: loop 1b\n movl $0xc4608, %gs:0x300\n"
             "2: cmpw %di, 0x500\n jne 2b\n movb $1, %al\n out %al, $0x80\n 3: jmp 3b");
GUEST(woken, "lock incw 0x500\n 1: hlt\n jmp 1b");

static void every_processor_is_brought_up_by_init_and_sipi(void **s)
{
    struct fixture *f = *s;
    struct engine_caps caps;

    SKIP_WITHOUT_KVM();
    engine_kvm.probe(&caps);
    stop(f);
    start(f, caps.max_vcpus);
    create(f);
    put(f, AP_CODE, woken, woken_end);
    LOAD(f, wakes);
    state.gpr[GPR_RDI] = caps.max_vcpus - 1;
    assert_int_equal(vcpu_set_state(f->vm.vcpus[0], &state, CPU_ALL), 0);
    cpu_state_reset_ap(&other);
    for (unsigned i = 1; i < caps.max_vcpus; i++)
        assert_int_equal(vcpu_set_state(f->vm.vcpus[i], &other, CPU_ALL), 0);
    vcpu_resume_all(&f->vm, VM_HOLD_MACHINE);
    wait_told(f);
    assert_int_equal(counter(f), caps.max_vcpus - 1);
    vcpu_pause_all(&f->vm, VM_HOLD_MACHINE);
    for (unsigned i = 1; i < caps.max_vcpus; i++) {
        assert_int_equal(vcpu_get_state(f->vm.vcpus[i], &other, CPU_EVENTS | CPU_LAPIC), 0);
        assert_false(other.wait_for_sipi);
        assert_int_equal(other.lapic[0x20 >> 4] >> 24, f->vm.vcpus[i]->apic_id);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        KVM_TEST(code_runs_and_its_registers_are_read),
        KVM_TEST(an_access_is_finished_before_the_state_is_read),
        KVM_TEST(string_instructions_move_every_element),
        KVM_TEST(mmio_is_answered_by_the_bus),
        KVM_TEST(state_is_got_as_it_was_set),
        KVM_TEST(the_log_has_the_pages_that_the_guest_wrote),
        KVM_TEST(read_only_memory_is_read_and_its_writes_go_to_the_bus),
        KVM_TEST(a_triple_fault_ends_the_vm),
        KVM_TEST(what_kvm_cannot_do_is_told_with_registers_and_bytes),
        KVM_TEST(every_processor_is_brought_up_by_init_and_sipi),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
