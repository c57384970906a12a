#ifndef LIB_LOOP_LOOP_H
#define LIB_LOOP_LOOP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include <glib.h>

/*
 * An event loop: file descriptors, timers, bottom halves, blocking work and
 * asynchronous file I/O, with every callback on one thread, the loop's thread.
 *
 * A loop is driven in one of three ways, and what is written against it does not
 * notice which:
 *
 *   own thread    loop_start(): an I/O thread runs it until loop_stop().
 *   GLib          loop_attach(): a GSource in a main context drives it; the
 *                 thread that runs the context is the loop's thread.
 *   by hand       loop_poll(): command line tools, tests, and a callback that
 *                 must wait for something the loop itself delivers.
 *
 * The loop's thread is the one that called loop_new() or loop_attach(), or the
 * own thread between loop_start() and loop_stop(). Functions say "any thread" or
 * "loop thread"; what is for the loop thread may also be called while nothing
 * drives the loop, by one thread at a time.
 *
 * Callbacks run without any lock of the loop held, and may call everything here,
 * loop_poll() included (callbacks then nest).
 *
 * Time is CLOCK_MONOTONIC in nanoseconds.
 */

struct loop;

/* How file I/O is done. AUTO: io_uring where the kernel lets us, else threads. */
enum loop_io_engine { LOOP_IO_AUTO, LOOP_IO_URING, LOOP_IO_THREADS };

struct loop_opts {
    enum loop_io_engine engine; /* what LOOP_IO_AUTO requests use            */
    unsigned queue_depth;       /* io_uring requests in flight; 0: 256       */
    unsigned pool_threads;      /* most threads for work; 0: 16, at most 256 */
};

/*
 * A new loop, driven by nobody yet. @opts may be NULL for the defaults.
 * NULL with @error when the kernel refuses its descriptors, or when
 * opts->engine is LOOP_IO_URING and io_uring cannot be used here.
 */
struct loop *loop_new(const struct loop_opts *opts, GError **error);

/*
 * Stop the thread or detach the source, finish I/O and work in flight (their
 * callbacks run), forget everything else, free. NULL is fine.
 * Watches must have been removed; timers and bottom halves that the caller
 * embeds are not touched again. Loop thread, or the thread that started it.
 */
void loop_free(struct loop *l);

/* Run @l on a thread of its own, named @name (at most 15 bytes are shown). */
bool loop_start(struct loop *l, const char *name, GError **error);

/* End the own thread after the callbacks of its current round, and join it. The
 * calling thread becomes the loop's thread. Nothing when there is no thread. */
void loop_stop(struct loop *l);

/* Let @ctx (NULL: the default one) drive @l from now on. Caller: the thread that
 * runs @ctx. loop_detach() undoes it; loop_free() does too. */
void loop_attach(struct loop *l, GMainContext *ctx);
void loop_detach(struct loop *l);

/*
 * One round: wait (when @block and nothing is ready) and run what is ready.
 * Returns whether a callback ran; a blocking round can return false after a
 * wake-up meant for nobody. Loop thread.
 */
bool loop_poll(struct loop *l, bool block);

/* Whether the caller is on the loop's thread. Any thread. */
bool loop_in_thread(const struct loop *l);

/* Now, in the clock of all deadlines. Any thread. */
uint64_t loop_now_ns(void);

/* ---- file descriptors ---------------------------------------------------- */

#define LOOP_READ  1u
#define LOOP_WRITE 2u
#define LOOP_HUP   4u /* reported only: peer gone or error; read to learn more */

struct loop_fd;
typedef void (*loop_fd_fn)(void *opaque, unsigned events);

/*
 * Call @fn whenever @fd is ready for one of @events (LOOP_READ | LOOP_WRITE; 0
 * still reports LOOP_HUP). Level-triggered. A regular file, which can never make
 * poll() wait, counts as ready at all times. One watch per descriptor; the
 * caller keeps @fd open until the watch is removed.
 * NULL with errno set when the kernel refuses (EEXIST, EBADF, ENOSPC).
 * Loop thread, these three.
 */
struct loop_fd *loop_fd_add(struct loop *l, int fd, unsigned events, loop_fd_fn fn,
                            void *opaque);
void loop_fd_set_events(struct loop_fd *w, unsigned events);

/* No call to the watch's function after this returns. NULL is fine. */
void loop_fd_remove(struct loop_fd *w);

/* ---- timers --------------------------------------------------------------- */

typedef void (*loop_timer_fn)(void *opaque);

/* Embedded by its owner; the fields are the loop's. */
struct loop_timer {
    struct loop *loop;
    loop_timer_fn fn;
    void *opaque;
    uint64_t deadline_ns;
    unsigned slot; /* 1-based place in the heap, 0: not armed; loop's timer lock */
};

