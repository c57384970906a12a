#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/dev/display/vga_priv.h"
#include "vmm/display/console.h"
#include "vmm/vm/clock.h"
#include "vmm/vm/gmem.h"

/*
 * A picture is drawn from a copy of the registers, taken under the lock, and of the
 * memory, which goes on changing: a row may be half old, as on a real screen.
 *
 * Each row of the screen is drawn anew and handed to console_put_row(), which finds
 * what differs. The rows of IBM's modes come from a copy of the first 256 KiB, where
 * addresses wrap; those of linear modes each from a copy of their own bytes.
 *
 * The address that the CRTC counts is an index of the planes' bytes, see vga_priv.h:
 * it advances by one with each character of 8 dots, or with each 4 pixels of 8 bits.
 */

struct frame {
    struct vga_regs r;
    uint32_t palette[256]; /* by DAC index */
    uint32_t ega[16];      /* by attribute */
    unsigned width, height;
    bool cursor_phase, blink_phase; /* whether what blinks is shown */
};

enum { BLINK_NS = 266 * 1000 * 1000 };

static uint32_t colour(const struct vga_regs *r, unsigned index)
{
    const uint8_t *c = r->dac + 3 * (index & r->dac_mask);
    uint32_t rgb = (uint32_t)c[0] << 16 | (uint32_t)c[1] << 8 | c[2];

    if (r->dispi[DISPI_ENABLE] & DISPI_8BIT_DAC)
        return rgb;
    return (rgb << 2 & 0xfcfcfc) | (rgb >> 4 & 0x030303);
}

static void make_palettes(struct frame *f)
{
    enum { PALETTE_45 = 0x80 };
    const struct vga_regs *r = &f->r;

    for (unsigned i = 0; i < 256; i++)
        f->palette[i] = colour(r, i);
    for (unsigned i = 0; i < 16; i++) {
        unsigned v = r->attr[i], select = r->attr[0x14];

        v = r->attr[0x10] & PALETTE_45 ? (v & 0x0f) | (select & 0x0f) << 4
                                       : (v & 0x3f) | (select & 0x0c) << 4;
        f->ega[i] = f->palette[v];
    }
}

/* ---- what the CRTC says ---- */

static unsigned shown_lines(const struct vga_regs *r)
{
    return 1u + (r->crtc[0x12] | (r->crtc[7] & 0x02u) << 7 | (r->crtc[7] & 0x40u) << 3);
}

static unsigned line_compare(const struct vga_regs *r)
{
    return r->crtc[0x18] | (r->crtc[7] & 0x10u) << 4 | (r->crtc[9] & 0x40u) << 3;
}

static unsigned shown_chars(const struct vga_regs *r)
{
    return r->crtc[1] + 1u;
}

static uint32_t start_address(const struct vga_regs *r)
{
    return (uint32_t)r->crtc[0x0c] << 8 | r->crtc[0x0d];
}

static unsigned row_step(const struct vga_regs *r)
{
    return r->crtc[0x13] * 2u;
}

static unsigned char_height(const struct vga_regs *r)
{
    return (r->crtc[9] & 0x1fu) + 1;
}

static bool half_clock(const struct vga_regs *r)
{
    return r->seq[1] & 0x08;
}

/* The screen's line @y, after the split: which line of its part, and from where. */
static unsigned split(const struct vga_regs *r, unsigned y, uint32_t *ret_start)
{
    unsigned at = line_compare(r);

    *ret_start = y > at ? 0 : start_address(r) + (r->crtc[8] >> 5 & 3);
    return y > at ? y - at - 1 : y;
}

/* ---- text ---- */

static const uint8_t *font(const struct vga *v, const struct vga_regs *r, bool a)
{
    unsigned s = r->seq[3];
    unsigned n = a ? (s >> 2 & 3) | (s >> 3 & 4) : (s & 3) | (s >> 2 & 4);

    return v->shot + 4 * (n < 4 ? n * 0x4000 : (n - 4) * 0x4000 + 0x2000) + 2;
}

struct glyph {
    unsigned bits; /* 9 of them, the leftmost the highest */
    uint32_t fg, bg;
};

static struct glyph get_glyph(const struct vga *v, const struct frame *f, uint32_t addr,
                              unsigned scan)
{
    enum { BLINK_ON = 0x08, LINE_GRAPHICS = 0x04, UNDERLINE_FG = 1 };
    const struct vga_regs *r = &f->r;
    const uint8_t *cell = v->shot + 4 * (addr & 0xffff);
    uint8_t ch = cell[0], at = cell[1];
    const uint8_t *set = font(v, r, at & 0x08);
    unsigned bg = at >> 4, fg = at & 0x0f;
    struct glyph g = {.bits = (unsigned)set[4 * (32 * ch + scan)] << 1};

    if ((r->attr[0x10] & LINE_GRAPHICS) && ch >= 0xc0 && ch <= 0xdf)
        g.bits |= g.bits >> 1 & 1;
    if (r->attr[0x10] & BLINK_ON) {
        if ((at & 0x80) && !f->blink_phase)
            g.bits = 0;
        bg &= 7;
    }
    if ((at & 0x77) == UNDERLINE_FG && scan == (r->crtc[0x14] & 0x1fu))
        g.bits = 0x1ff;
    g.fg = f->ega[fg & r->attr[0x12]];
    g.bg = f->ega[bg & r->attr[0x12]];
    return g;
}

