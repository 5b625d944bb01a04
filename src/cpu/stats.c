/* Statistics: collects what the vCPUs and the engine report, and writes a table or JSON. */
#include "cpu/stats.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cpu/vm.h"

struct entry {
    char group[32];
    char name[48];
    bool timed;
    uint64_t value; /* or count */
    uint64_t ns;
};

struct collector {
    struct stats_out out;
    struct entry *entries;
    size_t count, capacity;
    bool failed; /* no memory */
};

static void collect(struct stats_out *out, const char *group, const char *name, uint64_t value, bool timed, uint64_t ns)
{
    struct collector *c = container_of(out, struct collector, out);

    if (c->count == c->capacity) {
        size_t capacity = c->capacity ? c->capacity * 2 : 64;
        struct entry *entries = reallocarray(c->entries, capacity, sizeof(*entries));
        if (!entries) {
            c->failed = true;
            return;
        }
        c->entries = entries;
        c->capacity = capacity;
    }
    struct entry *e = &c->entries[c->count++];
    *e = (struct entry){.timed = timed, .value = value, .ns = ns};
    snprintf(e->group, sizeof(e->group), "%s", group);
    snprintf(e->name, sizeof(e->name), "%s", name);
}

static void collect_number(struct stats_out *out, const char *group, const char *name, uint64_t value)
{
    collect(out, group, name, value, false, 0);
}

static void collect_timed(struct stats_out *out, const char *group, const char *name, uint64_t count, uint64_t ns)
{
    collect(out, group, name, count, true, ns);
}

static void report_exits(const struct vcpu *vcpu, struct stats_out *out)
{
    char group[32];

    snprintf(group, sizeof(group), "vcpu%u", vcpu->index);
    for (unsigned r = 0; r < VM_EXIT_REASON_COUNT; r++)
        out->timed(out, group, vm_exit_names[r], atomic_load_explicit(&vcpu->exits[r], memory_order_relaxed),
                   atomic_load_explicit(&vcpu->exit_ns[r], memory_order_relaxed));
}

static double run_seconds(const struct vm *vm)
{
    return vm->started_ns ? (double)(clock_monotonic_ns() - vm->started_ns) / NS_PER_SEC : 0;
}

/* 12345678 -> 12,345,678 */
static void grouped(char *buf, uint64_t value)
{
    char digits[24];
    int len = snprintf(digits, sizeof(digits), "%" PRIu64, value);

    for (int i = 0; i < len; i++) {
        *buf++ = digits[i];
        if (i + 1 < len && (len - i - 1) % 3 == 0)
            *buf++ = ',';
    }
    *buf = '\0';
}

static void write_table(const struct vm *vm, const struct collector *c, FILE *f)
{
    const char *group = "";

    fprintf(f, "statistics of %s after %.3f s\n", vm->config.name, run_seconds(vm));
    for (size_t i = 0; i < c->count; i++) {
        const struct entry *e = &c->entries[i];
        char value[40];

        if (e->timed && !e->value) /* a reason that never occurred */
            continue;
        grouped(value, e->value);
        fprintf(f, "%-12s %-32s %20s", strcmp(group, e->group) ? e->group : "", e->name, value);
        if (e->timed)
            fprintf(f, " %12.6f s", (double)e->ns / NS_PER_SEC);
        fputc('\n', f);
        group = e->group;
    }
}

static int write_json(const struct vm *vm, const struct collector *c, FILE *f)
{
    json_t *root = json_pack("{s:s, s:f}", "name", vm->config.name, "seconds", run_seconds(vm));
    int error = root ? 0 : -ENOMEM;

    for (size_t i = 0; i < c->count && !error; i++) {
        const struct entry *e = &c->entries[i];
        json_t *group = json_object_get(root, e->group);
        json_t *value;

        if (!group) {
            group = json_object();
            error = json_object_set_new(root, e->group, group) ? -ENOMEM : 0;
        }
        value = e->timed ? json_pack("{s:I, s:I}", "count", (json_int_t)e->value, "ns", (json_int_t)e->ns)
                         : json_integer((json_int_t)e->value);
        if (!error && json_object_set_new(group, e->name, value) != 0)
            error = -ENOMEM;
    }
    if (!error && json_dumpf(root, f, JSON_INDENT(2)) != 0)
        error = -EIO;
    if (!error)
        fputc('\n', f);
    json_decref(root);
    return error;
}

void stats_add(struct vm *vm, struct stats_reporter *reporter)
{
    struct stats_reporter **link = &vm->reporters;

    while (*link)
        link = &(*link)->next;
    reporter->next = NULL;
    *link = reporter;
}

void stats_remove(struct vm *vm, struct stats_reporter *reporter)
{
    struct stats_reporter **link = &vm->reporters;

    while (*link && *link != reporter)
        link = &(*link)->next;
    if (*link)
        *link = reporter->next;
}

int stats_write(struct vm *vm, FILE *f, bool json, struct err *e)
{
    struct collector c = {.out = {.number = collect_number, .timed = collect_timed}};
    int error = 0;

    for (unsigned i = 0; i < vm->vcpu_count; i++)
        report_exits(vm->vcpus[i], &c.out);
    if (vm->engine->stats)
        vm->engine->stats(vm, &c.out);
    for (struct stats_reporter *r = vm->reporters; r; r = r->next)
        r->report(r->opaque, &c.out);
    if (c.failed)
        error = -ENOMEM;
    else if (json)
        error = write_json(vm, &c, f);
    else
        write_table(vm, &c, f);
    free(c.entries);
    if (error == -ENOMEM)
        return err_set(e, ENOMEM, "no memory to report the statistics");
    if (error || fflush(f) != 0 || ferror(f))
        return err_set(e, errno ? errno : EIO, "cannot write the statistics: %s", strerror(errno ? errno : EIO));
    return 0;
}
