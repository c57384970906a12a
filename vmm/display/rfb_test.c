#include <string.h>

#include <zlib.h>

#include "lib/base/bytes.h"
#include "lib/loop/loop.h"
#include "vmm/display/console.h"
#include "vmm/display/keymap.h"
#include "vmm/display/rfb.h"
#include "vmm/display/ws.h"

/* A display with a console that the test paints, and one viewer. */
enum { W = 100, H = 70 };

struct rig {
    struct display *display;
    struct console *console;
    struct rfb *rfb;
    uint32_t picture[W * H];
    GString *keys; /* "+1e -1e " */
    struct pointer_event pointer;
    bool exclusive, authenticated, auth_called;
    const char *refuse;
};

static void refresh(void *opaque, struct console *c)
{
    struct rig *g = opaque;

    console_resize(c, W, H);
    for (unsigned y = 0; y < H; y++)
        console_put_row(c, y, g->picture + y * W);
}

static void want_size(void *opaque, unsigned width, unsigned height)
{
}

static const struct console_ops ops = {.refresh = refresh, .want_size = want_size};
static const struct console_ops ops_fixed = {.refresh = refresh};

static void on_key(void *opaque, uint8_t code, bool down)
{
    struct rig *g = opaque;

    g_string_append_printf(g->keys, "%c%02x ", down ? '+' : '-', code);
}

static void on_pointer(void *opaque, const struct pointer_event *e)
{
    struct rig *g = opaque;

    g->pointer = *e;
}

static const struct input_ops input = {.key = on_key, .pointer = on_pointer};

static void on_auth(void *opaque, bool ok)
{
    struct rig *g = opaque;

    g->auth_called = true;
    g->authenticated = ok;
}

static void on_exclusive(void *opaque)
{
    ((struct rig *)opaque)->exclusive = true;
}

static const char *why_refused(void *opaque)
{
    return ((struct rig *)opaque)->refuse;
}

static struct rig *setup(const char *password, const struct console_ops *console_ops)
{
    struct rig *g = g_new0(struct rig, 1);
    struct rfb_host host = {.name = "test",
                            .password = password,
                            .refuse = why_refused,
                            .authenticated = on_auth,
                            .exclusive = on_exclusive,
                            .opaque = g};

    g->keys = g_string_new(NULL);
    g->display = display_new(NULL);
    g->console = console_new(g->display, "c", console_ops, g);
    display_add_input(g->display, &input, g);
    host.display = g->display;
    g->rfb = rfb_new(&host);
    return g;
}

static void teardown(struct rig *g)
{
    rfb_free(g->rfb);
    display_remove_input(g->display, g);
    console_free(g->console);
    display_free(g->display);
    g_string_free(g->keys, TRUE);
    g_free(g);
}

/* All that is to be sent, taken. */
static GByteArray *take(struct rig *g)
{
    GByteArray *all = g_byte_array_new();
    const uint8_t *p;
    size_t n;

    /* Not what follows from having taken it: that is the next one's. */
    n = rfb_pending(g->rfb, &p);
    g_byte_array_append(all, p, (guint)n);
    rfb_sent(g->rfb, n);
    return all;
}

static void drop(struct rig *g)
{
    g_byte_array_unref(take(g));
}

static void expect(struct rig *g, const void *bytes, size_t len)
{
    g_autoptr(GByteArray) got = take(g);

    g_assert_cmpmem(got->data, got->len, bytes, len);
}

static bool feed(struct rig *g, const void *bytes, size_t len)
{
    return rfb_feed(g->rfb, bytes, len);
}

static struct rig *opened(const struct console_ops *console_ops)
{
    struct rig *g = setup(NULL, console_ops);

    g_assert_true(feed(g, "RFB 003.008\n\1\1", 14));
    g_assert_true(rfb_is_open(g->rfb));
    drop(g);
    return g;
}

