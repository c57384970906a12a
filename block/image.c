#include "block/image.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "block/blk_priv.h"
#include "block/format/raw.h"
#include "lib/base/base.h"
#include "lib/base/ck.h"

/* Images as a whole. Each function finds the format's operation, or says that it has
 * none, and holds the metadata lock around it. */

/* ---- creating
 * -------------------------------------------------------------------------- */

static const struct blk_format *creatable(const char *name, GError **error)
{
    for (size_t i = 0; blk_formats[i]; i++) {
        if (g_str_equal(blk_formats[i]->name, name)) {
            if (!blk_formats[i]->creatable) {
                error_msg(error, "Format driver '%s' does not support image creation",
                          name);
                return NULL;
            }
            return blk_formats[i];
        }
    }
    error_msg(error, "Unknown file format '%s'", name);
    return NULL;
}

/* The protocol of a name, by its prefix; files have none. */
static const struct blk_protocol *protocol_of(const char *filename, GError **error)
{
    if (g_str_has_prefix(filename, "json:")) {
        error_msg(error, "Unknown protocol 'json'");
        return NULL;
    }
    /* A file without a name fails when it is made. */
    json_t *o = blk_options_from_name(*filename ? filename : ".", NULL, error);
    const struct blk_protocol *found = NULL;
    json_t *file = o ? json_object_get(o, "file") : NULL;
    const char *name = file ? json_string_value(json_object_get(file, "driver")) : NULL;
    for (size_t i = 0; o && blk_protocols[i]; i++) {
        if (name && g_str_equal(blk_protocols[i]->name, name)) {
            found = blk_protocols[i];
        }
    }
    if (o && (!found || !found->create)) {
        error_msg(error, "Protocol driver '%s' does not support image creation",
                  name ? name : "json");
        found = NULL;
    }
    json_decref(o);
    return found;
}

bool blk_create_options(const char *format, const char *filename,
                        struct blk_create_tables *ret, GError **error)
{
    const struct blk_format *f = creatable(format, error);
    const struct blk_protocol *p = f && filename ? protocol_of(filename, error) : NULL;
    if (!f || (filename && !p)) {
        return false;
    }
    *ret =
        (struct blk_create_tables){f->creatable->options, p ? p->create_options : NULL};
    return true;
}

static bool fill_defaults(const struct blk_option *o, json_t *opts)
{
    for (; o && o->name; o++) {
        if (o->def && !json_object_get(opts, o->name)) {
            json_object_set_new(opts, o->name, json_string(o->def));
        }
    }
    return true;
}

static bool known(const struct blk_option *o, const char *name)
{
    for (; o && o->name; o++) {
        if (g_str_equal(o->name, name)) {
            return true;
        }
    }
    return false;
}

static bool is_switch(const char *text)
{
    static const char *const words[] = {"on", "yes",   "true", "y", "off",
                                        "no", "false", "n",    NULL};
    return g_strv_contains(words, text);
}

/* Values in the words of QEMU, whose users these options have. One of a few words is
 * judged later, by values_known(). */
static bool value_fits(const struct blk_option *o, json_t *v, GError **error)
{
    const char *text = json_string_value(v);
    GError *why = NULL;
    bool large;
    uint64_t n;
    if (!text) {
        return true;
    }
    switch (o->type) {
    case BLK_OPT_BOOL:
        return is_switch(text) ||
               error_msg(error, "Parameter '%s' expects 'on' or 'off'", o->name);
    case BLK_OPT_SIZE:
        if (parse_size(text, 1, &n, &why)) {
            return n <= INT64_MAX ||
                   error_msg(error, "Could not resize image: Image size cannot be "
                                    "negative");
        }
        large = g_str_has_suffix(why->message, "is too large");
        g_error_free(why);
        if (large) {
            return error_msg(error, "Value '%s' is out of range for parameter '%s'",
                             text, o->name);
        }
        return error_msg(
            error,
            "Parameter '%s' expects a non-negative number below 2^64\n"
            "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, "
            "tera-, peta-\nand exabytes, respectively.",
            o->name);
    case BLK_OPT_INT:
        text += *text == '-'; /* a large number, which no option takes */
        return g_ascii_string_to_unsigned(text, 10, 0, INT64_MAX, &n, NULL) ||
               error_msg(error, "Parameter '%s' expects a number", o->name);
    default: return true;
    }
}

