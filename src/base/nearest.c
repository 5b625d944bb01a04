/* Compares names by the letters to change, add or leave out. */
#include "base/nearest.h"

#include <string.h>

#define NEAR 2

/* How many edits turn a into b; a small dynamic program, for names of some twenty letters. */
static unsigned distance(const char *a, const char *b)
{
    unsigned row[80];
    size_t len = strlen(b);

    if (len >= ARRAY_SIZE(row))
        return UINT32_MAX;
    for (unsigned j = 0; j <= len; j++)
        row[j] = j;
    for (unsigned i = 1; a[i - 1]; i++) {
        unsigned diagonal = row[0];

        row[0] = i;
        for (unsigned j = 1; j <= len; j++) {
            unsigned replace = diagonal + (a[i - 1] != b[j - 1]);

            diagonal = row[j];
            row[j] = MIN(MIN(row[j], row[j - 1]) + 1, replace);
        }
    }
    return row[len];
}

void nearest_begin(struct nearest *n, const char *name)
{
    *n = (struct nearest){.name = name, .distance = NEAR + 1};
}

void nearest_offer(struct nearest *n, const char *candidate)
{
    unsigned d = distance(n->name, candidate);

    if (d < n->distance) {
        n->distance = d;
        n->found = candidate;
    }
}
