/* The typed, validated configuration of a VM: plain structs that flags and JSON fill alike. */
#pragma once

#include "base/err.h"
#include "base/types.h"

enum config_engine { ENGINE_AUTO, ENGINE_SOFT };
enum config_console { CONSOLE_TTY, CONSOLE_FILE, CONSOLE_NONE };

struct config {
    char *name; /* default: "umbra-<pid>" */
    enum config_engine engine;
    unsigned cpus;
    uint64_t memory; /* bytes */
    bool memory_shared;
    char *kernel; /* paths; NULL = not given */
    char *initrd;
    char *append;
    enum config_console console;
    char *console_path; /* CONSOLE_FILE */
    bool no_reboot;
    bool debug_exit;
    bool stats;
    char *stats_path; /* NULL = a table on stderr; a name ending in .json makes JSON */
};

void config_init(struct config *); /* defaults */
void config_fini(struct config *); /* frees every string */

/*
 * Fills from a JSON file; keys are the flags' names ("memory": "1G" or bytes as a number, "no-reboot": true ...).
 * -EINVAL with one sentence that names the file, the key and the wanted type; unknown keys are refused.
 */
int config_load_json(struct config *, const char *path, struct err *);

/* One setting by its flag's name, from a string (value NULL for switches). The flag parser and tests use it. */
int config_set(struct config *, const char *key, const char *value, struct err *);

/* Cross-checks: values that contradict each other or that no machine can have. */
int config_validate(const struct config *, struct err *);
