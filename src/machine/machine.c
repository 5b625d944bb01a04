/* Builds the machine part by part, in one order, and takes it apart in the other. */
#include "machine/machine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"

#define UART_PORT 0x3f8
#define UART_IRQ 4
#define KEYBOARD_IRQ 1
#define AUX_IRQ 12
#define RTC_IRQ 8
#define SCI_IRQ 9

/* --- what devices ask of the machine; vCPU threads --- */

static void on_reset(void *opaque)
{
    vm_request_end(opaque, VM_END_RESET, 0, "the guest reset the machine (--no-reboot)");
}

static void on_power_off(void *opaque)
{
    vm_request_end(opaque, VM_END_POWEROFF, 0, NULL);
}

static void on_debug_exit(void *opaque, uint8_t value)
{
    vm_request_end(opaque, VM_END_DEBUG_EXIT, value, NULL);
}

static void on_intr(void *opaque, bool level)
{
    struct machine *m = opaque;

    m->vm.engine->extint(&m->vm, level);
}

static int on_msi(void *opaque, uint64_t addr, uint32_t data)
{
    struct machine *m = opaque;

    return m->vm.engine->msi(&m->vm, addr, data);
}

static int extint_ack(void *opaque)
{
    struct machine *m = opaque;

    return i8259_ack(&m->pic);
}

static void eoi(void *opaque, uint8_t vector)
{
    struct machine *m = opaque;

    ioapic_eoi(&m->ioapic, vector);
}

/* --- the console, with a look at what goes by; loop thread --- */

static size_t console_out(void *opaque, const uint8_t *data, size_t len)
{
    struct machine *m = opaque;
    size_t taken = m->console.out ? m->console.out(m->console.opaque, data, len) : len;
    char why[PANIC_LINE_MAX], text[sizeof(m->vm.end_text)];

    if (panic_watch_feed(&m->panic, data, taken, why)) {
        snprintf(text, sizeof(text), "the guest's kernel panicked: %.200s", why);
        vm_request_end(&m->vm, VM_END_PANIC, 0, text);
    }
    return taken;
}

static void console_room(void *opaque)
{
    struct machine *m = opaque;

    if (m->console.room)
        m->console.room(m->console.opaque);
}

/* --- the parts --- */

static int memory_init(struct machine *m, struct err *e)
{
    return mem_init(&m->vm.mem, m->vm.config.memory, m->vm.config.memory_shared, e);
}

static void memory_fini(struct machine *m)
{
    mem_fini(&m->vm.mem);
}

static int buses_init(struct machine *m, struct err *e)
{
    (void)e;
    bus_init(&m->vm.pio);
    bus_init(&m->vm.mmio);
    return 0;
}

static void buses_fini(struct machine *m)
{
    bus_fini(&m->vm.mmio);
    bus_fini(&m->vm.pio);
}

static int image_init(struct machine *m, struct err *e)
{
    return boot_image_open(&m->image, m->vm.config.kernel, m->vm.config.initrd, e);
}

static void image_fini(struct machine *m)
{
    boot_image_free(m->image);
}

static int engine_init(struct machine *m, struct err *e)
{
    m->vm.irqchip = (struct vm_irqchip){.opaque = m, .extint_ack = extint_ack, .eoi = eoi};
    return m->vm.engine->vm_init(&m->vm, e);
}

static void engine_fini(struct machine *m)
{
    m->vm.engine->vm_fini(&m->vm);
}

static void vcpus_fini(struct machine *m)
{
    for (unsigned i = m->vm.vcpu_count; i-- > 0;)
        vcpu_free(m->vm.vcpus[i]);
}

static int vcpus_init(struct machine *m, struct err *e)
{
    for (unsigned i = 0; i < m->vm.config.cpus; i++) {
        int error = vcpu_new(&m->vm, i, e);

        if (error) {
            vcpus_fini(m);
            return error;
        }
    }
    return 0;
}

static int pic_init(struct machine *m, struct err *e)
{
    return i8259_init(&m->pic, &m->vm.pio, on_intr, m, e);
}

static void pic_fini(struct machine *m)
{
    i8259_fini(&m->pic);
}

static int ioapic_part_init(struct machine *m, struct err *e)
{
    int error = ioapic_init(&m->ioapic, &m->vm.mmio, on_msi, m, e);

    if (!error)
        isa_irq_init(&m->isa, &m->pic, &m->ioapic);
    return error;
}

static void ioapic_part_fini(struct machine *m)
{
    ioapic_fini(&m->ioapic);
}

