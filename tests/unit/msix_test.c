/* MSI-X: the capability, messages, masks of vector and function, pending bits, the table's bytes, saved state. */
#include "pci_fake.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include "pci/msix.h"

#define SLOT 4
#define VECTORS 70
#define TABLE 0x1000
#define PBA 0x2000

#define CONTROL 2
#define ENABLE 0x8000
#define FUNCTION_MASK 0x4000
#define MASTER_ON (PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)

struct unit {
    struct fake_pci pci;
    struct fake_function fn;
    struct msix msix;
};

struct fixture {
    struct unit a, b;
};

static void on_config_written(void *opaque, unsigned off, unsigned size)
{
    struct unit *u = opaque;

    msix_config_written(&u->msix, off, size);
}

static void unit_start(struct unit *u, unsigned vectors)
{
    static const struct pci_device_ops ops = {.config_written = on_config_written};

    fake_pci_start(&u->pci);
    fake_function_init(&u->fn, &ops, u);
    fake_add_bar(&u->fn, 1, PCI_BAR_MEM32, KIB(16), 0);
    msix_init(&u->msix, &u->fn.dev, vectors, 1, TABLE, PBA);
    fake_attach(&u->pci, &u->fn, SLOT);
}

static void unit_stop(struct unit *u)
{
    pci_detach(&u->fn.dev);
    msix_fini(&u->msix);
    fake_pci_stop(&u->pci);
}

static void set_control(struct unit *u, uint32_t control)
{
    config_put(&u->pci, SLOT, u->msix.capability + CONTROL, 2, control);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    fake_start(0);
    unit_start(&f->a, VECTORS);
    unit_start(&f->b, VECTORS);
    config_put(&f->a.pci, SLOT, PCI_COMMAND, 2, MASTER_ON);
    set_control(&f->a, ENABLE);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    unit_stop(&f->b);
    unit_stop(&f->a);
    free(f);
    return 0;
}

/* As a driver does: the message, then the mask. */
static void set_vector(struct unit *u, unsigned v, bool masked)
{
    msix_table_write(&u->msix, 16 * v, 4, 0xfee01000 + 4 * v);
    msix_table_write(&u->msix, 16 * v + 4, 4, 0);
    msix_table_write(&u->msix, 16 * v + 8, 4, 0x40 + v);
    msix_table_write(&u->msix, 16 * v + 12, 4, masked);
}

static void set_mask(struct unit *u, unsigned v, bool masked)
{
    msix_table_write(&u->msix, 16 * v + 12, 4, masked);
}

static bool pending(struct unit *u, unsigned v)
{
    return msix_pba_read(&u->msix, v / 64 * 8, 8) >> (v % 64) & 1;
}

/* Exactly one more message was sent, that of v. */
static void assert_sent(struct unit *u, unsigned sent_before, unsigned v)
{
    assert_int_equal(u->pci.sent, sent_before + 1);
    assert_true(u->pci.message[sent_before].addr == 0xfee01000 + 4 * v);
    assert_int_equal(u->pci.message[sent_before].data, 0x40 + v);
}

static void the_capability_tells_size_and_places(void **state)
{
    struct fixture *f = *state;
    unsigned at = f->b.msix.capability;

    assert_int_equal(config_get(&f->b.pci, SLOT, at, 1), 0x11);
    assert_int_equal(config_get(&f->b.pci, SLOT, at + 2, 2), VECTORS - 1);
    assert_int_equal(config_get(&f->b.pci, SLOT, at + 4, 4), TABLE | 1);
    assert_int_equal(config_get(&f->b.pci, SLOT, at + 8, 4), PBA | 1);
    assert_false(msix_enabled(&f->b.msix));
    for (unsigned off = at; off < at + 12; off += 4)
        config_put(&f->b.pci, SLOT, off, 4, 0xffffffff);
    assert_int_equal(config_get(&f->b.pci, SLOT, at + 2, 2), (VECTORS - 1) | ENABLE | FUNCTION_MASK);
    assert_int_equal(config_get(&f->b.pci, SLOT, at + 4, 4), TABLE | 1);
    assert_int_equal(config_get(&f->b.pci, SLOT, at + 8, 4), PBA | 1);
    assert_true(msix_enabled(&f->b.msix));
}

