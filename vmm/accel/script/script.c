#include "vmm/accel/script/script_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/vm/aspace.h"
#include "vmm/vm/clock.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/vcpu.h"
#include "vmm/vm/vm.h"

/*
 * The interpreter of scripts: docs/script.md is the language, `commands` below its
 * table. Lines are cut into words once; values are evaluated when a line runs.
 *
 * A command that waits (advance, wait-irq, within) does not block: it answers AGAIN
 * until its time has come, so that a vCPU running a script still stops when asked.
 */

enum { MAX_DEPTH = 16, MAX_WORDS = 4096 };

struct line {
    unsigned number;
    unsigned words;
    char **word; /* NULL-terminated */
    const struct command *command;
    unsigned partner; /* repeat: its end; end: its repeat */
};

struct frame {
    unsigned repeat; /* line index */
    uint64_t left;
};

struct script {
    struct vm *vm;
    char *name;
    GArray *lines;    /* struct line */
    GHashTable *vars; /* char * -> uint64_t * */
    unsigned pc;
    struct frame frames[MAX_DEPTH];
    unsigned depth;
    bool waiting;         /* the current line waits ... */
    uint64_t deadline_ns; /* ... until then, in host time */
    uint64_t seen_rises[VM_GSI_MAX];
};

/* What a command sees. Its words are args[0 .. n - 1], the name not among them. */
struct call {
    struct script *s;
    struct vcpu *vcpu;
    char **args;
    unsigned n;
    unsigned arg; /* from the table: a width in bytes */
    GError **error;
};

struct command {
    const char *name;
    unsigned min_args, max_args;
    enum script_step (*run)(struct call *c);
    unsigned arg;
};

static uint64_t now_ns(void)
{
    return (uint64_t)g_get_monotonic_time() * 1000;
}

/* ---- words ------------------------------------------------------------------- */

static bool term_value(struct script *s, const char *text, uint64_t *ret,
                       GError **error)
{
    if (text[0] == '$') {
        const uint64_t *v = g_hash_table_lookup(s->vars, text + 1);
        if (!v) {
            return error_msg(error, "no value is named '%s'", text + 1);
        }
        *ret = *v;
        return true;
    }
    char *end;
    bool hex = g_str_has_prefix(text, "0x");
    errno = 0;
    *ret = g_ascii_strtoull(text, &end, hex ? 16 : 10);
    if (!g_ascii_isdigit(text[0]) || errno || *end) {
        return error_msg(error, "'%s' is not a number", text);
    }
    return true;
}

static bool value(struct call *c, const char *text, uint64_t *ret)
{
    g_auto(GStrv) terms = g_strsplit(text, "+", 16);
    uint64_t sum = 0, v = 0;
    for (unsigned i = 0; terms[i]; i++) {
        if (!term_value(c->s, terms[i], &v, c->error)) {
            return false;
        }
        sum += v;
    }
    if (!terms[0]) {
        return error_msg(c->error, "a value is missing");
    }
    *ret = sum;
    return true;
}

static bool time_value(struct call *c, const char *text, uint64_t *ret)
{
    static const struct {
        const char *suffix;
        uint64_t ns;
    } units[] = {{"ns", 1}, {"us", 1000}, {"ms", 1000000}, {"s", 1000000000}};
    for (unsigned i = 0; i < ARRAY_LEN(units); i++) {
        if (g_str_has_suffix(text, units[i].suffix)) {
            g_autofree char *number =
                g_strndup(text, strlen(text) - strlen(units[i].suffix));
            uint64_t v;
            if (!value(c, number, &v)) {
                return false;
            }
            if (__builtin_mul_overflow(v, units[i].ns, ret) || *ret > INT64_MAX / 2) {
                return error_msg(c->error, "'%s' is too long", text);
            }
            return true;
        }
    }
    return error_msg(c->error, "'%s' is not a time (a number with ns, us, ms or s)",
                     text);
}

/* The bytes of hex words from args[first] on. */
static GByteArray *hex_bytes(struct call *c, unsigned first)
{
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    for (unsigned i = first; i < c->n; i++) {
        const char *p = c->args[i];
        if (strlen(p) % 2) {
            error_msg(c->error, "'%s' has half a byte", p);
            return NULL;
        }
        for (; *p; p += 2) {
            int hi = g_ascii_xdigit_value(p[0]), lo = g_ascii_xdigit_value(p[1]);
            if (hi < 0 || lo < 0) {
                error_msg(c->error, "'%s' is not hex", c->args[i]);
                return NULL;
            }
            uint8_t byte = (uint8_t)(hi << 4 | lo);
            g_byte_array_append(bytes, &byte, 1);
        }
    }
    return g_steal_pointer(&bytes);
}

