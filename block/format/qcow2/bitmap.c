#include "block/format/qcow2/bitmap.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

#define ENTRY_HEAD     24u
#define MAX_BITMAPS    65535u
#define MAX_NAME       1023u
#define MAX_DIRECTORY  (MAX_BITMAPS * 1024u)
#define FLAGS_KNOWN    7u
#define FLAG_EXTRA_OK  4u
#define TYPE_DIRTY     1u
#define MIN_SHIFT      9u
#define MAX_SHIFT      31u
#define TABLE_RESERVED UINT64_C(0xff000000000001fe)
#define ALL_ONES       1u

uint8_t qcow2_ones[1];

uint64_t qcow2_bitmap_bits(uint64_t size, unsigned shift)
{
    return (size >> shift) + ((size & ((UINT64_C(1) << shift) - 1)) != 0);
}

uint32_t qcow2_bitmap_chunks(const struct qcow2 *q, uint64_t size, unsigned shift)
{
    uint64_t bytes = (qcow2_bitmap_bits(size, shift) + 7) / 8;
    return (uint32_t)MIN(qcow2_clusters_for(q, bytes), (uint64_t)UINT32_MAX);
}

struct qcow2_bitmap *qcow2_find_bitmap(const struct qcow2 *q, const char *name)
{
    for (unsigned i = 0; i < q->bitmaps->len; i++) {
        struct qcow2_bitmap *m = q->bitmaps->pdata[i];
        if (g_str_equal(m->name, name)) {
            return m;
        }
    }
    return NULL;
}

const struct qcow2_bitmap *qcow2_inconsistent_bitmap(const struct qcow2 *q)
{
    for (unsigned i = 0; i < q->bitmaps->len; i++) {
        const struct qcow2_bitmap *m = q->bitmaps->pdata[i];
        if (m->inconsistent) {
            return m;
        }
    }
    return NULL;
}

static void free_chunk(uint8_t *chunk)
{
    if (chunk != QCOW2_ONES) {
        g_free(chunk);
    }
}

static void free_chunks(struct qcow2_bitmap *m)
{
    for (uint32_t i = 0; m->chunks && i < m->nb_chunks; i++) {
        free_chunk(m->chunks[i]);
    }
    g_clear_pointer(&m->chunks, g_free);
    m->nb_chunks = 0;
}

void qcow2_bitmap_free(void *bitmap)
{
    struct qcow2_bitmap *m = bitmap;
    free_chunks(m);
    g_free(m->name);
    g_free(m->extra);
    g_free(m);
}

void qcow2_free_bitmaps(struct qcow2 *q)
{
    g_ptr_array_free(q->bitmaps, TRUE);
    pthread_mutex_destroy(&q->bitmaps_lock);
}

/* ---- the directory
 * ----------------------------------------------------------------------------- */

static bool judge_entry(const struct qcow2 *q, const struct qcow2_bitmap *m,
                        unsigned type, GError **error)
{
    if (type != TYPE_DIRTY || (m->flags & ~FLAGS_KNOWN) || !*m->name ||
        m->shift < MIN_SHIFT || m->shift > MAX_SHIFT ||
        (m->extra_len && !(m->flags & FLAG_EXTRA_OK)) ||
        !qcow2_aligned(q, m->table_at) ||
        !ck_range(m->table_at, m->entries * UINT64_C(8), q->file->content_len)) {
        return error_msg(error,
                         "Broken bitmap directory: bitmap '%s' doesn't satisfy "
                         "the constraints",
                         m->name);
    }
    uint32_t want = qcow2_bitmap_chunks(q, q->size, m->shift);
    if (!m->inconsistent && m->entries != want) {
        return error_msg(
            error,
            "Broken bitmap directory: the table of bitmap '%s' has %" PRIu32
            " entries, the disk needs %" PRIu32,
            m->name, m->entries, want);
    }
    return true;
}