static void every_vector_is_masked_after_reset(void **state)
{
    struct fixture *f = *state;

    for (unsigned round = 0; round < 2; round++) {
        for (unsigned v = 0; v < VECTORS; v++) {
            assert_true(msix_table_read(&f->a.msix, 16 * v, 8) == 0);
            assert_true(msix_table_read(&f->a.msix, 16 * v + 8, 8) == 1ULL << 32);
            assert_false(pending(&f->a, v));
            set_vector(&f->a, v, v % 2);
            msix_notify(&f->a.msix, v);
        }
        msix_reset(&f->a.msix);
    }
}

static void a_vector_sends_its_own_message(void **state)
{
    struct fixture *f = *state;

    for (unsigned v = 0; v < VECTORS; v++) {
        unsigned before = f->a.pci.sent;

        set_vector(&f->a, v, false);
        msix_notify(&f->a.msix, v);
        assert_sent(&f->a, before, v);
        assert_false(pending(&f->a, v));
    }
    msix_table_write(&f->a.msix, 4, 4, 0x12);
    msix_notify(&f->a.msix, 0);
    assert_true(f->a.pci.message[VECTORS].addr == 0x12fee01000);
}

static void nothing_is_sent_while_disabled_or_out_of_range(void **state)
{
    struct fixture *f = *state;

    set_vector(&f->a, 0, false);
    msix_notify(&f->a.msix, VECTORS);
    msix_notify(&f->a.msix, MSIX_NO_VECTOR);
    msix_notify(&f->a.msix, UINT32_MAX);
    set_control(&f->a, 0);
    msix_notify(&f->a.msix, 0);
    set_control(&f->a, FUNCTION_MASK);
    msix_notify(&f->a.msix, 0);
    set_control(&f->a, ENABLE);
    assert_int_equal(f->a.pci.sent, 0);
    assert_false(pending(&f->a, 0));
}

static void a_masked_vector_is_pending_until_unmasked(void **state)
{
    struct fixture *f = *state;
    static const unsigned vectors[] = {0, 1, 63, 64, VECTORS - 1};

    for (unsigned i = 0; i < ARRAY_SIZE(vectors); i++) {
        unsigned v = vectors[i], before = f->a.pci.sent;

        set_vector(&f->a, v, true);
        msix_notify(&f->a.msix, v);
        msix_notify(&f->a.msix, v);
        assert_int_equal(f->a.pci.sent, before);
        for (unsigned n = 0; n < VECTORS; n++)
            assert_int_equal(pending(&f->a, n), n == v);
        set_mask(&f->a, v, true);
        assert_int_equal(f->a.pci.sent, before);
        set_mask(&f->a, v, false);
        assert_sent(&f->a, before, v); /* once, however often it was asked for */
        assert_false(pending(&f->a, v));
        set_mask(&f->a, v, true);
        set_mask(&f->a, v, false);
        assert_int_equal(f->a.pci.sent, before + 1);
    }
}

static void the_function_mask_holds_back_all(void **state)
{
    struct fixture *f = *state;

    set_vector(&f->a, 2, false);
    set_vector(&f->a, 66, false);
    set_vector(&f->a, 5, true);
    set_control(&f->a, ENABLE | FUNCTION_MASK);
    msix_notify(&f->a.msix, 2);
    msix_notify(&f->a.msix, 66);
    msix_notify(&f->a.msix, 5);
    set_mask(&f->a, 2, false); /* no unmasking for the function */
    assert_int_equal(f->a.pci.sent, 0);
    assert_true(pending(&f->a, 2) && pending(&f->a, 66) && pending(&f->a, 5));
    set_control(&f->a, ENABLE);
    assert_int_equal(f->a.pci.sent, 2);
    assert_int_equal(f->a.pci.message[0].data, 0x42);
    assert_int_equal(f->a.pci.message[1].data, 0x40 + 66);
    assert_true(!pending(&f->a, 2) && !pending(&f->a, 66) && pending(&f->a, 5));
}

