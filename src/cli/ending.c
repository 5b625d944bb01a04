/* Ends VMs from outside: by a request, and where that does not help by a signal that cannot be ignored. */
#include "cli/ending.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "base/log.h"

int ending_wait(int process, int timeout_ms)
{
    struct pollfd p = {.fd = process, .events = POLLIN};
    int n = poll(&p, 1, timeout_ms);

    return n > 0 ? 0 : n == 0 ? -ETIMEDOUT : -errno;
}

/* What does not even end when it is asked to. */
static int kill_process(const struct client *client, int process, struct err *e)
{
    log_warn("the VM '%s' does not end by itself: process %d is killed", client->name, (int)client->pid);
    if (pidfd_send_signal(process, SIGKILL, NULL, 0) != 0 && errno != ESRCH)
        return err_set(e, errno, "cannot kill process %d of the VM '%s': %s", (int)client->pid, client->name, strerror(errno));
    if (ending_wait(process, CLIENT_TIMEOUT_MS) != 0)
        return err_set(e, ETIMEDOUT, "process %d of the VM '%s' was killed, but is not gone yet", (int)client->pid, client->name);
    return 0;
}

int ending_now(struct client *client, int process, struct err *e)
{
    bool timed_out;

    /* Not answered in words, but by hanging up: it was ending already. */
    json_decref(client_call(client, json_pack("{s:s}", "request", "quit"), CLIENT_TIMEOUT_MS, &timed_out, e));
    return ending_wait(process, timed_out ? 0 : CLIENT_TIMEOUT_MS) == 0 ? 0 : kill_process(client, process, e);
}

int ending_command(const char *vm, ending_way *end, const void *how)
{
    struct client client;
    struct err e;
    int process, error = client_open(&client, vm, &e);

    if (!error) {
        process = client_process(&client, &e);
        error = process < 0 ? process : end(&client, process, how, &e);
        if (process >= 0)
            close(process);
    }
    client_close(&client);
    if (error)
        log_error("%s", e.text);
    return error ? EXIT_FAILURE : EXIT_SUCCESS;
}
