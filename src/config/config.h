/* The typed, validated configuration of a VM: plain structs that flags and JSON fill alike. */
#pragma once

#include "base/err.h"
#include "base/types.h"

enum config_engine { ENGINE_AUTO, ENGINE_SOFT, ENGINE_KVM };
enum config_console { CONSOLE_TTY, CONSOLE_FILE, CONSOLE_NONE, CONSOLE_VIRTIO /* standard input and output, by a virtio console */ };
enum config_queue_work { QUEUE_WORK_LOOP, QUEUE_WORK_INLINE };
enum config_disk_engine { DISK_ENGINE_AUTO, DISK_ENGINE_URING, DISK_ENGINE_THREADS };
enum config_gdb_kind { GDB_NONE, GDB_TCP, GDB_UNIX };
enum config_net_kind { NET_USER, NET_TAP, NET_FD };

#define CONFIG_DISKS_MAX 16
#define CONFIG_NETS_MAX 8
#define CONFIG_FORWARDS_MAX 32 /* of one network */
#define CONFIG_SERIAL_MAX 20   /* characters; what a virtio disk can tell */
#define CONFIG_QUEUES_MAX 16
#define CONFIG_IFNAME_MAX 15
#define CONFIG_CPUS_MAX 64
#define CONFIG_PINS_MAX 64
#define CONFIG_HOST_CPUS_MAX 1024
#define CONFIG_FW_CFG_MAX 32
#define CONFIG_FW_CFG_NAME_MAX 55 /* characters */

struct config_disk {
    char *path;
    bool read_only;
    bool direct;                        /* past the host's page cache */
    char serial[CONFIG_SERIAL_MAX + 1]; /* "" = none */
    unsigned queues;
    uint32_t block_size; /* 512, 4096, or 0: as the host's file asks for */
    enum config_disk_engine engine;
};

/* A port of the host that leads into the guest. */
struct config_forward {
    bool udp;
    char host_addr[16]; /* IPv4 */
    uint16_t host_port, guest_port;
};

struct config_net {
    enum config_net_kind kind;
    char ifname[CONFIG_IFNAME_MAX + 1]; /* NET_TAP */
    int fd;                             /* NET_FD */
    struct config_forward *forwards;    /* NET_USER */
    unsigned forward_count;
    bool has_mac; /* else config_net_mac() makes one */
    uint8_t mac[6];
};

/* Host CPUs first to last for the vCPUs from first_vcpu to last_vcpu; all: for those that no other pin names. */
struct config_pin {
    bool all;
    unsigned first_vcpu, last_vcpu;
    unsigned first, last;
};

/* A file of the firmware configuration device. */
struct config_fw_cfg {
    char *name; /* as the guest finds it */
    char *path;
};

/* Where a debugger can attach. */
struct config_gdb {
    enum config_gdb_kind kind;
    char address[46]; /* GDB_TCP: numeric, IPv4 or IPv6 */
    uint16_t port;    /* 0: any that is free */
    char *path;       /* GDB_UNIX */
    bool wait;        /* the guest stands until the debugger lets it go */
};

#define CONFIG_CODE_CACHE_MIN MIB(1)
#define CONFIG_CODE_CACHE_MAX MIB(1024)

struct config {
    char *name;       /* default: "umbra-<pid>" */
    bool name_wanted; /* it was given */
    enum config_engine engine;
    unsigned cpus;
    unsigned sockets, cores, threads; /* whose product is cpus: per machine, per socket, per core */
    struct config_pin pins[CONFIG_PINS_MAX];
    unsigned pin_count;
    uint64_t memory; /* bytes */
    bool memory_shared;
    uint64_t code_cache; /* bytes for the software engine's translated code; 0: its default */
    char *kernel;        /* paths; NULL = not given */
    char *initrd;
    char *append;
    enum config_console console;
    char *console_path; /* CONSOLE_FILE */
    struct config_disk disks[CONFIG_DISKS_MAX];
    unsigned disk_count;
    struct config_net nets[CONFIG_NETS_MAX];
    unsigned net_count;
    bool net_none; /* "none" was said, which no other network may stand beside */
    bool rng;
    uint64_t rng_rate; /* bytes per second; 0 = no limit */
    enum config_queue_work queue_work;
    struct config_fw_cfg fw_cfg[CONFIG_FW_CFG_MAX];
    unsigned fw_cfg_count;
    bool no_reboot;
    bool debug_exit;
    struct config_gdb gdb;
    bool stats;
    char *stats_path; /* NULL = a table on stderr; a name ending in .json makes JSON */

    uint64_t lists_from_file; /* a bit per row of the table of settings: the first flag of that name replaces what a file listed */
};

void config_init(struct config *); /* defaults */
void config_fini(struct config *); /* frees all that it points to */

/*
 * Fills from a JSON file; keys are the flags' names ("memory": "1G" or bytes as a number, "no-reboot": true ...).
 * -EINVAL with one sentence that names the file, the key and the wanted type; unknown keys are refused.
 */
int config_load_json(struct config *, const char *path, struct err *);

/*
 * One setting by its flag's name, from a string (value NULL for switches). The flag parser and tests use it. A setting that can be repeated
 * is added to what flags gave before, and replaces what a file gave.
 */
int config_set(struct config *, const char *key, const char *value, struct err *);

/* Cross-checks: values that contradict each other or that no machine can have. Looks at disks' files to see whether two are one. */
int config_validate(const struct config *, struct err *);

/* Whether a vCPU is pinned, and then whether to this host CPU. */
bool config_is_pinned(const struct config *, unsigned vcpu);
bool config_pins_to(const struct config *, unsigned vcpu, unsigned host_cpu);

/* A VM's name: what config_validate() says of it. 0 or -EINVAL. */
int config_check_name(const char *name, struct err *);

/* The MAC address of the index-th network: the given one, or a local one that follows from the VM's name. */
void config_net_mac(const struct config *, unsigned index, uint8_t mac[6]);
