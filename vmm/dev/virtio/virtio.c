#include "vmm/dev/virtio/virtio.h"

#include <inttypes.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"
#include "vmm/vm/vcpu.h"
#include "vmm/vm/vm.h"

static bool usable(const struct virtio_device *vdev)
{
    uint32_t status = atomic_load_explicit(&vdev->status, memory_order_acquire);
    const struct virtio_transport *t = vdev->transport_ops;
    return (status & VIRTIO_DRIVER_OK) && !(status & VIRTIO_NEEDS_RESET) &&
           (!t || !t->may_dma || t->may_dma(vdev->transport));
}

static void run_queue(void *opaque)
{
    struct virtio_queue *q = opaque;
    g_mutex_lock(&q->lock);
    if (q->vq.ready && usable(q->vdev)) {
        q->vdev->ops->run(q);
    }
    g_mutex_unlock(&q->lock);
}

void virtio_init(struct virtio_device *vdev, const struct virtio_setup *setup)
{
    g_assert(setup->nb_queues <= VIRTIO_QUEUES_MAX &&
             setup->config_len <= VIRTIO_CONFIG_MAX);
    vdev->ops = setup->ops;
    vdev->loop = setup->loop;
    vdev->offered = setup->features | VIRTIO_F_VERSION_1;
    vdev->nb_queues = setup->nb_queues;
    vdev->queue_max = setup->queue_max;
    vdev->config_len = setup->config_len;
    g_mutex_init(&vdev->lock);
    g_mutex_init(&vdev->irq_lock);
    g_mutex_init(&vdev->idle_lock);
    g_cond_init(&vdev->idle);
    for (unsigned i = 0; i < vdev->nb_queues; i++) {
        struct virtio_queue *q = &vdev->queues[i];
        q->vdev = vdev;
        q->index = i;
        q->vq.gmem = vdev->dev.vm->gmem;
        g_mutex_init(&q->lock);
        loop_bh_init(&q->kick_bh, vdev->loop, run_queue, q);
    }
}

/* ---- interrupts -------------------------------------------------------------------
 */

static void set_line(struct virtio_device *vdev, bool level)
{
    if (vdev->transport_ops) {
        vdev->transport_ops->set_irq(vdev->transport, level);
    }
}

/* For queue @queue, or, with -1, for the configuration. */
static void raise_isr(struct virtio_device *vdev, uint32_t bits, int queue)
{
    const struct virtio_transport *t = vdev->transport_ops;
    if (t && t->notify && t->notify(vdev->transport, queue)) {
        return;
    }
    g_mutex_lock(&vdev->irq_lock);
    atomic_fetch_or(&vdev->isr, bits);
    set_line(vdev, true);
    g_mutex_unlock(&vdev->irq_lock);
}

void virtio_isr_ack(struct virtio_device *vdev, uint32_t bits)
{
    g_mutex_lock(&vdev->irq_lock);
    uint32_t left = atomic_fetch_and(&vdev->isr, ~bits) & ~bits;
    if (left == 0) {
        set_line(vdev, false);
    }
    g_mutex_unlock(&vdev->irq_lock);
}

void virtio_interrupt(struct virtio_queue *q)
{
    if (q->vq.ready && virtq_wants_interrupt(&q->vq)) {
        atomic_fetch_add_explicit(&q->vdev->interrupts, 1, memory_order_relaxed);
        raise_isr(q->vdev, VIRTIO_ISR_QUEUE, (int)q->index);
    }
}

void virtio_config_changed(struct virtio_device *vdev)
{
    atomic_fetch_add(&vdev->config_generation, 1);
    if (atomic_load(&vdev->status) & VIRTIO_DRIVER_OK) {
        raise_isr(vdev, VIRTIO_ISR_CONFIG, -1);
    }
}

