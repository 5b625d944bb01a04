/* umbra kill: ends a VM without asking its guest. */
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/cli.h"
#include "cli/ending.h"

int cli_kill(const struct command_args *args)
{
    struct client client;
    struct err e;
    int process, error = client_open(&client, args->vm, &e);

    if (!error) {
        process = client_process(&client, &e);
        error = process < 0 ? process : ending_now(&client, process, &e);
        if (process >= 0)
            close(process);
    }
    client_close(&client);
    if (error)
        log_error("%s", e.text);
    return error ? EXIT_FAILURE : EXIT_SUCCESS;
}
