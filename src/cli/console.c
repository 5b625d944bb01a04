/* Bytes between the guest's consoles and the host: nothing here blocks, and a host end that goes away ends no guest. */
#include "cli/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cli/terminal.h"

#define READ_BYTES 1024
#define LOOK_NS (NS_PER_SEC / 4)
#define FLUSH_NS (2 * NS_PER_SEC)
#define CTRL_O 0x0f       /* what Linux takes for a break on a console that has none */
#define CAREFUL_BYTES 256 /* what a terminal or pipe that says POLLOUT takes without blocking */

/* --- output --- */

static void out_lost(struct console *c)
{
    log_warn("the console's output cannot be written any more (%s); the guest goes on without it", strerror(errno));
    if (c->out_watched)
        loop_remove_fd(c->loop, &c->out);
    c->out_watched = false;
    if (c->out_owned)
        close(c->out.fd);
    c->out.fd = -1;
}

static bool is_ready(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};

    return poll(&p, 1, 0) > 0;
}

static void await_room(struct console *c)
{
    if (!c->out_watched)
        c->out_watched = loop_add_fd(c->loop, &c->out) == 0;
}

static size_t console_out(void *opaque, const uint8_t *data, size_t len)
{
    struct console *c = opaque;
    size_t done = 0;

    while (done < len && c->out.fd >= 0) {
        size_t want = c->out_may_block ? MIN(len - done, CAREFUL_BYTES) : len - done;
        ssize_t n;

        if (c->out_may_block && !is_ready(c->out.fd)) {
            await_room(c);
            return done;
        }
        n = write(c->out.fd, data + done, want);
        if (n >= 0) {
            done += (size_t)n;
        } else if (errno == EAGAIN) {
            await_room(c);
            return done;
        } else if (errno != EINTR) {
            out_lost(c);
        }
    }
    return len; /* with nobody there, it is dropped */
}

static void out_ready(struct loop_fd *fd, uint32_t events)
{
    struct console *c = container_of(fd, struct console, out);

    (void)events;
    loop_remove_fd(c->loop, &c->out);
    c->out_watched = false;
    uart16550_out_ready(c->uart);
    if (c->virtio)
        virtio_console_out_ready(c->virtio);
}

/* What could not be written yet. */
static size_t drain(struct console *c)
{
    return uart16550_drain(c->uart) + (c->virtio ? virtio_console_drain(c->virtio) : 0);
}

void console_flush(struct console *c)
{
    uint64_t now, deadline = clock_monotonic_ns() + FLUSH_NS;

    while (drain(c) && c->out.fd >= 0 && (now = clock_monotonic_ns()) < deadline) {
        struct pollfd p = {.fd = c->out.fd, .events = POLLOUT};

        if (poll(&p, 1, (int)((deadline - now) / NS_PER_MS) + 1) < 0 && errno != EINTR)
            return;
    }
}

/*
 * Standard output is shared with whoever started us, so it must not become non-blocking: a second description of the same terminal or
 * pipe does. A regular file has its position in the description and never blocks.
 */
static void open_standard_output(struct console *c)
{
    struct stat st;

    c->out.fd = STDOUT_FILENO;
    if (fstat(STDOUT_FILENO, &st) != 0) {
        c->out.fd = -1; /* closed */
        return;
    }
    if (S_ISREG(st.st_mode))
        return;
    c->out.fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    c->out_owned = c->out.fd >= 0;
    if (!c->out_owned) {
        c->out.fd = STDOUT_FILENO;
        c->out_may_block = true;
    }
}

/* --- input --- */

static void in_close(struct console *c)
{
    if (c->in_watched)
        loop_remove_fd(c->loop, &c->in);
    c->in_watched = false;
    c->in.fd = -1;
}

static void push_bytes(struct console *c, size_t count)
{
    size_t taken = c->virtio ? virtio_console_receive(c->virtio, c->pending, count) : uart16550_receive(c->uart, c->pending, count);

    c->pending_count -= taken;
    memmove(c->pending, c->pending + taken, c->pending_count);
    if (c->break_waits)
        c->break_at -= taken;
}

/* A break keeps its place among the bytes, and waits for room as they do; one more while it waits is the same one. */
static void push_pending(struct console *c)
{
    if (c->break_waits) {
        push_bytes(c, c->break_at);
        if (c->break_at > 0 || uart16550_room(c->uart) == 0)
            return;
        uart16550_receive_break(c->uart);
        c->break_waits = false;
    }
    push_bytes(c, c->pending_count);
}

/* A terminal is read even when the guest takes nothing, for the sake of the escape key; what does not fit is lost, as on a real line. */
static void take_keys(struct console *c, const uint8_t *keys, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t byte;
        enum escape_action action = c->escapes ? escape_feed(&c->escape, keys[i], &byte) : ESCAPE_BYTE;

        if (!c->escapes)
            byte = keys[i];
        if (action == ESCAPE_BREAK && c->virtio) {
            action = ESCAPE_BYTE;
            byte = CTRL_O;
        }
        if (action == ESCAPE_BYTE) {
            if (c->pending_count < CONSOLE_PENDING)
                c->pending[c->pending_count++] = byte;
        } else if (action == ESCAPE_BREAK) {
            c->break_at = c->break_waits ? c->break_at : c->pending_count;
            c->break_waits = true;
        } else if (action != ESCAPE_NONE) {
            c->on_escape(c->opaque, action);
        }
    }
    push_pending(c);
}

