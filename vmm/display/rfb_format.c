#include <string.h>

#include "lib/base/bytes.h"
#include "vmm/display/rfb_priv.h"

/* What follows from the rest: the short cuts. */
static void derive(struct rfb_format *f)
{
    bool low = true, high = true, all_255 = true;

    for (unsigned i = 0; i < 3; i++) {
        low = low && (uint64_t)f->max[i] << f->shift[i] <= 0xffffff;
        high = high && f->shift[i] >= 8;
        all_255 = all_255 && f->max[i] == 255;
    }
    f->native = f->bytes == 4 && !f->big_endian && all_255 && f->shift[0] == 16 &&
                f->shift[1] == 8 && f->shift[2] == 0;
    f->cpixel = f->bytes;
    f->cpixel_at = 0;
    if (f->bytes == 4 && f->depth <= 24 && (low || high)) {
        f->cpixel = 3;
        f->cpixel_at = low == f->big_endian;
    }
    f->tpixel = f->bytes == 4 && f->depth == 24 && all_255;
}

void rfb_format_default(struct rfb_format *f)
{
    *f = (struct rfb_format){
        .bytes = 4, .depth = 24, .max = {255, 255, 255}, .shift = {16, 8, 0}};
    derive(f);
}

bool rfb_format_parse(struct rfb_format *f, const uint8_t b[16])
{
    if (b[0] != 8 && b[0] != 16 && b[0] != 32)
        return false;
    *f = (struct rfb_format){
        .bytes = b[0] / 8u, .depth = b[1], .big_endian = b[2], .mapped = !b[3]};
    for (unsigned i = 0; i < 3; i++) {
        f->max[i] = be16_get(b + 4 + 2 * i);
        f->shift[i] = b[10 + i];
    }
    /* A colour map is filled with what true colours of 3, 3 and 2 bits would be. */
    if (f->mapped)
        memcpy(f,
               &(struct rfb_format){.bytes = f->bytes,
                                    .depth = f->depth,
                                    .mapped = true,
                                    .max = {7, 7, 3},
                                    .big_endian = f->big_endian,
                                    .shift = {0, 3, 6}},
               sizeof(*f));
    for (unsigned i = 0; i < 3; i++) {
        if (f->max[i] == 0 || f->shift[i] >= 8 * f->bytes)
            return false;
    }
    derive(f);
    return !f->mapped || f->bytes == 1;
}

void rfb_format_write(const struct rfb_format *f, uint8_t b[16])
{
    memset(b, 0, 16);
    b[0] = (uint8_t)(8 * f->bytes);
    b[1] = (uint8_t)f->depth;
    b[2] = f->big_endian;
    b[3] = !f->mapped;
    for (unsigned i = 0; i < 3; i++) {
        be16_put(b + 4 + 2 * i, (uint16_t)f->max[i]);
        b[10 + i] = (uint8_t)f->shift[i];
    }
}

unsigned rfb_pixel(const struct rfb_format *f, uint32_t rgb, uint8_t *out)
{
    uint32_t v = 0;

    for (unsigned i = 0; i < 3; i++) {
        uint32_t c = rgb >> (16 - 8 * i) & 0xff;

        v |= (c * (f->max[i] + 1) >> 8) << f->shift[i];
    }
    for (unsigned i = 0; i < f->bytes; i++)
        out[i] = (uint8_t)(v >> 8 * (f->big_endian ? f->bytes - 1 - i : i));
    return f->bytes;
}

void rfb_append_pixel(const struct rfb_format *f, uint32_t rgb, GByteArray *to)
{
    uint8_t b[4];

    g_byte_array_append(to, b, rfb_pixel(f, rgb, b));
}

void rfb_append_cpixel(const struct rfb_format *f, uint32_t rgb, GByteArray *to)
{
    uint8_t b[4];

    rfb_pixel(f, rgb, b);
    g_byte_array_append(to, b + f->cpixel_at, f->cpixel);
}

void rfb_append_tpixel(const struct rfb_format *f, uint32_t rgb, GByteArray *to)
{
    uint8_t b[3] = {(uint8_t)(rgb >> 16), (uint8_t)(rgb >> 8), (uint8_t)rgb};

    if (f->tpixel)
        g_byte_array_append(to, b, 3);
    else
        rfb_append_pixel(f, rgb, to);
}
