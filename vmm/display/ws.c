#include "vmm/display/ws.h"

#include <string.h>

#include <openssl/sha.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"

/* Messages are streams of bytes here, so that where a frame ends does not matter. */

enum { MAX_REQUEST = 8192, MAX_CONTROL = 125 };
enum { CONTINUATION = 0, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };
enum { FIN = 0x80, MASKED = 0x80 };

struct ws {
    bool open, closed;
    GByteArray *head; /* the request, or a frame's head, or a control frame */
    uint64_t left;    /* of the frame's data */
    uint8_t mask[4];
    unsigned mask_at;
    unsigned opcode;
};

struct ws *ws_new(void)
{
    struct ws *w = g_new0(struct ws, 1);

    w->head = g_byte_array_new();
    return w;
}

void ws_free(struct ws *w)
{
    if (!w)
        return;
    g_byte_array_unref(w->head);
    g_free(w);
}

bool ws_is_open(const struct ws *w)
{
    return w->open;
}

static void put_frame(GByteArray *out, unsigned opcode, const uint8_t *data, size_t len)
{
    uint8_t b[10] = {(uint8_t)(FIN | opcode)};
    guint n = 2;

    if (len < 126) {
        b[1] = (uint8_t)len;
    } else if (len < 65536) {
        b[1] = 126;
        be16_put(b + 2, (uint16_t)len);
        n = 4;
    } else {
        b[1] = 127;
        be64_put(b + 2, len);
        n = 10;
    }
    g_byte_array_append(out, b, n);
    if (data && len)
        g_byte_array_append(out, data, (guint)len);
}

void ws_put_head(GByteArray *out, size_t len)
{
    put_frame(out, BINARY, NULL, len);
}

/* ---- the handshake (4.2) ---- */

static void put_text(GByteArray *out, const char *text)
{
    g_byte_array_append(out, (const uint8_t *)text, (guint)strlen(text));
}

/* The value of header @name in @lines, or NULL; caller owns. */
static char *header(char **lines, const char *name)
{
    size_t n = strlen(name);

    for (; *lines; lines++) {
        if (g_ascii_strncasecmp(*lines, name, n) == 0 && (*lines)[n] == ':')
            return g_strstrip(g_strdup(*lines + n + 1));
    }
    return NULL;
}

/* Whether the comma-separated list @text has @word. */
static bool has_word(const char *text, const char *word)
{
    g_auto(GStrv) words = text ? g_strsplit(text, ",", 16) : NULL;

    for (char **w = words; w && *w; w++) {
        if (g_ascii_strcasecmp(g_strstrip(*w), word) == 0)
            return true;
    }
    return false;
}

static char *accept_key(const char *key)
{
    g_autofree char *text =
        g_strconcat(key, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", NULL);
    uint8_t digest[SHA_DIGEST_LENGTH];

    SHA1((const uint8_t *)text, strlen(text), digest);
    return g_base64_encode(digest, sizeof(digest));
}

static bool answer(struct ws *w, const char *request, GByteArray *reply)
{
    g_auto(GStrv) lines = g_strsplit(request, "\r\n", 128);
    g_autofree char *upgrade = header(lines, "Upgrade"),
                    *connection = header(lines, "Connection"),
                    *version = header(lines, "Sec-WebSocket-Version"),
                    *key = header(lines, "Sec-WebSocket-Key"),
                    *protocols = header(lines, "Sec-WebSocket-Protocol"),
                    *accept = NULL;

    if (!g_str_has_prefix(request, "GET ") || !has_word(upgrade, "websocket") ||
        !has_word(connection, "upgrade") || g_strcmp0(version, "13") != 0 || !key) {
        put_text(reply, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n"
                        "Sec-WebSocket-Version: 13\r\nContent-Length: 0\r\n\r\n");
        return false;
    }
    accept = accept_key(key);
    put_text(reply, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                    "Connection: Upgrade\r\nSec-WebSocket-Accept: ");
    put_text(reply, accept);
    if (has_word(protocols, "binary"))
        put_text(reply, "\r\nSec-WebSocket-Protocol: binary");
    put_text(reply, "\r\n\r\n");
    return w->open = true;
}

/* Take bytes up to the empty line; *ret_used of them. */
static bool take_request(struct ws *w, const uint8_t *b, size_t len, size_t *ret_used,
                         GByteArray *reply)
{
    for (size_t i = 0; i < len; i++) {
        g_byte_array_append(w->head, b + i, 1);
        if (w->head->len >= 4 &&
            memcmp(w->head->data + w->head->len - 4, "\r\n\r\n", 4) == 0) {
            g_autofree char *text = g_strndup((char *)w->head->data, w->head->len);

            *ret_used = i + 1;
            g_byte_array_set_size(w->head, 0);
            return answer(w, text, reply);
        }
        if (w->head->len >= MAX_REQUEST)
            return false;
    }
    *ret_used = len;
    return true;
}

/* ---- frames (5.2) ---- */

static size_t head_length(const GByteArray *h)
{
    unsigned len;

    if (h->len < 2)
        return 2;
    len = h->data[1] & 0x7f;
    return 2 + (len == 126 ? 2 : len == 127 ? 8 : 0) + 4;
}

/* A frame's head is whole. */
static bool take_head(struct ws *w)
{
    const uint8_t *h = w->head->data;
    unsigned len = h[1] & 0x7f;

    w->opcode = h[0] & 0x0f;
    if ((h[0] & 0x70) || !(h[1] & MASKED))
        return false;
    w->left = len == 126 ? be16_get(h + 2) : len == 127 ? be64_get(h + 2) : len;
    memcpy(w->mask, w->head->data + w->head->len - 4, 4);
    w->mask_at = 0;
    g_byte_array_set_size(w->head, 0);
    if (w->opcode >= CLOSE)
        return w->opcode <= PONG && (h[0] & FIN) && w->left <= MAX_CONTROL;
    return w->opcode <= BINARY && w->left <= INT64_MAX;
}

static bool end_control(struct ws *w, GByteArray *reply)
{
    if (w->opcode == PING)
        put_frame(reply, PONG, w->head->data, w->head->len);
    if (w->opcode == CLOSE)
        put_frame(reply, CLOSE, w->head->data, w->head->len);
    g_byte_array_set_size(w->head, 0);
    return w->opcode != CLOSE;
}

bool ws_feed(struct ws *w, const uint8_t *bytes, size_t len, GByteArray *data,
             GByteArray *reply)
{
    size_t at = 0;

    if (w->closed)
        return false;
    if (!w->open && !take_request(w, bytes, len, &at, reply)) {
        w->closed = true;
        return false;
    }
    /* In a frame's data `left` is not 0; else its head is being collected. */
    for (; at < len; at++) {
        if (w->left == 0) {
            bool whole;

            g_byte_array_append(w->head, bytes + at, 1);
            whole = w->head->len >= 2 && w->head->len == head_length(w->head);
            if (whole && !take_head(w))
                goto broken;
            if (whole && w->left == 0 && w->opcode >= CLOSE && !end_control(w, reply))
                goto broken;
            continue;
        }
        g_byte_array_append(w->opcode >= CLOSE ? w->head : data,
                            &(uint8_t){bytes[at] ^ w->mask[w->mask_at++ & 3]}, 1);
        if (--w->left == 0 && w->opcode >= CLOSE && !end_control(w, reply))
            goto broken;
    }
    return true;
broken:
    w->closed = true;
    return false;
}