static bool parse_directory(struct qcow2 *q, const uint8_t *dir, uint64_t size,
                            GError **error)
{
    uint64_t at = 0;
    for (uint64_t i = 0; i < q->bitmaps_at[0]; i++) {
        const uint8_t *e = dir + at;
        if (!ck_range(at, ENTRY_HEAD, size)) {
            return error_msg(error,
                             "Broken bitmap directory: it ends in entry %" PRIu64, i);
        }
        uint32_t extra = be32_get(e + 20);
        uint16_t len = be16_get(e + 18);
        uint64_t all = ALIGN_UP((uint64_t)ENTRY_HEAD + extra + len, 8);
        if (!ck_range(at, all, size) || len > MAX_NAME) {
            return error_msg(
                error,
                "Broken bitmap directory: entry %" PRIu64 " reaches past its end", i);
        }
        struct qcow2_bitmap *m = g_new0(struct qcow2_bitmap, 1);
        m->table_at = be64_get(e);
        m->entries = be32_get(e + 8);
        m->flags = be32_get(e + 12);
        m->flags_at = q->bitmaps_at[2] + at + 12;
        m->shift = e[17];
        m->extra_len = extra;
        m->extra = g_memdup2(e + ENTRY_HEAD, extra);
        m->name = g_strndup((const char *)e + ENTRY_HEAD + extra, len);
        m->inconsistent = m->flags & QCOW2_BITMAP_IN_USE;
        bool twice = qcow2_find_bitmap(q, m->name) != NULL;
        g_ptr_array_add(q->bitmaps, m);
        if (twice) {
            return error_msg(error, "Broken bitmap directory: two bitmaps '%s'",
                             m->name);
        }
        if (!judge_entry(q, m, e[16], error)) {
            return false;
        }
        at += all;
    }
    return at == size ||
           error_msg(error, "Broken bitmap directory: %" PRIu64 " bytes are left",
                     size - at);
}

bool qcow2_read_bitmaps(struct qcow2 *q, GError **error)
{
    uint64_t nb = q->bitmaps_at[0], size = q->bitmaps_at[1], at = q->bitmaps_at[2];
    if (nb == 0) {
        return true;
    }
    if (nb > MAX_BITMAPS || size > MAX_DIRECTORY || size < nb * ENTRY_HEAD ||
        !qcow2_aligned(q, at) || !ck_range(at, size, q->file->content_len)) {
        return error_msg(error,
                         "Broken bitmap directory: %" PRIu64 " bitmaps in %" PRIu64
                         " bytes at 0x%" PRIx64,
                         nb, size, at);
    }
    g_autofree uint8_t *dir = g_try_malloc(size);
    int r = dir ? blk_pread(q->file, at, dir, size) : -ENOMEM;
    if (r < 0) {
        return error_errno(error, -r, "Failed to read the bitmap directory");
    }
    return parse_directory(q, dir, size, error);
}

/* In whole clusters; *ret_size is what of them is used. */
static uint8_t *build_directory(const struct qcow2 *q, uint64_t *ret_size,
                                uint64_t base)
{
    GByteArray *a = g_byte_array_new();
    for (unsigned i = 0; i < q->bitmaps->len; i++) {
        struct qcow2_bitmap *m = q->bitmaps->pdata[i];
        uint8_t head[ENTRY_HEAD] = {0}, pad[8] = {0};
        size_t len = strlen(m->name);
        be64_put(head, m->table_at);
        be32_put(head + 8, m->entries);
        be32_put(head + 12, m->flags);
        head[16] = TYPE_DIRTY;
        head[17] = (uint8_t)m->shift;
        be16_put(head + 18, (uint16_t)len);
        be32_put(head + 20, m->extra_len);
        m->flags_at = base + a->len + 12;
        g_byte_array_append(a, head, sizeof(head));
        g_byte_array_append(a, m->extra, m->extra_len);
        g_byte_array_append(a, (const uint8_t *)m->name, (guint)len);
        g_byte_array_append(a, pad, (guint)(ALIGN_UP(a->len, 8u) - a->len));
    }
    *ret_size = a->len;
    guint len = a->len, all = (guint)ALIGN_UP(len, q->cluster_size);
    g_byte_array_set_size(a, all);
    memset(a->data + len, 0, all - len);
    return g_byte_array_free(a, FALSE);
}

