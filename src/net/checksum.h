/* The Internet checksum (RFC 1071), as a frame's sender left it to be completed. */
#pragma once

#include "base/types.h"

/*
 * Completes what VIRTIO_NET_HDR_F_NEEDS_CSUM asks for: the bytes from start to the frame's end are summed, with the pseudo-header's sum that
 * stands in the checksum's place, and the result goes there. start + offset + 2 <= len.
 */
void net_complete_checksum(uint8_t *frame, size_t len, size_t start, size_t offset);
