#include "vmm/dev/pc/pc_reset.h"

#include "lib/base/base.h"
#include "vmm/dev/pc/isa.h"
#include "vmm/dev/pci/pci_host.h"
#include "vmm/vm/device.h"
#include "vmm/vm/state.h"
#include "vmm/vm/vm.h"

#define RST_CPU  0x04
#define WRITABLE 0x0e

struct pc_reset {
    struct device dev;
    GMutex lock; /* guards all below */
    uint8_t control;
    struct io_region port;
};

static uint64_t pc_reset_read(void *opaque, struct vcpu *vcpu, uint64_t off,
                              unsigned len)
{
    struct pc_reset *d = opaque;
    g_mutex_lock(&d->lock);
    uint8_t value = d->control;
    g_mutex_unlock(&d->lock);
    return value;
}

static void pc_reset_write(void *opaque, struct vcpu *vcpu, uint64_t off,
                           uint64_t value, unsigned len)
{
    struct pc_reset *d = opaque;
    g_mutex_lock(&d->lock);
    bool fire = (value & RST_CPU) && !(d->control & RST_CPU);
    d->control = value & WRITABLE;
    g_mutex_unlock(&d->lock);
    if (fire) {
        vm_request_reset(d->dev.vm);
    }
}

static const struct io_ops pc_reset_ops = {
    .read = pc_reset_read, .write = pc_reset_write, .max_len = 1};

static bool pc_reset_init(struct device *dev, GError **error)
{
    struct pc_reset *d = container_of(dev, struct pc_reset, dev);
    g_mutex_init(&d->lock);
    if (dev->vm->pci) {
        pci_host_set_reset_port(dev->vm->pci, &pc_reset_ops, d);
        return true;
    }
    return isa_claim(dev, &d->port, 0xcf9, 1, &pc_reset_ops, error);
}

static void pc_reset_done(struct device *dev)
{
    struct pc_reset *d = container_of(dev, struct pc_reset, dev);
    isa_release(dev, &d->port);
    g_mutex_clear(&d->lock);
}

static void pc_reset_reset(struct device *dev)
{
    struct pc_reset *d = container_of(dev, struct pc_reset, dev);
    g_mutex_lock(&d->lock);
    d->control = 0;
    g_mutex_unlock(&d->lock);
}

static const struct state_field pc_reset_fields[] = {
    STATE_FIELD(U8, struct pc_reset, control),
    {0},
};

static const struct state_table pc_reset_state = {
    .name = "pc-reset", .version = 1, .fields = pc_reset_fields};

const struct device_type pc_reset_type = {
    .name = "pc-reset",
    .desc = "reset control register at port 0xcf9",
    .size = sizeof(struct pc_reset),
    .state = &pc_reset_state,
    .init = pc_reset_init,
    .done = pc_reset_done,
    .reset = pc_reset_reset,
};
