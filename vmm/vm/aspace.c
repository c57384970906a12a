#include "vmm/vm/aspace.h"

#include <assert.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/base/base.h"
#include "vmm/vm/log.h"
#include "vmm/vm/vcpu.h"
#include "vmm/vm/vm.h"

/*
 * One access: look the region up in a sorted array, do it, count and time it. Nothing
 * is locked and nothing allocated. The clock is the host's monotonic one through the
 * vDSO, 23 ns a reading here, and two readings serve the region and the vCPU's own
 * counter alike: an access costs about 65 ns over what the device does.
 *
 * What is in the space is a list; what readers search is made from it: pieces that do
 * not overlap, each with the region that answers there. There are two such views. A
 * writer fills the one that is not in use and then says so by counting `turn` up, whose
 * lowest bit is the view in use. A reader whose turn has passed while it searched
 * cannot trust what it found, and searches again; it never waits for a writer, which
 * may have been preempted. The views only grow while nobody reads them.
 */

struct mapping {
    struct io_region *region;
    uint64_t base, last;
    unsigned priority; /* FIXED for those of aspace_add() */
};

#define FIXED UINT_MAX

/* Of a view. Every field is read while another thread may write it: see `turn`. */
struct piece {
    _Atomic uint64_t first, last;
    _Atomic uint64_t base; /* of the region, which may begin before the piece */
    _Atomic(struct io_region *) region;
};

struct view {
    _Atomic size_t n;
    struct piece *pieces;
};

struct aspace {
    char *name;
    uint64_t last; /* the highest address */
    enum vcpu_exit reason;
    _Atomic uint64_t turn;
    struct view views[2];
    _Atomic uint64_t unassigned;

    GMutex lock;   /* guards what follows, and who writes the views */
    GArray *all;   /* struct mapping, by priority, then by time */
    size_t room;   /* regions that the views have room for */
    size_t wanted; /* of these, movable ones that were asked for */
};

/* Of @n regions at most so many pieces can be seen: each begins and ends once. */
static size_t most_pieces(size_t n)
{
    return 2 * n + 1;
}

struct aspace *aspace_new(const char *name, unsigned bits, enum vcpu_exit reason)
{
    assert(bits >= 1 && bits <= 64);
    struct aspace *as = g_new0(struct aspace, 1);
    as->name = g_strdup(name);
    as->last = UINT64_MAX >> (64 - bits);
    as->reason = reason;
    g_mutex_init(&as->lock);
    as->all = g_array_new(FALSE, FALSE, sizeof(struct mapping));
    return as;
}

void aspace_free(struct aspace *as)
{
    if (!as) {
        return;
    }
    g_free(as->views[0].pieces);
    g_free(as->views[1].pieces);
    g_array_unref(as->all);
    g_mutex_clear(&as->lock);
    g_free(as->name);
    g_free(as);
}

/* ---- finding ---------------------------------------------------------------------
 */

/* Who answers at an address, and from where to where that is so. */
struct found {
    struct io_region *region; /* NULL: nobody */
    uint64_t base;            /* the region's */
    uint64_t last;            /* of the piece; of a gap: where the next one begins */
    bool is_gap_end;          /* no region, but one begins at `last` */
};

static uint64_t get(const _Atomic uint64_t *v)
{
    return atomic_load_explicit(v, memory_order_relaxed);
}

static void search(const struct view *v, uint64_t addr, struct found *ret)
{
    size_t n = atomic_load_explicit(&v->n, memory_order_relaxed), lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (get(&v->pieces[mid].last) < addr) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    *ret = (struct found){0};
    if (lo == n) {
        return;
    }
    const struct piece *p = &v->pieces[lo];
    uint64_t first = get(&p->first);
    if (addr >= first) {
        ret->region = atomic_load_explicit(&p->region, memory_order_relaxed);
        ret->base = get(&p->base);
        ret->last = get(&p->last);
    } else {
        ret->last = first;
        ret->is_gap_end = true;
    }
}

