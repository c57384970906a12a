#ifndef VMM_VM_ASPACE_H
#define VMM_VM_ASPACE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <glib.h>
#include <jansson.h>

#include "vmm/vm/exit.h"

struct vcpu;

/*
 * Address spaces of devices: which region answers an access at an address.
 *
 * A VM has one for memory-mapped registers and, where the architecture has ports,
 * one for those. RAM is not here (vmm/vm/gmem.h). Lookup is lock-free.
 *
 * Two kinds of regions. Fixed ones are where the board has put them, and do not overlap
 * each other: aspace_add(). Movable ones are where the guest puts them, over anything
 * it likes, while it runs: aspace_map(). Where several cover an address the fixed one
 * answers, then the one with the highest priority, then the one that was mapped first.
 */

/*
 * Register accesses. @off is relative to the region; @len is 1, 2, 4 or 8 and
 * within [ops->min_len, ops->max_len]: wider accesses are split, ascending, and
 * narrower ones go to the device as they are when min_len is 1. Values are
 * zero-extended. Accesses narrower than min_len meet nothing: all ones, dropped.
 * Nothing promises alignment: @off may be odd. @vcpu is who does it, NULL when it is
 * not a vCPU (DMA, a script). They run on the vCPU's thread, several at once: the
 * device takes its own lock.
 */
struct io_ops {
    uint64_t (*read)(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len);
    void (*write)(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                  unsigned len);
    uint8_t min_len; /* 1, 2, 4 or 8; 0 means 1 */
    uint8_t max_len; /* 1, 2, 4 or 8; 0 means 8 */
};

struct io_region {
    const char *name; /* the device's id or type: what statistics show */
    uint64_t base;    /* of a movable region: where it is mapped, while it is */
    uint64_t len;
    const struct io_ops *ops;
    void *opaque;
    struct exit_stat reads, writes;
};

struct aspace;

/*
 * @bits: width of an address, 16 for ports or up to 64. @reason: which counter of a
 * vCPU its accesses belong to, VCPU_EXIT_MMIO or VCPU_EXIT_PIO.
 */
struct aspace *aspace_new(const char *name, unsigned bits, enum vcpu_exit reason);
void aspace_free(struct aspace *as);

/*
 * Put @region (caller's storage, valid until removed) into the space for good. Fails
 * with @error naming both when it overlaps another fixed region or leaves the space.
 * Thread: main, while every vCPU is stopped, as for gmem_add().
 */
bool aspace_add(struct aspace *as, struct io_region *region, GError **error);
void aspace_remove(struct aspace *as, struct io_region *region);

/* Priorities of movable regions. */
enum {
    ASPACE_LOW = 0,     /* gives way to all others: a window of what is left */
    ASPACE_DEVICE = 10, /* base address registers of PCI devices */
    ASPACE_BOARD = 20,  /* the chipset's own, which it lets the guest move */
};

/*
 * Make room for @n movable regions more than were asked for until now; @n < 0 gives
 * room back. Once for each, before it is mapped. Thread: main, as aspace_add().
 */
void aspace_reserve(struct aspace *as, int n);

/*
 * Let @region (caller's storage, zeroed before its first use, valid until unmapped and
 * every vCPU has been stopped since) answer at @base from now on, with region->len
 * bytes; where it was mapped until now it is not any more. What lies beyond the end of
 * the space is nowhere. Accesses that have found the region at its old place may still
 * reach it there. Any thread, also a vCPU's and with a device's lock held; calls for
 * one region are the caller's to serialize.
 */
void aspace_map(struct aspace *as, struct io_region *region, uint64_t base,
                unsigned priority);
/* Nothing happens when it is not mapped. Any thread. */
void aspace_unmap(struct aspace *as, struct io_region *region);

/*
 * Do one access of @len 1, 2, 4 or 8 bytes, counted and timed on the region. Where
 * no region answers, reads give all ones and writes are dropped, as a PC's bus
 * does; the access is counted as unassigned. An access that straddles the end of a
 * region is done byte by byte.
 */
uint64_t aspace_read(struct aspace *as, struct vcpu *vcpu, uint64_t addr, unsigned len);
void aspace_write(struct aspace *as, struct vcpu *vcpu, uint64_t addr, uint64_t value,
                  unsigned len);

/* Whether @region, which is mapped, answers in all of its length: nothing is before it.
 */
bool aspace_shows(struct aspace *as, const struct io_region *region);

/* Whether any region answers at @addr. */
bool aspace_has(const struct aspace *as, uint64_t addr);

/* Accesses that met no region since the start. */
uint64_t aspace_unassigned(const struct aspace *as);

/* Of what is mapped now:
 * [{"name","space","base","len","reads","read-ns","writes","write-ns"}...];
 * caller owns. */
json_t *aspace_stats(struct aspace *as);

#endif
