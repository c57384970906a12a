#include "cmd/img/pump.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/base.h"
#include "lib/loop/loop.h"

/*
 * Each thread: take the next piece (under the lock: one extent of the source, at most
 * PIECE bytes), read it, look for zeros, encode it; wait until all earlier pieces are
 * written; write; let the next one go. So the costly work runs in parallel and the
 * target grows in order, the same from run to run.
 */

enum { PIECE = 2 * 1024 * 1024, GRAIN = 4096 };

enum piece_kind { PIECE_DATA, PIECE_ZERO, PIECE_BACKING };

struct pool {
    struct pump *p;
    pthread_mutex_t lock;
    pthread_cond_t turn;
    uint64_t next;   /* where the next piece begins */
    uint64_t ticket; /* of the next piece */
    uint64_t served; /* pieces written: whose turn it is */
    uint64_t done;   /* bytes */
    uint64_t chunk;  /* of compression, or 0 */
    uint64_t begun_ns;
    int ret;
};

struct piece {
    enum piece_kind kind;
    uint64_t offset, len, ticket;
};

/* Encoded chunks of a piece, waiting for their turn. */
struct encoded {
    int64_t len; /* 0: stored plain; -1: zeros */
    uint8_t *data;
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
    return blk_map_at(s->blk, in, MIN(len, s->len - in), ret);
}

/* ---- pieces
 * -------------------------------------------------------------------------- */

static enum piece_kind kind_of(const struct pump *p, uint64_t offset,
                               const struct blk_status *s)
{
    bool ours = s->depth == 0 && (s->flags & BLK_STATUS_ALLOCATED);
    if (p->backing_len && offset < p->backing_len && !ours) {
        return PIECE_BACKING;
    }
    return (s->flags & BLK_STATUS_ZERO) && p->sparse ? PIECE_ZERO : PIECE_DATA;
}

