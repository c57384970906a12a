#include "vmm/dev/virtio/virtio_mmio.h"

#include "lib/base/base.h"
#include "vmm/dev/virtio/virtio.h"
#include "vmm/dev/virtio/virtio_mmio_priv.h"
#include "vmm/vm/aspace.h"
#include "vmm/vm/irq.h"
#include "vmm/vm/vm.h"

/*
 * Virtio over MMIO (virtio 1.2, section 4.2): one table of 32-bit registers, and the
 * device's configuration from 0x100 on. The driver accesses registers with aligned
 * 32-bit accesses only (4.2.2.2); others read as zero and write nothing. The three
 * selectors belong to the transport, under the slot's lock; all else is virtio.c's.
 */

enum {
    REG_MAGIC = 0x000,
    REG_VERSION = 0x004,
    REG_DEVICE_ID = 0x008,
    REG_VENDOR_ID = 0x00c,
    REG_DEVICE_FEATURES = 0x010,
    REG_DEVICE_FEATURES_SEL = 0x014,
    REG_DRIVER_FEATURES = 0x020,
    REG_DRIVER_FEATURES_SEL = 0x024,
    REG_QUEUE_SEL = 0x030,
    REG_QUEUE_NUM_MAX = 0x034,
    REG_QUEUE_NUM = 0x038,
    REG_QUEUE_READY = 0x044,
    REG_QUEUE_NOTIFY = 0x050,
    REG_INTERRUPT_STATUS = 0x060,
    REG_INTERRUPT_ACK = 0x064,
    REG_STATUS = 0x070,
    REG_QUEUE_DESC_LOW = 0x080,
    REG_QUEUE_DESC_HIGH = 0x084,
    REG_QUEUE_DRIVER_LOW = 0x090,
    REG_QUEUE_DRIVER_HIGH = 0x094,
    REG_QUEUE_DEVICE_LOW = 0x0a0,
    REG_QUEUE_DEVICE_HIGH = 0x0a4,
    REG_SHM_LEN_LOW = 0x0b0,
    REG_SHM_LEN_HIGH = 0x0b4,
    REG_SHM_BASE_LOW = 0x0b8,
    REG_SHM_BASE_HIGH = 0x0bc,
    REG_CONFIG_GENERATION = 0x0fc,
    REG_CONFIG = 0x100,
};

#define MAGIC     0x74726976u /* "virt" */
#define VERSION   2u
#define VENDOR_ID 0x474f444cu /* "LDOG": any value will do */

struct slot {
    struct device dev;
    struct io_region region;
    struct irq_line line;
    unsigned gsi;
    struct virtio_device *vdev; /* NULL: empty. Changed with vCPUs stopped. */

    GMutex lock; /* guards the selectors */
    uint32_t device_features_sel, driver_features_sel, queue_sel;
};

static uint32_t selector(struct slot *s, const uint32_t *sel)
{
    g_mutex_lock(&s->lock);
    uint32_t v = *sel;
    g_mutex_unlock(&s->lock);
    return v;
}

static void select_set(struct slot *s, uint32_t *sel, uint32_t v)
{
    g_mutex_lock(&s->lock);
    *sel = v;
    g_mutex_unlock(&s->lock);
}

static uint32_t device_features(struct slot *s)
{
    uint32_t sel = selector(s, &s->device_features_sel);
    return sel < 2 ? (uint32_t)(virtio_get_features(s->vdev) >> (32 * sel)) : 0;
}

