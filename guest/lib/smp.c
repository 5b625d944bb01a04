/* The other CPUs of the 64-bit guests: found in the MADT, started by INIT and SIPI, given work. */
#include "smp.h"
#include "test.h"

#define AP_STACK_BYTES 8192
#define WAIT_MS 20000

extern const uint8_t ap_page[], ap_page_end[];
void ap_main(unsigned cpu, unsigned cs) __attribute__((noreturn));

uint8_t ap_cpu_of_id[256];
uint8_t ap_stacks[SMP_MAX][AP_STACK_BYTES] __attribute__((aligned(16)));

static struct cpu_slot {
    uint32_t apic_id;
    volatile unsigned starts, start_cs;
    smp_work *volatile work;
} cpus[SMP_MAX];
static unsigned listed;
static bool started;

/* --- the MADT (ACPI 6.4 5.2.5, 5.2.8, 5.2.12) --- */

static uint64_t get(const uint8_t *p, unsigned bytes)
{
    uint64_t v = 0;

    for (unsigned i = bytes; i-- > 0;)
        v = v << 8 | p[i];
    return v;
}

static const uint8_t *find_madt(void)
{
    for (word at = 0xe0000; at < 0x100000; at += 16) {
        const uint8_t *rsdp = (const uint8_t *)at;

        if (memcmp(rsdp, "RSD PTR ", 8) != 0)
            continue;
        const uint8_t *xsdt = (const uint8_t *)(word)get(rsdp + 24, 8);
        for (unsigned off = 36; off < get(xsdt + 4, 4); off += 8) {
            const uint8_t *table = (const uint8_t *)(word)get(xsdt + off, 8);
            if (memcmp(table, "APIC", 4) == 0)
                return table;
        }
    }
    test_fail(__FILE_NAME__, __LINE__, "no MADT");
}

static void read_madt(void)
{
    const uint8_t *madt = find_madt();

    for (unsigned off = 44; off < get(madt + 4, 4); off += madt[off + 1]) {
        if (madt[off] != 0 || !(madt[off + 4] & 1) || listed == SMP_MAX)
            continue;
        cpus[listed].apic_id = madt[off + 3];
        ap_cpu_of_id[madt[off + 3]] = (uint8_t)listed;
        listed++;
    }
}

unsigned smp_listed(void)
{
    if (!listed)
        read_madt();
    return listed;
}

uint32_t smp_apic_id(unsigned cpu)
{
    return cpus[cpu].apic_id;
}

unsigned smp_self(void)
{
    return ap_cpu_of_id[apic_read(APIC_ID) >> 24];
}

/* --- starting --- */

void icr_send(uint32_t id, uint32_t bits)
{
    apic_write(APIC_ICR2, id << 24);
    apic_write(APIC_ICR, bits | ICR_ASSERT);
}

/* Its own IDT and APIC are all that it needs; interrupts open only while it has nothing to do. */
void ap_main(unsigned cpu, unsigned cs)
{
    lidt(idt, sizeof(idt) - 1);
    apic_enable();
    cpus[cpu].start_cs = cs;
    cpus[cpu].work = NULL;
    cpus[cpu].starts++;
    for (;;) {
        smp_work *work = cpus[cpu].work;

        if (work) {
            work(cpu);
            cli();
            barrier();
            cpus[cpu].work = NULL;
        } else {
            __asm__ volatile("sti; hlt; cli" : : : "memory");
        }
    }
}

static void wait_for_start(unsigned cpu, unsigned starts)
{
    uint64_t end = rdtsc() + tsc_per_ms() * WAIT_MS;

    while (cpus[cpu].starts == starts) {
        if (rdtsc() > end)
            test_fail(__FILE_NAME__, __LINE__, "CPU %u does not start", cpu);
        pause_cpu();
    }
}

void smp_restart(unsigned cpu)
{
    unsigned starts = cpus[cpu].starts;

    icr_send(cpus[cpu].apic_id, ICR_INIT);
    pit_delay_us(200);
    icr_send(cpus[cpu].apic_id, ICR_STARTUP | AP_PAGE >> 12);
    wait_for_start(cpu, starts);
}

unsigned smp_start(void)
{
    apic_enable();
    smp_listed();
    if (started)
        return listed;
    memcpy((void *)(word)AP_PAGE, ap_page, (size_t)(ap_page_end - ap_page));
    for (unsigned i = 1; i < listed; i++)
        smp_restart(i);
    started = true;
    return listed;
}

unsigned smp_starts(unsigned cpu)
{
    return cpus[cpu].starts;
}

unsigned smp_start_cs(unsigned cpu)
{
    return cpus[cpu].start_cs;
}

/* --- work --- */

static void on_wake(struct trap_frame *f)
{
    (void)f;
    apic_eoi();
}

void smp_give(unsigned cpu, smp_work *work)
{
    set_handler(SMP_WAKE_VECTOR, on_wake);
    barrier();
    cpus[cpu].work = work;
    icr_send(cpus[cpu].apic_id, SMP_WAKE_VECTOR);
}

bool smp_idle(unsigned cpu)
{
    return !cpus[cpu].work;
}

void smp_wait(void)
{
    uint64_t end = rdtsc() + tsc_per_ms() * WAIT_MS;

    for (unsigned i = 1; i < listed; i++)
        while (!smp_idle(i)) {
            if (rdtsc() > end)
                test_fail(__FILE_NAME__, __LINE__, "CPU %u does not come to an end", i);
            pause_cpu();
        }
}

void smp_run(unsigned count, smp_work *work)
{
    for (unsigned i = 1; i < count; i++)
        smp_give(i, work);
    work(0);
    smp_wait();
}
