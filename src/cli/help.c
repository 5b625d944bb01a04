/* Help, man page and completion: all from the one table of settings. */
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/escape.h"
#include "config/options.h"

static const char statuses[] = "  0  the guest powered off (or rebooted, with --no-reboot), or Ctrl-a x,\n"
                               "     or umbra kill\n"
                               "  1  the host failed: a file, memory, a terminal\n"
                               "  2  the command line or the configuration is wrong\n"
                               "  3  the guest triple-faulted\n"
                               "  4  the guest's kernel panicked and would not reboot, as it says on the\n"
                               "     serial console (\"---[ end Kernel panic ...\")\n"
                               "  5  the engine could not go on\n"
                               "  (v << 1) | 1  the guest wrote v to port 0xf4 (--debug-exit)\n"
                               "  128 + n  umbra was ended by signal n (143: SIGTERM)\n";

static const char standard_input[] = "The serial console is standard input and output. On a terminal, Ctrl-a is the\n"
                                     "escape key. Standard input may as well be a pipe, a file, /dev/null or closed:\n"
                                     "what it holds is typed into the guest once that raises RTS, as every driver\n"
                                     "does; there is no escape key then, and at its end the guest goes on.\n"
                                     "A serial line does not tell the window's size: in the guest, 'resize' asks the\n"
                                     "terminal for it (the default guest does so by itself).\n"
                                     "With --console virtio the window's size follows by itself; what the guest\n"
                                     "prints on its serial port is shown too, and Ctrl-a b sends a Ctrl-o, which\n"
                                     "Linux takes for a break there.\n";

int cli_printed(void)
{
    return fflush(stdout) == 0 && !ferror(stdout) ? EXIT_SUCCESS : EXIT_FAILURE;
}

void help_umbra(FILE *f)
{
    fputs("umbra boots unmodified Linux guests, with no hardware virtualization and no privileges.\n"
          "\n"
          "  umbra run --kernel FILE [--initrd FILE] [--append STRING] ...\n",
          f);
    for (unsigned i = 0; i < command_count; i++) {
        char line[64];

        snprintf(line, sizeof(line), "umbra %s%s", commands[i].name, commands[i].wants_vm ? " NAME" : "");
        fprintf(f, "  %-22s%s\n", line, commands[i].summary);
    }
    fputs("  umbra --help          this text; 'umbra COMMAND --help' tells more of a command\n"
          "  umbra --version\n",
          f);
}

/* A flag and its lines of help, in two columns. */
static void print_flag(FILE *f, const char *flag, const char *line)
{
    fprintf(f, "  %-30s", flag);
    if (strlen(flag) > 29)
        fprintf(f, "\n%32s", "");
    for (;;) {
        size_t len = strcspn(line, "\n");

        fprintf(f, " %.*s\n", (int)len, line);
        if (!line[len])
            return;
        line += len + 1;
        fprintf(f, "%32s", "");
    }
}

/* "--memory SIZE[,shared]", "--stats[=FILE]" */
static void flag_text(const struct config_option *o, char *buf, size_t size)
{
    switch (o->kind) {
    case CONFIG_SWITCH: snprintf(buf, size, "--%s", o->key); break;
    case CONFIG_SWITCH_OR_TEXT: snprintf(buf, size, "--%s[=%s]", o->key, o->value); break;
    default: snprintf(buf, size, "--%s %s", o->key, o->value); break;
    }
}

static void print_option(FILE *f, const struct config_option *o)
{
    char flag[64];

    flag_text(o, flag, sizeof(flag));
    print_flag(f, flag, o->help);
}

void help_run(FILE *f)
{
    fputs("umbra run: boots a guest and is its console until it powers off.\n\nSettings (--key VALUE or --key=VALUE):\n", f);
    for (unsigned i = 0; i < config_option_count; i++)
        print_option(f, &config_options[i]);
    fprintf(f, "\nConsole:\n%s\n%s\nExit status:\n%s", standard_input, escape_help, statuses);
}

void help_probe(FILE *f)
{
    fputs("umbra probe: a table of what this host offers to a VMM, and what 'umbra run --engine auto' will take.\n"
          "It changes nothing and needs no privileges.\n",
          f);
}

/* "--timeout SECONDS", "--watch[=SECONDS]" */
static const char *command_flag_text(const struct command_option *o, char *buf, size_t size)
{
    snprintf(buf, size, "--%s%s%s", o->name, o->value && o->value[0] != '[' ? " " : "", o->value ? o->value : "");
    return buf;
}

void help_command(FILE *f, const struct command *command)
{
    char flag[64];

    fprintf(f, "umbra %s%s%s: %s.\n\n%s\n", command->name, command->wants_vm ? " NAME" : "",
            command->options[0].name ? " [SETTING]..." : "", command->summary, command->help);
    if (command->options[0].name)
        fputs("\nSettings:\n", f);
    for (const struct command_option *o = command->options; o->name; o++)
        print_flag(f, command_flag_text(o, flag, sizeof(flag)), o->help);
}

/* --- the man page --- */

/* roff takes a leading dot or quote for a request, and a backslash for an escape. */
static void roff(FILE *f, const char *text)
{
    bool at_start = true;

    for (; *text; text++) {
        if (at_start && (*text == '.' || *text == '\''))
            fputs("\\&", f);
        if (*text == '\\')
            fputs("\\e", f);
        else if (*text == '-')
            fputs("\\-", f);
        else
            fputc(*text, f);
        at_start = *text == '\n';
    }
}

