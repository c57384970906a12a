#include <string.h>

#include "lib/base/bytes.h"
#include "lib/loop/loop.h"
#include "vmm/dev/display/edid.h"
#include "vmm/dev/display/vga_priv.h"
#include "vmm/display/console.h"
#include "vmm/vm/clock.h"

/* A VGA with 1 MiB on no bus, whose time stands still, and a console. */
enum { VRAM = 1 << 20 };

struct rig {
    struct loop *loop;
    struct vm_clock *clock;
    struct display *display;
    struct console *console;
    uint8_t *memory;
    struct vga v;
};

static void refresh(void *opaque, struct console *c)
{
    vga_draw(opaque, c);
}

static const struct console_ops ops = {.refresh = refresh};

static struct rig *setup(void)
{
    struct rig *g = g_new0(struct rig, 1);

    g->loop = loop_new(NULL, NULL);
    g->clock = vm_clock_new(g->loop);
    g->display = display_new(NULL);
    g->console = console_new(g->display, "vga", &ops, &g->v);
    g->memory = g_malloc0(VRAM);
    g->v.clock = g->clock;
    g->v.vram = g->memory;
    g->v.vram_len = VRAM;
    g->v.dirty = (_Atomic uint8_t *)g_malloc0(VRAM / 4096);
    vga_init(&g->v);
    vga_reset(&g->v);
    return g;
}

static void teardown(struct rig *g)
{
    console_free(g->console);
    display_free(g->display);
    vga_done(&g->v);
    g_free((void *)g->v.dirty);
    g_free(g->memory);
    vm_clock_free(g->clock);
    loop_free(g->loop);
    g_free(g);
}

static void indexed(struct rig *g, unsigned port, uint8_t index, uint8_t value)
{
    vga_port_write(&g->v, port, index);
    vga_port_write(&g->v, port + 1, value);
}

static uint8_t read_indexed(struct rig *g, unsigned port, uint8_t index)
{
    vga_port_write(&g->v, port, index);
    return vga_port_read(&g->v, port + 1);
}

static void attr(struct rig *g, uint8_t index, uint8_t value)
{
    vga_port_read(&g->v, 0x3da);
    vga_port_write(&g->v, 0x3c0, index);
    vga_port_write(&g->v, 0x3c0, value);
}

static void dac(struct rig *g, uint8_t index, uint8_t r, uint8_t gr, uint8_t b)
{
    vga_port_write(&g->v, 0x3c8, index);
    vga_port_write(&g->v, 0x3c9, r);
    vga_port_write(&g->v, 0x3c9, gr);
    vga_port_write(&g->v, 0x3c9, b);
}

static uint8_t peek(struct rig *g, uint32_t off)
{
    return vga_mem_read_locked(&g->v, off);
}

static void poke(struct rig *g, uint32_t off, uint8_t value)
{
    vga_mem_write_locked(&g->v, off, value);
}

static uint32_t pixel(struct rig *g, unsigned x, unsigned y)
{
    const struct surface *s = console_surface(g->console);

    g_assert_cmpuint(x, <, s->width);
    g_assert_cmpuint(y, <, s->height);
    return s->pixels[y * s->stride + x];
}

static void assert_size(struct rig *g, unsigned width, unsigned height)
{
    g_assert_cmpuint(console_surface(g->console)->width, ==, width);
    g_assert_cmpuint(console_surface(g->console)->height, ==, height);
}

/* ---- registers ---- */

static void indexed_registers_keep_the_bits_they_have(void)
{
    struct rig *g = setup();

    indexed(g, 0x3c4, 2, 0xff);
    g_assert_cmphex(read_indexed(g, 0x3c4, 2), ==, 0x0f);
    indexed(g, 0x3ce, 5, 0xff);
    g_assert_cmphex(read_indexed(g, 0x3ce, 5), ==, 0x7b);
    indexed(g, 0x3ce, 8, 0xa5);
    g_assert_cmphex(read_indexed(g, 0x3ce, 8), ==, 0xa5);
    indexed(g, 0x3ce, 12, 0xff);
    g_assert_cmphex(read_indexed(g, 0x3ce, 12), ==, 0);
    teardown(g);
}

