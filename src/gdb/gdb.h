/* The debugger's server: gdb attaches to the VM by its remote serial protocol. */
#pragma once

#include "base/err.h"

struct vm;
struct gdb;

/*
 * Listens where vm->config.gdb says; with its wait the vCPUs stand until a client lets them go. After the vCPUs are made and before they run.
 * Loop thread, as everything here. 0 or -errno with a sentence.
 */
int gdb_new(struct gdb **, struct vm *, struct err *);

/* Tells a client how the VM ended, status being umbra's exit status, and closes all. After machine_run(); NULL is nothing. */
void gdb_free(struct gdb *, int status);
