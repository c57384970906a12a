#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/format/qcow2/bitmap.h"
#include "lib/base/base.h"

/* What users do with bitmaps. The image has begun to change; what is done here is
 * written when it is closed. */

#define MAX_BITMAPS 65535u
#define MAX_NAME    1023u
#define MIN_SHIFT   9u
#define MAX_SHIFT   31u

static GArray *list(struct blk *b)
{
    const struct qcow2 *q = b->priv;
    GArray *all = g_array_new(FALSE, TRUE, sizeof(struct blk_bitmap));
    for (unsigned i = 0; i < q->bitmaps->len; i++) {
        const struct qcow2_bitmap *m = q->bitmaps->pdata[i];
        struct blk_bitmap info = {
            .granularity = UINT64_C(1) << m->shift,
            .recording = m->flags & QCOW2_BITMAP_AUTO,
            .inconsistent = m->inconsistent,
        };
        g_strlcpy(info.name, m->name, sizeof(info.name));
        g_array_append_val(all, info);
    }
    return all;
}

/* In memory and to be trusted. */
static struct qcow2_bitmap *usable(struct qcow2 *q, const char *name, GError **error)
{
    struct qcow2_bitmap *m = qcow2_find_bitmap(q, name);
    if (!m) {
        error_msg(error, "Dirty bitmap '%s' not found", name);
        return NULL;
    }
    if (m->inconsistent) {
        error_msg(error,
                  "Bitmap '%s' is inconsistent and cannot be used\nTry "
                  "block-dirty-bitmap-remove to delete this bitmap from disk",
                  name);
        return NULL;
    }
    int r = qcow2_load_bitmap(q, m);
    if (r < 0) {
        error_errno(error, -r, "Bitmap '%s' cannot be read", name);
        return NULL;
    }
    return m;
}

static void update_recording(struct qcow2 *q)
{
    bool any = false;
    for (unsigned i = 0; i < q->bitmaps->len; i++) {
        const struct qcow2_bitmap *m = q->bitmaps->pdata[i];
        any |= (m->flags & QCOW2_BITMAP_AUTO) && !m->inconsistent;
    }
    atomic_store(&q->recording, any);
}

static bool judge_new(const struct qcow2 *q, const char *name, uint64_t granularity,
                      GError **error)
{
    const char *file = blk_get_node_name(q->b);
    if (qcow2_find_bitmap(q, name)) {
        return error_msg(error, "Bitmap already exists: %s", name);
    }
    if ((granularity & (granularity - 1)) || granularity < UINT64_C(1) << MIN_SHIFT ||
        granularity > UINT64_C(1) << MAX_SHIFT) {
        return error_msg(error, "Granularity must be power of 2 and at least 512");
    }
    const char *why = q->version < 3 ? "Cannot store dirty bitmaps in qcow2 v2 files"
                      : strlen(name) > MAX_NAME
                          ? "Name length exceeds maximum (1023 characters)"
                      : q->bitmaps->len >= MAX_BITMAPS
                          ? "Maximum number of persistent bitmaps is already reached"
                          : NULL;
    return !why || error_msg(error, "Can't make bitmap '%s' persistent in '%s': %s",
                             name, file, why);
}

static bool add(struct blk *b, const char *name, uint64_t granularity, GError **error)
{
    struct qcow2 *q = b->priv;
    if (!granularity) {
        granularity = CLAMP(q->cluster_size, 4 * KIB, 64 * KIB);
    }
    if (!*name) {
        return error_msg(error, "Bitmap name cannot be empty");
    }
    if (!judge_new(q, name, granularity, error)) {
        return false;
    }
    struct qcow2_bitmap *m = g_new0(struct qcow2_bitmap, 1);
    m->name = g_strdup(name);
    m->shift = (unsigned)__builtin_ctzll(granularity);
    m->flags = QCOW2_BITMAP_AUTO;
    int r = qcow2_load_bitmap(q, m); /* empty */
    if (r < 0) {
        qcow2_bitmap_free(m);
        return error_errno(error, -r, "No memory for bitmap '%s'", name);
    }
    m->changed = true;
    pthread_mutex_lock(&q->bitmaps_lock);
    g_ptr_array_add(q->bitmaps, m);
    pthread_mutex_unlock(&q->bitmaps_lock);
    q->bitmaps_changed = true;
    update_recording(q);
    return true;
}

