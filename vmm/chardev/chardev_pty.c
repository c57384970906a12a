/*
 * A pseudo terminal. Its master reports a hang-up as long as nobody has the other
 * side open, and nothing says when that ends: so it is asked once a second.
 */
#include "vmm/chardev/chardev_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "lib/base/base.h"

#define ASK_NS UINT64_C(1000000000)

struct pty {
    int fd;
    char name[64];
    struct loop_timer timer;
};

static void pty_ask(void *opaque)
{
    struct chardev *cd = opaque;
    struct pty *p = cd->priv;
    struct pollfd pfd = {.fd = p->fd, .events = POLLOUT};

    if (poll(&pfd, 1, 0) == 1 && !(pfd.revents & POLLHUP)) {
        chardev_connect(cd, p->fd, p->fd, CHARDEV_DIRECT);
    } else {
        loop_timer_set(&p->timer, loop_now_ns() + ASK_NS);
    }
}

static bool pty_open(struct chardev *cd, const json_t *options, GError **error)
{
    struct pty *p = cd->priv = g_new0(struct pty, 1);
    struct termios t;
    int slave;

    loop_timer_init(&p->timer, cd->loop, pty_ask, cd);
    p->fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (p->fd < 0 || grantpt(p->fd) < 0 || unlockpt(p->fd) < 0 ||
        ptsname_r(p->fd, p->name, sizeof(p->name)) != 0)
        return error_errno(error, errno, "pseudo terminal");
    /* Opened once and closed: only then the master reports the hang-up. */
    slave = open(p->name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0)
        return error_errno(error, errno, "'%s'", p->name);
    if (tcgetattr(slave, &t) == 0) {
        cfmakeraw(&t);
        tcsetattr(slave, TCSANOW, &t);
    }
    close(slave);
    loop_timer_set(&p->timer, loop_now_ns());
    return true;
}

static void pty_lost(struct chardev *cd)
{
    struct pty *p = cd->priv;

    loop_timer_set(&p->timer, loop_now_ns() + ASK_NS);
}

static void pty_close(struct chardev *cd)
{
    struct pty *p = cd->priv;

    loop_timer_done(&p->timer);
    if (p->fd >= 0)
        close(p->fd);
    g_free(p);
}

static char *pty_describe(const struct chardev *cd)
{
    const struct pty *p = cd->priv;

    return g_strdup_printf("pty:%s", p->name);
}

const struct chardev_backend chardev_pty = {
    .name = "pty",
    .help = "a new pseudo terminal",
    .open = pty_open,
    .close = pty_close,
    .lost = pty_lost,
    .may_be_unread = true,
    .describe = pty_describe,
};
