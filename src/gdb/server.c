/* The debugger's socket: one client at a time, packets in, answers and stops out. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <arpa/inet.h>

#include "base/log.h"
#include "gdb/registers.h"
#include "gdb/session.h"

/* --- the client --- */

static void disconnect(struct gdb *g)
{
    if (g->client.fd < 0)
        return;
    loop_remove_fd(g->vm->loop, &g->client);
    close(g->client.fd);
    g->client.fd = -1;
}

/* A client that goes away without a word detaches too: nobody would ever let the guest go on. */
static void lose(struct gdb *g)
{
    if (g->client.fd < 0)
        return;
    disconnect(g);
    if (!g->killed)
        gdb_detach(g);
}

static void want(struct gdb *g, uint32_t events)
{
    if (g->client.events == events)
        return;
    g->client.events = events;
    loop_modify_fd(g->vm->loop, &g->client);
}

/* Sends what the socket takes. False when the client is gone. */
static bool flush(struct gdb *g)
{
    while (g->out_at < g->out_len) {
        ssize_t n = send(g->client.fd, g->out + g->out_at, g->out_len - g->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            want(g, EPOLLOUT); /* and reads nothing meanwhile */
            return true;
        }
        if (n <= 0)
            return false;
        g->out_at += (size_t)n;
    }
    g->out_at = g->out_len = 0;
    want(g, EPOLLIN);
    return true;
}

static void put(struct gdb *g, const char *bytes, size_t len)
{
    if (len > sizeof(g->out) - g->out_len)
        return; /* it asks without reading: its answers are lost to it */
    memcpy(g->out + g->out_len, bytes, len);
    g->out_len += len;
}

void gdb_send(struct gdb *g)
{
    if (g->client.fd < 0)
        return;
    g->frame_len = gdb_frame(&g->reply, g->frame);
    put(g, g->frame, g->frame_len);
    if (!flush(g))
        want(g, EPOLLIN); /* which finds out that it is gone */
}

static void acknowledge(struct gdb *g, bool good)
{
    if (!g->no_ack)
        put(g, good ? "+" : "-", 1);
}

static void too_long(struct gdb *g)
{
    gdb_reply_clear(&g->reply);
    gdb_reply_text(&g->reply, "E%02x", EMSGSIZE);
    gdb_send(g);
}

static void take_event(struct gdb *g, enum gdb_event event)
{
    switch (event) {
    case GDB_NOTHING:
    case GDB_ACK: return;
    case GDB_INTERRUPT: gdb_interrupt(g); return;
    case GDB_NAK:
        if (!g->no_ack)
            put(g, g->frame, g->frame_len);
        return;
    case GDB_DAMAGED: acknowledge(g, false); return;
    case GDB_TOO_LONG:
        acknowledge(g, true);
        too_long(g);
        return;
    case GDB_PACKET:
        acknowledge(g, true);
        gdb_command(g, g->reader.packet, g->reader.len);
        return;
    }
}

/* Answers what has come in, one after the other as far as the answers are taken. False when the client is gone. */
static bool work_off(struct gdb *g)
{
    while (g->in_at < g->in_len && g->out_len == 0) {
        take_event(g, gdb_reader_feed(&g->reader, g->in[g->in_at++]));
        if (!flush(g) || (g->close_when_sent && g->out_len == 0))
            return false;
    }
    return true;
}

static void on_client(struct loop_fd *fd, uint32_t events)
{
    struct gdb *g = container_of(fd, struct gdb, client);
    bool there = flush(g) && work_off(g);

    (void)events;
    while (there && g->out_len == 0) {
        ssize_t n = recv(g->client.fd, g->in, sizeof(g->in), MSG_DONTWAIT);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        g->in_at = 0;
        g->in_len = n > 0 ? (size_t)n : 0;
        there = n > 0 && work_off(g);
    }
    if (!there)
        lose(g);
}

static void on_connection(struct loop_fd *fd, uint32_t events)
{
    struct gdb *g = container_of(fd, struct gdb, listener);
    int client = accept4(fd->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), on = 1;

    (void)events;
    if (client < 0)
        return;
    if (g->client.fd >= 0) {
        log_warn("a second debugger was turned away: one is attached");
        close(client);
        return;
    }
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* fails on a Unix socket, which needs it not */
    g->client = (struct loop_fd){.fd = client, .events = EPOLLIN, .ready = on_client};
    g->reader = (struct gdb_reader){0};
    g->in_at = g->in_len = g->out_at = g->out_len = g->frame_len = 0;
    g->no_ack = g->close_when_sent = g->knows_swbreak = g->knows_hwbreak = false;
    if (loop_add_fd(g->vm->loop, &g->client) != 0) {
        close(client);
        g->client.fd = -1;
        return;
    }
    gdb_attach(g);
}

/* --- listening --- */

