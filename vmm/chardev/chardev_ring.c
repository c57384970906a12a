/*
 * Memory instead of a host side: the last SIZE bytes of output, and up to SIZE bytes
 * of input that were put there.
 */
#include "vmm/chardev/chardev_priv.h"

#include <string.h>

#include "lib/base/base.h"

struct ring {
    size_t size;
    GByteArray *out, *in; /* under the chardev's lock */
};

static bool ring_open(struct chardev *cd, const json_t *options, GError **error)
{
    struct ring *r = cd->priv = g_new0(struct ring, 1);

    r->size = chardev_opt_num(options, "size", 64 * KIB);
    r->out = g_byte_array_new();
    r->in = g_byte_array_new();
    chardev_connect(cd, -1, -1, 0);
    return true;
}

static void ring_close(struct chardev *cd)
{
    struct ring *r = cd->priv;

    g_byte_array_unref(r->out);
    g_byte_array_unref(r->in);
    g_free(r);
}

static size_t take(GByteArray *a, uint8_t *buf, size_t len)
{
    size_t n = MIN(len, a->len);

    if (n > 0) {
        memcpy(buf, a->data, n);
        g_byte_array_remove_range(a, 0, n);
    }
    return n;
}

static size_t ring_output(struct chardev *cd, const uint8_t *buf, size_t len)
{
    struct ring *r = cd->priv;
    size_t n = MIN(len, r->size);

    g_byte_array_append(r->out, buf + len - n, n);
    if (r->out->len > r->size)
        g_byte_array_remove_range(r->out, 0, r->out->len - r->size);
    return len;
}

static size_t ring_input(struct chardev *cd, uint8_t *buf, size_t len)
{
    struct ring *r = cd->priv;

    return take(r->in, buf, len);
}

size_t chardev_ring_put(struct chardev *cd, const uint8_t *buf, size_t len)
{
    struct ring *r = cd->priv;
    size_t n;

    if (cd->backend != &chardev_ringbuf)
        return 0;
    g_mutex_lock(&cd->lock);
    n = MIN(len, r->size - r->in->len);
    g_byte_array_append(r->in, buf, n);
    g_mutex_unlock(&cd->lock);
    loop_bh_schedule(&cd->update);
    return n;
}

size_t chardev_ring_take(struct chardev *cd, uint8_t *buf, size_t len)
{
    struct ring *r = cd->priv;
    size_t n;

    if (cd->backend != &chardev_ringbuf)
        return 0;
    g_mutex_lock(&cd->lock);
    n = take(r->out, buf, len);
    g_mutex_unlock(&cd->lock);
    return n;
}

static const struct chardev_opt ring_opts[] = {
    {"size", CHARDEV_OPT_NUMBER, .min = 1, .max = 16 * 1024 * 1024,
     .help = "bytes kept (64K)"},
    {NULL},
};

const struct chardev_backend chardev_ringbuf = {
    .name = "ringbuf",
    .help = "keeps the last output in memory",
    .opts = ring_opts,
    .open = ring_open,
    .close = ring_close,
    .output = ring_output,
    .input = ring_input,
};
