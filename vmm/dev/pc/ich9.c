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
 * ICH9's LPC bridge (316972, chapter 13) at 1f.0: PIRQ routing, the ACPI registers with
 * SMI control, and the chipset's memory-mapped registers (RCBA, chapter 10), of which
 * only those that say how pins of the slots 25 to 31 end in PIRQs do anything. Slots
 * below are free for boards to wire; firmware takes pin A of slot 0 to end in PIRQE,
 * and so on around.
 */

enum {
    SLOT = 31,
    LPC_PM_BASE = 0x40,
    LPC_ACPI_CONTROL = 0x44,
    LPC_PIRQ_A = 0x60,
    LPC_PIRQ_E = 0x68,
    LPC_GEN_PMCON_1 = 0xa0,
    LPC_RCBA = 0xf0,

    ACPI_ON = 1 << 7,
    PM_LEN = 128,
    PM_GPE = 0x20,
    PM_GPE_LEN = 16,
    PM_SMI_ENABLE = 0x30,
    PM_SMI_STATUS = 0x34,
    SMI_APM = 1 << 5,

    RCBA_LEN = 0x4000,
    RCBA_D31IR = 0x3140, /* D30IR.. to D25IR follow */
    RCBA_IR_END = 0x3152,
    FIRST_ROUTED_SLOT = 25,

    SMBUS_BASE = 0x20,
    SMBUS_CONFIG = 0x40,
    SMBUS_LEN = 32,
};

struct lpc {
    struct device dev;
    struct pci_device pci;
    struct pc_pirq pirq;
    struct acpi_pm pm;
    struct io_region ports, rcba;
    bool reserved;

    GMutex lock; /* guards what follows */
    uint32_t smi_enable, smi_status;
    uint8_t chip[RCBA_LEN];
    /* PIRQs of slots from 25 on, by pin; read while interrupts are raised. */
    _Atomic uint8_t route[32 - FIRST_ROUTED_SLOT][4];
};

/* ---- the chipset's registers in memory ---- */

/* Of which slot the 16-bit register at D31IR + off says where its pins end; 0: none
 * (10.1.36..). */
static unsigned slot_of_register(unsigned off)
{
    static const uint8_t slots[] = {
        [0x00] = 31, [0x02] = 30, [0x04] = 29, [0x06] = 28,
        [0x08] = 27, [0x0c] = 26, [0x10] = 25,
    };
    return off < sizeof(slots) ? slots[off] : 0;
}

static void update_routes(struct lpc *l)
{
    for (unsigned off = 0; off < RCBA_IR_END - RCBA_D31IR; off += 2) {
        unsigned slot = slot_of_register(off);
        uint16_t v = le16_get(l->chip + RCBA_D31IR + off);
        for (unsigned pin = 0; slot && pin < 4; pin++) {
            atomic_store(&l->route[slot - FIRST_ROUTED_SLOT][pin],
                         (uint8_t)(v >> (4 * pin) & 7));
        }
    }
}

static uint64_t rcba_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct lpc *l = opaque;
    uint8_t bytes[8] = {0};
    g_mutex_lock(&l->lock);
    for (unsigned i = 0; i < len && off + i < RCBA_LEN; i++) {
        bytes[i] = l->chip[off + i];
    }
    g_mutex_unlock(&l->lock);
    return le64_get(bytes);
}

static void rcba_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                       unsigned len)
{
    struct lpc *l = opaque;
    g_mutex_lock(&l->lock);
    for (unsigned i = 0; i < len; i++) {
        if (off + i >= RCBA_D31IR && off + i < RCBA_IR_END) {
            l->chip[off + i] = (uint8_t)(value >> (8 * i)) & 0x77;
        }
    }
    update_routes(l);
    g_mutex_unlock(&l->lock);
}

static const struct io_ops rcba_ops = {
    .read = rcba_read, .write = rcba_write, .max_len = 4};

