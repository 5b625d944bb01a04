/* umbra: finds the command and hands over. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/nearest.h"
#include "cli/cli.h"

static int print(void (*help)(FILE *))
{
    help(stdout);
    return cli_printed();
}

static void version(FILE *f)
{
    fprintf(f, "umbra %s\n", UMBRA_VERSION);
}

static const struct {
    const char *name;
    void (*text)(FILE *);
} texts[] = {
    {"--help", help_umbra},
    {"-h", help_umbra},
    {"help", help_umbra},
    {"--version", version},
    {"-V", version},
    {"--man-page", help_man},
    {"--bash-completion", help_completion},
};

/* The number of a closed one would go to the next file that is opened, which would then get messages. */
static bool open_standard_files(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
            return false;
    return true;
}

static int unknown_command(const char *name)
{
    struct nearest nearest;

    nearest_begin(&nearest, name);
    for (unsigned i = 0; i < command_count; i++)
        nearest_offer(&nearest, commands[i].name);
    if (nearest.found)
        log_error("unknown command '%.100s': did you mean umbra %s?", name, nearest.found);
    else
        log_error("unknown command '%.100s': 'umbra --help' lists those that there are", name);
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    const struct command *command;

    if (!open_standard_files())
        return EXIT_FAILURE;
    if (argc < 2) {
        log_error("a command is missing: 'umbra run' boots a guest, 'umbra --help' tells the rest");
        return EXIT_USAGE;
    }
    command = command_find(argv[1]);
    if (command)
        return command_run(command, argc - 1, argv + 1);
    for (unsigned i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        if (strcmp(argv[1], texts[i].name) == 0) {
            if (argc == 2)
                return print(texts[i].text);
            log_error("umbra %s takes no arguments, but was given '%.100s'", argv[1], argv[2]);
            return EXIT_USAGE;
        }
    return unknown_command(argv[1]);
}