static struct found find(const struct aspace *as, uint64_t addr)
{
    struct found f;
    for (;;) {
        uint64_t turn = atomic_load_explicit(&as->turn, memory_order_acquire);
        search(&as->views[turn & 1], addr, &f);
        /* Pairs with the fence of publish(): if any word came from a later writer,
         * its turn is seen here. */
        atomic_thread_fence(memory_order_acquire);
        if (likely(atomic_load_explicit(&as->turn, memory_order_relaxed) == turn)) {
            return f;
        }
    }
}

/* ---- changing --------------------------------------------------------------------
 */

static int compare_ends(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Where pieces may begin: at each region, and after each. */
static size_t collect_ends(const struct aspace *as, uint64_t *ends)
{
    size_t n = 0, unique = 0;
    for (guint i = 0; i < as->all->len; i++) {
        const struct mapping *m = &g_array_index(as->all, struct mapping, i);
        ends[n++] = m->base;
        if (m->last != UINT64_MAX) {
            ends[n++] = m->last + 1;
        }
    }
    qsort(ends, n, sizeof(ends[0]), compare_ends);
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || ends[i] != ends[unique - 1]) {
            ends[unique++] = ends[i];
        }
    }
    return unique;
}

static const struct mapping *who_answers(const struct aspace *as, uint64_t addr)
{
    for (guint i = 0; i < as->all->len; i++) {
        const struct mapping *m = &g_array_index(as->all, struct mapping, i);
        if (addr >= m->base && addr <= m->last) {
            return m;
        }
    }
    return NULL;
}

static void put(_Atomic uint64_t *v, uint64_t value)
{
    atomic_store_explicit(v, value, memory_order_relaxed);
}

/* Show what is in the list. Caller holds the lock, or is alone. */
static void publish(struct aspace *as)
{
    uint64_t turn = atomic_load_explicit(&as->turn, memory_order_relaxed);
    struct view *v = &as->views[(turn + 1) & 1];
    g_autofree uint64_t *ends = g_new(uint64_t, most_pieces(as->room));
    size_t nb_ends = collect_ends(as, ends), n = 0;
    const struct mapping *before = NULL;
    /* The turn that made this view the idle one is seen before what is written now. */
    atomic_thread_fence(memory_order_release);
    for (size_t i = 0; i < nb_ends; i++) {
        const struct mapping *m = who_answers(as, ends[i]);
        uint64_t last = i + 1 < nb_ends ? ends[i + 1] - 1 : UINT64_MAX;
        if (m && m == before) {
            put(&v->pieces[n - 1].last, MIN(last, m->last));
        } else if (m) {
            put(&v->pieces[n].first, ends[i]);
            put(&v->pieces[n].last, MIN(last, m->last));
            put(&v->pieces[n].base, m->base);
            atomic_store_explicit(&v->pieces[n].region, m->region,
                                  memory_order_relaxed);
            n++;
        }
        before = m;
    }
    atomic_store_explicit(&v->n, n, memory_order_relaxed);
    atomic_store_explicit(&as->turn, turn + 1, memory_order_release);
}

/* Room for @room regions in all. Nobody reads. */
static void set_room(struct aspace *as, size_t room)
{
    if (room <= as->room) {
        return;
    }
    as->room = MAX(room, 2 * as->room);
    for (unsigned i = 0; i < 2; i++) {
        struct view *v = &as->views[i];
        v->pieces = g_renew(struct piece, v->pieces, most_pieces(as->room));
    }
}

static unsigned nb_fixed(const struct aspace *as)
{
    unsigned n = 0;
    while (n < as->all->len &&
           g_array_index(as->all, struct mapping, n).priority == FIXED) {
        n++;
    }
    return n;
}

/* Into the list, after those of its priority. */
static void insert(struct aspace *as, const struct mapping *m)
{
    guint at = 0;
    while (at < as->all->len &&
           g_array_index(as->all, struct mapping, at).priority >= m->priority) {
        at++;
    }
    g_array_insert_val(as->all, at, *m);
}

