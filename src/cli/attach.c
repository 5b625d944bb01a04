/* umbra console: this terminal as one more console of a running VM. */
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/client.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/escape.h"
#include "cli/terminal.h"

#define BYTES 4096

struct attach {
    struct client client; /* its connection is the console */
    bool virtio;          /* the console follows a window's size */
    int signals;
    bool escapes; /* standard input is a terminal, raw */
    bool in_open;
    struct escape escape;
    size_t typed_count; /* not sent yet */
    uint8_t typed[BYTES];
    bool over; /* it was left, or cannot go on */
    int status;
};

/* --- beside the bytes: requests on a connection of their own --- */

/* Takes the request. 0, or -errno with a sentence. */
static int ask_beside(const struct attach *a, json_t *request, struct err *e)
{
    struct client beside;
    json_t *answer = NULL;
    int error = client_open(&beside, a->client.name, e);

    if (error)
        json_decref(request);
    else
        answer = client_call(&beside, request, CLIENT_TIMEOUT_MS, NULL, e);
    client_close(&beside);
    json_decref(answer);
    return answer ? 0 : -EIO;
}

static void send_break(const struct attach *a)
{
    struct err e;

    if (ask_beside(a, json_pack("{s:s}", "request", "break"), &e) != 0)
        log_warn("the break was not sent: %s", e.text);
}

static void tell_size(const struct attach *a)
{
    struct winsize size;
    struct err e; /* a VM that ended meanwhile is told of by its hanging up */

    if (a->virtio && (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0 || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0))
        ask_beside(a, json_pack("{s:s, s:i, s:i}", "request", "resize", "columns", size.ws_col, "rows", size.ws_row), &e);
}

/* --- input --- */

static void say_lines(const char *text)
{
    for (const char *end; *text; text = end + 1) {
        end = strchr(text, '\n');
        log_info("%.*s", (int)(end - text), text);
    }
}

/* False when this key leaves the console: what was typed behind it is nobody's. */
static bool take_key(struct attach *a, uint8_t key)
{
    uint8_t byte = key;

    switch (a->escapes ? escape_feed(&a->escape, key, &byte) : ESCAPE_BYTE) {
    case ESCAPE_BYTE:
        if (a->typed_count < BYTES) /* of a terminal, what does not fit is lost, as on a real line */
            a->typed[a->typed_count++] = byte;
        return true;
    case ESCAPE_NONE: return true;
    case ESCAPE_BREAK: send_break(a); return true;
    case ESCAPE_DETACH: return false;
    case ESCAPE_QUIT:
    case ESCAPE_HELP:
    case ESCAPE_STATS:
    case ESCAPE_UNKNOWN: say_lines(escape_help_attached); break;
    }
    return true;
}

/* A terminal is read even when the guest takes nothing, for the sake of the escape key. */
static bool wants_input(const struct attach *a)
{
    return a->in_open && (a->escapes || a->typed_count < BYTES);
}

static void read_input(struct attach *a)
{
    uint8_t keys[BYTES];
    ssize_t n = read(STDIN_FILENO, keys, a->escapes ? BYTES : BYTES - a->typed_count);

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        a->in_open = false; /* the output goes on */
        a->over = a->escapes;
        return;
    }
    for (ssize_t i = 0; i < n && !a->over; i++)
        a->over = !take_key(a, keys[i]);
}

static void send_typed(struct attach *a)
{
    ssize_t n = send(a->client.fd, a->typed, a->typed_count, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (n <= 0)
        return; /* no room, or it is gone, which the output tells */
    a->typed_count -= (size_t)n;
    memmove(a->typed, a->typed + n, a->typed_count);
}

/* --- output --- */

static void write_output(struct attach *a, const char *data, size_t len)
{
    while (len > 0 && !a->over) {
        ssize_t n = write(STDOUT_FILENO, data, len);

        if (n > 0) {
            data += n;
            len -= (size_t)n;
        } else if (n < 0 && errno == EAGAIN) {
            struct pollfd p = {.fd = STDOUT_FILENO, .events = POLLOUT};

            poll(&p, 1, -1);
        } else if (n < 0 && errno != EINTR) {
            a->over = true;
            a->status = EXIT_FAILURE;
        }
    }
}

static void read_output(struct attach *a)
{
    char data[BYTES];
    ssize_t n = recv(a->client.fd, data, sizeof(data), MSG_DONTWAIT);

    if (n > 0) {
        write_output(a, data, (size_t)n);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        a->over = true;
        log_info("the VM '%s' has ended", a->client.name);
    }
}

/* --- signals --- */

static int take_signals(void)
{
    static const int handled[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH};
    sigset_t set;

    sigemptyset(&set);
    for (unsigned i = 0; i < ARRAY_SIZE(handled); i++)
        sigaddset(&set, handled[i]);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

static void on_signal(struct attach *a)
{
    struct signalfd_siginfo info;

    if (read(a->signals, &info, sizeof(info)) != (ssize_t)sizeof(info))
        return;
    if (info.ssi_signo == SIGTSTP) {
        terminal_restore();
        raise(SIGSTOP);
    } else if (info.ssi_signo == SIGCONT) { /* whatever stopped us: a shell may have changed the terminal */
        a->escapes = terminal_make_raw();
        tell_size(a);
    } else if (info.ssi_signo == SIGWINCH) {
        tell_size(a);
    } else {
        a->over = true;
        a->status = 128 + (int)info.ssi_signo;
    }
}

/* --- the console --- */

static void serve(struct attach *a)
{
    write_output(a, a->client.in, a->client.in_len); /* came with the answer */
    while (!a->over) {
        struct pollfd p[] = {
            {.fd = a->signals, .events = POLLIN},
            {.fd = a->client.fd, .events = (short)(POLLIN | (a->typed_count ? POLLOUT : 0))},
            {.fd = wants_input(a) ? STDIN_FILENO : -1, .events = POLLIN},
        };

        if (poll(p, ARRAY_SIZE(p), -1) < 0)
            continue;
        if (p[0].revents)
            on_signal(a);
        if (p[1].revents & (POLLIN | POLLHUP | POLLERR) && !a->over)
            read_output(a);
        if (p[2].revents && !a->over)
            read_input(a);
        if (a->typed_count)
            send_typed(a);
    }
}

static int attach(struct attach *a, struct err *e)
{
    json_t *answer = client_ask(&a->client, "console", e);

    if (!answer)
        return -EIO;
    a->virtio = strcmp(json_string_value(json_object_get(answer, "console")) ?: "", "virtio") == 0;
    json_decref(answer);
    a->signals = take_signals();
    if (a->signals < 0)
        return err_set(e, errno, "cannot take signals: %s", strerror(errno));
    terminal_init();
    if (terminal_is_there())
        log_info("this is the console of %s: Ctrl-a d leaves it, Ctrl-a h helps", a->client.name);
    a->escapes = terminal_make_raw();
    tell_size(a);
    serve(a);
    if (a->escapes) {
        terminal_restore();
        putchar('\n'); /* the guest left the cursor somewhere */
        fflush(stdout);
    }
    close(a->signals);
    return 0;
}

int cli_console(const struct command_args *args)
{
    struct attach a = {.in_open = true, .status = EXIT_SUCCESS};
    struct err e;
    int error = client_open(&a.client, args->vm, &e);

    if (!error)
        error = attach(&a, &e);
    client_close(&a.client);
    if (error)
        log_error("%s", e.text);
    return error ? EXIT_FAILURE : a.status;
}
