#include "block/blk_priv.h"

#include <string.h>

#include "block/proto/nbd.h"
#include "lib/base/base.h"

/*
 * Names of images: a path, "file:path", or json:{...}. A name with another protocol in
 * front ("nbd://host/x") is refused by that protocol's name, so that it is never taken
 * for a file of the current folder.
 */

static const char JSON_PREFIX[] = "json:";

/* The length of "proto:" at the start of @name, 0 when it has none. */
static size_t protocol_len(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                            "0123456789+-.");
    return n && name[n] == ':' ? n + 1 : 0;
}

/* What is wrong with @text, in the words of QEMU's parser where they are known. */
static char *json_fault(const char *text, const json_error_t *why)
{
    size_t word = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
    return text[strspn(text, " \t\r\n")] == '\0' ? g_strdup("Expecting a JSON value")
           : word ? g_strdup_printf("JSON parse error, invalid keyword '%.*s'",
                                    (int)word, text)
           : strstr(why->text, "near end of file")
               ? g_strdup("JSON parse error, premature EOI")
               : g_strdup(why->text);
}

static json_t *from_json(const char *text, const char *format, GError **error)
{
    json_error_t why;
    json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    if (o && !json_is_object(o)) {
        error_msg(error, "Invalid JSON object given");
    } else if (!o) {
        g_autofree char *reason = json_fault(text, &why);
        error_msg(error, "Could not parse the JSON options: %s", reason);
    }
    if (!json_is_object(o)) {
        json_decref(o);
        return NULL;
    }
    if (format && !json_object_get(o, "driver")) {
        json_object_set_new(o, "driver", json_string_nocheck(format));
    }
    return o;
}

static json_t *protocol_of(const char *name, unsigned depth, GError **error);

static json_t *file_options(const char *path)
{
    json_t *o = json_pack("{s:s}", "driver", "file");
    json_object_set_new(o, "filename", json_string_nocheck(path));
    return o;
}

/* "CONFIG:IMAGE" behind "blkdebug:". */
static json_t *blkdebug_options(const char *rest, unsigned depth, GError **error)
{
    const char *colon = strchr(rest, ':');
    if (!colon) {
        error_msg(error, "blkdebug requires both config file and image path");
        return NULL;
    }
    json_t *image = protocol_of(colon + 1, depth, error);
    if (!image) {
        return NULL;
    }
    json_t *o = json_pack("{s:s, s:o}", "driver", "blkdebug", "image", image);
    if (colon != rest) {
        g_autofree char *config = g_strndup(rest, (size_t)(colon - rest));
        json_object_set_new(o, "config", json_string_nocheck(config));
    }
    return o;
}

/* "RAW:IMAGE" behind "blkverify:". */
static json_t *blkverify_options(const char *rest, unsigned depth, GError **error)
{
    const char *colon = strchr(rest, ':');
    if (!colon) {
        error_msg(error, "blkverify requires raw copy and original image path");
        return NULL;
    }
    g_autofree char *raw = g_strndup(rest, (size_t)(colon - rest));
    json_t *o = protocol_of(raw, depth, error);
    json_t *test = o ? protocol_of(colon + 1, depth, error) : NULL;
    if (!test) {
        json_decref(o);
        return NULL;
    }
    return json_pack("{s:s, s:o, s:{s:o}}", "driver", "blkverify", "raw", o, "test",
                     "file", test);
}

static json_t *null_co_options(const char *rest, unsigned depth, GError **error)
{
    g_autofree char *name = g_strconcat("null-co:", rest, NULL);
    return json_pack("{s:s, s:s}", "driver", "null-co", "filename", name);
}

static json_t *null_aio_options(const char *rest, unsigned depth, GError **error)
{
    g_autofree char *name = g_strconcat("null-aio:", rest, NULL);
    return json_pack("{s:s, s:s}", "driver", "null-aio", "filename", name);
}

