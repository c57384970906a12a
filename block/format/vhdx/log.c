#include "block/format/vhdx/vhdx_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/*
 * The log (2.3): a ring of entries, each some pages of metadata with a checksum over
 * all. An entry:
 *
 *     64 bytes      "loge", checksum, length, tail, number, descriptors, GUID, sizes
 *     32 bytes      per page: "desc" with its place and first 8 and last 4 bytes, or
 *                   "zero" with a range that becomes zero
 *     4 KiB         per "desc": "data", the middle of the page, the number again
 *
 * Valid entries with the header's GUID and numbers that follow each other, from the
 * tail that the last of them names, are what must be replayed: of several such
 * sequences the one with the highest number.
 *
 * We write one entry at a time and have its pages in place before the next, so each of
 * ours is a sequence of its own: its tail is itself.
 */

enum {
    E_LENGTH = 8,
    E_TAIL = 12,
    E_SEQUENCE = 16,
    E_COUNT = 24,
    E_GUID = 32,
    E_FLUSHED = 48,
    E_LAST = 56,
    ENTRY_HEAD = 64,
    DESC = 32,
    PAGES_MOST = (VHDX_PAGE - ENTRY_HEAD) / DESC, /* in one entry of ours */
};

/* ---- writing ------------------------------------------------------------------------
 */

static void put_page(uint8_t *entry, unsigned i, const struct page *pg, uint64_t number)
{
    uint8_t *d = entry + ENTRY_HEAD + i * DESC;
    uint8_t *s = entry + VHDX_PAGE + (size_t)i * VHDX_PAGE;
    memcpy(d, "desc", 4);
    memcpy(d + 4, pg->data + VHDX_PAGE - 4, 4);
    memcpy(d + 8, pg->data, 8);
    le64_put(d + 16, pg->offset);
    le64_put(d + 24, number);
    memcpy(s, "data", 4);
    le32_put(s + 4, (uint32_t)(number >> 32));
    memcpy(s + 8, pg->data + 8, VHDX_PAGE - 12);
    le32_put(s + VHDX_PAGE - 4, (uint32_t)number);
}

static int write_entry(struct vhdx *v, struct page *const *list, unsigned n)
{
    uint32_t len = (n + 1) * VHDX_PAGE;
    g_autofree uint8_t *entry = g_try_malloc0(len);
    if (!entry) {
        return -ENOMEM;
    }
    if (v->log_position + len > v->log_length) {
        v->log_position = 0;
    }
    v->log_sequence++;
    memcpy(entry, "loge", 4);
    le32_put(entry + E_LENGTH, len);
    le32_put(entry + E_TAIL, (uint32_t)v->log_position);
    le64_put(entry + E_SEQUENCE, v->log_sequence);
    le32_put(entry + E_COUNT, n);
    memcpy(entry + E_GUID, v->header + H_LOG_GUID, VHDX_GUID);
    le64_put(entry + E_FLUSHED, v->file->content_len);
    le64_put(entry + E_LAST, v->file->content_len);
    for (unsigned i = 0; i < n; i++) {
        put_page(entry, i, list[i], v->log_sequence);
    }
    le32_put(entry + 4, vhdx_checksum(v, entry, len));
    int r = blk_pwrite(v->file, v->log_offset + v->log_position, entry, len);
    v->log_position += len;
    return r;
}

/* From now on the log counts. */
static int open_log(struct vhdx *v)
{
    if (!vhdx_is_null(v->header + H_LOG_GUID)) {
        return 0;
    }
    vhdx_random_guid(v->header + H_LOG_GUID);
    v->log_position = v->log_sequence = 0;
    int r = vhdx_write_headers(v);
    if (r < 0) {
        memset(v->header + H_LOG_GUID, 0, VHDX_GUID);
    }
    return r;
}

