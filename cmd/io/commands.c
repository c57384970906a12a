#include "cmd/io/io.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/base.h"

/* The table of commands, and what is done with one line of text. */

static int io_help(struct io *io, int argc, char **argv);

static int io_quit(struct io *io, int argc, char **argv)
{
    io->quit = true;
    return 0;
}

#define HELP_C "  -C  numbers for programs: bytes, requests, time, rates\n"
#define HELP_Q "  -q  say nothing of success\n"
#define HELP_P "  -P  compare what was read with this byte\n"
#define HELP_V "  -v  print the bytes\n"
#define HELP_F "  -f  the data is on stable storage when the command ends (FUA)\n"
#define HELP_A                                                                         \
    "The next command is run at once; what became of the request is said when it is\n" \
    "done, and does not count for the exit code. aio_flush waits for all.\n"

/* In the order of the alphabet, as help prints them. */
static const struct io_command commands[] = {
    {"abort", NULL, io_abort, 0, 0, IO_NO_FILE_OK, NULL,
     "simulate a program crash using abort(3)"},
    {"aio_flush", NULL, io_aio_flush, 0, 0, 0, NULL,
     "completes all outstanding aio requests"},
    {"aio_read", NULL, io_aio_read, 2, -1, 0, "[-Ciqv] [-P pattern] off len [len..]",
     "asynchronously reads a number of bytes",
     HELP_A HELP_C
     "  -i  count it as an invalid request, do nothing\n" HELP_P HELP_Q HELP_V},
    {"aio_write", NULL, io_aio_write, 2, -1, IO_WRITES,
     "[-Cfiquz] [-P pattern] off len [len..]",
     "asynchronously writes a number of bytes",
     HELP_A HELP_C HELP_F "  -i  count it as an invalid request, do nothing\n"
                          "  -P  the byte to write (default 0xcd)\n" HELP_Q
                          "  -u  with -z: the space may be given back\n"
                          "  -z  write zeroes\n"},
    {"alloc", NULL, io_alloc, 1, 2, IO_WAITS, "offset [count]",
     "checks if offset is allocated in the file"},
    {"break", NULL, io_break, 2, 2, 0, "event tag",
     "sets a breakpoint on event and tags the stopped request as tag"},
    {"close", "c", io_close, 0, 0, 0, NULL, "close the current open file"},
    {"discard", "d", io_discard, 2, -1, IO_WRITES | IO_WAITS, "[-Cq] off len",
     "discards a number of bytes at a specified offset",
     "The content of the range no longer matters.\n" HELP_C HELP_Q},
    {"flush", "f", io_flush, 0, 0, IO_WAITS, NULL,
     "flush all in-core file state to disk"},
    {"help", "?", io_help, 0, 1, IO_NO_FILE_OK, "[command]",
     "help for one or all commands"},
    {"info", "i", io_info, 0, 0, 0, NULL, "prints information about the current file"},
    {"length", "l", io_length, 0, 0, 0, NULL, "gets the length of the current file"},
    {"map", NULL, io_map, 0, 0, IO_WAITS, "", "prints the allocated areas of a file"},
    {"open", "o", io_open, 1, -1, IO_NO_FILE_OK,
     "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]",
     "open the file specified by path",
     "The other commands work on this image until it is closed.\n"
     "  -C  copy what is read from the backing file into the image\n"
     "  -d  ignore or unmap: whether discards reach the file\n"
     "  -i  how I/O is done: threads, native or io_uring\n"
     "  -k  the same as -i native\n"
     "  -n  the same as -t none\n"
     "  -o  options of the drivers, as --image-opts takes them\n"
     "  -r  only for reading\n"
     "  -s  what is written goes to a temporary image\n"
     "  -t  none, writeback, writethrough, directsync or unsafe\n"
     "  -U  although others are writing\n"},
    {"quit", "q", io_quit, 0, -1, IO_NO_FILE_OK, NULL, "exit the program"},
    {"read", "r", io_read, 2, -1, IO_WAITS,
     "[-abCqv] [-P pattern [-s off] [-l len]] off len",
     "reads a number of bytes at a specified offset",
     "  -b  from the VM state that is stored beside the disk\n" HELP_C
     "  -l  how many bytes -P compares\n"
     "  -p  means nothing any more\n" HELP_P HELP_Q
     "  -s  where -P begins to compare, from the offset\n" HELP_V},
    {"readv", NULL, io_readv, 2, -1, IO_WAITS, "[-Cqv] [-P pattern] off len [len..]",
     "reads a number of bytes at a specified offset",
     "One request with a buffer for each length.\n" HELP_C HELP_P HELP_Q HELP_V},
    {"remove_break", NULL, io_remove_break, 1, 1, 0, "tag",
     "remove a breakpoint by tag"},
    {"reopen", NULL, io_reopen, 0, -1, IO_WAITS, "[(-r|-w)] [-c cache] [-o options]",
     "reopens an image with new options",
     "  -c  another cache mode\n"
     "  -o  other options of the drivers\n"
     "  -r  only for reading from now on\n"
     "  -w  for writing, too\n"},
    {"resume", NULL, io_resume, 1, 1, 0, "tag", "resumes the request tagged as tag"},
    {"sigraise", NULL, io_sigraise, 1, 1, IO_NO_FILE_OK, "signal", "raises a signal",
     "The program sends itself the signal with this number.\n"},
    {"sleep", NULL, io_sleep, 1, 1, IO_NO_FILE_OK, NULL,
     "waits for the given value in milliseconds"},
    {"truncate", "t", io_truncate, 1, 3, IO_WRITES | IO_WAITS, "[-m prealloc_mode] off",
     "truncates the current file at the given offset"},
    {"wait_break", NULL, io_wait_break, 1, 1, 0, "tag",
     "waits for the suspension of a request"},
    {"write", "w", io_write, 2, -1, IO_WRITES | IO_WAITS,
     "[-bcCfnquz] [-P pattern | -s source_file] off len",
     "writes a number of bytes at a specified offset",
     "  -b  to the VM state that is stored beside the disk\n"
     "  -c  compressed\n" HELP_C HELP_F
     "  -n  with -z: fail where zeroes would have to be written out\n"
     "  -p  means nothing any more\n"
     "  -P  the byte to write (default 0xcd)\n" HELP_Q
     "  -s  write what is in this file, over and over\n"
     "  -u  with -z: the space may be given back\n"
     "  -z  write zeroes\n"},
    {"writev", NULL, io_writev, 2, -1, IO_WRITES | IO_WAITS,
     "[-Cfq] [-P pattern] off len [len..]",
     "writes a number of bytes at a specified offset",
     "One request with a buffer for each length.\n" HELP_C HELP_F
     "  -P  the byte to write (default 0xcd)\n" HELP_Q},
};

