/* Sizes as people write them: 512M, 1G, 2048K or bytes. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "config/options.h"

static const char units[] = "KMGT"; /* each 1024 times the one before */

static int unit_shift(char c, unsigned *shift)
{
    for (unsigned i = 0; units[i]; i++)
        if (c == units[i] || c == units[i] + ('a' - 'A')) {
            *shift = 10 * (i + 1);
            return 0;
        }
    return -EINVAL;
}

int config_parse_size(const char *text, uint64_t *bytes)
{
    uint64_t n = 0;
    unsigned shift = 0;
    const char *p = text;

    if (*p < '0' || *p > '9')
        return -EINVAL;
    for (; *p >= '0' && *p <= '9'; p++)
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n))
            return -ERANGE;
    if (*p) {
        if (unit_shift(*p, &shift) != 0 || p[1] != '\0')
            return -EINVAL;
        if (n > UINT64_MAX >> shift)
            return -ERANGE;
    }
    *bytes = n << shift;
    return 0;
}

const char *config_size_text(uint64_t bytes, char buf[CONFIG_SIZE_TEXT])
{
    unsigned i = 0;

    while (i < sizeof(units) - 1 && bytes >= 1024 && bytes % 1024 == 0) {
        bytes /= 1024;
        i++;
    }
    if (i)
        snprintf(buf, CONFIG_SIZE_TEXT, "%" PRIu64 "%c", bytes, units[i - 1]);
    else
        snprintf(buf, CONFIG_SIZE_TEXT, "%" PRIu64, bytes);
    return buf;
}
