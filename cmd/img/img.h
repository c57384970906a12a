#ifndef CMD_IMG_IMG_H
#define CMD_IMG_IMG_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>

#include <glib.h>
#include <jansson.h>

#include "block/image.h"

/*
 * lodge-img: qemu-img's command line on block/. One file per subcommand; this is what
 * they share. Messages begin with the program's name as it was called, so a link named
 * qemu-img stands in for it.
 */

struct img {
    const char *prog; /* as called, without folders */
    struct loop *loop;
    struct secrets *secrets; /* of --object secret */
    bool quiet;
    const char *aio;    /* how files do I/O; NULL: as they see fit. Borrowed */
    unsigned nb_opened; /* for the names of nodes in messages */
};

/* A subcommand: argv[0] is its name. Returns the exit code. */
typedef int (*img_fn)(struct img *im, int argc, char **argv);

int img_amend(struct img *im, int argc, char **argv);
int img_bench(struct img *im, int argc, char **argv);
int img_bitmap(struct img *im, int argc, char **argv);
int img_check(struct img *im, int argc, char **argv);
int img_commit(struct img *im, int argc, char **argv);
int img_compare(struct img *im, int argc, char **argv);
int img_convert(struct img *im, int argc, char **argv);
int img_create(struct img *im, int argc, char **argv);
int img_dd(struct img *im, int argc, char **argv);
int img_info(struct img *im, int argc, char **argv);
int img_map(struct img *im, int argc, char **argv);
int img_measure(struct img *im, int argc, char **argv);
int img_rebase(struct img *im, int argc, char **argv);
int img_resize(struct img *im, int argc, char **argv);
int img_snapshot(struct img *im, int argc, char **argv);

void img_help(struct img *im);

/* ---- messages -------------------------------------------------------------------- */

/* "prog: text" and a new line on standard error. */
void img_error(const struct img *im, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* @error, with @fmt in front; frees it. */
void img_report(const struct img *im, GError *error, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);

/* The text of @error as users of QEMU know it: without guesses of what was meant. The
 * caller frees it. */
char *img_plain_words(const struct img *im, const GError *error);

/* A wrong command line: the message and where help is. Returns exit code 1. */
int img_usage(const struct img *im, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* On standard output unless -q. */
void img_say(const struct img *im, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* ---- the command line --------------------------------------------------------------
 */

/* What many subcommands take, with one meaning everywhere. */
enum {
    OPT_OUTPUT = 256,
    OPT_BACKING_CHAIN,
    OPT_OBJECT,
    OPT_IMAGE_OPTS,
    OPT_TARGET_IMAGE_OPTS,
    OPT_SIZE,
    OPT_PREALLOCATION,
    OPT_SHRINK,
    OPT_SALVAGE,
    OPT_TARGET_IS_ZERO,
    OPT_BITMAPS,
    OPT_SKIP_BROKEN,
    OPT_START_OFFSET,
    OPT_MAX_LENGTH,
    OPT_FORCE,
    OPT_ACTION, /* of a subcommand; the last, others follow it */
};

/* The next option as getopt_long() finds it; -1 at the end, '?' when it was wrong and
 * has been reported (the subcommand returns 1), 'h' when help was printed. */
int img_getopt(struct img *im, int argc, char **argv, const char *letters,
               const struct option *longs);

/* --output (NULL: not given): *ret_json; false when it was reported. */
bool img_parse_output(const struct img *im, const char *text, bool *ret_json);

/* A size in bytes as -o size and offsets have it; reports what is wrong. */
bool img_parse_size(const struct img *im, const char *what, const char *text,
                    uint64_t *ret);

/* The same within @least and @most. */
bool img_parse_size_in(const struct img *im, const char *what, const char *text,
                       uint64_t least, uint64_t most, uint64_t *ret);

/* "1 MiB" for people; the caller frees it. */
char *img_human_size(uint64_t bytes);

/* ---- images
 * -------------------------------------------------------------------------- */

#define IMG_RW          (1u << 0)
#define IMG_NO_BACKING  (1u << 1)
#define IMG_NO_IO       (1u << 2)
#define IMG_CHECK       (1u << 3)
#define IMG_FORCE_SHARE (1u << 4)
#define IMG_IMAGE_OPTS  (1u << 5) /* the name is driver=...,key=value */
#define IMG_RESIZE      (1u << 6)
#define IMG_NO_SHARE    (1u << 7) /* nobody else may write meanwhile */

/*
 * Open @name. @format may be NULL, @cache NULL for writeback. NULL when it could not be
 * opened, which has been reported.
 */
struct blk *img_open(struct img *im, const char *name, const char *format,
                     unsigned flags, const char *cache);

/* The same, but the reason is not reported: @error, in words of the block layer. */
struct blk *img_try_open(struct img *im, const char *name, const char *format,
                         unsigned flags, const char *cache, GError **error);

/* The same for an image just made with @create_opts, whose keys it takes; NULL: none.
 */
struct blk *img_open_new(struct img *im, const char *name, const char *format,
                         unsigned flags, const char *cache, json_t *create_opts);

/* Whether @cache is one of the modes; *ret gets its options when not NULL. */
bool img_parse_cache(const char *cache, json_t **ret);

/* -o texts into one object; "help" or "?" sets *ret_help. False when reported. */
bool img_parse_options(struct img *im, GSList *texts, json_t *into, bool *ret_help);
void img_print_options(const char *title, const struct blk_option *a,
                       const struct blk_option *b);

/* `-o help` of creating @format in @filename (may be NULL): prints; exit code. */
int img_create_help(struct img *im, const char *format, const char *filename);

/* Read @b as it was in a snapshot: an id or a name, or snapshot.id=...,
 * snapshot.name=...; reports what is wrong. */
bool img_load_snapshot(struct img *im, struct blk *b, const char *text);

/* What reports call an image of @driver that was opened as @name with @flags: its
 * file, or json:{...} when options say more. The caller frees it. */
char *img_image_name(const char *name, const char *driver, unsigned flags);

/* Close; reports what could not be written back and returns false then. */
bool img_close(struct img *im, struct blk *b);

/* ---- bitmaps, of convert
 * ---------------------------------------------------------- */

/* Whether all can be copied; reports why not. */
bool img_can_copy_bitmaps(const struct img *im, struct blk *source, bool skip_broken);
/* Copy those of @source that can be used; reports what fails. */
bool img_copy_bitmaps(const struct img *im, struct blk *source, struct blk *target);

/* ---- output
 * -------------------------------------------------------------------------- */

/* As QEMU prints it: four blanks, members in the order its clients are used to. */
void img_print_json(json_t *v);
/* @depth: of the indentation; IMG_JSON_FLAT: all on one line. */
#define IMG_JSON_FLAT (1u << 16)
void img_json_text(GString *out, json_t *v, unsigned depth);

/* The members of an object in that order. An array of borrowed names. */
GPtrArray *img_json_keys(json_t *object);

void img_print_snapshots(const GArray *list);

/* ---- progress
 * -------------------------------------------------------------------------- */

struct img_progress {
    bool on;
    double shown; /* per cent */
};

void img_progress_start(struct img_progress *p, bool on);
void img_progress_at(struct img_progress *p, double percent);
void img_progress_end(struct img_progress *p);

/* Whether all of it is zero. */
bool img_is_zero(const void *buf, size_t len);

#endif
