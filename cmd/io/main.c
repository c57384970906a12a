/*
 * lodge-io. The program's own options, and where the lines of the language come from:
 * -c, one after the other, or else standard input behind a prompt.
 */
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/options.h"
#include "cmd/io/io.h"
#include "cmd/objects.h"
#include "lib/base/base.h"
#include "lib/secret/secret.h"

static void print_version(const struct io *io)
{
    printf("%s version " LODGE_VERSION " (Lodge)\n", io->prog);
}

static void print_usage(const struct io *io)
{
    printf(
        "Usage: %s [OPTIONS]... [-c STRING]... [file]\n"
        "Reads, writes and examines a disk image with commands\n\n"
        "  --object OBJECTDEF   such as secret,id=ID,data=TEXT for keys\n"
        "  --image-opts         the file is given as options (driver=qcow2,...)\n"
        "  -c, --cmd STRING     run this command; may be repeated\n"
        "  -f, --format FMT     the format; without it the content decides\n"
        "  -r, --read-only      only for reading\n"
        "  -s, --snapshot       what is written goes to a temporary image\n"
        "  -n, --nocache        the same as -t none\n"
        "  -C, --copy-on-read   copy what is read from the backing file\n"
        "  -m, --misalign       take buffers that are not aligned\n"
        "  -k, --native-aio     the same as -i native\n"
        "  -i, --aio=MODE       threads, native or io_uring\n"
        "  -t, --cache=MODE     none, writeback, writethrough, directsync or unsafe\n"
        "  -d, --discard=MODE   ignore or unmap\n"
        "  -T, --trace PATTERN  accepted, there is nothing to trace\n"
        "  -U, --force-share    open although others are writing\n"
        "  -h, --help           print this\n"
        "  -V, --version        print the version\n\n"
        "'%s -c help' lists the commands.\n",
        io->prog, io->prog);
}

/* ---- the command line ------------------------------------------------------------ */

enum { OPT_IMAGE_OPTS = 256, OPT_OBJECT };

static const struct option longs[] = {
    {"help", no_argument, 0, 'h'},
    {"version", no_argument, 0, 'V'},
    {"cmd", required_argument, 0, 'c'},
    {"format", required_argument, 0, 'f'},
    {"read-only", no_argument, 0, 'r'},
    {"snapshot", no_argument, 0, 's'},
    {"nocache", no_argument, 0, 'n'},
    {"copy-on-read", no_argument, 0, 'C'},
    {"misalign", no_argument, 0, 'm'},
    {"native-aio", no_argument, 0, 'k'},
    {"aio", required_argument, 0, 'i'},
    {"cache", required_argument, 0, 't'},
    {"discard", required_argument, 0, 'd'},
    {"trace", required_argument, 0, 'T'},
    {"force-share", no_argument, 0, 'U'},
    {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
    {"object", required_argument, 0, OPT_OBJECT},
    {0},
};

struct start {
    struct io_open open;
    GPtrArray *lines;
};

/* False with the program's end in *ret_code. */
static bool take_option(struct io *io, struct start *s, int o, int *ret_code)
{
    GError *error = NULL;
    *ret_code = 1;
    switch (o) {
    case 'c': g_ptr_array_add(s->lines, optarg); return true;
    case 'f': s->open.format = optarg; return true;
    case 'r': s->open.read_only = true; return true;
    case 's': s->open.snapshot = true; return true;
    case 'n': return io_open_cache(io, &s->open, "none");
    case 'C': s->open.copy_on_read = true; return true;
    case 'm': io->misalign = true; return true;
    case 'k': s->open.aio = "native"; return true;
    case 'i': return io_open_aio(io, &s->open, optarg);
    case 't': return io_open_cache(io, &s->open, optarg);
    case 'd': return io_open_discard(io, &s->open, optarg);
    case 'T': return true;
    case 'U': s->open.force_share = true; return true;
    case OPT_IMAGE_OPTS: io->image_opts = true; return true;
    case OPT_OBJECT:
        if (!objects_add(io->secrets, optarg, &error)) {
            io_report(io, error);
            return false;
        }
        return true;
    case 'V':
        print_version(io);
        *ret_code = 0;
        return false;
    case 'h': *ret_code = 0; __attribute__((fallthrough));
    default: print_usage(io); return false;
    }
}

static bool parse_args(struct io *io, struct start *s, int argc, char **argv,
                       int *ret_code)
{
    for (int o;
         (o = getopt_long(argc, argv, "hVc:d:f:rsnCmki:t:T:U", longs, NULL)) != -1;) {
        if (!take_option(io, s, o, ret_code)) {
            return false;
        }
    }
    *ret_code = 1;
    if (argc - optind > 1) {
        print_usage(io);
        return false;
    }
    if (s->open.format && io->image_opts) {
        io_error(io, "--image-opts and -f are mutually exclusive");
        return false;
    }
    return true;
}

static int open_first(struct io *io, struct start *s, const char *name)
{
    GError *error = NULL;
    if (!io->image_opts) {
        return io_open_image(io, &s->open, name);
    }
    s->open.options = blk_options_parse(name, NULL, &error);
    if (!s->open.options) {
        io_report(io, error);
        return -1;
    }
    int r = io_open_image(io, &s->open, NULL);
    json_decref(s->open.options);
    return r;
}

/* ---- lines ----------------------------------------------------------------------- */

/* Whoever sits at a terminal sees at once what became of requests in flight. */
static void wait_for_typing(struct io *io)
{
    enum { LOOK_MS = 10 };
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    while (io->in_flight && isatty(STDIN_FILENO) && poll(&in, 1, LOOK_MS) == 0) {
        loop_poll(io->loop, false);
        fflush(stdout);
    }
}

static bool run_input(struct io *io)
{
    bool ok = true;
    char *line = NULL;
    size_t room = 0;
    while (!io->quit) {
        printf("%s> ", io->prog);
        fflush(stdout);
        wait_for_typing(io);
        if (getline(&line, &room, stdin) <= 0) {
            break;
        }
        line[strcspn(line, "\n")] = '\0';
        if (io_run_line(io, line) < 0) {
            ok = false;
        }
    }
    free(line);
    return ok;
}

static bool run_lines(struct io *io, const GPtrArray *lines)
{
    bool ok = true;
    for (unsigned i = 0; i < lines->len && !io->quit; i++) {
        if (io_run_line(io, lines->pdata[i]) < 0) {
            ok = false;
        }
    }
    return ok;
}

static bool run_all(struct io *io, const struct start *s)
{
    GError *error = NULL;
    bool ok = s->lines->len ? run_lines(io, s->lines) : run_input(io);
    if (!io_close_image(io, &error)) {
        io_report_close(io, error);
        ok = false;
    }
    return ok;
}

int main(int argc, char **argv)
{
    const char *slash = strrchr(argv[0], '/');
    struct io io = {.prog = slash ? slash + 1 : argv[0], .secrets = secrets_new()};
    struct start s = {.open = IO_OPEN_INIT, .lines = g_ptr_array_new()};
    GError *error = NULL;
    int code;
    if (parse_args(&io, &s, argc, argv, &code)) {
        io.loop = loop_new(NULL, &error);
        code = 1;
        if (!io.loop) {
            io_report(&io, error);
        } else if (optind == argc || open_first(&io, &s, argv[optind]) == 0) {
            code = run_all(&io, &s) ? 0 : 1;
        }
    }
    json_decref(io.options);
    g_ptr_array_free(s.lines, TRUE);
    if (io.loop) {
        loop_free(io.loop);
    }
    secrets_free(io.secrets);
    if (fflush(stdout) != 0) {
        return 1;
    }
    return code;
}
