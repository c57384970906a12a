#include "lib/base/base.h"

#include <string.h>

#include "lib/base/ck.h"

G_DEFINE_QUARK(lodge - error - quark, lodge_error)

gboolean error_errno(GError **error, int err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *msg = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_set_error(error, LODGE_ERROR, err, "%s: %s", msg, g_strerror(err));
    return FALSE;
}

gboolean error_msg(GError **error, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *msg = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    g_set_error_literal(error, LODGE_ERROR, 0, msg);
    return FALSE;
}

/* Levenshtein distance with one row; words longer than 63 letters never match. */
static unsigned edit_distance(const char *a, const char *b)
{
    unsigned row[64];
    size_t la = strlen(a), lb = strlen(b);
    if (la >= ARRAY_LEN(row) || lb >= ARRAY_LEN(row)) {
        return G_MAXUINT;
    }
    for (size_t j = 0; j <= lb; j++) {
        row[j] = (unsigned)j;
    }
    for (size_t i = 1; i <= la; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= lb; j++) {
            unsigned replace = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = MIN(replace, MIN(row[j], row[j - 1]) + 1);
        }
    }
    return row[lb];
}

const char *nearest_name(const char *word, const char *const *names)
{
    const char *best = NULL;
    unsigned best_distance = (unsigned)MAX(2, strlen(word) / 3) + 1;
    for (; *names; names++) {
        unsigned d = edit_distance(word, *names);
        if (d < best_distance) {
            best = *names;
            best_distance = d;
        }
    }
    return best;
}

gboolean parse_size(const char *text, uint64_t default_unit, uint64_t *ret,
                    GError **error)
{
    static const char suffixes[] = "bkmgtpe";
    if (!g_ascii_isdigit(text[0])) {
        return error_msg(error,
                         "'%s' is not a size (a number with an optional suffix "
                         "k, M, G, T, P or E)",
                         text);
    }
    char *end;
    uint64_t whole = g_ascii_strtoull(text, &end, 0);
    double fraction = 0;
    if (*end == '.' && g_ascii_isdigit(end[1])) {
        fraction = g_ascii_strtod(end, &end);
    }
    uint64_t unit = default_unit;
    if (*end) {
        const char *s = strchr(suffixes, g_ascii_tolower(*end));
        if (!s || end[1]) {
            return error_msg(error,
                             "'%s' is not a size (a number with an optional "
                             "suffix k, M, G, T, P or E)",
                             text);
        }
        unit = UINT64_C(1) << (10 * (s - suffixes));
    }
    uint64_t bytes;
    if (whole == G_MAXUINT64 || !ck_mul(whole, unit, &bytes) ||
        !ck_add(bytes, (uint64_t)(fraction * (double)unit), &bytes)) {
        return error_msg(error, "size '%s' is too large", text);
    }
    *ret = bytes;
    return TRUE;
}
