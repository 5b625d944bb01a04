/* Integer arithmetic, its flags, string instructions and atomic exchanges, as checksums. */
#include "check.h"

/* The status flags that the manual defines for an operation, from EFLAGS. */
#define CF 0x001ul
#define PF 0x004ul
#define AF 0x010ul
#define ZF 0x040ul
#define SF 0x080ul
#define OF 0x800ul
#define ALL (CF | PF | AF | ZF | SF | OF)

#define BINARY(name, insn, type, defined)                                                                                                  \
    static uint64_t name(uint64_t sum, type a, type b)                                                                                     \
    {                                                                                                                                      \
        unsigned long flags;                                                                                                               \
        __asm__(insn " %2, %0\n\tpushf\n\tpop %1" : "+r"(a), "=r"(flags) : "r"(b) : "cc");                                                 \
        uint32_t status = flags & (defined);                                                                                               \
        SUM(sum, a);                                                                                                                       \
        return SUM(sum, status);                                                                                                           \
    }

#define CARRYING(name, insn, type)                                                                                                         \
    static uint64_t name(uint64_t sum, type a, type b)                                                                                     \
    {                                                                                                                                      \
        unsigned long flags;                                                                                                               \
        __asm__("bt $0, %2\n\t" insn " %2, %0\n\tpushf\n\tpop %1" : "+r"(a), "=&r"(flags) : "r"(b) : "cc");                                \
        uint32_t status = flags & ALL;                                                                                                     \
        SUM(sum, a);                                                                                                                       \
        return SUM(sum, status);                                                                                                           \
    }

BINARY(add8, "addb", unsigned char, ALL)
BINARY(add16, "addw", unsigned short, ALL)
BINARY(add32, "addl", unsigned, ALL)
BINARY(sub32, "subl", unsigned, ALL)
BINARY(cmp16, "cmpw", unsigned short, ALL)
BINARY(and32, "andl", unsigned, ALL & ~AF)
BINARY(xor16, "xorw", unsigned short, ALL & ~AF)
BINARY(test32, "testl", unsigned, ALL & ~AF)
BINARY(imul32, "imull", unsigned, CF | OF)
BINARY(imul16, "imulw", unsigned short, CF | OF)
BINARY(bt32, "btl", unsigned, CF)
BINARY(bts16, "btsw", unsigned short, CF)
BINARY(xadd32, "xaddl", unsigned, ALL)
CARRYING(adc32, "adcl", unsigned)
CARRYING(sbb32, "sbbl", unsigned)
CARRYING(adc16, "adcw", unsigned short)
#ifdef __x86_64__
BINARY(add64, "addq", uint64_t, ALL)
BINARY(imul64, "imulq", uint64_t, CF | OF)
CARRYING(adc64, "adcq", uint64_t)
CARRYING(sbb64, "sbbq", uint64_t)
#endif

static uint64_t shifts(uint64_t sum, unsigned a, unsigned char count)
{
    unsigned r = a;
    unsigned long flags;

    count &= 31;
    __asm__("roll %%cl, %0" : "+r"(r) : "c"(count) : "cc");
    SUM(sum, r);
    __asm__("rorw %%cl, %w0" : "+r"(r) : "c"(count) : "cc");
    SUM(sum, r);
    __asm__("stc\n\trcll %%cl, %0\n\trcrw %%cl, %w0" : "+r"(r) : "c"(count) : "cc");
    SUM(sum, r);
    __asm__("shldl %%cl, %1, %0" : "+r"(r) : "r"(a), "c"(count) : "cc");
    SUM(sum, r);
    __asm__("sarl %%cl, %0" : "+r"(r) : "c"(count) : "cc");
    SUM(sum, r);
    __asm__("shrl $1, %0\n\tpushf\n\tpop %1" : "+r"(r), "=r"(flags) : : "cc");
    uint32_t status = flags & ALL & ~AF;
    SUM(sum, r);
    return SUM(sum, status);
}

static void arithmetic(void)
{
    static uint64_t (*const ops32[])(uint64_t, unsigned, unsigned) = {add32, sub32, and32, test32, imul32, bt32, xadd32, adc32, sbb32};
    static uint64_t (*const ops16[])(uint64_t, unsigned short, unsigned short) = {add16, cmp16, xor16, imul16, bts16, adc16};
    uint64_t seed = 1, sum = SUM_START;

    for (int i = 0; i < 20000; i++) {
        uint64_t a = random_next(&seed), b = random_next(&seed);
        if (i % 3 == 0) /* carries and signs at their edges */
            a = (uint64_t) - (int64_t)(a & 3), b &= 0x8000000080008083ull;
        for (unsigned k = 0; k < sizeof(ops32) / sizeof(ops32[0]); k++)
            sum = ops32[k](sum, (unsigned)a, (unsigned)b);
        for (unsigned k = 0; k < sizeof(ops16) / sizeof(ops16[0]); k++)
            sum = ops16[k](sum, (unsigned short)a, (unsigned short)b);
        sum = add8(sum, (unsigned char)a, (unsigned char)b);
        sum = shifts(sum, (unsigned)a, (unsigned char)b);
    }
    report("arithmetic", sum);
#ifdef __x86_64__
    for (int i = 0; i < 20000; i++) {
        uint64_t a = random_next(&seed) >> i % 64, b = -random_next(&seed);
        sum = imul64(add64(sum, a, b), a, b);
        sum = sbb64(adc64(sum, a, b), b, a);
    }
    report("arithmetic_64", sum);
#endif
}

