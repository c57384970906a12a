#include "block/driver.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "block/filter/fault.h"
#include "block/format/raw.h"
#include "block/proto/file.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"

/*
 * The data path against a shadow in memory. "toy" is a format that only this test
 * knows: it answers with every kind of extent and uses every write operation, so that
 * what real formats will stand on is proven before the first of them exists.
 *
 *   0     "TOY1", dirty byte
 *   512   one 16-byte entry per 4 KiB cluster of the guest: kind, encrypted, stored
 *         length (u32 at 4), place in the file (u64 at 8)
 *
 * Encryption is XOR with a stream made from the guest offset; a compressed chunk is 64
 * bytes that repeat over four clusters.
 */

enum {
    CLUSTER = 4096,
    CHUNK = 4 * CLUSTER,
    CLUSTERS = 64,
    GUEST = CLUSTERS * CLUSTER - 1024, /* the last cluster is cut off */
    TABLE = 512,
    ENTRY = 16,
    DATA = TABLE + CLUSTERS * ENTRY,
};

enum { T_UNALLOCATED, T_DATA, T_ZERO, T_COMPRESSED, T_INLINE };

struct toy {
    uint8_t table[CLUSTERS * ENTRY];
    bool cached[CLUSTERS]; /* pretends that only these are in memory */
    uint8_t inline_bytes[CLUSTER];
    uint64_t end; /* of the file */
    bool crypt;
    unsigned calls;
    unsigned cancels;
};

static void toy_stream(uint64_t iv_offset, uint8_t *buf, size_t len)
{
    g_assert_cmpuint(iv_offset % 512, ==, 0);
    g_assert_cmpuint(len % 512, ==, 0);
    for (size_t i = 0; i < len; i++) {
        uint64_t sector = (iv_offset + i) / 512;
        buf[i] ^= (uint8_t)(sector * 37 + i % 512 * 3 + 11);
    }
}

static int toy_crypt_fn(const struct blk_crypt *c, uint64_t iv_offset, uint8_t *buf,
                        size_t len)
{
    toy_stream(iv_offset, buf, len);
    return 0;
}

static const struct blk_crypt toy_crypt = {512, toy_crypt_fn, toy_crypt_fn};

static int toy_decode(const uint8_t *src, size_t src_len, uint8_t *dst, size_t dst_len)
{
    if (src_len != 64) {
        return -EIO;
    }
    for (size_t i = 0; i < dst_len; i++) {
        dst[i] = src[i % 64];
    }
    return 0;
}

static int64_t toy_encode(const uint8_t *src, size_t src_len, uint8_t *dst,
                          size_t dst_max)
{
    for (size_t i = 64; i < src_len; i++) {
        if (src[i] != src[i - 64]) {
            return -ENOSPC;
        }
    }
    memcpy(dst, src, 64);
    return 64;
}

static const struct blk_codec toy_codec = {"repeat", toy_decode, toy_encode};

static const struct blk_codec *toy_get_codec(const struct blk *b, uint64_t *ret_chunk)
{
    *ret_chunk = CHUNK;
    return &toy_codec;
}

static uint8_t *toy_entry(struct toy *t, uint64_t cluster)
{
    return t->table + cluster * ENTRY;
}

