/* The settings of devices: disks, networks, the rng and queue work, by flags and by JSON, and what does not go together. */
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
    return config_set(c, "kernel", "k", NULL);
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
        fail_msg("--%s %s: %s", key, value, e.text);
}

static void refused(struct config *c, const char *key, const char *value, const char *what)
{
    struct err e = {""};
    char flag[64];

    snprintf(flag, sizeof(flag), "--%s ", key);
    if (config_set(c, key, value, &e) != -EINVAL)
        fail_msg("--%s %s was taken", key, value);
    if (strncmp(e.text, flag, strlen(flag)) != 0 || !strstr(e.text, what))
        fail_msg("--%s %s: \"%s\" wanted, the sentence is: %s", key, value, what, e.text);
}

static int load(struct config *c, const char *text, struct err *e)
{
    int fd = memfd_create("config", MFD_CLOEXEC);
    char path[64];
    int rc;

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    rc = config_load_json(c, path, e);
    close(fd);
    return rc;
}

static void json_ok(struct config *c, const char *text)
{
    struct err e = {"no sentence"};

    if (load(c, text, &e) != 0)
        fail_msg("%s: %s", text, e.text);
}

static void json_refused(struct config *c, const char *text, const char *what)
{
    struct err e = {""};

    if (load(c, text, &e) != -EINVAL)
        fail_msg("%s was taken", text);
    if (!strstr(e.text, what))
        fail_msg("%s: \"%s\" wanted, the sentence is: %s", text, what, e.text);
}

static void valid(struct config *c)
{
    struct err e = {"no sentence"};

    if (config_validate(c, &e) != 0)
        fail_msg("%s", e.text);
}

static void invalid(struct config *c, const char *what)
{
    struct err e = {""};

    assert_int_equal(config_validate(c, &e), -EINVAL);
    if (!strstr(e.text, what))
        fail_msg("\"%s\" wanted, the sentence is: %s", what, e.text);
}

/* --- files for the firmware configuration device --- */

#define NAME_55 "opt/a-name-that-is-just-as-long-as-a-name-is-allowed-to"

static void fw_cfg_files_have_names(void **state)
{
    struct config *c = *state;

    assert_int_equal(strlen(NAME_55), CONFIG_FW_CFG_NAME_MAX);
    ok(c, "fw-cfg", "opt/a=/etc/hostname");
    ok(c, "fw-cfg", NAME_55 "=b=c,,d");
    ok(c, "fw-cfg", "opt/x=1,opt/y=2");
    assert_int_equal(c->fw_cfg_count, 4);
    assert_string_equal(c->fw_cfg[0].name, "opt/a");
    assert_string_equal(c->fw_cfg[0].path, "/etc/hostname");
    assert_string_equal(c->fw_cfg[1].name, NAME_55);
    assert_string_equal(c->fw_cfg[1].path, "b=c,d");
    assert_string_equal(c->fw_cfg[3].name, "opt/y");
    valid(c);
    json_ok(c, "{\"fw-cfg\": [{\"opt/j\": \"one\", \"opt/k\": \"t,w,o\"}, \"opt/l=three\"]}");
    assert_int_equal(c->fw_cfg_count, 3);
    assert_string_equal(c->fw_cfg[1].path, "t,w,o");
    assert_string_equal(c->fw_cfg[2].name, "opt/l");
    valid(c);
}

static void fw_cfg_names_that_no_guest_could_use_are_refused(void **state)
{
    struct config *c = *state;

    refused(c, "fw-cfg", "opt/a", "name of a file behind 'opt/a='");
    refused(c, "fw-cfg", "opt/a=", "name of a file behind 'opt/a='");
    refused(c, "fw-cfg", "=f", "1 to 55 characters");
    refused(c, "fw-cfg", NAME_55 "x=f", "1 to 55 characters");
    refused(c, "fw-cfg", "opt/a b=f", "without spaces");
    refused(c, "fw-cfg", "opt/\x80=f", "plain ASCII");
    refused(c, "fw-cfg", "/a=f", "each slash");
    refused(c, "fw-cfg", "a/=f", "each slash");
    refused(c, "fw-cfg", "a//b=f", "each slash");
    json_refused(c, "{\"fw-cfg\": {\"opt/a\": true}}", "name of a file behind");
    json_refused(c, "{\"fw-cfg\": true}", "a string, an object, or an array");
    assert_int_equal(c->fw_cfg_count, 0);
}

