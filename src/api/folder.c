/* Names of running VMs: claimed by file locks, which even a killed process gives back. */
#include "api/folder.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "config/options.h"

#define BACKLOG 64
#define CLAIM_TRIES 50
#define CLAIM_WAIT_US 10000 /* between two: whoever only clears up holds a lock for less */

#define LOCK_SUFFIX ".lock"
#define SOCKET_SUFFIX ".sock"
#define FILE_NAME_MAX (CONFIG_NAME_MAX + sizeof(LOCK_SUFFIX))

static_assert(sizeof(LOCK_SUFFIX) == sizeof(SOCKET_SUFFIX), "FILE_NAME_MAX is for both");

static const char *file_name(char buf[FILE_NAME_MAX], const char *name, const char *suffix)
{
    snprintf(buf, FILE_NAME_MAX, "%s%s", name, suffix);
    return buf;
}

/* --- the folder --- */

/* $XDG_RUNTIME_DIR may be somebody else's, after su for example. */
static bool is_own_folder(const char *path)
{
    struct stat st;

    return path && path[0] == '/' && stat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid();
}

void folder_path(char path[FOLDER_PATH_MAX])
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");

    if (!is_own_folder(runtime) || snprintf(path, FOLDER_PATH_MAX, "%s/umbra", runtime) >= FOLDER_PATH_MAX)
        snprintf(path, FOLDER_PATH_MAX, "/tmp/umbra-%u", (unsigned)geteuid());
}

/* In /tmp anybody can make a folder of that name first. */
static int check_folder(int fd, const char *path, struct err *e)
{
    struct stat st;

    if (fstat(fd, &st) != 0)
        return err_set(e, errno, "cannot look at %.300s, the folder of running VMs: %s", path, strerror(errno));
    if (st.st_uid != geteuid())
        return err_set(e, EPERM,
                       "%.300s, the folder of running VMs, belongs to user %u: remove it, or name a folder of your own in XDG_RUNTIME_DIR",
                       path, (unsigned)st.st_uid);
    if (st.st_mode & (S_IRWXG | S_IRWXO))
        return err_set(e, EPERM, "%.300s, the folder of running VMs, is open to others (mode %03o): chmod 700 makes it private", path,
                       (unsigned)st.st_mode & 0777);
    return 0;
}

int folder_open(struct err *e)
{
    char path[FOLDER_PATH_MAX];
    int fd, error;

    folder_path(path);
    if (mkdir(path, S_IRWXU) != 0 && errno != EEXIST)
        return err_set(e, errno, "cannot make %.300s, the folder of running VMs: %s; XDG_RUNTIME_DIR names where else it can be", path,
                       strerror(errno));
    fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return err_set(e, errno, "cannot open %.300s, the folder of running VMs: %s; XDG_RUNTIME_DIR names where else it can be", path,
                       strerror(errno));
    error = check_folder(fd, path, e);
    if (error) {
        close(fd);
        return error;
    }
    return fd;
}

/* --- locks --- */

/* The file behind fd still has its name: whoever ends or clears up removes it while holding the lock. */
static bool is_in_place(int folder, const char *file, int fd)
{
    struct stat here, there;

    return fstat(fd, &here) == 0 && fstatat(folder, file, &there, AT_SYMLINK_NOFOLLOW) == 0 && here.st_ino == there.st_ino &&
           here.st_dev == there.st_dev;
}

/* One try. The descriptor, -EWOULDBLOCK when somebody has it, -EAGAIN when it was just being removed, or another -errno. */
static int try_lock(int folder, const char *name, int flags)
{
    char file[FILE_NAME_MAX];
    int fd = openat(folder, file_name(file, name, LOCK_SUFFIX), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | flags, S_IRUSR | S_IWUSR);
    int error = 0;

    static_assert(EWOULDBLOCK == EAGAIN, "both say: try again");
    if (fd < 0)
        return -errno;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        error = -errno;
    else if (!is_in_place(folder, file, fd))
        error = -EAGAIN;
    if (error) {
        close(fd);
        return error;
    }
    return fd;
}

