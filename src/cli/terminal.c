/* The terminal on standard input, and the promise to give it back. */
#include "cli/terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "base/log.h"

/* The process has one terminal, and signal handlers have no arguments: hence static. */
static struct termios found;
static volatile sig_atomic_t is_raw;

void terminal_restore(void)
{
    if (!is_raw)
        return;
    is_raw = 0;
    tcsetattr(STDIN_FILENO, TCSANOW, &found);
    log_set_crlf(false); /* NOLINT(bugprone-signal-handler,cert-sig30-c): one atomic store */
}

/* A bug of ours: the message was written already, the terminal comes back, and the core is dumped as ever. */
static void on_fatal(int signo)
{
    terminal_restore();
    signal(signo, SIG_DFL);
    raise(signo);
}

void terminal_init(void)
{
    static const int fatal[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};

    atexit(terminal_restore);
    for (unsigned i = 0; i < ARRAY_SIZE(fatal); i++)
        signal(fatal[i], on_fatal);
}

bool terminal_is_there(void)
{
    return isatty(STDIN_FILENO);
}

/* ENOTTY: a terminal that controls no session of ours. It sends no signals either. */
bool terminal_is_ours(void)
{
    pid_t group = tcgetpgrp(STDIN_FILENO);

    return group < 0 ? errno == ENOTTY : group == getpgrp();
}

bool terminal_make_raw(void)
{
    struct termios raw;

    if (!terminal_is_there() || !terminal_is_ours())
        return false;
    if (!is_raw && tcgetattr(STDIN_FILENO, &found) != 0)
        return false;
    raw = found;
    cfmakeraw(&raw);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    if (tcsetattr(STDIN_FILENO, TCSANOW, &raw) != 0)
        return false;
    is_raw = 1;
    log_set_crlf(true);
    return true;
}
