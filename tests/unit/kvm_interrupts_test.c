/* Routes and messages of the KVM engine, over a KVM that only keeps what it is told: tables are whole, and change once for all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/kvm.h"

/* --- KVM --- */

struct fake_kvm {
    struct kvm_irq_routing_entry table[KVM_ROUTES_MAX];
    unsigned entries, tables; /* in the last one; told so far */
    struct kvm_irqfd irqfd;
    struct kvm_ioeventfd ioeventfd;
    struct kvm_msi msi;
    int answer;
};

static struct fake_kvm fake;

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
    const struct kvm_irq_routing *routing = arg;

    assert_int_equal(fd, 7);
    if (request == KVM_SET_GSI_ROUTING) {
        fake.tables++;
        if (fake.answer < 0)
            return fake.answer;
        fake.entries = routing->nr;
        memcpy(fake.table, routing->entries, routing->nr * sizeof(fake.table[0]));
    } else if (request == KVM_IRQFD) {
        fake.irqfd = *(const struct kvm_irqfd *)arg;
    } else if (request == KVM_IOEVENTFD) {
        fake.ioeventfd = *(const struct kvm_ioeventfd *)arg;
    } else if (request == KVM_SIGNAL_MSI) {
        fake.msi = *(const struct kvm_msi *)arg;
    } else {
        fail();
    }
    return fake.answer;
}

/* --- the VM --- */

struct fixture {
    struct vm vm;
    struct kvm_vm kvm;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    fake = (struct fake_kvm){0};
    f->vm.engine_data = &f->kvm;
    f->kvm.vm = &f->vm;
    f->kvm.fd = 7;
    pthread_mutex_init(&f->kvm.routes_lock, NULL);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    pthread_mutex_destroy(&f->kvm.routes_lock);
    free(f);
    return 0;
}

static const struct kvm_irq_routing_entry *route_of(unsigned gsi)
{
    for (unsigned i = 0; i < fake.entries; i++)
        if (fake.table[i].gsi == gsi)
            return &fake.table[i];
    return NULL;
}

static void a_message_is_taken_when_a_processor_takes_it(void **state)
{
    struct fixture *f = *state;

    fake.answer = 1;
    assert_int_equal(kvm_msi(&f->vm, 0x12fee03000, 0x4041), 0);
    assert_int_equal(fake.msi.address_lo, 0xfee03000);
    assert_int_equal(fake.msi.address_hi, 0x12);
    assert_int_equal(fake.msi.data, 0x4041);
    fake.answer = 0; /* it has its local APIC off */
    assert_int_equal(kvm_msi(&f->vm, 0xfee03000, 0x41), -ENOENT);
    fake.answer = -EPERM; /* there is none */
    assert_int_equal(kvm_msi(&f->vm, 0xfee03000, 0x41), -ENOENT);
}

static void level_triggered_inputs_are_routes_while_they_are_so(void **state)
{
    struct fixture *f = *state;

    kvm_ioapic_level(&f->vm, 9, 0xfee01000, 0xc061);
    assert_int_equal(fake.entries, 1);
    assert_int_equal(route_of(9)->type, KVM_IRQ_ROUTING_MSI);
    assert_int_equal(route_of(9)->u.msi.address_lo, 0xfee01000);
    assert_int_equal(route_of(9)->u.msi.data, 0xc061);
    kvm_ioapic_level(&f->vm, 16, 0xfee00000, 0xc062);
    assert_int_equal(fake.entries, 2);
    kvm_ioapic_level(&f->vm, 16, 0xfee00000, 0xc062); /* nothing new */
    assert_int_equal(fake.tables, 2);
    kvm_ioapic_level(&f->vm, 9, 0, 0);
    assert_null(route_of(9));
    assert_non_null(route_of(16));
}

