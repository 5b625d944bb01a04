/* The one table of settings: flags, JSON keys, help, man page and shell completion all follow it. */
#pragma once

#include "config/config.h"

enum config_kind {
    CONFIG_TEXT,           /* a flag with a value; a string in JSON */
    CONFIG_NUMBER,         /* a flag with N[,ITEM]...; a whole number, a string or an object in JSON */
    CONFIG_SIZE,           /* a flag with a value; a string or a whole number (bytes) in JSON */
    CONFIG_SWITCH,         /* a flag without a value; true or false in JSON */
    CONFIG_SWITCH_OR_TEXT, /* a flag with or without =VALUE; true, false or a string in JSON */
    CONFIG_ITEMS,          /* a flag with ITEM[,ITEM]...; in JSON true or false for the items "on" and "off", a string, or an object */
    CONFIG_LIST,           /* the same, as often as wanted; in JSON a string, an object, or an array of those */
    CONFIG_INCLUDE,        /* a flag with a file's name; not in JSON */
};

struct config_items;

struct config_option {
    const char *key; /* the flag without its dashes, and the key in JSON */
    enum config_kind kind;
    const char *value; /* what stands for the value in help; NULL for switches */
    const char *help;  /* lines separated by \n */
    /* Takes the value, or says in `why` what it should be, as a sentence that goes on after the option's name. */
    int (*set)(struct config *, bool on, const char *value, struct err *why);
    const char *words; /* for completion, separated by spaces; CONFIG_FILES: names of files; NULL: nothing to offer */

    /* CONFIG_NUMBER, CONFIG_ITEMS and CONFIG_LIST, instead of set; the same sentences. */
    int (*set_items)(struct config *, const struct config_items *, struct err *why);
    const char *first;              /* the key of the first item, which stands there as a value alone; NULL: it is like the others */
    void (*clear)(struct config *); /* CONFIG_LIST: forgets all of them */
};

#define CONFIG_FILES ""

extern const struct config_option config_options[];
extern const unsigned config_option_count;

const struct config_option *config_option_find(const char *key); /* NULL when there is none */

/* Lists of settings of one flag: ITEM is KEY or KEY=VALUE, and a comma within a value is written twice. */
#define CONFIG_ITEMS_MAX 48

struct config_item {
    const char *key;
    const char *value; /* NULL: a key alone */
    char number[24];   /* where value points when it was a number in JSON */
};

struct config_items {
    struct config_item item[CONFIG_ITEMS_MAX];
    unsigned count;
    char *text; /* what keys and values point into; NULL when they are borrowed */
};

/* 0, or -errno and in why what is wrong as a sentence that goes on after the option's name. fini in any case. */
int config_items_split(struct config_items *, const char *text, const char *first, struct err *why);
int config_items_add(struct config_items *, const char *key, const char *value, struct err *why); /* borrowed */
void config_items_fini(struct config_items *);

/* The setters of single items' values; the same sentences. */
int config_item_switch(const struct config_item *, bool *field, struct err *why);
int config_item_number(const struct config_item *, unsigned min, unsigned max, unsigned *field, struct err *why);
int config_item_text(const struct config_item *, const char *what, struct err *why); /* that there is one, not empty */
/* No key but this one may come twice. */
int config_items_once(const struct config_items *, const char *repeatable, struct err *why);

/* The settings of config/cpus.c, config/disk.c, config/net.c and config/fw_cfg.c. */
int config_set_cpus(struct config *, const struct config_items *, struct err *why);
int config_set_pins(struct config *, bool on, const char *value, struct err *why);
int config_check_pins(const struct config *, struct err *);
int config_add_disk(struct config *, const struct config_items *, struct err *why);
void config_clear_disks(struct config *);
int config_check_disks(const struct config *, struct err *);
int config_add_net(struct config *, const struct config_items *, struct err *why);
void config_clear_nets(struct config *);
int config_check_nets(const struct config *, struct err *);
int config_add_fw_cfg(struct config *, const struct config_items *, struct err *why);
void config_clear_fw_cfg(struct config *);
int config_check_fw_cfg(const struct config *, struct err *);

/* The settings of config/gdb.c. */
int config_set_gdb(struct config *, const struct config_items *, struct err *why);
void config_clear_gdb(struct config *);

/* "512M", "1G", "2048K", "1T" or bytes. 0, -EINVAL (no size) or -ERANGE (beyond 64 bits). */
int config_parse_size(const char *text, uint64_t *bytes);

/* The same for people: the largest unit that divides it. Returns buf. */
#define CONFIG_SIZE_TEXT 24
const char *config_size_text(uint64_t bytes, char buf[CONFIG_SIZE_TEXT]);

/* What config_validate() allows. */
#define CONFIG_MEMORY_MIN MIB(2)
#define CONFIG_MEMORY_MAX GIB(255) /* above 3 GiB it goes on at 4 GiB, and must end below the 64-bit PCI window at 256 GiB */
#define CONFIG_NAME_MAX 64
