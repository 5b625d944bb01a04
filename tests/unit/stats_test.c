/* Statistics: what vCPUs and the engine counted, as a table and as JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cpu/stats.h"
#include "cpu/vm.h"

/* In place of the host's clock. */
uint64_t clock_monotonic_ns(void)
{
    return 3500 * NS_PER_MS;
}

static unsigned many; /* numbers that the engine reports besides */

static void engine_stats(struct vm *vm, struct stats_out *out)
{
    (void)vm;
    out->number(out, "mmu", "fills", 1234567);
    out->number(out, "mmu", "flushes", 0);
    out->timed(out, "translate", "blocks", 7, 2500 * NS_PER_MS);
    for (unsigned i = 0; i < many; i++) {
        char name[80];

        snprintf(name, sizeof(name), "number-%u", i);
        out->number(out, "many", name, i);
    }
}

static const struct engine engine = {.name = "fake", .stats = engine_stats};
static const struct engine silent = {.name = "silent"};

static struct vcpu vcpus[2];
static char name[] = "test-vm";

static struct vm make_vm(void)
{
    struct vm vm = {
        .config = {.name = name}, .engine = &engine, .vcpus = {&vcpus[0], &vcpus[1]}, .vcpu_count = 2, .started_ns = NS_PER_SEC};

    many = 0;
    for (unsigned i = 0; i < 2; i++) {
        vcpus[i] = (struct vcpu){.index = i};
        vcpus[i].exits[VM_EXIT_PIO] = 1000 + i;
        vcpus[i].exit_ns[VM_EXIT_PIO] = 1500000000 + i;
    }
    vcpus[0].exits[VM_EXIT_HLT] = 999;
    return vm;
}

static char *write_text(struct vm *vm, bool json)
{
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);
    struct err e = {"no sentence"};

    assert_non_null(f);
    if (stats_write(vm, f, json, &e) != 0)
        fail_msg("%s", e.text);
    fclose(f);
    return text;
}

static void the_table_groups_numbers_and_leaves_out_exits_that_never_occurred(void **state)
{
    struct vm vm = make_vm();
    char *text = write_text(&vm, false);
    char want[2000];
    size_t len = 0;
    static const struct {
        const char *group, *name, *value, *time;
    } rows[] = {{"vcpu0", "PIO", "1,000", "1.500000 s"}, {"", "HLT", "999", "0.000000 s"}, {"vcpu1", "PIO", "1,001", "1.500000 s"},
                {"mmu", "fills", "1,234,567", NULL},     {"", "flushes", "0", NULL},       {"translate", "blocks", "7", "2.500000 s"}};

    (void)state;
    len += (size_t)snprintf(want, sizeof(want), "statistics of test-vm after 2.500 s\n");
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
        len += (size_t)snprintf(want + len, sizeof(want) - len, "%-12s %-32s %20s%s%s\n", rows[i].group, rows[i].name, rows[i].value,
                                rows[i].time ? "     " : "", rows[i].time ? rows[i].time : "");
    assert_string_equal(text, want);
    free(text);
}

static void report_number(void *opaque, struct stats_out *out)
{
    out->number(out, "device", "kicks", *(uint64_t *)opaque);
}

static void whoever_was_added_is_asked_in_order_until_it_is_removed(void **state)
{
    struct vm vm = make_vm();
    uint64_t numbers[3] = {111, 222, 333};
    struct stats_reporter reporters[3];
    char *text, *first, *last;

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        reporters[i] = (struct stats_reporter){.report = report_number, .opaque = &numbers[i]};
        stats_add(&vm, &reporters[i]);
    }
    stats_remove(&vm, &reporters[1]);
    text = write_text(&vm, false);
    first = strstr(text, "111");
    last = strstr(text, "333");
    assert_true(first && last && first < last);
    assert_null(strstr(text, "222"));
    free(text);
    stats_remove(&vm, &reporters[2]);
    stats_remove(&vm, &reporters[0]);
    stats_remove(&vm, &reporters[0]); /* is not there any more */
    assert_null(vm.reporters);
    text = write_text(&vm, true);
    assert_null(strstr(text, "device"));
    free(text);
}

