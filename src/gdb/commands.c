/* The packets that gdb sends, and their answers (GDB manual, appendix E). */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "gdb/registers.h"
#include "gdb/session.h"

#define MEMORY_MAX (GDB_PACKET_MAX / 2) /* bytes of one read: two digits each */

/* A handler takes what stands behind its word. True: g->reply is the answer; false: there is none now. */
typedef bool handler(struct gdb *, struct gdb_scan *);

/* --- answers --- */

static bool answer_error(struct gdb *g, int error)
{
    gdb_reply_clear(&g->reply);
    if (error != -ENOTSUP) /* of which an empty answer tells */
        gdb_reply_text(&g->reply, "E%02x", (unsigned)-error & 0xff);
    return true;
}

static bool answer(struct gdb *g, int error)
{
    if (error)
        return answer_error(g, error);
    gdb_reply_text(&g->reply, "OK");
    return true;
}

/* --- threads: vCPU n is thread n + 1 --- */

#define THREAD_ANY UINT32_MAX
#define THREAD_ALL (UINT32_MAX - 1)

static bool scan_thread(const struct gdb *g, struct gdb_scan *s, unsigned *vcpu)
{
    uint64_t id;

    if (gdb_scan_word(s, "-1")) {
        *vcpu = THREAD_ALL;
        return true;
    }
    if (!gdb_scan_number(s, &id) || id > g->vm->vcpu_count)
        return false;
    *vcpu = id ? (unsigned)id - 1 : THREAD_ANY;
    return true;
}

static bool select_thread(struct gdb *g, struct gdb_scan *s)
{
    bool run = gdb_scan_char(s, 'c');
    unsigned vcpu;

    if ((!run && !gdb_scan_char(s, 'g')) || !scan_thread(g, s, &vcpu) || !gdb_scan_done(s))
        return answer(g, -EINVAL);
    if (run)
        g->selected_run = vcpu >= VCPU_MAX ? UINT32_MAX : vcpu;
    else
        g->selected = vcpu >= VCPU_MAX ? g->last : vcpu;
    return answer(g, 0);
}

static bool thread_is_alive(struct gdb *g, struct gdb_scan *s)
{
    unsigned vcpu;

    return answer(g, scan_thread(g, s, &vcpu) && vcpu < VCPU_MAX ? 0 : -ENOENT);
}

static bool threads(struct gdb *g, struct gdb_scan *s)
{
    (void)s;
    for (unsigned i = 0; i < g->vm->vcpu_count; i++)
        gdb_reply_text(&g->reply, "%c%x", i ? ',' : 'm', i + 1);
    return true;
}

static bool no_more_threads(struct gdb *g, struct gdb_scan *s)
{
    (void)s;
    gdb_reply_text(&g->reply, "l");
    return true;
}

static bool current_thread(struct gdb *g, struct gdb_scan *s)
{
    (void)s;
    gdb_reply_text(&g->reply, "QC%x", g->selected + 1);
    return true;
}

static bool thread_extra(struct gdb *g, struct gdb_scan *s)
{
    const struct cpu_state *state;
    char text[64];
    unsigned vcpu;

    if (!scan_thread(g, s, &vcpu) || vcpu >= VCPU_MAX)
        return answer(g, -ENOENT);
    state = gdb_state(g, vcpu, CPU_SREGS | CPU_EVENTS);
    if (!state)
        return answer(g, -EIO);
    snprintf(text, sizeof(text), "CPU %u, %s", vcpu,
             state->wait_for_sipi               ? "not started"
             : state->halted                    ? "halted"
             : !(state->cr0 & CR0_PE)           ? "real mode"
             : SEG_DPL(state->seg[SEG_SS].attr) ? "user"
                                                : "kernel");
    gdb_reply_hex(&g->reply, text, strlen(text));
    return true;
}

/* --- registers --- */

static bool read_registers(struct gdb *g, struct gdb_scan *s)
{
    const struct cpu_state *state = gdb_state(g, g->selected, GDB_REGISTER_GROUPS);
    uint8_t bytes[GDB_REGISTER_BYTES];

    (void)s;
    if (!state)
        return answer(g, -EIO);
    for (unsigned n = 0; n < gdb_register_count(); n++)
        gdb_reply_hex(&g->reply, bytes, gdb_register_read(state, n, bytes));
    return true;
}

