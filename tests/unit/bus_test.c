/* The buses: every byte finds its device, accesses that leave a range are split, and devices may move while others look. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "mem/bus.h"

#define SEED 0xb05

/* A device of plain bytes that remembers its accesses. */
struct ram {
    struct bus_range range;
    struct bus *bus;
    uint8_t bytes[64];
    unsigned reads, writes, last_size;
    uint64_t last_value;
};

static uint64_t ram_read(void *opaque, uint64_t off, unsigned size)
{
    struct ram *r = opaque;
    uint64_t value = 0;

    assert_true(off < r->range.size && size <= r->range.size - off);
    r->reads++;
    r->last_size = size;
    memcpy(&value, r->bytes + off, size);
    return value;
}

static void ram_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct ram *r = opaque;

    assert_true(off < r->range.size && size <= r->range.size - off);
    r->writes++;
    r->last_size = size;
    r->last_value = value;
    memcpy(r->bytes + off, &value, size);
}

static const struct bus_ops ram_ops = {ram_read, ram_write};

static void ram_init(struct ram *r, const char *name, uint64_t base, uint64_t size)
{
    *r = (struct ram){.range = {.name = name, .base = base, .size = size, .ops = &ram_ops, .opaque = r}};
    for (unsigned i = 0; i < sizeof(r->bytes); i++)
        r->bytes[i] = (uint8_t)(base + i);
}

static int setup(void **state)
{
    struct bus *bus = calloc(1, sizeof(*bus));

    if (!bus)
        return -1;
    bus_init(bus);
    *state = bus;
    return 0;
}

static int teardown(void **state)
{
    bus_fini(*state);
    free(*state);
    return 0;
}

static void an_address_that_nobody_answers_reads_all_ones(void **state)
{
    assert_true(bus_read(*state, 0x80, 1) == 0xff);
    assert_true(bus_read(*state, 0x80, 2) == 0xffff);
    assert_true(bus_read(*state, 0x80, 4) == 0xffffffff);
    assert_true(bus_read(*state, 0x80, 8) == UINT64_MAX);
    bus_write(*state, 0x80, 8, 1);
}

static void an_access_reaches_its_device_whole(void **state)
{
    struct ram r;

    ram_init(&r, "r", 0x1000, 16);
    assert_int_equal(bus_add(*state, &r.range, NULL), 0);
    for (unsigned size = 1; size <= 8; size *= 2) {
        uint64_t want = 0;

        memcpy(&want, r.bytes + 8, size);
        assert_true(bus_read(*state, 0x1008, size) == want);
        assert_int_equal(r.last_size, size);
        bus_write(*state, 0x1000, size, 0x1122334455667788);
        assert_int_equal(r.last_size, size);
        assert_true(r.last_value == (0x1122334455667788 & (UINT64_MAX >> (64 - 8 * size))));
    }
    assert_int_equal(r.reads, 4);
    assert_int_equal(r.writes, 4);
    assert_true(bus_read(*state, 0xfff, 1) == 0xff);
    assert_true(bus_read(*state, 0x1010, 1) == 0xff);
    bus_remove(*state, &r.range);
    assert_true(bus_read(*state, 0x1008, 1) == 0xff);
}

static uint64_t read_too_much(void *opaque, uint64_t off, unsigned size)
{
    (void)opaque, (void)off, (void)size;
    return UINT64_MAX;
}

static void what_a_device_answers_beyond_the_size_is_cut(void **state)
{
    static const struct bus_ops ops = {read_too_much, NULL};
    struct bus_range range = {.name = "much", .base = 0, .size = 8, .ops = &ops};

    assert_int_equal(bus_add(*state, &range, NULL), 0);
    assert_true(bus_read(*state, 0, 2) == 0xffff);
    assert_true(bus_read(*state, 0, 8) == UINT64_MAX);
}

