/* ACPI tables: every checksum, length and pointer holds, they say what the machine is, and iasl can read each. */
#include "boot_fake.h"

#include <sys/stat.h>
#include <unistd.h>

#include "boot/acpi/tables.h"
#include "chipset/acpi_pm.h"

#define HEADER 36
#define XSDT_AT(i) (HEADER + (i)*8)

static struct mem mem;

static int setup(void **state)
{
    (void)state;
    return mem_init(&mem, MIB(2), false, NULL);
}

static int teardown(void **state)
{
    (void)state;
    mem_fini(&mem);
    return 0;
}

static uint64_t get(const uint8_t *p, unsigned bytes)
{
    uint64_t v = 0;

    memcpy(&v, p, bytes);
    return v;
}

static uint8_t sum(const uint8_t *p, size_t len)
{
    uint8_t s = 0;

    while (len--)
        s += *p++;
    return s;
}

/* A table that lies in the area, whose length and checksum hold. */
static const uint8_t *table_at(gpa_t at)
{
    const uint8_t *p;
    size_t len;

    assert_true(at >= ACPI_AREA_GPA && at + HEADER <= ACPI_AREA_END);
    p = mem_hva(&mem, at, HEADER);
    len = get(p + 4, 4);
    assert_true(len >= HEADER && at + len <= ACPI_AREA_END);
    assert_int_equal(sum(p, len), 0);
    return p;
}

static const uint8_t *xsdt(void)
{
    const uint8_t *rsdp = mem_hva(&mem, ACPI_AREA_GPA, 36);

    assert_memory_equal(rsdp, "RSD PTR ", 8);
    assert_int_equal(sum(rsdp, 20), 0);
    assert_int_equal(sum(rsdp, 36), 0);
    assert_int_equal(rsdp[15], 2);
    assert_int_equal(get(rsdp + 20, 4), 36);
    return table_at(get(rsdp + 24, 8));
}

static unsigned table_count(void)
{
    return (unsigned)(get(xsdt() + 4, 4) - HEADER) / 8;
}

/* The only table of this signature, or NULL. */
static const uint8_t *find(const char *signature)
{
    const uint8_t *found = NULL;

    for (unsigned i = 0; i < table_count(); i++) {
        const uint8_t *p = table_at(get(xsdt() + XSDT_AT(i), 8));

        if (memcmp(p, signature, 4))
            continue;
        assert_null(found);
        found = p;
    }
    return found;
}

static void write_tables(const struct acpi_machine *m)
{
    gpa_t rsdp = 0;
    struct err e = {{0}};

    assert_int_equal(mem_fill(&mem, 0, 0xee, mem.size), 0);
    assert_int_equal(acpi_write_tables(&mem, m, &rsdp, &e), 0);
    assert_int_equal(rsdp, ACPI_AREA_GPA);
}

static void the_base_tables_are_there_and_no_pci(void **state)
{
    (void)state;
    write_tables(&(struct acpi_machine){.cpus = 1});
    assert_memory_equal(xsdt(), "XSDT", 4);
    assert_int_equal(table_count(), 2);
    assert_non_null(find("FACP"));
    assert_non_null(find("APIC"));
    assert_null(find("MCFG"));
    assert_null(find("SSDT"));
}

static void the_fadt_describes_the_fixed_hardware(void **state)
{
    const uint8_t *f;

    (void)state;
    write_tables(&(struct acpi_machine){.cpus = 1});
    f = find("FACP");
    assert_int_equal(get(f + 4, 4), 276);
    assert_true(f[8] >= 2);
    assert_int_equal(get(f + 46, 2), 9); /* SCI_INT */
    assert_int_equal(get(f + 48, 4), 0); /* SMI_CMD: always in ACPI mode */
    assert_int_equal(get(f + 56, 4), ACPI_PM1_EVENT_PORT);
    assert_int_equal(get(f + 64, 4), ACPI_PM1_CONTROL_PORT);
    assert_int_equal(get(f + 76, 4), ACPI_PM_TIMER_PORT);
    assert_int_equal(f[88], 4);
    assert_int_equal(f[89], 2);
    assert_int_equal(f[91], 4);
    assert_int_equal(get(f + 109, 2) & 2, 0);             /* IAPC_BOOT_ARCH: no 8042 */
    assert_int_equal(get(f + 109, 2) & 4, 4);             /* no VGA */
    assert_int_equal(get(f + 112, 4) & BIT(0), BIT(0));   /* WBINVD */
    assert_int_equal(get(f + 112, 4) & BIT(4), 0);        /* the power button is fixed hardware */
    assert_int_equal(get(f + 112, 4) & BIT(8), BIT(8));   /* TMR_VAL_EXT */
    assert_int_equal(get(f + 112, 4) & BIT(10), BIT(10)); /* RESET_REG_SUP */
    assert_int_equal(get(f + 112, 4) & BIT(20), 0);       /* not hardware-reduced */
    assert_int_equal(f[116], 1);                          /* RESET_REG: I/O space */
    assert_int_equal(get(f + 120, 8), 0xcf9);
    assert_int_equal(f[128] & 6, 6); /* RESET_VALUE: hard reset, now */
}

