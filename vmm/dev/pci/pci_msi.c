#include <assert.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/dev/pci/pci_priv.h"
#include "vmm/vm/vm.h"

/*
 * Message-signalled interrupts (PCI 3.0, 6.8). MSI is a few registers in configuration
 * space, MSI-X a table behind a BAR. Devices raise vectors on any thread, so that what
 * they need is kept decoded under msi_lock: addresses, masks, what is pending. A
 * message is sent after the lock was released.
 */

enum {
    MSI_CONTROL = 2,
    MSI_ADDR = 4,
    MSI_DATA = 12, /* of the 64-bit form, the only one here */
    MSI_MASK = 16,
    MSI_PENDING = 20,
    MSI_LEN = 16,
    MSI_MASKABLE_LEN = 24,
    MSI_ON = 1 << 0,
    MSI_IS_64 = 1 << 7,
    MSI_IS_MASKABLE = 1 << 8,

    MSIX_CONTROL = 2,
    MSIX_TABLE = 4,
    MSIX_PBA = 8,
    MSIX_LEN = 12,
    MSIX_ON = 1 << 15,
    MSIX_MASKED = 1 << 14,
    MSIX_ENTRY = 16,
};

static void send(struct pci_device *pd, uint64_t addr, uint32_t data)
{
    if (pci_may_dma(pd)) {
        atomic_fetch_add_explicit(&pd->nb_msi, 1, memory_order_relaxed);
        vm_send_msi(pd->dev->vm, addr, data);
    }
}

/* ---- MSI ---- */

void pci_add_msi(struct pci_device *pd, unsigned log2, bool maskable)
{
    unsigned off = pci_add_cap(pd, PCI_CAP_MSI, maskable ? MSI_MASKABLE_LEN : MSI_LEN);
    uint8_t *c = pd->config + off, *w = pd->writable + off;
    assert(log2 <= 5);
    pd->msi_cap = off;
    pd->msi_max = (uint8_t)log2;
    pd->msi_maskable = maskable;
    le16_put(c + MSI_CONTROL,
             (uint16_t)(log2 << 1 | MSI_IS_64 | (maskable ? MSI_IS_MASKABLE : 0)));
    le16_put(w + MSI_CONTROL, MSI_ON | 7 << 4);
    le32_put(w + MSI_ADDR, ~3u);
    le32_put(w + MSI_ADDR + 4, UINT32_MAX);
    le16_put(w + MSI_DATA, UINT16_MAX);
    if (maskable) {
        le32_put(w + MSI_MASK, UINT32_MAX >> (32 - (1u << log2)));
    }
}

/* The data of vector @n: the lowest bits say which (6.8.3.4). Caller holds msi_lock. */
static uint32_t msi_data(const struct pci_device *pd, unsigned n)
{
    uint32_t low = (1u << pd->msi_used) - 1;
    return (pd->msi_data & ~low) | (n & low);
}

/* Send what is pending and not masked any more. */
static void msi_flush(struct pci_device *pd)
{
    for (;;) {
        g_mutex_lock(&pd->msi_lock);
        uint32_t ready = pd->msi_on ? pd->msi_pending & ~pd->msi_mask : 0;
        if (!ready) {
            g_mutex_unlock(&pd->msi_lock);
            return;
        }
        unsigned n = (unsigned)__builtin_ctz(ready);
        uint64_t addr = pd->msi_addr;
        uint32_t data = msi_data(pd, n);
        pd->msi_pending &= ~(1u << n);
        g_mutex_unlock(&pd->msi_lock);
        send(pd, addr, data);
    }
}

static void msi_decode(struct pci_device *pd)
{
    const uint8_t *c = pd->config + pd->msi_cap;
    uint16_t control = le16_get(c + MSI_CONTROL);
    g_mutex_lock(&pd->msi_lock);
    pd->msi_on = control & MSI_ON;
    pd->msi_used = (uint8_t)MIN(control >> 4 & 7, pd->msi_max);
    pd->msi_addr = le64_get(c + MSI_ADDR);
    pd->msi_data = le16_get(c + MSI_DATA);
    pd->msi_mask = pd->msi_maskable ? le32_get(c + MSI_MASK) : 0;
    g_mutex_unlock(&pd->msi_lock);
    msi_flush(pd);
}

