#ifndef VMM_DEV_PCI_PCI_HOST_H
#define VMM_DEV_PCI_PCI_HOST_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

#include "vmm/dev/pci/pci.h"
#include "vmm/vm/irq.h"

struct vm;
struct pci_host;

/*
 * For boards: the root of a machine's PCI. It owns the root bus, the ports 0xcf8 and
 * 0xcfc, the memory-mapped configuration space of PCI Express (ECAM) wherever the board
 * lets it be, and the interrupt lines PIRQA.. that all INTx pins end in. A VM has one.
 */

enum { PCI_PIRQS = 8 };

struct pci_host_setup {
    const char *bus;    /* the root bus's name: "pci.0", "pcie.0" */
    bool express;       /* devices on it may have 4096 bytes of configuration */
    uint8_t first_slot; /* the lowest given to devices without an address */
};

/* False with @error when the ports are taken. Undone by pci_host_free(), after the
 * devices are gone; NULL is fine. Thread: main. */
bool pci_host_new(struct vm *vm, const struct pci_host_setup *setup, GError **error);
void pci_host_free(struct vm *vm);

/*
 * Where INTx pins end, which is for the chipset's other half to say: @route gives the
 * PIRQ, 0 .. PCI_PIRQS - 1, of pin 0..3 of slot @slot of the root bus, @set takes the
 * PIRQs' levels. Both are called from any thread and take no lock that is held while
 * interrupts are raised. Before, pins are not connected. Thread: main.
 */
typedef unsigned (*pci_route_fn)(void *opaque, unsigned slot, unsigned pin);
void pci_host_connect(struct pci_host *h, pci_route_fn route, irq_fn set, void *opaque);

/* Byte accesses to port 0xcf9, which is the chipset's reset control register though it
 * lies within 0xcf8. Once, before the start. */
void pci_host_set_reset_port(struct pci_host *h, const struct io_ops *ops,
                             void *opaque);

/*
 * The ECAM window: buses 0 .. @nb_buses - 1 from @base on, 1 MiB each; 0 buses: none.
 * Any thread, also from config_written hooks.
 */
void pci_host_set_ecam(struct pci_host *h, uint64_t base, unsigned nb_buses);

/* Where it is; 0 buses: nowhere. */
void pci_host_get_ecam(const struct pci_host *h, uint64_t *ret_base,
                       unsigned *ret_nb_buses);

/* Power-on state of what is not a device: the address register. */
void pci_host_reset(struct pci_host *h);

/* Configuration accesses as the guest's, of 1, 2 or 4 bytes; where there is no function
 * reads give all ones. Take the configuration's lock. */
uint32_t pci_host_read(struct pci_host *h, uint8_t bus, uint8_t devfn, unsigned off,
                       unsigned len);
void pci_host_write(struct pci_host *h, uint8_t bus, uint8_t devfn, unsigned off,
                    uint32_t value, unsigned len);

/* What is on the root bus at @devfn, or NULL. Thread: main. */
struct pci_device *pci_host_find(const struct pci_host *h, unsigned devfn);

#endif
