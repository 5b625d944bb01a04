/* The whole machine around guests of a few instructions: how it is built, how it ends, and what it leaves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "cpu/stats.h"
#include "machine/machine.h"

/* --- guests: raw images that a multiboot header loads at 1 MiB and enters in 32-bit mode, flat, interrupts off --- */

#define LOAD_GPA 0x100000U
#define HEADER_BYTES 32U
#define COUNTER "\x00\x00\x20\x00" /* a doubleword at 2 MiB, outside the image: a reset keeps it */

#define OUT8(port_low, port_high, value) "\xb0" value "\x66\xba" port_low port_high "\xee"
#define POWER_OFF "\x66\xb8\x00\x34\x66\xba\x04\x06\x66\xef" /* SLP_EN with _S5's type to PM1_CNT */
#define RESET OUT8("\xf9", "\x0c", "\x06")
#define STOP "\xfa\xf4\xeb\xfd" /* cli, hlt again and again */
#define SPIN "\xfa\xeb\xfe"
#define PRINT(c) OUT8("\xf8", "\x03", c)

struct test {
    struct machine machine;
    struct config config;
    struct err e;
    char kernel[32];
    uint8_t out[512];
    size_t out_len;
    struct loop_timer timer;
};

static char disk[] = "/tmp/umbra-test-XXXXXX";

static void put32(uint8_t *p, uint32_t value)
{
    memcpy(p, &value, sizeof(value));
}

/* Makes *t's kernel a file with this code, loaded at gpa. */
static void write_kernel(struct test *t, const char *code, size_t len, uint32_t gpa)
{
    uint8_t header[HEADER_BYTES];
    int fd;

    put32(header, 0x1badb002);
    put32(header + 4, 0x10000); /* with addresses */
    put32(header + 8, -(0x1badb002U + 0x10000U));
    put32(header + 12, gpa);
    put32(header + 16, gpa);
    put32(header + 20, 0);
    put32(header + 24, 0);
    put32(header + 28, gpa + HEADER_BYTES);
    strcpy(t->kernel, "/tmp/umbra-test-XXXXXX");
    fd = mkstemp(t->kernel);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, header, sizeof(header)), sizeof(header));
    assert_int_equal(write(fd, code, len), len);
    close(fd);
    t->config.kernel = strdup(t->kernel);
}

static size_t take_output(void *opaque, const uint8_t *data, size_t len)
{
    struct test *t = opaque;
    size_t room = sizeof(t->out) - t->out_len;

    memcpy(t->out + t->out_len, data, MIN(len, room));
    t->out_len += MIN(len, room);
    return len;
}

static int make_disk(void **state)
{
    int fd = mkstemp(disk);

    (void)state;
    return fd < 0 || ftruncate(fd, (off_t)MIB(1)) != 0 || close(fd) != 0 ? -1 : 0;
}

static int remove_disk(void **state)
{
    (void)state;
    return unlink(disk);
}

static struct test *start(void)
{
    struct test *t = aligned_alloc(64, ALIGN_UP(sizeof(*t), 64));

    assert_non_null(t);
    memset(t, 0, sizeof(*t));
    config_init(&t->config);
    t->config.memory = MIB(4);
    return t;
}

static void finish(struct test *t)
{
    machine_fini(&t->machine);
    if (t->kernel[0])
        unlink(t->kernel);
    config_fini(&t->config);
    free(t);
}

static int build(struct test *t)
{
    const struct machine_consoles consoles = {.serial = {.opaque = t, .out = take_output}};
    int error = machine_init(&t->machine, &t->config, &t->e);

    return error ? error : machine_init_devices(&t->machine, &consoles, &t->e);
}

static void set(struct config *c, const char *key, const char *value)
{
    struct err e;

    if (config_set(c, key, value, &e) != 0)
        fail_msg("%s", e.text);
}

static void with_a_device_of_each_kind(struct config *c)
{
    char value[64];

    snprintf(value, sizeof(value), "%s,ro,queues=2", disk);
    set(c, "disk", value);
    set(c, "net", "user");
    set(c, "console", "virtio");
}

