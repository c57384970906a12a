#ifndef VMM_DEV_PCI_PCI_H
#define VMM_DEV_PCI_PCI_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

#include "vmm/dev/pci/pci_regs.h"
#include "vmm/vm/aspace.h"
#include "vmm/vm/device.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/state.h"

struct pci_bus;
struct pci_device;

/*
 * PCI devices. A device's struct has a struct pci_device in it, and its type
 *
 *   - has PCI_PROPS() among its properties and PCI_STATE_FIELD() in its state;
 *   - in init(): pci_plug(), then pci_add_...() for what it has;
 *   - in done(): pci_unplug(), which undoes all of that, also after a failure;
 *   - in reset(): pci_reset().
 *
 *     static const struct io_ops foo_ops = {.read = foo_read, .write = foo_write};
 *
 *     static bool foo_init(struct device *dev, GError **error)
 *     {
 *         struct foo *f = (struct foo *)dev;
 *         struct pci_setup setup = {.vendor = 0x1234, .device = 1,
 *                                   .class_code = PCI_CLASS_OTHER, .irq_pin = 1};
 *         if (!pci_plug(&f->pci, dev, &setup, error))
 *             return false;
 *         pci_add_bar(&f->pci, 0, &(struct pci_bar_setup){
 *                     .len = 4096, .ops = &foo_ops, .opaque = f});
 *         return pci_add_msix(&f->pci, 4, 1, 0, 2048, error);
 *     }
 *
 * Threads and locks. Configuration space is accessed on vCPU threads, under one lock
 * for all of a machine's devices, which is taken before a device's own: hooks run with
 * it held, and a device must not hold its own lock where it calls what says "takes the
 * configuration's lock". Interrupts and DMA are for any thread, with any device's lock
 * held. Registers behind BARs are accessed as struct io_ops says, without a lock.
 *
 * BARs. The guest puts them where it wants, over each other, over RAM, beyond the
 * address space: RAM answers before them, what the board fixed too (vmm/vm/aspace.h).
 *
 * Spec: PCI Local Bus 3.0, PCI Express Base 3.0, PCI-to-PCI Bridge 1.2.
 */

enum { PCI_BARS = 6, PCI_MSIX_MAX = 128, PCI_CONFIG_LEN = 256, PCI_EXPRESS_LEN = 4096 };

#define PCI_NOWHERE UINT64_MAX

struct pci_bar {
    struct io_region region; /* len 0: there is no such BAR */
    struct pci_device *pd;
    uint8_t flags;          /* PCI_BAR_IS_...: the lowest bits of the register */
    uint64_t at;            /* where it is, or PCI_NOWHERE */
    struct gmem_block *ram; /* memory, or NULL */
    uint64_t ram_at;        /* where the guest's memory shows it, or PCI_NOWHERE */
    enum gmem_kind ram_kind;
    bool owns_ram;
};

struct pci_msix_entry {
    uint64_t addr;
    uint32_t data;
    bool masked, pending;
};

struct pci_device_ops {
    /* The guest wrote [off, off + len) of configuration space; what is writable there
     * has its new value. BARs, MSI and the command register are done already. */
    void (*config_written)(struct pci_device *pd, unsigned off, unsigned len);
    /* It is going to read them: bring pd->config up to date. */
    void (*config_read)(struct pci_device *pd, unsigned off, unsigned len);
    /* A BAR was moved, or switched on or off (at PCI_NOWHERE). */
    void (*bar_moved)(struct pci_device *pd, unsigned bar, uint64_t at);
};

struct pci_device {
    struct device *dev;
    const struct pci_device_ops *ops; /* may be NULL */
    struct pci_bus *bus;              /* NULL: not plugged */
    uint8_t devfn;                    /* slot << 3 | function */

    /* Properties. */
    char *opt_addr, *opt_bus, *opt_romfile;
    bool opt_multifunction, opt_rombar;
    uint32_t bootindex;

    /* Under the configuration's lock. */
    unsigned config_len;
    uint8_t config[PCI_EXPRESS_LEN];
    uint8_t writable[PCI_EXPRESS_LEN]; /* bits the guest may change */
    uint8_t w1c[PCI_EXPRESS_LEN];      /* bits it clears by writing 1 */
    uint8_t initial[PCI_EXPRESS_LEN];  /* after reset */
    bool has_initial;
    struct pci_bar bars[PCI_BARS], rom;
    unsigned caps_end, ecap_last, ecap_end, express; /* offsets; 0: none */
    struct pci_bridge *bridge;                       /* NULL: it is none */

