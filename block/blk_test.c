#include "block/blk.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/options.h"
#include "lib/base/base.h"

/* raw over file as a user sees it: opening, its errors, requests, statistics. */

struct rig {
    struct loop *loop;
    struct blk_open_args args;
    char *dir, *path;
    char *warned;
};

static void note_warning(void *opaque, const char *message)
{
    struct rig *r = opaque;
    g_free(r->warned);
    r->warned = g_strdup(message);
}

static void rig_up(struct rig *r, size_t image_bytes)
{
    *r = (struct rig){.loop = loop_new(NULL, NULL)};
    r->args =
        (struct blk_open_args){.loop = r->loop, .warn = note_warning, .opaque = r};
    r->dir = g_strdup("blk-test-XXXXXX");
    g_assert_nonnull(g_mkdtemp(r->dir));
    r->path = g_build_filename(r->dir, "disk.img", NULL);
    g_autofree char *bytes = g_malloc(image_bytes + 1);
    for (size_t i = 0; i < image_bytes; i++) {
        bytes[i] = (char)(i / 512 + 1);
    }
    g_assert_true(g_file_set_contents(r->path, bytes, (gssize)image_bytes, NULL));
}

static void rig_down(struct rig *r)
{
    g_unlink(r->path);
    g_assert_cmpint(g_rmdir(r->dir), ==, 0);
    loop_free(r->loop);
    g_free(r->dir);
    g_free(r->path);
    g_free(r->warned);
}

static struct blk *open_text(struct rig *r, const char *drive, GError **error)
{
    g_autofree char *text =
        g_strdup_printf("file=%s%s%s", r->path, *drive ? "," : "", drive);
    json_t *flat = blk_options_parse(text, NULL, NULL);
    json_t *tree = blk_options_from_drive(flat, error);
    struct blk *b = tree ? blk_open(&r->args, tree, error) : NULL;
    if (b) {
        g_assert_cmpuint(json_object_size(flat), ==, 0);
    }
    json_decref(flat);
    json_decref(tree);
    return b;
}

static struct blk *must_open(struct rig *r, const char *drive)
{
    GError *err = NULL;
    struct blk *b = open_text(r, drive, &err);
    g_assert_no_error(err);
    return b;
}

static void refuse(struct rig *r, const char *drive, const char *part)
{
    g_autoptr(GError) err = NULL;
    struct blk *b = open_text(r, drive, &err);
    g_assert_null(b);
    g_assert_nonnull(err);
    if (!strstr(err->message, part)) {
        g_test_message("%s: expected '%s' in: %s", drive, part, err->message);
        g_test_fail();
    }
}

static int wait_ret;
static bool wait_done;

static void note_ret(struct blk_req *req, int ret)
{
    wait_ret = ret;
    wait_done = true;
}

static int wait_for(struct rig *r)
{
    while (!wait_done) {
        loop_poll(r->loop, true);
    }
    wait_done = false;
    return wait_ret;
}

/* ---- requests ---- */

static void async_reads_and_writes(gconstpointer options)
{
    struct rig r;
    rig_up(&r, 8192);
    struct blk *b = must_open(&r, options);
    g_assert_cmpuint(blk_length(b), ==, 8192);
    uint8_t buf[1024];
    struct iovec iov[2] = {{buf, 100}, {buf + 100, 924}};
    struct blk_req req = {.done = note_ret};

    blk_preadv(b, &req, 512, iov, 2);
    g_assert_false(wait_done);
    g_assert_cmpint(wait_for(&r), ==, 0);
    g_assert_cmpuint(buf[0], ==, 2);
    g_assert_cmpuint(buf[1023], ==, 3);

    memset(buf, 0xab, sizeof(buf));
    blk_pwritev(b, &req, 4096, iov, 2, BLK_FUA);
    g_assert_cmpint(wait_for(&r), ==, 0);
    blk_flush(b, &req);
    g_assert_cmpint(wait_for(&r), ==, 0);
    memset(buf, 0, sizeof(buf));
    g_assert_cmpint(blk_pread(b, 4096, buf, 1024), ==, 0);
    g_assert_cmpuint(buf[0], ==, 0xab);
    g_assert_cmpuint(buf[1023], ==, 0xab);

    blk_write_zeroes(b, &req, 4608, 512, BLK_MAY_UNMAP);
    g_assert_cmpint(wait_for(&r), ==, 0);
    g_assert_cmpint(blk_pread(b, 4096, buf, 1024), ==, 0);
    g_assert_cmpuint(buf[511], ==, 0xab);
    g_assert_cmpuint(buf[512], ==, 0);
    g_assert_cmpuint(buf[1023], ==, 0);
    blk_unref(b);
    rig_down(&r);
}

