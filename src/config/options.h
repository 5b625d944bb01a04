/* The one table of settings: flags, JSON keys, help, man page and shell completion all follow it. */
#pragma once

#include "config/config.h"

enum config_kind {
    CONFIG_TEXT,           /* a flag with a value; a string in JSON */
    CONFIG_NUMBER,         /* a flag with a value; a whole number in JSON */
    CONFIG_SIZE,           /* a flag with a value; a string or a whole number (bytes) in JSON */
    CONFIG_SWITCH,         /* a flag without a value; true or false in JSON */
    CONFIG_SWITCH_OR_TEXT, /* a flag with or without =VALUE; true, false or a string in JSON */
    CONFIG_INCLUDE,        /* a flag with a file's name; not in JSON */
};

struct config_option {
    const char *key; /* the flag without its dashes, and the key in JSON */
    enum config_kind kind;
    const char *value; /* what stands for the value in help; NULL for switches */
    const char *help;  /* lines separated by \n */
    /* Takes the value, or says in `why` what it should be, as a sentence that goes on after the option's name. */
    int (*set)(struct config *, bool on, const char *value, struct err *why);
};

extern const struct config_option config_options[];
extern const unsigned config_option_count;

const struct config_option *config_option_find(const char *key); /* NULL when there is none */

/* "512M", "1G", "2048K", "1T" or bytes. 0, -EINVAL (no size) or -ERANGE (beyond 64 bits). */
int config_parse_size(const char *text, uint64_t *bytes);

/* The same for people: the largest unit that divides it. Returns buf. */
#define CONFIG_SIZE_TEXT 24
const char *config_size_text(uint64_t bytes, char buf[CONFIG_SIZE_TEXT]);

/* What config_validate() allows. */
#define CONFIG_MEMORY_MIN MIB(2)
#define CONFIG_MEMORY_MAX (GIB(1) << 10)
#define CONFIG_NAME_MAX 64
