#ifndef VMM_DEV_PCI_PCI_BRIDGES_H
#define VMM_DEV_PCI_PCI_BRIDGES_H

struct device_type;

/* Buses behind devices: other devices name them by the bridge's id, bus=ID. */
extern const struct device_type pcie_root_port_type, pci_bridge_type;

#endif
