/* Opening disks: what is refused and what the sentence says, locks, sizes and block sizes, and which engine they get. */
#include "block_image.h"

#include <dlfcn.h>
#include <errno.h>
#include <liburing.h>
#include <linux/loop.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "block/backend.h"

static struct loop *loop;
static struct err e;

/* In liburing's place: what the host answers. 0: what it answers in truth. */
static int ring_error;

int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
    int (*real)(unsigned, struct io_uring *, unsigned);

    if (ring_error)
        return ring_error;
    *(void **)&real = dlsym(RTLD_NEXT, "io_uring_queue_init");
    return real(entries, ring, flags);
}

static int setup(void **state)
{
    (void)state;
    image_dir_make();
    loop = loop_new(&e);
    assert_non_null(loop);
    ring_error = 0;
    e.text[0] = '\0';
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    loop_free(loop);
    image_dir_remove();
    return 0;
}

static struct block_backend *open_disk(struct block_options o)
{
    e.text[0] = '\0';
    return block_open(&o, loop, &e);
}

#define OPEN(...) open_disk((struct block_options){__VA_ARGS__})

static void assert_said(const char *part)
{
    if (!strstr(e.text, part))
        fail_msg("\"%s\" does not say \"%s\"", e.text, part);
}

static void assert_refused(struct block_options o, const char *part)
{
    assert_null(open_disk(o));
    assert_said(o.path);
    assert_said(part);
}

#define REFUSED(part, ...) assert_refused((struct block_options){__VA_ARGS__}, part)

/* --- what is no disk --- */

static void a_missing_file_is_named_with_what_makes_one(void **state)
{
    (void)state;
    REFUSED("does not exist", .path = image_path("none.img"));
    assert_said("`truncate -s 10G ");
}

static void a_directory_is_no_disk(void **state)
{
    (void)state;
    REFUSED("is a directory", .path = image_dir);
    REFUSED("is a directory", .path = image_dir, .read_only = true);
}

static void a_pipe_or_a_character_device_is_no_disk(void **state)
{
    (void)state;
    assert_int_equal(mkfifo(image_path("fifo"), 0600), 0);
    REFUSED("neither a file nor a block device", .path = image_path("fifo"));
    REFUSED("neither a file nor a block device", .path = "/dev/zero");
}

static void an_image_of_another_format_is_refused_with_the_line_that_converts_it(void **state)
{
    static const struct {
        const char *format;
        unsigned offset;
        const char *magic;
    } rows[] = {
        {"qcow2", 0, "QFI\xfb"}, {"vmdk", 0, "KDMV"}, {"vhdx", 0, "vhdxfile"}, {"vdi", 64, "\x7f\x10\xda\xbe"}, {"vpc", 0, "conectix"}};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        char name[32], line[256];
        const char *path;

        snprintf(name, sizeof(name), "disk.%s", rows[i].format);
        path = image_make(name, MIB(1));
        image_write(path, rows[i].offset, rows[i].magic, strlen(rows[i].magic));
        snprintf(line, sizeof(line), "is a %s image, and only raw ones are read: `qemu-img convert -O raw %s %s/disk.raw`", rows[i].format,
                 path, image_dir);
        REFUSED(line, .path = path);
        REFUSED(line, .path = path, .read_only = true);
    }
}

static void the_line_that_converts_does_not_write_to_what_it_reads(void **state)
{
    const char *path = image_make("disk.raw", MIB(1));
    char line[256];

    (void)state;
    image_write(path, 0, "QFI\xfb", 4);
    snprintf(line, sizeof(line), "%s %s.raw`", path, path);
    REFUSED(line, .path = path);
}

/* --- sizes --- */

static void a_raw_image_opens_with_its_size(void **state)
{
    struct block_backend *b = OPEN(.path = image_make("disk", MIB(3) + 512));

    (void)state;
    assert_non_null(b);
    assert_int_equal(b->size, MIB(3) + 512);
    assert_int_equal(b->block_size, 512);
    assert_false(b->read_only);
    assert_string_equal(b->path, image_path("disk"));
    block_free(b);
}

static void a_size_that_is_no_multiple_of_the_block_size_is_refused(void **state)
{
    const char *path = image_make("disk", MIB(1) + 512);

    (void)state;
    REFUSED("1049088 bytes, which is not a multiple of 4096", .path = path, .block_size = 4096);
    image_make("disk", MIB(1) + 1);
    REFUSED("not a multiple of 512", .path = path);
}

