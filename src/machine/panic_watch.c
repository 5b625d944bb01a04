/* Finds the kernel's last words in the console's output, a line at a time. */
#include "machine/panic_watch.h"

#include <stdio.h>
#include <string.h>

static const char opening[] = "---[ end Kernel panic - not syncing";

/* printk's time stamp, "[    1.234567] ", where there is one. */
static const char *skip_stamp(const char *line)
{
    const char *end;

    if (*line != '[')
        return line;
    end = line + 1 + strspn(line + 1, " 0123456789.");
    return end[0] == ']' && end[1] == ' ' ? end + 2 : line;
}

static bool is_panic(struct panic_watch *w, char why[PANIC_LINE_MAX])
{
    const char *text;
    char *close;

    w->line[w->len] = '\0';
    text = skip_stamp(w->line);
    if (strncmp(text, opening, sizeof(opening) - 1) != 0)
        return false;
    text += sizeof(opening) - 1;
    if (*text == ':')
        text++;
    while (*text == ' ')
        text++;
    snprintf(why, PANIC_LINE_MAX, "%s", text);
    close = strstr(why, "]---");
    while (close && close > why && close[-1] == ' ')
        close--;
    if (close)
        *close = '\0';
    return true;
}

bool panic_watch_feed(struct panic_watch *w, const uint8_t *data, size_t len, char why[PANIC_LINE_MAX])
{
    bool found = false;

    for (size_t i = 0; i < len; i++) {
        if (data[i] == '\n') {
            found |= is_panic(w, why);
            w->len = 0;
        } else if (data[i] != '\r' && data[i] != '\0' && w->len < PANIC_LINE_MAX - 1) {
            w->line[w->len++] = (char)data[i];
        }
    }
    return found;
}
