/* The window of a VM's trace: many threads fill it, one opens, closes and reads it. */
#include "cpu/trace.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/bug.h"
#include "base/clock.h"

const char *const trace_kind_names[TRACE_KIND_COUNT] = {
    [TRACE_ENTRY] = "entry",         [TRACE_EXIT] = "exit",     [TRACE_KICK] = "kick", [TRACE_COMPLETION] = "completion",
    [TRACE_INTERRUPT] = "interrupt", [TRACE_INJECT] = "inject", [TRACE_FILL] = "fill",
};

void trace_add(struct trace *t, struct trace_event event, const char *who)
{
    event.ns = clock_monotonic_ns(); /* before the place is taken: a thread's own events come in order */
    if (who)
        snprintf(event.who, sizeof(event.who), "%s", who);
    atomic_fetch_add(&t->writers, 1);
    if (atomic_load(&t->open)) {
        unsigned long place = atomic_fetch_add(&t->next, 1);

        if (place < t->room)
            t->events[place] = event;
        if (place + 1 >= t->room)
            atomic_store(&t->open, false);
    }
    atomic_fetch_sub(&t->writers, 1);
}

unsigned long trace_count(const struct trace *t)
{
    return MIN(atomic_load(&t->next), t->room);
}

static size_t bytes(const struct trace *t)
{
    return t->room * sizeof(*t->events);
}

int trace_open(struct trace *t, unsigned long events, struct err *e)
{
    void *p;

    BUG_ON(events == 0 || events > TRACE_EVENTS_MAX);
    trace_free(t);
    p = mmap(NULL, events * sizeof(*t->events), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return err_set(e, ENOMEM, "no memory for a trace of %lu events", events);
    t->events = p;
    t->room = events;
    atomic_store(&t->next, 0);
    atomic_store(&t->open, true);
    return 0;
}

/* Threads take the time and then a place: neighbours may be the other way round. */
static int earlier(const void *a, const void *b)
{
    const struct trace_event *x = a, *y = b;

    return (x->ns > y->ns) - (x->ns < y->ns);
}

void trace_close(struct trace *t)
{
    atomic_store(&t->open, false);
    while (atomic_load(&t->writers))
        sched_yield();
    if (t->events)
        qsort(t->events, trace_count(t), sizeof(*t->events), earlier);
}

void trace_free(struct trace *t)
{
    trace_close(t);
    if (t->events)
        munmap(t->events, bytes(t));
    t->events = NULL;
    t->room = 0;
}