static void two_fw_cfg_files_do_not_share_a_name_or_a_folder(void **state)
{
    struct config *c = *state;

    ok(c, "fw-cfg", "opt/a=f");
    ok(c, "fw-cfg", "opt/ab=f");
    valid(c);
    ok(c, "fw-cfg", "opt/a=g");
    invalid(c, "two --fw-cfg files are named opt/a");
    config_clear_fw_cfg(c);
    ok(c, "fw-cfg", "opt/a/b=f");
    ok(c, "fw-cfg", "opt/a=g");
    invalid(c, "opt/a/b and opt/a do not go together");
}

static void there_are_at_most_32_fw_cfg_files(void **state)
{
    struct config *c = *state;
    char text[32];

    for (unsigned i = 0; i < CONFIG_FW_CFG_MAX; i++) {
        snprintf(text, sizeof(text), "opt/%u=f", i);
        ok(c, "fw-cfg", text);
    }
    refused(c, "fw-cfg", "opt/more=f", "more than 32 files");
    valid(c);
}

/* --- disks --- */

static void a_disk_has_its_settings(void **state)
{
    struct config *c = *state;

    ok(c, "disk", "a.img");
    ok(c, "disk", "b.img,ro,direct,serial=S-1,queues=4,block-size=4096,engine=threads");
    ok(c, "disk", "c.img,block-size=512,engine=io_uring");
    assert_int_equal(c->disk_count, 3);
    assert_string_equal(c->disks[0].path, "a.img");
    assert_false(c->disks[0].read_only || c->disks[0].direct || c->disks[0].serial[0]);
    assert_int_equal(c->disks[0].queues, 1);
    assert_int_equal(c->disks[0].block_size, 0);
    assert_int_equal(c->disks[0].engine, DISK_ENGINE_AUTO);
    assert_true(c->disks[1].read_only && c->disks[1].direct);
    assert_string_equal(c->disks[1].serial, "S-1");
    assert_int_equal(c->disks[1].queues, 4);
    assert_int_equal(c->disks[1].block_size, 4096);
    assert_int_equal(c->disks[1].engine, DISK_ENGINE_THREADS);
    assert_int_equal(c->disks[2].block_size, 512);
    assert_int_equal(c->disks[2].engine, DISK_ENGINE_URING);
    valid(c);
}

static void a_comma_in_a_path_is_written_twice_and_an_equals_sign_once(void **state)
{
    struct config *c = *state;

    ok(c, "disk", "a,,b=c.img,serial=x,,y");
    ok(c, "disk", ",,,,");
    ok(c, "disk", "d,,,ro");
    assert_string_equal(c->disks[0].path, "a,b=c.img");
    assert_string_equal(c->disks[0].serial, "x,y");
    assert_string_equal(c->disks[1].path, ",,");
    assert_string_equal(c->disks[2].path, "d,");
    assert_true(c->disks[2].read_only);
}

static void a_disk_with_something_wrong_is_refused_and_not_there(void **state)
{
    static const struct {
        const char *value, *what;
    } bad[] = {
        {"", "the name of a file"},
        {",ro", "the name of a file"},
        {"a,", "empty setting"},
        {"a,,,", "empty setting"},
        {"a,ro,,direct", "'ro,direct'"},
        {"a,write", "no setting 'write'"},
        {"a,b.img", "written twice"},
        {"a,ro=yes", "no value for 'ro'"},
        {"a,ro,ro", "'ro' twice"},
        {"a,path=b", "'path' twice"},
        {"a,serial", "serial number"},
        {"a,serial=", "serial number"},
        {"a,serial=123456789012345678901", "more than 20"},
        {"a,serial=a b", "plain ASCII"},
        {"a,serial=\xc3\xa4", "plain ASCII"},
        {"a,queues=0", "from 1 to 16"},
        {"a,queues=17", "from 1 to 16"},
        {"a,queues=-1", "from 1 to 16"},
        {"a,queues", "from 1 to 16"},
        {"a,queues=1x", "'1x'"},
        {"a,block-size=1024", "512 or 4096"},
        {"a,block-size", "512 or 4096"},
        {"a,engine=aio", "io_uring or threads"},
    };
    struct config *c = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        refused(c, "disk", bad[i].value, bad[i].what);
    assert_int_equal(c->disk_count, 0);
}

