/* umbra trace: one time line of what happens between a VM's guest and its devices. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "api/client.h"
#include "api/control_request.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cpu/trace.h"

#define EVENTS_DEFAULT 1000
#define MS_DEFAULT 1000
#define LOOK_MS 20 /* between two looks whether it is over */

/* --- one event --- */

static const char *text(const json_t *event, const char *key)
{
    const char *value = json_string_value(json_object_get(event, key));

    return value ? value : "?";
}

static uint64_t number(const json_t *event, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(event, key));
}

static bool is(const json_t *event, const char *key, const char *value)
{
    return strcmp(text(event, key), value) == 0;
}

/* Who: a CPU or a device. */
static void print_who(const json_t *event)
{
    if (json_object_get(event, "cpu"))
        printf("  cpu%-9" PRIu64, number(event, "cpu"));
    else
        printf("  %-12s", text(event, "device"));
}

static void print_what(const json_t *event)
{
    const char *kind = text(event, "event");

    if (is(event, "event", "exit") && is(event, "reason", "PIO"))
        printf("exit PIO, port 0x%" PRIx64, number(event, "address"));
    else if (is(event, "event", "exit") && number(event, "address"))
        printf("exit %s at 0x%" PRIx64, text(event, "reason"), number(event, "address"));
    else if (is(event, "event", "exit"))
        printf("exit %s", text(event, "reason"));
    else if (is(event, "event", "kick"))
        printf("kick, queue %" PRIu64, number(event, "queue"));
    else if (is(event, "event", "completion"))
        printf("completion, queue %" PRIu64 "%s", number(event, "queue"),
               json_is_true(json_object_get(event, "interrupt")) ? ", with an interrupt" : "");
    else if (is(event, "event", "interrupt"))
        printf("interrupt, vector 0x%02" PRIx64 " to 0x%" PRIx64, number(event, "vector"), number(event, "address"));
    else if (is(event, "event", "inject"))
        printf("takes vector 0x%02" PRIx64, number(event, "vector"));
    else if (is(event, "event", "fill"))
        printf("fill for 0x%" PRIx64 ", page 0x%" PRIx64, number(event, "address"), number(event, "page"));
    else
        printf("%s", kind);
}

/* Microseconds since the first event and since the one before. */
static void print_event(const json_t *event, uint64_t first_ns, uint64_t before_ns)
{
    uint64_t ns = number(event, "ns");

    printf("%13.3f %11.3f", (double)(ns - first_ns) / 1000, (double)(ns - before_ns) / 1000);
    print_who(event);
    print_what(event);
    putchar('\n');
}

/* --- all of them --- */

struct timeline {
    bool as_json;
    unsigned long printed;
    uint64_t first_ns, before_ns;
};

static void print_events(struct timeline *line, const json_t *events)
{
    for (size_t i = 0; i < json_array_size(events); i++) {
        const json_t *event = json_array_get(events, i);

        if (line->as_json) {
            json_dumpf(event, stdout, JSON_COMPACT);
            putchar('\n');
        } else {
            if (line->printed == 0) {
                printf("%13s %11s  %-12s%s\n", "us", "after", "who", "what");
                line->first_ns = line->before_ns = number(event, "ns");
            }
            print_event(event, line->first_ns, line->before_ns);
            line->before_ns = number(event, "ns");
        }
        line->printed++;
    }
}

static json_t *ask(struct client *client, json_t *request, struct err *e)
{
    return client_call(client, request, CLIENT_TIMEOUT_MS, NULL, e);
}

/* What there is behind those that were printed. The answer, to be json_decref()ed, or NULL with a sentence. */
static json_t *read_on(struct client *client, const struct timeline *line, struct err *e)
{
    return ask(client, json_pack("{s:s, s:I}", "request", "trace-read", "from", (json_int_t)line->printed), e);
}

/* True when a signal asks for the end. */
static bool is_interrupted(int signals, int wait_ms)
{
    struct pollfd p = {.fd = signals, .events = POLLIN};

    return poll(&p, 1, wait_ms) > 0;
}

/* Until the window is closed. The answer that says so, with its first events, or NULL with a sentence. */
static json_t *wait_for_end(struct client *client, const struct timeline *line, int signals, struct err *e)
{
    json_t *answer;

    while ((answer = read_on(client, line, e)) && json_is_true(json_object_get(answer, "open"))) {
        json_decref(answer);
        if (is_interrupted(signals, LOOK_MS))
            return client_ask(client, "trace-end", e);
    }
    return answer;
}

static int take_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* 0, or -EIO with a sentence. */
static int run(struct client *client, struct timeline *line, unsigned events, unsigned ms, struct err *e)
{
    int signals = take_signals();
    json_t *answer = ask(client, json_pack("{s:s, s:i, s:i}", "request", "trace", "events", (int)events, "ms", (int)ms), e);
    uint64_t count;

    if (answer) {
        json_decref(answer);
        answer = wait_for_end(client, line, signals, e);
    }
    while (answer) {
        count = number(answer, "count");
        print_events(line, json_object_get(answer, "events"));
        if (line->printed >= count || json_array_size(json_object_get(answer, "events")) == 0)
            break;
        json_decref(answer);
        answer = read_on(client, line, e);
    }
    if (signals >= 0)
        close(signals);
    json_decref(answer);
    return answer ? 0 : -EIO;
}

/* --- the command line --- */

/* *value is left alone when the option was not given. */
static int take_number(const struct command_args *args, const char *option, unsigned max, unsigned *value, struct err *e)
{
    const char *given = command_value(args, option);
    char *end;
    unsigned long n;

    if (!given)
        return 0;
    errno = 0;
    n = strtoul(given, &end, 10);
    if (*given < '0' || *given > '9' || *end || errno || n < 1 || n > max)
        return err_set(e, EINVAL, "--%s must be a number from 1 to %u, not '%.60s'", option, max, given);
    *value = (unsigned)n;
    return 0;
}

int cli_trace(const struct command_args *args)
{
    bool ms_given = command_given(args, "ms"), events_given = command_given(args, "events");
    unsigned ms = events_given ? CONTROL_TRACE_MS_MAX : MS_DEFAULT, events = ms_given ? TRACE_EVENTS_MAX : EVENTS_DEFAULT;
    struct timeline line = {.as_json = command_given(args, "json")};
    struct client client;
    struct err e;
    int error = take_number(args, "ms", CONTROL_TRACE_MS_MAX, &ms, &e);

    if (!error)
        error = take_number(args, "events", TRACE_EVENTS_MAX, &events, &e);
    if (error) {
        log_error("%s", e.text);
        return EXIT_USAGE;
    }
    error = client_open(&client, args->vm, &e);
    if (!error)
        error = run(&client, &line, events, ms, &e);
    client_close(&client);
    if (error) {
        log_error("%s", e.text);
        return EXIT_FAILURE;
    }
    if (line.printed == 0)
        log_info("nothing happened in that time");
    return cli_printed();
}
