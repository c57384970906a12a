#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>

#include "block/image.h"
#include "lib/base/base.h"
#include "lib/loop/loop.h"

/*
 * qcow2 as a guest uses it: many requests in flight. Each slot has a part of the disk
 * for itself, but the parts begin and end within clusters, so neighbours meet in the
 * same cluster, L2 slice and refcount block. The pytest suite compares with QEMU; here
 * is what needs the asynchronous path, small caches and failing writes.
 */

enum {
    SLOTS = 12,
    PART = 37 * 512 * 3,
    GUEST = SLOTS * PART,
    OPS = 60,
    MAX_IO = 24 * 512
};

struct setup {
    const char *name, *create, *open;
    bool backing;
};

static const struct setup setups[] = {
    {"plain", "{\"size\": \"666k\"}", "", false},
    {"small-clusters", "{\"size\": \"666k\", \"cluster_size\": \"512\"}",
     ",cache-size=16k", false},
    {"backing", "{\"size\": \"666k\", \"cluster_size\": \"4k\"}", ",cache-size=16k",
     true},
    {"subclusters",
     "{\"size\": \"666k\", \"cluster_size\": \"16k\", \"extended_l2\": \"on\"}", "",
     true},
    {"lazy",
     "{\"size\": \"666k\", \"cluster_size\": \"512\", \"lazy_refcounts\": \"on\"}", "",
     false},
    {"v2-narrow", "{\"size\": \"666k\", \"cluster_size\": \"1k\", \"compat\": \"v2\"}",
     "", false},
};

struct rig {
    struct loop *loop;
    struct blk_open_args args;
    char *dir, *path, *base;
    struct blk *b;
    GRand *rand;
    uint8_t shadow[GUEST];
    unsigned running;
};

struct slot {
    struct rig *r;
    struct blk_req req;
    struct iovec iov;
    uint8_t buf[MAX_IO];
    uint64_t from;
    unsigned left;
};

static void rig_open(struct rig *r, const char *more)
{
    GError *err = NULL;
    g_autofree char *text = g_strdup_printf(
        "driver=qcow2,discard=unmap,file.driver=file,file.filename=%s%s", r->path,
        more);
    json_t *o = json_object();
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);
    for (char **p = parts; *p; p++) {
        char *eq = strchr(*p, '=');
        g_autofree char *key = g_strndup(*p, (gsize)(eq - *p));
        json_object_set_new(o, key, json_string(eq + 1));
    }
    r->b = blk_open(&r->args, o, &err);
    json_decref(o);
    g_assert_no_error(err);
}

static void rig_up(struct rig *r, const struct setup *s)
{
    GError *err = NULL;
    memset(r, 0, sizeof(*r));
    r->loop = loop_new(NULL, &err);
    g_assert_no_error(err);
    r->args.loop = r->loop;
    r->rand = g_rand_new_with_seed(7);
    r->dir = g_dir_make_tmp("qcow2-test-XXXXXX", &err);
    g_assert_no_error(err);
    r->path = g_build_filename(r->dir, "a.qcow2", NULL);
    r->base = g_build_filename(r->dir, "base", NULL);
    json_t *o = json_loads(s->create, 0, NULL);
    if (s->backing) { /* shorter than the disk, and ends within a cluster */
        for (unsigned i = 0; i < GUEST - 10240; i++) {
            r->shadow[i] = (uint8_t)(i / 512 * 7 + i);
        }
        g_file_set_contents(r->base, (char *)r->shadow, GUEST - 10240, NULL);
        json_object_set_new(o, "backing_file", json_string("base"));
        json_object_set_new(o, "backing_fmt", json_string("raw"));
    }
    struct blk_create_tables t;
    g_assert_true(blk_create_options("qcow2", r->path, &t, NULL));
    g_assert_true(blk_create_prepare(&t, o, &err));
    g_assert_true(blk_create(&r->args, "qcow2", r->path, o, &err));
    g_assert_no_error(err);
    json_decref(o);
}

static void rig_down(struct rig *r)
{
    blk_unref(r->b);
    loop_free(r->loop);
    g_unlink(r->path);
    g_unlink(r->base);
    g_rmdir(r->dir);
    g_rand_free(r->rand);
    g_free(r->dir);
    g_free(r->path);
    g_free(r->base);
}