static void crtc_is_where_the_misc_register_says(void)
{
    struct rig *g = setup();

    vga_port_write(&g->v, 0x3c2, 0x01);
    g_assert_cmphex(vga_port_read(&g->v, 0x3cc), ==, 0x01);
    indexed(g, 0x3d4, 0x0e, 0x12);
    g_assert_cmphex(read_indexed(g, 0x3d4, 0x0e), ==, 0x12);
    g_assert_cmphex(vga_port_read(&g->v, 0x3b5), ==, 0xff);
    vga_port_write(&g->v, 0x3c2, 0x00);
    g_assert_cmphex(read_indexed(g, 0x3b4, 0x0e), ==, 0x12);
    g_assert_cmphex(vga_port_read(&g->v, 0x3d5), ==, 0xff);
    teardown(g);
}

static void crtc_protection_leaves_one_bit(void)
{
    struct rig *g = setup();

    vga_port_write(&g->v, 0x3c2, 0x01);
    indexed(g, 0x3d4, 0x11, 0x80);
    indexed(g, 0x3d4, 0x01, 0x4f);
    indexed(g, 0x3d4, 0x07, 0xff);
    indexed(g, 0x3d4, 0x09, 0x0f);
    g_assert_cmphex(read_indexed(g, 0x3d4, 0x01), ==, 0);
    g_assert_cmphex(read_indexed(g, 0x3d4, 0x07), ==, 0x10);
    g_assert_cmphex(read_indexed(g, 0x3d4, 0x09), ==, 0x0f);
    teardown(g);
}

static void attribute_port_alternates(void)
{
    struct rig *g = setup();

    vga_port_write(&g->v, 0x3c2, 0x01);
    attr(g, 0x03, 0xff);
    attr(g, 0x14, 0xff);
    vga_port_read(&g->v, 0x3da);
    vga_port_write(&g->v, 0x3c0, 0x23);
    g_assert_cmphex(vga_port_read(&g->v, 0x3c1), ==, 0x3f);
    vga_port_read(&g->v, 0x3da);
    vga_port_write(&g->v, 0x3c0, 0x14);
    g_assert_cmphex(vga_port_read(&g->v, 0x3c1), ==, 0x0f);
    vga_port_read(&g->v, 0x3da);
    g_assert_cmphex(vga_port_read(&g->v, 0x3c0), ==, 0x14);
    teardown(g);
}

static void dac_counts_by_itself(void)
{
    struct rig *g = setup();

    dac(g, 5, 0x3f, 0x20, 0xff);
    vga_port_write(&g->v, 0x3c9, 1); /* of entry 6 */
    g_assert_cmphex(vga_port_read(&g->v, 0x3c8), ==, 6);
    vga_port_write(&g->v, 0x3c7, 5);
    g_assert_cmphex(vga_port_read(&g->v, 0x3c7), ==, 3);
    g_assert_cmphex(vga_port_read(&g->v, 0x3c9), ==, 0x3f);
    g_assert_cmphex(vga_port_read(&g->v, 0x3c9), ==, 0x20);
    g_assert_cmphex(vga_port_read(&g->v, 0x3c9), ==, 0x3f);
    /* An entry is written when its third byte is. */
    g_assert_cmphex(vga_port_read(&g->v, 0x3c9), ==, 0);
    teardown(g);
}

static void beam_moves_with_time(void)
{
    struct rig *g = setup();
    bool seen[2] = {false, false};

    vga_port_write(&g->v, 0x3c2, 0x01);
    for (unsigned i = 0; i < 200; i++) {
        seen[vga_port_read(&g->v, 0x3da) >> 3 & 1] = true;
        vm_clock_advance(g->clock, 100000);
    }
    g_assert_true(seen[0] && seen[1]);
    teardown(g);
}