void virtio_broken(struct virtio_device *vdev)
{
    uint32_t old = atomic_fetch_or(&vdev->status, VIRTIO_NEEDS_RESET);
    if (!(old & VIRTIO_NEEDS_RESET)) {
        atomic_fetch_add_explicit(&vdev->broken, 1, memory_order_relaxed);
        if (old & VIRTIO_DRIVER_OK) {
            raise_isr(vdev, VIRTIO_ISR_CONFIG, -1);
        }
    }
}

bool virtio_pop(struct virtio_queue *q, struct virtq_chain *chain)
{
    if (!usable(q->vdev)) {
        return false;
    }
    int got = virtq_pop(&q->vq, chain);
    if (got < 0) {
        virtio_broken(q->vdev);
    }
    return got > 0;
}

void virtio_run_ends(struct virtio_queue *q, bool more)
{
    if (usable(q->vdev) && virtq_kicks_on(&q->vq) && more) {
        loop_bh_schedule(&q->kick_bh);
    }
}

void virtio_kick(struct virtio_device *vdev, unsigned index)
{
    atomic_fetch_add_explicit(&vdev->kicks, 1, memory_order_relaxed);
    if (index < vdev->nb_queues && atomic_load(&vdev->queues[index].ready)) {
        loop_bh_schedule(&vdev->queues[index].kick_bh);
    }
}

/* ---- requests in flight ------------------------------------------------------------
 */

void virtio_request_begin(struct virtio_device *vdev)
{
    g_mutex_lock(&vdev->idle_lock);
    vdev->in_flight++;
    g_mutex_unlock(&vdev->idle_lock);
}

void virtio_request_end(struct virtio_device *vdev)
{
    g_mutex_lock(&vdev->idle_lock);
    if (--vdev->in_flight == 0) {
        g_cond_broadcast(&vdev->idle);
    }
    g_mutex_unlock(&vdev->idle_lock);
}

static unsigned in_flight(struct virtio_device *vdev)
{
    g_mutex_lock(&vdev->idle_lock);
    unsigned n = vdev->in_flight;
    g_mutex_unlock(&vdev->idle_lock);
    return n;
}

static bool must_stop(struct vcpu *vcpu)
{
    return vcpu && (atomic_load(&vcpu->attention) & VCPU_ATTN_STOP);
}

/* Wait for all requests, but no longer than virtio.h says. */
static void wait_idle(struct virtio_device *vdev, struct vcpu *vcpu)
{
    if (loop_in_thread(vdev->loop)) {
        while (in_flight(vdev)) {
            loop_poll(vdev->loop, true);
        }
        return;
    }
    g_mutex_lock(&vdev->idle_lock);
    while (vdev->in_flight && !must_stop(vcpu)) {
        g_cond_wait_until(&vdev->idle, &vdev->idle_lock,
                          g_get_monotonic_time() + G_TIME_SPAN_MILLISECOND);
    }
    g_mutex_unlock(&vdev->idle_lock);
}

/* ---- queues ------------------------------------------------------------------------
 */

static void queue_off(struct virtio_queue *q)
{
    g_mutex_lock(&q->lock);
    atomic_store(&q->ready, false);
    virtq_reset(&q->vq);
    q->generation++;
    g_mutex_unlock(&q->lock);
}

/* The queue @index if the driver may still set it up. Caller holds vdev->lock. */
static struct virtio_queue *queue_to_set_up(struct virtio_device *vdev, unsigned index)
{
    if (index >= vdev->nb_queues || atomic_load(&vdev->queues[index].ready)) {
        return NULL;
    }
    return &vdev->queues[index];
}

void virtio_queue_set_size(struct virtio_device *vdev, unsigned index, uint32_t size)
{
    g_mutex_lock(&vdev->lock);
    struct virtio_queue *q = queue_to_set_up(vdev, index);
    if (q) {
        /* What is wrong stays wrong: 0 is refused when the queue is switched on. */
        g_mutex_lock(&q->lock);
        q->vq.size = size <= vdev->queue_max ? (uint16_t)size : 0;
        g_mutex_unlock(&q->lock);
    }
    g_mutex_unlock(&vdev->lock);
}

