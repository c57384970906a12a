#include "vmm/display/rfb.h"

#include <stdio.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/rand.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/display/rfb_priv.h"

/*
 * The handshake and the viewer's messages. Each message is taken when it is there as a
 * whole; those without a bound have a head and a rest that is skipped as it comes.
 */

enum { SECURITY_NONE = 1, SECURITY_VNC = 2 };

enum {
    SET_PIXEL_FORMAT = 0,
    SET_ENCODINGS = 2,
    UPDATE_REQUEST = 3,
    KEY_EVENT = 4,
    POINTER_EVENT = 5,
    CUT_TEXT = 6,
    ENABLE_CONTINUOUS = 150,
    CLIENT_FENCE = 248,
    SET_DESKTOP_SIZE = 251,
    QEMU_MESSAGE = 255,
};

enum { SERVER_COLOUR_MAP = 1, SERVER_END_CONTINUOUS = 150, SERVER_FENCE = 248 };

enum { MAX_ENCODINGS = 1024, MAX_FENCE = 64, MAX_SCREENS = 16 };

#define FENCE_REQUEST 0x80000000u
#define FENCE_FLAGS   0x00000007u /* before, after, next */

/* Of answers, while the viewer takes nothing. More is an attack. */
enum { MAX_ANSWERS = 1 << 20 };

static bool fail(struct rfb *r)
{
    r->state = RFB_CLOSED;
    return false;
}

/* ---- the console ---- */

static void tell_ready(struct rfb *r)
{
    if (!r->in_feed && r->out->len > 0 && r->host.ready)
        r->host.ready(r->host.opaque);
}

static void on_updated(void *opaque, struct rect rc)
{
    rfb_changed(opaque, rc);
}

static void on_resized(void *opaque)
{
    rfb_resized(opaque);
}

static void on_cursor(void *opaque)
{
    struct rfb *r = opaque;

    r->send_cursor = r->can_cursor;
}

/* A refresh is over. */
static void on_refreshed(void *opaque)
{
    struct rfb *r = opaque;

    rfb_update(r);
    rfb_watch(r);
    tell_ready(r);
}

/* ---- the handshake ---- */

static void put_reason(struct rfb *r, const char *reason)
{
    rfb_put32(r, (uint32_t)strlen(reason));
    rfb_put(r, reason, strlen(reason));
}

static bool refuse(struct rfb *r, const char *reason)
{
    if (r->minor == 3)
        rfb_put32(r, 0);
    else
        rfb_put8(r, 0);
    put_reason(r, reason);
    return fail(r);
}

static void put_challenge(struct rfb *r)
{
    if (RAND_bytes(r->challenge, sizeof(r->challenge)) != 1)
        g_error("no random bytes");
    rfb_put(r, r->challenge, sizeof(r->challenge));
    r->state = RFB_CHALLENGE;
}

static void put_result(struct rfb *r)
{
    rfb_put32(r, 0);
    r->state = RFB_INIT;
}

static const char *why_refused(const struct rfb *r)
{
    return r->host.refuse ? r->host.refuse(r->host.opaque) : NULL;
}

/* "RFB 003.00x\n"; what is neither 7 nor 8 is treated as 3 (7.1.1). */
static bool take_version(struct rfb *r, const uint8_t *b)
{
    unsigned type = r->host.password ? SECURITY_VNC : SECURITY_NONE;
    unsigned major, minor;
    char text[13] = {0};

    memcpy(text, b, 12);
    if (sscanf(text, "RFB %3u.%3u\n", &major, &minor) != 2 || text[11] != '\n' ||
        major < 3)
        return fail(r);
    r->minor = major > 3 || minor >= 8 ? 8 : minor == 7 ? 7 : 3;
    if (why_refused(r))
        return refuse(r, why_refused(r));
    if (r->minor > 3) {
        rfb_put8(r, 1);
        rfb_put8(r, type);
        r->state = RFB_SECURITY;
        return true;
    }
    rfb_put32(r, type);
    if (type == SECURITY_VNC)
        put_challenge(r);
    else
        r->state = RFB_INIT;
    return true;
}

