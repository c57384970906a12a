#include "vmm/chardev/chardev_priv.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "lib/base/base.h"

/* A front end that remembers what it was told. */
struct front {
    GString *got;
    size_t room;
    unsigned opened, closed, can_write;
};

static size_t front_can_read(void *opaque)
{
    return ((struct front *)opaque)->room;
}

static void front_read(void *opaque, const uint8_t *buf, size_t len)
{
    struct front *f = opaque;

    g_assert_cmpuint(len, <=, f->room);
    f->room -= len;
    g_string_append_len(f->got, (const char *)buf, len);
}

static void front_can_write(void *opaque)
{
    ((struct front *)opaque)->can_write++;
}

static void front_event(void *opaque, enum chardev_event event)
{
    struct front *f = opaque;

    *(event == CHARDEV_OPENED ? &f->opened : &f->closed) += 1;
}

static const struct chardev_handlers handlers = {front_can_read, front_read,
                                                 front_can_write, front_event};

static struct loop *loop;

static void run(void)
{
    for (int i = 0; i < 20; i++)
        loop_poll(loop, false);
}

/* Terminals pass bytes on when a kernel thread gets to it: wait for them. */
static void run_until(const struct front *f, size_t len, unsigned closed)
{
    uint64_t end_ns = loop_now_ns() + UINT64_C(60000000000);

    while ((f->got->len < len || f->closed < closed) && loop_now_ns() < end_ns) {
        run();
        g_usleep(500);
    }
}

static struct chardev *make(const char *json, struct front *f)
{
    json_t *o = json_loads(json, 0, NULL);
    g_autoptr(GError) error = NULL;
    struct chardev *cd = chardev_new(loop, o, &error);

    g_assert_no_error(error);
    json_decref(o);
    if (f) {
        *f = (struct front){.got = g_string_new(""), .room = 1 << 20};
        g_assert_true(chardev_attach(cd, &handlers, f, NULL));
    }
    run();
    return cd;
}

static void end(struct chardev *cd, struct front *f)
{
    if (f) {
        chardev_detach(cd);
        g_string_free(f->got, TRUE);
    }
    chardev_free(cd);
}

static void refused(const char *json, const char *why)
{
    json_t *o = json_loads(json, 0, NULL);
    g_autoptr(GError) error = NULL;

    g_assert_false(chardev_check(o, &error));
    if (!strstr(error->message, why))
        g_error("'%s' does not say '%s'", error->message, why);
    json_decref(o);
}

static size_t put(struct chardev *cd, const char *text)
{
    return chardev_write(cd, (const uint8_t *)text, strlen(text));
}

static void bad_options_are_refused(void)
{
    refused("{\"id\": \"c\"}", "chardev 'c': a backend is missing");
    refused("{\"backend\": \"sockett\"}", "did you mean 'socket'?");
    refused("{\"backend\": \"file\"}", "needs option 'path'");
    refused("{\"backend\": \"file\", \"path\": \"/x\", \"apend\": \"on\"}",
            "did you mean 'append'?");
    refused("{\"backend\": \"stdio\", \"signal\": \"maybe\"}", "'on' or 'off'");
    refused("{\"backend\": \"stdio\", \"leave\": \"ctrl-q\"}", "not 'ctrl-q'");
    refused("{\"backend\": \"fd\", \"fd\": \"-1\"}", "needs a number");
    refused("{\"backend\": \"socket\"}", "needs 'path'");
    refused("{\"backend\": \"socket\", \"path\": \"/a\", \"port\": \"1\"}",
            "needs 'path'");
    refused("{\"backend\": \"socket\", \"path\": \"/a\", \"wait\": \"off\"}",
            "only for server=on");
    refused("{\"backend\": \"ringbuf\", \"size\": \"1T\"}", "takes 1..16777216");
}

static void ringbuf_keeps_the_last_output(void)
{
    struct front f;
    struct chardev *cd = make("{\"backend\": \"ringbuf\", \"size\": 4}", &f);
    uint8_t buf[16];

    g_assert_cmpuint(put(cd, "ab"), ==, 2);
    g_assert_cmpuint(put(cd, "cdefg"), ==, 5);
    g_assert_cmpuint(chardev_ring_take(cd, buf, sizeof(buf)), ==, 4);
    g_assert_cmpmem(buf, 4, "defg", 4);
    g_assert_cmpuint(f.opened, ==, 1);
    end(cd, &f);
}

