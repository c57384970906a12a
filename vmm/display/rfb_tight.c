/*
 * Tight (community specification, 7.7.7): a rectangle is one colour, or indexes of a
 * palette, or a JPEG, or pixels; all but the first and the JPEG pass through one of
 * four zlib streams.
 */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include "lib/base/base.h"
#include "vmm/display/rfb_priv.h"

enum { FILL = 0x80, JPEG = 0x90, HAS_FILTER = 0x40, PALETTE_FILTER = 1 };
enum { STREAM_PIXELS = 0, STREAM_MONO = 1, STREAM_INDEXES = 2 };
enum { NOT_COMPRESSED_BELOW = 12, JPEG_MIN_AREA = 256 };

static void put_compact(struct rfb *r, size_t len)
{
    rfb_put8(r, (len & 0x7f) | (len > 0x7f ? 0x80 : 0));
    if (len > 0x7f)
        rfb_put8(r, (len >> 7 & 0x7f) | (len > 0x3fff ? 0x80 : 0));
    if (len > 0x3fff)
        rfb_put8(r, (unsigned)(len >> 14));
}

/* What is in r->work, through stream @n. */
static void put_stream(struct rfb *r, unsigned n)
{
    g_autoptr(GByteArray) z = NULL;

    if (r->work->len < NOT_COMPRESSED_BELOW) {
        rfb_put(r, r->work->data, r->work->len);
        return;
    }
    z = g_byte_array_new();
    rfb_put_zlib(r, &r->tight[n], &r->tight_on[n], r->work, z);
    put_compact(r, z->len);
    rfb_put(r, z->data, z->len);
}

static void put_pixels(struct rfb *r, const struct rect *rc)
{
    rfb_put8(r, STREAM_PIXELS << 4);
    g_byte_array_set_size(r->work, 0);
    for (unsigned y = 0; y < rc->h; y++) {
        const uint32_t *row = rfb_row(r, rc->x, rc->y + y);

        for (unsigned x = 0; x < rc->w; x++)
            rfb_append_tpixel(&r->format, row[x], r->work);
    }
    put_stream(r, STREAM_PIXELS);
}

static void put_palette(struct rfb *r, unsigned stream, const struct rfb_palette *p)
{
    rfb_put8(r, stream << 4 | HAS_FILTER);
    rfb_put8(r, PALETTE_FILTER);
    rfb_put8(r, p->n - 1);
    for (unsigned i = 0; i < p->n; i++)
        rfb_append_tpixel(&r->format, p->colour[i], r->out);
    g_byte_array_set_size(r->work, 0);
}

static void put_mono(struct rfb *r, const struct rect *rc, const struct rfb_palette *p)
{
    put_palette(r, STREAM_MONO, p);
    for (unsigned y = 0; y < rc->h; y++) {
        const uint32_t *row = rfb_row(r, rc->x, rc->y + y);

        for (unsigned x = 0; x < rc->w; x += 8) {
            uint8_t byte = 0;

            for (unsigned i = 0; i < 8 && x + i < rc->w; i++) {
                if (row[x + i] == p->colour[1])
                    byte |= (uint8_t)(0x80 >> i);
            }
            g_byte_array_append(r->work, &byte, 1);
        }
    }
    put_stream(r, STREAM_MONO);
}

static void put_indexes(struct rfb *r, const struct rect *rc, struct rfb_palette *p)
{
    put_palette(r, STREAM_INDEXES, p);
    for (unsigned y = 0; y < rc->h; y++) {
        const uint32_t *row = rfb_row(r, rc->x, rc->y + y);

        for (unsigned x = 0; x < rc->w; x++) {
            uint8_t i = (uint8_t)rfb_palette_add(p, row[x], 256);

            g_byte_array_append(r->work, &i, 1);
        }
    }
    put_stream(r, STREAM_INDEXES);
}

/* ---- JPEG ---- */

struct jpeg_failure {
    struct jpeg_error_mgr mgr;
    jmp_buf jump;
};

static void jpeg_failed(j_common_ptr c)
{
    longjmp(container_of(c->err, struct jpeg_failure, mgr)->jump, 1);
}

static void jpeg_silent(j_common_ptr c, int level)
{
}

/* NULL: the library had no memory. The caller frees it with free(). */
static unsigned char *make_jpeg(struct rfb *r, const struct rect *rc,
                                unsigned long *ret_len)
{
    struct jpeg_compress_struct c = {0};
    struct jpeg_failure failure;
    unsigned char *volatile *bytes;
    unsigned char *to = NULL;

    bytes = &to;
    c.err = jpeg_std_error(&failure.mgr);
    failure.mgr.error_exit = jpeg_failed;
    failure.mgr.emit_message = jpeg_silent;
    if (setjmp(failure.jump)) {
        jpeg_destroy_compress(&c);
        free(*bytes);
        return NULL;
    }
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, &to, ret_len);
    c.image_width = rc->w;
    c.image_height = rc->h;
    c.input_components = 4;
    c.in_color_space = JCS_EXT_BGRX; /* 0x00RRGGBB of a little-endian host */
    jpeg_set_defaults(&c);
    jpeg_set_quality(&c, 15 + 9 * r->quality, TRUE);
    c.dct_method = JDCT_FASTEST;
    jpeg_start_compress(&c, TRUE);
    while (c.next_scanline < c.image_height) {
        JSAMPROW row = (JSAMPROW)(uintptr_t)rfb_row(r, rc->x, rc->y + c.next_scanline);

        jpeg_write_scanlines(&c, &row, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    return to;
}

static bool put_jpeg(struct rfb *r, const struct rect *rc)
{
    unsigned long len = 0;
    unsigned char *bytes;

    if (r->quality < 0 || r->format.bytes == 1 || rc->w * rc->h < JPEG_MIN_AREA)
        return false;
    bytes = make_jpeg(r, rc, &len);
    if (bytes) {
        rfb_put8(r, JPEG);
        put_compact(r, len);
        rfb_put(r, bytes, len);
    }
    free(bytes);
    return bytes;
}

/* ---- all ---- */

static bool find_colours(struct rfb *r, const struct rect *rc, struct rfb_palette *p)
{
    for (unsigned y = 0; y < rc->h; y++) {
        const uint32_t *row = rfb_row(r, rc->x, rc->y + y);

        for (unsigned x = 0; x < rc->w; x++) {
            if ((x == 0 || row[x] != row[x - 1]) && rfb_palette_add(p, row[x], 256) < 0)
                return false;
        }
    }
    return true;
}

/* A palette is worth it when it is small against what it replaces. */
static bool is_worth_it(const struct rfb *r, const struct rect *rc,
                        const struct rfb_palette *p)
{
    return p->n == 2 ||
           (r->format.bytes > 1 && p->n <= 256 && 4 * p->n <= rc->w * rc->h);
}

void rfb_tight(struct rfb *r, const struct rect *rc)
{
    struct rfb_palette p = {0};
    bool few = find_colours(r, rc, &p);

    rfb_put_rect(r, rc, RFB_TIGHT);
    if (few && p.n == 1) {
        rfb_put8(r, FILL);
        rfb_append_tpixel(&r->format, p.colour[0], r->out);
    } else if (few && p.n == 2) {
        put_mono(r, rc, &p);
    } else if (few && is_worth_it(r, rc, &p)) {
        put_indexes(r, rc, &p);
    } else if (!put_jpeg(r, rc)) {
        put_pixels(r, rc);
    }
}