static struct test *build_with(const char *code, size_t len, void (*settings)(struct config *))
{
    struct test *t = start();

    write_kernel(t, code, len, LOAD_GPA);
    if (settings)
        settings(&t->config);
    if (build(t) != 0)
        fail_msg("%s", t->e.text);
    return t;
}

static void assert_ends(const char *code, size_t len, void (*settings)(struct config *), enum vm_end end, int status)
{
    struct test *t = build_with(code, len, settings);

    assert_int_equal(machine_run(&t->machine, &t->e), 0);
    assert_int_equal(t->machine.vm.end, end);
    assert_int_equal(machine_exit_status(&t->machine), status);
    finish(t);
}

#define ENDS(code, settings, end, status) assert_ends(code, sizeof(code) - 1, settings, end, status)

static void quit(struct loop_timer *timer)
{
    struct test *t = container_of(timer, struct test, timer);

    vm_request_end(&t->machine.vm, VM_END_QUIT, 143, "ended");
}

static void assert_quits(const char *code, size_t len)
{
    struct test *t = build_with(code, len, NULL);

    loop_timer_init(t->machine.vm.loop, &t->timer, quit);
    loop_timer_set(&t->timer, clock_monotonic_ns() + 50 * NS_PER_MS);
    assert_int_equal(machine_run(&t->machine, &t->e), 0);
    assert_int_equal(t->machine.vm.end, VM_END_QUIT);
    assert_int_equal(machine_exit_status(&t->machine), 143);
    finish(t);
}

/* --- building --- */

static void a_missing_kernel_is_told_and_leaves_nothing(void **state)
{
    struct test *t = start();

    (void)state;
    t->config.kernel = strdup("/nonexistent/kernel");
    assert_int_equal(build(t), -ENOENT);
    assert_non_null(strstr(t->e.text, "/nonexistent/kernel"));
    assert_int_equal(t->machine.built, 0);
    finish(t);
}

/* All other parts are up by then. */
static void a_kernel_beyond_the_memory_takes_the_whole_machine_down_again(void **state)
{
    struct test *t = start();

    (void)state;
    write_kernel(t, STOP, sizeof(STOP) - 1, (uint32_t)MIB(64));
    assert_true(build(t) < 0);
    assert_non_null(strstr(t->e.text, t->kernel));
    assert_true(t->machine.built > 10);
    finish(t);
}

static unsigned open_files(void)
{
    unsigned n = 0;

    for (int fd = 0; fd < 256; fd++)
        n += dup2(fd, fd) == fd;
    return n;
}

