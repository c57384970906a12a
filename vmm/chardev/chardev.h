#ifndef VMM_CHARDEV_CHARDEV_H
#define VMM_CHARDEV_CHARDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <glib.h>
#include <jansson.h>

struct loop;
struct chardev;

/*
 * Character devices: the host's end of a byte stream (a terminal, a socket, a
 * file) that one front end in the guest (a serial port, debugcon) is plugged into.
 *
 * Nothing here waits for the host's other side. Output that the host cannot take
 * at once goes to a bounded buffer; when that is full the front end is told so and
 * holds its data back. Input is read only as fast as the front end can take it.
 *
 * Threads: chardev_write(), chardev_accept_input() and the counters may be used on
 * any thread. The handlers run on the loop's thread with no lock of the chardev
 * held. Everything else belongs to the loop's thread.
 */

enum chardev_event {
    CHARDEV_OPENED, /* somebody is at the other side */
    CHARDEV_CLOSED, /* nobody is: output is dropped from here on */
};

/* What a front end is called for. Every member may be NULL. */
struct chardev_handlers {
    /* How many bytes read() can take now; 0 stops the input until the front end
     * calls chardev_accept_input(). NULL: no input is ever taken. */
    size_t (*can_read)(void *opaque);
    /* @len is 1..what can_read() last said. */
    void (*read)(void *opaque, const uint8_t *buf, size_t len);
    /* There is room again after a chardev_write() that did not take everything. */
    void (*can_write)(void *opaque);
    void (*event)(void *opaque, enum chardev_event event);
};

/*
 * Make a chardev from the options of -chardev: {"backend": "socket", "id": ...,
 * "path": ...}; values are JSON strings, as keyval parsers give them, or numbers
 * and booleans. A backend or an option that does not exist is refused with its
 * nearest neighbour. "fd" options take over the descriptor.
 *
 * A socket with server=on,wait=on (QEMU's default) blocks here until a client
 * connects, and says so on stderr.
 *
 * @options borrowed; @loop must outlive the chardev.
 */
struct chardev *chardev_new(struct loop *loop, const json_t *options, GError **error);

/* Check everything about @options that can be checked without opening anything. */
bool chardev_check(const json_t *options, GError **error);

/*
 * Wait until the host has taken what was written, as long as it goes on taking: a
 * reader that takes nothing for CHARDEV_DRAIN_MS is given up. For the end of a VM, when
 * nothing but its last words is left. Thread: the loop's.
 */
#define CHARDEV_DRAIN_MS 3000
void chardev_drain(struct chardev *cd);

/* Drain, restore the terminal, close. */
void chardev_free(struct chardev *cd);

const char *chardev_get_id(const struct chardev *cd);

/* What the chardev is really connected to: "pty:/dev/pts/3". Caller frees. */
char *chardev_describe(const struct chardev *cd);

/*
 * Plug a front end in. Fails when there is one already. @handlers must stay valid
 * until chardev_detach(), after which none of them runs again. Input starts to
 * flow with the first chardev_accept_input() or the next turn of the loop.
 */
bool chardev_attach(struct chardev *cd, const struct chardev_handlers *handlers,
                    void *opaque, GError **error);
void chardev_detach(struct chardev *cd);

/*
 * Send @len bytes to the host. Returns how many were taken, 0..@len; fewer than
 * @len means that the buffer is full and can_write() will be called. While nobody
 * is connected everything is taken and dropped. Any thread; the caller may hold
 * its device's lock (handlers are never called from here).
 */
size_t chardev_write(struct chardev *cd, const uint8_t *buf, size_t len);

/* The front end can take input again. Any thread. Costs one atomic load unless the
 * input was stopped. */
void chardev_accept_input(struct chardev *cd);

/*
 * Called on the loop's thread when the user types the key that leaves the VM, on
 * backends that have one (stdio with leave=).
 */
void chardev_set_leave(struct chardev *cd, void (*fn)(void *opaque), void *opaque);

/*
 * The ringbuf backend, for tests and for reading back what a guest said. put: what
 * the "host" types; take: what the guest has sent since the last take, as many as
 * fit into @buf. Both return the number of bytes. Other backends: 0. Any thread.
 */
size_t chardev_ring_put(struct chardev *cd, const uint8_t *buf, size_t len);
size_t chardev_ring_take(struct chardev *cd, uint8_t *buf, size_t len);

/* -chardev help: every backend with its options. */
void chardev_help(FILE *out);

#endif
