#include <string.h>

#include "lib/base/base.h"
#include "vmm/dev/display/vga_priv.h"
#include "vmm/vm/clock.h"

/*
 * Five groups of registers, each behind an index: sequencer, CRTC, graphics and
 * attribute controllers, DAC. Bits that do not exist read 0. The CRTC is at 0x3b4 or at
 * 0x3d4, as the miscellaneous register's bit 0 says; at the other place is nothing.
 */

static const uint8_t seq_bits[8] = {0x03, 0x3d, 0x0f, 0x3f, 0x0e, 0, 0, 0xff};
static const uint8_t gfx_bits[16] = {0x0f, 0x0f, 0x0f, 0x1f, 0x03,
                                     0x7b, 0x0f, 0x0f, 0xff};
static const uint8_t attr_bits[21] = {0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f,
                                      0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f,
                                      0x3f, 0x3f, 0xef, 0xff, 0x3f, 0x0f, 0x0f};

/* Whether port 0x3bx or 0x3dx is where the CRTC is. */
static bool is_open(const struct vga_regs *r, unsigned port)
{
    bool colour = port >= 0x3d0, mono = port < 0x3c0;

    return (!colour && !mono) || colour == (r->misc & 1);
}

/* Input status 1: the beam is somewhere on a picture of 60 Hz and 449 lines. */
static uint8_t beam_status(const struct vga *v)
{
    enum { NOT_SHOWN = 0x01, VERTICAL_RETRACE = 0x08 };
    const uint64_t frame = 16666667, line = frame / 449, shown = line * 400;
    uint64_t at = vm_clock_ns(v->clock) % frame;

    if (at >= shown + 12 * line && at < shown + 14 * line)
        return NOT_SHOWN | VERTICAL_RETRACE;
    return at >= shown || at % line >= line * 4 / 5 ? NOT_SHOWN : 0;
}

static uint8_t dac_data_read(struct vga_regs *r)
{
    uint8_t value = r->dac[3 * r->dac_read + r->dac_part];

    if (++r->dac_part == 3) {
        r->dac_part = 0;
        r->dac_read++;
    }
    return value;
}

static void dac_data_write(struct vga_regs *r, uint8_t value)
{
    bool wide = r->dispi[DISPI_ENABLE] & DISPI_8BIT_DAC;

    r->dac_new[r->dac_part] = wide ? value : value & 0x3f;
    if (++r->dac_part == 3) {
        memcpy(r->dac + 3 * r->dac_write, r->dac_new, 3);
        r->dac_part = 0;
        r->dac_write++;
    }
}

static void attr_write(struct vga_regs *r, uint8_t value)
{
    unsigned i = r->attr_index & 0x1f;

    if (!r->attr_data)
        r->attr_index = value & 0x3f;
    else if (i < ARRAY_LEN(attr_bits))
        r->attr[i] = value & attr_bits[i];
    r->attr_data = !r->attr_data;
}

static void crtc_write(struct vga_regs *r, uint8_t value)
{
    enum { OVERFLOW = 7, RETRACE_END = 0x11, PROTECT = 0x80, LINE_COMPARE_8 = 0x10 };
    unsigned i = r->crtc_index;

    if (i >= ARRAY_LEN(r->crtc))
        return;
    if (i <= OVERFLOW && (r->crtc[RETRACE_END] & PROTECT)) {
        if (i == OVERFLOW)
            r->crtc[i] =
                (uint8_t)((r->crtc[i] & ~LINE_COMPARE_8) | (value & LINE_COMPARE_8));
        return;
    }
    r->crtc[i] = value;
}

static uint8_t port_read_locked(struct vga *v, unsigned port)
{
    struct vga_regs *r = &v->r;

    if (!is_open(r, port))
        return 0xff;
    switch (port) {
    case 0x3c0: return r->attr_data ? 0 : r->attr_index;
    case 0x3c1:
        return (r->attr_index & 0x1f) < ARRAY_LEN(attr_bits)
                   ? r->attr[r->attr_index & 0x1f]
                   : 0;
    case 0x3c2: return 0; /* input status 0: no sense, no interrupt */
    case 0x3c4: return r->seq_index;
    case 0x3c5: return r->seq[r->seq_index];
    case 0x3c6: return r->dac_mask;
    case 0x3c7: return r->dac_reading ? 3 : 0;
    case 0x3c8: return r->dac_write;
    case 0x3c9: return dac_data_read(r);
    case 0x3ca: return r->feature;
    case 0x3cc: return r->misc;
    case 0x3ce: return r->gfx_index;
    case 0x3cf: return r->gfx[r->gfx_index];
    case 0x3b4:
    case 0x3d4: return r->crtc_index;
    case 0x3b5:
    case 0x3d5: return r->crtc_index < ARRAY_LEN(r->crtc) ? r->crtc[r->crtc_index] : 0;
    case 0x3ba:
    case 0x3da: r->attr_data = false; return beam_status(v);
    }
    return 0;
}