void pci_msi_read(struct pci_device *pd, unsigned off, unsigned len)
{
    if (pd->msi_maskable && off + len > pd->msi_cap + MSI_PENDING &&
        off < pd->msi_cap + MSI_PENDING + 4) {
        g_mutex_lock(&pd->msi_lock);
        le32_put(pd->config + pd->msi_cap + MSI_PENDING, pd->msi_pending);
        g_mutex_unlock(&pd->msi_lock);
    }
}

/* ---- MSI-X ---- */

/* Caller holds msi_lock. */
static bool msix_ready(const struct pci_device *pd, unsigned n)
{
    return pd->msix_on && !pd->msix_masked && !pd->msix[n].masked;
}

/* Send vector @n if it is pending and may be sent. */
static void msix_flush(struct pci_device *pd, unsigned n)
{
    g_mutex_lock(&pd->msi_lock);
    struct pci_msix_entry e = pd->msix[n];
    bool go = e.pending && msix_ready(pd, n);
    if (go) {
        pd->msix[n].pending = false;
    }
    g_mutex_unlock(&pd->msi_lock);
    if (go) {
        send(pd, e.addr, e.data);
    }
}

static void msix_decode(struct pci_device *pd)
{
    uint16_t control = le16_get(pd->config + pd->msix_cap + MSIX_CONTROL);
    g_mutex_lock(&pd->msi_lock);
    pd->msix_on = control & MSIX_ON;
    pd->msix_masked = control & MSIX_MASKED;
    g_mutex_unlock(&pd->msi_lock);
    for (unsigned n = 0; n < pd->nb_msix; n++) {
        msix_flush(pd, n);
    }
}

static uint32_t table_get(struct pci_device *pd, unsigned off)
{
    const struct pci_msix_entry *e = &pd->msix[off / MSIX_ENTRY];
    g_mutex_lock(&pd->msi_lock);
    uint32_t words[] = {(uint32_t)e->addr, (uint32_t)(e->addr >> 32), e->data,
                        e->masked};
    g_mutex_unlock(&pd->msi_lock);
    return words[off / 4 % 4];
}

static void table_put(struct pci_device *pd, unsigned off, uint32_t value)
{
    unsigned n = off / MSIX_ENTRY;
    struct pci_msix_entry *e = &pd->msix[n];
    g_mutex_lock(&pd->msi_lock);
    switch (off / 4 % 4) {
    case 0: e->addr = (e->addr & ~(uint64_t)UINT32_MAX) | (value & ~3u); break;
    case 1: e->addr = (e->addr & UINT32_MAX) | (uint64_t)value << 32; break;
    case 2: e->data = value; break;
    default: e->masked = value & 1; break;
    }
    g_mutex_unlock(&pd->msi_lock);
    msix_flush(pd, n);
}

static uint32_t pba_get(struct pci_device *pd, unsigned off)
{
    uint32_t bits = 0;
    g_mutex_lock(&pd->msi_lock);
    for (unsigned i = 0; i < 32 && off * 8 + i < pd->nb_msix; i++) {
        bits |= (uint32_t)pd->msix[off * 8 + i].pending << i;
    }
    g_mutex_unlock(&pd->msi_lock);
    return bits;
}

static bool in_table(const struct pci_device *pd, uint64_t off, unsigned len)
{
    return off >= pd->msix_table &&
           off + len <= pd->msix_table + pd->nb_msix * MSIX_ENTRY;
}

static bool in_pba(const struct pci_device *pd, uint64_t off, unsigned len)
{
    return off >= pd->msix_pba &&
           off + len <= pd->msix_pba + (pd->nb_msix + 63) / 64 * 8;
}

/* Accesses of the two are of 4 or 8 bytes, aligned (6.8.2); others meet nothing. */
static uint64_t msix_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct pci_device *pd = opaque;
    bool table = in_table(pd, off, len);
    if (!table && !in_pba(pd, off, len)) {
        return pd->msix_below
                   ? pd->msix_below->read(pd->msix_below_opaque, vcpu, off, len)
                   : 0;
    }
    unsigned rel = (unsigned)off - (table ? pd->msix_table : pd->msix_pba);
    uint32_t (*get)(struct pci_device *, unsigned) = table ? table_get : pba_get;
    if (rel % 4 || len < 4) {
        return 0;
    }
    return len == 8 ? get(pd, rel) | (uint64_t)get(pd, rel + 4) << 32 : get(pd, rel);
}

