/* Statistics as a table: CPUs with their shares of time, exits by reason with rate and cost, queues with their traffic, and what else counts. */
#include "cli/stat_table.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/types.h"
#include "cpu/engine.h"

struct table {
    FILE *f;
    const json_t *now, *before;
    double seconds; /* between them */
};

/* --- numbers --- */

static uint64_t member(const json_t *stats, const char *group, const char *name, const char *part)
{
    const json_t *value = json_object_get(json_object_get(stats, group), name);
    json_int_t n = json_integer_value(part ? json_object_get(value, part) : value);

    return n > 0 ? (uint64_t)n : 0;
}

static uint64_t growth(const struct table *t, const char *group, const char *name, const char *part)
{
    uint64_t now = member(t->now, group, name, part), before = member(t->before, group, name, part);

    return now > before ? now - before : 0;
}

static double rate(const struct table *t, uint64_t count)
{
    return t->seconds > 0 ? (double)count / t->seconds : 0;
}

/* In some seven characters: 12.3, 4567, 89.0k, 1.2M. */
#define SHORT_TEXT 16
static const char *short_text(char buf[SHORT_TEXT], double value)
{
    static const char units[] = " kMGTPE";
    unsigned unit = 0;

    while (value >= 10000 && units[unit + 1]) {
        value /= 1000;
        unit++;
    }
    snprintf(buf, SHORT_TEXT, "%.*f%.1s", value < 100 ? 1 : 0, value, unit ? &units[unit] : "");
    return buf;
}

static bool is_cpu(const char *group)
{
    return strncmp(group, "vcpu", 4) == 0;
}

/* --- CPUs and exits --- */

/* Of each CPU's time. The rest is waiting for the host's CPU, and standing. */
static void print_cpus(const struct table *t)
{
    const char *group;
    json_t *values;

    fprintf(t->f, "%-14s %10s %10s %10s %12s\n", "CPU", "guest", "halted", "outside", "entries/s");
    json_object_foreach((json_t *)t->now, group, values)
    {
        char entries[SHORT_TEXT];
        uint64_t outside = 0;
        double all = t->seconds * (double)NS_PER_SEC;

        if (!is_cpu(group))
            continue;
        for (unsigned r = 0; r < VM_EXIT_REASON_COUNT; r++)
            if (r != VM_EXIT_HLT)
                outside += growth(t, group, vm_exit_names[r], "ns");
        fprintf(t->f, "%-14s %9.1f%% %9.1f%% %9.1f%% %12s\n", group, 100 * (double)growth(t, group, "guest", "ns") / all,
                100 * (double)growth(t, group, vm_exit_names[VM_EXIT_HLT], "ns") / all, 100 * (double)outside / all,
                short_text(entries, rate(t, growth(t, group, "guest", "count"))));
    }
}

struct sums {
    uint64_t count, new_count, new_ns;
};

static struct sums sum_of(const struct table *t, const char *reason)
{
    struct sums s = {0};
    const char *group;
    json_t *values;

    json_object_foreach((json_t *)t->now, group, values)
    {
        if (!is_cpu(group))
            continue;
        s.count += member(t->now, group, reason, "count");
        s.new_count += growth(t, group, reason, "count");
        s.new_ns += growth(t, group, reason, "ns");
    }
    return s;
}

/* Of all CPUs together; a reason that never occurred is left out. */
static void print_exits(const struct table *t)
{
    fprintf(t->f, "\n%-14s %14s %10s %10s %12s\n", "exit", "count", "per s", "us each", "ms per s");
    for (unsigned r = 0; r < VM_EXIT_REASON_COUNT; r++) {
        struct sums s = sum_of(t, vm_exit_names[r]);
        char per_second[SHORT_TEXT], each[SHORT_TEXT];

        if (!s.count)
            continue;
        fprintf(t->f, "%-14s %14" PRIu64 " %10s %10s %12.3f\n", vm_exit_names[r], s.count, short_text(per_second, rate(t, s.new_count)),
                s.new_count ? short_text(each, (double)s.new_ns / (double)s.new_count / 1000) : "-", rate(t, s.new_ns) / (double)NS_PER_MS);
    }
}

