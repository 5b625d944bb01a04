/* Shares the guest's console: beside the VM's own console others may see what the guest prints, and type. */
#pragma once

#include "machine/machine.h"

#define CONSOLE_TYPED_MAX 8192

/* One of the others; embedded in its owner, who sets output and room. */
struct console_watcher {
    void (*output)(struct console_watcher *, const uint8_t *data, size_t len); /* takes all of it, at once */
    void (*room)(struct console_watcher *);                                    /* some of what waited was taken */
    size_t typed_count;
    uint8_t typed[CONSOLE_TYPED_MAX]; /* waits until the guest takes it */
    struct console_watcher *next;     /* the share's */
};

/*
 * Stands between the machine and the host's end of its consoles. Only that end holds the guest's output back: a watcher that cannot follow
 * loses some. Input goes to the virtio console where there is one, else to the serial port, as it comes. All of it: the loop's thread.
 */
struct console_share {
    struct machine_consoles host;
    struct machine *machine;
    struct console_watcher *watchers;
};

/* What the machine is to be given instead of host. The share outlives the machine. */
struct machine_consoles console_share_init(struct console_share *, const struct machine_consoles *host);
void console_share_start(struct console_share *, struct machine *); /* the machine is built */

void console_share_add(struct console_share *, struct console_watcher *);
void console_share_remove(struct console_share *, struct console_watcher *); /* what it typed and the guest did not take is dropped */

/* Hands over what the watcher has typed, as far as the guest takes it. */
void console_share_type(struct console_share *, struct console_watcher *);

/* A break on the line; on a virtio console, which has none, the Ctrl-o that Linux takes for one. False: the guest takes no input now. */
bool console_share_break(struct console_share *);

/* The window in which the console is seen has another size. False: a serial line does not tell. */
bool console_share_resize(struct console_share *, uint16_t columns, uint16_t rows);
