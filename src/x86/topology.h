/* Sockets, cores and threads: APIC ids made of bit fields, and the CPUID leaves that tell of them (SDM vol. 3 9.9). */
#pragma once

#include "base/types.h"

/*
 * Inline, because it is also called where guest vectors are live, in code that is compiled without them. An APIC id is
 * socket | core | thread, each field as wide as its counts need, so that ids have gaps where a count is no power of 2.
 */
struct x86_topology {
    unsigned sockets, cores, threads; /* per machine, socket, core; each at least 1 */
};

/* The smallest width that tells count ids apart. */
static inline unsigned x86_id_bits(unsigned count)
{
    unsigned bits = 0;

    while ((1u << bits) < count)
        bits++;
    return bits;
}

static inline unsigned x86_thread_bits(const struct x86_topology *t)
{
    return x86_id_bits(t->threads);
}

/* Of core and thread: what is above is the socket. */
static inline unsigned x86_socket_shift(const struct x86_topology *t)
{
    return x86_id_bits(t->cores) + x86_thread_bits(t);
}

/* The APIC id of the index-th CPU; threads of a core are neighbours, and cores of a socket. Below 255 for up to 64 CPUs. */
static inline uint32_t x86_apic_id(const struct x86_topology *t, unsigned index)
{
    unsigned thread = index % t->threads;
    unsigned core = index / t->threads % t->cores;
    unsigned socket = index / t->threads / t->cores;

    return socket << x86_socket_shift(t) | core << x86_thread_bits(t) | thread;
}

enum x86_cpuid_reg { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

/* Writes the bits of mask, and leaves the others. */
static inline void x86_put_bits(uint32_t *reg, uint32_t mask, uint32_t value)
{
    *reg = (*reg & ~mask) | (value & mask);
}

static inline uint32_t x86_ids_less_1(unsigned bits)
{
    return (1u << bits) - 1;
}

/* Leaf 4, and AMD's 0x8000001D: level 3 is the socket's, what is nearer is the core's. EAX 4:0 is 0 where there is no such cache. */
static inline void x86_topology_cache(const struct x86_topology *t, bool amd, uint32_t out[4])
{
    unsigned level = out[CPUID_EAX] >> 5 & 7;

    if (!(out[CPUID_EAX] & 0x1f))
        return;
    x86_put_bits(&out[CPUID_EAX], 0x3ffc000, x86_ids_less_1(level >= 3 ? x86_socket_shift(t) : x86_thread_bits(t)) << 14);
    if (!amd)
        x86_put_bits(&out[CPUID_EAX], 0xfc000000, x86_ids_less_1(x86_id_bits(t->cores)) << 26);
}

/* Leaves 0xB and 0x1F: threads, cores, then nothing; the id is told whatever the level. */
static inline void x86_topology_levels(const struct x86_topology *t, uint32_t apic_id, uint32_t sub, uint32_t out[4])
{
    out[CPUID_EAX] = sub == 0 ? x86_thread_bits(t) : sub == 1 ? x86_socket_shift(t) : 0;
    out[CPUID_EBX] = sub == 0 ? t->threads : sub == 1 ? t->threads * t->cores : 0;
    out[CPUID_ECX] = (sub & 0xff) | (sub < 2 ? (sub + 1) << 8 : 0);
    out[CPUID_EDX] = apic_id;
}

/* AMD's 0x8000001E: extended APIC id; the core in its socket and its threads; the socket is a node. */
static inline void x86_topology_node(const struct x86_topology *t, uint32_t apic_id, uint32_t out[4])
{
    uint32_t core = apic_id >> x86_thread_bits(t) & x86_ids_less_1(x86_id_bits(t->cores));

    out[CPUID_EAX] = apic_id;
    out[CPUID_EBX] = core | (t->threads - 1) << 8;
    out[CPUID_ECX] = apic_id >> x86_socket_shift(t);
    out[CPUID_EDX] = 0;
}

/*
 * Puts the topology into what the CPU with this APIC id answers to CPUID (leaf, sub): out has the host's or the hypervisor's answer, of which
 * everything else is kept. For leaves 1, 4, 0xB, 0x1F, 0x80000001 (CmpLegacy), 0x80000008, 0x8000001D and 0x8000001E; others are left alone.
 * amd: the vendor is AMD or Hygon, which count in places where Intel rounds up to what an id can tell apart.
 */
static inline void x86_topology_cpuid(const struct x86_topology *t, bool amd, uint32_t apic_id, uint32_t leaf, uint32_t sub,
                                      uint32_t out[4])
{
    unsigned in_socket = t->cores * t->threads;

    switch (leaf) {
    case 1:
        x86_put_bits(&out[CPUID_EBX], 0xffff0000, apic_id << 24 | (amd ? in_socket : 1u << x86_socket_shift(t)) << 16);
        x86_put_bits(&out[CPUID_EDX], 1u << 28, (uint32_t)(in_socket > 1) << 28); /* HTT: the count is worth reading */
        break;
    case 4:
        if (!amd)
            x86_topology_cache(t, false, out);
        break;
    case 0xb: x86_topology_levels(t, apic_id, sub, out); break;
    case 0x1f:
        if (!amd)
            x86_topology_levels(t, apic_id, sub, out);
        break;
    case 0x80000001:
        if (amd)
            x86_put_bits(&out[CPUID_ECX], 1u << 1, (uint32_t)(in_socket > 1) << 1);
        break;
    case 0x80000008:
        if (amd)
            x86_put_bits(&out[CPUID_ECX], 0xf0ff, x86_socket_shift(t) << 12 | (in_socket - 1));
        break;
    case 0x8000001d:
        if (amd)
            x86_topology_cache(t, true, out);
        break;
    case 0x8000001e:
        if (amd)
            x86_topology_node(t, apic_id, out);
        break;
    default: break;
    }
}
