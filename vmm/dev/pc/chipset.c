#include "vmm/dev/pc/chipset.h"

#include "vmm/dev/pc/chipset_priv.h"
#include "vmm/vm/device.h"

struct acpi_pm *chipset_pm(struct device *dev)
{
    return dev->type == &piix4_pm_type ? piix4_get_pm(dev) : ich9_get_pm(dev);
}

uint16_t chipset_pm_base(struct device *dev)
{
    return dev->type == &piix4_pm_type ? piix4_get_base(dev) : ich9_get_base(dev);
}

uint16_t chipset_gpe_base(struct device *dev)
{
    return dev->type == &piix4_pm_type ? piix4_get_gpe_base(dev)
                                       : ich9_get_gpe_base(dev);
}

void chipset_place(struct aspace *as, struct io_region *region, uint64_t base)
{
    if (base) {
        aspace_map(as, region, base, ASPACE_BOARD);
    } else {
        aspace_unmap(as, region);
    }
}
