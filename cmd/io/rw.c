#include "cmd/io/io.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/base.h"

/* Reading, writing and discarding, one request after the other. */

/* What the letters behind a command said. */
struct rw {
    bool zero, unmap, no_fallback, compress, fua, vmstate;
    bool quiet, machine, dump;
    const char *source;       /* -s of write: a file with the pattern */
    int pattern;              /* -1: none */
    bool have_from, have_len; /* of what -P compares */
    uint64_t from, len;
};

static bool rw_letter(struct rw *w, int letter, bool writing)
{
    switch (letter) {
    case 'b': w->vmstate = true; return true;
    case 'c': w->compress = true; return true;
    case 'C': w->machine = true; return true;
    case 'f': w->fua = true; return true;
    case 'n': w->no_fallback = true; return true;
    case 'p': return true; /* there was another way of writing once */
    case 'q': w->quiet = true; return true;
    case 'u': w->unmap = true; return true;
    case 'v': w->dump = true; return true;
    case 'z': w->zero = true; return true;
    case 'P': return (w->pattern = io_pattern(optarg)) >= 0;
    case 'l': w->have_len = true; return io_number(optarg, &w->len);
    default: /* 's' */
        if (writing) {
            w->source = optarg;
            return true;
        }
        w->have_from = true;
        return io_number(optarg, &w->from);
    }
}

static bool rw_letters(struct rw *w, int argc, char **argv, const char *letters,
                       bool writing)
{
    *w = (struct rw){.pattern = -1};
    for (int c; (c = getopt(argc, argv, letters)) != -1;) {
        if (c == '?') {
            io_command_usage(argv[0]);
            return false;
        }
        if (!rw_letter(w, c, writing)) {
            return false;
        }
    }
    return true;
}

/* Offset and length, exactly; @more: what the complaint about the length says more. */
static bool rw_range(char **argv, const char *more, uint64_t max, uint64_t *offset,
                     uint64_t *len)
{
    if (!io_number(argv[optind], offset) || !io_number(argv[optind + 1], len)) {
        return false;
    }
    if (*len > max) {
        printf("length cannot exceed %" PRIu64 "%s, given %s\n", max, more,
               argv[optind + 1]);
        return false;
    }
    return true;
}

/* VM state is moved in whole sectors. */
static bool rw_sectors(uint64_t offset, uint64_t len)
{
    if (offset % IO_SECTOR) {
        printf("%" PRIu64 " is not a sector-aligned value for 'offset'\n", offset);
        return false;
    }
    if (len % IO_SECTOR) {
        printf("%" PRIu64 " is not a sector-aligned value for 'count'\n", len);
        return false;
    }
    return true;
}

/* What a request beyond the end is for the users of this language. */
static int rw_error(const struct io *io, int err, uint64_t offset, uint64_t len)
{
    uint64_t length = blk_length(io->blk);
    bool outside = len > length || offset > length - len;
    return err == -EINVAL && outside ? -EIO : err;
}

static int rw_do(struct io *io, enum blk_op op, uint64_t offset,
                 const struct io_buffer *buf, uint64_t len, unsigned flags)
{
    uint64_t length = blk_length(io->blk);
    if (len > length || offset > length - len) {
        return -EIO;
    }
    int err = blk_run(io->blk, op, offset, buf ? buf->iov : NULL, buf ? buf->nb_iov : 0,
                      len, flags);
    return rw_error(io, err, offset, len);
}

static int rw_failed(const char *what, int err)
{
    printf("%s failed: %s\n", what, g_strerror(-err));
    return err;
}

/* ---- read ------------------------------------------------------------------------ */

static bool rw_all(const uint8_t *p, uint64_t len, int byte)
{
    return len == 0 || (*p == byte && memcmp(p, p + 1, len - 1) == 0);
}

