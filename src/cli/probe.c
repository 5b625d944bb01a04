/* umbra probe: what this host offers to a VMM. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "base/log.h"
#include "base/types.h"
#include "block/backend.h"
#include "cli/cli.h"
#include "cpu/engine.h"
#include "engine/soft/cpuid.h"
#include "machine/machine.h"

#define NAME_WIDTH 18
#define TEXT_WIDTH 90

static void row(const char *name, const char *text)
{
    printf("%-*s %s\n", NAME_WIDTH, name, text);
}

/* Words folded at TEXT_WIDTH, under the first line's text. */
static void row_folded(const char *name, char *words)
{
    size_t column = 0;

    printf("%-*s", NAME_WIDTH, name);
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " ")) {
        if (column + strlen(word) > TEXT_WIDTH) {
            printf("\n%*s", NAME_WIDTH, "");
            column = 0;
        }
        column += (size_t)printf(" %s", word);
    }
    putchar('\n');
}

static void probe_kvm(void)
{
    struct engine_caps caps;
    char text[sizeof(caps.why) + 64];

    engine_kvm.probe(&caps);
    if (!caps.usable)
        snprintf(text, sizeof(text), "%s%s", caps.present ? "" : "absent: ", caps.why);
    else if (caps.hardware_assisted)
        snprintf(text, sizeof(text), "present, hardware-assisted, up to %u CPUs", caps.max_vcpus);
    else
        snprintf(text, sizeof(text), "present, not hardware-assisted: %s", caps.why);
    row("KVM", text);
}

static void probe_node(const char *name, const char *path)
{
    char text[160];

    if (access(path, R_OK | W_OK) == 0)
        snprintf(text, sizeof(text), "yes: %s", path);
    else
        snprintf(text, sizeof(text), "no: %s: %s", path, strerror(errno));
    row(name, text);
}

static void probe_disks(void)
{
    char why[128], text[200];

    if (block_uring_usable(why)) {
        row("io_uring", "yes");
        row("disk I/O", "io_uring (--disk PATH,engine=threads: worker threads)");
        return;
    }
    snprintf(text, sizeof(text), "no: %s", why);
    row("io_uring", text);
    row("disk I/O", "worker threads");
}

static void probe_user_network(void)
{
    char text[160];

    snprintf(text, sizeof(text), "yes: --net user, by libslirp %s", slirp_version_string());
    row("user network", text);
}

/* In a child: a process that made one cannot go back. */
static void probe_user_namespaces(void)
{
    pid_t pid = fork();
    char text[160];
    int status;

    if (pid == 0)
        _exit(unshare(CLONE_NEWUSER) == 0 ? 0 : errno);
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        snprintf(text, sizeof(text), "unknown: no child process could try: %s", strerror(errno));
    else if (WEXITSTATUS(status) == 0)
        snprintf(text, sizeof(text), "yes");
    else
        snprintf(text, sizeof(text), "no: %s", strerror(WEXITSTATUS(status)));
    row("user namespaces", text);
}

static void probe_huge_pages(void)
{
    char line[128] = "", text[160];
    FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");

    if (f && fgets(line, sizeof(line), f))
        line[strcspn(line, "\n")] = '\0';
    if (f)
        fclose(f);
    if (!line[0])
        snprintf(text, sizeof(text), "no: this kernel has no transparent huge pages");
    else
        snprintf(text, sizeof(text), "%s: transparent, %s", strstr(line, "[never]") ? "no" : "yes", line);
    row("huge pages", text);
}

/* As the software engine maps it: the same memory writable and, somewhere else, executable. */
static void probe_code_memory(void)
{
    void *rw = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    void *rx = rw == MAP_FAILED ? MAP_FAILED : mremap(rw, 0, PAGE_SIZE, MREMAP_MAYMOVE);
    char text[160];

    if (rx != MAP_FAILED && mprotect(rx, PAGE_SIZE, PROT_READ | PROT_EXEC) == 0)
        snprintf(text, sizeof(text), "yes: shared memory can be mapped for execution");
    else
        snprintf(text, sizeof(text), "no: %s", strerror(errno));
    if (rx != MAP_FAILED)
        munmap(rx, PAGE_SIZE);
    if (rw != MAP_FAILED)
        munmap(rw, PAGE_SIZE);
    row("code memory", text);
}

static void probe_soft(void)
{
    struct engine_caps caps;
    char features[2048];

    engine_soft.probe(&caps);
    row("software engine", caps.usable ? "usable" : caps.why);
    if (caps.usable && cpuid_describe(features, sizeof(features)) > 0)
        row_folded("  CPU features", features);
}

static void probe_auto(void)
{
    struct engine_choice choice;

    machine_choose_engine(ENGINE_AUTO, &choice);
    if (!choice.caps.usable)
        row("--engine auto", "finds no engine here");
    else
        row("--engine auto", choice.engine == &engine_kvm ? "takes KVM" : "takes the software engine");
}

int cli_probe(int argc, char **argv)
{
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        help_probe(stdout);
        return cli_printed();
    }
    if (argc > 1) {
        log_error("umbra probe takes no arguments, but was given '%.100s'", argv[1]);
        return EXIT_USAGE;
    }
    probe_kvm();
    probe_node("tun", "/dev/net/tun");
    probe_node("vhost-net", "/dev/vhost-net");
    probe_user_network();
    probe_disks();
    probe_user_namespaces();
    probe_huge_pages();
    probe_code_memory();
    probe_soft();
    probe_auto();
    return cli_printed();
}