static void set_encodings(struct rig *g, const int32_t *e, unsigned n)
{
    uint8_t b[4 + 4 * 16] = {2};

    be16_put(b + 2, (uint16_t)n);
    for (unsigned i = 0; i < n; i++)
        be32_put(b + 4 + 4 * i, (uint32_t)e[i]);
    g_assert_true(feed(g, b, 4 + 4 * n));
}

static void request(struct rig *g, bool incremental)
{
    uint8_t b[10] = {3, incremental};

    be16_put(b + 6, W);
    be16_put(b + 8, H);
    g_assert_true(feed(g, b, sizeof(b)));
}

/* ---- the handshake ---- */

static void version_8_without_password(void)
{
    struct rig *g = setup(NULL, &ops);
    g_autoptr(GByteArray) init = NULL;

    expect(g, "RFB 003.008\n", 12);
    g_assert_true(feed(g, "RFB 003.008\n", 12));
    expect(g, "\1\1", 2);
    g_assert_true(feed(g, "\1", 1));
    expect(g, "\0\0\0\0", 4);
    g_assert_true(feed(g, "\0", 1));
    init = take(g);
    g_assert_cmpmem(init->data, init->len,
                    "\0\x64\0\x46\x20\x18\0\1\0\xff\0\xff\0\xff\x10\x08\0\0\0\0"
                    "\0\0\0\4test",
                    28);
    g_assert_true(g->exclusive);
    teardown(g);
}

static void older_versions(void)
{
    struct rig *g = setup(NULL, &ops);

    drop(g);
    g_assert_true(feed(g, "RFB 003.003\n", 12));
    expect(g, "\0\0\0\1", 4);
    g_assert_true(feed(g, "\1", 1));
    g_assert_true(rfb_is_open(g->rfb));
    g_assert_false(g->exclusive);
    teardown(g);
    g = setup(NULL, &ops);
    drop(g);
    g_assert_true(feed(g, "RFB 003.007\n", 12));
    expect(g, "\1\1", 2);
    g_assert_true(feed(g, "\1\1", 2)); /* no result in between */
    g_assert_true(rfb_is_open(g->rfb));
    teardown(g);
}

static void nonsense_is_refused(void)
{
    static const char *const bad[] = {"GET / HTTP/1", "RFB 002.000\n", "RFB 003.008 "};

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        struct rig *g = setup(NULL, &ops);

        g_assert_false(feed(g, bad[i], 12));
        g_assert_false(feed(g, "\1", 1));
        teardown(g);
    }
}

static void wrong_passwords_fail(void)
{
    struct rig *g = setup("password", &ops);
    g_autoptr(GByteArray) challenge = NULL;

    drop(g);
    g_assert_true(feed(g, "RFB 003.008\n", 12));
    expect(g, "\1\2", 2);
    g_assert_false(feed(g, "\1", 1)); /* "none" was not offered */
    teardown(g);
    g = setup("password", &ops);
    drop(g);
    feed(g, "RFB 003.008\n\2", 13);
    challenge = take(g);
    g_assert_cmpuint(challenge->len, ==, 2 + 16);
    g_assert_false(feed(g, challenge->data + 2, 16));
    g_assert_true(g->auth_called);
    g_assert_false(g->authenticated);
    expect(g,
           "\0\0\0\1\0\0\0\x15"
           "Authentication failed",
           29);
    teardown(g);
}

static void who_must_wait_is_told(void)
{
    struct rig *g = setup("password", &ops);

    g->refuse = "later";
    drop(g);
    g_assert_false(feed(g, "RFB 003.008\n", 12));
    expect(g, "\0\0\0\0\5later", 10);
    teardown(g);
}

/* ---- pictures ---- */

/* A picture with something for every form of every encoding. */
static void paint(struct rig *g, unsigned kind)
{
    for (unsigned y = 0; y < H; y++) {
        for (unsigned x = 0; x < W; x++) {
            uint32_t *p = &g->picture[y * W + x];

            switch (kind) {
            case 0: *p = 0x123456; break;
            case 1: *p = (x ^ y) & 4 ? 0xffffff : 0; break;
            case 2: *p = (x / 9 + y / 5) % 7 * 0x112233; break;
            case 3: *p = (x * 2654435761u ^ y * 40503u) & 0xffffff; break;
            default: *p = x < 50 ? x / 3 * 0x030201 : 0x808080; break;
            }
        }
    }
}