/* @above: a table that is asked first for options of both. */
static bool values_fit(const struct blk_option *o, const struct blk_option *above,
                       json_t *opts, GError **error)
{
    for (; o && o->name; o++) {
        if (!known(above, o->name) &&
            !value_fits(o, json_object_get(opts, o->name), error)) {
            return false;
        }
    }
    return true;
}

/* Take out of @opts what blk_options_check() would refuse although it is a matter of
 * values_known(), or reads differently from here. */
static json_t *set_aside(const struct blk_option *o, json_t *opts)
{
    json_t *aside = json_object();
    for (; o && o->name; o++) {
        json_t *v = json_object_get(opts, o->name);
        const char *text = json_string_value(v);
        if (!text) {
            continue;
        }
        if (o->type == BLK_OPT_ENUM && !g_strv_contains(o->values, text)) {
            json_object_set(aside, o->name, v);
            json_object_del(opts, o->name);
        } else if (o->type == BLK_OPT_BOOL && text[0] && !text[1]) {
            json_object_set_new(opts, o->name, json_boolean(*text == 'y'));
        } else if (o->type == BLK_OPT_INT && *text == '-') {
            json_object_set_new(opts, o->name, json_integer(INT64_MAX));
        }
    }
    return aside;
}

bool blk_create_prepare(const struct blk_create_tables *t, json_t *opts, GError **error)
{
    const char *key;
    json_t *value;
    json_object_foreach(opts, key, value)
    {
        if (!known(t->format, key) && !known(t->protocol, key)) {
            return error_msg(error, "Invalid parameter '%s'", key);
        }
    }
    if (!values_fit(t->format, NULL, opts, error) ||
        !values_fit(t->protocol, t->format, opts, error)) {
        return false;
    }
    fill_defaults(t->format, opts);
    fill_defaults(t->protocol, opts);
    static const struct blk_option none[] = {{0}};
    const struct blk_option *const tables[] = {t->format ? t->format : none,
                                               t->protocol ? t->protocol : none, NULL};
    json_t *aside[] = {set_aside(t->format, opts), set_aside(t->protocol, opts)};
    bool ok = blk_options_check(opts, tables, "image", error);
    for (size_t i = 0; i < ARRAY_LEN(aside); i++) {
        json_object_update(opts, aside[i]);
        json_decref(aside[i]);
    }
    return ok;
}

/* Options that are one of a few words. @terse: as QEMU says it of files. */
static bool values_known(const struct blk_option *o, const struct blk_option *above,
                         bool terse, json_t *opts, GError **error)
{
    for (; o && o->name; o++) {
        const char *text = blk_opt_str(opts, o->name, NULL);
        if (o->type != BLK_OPT_ENUM || known(above, o->name) || !text ||
            g_strv_contains(o->values, text)) {
            continue;
        }
        if (terse && g_str_equal(text, "metadata")) {
            return error_msg(error, "Unsupported preallocation mode: %s", text);
        }
        if (terse) {
            return error_msg(error, "invalid parameter value: %s", text);
        }
        const char *dot = strrchr(o->name, '.');
        g_autofree char *name =
            g_strdelimit(g_strdup(dot ? dot + 1 : o->name), "_", '-');
        return error_msg(error, "Parameter '%s' does not accept value '%s'", name,
                         text);
    }
    return true;
}

/* What the table has of @opts, taken over; the rest is the other level's. */
static json_t *options_for(const struct blk_option *table, json_t *opts)
{
    json_t *o = json_object();
    for (; table && table->name; table++) {
        json_t *v = json_object_get(opts, table->name);
        if (v) {
            json_object_set(o, table->name, v);
        }
    }
    return o;
}

