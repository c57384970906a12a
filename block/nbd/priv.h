#ifndef BLOCK_NBD_PRIV_H
#define BLOCK_NBD_PRIV_H

#include <sys/uio.h>

#include "block/blk.h"
#include "block/nbd/proto.h"
#include "block/nbd/server.h"

/*
 * Inside the server.
 *
 *   server.c     exports, listeners, connections coming and going
 *   conn.c       bytes in and out of one connection, TLS or not
 *   handshake.c  options, until a client has chosen its export
 *   request.c    commands and replies
 *   status.c     metadata contexts: what is allocated, zero, dirty
 *
 * A connection reads into a buffer, whose bytes go to a parser by phase; the parser
 * takes whole messages and leaves the rest. Replies are a queue of scattered buffers
 * that is sent as the socket takes it. A request owns its memory from the moment it is
 * read until its reply is sent, and all of that counts against the limits below: at
 * a limit the connection is not read from, so that a client is slowed by itself.
 */

enum {
    NBD_IN_BYTES = 64 * 1024,          /* buffer of a connection, and so the longest
                                          message of the handshake                   */
    NBD_OPTION_MAX = 32 * 1024,        /* data of one option                         */
    NBD_REQUESTS_MAX = 128,            /* in flight on one connection                */
    NBD_LEN_MAX = 32 * 1024 * 1024,    /* bytes of one read or write                 */
    NBD_CONN_BYTES = 64 * 1024 * 1024, /* in flight on a connection, before one more */
    NBD_TOTAL_BYTES = 256 * 1024 * 1024, /* of all; beyond, each still gets one       */
};

typedef struct ssl_st SSL;

/* ---- exports ------------------------------------------------------------------------
 */

enum nbd_context_kind { NBD_CTX_ALLOCATION, NBD_CTX_DEPTH, NBD_CTX_BITMAP };

/* Its number on the wire is its place in the export's array. */
struct nbd_context {
    char *name; /* "base:allocation"... */
    enum nbd_context_kind kind;
    struct blk *blk; /* BITMAP: the node that has it; borrowed from the export's tree */
    const char *bitmap;
};

struct nbd_export {
    char *name, *description;
    struct blk *blk;
    uint64_t offset, size;
    uint32_t min_block;
    uint16_t flags;
    GArray *contexts; /* of struct nbd_context */
};

/* Or NULL. @name need not end with a 0. */
struct nbd_export *nbd_export_find(const struct nbd_server *s, const char *name,
                                   size_t len);

struct nbd_server {
    struct nbd_server_opts opts;
    GPtrArray *exports;   /* of struct nbd_export */
    GPtrArray *listeners; /* of struct nbd_listener */
    struct nbd_conn *conns;
    unsigned nb_conns;
    uint64_t bytes;      /* in flight on all connections */
    unsigned nb_starved; /* connections that wait for bytes to go down */
    unsigned nb_alive;   /* connections whose memory is still there */
};

/* ---- connections
 * ---------------------------------------------------------------------
 */

enum nbd_phase {
    NBD_CLIENT_FLAGS, /* our greeting is sent */
    NBD_IN_OPTIONS,
    NBD_IN_TLS, /* STARTTLS was granted, the TLS handshake runs */
    NBD_TRANSMISSION,
    NBD_CLOSED,
};

/* Bytes to send. Its owner gets done() when they are sent or never will be. */
struct nbd_out {
    struct nbd_out *next;
    const struct iovec *iov;
    unsigned nb_iov;
    unsigned at;    /* first that is not sent at all or in part */
    size_t at_sent; /* bytes of it that are */
    void (*done)(struct nbd_out *out);
};

struct nbd_req;

struct nbd_conn {
    struct nbd_server *srv;
    struct nbd_conn *prev, *next;
    unsigned refs; /* the socket, each request, each function on the stack */

    int fd;
    struct loop_fd *watch;
    unsigned events;
    SSL *ssl; /* NULL: plain */
    bool ssl_wants_write;
    char *peer; /* TLS: who it is; or NULL */

    struct loop_bh bh; /* send what is queued, read on */
    struct loop_timer timer;

    enum nbd_phase phase;
    bool no_zeroes, fixed, structured;
    bool negotiated; /* an export was chosen */
    bool ended;      /* nothing more will be read: finish, then close */
    bool paused;     /* not read from, because of a limit */
    bool starved;    /* that of all connections */

    struct nbd_export *export;      /* TRANSMISSION */
    struct nbd_export *meta_export; /* whose contexts are chosen */
    GArray *contexts;               /* of unsigned: those chosen */

