/* Rewritten instructions: in 64-bit code they are what they were in code of their own width, and access as many bytes. */
#include "soft_fake.h"

static unsigned tried, shown;

static bool same_operand(const struct insn_operand *a, const struct insn_operand *b)
{
    return a->kind == b->kind && a->reg == b->reg && a->high == b->high && a->size == b->size &&
           (a->kind != OPERAND_IMM || a->size != b->size || a->imm == b->imm);
}

static bool same(const struct insn *a, const struct insn *b)
{
    bool same = a->mnemonic == b->mnemonic && a->operand_count == b->operand_count && a->has_mem == b->has_mem &&
                a->mem_size == b->mem_size && a->mem_written == b->mem_written && a->cls == b->cls;

    for (unsigned i = 0; same && i < a->operand_count; i++)
        same = same_operand(&a->op[i], &b->op[i]);
    return same;
}

/* Registers where they were, and memory at [R8], which takes a bit that only 64-bit code has. */
static void check_as(struct fake *f, const uint8_t *bytes, unsigned n, uint8_t tail, unsigned bits)
{
    struct insn_rewrite rewrite = {.mem_base = GPR_R8, .mem_index = REG_NONE, .mem_scale = 1};
    uint8_t padded[INSN_MAX_LEN], out[INSN_REWRITE_MAX];
    struct insn original, rewritten;

    for (unsigned i = 0; i < sizeof(padded); i++)
        padded[i] = i < n ? bytes[i] : (uint8_t)(tail + i);
    for (unsigned i = 0; i < GPR_COUNT; i++)
        rewrite.map[i] = (uint8_t)i;
    if (insn_decode(&f->svm, &original, padded, sizeof(padded), bits) != 0 || original.cls != INSN_INNOCUOUS || original.nop ||
        original.mnemonic == ZYDIS_MNEMONIC_LEA)
        return;
    int len = insn_rewrite(&original, &rewrite, out);
    if (len < 0)
        return; /* it is not executed in this form */
    tried++;
    if (insn_decode(&f->svm, &rewritten, out, (unsigned)len, 64) == 0 && rewritten.len == len && same(&original, &rewritten))
        return;
    if (shown++ < 10) {
        print_message("%u bits, %s, %u bytes of memory:", bits, ZydisMnemonicGetString((ZydisMnemonic)original.mnemonic),
                      original.mem_size);
        for (unsigned i = 0; i < original.len; i++)
            print_message(" %02x", original.bytes[i]);
        print_message(" became");
        for (int i = 0; i < len; i++)
            print_message(" %02x", out[i]);
        print_message("\n");
    }
}

static void check_modes(struct fake *f, const uint8_t *bytes, unsigned n)
{
    for (unsigned bits = 16; bits <= 64; bits *= 2) {
        check_as(f, bytes, n, 0x00, bits);
        check_as(f, bytes, n, 0x90, bits);
    }
}

/* Memory and register forms with every extension of the opcode. */
static void check_modrms(struct fake *f, uint8_t *bytes, unsigned n)
{
    for (unsigned reg = 0; reg < 8; reg++)
        for (unsigned rm = 0; rm < 8; rm += 5) {
            bytes[n] = (uint8_t)(reg << 3 | 7); /* [BX], [EDI], [RDI] */
            check_modes(f, bytes, n + 1);
            bytes[n] = (uint8_t)(0xc0 | reg << 3 | rm);
            check_modes(f, bytes, n + 1);
        }
}

static void begin(void)
{
    tried = shown = 0;
}

static void expect_tries(unsigned at_least)
{
    assert_int_equal(shown, 0);
    assert_in_range(tried, at_least, UINT32_MAX);
}

static void legacy_encodings(void **state)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xf2, 0xf3, 0xf0};
    static const uint8_t escapes[][2] = {{0}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}};

    begin();
    for (unsigned p = 0; p < ARRAY_SIZE(prefixes); p++)
        for (unsigned map = 0; map < ARRAY_SIZE(escapes); map++)
            for (unsigned opcode = 0; opcode < 256; opcode++) {
                uint8_t bytes[INSN_MAX_LEN];
                unsigned n = 0;
                if (prefixes[p])
                    bytes[n++] = prefixes[p];
                for (unsigned i = 0; i < 2 && escapes[map][i]; i++)
                    bytes[n++] = escapes[map][i];
                bytes[n++] = (uint8_t)opcode;
                check_modrms(*state, bytes, n);
            }
    expect_tries(20000);
}

static void vex_encodings(void **state)
{
    begin();
    for (unsigned n = 0; n < 3 * 4 * 2 * 2 * 2 * 256; n++) {
        uint8_t pp = n & 3, l = n >> 2 & 1, w = n >> 3 & 1, none = n >> 4 & 1;
        uint8_t bytes[INSN_MAX_LEN] = {0xc4, (uint8_t)(0xe1 + (n >> 13)), (uint8_t)(w << 7 | (none ? 0xf : 0x6) << 3 | l << 2 | pp),
                                       (uint8_t)(n >> 5)};
        check_modrms(*state, bytes, 4);
    }
    expect_tries(20000);
}

/* Only where the CPU has them. */
static void evex_encodings(void **state)
{
    begin();
    for (unsigned n = 0; n < 3 * 4 * 4 * 2 * 2 * 2 * 256; n++) {
        uint8_t pp = n & 3, l = n >> 2 & 3, w = n >> 4 & 1, none = n >> 5 & 1, broadcast = n >> 6 & 1;
        uint8_t bytes[INSN_MAX_LEN] = {0x62, (uint8_t)(0xf1 + (n >> 15)), (uint8_t)(w << 7 | (none ? 0xf : 0x6) << 3 | 4 | pp),
                                       (uint8_t)(l << 5 | broadcast << 4 | 8), (uint8_t)(n >> 7)};
        check_modrms(*state, bytes, 5);
    }
    expect_tries(0);
}

#define REWRITE_TEST(name) cmocka_unit_test_setup_teardown(name, fake_setup, fake_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {REWRITE_TEST(legacy_encodings), REWRITE_TEST(vex_encodings), REWRITE_TEST(evex_encodings)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