/* One value into the work copy of the state; *groups grows. */
static int write_one(struct cpu_state *state, unsigned number, struct gdb_scan *s, unsigned *groups)
{
    uint8_t bytes[GDB_REGISTER_BYTES] = {0};
    unsigned size = gdb_register_read(state, number, bytes), changed;
    int error = size && gdb_scan_hex(s, bytes, size) ? gdb_register_write(state, number, bytes, &changed) : -EINVAL;

    *groups |= error ? 0 : changed;
    return error;
}

static int hand_back(struct gdb *g, int error, unsigned groups)
{
    if (error)
        gdb_state_forget(g); /* what was changed of the copy is not to be */
    else if (groups)
        error = gdb_state_set(g, groups);
    return error;
}

static bool write_registers(struct gdb *g, struct gdb_scan *s)
{
    struct cpu_state *state = gdb_state(g, g->selected, GDB_REGISTER_GROUPS);
    unsigned groups = 0;
    int error = state ? 0 : -EIO;

    for (unsigned n = 0; n < gdb_register_count() && !error; n++)
        error = write_one(state, n, s, &groups);
    return answer(g, hand_back(g, error, groups));
}

static bool read_register(struct gdb *g, struct gdb_scan *s)
{
    const struct cpu_state *state = gdb_state(g, g->selected, GDB_REGISTER_GROUPS);
    uint8_t bytes[GDB_REGISTER_BYTES];
    unsigned size;
    uint64_t n;

    if (!gdb_scan_number(s, &n) || !gdb_scan_done(s))
        return answer(g, -EINVAL);
    if (!state)
        return answer(g, -EIO);
    size = n < gdb_register_count() ? gdb_register_read(state, (unsigned)n, bytes) : 0;
    if (!size)
        return answer(g, -ENOENT);
    gdb_reply_hex(&g->reply, bytes, size);
    return true;
}

static bool write_register(struct gdb *g, struct gdb_scan *s)
{
    struct cpu_state *state = gdb_state(g, g->selected, GDB_REGISTER_GROUPS);
    unsigned groups = 0;
    uint64_t n;
    int error;

    if (!gdb_scan_number(s, &n) || !gdb_scan_char(s, '=') || n >= gdb_register_count())
        return answer(g, -EINVAL);
    error = state ? write_one(state, (unsigned)n, s, &groups) : -EIO;
    return answer(g, hand_back(g, error, groups));
}

/* --- memory --- */

static bool scan_range(struct gdb_scan *s, uint64_t *gva, uint64_t *len)
{
    return gdb_scan_number(s, gva) && gdb_scan_char(s, ',') && gdb_scan_number(s, len);
}

static bool read_memory(struct gdb *g, struct gdb_scan *s)
{
    uint8_t bytes[MEMORY_MAX];
    uint64_t gva, len;
    ssize_t n;

    if (!scan_range(s, &gva, &len) || !gdb_scan_done(s))
        return answer(g, -EINVAL);
    n = gdb_memory_read(g, gva, bytes, MIN(len, sizeof(bytes)));
    if (n < 0)
        return answer(g, (int)n);
    gdb_reply_hex(&g->reply, bytes, (size_t)n);
    return true;
}

static bool write_memory_as(struct gdb *g, struct gdb_scan *s, bool (*scan)(struct gdb_scan *, void *, size_t))
{
    uint8_t bytes[GDB_PACKET_MAX];
    uint64_t gva, len;

    if (!scan_range(s, &gva, &len) || !gdb_scan_char(s, ':') || len > sizeof(bytes) || !scan(s, bytes, len) || !gdb_scan_done(s))
        return answer(g, -EINVAL);
    return answer(g, gdb_memory_write(g, gva, bytes, len));
}

static bool write_memory(struct gdb *g, struct gdb_scan *s)
{
    return write_memory_as(g, s, gdb_scan_hex);
}

static bool write_memory_binary(struct gdb *g, struct gdb_scan *s)
{
    return write_memory_as(g, s, gdb_scan_binary);
}

/* --- breakpoints --- */

static bool change_breakpoint(struct gdb *g, struct gdb_scan *s, int (*change)(struct gdb *, unsigned, gva_t, uint64_t))
{
    uint64_t type, gva, len;

    if (!gdb_scan_number(s, &type) || !gdb_scan_char(s, ',') || !scan_range(s, &gva, &len) || !gdb_scan_done(s) || type > 0xff)
        return answer(g, -EINVAL);
    return answer(g, change(g, (unsigned)type, gva, len));
}

static bool insert(struct gdb *g, struct gdb_scan *s)
{
    return change_breakpoint(g, s, gdb_insert);
}

