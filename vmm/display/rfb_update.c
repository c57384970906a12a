/*
 * What changed since the viewer was last told, as tiles of 32x16, and the messages that
 * tell it. One is made only when all before it has been sent, so a slow viewer skips
 * pictures instead of making us keep them.
 */
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/display/rfb_priv.h"

/* Most pixels in a message: what is more waits for the next one. */
#define MAX_PIXELS (4u << 20)

enum { FRAMEBUFFER_UPDATE = 0 };

/* ---- tiles ---- */

static struct rect cut(struct rect a, struct rect b)
{
    unsigned x2 = MIN(a.x + a.w, b.x + b.w), y2 = MIN(a.y + a.h, b.y + b.h);
    struct rect r = {MAX(a.x, b.x), MAX(a.y, b.y), 0, 0};

    if (x2 > r.x && y2 > r.y) {
        r.w = x2 - r.x;
        r.h = y2 - r.y;
    }
    return r;
}

/* What the viewer and the surface both have. */
static struct rect visible(const struct rfb *r)
{
    const struct surface *s = console_surface(r->console);

    return (struct rect){0, 0, MIN(r->width, s->width), MIN(r->height, s->height)};
}

void rfb_changed(struct rfb *r, struct rect rc)
{
    if (!r->tiles || rc.w == 0 || rc.h == 0)
        return;
    for (unsigned y = rc.y / RFB_TILE_H; y <= (rc.y + rc.h - 1) / RFB_TILE_H; y++) {
        unsigned x = rc.x / RFB_TILE_W, last = (rc.x + rc.w - 1) / RFB_TILE_W;

        if (y < r->tiles_h && x < r->tiles_w)
            memset(r->tiles + y * r->tiles_w + x, 1, MIN(last, r->tiles_w - 1) - x + 1);
    }
}

void rfb_resized(struct rfb *r)
{
    const struct surface *s = console_surface(r->console);

    r->tiles_w = (s->width + RFB_TILE_W - 1) / RFB_TILE_W;
    r->tiles_h = (s->height + RFB_TILE_H - 1) / RFB_TILE_H;
    r->tiles = g_realloc(r->tiles, r->tiles_w * r->tiles_h);
    memset(r->tiles, 1, r->tiles_w * r->tiles_h);
    r->send_size = r->width != s->width || r->height != s->height;
    r->size_reason = r->size_status = 0;
}

/* The tile at (@x, @y) in pixels, cut to @area; empty when it has not changed. */
static struct rect tile(const struct rfb *r, unsigned x, unsigned y, struct rect area)
{
    struct rect t = {x * RFB_TILE_W, y * RFB_TILE_H, RFB_TILE_W, RFB_TILE_H};

    return r->tiles[y * r->tiles_w + x] ? cut(t, area) : (struct rect){0};
}

/* Tiles that are wholly in @area are clean now. Those at its edge stay dirty unless the
 * edge is the picture's. */
static void clean(struct rfb *r, unsigned x, unsigned y, struct rect area)
{
    struct rect t = {x * RFB_TILE_W, y * RFB_TILE_H, RFB_TILE_W, RFB_TILE_H};
    struct rect whole = cut(t, visible(r)), part = cut(t, area);

    if (whole.w == part.w && whole.h == part.h)
        r->tiles[y * r->tiles_w + x] = 0;
}

/* A row of tiles as rectangles; those of the row above that go on below grow. Returns
 * the number of pixels. */
static unsigned collect_row(struct rfb *r, unsigned y, struct rect area, GArray *out)
{
    unsigned pixels = 0;

    for (unsigned x = 0; x < r->tiles_w; x++) {
        struct rect run = tile(r, x, y, area), next;
        bool merged = false;

        if (!run.w || !run.h)
            continue;
        clean(r, x, y, area);
        while (x + 1 < r->tiles_w && (next = tile(r, x + 1, y, area)).w && next.h) {
            run.w += next.w;
            clean(r, ++x, y, area);
        }
        for (guint i = out->len; i-- > 0 && !merged;) {
            struct rect *above = &g_array_index(out, struct rect, i);

            if (above->x == run.x && above->w == run.w &&
                above->y + above->h == run.y) {
                above->h += run.h;
                merged = true;
            }
            if (above->y + above->h < run.y)
                break;
        }
        if (!merged)
            g_array_append_val(out, run);
        pixels += run.w * run.h;
    }
    return pixels;
}

static GArray *collect(struct rfb *r, struct rect area)
{
    GArray *out = g_array_new(FALSE, FALSE, sizeof(struct rect));
    unsigned pixels = 0;

    area = cut(area, visible(r));
    if (!area.w || !area.h)
        return out;
    for (unsigned y = area.y / RFB_TILE_H;
         y < r->tiles_h && y * RFB_TILE_H < area.y + area.h && pixels < MAX_PIXELS; y++)
        pixels += collect_row(r, y, area, out);
    return out;
}

/* ---- rectangles that are none ---- */

