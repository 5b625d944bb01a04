/* Help, man page and completion: all from the one table of settings. */
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/escape.h"
#include "config/options.h"

static const char statuses[] = "  0  the guest powered off (or rebooted, with --no-reboot), or Ctrl-a x\n"
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
          "  umbra run --kernel FILE [--initrd FILE] [--append STRING] ...\n"
          "                  boot a guest; 'umbra run --help' lists every setting\n"
          "  umbra probe     what this host offers, and which engine would run a guest\n"
          "  umbra --help    this text\n"
          "  umbra --version\n",
          f);
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
    const char *line = o->help;
    char flag[64];

    flag_text(o, flag, sizeof(flag));
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

void help_man(FILE *f)
{
    fprintf(f, ".TH UMBRA 1 \"\" \"umbra %s\" \"User Commands\"\n", UMBRA_VERSION);
    fputs(".SH NAME\numbra \\- virtual machine monitor that needs no hardware virtualization\n"
          ".SH SYNOPSIS\n.B umbra run\n\\-\\-kernel FILE [\\-\\-initrd FILE] [\\-\\-append STRING] [SETTING]...\n.br\n"
          ".B umbra probe\n"
          ".SH DESCRIPTION\n"
          "Boots an unmodified Linux guest in one unprivileged process. Where the host has no hardware virtualization, the\n"
          "software engine runs it: binary translation over shadow page tables.\n"
          ".SH SETTINGS\n",
          f);
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

void help_completion(FILE *f)
{
    fputs("# bash completion for umbra\n"
          "_umbra()\n{\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
          "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
          "        COMPREPLY=($(compgen -W 'run probe --help --version' -- \"$cur\"))\n"
          "        return\n"
          "    fi\n"
          "    [ \"${COMP_WORDS[1]}\" = run ] || return\n"
          "    case $prev in\n",
          f);
    for (unsigned i = 0; i < config_option_count; i++)
        completion_of(f, &config_options[i]);
    fputs("    esac\n    COMPREPLY=($(compgen -W '--help", f);
    for (unsigned i = 0; i < config_option_count; i++)
        fprintf(f, " --%s", config_options[i].key);
    fputs("' -- \"$cur\"))\n}\ncomplete -F _umbra umbra\n", f);
}
