#ifndef VMM_DEV_PCI_PCI_TEST_H
#define VMM_DEV_PCI_PCI_TEST_H

#include <errno.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/dev/pci/pci.h"
#include "vmm/dev/pci/pci_bridges.h"
#include "vmm/dev/pci/pci_host.h"
#include "vmm/vm/fake_accel.h"

/*
 * For tests: a machine whose south bridge is this file, and a device with every kind of
 * BAR: ports, 32-bit and 64-bit memory, memory of its own, MSI and MSI-X.
 */

enum { TEST_PIRQ_GSI = 16, TEST_VRAM = 0x10000 };

struct machine {
    struct fake_model model;
    struct vm *vm;
    struct pci_host *host;
    bool pirq[PCI_PIRQS];
    struct {
        uint64_t addr;
        uint32_t data;
    } msi[64];
    unsigned nb_msi;
};

static inline unsigned test_route(void *opaque, unsigned slot, unsigned pin)
{
    return (slot + pin) % 4;
}

static inline void test_set_pirq(void *opaque, unsigned n, bool level)
{
    ((struct machine *)opaque)->pirq[n] = level;
}

static inline bool test_msi(void *opaque, uint64_t addr, uint32_t data)
{
    struct machine *m = opaque;
    if (addr >> 20 != 0xfee) {
        return false;
    }
    if (m->nb_msi < ARRAY_LEN(m->msi)) {
        m->msi[m->nb_msi].addr = addr;
        m->msi[m->nb_msi].data = data;
    }
    m->nb_msi++;
    return true;
}

static inline struct machine *machine_new(bool express)
{
    struct machine *m = g_new0(struct machine, 1);
    struct pci_host_setup setup = {
        .bus = express ? "pcie.0" : "pci.0", .express = express, .first_slot = 2};
    m->vm = fake_vm_new(&m->model, 1, NULL);
    g_assert_true(gmem_add(m->vm->gmem, "ram", GMEM_RAM, 0, 0x100000, NULL));
    g_assert_true(pci_host_new(m->vm, &setup, NULL));
    m->host = m->vm->pci;
    pci_host_connect(m->host, test_route, test_set_pirq, m);
    m->vm->msi_fn = test_msi;
    m->vm->msi_opaque = m;
    return m;
}

static inline void machine_free(struct machine *m)
{
    while (m->vm->devices->len) {
        device_free(g_ptr_array_index(m->vm->devices, m->vm->devices->len - 1));
    }
    pci_host_free(m->vm);
    vm_free(m->vm);
    g_free(m);
}

struct test_device {
    struct device dev;
    struct pci_device pci;
    struct gmem_block *vram;
    uint8_t regs[256];
};

static inline uint64_t test_read(void *opaque, struct vcpu *vcpu, uint64_t off,
                                 unsigned len)
{
    struct test_device *d = opaque;
    return le_get(d->regs + off % (sizeof(d->regs) - 8), len);
}

static inline void test_write(void *opaque, struct vcpu *vcpu, uint64_t off,
                              uint64_t value, unsigned len)
{
    struct test_device *d = opaque;
    le_put(d->regs + off % (sizeof(d->regs) - 8), value, len);
}

static const struct io_ops test_ops = {.read = test_read, .write = test_write};

static inline bool test_init(struct device *dev, GError **error)
{
    struct test_device *d = (struct test_device *)dev;
    struct pci_setup setup = {.vendor = 0x1234,
                              .device = 0x5678,
                              .class_code = PCI_CLASS_OTHER,
                              .irq_pin = 1,
                              .is_express = true};
    d->vram = gmem_block_new("vram", TEST_VRAM, error);
    if (!d->vram || !pci_plug(&d->pci, dev, &setup, error)) {
        return false;
    }
    pci_add_bar(&d->pci, 0,
                &(struct pci_bar_setup){
                    .len = 32, .flags = PCI_BAR_IS_IO, .ops = &test_ops, .opaque = d});
    pci_add_bar(&d->pci, 1, &(struct pci_bar_setup){.ram = d->vram});
    pci_add_bar(&d->pci, 2,
                &(struct pci_bar_setup){.len = 0x4000,
                                        .flags = PCI_BAR_IS_64 | PCI_BAR_IS_PREFETCH,
                                        .ops = &test_ops,
                                        .opaque = d});
    pci_add_bar(&d->pci, 4,
                &(struct pci_bar_setup){.len = 4096, .ops = &test_ops, .opaque = d});
    pci_add_pm(&d->pci);
    pci_add_msi(&d->pci, 2, true);
    return pci_add_msix(&d->pci, 40, 4, 0x800, 0xc00, error);
}

static inline void test_done(struct device *dev)
{
    struct test_device *d = (struct test_device *)dev;
    pci_unplug(&d->pci);
    gmem_block_free(d->vram);
}

static inline void test_reset(struct device *dev)
{
    pci_reset(&((struct test_device *)dev)->pci);
}

static const struct prop test_props[] = {PCI_PROPS(struct test_device, pci),
                                         {.name = NULL}};
static const struct state_field test_fields[] = {
    PCI_STATE_FIELD(struct test_device, pci), {.name = NULL}};
static const struct state_table test_state = {
    .name = "test", .version = 1, .fields = test_fields};

static const struct device_type test_type = {
    .name = "test",
    .size = sizeof(struct test_device),
    .props = test_props,
    .state = &test_state,
    .init = test_init,
    .done = test_done,
    .reset = test_reset,
};

static inline struct device *machine_try(struct machine *m,
                                         const struct device_type *type,
                                         const char *json, GError **error)
{
    json_t *options = json_loads(json, 0, NULL);
    struct device *dev = device_new(m->vm, type, options, NULL, error);
    json_decref(options);
    if (dev) {
        type->reset(dev);
    }
    return dev;
}

static inline struct test_device *machine_add(struct machine *m, const char *json)
{
    g_autoptr(GError) error = NULL;
    struct device *dev = machine_try(m, &test_type, json, &error);
    g_assert_no_error(error);
    return (struct test_device *)dev;
}

static inline uint32_t cfg(struct machine *m, unsigned bdf, unsigned off, unsigned len)
{
    return pci_host_read(m->host, (uint8_t)(bdf >> 8), (uint8_t)bdf, off, len);
}

static inline void cfg_put(struct machine *m, unsigned bdf, unsigned off,
                           uint32_t value, unsigned len)
{
    pci_host_write(m->host, (uint8_t)(bdf >> 8), (uint8_t)bdf, off, value, len);
}

#endif