static void changes_are_told_at_once_by_commit(void **state)
{
    struct fixture *f = *state;
    int a = kvm_irqfds.add(&f->vm), b = kvm_irqfds.add(&f->vm);

    assert_true(a >= KVM_IOAPIC_PINS && b >= KVM_IOAPIC_PINS && a != b);
    kvm_irqfds.route(&f->vm, a, 0xfee01000, 0x41);
    kvm_irqfds.route(&f->vm, b, 0x5fee02000, 0x42);
    assert_int_equal(fake.tables, 0);
    assert_int_equal(kvm_irqfds.commit(&f->vm), 0);
    assert_int_equal(kvm_irqfds.commit(&f->vm), 0);
    assert_int_equal(fake.tables, 1);
    assert_int_equal(fake.entries, 2);
    assert_int_equal(route_of((unsigned)a)->u.msi.data, 0x41);
    assert_int_equal(route_of((unsigned)b)->u.msi.address_hi, 5);
}

static void a_table_that_was_not_taken_is_told_again(void **state)
{
    struct fixture *f = *state;
    int a = kvm_irqfds.add(&f->vm);

    kvm_irqfds.route(&f->vm, a, 0xfee01000, 0x41);
    fake.answer = -ENOMEM;
    assert_int_equal(kvm_irqfds.commit(&f->vm), -ENOMEM);
    fake.answer = 0;
    assert_int_equal(kvm_irqfds.commit(&f->vm), 0);
    assert_non_null(route_of((unsigned)a));
}

static void sources_are_used_again_and_come_to_an_end(void **state)
{
    struct fixture *f = *state;
    int first = kvm_irqfds.add(&f->vm), source = first;

    kvm_irqfds.route(&f->vm, first, 0xfee01000, 0x41);
    kvm_irqfds.commit(&f->vm);
    kvm_irqfds.remove(&f->vm, first);
    assert_int_equal(kvm_irqfds.add(&f->vm), first);
    assert_int_equal(kvm_irqfds.commit(&f->vm), 0);
    assert_null(route_of((unsigned)first));
    for (unsigned n = 1; n < KVM_ROUTES_MAX - KVM_IOAPIC_PINS; n++)
        source = kvm_irqfds.add(&f->vm);
    assert_int_equal(source, KVM_ROUTES_MAX - 1);
    assert_int_equal(kvm_irqfds.add(&f->vm), -ENOSPC);
}

static void eventfds_are_bound_and_freed(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(kvm_irqfds.connect(&f->vm, 30, 12, true), 0);
    assert_int_equal(fake.irqfd.gsi, 30);
    assert_int_equal(fake.irqfd.fd, 12);
    assert_int_equal(fake.irqfd.flags, 0);
    assert_int_equal(f->kvm.stats.irqfds, 1);
    assert_int_equal(kvm_irqfds.connect(&f->vm, 30, 12, false), 0);
    assert_int_equal(fake.irqfd.flags, KVM_IRQFD_FLAG_DEASSIGN);
    assert_int_equal(f->kvm.stats.irqfds, 0);
}

static void a_doorbell_is_of_any_width_where_kvm_can(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(kvm_ioeventfd(&f->vm, 0xc0003004, 13, true), 0);
    assert_int_equal(fake.ioeventfd.len, 2);
    assert_int_equal(fake.ioeventfd.flags, 0);
    assert_true(fake.ioeventfd.addr == 0xc0003004);
    f->kvm.any_length = true;
    assert_int_equal(kvm_ioeventfd(&f->vm, 0xc0003004, 13, false), 0);
    assert_int_equal(fake.ioeventfd.len, 0);
    assert_int_equal(fake.ioeventfd.flags, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_message_is_taken_when_a_processor_takes_it), TEST(level_triggered_inputs_are_routes_while_they_are_so),
        TEST(changes_are_told_at_once_by_commit),           TEST(a_table_that_was_not_taken_is_told_again),
        TEST(sources_are_used_again_and_come_to_an_end),    TEST(eventfds_are_bound_and_freed),
        TEST(a_doorbell_is_of_any_width_where_kvm_can),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
