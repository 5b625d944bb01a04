/* The escape key of the console: Ctrl-a and a letter, told apart from what is for the guest. */
#pragma once

#include "base/types.h"

#define ESCAPE_KEY 0x01 /* Ctrl-a */

enum escape_action {
    ESCAPE_NONE,
    ESCAPE_BYTE /* for the guest */,
    ESCAPE_QUIT,
    ESCAPE_HELP,
    ESCAPE_STATS,
    ESCAPE_BREAK,
    ESCAPE_DETACH,
    ESCAPE_UNKNOWN
};

struct escape {
    bool pending; /* Ctrl-a came, its letter did not yet */
};

/* One byte from the terminal. With ESCAPE_BYTE, *byte is the guest's. */
enum escape_action escape_feed(struct escape *, uint8_t key, uint8_t *byte);

/* What there is for people on the console of 'umbra run', and on that of 'umbra console'; lines end in \n. */
extern const char escape_help[];
extern const char escape_help_attached[];
