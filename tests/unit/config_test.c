/* The configuration by flags: defaults, every flag with good and bad values, and what no machine can have. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/options.h"

static int setup(void **state)
{
    struct config *c = calloc(1, sizeof(*c));

    if (!c)
        return -1;
    config_init(c);
    *state = c;
    return 0;
}

static int teardown(void **state)
{
    config_fini(*state);
    free(*state);
    return 0;
}

static void ok(struct config *c, const char *key, const char *value)
{
    struct err e = {"no sentence"};

    if (config_set(c, key, value, &e) != 0)
        fail_msg("--%s %s: %s", key, value ? value : "", e.text);
}

/* The sentence names the flag, and contains what. */
static void refused(struct config *c, const char *key, const char *value, const char *what)
{
    struct err e = {""};
    char flag[64];

    snprintf(flag, sizeof(flag), "--%s", key);
    if (config_set(c, key, value, &e) != -EINVAL)
        fail_msg("--%s %s was taken", key, value ? value : "");
    if (!strstr(e.text, flag) || !strstr(e.text, what))
        fail_msg("--%s %s: the sentence is: %s", key, value ? value : "", e.text);
}

static void the_defaults_lack_only_a_kernel(void **state)
{
    struct config *c = *state;
    struct err e;
    char name[32];

    snprintf(name, sizeof(name), "umbra-%d", (int)getpid());
    assert_string_equal(c->name, name);
    assert_int_equal(c->engine, ENGINE_AUTO);
    assert_int_equal(c->cpus, 1);
    assert_true(c->memory == MIB(512));
    assert_int_equal(c->console, CONSOLE_TTY);
    assert_int_equal(c->disk_count + c->net_count, 0);
    assert_true(c->rng && c->rng_rate == 0);
    assert_int_equal(c->queue_work, QUEUE_WORK_LOOP);
    assert_false(c->memory_shared || c->no_reboot || c->debug_exit || c->stats);
    assert_null(c->initrd);
    assert_null(c->append);
    assert_null(c->stats_path);
    assert_int_equal(config_validate(c, &e), -EINVAL);
    assert_non_null(strstr(e.text, "--kernel"));
    ok(c, "kernel", "k");
    assert_int_equal(config_validate(c, &e), 0);
}

static void texts_are_kept_and_the_last_one_wins(void **state)
{
    struct config *c = *state;

    ok(c, "name", "first");
    ok(c, "name", "second");
    ok(c, "kernel", "/k");
    ok(c, "initrd", "/i");
    ok(c, "append", "console=ttyS0 x=\"a b\"");
    assert_string_equal(c->name, "second");
    assert_string_equal(c->kernel, "/k");
    assert_string_equal(c->initrd, "/i");
    assert_string_equal(c->append, "console=ttyS0 x=\"a b\"");
    ok(c, "append", "");
    assert_string_equal(c->append, "");
    refused(c, "kernel", "", "file");
    refused(c, "initrd", "", "file");
    assert_string_equal(c->kernel, "/k");
}

static void the_engine_is_auto_kvm_or_soft(void **state)
{
    struct config *c = *state;

    ok(c, "engine", "soft");
    assert_int_equal(c->engine, ENGINE_SOFT);
    refused(c, "engine", "tcg", "auto, kvm or soft");
    refused(c, "engine", "", "auto, kvm or soft");
    refused(c, "engine", "Soft", "auto, kvm or soft");
    assert_int_equal(c->engine, ENGINE_SOFT);
    ok(c, "engine", "kvm");
    assert_int_equal(c->engine, ENGINE_KVM);
    ok(c, "engine", "auto");
    assert_int_equal(c->engine, ENGINE_AUTO);
}

static void cpus_are_a_number(void **state)
{
    static const char *const bad[] = {"", "one", "0", "-1", "+1", " 1", "1x", "1.0", "65", "4294967296", "99999999999999999999999"};
    struct config *c = *state;

    ok(c, "cpus", "7");
    assert_int_equal(c->cpus, 7);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        refused(c, "cpus", bad[i], "number of CPUs");
    assert_int_equal(c->cpus, 7);
}