static int rw_show(const struct rw *w, const char *verb, const struct io_timer *t,
                   const struct io_buffer *buf, uint64_t offset, uint64_t from,
                   uint64_t len)
{
    struct io_timer took = *t;
    int ret = 0;
    if (w->pattern >= 0 && !rw_all(buf->data + from, len, w->pattern)) {
        printf("Pattern verification failed at offset %" PRIu64 ", %" PRIu64 " bytes\n",
               offset + from, len);
        ret = -EINVAL;
    }
    if (w->quiet) {
        return ret;
    }
    if (w->dump) {
        io_dump(buf->data, offset, buf->len);
    }
    io_print_rates(verb, &took, offset, buf->len, w->machine);
    return ret;
}

int io_read(struct io *io, int argc, char **argv)
{
    struct rw w;
    uint64_t offset, len;
    if (!rw_letters(&w, argc, argv, "bCl:pP:qs:v", false)) {
        return -EINVAL;
    }
    if (optind != argc - 2) {
        return io_command_usage(argv[0]);
    }
    if (!rw_range(argv, "", IO_REQUEST_MAX, &offset, &len)) {
        return -EINVAL;
    }
    if (w.pattern < 0 && (w.have_len || w.have_from)) {
        return io_command_usage(argv[0]);
    }
    uint64_t part = w.have_len ? w.len : len - MIN(len, w.from);
    if (w.from > len || part > len - w.from) {
        printf("pattern verification range exceeds end of read data\n");
        return -EINVAL;
    }
    if (w.vmstate && !rw_sectors(offset, len)) {
        return -EINVAL;
    }
    struct io_buffer buf;
    if (!io_buffer_init(io, &buf, len, 0xab)) {
        return -ENOMEM;
    }
    struct io_timer t = {loop_now_ns()};
    int err = w.vmstate ? blk_vmstate(io->blk, BLK_READ, offset, buf.data, len)
                        : rw_do(io, BLK_READ, offset, &buf, len, 0);
    int ret = err < 0 ? rw_failed("read", err)
                      : rw_show(&w, "read", &t, &buf, offset, w.from, part);
    io_buffer_done(&buf);
    return ret;
}

int io_readv(struct io *io, int argc, char **argv)
{
    struct rw w;
    uint64_t offset;
    struct io_buffer buf;
    if (!rw_letters(&w, argc, argv, "CP:qv", false)) {
        return -EINVAL;
    }
    if (optind > argc - 2) {
        return io_command_usage(argv[0]);
    }
    if (!io_number(argv[optind], &offset) ||
        !io_buffer_parse(io, &buf, argv + optind + 1, argc - optind - 1, 0xab)) {
        return -EINVAL;
    }
    struct io_timer t = {loop_now_ns()};
    int err = rw_do(io, BLK_READ, offset, &buf, buf.len, 0);
    int ret = err < 0 ? rw_failed("readv", err)
                      : rw_show(&w, "read", &t, &buf, offset, 0, buf.len);
    io_buffer_done(&buf);
    return ret;
}

/* ---- write ----------------------------------------------------------------------- */

/* Fill @buf with the content of a file, over and over. */
static bool rw_fill_from(struct io_buffer *buf, const char *path)
{
    FILE *f = fopen(path, "r");
    if (!f) {
        fprintf(stderr, "%s: %s\n", path, g_strerror(errno));
        return false;
    }
    uint64_t have = fread(buf->data, 1, buf->len, f);
    bool empty = buf->len == 0 ? fgetc(f) == EOF : have == 0;
    bool failed = ferror(f);
    fclose(f);
    if (failed || empty) {
        if (failed) {
            fprintf(stderr, "%s: %s\n", path, g_strerror(EIO));
        } else {
            fprintf(stderr, "%s: file is empty\n", path);
        }
        return false;
    }
    for (uint64_t at = have; at < buf->len;) {
        uint64_t n = MIN(at, buf->len - at);
        memcpy(buf->data + at, buf->data + at % have, n);
        at += n;
    }
    return true;
}

static bool write_letters_fit(const struct rw *w)
{
    if (w->vmstate && w->zero) {
        printf("-b and -z cannot be specified at the same time\n");
    } else if (w->fua && (w->vmstate || w->compress)) {
        printf("-f and -b or -c cannot be specified at the same time\n");
    } else if (w->no_fallback && !w->zero) {
        printf("-n requires -z to be specified\n");
    } else if (w->unmap && !w->zero) {
        printf("-u requires -z to be specified\n");
    } else if (w->zero + (w->pattern >= 0) + (w->source != NULL) > 1) {
        printf("Only one of -z, -P, and -s can be specified at the same time\n");
    } else {
        return true;
    }
    return false;
}

