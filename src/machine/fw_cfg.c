/* The firmware configuration device of a machine: the files that the configuration names, read into memory. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "machine/machine.h"

#define FILE_MAX MIB(64)

static_assert(CONFIG_FW_CFG_MAX <= FW_CFG_FILES_MAX && CONFIG_FW_CFG_NAME_MAX <= FW_CFG_NAME_MAX, "what can be asked for has a place");

/* Read and not mapped, so that it may change or go while the VM runs. The caller frees *data. A pipe is read to its end. */
static int read_fd(int fd, const struct config_fw_cfg *file, uint8_t **data, uint32_t *size, struct err *e)
{
    size_t have = 0, room = 0;
    ssize_t n = 1;

    *data = NULL;
    while (n > 0) {
        if (have == room) {
            uint8_t *more;

            room = room ? 2 * room : KIB(4);
            more = realloc(*data, room);
            if (!more)
                return err_set(e, ENOMEM, "no memory for the --fw-cfg file %.200s", file->path);
            *data = more;
        }
        n = read(fd, *data + have, room - have);
        if (n < 0 && errno == EINTR)
            n = 1;
        else if (n > 0)
            have += (size_t)n;
        if (have > FILE_MAX)
            return err_set(e, EFBIG, "the --fw-cfg file %.200s is larger than 64M, the most that one can be", file->path);
    }
    if (n < 0)
        return err_set(e, errno, "cannot read the --fw-cfg file %.200s: %s", file->path, strerror(errno));
    *size = (uint32_t)have;
    return 0;
}

static int read_file(const struct config_fw_cfg *file, uint8_t **data, uint32_t *size, struct err *e)
{
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    int error;

    if (fd < 0)
        return err_set(e, errno, "cannot open the --fw-cfg file %.200s: %s", file->path, strerror(errno));
    error = read_fd(fd, file, data, size, e);
    close(fd);
    if (error) {
        free(*data);
        *data = NULL;
    }
    return error;
}

static void free_files(struct machine *m)
{
    for (unsigned i = 0; i < CONFIG_FW_CFG_MAX; i++) {
        free(m->fw_cfg_data[i]);
        m->fw_cfg_data[i] = NULL;
    }
}

int machine_fw_cfg_init(struct machine *m, struct err *e)
{
    const struct config *c = &m->vm.config;
    int error = fw_cfg_init(&m->fw_cfg, &m->vm.pio, &m->vm.mem, c->cpus, e);

    if (error)
        return error;
    for (unsigned i = 0; i < c->fw_cfg_count && !error; i++) {
        uint32_t size = 0;

        error = read_file(&c->fw_cfg[i], &m->fw_cfg_data[i], &size, e);
        if (!error)
            fw_cfg_add_file(&m->fw_cfg, c->fw_cfg[i].name, m->fw_cfg_data[i], size);
    }
    if (error)
        machine_fw_cfg_fini(m);
    return error;
}

void machine_fw_cfg_fini(struct machine *m)
{
    fw_cfg_fini(&m->fw_cfg);
    free_files(m);
}
