#include "vmm/dev/pc/ferr.h"

#include "lib/base/base.h"
#include "vmm/arch/x86/x86_vcpu.h"
#include "vmm/dev/pc/isa.h"
#include "vmm/vm/device.h"
#include "vmm/vm/vm.h"

#define FERR_GSI  13
#define FERR_PORT 0xf0

struct ferr {
    struct device dev;
    struct io_region port;
};

static uint64_t ferr_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    return UINT8_MAX; /* the port can only be written */
}

static void ferr_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                       unsigned len)
{
    struct ferr *d = opaque;
    x86_assert_ignne(d->dev.vm);
}

static const struct io_ops ferr_ops = {
    .read = ferr_read, .write = ferr_write, .max_len = 1};

static bool ferr_init(struct device *dev, GError **error)
{
    struct ferr *d = container_of(dev, struct ferr, dev);
    if (!isa_claim(dev, &d->port, FERR_PORT, 1, &ferr_ops, error)) {
        return false;
    }
    x86_connect_ferr(dev->vm, vm_gsi_line(dev->vm, FERR_GSI));
    return true;
}

static void ferr_done(struct device *dev)
{
    struct ferr *d = container_of(dev, struct ferr, dev);
    isa_release(dev, &d->port);
}

const struct device_type ferr_type = {
    .name = "pc-ferr",
    .desc = "coprocessor interrupt of a PC/AT (port F0h)",
    .size = sizeof(struct ferr),
    .init = ferr_init,
    .done = ferr_done,
};
