/* Messages: whole lines with their prefix, the guest's complaints rationed, and the last words of a failed assertion. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bug.h"
#include "base/clock.h"
#include "base/log.h"

#define THREADS 4
#define LINES 100

static atomic_ullong now_ns = 5 * NS_PER_SEC;

/* In place of the host's clock. */
uint64_t clock_monotonic_ns(void)
{
    return atomic_load(&now_ns);
}

static struct {
    int pipe_read, stderr_before;
    char text[65536];
} captured;

static void capture_begin(void)
{
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    captured.stderr_before = dup(STDERR_FILENO);
    dup2(fds[1], STDERR_FILENO);
    close(fds[1]);
    captured.pipe_read = fds[0];
}

static const char *capture_end(void)
{
    size_t len = 0;
    ssize_t n;

    dup2(captured.stderr_before, STDERR_FILENO);
    close(captured.stderr_before);
    while ((n = read(captured.pipe_read, captured.text + len, sizeof(captured.text) - 1 - len)) > 0)
        len += (size_t)n;
    close(captured.pipe_read);
    captured.text[len] = '\0';
    return captured.text;
}

static void every_kind_of_line_has_the_prefix_and_ends(void **state)
{
    (void)state;
    capture_begin();
    log_error("disk %d is gone", 3);
    log_warn("%s is slow", "it");
    log_info("hello");
    assert_string_equal(capture_end(), "umbra: disk 3 is gone\numbra: warning: it is slow\numbra: hello\n");
}

static void in_raw_mode_lines_end_in_cr_lf(void **state)
{
    (void)state;
    capture_begin();
    log_set_crlf(true);
    log_info("raw");
    log_set_crlf(false);
    log_info("cooked");
    assert_string_equal(capture_end(), "umbra: raw\r\numbra: cooked\n");
}

static void a_line_that_is_too_long_is_cut_but_still_ends(void **state)
{
    char longer[4000];
    const char *text;

    (void)state;
    memset(longer, 'y', sizeof(longer));
    longer[sizeof(longer) - 1] = '\0';
    for (int crlf = 0; crlf < 2; crlf++) {
        capture_begin();
        log_set_crlf(crlf);
        log_error("%s", longer);
        log_set_crlf(false);
        text = capture_end();
        assert_int_equal(strncmp(text, "umbra: yyyy", 11), 0);
        assert_true(strlen(text) > 500);
        assert_true(strlen(text) < sizeof(longer));
        assert_string_equal(text + strlen(text) - 2 - crlf, crlf ? "y\r\n" : "y\n");
    }
}

static void *write_lines(void *arg)
{
    int thread = (int)(intptr_t)arg;

    for (int i = 0; i < LINES; i++)
        log_info("thread %d says %d and no more", thread, i);
    return NULL;
}

static void lines_of_several_threads_do_not_mix(void **state)
{
    pthread_t threads[THREADS];
    int next[THREADS] = {0};
    char *line, *rest;

    (void)state;
    capture_begin();
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, (void *)(intptr_t)i), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    capture_end();
    for (line = strtok_r(captured.text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        int thread, number, end = 0;

        assert_int_equal(sscanf(line, "umbra: thread %d says %d and no more%n", &thread, &number, &end), 2);
        assert_int_equal(line[end], '\0');
        assert_in_range(thread, 0, THREADS - 1);
        assert_int_equal(number, next[thread]++);
    }
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(next[i], LINES);
}

static void the_guest_gets_one_line_a_second_and_the_rest_is_counted(void **state)
{
    struct log_limit limit = {0};

    (void)state;
    capture_begin();
    log_guest(&limit, "bad ring %d", 1);
    log_guest(&limit, "bad ring %d", 2);
    now_ns += NS_PER_SEC - 1;
    log_guest(&limit, "bad ring %d", 3);
    now_ns += 1;
    log_guest(&limit, "bad ring %d", 4);
    now_ns += NS_PER_SEC;
    log_guest(&limit, "bad ring %d", 5);
    assert_string_equal(capture_end(), "umbra: guest: bad ring 1\n"
                                       "umbra: guest: bad ring 4\n"
                                       "umbra: guest: 2 messages of that kind were held back\n"
                                       "umbra: guest: bad ring 5\n");
}

static void limits_do_not_share_their_second(void **state)
{
    struct log_limit a = {0}, b = {0};

    (void)state;
    capture_begin();
    log_guest(&a, "a");
    log_guest(&b, "b");
    assert_string_equal(capture_end(), "umbra: guest: a\numbra: guest: b\n");
}

static void *complain(void *limit)
{
    for (int i = 0; i < LINES; i++)
        log_guest(limit, "again");
    return NULL;
}

static void threads_share_a_limit(void **state)
{
    struct log_limit limit = {0};
    pthread_t threads[THREADS];

    (void)state;
    capture_begin();
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, complain, &limit), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_string_equal(capture_end(), "umbra: guest: again\n");
    assert_int_equal(limit.held_back, THREADS * LINES - 1);
}

static void a_failed_assertion_names_its_place_and_aborts(void **state)
{
    const char *text;
    int status;
    pid_t child;

    (void)state;
    capture_begin();
    child = fork();
    if (child == 0) {
        const struct rlimit no_core = {0, 0};

        setrlimit(RLIMIT_CORE, &no_core);
        signal(SIGABRT, SIG_DFL);
        BUG_ON(LINES != 100);
        BUG_ON(LINES == 100);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    text = capture_end();
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_non_null(strstr(text, "log_test.c:"));
    assert_non_null(strstr(text, "LINES == 100"));
    assert_null(strstr(text, "LINES != 100"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_line_has_the_prefix_and_ends),
        cmocka_unit_test(in_raw_mode_lines_end_in_cr_lf),
        cmocka_unit_test(a_line_that_is_too_long_is_cut_but_still_ends),
        cmocka_unit_test(lines_of_several_threads_do_not_mix),
        cmocka_unit_test(the_guest_gets_one_line_a_second_and_the_rest_is_counted),
        cmocka_unit_test(limits_do_not_share_their_second),
        cmocka_unit_test(threads_share_a_limit),
        cmocka_unit_test(a_failed_assertion_names_its_place_and_aborts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