static int pit_init(struct machine *m, struct err *e)
{
    return i8254_init(&m->pit, &m->vm.pio, m->vm.loop, isa_irq_line(&m->isa, 0), e);
}

static void pit_fini(struct machine *m)
{
    i8254_fini(&m->pit);
}

static int cmos_part_init(struct machine *m, struct err *e)
{
    uint64_t low = MIN(m->vm.mem.size, MEM_LOW_TOP);

    return cmos_init(&m->cmos, &m->vm.pio, m->vm.loop, isa_irq_line(&m->isa, RTC_IRQ), low, m->vm.mem.size - low, e);
}

static void cmos_part_fini(struct machine *m)
{
    cmos_fini(&m->cmos);
}

static int uart_init(struct machine *m, struct err *e)
{
    const struct uart16550_host host = {.opaque = m, .out = console_out, .room = console_room, .waits_for_rts = m->console.waits_for_rts};

    return uart16550_init(&m->uart, &m->vm.pio, UART_PORT, isa_irq_line(&m->isa, UART_IRQ), m->vm.loop, &host, e);
}

static void uart_fini(struct machine *m)
{
    uart16550_fini(&m->uart);
}

static int i8042_part_init(struct machine *m, struct err *e)
{
    return i8042_init(&m->i8042, &m->vm.pio, isa_irq_line(&m->isa, KEYBOARD_IRQ), isa_irq_line(&m->isa, AUX_IRQ), on_reset, &m->vm, e);
}

static void i8042_part_fini(struct machine *m)
{
    i8042_fini(&m->i8042);
}

static int port92_part_init(struct machine *m, struct err *e)
{
    return port92_init(&m->port92, &m->vm.pio, on_reset, &m->vm, e);
}

static void port92_part_fini(struct machine *m)
{
    port92_fini(&m->port92);
}

static int reset_ctl_part_init(struct machine *m, struct err *e)
{
    return reset_ctl_init(&m->reset_ctl, &m->vm.pio, on_reset, &m->vm, e);
}

static void reset_ctl_part_fini(struct machine *m)
{
    reset_ctl_fini(&m->reset_ctl);
}

static int acpi_pm_part_init(struct machine *m, struct err *e)
{
    return acpi_pm_init(&m->acpi_pm, &m->vm.pio, m->vm.loop, isa_irq_line(&m->isa, SCI_IRQ), on_power_off, &m->vm, e);
}

static void acpi_pm_part_fini(struct machine *m)
{
    acpi_pm_fini(&m->acpi_pm);
}

static int debug_exit_part_init(struct machine *m, struct err *e)
{
    return m->vm.config.debug_exit ? debug_exit_init(&m->debug_exit, &m->vm.pio, on_debug_exit, &m->vm, e) : 0;
}

static void debug_exit_part_fini(struct machine *m)
{
    if (m->vm.config.debug_exit)
        debug_exit_fini(&m->debug_exit);
}

/* The vCPUs stand. */
static int place_kernel(struct machine *m, struct err *e)
{
    const struct boot_machine what = {.mem = &m->vm.mem, .cmdline = m->vm.config.append, .acpi = {.cpus = m->vm.config.cpus}};
    static const size_t align = _Alignof(struct cpu_state);
    struct cpu_state *bsp = aligned_alloc(align, ALIGN_UP(sizeof(*bsp), align));
    int error;

    if (!bsp)
        return err_set(e, ENOMEM, "no memory for the state of a CPU");
    error = boot_place(m->image, &what, bsp, e);
    if (!error)
        error = vcpu_set_state(m->vm.vcpus[0], bsp, CPU_ALL);
    free(bsp);
    return error;
}

/* Built from the top, taken apart from the bottom. */
static const struct part {
    const char *name;
    int (*init)(struct machine *, struct err *); /* 0 or -errno; cleans up after itself on failure */
    void (*fini)(struct machine *);              /* NULL: it leaves nothing that needs it */
} parts[] = {
    {"kernel", image_init, image_fini}, /* first: the most likely to be wrong, and needs nothing */
    {"memory", memory_init, memory_fini},
    {"buses", buses_init, buses_fini},
    {"engine", engine_init, engine_fini}, /* keeps an array per page of memory */
    {"vcpus", vcpus_init, vcpus_fini},    /* before the interrupt controllers, which deliver to them */
    {"i8259", pic_init, pic_fini},
    {"ioapic", ioapic_part_init, ioapic_part_fini}, /* with the ISA lines, which every device below raises */
    {"i8254", pit_init, pit_fini},
    {"cmos", cmos_part_init, cmos_part_fini},
    {"uart16550", uart_init, uart_fini},
    {"i8042", i8042_part_init, i8042_part_fini},
    {"port92", port92_part_init, port92_part_fini},
    {"reset_ctl", reset_ctl_part_init, reset_ctl_part_fini},
    {"acpi_pm", acpi_pm_part_init, acpi_pm_part_fini},
    {"debug_exit", debug_exit_part_init, debug_exit_part_fini},
    {"boot", place_kernel, NULL}, /* last, but not later: a kernel that does not fit is found out here */
};

