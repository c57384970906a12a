#ifndef CMD_IO_IO_H
#define CMD_IO_IO_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/uio.h>

#include <glib.h>
#include <jansson.h>

#include "block/image.h"
#include "lib/loop/loop.h"

/*
 * lodge-io: qemu-io's command language on block/. One table of commands (commands.c);
 * the commands are in a file per family:
 *
 *     rw.c      read, readv, write, writev, discard
 *     aio.c     aio_read, aio_write, aio_flush
 *     image.c   flush, truncate, length, info, alloc, map
 *     open.c    open, close; reopen.c  reopen
 *     debug.c   break, remove_break, resume, wait_break, sleep, sigraise, abort
 *     text.c    what all of them parse and print
 *
 * Test suites compare what is printed byte by byte, and also what goes to standard
 * output (answers, complaints about numbers) and what to standard error (everything
 * that begins with the program's name).
 */

struct io {
    const char *prog; /* as called, without folders */
    struct loop *loop;
    struct secrets *secrets; /* of --object secret */
    struct blk *blk;         /* NULL: nothing is open */
    json_t *options;         /* what blk was opened with, nested; owned */
    struct blk *base;        /* with -s: what the temporary image stands on */
    bool image_opts;         /* names are option strings (--image-opts) */
    bool misalign;           /* -m: buffers begin 16 bytes behind a page */
    bool reopening;          /* what opening says of the image was said before */
    unsigned in_flight;      /* requests of aio_read and aio_write */
    bool stopping;           /* break points were set: requests may wait for resume */
    bool flush_told;         /* the image said itself what could not be written */
    bool quit;
};

/* 0, or what made it fail: the program's exit code is 1 then. */
typedef int (*io_fn)(struct io *io, int argc, char **argv);

#define IO_NO_FILE_OK (1u << 0) /* works without an open image */
#define IO_WRITES     (1u << 1) /* needs an image that may be changed */
#define IO_WAITS      (1u << 2) /* does I/O itself: what was submitted is done before */

struct io_command {
    const char *name, *alias;
    io_fn run;
    int least, most; /* arguments behind the name; most -1: any number */
    unsigned flags;
    const char *args, *oneline;
    const char *help; /* more of `help NAME`, or NULL */
};

/* The usage line of @name on standard output, as after a wrong option. -EINVAL. */
int io_command_usage(const char *name);

/* Run one line. 0 or -errno; nothing on it is no error. */
int io_run_line(struct io *io, const char *line);

/* ---- text.c ---------------------------------------------------------------------- */

/* "prog: text" on standard error. */
void io_error(const struct io *io, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
/* The same with @error, which it frees. */
void io_report(const struct io *io, GError *error);

/* "64 KiB", "1.500 MiB", "3 bytes". The caller's. */
char *io_human(double bytes);

/* A size such as 64k; false with a complaint on standard output. */
bool io_number(const char *text, uint64_t *ret);

/* A byte for -P: 0..255, or -1 with a complaint. */
int io_pattern(const char *text);

struct io_timer {
    uint64_t begun_ns;
};

/* "wrote 512/512 bytes at offset 0" and the rates; @machine: as -C asks. */
void io_print_rates(const char *verb, const struct io_timer *t, uint64_t offset,
                    uint64_t len, bool machine);
void io_dump(const uint8_t *buf, uint64_t offset, uint64_t len);

/* ---- buffers --------------------------------------------------------------------- */

/* What a request moves: one piece of memory, cut as the user asked. */
struct io_buffer {
    void *mem; /* what free() wants */
    uint8_t *data;
    uint64_t len;
    struct iovec *iov;
    unsigned nb_iov;
};

/* @len bytes of @pattern; false: no memory, said. */
bool io_buffer_init(const struct io *io, struct io_buffer *buf, uint64_t len,
                    int pattern);
/* The same from lengths as text, one per buffer; false: a wrong one, said. */
bool io_buffer_parse(const struct io *io, struct io_buffer *buf, char *const *lengths,
                     int nb, int pattern);
void io_buffer_done(struct io_buffer *buf);

/* ---- aio.c ------------------------------------------------------------------------
 */

/* Let requests in flight complete, except those that stopped at a break point. */
void io_settle(struct io *io);

/* ---- open.c ---------------------------------------------------------------------- */

/* How an image is to be opened; what the program's options and `open` have in common.
 */
struct io_open {
    const char *format;
    bool read_only, snapshot, copy_on_read, force_share;
    bool have_cache, direct, no_flush, writethrough;
    bool discard; /* on unless -d says otherwise */
    const char *aio;
    json_t *options; /* of -o, flat; or NULL */
};

/* Every write is on stable storage when it is done, unless a cache mode is asked for.
 */
#define IO_OPEN_INIT \
    ((struct io_open){.discard = true, .have_cache = true, .writethrough = true})

/* -t, -d, -i; false: not such a mode, said. */
bool io_open_cache(const struct io *io, struct io_open *o, const char *mode);
bool io_open_discard(const struct io *io, struct io_open *o, const char *mode);
bool io_open_aio(const struct io *io, struct io_open *o, const char *mode);

/* Open @name (NULL: the options say which) as io->blk. */
int io_open_image(struct io *io, const struct io_open *o, const char *name);

/* Open io->options; on failure nothing is open. */
bool io_open_options(struct io *io, json_t *options, GError **error);
bool io_close_image(struct io *io, GError **error);
void io_report_close(struct io *io, GError *error);

/* ---- the commands ------------------------------------------------------------------
 */

int io_read(struct io *io, int argc, char **argv);
int io_readv(struct io *io, int argc, char **argv);
int io_write(struct io *io, int argc, char **argv);
int io_writev(struct io *io, int argc, char **argv);
int io_discard(struct io *io, int argc, char **argv);
int io_aio_read(struct io *io, int argc, char **argv);
int io_aio_write(struct io *io, int argc, char **argv);
int io_aio_flush(struct io *io, int argc, char **argv);
int io_flush(struct io *io, int argc, char **argv);
int io_truncate(struct io *io, int argc, char **argv);
int io_length(struct io *io, int argc, char **argv);
int io_info(struct io *io, int argc, char **argv);
int io_alloc(struct io *io, int argc, char **argv);
int io_map(struct io *io, int argc, char **argv);
int io_open(struct io *io, int argc, char **argv);
int io_close(struct io *io, int argc, char **argv);
int io_reopen(struct io *io, int argc, char **argv);
int io_break(struct io *io, int argc, char **argv);
int io_remove_break(struct io *io, int argc, char **argv);
int io_resume(struct io *io, int argc, char **argv);
int io_wait_break(struct io *io, int argc, char **argv);
int io_sleep(struct io *io, int argc, char **argv);
int io_sigraise(struct io *io, int argc, char **argv);
int io_abort(struct io *io, int argc, char **argv);

/* The longest request, bytes. */
enum { IO_REQUEST_MAX = 0x7ffffe00, IO_SECTOR = 512, IO_DEFAULT_PATTERN = 0xcd };

#endif
