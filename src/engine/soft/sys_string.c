/* MOVS, STOS, LODS, CMPS, SCAS: by runs within a page on host pointers, by single elements where that cannot be. */
#include "engine/soft/debug.h"
#include "engine/soft/debugger.h"
#include "engine/soft/lockstep.h"
#include "engine/soft/mmu.h"
#include "engine/soft/sys.h"
#include "engine/soft/sys_prefix.h"

/*
 * Theory of operation. A call carries out at most STRING_CHUNK bytes and then leaves with next_rip = rip, so that
 * interrupts stay prompt; rCX, rSI and rDI always tell how far it came, as they do between the iterations of the real
 * instruction, and a fault resumes at exactly its element. A run is the elements from here on that lie in one page on
 * every side and within the segments' limits; it moves by the host's own string instruction, whose result on
 * overlapping operands is the architecture's. Elements that cross a page or meet a device go one by one.
 */

#define STRING_CHUNK 65536

/* Where one side of the instruction stands. */
struct side {
    uint8_t reg; /* GPR_RSI or GPR_RDI */
    uint8_t seg;
    bool write;
    uint64_t off; /* of the current element */
    gva_t gva;
    uint8_t *host; /* NULL: by single elements */
};

struct string_op {
    struct soft_cpu *cpu;
    unsigned size; /* of an element */
    unsigned addrsize;
    uint64_t mask;                 /* of an address */
    bool down;                     /* DF */
    bool counted;                  /* a repeat prefix */
    bool until_equal, while_equal; /* REPNE and REPE of CMPS and SCAS */
    uint64_t left;                 /* elements this call may still do */
    struct side src, dst;
};

static uint64_t size_mask(unsigned bytes)
{
    return bytes >= 8 ? UINT64_MAX : BIT(bytes * 8) - 1;
}

/* The opcodes' low bit tells a byte from a word, doubleword or quadword. */
static void string_begin(struct string_op *op, struct soft_cpu *cpu, const struct insn *insn, bool compares)
{
    struct sys_prefix prefix = sys_prefix_scan(insn);

    op->cpu = cpu;
    op->size = insn->opcode & 1 ? insn->opsize : 1;
    op->addrsize = insn->addrsize;
    op->mask = size_mask(insn->addrsize);
    op->down = cpu->rflags & FLAG_DF;
    op->counted = prefix.rep != 0;
    op->until_equal = compares && prefix.rep == 0xf2;
    op->while_equal = compares && prefix.rep == 0xf3;
    op->src.reg = GPR_RSI;
    op->src.seg = prefix.seg;
    op->src.write = false;
    op->dst.reg = GPR_RDI;
    op->dst.seg = SEG_ES;
    op->dst.write = false;
    op->left = op->counted ? MIN(cpu->gpr[GPR_RCX] & op->mask, STRING_CHUNK / op->size) : 1;
    if (op->counted && ((cpu->rflags & FLAG_TF) || debugger_one_iteration(cpu))) /* a trap after every iteration (SDM vol. 3 17.3.1.4) */
        op->left = MIN(op->left, 1);
}

static void side_advance(const struct string_op *op, const struct side *side, uint64_t n)
{
    uint64_t bytes = n * op->size, reg = op->cpu->gpr[side->reg];

    soft_gpr_write(op->cpu, side->reg, false, op->addrsize, op->down ? reg - bytes : reg + bytes);
}

static void count_down(const struct string_op *op, uint64_t n)
{
    if (op->counted)
        soft_gpr_write(op->cpu, GPR_RCX, false, op->addrsize, op->cpu->gpr[GPR_RCX] - n);
}

/* After the last run: another call is needed when elements are left. */
static int string_end(const struct string_op *op)
{
    if (op->counted && (op->cpu->gpr[GPR_RCX] & op->mask))
        op->cpu->next_rip = op->cpu->rip;
    return SOFT_OK;
}

static bool interrupted(const struct string_op *op)
{
    return atomic_load_explicit(&op->cpu->attention, memory_order_relaxed) != 0 || op->cpu->debug_hit || debugger_one_iteration(op->cpu);
}

