#include "block/format/pages.h"

#include <errno.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"

/* A hash by place and a list by use, newest first. */

enum { SECTOR = 512 };

struct pages {
    struct blk *file;
    uint32_t bytes;
    unsigned count, max;
    unsigned nb_dirty;
    GHashTable *by_offset;
    struct page *newest, *oldest;
    int (*on_full)(void *opaque);
    void *opaque;
};

struct pages *pages_new(struct blk *file, uint32_t page_bytes, uint64_t max_bytes)
{
    struct pages *p = g_new0(struct pages, 1);
    p->file = file;
    p->bytes = page_bytes;
    /* A caller may hold one while another comes in: never fewer than a few. */
    p->max = (unsigned)CLAMP(max_bytes / page_bytes, 16, 1u << 20);
    p->by_offset = g_hash_table_new(g_int64_hash, g_int64_equal);
    return p;
}

void pages_on_full(struct pages *p, int (*write)(void *opaque), void *opaque)
{
    p->on_full = write;
    p->opaque = opaque;
}

static void unlink_page(struct pages *p, struct page *pg)
{
    *(pg->newer ? &pg->newer->older : &p->newest) = pg->older;
    *(pg->older ? &pg->older->newer : &p->oldest) = pg->newer;
}

static void push_newest(struct pages *p, struct page *pg)
{
    pg->newer = NULL;
    pg->older = p->newest;
    *(p->newest ? &p->newest->newer : &p->oldest) = pg;
    p->newest = pg;
}

static void drop_page(struct pages *p, struct page *pg)
{
    p->nb_dirty -= pg->dirty;
    unlink_page(p, pg);
    g_hash_table_remove(p->by_offset, &pg->offset);
    p->count--;
    g_free(pg->data);
    g_free(pg->spans);
    g_free(pg);
}

void pages_free(struct pages *p)
{
    if (!p) {
        return;
    }
    while (p->newest) {
        drop_page(p, p->newest);
    }
    g_hash_table_destroy(p->by_offset);
    g_free(p);
}

static struct page *find(struct pages *p, uint64_t at)
{
    if (p->newest && p->newest->offset == at) {
        return p->newest;
    }
    struct page *pg = g_hash_table_lookup(p->by_offset, &at);
    if (pg) {
        unlink_page(p, pg);
        push_newest(p, pg);
    }
    return pg;
}

/* Room for one more: the oldest goes, all that was changed being written first. */
static int make_room(struct pages *p)
{
    if (p->count < p->max) {
        return 0;
    }
    if (p->oldest->dirty) {
        int r = p->on_full ? p->on_full(p->opaque) : pages_write(p);
        if (r < 0) {
            return r;
        }
    }
    drop_page(p, p->oldest);
    return 0;
}

static int read_page(struct pages *p, uint64_t at, struct page **ret)
{
    uint64_t length = blk_length(p->file);
    uint64_t has = at < length ? MIN((uint64_t)p->bytes, length - at) : 0;
    int r = make_room(p);
    if (r < 0) {
        return r;
    }
    g_autofree uint8_t *data = g_try_malloc0(p->bytes);
    if (!data) {
        return -ENOMEM;
    }
    r = has ? blk_pread(p->file, at, data, has) : 0;
    if (r < 0) {
        return r;
    }
    struct page *pg = g_new0(struct page, 1);
    pg->offset = at;
    pg->data = g_steal_pointer(&data);
    pg->spans = g_new0(struct page_span, p->bytes / SECTOR);
    g_hash_table_insert(p->by_offset, &pg->offset, pg);
    push_newest(p, pg);
    p->count++;
    *ret = pg;
    return 0;
}

int pages_get(struct pages *p, uint64_t offset, bool cached, uint8_t **ret)
{
    uint64_t at = ALIGN_DOWN(offset, (uint64_t)p->bytes);
    struct page *pg = find(p, at);
    int r = pg ? 0 : cached ? -EAGAIN : read_page(p, at, &pg);
    if (r == 0) {
        *ret = pg->data + (offset - at);
    }
    return r;
}

void pages_dirty(struct pages *p, uint64_t offset, uint32_t len)
{
    uint64_t at = ALIGN_DOWN(offset, (uint64_t)p->bytes);
    struct page *pg = find(p, at);
    uint32_t from = (uint32_t)(offset - at), end = from + len;
    p->nb_dirty += !pg->dirty;
    pg->dirty = true;
    while (from < end) {
        struct page_span *span = &pg->spans[from / SECTOR];
        uint16_t in = from % SECTOR, to = (uint16_t)MIN(end - from + in, SECTOR);
        bool fresh = span->from == span->to;
        span->from = fresh ? in : MIN(span->from, in);
        span->to = fresh ? to : MAX(span->to, to);
        from += to - in;
    }
}

