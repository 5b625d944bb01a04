/* The table of commands, and the command lines of those that act on running VMs. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cli/cli.h"
#include "config/config.h"

#define SECONDS_MAX 86400

const struct command commands[] = {
    {"run", "boot a guest; 'umbra run --help' lists every setting", .run = cli_run},
    {"probe", "what this host offers, and which engine would run a guest", .run = cli_probe},
    {"list", "the VMs that run", .act = cli_list,
     .help = "Lists your running VMs: name, process, state, engine, CPUs, memory and for how long each has run. What a killed\n"
             "VM left behind is cleared away.",
     .options = {{"json", NULL, "an array of objects instead of a table"}}},
    {"pause", "stop a VM's CPUs where they are", .act = cli_ask, .wants_vm = true,
     .help = "Stops the VM's CPUs until 'umbra resume'. The guest's clocks run on, as when a host sleeps with its lid open: what\n"
             "was due meanwhile comes at once when it goes on. A reset leaves a paused VM paused."},
    {"resume", "let a paused VM go on", .act = cli_ask, .wants_vm = true, .help = "Lets a paused VM go on. One that runs is left alone."},
    {"stop", "ask a VM's guest to switch itself off", .act = cli_stop, .wants_vm = true,
     .help = "Presses the VM's power button and waits until its process is gone. A guest that does not switch itself off in time is\n"
             "ended as by 'umbra kill', with a word about it. In the guest systemd, acpid or the like must listen to the button.",
     .options = {{"timeout", "SECONDS", "how long the guest may take (default: 30)"}, {"force", NULL, "do not ask the guest"}}},
    {"reset", "reset a VM, as by its reset button", .act = cli_ask, .wants_vm = true,
     .help = "Resets the VM: the guest is given no notice, and its kernel is loaded again, with --no-reboot too."},
    {"nmi", "send an NMI to a VM's CPUs", .act = cli_ask, .wants_vm = true,
     .help = "Sends a non-maskable interrupt to each of the VM's CPUs; Linux panics on it with unknown_nmi_panic."},
    {"kill", "end a VM at once", .act = cli_kill, .wants_vm = true,
     .help = "Ends the VM without asking the guest, as if its power were cut, and waits until its process is gone. A process that\n"
             "does not answer is killed (SIGKILL)."},
    {"console", "a VM's console, on this terminal", .act = cli_console, .wants_vm = true,
     .help = "Shows what the guest prints from now on, and types what you type, beside the console that the VM was started with, even\n"
             "where that is none. Several may do so at once. Without a terminal, standard input is typed, and at its end the\n"
             "output goes on. Whoever reads too slowly misses some of it, and is told.\n\n"
             "On a terminal, Ctrl-a is the escape key:\n"
             "Ctrl-a d  leave the console; the VM runs on\n"
             "Ctrl-a h  help\n"
             "Ctrl-a b  send a break\n"
             "Ctrl-a a  send a Ctrl-a"},
    {"screen", "a VM's text screen", .act = cli_screen, .wants_vm = true,
     .help = "Prints the 80x25 characters at 0xb8000, where a kernel finds the text screen of a PC, as UTF-8.",
     .options = {{"color", NULL, "with the colours"}}},
    {"stat", "what a VM counts", .act = cli_stat, .wants_vm = true,
     .help = "Shows where each CPU's time goes, exits by reason with their rate and cost, the traffic of each queue, and the engine's\n"
             "counters.",
     .options = {{"watch", "[=SECONDS]", "again each second, or as often as said, with the rates between\ntwo looks; Ctrl-C ends it"},
                 {"json", NULL, "the numbers as JSON, a line for each look"}}},
    {"trace", "what happens between a VM's guest and its devices", .act = cli_trace, .wants_vm = true,
     .help = "Prints one time line of what happens from now on: where each CPU enters the guest and leaves it and why, devices that\n"
             "look at their queues, show what they have done and send interrupts. It ends after a second or 1000 events, what is\n"
             "first, or as said; Ctrl-C ends it early.",
     .options = {{"ms", "N", "after N milliseconds, or 100000 events"},
                 {"events", "N", "after N events, at most 100000, or an hour"},
                 {"json", NULL, "a JSON object a line for each event"}}},
};
const unsigned command_count = ARRAY_SIZE(commands);

const struct command *command_find(const char *name)
{
    for (unsigned i = 0; i < command_count; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

/* --- command lines --- */

static int find_option(const struct command *command, const char *name, size_t len)
{
    for (int i = 0; command->options[i].name; i++)
        if (strlen(command->options[i].name) == len && memcmp(command->options[i].name, name, len) == 0)
            return i;
    return -1;
}

/* Takes argv[*i], and the next one as its value where it wants one. */
static int take_option(struct command_args *args, int argc, char **argv, int *i, struct err *e)
{
    const char *name = argv[*i] + 2, *equals = strchr(name, '=');
    size_t len = equals ? (size_t)(equals - name) : strlen(name);
    int option = find_option(args->command, name, len);
    const char *wanted;

    if (option < 0)
        return err_set(e, EINVAL, "unknown option --%.*s: 'umbra %s --help' tells what there is", (int)MIN(len, 100), name,
                       args->command->name);
    wanted = args->command->options[option].value;
    if (equals && !wanted)
        return err_set(e, EINVAL, "--%.*s takes no value", (int)len, name);
    args->given[option] = true;
    args->value[option] = equals ? equals + 1 : NULL;
    if (equals || !wanted || wanted[0] == '[')
        return 0;
    if (*i + 1 >= argc)
        return err_set(e, EINVAL, "--%.*s needs a value: --%.*s %s", (int)len, name, (int)len, name, wanted);
    args->value[option] = argv[++*i];
    return 0;
}

static int parse(struct command_args *args, int argc, char **argv, struct err *e)
{
    const struct command *command = args->command;

    for (int i = 1; i < argc; i++) {
        int error = 0;

        if (strncmp(argv[i], "--", 2) == 0)
            error = take_option(args, argc, argv, &i, e);
        else if (!command->wants_vm || args->vm)
            error = err_set(e, EINVAL, "unexpected argument '%.100s': 'umbra %s --help' tells what there is", argv[i], command->name);
        else
            args->vm = argv[i];
        if (error)
            return error;
    }
    if (command->wants_vm && !args->vm)
        return err_set(e, EINVAL, "which VM? umbra %s NAME; 'umbra list' tells the names of those that run", command->name);
    return command->wants_vm ? config_check_name(args->vm, e) : 0;
}

int command_run(const struct command *command, int argc, char **argv)
{
    struct command_args args = {.command = command};
    struct err e;

    if (command->run)
        return command->run(argc, argv);
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            help_command(stdout, command);
            return cli_printed();
        }
    if (parse(&args, argc, argv, &e) != 0) {
        log_error("%s", e.text);
        return EXIT_USAGE;
    }
    return command->act(&args);
}

bool command_given(const struct command_args *args, const char *option)
{
    return args->given[find_option(args->command, option, strlen(option))];
}

const char *command_value(const struct command_args *args, const char *option)
{
    return args->value[find_option(args->command, option, strlen(option))];
}

int command_ms(const struct command_args *args, const char *option, int *ms, struct err *e)
{
    const char *text = command_value(args, option);
    char *end;
    double seconds;

    if (!text)
        return 0;
    seconds = strtod(text, &end);
    if (end == text || *end || !(seconds >= 0) || seconds > SECONDS_MAX)
        return err_set(e, EINVAL, "--%s must be a number of seconds up to %d, not '%.60s'", option, SECONDS_MAX, text);
    *ms = (int)(seconds * 1000);
    return 0;
}