static uint32_t read_register(struct slot *s, unsigned off)
{
    struct virtio_device *vdev = s->vdev;
    switch (off) {
    case REG_MAGIC: return MAGIC;
    case REG_VERSION: return VERSION;
    case REG_VENDOR_ID: return VENDOR_ID;
    default: break;
    }
    if (!vdev) {
        return 0;
    }
    uint32_t queue = selector(s, &s->queue_sel);
    switch (off) {
    case REG_DEVICE_ID: return vdev->ops->device_id;
    case REG_DEVICE_FEATURES: return device_features(s);
    case REG_QUEUE_NUM_MAX: return queue < vdev->nb_queues ? vdev->queue_max : 0;
    case REG_QUEUE_READY:
        return queue < vdev->nb_queues && atomic_load(&vdev->queues[queue].ready);
    case REG_INTERRUPT_STATUS: return atomic_load(&vdev->isr);
    case REG_STATUS: return virtio_get_status(vdev);
    case REG_CONFIG_GENERATION: return atomic_load(&vdev->config_generation);
    /* No shared memory regions: all ones (4.2.2). */
    case REG_SHM_LEN_LOW:
    case REG_SHM_LEN_HIGH:
    case REG_SHM_BASE_LOW:
    case REG_SHM_BASE_HIGH: return UINT32_MAX;
    default: return 0;
    }
}

static uint64_t mmio_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    struct slot *s = opaque;
    if (off >= REG_CONFIG) {
        return s->vdev ? virtio_config_read(s->vdev, (unsigned)off - REG_CONFIG, len)
                       : 0;
    }
    return len == 4 && off % 4 == 0 ? read_register(s, (unsigned)off) : 0;
}

static void reset_selectors(struct slot *s)
{
    g_mutex_lock(&s->lock);
    s->device_features_sel = s->driver_features_sel = s->queue_sel = 0;
    g_mutex_unlock(&s->lock);
}

static void write_queue_address(struct slot *s, unsigned off, uint32_t v)
{
    unsigned part = (off - REG_QUEUE_DESC_LOW) / 0x10;
    virtio_queue_set_addr(s->vdev, selector(s, &s->queue_sel), part, off & 4, v);
}

static void write_register(struct slot *s, struct vcpu *vcpu, unsigned off, uint32_t v)
{
    struct virtio_device *vdev = s->vdev;
    switch (off) {
    /* By far the most frequent one. */
    case REG_QUEUE_NOTIFY: virtio_kick(vdev, v); break;
    case REG_INTERRUPT_ACK: virtio_isr_ack(vdev, v); break;
    case REG_DEVICE_FEATURES_SEL: select_set(s, &s->device_features_sel, v); break;
    case REG_DRIVER_FEATURES_SEL: select_set(s, &s->driver_features_sel, v); break;
    case REG_DRIVER_FEATURES:
        virtio_set_features(vdev, selector(s, &s->driver_features_sel), v);
        break;
    case REG_QUEUE_SEL: select_set(s, &s->queue_sel, v); break;
    case REG_QUEUE_NUM:
        virtio_queue_set_size(vdev, selector(s, &s->queue_sel), v);
        break;
    case REG_QUEUE_READY:
        virtio_queue_set_ready(vdev, vcpu, selector(s, &s->queue_sel), v & 1);
        break;
    case REG_STATUS:
        if (v == 0) {
            reset_selectors(s);
        }
        virtio_set_status(vdev, vcpu, v);
        break;
    case REG_QUEUE_DESC_LOW:
    case REG_QUEUE_DESC_HIGH:
    case REG_QUEUE_DRIVER_LOW:
    case REG_QUEUE_DRIVER_HIGH:
    case REG_QUEUE_DEVICE_LOW:
    case REG_QUEUE_DEVICE_HIGH: write_queue_address(s, off, v); break;
    default: break;
    }
}

static void mmio_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t v,
                       unsigned len)
{
    struct slot *s = opaque;
    if (!s->vdev) {
        return;
    }
    if (off >= REG_CONFIG) {
        virtio_config_write(s->vdev, (unsigned)off - REG_CONFIG, (uint32_t)v, len);
    } else if (len == 4 && off % 4 == 0) {
        write_register(s, vcpu, (unsigned)off, (uint32_t)v);
    }
}

static const struct io_ops mmio_ops = {
    .read = mmio_read,
    .write = mmio_write,
    .max_len = 4,
};