static void code_cache_is_a_size_within_bounds(void **state)
{
    static const char *const bad[] = {"", "0", "5", "1023K", "1025M", "2G", "-1M", "1M,shared", "lots"};
    struct config *c = *state;

    assert_true(c->code_cache == 0);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        refused(c, "code-cache", bad[i], "from 1M to 1G");
    ok(c, "code-cache", "1M");
    assert_true(c->code_cache == MIB(1));
    ok(c, "code-cache", "1G");
    assert_true(c->code_cache == GIB(1));
}

static void memory_is_a_size_that_may_be_shared(void **state)
{
    static const char *const bad[] = {
        "", "much", "512MB", "1G,", "1G,share", "1G,shared,", ",shared", "-1G", "00000000000000000000000000000000000000000001"};
    struct config *c = *state;

    ok(c, "memory", "1G,shared");
    assert_true(c->memory == GIB(1) && c->memory_shared);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        refused(c, "memory", bad[i], "must be");
    refused(c, "memory", "99999999999999999999", "more than any machine");
    assert_true(c->memory == GIB(1) && c->memory_shared);
    ok(c, "memory", "268435456");
    assert_true(c->memory == MIB(256) && !c->memory_shared);
}

static void the_console_is_a_terminal_a_file_or_nowhere(void **state)
{
    struct config *c = *state;

    refused(c, "console", "file:", "file");
    assert_int_equal(c->console, CONSOLE_TTY); /* never a file without a path */
    ok(c, "console", "file:/tmp/out:1");
    assert_int_equal(c->console, CONSOLE_FILE);
    assert_string_equal(c->console_path, "/tmp/out:1");
    ok(c, "console", "none");
    assert_int_equal(c->console, CONSOLE_NONE);
    ok(c, "console", "tty");
    assert_int_equal(c->console, CONSOLE_TTY);
    ok(c, "console", "virtio");
    assert_int_equal(c->console, CONSOLE_VIRTIO);
    refused(c, "console", "serial", "tty, virtio, none or file:PATH");
    refused(c, "console", "file", "tty, virtio, none or file:PATH");
}

static void switches_take_no_value(void **state)
{
    struct config *c = *state;

    refused(c, "no-reboot", "yes", "no value");
    refused(c, "debug-exit", "", "no value");
    assert_false(c->no_reboot || c->debug_exit);
    ok(c, "no-reboot", NULL);
    ok(c, "debug-exit", NULL);
    assert_true(c->no_reboot && c->debug_exit);
}

static void statistics_go_to_a_table_or_a_file(void **state)
{
    struct config *c = *state;

    refused(c, "stats", "", "file");
    assert_false(c->stats);
    ok(c, "stats", NULL);
    assert_true(c->stats);
    assert_null(c->stats_path);
    ok(c, "stats", "s.json");
    assert_string_equal(c->stats_path, "s.json");
    ok(c, "stats", NULL);
    assert_null(c->stats_path);
}

static void a_flag_without_its_value_is_refused_with_its_form(void **state)
{
    static const char *const keys[] = {"name",   "engine",  "cpus", "pin", "memory", "kernel",     "initrd",
                                       "append", "console", "disk", "net", "rng",    "queue-work", "config"};

    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++)
        refused(*state, keys[i], NULL, "needs a value");
}

static void unknown_flags_are_refused(void **state)
{
    static const char *const keys[] = {"", "kernels", "Kernel", "ker", "disks", "Net", "--kernel", "no_reboot"};

    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
        assert_null(config_option_find(keys[i]));
        refused(*state, keys[i], "x", "unknown option");
    }
}

static void every_option_is_found_by_its_key_and_explained(void **state)
{
    (void)state;
    for (unsigned i = 0; i < config_option_count; i++) {
        const struct config_option *o = &config_options[i];

        assert_ptr_equal(config_option_find(o->key), o);
        assert_true(o->help && *o->help);
        assert_int_equal(o->value != NULL, o->kind != CONFIG_SWITCH);
        assert_int_equal(o->set_items != NULL, o->kind == CONFIG_NUMBER || o->kind == CONFIG_ITEMS || o->kind == CONFIG_LIST);
        assert_int_equal(o->clear != NULL, o->kind == CONFIG_LIST);
        assert_int_equal(o->set != NULL, o->kind != CONFIG_INCLUDE && !o->set_items);
    }
}

