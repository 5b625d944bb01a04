/* The nearest of some names to one that was mistyped. */
#pragma once

#include "base/types.h"

/* Plain state; name and whatever is offered are borrowed. */
struct nearest {
    const char *name;
    const char *found; /* the nearest so far; NULL: none is near */
    unsigned distance;
};

/* At most two letters changed, added or left out make a name near. */
void nearest_begin(struct nearest *, const char *name);
void nearest_offer(struct nearest *, const char *candidate);
