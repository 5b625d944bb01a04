/* Text to the serial console: a small printf. */
#pragma once

#include <stdarg.h>

void console_init(void);
void console_write(const char *s);

/* %d %u %x %s %c %p, with l or ll, a width and a leading 0. */
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void vprint(const char *fmt, va_list ap);
