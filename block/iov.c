#include "block/blk_priv.h"

#include <string.h>

#include "lib/base/base.h"

/* Lists of buffers, and parts of them. */

unsigned blk_data_slice(const struct blk_data *d, uint64_t len, struct iovec *out)
{
    uint64_t skip = d->skip;
    unsigned n = 0;
    for (unsigned i = 0; i < d->nb && len > 0; i++) {
        const struct iovec *v = &d->iov[i];
        if (skip >= v->iov_len) {
            skip -= v->iov_len;
            continue;
        }
        size_t part = MIN(v->iov_len - skip, len);
        out[n++] = (struct iovec){(char *)v->iov_base + skip, part};
        len -= part;
        skip = 0;
    }
    return n;
}

struct blk_data blk_data_at(const struct blk_data *d, uint64_t skip)
{
    return (struct blk_data){d->iov, d->nb, d->skip + skip};
}

void *blk_data_flat(const struct blk_data *d, uint64_t len)
{
    uint64_t skip = d->skip;
    for (unsigned i = 0; i < d->nb; i++) {
        const struct iovec *v = &d->iov[i];
        if (skip < v->iov_len) {
            return v->iov_len - skip >= len ? (char *)v->iov_base + skip : NULL;
        }
        skip -= v->iov_len;
    }
    return NULL;
}

/* What is done to each contiguous part; false stops. */
typedef bool (*part_fn)(void *part, size_t len, void *opaque);

static bool each_part(const struct blk_data *d, uint64_t len, part_fn fn, void *opaque)
{
    uint64_t skip = d->skip;
    for (unsigned i = 0; i < d->nb && len > 0; i++) {
        const struct iovec *v = &d->iov[i];
        if (skip >= v->iov_len) {
            skip -= v->iov_len;
            continue;
        }
        size_t part = MIN(v->iov_len - skip, len);
        if (!fn((char *)v->iov_base + skip, part, opaque)) {
            return false;
        }
        len -= part;
        skip = 0;
    }
    return true;
}

static bool part_in(void *part, size_t len, void *opaque)
{
    const char **from = opaque;
    memcpy(part, *from, len);
    *from += len;
    return true;
}

static bool part_out(void *part, size_t len, void *opaque)
{
    char **to = opaque;
    memcpy(*to, part, len);
    *to += len;
    return true;
}

static bool part_zero(void *part, size_t len, void *opaque)
{
    memset(part, 0, len);
    return true;
}

static bool part_is_zero(void *part, size_t len, void *opaque)
{
    const char *p = part;
    /* Equal to itself shifted by 16 bytes, the first 16 being zero. */
    static const char zeros[16];
    size_t head = MIN(len, sizeof(zeros));
    return memcmp(p, zeros, head) == 0 &&
           (len <= head || memcmp(p, p + head, len - head) == 0);
}

void blk_data_copy_in(const struct blk_data *d, const void *from, uint64_t len)
{
    each_part(d, len, part_in, &from);
}

void blk_data_copy_out(const struct blk_data *d, void *to, uint64_t len)
{
    if (!d->iov) {
        memset(to, 0, len);
        return;
    }
    each_part(d, len, part_out, &to);
}

void blk_data_zero(const struct blk_data *d, uint64_t len)
{
    each_part(d, len, part_zero, NULL);
}

bool blk_data_is_zero(const struct blk_data *d, uint64_t len)
{
    return each_part(d, len, part_is_zero, NULL);
}