static int write_do(struct io *io, const struct rw *w, uint64_t offset, uint64_t len,
                    const struct io_buffer *buf)
{
    if (w->vmstate) {
        return blk_vmstate(io->blk, BLK_WRITE, offset, buf->data, len);
    }
    unsigned flags = (w->fua ? BLK_FUA : 0) | (w->unmap ? BLK_MAY_UNMAP : 0) |
                     (w->no_fallback ? BLK_NO_FALLBACK : 0);
    if (w->zero) {
        return rw_do(io, BLK_ZERO, offset, NULL, len, flags);
    }
    return rw_do(io, BLK_WRITE, offset, buf, len,
                 flags | (w->compress ? BLK_COMPRESS : 0));
}

int io_write(struct io *io, int argc, char **argv)
{
    struct rw w;
    uint64_t offset, len;
    if (!rw_letters(&w, argc, argv, "bcCfnpP:qs:uz", true)) {
        return -EINVAL;
    }
    if (optind != argc - 2) {
        return io_command_usage(argv[0]);
    }
    if (!write_letters_fit(&w) ||
        !rw_range(argv, w.no_fallback ? "" : " without -n",
                  w.no_fallback ? INT64_MAX : IO_REQUEST_MAX, &offset, &len) ||
        ((w.vmstate || w.compress) && !rw_sectors(offset, len))) {
        return -EINVAL;
    }
    struct io_buffer buf = {0};
    if (!w.zero && !io_buffer_init(io, &buf, len,
                                   w.pattern < 0 ? IO_DEFAULT_PATTERN : w.pattern)) {
        return -ENOMEM;
    }
    if (w.source && !rw_fill_from(&buf, w.source)) {
        io_buffer_done(&buf);
        return -EINVAL;
    }
    struct io_timer t = {loop_now_ns()};
    int err = write_do(io, &w, offset, len, &buf);
    if (err < 0) {
        rw_failed("write", err);
    } else if (!w.quiet) {
        io_print_rates("wrote", &t, offset, len, w.machine);
    }
    io_buffer_done(&buf);
    return err;
}

int io_writev(struct io *io, int argc, char **argv)
{
    struct rw w;
    uint64_t offset;
    struct io_buffer buf;
    if (!rw_letters(&w, argc, argv, "CfP:q", true)) {
        return -EINVAL;
    }
    if (optind > argc - 2) {
        return io_command_usage(argv[0]);
    }
    if (!io_number(argv[optind], &offset) ||
        !io_buffer_parse(io, &buf, argv + optind + 1, argc - optind - 1,
                         w.pattern < 0 ? IO_DEFAULT_PATTERN : w.pattern)) {
        return -EINVAL;
    }
    struct io_timer t = {loop_now_ns()};
    int err = rw_do(io, BLK_WRITE, offset, &buf, buf.len, w.fua ? BLK_FUA : 0);
    if (err < 0) {
        rw_failed("writev", err);
    } else if (!w.quiet) {
        io_print_rates("wrote", &t, offset, buf.len, w.machine);
    }
    io_buffer_done(&buf);
    return err;
}

/* ---- discard --------------------------------------------------------------------- */

int io_discard(struct io *io, int argc, char **argv)
{
    struct rw w;
    uint64_t offset, len;
    if (!rw_letters(&w, argc, argv, "Cq", true)) {
        return -EINVAL;
    }
    if (optind != argc - 2) {
        return io_command_usage(argv[0]);
    }
    if (!rw_range(argv, "", IO_REQUEST_MAX, &offset, &len)) {
        return -EINVAL;
    }
    struct io_timer t = {loop_now_ns()};
    int err = rw_do(io, BLK_DISCARD, offset, NULL, len, 0);
    if (err < 0) {
        return rw_failed("discard", err);
    }
    if (!w.quiet) {
        io_print_rates("discard", &t, offset, len, w.machine);
    }
    return 0;
}