static void requests_outside_or_malformed_fail(void)
{
    struct rig r;
    rig_up(&r, 1024);
    struct blk *b = must_open(&r, "format=raw");
    uint8_t buf[1024] = {0};
    struct iovec iov = {buf, 512};
    struct blk_req req = {.done = note_ret};
    static const uint64_t bad[] = {513,      1024, 1025, UINT64_MAX, UINT64_MAX - 511,
                                   INT64_MAX};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        blk_preadv(b, &req, bad[i], &iov, 1);
        g_assert_cmpint(wait_for(&r), ==, -EINVAL);
        blk_pwritev(b, &req, bad[i], &iov, 1, 0);
        g_assert_cmpint(wait_for(&r), ==, -EINVAL);
        blk_discard(b, &req, bad[i], 512);
        g_assert_cmpint(wait_for(&r), ==, -EINVAL);
        g_assert_cmpint(blk_pwrite(b, bad[i], buf, 512), ==, -EINVAL);
    }
    /* iov and len disagree */
    req.op = BLK_READ;
    req.offset = 0;
    req.len = 1024;
    req.iov = &iov;
    req.nb_iov = 1;
    blk_submit(b, &req);
    g_assert_cmpint(wait_for(&r), ==, -EINVAL);
    /* nothing at the very end is fine */
    blk_preadv(b, &req, 1024, NULL, 0);
    g_assert_cmpint(wait_for(&r), ==, 0);
    blk_unref(b);

    GStatBuf st;
    g_assert_cmpint(g_stat(r.path, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 1024);
    rig_down(&r);
}

static void read_only_is_never_written(void)
{
    struct rig r;
    rig_up(&r, 1024);
    g_assert_cmpint(g_chmod(r.path, 0400), ==, 0);
    struct blk *b = must_open(&r, "format=raw,readonly=on");
    g_assert_true(blk_read_only(b));
    uint8_t buf[512] = {0};
    g_assert_cmpint(blk_pwrite(b, 0, buf, 512), ==, -EROFS);
    struct iovec iov = {buf, 512};
    struct blk_req req = {.done = note_ret};
    blk_pwritev(b, &req, 0, &iov, 1, 0);
    g_assert_cmpint(wait_for(&r), ==, -EROFS);
    blk_write_zeroes(b, &req, 0, 512, 0);
    g_assert_cmpint(wait_for(&r), ==, -EROFS);
    blk_flush(b, &req);
    g_assert_cmpint(wait_for(&r), ==, 0);
    g_assert_cmpint(blk_pread(b, 0, buf, 512), ==, 0);
    g_assert_cmpuint(buf[0], ==, 1);
    blk_unref(b);
    rig_down(&r);
}

static void odd_size_is_rounded_up_with_zeros(gconstpointer options)
{
    struct rig r;
    rig_up(&r, 700);
    struct blk *b = must_open(&r, options);
    g_assert_cmpuint(blk_length(b), ==, 1024);
    uint8_t buf[512];
    memset(buf, 0xff, sizeof(buf));
    g_assert_cmpint(blk_pread(b, 512, buf, 512), ==, 0);
    g_assert_cmpuint(buf[187], ==, 2);
    g_assert_cmpuint(buf[188], ==, 0);
    g_assert_cmpuint(buf[511], ==, 0);
    memset(buf, 0x55, sizeof(buf));
    struct iovec iov = {buf, 512};
    struct blk_req req = {.done = note_ret};
    blk_pwritev(b, &req, 512, &iov, 1, 0);
    g_assert_cmpint(wait_for(&r), ==, 0);
    memset(buf, 0, sizeof(buf));
    blk_preadv(b, &req, 512, &iov, 1);
    g_assert_cmpint(wait_for(&r), ==, 0);
    g_assert_cmpuint(buf[511], ==, 0x55);
    blk_unref(b);
    rig_down(&r);
}