static void it_comes_down_wherever_descriptors_run_out(void **state)
{
    unsigned before = open_files();
    struct rlimit limit, low;
    bool built = false;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    for (unsigned more = 0; !built; more++) {
        struct test *t = start();

        assert_true(more < 64);
        write_kernel(t, STOP, sizeof(STOP) - 1, LOAD_GPA);
        t->config.memory_shared = true;
        with_a_device_of_each_kind(&t->config);
        low = (struct rlimit){.rlim_cur = before + more, .rlim_max = limit.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
        built = build(t) == 0;
        if (!built)
            assert_true(t->e.text[0] != '\0');
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
        finish(t);
        assert_int_equal(open_files(), before);
    }
}

static void more_cpus_than_the_engine_has_are_refused(void **state)
{
    struct test *t = start();

    (void)state;
    write_kernel(t, STOP, sizeof(STOP) - 1, LOAD_GPA);
    set(&t->config, "cpus", "64");
    assert_int_equal(build(t), -EINVAL);
    assert_non_null(strstr(t->e.text, "--cpus 64"));
    finish(t);
}

/* --- devices on PCI --- */

static void a_disk_that_is_missing_takes_the_machine_down_again(void **state)
{
    struct test *t = start();

    (void)state;
    write_kernel(t, STOP, sizeof(STOP) - 1, LOAD_GPA);
    with_a_device_of_each_kind(&t->config);
    set(&t->config, "disk", "/nonexistent/disk");
    assert_true(build(t) < 0);
    assert_non_null(strstr(t->e.text, "/nonexistent/disk"));
    assert_int_equal(t->machine.virtio_count, 0);
    assert_null(t->machine.vm.reporters);
    finish(t);
}

static void devices_have_their_slots_in_the_order_of_kinds(void **state)
{
    static const enum virtio_id ids[] = {VIRTIO_ID_BLK, VIRTIO_ID_NET, VIRTIO_ID_RNG, VIRTIO_ID_CONSOLE};
    struct test *t = build_with(STOP, sizeof(STOP) - 1, with_a_device_of_each_kind);

    (void)state;
    assert_int_equal(t->machine.virtio_count, ARRAY_SIZE(ids));
    for (unsigned i = 0; i < ARRAY_SIZE(ids); i++) {
        assert_int_equal(virtio_pci_device(t->machine.virtio[i].pci)->ops->id, ids[i]);
        assert_int_equal(pci_config_get(t->machine.pci.slots[i + 1], 2, 2), 0x1040 + ids[i]);
    }
    assert_ptr_equal(t->machine.virtio_console, virtio_pci_device(t->machine.virtio[3].pci));
    finish(t);
}

static void without_rng(struct config *c)
{
    set(c, "rng", "off");
}

static void what_was_not_configured_is_not_there(void **state)
{
    struct test *t = build_with(STOP, sizeof(STOP) - 1, without_rng);

    (void)state;
    assert_int_equal(t->machine.virtio_count, 0);
    assert_null(t->machine.virtio_console);
    assert_null(t->machine.pci.slots[1]);
    finish(t);
}

static void as_many_as_can_be(struct config *c)
{
    char value[64];

    snprintf(value, sizeof(value), "%s,ro", disk);
    for (unsigned i = 0; i < CONFIG_DISKS_MAX; i++)
        set(c, "disk", value);
    for (unsigned i = 0; i < CONFIG_NETS_MAX; i++)
        set(c, "net", "user");
    set(c, "console", "virtio");
}

static void the_largest_configuration_has_room_on_the_bus(void **state)
{
    (void)state;
    ENDS(POWER_OFF STOP, as_many_as_can_be, VM_END_POWEROFF, 0);
}

/* Byte 2 of slot 1's configuration space by 0xcf8 and 0xcfe: the device id's low byte goes to the debug exit. */
#define EXIT_WITH_DEVICE_ID "\xb8\x00\x08\x00\x80\x66\xba\xf8\x0c\xef\x66\xba\xfe\x0c\xec\x66\xba\xf4\x00\xee" STOP

static void rng_and_debug_exit(struct config *c)
{
    c->debug_exit = true;
}

static void no_rng_and_debug_exit(struct config *c)
{
    c->debug_exit = true;
    c->rng = false;
}

static void a_guest_finds_its_devices_by_the_configuration_ports(void **state)
{
    (void)state;
    ENDS(EXIT_WITH_DEVICE_ID, rng_and_debug_exit, VM_END_DEBUG_EXIT, 0x44 << 1 | 1);
    ENDS(EXIT_WITH_DEVICE_ID, no_rng_and_debug_exit, VM_END_DEBUG_EXIT, 0xff);
}

static void statistics_have_every_device(void **state)
{
    static const char *const groups[] = {"blk0", "net0", "rng0", "console0"};
    struct test *t = build_with(STOP, sizeof(STOP) - 1, with_a_device_of_each_kind);
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);

    (void)state;
    assert_non_null(f);
    assert_int_equal(stats_write(&t->machine.vm, f, true, &t->e), 0);
    fclose(f);
    for (unsigned i = 0; i < ARRAY_SIZE(groups); i++)
        assert_non_null(strstr(text, groups[i]));
    free(text);
    finish(t);
}

/* --- ends --- */

static void a_power_off_ends_it_with_status_0(void **state)
{
    (void)state;
    ENDS(POWER_OFF STOP, NULL, VM_END_POWEROFF, 0);
}

static void with_debug_exit(struct config *c)
{
    c->debug_exit = true;
}

