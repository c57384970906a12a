#include "lib/base/bytes.h"
#include "vmm/display/rfb_priv.h"

void rfb_put(struct rfb *r, const void *bytes, size_t len)
{
    g_byte_array_append(r->out, bytes, (guint)len);
}

void rfb_put8(struct rfb *r, unsigned v)
{
    rfb_put(r, &(uint8_t){(uint8_t)v}, 1);
}

void rfb_put16(struct rfb *r, unsigned v)
{
    uint8_t b[2];

    be16_put(b, (uint16_t)v);
    rfb_put(r, b, sizeof(b));
}

void rfb_put32(struct rfb *r, uint32_t v)
{
    uint8_t b[4];

    be32_put(b, v);
    rfb_put(r, b, sizeof(b));
}

void rfb_put_rect(struct rfb *r, const struct rect *rc, int encoding)
{
    rfb_put16(r, rc->x);
    rfb_put16(r, rc->y);
    rfb_put16(r, rc->w);
    rfb_put16(r, rc->h);
    rfb_put32(r, (uint32_t)encoding);
}

void rfb_put_zlib(struct rfb *r, z_stream *z, bool *on, const GByteArray *bytes,
                  GByteArray *to)
{
    guint old = to->len;
    uLong room;

    if (!*on) {
        *z = (z_stream){0};
        /* Fails only without memory, which is as fatal here as it is to GLib. */
        if (deflateInit(z, r->level) != Z_OK)
            g_error("zlib: no memory");
        *on = true;
    }
    room = deflateBound(z, bytes->len) + 64;
    g_byte_array_set_size(to, old + (guint)room);
    z->next_in = bytes->data;
    z->avail_in = bytes->len;
    z->next_out = to->data + old;
    z->avail_out = (uInt)room;
    deflate(z, Z_SYNC_FLUSH);
    g_byte_array_set_size(to, old + (guint)(room - z->avail_out));
}

int rfb_palette_add(struct rfb_palette *p, uint32_t rgb, unsigned max)
{
    unsigned at = (rgb * 0x9e3779b1u) >> 22;

    for (; p->slot[at]; at = (at + 1) & 1023) {
        if (p->colour[p->slot[at] - 1] == rgb)
            return p->slot[at] - 1;
    }
    if (p->n == max)
        return -1;
    p->colour[p->n] = rgb;
    p->slot[at] = (uint16_t)++p->n;
    return (int)p->n - 1;
}
