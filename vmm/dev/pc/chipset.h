#ifndef VMM_DEV_PC_CHIPSET_H
#define VMM_DEV_PC_CHIPSET_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

struct acpi_pm;
struct device;
struct device_type;
struct vm;

/*
 * The two chipsets of PCs with PCI that firmware and guests know.
 *
 *   i440FX (82441FX, order 290549) with PIIX3 (290550) as south bridge and the power
 *   management of PIIX4 (290562): the bus pci.0, host bridge at 00.0, ISA bridge at
 *   01.0, power management and SMBus at 01.3
 *
 *   Q35 (3 Series, 316966) with ICH9 (316972): the bus pcie.0, host bridge at 00.0, LPC
 *   bridge at 1f.0 with power management, SMBus at 1f.3
 *
 * None is a -device. A board makes the host bridge first, which makes the buses, then
 * the south bridge. Both expect the board's interrupt inputs (vm_gsi_line()).
 */
extern const struct device_type i440fx_type, piix3_type, piix4_pm_type;
extern const struct device_type q35_mch_type, ich9_lpc_type, ich9_smbus_type;

/* The power management in piix4_pm_type or ich9_lpc_type, and the ports where the
 * firmware has put it and its events now; 0: nowhere. */
struct acpi_pm *chipset_pm(struct device *dev);
uint16_t chipset_pm_base(struct device *dev);
uint16_t chipset_gpe_base(struct device *dev);

/* Where ECAM is when the firmware has switched it on as it does. */
#define Q35_ECAM_BASE  0xb0000000u
#define Q35_ECAM_BUSES 256

#endif