static bool take_security(struct rfb *r, const uint8_t *b)
{
    unsigned type = r->host.password ? SECURITY_VNC : SECURITY_NONE;

    if (b[0] != type)
        return fail(r);
    if (type == SECURITY_VNC)
        put_challenge(r);
    else if (r->minor == 8)
        put_result(r);
    else
        r->state = RFB_INIT;
    return true;
}

/* DES (7.2.2): the password's 8 bytes, each with its bits in reverse, are the key. The
 * triple form with one key three times is the single one. */
static bool expected_response(const struct rfb *r, uint8_t ret[16])
{
    uint8_t key[24] = {0}, out[32];
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int len = 0;
    bool ok;

    for (unsigned i = 0; i < 8 && r->host.password[i]; i++) {
        for (unsigned bit = 0; bit < 8; bit++)
            key[i] |= (uint8_t)(((uint8_t)r->host.password[i] >> bit & 1) << (7 - bit));
    }
    memcpy(key + 8, key, 8);
    memcpy(key + 16, key, 8);
    ok = ctx && EVP_EncryptInit_ex(ctx, EVP_des_ede3_ecb(), NULL, key, NULL) &&
         EVP_CIPHER_CTX_set_padding(ctx, 0) &&
         EVP_EncryptUpdate(ctx, out, &len, r->challenge, 16) && len == 16;
    if (ok)
        memcpy(ret, out, 16);
    EVP_CIPHER_CTX_free(ctx);
    return ok;
}

static bool take_response(struct rfb *r, const uint8_t *b)
{
    uint8_t expected[16], differ = 0;
    const char *why = why_refused(r);
    bool ok = expected_response(r, expected);

    for (unsigned i = 0; ok && i < 16; i++)
        differ |= (uint8_t)(expected[i] ^ b[i]);
    ok = ok && !differ && !why;
    if (!why && r->host.authenticated)
        r->host.authenticated(r->host.opaque, ok);
    if (ok) {
        put_result(r);
        return true;
    }
    rfb_put32(r, 1);
    if (r->minor == 8)
        put_reason(r, why ?: "Authentication failed");
    return fail(r);
}

static bool take_init(struct rfb *r, const uint8_t *b)
{
    const struct surface *s;
    uint8_t format[16];

    r->console = display_console(r->host.display);
    if (!r->console)
        return fail(r);
    if (!b[0] && r->host.exclusive)
        r->host.exclusive(r->host.opaque);
    r->listener = (struct console_listener){.updated = on_updated,
                                            .resized = on_resized,
                                            .cursor = on_cursor,
                                            .refreshed = on_refreshed,
                                            .opaque = r};
    console_listen(r->console, &r->listener);
    console_refresh(r->console);
    s = console_surface(r->console);
    r->width = s->width;
    r->height = s->height;
    rfb_put16(r, s->width);
    rfb_put16(r, s->height);
    rfb_format_default(&r->format);
    rfb_format_write(&r->format, format);
    rfb_put(r, format, sizeof(format));
    put_reason(r, r->host.name);
    rfb_resized(r);
    r->state = RFB_OPEN;
    return true;
}

/* ---- messages ---- */

/* All 256 entries of a colour map, see rfb_format_parse(). */
static void put_colour_map(struct rfb *r)
{
    rfb_put8(r, SERVER_COLOUR_MAP);
    rfb_put8(r, 0);
    rfb_put16(r, 0);
    rfb_put16(r, 256);
    for (unsigned i = 0; i < 256; i++) {
        rfb_put16(r, (i & 7) * 65535 / 7);
        rfb_put16(r, (i >> 3 & 7) * 65535 / 7);
        rfb_put16(r, (i >> 6) * 65535 / 3);
    }
}

static bool set_pixel_format(struct rfb *r, const uint8_t *b)
{
    if (!rfb_format_parse(&r->format, b + 4))
        return fail(r);
    if (r->format.mapped)
        put_colour_map(r);
    rfb_changed(r, (struct rect){0, 0, SURFACE_MAX, SURFACE_MAX});
    return true;
}