/* --- devices, and what else counts --- */

/* "queue 3 kicks": the number of its queue, or -1; what is counted follows at *what. */
static int queue_of(const char *name, const char **what)
{
    static const char prefix[] = "queue ";
    unsigned long queue;
    char *end;

    if (strncmp(name, prefix, sizeof(prefix) - 1) != 0)
        return -1;
    queue = strtoul(name + sizeof(prefix) - 1, &end, 10);
    if (*end != ' ' || queue > UINT16_MAX)
        return -1;
    *what = end + 1;
    return (int)queue;
}

static void print_queue(const struct table *t, const char *group, int queue)
{
    static const char *const columns[] = {"kicks", "chains", "bytes read", "bytes written", "interrupts"};
    char label[48];

    snprintf(label, sizeof(label), "%s queue %d", group, queue);
    fprintf(t->f, "%-24s", label);
    for (unsigned i = 0; i < ARRAY_SIZE(columns); i++) {
        char name[48], text[SHORT_TEXT];

        snprintf(name, sizeof(name), "queue %d %s", queue, columns[i]);
        fprintf(t->f, " %10s", short_text(text, rate(t, growth(t, group, name, NULL))));
    }
    fputc('\n', t->f);
}

/* A line for each queue that was ever used. Its "kicks" stand first of what it counts. */
static void print_queues(const struct table *t)
{
    const char *group, *name, *what;
    json_t *values, *value;
    bool begun = false;

    json_object_foreach((json_t *)t->now, group, values)
    {
        json_object_foreach(values, name, value)
        {
            int queue = queue_of(name, &what);
            char chains[48];

            snprintf(chains, sizeof(chains), "queue %d chains", queue);
            if (queue < 0 || strcmp(what, "kicks") != 0 || (!json_integer_value(value) && !member(t->now, group, chains, NULL)))
                continue;
            if (!begun)
                fprintf(t->f, "\n%-24s %10s %10s %10s %10s %10s\n", "per s", "kicks", "chains", "from guest", "to guest", "interrupts");
            begun = true;
            print_queue(t, group, queue);
        }
    }
}

static void print_counters(const struct table *t)
{
    const char *group, *name, *what;
    json_t *values, *value;
    bool begun = false;

    json_object_foreach((json_t *)t->now, group, values)
    {
        if (is_cpu(group))
            continue;
        json_object_foreach(values, name, value)
        {
            char label[96], text[SHORT_TEXT];

            if (!json_integer_value(value) || queue_of(name, &what) >= 0)
                continue;
            if (!begun)
                fprintf(t->f, "\n%-36s %16s %10s\n", "counter", "count", "per s");
            begun = true;
            snprintf(label, sizeof(label), "%s %s", group, name);
            fprintf(t->f, "%-36s %16" PRId64 " %10s\n", label, (int64_t)json_integer_value(value),
                    short_text(text, rate(t, growth(t, group, name, NULL))));
        }
    }
}

void stat_table(FILE *f, const json_t *now, const json_t *before, const char *state)
{
    const char *name = json_string_value(json_object_get(now, "name"));
    double seconds = json_number_value(json_object_get(now, "seconds"));
    const struct table t = {f, now, before, seconds - json_number_value(json_object_get(before, "seconds"))};

    fprintf(f, "%s: %s, up %.1f s, ", name ? name : "?", state, seconds);
    if (before)
        fprintf(f, "rates of the last %.1f s\n\n", t.seconds);
    else
        fputs("rates since it started\n\n", f);
    print_cpus(&t);
    print_exits(&t);
    print_queues(&t);
    print_counters(&t);
}
