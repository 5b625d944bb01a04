/* Fuzzes the firmware configuration device: the input is a guest's port accesses and the DMA descriptors that it starts. */
#include <string.h>

#include "base/bug.h"
#include "base/log.h"
#include "chipset/fw_cfg.h"

#define RAM MIB(2)
#define STEP_BYTES 16
#define REGISTERS 0x510
#define DMA 0x514
#define DESCRIPTOR 0x1000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

void log_guest(struct log_limit *limit, const char *fmt, ...)
{
    (void)limit, (void)fmt;
}

/* A port access: what the first byte says, at one of the 16 ports from 0x50e on. */
static void access_port(struct bus *pio, const uint8_t *s)
{
    uint64_t port = REGISTERS - 2 + s[1] % 16;
    unsigned bytes = 1U << (s[0] >> 2 & 3);
    uint64_t value;

    memcpy(&value, s + 8, sizeof(value));
    if (s[0] & 2)
        bus_write(pio, port, bytes, value);
    else
        BUG_ON(bus_read(pio, port, bytes) & ~(UINT64_MAX >> (64 - 8 * bytes)));
}

/* A descriptor of 15 bytes of the input and a zero, somewhere in memory or behind its end. */
static void start_dma(struct bus *pio, struct mem *mem, const uint8_t *s)
{
    gpa_t at = DESCRIPTOR + (s[0] >> 2) * (RAM / 60);
    uint8_t descriptor[16] = {0};

    memcpy(descriptor + 1, s + 1, sizeof(descriptor) - 1);
    (void)mem_write(mem, at, descriptor, sizeof(descriptor));
    bus_write(pio, DMA, 4, 0);
    bus_write(pio, DMA + 4, 4, __builtin_bswap32((uint32_t)at));
}

/* What was saved is loaded, and what is refused changes nothing. */
static void save_and_load(struct fw_cfg *dev)
{
    struct fw_cfg_state before = dev->state;
    struct state_writer w;
    struct state_reader r;

    state_writer_init(&w);
    BUG_ON(fw_cfg_device.save(dev, &w));
    state_reader_init(&r, w.data, w.len);
    BUG_ON(fw_cfg_device.load(dev, &r, NULL) || memcmp(&before, &dev->state, sizeof(before)) != 0);
    state_writer_fini(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t file[100] = {1, 2, 3};
    struct bus pio;
    struct mem mem;
    struct fw_cfg dev;

    bus_init(&pio);
    BUG_ON(mem_init(&mem, RAM, false, NULL) || fw_cfg_init(&dev, &pio, &mem, 1, NULL));
    fw_cfg_add_file(&dev, "opt/file", file, sizeof(file));
    fw_cfg_add_file(&dev, "opt/byte", file, 1);
    for (; size >= STEP_BYTES; data += STEP_BYTES, size -= STEP_BYTES) {
        if (data[0] & 1)
            start_dma(&pio, &mem, data);
        else
            access_port(&pio, data);
        save_and_load(&dev);
    }
    fw_cfg_fini(&dev);
    mem_fini(&mem);
    bus_fini(&pio);
    return 0;
}
