/* Messages to stderr, each one write, so that lines of several threads do not mix. */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"

#define LINE_MAX_BYTES 1024

/* How the process's one terminal is set: the only state here, and no VM's. */
static atomic_bool crlf;

void log_set_crlf(bool on)
{
    atomic_store(&crlf, on);
}

static void write_line(const char *kind, const char *fmt, va_list args)
{
    char line[LINE_MAX_BYTES];
    int prefix = snprintf(line, sizeof(line), "umbra: %s", kind);
    size_t room = sizeof(line) - (size_t)prefix - 2;
    int len = vsnprintf(line + prefix, room, fmt, args);
    size_t end = (size_t)prefix + (len < 0 ? 0 : MIN((size_t)len, room - 1));

    if (atomic_load(&crlf))
        line[end++] = '\r';
    line[end++] = '\n';
    if (write(STDERR_FILENO, line, end) < 0)
        return; /* nobody is left to tell */
}

void log_error(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    write_line("", fmt, args);
    va_end(args);
}

void log_warn(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    write_line("warning: ", fmt, args);
    va_end(args);
}

void log_info(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    write_line("", fmt, args);
    va_end(args);
}

void log_guest(struct log_limit *limit, const char *fmt, ...)
{
    uint64_t now = clock_monotonic_ns();
    uint64_t next = __atomic_load_n(&limit->next_ns, __ATOMIC_RELAXED);
    va_list args;
    unsigned held;

    if (now < next || !__atomic_compare_exchange_n(&limit->next_ns, &next, now + NS_PER_SEC, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        __atomic_fetch_add(&limit->held_back, 1, __ATOMIC_RELAXED);
        return;
    }
    held = __atomic_exchange_n(&limit->held_back, 0, __ATOMIC_RELAXED);
    va_start(args, fmt);
    write_line("guest: ", fmt, args);
    va_end(args);
    if (held)
        log_info("guest: %u messages of that kind were held back", held);
}