struct reader {
    const uint8_t *p, *end;
    z_stream zrle, tight[4];
    bool zrle_on, tight_on[4];
    uint32_t screen[W * H];
};

static const uint8_t *get(struct reader *r, size_t n)
{
    const uint8_t *p = r->p;

    g_assert_cmpuint(n, <=, (size_t)(r->end - r->p));
    r->p += n;
    return p;
}

static uint32_t get_pixel(const uint8_t *p)
{
    return p[0] | p[1] << 8 | (uint32_t)p[2] << 16;
}

static void fill(struct reader *r, struct rect rc, uint32_t rgb)
{
    for (unsigned y = 0; y < rc.h; y++) {
        for (unsigned x = 0; x < rc.w; x++)
            r->screen[(rc.y + y) * W + rc.x + x] = rgb;
    }
}

static void read_raw(struct reader *r, struct rect rc)
{
    for (unsigned y = 0; y < rc.h; y++) {
        for (unsigned x = 0; x < rc.w; x++)
            r->screen[(rc.y + y) * W + rc.x + x] = get_pixel(get(r, 4));
    }
}

static void read_hextile_pieces(struct reader *r, struct rect t, unsigned flags,
                                uint32_t fg)
{
    for (unsigned n = *get(r, 1); n; n--) {
        uint32_t c = flags & 16 ? get_pixel(get(r, 4)) : fg;
        const uint8_t *b = get(r, 2);

        fill(r,
             (struct rect){t.x + (b[0] >> 4), t.y + (b[0] & 15), (b[1] >> 4) + 1u,
                           (b[1] & 15) + 1u},
             c);
    }
}

static void read_hextile(struct reader *r, struct rect rc)
{
    uint32_t bg = 0, fg = 0;

    for (unsigned y = 0; y < rc.h; y += 16) {
        for (unsigned x = 0; x < rc.w; x += 16) {
            struct rect t = {rc.x + x, rc.y + y, MIN(16, rc.w - x), MIN(16, rc.h - y)};
            unsigned flags = *get(r, 1);

            if (flags & 1) {
                read_raw(r, t);
                continue;
            }
            bg = flags & 2 ? get_pixel(get(r, 4)) : bg;
            fg = flags & 4 ? get_pixel(get(r, 4)) : fg;
            fill(r, t, bg);
            if (flags & 8)
                read_hextile_pieces(r, t, flags, fg);
        }
    }
}

static GByteArray *inflate_some(z_stream *z, bool *on, const uint8_t *p, size_t n)
{
    GByteArray *out = g_byte_array_new();

    if (!*on)
        g_assert_cmpint(inflateInit(z), ==, Z_OK);
    *on = true;
    g_byte_array_set_size(out, 1 << 20);
    z->next_in = (uint8_t *)(uintptr_t)p;
    z->avail_in = (uInt)n;
    z->next_out = out->data;
    z->avail_out = out->len;
    g_assert_cmpint(inflate(z, Z_SYNC_FLUSH), ==, Z_OK);
    g_assert_cmpuint(z->avail_in, ==, 0);
    g_byte_array_set_size(out, out->len - z->avail_out);
    return out;
}

static unsigned get_run(struct reader *r)
{
    unsigned len = 1, b;

    do {
        b = *get(r, 1);
        len += b;
    } while (b == 255);
    return len;
}

