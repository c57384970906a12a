#include "vmm/dev/virtio/virtq.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"

/*
 * The three parts of a split ring, all little-endian (2.7.5, 2.7.6, 2.7.8):
 *
 *   desc   size entries of 16 bytes: le64 addr, le32 len, le16 flags, le16 next
 *   avail  le16 flags, le16 idx, le16 ring[size], le16 used_event
 *   used   le16 flags, le16 idx, {le32 id, le32 len} ring[size], le16 avail_event
 *
 * Indexes count freely modulo 2^16. Each side publishes entries with a release store
 * of its idx, and looks at the other's with an acquire load. "Do you want to be
 * told?" is store, full fence, load on both sides: the fences here pair with the
 * driver's.
 */

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4, DESC_SIZE = 16 };
enum { AVAIL_NO_INTERRUPT = 1, USED_NO_NOTIFY = 1 };
enum { RING_FLAGS = 0, RING_IDX = 2, RING_ENTRIES = 4 };

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

static uint16_t load16(const uint8_t *p, int order)
{
    return __atomic_load_n((const uint16_t *)p, order);
}

static void store16(uint8_t *p, uint16_t v, int order)
{
    __atomic_store_n((uint16_t *)p, v, order);
}

static size_t avail_len(const struct virtq *q)
{
    return RING_ENTRIES + 2 * (size_t)q->size + 2;
}

static size_t used_len(const struct virtq *q)
{
    return RING_ENTRIES + 8 * (size_t)q->size + 2;
}

/* A ring as one piece of RAM, or NULL. */
static uint8_t *ring_host(struct virtq *q, gpa_t gpa, size_t len, unsigned align)
{
    struct iovec iov;
    unsigned n = 0;
    if (gpa % align || gmem_iov(q->gmem, gpa, len, true, &iov, &n, 1) != 0) {
        return NULL;
    }
    return iov.iov_base;
}

int virtq_enable(struct virtq *q)
{
    q->ready = false;
    if (q->size == 0 || q->size > VIRTQ_SIZE_MAX || (q->size & (q->size - 1))) {
        return -EBADMSG;
    }
    q->desc = ring_host(q, q->desc_gpa, (size_t)DESC_SIZE * q->size, 16);
    q->avail = ring_host(q, q->avail_gpa, avail_len(q), 2);
    q->used = ring_host(q, q->used_gpa, used_len(q), 4);
    if (!q->desc || !q->avail || !q->used) {
        return -EBADMSG;
    }
    q->ready = true;
    return 0;
}

void virtq_reset(struct virtq *q)
{
    *q = (struct virtq){.gmem = q->gmem};
}

static struct desc desc_get(const uint8_t *p)
{
    return (struct desc){
        .addr = le64_get(p),
        .len = le32_get(p + 8),
        .flags = le16_get(p + 12),
        .next = le16_get(p + 14),
    };
}

/* Append one buffer to @c, in as many segments as it has pieces of RAM. */
static int add_buffer(struct virtq *q, struct virtq_chain *c, const struct desc *d)
{
    bool write = d->flags & DESC_WRITE;
    unsigned n = c->nb_out + c->nb_in, first = n;
    uint32_t *len = write ? &c->in_len : &c->out_len;
    if (!write && c->nb_in) {
        return -EBADMSG;
    }
    if (__builtin_add_overflow(*len, d->len, len)) {
        return -EBADMSG;
    }
    if (gmem_iov(q->gmem, d->addr, d->len, write, c->iov, &n, c->max) != 0) {
        return -EBADMSG;
    }
    gpa_t gpa = d->addr;
    for (unsigned i = first; i < n; i++) {
        c->gpa[i] = gpa;
        gpa += c->iov[i].iov_len;
    }
    *(write ? &c->nb_in : &c->nb_out) += n - first;
    return 0;
}

/* Follow a chain through the ring's own table. Longer than the ring: it loops. */
static int walk_direct(struct virtq *q, struct virtq_chain *c, struct desc d)
{
    for (unsigned left = q->size;; left--) {
        if (left == 0 || (d.flags & DESC_INDIRECT) || add_buffer(q, c, &d) != 0) {
            return -EBADMSG;
        }
        if (!(d.flags & DESC_NEXT)) {
            return 0;
        }
        if (d.next >= q->size) {
            return -EBADMSG;
        }
        d = desc_get(q->desc + (size_t)DESC_SIZE * d.next);
    }
}

/* Follow a chain through the table that @table describes (2.7.5.3). */
static int walk_indirect(struct virtq *q, struct virtq_chain *c,
                         const struct desc *table)
{
    uint32_t n = table->len / DESC_SIZE, next = 0;
    uint8_t bytes[DESC_SIZE];
    struct desc d;
    if (!q->indirect || (table->flags & DESC_NEXT) || table->len % DESC_SIZE ||
        n == 0 || n > UINT16_MAX + 1u) {
        return -EBADMSG;
    }
    for (unsigned left = MIN(n, q->size); left > 0; left--) {
        gpa_t gpa;
        if (__builtin_add_overflow(table->addr, (uint64_t)DESC_SIZE * next, &gpa) ||
            gmem_read(q->gmem, gpa, bytes, sizeof(bytes)) != 0) {
            return -EBADMSG;
        }
        d = desc_get(bytes);
        if ((d.flags & DESC_INDIRECT) || add_buffer(q, c, &d) != 0) {
            return -EBADMSG;
        }
        if (!(d.flags & DESC_NEXT)) {
            return 0;
        }
        next = d.next;
        if (next >= n) {
            return -EBADMSG;
        }
    }
    return -EBADMSG;
}