static int toy_map_cached(struct blk *b, uint64_t offset, uint64_t len,
                          struct blk_extent *ret)
{
    struct toy *t = b->priv;
    uint64_t cluster = offset / CLUSTER, in = offset % CLUSTER;
    const uint8_t *e = toy_entry(t, cluster);
    if (!t->cached[cluster]) {
        return -EAGAIN;
    }
    if (++t->calls % 7 == 0) {
        t->cached[cluster] = false; /* so that misses never end */
    }
    *ret = (struct blk_extent){.len = MIN(len, CLUSTER - in)};
    uint64_t at = le64_get(e + 8);
    switch (e[0]) {
    case T_UNALLOCATED: ret->kind = BLK_EXT_UNALLOCATED; break;
    case T_ZERO: ret->kind = BLK_EXT_ZERO; break;
    case T_INLINE:
        ret->kind = BLK_EXT_INLINE;
        ret->bytes = t->inline_bytes + in;
        break;
    case T_DATA:
        ret->kind = BLK_EXT_DATA;
        ret->flags = BLK_EXT_IN_PLACE;
        ret->child = b->file;
        ret->offset = at + in;
        ret->crypt = e[1] ? &toy_crypt : NULL;
        ret->iv_offset = offset;
        break;
    case T_COMPRESSED:
        ret->kind = BLK_EXT_COMPRESSED;
        ret->child = b->file;
        ret->offset = at;
        ret->stored_len = le32_get(e + 4);
        ret->guest_start = offset - offset % CHUNK;
        ret->guest_len = CHUNK;
        ret->codec = &toy_codec;
        break;
    default: return -EIO;
    }
    return 0;
}

static int toy_map(struct blk *b, uint64_t offset, uint64_t len, struct blk_extent *ret)
{
    struct toy *t = b->priv;
    uint64_t cluster = offset / CLUSTER;
    uint8_t entry[ENTRY];
    int r = blk_pread(b->file, TABLE + cluster * ENTRY, entry, ENTRY);
    if (r < 0) {
        return r;
    }
    g_assert_cmpmem(entry, ENTRY, toy_entry(t, cluster), ENTRY);
    t->cached[cluster] = true;
    return toy_map_cached(b, offset, len, ret);
}

static int toy_set(struct blk *b, uint64_t cluster, uint8_t kind, bool crypt,
                   uint64_t at)
{
    struct toy *t = b->priv;
    uint8_t entry[ENTRY] = {kind, crypt};
    le32_put(entry + 4, kind == T_COMPRESSED ? 64 : 0);
    le64_put(entry + 8, at);
    int r = blk_pwrite(b->file, TABLE + cluster * ENTRY, entry, ENTRY);
    if (r == 0) {
        memcpy(toy_entry(t, cluster), entry, ENTRY);
    }
    return r;
}

static int toy_begin(struct blk *b)
{
    return blk_pwrite(b->file, 4, "\1", 1);
}

static int toy_finish(struct blk *b)
{
    return blk_pwrite(b->file, 4, "\0", 1);
}

static int toy_reserve(struct blk *b, struct blk_reservation *r)
{
    struct toy *t = b->priv;
    r->tag[0] = t->end;
    r->child = b->file;
    r->child_offset = t->end;
    if (r->stored_len) {
        r->guest_start = r->offset;
        r->guest_len = CHUNK;
        t->end += CLUSTER;
        return 0;
    }
    r->guest_start = r->offset - r->offset % CLUSTER;
    r->guest_len = CLUSTER; /* one at a time, so that long writes come again */
    r->len = MIN(r->len, r->guest_start + CLUSTER - r->offset);
    r->crypt = t->crypt ? &toy_crypt : NULL;
    r->iv_offset = r->guest_start;
    t->end += CLUSTER;
    /* Behind the end of the file all is zero already. */
    r->fill = toy_entry(t, r->guest_start / CLUSTER)[0] == T_ZERO && !t->crypt
                  ? BLK_FILL_NO
                  : BLK_FILL_OLD;
    return 0;
}

static int toy_publish(struct blk *b, const struct blk_reservation *r)
{
    struct toy *t = b->priv;
    uint64_t first = r->guest_start / CLUSTER;
    int err = 0;
    for (unsigned i = 0; r->stored_len && err == 0 && i < CHUNK / CLUSTER; i++) {
        err = toy_set(b, first + i, T_COMPRESSED, false, r->tag[0]);
    }
    return r->stored_len ? err : toy_set(b, first, T_DATA, t->crypt, r->tag[0]);
}

static void toy_cancel(struct blk *b, const struct blk_reservation *r)
{
    struct toy *t = b->priv;
    t->cancels++;
}

static int toy_zero(struct blk *b, uint64_t offset, uint64_t len, unsigned flags,
                    uint64_t *ret_len)
{
    if (offset % CLUSTER || len < CLUSTER) {
        return -ENOTSUP;
    }
    *ret_len = CLUSTER;
    return toy_set(b, offset / CLUSTER, T_ZERO, false, 0);
}

