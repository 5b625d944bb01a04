/* The settings of CPUs: how many, in which sockets, cores and threads, and on which CPUs of the host they run. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/options.h"

/* --- how many --- */

/* A number that was left out is 0: cores take the rest, else sockets, else threads. False where there is none. */
static bool complete(unsigned cpus, unsigned n[3])
{
    enum { SOCKETS, CORES, THREADS };
    unsigned open = !n[CORES] ? CORES : !n[SOCKETS] ? SOCKETS : THREADS;
    unsigned product = 1;

    for (unsigned i = 0; i < 3; i++) {
        if (!n[i] && i != open)
            n[i] = 1;
        if (i != open)
            product *= n[i];
    }
    if (!n[open])
        n[open] = cpus % product == 0 ? cpus / product : 0;
    return product * n[open] == cpus && n[open] != 0;
}

static int number(const struct config_item *item, unsigned *field, struct err *why)
{
    return config_item_number(item, 1, CONFIG_CPUS_MAX, field, why);
}

int config_set_cpus(struct config *c, const struct config_items *items, struct err *why)
{
    unsigned cpus = 0, n[3] = {0};
    char asked[80];
    int error = config_items_once(items, NULL, why);

    for (unsigned i = 0; i < items->count && !error; i++) {
        const struct config_item *item = &items->item[i];

        if (strcmp(item->key, "count") == 0 && number(item, &cpus, why) != 0)
            error = err_set(why, EINVAL, "must be a number of CPUs from 1 to %d, not '%.100s'", CONFIG_CPUS_MAX,
                            item->value ? item->value : "");
        else if (strcmp(item->key, "sockets") == 0)
            error = number(item, &n[0], why);
        else if (strcmp(item->key, "cores") == 0)
            error = number(item, &n[1], why);
        else if (strcmp(item->key, "threads") == 0)
            error = number(item, &n[2], why);
        else if (strcmp(item->key, "count") != 0)
            error = err_set(why, EINVAL, "has a setting '%.60s' that CPUs do not have: they have sockets, cores and threads", item->key);
    }
    if (error)
        return error;
    if (!cpus)
        return err_set(why, EINVAL, "must be a number of CPUs, and needs it as \"count\"");
    snprintf(asked, sizeof(asked), "sockets=%u, cores=%u and threads=%u", n[0], n[1], n[2]);
    if (!complete(cpus, n))
        return err_set(why, EINVAL, "of %u is not the product of %s (0: as many as it takes)", cpus, asked);
    c->cpus = cpus;
    c->sockets = n[0];
    c->cores = n[1];
    c->threads = n[2];
    return 0;
}

/* --- where --- */

/* N or N-M, up to max; what follows is at *text then. */
static bool parse_range(const char **text, unsigned max, unsigned *first, unsigned *last)
{
    char *end;

    for (unsigned i = 0; i < 2; i++) {
        if (**text < '0' || **text > '9')
            return false;
        errno = 0;
        unsigned long n = strtoul(*text, &end, 10);
        if (errno || n > max)
            return false;
        *text = end;
        *(i ? last : first) = (unsigned)n;
        if (i == 0 && *end != '-') {
            *last = *first;
            return true;
        }
        *text += i == 0;
    }
    return *first <= *last;
}

/* One part of the list; *text is behind it then, at a comma or the end. */
static bool parse_pin(const char **text, struct config_pin *pin)
{
    const char *colon = *text + strcspn(*text, ":,");

    if (*colon == ':') {
        if (!parse_range(text, CONFIG_CPUS_MAX - 1, &pin->first_vcpu, &pin->last_vcpu) || *text != colon)
            return false;
        ++*text;
    } else {
        pin->all = true;
    }
    return parse_range(text, CONFIG_HOST_CPUS_MAX - 1, &pin->first, &pin->last) && (**text == ',' || **text == '\0');
}

int config_set_pins(struct config *c, bool on, const char *value, struct err *why)
{
    struct config_pin pins[CONFIG_PINS_MAX] = {{0}};
    unsigned count = 0;

    (void)on;
    for (const char *text = value;; text++) {
        if (count == CONFIG_PINS_MAX)
            return err_set(why, EINVAL, "has more than %d parts", CONFIG_PINS_MAX);
        if (!parse_pin(&text, &pins[count++]))
            return err_set(why, EINVAL, "must be CPUs of the host such as 2-3, or CPUs with theirs such as 0:2,1:3, not '%.100s'", value);
        if (!*text)
            break;
    }
    memcpy(c->pins, pins, sizeof(pins));
    c->pin_count = count;
    return 0;
}

bool config_is_pinned(const struct config *c, unsigned vcpu)
{
    for (unsigned i = 0; i < c->pin_count; i++)
        if (c->pins[i].all || (vcpu >= c->pins[i].first_vcpu && vcpu <= c->pins[i].last_vcpu))
            return true;
    return false;
}

bool config_pins_to(const struct config *c, unsigned vcpu, unsigned host_cpu)
{
    bool named = false, to_named = false, to_all = false;

    for (unsigned i = 0; i < c->pin_count; i++) {
        const struct config_pin *pin = &c->pins[i];
        bool here = host_cpu >= pin->first && host_cpu <= pin->last;
        bool mine = !pin->all && vcpu >= pin->first_vcpu && vcpu <= pin->last_vcpu;

        named |= mine;
        to_named |= mine && here;
        to_all |= pin->all && here;
    }
    return named ? to_named : to_all;
}

int config_check_pins(const struct config *c, struct err *e)
{
    long host = sysconf(_SC_NPROCESSORS_CONF);

    for (unsigned i = 0; i < c->pin_count; i++) {
        const struct config_pin *pin = &c->pins[i];

        if (!pin->all && pin->last_vcpu >= c->cpus)
            return err_set(e, EINVAL, "--pin names CPU %u, but the machine has %u, counted from 0: see --cpus", pin->last_vcpu, c->cpus);
        if (host > 0 && pin->last >= (unsigned long)host)
            return err_set(e, EINVAL, "--pin names CPU %u of the host, which has %ld, counted from 0", pin->last, host);
    }
    return 0;
}
