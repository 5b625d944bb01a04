/* umbra pause, resume, reset and nmi: one request each. */
#include <jansson.h>
#include <stdlib.h>

#include "api/client.h"
#include "base/log.h"
#include "cli/cli.h"

int cli_ask(const struct command_args *args)
{
    struct client client;
    struct err e;
    json_t *answer = NULL;

    if (client_open(&client, args->vm, &e) == 0)
        answer = client_ask(&client, args->command->name, &e);
    client_close(&client);
    if (!answer)
        log_error("%s", e.text);
    json_decref(answer);
    return answer ? EXIT_SUCCESS : EXIT_FAILURE;
}
