/*
 * lodge-io: exercises a disk image with commands, as qemu-io does. Each command is one
 * line of the table at the end.
 */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "block/image.h"
#include "block/options.h"
#include "cmd/objects.h"
#include "lib/base/base.h"
#include "lib/loop/loop.h"
#include "lib/secret/secret.h"

enum { PATTERN = 0xcd, REQUEST_MAX = 0x7ffffe00 };

struct io {
    const char *prog;
    struct loop *loop;
    struct secrets *secrets; /* of --object secret */
    struct blk *blk;
    bool quit;
};

/* A command's own options, parsed. */
struct request {
    bool zero, unmap, compress, quiet, fua, verify, dump, count;
    int pattern; /* -1: none given */
    uint64_t verify_offset, verify_len;
    bool verify_part;
    uint64_t offset, len;
};

typedef int (*io_fn)(struct io *io, int argc, char **argv);

/* ---- texts ---------------------------------------------------------------------- */

static char *human(double bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB",
                                        "TiB",   "PiB", "EiB"};
    unsigned i = 0;
    while (bytes >= 1024 && i + 1 < ARRAY_LEN(units)) {
        bytes /= 1024;
        i++;
    }
    g_autofree char *n = g_strdup_printf("%.3f", bytes);
    if (g_str_has_suffix(n, ".000")) {
        n[strlen(n) - 4] = '\0';
    }
    return g_strdup_printf("%s %s", n, units[i]);
}

static void print_report(const char *verb, uint64_t offset, uint64_t len,
                         double seconds)
{
    g_autofree char *total = human((double)len);
    double t = seconds > 0 ? seconds : 1e-9;
    g_autofree char *rate = human((double)len / t);
    printf("%s %" PRIu64 "/%" PRIu64 " bytes at offset %" PRIu64 "\n", verb, len, len,
           offset);
    printf("%s, 1 ops; %05.2f sec (%s/sec and %.4f ops/sec)\n", total, seconds, rate,
           1 / t);
}

static void dump(const uint8_t *buf, uint64_t offset, uint64_t len)
{
    for (uint64_t i = 0; i < len; i += 16) {
        printf("%08" PRIx64 ":  ", offset + i);
        for (uint64_t k = i; k < i + 16; k++) {
            printf(k < len ? "%02x " : "   ", k < len ? buf[k] : 0);
        }
        printf(" ");
        for (uint64_t k = i; k < i + 16 && k < len; k++) {
            printf("%c", isalnum(buf[k]) ? buf[k] : '.');
        }
        printf("\n");
    }
}

static bool number(const char *text, uint64_t *ret)
{
    if (parse_size(text, 1, ret, NULL) && *ret <= INT64_MAX) {
        return true;
    }
    printf("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- "
           "%s\n",
           text);
    return false;
}

static double seconds_since(uint64_t begun)
{
    return (double)(loop_now_ns() - begun) / 1e9;
}

/* ---- read, write, discard -------------------------------------------------------- */

static bool parse_letter(struct request *r, int o, bool writing)
{
    uint64_t n;
    switch (o) {
    case 'q': r->quiet = true; return true;
    case 'C': return true;
    case 'z': r->zero = true; return true;
    case 'u': r->unmap = true; return true;
    case 'c': r->compress = true; return true;
    case 'f': r->fua = true; return true;
    case 'n':
    case 'p':
    case 'b': return true;
    case 'v': r->dump = true; return true;
    case 's':
    case 'l':
        if (!number(optarg, &n)) {
            return false;
        }
        *(o == 's' ? &r->verify_offset : &r->verify_len) = n;
        r->verify_part = true;
        return true;
    case 'P': {
        char *end;
        long v = strtol(optarg, &end, 0);
        if (*end || v < 0 || v > 0xff) {
            printf("%s is not a valid pattern byte\n", optarg);
            return false;
        }
        r->pattern = (int)v;
        return true;
    }
    default: return false;
    }
}