static void input_waits_until_the_front_end_has_room(void)
{
    struct front f;
    struct chardev *cd = make("{\"backend\": \"ringbuf\"}", &f);

    f.room = 3;
    chardev_ring_put(cd, (const uint8_t *)"hello", 5);
    run();
    g_assert_cmpstr(f.got->str, ==, "hel");
    f.room = 10;
    run();
    g_assert_cmpstr(f.got->str, ==, "hel");
    chardev_accept_input(cd);
    run();
    g_assert_cmpstr(f.got->str, ==, "hello");
    end(cd, &f);
}

static void file_is_written_and_appended(void)
{
    g_autofree char *dir = g_dir_make_tmp("lodge-chardev-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "out", NULL);
    g_autofree char *opts =
        g_strdup_printf("{\"backend\": \"file\", \"path\": \"%s\"}", path);
    g_autofree char *append = g_strdup_printf(
        "{\"backend\": \"file\", \"path\": \"%s\", \"append\": \"on\"}", path);
    g_autofree char *text = NULL;
    struct chardev *cd;

    cd = make(opts, NULL);
    put(cd, "one");
    end(cd, NULL);
    cd = make(append, NULL);
    put(cd, "two");
    end(cd, NULL);
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "onetwo");
    g_unlink(path);
    g_rmdir(dir);
}

static void full_peer_pushes_back_and_loses_nothing(void)
{
    struct front f;
    int sv[2];
    g_autofree char *opts = NULL;
    struct chardev *cd;
    uint8_t buf[8192];
    size_t sent = 0, seen = 0;

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sv), ==, 0);
    opts = g_strdup_printf("{\"backend\": \"socket\", \"fd\": %d}", sv[0]);
    cd = make(opts, &f);
    for (;;) {
        for (size_t i = 0; i < 1000; i++)
            buf[i] = (sent + i) & 0xff;
        size_t n = chardev_write(cd, buf, 1000);

        sent += n;
        if (n < 1000)
            break;
        g_assert_cmpuint(sent, <, 16 * MIB);
    }
    run();
    g_assert_cmpuint(f.can_write, ==, 0);
    while (seen < sent) {
        ssize_t n = read(sv[1], buf, sizeof(buf));

        for (ssize_t i = 0; i < n; i++)
            g_assert_cmphex(buf[i], ==, (seen + i) & 0xff);
        seen += MAX(n, 0);
        run();
    }
    g_assert_cmpuint(f.can_write, ==, 1);
    g_assert_cmpuint(put(cd, "x"), ==, 1);
    close(sv[1]);
    run();
    g_assert_cmpuint(f.closed, ==, 1);
    g_assert_cmpuint(put(cd, "dropped"), ==, 7);
    end(cd, &f);
}

static int connect_to(const char *path)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_un un = {.sun_family = AF_UNIX};

    g_strlcpy(un.sun_path, path, sizeof(un.sun_path));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&un, sizeof(un)), ==, 0);
    return fd;
}