static bool create_in(const struct blk_open_args *args, const struct blk_format *f,
                      const char *filename, json_t *opts, GError **error)
{
    struct blk_perms perms = {BLK_PERM_READ | BLK_PERM_WRITE | BLK_PERM_RESIZE,
                              BLK_PERM_READ};
    struct blk_open_args a = *args;
    a.perms = &perms;
    a.flags = 0;
    json_t *o = blk_options_from_name(filename, NULL, error);
    json_t *file = json_incref(json_object_get(o, "file"));
    json_decref(o);
    struct blk *node = blk_open(&a, file, error);
    json_decref(file);
    if (!node) {
        return false;
    }
    json_t *own = options_for(f->creatable->options, opts);
    bool ok = f->creatable->create(node, own, error);
    json_decref(own);
    if (ok) {
        int r = blk_run(node, BLK_FLUSH, 0, NULL, 0, 0, 0);
        ok = r == 0 || error_errno(error, -r, "cannot flush '%s'", filename);
    }
    blk_unref(node);
    return ok;
}

bool blk_create(const struct blk_open_args *args, const char *format,
                const char *filename, json_t *opts, GError **error)
{
    const struct blk_format *f = creatable(format, error);
    const struct blk_protocol *p = f ? protocol_of(filename, error) : NULL;
    if (!f || !p) {
        return false;
    }
    if (!values_known(p->create_options, f->creatable->options, true, opts, error) ||
        !values_known(f->creatable->options, NULL, f->creatable->terse, opts, error)) {
        return false;
    }
    json_t *below = options_for(p->create_options, opts);
    /* The file is as long as the disk for raw alone; else the format decides. */
    bool whole = !f->creatable->create;
    if (!whole) {
        json_object_set_new(below, "size", json_integer(0));
        json_object_del(below, "preallocation");
    }
    const char *path = g_str_has_prefix(filename, "file:") ? filename + 5 : filename;
    bool ok = p->create(path, below, error);
    json_decref(below);
    return ok && (whole || create_in(args, f, filename, opts, error));
}

bool blk_new_is_zero(const struct blk *b)
{
    return !b->format || !b->format->new_is_noise;
}

bool blk_is_flat(const struct blk *b)
{
    return b->proto || (b->format->writable && !b->format->writable->reserve);
}

bool blk_measure(const char *format, json_t *opts, const struct blk_measure_source *src,
                 struct blk_measure *ret, GError **error)
{
    const struct blk_format *f = creatable(format, error);
    if (!f) {
        return false;
    }
    if (!f->creatable->measure) {
        return error_msg(error, "Block driver '%s' does not support size measurement",
                         format);
    }
    return values_known(f->creatable->options, NULL, f->creatable->terse, opts,
                        error) &&
           f->creatable->measure(opts, src, ret, error);
}

/* ---- describing
 * ------------------------------------------------------------------------- */

static int64_t allocated_of(struct blk *b)
{
    if (b->proto && b->proto->allocated) {
        return b->proto->allocated(b);
    }
    int64_t sum = b->proto ? -ENOTSUP : 0;
    if (b->file && b->core->children) {
        sum = 0;
        for (unsigned i = 0; i < b->core->children->len; i++) {
            struct blk *c = g_array_index(b->core->children, struct blk_child, i).blk;
            int64_t n = c == b->backing ? 0 : allocated_of(c);
            if (n < 0) {
                return n;
            }
            sum += n;
        }
    }
    return sum;
}

static json_t *snapshot_info(const struct blk_snapshot *s)
{
    json_t *o = json_object();
    json_object_set_new(o, "id", json_string_nocheck(s->id));
    json_object_set_new(o, "name", json_string_nocheck(s->name));
    json_object_set_new(o, "vm-state-size", json_integer((json_int_t)s->vm_state_size));
    json_object_set_new(o, "date-sec", json_integer(s->date_sec));
    json_object_set_new(o, "date-nsec", json_integer(s->date_nsec));
    json_object_set_new(o, "vm-clock-sec",
                        json_integer((json_int_t)(s->vm_clock_nsec / 1000000000)));
    json_object_set_new(o, "vm-clock-nsec",
                        json_integer((json_int_t)(s->vm_clock_nsec % 1000000000)));
    if (s->icount != UINT64_MAX) {
        json_object_set_new(o, "icount", json_integer((json_int_t)s->icount));
    }
    return o;
}

