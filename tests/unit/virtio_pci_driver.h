/* The echo device on a PCI bus with recorded lines and messages, and a driver that finds its registers there. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

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

static inline void on_line(void *opaque, unsigned line, bool level)
{
    struct fixture *f = opaque;

    f->line[line] = level;
}

static inline int on_message(void *opaque, uint64_t addr, uint32_t data)
{
    struct fixture *f = opaque;

    assert_true(addr == MESSAGE_ADDR);
    f->messages[f->sent++ % ARRAY_SIZE(f->messages)] = data;
    return 0;
}

/* --- as a driver's bus accesses --- */

static inline uint64_t cfg_addr(unsigned off)
{
    return ECAM + SLOT * KIB(32) + off;
}

static inline uint32_t cfg_read(struct fixture *f, unsigned off, unsigned size)
{
    return (uint32_t)bus_read(&f->mmio, cfg_addr(off), size);
}

static inline void cfg_write(struct fixture *f, unsigned off, unsigned size, uint32_t value)
{
    bus_write(&f->mmio, cfg_addr(off), size, value);
}

static inline uint64_t bar_of(struct fixture *f, unsigned index)
{
    return (cfg_read(f, 0x10 + 4 * index, 4) & ~0xfU) | (uint64_t)cfg_read(f, 0x14 + 4 * index, 4) << 32;
}

static inline uint64_t part_of(struct fixture *f, unsigned type)
{
    unsigned cap = f->at.caps[type];

    return cap ? bar_of(f, cfg_read(f, cap + 4, 1)) + cfg_read(f, cap + 8, 4) : 0;
}

static inline void find_parts(struct fixture *f)
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

static inline uint64_t get(struct fixture *f, unsigned reg, unsigned size)
{
    return bus_read(&f->mmio, f->at.common + reg, size);
}

static inline void put(struct fixture *f, unsigned reg, unsigned size, uint64_t value)
{
    bus_write(&f->mmio, f->at.common + reg, size, value);
}

static inline void put64(struct fixture *f, unsigned reg, uint64_t value)
{
    put(f, reg, 4, (uint32_t)value);
    put(f, reg + 4, 4, value >> 32);
}

static inline uint8_t read_isr(struct fixture *f)
{
    return (uint8_t)bus_read(&f->mmio, f->at.isr, 1);
}

static inline void notify(struct fixture *f, unsigned queue)
{
    uint32_t multiplier = cfg_read(f, f->at.caps[CAP_NOTIFY] + 16, 4);

    put(f, QUEUE_SELECT, 2, queue);
    bus_write(&f->mmio, f->at.notify + get(f, QUEUE_NOTIFY_OFF, 2) * multiplier, 2, queue);
}

/* Each vector sends its own number + 0x40. */
static inline void turn_on_messages(struct fixture *f)
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

static inline void agree(struct fixture *f, uint64_t features)
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

static inline void set_up_queue(struct fixture *f, unsigned queue, uint64_t features)
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

static inline void start(struct fixture *f, uint64_t features)
{
    agree(f, features);
    put(f, CONFIG_VECTOR, 2, 0);
    for (unsigned q = 0; q < ECHO_QUEUES; q++)
        set_up_queue(f, q, features);
    put(f, STATUS, 1, STARTED);
    assert_int_equal(get(f, STATUS, 1), STARTED);
}

static inline int request(struct fixture *f, unsigned queue)
{
    int token = driver_request(&f->driver[queue], "hello", 5, 5);

    assert_true(token >= 0);
    driver_show(&f->driver[queue]);
    return token;
}

static inline void expect_answer(struct fixture *f, unsigned queue, int token)
{
    uint32_t len = 0;

    assert_int_equal(driver_take(&f->driver[queue], &len), token);
    assert_int_equal(len, 5);
    assert_int_equal(driver_in(&f->driver[queue], token)[0], 'h' ^ 0xff);
}

static inline void echo_once(struct fixture *f, unsigned queue)
{
    int token = request(f, queue);

    notify(f, queue);
    echo_settle(f->loop);
    expect_answer(f, queue, token);
}

/* --- fixtures --- */

static inline void make_host(struct fixture *f)
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

static inline void make_device(struct fixture *f)
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

static inline int setup(void **state)
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

static inline int teardown(void **state)
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

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