static bool is_cursor(const struct frame *f, uint32_t addr, unsigned scan)
{
    const struct vga_regs *r = &f->r;
    uint32_t at = (uint32_t)r->crtc[0x0e] << 8 | r->crtc[0x0f];

    return addr == at && f->cursor_phase && !(r->crtc[0x0a] & 0x20) &&
           scan >= (r->crtc[0x0a] & 0x1fu) && scan <= (r->crtc[0x0b] & 0x1fu);
}

static void text_row(const struct vga *v, const struct frame *f, unsigned y)
{
    const struct vga_regs *r = &f->r;
    unsigned dots = r->seq[1] & 1 ? 8 : 9, wide = half_clock(r) ? 2 : 1;
    unsigned chars = shown_chars(r), height = char_height(r), line, scan;
    uint32_t *out = v->row, addr;

    line = split(r, y, &addr);
    scan = line % height;
    addr += line / height * row_step(r);
    for (unsigned c = 0; c < chars; c++) {
        struct glyph g = get_glyph(v, f, addr + c, scan);

        if (is_cursor(f, addr + c, scan))
            g.bits = 0x1ff;
        for (unsigned d = 0; d < dots; d++) {
            for (unsigned w = 0; w < wide; w++)
                *out++ = g.bits & 0x100 >> d ? g.fg : g.bg;
        }
    }
}

/* ---- IBM's graphics ---- */

enum shift { SHIFT_PLANES, SHIFT_PAIRS, SHIFT_BYTES };

static enum shift shift_of(const struct vga_regs *r)
{
    return r->gfx[5] & 0x40 ? SHIFT_BYTES : r->gfx[5] & 0x20 ? SHIFT_PAIRS : 0;
}

/* Where the CGA has its odd lines, and the Hercules each fourth one: the row scan
 * counter in place of address bits 13 and 14. */
static uint32_t substitute(const struct vga_regs *r, uint32_t addr, unsigned scan)
{
    unsigned bit = 12 + (r->crtc[0x17] >> 6 & 1);

    if (!(r->crtc[0x17] & 1))
        addr = (addr & ~(1u << bit)) | (scan & 1) << bit;
    if (!(r->crtc[0x17] & 2))
        addr = (addr & ~(2u << bit)) | (scan >> 1 & 1) << (bit + 1);
    return addr;
}

/* The 8 pixels of the four bytes @b. */
static void planar_pixels(const struct frame *f, const uint8_t *b, uint8_t out[8])
{
    for (unsigned i = 0; i < 8; i++) {
        unsigned n = 7 - i;

        out[i] = (uint8_t)((b[0] >> n & 1) | (b[1] >> n & 1) << 1 |
                           (b[2] >> n & 1) << 2 | (b[3] >> n & 1) << 3);
    }
}

/* CGA: two bits each, of planes 0 and 2 the first four, of 1 and 3 the others. */
static void pair_pixels(const struct frame *f, const uint8_t *b, uint8_t out[8])
{
    for (unsigned i = 0; i < 8; i++) {
        unsigned n = 6 - 2 * (i & 3), odd = i >> 2;

        out[i] = (uint8_t)((b[odd] >> n & 3) | (b[odd + 2] >> n & 3) << 2);
    }
}

static void graphics_row(const struct vga *v, const struct frame *f, unsigned y)
{
    const struct vga_regs *r = &f->r;
    enum shift shift = shift_of(r);
    unsigned chars = shown_chars(r), height = char_height(r), pan = r->attr[0x13] & 7;
    unsigned wide = half_clock(r) ? 2 : 1, line, scan;
    unsigned skip = pan * wide;
    uint32_t *out = v->row, addr;

    line = split(r, y, &addr) >> (r->crtc[9] >> 7);
    scan = line % height;
    addr += line / height * row_step(r);
    for (unsigned c = 0; c <= chars; c++) {
        uint32_t at = substitute(r, addr + c, scan);
        const uint8_t *b = v->shot + 4 * (at & 0xffff);
        uint8_t pixels[8];

        if (shift == SHIFT_PLANES)
            planar_pixels(f, b, pixels);
        else
            pair_pixels(f, b, pixels);
        for (unsigned i = 0; i < 8; i++) {
            uint32_t rgb = shift == SHIFT_BYTES ? f->palette[b[i / 2]]
                                                : f->ega[pixels[i] & r->attr[0x12]];

            for (unsigned w = 0; w < wide; w++) {
                if (skip)
                    skip--;
                else if (out < v->row + f->width)
                    *out++ = rgb;
            }
        }
    }
}