static void set_var(struct script *s, const char *name, uint64_t v)
{
    uint64_t *box = g_new(uint64_t, 1);
    *box = v;
    g_hash_table_replace(s->vars, g_strdup(name), box);
}

static enum script_step fail(struct call *c, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

static enum script_step fail(struct call *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *msg = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    error_msg(c->error, "%s", msg);
    return SCRIPT_FAILED;
}

/* ---- accesses ---------------------------------------------------------------- */

/* What follows a read: nothing, "= V", "& M = V" or "-> NAME". */
static enum script_step expect(struct call *c, unsigned first, uint64_t got)
{
    char **a = c->args + first;
    unsigned n = c->n - first;
    uint64_t mask = UINT64_MAX, want;
    if (n == 0) {
        return SCRIPT_MORE;
    }
    if (n == 2 && strcmp(a[0], "->") == 0) {
        set_var(c->s, a[1], got);
        return SCRIPT_MORE;
    }
    if (n == 4 && strcmp(a[0], "&") == 0) {
        if (!value(c, a[1], &mask)) {
            return SCRIPT_FAILED;
        }
        a += 2;
        n -= 2;
    }
    if (n != 2 || strcmp(a[0], "=") != 0) {
        return fail(c,
                    "after a read there is '= VALUE', '& MASK = VALUE', '-> NAME' or "
                    "nothing");
    }
    if (!value(c, a[1], &want)) {
        return SCRIPT_FAILED;
    }
    if ((got & mask) != want) {
        return fail(c, "expected 0x%" PRIx64 ", got 0x%" PRIx64, want, got & mask);
    }
    return SCRIPT_MORE;
}

static bool port_value(struct call *c, uint64_t *ret_port)
{
    if (!c->s->vm->pio) {
        return error_msg(c->error, "this machine has no ports");
    }
    if (!value(c, c->args[0], ret_port)) {
        return false;
    }
    return *ret_port <= UINT16_MAX ||
           error_msg(c->error, "there is no port 0x%" PRIx64, *ret_port);
}

static enum script_step run_out(struct call *c)
{
    uint64_t port, v;
    if (!port_value(c, &port) || !value(c, c->args[1], &v)) {
        return SCRIPT_FAILED;
    }
    aspace_write(c->s->vm->pio, c->vcpu, port, v, c->arg);
    return SCRIPT_MORE;
}

static enum script_step run_in(struct call *c)
{
    uint64_t port;
    if (!port_value(c, &port)) {
        return SCRIPT_FAILED;
    }
    return expect(c, 1, aspace_read(c->s->vm->pio, c->vcpu, port, c->arg));
}

static enum script_step run_write(struct call *c)
{
    struct vm *vm = c->s->vm;
    uint64_t gpa, v;
    if (!value(c, c->args[0], &gpa) || !value(c, c->args[1], &v)) {
        return SCRIPT_FAILED;
    }
    if (gmem_find(vm->gmem, gpa)) {
        uint8_t bytes[8];
        le_put(bytes, v, c->arg);
        if (gmem_write(vm->gmem, gpa, bytes, c->arg) == -EFAULT) {
            return fail(c, "the access leaves memory");
        }
    } else {
        aspace_write(vm->mmio, c->vcpu, gpa, v, c->arg);
    }
    return SCRIPT_MORE;
}

static enum script_step run_read(struct call *c)
{
    struct vm *vm = c->s->vm;
    uint64_t gpa;
    if (!value(c, c->args[0], &gpa)) {
        return SCRIPT_FAILED;
    }
    if (gmem_find(vm->gmem, gpa)) {
        uint8_t bytes[8];
        if (gmem_read(vm->gmem, gpa, bytes, c->arg) != 0) {
            return fail(c, "the access leaves memory");
        }
        return expect(c, 1, le_get(bytes, c->arg));
    }
    return expect(c, 1, aspace_read(vm->mmio, c->vcpu, gpa, c->arg));
}

/* ---- memory ------------------------------------------------------------------ */

static enum script_step run_load(struct call *c)
{
    uint64_t gpa;
    g_autoptr(GByteArray) bytes = NULL;
    if (!value(c, c->args[0], &gpa) || !(bytes = hex_bytes(c, 1))) {
        return SCRIPT_FAILED;
    }
    if (gmem_load(c->s->vm->gmem, gpa, bytes->data, bytes->len) != 0) {
        return fail(c, "there is no memory for %u bytes at 0x%" PRIx64, bytes->len,
                    gpa);
    }
    return SCRIPT_MORE;
}

static enum script_step compare(struct call *c, uint64_t gpa, const uint8_t *want,
                                size_t len)
{
    g_autofree uint8_t *got = g_malloc(len + 1);
    if (gmem_read(c->s->vm->gmem, gpa, got, len) != 0) {
        return fail(c, "there is no memory of %zu bytes at 0x%" PRIx64, len, gpa);
    }
    for (size_t i = 0; i < len; i++) {
        if (got[i] != want[i]) {
            return fail(c, "at 0x%" PRIx64 ": expected 0x%02x, got 0x%02x", gpa + i,
                        want[i], got[i]);
        }
    }
    return SCRIPT_MORE;
}

static enum script_step run_expect_mem(struct call *c)
{
    uint64_t gpa;
    g_autoptr(GByteArray) bytes = NULL;
    if (!value(c, c->args[0], &gpa) || !(bytes = hex_bytes(c, 1))) {
        return SCRIPT_FAILED;
    }
    return compare(c, gpa, bytes->data, bytes->len);
}

/* Both fill commands, a page at a time. */
static enum script_step each_page(struct call *c, bool check)
{
    uint64_t gpa, len, byte;
    uint8_t page[GMEM_PAGE_SIZE];
    if (!value(c, c->args[0], &gpa) || !value(c, c->args[1], &len) ||
        !value(c, c->args[2], &byte)) {
        return SCRIPT_FAILED;
    }
    memset(page, (int)(byte & 0xff), sizeof(page));
    while (len) {
        size_t n = MIN(len, sizeof(page));
        if (check) {
            enum script_step step = compare(c, gpa, page, n);
            if (step != SCRIPT_MORE) {
                return step;
            }
        } else if (gmem_load(c->s->vm->gmem, gpa, page, n) != 0) {
            return fail(c, "there is no memory at 0x%" PRIx64, gpa);
        }
        gpa += n;
        len -= n;
    }
    return SCRIPT_MORE;
}

static enum script_step run_fill(struct call *c)
{
    return each_page(c, false);
}

static enum script_step run_expect_fill(struct call *c)
{
    return each_page(c, true);
}

/* ---- interrupts and time ------------------------------------------------------ */

static bool gsi_value(struct call *c, uint64_t *ret)
{
    unsigned n = MIN(c->s->vm->nb_gsi, VM_GSI_MAX);
    if (!value(c, c->args[0], ret)) {
        return false;
    }
    return *ret < n || error_msg(c->error, "the board has %u interrupt inputs", n);
}

static enum script_step run_irq(struct call *c)
{
    uint64_t n;
    if (!gsi_value(c, &n)) {
        return SCRIPT_FAILED;
    }
    return expect(c, 1, atomic_load(&c->s->vm->gsi[n].level));
}

/* Whether input @n rose since it was last asked for. */
static bool take_rise(struct script *s, uint64_t n)
{
    uint64_t rises = atomic_load(&s->vm->gsi[n].rises);
    bool rose = rises != s->seen_rises[n];
    s->seen_rises[n] = rises;
    return rose;
}

/* Begin to wait for @ns unless the line does already; true when the time is over. */
static bool time_is_over(struct script *s, uint64_t ns)
{
    if (!s->waiting) {
        s->waiting = true;
        s->deadline_ns = now_ns() + ns;
    }
    return now_ns() >= s->deadline_ns;
}

static enum script_step run_wait_irq(struct call *c)
{
    uint64_t n, limit = 1000000000;
    if (!gsi_value(c, &n) || (c->n > 1 && !time_value(c, c->args[1], &limit))) {
        return SCRIPT_FAILED;
    }
    if (take_rise(c->s, n)) {
        return SCRIPT_MORE;
    }
    return time_is_over(c->s, limit) ? fail(c, "the interrupt did not come")
                                     : SCRIPT_AGAIN;
}

static enum script_step run_no_irq(struct call *c)
{
    uint64_t n;
    if (!gsi_value(c, &n)) {
        return SCRIPT_FAILED;
    }
    return take_rise(c->s, n) ? fail(c, "the interrupt came") : SCRIPT_MORE;
}

static enum script_step run_advance(struct call *c)
{
    uint64_t ns;
    if (!time_value(c, c->args[0], &ns)) {
        return SCRIPT_FAILED;
    }
    if (!vm_clock_is_running(c->s->vm->clock)) {
        vm_clock_advance(c->s->vm->clock, ns);
        return SCRIPT_MORE;
    }
    return time_is_over(c->s, ns) ? SCRIPT_MORE : SCRIPT_AGAIN;
}

/* ---- the rest ------------------------------------------------------------------- */

static enum script_step run_let(struct call *c)
{
    uint64_t v;
    if (!value(c, c->args[1], &v)) {
        return SCRIPT_FAILED;
    }
    set_var(c->s, c->args[0], v);
    return SCRIPT_MORE;
}

static enum script_step run_echo(struct call *c)
{
    g_autofree char *text = g_strjoinv(" ", c->args);
    fprintf(stderr, "%s\n", text);
    return SCRIPT_MORE;
}

static enum script_step run_repeat(struct call *c)
{
    struct script *s = c->s;
    struct line *line = &g_array_index(s->lines, struct line, s->pc);
    uint64_t times;
    if (!value(c, c->args[0], &times)) {
        return SCRIPT_FAILED;
    }
    if (times == 0) {
        s->pc = line->partner;
    } else {
        s->frames[s->depth++] = (struct frame){.repeat = s->pc, .left = times};
    }
    return SCRIPT_MORE;
}

static enum script_step run_end(struct call *c)
{
    struct script *s = c->s;
    struct frame *f = &s->frames[s->depth - 1];
    if (--f->left) {
        s->pc = f->repeat;
    } else {
        s->depth--;
    }
    return SCRIPT_MORE;
}

static enum script_step run_within(struct call *c);

static const struct command commands[] = {
    {"outb", 2, 2, run_out, 1},
    {"outw", 2, 2, run_out, 2},
    {"outl", 2, 2, run_out, 4},
    {"inb", 1, 5, run_in, 1},
    {"inw", 1, 5, run_in, 2},
    {"inl", 1, 5, run_in, 4},
    {"write8", 2, 2, run_write, 1},
    {"write16", 2, 2, run_write, 2},
    {"write32", 2, 2, run_write, 4},
    {"write64", 2, 2, run_write, 8},
    {"read8", 1, 5, run_read, 1},
    {"read16", 1, 5, run_read, 2},
    {"read32", 1, 5, run_read, 4},
    {"read64", 1, 5, run_read, 8},
    {"load", 2, MAX_WORDS, run_load, 0},
    {"fill", 3, 3, run_fill, 0},
    {"expect-mem", 2, MAX_WORDS, run_expect_mem, 0},
    {"expect-fill", 3, 3, run_expect_fill, 0},
    {"irq", 1, 5, run_irq, 0},
    {"wait-irq", 1, 2, run_wait_irq, 0},
    {"no-irq", 1, 1, run_no_irq, 0},
    {"advance", 1, 1, run_advance, 0},
    {"within", 2, MAX_WORDS, run_within, 0},
    {"let", 2, 2, run_let, 0},
    {"echo", 0, MAX_WORDS, run_echo, 0},
    {"repeat", 1, 1, run_repeat, 0},
    {"end", 0, 0, run_end, 0},
};

static const struct command *find_command(const char *name, unsigned n_args,
                                          GError **error)
{
    const char *names[ARRAY_LEN(commands) + 1];
    for (unsigned i = 0; i < ARRAY_LEN(commands); i++) {
        const struct command *c = &commands[i];
        names[i] = c->name;
        if (strcmp(c->name, name) == 0) {
            if (n_args < c->min_args || n_args > c->max_args) {
                error_msg(error, "%s takes %u to %u words, not %u", name, c->min_args,
                          c->max_args, n_args);
                return NULL;
            }
            return c;
        }
    }
    names[ARRAY_LEN(commands)] = NULL;
    const char *near = nearest_name(name, names);
    error_msg(error, near ? "no command '%s'; did you mean '%s'?" : "no command '%s'",
              name, near);
    return NULL;
}

/* The rest of the line, again and again until it holds. */
static enum script_step run_within(struct call *c)
{
    uint64_t limit;
    g_autoptr(GError) why = NULL;
    if (!time_value(c, c->args[0], &limit)) {
        return SCRIPT_FAILED;
    }
    const struct command *inner = find_command(c->args[1], c->n - 2, c->error);
    if (!inner) {
        return SCRIPT_FAILED;
    }
    if (inner->run == run_within || inner->run == run_repeat || inner->run == run_end ||
        inner->run == run_wait_irq || inner->run == run_advance) {
        return fail(c, "%s cannot stand within", inner->name);
    }
    struct call call = {.s = c->s,
                        .vcpu = c->vcpu,
                        .args = c->args + 2,
                        .n = c->n - 2,
                        .arg = inner->arg,
                        .error = &why};
    if (inner->run(&call) == SCRIPT_MORE) {
        return SCRIPT_MORE;
    }
    return time_is_over(c->s, limit) ? fail(c, "%s", why->message) : SCRIPT_AGAIN;
}

/* ---- lines ---------------------------------------------------------------------- */

/* The words of @text up to a '#'. */
static char **cut(const char *text, unsigned *ret_n)
{
    GPtrArray *words = g_ptr_array_new();
    while (*text && *text != '#') {
        size_t n = strcspn(text, " \t\r#");
        if (n) {
            g_ptr_array_add(words, g_strndup(text, n));
        } else {
            n = *text != '#';
        }
        text += n;
    }
    *ret_n = words->len;
    g_ptr_array_add(words, NULL);
    return (char **)g_ptr_array_free(words, FALSE);
}

static void line_done(gpointer p)
{
    g_strfreev(((struct line *)p)->word);
}

static struct line *line_at(struct script *s, unsigned i)
{
    return &g_array_index(s->lines, struct line, i);
}

/* Find each repeat's end. */
static bool match_blocks(struct script *s, GError **error)
{
    unsigned open[MAX_DEPTH], depth = 0;
    for (unsigned i = 0; i < s->lines->len; i++) {
        struct line *line = line_at(s, i);
        if (line->command->run == run_repeat) {
            if (depth == MAX_DEPTH) {
                return error_msg(error, "%s:%u: more than %d repeats in each other",
                                 s->name, line->number, MAX_DEPTH);
            }
            open[depth++] = i;
        } else if (line->command->run == run_end) {
            if (depth == 0) {
                return error_msg(error, "%s:%u: end without repeat", s->name,
                                 line->number);
            }
            line_at(s, open[--depth])->partner = i;
        }
    }
    return depth == 0 || error_msg(error, "%s:%u: repeat without end", s->name,
                                   line_at(s, open[depth - 1])->number);
}

struct script *script_new(struct vm *vm, const char *name, const char *text,
                          GError **error)
{
    struct script *s = g_new0(struct script, 1);
    s->vm = vm;
    s->name = g_strdup(name);
    s->lines = g_array_new(FALSE, FALSE, sizeof(struct line));
    g_array_set_clear_func(s->lines, line_done);
    s->vars = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_auto(GStrv) rows = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; rows[i]; i++) {
        struct line line = {.number = i + 1};
        line.word = cut(rows[i], &line.words);
        if (line.words == 0) {
            g_strfreev(line.word);
            continue;
        }
        line.command = find_command(line.word[0], line.words - 1, error);
        g_array_append_val(s->lines, line);
        if (!line.command) {
            g_prefix_error(error, "%s:%u: ", name, line.number);
            goto fail;
        }
    }
    if (match_blocks(s, error)) {
        return s;
    }
fail:
    script_free(s);
    return NULL;
}

