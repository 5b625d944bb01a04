/* The x87 unit: arithmetic at 80 bits, its control and status words, BCD, transcendental functions, and its saved image. */
#include <math.h>

#include "check.h"

static uint64_t sum_extended(uint64_t sum, long double value)
{
    return sum_bytes(sum, &value, 10); /* the padding is nobody's */
}

static long double random_extended(uint64_t *seed)
{
    return (long double)(int64_t)random_next(seed) / (long double)((random_next(seed) >> 20) | 1);
}

static void arithmetic(void)
{
    uint64_t seed = 1, sum = SUM_START;

    /* Every rounding and every precision. */
    for (unsigned control = 0; control < 12; control++) {
        unsigned short word = (unsigned short)(0x007f | (control & 3) << 10 | (control / 4 ? control / 4 + 1u : 0u) << 8);
        __asm__ volatile("fldcw %0" : : "m"(word));
        for (int i = 0; i < 3000; i++) {
            volatile long double a = random_extended(&seed), b = random_extended(&seed), r = a + b;
            unsigned short status;
            sum = sum_extended(sum, r);
            r = a * b - r / (b + 1);
            sum = sum_extended(sum, r);
            r = sqrtl(a < 0 ? -a : a);
            sum = sum_extended(sum, r);
            float f = (float)a;
            double d = (double)b;
            int64_t n = (int64_t)(a / 1024);
            SUM(sum, f);
            SUM(sum, d);
            SUM(sum, n);
            __asm__ volatile("fnstsw %0" : "=a"(status));
            status &= 0x003f; /* the exceptions: what the compiler compared is its own affair */
            SUM(sum, status);
        }
        __asm__ volatile("fninit");
    }
    report("x87_arithmetic", sum);
}

static void comparisons(void)
{
    uint64_t seed = 2, sum = SUM_START;

    for (int i = 0; i < 20000; i++) {
        long double a = (long double)(int)(random_next(&seed) & 7), b = (long double)(int)(random_next(&seed) & 7);
        unsigned short status, examined;
        unsigned char below;
        if (i % 50 == 0)
            a = (long double)NAN;
        __asm__ volatile("fldt %2\n\tfldt %1\n\tfucompp\n\tfnstsw %0" : "=a"(status) : "m"(a), "m"(b));
        status &= 0x4500;
        SUM(sum, status);
        __asm__ volatile("fldt %2\n\tfldt %1\n\tfucomip %%st(1), %%st\n\tsetb %0\n\tfstp %%st(0)" : "=q"(below) : "m"(a), "m"(b) : "cc");
        SUM(sum, below);
        __asm__ volatile("fldt %1\n\tfxam\n\tfnstsw %0\n\tfstp %%st(0)" : "=a"(examined) : "m"(a));
        examined &= 0x4700;
        SUM(sum, examined);
    }
    report("x87_comparisons", sum);
}

static void integers_and_bcd(void)
{
    uint64_t seed = 3, sum = SUM_START;

    for (int i = 0; i < 10000; i++) {
        int64_t n = (int64_t)random_next(&seed) / 10, back;
        unsigned char bcd[10];
        int word;
        short half;
        __asm__ volatile("fildll %1\n\tfbstp %0" : "=m"(bcd) : "m"(n));
        sum = sum_bytes(sum, bcd, sizeof(bcd));
        __asm__ volatile("fbld %1\n\tfistpll %0" : "=m"(back) : "m"(bcd));
        CHECK(back == n || n > 999999999999999999ll || n < -999999999999999999ll);
        n >>= 34;
        __asm__ volatile("fildll %2\n\tfistl %0\n\tfistps %1" : "=m"(word), "=m"(half) : "m"(n));
        SUM(sum, word);
        SUM(sum, half);
    }
    __asm__ volatile("fnclex");
    report("x87_integers", sum);
}

#define UNARY(value, insn)                                                                                                                 \
    ({                                                                                                                                     \
        long double out_ = (value);                                                                                                        \
        __asm__ volatile("fldt %0\n\t" insn "\n\tfstpt %0" : "+m"(out_));                                                                  \
        out_;                                                                                                                              \
    })
#define BINARY(st0, st1, insn)                                                                                                             \
    ({                                                                                                                                     \
        long double out_ = (st0), in_ = (st1);                                                                                             \
        __asm__ volatile("fldt %1\n\tfldt %0\n\t" insn "\n\tfstpt %0" : "+m"(out_) : "m"(in_));                                            \
        out_;                                                                                                                              \
    })

static void functions(void)
{
    uint64_t seed = 4, sum = SUM_START;

    for (int i = 0; i < 5000; i++) {
        long double a = random_extended(&seed) / 4, b = (long double)(int)(random_next(&seed) & 255) + 1;
        long double positive = fabsl(a) + 1;
        sum = sum_extended(sum, UNARY(a, "fsin"));
        sum = sum_extended(sum, UNARY(a, "fcos"));
        sum = sum_extended(sum, UNARY(a, "fptan\n\tfstp %%st(0)"));
        sum = sum_extended(sum, UNARY(a - rintl(a), "f2xm1"));
        sum = sum_extended(sum, UNARY(a, "frndint"));
        sum = sum_extended(sum, UNARY(positive, "fxtract\n\tfaddp"));
        sum = sum_extended(sum, BINARY(positive, b, "fyl2x"));
        sum = sum_extended(sum, BINARY(a, b, "fpatan"));
        sum = sum_extended(sum, BINARY(a, b, "fprem\n\tfstp %%st(1)"));
        sum = sum_extended(sum, BINARY(a, b, "fprem1\n\tfstp %%st(1)"));
        sum = sum_extended(sum, BINARY(a, b, "fscale\n\tfstp %%st(1)"));
    }
    report("x87_functions", sum);
}

/* The stack as fnsave and fxsave see it: tags, TOP and every register. */
static void images(void)
{
    static unsigned char save[108], fx[512] __attribute__((aligned(16)));
    uint64_t sum = SUM_START;

    for (int depth = 0; depth <= 8; depth++) {
        __asm__ volatile("fninit");
        for (int i = 0; i < depth; i++)
            __asm__ volatile("fldpi");
        __asm__ volatile("fxsave %0" : "=m"(fx));
        __asm__ volatile("fnsave %0\n\tfrstor %0" : "+m"(save));
        sum = sum_bytes(sum, save, 2);       /* control */
        sum = sum_bytes(sum, save + 4, 2);   /* status */
        sum = sum_bytes(sum, save + 8, 2);   /* tags */
        sum = sum_bytes(sum, save + 28, 80); /* registers */
        sum = sum_bytes(sum, fx, 5);         /* control, status, short tags */
        for (int i = 0; i < 8; i++)
            sum = sum_bytes(sum, fx + 32 + 16 * i, 10);
    }
    __asm__ volatile("fninit");
    report("x87_images", sum);
}

int main(void)
{
    arithmetic();
    comparisons();
    integers_and_bcd();
    functions();
    images();
    return 0;
}
