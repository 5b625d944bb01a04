/* The memory map: ascending, without overlaps, with what every PC reserves. */
#include "boot_fake.h"

#include "boot/e820.h"

static struct mem memory(uint64_t low, uint64_t high)
{
    struct mem m = {.region_count = high ? 2 : 1, .size = low + high};

    m.regions[0] = (struct mem_region){.gpa = 0, .size = low};
    m.regions[1] = (struct mem_region){.gpa = MEM_HIGH_BASE, .size = high};
    return m;
}

static void range_is(const struct e820_range *r, uint64_t gpa, uint64_t end, uint32_t type)
{
    assert_int_equal(r->gpa, gpa);
    assert_int_equal(r->gpa + r->size, end);
    assert_int_equal(r->type, type);
}

static void small_memory_is_split_at_the_first_mebibyte(void **state)
{
    struct mem m = memory(MIB(64), 0);
    struct e820_map map;

    (void)state;
    e820_build(&map, &m);
    assert_int_equal(map.count, 4);
    range_is(&map.range[0], 0, 0x9fc00, E820_RAM);
    range_is(&map.range[1], 0x9fc00, 0x100000, E820_RESERVED);
    range_is(&map.range[2], 0x100000, MIB(64), E820_RAM);
    range_is(&map.range[3], 0xe0000000, 0xf0000000, E820_RESERVED);
}

static void memory_above_4_gib_comes_after_the_configuration_window(void **state)
{
    struct mem m = memory(GIB(3), GIB(5));
    struct e820_map map;

    (void)state;
    e820_build(&map, &m);
    assert_int_equal(map.count, 5);
    range_is(&map.range[3], 0xe0000000, 0xf0000000, E820_RESERVED);
    range_is(&map.range[4], GIB(4), GIB(9), E820_RAM);
}

static void read_only_memory_is_reserved(void **state)
{
    struct mem m = memory(MIB(64), MIB(2));
    struct e820_map map;

    (void)state;
    m.regions[1].flags = MEM_READONLY;
    e820_build(&map, &m);
    range_is(&map.range[4], GIB(4), GIB(4) + MIB(2), E820_RESERVED);
}

static void less_than_a_mebibyte_gives_no_empty_range(void **state)
{
    struct mem m = memory(KIB(512), 0);
    struct e820_map map;

    (void)state;
    e820_build(&map, &m);
    for (unsigned i = 0; i < map.count; i++)
        assert_true(map.range[i].size > 0);
    range_is(&map.range[0], 0, KIB(512), E820_RAM);
}

static void ranges_ascend_without_overlap_at_every_size(void **state)
{
    (void)state;
    for (uint64_t size = MIB(1); size <= GIB(6); size += MIB(37)) {
        struct mem m = memory(MIN(size, MEM_LOW_TOP), size > MEM_LOW_TOP ? size - MEM_LOW_TOP : 0);
        struct e820_map map;
        uint64_t ram = 0;

        e820_build(&map, &m);
        for (unsigned i = 0; i < map.count; i++) {
            if (i)
                assert_true(map.range[i].gpa >= map.range[i - 1].gpa + map.range[i - 1].size);
            if (map.range[i].type == E820_RAM)
                ram += map.range[i].size;
        }
        assert_int_equal(ram, size - (0x100000 - 0x9fc00));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_memory_is_split_at_the_first_mebibyte),
        cmocka_unit_test(memory_above_4_gib_comes_after_the_configuration_window),
        cmocka_unit_test(read_only_memory_is_reserved),
        cmocka_unit_test(less_than_a_mebibyte_gives_no_empty_range),
        cmocka_unit_test(ranges_ascend_without_overlap_at_every_size),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
