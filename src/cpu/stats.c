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

/* In the guest itself: without accesses that the engine carries out and without its sleep, which are counted as exits. */
static uint64_t guest_ns(const struct vcpu *vcpu)
{
    uint64_t entered = atomic_load_explicit(&vcpu->entered_ns, memory_order_relaxed);
    uint64_t run = atomic_load_explicit(&vcpu->run_ns, memory_order_relaxed) + (entered ? clock_monotonic_ns() - entered : 0);
    uint64_t other = atomic_load_explicit(&vcpu->access_ns, memory_order_relaxed) +
                     atomic_load_explicit(&vcpu->exit_ns[VM_EXIT_HLT], memory_order_relaxed);

    return run > other ? run - other : 0; /* accesses are extrapolated from a sample */
}

static void report_exits(const struct vcpu *vcpu, struct stats_out *out)
{
    char group[32];

    snprintf(group, sizeof(group), "vcpu%u", vcpu->index);
    out->timed(out, group, "guest", atomic_load_explicit(&vcpu->entries, memory_order_relaxed), guest_ns(vcpu));
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

static json_t *make_json(const struct vm *vm, const struct collector *c)
{
    json_t *root = json_pack("{s:s, s:f}", "name", vm->config.name, "seconds", run_seconds(vm));
    bool failed = !root;

    for (size_t i = 0; i < c->count && !failed; i++) {
        const struct entry *e = &c->entries[i];
        json_t *group = json_object_get(root, e->group);
        json_t *value;

        if (!group) {
            group = json_object();
            failed = json_object_set_new(root, e->group, group) != 0;
        }
        value = e->timed ? json_pack("{s:I, s:I}", "count", (json_int_t)e->value, "ns", (json_int_t)e->ns)
                         : json_integer((json_int_t)e->value);
        if (failed)
            json_decref(value);
        else
            failed = json_object_set_new(group, e->name, value) != 0;
    }
    if (failed) {
        json_decref(root);
        return NULL;
    }
    return root;
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

/* What everybody reports. -ENOMEM; the entries are the caller's to free in any case. */
static int ask_all(struct vm *vm, struct collector *c)
{
    *c = (struct collector){.out = {.number = collect_number, .timed = collect_timed}};
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        report_exits(vm->vcpus[i], &c->out);
    if (vm->engine->stats)
        vm->engine->stats(vm, &c->out);
    for (struct stats_reporter *r = vm->reporters; r; r = r->next)
        r->report(r->opaque, &c->out);
    return c->failed ? -ENOMEM : 0;
}

static int no_memory(struct err *e)
{
    return err_set(e, ENOMEM, "no memory to report the statistics");
}

int stats_json(struct vm *vm, json_t **json, struct err *e)
{
    struct collector c;

    *json = ask_all(vm, &c) == 0 ? make_json(vm, &c) : NULL;
    free(c.entries);
    return *json ? 0 : no_memory(e);
}

static int write_json(struct vm *vm, FILE *f, struct err *e)
{
    json_t *root;
    int error = stats_json(vm, &root, e);

    if (error)
        return error;
    json_dumpf(root, f, JSON_INDENT(2)); /* the file remembers an error */
    fputc('\n', f);
    json_decref(root);
    return 0;
}

int stats_write(struct vm *vm, FILE *f, bool json, struct err *e)
{
    struct collector c = {0};
    int error = json ? write_json(vm, f, e) : ask_all(vm, &c);

    if (!json && error)
        error = no_memory(e);
    else if (!json)
        write_table(vm, &c, f);
    free(c.entries);
    if (error)
        return error;
    if (fflush(f) != 0 || ferror(f))
        return err_set(e, errno ? errno : EIO, "cannot write the statistics: %s", strerror(errno ? errno : EIO));
    return 0;
}