static void go_to_background(struct console *c)
{
    c->in_background = true;
    c->escapes = false;
    loop_timer_set(&c->look, clock_monotonic_ns() + LOOK_NS);
}

/* One read. False when there is no more for now. */
static bool read_some(struct console *c)
{
    uint8_t keys[READ_BYTES];
    size_t room = c->escapes ? sizeof(keys) : MIN(sizeof(keys), CONSOLE_PENDING - c->pending_count);
    ssize_t n;

    if (room == 0)
        return false;
    n = read(c->in.fd, keys, room);
    if (n > 0) {
        take_keys(c, keys, (size_t)n);
        return true;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n < 0 && errno == EIO && terminal_is_there() && !terminal_is_ours()) {
        go_to_background(c);
        return false;
    }
    in_close(c); /* the end of the input; the guest goes on */
    return false;
}

static void watch_input(struct console *c)
{
    bool wanted = c->in.fd >= 0 && c->in_pollable && !c->in_background && (c->escapes || c->pending_count < CONSOLE_PENDING);

    if (wanted && !c->in_watched)
        c->in_watched = loop_add_fd(c->loop, &c->in) == 0;
    if (!wanted && c->in_watched) {
        loop_remove_fd(c->loop, &c->in);
        c->in_watched = false;
    }
}

static void to_foreground(struct console *c)
{
    if (terminal_make_raw()) {
        c->in_background = false;
        c->escapes = true;
    } else {
        go_to_background(c);
    }
    watch_input(c);
}

static void look_for_foreground(struct loop_timer *timer)
{
    to_foreground(container_of(timer, struct console, look));
}

static void in_ready(struct loop_fd *fd, uint32_t events)
{
    struct console *c = container_of(fd, struct console, in);

    (void)events;
    read_some(c);
    watch_input(c);
}

static void console_room(void *opaque)
{
    struct console *c = opaque;

    push_pending(c);
    while (!c->in_pollable && c->in.fd >= 0 && c->pending_count == 0 && read_some(c))
        ;
    watch_input(c);
}

/* --- life --- */

int console_init(struct console *c, const struct config *config, struct loop *loop, void (*on_escape)(void *opaque, enum escape_action),
                 void *opaque, struct err *e)
{
    *c = (struct console){.loop = loop, .on_escape = on_escape, .opaque = opaque};
    loop_timer_init(loop, &c->look, look_for_foreground);
    c->in = (struct loop_fd){.fd = -1, .events = EPOLLIN, .ready = in_ready};
    c->out = (struct loop_fd){.fd = -1, .events = EPOLLOUT, .ready = out_ready};
    switch (config->console) {
    case CONSOLE_NONE: return 0;
    case CONSOLE_FILE:
        /* Without blocking: a FIFO that nobody reads is an error rather than a reason to wait. */
        c->out.fd = open(config->console_path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
        if (c->out.fd < 0)
            return err_set(e, errno, "cannot write the console to %.300s: %s", config->console_path, strerror(errno));
        c->out_owned = true;
        return 0;
    case CONSOLE_TTY:
    case CONSOLE_VIRTIO: break;
    }
    open_standard_output(c);
    c->in.fd = STDIN_FILENO;
    if (terminal_is_there())
        to_foreground(c);
    return 0;
}

void console_fini(struct console *c)
{
    in_close(c);
    loop_timer_cancel(&c->look);
    if (c->out_watched)
        loop_remove_fd(c->loop, &c->out);
    c->out_watched = false;
    if (c->out_owned && c->out.fd >= 0)
        close(c->out.fd);
    c->out.fd = -1;
    terminal_restore();
}

struct machine_consoles console_hosts(struct console *c, const struct config *config)
{
    bool virtio = config->console == CONSOLE_VIRTIO;

    return (struct machine_consoles){
        /* People see what became of what they type; a file is typed as a whole, before the guest has a driver. */
        .serial = {.opaque = c, .out = console_out, .room = virtio ? NULL : console_room, .waits_for_rts = !terminal_is_there()},
        .virtio = {.opaque = c, .out = console_out, .room = console_room},
    };
}

void console_resized(struct console *c)
{
    struct winsize size;

    if (c->virtio && (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0 || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0))
        virtio_console_resize(c->virtio, size.ws_col, size.ws_row);
}

int console_start(struct console *c, struct machine *machine, struct err *e)
{
    int error;

    c->uart = &machine->uart;
    c->virtio = machine->virtio_console;
    console_resized(c);
    if (c->in.fd < 0)
        return 0;
    error = loop_add_fd(c->loop, &c->in);
    c->in_watched = c->in_pollable = error == 0;
    if (!error)
        watch_input(c);
    if (error == -EPERM) { /* not pollable */
        console_room(c);
        return 0;
    }
    return error ? err_set(e, -error, "cannot watch standard input: %s", strerror(-error)) : 0;
}

void console_suspend(struct console *c)
{
    (void)c;
    terminal_restore();
}

void console_resume(struct console *c)
{
    if (c->in.fd >= 0 && terminal_is_there())
        to_foreground(c);
    console_resized(c);
}
