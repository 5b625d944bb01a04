/* Builds the ACPI tables in guest memory (ACPI 6.4 ch. 5.2). */
#include "boot/acpi/tables.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/bug.h"
#include "boot/acpi/dsdt.aml.h"
#include "boot/acpi/pci.aml.h"
#include "boot/layout.h"
#include "chipset/acpi_pm.h"
#include "chipset/ioapic.h"

#define OEM_ID "UMBRA "
#define OEM_TABLE_ID "UMBRAVM "
#define CREATOR_ID "UMBR"

#define LAPIC_GPA 0xfee00000u
#define SCI 9

/* FADT, "Fixed Feature Flags" (table 5.10). */
#define FADT_WBINVD BIT(0)
#define FADT_PROC_C1 BIT(2)
#define FADT_SLP_BUTTON BIT(5) /* set: it is no fixed hardware */
#define FADT_FIX_RTC BIT(6)    /* set: the clock does not wake by fixed hardware */
#define FADT_TMR_VAL_EXT BIT(8)
#define FADT_RESET_REG_SUP BIT(10)

/* FADT, "IA-PC Boot Architecture Flags" (table 5.11). The 8042 bit stays clear: Linux would wait long for a keyboard. */
#define FADT_LEGACY_DEVICES BIT(0)
#define FADT_VGA_ABSENT BIT(2)

#define RESET_PORT 0xcf9
#define RESET_VALUE 0x06 /* hard reset, now */

#define MADT_PCAT_COMPAT 1
#define MADT_ACTIVE_HIGH_LEVEL 0x0d /* table 5.26 */

#define TABLES_MAX 64  /* that the XSDT names */
#define TABLE_ALIGN 64 /* what the FACS wants; good for all */

struct acpi_header {
    char signature[4];
    uint32_t length;
    uint8_t revision, checksum;
    char oem_id[6], oem_table_id[8];
    uint32_t oem_revision;
    char creator_id[4];
    uint32_t creator_revision;
} __attribute__((packed));

struct acpi_gas { /* Generic Address Structure (5.2.3.2) */
    uint8_t space, bits, bit_offset, access;
    uint64_t address;
} __attribute__((packed));

struct acpi_rsdp {
    char signature[8];
    uint8_t checksum; /* of the first 20 bytes */
    char oem_id[6];
    uint8_t revision;
    uint32_t rsdt, length;
    uint64_t xsdt;
    uint8_t extended_checksum, reserved[3];
} __attribute__((packed));

struct acpi_fadt {
    struct acpi_header header;
    uint32_t firmware_ctrl, dsdt;
    uint8_t reserved0, preferred_pm_profile;
    uint16_t sci_int;
    uint32_t smi_cmd;
    uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
    uint32_t pm1a_evt_blk, pm1b_evt_blk, pm1a_cnt_blk, pm1b_cnt_blk, pm2_cnt_blk, pm_tmr_blk, gpe0_blk, gpe1_blk;
    uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_blk_len, gpe1_blk_len, gpe1_base, cst_cnt;
    uint16_t p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
    uint8_t duty_offset, duty_width, day_alrm, mon_alrm, century;
    uint16_t iapc_boot_arch;
    uint8_t reserved1;
    uint32_t flags;
    struct acpi_gas reset_reg;
    uint8_t reset_value;
    uint16_t arm_boot_arch;
    uint8_t minor_revision;
    uint64_t x_firmware_ctrl, x_dsdt;
    struct acpi_gas x_pm1a_evt_blk, x_pm1b_evt_blk, x_pm1a_cnt_blk, x_pm1b_cnt_blk, x_pm2_cnt_blk, x_pm_tmr_blk, x_gpe0_blk, x_gpe1_blk;
    struct acpi_gas sleep_control_reg, sleep_status_reg;
    char hypervisor_vendor[8];
} __attribute__((packed));

struct acpi_facs {
    char signature[4];
    uint32_t length, hardware_signature, waking_vector, global_lock, flags;
    uint64_t x_waking_vector;
    uint8_t version, reserved0[3];
    uint32_t ospm_flags;
    uint8_t reserved1[24];
} __attribute__((packed));

struct madt_lapic {
    uint8_t type, length, uid, apic_id;
    uint32_t flags;
} __attribute__((packed));

struct madt_ioapic {
    uint8_t type, length, id, reserved;
    uint32_t address, gsi_base;
} __attribute__((packed));

struct madt_override {
    uint8_t type, length, bus, source;
    uint32_t gsi;
    uint16_t flags;
} __attribute__((packed));

struct madt_lapic_nmi {
    uint8_t type, length, uid;
    uint16_t flags;
    uint8_t lint;
} __attribute__((packed));

struct acpi_madt { /* the LAPICs come last, for there are as many as CPUs */
    struct acpi_header header;
    uint32_t lapic_address, flags;
    struct madt_ioapic ioapic;
    struct madt_override timer, sci;
    struct madt_lapic_nmi nmi;
    struct madt_lapic lapic[ACPI_CPUS_MAX];
} __attribute__((packed));

