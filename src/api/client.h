/* A connection to the control socket of a running VM, for the commands that act on one by its name. */
#pragma once

#include <sys/types.h>

#include "base/err.h"

struct json_t;

#define CLIENT_TIMEOUT_MS 5000 /* a VM answers at once, unless its host is in trouble */

struct client {
    int fd;
    pid_t pid;  /* the VM's process; 0: in a PID namespace that is not ours */
    char *name; /* the VM's */
    char *in;   /* what has come of the next line, and perhaps more */
    size_t in_len, in_size;
};

/*
 * Connects. -ENOENT when there is no such VM, with a sentence that tells the nearest name, or what runs; or another -errno. One thread at a time;
 * the calls wait. client_close() may follow in any case.
 */
int client_open(struct client *, const char *name, struct err *);
void client_close(struct client *);

/*
 * Sends a request (taken, and NULL is for want of memory) and waits for its answer, at most timeout_ms. The answer, which is the caller's to
 * json_decref(), or NULL with a sentence: the VM's own when it refused, ETIMEDOUT's when it did not answer. *timed_out tells the latter; NULL
 * where nobody asks.
 */
struct json_t *client_call(struct client *, struct json_t *request, int timeout_ms, bool *timed_out, struct err *);

/* The same for a request of no more than its name. */
struct json_t *client_ask(struct client *, const char *request, struct err *);

/* A descriptor that becomes readable when the VM's process has ended, for the caller to close; -errno with a sentence. */
int client_process(const struct client *, struct err *);
