/* The other end of the control socket: finds a VM by its name, asks, and waits for the answer. */
#include "api/client.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/folder.h"
#include "base/clock.h"
#include "base/nearest.h"
#include "config/config.h"

#define ANSWER_MAX MIB(4)
#define CONNECT_TRIES 500
#define CONNECT_WAIT_US 10000 /* between two, for a VM that is just starting or has many to accept */

/* --- connecting --- */

/* What there is instead. */
static int no_such_vm(int folder, const char *name, struct err *e)
{
    struct folder_names names;
    struct nearest nearest;
    char list[200] = "";
    size_t len = 0;

    if (folder_list(folder, &names, NULL) != 0 || names.count == 0)
        return err_set(e, ENOENT, "there is no running VM named '%s', and no other", name);
    nearest_begin(&nearest, name);
    for (unsigned i = 0; i < names.count; i++)
        nearest_offer(&nearest, names.name[i]);
    for (unsigned i = 0; i < names.count && len < sizeof(list); i++)
        len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%s", i ? ", " : "", names.name[i]);
    if (nearest.found)
        err_set(e, ENOENT, "there is no running VM named '%s': did you mean %s?", name, nearest.found);
    else
        err_set(e, ENOENT, "there is no running VM named '%s': there %s %s%s", name, names.count == 1 ? "is" : "are", list,
                len >= sizeof(list) ? "..." : "");
    folder_names_free(&names);
    return -ENOENT;
}

/* A VM has its name before its socket, and the socket is gone before the name. */
static int connect_to(int folder, const char *name, struct err *e)
{
    int fd = folder_connect(folder, name);
    pid_t owner = -1;

    for (unsigned i = 0; fd < 0 && i < CONNECT_TRIES; i++) {
        if (fd != -EAGAIN && fd != -ENOENT && fd != -ECONNREFUSED)
            return err_set(e, -fd, "cannot connect to the VM '%s': %s", name, strerror(-fd));
        owner = folder_owner(folder, name);
        if (owner == 0)
            return no_such_vm(folder, name, e);
        usleep(CONNECT_WAIT_US);
        fd = folder_connect(folder, name);
    }
    if (fd >= 0)
        return fd;
    return err_set(e, ETIMEDOUT, "the VM '%s' (process %d) takes no connection: it is being started, or stuck", name, (int)owner);
}

int client_open(struct client *c, const char *name, struct err *e)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    int folder, error = config_check_name(name, e);

    *c = (struct client){.fd = -1};
    if (error)
        return error;
    folder = folder_open(e);
    if (folder < 0)
        return folder;
    c->fd = connect_to(folder, name, e);
    close(folder);
    if (c->fd < 0)
        return c->fd;
    c->name = strdup(name);
    if (!c->name)
        return err_set(e, ENOMEM, "no memory for a connection to the VM '%s'", name);
    if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0)
        c->pid = peer.pid;
    return 0;
}

void client_close(struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    free(c->name);
    free(c->in);
    *c = (struct client){.fd = -1};
}

int client_process(const struct client *c, struct err *e)
{
    int fd = c->pid > 0 ? pidfd_open(c->pid, 0) : -1;

    if (c->pid <= 0)
        return err_set(e, ESRCH, "the VM '%s' runs in another PID namespace, where its process cannot be seen", c->name);
    return fd < 0 ? err_set(e, errno, "cannot watch process %d of the VM '%s': %s", (int)c->pid, c->name, strerror(errno)) : fd;
}

/* --- asking --- */

/* 0, -ETIMEDOUT or another -errno. */
static int wait_for(struct client *c, short events, uint64_t deadline_ns)
{
    struct pollfd p = {.fd = c->fd, .events = events};
    uint64_t now = clock_monotonic_ns();
    int n;

    if (now >= deadline_ns)
        return -ETIMEDOUT;
    n = poll(&p, 1, (int)((deadline_ns - now) / NS_PER_MS) + 1);
    return n < 0 && errno != EINTR ? -errno : 0;
}

