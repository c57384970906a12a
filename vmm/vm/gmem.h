#ifndef VMM_VM_GMEM_H
#define VMM_VM_GMEM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

#include <glib.h>

#include "lib/base/tsan.h"

typedef uint64_t gpa_t; /* guest-physical address */

/*
 * Guest-physical memory: RAM and ROM, as an immutable sorted snapshot of regions.
 *
 * Readers (vCPUs, I/O threads) load the snapshot pointer and look up without a
 * lock. gmem_add()/gmem_remove() publish a new snapshot; they run while every vCPU
 * is stopped and I/O is drained (before the start, or inside vm_stop_all()), so the
 * old snapshot is freed at once.
 *
 * Each region has two bitmaps of one byte per 4 KiB page, written by any thread:
 *   dirty  bit 0 of the byte is set when the page is written (migration, display)
 *   code   non-zero when an accelerator caches something derived from the page's
 *          bytes, one bit per 512-byte piece of the page
 */

#define GMEM_PAGE_SHIFT 12
#define GMEM_PAGE_SIZE  (UINT64_C(1) << GMEM_PAGE_SHIFT)
#define GMEM_CODE_SHIFT 9 /* one bit of the code byte stands for 512 bytes */

enum gmem_kind {
    GMEM_RAM, /* read, written, executed */
    GMEM_ROM, /* guest stores are dropped */
};

struct gmem_block;

struct gmem_region {
    const char *name; /* static or owned by the gmem: "ram", "bios" */
    enum gmem_kind kind;
    gpa_t gpa;                /* page aligned */
    uint64_t len;             /* bytes, a multiple of GMEM_PAGE_SIZE */
    uint8_t *host;            /* where gpa is in this process */
    _Atomic uint8_t *dirty;   /* len / 4096 entries */
    _Atomic uint8_t *code;    /* len / 4096 entries */
    struct gmem_block *block; /* whose memory it is; NULL: the region's own */
};

struct gmem;

/* Called after bytes with a code bit set were written from outside the vCPUs. */
typedef void (*gmem_invalidate_fn)(void *opaque, gpa_t gpa, uint64_t len);

struct gmem *gmem_new(void);
void gmem_free(struct gmem *m);

/* At most one listener: the accelerator. */
void gmem_set_invalidate(struct gmem *m, gmem_invalidate_fn fn, void *opaque);

/*
 * Who must know of regions: the accelerator. added() runs when the region can be
 * found already and may refuse it (gmem_add() then fails with its error); removed()
 * when it cannot be found any more and its memory is still there. Thread: that of
 * gmem_add() and gmem_remove(). At most one; not called by gmem_free().
 */
struct gmem_listener {
    bool (*added)(void *opaque, const struct gmem_region *region, GError **error);
    void (*removed)(void *opaque, const struct gmem_region *region);
    void *opaque;
};
void gmem_set_listener(struct gmem *m, const struct gmem_listener *listener);

/*
 * Add @len bytes of zeroed memory at @gpa, both page aligned. RAM is anonymous
 * private memory (mergeable and hugepage-able), reserved but not touched, and
 * named "guest-ram" to the kernel where it supports names.
 * Fails with @error when the range wraps, overlaps another region, or the host
 * refuses the memory. Thread: see above.
 */
bool gmem_add(struct gmem *m, const char *name, enum gmem_kind kind, gpa_t gpa,
              uint64_t len, GError **error);

/* Take the region that begins at @gpa out of the guest and release its memory, if it
 * has its own. There must be one. Thread: see above. */
void gmem_remove(struct gmem *m, gpa_t gpa);

/*
 * Memory that is there whether the guest sees it or not: a video card's, what a chipset
 * hides behind a ROM. Pages of it are shown to the guest by gmem_map(), each at one
 * place at a time, and hidden by gmem_remove(). Contents, dirty and code bytes stay.
 *
 * new: @len bytes, a multiple of GMEM_PAGE_SIZE, zeroed, NULL with @error when the host
 * refuses; @name is copied. free: no region shows it any more; NULL is fine.
 */
struct gmem_block *gmem_block_new(const char *name, uint64_t len, GError **error);
void gmem_block_free(struct gmem_block *b);

/* Where it is in this process, its length, and a byte for each page as in struct
 * gmem_region. Any thread. */
uint8_t *gmem_block_host(const struct gmem_block *b);
uint64_t gmem_block_len(const struct gmem_block *b);
_Atomic uint8_t *gmem_block_dirty(const struct gmem_block *b);

/* Show [off, off + len) of @b at @gpa, all page aligned and within @b. Fails as
 * gmem_add(). Thread: see above. */
bool gmem_map(struct gmem *m, struct gmem_block *b, enum gmem_kind kind, gpa_t gpa,
              uint64_t off, uint64_t len, GError **error);

/* The region that holds @gpa, or NULL. Borrowed until the next change. */
const struct gmem_region *gmem_find(const struct gmem *m, gpa_t gpa);

/* All regions in ascending order. Borrowed until the next change. */
const struct gmem_region *gmem_regions(const struct gmem *m, size_t *ret_n);

/*
 * memcpy() between guest memory, by its host address, and ours. Guests write their
 * memory while it is copied, and that is their affair: ThreadSanitizer does not look.
 * This is the only place that hides anything from it, beside the software CPU's loads
 * and stores (vmm/accel/bt/meson.build).
 */
#ifdef LODGE_TSAN
void gmem_copy(void *to, const void *from, size_t len);
#else
static inline void gmem_copy(void *to, const void *from, size_t len)
{
    memcpy(to, from, len);
}
#endif

/*
 * Copy @len bytes between guest memory and @buf; a range may cross regions.
 * Returns 0, or -EFAULT when any byte of it is not in RAM or ROM (nothing is
 * copied then), or -EACCES for a write that touches ROM. gmem_load() writes ROM
 * too: for loaders. Writes mark dirty and tell the invalidate listener.
 * Any thread.
 */
int gmem_read(const struct gmem *m, gpa_t gpa, void *buf, size_t len);
int gmem_write(struct gmem *m, gpa_t gpa, const void *buf, size_t len);
int gmem_load(struct gmem *m, gpa_t gpa, const void *buf, size_t len);

/*
 * Lend host pointers for [gpa, gpa + len), appended to @iov from *n_iov on, at most
 * @max segments in all; *n_iov grows. The memory stays guest memory: it may change
 * under the borrower. Returns 0, -EFAULT (not all RAM), -EACCES (ROM and @write),
 * -E2BIG (more than @max segments). After writing through the pointers call
 * gmem_written() for the same range. Any thread.
 */
int gmem_iov(const struct gmem *m, gpa_t gpa, size_t len, bool write, struct iovec *iov,
             unsigned *n_iov, unsigned max);
void gmem_written(struct gmem *m, gpa_t gpa, size_t len);

#endif