/* Reopened without faults: what is found, errors never. */
static struct blk_check_result check(struct rig *r)
{
    struct blk_check c = {0};
    rig_open(r, "");
    g_assert_cmpint(blk_check(r->b, &c), ==, 0);
    g_assert_cmpuint(c.result.corruptions, ==, 0);
    g_assert_cmpuint(c.result.check_errors, ==, 0);
    return c.result;
}

static void all_is_as_in(struct rig *r)
{
    g_autofree uint8_t *got = g_malloc(GUEST);
    g_assert_cmpint(blk_pread(r->b, 0, got, GUEST), ==, 0);
    for (unsigned i = 0; i < GUEST; i++) {
        if (got[i] != r->shadow[i]) {
            g_error("byte %u is %u, not %u", i, got[i], r->shadow[i]);
        }
    }
}

/* ---- many requests in flight --------------------------------------------------------
 */

static void slot_go(struct slot *s);

static void slot_done(struct blk_req *req, int ret)
{
    struct slot *s = container_of(req, struct slot, req);
    g_assert_cmpint(ret, ==, 0);
    if (req->op == BLK_READ) {
        g_assert_cmpmem(s->buf, req->len, s->r->shadow + req->offset, req->len);
    }
    if (s->left-- > 0) {
        slot_go(s);
    } else {
        s->r->running--;
    }
}

static void slot_go(struct slot *s)
{
    struct rig *r = s->r;
    uint64_t sectors = PART / 512;
    uint64_t at = (uint64_t)g_rand_int_range(r->rand, 0, (gint32)sectors);
    uint64_t n = (uint64_t)g_rand_int_range(r->rand, 1, MAX_IO / 512 + 1);
    uint64_t offset = s->from + at * 512, len = MIN(n, sectors - at) * 512;
    s->iov = (struct iovec){s->buf, len};
    s->req.done = slot_done;
    switch (g_rand_int_range(r->rand, 0, 8)) {
    case 0: blk_write_zeroes(r->b, &s->req, offset, len, BLK_MAY_UNMAP); break;
    case 1: blk_write_zeroes(r->b, &s->req, offset, len, 0); break;
    case 2:
    case 3:
    case 4: blk_preadv(r->b, &s->req, offset, &s->iov, 1); return;
    default:
        memset(s->buf, g_rand_int_range(r->rand, 1, 255), len);
        memcpy(r->shadow + offset, s->buf, len);
        blk_pwritev(r->b, &s->req, offset, &s->iov, 1,
                    g_rand_int_range(r->rand, 0, 20) ? 0 : BLK_FUA);
        return;
    }
    memset(r->shadow + offset, 0, len);
}

static void requests_in_flight_keep_apart(gconstpointer data)
{
    const struct setup *s = data;
    struct rig *r = g_new(struct rig, 1);
    struct slot *slots = g_new0(struct slot, SLOTS);
    rig_up(r, s);
    rig_open(r, s->open);
    r->running = SLOTS;
    for (unsigned i = 0; i < SLOTS; i++) {
        slots[i].r = r;
        slots[i].from = (uint64_t)i * PART;
        slots[i].left = OPS;
        slot_go(&slots[i]);
    }
    while (r->running) {
        loop_poll(r->loop, true);
    }
    all_is_as_in(r);
    GError *err = NULL;
    g_assert_true(blk_close(r->b, &err));
    struct blk_check_result res = check(r);
    g_assert_cmpuint(res.leaks, ==, 0);
    all_is_as_in(r);
    rig_down(r);
    g_free(slots);
    g_free(r);
}

/* ---- writes that fail
 * ------------------------------------------------------------------ */

/*
 * The @n-th write below fails, and all after it. What had been flushed before must be
 * there, and the tables sound, leaks aside.
 */