static bool remove_one(struct gdb *g, struct gdb_scan *s)
{
    return change_breakpoint(g, s, gdb_remove);
}

/* --- running --- */

static bool resume(struct gdb *g)
{
    int error = gdb_resume(g);

    return error ? answer(g, error) : false;
}

static void set_actions(struct gdb *g, unsigned vcpu, enum gdb_action action, bool *set)
{
    for (unsigned i = 0; i < g->vm->vcpu_count; i++) {
        if (set[i] || (vcpu < VCPU_MAX && vcpu != i))
            continue;
        g->action[i] = action;
        set[i] = true;
        if (vcpu == THREAD_ANY)
            return;
    }
}

/* A signal's number is read and means nothing: machines have none. */
static bool scan_action(struct gdb_scan *s, enum gdb_action *action)
{
    uint64_t signal;
    bool with_signal = s->at < s->end && (*s->at == 'C' || *s->at == 'S');

    if (gdb_scan_char(s, 'c') || gdb_scan_char(s, 'C'))
        *action = GDB_CONTINUE;
    else if (gdb_scan_char(s, 's') || gdb_scan_char(s, 'S'))
        *action = GDB_STEP;
    else
        return false;
    return !with_signal || gdb_scan_number(s, &signal);
}

/* vCont[;ACTION[:THREAD]]...: the first action that fits a thread is its own. */
static bool resume_threads(struct gdb *g, struct gdb_scan *s)
{
    bool set[VCPU_MAX] = {false};

    memset(g->action, 0, sizeof(g->action));
    while (gdb_scan_char(s, ';')) {
        enum gdb_action action;
        unsigned vcpu = THREAD_ALL;

        if (!scan_action(s, &action) || (gdb_scan_char(s, ':') && !scan_thread(g, s, &vcpu)))
            return answer(g, -EINVAL);
        set_actions(g, vcpu, action, set);
    }
    return gdb_scan_done(s) ? resume(g) : answer(g, -EINVAL);
}

static bool can_resume(struct gdb *g, struct gdb_scan *s)
{
    (void)s;
    gdb_reply_text(&g->reply, "vCont;c;C;s;S");
    return true;
}

static int go_on_at(struct gdb *g, struct gdb_scan *s)
{
    struct cpu_state *state;
    uint64_t rip;

    if (gdb_scan_done(s))
        return 0;
    if (!gdb_scan_number(s, &rip) || !gdb_scan_done(s))
        return -EINVAL;
    state = gdb_state(g, g->selected, CPU_GPRS);
    if (!state)
        return -EIO;
    state->rip = rip;
    return gdb_state_set(g, CPU_GPRS);
}

/* The old c and s: the thread of Hc, or all, where a step is the stopped one's alone. */
static bool resume_plain(struct gdb *g, struct gdb_scan *s, enum gdb_action action)
{
    bool set[VCPU_MAX] = {false};
    int error = go_on_at(g, s);

    if (error)
        return answer(g, error);
    memset(g->action, 0, sizeof(g->action));
    if (g->selected_run != UINT32_MAX) {
        set_actions(g, g->selected_run, action, set);
    } else {
        if (action == GDB_STEP)
            set_actions(g, g->last, GDB_STEP, set);
        set_actions(g, THREAD_ALL, GDB_CONTINUE, set);
    }
    return resume(g);
}

static bool go_on(struct gdb *g, struct gdb_scan *s)
{
    return resume_plain(g, s, GDB_CONTINUE);
}

static bool step(struct gdb *g, struct gdb_scan *s)
{
    return resume_plain(g, s, GDB_STEP);
}

static bool resume_signal(struct gdb *g, struct gdb_scan *s, enum gdb_action action)
{
    uint64_t signal;

    if (!gdb_scan_number(s, &signal) || (!gdb_scan_done(s) && !gdb_scan_char(s, ';')))
        return answer(g, -EINVAL);
    return resume_plain(g, s, action);
}

static bool go_on_signal(struct gdb *g, struct gdb_scan *s)
{
    return resume_signal(g, s, GDB_CONTINUE);
}

static bool step_signal(struct gdb *g, struct gdb_scan *s)
{
    return resume_signal(g, s, GDB_STEP);
}

static bool stop_reason(struct gdb *g, struct gdb_scan *s)
{
    (void)s;
    gdb_reply_text(&g->reply, "%s", g->stop_reply);
    return true;
}

/* The client closes the connection then, or we do. */
static bool detach(struct gdb *g, struct gdb_scan *s)
{
    (void)s;
    gdb_detach(g);
    g->close_when_sent = true;
    return answer(g, 0);
}

