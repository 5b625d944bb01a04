/* umbra stat: what a VM counts, once or again and again. */
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "api/client.h"
#include "base/clock.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/stat_table.h"

#define SHOW_SCREEN "\x1b[?1049h\x1b[?25l" /* another screen than the shell's, and no cursor */
#define LEAVE_SCREEN "\x1b[?25h\x1b[?1049l"

/* --- showing --- */

/* What fits into the window, over what stood there: nothing flickers, and nothing scrolls. */
static void rewrite(const char *text)
{
    struct winsize size;
    unsigned rows = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 1 ? size.ws_row - 1U : 24;
    unsigned columns = rows && size.ws_col ? size.ws_col : 80;

    fputs("\x1b[H", stdout);
    for (unsigned row = 0; row < rows && *text; row++) {
        size_t len = strcspn(text, "\n");

        printf("%.*s\x1b[K\r\n", (int)MIN(len, columns), text);
        text += len + (text[len] == '\n');
    }
    fputs("\x1b[J", stdout);
}

static bool show_table(const json_t *answer, const json_t *before, bool on_screen)
{
    const char *state = json_string_value(json_object_get(answer, "state"));
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);

    if (!f)
        return false;
    stat_table(f, json_object_get(answer, "stats"), json_object_get(before, "stats"), state ? state : "?");
    if (fclose(f) == 0) {
        if (on_screen)
            rewrite(text);
        else
            printf("%s%s", before ? "\n" : "", text);
    }
    free(text);
    return fflush(stdout) == 0;
}

static bool show_json(const json_t *answer)
{
    json_dumpf(answer, stdout, JSON_COMPACT);
    putchar('\n');
    return fflush(stdout) == 0;
}

/* --- again and again --- */

/* False when the signal is the end. */
static bool on_signal(int signals, bool on_screen)
{
    struct signalfd_siginfo info;

    if (read(signals, &info, sizeof(info)) != (ssize_t)sizeof(info))
        return true;
    if (info.ssi_signo != SIGTSTP)
        return false;
    if (on_screen)
        fputs(LEAVE_SCREEN, stdout);
    fflush(stdout);
    raise(SIGSTOP);
    if (on_screen)
        fputs(SHOW_SCREEN, stdout);
    return true;
}

/* Until it is time for the next look. False when it is over: by a signal, or because the VM has *ended. */
static bool wait_for_next(const struct client *client, int signals, int interval_ms, bool on_screen, bool *ended)
{
    struct pollfd p[] = {{.fd = signals, .events = POLLIN}, {.fd = client->fd, .events = POLLIN}};
    uint64_t until = clock_monotonic_ns() + (uint64_t)interval_ms * NS_PER_MS, now;

    while ((now = clock_monotonic_ns()) < until) {
        int n = poll(p, ARRAY_SIZE(p), (int)((until - now) / NS_PER_MS) + 1);

        *ended = n > 0 && p[1].revents;
        if (*ended || (n < 0 && errno != EINTR) || (n > 0 && !on_signal(signals, on_screen)))
            return false;
    }
    return true;
}

static int take_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGQUIT);
    sigaddset(&set, SIGTSTP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* interval_ms 0: one look. 0, or -errno with a sentence when there was none at all. */
static int look(struct client *client, bool as_json, int interval_ms, struct err *e)
{
    bool on_screen = interval_ms && !as_json && isatty(STDOUT_FILENO);
    int signals = interval_ms ? take_signals() : -1;
    json_t *before = NULL, *answer;
    bool shown = true, ended = false;

    while (shown && (answer = client_ask(client, "stat", e))) {
        if (on_screen && !before)
            fputs(SHOW_SCREEN, stdout);
        shown = as_json ? show_json(answer) : show_table(answer, before, on_screen);
        json_decref(before);
        before = answer;
        if (!interval_ms || !wait_for_next(client, signals, interval_ms, on_screen, &ended))
            break;
    }
    if (on_screen && before)
        fputs(LEAVE_SCREEN, stdout);
    fflush(stdout);
    if (ended)
        log_info("the VM '%s' has ended", client->name);
    if (signals >= 0)
        close(signals);
    json_decref(before);
    return before ? 0 : -EIO;
}

int cli_stat(const struct command_args *args)
{
    struct client client;
    struct err e;
    bool watch = command_given(args, "watch");
    int interval_ms = watch ? 1000 : 0, error = command_ms(args, "watch", &interval_ms, &e);

    if (!error && watch && interval_ms == 0)
        error = err_set(&e, EINVAL, "--watch needs some time between two looks: --watch=0.1 is ten a second");
    if (error) {
        log_error("%s", e.text);
        return EXIT_USAGE;
    }
    error = client_open(&client, args->vm, &e);
    if (!error)
        error = look(&client, command_given(args, "json"), interval_ms, &e);
    client_close(&client);
    if (error) {
        log_error("%s", e.text);
        return EXIT_FAILURE;
    }
    return cli_printed();
}