static int send_text(struct client *c, const char *text, uint64_t deadline_ns)
{
    size_t at = 0, len = strlen(text);
    int error = 0;

    while (at < len && !error) {
        ssize_t n = send(c->fd, text + at, len - at, MSG_NOSIGNAL);

        if (n > 0)
            at += (size_t)n;
        else if (errno == EAGAIN)
            error = wait_for(c, POLLOUT, deadline_ns);
        else if (errno != EINTR)
            error = -errno;
    }
    return error;
}

static int make_room(struct client *c)
{
    size_t size = c->in_size ? c->in_size * 2 : 4096;
    char *in;

    if (c->in_len < c->in_size)
        return 0;
    if (size > ANSWER_MAX)
        return -EMSGSIZE;
    in = realloc(c->in, size);
    if (!in)
        return -ENOMEM;
    c->in = in;
    c->in_size = size;
    return 0;
}

/* The length of the line at the start of c->in, or -errno; -EPIPE: the VM hung up. */
static ssize_t receive_line(struct client *c, uint64_t deadline_ns)
{
    size_t seen = 0;

    for (;;) {
        char *end = c->in_len > seen ? memchr(c->in + seen, '\n', c->in_len - seen) : NULL;
        ssize_t n;
        int error;

        if (end)
            return end - c->in;
        seen = c->in_len;
        error = make_room(c);
        if (error)
            return error;
        n = recv(c->fd, c->in + c->in_len, c->in_size - c->in_len, 0);
        if (n == 0 || (n < 0 && errno == ECONNRESET))
            return -EPIPE;
        if (n > 0)
            c->in_len += (size_t)n;
        else if (errno == EAGAIN)
            error = wait_for(c, POLLIN, deadline_ns);
        else if (errno != EINTR)
            error = -errno;
        if (error)
            return error;
    }
}

static void drop_line(struct client *c, size_t len)
{
    c->in_len -= len + 1;
    memmove(c->in, c->in + len + 1, c->in_len);
}

/* NULL with the VM's sentence, or one of ours when it makes no sense. */
static json_t *read_answer(struct client *c, size_t len, struct err *e)
{
    json_t *answer = json_loadb(c->in, len, 0, NULL);
    const char *sentence = json_string_value(json_object_get(answer, "error"));

    drop_line(c, len);
    if (json_is_true(json_object_get(answer, "ok")))
        return answer;
    if (sentence)
        err_set(e, EINVAL, "%s", sentence);
    else
        err_set(e, EPROTO, "the VM '%s' answered with something that is no answer: is it another version of umbra?", c->name);
    json_decref(answer);
    return NULL;
}

static void explain(const struct client *c, int error, struct err *e)
{
    if (error == -ETIMEDOUT)
        err_set(e, ETIMEDOUT, "the VM '%s' (process %d) does not answer", c->name, (int)c->pid);
    else if (error == -EPIPE)
        err_set(e, EPIPE, "the VM '%s' ended before it answered", c->name);
    else
        err_set(e, -error, "cannot talk to the VM '%s': %s", c->name, strerror(-error));
}

json_t *client_call(struct client *c, json_t *request, int timeout_ms, bool *timed_out, struct err *e)
{
    uint64_t deadline_ns = clock_monotonic_ns() + (uint64_t)timeout_ms * NS_PER_MS;
    char *line = request ? json_dumps(request, JSON_COMPACT) : NULL;
    ssize_t len = line ? send_text(c, line, deadline_ns) : -ENOMEM;

    if (!len)
        len = send_text(c, "\n", deadline_ns);
    if (!len || len == -EPIPE) /* it may have said why it hung up */
        len = receive_line(c, deadline_ns);
    free(line);
    json_decref(request);
    if (timed_out)
        *timed_out = len == -ETIMEDOUT;
    if (len >= 0)
        return read_answer(c, (size_t)len, e);
    explain(c, (int)len, e);
    return NULL;
}

json_t *client_ask(struct client *c, const char *request, struct err *e)
{
    return client_call(c, json_pack("{s:s}", "request", request), CLIENT_TIMEOUT_MS, NULL, e);
}