static void a_debug_exit_carries_its_byte(void **state)
{
    (void)state;
    ENDS(OUT8("\xf4", "\x00", "\x2a") STOP, with_debug_exit, VM_END_DEBUG_EXIT, 0x55);
    ENDS(OUT8("\xf4", "\x00", "\xff") STOP, with_debug_exit, VM_END_DEBUG_EXIT, 0xff);
}

static void the_debug_exit_port_is_absent_unless_asked_for(void **state)
{
    (void)state;
    ENDS(OUT8("\xf4", "\x00", "\x2a") POWER_OFF STOP, NULL, VM_END_POWEROFF, 0);
}

/* An IDT without room for a vector: lidt of the zeroes at the counter, then a breakpoint. */
static void a_triple_fault_ends_it_with_status_3(void **state)
{
    (void)state;
    ENDS("\x0f\x01\x1d" COUNTER "\xcc" STOP, NULL, VM_END_TRIPLE_FAULT, 3);
}

#define BOOT_COUNT "\xff\x05" COUNTER "\x83\x3d" COUNTER "\x03\x73\x07" /* the third boot skips what follows: a RESET */

static void a_reset_boots_the_kernel_again(void **state)
{
    struct test *t = build_with(PRINT("!") BOOT_COUNT RESET POWER_OFF STOP, sizeof(PRINT("!") BOOT_COUNT RESET POWER_OFF STOP) - 1, NULL);

    (void)state;
    assert_int_equal(machine_run(&t->machine, &t->e), 0);
    assert_int_equal(t->machine.vm.end, VM_END_POWEROFF);
    assert_int_equal(t->out_len, 3);
    assert_memory_equal(t->out, "!!!", 3);
    finish(t);
}

static void devices_survive_resets(void **state)
{
    static const char code[] = PRINT("!") BOOT_COUNT RESET POWER_OFF STOP;
    struct test *t = build_with(code, sizeof(code) - 1, with_a_device_of_each_kind);

    (void)state;
    assert_int_equal(machine_run(&t->machine, &t->e), 0);
    assert_int_equal(t->machine.vm.end, VM_END_POWEROFF);
    assert_int_equal(t->out_len, 3);
    assert_int_equal(t->machine.virtio_count, 4);
    finish(t);
}

static void without_reboot(struct config *c)
{
    c->no_reboot = true;
}

static void a_reset_ends_it_where_reboots_are_not_wanted(void **state)
{
    (void)state;
    ENDS(RESET STOP, without_reboot, VM_END_RESET, 0);
}

static void a_reset_undoes_what_the_guest_did_to_the_devices(void **state)
{
    /* At the first boot the UART's scratch register takes a byte; at the second it is printed. */
    static const char code[] = "\x66\xba\xff\x03\xec\x66\xba\xf8\x03\xee" /* in al, 3ff; out 3f8, al */
        OUT8("\xff", "\x03", "A") BOOT_COUNT RESET POWER_OFF STOP;
    struct test *t = build_with(code, sizeof(code) - 1, NULL);

    (void)state;
    assert_int_equal(machine_run(&t->machine, &t->e), 0);
    assert_int_equal(t->out_len, 3);
    assert_memory_equal(t->out, "\0\0\0", 3);
    finish(t);
}

static void a_panic_that_stays_ends_it_with_status_4(void **state)
{
    static const char line[] = "---[ end Kernel panic - not syncing: of no consequence ]---\r\n";
    char code[1024];
    size_t len = 0;
    struct test *t;

    (void)state;
    for (const char *c = line; *c; c++) {
        memcpy(code + len, PRINT("?"), 7);
        code[len + 1] = *c;
        len += 7;
    }
    memcpy(code + len, SPIN, sizeof(SPIN) - 1);
    t = build_with(code, len + sizeof(SPIN) - 1, NULL);
    assert_int_equal(machine_run(&t->machine, &t->e), 0);
    assert_int_equal(t->machine.vm.end, VM_END_PANIC);
    assert_int_equal(machine_exit_status(&t->machine), 4);
    assert_non_null(strstr(t->machine.vm.end_text, "of no consequence"));
    assert_memory_equal(t->out, line, sizeof(line) - 1);
    finish(t);
}