static void put_size(struct rfb *r)
{
    const struct surface *s = console_surface(r->console);
    struct rect rc = {(unsigned)r->size_reason, (unsigned)r->size_status, s->width,
                      s->height};

    r->send_size = false;
    r->width = s->width;
    r->height = s->height;
    if (!r->can_resize_ext) {
        rc.x = rc.y = 0;
        rfb_put_rect(r, &rc, RFB_DESKTOP_SIZE);
        return;
    }
    rfb_put_rect(r, &rc, RFB_EXT_DESKTOP_SIZE);
    rfb_put8(r, 1); /* screens */
    rfb_put(r, "\0\0", 3);
    rfb_put32(r, 0); /* its number, place, size, flags */
    rfb_put32(r, 0);
    rfb_put16(r, s->width);
    rfb_put16(r, s->height);
    rfb_put32(r, 0);
    r->size_reason = r->size_status = 0;
}

static void put_cursor(struct rfb *r)
{
    const struct cursor *c = console_cursor(r->console);
    struct rect rc = {0};
    unsigned pitch;

    r->send_cursor = false;
    if (c)
        rc = (struct rect){c->hot_x, c->hot_y, c->width, c->height};
    rfb_put_rect(r, &rc, RFB_CURSOR);
    for (unsigned i = 0; i < rc.w * rc.h; i++)
        rfb_append_pixel(&r->format, c->pixels[i] & 0xffffff, r->out);
    pitch = (rc.w + 7) / 8;
    for (unsigned y = 0; y < rc.h; y++) {
        uint8_t row[CURSOR_MAX / 8] = {0};

        for (unsigned x = 0; x < rc.w; x++) {
            if (c->pixels[y * rc.w + x] >> 31)
                row[x / 8] |= (uint8_t)(0x80 >> x % 8);
        }
        rfb_put(r, row, pitch);
    }
}

static unsigned put_others(struct rfb *r)
{
    unsigned n = 0;

    if (r->send_cursor) {
        put_cursor(r);
        n++;
    }
    if (r->send_pointer_mode) {
        rfb_put_rect(r, &(struct rect){!r->relative, 0, 0, 0}, RFB_POINTER_MODE);
        r->send_pointer_mode = false;
        n++;
    }
    if (r->send_key_mode) {
        rfb_put_rect(r, &(struct rect){0}, RFB_EXT_KEY);
        r->send_key_mode = false;
        n++;
    }
    if (r->send_leds) {
        rfb_put_rect(r, &(struct rect){0}, RFB_LEDS);
        rfb_put8(r, r->leds);
        r->send_leds = false;
        n++;
    }
    return n;
}

/* ---- pictures ---- */

/* The scroll lock's lamp is bit 0 here as there. */
static void look_at_leds(struct rfb *r)
{
    unsigned leds = display_leds(r->host.display);

    if (r->can_leds && leds != r->leds) {
        r->leds = leds;
        r->send_leds = true;
    }
}

/* Tight's rectangles are limited in width and area. */
static unsigned put_tight_pieces(struct rfb *r, const struct rect *rc)
{
    unsigned n = 0;

    for (unsigned x = 0; x < rc->w; x += RFB_TIGHT_WIDTH) {
        unsigned w = MIN(RFB_TIGHT_WIDTH, rc->w - x), rows = RFB_TIGHT_AREA / w;

        for (unsigned y = 0; y < rc->h; y += rows, n++) {
            struct rect piece = {rc->x + x, rc->y + y, w, MIN(rows, rc->h - y)};

            rfb_tight(r, &piece);
        }
    }
    return n;
}

static unsigned put_picture(struct rfb *r, const struct rect *rc)
{
    switch (r->encoding) {
    case RFB_TIGHT: return put_tight_pieces(r, rc);
    case RFB_ZRLE: rfb_zrle(r, rc); break;
    case RFB_HEXTILE: rfb_hextile(r, rc); break;
    default: rfb_raw(r, rc); break;
    }
    return 1;
}

/* The head of a message whose number of rectangles is not yet known; where that is. */
static guint begin_message(struct rfb *r)
{
    rfb_put8(r, FRAMEBUFFER_UPDATE);
    rfb_put8(r, 0);
    rfb_put16(r, 0);
    return r->out->len - 2;
}

/* A new size ends a message and answers a request. */
static bool update_size(struct rfb *r)
{
    guint at;

    if (!r->send_size || !(r->can_resize || r->can_resize_ext))
        return false;
    at = begin_message(r);
    put_size(r);
    be16_put(r->out->data + at, 1);
    r->requested = false;
    return true;
}

void rfb_update(struct rfb *r)
{
    g_autoptr(GArray) rects = NULL;
    unsigned n = 0;
    guint at;

    if (r->state != RFB_OPEN || r->out->len > 0 || (!r->requested && !r->continuous))
        return;
    if (update_size(r))
        return;
    look_at_leds(r);
    rects = collect(r, r->requested ? r->wanted : r->area);
    if (rects->len == 0 && !r->send_cursor && !r->send_pointer_mode &&
        !r->send_key_mode && !r->send_leds)
        return;
    at = begin_message(r);
    n = put_others(r);
    for (guint i = 0; i < rects->len; i++)
        n += put_picture(r, &g_array_index(rects, struct rect, i));
    be16_put(r->out->data + at, (uint16_t)n);
    r->requested = false;
}

void rfb_watch(struct rfb *r)
{
    if (r->console)
        console_listener_want(r->console, &r->listener,
                              r->state == RFB_OPEN && (r->requested || r->continuous));
}