void script_free(struct script *s)
{
    if (!s) {
        return;
    }
    g_hash_table_unref(s->vars);
    g_array_free(s->lines, TRUE);
    g_free(s->name);
    g_free(s);
}

/* "NAME:3: inb 0x3fd & 0x60: " before what went wrong; the expectation's value is in
 * the message already. */
static void prefix_line(struct script *s, const struct line *line, GError **error)
{
    unsigned n = line->words;
    if (n > 2 && strcmp(line->word[n - 2], "=") == 0) {
        n -= 2;
    }
    g_autoptr(GString) text = g_string_new(NULL);
    for (unsigned i = 0; i < n && text->len < 80; i++) {
        g_string_append_printf(text, "%s%s", i ? " " : "", line->word[i]);
    }
    g_prefix_error(error, "%s:%u: %s: ", s->name, line->number, text->str);
}

enum script_step script_step(struct script *s, struct vcpu *vcpu, GError **error)
{
    if (s->pc >= s->lines->len) {
        return SCRIPT_END;
    }
    struct line *line = line_at(s, s->pc);
    struct call call = {.s = s,
                        .vcpu = vcpu,
                        .args = line->word + 1,
                        .n = line->words - 1,
                        .arg = line->command->arg,
                        .error = error};
    enum script_step step = line->command->run(&call);
    if (step == SCRIPT_MORE) {
        s->waiting = false;
        s->pc++;
    } else if (step == SCRIPT_FAILED) {
        prefix_line(s, line, error);
    }
    return step;
}