json_t *blk_info(struct blk *b, const char *filename, GError **error)
{
    json_t *o = json_object();
    int64_t used = allocated_of(b);
    json_object_set_new(o, "virtual-size", json_integer((json_int_t)blk_length(b)));
    const struct blk *bottom = b->format ? b->file : b;
    bool named = bottom && bottom->proto && bottom->proto->names_itself;
    json_object_set_new(o, "filename",
                        json_string_nocheck(named ? bottom->filename : filename));
    json_object_set_new(o, "format", json_string(blk_get_driver_name(b)));
    if (!named || b->format != &raw_format) {
        json_object_set_new(o, "dirty-flag", json_false());
    }
    if (used >= 0) {
        json_object_set_new(o, "actual-size", json_integer(used));
    }
    if (b->format && b->format->info) {
        blk_meta_lock(b);
        b->format->info(b, o);
        blk_meta_unlock(b);
    }
    const char *backing = json_string_value(json_object_get(o, "backing-filename"));
    if (backing) {
        g_autofree char *full = blk_backing_path(b->filename, backing);
        json_object_set_new(o, "full-backing-filename", json_string_nocheck(full));
    }
    GArray *list = blk_snapshots(b);
    if (list->len) {
        json_t *all = json_array();
        for (unsigned i = 0; i < list->len; i++) {
            json_array_append_new(
                all, snapshot_info(&g_array_index(list, struct blk_snapshot, i)));
        }
        json_object_set_new(o, "snapshots", all);
    }
    g_array_free(list, TRUE);
    return o;
}

/* ---- checking
 * ---------------------------------------------------------------------------- */

int blk_check(struct blk *b, struct blk_check *c)
{
    if (!b->format || !b->format->checkable) {
        return -ENOTSUP;
    }
    if (c->fix && b->read_only) {
        return -EROFS;
    }
    c->result = (struct blk_check_result){0};
    blk_drain(b);
    blk_meta_lock(b);
    int r = b->format->checkable->check(b, c);
    blk_meta_unlock(b);
    return r;
}

/* ---- snapshots
 * ----------------------------------------------------------------------------- */

static const struct blk_snapshot_ops *snapshot_ops(struct blk *b, GError **error)
{
    if (b->format && b->format->snapshots) {
        return b->format->snapshots;
    }
    error_errno(error, ENOTSUP, "images of type '%s' have no internal snapshots",
                blk_get_driver_name(b));
    return NULL;
}

bool blk_has_snapshots(const struct blk *b)
{
    return b->format && b->format->snapshots;
}

GArray *blk_snapshots(struct blk *b)
{
    const struct blk_snapshot_ops *ops = snapshot_ops(b, NULL);
    if (!ops) {
        return g_array_new(FALSE, FALSE, sizeof(struct blk_snapshot));
    }
    blk_meta_lock(b);
    GArray *list = ops->list(b);
    blk_meta_unlock(b);
    return list;
}

int blk_snapshot_match(const GArray *list, const char *id, const char *name)
{
    for (unsigned i = 0; i < list->len; i++) {
        const struct blk_snapshot *s = &g_array_index(list, struct blk_snapshot, i);
        if ((!id || g_str_equal(s->id, id)) && (!name || g_str_equal(s->name, name))) {
            return (int)i;
        }
    }
    return -1;
}

int blk_snapshot_find(const GArray *list, const char *id_or_name)
{
    int i = blk_snapshot_match(list, id_or_name, NULL);
    return i >= 0 ? i : blk_snapshot_match(list, NULL, id_or_name);
}

/* The first change since the node was opened: tell the format. */
static bool begin_locked(struct blk *b, GError **error)
{
    if (b->read_only) {
        return error_errno(error, EROFS, "'%s'", blk_get_filename(b));
    }
    int r = blk_begin_locked(b);
    return r == 0 || error_errno(error, -r, "cannot begin to write");
}