void virtio_queue_set_addr(struct virtio_device *vdev, unsigned index, unsigned part,
                           bool high, uint32_t bits)
{
    g_mutex_lock(&vdev->lock);
    struct virtio_queue *q = queue_to_set_up(vdev, index);
    if (q) {
        uint64_t *const addrs[] = {&q->vq.desc_gpa, &q->vq.avail_gpa, &q->vq.used_gpa};
        uint64_t *a = addrs[part];
        g_mutex_lock(&q->lock);
        *a = high ? (*a & UINT32_MAX) | (uint64_t)bits << 32
                  : (*a & ~(uint64_t)UINT32_MAX) | bits;
        g_mutex_unlock(&q->lock);
    }
    g_mutex_unlock(&vdev->lock);
}

uint64_t virtio_queue_get_addr(struct virtio_device *vdev, unsigned index,
                               unsigned part)
{
    if (index >= vdev->nb_queues) {
        return 0;
    }
    struct virtio_queue *q = &vdev->queues[index];
    g_mutex_lock(&q->lock);
    const gpa_t addrs[] = {q->vq.desc_gpa, q->vq.avail_gpa, q->vq.used_gpa};
    g_mutex_unlock(&q->lock);
    return addrs[part];
}

void virtio_look_again(struct virtio_device *vdev)
{
    for (unsigned i = 0; i < vdev->nb_queues; i++) {
        if (atomic_load(&vdev->queues[i].ready)) {
            loop_bh_schedule(&vdev->queues[i].kick_bh);
        }
    }
}

static void queue_on(struct virtio_device *vdev, struct virtio_queue *q)
{
    g_mutex_lock(&q->lock);
    q->vq.event_idx = virtio_has(vdev, VIRTIO_F_EVENT_IDX);
    q->vq.indirect = virtio_has(vdev, VIRTIO_F_INDIRECT_DESC);
    bool ok = virtq_enable(&q->vq) == 0;
    atomic_store(&q->ready, ok);
    g_mutex_unlock(&q->lock);
    if (!ok) {
        virtio_broken(vdev);
    }
}

void virtio_queue_set_ready(struct virtio_device *vdev, struct vcpu *vcpu,
                            unsigned index, bool ready)
{
    bool off = false;
    g_mutex_lock(&vdev->lock);
    if (index < vdev->nb_queues) {
        struct virtio_queue *q = &vdev->queues[index];
        bool was = atomic_load(&q->ready);
        bool agreed = atomic_load(&vdev->status) & VIRTIO_FEATURES_OK;
        if (ready && !was && (agreed || atomic_load(&vdev->legacy))) {
            queue_on(vdev, q);
        } else if (!ready && was) {
            queue_off(q);
            off = true;
        }
    }
    g_mutex_unlock(&vdev->lock);
    if (off) {
        wait_idle(vdev, vcpu);
    }
}

/* ---- status, features, reset ------------------------------------------------------
 */

static void reset(struct virtio_device *vdev, struct vcpu *vcpu)
{
    g_mutex_lock(&vdev->lock);
    atomic_store(&vdev->status, 0);
    atomic_store(&vdev->legacy, false);
    vdev->accepted = 0;
    for (unsigned i = 0; i < vdev->nb_queues; i++) {
        queue_off(&vdev->queues[i]);
    }
    if (vdev->ops->stop) {
        vdev->ops->stop(vdev);
    }
    g_mutex_unlock(&vdev->lock);
    wait_idle(vdev, vcpu);
    virtio_isr_ack(vdev, UINT32_MAX);
}

void virtio_device_reset(struct device *dev)
{
    reset((struct virtio_device *)dev, NULL);
}

/* On the loop's thread: no bottom half of @opaque runs after this. */
static void leave_loop(void *opaque)
{
    struct virtio_device *vdev = opaque;
    for (unsigned i = 0; i < vdev->nb_queues; i++) {
        loop_bh_cancel(&vdev->queues[i].kick_bh);
    }
    virtio_request_end(vdev);
}