int pages_get_le32(struct pages *p, uint64_t offset, bool cached, uint32_t *ret)
{
    uint8_t *at;
    int r = pages_get(p, offset, cached, &at);
    if (r == 0) {
        *ret = le32_get(at);
    }
    return r;
}

int pages_get_be32(struct pages *p, uint64_t offset, bool cached, uint32_t *ret)
{
    int r = pages_get_le32(p, offset, cached, ret);
    *ret = r == 0 ? __builtin_bswap32(*ret) : *ret;
    return r;
}

int pages_put_le32(struct pages *p, uint64_t offset, uint32_t value)
{
    uint8_t *at;
    int r = pages_get(p, offset, false, &at);
    if (r == 0) {
        le32_put(at, value);
        pages_dirty(p, offset, 4);
    }
    return r;
}

int pages_put_be32(struct pages *p, uint64_t offset, uint32_t value)
{
    return pages_put_le32(p, offset, __builtin_bswap32(value));
}

static int copy(struct pages *p, uint64_t offset, uint8_t *buf, uint64_t len, bool in)
{
    while (len > 0) {
        uint8_t *at;
        uint64_t n = MIN(len, p->bytes - offset % p->bytes);
        int r = pages_get(p, offset, false, &at);
        if (r < 0) {
            return r;
        }
        if (in) {
            memcpy(at, buf, n);
            pages_dirty(p, offset, (uint32_t)n);
        } else {
            memcpy(buf, at, n);
        }
        offset += n;
        buf += n;
        len -= n;
    }
    return 0;
}

int pages_read(struct pages *p, uint64_t offset, void *buf, uint64_t len)
{
    return copy(p, offset, buf, len, false);
}

int pages_store(struct pages *p, uint64_t offset, const void *buf, uint64_t len)
{
    return copy(p, offset, (uint8_t *)buf, len, true);
}

/* ---- writing back ------------------------------------------------------------------
 */

static int by_place(const void *a, const void *b)
{
    const struct page *x = *(struct page *const *)a, *y = *(struct page *const *)b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

GPtrArray *pages_changed(struct pages *p)
{
    GPtrArray *list = g_ptr_array_new();
    for (struct page *pg = p->newest; p->nb_dirty && pg; pg = pg->older) {
        if (pg->dirty) {
            g_ptr_array_add(list, pg);
        }
    }
    if (list->len) {
        g_ptr_array_sort(list, by_place);
    }
    return list;
}

void pages_clean(struct pages *p, struct page *page)
{
    p->nb_dirty -= page->dirty;
    page->dirty = false;
    memset(page->spans, 0, p->bytes / SECTOR * sizeof(page->spans[0]));
}

/* Each run of changed bytes, across sectors where it goes on. */
static int write_page(struct pages *p, const struct page *pg)
{
    uint32_t sectors = p->bytes / SECTOR;
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < sectors; i++) {
        const struct page_span *s = pg->spans;
        uint32_t from = i * SECTOR + s[i].from;
        if (s[i].from == s[i].to) {
            continue;
        }
        while (s[i].to == SECTOR && i + 1 < sectors && s[i + 1].from == 0 &&
               s[i + 1].to > 0) {
            i++;
        }
        uint32_t len = i * SECTOR + s[i].to - from;
        r = blk_pwrite(p->file, pg->offset + from, pg->data + from, len);
    }
    return r;
}

int pages_write(struct pages *p)
{
    if (!p->nb_dirty) {
        return 0;
    }
    int r = blk_run(p->file, BLK_FLUSH, 0, NULL, 0, 0, 0);
    g_autoptr(GPtrArray) list = pages_changed(p);
    for (unsigned i = 0; r == 0 && i < list->len; i++) {
        r = write_page(p, list->pdata[i]);
        if (r == 0) {
            pages_clean(p, list->pdata[i]);
        }
    }
    return r;
}

int pages_zero_space(struct blk *file, uint64_t offset, uint64_t len)
{
    static const uint8_t sector[512];
    uint64_t end, have = file->content_len;
    if (!ck_add(offset, len, &end) || end > INT64_MAX) {
        return -EFBIG;
    }
    if (offset < have) {
        uint64_t part = MIN(len, have - offset);
        int r = blk_run(file, BLK_ZERO, offset, NULL, 0, part, BLK_MAY_UNMAP);
        if (r < 0) {
            return r;
        }
    }
    uint64_t last = MIN(len, sizeof(sector));
    return end > have ? blk_pwrite(file, end - last, sector, last) : 0;
}
