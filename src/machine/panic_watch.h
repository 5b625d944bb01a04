/* Watches the serial console for the line with which a Linux guest says that it panicked and will not reboot. */
#pragma once

#include "base/types.h"

#define PANIC_LINE_MAX 200

/* Plain state of a line matcher; zero-initialized. */
struct panic_watch {
    char line[PANIC_LINE_MAX]; /* as much of it as fits */
    unsigned len;
};

/*
 * Bytes as the guest sends them. True when they complete the line "---[ end Kernel panic - not syncing: WHY ]---", which panic()
 * prints last of all before it loops for ever; a kernel that reboots on panic does so before it. The WHY then stands in why.
 */
bool panic_watch_feed(struct panic_watch *, const uint8_t *data, size_t len, char why[PANIC_LINE_MAX]);
