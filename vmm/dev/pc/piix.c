#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/dev/pc/acpi_pm.h"
#include "vmm/dev/pc/chipset.h"
#include "vmm/dev/pc/chipset_priv.h"
#include "vmm/dev/pc/pc_pirq.h"
#include "vmm/dev/pc/smbus.h"
#include "vmm/dev/pci/pci.h"
#include "vmm/dev/pci/pci_host.h"
#include "vmm/vm/vm.h"

/*
 * PIIX3's ISA bridge, function 0 of slot 1, and PIIX4's power management, function 3.
 * The ISA bridge has the four PIRQ registers; everything else on its ISA bus are
 * devices of their own.
 */

enum {
    SLOT = 1,
    SCI_IRQ = 9, /* wired */

    PIRQ_ROUTE = 0x60,
    PIRQS = 4,

    PM_BASE = 0x40,
    PM_DEVACTB = 0x58,
    PM_MISC = 0x80,
    SMB_BASE = 0x90,
    SMB_CONFIG = 0xd2,
    PM_LEN = 64,
    SMB_LEN = 16,
    GPE_BASE = 0xafe0,
    GPE_LEN = 4,
};

/* ---- the ISA bridge ---- */

struct piix3 {
    struct device dev;
    struct pci_device pci;
    struct pc_pirq pirq;
};

static unsigned piix3_route(void *opaque, unsigned slot, unsigned pin)
{
    return (slot + pin - 1) % PIRQS;
}

static void piix3_written(struct pci_device *pd, unsigned off, unsigned len)
{
    struct piix3 *p = container_of(pd, struct piix3, pci);
    for (unsigned i = 0; i < PIRQS; i++) {
        pc_pirq_set_route(&p->pirq, i, pd->config[PIRQ_ROUTE + i]);
    }
}

static const struct pci_device_ops piix3_ops = {.config_written = piix3_written};

static bool piix3_init(struct device *dev, GError **error)
{
    struct piix3 *p = (struct piix3 *)dev;
    struct pci_setup setup = {
        .vendor = PCI_VENDOR_INTEL,
        .device = 0x7000,
        .class_code = PCI_CLASS_ISA,
        .multifunction = true,
        .has_devfn = true,
        .devfn = SLOT << 3,
        .ops = &piix3_ops,
    };
    if (!pci_plug(&p->pci, dev, &setup, error)) {
        return false;
    }
    pc_pirq_init(&p->pirq, dev->vm, false);
    pc_pirq_set_route(&p->pirq, PC_PIRQ_SCI, SCI_IRQ);
    pci_host_connect(dev->vm->pci, piix3_route, pc_pirq_set, &p->pirq);
    uint8_t *c = p->pci.config, *w = p->pci.writable;
    le16_put(c + PCI_COMMAND, PCI_CMD_IO | PCI_CMD_MEMORY | PCI_CMD_MASTER);
    le16_put(w + PCI_COMMAND, PCI_CMD_SERR);
    le16_put(c + PCI_STATUS, PCI_STATUS_MEDIUM);
    memset(w + PCI_CAPS, 0xff, PCI_CONFIG_LEN - PCI_CAPS);
    memset(c + PIRQ_ROUTE, PC_PIRQ_OFF, PIRQS);
    memset(w + PIRQ_ROUTE, 0x8f, PIRQS);
    return true;
}

static void piix3_done(struct device *dev)
{
    struct piix3 *p = (struct piix3 *)dev;
    if (p->pirq.vm) {
        pci_host_connect(dev->vm->pci, NULL, NULL, NULL);
    }
    pci_unplug(&p->pci);
    pc_pirq_done(&p->pirq);
}

static void piix3_reset(struct device *dev)
{
    pci_reset(&((struct piix3 *)dev)->pci);
}

static const struct state_field piix3_fields[] = {
    PCI_STATE_FIELD(struct piix3, pci),
    {.name = NULL},
};

static const struct state_table piix3_state = {
    .name = "piix3", .version = 1, .fields = piix3_fields};

const struct device_type piix3_type = {
    .name = "PIIX3",
    .desc = "ISA bridge of the machine pc",
    .bus = "PCI",
    .size = sizeof(struct piix3),
    .state = &piix3_state,
    .init = piix3_init,
    .done = piix3_done,
    .reset = piix3_reset,
};

/* ---- power management ---- */

struct piix4_pm {
    struct device dev;
    struct pci_device pci;
    struct acpi_pm pm;
    struct smbus smbus;
    struct io_region ports, gpe, smb;
    bool has_gpe, reserved;
};

static uint64_t pm_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    return acpi_pm_read(&((struct piix4_pm *)opaque)->pm, (unsigned)off, len);
}

static void pm_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                     unsigned len)
{
    acpi_pm_write(&((struct piix4_pm *)opaque)->pm, (unsigned)off, (uint32_t)value,
                  len);
}

static const struct io_ops pm_ops = {.read = pm_read, .write = pm_write, .max_len = 4};

static uint64_t gpe_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    return acpi_pm_read_gpe(&((struct piix4_pm *)opaque)->pm, (unsigned)off);
}

static void gpe_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                      unsigned len)
{
    acpi_pm_write_gpe(&((struct piix4_pm *)opaque)->pm, (unsigned)off, (uint8_t)value);
}

static const struct io_ops gpe_ops = {
    .read = gpe_read, .write = gpe_write, .max_len = 1};

static uint16_t piix4_base(const struct piix4_pm *p)
{
    uint16_t base = le16_get(p->pci.config + PM_BASE) & 0xffc0;
    return p->pci.config[PM_MISC] & 1 ? base : 0;
}

