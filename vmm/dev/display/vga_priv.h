#ifndef VMM_DEV_DISPLAY_VGA_PRIV_H
#define VMM_DEV_DISPLAY_VGA_PRIV_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

#include "vmm/vm/state.h"

struct console;
struct vm_clock;

/*
 * A VGA without a bus. Where the four planes' bytes are: byte P of plane offset A is
 * byte 4 * A + P of the video memory. "Chain 4" then is memory as it stands; "odd/even"
 * uses every plane offset where the IBM's skips the odd ones, and the display, which
 * counts words there, finds them all the same. So, too, mode 13h and linear modes are
 * nothing but the bytes in order.
 */

/* Indexes of the dispi interface. */
enum {
    DISPI_ID,
    DISPI_XRES,
    DISPI_YRES,
    DISPI_BPP,
    DISPI_ENABLE,
    DISPI_BANK,
    DISPI_VIRT_WIDTH,
    DISPI_VIRT_HEIGHT,
    DISPI_X_OFFSET,
    DISPI_Y_OFFSET,
    DISPI_MEMORY_64K,
    DISPI_COUNT,
};

enum {
    DISPI_ON = 0x01,
    DISPI_GETCAPS = 0x02,
    DISPI_8BIT_DAC = 0x20,
    DISPI_LFB = 0x40,
    DISPI_NOCLEAR = 0x80,
};

enum { ATTR_SCREEN_ON = 0x20 };

struct vga_regs {
    uint8_t misc, feature;
    uint8_t seq_index, seq[8];
    uint8_t crtc_index, crtc[32];
    uint8_t gfx_index, gfx[16];
    uint8_t attr_index, attr[32]; /* attr_index has bit 5, ATTR_SCREEN_ON, in it */
    bool attr_data;               /* the next byte at 0x3c0 is data */
    uint8_t dac_mask, dac_read, dac_write, dac_part;
    bool dac_reading;
    uint8_t dac_new[3];
    uint8_t dac[768];
    uint32_t latch; /* one byte of each plane */
    uint16_t dispi_index, dispi[DISPI_COUNT];
};

struct vga {
    GMutex lock; /* guards the registers and what the window does */
    struct vga_regs r;
    struct vm_clock *clock;
    uint8_t *vram;
    _Atomic uint8_t *dirty; /* a byte for each page */
    uint32_t vram_len;      /* bytes, a power of two, at least 1 MiB */

    /* The display's thread's. */
    uint8_t *shot;   /* a copy of the planes, VGA_SHOT_LEN */
    uint32_t *row;   /* SURFACE_MAX pixels */
    uint8_t *source; /* what a row is made of */
};

enum { VGA_SHOT_LEN = 256 * 1024 };

extern const struct state_table vga_core_state;

/* All 0 but @clock, @vram, @dirty, @vram_len: the caller's, borrowed. */
void vga_init(struct vga *v);
void vga_done(struct vga *v);
void vga_reset(struct vga *v);

/* ---- vga_regs.c: a byte at port 0x3b0..0x3df ---- */

uint8_t vga_port_read(struct vga *v, unsigned port);
void vga_port_write(struct vga *v, unsigned port, uint8_t value);

/* ---- vga_dispi.c ---- */

uint16_t vga_dispi_read(struct vga *v, unsigned index);
void vga_dispi_write(struct vga *v, unsigned index, uint16_t value);

/* What the registers of a mode that is on come to; they fit the video memory. */
struct vga_linear {
    unsigned width, height, bpp; /* bpp: 4, 8, 15, 16, 24, 32 */
    uint32_t line_len, start;    /* bytes; of 4 bpp, of each plane */
};
struct vga_linear vga_linear_mode(const struct vga_regs *r, uint32_t vram_len);

static inline bool vga_is_linear(const struct vga_regs *r)
{
    return r->dispi[DISPI_ENABLE] & DISPI_ON;
}

/* ---- vga_mem.c: the window of 128 KiB at 0xa0000 ---- */

uint8_t vga_mem_read_locked(struct vga *v, uint32_t off);
void vga_mem_write_locked(struct vga *v, uint32_t off, uint8_t value);

/* ---- vga_draw.c ---- */

/* Bring @c up to date. Display's thread. */
void vga_draw(struct vga *v, struct console *c);

#endif
