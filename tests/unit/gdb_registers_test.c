/* Registers as gdb sees them: numbers, widths, the tag word, states that the CPU left out of the image, and what may be written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "gdb/registers.h"

enum { RAX = 0, RBX = 1, RSP = 7, R8 = 8, R15 = 15, RIP = 16, EFLAGS = 17, CS = 18, ST0 = 24, FCTRL = 32, FSTAT = 33, FTAG = 34 };
enum { XMM0 = 40, MXCSR = 56, FS_BASE = 57, GS_BASE = 58, K_GS_BASE = 59, CR0 = 60, CR2, CR3, CR4, CR8, EFER, YMM0H };

static struct cpu_state cpu;

static int setup(void **state)
{
    (void)state;
    memset(&cpu, 0, sizeof(cpu));
    cpu.rflags = FLAG_ONE | FLAG_IF;
    cpu.xcr0 = 7;
    return 0;
}

static uint64_t get(unsigned number, unsigned size)
{
    uint8_t bytes[GDB_REGISTER_BYTES];
    uint64_t value;

    assert_int_equal(gdb_register_read(&cpu, number, bytes), size);
    memcpy(&value, bytes, sizeof(value));
    return value;
}

static int put(unsigned number, uint64_t value, unsigned groups)
{
    uint8_t bytes[GDB_REGISTER_BYTES] = {0};
    unsigned changed;
    int error;

    memcpy(bytes, &value, sizeof(value));
    error = gdb_register_write(&cpu, number, bytes, &changed);
    if (!error)
        assert_int_equal(changed, groups);
    return error;
}

static void general_registers_come_in_gdbs_order(void **state)
{
    (void)state;
    for (unsigned i = 0; i < GPR_COUNT; i++)
        cpu.gpr[i] = 0x1000 + i;
    cpu.rip = 0xffffffff81000000;
    cpu.seg[SEG_CS].sel = 0x10;
    assert_int_equal(get(RAX, 8), 0x1000 + GPR_RAX);
    assert_int_equal(get(RBX, 8), 0x1000 + GPR_RBX);
    assert_int_equal(get(RSP, 8), 0x1000 + GPR_RSP);
    assert_int_equal(get(R8, 8), 0x1000 + GPR_R8);
    assert_int_equal(get(R15, 8), 0x1000 + GPR_R15);
    assert_int_equal(get(RIP, 8), 0xffffffff81000000);
    assert_int_equal(get(EFLAGS, 4), FLAG_ONE | FLAG_IF);
    assert_int_equal(get(CS, 4), 0x10);
    assert_int_equal(put(R15, 77, CPU_GPRS), 0);
    assert_int_equal(cpu.gpr[GPR_R15], 77);
    assert_int_equal(put(RIP, 0x1234, CPU_GPRS), 0);
    assert_int_equal(cpu.rip, 0x1234);
}

static void a_mode_is_not_written_by_flags(void **state)
{
    (void)state;
    assert_int_equal(put(EFLAGS, UINT32_MAX, CPU_GPRS), 0);
    assert_false(cpu.rflags & (FLAG_VM | FLAG_VIF | FLAG_VIP));
    assert_true(cpu.rflags & FLAG_TF);
    assert_int_equal(put(EFLAGS, 0, CPU_GPRS), 0);
    assert_int_equal(cpu.rflags, FLAG_ONE);
}

static void what_makes_the_mode_is_read_only_but_may_be_written_back(void **state)
{
    static const unsigned fixed[] = {CS, CS + 1, CR0, CR4, CR8, EFER};

    (void)state;
    cpu.cr0 = CR0_PE | CR0_PG;
    cpu.cr8 = 3;
    for (unsigned i = 0; i < ARRAY_SIZE(fixed); i++) {
        uint8_t bytes[GDB_REGISTER_BYTES];
        unsigned groups;

        gdb_register_read(&cpu, fixed[i], bytes);
        assert_int_equal(gdb_register_write(&cpu, fixed[i], bytes, &groups), 0);
        assert_int_equal(groups, 0);
        bytes[0] ^= 1;
        assert_int_equal(gdb_register_write(&cpu, fixed[i], bytes, &groups), -EPERM);
    }
    assert_int_equal(put(CR2, 0xdead, CPU_SREGS), 0);
    assert_int_equal(put(CR3, 0x5000, CPU_SREGS), 0);
    assert_int_equal(put(CR3, UINT64_MAX, 0), -EINVAL);
    assert_int_equal(cpu.cr3, 0x5000);
}

static void bases_are_canonical(void **state)
{
    (void)state;
    assert_int_equal(put(FS_BASE, 0x7fff00001000, CPU_SREGS), 0);
    assert_int_equal(put(GS_BASE, 0xffff888000000000, CPU_SREGS), 0);
    assert_int_equal(put(K_GS_BASE, 0x1000, CPU_MSRS), 0);
    assert_int_equal(put(GS_BASE, 0x8000000000000000, 0), -EINVAL);
    assert_int_equal(put(K_GS_BASE, 0x800000000000, 0), -EINVAL);
    assert_int_equal(cpu.seg[SEG_FS].base, 0x7fff00001000);
    assert_int_equal(cpu.seg[SEG_GS].base, 0xffff888000000000);
    assert_int_equal(cpu.kernel_gs_base, 0x1000);
}

/* A component that XSAVE has left out holds whatever was there. */
static void state_that_is_not_in_the_image_is_the_initial_one(void **state)
{
    (void)state;
    memset(cpu.xsave, 0xee, 512);
    memset(cpu.xsave + 576, 0xee, 256);
    assert_int_equal(get(ST0, 10), 0);
    assert_int_equal(get(FCTRL, 4), 0x37f);
    assert_int_equal(get(FTAG, 4), 0xffff);
    assert_int_equal(get(FSTAT, 4), 0);
    assert_int_equal(get(XMM0 + 3, 16), 0);
    assert_int_equal(put(XMM0 + 3, 5, CPU_FPU), 0);
    assert_int_equal(get(XMM0 + 3, 16), 5);
    assert_int_equal(get(XMM0 + 4, 16), 0);
    assert_int_equal(put(ST0 + 1, 9, CPU_FPU), 0);
    assert_int_equal(get(FCTRL, 4), 0x37f);
    assert_int_equal(get(ST0, 10), 0);
    assert_int_equal(cpu.xsave[512], 3);
    if (gdb_register_count() <= YMM0H)
        return;
    assert_int_equal(get(YMM0H + 2, 16), 0);
    assert_int_equal(put(YMM0H + 2, 8, CPU_FPU), 0);
    assert_int_equal(get(YMM0H + 2, 16), 8);
    assert_int_equal(cpu.xsave[512], 7);
    cpu.xcr0 = 3;
    assert_int_equal(put(YMM0H + 2, 9, 0), -EPERM);
}

