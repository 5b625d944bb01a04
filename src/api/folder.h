/* The folder of the user's running VMs: for each a lock file, NAME.lock, and a socket, NAME.sock. */
#pragma once

#include "base/err.h"

/*
 * Whoever holds the lock of NAME.lock (flock) has the name; the file holds its process id. The kernel gives the lock back however a VM ends, so
 * that a name whose lock is free is nobody's, and what lies there under it is left over. All functions: any thread, and they do not block.
 */

#define FOLDER_PATH_MAX 4096

/* umbra in $XDG_RUNTIME_DIR where that is the user's own folder, else /tmp/umbra-UID. */
void folder_path(char path[FOLDER_PATH_MAX]);

/*
 * Opens it, and makes it when it is not there. One that belongs to somebody else, or that others may look into, is refused. The descriptor, to
 * be closed by the caller, or -errno.
 */
int folder_open(struct err *);

/*
 * Takes the name for this process and clears away what a dead VM of that name left. The descriptor of the lock, for folder_release(); -EEXIST
 * when a VM of that name is alive, or another -errno.
 */
int folder_claim(int folder, const char *name, struct err *);
void folder_release(int folder, const char *name, int lock); /* removes both files and closes the lock */

/* The socket of a claimed name, which nobody but the user can connect to. A descriptor that does not block, or -errno. */
int folder_listen(int folder, const char *name, struct err *);

/* A descriptor that does not block, connected to the VM of that name; or -errno, without a sentence: -ENOENT when there is none. */
int folder_connect(int folder, const char *name);

/* The process that has the name; 0: there is none, -1: it cannot be told. What a dead one left is cleared away. */
int folder_owner(int folder, const char *name);

/* The names of the living VMs, sorted; what dead ones left is cleared away. 0 or -errno. */
struct folder_names {
    char **name;
    unsigned count;
};
int folder_list(int folder, struct folder_names *, struct err *);
void folder_names_free(struct folder_names *);