/* How many of at most n elements, from the current one in the direction of travel, keep within a page and the segment. */
static uint64_t side_run(const struct string_op *op, const struct side *side, uint64_t n)
{
    uint64_t in_page = side->gva & PAGE_MASK, to_wrap, lowest;
    gva_t ignored;

    if (op->down) {
        n = MIN(n, in_page / op->size + 1);
        n = MIN(n, side->off / op->size + 1);
    } else {
        to_wrap = (op->mask - side->off) / op->size; /* elements that end below the top; one less than fit is enough */
        n = MIN(n, (PAGE_SIZE - in_page) / op->size);
        n = MIN(n, MAX(to_wrap, 1u));
    }
    if (n <= 1)
        return 1;
    lowest = op->down ? side->off - (n - 1) * op->size : side->off;
    if (soft_linear(op->cpu, side->seg, lowest, (unsigned)(n * op->size), side->write, &ignored) != SOFT_OK)
        return 1; /* a limit lies ahead */
    return n;
}

/* Finds the side's element: its address, a host pointer if there is one, and the length of the run (at most *n). */
static int side_open(const struct string_op *op, struct side *side, uint64_t *n)
{
    struct soft_cpu *cpu = op->cpu;
    void *host;
    int result;

    side->off = cpu->gpr[side->reg] & op->mask;
    side->host = NULL;
    result = soft_linear(cpu, side->seg, side->off, op->size, side->write, &side->gva);
    if (result == SOFT_OK)
        result = soft_check_alignment(cpu, side->gva, op->size);
    if (result != SOFT_OK)
        return result;
    if ((side->gva & PAGE_MASK) + op->size > PAGE_SIZE) {
        struct mmu_target ignored;
        *n = 1;
        if (side->write)
            return SOFT_OK;
        result = mmu_translate(cpu, side->gva, MMU_READ, &ignored); /* the source's faults come before the destination's */
        return result != SOFT_OK ? result : mmu_translate(cpu, side->gva + op->size - 1, MMU_READ, &ignored);
    }
    if (*n > 1)
        *n = (cpu->dr7 & DR7_ENABLES) || (cpu->debugger && debugger_watches(cpu, side->gva)) ? 1 : side_run(op, side, *n);
    result = mmu_host(cpu, side->gva, op->size, side->write ? MMU_WRITE : MMU_READ, &host);
    if (result != SOFT_OK)
        return result;
    side->host = host;
    if (!host)
        *n = 1;
    return SOFT_OK;
}

/* Elements lie at any address. */
typedef uint16_t guest16 __attribute__((aligned(1), may_alias));
typedef uint32_t guest32 __attribute__((aligned(1), may_alias));
typedef uint64_t guest64 __attribute__((aligned(1), may_alias));

static int side_load(const struct string_op *op, const struct side *side, uint64_t *value)
{
    *value = 0;
    if (!side->host)
        return mmu_read(op->cpu, side->gva, value, op->size, MMU_READ);
    switch (op->size) {
    case 1: *value = *side->host; break;
    case 2: *value = *(const volatile guest16 *)(const void *)side->host; break;
    case 4: *value = *(const volatile guest32 *)(const void *)side->host; break;
    default: *value = *(const volatile guest64 *)(const void *)side->host;
    }
    return SOFT_OK;
}

/* --- the host's own string instructions: host pointers, n elements, in the guest's direction --- */

#define HOST_MOVS(suffix)                                                                                                                  \
    do {                                                                                                                                   \
        if (down)                                                                                                                          \
            __asm__ volatile("std; rep movs" suffix "; cld" : "+D"(to), "+S"(from), "+c"(n) : : "memory", "cc");                           \
        else                                                                                                                               \
            __asm__ volatile("rep movs" suffix : "+D"(to), "+S"(from), "+c"(n) : : "memory");                                              \
    } while (0)

