#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/dev/pc/chipset.h"
#include "vmm/dev/pc/pc_shadow.h"
#include "vmm/dev/pci/pci.h"
#include "vmm/dev/pci/pci_host.h"
#include "vmm/vm/vm.h"

/*
 * The host bridges: PAM, which hides and shows the RAM below 1 MiB (pc_shadow.h), SMRAM
 * control, and on Q35 where ECAM is. What else is in their configuration space keeps
 * what firmware writes and does nothing: DRAM is there already.
 */

enum {
    I440FX_PAM = 0x59,
    I440FX_SMRAM = 0x72,
    Q35_PCIEXBAR = 0x60,
    Q35_PAM = 0x90,
    Q35_SMRAM = 0x9d,
    Q35_ESMRAMC = 0x9e,

    SMRAM_LOCK = 1 << 4,
    SMRAM_OPEN = 1 << 6,
    SMRAM_BITS = 0x78,
    SMRAM_RESET = 0x02, /* the space is 0xa0000..0xbffff, which cannot be changed */
};

struct north {
    struct device dev;
    struct pci_device pci;
    struct pc_shadow *shadow;
    bool is_q35;
};

static void update_pam(struct north *n)
{
    pc_shadow_set(n->shadow, n->pci.config + (n->is_q35 ? Q35_PAM : I440FX_PAM));
}

/* Once locked it is closed, and stays so until the next reset. */
static void update_smram(struct north *n)
{
    unsigned off = n->is_q35 ? Q35_SMRAM : I440FX_SMRAM;
    uint8_t *smram = n->pci.config + off;
    if (*smram & SMRAM_LOCK) {
        *smram &= (uint8_t)~SMRAM_OPEN;
        n->pci.writable[off] = 0;
    } else {
        n->pci.writable[off] = SMRAM_BITS;
    }
}

static void update_ecam(struct north *n)
{
    static const uint16_t buses[] = {256, 128, 64, 0};
    uint64_t reg = le64_get(n->pci.config + Q35_PCIEXBAR);
    unsigned nb = reg & 1 ? buses[reg >> 1 & 3] : 0;
    uint64_t base = nb ? reg & ~((uint64_t)nb * MIB - 1) & 0xfffffffffULL : 0;
    pci_host_set_ecam(n->dev.vm->pci, base, nb);
}

static void config_written(struct pci_device *pd, unsigned off, unsigned len)
{
    struct north *n = container_of(pd, struct north, pci);
    update_pam(n);
    update_smram(n);
    if (n->is_q35) {
        update_ecam(n);
    }
}

static const struct pci_device_ops north_ops = {.config_written = config_written};

static void fill_config(struct north *n)
{
    uint8_t *c = n->pci.config, *w = n->pci.writable;
    unsigned pam = n->is_q35 ? Q35_PAM : I440FX_PAM;
    /* It is always on, whatever is written there. */
    le16_put(c + PCI_COMMAND, PCI_CMD_MASTER | PCI_CMD_MEMORY);
    le16_put(w + PCI_COMMAND, PCI_CMD_SERR);
    le16_put(c + PCI_STATUS, PCI_STATUS_FAST_BACK | PCI_STATUS_MEDIUM);
    w[pam] = 0x30;
    memset(w + pam + 1, 0x33, PC_SHADOW_REGISTERS - 1);
    if (n->is_q35) {
        c[Q35_SMRAM] = SMRAM_RESET;
        w[Q35_SMRAM] = SMRAM_BITS;
        w[Q35_ESMRAMC] = 0x87;
        le64_put(c + Q35_PCIEXBAR, Q35_ECAM_BASE);
        le64_put(w + Q35_PCIEXBAR, 0xffc000007ULL);
    } else {
        c[I440FX_SMRAM] = SMRAM_RESET;
        w[I440FX_SMRAM] = SMRAM_BITS;
    }
}

static bool north_init(struct north *n, const struct pci_host_setup *host,
                       const struct pci_setup *setup, GError **error)
{
    struct vm *vm = n->dev.vm;
    if (vm->pci) {
        return error_msg(error, "the machine has a host bridge already");
    }
    if (!pci_host_new(vm, host, error)) {
        return false;
    }
    n->shadow = pc_shadow_new(vm, error);
    if (!n->shadow || !pci_plug(&n->pci, &n->dev, setup, error)) {
        return false;
    }
    fill_config(n);
    return true;
}

static bool i440fx_init(struct device *dev, GError **error)
{
    struct north *n = (struct north *)dev;
    struct pci_host_setup host = {.bus = "pci.0", .first_slot = 2};
    struct pci_setup setup = {
        .vendor = PCI_VENDOR_INTEL,
        .device = 0x1237,
        .revision = 2,
        .class_code = PCI_CLASS_HOST,
        .has_devfn = true,
        .ops = &north_ops,
    };
    return north_init(n, &host, &setup, error);
}

static bool mch_init(struct device *dev, GError **error)
{
    struct north *n = (struct north *)dev;
    struct pci_host_setup host = {.bus = "pcie.0", .express = true, .first_slot = 1};
    struct pci_setup setup = {
        .vendor = PCI_VENDOR_INTEL,
        .device = 0x29c0,
        .class_code = PCI_CLASS_HOST,
        .has_devfn = true,
        .ops = &north_ops,
    };
    n->is_q35 = true;
    return north_init(n, &host, &setup, error);
}

static void north_done(struct device *dev)
{
    struct north *n = (struct north *)dev;
    pci_unplug(&n->pci);
    pc_shadow_free(n->shadow);
    pci_host_free(dev->vm);
}

static void north_reset(struct device *dev)
{
    struct north *n = (struct north *)dev;
    n->pci.writable[n->is_q35 ? Q35_SMRAM : I440FX_SMRAM] = SMRAM_BITS;
    pci_host_reset(dev->vm->pci);
    pci_reset(&n->pci);
}

static const struct state_field north_fields[] = {
    PCI_STATE_FIELD(struct north, pci),
    {.name = NULL},
};

static const struct state_table north_state = {
    .name = "host-bridge", .version = 1, .fields = north_fields};

const struct device_type i440fx_type = {
    .name = "i440FX",
    .desc = "host bridge of the machine pc",
    .bus = "PCI",
    .size = sizeof(struct north),
    .state = &north_state,
    .init = i440fx_init,
    .done = north_done,
    .reset = north_reset,
};

const struct device_type q35_mch_type = {
    .name = "mch",
    .desc = "host bridge of the machine q35",
    .bus = "PCI",
    .size = sizeof(struct north),
    .state = &north_state,
    .init = mch_init,
    .done = north_done,
    .reset = north_reset,
};
