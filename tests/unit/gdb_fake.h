/* A debugger's client on a socket, and a VM of some vCPUs whose engine runs until it is kicked or told to stop for the debugger. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "cpu/vcpu.h"
#include "gdb/gdb.h"

#define CPUS 3
#define PATIENCE_SECONDS 60

/* --- the engine --- */

struct fake_cpu {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool kicked, inside, leaves;
    struct vm_exit next; /* with leaves */
    struct cpu_state state;
    unsigned set_groups, entries, nmis;
    bool debugged; /* debug() has given a wish */
    struct vcpu_debug wish;
    int debug_error;
};

static struct fake_cpu fakes[CPUS];
static struct {
    unsigned count;
    gpa_t gpa;
    size_t len;
} fake_changed; /* code_changed */

static inline int fake_vcpu_init(struct vcpu *vcpu, struct err *e)
{
    struct fake_cpu *f = &fakes[vcpu->index];

    (void)e;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    vcpu->engine_data = f;
    return 0;
}

static inline void fake_vcpu_fini(struct vcpu *vcpu)
{
    vcpu->engine_data = NULL;
}

static inline int fake_run(struct vcpu *vcpu, struct vm_exit *exit)
{
    struct fake_cpu *f = vcpu->engine_data;

    pthread_mutex_lock(&f->lock);
    f->inside = true;
    f->entries++;
    pthread_cond_broadcast(&f->changed);
    while (!f->kicked && !f->leaves)
        pthread_cond_wait(&f->changed, &f->lock);
    if (f->leaves)
        *exit = f->next;
    else
        exit->reason = VM_EXIT_INTR;
    f->kicked = f->leaves = f->inside = false;
    pthread_mutex_unlock(&f->lock);
    return 0;
}

static inline void fake_kick(struct vcpu *vcpu)
{
    struct fake_cpu *f = vcpu->engine_data;

    pthread_mutex_lock(&f->lock);
    f->kicked = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

static inline int fake_get_state(struct vcpu *vcpu, struct cpu_state *state, unsigned groups)
{
    const struct fake_cpu *f = vcpu->engine_data;

    (void)groups;
    *state = f->state;
    return 0;
}

static inline int fake_set_state(struct vcpu *vcpu, const struct cpu_state *state, unsigned groups)
{
    struct fake_cpu *f = vcpu->engine_data;

    f->state = *state;
    f->set_groups = groups;
    return 0;
}

static inline int fake_debug(struct vcpu *vcpu, const struct vcpu_debug *wish)
{
    struct fake_cpu *f = vcpu->engine_data;

    if (f->debug_error)
        return f->debug_error;
    f->debugged = wish != NULL;
    f->wish = wish ? *wish : (struct vcpu_debug){0};
    return 0;
}

static inline int fake_nmi(struct vcpu *vcpu)
{
    struct fake_cpu *f = vcpu->engine_data;

    f->nmis++;
    return 0;
}

static inline void fake_code_changed(void *opaque, gpa_t gpa, size_t len)
{
    (void)opaque;
    fake_changed.count++;
    fake_changed.gpa = gpa;
    fake_changed.len = len;
}

/* --- the VM, its loop on a thread of its own, and the client --- */

struct test {
    struct vm vm;
    struct engine engine;
    struct gdb *gdb;
    pthread_t thread;
    bool looping;
    char folder[32], path[48];
    int client;
    bool acks; /* the client acknowledges, and wants to be */
    char reply[0x5000];
    size_t reply_len;
};

static inline void *loop_main(void *arg)
{
    struct test *t = arg;

    loop_run(t->vm.loop);
    return NULL;
}

static inline void loop_begin(struct test *t)
{
    assert_int_equal(pthread_create(&t->thread, NULL, loop_main, t), 0);
    t->looping = true;
}

/* After this the test's thread may do what only the loop's may. */
static inline void loop_end(struct test *t)
{
    if (!t->looping)
        return;
    loop_stop(t->vm.loop);
    pthread_join(t->thread, NULL);
    t->looping = false;
}

static inline struct test *session_new(unsigned caps, bool wait)
{
    struct test *t = aligned_alloc(64, ALIGN_UP(sizeof(*t), 64));
    struct err e;

    assert_non_null(t);
    memset(t, 0, sizeof(*t));
    memset(fakes, 0, sizeof(fakes));
    memset(&fake_changed, 0, sizeof(fake_changed));
    t->client = -1;
    strcpy(t->folder, "/tmp/umbra-test-XXXXXX");
    assert_non_null(mkdtemp(t->folder));
    snprintf(t->path, sizeof(t->path), "%s/gdb", t->folder);
    t->engine = (struct engine){.name = "fake",
                                .vcpu_init = fake_vcpu_init,
                                .vcpu_fini = fake_vcpu_fini,
                                .run = fake_run,
                                .kick = fake_kick,
                                .get_state = fake_get_state,
                                .set_state = fake_set_state,
                                .nmi = fake_nmi,
                                .debug = fake_debug,
                                .debug_caps = caps};
    vm_init(&t->vm);
    t->vm.engine = &t->engine;
    t->vm.loop = loop_new(&e);
    t->vm.config.name = t->folder;
    t->vm.config.gdb = (struct config_gdb){.kind = GDB_UNIX, .path = t->path, .wait = wait};
    bus_init(&t->vm.pio);
    bus_init(&t->vm.mmio);
    assert_int_equal(mem_init(&t->vm.mem, MIB(2), false, &e), 0);
    t->vm.mem.code_changed = fake_code_changed;
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(vcpu_new(&t->vm, i, &e), 0);
    if (gdb_new(&t->gdb, &t->vm, &e) != 0)
        fail_msg("%s", e.text);
    vcpu_resume_all(&t->vm, VM_HOLD_MACHINE);
    loop_begin(t);
    return t;
}

static inline void session_free(struct test *t)
{
    loop_end(t);
    gdb_free(t->gdb, 0);
    if (t->client >= 0)
        close(t->client);
    for (unsigned i = t->vm.vcpu_count; i-- > 0;)
        vcpu_free(t->vm.vcpus[i]);
    mem_fini(&t->vm.mem);
    bus_fini(&t->vm.mmio);
    bus_fini(&t->vm.pio);
    loop_free(t->vm.loop);
    vm_fini(&t->vm);
    rmdir(t->folder);
    free(t);
}

static inline int connect_client(const struct test *t)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval patience = {.tv_sec = PATIENCE_SECONDS};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strcpy(address.sun_path, t->path);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    return fd;
}