void virtio_done(struct virtio_device *vdev)
{
    if (!vdev->ops) {
        return;
    }
    reset(vdev, NULL);
    virtio_request_begin(vdev);
    if (loop_in_thread(vdev->loop)) {
        leave_loop(vdev);
    } else {
        loop_call(vdev->loop, leave_loop, vdev);
        wait_idle(vdev, NULL);
    }
    for (unsigned i = 0; i < vdev->nb_queues; i++) {
        g_mutex_clear(&vdev->queues[i].lock);
    }
    g_cond_clear(&vdev->idle);
    g_mutex_clear(&vdev->idle_lock);
    g_mutex_clear(&vdev->irq_lock);
    g_mutex_clear(&vdev->lock);
}

uint64_t virtio_get_features(const struct virtio_device *vdev)
{
    return vdev->offered;
}

void virtio_set_features(struct virtio_device *vdev, unsigned sel, uint32_t bits)
{
    g_mutex_lock(&vdev->lock);
    if (!(atomic_load(&vdev->status) & VIRTIO_FEATURES_OK)) {
        if (sel == 0) {
            vdev->accepted = (vdev->accepted & ~(uint64_t)UINT32_MAX) | bits;
        } else if (sel == 1) {
            vdev->accepted = (vdev->accepted & UINT32_MAX) | (uint64_t)bits << 32;
        }
    }
    g_mutex_unlock(&vdev->lock);
}

void virtio_set_legacy(struct virtio_device *vdev)
{
    g_mutex_lock(&vdev->lock);
    if (!(atomic_load(&vdev->status) & VIRTIO_FEATURES_OK)) {
        atomic_store(&vdev->legacy, true);
    }
    g_mutex_unlock(&vdev->lock);
}

void virtio_set_features_legacy(struct virtio_device *vdev, uint32_t bits)
{
    virtio_set_legacy(vdev);
    g_mutex_lock(&vdev->lock);
    if (atomic_load(&vdev->legacy) &&
        !(atomic_load(&vdev->status) & VIRTIO_DRIVER_OK)) {
        vdev->accepted = bits & vdev->offered;
    }
    g_mutex_unlock(&vdev->lock);
}

uint32_t virtio_get_status(const struct virtio_device *vdev)
{
    return atomic_load(&vdev->status);
}

/* FEATURES_OK stays only if we can live with what the driver chose (3.1.1). */
static bool features_fit(const struct virtio_device *vdev)
{
    return !(vdev->accepted & ~vdev->offered) && virtio_has(vdev, VIRTIO_F_VERSION_1);
}

void virtio_set_status(struct virtio_device *vdev, struct vcpu *vcpu, uint32_t status)
{
    if (status == 0) {
        reset(vdev, vcpu);
        return;
    }
    bool started = false;
    g_mutex_lock(&vdev->lock);
    uint32_t old = atomic_load(&vdev->status);
    status &= 0xff & ~(uint32_t)VIRTIO_NEEDS_RESET;
    if ((status & ~old & VIRTIO_FEATURES_OK) && !features_fit(vdev)) {
        status &= ~(uint32_t)VIRTIO_FEATURES_OK;
    }
    /* A driver does not clear bits (2.1.1), nor start without features agreed. */
    status |= old;
    if (!(status & VIRTIO_FEATURES_OK) && !atomic_load(&vdev->legacy)) {
        status &= ~(uint32_t)VIRTIO_DRIVER_OK;
    }
    started = status & ~old & VIRTIO_DRIVER_OK;
    if (started && vdev->ops->start) {
        vdev->ops->start(vdev);
    }
    atomic_fetch_or(&vdev->status, status);
    g_mutex_unlock(&vdev->lock);
    if (started) {
        virtio_look_again(vdev); /* chains may be there from before (3.1.1, step 7) */
    }
}

/* ---- configuration -----------------------------------------------------------------
 */

uint32_t virtio_config_read(struct virtio_device *vdev, unsigned off, unsigned len)
{
    uint8_t bytes[4] = {0};
    g_mutex_lock(&vdev->lock);
    if (vdev->ops->config_read) {
        vdev->ops->config_read(vdev);
    }
    for (unsigned i = 0; i < len && off + i < vdev->config_len; i++) {
        bytes[i] = vdev->config[off + i];
    }
    g_mutex_unlock(&vdev->lock);
    return le32_get(bytes);
}

