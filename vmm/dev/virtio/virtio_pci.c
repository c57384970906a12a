#include "vmm/dev/virtio/virtio_pci.h"

#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/vm/vcpu.h"
#include "vmm/vm/vm.h"

/*
 * What a driver finds (virtio 1.2, 4.1.4):
 *
 *   BAR 0  ports: the interface of before 1.0, of 20 bytes, or 24 with MSI-X, then the
 *          device's configuration (4.1.4.8)
 *   BAR 1  MSI-X
 *   BAR 4  memory, 16 KiB: common configuration, interrupt status, the device's
 *          configuration and notifications, a page each; capabilities say so
 *
 * and a window on BAR 4 in configuration space, for drivers that cannot access BARs.
 * The selectors and vectors belong to the transport, all else is virtio.c's.
 */

enum {
    BAR_LEGACY = 0,
    BAR_MSIX = 1,
    BAR_MODERN = 4,

    PAGE_COMMON = 0x0000,
    PAGE_ISR = 0x1000,
    PAGE_DEVICE = 0x2000,
    PAGE_NOTIFY = 0x3000,
    MODERN_LEN = 0x4000,
    PAGE_LEN = 0x1000,
    NOTIFY_STEP = 4, /* bytes between the queues' */
    COMMON_LEN = 56,

    NO_VECTOR = 0xffff,
    LEGACY_ALIGN = 4096, /* of rings, and of what page numbers count */
};

/* Common configuration (4.1.4.3). */
enum {
    DEVICE_FEATURES_SEL = 0,
    DEVICE_FEATURES = 4,
    DRIVER_FEATURES_SEL = 8,
    DRIVER_FEATURES = 12,
    CONFIG_VECTOR = 16,
    NUM_QUEUES = 18,
    STATUS = 20,
    CONFIG_GENERATION = 21,
    QUEUE_SEL = 22,
    QUEUE_SIZE = 24,
    QUEUE_VECTOR = 26,
    QUEUE_ENABLE = 28,
    QUEUE_NOTIFY_OFF = 30,
    QUEUE_DESC = 32,
    QUEUE_DRIVER = 40,
    QUEUE_DEVICE = 48,
};

/* The legacy interface. */
enum {
    L_DEVICE_FEATURES = 0,
    L_DRIVER_FEATURES = 4,
    L_QUEUE_PFN = 8,
    L_QUEUE_SIZE = 12,
    L_QUEUE_SEL = 14,
    L_QUEUE_NOTIFY = 16,
    L_STATUS = 18,
    L_ISR = 19,
    L_CONFIG_VECTOR = 20,
    L_QUEUE_VECTOR = 22,
    L_LEN = 20,
    L_LEN_MSIX = 24,
};

/* Types of the capabilities (4.1.4). */
enum { CAP_COMMON = 1, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_PCI };

const char *const virtio_pci_on_off_auto[] = {"auto", "on", "off", NULL};

/* ---- what both interfaces share ---- */

static uint16_t selected(struct virtio_pci *p)
{
    g_mutex_lock(&p->lock);
    uint16_t sel = p->queue_sel;
    g_mutex_unlock(&p->lock);
    return sel;
}

static uint32_t get32(struct virtio_pci *p, const uint32_t *field)
{
    g_mutex_lock(&p->lock);
    uint32_t v = *field;
    g_mutex_unlock(&p->lock);
    return v;
}

static void set32(struct virtio_pci *p, uint32_t *field, uint32_t v)
{
    g_mutex_lock(&p->lock);
    *field = v;
    g_mutex_unlock(&p->lock);
}

static void reset_selectors(struct virtio_pci *p)
{
    g_mutex_lock(&p->lock);
    p->device_features_sel = p->driver_features_sel = 0;
    p->queue_sel = 0;
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
        p->queue_size[i] = p->vdev->queue_max;
        atomic_store(&p->queue_vector[i], NO_VECTOR);
    }
    atomic_store(&p->config_vector, NO_VECTOR);
    g_mutex_unlock(&p->lock);
}

static void set_status(struct virtio_pci *p, struct vcpu *vcpu, uint32_t status)
{
    if ((status & 0xff) == 0) {
        reset_selectors(p);
    }
    virtio_set_status(p->vdev, vcpu, status & 0xff);
}