static bool kill_vm(struct gdb *g, struct gdb_scan *s)
{
    (void)s;
    gdb_kill(g);
    return false;
}

static bool kill_process(struct gdb *g, struct gdb_scan *s)
{
    (void)s;
    gdb_kill(g);
    return answer(g, 0);
}

/* --- what the two ends can do --- */

static bool supported(struct gdb *g, struct gdb_scan *s)
{
    const char *features = s->at; /* ends in a 0 */

    g->knows_swbreak = strstr(features, "swbreak+") != NULL;
    g->knows_hwbreak = strstr(features, "hwbreak+") != NULL;
    gdb_reply_text(&g->reply, "PacketSize=%x;QStartNoAckMode+;vContSupported+;qXfer:features:read+;swbreak+;hwbreak+",
                   (unsigned)GDB_FRAME_MAX);
    return true;
}

/* From the next packet on; this one's answer is acknowledged for the last time. */
static bool no_acknowledgements(struct gdb *g, struct gdb_scan *s)
{
    (void)s;
    g->no_ack = true;
    return answer(g, 0);
}

static bool attached(struct gdb *g, struct gdb_scan *s)
{
    (void)s;
    gdb_reply_text(&g->reply, "1"); /* so that quitting gdb detaches, and does not kill */
    return true;
}

static bool describe_target(struct gdb *g, struct gdb_scan *s)
{
    size_t size = strlen(g->description);
    uint64_t off, len;

    if (!scan_range(s, &off, &len) || off > size)
        return answer(g, -EINVAL);
    len = MIN(len, size - off);
    gdb_reply_text(&g->reply, "l");
    if (gdb_reply_binary(&g->reply, g->description + off, len) < size - off)
        g->reply.data[0] = 'm';
    return true;
}

static bool monitor(struct gdb *g, struct gdb_scan *s)
{
    char line[256];
    size_t len = (size_t)(s->end - s->at) / 2;

    if (len >= sizeof(line) || !gdb_scan_hex(s, line, len) || !gdb_scan_done(s))
        return answer(g, -EINVAL);
    line[len] = '\0';
    gdb_monitor(g, line);
    return true;
}

/* --- the table --- */

/* The first row whose word begins the packet. whole: nothing may follow. */
static const struct command {
    const char *word;
    handler *handle;
    bool whole;
    bool any_time; /* while the guest runs, too */
} commands[] = {
    {"?", stop_reason, true, false},
    {"g", read_registers, true, false},
    {"G", write_registers, false, false},
    {"p", read_register, false, false},
    {"P", write_register, false, false},
    {"m", read_memory, false, false},
    {"M", write_memory, false, false},
    {"X", write_memory_binary, false, false},
    {"Z", insert, false, false},
    {"z", remove_one, false, false},
    {"H", select_thread, false, false},
    {"T", thread_is_alive, false, false},
    {"c", go_on, false, false},
    {"s", step, false, false},
    {"C", go_on_signal, false, false},
    {"S", step_signal, false, false},
    {"D", detach, true, true},
    {"k", kill_vm, true, true},
    {"vKill;", kill_process, false, true},
    {"vCont?", can_resume, true, true},
    {"vCont", resume_threads, false, false},
    {"qSupported", supported, false, true},
    {"QStartNoAckMode", no_acknowledgements, true, true},
    {"qXfer:features:read:target.xml:", describe_target, false, true},
    {"qfThreadInfo", threads, true, true},
    {"qsThreadInfo", no_more_threads, true, true},
    {"qThreadExtraInfo,", thread_extra, false, false},
    {"qC", current_thread, true, true},
    {"qAttached", attached, false, true},
    {"qRcmd,", monitor, false, false},
};

/* An unknown packet has an empty answer. */
static bool carry_out(struct gdb *g, struct gdb_scan *s)
{
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
        const struct command *c = &commands[i];
        struct gdb_scan rest = *s;

        if (!gdb_scan_word(&rest, c->word) || (c->whole && !gdb_scan_done(&rest)))
            continue;
        if (g->running && !c->any_time)
            return answer(g, -EBUSY);
        return c->handle(g, &rest);
    }
    return true;
}

void gdb_command(struct gdb *g, const char *packet, size_t len)
{
    struct gdb_scan s = {packet, packet + len};

    gdb_reply_clear(&g->reply);
    if (!carry_out(g, &s))
        return;
    if (g->reply.full)
        answer_error(g, -EOVERFLOW);
    gdb_send(g);
}