static void an_empty_file_is_refused(void **state)
{
    (void)state;
    REFUSED("is empty: `truncate", .path = image_make("disk", 0));
}

static void a_block_size_is_512_or_4096(void **state)
{
    static const uint32_t wrong[] = {1, 511, 1024, 2048, 8192, 0x80000000U};
    const char *path = image_make("disk", MIB(1));
    struct block_backend *b;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++)
        REFUSED("only 512 or 4096", .path = path, .block_size = wrong[i]);
    b = OPEN(.path = path, .block_size = 4096);
    assert_non_null(b);
    assert_int_equal(b->block_size, 4096);
    block_free(b);
}

/* --- rights --- */

static void a_file_without_the_right_to_write_opens_read_only(void **state)
{
    const char *path = image_make("disk", MIB(1));
    uid_t before = geteuid();
    struct block_backend *b;

    (void)state;
    assert_int_equal(chmod(path, 0444), 0);
    if (before == 0)
        assert_int_equal(seteuid(65534), 0);
    b = OPEN(.path = path);
    if (before == 0)
        assert_int_equal(seteuid(before), 0);
    assert_null(b);
    assert_said("cannot be opened for writing");
    assert_said("disk,ro` opens it for reading");
    b = OPEN(.path = path, .read_only = true);
    assert_non_null(b);
    assert_true(b->read_only);
    assert_false(b->discard);
    block_free(b);
}

static void a_file_that_cannot_be_read_is_refused(void **state)
{
    const char *path = image_make("disk", MIB(1));
    uid_t before = geteuid();
    struct block_backend *b;

    (void)state;
    assert_int_equal(chmod(path, 0), 0);
    if (before == 0)
        assert_int_equal(seteuid(65534), 0);
    b = OPEN(.path = path, .read_only = true);
    if (before == 0)
        assert_int_equal(seteuid(before), 0);
    assert_null(b);
    assert_said("cannot be opened: Permission denied");
}

/* --- locks --- */

static void a_second_writer_is_refused_in_the_same_process_too(void **state)
{
    const char *path = image_make("disk", MIB(1));
    struct block_backend *b = OPEN(.path = path);
    char holder[64];

    (void)state;
    assert_non_null(b);
    snprintf(holder, sizeof(holder), "in use by process %d (this one)", getpid());
    REFUSED(holder, .path = path);
    assert_said("`,ro` for all of them");
    block_free(b);
    b = OPEN(.path = path);
    assert_non_null(b);
    block_free(b);
}

static void a_writer_elsewhere_is_named_by_its_pid(void **state)
{
    const char *path = image_make("disk", MIB(1));
    int ready[2];
    char holder[64], byte;
    pid_t pid;

    (void)state;
    assert_int_equal(pipe(ready), 0);
    pid = fork();
    if (pid == 0) {
        int fd = open(path, O_RDWR | O_CLOEXEC);

        if (fd < 0 || flock(fd, LOCK_EX) || write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    assert_true(pid > 0);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    snprintf(holder, sizeof(holder), "in use by process %d:", pid);
    REFUSED(holder, .path = path);
    REFUSED(holder, .path = path, .read_only = true);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(ready[0]);
    close(ready[1]);
}

static void readers_share_a_disk_with_readers_only(void **state)
{
    const char *path = image_make("disk", MIB(1));
    struct block_backend *a = OPEN(.path = path, .read_only = true), *b = OPEN(.path = path, .read_only = true);

    (void)state;
    assert_non_null(a);
    assert_non_null(b);
    REFUSED("in use by process", .path = path);
    block_free(a);
    REFUSED("in use by process", .path = path);
    block_free(b);
    a = OPEN(.path = path);
    assert_non_null(a);
    REFUSED("shares a disk with nobody", .path = path, .read_only = true);
    block_free(a);
}

static void what_was_refused_is_not_left_locked(void **state)
{
    const char *path = image_make("disk", MIB(1));
    struct block_backend *b;

    (void)state;
    REFUSED("only 512 or 4096", .path = path, .block_size = 7);
    b = OPEN(.path = path);
    assert_non_null(b);
    block_free(b);
}

/* --- O_DIRECT --- */

static void direct_takes_the_hosts_block_size(void **state)
{
    const char *path = image_make("disk", MIB(1));
    struct block_backend *b = OPEN(.path = path, .direct = true);

    (void)state;
    if (!b && strstr(e.text, "leave out ,direct")) {
        print_message("skip no O_DIRECT in %s\n", image_dir);
        skip();
    }
    assert_non_null(b);
    assert_true(b->block_size == 512 || b->block_size == 4096);
    block_free(b);
}

/* --- block devices --- */

/* A loop device of a file, or -1 where this host does not let us. */
static int loop_device(const char *path, uint32_t block_size, char name[32])
{
    struct loop_config config = {.block_size = block_size, .info.lo_flags = LO_FLAGS_AUTOCLEAR};
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), device = -1, number;

    if (control < 0)
        return -1;
    number = ioctl(control, LOOP_CTL_GET_FREE);
    close(control);
    config.fd = (uint32_t)open(path, O_RDWR | O_CLOEXEC);
    snprintf(name, 32, "/dev/loop%d", number);
    if (number >= 0)
        device = open(name, O_RDWR | O_CLOEXEC);
    if (device >= 0 && ioctl(device, LOOP_CONFIGURE, &config)) {
        close(device);
        device = -1;
    }
    close((int)config.fd);
    return device;
}

static void a_block_device_opens_with_its_size_and_sectors(void **state)
{
    static const uint32_t sizes[] = {512, 4096};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        char name[32];
        int device = loop_device(image_make("disk", MIB(2)), sizes[i], name);
        struct block_backend *b;

        if (device < 0) {
            print_message("skip no loop device to be had here\n");
            skip();
        }
        b = OPEN(.path = name);
        assert_non_null(b);
        assert_int_equal(b->size, MIB(2));
        assert_int_equal(b->block_size, sizes[i]);
        REFUSED("is in use by", .path = name);
        block_free(b);
        if (sizes[i] == 4096)
            REFUSED("has blocks of 4096 bytes on this host", .path = name, .block_size = 512);
        close(device);
    }
}

