#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block/blk.h"
#include "lib/base/base.h"

/*
 * Image locks against their other speaker: the real qemu-io, qemu-img and qemu-nbd, in
 * both directions, and two Lodges against each other.
 */

struct rig {
    struct loop *loop;
    struct blk_open_args args;
    char *dir, *path;
    bool skip;
};

static void rig_up(struct rig *r)
{
    *r = (struct rig){.loop = loop_new(NULL, NULL)};
    r->args.loop = r->loop;
    r->dir = g_strdup("lock-test-XXXXXX");
    g_assert_nonnull(g_mkdtemp(r->dir));
    r->path = g_build_filename(r->dir, "disk.img", NULL);
    g_autofree char *zeros = g_malloc0(65536);
    g_assert_true(g_file_set_contents(r->path, zeros, 65536, NULL));
}

static void rig_down(struct rig *r)
{
    g_unlink(r->path);
    g_rmdir(r->dir);
    loop_free(r->loop);
    g_free(r->dir);
    g_free(r->path);
}

static bool have(const char *program)
{
    g_autofree char *path = g_find_program_in_path(program);
    if (!path) {
        g_autofree char *why = g_strdup_printf("%s is not installed", program);
        g_test_skip(why);
    }
    return path != NULL;
}

static struct blk *open_with(struct rig *r, bool read_only, bool share_rw,
                             GError **error)
{
    struct blk_perms perms = blk_perms_guest(read_only, share_rw);
    struct blk_open_args args = r->args;
    args.perms = &perms;
    return blk_open_path(&args, r->path, "raw", read_only, error);
}

static struct blk *must_open(struct rig *r, bool read_only, bool share_rw)
{
    GError *err = NULL;
    struct blk *b = open_with(r, read_only, share_rw, &err);
    g_assert_no_error(err);
    return b;
}

static void must_not_open(struct rig *r, bool read_only, bool share_rw,
                          const char *lock)
{
    g_autoptr(GError) err = NULL;
    g_assert_null(open_with(r, read_only, share_rw, &err));
    g_autofree char *want = g_strdup_printf(
        "Failed to get %s lock\nIs another process using the image [%s]?", lock,
        r->path);
    g_assert_cmpstr(err->message, ==, want);
}

/* Run a program to its end; whether it succeeded. Its stderr in *ret_err if wanted. */
static bool run(const char *const *argv, char **ret_err)
{
    int status = 0;
    g_autofree char *err = NULL;
    GError *error = NULL;
    g_spawn_sync(NULL, (char **)argv, NULL,
                 G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL, NULL, NULL, NULL,
                 &err, &status, &error);
    g_assert_no_error(error);
    if (ret_err) {
        *ret_err = g_steal_pointer(&err);
    }
    return g_spawn_check_wait_status(status, NULL);
}

static bool qemu_io_can(struct rig *r, const char *mode, const char *command)
{
    const char *argv[] = {"qemu-io", "-f", "raw", "-c", command, r->path, mode, NULL};
    g_autofree char *err = NULL;
    bool ok = run(argv, &err);
    if (!ok) {
        g_assert_nonnull(strstr(err, "lock"));
        g_assert_nonnull(strstr(err, "Is another process using the image"));
    }
    return ok;
}

/* A failing test leaves nobody behind. */
static void die_with_parent(gpointer unused)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* A QEMU program that holds the image until it is told to stop. */
struct holder {
    GPid pid;
    int in, out;
};

static void wait_for_text(int fd, const char *text)
{
    GString *seen = g_string_new(NULL);
    char c;
    while (!strstr(seen->str, text)) {
        ssize_t n = read(fd, &c, 1);
        g_assert_cmpint(n, ==, 1);
        g_string_append_c(seen, c);
    }
    g_string_free(seen, TRUE);
}

/* Start a program; once it answers @question, which it does when it is up, go on. */
static void hold(struct holder *h, const char *const *argv, const char *question,
                 const char *answer)
{
    GError *err = NULL;
    g_spawn_async_with_pipes(
        NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD,
        die_with_parent, NULL, &h->pid, &h->in, &h->out, NULL, &err);
    g_assert_no_error(err);
    g_assert_cmpint(write(h->in, question, strlen(question)), ==, strlen(question));
    wait_for_text(h->out, answer);
}

