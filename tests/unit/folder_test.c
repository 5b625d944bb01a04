/* The folder of running VMs: names are claimed once, found again when their owner died, and cleared away. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/folder.h"

static char runtime[] = "/tmp/umbra-test-XXXXXX";

static int setup(void **state)
{
    static int folder;

    memset(runtime + sizeof(runtime) - 7, 'X', 6);
    if (!mkdtemp(runtime) || setenv("XDG_RUNTIME_DIR", runtime, 1) != 0)
        return -1;
    folder = folder_open(NULL);
    *state = &folder;
    return folder < 0 ? -1 : 0;
}

/* Nothing may be left in it. */
static int teardown(void **state)
{
    char path[FOLDER_PATH_MAX];

    close(*(int *)*state);
    folder_path(path);
    return rmdir(path) != 0 || rmdir(runtime) != 0 ? -1 : 0;
}

static int claim(int folder, const char *name)
{
    struct err e = {"no sentence"};
    int lock = folder_claim(folder, name, &e);

    if (lock < 0)
        fail_msg("%s", e.text);
    return lock;
}

static void expect_names(int folder, const char *expected)
{
    struct folder_names names;
    char list[256] = "";
    size_t len = 0;

    assert_int_equal(folder_list(folder, &names, NULL), 0);
    for (unsigned i = 0; i < names.count; i++)
        len += (size_t)snprintf(list + len, sizeof(list) - len, "%s ", names.name[i]);
    folder_names_free(&names);
    assert_string_equal(list, expected);
}

/* Another process that claims a name, listens, and stays until it is killed. */
static pid_t start_owner(int folder, const char *name)
{
    int ready[2];
    char byte;
    pid_t pid;

    assert_int_equal(pipe(ready), 0);
    pid = fork();
    if (pid == 0) {
        if (folder_claim(folder, name, NULL) < 0 || folder_listen(folder, name, NULL) < 0 || write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return pid;
}

static void kill_owner(pid_t pid)
{
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void a_name_is_claimed_once(void **state)
{
    int folder = *(int *)*state, lock = claim(folder, "box");
    struct err e = {""};

    assert_int_equal(folder_claim(folder, "box", &e), -EEXIST);
    assert_non_null(strstr(e.text, "'box' runs already"));
    assert_int_equal(folder_owner(folder, "box"), getpid());
    assert_int_equal(folder_owner(folder, "other"), 0);
    folder_release(folder, "box", lock);
    assert_int_equal(folder_owner(folder, "box"), 0);
    folder_release(folder, "box", claim(folder, "box"));
}

static void only_who_listens_can_be_connected_to(void **state)
{
    int folder = *(int *)*state, lock = claim(folder, "box"), listener, fd;

    assert_int_equal(folder_connect(folder, "box"), -ENOENT);
    listener = folder_listen(folder, "box", NULL);
    assert_true(listener >= 0);
    fd = folder_connect(folder, "box");
    assert_true(fd >= 0);
    close(fd);
    close(listener);
    assert_int_equal(folder_connect(folder, "box"), -ECONNREFUSED);
    folder_release(folder, "box", lock);
    assert_int_equal(folder_connect(folder, "box"), -ENOENT);
}

static void what_a_killed_owner_leaves_is_cleared_by_whoever_looks(void **state)
{
    int folder = *(int *)*state;

    kill_owner(start_owner(folder, "box"));
    assert_int_equal(faccessat(folder, "box.lock", F_OK, 0), 0);
    assert_int_equal(folder_owner(folder, "box"), 0);
    assert_int_not_equal(faccessat(folder, "box.lock", F_OK, 0), 0);
    assert_int_not_equal(faccessat(folder, "box.sock", F_OK, 0), 0);
    kill_owner(start_owner(folder, "box"));
    folder_release(folder, "box", claim(folder, "box"));
}

static void the_list_has_the_living_in_order_and_clears_the_rest(void **state)
{
    int folder = *(int *)*state;
    pid_t web = start_owner(folder, "web"), dead = start_owner(folder, "dead"), builder = start_owner(folder, "builder");
    int orphan = openat(folder, "orphan.sock", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    close(orphan);
    kill_owner(dead);
    expect_names(folder, "builder web ");
    assert_int_equal(folder_owner(folder, "web"), web);
    kill_owner(web);
    kill_owner(builder);
    expect_names(folder, "");
}

/* A claim that meets somebody who only clears up must not take that for a VM. */
static void claims_succeed_while_others_look(void **state)
{
    int folder = *(int *)*state;
    pid_t looker = fork();

    if (looker == 0)
        for (;;) {
            struct folder_names names;

            if (folder_list(folder, &names, NULL) == 0)
                folder_names_free(&names);
        }
    for (unsigned i = 0; i < 200; i++) {
        int lock = claim(folder, "box");

        assert_int_equal(folder_owner(folder, "box"), getpid());
        assert_int_equal(faccessat(folder, "box.lock", F_OK, 0), 0);
        folder_release(folder, "box", lock);
    }
    kill_owner(looker);
    expect_names(folder, "");
}

static void a_folder_of_others_or_open_to_others_is_refused(void **state)
{
    char path[FOLDER_PATH_MAX];
    struct err e = {""};

    (void)state;
    folder_path(path);
    assert_int_equal(chmod(path, 0750), 0);
    assert_int_equal(folder_open(&e), -EPERM);
    assert_non_null(strstr(e.text, "mode 750"));
    assert_int_equal(chmod(path, 0700), 0);
    close(folder_open(&e));
}

static void a_runtime_folder_that_is_not_the_users_is_passed_over(void **state)
{
    char path[FOLDER_PATH_MAX], expected[64];

    (void)state;
    snprintf(expected, sizeof(expected), "/tmp/umbra-%u", (unsigned)geteuid());
    setenv("XDG_RUNTIME_DIR", "/nonexistent/for/umbra", 1);
    folder_path(path);
    assert_string_equal(path, expected);
    unsetenv("XDG_RUNTIME_DIR");
    folder_path(path);
    assert_string_equal(path, expected);
    setenv("XDG_RUNTIME_DIR", runtime, 1);
    folder_path(path);
    assert_memory_equal(path, runtime, strlen(runtime));
}

#define FOLDER_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FOLDER_TEST(a_name_is_claimed_once),
        FOLDER_TEST(only_who_listens_can_be_connected_to),
        FOLDER_TEST(what_a_killed_owner_leaves_is_cleared_by_whoever_looks),
        FOLDER_TEST(the_list_has_the_living_in_order_and_clears_the_rest),
        FOLDER_TEST(claims_succeed_while_others_look),
        FOLDER_TEST(a_folder_of_others_or_open_to_others_is_refused),
        FOLDER_TEST(a_runtime_folder_that_is_not_the_users_is_passed_over),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