static bool parse_request(const char *letters, int argc, char **argv, struct request *r)
{
    *r = (struct request){.pattern = -1};
    optind = 0;
    for (int o; (o = getopt(argc, argv, letters)) != -1;) {
        if (o == '?' || !parse_letter(r, o, true)) {
            return false;
        }
    }
    if (argc - optind < 2) {
        fprintf(stderr, "bad argument count %d to %s, expected at least 2 arguments\n",
                argc - 1, argv[0]);
        return false;
    }
    if (!number(argv[optind], &r->offset) || !number(argv[optind + 1], &r->len)) {
        return false;
    }
    /* readv and writev take several lengths; here they are one piece. */
    for (int i = optind + 2; i < argc; i++) {
        uint64_t more;
        if (!number(argv[i], &more)) {
            return false;
        }
        r->len += more;
    }
    if (r->len > REQUEST_MAX && !r->zero) {
        printf("length cannot exceed %" PRIu64 ", given %s\n", (uint64_t)REQUEST_MAX,
               argv[optind + 1]);
        return false;
    }
    return true;
}

static int io_read(struct io *io, int argc, char **argv)
{
    struct request r;
    if (!parse_request("bCl:pP:qs:v", argc, argv, &r)) {
        return -EINVAL;
    }
    g_autofree uint8_t *buf = g_try_malloc(r.len + 1);
    uint64_t begun = loop_now_ns();
    int err = buf ? blk_pread(io->blk, r.offset, buf, r.len) : -ENOMEM;
    double took = seconds_since(begun);
    if (err < 0) {
        printf("read failed: %s\n", g_strerror(err == -EINVAL ? EIO : -err));
        return err;
    }
    uint64_t from = r.verify_offset, len = r.verify_part && r.verify_len
                                               ? r.verify_len
                                               : r.len - MIN(r.len, from);
    int ret = 0;
    for (uint64_t i = 0; r.pattern >= 0 && i < len && from + i < r.len; i++) {
        if (buf[from + i] != r.pattern) {
            printf("Pattern verification failed at offset %" PRIu64 ", %" PRIu64
                   " bytes\n",
                   r.offset + from, len);
            ret = -EINVAL;
            break;
        }
    }
    if (!r.quiet) {
        if (r.dump) {
            dump(buf, r.offset, r.len);
        }
        print_report("read", r.offset, r.len, took);
    }
    return ret;
}

static int io_write(struct io *io, int argc, char **argv)
{
    struct request r;
    if (!parse_request("bcCfnpP:qs:uz", argc, argv, &r)) {
        return -EINVAL;
    }
    if (r.zero && r.pattern >= 0) {
        printf("-z and -P cannot be specified at the same time\n");
        return -EINVAL;
    }
    unsigned flags = (r.fua ? BLK_FUA : 0) | (r.unmap ? BLK_MAY_UNMAP : 0) |
                     (r.compress ? BLK_COMPRESS : 0);
    g_autofree uint8_t *buf = r.zero ? NULL : g_try_malloc(r.len + 1);
    uint64_t begun = loop_now_ns();
    int err;
    if (r.zero) {
        err = blk_run(io->blk, BLK_ZERO, r.offset, NULL, 0, r.len, flags);
    } else if (!buf) {
        err = -ENOMEM;
    } else {
        memset(buf, r.pattern < 0 ? PATTERN : r.pattern, r.len);
        struct iovec iov = {buf, r.len};
        err = blk_run(io->blk, BLK_WRITE, r.offset, &iov, 1, r.len, flags);
    }
    if (err < 0) {
        printf("write failed: %s\n",
               g_strerror(err == -EINVAL && !r.compress ? EIO : -err));
        return err;
    }
    if (!r.quiet) {
        print_report("wrote", r.offset, r.len, seconds_since(begun));
    }
    return 0;
}