static void the_json_has_every_number(void **state)
{
    struct vm vm = make_vm();
    char *text = write_text(&vm, true);
    json_error_t error;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &error), *group;

    (void)state;
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "name")), "test-vm");
    assert_true(json_real_value(json_object_get(root, "seconds")) == 2.5);
    for (unsigned i = 0; i < 2; i++) {
        group = json_object_get(root, i ? "vcpu1" : "vcpu0");
        assert_int_equal(json_object_size(group), VM_EXIT_REASON_COUNT + 1);
        assert_int_equal(json_integer_value(json_object_get(json_object_get(group, "guest"), "count")), vcpus[i].entries);
        for (unsigned r = 0; r < VM_EXIT_REASON_COUNT; r++) {
            json_t *exit = json_object_get(group, vm_exit_names[r]);

            assert_int_equal(json_integer_value(json_object_get(exit, "count")), vcpus[i].exits[r]);
            assert_int_equal(json_integer_value(json_object_get(exit, "ns")), vcpus[i].exit_ns[r]);
        }
    }
    group = json_object_get(root, "mmu");
    assert_int_equal(json_integer_value(json_object_get(group, "fills")), 1234567);
    assert_true(json_is_integer(json_object_get(group, "flushes")));
    assert_int_equal(json_integer_value(json_object_get(json_object_get(json_object_get(root, "translate"), "blocks"), "ns")), 2500000000);
    json_decref(root);
    free(text);
}

/* As the clock here stands at 3.5 s: entered 1 s ago, and of 5 s in run() 2 s were accesses and sleep. */
static void time_in_the_guest_is_that_in_run_without_accesses_and_sleep(void **state)
{
    struct vm vm = make_vm();
    json_t *root, *guest;

    (void)state;
    vcpus[0].entries = 12;
    vcpus[0].run_ns = 4 * NS_PER_SEC;
    vcpus[0].entered_ns = 2500 * NS_PER_MS;
    vcpus[0].access_ns = 500 * NS_PER_MS;
    vcpus[0].exit_ns[VM_EXIT_HLT] = 1500 * NS_PER_MS;
    vcpus[1].run_ns = 10;
    vcpus[1].access_ns = 64; /* extrapolated */
    assert_int_equal(stats_json(&vm, &root, NULL), 0);
    guest = json_object_get(json_object_get(root, "vcpu0"), "guest");
    assert_int_equal(json_integer_value(json_object_get(guest, "ns")), 3 * NS_PER_SEC);
    assert_int_equal(json_integer_value(json_object_get(guest, "count")), 12);
    guest = json_object_get(json_object_get(root, "vcpu1"), "guest");
    assert_int_equal(json_integer_value(json_object_get(guest, "ns")), 0);
    json_decref(root);
}

static void every_exit_reason_has_a_name_of_its_own(void **state)
{
    (void)state;
    for (unsigned r = 0; r < VM_EXIT_REASON_COUNT; r++) {
        assert_non_null(vm_exit_names[r]);
        for (unsigned other = 0; other < r; other++)
            assert_string_not_equal(vm_exit_names[r], vm_exit_names[other]);
    }
}

static void a_vm_that_never_ran_and_an_engine_without_counters_do(void **state)
{
    struct vm vm = make_vm();
    char *text;

    (void)state;
    vm.engine = &silent;
    vm.started_ns = 0;
    vm.vcpu_count = 0;
    text = write_text(&vm, false);
    assert_string_equal(text, "statistics of test-vm after 0.000 s\n");
    free(text);
    text = write_text(&vm, true);
    assert_non_null(strstr(text, "\"seconds\": 0.0"));
    free(text);
}

static void an_engine_may_report_hundreds_of_numbers(void **state)
{
    struct vm vm = make_vm();
    json_t *root;
    char *text;

    (void)state;
    many = 500;
    text = write_text(&vm, true);
    root = json_loads(text, 0, NULL);
    assert_int_equal(json_object_size(json_object_get(root, "many")), 500);
    json_decref(root);
    free(text);
}

static void a_file_that_is_full_is_an_error_with_a_sentence(void **state)
{
    struct vm vm = make_vm();

    (void)state;
    many = 1000; /* more than a buffer holds */
    for (int small = 0; small < 2; small++) {
        for (int json = 0; json < 2; json++) {
            FILE *f = fopen("/dev/full", "w");
            struct err e = {""};

            assert_non_null(f);
            assert_true(stats_write(&vm, f, json, &e) < 0);
            assert_non_null(strstr(e.text, "cannot write the statistics"));
            fclose(f);
        }
        many = 0;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_groups_numbers_and_leaves_out_exits_that_never_occurred),
        cmocka_unit_test(whoever_was_added_is_asked_in_order_until_it_is_removed),
        cmocka_unit_test(the_json_has_every_number),
        cmocka_unit_test(time_in_the_guest_is_that_in_run_without_accesses_and_sleep),
        cmocka_unit_test(every_exit_reason_has_a_name_of_its_own),
        cmocka_unit_test(a_vm_that_never_ran_and_an_engine_without_counters_do),
        cmocka_unit_test(an_engine_may_report_hundreds_of_numbers),
        cmocka_unit_test(a_file_that_is_full_is_an_error_with_a_sentence),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