static bool slot_init(struct device *dev, GError **error)
{
    g_mutex_init(&((struct slot *)dev)->lock);
    return true;
}

static void slot_done(struct device *dev)
{
    struct slot *s = (struct slot *)dev;
    if (s->region.ops) {
        aspace_remove(dev->vm->mmio, &s->region);
    }
    g_mutex_clear(&s->lock);
}

static void slot_reset(struct device *dev)
{
    reset_selectors((struct slot *)dev);
}

static const struct state_field slot_fields[] = {
    STATE_FIELD(U32, struct slot, device_features_sel),
    STATE_FIELD(U32, struct slot, driver_features_sel),
    STATE_FIELD(U32, struct slot, queue_sel),
    {.name = NULL},
};

static const struct state_table slot_state = {
    .name = "virtio-mmio", .version = 1, .fields = slot_fields};

static const struct device_type slot_type = {
    .name = "virtio-mmio",
    .desc = "a slot for a virtio device",
    .size = sizeof(struct slot),
    .state = &slot_state,
    .init = slot_init,
    .done = slot_done,
    .reset = slot_reset,
};

bool virtio_mmio_add(struct vm *vm, uint64_t base, unsigned gsi, GError **error)
{
    struct device *dev = device_new(vm, &slot_type, NULL, NULL, error);
    if (!dev) {
        return false;
    }
    struct slot *s = (struct slot *)dev;
    s->gsi = gsi;
    s->line = vm_gsi_line(vm, gsi);
    s->region = (struct io_region){
        .name = dev->id,
        .base = base,
        .len = VIRTIO_MMIO_LEN,
        .ops = &mmio_ops,
        .opaque = s,
    };
    if (!aspace_add(vm->mmio, &s->region, error)) {
        s->region.ops = NULL;
        device_free(dev);
        return false;
    }
    return true;
}

/* The slot number @index, or NULL; with @index UINT_MAX the first empty one. */
static struct slot *find_slot(const struct vm *vm, unsigned index)
{
    for (guint i = 0, n = 0; i < vm->devices->len; i++) {
        struct device *dev = g_ptr_array_index(vm->devices, i);
        if (dev->type != &slot_type) {
            continue;
        }
        struct slot *s = (struct slot *)dev;
        if (n++ == index || (index == UINT_MAX && !s->vdev)) {
            return s;
        }
    }
    return NULL;
}

unsigned virtio_mmio_count(const struct vm *vm)
{
    unsigned n = 0;
    while (find_slot(vm, n)) {
        n++;
    }
    return n;
}

struct virtio_mmio_slot virtio_mmio_get(const struct vm *vm, unsigned index)
{
    const struct slot *s = find_slot(vm, index);
    g_assert(s);
    return (struct virtio_mmio_slot){
        .base = s->region.base,
        .gsi = s->gsi,
        .device_id = s->vdev ? s->vdev->ops->device_id : 0,
    };
}

static void set_irq(void *opaque, bool level)
{
    irq_set(&((struct slot *)opaque)->line, level);
}

static const struct virtio_transport mmio_transport = {.set_irq = set_irq};

bool virtio_mmio_plug(struct virtio_device *vdev, GError **error)
{
    struct slot *s = find_slot(vdev->dev.vm, UINT_MAX);
    if (!s) {
        return error_msg(error, "no free virtio-mmio slot (the machine has %u)",
                         virtio_mmio_count(vdev->dev.vm));
    }
    s->vdev = vdev;
    s->region.name = vdev->dev.id;
    vdev->transport = s;
    vdev->transport_ops = &mmio_transport;
    return true;
}

void virtio_mmio_unplug(struct virtio_device *vdev)
{
    struct slot *s = vdev->transport;
    if (s) {
        s->vdev = NULL;
        s->region.name = s->dev.id;
        vdev->transport = NULL;
        vdev->transport_ops = NULL;
    }
}