static void server_serves_one_client_after_another(void)
{
    g_autofree char *dir = g_dir_make_tmp("lodge-chardev-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "s", NULL);
    g_autofree char *opts =
        g_strdup_printf("{\"backend\": \"socket\", \"path\": \"%s\","
                        "\"server\": \"on\", \"wait\": \"off\"}",
                        path);
    struct front f;
    struct chardev *cd = make(opts, &f);
    char buf[16];
    int a, b;

    g_assert_cmpuint(put(cd, "nobody hears"), ==, 12);
    a = connect_to(path);
    b = connect_to(path);
    run();
    put(cd, "hi");
    g_assert_cmpint(read(a, buf, sizeof(buf)), ==, 2);
    g_assert_cmpint(read(b, buf, sizeof(buf)), ==, -1);
    g_assert_cmpint(write(a, "yes", 3), ==, 3);
    run();
    close(a);
    run();
    g_assert_cmpint(write(b, "!", 1), ==, 1);
    put(cd, "you");
    g_assert_cmpint(read(b, buf, sizeof(buf)), ==, 3);
    run();
    g_assert_cmpstr(f.got->str, ==, "yes!");
    g_assert_cmpuint(f.opened, ==, 2);
    g_assert_cmpuint(f.closed, ==, 1);
    close(b);
    end(cd, &f);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    g_rmdir(dir);
}

static void server_leaves_other_files_alone(void)
{
    g_autofree char *dir = g_dir_make_tmp("lodge-chardev-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "precious", NULL);
    json_t *o = json_pack("{s:s, s:s, s:b, s:b}", "backend", "socket", "path", path,
                          "server", 1, "wait", 0);
    g_autoptr(GError) error = NULL;

    g_assert_true(g_file_set_contents(path, "data", 4, NULL));
    g_assert_null(chardev_new(loop, o, &error));
    g_assert_nonnull(strstr(error->message, "is not a socket"));
    g_assert_true(g_file_test(path, G_FILE_TEST_IS_REGULAR));
    json_decref(o);
    g_unlink(path);
    g_rmdir(dir);
}

static void left(void *opaque)
{
    ++*(unsigned *)opaque;
}

/* A terminal on descriptors 0 and 1 while @json's stdio chardev gets @typed. Returns
 * what the front end saw. */
static char *type_at_terminal(const char *json, const char *typed, size_t want,
                              unsigned *ret_left)
{
    int in = dup(0), out = dup(1);
    int master = posix_openpt(O_RDWR | O_NOCTTY), slave;
    struct termios before = {0}, during, after = {0}; /* padding is compared, too */
    struct front f;
    struct chardev *cd;
    char *got;

    g_assert_cmpint(grantpt(master), ==, 0);
    g_assert_cmpint(unlockpt(master), ==, 0);
    slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    fflush(stdout);
    dup2(slave, 0);
    dup2(slave, 1);
    tcgetattr(slave, &before);
    cd = make(json, &f);
    chardev_set_leave(cd, left, ret_left);
    tcgetattr(slave, &during);
    g_assert_cmpint(write(master, typed, strlen(typed)), ==, (ssize_t)strlen(typed));
    run_until(&f, want, 0);
    got = g_strdup(f.got->str);
    end(cd, &f);
    tcgetattr(slave, &after);
    dup2(in, 0);
    dup2(out, 1);
    close(in);
    close(out);
    close(master);
    close(slave);
    g_assert_cmphex(during.c_lflag & (ICANON | ECHO), ==, 0);
    g_assert_cmpmem(&before, sizeof(before), &after, sizeof(after));
    return got;
}

static void stdio_makes_the_terminal_raw_and_has_leave_keys(void)
{
    unsigned n = 0;
    g_autofree char *a = type_at_terminal(
        "{\"backend\": \"stdio\", \"signal\": false, \"leave\": \"ctrl-]\"}",
        "a\x03\x1d"
        "b",
        3, &n);

    g_assert_cmpstr(a, ==,
                    "a\x03"
                    "b");
    g_assert_cmpuint(n, ==, 1);
    g_autofree char *b =
        type_at_terminal("{\"backend\": \"stdio\", \"leave\": \"ctrl-a\"}",
                         "p\x01\x01q\x01x\x01"
                         "c\x1d",
                         4, &n);
    g_assert_cmpstr(b, ==, "p\x01q\x1d");
    g_assert_cmpuint(n, ==, 2);
    g_autofree char *c =
        type_at_terminal("{\"backend\": \"stdio\"}", "\x01x\x1d", 3, &n);
    g_assert_cmpstr(c, ==, "\x01x\x1d");
    g_assert_cmpuint(n, ==, 2);
}

/* The end of the input drops nothing of the output: neither what waits for room in a
 * pipe nor what comes between the end and the loop's look at it. */
static void stdio_prints_after_the_end_of_its_input(void)
{
    enum { MANY = 100000 };
    static uint8_t sent[MANY], got[MANY];
    int in = dup(0), out = dup(1), stdin_fds[2], stdout_fds[2];
    size_t written = 0, n = 0;
    struct front f;
    struct chardev *cd;

    for (size_t i = 0; i < MANY; i++)
        sent[i] = i * 13 >> 2;
    g_assert_cmpint(pipe(stdin_fds), ==, 0);
    g_assert_cmpint(pipe2(stdout_fds, O_NONBLOCK), ==, 0);
    fflush(stdout);
    dup2(stdin_fds[0], 0);
    dup2(stdout_fds[1], 1);
    cd = make("{\"backend\": \"stdio\"}", &f);
    run();
    /* More than a pipe holds, less than that and the ring. */
    written = chardev_write(cd, sent, MANY);
    close(stdin_fds[1]);
    run();
    while (n < written) {
        ssize_t r = read(stdout_fds[0], got + n, sizeof(got) - n);

        n += r > 0 ? r : 0;
        run();
    }
    g_assert_cmpuint(written, ==, MANY);
    g_assert_cmpmem(got, n, sent, MANY);
    g_assert_cmpuint(chardev_write(cd, sent, 10), ==, 10);
    g_assert_cmpint(read(stdout_fds[0], got, sizeof(got)), ==, 10);
    g_assert_cmpuint(f.closed, ==, 0);
    end(cd, &f);
    dup2(in, 0);
    dup2(out, 1);
    close(in);
    close(out);
    close(stdin_fds[0]);
    close(stdout_fds[0]);
    close(stdout_fds[1]);
}

struct reader {
    int fd;
    size_t got;
};

static gpointer read_all(gpointer opaque)
{
    struct reader *r = opaque;
    uint8_t buf[1000];
    ssize_t n;

    while ((n = read(r->fd, buf, sizeof(buf))) > 0)
        r->got += n;
    return NULL;
}

/* Nobody reads before the end begins; all that was taken arrives. */
static void the_end_waits_for_a_reader(void)
{
    static uint8_t sent[100000];
    g_autofree char *json = NULL;
    struct reader r = {0};
    struct front f;
    struct chardev *cd;
    GThread *thread;
    int fds[2];

    g_assert_cmpint(pipe(fds), ==, 0);
    json = g_strdup_printf("{\"backend\": \"fd\", \"fd\": %d}", fds[1]);
    cd = make(json, &f);
    run();
    g_assert_cmpuint(chardev_write(cd, sent, sizeof(sent)), ==, sizeof(sent));
    r.fd = fds[0];
    thread = g_thread_new("reader", read_all, &r);
    end(cd, &f);
    close(fds[1]);
    g_thread_join(thread);
    g_assert_cmpuint(r.got, ==, sizeof(sent));
    close(fds[0]);
}

static void pty_carries_both_ways(void)
{
    struct front f;
    struct chardev *cd = make("{\"backend\": \"pty\"}", &f);
    g_autofree char *name = chardev_describe(cd);
    int fd = open(name + strlen("pty:"), O_RDWR | O_NOCTTY | O_NONBLOCK);
    uint64_t end_ns = loop_now_ns() + UINT64_C(60000000000);
    ssize_t n = -1;
    char buf[8];

    g_assert_cmpint(fd, >=, 0);
    while (f.opened == 0 && loop_now_ns() < end_ns)
        loop_poll(loop, true);
    g_assert_cmpuint(f.opened, ==, 1);
    put(cd, "out\n");
    for (int i = 0; i < 60000 && (n = read(fd, buf, sizeof(buf))) < 0; i++)
        g_usleep(1000);
    g_assert_cmpint(n, ==, 4);
    g_assert_cmpint(write(fd, "in\r", 3), ==, 3);
    run_until(&f, 3, 0);
    g_assert_cmpstr(f.got->str, ==, "in\r");
    close(fd);
    run_until(&f, 3, 1);
    g_assert_cmpuint(f.closed, ==, 1);
    end(cd, &f);
}

static void one_front_end_at_a_time(void)
{
    struct front f;
    struct chardev *cd = make("{\"backend\": \"null\", \"id\": \"n\"}", &f);
    g_autoptr(GError) error = NULL;

    g_assert_false(chardev_attach(cd, &handlers, &f, &error));
    g_assert_cmpstr(error->message, ==, "chardev 'n' is already in use");
    g_assert_cmpuint(put(cd, "gone"), ==, 4);
    end(cd, &f);
}

int main(int argc, char **argv)
{
    int r;

    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    loop = loop_new(NULL, NULL);
    g_test_add_func("/chardev/bad_options_are_refused", bad_options_are_refused);
    g_test_add_func("/chardev/ringbuf_keeps_the_last_output",
                    ringbuf_keeps_the_last_output);
    g_test_add_func("/chardev/input_waits_until_the_front_end_has_room",
                    input_waits_until_the_front_end_has_room);
    g_test_add_func("/chardev/file_is_written_and_appended",
                    file_is_written_and_appended);
    g_test_add_func("/chardev/full_peer_pushes_back_and_loses_nothing",
                    full_peer_pushes_back_and_loses_nothing);
    g_test_add_func("/chardev/server_serves_one_client_after_another",
                    server_serves_one_client_after_another);
    g_test_add_func("/chardev/server_leaves_other_files_alone",
                    server_leaves_other_files_alone);
    g_test_add_func("/chardev/stdio_prints_after_the_end_of_its_input",
                    stdio_prints_after_the_end_of_its_input);
    g_test_add_func("/chardev/the_end_waits_for_a_reader", the_end_waits_for_a_reader);
    g_test_add_func("/chardev/stdio_makes_the_terminal_raw_and_has_leave_keys",
                    stdio_makes_the_terminal_raw_and_has_leave_keys);
    g_test_add_func("/chardev/pty_carries_both_ways", pty_carries_both_ways);
    g_test_add_func("/chardev/one_front_end_at_a_time", one_front_end_at_a_time);
    r = g_test_run();
    loop_free(loop);
    return r;
}
