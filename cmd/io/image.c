#include "cmd/io/io.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "cmd/describe.h"
#include "lib/base/base.h"

/* What concerns the image as a whole, and where its data is. */

int io_flush(struct io *io, int argc, char **argv)
{
    return blk_run(io->blk, BLK_FLUSH, 0, NULL, 0, 0, 0);
}

static bool parse_prealloc(const struct io *io, const char *text,
                           enum blk_prealloc *ret)
{
    static const struct {
        const char *name;
        enum blk_prealloc mode;
    } modes[] = {{"off", BLK_PREALLOC_OFF},
                 {"metadata", BLK_PREALLOC_METADATA},
                 {"falloc", BLK_PREALLOC_FALLOC},
                 {"full", BLK_PREALLOC_FULL}};
    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        if (g_str_equal(modes[i].name, text)) {
            *ret = modes[i].mode;
            return true;
        }
    }
    io_error(io, "Invalid preallocation mode '%s'", text);
    return false;
}

int io_truncate(struct io *io, int argc, char **argv)
{
    GError *error = NULL;
    enum blk_prealloc mode = BLK_PREALLOC_OFF;
    uint64_t length;
    for (int c; (c = getopt(argc, argv, "m:")) != -1;) {
        if (c == '?') {
            return io_command_usage(argv[0]);
        }
        if (!parse_prealloc(io, optarg, &mode)) {
            return -EINVAL;
        }
    }
    if (optind >= argc) {
        return io_command_usage(argv[0]);
    }
    if (!io_number(argv[optind], &length)) {
        return -EINVAL;
    }
    if (!blk_truncate(io->blk, length, mode, &error)) {
        io_report(io, error);
        return -EIO;
    }
    return 0;
}

int io_length(struct io *io, int argc, char **argv)
{
    g_autofree char *text = io_human((double)blk_length(io->blk));
    printf("%s\n", text);
    return 0;
}

/* Formats that qemu-io's users know nothing more of. */
static bool says_nothing(const struct blk *b)
{
    static const char *const drivers[] = {"parallels", "bochs",    "cloop", "dmg",
                                          "null-co",   "null-aio", "nbd",   NULL};
    return g_strv_contains(drivers, blk_get_driver_name(b));
}

int io_info(struct io *io, int argc, char **argv)
{
    GError *error = NULL;
    if (says_nothing(io->blk)) {
        printf("format name: %s\n", blk_get_driver_name(io->blk));
        return -ENOTSUP;
    }
    json_t *info = blk_info(io->blk, "", &error);
    if (!info) {
        io_report(io, error);
        return -EIO;
    }
    json_t *cluster = json_object_get(info, "cluster-size");
    g_autofree char *unit = io_human((double)json_integer_value(cluster));
    g_autofree char *state = io_human((double)blk_vmstate_offset(io->blk));
    printf("format name: %s\ncluster size: %s\nvm state offset: %s\n",
           blk_get_driver_name(io->blk), unit, state);
    json_t *data = json_object_get(json_object_get(info, "format-specific"), "data");
    if (data) {
        printf("Format specific information:\n");
        describe_members(data, 1);
    }
    json_decref(info);
    return 0;
}

/* ---- where data is --------------------------------------------------------------- */

static bool allocated(const struct blk_status *s)
{
    return (s->flags & BLK_STATUS_ALLOCATED) && s->depth == 0;
}

/* Whether the image itself has what is at @offset, and for how long alike. */
static int run_of(struct io *io, uint64_t offset, uint64_t len, bool *ret_have,
                  uint64_t *ret_len)
{
    uint64_t done = 0;
    while (done < len) {
        struct blk_status s;
        int r = blk_map_at(io->blk, offset + done, len - done, &s);
        if (r < 0) {
            return r;
        }
        if (done > 0 && allocated(&s) != *ret_have) {
            break;
        }
        *ret_have = allocated(&s);
        done += s.len;
    }
    *ret_len = done;
    return 0;
}

int io_alloc(struct io *io, int argc, char **argv)
{
    uint64_t offset, count = IO_SECTOR, sum = 0;
    if (!io_number(argv[1], &offset) || (argc > 2 && !io_number(argv[2], &count))) {
        return -EINVAL;
    }
    uint64_t length = blk_length(io->blk);
    count = MIN(count, length - MIN(length, offset));
    for (uint64_t at = offset, end = offset + count, n; at < end; at += n) {
        bool have = false;
        int r = run_of(io, at, end - at, &have, &n);
        if (r < 0) {
            printf("is_allocated failed: %s\n", g_strerror(-r));
            return r;
        }
        sum += have ? n : 0;
    }
    g_autofree char *where = io_human((double)offset);
    printf("%" PRIu64 "/%" PRIu64 " bytes allocated at offset %s\n", sum, count, where);
    return 0;
}

int io_map(struct io *io, int argc, char **argv)
{
    uint64_t length = blk_length(io->blk);
    for (uint64_t at = 0, n; at < length; at += n) {
        bool have = false;
        int r = run_of(io, at, length - at, &have, &n);
        if (r < 0) {
            io_error(io, "Failed to query allocation status: %s", g_strerror(-r));
            return r;
        }
        g_autofree char *size = io_human((double)n);
        g_autofree char *where = io_human((double)at);
        printf("%s (0x%" PRIx64 ") bytes %s allocated at offset %s (0x%" PRIx64 ")\n",
               size, n, have ? "   " : "not", where, at);
    }
    return 0;
}
