/* Serves the control socket: a place for each client, lines in, lines out. */
#include "api/control.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/folder.h"
#include "base/clock.h"
#include "base/log.h"

#define REST_NS NS_PER_SEC

static const char no_memory[] = "{\"ok\":false,\"error\":\"the VM's process has no memory for the answer\"}";

void control_hang_up(struct control_client *client)
{
    if (client->console)
        control_console_detach(client);
    control_trace_detach(client);
    loop_remove_fd(client->control->machine->vm.loop, &client->fd);
    close(client->fd.fd);
    client->control->clients[client->place] = NULL;
    free(client->out);
    free(client);
}

/* --- out --- */

void control_watch(struct control_client *client, uint32_t events)
{
    if (client->fd.events == events)
        return;
    client->fd.events = events;
    loop_modify_fd(client->control->machine->vm.loop, &client->fd);
}

/* False when the client is gone. */
static bool write_out(struct control_client *client)
{
    while (client->out && client->out_at < client->out_len) {
        ssize_t n = send(client->fd.fd, client->out + client->out_at, client->out_len - client->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            control_watch(client, EPOLLOUT);
            return true;
        }
        if (n < 0) {
            control_hang_up(client);
            return false;
        }
        client->out_at += (size_t)n;
    }
    free(client->out);
    client->out = NULL;
    if (client->hang_up) {
        control_hang_up(client);
        return false;
    }
    control_watch(client, EPOLLIN);
    return true;
}

static json_t *refusal(const char *sentence)
{
    return json_pack("{s:b, s:s}", "ok", 0, "error", sentence);
}

/* Takes the object, which may be NULL for want of memory; so may the line be. */
static char *make_line(json_t *object)
{
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL, *line = NULL;

    if (asprintf(&line, "%s\n", text ? text : no_memory) < 0)
        line = NULL;
    free(text);
    json_decref(object);
    return line;
}

/* Takes the object. False when the client is gone. */
static bool answer(struct control_client *client, json_t *object)
{
    client->out = make_line(object);
    if (!client->out) {
        control_hang_up(client);
        return false;
    }
    client->out_at = 0;
    client->out_len = strlen(client->out);
    return write_out(client);
}

/* --- in --- */

/* False when the client is gone. */
static bool serve_line(struct control_client *client, const char *line, size_t len)
{
    struct control_request request;
    struct err e = {""};
    json_t *object = NULL;
    int error = control_request_parse(&request, line, len, &e);

    if (!error) {
        object = json_pack("{s:b}", "ok", 1);
        error = object ? control_carry_out(client, &request, object, &e) : 0;
    }
    if (error) {
        json_decref(object);
        object = refusal(e.text);
    }
    if (object && request.id && json_object_set(object, "id", request.id) != 0) {
        json_decref(object);
        object = NULL;
    }
    control_request_fini(&request);
    return answer(client, object);
}

/* A line as long as the buffer has no end that could be found: what follows cannot be told from its rest. */
static void refuse_long_line(struct control_client *client)
{
    struct control_request request;
    struct err e;

    control_request_parse(&request, client->in, client->in_len, &e);
    control_request_fini(&request);
    client->in_len = 0;
    client->hang_up = true;
    answer(client, refusal(e.text));
}

/* All whole lines, as long as their answers can be written at once. */
static void serve_lines(struct control_client *client)
{
    while (!client->out) {
        char *end = memchr(client->in, '\n', client->in_len);
        size_t len;

        if (!end)
            break;
        len = (size_t)(end - client->in);
        if (!serve_line(client, client->in, len))
            return;
        client->in_len -= len + 1;
        memmove(client->in, end + 1, client->in_len);
        if (client->console) {
            control_console_begin(client);
            return;
        }
    }
    if (!client->out && client->in_len == sizeof(client->in))
        refuse_long_line(client);
}

static void on_client(struct loop_fd *fd, uint32_t events)
{
    struct control_client *client = container_of(fd, struct control_client, fd);
    ssize_t n;

    if (client->out) {
        if (events & (EPOLLERR | EPOLLHUP))
            control_hang_up(client);
        else if (!write_out(client))
            return;
        else if (client->console)
            control_console_ready(client, 0);
        else
            serve_lines(client); /* those that had come already */
        return;
    }
    if (client->console) {
        control_console_ready(client, events);
        return;
    }
    n = recv(fd->fd, client->in + client->in_len, sizeof(client->in) - client->in_len, MSG_DONTWAIT);
    if (n > 0) {
        client->in_len += (size_t)n;
        serve_lines(client);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        control_hang_up(client);
    }
}

