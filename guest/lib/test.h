/* The harness: a guest is a table of tests; each prints a line, and the total ends the VM through the debug-exit port. */
#pragma once

#include "fault.h"
#include "print.h"
#include "seg.h"

struct test {
    const char *name; /* what must hold */
    void (*run)(void);
};

/* What a guest defines. */
extern const struct test guest_tests[];
#define GUEST_TESTS(...) const struct test guest_tests[] = {__VA_ARGS__, {0, 0}}

/* The command line, by multiboot or PVH; never NULL. */
const char *guest_cmdline(void);
bool cmdline_has(const char *word_of_it);
/* How we were entered: "multiboot" or "pvh". */
const char *guest_protocol(void);

/* Fails the running test with a reason and ends it. */
void test_fail(const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4), noreturn));
void test_skip(const char *why) __attribute__((noreturn));
/* Ends the VM with the status value << 1 | 1. */
void guest_exit(uint8_t value) __attribute__((noreturn));

#define check(cond)                                                                                                                        \
    do {                                                                                                                                   \
        if (!(cond))                                                                                                                       \
            test_fail(__FILE_NAME__, __LINE__, "%s", #cond);                                                                               \
    } while (0)

#define check_eq(is, want)                                                                                                                 \
    do {                                                                                                                                   \
        uint64_t is_ = (uint64_t)(is), want_ = (uint64_t)(want);                                                                           \
        if (is_ != want_)                                                                                                                  \
            test_fail(__FILE_NAME__, __LINE__, "%s is 0x%llx, not 0x%llx", #is, (unsigned long long)is_, (unsigned long long)want_);       \
    } while (0)

/* Where QEMU's TCG departs from the architecture: the reason stands beside the check, and only TCG may miss it. */
#define check_but_qemu(cond, why)                                                                                                          \
    do {                                                                                                                                   \
        if (!(cond)) {                                                                                                                     \
            if (!cpu_is_tcg())                                                                                                             \
                test_fail(__FILE_NAME__, __LINE__, "%s", #cond);                                                                           \
            print("# qemu deviates at %s:%d: %s\n", __FILE_NAME__, __LINE__, why);                                                         \
        }                                                                                                                                  \
    } while (0)

void check_fault_at(const char *file, int line, unsigned vector, word error, word rip);
void check_none_at(const char *file, int line);

/* The last TRY faulted with this vector and error code (0 for those without one), at its instruction. */
#define check_fault(vector, error) check_fault_at(__FILE_NAME__, __LINE__, vector, error, try_at)
/* The same where the saved RIP is another one. */
#define check_fault_rip(vector, error, rip) check_fault_at(__FILE_NAME__, __LINE__, vector, error, (word)(rip))
#define check_no_fault() check_none_at(__FILE_NAME__, __LINE__)
#define check_pf(error, address)                                                                                                           \
    do {                                                                                                                                   \
        check_fault(EXC_PF, error);                                                                                                        \
        check_eq(fault.cr2, (word)(address));                                                                                              \
    } while (0)

/* An instruction that TCG does not fault on as it should: only TCG may miss it. */
#define check_fault_but_qemu(vector, error, why)                                                                                           \
    do {                                                                                                                                   \
        if (cpu_is_tcg() && !fault_is(vector, error))                                                                                      \
            print("# qemu deviates at %s:%d: %s\n", __FILE_NAME__, __LINE__, why);                                                         \
        else                                                                                                                               \
            check_fault(vector, error);                                                                                                    \
    } while (0)
bool fault_is(unsigned vector, word error);

/* For guests that leave the library's world and come back. */
void *memset(void *, int, size_t);
void *memcpy(void *, const void *, size_t);
int memcmp(const void *, const void *, size_t);
