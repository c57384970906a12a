/*
 * Backends that only open descriptors: null, stdio, file, pipe, fd.
 */
#include "vmm/chardev/chardev_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "lib/base/base.h"

/* ---- null ---- */

static bool null_open(struct chardev *cd, const json_t *options, GError **error)
{
    chardev_connect(cd, -1, -1, 0);
    return true;
}

const struct chardev_backend chardev_null = {
    .name = "null",
    .help = "drops the output, gives no input",
    .open = null_open,
};

/* ---- stdio ---- */

enum leave_key { LEAVE_NONE, LEAVE_BRACKET, LEAVE_CTRL_A };

static const char *const leave_names[] = {"none", "ctrl-]", "ctrl-a", NULL};

struct stdio {
    bool is_raw;
    struct termios saved;
    enum leave_key leave;
    bool after_ctrl_a;
};

static int leave_index(const char *name)
{
    for (int i = 0; leave_names[i]; i++) {
        if (strcmp(leave_names[i], name) == 0)
            return i;
    }
    return -1;
}

static bool stdio_check(const json_t *options, GError **error)
{
    const char *leave = chardev_opt_str(options, "leave");

    if (leave && leave_index(leave) < 0)
        return error_msg(error, "option 'leave' is none, ctrl-] or ctrl-a, not '%s'",
                         leave);
    return true;
}

/*
 * The guest's terminal driver edits lines and makes CR from LF, so ours must not.
 * Output is left alone: messages of the VMM itself go to the same terminal.
 */
static bool make_raw(struct stdio *s, bool signals, GError **error)
{
    struct termios t;

    if (tcgetattr(STDIN_FILENO, &s->saved) < 0)
        return error_errno(error, errno, "terminal settings");
    t = s->saved;
    t.c_iflag &= ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    t.c_lflag &= ~(ECHO | ECHONL | ICANON | IEXTEN);
    if (!signals)
        t.c_lflag &= ~ISIG;
    t.c_cflag &= ~(CSIZE | PARENB);
    t.c_cflag |= CS8;
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    if (tcsetattr(STDIN_FILENO, TCSANOW, &t) < 0)
        return error_errno(error, errno, "terminal settings");
    s->is_raw = true;
    return true;
}

static bool stdio_open(struct chardev *cd, const json_t *options, GError **error)
{
    struct stdio *s = cd->priv = g_new0(struct stdio, 1);
    const char *leave = chardev_opt_str(options, "leave");

    s->leave = leave ? leave_index(leave) : LEAVE_NONE;
    if (isatty(STDIN_FILENO) &&
        !make_raw(s, chardev_opt_bool(options, "signal", true), error))
        return false;
    chardev_connect(cd, STDIN_FILENO, STDOUT_FILENO, 0);
    return true;
}

static void stdio_close(struct chardev *cd)
{
    struct stdio *s = cd->priv;

    if (s && s->is_raw)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &s->saved);
    g_free(s);
}

static void leave(struct chardev *cd)
{
    if (cd->leave)
        cd->leave(cd->leave_opaque);
}

/* Ctrl-A x leaves, Ctrl-A Ctrl-A and Ctrl-A a type a Ctrl-A, as QEMU's console does. */
static bool take_ctrl_a(struct chardev *cd, struct stdio *s, uint8_t *c)
{
    if (!s->after_ctrl_a) {
        s->after_ctrl_a = *c == CTRL('a');
        return !s->after_ctrl_a;
    }
    s->after_ctrl_a = false;
    if (*c == 'x')
        leave(cd);
    if (*c != 'a' && *c != CTRL('a'))
        return false;
    *c = CTRL('a');
    return true;
}

static size_t stdio_filter(struct chardev *cd, uint8_t *buf, size_t len)
{
    struct stdio *s = cd->priv;
    size_t n = 0;

    if (s->leave == LEAVE_NONE || !s->is_raw)
        return len;
    for (size_t i = 0; i < len; i++) {
        uint8_t c = buf[i];

        if (s->leave == LEAVE_BRACKET && c == CTRL(']')) {
            leave(cd);
            continue;
        }
        if (s->leave == LEAVE_CTRL_A && !take_ctrl_a(cd, s, &c))
            continue;
        buf[n++] = c;
    }
    return n;
}