static int listen_tcp(struct gdb *g, const struct config_gdb *c, struct err *e)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(c->port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(c->port)};
    bool is_v6 = inet_pton(AF_INET, c->address, &v4.sin_addr) != 1;
    socklen_t len = is_v6 ? sizeof(v6) : sizeof(v4);
    int fd = socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address = {.v4 = v4};

    g->listener.fd = fd;
    if (fd < 0)
        return err_set(e, errno, "--gdb: cannot make a socket: %s", strerror(errno));
    if (is_v6) {
        inet_pton(AF_INET6, c->address, &v6.sin6_addr);
        address.v6 = v6;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, &address.any, len) != 0 || listen(fd, 4) != 0 || getsockname(fd, &address.any, &len) != 0)
        return err_set(e, errno, "--gdb: cannot listen on port %u of %s: %s", c->port, c->address, strerror(errno));
    if (c->port == 0)
        log_info("gdb: target remote %s%s%s:%u", is_v6 ? "[" : "", c->address, is_v6 ? "]" : "",
                 ntohs(is_v6 ? address.v6.sin6_port : address.v4.sin_port));
    return 0;
}

/*
 * A socket's file that nobody listens on any more is a dead VM's. Asked with a socket of another type, which a living one refuses too, but
 * otherwise, and without attaching to it.
 */
static bool is_stale(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool refused = fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof(*address)) != 0 && errno == ECONNREFUSED;

    if (fd >= 0)
        close(fd);
    return refused;
}

static int listen_unix(struct gdb *g, const struct config_gdb *c, struct err *e)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error;

    g->listener.fd = fd;
    if (fd < 0)
        return err_set(e, errno, "--gdb: cannot make a socket: %s", strerror(errno));
    if (strlen(c->path) >= sizeof(address.sun_path))
        return err_set(e, ENAMETOOLONG, "--gdb unix:%.60s...: a socket's path has at most %zu characters", c->path,
                       sizeof(address.sun_path) - 1);
    memcpy(address.sun_path, c->path, strlen(c->path));
    g->socket_path = strdup(c->path);
    if (!g->socket_path)
        return err_set(e, ENOMEM, "no memory for the debugger's session");
    fchmod(fd, 0600); /* before there is a file: whoever can connect owns the guest */
    error = bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ? errno : 0;
    if (error == EADDRINUSE && is_stale(&address) && unlink(c->path) == 0)
        error = bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ? errno : 0;
    if (error) {
        free(g->socket_path); /* it is somebody else's */
        g->socket_path = NULL;
    }
    if (!error && listen(fd, 4) != 0)
        error = errno;
    return error ? err_set(e, error, "--gdb unix:%.200s: cannot listen there: %s", c->path, strerror(error)) : 0;
}

/* --- life --- */

static void free_all(struct gdb *g)
{
    disconnect(g);
    if (g->listener.fd >= 0) {
        loop_remove_fd(g->vm->loop, &g->listener);
        close(g->listener.fd);
    }
    if (g->socket_path)
        unlink(g->socket_path);
    g->vm->debugger = (struct vm_debugger){0};
    free(g->socket_path);
    free(g->description);
    free(g->state);
    free(g);
}

static void on_reset(void *opaque)
{
    gdb_run_reset(opaque);
}

static struct gdb *allocate(struct vm *vm)
{
    struct gdb *g = calloc(1, sizeof(*g));

    if (!g)
        return NULL;
    g->vm = vm;
    g->listener.fd = g->client.fd = -1;
    g->state = aligned_alloc(_Alignof(struct cpu_state), ALIGN_UP(sizeof(*g->state), _Alignof(struct cpu_state)));
    g->description = gdb_target_description();
    if (!g->state || !g->description) {
        free_all(g);
        return NULL;
    }
    memset(g->state, 0, sizeof(*g->state));
    return g;
}

int gdb_new(struct gdb **out, struct vm *vm, struct err *e)
{
    const struct config_gdb *c = &vm->config.gdb;
    struct gdb *g;
    int error;

    if (!vm->engine->debug)
        return err_set(e, ENOTSUP, "--gdb: the %s engine cannot be debugged", vm->engine->name);
    g = allocate(vm);
    if (!g)
        return err_set(e, ENOMEM, "no memory for the debugger's session");
    error = c->kind == GDB_TCP ? listen_tcp(g, c, e) : listen_unix(g, c, e);
    if (!error) {
        g->listener = (struct loop_fd){.fd = g->listener.fd, .events = EPOLLIN, .ready = on_connection};
        error = loop_add_fd(vm->loop, &g->listener);
        if (error)
            err_set(e, -error, "--gdb: cannot wait for a debugger: %s", strerror(-error));
    }
    if (error) {
        free_all(g);
        return error;
    }
    vm->debugger = (struct vm_debugger){.opaque = g, .stopped = gdb_on_stop, .reset = on_reset};
    g->running = !c->wait;
    for (unsigned i = 0; i < VCPU_MAX; i++)
        g->action[i] = GDB_CONTINUE;
    if (c->wait)
        vcpu_hold_all(vm);
    *out = g;
    return 0;
}

/* W and X are answers to what made the guest run: while it stands the closed connection tells enough. */
static void say_end(struct gdb *g, int status)
{
    if (g->client.fd < 0 || !g->running || g->killed)
        return;
    gdb_reply_clear(&g->reply);
    if (g->vm->end == VM_END_QUIT && status > 128)
        gdb_reply_text(&g->reply, "X%02x", (unsigned)status - 128);
    else
        gdb_reply_text(&g->reply, "W%02x", (unsigned)status & 0xff);
    gdb_send(g);
}

void gdb_free(struct gdb *g, int status)
{
    if (!g)
        return;
    say_end(g, status);
    free_all(g);
}
