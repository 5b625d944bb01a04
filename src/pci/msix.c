/* MSI-X: who is sent, who is pending, and what unmasking sends (PCI 3.0 6.8.2, 6.8.3). */
#include "pci/msix.h"

#include <errno.h>
#include <string.h>

#include "base/bug.h"
#include "cpu/trace.h"
#include "pci/msix_table.h"
#include "pci/regs.h"

#define CONTROL 2 /* Message Control, from the capability's start */
#define CONTROL_ENABLE 0x8000U
#define CONTROL_FUNCTION_MASK 0x4000U

static const struct state_field fields[] = {
    STATE_ARRAY(struct msix_state, table),
    STATE_ARRAY(struct msix_state, pending),
};
static const struct state_desc desc = {"msix", 1, fields, ARRAY_SIZE(fields)};

static void state_reset(struct msix *m)
{
    memset(&m->state, 0, sizeof(m->state));
    for (unsigned v = 0; v < m->vectors; v++)
        m->state.table[MSIX_ENTRY_DWORDS * v + MSIX_VECTOR_CONTROL] = MSIX_MASKED;
}

void msix_init(struct msix *m, struct pci_device *dev, unsigned vectors, unsigned bar, uint32_t table_off, uint32_t pba_off)
{
    const uint16_t writable = CONTROL_ENABLE | CONTROL_FUNCTION_MASK;
    struct {
        uint16_t control;
        uint32_t table, pba;
    } __attribute__((packed)) body = {(uint16_t)(vectors - 1), table_off | bar, pba_off | bar};

    BUG_ON(vectors == 0 || vectors > MSIX_MAX || bar >= PCI_BARS || table_off % 8 || pba_off % 8);
    memset(m, 0, sizeof(*m));
    m->dev = dev;
    m->vectors = vectors;
    m->capability = pci_add_capability(dev, PCI_CAP_ID_MSIX, &body, sizeof(body));
    pci_set_writable(dev, m->capability + CONTROL, &writable, sizeof(writable));
    pthread_mutex_init(&m->lock, NULL);
    state_reset(m);
}

void msix_fini(struct msix *m)
{
    msix_irqfds_free(m);
    pthread_mutex_destroy(&m->lock);
}

void msix_reset(struct msix *m)
{
    pthread_mutex_lock(&m->lock);
    msix_irqfds_free(m);
    state_reset(m);
    pthread_mutex_unlock(&m->lock);
}

bool msix_enabled(struct msix *m)
{
    return pci_config_get(m->dev, m->capability + CONTROL, 2) & CONTROL_ENABLE;
}

static bool is_pending(const struct msix *m, unsigned v)
{
    return m->state.pending[v / 64] >> (v % 64) & 1;
}

/* Whether the function as a whole may send. A message is a write to memory: without Bus Master it waits like a masked one. */
static bool may_send(const struct msix *m)
{
    uint32_t control = pci_config_get(m->dev, m->capability + CONTROL, 2);

    return (control & (CONTROL_ENABLE | CONTROL_FUNCTION_MASK)) == CONTROL_ENABLE &&
           (pci_config_get(m->dev, PCI_COMMAND, 2) & PCI_COMMAND_MASTER);
}

/* True: by its irqfd. */
static bool send(struct msix *m, unsigned v)
{
    struct pci_host *h = m->dev->host;

    if (!h || !h->msi)
        return false;
    trace_interrupt(h->trace, m->dev->name, msix_address(m, v), msix_data(m, v));
    if (msix_irqfd_send(m, v))
        return true;
    if (h->msi(h->msi_opaque, msix_address(m, v), msix_data(m, v)))
        log_guest(&m->complaints, "%s: nobody takes the message %#x to 0x%llx of MSI-X vector %u", m->dev->name, msix_data(m, v),
                  (unsigned long long)msix_address(m, v), v);
    return false;
}

/* Sends what of the vectors [first, end) is pending and no longer masked. True: the last of them by its irqfd. Lock held. */
static bool send_pending(struct msix *m, unsigned first, unsigned end)
{
    bool by_irqfd = false;

    if (!may_send(m))
        return false;
    for (unsigned v = first; v < end; v++) {
        if (!is_pending(m, v) || msix_is_masked(m, v))
            continue;
        m->state.pending[v / 64] &= ~BIT(v % 64);
        by_irqfd = send(m, v);
    }
    return by_irqfd;
}

