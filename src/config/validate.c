/* Cross-checks of a configuration: what contradicts itself, and what no machine can have. */
#include <errno.h>
#include <string.h>

#include "config/options.h"

int config_check_name(const char *name, struct err *e)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

    if (!name || !*name)
        return err_set(e, EINVAL, "the VM's name is empty: give --name a name, or leave it out");
    if (strlen(name) > CONFIG_NAME_MAX || name[strspn(name, allowed)] != '\0')
        return err_set(e, EINVAL, "the VM's name '%.80s' must be at most %d letters, digits, dots, dashes and underscores", name,
                       CONFIG_NAME_MAX);
    return 0;
}

static int check_memory(uint64_t memory, struct err *e)
{
    char have[CONFIG_SIZE_TEXT], limit[CONFIG_SIZE_TEXT];

    config_size_text(memory, have);
    if (memory < CONFIG_MEMORY_MIN)
        return err_set(e, EINVAL, "memory of %s%s is too little: a machine needs at least %s, and Linux some 128M", have,
                       memory < 1024 ? " bytes" : "", config_size_text(CONFIG_MEMORY_MIN, limit));
    if (memory > CONFIG_MEMORY_MAX)
        return err_set(e, EINVAL, "memory of %s is too much: a machine can have at most %s, below the addresses of PCI devices", have,
                       config_size_text(CONFIG_MEMORY_MAX, limit));
    if (memory & PAGE_MASK)
        return err_set(e, EINVAL, "memory of %s bytes is not a whole number of pages: make it a multiple of 4K", have);
    return 0;
}

int config_validate(const struct config *c, struct err *e)
{
    int error = config_check_name(c->name, e);

    if (!error)
        error = check_memory(c->memory, e);
    if (!error)
        error = config_check_pins(c, e);
    if (error)
        return error;
    if (!c->kernel)
        return err_set(e, EINVAL, "no kernel was given: name one by --kernel FILE, or by \"kernel\" in the configuration file");
    if (c->console == CONSOLE_FILE && c->stats && c->stats_path && strcmp(c->console_path, c->stats_path) == 0)
        return err_set(e, EINVAL, "the console and the statistics cannot both be written to %.200s: give --stats another file",
                       c->stats_path);
    error = config_check_disks(c, e);
    if (!error)
        error = config_check_nets(c, e);
    return error ? error : config_check_fw_cfg(c, e);
}
