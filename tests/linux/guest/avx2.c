/* AVX, AVX2 and FMA on 256-bit vectors, as checksums. */
#include <immintrin.h>

#include "check.h"

__attribute__((target("avx2"))) static __m256i random_vector(uint64_t *seed)
{
    uint64_t v[4];

    for (int i = 0; i < 4; i++)
        v[i] = random_next(seed);
    return _mm256_loadu_si256((const __m256i *)v);
}

__attribute__((target("avx2,fma"))) static void floats(void)
{
    uint64_t seed = 1, sum = SUM_START;

    for (int i = 0; i < 20000; i++) {
        __m256 a = _mm256_cvtepi32_ps(random_vector(&seed)), b = _mm256_cvtepi32_ps(random_vector(&seed));
        __m256d c = _mm256_cvtps_pd(_mm256_castps256_ps128(a)), d = _mm256_cvtepi32_pd(_mm256_castsi256_si128(random_vector(&seed)));
        __m256 results[] = {_mm256_add_ps(a, b),       _mm256_div_ps(a, b),
                            _mm256_fmadd_ps(a, b, a),  _mm256_hadd_ps(a, b),
                            _mm256_dp_ps(a, b, 0xf1),  _mm256_permute2f128_ps(a, b, 0x21),
                            _mm256_blendv_ps(a, b, a), _mm256_round_ps(_mm256_sqrt_ps(a), _MM_FROUND_CEIL)};
        __m256d doubles[] = {_mm256_mul_pd(c, d), _mm256_fnmsub_pd(c, d, c), _mm256_cmp_pd(c, d, _CMP_NLE_US), _mm256_unpackhi_pd(c, d)};
        SUM(sum, results);
        SUM(sum, doubles);
    }
    report("avx_floats", sum);
}

__attribute__((target("avx2"))) static void integers(void)
{
    static int table[1024];
    uint64_t seed = 2, sum = SUM_START;

    for (int i = 0; i < 1024; i++)
        table[i] = (int)random_next(&seed);
    for (int i = 0; i < 20000; i++) {
        __m256i a = random_vector(&seed), b = random_vector(&seed);
        __m256i index = _mm256_and_si256(a, _mm256_set1_epi32(1023));
        __m256i results[] = {
            _mm256_add_epi64(a, b),
            _mm256_mullo_epi32(a, b),
            _mm256_mulhrs_epi16(a, b),
            _mm256_shuffle_epi8(a, b),
            _mm256_packus_epi16(a, b),
            _mm256_sllv_epi32(a, _mm256_and_si256(b, _mm256_set1_epi32(63))),
            _mm256_srav_epi32(a, _mm256_and_si256(b, _mm256_set1_epi32(63))),
            _mm256_permutevar8x32_epi32(a, b),
            _mm256_permute4x64_epi64(a, 0x4e),
            _mm256_cmpgt_epi64(a, b),
            _mm256_sad_epu8(a, b),
            _mm256_i32gather_epi32(table, index, 4),
            _mm256_mask_i32gather_epi32(a, table, index, b, 4),
            _mm256_broadcastb_epi8(_mm256_castsi256_si128(a)),
            _mm256_abs_epi16(a),
            _mm256_alignr_epi8(a, b, 3),
        };
        int stored[8] = {0}, mask = _mm256_movemask_epi8(a);
        _mm256_maskstore_epi32(stored, b, a);
        SUM(sum, results);
        SUM(sum, stored);
        SUM(sum, mask);
    }
    report("avx2_integers", sum);
}

/* vzeroupper and 128-bit forms clear what lies above: the upper halves must be seen to be zero, and kept by SSE forms. */
__attribute__((target("avx"))) static void upper_halves(void)
{
    uint64_t before[4] = {1, 2, 3, 4}, v[4], w[4], x[4];

    __asm__ volatile("vmovdqu %3, %%ymm1\n\tvmovdqu %3, %%ymm2\n\tvmovdqu %3, %%ymm3\n\t"
                     "paddq %%xmm1, %%xmm1\n\tvpaddq %%xmm2, %%xmm2, %%xmm2\n\t"
                     "vmovdqu %%ymm1, %0\n\tvmovdqu %%ymm2, %1\n\tvzeroupper\n\tvmovdqu %%ymm3, %2\n\tvzeroupper"
                     : "=m"(v), "=m"(w), "=m"(x)
                     : "m"(before)
                     : "xmm1", "xmm2", "xmm3");
    CHECK(v[0] == 2 && v[1] == 4 && v[2] == 3 && v[3] == 4);
    CHECK(w[0] == 2 && w[1] == 4 && w[2] == 0 && w[3] == 0);
    CHECK(x[0] == 1 && x[1] == 2 && x[2] == 0 && x[3] == 0);
    report("avx_upper_halves", sum_bytes(SUM_START, v, sizeof(v)));
}

int main(void)
{
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        printf("avx2 absent\n");
        return 0;
    }
    floats();
    integers();
    upper_halves();
    return 0;
}