static void the_longest_nonsense_still_makes_a_sentence(void **state)
{
    static const char *const keys[] = {"engine", "cpus", "pin", "memory", "console", "net", "rng", "queue-work", "gdb"};
    static char nonsense[100000];

    memset(nonsense, 'x', sizeof(nonsense) - 1);
    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++)
        refused(*state, keys[i], nonsense, "xxx");
    refused(*state, "no-reboot", nonsense, "xxx");
    assert_int_equal(config_set(*state, nonsense, NULL, NULL), -EINVAL);
}

static void invalid(struct config *c, const char *what)
{
    struct err e = {""};

    assert_int_equal(config_validate(c, &e), -EINVAL);
    if (!strstr(e.text, what))
        fail_msg("no \"%s\" in: %s", what, e.text);
}

static void memory_has_limits(void **state)
{
    struct config *c = *state;

    ok(c, "kernel", "k");
    ok(c, "memory", "0");
    invalid(c, "too little");
    ok(c, "memory", "1M");
    invalid(c, "too little");
    ok(c, "memory", "2M");
    assert_int_equal(config_validate(c, NULL), 0);
    ok(c, "memory", "2097153");
    invalid(c, "4K");
    ok(c, "memory", "255G"); /* ends where the PCI window of 64 bits begins */
    assert_int_equal(config_validate(c, NULL), 0);
    ok(c, "memory", "261121M");
    invalid(c, "too much");
    invalid(c, "PCI");
}

static void grouped(struct config *c, const char *value, unsigned sockets, unsigned cores, unsigned threads)
{
    ok(c, "cpus", value);
    assert_int_equal(c->cpus, sockets * cores * threads);
    assert_int_equal(c->sockets, sockets);
    assert_int_equal(c->cores, cores);
    assert_int_equal(c->threads, threads);
}

static void cpus_are_grouped_and_what_is_left_out_follows(void **state)
{
    struct config *c = *state;

    grouped(c, "64", 1, 64, 1);
    grouped(c, "8,sockets=2", 2, 4, 1);
    grouped(c, "8,threads=2", 1, 4, 2);
    grouped(c, "8,cores=2", 4, 2, 1);
    grouped(c, "8,sockets=2,cores=2", 2, 2, 2);
    grouped(c, "6,threads=1,sockets=3,cores=2", 3, 2, 1);
}

static void a_product_that_is_not_the_number_of_cpus_is_refused(void **state)
{
    static const char *const bad[] = {"8,sockets=3", "8,sockets=2,cores=2,threads=1", "4,threads=8", "1,cores=2", "7,sockets=7,cores=2"};
    struct config *c = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        refused(c, "cpus", bad[i], "is not the product of");
    refused(c, "cpus", "8,sockets=0", "from 1 to 64 for 'sockets'");
    refused(c, "cpus", "8,dies=2", "'dies'");
    refused(c, "cpus", "8,cores=2,cores=2", "twice");
    assert_int_equal(c->cpus, 1);
}

static void pins_are_for_all_cpus_or_for_some(void **state)
{
    struct config *c = *state;

    assert_false(config_is_pinned(c, 0));
    ok(c, "pin", "0-1,5");
    for (unsigned host = 0; host < 8; host++)
        assert_int_equal(config_pins_to(c, 3, host), host <= 1 || host == 5);
    ok(c, "pin", "0:2,1-2:3-4,1:6");
    assert_true(config_is_pinned(c, 2));
    assert_false(config_is_pinned(c, 3));
    for (unsigned host = 0; host < 8; host++) {
        assert_int_equal(config_pins_to(c, 0, host), host == 2);
        assert_int_equal(config_pins_to(c, 1, host), host == 3 || host == 4 || host == 6);
        assert_int_equal(config_pins_to(c, 2, host), host == 3 || host == 4);
    }
    ok(c, "pin", "7,1:0"); /* the others */
    assert_true(config_pins_to(c, 0, 7) && !config_pins_to(c, 0, 0));
    assert_true(config_pins_to(c, 1, 0) && !config_pins_to(c, 1, 7));
}

