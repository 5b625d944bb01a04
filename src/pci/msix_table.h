/* Between the files of MSI-X: an entry of the table, and the irqfds that follow it. */
#pragma once

#include "pci/msix.h"

#define MSIX_ENTRY_BYTES 16
#define MSIX_ENTRY_DWORDS 4
#define MSIX_ADDRESS_LOW 0
#define MSIX_ADDRESS_HIGH 1
#define MSIX_DATA 2
#define MSIX_VECTOR_CONTROL 3
#define MSIX_MASKED 1U

#define MSIX_ADDRESS_LOW_BITS (~3U) /* a message is an aligned dword */

static inline uint64_t msix_address(const struct msix *m, unsigned v)
{
    const uint32_t *entry = &m->state.table[MSIX_ENTRY_DWORDS * v];

    return (uint64_t)entry[MSIX_ADDRESS_HIGH] << 32 | entry[MSIX_ADDRESS_LOW];
}

static inline uint32_t msix_data(const struct msix *m, unsigned v)
{
    return m->state.table[MSIX_ENTRY_DWORDS * v + MSIX_DATA];
}

static inline bool msix_is_masked(const struct msix *m, unsigned v)
{
    return m->state.table[MSIX_ENTRY_DWORDS * v + MSIX_VECTOR_CONTROL] & MSIX_MASKED;
}

/*
 * All with the lock held. The vectors [first, end) changed, or may_send: whether the function as a whole may. A host without irqfds has none
 * of it.
 */
void msix_irqfds_update(struct msix *, unsigned first, unsigned end, bool may_send);
void msix_irqfds_free(struct msix *);
/* False: this vector has no irqfd that is connected now. */
bool msix_irqfd_send(struct msix *, unsigned v);
