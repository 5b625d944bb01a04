/* Host failures: the sentence and the errno in one call. */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/bug.h"

void err_write(struct err *e, int code, const char *fmt, ...)
{
    va_list args;

    BUG_ON(code <= 0);
    if (e) {
        va_start(args, fmt);
        vsnprintf(e->text, sizeof(e->text), fmt, args);
        va_end(args);
    }
}
