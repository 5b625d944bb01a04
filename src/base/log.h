/* Messages to stderr: errors, warnings, notes, and what the guest does wrong (rate-limited). */
#pragma once

#include "base/types.h"

/* Any thread; each call writes one whole line with the prefix "umbra: ". */
void log_error(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_warn(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_info(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* In raw terminal mode a line must end in CR LF; the console sets this. */
void log_set_crlf(bool on);

/* One per place that can complain about the guest; zero-initialized. Holds back all but one line a second. */
struct log_limit {
    uint64_t next_ns;
    unsigned held_back;
};

/* The guest misbehaves: at most one line a second per limit, with the count of those held back. Any thread. */
void log_guest(struct log_limit *limit, const char *fmt, ...) PRINTF_LIKE(2, 3);
