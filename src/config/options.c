/* The table of settings, and setting one of them from a string. */
#include "config/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int set_string(char **field, const char *value, struct err *why)
{
    char *copy = strdup(value);

    if (!copy)
        return err_set(why, ENOMEM, "does not fit into memory");
    free(*field);
    *field = copy;
    return 0;
}

static int set_path(char **field, const char *value, struct err *why)
{
    if (!*value)
        return err_set(why, EINVAL, "needs the name of a file, not an empty one");
    return set_string(field, value, why);
}

static int set_name(struct config *c, bool on, const char *value, struct err *why)
{
    (void)on;
    c->name_wanted = true;
    return set_string(&c->name, value, why);
}

static int set_engine(struct config *c, bool on, const char *value, struct err *why)
{
    (void)on;
    if (strcmp(value, "auto") == 0)
        c->engine = ENGINE_AUTO;
    else if (strcmp(value, "soft") == 0)
        c->engine = ENGINE_SOFT;
    else if (strcmp(value, "kvm") == 0)
        c->engine = ENGINE_KVM;
    else
        return err_set(why, EINVAL, "must be auto, kvm or soft, not '%.100s'", value);
    return 0;
}

static int set_memory(struct config *c, bool on, const char *value, struct err *why)
{
    const char *comma = strchr(value, ',');
    size_t len = comma ? (size_t)(comma - value) : strlen(value);
    char size[32];
    uint64_t bytes;
    int error = -EINVAL;

    (void)on;
    if (comma && strcmp(comma, ",shared") != 0)
        return err_set(why, EINVAL, "must be SIZE or SIZE,shared, not '%.100s'", value);
    if (len < sizeof(size)) {
        memcpy(size, value, len);
        size[len] = '\0';
        error = config_parse_size(size, &bytes);
    }
    if (error == -ERANGE)
        return err_set(why, EINVAL, "of '%.100s' is more than any machine can have", value);
    if (error)
        return err_set(why, EINVAL, "must be a size such as 512M, 2G or 2048K, or a number of bytes, not '%.100s'", value);
    c->memory = bytes;
    c->memory_shared = comma != NULL;
    return 0;
}

static int set_code_cache(struct config *c, bool on, const char *value, struct err *why)
{
    uint64_t bytes;

    (void)on;
    if (config_parse_size(value, &bytes) != 0 || bytes < CONFIG_CODE_CACHE_MIN || bytes > CONFIG_CODE_CACHE_MAX)
        return err_set(why, EINVAL, "must be a size from 1M to 1G, not '%.100s'", value);
    c->code_cache = bytes;
    return 0;
}

static int set_kernel(struct config *c, bool on, const char *value, struct err *why)
{
    (void)on;
    return set_path(&c->kernel, value, why);
}

static int set_initrd(struct config *c, bool on, const char *value, struct err *why)
{
    (void)on;
    return set_path(&c->initrd, value, why);
}

static int set_append(struct config *c, bool on, const char *value, struct err *why)
{
    (void)on;
    return set_string(&c->append, value, why);
}

static int set_console(struct config *c, bool on, const char *value, struct err *why)
{
    (void)on;
    if (strcmp(value, "tty") == 0) {
        c->console = CONSOLE_TTY;
    } else if (strcmp(value, "none") == 0) {
        c->console = CONSOLE_NONE;
    } else if (strcmp(value, "virtio") == 0) {
        c->console = CONSOLE_VIRTIO;
    } else if (strncmp(value, "file:", 5) == 0) {
        int error = set_path(&c->console_path, value + 5, why);
        if (error)
            return error;
        c->console = CONSOLE_FILE; /* never without a path */
    } else {
        return err_set(why, EINVAL, "must be tty, virtio, none or file:PATH, not '%.100s'", value);
    }
    return 0;
}

static int set_rng(struct config *c, const struct config_items *items, struct err *why)
{
    bool on = false, off = false;
    uint64_t rate = 0;
    int error = config_items_once(items, NULL, why);

    for (unsigned i = 0; i < items->count && !error; i++) {
        const struct config_item *item = &items->item[i];

        if (strcmp(item->key, "on") == 0)
            error = config_item_switch(item, &on, why);
        else if (strcmp(item->key, "off") == 0)
            error = config_item_switch(item, &off, why);
        else if (strcmp(item->key, "rate") != 0)
            error = err_set(why, EINVAL, "must be on, off or on,rate=SIZE, not '%.60s'", item->key);
        else if (config_parse_size(item->value ? item->value : "", &rate) != 0 || rate == 0 || rate > GIB(1))
            error = err_set(why, EINVAL, "needs bytes per second, such as 4K and up to 1G, for 'rate', not '%.60s'",
                            item->value ? item->value : "");
    }
    if (error)
        return error;
    if (off && (on || rate))
        return err_set(why, EINVAL, "cannot be off and have other settings");
    c->rng = !off;
    c->rng_rate = rate;
    return 0;
}