static const struct {
    const char *prefix;
    json_t *(*options)(const char *rest, unsigned depth, GError **error);
} protocols[] = {
    {"blkdebug:", blkdebug_options},
    {"blkverify:", blkverify_options},
    {"null-co:", null_co_options},
    {"null-aio:", null_aio_options},
};

/* What holds the bytes that @name says: an object as a format's "file" takes it. */
static json_t *protocol_of(const char *name, unsigned depth, GError **error)
{
    enum { DEEPEST = 16 };
    size_t proto = protocol_len(name);
    if (depth > DEEPEST) {
        error_msg(error, "'%s' names more than %d filters", name, DEEPEST);
        return NULL;
    }
    if (g_str_has_prefix(name, JSON_PREFIX)) {
        return from_json(name + strlen(JSON_PREFIX), NULL, error);
    }
    if (nbd_is_name(name)) {
        return nbd_options_from_name(name, error);
    }
    for (size_t i = 0; i < ARRAY_LEN(protocols); i++) {
        if (g_str_has_prefix(name, protocols[i].prefix)) {
            return protocols[i].options(name + strlen(protocols[i].prefix), depth + 1,
                                        error);
        }
    }
    if (proto && !g_str_has_prefix(name, "file:")) {
        /* A path with a colon is still a path when there is a folder in front. */
        error_msg(error, "Unknown protocol '%.*s'", (int)proto - 1, name);
        return NULL;
    }
    if (*name == '\0') {
        error_msg(error, "The 'file' block driver requires a file name");
        return NULL;
    }
    return file_options(name + proto);
}

json_t *blk_options_from_name(const char *name, const char *format, GError **error)
{
    if (g_str_has_prefix(name, JSON_PREFIX)) {
        return from_json(name + strlen(JSON_PREFIX), format, error);
    }
    json_t *file = protocol_of(name, 0, error);
    if (!file) {
        return NULL;
    }
    json_t *o = json_pack("{s:o}", "file", file);
    if (format) {
        json_object_set_new(o, "driver", json_string_nocheck(format));
    }
    return o;
}

char *blk_backing_path(const char *image, const char *name)
{
    const char *slash = image ? strrchr(image, '/') : NULL;
    if (!slash || *name == '/' || protocol_len(name)) {
        return g_strdup(name);
    }
    return g_strdup_printf("%.*s%s", (int)(slash + 1 - image), image, name);
}

/* Up the chain of nodes that are being opened. */
static bool leads_back(const struct blk *b, const char *path, GError **error)
{
    enum { DEEPEST = 200 };
    unsigned depth = 0;
    for (const struct blk *p = b; p; p = p->core->opener, depth++) {
        if (p->format && p->filename && g_str_equal(p->filename, path)) {
            return error_msg(error, "Backing file '%s' creates an infinite loop.",
                             path);
        }
    }
    return depth <= DEEPEST ||
           error_msg(error, "'%s' is the end of more than %u backing files", path,
                     (unsigned)DEEPEST);
}

bool blk_open_backing(struct blk *b, json_t *opts, const char *name, const char *format,
                      GError **error)
{
    json_t *given = json_object_get(opts, "backing");
    if ((b->core->flags & BLK_OPEN_NO_BACKING) || json_is_null(given) ||
        (!given && !name)) {
        return true;
    }
    if (json_is_string(given)) {
        return blk_open_child(b, "backing", given, true, error) != NULL;
    }
    json_t *o = given ? json_deep_copy(given) : json_object();
    g_autofree char *path = name ? blk_backing_path(b->filename, name) : NULL;
    bool own = json_object_get(o, "file") || json_object_get(o, "filename");
    if (path && !own) {
        json_t *rest = leads_back(b, path, error)
                           ? blk_options_from_name(path, format, error)
                           : NULL;
        if (!rest) {
            json_decref(o);
            return false;
        }
        json_object_update_missing(o, rest);
        json_decref(rest);
    }
    struct blk *backing = blk_open_child(b, "backing", o, true, error);
    json_decref(o);
    if (!backing) {
        g_prefix_error(error, "Could not open backing file: ");
    }
    return backing != NULL;
}
