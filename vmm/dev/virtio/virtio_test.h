#ifndef VMM_DEV_VIRTIO_VIRTIO_TEST_H
#define VMM_DEV_VIRTIO_VIRTIO_TEST_H

#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/loop/loop.h"
#include "vmm/dev/virtio/virtio_devices.h"
#include "vmm/dev/virtio/virtio_mmio.h"
#include "vmm/vm/aspace.h"
#include "vmm/vm/clock.h"
#include "vmm/vm/fake_accel.h"
#include "vmm/vm/gmem.h"

/*
 * For tests: a machine with two virtio-mmio slots, and a driver for one queue, as
 * plain as can be.
 */
enum {
    SLOT0 = 0xfeb00000,
    RAM_LEN = 1 << 20,
    DESC = 0x1000, /* where the driver's rings are */
    AVAIL = 0x2000,
    USED = 0x3000,
    TABLE = 0x4000, /* an indirect table */
    DATA = 0x10000,
    QSIZE = 8,
};

enum { D_NEXT = 1, D_WRITE = 2, D_INDIRECT = 4 };

struct machine {
    struct loop *loop;
    struct vm *vm;
    struct fake_model model;
    uint16_t avail_idx, used_seen;
};

static inline void ignore_irq(void *opaque, unsigned input, bool level)
{
}

static inline void machine_init(struct machine *m)
{
    memset(m, 0, sizeof(*m));
    m->loop = loop_new(NULL, NULL);
    m->vm = fake_vm_new(&m->model, 1, m->loop);
    m->vm->gsi_fn = ignore_irq;
    m->vm->nb_gsi = 24;
    g_assert_true(gmem_add(m->vm->gmem, "ram", GMEM_RAM, 0, RAM_LEN, NULL));
    g_assert_true(virtio_mmio_add(m->vm, SLOT0, 5, NULL));
    g_assert_true(virtio_mmio_add(m->vm, SLOT0 + VIRTIO_MMIO_LEN, 6, NULL));
}

static inline void machine_done(struct machine *m)
{
    vm_free(m->vm);
    loop_free(m->loop);
}

static inline void settle(struct machine *m)
{
    while (loop_poll(m->loop, false)) {
    }
}

static inline uint32_t reg(struct machine *m, unsigned off)
{
    return (uint32_t)aspace_read(m->vm->mmio, NULL, SLOT0 + off, 4);
}

static inline void set_reg(struct machine *m, unsigned off, uint32_t v)
{
    aspace_write(m->vm->mmio, NULL, SLOT0 + off, v, 4);
}

static inline void put(struct machine *m, gpa_t gpa, uint64_t v, unsigned len)
{
    uint8_t bytes[8];
    le_put(bytes, v, len);
    g_assert_cmpint(gmem_write(m->vm->gmem, gpa, bytes, len), ==, 0);
}

static inline uint64_t get(struct machine *m, gpa_t gpa, unsigned len)
{
    uint8_t bytes[8];
    g_assert_cmpint(gmem_read(m->vm->gmem, gpa, bytes, len), ==, 0);
    return le_get(bytes, len);
}

static inline void set_desc_at(struct machine *m, gpa_t table, unsigned i,
                               uint64_t addr, uint32_t len, uint16_t flags,
                               uint16_t next)
{
    put(m, table + 16 * i, addr, 8);
    put(m, table + 16 * i + 8, len, 4);
    put(m, table + 16 * i + 12, flags, 2);
    put(m, table + 16 * i + 14, next, 2);
}

static inline void set_desc(struct machine *m, unsigned i, uint64_t addr, uint32_t len,
                            uint16_t flags, uint16_t next)
{
    set_desc_at(m, DESC, i, addr, len, flags, next);
}

/* Make the chain at @head available, without a notification. */
static inline void offer(struct machine *m, uint16_t head)
{
    put(m, AVAIL + 4 + 2 * (m->avail_idx % QSIZE), head, 2);
    /* The device may be looking, on its own thread. */
    uint8_t *idx = gmem_find(m->vm->gmem, AVAIL)->host + AVAIL + 2;
    __atomic_store_n((uint16_t *)idx, ++m->avail_idx, __ATOMIC_RELEASE);
}

static inline void kick(struct machine *m)
{
    set_reg(m, 0x050, 0);
    settle(m);
}

/* Negotiate all of @features that are offered, and switch queue 0 on. */
static inline void start(struct machine *m, uint64_t features)
{
    uint64_t offered;
    m->avail_idx = m->used_seen = 0;
    set_reg(m, 0x070, 0);
    set_reg(m, 0x070, 1);
    set_reg(m, 0x070, 3);
    set_reg(m, 0x014, 0);
    offered = reg(m, 0x010);
    set_reg(m, 0x014, 1);
    offered |= (uint64_t)reg(m, 0x010) << 32;
    features &= offered;
    set_reg(m, 0x024, 0);
    set_reg(m, 0x020, (uint32_t)features);
    set_reg(m, 0x024, 1);
    set_reg(m, 0x020, (uint32_t)(features >> 32));
    set_reg(m, 0x070, 11);
    g_assert_cmphex(reg(m, 0x070), ==, 11);
    for (gpa_t a = DESC; a < TABLE; a += 8) {
        put(m, a, 0, 8);
    }
    set_reg(m, 0x030, 0);
    set_reg(m, 0x038, QSIZE);
    set_reg(m, 0x080, DESC);
    set_reg(m, 0x084, 0);
    set_reg(m, 0x090, AVAIL);
    set_reg(m, 0x094, 0);
    set_reg(m, 0x0a0, USED);
    set_reg(m, 0x0a4, 0);
    set_reg(m, 0x044, 1);
    g_assert_cmpuint(reg(m, 0x044), ==, 1);
    set_reg(m, 0x070, 15);
    g_assert_cmphex(reg(m, 0x070), ==, 15);
}

/* Whether the next used entry is there; its length. */
static inline bool take_used(struct machine *m, uint16_t *ret_head, uint32_t *ret_len)
{
    if ((uint16_t)get(m, USED + 2, 2) == m->used_seen) {
        return false;
    }
    gpa_t at = USED + 4 + 8 * (m->used_seen % QSIZE);
    *ret_head = (uint16_t)get(m, at, 4);
    *ret_len = (uint32_t)get(m, at + 4, 4);
    m->used_seen++;
    return true;
}

#endif