/* What cannot be had reads back as no vector (4.1.5.1.2). */
static void set_vector(struct virtio_pci *p, _Atomic uint16_t *v, uint32_t value)
{
    atomic_store(v, value < p->pci.nb_msix ? (uint16_t)value : NO_VECTOR);
}

/* Reading says why there was an interrupt, and takes it back (4.1.4.5). */
static uint32_t take_isr(struct virtio_pci *p)
{
    uint32_t isr = atomic_load(&p->vdev->isr);
    virtio_isr_ack(p->vdev, UINT32_MAX);
    return isr & 0xff;
}

static bool exists(const struct virtio_pci *p, unsigned queue)
{
    return queue < p->vdev->nb_queues;
}

static void kick(struct virtio_pci *p, unsigned queue)
{
    virtio_kick(p->vdev, queue);
}

/* ---- version 1 ---- */

static uint32_t read_queue_register(struct virtio_pci *p, unsigned off)
{
    struct virtio_device *vdev = p->vdev;
    uint16_t q = selected(p);
    uint32_t size;
    if (!exists(p, q)) {
        return 0; /* of size 0: there is none */
    }
    switch (off) {
    case QUEUE_SIZE:
        g_mutex_lock(&p->lock);
        size = p->queue_size[q];
        g_mutex_unlock(&p->lock);
        return size;
    case QUEUE_VECTOR: return atomic_load(&p->queue_vector[q]);
    case QUEUE_ENABLE: return atomic_load(&vdev->queues[q].ready);
    case QUEUE_NOTIFY_OFF: return q;
    default: {
        uint64_t addr = virtio_queue_get_addr(vdev, q, (off - QUEUE_DESC) / 8);
        return (uint32_t)(off & 4 ? addr >> 32 : addr);
    }
    }
}

static uint32_t read_common(struct virtio_pci *p, unsigned off)
{
    struct virtio_device *vdev = p->vdev;
    uint32_t sel;
    switch (off) {
    case DEVICE_FEATURES_SEL: return get32(p, &p->device_features_sel);
    case DEVICE_FEATURES:
        sel = get32(p, &p->device_features_sel);
        return sel < 2 ? (uint32_t)(virtio_get_features(vdev) >> (32 * sel)) : 0;
    case DRIVER_FEATURES_SEL: return get32(p, &p->driver_features_sel);
    case DRIVER_FEATURES:
        sel = get32(p, &p->driver_features_sel);
        return sel < 2 ? (uint32_t)(vdev->accepted >> (32 * sel)) : 0;
    case CONFIG_VECTOR: return atomic_load(&p->config_vector);
    case NUM_QUEUES: return vdev->nb_queues;
    case STATUS: return virtio_get_status(vdev);
    case CONFIG_GENERATION: return atomic_load(&vdev->config_generation) & 0xff;
    case QUEUE_SEL: return selected(p);
    default: return off < COMMON_LEN ? read_queue_register(p, off) : 0;
    }
}

static void enable_queue(struct virtio_pci *p, struct vcpu *vcpu, unsigned q)
{
    g_mutex_lock(&p->lock);
    uint16_t size = p->queue_size[q];
    g_mutex_unlock(&p->lock);
    virtio_queue_set_size(p->vdev, q, size);
    virtio_queue_set_ready(p->vdev, vcpu, q, true);
}

static void write_queue_register(struct virtio_pci *p, struct vcpu *vcpu, unsigned off,
                                 uint32_t v)
{
    uint16_t q = selected(p);
    if (!exists(p, q)) {
        return;
    }
    switch (off) {
    case QUEUE_SIZE:
        g_mutex_lock(&p->lock);
        p->queue_size[q] = (uint16_t)v;
        g_mutex_unlock(&p->lock);
        break;
    case QUEUE_VECTOR: set_vector(p, &p->queue_vector[q], v & 0xffff); break;
    case QUEUE_ENABLE:
        /* Only a reset of the device disables it (4.1.4.3.2). */
        if (v == 1) {
            enable_queue(p, vcpu, q);
        }
        break;
    case QUEUE_NOTIFY_OFF: break;
    default:
        virtio_queue_set_addr(p->vdev, q, (off - QUEUE_DESC) / 8, off & 4, v);
        break;
    }
}

