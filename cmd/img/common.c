#include "cmd/img/img.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
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
    g_autofree char *why = img_plain_words(im, error);
    img_error(im, "%s%s", front, why);
    g_clear_error(&error);
}

char *img_plain_words(const struct img *im, const GError *error)
{
    GString *text = g_string_new(error ? error->message : "unknown error");
    const char *hint = g_strrstr(text->str, "; did you mean '");
    if (hint) {
        g_string_truncate(text, (gsize)(hint - text->str));
    }
    return g_string_free(text, FALSE);
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
    if (!text) {
        *ret_json = false;
        return true;
    }
    if (g_str_equal(text, "json") || g_str_equal(text, "human")) {
        *ret_json = g_str_equal(text, "json");
        return true;
    }
    img_error(im, "--output must be used with human or json as argument.");
    return false;
}

/*
 * How a size reads: 0, EINVAL for nonsense, ERANGE above 2^64. Blanks and a plus in
 * front are fine, a fraction of a byte is not.
 */
static int size_from(const struct img *im, const char *text, uint64_t *ret)
{
    const char *p = text;
    while (g_ascii_isspace(*p)) {
        p++;
    }
    p += *p == '+' && g_ascii_isdigit(p[1]);
    bool hex = p[0] == '0' && (p[1] == 'x' || p[1] == 'X');
    const char *dot = hex ? NULL : strchr(p, '.');
    size_t len = strlen(p);
    bool octal = p[0] == '0' && g_ascii_isdigit(p[1]); /* decimal here */
    if (!len || (dot && g_ascii_isdigit(p[len - 1]) && strtod(dot, NULL) != 0)) {
        return EINVAL;
    }
    if (octal) {
        p += strspn(p, "0");
        p -= !g_ascii_isdigit(*p);
    }
    if (hex && strchr("bBkKmMgGtTpPeE", p[len - 1]) && !g_ascii_isxdigit(p[len - 1])) {
        fprintf(stderr,
                "%s: warning: Using a multiplier suffix on hex numbers is deprecated: "
                "%s\n",
                im->prog, text);
    }
    GError *error = NULL;
    if (parse_size(p, 1, ret, &error)) {
        return 0;
    }
    bool large = g_str_has_suffix(error->message, "is too large");
    g_error_free(error);
    return large ? ERANGE : EINVAL;
}