static void read_zrle_tile(struct reader *r, struct rect t)
{
    unsigned type = *get(r, 1), n = type == 128 ? 0 : type & 127, bits, i = 0;
    uint32_t palette[128], px[64 * 64];

    for (unsigned k = 0; k < n; k++)
        palette[k] = get_pixel(get(r, 3));
    if (type == 0) {
        for (; i < t.w * t.h; i++)
            px[i] = get_pixel(get(r, 3));
    } else if (type == 1) {
        for (; i < t.w * t.h; i++)
            px[i] = palette[0];
    } else if (type < 128) {
        bits = n <= 2 ? 1 : n <= 4 ? 2 : 4;
        for (unsigned y = 0; y < t.h; y++) {
            const uint8_t *row = get(r, (t.w * bits + 7) / 8);

            for (unsigned x = 0; x < t.w; x++)
                px[i++] = palette[row[x * bits / 8] >> (8 - bits - x * bits % 8) &
                                  ((1 << bits) - 1)];
        }
    } else {
        while (i < t.w * t.h) {
            unsigned index = type > 128 ? *get(r, 1) : 0;
            uint32_t c = type > 128 ? palette[index & 127] : get_pixel(get(r, 3));
            unsigned len = type == 128 || (index & 128) ? get_run(r) : 1;

            g_assert_cmpuint(i + len, <=, t.w * t.h);
            while (len--)
                px[i++] = c;
        }
    }
    for (unsigned y = 0; y < t.h; y++)
        memcpy(r->screen + (t.y + y) * W + t.x, px + y * t.w, t.w * sizeof(*px));
}

static void read_zrle(struct reader *r, struct rect rc)
{
    uint32_t len = be32_get(get(r, 4));
    g_autoptr(GByteArray) plain = inflate_some(&r->zrle, &r->zrle_on, get(r, len), len);
    const uint8_t *p = r->p, *end = r->end;

    r->p = plain->data;
    r->end = plain->data + plain->len;
    for (unsigned y = 0; y < rc.h; y += 64) {
        for (unsigned x = 0; x < rc.w; x += 64)
            read_zrle_tile(r, (struct rect){rc.x + x, rc.y + y, MIN(64, rc.w - x),
                                            MIN(64, rc.h - y)});
    }
    g_assert_true(r->p == r->end);
    r->p = p;
    r->end = end;
}

static size_t get_compact(struct reader *r)
{
    size_t n = 0;

    for (unsigned shift = 0; shift <= 14; shift += 7) {
        unsigned b = *get(r, 1);

        n |= (size_t)(shift == 14 ? b : b & 127) << shift;
        if (!(b & 128))
            break;
    }
    return n;
}

/* The data of stream @s, of which @n bytes are due. */
static GByteArray *read_stream(struct reader *r, unsigned s, size_t n)
{
    GByteArray *out;
    size_t len;

    if (n < 12) {
        out = g_byte_array_new();
        g_byte_array_append(out, get(r, n), (guint)n);
        return out;
    }
    len = get_compact(r);
    out = inflate_some(&r->tight[s], &r->tight_on[s], get(r, len), len);
    g_assert_cmpuint(out->len, ==, n);
    return out;
}

static uint32_t get_rgb(const uint8_t *p)
{
    return (uint32_t)p[0] << 16 | p[1] << 8 | p[2];
}

static void read_tight(struct reader *r, struct rect rc, bool *ret_jpeg)
{
    unsigned control = *get(r, 1), n, pitch;
    g_autoptr(GByteArray) data = NULL;
    uint32_t palette[256];

    if (control >> 4 == 8) {
        fill(r, rc, get_rgb(get(r, 3)));
        return;
    }
    if (control >> 4 == 9) {
        const uint8_t *jpeg = get(r, get_compact(r));

        g_assert_cmphex(be16_get(jpeg), ==, 0xffd8);
        *ret_jpeg = true;
        return;
    }
    if (!(control & 0x40)) {
        data = read_stream(r, control >> 4 & 3, 3 * rc.w * rc.h);
        for (unsigned i = 0; i < rc.w * rc.h; i++)
            r->screen[(rc.y + i / rc.w) * W + rc.x + i % rc.w] =
                get_rgb(data->data + 3 * i);
        return;
    }
    g_assert_cmpuint(*get(r, 1), ==, 1);
    n = *get(r, 1) + 1u;
    for (unsigned i = 0; i < n; i++)
        palette[i] = get_rgb(get(r, 3));
    pitch = n == 2 ? (rc.w + 7) / 8 : rc.w;
    data = read_stream(r, control >> 4 & 3, pitch * rc.h);
    for (unsigned y = 0; y < rc.h; y++) {
        for (unsigned x = 0; x < rc.w; x++) {
            const uint8_t *row = data->data + y * pitch;

            r->screen[(rc.y + y) * W + rc.x + x] =
                palette[n == 2 ? row[x / 8] >> (7 - x % 8) & 1 : row[x]];
        }
    }
}

