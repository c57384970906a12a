#ifndef VMM_DISPLAY_RFB_PRIV_H
#define VMM_DISPLAY_RFB_PRIV_H

#include <zlib.h>

#include "vmm/display/console.h"
#include "vmm/display/rfb.h"

/* What the parts of the protocol share; nobody else includes this. */

enum rfb_encoding {
    RFB_RAW = 0,
    RFB_HEXTILE = 5,
    RFB_TIGHT = 7,
    RFB_ZRLE = 16,
    RFB_QUALITY_0 = -32, /* .. -23 */
    RFB_DESKTOP_SIZE = -223,
    RFB_CURSOR = -239,
    RFB_COMPRESS_0 = -256, /* .. -247 */
    RFB_POINTER_MODE = -257,
    RFB_EXT_KEY = -258,
    RFB_LEDS = -261,
    RFB_EXT_DESKTOP_SIZE = -308,
    RFB_FENCE = -312,
    RFB_CONTINUOUS = -313,
};

struct rfb_format {
    unsigned bytes; /* of a pixel: 1, 2, 4 */
    unsigned depth;
    bool big_endian, mapped;
    unsigned max[3], shift[3];  /* red, green, blue */
    bool native;                /* the surface's pixels as they are */
    unsigned cpixel, cpixel_at; /* ZRLE's: bytes, and which is the first of them */
    bool tpixel;                /* tight's: three bytes, red first */
};

enum rfb_state {
    RFB_VERSION,
    RFB_SECURITY,
    RFB_CHALLENGE,
    RFB_INIT,
    RFB_OPEN,
    RFB_CLOSED,
};

enum { RFB_TIGHT_STREAMS = 4, RFB_TILE_W = 32, RFB_TILE_H = 16 };

struct rfb {
    struct rfb_host host;
    struct console *console;
    struct console_listener listener;
    enum rfb_state state;
    unsigned minor; /* version 3.minor: 3, 7, 8 */
    uint8_t challenge[16];

    GByteArray *in, *out;
    size_t out_at;    /* what of out was sent */
    size_t answers;   /* bytes of out that messages of the viewer caused */
    uint64_t in_skip; /* bytes of a message nobody wants */
    bool in_feed;     /* ready() is not called */

    struct rfb_format format;
    int encoding; /* enum rfb_encoding of pictures */
    bool can_resize, can_resize_ext, can_cursor, can_pointer_mode, can_ext_key;
    bool can_leds, can_fence, can_continuous;
    int quality; /* of JPEG 0 .. 9; -1: none */
    int level;   /* zlib's */

    unsigned width, height; /* as the viewer knows */
    bool send_size, send_cursor, send_pointer_mode, send_key_mode, send_leds;
    int size_reason, size_status;
    bool relative;  /* its pointer events are distances */
    unsigned leds;  /* as the viewer knows */
    bool requested; /* a picture is wanted */
    struct rect wanted;
    bool continuous;
    struct rect area; /* of continuous updates */
    uint8_t *tiles;   /* those that changed */
    unsigned tiles_w, tiles_h;

    z_stream zrle, tight[RFB_TIGHT_STREAMS];
    bool zrle_on, tight_on[RFB_TIGHT_STREAMS];
    GByteArray *work; /* uncompressed */

    uint8_t down[256 / 8]; /* keys that it holds, by code */
};

/* ---- rfb_out.c: appending to what is sent ---- */

void rfb_put(struct rfb *r, const void *bytes, size_t len);
void rfb_put8(struct rfb *r, unsigned v);
void rfb_put16(struct rfb *r, unsigned v);
void rfb_put32(struct rfb *r, uint32_t v);
void rfb_put_rect(struct rfb *r, const struct rect *rc, int encoding);

/* Compress @bytes with the stream @z, begun when it was not @on, and append. */
void rfb_put_zlib(struct rfb *r, z_stream *z, bool *on, const GByteArray *bytes,
                  GByteArray *to);

/* ---- rfb_format.c ---- */

void rfb_format_default(struct rfb_format *f);
/* The 16 bytes of a SetPixelFormat; false: no such format. */
bool rfb_format_parse(struct rfb_format *f, const uint8_t b[16]);
void rfb_format_write(const struct rfb_format *f, uint8_t b[16]);
/* One pixel; returns the number of bytes. */
unsigned rfb_pixel(const struct rfb_format *f, uint32_t rgb, uint8_t *out);
void rfb_append_pixel(const struct rfb_format *f, uint32_t rgb, GByteArray *to);
void rfb_append_cpixel(const struct rfb_format *f, uint32_t rgb, GByteArray *to);
void rfb_append_tpixel(const struct rfb_format *f, uint32_t rgb, GByteArray *to);

/* ---- rfb_update.c ---- */

/* Send a picture, when one is wanted, something changed and nothing waits. */
void rfb_update(struct rfb *r);
void rfb_changed(struct rfb *r, struct rect rc);
void rfb_resized(struct rfb *r);
/* Whether its console is to be watched: call after what decides it has changed. */
void rfb_watch(struct rfb *r);

/* ---- encodings: the rectangle's head, then its pixels. @rc lies in the surface. ----
 */

void rfb_raw(struct rfb *r, const struct rect *rc);
void rfb_hextile(struct rfb *r, const struct rect *rc);
void rfb_zrle(struct rfb *r, const struct rect *rc);
void rfb_tight(struct rfb *r, const struct rect *rc);

enum { RFB_TIGHT_WIDTH = 2048, RFB_TIGHT_AREA = 65536 };

static inline const uint32_t *rfb_row(const struct rfb *r, unsigned x, unsigned y)
{
    const struct surface *s = console_surface(r->console);

    return s->pixels + (size_t)y * s->stride + x;
}

/* ---- rfb_palette.c: up to 256 colours ---- */

struct rfb_palette {
    unsigned n;
    uint32_t colour[256];
    uint16_t slot[1024]; /* a hash table: place + 1 */
};

/* The place of @rgb, entered when it is new; -1: there are @max others. */
int rfb_palette_add(struct rfb_palette *p, uint32_t rgb, unsigned max);

/* ---- rfb_input.c ---- */

void rfb_key(struct rfb *r, uint32_t keysym, bool down);
void rfb_key_code(struct rfb *r, uint8_t code, bool down);
void rfb_pointer(struct rfb *r, unsigned buttons, unsigned x, unsigned y);
void rfb_release_keys(struct rfb *r);

#endif
