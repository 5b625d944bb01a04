/* Measures a disk and a TCP peer from within a guest, and is that peer on the host: io_bench serve | disk | net. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/fs.h>

#include "bench.h"

#define CHUNK (256u << 10) /* of a TCP stream */
#define LARGE (1u << 20)   /* of a sequential disk access */
#define SMALL 4096u
#define DEPTH_MAX 16

static void row(const char *name, double value, const char *unit)
{
    print_row(name, value, 1, unit);
}

static uint64_t random64(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* --- disk --- */

struct job {
    pthread_t thread;
    int fd;
    bool write, random, flush;
    unsigned size;
    uint64_t bytes, seed, end_ns; /* of the disk; when to stop */
    uint64_t done;
};

static void *run_job(void *opaque)
{
    struct job *j = opaque;
    uint64_t at = 0, blocks = j->bytes / j->size;
    char *buffer = aligned_alloc(SMALL, j->size);

    if (!buffer)
        fail("memory");
    memset(buffer, 0x5a, j->size);
    while (now_ns() < j->end_ns) {
        uint64_t block = j->random ? random64(&j->seed) % blocks : at++ % blocks;
        off_t off = (off_t)(block * j->size);
        ssize_t n = j->write ? pwrite(j->fd, buffer, j->size, off) : pread(j->fd, buffer, j->size, off);

        if (n != (ssize_t)j->size)
            fail("disk access");
        if (j->flush && fdatasync(j->fd) != 0)
            fail("fdatasync");
        j->done++;
    }
    free(buffer);
    return NULL;
}

/* depth jobs for so many seconds: accesses per second. */
static double run_disk(const struct job *what, unsigned depth, double seconds)
{
    struct job jobs[DEPTH_MAX];
    uint64_t start = now_ns(), done = 0;

    for (unsigned i = 0; i < depth; i++) {
        jobs[i] = *what;
        jobs[i].seed = 0x9e3779b97f4a7c15ULL * (i + 1);
        jobs[i].end_ns = start + (uint64_t)(seconds * (double)NS);
        if (pthread_create(&jobs[i].thread, NULL, run_job, &jobs[i]) != 0)
            fail("thread");
    }
    for (unsigned i = 0; i < depth; i++) {
        pthread_join(jobs[i].thread, NULL);
        done += jobs[i].done;
    }
    return (double)done * (double)NS / (double)(now_ns() - start);
}

static void bench_disk(const char *path, double seconds)
{
    int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    struct job job = {.fd = fd};

    if (fd < 0 || ioctl(fd, BLKGETSIZE64, &job.bytes) != 0)
        fail(path);
    job.size = LARGE;
    job.write = true;
    row("disk write, 1 MiB", run_disk(&job, 2, seconds) * LARGE / 1e6, "MB/s");
    job.write = false;
    row("disk read, 1 MiB", run_disk(&job, 2, seconds) * LARGE / 1e6, "MB/s");
    job.size = SMALL;
    job.random = true;
    row("disk random read, 4 KiB, 1 at a time", run_disk(&job, 1, seconds), "1/s");
    row("disk random read, 4 KiB, 16 at a time", run_disk(&job, DEPTH_MAX, seconds), "1/s");
    job.write = true;
    row("disk random write, 4 KiB, 16 at a time", run_disk(&job, DEPTH_MAX, seconds), "1/s");
    job.flush = true;
    row("disk write and flush, 4 KiB", run_disk(&job, 1, seconds), "1/s");
    close(fd);
}

/* --- network --- */

static int dial(const char *address, uint16_t port, char mode)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

    if (inet_pton(AF_INET, address, &to.sin_addr) != 1 || fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0)
        fail(address);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (write(fd, &mode, 1) != 1)
        fail("send");
    return fd;
}

static void bench_net(const char *label, const char *address, uint16_t port, double seconds)
{
    static char buffer[CHUNK];
    uint64_t start = now_ns(), end = start + (uint64_t)(seconds * (double)NS), bytes = 0;
    int fd = dial(address, port, 's');
    char name[64];
    ssize_t n;

    while (now_ns() < end) {
        n = write(fd, buffer, sizeof(buffer));
        if (n <= 0)
            fail("send");
        bytes += (uint64_t)n;
    }
    shutdown(fd, SHUT_WR);
    n = read(fd, buffer, 1); /* the peer has all of it */
    snprintf(name, sizeof(name), "%s out, TCP", label);
    row(name, (double)bytes * 8 * 1e3 / (double)(now_ns() - start), "Mbit/s");
    close(fd);

    fd = dial(address, port, 'g');
    start = now_ns();
    end = start + (uint64_t)(seconds * (double)NS);
    for (bytes = 0; now_ns() < end; bytes += (uint64_t)n) {
        n = read(fd, buffer, sizeof(buffer));
        if (n <= 0)
            fail("receive");
    }
    snprintf(name, sizeof(name), "%s in, TCP", label);
    row(name, (double)bytes * 8 * 1e3 / (double)(now_ns() - start), "Mbit/s");
    close(fd);

    fd = dial(address, port, 'e');
    start = now_ns();
    end = start + (uint64_t)(seconds * (double)NS);
    for (bytes = 0; now_ns() < end; bytes++)
        if (write(fd, buffer, 1) != 1 || read(fd, buffer, 1) != 1)
            fail("round trip");
    snprintf(name, sizeof(name), "%s round trip, 1 byte by TCP", label);
    row(name, (double)(now_ns() - start) / 1e3 / (double)bytes, "us");
    close(fd);
}

/* --- the peer --- */

/* One connection: its first byte says what is wanted: sink, generator or echo. */
static void *serve_one(void *opaque)
{
    int fd = (int)(intptr_t)opaque, one = 1;
    char *buffer = calloc(1, CHUNK), mode = 0;
    ssize_t n = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (buffer && read(fd, &mode, 1) == 1) {
        while (n > 0) {
            n = mode == 'g' ? send(fd, buffer, CHUNK, MSG_NOSIGNAL) : read(fd, buffer, mode == 'e' ? 1 : CHUNK);
            if (n > 0 && mode == 'e')
                n = send(fd, buffer, (size_t)n, MSG_NOSIGNAL);
        }
        if (mode == 's')
            send(fd, "!", 1, MSG_NOSIGNAL);
    }
    free(buffer);
    close(fd);
    return NULL;
}

/* Serves for ever, on every address; prints its port. */
static void serve(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) != 0 || listen(fd, 8) != 0 ||
        getsockname(fd, (struct sockaddr *)&at, &len) != 0)
        fail("listen");
    printf("%u\n", ntohs(at.sin_port));
    fflush(stdout);
    for (;;) {
        int client = accept(fd, NULL, NULL);
        pthread_t thread;

        if (client < 0)
            fail("accept");
        if (pthread_create(&thread, NULL, serve_one, (void *)(intptr_t)client) == 0)
            pthread_detach(thread);
        else
            close(client);
    }
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "serve") == 0)
        serve();
    else if (argc == 4 && strcmp(argv[1], "disk") == 0)
        bench_disk(argv[2], atof(argv[3]));
    else if (argc == 6 && strcmp(argv[1], "net") == 0)
        bench_net(argv[2], argv[3], (uint16_t)atoi(argv[4]), atof(argv[5]));
    else
        fprintf(stderr, "usage: io_bench serve\n       io_bench disk DEVICE SECONDS\n       io_bench net LABEL ADDRESS PORT SECONDS\n");
    return 0;
}
