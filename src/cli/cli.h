/* The commands of umbra: each takes its arguments (argv[0] is the command's name) and returns the exit status. */
#pragma once

#include <stdio.h>

#define EXIT_USAGE 2 /* the command line or the configuration is wrong; 1 is a failure of the host */

int cli_run(int argc, char **argv);
int cli_probe(int argc, char **argv);

/* What was printed has arrived: EXIT_SUCCESS, or EXIT_FAILURE. */
int cli_printed(void);

/* Help texts, made from the table of settings. */
void help_umbra(FILE *);
void help_run(FILE *);
void help_probe(FILE *);
/* For the build: the man page, and a completion script for bash. */
void help_man(FILE *);
void help_completion(FILE *);
