/* The KVM engine on the host's KVM with a guest of a few 16-bit instructions: what its tests share. They skip where there is none with hardware behind it. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cpu/vcpu.h"

#define CODE 0x1000U    /* where a guest starts, in real mode with all segments at 0 */
#define HANDLER 0x2000U /* its interrupt handler */
#define AP_CODE 0x8000U /* SIPI vector 8 */
#define STACK 0x7000U
#define COUNTER 0x500U /* what a handler counts up */
#define SPARE_PAGE 0x20000U

#define PORT 0x80          /* a write tells the test its value */
#define STRING_PORT 0x90   /* bytes that count up */
#define MMIO 0xc0000000ULL /* a page of bytes, by FS */
#define APIC 0xfee00000ULL /* by GS */

#define VECTOR 0x31
#define NMI_VECTOR 2
#define LEVEL_ASSERT 0xc000U
#define WAIT_S 60
#define TOLD_KEPT 4

/* 16-bit code as bytes: name, and name_end behind it. */
#define GUEST(name, text)                                                                                                                  \
    extern const uint8_t name[], name##_end[];                                                                                             \
    __asm__(".pushsection .rodata\n.code16\n" #name ":\n" text "\n" #name "_end:\n.code64\n.popsection\n")

struct fixture {
    struct vm vm;
    struct bus_range port, string, mmio;
    sem_t told;
    atomic_uint value; /* the last one told */
    atomic_uint first_told[TOLD_KEPT], told_count;
    uint8_t bytes[PAGE_SIZE];
    unsigned accesses, last_size; /* of mmio */
    uint8_t next;                 /* of STRING_PORT */
    atomic_uint acks, eois, eoi_vector;
    struct err e;
};

/* --- the machine around the guest --- */

static inline uint64_t no_read(void *opaque, uint64_t off, unsigned size)
{
    (void)opaque, (void)off, (void)size;
    return UINT64_MAX;
}

static inline void port_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct fixture *f = opaque;

    (void)off, (void)size;
    atomic_store(&f->value, (unsigned)value);
    unsigned number = atomic_fetch_add(&f->told_count, 1);
    if (number < TOLD_KEPT)
        atomic_store(&f->first_told[number], (unsigned)value);
    sem_post(&f->told);
}

static inline uint64_t string_read(void *opaque, uint64_t off, unsigned size)
{
    struct fixture *f = opaque;

    (void)off, (void)size;
    return f->next++;
}

static inline void string_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct fixture *f = opaque;

    (void)off, (void)size;
    f->next = (uint8_t)(f->next * 3 + value);
}

static inline uint64_t mmio_read(void *opaque, uint64_t off, unsigned size)
{
    struct fixture *f = opaque;
    uint64_t value = 0;

    f->accesses++;
    f->last_size = size;
    memcpy(&value, f->bytes + off, size);
    return value;
}

static inline void mmio_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct fixture *f = opaque;

    f->accesses++;
    f->last_size = size;
    memcpy(f->bytes + off, &value, size);
}

static const struct bus_ops port_ops = {no_read, port_write}, string_ops = {string_read, string_write}, mmio_ops = {mmio_read, mmio_write};

static inline int extint_ack(void *opaque)
{
    struct fixture *f = opaque;

    atomic_fetch_add(&f->acks, 1);
    f->vm.engine->extint(&f->vm, false); /* the pair lowers its output */
    return VECTOR;
}

static inline void on_eoi(void *opaque, uint8_t vector)
{
    struct fixture *f = opaque;

    atomic_store(&f->eoi_vector, vector);
    atomic_fetch_add(&f->eois, 1);
}

static inline void start(struct fixture *f, unsigned cpus)
{
    struct vm *vm = &f->vm;

    memset(f, 0, sizeof(*f));
    sem_init(&f->told, 0, 0);
    vm_init(vm);
    vm->engine = &engine_kvm;
    vm->config.cpus = cpus;
    vm->loop = loop_new(&f->e);
    bus_init(&vm->pio);
    bus_init(&vm->mmio);
    f->port = (struct bus_range){.name = "port", .base = PORT, .size = 1, .ops = &port_ops, .opaque = f};
    f->string = (struct bus_range){.name = "string", .base = STRING_PORT, .size = 1, .ops = &string_ops, .opaque = f};
    f->mmio = (struct bus_range){.name = "mmio", .base = MMIO, .size = PAGE_SIZE, .ops = &mmio_ops, .opaque = f};
    bus_add(&vm->pio, &f->port, NULL);
    bus_add(&vm->pio, &f->string, NULL);
    bus_add(&vm->mmio, &f->mmio, NULL);
    vm->irqchip = (struct vm_irqchip){.opaque = f, .extint_ack = extint_ack, .eoi = on_eoi};
    assert_int_equal(mem_init(&vm->mem, MIB(1), false, &f->e), 0);
}

