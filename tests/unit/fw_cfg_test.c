/* The firmware configuration device: items by port and by DMA, the directory, hostile descriptors, saved state. */
#include "chipset_fake.h"

#include <endian.h>
#include <stdio.h>

#include "chipset/fw_cfg.h"

#define SELECTOR 0x510
#define DATA 0x511
#define DMA 0x514
#define RAM MIB(2)
#define CPUS 3
#define DESCRIPTOR 0x1000ULL
#define BUFFER 0x2000ULL

#define DMA_ERROR 1u
#define DMA_READ 2u
#define DMA_SKIP 4u
#define DMA_SELECT 8u
#define DMA_WRITE 16u

struct fixture {
    struct bus pio;
    struct mem mem;
    struct fw_cfg dev;
};

static const char hello[] = "hello, guest";
static const uint8_t one_byte[] = {0x5a};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct err e;

    fake_start(0);
    bus_init(&f->pio);
    assert_int_equal(mem_init(&f->mem, RAM, false, &e), 0);
    assert_int_equal(fw_cfg_init(&f->dev, &f->pio, &f->mem, CPUS, &e), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    fw_cfg_fini(&f->dev);
    assert_int_equal(f->pio.count, 0);
    bus_fini(&f->pio);
    mem_fini(&f->mem);
    free(f);
    return 0;
}

static void add_files(struct fixture *f)
{
    fw_cfg_add_file(&f->dev, "opt/hello", hello, sizeof(hello) - 1);
    fw_cfg_add_file(&f->dev, "opt/a-name-that-is-just-as-long-as-a-name-is-allowed-to", one_byte, sizeof(one_byte));
}

static void select_key(struct fixture *f, uint16_t key)
{
    bus_write(&f->pio, SELECTOR, 2, key);
}

/* The next size bytes, the first of them the lowest. */
static uint64_t next(struct fixture *f, unsigned size)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)in8(&f->pio, DATA) << 8 * i;
    return value;
}

static void start_dma(struct fixture *f, gpa_t descriptor)
{
    bus_write(&f->pio, DMA, 4, htobe32((uint32_t)(descriptor >> 32)));
    bus_write(&f->pio, DMA + 4, 4, htobe32((uint32_t)descriptor));
}

/* One descriptor; what its control word became. */
static uint32_t dma(struct fixture *f, uint32_t control, uint32_t length, gpa_t at)
{
    struct {
        uint32_t control, length;
        uint64_t address;
    } d = {htobe32(control), htobe32(length), htobe64(at)};

    assert_int_equal(mem_write(&f->mem, DESCRIPTOR, &d, sizeof(d)), 0);
    start_dma(f, DESCRIPTOR);
    assert_int_equal(mem_read(&f->mem, DESCRIPTOR, &d, sizeof(d)), 0);
    assert_int_equal(be32toh(d.length), length);
    assert_int_equal(be64toh(d.address), at);
    return be32toh(d.control);
}

static void it_tells_who_it_is_and_what_the_machine_has(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(next(f, 4), 0x554d4551); /* QEMU: selected after power-on */
    select_key(f, FW_CFG_SIGNATURE);
    assert_int_equal(next(f, 4), 0x554d4551);
    select_key(f, FW_CFG_ID);
    assert_int_equal(next(f, 4), 3); /* ports and DMA */
    select_key(f, FW_CFG_RAM_SIZE);
    assert_int_equal(next(f, 8), RAM);
    select_key(f, FW_CFG_NB_CPUS);
    assert_int_equal(next(f, 2), CPUS);
}

static void without_files_the_directory_is_empty(void **state)
{
    struct fixture *f = *state;

    select_key(f, FW_CFG_FILE_DIR);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(in8(&f->pio, DATA), 0);
}

static void the_directory_leads_to_the_files(void **state)
{
    struct fixture *f = *state;
    struct fw_cfg_dir_entry entry[2];

    add_files(f);
    select_key(f, FW_CFG_FILE_DIR);
    assert_int_equal(be32toh((uint32_t)next(f, 4)), 2);
    for (unsigned i = 0; i < sizeof(entry); i++)
        ((uint8_t *)entry)[i] = in8(&f->pio, DATA);
    assert_string_equal(entry[0].name, "opt/hello");
    assert_int_equal(strlen(entry[1].name), FW_CFG_NAME_MAX);
    assert_int_equal(be32toh(entry[0].size), sizeof(hello) - 1);
    assert_int_equal(be32toh(entry[1].size), 1);
    select_key(f, be16toh(entry[0].select));
    for (unsigned i = 0; i < sizeof(hello) - 1; i++)
        assert_int_equal(in8(&f->pio, DATA), hello[i]);
    select_key(f, be16toh(entry[1].select));
    assert_int_equal(in8(&f->pio, DATA), 0x5a);
    assert_int_equal(in8(&f->pio, DATA), 0);
}