/* Read one update of pictures into the reader's screen. */
static unsigned read_update(struct rig *g, struct reader *r, bool *ret_jpeg)
{
    g_autoptr(GByteArray) got = take(g);
    unsigned n;

    if (got->len == 0)
        return 0;
    r->p = got->data;
    r->end = got->data + got->len;
    g_assert_cmpuint(be16_get(get(r, 2)), ==, 0);
    n = be16_get(get(r, 2));
    for (unsigned i = 0; i < n; i++) {
        const uint8_t *b = get(r, 12);
        struct rect rc = {be16_get(b), be16_get(b + 2), be16_get(b + 4),
                          be16_get(b + 6)};

        switch ((int32_t)be32_get(b + 8)) {
        case 0: read_raw(r, rc); break;
        case 5: read_hextile(r, rc); break;
        case 7: read_tight(r, rc, ret_jpeg); break;
        case 16: read_zrle(r, rc); break;
        default: g_assert_not_reached();
        }
    }
    g_assert_true(r->p == r->end);
    return n;
}

static void every_encoding_shows_the_picture(void)
{
    static const int32_t encodings[] = {0, 5, 7, 16};

    for (unsigned e = 0; e < G_N_ELEMENTS(encodings); e++) {
        struct rig *g = opened(&ops);
        struct reader *r = g_new0(struct reader, 1);
        bool jpeg = false;

        set_encodings(g, &encodings[e], 1);
        for (unsigned kind = 0; kind < 5; kind++) {
            paint(g, kind);
            console_refresh(g->console);
            request(g, kind > 0);
            g_assert_cmpuint(read_update(g, r, &jpeg), >=, 1);
            g_assert_cmpmem(r->screen, sizeof(r->screen), g->picture,
                            sizeof(g->picture));
        }
        g_assert_false(jpeg);
        if (r->zrle_on)
            inflateEnd(&r->zrle);
        for (unsigned i = 0; i < 4; i++) {
            if (r->tight_on[i])
                inflateEnd(&r->tight[i]);
        }
        g_free(r);
        teardown(g);
    }
}

static void tight_sends_jpeg_when_asked(void)
{
    static const int32_t encodings[] = {7, -32 + 8};
    struct rig *g = opened(&ops);
    struct reader *r = g_new0(struct reader, 1);
    bool jpeg = false;

    set_encodings(g, encodings, 2);
    paint(g, 3);
    console_refresh(g->console);
    request(g, false);
    g_assert_cmpuint(read_update(g, r, &jpeg), >=, 1);
    g_assert_true(jpeg);
    g_free(r);
    teardown(g);
}

static void only_what_changed_is_sent(void)
{
    struct rig *g = opened(&ops);
    struct reader *r = g_new0(struct reader, 1);
    bool jpeg;

    request(g, false);
    drop(g);
    request(g, true);
    expect(g, "", 0);
    g->picture[3 * W + 40] = 0xff; /* tile 1 of the first row: 32x16 */
    console_refresh(g->console);
    g_assert_cmpuint(read_update(g, r, &jpeg), ==, 1);
    g_assert_cmphex(r->screen[3 * W + 40], ==, 0xff);
    g->picture[0] = 1; /* not asked for again */
    console_refresh(g->console);
    expect(g, "", 0);
    g_free(r);
    teardown(g);
}

