/* Inside gdb: the debugger's session, and what its files (server, commands, breakpoints, run control, monitor) offer each other. */
#pragma once

#include <sys/types.h>

#include "cpu/vcpu.h"
#include "gdb/gdb.h"
#include "gdb/memory.h"
#include "gdb/packet.h"

/*
 * All of it is the loop thread's; on_stop() alone comes from vCPU threads and posts. The guest is looked at and changed only while all vCPUs
 * stand: while !running, each is held (vcpu_hold_all) with what it last met in vcpu->debug.
 */

/* A hardware breakpoint or a watched range as gdb asked for it; a range may take several of the CPU's points. */
struct gdb_point {
    gva_t gva;
    uint64_t len;
    enum vcpu_debug_kind kind;
};

struct gdb_breakpoint {
    gva_t gva;
    gpa_t gpa; /* of the INT3; without ENGINE_DEBUG_BREAKPOINTS */
    uint8_t original;
};

struct gdb_breakpoints {
    struct gdb_breakpoint soft[VCPU_DEBUG_BREAKPOINTS];
    unsigned soft_count;
    struct gdb_point hard[VCPU_DEBUG_POINTS];
    unsigned hard_count;
};

enum gdb_action { GDB_STAND, GDB_CONTINUE, GDB_STEP };

struct gdb {
    struct vm *vm;

    /* --- server.c: sockets --- */
    struct loop_fd listener, client; /* fd -1: none */
    char *socket_path;               /* to be removed; NULL: none */
    struct gdb_reader reader;
    uint8_t in[4096];
    size_t in_at, in_len;
    char out[2 * GDB_FRAME_MAX + 64];
    size_t out_at, out_len;
    char frame[GDB_FRAME_MAX]; /* the last one, in case that it is asked for again */
    size_t frame_len;
    bool no_ack, close_when_sent;

    /* --- commands.c --- */
    struct gdb_reply reply;
    bool knows_swbreak, knows_hwbreak; /* the client does */
    unsigned selected;                 /* vCPU of Hg: registers and memory */
    unsigned selected_run;             /* vCPU of Hc, or UINT32_MAX: all; for the old c and s */
    char *description;                 /* XML */

    /* --- run.c --- */
    bool running;        /* the vCPUs whose action is not GDB_STAND run */
    bool killed;         /* the client ended the VM, and expects no more of it */
    unsigned last;       /* vCPU of the last stop */
    char stop_reply[96]; /* to '?' */
    enum gdb_action action[VCPU_MAX];

    /* --- state.c --- */
    struct cpu_state *state; /* of vCPU state_of, as far as state_groups says; work space */
    unsigned state_of, state_groups;

    struct gdb_breakpoints breakpoints;
    struct vcpu_debug wish; /* work space of run.c */
};

/* --- server.c --- */

/* Frames and sends what is in g->reply. */
void gdb_send(struct gdb *);

/* --- commands.c --- */

/* Answers the packet in g->reader. */
void gdb_command(struct gdb *, const char *packet, size_t len);

/* --- state.c: the selected vCPU's state and memory, while !running --- */

/* At least these groups of the vCPU's state, or NULL. Valid until the guest runs or another vCPU's is asked for. */
struct cpu_state *gdb_state(struct gdb *, unsigned vcpu, unsigned groups);
/* Hands groups of what gdb_state() returned back to the vCPU. 0 or -errno; after a failure the state is fetched anew. */
int gdb_state_set(struct gdb *, unsigned groups);
void gdb_state_forget(struct gdb *);

/* By the selected vCPU's page tables, without the INT3s of breakpoints. Reads as much as there is: the count, or -errno when that is none. */
ssize_t gdb_memory_read(struct gdb *, gva_t gva, void *buf, size_t len);
/* All or nothing. 0 or -errno. */
int gdb_memory_write(struct gdb *, gva_t gva, const void *buf, size_t len);

/* --- breakpoints.c --- */

/* type: of the Z packets, 0 to 4. 0, -ENOTSUP where gdb may find another way, -ENOSPC, or -errno. Twice is once. */
int gdb_insert(struct gdb *, unsigned type, gva_t gva, uint64_t len);
int gdb_remove(struct gdb *, unsigned type, gva_t gva, uint64_t len);
void gdb_remove_all(struct gdb *);
/* The machine was reset: what was in memory is gone. */
void gdb_breakpoints_reset(struct gdb *);
/* Fills the breakpoints and points of a vCPU's wish. */
void gdb_breakpoints_wish(const struct gdb *, struct vcpu_debug *);
/* The range as gdb asked for it that the stop is about, or NULL when it is gone. */
const struct gdb_point *gdb_point_met(const struct gdb *, gva_t gva);
/* Takes INT3s out of bytes that were read at gpa, and puts those to be written behind them. */
void gdb_breakpoints_hide(const struct gdb *, gpa_t gpa, uint8_t *bytes, size_t len);
void gdb_breakpoints_overwritten(struct gdb *, gpa_t gpa, const uint8_t *bytes, size_t len);

/* --- run.c --- */

/* Tells run control that a client is there: all vCPUs are held. And that it is gone: breakpoints are removed, the guest runs. */
void gdb_attach(struct gdb *);
void gdb_detach(struct gdb *);
/* g->action is filled: lets them go. 0 or -errno, and then nothing runs. The stop is reported when it comes. */
int gdb_resume(struct gdb *);
/* Ctrl-C. */
void gdb_interrupt(struct gdb *);
void gdb_kill(struct gdb *);
/* The vm_debugger's. */
void gdb_on_stop(void *opaque, struct vcpu *);
void gdb_run_reset(struct gdb *);

/* --- monitor.c --- */

/* A line after "monitor": the answer's text, hexadecimal, into g->reply. */
void gdb_monitor(struct gdb *, const char *line);