static void write_common(struct virtio_pci *p, struct vcpu *vcpu, unsigned off,
                         uint32_t v)
{
    switch (off) {
    case DEVICE_FEATURES_SEL: set32(p, &p->device_features_sel, v); break;
    case DRIVER_FEATURES_SEL: set32(p, &p->driver_features_sel, v); break;
    case DRIVER_FEATURES:
        virtio_set_features(p->vdev, get32(p, &p->driver_features_sel), v);
        break;
    case CONFIG_VECTOR: set_vector(p, &p->config_vector, v & 0xffff); break;
    case STATUS: set_status(p, vcpu, v); break;
    case QUEUE_SEL:
        g_mutex_lock(&p->lock);
        p->queue_sel = (uint16_t)v;
        g_mutex_unlock(&p->lock);
        break;
    case DEVICE_FEATURES:
    case NUM_QUEUES:
    case CONFIG_GENERATION: break;
    default:
        if (off >= QUEUE_SIZE && off < COMMON_LEN) {
            write_queue_register(p, vcpu, off, v);
        }
        break;
    }
}

/* How wide the register at @off is; drivers access each as a whole (4.1.3.1). 0: there
 * is none. */
static unsigned common_width(unsigned off)
{
    if (off >= COMMON_LEN) {
        return 0;
    }
    if (off < CONFIG_VECTOR || off >= QUEUE_DESC) {
        return off % 4 == 0 ? 4 : 0;
    }
    if (off == STATUS || off == CONFIG_GENERATION) {
        return 1;
    }
    return off % 2 == 0 ? 2 : 0;
}

static uint64_t modern_read(void *opaque, struct vcpu *vcpu, uint64_t at, unsigned len)
{
    struct virtio_pci *p = opaque;
    unsigned off = (unsigned)at % PAGE_LEN;
    switch (at & ~(uint64_t)(PAGE_LEN - 1)) {
    case PAGE_COMMON: return common_width(off) == len ? read_common(p, off) : 0;
    case PAGE_ISR: return off == 0 ? take_isr(p) : 0;
    case PAGE_DEVICE: return virtio_config_read(p->vdev, off, len);
    default: return 0;
    }
}

static void modern_write(void *opaque, struct vcpu *vcpu, uint64_t at, uint64_t value,
                         unsigned len)
{
    struct virtio_pci *p = opaque;
    unsigned off = (unsigned)at % PAGE_LEN;
    switch (at & ~(uint64_t)(PAGE_LEN - 1)) {
    /* By far the most frequent one. */
    case PAGE_NOTIFY: kick(p, off / NOTIFY_STEP); break;
    case PAGE_COMMON:
        if (common_width(off) == len) {
            write_common(p, vcpu, off, (uint32_t)value);
        }
        break;
    case PAGE_DEVICE: virtio_config_write(p->vdev, off, (uint32_t)value, len); break;
    default: break;
    }
}

static const struct io_ops modern_ops = {
    .read = modern_read, .write = modern_write, .max_len = 4};

/* ---- before version 1 ---- */

static unsigned legacy_header(struct virtio_pci *p)
{
    return pci_has_msix(&p->pci) ? L_LEN_MSIX : L_LEN;
}

static uint32_t legacy_read_register(struct virtio_pci *p, unsigned off)
{
    struct virtio_device *vdev = p->vdev;
    uint16_t q = selected(p);
    switch (off) {
    case L_DEVICE_FEATURES: return (uint32_t)virtio_get_features(vdev);
    case L_DRIVER_FEATURES: return (uint32_t)vdev->accepted;
    case L_QUEUE_PFN:
        return exists(p, q) && atomic_load(&vdev->queues[q].ready)
                   ? (uint32_t)(virtio_queue_get_addr(vdev, q, 0) / LEGACY_ALIGN)
                   : 0;
    case L_QUEUE_SIZE: return exists(p, q) ? vdev->queue_max : 0;
    case L_QUEUE_SEL: return q;
    case L_STATUS: return virtio_get_status(vdev) & 0xff;
    case L_ISR: return take_isr(p);
    case L_CONFIG_VECTOR: return atomic_load(&p->config_vector);
    case L_QUEUE_VECTOR:
        return exists(p, q) ? atomic_load(&p->queue_vector[q]) : NO_VECTOR;
    default: return 0;
    }
}