static void other_pixel_formats(void)
{
    /* 16 bits, big-endian, 5-6-5; then 8 bits with a colour map. */
    static const uint8_t rgb565[20] = {0,  0, 0,  0, 16, 16, 1, 1, 0,
                                       31, 0, 63, 0, 31, 11, 5, 0};
    static const uint8_t mapped[20] = {0, 0, 0, 0, 8, 8, 0, 0};
    static const uint8_t wrong[20] = {0, 0, 0, 0, 12, 8, 0, 1};
    struct rig *g = opened(&ops);
    g_autoptr(GByteArray) a = NULL, b = NULL;

    g->picture[0] = 0xff8008;
    console_refresh(g->console);
    g_assert_true(feed(g, rgb565, 20));
    request(g, false);
    a = take(g);
    g_assert_cmphex(be16_get(a->data + 16), ==, 0xfc01);
    g_assert_true(feed(g, mapped, 20));
    b = take(g);
    g_assert_cmpmem(b->data, 6, "\1\0\0\0\1\0", 6);
    g_assert_cmpuint(b->len, ==, 6 + 256 * 6);
    g_assert_false(feed(g, wrong, 20));
    teardown(g);
}

static void new_sizes_are_told(void)
{
    static const int32_t plain[] = {-223}, extended[] = {-223, -308};
    struct rig *g = opened(&ops_fixed);
    g_autoptr(GByteArray) a = NULL, b = NULL;

    set_encodings(g, plain, 1);
    request(g, false);
    drop(g);
    console_resize(g->console, 50, 40);
    request(g, true);
    expect(g, "\0\0\0\1\0\0\0\0\0\x32\0\x28\xff\xff\xff\x21", 16);
    set_encodings(g, extended, 2);
    request(g, true);
    a = take(g);
    g_assert_cmpuint(a->len, >=, 32);
    g_assert_cmphex(be32_get(a->data + 12), ==, (uint32_t)-308);
    /* The viewer asks; this guest cannot. */
    g_assert_true(feed(g,
                       "\xfb\0\0\x40\0\x30\1\0"
                       "\0\0\0\0\0\0\0\0\0\x40\0\x30\0\0\0\0",
                       24));
    request(g, true);
    b = take(g);
    g_assert_cmpuint(be16_get(b->data + 4), ==, 1);
    g_assert_cmpuint(be16_get(b->data + 6), ==, 1);
    teardown(g);
}

static void fences_and_continuous_updates(void)
{
    static const int32_t e[] = {0, -312, -313};
    struct rig *g = opened(&ops);
    struct reader *r = g_new0(struct reader, 1);
    bool jpeg;

    set_encodings(g, e, 3);
    expect(g, "\xf8\0\0\0\x80\0\0\7\0\x96", 10);
    g_assert_true(feed(g, "\xf8\0\0\0\x80\0\0\1\3abc", 12));
    expect(g, "\xf8\0\0\0\0\0\0\1\3abc", 12);
    g_assert_true(feed(g, "\x96\1\0\0\0\0\0\x64\0\x46", 10));
    g_assert_cmpuint(read_update(g, r, &jpeg), >=, 1);
    g->picture[5] = 7;
    console_refresh(g->console); /* nobody asked */
    g_assert_cmpuint(read_update(g, r, &jpeg), ==, 1);
    g_assert_true(feed(g, "\x96\0\0\0\0\0\0\x64\0\x46", 10));
    expect(g, "\x96", 1);
    g_free(r);
    teardown(g);
}

static void cursor_is_a_rectangle(void)
{
    static const int32_t e[] = {-239};
    struct rig *g = opened(&ops);
    struct cursor c = {
        .width = 2, .height = 1, .hot_x = 1, .pixels = {0xff0000ff, 0x00ffffff}};

    request(g, false);
    drop(g);
    set_encodings(g, e, 1);
    console_set_cursor(g->console, &c);
    request(g, true);
    expect(g, "\0\0\0\1\0\1\0\0\0\2\0\1\xff\xff\xff\x11\xff\0\0\0\xff\xff\xff\0\x80",
           25);
    teardown(g);
}

/* ---- input ---- */

static void key(struct rig *g, uint32_t keysym, bool down)
{
    uint8_t b[8] = {4, down};

    be32_put(b + 4, keysym);
    g_assert_true(feed(g, b, sizeof(b)));
}