bool msix_notify(struct msix *m, unsigned vector)
{
    bool by_irqfd = false;

    if (vector >= m->vectors)
        return false;
    /* The registers are read under the lock, so that unmasking comes either before that or finds the pending bit. */
    pthread_mutex_lock(&m->lock);
    if (msix_enabled(m)) {
        m->state.pending[vector / 64] |= BIT(vector % 64);
        by_irqfd = send_pending(m, vector, vector + 1);
    }
    pthread_mutex_unlock(&m->lock);
    return by_irqfd;
}

void msix_config_written(struct msix *m, unsigned off, unsigned size)
{
    unsigned control = m->capability + CONTROL;
    bool command_written = off < PCI_COMMAND + 2 && off + size > PCI_COMMAND;

    if (!command_written && (off >= control + 2 || off + size <= control))
        return;
    pthread_mutex_lock(&m->lock);
    msix_irqfds_update(m, 0, m->vectors, may_send(m));
    if (msix_enabled(m))
        send_pending(m, 0, m->vectors);
    else
        memset(m->state.pending, 0, sizeof(m->state.pending)); /* what was asked for then is no business of a later user */
    pthread_mutex_unlock(&m->lock);
}

/* Bytes [off, off + size) of what lies at from and has len; nothing beyond it. */
static uint64_t read_bytes(const void *from, uint64_t len, uint64_t off, unsigned size)
{
    uint64_t value = 0;

    if (off < len)
        memcpy(&value, (const uint8_t *)from + off, MIN((uint64_t)size, len - off));
    return value;
}

uint64_t msix_table_read(struct msix *m, uint64_t off, unsigned size)
{
    uint64_t value;

    pthread_mutex_lock(&m->lock);
    value = read_bytes(m->state.table, (uint64_t)MSIX_ENTRY_BYTES * m->vectors, off, size);
    pthread_mutex_unlock(&m->lock);
    return value;
}

uint64_t msix_pba_read(struct msix *m, uint64_t off, unsigned size)
{
    uint64_t value;

    pthread_mutex_lock(&m->lock);
    value = read_bytes(m->state.pending, 8ULL * ((m->vectors + 63) / 64), off, size);
    pthread_mutex_unlock(&m->lock);
    return value;
}

void msix_table_write(struct msix *m, uint64_t off, unsigned size, uint64_t value)
{
    uint64_t len = (uint64_t)MSIX_ENTRY_BYTES * m->vectors;
    unsigned first, end;

    if (off >= len)
        return;
    size = (unsigned)MIN((uint64_t)size, len - off);
    first = (unsigned)(off / MSIX_ENTRY_BYTES);
    end = (unsigned)((off + size - 1) / MSIX_ENTRY_BYTES) + 1;
    pthread_mutex_lock(&m->lock);
    memcpy((uint8_t *)m->state.table + off, &value, size);
    for (unsigned v = first; v < end; v++) {
        m->state.table[MSIX_ENTRY_DWORDS * v + MSIX_ADDRESS_LOW] &= MSIX_ADDRESS_LOW_BITS;
        m->state.table[MSIX_ENTRY_DWORDS * v + MSIX_VECTOR_CONTROL] &= MSIX_MASKED;
    }
    msix_irqfds_update(m, first, end, may_send(m));
    send_pending(m, first, end);
    pthread_mutex_unlock(&m->lock);
}

int msix_save(struct msix *m, struct state_writer *w)
{
    struct msix_state copy;

    pthread_mutex_lock(&m->lock);
    copy = m->state;
    pthread_mutex_unlock(&m->lock);
    return state_save(&desc, &copy, w);
}

static bool is_possible(const struct msix *m, const struct msix_state *s)
{
    for (unsigned v = 0; v < MSIX_MAX; v++) {
        const uint32_t *entry = &s->table[MSIX_ENTRY_DWORDS * v];
        bool there = v < m->vectors;

        if (there && (entry[MSIX_ADDRESS_LOW] & ~MSIX_ADDRESS_LOW_BITS || entry[MSIX_VECTOR_CONTROL] & ~MSIX_MASKED))
            return false;
        if (!there && (entry[0] || entry[1] || entry[2] || entry[3] || s->pending[v / 64] >> (v % 64) & 1))
            return false;
    }
    return true;
}

int msix_load(struct msix *m, struct state_reader *r, struct err *e)
{
    struct msix_state copy = {0};
    int rc = state_load(&desc, &copy, r, e);

    if (rc)
        return rc;
    if (!is_possible(m, &copy))
        return err_set(e, EINVAL, "the saved state of %s holds impossible values", desc.name);
    pthread_mutex_lock(&m->lock);
    m->state = copy;
    msix_irqfds_update(m, 0, m->vectors, may_send(m));
    pthread_mutex_unlock(&m->lock);
    return 0;
}