static void an_access_that_leaves_its_range_is_split_to_bytes(void **state)
{
    struct ram a, b;

    ram_init(&a, "a", 0x10, 4);
    ram_init(&b, "b", 0x14, 2);
    assert_int_equal(bus_add(*state, &a.range, NULL), 0);
    assert_int_equal(bus_add(*state, &b.range, NULL), 0);
    assert_true(bus_read(*state, 0x12, 4) == 0x15141312);
    assert_int_equal(a.reads, 2);
    assert_int_equal(b.reads, 2);
    assert_true(bus_read(*state, 0x14, 4) == 0xffff1514);
    assert_true(bus_read(*state, 0x0e, 4) == 0x1110ffff); /* begins where nobody is */
    bus_write(*state, 0x12, 8, 0x8877665544332211);
    assert_int_equal(a.bytes[2], 0x11);
    assert_int_equal(a.bytes[3], 0x22);
    assert_int_equal(b.bytes[0], 0x33);
    assert_int_equal(b.bytes[1], 0x44);
    assert_int_equal(a.writes + b.writes, 4);
    bus_write(*state, 0x0f, 2, 0xbbaa);
    assert_int_equal(a.bytes[0], 0xbb);
}

static void the_ends_of_the_address_space_do_not_wrap_into_a_range(void **state)
{
    struct ram top, bottom;

    ram_init(&top, "top", UINT64_MAX - 3, 4);
    ram_init(&bottom, "bottom", 0x100, 4);
    assert_int_equal(bus_add(*state, &top.range, NULL), 0);
    assert_int_equal(bus_add(*state, &bottom.range, NULL), 0);
    assert_true(bus_read(*state, UINT64_MAX - 3, 4) == 0xfffefdfc);
    assert_true(bus_read(*state, UINT64_MAX - 1, 4) == 0xfffffffe);
    bus_remove(*state, &bottom.range);
    assert_true(bus_read(*state, 0x100, 4) == 0xffffffff);
    assert_true(bus_read(*state, UINT64_MAX, 1) == 0xff);
}

static void overlaps_are_refused_and_named(void **state)
{
    const struct {
        uint64_t base, size;
        int rc;
    } tries[] = {{0x100, 0x10, -EEXIST}, {0xf8, 9, -EEXIST}, {0x10f, 1, -EEXIST}, {0x104, 4, -EEXIST},     {0xf0, 0x40, -EEXIST},
                 {0xff, 1, 0},           {0x110, 4, 0},      {0x200, 0, -EINVAL}, {UINT64_MAX, 2, -EINVAL}};
    struct ram first, other;
    struct err e;

    ram_init(&first, "first", 0x100, 0x10);
    assert_int_equal(bus_add(*state, &first.range, &e), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(tries); i++) {
        ram_init(&other, "other", tries[i].base, tries[i].size);
        e.text[0] = '\0';
        assert_int_equal(bus_add(*state, &other.range, &e), tries[i].rc);
        if (tries[i].rc)
            assert_non_null(strstr(e.text, "other"));
        if (tries[i].rc == -EEXIST)
            assert_non_null(strstr(e.text, "first"));
        if (!tries[i].rc)
            bus_remove(*state, &other.range);
    }
    assert_true(bus_read(*state, 0x100, 1) == 0x00);
    assert_int_equal(((struct bus *)*state)->count, 1);
}

static void a_full_bus_says_so(void **state)
{
    static struct ram r[BUS_MAX_RANGES + 1];
    struct err e;

    for (unsigned i = 0; i < BUS_MAX_RANGES; i++) {
        ram_init(&r[i], "r", i * 16, 4);
        assert_int_equal(bus_add(*state, &r[i].range, &e), 0);
    }
    ram_init(&r[BUS_MAX_RANGES], "last", 0x10000, 4);
    assert_int_equal(bus_add(*state, &r[BUS_MAX_RANGES].range, &e), -ENOSPC);
    assert_non_null(strstr(e.text, "last"));
    bus_remove(*state, &r[5].range);
    assert_int_equal(bus_add(*state, &r[BUS_MAX_RANGES].range, &e), 0);
}