static void roff_example(FILE *f, const char *text)
{
    fputs(".nf\n", f);
    roff(f, text);
    fputs(".fi\n", f);
}

static void man_commands(FILE *f)
{
    char flag[64];

    fputs(".SH COMMANDS\n", f);
    for (unsigned i = 0; i < command_count; i++) {
        const struct command *command = &commands[i];

        fprintf(f, ".TP\n.B umbra %s%s\n", command->name, command->wants_vm ? " NAME" : "");
        roff(f, command->help ? command->help : command->summary);
        fputs("\n", f);
        for (const struct command_option *o = command->options; o->name; o++) {
            fputs(".RS\n.TP\n.B ", f);
            roff(f, command_flag_text(o, flag, sizeof(flag)));
            fputc('\n', f);
            roff(f, o->help);
            fputs("\n.RE\n", f);
        }
    }
}

void help_man(FILE *f)
{
    fprintf(f, ".TH UMBRA 1 \"\" \"umbra %s\" \"User Commands\"\n", UMBRA_VERSION);
    fputs(".SH NAME\numbra \\- virtual machine monitor that needs no hardware virtualization\n"
          ".SH SYNOPSIS\n.B umbra run\n\\-\\-kernel FILE [\\-\\-initrd FILE] [\\-\\-append STRING] [SETTING]...\n.br\n"
          ".B umbra\nCOMMAND [NAME] [SETTING]...\n"
          ".SH DESCRIPTION\n"
          "Boots an unmodified Linux guest in one unprivileged process: on KVM where the host has it and hardware to assist it, and\n"
          "else on the software engine, by binary translation over shadow page tables.\n"
          "NAME is what the VM was given by \\-\\-name.\n",
          f);
    man_commands(f);
    fputs(".SH SETTINGS\n", f);
    for (unsigned i = 0; i < config_option_count; i++) {
        char flag[64];

        flag_text(&config_options[i], flag, sizeof(flag));
        fputs(".TP\n.B ", f);
        roff(f, flag);
        fputc('\n', f);
        roff(f, config_options[i].help);
        fputc('\n', f);
    }
    fputs(".SH CONSOLE\n", f);
    roff(f, standard_input);
    roff_example(f, escape_help);
    fputs(".SH EXIT STATUS\n", f);
    roff_example(f, statuses);
}

/* --- completion --- */

static void completion_of(FILE *f, const struct config_option *o)
{
    if (o->kind == CONFIG_SWITCH || o->kind == CONFIG_SWITCH_OR_TEXT)
        return;
    fprintf(f, "    --%s) ", o->key);
    if (o->words && *o->words)
        fprintf(f, "COMPREPLY=($(compgen -W '%s' -- \"$cur\")); ", o->words);
    else if (o->words)
        fputs("COMPREPLY=($(compgen -f -- \"$cur\")); ", f);
    fputs("return ;;\n", f);
}

/* Names come from the folder of running VMs: folder_path() says which it is. */
static const char completion_names[] = "_umbra_names()\n{\n"
                                       "    local dir=${XDG_RUNTIME_DIR-} name\n"
                                       "    if [ -n \"$dir\" ] && [ -O \"$dir\" ]; then dir=$dir/umbra; else dir=/tmp/umbra-$EUID; fi\n"
                                       "    for name in \"$dir\"/*.sock; do\n"
                                       "        name=${name##*/}\n"
                                       "        [ \"$name\" = '*.sock' ] || echo \"${name%.sock}\"\n"
                                       "    done\n"
                                       "}\n";

static void completion_of_command(FILE *f, const struct command *command)
{
    fprintf(f, "    %s)\n", command->name);
    if (command->wants_vm)
        fputs("        if [ \"$COMP_CWORD\" -eq 2 ] && [[ $cur != -* ]]; then\n"
              "            COMPREPLY=($(compgen -W \"$(_umbra_names)\" -- \"$cur\"))\n"
              "            return\n"
              "        fi\n",
              f);
    fputs("        COMPREPLY=($(compgen -W '--help", f);
    for (const struct command_option *o = command->options; o->name; o++)
        fprintf(f, " --%s", o->name);
    fputs("' -- \"$cur\"))\n        return ;;\n", f);
}

void help_completion(FILE *f)
{
    fputs("# bash completion for umbra\n", f);
    fputs(completion_names, f);
    fputs("_umbra()\n{\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
          "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
          "        COMPREPLY=($(compgen -W '",
          f);
    for (unsigned i = 0; i < command_count; i++)
        fprintf(f, "%s ", commands[i].name);
    fputs("--help --version' -- \"$cur\"))\n"
          "        return\n"
          "    fi\n"
          "    case ${COMP_WORDS[1]} in\n",
          f);
    for (unsigned i = 0; i < command_count; i++)
        if (commands[i].act)
            completion_of_command(f, &commands[i]);
    fputs("    run) ;;\n"
          "    *) return ;;\n"
          "    esac\n"
          "    case $prev in\n",
          f);
    for (unsigned i = 0; i < config_option_count; i++)
        completion_of(f, &config_options[i]);
    fputs("    esac\n    COMPREPLY=($(compgen -W '--help", f);
    for (unsigned i = 0; i < config_option_count; i++)
        fprintf(f, " --%s", config_options[i].key);
    fputs("' -- \"$cur\"))\n}\ncomplete -F _umbra umbra\n", f);
}