static void as_many_files_as_there_may_be_are_there(void **state)
{
    struct fixture *f = *state;
    uint8_t content[FW_CFG_FILES_MAX];
    char name[16];

    for (unsigned i = 0; i < FW_CFG_FILES_MAX; i++) {
        content[i] = (uint8_t)(0x80 + i);
        snprintf(name, sizeof(name), "opt/%u", i);
        fw_cfg_add_file(&f->dev, name, &content[i], 1);
    }
    for (unsigned i = 0; i < FW_CFG_FILES_MAX; i++) {
        select_key(f, (uint16_t)(FW_CFG_FILE_FIRST + i));
        assert_int_equal(in8(&f->pio, DATA), content[i]);
    }
    select_key(f, FW_CFG_FILE_DIR);
    assert_int_equal(be32toh((uint32_t)next(f, 4)), FW_CFG_FILES_MAX);
}

static void what_is_not_there_reads_as_zeroes(void **state)
{
    static const uint16_t absent[] = {0x02, 0x18, 0x1a, 0x1f, FW_CFG_FILE_FIRST, 0x3f, 0x40, 0x3fff, 0x8000, 0x8003, 0xbfff, 0xffff};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(absent); i++) {
        select_key(f, absent[i]);
        assert_int_equal(next(f, 8), 0);
    }
}

static void a_selection_for_writing_is_one_for_reading(void **state)
{
    struct fixture *f = *state;

    select_key(f, 0x4000 | FW_CFG_NB_CPUS);
    assert_int_equal(next(f, 2), CPUS);
}

static void accesses_of_other_sizes_change_nothing(void **state)
{
    struct fixture *f = *state;

    select_key(f, FW_CFG_SIGNATURE);
    out8(&f->pio, SELECTOR, FW_CFG_ID);
    out8(&f->pio, DATA, 1);
    assert_int_equal(bus_read(&f->pio, SELECTOR, 2), 0);
    assert_int_equal(in8(&f->pio, SELECTOR), 0);
    bus_write(&f->pio, DMA + 4, 2, 0x1000);
    bus_write(&f->pio, DMA + 2, 4, 0x1000);
    assert_int_equal(next(f, 4), 0x554d4551);
}

static void dma_is_announced_by_its_signature(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(be32toh((uint32_t)bus_read(&f->pio, DMA, 4)), 0x51454d55);
    assert_int_equal(be32toh((uint32_t)bus_read(&f->pio, DMA + 4, 4)), 0x20434647);
    assert_int_equal(in8(&f->pio, DMA + 7), 'G');
}

static void dma_selects_and_reads_an_item(void **state)
{
    struct fixture *f = *state;
    char got[sizeof(hello)] = "";

    add_files(f);
    assert_int_equal(dma(f, FW_CFG_FILE_FIRST << 16 | DMA_SELECT | DMA_READ, sizeof(hello) - 1, BUFFER), 0);
    assert_int_equal(mem_read(&f->mem, BUFFER, got, sizeof(got) - 1), 0);
    assert_string_equal(got, hello);
    assert_int_equal(in8(&f->pio, DATA), 0); /* all was read */
}

static void dma_goes_on_where_the_last_one_ended_and_skips(void **state)
{
    struct fixture *f = *state;
    char got[5] = "";

    add_files(f);
    assert_int_equal(dma(f, FW_CFG_FILE_FIRST << 16 | DMA_SELECT, 0, 0), 0);
    assert_int_equal(dma(f, DMA_SKIP, 3, 0), 0);
    assert_int_equal(in8(&f->pio, DATA), hello[3]);
    assert_int_equal(dma(f, DMA_READ, 4, BUFFER), 0);
    assert_int_equal(mem_read(&f->mem, BUFFER, got, 4), 0);
    assert_memory_equal(got, hello + 4, 4);
    assert_int_equal(dma(f, DMA_SKIP, UINT32_MAX, 0), 0);
    assert_int_equal(in8(&f->pio, DATA), 0);
}

static void dma_fills_with_zeroes_behind_the_end(void **state)
{
    struct fixture *f = *state;
    uint8_t got[8], ones[8];

    memset(ones, 0xff, sizeof(ones));
    add_files(f);
    assert_int_equal(mem_write(&f->mem, BUFFER, ones, sizeof(ones)), 0);
    assert_int_equal(dma(f, (FW_CFG_FILE_FIRST + 1) << 16 | DMA_SELECT | DMA_READ, 4, BUFFER), 0);
    assert_int_equal(mem_read(&f->mem, BUFFER, got, sizeof(got)), 0);
    assert_memory_equal(got, "\x5a\0\0\0\xff\xff\xff\xff", 8);
    assert_int_equal(dma(f, 0x7777u << 16 | DMA_SELECT | DMA_READ, 4, BUFFER), 0);
    assert_int_equal(mem_read(&f->mem, BUFFER, got, 1), 0);
    assert_int_equal(got[0], 0);
}