static int toy_unmap(struct blk *b, uint64_t offset, uint64_t len, uint64_t *ret_len)
{
    *ret_len = MIN(len, CLUSTER - offset % CLUSTER);
    return *ret_len == CLUSTER ? toy_set(b, offset / CLUSTER, T_ZERO, false, 0) : 0;
}

static bool toy_open(struct blk *b, json_t *opts, GError **error)
{
    struct toy *t = g_new0(struct toy, 1);
    b->priv = t;
    t->crypt = blk_opt_bool(opts, "crypt", false);
    json_t *backing = json_object_get(opts, "backing");
    if (backing && !blk_open_child(b, "backing", backing, true, error)) {
        return false;
    }
    int r = blk_pread(b->file, TABLE, t->table, sizeof(t->table));
    if (r < 0) {
        return error_errno(error, -r, "toy");
    }
    memset(t->inline_bytes, 0x1e, CLUSTER);
    t->end = ALIGN_UP(blk_length(b->file), (uint64_t)CLUSTER);
    b->content_len = GUEST;
    b->limits.alloc_unit = CLUSTER;
    return true;
}

static void toy_close(struct blk *b)
{
    g_free(b->priv);
}

static const struct blk_option toy_options[] = {
    {"crypt", BLK_OPT_BOOL, NULL, "encrypt what is written"},
    {"backing", BLK_OPT_NODE, NULL, "what shows through"},
    {0},
};

static const struct blk_write_ops toy_write_ops = {
    .begin = toy_begin,
    .codec = toy_get_codec,
    .reserve = toy_reserve,
    .publish = toy_publish,
    .cancel = toy_cancel,
    .unmap = toy_unmap,
    .zero = toy_zero,
    .finish = toy_finish,
};

static const struct blk_format toy_format = {
    .name = "toy",
    .options = toy_options,
    .open = toy_open,
    .close = toy_close,
    .map = toy_map,
    .map_cached = toy_map_cached,
    .writable = &toy_write_ops,
};

/* This program's registry, in place of block/formats.c. */
const struct blk_format *const blk_formats[] = {&raw_format, &toy_format, NULL};
const struct blk_protocol *const blk_protocols[] = {&file_protocol, &fault_filter,
                                                    NULL};

const struct blk_format *blk_probe(const uint8_t *head, size_t len,
                                   const char *filename)
{
    return &raw_format;
}

const char *blk_foreign_format(const uint8_t *head, size_t len);
const char *blk_foreign_format(const uint8_t *head, size_t len)
{
    return NULL;
}

/* ---- the rig: an image with all kinds of clusters, and its shadow ---- */

struct setup {
    const char *name;
    const char *driver;
    const char *aio;
    bool direct;
    bool crypt;
    bool writethrough;
};

static const struct setup setups[] = {
    {"raw/io_uring", "raw", "io_uring", false, false, false},
    {"raw/threads", "raw", "threads", false, false, false},
    {"raw/direct/io_uring", "raw", "io_uring", true, false, false},
    {"raw/direct/threads", "raw", "threads", true, false, false},
    {"toy/io_uring", "toy", "io_uring", false, false, false},
    {"toy/threads", "toy", "threads", false, false, false},
    {"toy/direct", "toy", "auto", true, false, false},
    {"toy/crypt/io_uring", "toy", "io_uring", false, true, false},
    {"toy/crypt/direct/threads", "toy", "threads", true, true, false},
    {"toy/writethrough", "toy", "auto", false, false, true},
};

struct rig {
    const struct setup *setup;
    struct loop *loop;
    struct blk *blk;
    char *dir, *path, *base;
    uint8_t *shadow;
    GRand *rand;
    unsigned done;
};

static void pattern(uint8_t *p, size_t len, uint32_t seed)
{
    for (size_t i = 0; i < len; i++) {
        p[i] = (uint8_t)(seed + i * 7 + i / 512);
    }
}

