/* virtio over PCI: configuration structures in one BAR, capabilities that name them, MSI-X and INTx (virtio 1.2 4.1). */
#include "virtio/transport_pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bug.h"

#define PCI_VENDOR_VIRTIO 0x1af4
#define PCI_DEVICE_BASE 0x1040
#define PCI_CAP_ID_VENDOR 0x09

/* The one BAR: a page for each part, so that an engine may map or trap each by itself. */
#define BAR_INDEX 0
#define BAR_SIZE KIB(32)
#define PART_BYTES 0x1000U
#define OFF_COMMON 0x0000U
#define OFF_ISR 0x1000U
#define OFF_CONFIG 0x2000U
#define OFF_NOTIFY 0x3000U
#define OFF_MSIX_TABLE 0x4000U
#define OFF_MSIX_PBA 0x5000U

#define NOTIFY_MULTIPLIER 4U

enum cap_type { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_CONFIG = 4, CAP_WINDOW = 5 };

#define ISR_QUEUE 1
#define ISR_CONFIG 2

/* struct virtio_pci_cap from its third byte on (virtio 1.2 4.1.4), with what follows in capabilities 2 and 5. */
struct cap_body {
    uint8_t cap_len, cfg_type, bar, id, padding[2];
    uint32_t offset, length;
    uint32_t more; /* notify_off_multiplier, or pci_cfg_data */
} __attribute__((packed));

#define CAP_BODY_OFFSET 2
#define CAP_BYTES 16 /* without more */
#define CAP_AT(member) (CAP_BODY_OFFSET + offsetof(struct cap_body, member))

/* struct virtio_pci_common_cfg (virtio 1.2 4.1.4.3). */
struct common {
    uint32_t device_feature_select, device_feature, driver_feature_select, driver_feature;
    uint16_t config_msix_vector, num_queues;
    uint8_t device_status, config_generation;
    uint16_t queue_select, queue_size, queue_msix_vector, queue_enable, queue_notify_off;
    uint64_t queue_desc, queue_driver, queue_device;
    uint16_t queue_notify_data, queue_reset;
};
#define COMMON_BYTES 0x3c
_Static_assert(offsetof(struct common, queue_reset) + 2 == COMMON_BYTES, "layout of struct virtio_pci_common_cfg");

struct virtio_pci_state {
    uint32_t device_feature_select, driver_feature_select;
    uint16_t queue_select;
    uint16_t config_vector;
    uint16_t queue_vectors[VIRTIO_QUEUES_MAX];
    uint8_t isr;
};

struct virtio_pci {
    struct virtio_pci_state state; /* guarded by the device's lock */

    struct virtio_device *dev;
    struct pci_device pci;
    struct msix msix;
    unsigned window; /* the capability of the access window */
    struct bus_doorbell doorbells[VIRTIO_QUEUES_MAX];
};

static const struct state_field fields[] = {
    STATE_FIELD(struct virtio_pci_state, device_feature_select), STATE_FIELD(struct virtio_pci_state, driver_feature_select),
    STATE_FIELD(struct virtio_pci_state, queue_select),          STATE_FIELD(struct virtio_pci_state, config_vector),
    STATE_ARRAY(struct virtio_pci_state, queue_vectors),         STATE_FIELD(struct virtio_pci_state, isr),
};
static const struct state_desc desc = {"virtio_pci", 1, fields, ARRAY_SIZE(fields)};

static void state_reset(struct virtio_pci_state *s)
{
    *s = (struct virtio_pci_state){.config_vector = MSIX_NO_VECTOR};
    for (unsigned q = 0; q < VIRTIO_QUEUES_MAX; q++)
        s->queue_vectors[q] = MSIX_NO_VECTOR;
}

/* --- interrupts --- */

/*
 * The configuration bit of ISR is set with MSI-X too, the queues' only without (virtio 1.2 4.1.4.5.1). The line follows interrupts that were
 * meant for it, not the bits: one that was sent as a message must not come up as INTx when the driver turns MSI-X off.
 */
static bool on_interrupt(void *transport, int queue)
{
    struct virtio_pci *v = transport;
    bool messages = msix_enabled(&v->msix);

    if (queue < 0)
        v->state.isr |= ISR_CONFIG;
    else if (!messages)
        v->state.isr |= ISR_QUEUE;
    if (messages)
        return msix_notify(&v->msix, queue < 0 ? v->state.config_vector : v->state.queue_vectors[queue]);
    pci_set_intx(&v->pci, true);
    return false;
}

