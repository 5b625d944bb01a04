/* umbra kill: ends a VM without asking its guest. */
#include "cli/cli.h"
#include "cli/ending.h"

static int end(struct client *client, int process, const void *how, struct err *e)
{
    (void)how;
    return ending_now(client, process, e);
}

int cli_kill(const struct command_args *args)
{
    return ending_command(args->vm, end, NULL);
}
