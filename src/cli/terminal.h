/* The terminal on standard input: raw while the guest has it, and as it was in every other case. */
#pragma once

#include "base/types.h"

/*
 * Makes it raw when standard input is a terminal whose foreground this process is; then true. From here on it is restored at exit, and
 * on signals that end the process.
 */
bool terminal_make_raw(void);

/* As it was found. Async-signal-safe; does nothing when it is not raw. */
void terminal_restore(void);