    _Atomic bool master; /* may do DMA */

    /* Interrupts, under msi_lock, but for intx: under the host's own. */
    GMutex msi_lock;
    unsigned msi_cap, msix_cap; /* offsets in config; 0: none */
    bool msi_on, msix_on, msix_masked;
    bool msi_64, msi_maskable;
    uint8_t msi_max, msi_used; /* log2 of vectors */
    uint64_t msi_addr;
    uint32_t msi_data, msi_mask, msi_pending;
    unsigned nb_msix, msix_bar, msix_table, msix_pba;
    const struct io_ops *msix_below; /* of the rest of that BAR */
    void *msix_below_opaque;
    struct pci_msix_entry msix[PCI_MSIX_MAX];
    bool intx, intx_seen, pin_open; /* what the device wants; what leaves it */
    uint8_t irq_pin, pirq;          /* pirq: where it ends, while intx_seen */
    _Atomic uint64_t nb_msi;        /* messages sent */
};

struct pci_setup {
    uint16_t vendor, device;
    uint16_t subvendor, subsystem; /* both 0: those of virtual machines */
    uint32_t class_code;           /* 24 bits: PCI_CLASS_... */
    uint8_t revision;
    uint8_t irq_pin;      /* 1 INTA .. 4 INTD; 0: none */
    uint8_t express_type; /* PCI_EXP_..., with is_express */
    bool is_express;      /* has a PCI Express capability where its bus is such */
    bool multifunction;   /* as if the property were on */
    int devfn;            /* with has_devfn: of a part of the board */
    bool has_devfn;
    const struct pci_device_ops *ops;
};

/* In a device's property table: MEMBER is its struct pci_device. */
/* clang-format off */
#define PCI_PROPS(TYPE, MEMBER)                                                        \
    {.name = "addr", .type = PROP_STRING, PROP_FIELD(TYPE, MEMBER.opt_addr),           \
     .help = "slot and function on the bus, hexadecimal: 5 or 05.0"},                  \
    {.name = "bus", .type = PROP_STRING, PROP_FIELD(TYPE, MEMBER.opt_bus),             \
     .help = "the bus: pci.0, pcie.0, or the id of a bridge or root port"},            \
    {.name = "multifunction", .type = PROP_BOOL,                                       \
     PROP_FIELD(TYPE, MEMBER.opt_multifunction),                                       \
     .help = "other functions follow in the slot"},                                    \
    {.name = "rombar", .type = PROP_BOOL, PROP_FIELD(TYPE, MEMBER.opt_rombar),         \
     .def = 1, .help = "show its option ROM"},                                         \
    {.name = "romfile", .type = PROP_STRING, PROP_FIELD(TYPE, MEMBER.opt_romfile),     \
     .help = "file of its option ROM; empty: none"}

/* ... and of what firmware may boot from. */
#define PCI_BOOT_PROP(TYPE, MEMBER)                                                    \
    {.name = "bootindex", .type = PROP_U32, PROP_FIELD(TYPE, MEMBER.bootindex),        \
     .def = UINT32_MAX, .help = "place in the firmware's order of booting, from 0"}
/* clang-format on */

extern const struct state_table pci_state;
#define PCI_STATE_FIELD(TYPE, MEMBER)                                          \
    {                                                                          \
        .name = "pci", .kind = STATE_STRUCT, .offset = offsetof(TYPE, MEMBER), \
        .size = sizeof(struct pci_device), .table = &pci_state                 \
    }

/* ---- life. Thread: main; each takes the configuration's lock. ---- */

/*
 * Put @pd, part of @dev, on the bus and into the slot that its properties name, or into
 * the first free one; set up the header. False with @error: there is no PCI, no such
 * bus, the slot is taken or does not exist. pci_unplug() is fine in every case.
 */
bool pci_plug(struct pci_device *pd, struct device *dev, const struct pci_setup *setup,
              GError **error);
void pci_unplug(struct pci_device *pd);

/* The function's state after power-on: configuration as it was before the guest's first
 * write, no interrupts. */
void pci_reset(struct pci_device *pd);

