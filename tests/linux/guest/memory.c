/* Mappings: what is mapped, protected, moved, shared, copied on write and unmapped holds what it must. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#define PAGE 4096u
#define PAGES 2048u

static unsigned char *map(size_t size)
{
    unsigned char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(p != MAP_FAILED);
    return p;
}

static uint64_t churn(void)
{
    static unsigned char *maps[64];
    static size_t sizes[64];
    uint64_t seed = 1, sum = SUM_START;

    for (int i = 0; i < 4000; i++) {
        unsigned k = (unsigned)(random_next(&seed) % 64);
        if (!maps[k]) {
            sizes[k] = PAGE * (1 + random_next(&seed) % 16);
            maps[k] = map(sizes[k]);
            for (size_t at = 0; at < sizes[k]; at += PAGE) {
                CHECK(maps[k][at] == 0); /* fresh memory is zero, whoever had that page before */
                maps[k][at] = (unsigned char)(i + at / PAGE);
            }
        } else if (random_next(&seed) & 1) {
            size_t wanted = PAGE * (1 + random_next(&seed) % 32);
            maps[k] = mremap(maps[k], sizes[k], wanted, MREMAP_MAYMOVE);
            CHECK(maps[k] != MAP_FAILED);
            SUM(sum, maps[k][0]);
            sizes[k] = wanted;
        } else {
            for (size_t at = 0; at < sizes[k]; at += PAGE)
                SUM(sum, maps[k][at]);
            CHECK(munmap(maps[k], sizes[k]) == 0);
            maps[k] = NULL;
        }
    }
    for (unsigned k = 0; k < 64; k++)
        if (maps[k])
            munmap(maps[k], sizes[k]);
    return sum;
}

static uint64_t copy_on_write(void)
{
    unsigned char *p = map(PAGES * PAGE);
    uint64_t sum = SUM_START;

    for (unsigned i = 0; i < PAGES; i++)
        p[i * PAGE] = (unsigned char)i;
    for (int round = 0; round < 8; round++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            for (unsigned i = 0; i < PAGES; i += 3)
                p[i * PAGE] ^= 0xff;
            for (unsigned i = 0; i < PAGES; i++)
                if (p[i * PAGE] != (unsigned char)(i % 3 ? i : i ^ 0xff))
                    _exit(1);
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        for (unsigned i = 0; i < PAGES; i++)
            CHECK(p[i * PAGE] == (unsigned char)i);
    }
    sum = sum_bytes(sum, p, PAGES * PAGE);
    CHECK(munmap(p, PAGES * PAGE) == 0);
    return sum;
}

static void protections(void)
{
    unsigned char *p = map(64 * PAGE);

    for (int round = 0; round < 200; round++) {
        CHECK(mprotect(p, 64 * PAGE, PROT_READ | PROT_WRITE) == 0);
        memset(p, round, 64 * PAGE);
        CHECK(mprotect(p + 8 * PAGE, 8 * PAGE, PROT_READ) == 0);
        CHECK(p[9 * PAGE] == (unsigned char)round);
        /* The kernel is refused too: a pipe does not fill what the program may not write. */
        int ends[2];
        CHECK(pipe(ends) == 0 && write(ends[1], "x", 1) == 1);
        CHECK(read(ends[0], p + 9 * PAGE, 1) == -1);
        CHECK(read(ends[0], p, 1) == 1 && *p == 'x');
        close(ends[0]);
        close(ends[1]);
        CHECK(madvise(p + 32 * PAGE, PAGE, MADV_DONTNEED) == 0 && p[32 * PAGE] == 0);
    }
    munmap(p, 64 * PAGE);
}

static uint64_t shared_file(void)
{
    char name[] = "/tmp/memory-XXXXXX";
    int fd = mkstemp(name);
    uint64_t sum = SUM_START;
    unsigned char byte;

    CHECK(fd >= 0 && unlink(name) == 0 && ftruncate(fd, 16 * PAGE) == 0);
    unsigned char *a = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    unsigned char *b = mmap(NULL, 16 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
    unsigned char *c = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(a != MAP_FAILED && b != MAP_FAILED && c != MAP_FAILED);
    c[0] = 99;
    for (unsigned i = 0; i < 16 * PAGE; i++)
        a[i] = (unsigned char)(i * 7);
    CHECK(memcmp(a, b, 16 * PAGE) == 0 && c[0] == 99 && c[PAGE] == a[PAGE]);
    CHECK(pread(fd, &byte, 1, 12345) == 1 && byte == (unsigned char)(12345 * 7));
    sum = sum_bytes(sum, b, 16 * PAGE);
    munmap(a, 16 * PAGE);
    munmap(b, 16 * PAGE);
    munmap(c, 16 * PAGE);
    close(fd);
    return sum;
}

static uint64_t huge(void)
{
    size_t size = 16u << 20;
    unsigned char *p = map(size);
    uint64_t sum = SUM_START;

    madvise(p, size, MADV_HUGEPAGE);
    for (size_t i = 0; i < size; i += 512)
        p[i] = (unsigned char)(i / 512);
    madvise(p + (3u << 20), PAGE, MADV_DONTNEED); /* a hole: the huge page is split */
    for (size_t i = 0; i < size; i += 512)
        SUM(sum, p[i]);
    munmap(p, size);
    return sum;
}

int main(void)
{
    report("mapping_churn", churn());
    report("copy_on_write", copy_on_write());
    protections();
    report("shared_file", shared_file());
    report("huge_pages", huge());
    return 0;
}
