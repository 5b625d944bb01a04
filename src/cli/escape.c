/* The escape key of the console. */
#include "cli/escape.h"

const char escape_help[] = "Ctrl-a x  quit umbra\n"
                           "Ctrl-a h  this help\n"
                           "Ctrl-a s  statistics so far\n"
                           "Ctrl-a b  send a break (with 'sysrq' in the guest: the next key is a SysRq)\n"
                           "Ctrl-a a  send a Ctrl-a (Ctrl-a Ctrl-a does too)\n";

const char escape_help_attached[] = "Ctrl-a d  leave the console; the VM runs on\n"
                                    "Ctrl-a h  this help\n"
                                    "Ctrl-a b  send a break\n"
                                    "Ctrl-a a  send a Ctrl-a (Ctrl-a Ctrl-a does too)\n";

enum escape_action escape_feed(struct escape *e, uint8_t key, uint8_t *byte)
{
    *byte = key;
    if (!e->pending) {
        e->pending = key == ESCAPE_KEY;
        return e->pending ? ESCAPE_NONE : ESCAPE_BYTE;
    }
    e->pending = false;
    switch (key) {
    case 'x': return ESCAPE_QUIT;
    case 'h':
    case '?': return ESCAPE_HELP;
    case 's': return ESCAPE_STATS;
    case 'b': return ESCAPE_BREAK;
    case 'd': return ESCAPE_DETACH;
    case 'a':
    case ESCAPE_KEY: *byte = ESCAPE_KEY; return ESCAPE_BYTE;
    default: return ESCAPE_UNKNOWN;
    }
}