/* The kind at @offset, and how far it goes at most to @end. */
static int extent_at(struct pool *pool, uint64_t offset, uint64_t end,
                     enum piece_kind *ret_kind, uint64_t *ret_len)
{
    struct pump *p = pool->p;
    struct blk_status s;
    if (!p->sparse && !p->backing_len) {
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
    *ret_kind = kind_of(p, offset, &s);
    *ret_len = s.len;
    if (p->backing_len && offset < p->backing_len) {
        *ret_len = MIN(*ret_len, p->backing_len - offset);
    }
    return 0;
}

/* Under the lock. A piece ends at a multiple of PIECE, so that chunks stay whole. */
static int next_piece(struct pool *pool, struct piece *ret)
{
    struct pump *p = pool->p;
    uint64_t at = pool->next, end, len;
    enum piece_kind kind;
    int r = extent_at(pool, at, MIN(p->total, at + GIB), &kind, &len);
    if (r < 0) {
        img_error(p->im, "error while reading block status at offset %" PRIu64 ": %s",
                  at, g_strerror(-r));
        return r;
    }
    end = at + len;
    if (kind == PIECE_DATA || pool->chunk) {
        uint64_t limit = MIN(p->total, ALIGN_DOWN(at + PIECE, (uint64_t)PIECE));
        if (kind == PIECE_DATA || end % pool->chunk) {
            /* Go on over what follows: reading tells what is zero in it. */
            while (end < limit &&
                   (kind == PIECE_DATA || (pool->chunk && end % pool->chunk))) {
                enum piece_kind more;
                if (extent_at(pool, end, limit, &more, &len) < 0) {
                    break;
                }
                if (more != kind && !pool->chunk) {
                    break;
                }
                if (more != kind && end % pool->chunk == 0 && len >= pool->chunk) {
                    break;
                }
                if (more != kind) {
                    kind = PIECE_DATA;
                    len = MIN(len, pool->chunk - end % pool->chunk);
                }
                end += len;
            }
            end = kind == PIECE_DATA ? MIN(end, limit) : end;
        }
        if (kind != PIECE_DATA && pool->chunk && end < p->total) {
            end = MAX(ALIGN_DOWN(end, pool->chunk), at);
            if (end == at) {
                kind = PIECE_DATA;
                end = MIN(p->total, at + pool->chunk);
            }
        }
    }
    *ret = (struct piece){kind, at, end - at, pool->ticket++};
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
            int r = blk_pread(s->blk, offset - s->start, buf, part);
            if (r < 0 && p->salvage) {
                for (uint64_t in = 0; in < part; in += 512) {
                    uint64_t n = MIN(part - in, (uint64_t)512);
                    if (blk_pread(s->blk, offset - s->start + in, buf + in, n) < 0) {
                        memset(buf + in, 0, n);
                    }
                }
            } else if (r < 0) {
                img_error(p->im, "error while reading at byte %" PRIu64 ": %s", offset,
                          g_strerror(-r));
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
    if (p->target_is_zero && !p->backing_len) {
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

static int encode_piece(struct pool *pool, const struct piece *pc, const uint8_t *buf,
                        struct encoded *out, uint8_t *store)
{
    uint64_t chunk = pool->chunk, room = blk_chunk_room(pool->p->target);
    for (uint64_t in = 0, i = 0; in < pc->len; in += chunk, i++) {
        uint64_t n = MIN(chunk, pc->len - in);
        out[i].data = store + i * room;
        if (pool->p->sparse && img_is_zero(buf + in, n)) {
            out[i].len = -1;
            continue;
        }
        out[i].len = blk_encode(pool->p->target, buf + in, n, out[i].data);
        if (out[i].len < 0) {
            return (int)out[i].len;
        }
    }
    return 0;
}

static int write_encoded(struct pool *pool, const struct piece *pc, const uint8_t *buf,
                         const struct encoded *e)
{
    const struct pump *p = pool->p;
    for (uint64_t in = 0, i = 0; in < pc->len; in += pool->chunk, i++) {
        uint64_t n = MIN(pool->chunk, pc->len - in), at = pc->offset + in;
        int r = e[i].len < 0 ? write_zeros(p, at, n)
                : e[i].len
                    ? blk_write_encoded(p->target, at, e[i].data, (uint64_t)e[i].len)
                    : blk_pwrite(p->target, at, buf + in, n);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

/* ---- threads
 * -------------------------------------------------------------------------------- */

/* Wait for our turn; false when somebody failed. Leaves with the lock. */
static bool wait_turn(struct pool *pool, const struct piece *pc)
{
    pthread_mutex_lock(&pool->lock);
    while (!pool->p->any_order && pool->served != pc->ticket && pool->ret == 0) {
        pthread_cond_wait(&pool->turn, &pool->lock);
    }
    return pool->ret == 0;
}

static void piece_done(struct pool *pool, const struct piece *pc, int r)
{
    pthread_mutex_lock(&pool->lock);
    if (r < 0 && pool->ret == 0) {
        pool->ret = r;
    }
    pool->served++;
    pool->done += pc->len;
    if (pool->p->progress) {
        img_progress_at(pool->p->progress,
                        100.0 * (double)pool->done / (double)pool->p->total);
    }
    pthread_cond_broadcast(&pool->turn);
    pthread_mutex_unlock(&pool->lock);
}

/* No faster than the rate: sleep for what we are ahead. */
static void slow_down(struct pool *pool, const struct piece *pc)
{
    if (!pool->p->rate) {
        return;
    }
    double due = (double)(pc->offset + pc->len) / (double)pool->p->rate;
    double spent = (double)(loop_now_ns() - pool->begun_ns) / 1e9;
    if (due > spent) {
        usleep((useconds_t)((due - spent) * 1e6));
    }
}

static int do_piece(struct pool *pool, const struct piece *pc, uint8_t *buf,
                    uint8_t *store, struct encoded *enc)
{
    bool data = pc->kind == PIECE_DATA, packed = data && pool->chunk;
    int r = data ? read_piece(pool->p, pc->offset, buf, pc->len) : 0;
    if (r == 0 && packed) {
        r = encode_piece(pool, pc, buf, enc, store);
    }
    bool go = wait_turn(pool, pc);
    pthread_mutex_unlock(&pool->lock);
    if (go && r == 0) {
        r = packed                   ? write_encoded(pool, pc, buf, enc)
            : data                   ? write_plain(pool->p, pc->offset, buf, pc->len)
            : pc->kind == PIECE_ZERO ? write_zeros(pool->p, pc->offset, pc->len)
                                     : 0;
        if (r < 0) {
            img_error(pool->p->im, "error while writing at byte %" PRIu64 ": %s",
                      pc->offset, g_strerror(-r));
        }
        slow_down(pool, pc);
    }
    piece_done(pool, pc, r);
    return r;
}

static void *worker(void *opaque)
{
    struct pool *pool = opaque;
    void *mem = NULL;
    uint64_t chunks = pool->chunk ? PIECE / pool->chunk + 2 : 1;
    if (posix_memalign(&mem, 4096, PIECE) != 0) {
        mem = NULL;
    }
    g_autofree uint8_t *store =
        pool->chunk ? g_try_malloc(chunks * blk_chunk_room(pool->p->target)) : NULL;
    g_autofree struct encoded *enc = g_try_new0(struct encoded, chunks);
    for (;;) {
        struct piece pc;
        pthread_mutex_lock(&pool->lock);
        int r = !mem || !enc || (pool->chunk && !store) ? -ENOMEM : pool->ret;
        bool more = r == 0 && pool->next < pool->p->total;
        r = more ? next_piece(pool, &pc) : r;
        if (r < 0 && pool->ret == 0) {
            pool->ret = r;
        }
        if (r < 0) {
            pthread_cond_broadcast(&pool->turn);
        }
        pthread_mutex_unlock(&pool->lock);
        if (r < 0 || !more || do_piece(pool, &pc, mem, store, enc) < 0) {
            break;
        }
    }
    free(mem);
    return NULL;
}

int pump_run(struct pump *p)
{
    struct pool pool = {.p = p, .begun_ns = loop_now_ns()};
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned n = p->threads ? p->threads : (unsigned)CLAMP(cpus + 1, 2, 16);
    pthread_t threads[64];
    unsigned started = 0;
    n = MIN(n, ARRAY_LEN(threads));
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.turn, NULL);
    pool.chunk = p->compress ? blk_chunk(p->target) : 0;
    while (started < n && pthread_create(&threads[started], NULL, worker, &pool) == 0) {
        started++;
    }
    if (!started) {
        worker(&pool);
    }
    for (unsigned i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
    }
    pthread_cond_destroy(&pool.turn);
    pthread_mutex_destroy(&pool.lock);
    return pool.ret;
}
