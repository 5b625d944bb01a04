/* Between the guest's consoles and their ends at the host: looks at what goes by for a panic's last line. All on the loop's thread. */
#include <stdio.h>

#include "machine/machine.h"

static void look_for_panic(struct machine *m, struct panic_watch *watch, const uint8_t *data, size_t len)
{
    char why[PANIC_LINE_MAX], text[sizeof(m->vm.end_text)];

    if (panic_watch_feed(watch, data, len, why)) {
        snprintf(text, sizeof(text), "the guest's kernel panicked: %.200s", why);
        vm_request_end(&m->vm, VM_END_PANIC, 0, text);
    }
}

static size_t serial_out(void *opaque, const uint8_t *data, size_t len)
{
    struct machine *m = opaque;
    const struct uart16550_host *host = &m->consoles.serial;
    size_t taken = host->out ? host->out(host->opaque, data, len) : len;

    look_for_panic(m, &m->serial_panic, data, taken);
    return taken;
}

static void serial_room(void *opaque)
{
    struct machine *m = opaque;

    if (m->consoles.serial.room)
        m->consoles.serial.room(m->consoles.serial.opaque);
}

static size_t virtio_out(void *opaque, const uint8_t *data, size_t len)
{
    struct machine *m = opaque;
    const struct virtio_console_host *host = &m->consoles.virtio;
    size_t taken = host->out ? host->out(host->opaque, data, len) : len;

    look_for_panic(m, &m->virtio_panic, data, taken);
    return taken;
}

static void virtio_room(void *opaque)
{
    struct machine *m = opaque;

    if (m->consoles.virtio.room)
        m->consoles.virtio.room(m->consoles.virtio.opaque);
}

struct uart16550_host machine_serial_host(struct machine *m)
{
    return (struct uart16550_host){.opaque = m, .out = serial_out, .room = serial_room, .waits_for_rts = m->consoles.serial.waits_for_rts};
}

struct virtio_console_host machine_virtio_host(struct machine *m)
{
    return (struct virtio_console_host){.opaque = m, .out = virtio_out, .room = virtio_room};
}
