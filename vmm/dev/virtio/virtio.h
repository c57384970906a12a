#ifndef VMM_DEV_VIRTIO_VIRTIO_H
#define VMM_DEV_VIRTIO_VIRTIO_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

#include "lib/loop/loop.h"
#include "vmm/dev/virtio/virtq.h"
#include "vmm/vm/device.h"
#include "vmm/vm/state.h"

struct vcpu;

/*
 * What all virtio devices share (virtio 1.2, sections 2 and 3): status, features,
 * queues, interrupts, reset. A transport (virtio_mmio.c) shows it to the driver, a
 * device (virtio_blk.c) does the work.
 *
 * Threads and locks. Registers are accessed on vCPU threads, under vdev->lock. A
 * notification schedules the queue's bottom half; the device works on the loop's
 * thread, under the queue's lock, and raises the interrupt from there. Lock order:
 * vdev->lock, queue->lock, irq_lock.
 *
 * Reset. It returns when no request is in flight, so that the driver may use its
 * memory again. A vCPU does not wait longer than until somebody wants to stop it
 * (the one who stops it may be the thread that would finish the requests): what is
 * in flight then belongs to an older generation and is dropped when it completes.
 */

enum { VIRTIO_QUEUES_MAX = 16, VIRTIO_CONFIG_MAX = 256 };

/* Device status bits (2.1). */
enum {
    VIRTIO_ACKNOWLEDGE = 1,
    VIRTIO_DRIVER = 2,
    VIRTIO_DRIVER_OK = 4,
    VIRTIO_FEATURES_OK = 8,
    VIRTIO_NEEDS_RESET = 64,
    VIRTIO_FAILED = 128,
};

/* Interrupt status bits of the transports. */
enum { VIRTIO_ISR_QUEUE = 1, VIRTIO_ISR_CONFIG = 2 };

/* Feature bits of every device (6). */
#define VIRTIO_F_INDIRECT_DESC (UINT64_C(1) << 28)
#define VIRTIO_F_EVENT_IDX     (UINT64_C(1) << 29)
#define VIRTIO_F_VERSION_1     (UINT64_C(1) << 32)

struct virtio_device;

struct virtio_queue {
    struct virtio_device *vdev;
    unsigned index;
    GMutex lock;            /* guards vq and the generation */
    struct virtq vq;        /* sizes and addresses: under vdev->lock while not ready */
    uint32_t generation;    /* grows with each reset of the queue */
    _Atomic bool ready;     /* as the driver reads it */
    struct loop_bh kick_bh; /* runs ops->run on the loop's thread */
};

struct virtio_ops {
    uint32_t device_id; /* section 5 */

    /* Under queue->lock, on the loop's thread, after a notification: take chains and
     * work on them, at most as many as the queue has entries, so that one queue does
     * not keep the loop to itself. The queue may be empty. */
    void (*run)(struct virtio_queue *q);

    /* Bring vdev->config up to date before the driver reads it. May be NULL. */
    void (*config_read)(struct virtio_device *vdev);

    /* The driver wrote @len bytes at @off of the configuration, in bounds. NULL: it
     * is all read-only. */
    void (*config_write)(struct virtio_device *vdev, unsigned off, uint32_t value,
                         unsigned len);

    /* The driver is done setting up (DRIVER_OK) / the device was reset. May be NULL. */
    void (*start)(struct virtio_device *vdev);
    void (*stop)(struct virtio_device *vdev);
};

struct virtio_device {
    struct device dev;
    const struct virtio_ops *ops;
    struct loop *loop; /* where queues are worked on */

    GMutex lock; /* guards what the driver sets: features, queue setup, config */
    uint64_t offered;
    uint64_t accepted;
    _Atomic uint32_t status;
    struct virtio_queue queues[VIRTIO_QUEUES_MAX];
    unsigned nb_queues;
    uint16_t queue_max; /* most entries of a queue */
    uint8_t config[VIRTIO_CONFIG_MAX];
    unsigned config_len;
    _Atomic uint32_t config_generation;

    /* The transport's. A driver of before version 1.0: see
     * virtio_set_features_legacy(). */
    const struct virtio_transport *transport_ops; /* NULL: not plugged */
    void *transport;
    _Atomic bool legacy;
    GMutex irq_lock;
    _Atomic uint32_t isr; /* written under irq_lock */

    GMutex idle_lock;
    GCond idle;
    unsigned in_flight; /* under idle_lock */

    /* Counted, for whoever looks. */
    _Atomic uint64_t kicks, interrupts, broken;
};

