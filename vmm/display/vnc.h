#ifndef VMM_DISPLAY_VNC_H
#define VMM_DISPLAY_VNC_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

struct display;
struct vnc;

/*
 * A VNC server: sockets for viewers of a display (vmm/display/rfb.h has the protocol).
 * One for viewers, one more for browsers (WebSocket, vmm/display/ws.h).
 *
 * A viewer that does nothing, sends half of something, or takes nothing, costs a socket
 * and a bounded piece of memory; one that is not through the handshake after 30 seconds
 * is gone. Wrong passwords from one address make it wait, longer each time.
 */

enum vnc_share {
    VNC_SHARE_ALLOW_EXCLUSIVE, /* a viewer that wants to be alone sends others away */
    VNC_SHARE_FORCE_SHARED,    /* such a viewer is refused */
    VNC_SHARE_IGNORE,          /* what it wants does not matter */
};

struct vnc_config {
    const char *name;      /* of the desktop */
    const char *host;      /* address or name; NULL: all */
    uint16_t port;         /* 0: see unix_path */
    uint16_t port_last;    /* the first of port .. port_last that is free */
    const char *unix_path; /* NULL: TCP */
    const char *websocket_host;
    uint16_t websocket;   /* port; 0: none */
    const char *password; /* NULL: anybody may */
    enum vnc_share share;
};

/* Viewers may connect; they are served when the display runs. @c and what it points to
 * is copied. NULL with @error. Thread: main, these two, while the display has no
 * thread. */
struct vnc *vnc_new(struct display *d, const struct vnc_config *c, GError **error);
void vnc_free(struct vnc *v); /* NULL is fine */

/* The port that was taken; 0 for a path. */
uint16_t vnc_port(const struct vnc *v);

#endif