static void raw_offset_and_size_make_a_window(void)
{
    struct rig r;
    rig_up(&r, 8192);
    json_t *opts =
        json_pack("{s:s,s:s,s:i,s:{s:s,s:s}}", "driver", "raw", "offset", "1k", "size",
                  2048, "file", "driver", "file", "filename", r.path);
    GError *err = NULL;
    struct blk *b = blk_open(&r.args, opts, &err);
    g_assert_no_error(err);
    g_assert_cmpuint(blk_length(b), ==, 2048);
    uint8_t buf[2048];
    g_assert_cmpint(blk_pread(b, 0, buf, 2048), ==, 0);
    g_assert_cmpuint(buf[0], ==, 3);
    g_assert_cmpuint(buf[2047], ==, 6);
    g_assert_cmpint(blk_pread(b, 2048, buf, 1), ==, -EINVAL);
    struct blk_status st;
    g_assert_cmpint(blk_map_at(b, 512, 512, &st), ==, 0);
    g_assert_cmpuint(st.file_offset, ==, 1536);
    blk_unref(b);

    json_object_set_new(opts, "size", json_integer(7680));
    g_assert_null(blk_open(&r.args, opts, &err));
    g_assert_nonnull(strstr(err->message, "containing file"));
    g_clear_error(&err);
    json_object_set_new(opts, "offset", json_string("9k"));
    g_assert_null(blk_open(&r.args, opts, &err));
    g_assert_nonnull(strstr(err->message, "containing file"));
    g_clear_error(&err);
    json_decref(opts);
    rig_down(&r);
}

static void discard_and_detect_zeroes_follow_options(void)
{
    struct rig r;
    GStatBuf before, after;
    rig_up(&r, MIB);
    g_autofree uint8_t *zeros = g_malloc0(512 * KIB);
    struct iovec iov = {zeros, 512 * KIB};
    struct blk_req req = {.done = note_ret};
    g_stat(r.path, &before);

    struct blk *b = must_open(&r, "format=raw"); /* discard=ignore, detect off */
    blk_discard(b, &req, 0, 512 * KIB);
    g_assert_cmpint(wait_for(&r), ==, 0);
    uint8_t c;
    g_assert_cmpint(blk_pread(b, 0, &c, 1), ==, 0);
    g_assert_cmpuint(c, ==, 1);
    blk_unref(b);

    b = must_open(&r, "format=raw,discard=unmap");
    blk_discard(b, &req, 0, 256 * KIB);
    g_assert_cmpint(wait_for(&r), ==, 0);
    g_stat(r.path, &after);
    g_assert_cmpint(before.st_blocks - after.st_blocks, >=, 500);
    struct blk_status st;
    g_assert_cmpint(blk_map_at(b, 0, MIB, &st), ==, 0);
    g_assert_cmpuint(st.flags & BLK_STATUS_ZERO, !=, 0);
    g_assert_cmpuint(st.len, ==, 256 * KIB);
    g_assert_cmpint(blk_map_at(b, 256 * KIB, MIB - 256 * KIB, &st), ==, 0);
    g_assert_cmpuint(st.flags & BLK_STATUS_DATA, !=, 0);
    g_assert_cmpuint(st.file_offset, ==, 256 * KIB);
    blk_unref(b);

    b = must_open(&r, "format=raw,discard=unmap,detect-zeroes=unmap");
    blk_pwritev(b, &req, 512 * KIB, &iov, 1, 0);
    g_assert_cmpint(wait_for(&r), ==, 0);
    GStatBuf last;
    g_stat(r.path, &last);
    g_assert_cmpint(after.st_blocks - last.st_blocks, >=, 1000);
    g_assert_cmpint(blk_pread(b, 512 * KIB, &c, 1), ==, 0);
    g_assert_cmpuint(c, ==, 0);
    /* It was a write all the same. */
    struct blk_stats stats;
    blk_get_stats(b, &stats);
    g_assert_cmpuint(stats.ops[BLK_WRITE], ==, 1);
    g_assert_cmpuint(stats.ops[BLK_ZERO], ==, 0);
    g_assert_cmpuint(stats.bytes[BLK_WRITE], ==, 512 * KIB);
    g_assert_cmpuint(stats.in_flight, ==, 0);
    blk_unref(b);
    rig_down(&r);
}

