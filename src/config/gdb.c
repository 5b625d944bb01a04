/* --gdb: where a debugger can attach. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>

#include "config/options.h"

static int set_port(struct config_gdb *gdb, const char *text, struct err *why)
{
    char *end;
    unsigned long n;

    errno = 0;
    n = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || n > UINT16_MAX)
        return err_set(why, EINVAL, "needs a port from 0 (any that is free) to 65535, not '%.60s'", text);
    gdb->port = (uint16_t)n;
    return 0;
}

/* [ADDR:]PORT; an IPv6 address is in brackets. */
static int set_tcp(struct config_gdb *gdb, const char *text, struct err *why)
{
    const char *colon = strrchr(text, ':');
    const char *from = text;
    size_t len = colon ? (size_t)(colon - text) : 0;
    uint8_t parsed[16];
    bool v6 = len >= 2 && text[0] == '[' && text[len - 1] == ']';

    gdb->kind = GDB_TCP;
    strcpy(gdb->address, "127.0.0.1");
    if (len) {
        from += v6;
        len -= v6 ? 2 : 0;
        if (len < sizeof(gdb->address)) {
            memcpy(gdb->address, from, len);
            gdb->address[len] = '\0';
        }
        if (len >= sizeof(gdb->address) || inet_pton(v6 ? AF_INET6 : AF_INET, gdb->address, parsed) != 1)
            return err_set(why, EINVAL, "needs a numeric address, as 127.0.0.1 or [::1], not '%.60s'", text);
    }
    return set_port(gdb, colon ? colon + 1 : text, why);
}

static int set_unix(struct config_gdb *gdb, const char *path, struct err *why)
{
    if (!*path)
        return err_set(why, EINVAL, "needs the socket's path after unix:");
    gdb->path = strdup(path);
    gdb->kind = GDB_UNIX;
    return gdb->path ? 0 : err_set(why, ENOMEM, "does not fit into memory");
}

static int set_place(struct config_gdb *gdb, const char *value, struct err *why)
{
    if (strncmp(value, "tcp:", 4) == 0)
        return set_tcp(gdb, value + 4, why);
    if (strncmp(value, "unix:", 5) == 0)
        return set_unix(gdb, value + 5, why);
    return err_set(why, EINVAL, "must be tcp:[ADDR:]PORT or unix:PATH, not '%.100s'", value);
}

void config_clear_gdb(struct config *c)
{
    free(c->gdb.path);
    c->gdb = (struct config_gdb){0};
}

int config_set_gdb(struct config *c, const struct config_items *items, struct err *why)
{
    int error = config_items_once(items, NULL, why);
    bool placed = false;

    config_clear_gdb(c);
    for (unsigned i = 0; i < items->count && !error; i++) {
        const struct config_item *item = &items->item[i];

        if (strcmp(item->key, "listen") == 0) {
            error = set_place(&c->gdb, item->value ? item->value : "", why);
            placed = true;
        } else if (strcmp(item->key, "wait") == 0) {
            error = config_item_switch(item, &c->gdb.wait, why);
        } else {
            error = err_set(why, EINVAL, "knows no setting '%.60s': there is wait", item->key);
        }
    }
    if (!error && !placed)
        error = err_set(why, EINVAL, "needs a place to listen: tcp:[ADDR:]PORT or unix:PATH");
    if (error)
        config_clear_gdb(c);
    return error;
}