static void fail_at(const struct setup *s, unsigned n)
{
    struct rig *r = g_new(struct rig, 1);
    rig_up(r, s);
    rig_open(r, s->open);
    for (unsigned i = 0; i < 10; i++) {
        memset(r->shadow + i * 20000, (int)i + 1, 9000);
    }
    g_assert_cmpint(blk_pwrite(r->b, 0, r->shadow, GUEST), ==, 0);
    blk_unref(r->b);

    GError *err = NULL;
    json_t *o = json_pack("{s:s, s:s, s:{s:s, s:s, s:s, s:i, s:i, s:{s:s, s:s}}}",
                          "driver", "qcow2", "discard", "unmap", "file", "driver",
                          "fault", "op", "write", "errno", "ENOSPC", "after", (int)n,
                          "times", 0, "file", "driver", "file", "filename", r->path);
    r->b = blk_open(&r->args, o, &err);
    json_decref(o);
    uint8_t buf[4096];
    memset(buf, 0xee, sizeof(buf));
    /* The first half of the disk changes; the second must stay. */
    for (uint64_t at = 0; r->b && at < GUEST / 2 - sizeof(buf); at += 11264) {
        blk_pwrite(r->b, at, buf, sizeof(buf));
        blk_run(r->b, BLK_DISCARD, at + 4096, NULL, 0, 2048, 0);
        if (at % 3 == 0) {
            blk_run(r->b, BLK_FLUSH, 0, NULL, 0, 0, 0);
        }
    }
    if (r->b) {
        blk_close(r->b, NULL);
        r->b = NULL;
    }
    g_clear_error(&err);
    check(r);
    g_autofree uint8_t *got = g_malloc(GUEST);
    g_assert_cmpint(blk_pread(r->b, 0, got, GUEST), ==, 0);
    g_assert_cmpmem(got + GUEST / 2, GUEST / 2, r->shadow + GUEST / 2, GUEST / 2);
    rig_down(r);
    g_free(r);
}

static void failing_writes_leave_a_sound_image(void)
{
    for (unsigned n = 1; n < 40; n += 3) {
        fail_at(&setups[1], n);
        fail_at(&setups[3], n);
    }
}

/* ---- what cannot be
 * ------------------------------------------------------------------------ */

static void a_backing_file_may_end_earlier(void)
{
    struct rig *r = g_new(struct rig, 1);
    rig_up(r, &setups[2]);
    rig_open(r, "");
    all_is_as_in(r);
    struct blk_status s;
    g_assert_cmpint(blk_map_at(r->b, 0, GUEST, &s), ==, 0);
    g_assert_cmpuint(s.depth, ==, 1);
    g_assert_cmpint(blk_map_at(r->b, GUEST - 512, 512, &s), ==, 0);
    g_assert_true(s.flags & BLK_STATUS_ZERO);
    rig_down(r);
    g_free(r);
}

static void snapshots_keep_what_was(void)
{
    struct rig *r = g_new(struct rig, 1);
    struct blk_snapshot sn = {.name = "before"};
    GError *err = NULL;
    rig_up(r, &setups[1]);
    rig_open(r, "");
    for (unsigned i = 0; i < GUEST; i++) {
        r->shadow[i] = (uint8_t)(i / 512);
    }
    g_assert_cmpint(blk_pwrite(r->b, 0, r->shadow, GUEST), ==, 0);
    g_assert_true(blk_snapshot_create(r->b, &sn, &err));
    g_assert_cmpstr(sn.id, ==, "1");
    g_assert_cmpint(blk_run(r->b, BLK_ZERO, 512, NULL, 0, GUEST / 2, 0), ==, 0);
    g_assert_true(blk_snapshot_apply(r->b, "1", &err));
    all_is_as_in(r);
    g_assert_true(blk_snapshot_delete(r->b, "1", &err));
    g_assert_false(blk_snapshot_delete(r->b, "1", &err));
    g_clear_error(&err);
    all_is_as_in(r);
    blk_unref(r->b);
    g_assert_cmpuint(check(r).leaks, ==, 0);
    rig_down(r);
    g_free(r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < ARRAY_LEN(setups); i++) {
        g_autofree char *name =
            g_strdup_printf("/qcow2/requests_in_flight_keep_apart/%s", setups[i].name);
        g_test_add_data_func(name, &setups[i], requests_in_flight_keep_apart);
    }
    g_test_add_func("/qcow2/failing_writes_leave_a_sound_image",
                    failing_writes_leave_a_sound_image);
    g_test_add_func("/qcow2/a_backing_file_may_end_earlier",
                    a_backing_file_may_end_earlier);
    g_test_add_func("/qcow2/snapshots_keep_what_was", snapshots_keep_what_was);
    return g_test_run();
}
