/*
 * The core of character devices: moves bytes between a front end and descriptors.
 *
 * Output. chardev_write() first tries the descriptor itself, on the caller's thread:
 * a serial console costs one write() and no wake-up. What the host does not take goes
 * to a ring of CHARDEV_BUFFER bytes, and the loop's thread drains that when the
 * descriptor is writable. Descriptors that we inherited (stdout, fd=) must not be made
 * non-blocking, since the flag is shared with whoever gave them; there poll() is asked
 * before each short write.
 *
 * Input. The descriptor is watched only while the front end can take bytes. When it
 * cannot, the watch is removed rather than muted, since a peer that has hung up is
 * reported whatever the events are, and would spin the loop.
 *
 * One bottom half, update, brings the watches and the front end's view in line with
 * the state; everything that changes state schedules it.
 */
#include "vmm/chardev/chardev_priv.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/base.h"

#define READ_CHUNK  4096
#define SHORT_WRITE 256 /* fits where poll() says writable, pipes and terminals */

/* Write what the host takes at once. Returns bytes, 0 for none now, -1: broken. */
static ssize_t write_some_locked(struct chardev *cd, const uint8_t *buf, size_t len)
{
    ssize_t n;

    if (!(cd->flags & CHARDEV_DIRECT)) {
        struct pollfd p = {.fd = cd->fd_out, .events = POLLOUT};

        if (poll(&p, 1, 0) != 1 || !(p.revents & (POLLOUT | POLLERR)))
            return 0;
        len = MIN(len, SHORT_WRITE);
    }
    do
        n = write(cd->fd_out, buf, len);
    while (n < 0 && errno == EINTR);
    if (n >= 0)
        return n;
    return errno == EAGAIN ? 0 : -1;
}

/* Returns how many of @len bytes went; sets broken when the other side is gone. */
static size_t write_all_locked(struct chardev *cd, const uint8_t *buf, size_t len)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = write_some_locked(cd, buf + done, len - done);

        if (n < 0) {
            cd->broken = true;
            return len;
        }
        if (n == 0)
            break;
        done += n;
    }
    return done;
}

static void flush_locked(struct chardev *cd)
{
    while (cd->out_len > 0 && !cd->broken) {
        size_t chunk = MIN(cd->out_len, CHARDEV_BUFFER - cd->out_off);
        size_t n = write_all_locked(cd, cd->out + cd->out_off, chunk);

        cd->out_off = (cd->out_off + n) % CHARDEV_BUFFER;
        cd->out_len -= n;
        if (n < chunk)
            break;
    }
}

static size_t buffer_locked(struct chardev *cd, const uint8_t *buf, size_t len)
{
    size_t n = MIN(len, CHARDEV_BUFFER - cd->out_len);

    if (!cd->out)
        cd->out = g_malloc(CHARDEV_BUFFER);
    for (size_t done = 0; done < n;) {
        size_t at = (cd->out_off + cd->out_len) % CHARDEV_BUFFER;
        size_t chunk = MIN(n - done, CHARDEV_BUFFER - at);

        memcpy(cd->out + at, buf + done, chunk);
        cd->out_len += chunk;
        done += chunk;
    }
    return n;
}

size_t chardev_write(struct chardev *cd, const uint8_t *buf, size_t len)
{
    size_t taken = len;
    bool update = false;

    g_mutex_lock(&cd->lock);
    if (cd->backend->output) {
        taken = cd->backend->output(cd, buf, len);
    } else if (cd->connected && cd->fd_out >= 0 && !cd->broken) {
        taken = cd->out_len == 0 ? write_all_locked(cd, buf, len) : 0;
        if (taken < len) {
            taken += buffer_locked(cd, buf + taken, len - taken);
            update = true;
        }
        update |= cd->broken;
        cd->front_end_waits |= taken < len;
    }
    g_mutex_unlock(&cd->lock);
    if (update)
        loop_bh_schedule(&cd->update);
    return taken;
}

void chardev_accept_input(struct chardev *cd)
{
    /* Pairs with the exchange in input_room(): either it sees the front end's room
     * or we see the flag. */
    if (atomic_load(&cd->input_stopped) && atomic_exchange(&cd->input_stopped, false))
        loop_bh_schedule(&cd->update);
}

/* ---- the loop's thread ---- */

