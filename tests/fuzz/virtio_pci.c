/* Fuzzes virtio over PCI: accesses of a driver gone mad to every register, ring and capability of an echo device, between saves and loads. */
#include "unit/virtio_echo.h"
#include "virtio/transport_pci.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ECAM 0xe0000000ULL
#define SLOT 1
#define RING_BASE 0x10000
#define RING_BYTES KIB(32)
#define STEPS_MAX 400

#define AGREED (VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK)
#define STARTED (AGREED | VIRTIO_STATUS_DRIVER_OK)
#define COMMON_STATUS 0x14

struct input {
    const uint8_t *data;
    size_t len;
};

struct machine {
    struct mem mem;
    struct loop *loop;
    struct bus pio, mmio;
    struct pci_host host;
    struct echo *echo;
    struct virtio_pci *vpci;
    struct virtq_driver driver;
    uint64_t bar;
    bool line[PCI_INTX_LINES];
};

static uint64_t take(struct input *in, unsigned bytes)
{
    uint64_t value = 0;

    bytes = (unsigned)MIN(bytes, in->len);
    if (bytes)
        memcpy(&value, in->data, bytes);
    in->data += bytes;
    in->len -= bytes;
    return value;
}

static void on_line(void *opaque, unsigned line, bool level)
{
    struct machine *m = opaque;

    m->line[line] = level;
}

static int on_message(void *opaque, uint64_t addr, uint32_t data)
{
    (void)opaque, (void)addr;
    return data & 1 ? -1 : 0;
}

static void make_machine(struct machine *m)
{
    struct pci_host_options o = {
        .pio = &m->pio,
        .mmio = &m->mmio,
        .windows = {ECAM, MIB(1), 0xc0000000, MIB(16), GIB(256), MIB(16), 0xc000, 0x1000},
        .msi = on_message,
        .msi_opaque = m,
    };
    struct virtio_env env = {.mem = &m->mem};
    struct err e;

    memset(m, 0, sizeof(*m));
    for (unsigned i = 0; i < PCI_INTX_LINES; i++)
        o.intx[i] = (struct irq_line){on_line, m, i};
    BUG_ON(mem_init(&m->mem, MIB(1), false, &e));
    m->loop = env.loop = loop_new(&e);
    BUG_ON(!m->loop);
    bus_init(&m->pio);
    bus_init(&m->mmio);
    BUG_ON(pci_host_init(&m->host, &o, &e));
    m->echo = echo_new(&env, "echo0", &e);
    BUG_ON(!m->echo);
    m->vpci = virtio_pci_new(&m->host, &m->echo->dev, SLOT, &e);
    BUG_ON(!m->vpci);
    m->bar = bus_read(&m->mmio, ECAM + SLOT * KIB(32) + 0x10, 8) & ~0xfULL;
    driver_init(&m->driver, &m->mem, RING_BASE, RING_BYTES, ECHO_QUEUE_SIZE, BIT(VIRTIO_F_VERSION_1));
}

static void end_machine(struct machine *m)
{
    virtio_pci_free(m->vpci);
    for (unsigned i = 0; i < PCI_INTX_LINES; i++)
        BUG_ON(m->line[i]);
    pci_host_fini(&m->host);
    bus_fini(&m->mmio);
    bus_fini(&m->pio);
    loop_free(m->loop);
    mem_fini(&m->mem);
}

