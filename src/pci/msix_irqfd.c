/* MSI-X by irqfds: what a vector sends is told to the kernel before, and sending is a write to an eventfd. */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "pci/msix_table.h"

static void make(struct msix *m, struct msix_irqfd *i)
{
    i->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    i->source = i->fd < 0 ? -errno : m->irqfds->add(m->irqfd_opaque);
    i->made = i->source >= 0;
    i->failed = !i->made;
    m->irqfd_count += i->made;
    if (i->failed && i->fd >= 0)
        close(i->fd);
}

static void set_connected(struct msix *m, struct msix_irqfd *i, bool on)
{
    if (i->connected == on)
        return;
    i->connected = m->irqfds->connect(m->irqfd_opaque, i->source, i->fd, on) == 0 ? on : !on;
    i->failed |= on && !i->connected; /* the message goes by the other way */
}

void msix_irqfds_free(struct msix *m)
{
    for (unsigned v = 0; v < m->vectors && m->irqfd_count; v++) {
        struct msix_irqfd *i = &m->irqfd[v];

        if (i->made) {
            set_connected(m, i, false);
            m->irqfds->remove(m->irqfd_opaque, i->source);
            close(i->fd);
            m->irqfd_count--;
        }
    }
    memset(m->irqfd, 0, sizeof(m->irqfd));
}

/* All that changes is told to the kernel at once, and only then is anything connected that may send. */
void msix_irqfds_update(struct msix *m, unsigned first, unsigned end, bool may_send)
{
    bool committed;

    if (m->dev->host && m->dev->host->irqfds) {
        m->irqfds = m->dev->host->irqfds;
        m->irqfd_opaque = m->dev->host->irqfd_opaque;
    }
    if (!m->irqfds)
        return;
    for (unsigned v = first; v < end; v++) {
        struct msix_irqfd *i = &m->irqfd[v];
        bool on = may_send && !msix_is_masked(m, v);

        if (on && !i->made && !i->failed)
            make(m, i);
        if (!i->made)
            continue;
        if (!on)
            set_connected(m, i, false);
        if (on && (!i->connected || i->addr != msix_address(m, v) || i->data != msix_data(m, v))) {
            i->addr = msix_address(m, v);
            i->data = msix_data(m, v);
            m->irqfds->route(m->irqfd_opaque, i->source, i->addr, i->data);
        }
    }
    committed = m->irqfds->commit(m->irqfd_opaque) == 0; /* else they go by the other way */
    for (unsigned v = first; v < end; v++)
        if (m->irqfd[v].made && may_send && !msix_is_masked(m, v))
            set_connected(m, &m->irqfd[v], committed);
}

bool msix_irqfd_send(struct msix *m, unsigned v)
{
    uint64_t one = 1;

    return m->irqfd[v].connected && write(m->irqfd[v].fd, &one, sizeof(one)) == (ssize_t)sizeof(one);
}