static const struct io_command *find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        const struct io_command *c = &commands[i];
        if (g_str_equal(c->name, name) || (c->alias && g_str_equal(c->alias, name))) {
            return c;
        }
    }
    return NULL;
}

static void print_line(const struct io_command *c)
{
    printf("%s %s%s-- %s\n", c->name, c->args ? c->args : "", c->args ? " " : "",
           c->oneline);
}

int io_command_usage(const char *name)
{
    print_line(find(name));
    return -EINVAL;
}

static int io_help(struct io *io, int argc, char **argv)
{
    if (argc == 1) {
        for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
            print_line(&commands[i]);
        }
        printf("\nUse 'help commandname' for extended help.\n");
        return 0;
    }
    const struct io_command *c = find(argv[1]);
    if (!c) {
        printf("command %s not found\n", argv[1]);
        return -EINVAL;
    }
    print_line(c);
    if (c->help) {
        printf("\n%s\n", c->help);
    }
    return 0;
}

/* ---- one line -------------------------------------------------------------------- */

static bool count_fits(const struct io_command *c, const char *word, int n)
{
    if (n >= c->least && (c->most < 0 || n <= c->most)) {
        return true;
    }
    if (c->most < 0) {
        fprintf(stderr, "bad argument count %d to %s, expected at least %d arguments\n",
                n, word, c->least);
    } else if (c->least == c->most) {
        fprintf(stderr, "bad argument count %d to %s, expected %d arguments\n", n, word,
                c->least);
    } else {
        fprintf(stderr,
                "bad argument count %d to %s, expected between %d and %d arguments\n",
                n, word, c->least, c->most);
    }
    return false;
}

static int run(struct io *io, int argc, char **argv)
{
    const struct io_command *c = find(argv[0]);
    if (!c) {
        fprintf(stderr, "command \"%s\" not found\n", argv[0]);
        return -EINVAL;
    }
    if (!io->blk && !(c->flags & IO_NO_FILE_OK)) {
        fprintf(stderr, "no file open, try 'help open'\n");
        return -EINVAL;
    }
    if (!count_fits(c, argv[0], argc - 1)) {
        return -EINVAL;
    }
    if ((c->flags & IO_WRITES) && blk_read_only(io->blk)) {
        io_error(io, "Block node is read-only");
        return -EPERM;
    }
    if (c->flags & IO_WAITS) {
        io_settle(io);
    }
    optind = 0;
    return c->run(io, argc, argv);
}

int io_run_line(struct io *io, const char *line)
{
    g_autofree char *copy = g_strdup(line);
    g_autoptr(GPtrArray) words = g_ptr_array_new();
    char *rest = copy;
    for (char *w; (w = strsep(&rest, " ")) != NULL;) {
        if (*w) {
            g_ptr_array_add(words, w);
        }
    }
    g_ptr_array_add(words, NULL);
    int argc = (int)words->len - 1;
    return argc ? run(io, argc, (char **)words->pdata) : 0;
}
