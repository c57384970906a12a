#ifndef VMM_DEV_PC_CHR_OUT_H
#define VMM_DEV_PC_CHR_OUT_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

struct chardev;
struct vm_clock;
struct vm_timer;

/*
 * Output of a device that gets one byte per access, gathered so that the host sees
 * lines instead of bytes: passed on at each newline, when the buffer is full, and a
 * millisecond after a byte at the latest.
 *
 * Everything runs with the device's lock held, which the timer takes itself.
 */

#define CHR_OUT_SIZE 1024

struct chr_out {
    struct chardev *cd; /* NULL: bytes are dropped */
    GMutex *lock;       /* the device's */
    struct vm_clock *clock;
    struct vm_timer *timer;
    bool armed;   /* the timer will call */
    bool blocked; /* the chardev took less than it was given */
    unsigned len;
    uint8_t buf[CHR_OUT_SIZE];
};

/* init/done: main thread, lock not held. done passes on what it still holds; fine
 * after failed or no init of a zeroed struct. */
void chr_out_init(struct chr_out *o, struct chardev *cd, struct vm_clock *clock,
                  GMutex *lock);
void chr_out_done(struct chr_out *o);

/* Bytes that can be put now. */
unsigned chr_out_room(const struct chr_out *o);

/* One byte; dropped when there is no room. */
void chr_out_put(struct chr_out *o, uint8_t byte);

/* Pass everything on now. */
void chr_out_flush(struct chr_out *o);

/* The chardev said can_write: try again. */
void chr_out_resume(struct chr_out *o);

#endif