static void set_encoding(struct rfb *r, int32_t e, bool *has_picture)
{
    switch (e) {
    case RFB_RAW:
    case RFB_HEXTILE:
    case RFB_TIGHT:
    case RFB_ZRLE:
        if (!*has_picture)
            r->encoding = e;
        *has_picture = true;
        break;
    case RFB_QUALITY_0 ... RFB_QUALITY_0 + 9: r->quality = e - RFB_QUALITY_0; break;
    case RFB_COMPRESS_0 ... RFB_COMPRESS_0 + 9:
        r->level = MAX(e - RFB_COMPRESS_0, 1);
        break;
    case RFB_DESKTOP_SIZE: r->can_resize = true; break;
    case RFB_EXT_DESKTOP_SIZE: r->can_resize_ext = true; break;
    case RFB_CURSOR: r->can_cursor = true; break;
    case RFB_POINTER_MODE: r->can_pointer_mode = true; break;
    case RFB_EXT_KEY: r->can_ext_key = true; break;
    case RFB_LEDS: r->can_leds = true; break;
    case RFB_FENCE: r->can_fence = true; break;
    case RFB_CONTINUOUS: r->can_continuous = true; break;
    }
}

static bool set_encodings(struct rfb *r, const uint8_t *b)
{
    unsigned n = be16_get(b + 2);
    bool has_picture = false, fence = r->can_fence, continuous = r->can_continuous;
    bool resize_ext = r->can_resize_ext;

    if (n > MAX_ENCODINGS)
        return fail(r);
    r->encoding = RFB_RAW;
    r->quality = -1;
    r->level = 2;
    r->can_resize = r->can_resize_ext = r->can_cursor = r->can_pointer_mode = false;
    r->can_ext_key = r->can_leds = r->can_fence = r->can_continuous = false;
    for (unsigned i = 0; i < n; i++)
        set_encoding(r, (int32_t)be32_get(b + 4 + 4 * i), &has_picture);
    if (r->can_fence && !fence) {
        rfb_put8(r, SERVER_FENCE);
        rfb_put(r, "\0\0", 3);
        rfb_put32(r, FENCE_REQUEST | FENCE_FLAGS);
        rfb_put8(r, 0);
    }
    if (r->can_continuous && !continuous)
        rfb_put8(r, SERVER_END_CONTINUOUS);
    r->send_size = r->send_size || (r->can_resize_ext && !resize_ext);
    r->send_cursor = r->can_cursor && console_cursor(r->console);
    r->relative = r->can_pointer_mode && !display_is_absolute(r->host.display);
    r->send_pointer_mode = r->can_pointer_mode;
    r->send_key_mode = r->can_ext_key;
    r->send_leds = r->can_leds;
    return true;
}

static struct rect get_rect(const uint8_t *b)
{
    return (struct rect){be16_get(b), be16_get(b + 2), be16_get(b + 4),
                         be16_get(b + 6)};
}

static bool update_request(struct rfb *r, const uint8_t *b)
{
    struct rect rc = get_rect(b + 2);

    if (!b[1])
        rfb_changed(r, rc);
    if (r->requested) { /* one that was not answered yet: both */
        unsigned x2 = MAX(rc.x + rc.w, r->wanted.x + r->wanted.w);
        unsigned y2 = MAX(rc.y + rc.h, r->wanted.y + r->wanted.h);

        rc.x = MIN(rc.x, r->wanted.x);
        rc.y = MIN(rc.y, r->wanted.y);
        rc.w = x2 - rc.x;
        rc.h = y2 - rc.y;
    }
    r->wanted = rc;
    r->requested = true;
    return true;
}

static bool enable_continuous(struct rfb *r, const uint8_t *b)
{
    bool was = r->continuous;

    r->continuous = b[1];
    r->area = get_rect(b + 2);
    if (was && !r->continuous)
        rfb_put8(r, SERVER_END_CONTINUOUS);
    return true;
}