static void a_bad_pin_is_refused(void **state)
{
    static const char *const bad[] = {
        "", ",", "0,", "a", "1-", "-1", "2-1", "0:", ":0", "0:1:2", "0:1-", "64:0", "1024", "0 1", "0-1-2", "0@1"};
    struct config *c = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        refused(c, "pin", bad[i], "CPUs of the host");
    ok(c, "kernel", "k");
    ok(c, "pin", "1:0");
    invalid(c, "names CPU 1, but the machine has 1");
    ok(c, "pin", "1023");
    invalid(c, "names CPU 1023 of the host, which has ");
    ok(c, "pin", "0:0");
    assert_int_equal(config_validate(c, NULL), 0);
}

static void a_name_is_short_and_plain(void **state)
{
    static const char *const bad[] = {"",         "a b",  "a/b",
                                      "\xc3\xa4", "a\nb", "12345678901234567890123456789012345678901234567890123456789012345"};
    static const char *const good[] = {"a", "A-b_c.9", "1234567890123456789012345678901234567890123456789012345678901234"};
    struct config *c = *state;

    ok(c, "kernel", "k");
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        ok(c, "name", bad[i]);
        invalid(c, "name");
    }
    for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
        ok(c, "name", good[i]);
        assert_int_equal(config_validate(c, NULL), 0);
    }
    free(c->name);
    c->name = NULL; /* there was no memory for the default */
    invalid(c, "name");
}

static void console_and_statistics_need_two_files(void **state)
{
    struct config *c = *state;

    ok(c, "kernel", "k");
    ok(c, "console", "file:out");
    ok(c, "stats", "out");
    invalid(c, "out");
    ok(c, "stats", "other");
    assert_int_equal(config_validate(c, NULL), 0);
    ok(c, "stats", NULL);
    assert_int_equal(config_validate(c, NULL), 0);
    ok(c, "stats", "out");
    ok(c, "console", "none");
    assert_int_equal(config_validate(c, NULL), 0);
}

static void fini_leaves_nothing_behind_and_can_come_twice(void **state)
{
    struct config *c = *state;

    ok(c, "kernel", "k");
    ok(c, "console", "file:c");
    ok(c, "stats", "s");
    config_fini(c);
    assert_null(c->name);
    assert_null(c->kernel);
    assert_null(c->console_path);
    assert_null(c->stats_path);
    config_fini(c);
}

#define CONFIG_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CONFIG_TEST(the_defaults_lack_only_a_kernel),
        CONFIG_TEST(texts_are_kept_and_the_last_one_wins),
        CONFIG_TEST(the_engine_is_auto_kvm_or_soft),
        CONFIG_TEST(cpus_are_a_number),
        CONFIG_TEST(memory_is_a_size_that_may_be_shared),
        CONFIG_TEST(code_cache_is_a_size_within_bounds),
        CONFIG_TEST(the_console_is_a_terminal_a_file_or_nowhere),
        CONFIG_TEST(switches_take_no_value),
        CONFIG_TEST(statistics_go_to_a_table_or_a_file),
        CONFIG_TEST(a_flag_without_its_value_is_refused_with_its_form),
        CONFIG_TEST(unknown_flags_are_refused),
        CONFIG_TEST(every_option_is_found_by_its_key_and_explained),
        CONFIG_TEST(the_longest_nonsense_still_makes_a_sentence),
        CONFIG_TEST(memory_has_limits),
        CONFIG_TEST(cpus_are_grouped_and_what_is_left_out_follows),
        CONFIG_TEST(a_product_that_is_not_the_number_of_cpus_is_refused),
        CONFIG_TEST(pins_are_for_all_cpus_or_for_some),
        CONFIG_TEST(a_bad_pin_is_refused),
        CONFIG_TEST(a_name_is_short_and_plain),
        CONFIG_TEST(console_and_statistics_need_two_files),
        CONFIG_TEST(fini_leaves_nothing_behind_and_can_come_twice),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
