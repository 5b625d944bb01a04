/* The configuration from JSON: every key and type, and for what is wrong the file, the line and what is wanted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
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

/* The text as a file; e names it by the path that is left in `path`. */
static char path[64];

static int load_bytes(struct config *c, const void *text, size_t len, struct err *e)
{
    int fd = memfd_create("config", MFD_CLOEXEC);
    int rc;

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, len), (ssize_t)len);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    rc = config_load_json(c, path, e);
    close(fd);
    return rc;
}

static void ok(struct config *c, const char *text)
{
    struct err e = {"no sentence"};

    if (load_bytes(c, text, strlen(text), &e) != 0)
        fail_msg("%s: %s", text, e.text);
}

/* The sentence begins with the file and the line, and contains what. */
static void refused(struct config *c, const char *text, unsigned line, const char *what)
{
    struct err e = {""};
    char place[100];

    if (load_bytes(c, text, strlen(text), &e) != -EINVAL)
        fail_msg("%s was taken", text);
    snprintf(place, sizeof(place), "%s:%u: ", path, line);
    if (strncmp(e.text, place, strlen(place)) != 0 || !strstr(e.text, what))
        fail_msg("%s\nline %u, \"%s\" wanted, the sentence is: %s", text, line, what, e.text);
}

static void every_key_reaches_its_field(void **state)
{
    struct config *c = *state;

    ok(c, "{\"name\": \"n\", \"engine\": \"soft\", \"cpus\": 3, \"memory\": \"1G,shared\", \"kernel\": \"/k\", \"initrd\": \"/i\",\n"
          " \"append\": \"quiet\", \"console\": \"file:/c\", \"no-reboot\": true, \"debug-exit\": true, \"stats\": \"s.json\"}");
    assert_string_equal(c->name, "n");
    assert_int_equal(c->engine, ENGINE_SOFT);
    assert_int_equal(c->cpus, 3);
    assert_true(c->memory == GIB(1) && c->memory_shared);
    assert_string_equal(c->kernel, "/k");
    assert_string_equal(c->initrd, "/i");
    assert_string_equal(c->append, "quiet");
    assert_int_equal(c->console, CONSOLE_FILE);
    assert_string_equal(c->console_path, "/c");
    assert_true(c->no_reboot && c->debug_exit && c->stats);
    assert_string_equal(c->stats_path, "s.json");
}

static void an_empty_object_changes_nothing(void **state)
{
    struct config *c = *state;

    ok(c, " {\n} \n");
    assert_true(c->memory == MIB(512));
    assert_null(c->kernel);
}

static void memory_is_a_string_or_bytes(void **state)
{
    struct config *c = *state;

    ok(c, "{\"memory\": 268435456}");
    assert_true(c->memory == MIB(256));
    ok(c, "{\"memory\": \"2048K\"}");
    assert_true(c->memory == MIB(2));
    refused(c, "{\"memory\": -1}", 1, "\"memory\" must be a size");
    refused(c, "{\"memory\": 1.5}", 1, "a fraction");
    refused(c, "{\"memory\": true}", 1, "\"memory\" must be a string such as \"512M\", or a whole number of bytes, not true or false");
    refused(c, "{\"memory\": \"1X\"}", 1, "1X");
}

static void switches_can_be_off(void **state)
{
    struct config *c = *state;

    ok(c, "{\"no-reboot\": true, \"debug-exit\": true, \"stats\": true}");
    assert_true(c->no_reboot && c->debug_exit && c->stats);
    ok(c, "{\"no-reboot\": false, \"debug-exit\": false, \"stats\": false}");
    assert_false(c->no_reboot || c->debug_exit || c->stats);
}

