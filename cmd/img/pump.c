#include "cmd/img/pump.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "cmd/img/pipe.h"
#include "lib/base/base.h"
#include "lib/loop/loop.h"

/*
 * What pipe.h runs: next takes one extent of the source, or a piece of one with data;
 * work reads it, looks for zeros, encodes it; put writes. So the costly work runs in
 * parallel and the target grows in order, the same from run to run.
 */

/* PIECE: the bytes of some pieces fit into a processor's cache. */
enum { PIECE = 512 * 1024, GRAIN = 4096 };

enum piece_kind { PIECE_DATA, PIECE_ZERO, PIECE_SKIP, PIECE_SHARE };

/* Of an extent that the target may share with the source, at a time. */
enum { SHARE_MOST = 256 * 1024 * 1024 };

struct pool {
    struct pump *p;
    uint64_t next;  /* where the next piece begins */
    uint64_t done;  /* bytes */
    uint64_t piece; /* most bytes of one with data: whole chunks */
    uint64_t chunk; /* of compression, or 0 */
    uint64_t room;  /* of an encoded chunk */
    uint64_t begun_ns;
    _Atomic bool share; /* the target may share extents, as far as we know */
    GMutex progress;    /* done and what is shown of it */
};

/* Encoded chunks of a piece, waiting for their turn: behind its bytes in memory. */
struct encoded {
    int64_t len; /* 0: stored plain; -1: zeros */
};

static const struct pump_source *source_at(const struct pump *p, uint64_t offset)
{
    for (unsigned i = 0; i < p->nb_sources; i++) {
        const struct pump_source *s = &p->sources[i];
        if (offset >= s->start && offset - s->start < s->len) {
            return s;
        }
    }
    return NULL;
}

int pump_status(const struct pump *p, uint64_t offset, uint64_t len,
                struct blk_status *ret)
{
    const struct pump_source *s = source_at(p, offset);
    if (!s) { /* the target is longer than the sources */
        uint64_t end = p->total;
        for (unsigned i = 0; i < p->nb_sources; i++) {
            if (p->sources[i].start > offset) {
                end = MIN(end, p->sources[i].start);
            }
        }
        *ret = (struct blk_status){.flags = BLK_STATUS_ZERO | BLK_STATUS_ALLOCATED,
                                   .len = MIN(len, end - offset)};
        return 0;
    }
    uint64_t in = offset - s->start;
    return blk_map_at(s->blk, s->from + in, MIN(len, s->len - in), ret);
}

/* ---- pieces
 * -------------------------------------------------------------------------- */

static enum piece_kind kind_of(const struct pool *pool, uint64_t offset,
                               const struct blk_status *s)
{
    const struct pump *p = pool->p;
    unsigned layers = p->layers ? p->layers : 1;
    bool ours = s->depth < layers && (s->flags & BLK_STATUS_ALLOCATED);
    if (!ours && (p->layers || (p->backing_len && offset < p->backing_len))) {
        return PIECE_SKIP;
    }
    if ((s->flags & BLK_STATUS_ZERO) && (p->sparse || p->layers)) {
        return PIECE_ZERO;
    }
    return atomic_load(&pool->share) && (s->flags & BLK_STATUS_OFFSET) &&
                   !(s->flags & BLK_STATUS_COMPRESSED)
               ? PIECE_SHARE
               : PIECE_DATA;
}

/* The kind at @offset, and how far it goes at most to @end. */
static int extent_at(struct pool *pool, uint64_t offset, uint64_t end,
                     enum piece_kind *ret_kind, uint64_t *ret_len)
{
    struct pump *p = pool->p;
    struct blk_status s;
    if (!p->sparse && !p->backing_len && !p->layers) {
        *ret_kind = PIECE_DATA; /* all is copied, holes too */
        *ret_len = end - offset;
        return 0;
    }
    int r = pump_status(p, offset, end - offset, &s);
    if (r < 0 && p->salvage) {
        *ret_kind = PIECE_DATA;
        *ret_len = MIN(end - offset, (uint64_t)65536);
        return 0;
    }
    if (r < 0) {
        return r;
    }
    *ret_kind = kind_of(pool, offset, &s);
    *ret_len = s.len;
    if (p->backing_len && offset < p->backing_len) {
        *ret_len = MIN(*ret_len, p->backing_len - offset);
    }
    return 0;
}

