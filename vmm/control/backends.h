#ifndef VMM_CONTROL_BACKENDS_H
#define VMM_CONTROL_BACKENDS_H

#include <stdbool.h>

#include <glib.h>

#include "vmm/board/board.h"
#include "vmm/control/config.h"
#include "vmm/vm/props.h"

struct backends;
struct blk;
struct chardev;
struct loop;
struct secrets;

/*
 * The host's side of a VM: chardevs and disk images by their ids, and who uses them.
 */

/*
 * Look at what @c says of them: options, ids that are there twice, references to ids
 * that are not there. Opens nothing. Where a -drive wants a device (if=virtio), one
 * of @board's disk device is appended to c->devices. NULL with @error.
 */
struct backends *backends_new(struct vmm_config *c, const struct board_type *board,
                              GError **error);

/* Detach from nothing: the devices are gone. NULL is fine. */
void backends_free(struct backends *b);

/* Answers for devices that are only being checked: whether an id is there. */
struct device_resolver backends_checker(struct backends *b);

/* Open the images, then the chardevs, which may wait for a client. @secrets outlives
 * them. */
bool backends_open(struct backends *b, struct loop *loop, const struct secrets *secrets,
                   GError **error);

/* The serial ports' chardevs, BOARD_SERIALS of them, NULL where there is none. */
struct chardev *const *backends_serials(const struct backends *b);

/* Gives out what was opened, each to one device. */
struct device_resolver backends_resolver(struct backends *b);

/* @fn is called when the user types the key that leaves. */
void backends_set_leave(struct backends *b, void (*fn)(void *opaque), void *opaque);

#endif
