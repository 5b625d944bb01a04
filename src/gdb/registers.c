/* The registers that gdb knows of a 64-bit x86 CPU: their numbers and widths, and what they are in struct cpu_state. */
#include "gdb/registers.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where the XSAVE image has them (SDM vol. 1 table 10-2, 13.4). */
enum {
    FX_FCW = 0,
    FX_FSW = 2,
    FX_FTW = 4,
    FX_FOP = 6,
    FX_FIP = 8,
    FX_FDP = 16,
    FX_MXCSR = 24,
    FX_ST = 32,
    FX_XMM = 160,
    XSAVE_BV = 512,
    XSAVE_YMM = 576,
};
#define XSTATE_X87 BIT(0)
#define XSTATE_SSE BIT(1)
#define XSTATE_AVX BIT(2)

#define FCW_INIT 0x37f
#define MXCSR_VALID 0xffffU

/* What a debugger may change of RFLAGS: modes and pending virtual interrupts stay. */
#define RFLAGS_WRITABLE (FLAG_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_RF | FLAG_AC | FLAG_ID)

enum kind {
    KIND_GPR,
    KIND_RIP,
    KIND_RFLAGS,
    KIND_SELECTOR,
    KIND_ST,
    KIND_X87, /* the eight of 32 bits; index: enum x87 */
    KIND_XMM,
    KIND_MXCSR,
    KIND_YMM_HIGH,
    KIND_BASE, /* index: the segment */
    KIND_KERNEL_GS_BASE,
    KIND_CR, /* index: its number */
    KIND_EFER,
};

enum x87 { X87_FCTRL, X87_FSTAT, X87_FTAG, X87_FISEG, X87_FIOFF, X87_FOSEG, X87_FOOFF, X87_FOP };

/* In gdb's order. Rows whose name has %u stand for count of them. */
static const struct row {
    const char *feature; /* the first row of one; NULL: the same as before */
    const char *name, *type;
    uint8_t kind, index, bytes, count;
} rows[] = {
    {"org.gnu.gdb.i386.core", "rax", "int64", KIND_GPR, GPR_RAX, 8, 1},
    {NULL, "rbx", "int64", KIND_GPR, GPR_RBX, 8, 1},
    {NULL, "rcx", "int64", KIND_GPR, GPR_RCX, 8, 1},
    {NULL, "rdx", "int64", KIND_GPR, GPR_RDX, 8, 1},
    {NULL, "rsi", "int64", KIND_GPR, GPR_RSI, 8, 1},
    {NULL, "rdi", "int64", KIND_GPR, GPR_RDI, 8, 1},
    {NULL, "rbp", "data_ptr", KIND_GPR, GPR_RBP, 8, 1},
    {NULL, "rsp", "data_ptr", KIND_GPR, GPR_RSP, 8, 1},
    {NULL, "r%u", "int64", KIND_GPR, GPR_R8, 8, 8},
    {NULL, "rip", "code_ptr", KIND_RIP, 0, 8, 1},
    {NULL, "eflags", "rflags", KIND_RFLAGS, 0, 4, 1},
    {NULL, "cs", "int32", KIND_SELECTOR, SEG_CS, 4, 1},
    {NULL, "ss", "int32", KIND_SELECTOR, SEG_SS, 4, 1},
    {NULL, "ds", "int32", KIND_SELECTOR, SEG_DS, 4, 1},
    {NULL, "es", "int32", KIND_SELECTOR, SEG_ES, 4, 1},
    {NULL, "fs", "int32", KIND_SELECTOR, SEG_FS, 4, 1},
    {NULL, "gs", "int32", KIND_SELECTOR, SEG_GS, 4, 1},
    {NULL, "st%u", "i387_ext", KIND_ST, 0, 10, 8},
    {NULL, "fctrl", "int", KIND_X87, X87_FCTRL, 4, 1},
    {NULL, "fstat", "int", KIND_X87, X87_FSTAT, 4, 1},
    {NULL, "ftag", "int", KIND_X87, X87_FTAG, 4, 1},
    {NULL, "fiseg", "int", KIND_X87, X87_FISEG, 4, 1},
    {NULL, "fioff", "int", KIND_X87, X87_FIOFF, 4, 1},
    {NULL, "foseg", "int", KIND_X87, X87_FOSEG, 4, 1},
    {NULL, "fooff", "int", KIND_X87, X87_FOOFF, 4, 1},
    {NULL, "fop", "int", KIND_X87, X87_FOP, 4, 1},
    {"org.gnu.gdb.i386.sse", "xmm%u", "xmm", KIND_XMM, 0, 16, 16},
    {NULL, "mxcsr", "mxcsr", KIND_MXCSR, 0, 4, 1},
    {"org.gnu.gdb.i386.segments", "fs_base", "int64", KIND_BASE, SEG_FS, 8, 1},
    {NULL, "gs_base", "int64", KIND_BASE, SEG_GS, 8, 1},
    {"org.umbra.system", "k_gs_base", "int64", KIND_KERNEL_GS_BASE, 0, 8, 1},
    {NULL, "cr0", "cr0", KIND_CR, 0, 8, 1},
    {NULL, "cr2", "data_ptr", KIND_CR, 2, 8, 1},
    {NULL, "cr3", "int64", KIND_CR, 3, 8, 1},
    {NULL, "cr4", "cr4", KIND_CR, 4, 8, 1},
    {NULL, "cr8", "int64", KIND_CR, 8, 8, 1},
    {NULL, "efer", "efer", KIND_EFER, 0, 8, 1},
    {"org.gnu.gdb.i386.avx", "ymm%uh", "uint128", KIND_YMM_HIGH, 0, 16, 16}, /* last: not every host has them */
};