static void put_file(const char *path, const uint8_t *bytes, size_t len)
{
    g_assert_true(g_file_set_contents(path, (const char *)bytes, (gssize)len, NULL));
}

/* Backing data, then an overlay whose clusters are of every kind by turns. */
static void make_toy(struct rig *r)
{
    size_t base_len = 40 * CLUSTER + 512;
    g_autofree uint8_t *base = g_malloc(base_len);
    pattern(base, base_len, 3);
    put_file(r->base, base, base_len);
    memcpy(r->shadow, base, base_len);

    size_t image_len = DATA + CLUSTERS * CLUSTER;
    g_autofree uint8_t *image = g_malloc0(ALIGN_UP(image_len, (size_t)CLUSTER));
    memcpy(image, "TOY1", 4);
    size_t end = ALIGN_UP((size_t)DATA, (size_t)CLUSTER);
    for (unsigned c = 0; c < CLUSTERS; c++) {
        uint8_t *e = image + TABLE + c * ENTRY;
        uint8_t *sh = r->shadow + c * CLUSTER;
        unsigned what = c / 4 % 5;
        e[0] = (uint8_t)what;
        le64_put(e + 8, end);
        if (what == T_DATA) {
            e[1] = c % 2;
            pattern(image + end, CLUSTER, c);
            memcpy(sh, image + end, CLUSTER);
            if (e[1]) {
                toy_stream(c * CLUSTER, image + end, CLUSTER);
            }
            end += CLUSTER;
        } else if (what == T_ZERO) {
            memset(sh, 0, CLUSTER);
        } else if (what == T_INLINE) {
            memset(sh, 0x1e, CLUSTER);
        } else if (what == T_COMPRESSED) {
            le32_put(e + 4, 64);
            pattern(image + end, 64, c / 4);
            toy_decode(image + end, 64, sh, CLUSTER);
            if (c % 4 == 3) {
                end += 512;
            } /* the four share one chunk */
        }
    }
    put_file(r->path, image, ALIGN_UP(end, (size_t)CLUSTER));
}

static void rig_open(struct rig *r)
{
    const struct setup *s = r->setup;
    bool toy = g_str_equal(s->driver, "toy");
    json_t *o = json_pack("{s:s,s:s,s:{s:b,s:b},s:{s:s,s:s,s:s}}", "driver", s->driver,
                          "discard", "unmap", "cache", "direct", s->direct, "writeback",
                          !s->writethrough, "file", "driver", "file", "filename",
                          r->path, "aio", s->aio);
    if (toy) {
        json_object_set_new(o, "crypt", json_boolean(s->crypt));
        json_object_set_new(o, "backing",
                            json_pack("{s:s,s:{s:s,s:s}}", "driver", "raw", "file",
                                      "driver", "file", "filename", r->base));
    }
    struct blk_open_args args = {.loop = r->loop};
    GError *err = NULL;
    r->blk = blk_open(&args, o, &err);
    g_assert_no_error(err);
    json_decref(o);
    g_assert_cmpuint(blk_length(r->blk), ==, GUEST);
}

static bool rig_up(struct rig *r, const struct setup *s, uint32_t seed)
{
    *r = (struct rig){.setup = s, .loop = loop_new(NULL, NULL)};
    if (g_str_equal(s->aio, "io_uring") && !loop_has_uring(r->loop, NULL)) {
        g_test_skip("io_uring is not available");
        loop_free(r->loop);
        return false;
    }
    r->rand = g_rand_new_with_seed(seed);
    r->dir = g_strdup("data-test-XXXXXX");
    g_assert_nonnull(g_mkdtemp(r->dir));
    r->path = g_build_filename(r->dir, "disk.img", NULL);
    r->base = g_build_filename(r->dir, "base.img", NULL);
    r->shadow = g_malloc0(CLUSTERS * CLUSTER);
    if (g_str_equal(s->driver, "toy")) {
        make_toy(r);
    } else {
        pattern(r->shadow, GUEST, 9);
        put_file(r->path, r->shadow, GUEST);
        put_file(r->base, r->shadow, 0);
    }
    rig_open(r);
    return true;
}

