/* Files to boot from: each thing that is no such file has its sentence, and a changed file is noticed. */
#include "boot_fake.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "boot/file.h"

static char dir[] = "/tmp/boot_file_test.XXXXXX";

static const char *path(const char *name)
{
    static char text[128];

    snprintf(text, sizeof(text), "%s/%s", dir, name);
    return text;
}

static void write_file(const char *name, const void *data, size_t len)
{
    FILE *f = fopen(path(name), "w");

    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    fclose(f);
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return rmdir(dir);
}

static void a_regular_file_is_mapped(void **state)
{
    struct boot_file f;
    struct err e;

    (void)state;
    write_file("k", "kernel", 6);
    assert_int_equal(boot_file_open(&f, "kernel", path("k"), 100, &e), 0);
    assert_int_equal(f.size, 6);
    assert_memory_equal(f.data, "kernel", 6);
    assert_false(f.owned);
    assert_string_equal(f.name, path("k"));
    assert_int_equal(boot_file_check(&f, "kernel", &e), 0);
    boot_file_release_pages(&f);
    assert_memory_equal(f.data, "kernel", 6);
    boot_file_close(&f);
    unlink(path("k"));
}

static void what_is_no_file_is_named(void **state)
{
    struct boot_file f;
    struct err e;

    (void)state;
    assert_int_equal(boot_file_open(&f, "kernel", path("none"), 100, &e), -ENOENT);
    assert_says(e, "kernel ");
    assert_says(e, "none does not exist");
    assert_int_equal(boot_file_open(&f, "initrd", dir, 100, &e), -EISDIR);
    assert_says(e, "is a directory");
    write_file("empty", "", 0);
    assert_int_equal(boot_file_open(&f, "initrd", path("empty"), 100, &e), -EINVAL);
    assert_says(e, "is empty");
    unlink(path("empty"));
}

static void a_file_larger_than_allowed_is_refused(void **state)
{
    struct boot_file f;
    struct err e;

    (void)state;
    write_file("k", "kernel", 6);
    assert_int_equal(boot_file_open(&f, "kernel", path("k"), 5, &e), -EFBIG);
    assert_says(e, "larger than");
    assert_int_equal(boot_file_open(&f, "kernel", path("k"), 6, &e), 0);
    boot_file_close(&f);
    unlink(path("k"));
}

static void a_pipe_is_read_to_its_end(void **state)
{
    static uint8_t data[40000];
    char name[32];
    struct boot_file f;
    struct err e;
    int fds[2];

    (void)state;
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 3);
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], data, sizeof(data)), sizeof(data));
    close(fds[1]);
    snprintf(name, sizeof(name), "/dev/fd/%d", fds[0]);
    assert_int_equal(boot_file_open(&f, "initrd", name, sizeof(data), &e), 0);
    assert_true(f.owned);
    assert_int_equal(f.size, sizeof(data));
    assert_memory_equal(f.data, data, sizeof(data));
    assert_int_equal(boot_file_check(&f, "initrd", &e), 0);
    boot_file_close(&f);
    close(fds[0]);
}

static void a_pipe_with_too_much_is_refused(void **state)
{
    char name[32];
    struct boot_file f;
    struct err e;
    int fds[2];

    (void)state;
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], "0123456789", 10), 10);
    close(fds[1]);
    snprintf(name, sizeof(name), "/dev/fd/%d", fds[0]);
    assert_int_equal(boot_file_open(&f, "initrd", name, 9, &e), -EFBIG);
    close(fds[0]);
}

static void a_file_that_changed_is_stale(void **state)
{
    struct boot_file f;
    struct err e;

    (void)state;
    write_file("k", "kernel", 6);
    assert_int_equal(boot_file_open(&f, "kernel", path("k"), 100, &e), 0);
    assert_int_equal(truncate(path("k"), 3), 0);
    assert_int_equal(boot_file_check(&f, "kernel", &e), -ESTALE);
    assert_says(e, "was changed");
    boot_file_close(&f);
    unlink(path("k"));
}

static void borrowed_bytes_stay_the_callers(void **state)
{
    struct boot_file f;
    struct err e;

    (void)state;
    assert_int_equal(boot_file_borrow(&f, "bytes", "abc", 3, &e), 0);
    assert_string_equal(f.name, "bytes");
    assert_int_equal(boot_file_check(&f, "kernel", &e), 0);
    boot_file_release_pages(&f);
    boot_file_close(&f);
    assert_null(f.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_regular_file_is_mapped),
        cmocka_unit_test(what_is_no_file_is_named),
        cmocka_unit_test(a_file_larger_than_allowed_is_refused),
        cmocka_unit_test(a_pipe_is_read_to_its_end),
        cmocka_unit_test(a_pipe_with_too_much_is_refused),
        cmocka_unit_test(a_file_that_changed_is_stale),
        cmocka_unit_test(borrowed_bytes_stay_the_callers),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
