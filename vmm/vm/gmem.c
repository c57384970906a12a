#include "vmm/vm/gmem.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "lib/base/base.h"
#include "lib/base/ck.h"

/*
 * Guest memory.
 *
 * The regions are an immutable sorted array behind one pointer. Adding or removing
 * builds a new array and publishes it; gmem.h says why the old one can go at once.
 * Between the array and a host pointer there is a binary search, which costs less
 * than a cache miss with the two to six regions of a machine.
 *
 * The bitmaps are mappings too: a byte per page would be a megabyte of private
 * memory for 4 GiB, most of it never touched.
 */

struct snapshot {
    size_t n;
    struct gmem_region regions[];
};

struct gmem {
    _Atomic(struct snapshot *) snapshot;
    gmem_invalidate_fn invalidate;
    void *invalidate_opaque;
    struct gmem_listener listener;
};

#define GUARD GMEM_PAGE_SIZE
#define HUGE  (2 * MIB)

/*
 * @len bytes between two pages that nothing may touch: they catch a
 * stray access, and keep the kernel from merging the mapping with a neighbour, so
 * that guest RAM is told apart in /proc/PID/smaps on kernels without names too.
 *
 * What has room for a huge page starts where one may: see use_huge_pages().
 */
static void *map_lazily(size_t len)
{
    size_t room = len >= HUGE ? HUGE : 0;
    uint8_t *p = mmap(NULL, len + 2 * GUARD + room, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        return NULL;
    }
    if (room) {
        uint8_t *start = (uint8_t *)ALIGN_UP((uintptr_t)p + GUARD, HUGE) - GUARD;
        size_t before = (size_t)(start - p);
        if (before) {
            munmap(p, before);
        }
        munmap(start + len + 2 * GUARD, room - before);
        p = start;
    }
    if (mprotect(p + GUARD, len, PROT_READ | PROT_WRITE) < 0) {
        munmap(p, len + 2 * GUARD);
        return NULL;
    }
    return p + GUARD;
}

/*
 * Guest RAM in huge pages where the host has them at hand: a first touch of memory is
 * one fault for 512 pages, and the host's own TLB reaches further. Kernels without
 * them refuse.
 */
static void use_huge_pages(void *p, size_t len)
{
    (void)madvise(p, len, MADV_HUGEPAGE);
}

static void unmap(void *p, size_t len)
{
    if (p) {
        munmap((uint8_t *)p - GUARD, len + 2 * GUARD);
    }
}

/* Show as [anon:guest-ram] in /proc/PID/smaps; kernels without names refuse. */
static void name_mapping(void *p, size_t len, const char *name)
{
#ifndef PR_SET_VMA
    #define PR_SET_VMA           0x53564d41
    #define PR_SET_VMA_ANON_NAME 0
#endif
    (void)prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, p, len, name);
}

static const struct snapshot *snapshot_get(const struct gmem *m)
{
    return atomic_load_explicit(&m->snapshot, memory_order_acquire);
}

static struct snapshot *snapshot_new(size_t n)
{
    struct snapshot *s = g_malloc0(sizeof(*s) + n * sizeof(s->regions[0]));
    s->n = n;
    return s;
}

struct gmem_block {
    struct gmem_region all; /* name, memory and bytes for the whole */
};

static void region_done(struct gmem_region *r)
{
    size_t pages = r->len >> GMEM_PAGE_SHIFT;
    if (!r->block) {
        unmap(r->host, r->len);
        unmap(r->dirty, pages);
        unmap(r->code, pages);
    }
    g_free((char *)r->name);
}

/* Give @r, of which name, kind and length are set, memory of its own. */
static bool reserve(struct gmem_region *r, GError **error)
{
    size_t pages = r->len >> GMEM_PAGE_SHIFT;
    r->host = map_lazily(r->len);
    r->dirty = map_lazily(pages);
    r->code = map_lazily(pages);
    if (!r->host || !r->dirty || !r->code) {
        return error_errno(error, errno,
                           "cannot reserve %" PRIu64 " MiB of memory for '%s'",
                           r->len / MIB, r->name);
    }
    name_mapping(r->host, r->len, "guest-ram");
    if (r->kind == GMEM_RAM) {
        use_huge_pages(r->host, r->len);
    }
    return true;
}