static void rig_down(struct rig *r)
{
    blk_unref(r->blk);
    g_unlink(r->path);
    g_unlink(r->base);
    g_rmdir(r->dir);
    loop_free(r->loop);
    g_rand_free(r->rand);
    g_free(r->dir);
    g_free(r->path);
    g_free(r->base);
    g_free(r->shadow);
}

static void same(struct rig *r, const uint8_t *got, uint64_t offset, uint64_t len)
{
    for (uint64_t i = 0; i < len; i++) {
        if (got[i] != r->shadow[offset + i]) {
            g_error("byte %" G_GUINT64_FORMAT " (cluster %u): %02x, expected %02x",
                    offset + i, (unsigned)((offset + i) / CLUSTER), got[i],
                    r->shadow[offset + i]);
        }
    }
}

/* ---- random operations ---- */

enum { BATCH = 8, SLOT = GUEST / BATCH };

struct op {
    struct blk_req req;
    struct rig *rig;
    struct iovec iov[3];
    uint8_t *buf;
    int ret;
};

static void op_done(struct blk_req *req, int ret)
{
    struct op *o = container_of(req, struct op, req);
    o->ret = ret;
    o->rig->done++;
}

static uint64_t pick(struct rig *r, uint64_t below)
{
    return (uint64_t)g_rand_int(r->rand) % below;
}

/* Requests of a batch do not overlap, but their clusters and blocks do. */
static void op_start(struct op *o, struct rig *r, unsigned slot)
{
    static const unsigned aligns[] = {1, 512, 4096};
    uint64_t align = aligns[pick(r, 3)];
    uint64_t first = slot * SLOT, off = first + pick(r, SLOT);
    off = MAX(off - off % align, first);
    uint64_t len = 1 + pick(r, pick(r, 4) ? 6000 : SLOT);
    len = MIN(len, first + SLOT - off);
    if (len > align) {
        len -= len % align;
    }
    *o = (struct op){.rig = r, .buf = g_malloc(len)};
    o->req.done = op_done;
    o->req.offset = off;
    o->req.len = len;
    unsigned what = (unsigned)pick(r, 10);
    if (what < 3) {
        o->req.op = BLK_READ;
        memset(o->buf, 0xee, len);
    } else if (what < 7) {
        o->req.op = BLK_WRITE;
        pattern(o->buf, len, g_rand_int(r->rand));
        memcpy(r->shadow + off, o->buf, len);
    } else if (what < 9) {
        o->req.op = BLK_ZERO;
        o->req.flags = pick(r, 2) ? BLK_MAY_UNMAP : 0;
        memset(r->shadow + off, 0, len);
    } else {
        o->req.op = BLK_DISCARD;
    }
    o->req.flags |= o->req.op != BLK_READ && pick(r, 4) == 0 ? BLK_FUA : 0;
    uint64_t a = len / 3, b = len / 2;
    o->iov[0] = (struct iovec){o->buf, a};
    o->iov[1] = (struct iovec){o->buf + a, b - a};
    o->iov[2] = (struct iovec){o->buf + b, len - b};
    if (o->req.op == BLK_READ || o->req.op == BLK_WRITE) {
        o->req.iov = o->iov;
        o->req.nb_iov = 3;
    }
    blk_submit(r->blk, &o->req);
}

static void op_check(struct op *o)
{
    struct rig *r = o->rig;
    uint64_t off = o->req.offset, len = o->req.len;
    g_assert_cmpint(o->ret, ==, 0);
    if (o->req.op == BLK_READ) {
        same(r, o->buf, off, len);
    } else if (o->req.op == BLK_DISCARD) {
        /* Each byte is what it was, or zero; remember which. */
        g_assert_cmpint(blk_pread(r->blk, off, o->buf, len), ==, 0);
        for (uint64_t i = 0; i < len; i++) {
            g_assert_true(o->buf[i] == r->shadow[off + i] || o->buf[i] == 0);
        }
        memcpy(r->shadow + off, o->buf, len);
    }
    g_free(o->buf);
}