static void a_message_waits_for_bus_master(void **state)
{
    struct fixture *f = *state;

    set_vector(&f->a, 2, false);
    config_put(&f->a.pci, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    msix_notify(&f->a.msix, 2);
    assert_int_equal(f->a.pci.sent, 0);
    assert_true(pending(&f->a, 2));
    config_put(&f->a.pci, SLOT, PCI_COMMAND, 2, MASTER_ON);
    assert_sent(&f->a, 0, 2);
}

static void disabling_forgets_what_is_pending(void **state)
{
    struct fixture *f = *state;

    set_vector(&f->a, 2, true);
    msix_notify(&f->a.msix, 2);
    set_control(&f->a, 0);
    assert_false(pending(&f->a, 2));
    set_control(&f->a, ENABLE);
    set_mask(&f->a, 2, false);
    assert_int_equal(f->a.pci.sent, 0);
}

static void writes_elsewhere_in_configuration_space_send_nothing(void **state)
{
    struct fixture *f = *state;

    set_vector(&f->a, 2, true);
    msix_notify(&f->a.msix, 2);
    config_put(&f->a.pci, SLOT, PCI_INTERRUPT_LINE, 1, 3);
    config_put(&f->a.pci, SLOT, f->a.msix.capability + 4, 4, 0);
    assert_true(pending(&f->a, 2));
    assert_int_equal(f->a.pci.sent, 0);
}

static void a_change_of_the_message_while_pending_counts(void **state)
{
    struct fixture *f = *state;

    set_vector(&f->a, 2, true);
    msix_notify(&f->a.msix, 2);
    msix_table_write(&f->a.msix, 16 * 2, 8, 0x1fee02003ULL);
    msix_table_write(&f->a.msix, 16 * 2 + 8, 8, 0x99); /* data and unmasking at once */
    assert_int_equal(f->a.pci.sent, 1);
    assert_true(f->a.pci.message[0].addr == 0x1fee02000ULL); /* the two lowest bits are 0 */
    assert_int_equal(f->a.pci.message[0].data, 0x99);
}

static void the_table_keeps_what_is_writable(void **state)
{
    struct fixture *f = *state;
    struct msix *m = &f->a.msix;

    set_control(&f->a, 0);
    for (unsigned off = 0; off < 16 * VECTORS; off += 8)
        msix_table_write(m, off, 8, UINT64_MAX);
    for (unsigned off = 0; off < 16 * VECTORS; off += 16) {
        assert_true(msix_table_read(m, off, 8) == 0xfffffffffffffffcULL);
        assert_true(msix_table_read(m, off + 8, 8) == 0x00000001ffffffffULL);
        assert_int_equal(msix_table_read(m, off + 12, 4), 1);
    }
    msix_table_write(m, 16 + 9, 1, 0x12);
    msix_table_write(m, 16 + 10, 2, 0x3456);
    assert_int_equal(msix_table_read(m, 16 + 8, 4), 0x345612ff);
    msix_table_write(m, 16 + 14, 4, 0xaabb0000); /* into the next entry */
    assert_int_equal(msix_table_read(m, 32, 4), 0xffffaab8);
    assert_int_equal(msix_table_read(m, 16 + 12, 4), 1);
}

static void nothing_lies_beyond_the_table(void **state)
{
    struct fixture *f = *state;
    struct msix *m = &f->a.msix;
    struct msix_state before;

    msix_table_write(m, 16 * VECTORS - 4, 4, 1);
    before = m->state;
    msix_table_write(m, 16 * VECTORS - 1, 8, UINT64_MAX << 8); /* of which the first byte is the last entry's */
    msix_table_write(m, 16 * VECTORS, 4, UINT32_MAX);
    msix_table_write(m, UINT64_MAX, 8, UINT64_MAX);
    assert_memory_equal(&m->state, &before, sizeof(before));
    assert_true(msix_table_read(m, 16 * VECTORS - 4, 8) == 1);
    assert_true(msix_table_read(m, 16 * VECTORS, 8) == 0);
    assert_true(msix_table_read(m, UINT64_MAX, 8) == 0);
    assert_true(msix_pba_read(m, 8, 8) == 0);
    assert_true(msix_pba_read(m, 16, 8) == 0);
    assert_true(msix_pba_read(m, UINT64_MAX - 3, 8) == 0);
}

static void the_pending_bits_are_read_in_any_size(void **state)
{
    struct fixture *f = *state;

    set_vector(&f->a, 41, true);
    msix_notify(&f->a.msix, 41);
    assert_true(msix_pba_read(&f->a.msix, 0, 8) == BIT(41));
    assert_int_equal(msix_pba_read(&f->a.msix, 4, 4), 1 << 9);
    assert_int_equal(msix_pba_read(&f->a.msix, 5, 1), 1 << 1);
    assert_int_equal(msix_pba_read(&f->a.msix, 0, 4), 0);
}

static void one_vector_and_256_work(void **state)
{
    static const unsigned counts[] = {1, MSIX_MAX};
    struct unit *u = calloc(1, sizeof(*u));

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
        unsigned last = counts[i] - 1;

        unit_start(u, counts[i]);
        config_put(&u->pci, SLOT, PCI_COMMAND, 2, MASTER_ON);
        set_control(u, ENABLE);
        assert_int_equal(config_get(&u->pci, SLOT, u->msix.capability + CONTROL, 2), ENABLE | last);
        set_vector(u, last, true);
        msix_notify(&u->msix, last + 1);
        msix_notify(&u->msix, last);
        assert_true(pending(u, last));
        set_mask(u, last, false);
        assert_sent(u, 0, last);
        unit_stop(u);
    }
    free(u);
}

