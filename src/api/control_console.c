/* A control connection that has become a console: bytes both ways, until one side hangs up. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "api/control.h"

#define OUT_BYTES 65536

static_assert(sizeof(((struct control_client *)0)->in) < CONSOLE_TYPED_MAX, "what came behind the request fits");

/* A watcher that reads too slowly loses what does not fit, and is told when it reads on. */
struct control_console {
    struct console_watcher watcher;
    struct control_client *client;
    size_t out_at, out_len; /* what waits in out */
    uint64_t lost;          /* bytes since the last that fitted */
    uint8_t out[OUT_BYTES];
};

/* --- out --- */

static void append(struct control_console *c, const void *data, size_t len)
{
    if (len > OUT_BYTES - c->out_at - c->out_len) {
        memmove(c->out, c->out + c->out_at, c->out_len);
        c->out_at = 0;
    }
    memcpy(c->out + c->out_at + c->out_len, data, len);
    c->out_len += len;
}

/* Half of the buffer is free again: worth to go on. */
static void tell_of_loss(struct control_console *c)
{
    char text[80];

    if (!c->lost || c->out_len > OUT_BYTES / 2)
        return;
    append(c, text,
           (size_t)snprintf(text, sizeof(text), "\r\n[umbra: %llu bytes of output are missing here]\r\n", (unsigned long long)c->lost));
    c->lost = 0;
}

/* False when the client is gone. */
static bool write_some(struct control_console *c)
{
    while (c->out_len > 0) {
        ssize_t n = send(c->client->fd.fd, c->out + c->out_at, c->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return true;
        if (n < 0) {
            control_hang_up(c->client);
            return false;
        }
        c->out_at += (size_t)n;
        c->out_len -= (size_t)n;
        tell_of_loss(c);
    }
    c->out_at = 0;
    return true;
}

static void watch(struct control_console *c)
{
    control_watch(c->client, (c->watcher.typed_count < CONSOLE_TYPED_MAX ? EPOLLIN : 0) | (c->out_len ? EPOLLOUT : 0));
}

static void on_output(struct console_watcher *w, const uint8_t *data, size_t len)
{
    struct control_console *c = container_of(w, struct control_console, watcher);
    size_t fits = c->lost ? 0 : MIN(len, OUT_BYTES - c->out_len);

    append(c, data, fits);
    c->lost += len - fits;
    if (!c->client->out && write_some(c)) /* its answer goes first */
        watch(c);
}

/* --- in --- */

static void on_room(struct console_watcher *w)
{
    watch(container_of(w, struct control_console, watcher));
}

/* What has come; false when the client is gone. */
static bool read_some(struct control_console *c)
{
    struct console_watcher *w = &c->watcher;
    ssize_t n;

    if (w->typed_count == CONSOLE_TYPED_MAX)
        return true;
    n = recv(c->client->fd.fd, w->typed + w->typed_count, CONSOLE_TYPED_MAX - w->typed_count, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        control_hang_up(c->client);
        return false;
    }
    if (n > 0) {
        w->typed_count += (size_t)n;
        console_share_type(&c->client->control->share, w);
    }
    return true;
}

void control_console_ready(struct control_client *client, uint32_t events)
{
    struct control_console *c = client->console;

    if (events & EPOLLERR || (events & EPOLLHUP && c->watcher.typed_count == CONSOLE_TYPED_MAX))
        control_hang_up(client); /* what it typed last would wait for ever */
    else if (write_some(c) && (!(events & (EPOLLIN | EPOLLHUP)) || read_some(c)))
        watch(c);
}

/* --- life --- */

int control_console_attach(struct control_client *client, struct err *e)
{
    struct control_console *c = malloc(sizeof(*c));

    if (!c)
        return err_set(e, ENOMEM, "the VM's process has no memory for another console");
    c->watcher = (struct console_watcher){.output = on_output, .room = on_room};
    c->client = client;
    c->out_at = c->out_len = 0;
    c->lost = 0;
    client->console = c;
    console_share_add(&client->control->share, &c->watcher);
    return 0;
}

/* What came behind the request is typed already. */
void control_console_begin(struct control_client *client)
{
    struct console_watcher *w = &client->console->watcher;

    memcpy(w->typed, client->in, client->in_len);
    w->typed_count = client->in_len;
    client->in_len = 0;
    console_share_type(&client->control->share, w);
    if (!client->out)
        control_console_ready(client, 0);
}

void control_console_detach(struct control_client *client)
{
    console_share_remove(&client->control->share, &client->console->watcher);
    free(client->console);
    client->console = NULL;
}

void control_console_flush(struct control_client *client)
{
    const struct control_console *c = client->console;

    /* An error is left to whoever hangs up next. */
    if (!client->out)
        (void)!send(client->fd.fd, c->out + c->out_at, c->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);
}
