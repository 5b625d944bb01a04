/* Fork and exec storms: every child runs, tells its number through a pipe and ends with it. */
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static void child_of_exec(const char *number)
{
    int n = atoi(number);

    CHECK(write(1, &n, sizeof(n)) == sizeof(n));
    exit(n & 127);
}

static void start_child(const char *self, int number, int out, int with_exec)
{
    char text[16];
    pid_t child;

    snprintf(text, sizeof(text), "%d", number);
    child = with_exec ? vfork() : fork();
    CHECK(child >= 0);
    if (child == 0 && with_exec) {
        if (dup2(out, 1) == 1)
            execl(self, self, text, (char *)NULL);
        _exit(127);
    }
    if (child == 0) {
        CHECK(write(out, &number, sizeof(number)) == sizeof(number));
        _exit(number & 127);
    }
}

static void storm(int children, int with_exec)
{
    int ends[2], seen = 0, number;
    uint64_t total = 0;

    CHECK(pipe(ends) == 0);
    for (int i = 0; i < children; i++)
        start_child("/proc/self/exe", i, ends[1], with_exec);
    close(ends[1]);
    while (read(ends[0], &number, sizeof(number)) == sizeof(number)) {
        total += (uint64_t)number;
        seen++;
    }
    close(ends[0]);
    CHECK(seen == children && total == (uint64_t)children * (uint64_t)(children - 1) / 2);
    int status, statuses = 0;
    for (int i = 0; i < children; i++) {
        CHECK(wait(&status) > 0 && WIFEXITED(status));
        statuses += WEXITSTATUS(status);
    }
    int wanted = 0;
    for (int i = 0; i < children; i++)
        wanted += i & 127;
    CHECK(statuses == wanted && wait(&status) == -1);
}

/* A tree of forks: 2^depth processes, each counting its children. */
static int tree(int depth)
{
    int count = 1, status;

    if (depth == 0)
        return 1;
    for (int i = 0; i < 2; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0)
            _exit(tree(depth - 1));
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
        count += WEXITSTATUS(status);
    }
    return count;
}

int main(int argc, char **argv)
{
    if (argc > 1)
        child_of_exec(argv[1]);
    storm(300, 0);
    storm(150, 1);
    CHECK(tree(5) == 63);
    printf("processes ok\n");
    return 0;
}
