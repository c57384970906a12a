#include "vmm/vm/aspace.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "lib/base/base.h"
#include "vmm/vm/log.h"
#include "vmm/vm/vcpu.h"
#include "vmm/vm/vm.h"

/*
 * One access: look the region up in a sorted immutable array, do it, count and time
 * it. Nothing is locked and nothing allocated. The clock is the host's monotonic
 * one through the vDSO, 23 ns a reading here, and two readings serve the region and
 * the vCPU's own counter alike: an access costs about 65 ns over what the device
 * does.
 */

struct snapshot {
    size_t n;
    struct io_region *regions[];
};

struct aspace {
    char *name;
    uint64_t last; /* the highest address */
    enum vcpu_exit reason;
    _Atomic(struct snapshot *) snapshot;
    _Atomic uint64_t unassigned;
};

struct aspace *aspace_new(const char *name, unsigned bits, enum vcpu_exit reason)
{
    assert(bits >= 1 && bits <= 64);
    struct aspace *as = g_new0(struct aspace, 1);
    as->name = g_strdup(name);
    as->last = UINT64_MAX >> (64 - bits);
    as->reason = reason;
    atomic_init(&as->snapshot, g_malloc0(sizeof(struct snapshot)));
    return as;
}

void aspace_free(struct aspace *as)
{
    if (!as) {
        return;
    }
    g_free(atomic_load(&as->snapshot));
    g_free(as->name);
    g_free(as);
}

static const struct snapshot *snapshot_get(const struct aspace *as)
{
    return atomic_load_explicit(&as->snapshot, memory_order_acquire);
}

static struct snapshot *snapshot_new(size_t n)
{
    struct snapshot *s = g_malloc(sizeof(*s) + n * sizeof(s->regions[0]));
    s->n = n;
    return s;
}

static void publish(struct aspace *as, struct snapshot *s)
{
    g_free(atomic_exchange_explicit(&as->snapshot, s, memory_order_acq_rel));
}

/* Index of the first region that ends after @addr. */
static size_t first_after(const struct snapshot *s, uint64_t addr)
{
    size_t lo = 0, hi = s->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        const struct io_region *r = s->regions[mid];
        if (addr >= r->base && addr - r->base >= r->len) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

static struct io_region *find(const struct aspace *as, uint64_t addr)
{
    const struct snapshot *s = snapshot_get(as);
    size_t i = first_after(s, addr);
    return i < s->n && addr >= s->regions[i]->base ? s->regions[i] : NULL;
}

bool aspace_add(struct aspace *as, struct io_region *region, GError **error)
{
    const struct snapshot *old = snapshot_get(as);
    if (region->len == 0 || region->base > as->last ||
        region->len - 1 > as->last - region->base) {
        return error_msg(error,
                         "'%s' at 0x%" PRIx64 ", 0x%" PRIx64
                         " bytes, does not fit the %s space",
                         region->name, region->base, region->len, as->name);
    }
    size_t at = first_after(old, region->base);
    if (at < old->n && old->regions[at]->base <= region->base + (region->len - 1)) {
        const struct io_region *o = old->regions[at];
        return error_msg(error,
                         "'%s' at %s 0x%" PRIx64 "-0x%" PRIx64
                         " overlaps '%s' at 0x%" PRIx64 "-0x%" PRIx64,
                         region->name, as->name, region->base,
                         region->base + (region->len - 1), o->name, o->base,
                         o->base + (o->len - 1));
    }
    struct snapshot *s = snapshot_new(old->n + 1);
    memcpy(s->regions, old->regions, at * sizeof(s->regions[0]));
    s->regions[at] = region;
    memcpy(&s->regions[at + 1], &old->regions[at],
           (old->n - at) * sizeof(s->regions[0]));
    publish(as, s);
    return true;
}

void aspace_remove(struct aspace *as, struct io_region *region)
{
    const struct snapshot *old = snapshot_get(as);
    size_t at = 0;
    while (at < old->n && old->regions[at] != region) {
        at++;
    }
    if (at == old->n) {
        return;
    }
    struct snapshot *s = snapshot_new(old->n - 1);
    memcpy(s->regions, old->regions, at * sizeof(s->regions[0]));
    memcpy(&s->regions[at], &old->regions[at + 1], (s->n - at) * sizeof(s->regions[0]));
    publish(as, s);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

static uint64_t all_ones(unsigned len)
{
    return UINT64_MAX >> (64 - 8 * len);
}

static void count_unassigned(struct aspace *as)
{
    atomic_fetch_add_explicit(&as->unassigned, 1, memory_order_relaxed);
}

/* -d guest_errors: in QEMU's words, and which CPU and space it was. */
static void log_unassigned(const struct aspace *as, const struct vcpu *vcpu,
                           const char *what, uint64_t addr, unsigned len)
{
    if (vcpu) {
        vm_log_printf(vcpu->vm->log, VM_LOG_GUEST_ERRORS,
                      "Invalid %s at addr 0x%" PRIX64
                      ", size %u, region '(null)', reason: rejected (%s, CPU %u)\n",
                      what, addr, len, as->name, vcpu->index);
    }
}

static unsigned max_len(const struct io_region *r)
{
    return r->ops->max_len ? r->ops->max_len : 8;
}

/* Whether all of an access lies in @r and is not narrower than it takes. */
static bool fits(const struct io_region *r, uint64_t off, unsigned len)
{
    return len <= r->len - off && len >= r->ops->min_len;
}

/* An access that lies in @r, split into what the device takes. */
static uint64_t region_read(struct io_region *r, struct vcpu *vcpu, uint64_t off,
                            unsigned len)
{
    unsigned step = max_len(r);
    if (likely(len <= step)) {
        return r->ops->read(r->opaque, vcpu, off, len) & all_ones(len);
    }
    uint64_t value = 0;
    for (unsigned i = 0; i < len; i += step) {
        uint64_t part = r->ops->read(r->opaque, vcpu, off + i, step) & all_ones(step);
        value |= part << (8 * i);
    }
    return value;
}

static void region_write(struct io_region *r, struct vcpu *vcpu, uint64_t off,
                         uint64_t value, unsigned len)
{
    unsigned step = max_len(r);
    if (likely(len <= step)) {
        r->ops->write(r->opaque, vcpu, off, value & all_ones(len), len);
        return;
    }
    for (unsigned i = 0; i < len; i += step) {
        r->ops->write(r->opaque, vcpu, off + i, (value >> (8 * i)) & all_ones(step),
                      step);
    }
}

/* The bytes of an access of which only a part lies in @r, or in several regions. */
static uint64_t straddling_read(struct aspace *as, struct vcpu *vcpu, uint64_t addr,
                                unsigned len)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < len; i++) {
        uint64_t byte = 0xff;
        struct io_region *r = i <= as->last - addr ? find(as, addr + i) : NULL;
        if (r && fits(r, addr + i - r->base, 1)) {
            byte = region_read(r, vcpu, addr + i - r->base, 1);
            exit_stat_add(&r->reads, 0);
        } else {
            count_unassigned(as);
        }
        value |= byte << (8 * i);
    }
    return value;
}

