/* Host failures: one sentence for the user and a negative errno for the caller. */
#pragma once

#include "base/types.h"

struct err {
    char text[512];
};

/*
 * Writes the sentence (what happened, to which file, device or option, and what helps) and returns
 * -code, so that `return err_set(e, ENOENT, ...)` is the whole error path. e may be NULL. code > 0.
 */
#define err_set(e, code, ...)                                                                                                              \
    ({ /* a macro, so that compilers and analyzers see that the result is never 0 */                                                       \
       int err_code_ = (code);                                                                                                             \
       err_write(e, err_code_, __VA_ARGS__);                                                                                               \
       if (err_code_ <= 0)                                                                                                                 \
           __builtin_unreachable();                                                                                                        \
       -err_code_;                                                                                                                         \
    })
void err_write(struct err *e, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