/* --- clients --- */

/* The socket's mode lets nobody else in; this holds should it ever be handed on. */
static bool may_control(int fd)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && (peer.uid == geteuid() || peer.uid == 0);
}

/* As far as the socket's buffer takes it, which is empty. */
static void turn_away(int fd, const char *sentence)
{
    char *line = make_line(refusal(sentence));

    if (line)
        (void)!send(fd, line, strlen(line), MSG_NOSIGNAL | MSG_DONTWAIT);
    free(line);
    close(fd);
}

/* Descriptors or memory ran out. Whoever waits to be accepted would keep the loop turning meanwhile. */
static void rest(struct control *c)
{
    loop_remove_fd(c->machine->vm.loop, &c->listener);
    loop_timer_set(&c->rested, clock_monotonic_ns() + REST_NS);
}

static void on_rested(struct loop_timer *timer)
{
    struct control *c = container_of(timer, struct control, rested);

    if (loop_add_fd(c->machine->vm.loop, &c->listener) != 0)
        loop_timer_set(timer, clock_monotonic_ns() + REST_NS);
}

/* Takes fd. */
static void welcome(struct control *c, int fd)
{
    struct control_client *client;
    unsigned place = 0;

    while (place < CONTROL_CLIENTS_MAX && c->clients[place])
        place++;
    if (place == CONTROL_CLIENTS_MAX) {
        turn_away(fd, "this VM has as many control connections as it can serve: close one of them");
        return;
    }
    client = malloc(sizeof(*client));
    if (!client) {
        turn_away(fd, "this VM's process has no memory for another control connection");
        return;
    }
    *client = (struct control_client){.control = c, .place = place, .fd = {.fd = fd, .events = EPOLLIN, .ready = on_client}};
    if (loop_add_fd(c->machine->vm.loop, &client->fd) != 0) {
        free(client);
        close(fd);
        return;
    }
    c->clients[place] = client;
}

static void on_connection(struct loop_fd *listener, uint32_t events)
{
    struct control *c = container_of(listener, struct control, listener);
    int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    (void)events;
    if (fd < 0) {
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
            rest(c);
    } else if (may_control(fd)) {
        welcome(c, fd);
    } else {
        turn_away(fd, "this VM is another user's");
    }
}

/* --- life --- */

struct machine_consoles control_consoles(struct control *c, const struct machine_consoles *host)
{
    return console_share_init(&c->share, host);
}

int control_init(struct control *c, const char *name, bool wanted, struct err *e)
{
    *c = (struct control){.name = name, .lock = -1, .listener = {.fd = -1, .events = EPOLLIN, .ready = on_connection}};
    c->folder = folder_open(e);
    c->lock = c->folder < 0 ? c->folder : folder_claim(c->folder, name, e);
    if (c->lock >= 0)
        return 0;
    if (wanted || c->lock == -EEXIST)
        return c->lock;
    log_warn("this VM has no control socket: %s", e->text);
    return 0;
}

int control_start(struct control *c, struct machine *machine, struct err *e)
{
    int error;

    c->machine = machine;
    console_share_start(&c->share, machine);
    loop_timer_init(machine->vm.loop, &c->rested, on_rested);
    if (c->lock < 0)
        return 0;
    c->listener.fd = folder_listen(c->folder, c->name, e);
    if (c->listener.fd < 0)
        return c->listener.fd;
    error = loop_add_fd(machine->vm.loop, &c->listener);
    return error ? err_set(e, -error, "cannot watch the control socket: %s", strerror(-error)) : 0;
}

void control_stop(struct control *c)
{
    if (c->listener.fd >= 0) {
        loop_remove_fd(c->machine->vm.loop, &c->listener);
        loop_timer_cancel(&c->rested);
        close(c->listener.fd);
    }
    c->listener.fd = -1;
    for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++)
        if (c->clients[i]) {
            if (c->clients[i]->console)
                control_console_flush(c->clients[i]);
            control_hang_up(c->clients[i]);
        }
}

void control_fini(struct control *c)
{
    if (c->lock >= 0)
        folder_release(c->folder, c->name, c->lock);
    c->lock = -1;
    if (c->folder >= 0)
        close(c->folder);
    c->folder = -1;
}