bool blk_snapshot_create(struct blk *b, struct blk_snapshot *sn, GError **error)
{
    const struct blk_snapshot_ops *ops = snapshot_ops(b, error);
    if (!ops) {
        return false;
    }
    blk_drain(b);
    blk_meta_lock(b);
    bool ok = begin_locked(b, error) && ops->create(b, sn, error);
    blk_meta_unlock(b);
    return ok;
}

bool blk_snapshot_apply(struct blk *b, const char *id, GError **error)
{
    const struct blk_snapshot_ops *ops = snapshot_ops(b, error);
    if (!ops) {
        return false;
    }
    blk_drain(b);
    blk_meta_lock(b);
    bool ok = begin_locked(b, error) && ops->apply(b, id, error);
    blk_meta_unlock(b);
    blk_forget_chunks(b);
    return ok;
}

bool blk_snapshot_delete(struct blk *b, const char *id, GError **error)
{
    const struct blk_snapshot_ops *ops = snapshot_ops(b, error);
    if (!ops) {
        return false;
    }
    blk_drain(b);
    blk_meta_lock(b);
    bool ok = begin_locked(b, error) && ops->remove(b, id, error);
    blk_meta_unlock(b);
    return ok;
}

bool blk_snapshot_load(struct blk *b, const char *id, GError **error)
{
    const struct blk_snapshot_ops *ops = snapshot_ops(b, error);
    if (!ops) {
        return false;
    }
    if (!b->read_only) {
        return error_msg(error, "'%s' is open for writing", blk_get_filename(b));
    }
    blk_drain(b);
    blk_meta_lock(b);
    bool ok = ops->load(b, id, error);
    blk_meta_unlock(b);
    blk_forget_chunks(b);
    return ok;
}

/* ---- headers
 * -------------------------------------------------------------------------------- */

static const struct blk_amend_ops *amend_ops(const struct blk *b)
{
    return b->format ? b->format->amendable : NULL;
}

const struct blk_option *blk_amend_options(const struct blk *b)
{
    const struct blk_amend_ops *ops = amend_ops(b);
    return ops && ops->amend ? ops->options : NULL;
}

static void no_progress(void *opaque, uint64_t done, uint64_t total)
{
}

/* The options are amendable, or it is said of what can only be created so. */
static bool amend_options_known(const struct blk *b, const struct blk_amend_ops *ops,
                                json_t *opts, GError **error)
{
    const struct blk_option *create =
        b->format->creatable ? b->format->creatable->options : NULL;
    const char *key, *bad = NULL;
    json_t *value;
    bool creating = true;
    json_object_foreach(opts, key, value)
    {
        bad = bad || known(ops->options, key) ? bad : key;
        creating &= known(create, key);
    }
    return !bad || error_msg(error, "Invalid parameter '%s'%s", bad,
                             creating ? "\nThis option is only supported for image "
                                        "creation"
                                      : "");
}

bool blk_amend(struct blk *b, json_t *opts, bool force,
               const struct blk_progress *progress, GError **error)
{
    static const struct blk_progress quiet = {.at = no_progress};
    const struct blk_amend_ops *ops = amend_ops(b);
    if (!ops || !ops->amend) {
        return error_msg(error, "Format driver '%s' does not support option amendment",
                         blk_get_driver_name(b));
    }
    struct blk_create_tables t = {.format = ops->options};
    if (!amend_options_known(b, ops, opts, error) ||
        !blk_create_prepare(&t, opts, error) ||
        !values_known(ops->options, NULL, false, opts, error)) {
        return false;
    }
    blk_drain(b);
    blk_meta_lock(b);
    bool ok = begin_locked(b, error) &&
              ops->amend(b, opts, force, progress ? progress : &quiet, error);
    blk_meta_unlock(b);
    blk_forget_chunks(b);
    return ok;
}

bool blk_set_backing(struct blk *b, const char *name, const char *format,
                     GError **error)
{
    const struct blk_amend_ops *ops = amend_ops(b);
    if (!ops || !ops->set_backing) {
        return error_msg(error, "%s",
                         g_strerror(ENOTSUP)); /* as QEMU's users know it */
    }
    blk_drain(b);
    blk_meta_lock(b);
    bool ok = begin_locked(b, error) && ops->set_backing(b, name, format, error);
    blk_meta_unlock(b);
    return ok;
}