static void division(void)
{
    uint64_t seed = 2, sum = SUM_START;

    for (int i = 0; i < 100000; i++) {
        uint64_t a = random_next(&seed) >> (i % 40);
        uint64_t b = (random_next(&seed) >> (i % 60)) | 1;
        uint64_t q = a / b, r = a % b;
        int64_t sq = (int64_t)a / (int64_t)b;
        int small = (int)a / (((int)b & 0x7fff) | 1);
        SUM(sum, q);
        SUM(sum, r);
        SUM(sum, sq);
        SUM(sum, small);
    }
    report("division", sum);
}

static void bits(void)
{
    uint64_t seed = 3, sum = SUM_START;

    for (int i = 0; i < 50000; i++) {
        unsigned a = (unsigned)random_next(&seed) | 1, low, high, swapped = a;
        unsigned char parity;
        __asm__("bsfl %1, %0" : "=r"(low) : "r"(a) : "cc");
        __asm__("bsrl %1, %0" : "=r"(high) : "r"(a) : "cc");
        __asm__("bswap %0" : "+r"(swapped));
        __asm__("testb %b1, %b1\n\tsetp %0" : "=q"(parity) : "q"(a) : "cc");
        SUM(sum, low);
        SUM(sum, high);
        SUM(sum, swapped);
        SUM(sum, parity);
        SUM(sum, a);
    }
    report("bits", sum);
}

__attribute__((target("bmi,bmi2,popcnt,lzcnt"))) static void bits_newer(void)
{
    uint64_t seed = 4, sum = SUM_START;

    for (int i = 0; i < 50000; i++) {
        unsigned a = (unsigned)random_next(&seed), b = (unsigned)random_next(&seed);
        unsigned values[] = {
            (unsigned)__builtin_popcount(a),
            __builtin_ia32_lzcnt_u32(a),
            __builtin_ia32_bextr_u32(a, b & 0x1f1f),
            __builtin_ia32_pdep_si(a, b),
            __builtin_ia32_pext_si(a, b),
            __builtin_ia32_bzhi_si(a, b & 31),
            ~a & b,
        };
        SUM(sum, values);
    }
    report("bits_newer", sum);
}

static void strings(void)
{
    static unsigned char from[9000], to[9000];
    uint64_t seed = 5, sum = SUM_START;

    for (unsigned i = 0; i < sizeof(from); i++)
        from[i] = (unsigned char)random_next(&seed);
    for (int i = 0; i < 500; i++) {
        size_t at = random_next(&seed) % 4000, n = random_next(&seed) % 2000, left = n;
        const unsigned char *s = from + at;
        unsigned char *d = to + random_next(&seed) % 4000;
        __asm__ volatile("rep movsb" : "+S"(s), "+D"(d), "+c"(left) : : "memory");
        left = n / 4;
        __asm__ volatile("rep stosl" : "+D"(d), "+c"(left) : "a"(at * 77) : "memory");
        /* Backwards and overlapping: bytes repeat. */
        s = to + at + 1500;
        d = to + at + 1497;
        left = 900;
        __asm__ volatile("std\n\trep movsw\n\tcld" : "+S"(s), "+D"(d), "+c"(left) : : "memory");
        s = from + at;
        left = 5000;
        __asm__ volatile("repne scasb" : "+D"(s), "+c"(left) : "a"((int)(i & 255)) : "memory", "cc");
        sum += left;
        s = from + at;
        d = to + at;
        left = 600;
        __asm__ volatile("repe cmpsb" : "+S"(s), "+D"(d), "+c"(left) : : "memory", "cc");
        sum = sum * 31 + left;
    }
    report("strings", sum_bytes(sum, to, sizeof(to)));
}

static void exchanges(void)
{
    uint64_t seed = 6, sum = SUM_START, wide = 1;
    unsigned narrow = 1;

    for (int i = 0; i < 50000; i++) {
        uint64_t expected = i & 1 ? wide : random_next(&seed);
        unsigned old = __sync_val_compare_and_swap(&narrow, i & 2 ? narrow : 7, (unsigned)random_next(&seed));
        uint64_t old_wide = __sync_val_compare_and_swap(&wide, expected, random_next(&seed)); /* cmpxchg8b in 32-bit programs */
        SUM(sum, old);
        SUM(sum, old_wide);
        old = __sync_fetch_and_or(&narrow, 1u << (i & 31));
        SUM(sum, old);
    }
    report("exchanges", sum);
#ifdef __x86_64__
    static uint64_t pair[2] __attribute__((aligned(16)));
    for (int i = 0; i < 10000; i++) {
        uint64_t low = i & 1 ? pair[0] : 3, high = pair[1], b = random_next(&seed), c = random_next(&seed);
        unsigned char equal;
        __asm__ volatile("lock cmpxchg16b %0\n\tsetz %1"
                         : "+m"(pair), "=q"(equal), "+a"(low), "+d"(high)
                         : "b"(b), "c"(c)
                         : "cc", "memory");
        SUM(sum, equal);
        SUM(sum, low);
        SUM(sum, high);
    }
    report("exchanges_128", sum);
#endif
}

static int by_value(const void *a, const void *b)
{
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

    return x < y ? -1 : x > y;
}

static void sorting(void)
{
    static unsigned v[200000];
    uint64_t seed = 7;

    for (unsigned i = 0; i < sizeof(v) / sizeof(v[0]); i++)
        v[i] = (unsigned)random_next(&seed);
    qsort(v, sizeof(v) / sizeof(v[0]), sizeof(v[0]), by_value);
    report("sorting", sum_bytes(SUM_START, v, sizeof(v)));
}

int main(void)
{
    arithmetic();
    division();
    bits();
    if (__builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt"))
        bits_newer();
    strings();
    exchanges();
    sorting();
    return 0;
}
