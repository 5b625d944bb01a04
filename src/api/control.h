/* The control socket of a running VM: who may connect, requests in, answers out; what each request does is in control_commands.c. */
#pragma once

#include "api/console_share.h"
#include "api/control_request.h"
#include "event/loop.h"
#include "machine/machine.h"

/*
 * Theory of operation: the socket and its clients are descriptors of the VM's loop, and requests are carried out on its thread. A client has at
 * most one answer under way: until that is written, no more of its requests are read, so that one that reads slowly waits for itself alone.
 * Nothing blocks. The request "console" makes the connection a console behind its answer, until one side hangs up.
 */

#define CONTROL_CLIENTS_MAX 32 /* one more gets a sentence and is hung up on */

struct control;
struct control_console;

struct control_client {
    struct control *control;
    struct loop_fd fd;
    unsigned place; /* in control->clients */
    size_t in_len;
    char in[CONTROL_REQUEST_MAX + 2]; /* a line with its end, and one byte more */
    char *out;                        /* the answer; NULL: none is under way */
    size_t out_at, out_len;
    bool hang_up;                    /* when the answer is written */
    struct control_console *console; /* what the connection has become; NULL: it is for requests */
};

struct control {
    struct machine *machine;
    const char *name; /* the VM's */
    int folder, lock;
    struct loop_fd listener;
    struct loop_timer rested;
    struct console_share share;
    struct control_client *clients[CONTROL_CLIENTS_MAX]; /* NULL: a free place */
    struct control_client *tracer;                       /* whose the VM's trace is; NULL: nobody traces */
    bool trace_closed;                                   /* its window: what is there stays and can be read */
    struct loop_timer trace_end;
};

/*
 * control_init() takes the VM's name, which is borrowed: a name that another VM has is an error. Where there can be no folder for it, this is an
 * error for a name that somebody asked for (wanted); else it is warned of, and the VM has no control socket. control_start() opens the socket when
 * the machine is built, on the thread of its loop; requests are answered while that runs. 0 or -errno with a sentence. control_stop() hangs up,
 * while the loop is still there but does not run; control_fini() gives the name back. Both may follow whatever failed.
 */
int control_init(struct control *, const char *name, bool wanted, struct err *);
int control_start(struct control *, struct machine *, struct err *);
void control_stop(struct control *);
void control_fini(struct control *);

/* What the machine is to be given as its consoles, for others to see them too; host is copied. After control_init(). */
struct machine_consoles control_consoles(struct control *, const struct machine_consoles *host);

/* --- for the files that serve clients: control.c, control_commands.c, control_console.c, control_trace.c --- */

void control_hang_up(struct control_client *); /* frees it */
void control_watch(struct control_client *, uint32_t events);

/*
 * The connection becomes a console (0 or -errno with a sentence), which begins when its request is taken from the buffer, and shows when the
 * answer is written. What it does when the descriptor is ready may hang up. control_hang_up() detaches. A flush writes what fits at once.
 */
int control_console_attach(struct control_client *, struct err *);
void control_console_begin(struct control_client *);
void control_console_ready(struct control_client *, uint32_t events);
void control_console_detach(struct control_client *);
void control_console_flush(struct control_client *);

/*
 * The VM's trace becomes the client's (0 or -errno with a sentence; it has one at a time) until detach, with which the client hangs up: a window
 * of so many events and milliseconds. A read tells whether it is open, how many events there are, and when it is closed the next of them; end
 * closes it.
 */
int control_trace_open(struct control_client *, unsigned long events, unsigned ms, struct err *);
int control_trace_read(struct control_client *, unsigned long from, bool end, struct json_t *answer, struct err *);
void control_trace_detach(struct control_client *);

/* Carries a request out and puts into answer what its answer has besides "id" and "ok". 0, or -errno with a sentence. */
int control_carry_out(struct control_client *, const struct control_request *, struct json_t *answer, struct err *);
