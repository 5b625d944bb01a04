/* umbra run: settings, the machine, its console, signals, and what is said at the end. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "api/control.h"
#include "base/log.h"
#include "base/nearest.h"
#include "cli/cli.h"
#include "cli/console.h"
#include "cli/terminal.h"
#include "config/options.h"
#include "cpu/stats.h"
#include "gdb/gdb.h"
#include "machine/machine.h"

struct run {
    struct config config;
    struct machine machine;
    struct console console;
    struct control control;
    struct gdb *gdb; /* NULL: none was asked for */
    FILE *stats;     /* where the statistics go in the end; NULL: nowhere */
    struct loop_fd signals;
};

/* --- the command line --- */

static int unknown_option(const char *key, struct err *e)
{
    struct nearest nearest;

    nearest_begin(&nearest, key);
    for (unsigned i = 0; i < config_option_count; i++)
        nearest_offer(&nearest, config_options[i].key);
    if (nearest.found)
        return err_set(e, EINVAL, "unknown option --%.100s: did you mean --%s?", key, nearest.found);
    return err_set(e, EINVAL, "unknown option --%.100s: 'umbra run --help' lists them", key);
}

struct flag {
    char key[64];
    const char *value; /* NULL: none was given */
};

/* Splits argument *i, and takes the next one as its value where the option wants one. */
static int next_flag(int argc, char **argv, int *i, struct flag *flag, struct err *e)
{
    const char *arg = argv[*i], *equals;
    const struct config_option *option;

    if (strncmp(arg, "--", 2) != 0 || !arg[2])
        return err_set(e, EINVAL, "unexpected argument '%.200s': settings are flags, as --kernel FILE", arg);
    arg += 2;
    equals = strchr(arg, '=');
    snprintf(flag->key, sizeof(flag->key), "%.*s", equals ? (int)(equals - arg) : (int)strlen(arg), arg);
    flag->value = equals ? equals + 1 : NULL;
    option = config_option_find(flag->key);
    if (!option)
        return unknown_option(flag->key, e);
    if (!equals && option->kind != CONFIG_SWITCH && option->kind != CONFIG_SWITCH_OR_TEXT && *i + 1 < argc)
        flag->value = argv[++*i];
    return 0;
}

/* Flags win over a file wherever they stand, so files are read in a round of their own. */
static int parse(struct config *c, int argc, char **argv, bool files, struct err *e)
{
    for (int i = 1; i < argc; i++) {
        struct flag flag;
        int error = next_flag(argc, argv, &i, &flag, e);

        if (!error && (strcmp(flag.key, "config") == 0) == files)
            error = config_set(c, flag.key, flag.value, e);
        if (error)
            return error;
    }
    return 0;
}

/* A value that reads --help is none: --append --help. */
static bool wants_help(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        struct flag flag;
        struct err e;

        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
        if (next_flag(argc, argv, &i, &flag, &e) != 0)
            continue; /* parse() will complain */
    }
    return false;
}

/* --- what reaches the loop --- */

static void print_statistics(struct run *r)
{
    struct err e;

    fflush(stderr);
    if (stats_write(&r->machine.vm, stderr, false, &e) != 0)
        log_error("%s", e.text);
}

static void say_lines(const char *text)
{
    while (*text) {
        const char *end = strchr(text, '\n');

        log_info("%.*s", (int)(end - text), text);
        text = end + 1;
    }
}

static void on_escape(void *opaque, enum escape_action action)
{
    struct run *r = opaque;

    switch (action) {
    case ESCAPE_QUIT: vm_request_end(&r->machine.vm, VM_END_QUIT, 0, NULL); break;
    case ESCAPE_STATS:
        console_suspend(&r->console); /* its lines end in LF */
        print_statistics(r);
        console_resume(&r->console);
        break;
    default: say_lines(escape_help); break;
    }
}