static void the_extended_addresses_agree_with_the_short_ones(void **state)
{
    static const struct {
        unsigned gas, port;
    } block[] = {{148, 56}, {172, 64}, {208, 76}};
    const uint8_t *f;

    (void)state;
    write_tables(&(struct acpi_machine){.cpus = 1});
    f = find("FACP");
    for (unsigned i = 0; i < ARRAY_SIZE(block); i++) {
        assert_int_equal(f[block[i].gas], 1);
        assert_int_equal(get(f + block[i].gas + 4, 8), get(f + block[i].port, 4));
    }
    assert_int_equal(get(f + 140, 8), get(f + 40, 4)); /* X_DSDT */
    assert_int_equal(get(f + 132, 8), 0);              /* X_FIRMWARE_CTRL: never both */
}

static void facs_and_dsdt_are_where_the_fadt_says(void **state)
{
    const uint8_t *facs, *dsdt;
    gpa_t at;

    (void)state;
    write_tables(&(struct acpi_machine){.cpus = 1});
    at = get(find("FACP") + 36, 4);
    assert_int_equal(at % 64, 0);
    facs = mem_hva(&mem, at, 64);
    assert_memory_equal(facs, "FACS", 4);
    assert_int_equal(get(facs + 4, 4), 64);
    dsdt = table_at(get(find("FACP") + 40, 4));
    assert_memory_equal(dsdt, "DSDT", 4);
}

static void s5_has_the_sleep_type_of_the_chip(void **state)
{
    /* NameOp _S5_ PackageOp length 4-elements BytePrefix 5 BytePrefix 5 */
    static const uint8_t aml[] = {0x08, '_', 'S', '5', '_', 0x12, 0x08, 0x04, 0x0a, ACPI_SLP_TYP_S5, 0x0a, ACPI_SLP_TYP_S5};
    const uint8_t *dsdt;

    (void)state;
    write_tables(&(struct acpi_machine){.cpus = 1});
    dsdt = table_at(get(find("FACP") + 40, 4));
    assert_non_null(memmem(dsdt, get(dsdt + 4, 4), aml, sizeof(aml)));
}

static void the_madt_lists_every_cpu_once(void **state)
{
    static const unsigned counts[] = {1, 2, 63, 64};

    (void)state;
    for (unsigned n = 0; n < ARRAY_SIZE(counts); n++) {
        struct acpi_machine machine = {.cpus = counts[n]};
        const uint8_t *m;
        unsigned cpus = 0;

        for (unsigned i = 0; i < counts[n]; i++)
            machine.apic_id[i] = (uint8_t)(i * 3);
        write_tables(&machine);
        m = find("APIC");
        assert_int_equal(get(m + HEADER, 4), 0xfee00000);
        for (const uint8_t *p = m + HEADER + 8; p < m + get(m + 4, 4); p += p[1]) {
            assert_true(p[1] >= 2);
            if (p[0])
                continue;
            assert_int_equal(p[1], 8);
            assert_int_equal(p[2], cpus);
            assert_int_equal(p[3], cpus * 3);
            assert_int_equal(get(p + 4, 4), 1);
            cpus++;
        }
        assert_int_equal(cpus, counts[n]);
    }
}