static void a_message_that_nobody_takes_is_gone_with_a_complaint(void **state)
{
    struct fixture *f = *state;

    set_vector(&f->a, 2, false);
    f->a.pci.taken = -ENOENT;
    msix_notify(&f->a.msix, 2);
    assert_int_equal(fake.complaints, 1);
    assert_false(pending(&f->a, 2));
    f->a.pci.taken = 0;
    msix_notify(&f->a.msix, 2);
    assert_sent(&f->a, 0, 2);
}

/* --- a vector that is masked and unmasked while others ask for it --- */

#define ROUNDS 20000

static void *ask(void *arg)
{
    for (unsigned i = 0; i < ROUNDS; i++)
        msix_notify(arg, 3);
    return NULL;
}

static void no_interrupt_is_lost_between_mask_and_unmask(void **state)
{
    struct fixture *f = *state;
    unsigned last_before;
    pthread_t thread;

    set_vector(&f->a, 3, false);
    assert_int_equal(pthread_create(&thread, NULL, ask, &f->a.msix), 0);
    for (unsigned i = 0; i < ROUNDS / 4; i++) {
        set_mask(&f->a, 3, true);
        set_control(&f->a, ENABLE | FUNCTION_MASK);
        set_mask(&f->a, 3, false);
        set_control(&f->a, ENABLE);
        if (i % 64 == 0) { /* whatever came: what is unmasked and enabled is never left pending */
            pthread_mutex_lock(&f->a.msix.lock);
            assert_int_equal(f->a.msix.state.pending[0], 0);
            pthread_mutex_unlock(&f->a.msix.lock);
        }
    }
    pthread_join(thread, NULL);
    assert_false(pending(&f->a, 3));
    assert_in_range(f->a.pci.sent, 1, ROUNDS);
    last_before = f->a.pci.sent;
    msix_notify(&f->a.msix, 3);
    assert_int_equal(f->a.pci.sent, last_before + 1);
}

/* --- saved state --- */

static void msix_ops_reset(void *dev)
{
    msix_reset(dev);
}

static int msix_ops_save(void *dev, struct state_writer *w)
{
    return msix_save(dev, w);
}

static int msix_ops_load(void *dev, struct state_reader *r, struct err *e)
{
    return msix_load(dev, r, e);
}

static const struct device_ops msix_ops = {"msix", msix_ops_reset, NULL, msix_ops_save, msix_ops_load};

static void saved_state_is_restored_and_sends_nothing(void **state)
{
    struct fixture *f = *state;

    set_vector(&f->a, 1, false);
    set_vector(&f->a, 65, true);
    msix_notify(&f->a.msix, 65);
    assert_round_trip(&function_ops, &f->a.fn.dev, &f->b.fn.dev);
    assert_round_trip(&msix_ops, &f->a.msix, &f->b.msix);
    assert_int_equal(f->b.pci.sent, 0);
    assert_true(pending(&f->b, 65));
    msix_notify(&f->b.msix, 1);
    assert_sent(&f->b, 0, 1);
    set_mask(&f->b, 65, false);
    assert_sent(&f->b, 1, 65);
}

static void impossible_state_is_refused(void **state)
{
    struct fixture *f = *state;

    set_vector(&f->a, 1, false);
    assert_refused(&msix_ops, &f->a.msix, "table", 0, 4, 0xfee00001);
    assert_refused(&msix_ops, &f->a.msix, "table", 0, 7, 2);
    assert_refused(&msix_ops, &f->a.msix, "table", 0, 4 * VECTORS + 2, 1);
    assert_refused(&msix_ops, &f->a.msix, "table", 0, 4 * MSIX_MAX - 1, 1);
    assert_refused(&msix_ops, &f->a.msix, "pending", 0, VECTORS / 64, BIT(VECTORS % 64));
    assert_refused(&msix_ops, &f->a.msix, "pending", 0, 3, BIT(63));
    assert_truncations_are_refused(&msix_ops, &f->a.msix);
}