struct acpi_mcfg {
    struct acpi_header header;
    uint64_t reserved0, base;
    uint16_t segment;
    uint8_t first_bus, last_bus;
    uint32_t reserved1;
} __attribute__((packed));

struct acpi_xsdt {
    struct acpi_header header;
    uint64_t entry[TABLES_MAX];
} __attribute__((packed));

static_assert(sizeof(struct acpi_rsdp) == 36, "ACPI 6.4 table 5.3");
static_assert(sizeof(struct acpi_fadt) == 276, "ACPI 6.4 table 5.9");
static_assert(sizeof(struct acpi_facs) == 64, "ACPI 6.4 table 5.14");

/* The area being filled: at is where the next table goes. */
struct area {
    struct mem *mem;
    struct err *err;
    gpa_t at;
    struct acpi_xsdt xsdt;
    unsigned count;
};

static uint8_t sum(const void *data, size_t len, uint8_t start)
{
    const uint8_t *p = data;

    while (len--)
        start += *p++;
    return start;
}

static struct acpi_header make_header(const char *signature, uint8_t revision, size_t length)
{
    struct acpi_header h = {.length = (uint32_t)length, .revision = revision, .oem_revision = 1, .creator_revision = 1};

    memcpy(h.signature, signature, sizeof(h.signature));
    memcpy(h.oem_id, OEM_ID, sizeof(h.oem_id));
    memcpy(h.oem_table_id, OEM_TABLE_ID, sizeof(h.oem_table_id));
    memcpy(h.creator_id, CREATOR_ID, sizeof(h.creator_id));
    return h;
}

/* Where the next len bytes go. */
static int reserve(struct area *a, size_t len, gpa_t *at)
{
    if (len > ACPI_AREA_END - a->at)
        return err_set(a->err, ENOSPC, "the ACPI tables of all devices are larger than %llu KiB; give the machine fewer devices",
                       (unsigned long long)(ACPI_AREA_END - ACPI_AREA_GPA) >> 10);
    *at = a->at;
    a->at = MIN(ALIGN_UP(a->at + len, (gpa_t)TABLE_ALIGN), ACPI_AREA_END);
    return 0;
}

static int write_at(struct area *a, gpa_t at, const void *data, size_t len)
{
    if (len && mem_write(a->mem, at, data, len))
        return err_set(a->err, ENOSPC, "the ACPI tables at 0x%llx are outside of the guest's memory; give it at least --memory 1M",
                       (unsigned long long)at);
    return 0;
}

/* A header and what follows it, with the checksum over both. *at may be NULL. */
static int add_table(struct area *a, struct acpi_header h, const void *body, gpa_t *at)
{
    size_t len = h.length - sizeof(h);
    gpa_t where;
    int ret = reserve(a, h.length, &where);

    if (ret)
        return ret;
    h.checksum = 0;
    h.checksum = (uint8_t)-sum(body, len, sum(&h, sizeof(h), 0));
    ret = write_at(a, where, &h, sizeof(h));
    if (!ret)
        ret = write_at(a, where + sizeof(h), body, len);
    if (!ret && at)
        *at = where;
    return ret;
}

/* The same, and the XSDT names it. */
static int add_listed(struct area *a, struct acpi_header h, const void *body)
{
    gpa_t at;
    int ret;

    if (a->count == TABLES_MAX)
        return err_set(a->err, ENOSPC, "the machine has more than %u ACPI tables; give it fewer devices", TABLES_MAX);
    ret = add_table(a, h, body, &at);
    if (!ret)
        a->xsdt.entry[a->count++] = at;
    return ret;
}

/* What iasl made: a whole table, its checksum included. */
static int add_compiled(struct area *a, const unsigned char *aml, gpa_t *at)
{
    struct acpi_header h;

    memcpy(&h, aml, sizeof(h));
    return at ? add_table(a, h, aml + sizeof(h), at) : add_listed(a, h, aml + sizeof(h));
}

static struct acpi_gas io_gas(uint16_t port, uint8_t bits, uint8_t access)
{
    return (struct acpi_gas){.space = 1, .bits = bits, .access = access, .address = port};
}