static void on_signal(struct loop_fd *fd, uint32_t events)
{
    struct run *r = container_of(fd, struct run, signals);
    struct signalfd_siginfo info;

    (void)events;
    if (read(fd->fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
        return;
    if (info.ssi_signo == SIGTSTP) {
        console_suspend(&r->console);
        raise(SIGSTOP);
    } else if (info.ssi_signo == SIGCONT) { /* whatever stopped us: a shell may have changed the terminal */
        console_resume(&r->console);
    } else if (info.ssi_signo == SIGWINCH) {
        console_resized(&r->console);
    } else {
        char text[64];

        snprintf(text, sizeof(text), "ended by signal %u (%s)", info.ssi_signo, strsignal((int)info.ssi_signo));
        vm_request_end(&r->machine.vm, VM_END_QUIT, 128 + (int)info.ssi_signo, text);
    }
}

/* Before the first thread: all of them inherit the mask. */
static int signals_init(struct run *r, struct err *e)
{
    static const int handled[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGWINCH};
    sigset_t set, blocked;

    sigemptyset(&set);
    for (unsigned i = 0; i < ARRAY_SIZE(handled); i++)
        sigaddset(&set, handled[i]);
    blocked = set;
    sigaddset(&blocked, SIGTTOU); /* a terminal may be given back from the background */
    sigaddset(&blocked, SIGTTIN); /* and reading from it there is an error, not a stop */
    signal(SIGPIPE, SIG_IGN);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    r->signals = (struct loop_fd){.fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC), .events = EPOLLIN, .ready = on_signal};
    return r->signals.fd < 0 ? err_set(e, errno, "cannot take signals: %s", strerror(errno)) : 0;
}

/* --- the run --- */

/* Before anything is opened: a number that nobody handed down would else soon be a file of our own. */
static int check_descriptors(const struct config *c, struct err *e)
{
    for (unsigned i = 0; i < c->net_count; i++)
        if (c->nets[i].kind == NET_FD && fcntl(c->nets[i].fd, F_GETFD) < 0)
            return err_set(e, EBADF, "--net fd=%d: this file descriptor is not open: whoever starts umbra opens the tap and hands it down",
                           c->nets[i].fd);
    return 0;
}

static int no_statistics(const struct run *r, struct err *e)
{
    return err_set(e, errno, "cannot write the statistics to %.300s: %s", r->config.stats_path, strerror(errno));
}

/* Before the guest runs: nobody wants to learn at its end that nothing could be kept. */
static int open_statistics(struct run *r, struct err *e)
{
    const char *path = r->config.stats_path;

    if (r->config.stats)
        r->stats = path ? fopen(path, "we") : stderr;
    return r->config.stats && !r->stats ? no_statistics(r, e) : 0;
}

static int write_statistics(struct run *r, struct err *e)
{
    const char *path = r->config.stats_path;
    size_t len = path ? strlen(path) : 0;
    bool json = len > 5 && strcmp(path + len - 5, ".json") == 0;
    int error = stats_write(&r->machine.vm, r->stats, json, e);

    if (path && fclose(r->stats) != 0 && !error)
        error = no_statistics(r, e);
    r->stats = NULL;
    return error;
}

static int set_up(struct run *r, struct err *e)
{
    struct machine_consoles hosts = console_hosts(&r->console, &r->config);
    int error;

    hosts = control_consoles(&r->control, &hosts);
    error = machine_init_devices(&r->machine, &hosts, e);
    if (!error && r->config.gdb.kind != GDB_NONE)
        error = gdb_new(&r->gdb, &r->machine.vm, e);
    if (error)
        return error;
    /* Late, so that what is wrong with the rest leaves no file behind and no terminal in disorder. */
    error = console_init(&r->console, &r->config, r->machine.vm.loop, on_escape, r, e);
    if (!error)
        error = loop_add_fd(r->machine.vm.loop, &r->signals);
    if (!error)
        error = console_start(&r->console, &r->machine, e);
    if (!error)
        error = control_start(&r->control, &r->machine, e);
    return error ? error : open_statistics(r, e);
}

/* Runs it, and says how it ended. *status: umbra's exit status. 0 or -errno with a sentence when the host failed. */
static int run_machine(struct run *r, int *status, struct err *e)
{
    int error = machine_run(&r->machine, e);

    *status = error ? EXIT_FAILURE : machine_exit_status(&r->machine);
    console_flush(&r->console);
    console_fini(&r->console);
    if (error)
        return error;
    if (r->machine.vm.end_text[0])
        log_info("%s", r->machine.vm.end_text);
    return r->stats ? write_statistics(r, e) : 0;
}

/* The exit status. */
static int build_and_run(struct run *r)
{
    struct err e;
    int status = EXIT_FAILURE,
        error = control_init(&r->control, r->config.name, r->config.name_wanted, &e); /* first: the name may be another's */

    if (!error)
        error = machine_init(&r->machine, &r->config, &e);
    if (!error) {
        error = set_up(r, &e);
        if (!error) {
            if (r->machine.engine.note[0])
                log_info("%s", r->machine.engine.note);
            error = run_machine(r, &status, &e);
        } else {
            console_fini(&r->console);
        }
        control_stop(&r->control);
        gdb_free(r->gdb, status);
        machine_fini(&r->machine);
    }
    control_fini(&r->control); /* last: whoever has the name next finds everything free */
    if (error) {
        log_error("%s", e.text);
        status = EXIT_FAILURE;
    }
    return status;
}

int cli_run(int argc, char **argv)
{
    static struct run run; /* too large for the stack */
    struct err e;
    int error, status;

    if (wants_help(argc, argv)) {
        help_run(stdout);
        return cli_printed();
    }
    config_init(&run.config);
    error = parse(&run.config, argc, argv, true, &e);
    if (!error)
        error = parse(&run.config, argc, argv, false, &e);
    if (!error)
        error = config_validate(&run.config, &e);
    if (error) {
        log_error("%s", e.text);
        config_fini(&run.config);
        return EXIT_USAGE;
    }
    prctl(PR_SET_NAME, run.config.name);
    terminal_init();
    error = check_descriptors(&run.config, &e);
    if (!error)
        error = signals_init(&run, &e);
    if (error) {
        log_error("%s", e.text);
        status = EXIT_FAILURE;
    } else {
        status = build_and_run(&run);
        close(run.signals.fd);
    }
    config_fini(&run.config);
    return status;
}