static void host_movs(void *to, const void *from, uint64_t n, unsigned size, bool down)
{
    switch (size) {
    case 1: HOST_MOVS("b"); break;
    case 2: HOST_MOVS("w"); break;
    case 4: HOST_MOVS("l"); break;
    default: HOST_MOVS("q");
    }
}

#define HOST_STOS(suffix)                                                                                                                  \
    do {                                                                                                                                   \
        if (down)                                                                                                                          \
            __asm__ volatile("std; rep stos" suffix "; cld" : "+D"(to), "+c"(n) : "a"(value) : "memory", "cc");                            \
        else                                                                                                                               \
            __asm__ volatile("rep stos" suffix : "+D"(to), "+c"(n) : "a"(value) : "memory");                                               \
    } while (0)

static void host_stos(void *to, uint64_t value, uint64_t n, unsigned size, bool down)
{
    switch (size) {
    case 1: HOST_STOS("b"); break;
    case 2: HOST_STOS("w"); break;
    case 4: HOST_STOS("l"); break;
    default: HOST_STOS("q");
    }
}

/* --- the instructions --- */

/* mmu_host() noted the first element. */
static void note_run(const struct string_op *op, uint64_t n)
{
    uint8_t *lowest = op->down ? op->dst.host - (n - 1) * op->size : op->dst.host;

    lockstep_note(op->cpu, lowest, (unsigned)(n * op->size));
}

static int movs_run(struct string_op *op, uint64_t *n)
{
    uint64_t value;
    int result = side_open(op, &op->src, n);

    if (result == SOFT_OK)
        result = side_open(op, &op->dst, n);
    if (result != SOFT_OK)
        return result;
    if (op->src.host && op->dst.host) {
        note_run(op, *n);
        host_movs(op->dst.host, op->src.host, *n, op->size, op->down);
        return SOFT_OK;
    }
    *n = 1;
    result = side_load(op, &op->src, &value);
    if (result != SOFT_OK)
        return result;
    return mmu_write(op->cpu, op->dst.gva, &value, op->size, MMU_WRITE);
}

/* MOVSB, MOVSW, MOVSD (the string instruction), MOVSQ */
int sys_movs(struct soft_cpu *cpu, const struct insn *insn)
{
    struct string_op op;

    string_begin(&op, cpu, insn, false);
    op.dst.write = true;
    while (op.left) {
        uint64_t n = op.left;
        int result = movs_run(&op, &n);
        if (result != SOFT_OK)
            return result;
        side_advance(&op, &op.src, n);
        side_advance(&op, &op.dst, n);
        count_down(&op, n);
        op.left -= n;
        if (interrupted(&op))
            break;
    }
    return string_end(&op);
}

/* STOSB, STOSW, STOSD, STOSQ */
int sys_stos(struct soft_cpu *cpu, const struct insn *insn)
{
    struct string_op op;

    string_begin(&op, cpu, insn, false);
    op.dst.write = true;
    while (op.left) {
        uint64_t n = op.left;
        int result = side_open(&op, &op.dst, &n);
        if (result == SOFT_OK && op.dst.host) {
            note_run(&op, n);
            host_stos(op.dst.host, cpu->gpr[GPR_RAX], n, op.size, op.down);
        } else if (result == SOFT_OK) {
            result = mmu_write(cpu, op.dst.gva, &cpu->gpr[GPR_RAX], op.size, MMU_WRITE);
        }
        if (result != SOFT_OK)
            return result;
        side_advance(&op, &op.dst, n);
        count_down(&op, n);
        op.left -= n;
        if (interrupted(&op))
            break;
    }
    return string_end(&op);
}

/* LODSB, LODSW, LODSD, LODSQ. With a repeat prefix (nobody uses it) element by element. */
int sys_lods(struct soft_cpu *cpu, const struct insn *insn)
{
    struct string_op op;

    string_begin(&op, cpu, insn, false);
    while (op.left) {
        uint64_t n = 1, value;
        int result = side_open(&op, &op.src, &n);
        if (result == SOFT_OK)
            result = side_load(&op, &op.src, &value);
        if (result != SOFT_OK)
            return result;
        soft_gpr_write(cpu, GPR_RAX, false, op.size, value);
        side_advance(&op, &op.src, 1);
        count_down(&op, 1);
        op.left--;
        if (interrupted(&op))
            break;
    }
    return string_end(&op);
}