static void removing_what_is_not_there_changes_nothing(void **state)
{
    struct ram a, b;

    ram_init(&a, "a", 0, 4);
    ram_init(&b, "b", 0, 4);
    assert_int_equal(bus_add(*state, &a.range, NULL), 0);
    bus_remove(*state, &b.range);
    assert_true(bus_read(*state, 0, 1) == 0);
    assert_int_equal(a.reads, 1);
}

/* Against a map of every byte: added, removed and read at random. */
static void random_ranges_answer_as_a_map_of_bytes_does(void **state)
{
    static struct ram r[40];
    bool there[ARRAY_SIZE(r)] = {false};
    int owner[1024 + 16];
    unsigned seed = SEED;

    print_message("seed %u\n", seed);
    for (unsigned i = 0; i < ARRAY_SIZE(owner); i++)
        owner[i] = -1;
    for (unsigned n = 0; n < 20000; n++) {
        unsigned i = (unsigned)rand_r(&seed) % ARRAY_SIZE(r);
        unsigned addr = (unsigned)rand_r(&seed) % 1024, size = 1U << (rand_r(&seed) % 4);
        uint64_t want = 0;

        if (there[i]) {
            bus_remove(*state, &r[i].range);
            for (uint64_t a = 0; a < r[i].range.size; a++)
                owner[r[i].range.base + a] = -1;
            there[i] = false;
        } else {
            bool is_free = true;

            ram_init(&r[i], "r", (unsigned)rand_r(&seed) % (1024 - 40), 1 + (unsigned)rand_r(&seed) % 40);
            for (uint64_t a = 0; a < r[i].range.size; a++)
                is_free = is_free && owner[r[i].range.base + a] < 0;
            assert_int_equal(bus_add(*state, &r[i].range, NULL), is_free ? 0 : -EEXIST);
            there[i] = is_free;
            for (uint64_t a = 0; is_free && a < r[i].range.size; a++)
                owner[r[i].range.base + a] = (int)i;
        }
        for (unsigned b = 0; b < size; b++)
            want |= (uint64_t)(owner[addr + b] < 0 ? 0xff : (addr + b) & 0xff) << (8 * b);
        assert_true(bus_read(*state, addr, size) == want);
    }
}

/* --- moving --- */

static void move_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    struct ram *r = opaque;

    (void)off, (void)size;
    bus_remove(r->bus, &r->range);
    r->range.base = value;
    assert_int_equal(bus_add(r->bus, &r->range, NULL), 0);
}

static void a_device_can_move_itself_from_its_own_callback(void **state)
{
    static const struct bus_ops ops = {ram_read, move_write};
    struct ram r;

    ram_init(&r, "moving", 0x40, 4);
    r.range.ops = &ops;
    r.bus = *state;
    assert_int_equal(bus_add(*state, &r.range, NULL), 0);
    bus_write(*state, 0x40, 4, 0x80);
    assert_true(bus_read(*state, 0x40, 1) == 0xff);
    assert_true(bus_read(*state, 0x80, 1) == 0x40);
}

/* One thread moves a range to and fro; others must never see an offset outside of it, nor lose the range that stays. */
struct race {
    struct bus *bus;
    atomic_bool stop;
    atomic_uint bad;
};

#define RACE_SIZE 16

static uint64_t race_read(void *opaque, uint64_t off, unsigned size)
{
    struct race *race = opaque;

    if (off > RACE_SIZE - size)
        atomic_fetch_add(&race->bad, 1);
    return off;
}

static void race_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
    (void)value;
    race_read(opaque, off, size);
}

static const struct bus_ops race_ops = {race_read, race_write};

static void *look(void *arg)
{
    struct race *race = arg;

    while (!atomic_load(&race->stop))
        for (uint64_t addr = 0x1000; addr < 0x1000 + 3 * RACE_SIZE; addr += 4) {
            uint64_t value = bus_read(race->bus, addr, 4);

            if (value != 0xffffffff && value >= RACE_SIZE)
                atomic_fetch_add(&race->bad, 1);
            bus_write(race->bus, addr, 4, 0);
            if (bus_read(race->bus, 0x4004, 1) != 4)
                atomic_fetch_add(&race->bad, 1);
        }
    return NULL;
}