/* ---- bits in memory
 * --------------------------------------------------------------------------- */

int qcow2_load_bitmap(struct qcow2 *q, struct qcow2_bitmap *m)
{
    uint32_t nb = qcow2_bitmap_chunks(q, q->size, m->shift);
    int r = 0;
    if (m->chunks) {
        return 0;
    }
    uint8_t **chunks = g_try_new0(uint8_t *, (size_t)nb + 1);
    if (!chunks) {
        return -ENOMEM;
    }
    m->chunks = chunks;
    m->nb_chunks = nb;
    if (!m->table_at || m->entries != nb) {
        return m->table_at ? -EINVAL : 0;
    }
    g_autofree uint64_t *t = qcow2_read_table(q, m->table_at, nb, &r);
    for (uint32_t i = 0; r == 0 && i < nb; i++) {
        uint64_t at = t[i] & QCOW2_OFFSET_MASK;
        if ((t[i] & TABLE_RESERVED) || !qcow2_aligned(q, at)) {
            r = -EINVAL;
        } else if (!at) {
            chunks[i] = t[i] & ALL_ONES ? QCOW2_ONES : NULL;
        } else if (!(chunks[i] = g_try_malloc0(q->cluster_size))) {
            r = -ENOMEM;
        } else if (!ck_range(at, q->cluster_size, q->file->content_len)) {
            r = -EINVAL;
        } else {
            r = blk_pread(q->file, at, chunks[i], q->cluster_size);
        }
    }
    if (r < 0) {
        free_chunks(m);
    }
    return r;
}

void qcow2_bitmap_set(struct qcow2 *q, struct qcow2_bitmap *m, uint64_t first,
                      uint64_t end)
{
    uint64_t per = q->cluster_size * 8;
    while (first < end && first / per < m->nb_chunks) {
        uint8_t **c = &m->chunks[first / per];
        uint64_t in = first % per, n = MIN(per - in, end - first);
        if (!*c && n == per) {
            *c = QCOW2_ONES;
        } else if (!*c) {
            *c = g_malloc0(q->cluster_size);
        }
        for (uint64_t i = in; *c != QCOW2_ONES && i < in + n;) {
            if (i % 8 == 0 && in + n - i >= 8) {
                uint64_t bytes = (in + n - i) / 8;
                memset(*c + i / 8, 0xff, bytes);
                i += bytes * 8;
            } else {
                (*c)[i / 8] |= (uint8_t)(1u << i % 8);
                i++;
            }
        }
        first += n;
    }
    m->changed = true;
}

static bool records(const struct qcow2_bitmap *m)
{
    return (m->flags & QCOW2_BITMAP_AUTO) && !m->inconsistent && m->chunks;
}

void qcow2_written(struct blk *b, uint64_t offset, uint64_t len)
{
    struct qcow2 *q = b->priv;
    if (!atomic_load_explicit(&q->recording, memory_order_relaxed) || !len) {
        return;
    }
    pthread_mutex_lock(&q->bitmaps_lock);
    for (unsigned i = 0; i < q->bitmaps->len; i++) {
        struct qcow2_bitmap *m = q->bitmaps->pdata[i];
        if (records(m)) {
            qcow2_bitmap_set(q, m, offset >> m->shift,
                             ((offset + len - 1) >> m->shift) + 1);
        }
    }
    pthread_mutex_unlock(&q->bitmaps_lock);
}

/* ---- in use, and not any more
 * --------------------------------------------------------------------- */

static int mark_in_use(struct qcow2 *q, const struct qcow2_bitmap *m)
{
    uint8_t flags[4];
    be32_put(flags, m->flags | QCOW2_BITMAP_IN_USE);
    return m->flags_at ? blk_pwrite(q->file, m->flags_at, flags, sizeof(flags)) : 0;
}