static inline void create(struct fixture *f)
{
    if (engine_kvm.vm_init(&f->vm, &f->e) != 0)
        fail_msg("%s", f->e.text);
    for (unsigned i = 0; i < f->vm.config.cpus; i++)
        if (vcpu_new(&f->vm, i, &f->e) != 0)
            fail_msg("%s", f->e.text);
}

static inline void stop(struct fixture *f)
{
    while (f->vm.vcpu_count > 0)
        vcpu_free(f->vm.vcpus[f->vm.vcpu_count - 1]);
    engine_kvm.vm_fini(&f->vm);
    mem_fini(&f->vm.mem);
    bus_fini(&f->vm.mmio);
    bus_fini(&f->vm.pio);
    loop_free(f->vm.loop);
    vm_fini(&f->vm);
    sem_destroy(&f->told);
}

/* --- the guest --- */

static struct cpu_state state; /* too large for the stack */

/* Real mode at CODE with interrupts off; FS reaches MMIO, GS the local APIC, which is on. */
static inline void real_mode(struct cpu_state *s)
{
    cpu_state_reset(s);
    s->seg[SEG_CS] = (struct cpu_seg){.limit = 0xffff, .attr = s->seg[SEG_CS].attr};
    s->seg[SEG_FS].base = MMIO;
    s->seg[SEG_GS].base = APIC;
    s->rip = CODE;
    s->gpr[GPR_RSP] = STACK;
    s->lapic[0x30 >> 4] = 0x50014;
    s->lapic[0xe0 >> 4] = UINT32_MAX;
    s->lapic[0xf0 >> 4] = 0x1ff;
    for (unsigned lvt = 0x320; lvt <= 0x370; lvt += 0x10)
        s->lapic[lvt >> 4] = 0x10000;
    s->lapic[0x350 >> 4] = 0x700; /* LINT0: ExtINT */
}

static inline void put(struct fixture *f, gpa_t gpa, const uint8_t *code, const uint8_t *end)
{
    assert_int_equal(mem_write(&f->vm.mem, gpa, code, (size_t)(end - code)), 0);
}

static inline void set_vector(struct fixture *f, unsigned vector)
{
    static const uint16_t entry[2] = {HANDLER, 0};

    mem_write(&f->vm.mem, vector * sizeof(entry), entry, sizeof(entry));
}

/* Increments the counter, ends the interrupt, tells. */
GUEST(handler, "incw 0x500\n movl $0, %gs:0xb0\n movb $0x44, %al\n out %al, $0x80\n iret");

static inline void load(struct fixture *f, const uint8_t *code, const uint8_t *end)
{
    put(f, CODE, code, end);
    put(f, HANDLER, handler, handler_end);
    set_vector(f, VECTOR);
    set_vector(f, NMI_VECTOR);
    real_mode(&state);
    assert_int_equal(vcpu_set_state(f->vm.vcpus[0], &state, CPU_ALL), 0);
}
#define LOAD(f, name) load(f, name, name##_end)

static inline unsigned wait_told(struct fixture *f)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_S;
    if (sem_timedwait(&f->told, &until) != 0)
        fail_msg("the guest tells nothing; the VM %s%s", f->vm.end ? "has ended: " : "runs", f->vm.end_text);
    return atomic_load(&f->value);
}

static inline uint16_t counter(struct fixture *f)
{
    uint16_t value;

    mem_read(&f->vm.mem, COUNTER, &value, sizeof(value));
    return value;
}

static inline unsigned long exits(struct fixture *f, enum vm_exit_reason reason)
{
    return atomic_load(&f->vm.vcpus[0]->exits[reason]);
}

/* Once the vCPU stands: what it was told to say has been done. */
static inline void stand(struct fixture *f)
{
    vcpu_pause_all(&f->vm, VM_HOLD_MACHINE);
    assert_int_equal(vcpu_get_state(f->vm.vcpus[0], &state, CPU_ALL), 0);
}

static inline bool is_absent(void)
{
    struct engine_caps caps;

    engine_kvm.probe(&caps);
    if (caps.usable && caps.hardware_assisted)
        return false;
    /* A KVM that emulates a guest's kernel does not do all that these ask of it. */
    print_message("skip %s\n", caps.why);
    return true;
}

static inline int setup(void **f)
{
    *f = malloc(sizeof(struct fixture));
    if (is_absent())
        return 0;
    start(*f, 1);
    create(*f);
    return 0;
}

static inline int teardown(void **f)
{
    if (!is_absent())
        stop(*f);
    free(*f);
    return 0;
}

#define SKIP_WITHOUT_KVM()                                                                                                                 \
    do {                                                                                                                                   \
        if (is_absent())                                                                                                                   \
            skip();                                                                                                                        \
    } while (0)

#define KVM_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