static void let_go(struct holder *h)
{
    close(h->in);
    kill(h->pid, SIGTERM);
    waitpid(h->pid, NULL, 0);
    g_spawn_close_pid(h->pid);
    close(h->out);
}

/* qemu-io lets others do anything; a guest's disk lets nobody else write. */
static void hold_as_qemu_io(struct rig *r, struct holder *h, const char *mode)
{
    const char *argv[] = {"qemu-io", "-f", "raw", r->path, mode, NULL};
    hold(h, argv, "length\n", "64 KiB");
}

static void hold_as_guest(struct rig *r, struct holder *h, const char *drive,
                          const char *device)
{
    g_autofree char *text =
        g_strdup_printf("file=%s,format=raw,if=none,id=d%s", r->path, drive);
    const char *argv[] = {"qemu-system-x86_64",
                          "-accel",
                          "tcg",
                          "-S",
                          "-nodefaults",
                          "-display",
                          "none",
                          "-monitor",
                          "stdio",
                          "-drive",
                          text,
                          "-device",
                          device,
                          NULL};
    hold(h, argv, "info status\n", "VM status");
}

static bool qemu_guest_can(struct rig *r, const char *device)
{
    g_autofree char *text = g_strdup_printf("file=%s,format=raw,if=none,id=d", r->path);
    const char *argv[] = {"qemu-system-x86_64",
                          "-accel",
                          "tcg",
                          "-S",
                          "-nodefaults",
                          "-display",
                          "none",
                          "-drive",
                          text,
                          "-device",
                          device,
                          "-device",
                          "no-such-device",
                          NULL};
    g_autofree char *err = NULL;
    /* It ends at the second device; the question is whether at the first. */
    g_assert_false(run(argv, &err));
    bool locked = strstr(err, "Is another process using the image") != NULL;
    g_assert_true(locked || strstr(err, "no-such-device"));
    return !locked;
}

/* ---- Lodge and Lodge ---- */

static void one_writer_or_many_readers(void)
{
    struct rig r;
    rig_up(&r);
    struct blk *a = must_open(&r, false, false);
    must_not_open(&r, false, false, "\"write\"");
    must_not_open(&r, true, false, "shared \"write\"");
    blk_unref(a);
    a = must_open(&r, true, false);
    struct blk *b = must_open(&r, true, false);
    must_not_open(&r, false, false, "\"write\"");
    blk_unref(a);
    must_not_open(&r, false, true, "\"write\"");
    blk_unref(b);
    a = must_open(&r, false, false);
    blk_unref(a);
    rig_down(&r);
}

static void share_rw_lets_writers_share(void)
{
    struct rig r;
    rig_up(&r);
    struct blk *a = must_open(&r, false, true);
    struct blk *b = must_open(&r, false, true);
    must_not_open(&r, false, false, "shared \"write\"");
    blk_unref(b);
    blk_unref(a);
    rig_down(&r);
}

static void locking_off_and_force_share_ask_nobody(void)
{
    struct rig r;
    rig_up(&r);
    struct blk *a = must_open(&r, false, false);
    GError *err = NULL;
    json_t *o = json_pack("{s:s,s:{s:s,s:s,s:s}}", "driver", "raw", "file", "driver",
                          "file", "filename", r.path, "locking", "off");
    struct blk *b = blk_open(&r.args, o, &err);
    g_assert_no_error(err);
    blk_unref(b);
    json_decref(o);
    o = json_pack("{s:s,s:b,s:b,s:{s:s,s:s}}", "driver", "raw", "read-only", 1,
                  "force-share", 1, "file", "driver", "file", "filename", r.path);
    b = blk_open(&r.args, o, &err);
    g_assert_no_error(err);
    blk_unref(b);
    json_decref(o);
    must_not_open(&r, false, false,
                  "\"write\""); /* the first one's locks still stand */
    blk_unref(a);
    rig_down(&r);
}

