#include "vmm/vm/log.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "lib/base/base.h"

struct vm_log {
    unsigned items;
    FILE *out;
    const GArray *ranges;
    _Atomic unsigned events;
};

static const struct {
    const char *name, *help;
} items[] = {
#define ITEM(id, name, help) {name, help},
    VM_LOGS(ITEM)
#undef ITEM
};

const char *vm_log_name(unsigned i)
{
    assert(i < ARRAY_LEN(items));
    return items[i].name;
}

const char *vm_log_help(unsigned i)
{
    assert(i < ARRAY_LEN(items));
    return items[i].help;
}

struct vm_log *vm_log_new(unsigned wanted, FILE *out, const GArray *ranges)
{
    struct vm_log *log = g_new0(struct vm_log, 1);

    log->items = wanted;
    log->out = out;
    log->ranges = ranges;
    return log;
}

void vm_log_free(struct vm_log *log)
{
    g_free(log);
}

unsigned vm_log_has(const struct vm_log *log, unsigned wanted)
{
    return log ? log->items & wanted : 0;
}

bool vm_log_covers(const struct vm_log *log, uint64_t pc)
{
    if (!log->ranges || log->ranges->len == 0) {
        return true;
    }
    for (guint i = 0; i < log->ranges->len; i++) {
        const struct vm_log_range *r =
            &g_array_index(log->ranges, struct vm_log_range, i);
        if (pc >= r->first && pc <= r->last) {
            return true;
        }
    }
    return false;
}

FILE *vm_log_begin(struct vm_log *log)
{
    flockfile(log->out);
    return log->out;
}

void vm_log_end(struct vm_log *log)
{
    fflush(log->out);
    funlockfile(log->out);
}

void vm_log_printf(struct vm_log *log, unsigned wanted, const char *fmt, ...)
{
    va_list ap;

    if (!vm_log_has(log, wanted)) {
        return;
    }
    va_start(ap, fmt);
    vfprintf(vm_log_begin(log), fmt, ap);
    vm_log_end(log);
    va_end(ap);
}

unsigned vm_log_count_event(struct vm_log *log)
{
    return atomic_fetch_add_explicit(&log->events, 1, memory_order_relaxed);
}

static bool parse_range(const char *text, struct vm_log_range *r)
{
    static const char *const separators[] = {"..", "+", "-"};
    uint64_t start, n;
    char *end, *end2;

    if (!g_ascii_isdigit(*text)) {
        return false;
    }
    start = g_ascii_strtoull(text, &end, 0);
    for (size_t i = 0; i < ARRAY_LEN(separators); i++) {
        size_t len = strlen(separators[i]);
        if (strncmp(end, separators[i], len) != 0 || !g_ascii_isdigit(end[len])) {
            continue;
        }
        n = g_ascii_strtoull(end + len, &end2, 0);
        if (*end2) {
            return false;
        }
        r->first = i == 2 ? start - (n - 1) : start;
        r->last = i == 0 ? n : i == 1 ? start + (n - 1) : start;
        return (i == 0 || n > 0) && r->first <= r->last;
    }
    return false;
}

bool vm_log_ranges_parse(const char *text, GArray *ranges, GError **error)
{
    g_auto(GStrv) words = g_strsplit(text, ",", -1);

    for (unsigned i = 0; i == 0 || words[i]; i++) { /* "" is a wrong one, too */
        struct vm_log_range r;
        if (!words[i] || !parse_range(words[i], &r)) {
            return error_msg(error,
                             "'%s' is no range of addresses: START..END, START+LEN or "
                             "START-LEN",
                             words[i] ? words[i] : "");
        }
        g_array_append_val(ranges, r);
    }
    return true;
}