struct virtio_transport {
    /* The interrupt line. Under irq_lock, any thread. */
    void (*set_irq)(void *transport, bool level);
    /* Send a message for queue @queue, or, with -1, for the configuration: false when
     * the driver wants the line. NULL: there are only lines. Any thread. */
    bool (*notify)(void *transport, int queue);
    /* Whether the device may access memory. NULL: always. Any thread. */
    bool (*may_dma)(void *transport);
};

struct virtio_setup {
    const struct virtio_ops *ops;
    struct loop *loop;
    uint64_t features; /* beyond VERSION_1; INDIRECT_DESC, EVENT_IDX included */
    unsigned nb_queues;
    uint16_t queue_max;
    unsigned config_len;
};

/* Fill the common part. Undo with virtio_done(). Thread: main. */
void virtio_init(struct virtio_device *vdev, const struct virtio_setup *setup);
void virtio_done(struct virtio_device *vdev);

/* ---- for devices ----------------------------------------------------------------- */

static inline bool virtio_has(const struct virtio_device *vdev, uint64_t feature)
{
    return vdev->accepted & feature;
}

/* virtq_pop() for a queue in use; breaks the device when the driver broke the rules.
 * Returns whether there is a chain. Caller holds queue->lock. */
bool virtio_pop(struct virtio_queue *q, struct virtq_chain *chain);

/*
 * The end of ops->run: notifications on again; with @more the queue is run again
 * when there are chains left or new. Caller holds queue->lock.
 */
void virtio_run_ends(struct virtio_queue *q, bool more);

/* The driver broke the rules: NEEDS_RESET and a configuration interrupt (2.1.2). */
void virtio_broken(struct virtio_device *vdev);

/* Interrupt the driver for @q if it wants to be. Caller holds queue->lock. */
void virtio_interrupt(struct virtio_queue *q);

/* The configuration changed on our side: generation and interrupt (2.5). */
void virtio_config_changed(struct virtio_device *vdev);

/* A request that outlives ops->run begins / has ended (after its last access to guest
 * memory and queues). */
void virtio_request_begin(struct virtio_device *vdev);
void virtio_request_end(struct virtio_device *vdev);

/* device_type.reset of every virtio device. */
void virtio_device_reset(struct device *dev);

/*
 * The common part's state: a STATE_STRUCT field "virtio" at offset 0 of the device's
 * table. Saving waits for requests in flight; loading switches the queues on where
 * the memory allows it, refuses otherwise, and looks at the queues again.
 */
extern const struct state_table virtio_state;
#define VIRTIO_STATE_FIELD                                           \
    {                                                                \
        .name = "virtio", .kind = STATE_STRUCT, .offset = 0,         \
        .size = sizeof(struct virtio_device), .table = &virtio_state \
    }

/* ---- for transports ---------------------------------------------------------------
 */

uint64_t virtio_get_features(const struct virtio_device *vdev);

/* The driver's features, 32 bits at a time; ignored once FEATURES_OK is set. */
void virtio_set_features(struct virtio_device *vdev, unsigned sel, uint32_t bits);

/*
 * The driver uses the interface of before version 1.0 (2.2.3, 2.4.5): it has 32 bits of
 * features, no FEATURES_OK, and queues are set up before DRIVER_OK. Until the next
 * reset.
 */
void virtio_set_features_legacy(struct virtio_device *vdev, uint32_t bits);
void virtio_set_legacy(struct virtio_device *vdev);

uint32_t virtio_get_status(const struct virtio_device *vdev);
void virtio_set_status(struct virtio_device *vdev, struct vcpu *vcpu, uint32_t status);

/* Queue setup; each is ignored while the queue is ready. @part: 0 descriptors,
 * 1 avail, 2 used; @high: the upper half. */
void virtio_queue_set_size(struct virtio_device *vdev, unsigned index, uint32_t size);
void virtio_queue_set_addr(struct virtio_device *vdev, unsigned index, unsigned part,
                           bool high, uint32_t bits);
uint64_t virtio_queue_get_addr(struct virtio_device *vdev, unsigned index,
                               unsigned part);
void virtio_queue_set_ready(struct virtio_device *vdev, struct vcpu *vcpu,
                            unsigned index, bool ready);

/* The transport lets the device access memory again: look at all queues. */
void virtio_look_again(struct virtio_device *vdev);

/* The driver notifies queue @index. Cheap. */
void virtio_kick(struct virtio_device *vdev, unsigned index);

void virtio_isr_ack(struct virtio_device *vdev, uint32_t bits);

/* @len 1, 2 or 4; bytes outside the configuration read as zero. */
uint32_t virtio_config_read(struct virtio_device *vdev, unsigned off, unsigned len);
void virtio_config_write(struct virtio_device *vdev, unsigned off, uint32_t value,
                         unsigned len);

#endif