/* Flags of a - b (SDM vol. 1 3.4.3.1), by the host's own comparison. */
static void set_compare_flags(struct soft_cpu *cpu, uint64_t a, uint64_t b, unsigned size)
{
    unsigned shift = 64 - size * 8;
    uint64_t flags = (a ^ b ^ (a - b)) & FLAG_AF;
    bool cf, zf, sf, of;

    /* Shifted to the top, these come out right; AF and PF are those of the low byte. */
    __asm__("cmp %5, %4" : "=@ccc"(cf), "=@ccz"(zf), "=@ccs"(sf), "=@cco"(of) : "r"(a << shift), "r"(b << shift));
    flags |= (cf ? FLAG_CF : 0) | (zf ? FLAG_ZF : 0) | (sf ? FLAG_SF : 0) | (of ? FLAG_OF : 0);
    if (!__builtin_parity((uint8_t)(a - b)))
        flags |= FLAG_PF;
    cpu->rflags = (cpu->rflags & ~FLAG_ARITH) | flags;
}

static bool compare_ends(const struct string_op *op, bool equal)
{
    return (op->until_equal && equal) || (op->while_equal && !equal);
}

/* Steps a host pointer to the next element. */
static uint8_t *next_element(const struct string_op *op, uint8_t *host)
{
    return op->down ? host - op->size : host + op->size;
}

/*
 * Compares a run: at most *n elements, fewer when one of them ends the instruction (*ended). a and b are the last
 * pair. rAX takes the source's place when there is none.
 */
static int compare_run(struct string_op *op, bool has_src, uint64_t *n, uint64_t *a, uint64_t *b, bool *ended)
{
    uint64_t run = *n, done = 0;
    int result = side_open(op, &op->dst, &run); /* when both fault, AMD's CPUs tell of this one */

    if (result == SOFT_OK && has_src)
        result = side_open(op, &op->src, &run);
    if (result != SOFT_OK)
        return result;
    do {
        if (has_src) {
            result = side_load(op, &op->src, a);
            if (result != SOFT_OK)
                return result; /* run is 1 then: nothing was done */
        }
        result = side_load(op, &op->dst, b);
        if (result != SOFT_OK)
            return result;
        done++;
        *ended = compare_ends(op, *a == *b);
        if (done < run && !*ended) {
            op->dst.host = next_element(op, op->dst.host);
            if (has_src)
                op->src.host = next_element(op, op->src.host);
        }
    } while (done < run && !*ended);
    *n = done;
    return SOFT_OK;
}

static int compare(struct soft_cpu *cpu, const struct insn *insn, bool has_src)
{
    struct string_op op;
    bool ended = false;

    string_begin(&op, cpu, insn, true);
    while (op.left) {
        uint64_t n = op.left, a = cpu->gpr[GPR_RAX] & size_mask(op.size), b;
        int result = compare_run(&op, has_src, &n, &a, &b, &ended);
        if (result != SOFT_OK)
            return result;
        if (has_src)
            side_advance(&op, &op.src, n);
        side_advance(&op, &op.dst, n);
        count_down(&op, n);
        set_compare_flags(cpu, a, b, op.size);
        op.left -= n;
        if (ended)
            return SOFT_OK;
        if (interrupted(&op))
            break;
    }
    return string_end(&op);
}

/* CMPSB, CMPSW, CMPSD (the string instruction), CMPSQ */
int sys_cmps(struct soft_cpu *cpu, const struct insn *insn)
{
    return compare(cpu, insn, true);
}

/* SCASB, SCASW, SCASD, SCASQ */
int sys_scas(struct soft_cpu *cpu, const struct insn *insn)
{
    return compare(cpu, insn, false);
}
