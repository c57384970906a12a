#include "cmd/img/img.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "block/driver.h"
#include "block/options.h"
#include "cmd/objects.h"
#include "lib/base/base.h"

/* What the subcommands share: messages, options, opening. */

static void vmessage(const struct img *im, const char *fmt, va_list ap)
{
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", im->prog, text);
}

void img_error(const struct img *im, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vmessage(im, fmt, ap);
    va_end(ap);
}

void img_report(const struct img *im, GError *error, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *front = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    img_error(im, "%s%s", front, error ? error->message : "unknown error");
    g_clear_error(&error);
}

int img_usage(const struct img *im, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vmessage(im, fmt, ap);
    va_end(ap);
    fprintf(stderr, "Try '%s --help' for more information\n", im->prog);
    return 1;
}

void img_say(const struct img *im, const char *fmt, ...)
{
    if (im->quiet) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
}

/* ---- the command line
 * ---------------------------------------------------------------- */

int img_getopt(struct img *im, int argc, char **argv, const char *letters,
               const struct option *longs)
{
    g_autofree char *all = g_strconcat(":", letters, NULL);
    int before = optind;
    GError *error = NULL;
    int c = getopt_long(argc, argv, all, longs, NULL);
    const char *which = argv[optind - 1 < before ? before : optind - 1];
    switch (c) {
    case ':':
        img_usage(im, "missing argument for option '%s'", argv[optind - 1]);
        return '?';
    case '?': img_usage(im, "unrecognized option '%s'", which); return '?';
    case 'h': img_help(im); return 'h';
    case OPT_OBJECT:
        if (!objects_add(im->secrets, optarg, &error)) {
            img_report(im, error, "%s", "");
            return '?';
        }
        return img_getopt(im, argc, argv, letters, longs);
    default: return c;
    }
}

bool img_parse_output(const struct img *im, const char *text, bool *ret_json)
{
    if (g_str_equal(text, "json") || g_str_equal(text, "human")) {
        *ret_json = g_str_equal(text, "json");
        return true;
    }
    img_usage(im, "--output must be used with human or json as argument.");
    return false;
}