int qcow2_begin_bitmaps(struct qcow2 *q)
{
    bool any = false;
    int r = 0;
    for (unsigned i = 0; r == 0 && i < q->bitmaps->len; i++) {
        struct qcow2_bitmap *m = q->bitmaps->pdata[i];
        if (m->inconsistent || !(m->flags & QCOW2_BITMAP_AUTO)) {
            continue;
        }
        if (qcow2_load_bitmap(q, m) < 0) {
            blk_warn(q->b, "Bitmap '%s' cannot be read and is no longer kept up",
                     m->name);
            m->inconsistent = true;
            m->flags |= QCOW2_BITMAP_IN_USE;
        }
        m->changed = true; /* the mark has to go */
        r = mark_in_use(q, m);
        any = true;
    }
    if (r == 0 && any) {
        r = blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    }
    atomic_store(&q->recording, any);
    return r;
}

int qcow2_resize_bitmaps(struct qcow2 *q, uint64_t size)
{
    int r = qcow2_inconsistent_bitmap(q) ? -EBUSY : 0;
    for (unsigned i = 0; r == 0 && i < q->bitmaps->len; i++) {
        struct qcow2_bitmap *m = q->bitmaps->pdata[i];
        uint32_t nb = qcow2_bitmap_chunks(q, size, m->shift);
        r = qcow2_load_bitmap(q, m);
        r = r ? r : mark_in_use(q, m);
        if (r < 0) {
            break;
        }
        pthread_mutex_lock(&q->bitmaps_lock);
        for (uint32_t c = nb; c < m->nb_chunks; c++) {
            free_chunk(m->chunks[c]);
        }
        m->chunks = g_renew(uint8_t *, m->chunks, (size_t)nb + 1);
        for (uint32_t c = m->nb_chunks; c < nb; c++) {
            m->chunks[c] = NULL;
        }
        m->nb_chunks = nb;
        m->changed = true;
        pthread_mutex_unlock(&q->bitmaps_lock);
    }
    return r;
}

/* ---- writing them
 * -------------------------------------------------------------------------------- */

static int let_go(struct qcow2 *q, uint64_t table_at, uint32_t entries)
{
    int r = 0;
    g_autofree uint64_t *t = qcow2_read_table(q, table_at, entries, &r);
    for (uint32_t i = 0; r == 0 && i < entries; i++) {
        uint64_t at = t[i] & QCOW2_OFFSET_MASK;
        r = at ? qcow2_free_later(q, at, q->cluster_size) : 0;
    }
    return r ? r : entries ? qcow2_free_later(q, table_at, entries * UINT64_C(8)) : 0;
}

/* Bits behind the disk's end are 0. */
static void trim(const struct qcow2 *q, struct qcow2_bitmap *m)
{
    uint64_t bits = qcow2_bitmap_bits(q->size, m->shift), per = q->cluster_size * 8;
    uint8_t **c = m->nb_chunks ? &m->chunks[m->nb_chunks - 1] : NULL;
    if (!c || !*c || bits % per == 0) {
        return;
    }
    if (*c == QCOW2_ONES) {
        *c = memset(g_malloc(q->cluster_size), 0xff, q->cluster_size);
    }
    for (uint64_t i = bits % per; i < per; i++) {
        if (i % 8 == 0) {
            memset(*c + i / 8, 0, q->cluster_size - i / 8);
            break;
        }
        (*c)[i / 8] &= (uint8_t) ~(1u << i % 8);
    }
}

/* To new clusters; the entry of the directory follows. */
static int store_bits(struct qcow2 *q, struct qcow2_bitmap *m)
{
    g_autofree uint64_t *t = g_try_new0(uint64_t, (size_t)m->nb_chunks + 1);
    int r = t ? 0 : -ENOMEM;
    uint64_t at = 0;
    trim(q, m);
    for (uint32_t i = 0; r == 0 && i < m->nb_chunks; i++) {
        const uint8_t *c = m->chunks[i];
        if (!c || c == QCOW2_ONES) {
            t[i] = c ? ALL_ONES : 0;
        } else if (*c == 0 && memcmp(c, c + 1, q->cluster_size - 1) == 0) {
            t[i] = 0;
        } else {
            r = qcow2_alloc(q, 1, 1, &at, NULL);
            r = r ? r : blk_pwrite(q->file, at, c, q->cluster_size);
            t[i] = at;
        }
    }
    uint64_t clusters = qcow2_clusters_for(q, m->nb_chunks * UINT64_C(8));
    at = 0;
    r = r || !clusters ? r : qcow2_alloc(q, clusters, clusters, &at, NULL);
    r = r || !clusters ? r : qcow2_write_table(q, at, t, m->nb_chunks);
    if (r == 0) {
        m->table_at = at;
        m->entries = m->nb_chunks;
        m->changed = false;
    }
    return r;
}

