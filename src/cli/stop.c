/* umbra stop: presses the power button, and ends the VM when the guest does not switch itself off. */
#include <errno.h>
#include <jansson.h>

#include "base/clock.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/ending.h"

#define TIMEOUT_MS 30000
#define AGAIN_MS 2000 /* between two presses */

/* *listens: the guest has enabled the button. 0 or -errno with a sentence. */
static int press(struct client *client, bool *listens, struct err *e)
{
    json_t *answer = client_ask(client, "power-button", e);

    if (!answer)
        return -EIO;
    *listens = json_is_true(json_object_get(answer, "enabled"));
    json_decref(answer);
    return 0;
}

/*
 * Once is not enough for a guest that is just starting: its driver forgets what was pressed before, and what it reports while nobody listens is
 * lost. One that is shutting down does not mind. 0 when it ended, or -errno with a sentence.
 */
static int press_and_wait(struct client *client, int process, int timeout_ms, struct err *e)
{
    uint64_t deadline = clock_monotonic_ns() + (uint64_t)timeout_ms * NS_PER_MS, now;
    bool listens = false; /* it did, at the last press */

    while ((now = clock_monotonic_ns()) < deadline) {
        int left = (int)((deadline - now) / NS_PER_MS) + 1;

        if (press(client, &listens, e) != 0)
            return ending_wait(process, AGAIN_MS) == 0 ? 0 : -EIO; /* no answer, because it just ended? */
        if (ending_wait(process, MIN(left, AGAIN_MS)) == 0)
            return 0;
    }
    return err_set(e, ETIMEDOUT, "the guest of '%s' %s within %g s", client->name,
                   listens ? "saw its power button, but did not switch off" : "did not listen to its power button", timeout_ms / 1000.0);
}

struct patience {
    int timeout_ms;
    bool force; /* none */
};

static int stop(struct client *client, int process, const void *how, struct err *e)
{
    const struct patience *patience = how;
    int error;

    if (patience->force)
        return ending_now(client, process, e);
    error = press_and_wait(client, process, patience->timeout_ms, e);
    if (error != -ETIMEDOUT)
        return error;
    log_warn("%s: the VM is ended", e->text);
    return ending_now(client, process, e);
}

int cli_stop(const struct command_args *args)
{
    struct patience patience = {.timeout_ms = TIMEOUT_MS, .force = command_given(args, "force")};
    struct err e;

    if (command_ms(args, "timeout", &patience.timeout_ms, &e) != 0) {
        log_error("%s", e.text);
        return EXIT_USAGE;
    }
    return ending_command(args->vm, stop, &patience);
}