/* A piece that is not data, encoded: whole chunks, or one as data. */
static void fit_chunks(const struct pool *pool, uint64_t at, enum piece_kind *kind,
                       uint64_t *end)
{
    if (*kind != PIECE_DATA && pool->chunk && *end < pool->p->total) {
        *end = MAX(ALIGN_DOWN(*end, pool->chunk), at);
        if (*end == at) {
            *kind = PIECE_DATA;
            *end = MIN(pool->p->total, at + pool->chunk);
        }
    }
}

/* A piece ends at a multiple of pool->piece, so that chunks stay whole. */
static uint64_t piece_end(struct pool *pool, uint64_t end, uint64_t limit,
                          enum piece_kind *kind)
{
    uint64_t chunk = pool->chunk, len;
    /* Go on over what follows: reading tells what is zero in it. */
    while (end < limit && (*kind == PIECE_DATA || (chunk && end % chunk))) {
        enum piece_kind more;
        if (extent_at(pool, end, limit, &more, &len) < 0) {
            break;
        }
        if (more != *kind) {
            if (!chunk || (end % chunk == 0 && len >= chunk)) {
                break;
            }
            *kind = PIECE_DATA;
            len = MIN(len, chunk - end % chunk);
        }
        end += len;
    }
    return *kind == PIECE_DATA ? MIN(end, limit) : end;
}

static int pump_next(void *opaque, struct piece *ret)
{
    struct pool *pool = opaque;
    struct pump *p = pool->p;
    uint64_t at = pool->next, end, len;
    enum piece_kind kind;
    if (at >= p->total) {
        return PIPE_END;
    }
    ret->offset = at;
    int r = extent_at(pool, at, MIN(p->total, at + GIB), &kind, &len);
    if (r < 0) {
        return r;
    }
    end = at + len;
    if (kind == PIECE_DATA || (pool->chunk && end % pool->chunk)) {
        uint64_t limit = MIN(p->total, ALIGN_DOWN(at + pool->piece, pool->piece));
        end = piece_end(pool, end, limit, &kind);
    } else if (kind == PIECE_SHARE) {
        end = MIN(end, ALIGN_DOWN(at + SHARE_MOST, pool->piece));
    }
    fit_chunks(pool, at, &kind, &end);
    ret->kind = kind;
    ret->len = end - at;
    ret->no_work = kind != PIECE_DATA;
    pool->next = end;
    return 0;
}

static int read_piece(const struct pump *p, uint64_t offset, uint8_t *buf, uint64_t len)
{
    while (len > 0) {
        const struct pump_source *s = source_at(p, offset);
        uint64_t part = s ? MIN(len, s->len - (offset - s->start)) : 0;
        if (!s) {
            struct blk_status st;
            pump_status(p, offset, len, &st);
            part = st.len;
            memset(buf, 0, part);
        } else {
            int r = blk_pread(s->blk, s->from + (offset - s->start), buf, part);
            if (r < 0 && p->salvage) {
                for (uint64_t in = 0; in < part; in += 512) {
                    uint64_t n = MIN(part - in, (uint64_t)512);
                    uint64_t from = s->from + (offset - s->start) + in;
                    if (blk_pread(s->blk, from, buf + in, n) < 0) {
                        memset(buf + in, 0, n);
                    }
                }
            } else if (r < 0) {
                return r;
            }
        }
        offset += part;
        buf += part;
        len -= part;
    }
    return 0;
}

/* How far the first bytes of @buf are all zero, or all not, by GRAIN of the disk. */
static uint64_t run_of(const struct pump *p, uint64_t offset, const uint8_t *buf,
                       uint64_t len, bool *ret_zero)
{
    uint64_t at = 0, run_start = 0;
    bool zero = false;
    if (!p->sparse) {
        *ret_zero = false;
        return len;
    }
    while (at < len) {
        uint64_t n = MIN(len - at, GRAIN - (offset + at) % GRAIN);
        bool z = img_is_zero(buf + at, n);
        if (at == 0) {
            zero = z;
        } else if (z != zero) {
            if (zero && at - run_start < p->sparse) {
                zero = false; /* too short for a hole: data */
            } else if (!zero) {
                /* A hole only if it is long enough. */
                uint64_t hole = n;
                while (at + hole < len && hole < p->sparse) {
                    uint64_t m = MIN(len - at - hole, GRAIN);
                    if (!img_is_zero(buf + at + hole, m)) {
                        break;
                    }
                    hole += m;
                }
                if (hole >= p->sparse || at + hole == len) {
                    break;
                }
                n = hole;
            } else {
                break;
            }
        }
        at += n;
    }
    *ret_zero = zero;
    return at;
}