/* How much the front end can take; when nothing, input_stopped is set. */
static size_t input_room(struct chardev *cd)
{
    size_t n;

    if (!cd->handlers || !cd->handlers->can_read || !cd->handlers->read)
        return 0;
    n = cd->handlers->can_read(cd->opaque);
    if (n > 0)
        return n;
    atomic_store(&cd->input_stopped, true);
    n = cd->handlers->can_read(cd->opaque);
    if (n > 0)
        atomic_store(&cd->input_stopped, false);
    return n;
}

static void give_input(struct chardev *cd, uint8_t *buf, size_t len)
{
    if (cd->backend->filter)
        len = cd->backend->filter(cd, buf, len);
    if (len > 0 && cd->handlers)
        cd->handlers->read(cd->opaque, buf, len);
}

static void read_input(struct chardev *cd)
{
    uint8_t buf[READ_CHUNK];
    size_t room = input_room(cd);
    ssize_t n;

    if (room == 0)
        return;
    n = read(cd->fd_in, buf, MIN(room, sizeof(buf)));
    if (n > 0) {
        give_input(cd, buf, n);
    } else if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    } else if (cd->backend->input_may_end) {
        cd->input_ended = true;
    } else {
        g_mutex_lock(&cd->lock);
        cd->broken = true;
        g_mutex_unlock(&cd->lock);
    }
}

static void on_fd(void *opaque, unsigned events)
{
    struct chardev *cd = opaque;

    if (events & (LOOP_READ | LOOP_HUP) && cd->fd_in >= 0)
        read_input(cd);
    loop_bh_schedule(&cd->update);
}

static void on_fd_out(void *opaque, unsigned events)
{
    struct chardev *cd = opaque;

    loop_bh_schedule(&cd->update);
}

static void set_watch(struct chardev *cd, struct loop_fd **watch, unsigned *events,
                      int fd, unsigned want, loop_fd_fn fn)
{
    if (want == *events)
        return;
    if (want == 0) {
        loop_fd_remove(*watch);
        *watch = NULL;
    } else if (*watch) {
        loop_fd_set_events(*watch, want);
    } else {
        *watch = loop_fd_add(cd->loop, fd, want, fn, cd);
    }
    *events = *watch ? want : 0;
}

static void set_watches(struct chardev *cd, bool in, bool out)
{
    if (cd->fd_in == cd->fd_out) {
        set_watch(cd, &cd->watch_in, &cd->events_in, cd->fd_in,
                  (in ? LOOP_READ : 0) | (out ? LOOP_WRITE : 0), on_fd);
        return;
    }
    set_watch(cd, &cd->watch_in, &cd->events_in, cd->fd_in, in ? LOOP_READ : 0, on_fd);
    set_watch(cd, &cd->watch_out, &cd->events_out, cd->fd_out, out ? LOOP_WRITE : 0,
              on_fd_out);
}

static void tell_open(struct chardev *cd, bool open)
{
    if (!cd->handlers || cd->told_open == open)
        return;
    cd->told_open = open;
    if (cd->handlers->event)
        cd->handlers->event(cd->opaque, open ? CHARDEV_OPENED : CHARDEV_CLOSED);
}

/* Input of backends without a descriptor. */
static void pull_input(struct chardev *cd)
{
    uint8_t buf[READ_CHUNK];
    size_t room, n;

    while ((room = input_room(cd)) > 0) {
        g_mutex_lock(&cd->lock);
        n = cd->backend->input(cd, buf, MIN(room, sizeof(buf)));
        g_mutex_unlock(&cd->lock);
        if (n == 0)
            return;
        give_input(cd, buf, n);
    }
}

static void update(void *opaque)
{
    struct chardev *cd = opaque;
    bool broken, pending, room = false;

    g_mutex_lock(&cd->lock);
    flush_locked(cd);
    broken = cd->broken;
    pending = cd->out_len > 0;
    if (cd->front_end_waits && (broken || cd->out_len < CHARDEV_BUFFER)) {
        cd->front_end_waits = false;
        room = true;
    }
    g_mutex_unlock(&cd->lock);

    if (broken) {
        chardev_disconnect(cd);
        if (cd->backend->lost)
            cd->backend->lost(cd);
        pending = false;
    }
    if (cd->input_ended) { /* out of the watch's own callback */
        set_watch(cd, &cd->watch_in, &cd->events_in, cd->fd_in, 0, on_fd);
        cd->fd_in = -1;
        cd->input_ended = false;
    }
    tell_open(cd, cd->connected);
    if (cd->backend->input)
        pull_input(cd);
    set_watches(cd, cd->fd_in >= 0 && input_room(cd) > 0, pending);
    if (room && cd->handlers && cd->handlers->can_write)
        cd->handlers->can_write(cd->opaque);
}

