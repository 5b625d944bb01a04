/* Assertions for our own bugs: always on, never about what the host or the guest did. */
#pragma once

_Noreturn void bug_at(const char *file, int line, const char *what);

#define BUG_ON(cond)                                                                                                                       \
    do {                                                                                                                                   \
        if (__builtin_expect(!!(cond), 0))                                                                                                 \
            bug_at(__FILE__, __LINE__, #cond);                                                                                             \
    } while (0)