bool img_parse_size(const struct img *im, const char *what, const char *text,
                    uint64_t *ret)
{
    if (parse_size(text, 1, ret, NULL) && *ret <= INT64_MAX) {
        return true;
    }
    img_error(im, "Invalid %s specified! You may use k, M, G, T, P or E suffixes for ",
              what);
    img_error(im,
              "kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
    return false;
}

char *img_human_size(uint64_t bytes)
{
    static const char *const units[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
    int e;
    /* 1000 of a unit are shown as 0.98 of the next. */
    frexp((double)bytes / (1000.0 / 1024.0), &e);
    unsigned i = e > 0 ? (unsigned)(e - 1) / 10 : 0;
    return g_strdup_printf("%0.3g %sB",
                           (double)bytes / (double)(UINT64_C(1) << (i * 10)), units[i]);
}

/* ---- images
 * ------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    bool direct, no_flush, writeback;
} caches[] = {
    {"none", true, false, true},        {"off", true, false, true},
    {"directsync", true, false, false}, {"writeback", false, false, true},
    {"unsafe", false, true, true},      {"writethrough", false, false, false},
};

bool img_parse_cache(const char *cache, json_t **ret)
{
    for (size_t i = 0; i < ARRAY_LEN(caches); i++) {
        if (g_str_equal(caches[i].name, cache)) {
            if (ret) {
                *ret =
                    json_pack("{s:b, s:b, s:b}", "direct", caches[i].direct, "no-flush",
                              caches[i].no_flush, "writeback", caches[i].writeback);
            }
            return true;
        }
    }
    return false;
}

static void warn(void *opaque, const char *message)
{
    const struct img *im = opaque;
    fflush(stdout);
    if (g_str_has_prefix(message, "qcow2: Repairing") ||
        g_str_has_prefix(message, "qcow2: ERROR") ||
        g_str_has_prefix(message, "qcow2: Rebuilding")) {
        fprintf(stderr, "%s\n", message + strlen("qcow2: "));
    } else {
        fprintf(stderr, "%s: %s\n", im->prog, message);
    }
}

static void quiet_probe(void *opaque, const char *message)
{
    if (g_str_has_prefix(message, "Image format was not specified")) {
        const struct img *im = opaque;
        fprintf(stderr, "WARNING: %s\n", message);
        (void)im;
        return;
    }
    warn(opaque, message);
}

static json_t *options_for(const char *name, const char *format, unsigned flags,
                           GError **error)
{
    if (!(flags & IMG_IMAGE_OPTS)) {
        return blk_options_from_name(name, format, error);
    }
    json_t *flat = blk_options_parse(name, NULL, error);
    json_t *o = flat ? blk_options_nest(flat, error) : NULL;
    json_decref(flat);
    return o;
}

/* What @create_opts says of keys: the image that they made is opened with them. */
static void add_key_secrets(json_t *o, json_t *create_opts)
{
    const char *key;
    json_t *value;
    json_object_foreach(create_opts, key, value)
    {
        if (g_str_has_suffix(key, "key-secret")) {
            json_object_set(o, key, value);
        }
    }
}

struct blk *img_open(struct img *im, const char *name, const char *format,
                     unsigned flags, const char *cache)
{
    return img_open_new(im, name, format, flags, cache, NULL);
}

struct blk *img_open_new(struct img *im, const char *name, const char *format,
                         unsigned flags, const char *cache, json_t *create_opts)
{
    GError *error = NULL;
    bool rw = flags & IMG_RW;
    struct blk_perms perms = {(flags & IMG_NO_IO ? 0 : BLK_PERM_READ) |
                                  (rw ? BLK_PERM_WRITE | BLK_PERM_RESIZE : 0),
                              BLK_PERM_ALL};
    struct blk_open_args args = {
        .loop = im->loop,
        .secrets = im->secrets,
        .perms = &perms,
        .warn = quiet_probe,
        .opaque = im,
        .flags = (flags & IMG_NO_BACKING ? BLK_OPEN_NO_BACKING : 0) |
                 (flags & IMG_NO_IO ? BLK_OPEN_NO_IO : 0) |
                 (flags & IMG_CHECK ? BLK_OPEN_CHECK : 0),
    };
    json_t *o = options_for(name, format, flags, &error);
    struct blk *b = NULL;
    if (o) {
        json_t *c = NULL;
        add_key_secrets(o, create_opts);
        if (cache && img_parse_cache(cache, &c) && !json_object_get(o, "cache")) {
            json_object_set(o, "cache", c);
        }
        json_decref(c);
        if (!json_object_get(o, "read-only")) {
            json_object_set_new(o, "read-only", json_boolean(!rw));
        }
        if (!json_object_get(o, "discard")) {
            json_object_set_new(o, "discard", json_string("unmap"));
        }
        if (flags & IMG_FORCE_SHARE) {
            json_object_set_new(o, "force-share", json_true());
        }
        b = blk_open(&args, o, &error);
        json_decref(o);
    }
    if (!b) {
        img_report(im, error, "Could not open '%s': ", name);
    }
    return b;
}

bool img_close(struct img *im, struct blk *b)
{
    GError *error = NULL;
    if (!b || blk_close(b, &error)) {
        return true;
    }
    img_report(im, error, "%s", "");
    return false;
}

bool img_parse_options(struct img *im, GSList *texts, json_t *into, bool *ret_help)
{
    GError *error = NULL;
    for (GSList *l = texts; l; l = l->next) {
        const char *text = l->data;
        json_t *o = blk_options_parse(text, NULL, &error);
        if (!o) {
            img_report(im, error, "Invalid options: ");
            return false;
        }
        if (json_object_get(o, "help") || json_object_get(o, "?")) {
            *ret_help = true;
        }
        json_object_update(into, o);
        json_decref(o);
    }
    return true;
}

/* ---- -o help
 * ------------------------------------------------------------------------------ */

static const char *type_text(enum blk_opt_type t)
{
    switch (t) {
    case BLK_OPT_BOOL: return "bool (on/off)";
    case BLK_OPT_SIZE: return "size";
    case BLK_OPT_INT: return "num";
    default: return "str";
    }
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const struct blk_option *const *)a)->name,
                  (*(const struct blk_option *const *)b)->name);
}

