/* Lists of settings of one flag, as in "disk.img,ro,serial=A": taking them apart, and the kinds of values that items have. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config/options.h"

void config_items_fini(struct config_items *items)
{
    free(items->text);
    *items = (struct config_items){0};
}

int config_items_add(struct config_items *items, const char *key, const char *value, struct err *why)
{
    if (items->count == CONFIG_ITEMS_MAX)
        return err_set(why, EINVAL, "has more than %d settings", CONFIG_ITEMS_MAX);
    items->item[items->count++] = (struct config_item){.key = key, .value = value};
    return 0;
}

/* The item at *from is written to *to without its doubled commas, both advance. True when another one follows. */
static bool next_item(const char **from, char **to)
{
    const char *p = *from;
    char *q = *to;
    bool more;

    while (*p && (*p != ',' || p[1] == ',')) {
        p += *p == ',';
        *q++ = *p++;
    }
    more = *p == ',';
    *from = p + more;
    *q++ = '\0';
    *to = q;
    return more;
}

int config_items_split(struct config_items *items, const char *text, const char *first, struct err *why)
{
    const char *from = text;
    char *to;
    bool more = true;
    int error = 0;

    *items = (struct config_items){.text = malloc(strlen(text) + 1)};
    if (!items->text)
        return err_set(why, ENOMEM, "does not fit into memory");
    to = items->text;
    while (more && !error) {
        char *item = to, *equals = NULL;

        more = next_item(&from, &to);
        if (items->count == 0 && first) {
            error = config_items_add(items, first, item, why);
            continue;
        }
        if (!*item)
            return err_set(why, EINVAL, "has an empty setting between or after its commas: '%.100s'", text);
        equals = strchr(item, '=');
        if (equals)
            *equals = '\0';
        error = config_items_add(items, item, equals ? equals + 1 : NULL, why);
    }
    return error;
}

int config_items_once(const struct config_items *items, const char *repeatable, struct err *why)
{
    for (unsigned i = 0; i < items->count; i++)
        for (unsigned j = 0; j < i; j++)
            if (strcmp(items->item[i].key, items->item[j].key) == 0 && (!repeatable || strcmp(items->item[i].key, repeatable) != 0))
                return err_set(why, EINVAL, "has '%.60s' twice", items->item[i].key);
    return 0;
}

int config_item_switch(const struct config_item *item, bool *field, struct err *why)
{
    if (item->value)
        return err_set(why, EINVAL, "takes no value for '%s', but was given '%.100s'", item->key, item->value);
    *field = true;
    return 0;
}

int config_item_text(const struct config_item *item, const char *what, struct err *why)
{
    if (!item->value || !*item->value)
        return err_set(why, EINVAL, "needs %s for '%s'", what, item->key);
    return 0;
}

int config_item_number(const struct config_item *item, unsigned min, unsigned max, unsigned *field, struct err *why)
{
    const char *value = item->value ? item->value : "";
    char *end;
    unsigned long n;

    errno = 0;
    n = strtoul(value, &end, 10);
    if (*value < '0' || *value > '9' || *end || errno || n < min || n > max)
        return err_set(why, EINVAL, "needs a number from %u to %u for '%s', not '%.100s'", min, max, item->key, value);
    *field = (unsigned)n;
    return 0;
}
