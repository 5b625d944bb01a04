/* The control socket of a running VM: who may connect, requests in, answers out; what each request does is in control_commands.c. */
#pragma once

#include "api/control_request.h"
#include "event/loop.h"
#include "machine/machine.h"

/*
 * Theory of operation: the socket and its clients are descriptors of the VM's loop, and requests are carried out on its thread. A client has at
 * most one answer under way: until that is written, no more of its requests are read, so that one that reads slowly waits for itself alone.
 * Nothing blocks.
 */

#define CONTROL_CLIENTS_MAX 32 /* one more gets a sentence and is hung up on */

struct control;

struct control_client {
    struct control *control;
    struct loop_fd fd;
    unsigned place; /* in control->clients */
    size_t in_len;
    char in[CONTROL_REQUEST_MAX + 2]; /* a line with its end, and one byte more */
    char *out;                        /* the answer; NULL: none is under way */
    size_t out_at, out_len;
    bool hang_up; /* when the answer is written */
};

struct control {
    struct machine *machine;
    const char *name; /* the VM's */
    int folder, lock;
    struct loop_fd listener;
    struct loop_timer rested;
    struct control_client *clients[CONTROL_CLIENTS_MAX]; /* NULL: a free place */
};

/*
 * control_init() takes the VM's name, which is borrowed: a name that another VM has is an error. control_start() opens the socket when the
 * machine is built, on the thread of its loop; requests are answered while that runs. 0 or -errno with a sentence. control_stop() hangs up, while
 * the loop is still there but does not run; control_fini() gives the name back. Both may follow whatever failed.
 */
int control_init(struct control *, const char *name, struct err *);
int control_start(struct control *, struct machine *, struct err *);
void control_stop(struct control *);
void control_fini(struct control *);

/* --- for control_commands.c --- */

/* Carries a request out and puts into answer what its answer has besides "id" and "ok". 0, or -errno with a sentence. */
int control_carry_out(struct control_client *, const struct control_request *, struct json_t *answer, struct err *);
