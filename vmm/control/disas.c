#include "vmm/control/disas.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/isa/x86/insn.h"
#include "vmm/control/disas_elf.h"

/*
 * The text follows objdump, whose readers it is for:
 *
 *     0000000000001040 <main>:
 *         1040:   31 ed                   xor ebp, ebp
 *
 * seven bytes to a line, the rest of a longer instruction on the next one, and after an
 * instruction that names an address the symbol which that lies in.
 */

#define BYTES_PER_LINE 7

static bool take_number(const char *key, const char *value, uint64_t *ret,
                        GError **error)
{
    char *end;

    if (g_ascii_isdigit(*value)) {
        *ret = g_ascii_strtoull(value, &end, 0);
        if (!*end)
            return true;
    }
    return error_msg(error, "%s='%s' is no number", key, value);
}

static bool take_option(struct disas_options *o, const char *key, const char *value,
                        GError **error)
{
    static const char *const names[] = {"bits", "addr", "offset", "len", "raw", NULL};
    const char *near = nearest_name(key, names);
    uint64_t n;

    if (strcmp(key, "bits") == 0) {
        if (!take_number(key, value, &n, error))
            return false;
        o->bits = (unsigned)n;
        return n == 16 || n == 32 || n == 64 ||
               error_msg(error, "bits=%s: 16, 32 or 64", value);
    }
    if (strcmp(key, "raw") == 0) {
        o->is_raw = strcmp(value, "on") == 0;
        return o->is_raw || strcmp(value, "off") == 0 ||
               error_msg(error, "raw='%s': on or off", value);
    }
    if (strcmp(key, "addr") == 0) {
        o->has_addr = true;
        return take_number(key, value, &o->addr, error);
    }
    if (strcmp(key, "offset") == 0)
        return take_number(key, value, &o->offset, error);
    if (strcmp(key, "len") == 0)
        return take_number(key, value, &o->len, error);
    return error_msg(error, "unknown parameter '%s'%s%s%s", key,
                     near ? ", did you mean '" : "", near ?: "", near ? "'?" : "");
}

/* Up to the next single comma; doubled ones are one of the text's. */
static char *take_word(const char **text)
{
    GString *word = g_string_new(NULL);
    const char *p = *text;

    for (; *p && (*p != ',' || p[1] == ','); p++) {
        g_string_append_c(word, *p);
        p += *p == ',';
    }
    *text = *p ? p + 1 : p;
    return g_string_free(word, FALSE);
}

bool disas_options_parse(const char *text, struct disas_options *ret, GError **error)
{
    *ret = (struct disas_options){.file = take_word(&text)};
    while (*text) {
        g_autofree char *word = take_word(&text);
        char *value = strchr(word, '=');

        if (!value)
            return error_msg(error, "'%s' is no KEY=VALUE", word);
        *value++ = '\0';
        if (!take_option(ret, word, value, error))
            return false;
    }
    ret->is_raw |= ret->has_addr || ret->offset || ret->len;
    return true;
}

void disas_options_clear(struct disas_options *o)
{
    g_clear_pointer(&o->file, g_free);
}

/* ---- text ---- */

struct printer {
    FILE *out;
    const struct elf_code *elf; /* NULL: no symbols */
    unsigned bits;
    int width; /* of addresses in front of instructions */
};

static void put_bytes(const struct printer *p, const uint8_t *bytes, unsigned n,
                      unsigned room)
{
    for (unsigned i = 0; i < room; i++) {
        if (i < n)
            fprintf(p->out, "%02x ", bytes[i]);
        else
            fputs("   ", p->out);
    }
}

/* " <name+0x12>" for the symbol that @addr lies in. */
static void put_symbol(const struct printer *p, uint64_t addr)
{
    const struct elf_symbol *s = p->elf ? elf_code_symbol(p->elf, addr) : NULL;

    if (!s)
        return;
    if (s->addr == addr)
        fprintf(p->out, " <%s>", s->name);
    else
        fprintf(p->out, " <%s+0x%" PRIx64 ">", s->name, addr - s->addr);
}

static bool named_address(const struct x86_insn *insn, uint64_t addr, uint64_t *ret)
{
    if (insn->base == X86_REG_RIP) {
        *ret = addr + insn->len + (uint64_t)insn->disp;
        return true;
    }
    for (unsigned i = 0; i < insn->nb_opnds; i++) {
        if (insn->opnd[i].kind == X86_OPND_REL) {
            *ret = x86_branch_target(insn, addr);
            return true;
        }
    }
    return false;
}

