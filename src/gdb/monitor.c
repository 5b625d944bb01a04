/* What gdb's "monitor" commands do. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gdb/session.h"
#include "x86/paging.h"

static void say(struct gdb *g, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void say(struct gdb *g, const char *fmt, ...)
{
    char text[256];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    gdb_reply_hex(&g->reply, text, strlen(text));
}

static const char *mode_name(const struct cpu_state *s)
{
    static const char *const paging[] = {"no paging", "32-bit paging", "PAE paging", "4-level paging"};

    if (s->efer & EFER_LMA)
        return s->cr4 & CR4_LA57 ? "long mode, 5-level paging" : "long mode, 4-level paging";
    return s->cr0 & CR0_PE ? paging[paging_mode(s->cr0, s->cr4, s->efer)] : "real mode";
}

static void info(struct gdb *g, const char *arg)
{
    (void)arg;
    say(g, "%s: %u CPU%s on the %s engine, %llu MiB\n", g->vm->config.name, g->vm->vcpu_count, g->vm->vcpu_count == 1 ? "" : "s",
        g->vm->engine->name, (unsigned long long)g->vm->mem.size >> 20);
    for (unsigned i = 0; i < g->vm->vcpu_count; i++) {
        const struct cpu_state *s = gdb_state(g, i, CPU_GPRS | CPU_SREGS | CPU_EVENTS);

        if (s)
            say(g, "CPU %u: rip 0x%llx, cr3 0x%llx, %s%s%s\n", i, (unsigned long long)s->rip, (unsigned long long)s->cr3, mode_name(s),
                s->halted ? ", halted" : "", s->wait_for_sipi ? ", not started" : "");
    }
}

static void translate(struct gdb *g, const char *arg)
{
    const struct cpu_state *s = gdb_state(g, g->selected, CPU_SREGS);
    struct gdb_mapping mapping;
    char *end;
    gva_t gva = strtoull(arg, &end, 0);

    if (end == arg || *end)
        say(g, "translate needs an address: monitor translate 0xffffffff81000000\n");
    else if (!s || gdb_translate(s, &g->vm->mem, gva, &mapping) != 0)
        say(g, "0x%llx is not mapped\n", (unsigned long long)gva);
    else
        say(g, "0x%llx is physical 0x%llx, in a page of %llu KiB%s\n", (unsigned long long)gva, (unsigned long long)mapping.gpa,
            1ULL << (mapping.shift - 10), mem_find(&g->vm->mem, mapping.gpa) ? "" : ", not RAM");
}

static void nmi(struct gdb *g, const char *arg)
{
    (void)arg;
    if (g->vm->engine->nmi(g->vm->vcpus[g->selected]) != 0)
        say(g, "CPU %u cannot take an NMI\n", g->selected);
}

/* Carried out before the guest goes on: its vCPUs stay held meanwhile. */
static void reset(struct gdb *g, const char *arg)
{
    (void)arg;
    vm_request_end(g->vm, VM_END_RESET, VM_RESET_BY_HOST, NULL);
    say(g, "resetting; \"maintenance flush register-cache\" makes gdb look at the registers anew\n");
}

static void quit(struct gdb *g, const char *arg)
{
    (void)arg;
    gdb_kill(g);
}

static void help(struct gdb *g, const char *arg);

static const struct {
    const char *name, *what;
    void (*carry_out)(struct gdb *, const char *arg);
} commands[] = {
    {"help", "this list", help},
    {"info", "the VM and each CPU's mode", info},
    {"translate", "ADDRESS: where it is in guest-physical memory, by the selected thread's page tables", translate},
    {"nmi", "an NMI for the selected thread's CPU", nmi},
    {"reset", "reset the machine", reset},
    {"quit", "end the VM", quit},
};

static void help(struct gdb *g, const char *arg)
{
    (void)arg;
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
        say(g, "%-10s %s\n", commands[i].name, commands[i].what);
}

void gdb_monitor(struct gdb *g, const char *line)
{
    size_t len = strcspn(line, " ");
    const char *arg = line + len + strspn(line + len, " ");

    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
        if (strlen(commands[i].name) == len && memcmp(commands[i].name, line, len) == 0) {
            commands[i].carry_out(g, arg);
            if (g->reply.len == 0)
                gdb_reply_text(&g->reply, "OK");
            return;
        }
    }
    say(g, "unknown command: monitor help lists them\n");
}