static void dma_out_of_memory_is_an_error_and_moves_nothing(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(dma(f, FW_CFG_SIGNATURE << 16 | DMA_SELECT | DMA_READ, 4, RAM), DMA_ERROR);
    assert_int_equal(dma(f, DMA_READ, 4, RAM - 2), DMA_ERROR);
    assert_int_equal(dma(f, DMA_READ, 4, UINT64_MAX - 1), DMA_ERROR);
    assert_int_equal(dma(f, DMA_READ, UINT32_MAX, BUFFER), DMA_ERROR);
    assert_int_equal(dma(f, DMA_READ, 0, UINT64_MAX), 0);
    assert_int_equal(next(f, 4), 0x554d4551);
}

static void nothing_can_be_written(void **state)
{
    struct fixture *f = *state;

    add_files(f);
    assert_int_equal(dma(f, (0x4000 | FW_CFG_FILE_FIRST) << 16 | DMA_SELECT | DMA_WRITE, 4, BUFFER), DMA_ERROR);
    assert_int_equal(in8(&f->pio, DATA), hello[0]);
}

static void a_descriptor_outside_of_memory_is_complained_about(void **state)
{
    struct fixture *f = *state;

    start_dma(f, RAM - 8);
    assert_int_equal(fake.complaints, 1);
    start_dma(f, 0xfffffffffffffff8);
    assert_int_equal(fake.complaints, 2);
    assert_int_equal(dma(f, FW_CFG_NB_CPUS << 16 | DMA_SELECT, 0, 0), 0); /* the upper half is forgotten */
    assert_int_equal(next(f, 2), CPUS);
}

static void a_reset_selects_the_signature(void **state)
{
    struct fixture *f = *state;

    select_key(f, FW_CFG_NB_CPUS);
    bus_write(&f->pio, DMA, 4, UINT32_MAX);
    fw_cfg_device.reset(&f->dev);
    assert_int_equal(next(f, 4), 0x554d4551);
    bus_write(&f->pio, DMA + 4, 4, htobe32((uint32_t)DESCRIPTOR));
    assert_int_equal(fake.complaints, 0);
}

static void saved_state_goes_on_in_the_middle_of_a_file(void **state)
{
    struct fixture *f = *state;
    struct state_writer w;

    add_files(f);
    select_key(f, FW_CFG_FILE_FIRST);
    next(f, 4);
    w = fake_save(&fw_cfg_device, &f->dev);
    select_key(f, FW_CFG_ID);
    assert_int_equal(fake_load(&fw_cfg_device, &f->dev, &w, w.len), 0);
    assert_int_equal(in8(&f->pio, DATA), hello[4]);
    assert_truncations_are_refused(&fw_cfg_device, &f->dev);
    assert_refused(&fw_cfg_device, &f->dev, "offset", 0, 0, sizeof(hello));
    assert_refused(&fw_cfg_device, &f->dev, "key", 0, 0, 0x7777);
    state_writer_fini(&w);
}

static void hostile_accesses_end_at_memory(void **state)
{
    static const uint64_t bases[] = {SELECTOR, DMA};
    struct fixture *f = *state;

    fake_seed(0xf3c6);
    add_files(f);
    for (gpa_t at = 0; at < RAM; at += 8) {
        uint64_t r = fake_random() & fake_random(); /* descriptors everywhere, addresses with few bits */
        assert_int_equal(mem_write(&f->mem, at, &r, sizeof(r)), 0);
    }
    fuzz_registers(&f->pio, bases, ARRAY_SIZE(bases), 8, 20000, &fw_cfg_device, &f->dev);
    fuzz_load(&fw_cfg_device, &f->dev, 2000);
}

#define FW_CFG_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FW_CFG_TEST(it_tells_who_it_is_and_what_the_machine_has),
        FW_CFG_TEST(without_files_the_directory_is_empty),
        FW_CFG_TEST(the_directory_leads_to_the_files),
        FW_CFG_TEST(as_many_files_as_there_may_be_are_there),
        FW_CFG_TEST(what_is_not_there_reads_as_zeroes),
        FW_CFG_TEST(a_selection_for_writing_is_one_for_reading),
        FW_CFG_TEST(accesses_of_other_sizes_change_nothing),
        FW_CFG_TEST(dma_is_announced_by_its_signature),
        FW_CFG_TEST(dma_selects_and_reads_an_item),
        FW_CFG_TEST(dma_goes_on_where_the_last_one_ended_and_skips),
        FW_CFG_TEST(dma_fills_with_zeroes_behind_the_end),
        FW_CFG_TEST(dma_out_of_memory_is_an_error_and_moves_nothing),
        FW_CFG_TEST(nothing_can_be_written),
        FW_CFG_TEST(a_descriptor_outside_of_memory_is_complained_about),
        FW_CFG_TEST(a_reset_selects_the_signature),
        FW_CFG_TEST(saved_state_goes_on_in_the_middle_of_a_file),
        FW_CFG_TEST(hostile_accesses_end_at_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
