/* Memory for generated code: shared memory mapped twice, writable for emitting and executable for running, never both. */
#pragma once

#include "base/err.h"
#include "base/types.h"

struct codemem {
    uint8_t *rw, *rx; /* the same bytes; executable addresses have 31 bits, so that one instruction of code can store one */
    size_t size;
};

/* size: bytes, whole pages. 0 or -errno. */
int codemem_init(struct codemem *, size_t size, struct err *);
void codemem_fini(struct codemem *);

static inline bool codemem_holds(const struct codemem *m, const void *pc)
{
    return (uintptr_t)pc - (uintptr_t)m->rx < m->size;
}
