/* Ending a VM from outside, and waiting until its process is gone. */
#pragma once

#include "api/client.h"

/* process: what client_process() gave. 0, -ETIMEDOUT or another -errno. */
int ending_wait(int process, int timeout_ms);

/* Asks the VM to end, and kills its process when it does not; returns when it is gone. 0 or -errno with a sentence. */
int ending_now(struct client *, int process, struct err *);

/* A command that ends the VM of that name: finds it and its process, has end() end it, and says what went wrong. The exit status. */
typedef int ending_way(struct client *, int process, const void *how, struct err *);
int ending_command(const char *vm, ending_way *end, const void *how);
