/* --net: a network of the user's own, a tap or an open descriptor, and what no two of them may share. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/options.h"

/* What the items say, before it is known to fit together. */
struct draft {
    struct config_net net;
    struct config_forward forwards[CONFIG_FORWARDS_MAX];
    bool user, tap, fd, none;
};

/* --- ports of the host --- */

static bool parse_port(const char *text, size_t len, uint16_t *port)
{
    unsigned n = 0;

    if (len == 0 || len > 5)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        n = n * 10 + (unsigned)(text[i] - '0');
    }
    *port = (uint16_t)n;
    return n >= 1 && n <= UINT16_MAX;
}

/* tcp:[HOSTADDR:]HOSTPORT:GUESTPORT */
static bool parse_forward(const char *text, struct config_forward *forward)
{
    const char *colon;
    struct in_addr addr;

    *forward = (struct config_forward){.host_addr = "127.0.0.1"};
    forward->udp = strncmp(text, "udp:", 4) == 0;
    if (!forward->udp && strncmp(text, "tcp:", 4) != 0)
        return false;
    text += 4;
    colon = strchr(text, ':');
    if (colon && strchr(colon + 1, ':')) {
        size_t len = (size_t)(colon - text);

        if (len >= sizeof(forward->host_addr))
            return false;
        if (len > 0) {
            memcpy(forward->host_addr, text, len);
            forward->host_addr[len] = '\0';
            if (inet_pton(AF_INET, forward->host_addr, &addr) != 1)
                return false;
        }
        text = colon + 1;
        colon = strchr(text, ':');
    }
    return colon && parse_port(text, (size_t)(colon - text), &forward->host_port) &&
           parse_port(colon + 1, strlen(colon + 1), &forward->guest_port);
}

static int add_forward(struct draft *d, const struct config_item *item, struct err *why)
{
    const char *value = item->value ? item->value : "";

    if (d->net.forward_count == CONFIG_FORWARDS_MAX)
        return err_set(why, EINVAL, "has more than %d forwards", CONFIG_FORWARDS_MAX);
    if (!parse_forward(value, &d->forwards[d->net.forward_count]))
        return err_set(why, EINVAL,
                       "needs tcp:[HOSTADDR:]HOSTPORT:GUESTPORT for 'hostfwd', with an IPv4 address and ports from 1 to 65535, "
                       "or the same with udp, not '%.100s'",
                       value);
    d->net.forward_count++;
    return 0;
}

/* --- the other items --- */

static bool parse_hex(char c, uint8_t *value)
{
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    const char *p = c ? strchr(digits, c) : NULL;

    *value = p ? (uint8_t)((p - digits) & 15) : 0;
    return p;
}

