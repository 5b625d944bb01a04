/* The rows of cpu_bench that stay in user code: integers, branches, memory, floating point, string instructions. */
#include "cpu_bench.h"

#include <stdlib.h>
#include <string.h>

static uint64_t random64(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void fill(void *buffer, size_t bytes, uint64_t seed)
{
    uint64_t *p = buffer;

    for (size_t i = 0; i < bytes / sizeof(*p); i++)
        p[i] = random64(&seed);
}

/* FNV-1a, over words. */
static uint64_t digest(const void *buffer, size_t bytes)
{
    const uint64_t *p = buffer;
    uint64_t h = 0xcbf29ce484222325;

    for (size_t i = 0; i < bytes / sizeof(*p); i++)
        h = (h ^ p[i]) * 0x100000001b3;
    return h;
}

/* --- integers and branches --- */

static uint64_t integer_loop(uint64_t count)
{
    uint64_t state = 88172645463325252, sum = 0;

    row_start();
    for (uint64_t i = 0; i < count; i++)
        sum += random64(&state) * 31;
    row_stop();
    return sum;
}

static uint64_t crc_table(uint64_t count)
{
    static uint32_t table[256];
    static uint8_t data[1 << 15];
    uint32_t crc = ~0U;

    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;

        for (unsigned bit = 0; bit < 8; bit++)
            c = c >> 1 ^ (c & 1 ? 0xedb88320 : 0);
        table[i] = c;
    }
    fill(data, sizeof(data), 1);
    row_start();
    for (uint64_t i = 0; i < count; i += sizeof(data))
        for (size_t k = 0; k < sizeof(data); k++)
            crc = table[(crc ^ data[k]) & 0xff] ^ crc >> 8;
    row_stop();
    return crc;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static uint64_t sort(uint64_t count)
{
    uint32_t *p = malloc(count * sizeof(*p));
    uint64_t sum;

    if (!p)
        fail("memory");
    fill(p, count * sizeof(*p), 2);
    row_start();
    qsort(p, count, sizeof(*p), compare);
    row_stop();
    sum = digest(p, count * sizeof(*p));
    free(p);
    return sum;
}

#define CALLEE(n)                                                                                                                          \
    static __attribute__((noinline)) uint64_t callee_##n(uint64_t x)                                                                       \
    {                                                                                                                                      \
        return x * ((n)*2 + 3) + (n);                                                                                                      \
    }
CALLEE(0)
CALLEE(1)
CALLEE(2)
CALLEE(3)
CALLEE(4)
CALLEE(5)
CALLEE(6)
CALLEE(7)

static uint64_t indirect_call(uint64_t count)
{
    static uint64_t (*const callees[8])(uint64_t) = {callee_0, callee_1, callee_2, callee_3, callee_4, callee_5, callee_6, callee_7};
    uint8_t order[64];
    uint64_t x = 1;

    fill(order, sizeof(order), 3);
    row_start();
    for (uint64_t i = 0; i < count; i++)
        x = callees[order[i % sizeof(order)] % 8](x);
    row_stop();
    return x;
}

static __attribute__((noinline)) uint64_t fibonacci(uint64_t n)
{
    uint64_t sum;

    if (n < 2)
        return 1;
    sum = fibonacci(n - 1);
    KEEP(sum);
    sum += fibonacci(n - 2);
    KEEP(sum); /* no tail call that could become a loop */
    return sum;
}

static uint64_t recursion(uint64_t count)
{
    uint64_t calls = 0, n = 20;

    row_start();
    while (calls < count) {
        KEEP(n);
        calls += 2 * fibonacci(n) - 1;
    }
    row_stop();
    return calls;
}

/* --- memory --- */

#define STREAM_WORDS (1UL << 17) /* 1 MiB: past the first cache, within the second */

static uint64_t streaming_sum(uint64_t count)
{
    static uint64_t words[STREAM_WORDS];
    uint64_t sum = 0;

    fill(words, sizeof(words), 4);
    row_start();
    for (uint64_t i = 0; i < count; i += STREAM_WORDS)
        for (size_t k = 0; k < STREAM_WORDS; k++) {
            sum += words[k];
            KEEP(sum); /* one at a time, without vectors */
        }
    row_stop();
    return sum;
}

static uint64_t copy(uint64_t count)
{
    static uint64_t from[STREAM_WORDS / 2], to[STREAM_WORDS / 2];

    fill(from, sizeof(from), 5);
    row_start();
    for (uint64_t i = 0; i < count; i += STREAM_WORDS / 2)
        for (size_t k = 0; k < STREAM_WORDS / 2; k++) {
            uint64_t word = from[k];

            KEEP(word);
            to[k] = word;
        }
    row_stop();
    return digest(to, sizeof(to));
}

#define STRING_BYTES 4096

static uint64_t rep_movsb(uint64_t count)
{
    static uint64_t from[STRING_BYTES / 8], to[STRING_BYTES / 8];

    fill(from, sizeof(from), 6);
    row_start();
    for (uint64_t i = 0; i < count; i++) {
        const void *source = from;
        void *target = to;
        size_t n = STRING_BYTES;

        __asm__ volatile("rep movsb" : "+S"(source), "+D"(target), "+c"(n) : : "memory");
    }
    row_stop();
    return digest(to, sizeof(to));
}

#define COPY_BYTES 65536

static uint64_t libc_memcpy(uint64_t count)
{
    static uint64_t from[COPY_BYTES / 8], to[COPY_BYTES / 8];
    void *(*volatile function)(void *, const void *, size_t) = memcpy;

    fill(from, sizeof(from), 7);
    row_start();
    for (uint64_t i = 0; i < count; i++)
        function(to, from, COPY_BYTES);
    row_stop();
    return digest(to, sizeof(to));
}

/* --- floating point --- */

#define MATRIX 64

static uint64_t matrix_product(uint64_t count)
{
    static double a[MATRIX][MATRIX], b[MATRIX][MATRIX], c[MATRIX][MATRIX];

    for (unsigned i = 0; i < MATRIX; i++)
        for (unsigned k = 0; k < MATRIX; k++) {
            a[i][k] = i + 2 * k;
            b[i][k] = 3 * i - (double)k;
        }
    memset(c, 0, sizeof(c));
    row_start();
    for (uint64_t done = 0; done < count; done += MATRIX * MATRIX * MATRIX)
        for (unsigned i = 0; i < MATRIX; i++)
            for (unsigned k = 0; k < MATRIX; k++) {
                double factor = a[i][k];

                for (unsigned j = 0; j < MATRIX; j++) {
                    double product = factor * b[k][j];

                    KEEP_SSE(product); /* one at a time */
                    c[i][j] += product;
                }
            }
    row_stop();
    return digest(c, sizeof(c));
}

static uint64_t sse_chain(uint64_t count)
{
    double x = 0.5, factor = 0.9999999, more = 0.3;
    uint64_t bits;

    row_start();
    for (uint64_t i = 0; i < count; i++) {
        KEEP_SSE(x);
        x = x * factor + more;
    }
    row_stop();
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

static uint64_t x87_chain(uint64_t count)
{
    long double x = 0.5L, factor = 0.9999999L, more = 0.3L;
    double rounded;
    uint64_t bits;

    row_start();
    for (uint64_t i = 0; i < count; i++) {
        KEEP_X87(x);
        x = x * factor + more;
    }
    row_stop();
    rounded = (double)x;
    memcpy(&bits, &rounded, sizeof(bits));
    return bits;
}

const struct row rows_compute[] = {
    {"integer loop", integer_loop, 60000000, 0x49b354000e34d673},
    {"CRC table", crc_table, 48 << 20, 0xc68fcfd5},
    {"qsort", sort, 1 << 20, 0x58d64df28e271deb},
    {"indirect call", indirect_call, 60000000, 0xc2a97b301aad6691},
    {"recursion", recursion, 60000000, 0x393939f},
    {"streaming sum", streaming_sum, 384 << 20, 0x4aa3b9870e7bb800},
    {"copy", copy, 256 << 20, 0x8399bd229347fc04},
    {"matrix product", matrix_product, 160000000, 0x349af06f5e3b6325},
    {"scalar SSE chain", sse_chain, 60000000, 0x4146d4d9df92203a},
    {"x87 chain", x87_chain, 40000000, 0x4146780e8d3ed946},
    {"rep movsb 4 KiB", rep_movsb, 1000000, 0x2a56380c48fe52dd},
    {"memcpy 64 KiB", libc_memcpy, 50000, 0xd0ff53632a832098},
    {0},
};