static void changing_permissions_keeps_the_old_on_failure(void)
{
    struct rig r;
    rig_up(&r);
    struct blk *a = must_open(&r, false, true);
    struct blk *b = must_open(&r, false, true);
    struct blk_perms alone = blk_perms_guest(false, false);
    GError *err = NULL;
    g_assert_false(blk_set_perms(b, &alone, &err));
    g_assert_nonnull(strstr(err->message, "shared \"write\""));
    g_clear_error(&err);
    struct blk *c = must_open(&r, false, true); /* nothing of the attempt was left */
    blk_unref(c);
    blk_unref(a);
    g_assert_true(blk_set_perms(b, &alone, &err));
    must_not_open(&r, false, true, "\"write\"");
    blk_unref(b);
    rig_down(&r);
}

static void a_refused_open_leaves_no_lock(void)
{
    struct rig r;
    rig_up(&r);
    struct blk *a = must_open(&r, true, false);
    must_not_open(&r, false, false, "\"write\"");
    struct blk *b = must_open(&r, true, false);
    blk_unref(a);
    blk_unref(b);
    a = must_open(&r, false, false);
    blk_unref(a);
    rig_down(&r);
}

/* ---- Lodge holds, QEMU asks ---- */

static void qemu_refuses_what_lodge_holds(void)
{
    struct rig r;
    if (!have("qemu-io")) {
        return;
    }
    rig_up(&r);
    const char *info[] = {"qemu-img", "info", "-f", "raw", r.path, NULL};
    const char *resize[] = {"qemu-img", "resize", "-f", "raw", r.path, "+512", NULL};
    struct blk *b = must_open(&r, false, false);
    g_assert_false(qemu_io_can(&r, NULL, "write 0 512"));
    g_assert_true(
        qemu_io_can(&r, "-r", "read 0 512")); /* qemu-io -r lets others write */
    g_assert_true(run(info, NULL));
    g_assert_false(run(resize, NULL));
    blk_unref(b);

    b = must_open(&r, true, false);
    g_assert_false(qemu_io_can(&r, NULL, "write 0 512"));
    g_assert_true(qemu_io_can(&r, "-r", "read 0 512"));
    blk_unref(b);

    b = must_open(&r, false, true);
    g_assert_true(qemu_io_can(&r, NULL, "write 0 512"));
    blk_unref(b);
    g_assert_true(qemu_io_can(&r, NULL, "write 0 512"));
    g_assert_true(run(resize, NULL));
    rig_down(&r);
}

/* ---- QEMU holds, Lodge asks ---- */

static void lodge_refuses_what_qemu_holds(void)
{
    struct rig r;
    struct holder h;
    if (!have("qemu-system-x86_64")) {
        return;
    }
    rig_up(&r);
    hold_as_guest(&r, &h, "", "virtio-blk-pci,drive=d");
    must_not_open(&r, false, false, "\"write\"");
    must_not_open(&r, false, true, "\"write\"");
    must_not_open(&r, true, false, "shared \"write\"");
    let_go(&h);

    hold_as_guest(&r, &h, ",readonly=on", "virtio-blk-pci,drive=d");
    must_not_open(&r, false, false, "\"write\"");
    blk_unref(must_open(&r, true, false)); /* two readers */
    let_go(&h);

    hold_as_guest(&r, &h, "", "virtio-blk-pci,drive=d,share-rw=on");
    must_not_open(&r, false, false, "shared \"write\"");
    blk_unref(must_open(&r, false, true)); /* two that share */
    let_go(&h);
    rig_down(&r);
}

static void qemu_guest_refuses_what_lodge_holds(void)
{
    struct rig r;
    if (!have("qemu-system-x86_64")) {
        return;
    }
    rig_up(&r);
    struct blk *b = must_open(&r, false, false);
    g_assert_false(qemu_guest_can(&r, "virtio-blk-pci,drive=d"));
    g_assert_false(qemu_guest_can(&r, "virtio-blk-pci,drive=d,share-rw=on"));
    blk_unref(b);
    b = must_open(&r, false, true);
    g_assert_false(qemu_guest_can(&r, "virtio-blk-pci,drive=d"));
    g_assert_true(qemu_guest_can(&r, "virtio-blk-pci,drive=d,share-rw=on"));
    blk_unref(b);
    g_assert_true(qemu_guest_can(&r, "virtio-blk-pci,drive=d"));
    rig_down(&r);
}

