/* What becomes of a failed assertion: a line on stderr and a core dump. */
#include "base/bug.h"

#include <stdlib.h>

#include "base/log.h"

void bug_at(const char *file, int line, const char *what)
{
    log_error("internal error at %s:%d: %s; please report it", file, line, what);
    abort();
}