/* A driver that begins well. */
static void bring_up(struct machine *m, uint64_t features)
{
    struct virtio_device *dev = &m->echo->dev;

    features = (features & dev->features) | BIT(VIRTIO_F_VERSION_1);
    bus_write(&m->mmio, m->bar + COMMON_STATUS, 1, 0);
    virtio_set_status(dev, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    virtio_set_driver_features(dev, 0, (uint32_t)features);
    virtio_set_driver_features(dev, 1, (uint32_t)(features >> 32));
    virtio_set_status(dev, AGREED);
    driver_init(&m->driver, &m->mem, RING_BASE, RING_BYTES, ECHO_QUEUE_SIZE, features);
    driver_connect(&m->driver, &dev->queues[0].state);
    virtio_enable_queue(dev, 0);
    virtio_set_status(dev, STARTED);
}

static void make_request(struct machine *m, struct input *in)
{
    uint8_t bytes[32] = {0};
    uint32_t len;

    while (driver_take(&m->driver, &len) >= 0)
        ;
    m->driver.indirect = take(in, 1) % 3;
    m->driver.piece = take(in, 1) % 8;
    if (!m->driver.piece)
        m->driver.piece = 16;
    driver_request(&m->driver, bytes, 1 + (uint32_t)take(in, 1) % 31, (uint32_t)take(in, 1) % 32);
    driver_show(&m->driver);
    bus_write(&m->mmio, m->bar + 0x3000, 2, 0);
}

/* What was saved loads again; with a byte bent it may, or is refused with a sentence. */
static void save_and_load(struct machine *m, struct input *in)
{
    struct state_writer w;
    struct state_reader r;
    struct err e = {""};
    bool bend = take(in, 1) & 1;
    int rc;

    state_writer_init(&w);
    virtio_pci_device_ops.drain(m->vpci);
    BUG_ON(virtio_pci_device_ops.save(m->vpci, &w));
    if (bend)
        w.data[take(in, 2) % w.len] ^= (uint8_t)take(in, 1);
    state_reader_init(&r, w.data, w.len);
    rc = virtio_pci_device_ops.load(m->vpci, &r, &e);
    BUG_ON(rc && (!bend || !e.text[0]));
    state_writer_fini(&w);
}

static void check(struct machine *m)
{
    struct virtio_device *dev = &m->echo->dev;
    uint8_t status = dev->state.status;

    BUG_ON(status & 0x30);
    BUG_ON((status & VIRTIO_STATUS_DRIVER_OK) && !(status & VIRTIO_STATUS_FEATURES_OK));
    BUG_ON((status & VIRTIO_STATUS_FEATURES_OK) && dev->state.driver_features & ~dev->features);
    BUG_ON(dev->reset_under_way && (!status || m->echo->held_queue < 0));
    for (unsigned q = 0; q < dev->queue_count; q++) {
        BUG_ON(dev->queues[q].state.enabled && !(status & VIRTIO_STATUS_FEATURES_OK));
        BUG_ON(dev->queues[q].state.broken && !(status & VIRTIO_STATUS_NEEDS_RESET));
        BUG_ON(dev->kicks[q].held != (m->echo->held_queue == (int)q));
    }
}

static void access_bus(struct machine *m, struct input *in, uint64_t addr, bool write)
{
    unsigned size = 1U << take(in, 1) % 4;

    if (write)
        bus_write(&m->mmio, addr, size, take(in, size));
    else
        bus_read(&m->mmio, addr, size);
}

static void step(struct machine *m, struct input *in)
{
    unsigned op = (unsigned)take(in, 1);

    switch (op % 16) {
    case 0:
    case 1: access_bus(m, in, m->bar + take(in, 2) % KIB(32), op & 1); break;
    case 2:
    case 3: access_bus(m, in, m->bar + take(in, 1) % 64, op & 1); break;         /* common configuration */
    case 4: access_bus(m, in, m->bar + 0x4000 + take(in, 1) % 128, true); break; /* vectors */
    case 5:
    case 6: access_bus(m, in, ECAM + SLOT * KIB(32) + take(in, 1), op & 1); break; /* capabilities */
    case 7: access_bus(m, in, m->bar + 0x3000 + take(in, 1) % 16, true); break;    /* doorbells */
    case 8: bring_up(m, take(in, 6)); break;
    case 9: make_request(m, in); break;
    case 10: {
        uint64_t value = take(in, 4);

        BUG_ON(mem_write(&m->mem, RING_BASE + take(in, 2) % RING_BYTES, &value, 4));
        break;
    }
    case 11: echo_settle(m->loop); break;
    case 12: echo_complete(m->echo); break;
    case 13: m->echo->hold = take(in, 1) & 1; break;
    case 14: save_and_load(m, in); break;
    default:
        if (take(in, 1) & 1)
            virtio_pci_device_ops.reset(m->vpci);
        else
            m->echo->dev.env.inline_work ^= true;
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct machine m;

    make_machine(&m);
    for (unsigned i = 0; i < STEPS_MAX && in.len; i++) {
        step(&m, &in);
        check(&m);
    }
    end_machine(&m);
    return 0;
}