/* Every device with state, in the order of their reset: interrupt controllers last, after the lines have gone down. */
#define DEVICE(table, member)                                                                                                              \
    {                                                                                                                                      \
        &(table), offsetof(struct machine, member)                                                                                         \
    }
static const struct {
    const struct device_ops *ops;
    size_t offset;
} devices[] = {
    DEVICE(uart16550_device, uart),  DEVICE(i8254_device, pit),     DEVICE(cmos_device, cmos),
    DEVICE(i8042_device, i8042),     DEVICE(port92_device, port92), DEVICE(reset_ctl_device, reset_ctl),
    DEVICE(acpi_pm_device, acpi_pm), DEVICE(ioapic_device, ioapic), DEVICE(i8259_device, pic),
};

int machine_init(struct machine *m, const struct config *config, struct err *e)
{
    memset(m, 0, sizeof(*m));
    vm_init(&m->vm);
    m->vm.config = *config;
    m->vm.engine = &engine_soft;
    m->vm.mem.fd = -1;
    m->vm.loop = loop_new(e);
    return m->vm.loop ? 0 : -ENOMEM;
}

int machine_init_devices(struct machine *m, const struct uart16550_host *console, struct err *e)
{
    struct engine_caps caps;

    m->console = *console;
    m->vm.engine->probe(&caps);
    if (!caps.usable)
        return err_set(e, ENOTSUP, "%s", caps.why);
    if (m->vm.config.cpus > caps.max_vcpus)
        return err_set(e, EINVAL, "--cpus %u: the %s engine has %u", m->vm.config.cpus, m->vm.engine->name, caps.max_vcpus);
    for (; m->built < ARRAY_SIZE(parts); m->built++) {
        int error = parts[m->built].init(m, e);

        if (error)
            return error;
    }
    return 0;
}

void machine_fini(struct machine *m)
{
    while (m->built > 0)
        if (parts[--m->built].fini)
            parts[m->built].fini(m);
    loop_free(m->vm.loop);
    vm_fini(&m->vm);
}

/* --- running --- */

static void reset_devices(struct machine *m)
{
    for (unsigned i = 0; i < ARRAY_SIZE(devices); i++)
        devices[i].ops->reset((char *)m + devices[i].offset);
    m->panic = (struct panic_watch){0};
}

/* True when it stopped for a reset that is to be carried out; it then counts as running again. */
static bool take_reset(struct vm *vm)
{
    bool reset;

    pthread_mutex_lock(&vm->lock);
    reset = vm->end == VM_END_RESET && !vm->config.no_reboot;
    if (reset)
        vm->end = VM_RUNNING;
    pthread_mutex_unlock(&vm->lock);
    return reset;
}

int machine_run(struct machine *m, struct err *e)
{
    struct vm *vm = &m->vm;
    bool again;
    int error;

    vm->started_ns = clock_monotonic_ns();
    do {
        vcpu_resume_all(vm);
        error = loop_run(vm->loop);
        vcpu_pause_all(vm);
        if (error) {
            err_set(e, -error, "the I/O loop cannot go on: %s", strerror(-error));
            break;
        }
        again = take_reset(vm);
        if (again) {
            reset_devices(m);
            error = place_kernel(m, e);
        }
    } while (again && !error);
    uart16550_drain(&m->uart);
    return error;
}

int machine_exit_status(const struct machine *m)
{
    switch (m->vm.end) {
    case VM_RUNNING:
    case VM_END_POWEROFF:
    case VM_END_RESET: return 0;
    case VM_END_QUIT: return m->vm.end_value;
    case VM_END_DEBUG_EXIT: return (m->vm.end_value << 1 | 1) & 0xff;
    case VM_END_TRIPLE_FAULT: return 3;
    case VM_END_PANIC: return 4;
    case VM_END_INTERNAL: return 5;
    }
    return 1;
}