struct gmem *gmem_new(void)
{
    struct gmem *m = g_new0(struct gmem, 1);
    atomic_init(&m->snapshot, snapshot_new(0));
    return m;
}

void gmem_free(struct gmem *m)
{
    if (!m) {
        return;
    }
    struct snapshot *s = atomic_load(&m->snapshot);
    for (size_t i = 0; i < s->n; i++) {
        region_done(&s->regions[i]);
    }
    g_free(s);
    g_free(m);
}

void gmem_set_invalidate(struct gmem *m, gmem_invalidate_fn fn, void *opaque)
{
    m->invalidate = fn;
    m->invalidate_opaque = opaque;
}

void gmem_set_listener(struct gmem *m, const struct gmem_listener *listener)
{
    m->listener = *listener;
}

/* Index of the first region that ends after @gpa; s->n when there is none. */
static size_t first_after(const struct snapshot *s, gpa_t gpa)
{
    size_t lo = 0, hi = s->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        const struct gmem_region *r = &s->regions[mid];
        if (gpa >= r->gpa && gpa - r->gpa >= r->len) {
            lo = mid + 1;
        } else if (gpa < r->gpa) {
            hi = mid;
        } else {
            return mid;
        }
    }
    return lo;
}

static const struct gmem_region *find(const struct snapshot *s, gpa_t gpa)
{
    size_t i = first_after(s, gpa);
    return i < s->n && gpa >= s->regions[i].gpa ? &s->regions[i] : NULL;
}

const struct gmem_region *gmem_find(const struct gmem *m, gpa_t gpa)
{
    return find(snapshot_get(m), gpa);
}

const struct gmem_region *gmem_regions(const struct gmem *m, size_t *ret_n)
{
    const struct snapshot *s = snapshot_get(m);
    *ret_n = s->n;
    return s->regions;
}

static void publish(struct gmem *m, struct snapshot *s)
{
    g_free(atomic_exchange_explicit(&m->snapshot, s, memory_order_acq_rel));
}

/* Publish a snapshot without the region of index @at, which the caller owns then. */
static struct gmem_region take_out(struct gmem *m, size_t at)
{
    const struct snapshot *old = snapshot_get(m);
    struct gmem_region gone = old->regions[at];
    struct snapshot *s = snapshot_new(old->n - 1);
    memcpy(s->regions, old->regions, at * sizeof(gone));
    memcpy(&s->regions[at], &old->regions[at + 1], (s->n - at) * sizeof(gone));
    publish(m, s);
    return gone;
}

/* Whether @r may be there; *ret_at is its place in the array then. */
static bool check_place(const struct snapshot *s, const struct gmem_region *r,
                        size_t *ret_at, GError **error)
{
    uint64_t end;
    if (r->len == 0 || (r->gpa | r->len) & (GMEM_PAGE_SIZE - 1)) {
        return error_msg(error,
                         "memory '%s' at 0x%" PRIx64 ", 0x%" PRIx64
                         " bytes, is not a whole number of pages",
                         r->name, r->gpa, r->len);
    }
    if (!ck_add(r->gpa, r->len - 1, &end) || r->len > SIZE_MAX / 2) {
        return error_msg(error,
                         "memory '%s' at 0x%" PRIx64 ", 0x%" PRIx64
                         " bytes, does not fit the address space",
                         r->name, r->gpa, r->len);
    }
    *ret_at = first_after(s, r->gpa);
    if (*ret_at < s->n && s->regions[*ret_at].gpa <= end) {
        const struct gmem_region *o = &s->regions[*ret_at];
        return error_msg(error,
                         "memory '%s' at 0x%" PRIx64 ", 0x%" PRIx64
                         " bytes, overlaps '%s' at 0x%" PRIx64 ", 0x%" PRIx64 " bytes",
                         r->name, r->gpa, r->len, o->name, o->gpa, o->len);
    }
    return true;
}

/* Publish a snapshot with @r, whose name is copied and whose memory is taken over. */
static bool put_in(struct gmem *m, size_t at, struct gmem_region r, GError **error)
{
    const struct snapshot *old = snapshot_get(m);
    struct snapshot *s = snapshot_new(old->n + 1);
    r.name = g_strdup(r.name);
    memcpy(s->regions, old->regions, at * sizeof(r));
    s->regions[at] = r;
    memcpy(&s->regions[at + 1], &old->regions[at], (old->n - at) * sizeof(r));
    publish(m, s);
    if (m->listener.added &&
        !m->listener.added(m->listener.opaque, &s->regions[at], error)) {
        g_prefix_error(error, "memory '%s': ", r.name);
        r = take_out(m, at);
        region_done(&r);
        return false;
    }
    return true;
}

