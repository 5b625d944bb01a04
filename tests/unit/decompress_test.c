/* Every payload format unpacks to what went in, and no damaged one writes outside of its buffer. */
#include "boot_fake.h"

#include "boot/decompress.h"

#define GUARD 64
#define SEED 20240607u

static uint64_t rng = SEED;

static uint32_t next_random(void)
{
    rng = rng * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint32_t)(rng >> 33);
}

/* Half of it compresses, half does not. */
static struct fake_bytes sample(size_t len)
{
    struct fake_bytes b = fake_alloc(len);

    for (size_t i = 0; i < len; i++)
        b.data[i] = (i >> 10) & 1 ? (uint8_t)next_random() : (uint8_t)(i >> 6);
    return b;
}

static struct fake_bytes guarded(size_t len)
{
    struct fake_bytes b = fake_alloc(len + GUARD);

    memset(b.data + len, 0x5a, GUARD);
    b.len = len;
    return b;
}

static void guard_stands(struct fake_bytes b)
{
    for (unsigned i = 0; i < GUARD; i++)
        assert_int_equal(b.data[b.len + i], 0x5a);
}

static void every_format_unpacks_to_what_went_in(void **state)
{
    struct fake_bytes in = sample(300000);

    (void)state;
    for (enum fake_codec c = 0; c < FAKE_CODECS; c++) {
        struct fake_bytes packed = fake_compress(c, in), out = guarded(in.len);
        bool supported;
        const char *why;

        assert_non_null(decompress_name(packed.data, packed.len, &supported));
        assert_true(supported);
        assert_int_equal(decompress(packed.data, packed.len, out.data, out.len, &why), 0);
        assert_memory_equal(out.data, in.data, in.len);
        guard_stands(out);
        free(packed.data);
        free(out.data);
    }
    free(in.data);
}

static void a_size_behind_the_stream_does_no_harm(void **state)
{
    struct fake_bytes in = sample(20000);

    (void)state;
    for (enum fake_codec c = 0; c < FAKE_CODECS; c++) {
        struct fake_bytes packed = fake_compress(c, in), longer = fake_alloc(packed.len + 4), out = guarded(in.len);
        const char *why;

        memcpy(longer.data, packed.data, packed.len);
        fake_put32(longer, packed.len, (uint32_t)in.len);
        assert_int_equal(decompress(longer.data, longer.len, out.data, out.len, &why), 0);
        assert_memory_equal(out.data, in.data, in.len);
        free(packed.data);
        free(longer.data);
        free(out.data);
    }
    free(in.data);
}

static void lz4_of_several_blocks_and_frames_unpacks(void **state)
{
    struct fake_bytes in = sample(MIB(8) + 5000), packed = fake_compress(FAKE_LZ4, in), two = fake_alloc(packed.len * 2);
    struct fake_bytes out = guarded(in.len * 2);
    const char *why;

    (void)state;
    assert_int_equal(decompress(packed.data, packed.len, out.data, in.len, &why), 0);
    assert_memory_equal(out.data, in.data, in.len);
    memcpy(two.data, packed.data, packed.len);
    memcpy(two.data + packed.len, packed.data, packed.len);
    assert_int_equal(decompress(two.data, two.len, out.data, out.len, &why), 0);
    assert_memory_equal(out.data + in.len, in.data, in.len);
    guard_stands(out);
    free(in.data);
    free(packed.data);
    free(two.data);
    free(out.data);
}

static void a_cut_stream_is_refused_with_a_reason(void **state)
{
    struct fake_bytes in = sample(5000);

    (void)state;
    for (enum fake_codec c = 0; c < FAKE_CODECS; c++) {
        struct fake_bytes packed = fake_compress(c, in), out = guarded(in.len);

        for (size_t len = 0; len < packed.len; len += 1 + len / 64) {
            struct fake_bytes cut = fake_cut(packed, len);
            const char *why = NULL;

            assert_int_equal(decompress(cut.data, cut.len, out.data, out.len, &why), -EINVAL);
            assert_true(why && *why);
            guard_stands(out);
            free(cut.data);
        }
        free(packed.data);
        free(out.data);
    }
    free(in.data);
}

static void a_stream_of_another_length_than_announced_is_refused(void **state)
{
    struct fake_bytes in = sample(20000);

    (void)state;
    for (enum fake_codec c = 0; c < FAKE_CODECS; c++) {
        struct fake_bytes packed = fake_compress(c, in), small = guarded(in.len - 1), large = guarded(in.len + 1);
        const char *why;

        assert_int_equal(decompress(packed.data, packed.len, small.data, small.len, &why), -EINVAL);
        guard_stands(small);
        assert_int_equal(decompress(packed.data, packed.len, large.data, large.len, &why), -EINVAL);
        guard_stands(large);
        free(packed.data);
        free(small.data);
        free(large.data);
    }
    free(in.data);
}

static void damage_never_reaches_beyond_the_buffer(void **state)
{
    struct fake_bytes in = sample(4000);

    (void)state;
    print_message("seed %u\n", SEED);
    for (enum fake_codec c = 0; c < FAKE_CODECS; c++) {
        struct fake_bytes packed = fake_compress(c, in), out = guarded(in.len);

        for (unsigned i = 0; i < 2000; i++) {
            struct fake_bytes bad = fake_cut(packed, packed.len);
            const char *why = NULL;
            int ret;

            for (unsigned j = 0; j < 1 + i % 4; j++)
                bad.data[4 + next_random() % (bad.len - 4)] ^= (uint8_t)(1u << next_random() % 8);
            ret = decompress(bad.data, bad.len, out.data, out.len, &why);
            assert_true(ret == 0 || ret == -ENOMEM || (ret == -EINVAL && *why));
            guard_stands(out);
            free(bad.data);
        }
        free(packed.data);
        free(out.data);
    }
    free(in.data);
}

static void formats_without_a_decoder_are_named_and_not_supported(void **state)
{
    static const struct {
        const char *name, *magic;
    } known[] = {{"bzip2", "BZh91AY"}, {"LZO", "\x89LZO\0\r\n"}};
    uint8_t out[16];
    bool supported = true;
    const char *why;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(known); i++) {
        assert_string_equal(decompress_name(known[i].magic, 7, &supported), known[i].name);
        assert_false(supported);
        assert_int_equal(decompress(known[i].magic, 7, out, sizeof(out), &why), -EINVAL);
    }
    assert_null(decompress_name("plain text", 10, &supported));
    assert_false(supported);
    assert_null(decompress_name("", 0, &supported));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_unpacks_to_what_went_in),
        cmocka_unit_test(a_size_behind_the_stream_does_no_harm),
        cmocka_unit_test(lz4_of_several_blocks_and_frames_unpacks),
        cmocka_unit_test(a_cut_stream_is_refused_with_a_reason),
        cmocka_unit_test(a_stream_of_another_length_than_announced_is_refused),
        cmocka_unit_test(damage_never_reaches_beyond_the_buffer),
        cmocka_unit_test(formats_without_a_decoder_are_named_and_not_supported),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
