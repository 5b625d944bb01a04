/* The host's end of the guest's consoles, serial and virtio: standard input and output, a file, or nothing. */
#pragma once

#include "cli/escape.h"
#include "machine/machine.h"

#define CONSOLE_PENDING 4096

struct console {
    struct loop *loop;
    struct uart16550 *uart;
    struct virtio_device *virtio; /* input goes there, and output comes from both; NULL: the serial console has all */
    struct loop_fd in, out;       /* fd -1: none */
    bool in_watched;              /* in is in the loop's set */
    bool in_pollable;             /* a file or /dev/null is not: it is read whenever there is room */
    bool out_watched;
    bool out_owned;         /* ours to close */
    bool out_may_block;     /* no descriptor of its own that does not block: ask before each write */
    bool escapes;           /* standard input is a terminal, raw */
    bool in_background;     /* it is a terminal that another job has: left alone until this one is in front again */
    struct loop_timer look; /* ... which nobody tells us */
    struct escape escape;
    size_t pending_count; /* input that the guest has not taken yet */
    uint8_t pending[CONSOLE_PENDING];
    bool break_waits; /* so does a break: before the byte at ... */
    size_t break_at;
    void (*on_escape)(void *opaque, enum escape_action);
    void *opaque;
};

/*
 * Opens what the configuration asks for and makes a terminal raw. 0 or -errno with a sentence. The loop outlives the console. Everything
 * here: the loop's thread.
 */
int console_init(struct console *, const struct config *, struct loop *, void (*on_escape)(void *opaque, enum escape_action), void *opaque,
                 struct err *);
void console_fini(struct console *); /* the terminal is as before */

/* What the machine's consoles call, from console_start() on, which begins to read input for them. */
struct machine_consoles console_hosts(struct console *, const struct config *);
int console_start(struct console *, struct machine *, struct err *);

/* The terminal's window may have another size now: a virtio console is told. */
void console_resized(struct console *);

/* The VM has ended: what the devices still hold is written, as long as somebody takes it. Gives up after FLUSH_NS. */
void console_flush(struct console *);

/* Around a stop of the whole process (SIGTSTP, SIGCONT), or a look at the terminal as others use it. */
void console_suspend(struct console *);
void console_resume(struct console *);