/* Six bytes of two digits, with colons between. */
static bool parse_mac(const char *text, uint8_t mac[6])
{
    if (strlen(text) != 17)
        return false;
    for (unsigned i = 0; i < 6; i++, text += 3) {
        uint8_t high, low;

        if (!parse_hex(text[0], &high) || !parse_hex(text[1], &low) || text[2] != (i < 5 ? ':' : '\0'))
            return false;
        mac[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static int set_mac(struct config_net *net, const struct config_item *item, struct err *why)
{
    static const uint8_t zero[6];
    const char *value = item->value ? item->value : "";

    if (!parse_mac(value, net->mac))
        return err_set(why, EINVAL, "needs six bytes such as 52:54:00:12:34:56 for 'mac', not '%.100s'", value);
    if (net->mac[0] & 1)
        return err_set(why, EINVAL, "cannot have the mac %.17s: with an odd first byte it is the address of a group (multicast)", value);
    if (memcmp(net->mac, zero, sizeof(zero)) == 0)
        return err_set(why, EINVAL, "cannot have a mac of zeroes");
    net->has_mac = true;
    return 0;
}

static int set_ifname(struct draft *d, const struct config_item *item, struct err *why)
{
    int error = config_item_text(item, "the name of an interface", why);

    if (error)
        return error;
    if (strlen(item->value) > CONFIG_IFNAME_MAX || strpbrk(item->value, "/ \t\n%:"))
        return err_set(why, EINVAL,
                       "needs the name of an interface for 'tap', of at most %d characters without / : %% and spaces, not '%.100s'",
                       CONFIG_IFNAME_MAX, item->value);
    snprintf(d->net.ifname, sizeof(d->net.ifname), "%s", item->value);
    d->tap = true;
    return 0;
}

static int set_fd(struct draft *d, const struct config_item *item, struct err *why)
{
    unsigned fd = 0;
    int error = config_item_number(item, 3, INT32_MAX, &fd, why); /* the first three are the console's */

    d->net.fd = (int)fd;
    d->fd = true;
    return error;
}

static int set_item(struct draft *d, const struct config_item *item, struct err *why)
{
    if (strcmp(item->key, "user") == 0)
        return config_item_switch(item, &d->user, why);
    if (strcmp(item->key, "tap") == 0)
        return set_ifname(d, item, why);
    if (strcmp(item->key, "fd") == 0)
        return set_fd(d, item, why);
    if (strcmp(item->key, "none") == 0)
        return config_item_switch(item, &d->none, why);
    if (strcmp(item->key, "hostfwd") == 0)
        return add_forward(d, item, why);
    if (strcmp(item->key, "mac") == 0)
        return set_mac(&d->net, item, why);
    return err_set(why, EINVAL, "has no setting '%.60s': it must be user, tap=IFNAME, fd=N or none, with hostfwd=... and mac=...",
                   item->key);
}

/* The items fit together: which network it is. */
static int fit(struct draft *d, struct err *why)
{
    if (d->user + d->tap + d->fd + d->none != 1)
        return err_set(why, EINVAL, "must be one of user, tap=IFNAME, fd=N and none");
    if (d->net.forward_count && !d->user)
        return err_set(why, EINVAL, "can have 'hostfwd' only with user: ports are forwarded by the user-mode network");
    if (d->none && d->net.has_mac)
        return err_set(why, EINVAL, "none has no mac");
    d->net.kind = d->user ? NET_USER : d->tap ? NET_TAP : NET_FD;
    return 0;
}

int config_add_net(struct config *c, const struct config_items *items, struct err *why)
{
    struct draft d = {.net = {.fd = -1}};
    struct config_net *net;
    int error = config_items_once(items, "hostfwd", why);

    for (unsigned i = 0; i < items->count && !error; i++)
        error = set_item(&d, &items->item[i], why);
    if (!error)
        error = fit(&d, why);
    if (error)
        return error;
    if (d.none) {
        c->net_none = true;
        return 0;
    }
    if (c->net_count == CONFIG_NETS_MAX)
        return err_set(why, EINVAL, "was given more than %d times: a machine has at most so many networks", CONFIG_NETS_MAX);
    net = &c->nets[c->net_count];
    *net = d.net;
    if (net->forward_count) {
        size_t bytes = net->forward_count * sizeof(d.forwards[0]);

        net->forwards = malloc(bytes);
        if (!net->forwards)
            return err_set(why, ENOMEM, "does not fit into memory");
        memcpy(net->forwards, d.forwards, bytes);
    }
    c->net_count++;
    return 0;
}

void config_clear_nets(struct config *c)
{
    while (c->net_count > 0)
        free(c->nets[--c->net_count].forwards);
    c->net_none = false;
}

/* --- what does not go together --- */

static bool same_address(const char *a, const char *b)
{
    return strcmp(a, b) == 0 || strcmp(a, "0.0.0.0") == 0 || strcmp(b, "0.0.0.0") == 0;
}

static int check_forwards(const struct config_net *a, const struct config_net *b, struct err *e)
{
    for (unsigned i = 0; i < b->forward_count; i++)
        for (unsigned j = 0; j < (a == b ? i : a->forward_count); j++) {
            const struct config_forward *x = &a->forwards[j], *y = &b->forwards[i];

            if (x->udp == y->udp && x->host_port == y->host_port && same_address(x->host_addr, y->host_addr))
                return err_set(e, EINVAL, "two forwards want %s port %u of the host: give one of them another HOSTPORT",
                               x->udp ? "UDP" : "TCP", x->host_port);
        }
    return 0;
}

static int check_pair(const struct config_net *a, const struct config_net *b, struct err *e)
{
    if (a->has_mac && b->has_mac && memcmp(a->mac, b->mac, sizeof(a->mac)) == 0)
        return err_set(e, EINVAL, "two networks have the mac %02x:%02x:%02x:%02x:%02x:%02x", a->mac[0], a->mac[1], a->mac[2], a->mac[3],
                       a->mac[4], a->mac[5]);
    if (a->kind == NET_TAP && b->kind == NET_TAP && strcmp(a->ifname, b->ifname) == 0)
        return err_set(e, EINVAL, "the tap %s was given twice: an interface serves one network", a->ifname);
    if (a->kind == NET_FD && b->kind == NET_FD && a->fd == b->fd)
        return err_set(e, EINVAL, "the network descriptor %d was given twice", a->fd);
    return 0;
}

int config_check_nets(const struct config *c, struct err *e)
{
    int error = 0;

    if (c->net_none && c->net_count)
        return err_set(e, EINVAL, "--net none stands beside another --net: leave one of them out");
    for (unsigned i = 0; i < c->net_count && !error; i++) {
        error = check_forwards(&c->nets[i], &c->nets[i], e);
        for (unsigned j = 0; j < i && !error; j++) {
            error = check_pair(&c->nets[j], &c->nets[i], e);
            if (!error)
                error = check_forwards(&c->nets[j], &c->nets[i], e);
        }
    }
    return error;
}

/* FNV-1a: two VMs on one bridge have two names. */
void config_net_mac(const struct config *c, unsigned index, uint8_t mac[6])
{
    uint32_t hash = 2166136261U;

    if (c->nets[index].has_mac) {
        memcpy(mac, c->nets[index].mac, 6);
        return;
    }
    for (const char *p = c->name; *p; p++)
        hash = (hash ^ (uint8_t)*p) * 16777619U;
    mac[0] = 0x02; /* locally administered, of one station */
    memcpy(mac + 1, &hash, sizeof(hash));
    mac[5] = (uint8_t)index;
}