bool blk_make_empty(struct blk *b, GError **error)
{
    const struct blk_amend_ops *ops = amend_ops(b);
    if (!ops || !ops->make_empty) {
        return error_errno(error, ENOTSUP, "images of type '%s' cannot be emptied",
                           blk_get_driver_name(b));
    }
    blk_drain(b);
    blk_meta_lock(b);
    bool ok = begin_locked(b, error) && ops->make_empty(b, error);
    blk_meta_unlock(b);
    blk_forget_chunks(b);
    return ok;
}

/* ---- dirty bitmaps
 * ------------------------------------------------------------------------------ */

bool blk_has_bitmaps(const struct blk *b)
{
    return b->format && b->format->bitmaps;
}

bool blk_takes_bitmaps(const struct blk *b)
{
    return blk_has_bitmaps(b) &&
           (!b->format->bitmaps->able || b->format->bitmaps->able(b));
}

GArray *blk_bitmaps(struct blk *b)
{
    if (!blk_has_bitmaps(b)) {
        return g_array_new(FALSE, TRUE, sizeof(struct blk_bitmap));
    }
    blk_meta_lock(b);
    GArray *all = b->format->bitmaps->list(b);
    blk_meta_unlock(b);
    return all;
}

/* The operations with meta held and the image begun; let go with blk_meta_unlock(). */
static const struct blk_bitmap_ops *begin_bitmaps(struct blk *b, GError **error)
{
    if (!blk_has_bitmaps(b)) {
        error_msg(error, "Can't store persistent bitmaps to %s: %s",
                  blk_get_node_name(b), g_strerror(ENOTSUP));
        return NULL;
    }
    blk_drain(b);
    blk_meta_lock(b);
    if (begin_locked(b, error)) {
        return b->format->bitmaps;
    }
    blk_meta_unlock(b);
    return NULL;
}

static bool end_bitmaps(struct blk *b, const struct blk_bitmap_ops *ops, bool ok)
{
    if (ops) {
        blk_meta_unlock(b);
    }
    return ok;
}

bool blk_bitmap_add(struct blk *b, const char *name, uint64_t granularity,
                    GError **error)
{
    const struct blk_bitmap_ops *ops = begin_bitmaps(b, error);
    return end_bitmaps(b, ops, ops && ops->add(b, name, granularity, error));
}

bool blk_bitmap_remove(struct blk *b, const char *name, GError **error)
{
    if (!blk_has_bitmaps(b)) {
        return error_msg(error, "Dirty bitmap '%s' not found", name);
    }
    const struct blk_bitmap_ops *ops = begin_bitmaps(b, error);
    return end_bitmaps(b, ops, ops && ops->remove(b, name, error));
}

bool blk_bitmap_clear(struct blk *b, const char *name, GError **error)
{
    if (!blk_has_bitmaps(b)) {
        return error_msg(error, "Dirty bitmap '%s' not found", name);
    }
    const struct blk_bitmap_ops *ops = begin_bitmaps(b, error);
    return end_bitmaps(b, ops, ops && ops->clear(b, name, error));
}

bool blk_bitmap_enable(struct blk *b, const char *name, bool on, GError **error)
{
    if (!blk_has_bitmaps(b)) {
        return error_msg(error, "Dirty bitmap '%s' not found", name);
    }
    const struct blk_bitmap_ops *ops = begin_bitmaps(b, error);
    return end_bitmaps(b, ops, ops && ops->enable(b, name, on, error));
}

bool blk_bitmap_next(struct blk *b, const char *name, uint64_t offset, uint64_t len,
                     bool *ret_dirty, uint64_t *ret_len, GError **error)
{
    if (!blk_has_bitmaps(b) || !ck_range(offset, len, blk_length(b)) || !len) {
        return error_msg(error, "Dirty bitmap '%s' not found", name);
    }
    blk_meta_lock(b);
    bool ok = b->format->bitmaps->next(b, name, offset, len, ret_dirty, ret_len, error);
    blk_meta_unlock(b);
    return ok;
}