static unsigned row_count(void)
{
    return ARRAY_SIZE(rows) - (__builtin_cpu_supports("avx") ? 0 : 1);
}

/* The row of a register's number, and which one of the row it is. NULL: none. */
static const struct row *find(unsigned number, unsigned *index)
{
    for (unsigned i = 0; i < row_count(); i++) {
        if (number < rows[i].count) {
            *index = rows[i].index + number;
            return &rows[i];
        }
        number -= rows[i].count;
    }
    return NULL;
}

unsigned gdb_register_count(void)
{
    unsigned count = 0;

    for (unsigned i = 0; i < row_count(); i++)
        count += rows[i].count;
    return count;
}

/* --- the XSAVE image --- */

static uint64_t get(const uint8_t *p, unsigned bytes)
{
    uint64_t value = 0;

    memcpy(&value, p, bytes);
    return value;
}

static bool in_use(const struct cpu_state *s, uint64_t component)
{
    return get(s->xsave + XSAVE_BV, 8) & component;
}

/* A component that was not in use holds anything: it begins as the CPU's initial state (SDM vol. 1 13.6). */
static void take_into_use(struct cpu_state *s, uint64_t component)
{
    uint64_t used = get(s->xsave + XSAVE_BV, 8);

    if (used & component)
        return;
    if (component == XSTATE_X87) {
        memset(s->xsave, 0, FX_MXCSR);
        s->xsave[FX_FCW] = FCW_INIT & 0xff;
        s->xsave[FX_FCW + 1] = FCW_INIT >> 8;
        memset(s->xsave + FX_ST, 0, FX_XMM - FX_ST);
    } else if (component == XSTATE_SSE) {
        memset(s->xsave + FX_XMM, 0, 256);
    } else {
        memset(s->xsave + XSAVE_YMM, 0, 256);
    }
    used |= component;
    memcpy(s->xsave + XSAVE_BV, &used, 8);
}

/* The tag word as FNSAVE has it, of the abridged one and what is in the registers (SDM vol. 1 8.1.7). */
static uint16_t full_tags(const uint8_t *xsave)
{
    unsigned top = xsave[FX_FSW + 1] >> 3 & 7;
    uint16_t tags = 0;

    for (unsigned physical = 0; physical < 8; physical++) {
        const uint8_t *st = xsave + FX_ST + 16 * ((physical - top) & 7);
        uint64_t mantissa = get(st, 8);
        unsigned exponent = (unsigned)get(st + 8, 2) & 0x7fff, tag;

        if (!(xsave[FX_FTW] >> physical & 1))
            tag = 3; /* empty */
        else if (exponent == 0 && mantissa == 0)
            tag = 1; /* zero */
        else
            tag = exponent == 0 || exponent == 0x7fff || !(mantissa >> 63) ? 2 : 0; /* special or valid */
        tags |= (uint16_t)(tag << (2 * physical));
    }
    return tags;
}

