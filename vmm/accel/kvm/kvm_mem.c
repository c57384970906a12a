#include "vmm/accel/kvm/kvm_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "lib/base/base.h"
#include "vmm/vm/gmem.h"

/*
 * Guest memory and who wrote it.
 *
 * A region of struct gmem is a slot of KVM. ROM is a read-only slot: a store to it
 * comes out as an MMIO exit, which meets no device.
 *
 * Dirty pages come from KVM in one of two ways, chosen at the start: a bitmap per slot,
 * which is fetched whole, or a ring per vCPU, whose entries name slot and page. An
 * entry's flags tell whose it is: 0 free, DIRTY written by the kernel, RESET taken by
 * us; KVM_RESET_DIRTY_RINGS gives the taken ones back and protects the pages again.
 */

static bool set_slot(struct kvm_vm *kv, unsigned index, const struct kvm_slot *s,
                     bool logging)
{
    struct kvm_userspace_memory_region r = {
        .slot = index,
        .flags =
            (s->rom ? KVM_MEM_READONLY : 0) | (logging ? KVM_MEM_LOG_DIRTY_PAGES : 0),
        .guest_phys_addr = s->gpa,
        .memory_size = s->len,
        .userspace_addr = (uintptr_t)s->host,
    };
    return kvm_ioctl(kv->fd, KVM_SET_USER_MEMORY_REGION, &r) == 0;
}

static struct kvm_slot *slot_at(struct kvm_vm *kv, unsigned i)
{
    return &g_array_index(kv->slots, struct kvm_slot, i);
}

/* Index of a free slot, a new one when there is none; -1: too many. */
static int free_slot_locked(struct kvm_vm *kv)
{
    for (guint i = 0; i < kv->slots->len; i++) {
        if (slot_at(kv, i)->len == 0) {
            return (int)i;
        }
    }
    if ((int)kv->slots->len >= kv->max_slots) {
        return -1;
    }
    g_array_set_size(kv->slots, kv->slots->len + 1);
    return (int)kv->slots->len - 1;
}

bool kvm_map(struct vm *vm, const struct gmem_region *region, GError **error)
{
    struct kvm_vm *kv = vm->accel_state;
    struct kvm_slot s = {
        .gpa = region->gpa,
        .len = region->len,
        .host = region->host,
        .rom = region->kind == GMEM_ROM,
    };
    if (s.rom && !kv->has_readonly) {
        return error_msg(error, "KVM of this kernel has no read-only memory");
    }
    g_mutex_lock(&kv->lock);
    int i = free_slot_locked(kv);
    bool ok = i >= 0 && set_slot(kv, (unsigned)i, &s, kv->logging);
    int err = errno;
    if (ok) {
        *slot_at(kv, (unsigned)i) = s;
    }
    g_mutex_unlock(&kv->lock);
    if (i < 0) {
        return error_msg(error, "KVM has only %d memory slots", kv->max_slots);
    }
    return ok ||
           error_errno(error, err,
                       "KVM_SET_USER_MEMORY_REGION: 0x%" PRIx64 " bytes at 0x%" PRIx64,
                       s.len, s.gpa);
}

void kvm_unmap(struct vm *vm, const struct gmem_region *region)
{
    struct kvm_vm *kv = vm->accel_state;
    g_mutex_lock(&kv->lock);
    for (guint i = 0; i < kv->slots->len; i++) {
        struct kvm_slot *s = slot_at(kv, i);
        if (s->len && s->gpa == region->gpa) {
            s->len = 0;
            set_slot(kv, i, s, false);
            break;
        }
    }
    g_mutex_unlock(&kv->lock);
}

static void mark_dirty(struct kvm_vm *kv, const struct kvm_slot *s, uint64_t page)
{
    const struct gmem_region *r = gmem_find(kv->vm->gmem, s->gpa);
    if (r && r->gpa == s->gpa && page < r->len >> GMEM_PAGE_SHIFT) {
        atomic_fetch_or_explicit(&r->dirty[page], 1, memory_order_relaxed);
    }
}

/* --- Rings ----------------------------------------------------------------- */

bool kvm_map_ring(struct kvm_cpu *c, GError **error)
{
    uint32_t n = c->kv->ring_entries;
    if (!n) {
        return true;
    }
    void *p = mmap(NULL, n * sizeof(*c->ring), PROT_READ | PROT_WRITE, MAP_SHARED,
                   c->fd, KVM_DIRTY_LOG_PAGE_OFFSET * (long)GMEM_PAGE_SIZE);
    if (p == MAP_FAILED) {
        return error_errno(error, errno, "dirty ring");
    }
    c->ring = p;
    return true;
}