bool img_parse_size_in(const struct img *im, const char *what, const char *text,
                       uint64_t least, uint64_t most, uint64_t *ret)
{
    uint64_t n = 0;
    int err = size_from(im, text, &n);
    if (err == EINVAL) {
        img_error(im,
                  "Invalid %s specified. You may use k, M, G, T, P or E suffixes for",
                  what);
        img_error(
            im, "kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
    } else if (err || n < least || n > most) {
        img_error(im,
                  "Invalid %s specified. Must be between %" PRIu64 " and %" PRIu64 ".",
                  what, least, most);
    } else {
        *ret = n;
        return true;
    }
    return false;
}

bool img_parse_size(const struct img *im, const char *what, const char *text,
                    uint64_t *ret)
{
    return img_parse_size_in(im, what, text, 0, INT64_MAX, ret);
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

static void warn_of_probe(void *opaque, const char *message)
{
    static const char guess[] = "probing guessed raw.";
    const char *end = strstr(message, guess);
    if (end && g_str_has_prefix(message, "Image format was not specified")) {
        fflush(stdout);
        fprintf(stderr,
                "WARNING: %.*s\n"
                "         Automatically detecting the format is dangerous for raw "
                "images, write operations on block 0 will be restricted.\n"
                "         Specify the 'raw' format explicitly to remove the "
                "restrictions.\n",
                (int)(end + strlen(guess) - message), message);
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
    json_t *flat = blk_options_parse(name, "file", error);
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

static bool is_on(json_t *v)
{
    const char *text = json_string_value(v);
    return json_is_true(v) || (text && (!strcmp(text, "on") || !strcmp(text, "true") ||
                                        !strcmp(text, "yes") || !strcmp(text, "y")));
}

/* Messages call a node without a name #block and a number. */
static void name_node(struct img *im, json_t *o)
{
    if (!json_object_get(o, "node-name")) {
        g_autofree char *id = g_strdup_printf("#block%u%02u", ++im->nb_opened,
                                              (unsigned)g_random_int_range(0, 100));
        json_object_set_new(o, "node-name", json_string(id));
    }
}

struct blk *img_open(struct img *im, const char *name, const char *format,
                     unsigned flags, const char *cache)
{
    return img_open_new(im, name, format, flags, cache, NULL);
}

static bool names_something(json_t *o)
{
    const char *key;
    json_t *value;
    json_object_foreach(o, key, value)
    {
        if (g_str_equal(key, "driver") || g_str_equal(key, "file") ||
            g_str_has_prefix(key, "file.")) {
            return true;
        }
    }
    return false;
}

/* NULL with @error, or without it when the reason was reported. */
static struct blk *try_open(struct img *im, const char *name, const char *format,
                            unsigned flags, const char *cache, json_t *create_opts,
                            GError **error)
{
    bool rw = flags & IMG_RW;
    struct blk_perms perms = {
        (flags & IMG_NO_IO ? 0 : BLK_PERM_READ) |
            (rw ? BLK_PERM_WRITE | BLK_PERM_RESIZE : 0),
        flags & IMG_NO_SHARE ? BLK_PERM_READ | BLK_PERM_WRITE_UNCHANGED : BLK_PERM_ALL};
    struct blk_open_args args = {
        .loop = im->loop,
        .secrets = im->secrets,
        .perms = &perms,
        .warn = warn_of_probe,
        .opaque = im,
        .flags = (flags & IMG_NO_BACKING ? BLK_OPEN_NO_BACKING : 0) |
                 (flags & IMG_NO_IO ? BLK_OPEN_NO_IO : 0) |
                 (flags & IMG_CHECK ? BLK_OPEN_CHECK : 0),
    };
    if ((flags & IMG_IMAGE_OPTS) && format) {
        img_error(im, "--image-opts and --format are mutually exclusive");
        return NULL;
    }
    json_t *o = options_for(name, format, flags, error);
    struct blk *b = NULL;
    if (o && !names_something(o)) {
        error_msg(error, "Must specify either driver or file");
        g_clear_pointer(&o, json_decref);
    }
    json_t *shared = o ? json_object_get(o, "force-share") : NULL;
    if (shared && (flags & IMG_FORCE_SHARE) && (flags & IMG_IMAGE_OPTS) &&
        !is_on(shared)) {
        img_error(im, "--force-share/-U conflicts with image options");
        json_decref(o);
        return NULL;
    }
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
        name_node(im, o);
        json_t *file = json_object_get(o, "file");
        if (im->aio && json_is_object(file)) {
            json_object_set_new(file, "aio", json_string(im->aio));
        }
        b = blk_open(&args, o, error);
        json_decref(o);
    }
    return b;
}

struct blk *img_try_open(struct img *im, const char *name, const char *format,
                         unsigned flags, const char *cache, GError **error)
{
    struct blk *b = try_open(im, name, format, flags, cache, NULL, error);
    if (!b && !*error) {
        error_msg(error, "Could not open '%s'", name);
    }
    return b;
}

struct blk *img_open_new(struct img *im, const char *name, const char *format,
                         unsigned flags, const char *cache, json_t *create_opts)
{
    GError *error = NULL;
    struct blk *b = try_open(im, name, format, flags, cache, create_opts, &error);
    if (!b && error) {
        img_report(im, error, "Could not open '%s': ", name);
    }
    return b;
}

/* The snapshot that "snapshot.id=1,snapshot.name=x" names; -2 when that is wrong. */
static int snapshot_by_keys(struct img *im, const GArray *list, const char *text)
{
    GError *error = NULL;
    const char *bad = NULL, *key;
    json_t *value, *o = blk_options_parse(text, NULL, &error);
    json_object_foreach(o, key, value)
    {
        bad = g_str_equal(key, "snapshot.id") || g_str_equal(key, "snapshot.name")
                  ? bad
                  : key;
    }
    int i = -2;
    if (!o) {
        img_report(im, error, "Failed in parsing snapshot param '%s': ", text);
    } else if (bad) {
        img_error(im, "Invalid parameter '%s'", bad);
        img_error(im, "Failed in parsing snapshot param '%s'", text);
    } else {
        i = blk_snapshot_match(list,
                               json_string_value(json_object_get(o, "snapshot.id")),
                               json_string_value(json_object_get(o, "snapshot.name")));
    }
    json_decref(o);
    return i;
}

bool img_load_snapshot(struct img *im, struct blk *b, const char *text)
{
    GError *error = NULL;
    g_autoptr(GArray) list = blk_snapshots(b);
    int i = g_str_has_prefix(text, "snapshot.") ? snapshot_by_keys(im, list, text)
                                                : blk_snapshot_find(list, text);
    if (i == -2) {
        return false;
    }
    if (!blk_has_snapshots(b)) {
        img_error(im,
                  "Failed to load snapshot: Block format '%s' used by device '' does "
                  "not support temporarily loading internal snapshots",
                  blk_get_driver_name(b));
        return false;
    }
    if (i < 0) {
        img_error(im, "Failed to load snapshot: Can't find snapshot");
        return false;
    }
    if (!blk_snapshot_load(b, g_array_index(list, struct blk_snapshot, i).id, &error)) {
        img_report(im, error, "Failed to load snapshot: ");
        return false;
    }
    return true;
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

/* Names without "=" mean on, and with "no" in front off; commas must part something. */
static bool option_list_fits(const char *text)
{
    size_t n = strlen(text), commas = 0;
    while (commas < n && text[n - 1 - commas] == ',') {
        commas++;
    }
    return n && text[0] != ',' && commas % 2 == 0;
}

static void expand_no(json_t *o, const char *text)
{
    const char *key;
    void *tmp;
    json_t *value;
    json_object_foreach_safe(o, tmp, key, value)
    {
        g_autofree char *said = g_strdup_printf("%s=", key);
        if (g_str_has_prefix(key, "no") && !strstr(text, said)) {
            json_object_set_new(o, key + 2, json_string("off"));
            json_object_del(o, key);
        }
    }
}

bool img_parse_options(struct img *im, GSList *texts, json_t *into, bool *ret_help)
{
    GError *error = NULL;
    for (GSList *l = texts; l; l = l->next) {
        const char *text = l->data;
        json_t *o =
            option_list_fits(text) ? blk_options_parse(text, NULL, &error) : NULL;
        if (!o) {
            g_clear_error(&error);
            img_error(im, "Invalid option list: %s", text);
            return false;
        }
        if ((json_object_get(o, "help") && !strstr(text, "help=")) ||
            json_object_get(o, "?")) {
            *ret_help = true;
        }
        expand_no(o, text);
        json_object_update(into, o);
        json_decref(o);
    }
    return true;
}

/* ---- names of images
 * ------------------------------------------------------------------------------ */

/* The file of node @o when nothing but its name is said; else NULL. */
static const char *only_file(json_t *o)
{
    const char *driver = json_string_value(json_object_get(o, "driver"));
    const char *name = json_string_value(json_object_get(o, "filename"));
    bool plain = !driver || g_str_equal(driver, "file");
    return plain && name && g_str_has_prefix(name, "file:") ? name + strlen("file:")
           : plain                                          ? name
                                                            : NULL;
}

/* Options of @o that change what is read, as the JSON name has them. */
static json_t *strong_options(json_t *o)
{
    static const char *const weak[] = {"prealloc-mode",
                                       "prealloc-size",
                                       "lazy-refcounts",
                                       "driver",
                                       "file",
                                       "node-name",
                                       "read-only",
                                       "discard",
                                       "detect-zeroes",
                                       "force-share",
                                       "cache",
                                       "backing",
                                       NULL};
    json_t *strong = json_object();
    const char *key, *inner;
    json_t *value, *v;
    json_object_foreach(o, key, value)
    {
        if (g_strv_contains(weak, key)) {
            continue;
        }
        json_object_foreach(value, inner, v)
        {
            g_autofree char *dotted = g_strdup_printf("%s.%s", key, inner);
            json_object_set(strong, dotted, v);
        }
        if (!json_is_object(value)) {
            json_object_set(strong, key, value);
        }
    }
    return strong;
}

static char *image_name_of(json_t *o, const char *driver, const char *fallback)
{
    json_t *file = json_object_get(o, "file");
    const char *path = json_is_object(file) ? only_file(file) : only_file(o);
    json_t *strong = strong_options(o);
    char *result = NULL;
    if (path && !json_is_object(file)) {
        result = g_strdup(path);
    } else if (path && !json_object_size(strong)) {
        result = g_strdup(path);
    } else if (path) {
        GString *text = g_string_new("json:");
        json_object_set_new(strong, "driver", json_string(driver));
        json_object_set_new(strong, "file", json_pack("{s:s}", "driver", "file"));
        json_object_set_new(json_object_get(strong, "file"), "filename",
                            json_string_nocheck(path));
        img_json_text(text, strong, IMG_JSON_FLAT);
        result = g_string_free(text, FALSE);
    }
    json_decref(strong);
    return result ? result : g_strdup(fallback);
}

char *img_image_name(const char *name, const char *driver, unsigned flags)
{
    json_t *o = options_for(name, NULL, flags, NULL);
    json_t *nested = o ? blk_options_nest(o, NULL) : NULL;
    char *text = nested ? image_name_of(nested, driver, name) : g_strdup(name);
    json_decref(nested);
    json_decref(o);
    return text;
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
    p->shown = -2;
    img_progress_at(p, 0);
}

void img_progress_at(struct img_progress *p, double percent)
{
    if (p->on && (percent > p->shown + 1 || percent >= 100)) {
        p->shown = percent;
        printf("    (%3.2f/100%%)\r", percent);
        fflush(stdout);
    }
}

void img_progress_end(struct img_progress *p)
{
    if (p->on) {
        printf("\n");
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