static void a_wrong_type_is_named_with_the_wanted_one(void **state)
{
    static const char *const values[] = {"null", "[]", "{}", "1", "1.5", "true", "\"text\""};
    static const char *const names[] = {"null",          "an array", "an object", "a whole number", "a number with a fraction",
                                        "true or false", "a string"};
    /* Which of the values a kind takes, by position. */
    static const char *const taken[] = {
        [CONFIG_TEXT] = "......x",           [CONFIG_NUMBER] = "..xx..x", [CONFIG_SIZE] = "...x..x", [CONFIG_SWITCH] = ".....x.",
        [CONFIG_SWITCH_OR_TEXT] = ".....xx", [CONFIG_ITEMS] = "..x..xx",  [CONFIG_LIST] = ".xx...x",
    };

    for (unsigned i = 0; i < config_option_count; i++) {
        const struct config_option *o = &config_options[i];

        for (unsigned v = 0; v < ARRAY_SIZE(values) && o->kind != CONFIG_INCLUDE; v++) {
            char text[100], key[40];

            if (taken[o->kind][v] == 'x')
                continue;
            snprintf(key, sizeof(key), "\"%s\" must be ", o->key);
            snprintf(text, sizeof(text), "{\n\n\"%s\": %s}", o->key, values[v]);
            refused(*state, text, 3, key);
            snprintf(key, sizeof(key), ", not %s", names[v]);
            refused(*state, text, 3, key);
        }
    }
}

static void cpus_are_a_number_a_string_or_an_object(void **state)
{
    struct config *c = *state;

    ok(c, "{\"cpus\": 4}");
    assert_true(c->cpus == 4 && c->sockets == 1 && c->cores == 4 && c->threads == 1);
    ok(c, "{\"cpus\": \"4,sockets=2\"}");
    assert_true(c->cpus == 4 && c->sockets == 2 && c->cores == 2);
    ok(c, "{\"cpus\": {\"count\": 4, \"threads\": 2}, \"pin\": \"0-3:0\"}");
    assert_true(c->cpus == 4 && c->cores == 2 && c->threads == 2 && config_pins_to(c, 3, 0));
}

static void a_bad_value_is_refused_as_for_the_flag(void **state)
{
    refused(*state, "{\"cpus\": -1}", 1, "\"cpus\" must be a number of CPUs");
    refused(*state, "{\"cpus\": 4294967296}", 1, "\"cpus\" must be a number of CPUs");
    refused(*state, "{\"cpus\": {\"cores\": 2}}", 1, "\"cpus\" must be a number of CPUs, and needs it as \"count\"");
    refused(*state, "{\"cpus\": true}", 1, "\"cpus\" must be a whole number, a string or an object, not true or false");
    refused(*state, "{\"engine\":\n\"tcg\"}", 1, "auto, kvm or soft");
    refused(*state, "{\"console\": \"file:\"}", 1, "\"console\" needs the name of a file");
    refused(*state, "{\"kernel\": \"\"}", 1, "\"kernel\" needs the name of a file");
    refused(*state, "{\"stats\": \"\"}", 1, "\"stats\" needs the name of a file");
    assert_int_equal(((struct config *)*state)->console, CONSOLE_TTY);
    assert_false(((struct config *)*state)->stats);
}

static void unknown_keys_are_refused_with_their_line(void **state)
{
    refused(*state, "{\"memory\": \"1G\",\n \"disks\": \"x\"}", 2, "unknown key \"disks\"");
    refused(*state, "{\"\": 1}", 1, "unknown key \"\"");
    refused(*state, "{\"Kernel\": \"x\"}", 1, "unknown key \"Kernel\"");
    refused(*state, "{\"config\": \"other.json\"}", 1, "unknown key \"config\""); /* a file includes no file */
}

/* The key's text also stands in values, in arrays and in nested objects before it. */
static void the_line_is_that_of_the_key_itself(void **state)
{
    refused(*state, "{\"name\": \"cpus\",\n\"append\": \"\\\"cpus\\\": {\",\n\"cpus\": \"x\"}", 3, "\"cpus\"");
    refused(*state, "{\"append\": \"a:b\\\\\",\n\n\n\"bogus\"\n:\n[{\"bogus\": 1}, \":\"]}", 4, "unknown key \"bogus\"");
    refused(*state, "{\n\"\\u0062ogus\": 1}", 1, "unknown key \"bogus\""); /* written with an escape: the first line stands for it */
}