static void straddling_write(struct aspace *as, struct vcpu *vcpu, uint64_t addr,
                             uint64_t value, unsigned len)
{
    for (unsigned i = 0; i < len; i++) {
        struct io_region *r = i <= as->last - addr ? find(as, addr + i) : NULL;
        if (r && fits(r, addr + i - r->base, 1)) {
            region_write(r, vcpu, addr + i - r->base, (value >> (8 * i)) & 0xff, 1);
            exit_stat_add(&r->writes, 0);
        } else {
            count_unassigned(as);
        }
    }
}

/* The region for the whole access, or NULL with *ret_straddles when it is to be done
 * byte by byte. */
static struct io_region *resolve(struct aspace *as, uint64_t addr, unsigned len,
                                 bool *ret_straddles)
{
    *ret_straddles = false;
    const struct snapshot *s = snapshot_get(as);
    size_t i = addr <= as->last ? first_after(s, addr) : s->n;
    if (i == s->n) {
        return NULL;
    }
    struct io_region *r = s->regions[i];
    if (likely(addr >= r->base)) {
        uint64_t off = addr - r->base;
        *ret_straddles = len > r->len - off;
        return fits(r, off, len) ? r : NULL;
    }
    *ret_straddles = r->base - addr < len;
    return NULL;
}

uint64_t aspace_read(struct aspace *as, struct vcpu *vcpu, uint64_t addr, unsigned len)
{
    uint64_t start = now_ns(), value, ns;
    bool straddles;
    struct io_region *r = resolve(as, addr, len, &straddles);
    if (likely(r)) {
        value = region_read(r, vcpu, addr - r->base, len);
        ns = now_ns() - start;
        exit_stat_add(&r->reads, ns);
    } else if (straddles) {
        value = straddling_read(as, vcpu, addr, len);
        ns = now_ns() - start;
    } else {
        value = all_ones(len);
        count_unassigned(as);
        log_unassigned(as, vcpu, "read", addr, len);
        ns = now_ns() - start;
    }
    if (vcpu) {
        exit_stat_add_own(&vcpu->exits[as->reason], ns);
    }
    return value;
}

void aspace_write(struct aspace *as, struct vcpu *vcpu, uint64_t addr, uint64_t value,
                  unsigned len)
{
    uint64_t start = now_ns(), ns;
    bool straddles;
    struct io_region *r = resolve(as, addr, len, &straddles);
    if (likely(r)) {
        region_write(r, vcpu, addr - r->base, value, len);
        ns = now_ns() - start;
        exit_stat_add(&r->writes, ns);
    } else if (straddles) {
        straddling_write(as, vcpu, addr, value, len);
        ns = now_ns() - start;
    } else {
        count_unassigned(as);
        log_unassigned(as, vcpu, "write", addr, len);
        ns = now_ns() - start;
    }
    if (vcpu) {
        exit_stat_add_own(&vcpu->exits[as->reason], ns);
    }
}

bool aspace_has(const struct aspace *as, uint64_t addr)
{
    return addr <= as->last && find(as, addr) != NULL;
}

uint64_t aspace_unassigned(const struct aspace *as)
{
    return atomic_load_explicit(&as->unassigned, memory_order_relaxed);
}

static json_int_t stat_get(const _Atomic uint64_t *v)
{
    return (json_int_t)atomic_load_explicit(v, memory_order_relaxed);
}

json_t *aspace_stats(const struct aspace *as)
{
    const struct snapshot *s = snapshot_get(as);
    json_t *all = json_array();
    for (size_t i = 0; i < s->n; i++) {
        const struct io_region *r = s->regions[i];
        json_array_append_new(
            all,
            json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "name", r->name,
                      "space", as->name, "base", (json_int_t)r->base, "len",
                      (json_int_t)r->len, "reads", stat_get(&r->reads.count), "read-ns",
                      stat_get(&r->reads.ns), "writes", stat_get(&r->writes.count),
                      "write-ns", stat_get(&r->writes.ns)));
    }
    return all;
}