static void tags_are_told_from_what_the_registers_hold(void **state)
{
    static const uint8_t one[10] = {0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f}, infinity[10] = {0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x7f};

    (void)state;
    cpu.xsave[512] = 1;
    cpu.xsave[3] = 6 << 3;                      /* TOP is 6: ST(0) is R6, ST(1) R7, ST(2) R0 */
    cpu.xsave[4] = 1U << 6 | 1U << 7 | 1U << 0; /* in use */
    memcpy(cpu.xsave + 32, one, 10);
    memcpy(cpu.xsave + 48, infinity, 10);
    assert_int_equal(get(FTAG, 4), 0x8ffd); /* R7 special, R6 valid, five empty, R0 zero */
    assert_int_equal(put(FTAG, 0xfffc, CPU_FPU), 0);
    assert_int_equal(cpu.xsave[4], 1);
}

static void mxcsr_has_no_reserved_bits(void **state)
{
    (void)state;
    assert_int_equal(put(MXCSR, 0x1fa0, CPU_FPU), 0);
    assert_int_equal(get(MXCSR, 4), 0x1fa0);
    assert_int_equal(put(MXCSR, 0x10000, 0), -EINVAL);
}

static void there_are_no_more_registers_than_described(void **state)
{
    char *xml = gdb_target_description();
    unsigned count = 0;
    uint8_t bytes[GDB_REGISTER_BYTES];
    unsigned groups;

    (void)state;
    assert_non_null(xml);
    for (const char *at = xml; (at = strstr(at, "<reg ")); at++) {
        unsigned bits = (unsigned)strtoul(strstr(at, "bitsize=\"") + 9, NULL, 10);

        assert_int_equal(gdb_register_read(&cpu, count++, bytes) * 8, bits);
    }
    assert_int_equal(count, gdb_register_count());
    assert_int_equal(gdb_register_read(&cpu, count, bytes), 0);
    assert_int_equal(gdb_register_write(&cpu, count, bytes, &groups), -ENOENT);
    assert_non_null(strstr(xml, "name=\"r15\""));
    assert_non_null(strstr(xml, "name=\"xmm15\""));
    free(xml);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(general_registers_come_in_gdbs_order, setup),
        cmocka_unit_test_setup(a_mode_is_not_written_by_flags, setup),
        cmocka_unit_test_setup(what_makes_the_mode_is_read_only_but_may_be_written_back, setup),
        cmocka_unit_test_setup(bases_are_canonical, setup),
        cmocka_unit_test_setup(state_that_is_not_in_the_image_is_the_initial_one, setup),
        cmocka_unit_test_setup(tags_are_told_from_what_the_registers_hold, setup),
        cmocka_unit_test_setup(mxcsr_has_no_reserved_bits, setup),
        cmocka_unit_test_setup(there_are_no_more_registers_than_described, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
