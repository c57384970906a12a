#include "block/nbd/priv.h"

#include <stdarg.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"

/*
 * The fixed newstyle handshake. We greet:
 *
 *     "NBDMAGIC" "IHAVEOPT" u16 flags                  and the client: u32 flags
 *
 * then the client sends options, each answered by one or more replies, until one of
 * them starts the transmission (EXPORT_NAME, GO) or ends it all (ABORT):
 *
 *     "IHAVEOPT" u32 option u32 length data...
 *     u64 reply magic, u32 option, u32 type, u32 length, data...
 *
 * What is wrong with an option is an answer; what is wrong with the framing ends the
 * connection.
 */

/* ---- replies ------------------------------------------------------------------------
 */

static void reply(struct nbd_conn *c, uint32_t opt, uint32_t type, const void *data,
                  size_t len)
{
    g_autofree uint8_t *m = g_malloc(20 + len);
    be64_put(m, NBD_REP_MAGIC);
    be32_put(m + 8, opt);
    be32_put(m + 12, type);
    be32_put(m + 16, (uint32_t)len);
    if (len) {
        memcpy(m + 20, data, len);
    }
    nbd_conn_send(c, m, 20 + len);
}

static void reply_ack(struct nbd_conn *c, uint32_t opt)
{
    reply(c, opt, NBD_REP_ACK, NULL, 0);
}

static bool reply_error(struct nbd_conn *c, uint32_t opt, uint32_t type,
                        const char *fmt, ...) G_GNUC_PRINTF(4, 5);

/* Returns true: the connection goes on. */
static bool reply_error(struct nbd_conn *c, uint32_t opt, uint32_t type,
                        const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    reply(c, opt, type, text, MIN(strlen(text), (size_t)NBD_MAX_STRING));
    return true;
}

static const char *option_name(uint32_t opt)
{
    switch (opt) {
#define NBD_OPTION_NAME(id, number, text) \
    case NBD_OPT_##id: return text;
        NBD_OPTIONS(NBD_OPTION_NAME)
    default: return "<unknown>";
    }
}

