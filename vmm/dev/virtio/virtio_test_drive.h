#ifndef VMM_DEV_VIRTIO_VIRTIO_TEST_DRIVE_H
#define VMM_DEV_VIRTIO_VIRTIO_TEST_DRIVE_H

#include "block/blk.h"
#include "vmm/dev/virtio/virtio_test.h"

/*
 * For tests of the block device: a drive of our own in place of block/, memory that
 * can fail and can hold requests back. It defines the functions of blk.h that the
 * device uses: included once per program, which does not link block/.
 */

enum { DISK_SECTORS = 64 };

struct blk {
    struct loop *loop;
    uint8_t bytes[DISK_SECTORS * 512];
    bool read_only;
    bool hold;      /* requests wait until release() */
    int fail;       /* errno of the next requests */
    GQueue waiting; /* struct blk_req */
    struct loop_bh bh;
    unsigned n;
    enum blk_op last_op;
    unsigned last_flags;
    uint64_t last_offset, last_len;
};

struct loop *blk_get_loop(const struct blk *b)
{
    return b->loop;
}

uint64_t blk_length(const struct blk *b)
{
    return sizeof(b->bytes);
}

bool blk_read_only(const struct blk *b)
{
    return b->read_only;
}

bool blk_get_write_cache(const struct blk *b)
{
    return true;
}

static inline void move_data(struct blk *b, struct blk_req *r)
{
    uint64_t at = r->offset;
    for (unsigned i = 0; i < r->nb_iov; i++) {
        g_assert_cmpuint(at + r->iov[i].iov_len, <=, sizeof(b->bytes));
        if (r->op == BLK_READ) {
            memcpy(r->iov[i].iov_base, b->bytes + at, r->iov[i].iov_len);
        } else {
            memcpy(b->bytes + at, r->iov[i].iov_base, r->iov[i].iov_len);
        }
        at += r->iov[i].iov_len;
    }
    g_assert_cmpuint(at - r->offset, ==, r->nb_iov ? r->len : 0);
    if (r->op == BLK_ZERO) {
        memset(b->bytes + r->offset, 0, r->len);
    }
}

static inline void drive_run(void *opaque)
{
    struct blk *b = opaque;
    struct blk_req *r;
    while (!b->hold && (r = g_queue_pop_head(&b->waiting)) != NULL) {
        if (!b->fail) {
            move_data(b, r);
        }
        r->done(r, -b->fail);
    }
}

void blk_submit(struct blk *b, struct blk_req *req)
{
    g_assert_cmpuint(req->offset + req->len, <=, sizeof(b->bytes));
    b->n++;
    b->last_op = req->op;
    b->last_flags = req->flags;
    b->last_offset = req->offset;
    b->last_len = req->len;
    g_queue_push_tail(&b->waiting, req);
    loop_bh_schedule(&b->bh);
}

static inline void release(struct blk *b)
{
    b->hold = false;
    loop_bh_schedule(&b->bh);
}

static inline void *find_drive(void *opaque, const char *id, GError **error)
{
    return opaque;
}

struct disk_machine {
    struct machine m;
    struct blk drive;
};

static inline struct device *plug(struct disk_machine *d, json_t *options,
                                  GError **error)
{
    struct device_resolver resolver = {.opaque = &d->drive, .drive = find_drive};
    json_object_set_new(options, "drive", json_string("d0"));
    struct device *dev =
        device_new(d->m.vm, &virtio_blk_device_type, options, &resolver, error);
    json_decref(options);
    return dev;
}

static inline void drive_init(struct disk_machine *d)
{
    memset(&d->drive, 0, sizeof(d->drive));
    machine_init(&d->m);
    d->drive.loop = d->m.loop;
    g_queue_init(&d->drive.waiting);
    loop_bh_init(&d->drive.bh, d->m.loop, drive_run, &d->drive);
}

#endif