int virtq_pop(struct virtq *q, struct virtq_chain *c)
{
    if (!q->ready) {
        return 0;
    }
    uint16_t idx = load16(q->avail + RING_IDX, __ATOMIC_ACQUIRE);
    uint16_t waiting = (uint16_t)(idx - q->next_avail);
    if (waiting == 0) {
        return 0;
    }
    /* More than there are descriptors, waiting or out: the driver lies. */
    if (waiting > q->size || q->in_use >= q->size) {
        return -EBADMSG;
    }
    unsigned slot = q->next_avail & (q->size - 1);
    uint16_t head = load16(q->avail + RING_ENTRIES + 2 * slot, __ATOMIC_RELAXED);
    if (head >= q->size) {
        return -EBADMSG;
    }
    c->head = head;
    c->nb_out = c->nb_in = 0;
    c->out_len = c->in_len = 0;
    struct desc d = desc_get(q->desc + (size_t)DESC_SIZE * head);
    int err = d.flags & DESC_INDIRECT ? walk_indirect(q, c, &d) : walk_direct(q, c, d);
    if (err) {
        return err;
    }
    q->next_avail++;
    q->in_use++;
    return 1;
}

void virtq_push(struct virtq *q, const struct virtq_chain *c, uint32_t written)
{
    uint32_t left = MIN(written, c->in_len);
    for (unsigned i = c->nb_out; left && i < c->nb_out + c->nb_in; i++) {
        uint32_t n = (uint32_t)MIN(left, c->iov[i].iov_len);
        gmem_written(q->gmem, c->gpa[i], n);
        left -= n;
    }
    size_t at = RING_ENTRIES + (size_t)8 * (q->next_used & (q->size - 1));
    le32_put(q->used + at, c->head);
    le32_put(q->used + at + 4, written);
    q->next_used++;
    q->in_use--;
    store16(q->used + RING_IDX, q->next_used, __ATOMIC_RELEASE);
    gmem_written(q->gmem, q->used_gpa + at, 8);
    gmem_written(q->gmem, q->used_gpa, RING_ENTRIES);
}

bool virtq_wants_interrupt(struct virtq *q)
{
    uint16_t old = q->signalled, new = q->next_used;
    q->signalled = new;
    if (new == old) {
        return false;
    }
    atomic_thread_fence(memory_order_seq_cst);
    if (!q->event_idx) {
        return !(load16(q->avail + RING_FLAGS, __ATOMIC_RELAXED) & AVAIL_NO_INTERRUPT);
    }
    uint16_t event =
        load16(q->avail + RING_ENTRIES + 2 * (size_t)q->size, __ATOMIC_RELAXED);
    /* Whether event lies in [old, new), modulo 2^16 (2.7.10). */
    return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

void virtq_kicks_off(struct virtq *q)
{
    /* With event_idx an avail_event in the past does it: nothing to write. */
    if (!q->event_idx) {
        store16(q->used + RING_FLAGS, USED_NO_NOTIFY, __ATOMIC_RELAXED);
    }
}

bool virtq_kicks_on(struct virtq *q)
{
    if (q->event_idx) {
        size_t at = RING_ENTRIES + (size_t)8 * q->size;
        store16(q->used + at, q->next_avail, __ATOMIC_RELAXED);
        gmem_written(q->gmem, q->used_gpa + at, 2);
    } else {
        store16(q->used + RING_FLAGS, 0, __ATOMIC_RELAXED);
    }
    atomic_thread_fence(memory_order_seq_cst);
    return load16(q->avail + RING_IDX, __ATOMIC_ACQUIRE) != q->next_avail;
}

/* The segments [first, first + n) from byte @off on, copied to or from @buf. */
static uint32_t move(const struct iovec *iov, unsigned n, uint32_t off, uint8_t *buf,
                     uint32_t len, bool out)
{
    uint32_t done = 0;
    for (unsigned i = 0; i < n && done < len; i++) {
        if (off >= iov[i].iov_len) {
            off -= (uint32_t)iov[i].iov_len;
            continue;
        }
        uint8_t *p = (uint8_t *)iov[i].iov_base + off;
        uint32_t part = (uint32_t)MIN(len - done, iov[i].iov_len - off);
        gmem_copy(out ? p : buf + done, out ? buf + done : p, part);
        done += part;
        off = 0;
    }
    return done;
}

uint32_t virtq_chain_read(const struct virtq_chain *c, uint32_t off, void *buf,
                          uint32_t len)
{
    return move(c->iov, c->nb_out, off, buf, len, false);
}

uint32_t virtq_chain_write(const struct virtq_chain *c, uint32_t off, const void *buf,
                           uint32_t len)
{
    return move(c->iov + c->nb_out, c->nb_in, off, (uint8_t *)buf, len, true);
}