static void hostile_state_and_accesses_do_no_harm(void **state)
{
    struct fixture *f = *state;
    struct msix *m = &f->a.msix;

    fake_seed(6820);
    fuzz_load(&msix_ops, m, 1000);
    for (unsigned i = 0; i < 50000; i++) {
        unsigned size = 1U << fake_random() % 4;
        uint64_t off = fake_random() % (16 * VECTORS + 16);

        switch (fake_random() % 5) {
        case 0: msix_table_write(m, off, size, fake_random() << 20 ^ fake_random()); break;
        case 1: assert_true(msix_table_read(m, off, size) <= UINT64_MAX >> (64 - 8 * size)); break;
        case 2: assert_true(msix_pba_read(m, off % 24, size) <= UINT64_MAX >> (64 - 8 * size)); break;
        case 3: msix_notify(m, (unsigned)fake_random() % (VECTORS + 2)); break;
        default: set_control(&f->a, (uint32_t)fake_random() | ENABLE * (i % 4 > 0)); break;
        }
        if (i % 1024 == 0)
            assert_state_is_loadable(&msix_ops, m);
    }
    set_control(&f->a, ENABLE);
    f->a.pci.sent = 0;
    msix_reset(m);
    set_vector(&f->a, 9, false);
    msix_notify(m, 9);
    assert_sent(&f->a, 0, 9);
}

/* --- a host with irqfds: what is connected sends, and nothing else is called --- */

#define SOURCES 8

struct fake_irqfds {
    struct {
        bool taken, connected;
        uint64_t addr, next_addr; /* since the last commit; from the next on */
        uint32_t data, next_data;
        int fd;
    } source[SOURCES];
    unsigned commits;
    int error; /* of add */
};

static int irqfd_add(void *opaque)
{
    struct fake_irqfds *f = opaque;

    for (int i = 0; i < SOURCES && !f->error; i++)
        if (!f->source[i].taken) {
            f->source[i].taken = true;
            return i;
        }
    return -ENOSPC;
}

static void irqfd_remove(void *opaque, int source)
{
    struct fake_irqfds *f = opaque;

    assert_true(f->source[source].taken && !f->source[source].connected);
    f->source[source].taken = false;
}

static void irqfd_route(void *opaque, int source, uint64_t addr, uint32_t data)
{
    struct fake_irqfds *f = opaque;

    f->source[source].next_addr = addr;
    f->source[source].next_data = data;
}

static int irqfd_commit(void *opaque)
{
    struct fake_irqfds *f = opaque;

    f->commits++;
    for (unsigned i = 0; i < SOURCES; i++) {
        f->source[i].addr = f->source[i].next_addr;
        f->source[i].data = f->source[i].next_data;
    }
    return 0;
}

static int irqfd_connect(void *opaque, int source, int fd, bool on)
{
    struct fake_irqfds *f = opaque;

    assert_true(f->source[source].taken && f->source[source].connected != on);
    f->source[source].connected = on;
    f->source[source].fd = fd;
    return 0;
}

static const struct irqfd_ops irqfd_ops = {irqfd_add, irqfd_remove, irqfd_route, irqfd_commit, irqfd_connect};

static void give_irqfds(struct unit *u, struct fake_irqfds *f)
{
    *f = (struct fake_irqfds){0};
    u->pci.host.irqfds = &irqfd_ops;
    u->pci.host.irqfd_opaque = f;
}

/* How often the eventfd of the source was written to since the last time. */
static uint64_t writes_of(const struct fake_irqfds *f, int source)
{
    uint64_t count;

    return read(f->source[source].fd, &count, sizeof(count)) == sizeof(count) ? count : 0;
}

static void an_unmasked_vector_sends_by_its_irqfd(void **state)
{
    struct fixture *f = *state;
    struct fake_irqfds irqfds;

    give_irqfds(&f->a, &irqfds);
    set_vector(&f->a, 2, false);
    assert_true(irqfds.source[0].connected);
    assert_true(irqfds.source[0].addr == 0xfee01008);
    assert_int_equal(irqfds.source[0].data, 0x42);
    assert_true(msix_notify(&f->a.msix, 2));
    assert_int_equal(writes_of(&irqfds, 0), 1);
    assert_int_equal(f->a.pci.sent, 0);
    assert_false(irqfds.source[1].taken); /* a vector that nobody uses has none */
    msix_reset(&f->a.msix);
    assert_false(irqfds.source[0].taken);
}

