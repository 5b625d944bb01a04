/* virtio over PCI: registers as a driver meets them, notifications by MSI-X and INTx, the access window, saved state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>

#include "virtio/rng.h"
#include "virtio/transport_pci.h"
#include "virtio_echo.h"

#define ECAM 0xe0000000ULL
#define SLOT 3

#define CAP_COMMON 1
#define CAP_NOTIFY 2
#define CAP_ISR 3
#define CAP_CONFIG 4
#define CAP_WINDOW 5

/* struct virtio_pci_common_cfg. */
#define DEVICE_FEATURE_SELECT 0x00
#define DEVICE_FEATURE 0x04
#define DRIVER_FEATURE_SELECT 0x08
#define DRIVER_FEATURE 0x0c
#define CONFIG_VECTOR 0x10
#define NUM_QUEUES 0x12
#define STATUS 0x14
#define GENERATION 0x15
#define QUEUE_SELECT 0x16
#define QUEUE_SIZE 0x18
#define QUEUE_VECTOR 0x1a
#define QUEUE_ENABLE 0x1c
#define QUEUE_NOTIFY_OFF 0x1e
#define QUEUE_DESC 0x20
#define QUEUE_DRIVER 0x28
#define QUEUE_DEVICE 0x30
#define QUEUE_RESET 0x3a

#define FEATURES (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_RESET))
#define AGREED (VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK)
#define STARTED (AGREED | VIRTIO_STATUS_DRIVER_OK)

#define RING_BYTES KIB(64)
#define MESSAGE_ADDR 0xfee00000ULL
#define MSIX_ON 0x8000
#define NO_VECTOR 0xffff

static unsigned complaints;

void log_guest(struct log_limit *limit, const char *fmt, ...)
{
    (void)limit, (void)fmt;
    complaints++;
}

/* Where the driver found things. */
struct map {
    unsigned caps[6]; /* vendor capabilities by their type; 0: none */
    unsigned msix;
    uint64_t bar, common, notify, isr, config;
};

struct fixture {
    struct mem mem;
    struct loop *loop;
    struct bus pio, mmio;
    struct pci_host host;
    struct virtio_env env;
    struct echo *echo;
    struct virtio_pci *vpci;
    struct map at;
    struct virtq_driver driver[ECHO_QUEUES];
    bool line[PCI_INTX_LINES];
    uint32_t messages[32];
    unsigned sent;
};

static void on_line(void *opaque, unsigned line, bool level)
{
    struct fixture *f = opaque;

    f->line[line] = level;
}

static int on_message(void *opaque, uint64_t addr, uint32_t data)
{
    struct fixture *f = opaque;

    assert_true(addr == MESSAGE_ADDR);
    f->messages[f->sent++ % ARRAY_SIZE(f->messages)] = data;
    return 0;
}

/* --- as a driver's bus accesses --- */

static uint64_t cfg_addr(unsigned off)
{
    return ECAM + SLOT * KIB(32) + off;
}

static uint32_t cfg_read(struct fixture *f, unsigned off, unsigned size)
{
    return (uint32_t)bus_read(&f->mmio, cfg_addr(off), size);
}

static void cfg_write(struct fixture *f, unsigned off, unsigned size, uint32_t value)
{
    bus_write(&f->mmio, cfg_addr(off), size, value);
}

static uint64_t bar_of(struct fixture *f, unsigned index)
{
    return (cfg_read(f, 0x10 + 4 * index, 4) & ~0xfU) | (uint64_t)cfg_read(f, 0x14 + 4 * index, 4) << 32;
}

static uint64_t part_of(struct fixture *f, unsigned type)
{
    unsigned cap = f->at.caps[type];

    return cap ? bar_of(f, cfg_read(f, cap + 4, 1)) + cfg_read(f, cap + 8, 4) : 0;
}

static void find_parts(struct fixture *f)
{
    f->at = (struct map){.bar = bar_of(f, 0)};
    for (unsigned cap = cfg_read(f, 0x34, 1), n = 0; cap; cap = cfg_read(f, cap + 1, 1)) {
        uint32_t id = cfg_read(f, cap, 1), type = cfg_read(f, cap + 3, 1);

        assert_in_range(++n, 1, 48);
        if (id == 0x11)
            f->at.msix = cap;
        if (id == 0x09 && type < ARRAY_SIZE(f->at.caps))
            f->at.caps[type] = cap;
    }
    f->at.common = part_of(f, CAP_COMMON);
    f->at.notify = part_of(f, CAP_NOTIFY);
    f->at.isr = part_of(f, CAP_ISR);
    f->at.config = part_of(f, CAP_CONFIG);
}

static uint64_t get(struct fixture *f, unsigned reg, unsigned size)
{
    return bus_read(&f->mmio, f->at.common + reg, size);
}

static void put(struct fixture *f, unsigned reg, unsigned size, uint64_t value)
{
    bus_write(&f->mmio, f->at.common + reg, size, value);
}

static void put64(struct fixture *f, unsigned reg, uint64_t value)
{
    put(f, reg, 4, (uint32_t)value);
    put(f, reg + 4, 4, value >> 32);
}

static uint8_t read_isr(struct fixture *f)
{
    return (uint8_t)bus_read(&f->mmio, f->at.isr, 1);
}