static void there_are_at_most_16_disks(void **state)
{
    struct config *c = *state;
    char path[16];

    for (unsigned i = 0; i < CONFIG_DISKS_MAX; i++) {
        snprintf(path, sizeof(path), "%u.img", i);
        ok(c, "disk", path);
    }
    valid(c);
    refused(c, "disk", "more.img", "more than 16 times");
    assert_int_equal(c->disk_count, CONFIG_DISKS_MAX);
}

static void a_disk_that_is_written_to_is_there_once(void **state)
{
    struct config *c = *state;
    char path[] = "/tmp/umbra-disk-XXXXXX", other[64];
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    close(fd);
    ok(c, "disk", "none.img,ro");
    ok(c, "disk", "none.img,ro");
    valid(c); /* both are only read */
    ok(c, "disk", "none.img");
    invalid(c, "none.img was given twice");
    config_clear_disks(c);
    snprintf(other, sizeof(other), "/tmp/../%s", path + 1);
    ok(c, "disk", path);
    ok(c, "disk", other);
    invalid(c, "are the same");
    unlink(path);
    valid(c); /* that they are missing is found out when they are opened */
}

/* --- networks --- */

static void a_network_is_of_one_kind(void **state)
{
    struct config *c = *state;

    ok(c, "net", "user");
    ok(c, "net", "tap=tap0,mac=52:54:00:Ab:cD:ef");
    ok(c, "net", "fd=7");
    assert_int_equal(c->net_count, 3);
    assert_int_equal(c->nets[0].kind, NET_USER);
    assert_false(c->nets[0].has_mac);
    assert_int_equal(c->nets[1].kind, NET_TAP);
    assert_string_equal(c->nets[1].ifname, "tap0");
    assert_true(c->nets[1].has_mac);
    assert_memory_equal(c->nets[1].mac, "\x52\x54\x00\xab\xcd\xef", 6);
    assert_int_equal(c->nets[2].kind, NET_FD);
    assert_int_equal(c->nets[2].fd, 7);
    valid(c);
    ok(c, "net", "none");
    assert_int_equal(c->net_count, 3);
    invalid(c, "--net none");
    config_clear_nets(c);
    ok(c, "net", "none");
    valid(c);
    assert_int_equal(c->net_count, 0);
}

static void forwards_have_two_ports_and_maybe_an_address(void **state)
{
    struct config *c = *state;
    const struct config_forward *f;

    ok(c, "net", "user,hostfwd=tcp:8080:80,hostfwd=tcp:0.0.0.0:2222:22,hostfwd=udp:127.0.0.2:53:65535,hostfwd=tcp::1:2");
    f = c->nets[0].forwards;
    assert_int_equal(c->nets[0].forward_count, 4);
    assert_string_equal(f[0].host_addr, "127.0.0.1");
    assert_true(f[0].host_port == 8080 && f[0].guest_port == 80 && !f[0].udp);
    assert_string_equal(f[1].host_addr, "0.0.0.0");
    assert_true(f[1].host_port == 2222 && f[1].guest_port == 22 && !f[1].udp);
    assert_string_equal(f[2].host_addr, "127.0.0.2");
    assert_true(f[2].host_port == 53 && f[2].guest_port == 65535 && f[2].udp);
    assert_string_equal(f[3].host_addr, "127.0.0.1");
    assert_true(f[3].host_port == 1 && f[3].guest_port == 2);
    valid(c);
}