static unsigned lpc_route(void *opaque, unsigned slot, unsigned pin)
{
    const struct lpc *l = container_of(opaque, struct lpc, pirq);
    if (slot >= FIRST_ROUTED_SLOT) {
        return atomic_load(&l->route[slot - FIRST_ROUTED_SLOT][pin]);
    }
    return 4 + (slot + pin) % 4;
}

/* ---- power management ---- */

static uint64_t pm_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct lpc *l = opaque;
    uint64_t v = 0;
    if (off < PM_GPE) {
        return off < 16 ? acpi_pm_read(&l->pm, (unsigned)off, len) : 0;
    }
    if (off < PM_GPE + PM_GPE_LEN) {
        for (unsigned i = 0; i < len; i++) {
            v |= (uint64_t)acpi_pm_read_gpe(&l->pm, (unsigned)off - PM_GPE + i)
                 << (8 * i);
        }
        return v;
    }
    g_mutex_lock(&l->lock);
    v = off == PM_SMI_ENABLE ? l->smi_enable : off == PM_SMI_STATUS ? l->smi_status : 0;
    g_mutex_unlock(&l->lock);
    return v;
}

static void pm_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                     unsigned len)
{
    struct lpc *l = opaque;
    if (off < PM_GPE) {
        if (off < 16) {
            acpi_pm_write(&l->pm, (unsigned)off, (uint32_t)value, len);
        }
        return;
    }
    if (off < PM_GPE + PM_GPE_LEN) {
        for (unsigned i = 0; i < len; i++) {
            acpi_pm_write_gpe(&l->pm, (unsigned)off - PM_GPE + i,
                              (uint8_t)(value >> (8 * i)));
        }
        return;
    }
    g_mutex_lock(&l->lock);
    if (off == PM_SMI_ENABLE && len == 4) {
        l->smi_enable = (uint32_t)value;
    } else if (off == PM_SMI_STATUS && len == 4) {
        l->smi_status &= ~(uint32_t)value;
    }
    g_mutex_unlock(&l->lock);
}

static const struct io_ops pm_ops = {.read = pm_read, .write = pm_write, .max_len = 4};

static uint16_t lpc_base(const struct lpc *l)
{
    uint16_t base = le16_get(l->pci.config + LPC_PM_BASE) & 0xff80;
    return l->pci.config[LPC_ACPI_CONTROL] & ACPI_ON ? base : 0;
}

/* ---- configuration ---- */

static uint8_t sci_route(uint8_t control)
{
    static const uint8_t irqs[] = {9, 10, 11, PC_PIRQ_OFF};
    return irqs[MIN(control & 7, 3)]; /* 20 and 21 are not to be had with an 8259 */
}

static void lpc_written(struct pci_device *pd, unsigned off, unsigned len)
{
    struct lpc *l = container_of(pd, struct lpc, pci);
    uint32_t rcba = le32_get(pd->config + LPC_RCBA);
    for (unsigned i = 0; i < 4; i++) {
        pc_pirq_set_route(&l->pirq, i, pd->config[LPC_PIRQ_A + i]);
        pc_pirq_set_route(&l->pirq, 4 + i, pd->config[LPC_PIRQ_E + i]);
    }
    pc_pirq_set_route(&l->pirq, PC_PIRQ_SCI, sci_route(pd->config[LPC_ACPI_CONTROL]));
    chipset_place(l->dev.vm->pio, &l->ports, lpc_base(l));
    chipset_place(l->dev.vm->mmio, &l->rcba, rcba & 1 ? rcba & ~(RCBA_LEN - 1u) : 0);
}

static const struct pci_device_ops lpc_ops = {.config_written = lpc_written};

