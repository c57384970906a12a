#include "block/format/vmdk/vmdk_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "lib/base/base.h"

/*
 * The descriptor: lines of key=value, extent lines, comments. Whoever wrote it is not
 * trusted: what is not understood is left alone, what is wrong is named.
 */

char *vmdk_read_text(struct blk *file, uint64_t offset, uint64_t max, GError **error)
{
    uint64_t length = file->content_len;
    uint64_t n = offset < length
                     ? MIN(MIN(max, length - offset), (uint64_t)VMDK_DESC_MAX - 1)
                     : 0;
    char *text = g_malloc0(n + 1);
    int r = n ? blk_pread(file, offset, text, n) : 0;
    if (r < 0) {
        g_free(text);
        error_errno(error, -r, "Could not read from file '%s'", blk_get_filename(file));
        return NULL;
    }
    return text;
}

/* Comments and blank lines, then "version=1", 2 or 3. */
bool vmdk_is_text(const uint8_t *head, size_t len)
{
    const char *p = (const char *)head, *end = p + len;
    while (p < end) {
        const char *line = p, *nl = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((nl ? nl : end) - line);
        p = nl ? nl + 1 : end;
        if (n && line[n - 1] == '\r') {
            n--;
        }
        if (n && *line == '#') {
            continue;
        }
        size_t blanks = 0;
        while (blanks < n && line[blanks] == ' ') {
            blanks++;
        }
        if (blanks == n && nl && blanks) {
            continue;
        }
        return nl && n == 9 && memcmp(line, "version=", 8) == 0 && line[8] >= '1' &&
               line[8] <= '3';
    }
    return false;
}

/* The line that begins with @key and '=', behind that; NULL when there is none. */
static const char *find_key(const char *text, const char *key)
{
    size_t n = strlen(key);
    for (const char *p = text; p; p = strchr(p, '\n')) {
        p += *p == '\n';
        while (*p == ' ' || *p == '\t') {
            p++;
        }
        if (g_ascii_strncasecmp(p, key, n) != 0) {
            continue;
        }
        const char *v = p + n;
        v += strspn(v, " \t");
        if (*v == '=') {
            return v + 1 + strspn(v + 1, " \t");
        }
    }
    return NULL;
}

char *vmdk_text_value(const char *text, const char *key)
{
    const char *v = find_key(text, key);
    if (!v) {
        return NULL;
    }
    if (*v != '"') {
        return g_strndup(v, strcspn(v, "\r\n"));
    }
    size_t n = strcspn(v + 1, "\"\r\n");
    return v[1 + n] == '"' ? g_strndup(v + 1, n) : NULL;
}

bool vmdk_text_cid(const char *text, const char *key, uint32_t *ret)
{
    const char *v = find_key(text, key);
    char *end;
    guint64 n = v ? g_ascii_strtoull(v, &end, 16) : 0;
    if (!v || end == v) {
        return false;
    }
    *ret = (uint32_t)n;
    return true;
}

/* ---- extent lines -------------------------------------------------------------------
 */

static bool take_word(const char **p, char *buf, size_t room)
{
    *p += strspn(*p, " \t");
    size_t n = strcspn(*p, " \t\r\n");
    if (n == 0 || n >= room) {
        return false;
    }
    memcpy(buf, *p, n);
    buf[n] = '\0';
    *p += n;
    return true;
}

static bool take_number(const char **p, uint64_t *ret)
{
    char word[24];
    return take_word(p, word, sizeof(word)) &&
           g_ascii_string_to_unsigned(word, 10, 0, INT64_MAX / VMDK_SECTOR, ret, NULL);
}

static bool take_name(const char **p, char **ret)
{
    *p += strspn(*p, " \t");
    if (**p != '"') {
        return false;
    }
    size_t n = strcspn(*p + 1, "\"\r\n");
    if (n == 0 || n > 1023 || (*p)[1 + n] != '"') {
        return false;
    }
    *ret = g_strndup(*p + 1, n);
    *p += n + 2;
    return true;
}

static bool at_end(const char *p)
{
    p += strspn(p, " \t\r");
    return *p == '\n' || *p == '\0';
}

static bool bad_line(const char *line, struct vmdk_line *l, GError **error)
{
    g_clear_pointer(&l->name, g_free);
    return error_msg(error, "Invalid extent line: %.*s",
                     (int)MIN(strcspn(line, "\r\n"), (size_t)200), line);
}

/* What follows the name: FLAT has an offset, VMFS may have one of 0, others have none.
 */
