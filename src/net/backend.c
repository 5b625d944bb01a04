/* What all network backends have in common: their end. */
#include "net/backend.h"

void net_free(struct net_backend *backend)
{
    if (backend)
        backend->ops->free(backend);
}