static const struct chardev_opt stdio_opts[] = {
    {"signal", CHARDEV_OPT_BOOL, .help = "Ctrl-C and Ctrl-\\ are for the VMM (on)"},
    {"leave", CHARDEV_OPT_STRING,
     .help = "key that ends: none, ctrl-], ctrl-a (then x)"},
    {NULL},
};

const struct chardev_backend chardev_stdio = {
    .name = "stdio",
    .help = "standard input and output; a terminal is made raw",
    .opts = stdio_opts,
    .check = stdio_check,
    .open = stdio_open,
    .close = stdio_close,
    .input_may_end = true, /* `echo x | lodge-vmm` still prints */
    .filter = stdio_filter,
};

/* ---- file ---- */

static bool file_open(struct chardev *cd, const json_t *options, GError **error)
{
    const char *path = chardev_opt_str(options, "path");
    bool append = chardev_opt_bool(options, "append", false);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (append ? O_APPEND : O_TRUNC),
                  0666);

    if (fd < 0)
        return error_errno(error, errno, "'%s'", path);
    chardev_connect(cd, -1, fd, CHARDEV_OWNS | CHARDEV_DIRECT);
    return true;
}

static const struct chardev_opt file_opts[] = {
    {"path", CHARDEV_OPT_STRING, .required = true, .help = "file that gets the output"},
    {"append", CHARDEV_OPT_BOOL, .help = "keep what it holds (off)"},
    {NULL},
};

const struct chardev_backend chardev_file = {
    .name = "file",
    .help = "writes the output to a file",
    .opts = file_opts,
    .open = file_open,
};

/* ---- pipe ---- */

static int open_fifo(const char *path, const char *suffix)
{
    g_autofree char *full = g_strconcat(path, suffix, NULL);

    /* Read-write, so that opening does not wait and a leaving peer is no end. */
    return open(full, O_RDWR | O_NONBLOCK | O_CLOEXEC);
}

static bool pipe_open(struct chardev *cd, const json_t *options, GError **error)
{
    const char *path = chardev_opt_str(options, "path");
    int in = open_fifo(path, ".in"), out = open_fifo(path, ".out");

    if (in < 0 || out < 0) {
        if (in >= 0)
            close(in);
        if (out >= 0)
            close(out);
        in = out = open_fifo(path, "");
    }
    if (in < 0)
        return error_errno(error, errno, "'%s'", path);
    chardev_connect(cd, in, out, CHARDEV_OWNS | CHARDEV_DIRECT);
    return true;
}

static const struct chardev_opt pipe_opts[] = {
    {"path", CHARDEV_OPT_STRING, .required = true,
     .help = "FIFOs PATH.in and PATH.out, or one PATH for both"},
    {NULL},
};

const struct chardev_backend chardev_pipe = {
    .name = "pipe",
    .help = "named pipes that exist",
    .opts = pipe_opts,
    .open = pipe_open,
};

/* ---- fd ---- */

static bool fd_open(struct chardev *cd, const json_t *options, GError **error)
{
    int fd = chardev_opt_num(options, "fd", 0);
    int flags = fcntl(fd, F_GETFL);
    int mode = flags & O_ACCMODE;

    if (flags < 0)
        return error_errno(error, errno, "descriptor %d", fd);
    chardev_connect(cd, mode == O_WRONLY ? -1 : fd, mode == O_RDONLY ? -1 : fd, 0);
    return true;
}

static const struct chardev_opt fd_opts[] = {
    {"fd", CHARDEV_OPT_NUMBER, .required = true, .max = 1 << 20,
     .help = "number of an open descriptor"},
    {NULL},
};

const struct chardev_backend chardev_fd = {
    .name = "fd",
    .help = "a descriptor that was opened for us",
    .opts = fd_opts,
    .open = fd_open,
};