static void keys_become_codes(void)
{
    struct rig *g = opened(&ops);

    key(g, 'a', true);
    key(g, 'a', false);
    key(g, 'A', true); /* without shift: it is added */
    key(g, 'A', false);
    key(g, 0xffe1, true);
    key(g, '!', true);
    key(g, '!', false);
    key(g, '/', true); /* shift was needed there, but is not here */
    key(g, '/', false);
    key(g, 0xffe1, false);
    key(g, 0xffff, true);
    key(g, 0x20ac, true); /* no such key */
    g_assert_cmpstr(g->keys->str, ==,
                    "+1e -1e +2a +1e -2a -1e +2a +02 -02 -2a +35 +2a -35 -2a +d3 ");
    g_string_truncate(g->keys, 0);
    g_assert_true(feed(g, "\xff\0\0\1\0\0\xff\x1b\0\0\0\1", 12));
    g_assert_true(feed(g, "\xff\0\0\0\0\0\xff\x1b\0\0\0\1", 12));
    g_assert_true(feed(g, "\xff\0\0\1\0\0\0\0\0\0\xe0\x1d", 12));
    g_assert_cmpstr(g->keys->str, ==, "+01 -01 +9d ");
    teardown(g);
}

static void a_viewer_that_leaves_lets_go_of_keys(void)
{
    struct rig *g = opened(&ops);

    key(g, 'q', true);
    rfb_free(g->rfb);
    g->rfb = NULL;
    g_assert_cmpstr(g->keys->str, ==, "+10 -10 ");
    teardown(g);
}

static void pointer_becomes_distances(void)
{
    static const int32_t e[] = {-257};
    struct rig *g = opened(&ops);

    g_assert_true(feed(g, "\5\1\0\x0a\0\x0a", 6));
    g_assert_true(feed(g, "\5\1\0\x14\0\x05", 6));
    g_assert_false(g->pointer.absolute);
    g_assert_cmpint(g->pointer.x, ==, 10);
    g_assert_cmpint(g->pointer.y, ==, -5);
    g_assert_cmpuint(g->pointer.buttons, ==, POINTER_LEFT);
    request(g, false);
    drop(g);
    set_encodings(g, e, 1);
    request(g, true); /* told that distances are wanted, it sends them */
    expect(g, "\0\0\0\1\0\0\0\0\0\0\0\0\xff\xff\xfe\xff", 16);
    g_assert_true(feed(g, "\5\4\x80\x02\x7f\xfe", 6));
    g_assert_cmpint(g->pointer.x, ==, 3);
    g_assert_cmpint(g->pointer.y, ==, -1);
    g_assert_cmpuint(g->pointer.buttons, ==, POINTER_RIGHT);
    teardown(g);
}

static void keymap_has_all_of_ascii(void)
{
    for (uint32_t c = ' '; c < 0x7f; c++) {
        bool letter;
        int shift;

        g_assert_cmpuint(keymap_find(c, &shift, &letter), >, 0);
        g_assert_cmpint(shift, ==, c == ' ' ? -1 : shift != 0);
    }
}

/* ---- bad viewers ---- */

static void what_is_no_message_ends_it(void)
{
    static const struct {
        const char *bytes;
        size_t len;
    } bad[] = {{"\x07", 1},
               {"\xff\x05\0\0", 4},
               {"\x02\0\xff\xff", 4},
               {"\xf8\0\0\0\x80\0\0\1\xff", 9},
               {"\xfb\0\0\0\0\0\xff\0", 8}};

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        struct rig *g = opened(&ops);
        g_autofree char *zeros = g_malloc0(8192);
        bool ok = feed(g, bad[i].bytes, bad[i].len);

        ok = ok && feed(g, zeros, 8192);
        g_assert_false(ok);
        teardown(g);
    }
}

static void cut_text_is_skipped_not_kept(void)
{
    struct rig *g = opened(&ops);
    g_autofree char *text = g_malloc0(100000);

    memset(text, 7, 100000); /* would be no message */
    g_assert_true(feed(g, "\6\0\0\0\0\1\x86\xa0", 8));
    g_assert_true(feed(g, text, 100000));
    key(g, 'a', true);
    g_assert_cmpstr(g->keys->str, ==, "+1e ");
    teardown(g);
}

