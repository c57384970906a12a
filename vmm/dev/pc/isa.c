#include "vmm/dev/pc/isa.h"

#include "lib/base/base.h"
#include "vmm/vm/device.h"
#include "vmm/vm/vm.h"

bool isa_claim(struct device *dev, struct io_region *region, uint32_t base,
               uint32_t len, const struct io_ops *ops, GError **error)
{
    if (!dev->vm->pio) {
        return error_msg(error, "%s: %s has no ports", dev->id, dev->vm->arch->name);
    }
    if (base > 0xffff || len == 0 || len > 0x10000 - base) {
        return error_msg(error, "%s: ports 0x%x, %u of them, are not within 0..0xffff",
                         dev->id, base, len);
    }
    *region = (struct io_region){
        .name = dev->type->name,
        .base = base,
        .len = len,
        .ops = ops,
        .opaque = dev,
    };
    if (!aspace_add(dev->vm->pio, region, error)) {
        region->ops = NULL;
        return false;
    }
    return true;
}

void isa_release(struct device *dev, struct io_region *region)
{
    if (region->ops) {
        aspace_remove(dev->vm->pio, region);
        region->ops = NULL;
    }
}