/* Returns its length, 1 when there is none. */
static unsigned put_insn(const struct printer *p, uint64_t addr, const uint8_t *bytes,
                         size_t avail)
{
    struct x86_insn insn;
    uint8_t buf[X86_INSN_MAX_LEN] = {0}; /* the decoder may look that far */
    char text[128] = "(bad)";
    uint64_t target;
    int len;

    memcpy(buf, bytes, MIN(avail, sizeof(buf)));
    len = x86_decode(&insn, buf, MIN(avail, sizeof(buf)), p->bits);
    if (len > 0)
        x86_format(&insn, addr, text, sizeof(text));
    fprintf(p->out, "%*" PRIx64 ":\t", p->width, addr);
    put_bytes(p, bytes, len > 0 ? (unsigned)len : 1, BYTES_PER_LINE);
    fprintf(p->out, "\t%s", text);
    if (len > 0 && named_address(&insn, addr, &target))
        put_symbol(p, target);
    fputc('\n', p->out);
    for (int at = BYTES_PER_LINE; at < len; at += BYTES_PER_LINE) {
        fprintf(p->out, "%*" PRIx64 ":\t", p->width, addr + (unsigned)at);
        put_bytes(p, bytes + at, (unsigned)(len - at),
                  MIN((unsigned)(len - at), BYTES_PER_LINE));
        fputc('\n', p->out);
    }
    return len > 0 ? (unsigned)len : 1;
}

static void put_code(const struct printer *p, const struct elf_section *s)
{
    size_t symbol = p->elf ? elf_code_first_symbol(p->elf, s) : 0;

    for (size_t at = 0; at < s->len;) {
        uint64_t addr = s->addr + at;
        size_t room = s->len - at;

        if (p->elf) {
            const struct elf_symbol *next = elf_code_label(p->elf, s, addr, &symbol);

            if (next && next->addr == addr)
                fprintf(p->out, "\n%016" PRIx64 " <%s>:\n", addr, next->name);
            /* An instruction does not reach over the next label. */
            next = elf_code_label(p->elf, s, addr + 1, &symbol);
            if (next && next->addr - addr < room)
                room = (size_t)(next->addr - addr);
        }
        at += put_insn(p, addr, s->bytes + at, room);
    }
}

/* ---- files ---- */

static bool disas_raw(const struct disas_options *o, GBytes *file, FILE *out,
                      GError **error)
{
    gsize size;
    const uint8_t *bytes = g_bytes_get_data(file, &size);
    uint64_t len = o->len ? o->len : size - MIN(o->offset, size);
    struct printer p = {.out = out, .bits = o->bits ? o->bits : 64, .width = 8};

    if (o->offset > size || len > size - o->offset)
        return error_msg(error,
                         "offset %" PRIu64 " and len %" PRIu64 ": the file has %" PRIu64
                         " bytes",
                         o->offset, len, (uint64_t)size);
    fprintf(out, "\n%s:     file format binary, %u-bit code\n\n", o->file, p.bits);
    put_code(&p, &(struct elf_section){
                     .addr = o->addr, .bytes = bytes + o->offset, .len = (size_t)len});
    return true;
}

static bool disas_elf(const struct disas_options *o, GBytes *file, FILE *out,
                      GError **error)
{
    struct elf_code *elf = elf_code_new(file, error);
    struct printer p = {.out = out, .elf = elf, .width = 8};

    if (!elf)
        return false;
    p.bits = o->bits ? o->bits : elf->bits;
    fprintf(out, "\n%s:     file format %s\n\n", o->file,
            elf->bits == 64 ? "elf64-x86-64" : "elf32-i386");
    for (guint i = 0; i < elf->sections->len; i++) {
        const struct elf_section *s =
            &g_array_index(elf->sections, struct elf_section, i);

        fprintf(out, "\nDisassembly of section %s:\n", s->name);
        put_code(&p, s);
    }
    elf_code_free(elf);
    return true;
}

bool disas_file(const struct disas_options *o, FILE *out, GError **error)
{
    GMappedFile *map = g_mapped_file_new(o->file, FALSE, error);
    GBytes *file;
    bool ok;

    if (!map)
        return false; /* its message names the file */
    file = g_mapped_file_get_bytes(map);
    ok = !o->is_raw && elf_code_is_elf(file) ? disas_elf(o, file, out, error)
                                             : disas_raw(o, file, out, error);
    /* A reader that has seen enough is no failure. */
    if (ok && (fflush(out) != 0 || ferror(out)) && errno != EPIPE)
        ok = error_errno(error, errno, "the output cannot be written");
    if (!ok)
        g_prefix_error(error, "%s: ", o->file);
    g_bytes_unref(file);
    g_mapped_file_unref(map);
    return ok;
}
