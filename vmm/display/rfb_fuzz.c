#include <string.h>

#include "vmm/display/console.h"
#include "vmm/display/rfb.h"
#include "vmm/display/ws.h"

/*
 * A hostile viewer: the input is what it sends, in pieces whose lengths are its own
 * bytes. The first byte says whether through a WebSocket, and whether the handshake of
 * the protocol comes before it.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { W = 200, H = 90 };

static void refresh(void *opaque, struct console *c)
{
    uint32_t row[W];
    unsigned *n = opaque;

    console_resize(c, W, H);
    for (unsigned y = 0; y < H; y++) {
        for (unsigned x = 0; x < W; x++)
            row[x] = (x / 3 * y + *n) * (y % 7 ? 1 : 0x010305);
        console_put_row(c, y, row);
    }
    ++*n;
}

static const struct console_ops ops = {.refresh = refresh};

static void drain(struct rfb *r)
{
    const uint8_t *p;
    size_t n;

    for (unsigned i = 0; i < 4 && (n = rfb_pending(r, &p)) > 0; i++)
        rfb_sent(r, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GByteArray) plain = g_byte_array_new(), reply = g_byte_array_new();
    struct display *d = display_new(NULL);
    unsigned n = 0, flags = size ? data[0] : 0;
    struct console *c = console_new(d, "c", &ops, &n);
    struct rfb_host host = {
        .display = d, .name = "fuzz", .password = flags & 4 ? "secret" : NULL};
    struct rfb *r = rfb_new(&host);
    struct ws *w = flags & 1 ? ws_new() : NULL;
    bool ok = true;

    if (flags & 2)
        ok = rfb_feed(r, (const uint8_t *)"RFB 003.008\n\1\1", 14);
    drain(r);
    for (size_t at = 1; ok && at < size;) {
        size_t len = MIN((size_t)data[at] + 1, size - at - 1);

        at++;
        if (w) {
            g_byte_array_set_size(plain, 0);
            g_byte_array_set_size(reply, 0);
            ok = ws_feed(w, data + at, len, plain, reply) &&
                 rfb_feed(r, plain->data, plain->len);
        } else {
            ok = rfb_feed(r, data + at, len);
        }
        at += len;
        if (at % 3)
            drain(r);
        console_refresh(c);
    }
    rfb_free(r);
    ws_free(w);
    console_free(c);
    display_free(d);
    return 0;
}