static void run_batch(struct rig *r)
{
    struct op ops[BATCH];
    r->done = 0;
    for (unsigned i = 0; i < BATCH; i++) {
        op_start(&ops[i], r, i);
    }
    while (r->done < BATCH) {
        loop_poll(r->loop, true);
    }
    for (unsigned i = 0; i < BATCH; i++) {
        op_check(&ops[i]);
    }
}

/* All of the disk, by one asynchronous request and by blocking ones of odd sizes. */
static void check_all(struct rig *r)
{
    g_autofree uint8_t *buf = g_malloc(GUEST);
    struct op o = {.rig = r, .iov = {{buf, GUEST}}, .req.done = op_done};
    r->done = 0;
    blk_preadv(r->blk, &o.req, 0, o.iov, 1);
    while (!r->done) {
        loop_poll(r->loop, true);
    }
    g_assert_cmpint(o.ret, ==, 0);
    same(r, buf, 0, GUEST);
    memset(buf, 0, GUEST);
    for (uint64_t off = 0; off < GUEST; off += 7777) {
        uint64_t len = MIN((uint64_t)7777, GUEST - off);
        g_assert_cmpint(blk_pread(r->blk, off, buf, len), ==, 0);
        same(r, buf, off, len);
    }
}

/* What block status calls zero must be zero, and its offsets must lead to the bytes. */
static void check_status(struct rig *r)
{
    for (uint64_t off = 0; off < GUEST;) {
        struct blk_status st;
        g_assert_cmpint(blk_map_at(r->blk, off, GUEST - off, &st), ==, 0);
        g_assert_cmpuint(st.len, >, 0);
        g_assert_cmpuint(st.len, <=, GUEST - off);
        if (st.flags & BLK_STATUS_ZERO) {
            for (uint64_t i = 0; i < st.len; i++) {
                g_assert_cmpuint(r->shadow[off + i], ==, 0);
            }
        } else if (st.flags & BLK_STATUS_OFFSET) {
            g_autofree uint8_t *buf = g_malloc(st.len);
            g_assert_cmpint(blk_pread(st.file, st.file_offset, buf, st.len), ==, 0);
            same(r, buf, off, st.len);
        }
        off += st.len;
    }
}

static void random_operations_match_the_shadow(gconstpointer setup)
{
    struct rig r;
    if (!rig_up(&r, setup, 42)) {
        return;
    }
    check_all(&r);
    check_status(&r);
    for (unsigned round = 0; round < 40; round++) {
        run_batch(&r);
        if (round % 10 == 9) {
            check_all(&r);
            check_status(&r);
        }
    }
    struct op o = {.rig = &r, .req.done = op_done};
    r.done = 0;
    blk_flush(r.blk, &o.req);
    while (!r.done) {
        loop_poll(r.loop, true);
    }
    g_assert_cmpint(o.ret, ==, 0);

    /* It is all in the files: a second opening sees the same. */
    blk_unref(r.blk);
    if (g_str_equal(r.setup->driver, "toy")) {
        g_autofree char *bytes = NULL;
        g_assert_true(g_file_get_contents(r.path, &bytes, NULL, NULL));
        g_assert_cmpint(bytes[4], ==, 0); /* finish came after begin */
    }
    rig_open(&r);
    check_all(&r);
    rig_down(&r);
}

/* ---- blocking calls from another thread while the loop works ---- */

struct other {
    struct rig *rig;
    _Atomic bool over;
    uint8_t expect[SLOT];
};

static void *other_thread(void *opaque)
{
    struct other *o = opaque;
    g_autofree uint8_t *back = g_malloc(SLOT);
    GRand *rand = g_rand_new_with_seed(5);
    for (unsigned i = 0; i < 60; i++) {
        uint64_t off = g_rand_int(rand) % SLOT, len = 1 + g_rand_int(rand) % 5000;
        len = MIN(len, SLOT - off);
        pattern(o->expect + off, len, i);
        g_assert_cmpint(blk_pwrite(o->rig->blk, off, o->expect + off, len), ==, 0);
        g_assert_cmpint(blk_pread(o->rig->blk, off, back, len), ==, 0);
        g_assert_cmpmem(back, len, o->expect + off, len);
    }
    g_rand_free(rand);
    atomic_store(&o->over, true);
    return NULL;
}