static uint8_t isr_read(struct virtio_pci *v)
{
    uint8_t isr;

    pthread_mutex_lock(&v->dev->lock);
    isr = v->state.isr;
    v->state.isr = 0;
    pci_set_intx(&v->pci, false);
    pthread_mutex_unlock(&v->dev->lock);
    return isr;
}

/* --- common configuration --- */

/* NULL: the driver selected a queue that is none. */
static struct virtq_state *selected(struct virtio_pci *v)
{
    return v->state.queue_select < v->dev->queue_count ? &v->dev->queues[v->state.queue_select].state : NULL;
}

static uint32_t half_of(uint64_t features, uint32_t select)
{
    return select < 2 ? (uint32_t)(features >> 32 * select) : 0;
}

static void common_snapshot(struct virtio_pci *v, struct common *c)
{
    const struct virtio_pci_state *s = &v->state;
    const struct virtio_device *dev = v->dev;
    const struct virtq_state *q = selected(v);

    *c = (struct common){
        .device_feature_select = s->device_feature_select,
        .device_feature = half_of(dev->features, s->device_feature_select),
        .driver_feature_select = s->driver_feature_select,
        .driver_feature = half_of(dev->state.driver_features, s->driver_feature_select),
        .config_msix_vector = s->config_vector,
        .num_queues = (uint16_t)dev->queue_count,
        .device_status = dev->state.status,
        .config_generation = dev->state.config_generation,
        .queue_select = s->queue_select,
        .queue_msix_vector = MSIX_NO_VECTOR,
    };
    if (!q)
        return; /* size 0: no such queue */
    c->queue_size = q->size;
    c->queue_msix_vector = s->queue_vectors[s->queue_select];
    c->queue_enable = q->enabled;
    c->queue_notify_off = s->queue_select;
    c->queue_desc = q->desc;
    c->queue_driver = q->driver;
    c->queue_device = q->device;
    c->queue_reset = dev->kicks[s->queue_select].reset_under_way;
}

static uint64_t common_read(struct virtio_pci *v, unsigned off, unsigned size)
{
    struct common c;
    uint64_t value = 0;

    if (off >= COMMON_BYTES)
        return 0;
    pthread_mutex_lock(&v->dev->lock);
    common_snapshot(v, &c);
    pthread_mutex_unlock(&v->dev->lock);
    memcpy(&value, (const uint8_t *)&c + off, MIN(size, COMMON_BYTES - off));
    return value;
}

/* What a driver writes into a vector's field is read back to see whether it was taken (virtio 1.2 4.1.5.1.2). */
static uint16_t legal_vector(const struct virtio_pci *v, uint64_t vector)
{
    return vector < v->msix.vectors ? (uint16_t)vector : MSIX_NO_VECTOR;
}

/* One of the three addresses, or a half of it (virtio 1.2 4.1.3.1). */
static bool address_write(struct virtq_state *q, unsigned off, unsigned size, uint64_t value)
{
    static const struct {
        unsigned off;
        size_t member;
    } addresses[] = {
        {offsetof(struct common, queue_desc), offsetof(struct virtq_state, desc)},
        {offsetof(struct common, queue_driver), offsetof(struct virtq_state, driver)},
        {offsetof(struct common, queue_device), offsetof(struct virtq_state, device)},
    };

    if ((size != 4 && size != 8) || off % size)
        return false;
    for (unsigned i = 0; i < ARRAY_SIZE(addresses); i++) {
        if (off / 8 * 8 != addresses[i].off)
            continue;
        memcpy((uint8_t *)q + addresses[i].member + off % 8, &value, size);
        return true;
    }
    return false;
}

/* Of the selected queue; while it is enabled, only its vector may change. Lock held. */
static void queue_field_write(struct virtio_pci *v, unsigned off, unsigned size, uint64_t value)
{
    struct virtq_state *q = selected(v);

    if (!q)
        return;
    if (off == offsetof(struct common, queue_msix_vector) && size == 2) {
        v->state.queue_vectors[v->state.queue_select] = legal_vector(v, value);
        return;
    }
    if (q->enabled) {
        log_guest(&v->dev->complaints, "the driver of %s changes queue %u, which is enabled", v->dev->label, v->state.queue_select);
        return;
    }
    if (off == offsetof(struct common, queue_size) && size == 2)
        q->size = (uint16_t)value;
    else
        address_write(q, off, size, value);
}