static void answers_nobody_takes_are_bounded(void)
{
    static const int32_t e[] = {-312};
    struct rig *g = opened(&ops);
    bool ok = true;
    unsigned n = 0;

    set_encodings(g, e, 1);
    for (; ok && n < 200000; n++)
        ok = feed(g,
                  "\xf8\0\0\0\x80\0\0\1\x10"
                  "0123456789abcdef",
                  25);
    g_assert_false(ok);
    teardown(g);
}

/* ---- WebSocket ---- */

static void websocket_handshake_and_frames(void)
{
    static const char hello[] =
        "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        "Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Protocol: binary\r\n\r\n";
    g_autoptr(GByteArray) data = g_byte_array_new(), reply = g_byte_array_new();
    struct ws *w = ws_new();

    g_assert_true(ws_feed(w, (const uint8_t *)hello, 40, data, reply));
    g_assert_false(ws_is_open(w));
    g_assert_true(
        ws_feed(w, (const uint8_t *)hello + 40, sizeof(hello) - 41, data, reply));
    g_assert_true(ws_is_open(w));
    g_byte_array_append(reply, (const uint8_t *)"", 1);
    /* The example of RFC 6455, 1.3. */
    g_assert_nonnull(strstr((char *)reply->data, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    g_byte_array_set_size(reply, 0);
    /* 5.7: "Hello", masked, in two pieces. */
    g_assert_true(ws_feed(w, (const uint8_t *)"\x82\x85\x37\xfa\x21\x3d\x7f\x9f", 8,
                          data, reply));
    g_assert_true(ws_feed(w, (const uint8_t *)"\x4d\x51\x58", 3, data, reply));
    g_assert_cmpmem(data->data, data->len, "Hello", 5);
    g_assert_true(ws_feed(w, (const uint8_t *)"\x89\x81\0\0\0\0!", 7, data, reply));
    g_assert_cmpmem(reply->data, reply->len, "\x8a\x01!", 3);
    g_assert_false(ws_feed(w, (const uint8_t *)"\x82\x05Hello", 7, data, reply));
    ws_free(w);
}

static void websocket_refuses_what_is_none(void)
{
    static const char *const bad[] = {
        "GET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n",
    };
    g_autofree char *endless = g_strnfill(10000, 'a');

    for (unsigned i = 0; i <= G_N_ELEMENTS(bad); i++) {
        g_autoptr(GByteArray) data = g_byte_array_new(), reply = g_byte_array_new();
        const char *text = i < G_N_ELEMENTS(bad) ? bad[i] : endless;
        struct ws *w = ws_new();

        g_assert_false(ws_feed(w, (const uint8_t *)text, strlen(text), data, reply));
        g_assert_false(ws_is_open(w));
        ws_free(w);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define TEST(name) g_test_add_func("/rfb/" #name, name)
    TEST(version_8_without_password);
    TEST(older_versions);
    TEST(nonsense_is_refused);
    TEST(wrong_passwords_fail);
    TEST(who_must_wait_is_told);
    TEST(every_encoding_shows_the_picture);
    TEST(tight_sends_jpeg_when_asked);
    TEST(only_what_changed_is_sent);
    TEST(other_pixel_formats);
    TEST(new_sizes_are_told);
    TEST(fences_and_continuous_updates);
    TEST(cursor_is_a_rectangle);
    TEST(keys_become_codes);
    TEST(a_viewer_that_leaves_lets_go_of_keys);
    TEST(pointer_becomes_distances);
    TEST(keymap_has_all_of_ascii);
    TEST(what_is_no_message_ends_it);
    TEST(cut_text_is_skipped_not_kept);
    TEST(answers_nobody_takes_are_bounded);
    TEST(websocket_handshake_and_frames);
    TEST(websocket_refuses_what_is_none);
    return g_test_run();
}
