/* AVX-512 (F, BW, DQ, VL): masks, compress and expand, embedded rounding, scatter, permutes, as checksums. */
#include <immintrin.h>

#include "check.h"

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

TARGET static __m512i random_vector(uint64_t *seed)
{
    uint64_t v[8];

    for (int i = 0; i < 8; i++)
        v[i] = random_next(seed);
    return _mm512_loadu_si512(v);
}

TARGET static void floats(void)
{
    uint64_t seed = 1, sum = SUM_START;

    for (int i = 0; i < 10000; i++) {
        __m512 a = _mm512_cvtepi32_ps(random_vector(&seed)), b = _mm512_cvtepi32_ps(random_vector(&seed));
        __m512d c = _mm512_cvtepi32_pd(_mm512_castsi512_si256(random_vector(&seed)));
        __mmask16 k = (__mmask16)random_next(&seed);
        __m512 results[] = {
            _mm512_mask_add_ps(a, k, a, b),
            _mm512_maskz_div_ps(k, a, b),
            _mm512_fmadd_ps(a, b, a),
            _mm512_getexp_ps(a),
            _mm512_add_round_ps(a, b, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC),
            _mm512_mul_round_ps(a, b, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC),
            _mm512_scalef_ps(a, _mm512_set1_ps((float)(i % 17))),
            _mm512_roundscale_ps(a, 0x31),
            _mm512_rcp14_ps(a),
        };
        __m512i longs = _mm512_cvtpd_epi64(c);
        __mmask16 less = _mm512_mask_cmp_ps_mask(k, a, b, _CMP_LT_OQ);
        SUM(sum, results);
        SUM(sum, longs);
        SUM(sum, less);
    }
    report("avx512_floats", sum);
}

TARGET static void integers(void)
{
    uint64_t seed = 2, sum = SUM_START;
    static int table[256];

    for (int i = 0; i < 10000; i++) {
        __m512i a = random_vector(&seed), b = random_vector(&seed), index = _mm512_and_si512(a, _mm512_set1_epi32(255));
        __mmask16 k = (__mmask16)random_next(&seed);
        __m512i results[] = {
            _mm512_mask_mullo_epi32(a, k, a, b),
            _mm512_mullo_epi64(a, b),
            _mm512_ternarylogic_epi32(a, b, index, 0x96),
            _mm512_rolv_epi32(a, b),
            _mm512_permutexvar_epi32(a, b),
            _mm512_permutex2var_epi16(a, b, index),
            _mm512_maskz_compress_epi32(k, a),
            _mm512_maskz_expand_epi32(k, b),
            _mm512_shuffle_epi8(a, b),
            _mm512_sllv_epi16(a, _mm512_and_si512(b, _mm512_set1_epi16(15))),
            _mm512_alignr_epi32(a, b, 5),
            _mm512_min_epu64(a, b),
            _mm512_broadcast_i32x4(_mm512_castsi512_si128(a)),
            _mm512_sad_epu8(a, b),
            _mm512_srav_epi64(a, index),
        };
        __mmask64 bytes = _mm512_cmpgt_epu8_mask(a, b);
        __m256i narrow = _mm512_cvtusepi32_epi16(a);
        _mm512_mask_i32scatter_epi32(table, k, index, b, 4);
        SUM(sum, results);
        SUM(sum, bytes);
        SUM(sum, narrow);
    }
    report("avx512_integers", sum_bytes(sum, table, sizeof(table)));
}

TARGET static void masks(void)
{
    uint64_t seed = 3, sum = SUM_START;
    unsigned char memory[64];

    for (int i = 0; i < 10000; i++) {
        __mmask32 a = (__mmask32)random_next(&seed), b = (__mmask32)random_next(&seed), r;
        unsigned char zero;
        __asm__ volatile(
            "kmovd %2, %%k1\n\tkmovd %3, %%k2\n\tkxnord %%k2, %%k1, %%k3\n\tkshiftrd $3, %%k3, %%k4\n\tkaddd %%k1, %%k4, %%k5\n\t"
            "kortestd %%k1, %%k2\n\tsetz %1\n\tkmovd %%k5, %0"
            : "=r"(r), "=q"(zero)
            : "r"(a), "r"(b)
            : "cc", "k1", "k2", "k3", "k4", "k5");
        SUM(sum, r);
        SUM(sum, zero);
        memset(memory, i, sizeof(memory));
        _mm256_mask_storeu_epi8(memory + 7, a, _mm256_set1_epi8((char)~i));
        SUM(sum, memory);
    }
    report("avx512_masks", sum);
}

#ifdef __x86_64__
/* The upper sixteen registers exist in 64-bit mode alone. */
TARGET static void upper_registers(void)
{
    uint64_t seed = 4, sum = SUM_START, out[8];

    for (int i = 0; i < 10000; i++) {
        __m512i a = random_vector(&seed);
        __asm__ volatile(
            "vmovdqu64 %1, %%zmm31\n\tvpaddq %%zmm31, %%zmm31, %%zmm16\n\tvpxorq %%zmm31, %%zmm16, %%zmm20\n\tvmovdqu64 %%zmm20, %0"
            : "=m"(out)
            : "m"(a)
            : "xmm16", "xmm20", "xmm31");
        SUM(sum, out);
    }
    report("avx512_upper_registers", sum);
}
#endif

int main(void)
{
    if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
        printf("avx512 absent\n");
        return 0;
    }
    floats();
    integers();
    masks();
#ifdef __x86_64__
    upper_registers();
#endif
    return 0;
}