    uint64_t skip;            /* bytes to throw away */
    struct nbd_req *refused;  /* the write they belong to, to be answered then */
    struct nbd_req *incoming; /* the write whose data is being read */
    size_t incoming_got;

    struct nbd_out *out_first, **out_last;
    unsigned unflushed; /* queued since the last attempt to send */

    struct nbd_req *reqs_free; /* kept for reuse */
    unsigned nb_reqs_free;
    unsigned nb_reqs;    /* from being read to being sent */
    unsigned nb_working; /* of these, not yet answered */
    uint64_t bytes;      /* that they own */

    size_t in_pos, in_len;
    uint8_t in[NBD_IN_BYTES];
};

/* server.c: a connection was closed. */
void nbd_server_closed(struct nbd_server *s, bool negotiated);

/* conn.c */
struct nbd_conn *nbd_conn_new(struct nbd_server *s, int fd);
void nbd_conn_ref(struct nbd_conn *c);
void nbd_conn_unref(struct nbd_conn *c);
/* At once; requests in flight end unanswered. */
void nbd_conn_close(struct nbd_conn *c);
/* No more is read; closed when all is answered. */
void nbd_conn_end(struct nbd_conn *c);
/* What the client did wrong, to whom it may concern; then close. Returns false. */
bool nbd_conn_fail(struct nbd_conn *c, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
void nbd_conn_queue(struct nbd_conn *c, struct nbd_out *out);
/* A copy of bytes. */
void nbd_conn_send(struct nbd_conn *c, const void *bytes, size_t len);
/* Send as much as goes. */
void nbd_conn_flush(struct nbd_conn *c);
/* A request is gone: perhaps there is room to read on. */
void nbd_conn_relax(struct nbd_conn *c);
bool nbd_conn_may_read(const struct nbd_conn *c);

/* Unparsed input. */
static inline size_t nbd_conn_have(const struct nbd_conn *c)
{
    return c->in_len - c->in_pos;
}

/* handshake.c: take one message of the buffer; false when there is none, or no more. */
bool nbd_handshake_step(struct nbd_conn *c);
void nbd_handshake_greet(struct nbd_conn *c);

/* request.c */
bool nbd_request_step(struct nbd_conn *c);
/* All data of c->incoming is there. */
void nbd_request_write(struct nbd_conn *c);
/* All data of c->refused is gone. */
void nbd_request_refuse(struct nbd_conn *c);
void nbd_conn_free_requests(struct nbd_conn *c);

/* ---- requests
 * ------------------------------------------------------------------------
 */

struct nbd_extent {
    uint32_t len;
    uint32_t flags;
};

/* The answers for one context. */
struct nbd_answer {
    unsigned context;
    GArray *extents; /* of struct nbd_extent */
};

struct nbd_req {
    struct nbd_conn *conn;
    struct nbd_req *next_free;
    uint64_t cookie, offset; /* offset within the export */
    uint32_t len;
    uint16_t type, flags;
    uint64_t charged; /* bytes counted against the limits */

    uint8_t *buf; /* data read or to be written */
    size_t buf_room;

    struct blk_req blk;
    struct iovec data; /* for blk */

    struct loop_work work; /* BLOCK_STATUS */
    GArray *answers;       /* of struct nbd_answer */
    unsigned *contexts;    /* asked for; owned */
    unsigned nb_contexts;
    int ret;
    char *why; /* refused: the text for the client */

    struct nbd_out out;
    struct iovec iov[2]; /* most replies need no more */
    struct iovec *iovs;  /* else these */
    uint8_t *heads;      /* chunk headers that iovs point to */
    uint8_t head[64];
};

/* status.c, any thread: fill r->answers for the range. 0 or -errno. */
int nbd_status_query(struct nbd_req *r);
/* Put them into a reply: r->iovs and r->heads. The number of iovecs. */
unsigned nbd_status_reply(struct nbd_req *r);
void nbd_status_free(struct nbd_req *r);

/* Write the header of a chunk, 20 bytes. */
void nbd_put_chunk(uint8_t *p, unsigned flags, unsigned type, uint64_t cookie,
                   uint32_t len);

/* tls.c */
SSL *nbd_tls_session(const struct nbd_tls *t, int fd);
void nbd_tls_session_free(SSL *ssl);
/* Once the handshake is done: who the client is (the caller's; "" for nobody), and
 * whether it may come in. */
char *nbd_tls_peer(const struct nbd_tls *t, SSL *ssl);
bool nbd_tls_authorized(const struct nbd_tls *t, const char *peer);

#endif
