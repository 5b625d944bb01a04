/* The commands of umbra, and what each is called with. */
#pragma once

#include <stdio.h>

#include "base/err.h"

#define EXIT_USAGE 2 /* the command line or the configuration is wrong; 1 is a failure of the host */

#define COMMAND_OPTIONS_MAX 4

/* A flag of a command on running VMs. value: NULL for a switch, "SECONDS", or "[=SECONDS]" where it may be left out. */
struct command_option {
    const char *name; /* without its dashes; NULL ends the list */
    const char *value;
    const char *help; /* lines separated by \n */
};

struct command;

/* A command line, taken apart. */
struct command_args {
    const struct command *command;
    const char *vm;                         /* the VM's name, where the command wants one */
    bool given[COMMAND_OPTIONS_MAX];        /* by the option's place in the command's list */
    const char *value[COMMAND_OPTIONS_MAX]; /* NULL: without one */
};

/* One row makes the command, its help, its part of the man page and of the completion. */
struct command {
    const char *name;
    const char *summary;               /* for 'umbra --help'; lines separated by \n */
    int (*run)(int argc, char **argv); /* takes the rest of the command line itself; argv[0] is the command's name. Or: */
    int (*act)(const struct command_args *);
    bool wants_vm;
    const char *help; /* what 'umbra NAME --help' says above the options */
    struct command_option options[COMMAND_OPTIONS_MAX + 1];
};

extern const struct command commands[];
extern const unsigned command_count;
const struct command *command_find(const char *name); /* NULL: there is none */

/* Carries out the command. The exit status. */
int command_run(const struct command *, int argc, char **argv);

/* An option of the command, by its name. */
bool command_given(const struct command_args *, const char *option);
const char *command_value(const struct command_args *, const char *option); /* NULL: not given, or without one */
/* Its value in seconds, in milliseconds: at most a day. *ms is left alone when the option has none. 0 or -EINVAL with a sentence. */
int command_ms(const struct command_args *, const char *option, int *ms, struct err *);

/* Each returns the exit status. */
int cli_run(int argc, char **argv);
int cli_probe(int argc, char **argv);
int cli_list(const struct command_args *);
int cli_ask(const struct command_args *); /* pause, resume, reset, nmi: what needs no more than one request of the command's name */
int cli_kill(const struct command_args *);
int cli_stop(const struct command_args *);
int cli_stat(const struct command_args *);
int cli_console(const struct command_args *);
int cli_screen(const struct command_args *);
int cli_trace(const struct command_args *);

/* What was printed has arrived: EXIT_SUCCESS, or EXIT_FAILURE. */
int cli_printed(void);

/* Help texts, made from the tables of commands and settings. */
void help_umbra(FILE *);
void help_run(FILE *);
void help_probe(FILE *);
void help_command(FILE *, const struct command *);
/* For the build: the man page, and a completion script for bash. */
void help_man(FILE *);
void help_completion(FILE *);