static void the_madt_tells_how_interrupts_are_wired(void **state)
{
    static const uint8_t expected[][12] = {
        {1, 12, 0, 0, 0, 0, 0xc0, 0xfe},  /* the I/O APIC, from GSI 0 on */
        {2, 10, 0, 0, 2, 0, 0, 0, 0, 0},  /* IRQ 0 is GSI 2 */
        {2, 10, 0, 9, 9, 0, 0, 0, 13, 0}, /* the SCI: level, active high */
        {4, 6, 0xff, 0, 0, 1},            /* NMI at LINT1 of all */
    };
    unsigned seen = 0;
    const uint8_t *m;

    (void)state;
    write_tables(&(struct acpi_machine){.cpus = 4});
    m = find("APIC");
    for (const uint8_t *p = m + HEADER + 8; p < m + get(m + 4, 4); p += p[1])
        for (unsigned i = 0; i < ARRAY_SIZE(expected); i++)
            if (p[1] == expected[i][1] && !memcmp(p, expected[i], p[1]))
                seen |= 1u << i;
    assert_int_equal(seen, (1u << ARRAY_SIZE(expected)) - 1);
}

static void a_pci_machine_has_its_window_and_its_bridge(void **state)
{
    const uint8_t *m;

    (void)state;
    write_tables(&(struct acpi_machine){.cpus = 1, .pci = true});
    assert_int_equal(table_count(), 4);
    m = find("MCFG");
    assert_int_equal(get(m + 4, 4), 60);
    assert_int_equal(get(m + 44, 8), BOOT_ECAM_GPA);
    assert_int_equal(get(m + 52, 2), 0);
    assert_int_equal(m[54], 0);
    assert_int_equal((m[55] + 1) * MIB(1), BOOT_ECAM_SIZE);
    assert_non_null(find("SSDT"));
}

/* The address of a resource descriptor of this tag: minimum and maximum are the fields after the granularity. */
static bool has_window(const uint8_t *table, uint8_t tag, unsigned bytes, uint64_t low, uint64_t size)
{
    for (size_t i = HEADER; i + 6 + 5 * bytes <= get(table + 4, 4); i++) {
        const uint8_t *p = table + i;

        if (p[0] == tag && get(p + 6 + bytes, bytes) == low && get(p + 6 + 2 * bytes, bytes) == low + size - 1 &&
            get(p + 6 + 4 * bytes, bytes) == size)
            return true;
    }
    return false;
}

static void the_bridges_windows_are_those_of_the_layout(void **state)
{
    const uint8_t *ssdt;

    (void)state;
    write_tables(&(struct acpi_machine){.cpus = 1, .pci = true});
    ssdt = find("SSDT");
    assert_true(has_window(ssdt, 0x87, 4, BOOT_PCI32_GPA, BOOT_PCI32_SIZE));
    assert_true(has_window(ssdt, 0x8a, 8, BOOT_PCI64_GPA, BOOT_PCI64_SIZE));
    assert_true(has_window(ssdt, 0x87, 4, BOOT_ECAM_GPA, BOOT_ECAM_SIZE));
    assert_true(has_window(ssdt, 0x88, 2, BOOT_PCI_IO_PORT, BOOT_PCI_IO_SIZE));
}

static void inta_of_every_slot_is_routed_to_its_input(void **state)
{
    const uint8_t *ssdt;

    (void)state;
    write_tables(&(struct acpi_machine){.cpus = 1, .pci = true});
    ssdt = find("SSDT");
    for (unsigned slot = 1; slot < 32; slot++) {
        /* PackageOp length 4-elements DWordPrefix slot:any function, ZeroOp: INTA, ZeroOp: no link device, BytePrefix GSI */
        const uint8_t aml[] = {0x12, 0x0b, 4, 0x0c, 0xff, 0xff, (uint8_t)slot, 0, 0, 0, 0x0a, (uint8_t)(BOOT_PCI_GSI + slot % 4)};

        assert_non_null(memmem(ssdt, get(ssdt + 4, 4), aml, sizeof(aml)));
    }
}

static void what_devices_add_gets_a_header_and_a_place(void **state)
{
    static const uint8_t body[] = {1, 2, 3, 4, 5};
    const struct acpi_extra extra[] = {{"HPET", 3, body, sizeof(body)}, {"TPM2", 1, NULL, 0}};
    const uint8_t *p;

    (void)state;
    write_tables(&(struct acpi_machine){.cpus = 1, .extra = extra, .extra_count = 2});
    p = find("HPET");
    assert_int_equal(get(p + 4, 4), HEADER + sizeof(body));
    assert_int_equal(p[8], 3);
    assert_memory_equal(p + HEADER, body, sizeof(body));
    assert_int_equal(get(find("TPM2") + 4, 4), HEADER);
}