/* ---- the planes ---- */

static struct rig *planar(void)
{
    struct rig *g = setup();

    vga_port_write(&g->v, 0x3c2, 0x03);
    indexed(g, 0x3ce, 6, 0x05); /* graphics, at 0xa0000 */
    indexed(g, 0x3c4, 4, 0x06);
    indexed(g, 0x3c4, 2, 0x0f);
    indexed(g, 0x3ce, 8, 0xff);
    return g;
}

static void plane_mask_and_read_map(void)
{
    struct rig *g = planar();

    indexed(g, 0x3c4, 2, 0x05);
    poke(g, 7, 0xa5);
    g_assert_cmphex(le32_get(g->memory + 28), ==, 0x00a500a5);
    indexed(g, 0x3ce, 4, 2);
    g_assert_cmphex(peek(g, 7), ==, 0xa5);
    indexed(g, 0x3ce, 4, 1);
    g_assert_cmphex(peek(g, 7), ==, 0);
    teardown(g);
}

static void write_mode_0(void)
{
    struct rig *g = planar();

    le32_put(g->memory, 0xf0f0f0f0);
    indexed(g, 0x3ce, 0, 0x01); /* set/reset: plane 0 ones, */
    indexed(g, 0x3ce, 1, 0x03); /* for planes 0 and 1 */
    indexed(g, 0x3ce, 3, 0x04); /* rotate by 4 */
    indexed(g, 0x3ce, 8, 0x3c);
    peek(g, 0);
    poke(g, 0, 0x0f);
    g_assert_cmphex(le32_get(g->memory), ==, 0xf0f0c0fc);
    indexed(g, 0x3ce, 1, 0);
    indexed(g, 0x3ce, 8, 0xff);
    indexed(g, 0x3ce, 3, 0x18); /* xor */
    le32_put(g->memory, 0x11223344);
    peek(g, 0);
    poke(g, 0, 0xff);
    g_assert_cmphex(le32_get(g->memory), ==, 0xeeddccbb);
    teardown(g);
}

static void write_modes_1_to_3(void)
{
    struct rig *g = planar();

    le32_put(g->memory, 0x11223344);
    peek(g, 0);
    indexed(g, 0x3ce, 5, 1);
    poke(g, 1, 0);
    g_assert_cmphex(le32_get(g->memory + 4), ==, 0x11223344);
    indexed(g, 0x3ce, 5, 2);
    indexed(g, 0x3ce, 8, 0x0f);
    peek(g, 0);
    poke(g, 2, 0x09);
    g_assert_cmphex(le32_get(g->memory + 8), ==, 0x1f20304f);
    indexed(g, 0x3ce, 5, 3);
    indexed(g, 0x3ce, 8, 0xff);
    indexed(g, 0x3ce, 0, 0x0c);
    peek(g, 0);
    poke(g, 3, 0xf0);
    g_assert_cmphex(le32_get(g->memory + 12), ==, 0xf1f20304);
    teardown(g);
}

static void read_mode_1_compares(void)
{
    struct rig *g = planar();

    le32_put(g->memory, 0xff0f00f0); /* colours: 1001 1001 1001 1001 1100... */
    indexed(g, 0x3ce, 5, 8);
    indexed(g, 0x3ce, 2, 0x0c);
    indexed(g, 0x3ce, 7, 0x0f);
    g_assert_cmphex(peek(g, 0), ==, 0x0f);
    indexed(g, 0x3ce, 7, 0x08); /* only plane 3 counts */
    g_assert_cmphex(peek(g, 0), ==, 0xff);
    teardown(g);
}