static int set_queue_work(struct config *c, bool on, const char *value, struct err *why)
{
    (void)on;
    if (strcmp(value, "loop") == 0)
        c->queue_work = QUEUE_WORK_LOOP;
    else if (strcmp(value, "inline") == 0)
        c->queue_work = QUEUE_WORK_INLINE;
    else
        return err_set(why, EINVAL, "must be loop or inline, not '%.100s'", value);
    return 0;
}

static int set_no_reboot(struct config *c, bool on, const char *value, struct err *why)
{
    (void)value, (void)why;
    c->no_reboot = on;
    return 0;
}

static int set_debug_exit(struct config *c, bool on, const char *value, struct err *why)
{
    (void)value, (void)why;
    c->debug_exit = on;
    return 0;
}

static int set_stats(struct config *c, bool on, const char *value, struct err *why)
{
    int error = value ? set_path(&c->stats_path, value, why) : 0;

    if (error)
        return error;
    c->stats = on;
    if (!value) {
        free(c->stats_path);
        c->stats_path = NULL;
    }
    return 0;
}

const struct config_option config_options[] = {
    {"name", CONFIG_TEXT, "N", "a name for the VM, as ps and the statistics show it\n(default: umbra-PID)", .set = set_name},
    {"engine", CONFIG_TEXT, "auto|kvm|soft",
     "who runs the guest's instructions: the host's KVM, the software\nengine, or auto, the default: KVM where hardware helps it\n"
     "('umbra probe' says what auto picks)",
     .set = set_engine, .words = "auto kvm soft"},
    {"cpus", CONFIG_NUMBER, "N[,sockets=N][,cores=N][,threads=N]",
     "the number of CPUs, 1 to 64 (default: 1), and how they are grouped;\nwhat is left out follows from the rest (default: one socket of N\n"
     "cores)",
     .set_items = config_set_cpus, .first = "count"},
    {"pin", CONFIG_TEXT, "LIST",
     "which of the host's CPUs run the guest's: 2-3 for all of them, or\n0:2,1:3 for each; a part is HOSTCPUS or CPUS:HOSTCPUS with\n"
     "numbers or ranges (default: the host's scheduler decides)",
     .set = config_set_pins},
    {"memory", CONFIG_SIZE, "SIZE[,shared]",
     "the guest's RAM: 512M, 1G, 2048K or bytes (default: 512M);\nshared: as a memfd that other processes can map", .set = set_memory},
    {"code-cache", CONFIG_SIZE, "SIZE",
     "room for code that the software engine has translated: 1M to 1G\n(default: 128M); when it is full, all is translated anew",
     .set = set_code_cache},
    {"kernel", CONFIG_TEXT, "FILE", "the kernel: bzImage, ELF vmlinux (64-bit or PVH) or multiboot;\nrequired", .set = set_kernel,
     .words = CONFIG_FILES},
    {"initrd", CONFIG_TEXT, "FILE", "the initial RAM disk; for multiboot the module", .set = set_initrd, .words = CONFIG_FILES},
    {"append", CONFIG_TEXT, "STRING", "the kernel's command line; Linux needs console=ttyS0 in it, or\nconsole=hvc0 for --console virtio",
     .set = set_append},
    {"console", CONFIG_TEXT, "tty|virtio|file:PATH|none",
     "standard input and output are the serial console (tty, the\ndefault) or a virtio console (virtio), which follows the\n"
     "window's size; or the serial console goes to a file (output\nonly), or nowhere",
     .set = set_console, .words = "tty virtio none file:"},
    {"disk", CONFIG_LIST, "PATH[,SETTING]...",
     "a virtio disk: a raw image or block device; up to 16 times.\nro: read-only; direct: past the host's page cache;\n"
     "serial=S: up to 20 characters; queues=N: 1 to 16 (default: 1);\nblock-size=512|4096; engine=auto|io_uring|threads: who does\n"
     "the host's I/O; a comma in PATH is written twice",
     .words = CONFIG_FILES, .set_items = config_add_disk, .first = "path", .clear = config_clear_disks},
    {"net", CONFIG_LIST, "KIND[,SETTING]...",
     "a virtio network interface; up to 8 times. KIND is user: a\nnetwork of umbra's own, which needs no privileges; tap=IFNAME;\n"
     "fd=N: a tap that is open already; or none (default: none).\nhostfwd=tcp:[HOSTADDR:]HOSTPORT:GUESTPORT (or udp:...), with\n"
     "user and as often as wanted: a port of the host leads into the\nguest (HOSTADDR: 127.0.0.1); mac=XX:XX:XX:XX:XX:XX",
     .words = "user none tap= fd=", .set_items = config_add_net, .clear = config_clear_nets},
    {"rng", CONFIG_ITEMS, "off|on[,rate=SIZE]",
     "a virtio source of random numbers, from the host's getrandom\n(default: on); rate: at most so many bytes per second",
     .words = "on off", .set_items = set_rng},
    {"queue-work", CONFIG_TEXT, "loop|inline", "who does the work of virtio queues: the I/O thread (default),\nor the CPU that asks for it",
     .set = set_queue_work, .words = "loop inline"},
    {"fw-cfg", CONFIG_LIST, "NAME=FILE",
     "a file that the guest finds by NAME (at most 55 characters,\nsuch as opt/org.example/x) in QEMU's firmware configuration\n"
     "device; up to 32; a comma is written twice. In JSON an object\nof names",
     .words = CONFIG_FILES, .set_items = config_add_fw_cfg, .clear = config_clear_fw_cfg},
    {"no-reboot", CONFIG_SWITCH, NULL, "a reboot of the guest ends umbra with status 0", .set = set_no_reboot},
    {"debug-exit", CONFIG_SWITCH, NULL, "a byte v that the guest writes to port 0xf4 ends umbra\nwith status (v << 1) | 1",
     .set = set_debug_exit},
    {"gdb", CONFIG_ITEMS, "tcp:[ADDR:]PORT|unix:PATH[,wait]",
     "where gdb can attach with 'target remote' (ADDR: 127.0.0.1; PORT\n0: any that is free); wait: the guest stands until gdb lets it go",
     .words = "tcp: unix:", .set_items = config_set_gdb, .first = "listen"},
    {"stats", CONFIG_SWITCH_OR_TEXT, "FILE",
     "print statistics at the end: a table on standard error, or\ninto FILE; as JSON when its name ends in .json", .set = set_stats},
    {"config", CONFIG_INCLUDE, "FILE.json",
     "read settings from a JSON object whose keys are these flags'\nnames; flags win over the file. What can be repeated is an array\n"
     "there; what has commas may be an object, as {\"path\": \"d.img\",\n\"ro\": true}",
     .words = CONFIG_FILES},
};
const unsigned config_option_count = ARRAY_SIZE(config_options);