static void notify(struct fixture *f, unsigned queue)
{
    uint32_t multiplier = cfg_read(f, f->at.caps[CAP_NOTIFY] + 16, 4);

    put(f, QUEUE_SELECT, 2, queue);
    bus_write(&f->mmio, f->at.notify + get(f, QUEUE_NOTIFY_OFF, 2) * multiplier, 2, queue);
}

/* Each vector sends its own number + 0x40. */
static void turn_on_messages(struct fixture *f)
{
    uint64_t table = f->at.bar + (cfg_read(f, f->at.msix + 4, 4) & ~7U);
    unsigned vectors = (cfg_read(f, f->at.msix + 2, 2) & 0x7ff) + 1;

    cfg_write(f, f->at.msix + 2, 2, MSIX_ON);
    for (unsigned v = 0; v < vectors; v++) {
        bus_write(&f->mmio, table + 16 * v, 4, (uint32_t)MESSAGE_ADDR);
        bus_write(&f->mmio, table + 16 * v + 4, 4, 0);
        bus_write(&f->mmio, table + 16 * v + 8, 4, 0x40 + v);
        bus_write(&f->mmio, table + 16 * v + 12, 4, 0);
    }
}

static void agree(struct fixture *f, uint64_t features)
{
    put(f, STATUS, 1, 0);
    assert_int_equal(get(f, STATUS, 1), 0);
    put(f, STATUS, 1, VIRTIO_STATUS_ACKNOWLEDGE);
    put(f, STATUS, 1, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    for (unsigned half = 0; half < 2; half++) {
        put(f, DRIVER_FEATURE_SELECT, 4, half);
        put(f, DRIVER_FEATURE, 4, (uint32_t)(features >> 32 * half));
    }
    put(f, STATUS, 1, AGREED);
    assert_int_equal(get(f, STATUS, 1), AGREED);
}

static void set_up_queue(struct fixture *f, unsigned queue, uint64_t features)
{
    struct virtq_driver *d = &f->driver[queue];

    put(f, QUEUE_SELECT, 2, queue);
    assert_int_equal(get(f, QUEUE_SIZE, 2), ECHO_QUEUE_SIZE);
    assert_int_equal(get(f, QUEUE_ENABLE, 2), 0);
    driver_init(d, &f->mem, 0x10000 + queue * RING_BYTES, RING_BYTES, ECHO_QUEUE_SIZE / 2, features);
    put(f, QUEUE_SIZE, 2, d->size);
    put64(f, QUEUE_DESC, d->desc);
    put64(f, QUEUE_DRIVER, d->driver);
    put64(f, QUEUE_DEVICE, d->device);
    put(f, QUEUE_VECTOR, 2, queue + 1);
    assert_int_equal(get(f, QUEUE_VECTOR, 2), queue + 1);
    put(f, QUEUE_ENABLE, 2, 1);
    assert_int_equal(get(f, QUEUE_ENABLE, 2), 1);
}

static void start(struct fixture *f, uint64_t features)
{
    agree(f, features);
    put(f, CONFIG_VECTOR, 2, 0);
    for (unsigned q = 0; q < ECHO_QUEUES; q++)
        set_up_queue(f, q, features);
    put(f, STATUS, 1, STARTED);
    assert_int_equal(get(f, STATUS, 1), STARTED);
}

static int request(struct fixture *f, unsigned queue)
{
    int token = driver_request(&f->driver[queue], "hello", 5, 5);

    assert_true(token >= 0);
    driver_show(&f->driver[queue]);
    return token;
}

static void expect_answer(struct fixture *f, unsigned queue, int token)
{
    uint32_t len = 0;

    assert_int_equal(driver_take(&f->driver[queue], &len), token);
    assert_int_equal(len, 5);
    assert_int_equal(driver_in(&f->driver[queue], token)[0], 'h' ^ 0xff);
}

static void echo_once(struct fixture *f, unsigned queue)
{
    int token = request(f, queue);

    notify(f, queue);
    echo_settle(f->loop);
    expect_answer(f, queue, token);
}

/* --- fixtures --- */

static void make_host(struct fixture *f)
{
    struct pci_host_options o = {
        .pio = &f->pio,
        .mmio = &f->mmio,
        .windows = {.ecam = ECAM,
                    .ecam_size = MIB(1),
                    .mem32 = 0xc0000000,
                    .mem32_size = MIB(256),
                    .mem64 = GIB(256),
                    .mem64_size = GIB(1),
                    .io = 0xc000,
                    .io_size = 0x1000},
        .msi = on_message,
        .msi_opaque = f,
    };
    struct err e;

    for (unsigned i = 0; i < PCI_INTX_LINES; i++)
        o.intx[i] = (struct irq_line){on_line, f, i};
    bus_init(&f->pio);
    bus_init(&f->mmio);
    assert_int_equal(pci_host_init(&f->host, &o, &e), 0);
}

static void make_device(struct fixture *f)
{
    struct err e;

    f->echo = echo_new(&f->env, "echo0", &e);
    assert_non_null(f->echo);
    f->vpci = virtio_pci_new(&f->host, &f->echo->dev, SLOT, &e);
    assert_non_null(f->vpci);
    assert_ptr_equal(virtio_pci_device(f->vpci), &f->echo->dev);
    find_parts(f);
    cfg_write(f, 4, 2, 0x0006); /* memory, bus master */
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    complaints = 0;
    assert_int_equal(mem_init(&f->mem, MIB(1), false, &e), 0);
    f->loop = loop_new(&e);
    assert_non_null(f->loop);
    f->env = (struct virtio_env){.mem = &f->mem, .loop = f->loop};
    make_host(f);
    make_device(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    virtio_pci_free(f->vpci);
    pci_host_fini(&f->host);
    assert_int_equal(f->mmio.count, 0);
    for (unsigned i = 0; i < PCI_INTX_LINES; i++)
        assert_false(f->line[i]);
    bus_fini(&f->mmio);
    bus_fini(&f->pio);
    loop_free(f->loop);
    mem_fini(&f->mem);
    free(f);
    return 0;
}

/* --- what a driver finds --- */

static void the_function_is_a_modern_virtio_device(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(cfg_read(f, 0x00, 4), (0x1040U + ECHO_ID) << 16 | 0x1af4);
    assert_int_equal(cfg_read(f, 0x08, 4), echo_ops.pci_class << 8 | 1);
    assert_int_equal(cfg_read(f, 0x2c, 4), (0x1040U + ECHO_ID) << 16 | 0x1af4);
    assert_int_equal(cfg_read(f, 0x3d, 1), 1);       /* INTA */
    assert_int_equal(cfg_read(f, 0x10, 4) & 0xf, 4); /* memory, 64 bits */
}

static void capabilities_name_parts_that_do_not_overlap(void **state)
{
    const uint32_t least[] = {0, 0x3c, 4 * ECHO_QUEUES, 1, ECHO_CONFIG_BYTES, 0};
    struct fixture *f = *state;

    for (unsigned type = CAP_COMMON; type <= CAP_WINDOW; type++) {
        unsigned cap = f->at.caps[type];

        assert_int_not_equal(cap, 0);
        assert_int_equal(cap % 4, 0);
        assert_int_equal(cfg_read(f, cap + 2, 1), type == CAP_NOTIFY || type == CAP_WINDOW ? 20 : 16);
        assert_int_equal(cfg_read(f, cap + 12, 4), least[type]);
        assert_int_equal(cfg_read(f, cap + 8, 4) % 4, 0);
        for (unsigned other = CAP_COMMON; other < type && type < CAP_WINDOW; other++) {
            uint32_t a = cfg_read(f, cap + 8, 4), b = cfg_read(f, f->at.caps[other] + 8, 4);

            assert_true(a >= b + least[other] || b >= a + least[type]);
        }
    }
    assert_int_equal((cfg_read(f, f->at.msix + 2, 2) & 0x7ff) + 1, ECHO_QUEUES + 1);
}

static void a_device_without_configuration_has_no_such_capability(void **state)
{
    struct fixture *f = *state;
    struct err e;

    virtio_pci_free(f->vpci);
    f->vpci = virtio_pci_new(&f->host, virtio_rng_new(&f->env, "rng0", 0, &e), SLOT, &e);
    assert_non_null(f->vpci);
    find_parts(f);
    assert_int_equal(f->at.caps[CAP_CONFIG], 0);
    assert_int_not_equal(f->at.caps[CAP_COMMON], 0);
    assert_int_equal(bus_read(&f->mmio, f->at.bar + 0x2000, 4), 0);
}

static void a_slot_that_is_taken_is_told_and_the_device_freed(void **state)
{
    struct fixture *f = *state;
    struct err e = {""};
    struct echo *echo = echo_new(&f->env, "echo1", &e);
    bool freed = false;

    assert_non_null(echo);
    echo->freed = &freed;
    assert_null(virtio_pci_new(&f->host, &echo->dev, SLOT, &e));
    assert_true(freed);
    assert_non_null(strstr(e.text, "echo1"));
    virtio_pci_free(NULL);
}

/* --- common configuration --- */

static void features_are_seen_in_halves(void **state)
{
    struct fixture *f = *state;
    uint64_t offered = f->echo->dev.features;

    put(f, DEVICE_FEATURE_SELECT, 4, 0);
    assert_int_equal(get(f, DEVICE_FEATURE, 4), (uint32_t)offered);
    put(f, DEVICE_FEATURE_SELECT, 4, 1);
    assert_int_equal(get(f, DEVICE_FEATURE, 4), offered >> 32);
    put(f, DEVICE_FEATURE_SELECT, 4, 2);
    assert_int_equal(get(f, DEVICE_FEATURE, 4), 0);
    put(f, DRIVER_FEATURE_SELECT, 4, 0x80000001);
    put(f, DRIVER_FEATURE, 4, 0xffffffff);
    assert_true(f->echo->dev.state.driver_features == 0);
    put(f, DRIVER_FEATURE_SELECT, 4, 1);
    put(f, DRIVER_FEATURE, 4, 0x12345678);
    assert_true(f->echo->dev.state.driver_features == 0x1234567800000000);
    assert_int_equal(get(f, DRIVER_FEATURE, 4), 0x12345678);
}

static void refused_features_leave_features_ok_clear(void **state)
{
    struct fixture *f = *state;

    put(f, STATUS, 1, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    put(f, STATUS, 1, AGREED);
    assert_int_equal(get(f, STATUS, 1), VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
}

static void a_queue_that_is_none_reads_as_size_0_and_takes_nothing(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(get(f, NUM_QUEUES, 2), ECHO_QUEUES);
    agree(f, FEATURES);
    for (unsigned q = ECHO_QUEUES; q < 0x10000; q = q * 3 + 1) {
        put(f, QUEUE_SELECT, 2, q);
        assert_int_equal(get(f, QUEUE_SELECT, 2), q);
        put(f, QUEUE_SIZE, 2, 8);
        put(f, QUEUE_VECTOR, 2, 1);
        put64(f, QUEUE_DESC, 0x1000);
        put(f, QUEUE_ENABLE, 2, 1);
        put(f, QUEUE_RESET, 2, 1);
        assert_int_equal(get(f, QUEUE_SIZE, 2), 0);
        assert_int_equal(get(f, QUEUE_VECTOR, 2), NO_VECTOR);
        assert_int_equal(get(f, QUEUE_ENABLE, 2), 0);
        assert_true(get(f, QUEUE_DESC, 8) == 0);
    }
    assert_int_equal(get(f, STATUS, 1), AGREED);
}

static void addresses_are_written_whole_or_in_halves_and_nothing_else(void **state)
{
    const unsigned registers[] = {QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(registers); i++) {
        put(f, registers[i] + 4, 4, 0x11223344);
        put(f, registers[i], 4, 0x55667788);
        assert_true(get(f, registers[i], 8) == 0x1122334455667788);
        assert_int_equal(get(f, registers[i] + 2, 4), 0x33445566);
        put(f, registers[i], 2, 0);
        put(f, registers[i] + 4, 1, 0);
        put(f, registers[i] + 2, 4, 0);
        assert_true(get(f, registers[i], 8) == 0x1122334455667788);
        put(f, registers[i], 8, 0x8877665544332211 + i);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(registers); i++)
        assert_true(get(f, registers[i], 8) == 0x8877665544332211 + i);
}

static void fields_take_their_own_width_alone(void **state)
{
    struct fixture *f = *state;

    put(f, QUEUE_SELECT, 4, 1);
    put(f, QUEUE_SELECT, 1, 1);
    assert_int_equal(get(f, QUEUE_SELECT, 2), 0);
    put(f, DEVICE_FEATURE_SELECT, 2, 1);
    assert_int_equal(get(f, DEVICE_FEATURE_SELECT, 4), 0);
    put(f, STATUS, 2, VIRTIO_STATUS_ACKNOWLEDGE);
    put(f, STATUS, 4, VIRTIO_STATUS_ACKNOWLEDGE);
    assert_int_equal(get(f, STATUS, 1), 0);
    put(f, NUM_QUEUES, 2, 1);
    put(f, GENERATION, 1, 77);
    put(f, QUEUE_NOTIFY_OFF, 2, 77);
    assert_int_equal(get(f, NUM_QUEUES, 2), ECHO_QUEUES);
    assert_int_equal(get(f, GENERATION, 1), 0);
    assert_int_equal(get(f, QUEUE_NOTIFY_OFF, 2), 0);
    assert_int_equal(bus_read(&f->mmio, f->at.common + 0x3c, 4), 0);
    assert_int_equal(bus_read(&f->mmio, f->at.bar + 0x7ffc, 4), 0);
    bus_write(&f->mmio, f->at.bar + 0x7ffc, 4, 1);
}

static void vectors_that_are_none_are_not_taken(void **state)
{
    struct fixture *f = *state;

    put(f, CONFIG_VECTOR, 2, ECHO_QUEUES);
    assert_int_equal(get(f, CONFIG_VECTOR, 2), ECHO_QUEUES);
    put(f, CONFIG_VECTOR, 2, ECHO_QUEUES + 1);
    assert_int_equal(get(f, CONFIG_VECTOR, 2), NO_VECTOR);
    put(f, QUEUE_VECTOR, 2, 0);
    assert_int_equal(get(f, QUEUE_VECTOR, 2), 0);
    put(f, QUEUE_VECTOR, 2, 0xfffe);
    assert_int_equal(get(f, QUEUE_VECTOR, 2), NO_VECTOR);
}

static void an_enabled_queue_keeps_its_rings(void **state)
{
    struct fixture *f = *state;

    start(f, FEATURES);
    put(f, QUEUE_SELECT, 2, 0);
    put64(f, QUEUE_DESC, 0);
    put(f, QUEUE_SIZE, 2, 2);
    put(f, QUEUE_ENABLE, 2, 0);
    assert_true(get(f, QUEUE_DESC, 8) == f->driver[0].desc);
    assert_int_equal(get(f, QUEUE_SIZE, 2), f->driver[0].size);
    assert_int_equal(get(f, QUEUE_ENABLE, 2), 1);
    put(f, QUEUE_VECTOR, 2, 0);
    assert_int_equal(get(f, QUEUE_VECTOR, 2), 0);
    echo_once(f, 0);
}

static void every_queue_answers_at_its_own_address(void **state)
{
    struct fixture *f = *state;

    start(f, FEATURES);
    for (unsigned q = 0; q < ECHO_QUEUES; q++)
        echo_once(f, q);
    assert_int_equal(f->echo->kicks, ECHO_QUEUES);
    bus_write(&f->mmio, f->at.notify + 4 * ECHO_QUEUES, 2, 0);
    bus_write(&f->mmio, f->at.notify + 1, 1, 0);
    bus_write(&f->mmio, f->at.notify + 0xffc, 4, 0);
    echo_settle(f->loop);
    assert_int_equal(f->echo->kicks, ECHO_QUEUES);
    assert_int_equal(bus_read(&f->mmio, f->at.notify, 2), 0);
}

static void the_devices_configuration_is_in_its_part(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(bus_read(&f->mmio, f->at.config + 2, 2), 0xc3c2);
    bus_write(&f->mmio, f->at.config + 4, 4, 0x01020304);
    assert_int_equal(f->echo->saved.config[4], 4);
    assert_true(bus_read(&f->mmio, f->at.config + ECHO_CONFIG_BYTES, 8) == 0);
}

/* --- resets --- */

static void a_reset_takes_everything_back(void **state)
{
    struct fixture *f = *state;

    start(f, FEATURES);
    put(f, DEVICE_FEATURE_SELECT, 4, 1);
    echo_once(f, 1);
    assert_true(f->line[SLOT % PCI_INTX_LINES]);
    put(f, STATUS, 1, 0);
    assert_int_equal(get(f, STATUS, 1), 0);
    assert_false(f->line[SLOT % PCI_INTX_LINES]);
    assert_int_equal(read_isr(f), 0);
    assert_int_equal(get(f, DEVICE_FEATURE_SELECT, 4), 0);
    assert_int_equal(get(f, QUEUE_SELECT, 2), 0);
    assert_int_equal(get(f, CONFIG_VECTOR, 2), NO_VECTOR);
    for (unsigned q = 0; q < ECHO_QUEUES; q++) {
        put(f, QUEUE_SELECT, 2, q);
        assert_int_equal(get(f, QUEUE_ENABLE, 2), 0);
        assert_int_equal(get(f, QUEUE_SIZE, 2), ECHO_QUEUE_SIZE);
        assert_int_equal(get(f, QUEUE_VECTOR, 2), NO_VECTOR);
        assert_true(get(f, QUEUE_DESC, 8) == 0);
    }
}

static void status_is_0_when_the_host_is_done(void **state)
{
    struct fixture *f = *state;

    start(f, FEATURES);
    f->echo->hold = true;
    request(f, 0);
    notify(f, 0);
    echo_settle(f->loop);
    put(f, STATUS, 1, 0);
    assert_int_not_equal(get(f, STATUS, 1), 0);
    echo_complete(f->echo);
    assert_int_equal(get(f, STATUS, 1), 0);
    assert_false(f->line[SLOT % PCI_INTX_LINES]);
}

static void queue_reset_is_0_when_the_host_is_done(void **state)
{
    struct fixture *f = *state;

    start(f, FEATURES);
    f->echo->hold = true;
    request(f, 2);
    notify(f, 2);
    echo_settle(f->loop);
    put(f, QUEUE_RESET, 2, 0);
    assert_int_equal(get(f, QUEUE_ENABLE, 2), 1);
    put(f, QUEUE_RESET, 2, 1);
    assert_int_equal(get(f, QUEUE_RESET, 2), 1);
    assert_int_equal(get(f, QUEUE_ENABLE, 2), 0);
    put(f, QUEUE_SELECT, 2, 1);
    assert_int_equal(get(f, QUEUE_RESET, 2), 0);
    put(f, QUEUE_SELECT, 2, 2);
    echo_complete(f->echo);
    assert_int_equal(get(f, QUEUE_RESET, 2), 0);
    f->echo->hold = false;
    set_up_queue(f, 2, FEATURES);
    echo_once(f, 2);
    echo_once(f, 0);
}

static void a_reset_of_the_machine_waits_for_the_host_and_brings_power_on_state(void **state)
{
    struct fixture *f = *state;
    uint64_t bar = f->at.bar;

    turn_on_messages(f);
    start(f, FEATURES);
    f->echo->hold = true;
    request(f, 0);
    notify(f, 0);
    echo_settle(f->loop);
    virtio_pci_device_ops.reset(f->vpci);
    assert_int_equal(f->echo->held_queue, -1);
    assert_int_equal(get(f, STATUS, 1), 0);
    assert_int_equal(cfg_read(f, f->at.msix + 2, 2) & MSIX_ON, 0);
    assert_int_equal(cfg_read(f, 4, 2) & 4, 0);
    assert_int_equal(bus_read(&f->mmio, f->at.bar + 0x4000 + 12, 4), 1); /* masked */
    assert_true(bar_of(f, 0) == bar);
    f->echo->hold = false;
    start(f, FEATURES);
    echo_once(f, 0);
}

/* --- interrupts --- */

static void without_messages_isr_and_the_line_tell(void **state)
{
    struct fixture *f = *state;

    start(f, FEATURES);
    echo_once(f, 1);
    assert_true(f->line[SLOT % PCI_INTX_LINES]);
    assert_int_equal(cfg_read(f, 6, 2) & 8, 8); /* Interrupt Status */
    assert_int_equal(read_isr(f), 1);
    assert_false(f->line[SLOT % PCI_INTX_LINES]);
    assert_int_equal(read_isr(f), 0);
    pthread_mutex_lock(&f->echo->dev.lock);
    virtio_config_changed(&f->echo->dev);
    pthread_mutex_unlock(&f->echo->dev.lock);
    assert_int_equal(bus_read(&f->mmio, f->at.isr + 1, 1), 0); /* reads nothing, and so clears nothing */
    assert_true(f->line[SLOT % PCI_INTX_LINES]);
    assert_int_equal(read_isr(f), 2);
    assert_int_equal(f->sent, 0);
}

static void with_messages_each_queue_has_its_own(void **state)
{
    struct fixture *f = *state;

    turn_on_messages(f);
    start(f, FEATURES);
    for (unsigned q = 0; q < ECHO_QUEUES; q++) {
        echo_once(f, q);
        assert_int_equal(f->sent, q + 1);
        assert_int_equal(f->messages[q], 0x41 + q);
    }
    assert_int_equal(read_isr(f), 0);
    pthread_mutex_lock(&f->echo->dev.lock);
    virtio_config_changed(&f->echo->dev);
    pthread_mutex_unlock(&f->echo->dev.lock);
    assert_int_equal(f->messages[ECHO_QUEUES], 0x40);
    assert_int_equal(get(f, GENERATION, 1), 1);
    assert_int_equal(read_isr(f), 2); /* with MSI-X too (4.1.4.5.1) */
    assert_false(f->line[SLOT % PCI_INTX_LINES]);
}

static void a_queue_without_a_vector_sends_nothing(void **state)
{
    struct fixture *f = *state;

    turn_on_messages(f);
    start(f, FEATURES);
    put(f, QUEUE_SELECT, 2, 0);
    put(f, QUEUE_VECTOR, 2, NO_VECTOR);
    echo_once(f, 0);
    assert_int_equal(f->sent, 0);
}

static void a_masked_vector_is_pending_and_sent_when_unmasked(void **state)
{
    struct fixture *f = *state;
    uint64_t table = f->at.bar + (cfg_read(f, f->at.msix + 4, 4) & ~7U), pba = f->at.bar + (cfg_read(f, f->at.msix + 8, 4) & ~7U);

    turn_on_messages(f);
    start(f, FEATURES);
    bus_write(&f->mmio, table + 16 * 2 + 12, 4, 1);
    echo_once(f, 1);
    assert_int_equal(f->sent, 0);
    assert_true(bus_read(&f->mmio, pba, 8) == BIT(2));
    bus_write(&f->mmio, table + 16 * 2 + 12, 4, 0);
    assert_int_equal(f->sent, 1);
    assert_int_equal(f->messages[0], 0x42);
    assert_true(bus_read(&f->mmio, pba, 8) == 0);
}

static void the_line_falls_when_messages_are_turned_on_and_stays_down(void **state)
{
    struct fixture *f = *state;

    start(f, FEATURES);
    echo_once(f, 0);
    assert_true(f->line[SLOT % PCI_INTX_LINES]);
    turn_on_messages(f);
    assert_false(f->line[SLOT % PCI_INTX_LINES]);
    pthread_mutex_lock(&f->echo->dev.lock);
    virtio_config_changed(&f->echo->dev); /* leaves a bit in ISR */
    pthread_mutex_unlock(&f->echo->dev.lock);
    cfg_write(f, f->at.msix + 2, 2, 0);
    assert_false(f->line[SLOT % PCI_INTX_LINES]);
}

static void a_broken_driver_is_told_by_the_configuration_interrupt(void **state)
{
    struct fixture *f = *state;
    struct virtq_segment outside = {GIB(64), 1};

    turn_on_messages(f);
    start(f, FEATURES);
    driver_add(&f->driver[0], &outside, 1, 0);
    driver_show(&f->driver[0]);
    notify(f, 0);
    echo_settle(f->loop);
    assert_int_equal(get(f, STATUS, 1), STARTED | VIRTIO_STATUS_NEEDS_RESET);
    assert_int_equal(f->sent, 1);
    assert_int_equal(f->messages[0], 0x40);
    assert_int_equal(complaints, 1);
}

/* --- the access window --- */

static void set_window(struct fixture *f, uint8_t bar, uint32_t off, uint32_t len)
{
    unsigned cap = f->at.caps[CAP_WINDOW];

    cfg_write(f, cap + 4, 1, bar);
    cfg_write(f, cap + 8, 4, off);
    cfg_write(f, cap + 12, 4, len);
}

static uint32_t window_read(struct fixture *f, uint32_t off, unsigned size)
{
    set_window(f, 0, off, size);
    return cfg_read(f, f->at.caps[CAP_WINDOW] + 16, size);
}

static void window_write(struct fixture *f, uint32_t off, unsigned size, uint32_t value)
{
    set_window(f, 0, off, size);
    cfg_write(f, f->at.caps[CAP_WINDOW] + 16, size, value);
}

static void the_window_reaches_the_bar_even_when_it_is_not_decoded(void **state)
{
    struct fixture *f = *state;

    cfg_write(f, 4, 2, 0);
    window_write(f, STATUS, 1, VIRTIO_STATUS_ACKNOWLEDGE);
    assert_int_equal(f->echo->dev.state.status, VIRTIO_STATUS_ACKNOWLEDGE);
    assert_int_equal(window_read(f, STATUS, 1), VIRTIO_STATUS_ACKNOWLEDGE);
    window_write(f, DEVICE_FEATURE_SELECT, 4, 1);
    assert_int_equal(window_read(f, DEVICE_FEATURE, 4), f->echo->dev.features >> 32);
    assert_int_equal(window_read(f, NUM_QUEUES, 2), ECHO_QUEUES);
    assert_int_equal(window_read(f, 0x2000 + 6, 2), 0xc7c6);
    window_write(f, 0x2000 + 6, 2, 0x1234);
    assert_int_equal(window_read(f, 0x2000 + 4, 4), 0x1234c5c4);
    assert_int_equal(cfg_read(f, f->at.caps[CAP_WINDOW] + 8, 4), 0x2000 + 4);
}

static void a_window_that_is_set_wrongly_reaches_nothing(void **state)
{
    static const struct {
        uint8_t bar;
        uint32_t off, len;
    } wrong[] = {
        {1, 0x2004, 4},          {0xff, 0x2004, 4},      {0, 0x2004, 0},     {0, 0x2004, 3},          {0, 0x2004, 8},
        {0, 0x2004, 0x80000004}, {0, 0x2002, 4},         {0, 0x2005, 2},     {0, KIB(32), 4},         {0, 0xfffffffc, 4},
        {0, 0x80002004, 4},      {0, UINT32_MAX - 1, 2}, {0, UINT32_MAX, 1}, {0, 0x2004, UINT32_MAX},
    };
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
        unsigned data = f->at.caps[CAP_WINDOW] + 16;

        set_window(f, 0, 0x2004, 4);
        set_window(f, wrong[i].bar, wrong[i].off, wrong[i].len);
        cfg_write(f, data, 4, 0x5a5a5a5a);
        assert_int_equal(cfg_read(f, data, 4), 0x5a5a5a5a); /* what was written, not what is there */
    }
    assert_int_equal(f->echo->config_writes, 0);
}

static void the_window_acts_only_when_its_data_are_touched(void **state)
{
    struct fixture *f = *state;

    start(f, FEATURES);
    echo_once(f, 0);
    set_window(f, 0, 0x1000, 1);
    for (unsigned off = 0; off < 256; off += 4)
        if (off != f->at.caps[CAP_WINDOW] + 16)
            cfg_read(f, off, 4);
    assert_true(f->line[SLOT % PCI_INTX_LINES]);
    assert_int_equal(cfg_read(f, f->at.caps[CAP_WINDOW] + 16, 1), 1); /* reads ISR */
    assert_false(f->line[SLOT % PCI_INTX_LINES]);
}

/* --- saved state --- */

static struct state_writer save(struct fixture *f)
{
    struct state_writer w;

    state_writer_init(&w);
    virtio_pci_device_ops.drain(f->vpci);
    assert_int_equal(virtio_pci_device_ops.save(f->vpci, &w), 0);
    return w;
}

static int load(struct fixture *f, const struct state_writer *w, size_t len)
{
    struct state_reader r;
    struct err e = {""};
    int rc;

    state_reader_init(&r, w->data, len);
    rc = virtio_pci_device_ops.load(f->vpci, &r, &e);
    if (rc)
        assert_true(e.text[0]);
    else
        assert_int_equal(r.pos, len);
    return rc;
}

static void move_to_fresh_machine(struct fixture *f)
{
    struct state_writer w = save(f);
    struct map at = f->at;

    virtio_pci_free(f->vpci);
    pci_host_fini(&f->host);
    make_host(f);
    make_device(f);
    assert_int_equal(load(f, &w, w.len), 0);
    f->at = at;
    state_writer_fini(&w);
}

static void a_started_device_goes_on_in_a_fresh_machine(void **state)
{
    struct fixture *f = *state;

    turn_on_messages(f);
    start(f, FEATURES | BIT(VIRTIO_F_RING_PACKED));
    echo_once(f, 1);
    put(f, QUEUE_SELECT, 2, 2);
    put(f, DEVICE_FEATURE_SELECT, 4, 1);
    move_to_fresh_machine(f);
    assert_int_equal(get(f, STATUS, 1), STARTED);
    assert_int_equal(get(f, QUEUE_SELECT, 2), 2);
    assert_int_equal(get(f, DEVICE_FEATURE_SELECT, 4), 1);
    assert_int_equal(get(f, QUEUE_VECTOR, 2), 3);
    f->sent = 0;
    for (unsigned q = 0; q < ECHO_QUEUES; q++)
        echo_once(f, q);
    assert_int_equal(f->sent, ECHO_QUEUES);
    assert_int_equal(f->messages[2], 0x43);
}

static void a_raised_line_stays_so_in_a_fresh_machine(void **state)
{
    struct fixture *f = *state;

    start(f, FEATURES);
    echo_once(f, 1);
    move_to_fresh_machine(f);
    assert_true(f->line[SLOT % PCI_INTX_LINES]);
    assert_int_equal(read_isr(f), 1);
    assert_false(f->line[SLOT % PCI_INTX_LINES]);
}

static void state_that_is_refused_leaves_the_device_as_it_was(void **state)
{
    struct fixture *f = *state;
    struct state_writer empty = save(f), started;

    turn_on_messages(f);
    start(f, FEATURES);
    echo_once(f, 0);
    started = save(f);
    for (size_t len = 0; len < empty.len; len += 1 + len % 97)
        assert_int_equal(load(f, &empty, len), -EINVAL);
    f->sent = 0;
    echo_once(f, 0);
    assert_int_equal(f->sent, 1);
    assert_int_equal(load(f, &empty, empty.len), 0);
    assert_int_equal(get(f, STATUS, 1), 0);
    for (size_t len = 0; len < started.len; len += 1 + len % 97)
        assert_int_equal(load(f, &started, len), -EINVAL);
    assert_int_equal(get(f, STATUS, 1), 0);
    state_writer_fini(&started);
    state_writer_fini(&empty);
}

/* Changes a byte of the field of that name in the saved bytes. */
static void bend(struct state_writer *w, const char *name, unsigned at, uint8_t value)
{
    uint8_t *field = memmem(w->data, w->len, name, strlen(name));

    assert_non_null(field);
    field[strlen(name) + 3 + at] = value; /* behind the name: size of an element (1), their count (2) */
}

static void impossible_state_is_refused(void **state)
{
    static const struct {
        const char *name;
        unsigned at;
        uint8_t value;
    } bends[] = {
        {"isr", 0, 4},
        {"config_vector", 1, 0},
        {"queue_vectors", 1, 0},
        {"queue_vectors", 2 * ECHO_QUEUES + 1, 0},
    };
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(bends); i++) {
        struct state_writer w = save(f);

        bend(&w, bends[i].name, bends[i].at, bends[i].value);
        assert_int_equal(load(f, &w, w.len), -EINVAL);
        state_writer_fini(&w);
    }
}

/* --- doorbells --- */

struct bells {
    uint64_t on[ECHO_QUEUES], off[ECHO_QUEUES]; /* addresses, by queue */
    struct virtio_device *dev;
};

static int on_doorbell(void *opaque, uint64_t addr, int fd, bool on)
{
    struct bells *b = opaque;

    for (unsigned q = 0; q < ECHO_QUEUES; q++)
        if (b->dev->kicks[q].event.fd == fd)
            *(on ? &b->on[q] : &b->off[q]) = addr;
    return 0;
}

static void doorbells_follow_the_bar(void **state)
{
    struct fixture *f = *state;
    struct bells bells = {.dev = &f->echo->dev};
    uint64_t before = f->at.notify, moved = f->at.bar + MIB(4);

    f->mmio.doorbell = on_doorbell;
    f->mmio.doorbell_opaque = &bells;
    cfg_write(f, 0x10, 4, (uint32_t)moved);
    for (unsigned q = 0; q < ECHO_QUEUES; q++) {
        assert_true(bells.off[q] == before + 4 * q);
        assert_true(bells.on[q] == before + MIB(4) + 4 * q);
    }
    memset(bells.on, 0, sizeof(bells.on));
    cfg_write(f, 4, 2, 0); /* decoding off */
    assert_true(bells.off[1] == before + MIB(4) + 4 && bells.on[1] == 0);
    cfg_write(f, 4, 2, 2);
    assert_true(bells.on[2] == before + MIB(4) + 8);
    cfg_write(f, 0x10, 4, (uint32_t)f->at.bar);
    f->mmio.doorbell = NULL;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_function_is_a_modern_virtio_device),
        TEST(capabilities_name_parts_that_do_not_overlap),
        TEST(a_device_without_configuration_has_no_such_capability),
        TEST(a_slot_that_is_taken_is_told_and_the_device_freed),
        TEST(features_are_seen_in_halves),
        TEST(refused_features_leave_features_ok_clear),
        TEST(a_queue_that_is_none_reads_as_size_0_and_takes_nothing),
        TEST(addresses_are_written_whole_or_in_halves_and_nothing_else),
        TEST(fields_take_their_own_width_alone),
        TEST(vectors_that_are_none_are_not_taken),
        TEST(an_enabled_queue_keeps_its_rings),
        TEST(every_queue_answers_at_its_own_address),
        TEST(the_devices_configuration_is_in_its_part),
        TEST(a_reset_takes_everything_back),
        TEST(status_is_0_when_the_host_is_done),
        TEST(queue_reset_is_0_when_the_host_is_done),
        TEST(a_reset_of_the_machine_waits_for_the_host_and_brings_power_on_state),
        TEST(without_messages_isr_and_the_line_tell),
        TEST(with_messages_each_queue_has_its_own),
        TEST(a_queue_without_a_vector_sends_nothing),
        TEST(a_masked_vector_is_pending_and_sent_when_unmasked),
        TEST(the_line_falls_when_messages_are_turned_on_and_stays_down),
        TEST(a_broken_driver_is_told_by_the_configuration_interrupt),
        TEST(the_window_reaches_the_bar_even_when_it_is_not_decoded),
        TEST(a_window_that_is_set_wrongly_reaches_nothing),
        TEST(the_window_acts_only_when_its_data_are_touched),
        TEST(a_started_device_goes_on_in_a_fresh_machine),
        TEST(a_raised_line_stays_so_in_a_fresh_machine),
        TEST(state_that_is_refused_leaves_the_device_as_it_was),
        TEST(impossible_state_is_refused),
        TEST(doorbells_follow_the_bar),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
