#include "vmm/dev/virtio/virtio_devices.h"

#include <sys/random.h>

#include "lib/base/base.h"
#include "vmm/dev/virtio/virtio.h"
#include "vmm/dev/virtio/virtio_mmio_priv.h"
#include "vmm/dev/virtio/virtio_pci.h"
#include "vmm/vm/clock.h"
#include "vmm/vm/vm.h"

/*
 * Entropy device (virtio 1.2, section 5.4): one queue of buffers to fill with random
 * bytes, from the host's getrandom(). A device may fill less than it was given
 * (5.4.6.1), so that one buffer costs at most CHUNK bytes at a time.
 *
 * With max-bytes, no more than that many bytes are given out in each period of guest
 * time; buffers wait in the queue until the next period.
 */

enum { CHUNK = 4096, QUEUE_SIZE = 64, SEGS = QUEUE_SIZE + 2 };

struct rng {
    struct virtio_device vdev;
    uint64_t max_bytes;
    uint32_t period_ms;

    /* Under the queue's lock. */
    uint64_t left;  /* bytes of this period */
    bool in_period; /* the timer runs */
    struct vm_timer *timer;
};

static void start_period(struct rng *rng)
{
    if (rng->max_bytes == INT64_MAX) {
        rng->left = INT64_MAX;
    } else if (!rng->in_period) {
        rng->in_period = true;
        rng->left = rng->max_bytes;
        vm_timer_set(rng->timer, vm_clock_ns(rng->vdev.dev.vm->clock) +
                                     (uint64_t)rng->period_ms * 1000000);
    }
}

static void period_over(void *opaque)
{
    struct rng *rng = opaque;
    struct virtio_queue *q = &rng->vdev.queues[0];
    g_mutex_lock(&q->lock);
    rng->in_period = false;
    g_mutex_unlock(&q->lock);
    loop_bh_schedule(&q->kick_bh);
}

/* Fill @chain; returns the bytes written. */
static uint32_t fill(struct rng *rng, const struct virtq_chain *chain)
{
    uint8_t bytes[CHUNK];
    uint32_t want = (uint32_t)MIN(MIN(chain->in_len, sizeof(bytes)), rng->left),
             done = 0;
    while (done < want) {
        ssize_t n = getrandom(bytes + done, want - done, 0);
        if (n <= 0) {
            break;
        }
        done += (uint32_t)n;
    }
    rng->left -= done;
    return virtq_chain_write(chain, 0, bytes, done);
}

static void rng_run(struct virtio_queue *q)
{
    struct rng *rng = (struct rng *)q->vdev;
    struct iovec iov[SEGS];
    gpa_t gpa[SEGS];
    struct virtq_chain chain = {.iov = iov, .gpa = gpa, .max = SEGS};
    unsigned budget = q->vq.size;
    virtq_kicks_off(&q->vq);
    start_period(rng);
    while (rng->left && budget && virtio_pop(q, &chain)) {
        virtq_push(&q->vq, &chain, fill(rng, &chain));
        budget--;
    }
    virtio_run_ends(q, rng->left != 0);
    virtio_interrupt(q);
}

static const struct virtio_ops rng_ops = {.device_id = 4, .run = rng_run};

struct rng_pci {
    struct rng rng;
    struct virtio_pci pci;
};

/* clang-format off */
#define RNG_PROPS                                                                      \
    {.name = "max-bytes", .type = PROP_U64, PROP_FIELD(struct rng, max_bytes),         \
     .def = INT64_MAX, .min = 1, .max = INT64_MAX,                                     \
     .help = "most random bytes in each period"},                                      \
    {.name = "period", .type = PROP_U32, PROP_FIELD(struct rng, period_ms),            \
     .def = 65536, .min = 1, .help = "length of a period in milliseconds"}
/* clang-format on */

static const struct prop rng_props[] = {RNG_PROPS, {.name = NULL}};
static const struct prop rng_pci_props[] = {
    RNG_PROPS, VIRTIO_PCI_PROPS(struct rng_pci, pci), {.name = NULL}};

/* Where in its period the device stood is not kept: a new one begins. */
static const struct state_field rng_fields[] = {VIRTIO_STATE_FIELD, {.name = NULL}};

static const struct state_table rng_state = {
    .name = "virtio-rng", .version = 1, .fields = rng_fields};

static const struct state_field rng_pci_fields[] = {
    VIRTIO_STATE_FIELD, VIRTIO_PCI_STATE(struct rng_pci, pci), {.name = NULL}};

static const struct state_table rng_pci_state = {
    .name = "virtio-rng-pci", .version = 1, .fields = rng_pci_fields};

static void rng_setup(struct rng *rng)
{
    struct vm *vm = rng->vdev.dev.vm;
    struct virtio_setup setup = {
        .ops = &rng_ops,
        .loop = vm->loop,
        .features = VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX,
        .nb_queues = 1,
        .queue_max = QUEUE_SIZE,
    };
    virtio_init(&rng->vdev, &setup);
    rng->timer = vm_timer_new(vm->clock, period_over, rng);
}

static void rng_cleanup(struct rng *rng)
{
    vm_timer_free(rng->timer);
    virtio_done(&rng->vdev);
}

static bool rng_init(struct device *dev, GError **error)
{
    struct rng *rng = (struct rng *)dev;
    rng_setup(rng);
    return virtio_mmio_plug(&rng->vdev, error);
}

static void rng_done(struct device *dev)
{
    struct rng *rng = (struct rng *)dev;
    virtio_mmio_unplug(&rng->vdev);
    rng_cleanup(rng);
}

static bool rng_pci_init(struct device *dev, GError **error)
{
    struct rng_pci *r = (struct rng_pci *)dev;
    rng_setup(&r->rng);
    return virtio_pci_plug(&r->pci, &r->rng.vdev, PCI_CLASS_OTHER, error);
}

static void rng_pci_done(struct device *dev)
{
    struct rng_pci *r = (struct rng_pci *)dev;
    virtio_pci_unplug(&r->pci);
    rng_cleanup(&r->rng);
}

static void rng_pci_reset(struct device *dev)
{
    virtio_pci_reset(&((struct rng_pci *)dev)->pci);
}

const struct device_type virtio_rng_device_type = {
    .name = "virtio-rng-device",
    .desc = "random bytes from the host",
    .bus = "virtio-mmio",
    .size = sizeof(struct rng),
    .props = rng_props,
    .state = &rng_state,
    .user = true,
    .init = rng_init,
    .done = rng_done,
    .reset = virtio_device_reset,
};

const struct device_type virtio_rng_pci_type = {
    .name = "virtio-rng-pci",
    .alias = "virtio-rng",
    .desc = "random bytes from the host",
    .bus = "PCI",
    .size = sizeof(struct rng_pci),
    .props = rng_pci_props,
    .state = &rng_pci_state,
    .user = true,
    .init = rng_pci_init,
    .done = rng_pci_done,
    .reset = rng_pci_reset,
};