void kvm_unmap_ring(struct kvm_cpu *c)
{
    if (c->ring) {
        munmap(c->ring, c->kv->ring_entries * sizeof(*c->ring));
    }
    c->ring = NULL;
}

/* Returns how many entries were taken. */
static unsigned collect_ring_locked(struct kvm_cpu *c)
{
    struct kvm_vm *kv = c->kv;
    unsigned n = 0;
    for (; n < kv->ring_entries; n++) {
        struct kvm_dirty_gfn *g = &c->ring[c->ring_at & (kv->ring_entries - 1)];
        /* Pairs with the kernel's release of the entry. */
        if (!(__atomic_load_n(&g->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY)) {
            break;
        }
        if (g->slot < kv->slots->len) {
            mark_dirty(kv, slot_at(kv, g->slot), g->offset);
        }
        __atomic_store_n(&g->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
        c->ring_at++;
    }
    return n;
}

bool kvm_collect_rings(struct kvm_vm *kv, GError **error)
{
    bool ok = true;
    unsigned n = 0;
    g_mutex_lock(&kv->lock);
    for (unsigned i = 0; i < kv->vm->nb_vcpus; i++) {
        n += collect_ring_locked(kvm_cpu_of(kv->vm->vcpus[i]));
    }
    if (n && kvm_ioctl_n(kv->fd, KVM_RESET_DIRTY_RINGS, 0) < 0) {
        ok = error_errno(error, errno, "KVM_RESET_DIRTY_RINGS");
    }
    g_mutex_unlock(&kv->lock);
    return ok;
}

/* --- The group of accel_ops ------------------------------------------------ */

static bool set_logging(struct kvm_vm *kv, bool on, GError **error)
{
    bool ok = true;
    g_mutex_lock(&kv->lock);
    kv->logging = on;
    for (guint i = 0; i < kv->slots->len && ok; i++) {
        const struct kvm_slot *s = slot_at(kv, i);
        if (s->len && !s->rom) {
            ok = set_slot(kv, i, s, on) ||
                 error_errno(error, errno, "KVM_SET_USER_MEMORY_REGION: dirty log");
        }
    }
    g_mutex_unlock(&kv->lock);
    return ok;
}

static bool dirty_start(struct vm *vm, GError **error)
{
    return set_logging(vm->accel_state, true, error);
}

static void dirty_stop(struct vm *vm)
{
    struct kvm_vm *kv = vm->accel_state;
    if (kv->ring_entries) {
        kvm_collect_rings(kv, NULL);
    }
    set_logging(kv, false, NULL);
}

static bool sync_bitmap_locked(struct kvm_vm *kv, unsigned i, GError **error)
{
    const struct kvm_slot *s = slot_at(kv, i);
    uint64_t pages = s->len >> GMEM_PAGE_SHIFT, words = (pages + 63) / 64;
    g_autofree uint64_t *map = g_try_new0(uint64_t, words);
    if (!map) {
        return error_errno(error, ENOMEM, "dirty bitmap");
    }
    struct kvm_dirty_log log = {.slot = i, .dirty_bitmap = map};
    if (kvm_ioctl(kv->fd, KVM_GET_DIRTY_LOG, &log) < 0) {
        return error_errno(error, errno, "KVM_GET_DIRTY_LOG of slot %u", i);
    }
    for (uint64_t w = 0; w < words; w++) {
        for (uint64_t bits = map[w]; bits; bits &= bits - 1) {
            mark_dirty(kv, s, w * 64 + (uint64_t)__builtin_ctzll(bits));
        }
    }
    return true;
}

static bool dirty_sync(struct vm *vm, GError **error)
{
    struct kvm_vm *kv = vm->accel_state;
    if (kv->ring_entries) {
        return kvm_collect_rings(kv, error);
    }
    bool ok = true;
    g_mutex_lock(&kv->lock);
    for (guint i = 0; i < kv->slots->len && ok && kv->logging; i++) {
        const struct kvm_slot *s = slot_at(kv, i);
        if (s->len && !s->rom) {
            ok = sync_bitmap_locked(kv, i, error);
        }
    }
    g_mutex_unlock(&kv->lock);
    return ok;
}

const struct accel_dirty_ops kvm_dirty_ops = {
    .start = dirty_start,
    .sync = dirty_sync,
    .stop = dirty_stop,
};
