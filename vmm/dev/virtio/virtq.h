#ifndef VMM_DEV_VIRTIO_VIRTQ_H
#define VMM_DEV_VIRTIO_VIRTQ_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm/vm/gmem.h"

/*
 * A split virtqueue, the device's side (virtio 1.2, section 2.7).
 *
 * Everything in it is the driver's to write at any moment and is trusted in nothing:
 * each field is read once, checked, and the copy used. What a driver must not do
 * (2.7: loops, buffers outside memory, readable behind writable...) is answered with
 * -EBADMSG; the device then sets NEEDS_RESET.
 *
 * One lock of the user guards a queue; nothing here locks or allocates.
 */

enum { VIRTQ_SIZE_MAX = 1024 };

struct virtq {
    struct gmem *gmem;

    /* What the driver chose; see virtq_enable(). */
    uint16_t size; /* a power of two, 1..VIRTQ_SIZE_MAX */
    bool event_idx;
    bool indirect;
    uint64_t desc_gpa, avail_gpa, used_gpa;

    /* The device's position. */
    bool ready;
    uint16_t next_avail; /* index of the next avail entry to take */
    uint16_t next_used;  /* index of the next used entry to write */
    uint16_t signalled;  /* next_used when we last asked whether to interrupt */
    uint16_t in_use;     /* chains taken and not given back */

    uint8_t *desc, *avail, *used; /* where they are in this process */
};

/* A chain of buffers. The caller gives iov and gpa with room for max entries. */
struct virtq_chain {
    struct iovec *iov; /* first the ones the device reads, then those it writes */
    gpa_t *gpa;        /* of each */
    unsigned max;

    uint16_t head;
    unsigned nb_out, nb_in; /* segments to read, to write */
    uint32_t out_len, in_len;
};

/*
 * Switch the queue on with size, flags and addresses as they stand in @q; positions
 * are kept (0 after virtq_reset()). 0, or -EBADMSG when size or alignment is wrong
 * or a ring is not in RAM as a whole.
 */
int virtq_enable(struct virtq *q);

/* Off, and everything but gmem back to zero. */
void virtq_reset(struct virtq *q);

/*
 * Take the next chain the driver made available.
 *
 * Returns 1 with @chain filled, 0 when there is none, -EBADMSG when the driver broke
 * the rules: nothing more can be taken then. Give each chain back with virtq_push()
 * exactly once. Spec: 2.7.5 (direct and indirect), 2.7.6.
 */
int virtq_pop(struct virtq *q, struct virtq_chain *chain);

/*
 * Give @chain back; the device wrote the first @written bytes of its writable part,
 * which are marked dirty here. Spec: 2.7.8.
 */
void virtq_push(struct virtq *q, const struct virtq_chain *chain, uint32_t written);

/* Whether the driver wants an interrupt for what was pushed since the last call; never
 * when nothing was. Call once after a batch of pushes. Spec: 2.7.7, 2.7.10. */
bool virtq_wants_interrupt(struct virtq *q);

/*
 * Ask the driver not to notify while the queue is being worked on / to notify again.
 * virtq_kicks_on() returns true when chains have arrived meanwhile: go on working
 * then. Spec: 2.7.9, 2.7.10.
 */
void virtq_kicks_off(struct virtq *q);
bool virtq_kicks_on(struct virtq *q);

/* ---- bytes of a chain ----------------------------------------------------------- */

/* Copy up to @len bytes from the readable part at @off; returns how many. */
uint32_t virtq_chain_read(const struct virtq_chain *c, uint32_t off, void *buf,
                          uint32_t len);

/* Copy up to @len bytes to the writable part at @off; returns how many. */
uint32_t virtq_chain_write(const struct virtq_chain *c, uint32_t off, const void *buf,
                           uint32_t len);

#endif