/* ---- opening ---- */

static void opening_errors_name_the_thing(void)
{
    struct rig r;
    rig_up(&r, 1024);
    refuse(&r, "format=rwa", "did you mean 'raw'");
    refuse(&r, "format=raw,file.locknig=on", "did you mean 'locking'");
    refuse(&r, "format=raw,discard=unmpa", "Invalid discard option");
    refuse(&r, "format=raw,cache=nnoe", "did you mean 'none'");
    refuse(&r, "format=raw,aio=native", "aio=native");
    refuse(&r, "format=raw,readonly=perhaps", "expects 'on' or 'off'");
    refuse(&r, "format=raw,detect-zeroes=unmap", "needs discard=unmap");
    refuse(&r, "format=raw,force-share=on", "read-only");
    refuse(&r, "format=raw,snapshot=on", "snapshot=on");
    refuse(&r, "format=raw,file.driver=fiel", "did you mean 'file'");
    refuse(&r, "format=raw,file.driver=fault", "doesn't support the option");
    refuse(&r, "readonly=perhaps", "expects 'on' or 'off'");

    g_autofree char *image = g_steal_pointer(&r.path);
    r.path = g_build_filename(r.dir, "absent.img", NULL);
    refuse(&r, "format=raw", "absent.img': No such file");
    refuse(&r, "", "absent.img': No such file");
    g_free(r.path);
    r.path = g_strdup(r.dir);
    refuse(&r, "format=raw", "Is a directory");
    refuse(&r, "format=raw,readonly=on", "to be a regular file");
    g_free(r.path);
    r.path = g_build_filename(r.dir, "fifo", NULL);
    g_assert_cmpint(mkfifo(r.path, 0600), ==, 0);
    refuse(&r, "format=raw", "to be a regular file");
    g_unlink(r.path);
    g_free(r.path);
    r.path = g_steal_pointer(&image);
    rig_down(&r);
}

static void unreadable_and_unwritable_files_are_refused(void)
{
    struct rig r;
    int here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    g_assert_cmpint(chdir(g_get_tmp_dir()), ==, 0);
    if (geteuid() == 0) {
        /* Root may do everything; be somebody else for a while. */
        g_assert_cmpint(seteuid(65534), ==, 0);
    }
    rig_up(&r, 1024);
    g_chmod(r.path, 0400);
    refuse(&r, "format=raw", "Permission denied");
    g_chmod(r.path, 0);
    refuse(&r, "format=raw,readonly=on", "Permission denied");
    rig_down(&r);
    if (getuid() == 0) {
        g_assert_cmpint(seteuid(0), ==, 0);
    }
    g_assert_cmpint(fchdir(here), ==, 0);
    close(here);
}

static void descriptors_serve_like_paths(void)
{
    struct rig r;
    rig_up(&r, 1024);
    GError *err = NULL;
    int fd = open(r.path, O_RDWR | O_CLOEXEC);
    struct blk *b = blk_open_fd(&r.args, fd, "raw", false, &err);
    g_assert_no_error(err);
    close(fd);
    uint8_t c;
    g_assert_cmpint(blk_pread(b, 512, &c, 1), ==, 0);
    g_assert_cmpuint(c, ==, 2);
    blk_unref(b);

    fd = open(r.path, O_RDONLY | O_CLOEXEC);
    g_assert_null(blk_open_fd(&r.args, fd, "raw", false, &err));
    g_assert_nonnull(strstr(err->message, "is open read-only"));
    g_clear_error(&err);
    b = blk_open_fd(&r.args, fd, "raw", true, &err);
    g_assert_no_error(err);
    blk_unref(b);
    close(fd);
    g_assert_null(blk_open_fd(&r.args, fd, "raw", true, &err));
    g_assert_nonnull(strstr(err->message, "not an open file descriptor"));
    g_clear_error(&err);
    rig_down(&r);
}

