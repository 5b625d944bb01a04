/* Statistics: engines and devices report named numbers; the writer makes a table or JSON of them. */
#pragma once

#include "base/types.h"

/* Handed to a reporter; group and name are the keys in JSON. */
struct stats_out {
    void (*number)(struct stats_out *, const char *group, const char *name, uint64_t value);
    /* A count with the time that went into it. */
    void (*timed)(struct stats_out *, const char *group, const char *name, uint64_t count, uint64_t ns);
};