bool blk_bitmap_merge(struct blk *b, const char *name, struct blk *source,
                      const char *from, GError **error)
{
    uint64_t length = blk_length(source), run;
    if (length != blk_length(b)) {
        return error_msg(error,
                         "Bitmaps are of different sizes (destination size is %" PRIu64
                         " and source size is %" PRIu64 ") and can't be merged",
                         blk_length(b), length);
    }
    bool dirty;
    for (uint64_t at = 0; at < length; at += run) {
        if (!blk_bitmap_next(source, from, at, length - at, &dirty, &run, error)) {
            return false;
        }
        const struct blk_bitmap_ops *ops = begin_bitmaps(b, error);
        bool ok = ops && ops->set(b, name, at, dirty ? run : 0, error);
        if (!end_bitmaps(b, ops, ok)) {
            return false;
        }
    }
    return true;
}

/* ---- compressed chunks
 * ------------------------------------------------------------------------- */

static const struct blk_codec *codec_of(const struct blk *b, uint64_t *ret_chunk)
{
    *ret_chunk = 0;
    return b->format && b->format->writable && b->format->writable->codec
               ? b->format->writable->codec(b, ret_chunk)
               : NULL;
}

uint64_t blk_chunk(const struct blk *b)
{
    uint64_t chunk;
    codec_of(b, &chunk);
    return chunk;
}

bool blk_chunks_only(const struct blk *b)
{
    return b->chunks_only;
}

uint64_t blk_chunk_room(const struct blk *b)
{
    return BLK_CHUNK_ROOM(blk_chunk(b));
}

int64_t blk_encode(struct blk *b, const void *plain, uint64_t len, void *stored)
{
    uint64_t chunk;
    const struct blk_codec *codec = codec_of(b, &chunk);
    if (!codec || !chunk) {
        return -ENOTSUP;
    }
    if (len > chunk || len == 0) {
        return -EINVAL;
    }
    g_autofree uint8_t *whole = NULL;
    if (len < chunk) { /* the last one of the disk */
        whole = g_try_malloc0(chunk);
        if (!whole) {
            return -ENOMEM;
        }
        memcpy(whole, plain, len);
        plain = whole;
    }
    uint64_t room = b->chunks_only ? BLK_CHUNK_ROOM(chunk) : chunk - 1;
    int64_t n = codec->encode(plain, chunk, stored, room);
    return n == -ENOSPC ? 0 : n;
}

int blk_write_encoded(struct blk *b, uint64_t offset, const void *stored,
                      uint64_t stored_len)
{
    uint64_t chunk;
    if (!codec_of(b, &chunk) || !chunk) {
        return -ENOTSUP;
    }
    if (b->read_only) {
        return -EROFS;
    }
    if (offset % chunk || offset >= blk_length(b) || !stored_len ||
        stored_len > BLK_CHUNK_ROOM(chunk)) {
        return -EINVAL;
    }
    return blk_store_chunk(b, offset, MIN(chunk, blk_length(b) - offset), stored,
                           stored_len);
}

bool blk_close(struct blk *b, GError **error)
{
    int r = 0;
    blk_drain(b);
    if (atomic_load(&b->core->begun) && b->format->writable->finish) {
        blk_meta_lock(b);
        r = b->format->writable->finish(b);
        atomic_store(&b->core->begun, false);
        blk_meta_unlock(b);
    }
    bool ok = r == 0 || error_errno(error, -r, "cannot write the tables of '%s'",
                                    blk_get_filename(b));
    blk_unref(b);
    return ok;
}

bool blk_is_driver(const char *name)
{
    for (unsigned i = 0; blk_driver_name(i); i++) {
        if (g_str_equal(blk_driver_name(i), name)) {
            return true;
        }
    }
    return false;
}

const char *blk_driver_name(unsigned i)
{
    unsigned n = 0;
    for (size_t k = 0; blk_formats[k]; k++, n++) {
        if (n == i) {
            return blk_formats[k]->name;
        }
    }
    for (size_t k = 0; blk_protocols[k]; k++, n++) {
        if (n == i) {
            return blk_protocols[k]->name;
        }
    }
    return NULL;
}
