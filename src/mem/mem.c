/* Guest-physical memory: one reservation of the host, laid out below and above the hole at 3 GiB. */
#include "mem/mem.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE MIB(2)

/* What vCPUs and devices do to the same bytes of guest memory is between guest programs: no race of ours. */
#ifdef __SANITIZE_THREAD__
void AnnotateBenignRaceSized(const char *file, int line, const volatile void *, size_t, const char *what);
#define RACES_ARE_THE_GUESTS(p, size) AnnotateBenignRaceSized(__FILE__, __LINE__, p, size, "guest memory")
#else
#define RACES_ARE_THE_GUESTS(p, size) ((void)0)
#endif

static int open_shared(struct mem *m, struct err *e)
{
    m->fd = memfd_create("umbra-memory", MFD_CLOEXEC);
    if (m->fd < 0)
        return err_set(e, errno, "cannot create shared guest memory: %s", strerror(errno));
    if (ftruncate(m->fd, (off_t)m->size) != 0) {
        int error = errno;

        close(m->fd);
        m->fd = -1;
        return err_set(e, error, "cannot give %llu MiB to shared guest memory: %s", (unsigned long long)(m->size >> 20), strerror(error));
    }
    return 0;
}

/*
 * At a multiple of HUGE_PAGE, as guest-physical addresses are: only then can the MMU below map huge pages of the guest's memory as such. Kernels
 * before 6.7 do not see to that.
 */
static void *map_aligned(size_t size, int flags, int fd)
{
    uint8_t *p = mmap(NULL, size + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    size_t before;

    if (p == MAP_FAILED)
        return p;
    before = ALIGN_UP((uintptr_t)p, HUGE_PAGE) - (uintptr_t)p;
    if (before)
        munmap(p, before);
    if (before != HUGE_PAGE)
        munmap(p + before + size, HUGE_PAGE - before);
    return mmap(p + before, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED | MAP_NORESERVE, fd, 0);
}

static int reserve(struct mem *m, struct err *e)
{
    void *p = map_aligned(m->size, m->fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, m->fd);

    if (p == MAP_FAILED)
        return err_set(e, errno, "cannot reserve %llu MiB of guest memory (%s); give the guest less --memory",
                       (unsigned long long)(m->size >> 20), strerror(errno));
    m->base = p;
    /* Advice: where the host has no huge pages, small ones serve. */
    if (m->fd < 0)
        (void)madvise(p, m->size, MADV_HUGEPAGE);
    (void)madvise(p, m->size, MADV_DONTDUMP);
    RACES_ARE_THE_GUESTS(p, m->size);
    return 0;
}

static void add_region(struct mem *m, gpa_t gpa, uint64_t size)
{
    struct mem_region *r = &m->regions[m->region_count++];

    *r = (struct mem_region){.gpa = gpa, .size = size, .hva = m->base + m->page_count * PAGE_SIZE, .first_page = m->page_count};
    m->page_count += size >> PAGE_SHIFT;
}

int mem_init(struct mem *m, uint64_t size, bool shared, struct err *e)
{
    uint64_t low = MIN(size, MEM_LOW_TOP);
    int error = 0;

    *m = (struct mem){.size = size, .fd = -1};
    if (size == 0 || size % PAGE_SIZE)
        return err_set(e, EINVAL, "guest memory of %llu bytes is not a whole number of pages", (unsigned long long)size);
    if (shared)
        error = open_shared(m, e);
    if (!error)
        error = reserve(m, e);
    if (error) {
        mem_fini(m);
        return error;
    }
    add_region(m, 0, low);
    if (size > low)
        add_region(m, MEM_HIGH_BASE, size - low);
    return 0;
}

void mem_fini(struct mem *m)
{
    if (m->base)
        munmap(m->base, m->size);
    if (m->fd >= 0)
        close(m->fd);
    *m = (struct mem){.fd = -1};
}

static void changed(struct mem *m, gpa_t gpa, size_t len)
{
    if (m->code_changed)
        m->code_changed(m->code_changed_opaque, gpa, len);
}

void mem_clear(struct mem *m)
{
    /* Dropped pages come back as zeros: private ones by DONTNEED, a memfd's by punching holes. */
    if (madvise(m->base, m->size, m->fd >= 0 ? MADV_REMOVE : MADV_DONTNEED) != 0)
        memset(m->base, 0, m->size);
    for (unsigned i = 0; i < m->region_count; i++)
        changed(m, m->regions[i].gpa, m->regions[i].size);
}

const struct mem_region *mem_find(const struct mem *m, gpa_t gpa)
{
    for (unsigned i = 0; i < m->region_count; i++)
        if (gpa >= m->regions[i].gpa && gpa - m->regions[i].gpa < m->regions[i].size)
            return &m->regions[i];
    return NULL;
}

void *mem_hva(const struct mem *m, gpa_t gpa, size_t len)
{
    const struct mem_region *r = mem_find(m, gpa);

    return r && len <= r->size - (gpa - r->gpa) ? r->hva + (gpa - r->gpa) : NULL;
}

/* Whether every byte is in memory, writable where that is wanted. Regions need not touch. */
static bool holds(const struct mem *m, gpa_t gpa, size_t len, bool write)
{
    while (len) {
        const struct mem_region *r = mem_find(m, gpa);
        uint64_t here;

        if (!r || (write && (r->flags & MEM_READONLY)))
            return false;
        here = MIN(len, r->size - (gpa - r->gpa));
        gpa += here;
        len -= here;
    }
    return true;
}

/* The bytes from gpa on that lie side by side on the host. After holds(). */
static uint8_t *piece(const struct mem *m, gpa_t gpa, size_t len, size_t *here)
{
    const struct mem_region *r = mem_find(m, gpa);

    *here = MIN(len, r->size - (gpa - r->gpa));
    return r->hva + (gpa - r->gpa);
}

int mem_read(const struct mem *m, gpa_t gpa, void *buf, size_t len)
{
    uint8_t *to = buf;
    size_t here;

    if (!holds(m, gpa, len, false))
        return -EFAULT;
    for (; len; gpa += here, to += here, len -= here) {
        const uint8_t *from = piece(m, gpa, len, &here);

        memcpy(to, from, here);
    }
    return 0;
}

int mem_write(struct mem *m, gpa_t gpa, const void *buf, size_t len)
{
    const uint8_t *from = buf;
    size_t here;

    if (!holds(m, gpa, len, true))
        return -EFAULT;
    for (; len; gpa += here, from += here, len -= here) {
        uint8_t *to = piece(m, gpa, len, &here);

        memcpy(to, from, here);
        changed(m, gpa, here);
    }
    return 0;
}

int mem_fill(struct mem *m, gpa_t gpa, uint8_t byte, size_t len)
{
    size_t here;

    if (!holds(m, gpa, len, true))
        return -EFAULT;
    for (; len; gpa += here, len -= here) {
        uint8_t *to = piece(m, gpa, len, &here);

        memset(to, byte, here);
        changed(m, gpa, here);
    }
    return 0;
}
