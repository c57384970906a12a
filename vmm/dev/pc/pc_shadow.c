#include "vmm/dev/pc/pc_shadow.h"

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/vm/aspace.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/vm.h"

/*
 * Guest memory shows each piece in one of three ways: RAM, RAM that is not written
 * (ROM), or the firmware's ROM. What does not fit these, writes to RAM behind a ROM
 * that is read, goes through a region of the address space, which stands below all
 * pieces and answers where guest memory shows nothing, or not yet what the registers
 * say.
 */

enum {
    BASE = 0xc0000,
    LEN = 0x40000,
    ROM_BASE = 0xe0000,
    ROM_LEN = 0x20000,
};

struct pc_shadow {
    struct vm *vm;
    struct gmem_block *ram, *rom;
    struct io_region region;
    bool mapped;

    GMutex lock; /* guards what follows */
    uint8_t wanted[PC_SHADOW_PIECES];

    /* What guest memory shows; main thread, vCPUs stopped. */
    enum shown {
        SHOWN_NOTHING,
        SHOWN_RAM,
        SHOWN_RAM_RO,
        SHOWN_ROM
    } shown[PC_SHADOW_PIECES];
};

static uint64_t piece_base(unsigned i)
{
    return i == 0 ? 0xf0000 : BASE + (i - 1) * 0x4000;
}

static uint64_t piece_len(unsigned i)
{
    return i == 0 ? 0x10000 : 0x4000;
}

static unsigned piece_of(uint64_t off)
{
    return off >= 0x30000 ? 0 : 1 + (unsigned)(off / 0x4000);
}

static uint8_t access_of(struct pc_shadow *s, uint64_t off)
{
    g_mutex_lock(&s->lock);
    uint8_t how = s->wanted[piece_of(off)];
    g_mutex_unlock(&s->lock);
    return how;
}

/* A byte at a time: pieces do not matter then. */
static uint64_t shadow_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct pc_shadow *s = opaque;
    uint8_t byte = 0xff;
    if (access_of(s, off) & PC_SHADOW_READ) {
        gmem_copy(&byte, gmem_block_host(s->ram) + off, 1);
    } else if (off >= ROM_BASE - BASE) {
        gmem_copy(&byte, gmem_block_host(s->rom) + (off - (ROM_BASE - BASE)), 1);
    }
    return byte;
}

static void shadow_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                         unsigned len)
{
    struct pc_shadow *s = opaque;
    uint8_t byte = (uint8_t)value;
    if (access_of(s, off) & PC_SHADOW_WRITE) {
        gmem_copy(gmem_block_host(s->ram) + off, &byte, 1);
    }
}

static const struct io_ops shadow_ops = {
    .read = shadow_read, .write = shadow_write, .max_len = 1};

static enum shown wanted_view(const struct pc_shadow *s, unsigned i)
{
    switch (s->wanted[i] & (PC_SHADOW_READ | PC_SHADOW_WRITE)) {
    case PC_SHADOW_READ | PC_SHADOW_WRITE: return SHOWN_RAM;
    case PC_SHADOW_READ: return SHOWN_RAM_RO;
    case PC_SHADOW_WRITE: return SHOWN_NOTHING;
    default: return piece_base(i) >= ROM_BASE ? SHOWN_ROM : SHOWN_NOTHING;
    }
}

static void show(struct pc_shadow *s, unsigned i, enum shown what)
{
    uint64_t base = piece_base(i), len = piece_len(i);
    enum gmem_kind kind = what == SHOWN_RAM ? GMEM_RAM : GMEM_ROM;
    struct gmem_block *b = what == SHOWN_ROM ? s->rom : s->ram;
    if (s->shown[i] != SHOWN_NOTHING) {
        gmem_remove(s->vm->gmem, base);
    }
    s->shown[i] = SHOWN_NOTHING;
    if (what != SHOWN_NOTHING &&
        gmem_map(s->vm->gmem, b, kind, base, base - (b == s->rom ? ROM_BASE : BASE),
                 len, NULL)) {
        s->shown[i] = what;
    }
}

static void update(void *opaque)
{
    struct pc_shadow *s = opaque;
    for (unsigned i = 0; i < PC_SHADOW_PIECES; i++) {
        g_mutex_lock(&s->lock);
        enum shown what = wanted_view(s, i);
        g_mutex_unlock(&s->lock);
        if (what != s->shown[i]) {
            show(s, i, what);
        }
    }
}

void pc_shadow_set(struct pc_shadow *s, const uint8_t pam[PC_SHADOW_REGISTERS])
{
    bool changed = false;
    g_mutex_lock(&s->lock);
    for (unsigned i = 0; i < PC_SHADOW_PIECES; i++) {
        uint8_t how = pam[(i + 1) / 2] >> ((i + 1) % 2 * 4) & 3;
        changed |= how != s->wanted[i];
        s->wanted[i] = how;
    }
    g_mutex_unlock(&s->lock);
    if (changed) {
        vm_change(s->vm, update, s);
    }
}

struct pc_shadow *pc_shadow_new(struct vm *vm, GError **error)
{
    struct pc_shadow *s = g_new0(struct pc_shadow, 1);
    s->vm = vm;
    g_mutex_init(&s->lock);
    s->region = (struct io_region){
        .name = "shadow-ram", .len = LEN, .ops = &shadow_ops, .opaque = s};
    s->ram = gmem_block_new("shadow-ram", LEN, error);
    s->rom = s->ram ? gmem_block_new("bios-low", ROM_LEN, error) : NULL;
    if (!s->rom) {
        pc_shadow_free(s);
        return NULL;
    }
    aspace_reserve(vm->mmio, 1);
    aspace_map(vm->mmio, &s->region, BASE, ASPACE_LOW);
    s->mapped = true;
    update(s);
    return s;
}

void pc_shadow_free(struct pc_shadow *s)
{
    if (!s) {
        return;
    }
    vm_change_cancel(s->vm, s);
    if (s->mapped) {
        aspace_unmap(s->vm->mmio, &s->region);
        aspace_reserve(s->vm->mmio, -1);
    }
    for (unsigned i = 0; i < PC_SHADOW_PIECES; i++) {
        show(s, i, SHOWN_NOTHING);
    }
    gmem_block_free(s->ram);
    gmem_block_free(s->rom);
    g_mutex_clear(&s->lock);
    g_free(s);
}
