/*
 * lodge-img. The subcommands are one table; each has its own file.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/img/img.h"
#include "lib/base/base.h"
#include "lib/loop/loop.h"
#include "lib/secret/secret.h"

static const struct {
    const char *name;
    img_fn run;
    const char *usage;
} commands[] = {
    {"amend", img_amend,
     "[--object objectdef] [--image-opts] [-p] [-q] [-f fmt] [-t cache] [--force] -o "
     "options filename"},
    {"bench", img_bench,
     "[-c count] [-d depth] [-f fmt] [--flush-interval=flush_interval] [-i aio] [-n] "
     "[--no-drain] [-o offset] [--pattern=pattern] [-q] [-s buffer_size] [-S "
     "step_size] [-t cache] [-w] [-U] filename"},
    {"bitmap", img_bitmap,
     "(--merge SOURCE | --add | --remove | --clear | --enable | --disable)... [-b "
     "source_file [-F source_fmt]] [-g granularity] [--object objectdef] "
     "[--image-opts | -f fmt] FILENAME BITMAP"},
    {"check", img_check,
     "[--object objectdef] [--image-opts] [-q] [-f fmt] [--output=ofmt] [-r [leaks | "
     "all]] [-T src_cache] [-U] filename"},
    {"commit", img_commit,
     "[--object objectdef] [--image-opts] [-q] [-f fmt] [-t cache] [-b base] [-r "
     "rate_limit] [-d] [-p] filename"},
    {"compare", img_compare,
     "[--object objectdef] [--image-opts] [-f fmt] [-F fmt] [-T src_cache] [-p] [-q] "
     "[-s] [-U] filename1 filename2"},
    {"convert", img_convert,
     "[--object objectdef] [--image-opts] [--target-image-opts] [--target-is-zero] "
     "[-U] [-C] [-c] [-p] [-q] [-n] [-f fmt] [-t cache] [-T src_cache] [-O output_fmt] "
     "[-B backing_file [-F backing_fmt]] [-o options] [-l snapshot_param] [-S "
     "sparse_size] [-r rate_limit] [-m num_coroutines] [-W] [--salvage] [--bitmaps "
     "[--skip-broken-bitmaps]] filename "
     "[filename2 [...]] output_filename"},
    {"create", img_create,
     "[--object objectdef] [-q] [-f fmt] [-b backing_file [-F backing_fmt]] [-u] [-o "
     "options] filename [size]"},
    {"dd", img_dd,
     "[--image-opts] [-U] [-f fmt] [-O output_fmt] [bs=block_size] [count=blocks] "
     "[skip=blocks] if=input of=output"},
    {"info", img_info,
     "[--object objectdef] [--image-opts] [-f fmt] [--output=ofmt] [--backing-chain] "
     "[-U] filename"},
    {"map", img_map,
     "[--object objectdef] [--image-opts] [-f fmt] [--start-offset=offset] "
     "[--max-length=len] [--output=ofmt] [-U] filename"},
    {"measure", img_measure,
     "[--output=ofmt] [-O output_fmt] [-o options] [--size N | [--object objectdef] "
     "[--image-opts] [-f fmt] [-l snapshot_param] filename]"},
    {"snapshot", img_snapshot,
     "[--object objectdef] [--image-opts] [-U] [-q] [-l | -a snapshot | -c snapshot | "
     "-d snapshot] filename"},
    {"rebase", img_rebase,
     "[--object objectdef] [--image-opts] [-U] [-q] [-f fmt] [-t cache] [-T src_cache] "
     "[-p] [-u] -b backing_file [-F backing_fmt] filename"},
    {"resize", img_resize,
     "[--object objectdef] [--image-opts] [-f fmt] [--preallocation=prealloc] [-q] "
     "[--shrink] filename [+ | -]size"},
};

static void print_version(const struct img *im)
{
    printf("%s version " LODGE_VERSION " (Lodge)\n", im->prog);
}

void img_help(struct img *im)
{
    print_version(im);
    printf("usage: %s [standard options] command [command options]\n"
           "Disk images: make, describe, check, convert, compare, change\n\n"
           "    '-h', '--help'       display this help and exit\n"
           "    '-V', '--version'    output version information and exit\n\n"
           "Command syntax:\n",
           im->prog);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        printf("  %s %s\n", commands[i].name, commands[i].usage);
    }
    printf(
        "\nCommand parameters:\n"
        "  filename     a path, or json:{...} with the options of a node\n"
        "  fmt          the format; without it the content decides\n"
        "  cache        none, writeback, writethrough, directsync or unsafe "
        "(convert's\n"
        "               default for what it writes)\n"
        "  size         bytes, or with k, M, G, T, P, E in powers of 1024\n"
        "  options      name=value, separated by commas; -o help lists them\n"
        "  ofmt         human or json\n\n"
        "  -c           convert: write compressed\n"
        "  -C           convert: let the file system share or copy what is alike\n"
        "  -m           convert: threads (default: as many as processors, 2 at least)\n"
        "  -n           convert: the target exists, do not create it\n"
        "  -p           show progress\n"
        "  -q           say nothing but errors\n"
        "  -r           check: repair leaks or all\n"
        "  -S           convert: this many zero bytes in a row become a hole (4k; 0: "
        "none)\n"
        "  -u           rebase, create: do not look at the backing file\n"
        "  -U           open although somebody else is writing\n"
        "  -W           convert: write in any order, which is faster\n\n"
        "Supported formats:");
    for (unsigned i = 0; blk_driver_name(i); i++) {
        printf(" %s", blk_driver_name(i));
    }
    printf("\n");
}

static int run_command(struct img *im, int argc, char **argv)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(commands[i].name, argv[0]) == 0) {
            return commands[i].run(im, argc, argv);
        }
    }
    return img_usage(im, "Command not found: %s", argv[0]);
}

int main(int argc, char **argv)
{
    const char *slash = strrchr(argv[0], '/');
    struct img im = {.prog = slash ? slash + 1 : argv[0]};
    g_autoptr(GError) error = NULL;
    int i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        const char *o = argv[i];
        if (!strcmp(o, "-h") || !strcmp(o, "--help")) {
            img_help(&im);
            return 0;
        }
        if (!strcmp(o, "-V") || !strcmp(o, "--version")) {
            print_version(&im);
            return 0;
        }
        if (!strcmp(o, "-T") || !strcmp(o, "--trace")) {
            if (++i >= argc) {
                return img_usage(&im, "missing argument for option '%s'", o);
            }
            /* QEMU's tracing: nothing to trace here */
        } else if (!g_str_has_prefix(o, "--trace=")) {
            return img_usage(&im, "unrecognized option '%s'", o);
        }
    }
    if (i >= argc) {
        return img_usage(&im, "Not enough arguments");
    }
    im.loop = loop_new(NULL, &error);
    if (!im.loop) {
        img_error(&im, "%s", error->message);
        return 1;
    }
    im.secrets = secrets_new();
    int code = run_command(&im, argc - i, argv + i);
    secrets_free(im.secrets);
    loop_free(im.loop);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        img_error(&im, "cannot write to standard output");
        return 1;
    }
    return code;
}
