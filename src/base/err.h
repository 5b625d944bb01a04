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
int err_set(struct err *e, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