static bool remove_bitmap(struct blk *b, const char *name, GError **error)
{
    struct qcow2 *q = b->priv;
    struct qcow2_bitmap *m = qcow2_find_bitmap(q, name);
    if (!m) {
        return error_msg(error, "Dirty bitmap '%s' not found", name);
    }
    if (m->table_at) {
        struct qcow2_bitmap_table t = {m->table_at, m->entries};
        g_array_append_val(q->removed, t);
    }
    pthread_mutex_lock(&q->bitmaps_lock);
    g_ptr_array_remove(q->bitmaps, m);
    pthread_mutex_unlock(&q->bitmaps_lock);
    q->bitmaps_changed = true;
    update_recording(q);
    return true;
}

static bool clear(struct blk *b, const char *name, GError **error)
{
    struct qcow2 *q = b->priv;
    struct qcow2_bitmap *m = usable(q, name, error);
    if (!m) {
        return false;
    }
    pthread_mutex_lock(&q->bitmaps_lock);
    for (uint32_t i = 0; i < m->nb_chunks; i++) {
        if (m->chunks[i] != QCOW2_ONES) {
            g_free(m->chunks[i]);
        }
        m->chunks[i] = NULL;
    }
    m->changed = true;
    pthread_mutex_unlock(&q->bitmaps_lock);
    return true;
}

static bool enable(struct blk *b, const char *name, bool on, GError **error)
{
    struct qcow2 *q = b->priv;
    struct qcow2_bitmap *m = usable(q, name, error);
    if (!m) {
        return false;
    }
    m->flags = on ? m->flags | QCOW2_BITMAP_AUTO : m->flags & ~QCOW2_BITMAP_AUTO;
    m->changed = true;
    update_recording(q);
    return true;
}

static bool set(struct blk *b, const char *name, uint64_t offset, uint64_t len,
                GError **error)
{
    struct qcow2 *q = b->priv;
    struct qcow2_bitmap *m = usable(q, name, error);
    if (!m || !len) {
        return m != NULL;
    }
    pthread_mutex_lock(&q->bitmaps_lock);
    qcow2_bitmap_set(q, m, offset >> m->shift, ((offset + len - 1) >> m->shift) + 1);
    pthread_mutex_unlock(&q->bitmaps_lock);
    return true;
}

/* Whether @bit is set, and how many bits from there on surely are alike. */
static bool look(const struct qcow2 *q, const struct qcow2_bitmap *m, uint64_t bit,
                 uint64_t *ret_run)
{
    uint64_t per = q->cluster_size * 8, in = bit % per;
    const uint8_t *c = m->chunks[bit / per];
    *ret_run = 1;
    if (!c || c == QCOW2_ONES) {
        *ret_run = per - in;
        return c != NULL;
    }
    bool one = c[in / 8] >> in % 8 & 1;
    if (in % 8 == 0 && c[in / 8] == (one ? 0xff : 0)) {
        *ret_run = 8;
    }
    return one;
}

static bool next(struct blk *b, const char *name, uint64_t offset, uint64_t len,
                 bool *ret_dirty, uint64_t *ret_len, GError **error)
{
    struct qcow2 *q = b->priv;
    struct qcow2_bitmap *m = usable(q, name, error);
    if (!m) {
        return false;
    }
    uint64_t end = MIN(offset + len, q->size), bit = offset >> m->shift, run;
    pthread_mutex_lock(&q->bitmaps_lock);
    bool dirty = look(q, m, bit, &run);
    for (bit += run; bit << m->shift < end && look(q, m, bit, &run) == dirty;) {
        bit += run;
    }
    pthread_mutex_unlock(&q->bitmaps_lock);
    *ret_dirty = dirty;
    *ret_len = MIN(bit << m->shift, end) - offset;
    return true;
}

static bool able(const struct blk *b)
{
    const struct qcow2 *q = b->priv;
    return q->version >= 3;
}

const struct blk_bitmap_ops qcow2_bitmap_ops = {
    .able = able,
    .list = list,
    .add = add,
    .remove = remove_bitmap,
    .clear = clear,
    .enable = enable,
    .set = set,
    .next = next,
};
