/* Measures the start of a VM and the memory of its process: start NAME SECONDS MIB COMMAND... | start NAME COMMAND... */
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

#define NS_PER_MS 1e6

static void sleep_ns(uint64_t ns)
{
    struct timespec t = {.tv_sec = (time_t)(ns / NS), .tv_nsec = (long)(ns % NS)};

    nanosleep(&t, NULL);
}

/* *exec_ns: when it began, by the child's own clock. */
static pid_t run(char **command, volatile uint64_t *exec_ns)
{
    pid_t child = fork();

    if (child < 0)
        fail("fork");
    if (child)
        return child;
    if (!freopen("/dev/null", "r", stdin) || !freopen("/dev/null", "w", stdout))
        fail("/dev/null");
    *exec_ns = now_ns();
    execvp(command[0], command);
    fail(command[0]);
}

/* When the VM first entered the guest: now, less the uptime that it tells. */
static uint64_t entered_ns(const char *name)
{
    static const char ask[] = "{\"request\":\"info\"}\n";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char answer[4096];
    const char *uptime;
    uint64_t asked, answered;
    ssize_t n = 0;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s/umbra/%s.sock", getenv("XDG_RUNTIME_DIR"), name);
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) != 0)
        fail(address.sun_path);
    asked = now_ns();
    if (write(fd, ask, sizeof(ask) - 1) < 0 || (n = read(fd, answer, sizeof(answer) - 1)) <= 0)
        fail("the VM does not answer");
    answered = now_ns();
    answer[n] = '\0';
    uptime = strstr(answer, "\"uptime\":");
    if (!uptime)
        fail(answer);
    close(fd);
    return (asked + answered) / 2 - (uint64_t)(strtod(uptime + strlen("\"uptime\":"), NULL) * (double)NS);
}

/* Resident KiB but for the one mapping that has the size of the guest's memory. */
static unsigned long resident_kib(pid_t pid, unsigned long guest_kib)
{
    char path[64], line[4096];
    unsigned long kib, size = 0, sum = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
    f = fopen(path, "r");
    if (!f)
        fail(path);
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "Size: %lu kB", &kib) == 1)
            size = kib;
        if (sscanf(line, "Rss: %lu kB", &kib) == 1 && size != guest_kib)
            sum += kib;
    }
    fclose(f);
    return sum;
}

int main(int argc, char **argv)
{
    volatile uint64_t *exec_ns = mmap(NULL, sizeof(*exec_ns), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned seconds = argc > 4 ? (unsigned)strtoul(argv[2], NULL, 0) : 0;
    char name[256];
    pid_t child;

    if (argc < 3 || exec_ns == MAP_FAILED)
        return 2;
    if (!seconds) { /* a program that ends by itself, to compare with */
        child = run(argv + 2, exec_ns);
        waitpid(child, NULL, 0);
        print_row(argv[1], (double)(now_ns() - *exec_ns) / NS_PER_MS, 2, "ms");
        return 0;
    }
    child = run(argv + 4, exec_ns);
    sleep_ns(seconds * NS);
    snprintf(name, sizeof(name), "%s: exec to first entry", argv[1]);
    print_row(name, (double)(entered_ns("start") - *exec_ns) / NS_PER_MS, 2, "ms");
    snprintf(name, sizeof(name), "%s: resident outside guest memory", argv[1]);
    print_row(name, (double)resident_kib(child, strtoul(argv[3], NULL, 0) << 10) / 1024, 2, "MiB");
    kill(child, SIGTERM);
    waitpid(child, NULL, 0);
    return 0;
}