static int switch_directory(struct qcow2 *q)
{
    uint64_t size = 0, at = 0;
    int r = 0;
    if (q->bitmaps->len) {
        g_free(build_directory(q, &size, 0));
        uint64_t clusters = qcow2_clusters_for(q, size);
        r = qcow2_alloc(q, clusters, clusters, &at, NULL);
    }
    g_autofree uint8_t *dir = build_directory(q, &size, at);
    r = r || !size ? r : blk_pwrite(q->file, at, dir, ALIGN_UP(size, q->cluster_size));
    r = r ? r : qcow2_writeback(q);
    r = r ? r : blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    if (r < 0) {
        return r;
    }
    q->bitmaps_at[0] = q->bitmaps->len;
    q->bitmaps_at[1] = size;
    q->bitmaps_at[2] = at;
    q->autoclear &= ~(uint64_t)QCOW2_AUTOCLEAR_BITMAPS;
    q->autoclear |= size ? QCOW2_AUTOCLEAR_BITMAPS : 0;
    r = qcow2_write_header(q);
    return r ? r : blk_run(q->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
}

int qcow2_store_bitmaps(struct qcow2 *q)
{
    g_autoptr(GArray) old =
        g_array_new(FALSE, FALSE, sizeof(struct qcow2_bitmap_table));
    uint64_t dir_size = q->bitmaps_at[1], dir_at = q->bitmaps_at[2];
    bool change = q->bitmaps_changed;
    int r = 0;
    pthread_mutex_lock(&q->bitmaps_lock);
    for (unsigned i = 0; r == 0 && i < q->bitmaps->len; i++) {
        struct qcow2_bitmap *m = q->bitmaps->pdata[i];
        struct qcow2_bitmap_table t = {m->table_at, m->entries};
        if (!m->changed || !m->chunks) {
            continue;
        }
        r = store_bits(q, m);
        if (t.at) {
            g_array_append_val(old, t);
        }
        change = true;
    }
    pthread_mutex_unlock(&q->bitmaps_lock);
    for (unsigned i = 0; i < q->removed->len; i++) {
        g_array_append_val(old,
                           g_array_index(q->removed, struct qcow2_bitmap_table, i));
    }
    if (r < 0 || !change) {
        return r;
    }
    r = switch_directory(q);
    for (unsigned i = 0; r == 0 && i < old->len; i++) {
        struct qcow2_bitmap_table t = g_array_index(old, struct qcow2_bitmap_table, i);
        r = let_go(q, t.at, t.entries);
    }
    r = r || !dir_size ? r : qcow2_free_later(q, dir_at, dir_size);
    g_array_set_size(q->removed, 0);
    q->bitmaps_changed = false;
    return r;
}

/* ---- reports
 * -----------------------------------------------------------------------------------
 */

void qcow2_bitmap_info(const struct qcow2 *q, json_t *data)
{
    json_t *all = q->bitmaps->len ? json_array() : NULL;
    for (unsigned i = 0; i < q->bitmaps->len; i++) {
        const struct qcow2_bitmap *m = q->bitmaps->pdata[i];
        json_t *flags = json_array();
        if (m->flags & QCOW2_BITMAP_IN_USE) {
            json_array_append_new(flags, json_string("in-use"));
        }
        if (m->flags & QCOW2_BITMAP_AUTO) {
            json_array_append_new(flags, json_string("auto"));
        }
        json_t *o = json_pack("{s:o, s:I}", "flags", flags, "granularity",
                              (json_int_t)1 << m->shift);
        json_object_set_new(o, "name", json_string_nocheck(m->name));
        json_array_append_new(all, o);
    }
    if (all) {
        json_object_set_new(data, "bitmaps", all);
    }
}