static bool take_out(struct aspace *as, const struct io_region *region)
{
    for (guint i = 0; i < as->all->len; i++) {
        if (g_array_index(as->all, struct mapping, i).region == region) {
            g_array_remove_index(as->all, i);
            return true;
        }
    }
    return false;
}

/* The fixed region that [base, last] would overlap. */
static const struct mapping *overlapped(const struct aspace *as, uint64_t base,
                                        uint64_t last)
{
    for (unsigned i = 0; i < nb_fixed(as); i++) {
        const struct mapping *m = &g_array_index(as->all, struct mapping, i);
        if (m->base <= last && m->last >= base) {
            return m;
        }
    }
    return NULL;
}

bool aspace_add(struct aspace *as, struct io_region *region, GError **error)
{
    if (region->len == 0 || region->base > as->last ||
        region->len - 1 > as->last - region->base) {
        return error_msg(error,
                         "'%s' at 0x%" PRIx64 ", 0x%" PRIx64
                         " bytes, does not fit the %s space",
                         region->name, region->base, region->len, as->name);
    }
    struct mapping m = {.region = region,
                        .base = region->base,
                        .last = region->base + (region->len - 1),
                        .priority = FIXED};
    const struct mapping *o = overlapped(as, m.base, m.last);
    if (o) {
        return error_msg(error,
                         "'%s' at %s 0x%" PRIx64 "-0x%" PRIx64
                         " overlaps '%s' at 0x%" PRIx64 "-0x%" PRIx64,
                         region->name, as->name, m.base, m.last, o->region->name,
                         o->base, o->last);
    }
    g_mutex_lock(&as->lock);
    set_room(as, nb_fixed(as) + 1 + as->wanted);
    insert(as, &m);
    publish(as);
    g_mutex_unlock(&as->lock);
    return true;
}

void aspace_remove(struct aspace *as, struct io_region *region)
{
    aspace_unmap(as, region);
}

void aspace_reserve(struct aspace *as, int n)
{
    g_mutex_lock(&as->lock);
    assert(n >= 0 || as->wanted >= (size_t)-n);
    as->wanted += (size_t)n;
    set_room(as, nb_fixed(as) + as->wanted);
    g_mutex_unlock(&as->lock);
}

void aspace_map(struct aspace *as, struct io_region *region, uint64_t base,
                unsigned priority)
{
    assert(priority < FIXED);
    g_mutex_lock(&as->lock);
    bool was_there = take_out(as, region), is_there = region->len && base <= as->last;
    if (is_there) {
        uint64_t left = as->last - base;
        struct mapping m = {.region = region,
                            .base = base,
                            .last = base + MIN(region->len - 1, left),
                            .priority = priority};
        region->base = base;
        assert(as->all->len < as->room);
        insert(as, &m);
    }
    if (was_there || is_there) {
        publish(as);
    }
    g_mutex_unlock(&as->lock);
}

void aspace_unmap(struct aspace *as, struct io_region *region)
{
    g_mutex_lock(&as->lock);
    if (take_out(as, region)) {
        publish(as);
    }
    g_mutex_unlock(&as->lock);
}

bool aspace_shows(struct aspace *as, const struct io_region *region)
{
    bool shows = false;
    g_mutex_lock(&as->lock);
    for (guint i = 0; i < as->all->len; i++) {
        const struct mapping *m = &g_array_index(as->all, struct mapping, i);
        if (m->region == region) {
            shows = m->last - m->base == region->len - 1;
            break;
        }
        if (m->base <= region->base + (region->len - 1) && m->last >= region->base) {
            break;
        }
    }
    g_mutex_unlock(&as->lock);
    return shows;
}

/* ---- accessing -------------------------------------------------------------------
 */

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

