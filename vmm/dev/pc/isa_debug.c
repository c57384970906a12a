#include "vmm/dev/pc/isa_debug.h"

#include "lib/base/base.h"
#include "vmm/chardev/chardev.h"
#include "vmm/dev/pc/chr_out.h"
#include "vmm/dev/pc/isa.h"
#include "vmm/vm/device.h"
#include "vmm/vm/vm.h"

/* ---- isa-debugcon ---- */

struct debugcon {
    struct device dev;
    uint32_t iobase, readback;
    struct chardev *cd;
    GMutex lock; /* guards all below */
    struct chr_out out;
    struct io_region port;
    bool attached;
    bool stuck; /* the host takes nothing any more: bytes are dropped until it does */
};

/* The port cannot say that it is busy, so the processor waits, as on QEMU's. */
#define WAIT_MS 3000

static uint64_t debugcon_read(void *opaque, struct vcpu *vcpu, uint64_t off,
                              unsigned len)
{
    const struct debugcon *d = opaque;
    return d->readback;
}

static void debugcon_write(void *opaque, struct vcpu *vcpu, uint64_t off,
                           uint64_t value, unsigned len)
{
    struct debugcon *d = opaque;
    g_mutex_lock(&d->lock);
    for (unsigned i = 0; d->cd && chr_out_room(&d->out) == 0 && !d->stuck; i++) {
        g_mutex_unlock(&d->lock); /* debugcon_can_write() makes room */
        g_usleep(1000);
        g_mutex_lock(&d->lock);
        d->stuck = i == WAIT_MS;
    }
    chr_out_put(&d->out, value);
    g_mutex_unlock(&d->lock);
}

static const struct io_ops debugcon_ops = {
    .read = debugcon_read, .write = debugcon_write, .max_len = 1};

static void debugcon_can_write(void *opaque)
{
    struct debugcon *d = opaque;
    g_mutex_lock(&d->lock);
    d->stuck = false;
    chr_out_resume(&d->out);
    g_mutex_unlock(&d->lock);
}

static const struct chardev_handlers debugcon_handlers = {
    .can_write = debugcon_can_write,
};

static bool debugcon_init(struct device *dev, GError **error)
{
    struct debugcon *d = container_of(dev, struct debugcon, dev);
    g_mutex_init(&d->lock);
    chr_out_init(&d->out, d->cd, dev->vm->clock, &d->lock);
    if (!isa_claim(dev, &d->port, d->iobase, 1, &debugcon_ops, error)) {
        return false;
    }
    d->attached = d->cd && chardev_attach(d->cd, &debugcon_handlers, d, error);
    return d->attached || !d->cd;
}

static void debugcon_done(struct device *dev)
{
    struct debugcon *d = container_of(dev, struct debugcon, dev);
    isa_release(dev, &d->port);
    chr_out_done(&d->out);
    if (d->attached) {
        chardev_detach(d->cd);
    }
    g_mutex_clear(&d->lock);
}

static const struct prop debugcon_props[] = {
    {
        .name = "iobase",
        .type = PROP_U32,
        PROP_FIELD(struct debugcon, iobase),
        .def = 0xe9,
        .max = 0xffff,
        .help = "its port",
    },
    {
        .name = "readback",
        .type = PROP_U32,
        PROP_FIELD(struct debugcon, readback),
        .def = 0xe9,
        .max = 0xff,
        .help = "what reading the port gives",
    },
    {
        .name = "chardev",
        .type = PROP_CHARDEV,
        PROP_FIELD(struct debugcon, cd),
        .help = "where written bytes go",
    },
    {0},
};

const struct device_type isa_debugcon_type = {
    .name = "isa-debugcon",
    .desc = "port whose bytes go to a chardev",
    .bus = "isa",
    .size = sizeof(struct debugcon),
    .props = debugcon_props,
    .user = true,
    .init = debugcon_init,
    .done = debugcon_done,
};

/* ---- isa-debug-exit ---- */

struct debug_exit {
    struct device dev;
    uint32_t iobase, iosize;
    struct io_region ports;
};

static uint64_t debug_exit_read(void *opaque, struct vcpu *vcpu, uint64_t off,
                                unsigned len)
{
    return 0;
}

static void debug_exit_write(void *opaque, struct vcpu *vcpu, uint64_t off,
                             uint64_t value, unsigned len)
{
    struct debug_exit *d = opaque;
    vm_request_end(d->dev.vm, VM_END_EXIT, (int)(uint32_t)(value << 1 | 1));
}

static const struct io_ops debug_exit_ops = {
    .read = debug_exit_read, .write = debug_exit_write, .max_len = 4};

static bool debug_exit_init(struct device *dev, GError **error)
{
    struct debug_exit *d = container_of(dev, struct debug_exit, dev);
    return isa_claim(dev, &d->ports, d->iobase, d->iosize, &debug_exit_ops, error);
}

static void debug_exit_done(struct device *dev)
{
    struct debug_exit *d = container_of(dev, struct debug_exit, dev);
    isa_release(dev, &d->ports);
}

static const struct prop debug_exit_props[] = {
    {
        .name = "iobase",
        .type = PROP_U32,
        PROP_FIELD(struct debug_exit, iobase),
        .def = 0x501,
        .max = 0xffff,
        .help = "its first port",
    },
    {
        .name = "iosize",
        .type = PROP_U32,
        PROP_FIELD(struct debug_exit, iosize),
        .def = 2,
        .min = 1,
        .max = 0x100,
        .help = "how many ports",
    },
    {0},
};

const struct device_type isa_debug_exit_type = {
    .name = "isa-debug-exit",
    .desc = "port that ends the VM with an exit status",
    .bus = "isa",
    .size = sizeof(struct debug_exit),
    .props = debug_exit_props,
    .user = true,
    .init = debug_exit_init,
    .done = debug_exit_done,
};