static void port_write_locked(struct vga *v, unsigned port, uint8_t value)
{
    struct vga_regs *r = &v->r;

    if (!is_open(r, port))
        return;
    switch (port) {
    case 0x3c0: attr_write(r, value); break;
    case 0x3c2: r->misc = value & 0xef; break;
    case 0x3c4: r->seq_index = value & 7; break;
    case 0x3c5: r->seq[r->seq_index] = value & seq_bits[r->seq_index]; break;
    case 0x3c6: r->dac_mask = value; break;
    case 0x3c7:
        r->dac_read = value;
        r->dac_part = 0;
        r->dac_reading = true;
        break;
    case 0x3c8:
        r->dac_write = value;
        r->dac_part = 0;
        r->dac_reading = false;
        break;
    case 0x3c9: dac_data_write(r, value); break;
    case 0x3ce: r->gfx_index = value & 15; break;
    case 0x3cf: r->gfx[r->gfx_index] = value & gfx_bits[r->gfx_index]; break;
    case 0x3b4:
    case 0x3d4: r->crtc_index = value; break;
    case 0x3b5:
    case 0x3d5: crtc_write(r, value); break;
    case 0x3ba:
    case 0x3da: r->feature = value & 0x10; break;
    }
}

uint8_t vga_port_read(struct vga *v, unsigned port)
{
    uint8_t value;

    g_mutex_lock(&v->lock);
    value = port_read_locked(v, port);
    g_mutex_unlock(&v->lock);
    return value;
}

void vga_port_write(struct vga *v, unsigned port, uint8_t value)
{
    g_mutex_lock(&v->lock);
    port_write_locked(v, port, value);
    g_mutex_unlock(&v->lock);
}

void vga_init(struct vga *v)
{
    g_mutex_init(&v->lock);
}

void vga_done(struct vga *v)
{
    g_mutex_clear(&v->lock);
    g_free(v->shot);
    g_free(v->row);
    g_free(v->source);
}

void vga_reset(struct vga *v)
{
    g_mutex_lock(&v->lock);
    memset(&v->r, 0, sizeof(v->r));
    v->r.dac_mask = 0xff;
    v->r.dispi[DISPI_ID] = 0xb0c5;
    v->r.dispi[DISPI_BPP] = 8;
    g_mutex_unlock(&v->lock);
}

static bool post_load(void *object, unsigned version, GError **error)
{
    const struct vga_regs *r = object;

    if (r->seq_index > 7 || r->gfx_index > 15 || r->dac_part > 2)
        return error_msg(error, "an index is beyond its registers");
    return true;
}

static const struct state_field fields[] = {
    STATE_FIELD(U8, struct vga_regs, misc),
    STATE_FIELD(U8, struct vga_regs, feature),
    STATE_FIELD(U8, struct vga_regs, seq_index),
    STATE_BUFFER(struct vga_regs, seq),
    STATE_FIELD(U8, struct vga_regs, crtc_index),
    STATE_BUFFER(struct vga_regs, crtc),
    STATE_FIELD(U8, struct vga_regs, gfx_index),
    STATE_BUFFER(struct vga_regs, gfx),
    STATE_FIELD(U8, struct vga_regs, attr_index),
    STATE_BUFFER(struct vga_regs, attr),
    STATE_FIELD(BOOL, struct vga_regs, attr_data),
    STATE_FIELD(U8, struct vga_regs, dac_mask),
    STATE_FIELD(U8, struct vga_regs, dac_read),
    STATE_FIELD(U8, struct vga_regs, dac_write),
    STATE_FIELD(U8, struct vga_regs, dac_part),
    STATE_FIELD(BOOL, struct vga_regs, dac_reading),
    STATE_BUFFER(struct vga_regs, dac_new),
    STATE_BUFFER(struct vga_regs, dac),
    STATE_FIELD(U32, struct vga_regs, latch),
    STATE_FIELD(U16, struct vga_regs, dispi_index),
    STATE_ARRAY(U16, struct vga_regs, dispi, DISPI_COUNT),
    {0},
};

const struct state_table vga_core_state = {
    .name = "vga-core", .version = 1, .fields = fields, .post_load = post_load};