/* Whether all of an access lies where @f answers, and is not narrower than it takes. */
static bool fits(const struct found *f, uint64_t addr, unsigned len)
{
    return len - 1 <= f->last - addr && len >= f->region->ops->min_len;
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

/* Who takes byte @i of an access at @addr. */
static struct found find_byte(const struct aspace *as, uint64_t addr, unsigned i)
{
    struct found f = {0};
    if (addr <= as->last && i <= as->last - addr) {
        f = find(as, addr + i);
        if (f.region && f.region->ops->min_len > 1) {
            f.region = NULL;
        }
    }
    return f;
}

/* The bytes of an access of which only a part lies in @r, or in several regions. */
static uint64_t straddling_read(struct aspace *as, struct vcpu *vcpu, uint64_t addr,
                                unsigned len)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < len; i++) {
        uint64_t byte = 0xff;
        struct found f = find_byte(as, addr, i);
        if (f.region) {
            byte = region_read(f.region, vcpu, addr + i - f.base, 1);
            exit_stat_add(&f.region->reads, 0);
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
        struct found f = find_byte(as, addr, i);
        if (f.region) {
            region_write(f.region, vcpu, addr + i - f.base, (value >> (8 * i)) & 0xff,
                         1);
            exit_stat_add(&f.region->writes, 0);
        } else {
            count_unassigned(as);
        }
    }
}

/* The region for the whole access, or NULL with *ret_straddles when it is to be done
 * byte by byte. */
static struct io_region *resolve(struct aspace *as, uint64_t addr, unsigned len,
                                 uint64_t *ret_off, bool *ret_straddles)
{
    struct found f = {0};
    *ret_straddles = false;
    if (likely(addr <= as->last)) {
        f = find(as, addr);
    }
    if (likely(f.region)) {
        *ret_off = addr - f.base;
        *ret_straddles = len - 1 > f.last - addr;
        return fits(&f, addr, len) ? f.region : NULL;
    }
    *ret_straddles = f.is_gap_end && f.last - addr < len;
    return NULL;
}

uint64_t aspace_read(struct aspace *as, struct vcpu *vcpu, uint64_t addr, unsigned len)
{
    uint64_t start = now_ns(), off, value, ns;
    bool straddles;
    struct io_region *r = resolve(as, addr, len, &off, &straddles);
    if (likely(r)) {
        value = region_read(r, vcpu, off, len);
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
    uint64_t start = now_ns(), off, ns;
    bool straddles;
    struct io_region *r = resolve(as, addr, len, &off, &straddles);
    if (likely(r)) {
        region_write(r, vcpu, off, value, len);
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
    return addr <= as->last && find(as, addr).region != NULL;
}

uint64_t aspace_unassigned(const struct aspace *as)
{
    return atomic_load_explicit(&as->unassigned, memory_order_relaxed);
}

static json_int_t stat_get(const _Atomic uint64_t *v)
{
    return (json_int_t)atomic_load_explicit(v, memory_order_relaxed);
}

static gint compare_bases(gconstpointer a, gconstpointer b)
{
    const struct io_region *const *x = a, *const *y = b;
    return ((*x)->base > (*y)->base) - ((*x)->base < (*y)->base);
}

/* Caller holds the lock. */
static GPtrArray *by_address(const struct aspace *as)
{
    GPtrArray *regions = g_ptr_array_new();
    for (guint i = 0; i < as->all->len; i++) {
        g_ptr_array_add(regions, g_array_index(as->all, struct mapping, i).region);
    }
    g_ptr_array_sort(regions, compare_bases);
    return regions;
}

json_t *aspace_stats(struct aspace *as)
{
    json_t *all = json_array();
    g_mutex_lock(&as->lock);
    g_autoptr(GPtrArray) sorted = by_address(as);
    for (guint i = 0; i < sorted->len; i++) {
        const struct io_region *r = g_ptr_array_index(sorted, i);
        json_array_append_new(
            all,
            json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "name", r->name,
                      "space", as->name, "base", (json_int_t)r->base, "len",
                      (json_int_t)r->len, "reads", stat_get(&r->reads.count), "read-ns",
                      stat_get(&r->reads.ns), "writes", stat_get(&r->writes.count),
                      "write-ns", stat_get(&r->writes.ns)));
    }
    g_mutex_unlock(&as->lock);
    return all;
}