/* Slot 0 belongs to the thread, the others to the loop; blocks at the border to both.
 */
static void blocking_and_asynchronous_requests_mix(gconstpointer setup)
{
    struct rig r;
    if (!rig_up(&r, setup, 7)) {
        return;
    }
    static struct other o;
    o = (struct other){.rig = &r};
    memcpy(o.expect, r.shadow, SLOT);
    pthread_t thread;
    pthread_create(&thread, NULL, other_thread, &o);
    while (!atomic_load(&o.over)) {
        struct op ops[BATCH];
        r.done = 0;
        for (unsigned i = 1; i < BATCH; i++) {
            op_start(&ops[i], &r, i);
        }
        while (r.done < BATCH - 1) {
            loop_poll(r.loop, true);
        }
        for (unsigned i = 1; i < BATCH; i++) {
            op_check(&ops[i]);
        }
    }
    pthread_join(thread, NULL);
    memcpy(r.shadow, o.expect, SLOT);
    check_all(&r);
    rig_down(&r);
}

/* ---- many small writes into one block ---- */

/*
 * Each writes its own few bytes of the same cluster (or block of the host, with
 * O_DIRECT), all at once: allocating it twice, or writing back a block read too early,
 * loses some.
 */
static void neighbours_do_not_lose_writes(gconstpointer setup)
{
    enum { N = 64, PART = 24 };
    static struct op ops[N];
    struct rig r;
    if (!rig_up(&r, setup, 3)) {
        return;
    }
    for (unsigned c = 0; c < CLUSTERS - 1; c += 5) {
        r.done = 0;
        for (unsigned i = 0; i < N; i++) {
            uint64_t off = c * CLUSTER + 700 + i * PART;
            pattern(r.shadow + off, PART, c * 131 + i * 17 + 1);
            ops[i] = (struct op){.rig = &r, .req.done = op_done};
            ops[i].iov[0] = (struct iovec){r.shadow + off, PART};
            blk_pwritev(r.blk, &ops[i].req, off, ops[i].iov, 1, 0);
        }
        while (r.done < N) {
            loop_poll(r.loop, true);
        }
        for (unsigned i = 0; i < N; i++) {
            g_assert_cmpint(ops[i].ret, ==, 0);
        }
    }
    check_all(&r);
    rig_down(&r);
}

/* ---- failures in the middle of an allocation ---- */

static void failed_allocations_change_nothing(void)
{
    static const struct setup s = {"", "toy", "auto", false, false, false};
    struct rig r;
    g_assert_true(rig_up(&r, &s, 1));
    blk_unref(r.blk);

    /* Writes to the file: the dirty byte, data, table, data (this one fails)... */
    json_t *opts =
        json_pack("{s:s,s:{s:s,s:s,s:i,s:s,s:{s:s,s:s}},s:{s:s,s:{s:s,s:s}}}", "driver",
                  "toy", "file", "driver", "fault", "op", "write", "after", 4, "errno",
                  "ENOSPC", "file", "driver", "file", "filename", r.path, "backing",
                  "driver", "raw", "file", "driver", "file", "filename", r.base);
    struct blk_open_args args = {.loop = r.loop};
    GError *err = NULL;
    r.blk = blk_open(&args, opts, &err);
    g_assert_no_error(err);
    json_decref(opts);

    uint8_t buf[100];
    memset(buf, 0xc3, sizeof(buf));
    struct op o = {.rig = &r, .iov = {{buf, sizeof(buf)}}, .req.done = op_done};
    int want[] = {0, -ENOSPC, 0};
    for (unsigned i = 0; i < 3; i++) {
        uint64_t off = i * CLUSTER + 50; /* three unallocated clusters */
        r.done = 0;
        blk_pwritev(r.blk, &o.req, off, o.iov, 1, 0);
        while (!r.done) {
            loop_poll(r.loop, true);
        }
        g_assert_cmpint(o.ret, ==, want[i]);
        if (want[i] == 0) {
            memcpy(r.shadow + off, buf, sizeof(buf));
        }
    }
    g_assert_cmpuint(((struct toy *)r.blk->priv)->cancels, ==, 1);
    check_all(&r);
    rig_down(&r);
}