static void a_network_with_something_wrong_is_refused_and_not_there(void **state)
{
    static const struct {
        const char *value, *what;
    } bad[] = {
        {"", "empty setting"},
        {"bridge", "no setting 'bridge'"},
        {"user=1", "no value for 'user'"},
        {"user,tap=t", "one of user"},
        {"mac=02:00:00:00:00:01", "one of user"},
        {"user,", "empty setting"},
        {"user,user", "'user' twice"},
        {"tap", "the name of an interface"},
        {"tap=", "the name of an interface"},
        {"tap=a/b", "'a/b'"},
        {"tap=sixteen-letters-", "at most 15"},
        {"fd", "from 3"},
        {"fd=2", "from 3"},
        {"fd=-1", "from 3"},
        {"fd=99999999999", "from 3"},
        {"none,mac=02:00:00:00:00:01", "no mac"},
        {"user,mac", "six bytes"},
        {"user,mac=02:00:00:00:00", "six bytes"},
        {"user,mac=02:00:00:00:00:0g", "six bytes"},
        {"user,mac=02:00:00:00:00:001", "six bytes"},
        {"user,mac=2:0:0:0:0:01::::::", "six bytes"},
        {"user,mac=020:0:00:00:00:00", "six bytes"},
        {"user,mac=01:00:5e:00:00:01", "multicast"},
        {"user,mac=ff:ff:ff:ff:ff:ff", "multicast"},
        {"user,mac=00:00:00:00:00:00", "zeroes"},
        {"tap=t,hostfwd=tcp:1:1", "only with user"},
        {"user,hostfwd", "tcp:[HOSTADDR:]"},
        {"user,hostfwd=8080:80", "tcp:[HOSTADDR:]"},
        {"user,hostfwd=tcp:80", "tcp:[HOSTADDR:]"},
        {"user,hostfwd=tcp:0:80", "tcp:[HOSTADDR:]"},
        {"user,hostfwd=tcp:65536:80", "tcp:[HOSTADDR:]"},
        {"user,hostfwd=tcp:1:0", "tcp:[HOSTADDR:]"},
        {"user,hostfwd=tcp:1:", "tcp:[HOSTADDR:]"},
        {"user,hostfwd=tcp:+1:2", "tcp:[HOSTADDR:]"},
        {"user,hostfwd=tcp:localhost:1:2", "tcp:[HOSTADDR:]"},
        {"user,hostfwd=tcp:1.2.3:1:2", "tcp:[HOSTADDR:]"},
        {"user,hostfwd=tcp:127.0.0.1:1:2:3", "tcp:[HOSTADDR:]"},
        {"user,hostfwd=tcp:1111.1111.1111.1111:1:2", "tcp:[HOSTADDR:]"},
        {"user,hostfwd=sctp:1:2", "tcp:[HOSTADDR:]"},
    };
    struct config *c = *state;
    char many[2048] = "user";

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        refused(c, "net", bad[i].value, bad[i].what);
    for (unsigned i = 0; i <= CONFIG_FORWARDS_MAX; i++)
        snprintf(many + strlen(many), sizeof(many) - strlen(many), ",hostfwd=tcp:%u:1", i + 1);
    refused(c, "net", many, "more than 32 forwards");
    for (unsigned i = 0; i <= CONFIG_ITEMS_MAX; i++)
        snprintf(many + strlen(many), sizeof(many) - strlen(many), ",x%u", i);
    refused(c, "net", many, "more than 48 settings");
    assert_int_equal(c->net_count, 0);
}

static void what_two_networks_cannot_share_is_told(void **state)
{
    static const struct {
        const char *a, *b, *what; /* what NULL: they go together */
    } pairs[] = {
        {"user,hostfwd=tcp:80:80,hostfwd=tcp:80:81", NULL, "TCP port 80"},
        {"user,hostfwd=tcp:80:80,hostfwd=udp:80:80", NULL, NULL},
        {"user,hostfwd=tcp:80:80", "user,hostfwd=tcp:0.0.0.0:80:1", "TCP port 80"},
        {"user,hostfwd=udp:0.0.0.0:9:80", "user,hostfwd=udp:127.0.0.3:9:1", "UDP port 9"},
        {"user,hostfwd=tcp:127.0.0.2:80:80", "user,hostfwd=tcp:80:80", NULL},
        {"user,mac=02:00:00:00:00:01", "tap=a,mac=02:00:00:00:00:01", "02:00:00:00:00:01"},
        {"user,mac=02:00:00:00:00:01", "tap=a,mac=02:00:00:00:00:02", NULL},
        {"tap=a", "tap=a", "tap a was given twice"},
        {"tap=a", "tap=b", NULL},
        {"fd=3", "fd=3", "descriptor 3"},
        {"user", "user", NULL},
    };
    struct config *c = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(pairs); i++) {
        config_clear_nets(c);
        ok(c, "net", pairs[i].a);
        if (pairs[i].b)
            ok(c, "net", pairs[i].b);
        if (pairs[i].what)
            invalid(c, pairs[i].what);
        else
            valid(c);
    }
}

