/* Copies the guest's output to everybody who watches, and merges what they type. */
#include "api/console_share.h"

#include <string.h>

#define CTRL_O 0x0f

/* --- output --- */

static void show(struct console_share *share, const uint8_t *data, size_t len)
{
    struct console_watcher *next;

    for (struct console_watcher *w = share->watchers; w && len; w = next) {
        next = w->next; /* one that is gone takes itself out */
        w->output(w, data, len);
    }
}

/* out: what the VM's own console takes it by; NULL: it drops all. */
static size_t put(struct console_share *share, size_t (*out)(void *, const uint8_t *, size_t), void *opaque, const uint8_t *data,
                  size_t len)
{
    size_t taken = out ? out(opaque, data, len) : len;

    show(share, data, taken);
    return taken;
}

static size_t serial_out(void *opaque, const uint8_t *data, size_t len)
{
    struct console_share *share = opaque;

    return put(share, share->host.serial.out, share->host.serial.opaque, data, len);
}

static size_t virtio_out(void *opaque, const uint8_t *data, size_t len)
{
    struct console_share *share = opaque;

    return put(share, share->host.virtio.out, share->host.virtio.opaque, data, len);
}

/* --- input --- */

void console_share_type(struct console_share *share, struct console_watcher *w)
{
    struct machine *m = share->machine;
    size_t taken = m->virtio_console ? virtio_console_receive(m->virtio_console, w->typed, w->typed_count)
                                     : uart16550_receive(&m->uart, w->typed, w->typed_count);

    w->typed_count -= taken;
    memmove(w->typed, w->typed + taken, w->typed_count);
}

static void room_for_watchers(struct console_share *share)
{
    struct console_watcher *next;

    for (struct console_watcher *w = share->watchers; w; w = next) {
        size_t before = w->typed_count;

        next = w->next;
        if (before == 0)
            continue;
        console_share_type(share, w);
        if (w->typed_count < before)
            w->room(w);
    }
}

static void serial_room(void *opaque)
{
    struct console_share *share = opaque;

    if (share->host.serial.room)
        share->host.serial.room(share->host.serial.opaque);
    if (share->machine && !share->machine->virtio_console)
        room_for_watchers(share);
}

static void virtio_room(void *opaque)
{
    struct console_share *share = opaque;

    if (share->host.virtio.room)
        share->host.virtio.room(share->host.virtio.opaque);
    if (share->machine)
        room_for_watchers(share);
}

bool console_share_break(struct console_share *share)
{
    static const uint8_t ctrl_o = CTRL_O;
    struct machine *m = share->machine;

    if (m->virtio_console)
        return virtio_console_receive(m->virtio_console, &ctrl_o, 1) == 1;
    if (uart16550_room(&m->uart) == 0)
        return false;
    uart16550_receive_break(&m->uart);
    return true;
}

bool console_share_resize(struct console_share *share, uint16_t columns, uint16_t rows)
{
    if (!share->machine->virtio_console)
        return false;
    virtio_console_resize(share->machine->virtio_console, columns, rows);
    return true;
}

/* --- life --- */

struct machine_consoles console_share_init(struct console_share *share, const struct machine_consoles *host)
{
    *share = (struct console_share){.host = *host};
    return (struct machine_consoles){
        .serial = {.opaque = share, .out = serial_out, .room = serial_room, .waits_for_rts = host->serial.waits_for_rts},
        .virtio = {.opaque = share, .out = virtio_out, .room = virtio_room},
    };
}

void console_share_start(struct console_share *share, struct machine *machine)
{
    share->machine = machine;
}

void console_share_add(struct console_share *share, struct console_watcher *w)
{
    w->next = share->watchers;
    share->watchers = w;
}

void console_share_remove(struct console_share *share, struct console_watcher *w)
{
    struct console_watcher **link = &share->watchers;

    while (*link && *link != w)
        link = &(*link)->next;
    if (*link)
        *link = w->next;
}