static uint8_t abridged_tags(uint16_t tags)
{
    uint8_t abridged = 0;

    for (unsigned physical = 0; physical < 8; physical++)
        if ((tags >> (2 * physical) & 3) != 3)
            abridged |= (uint8_t)(1U << physical);
    return abridged;
}

/* Where the eight are; FTAG apart. */
static const struct {
    uint8_t off, bytes;
} x87_place[] = {
    [X87_FCTRL] = {FX_FCW, 2}, [X87_FSTAT] = {FX_FSW, 2},     [X87_FTAG] = {FX_FTW, 1},  [X87_FISEG] = {FX_FIP + 4, 2},
    [X87_FIOFF] = {FX_FIP, 4}, [X87_FOSEG] = {FX_FDP + 4, 2}, [X87_FOOFF] = {FX_FDP, 4}, [X87_FOP] = {FX_FOP, 2},
};

static uint64_t x87_read(const struct cpu_state *s, unsigned which)
{
    if (!in_use(s, XSTATE_X87))
        return which == X87_FCTRL ? FCW_INIT : which == X87_FTAG ? 0xffff : 0;
    return which == X87_FTAG ? full_tags(s->xsave) : get(s->xsave + x87_place[which].off, x87_place[which].bytes);
}

static int x87_write(struct cpu_state *s, unsigned which, uint64_t value)
{
    if (which == X87_FTAG)
        value = abridged_tags((uint16_t)value);
    take_into_use(s, XSTATE_X87);
    memcpy(s->xsave + x87_place[which].off, &value, x87_place[which].bytes);
    return 0;
}

/* --- reading --- */

static uint64_t cr_read(const struct cpu_state *s, unsigned number)
{
    switch (number) {
    case 0: return s->cr0;
    case 2: return s->cr2;
    case 3: return s->cr3;
    case 4: return s->cr4;
    default: return s->cr8;
    }
}

/* Those of up to 8 bytes. */
static uint64_t value_of(const struct cpu_state *s, enum kind kind, unsigned index)
{
    switch (kind) {
    case KIND_GPR: return s->gpr[index];
    case KIND_RIP: return s->rip;
    case KIND_RFLAGS: return s->rflags;
    case KIND_SELECTOR: return s->seg[index].sel;
    case KIND_X87: return x87_read(s, index);
    case KIND_MXCSR: return get(s->xsave + FX_MXCSR, 4);
    case KIND_BASE: return s->seg[index].base;
    case KIND_KERNEL_GS_BASE: return s->kernel_gs_base;
    case KIND_CR: return cr_read(s, index);
    case KIND_EFER: return s->efer;
    case KIND_ST:
    case KIND_XMM:
    case KIND_YMM_HIGH: break;
    }
    return 0;
}

/* Those that are wider: where they are in the XSAVE image, and of which component they are. False for the others. */
static bool is_wide(enum kind kind, unsigned index, unsigned *off, uint64_t *component)
{
    switch (kind) {
    case KIND_ST:
        *off = FX_ST + 16 * index;
        *component = XSTATE_X87;
        return true;
    case KIND_XMM:
        *off = FX_XMM + 16 * index;
        *component = XSTATE_SSE;
        return true;
    case KIND_YMM_HIGH:
        *off = XSAVE_YMM + 16 * index;
        *component = XSTATE_AVX;
        return true;
    default: return false;
    }
}

unsigned gdb_register_read(const struct cpu_state *s, unsigned number, uint8_t bytes[GDB_REGISTER_BYTES])
{
    unsigned index, off;
    const struct row *row = find(number, &index);
    uint64_t component, value;

    if (!row)
        return 0;
    memset(bytes, 0, GDB_REGISTER_BYTES);
    if (is_wide((enum kind)row->kind, index, &off, &component)) {
        if (in_use(s, component))
            memcpy(bytes, s->xsave + off, row->bytes);
        return row->bytes;
    }
    value = value_of(s, (enum kind)row->kind, index);
    memcpy(bytes, &value, row->bytes);
    return row->bytes;
}

/* --- writing --- */

static int write_base(uint64_t *base, uint64_t value)
{
    if (!gva_is_canonical(value))
        return -EINVAL;
    *base = value;
    return 0;
}