void loop_timer_init(struct loop_timer *t, struct loop *l, loop_timer_fn fn,
                     void *opaque);

/*
 * Fire once at @deadline_ns (at once when it has passed); replaces an earlier
 * deadline. A timer fires in deadline order and never early. Any thread, so that
 * a device may set one from the vCPU thread that wrote its register.
 */
void loop_timer_set(struct loop_timer *t, uint64_t deadline_ns);

/*
 * Disarm; returns whether it was armed. On another thread than the loop's the
 * function may just be running: it must look at its own state, under its own
 * lock, to see whether it is still wanted. Any thread.
 */
bool loop_timer_clear(struct loop_timer *t);

/*
 * Disarm and wait until the function is not running, so that its owner can be
 * freed. Any thread that holds no lock the function takes; inside the function
 * itself it does not wait.
 */
void loop_timer_done(struct loop_timer *t);

/* ---- bottom halves ---------------------------------------------------------- */

typedef void (*loop_bh_fn)(void *opaque);

/* Embedded by its owner; the fields are the loop's. */
struct loop_bh {
    struct loop *loop;
    loop_bh_fn fn;
    void *opaque;
    struct loop_bh *next;
    bool scheduled; /* both under the loop's lock */
    bool once;
};

void loop_bh_init(struct loop_bh *bh, struct loop *l, loop_bh_fn fn, void *opaque);

/*
 * Have the function run soon on the loop's thread: once, however often it was
 * scheduled before it ran. What the caller wrote before is visible to it. A
 * function that schedules itself runs again in the next round. Any thread.
 */
void loop_bh_schedule(struct loop_bh *bh);

/* Take it back when it has not run yet; needed before its owner is freed.
 * Loop thread. */
void loop_bh_cancel(struct loop_bh *bh);

/* Run @fn(@opaque) once on the loop's thread, soon. Allocates. Any thread. */
void loop_call(struct loop *l, loop_bh_fn fn, void *opaque);

/* ---- work: a blocking function on a pool thread ------------------------------ */

/* Embedded by its owner, who sets the first two. */
struct loop_work {
    void (*run)(struct loop_work *w);  /* on a pool thread                   */
    void (*done)(struct loop_work *w); /* then on the loop's thread; may free */
    struct loop *loop;
    struct loop_work *next;
};

/*
 * Queue @w. Work starts in the order it was queued, up to pool_threads at a time;
 * it must not wait for other work that is only queued. Threads start when needed
 * and end when the loop is freed. Loop thread.
 */
void loop_work_submit(struct loop *l, struct loop_work *w);

/* ---- file I/O -------------------------------------------------------------- */

enum loop_io_op { LOOP_IO_READ, LOOP_IO_WRITE, LOOP_IO_FSYNC, LOOP_IO_FALLOCATE };

#define LOOP_IO_DATASYNC (1u << 0) /* FSYNC: fdatasync()                         */
#define LOOP_IO_DSYNC    (1u << 1) /* WRITE: on stable storage when done (RWF_DSYNC) */

/* Embedded by its owner, who sets the first part. */
struct loop_io {
    enum loop_io_op op;
    enum loop_io_engine engine;
    unsigned flags; /* LOOP_IO_DATASYNC, LOOP_IO_DSYNC */
    int fd;
    uint64_t offset;         /* bytes; offset + length at most INT64_MAX */
    uint64_t len;            /* FALLOCATE only; else the sum of iov      */
    int mode;                /* FALLOCATE: FALLOC_FL_...                 */
    const struct iovec *iov; /* the array and what it points to stay     */
    unsigned nb_iov;         /* until done; any number                   */
    /*
     * On the loop's thread, never before loop_io_submit() has returned.
     * @ret: bytes moved (READ: fewer than asked only at end of file), 0 for the
     * others, or a negative errno. May free @io.
     */
    void (*done)(struct loop_io *io, int64_t ret);

    /* The loop's. */
    struct loop_work work;
    struct loop_io *next;
    uint64_t total;
    uint64_t moved;
    int64_t result;
};

/*
 * Start @io. Requests are not ordered among each other. With io_uring they go to
 * the kernel together, at the end of the current round or at the next
 * loop_poll(); at most queue_depth are in flight, the rest waits in order.
 * Loop thread.
 */
void loop_io_submit(struct loop *l, struct loop_io *io);

/* Do @io at once in the calling thread, without its done callback; the result as
 * done would get it. Any thread. */
int64_t loop_io_run(struct loop_io *io);

/* Whether io_uring can be used (asks the kernel the first time). When not and
 * @ret_why is not NULL, *ret_why is the errno that says why. Loop thread. */
bool loop_has_uring(struct loop *l, int *ret_why);

/* I/O requests and work that have not been completed. Loop thread. */
unsigned loop_in_flight(const struct loop *l);

#endif