static bool judge_rest(const char *line, const char *p, struct vmdk_line *l,
                       GError **error)
{
    bool ok = !g_str_equal(l->type, "FLAT") || take_number(&p, &l->flat_sector);
    return (ok && at_end(p)) || bad_line(line, l, error);
}

bool vmdk_parse_line(const char *line, struct vmdk_line *ret, bool *ret_skip,
                     GError **error)
{
    static const char *const types[] = {"FLAT",     "SPARSE", "VMFS", "VMFSSPARSE",
                                        "SESPARSE", "ZERO",   NULL};
    const char *p = line;
    char access[12];
    *ret = (struct vmdk_line){0};
    *ret_skip = true;
    if (!take_word(&p, access, sizeof(access))) {
        return true;
    }
    ret->read_only = g_str_equal(access, "RDONLY");
    if (!ret->read_only && !g_str_equal(access, "RW")) {
        return true;
    }
    if (!take_number(&p, &ret->sectors) ||
        !take_word(&p, ret->type, sizeof(ret->type)) || ret->sectors == 0 ||
        !g_strv_contains(types, ret->type)) {
        return true;
    }
    *ret_skip = false;
    if (g_str_equal(ret->type, "ZERO")) {
        return true;
    }
    if (!take_name(&p, &ret->name)) {
        *ret_skip = true; /* no extent line at all */
        return true;
    }
    return judge_rest(line, p, ret, error);
}

/* ---- where extents may be -----------------------------------------------------------
 */

static bool goes_up(const char *name)
{
    g_auto(GStrv) parts = g_strsplit(name, "/", -1);
    for (unsigned i = 0; parts[i]; i++) {
        if (g_str_equal(parts[i], "..")) {
            return true;
        }
    }
    return false;
}

/* A file in the folder itself: what a descriptor of somebody else may name. */
static bool in_folder(const struct blk *b, const char *name)
{
    if (goes_up(name)) {
        return false;
    }
    if (!strchr(name, '/')) {
        return true;
    }
    if (*name != '/') {
        return false;
    }
    g_autofree char *folder = g_path_get_dirname(b->filename);
    g_autofree char *here = g_canonicalize_filename(folder, NULL);
    g_autofree char *path = g_canonicalize_filename(name, NULL);
    g_autofree char *there = g_path_get_dirname(path);
    return g_str_equal(here, there);
}

char *vmdk_extent_path(const struct blk *b, const char *name, bool anywhere,
                       GError **error)
{
    if (strncmp(b->filename, "fd ", 3) == 0 && *name != '/') {
        error_msg(error, "Cannot use relative paths with VMDK descriptor file '%s'",
                  b->filename);
        return NULL;
    }
    if (!anywhere && !in_folder(b, name)) {
        error_msg(error,
                  "extent '%s' is not in the folder of the image; "
                  "extents-anywhere=on allows it",
                  name);
        return NULL;
    }
    const char *slash = strrchr(b->filename, '/');
    if (*name == '/' || !slash) {
        return g_strdup(name);
    }
    return g_strdup_printf("%.*s%s", (int)(slash + 1 - b->filename), b->filename, name);
}

/* ---- changing the text --------------------------------------------------------------
 */

int vmdk_write_cid(struct blk *b)
{
    struct vmdk *v = b->priv;
    uint32_t cid = g_random_int();
    g_autofree char *text =
        vmdk_read_text(b->file, v->desc_offset, v->desc_bytes, NULL);
    const char *at = text ? find_key(text, "CID") : NULL;
    if (!text) {
        return -EIO;
    }
    if (!at) {
        return 0; /* nobody can refer to it */
    }
    size_t from = (size_t)(at - text), old = strspn(at, "0123456789abcdefABCDEF");
    char digits[12];
    g_snprintf(digits, sizeof(digits), "%08" PRIx32, cid);
    if (old == 8) {
        v->cid = cid;
        return blk_pwrite(b->file, v->desc_offset + from, digits, 8);
    }
    /* Another length: the rest of the text moves. */
    g_autofree char *moved =
        g_strdup_printf("%.*s%s%s", (int)from, text, digits, at + old);
    size_t len = strlen(moved), was = strlen(text);
    if (v->desc_embedded && len > v->desc_bytes) {
        return -ENOSPC;
    }
    moved = g_realloc(moved, MAX(len, was) + 1);
    memset(moved + len, '\n', MAX(len, was) - len + 1);
    v->cid = cid;
    return blk_pwrite(b->file, v->desc_offset, moved, MAX(len, was));
}
