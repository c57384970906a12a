#include "block/filter/blkdebug_rules.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/base.h"

/*
 * An event does not fail itself: it makes its rules active, and the next request that
 * suits an active rule fails. The first rule that an event makes active ends what was
 * active before. A rule that is to act once goes when it has.
 */

enum { CONFIG_MAX = 1 << 20, RULES_MAX = 10000 };

static const char *const io_names[] = {"read",    "write", "write-zeroes",
                                       "discard", "flush", "block-status"};

static void rule_done(void *p)
{
    g_free(((struct blkdebug_rule *)p)->tag);
}

GArray *blkdebug_rules_new(void)
{
    GArray *rules = g_array_new(FALSE, TRUE, sizeof(struct blkdebug_rule));
    g_array_set_clear_func(rules, rule_done);
    return rules;
}

enum blk_event blkdebug_event(const char *name)
{
    unsigned e = 0;
    while (e < BLK_EVENT_COUNT && !g_str_equal(blk_event_names[e], name)) {
        e++;
    }
    return (enum blk_event)e;
}

/* ---- one rule from its options -----------------------------------------------------
 */

static const struct blk_option inject_options[] = {
    {"event", BLK_OPT_STR, NULL, "where"},
    {"state", BLK_OPT_INT, NULL, "in which state only"},
    {"iotype", BLK_OPT_STR, NULL, "which requests only"},
    {"errno", BLK_OPT_INT, NULL, "with which error (default 5, EIO)"},
    {"sector", BLK_OPT_INT, NULL, "requests that touch this sector only"},
    {"once", BLK_OPT_BOOL, NULL, "only the first one"},
    {"immediately", BLK_OPT_BOOL, NULL, "fail without waiting"},
    {0},
};

static const struct blk_option state_options[] = {
    {"event", BLK_OPT_STR, NULL, "where"},
    {"state", BLK_OPT_INT, NULL, "in which state only"},
    {"new_state", BLK_OPT_INT, NULL, "the state from then on"},
    {0},
};

static bool parse_io(const char *name, unsigned *ret_mask, GError **error)
{
    for (unsigned i = 0; i < ARRAY_LEN(io_names); i++) {
        if (g_str_equal(io_names[i], name)) {
            *ret_mask = 1u << i;
            return true;
        }
    }
    return error_msg(error, "Invalid parameter '%s'", name);
}

static bool fill_inject(struct blkdebug_rule *r, json_t *o, GError **error)
{
    const char *io = blk_opt_str(o, "iotype", NULL);
    uint64_t sector = blk_opt_u64(o, "sector", UINT64_MAX);
    uint64_t err = blk_opt_u64(o, "errno", EIO);
    r->action = BLKDEBUG_INJECT;
    r->io_mask = ~(1u << BLKDEBUG_BLOCK_STATUS); /* block status must be asked for */
    r->once = blk_opt_bool(o, "once", false);
    r->offset = -1;
    if (sector != UINT64_MAX) {
        if (sector > INT64_MAX / 512) {
            return error_msg(error, "Invalid sector number");
        }
        r->offset = (int64_t)(sector * 512);
    }
    if (err > 4095) {
        return error_msg(error, "Invalid error number");
    }
    r->error = (int)err;
    return !io || parse_io(io, &r->io_mask, error);
}

static bool add_rule(GArray *rules, enum blkdebug_action action, json_t *o,
                     GError **error)
{
    struct blkdebug_rule r = {0};
    const bool inject = action == BLKDEBUG_INJECT;
    const struct blk_option *const tables[] = {inject ? inject_options : state_options,
                                               NULL};
    if (rules->len >= RULES_MAX) {
        return error_msg(error, "more than %d rules", RULES_MAX);
    }
    if (!blk_options_check(o, tables, "Invalid parameter", error)) {
        return false;
    }
    const char *event = blk_opt_str(o, "event", NULL);
    if (!event) {
        return error_msg(error, "Missing event name for rule");
    }
    r.event = blkdebug_event(event);
    if (r.event == BLK_EVENT_COUNT) {
        return error_msg(error, "invalid parameter value: %s", event);
    }
    r.state = (int64_t)blk_opt_u64(o, "state", 0);
    r.action = action;
    r.new_state = (int64_t)blk_opt_u64(o, "new_state", 0);
    if (inject && !fill_inject(&r, o, error)) {
        return false;
    }
    g_array_append_val(rules, r);
    return true;
}

static bool add_list(GArray *rules, enum blkdebug_action action, json_t *list,
                     const char *what, GError **error)
{
    const char *key;
    json_t *value;
    size_t i;
    bool ok = true;
    if (json_is_array(list)) {
        json_array_foreach(list, i, value)
        {
            ok = ok && json_is_object(value) && add_rule(rules, action, value, error);
        }
    } else {
        /* "inject-error.event=..." is one rule, "inject-error.0.event=..." a list. */
        bool one = json_object_get(list, "event") != NULL;
        if (one) {
            return add_rule(rules, action, list, error);
        }
        json_object_foreach(list, key, value)
        {
            ok = ok && json_is_object(value) && add_rule(rules, action, value, error);
        }
    }
    if (!ok && error && !*error) {
        error_msg(error, "Parameter '%s' expects a list of rules", what);
    }
    return ok;
}

bool blkdebug_rules_options(GArray *rules, json_t *opts, GError **error)
{
    json_t *inject = json_object_get(opts, "inject-error");
    json_t *state = json_object_get(opts, "set-state");
    return (!inject ||
            add_list(rules, BLKDEBUG_INJECT, inject, "inject-error", error)) &&
           (!state || add_list(rules, BLKDEBUG_SET_STATE, state, "set-state", error));
}