static void tables_never_leave_their_area(void **state)
{
    const size_t len = ACPI_AREA_END - ACPI_AREA_GPA;
    uint8_t *body = calloc(1, len);
    struct acpi_extra extra[100];
    struct acpi_machine m = {.cpus = 64, .pci = true, .extra = extra, .extra_count = 1};
    size_t most = 0;
    struct err e;
    gpa_t rsdp;

    (void)state;
    extra[0] = (struct acpi_extra){"SSDT", 2, body, 0};
    for (extra[0].len = 0; extra[0].len <= len; extra[0].len += 61) {
        assert_int_equal(mem_fill(&mem, ACPI_AREA_END, 0xee, PAGE_SIZE), 0);
        if (!acpi_write_tables(&mem, &m, &rsdp, &e))
            most = extra[0].len;
        else
            assert_says(e, "larger than 128 KiB");
        assert_int_equal(*(uint8_t *)mem_hva(&mem, ACPI_AREA_END, 1), 0xee);
    }
    assert_true(most > len / 2 && most < len);
    extra[0].len = SIZE_MAX;
    assert_int_equal(acpi_write_tables(&mem, &m, &rsdp, &e), -ENOSPC);
    for (unsigned i = 0; i < ARRAY_SIZE(extra); i++)
        extra[i] = (struct acpi_extra){"SSDT", 2, body, 8};
    m.extra_count = ARRAY_SIZE(extra);
    assert_int_equal(acpi_write_tables(&mem, &m, &rsdp, &e), -ENOSPC);
    assert_says(e, "more than 64 ACPI tables");
    free(body);
}

static void too_little_memory_is_told(void **state)
{
    struct mem little;
    struct err e;
    gpa_t rsdp;

    (void)state;
    assert_int_equal(mem_init(&little, KIB(512), false, NULL), 0);
    assert_int_equal(acpi_write_tables(&little, &(struct acpi_machine){.cpus = 1}, &rsdp, &e), -ENOSPC);
    assert_says(e, "--memory");
    mem_fini(&little);
}

static void disassemble(const char *dir, const uint8_t *table, unsigned number)
{
    char path[128], command[512];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%u.dat", dir, number);
    f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(table, 1, get(table + 4, 4), f), get(table + 4, 4));
    fclose(f);
    /* iasl ends with 0 even when it cannot make sense of a table. */
    snprintf(command, sizeof(command),
             "cd %s && iasl -d %u.dat > log 2>&1 && test -s %u.dsl && ! grep -iE 'error|warning|invalid' log %u.dsl", dir, number, number,
             number);
    assert_int_equal(system(command), 0);
}

static void iasl_reads_every_table_without_complaint(void **state)
{
    char dir[] = "/tmp/acpi_tables_test.XXXXXX", command[64];
    unsigned number = 0;

    (void)state;
    if (system("command -v iasl > /dev/null")) {
        print_message("skip iasl is not installed (package acpica-tools)\n");
        skip();
    }
    assert_non_null(mkdtemp(dir));
    write_tables(&(struct acpi_machine){.cpus = 3, .pci = true});
    disassemble(dir, xsdt(), number++);
    disassemble(dir, mem_hva(&mem, get(find("FACP") + 36, 4), 64), number++);
    disassemble(dir, table_at(get(find("FACP") + 40, 4)), number++);
    for (unsigned i = 0; i < table_count(); i++)
        disassemble(dir, table_at(get(xsdt() + XSDT_AT(i), 8)), number++);
    snprintf(command, sizeof(command), "rm -r %s", dir);
    assert_int_equal(system(command), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_base_tables_are_there_and_no_pci),
        cmocka_unit_test(the_fadt_describes_the_fixed_hardware),
        cmocka_unit_test(the_extended_addresses_agree_with_the_short_ones),
        cmocka_unit_test(facs_and_dsdt_are_where_the_fadt_says),
        cmocka_unit_test(s5_has_the_sleep_type_of_the_chip),
        cmocka_unit_test(the_madt_lists_every_cpu_once),
        cmocka_unit_test(the_madt_tells_how_interrupts_are_wired),
        cmocka_unit_test(a_pci_machine_has_its_window_and_its_bridge),
        cmocka_unit_test(the_bridges_windows_are_those_of_the_layout),
        cmocka_unit_test(inta_of_every_slot_is_routed_to_its_input),
        cmocka_unit_test(what_devices_add_gets_a_header_and_a_place),
        cmocka_unit_test(tables_never_leave_their_area),
        cmocka_unit_test(too_little_memory_is_told),
        cmocka_unit_test(iasl_reads_every_table_without_complaint),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