static uint64_t legacy_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct virtio_pci *p = opaque;
    unsigned header = legacy_header(p);
    if (off >= header) {
        return virtio_config_read(p->vdev, (unsigned)off - header, len);
    }
    return legacy_read_register(p, (unsigned)off);
}

/* The rings follow each other in one piece of memory (2.7.2). */
static void legacy_set_queue(struct virtio_pci *p, struct vcpu *vcpu, unsigned q,
                             uint32_t pfn)
{
    struct virtio_device *vdev = p->vdev;
    uint64_t size = vdev->queue_max, desc = (uint64_t)pfn * LEGACY_ALIGN;
    uint64_t avail = desc + 16 * size;
    uint64_t used = ALIGN_UP(avail + 2 * (3 + size), (uint64_t)LEGACY_ALIGN);
    const uint64_t addrs[] = {desc, avail, used};
    virtio_set_legacy(vdev);
    if (pfn == 0) {
        virtio_queue_set_ready(vdev, vcpu, q, false);
        return;
    }
    virtio_queue_set_size(vdev, q, vdev->queue_max);
    for (unsigned part = 0; part < ARRAY_LEN(addrs); part++) {
        virtio_queue_set_addr(vdev, q, part, false, (uint32_t)addrs[part]);
        virtio_queue_set_addr(vdev, q, part, true, (uint32_t)(addrs[part] >> 32));
    }
    virtio_queue_set_ready(vdev, vcpu, q, true);
}

static void legacy_write_register(struct virtio_pci *p, struct vcpu *vcpu, unsigned off,
                                  uint32_t v)
{
    uint16_t q = selected(p);
    switch (off) {
    case L_QUEUE_NOTIFY: kick(p, v & 0xffff); break;
    case L_DRIVER_FEATURES: virtio_set_features_legacy(p->vdev, v); break;
    case L_QUEUE_PFN:
        if (exists(p, q)) {
            legacy_set_queue(p, vcpu, q, v);
        }
        break;
    case L_QUEUE_SEL:
        g_mutex_lock(&p->lock);
        p->queue_sel = (uint16_t)v;
        g_mutex_unlock(&p->lock);
        break;
    case L_STATUS:
        if (v & VIRTIO_DRIVER_OK) {
            virtio_set_legacy(p->vdev);
        }
        set_status(p, vcpu, v);
        break;
    case L_CONFIG_VECTOR: set_vector(p, &p->config_vector, v & 0xffff); break;
    case L_QUEUE_VECTOR:
        if (exists(p, q)) {
            set_vector(p, &p->queue_vector[q], v & 0xffff);
        }
        break;
    default: break;
    }
}

static void legacy_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                         unsigned len)
{
    struct virtio_pci *p = opaque;
    unsigned header = legacy_header(p);
    if (off >= header) {
        virtio_config_write(p->vdev, (unsigned)off - header, (uint32_t)value, len);
    } else {
        legacy_write_register(p, vcpu, (unsigned)off, (uint32_t)value);
    }
}

static const struct io_ops legacy_ops = {
    .read = legacy_read, .write = legacy_write, .max_len = 4};

/* ---- the window in configuration space (4.1.4.9) ---- */

enum { WINDOW_BAR = 4, WINDOW_OFFSET = 8, WINDOW_LENGTH = 12, WINDOW_DATA = 16 };

/* The access that the window stands for: false when it is none. */
static bool window_access(struct virtio_pci *p, uint64_t *ret_off, unsigned *ret_len)
{
    const uint8_t *c = p->pci.config + p->window;
    uint32_t off = le32_get(c + WINDOW_OFFSET), len = le32_get(c + WINDOW_LENGTH);
    *ret_off = off;
    *ret_len = len;
    return c[WINDOW_BAR] == BAR_MODERN && (len == 1 || len == 2 || len == 4) &&
           off % len == 0 && off < MODERN_LEN;
}

static bool touches_window(const struct virtio_pci *p, unsigned off, unsigned len)
{
    return p->window && off < p->window + WINDOW_DATA + 4 &&
           off + len > p->window + WINDOW_DATA;
}

