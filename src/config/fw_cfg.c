/* --fw-cfg: files that the guest reads from the firmware configuration device by their names. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config/options.h"

static int check_name(const char *name, struct err *why)
{
    size_t len = strlen(name);

    if (len == 0 || len > CONFIG_FW_CFG_NAME_MAX)
        return err_set(why, EINVAL, "needs a name of 1 to %d characters, such as opt/org.example/settings, not '%.100s'",
                       CONFIG_FW_CFG_NAME_MAX, name);
    for (const char *p = name; *p; p++)
        if (*p <= ' ' || *p > '~')
            return err_set(why, EINVAL, "needs a name of plain ASCII characters without spaces, not '%.100s'", name);
    /* Guests make folders of the parts. */
    if (name[0] == '/' || name[len - 1] == '/' || strstr(name, "//"))
        return err_set(why, EINVAL, "needs a name with something before and after each slash, not '%.100s'", name);
    return 0;
}

static int add_file(struct config *c, const struct config_item *item, struct err *why)
{
    struct config_fw_cfg *file = &c->fw_cfg[c->fw_cfg_count];
    int error = check_name(item->key, why);

    if (error)
        return error;
    if (!item->value || !*item->value)
        return err_set(why, EINVAL, "needs the name of a file behind '%.60s='", item->key);
    if (c->fw_cfg_count == CONFIG_FW_CFG_MAX)
        return err_set(why, EINVAL, "has more than %d files", CONFIG_FW_CFG_MAX);
    *file = (struct config_fw_cfg){.name = strdup(item->key), .path = strdup(item->value)};
    if (!file->name || !file->path) {
        free(file->name);
        free(file->path);
        return err_set(why, ENOMEM, "does not fit into memory");
    }
    c->fw_cfg_count++;
    return 0;
}

int config_add_fw_cfg(struct config *c, const struct config_items *items, struct err *why)
{
    int error = 0;

    for (unsigned i = 0; i < items->count && !error; i++)
        error = add_file(c, &items->item[i], why);
    return error;
}

void config_clear_fw_cfg(struct config *c)
{
    while (c->fw_cfg_count > 0) {
        struct config_fw_cfg *file = &c->fw_cfg[--c->fw_cfg_count];

        free(file->name);
        free(file->path);
    }
}

/* The parts of a are the first ones of b's: a would have to be a file and a folder. */
static bool is_folder_of(const char *a, const char *b)
{
    size_t len = strlen(a);

    return strncmp(a, b, len) == 0 && b[len] == '/';
}

int config_check_fw_cfg(const struct config *c, struct err *e)
{
    for (unsigned i = 0; i < c->fw_cfg_count; i++)
        for (unsigned j = 0; j < i; j++) {
            const char *a = c->fw_cfg[j].name, *b = c->fw_cfg[i].name;

            if (strcmp(a, b) == 0)
                return err_set(e, EINVAL, "two --fw-cfg files are named %s: give one of them another name", a);
            if (is_folder_of(a, b) || is_folder_of(b, a))
                return err_set(e, EINVAL,
                               "the --fw-cfg names %s and %s do not go together: in the guest one would be a folder of the other", a, b);
        }
    return 0;
}
