/* The machine's virtio devices: each is made from the configuration and put into the next free slot of the PCI bus. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "machine/machine.h"
#include "virtio/blk.h"
#include "virtio/net.h"
#include "virtio/rng.h"

/* --- making one; NULL with a sentence --- */

static struct virtio_device *make_disk(struct machine *m, unsigned index, const struct virtio_env *env, const char *label, struct err *e)
{
    static const int engines[] = {
        [DISK_ENGINE_AUTO] = BLOCK_ENGINE_AUTO, [DISK_ENGINE_URING] = BLOCK_ENGINE_URING, [DISK_ENGINE_THREADS] = BLOCK_ENGINE_THREADS};
    const struct config_disk *disk = &m->vm.config.disks[index];
    struct block_options how = {.path = disk->path, .read_only = disk->read_only, .direct = disk->direct, .block_size = disk->block_size};
    struct virtio_blk_options what = {.queues = disk->queues};
    struct block_backend *backend;

    how.engine = engines[disk->engine];
    snprintf(what.serial, sizeof(what.serial), "%s", disk->serial);
    backend = block_open(&how, m->vm.loop, e);
    return backend ? virtio_blk_new(env, label, backend, &what, e) : NULL;
}

static struct net_backend *open_user_net(const struct config_net *net, struct loop *loop, struct err *e)
{
    struct net_forward forwards[CONFIG_FORWARDS_MAX];

    for (unsigned i = 0; i < net->forward_count; i++) {
        const struct config_forward *f = &net->forwards[i];

        forwards[i] = (struct net_forward){.udp = f->udp, .host_port = f->host_port, .guest_port = f->guest_port};
        snprintf(forwards[i].host_addr, sizeof(forwards[i].host_addr), "%s", f->host_addr);
    }
    return net_slirp_open(forwards, net->forward_count, loop, e);
}

static struct virtio_device *make_net(struct machine *m, unsigned index, const struct virtio_env *env, const char *label, struct err *e)
{
    const struct config_net *net = &m->vm.config.nets[index];
    struct net_backend *backend = NULL;
    uint8_t mac[6];

    switch (net->kind) {
    case NET_USER: backend = open_user_net(net, m->vm.loop, e); break;
    case NET_TAP: backend = net_tap_open(net->ifname, m->vm.loop, e); break;
    case NET_FD: backend = net_tap_fd(net->fd, m->vm.loop, e); break;
    }
    config_net_mac(&m->vm.config, index, mac);
    return backend ? virtio_net_new(env, label, backend, mac, e) : NULL;
}

static struct virtio_device *make_rng(struct machine *m, unsigned index, const struct virtio_env *env, const char *label, struct err *e)
{
    (void)index;
    return virtio_rng_new(env, label, m->vm.config.rng_rate, e);
}

static struct virtio_device *make_console(struct machine *m, unsigned index, const struct virtio_env *env, const char *label, struct err *e)
{
    const struct virtio_console_host host = machine_virtio_host(m);

    (void)index;
    m->virtio_console = virtio_console_new(env, label, &host, e);
    return m->virtio_console;
}

/* --- all of them --- */

static unsigned disk_count(const struct config *c)
{
    return c->disk_count;
}

static unsigned net_count(const struct config *c)
{
    return c->net_count;
}

static unsigned rng_count(const struct config *c)
{
    return c->rng;
}

static unsigned console_count(const struct config *c)
{
    return c->console == CONSOLE_VIRTIO;
}

/* In the order of their slots, which guests make names of. */
static const struct {
    const char *name; /* of the first one: with a 0 behind it */
    unsigned (*count)(const struct config *);
    struct virtio_device *(*make)(struct machine *, unsigned index, const struct virtio_env *, const char *label, struct err *);
} kinds[] = {
    {"blk", disk_count, make_disk},
    {"net", net_count, make_net},
    {"rng", rng_count, make_rng},
    {"console", console_count, make_console},
};

static_assert(CONFIG_DISKS_MAX + CONFIG_NETS_MAX + 2 < PCI_SLOTS, "every device of a configuration has a slot");

static void report(void *dev, struct stats_out *out)
{
    virtio_stats(dev, out);
}

static int add(struct machine *m, unsigned kind, unsigned index, struct err *e)
{
    const struct virtio_env env = {
        .mem = &m->vm.mem, .loop = m->vm.loop, .inline_work = m->vm.config.queue_work == QUEUE_WORK_INLINE, .trace = &m->vm.trace};
    struct machine_virtio *v = &m->virtio[m->virtio_count];
    struct virtio_device *dev;
    char label[sizeof(dev->label)];

    snprintf(label, sizeof(label), "%s%u", kinds[kind].name, index);
    dev = kinds[kind].make(m, index, &env, label, e);
    if (!dev)
        return -EIO;
    v->pci = virtio_pci_new(&m->pci, dev, 0, e); /* the first free slot; owns dev, whatever comes of it */
    if (!v->pci)
        return -EIO;
    v->reporter = (struct stats_reporter){.report = report, .opaque = dev};
    stats_add(&m->vm, &v->reporter);
    machine_add_device(m, &virtio_pci_device_ops, v->pci);
    m->virtio_count++;
    return 0;
}

int machine_virtio_init(struct machine *m, struct err *e)
{
    for (unsigned kind = 0; kind < ARRAY_SIZE(kinds); kind++)
        for (unsigned i = 0; i < kinds[kind].count(&m->vm.config); i++) {
            int error = add(m, kind, i, e);

            if (error) {
                machine_virtio_fini(m);
                return error;
            }
        }
    return 0;
}

void machine_virtio_fini(struct machine *m)
{
    m->virtio_console = NULL;
    while (m->virtio_count > 0) {
        struct machine_virtio *v = &m->virtio[--m->virtio_count];

        stats_remove(&m->vm, &v->reporter);
        virtio_pci_free(v->pci);
    }
}
