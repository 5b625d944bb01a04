/* Fuzzes packed virtqueues. */
#define FORMAT BIT(VIRTIO_F_RING_PACKED)
#include "virtq_fuzz.h"