static pid_t read_owner(int folder, const char *name)
{
    char file[FILE_NAME_MAX], text[16] = "";
    int fd = openat(folder, file_name(file, name, LOCK_SUFFIX), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    ssize_t n;
    long pid;

    if (fd < 0)
        return -1;
    n = read(fd, text, sizeof(text) - 1);
    close(fd);
    pid = n > 0 ? strtol(text, NULL, 10) : 0;
    return pid > 0 && pid <= INT_MAX ? (pid_t)pid : -1;
}

int folder_claim(int folder, const char *name, struct err *e)
{
    char file[FILE_NAME_MAX];
    int lock = try_lock(folder, name, O_CREAT);
    pid_t owner;

    for (unsigned i = 0; lock == -EAGAIN && i < CLAIM_TRIES; i++) {
        usleep(CLAIM_WAIT_US);
        lock = try_lock(folder, name, O_CREAT);
    }
    owner = lock == -EAGAIN ? read_owner(folder, name) : -1;
    if (owner > 0)
        return err_set(e, EEXIST, "a VM named '%s' runs already, as process %d: give this one another --name", name, (int)owner);
    if (lock == -EAGAIN)
        return err_set(e, EEXIST, "a VM named '%s' runs already: give this one another --name", name);
    if (lock < 0)
        return err_set(e, -lock, "cannot lock %s in the folder of running VMs: %s", file_name(file, name, LOCK_SUFFIX), strerror(-lock));
    unlinkat(folder, file_name(file, name, SOCKET_SUFFIX), 0);
    if (ftruncate(lock, 0) != 0 || dprintf(lock, "%d\n", (int)getpid()) < 0) {
        int error = errno;

        folder_release(folder, name, lock);
        return err_set(e, error, "cannot write %s in the folder of running VMs: %s", file_name(file, name, LOCK_SUFFIX), strerror(error));
    }
    return lock;
}

void folder_release(int folder, const char *name, int lock)
{
    char file[FILE_NAME_MAX];

    unlinkat(folder, file_name(file, name, SOCKET_SUFFIX), 0);
    unlinkat(folder, file_name(file, name, LOCK_SUFFIX), 0);
    close(lock);
}

int folder_owner(int folder, const char *name)
{
    int lock = try_lock(folder, name, 0);

    if (lock == -EAGAIN)
        return read_owner(folder, name);
    if (lock < 0)
        return lock == -ENOENT ? 0 : -1;
    folder_release(folder, name, lock);
    return 0;
}

/* --- sockets --- */

/* Relative to the folder, whose own path may be longer than what fits into a socket's address. */
static struct sockaddr_un address(int folder, const char *name)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    static_assert(sizeof("/proc/self/fd/2147483647/") + FILE_NAME_MAX <= sizeof(a.sun_path), "it always fits");
    snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d/%s%s", folder, name, SOCKET_SUFFIX);
    return a;
}

int folder_listen(int folder, const char *name, struct err *e)
{
    const struct sockaddr_un a = address(folder, name);
    int error, fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    /* The mode comes first: bind() makes the file with it. */
    if (fd >= 0 && fchmod(fd, S_IRUSR | S_IWUSR) == 0 && bind(fd, (const struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    error = errno;
    if (fd >= 0)
        close(fd);
    return err_set(e, error, "cannot make the control socket %s%s in the folder of running VMs: %s", name, SOCKET_SUFFIX, strerror(error));
}

int folder_connect(int folder, const char *name)
{
    const struct sockaddr_un a = address(folder, name);
    int error, fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) == 0)
        return fd;
    error = errno;
    close(fd);
    return -error;
}

/* --- the list --- */

/* The VM's name in a file's, when it is one of ours. */
static bool name_of(const char *file, char name[CONFIG_NAME_MAX + 1])
{
    size_t len = strlen(file), suffix = strlen(LOCK_SUFFIX);

    if (len <= suffix || len - suffix > CONFIG_NAME_MAX)
        return false;
    memcpy(name, file, len - suffix);
    name[len - suffix] = '\0';
    return (strcmp(file + len - suffix, LOCK_SUFFIX) == 0 || strcmp(file + len - suffix, SOCKET_SUFFIX) == 0) &&
           config_check_name(name, NULL) == 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Both files' names may come; the second is dropped when they are sorted. */
static int collect(DIR *dir, struct folder_names *names)
{
    const struct dirent *entry;
    char name[CONFIG_NAME_MAX + 1];

    while ((entry = readdir(dir))) {
        char **more;

        if (!name_of(entry->d_name, name))
            continue;
        more = reallocarray(names->name, names->count + 1, sizeof(*more));
        if (!more)
            return -ENOMEM;
        names->name = more;
        more[names->count] = strdup(name);
        if (!more[names->count])
            return -ENOMEM;
        names->count++;
    }
    return 0;
}

/* A lock file is made for a socket that has none: only its lock says that the socket is nobody's. */
static bool is_alive(int folder, const char *name)
{
    int lock = try_lock(folder, name, O_CREAT);

    if (lock >= 0)
        folder_release(folder, name, lock);
    return lock == -EAGAIN;
}

int folder_list(int folder, struct folder_names *names, struct err *e)
{
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* a position of its own */
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    unsigned kept = 0;
    int error;

    *names = (struct folder_names){0};
    if (!dir) {
        error = errno;
        if (fd >= 0)
            close(fd);
        return err_set(e, error, "cannot read the folder of running VMs: %s", strerror(error));
    }
    error = collect(dir, names);
    closedir(dir);
    if (error) {
        folder_names_free(names);
        return err_set(e, -error, "no memory to list the running VMs");
    }
    if (names->count)
        qsort(names->name, names->count, sizeof(*names->name), by_name);
    for (unsigned i = 0; i < names->count; i++) {
        char *name = names->name[i];

        if ((kept > 0 && strcmp(names->name[kept - 1], name) == 0) || !is_alive(folder, name))
            free(name);
        else
            names->name[kept++] = name;
    }
    names->count = kept;
    return 0;
}

void folder_names_free(struct folder_names *names)
{
    for (unsigned i = 0; i < names->count; i++)
        free(names->name[i]);
    free(names->name);
    *names = (struct folder_names){0};
}