void virtio_config_write(struct virtio_device *vdev, unsigned off, uint32_t value,
                         unsigned len)
{
    g_mutex_lock(&vdev->lock);
    if (vdev->ops->config_write && ck_range(off, len, vdev->config_len)) {
        vdev->ops->config_write(vdev, off, value, len);
    }
    g_mutex_unlock(&vdev->lock);
}

/* ---- state
 * --------------------------------------------------------------------------- */

#define QUEUE_FIELD(KIND, label, member)                \
    {                                                   \
        .name = label, .kind = STATE_##KIND,            \
        .offset = offsetof(struct virtio_queue, member) \
    }

static const struct state_field queue_fields[] = {
    QUEUE_FIELD(BOOL, "ready", ready),
    QUEUE_FIELD(U16, "size", vq.size),
    QUEUE_FIELD(U64, "desc", vq.desc_gpa),
    QUEUE_FIELD(U64, "avail", vq.avail_gpa),
    QUEUE_FIELD(U64, "used", vq.used_gpa),
    QUEUE_FIELD(U16, "next-avail", vq.next_avail),
    QUEUE_FIELD(U16, "next-used", vq.next_used),
    QUEUE_FIELD(U16, "signalled", vq.signalled),
    {.name = NULL},
};

static const struct state_table queue_state = {
    .name = "virtio-queue", .version = 1, .fields = queue_fields};

static const struct state_field device_fields[] = {
    STATE_FIELD(U32, struct virtio_device, status),
    STATE_FIELD(U64, struct virtio_device, accepted),
    STATE_FIELD(U32, struct virtio_device, isr),
    {.name = "legacy",
     .kind = STATE_BOOL,
     .offset = offsetof(struct virtio_device, legacy),
     .since = 2},
    STATE_FIELD(U32, struct virtio_device, config_generation),
    {.name = "queues",
     .kind = STATE_STRUCT,
     .offset = offsetof(struct virtio_device, queues),
     .size = sizeof(struct virtio_queue),
     .count = VIRTIO_QUEUES_MAX,
     .table = &queue_state},
    {.name = NULL},
};

static void pre_save(void *object)
{
    wait_idle(object, NULL);
}

static bool queue_loaded(struct virtio_device *vdev, unsigned i, GError **error)
{
    struct virtio_queue *q = &vdev->queues[i];
    bool ready = atomic_load(&q->ready);
    q->vq.in_use = 0;
    if (i >= vdev->nb_queues || !ready) {
        atomic_store(&q->ready, false);
        return !ready || error_msg(error, "there is no queue %u", i);
    }
    if (q->vq.size > vdev->queue_max) {
        return error_msg(error, "queue %u: %u entries are too many", i, q->vq.size);
    }
    q->vq.event_idx = virtio_has(vdev, VIRTIO_F_EVENT_IDX);
    q->vq.indirect = virtio_has(vdev, VIRTIO_F_INDIRECT_DESC);
    if (virtq_enable(&q->vq) != 0) {
        return error_msg(error, "queue %u: its rings are not in memory", i);
    }
    loop_bh_schedule(&q->kick_bh);
    return true;
}

static bool post_load(void *object, unsigned version, GError **error)
{
    struct virtio_device *vdev = object;
    if (vdev->accepted & ~vdev->offered) {
        return error_msg(error, "features 0x%" PRIx64 " are not offered here",
                         vdev->accepted & ~vdev->offered);
    }
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
        if (!queue_loaded(vdev, i, error)) {
            return false;
        }
    }
    set_line(vdev, atomic_load(&vdev->isr) != 0);
    return true;
}

const struct state_table virtio_state = {
    .name = "virtio",
    .version = 2,
    .fields = device_fields,
    .pre_save = pre_save,
    .post_load = post_load,
};