/* What is the transport's own. Lock held. */
static void field_write(struct virtio_pci *v, unsigned off, unsigned size, uint64_t value)
{
    struct virtio_pci_state *s = &v->state;

    if (off == offsetof(struct common, device_feature_select) && size == 4)
        s->device_feature_select = (uint32_t)value;
    else if (off == offsetof(struct common, driver_feature_select) && size == 4)
        s->driver_feature_select = (uint32_t)value;
    else if (off == offsetof(struct common, config_msix_vector) && size == 2)
        s->config_vector = legal_vector(v, value);
    else if (off == offsetof(struct common, queue_select) && size == 2)
        s->queue_select = (uint16_t)value;
    else
        queue_field_write(v, off, size, value);
}

static void status_write(struct virtio_pci *v, uint8_t status)
{
    virtio_set_status(v->dev, status);
    if (status)
        return;
    pthread_mutex_lock(&v->dev->lock);
    state_reset(&v->state);
    pci_set_intx(&v->pci, false);
    pthread_mutex_unlock(&v->dev->lock);
}

static void queue_enable_write(struct virtio_pci *v, unsigned queue, uint16_t value)
{
    if (value == 1) /* 0 is written by no driver (4.1.4.3.2) */
        virtio_enable_queue(v->dev, queue);
}

static void queue_reset_write(struct virtio_pci *v, unsigned queue, uint16_t value)
{
    if (value == 1)
        virtio_reset_queue(v->dev, queue);
}

/* Fields are written whole, with their own width (virtio 1.2 4.1.3.1); all else goes nowhere, and so do writes to what is read-only. */
static void common_write(struct virtio_pci *v, unsigned off, unsigned size, uint64_t value)
{
    uint32_t select;
    unsigned queue;

    pthread_mutex_lock(&v->dev->lock);
    select = v->state.driver_feature_select;
    queue = v->state.queue_select;
    pthread_mutex_unlock(&v->dev->lock);
    if (off == offsetof(struct common, device_status) && size == 1) {
        status_write(v, (uint8_t)value);
    } else if (off == offsetof(struct common, driver_feature) && size == 4) {
        virtio_set_driver_features(v->dev, select, (uint32_t)value);
    } else if (off == offsetof(struct common, queue_enable) && size == 2) {
        queue_enable_write(v, queue, (uint16_t)value);
    } else if (off == offsetof(struct common, queue_reset) && size == 2) {
        queue_reset_write(v, queue, (uint16_t)value);
    } else {
        pthread_mutex_lock(&v->dev->lock);
        field_write(v, off, size, value);
        pthread_mutex_unlock(&v->dev->lock);
    }
}

/* --- the BAR --- */

static uint64_t bar_read(void *opaque, uint64_t off, unsigned size)
{
    struct virtio_pci *v = opaque;
    unsigned part = (unsigned)off / PART_BYTES * PART_BYTES, in = (unsigned)off % PART_BYTES;

    switch (part) {
    case OFF_COMMON: return common_read(v, in, size);
    case OFF_ISR: return in == 0 ? isr_read(v) : 0;
    case OFF_CONFIG: return virtio_config_read(v->dev, in, size);
    case OFF_MSIX_TABLE: return msix_table_read(&v->msix, in, size);
    case OFF_MSIX_PBA: return msix_pba_read(&v->msix, in, size);
    default: return 0;
    }
}

static void bar_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct virtio_pci *v = opaque;
    unsigned part = (unsigned)off / PART_BYTES * PART_BYTES, in = (unsigned)off % PART_BYTES;

    switch (part) {
    case OFF_COMMON: common_write(v, in, size, value); break;
    case OFF_CONFIG: virtio_config_write(v->dev, in, size, value); break;
    case OFF_NOTIFY:
        if (in % NOTIFY_MULTIPLIER == 0) /* the address alone says which queue */
            virtio_doorbell(v->dev, in / NOTIFY_MULTIPLIER);
        break;
    case OFF_MSIX_TABLE: msix_table_write(&v->msix, in, size, value); break;
    default: break;
    }
}

static const struct bus_ops bar_ops = {bar_read, bar_write};

/* --- the access window: the BAR through configuration space (virtio 1.2 4.1.4.9) --- */

