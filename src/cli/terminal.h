/* The terminal on standard input: raw while the guest has it, and as it was in every other case. */
#pragma once

#include "base/types.h"

/*
 * Promises to give the terminal back at exit and on a fault of our own. Before an engine installs its handlers, which pass on the
 * faults that are no guest's.
 */
void terminal_init(void);

/* Standard input is a terminal; and this process may read from it, because it is in the foreground or knows no job control. */
bool terminal_is_there(void);
bool terminal_is_ours(void);

/* Makes it raw when it is there and ours; then true. Again when somebody else changed it meanwhile. */
bool terminal_make_raw(void);

/* As it was found. Async-signal-safe; does nothing when it is not raw. */
void terminal_restore(void);
