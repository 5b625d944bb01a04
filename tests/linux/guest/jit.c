/* Code that is written while the program runs: every change is seen, however it comes about. */
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#define RWX (PROT_READ | PROT_WRITE | PROT_EXEC)

static unsigned char *map_code(size_t size)
{
    unsigned char *p = mmap(NULL, size, RWX, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    CHECK(p != MAP_FAILED);
    return p;
}

/* mov $value, %eax; ret */
static void emit(unsigned char *at, unsigned value)
{
    at[0] = 0xb8;
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
}

static unsigned call(const unsigned char *at)
{
    unsigned (*function)(void);

    memcpy(&function, &at, sizeof(at));
    return function();
}

static void rewriting(void)
{
    unsigned char *p = map_code(8192);

    for (unsigned i = 0; i < 5000; i++) {
        emit(p + i % 64, i); /* overlaps what stood there */
        CHECK(call(p + i % 64) == i);
    }
    /* Across a page boundary; only one of the two pages changes. */
    emit(p + 4093, 0x11223344);
    CHECK(call(p + 4093) == 0x11223344);
    for (unsigned i = 0; i < 256; i++) {
        p[4096] = (unsigned char)i; /* the value's third byte */
        CHECK(call(p + 4093) == (0x11003344u | i << 16));
        p[4094] = (unsigned char)~i;
        CHECK(call(p + 4093) == (0x11003300u | i << 16 | (~i & 0xff)));
        p[4094] = 0x44;
    }
    munmap(p, 8192);
}

/* The code changes an instruction that it is about to run: mov $7, (next instruction's value); mov $0, %eax; ret. */
static void changing_itself(void)
{
    unsigned char *p = map_code(4096);

    for (unsigned i = 0; i < 1000; i++) {
        unsigned zero = 0;
        unsigned char *at = p;
#ifdef __x86_64__
        *at++ = 0xc7, *at++ = 0x05; /* movl $i, disp32(%rip): from the end of this instruction, 1 byte on */
        unsigned displacement = 1;
        memcpy(at, &displacement, 4);
#else
        *at++ = 0xc7, *at++ = 0x05; /* movl $i, absolute */
        unsigned char *target = p + 11;
        memcpy(at, &target, 4);
#endif
        memcpy(at + 4, &i, 4);
        at += 8;
        *at++ = 0xb8;
        memcpy(at, &zero, 4);
        at[4] = 0xc3;
        CHECK(call(p) == i);
    }
    munmap(p, 4096);
}

static void mapping_anew(void)
{
    unsigned char *p = map_code(4096), *again;

    for (unsigned i = 0; i < 500; i++) {
        emit(p, i);
        CHECK(call(p) == i);
        CHECK(munmap(p, 4096) == 0);
        again = mmap(p, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        CHECK(again == p);
        emit(p, ~i);
        CHECK(mprotect(p, 4096, PROT_READ | PROT_EXEC) == 0);
        CHECK(call(p) == ~i);
        CHECK(mprotect(p, 4096, RWX) == 0);
    }
    munmap(p, 4096);
}

/* The same page twice: written at one address, run at the other. And read from a file by the kernel. */
static void by_another_way(void)
{
    char name[] = "/tmp/jit-XXXXXX";
    int fd = mkstemp(name);
    unsigned char code[6];

    CHECK(fd >= 0 && unlink(name) == 0 && ftruncate(fd, 4096) == 0);
    unsigned char *w = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    unsigned char *x = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (x == MAP_FAILED) { /* a file system without programs */
        close(fd);
        return;
    }
    CHECK(w != MAP_FAILED);
    for (unsigned i = 0; i < 1000; i++) {
        emit(w, i * 3);
        CHECK(call(x) == i * 3);
        emit(code, i * 5);
        CHECK(pwrite(fd, code, sizeof(code), 0) == sizeof(code));
        CHECK(call(x) == i * 5);
    }
    close(fd);
}

/* A child's change is its own. */
static void forking(void)
{
    unsigned char *p = map_code(4096);
    int status;

    emit(p, 1);
    for (int i = 0; i < 50; i++) {
        CHECK(call(p) == 1);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            emit(p, 2);
            _exit(call(p) == 2 ? 0 : 1);
        }
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        CHECK(call(p) == 1);
    }
    munmap(p, 4096);
}

/* Many functions on many pages, more than small code caches hold. */
static void many(void)
{
    size_t size = 4u << 20;
    unsigned char *p = map_code(size);
    uint64_t sum = SUM_START;

    for (size_t at = 0; at + 16 <= size; at += 256)
        emit(p + at, (unsigned)at);
    for (int round = 0; round < 3; round++)
        for (size_t at = 0; at + 16 <= size; at += 256) {
            unsigned value = call(p + at);
            CHECK(value == (unsigned)at);
            SUM(sum, value);
        }
    munmap(p, size);
    report("jit", sum);
}

int main(void)
{
    rewriting();
    changing_itself();
    mapping_anew();
    by_another_way();
    forking();
    many();
    return 0;
}