static void probing_warns_and_guards_the_header(void)
{
    struct rig r;
    rig_up(&r, 8192);
    struct blk *b = must_open(&r, "");
    g_assert_nonnull(r.warned);
    g_assert_nonnull(strstr(r.warned, "probing guessed raw"));
    g_assert_cmpstr(blk_get_driver_name(b), ==, "raw");
    uint8_t buf[4096] = "QFI\xfb";
    struct iovec iov[2] = {{buf, 2}, {buf + 2, 510}};
    struct blk_req req = {.done = note_ret};
    blk_pwritev(b, &req, 0, iov, 2, 0);
    g_assert_cmpint(wait_for(&r), ==, -EPERM);
    g_assert_cmpint(blk_pwrite(b, 0, buf, 4096), ==, -EPERM);
    /* Nor in two halves. */
    g_assert_cmpint(blk_pwrite(b, 0, buf, 2), ==, 0);
    g_assert_cmpint(blk_pwrite(b, 2, buf + 2, 2), ==, -EPERM);
    g_assert_cmpint(blk_pwrite(b, 512, buf, 512), ==, 0);
    blk_unref(b);

    b = must_open(&r, "format=raw");
    g_assert_cmpint(blk_pwrite(b, 0, buf, 512), ==, 0);
    blk_unref(b);
    refuse(&r, "", "is a qcow image");
    rig_down(&r);
}

static struct blk *find_disk(void *opaque, const char *name)
{
    return g_str_equal(name, "f0") ? *(struct blk **)opaque : NULL;
}

static void nodes_by_name_become_children(void)
{
    struct rig r;
    rig_up(&r, 8192);
    GError *err = NULL;
    struct blk *file = NULL;
    r.args.find_node = find_disk;
    r.args.opaque = &file;
    r.args.warn = NULL;
    g_autofree char *text =
        g_strdup_printf("driver=file,node-name=f0,filename=%s,aio=threads", r.path);
    json_t *opts = blk_options_from_blockdev(text, &err);
    file = blk_open(&r.args, opts, &err);
    g_assert_no_error(err);
    json_decref(opts);
    opts = blk_options_from_blockdev(
        "{\"driver\": \"raw\", \"node-name\": \"d0\", \"file\": \"f0\"}", &err);
    struct blk *b = blk_open(&r.args, opts, &err);
    g_assert_no_error(err);
    json_decref(opts);
    g_assert_true(blk_get_child(b, "file") == file);
    g_assert_cmpstr(blk_get_node_name(b), ==, "d0");
    blk_unref(file); /* the parent keeps it */
    uint8_t c;
    g_assert_cmpint(blk_pread(b, 0, &c, 1), ==, 0);
    blk_unref(b);

    opts = json_pack("{s:s,s:s}", "driver", "raw", "file", "f1");
    g_assert_null(blk_open(&r.args, opts, &err));
    g_assert_nonnull(strstr(err->message, "f1"));
    g_clear_error(&err);
    json_decref(opts);
    rig_down(&r);
}

static void truncate_grows_and_shrinks(void)
{
    struct rig r;
    rig_up(&r, 1024);
    GError *err = NULL;
    struct blk *b = must_open(&r, "format=raw");
    g_assert_false(blk_truncate(b, 4096, BLK_PREALLOC_OFF, &err));
    g_assert_nonnull(strstr(err->message, "not opened to be resized"));
    g_clear_error(&err);
    struct blk_perms perms = blk_perms_guest(false, false);
    perms.used |= BLK_PERM_RESIZE;
    g_assert_true(blk_set_perms(b, &perms, &err));
    g_assert_true(blk_truncate(b, 4095, BLK_PREALLOC_OFF, &err)); /* a raw file may */
    g_assert_cmpuint(blk_length(b), ==, 4096);
    g_assert_true(blk_truncate(b, 4096, BLK_PREALLOC_FULL, &err));
    g_assert_cmpuint(blk_length(b), ==, 4096);
    uint8_t c = 1;
    g_assert_cmpint(blk_pread(b, 4095, &c, 1), ==, 0);
    g_assert_cmpuint(c, ==, 0);
    g_assert_true(blk_truncate(b, 512, BLK_PREALLOC_OFF, &err));
    g_assert_cmpint(blk_pread(b, 512, &c, 1), ==, -EINVAL);
    blk_unref(b);
    GStatBuf st;
    g_stat(r.path, &st);
    g_assert_cmpint(st.st_size, ==, 512);
    rig_down(&r);
}

