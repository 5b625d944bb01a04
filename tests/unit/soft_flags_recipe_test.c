/* Recipes for flags against the CPU: whatever has one, and whatever its operands are, the flags come out as the instruction left them. */
#include "soft_native.h"

#include "engine/soft/flags_recipe.h"

#define TIMES 20000

static uint32_t recipe_of(struct fake *f, const uint8_t *bytes, unsigned len, unsigned *gpr)
{
    uint8_t padded[INSN_MAX_LEN] = {0};

    memcpy(padded, bytes, len);
    assert_int_equal(insn_decode(&f->svm, &f->insn, padded, sizeof(padded), 64), 0);
    assert_int_equal(f->insn.len, len);
    return flags_recipe_of(&f->insn, gpr);
}

/* A value of which additions and comparisons carry, overflow or come to 0 now and then. */
static uint64_t value(void)
{
    static const uint64_t edges[] = {0, BIT(31), BIT(63), UINT32_MAX, BIT(31) - 1, BIT(63) - 1, 0x7fff, 0x10};
    uint64_t r = random64();

    return r % 4 == 0 ? r : edges[r >> 8 & 7] + (r >> 16 & 31) - 16;
}

static void as_the_cpu_makes_them(void **state)
{
    static const struct {
        uint8_t bytes[8];
        uint8_t len, constant; /* its bytes, at the end */
    } insns[] = {
        {{0x21, 0xd8}, 2, 0},                   /* and eax, ebx */
        {{0x48, 0x09, 0xd8}, 3, 0},             /* or rax, rbx */
        {{0x31, 0xd8}, 2, 0},                   /* xor eax, ebx */
        {{0x48, 0x85, 0xc0}, 3, 0},             /* test rax, rax */
        {{0x83, 0xe0, 0x0f}, 3, 1},             /* and eax, 15 */
        {{0x83, 0xc0, 0}, 3, 1},                /* add eax, imm8 */
        {{0x48, 0x83, 0xc3, 0}, 4, 1},          /* add rbx, imm8 */
        {{0x83, 0xeb, 0}, 3, 1},                /* sub ebx, imm8 */
        {{0x48, 0x83, 0xe8, 0}, 4, 1},          /* sub rax, imm8 */
        {{0x83, 0xf8, 0}, 3, 1},                /* cmp eax, imm8 */
        {{0x48, 0x83, 0xfb, 0}, 4, 1},          /* cmp rbx, imm8 */
        {{0x48, 0x81, 0xfb, 0, 0, 0, 0}, 7, 4}, /* cmp rbx, imm32 */
        {{0x81, 0xc3, 0, 0, 0, 0}, 6, 4},       /* add ebx, imm32 */
    };
    struct fake *f = *state;
    uint8_t *code = arena(0);

    for (unsigned n = 0; n < TIMES; n++) {
        unsigned k = n % ARRAY_SIZE(insns), gpr = REG_NONE;
        struct native native = {.gpr = {[GPR_RAX] = value(), [GPR_RBX] = value()}, .rflags = random64() & FLAG_ARITH};
        int32_t constant = (int32_t)random64() >> (n & 1 ? 8 : 28);
        memcpy(code, insns[k].bytes, insns[k].len);
        memcpy(code + insns[k].len - insns[k].constant, &constant, insns[k].constant);
        code[insns[k].len] = 0xc3;
        uint32_t recipe = recipe_of(f, code, insns[k].len, &gpr);
        assert_true((recipe & 0xff) >= FLAGS_RECIPE_FIRST);
        native_run(&native, code);
        assert_int_equal(flags_recipe_follow(recipe, native.gpr[gpr]), native.rflags & FLAG_ARITH);
    }
}

static void what_a_register_does_not_tell_has_none(void **state)
{
    static const struct {
        uint8_t bytes[8], len;
    } insns[] = {
        {{0x01, 0xd8}, 2},                      /* add eax, ebx */
        {{0x39, 0xd8}, 2},                      /* cmp eax, ebx */
        {{0x85, 0xd8}, 2},                      /* test eax, ebx */
        {{0xa9, 1, 0, 0, 0}, 5},                /* test eax, 1 */
        {{0x04, 0x01}, 2},                      /* add al, 1 */
        {{0x66, 0x83, 0xc0, 0x01}, 4},          /* add ax, 1 */
        {{0x83, 0x03, 0x01}, 3},                /* add dword [rbx], 1 */
        {{0xff, 0xc0}, 2},                      /* inc eax, which keeps CF */
        {{0xc1, 0xe0, 0x03}, 3},                /* shl eax, 3 */
        {{0x48, 0x81, 0xc3, 0, 0, 0x80, 0}, 7}, /* add rbx, 0x800000: of 25 bits */
        {{0x48, 0x81, 0xc3, 0xff, 0xff, 0x7f, 0xff}, 7},
    };
    unsigned gpr;

    for (unsigned k = 0; k < ARRAY_SIZE(insns); k++)
        assert_int_equal(recipe_of(*state, insns[k].bytes, insns[k].len, &gpr), 0);
}

#define RECIPE_TEST(name) cmocka_unit_test_setup_teardown(name, fake_setup, fake_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RECIPE_TEST(as_the_cpu_makes_them),
        RECIPE_TEST(what_a_register_does_not_tell_has_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
