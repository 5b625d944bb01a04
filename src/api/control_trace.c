/* A client's trace of the VM: a window that it opens, and reads when that is full, when its time is over, or when the client says so. */
#include <errno.h>
#include <jansson.h>

#include "api/control.h"
#include "base/clock.h"

#define EVENTS_AT_ONCE 500 /* in an answer: some 50 KiB */

static struct trace *trace_of(struct control *c)
{
    return &c->machine->vm.trace;
}

static void close_window(struct control *c)
{
    if (c->trace_closed)
        return;
    loop_timer_cancel(&c->trace_end);
    trace_close(trace_of(c));
    c->trace_closed = true;
}

static void on_trace_end(struct loop_timer *timer)
{
    close_window(container_of(timer, struct control, trace_end));
}

int control_trace_open(struct control_client *client, unsigned long events, unsigned ms, struct err *e)
{
    struct control *c = client->control;
    int error;

    if (c->tracer && c->tracer != client)
        return err_set(e, EBUSY, "somebody else is tracing %s: there is one trace at a time", c->name);
    control_trace_detach(client);
    error = trace_open(trace_of(c), events, e);
    if (error)
        return error;
    c->tracer = client;
    c->trace_closed = false;
    loop_timer_init(c->machine->vm.loop, &c->trace_end, on_trace_end);
    loop_timer_set(&c->trace_end, clock_monotonic_ns() + ms * NS_PER_MS);
    return 0;
}

void control_trace_detach(struct control_client *client)
{
    struct control *c = client->control;

    if (c->tracer != client)
        return;
    loop_timer_cancel(&c->trace_end);
    trace_free(trace_of(c));
    c->tracer = NULL;
}

/* NULL for want of memory. */
static json_t *event_json(const struct trace_event *t)
{
    json_int_t ns = (json_int_t)t->ns, address = (json_int_t)t->address;
    const char *name = trace_kind_names[t->kind];

    switch (t->kind) {
    case TRACE_EXIT:
        return json_pack("{s:I, s:s, s:i, s:s, s:I}", "ns", ns, "event", name, "cpu", t->number, "reason", vm_exit_names[t->reason],
                         "address", address);
    case TRACE_KICK: return json_pack("{s:I, s:s, s:s, s:i}", "ns", ns, "event", name, "device", t->who, "queue", t->number);
    case TRACE_COMPLETION:
        return json_pack("{s:I, s:s, s:s, s:i, s:b}", "ns", ns, "event", name, "device", t->who, "queue", t->number, "interrupt",
                         (int)t->data);
    case TRACE_INTERRUPT:
        return json_pack("{s:I, s:s, s:s, s:I, s:I, s:i}", "ns", ns, "event", name, "device", t->who, "address", address, "data",
                         (json_int_t)t->data, "vector", (int)(t->data & 0xff));
    case TRACE_INJECT: return json_pack("{s:I, s:s, s:i, s:i}", "ns", ns, "event", name, "cpu", t->number, "vector", (int)t->data);
    case TRACE_FILL:
        return json_pack("{s:I, s:s, s:i, s:I, s:I}", "ns", ns, "event", name, "cpu", t->number, "address", address, "page",
                         (json_int_t)t->data << PAGE_SHIFT);
    default: return json_pack("{s:I, s:s, s:i}", "ns", ns, "event", name, "cpu", t->number);
    }
}

/* Takes the events. */
static int put_events(const struct trace *t, unsigned long from, json_t *events, json_t *answer, struct err *e)
{
    unsigned long end = MIN(trace_count(t), from + EVENTS_AT_ONCE);
    int error = 0;

    for (unsigned long i = from; i < end && !error; i++)
        error = json_array_append_new(events, event_json(&t->events[i]));
    if (json_object_set_new(answer, "events", events) != 0)
        error = -1;
    return error ? err_set(e, ENOMEM, "the VM's process has no memory for the answer") : 0;
}

int control_trace_read(struct control_client *client, unsigned long from, bool end, json_t *answer, struct err *e)
{
    struct control *c = client->control;
    const struct trace *t = trace_of(c);
    json_t *more;
    int error;

    if (c->tracer != client)
        return err_set(e, EINVAL, "this connection has no trace: 'trace' begins one");
    if (end || !trace_is_open(t))
        close_window(c);
    more = json_pack("{s:b, s:I}", "open", !c->trace_closed, "count", (json_int_t)trace_count(t));
    error = more ? json_object_update(answer, more) : -1;
    json_decref(more);
    if (error)
        return err_set(e, ENOMEM, "the VM's process has no memory for the answer");
    return c->trace_closed ? put_events(t, from, json_array(), answer, e) : 0;
}
