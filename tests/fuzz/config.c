/* Fuzzes the configuration: the input as a JSON file, and as lines of key=value set one by one. */
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bug.h"
#include "config/options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Whatever was refused: what is left must be fit to be checked, used and freed. */
static void check(struct config *c, int error, const struct err *e)
{
    struct err why = {""};

    BUG_ON(error > 0);
    BUG_ON(error && !e->text[0]);
    BUG_ON(memchr(e->text, '\0', sizeof(e->text)) == NULL);
    BUG_ON(c->console == CONSOLE_FILE && !c->console_path);
    BUG_ON(c->disk_count > CONFIG_DISKS_MAX || c->net_count > CONFIG_NETS_MAX);
    for (unsigned i = 0; i < c->disk_count; i++)
        BUG_ON(!c->disks[i].path[0] || c->disks[i].queues < 1 || c->disks[i].queues > CONFIG_QUEUES_MAX);
    for (unsigned i = 0; i < c->net_count; i++)
        BUG_ON((c->nets[i].forward_count != 0) != (c->nets[i].forwards != NULL) || c->nets[i].mac[0] & 1);
    if (config_validate(c, &why) != 0) {
        BUG_ON(!why.text[0]);
        return;
    }
    BUG_ON(!c->kernel || !c->name || c->cpus != 1);
    BUG_ON(c->memory < CONFIG_MEMORY_MIN || c->memory > CONFIG_MEMORY_MAX || c->memory & PAGE_MASK);
}

static void load_as_json(const uint8_t *data, size_t size)
{
    int fd = memfd_create("config", MFD_CLOEXEC);
    char path[64];
    struct config c;
    struct err e = {""};
    int error;

    BUG_ON(fd < 0);
    BUG_ON(write(fd, data, size) != (ssize_t)size);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    config_init(&c);
    error = config_load_json(&c, path, &e);
    check(&c, error, &e);
    config_fini(&c);
    close(fd);
}

static void set_lines(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), *line, *rest;
    struct config c;

    BUG_ON(!text);
    memcpy(text, data, size);
    text[size] = '\0';
    config_init(&c);
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *value = strchr(line, '=');
        struct err e = {""};
        int error;

        if (value)
            *value++ = '\0';
        if (strcmp(line, "config") == 0) /* would read whatever file the input names */
            continue;
        error = config_set(&c, line, value, &e);
        check(&c, error, &e);
    }
    config_fini(&c);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    load_as_json(data, size);
    set_lines(data, size);
    return 0;
}
