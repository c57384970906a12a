/*
 * Raw, hextile (RFC 6143, 7.7.4) and ZRLE (7.7.6). Of each tile the shortest of its
 * forms is taken.
 */
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/display/rfb_priv.h"

/* ---- raw ---- */

void rfb_raw(struct rfb *r, const struct rect *rc)
{
    const struct rfb_format *f = &r->format;

    rfb_put_rect(r, rc, RFB_RAW);
    for (unsigned y = 0; y < rc->h; y++) {
        const uint32_t *row = rfb_row(r, rc->x, rc->y + y);
        guint at = r->out->len;
        uint8_t *to;

        g_byte_array_set_size(r->out, at + rc->w * f->bytes);
        to = r->out->data + at;
        if (f->native) {
            memcpy(to, row, rc->w * sizeof(*row));
            continue;
        }
        for (unsigned x = 0; x < rc->w; x++)
            to += rfb_pixel(f, row[x], to);
    }
}

/* ---- hextile ---- */

enum { HEX = 16 };
enum { HEX_RAW = 1, HEX_BG = 2, HEX_FG = 4, HEX_ANY = 8, HEX_COLOURED = 16 };

struct hextile {
    unsigned w, h;
    uint32_t px[HEX * HEX];
};

static void hex_load(struct rfb *r, const struct rect *t, struct hextile *h)
{
    h->w = t->w;
    h->h = t->h;
    for (unsigned y = 0; y < t->h; y++)
        memcpy(h->px + y * HEX, rfb_row(r, t->x, t->y + y), t->w * sizeof(*h->px));
}

static unsigned run_right(const struct hextile *h, unsigned x, unsigned y)
{
    unsigned n = 1;

    while (x + n < h->w && h->px[y * HEX + x + n] == h->px[y * HEX + x])
        n++;
    return n;
}

/* Rectangles of one colour that is not @bg; how many. They go to @work: the colour,
 * where @coloured, place and size. */
static unsigned hex_pieces(struct rfb *r, struct hextile *h, uint32_t bg, bool coloured)
{
    bool done[HEX * HEX] = {false};
    unsigned count = 0;

    for (unsigned y = 0; y < h->h; y++) {
        for (unsigned x = 0; x < h->w; x++) {
            uint32_t c = h->px[y * HEX + x];
            unsigned w, rows = 1;

            if (c == bg || done[y * HEX + x])
                continue;
            w = run_right(h, x, y);
            while (y + rows < h->h && h->px[(y + rows) * HEX + x] == c &&
                   run_right(h, x, y + rows) >= w)
                rows++;
            for (unsigned i = 0; i < rows; i++)
                memset(done + (y + i) * HEX + x, true, w);
            if (coloured)
                rfb_append_pixel(&r->format, c, r->work);
            g_byte_array_append(r->work,
                                (uint8_t[]){(uint8_t)(x << 4 | y),
                                            (uint8_t)((w - 1) << 4 | (rows - 1))},
                                2);
            count++;
        }
    }
    return count;
}

static void hex_tile(struct rfb *r, const struct rect *t)
{
    struct rfb_palette p = {0};
    struct hextile h = {0};
    unsigned raw = t->w * t->h * r->format.bytes, count = 0;
    bool few;

    hex_load(r, t, &h);
    for (unsigned y = 0; y < h.h; y++) {
        for (unsigned x = 0; x < h.w; x++)
            rfb_palette_add(&p, h.px[y * HEX + x], 256);
    }
    few = p.n == 2;
    g_byte_array_set_size(r->work, 0);
    if (p.n > 1)
        count = hex_pieces(r, &h, p.colour[0], !few);
    if (count > 255 || r->work->len + 2 * r->format.bytes + 1 >= raw) {
        if (p.n > 1) {
            rfb_put8(r, HEX_RAW);
            for (unsigned y = 0; y < h.h; y++) {
                for (unsigned x = 0; x < h.w; x++)
                    rfb_append_pixel(&r->format, h.px[y * HEX + x], r->out);
            }
            return;
        }
    }
    rfb_put8(r, HEX_BG | (p.n > 1 ? HEX_ANY | (few ? HEX_FG : HEX_COLOURED) : 0));
    rfb_append_pixel(&r->format, p.colour[0], r->out);
    if (few)
        rfb_append_pixel(&r->format, p.colour[1], r->out);
    if (p.n > 1) {
        rfb_put8(r, count);
        rfb_put(r, r->work->data, r->work->len);
    }
}

void rfb_hextile(struct rfb *r, const struct rect *rc)
{
    rfb_put_rect(r, rc, RFB_HEXTILE);
    for (unsigned y = 0; y < rc->h; y += HEX) {
        for (unsigned x = 0; x < rc->w; x += HEX) {
            struct rect t = {rc->x + x, rc->y + y, MIN(HEX, rc->w - x),
                             MIN(HEX, rc->h - y)};

            hex_tile(r, &t);
        }
    }
}

/* ---- ZRLE ---- */

enum { ZTILE = 64, ZPALETTE = 127, PLAIN_RLE = 128 };

struct ztile {
    unsigned w, h, n; /* n pixels, rows without gaps */
    uint32_t px[ZTILE * ZTILE];
    struct rfb_palette palette;
    bool has_palette;
    unsigned runs, singles; /* of one colour; those of length 1 */
    size_t run_bytes;       /* of all runs' lengths */
};