static void windows_and_chains(void)
{
    struct rig *g = planar();

    indexed(g, 0x3c4, 4, 0x0e); /* chain 4 */
    poke(g, 5, 0x77);
    g_assert_cmphex(g->memory[5], ==, 0x77);
    g_assert_cmphex(peek(g, 0x10005), ==, 0xff);
    indexed(g, 0x3c4, 4, 0x02);
    indexed(g, 0x3ce, 5, 0x10); /* odd/even */
    indexed(g, 0x3ce, 6, 0x0e); /* at 0xb8000 */
    indexed(g, 0x3c4, 2, 0x03);
    poke(g, 0x18003, 0x1f);
    g_assert_cmphex(g->memory[4 * 1 + 1], ==, 0x1f);
    g_assert_cmphex(peek(g, 0x18003), ==, 0x1f);
    g_assert_cmphex(peek(g, 3), ==, 0xff);
    vga_port_write(&g->v, 0x3c2, 0x01); /* the window is closed */
    g_assert_cmphex(peek(g, 0x18003), ==, 0xff);
    teardown(g);
}

/* ---- pictures ---- */

static void crtc_mode(struct rig *g, unsigned chars, unsigned lines, uint8_t scans,
                      uint8_t step)
{
    unsigned last = lines - 1;

    indexed(g, 0x3d4, 1, (uint8_t)(chars - 1));
    indexed(g, 0x3d4, 7, (uint8_t)(0x10 | (last >> 8 & 1) << 1 | (last >> 9 & 1) << 6));
    indexed(g, 0x3d4, 0x12, (uint8_t)last);
    indexed(g, 0x3d4, 9, 0x40 | scans);
    indexed(g, 0x3d4, 0x13, step);
    indexed(g, 0x3d4, 0x17, 0xa3);
    indexed(g, 0x3d4, 0x18, 0xff);
}

static void colours(struct rig *g)
{
    for (unsigned i = 0; i < 16; i++) {
        attr(g, (uint8_t)i, (uint8_t)i);
        dac(g, (uint8_t)i, (uint8_t)i, 0, 0x3f);
    }
    attr(g, 0x12, 0x0f);
    vga_port_read(&g->v, 0x3da);
    vga_port_write(&g->v, 0x3c0, 0x20);
}

static uint32_t rgb(unsigned i)
{
    return (i << 2 | i >> 4) << 16 | 0xff;
}

static void text_is_drawn_with_the_loaded_font(void)
{
    struct rig *g = setup();

    vga_port_write(&g->v, 0x3c2, 0x03);
    crtc_mode(g, 80, 400, 15, 40);
    indexed(g, 0x3d4, 0x0a, 0x20); /* no cursor */
    colours(g);
    attr(g, 0x10, 0x0c);
    vga_port_write(&g->v, 0x3c0, 0x20);
    for (unsigned i = 0; i < 16; i++) {
        g->memory[4 * (32 * 'A' + i) + 2] = 0x81;
        g->memory[4 * (32 * 0xc4 + i) + 2] = 0x01;
    }
    memcpy(g->memory + 4 * 81, "A\x1e", 2); /* the second row's second cell */
    memcpy(g->memory + 4 * 82, "\xc4\x1e", 2);
    console_refresh(g->console);
    assert_size(g, 720, 400);
    g_assert_cmphex(pixel(g, 9, 16), ==, rgb(14));
    g_assert_cmphex(pixel(g, 10, 16), ==, rgb(1));
    g_assert_cmphex(pixel(g, 16, 31), ==, rgb(14));
    g_assert_cmphex(pixel(g, 17, 31), ==, rgb(1));  /* the ninth dot */
    g_assert_cmphex(pixel(g, 26, 31), ==, rgb(14)); /* but of a line's */
    g_assert_cmphex(pixel(g, 9, 32), ==, rgb(0));
    indexed(g, 0x3d4, 0x0a, 0x0d);
    indexed(g, 0x3d4, 0x0b, 0x0e);
    indexed(g, 0x3d4, 0x0f, 81);
    console_refresh(g->console);
    g_assert_cmphex(pixel(g, 12, 28), ==, rgb(1));
    g_assert_cmphex(pixel(g, 12, 29), ==, rgb(14));
    indexed(g, 0x3d4, 0x0d, 80); /* scrolled by a row */
    console_refresh(g->console);
    g_assert_cmphex(pixel(g, 9, 0), ==, rgb(14));
    teardown(g);
}