static int flush(struct vhdx *v)
{
    return blk_run(v->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
}

int vhdx_commit(struct vhdx *v)
{
    g_autoptr(GPtrArray) list = pages_changed(v->pages);
    int r = list->len ? open_log(v) : 0;
    for (unsigned i = 0; r == 0 && i < list->len;) {
        struct page **part = (struct page **)list->pdata + i;
        unsigned n = MIN(list->len - i, PAGES_MOST);
        r = flush(v); /* data, and the pages of the entry before */
        r = r ? r : write_entry(v, part, n);
        r = r ? r : flush(v);
        for (unsigned k = 0; r == 0 && k < n; k++) {
            r = blk_pwrite(v->file, part[k]->offset, part[k]->data, VHDX_PAGE);
            if (r == 0) {
                pages_clean(v->pages, part[k]);
            }
        }
        i += n;
    }
    return r;
}

int vhdx_close_log(struct vhdx *v)
{
    if (vhdx_is_null(v->header + H_LOG_GUID)) {
        return 0;
    }
    int r = flush(v);
    if (r == 0) {
        memset(v->header + H_LOG_GUID, 0, VHDX_GUID);
        r = vhdx_write_headers(v);
    }
    return r;
}

/* ---- reading ------------------------------------------------------------------------
 */

struct entry {
    uint32_t position, len, tail;
    uint64_t number, flushed, last;
};

struct reader {
    struct vhdx *v;
    GArray *entries; /* of struct entry, by position */
    uint64_t budget; /* bytes that may still be summed up */
};

/* @len bytes of the ring at @position. */
static int read_ring(struct vhdx *v, uint32_t position, uint8_t *buf, uint32_t len)
{
    uint32_t first = MIN(len, v->log_length - position);
    int r = blk_pread(v->file, v->log_offset + position, buf, first);
    return r || first == len
               ? r
               : blk_pread(v->file, v->log_offset, buf + first, len - first);
}

/* The bytes of an entry, or NULL with 0 or -errno in *ret_err. */
static uint8_t *read_entry(struct vhdx *v, const struct entry *e, int *ret_err)
{
    g_autofree uint8_t *p = g_try_malloc(e->len);
    *ret_err = p ? read_ring(v, e->position, p, e->len) : -ENOMEM;
    return *ret_err ? NULL : g_steal_pointer(&p);
}

/* Look for an entry at @position; valid ones go into the list. */
static int look_at(struct reader *rd, uint32_t position)
{
    struct vhdx *v = rd->v;
    uint8_t head[ENTRY_HEAD];
    int r = read_ring(v, position, head, sizeof(head));
    struct entry e = {
        .position = position,
        .len = le32_get(head + E_LENGTH),
        .tail = le32_get(head + E_TAIL),
        .number = le64_get(head + E_SEQUENCE),
        .flushed = le64_get(head + E_FLUSHED),
        .last = le64_get(head + E_LAST),
    };
    if (r < 0 || memcmp(head, "loge", 4) != 0 ||
        memcmp(head + E_GUID, v->header + H_LOG_GUID, VHDX_GUID) != 0 ||
        e.len % VHDX_PAGE || e.len == 0 || e.len > v->log_length ||
        e.tail % VHDX_PAGE || e.tail >= v->log_length || e.number == 0) {
        return r;
    }
    if (e.len > rd->budget) {
        return -EFBIG; /* made to take long */
    }
    rd->budget -= e.len;
    g_autofree uint8_t *p = read_entry(v, &e, &r);
    if (p && le32_get(p + 4) == vhdx_checksum(v, p, e.len)) {
        g_array_append_val(rd->entries, e);
    }
    return r;
}

static const struct entry *entry_at(const struct reader *rd, uint32_t position)
{
    unsigned lo = 0, hi = rd->entries->len;
    while (lo < hi) {
        unsigned mid = lo + (hi - lo) / 2;
        const struct entry *e = &g_array_index(rd->entries, struct entry, mid);
        if (e->position == position) {
            return e;
        }
        *(e->position < position ? &lo : &hi) = e->position < position ? mid + 1 : mid;
    }
    return NULL;
}

/* Whether the entries from the tail of @head up to it are all there. */
static bool is_whole(const struct reader *rd, const struct entry *head)
{
    const struct entry *e = entry_at(rd, head->tail);
    for (unsigned n = 0; e && n <= rd->entries->len; n++) {
        if (e == head) {
            return true;
        }
        uint64_t next = ((uint64_t)e->position + e->len) % rd->v->log_length;
        uint64_t number = e->number;
        e = entry_at(rd, (uint32_t)next);
        if (e && e->number != number + 1) {
            return false;
        }
    }
    return false;
}

static int by_number(const void *a, const void *b)
{
    const struct entry *x = *(struct entry *const *)a, *y = *(struct entry *const *)b;
    return x->number > y->number ? -1 : x->number < y->number;
}

/* The last entry of the sequence that counts, or NULL. */
static const struct entry *find_head(const struct reader *rd)
{
    enum { TRIES = 1024 }; /* each may walk all of them */
    g_autoptr(GPtrArray) all = g_ptr_array_new();
    for (unsigned i = 0; i < rd->entries->len; i++) {
        g_ptr_array_add(all, &g_array_index(rd->entries, struct entry, i));
    }
    if (all->len) {
        g_ptr_array_sort(all, by_number);
    }
    for (unsigned i = 0; i < MIN(all->len, TRIES); i++) {
        if (is_whole(rd, all->pdata[i])) {
            return all->pdata[i];
        }
    }
    return NULL;
}

/* ---- replaying ----------------------------------------------------------------------
 */

/* One descriptor: judged, and done when @apply. @data: the page of a "desc"; @limit:
 * the file's length afterwards, @had: before. */
static int replay_one(struct vhdx *v, const uint8_t *d, uint8_t *data, uint64_t number,
                      uint64_t limit, uint64_t had, bool apply)
{
    uint64_t offset = le64_get(d + 16);
    if (le64_get(d + 24) != number || offset % VHDX_PAGE) {
        return -EINVAL;
    }
    if (memcmp(d, "zero", 4) == 0) {
        uint64_t len = le64_get(d + 8);
        if (len % VHDX_PAGE || !ck_range(offset, len, limit)) {
            return -EINVAL;
        }
        /* What the file did not have is a hole. */
        len = offset < had ? MIN(len, had - offset) : 0;
        return apply && len
                   ? blk_run(v->file, BLK_ZERO, offset, NULL, 0, len, BLK_MAY_UNMAP)
                   : 0;
    }
    if (!data || memcmp(data, "data", 4) != 0 ||
        le32_get(data + 4) != (uint32_t)(number >> 32) ||
        le32_get(data + VHDX_PAGE - 4) != (uint32_t)number ||
        !ck_range(offset, VHDX_PAGE, limit)) {
        return -EINVAL;
    }
    if (!apply) {
        return 0;
    }
    memcpy(data, d + 8, 8);
    memcpy(data + VHDX_PAGE - 4, d + 4, 4);
    return blk_pwrite(v->file, offset, data, VHDX_PAGE);
}

static int replay_entry(struct vhdx *v, const struct entry *e, uint64_t limit,
                        uint64_t had, bool apply)
{
    int r;
    g_autofree uint8_t *p = read_entry(v, e, &r);
    if (!p) {
        return r;
    }
    uint64_t count = le32_get(p + E_COUNT);
    uint64_t at = ALIGN_UP(ENTRY_HEAD + count * DESC, (uint64_t)VHDX_PAGE);
    if (at > e->len) {
        return -EINVAL;
    }
    for (uint64_t i = 0; i < count && r == 0; i++) {
        const uint8_t *d = p + ENTRY_HEAD + i * DESC;
        bool page = memcmp(d, "desc", 4) == 0;
        if (!page && memcmp(d, "zero", 4) != 0) {
            return -EINVAL;
        }
        uint8_t *data = page && at + VHDX_PAGE <= e->len ? p + at : NULL;
        r = replay_one(v, d, data, e->number, limit, had, apply);
        at += page ? VHDX_PAGE : 0;
    }
    return r;
}

static int replay_all(const struct reader *rd, const struct entry *head, uint64_t had,
                      bool apply)
{
    struct vhdx *v = rd->v;
    const struct entry *e = entry_at(rd, head->tail);
    for (;;) {
        int r = replay_entry(v, e, head->last, had, apply);
        if (r < 0 || e == head) {
            return r;
        }
        e = entry_at(rd, (uint32_t)(((uint64_t)e->position + e->len) % v->log_length));
    }
}

static bool replay(struct blk *b, const struct reader *rd, const struct entry *head,
                   GError **error)
{
    struct vhdx *v = rd->v;
    uint64_t have = v->file->content_len;
    if (head->flushed > have || head->last > 2 * VHDX_SIZE_MAX) {
        return error_msg(error,
                         "VHDX log: entry at 0x%" PRIx64 " expects a file of %" PRIu64
                         " bytes; the image was truncated",
                         v->log_offset + head->position,
                         MAX(head->flushed, head->last));
    }
    int r = replay_all(rd, head, have, false);
    if (r < 0) {
        return error_errno(
            error, -r, "VHDX log: the sequence that ends at 0x%" PRIx64 " is damaged",
            v->log_offset + head->position);
    }
    if (b->read_only) {
        return error_msg(error,
                         "VHDX image file '%s' opened read-only, but contains a log "
                         "that needs to be replayed\nTo replay the log, run:\nqemu-img "
                         "check -r all '%s'",
                         b->filename, b->filename);
    }
    if (head->last > have) {
        r = pages_zero_space(v->file, have, head->last - have);
    }
    r = r ? r : replay_all(rd, head, have, true);
    r = r ? r : vhdx_close_log(v);
    v->log_replayed = r == 0;
    return r == 0 || error_errno(error, -r, "VHDX log: could not be replayed");
}

bool vhdx_replay_log(struct blk *b, GError **error)
{
    struct vhdx *v = b->priv;
    if (vhdx_is_null(v->header + H_LOG_GUID)) {
        return true;
    }
    struct reader rd = {.v = v,
                        .entries = g_array_new(FALSE, FALSE, sizeof(struct entry)),
                        .budget = v->log_length * UINT64_C(4)};
    int r = 0;
    for (uint64_t at = 0; at < v->log_length && r == 0; at += VHDX_PAGE) {
        r = look_at(&rd, (uint32_t)at);
    }
    const struct entry *head = r == 0 ? find_head(&rd) : NULL;
    bool ok =
        r < 0 ? error_errno(error, -r, "VHDX log at 0x%" PRIx64 ": could not be read",
                            v->log_offset)
              : !head || replay(b, &rd, head, error);
    g_array_free(rd.entries, TRUE);
    return ok;
}