static int write_zeros(const struct pump *p, uint64_t offset, uint64_t len)
{
    if (p->target_is_zero && offset >= p->backing_len) {
        return 0;
    }
    return blk_run(p->target, BLK_ZERO, offset, NULL, 0, len, BLK_MAY_UNMAP);
}

static int write_plain(const struct pump *p, uint64_t offset, const uint8_t *buf,
                       uint64_t len)
{
    while (len > 0) {
        bool zero;
        uint64_t n = run_of(p, offset, buf, len, &zero);
        int r =
            zero ? write_zeros(p, offset, n) : blk_pwrite(p->target, offset, buf, n);
        if (r < 0) {
            return r;
        }
        offset += n;
        buf += n;
        len -= n;
    }
    return 0;
}

/* ---- compression
 * ------------------------------------------------------------------------ */

static struct encoded *encoded_of(const struct pool *pool, const struct piece *pc)
{
    return (struct encoded *)(void *)(pc->mem + pool->piece);
}

static uint64_t chunks_most(const struct pool *pool)
{
    return pool->piece / pool->chunk + 2;
}

static uint8_t *stored_at(const struct pool *pool, const struct piece *pc, uint64_t i)
{
    uint64_t heads = ALIGN_UP(chunks_most(pool) * sizeof(struct encoded), 64);
    return pc->mem + pool->piece + heads + i * pool->room;
}

static int encode_piece(const struct pool *pool, const struct piece *pc)
{
    struct encoded *out = encoded_of(pool, pc);
    for (uint64_t in = 0, i = 0; in < pc->len; in += pool->chunk, i++) {
        uint64_t n = MIN(pool->chunk, pc->len - in);
        if (pool->p->sparse && img_is_zero(pc->mem + in, n)) {
            out[i].len = -1;
            continue;
        }
        out[i].len =
            blk_encode(pool->p->target, pc->mem + in, n, stored_at(pool, pc, i));
        if (out[i].len < 0) {
            return (int)out[i].len;
        }
    }
    return 0;
}