static void there_are_at_most_8_networks(void **state)
{
    struct config *c = *state;

    for (unsigned i = 0; i < CONFIG_NETS_MAX; i++)
        ok(c, "net", "user");
    refused(c, "net", "user,hostfwd=tcp:1:1", "more than 8 times");
    valid(c);
}

static void a_mac_that_was_not_given_is_local_and_differs_by_name_and_place(void **state)
{
    struct config *c = *state;
    uint8_t a[6], b[6], again[6];

    ok(c, "name", "one");
    ok(c, "net", "user");
    ok(c, "net", "user");
    ok(c, "net", "user,mac=52:54:00:00:00:01");
    config_net_mac(c, 0, a);
    config_net_mac(c, 1, b);
    assert_int_equal(a[0] & 3, 2);
    assert_memory_not_equal(a, b, 6);
    config_net_mac(c, 0, again);
    assert_memory_equal(a, again, 6);
    ok(c, "name", "two");
    config_net_mac(c, 0, b);
    assert_memory_not_equal(a, b, 6);
    config_net_mac(c, 2, a);
    assert_memory_equal(a, "\x52\x54\x00\x00\x00\x01", 6);
}

/* --- rng, queue work --- */

static void the_rng_is_off_or_on_with_or_without_a_rate(void **state)
{
    static const char *const bad[] = {"",           "yes",         "on,",    "on,rate", "on,rate=0", "on,rate=much",
                                      "on,rate=2G", "off,rate=1K", "on,off", "on,on",   "on=1"};
    struct config *c = *state;

    ok(c, "rng", "off");
    assert_false(c->rng);
    ok(c, "rng", "on,rate=64K");
    assert_true(c->rng && c->rng_rate == KIB(64));
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        refused(c, "rng", bad[i], "");
    assert_true(c->rng && c->rng_rate == KIB(64));
    ok(c, "rng", "on");
    assert_true(c->rng && c->rng_rate == 0);
}

static void queue_work_is_done_by_the_loop_or_inline(void **state)
{
    struct config *c = *state;

    ok(c, "queue-work", "inline");
    assert_int_equal(c->queue_work, QUEUE_WORK_INLINE);
    refused(c, "queue-work", "thread", "loop or inline");
    ok(c, "queue-work", "loop");
    assert_int_equal(c->queue_work, QUEUE_WORK_LOOP);
}

/* --- JSON --- */

static void json_takes_strings_objects_and_arrays_of_them(void **state)
{
    struct config *c = *state;

    json_ok(c, "{\"disk\": \"a.img,ro\", \"net\": \"user\", \"rng\": false, \"queue-work\": \"inline\"}");
    assert_int_equal(c->disk_count, 1);
    assert_true(c->disks[0].read_only);
    assert_int_equal(c->net_count, 1);
    assert_false(c->rng);
    assert_int_equal(c->queue_work, QUEUE_WORK_INLINE);
    json_ok(c,
            "{\"disk\": [\"b.img\", {\"path\": \"c,d.img\", \"ro\": true, \"direct\": false, \"queues\": 4, \"block-size\": 4096,\n"
            "\"serial\": \"x\"}], \"net\": [{\"user\": true, \"hostfwd\": [\"tcp:1:2\", \"tcp:3:4\"]}, {\"tap\": \"t0\"}, {\"fd\": 9}],\n"
            "\"rng\": {\"rate\": 1024}}");
    assert_int_equal(c->disk_count, 2);
    assert_string_equal(c->disks[1].path, "c,d.img");
    assert_true(c->disks[1].read_only && !c->disks[1].direct);
    assert_int_equal(c->disks[1].queues, 4);
    assert_int_equal(c->disks[1].block_size, 4096);
    assert_string_equal(c->disks[1].serial, "x");
    assert_int_equal(c->net_count, 3);
    assert_int_equal(c->nets[0].forward_count, 2);
    assert_string_equal(c->nets[1].ifname, "t0");
    assert_int_equal(c->nets[2].fd, 9);
    assert_true(c->rng && c->rng_rate == 1024);
    json_ok(c, "{\"disk\": [], \"net\": \"none\", \"rng\": true}");
    assert_int_equal(c->disk_count + c->net_count, 0);
    valid(c);
    json_ok(c, "{\"disk\": {\"path\": \"e.img\"}}");
    assert_int_equal(c->disk_count, 1);
}