/* What the window is set to: the size of an access, 0 when it leads nowhere. */
static unsigned window_target(const struct virtio_pci *v, uint32_t *off)
{
    uint32_t size = pci_config_get(&v->pci, v->window + CAP_AT(length), 4);

    *off = pci_config_get(&v->pci, v->window + CAP_AT(offset), 4);
    if (pci_config_get(&v->pci, v->window + CAP_AT(bar), 1) != BAR_INDEX || (size != 1 && size != 2 && size != 4))
        return 0;
    return *off % size == 0 && *off < BAR_SIZE ? size : 0;
}

static bool is_window_data(const struct virtio_pci *v, unsigned off, unsigned size)
{
    unsigned data = v->window + CAP_AT(more);

    return off < data + 4 && off + size > data;
}

static void on_config_read(void *opaque, unsigned off, unsigned size)
{
    struct virtio_pci *v = opaque;
    uint32_t target;
    unsigned bytes;

    if (!is_window_data(v, off, size))
        return;
    bytes = window_target(v, &target);
    if (bytes)
        pci_config_put(&v->pci, v->window + CAP_AT(more), bytes, (uint32_t)bar_read(v, target, bytes));
}

static void on_config_written(void *opaque, unsigned off, unsigned size)
{
    struct virtio_pci *v = opaque;
    uint32_t target;
    unsigned bytes;

    msix_config_written(&v->msix, off, size);
    if (msix_enabled(&v->msix)) { /* a function with MSI-X does not use its line (PCI 3.0 6.8.2) */
        pthread_mutex_lock(&v->dev->lock);
        pci_set_intx(&v->pci, false);
        pthread_mutex_unlock(&v->dev->lock);
    }
    if (!is_window_data(v, off, size))
        return;
    bytes = window_target(v, &target);
    if (bytes)
        bar_write(v, target, bytes, pci_config_get(&v->pci, v->window + CAP_AT(more), bytes));
}

static const struct pci_device_ops pci_ops = {on_config_read, on_config_written};

/* --- making and ending --- */

static unsigned add_cap(struct virtio_pci *v, enum cap_type type, uint32_t offset, uint32_t length, uint32_t more)
{
    bool has_more = type == CAP_NOTIFY || type == CAP_WINDOW;
    unsigned len = has_more ? sizeof(struct cap_body) : CAP_BYTES - CAP_BODY_OFFSET;
    struct cap_body body = {.cap_len = (uint8_t)(CAP_BODY_OFFSET + len),
                            .cfg_type = (uint8_t)type,
                            .bar = BAR_INDEX,
                            .offset = offset,
                            .length = length,
                            .more = more};

    return pci_add_capability(&v->pci, PCI_CAP_ID_VENDOR, &body, len);
}

static void add_window(struct virtio_pci *v)
{
    const struct cap_body writable = {.bar = 0xff, .offset = UINT32_MAX, .length = UINT32_MAX, .more = UINT32_MAX};

    v->window = add_cap(v, CAP_WINDOW, 0, 0, 0);
    pci_set_writable(&v->pci, v->window + CAP_BODY_OFFSET, &writable, sizeof(writable));
}

static void add_doorbells(struct virtio_pci *v)
{
    for (unsigned q = 0; q < v->dev->queue_count; q++)
        v->doorbells[q] = (struct bus_doorbell){.off = OFF_NOTIFY + NOTIFY_MULTIPLIER * q, .fd = v->dev->kicks[q].event.fd};
    pci_set_doorbells(&v->pci, BAR_INDEX, v->doorbells, v->dev->queue_count);
}

static void init_function(struct virtio_pci *v)
{
    struct virtio_device *dev = v->dev;
    uint16_t id = (uint16_t)(PCI_DEVICE_BASE + dev->ops->id);
    struct pci_ids ids = {
        .vendor = PCI_VENDOR_VIRTIO,
        .device = id,
        .subsystem_vendor = PCI_VENDOR_VIRTIO,
        .subsystem = id, /* 0x40 or more: not one of the legacy interface (virtio 1.2 4.1.2.1) */
        .class_code = dev->ops->pci_class,
        .revision = 1,
    };

    pci_device_init(&v->pci, dev->label, &ids, &pci_ops, v);
    pci_add_bar(&v->pci, BAR_INDEX, PCI_BAR_MEM64, BAR_SIZE, &bar_ops, v);
    if (!dev->env.inline_work) /* the CPU that rings does the work: it has to come out of the guest for it */
        add_doorbells(v);
    add_cap(v, CAP_COMMON, OFF_COMMON, COMMON_BYTES, 0);
    add_cap(v, CAP_NOTIFY, OFF_NOTIFY, NOTIFY_MULTIPLIER * dev->queue_count, NOTIFY_MULTIPLIER);
    add_cap(v, CAP_ISR, OFF_ISR, 1, 0);
    if (dev->config_size)
        add_cap(v, CAP_CONFIG, OFF_CONFIG, dev->config_size, 0);
    add_window(v);
    msix_init(&v->msix, &v->pci, dev->queue_count + 1, BAR_INDEX, OFF_MSIX_TABLE, OFF_MSIX_PBA);
}