static int write_encoded(const struct pool *pool, const struct piece *pc)
{
    const struct pump *p = pool->p;
    const struct encoded *e = encoded_of(pool, pc);
    for (uint64_t in = 0, i = 0; in < pc->len; in += pool->chunk, i++) {
        uint64_t n = MIN(pool->chunk, pc->len - in), at = pc->offset + in;
        int r = e[i].len < 0 ? write_zeros(p, at, n)
                : e[i].len   ? blk_write_encoded(p->target, at, stored_at(pool, pc, i),
                                                 (uint64_t)e[i].len)
                             : blk_pwrite(p->target, at, pc->mem + in, n);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

/* ---- extents shared with the source
 * -------------------------------------------------------------- */

static int copy_plain(struct pool *pool, const struct piece *pc)
{
    g_autofree uint8_t *buf = g_try_malloc(PIECE);
    int r = buf ? 0 : -ENOMEM;
    for (uint64_t in = 0; r == 0 && in < pc->len; in += PIECE) {
        uint64_t n = MIN(pc->len - in, (uint64_t)PIECE);
        r = read_piece(pool->p, pc->offset + in, buf, n);
        r = r ? r : write_plain(pool->p, pc->offset + in, buf, n);
    }
    return r;
}

/* Have the file system share it; what it cannot is copied, and not tried again. */
static int put_shared(struct pool *pool, const struct piece *pc)
{
    const struct pump *p = pool->p;
    const struct pump_source *s = source_at(p, pc->offset);
    struct piece rest = *pc;
    while (rest.len > 0) {
        uint64_t n;
        int r = blk_share(s->blk, s->from + (rest.offset - s->start), p->target,
                          rest.offset, rest.len, &n);
        if (r == -EAGAIN) { /* this bit only */
            struct piece edge = {.offset = rest.offset, .len = MIN(n, rest.len)};
            r = copy_plain(pool, &edge);
        } else if (r == -ENOTSUP) {
            atomic_store(&pool->share, false);
            return copy_plain(pool, &rest);
        }
        if (r < 0) {
            return r;
        }
        rest.offset += n;
        rest.len -= n;
    }
    return 0;
}

/* ---- threads
 * -------------------------------------------------------------------------------- */

/* No faster than the rate: sleep for what we are ahead. */
static void slow_down(const struct pool *pool, const struct piece *pc)
{
    if (!pool->p->rate) {
        return;
    }
    double due = (double)(pc->offset + pc->len) / (double)pool->p->rate;
    double spent = (double)(loop_now_ns() - pool->begun_ns) / 1e9;
    if (due > spent) {
        g_usleep((gulong)(MIN(due - spent, 1e9) * 1e6));
    }
}

static int pump_work(void *opaque, struct piece *pc)
{
    struct pool *pool = opaque;
    int r = read_piece(pool->p, pc->offset, pc->mem, pc->len);
    pc->result = r < 0; /* it was reading that failed */
    return r == 0 && pool->chunk ? encode_piece(pool, pc) : r;
}

static int put_piece(struct pool *pool, const struct piece *pc)
{
    switch ((enum piece_kind)pc->kind) {
    case PIECE_DATA:
        return pool->chunk ? write_encoded(pool, pc)
                           : write_plain(pool->p, pc->offset, pc->mem, pc->len);
    case PIECE_ZERO: return write_zeros(pool->p, pc->offset, pc->len);
    case PIECE_SHARE: return put_shared(pool, pc);
    default: return 0;
    }
}

static void show_progress(struct pool *pool, const struct piece *pc)
{
    g_mutex_lock(&pool->progress);
    pool->done += pc->len;
    if (pool->p->progress) {
        img_progress_at(pool->p->progress,
                        100.0 * (double)pool->done / (double)pool->p->total);
    }
    g_mutex_unlock(&pool->progress);
}

static int pump_put(void *opaque, struct piece *pc)
{
    struct pool *pool = opaque;
    int r = pc->error;
    const char *what = pc->unknown  ? "error while reading block status at offset"
                       : pc->result ? "error while reading at byte"
                                    : "error while writing at byte";
    if (r == 0) {
        r = put_piece(pool, pc);
        slow_down(pool, pc);
    }
    if (r < 0) {
        if (pool->p->failed) {
            pool->p->failed(pool->p, pc->offset, r);
        } else {
            img_error(pool->p->im, "%s %" PRIu64 ": %s", what, pc->offset,
                      g_strerror(-r));
        }
    }
    show_progress(pool, pc);
    return r;
}

/* Extents are shared where nothing says that the bytes must be moved. */
static bool may_share(const struct pump *p, const struct pool *pool)
{
    bool can = !pool->chunk && (p->sparse || p->layers) && !p->salvage && !p->rate;
    for (unsigned i = 0; can && i < p->nb_sources; i++) {
        can = blk_may_share(p->sources[i].blk, p->target);
    }
    return can;
}

int pump_run(struct pump *p)
{
    struct pool pool = {.p = p, .begun_ns = loop_now_ns()};
    pool.chunk = p->compress ? blk_chunk(p->target) : 0;
    pool.room = pool.chunk ? blk_chunk_room(p->target) : 0;
    atomic_store(&pool.share, may_share(p, &pool));
    g_mutex_init(&pool.progress);
    pool.piece = MAX((uint64_t)PIECE, pool.chunk);
    size_t mem = pool.piece;
    if (pool.chunk) {
        uint64_t chunks = chunks_most(&pool);
        mem += ALIGN_UP(chunks * sizeof(struct encoded), 64) + chunks * pool.room;
    }
    struct pipe pipe = {
        .threads = p->threads,
        .any_order = p->any_order || (blk_is_flat(p->target) && !p->rate),
        .mem_bytes = mem,
        .next = pump_next,
        .work = pump_work,
        .put = pump_put,
        .opaque = &pool,
    };
    int r = pipe_run(&pipe);
    g_mutex_clear(&pool.progress);
    if (r == -ENOMEM && pool.done == 0) {
        img_error(p->im, "%s", g_strerror(ENOMEM));
    }
    return r;
}
