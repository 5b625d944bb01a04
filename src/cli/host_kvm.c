/* Looks at /dev/kvm and at the CPU's flags. */
#include "cli/host_kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

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

void host_kvm_look(struct host_kvm *kvm)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    *kvm = (struct host_kvm){0};
    if (fd >= 0)
        kvm->api = ioctl(fd, KVM_GET_API_VERSION, 0);
    if (fd < 0 || kvm->api < 0) {
        kvm->error = errno;
    } else {
        kvm->usable = true;
        kvm->assisted = cpu_has_flag("vmx") || cpu_has_flag("svm");
    }
    if (fd >= 0)
        close(fd);
}
