/* The Internet checksum (RFC 1071) by whole words: the sum of 16-bit words is the same modulo 2^16 - 1 whatever the words' size. */
#include "net/checksum.h"

#include <string.h>

#include "base/bug.h"

static uint64_t add(uint64_t sum, uint64_t value)
{
    sum += value;
    return sum + (sum < value);
}

/* In the order of memory, which is how it is stored again. */
static uint16_t sum_words(const uint8_t *p, size_t len)
{
    uint64_t sum = 0, word[4], last = 0;

    for (; len >= sizeof(word); p += sizeof(word), len -= sizeof(word)) {
        memcpy(word, p, sizeof(word));
        sum = add(add(add(add(sum, word[0]), word[1]), word[2]), word[3]);
    }
    for (; len >= 8; p += 8, len -= 8) {
        memcpy(word, p, 8);
        sum = add(sum, word[0]);
    }
    memcpy(&last, p, len);
    sum = add(sum, last);
    sum = (sum >> 32) + (uint32_t)sum;
    sum = (sum >> 32) + (uint32_t)sum;
    sum = (sum >> 16) + (uint16_t)sum;
    return (uint16_t)((sum >> 16) + sum);
}

void net_complete_checksum(uint8_t *frame, size_t len, size_t start, size_t offset)
{
    uint16_t sum;

    BUG_ON(start > len || offset > len - start || len - start - offset < sizeof(sum));
    sum = (uint16_t)~sum_words(frame + start, len - start);
    /* 0 means "no checksum" in UDP, and all ones is the same number. */
    sum = sum ? sum : 0xffff;
    memcpy(frame + start + offset, &sum, sizeof(sum));
}