/* Whether it is on a bus of a PCI Express port, where conventional PCI has no place. */
bool pci_is_behind_port(const struct pci_device *pd);

/* ---- what a device consists of: between pci_plug() and the first reset ---- */

struct pci_bar_setup {
    uint64_t len;  /* bytes, a power of two; at least 16, or 4 of ports */
    uint8_t flags; /* PCI_BAR_IS_IO, or PCI_BAR_IS_64 | PCI_BAR_IS_PREFETCH; 64 bits
                      take the next register too */
    const struct io_ops *ops;
    void *opaque;
    struct gmem_block *ram; /* instead of @ops: memory that the guest accesses directly;
                               borrowed until pci_unplug(). Pages; len is the block's */
};
void pci_add_bar(struct pci_device *pd, unsigned n, const struct pci_bar_setup *setup);

/*
 * The option ROM: the file that the property romfile names or else @file, looked for as
 * vm_find_file() does; none when that is empty or rombar=off. NULL @file: only the
 * property counts. False with @error when a file that the user named cannot be read;
 * one that only @file names may be missing.
 */
bool pci_add_rom(struct pci_device *pd, const char *file, GError **error);

/* A capability of @len bytes, its two header bytes included; returns its offset. The
 * rest is zero and read-only: the caller fills pd->config and pd->writable. */
unsigned pci_add_cap(struct pci_device *pd, uint8_t id, unsigned len);
/* Of the extended kind, from 0x100 on; 0: the device has no such space. */
unsigned pci_add_ecap(struct pci_device *pd, uint16_t id, uint8_t version,
                      unsigned len);

/* Power management: D0 and D3hot, without effect on the device. Returns its offset. */
unsigned pci_add_pm(struct pci_device *pd);

/* MSI with 64-bit addresses and at most 2^@log2 vectors, 0..5; @maskable: per vector.
 */
void pci_add_msi(struct pci_device *pd, unsigned log2, bool maskable);

/*
 * MSI-X with @nb vectors, 1..PCI_MSIX_MAX: table and pending bits at those offsets of
 * BAR @bar, before whatever its ops say of these bytes. A BAR that was not added is
 * made, of 32 bits and as long as needed.
 */
bool pci_add_msix(struct pci_device *pd, unsigned nb, unsigned bar, unsigned table,
                  unsigned pba, GError **error);

/* ---- interrupts. Any thread, any device's lock held. ---- */

/* The function's INTx pin, a level. Where MSI or MSI-X is on, or the guest disabled it,
 * the pin stays low. */
void pci_set_irq(struct pci_device *pd, bool level);

/* Whether messages are to be sent in place of INTx; and send one, of @vector: false
 * when neither MSI nor MSI-X is on, or @vector is not one of its. Masked ones stay
 * pending. With fewer MSI vectors than asked for, the last stands for the rest. */
bool pci_has_messages(struct pci_device *pd);
bool pci_has_msix(struct pci_device *pd);
bool pci_notify(struct pci_device *pd, unsigned vector);

/* ---- DMA. Any thread. ---- */

/*
 * As gmem_read() and gmem_write(), which see RAM and ROM only, but -EACCES while the
 * guest has not made the function a bus master.
 */
int pci_dma_read(struct pci_device *pd, uint64_t addr, void *buf, size_t len);
int pci_dma_write(struct pci_device *pd, uint64_t addr, const void *buf, size_t len);
static inline bool pci_may_dma(const struct pci_device *pd)
{
    return atomic_load_explicit(&pd->master, memory_order_acquire);
}

/* ---- names ---- */

/*
 * Enter the device into the firmware's order of booting, if the property bootindex says
 * so: @suffix is what follows its own part of the Open Firmware path, "/disk@0,0".
 * @name is the generic name of that part: "scsi", "ethernet". False with @error when
 * the index is taken.
 */
bool pci_add_boot_path(struct pci_device *pd, const char *name, const char *suffix,
                       GError **error);
/* "/pci@i0cf8/scsi@5", caller owns. */
char *pci_boot_path(const struct pci_device *pd, const char *name);

static inline unsigned pci_slot(const struct pci_device *pd)
{
    return pd->devfn >> 3;
}
static inline unsigned pci_function(const struct pci_device *pd)
{
    return pd->devfn & 7;
}

#endif