static void piix4_written(struct pci_device *pd, unsigned off, unsigned len)
{
    struct piix4_pm *p = container_of(pd, struct piix4_pm, pci);
    uint16_t smb = le16_get(pd->config + SMB_BASE) & 0xfff0;
    chipset_place(p->dev.vm->pio, &p->ports, piix4_base(p));
    chipset_place(p->dev.vm->pio, &p->smb, pd->config[SMB_CONFIG] & 1 ? smb : 0);
}

static const struct pci_device_ops piix4_ops = {.config_written = piix4_written};

static bool find_piix3(struct vm *vm, struct irq_line *ret)
{
    struct pci_device *pd = pci_host_find(vm->pci, SLOT << 3);
    if (!pd || pd->dev->type != &piix3_type) {
        return false;
    }
    *ret = (struct irq_line){.fn = pc_pirq_set,
                             .opaque = &((struct piix3 *)pd->dev)->pirq,
                             .input = PC_PIRQ_SCI};
    return true;
}

static void piix4_fill(struct piix4_pm *p)
{
    uint8_t *c = p->pci.config, *w = p->pci.writable;
    le16_put(c + PCI_STATUS, PCI_STATUS_FAST_BACK | PCI_STATUS_MEDIUM);
    le32_put(c + PM_BASE, 1);
    le32_put(w + PM_BASE, 0xffc0);
    w[PM_MISC] = 1;
    le32_put(c + SMB_BASE, 1);
    le32_put(w + SMB_BASE, 0xfff0);
    w[SMB_CONFIG] = 0x0f;
    le32_put(w + PM_DEVACTB, UINT32_MAX);
    /* Port 0xb2 gives SMIs already: firmware leaves SMM alone then. */
    le32_put(c + PM_DEVACTB, 1u << 25);
}

static bool piix4_init(struct device *dev, GError **error)
{
    struct piix4_pm *p = (struct piix4_pm *)dev;
    struct pci_setup setup = {
        .vendor = PCI_VENDOR_INTEL,
        .device = 0x7113,
        .revision = 3,
        .class_code = PCI_CLASS_OTHER_BRIDGE,
        .irq_pin = 1,
        .has_devfn = true,
        .devfn = SLOT << 3 | 3,
        .ops = &piix4_ops,
    };
    p->pm = (struct acpi_pm){
        .vm = dev->vm, .enable_value = 0xf1, .disable_value = 0xf0, .gpe_len = GPE_LEN};
    if (!pci_plug(&p->pci, dev, &setup, error)) {
        return false;
    }
    if (!find_piix3(dev->vm, &p->pm.sci)) {
        return error_msg(error, "it belongs to PIIX3");
    }
    g_mutex_init(&p->smbus.lock);
    piix4_fill(p);
    p->ports = (struct io_region){
        .name = "acpi-pm", .len = PM_LEN, .ops = &pm_ops, .opaque = p};
    p->smb = (struct io_region){
        .name = "smbus", .len = SMB_LEN, .ops = &smbus_ops, .opaque = &p->smbus};
    p->gpe = (struct io_region){.name = "acpi-gpe",
                                .base = GPE_BASE,
                                .len = GPE_LEN,
                                .ops = &gpe_ops,
                                .opaque = p};
    aspace_reserve(dev->vm->pio, 2);
    p->reserved = true;
    p->has_gpe = aspace_add(dev->vm->pio, &p->gpe, error);
    return p->has_gpe && acpi_pm_init(&p->pm, error);
}

static void piix4_done(struct device *dev)
{
    struct piix4_pm *p = (struct piix4_pm *)dev;
    if (p->has_gpe) {
        aspace_remove(dev->vm->pio, &p->gpe);
    }
    if (p->reserved) {
        aspace_unmap(dev->vm->pio, &p->ports);
        aspace_unmap(dev->vm->pio, &p->smb);
        aspace_reserve(dev->vm->pio, -2);
        g_mutex_clear(&p->smbus.lock);
    }
    acpi_pm_done(&p->pm);
    pci_unplug(&p->pci);
}

static void piix4_reset(struct device *dev)
{
    struct piix4_pm *p = (struct piix4_pm *)dev;
    acpi_pm_reset(&p->pm);
    memset(p->smbus.reg, 0, sizeof(p->smbus.reg));
    pci_reset(&p->pci);
}

static const struct state_field piix4_fields[] = {
    PCI_STATE_FIELD(struct piix4_pm, pci),
    {.name = "pm",
     .kind = STATE_STRUCT,
     .offset = offsetof(struct piix4_pm, pm),
     .size = sizeof(struct acpi_pm),
     .table = &acpi_pm_state},
    STATE_BUFFER(struct piix4_pm, smbus.reg),
    {.name = NULL},
};

static const struct state_table piix4_state = {
    .name = "piix4-pm", .version = 1, .fields = piix4_fields};

const struct device_type piix4_pm_type = {
    .name = "PIIX4_PM",
    .desc = "power management of the machine pc",
    .bus = "PCI",
    .size = sizeof(struct piix4_pm),
    .state = &piix4_state,
    .init = piix4_init,
    .done = piix4_done,
    .reset = piix4_reset,
};

struct acpi_pm *piix4_get_pm(struct device *dev)
{
    return &((struct piix4_pm *)dev)->pm;
}

uint16_t piix4_get_base(struct device *dev)
{
    return piix4_base((struct piix4_pm *)dev);
}

uint16_t piix4_get_gpe_base(struct device *dev)
{
    return GPE_BASE;
}