static void config_read(struct pci_device *pd, unsigned off, unsigned len)
{
    struct virtio_pci *p = container_of(pd, struct virtio_pci, pci);
    uint64_t at;
    unsigned n;
    if (touches_window(p, off, len) && window_access(p, &at, &n)) {
        uint64_t v = modern_read(p, vm_current_vcpu(pd->dev->vm), at, n);
        le32_put(pd->config + p->window + WINDOW_DATA, (uint32_t)v);
    }
}

static void config_written(struct pci_device *pd, unsigned off, unsigned len)
{
    struct virtio_pci *p = container_of(pd, struct virtio_pci, pci);
    uint64_t at;
    unsigned n;
    /* A reset touches it all, and means nothing by it. */
    if (len <= 4 && touches_window(p, off, len) && window_access(p, &at, &n)) {
        uint32_t v = le32_get(pd->config + p->window + WINDOW_DATA);
        modern_write(p, vm_current_vcpu(pd->dev->vm), at, v, n);
    }
    if (off <= PCI_COMMAND && off + len > PCI_COMMAND && pci_may_dma(pd)) {
        virtio_look_again(p->vdev);
    }
}

static const struct pci_device_ops pci_ops = {.config_read = config_read,
                                              .config_written = config_written};

/* ---- for virtio.c ---- */

static void set_irq(void *transport, bool level)
{
    pci_set_irq(&((struct virtio_pci *)transport)->pci, level);
}

static bool notify(void *transport, int queue)
{
    struct virtio_pci *p = transport;
    if (!pci_has_msix(&p->pci)) {
        return false;
    }
    uint16_t v = atomic_load(queue < 0 ? &p->config_vector : &p->queue_vector[queue]);
    if (v != NO_VECTOR) {
        pci_notify(&p->pci, v);
    }
    return true;
}

/* Drivers of old do not always ask for it. */
static bool may_dma(void *transport)
{
    struct virtio_pci *p = transport;
    return pci_may_dma(&p->pci) || atomic_load(&p->vdev->legacy);
}

static const struct virtio_transport pci_transport = {
    .set_irq = set_irq, .notify = notify, .may_dma = may_dma};

/* ---- life ---- */

static unsigned add_window_cap(struct virtio_pci *p, unsigned type, uint32_t off,
                               uint32_t len, unsigned cap_len)
{
    unsigned at = pci_add_cap(&p->pci, PCI_CAP_VENDOR, cap_len);
    uint8_t *c = p->pci.config + at;
    c[2] = (uint8_t)cap_len;
    c[3] = (uint8_t)type;
    c[4] = BAR_MODERN;
    le32_put(c + 8, off);
    le32_put(c + 12, len);
    return at;
}

static void add_modern(struct virtio_pci *p)
{
    enum { CAP_LEN = 16, LONG_CAP_LEN = 20 };
    pci_add_bar(&p->pci, BAR_MODERN,
                &(struct pci_bar_setup){.len = MODERN_LEN,
                                        .flags = PCI_BAR_IS_64 | PCI_BAR_IS_PREFETCH,
                                        .ops = &modern_ops,
                                        .opaque = p});
    add_window_cap(p, CAP_COMMON, PAGE_COMMON, PAGE_LEN, CAP_LEN);
    add_window_cap(p, CAP_ISR, PAGE_ISR, PAGE_LEN, CAP_LEN);
    add_window_cap(p, CAP_DEVICE, PAGE_DEVICE, PAGE_LEN, CAP_LEN);
    unsigned at = add_window_cap(p, CAP_NOTIFY, PAGE_NOTIFY, PAGE_LEN, LONG_CAP_LEN);
    le32_put(p->pci.config + at + 16, NOTIFY_STEP);
    p->window = add_window_cap(p, CAP_PCI, 0, 0, LONG_CAP_LEN);
    uint8_t *w = p->pci.writable + p->window;
    p->pci.config[p->window + WINDOW_BAR] = 0;
    w[WINDOW_BAR] = 0xff;
    memset(w + WINDOW_OFFSET, 0xff, 12);
}

static void add_legacy(struct virtio_pci *p)
{
    uint64_t len = 32;
    while (len < L_LEN_MSIX + p->vdev->config_len) {
        len *= 2;
    }
    pci_add_bar(
        &p->pci, BAR_LEGACY,
        &(struct pci_bar_setup){
            .len = len, .flags = PCI_BAR_IS_IO, .ops = &legacy_ops, .opaque = p});
}