static void planar_and_256_colours(void)
{
    struct rig *g = planar();

    crtc_mode(g, 80, 350, 0, 40);
    colours(g);
    le32_put(g->memory + 4 * (80 + 1), 0x80000080); /* second line, pixel 8: 1001 */
    console_refresh(g->console);
    assert_size(g, 640, 350);
    g_assert_cmphex(pixel(g, 8, 1), ==, rgb(9));
    g_assert_cmphex(pixel(g, 9, 1), ==, rgb(0));
    indexed(g, 0x3ce, 5, 0x40);
    crtc_mode(g, 80, 400, 1, 40); /* mode 13h */
    dac(g, 200, 0x3f, 0, 0);
    g->memory[320 * 3 + 5] = 200;
    console_refresh(g->console);
    assert_size(g, 640, 400);
    g_assert_cmphex(pixel(g, 10, 6), ==, 0xff0000);
    g_assert_cmphex(pixel(g, 11, 7), ==, 0xff0000);
    g_assert_cmphex(pixel(g, 12, 7), ==, rgb(0));
    teardown(g);
}

static void screen_off_is_black(void)
{
    struct rig *g = planar();

    crtc_mode(g, 80, 350, 0, 40);
    colours(g);
    console_refresh(g->console);
    g_assert_cmphex(pixel(g, 0, 0), ==, 0xff);
    indexed(g, 0x3c4, 1, 0x20);
    console_refresh(g->console);
    g_assert_cmphex(pixel(g, 0, 0), ==, 0);
    teardown(g);
}

static void dispi(struct rig *g, unsigned w, unsigned h, unsigned bpp)
{
    vga_dispi_write(&g->v, DISPI_ENABLE, 0);
    vga_dispi_write(&g->v, DISPI_XRES, (uint16_t)w);
    vga_dispi_write(&g->v, DISPI_YRES, (uint16_t)h);
    vga_dispi_write(&g->v, DISPI_BPP, (uint16_t)bpp);
    vga_dispi_write(&g->v, DISPI_ENABLE, DISPI_ON | DISPI_LFB);
}

static void dispi_depths(void)
{
    static const struct {
        unsigned bpp, bytes;
        uint32_t value, expect;
    } cases[] = {{8, 1, 3, 0x0c00ff},
                 {15, 2, 0x7c1f, 0xff00ff},
                 {16, 2, 0x07e0, 0x00ff00},
                 {24, 3, 0x123456, 0x123456},
                 {32, 4, 0xff123456, 0x123456}};
    struct rig *g = setup();

    vga_port_write(&g->v, 0x3c2, 0x03);
    colours(g);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        uint8_t bytes[4];

        dispi(g, 320, 200, cases[i].bpp);
        g_assert_cmphex(g->memory[320 * cases[i].bytes], ==, 0); /* cleared */
        le32_put(bytes, cases[i].value);
        memcpy(g->memory + (320 * 2 + 7) * cases[i].bytes, bytes, cases[i].bytes);
        console_refresh(g->console);
        assert_size(g, 320, 200);
        g_assert_cmphex(pixel(g, 7, 2), ==, cases[i].expect);
    }
    vga_dispi_write(&g->v, DISPI_VIRT_WIDTH, 640);
    vga_dispi_write(&g->v, DISPI_Y_OFFSET, 1);
    vga_dispi_write(&g->v, DISPI_X_OFFSET, 1);
    le32_put(g->memory + (640 + 1) * 4, 0xabcdef);
    console_refresh(g->console);
    g_assert_cmphex(pixel(g, 0, 0), ==, 0xabcdef);
    g_assert_cmphex(vga_dispi_read(&g->v, DISPI_VIRT_HEIGHT), ==, VRAM / 4 / 640);
    teardown(g);
}