static void lpc_fill(struct lpc *l)
{
    uint8_t *c = l->pci.config, *w = l->pci.writable;
    le16_put(c + PCI_COMMAND, PCI_CMD_IO | PCI_CMD_MEMORY | PCI_CMD_MASTER);
    le16_put(w + PCI_COMMAND, PCI_CMD_SERR | PCI_CMD_PARITY);
    le16_put(c + PCI_STATUS, PCI_STATUS_MEDIUM);
    memset(w + PCI_CAPS, 0xff, PCI_CONFIG_LEN - PCI_CAPS);
    le32_put(c + LPC_PM_BASE, 1);
    le32_put(w + LPC_PM_BASE, 0xff80);
    w[LPC_ACPI_CONTROL] = 0x87;
    memset(c + LPC_PIRQ_A, PC_PIRQ_OFF, 4);
    memset(w + LPC_PIRQ_A, 0x8f, 4);
    memset(c + LPC_PIRQ_E, PC_PIRQ_OFF, 4);
    memset(w + LPC_PIRQ_E, 0x8f, 4);
    le32_put(w + LPC_RCBA, ~(RCBA_LEN - 1u) | 1);
}

static bool lpc_init(struct device *dev, GError **error)
{
    struct lpc *l = (struct lpc *)dev;
    struct pci_setup setup = {
        .vendor = PCI_VENDOR_INTEL,
        .device = 0x2918,
        .revision = 2,
        .class_code = PCI_CLASS_ISA,
        .multifunction = true,
        .has_devfn = true,
        .devfn = SLOT << 3,
        .ops = &lpc_ops,
    };
    if (!pci_plug(&l->pci, dev, &setup, error)) {
        return false;
    }
    g_mutex_init(&l->lock);
    lpc_fill(l);
    pc_pirq_init(&l->pirq, dev->vm, true);
    pci_host_connect(dev->vm->pci, lpc_route, pc_pirq_set, &l->pirq);
    l->pm = (struct acpi_pm){
        .vm = dev->vm,
        .sci = {.fn = pc_pirq_set, .opaque = &l->pirq, .input = PC_PIRQ_SCI},
        .enable_value = 2,
        .disable_value = 3,
        .gpe_len = PM_GPE_LEN,
    };
    l->ports = (struct io_region){
        .name = "acpi-pm", .len = PM_LEN, .ops = &pm_ops, .opaque = l};
    l->rcba = (struct io_region){
        .name = "rcba", .len = RCBA_LEN, .ops = &rcba_ops, .opaque = l};
    aspace_reserve(dev->vm->pio, 1);
    aspace_reserve(dev->vm->mmio, 1);
    l->reserved = true;
    return acpi_pm_init(&l->pm, error);
}

static void lpc_done(struct device *dev)
{
    struct lpc *l = (struct lpc *)dev;
    acpi_pm_done(&l->pm);
    if (l->reserved) {
        aspace_unmap(dev->vm->pio, &l->ports);
        aspace_unmap(dev->vm->mmio, &l->rcba);
        aspace_reserve(dev->vm->pio, -1);
        aspace_reserve(dev->vm->mmio, -1);
        pci_host_connect(dev->vm->pci, NULL, NULL, NULL);
        g_mutex_clear(&l->lock);
    }
    pci_unplug(&l->pci);
    pc_pirq_done(&l->pirq);
}

static void lpc_reset(struct device *dev)
{
    struct lpc *l = (struct lpc *)dev;
    acpi_pm_reset(&l->pm);
    g_mutex_lock(&l->lock);
    /* Port 0xb2 gives SMIs already: firmware leaves SMM alone then. */
    l->smi_enable = SMI_APM;
    l->smi_status = 0;
    for (unsigned off = RCBA_D31IR; off < RCBA_IR_END; off += 2) {
        bool is_register = slot_of_register(off - RCBA_D31IR);
        le16_put(l->chip + off, is_register ? 0x3210 : 0);
    }
    update_routes(l);
    g_mutex_unlock(&l->lock);
    pci_reset(&l->pci);
}