/* One byte; -1 when the other side has closed the connection. */
static inline int next_byte(struct test *t)
{
    uint8_t byte;
    ssize_t n = recv(t->client, &byte, 1, 0);

    if (n < 0 && errno == EAGAIN)
        fail_msg("no answer came");
    return n == 1 ? byte : -1;
}

static inline void send_raw(struct test *t, const char *bytes, size_t len)
{
    assert_int_equal(send(t->client, bytes, len, MSG_NOSIGNAL), (ssize_t)len);
}

static inline void send_packet(struct test *t, const char *contents, size_t len)
{
    static char frame[0x6000];
    uint8_t sum = 0;

    for (size_t i = 0; i < len; i++)
        sum = (uint8_t)(sum + (uint8_t)contents[i]);
    frame[0] = '$';
    memcpy(frame + 1, contents, len);
    snprintf(frame + 1 + len, 4, "#%02x", sum);
    send_raw(t, frame, len + 4);
    if (t->acks)
        assert_int_equal(next_byte(t), '+');
}

/* The next packet, into t->reply. */
static inline const char *receive(struct test *t)
{
    uint8_t sum = 0;
    char digits[3] = {0};
    int c;

    t->reply_len = 0;
    assert_int_equal(next_byte(t), '$');
    while ((c = next_byte(t)) != '#') {
        assert_true(c >= 0);
        sum = (uint8_t)(sum + c);
        t->reply[t->reply_len++] = (char)c;
    }
    t->reply[t->reply_len] = '\0';
    digits[0] = (char)next_byte(t);
    digits[1] = (char)next_byte(t);
    assert_int_equal(strtoul(digits, NULL, 16), sum);
    if (t->acks)
        send_raw(t, "+", 1);
    return t->reply;
}

static inline const char *ask(struct test *t, const char *packet)
{
    send_packet(t, packet, strlen(packet));
    return receive(t);
}

#define ANSWERS(t, packet, answer) assert_string_equal(ask(t, packet), answer)

/* Connects as gdb does. */
static inline void attach(struct test *t)
{
    t->client = connect_client(t);
    t->acks = true;
    ANSWERS(t, "QStartNoAckMode", "OK");
    t->acks = false;
    assert_non_null(strstr(ask(t, "qSupported:swbreak+;hwbreak+;vContSupported+"), "vContSupported+"));
}

static inline void command(struct test *t, const char *packet)
{
    send_packet(t, packet, strlen(packet));
}

/* --- what the vCPUs do --- */

static inline void wait_inside(unsigned n)
{
    struct fake_cpu *f = &fakes[n];

    pthread_mutex_lock(&f->lock);
    while (!f->inside)
        pthread_cond_wait(&f->changed, &f->lock);
    pthread_mutex_unlock(&f->lock);
}

static inline bool is_inside(unsigned n)
{
    bool inside;

    pthread_mutex_lock(&fakes[n].lock);
    inside = fakes[n].inside;
    pthread_mutex_unlock(&fakes[n].lock);
    return inside;
}

static inline void all_stand(void)
{
    for (unsigned i = 0; i < CPUS; i++)
        assert_false(is_inside(i));
}

static inline void all_run(void)
{
    for (unsigned i = 0; i < CPUS; i++)
        wait_inside(i);
}

/* vCPU n, which runs, leaves the guest for the debugger. */
static inline void stop_at(unsigned n, enum vcpu_debug_stop stop, gva_t gva)
{
    struct fake_cpu *f = &fakes[n];

    wait_inside(n);
    pthread_mutex_lock(&f->lock);
    f->next = (struct vm_exit){.reason = VM_EXIT_DEBUG, .debug = {.stop = stop, .gva = gva}};
    f->leaves = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}