static bool client_fence(struct rfb *r, const uint8_t *b)
{
    uint32_t flags = be32_get(b + 4);

    if (b[8] > MAX_FENCE)
        return fail(r);
    if (!(flags & FENCE_REQUEST))
        return true;
    rfb_put8(r, SERVER_FENCE);
    rfb_put(r, "\0\0", 3);
    rfb_put32(r, flags & FENCE_FLAGS);
    rfb_put8(r, b[8]);
    rfb_put(r, b + 9, b[8]);
    return true;
}

static bool set_desktop_size(struct rfb *r, const uint8_t *b)
{
    enum { BY_CLIENT = 1, DONE = 0, PROHIBITED = 1, INVALID = 3 };
    unsigned w = be16_get(b + 2), h = be16_get(b + 4);

    if (b[6] > MAX_SCREENS)
        return fail(r);
    r->send_size = true;
    r->size_reason = BY_CLIENT;
    if (w == 0 || h == 0 || w > SURFACE_MAX || h > SURFACE_MAX)
        r->size_status = INVALID;
    else
        r->size_status = console_want_size(r->console, w, h) ? DONE : PROHIBITED;
    return true;
}

static bool key_event(struct rfb *r, const uint8_t *b)
{
    rfb_key(r, be32_get(b + 4), b[1]);
    return true;
}

static bool pointer_event(struct rfb *r, const uint8_t *b)
{
    rfb_pointer(r, b[1], be16_get(b + 2), be16_get(b + 4));
    return true;
}

/* Text that is skipped; of the extended clipboard the length is negative. */
static bool cut_text(struct rfb *r, const uint8_t *b)
{
    int64_t len = (int32_t)be32_get(b + 4);

    r->in_skip = (uint64_t)ABS(len);
    return true;
}

/* Its second byte says which: 0 a key with its code, 1 sound, which there is none of.
 */
static bool qemu_message(struct rfb *r, const uint8_t *b)
{
    uint32_t code = be32_get(b + 8);

    if (b[1] == 0 && code >= 1 && code <= 0xffff)
        rfb_key_code(r, (uint8_t)(code & 0x7f) | (code & 0xff80 ? 0x80 : 0),
                     be16_get(b + 2));
    return true;
}

struct message {
    uint8_t type;
    unsigned len; /* the least that says how long it is, or all of it */
    bool (*take)(struct rfb *r, const uint8_t *b);
};

static const struct message messages[] = {
    {SET_PIXEL_FORMAT, 20, set_pixel_format},   {SET_ENCODINGS, 4, set_encodings},
    {UPDATE_REQUEST, 10, update_request},       {KEY_EVENT, 8, key_event},
    {POINTER_EVENT, 6, pointer_event},          {CUT_TEXT, 8, cut_text},
    {ENABLE_CONTINUOUS, 10, enable_continuous}, {CLIENT_FENCE, 9, client_fence},
    {SET_DESKTOP_SIZE, 8, set_desktop_size},    {QEMU_MESSAGE, 4, qemu_message},
};

/* The whole length of a message of which the first @m->len bytes are there; 0: no such
 * message. */
static size_t whole_length(const struct message *m, const uint8_t *b)
{
    switch (m->type) {
    case SET_ENCODINGS: return 4 + 4 * (size_t)MIN(be16_get(b + 2), MAX_ENCODINGS + 1);
    case CLIENT_FENCE: return 9 + (size_t)MIN(b[8], MAX_FENCE + 1);
    case SET_DESKTOP_SIZE: return 8 + 16 * (size_t)MIN(b[6], MAX_SCREENS + 1);
    case QEMU_MESSAGE:
        return b[1] == 0 ? 12 : b[1] == 1 ? be16_get(b + 2) == 2 ? 10 : 4 : 0;
    default: return m->len;
    }
}