void nbd_handshake_greet(struct nbd_conn *c)
{
    uint8_t m[18];
    be64_put(m, NBD_MAGIC);
    be64_put(m + 8, NBD_OPTS_MAGIC);
    be16_put(m + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    nbd_conn_send(c, m, sizeof(m));
}

/* ---- one option's data, read from the front
 * -------------------------------------------- */

struct option {
    uint32_t opt;
    const uint8_t *data;
    size_t len;
};

static bool take_u32(struct option *o, uint32_t *ret)
{
    if (o->len < 4) {
        return false;
    }
    *ret = be32_get(o->data);
    o->data += 4;
    o->len -= 4;
    return true;
}

static bool take_u16(struct option *o, uint16_t *ret)
{
    if (o->len < 2) {
        return false;
    }
    *ret = be16_get(o->data);
    o->data += 2;
    o->len -= 2;
    return true;
}

/* A length and as many bytes. */
static bool take_string(struct option *o, const char **ret, uint32_t *ret_len)
{
    if (!take_u32(o, ret_len) || *ret_len > o->len || *ret_len > NBD_MAX_STRING) {
        return false;
    }
    *ret = (const char *)o->data;
    o->data += *ret_len;
    o->len -= *ret_len;
    return true;
}

static bool malformed(struct nbd_conn *c, const struct option *o)
{
    return reply_error(c, o->opt, NBD_REP_ERR_INVALID, "option '%s' is malformed",
                       option_name(o->opt));
}

/* ---- choosing an export
 * ------------------------------------------------------------------
 */

static uint16_t export_flags(const struct nbd_conn *c, const struct nbd_export *e)
{
    return e->flags | (c->structured ? NBD_FLAG_SEND_DF : 0);
}

static void start_transmission(struct nbd_conn *c, struct nbd_export *e)
{
    if (c->meta_export != e) {
        g_array_set_size(c->contexts, 0);
    }
    c->export = e;
    c->phase = NBD_TRANSMISSION;
    c->negotiated = true;
    loop_timer_clear(&c->timer);
}

static bool do_export_name(struct nbd_conn *c, struct option *o)
{
    struct nbd_export *e = o->len <= NBD_MAX_STRING
                               ? nbd_export_find(c->srv, (const char *)o->data, o->len)
                               : NULL;
    if (!e) {
        return nbd_conn_fail(c,
                             "export not found"); /* this option has no answer for it */
    }
    uint8_t m[10 + 124] = {0};
    be64_put(m, e->size);
    be16_put(m + 8, export_flags(c, e));
    nbd_conn_send(c, m, c->no_zeroes ? 10 : sizeof(m));
    start_transmission(c, e);
    return true;
}

static void send_info(struct nbd_conn *c, uint32_t opt, uint16_t info, const void *data,
                      size_t len)
{
    g_autofree uint8_t *m = g_malloc(2 + len);
    be16_put(m, info);
    memcpy(m + 2, data, len);
    reply(c, opt, NBD_REP_INFO, m, 2 + len);
}

static void send_infos(struct nbd_conn *c, uint32_t opt, const struct nbd_export *e,
                       const bool *wanted)
{
    uint8_t m[12];
    if (wanted[NBD_INFO_NAME]) {
        send_info(c, opt, NBD_INFO_NAME, e->name, strlen(e->name));
    }
    if (wanted[NBD_INFO_DESCRIPTION] && e->description) {
        send_info(c, opt, NBD_INFO_DESCRIPTION, e->description, strlen(e->description));
    }
    /* We take requests of any alignment; who asks learns what is quick. */
    uint32_t align = e->min_block;
    bool tell = opt == NBD_OPT_INFO || wanted[NBD_INFO_BLOCK_SIZE];
    be32_put(m, tell ? align : 1);
    be32_put(m + 4, MAX(4096u, align));
    be32_put(m + 8, NBD_LEN_MAX);
    send_info(c, opt, NBD_INFO_BLOCK_SIZE, m, 12);
    be64_put(m, e->size);
    be16_put(m + 8, export_flags(c, e));
    send_info(c, opt, NBD_INFO_EXPORT, m, 10);
}

static bool do_info(struct nbd_conn *c, struct option *o)
{
    const char *name;
    uint32_t name_len;
    uint16_t nb, info;
    bool wanted[4] = {0};
    struct option rest = *o;
    if (!take_string(&rest, &name, &name_len) || !take_u16(&rest, &nb) ||
        rest.len != nb * 2u) {
        return malformed(c, o);
    }
    while (take_u16(&rest, &info)) {
        if (info < ARRAY_LEN(wanted)) {
            wanted[info] = true;
        }
    }
    struct nbd_export *e = nbd_export_find(c->srv, name, name_len);
    if (!e) {
        return reply_error(c, o->opt, NBD_REP_ERR_UNKNOWN, "export '%.*s' not present",
                           (int)MIN(name_len, 80u), name);
    }
    send_infos(c, o->opt, e, wanted);
    reply_ack(c, o->opt);
    if (o->opt == NBD_OPT_GO) {
        start_transmission(c, e);
    }
    return true;
}

static bool do_list(struct nbd_conn *c, struct option *o)
{
    if (o->len) {
        return malformed(c, o);
    }
    for (unsigned i = 0; i < c->srv->exports->len; i++) {
        const struct nbd_export *e = c->srv->exports->pdata[i];
        const char *about = e->description ? e->description : "";
        size_t name = strlen(e->name), text = strlen(about);
        g_autofree uint8_t *m = g_malloc(4 + name + text);
        be32_put(m, (uint32_t)name);
        memcpy(m + 4, e->name, name);
        memcpy(m + 4 + name, about, text);
        reply(c, o->opt, NBD_REP_SERVER, m, 4 + name + text);
    }
    reply_ack(c, o->opt);
    return true;
}

/* ---- metadata contexts
 * --------------------------------------------------------------------
 */

/* Whether @query, as LIST or SET has it, means the context @name. A namespace with a
 * colon and nothing behind it stands for all that is in it, but only in a list. */
static bool query_means(const char *query, uint32_t len, const char *name, bool list)
{
    size_t n = strlen(name);
    if (n == len && memcmp(name, query, len) == 0) {
        return true;
    }
    return list && len > 0 && len < n && query[len - 1] == ':' &&
           memcmp(name, query, len) == 0;
}

static void send_context(struct nbd_conn *c, const struct option *o, unsigned id,
                         const char *name)
{
    size_t len = strlen(name);
    g_autofree uint8_t *m = g_malloc(4 + len);
    be32_put(m, o->opt == NBD_OPT_SET_META_CONTEXT ? id : 0);
    memcpy(m + 4, name, len);
    reply(c, o->opt, NBD_REP_META_CONTEXT, m, 4 + len);
}

/* Whether all queries are whole; marks in @hit what they mean. */
static bool read_queries(struct option *rest, uint32_t nb, const struct nbd_export *e,
                         bool list, bool *hit)
{
    for (uint32_t q = 0; q < nb; q++) {
        const char *query;
        uint32_t len;
        if (!take_string(rest, &query, &len)) {
            return false;
        }
        for (unsigned i = 0; i < e->contexts->len; i++) {
            const struct nbd_context *x =
                &g_array_index(e->contexts, struct nbd_context, i);
            hit[i] |= query_means(query, len, x->name, list);
        }
    }
    return rest->len == 0;
}

static bool do_meta_context(struct nbd_conn *c, struct option *o)
{
    bool list = o->opt == NBD_OPT_LIST_META_CONTEXT;
    const char *name;
    uint32_t name_len, nb;
    struct option rest = *o;
    if (!c->structured) {
        return reply_error(
            c, o->opt, NBD_REP_ERR_INVALID,
            "request option '%s' when structured reply is not negotiated",
            option_name(o->opt));
    }
    if (!list) {
        g_array_set_size(c->contexts, 0);
        c->meta_export = NULL;
    }
    if (!take_string(&rest, &name, &name_len) || !take_u32(&rest, &nb)) {
        return malformed(c, o);
    }
    struct nbd_export *e = nbd_export_find(c->srv, name, name_len);
    if (!e) {
        return reply_error(c, o->opt, NBD_REP_ERR_UNKNOWN, "export '%.*s' not present",
                           (int)MIN(name_len, 80u), name);
    }
    g_autofree bool *hit = g_new0(bool, e->contexts->len);
    if (!read_queries(&rest, nb, e, list, hit)) {
        return malformed(c, o);
    }
    for (unsigned i = 0; i < e->contexts->len; i++) {
        const struct nbd_context *x =
            &g_array_index(e->contexts, struct nbd_context, i);
        if (hit[i] || (list && nb == 0)) {
            send_context(c, o, i, x->name);
            if (!list) {
                g_array_append_val(c->contexts, i);
            }
        }
    }
    if (!list) {
        c->meta_export = e;
    }
    reply_ack(c, o->opt);
    return true;
}

/* ---- the others
 * ----------------------------------------------------------------------------
 */

static bool do_structured(struct nbd_conn *c, struct option *o)
{
    if (o->len) {
        return malformed(c, o);
    }
    if (c->structured) {
        return reply_error(c, o->opt, NBD_REP_ERR_INVALID,
                           "structured reply already negotiated");
    }
    c->structured = true;
    reply_ack(c, o->opt);
    return true;
}

static bool do_starttls(struct nbd_conn *c, struct option *o)
{
    if (o->len) {
        return malformed(c, o);
    }
    if (c->ssl) {
        return reply_error(c, o->opt, NBD_REP_ERR_INVALID, "TLS already enabled");
    }
    if (!c->srv->opts.tls) {
        return reply_error(c, o->opt, NBD_REP_ERR_POLICY, "TLS not configured");
    }
    if (nbd_conn_have(c) > 0) {
        /* Sent in the clear, it would be taken for what TLS protects. */
        return nbd_conn_fail(c, "bytes behind STARTTLS that are not encrypted");
    }
    reply_ack(c, o->opt);
    c->phase = NBD_IN_TLS;
    c->structured = false;
    c->meta_export = NULL;
    g_array_set_size(c->contexts, 0);
    return true;
}

static bool do_abort(struct nbd_conn *c, struct option *o)
{
    reply_ack(c, o->opt);
    nbd_conn_end(c);
    return false;
}

static bool dispatch(struct nbd_conn *c, struct option *o)
{
    bool need_tls = c->srv->opts.tls && !c->ssl;
    if (need_tls && o->opt != NBD_OPT_STARTTLS && o->opt != NBD_OPT_ABORT) {
        if (o->opt == NBD_OPT_EXPORT_NAME || !c->fixed) {
            return nbd_conn_fail(c, "Option 0x%x not permitted before TLS", o->opt);
        }
        return reply_error(c, o->opt, NBD_REP_ERR_TLS_REQD,
                           "Option 0x%x not permitted before TLS", o->opt);
    }
    if (!c->fixed && o->opt != NBD_OPT_EXPORT_NAME) {
        return nbd_conn_fail(c, "Unsupported option 0x%x (%s)", o->opt,
                             option_name(o->opt));
    }
    switch (o->opt) {
    case NBD_OPT_EXPORT_NAME: return do_export_name(c, o);
    case NBD_OPT_ABORT: return do_abort(c, o);
    case NBD_OPT_LIST: return do_list(c, o);
    case NBD_OPT_STARTTLS: return do_starttls(c, o);
    case NBD_OPT_INFO:
    case NBD_OPT_GO: return do_info(c, o);
    case NBD_OPT_STRUCTURED_REPLY: return do_structured(c, o);
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT: return do_meta_context(c, o);
    default:
        return reply_error(c, o->opt, NBD_REP_ERR_UNSUP, "Unsupported option %u (%s)",
                           o->opt, option_name(o->opt));
    }
}

static bool take_client_flags(struct nbd_conn *c)
{
    if (nbd_conn_have(c) < 4) {
        return false;
    }
    uint32_t flags = be32_get(c->in + c->in_pos);
    c->in_pos += 4;
    if (flags & ~(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)) {
        return nbd_conn_fail(c, "Unknown client flags 0x%x received", flags);
    }
    c->fixed = flags & NBD_FLAG_C_FIXED_NEWSTYLE;
    c->no_zeroes = flags & NBD_FLAG_C_NO_ZEROES;
    c->phase = NBD_IN_OPTIONS;
    return true;
}

bool nbd_handshake_step(struct nbd_conn *c)
{
    if (c->phase == NBD_CLIENT_FLAGS) {
        return take_client_flags(c);
    }
    if (nbd_conn_have(c) < 16) {
        return false;
    }
    const uint8_t *m = c->in + c->in_pos;
    struct option o = {be32_get(m + 8), m + 16, be32_get(m + 12)};
    if (be64_get(m) != NBD_OPTS_MAGIC) {
        return nbd_conn_fail(c, "Bad magic received");
    }
    if (o.len > NBD_OPTION_MAX) {
        c->in_pos += 16;
        c->skip = o.len;
        if (o.opt == NBD_OPT_EXPORT_NAME) {
            return nbd_conn_fail(c, "Bad length received");
        }
        return reply_error(c, o.opt, NBD_REP_ERR_TOO_BIG, "option '%s' is too long",
                           option_name(o.opt));
    }
    if (nbd_conn_have(c) < 16 + o.len) {
        return false;
    }
    c->in_pos += 16 + o.len; /* the bytes stay where they are until we return */
    return dispatch(c, &o);
}