void img_print_options(const char *title, const struct blk_option *a,
                       const struct blk_option *b)
{
    g_autoptr(GPtrArray) all = g_ptr_array_new();
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    const struct blk_option *const tables[] = {a, b};
    for (size_t t = 0; t < ARRAY_LEN(tables); t++) {
        for (const struct blk_option *o = tables[t]; o && o->name; o++) {
            if (g_hash_table_add(seen, (char *)o->name)) {
                g_ptr_array_add(all, (void *)o);
            }
        }
    }
    g_ptr_array_sort(all, by_name);
    printf("%s\n", title);
    for (unsigned i = 0; i < all->len; i++) {
        const struct blk_option *o = all->pdata[i];
        g_autofree char *left = g_strdup_printf("%s=<%s>", o->name, type_text(o->type));
        printf("  %-22s - %s\n", left, o->help);
    }
}

int img_create_help(struct img *im, const char *format, const char *filename)
{
    GError *error = NULL;
    struct blk_create_tables t;
    if (!blk_create_options(format, filename, &t, &error)) {
        img_report(im, error, "%s", "");
        return 1;
    }
    g_autofree char *title = g_strdup_printf(
        "Supported %s%soptions:", filename ? "" : format, filename ? "" : " ");
    img_print_options(title, t.format, t.protocol);
    if (!filename) {
        printf("\nThe protocol level may support further options.\n"
               "Specify the target filename to include those options.\n");
    }
    return 0;
}

/* ---- progress
 * ------------------------------------------------------------------------------ */

void img_progress_start(struct img_progress *p, bool on)
{
    p->on = on;
    p->shown = -1;
    img_progress_at(p, 0);
}

void img_progress_at(struct img_progress *p, double percent)
{
    if (p->on && (percent >= p->shown + 1 || percent >= 100)) {
        p->shown = percent;
        printf("    (%3.2f/100%%)\r", percent);
        fflush(stdout);
    }
}

void img_progress_end(struct img_progress *p)
{
    if (p->on) {
        printf("    (%3.2f/100%%)\r\n", p->shown < 0 ? 0 : p->shown);
        fflush(stdout);
    }
}

bool img_is_zero(const void *buf, size_t len)
{
    const char *p = buf;
    static const char zeros[16];
    size_t head = MIN(len, sizeof(zeros));
    return memcmp(p, zeros, head) == 0 &&
           (len <= head || memcmp(p, p + head, len - head) == 0);
}

void img_print_snapshots(const GArray *list)
{
    printf("%-10s%-17s%8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK",
           "ICOUNT");
    for (unsigned i = 0; i < list->len; i++) {
        const struct blk_snapshot *s = &g_array_index(list, struct blk_snapshot, i);
        time_t when = (time_t)s->date_sec;
        struct tm tm;
        char date[64], clock[64], icount[24] = "";
        localtime_r(&when, &tm);
        strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
        uint64_t secs = s->vm_clock_nsec / 1000000000;
        g_snprintf(clock, sizeof(clock), "%02d:%02d:%02d.%03d", (int)(secs / 3600),
                   (int)((secs / 60) % 60), (int)(secs % 60),
                   (int)((s->vm_clock_nsec / 1000000) % 1000));
        if (s->icount != UINT64_MAX) {
            g_snprintf(icount, sizeof(icount), "%" G_GUINT64_FORMAT, s->icount);
        }
        g_autofree char *size = img_human_size(s->vm_state_size);
        printf("%-9s %-16s %8s%20s%13s%11s\n", s->id, s->name, size, date, clock,
               icount);
    }
}
