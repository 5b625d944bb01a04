/* umbra list: the running VMs of this user. */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

#include "api/client.h"
#include "api/folder.h"
#include "base/log.h"
#include "cli/cli.h"
#include "config/options.h"

/* What a VM says of itself; of one that does not answer, what is known without it. NULL: it ended meanwhile, or there is no memory. */
static json_t *ask(int folder, const char *name)
{
    struct client client;
    json_t *answer = NULL;
    struct err e;
    int error = client_open(&client, name, &e);

    if (!error)
        answer = client_ask(&client, "info", &e);
    if (answer)
        json_object_del(answer, "ok");
    else if (error != -ENOENT && folder_owner(folder, name) != 0)
        answer = json_pack("{s:s, s:i, s:s}", "name", name, "pid", (int)folder_owner(folder, name), "state", "no answer");
    client_close(&client);
    return answer;
}

/* 1:02:03, days before it. */
static void uptime_text(char buf[32], double seconds)
{
    unsigned long s = (unsigned long)seconds;
    int at = s >= 86400 ? snprintf(buf, 32, "%lud ", s / 86400) : 0;

    snprintf(buf + at, (size_t)(32 - at), "%lu:%02lu:%02lu", s / 3600 % 24, s / 60 % 60, s % 60);
}

static void print_row(const json_t *vm)
{
    const char *name = json_string_value(json_object_get(vm, "name")), *state = json_string_value(json_object_get(vm, "state"));
    const char *engine = json_string_value(json_object_get(vm, "engine"));
    long long pid = json_integer_value(json_object_get(vm, "pid")), cpus = json_integer_value(json_object_get(vm, "cpus"));
    char memory[CONFIG_SIZE_TEXT], uptime[32];

    printf("%-20s %8lld %-10s", name ? name : "?", pid, state ? state : "?");
    if (engine) {
        uptime_text(uptime, json_number_value(json_object_get(vm, "uptime")));
        printf(" %-6s %4lld %8s %12s", engine, cpus, config_size_text((uint64_t)json_integer_value(json_object_get(vm, "memory")), memory),
               uptime);
    }
    putchar('\n');
}

static int print(json_t *vms, bool as_json)
{
    if (as_json) {
        json_dumpf(vms, stdout, JSON_INDENT(2));
        putchar('\n');
        return cli_printed();
    }
    printf("%-20s %8s %-10s %-6s %4s %8s %12s\n", "NAME", "PID", "STATE", "ENGINE", "CPUS", "MEMORY", "UPTIME");
    for (size_t i = 0; i < json_array_size(vms); i++)
        print_row(json_array_get(vms, i));
    return cli_printed();
}

int cli_list(const struct command_args *args)
{
    struct folder_names names;
    json_t *vms = json_array();
    struct err e;
    int status = EXIT_FAILURE, folder = folder_open(&e);

    if (folder < 0 || folder_list(folder, &names, &e) != 0) {
        log_error("%s", e.text);
    } else {
        for (unsigned i = 0; i < names.count; i++) {
            json_t *vm = ask(folder, names.name[i]);

            if (vm)
                json_array_append_new(vms, vm);
        }
        folder_names_free(&names);
        status = print(vms, command_given(args, "json"));
    }
    json_decref(vms);
    if (folder >= 0)
        close(folder);
    return status;
}