static void readers_see_a_moving_range_whole_or_not_at_all(void **state)
{
    struct race race = {.bus = *state};
    struct bus_range moving = {.name = "moving", .base = 0x1000, .size = RACE_SIZE, .ops = &race_ops, .opaque = &race};
    struct bus_range fixed = {.name = "fixed", .base = 0x4000, .size = RACE_SIZE, .ops = &race_ops, .opaque = &race};
    pthread_t threads[2];

    assert_int_equal(bus_add(*state, &moving, NULL), 0);
    assert_int_equal(bus_add(*state, &fixed, NULL), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, look, &race), 0);
    for (unsigned i = 0; i < 5000; i++) {
        bus_remove(*state, &moving);
        moving.base = 0x1000 + i % 3 * RACE_SIZE;
        assert_int_equal(bus_add(*state, &moving, NULL), 0);
    }
    atomic_store(&race.stop, true);
    for (unsigned i = 0; i < ARRAY_SIZE(threads); i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(race.bad, 0);
}

struct bells {
    struct {
        uint64_t addr;
        int fd;
        bool on;
    } told[8];
    unsigned count;
    int answer;
};

static int on_doorbell(void *opaque, uint64_t addr, int fd, bool on)
{
    struct bells *b = opaque;

    b->told[b->count].addr = addr;
    b->told[b->count].fd = fd;
    b->told[b->count++].on = on;
    return b->answer;
}

static void doorbells_are_offered_to_who_can_deliver_them(void **state)
{
    static const struct bus_doorbell doorbells[] = {{0, 5}, {4, 6}};
    struct bells bells = {.answer = -ENOSPC}; /* who cannot deliver one says so, and the device is called */
    struct bus bus;
    struct ram ram;

    (void)state;
    bus_init(&bus);
    ram_init(&ram, "doorbells", 0x1000, 16);
    assert_int_equal(bus_add(&bus, &ram.range, NULL), 0);
    bus_doorbells(&bus, 0x1000, doorbells, 2, true); /* nobody is there: nothing changes */
    bus_doorbells(&bus, 0x1000, doorbells, 2, false);
    bus.doorbell = on_doorbell;
    bus.doorbell_opaque = &bells;
    bus_doorbells(&bus, 0x1000, doorbells, 2, true);
    assert_int_equal(bells.count, 2);
    assert_true(bells.told[1].addr == 0x1004 && bells.told[1].fd == 6 && bells.told[1].on);
    bus_write(&bus, 0x1004, 2, 1);
    assert_int_equal(ram.writes, 1);
    bus_doorbells(&bus, 0x1000, doorbells, 2, false);
    assert_int_equal(bells.count, 4);
    assert_true(bells.told[2].addr == 0x1000 && bells.told[2].fd == 5 && !bells.told[2].on);
    bus_remove(&bus, &ram.range);
    bus_fini(&bus);
}

#define BUS_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BUS_TEST(an_address_that_nobody_answers_reads_all_ones),
        BUS_TEST(an_access_reaches_its_device_whole),
        BUS_TEST(what_a_device_answers_beyond_the_size_is_cut),
        BUS_TEST(an_access_that_leaves_its_range_is_split_to_bytes),
        BUS_TEST(the_ends_of_the_address_space_do_not_wrap_into_a_range),
        BUS_TEST(overlaps_are_refused_and_named),
        BUS_TEST(a_full_bus_says_so),
        BUS_TEST(removing_what_is_not_there_changes_nothing),
        BUS_TEST(random_ranges_answer_as_a_map_of_bytes_does),
        BUS_TEST(a_device_can_move_itself_from_its_own_callback),
        BUS_TEST(readers_see_a_moving_range_whole_or_not_at_all),
        BUS_TEST(doorbells_are_offered_to_who_can_deliver_them),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
