#ifndef VMM_DEV_PC_CHIPSET_PRIV_H
#define VMM_DEV_PC_CHIPSET_PRIV_H

#include <stdint.h>

#include "vmm/vm/aspace.h"

struct acpi_pm;
struct device;

/* Registers of the chipset that the guest places: at @base, or nowhere when it is 0. */
void chipset_place(struct aspace *as, struct io_region *region, uint64_t base);

struct acpi_pm *piix4_get_pm(struct device *dev);
uint16_t piix4_get_base(struct device *dev);
uint16_t piix4_get_gpe_base(struct device *dev);
struct acpi_pm *ich9_get_pm(struct device *dev);
uint16_t ich9_get_base(struct device *dev);
uint16_t ich9_get_gpe_base(struct device *dev);

#endif