static int add_fadt(struct area *a)
{
    struct acpi_facs facs = {.signature = {'F', 'A', 'C', 'S'}, .length = sizeof(facs), .version = 2};
    struct acpi_fadt f = {
        .header = make_header("FACP", 6, sizeof(f)),
        .minor_revision = 4,
        .preferred_pm_profile = 4, /* enterprise server */
        .sci_int = SCI,
        .pm1a_evt_blk = ACPI_PM1_EVENT_PORT,
        .pm1a_cnt_blk = ACPI_PM1_CONTROL_PORT,
        .pm_tmr_blk = ACPI_PM_TIMER_PORT,
        .pm1_evt_len = 4,
        .pm1_cnt_len = 2,
        .pm_tmr_len = 4,
        .p_lvl2_lat = 0x0fff, /* no C2, no C3 */
        .p_lvl3_lat = 0xffff,
        .century = 0x32,
        .iapc_boot_arch = FADT_LEGACY_DEVICES | FADT_VGA_ABSENT,
        .flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_FIX_RTC | FADT_TMR_VAL_EXT | FADT_RESET_REG_SUP,
        .reset_reg = io_gas(RESET_PORT, 8, 1),
        .reset_value = RESET_VALUE,
        .x_pm1a_evt_blk = io_gas(ACPI_PM1_EVENT_PORT, 32, 2),
        .x_pm1a_cnt_blk = io_gas(ACPI_PM1_CONTROL_PORT, 16, 2),
        .x_pm_tmr_blk = io_gas(ACPI_PM_TIMER_PORT, 32, 3),
        .hypervisor_vendor = {'U', 'M', 'B', 'R', 'A'},
    };
    gpa_t facs_at, dsdt_at;
    int ret = reserve(a, sizeof(facs), &facs_at);

    if (!ret)
        ret = write_at(a, facs_at, &facs, sizeof(facs));
    if (!ret)
        ret = add_compiled(a, dsdt_aml, &dsdt_at);
    if (ret)
        return ret;
    f.firmware_ctrl = (uint32_t)facs_at; /* x_firmware_ctrl is for one above 4 GiB */
    f.dsdt = (uint32_t)dsdt_at;
    f.x_dsdt = dsdt_at;
    return add_listed(a, f.header, (uint8_t *)&f + sizeof(f.header));
}

static int add_madt(struct area *a, const struct acpi_machine *machine)
{
    size_t len = offsetof(struct acpi_madt, lapic) + machine->cpus * sizeof(struct madt_lapic);
    struct acpi_madt m = {
        .header = make_header("APIC", 5, len),
        .lapic_address = LAPIC_GPA,
        .flags = MADT_PCAT_COMPAT,
        .ioapic = {.type = 1, .length = sizeof(m.ioapic), .id = 0, .address = IOAPIC_GPA},
        .timer = {.type = 2, .length = sizeof(m.timer), .source = 0, .gsi = 2},
        .sci = {.type = 2, .length = sizeof(m.sci), .source = SCI, .gsi = SCI, .flags = MADT_ACTIVE_HIGH_LEVEL},
        .nmi = {.type = 4, .length = sizeof(m.nmi), .uid = 0xff, .lint = 1},
    };

    for (unsigned i = 0; i < machine->cpus; i++)
        m.lapic[i] = (struct madt_lapic){
            .type = 0, .length = sizeof(m.lapic[i]), .uid = (uint8_t)i, .apic_id = machine->apic_id[i], .flags = 1};
    return add_listed(a, m.header, (uint8_t *)&m + sizeof(m.header));
}

static int add_pci(struct area *a)
{
    struct acpi_mcfg m = {
        .header = make_header("MCFG", 1, sizeof(m)),
        .base = BOOT_ECAM_GPA,
        .last_bus = (uint8_t)((BOOT_ECAM_SIZE >> 20) - 1), /* 1 MiB a bus */
    };
    int ret = add_listed(a, m.header, (uint8_t *)&m + sizeof(m.header));

    return ret ? ret : add_compiled(a, pci_aml, NULL);
}

static int add_extra(struct area *a, const struct acpi_extra *x)
{
    if (x->len > ACPI_AREA_END - ACPI_AREA_GPA)
        return err_set(a->err, ENOSPC, "an ACPI table %s of %zu bytes is too large", x->signature, x->len);
    return add_listed(a, make_header(x->signature, x->revision, sizeof(struct acpi_header) + x->len), x->body);
}

static int add_root(struct area *a, gpa_t rsdp_at)
{
    struct acpi_rsdp r = {.signature = {'R', 'S', 'D', ' ', 'P', 'T', 'R', ' '}, .revision = 2, .length = sizeof(r)};
    gpa_t xsdt_at;
    int ret = add_table(a, make_header("XSDT", 1, offsetof(struct acpi_xsdt, entry) + a->count * sizeof(a->xsdt.entry[0])), a->xsdt.entry,
                        &xsdt_at);

    if (ret)
        return ret;
    memcpy(r.oem_id, OEM_ID, sizeof(r.oem_id));
    r.xsdt = xsdt_at;
    r.checksum = (uint8_t)-sum(&r, offsetof(struct acpi_rsdp, length), 0);
    r.extended_checksum = (uint8_t)-sum(&r, sizeof(r), 0);
    return write_at(a, rsdp_at, &r, sizeof(r));
}

int acpi_write_tables(struct mem *mem, const struct acpi_machine *machine, gpa_t *rsdp, struct err *e)
{
    struct area a = {.mem = mem, .err = e, .at = ACPI_AREA_GPA};
    int ret;

    BUG_ON(!machine->cpus || machine->cpus > ACPI_CPUS_MAX);
    ret = reserve(&a, sizeof(struct acpi_rsdp), rsdp);
    if (!ret)
        ret = add_fadt(&a);
    if (!ret)
        ret = add_madt(&a, machine);
    if (!ret && machine->pci)
        ret = add_pci(&a);
    for (unsigned i = 0; i < machine->extra_count && !ret; i++)
        ret = add_extra(&a, &machine->extra[i]);
    return ret ? ret : add_root(&a, *rsdp);
}