/* ---- faults ---- */

static struct blk *open_fault(struct rig *r, const char *rule)
{
    g_autofree char *text = g_strdup_printf(
        "driver=raw,file.driver=fault,%s,file.file.driver=file,file.file.filename=%s",
        rule, r->path);
    GError *err = NULL;
    json_t *opts = blk_options_from_blockdev(text, &err);
    g_assert_no_error(err);
    struct blk *b = blk_open(&r->args, opts, &err);
    g_assert_no_error(err);
    json_decref(opts);
    return b;
}

static void faults_reach_the_completion_and_pass(gconstpointer unused)
{
    struct rig r;
    rig_up(&r, 8192);
    uint8_t buf[512];
    memset(buf, 0x77, 512);
    struct iovec iov = {buf, 512};
    struct blk_req req[5];
    struct blk *b = open_fault(&r, "file.op=write,file.after=3,file.errno=ENOSPC");
    int ret[5];
    for (unsigned i = 0; i < 5; i++) {
        req[i].done = note_ret;
        blk_pwritev(b, &req[i], i * 512, &iov, 1, 0);
        ret[i] = wait_for(&r);
    }
    for (unsigned i = 0; i < 5; i++) {
        g_assert_cmpint(ret[i], ==, i == 2 ? -ENOSPC : 0);
    }
    uint8_t back[2560];
    g_assert_cmpint(blk_pread(b, 0, back, 2560), ==, 0);
    g_assert_cmpuint(back[512], ==, 0x77);
    g_assert_cmpuint(back[1024], ==, 3); /* the failed one changed nothing */
    g_assert_cmpuint(back[1536], ==, 0x77);
    struct blk_stats st;
    blk_get_stats(b, &st);
    g_assert_cmpuint(st.ops[BLK_WRITE], ==, 4);
    g_assert_cmpuint(st.failed[BLK_WRITE], ==, 1);
    blk_unref(b);

    b = open_fault(&r, "file.op=flush,file.times=0,file.errno=EIO");
    for (unsigned i = 0; i < 2; i++) {
        blk_flush(b, &req[0]);
        g_assert_cmpint(wait_for(&r), ==, -EIO);
    }
    blk_preadv(b, &req[0], 0, &iov, 1);
    g_assert_cmpint(wait_for(&r), ==, 0);
    blk_unref(b);
    rig_down(&r);
}

/* A protocol that cannot zero or discard: zeros are written, discards let be. */
static void unsupported_zeroes_are_written(void)
{
    struct rig r;
    rig_up(&r, 3 * MIB);
    struct blk *b = open_fault(&r, "file.op=zero,file.times=0,file.errno=ENOTSUP");
    struct blk_req req = {.done = note_ret};
    blk_write_zeroes(b, &req, 1000, 2 * MIB + 24, 0);
    g_assert_cmpint(wait_for(&r), ==, 0);
    uint8_t c[2];
    g_assert_cmpint(blk_pread(b, 999, c, 2), ==, 0);
    g_assert_cmpuint(c[0], ==, 2);
    g_assert_cmpuint(c[1], ==, 0);
    g_assert_cmpint(blk_pread(b, 2 * MIB + 1023, c, 2), ==, 0);
    g_assert_cmpuint(c[0], ==, 0);
    g_assert_cmpuint(c[1], ==, (2 * MIB + 1024) / 512 % 256 + 1);
    blk_unref(b);
    b = open_fault(&r, "file.op=discard,file.times=0,file.errno=ENOTSUP");
    blk_discard(b, &req, 0, 4096);
    g_assert_cmpint(wait_for(&r), ==, 0);
    blk_unref(b);
    rig_down(&r);
}