/* ---- compressed writes ---- */

static int write_with(struct rig *r, uint64_t off, uint64_t len, unsigned flags)
{
    struct op o = {.rig = r, .iov = {{r->shadow + off, len}}, .req.done = op_done};
    r->done = 0;
    blk_pwritev(r->blk, &o.req, off, o.iov, 1, flags);
    while (!r->done) {
        loop_poll(r->loop, true);
    }
    return o.ret;
}

static void compressed_writes_come_back(void)
{
    static const struct setup toy = {"", "toy", "auto", false, false, false};
    static const struct setup raw = {"", "raw", "auto", false, false, false};
    struct rig r;
    struct blk_status st;
    g_assert_true(rig_up(&r, &toy, 1));
    /* Two chunks that repeat, then one that does not, in one request; and the last one.
     */
    for (unsigned i = 0; i < 2 * CHUNK; i++) {
        r.shadow[CHUNK + i] = (uint8_t)(i % 64 + i / CHUNK);
    }
    pattern(r.shadow + 3 * CHUNK, CHUNK, 77);
    g_assert_cmpint(write_with(&r, CHUNK, 3 * CHUNK, BLK_COMPRESS), ==, 0);
    g_assert_cmpint(blk_map_at(r.blk, CHUNK, 1, &st), ==, 0);
    g_assert_cmpuint(st.flags & BLK_STATUS_COMPRESSED, !=, 0);
    g_assert_cmpint(blk_map_at(r.blk, 3 * CHUNK, 1, &st), ==, 0);
    g_assert_cmpuint(st.flags & BLK_STATUS_COMPRESSED, ==, 0);
    uint64_t last = GUEST - GUEST % CHUNK;
    memset(r.shadow + last, 0, GUEST - last);
    g_assert_cmpint(write_with(&r, last, GUEST - last, BLK_COMPRESS), ==, 0);
    check_all(&r);
    /* A plain write into a chunk leaves the rest of it. */
    r.shadow[2 * CHUNK + 5000] ^= 0xff;
    g_assert_cmpint(write_with(&r, 2 * CHUNK + 5000, 1, 0), ==, 0);
    check_all(&r);
    g_assert_cmpint(write_with(&r, 512, CHUNK, BLK_COMPRESS), ==, -EINVAL);
    g_assert_cmpint(write_with(&r, 0, 512, BLK_COMPRESS), ==, -EINVAL);
    check_all(&r);
    rig_down(&r);

    g_assert_true(rig_up(&r, &raw, 1));
    g_assert_cmpint(write_with(&r, 0, CHUNK, BLK_COMPRESS), ==, -ENOTSUP);
    rig_down(&r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < ARRAY_LEN(setups); i++) {
        g_autofree char *a = g_strdup_printf(
            "/data/random_operations_match_the_shadow/%s", setups[i].name);
        g_test_add_data_func(a, &setups[i], random_operations_match_the_shadow);
        g_autofree char *c =
            g_strdup_printf("/data/neighbours_do_not_lose_writes/%s", setups[i].name);
        g_test_add_data_func(c, &setups[i], neighbours_do_not_lose_writes);
        g_autofree char *b = g_strdup_printf(
            "/data/blocking_and_asynchronous_requests_mix/%s", setups[i].name);
        g_test_add_data_func(b, &setups[i], blocking_and_asynchronous_requests_mix);
    }
    g_test_add_func("/data/failed_allocations_change_nothing",
                    failed_allocations_change_nothing);
    g_test_add_func("/data/compressed_writes_come_back", compressed_writes_come_back);
    return g_test_run();
}