static void ztile_load(struct rfb *r, const struct rect *t, struct ztile *z)
{
    unsigned len = 0;

    *z = (struct ztile){.w = t->w, .h = t->h, .n = t->w * t->h, .has_palette = true};
    for (unsigned y = 0; y < t->h; y++)
        memcpy(z->px + y * t->w, rfb_row(r, t->x, t->y + y), t->w * sizeof(*z->px));
    for (unsigned i = 0; i < z->n; i++) {
        len++;
        if (i + 1 < z->n && z->px[i + 1] == z->px[i])
            continue;
        z->runs++;
        z->singles += len == 1;
        z->run_bytes += (len - 1) / 255 + 1;
        len = 0;
        if (z->has_palette)
            z->has_palette = rfb_palette_add(&z->palette, z->px[i], ZPALETTE) >= 0;
    }
}

static void put_run(GByteArray *to, unsigned len)
{
    for (len--; len >= 255; len -= 255)
        g_byte_array_append(to, (const uint8_t[]){255}, 1);
    g_byte_array_append(to, &(uint8_t){(uint8_t)len}, 1);
}

static void put_runs(struct rfb *r, struct ztile *z, bool by_palette)
{
    unsigned len = 0;

    for (unsigned i = 0; i < z->n; i++) {
        uint8_t index;

        len++;
        if (i + 1 < z->n && z->px[i + 1] == z->px[i])
            continue;
        if (by_palette) {
            index = (uint8_t)rfb_palette_add(&z->palette, z->px[i], ZPALETTE);
            index |= len > 1 ? 128 : 0;
            g_byte_array_append(r->work, &index, 1);
        } else {
            rfb_append_cpixel(&r->format, z->px[i], r->work);
        }
        if (!by_palette || len > 1)
            put_run(r->work, len);
        len = 0;
    }
}

static unsigned packed_bits(unsigned colours)
{
    return colours <= 2 ? 1 : colours <= 4 ? 2 : 4;
}

static void put_packed(struct rfb *r, struct ztile *z)
{
    unsigned bits = packed_bits(z->palette.n);

    for (unsigned y = 0; y < z->h; y++) {
        unsigned have = 0;
        uint8_t byte = 0;

        for (unsigned x = 0; x < z->w; x++) {
            int i = rfb_palette_add(&z->palette, z->px[y * z->w + x], ZPALETTE);

            byte = (uint8_t)(byte << bits | i);
            have += bits;
            if (have == 8) {
                g_byte_array_append(r->work, &byte, 1);
                have = 0;
            }
        }
        if (have) {
            byte = (uint8_t)(byte << (8 - have));
            g_byte_array_append(r->work, &byte, 1);
        }
    }
}

static void put_type(struct rfb *r, const struct ztile *z, unsigned type, bool palette)
{
    g_byte_array_append(r->work, &(uint8_t){(uint8_t)type}, 1);
    for (unsigned i = 0; palette && i < z->palette.n; i++)
        rfb_append_cpixel(&r->format, z->palette.colour[i], r->work);
}

static void ztile(struct rfb *r, const struct rect *t, struct ztile *z)
{
    size_t cp = r->format.cpixel, raw, plain, packed = SIZE_MAX, coloured = SIZE_MAX;

    ztile_load(r, t, z);
    raw = z->n * cp;
    plain = z->runs * cp + z->run_bytes;
    if (z->has_palette && z->palette.n == 1) {
        put_type(r, z, 1, true);
        return;
    }
    if (z->has_palette)
        coloured = z->palette.n * cp + z->runs + z->run_bytes - z->singles;
    if (z->has_palette && z->palette.n <= 16)
        packed = z->palette.n * cp + (z->w * packed_bits(z->palette.n) + 7) / 8 * z->h;
    if (packed <= MIN(MIN(raw, plain), coloured)) {
        put_type(r, z, z->palette.n, true);
        put_packed(r, z);
    } else if (coloured <= MIN(raw, plain)) {
        put_type(r, z, 128 + z->palette.n, true);
        put_runs(r, z, true);
    } else if (plain < raw) {
        put_type(r, z, PLAIN_RLE, false);
        put_runs(r, z, false);
    } else {
        put_type(r, z, 0, false);
        for (unsigned i = 0; i < z->n; i++)
            rfb_append_cpixel(&r->format, z->px[i], r->work);
    }
}

void rfb_zrle(struct rfb *r, const struct rect *rc)
{
    g_autofree struct ztile *z = g_new(struct ztile, 1);
    guint at;

    rfb_put_rect(r, rc, RFB_ZRLE);
    at = r->out->len;
    rfb_put32(r, 0);
    g_byte_array_set_size(r->work, 0);
    for (unsigned y = 0; y < rc->h; y += ZTILE) {
        for (unsigned x = 0; x < rc->w; x += ZTILE) {
            struct rect t = {rc->x + x, rc->y + y, MIN(ZTILE, rc->w - x),
                             MIN(ZTILE, rc->h - y)};

            ztile(r, &t, z);
        }
    }
    rfb_put_zlib(r, &r->zrle, &r->zrle_on, r->work, r->out);
    be32_put(r->out->data + at, r->out->len - at - 4);
}
