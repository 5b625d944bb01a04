/* SSE to SSE4.2, AES and carry-less multiplication, on every rounding and with denormals as zeros, as checksums. */
#include <emmintrin.h>
#include <smmintrin.h>
#include <tmmintrin.h>
#include <wmmintrin.h>

#include "check.h"

static __m128i random_vector(uint64_t *seed)
{
    uint64_t low = random_next(seed), high = random_next(seed);

    return _mm_set_epi64x((long long)high, (long long)low);
}

static void floats(void)
{
    uint64_t seed = 1, sum = SUM_START;

    for (unsigned mode = 0; mode < 8; mode++) {
        _mm_setcsr(0x1f80 | (mode & 3) << 13 | (mode & 4 ? 0x8040 : 0)); /* rounding; flush and denormals-are-zeros */
        for (int i = 0; i < 3000; i++) {
            volatile float a = (float)(int)random_next(&seed) / 3, b = (float)(int)(random_next(&seed) & 1023) + 1;
            volatile double c = (double)(int)random_next(&seed) * 1e-312, d = a * 1.1;
            __m128 v = _mm_set_ps(a, b, a * b, a / b), w = _mm_set1_ps((float)d);
            __m128d x = _mm_set_pd(c, d), y = _mm_sqrt_pd(_mm_set1_pd(d < 0 ? -d : d));
            __m128 results[] = {_mm_add_ps(v, w),
                                _mm_mul_ps(v, w),
                                _mm_div_ps(v, w),
                                _mm_min_ps(v, w),
                                _mm_max_ps(v, w),
                                _mm_cmplt_ps(v, w),
                                _mm_cvtepi32_ps(_mm_cvtps_epi32(v)),
                                _mm_cvtpd_ps(x),
                                _mm_shuffle_ps(v, w, 0x1b)};
            __m128d doubles[] = {_mm_add_pd(x, y), _mm_mul_pd(x, y), _mm_cvtps_pd(v), _mm_cmpunord_pd(x, y)};
            unsigned flags = _mm_getcsr() & 0x3f;
            SUM(sum, results);
            SUM(sum, doubles);
            SUM(sum, flags);
        }
    }
    _mm_setcsr(0x1f80);
    report("sse_floats", sum);
}

/* Approximations differ between processors: the guest must give what its own processor gives. */
static void approximations(void)
{
    uint64_t seed = 2, sum = SUM_START;

    for (int i = 0; i < 20000; i++) {
        __m128 v = _mm_set1_ps((float)(random_next(&seed) & 0xffffff) + 0.5f);
        __m128 results[] = {_mm_rcp_ps(v), _mm_rsqrt_ps(v)};
        SUM(sum, results);
    }
    report("sse_approximations", sum);
}

static void integers(void)
{
    uint64_t seed = 3, sum = SUM_START;

    for (int i = 0; i < 30000; i++) {
        __m128i a = random_vector(&seed), b = random_vector(&seed);
        __m128i results[] = {
            _mm_add_epi8(a, b),
            _mm_adds_epi16(a, b),
            _mm_subs_epu8(a, b),
            _mm_mullo_epi16(a, b),
            _mm_mulhi_epu16(a, b),
            _mm_madd_epi16(a, b),
            _mm_mul_epu32(a, b),
            _mm_sad_epu8(a, b),
            _mm_avg_epu8(a, b),
            _mm_packs_epi32(a, b),
            _mm_unpacklo_epi8(a, b),
            _mm_cmpgt_epi16(a, b),
            _mm_srl_epi32(a, _mm_and_si128(b, _mm_set_epi32(0, 0, 0, 31))),
            _mm_shuffle_epi32(a, 0x39),
            _mm_slli_si128(a, 5),
            _mm_andnot_si128(a, b),
        };
        int mask = _mm_movemask_epi8(a);
        SUM(sum, results);
        SUM(sum, mask);
    }
    report("sse2_integers", sum);
}

__attribute__((target("ssse3,sse4.1,sse4.2"))) static void newer(void)
{
    uint64_t seed = 4, sum = SUM_START;
    static const char text[] = "the quick brown fox jumps over the lazy dog, again and again";

    for (int i = 0; i < 20000; i++) {
        __m128i a = random_vector(&seed), b = random_vector(&seed);
        __m128i results[] = {
            _mm_shuffle_epi8(a, b),
            _mm_hadd_epi16(a, b),
            _mm_maddubs_epi16(a, b),
            _mm_alignr_epi8(a, b, 7),
            _mm_mullo_epi32(a, b),
            _mm_min_epu32(a, b),
            _mm_blendv_epi8(a, b, _mm_add_epi8(a, b)),
            _mm_packus_epi32(a, b),
            _mm_cvtepi8_epi32(a),
            _mm_mpsadbw_epu8(a, b, 2),
            _mm_minpos_epu16(a),
            _mm_insert_epi32(a, i, 2),
            _mm_cmpeq_epi64(a, b),
        };
        __m128d rounded = _mm_round_pd(_mm_cvtepi32_pd(a), _MM_FROUND_FLOOR);
        __m128i words = _mm_loadu_si128((const __m128i *)(text + i % 44));
        int index = _mm_cmpistri(words, _mm_set1_epi8((char)('a' + i % 26)), _SIDD_CMP_EQUAL_EACH);
        unsigned crc = _mm_crc32_u32((unsigned)i, (unsigned)random_next(&seed));
        int zero = _mm_testz_si128(a, b);
        SUM(sum, results);
        SUM(sum, rounded);
        SUM(sum, index);
        SUM(sum, crc);
        SUM(sum, zero);
    }
    report("sse4", sum);
}

__attribute__((target("aes,pclmul,sse4.1"))) static void ciphers(void)
{
    uint64_t seed = 5, sum = SUM_START;

    for (int i = 0; i < 20000; i++) {
        __m128i a = random_vector(&seed), b = random_vector(&seed);
        __m128i results[] = {_mm_aesenc_si128(a, b), _mm_aesdeclast_si128(a, b), _mm_aesimc_si128(a), _mm_aeskeygenassist_si128(a, 0x1b),
                             _mm_clmulepi64_si128(a, b, 0x01)};
        SUM(sum, results);
    }
    report("aes_pclmul", sum);
}

int main(void)
{
    floats();
    approximations();
    integers();
    if (__builtin_cpu_supports("sse4.2"))
        newer();
    else
        printf("sse4 absent\n");
    if (__builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul"))
        ciphers();
    else
        printf("aes absent\n");
    return 0;
}