/* ---- linear modes ---- */

static void linear_pixels(const struct frame *f, unsigned bpp, const uint8_t *from,
                          uint32_t *out)
{
    for (unsigned x = 0; x < f->width; x++) {
        uint32_t p;

        switch (bpp) {
        case 8: out[x] = f->palette[from[x]]; break;
        case 15:
            p = le16_get(from + 2 * x);
            p = (p & 0x7c00) << 9 | (p & 0x3e0) << 6 | (p & 0x1f) << 3;
            out[x] = p | (p >> 5 & 0x070707);
            break;
        case 16:
            p = le16_get(from + 2 * x);
            p = (p & 0xf800) << 8 | (p & 0x7e0) << 5 | (p & 0x1f) << 3;
            out[x] = p | (p >> 5 & 0x070007) | (p >> 6 & 0x000300);
            break;
        case 24:
            out[x] = from[3 * x] | (uint32_t)from[3 * x + 1] << 8 |
                     (uint32_t)from[3 * x + 2] << 16;
            break;
        default: out[x] = le32_get(from + 4 * x) & 0xffffff; break;
        }
    }
}

static void planar_linear_row(const struct vga *v, const struct frame *f,
                              const uint8_t *from)
{
    for (unsigned c = 0; c < f->width / 8; c++) {
        uint8_t pixels[8];

        planar_pixels(f, from + 4 * c, pixels);
        for (unsigned i = 0; i < 8; i++)
            v->row[8 * c + i] = f->ega[pixels[i] & f->r.attr[0x12]];
    }
}

static void draw_linear(struct vga *v, struct frame *f, struct console *c)
{
    struct vga_linear m = vga_linear_mode(&f->r, v->vram_len);
    unsigned bits = m.bpp == 15 ? 16 : m.bpp == 4 ? 1 : m.bpp;
    uint32_t bytes = m.width * bits / 8, factor = m.bpp == 4 ? 4 : 1;

    f->width = m.width;
    if (!console_resize(c, m.width, m.height))
        return;
    for (unsigned y = 0; y < m.height; y++) {
        uint32_t at = (m.start + y * m.line_len) * factor;

        gmem_copy(v->source, v->vram + at, bytes * factor);
        if (m.bpp == 4)
            planar_linear_row(v, f, v->source);
        else
            linear_pixels(f, m.bpp, v->source, v->row);
        console_put_row(c, y, v->row);
    }
}

/* ---- all ---- */

static void draw_black(struct vga *v, struct console *c)
{
    const struct surface *s = console_surface(c);

    memset(v->row, 0, s->width * sizeof(*v->row));
    for (unsigned y = 0; y < s->height; y++)
        console_put_row(c, y, v->row);
}

static void draw_ibm(struct vga *v, struct frame *f, struct console *c)
{
    const struct vga_regs *r = &f->r;
    bool graphics = r->gfx[6] & 1;
    unsigned dots = graphics || (r->seq[1] & 1) ? 8 : 9;

    f->width = shown_chars(r) * dots * (half_clock(r) ? 2 : 1);
    f->height = shown_lines(r);
    if (!console_resize(c, f->width, f->height))
        return;
    gmem_copy(v->shot, v->vram, VGA_SHOT_LEN);
    for (unsigned y = 0; y < f->height; y++) {
        if (graphics)
            graphics_row(v, f, y);
        else
            text_row(v, f, y);
        console_put_row(c, y, v->row);
    }
}

static bool have_buffers(struct vga *v)
{
    if (!v->shot)
        v->shot = g_try_malloc(VGA_SHOT_LEN);
    if (!v->row)
        v->row = g_try_new(uint32_t, SURFACE_MAX);
    if (!v->source)
        v->source = g_try_new(uint8_t, 4 * SURFACE_MAX);
    return v->shot && v->row && v->source;
}

void vga_draw(struct vga *v, struct console *c)
{
    enum { SCREEN_OFF = 0x20 };
    g_autofree struct frame *f = g_new0(struct frame, 1);
    uint64_t now = vm_clock_ns(v->clock);

    if (!have_buffers(v))
        return;
    g_mutex_lock(&v->lock);
    f->r = v->r;
    g_mutex_unlock(&v->lock);
    f->cursor_phase = now / BLINK_NS % 2 == 0;
    f->blink_phase = now / (2 * BLINK_NS) % 2 == 0;
    make_palettes(f);
    if (!(f->r.attr_index & ATTR_SCREEN_ON) || (f->r.seq[1] & SCREEN_OFF))
        draw_black(v, c);
    else if (vga_is_linear(&f->r))
        draw_linear(v, f, c);
    else
        draw_ibm(v, f, c);
}
