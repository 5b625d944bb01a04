/* What a VM counted between two looks, as a table for people. */
#pragma once

#include <stdio.h>

struct json_t;

/*
 * now and before: the "stats" of two answers of the VM, before the earlier one or NULL for the VM's start. state: the VM's. Rates and shares are
 * those of the time between the two, counts and times those of the VM's life.
 */
void stat_table(FILE *, const struct json_t *now, const struct json_t *before, const char *state);
