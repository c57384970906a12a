#ifndef VMM_DISPLAY_WS_H
#define VMM_DISPLAY_WS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <glib.h>

/*
 * The server's side of a WebSocket connection, bytes in, bytes out. Spec: RFC 6455.
 */

struct ws;

struct ws *ws_new(void);
void ws_free(struct ws *w); /* NULL is fine */

/*
 * Bytes came: what they say for the application is appended to @data, what is to be
 * answered (the handshake, pongs, close) to @reply. False: the connection is over, or
 * the peer broke the protocol: close when @reply was sent.
 */
bool ws_feed(struct ws *w, const uint8_t *bytes, size_t len, GByteArray *data,
             GByteArray *reply);

/* Whether the handshake is over: nothing may be sent before. */
bool ws_is_open(const struct ws *w);

/* The head of a binary message of @len bytes, appended to @out. */
void ws_put_head(GByteArray *out, size_t len);

#endif