static void what_was_printed_last_is_out_when_it_has_ended(void **state)
{
    struct test *t = build_with(PRINT("a") PRINT("b") POWER_OFF STOP, sizeof(PRINT("a") PRINT("b") POWER_OFF STOP) - 1, NULL);

    (void)state;
    assert_int_equal(machine_run(&t->machine, &t->e), 0);
    assert_int_equal(t->out_len, 2);
    assert_memory_equal(t->out, "ab", 2);
    finish(t);
}

static void a_guest_that_spins_with_interrupts_off_can_be_ended(void **state)
{
    (void)state;
    assert_quits(SPIN, sizeof(SPIN) - 1);
}

static void a_guest_that_halts_for_ever_can_be_ended(void **state)
{
    (void)state;
    assert_quits(STOP, sizeof(STOP) - 1);
}

static void a_guest_that_does_nothing_but_reset_can_be_ended(void **state)
{
    (void)state;
    assert_quits(RESET STOP, sizeof(RESET STOP) - 1);
}

static void the_first_end_counts_but_a_quit_takes_the_place_of_a_reset(void **state)
{
    struct test *t = build_with(STOP, sizeof(STOP) - 1, NULL);
    struct vm *vm = &t->machine.vm;

    (void)state;
    vm_request_end(vm, VM_END_RESET, 0, NULL);
    vm_request_end(vm, VM_END_POWEROFF, 0, NULL);
    assert_int_equal(vm->end, VM_END_RESET);
    vm_request_end(vm, VM_END_QUIT, 143, "ended");
    assert_int_equal(vm->end, VM_END_QUIT);
    vm_request_end(vm, VM_END_RESET, 0, NULL);
    vm_request_end(vm, VM_END_QUIT, 130, NULL);
    assert_int_equal(vm->end, VM_END_QUIT);
    assert_int_equal(machine_exit_status(&t->machine), 143);
    finish(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_missing_kernel_is_told_and_leaves_nothing),
        cmocka_unit_test(a_kernel_beyond_the_memory_takes_the_whole_machine_down_again),
        cmocka_unit_test(it_comes_down_wherever_descriptors_run_out),
        cmocka_unit_test(more_cpus_than_the_engine_has_are_refused),
        cmocka_unit_test(a_disk_that_is_missing_takes_the_machine_down_again),
        cmocka_unit_test(devices_have_their_slots_in_the_order_of_kinds),
        cmocka_unit_test(what_was_not_configured_is_not_there),
        cmocka_unit_test(the_largest_configuration_has_room_on_the_bus),
        cmocka_unit_test(a_guest_finds_its_devices_by_the_configuration_ports),
        cmocka_unit_test(statistics_have_every_device),
        cmocka_unit_test(a_power_off_ends_it_with_status_0),
        cmocka_unit_test(a_debug_exit_carries_its_byte),
        cmocka_unit_test(the_debug_exit_port_is_absent_unless_asked_for),
        cmocka_unit_test(a_triple_fault_ends_it_with_status_3),
        cmocka_unit_test(a_reset_boots_the_kernel_again),
        cmocka_unit_test(devices_survive_resets),
        cmocka_unit_test(a_reset_ends_it_where_reboots_are_not_wanted),
        cmocka_unit_test(a_reset_undoes_what_the_guest_did_to_the_devices),
        cmocka_unit_test(a_panic_that_stays_ends_it_with_status_4),
        cmocka_unit_test(what_was_printed_last_is_out_when_it_has_ended),
        cmocka_unit_test(a_guest_that_spins_with_interrupts_off_can_be_ended),
        cmocka_unit_test(a_guest_that_halts_for_ever_can_be_ended),
        cmocka_unit_test(a_guest_that_does_nothing_but_reset_can_be_ended),
        cmocka_unit_test(the_first_end_counts_but_a_quit_takes_the_place_of_a_reset),
    };

    return cmocka_run_group_tests(tests, make_disk, remove_disk);
}