static void json_that_is_wrong_inside_is_told(void **state)
{
    static const struct {
        const char *text, *what;
    } bad[] = {
        {"{\"disk\": {\"ro\": true}}", ":1: \"disk\" needs the name of a file as 'path'"},
        {"{\"disk\": {\"path\": \"a\", \"queues\": \"many\"}}", "'many'"},
        {"{\"disk\": {\"path\": \"a\", \"ro\": 1}}", "no value for 'ro'"},
        {"{\"disk\": {\"path\": true}}", "the name of a file"},
        {"{\"disk\": {\"path\": \"a\", \"serial\": {}}}", "an object as \"serial\""},
        {"{\"disk\": {\"path\": \"a\", \"serial\": null}}", "null as \"serial\""},
        {"{\"disk\": {\"path\": \"a\", \"queues\": 1.5}}", "a fraction as \"queues\""},
        {"{\"disk\": {\"path\": [\"a\", \"b\"]}}", "'path' twice"},
        {"{\"disk\": [\"a\", 1]}", "an array of those"},
        {"{\"disk\": [[\"a\"]]}", "an array of those"},
        {"{\"net\": {\"user\": true, \"hostfwd\": [1]}}", "strings in the array \"hostfwd\""},
        {"{\"net\": {\"user\": false}}", "one of user"},
        {"{\"rng\": {\"on\": true, \"off\": true}}", "cannot be off"},
        {"{\"rng\": []}", "true, false, a string or an object"},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        json_refused(*state, bad[i].text, bad[i].what);
}

static void flags_replace_the_list_of_a_file_and_then_add_to_each_other(void **state)
{
    struct config *c = *state;

    json_ok(c, "{\"disk\": [\"a\", \"b\"], \"net\": \"none\"}");
    ok(c, "net", "user");
    valid(c);
    ok(c, "disk", "c");
    ok(c, "disk", "d");
    assert_int_equal(c->disk_count, 2);
    assert_string_equal(c->disks[0].path, "c");
    assert_string_equal(c->disks[1].path, "d");
}

static void fini_frees_the_lists(void **state)
{
    struct config *c = *state;

    ok(c, "disk", "a");
    ok(c, "net", "user,hostfwd=tcp:1:1");
    config_fini(c);
    assert_int_equal(c->disk_count + c->net_count, 0);
}

#define DEVICES_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        DEVICES_TEST(fw_cfg_files_have_names),
        DEVICES_TEST(fw_cfg_names_that_no_guest_could_use_are_refused),
        DEVICES_TEST(two_fw_cfg_files_do_not_share_a_name_or_a_folder),
        DEVICES_TEST(there_are_at_most_32_fw_cfg_files),
        DEVICES_TEST(a_disk_has_its_settings),
        DEVICES_TEST(a_comma_in_a_path_is_written_twice_and_an_equals_sign_once),
        DEVICES_TEST(a_disk_with_something_wrong_is_refused_and_not_there),
        DEVICES_TEST(there_are_at_most_16_disks),
        DEVICES_TEST(a_disk_that_is_written_to_is_there_once),
        DEVICES_TEST(a_network_is_of_one_kind),
        DEVICES_TEST(forwards_have_two_ports_and_maybe_an_address),
        DEVICES_TEST(a_network_with_something_wrong_is_refused_and_not_there),
        DEVICES_TEST(what_two_networks_cannot_share_is_told),
        DEVICES_TEST(there_are_at_most_8_networks),
        DEVICES_TEST(a_mac_that_was_not_given_is_local_and_differs_by_name_and_place),
        DEVICES_TEST(the_rng_is_off_or_on_with_or_without_a_rate),
        DEVICES_TEST(queue_work_is_done_by_the_loop_or_inline),
        DEVICES_TEST(json_takes_strings_objects_and_arrays_of_them),
        DEVICES_TEST(json_that_is_wrong_inside_is_told),
        DEVICES_TEST(flags_replace_the_list_of_a_file_and_then_add_to_each_other),
        DEVICES_TEST(fini_frees_the_lists),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