static void doubled_keys_are_refused(void **state)
{
    refused(*state, "{\"memory\": \"1G\",\n\"memory\": \"2G\"}", 2, "not valid JSON: duplicate object key");
}

static void what_is_no_json_object_is_refused(void **state)
{
    refused(*state, "", 1, "not valid JSON");
    refused(*state, "{", 1, "not valid JSON");
    refused(*state, "{\"memory\": \"1G\"\n\"cpus\": 1}", 2, "not valid JSON");
    refused(*state, "{} x", 1, "not valid JSON");
    refused(*state, "{\"name\": \"a\\u0000b\"}", 1, "not valid JSON");
    refused(*state, "{\"cpus\": 99999999999999999999}", 1, "not valid JSON");
    refused(*state, "[1]", 1, "must be a JSON object such as {\"memory\": \"1G\"}, not an array");
}

static void bytes_that_are_no_text_are_refused(void **state)
{
    struct err e;

    assert_int_equal(load_bytes(*state, "{}\0{}", 5, &e), -EINVAL);
    assert_int_equal(load_bytes(*state, "{\"name\": \"\xff\xfe\"}", 14, &e), -EINVAL);
    assert_int_equal(load_bytes(*state, "\x7f\x45LF\2\1\1", 7, &e), -EINVAL);
    assert_non_null(strstr(e.text, "not valid JSON"));
}

static void a_file_that_cannot_be_read_is_named(void **state)
{
    static char big[MIB(1) + 1];
    struct err e;

    assert_int_equal(config_load_json(*state, "/nowhere/c.json", &e), -ENOENT);
    assert_non_null(strstr(e.text, "/nowhere/c.json"));
    assert_int_equal(config_load_json(*state, "/", &e), -EISDIR);
    assert_non_null(strstr(e.text, "configuration /:"));
    memset(big, ' ', sizeof(big));
    assert_int_equal(load_bytes(*state, big, sizeof(big), &e), -EFBIG);
    assert_non_null(strstr(e.text, "1M"));
    assert_int_equal(config_load_json(*state, "/dev/zero", &e), -EFBIG);
}

static void a_flag_loads_the_file_and_flags_after_it_win(void **state)
{
    struct config *c = *state;
    char file[] = "/tmp/umbra-config-XXXXXX";
    const char text[] = "{\"memory\": \"1G\", \"cpus\": 5}";
    int fd = mkstemp(file);
    struct err e;

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    assert_int_equal(config_set(c, "config", file, &e), 0);
    assert_int_equal(config_set(c, "memory", "2G", &e), 0);
    assert_true(c->memory == GIB(2));
    assert_int_equal(c->cpus, 5);
    unlink(file);
    assert_int_equal(config_set(c, "config", file, &e), -ENOENT);
    assert_non_null(strstr(e.text, file));
}

#define JSON_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        JSON_TEST(every_key_reaches_its_field),
        JSON_TEST(an_empty_object_changes_nothing),
        JSON_TEST(memory_is_a_string_or_bytes),
        JSON_TEST(switches_can_be_off),
        JSON_TEST(a_wrong_type_is_named_with_the_wanted_one),
        JSON_TEST(cpus_are_a_number_a_string_or_an_object),
        JSON_TEST(a_bad_value_is_refused_as_for_the_flag),
        JSON_TEST(unknown_keys_are_refused_with_their_line),
        JSON_TEST(the_line_is_that_of_the_key_itself),
        JSON_TEST(doubled_keys_are_refused),
        JSON_TEST(what_is_no_json_object_is_refused),
        JSON_TEST(bytes_that_are_no_text_are_refused),
        JSON_TEST(a_file_that_cannot_be_read_is_named),
        JSON_TEST(a_flag_loads_the_file_and_flags_after_it_win),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