/* Device IDs: 0x1040 and the type from 1.0 on; before, some had one of their own
 * (4.1.2.1); 0: it was not invented yet. */
static uint16_t legacy_id(uint32_t type)
{
    static const uint16_t ids[] = {
        [1] = 0x1000, [2] = 0x1001, [3] = 0x1003, [4] = 0x1005,
        [5] = 0x1002, [8] = 0x1004, [9] = 0x1009,
    };
    return type < ARRAY_LEN(ids) ? ids[type] : 0;
}

static bool choose_interfaces(struct virtio_pci *p, GError **error)
{
    uint16_t old = legacy_id(p->vdev->ops->device_id);
    p->modern = !p->disable_modern;
    p->legacy =
        old && p->disable_legacy != VIRTIO_PCI_LEGACY_ON &&
        (p->disable_legacy == VIRTIO_PCI_LEGACY_OFF || !pci_is_behind_port(&p->pci));
    if (!old && p->disable_modern) {
        return error_msg(error, "the device has no interface of before version 1.0");
    }
    if (!p->legacy && !p->modern) {
        return error_msg(error, "disable-legacy and disable-modern leave no interface");
    }
    return true;
}

bool virtio_pci_plug(struct virtio_pci *p, struct virtio_device *vdev,
                     uint32_t class_code, GError **error)
{
    uint32_t type = vdev->ops->device_id;
    struct pci_setup setup = {
        .vendor = PCI_VENDOR_QUMRANET,
        .device = (uint16_t)(0x1040 + type),
        .class_code = class_code,
        .irq_pin = 1,
        .is_express = true,
        .express_type = PCI_EXP_ENDPOINT,
        .ops = &pci_ops,
    };
    p->vdev = vdev;
    g_mutex_init(&p->lock);
    if (!pci_plug(&p->pci, &vdev->dev, &setup, error) || !choose_interfaces(p, error)) {
        return false;
    }
    p->pci.config[PCI_REVISION] = p->legacy ? 0 : 1;
    if (p->legacy) {
        le16_put(p->pci.config + PCI_DEVICE_ID, legacy_id(type));
        le16_put(p->pci.config + PCI_SUBSYSTEM_ID, (uint16_t)type);
        add_legacy(p);
    }
    uint32_t vectors = p->vectors == UINT32_MAX ? vdev->nb_queues + 1 : p->vectors;
    if (vectors && !pci_add_msix(&p->pci, vectors, BAR_MSIX, 0, 2048, error)) {
        return false;
    }
    if (p->modern) {
        add_modern(p);
    } else {
        vdev->offered &= ~VIRTIO_F_VERSION_1;
    }
    reset_selectors(p);
    vdev->transport = p;
    vdev->transport_ops = &pci_transport;
    return pci_add_rom(&p->pci, NULL, error);
}

void virtio_pci_unplug(struct virtio_pci *p)
{
    if (!p->vdev) {
        return;
    }
    pci_unplug(&p->pci);
    p->vdev->transport_ops = NULL;
    g_mutex_clear(&p->lock);
    p->vdev = NULL;
}

void virtio_pci_reset(struct virtio_pci *p)
{
    virtio_device_reset(&p->vdev->dev);
    reset_selectors(p);
    pci_reset(&p->pci);
}

/* ---- state ---- */

static const struct state_field fields[] = {
    PCI_STATE_FIELD(struct virtio_pci, pci),
    STATE_FIELD(U32, struct virtio_pci, device_features_sel),
    STATE_FIELD(U32, struct virtio_pci, driver_features_sel),
    STATE_FIELD(U16, struct virtio_pci, queue_sel),
    STATE_ARRAY(U16, struct virtio_pci, queue_size, VIRTIO_QUEUES_MAX),
    STATE_FIELD(U16, struct virtio_pci, config_vector),
    STATE_ARRAY(U16, struct virtio_pci, queue_vector, VIRTIO_QUEUES_MAX),
    {.name = NULL},
};

static bool post_load(void *object, unsigned version, GError **error)
{
    struct virtio_pci *p = object;
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
        set_vector(p, &p->queue_vector[i], p->queue_vector[i]);
    }
    set_vector(p, &p->config_vector, p->config_vector);
    return true;
}

const struct state_table virtio_pci_state = {
    .name = "virtio-pci", .version = 1, .fields = fields, .post_load = post_load};