/* How long what begins at @b is, of which @have bytes are there; 0: nonsense. */
static size_t needed(struct rfb *r, const uint8_t *b, size_t have,
                     const struct message **ret)
{
    *ret = NULL;
    switch (r->state) {
    case RFB_VERSION: return 12;
    case RFB_CHALLENGE: return 16;
    case RFB_SECURITY:
    case RFB_INIT: return 1;
    default: break;
    }
    for (size_t i = 0; i < ARRAY_LEN(messages); i++) {
        if (messages[i].type == b[0]) {
            *ret = &messages[i];
            return have < (*ret)->len ? (*ret)->len : whole_length(*ret, b);
        }
    }
    return 0;
}

static bool take(struct rfb *r, const struct message *m, const uint8_t *b)
{
    switch (r->state) {
    case RFB_VERSION: return take_version(r, b);
    case RFB_SECURITY: return take_security(r, b);
    case RFB_CHALLENGE: return take_response(r, b);
    case RFB_INIT: return take_init(r, b);
    case RFB_OPEN: return m->take(r, b);
    case RFB_CLOSED: break;
    }
    return false;
}

/* All that is whole in r->in. */
static bool take_all(struct rfb *r)
{
    size_t at = 0;
    bool ok = true;

    while (ok && at < r->in->len && r->state != RFB_CLOSED) {
        const uint8_t *b = r->in->data + at;
        size_t have = r->in->len - at, skip = MIN(r->in_skip, have), need, before;
        const struct message *m;

        at += skip;
        r->in_skip -= skip;
        if (skip)
            continue;
        need = needed(r, b, have, &m);
        if (need == 0)
            ok = fail(r);
        if (need == 0 || need > have)
            break;
        at += need;
        before = r->out->len;
        ok = take(r, m, b);
        r->answers += r->out->len - before;
        if (r->answers > MAX_ANSWERS)
            ok = fail(r);
    }
    g_byte_array_remove_range(r->in, 0, (guint)at);
    return ok && r->state != RFB_CLOSED;
}

bool rfb_feed(struct rfb *r, const uint8_t *bytes, size_t len)
{
    bool ok;

    if (r->state == RFB_CLOSED)
        return false;
    r->in_feed = true;
    g_byte_array_append(r->in, bytes, (guint)len);
    ok = take_all(r);
    if (ok) {
        rfb_watch(r);
        rfb_update(r);
        rfb_watch(r);
    }
    r->in_feed = false;
    return ok;
}

size_t rfb_pending(struct rfb *r, const uint8_t **ret)
{
    *ret = r->out->data + r->out_at;
    return r->out->len - r->out_at;
}

void rfb_sent(struct rfb *r, size_t n)
{
    r->out_at += n;
    if (r->out_at < r->out->len)
        return;
    /* What a large picture needed is given back. */
    if (r->out->len > MAX_ANSWERS) {
        g_byte_array_unref(r->out);
        r->out = g_byte_array_new();
    }
    g_byte_array_set_size(r->out, 0);
    r->out_at = r->answers = 0;
    rfb_update(r);
    rfb_watch(r);
}

bool rfb_is_open(const struct rfb *r)
{
    return r->state == RFB_OPEN;
}

struct rfb *rfb_new(const struct rfb_host *host)
{
    struct rfb *r = g_new0(struct rfb, 1);

    r->host = *host;
    r->in = g_byte_array_new();
    r->out = g_byte_array_new();
    r->work = g_byte_array_new();
    r->quality = -1;
    r->level = 2;
    rfb_put(r, "RFB 003.008\n", 12);
    return r;
}

void rfb_free(struct rfb *r)
{
    if (!r)
        return;
    if (r->console) {
        rfb_release_keys(r);
        console_listener_want(r->console, &r->listener, false);
        console_unlisten(r->console, &r->listener);
    }
    if (r->zrle_on)
        deflateEnd(&r->zrle);
    for (unsigned i = 0; i < RFB_TIGHT_STREAMS; i++) {
        if (r->tight_on[i])
            deflateEnd(&r->tight[i]);
    }
    g_byte_array_unref(r->in);
    g_byte_array_unref(r->out);
    g_byte_array_unref(r->work);
    g_free(r->tiles);
    g_free(r);
}
