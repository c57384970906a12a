#include "vmm/dev/pc/chr_out.h"

#include <string.h>

#include "lib/base/base.h"
#include "vmm/chardev/chardev.h"
#include "vmm/vm/clock.h"

#define GATHER_NS UINT64_C(1000000)

static void chr_out_timer(void *opaque)
{
    struct chr_out *o = opaque;
    g_mutex_lock(o->lock);
    o->armed = false;
    chr_out_flush(o);
    g_mutex_unlock(o->lock);
}

void chr_out_init(struct chr_out *o, struct chardev *cd, struct vm_clock *clock,
                  GMutex *lock)
{
    *o = (struct chr_out){.cd = cd, .lock = lock, .clock = clock};
    o->timer = vm_timer_new(clock, chr_out_timer, o);
}

void chr_out_done(struct chr_out *o)
{
    if (!o->timer) {
        return;
    }
    vm_timer_free(o->timer);
    o->timer = NULL;
    o->blocked = false;
    chr_out_flush(o);
    if (o->len > 0) {
        chardev_drain(o->cd);
        o->blocked = false;
        chr_out_flush(o);
    }
}

unsigned chr_out_room(const struct chr_out *o)
{
    return CHR_OUT_SIZE - o->len;
}

void chr_out_flush(struct chr_out *o)
{
    if (o->len == 0 || o->blocked) {
        return;
    }
    size_t taken = chardev_write(o->cd, o->buf, o->len);
    if (taken < o->len) {
        o->blocked = true; /* until chr_out_resume() */
        memmove(o->buf, o->buf + taken, o->len - taken);
    }
    o->len -= taken;
}

void chr_out_resume(struct chr_out *o)
{
    o->blocked = false;
    chr_out_flush(o);
}

void chr_out_put(struct chr_out *o, uint8_t byte)
{
    if (!o->cd || o->len == CHR_OUT_SIZE) {
        return;
    }
    o->buf[o->len++] = byte;
    if (byte == '\n' || o->len == CHR_OUT_SIZE) {
        chr_out_flush(o);
    } else if (!o->armed) {
        o->armed = true;
        vm_timer_set(o->timer, vm_clock_ns(o->clock) + GATHER_NS);
    }
}
