/* Builds the machine part by part, in one order, and takes it apart in the other. */
#include "machine/machine.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bug.h"
#include "base/clock.h"
#include "boot/layout.h"
#include "config/options.h"

#define UART_PORT 0x3f8
#define UART_IRQ 4
#define KEYBOARD_IRQ 1
#define AUX_IRQ 12
#define RTC_IRQ 8
#define SCI_IRQ 9
#define INTX_PIN 16 /* of the IOAPIC: INTA to INTD of the root bus, as acpi/pci.asl says */

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
    const struct uart16550_host host = machine_serial_host(m);

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
    return reset_ctl_init(&m->reset_ctl, NULL, on_reset, &m->vm, e); /* its port is among the host bridge's */
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

static void intx_set(void *opaque, unsigned line, bool level)
{
    ioapic_set_line(opaque, line, level);
}

static int pci_init(struct machine *m, struct err *e)
{
    struct pci_host_options options = {
        .pio = &m->vm.pio,
        .mmio = &m->vm.mmio,
        .windows = {.ecam = BOOT_ECAM_GPA,
                    .ecam_size = BOOT_ECAM_SIZE,
                    .mem32 = BOOT_PCI32_GPA,
                    .mem32_size = BOOT_PCI32_SIZE,
                    .mem64 = BOOT_PCI64_GPA,
                    .mem64_size = BOOT_PCI64_SIZE,
                    .io = BOOT_PCI_IO_PORT,
                    .io_size = BOOT_PCI_IO_SIZE},
        .msi = on_msi,
        .msi_opaque = m,
        .reset_read = reset_ctl_read,
        .reset_write = reset_ctl_write,
        .reset_ctl = &m->reset_ctl,
    };

    static_assert(MEM_HIGH_BASE + (CONFIG_MEMORY_MAX - MEM_LOW_TOP) <= BOOT_PCI64_GPA, "RAM ends below the PCI window");
    for (unsigned i = 0; i < PCI_INTX_LINES; i++)
        options.intx[i] = (struct irq_line){intx_set, &m->ioapic, INTX_PIN + i};
    return pci_host_init(&m->pci, &options, e);
}

static void pci_fini(struct machine *m)
{
    pci_host_fini(&m->pci);
}

/* The vCPUs stand. The first will run the kernel, the others wait for it to start them. */
static int place_kernel(struct machine *m, struct err *e)
{
    static const size_t align = _Alignof(struct cpu_state);
    struct cpu_state *state = aligned_alloc(align, ALIGN_UP(sizeof(*state), align));
    struct boot_machine what = {.mem = &m->vm.mem, .cmdline = m->vm.config.append, .acpi = {.cpus = m->vm.vcpu_count, .pci = true}};
    int error;

    if (!state)
        return err_set(e, ENOMEM, "no memory for the state of a CPU");
    for (unsigned i = 0; i < m->vm.vcpu_count; i++)
        what.acpi.apic_id[i] = (uint8_t)m->vm.vcpus[i]->apic_id;
    error = boot_place(m->image, &what, state, e);
    if (!error)
        error = vcpu_set_state(m->vm.vcpus[0], state, CPU_ALL);
    cpu_state_reset_ap(state);
    for (unsigned i = 1; i < m->vm.vcpu_count && !error; i++)
        error = vcpu_set_state(m->vm.vcpus[i], state, CPU_ALL);
    free(state);
    return error;
}

/* A part that is one device: how it is reset, and where it is. */
#define DEVICE(table, member) .device = &(table), .offset = offsetof(struct machine, member)