const struct config_option *config_option_find(const char *key)
{
    for (unsigned i = 0; i < config_option_count; i++)
        if (strcmp(config_options[i].key, key) == 0)
            return &config_options[i];
    return NULL;
}

void config_init(struct config *c)
{
    *c = (struct config){
        .engine = ENGINE_AUTO, .cpus = 1, .sockets = 1, .cores = 1, .threads = 1, .memory = MIB(512), .console = CONSOLE_TTY, .rng = true};
    if (asprintf(&c->name, "umbra-%d", (int)getpid()) < 0)
        c->name = NULL; /* config_validate() finds it missing */
}

void config_fini(struct config *c)
{
    free(c->name);
    free(c->kernel);
    free(c->initrd);
    free(c->append);
    free(c->console_path);
    free(c->stats_path);
    config_clear_disks(c);
    config_clear_nets(c);
    config_clear_fw_cfg(c);
    config_clear_gdb(c);
    *c = (struct config){0};
}

static int set_items(struct config *c, const struct config_option *option, const char *value, struct err *why)
{
    uint64_t from_file = BIT(option - config_options);
    struct config_items items;
    int error = config_items_split(&items, value, option->first, why);

    if (!error && c->lists_from_file & from_file) {
        option->clear(c);
        c->lists_from_file &= ~from_file;
    }
    if (!error)
        error = option->set_items(c, &items, why);
    config_items_fini(&items);
    return error;
}

int config_set(struct config *c, const char *key, const char *value, struct err *e)
{
    const struct config_option *option = config_option_find(key);
    struct err why;
    int error;

    if (!option)
        return err_set(e, EINVAL, "unknown option --%.100s", key);
    if (option->kind == CONFIG_SWITCH && value)
        return err_set(e, EINVAL, "--%s takes no value, but was given '%.100s'", key, value);
    if (option->kind != CONFIG_SWITCH && option->kind != CONFIG_SWITCH_OR_TEXT && !value)
        return err_set(e, EINVAL, "--%s needs a value: --%s %s", key, key, option->value);
    if (option->kind == CONFIG_INCLUDE)
        return config_load_json(c, value, e);
    error = option->set ? option->set(c, true, value, &why) : set_items(c, option, value, &why);
    return error ? err_set(e, -error, "--%s %s", key, why.text) : 0;
}
