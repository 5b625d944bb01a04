/* umbra: finds the command and hands over. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cli/cli.h"

static int print(void (*help)(FILE *))
{
    help(stdout);
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

static void version(FILE *f)
{
    fprintf(f, "umbra %s\n", UMBRA_VERSION);
}

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"run", cli_run},
    {"probe", cli_probe},
};

static const struct {
    const char *name;
    void (*text)(FILE *);
} texts[] = {
    {"--help", help_umbra}, {"-h", help_umbra},     {"help", help_umbra}, {"--version", version},
    {"-V", version},        {"--man-page", help_man}, {"--bash-completion", help_completion},
};

int main(int argc, char **argv)
{
    if (argc < 2) {
        log_error("a command is missing: 'umbra run' boots a guest, 'umbra --help' tells the rest");
        return EXIT_USAGE;
    }
    for (unsigned i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    for (unsigned i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        if (strcmp(argv[1], texts[i].name) == 0)
            return print(texts[i].text);
    log_error("unknown command '%.100s': there are run and probe; 'umbra --help' tells more", argv[1]);
    return EXIT_USAGE;
}