bool gmem_add(struct gmem *m, const char *name, enum gmem_kind kind, gpa_t gpa,
              uint64_t len, GError **error)
{
    struct gmem_region r = {.name = name, .kind = kind, .gpa = gpa, .len = len};
    size_t at;
    if (!check_place(snapshot_get(m), &r, &at, error)) {
        return false;
    }
    if (!reserve(&r, error)) {
        r.name = NULL;
        region_done(&r);
        return false;
    }
    return put_in(m, at, r, error);
}

struct gmem_block *gmem_block_new(const char *name, uint64_t len, GError **error)
{
    struct gmem_block *b = g_new0(struct gmem_block, 1);
    assert(len && len % GMEM_PAGE_SIZE == 0);
    b->all = (struct gmem_region){.name = g_strdup(name), .kind = GMEM_RAM, .len = len};
    if (!reserve(&b->all, error)) {
        gmem_block_free(b);
        return NULL;
    }
    return b;
}

void gmem_block_free(struct gmem_block *b)
{
    if (b) {
        region_done(&b->all);
        g_free(b);
    }
}

uint8_t *gmem_block_host(const struct gmem_block *b)
{
    return b->all.host;
}

uint64_t gmem_block_len(const struct gmem_block *b)
{
    return b->all.len;
}

_Atomic uint8_t *gmem_block_dirty(const struct gmem_block *b)
{
    return b->all.dirty;
}

bool gmem_map(struct gmem *m, struct gmem_block *b, enum gmem_kind kind, gpa_t gpa,
              uint64_t off, uint64_t len, GError **error)
{
    size_t first = off >> GMEM_PAGE_SHIFT, at;
    assert(off % GMEM_PAGE_SIZE == 0 && off <= b->all.len && len <= b->all.len - off);
    struct gmem_region r = {.name = b->all.name,
                            .kind = kind,
                            .gpa = gpa,
                            .len = len,
                            .host = b->all.host + off,
                            .dirty = b->all.dirty + first,
                            .code = b->all.code + first,
                            .block = b};
    return check_place(snapshot_get(m), &r, &at, error) && put_in(m, at, r, error);
}

void gmem_remove(struct gmem *m, gpa_t gpa)
{
    const struct snapshot *old = snapshot_get(m);
    size_t at = first_after(old, gpa);
    assert(at < old->n && old->regions[at].gpa == gpa);
    struct gmem_region gone = take_out(m, at);
    if (m->listener.removed) {
        m->listener.removed(m->listener.opaque, &gone);
    }
    region_done(&gone);
}

/* 0 when [gpa, gpa + len) is all memory that may be accessed so, or -errno. */
static int check_range(const struct snapshot *s, gpa_t gpa, uint64_t len, bool write)
{
    uint64_t end;
    if (!ck_add(gpa, len, &end)) {
        return -EFAULT;
    }
    int err = 0;
    while (gpa < end) {
        const struct gmem_region *r = find(s, gpa);
        if (!r) {
            return -EFAULT;
        }
        if (write && r->kind == GMEM_ROM) {
            err = -EACCES;
        }
        uint64_t left = r->len - (gpa - r->gpa);
        if (left >= end - gpa) {
            break;
        }
        gpa += left;
    }
    return err;
}

/* The bits of a code byte that [off, off + len) of a page touches; len > 0. */
static uint8_t code_mask(uint64_t off, uint64_t len)
{
    unsigned first = (unsigned)(off >> GMEM_CODE_SHIFT);
    unsigned last = (unsigned)((off + len - 1) >> GMEM_CODE_SHIFT);
    return (uint8_t)((0xffu << first) & (0xffu >> (7 - last)));
}

/*
 * Note that bytes of one region were written. The fence pairs with the
 * accelerator's between setting a code bit and reading the bytes: either it reads
 * the new bytes or we see its bit.
 */