static void a_masked_vector_is_not_connected_and_its_message_waits(void **state)
{
    struct fixture *f = *state;
    struct fake_irqfds irqfds;

    give_irqfds(&f->a, &irqfds);
    set_vector(&f->a, 2, false);
    set_mask(&f->a, 2, true);
    assert_false(irqfds.source[0].connected);
    assert_false(msix_notify(&f->a.msix, 2));
    assert_true(pending(&f->a, 2));
    set_mask(&f->a, 2, false);
    assert_true(irqfds.source[0].connected);
    assert_int_equal(writes_of(&irqfds, 0), 1);
    assert_false(pending(&f->a, 2));
    assert_int_equal(f->a.pci.sent, 0);
    msix_reset(&f->a.msix);
}

static void function_mask_and_bus_master_connect_all_with_one_commit(void **state)
{
    struct fixture *f = *state;
    struct fake_irqfds irqfds;

    give_irqfds(&f->a, &irqfds);
    set_control(&f->a, ENABLE | FUNCTION_MASK);
    for (unsigned v = 0; v < 3; v++)
        set_vector(&f->a, v, false);
    assert_false(irqfds.source[0].taken);
    irqfds.commits = 0;
    set_control(&f->a, ENABLE);
    assert_int_equal(irqfds.commits, 1);
    for (unsigned i = 0; i < 3; i++)
        assert_true(irqfds.source[i].connected);
    config_put(&f->a.pci, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    for (unsigned i = 0; i < 3; i++)
        assert_false(irqfds.source[i].connected);
    config_put(&f->a.pci, SLOT, PCI_COMMAND, 2, MASTER_ON);
    assert_true(irqfds.source[2].connected);
    msix_reset(&f->a.msix);
}

static void a_changed_message_changes_the_route(void **state)
{
    struct fixture *f = *state;
    struct fake_irqfds irqfds;

    give_irqfds(&f->a, &irqfds);
    set_vector(&f->a, 2, false);
    msix_table_write(&f->a.msix, 16 * 2 + 8, 4, 0x77);
    assert_int_equal(irqfds.source[0].data, 0x77);
    assert_true(irqfds.source[0].connected);
    set_mask(&f->a, 2, true);
    msix_table_write(&f->a.msix, 16 * 2, 8, 0x3fee05000ULL); /* as kernels move a vector to another processor */
    set_mask(&f->a, 2, false);
    assert_true(irqfds.source[0].addr == 0x3fee05000ULL);
    msix_reset(&f->a.msix);
}

static void a_vector_without_an_irqfd_sends_by_the_host(void **state)
{
    struct fixture *f = *state;
    struct fake_irqfds irqfds;

    give_irqfds(&f->a, &irqfds);
    irqfds.error = 1;
    set_vector(&f->a, 2, false);
    assert_false(msix_notify(&f->a.msix, 2));
    assert_sent(&f->a, 0, 2);
}

#define MSIX_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MSIX_TEST(the_capability_tells_size_and_places),
        MSIX_TEST(every_vector_is_masked_after_reset),
        MSIX_TEST(a_vector_sends_its_own_message),
        MSIX_TEST(nothing_is_sent_while_disabled_or_out_of_range),
        MSIX_TEST(a_masked_vector_is_pending_until_unmasked),
        MSIX_TEST(the_function_mask_holds_back_all),
        MSIX_TEST(a_message_waits_for_bus_master),
        MSIX_TEST(disabling_forgets_what_is_pending),
        MSIX_TEST(writes_elsewhere_in_configuration_space_send_nothing),
        MSIX_TEST(a_change_of_the_message_while_pending_counts),
        MSIX_TEST(the_table_keeps_what_is_writable),
        MSIX_TEST(nothing_lies_beyond_the_table),
        MSIX_TEST(the_pending_bits_are_read_in_any_size),
        cmocka_unit_test(one_vector_and_256_work),
        MSIX_TEST(a_message_that_nobody_takes_is_gone_with_a_complaint),
        MSIX_TEST(no_interrupt_is_lost_between_mask_and_unmask),
        MSIX_TEST(saved_state_is_restored_and_sends_nothing),
        MSIX_TEST(impossible_state_is_refused),
        MSIX_TEST(hostile_state_and_accesses_do_no_harm),
        MSIX_TEST(an_unmasked_vector_sends_by_its_irqfd),
        MSIX_TEST(a_masked_vector_is_not_connected_and_its_message_waits),
        MSIX_TEST(function_mask_and_bus_master_connect_all_with_one_commit),
        MSIX_TEST(a_changed_message_changes_the_route),
        MSIX_TEST(a_vector_without_an_irqfd_sends_by_the_host),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
