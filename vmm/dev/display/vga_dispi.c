#include <string.h>

#include "lib/base/base.h"
#include "vmm/dev/display/vga_priv.h"
#include "vmm/display/console.h"
#include "vmm/vm/gmem.h"

/*
 * The dispi registers keep what was written as long as no mode is on. What makes no
 * sense, or would reach beyond the video memory, is brought into bounds when the mode
 * is used: here, in one place.
 */

enum { ID_MIN = 0xb0c0, ID_MAX = 0xb0c5, MAX_BPP = 32, STEP = 8 };

static unsigned bits_of(unsigned bpp)
{
    return bpp == 15 ? 16 : bpp;
}

static bool is_depth(unsigned bpp)
{
    return bpp == 4 || bpp == 8 || bpp == 15 || bpp == 16 || bpp == 24 || bpp == 32;
}

static unsigned virt_width(const struct vga_regs *r, unsigned width)
{
    return CLAMP(r->dispi[DISPI_VIRT_WIDTH] & ~(STEP - 1u), width, SURFACE_MAX);
}

struct vga_linear vga_linear_mode(const struct vga_regs *r, uint32_t vram_len)
{
    struct vga_linear m;
    uint32_t len, rows, x, y;
    unsigned bits;

    m.bpp = is_depth(r->dispi[DISPI_BPP]) ? r->dispi[DISPI_BPP] : 8;
    /* Each plane has a quarter of the memory, and a bit for each pixel. */
    bits = m.bpp == 4 ? 1 : bits_of(m.bpp);
    len = m.bpp == 4 ? vram_len / 4 : vram_len;
    m.width = CLAMP(r->dispi[DISPI_XRES] & ~(STEP - 1u), STEP, SURFACE_MAX);
    m.line_len = virt_width(r, m.width) * bits / 8;
    rows = len / m.line_len;
    m.height = CLAMP(r->dispi[DISPI_YRES], 1, MIN(rows, SURFACE_MAX));
    y = MIN(r->dispi[DISPI_Y_OFFSET], rows - m.height);
    x = r->dispi[DISPI_X_OFFSET] * bits / 8;
    m.start = y * m.line_len + x;
    if (m.start + m.height * m.line_len > len)
        m.start = (rows - m.height) * m.line_len;
    return m;
}

uint16_t vga_dispi_read(struct vga *v, unsigned index)
{
    struct vga_regs *r = &v->r;
    uint16_t value = 0;

    g_mutex_lock(&v->lock);
    if (r->dispi[DISPI_ENABLE] & DISPI_GETCAPS && index >= DISPI_XRES &&
        index <= DISPI_BPP)
        value = index == DISPI_BPP ? MAX_BPP : SURFACE_MAX;
    else if (index == DISPI_MEMORY_64K)
        value = (uint16_t)(v->vram_len / (64 * KIB));
    else if (index == DISPI_VIRT_HEIGHT && vga_is_linear(r)) {
        struct vga_linear m = vga_linear_mode(r, v->vram_len);
        uint32_t rows = (m.bpp == 4 ? v->vram_len / 4 : v->vram_len) / m.line_len;

        value = (uint16_t)MIN(rows, UINT16_MAX);
    } else if (index < DISPI_COUNT) {
        value = r->dispi[index];
    }
    g_mutex_unlock(&v->lock);
    return value;
}

/* A mode is switched on: the IBM registers follow, as the window goes by them. */
static void switch_on(struct vga *v, bool clear)
{
    enum { CHAIN_4 = 0x08, EXTENDED = 0x02, NO_ODD_EVEN = 0x04 };
    enum { GRAPHICS = 0x01, AT_A0000 = 0x04, SHIFT_256 = 0x40 };
    struct vga_regs *r = &v->r;
    struct vga_linear m;

    r->dispi[DISPI_VIRT_WIDTH] = r->dispi[DISPI_XRES] & (uint16_t) ~(STEP - 1);
    r->dispi[DISPI_X_OFFSET] = r->dispi[DISPI_Y_OFFSET] = 0;
    r->dispi[DISPI_BANK] = 0;
    m = vga_linear_mode(r, v->vram_len);
    r->gfx[6] = (r->gfx[6] & 0x02) | GRAPHICS | AT_A0000;
    r->seq[2] = 0x0f;
    r->seq[4] = EXTENDED | NO_ODD_EVEN;
    r->gfx[5] = 0;
    if (m.bpp != 4) {
        r->seq[4] |= CHAIN_4;
        r->gfx[5] = SHIFT_256;
    }
    if (clear) {
        uint32_t len = m.height * m.line_len * (m.bpp == 4 ? 4 : 1);

        memset(v->vram, 0, len);
        for (uint32_t page = 0; page < ALIGN_UP(len, 4096u) / 4096; page++)
            atomic_fetch_or_explicit(&v->dirty[page], 1, memory_order_relaxed);
    }
}

static void write_locked(struct vga *v, unsigned index, uint16_t value)
{
    struct vga_regs *r = &v->r;
    bool was_on = vga_is_linear(r);

    switch (index) {
    case DISPI_ID:
        if (value >= ID_MIN && value <= ID_MAX)
            r->dispi[index] = value;
        break;
    case DISPI_XRES:
    case DISPI_YRES:
    case DISPI_BPP:
        if (!(r->dispi[DISPI_ENABLE] & DISPI_GETCAPS))
            r->dispi[index] = index == DISPI_BPP && value == 0 ? 8 : value;
        break;
    case DISPI_ENABLE:
        r->dispi[index] = value;
        if (vga_is_linear(r) && !was_on)
            switch_on(v, !(value & DISPI_NOCLEAR));
        else if (!vga_is_linear(r))
            r->dispi[DISPI_BANK] = 0;
        break;
    case DISPI_BANK:
        r->dispi[index] = (uint16_t)(value & (v->vram_len / (64 * KIB) - 1));
        break;
    case DISPI_VIRT_WIDTH:
    case DISPI_X_OFFSET:
    case DISPI_Y_OFFSET: r->dispi[index] = value; break;
    }
}

void vga_dispi_write(struct vga *v, unsigned index, uint16_t value)
{
    g_mutex_lock(&v->lock);
    write_locked(v, index, value);
    g_mutex_unlock(&v->lock);
}