void chardev_connect(struct chardev *cd, int fd_in, int fd_out, unsigned flags)
{
    g_mutex_lock(&cd->lock);
    cd->fd_in = fd_in;
    cd->fd_out = fd_out;
    cd->flags = flags;
    cd->connected = true;
    cd->broken = false;
    g_mutex_unlock(&cd->lock);
    loop_bh_schedule(&cd->update);
}

void chardev_disconnect(struct chardev *cd)
{
    set_watches(cd, false, false);
    g_mutex_lock(&cd->lock);
    if (cd->flags & CHARDEV_OWNS) {
        if (cd->fd_in >= 0)
            close(cd->fd_in);
        if (cd->fd_out >= 0 && cd->fd_out != cd->fd_in)
            close(cd->fd_out);
    }
    cd->fd_in = cd->fd_out = -1;
    cd->connected = false;
    cd->broken = false;
    cd->out_len = 0;
    g_mutex_unlock(&cd->lock);
    loop_bh_schedule(&cd->update);
}

bool chardev_attach(struct chardev *cd, const struct chardev_handlers *handlers,
                    void *opaque, GError **error)
{
    if (cd->handlers)
        return error_msg(error, "chardev '%s' is already in use", cd->id);
    cd->handlers = handlers;
    cd->opaque = opaque;
    cd->told_open = false;
    loop_bh_schedule(&cd->update);
    return true;
}

void chardev_detach(struct chardev *cd)
{
    cd->handlers = NULL;
    loop_bh_schedule(&cd->update);
}

void chardev_set_leave(struct chardev *cd, void (*fn)(void *opaque), void *opaque)
{
    cd->leave = fn;
    cd->leave_opaque = opaque;
}

const char *chardev_get_id(const struct chardev *cd)
{
    return cd->id;
}

char *chardev_describe(const struct chardev *cd)
{
    if (cd->backend->describe)
        return cd->backend->describe(cd);
    return g_strdup(cd->backend->name);
}

void chardev_drain(struct chardev *cd)
{
    g_mutex_lock(&cd->lock);
    while (cd->connected && cd->fd_out >= 0 && cd->out_len > 0 && !cd->broken &&
           !cd->stuck) {
        struct pollfd p = {.fd = cd->fd_out, .events = POLLOUT};
        int wait_ms = cd->backend->may_be_unread ? 0 : CHARDEV_DRAIN_MS;

        flush_locked(cd);
        if (cd->out_len > 0)
            cd->stuck = poll(&p, 1, wait_ms) != 1 || !(p.revents & (POLLOUT | POLLERR));
    }
    g_mutex_unlock(&cd->lock);
}

void chardev_free(struct chardev *cd)
{
    if (!cd)
        return;
    cd->handlers = NULL;
    chardev_drain(cd);
    chardev_disconnect(cd);
    if (cd->backend->close)
        cd->backend->close(cd);
    loop_bh_cancel(&cd->update);
    g_mutex_clear(&cd->lock);
    g_free(cd->out);
    g_free(cd->id);
    g_free(cd);
}

/* The check has passed and the backend is known: chardev_opts.c calls. */
struct chardev *chardev_make(struct loop *loop, const struct chardev_backend *backend,
                             const json_t *options, GError **error)
{
    struct chardev *cd = g_new0(struct chardev, 1);

    cd->backend = backend;
    cd->loop = loop;
    cd->id = g_strdup(chardev_opt_str(options, "id") ?: backend->name);
    cd->fd_in = cd->fd_out = -1;
    g_mutex_init(&cd->lock);
    loop_bh_init(&cd->update, loop, update, cd);
    if (!backend->open(cd, options, error)) {
        g_prefix_error(error, "chardev '%s': ", cd->id);
        chardev_free(cd);
        return NULL;
    }
    return cd;
}
