/* Looks at the host's /dev/kvm: whether the engine can run there, and whether hardware is behind it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/kvm/kvm.h"

/* What the engine cannot do without; all of it is in Linux 4.13 and later. */
static const struct {
    int capability;
    const char *name;
} needed[] = {
    {KVM_CAP_USER_MEMORY, "memory slots"},
    {KVM_CAP_SPLIT_IRQCHIP, "a split interrupt controller"},
    {KVM_CAP_SIGNAL_MSI, "message-signalled interrupts"},
    {KVM_CAP_IRQFD, "irqfd"},
    {KVM_CAP_IOEVENTFD, "ioeventfd"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate exits"},
    {KVM_CAP_VCPU_EVENTS, "vCPU events"},
    {KVM_CAP_XSAVE, "XSAVE state"},
    {KVM_CAP_EXT_CPUID, "CPUID of its own"},
};

static bool cpu_has_flag(const char *wanted)
{
    size_t len = strlen(wanted);
    FILE *f = fopen("/proc/cpuinfo", "re");
    char *line = NULL;
    size_t size = 0;
    bool found = false;

    while (f && !found && getline(&line, &size, f) > 0) {
        if (strncmp(line, "flags", 5) != 0)
            continue;
        for (const char *p = line; (p = strstr(p, wanted)) && !found; p += len)
            found = p[-1] == ' ' && (p[len] == ' ' || p[len] == '\n');
        break;
    }
    free(line);
    if (f)
        fclose(f);
    return found;
}

static void look(int fd, struct engine_caps *caps)
{
    int api = kvm_ioctl_number(fd, KVM_GET_API_VERSION, 0);

    if (api != KVM_API_VERSION) {
        snprintf(caps->why, sizeof(caps->why), "/dev/kvm is there, but is not Linux's KVM: its API has version %d, not %d", api,
                 KVM_API_VERSION);
        return;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(needed); i++) {
        if (kvm_has(fd, needed[i].capability))
            continue;
        snprintf(caps->why, sizeof(caps->why), "/dev/kvm is there, but this kernel's has no %s: Linux 4.13 or later is needed",
                 needed[i].name);
        return;
    }
    caps->usable = true;
    caps->max_vcpus = MIN((unsigned)kvm_has(fd, KVM_CAP_MAX_VCPUS), VCPU_MAX);
    caps->hardware_assisted = cpu_has_flag("vmx") || cpu_has_flag("svm");
    if (!caps->hardware_assisted)
        snprintf(caps->why, sizeof(caps->why),
                 "the CPU shows neither vmx nor svm, so this host's KVM would emulate a guest's kernel, which is slow");
}

void kvm_probe(struct engine_caps *caps)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    *caps = (struct engine_caps){.present = fd >= 0 || errno != ENOENT};
    if (fd >= 0) {
        look(fd, caps);
        close(fd);
    } else if (errno == ENOENT) {
        snprintf(caps->why, sizeof(caps->why), "this host has no /dev/kvm");
    } else {
        snprintf(caps->why, sizeof(caps->why), "/dev/kvm is there, but cannot be opened: %s%s", strerror(errno),
                 errno == EACCES ? " (whoever is in its group may, often 'kvm')" : "");
    }
}
