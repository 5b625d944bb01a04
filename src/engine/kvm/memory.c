/* Guest memory as KVM's memory slots, one for each region, and the log of what the guest wrote. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/kvm.h"

#define BITS 64U

/* slot i is region i. */
static int set_slot(struct kvm_vm *kvm, unsigned slot, bool logging)
{
    const struct mem_region *r = &kvm->vm->mem.regions[slot];
    struct kvm_userspace_memory_region region = {
        .slot = slot,
        .flags = (r->flags & MEM_READONLY ? KVM_MEM_READONLY : 0) | (logging ? KVM_MEM_LOG_DIRTY_PAGES : 0),
        .guest_phys_addr = r->gpa,
        .memory_size = r->size,
        .userspace_addr = (uintptr_t)r->hva,
    };

    return kvm_ioctl(kvm->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

int kvm_memory_init(struct kvm_vm *kvm, struct err *e)
{
    const struct mem *mem = &kvm->vm->mem;

    for (; kvm->slots < mem->region_count; kvm->slots++) {
        const struct mem_region *r = &mem->regions[kvm->slots];
        int error = set_slot(kvm, kvm->slots, false);

        if (error)
            return err_set(e, -error, "KVM does not take %llu MiB of memory at 0x%llx: %s%s", (unsigned long long)(r->size >> 20),
                           (unsigned long long)r->gpa, strerror(-error), error == -ENOMEM ? "; give the guest less --memory" : "");
    }
    return 0;
}

/* --- the dirty log --- */

static bool is_logged(const struct mem_region *r)
{
    return !(r->flags & MEM_READONLY);
}

static int set_logging(struct kvm_vm *kvm, bool on)
{
    for (unsigned i = 0; i < kvm->slots; i++) {
        int error = is_logged(&kvm->vm->mem.regions[i]) ? set_slot(kvm, i, on) : 0;

        if (error)
            return error;
    }
    return 0;
}

int kvm_dirty_start(struct vm *vm)
{
    struct kvm_vm *kvm = vm->engine_data;
    int error = set_logging(kvm, true);

    if (error)
        (void)set_logging(kvm, false); /* which of them were on already */
    kvm->logging = !error;
    return error;
}

void kvm_dirty_stop(struct vm *vm)
{
    struct kvm_vm *kvm = vm->engine_data;

    if (kvm->logging)
        (void)set_logging(kvm, false); /* what KVM took with the flag it takes without */
    kvm->logging = false;
}

/* from, of pages bits, is added to bitmap at bit first. */
static void merge(uint64_t *bitmap, uint64_t first, const uint64_t *from, uint64_t pages)
{
    unsigned shift = first % BITS;

    for (uint64_t i = 0; i < (pages + BITS - 1) / BITS; i++) {
        uint64_t *to = &bitmap[first / BITS + i];

        if (!from[i])
            continue;
        to[0] |= from[i] << shift;
        if (shift && from[i] >> (BITS - shift))
            to[1] |= from[i] >> (BITS - shift);
    }
}

int kvm_dirty_fetch(struct vm *vm, uint64_t *bitmap)
{
    struct kvm_vm *kvm = vm->engine_data;
    int error = 0;

    if (!kvm->logging)
        return -EINVAL;
    for (unsigned i = 0; i < kvm->slots && !error; i++) {
        const struct mem_region *r = &vm->mem.regions[i];
        uint64_t pages = r->size >> PAGE_SHIFT;
        uint64_t *bits = is_logged(r) ? calloc((pages + BITS - 1) / BITS, sizeof(*bits)) : NULL;
        struct kvm_dirty_log log = {.slot = i, .dirty_bitmap = bits};

        if (!is_logged(r))
            continue;
        error = bits ? kvm_ioctl(kvm->fd, KVM_GET_DIRTY_LOG, &log) : -ENOMEM;
        if (!error)
            merge(bitmap, r->first_page, bits, pages);
        free(bits);
    }
    return error;
}