static void region_written(const struct gmem *m, const struct gmem_region *r,
                           uint64_t off, uint64_t len)
{
    bool hit = false;
    gpa_t gpa = r->gpa + off;
    uint64_t whole = len;
    atomic_thread_fence(memory_order_seq_cst);
    while (len) {
        uint64_t page = off >> GMEM_PAGE_SHIFT, in_page = off & (GMEM_PAGE_SIZE - 1);
        uint64_t n = MIN(len, GMEM_PAGE_SIZE - in_page);
        if (!(atomic_load_explicit(&r->dirty[page], memory_order_relaxed) & 1)) {
            atomic_fetch_or_explicit(&r->dirty[page], 1, memory_order_relaxed);
        }
        uint8_t code = atomic_load_explicit(&r->code[page], memory_order_relaxed);
        if (unlikely(code) && (code & code_mask(in_page, n))) {
            hit = true;
        }
        off += n;
        len -= n;
    }
    if (unlikely(hit) && m->invalidate) {
        m->invalidate(m->invalidate_opaque, gpa, whole);
    }
}

#ifdef LODGE_TSAN
__attribute__((no_sanitize("thread"))) void gmem_copy(void *to, const void *from,
                                                      size_t len)
{
    /* One access where a processor makes one, and no call that is looked into. */
    switch (len) {
    case 1: __builtin_memcpy(to, from, 1); return;
    case 2: __builtin_memcpy(to, from, 2); return;
    case 4: __builtin_memcpy(to, from, 4); return;
    case 8: __builtin_memcpy(to, from, 8); return;
    case 16: __builtin_memcpy(to, from, 16); return;
    default: break;
    }
    volatile uint8_t *d = to;
    const volatile uint8_t *s = from;
    for (size_t i = 0; i < len; i++) {
        d[i] = s[i];
    }
}
#endif

enum copy_dir { COPY_OUT, COPY_IN };

static void copy(const struct gmem *m, const struct snapshot *s, gpa_t gpa,
                 uint8_t *buf, size_t len, enum copy_dir dir)
{
    while (len) {
        const struct gmem_region *r = find(s, gpa);
        uint64_t off = gpa - r->gpa;
        size_t n = MIN(len, r->len - off);
        if (dir == COPY_OUT) {
            gmem_copy(buf, r->host + off, n);
        } else {
            gmem_copy(r->host + off, buf, n);
            region_written(m, r, off, n);
        }
        buf += n;
        gpa += n;
        len -= n;
    }
}

int gmem_read(const struct gmem *m, gpa_t gpa, void *buf, size_t len)
{
    const struct snapshot *s = snapshot_get(m);
    int err = check_range(s, gpa, len, false);
    if (!err) {
        copy(m, s, gpa, buf, len, COPY_OUT);
    }
    return err;
}

int gmem_write(struct gmem *m, gpa_t gpa, const void *buf, size_t len)
{
    const struct snapshot *s = snapshot_get(m);
    int err = check_range(s, gpa, len, true);
    if (!err) {
        copy(m, s, gpa, (uint8_t *)buf, len, COPY_IN);
    }
    return err;
}

int gmem_load(struct gmem *m, gpa_t gpa, const void *buf, size_t len)
{
    const struct snapshot *s = snapshot_get(m);
    int err = check_range(s, gpa, len, false);
    if (!err) {
        copy(m, s, gpa, (uint8_t *)buf, len, COPY_IN);
    }
    return err;
}

int gmem_iov(const struct gmem *m, gpa_t gpa, size_t len, bool write, struct iovec *iov,
             unsigned *n_iov, unsigned max)
{
    const struct snapshot *s = snapshot_get(m);
    int err = check_range(s, gpa, len, write);
    if (err) {
        return err;
    }
    unsigned n = *n_iov;
    while (len) {
        if (n >= max) {
            return -E2BIG;
        }
        const struct gmem_region *r = find(s, gpa);
        uint64_t off = gpa - r->gpa;
        size_t part = MIN(len, r->len - off);
        iov[n++] = (struct iovec){.iov_base = r->host + off, .iov_len = part};
        gpa += part;
        len -= part;
    }
    *n_iov = n;
    return 0;
}

void gmem_written(struct gmem *m, gpa_t gpa, size_t len)
{
    const struct snapshot *s = snapshot_get(m);
    while (len) {
        const struct gmem_region *r = find(s, gpa);
        if (!r) {
            return;
        }
        uint64_t off = gpa - r->gpa;
        size_t n = MIN(len, r->len - off);
        region_written(m, r, off, n);
        gpa += n;
        len -= n;
    }
}
