#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/dev/display/vga_priv.h"
#include "vmm/vm/gmem.h"

/*
 * The processor's way to the planes: one byte of an access meets all four, through the
 * latches, which hold one byte of each. Words of 32 bits stand for the four bytes.
 * Spec: IBM, "Video Subsystem": write modes 0..3, read modes 0 and 1.
 */

enum { CHAIN_4 = 0x08, ODD_EVEN = 0x10, RAM_ON = 0x02, READ_MODE_1 = 0x08 };

/* All bits of the byte of each plane of which the bit is set. */
static uint32_t planes(unsigned bits)
{
    return (bits & 1 ? 0xffu : 0) | (bits & 2 ? 0xff00u : 0) |
           (bits & 4 ? 0xff0000u : 0) | (bits & 8 ? 0xff000000u : 0);
}

/* The address in the planes that is seen at @off of the window; false: nothing is. */
static bool in_window(const struct vga *v, uint32_t off, uint32_t *ret)
{
    const struct vga_regs *r = &v->r;

    if (!(r->misc & RAM_ON) && !vga_is_linear(r))
        return false;
    switch (r->gfx[6] >> 2 & 3) {
    case 0: *ret = off; return true;
    case 1:
        *ret = off + r->dispi[DISPI_BANK] * (uint32_t)(64 * KIB);
        return off < 0x10000;
    case 2: *ret = off - 0x10000; return off >= 0x10000 && off < 0x18000;
    default: *ret = off - 0x18000; return off >= 0x18000;
    }
}

static void mark(struct vga *v, uint32_t at)
{
    _Atomic uint8_t *d = &v->dirty[at >> GMEM_PAGE_SHIFT];

    if (!(atomic_load_explicit(d, memory_order_relaxed) & 1))
        atomic_fetch_or_explicit(d, 1, memory_order_relaxed);
}

/* The guest may write the same bytes through BAR 0 at any time: gmem_copy(). */
static uint8_t get_byte(const struct vga *v, uint32_t at)
{
    uint8_t b = 0xff;

    if (at < v->vram_len)
        gmem_copy(&b, v->vram + at, 1);
    return b;
}

static void put_byte(struct vga *v, uint32_t at, uint8_t value)
{
    if (at >= v->vram_len)
        return;
    gmem_copy(v->vram + at, &value, 1);
    mark(v, at);
}

static uint32_t get_planes(const struct vga *v, uint32_t addr)
{
    uint8_t bytes[4] = {0xff, 0xff, 0xff, 0xff};

    if (addr < v->vram_len / 4)
        gmem_copy(bytes, v->vram + 4 * addr, 4);
    return le32_get(bytes);
}

uint8_t vga_mem_read_locked(struct vga *v, uint32_t off)
{
    struct vga_regs *r = &v->r;
    uint32_t addr, differ;

    if (!in_window(v, off, &addr))
        return 0xff;
    if (r->seq[4] & CHAIN_4)
        return get_byte(v, addr);
    if (r->gfx[5] & ODD_EVEN)
        return get_byte(v, 4 * (addr >> 1) + ((r->gfx[4] & 2) | (addr & 1)));
    r->latch = get_planes(v, addr);
    if (!(r->gfx[5] & READ_MODE_1))
        return (uint8_t)(r->latch >> 8 * (r->gfx[4] & 3));
    differ = (r->latch ^ planes(r->gfx[2])) & planes(r->gfx[7]);
    differ |= differ >> 16;
    return (uint8_t) ~(differ | differ >> 8);
}

static uint32_t rotated(const struct vga_regs *r, uint8_t value)
{
    unsigned n = r->gfx[3] & 7;

    return 0x01010101u * (uint8_t)(value >> n | value << (8 - n));
}

static uint32_t combine(const struct vga_regs *r, uint32_t value)
{
    switch (r->gfx[3] >> 3 & 3) {
    case 1: return value & r->latch;
    case 2: return value | r->latch;
    case 3: return value ^ r->latch;
    default: return value;
    }
}

/* What a byte from the processor makes of the latches. */
static uint32_t written_value(const struct vga_regs *r, uint8_t byte)
{
    uint32_t mask = 0x01010101u * r->gfx[8], value, set;

    switch (r->gfx[5] & 3) {
    case 0:
        set = planes(r->gfx[1]);
        value = (rotated(r, byte) & ~set) | (planes(r->gfx[0]) & set);
        break;
    case 1: return r->latch;
    case 2: value = planes(byte); break;
    default:
        mask &= rotated(r, byte);
        value = planes(r->gfx[0]);
        break;
    }
    return (combine(r, value) & mask) | (r->latch & ~mask);
}

void vga_mem_write_locked(struct vga *v, uint32_t off, uint8_t value)
{
    struct vga_regs *r = &v->r;
    uint32_t addr, keep;
    uint8_t bytes[4];

    if (!in_window(v, off, &addr))
        return;
    if (r->seq[4] & CHAIN_4) {
        if (r->seq[2] & 1 << (addr & 3))
            put_byte(v, addr, value);
    } else if (r->gfx[5] & ODD_EVEN) {
        if (r->seq[2] & 1 << (addr & 1))
            put_byte(v, 4 * (addr >> 1) + (addr & 1), value);
    } else if (addr < v->vram_len / 4) {
        keep = ~planes(r->seq[2]);
        le32_put(bytes,
                 (get_planes(v, addr) & keep) | (written_value(r, value) & ~keep));
        gmem_copy(v->vram + 4 * addr, bytes, 4);
        mark(v, 4 * addr);
    }
}
