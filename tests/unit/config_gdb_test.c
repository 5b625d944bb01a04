/* --gdb: places to listen, and what is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"

static struct config config;

static int setup(void **state)
{
    (void)state;
    config_init(&config);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    config_fini(&config);
    return 0;
}

static void accepted(const char *value)
{
    struct err e;

    if (config_set(&config, "gdb", value, &e) != 0)
        fail_msg("%s: %s", value, e.text);
}

static void nobody_listens_unless_told(void **state)
{
    (void)state;
    assert_int_equal(config.gdb.kind, GDB_NONE);
}

static void a_port_is_the_loopbacks_unless_an_address_is_given(void **state)
{
    static const struct {
        const char *value, *address;
        uint16_t port;
    } cases[] = {
        {"tcp:1234", "127.0.0.1", 1234},
        {"tcp:0", "127.0.0.1", 0},
        {"tcp:0.0.0.0:65535", "0.0.0.0", 65535},
        {"tcp:[::1]:99", "::1", 99},
        {"tcp:[::ffff:127.0.0.1]:1", "::ffff:127.0.0.1", 1},
        {"tcp::7", "127.0.0.1", 7},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        accepted(cases[i].value);
        assert_int_equal(config.gdb.kind, GDB_TCP);
        assert_string_equal(config.gdb.address, cases[i].address);
        assert_int_equal(config.gdb.port, cases[i].port);
        assert_false(config.gdb.wait);
    }
}

static void the_last_place_counts_with_its_settings(void **state)
{
    (void)state;
    accepted("unix:/tmp/a,,b,wait");
    assert_int_equal(config.gdb.kind, GDB_UNIX);
    assert_string_equal(config.gdb.path, "/tmp/a,b");
    assert_true(config.gdb.wait);
    accepted("tcp:1");
    assert_null(config.gdb.path);
    assert_false(config.gdb.wait);
}

static void what_is_no_place_leaves_none(void **state)
{
    static const char *const bad[] = {
        "",
        "1234",
        "tcp",
        "tcp:",
        "tcp:-1",
        "tcp:65536",
        "tcp:1x",
        "tcp: 1",
        "tcp:host:1",
        "tcp:[::1]",
        "tcp:::1:5",
        "tcp:[1.2.3.4]:5",
        "tcp:1.2.3.4:",
        "unix:",
        "unix:a,stop",
        "wait",
        "tcp:1,wait,wait",
        "tcp:1,wait=yes",
        "tcp:1,",
        "tcp:[0000:0000:0000:0000:0000:0000:0000:0000:0000:0000]:1",
    };
    struct err e;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        if (config_set(&config, "gdb", bad[i], &e) != -EINVAL)
            fail_msg("%s was taken", bad[i]);
        assert_int_equal(config.gdb.kind, GDB_NONE);
        assert_non_null(strstr(e.text, "--gdb"));
    }
}

static void json_has_it_as_a_string_or_an_object(void **state)
{
    static const char *const files[] = {"{\"gdb\": \"unix:s,wait\"}", "{\"gdb\": {\"listen\": \"unix:s\", \"wait\": true}}"};
    struct err e;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(files); i++) {
        char path[] = "/tmp/umbra-test-XXXXXX";
        int fd = mkstemp(path), error;

        assert_int_equal(write(fd, files[i], strlen(files[i])), strlen(files[i]));
        close(fd);
        error = config_load_json(&config, path, &e);
        unlink(path);
        if (error)
            fail_msg("%s: %s", files[i], e.text);
        assert_string_equal(config.gdb.path, "s");
        assert_true(config.gdb.wait);
    }
}

#define GDB_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        GDB_TEST(nobody_listens_unless_told),
        GDB_TEST(a_port_is_the_loopbacks_unless_an_address_is_given),
        GDB_TEST(the_last_place_counts_with_its_settings),
        GDB_TEST(what_is_no_place_leaves_none),
        GDB_TEST(json_has_it_as_a_string_or_an_object),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