static const struct state_field lpc_fields[] = {
    PCI_STATE_FIELD(struct lpc, pci),
    {.name = "pm",
     .kind = STATE_STRUCT,
     .offset = offsetof(struct lpc, pm),
     .size = sizeof(struct acpi_pm),
     .table = &acpi_pm_state},
    STATE_FIELD(U32, struct lpc, smi_enable),
    STATE_FIELD(U32, struct lpc, smi_status),
    {.name = "routes",
     .kind = STATE_BYTES,
     .offset = offsetof(struct lpc, chip) + RCBA_D31IR,
     .size = RCBA_IR_END - RCBA_D31IR},
    {.name = NULL},
};

static bool lpc_post_load(void *object, unsigned version, GError **error)
{
    struct lpc *l = object;
    g_mutex_lock(&l->lock);
    update_routes(l);
    g_mutex_unlock(&l->lock);
    return true;
}

static const struct state_table lpc_state = {
    .name = "ich9-lpc", .version = 1, .fields = lpc_fields, .post_load = lpc_post_load};

const struct device_type ich9_lpc_type = {
    .name = "ICH9-LPC",
    .desc = "LPC bridge of the machine q35",
    .bus = "PCI",
    .size = sizeof(struct lpc),
    .state = &lpc_state,
    .init = lpc_init,
    .done = lpc_done,
    .reset = lpc_reset,
};

/* ---- SMBus, 1f.3 ---- */

struct ich9_smbus {
    struct device dev;
    struct pci_device pci;
    struct smbus smbus;
};

static bool smbus_init(struct device *dev, GError **error)
{
    struct ich9_smbus *s = (struct ich9_smbus *)dev;
    struct pci_setup setup = {
        .vendor = PCI_VENDOR_INTEL,
        .device = 0x2930,
        .revision = 2,
        .class_code = PCI_CLASS_SMBUS,
        .irq_pin = 1,
        .has_devfn = true,
        .devfn = SLOT << 3 | 3,
    };
    g_mutex_init(&s->smbus.lock);
    if (!pci_plug(&s->pci, dev, &setup, error)) {
        return false;
    }
    s->pci.writable[SMBUS_CONFIG] = 0x1f;
    pci_add_bar(&s->pci, 4,
                &(struct pci_bar_setup){.len = SMBUS_LEN,
                                        .flags = PCI_BAR_IS_IO,
                                        .ops = &smbus_ops,
                                        .opaque = &s->smbus});
    return true;
}

static void smbus_done(struct device *dev)
{
    struct ich9_smbus *s = (struct ich9_smbus *)dev;
    pci_unplug(&s->pci);
    g_mutex_clear(&s->smbus.lock);
}

static void smbus_reset(struct device *dev)
{
    struct ich9_smbus *s = (struct ich9_smbus *)dev;
    memset(s->smbus.reg, 0, sizeof(s->smbus.reg));
    pci_reset(&s->pci);
}

static const struct state_field smbus_fields[] = {
    PCI_STATE_FIELD(struct ich9_smbus, pci),
    STATE_BUFFER(struct ich9_smbus, smbus.reg),
    {.name = NULL},
};

static const struct state_table smbus_state = {
    .name = "ich9-smbus", .version = 1, .fields = smbus_fields};

const struct device_type ich9_smbus_type = {
    .name = "ICH9-SMB",
    .desc = "SMBus controller of the machine q35",
    .bus = "PCI",
    .size = sizeof(struct ich9_smbus),
    .state = &smbus_state,
    .init = smbus_init,
    .done = smbus_done,
    .reset = smbus_reset,
};

/* ---- for boards ---- */

struct acpi_pm *ich9_get_pm(struct device *dev)
{
    return &((struct lpc *)dev)->pm;
}

uint16_t ich9_get_base(struct device *dev)
{
    return lpc_base((struct lpc *)dev);
}

uint16_t ich9_get_gpe_base(struct device *dev)
{
    uint16_t base = ich9_get_base(dev);
    return base ? (uint16_t)(base + PM_GPE) : 0;
}