static int io_discard(struct io *io, int argc, char **argv)
{
    struct request r;
    if (!parse_request("Cq", argc, argv, &r)) {
        return -EINVAL;
    }
    uint64_t begun = loop_now_ns();
    int err = blk_run(io->blk, BLK_DISCARD, r.offset, NULL, 0, r.len, 0);
    if (err < 0) {
        printf("discard failed: %s\n", g_strerror(err == -EINVAL ? EIO : -err));
        return err;
    }
    if (!r.quiet) {
        print_report("discard", r.offset, r.len, seconds_since(begun));
    }
    return 0;
}

/* ---- the others ---------------------------------------------------------------------
 */

static int io_flush(struct io *io, int argc, char **argv)
{
    return blk_run(io->blk, BLK_FLUSH, 0, NULL, 0, 0, 0);
}

static int io_length(struct io *io, int argc, char **argv)
{
    g_autofree char *text = human((double)blk_length(io->blk));
    printf("%s\n", text);
    return 0;
}

static int io_truncate(struct io *io, int argc, char **argv)
{
    GError *error = NULL;
    uint64_t n;
    if (!number(argv[argc - 1], &n)) {
        return -EINVAL;
    }
    if (!blk_truncate(io->blk, n, BLK_PREALLOC_OFF, &error)) {
        printf("%s: %s\n", io->prog, error->message);
        g_error_free(error);
        return -EIO;
    }
    return 0;
}

static bool allocated(const struct blk_status *s)
{
    return (s->flags & BLK_STATUS_ALLOCATED) && s->depth == 0;
}

static int io_alloc(struct io *io, int argc, char **argv)
{
    uint64_t offset, len = 512, sum = 0;
    if (!number(argv[1], &offset) || (argc > 2 && !number(argv[2], &len))) {
        return -EINVAL;
    }
    for (uint64_t at = offset; at < offset + len;) {
        struct blk_status s;
        int r = blk_map_at(io->blk, at, offset + len - at, &s);
        if (r < 0) {
            printf("is_allocated failed: %s\n", g_strerror(-r));
            return r;
        }
        sum += allocated(&s) ? s.len : 0;
        at += s.len;
    }
    g_autofree char *where = human((double)offset);
    printf("%" PRIu64 "/%" PRIu64 " bytes allocated at offset %s\n", sum, len, where);
    return 0;
}

static int io_map(struct io *io, int argc, char **argv)
{
    uint64_t length = blk_length(io->blk);
    for (uint64_t at = 0; at < length;) {
        uint64_t from = at;
        bool have = false, first = true;
        while (at < length) {
            struct blk_status s;
            int r = blk_map_at(io->blk, at, length - at, &s);
            if (r < 0) {
                printf("Failed to query allocation status: %s\n", g_strerror(-r));
                return r;
            }
            if (!first && allocated(&s) != have) {
                break;
            }
            have = allocated(&s);
            first = false;
            at += s.len;
        }
        g_autofree char *size = human((double)(at - from));
        g_autofree char *where = human((double)from);
        printf("%s (0x%" PRIx64 ") bytes %s allocated at offset %s (0x%" PRIx64 ")\n",
               size, at - from, have ? "    " : "not", where, from);
    }
    return 0;
}

static int io_sleep(struct io *io, int argc, char **argv)
{
    uint64_t ms;
    if (!number(argv[1], &ms)) {
        return -EINVAL;
    }
    usleep((useconds_t)(ms * 1000));
    return 0;
}

static int io_quit(struct io *io, int argc, char **argv)
{
    io->quit = true;
    return 0;
}

/* SIGKILL or abort in the middle: what is left must be sound. */
static int io_abort(struct io *io, int argc, char **argv)
{
    abort();
}

static int io_sigraise(struct io *io, int argc, char **argv)
{
    fflush(stdout);
    raise((int)strtol(argv[1], NULL, 0));
    return 0;
}

static int io_help(struct io *io, int argc, char **argv);

