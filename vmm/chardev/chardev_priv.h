#ifndef VMM_CHARDEV_CHARDEV_PRIV_H
#define VMM_CHARDEV_CHARDEV_PRIV_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <glib.h>
#include <jansson.h>

#include "lib/loop/loop.h"
#include "vmm/chardev/chardev.h"

#define CHARDEV_BUFFER (64 * 1024) /* bytes of output held for a slow host side */

enum chardev_opt_type { CHARDEV_OPT_STRING, CHARDEV_OPT_BOOL, CHARDEV_OPT_NUMBER };

struct chardev_opt {
    const char *name;
    enum chardev_opt_type type;
    bool required;
    uint64_t min, max; /* numbers */
    const char *help;
};

/*
 * What connects a chardev to the host. Most only open descriptors and hand them to
 * chardev_connect(); the core moves the bytes.
 */
struct chardev_backend {
    const char *name;
    const char *help;
    const struct chardev_opt *opts; /* ends with .name = NULL; may be NULL */
    /* Options that exclude or need each other; may be NULL. Opens nothing. */
    bool (*check)(const json_t *options, GError **error);
    /* @options has passed the checks. On failure close() is called. */
    bool (*open)(struct chardev *cd, const json_t *options, GError **error);
    void (*close)(struct chardev *cd);
    /* The other side is gone; the core has closed or forgotten its descriptors.
     * NULL: it stays gone. Loop thread. */
    void (*lost)(struct chardev *cd);
    /* The end of the input is not the end: output goes on. fd_in is not fd_out. */
    bool input_may_end;
    /* Often nobody reads the output: the end does not wait for somebody. */
    bool may_be_unread;
    /* Look at input before the front end: change @buf, return the new length. Loop
     * thread; may be NULL. */
    size_t (*filter)(struct chardev *cd, uint8_t *buf, size_t len);
    /* Instead of descriptors: take output (lock held) / give input (lock held). */
    size_t (*output)(struct chardev *cd, const uint8_t *buf, size_t len);
    size_t (*input)(struct chardev *cd, uint8_t *buf, size_t len);
    char *(*describe)(const struct chardev *cd);
};

struct chardev {
    const struct chardev_backend *backend;
    struct loop *loop;
    char *id;
    void *priv; /* the backend's own */

    /* Loop thread. */
    const struct chardev_handlers *handlers;
    void *opaque;
    void (*leave)(void *opaque);
    void *leave_opaque;
    struct loop_fd *watch_in, *watch_out; /* the same when fd_in == fd_out */
    unsigned events_in, events_out;
    bool told_open;   /* the front end's last event */
    bool input_ended; /* with input_may_end: stop watching */
    struct loop_bh update;

    _Atomic bool input_stopped; /* can_read() said 0 */

    GMutex lock; /* guards what follows */
    int fd_in, fd_out;
    unsigned flags; /* CHARDEV_OWNS, CHARDEV_DIRECT */
    bool connected;
    bool broken;          /* a write failed: the loop's thread must see to it */
    bool stuck;           /* chardev_drain() has given up */
    bool front_end_waits; /* chardev_write() took less than all */
    uint8_t *out;         /* ring of CHARDEV_BUFFER bytes, NULL until needed */
    size_t out_off, out_len;
};

enum {
    CHARDEV_OWNS = 1 << 0,   /* close the descriptors when they are done with */
    CHARDEV_DIRECT = 1 << 1, /* write() does not wait, or only for a disk */
};

/*
 * The other side is there: use these descriptors (-1: none) from now on. Loop thread.
 */
void chardev_connect(struct chardev *cd, int fd_in, int fd_out, unsigned flags);

/* It is gone: drop descriptors and pending output. Loop thread. */
void chardev_disconnect(struct chardev *cd);

/* Options, already checked. str: borrowed or NULL. */
const char *chardev_opt_str(const json_t *options, const char *name);
bool chardev_opt_bool(const json_t *options, const char *name, bool def);
uint64_t chardev_opt_num(const json_t *options, const char *name, uint64_t def);

/* Open @backend with options that have passed chardev_check(). */
struct chardev *chardev_make(struct loop *loop, const struct chardev_backend *backend,
                             const json_t *options, GError **error);

extern const struct chardev_backend chardev_null, chardev_stdio, chardev_file,
    chardev_pipe, chardev_fd, chardev_socket, chardev_pty, chardev_ringbuf;

#endif