/* Closing in a completion, with others in flight, waits for them. */
struct closing {
    struct blk *blk;
    unsigned done;
};

static struct closing closing;

static void count_done(struct blk_req *req, int ret)
{
    closing.done++;
}

static void close_done(struct blk_req *req, int ret)
{
    closing.done++;
    blk_unref(g_steal_pointer(&closing.blk));
}

static void close_in_completion_waits_for_the_rest(void)
{
    struct rig r;
    rig_up(&r, 8192);
    closing = (struct closing){.blk = must_open(&r, "format=raw")};
    struct blk_req req[8];
    uint8_t buf[8][512];
    struct iovec iov[8];
    for (unsigned i = 0; i < 8; i++) {
        iov[i] = (struct iovec){buf[i], 512};
        req[i].done = i == 2 ? close_done : count_done;
        if (i % 2) {
            blk_preadv(closing.blk, &req[i], i * 512, &iov[i], 1);
        } else {
            blk_discard(closing.blk, &req[i], i * 512, 512); /* ignored: at once */
        }
    }
    while (closing.done < 8) {
        loop_poll(r.loop, true);
    }
    g_assert_null(closing.blk);
    rig_down(&r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/blk/async_reads_and_writes/auto", "format=raw",
                         async_reads_and_writes);
    g_test_add_data_func("/blk/async_reads_and_writes/threads",
                         "format=raw,aio=threads", async_reads_and_writes);
    g_test_add_data_func("/blk/async_reads_and_writes/direct", "format=raw,cache=none",
                         async_reads_and_writes);
    g_test_add_data_func("/blk/async_reads_and_writes/writethrough",
                         "format=raw,cache=writethrough", async_reads_and_writes);
    g_test_add_data_func("/blk/async_reads_and_writes/directsync",
                         "format=raw,cache=directsync", async_reads_and_writes);
    g_test_add_data_func("/blk/async_reads_and_writes/unsafe",
                         "format=raw,cache=unsafe", async_reads_and_writes);
    g_test_add_func("/blk/requests_outside_or_malformed_fail",
                    requests_outside_or_malformed_fail);
    g_test_add_func("/blk/read_only_is_never_written", read_only_is_never_written);
    g_test_add_data_func("/blk/odd_size_is_rounded_up/auto", "format=raw",
                         odd_size_is_rounded_up_with_zeros);
    g_test_add_data_func("/blk/odd_size_is_rounded_up/direct", "format=raw,cache=none",
                         odd_size_is_rounded_up_with_zeros);
    g_test_add_func("/blk/raw_offset_and_size_make_a_window",
                    raw_offset_and_size_make_a_window);
    g_test_add_func("/blk/discard_and_detect_zeroes_follow_options",
                    discard_and_detect_zeroes_follow_options);
    g_test_add_func("/blk/opening_errors_name_the_thing",
                    opening_errors_name_the_thing);
    g_test_add_func("/blk/unreadable_and_unwritable_files_are_refused",
                    unreadable_and_unwritable_files_are_refused);
    g_test_add_func("/blk/descriptors_serve_like_paths", descriptors_serve_like_paths);
    g_test_add_func("/blk/probing_warns_and_guards_the_header",
                    probing_warns_and_guards_the_header);
    g_test_add_func("/blk/nodes_by_name_become_children",
                    nodes_by_name_become_children);
    g_test_add_func("/blk/truncate_grows_and_shrinks", truncate_grows_and_shrinks);
    g_test_add_data_func("/blk/faults_reach_the_completion_and_pass", NULL,
                         faults_reach_the_completion_and_pass);
    g_test_add_func("/blk/unsupported_zeroes_are_written",
                    unsupported_zeroes_are_written);
    g_test_add_func("/blk/close_in_completion_waits_for_the_rest",
                    close_in_completion_waits_for_the_rest);
    return g_test_run();
}
