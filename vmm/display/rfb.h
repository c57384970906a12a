#ifndef VMM_DISPLAY_RFB_H
#define VMM_DISPLAY_RFB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <glib.h>

struct display;
struct rfb;

/*
 * The remote framebuffer protocol, one viewer's side of it: bytes in, bytes out, no
 * sockets. Spec: RFC 6143, and the community's "The RFB Protocol" for what came after.
 *
 *   versions   3.3, 3.7, 3.8
 *   security   none, VNC password (DES)
 *   encodings  raw, hextile, zrle, tight with JPEG; cursor, desktop size and its
 *              extended form, fences, continuous updates, QEMU's extended key events,
 *              relative pointer and lamps
 *
 * Its memory is bounded: what the viewer sends is taken message by message, and a new
 * picture is made only when everything before it was sent.
 *
 * Thread: the display's.
 */

struct rfb_host {
    struct display *display;
    const char *name;     /* of the desktop */
    const char *password; /* NULL: anybody may; its first 8 bytes count */
    /* Why this viewer may not even try; NULL: it may. */
    const char *(*refuse)(void *opaque);
    void (*ready)(void *opaque);                  /* there is something to send */
    void (*authenticated)(void *opaque, bool ok); /* of a password */
    void (*exclusive)(void *opaque); /* it does not want to share the screen */
    void *opaque;
};

/* @host is copied, its strings are borrowed. It has something to send at once. */
struct rfb *rfb_new(const struct rfb_host *host);
void rfb_free(struct rfb *r); /* NULL is fine */

/* The viewer sent this. False: it broke the protocol, or is refused: close when what is
 * left to send has been sent. */
bool rfb_feed(struct rfb *r, const uint8_t *bytes, size_t len);

/* What is to be sent: the number of bytes at *ret; and that @n of them were. sent() may
 * make more to send. */
size_t rfb_pending(struct rfb *r, const uint8_t **ret);
void rfb_sent(struct rfb *r, size_t n);

/* Whether the handshake is over. */
bool rfb_is_open(const struct rfb *r);

#endif