static const struct {
    const char *name, *alias;
    io_fn run;
    int least; /* arguments behind the name */
    const char *usage, *help;
} commands[] = {
    {"read", "r", io_read, 2, "[-qv] [-P pattern [-s off] [-l len]] off len", "reads"},
    {"readv", NULL, io_read, 2, "[-qv] [-P pattern] off len [len..]", "reads"},
    {"aio_read", NULL, io_read, 2, "[-qv] [-P pattern] off len [len..]", "reads"},
    {"write", "w", io_write, 2, "[-cfquz] [-P pattern] off len", "writes"},
    {"writev", NULL, io_write, 2, "[-fq] [-P pattern] off len [len..]", "writes"},
    {"aio_write", NULL, io_write, 2, "[-fquz] [-P pattern] off len [len..]", "writes"},
    {"discard", "d", io_discard, 2, "[-q] off len", "discards"},
    {"flush", "f", io_flush, 0, "", "flushes all in-core state to disk"},
    {"aio_flush", NULL, io_flush, 0, "", "completes all outstanding requests"},
    {"length", "l", io_length, 0, "", "gets the length of the current file"},
    {"truncate", "t", io_truncate, 1, "off", "truncates to the given offset"},
    {"alloc", NULL, io_alloc, 1, "offset [count]", "checks if a sector is there"},
    {"map", NULL, io_map, 0, "", "prints the allocated areas"},
    {"sleep", NULL, io_sleep, 1, "ms", "waits"},
    {"abort", NULL, io_abort, 0, "", "simulates a crash"},
    {"sigraise", NULL, io_sigraise, 1, "signal", "raises a signal"},
    {"quit", "q", io_quit, 0, "", "leaves the program"},
    {"help", "?", io_help, 0, "", "prints this"},
};

static int io_help(struct io *io, int argc, char **argv)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        printf("%s %s -- %s\n", commands[i].name, commands[i].usage, commands[i].help);
    }
    return 0;
}

static int run_line(struct io *io, const char *line)
{
    g_auto(GStrv) words = NULL;
    int argc;
    if (!g_shell_parse_argv(line, &argc, &words, NULL)) {
        return 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(words[0], commands[i].name) &&
            (!commands[i].alias || strcmp(words[0], commands[i].alias))) {
            continue;
        }
        if (argc - 1 < commands[i].least) {
            fprintf(stderr,
                    "bad argument count %d to %s, expected at least %d arguments\n",
                    argc - 1, words[0], commands[i].least);
            return -EINVAL;
        }
        return commands[i].run(io, argc, words);
    }
    fprintf(stderr, "command \"%s\" not found\n", words[0]);
    return -EINVAL;
}

/* ---- opening
 * ---------------------------------------------------------------------------- */

struct start {
    const char *format, *cache, *discard, *aio;
    bool read_only, image_opts, share;
};

static void warn(void *opaque, const char *message)
{
    fprintf(stderr, "%s: %s\n", ((struct io *)opaque)->prog, message);
}

static bool open_image(struct io *io, const struct start *s, const char *name)
{
    GError *error = NULL;
    struct blk_perms perms = {BLK_PERM_READ |
                                  (s->read_only ? 0 : BLK_PERM_WRITE | BLK_PERM_RESIZE),
                              BLK_PERM_ALL};
    struct blk_open_args args = {
        .loop = io->loop,
        .perms = &perms,
        .warn = warn,
        .opaque = io,
        .secrets = io->secrets,
    };
    json_t *o;
    if (s->image_opts) {
        json_t *flat = blk_options_parse(name, NULL, &error);
        o = flat ? blk_options_nest(flat, &error) : NULL;
        json_decref(flat);
    } else {
        o = blk_options_from_name(name, s->format, &error);
    }
    if (o && !json_object_get(o, "read-only")) {
        json_object_set_new(o, "read-only", json_boolean(s->read_only));
    }
    if (o && !json_object_get(o, "discard")) {
        json_object_set_new(o, "discard", json_string(s->discard));
    }
    if (o && s->share) {
        json_object_set_new(o, "force-share", json_true());
    }
    if (o && s->cache && !json_object_get(o, "cache")) {
        bool direct = !strcmp(s->cache, "none") || !strcmp(s->cache, "directsync");
        bool through =
            !strcmp(s->cache, "writethrough") || !strcmp(s->cache, "directsync");
        json_object_set_new(o, "cache",
                            json_pack("{s:b, s:b, s:b}", "direct", direct, "no-flush",
                                      !strcmp(s->cache, "unsafe"), "writeback",
                                      !through));
    }
    io->blk = o ? blk_open(&args, o, &error) : NULL;
    json_decref(o);
    if (!io->blk) {
        fprintf(stderr, "%s: can't open%s%s: %s\n", io->prog,
                s->image_opts ? "" : " device ", s->image_opts ? "" : name,
                error->message);
        g_error_free(error);
    }
    return io->blk != NULL;
}