static int write_mxcsr(struct cpu_state *s, uint64_t value)
{
    if (value & ~(uint64_t)MXCSR_VALID)
        return -EINVAL;
    take_into_use(s, XSTATE_SSE);
    memcpy(s->xsave + FX_MXCSR, &value, 4);
    return 0;
}

static int write_cr(struct cpu_state *s, unsigned number, uint64_t value)
{
    if (number == 2)
        s->cr2 = value;
    else if (number == 3 && !(value >> 52))
        s->cr3 = value;
    else
        return number == 3 ? -EINVAL : -EPERM;
    return 0;
}

static int write_value(struct cpu_state *s, enum kind kind, unsigned index, uint64_t value, unsigned *groups)
{
    switch (kind) {
    case KIND_GPR:
        s->gpr[index] = value;
        *groups = CPU_GPRS;
        return 0;
    case KIND_RIP:
        s->rip = value;
        *groups = CPU_GPRS;
        return 0;
    case KIND_RFLAGS:
        s->rflags = (s->rflags & ~(uint64_t)RFLAGS_WRITABLE) | (value & RFLAGS_WRITABLE);
        *groups = CPU_GPRS;
        return 0;
    case KIND_X87: *groups = CPU_FPU; return x87_write(s, index, value);
    case KIND_MXCSR: *groups = CPU_FPU; return write_mxcsr(s, value);
    case KIND_BASE: *groups = CPU_SREGS; return write_base(&s->seg[index].base, value);
    case KIND_KERNEL_GS_BASE: *groups = CPU_MSRS; return write_base(&s->kernel_gs_base, value);
    case KIND_CR: *groups = CPU_SREGS; return write_cr(s, index, value);
    default: return -EPERM;
    }
}

int gdb_register_write(struct cpu_state *s, unsigned number, const uint8_t bytes[GDB_REGISTER_BYTES], unsigned *groups)
{
    unsigned index, off;
    const struct row *row = find(number, &index);
    uint8_t now[GDB_REGISTER_BYTES];
    uint64_t component;

    *groups = 0;
    if (!row)
        return -ENOENT;
    gdb_register_read(s, number, now);
    if (memcmp(bytes, now, row->bytes) == 0)
        return 0;
    if (!is_wide((enum kind)row->kind, index, &off, &component))
        return write_value(s, (enum kind)row->kind, index, get(bytes, row->bytes), groups);
    if (component == XSTATE_AVX && !(s->xcr0 & XSTATE_AVX))
        return -EPERM; /* the guest has not switched them on */
    take_into_use(s, component);
    memcpy(s->xsave + off, bytes, row->bytes);
    *groups = CPU_FPU;
    return 0;
}

/* --- the description --- */

struct flag {
    const char *name;
    uint8_t bit, last; /* last: of a field, or 0 */
};

static const struct flag rflags_bits[] = {
    {"CF", 0, 0},  {"PF", 2, 0},  {"AF", 4, 0},   {"ZF", 6, 0},   {"SF", 7, 0},     {"TF", 8, 0},
    {"IF", 9, 0},  {"DF", 10, 0}, {"OF", 11, 0},  {"NT", 14, 0},  {"IOPL", 12, 13}, {"RF", 16, 0},
    {"VM", 17, 0}, {"AC", 18, 0}, {"VIF", 19, 0}, {"VIP", 20, 0}, {"ID", 21, 0},
};
static const struct flag mxcsr_bits[] = {
    {"IE", 0, 0}, {"DE", 1, 0}, {"ZE", 2, 0}, {"OE", 3, 0},  {"UE", 4, 0},  {"PE", 5, 0},  {"DAZ", 6, 0},
    {"IM", 7, 0}, {"DM", 8, 0}, {"ZM", 9, 0}, {"OM", 10, 0}, {"UM", 11, 0}, {"PM", 12, 0}, {"FZ", 15, 0},
};
static const struct flag cr0_bits[] = {
    {"PE", 0, 0},  {"MP", 1, 0},  {"EM", 2, 0},  {"TS", 3, 0},  {"ET", 4, 0},  {"NE", 5, 0},
    {"WP", 16, 0}, {"AM", 18, 0}, {"NW", 29, 0}, {"CD", 30, 0}, {"PG", 31, 0},
};
static const struct flag cr4_bits[] = {
    {"VME", 0, 0},   {"PVI", 1, 0},       {"TSD", 2, 0},    {"DE", 3, 0},          {"PSE", 4, 0},   {"PAE", 5, 0},   {"MCE", 6, 0},
    {"PGE", 7, 0},   {"PCE", 8, 0},       {"OSFXSR", 9, 0}, {"OSXMMEXCPT", 10, 0}, {"UMIP", 11, 0}, {"LA57", 12, 0}, {"VMXE", 13, 0},
    {"SMXE", 14, 0}, {"FSGSBASE", 16, 0}, {"PCIDE", 17, 0}, {"OSXSAVE", 18, 0},    {"SMEP", 20, 0}, {"SMAP", 21, 0}, {"PKE", 22, 0},
};
static const struct flag efer_bits[] = {{"SCE", 0, 0}, {"LME", 8, 0}, {"LMA", 10, 0}, {"NXE", 11, 0}, {"SVME", 12, 0}, {"FFXSR", 14, 0}};