/* --- engines --- */

static void the_engine_is_the_one_that_was_asked_for(void **state)
{
    const char *path = image_make("disk", MIB(1));
    struct block_backend *b = OPEN(.path = path, .engine = BLOCK_ENGINE_THREADS);
    char why[128];

    (void)state;
    assert_non_null(b);
    assert_string_equal(b->ops->name, "threads");
    block_free(b);
    if (!block_uring_usable(why)) {
        print_message("skip no io_uring here: %s\n", why);
        skip();
    }
    assert_string_equal(why, "");
    b = OPEN(.path = path);
    assert_non_null(b);
    assert_string_equal(b->ops->name, "io_uring");
    block_free(b);
}

static void a_host_without_io_uring_gives_threads_and_says_why(void **state)
{
    static const struct {
        int error;
        const char *why;
    } rows[] = {{-ENOSYS, "no io_uring"}, {-EPERM, "forbids"}, {-ENOMEM, "ulimit -l"}, {-EMFILE, "Too many open files"}};
    const char *path = image_make("disk", MIB(1));

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        struct block_backend *b;
        char why[128];

        ring_error = rows[i].error;
        assert_false(block_uring_usable(why));
        /* Where a sysctl is the reason it is the one that is named. */
        if (!strstr(why, rows[i].why) && !strstr(why, "sysctl kernel.io_uring_disabled is "))
            fail_msg("%d: \"%s\"", rows[i].error, why);
        b = OPEN(.path = path);
        assert_non_null(b);
        assert_string_equal(b->ops->name, "threads");
        block_free(b);
        REFUSED(why, .path = path, .engine = BLOCK_ENGINE_URING);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_missing_file_is_named_with_what_makes_one),
        TEST(a_directory_is_no_disk),
        TEST(a_pipe_or_a_character_device_is_no_disk),
        TEST(an_image_of_another_format_is_refused_with_the_line_that_converts_it),
        TEST(the_line_that_converts_does_not_write_to_what_it_reads),
        TEST(a_raw_image_opens_with_its_size),
        TEST(a_size_that_is_no_multiple_of_the_block_size_is_refused),
        TEST(an_empty_file_is_refused),
        TEST(a_block_size_is_512_or_4096),
        TEST(a_file_without_the_right_to_write_opens_read_only),
        TEST(a_file_that_cannot_be_read_is_refused),
        TEST(a_second_writer_is_refused_in_the_same_process_too),
        TEST(a_writer_elsewhere_is_named_by_its_pid),
        TEST(readers_share_a_disk_with_readers_only),
        TEST(what_was_refused_is_not_left_locked),
        TEST(direct_takes_the_hosts_block_size),
        TEST(a_block_device_opens_with_its_size_and_sectors),
        TEST(the_engine_is_the_one_that_was_asked_for),
        TEST(a_host_without_io_uring_gives_threads_and_says_why),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