/* ---- the configuration file ---------------------------------------------------------
 */

struct section {
    GArray *rules;
    enum blkdebug_action action;
    json_t *opts; /* NULL: no section has begun */
};

static bool end_section(struct section *s, GError **error)
{
    bool ok = !s->opts || add_rule(s->rules, s->action, s->opts, error);
    json_decref(s->opts);
    s->opts = NULL;
    return ok;
}

static bool begin_section(struct section *s, const char *name, GError **error)
{
    if (!end_section(s, error)) {
        return false;
    }
    bool inject = g_str_equal(name, "inject-error");
    if (!inject && !g_str_equal(name, "set-state")) {
        return error_msg(error, "There is no option group '%s'", name);
    }
    s->action = inject ? BLKDEBUG_INJECT : BLKDEBUG_SET_STATE;
    s->opts = json_object();
    return true;
}

/* One line without its end, which may be changed. */
static bool take_line(struct section *s, char *line, const char *path, unsigned nr,
                      GError **error)
{
    g_strstrip(line);
    size_t n = strlen(line);
    if (n == 0 || *line == '#') {
        return true;
    }
    if (*line == '[' && line[n - 1] == ']') {
        line[n - 1] = '\0';
        return begin_section(s, g_strstrip(line + 1), error);
    }
    char *eq = strchr(line, '=');
    char *value = eq ? g_strstrip(eq + 1) : NULL;
    size_t len = value ? strlen(value) : 0;
    if (len < 2 || value[0] != '"' || value[len - 1] != '"') {
        return error_msg(error, "%s:%u: parse error", path, nr);
    }
    if (!s->opts) {
        return error_msg(error, "%s:%u: no group defined", path, nr);
    }
    *eq = '\0';
    value[len - 1] = '\0';
    json_t *text = json_string(value + 1);
    if (!text) {
        return error_msg(error, "%s:%u: not UTF-8", path, nr);
    }
    json_object_set_new_nocheck(s->opts, g_strstrip(line), text);
    return true;
}

bool blkdebug_rules_file(GArray *rules, const char *path, GError **error)
{
    g_autofree char *text = g_try_malloc(CONFIG_MAX + 1);
    FILE *f = fopen(path, "re");
    if (!f || !text) {
        int why = errno;
        if (f) {
            fclose(f);
        }
        return error_errno(error, f ? ENOMEM : why,
                           "Could not read blkdebug config file");
    }
    size_t len = fread(text, 1, CONFIG_MAX + 1, f);
    fclose(f);
    if (len > CONFIG_MAX || memchr(text, '\0', len)) {
        return error_msg(error, "Could not parse blkdebug config file '%s'", path);
    }
    text[len] = '\0';
    struct section s = {.rules = rules};
    bool ok = true;
    unsigned nr = 1;
    char *rest = text;
    for (char *line; ok && (line = strsep(&rest, "\n")) != NULL; nr++) {
        ok = take_line(&s, line, path, nr, error);
    }
    ok = ok && end_section(&s, error);
    json_decref(s.opts);
    return ok;
}

/* ---- acting ------------------------------------------------------------------------
 */

static void make_active(GArray *rules, struct blkdebug_rule *r, bool *injected)
{
    uint64_t nth = 0;
    for (unsigned i = 0; i < rules->len; i++) {
        struct blkdebug_rule *other = &g_array_index(rules, struct blkdebug_rule, i);
        other->active = *injected ? other->active : false;
        nth = MAX(nth, other->nth);
    }
    *injected = true;
    r->active = true;
    r->nth = nth + 1;
}

void blkdebug_rules_event(GArray *rules, int64_t *state, enum blk_event e,
                          bool may_stop, GPtrArray *tags)
{
    int64_t now = *state, next = now;
    bool injected = false;
    for (unsigned i = 0; i < rules->len; i++) {
        struct blkdebug_rule *r = &g_array_index(rules, struct blkdebug_rule, i);
        if (r->event != e || (r->state && r->state != now)) {
            continue;
        }
        if (r->action == BLKDEBUG_INJECT) {
            make_active(rules, r, &injected);
        } else if (r->action == BLKDEBUG_SET_STATE) {
            next = r->new_state;
        } else if (may_stop) {
            g_ptr_array_add(tags, g_steal_pointer(&r->tag));
            g_array_remove_index(rules, i--);
        }
    }
    *state = next;
}

int blkdebug_rules_request(GArray *rules, enum blkdebug_io io, uint64_t offset,
                           uint64_t len)
{
    int best = -1;
    for (unsigned i = 0; i < rules->len; i++) {
        const struct blkdebug_rule *r = &g_array_index(rules, struct blkdebug_rule, i);
        bool here = r->offset < 0 || (len && (uint64_t)r->offset >= offset &&
                                      (uint64_t)r->offset - offset < len);
        if (r->active && (r->io_mask & (1u << io)) && here &&
            (best < 0 ||
             r->nth > g_array_index(rules, struct blkdebug_rule, (guint)best).nth)) {
            best = (int)i;
        }
    }
    if (best < 0) {
        return 0;
    }
    const struct blkdebug_rule *r =
        &g_array_index(rules, struct blkdebug_rule, (guint)best);
    int err = r->error;
    if (r->once && err) {
        g_array_remove_index(rules, (guint)best);
    }
    return err;
}