struct virtio_pci *virtio_pci_new(struct pci_host *host, struct virtio_device *dev, unsigned slot, struct err *e)
{
    struct virtio_pci *v = calloc(1, sizeof(*v));

    BUG_ON(dev->config_size > PART_BYTES);
    if (!v) {
        err_set(e, ENOMEM, "no memory for the PCI function of %s", dev->label);
        virtio_free(dev);
        return NULL;
    }
    v->dev = dev;
    state_reset(&v->state);
    init_function(v);
    dev->transport = v;
    dev->interrupt = on_interrupt;
    if (pci_attach(host, &v->pci, slot, e)) {
        virtio_pci_free(v);
        return NULL;
    }
    return v;
}

void virtio_pci_free(struct virtio_pci *v)
{
    if (!v)
        return;
    pci_detach(&v->pci);
    virtio_free(v->dev);
    msix_fini(&v->msix);
    free(v);
}

struct virtio_device *virtio_pci_device(struct virtio_pci *v)
{
    return v->dev;
}

/* --- as a device of the machine --- */

static void device_reset(void *opaque)
{
    struct virtio_pci *v = opaque;

    virtio_drain(v->dev);
    status_write(v, 0);
    msix_reset(&v->msix);
    pci_device_reset(&v->pci);
}

static void device_drain(void *opaque)
{
    struct virtio_pci *v = opaque;

    virtio_drain(v->dev);
}

static int device_save(void *opaque, struct state_writer *w)
{
    struct virtio_pci *v = opaque;
    struct virtio_pci_state copy;
    int rc;

    pthread_mutex_lock(&v->dev->lock);
    copy = v->state;
    pthread_mutex_unlock(&v->dev->lock);
    rc = state_save(&desc, &copy, w);
    if (!rc)
        rc = pci_device_save(&v->pci, w);
    if (!rc)
        rc = msix_save(&v->msix, w);
    return rc ? rc : virtio_save(v->dev, w);
}

static bool is_possible(const struct virtio_pci *v, const struct virtio_pci_state *s)
{
    for (unsigned q = 0; q < VIRTIO_QUEUES_MAX; q++)
        if (s->queue_vectors[q] != MSIX_NO_VECTOR && (s->queue_vectors[q] >= v->msix.vectors || q >= v->dev->queue_count))
            return false;
    return (s->config_vector == MSIX_NO_VECTOR || s->config_vector < v->msix.vectors) && !(s->isr & ~(ISR_QUEUE | ISR_CONFIG));
}

static int load_parts(struct virtio_pci *v, struct state_reader *r, struct err *e)
{
    struct virtio_pci_state copy = {0};
    int rc = state_load(&desc, &copy, r, e);

    if (rc)
        return rc;
    if (!is_possible(v, &copy))
        return err_set(e, EINVAL, "the saved state of %s holds impossible values", v->dev->label);
    rc = pci_device_load(&v->pci, r, e);
    if (!rc)
        rc = msix_load(&v->msix, r, e);
    if (!rc) {
        pthread_mutex_lock(&v->dev->lock);
        v->state = copy;
        pthread_mutex_unlock(&v->dev->lock);
        rc = virtio_load(v->dev, r, e);
    }
    return rc;
}

/* The parts load one after the other; what is there before is kept as they save it, to go back to when one of them fails. */
static int device_load(void *opaque, struct state_reader *r, struct err *e)
{
    struct virtio_pci *v = opaque;
    struct state_writer before;
    struct state_reader back;
    int rc;

    state_writer_init(&before);
    virtio_drain(v->dev);
    rc = device_save(v, &before);
    if (rc) {
        err_set(e, -rc, "no memory to load the state of %s", v->dev->label);
    } else {
        rc = load_parts(v, r, e);
        state_reader_init(&back, before.data, before.len);
        if (rc)
            BUG_ON(load_parts(v, &back, NULL));
    }
    state_writer_fini(&before);
    return rc;
}

const struct device_ops virtio_pci_device_ops = {"virtio_pci", device_reset, device_drain, device_save, device_load};
