/* Run control: which vCPUs run and which stand, and what the client is told when one stops. */
#include <errno.h>
#include <stdio.h>

#include "gdb/session.h"

/* As gdb numbers signals. */
#define SIGNAL_INT 2
#define SIGNAL_TRAP 5

/* --- stops --- */

static void set_stop_reply(struct gdb *g, unsigned vcpu, unsigned signal, const char *why)
{
    g->last = g->selected = vcpu;
    snprintf(g->stop_reply, sizeof(g->stop_reply), "T%02xthread:%x;%s", signal, vcpu + 1, why);
}

/* Why vcpu left the guest, as the client understands it. */
static void describe(const struct gdb *g, const struct vcpu *vcpu, char *why, size_t size)
{
    static const char *const names[] = {
        [VCPU_DEBUG_EXECUTE] = "hwbreak", [VCPU_DEBUG_WRITE] = "watch", [VCPU_DEBUG_READ] = "rwatch", [VCPU_DEBUG_ACCESS] = "awatch"};
    const struct gdb_point *p;

    why[0] = '\0';
    switch (vcpu->debug.debug.stop) {
    case DEBUG_STOP_STEP: break;
    case DEBUG_STOP_BREAKPOINT: snprintf(why, size, "%s", g->knows_swbreak ? "swbreak:;" : ""); break;
    case DEBUG_STOP_EXECUTE: snprintf(why, size, "%s", g->knows_hwbreak ? "hwbreak:;" : ""); break;
    case DEBUG_STOP_WATCH:
        p = gdb_point_met(g, vcpu->debug.debug.gva);
        if (p)
            snprintf(why, size, "%s:%llx;", names[p->kind], (unsigned long long)vcpu->debug.debug.gva);
        break;
    }
}

static void report(struct gdb *g)
{
    gdb_reply_clear(&g->reply);
    gdb_reply_text(&g->reply, "%s", g->stop_reply);
    gdb_send(g);
}

static void report_stop(struct gdb *g, struct vcpu *vcpu)
{
    char why[48];

    describe(g, vcpu, why, sizeof(why));
    set_stop_reply(g, vcpu->index, SIGNAL_TRAP, why);
    atomic_store(&vcpu->debug_stopped, false);
    report(g);
}

/* A vCPU that met something, in turn, so that none is kept from telling by the others; or NULL. */
static struct vcpu *find_stopped(struct gdb *g)
{
    for (unsigned n = 1; n <= g->vm->vcpu_count; n++) {
        struct vcpu *vcpu = g->vm->vcpus[(g->last + n) % g->vm->vcpu_count];

        if (atomic_load(&vcpu->debug_stopped))
            return vcpu;
    }
    return NULL;
}

/*
 * Several may stop at the same time, and one is reported. The others' breakpoints are met once more when they run again, as nothing was
 * executed. A watchpoint's instruction is done: it is kept for the next time.
 */
static void forget_others(struct gdb *g)
{
    for (unsigned i = 0; i < g->vm->vcpu_count; i++)
        if (g->vm->vcpus[i]->debug.debug.stop != DEBUG_STOP_WATCH)
            atomic_store(&g->vm->vcpus[i]->debug_stopped, false);
}

static void stop_all(struct gdb *g)
{
    vcpu_hold_all(g->vm);
    g->running = false;
    gdb_state_forget(g);
}

/* Posted by on_stop(): somebody has stopped, if nobody else has taken care of it since. */
static void take_stop(void *opaque)
{
    struct gdb *g = opaque;
    struct vcpu *vcpu;

    if (!g->running || g->client.fd < 0 || !find_stopped(g))
        return;
    stop_all(g);
    vcpu = find_stopped(g);
    report_stop(g, vcpu);
    forget_others(g);
}

void gdb_on_stop(void *opaque, struct vcpu *vcpu)
{
    struct gdb *g = opaque;

    (void)vcpu;
    loop_post(g->vm->loop, take_stop, g);
}

void gdb_interrupt(struct gdb *g)
{
    struct vcpu *vcpu;

    if (!g->running)
        return;
    stop_all(g);
    vcpu = find_stopped(g);
    if (vcpu) {
        report_stop(g, vcpu);
    } else {
        set_stop_reply(g, g->last, SIGNAL_INT, "");
        report(g);
    }
    forget_others(g);
}

/* --- going on --- */

/* A watchpoint that was met beside the stop before, and is still there, before anything runs. */
static struct vcpu *find_kept(struct gdb *g)
{
    for (unsigned i = 0; i < g->vm->vcpu_count; i++) {
        struct vcpu *vcpu = g->vm->vcpus[i];

        if (g->action[i] != GDB_STAND && atomic_load(&vcpu->debug_stopped) && gdb_point_met(g, vcpu->debug.debug.gva))
            return vcpu;
    }
    return NULL;
}

static int arm(struct gdb *g, unsigned vcpu)
{
    g->wish.single_step = g->action[vcpu] == GDB_STEP;
    gdb_breakpoints_wish(g, &g->wish);
    return vcpu_debug(g->vm->vcpus[vcpu], &g->wish);
}

static void let_go(struct gdb *g)
{
    gdb_state_forget(g);
    g->running = true;
    for (unsigned i = 0; i < g->vm->vcpu_count; i++)
        if (g->action[i] != GDB_STAND)
            vcpu_release(g->vm->vcpus[i]);
}

int gdb_resume(struct gdb *g)
{
    struct vcpu *kept = find_kept(g);
    unsigned count = 0;

    for (unsigned i = 0; i < g->vm->vcpu_count; i++) {
        int error = g->action[i] == GDB_STAND ? 0 : arm(g, i);

        if (error)
            return error;
        count += g->action[i] != GDB_STAND;
    }
    if (!count)
        return -EINVAL;
    if (kept) {
        report_stop(g, kept);
        return 0;
    }
    for (unsigned i = 0; i < g->vm->vcpu_count; i++)
        if (g->action[i] != GDB_STAND)
            atomic_store(&g->vm->vcpus[i]->debug_stopped, false);
    let_go(g);
    return 0;
}

/* --- coming and going --- */

void gdb_attach(struct gdb *g)
{
    stop_all(g);
    g->selected_run = UINT32_MAX;
    set_stop_reply(g, 0, SIGNAL_TRAP, "");
}

void gdb_detach(struct gdb *g)
{
    stop_all(g);
    gdb_remove_all(g);
    for (unsigned i = 0; i < g->vm->vcpu_count; i++) {
        atomic_store(&g->vm->vcpus[i]->debug_stopped, false);
        vcpu_debug(g->vm->vcpus[i], NULL);
        g->action[i] = GDB_CONTINUE;
    }
    let_go(g);
}

void gdb_kill(struct gdb *g)
{
    g->killed = true;
    vm_request_end(g->vm, VM_END_QUIT, 0, "the debugger ended the VM");
}

/* A vCPU that had stopped, and was not reported yet, is at the reset vector now, and goes on as the others do. */
void gdb_run_reset(struct gdb *g)
{
    gdb_breakpoints_reset(g);
    gdb_state_forget(g);
    for (unsigned i = 0; i < g->vm->vcpu_count; i++)
        atomic_store(&g->vm->vcpus[i]->debug_stopped, false);
    if (g->running)
        let_go(g);
}