static int usage(const char *prog)
{
    printf("Usage: %s [-c command]... [-f format] [-r] [-t cache] [-n] [-d discard] "
           "[-U] [--image-opts] file\n",
           prog);
    return 0;
}

static bool finish(struct io *io)
{
    GError *error = NULL;
    if (!io->blk || blk_close(io->blk, &error)) {
        return true;
    }
    fprintf(stderr, "%s: %s\n", io->prog, error->message);
    g_error_free(error);
    return false;
}

static int run_all(struct io *io, GSList *lines)
{
    int ret = 0;
    for (GSList *l = lines; l && !io->quit; l = l->next) {
        if (run_line(io, l->data) < 0) {
            ret = 1;
        }
    }
    char *line = NULL;
    size_t room = 0;
    while (!lines && !io->quit && getline(&line, &room, stdin) > 0) {
        g_strchomp(line);
        if (*line && run_line(io, line) < 0) {
            ret = 1;
        }
        fflush(stdout);
    }
    free(line);
    return ret;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        {"cmd", required_argument, 0, 'c'},
        {"format", required_argument, 0, 'f'},
        {"read-only", no_argument, 0, 'r'},
        {"cache", required_argument, 0, 't'},
        {"discard", required_argument, 0, 'd'},
        {"nocache", no_argument, 0, 'n'},
        {"force-share", no_argument, 0, 'U'},
        {"help", no_argument, 0, 'h'},
        {"version", no_argument, 0, 'V'},
        {"aio", required_argument, 0, 'i'},
        {"image-opts", no_argument, 0, 256},
        {"object", required_argument, 0, 257},
        {0},
    };
    const char *slash = strrchr(argv[0], '/');
    struct io io = {.prog = slash ? slash + 1 : argv[0], .secrets = secrets_new()};
    struct start s = {.discard = "unmap"};
    g_autoptr(GSList) lines = NULL;
    GError *error = NULL;
    for (int o;
         (o = getopt_long(argc, argv, "hVc:d:f:rnCmki:t:U", longs, NULL)) != -1;) {
        switch (o) {
        case 'c': lines = g_slist_append(lines, optarg); break;
        case 'f': s.format = optarg; break;
        case 'r': s.read_only = true; break;
        case 't': s.cache = optarg; break;
        case 'n': s.cache = "none"; break;
        case 'd':
            s.discard = !strcmp(optarg, "ignore") || !strcmp(optarg, "off") ? "ignore"
                                                                            : "unmap";
            break;
        case 'U': s.share = true; break;
        case 'V': printf("%s version " LODGE_VERSION " (Lodge)\n", io.prog); return 0;
        case 'h': return usage(io.prog);
        case 256: s.image_opts = true; break;
        case 257:
            if (!objects_add(io.secrets, optarg, &error)) {
                fprintf(stderr, "%s: %s\n", io.prog, error->message);
                return 1;
            }
            break;
        case '?': return 1;
        default: break;
        }
    }
    if (argc - optind != 1) {
        usage(io.prog);
        return 1;
    }
    io.loop = loop_new(NULL, &error);
    if (!io.loop) {
        fprintf(stderr, "%s: %s\n", io.prog, error->message);
        return 1;
    }
    int ret = open_image(&io, &s, argv[optind]) ? run_all(&io, lines) : 1;
    ret = finish(&io) ? ret : 1;
    loop_free(io.loop);
    secrets_free(io.secrets);
    return ret;
}
