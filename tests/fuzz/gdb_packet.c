/* Fuzzes the debugger's packets: bytes of a client gone mad, over vCPUs that agree to everything and memory that the packets write to. */
#include <stdlib.h>
#include <string.h>

#include "base/bug.h"
#include "gdb/session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CPUS 3
#define FLAG_INT3 1 /* the engine wants its breakpoints in memory */
#define FLAG_LONG 2 /* paging is on, by tables that the packets can write */
#define FLAG_PAE 4  /* likewise */
#define STOP 1      /* a byte between packets: a vCPU meets something */

static struct {
    struct cpu_state state[CPUS];
    struct gdb_reader answer;
    unsigned released;
} seen;

/* --- what the session calls --- */

void gdb_send(struct gdb *g)
{
    size_t len = gdb_frame(&g->reply, g->frame);

    for (size_t i = 0; i < len; i++) {
        enum gdb_event event = gdb_reader_feed(&seen.answer, (uint8_t)g->frame[i]);

        BUG_ON(event != (i + 1 < len ? GDB_NOTHING : GDB_PACKET)); /* every answer is a packet */
    }
}

int vcpu_get_state(struct vcpu *vcpu, struct cpu_state *state, unsigned groups)
{
    (void)groups;
    *state = seen.state[vcpu->index];
    return 0;
}

int vcpu_set_state(struct vcpu *vcpu, const struct cpu_state *state, unsigned groups)
{
    (void)groups;
    seen.state[vcpu->index] = *state;
    return 0;
}

int vcpu_debug(struct vcpu *vcpu, const struct vcpu_debug *wish)
{
    (void)vcpu;
    if (!wish)
        return 0;
    BUG_ON(wish->point_count > VCPU_DEBUG_POINTS || wish->breakpoint_count > VCPU_DEBUG_BREAKPOINTS);
    for (unsigned i = 0; i < wish->point_count; i++)
        BUG_ON(!wish->point[i].len || wish->point[i].gva % wish->point[i].len);
    return 0;
}

void vcpu_hold_all(struct vm *vm)
{
    (void)vm;
}

void vcpu_release(struct vcpu *vcpu)
{
    (void)vcpu;
    seen.released++;
}

void vm_request_end(struct vm *vm, enum vm_end end, int value, const char *text)
{
    (void)vm, (void)end, (void)value, (void)text;
}

void loop_post(struct loop *loop, void (*fn)(void *), void *arg)
{
    (void)loop;
    fn(arg);
}

static int nmi(struct vcpu *vcpu)
{
    (void)vcpu;
    return 0;
}

/* --- the guest --- */

static void set_modes(unsigned flags)
{
    memset(&seen, 0, sizeof(seen));
    for (unsigned i = 0; i < CPUS; i++) {
        struct cpu_state *s = &seen.state[i];

        s->xcr0 = 7;
        s->cr0 = flags & (FLAG_LONG | FLAG_PAE) ? CR0_PE | CR0_PG : CR0_PE;
        s->cr4 = CR4_PAE;
        s->efer = flags & FLAG_LONG ? EFER_LME | EFER_LMA : 0;
    }
}

/* The first page maps itself, so that there is something to begin with. */
static void write_tables(struct mem *mem)
{
    static const uint64_t entry = 3;

    BUG_ON(mem_write(mem, 0, &entry, sizeof(entry)) != 0);
}

static void meet_something(struct gdb *g, uint8_t what)
{
    struct vcpu *vcpu = g->vm->vcpus[what % CPUS];

    if (!g->running)
        return;
    vcpu->debug = (struct vm_exit){.reason = VM_EXIT_DEBUG, .debug = {.stop = (enum vcpu_debug_stop)(what / 4 % 4), .gva = what}};
    atomic_store(&vcpu->debug_stopped, true);
    gdb_on_stop(g, vcpu);
}

static void talk(struct gdb *g, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (data[i] == STOP && g->reader.state == GDB_OUTSIDE) {
            meet_something(g, i + 1 < size ? data[i + 1] : 0);
            continue;
        }
        switch (gdb_reader_feed(&g->reader, data[i])) {
        case GDB_PACKET:
        case GDB_DAMAGED: gdb_command(g, g->reader.packet, g->reader.len); break; /* checksums are hard to guess */
        case GDB_INTERRUPT: gdb_interrupt(g); break;
        default: break;
        }
        BUG_ON(g->selected >= CPUS || g->last >= CPUS);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct vm vm;
    static struct vcpu vcpus[CPUS];
    static char name[] = "fuzzed";
    unsigned flags = size ? data[0] : 0;
    struct engine engine = {.name = "fuzz", .nmi = nmi};
    struct gdb *g = calloc(1, sizeof(*g));

    BUG_ON(!g);
    memset(&vm, 0, sizeof(vm));
    vm.config.name = name;
    engine.debug_caps = flags & FLAG_INT3 ? 0 : ENGINE_DEBUG_BREAKPOINTS | ENGINE_DEBUG_READS;
    vm.engine = &engine;
    vm.vcpu_count = CPUS;
    for (unsigned i = 0; i < CPUS; i++) {
        vcpus[i] = (struct vcpu){.vm = &vm, .index = i};
        vm.vcpus[i] = &vcpus[i];
    }
    BUG_ON(mem_init(&vm.mem, KIB(64), false, NULL) != 0);
    write_tables(&vm.mem);
    set_modes(flags);
    g->vm = &vm;
    g->client.fd = 0; /* somebody is there */
    g->state = aligned_alloc(_Alignof(struct cpu_state), ALIGN_UP(sizeof(*g->state), _Alignof(struct cpu_state)));
    g->description = strdup("<target/>");
    gdb_attach(g);
    if (size)
        talk(g, data + 1, size - 1);
    gdb_detach(g);
    BUG_ON(g->breakpoints.soft_count || g->breakpoints.hard_count || !g->running);
    mem_fini(&vm.mem);
    free(g->state);
    free(g->description);
    free(g);
    return 0;
}