/* Built from the top, taken apart from the bottom; devices are reset from the bottom, so that lines go down before interrupt controllers. */
static const struct part {
    const char *name;
    int (*init)(struct machine *, struct err *); /* 0 or -errno; cleans up after itself on failure */
    void (*fini)(struct machine *);              /* NULL: it leaves nothing that needs it */
    const struct device_ops *device;
    size_t offset;
} parts[] = {
    {"kernel", .init = image_init, .fini = image_fini}, /* first: the most likely to be wrong, and needs nothing */
    {"memory", .init = memory_init, .fini = memory_fini},
    {"buses", .init = buses_init, .fini = buses_fini},
    {"engine", .init = engine_init, .fini = engine_fini}, /* keeps an array per page of memory */
    {"vcpus", .init = vcpus_init, .fini = vcpus_fini},    /* before the interrupt controllers, which deliver to them */
    {"i8259", pic_init, pic_fini, DEVICE(i8259_device, pic)},
    {"ioapic", ioapic_part_init, ioapic_part_fini, DEVICE(ioapic_device, ioapic)}, /* with the ISA lines, which those below raise */
    {"i8254", pit_init, pit_fini, DEVICE(i8254_device, pit)},
    {"cmos", cmos_part_init, cmos_part_fini, DEVICE(cmos_device, cmos)},
    {"uart16550", uart_init, uart_fini, DEVICE(uart16550_device, uart)},
    {"i8042", i8042_part_init, i8042_part_fini, DEVICE(i8042_device, i8042)},
    {"port92", port92_part_init, port92_part_fini, DEVICE(port92_device, port92)},
    {"reset_ctl", reset_ctl_part_init, reset_ctl_part_fini, DEVICE(reset_ctl_device, reset_ctl)},
    {"acpi_pm", acpi_pm_part_init, acpi_pm_part_fini, DEVICE(acpi_pm_device, acpi_pm)},
    {"debug_exit", .init = debug_exit_part_init, .fini = debug_exit_part_fini},
    {"fw_cfg", machine_fw_cfg_init, machine_fw_cfg_fini, DEVICE(fw_cfg_device, fw_cfg)},
    {"pci", pci_init, pci_fini, DEVICE(pci_host_device, pci)},            /* forwards to reset_ctl */
    {"virtio", .init = machine_virtio_init, .fini = machine_virtio_fini}, /* opens disks and networks; adds its devices itself */
    {"boot", .init = place_kernel}, /* last, but not later: a kernel that does not fit is found out here */
};

void machine_add_device(struct machine *m, const struct device_ops *ops, void *dev)
{
    BUG_ON(m->device_count == MACHINE_DEVICES_MAX);
    m->devices[m->device_count++] = (struct machine_device){ops, dev};
}

int machine_init(struct machine *m, const struct config *config, struct err *e)
{
    memset(m, 0, sizeof(*m));
    vm_init(&m->vm);
    m->vm.config = *config;
    m->vm.topology = (struct x86_topology){config->sockets, config->cores, config->threads};
    m->vm.engine = &engine_soft;
    m->vm.mem.fd = -1;
    m->vm.loop = loop_new(e);
    return m->vm.loop ? 0 : -ENOMEM;
}

int machine_init_devices(struct machine *m, const struct machine_consoles *consoles, struct err *e)
{
    struct engine_caps caps;

    m->consoles = *consoles;
    m->vm.engine->probe(&caps);
    if (!caps.usable)
        return err_set(e, ENOTSUP, "%s", caps.why);
    if (m->vm.config.cpus > caps.max_vcpus)
        return err_set(e, EINVAL, "--cpus %u: the %s engine has %u", m->vm.config.cpus, m->vm.engine->name, caps.max_vcpus);
    for (; m->built < ARRAY_SIZE(parts); m->built++) {
        const struct part *part = &parts[m->built];
        int error = part->init(m, e);

        if (error)
            return error;
        if (part->device)
            machine_add_device(m, part->device, (char *)m + part->offset);
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

/* Nothing is under way towards the host any more. */
static void drain_devices(struct machine *m)
{
    for (unsigned i = m->device_count; i-- > 0;)
        if (m->devices[i].ops->drain)
            m->devices[i].ops->drain(m->devices[i].dev);
}

static void reset_devices(struct machine *m)
{
    drain_devices(m); /* before the next kernel is placed where they may still be writing to */
    for (unsigned i = m->device_count; i-- > 0;)
        m->devices[i].ops->reset(m->devices[i].dev);
    m->serial_panic = m->virtio_panic = (struct panic_watch){0};
}

/* True when it stopped for a reset that is to be carried out; it then counts as running again. */
static bool take_reset(struct vm *vm)
{
    bool reset;

    pthread_mutex_lock(&vm->lock);
    reset = vm->end == VM_END_RESET && (!vm->config.no_reboot || vm->end_value == VM_RESET_BY_HOST);
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
        vcpu_resume_all(vm, VM_HOLD_MACHINE);
        error = loop_run(vm->loop);
        vcpu_pause_all(vm, VM_HOLD_MACHINE);
        if (error) {
            err_set(e, -error, "the I/O loop cannot go on: %s", strerror(-error));
            break;
        }
        again = take_reset(vm);
        if (again) {
            reset_devices(m);
            error = place_kernel(m, e);
            if (vm->debugger.reset)
                vm->debugger.reset(vm->debugger.opaque);
        }
    } while (again && !error);
    drain_devices(m);
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
