#include "block/nbd/priv.h"

#include <errno.h>

#include "block/image.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"

/*
 * Metadata contexts. An answer is a list of (length, flags) from the offset asked;
 * neighbours that are alike are one. It may stop early, so its size is bounded.
 */

enum { EXTENTS_MAX = 1 << 16 };

/* What is at @offset of the image: flags, and for how long. */
static int ask_allocation(struct nbd_req *r, uint64_t offset, uint64_t len,
                          uint32_t *ret_flags, uint64_t *ret_len)
{
    struct blk_status s;
    int err = blk_map_at(r->conn->export->blk, offset, len, &s);
    *ret_flags = (s.flags & BLK_STATUS_DATA ? 0 : NBD_STATE_HOLE) |
                 (s.flags & BLK_STATUS_ZERO ? NBD_STATE_ZERO : 0);
    *ret_len = s.len;
    return err;
}

/* 0: no layer has it; 1: the image itself; 2: its backing file... */
static int ask_depth(struct nbd_req *r, uint64_t offset, uint64_t len,
                     uint32_t *ret_flags, uint64_t *ret_len)
{
    struct blk_status s;
    int err = blk_map_at(r->conn->export->blk, offset, len, &s);
    *ret_flags = s.flags & BLK_STATUS_ALLOCATED ? s.depth + 1 : 0;
    *ret_len = s.len;
    return err;
}

static int ask_bitmap(const struct nbd_context *x, uint64_t offset, uint64_t len,
                      uint32_t *ret_flags, uint64_t *ret_len)
{
    bool dirty = false;
    uint64_t length = blk_length(x->blk);
    if (offset >= length) {
        *ret_flags = 0; /* a backing file that is shorter */
        *ret_len = len;
        return 0;
    }
    len = MIN(len, length - offset);
    bool ok = blk_bitmap_next(x->blk, x->bitmap, offset, len, &dirty, ret_len, NULL);
    *ret_flags = dirty ? NBD_STATE_DIRTY : 0;
    return ok ? 0 : -EIO;
}

static void add_extent(GArray *to, uint64_t len, uint32_t flags)
{
    struct nbd_extent *last =
        to->len ? &g_array_index(to, struct nbd_extent, to->len - 1) : NULL;
    if (last && last->flags == flags && last->len + len <= UINT32_MAX) {
        last->len += (uint32_t)len;
    } else {
        struct nbd_extent e = {(uint32_t)len, flags};
        g_array_append_val(to, e);
    }
}

static int query_context(struct nbd_req *r, const struct nbd_context *x, GArray *to)
{
    bool one = r->flags & NBD_CMD_FLAG_REQ_ONE;
    uint64_t pos = r->conn->export->offset + r->offset, end = pos + r->len;
    while (pos < end) {
        uint32_t flags;
        uint64_t len;
        int err = x->kind == NBD_CTX_ALLOCATION
                      ? ask_allocation(r, pos, end - pos, &flags, &len)
                  : x->kind == NBD_CTX_DEPTH
                      ? ask_depth(r, pos, end - pos, &flags, &len)
                      : ask_bitmap(x, pos, end - pos, &flags, &len);
        if (err < 0) {
            return err;
        }
        len = CLAMP(len, 1, end - pos);
        add_extent(to, len, flags);
        pos += len;
        /* One more than is wanted shows that the last one is whole. */
        unsigned most = one ? 1 : EXTENTS_MAX;
        if (to->len > most) {
            g_array_set_size(to, most);
            break;
        }
    }
    return 0;
}

int nbd_status_query(struct nbd_req *r)
{
    const struct nbd_export *e = r->conn->export;
    r->answers = g_array_new(FALSE, TRUE, sizeof(struct nbd_answer));
    for (unsigned i = 0; i < r->nb_contexts; i++) {
        struct nbd_answer a = {r->contexts[i],
                               g_array_new(FALSE, FALSE, sizeof(struct nbd_extent))};
        g_array_append_val(r->answers, a);
        int err = query_context(
            r, &g_array_index(e->contexts, struct nbd_context, a.context), a.extents);
        if (err < 0) {
            return err;
        }
    }
    return 0;
}

unsigned nbd_status_reply(struct nbd_req *r)
{
    enum { HEAD = 20 + 4 };
    unsigned nb = r->answers->len;
    r->heads = g_malloc((size_t)nb * HEAD);
    r->iovs = g_new(struct iovec, nb * 2);
    for (unsigned i = 0; i < nb; i++) {
        struct nbd_answer *a = &g_array_index(r->answers, struct nbd_answer, i);
        uint32_t bytes = a->extents->len * 8u;
        uint8_t *p = r->heads + (size_t)i * HEAD;
        nbd_put_chunk(p, i + 1 == nb ? NBD_REPLY_FLAG_DONE : 0,
                      NBD_REPLY_TYPE_BLOCK_STATUS, r->cookie, 4 + bytes);
        be32_put(p + 20, a->context);
        for (unsigned k = 0; k < a->extents->len; k++) {
            struct nbd_extent *x = &g_array_index(a->extents, struct nbd_extent, k);
            *x = (struct nbd_extent){__builtin_bswap32(x->len),
                                     __builtin_bswap32(x->flags)};
        }
        r->iovs[i * 2] = (struct iovec){p, HEAD};
        r->iovs[i * 2 + 1] = (struct iovec){a->extents->data, bytes};
    }
    return nb * 2;
}

void nbd_status_free(struct nbd_req *r)
{
    for (unsigned i = 0; r->answers && i < r->answers->len; i++) {
        g_array_free(g_array_index(r->answers, struct nbd_answer, i).extents, TRUE);
    }
    g_clear_pointer(&r->answers, g_array_unref);
    g_clear_pointer(&r->contexts, g_free);
}