/* qemu-nbd lets others write, but not change the size. */
static void lodge_meets_qemu_nbd(void)
{
    struct rig r;
    struct holder h = {.in = -1, .out = -1};
    if (!have("qemu-nbd")) {
        return;
    }
    rig_up(&r);
    /* Not below the current directory: a socket's path is at most 107 bytes long. */
    g_autofree char *short_dir = g_dir_make_tmp("lock-XXXXXX", NULL);
    g_autofree char *full = g_build_filename(short_dir, "s", NULL);
    g_autofree char *pid = g_build_filename(r.dir, "pid", NULL);
    const char *argv[] = {"qemu-nbd", "-f",         "raw", "-t",   "-k",
                          full,       "--pid-file", pid,   r.path, NULL};
    GError *err = NULL;
    g_spawn_async(NULL, (char **)argv, NULL,
                  G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, die_with_parent,
                  NULL, &h.pid, &err);
    g_assert_no_error(err);
    for (unsigned i = 0; !g_file_test(pid, G_FILE_TEST_EXISTS); i++) {
        g_assert_cmpuint(i, <, 30000);
        g_assert_cmpint(waitpid(h.pid, NULL, WNOHANG), ==, 0);
        g_usleep(2000);
    }
    must_not_open(&r, false, false, "shared \"write\"");
    struct blk *b = must_open(&r, false, true);
    struct blk_perms resize = blk_perms_guest(false, true);
    resize.used |= BLK_PERM_RESIZE;
    g_assert_false(blk_set_perms(b, &resize, &err));
    g_assert_nonnull(strstr(err->message, "Failed to get \"resize\" lock"));
    g_clear_error(&err);
    blk_unref(b);
    /* Not SIGTERM: between its pid file and its main loop qemu-nbd forgets it. */
    kill(h.pid, SIGKILL);
    waitpid(h.pid, NULL, 0);
    g_spawn_close_pid(h.pid);
    g_unlink(full);
    g_rmdir(short_dir);
    g_unlink(pid);
    rig_down(&r);
}

static void lodge_meets_qemu_io(void)
{
    struct rig r;
    struct holder h;
    if (!have("qemu-io")) {
        return;
    }
    rig_up(&r);
    hold_as_qemu_io(&r, &h, NULL);
    /* It writes and lets others write: who forbids writing cannot come in. */
    must_not_open(&r, false, false, "shared \"write\"");
    must_not_open(&r, true, false, "shared \"write\"");
    struct blk *b = must_open(&r, false, true);
    blk_unref(b);
    let_go(&h);

    hold_as_qemu_io(&r, &h, "-r");
    b = must_open(&r, true, false);
    blk_unref(b);
    b = must_open(&r, false, false);
    blk_unref(b);
    let_go(&h);
    rig_down(&r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/lock/one_writer_or_many_readers", one_writer_or_many_readers);
    g_test_add_func("/lock/share_rw_lets_writers_share", share_rw_lets_writers_share);
    g_test_add_func("/lock/locking_off_and_force_share_ask_nobody",
                    locking_off_and_force_share_ask_nobody);
    g_test_add_func("/lock/changing_permissions_keeps_the_old_on_failure",
                    changing_permissions_keeps_the_old_on_failure);
    g_test_add_func("/lock/a_refused_open_leaves_no_lock",
                    a_refused_open_leaves_no_lock);
    g_test_add_func("/lock/qemu_refuses_what_lodge_holds",
                    qemu_refuses_what_lodge_holds);
    g_test_add_func("/lock/lodge_refuses_what_qemu_holds",
                    lodge_refuses_what_qemu_holds);
    g_test_add_func("/lock/qemu_guest_refuses_what_lodge_holds",
                    qemu_guest_refuses_what_lodge_holds);
    g_test_add_func("/lock/lodge_meets_qemu_io", lodge_meets_qemu_io);
    g_test_add_func("/lock/lodge_meets_qemu_nbd", lodge_meets_qemu_nbd);
    return g_test_run();
}