static void dispi_banks(void)
{
    struct rig *g = setup();

    dispi(g, 640, 400, 32);
    vga_dispi_write(&g->v, DISPI_BANK, 3);
    poke(g, 1, 0x42);
    g_assert_cmphex(g->memory[3 * 65536 + 1], ==, 0x42);
    g_assert_cmphex(vga_dispi_read(&g->v, DISPI_ID), ==, 0xb0c5);
    g_assert_cmpuint(vga_dispi_read(&g->v, DISPI_MEMORY_64K), ==, 16);
    vga_dispi_write(&g->v, DISPI_ENABLE, DISPI_GETCAPS);
    g_assert_cmpuint(vga_dispi_read(&g->v, DISPI_XRES), ==, SURFACE_MAX);
    teardown(g);
}

/* Whatever the registers hold, drawing stays within the memory and the surface; the
 * sanitizers' trees see to it. */
static void any_registers_can_be_drawn(void)
{
    struct rig *g = setup();
    GRand *rand = g_rand_new_with_seed(7);

    for (unsigned i = 0; i < 60; i++) {
        for (unsigned k = 0; k < 3000; k++) {
            uint32_t x = g_rand_int(rand);

            switch (x >> 30) {
            case 0: vga_port_write(&g->v, 0x3b0 + x % 0x30, (uint8_t)(x >> 8)); break;
            case 1: vga_dispi_write(&g->v, x % 16, (uint16_t)(x >> 8)); break;
            case 2: poke(g, x & 0x1ffff, (uint8_t)(x >> 20)); break;
            default: peek(g, x & 0x1ffff); break;
            }
        }
        if (i % 2) {
            vga_dispi_write(&g->v, DISPI_XRES, (uint16_t)(g_rand_int(rand) % 800));
            vga_dispi_write(&g->v, DISPI_YRES, (uint16_t)(g_rand_int(rand) % 700));
        } else {
            vga_dispi_write(&g->v, DISPI_ENABLE, 0);
        }
        g->v.r.attr_index |= ATTR_SCREEN_ON;
        g->v.r.seq[1] &= (uint8_t)~0x20;
        console_refresh(g->console);
    }
    g_rand_free(rand);
    teardown(g);
}

static void edid_sums_to_zero(void)
{
    uint8_t e[EDID_LEN], sum = 0;

    edid_make(e, 1280, 800);
    for (unsigned i = 0; i < EDID_LEN; i++)
        sum = (uint8_t)(sum + e[i]);
    g_assert_cmphex(sum, ==, 0);
    g_assert_cmpuint(e[54 + 2] | e[54 + 4] >> 4 << 8, ==, 1280);
    g_assert_cmpuint(e[54 + 5] | e[54 + 7] >> 4 << 8, ==, 800);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/vga/" #name, name)
    TEST(indexed_registers_keep_the_bits_they_have);
    TEST(crtc_is_where_the_misc_register_says);
    TEST(crtc_protection_leaves_one_bit);
    TEST(attribute_port_alternates);
    TEST(dac_counts_by_itself);
    TEST(beam_moves_with_time);
    TEST(plane_mask_and_read_map);
    TEST(write_mode_0);
    TEST(write_modes_1_to_3);
    TEST(read_mode_1_compares);
    TEST(windows_and_chains);
    TEST(text_is_drawn_with_the_loaded_font);
    TEST(planar_and_256_colours);
    TEST(screen_off_is_black);
    TEST(dispi_depths);
    TEST(dispi_banks);
    TEST(any_registers_can_be_drawn);
    TEST(edid_sums_to_zero);
    return g_test_run();
}