static void write_flags(FILE *f, const char *id, unsigned size, const struct flag *flags, size_t count)
{
    fprintf(f, "<flags id=\"%s\" size=\"%u\">", id, size);
    for (size_t i = 0; i < count; i++) {
        unsigned first = flags[i].bit, last = MAX(flags[i].bit, flags[i].last);

        fprintf(f, "<field name=\"%s\" start=\"%u\" end=\"%u\"/>", flags[i].name, first, last);
    }
    fprintf(f, "</flags>\n");
}

/* The views of a vector register of 128 bits. */
static void write_xmm_type(FILE *f)
{
    static const struct {
        const char *field, *element;
        unsigned count;
    } views[] = {
        {"v4_float", "ieee_single", 4}, {"v2_double", "ieee_double", 2}, {"v16_int8", "int8", 16},
        {"v8_int16", "int16", 8},       {"v4_int32", "int32", 4},        {"v2_int64", "int64", 2},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(views); i++)
        fprintf(f, "<vector id=\"%s\" type=\"%s\" count=\"%u\"/>", views[i].field, views[i].element, views[i].count);
    fprintf(f, "<union id=\"xmm\">");
    for (unsigned i = 0; i < ARRAY_SIZE(views); i++)
        fprintf(f, "<field name=\"%s\" type=\"%s\"/>", views[i].field, views[i].field);
    fprintf(f, "<field name=\"uint128\" type=\"uint128\"/></union>\n");
}

/* The types that a feature's registers have of their own. */
static void write_types(FILE *f, const char *feature)
{
    if (strcmp(feature, "org.gnu.gdb.i386.core") == 0) {
        write_flags(f, "rflags", 4, rflags_bits, ARRAY_SIZE(rflags_bits));
    } else if (strcmp(feature, "org.gnu.gdb.i386.sse") == 0) {
        write_flags(f, "mxcsr", 4, mxcsr_bits, ARRAY_SIZE(mxcsr_bits));
        write_xmm_type(f);
    } else if (strcmp(feature, "org.umbra.system") == 0) {
        write_flags(f, "cr0", 8, cr0_bits, ARRAY_SIZE(cr0_bits));
        write_flags(f, "cr4", 8, cr4_bits, ARRAY_SIZE(cr4_bits));
        write_flags(f, "efer", 8, efer_bits, ARRAY_SIZE(efer_bits));
    }
}

static void write_row(FILE *f, const struct row *row)
{
    const char *place = strchr(row->name, '%'); /* of the number in the name of many */
    int before = place ? (int)(place - row->name) : (int)strlen(row->name);

    for (unsigned i = 0; i < row->count; i++) {
        fprintf(f, "<reg name=\"%.*s", before, row->name);
        if (place)
            fprintf(f, "%u%s", row->index + i, place + 2);
        fprintf(f, "\" bitsize=\"%u\" type=\"%s\"/>\n", row->bytes * 8U, row->type);
    }
}

char *gdb_target_description(void)
{
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);

    if (!f)
        return NULL;
    fprintf(f, "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target version=\"1.0\">\n"
               "<architecture>i386:x86-64</architecture>\n");
    for (unsigned i = 0; i < row_count(); i++) {
        if (rows[i].feature) {
            fprintf(f, "%s<feature name=\"%s\">\n", i ? "</feature>\n" : "", rows[i].feature);
            write_types(f, rows[i].feature);
        }
        write_row(f, &rows[i]);
    }
    fprintf(f, "</feature>\n</target>\n");
    if (fclose(f) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