static void msix_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                       unsigned len)
{
    struct pci_device *pd = opaque;
    if (in_table(pd, off, len)) {
        unsigned rel = (unsigned)off - pd->msix_table;
        if (rel % 4 == 0 && len >= 4) {
            table_put(pd, rel, (uint32_t)value);
            if (len == 8) {
                table_put(pd, rel + 4, (uint32_t)(value >> 32));
            }
        }
    } else if (!in_pba(pd, off, len) && pd->msix_below) {
        pd->msix_below->write(pd->msix_below_opaque, vcpu, off, value, len);
    }
}

static const struct io_ops msix_ops = {.read = msix_read, .write = msix_write};
static const struct io_ops msix_ops_4 = {
    .read = msix_read, .write = msix_write, .max_len = 4};

static uint64_t room_for(uint64_t end)
{
    uint64_t len = 4096;
    while (len < end) {
        len *= 2;
    }
    return len;
}

bool pci_add_msix(struct pci_device *pd, unsigned nb, unsigned bar, unsigned table,
                  unsigned pba, GError **error)
{
    struct pci_bar *b = &pd->bars[bar];
    unsigned table_end = table + nb * MSIX_ENTRY, pba_end = pba + (nb + 63) / 64 * 8;
    assert(bar < PCI_BARS && table % 8 == 0 && pba % 8 == 0 && nb >= 1);
    if (nb > PCI_MSIX_MAX) {
        return error_msg(error, "%u MSI-X vectors are more than %u", nb, PCI_MSIX_MAX);
    }
    pd->nb_msix = nb;
    pd->msix_bar = bar;
    pd->msix_table = table;
    pd->msix_pba = pba;
    if (!b->region.len) {
        pci_add_bar(pd, bar,
                    &(struct pci_bar_setup){.len = room_for(MAX(table_end, pba_end)),
                                            .ops = &msix_ops,
                                            .opaque = pd});
    } else {
        pd->msix_below = b->region.ops;
        pd->msix_below_opaque = b->region.opaque;
        b->region.ops = pd->msix_below->max_len && pd->msix_below->max_len < 8
                            ? &msix_ops_4
                            : &msix_ops;
        b->region.opaque = pd;
    }
    unsigned off = pci_add_cap(pd, PCI_CAP_MSIX, MSIX_LEN);
    pd->msix_cap = off;
    le16_put(pd->config + off + MSIX_CONTROL, (uint16_t)(nb - 1));
    le16_put(pd->writable + off + MSIX_CONTROL, MSIX_ON | MSIX_MASKED);
    le32_put(pd->config + off + MSIX_TABLE, table | bar);
    le32_put(pd->config + off + MSIX_PBA, pba | bar);
    return true;
}

/* ---- both ---- */

void pci_msi_written(struct pci_device *pd, unsigned off, unsigned len)
{
    if (pd->msi_cap && off < pd->msi_cap + MSI_MASKABLE_LEN &&
        off + len > pd->msi_cap) {
        msi_decode(pd);
    }
    if (pd->msix_cap && off < pd->msix_cap + MSIX_LEN && off + len > pd->msix_cap) {
        msix_decode(pd);
    }
}

void pci_msi_reset(struct pci_device *pd)
{
    g_mutex_lock(&pd->msi_lock);
    pd->msi_pending = 0;
    for (unsigned n = 0; n < pd->nb_msix; n++) {
        pd->msix[n] = (struct pci_msix_entry){.masked = true};
    }
    g_mutex_unlock(&pd->msi_lock);
}

bool pci_has_messages(struct pci_device *pd)
{
    g_mutex_lock(&pd->msi_lock);
    bool on = pd->msi_on || pd->msix_on;
    g_mutex_unlock(&pd->msi_lock);
    return on;
}

bool pci_has_msix(struct pci_device *pd)
{
    g_mutex_lock(&pd->msi_lock);
    bool on = pd->msix_on;
    g_mutex_unlock(&pd->msi_lock);
    return on;
}

bool pci_notify(struct pci_device *pd, unsigned vector)
{
    g_mutex_lock(&pd->msi_lock);
    bool msix = pd->msix_on, on = msix ? vector < pd->nb_msix : pd->msi_on;
    if (on && msix) {
        pd->msix[vector].pending = true;
    } else if (on) {
        vector = MIN(vector, (1u << pd->msi_used) - 1);
        pd->msi_pending |= 1u << vector;
    }
    g_mutex_unlock(&pd->msi_lock);
    if (on && msix) {
        msix_flush(pd, vector);
    } else if (on) {
        msi_flush(pd);
    }
    return on;
}
