#include "vmm/control/disas_elf.h"

#include <elf.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"

/* A section header, a program header or a symbol, of either class. */
struct header {
    uint32_t name, type;
    uint64_t flags, addr, offset, size;
    uint32_t link;
};

struct reader {
    struct elf_code *e;
    const uint8_t *bytes;
    size_t size;
    bool is64;
    uint64_t shoff, phoff;
    unsigned shnum, phnum, shentsize, phentsize, shstrndx;
};

static bool inside(const struct reader *r, uint64_t offset, uint64_t len)
{
    return offset <= r->size && len <= r->size - offset;
}

bool elf_code_is_elf(GBytes *file)
{
    gsize size;
    const uint8_t *p = g_bytes_get_data(file, &size);

    return size >= sizeof(Elf32_Ehdr) && memcmp(p, ELFMAG, SELFMAG) == 0;
}

static bool read_file_header(struct reader *r, GError **error)
{
    const uint8_t *p = r->bytes;
    unsigned machine = le16_get(p + offsetof(Elf64_Ehdr, e_machine));

    r->is64 = p[EI_CLASS] == ELFCLASS64;
    if (p[EI_DATA] != ELFDATA2LSB || (machine != EM_X86_64 && machine != EM_386))
        return error_msg(error, "an ELF file, but not for x86");
    if (r->is64 && r->size < sizeof(Elf64_Ehdr))
        return error_msg(error, "the ELF header is cut off");
    r->e->bits = machine == EM_X86_64 ? 64 : 32;
    r->e->relocatable = le16_get(p + offsetof(Elf64_Ehdr, e_type)) == ET_REL;
    if (r->is64) {
        r->phoff = le64_get(p + offsetof(Elf64_Ehdr, e_phoff));
        r->shoff = le64_get(p + offsetof(Elf64_Ehdr, e_shoff));
        p += offsetof(Elf64_Ehdr, e_phentsize);
    } else {
        r->phoff = le32_get(p + offsetof(Elf32_Ehdr, e_phoff));
        r->shoff = le32_get(p + offsetof(Elf32_Ehdr, e_shoff));
        p += offsetof(Elf32_Ehdr, e_phentsize);
    }
    r->phentsize = le16_get(p);
    r->phnum = le16_get(p + 2);
    r->shentsize = le16_get(p + 4);
    r->shnum = le16_get(p + 6);
    r->shstrndx = le16_get(p + 8);
    if (r->shnum &&
        (r->shentsize < (r->is64 ? sizeof(Elf64_Shdr) : sizeof(Elf32_Shdr)) ||
         !inside(r, r->shoff, (uint64_t)r->shnum * r->shentsize)))
        return error_msg(error, "the section headers are outside of the file");
    if (r->phnum &&
        (r->phentsize < (r->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)) ||
         !inside(r, r->phoff, (uint64_t)r->phnum * r->phentsize)))
        return error_msg(error, "the program headers are outside of the file");
    return true;
}

static struct header section_header(const struct reader *r, unsigned i)
{
    const uint8_t *p = r->bytes + r->shoff + (size_t)i * r->shentsize;
    struct header h = {.name = le32_get(p), .type = le32_get(p + 4)};

    if (r->is64) {
        h.flags = le64_get(p + offsetof(Elf64_Shdr, sh_flags));
        h.addr = le64_get(p + offsetof(Elf64_Shdr, sh_addr));
        h.offset = le64_get(p + offsetof(Elf64_Shdr, sh_offset));
        h.size = le64_get(p + offsetof(Elf64_Shdr, sh_size));
        h.link = le32_get(p + offsetof(Elf64_Shdr, sh_link));
    } else {
        h.flags = le32_get(p + offsetof(Elf32_Shdr, sh_flags));
        h.addr = le32_get(p + offsetof(Elf32_Shdr, sh_addr));
        h.offset = le32_get(p + offsetof(Elf32_Shdr, sh_offset));
        h.size = le32_get(p + offsetof(Elf32_Shdr, sh_size));
        h.link = le32_get(p + offsetof(Elf32_Shdr, sh_link));
    }
    return h;
}

static struct header program_header(const struct reader *r, unsigned i)
{
    const uint8_t *p = r->bytes + r->phoff + (size_t)i * r->phentsize;
    struct header h = {.type = le32_get(p)};

    if (r->is64) {
        h.flags = le32_get(p + offsetof(Elf64_Phdr, p_flags));
        h.addr = le64_get(p + offsetof(Elf64_Phdr, p_vaddr));
        h.offset = le64_get(p + offsetof(Elf64_Phdr, p_offset));
        h.size = le64_get(p + offsetof(Elf64_Phdr, p_filesz));
    } else {
        h.flags = le32_get(p + offsetof(Elf32_Phdr, p_flags));
        h.addr = le32_get(p + offsetof(Elf32_Phdr, p_vaddr));
        h.offset = le32_get(p + offsetof(Elf32_Phdr, p_offset));
        h.size = le32_get(p + offsetof(Elf32_Phdr, p_filesz));
    }
    return h;
}

/* The string at @offset of the table in section @table, "" where there is none. At most
 * @max bytes of it, unprintable ones as '?'. */
static const char *string_at(const struct reader *r, const struct header *table,
                             uint64_t offset, size_t max)
{
    g_autoptr(GString) s = g_string_new(NULL);

    if (table->type != SHT_STRTAB || !inside(r, table->offset, table->size))
        return "";
    for (; offset < table->size && s->len < max; offset++) {
        char c = (char)r->bytes[table->offset + offset];

        if (!c)
            break;
        g_string_append_c(s, g_ascii_isgraph(c) ? c : '?');
    }
    return g_string_chunk_insert_const(r->e->text, s->str);
}

static bool add_section(struct reader *r, const struct header *h, const char *name,
                        unsigned index, GError **error)
{
    struct elf_section s = {.index = index, .addr = h->addr};

    if (!inside(r, h->offset, h->size))
        return error_msg(error, "section %u '%s' is outside of the file", index, name);
    g_strlcpy(s.name, *name ? name : "?", sizeof(s.name));
    s.bytes = r->bytes + h->offset;
    s.len = (size_t)h->size;
    g_array_append_val(r->e->sections, s);
    return true;
}

static bool read_sections(struct reader *r, GError **error)
{
    struct header names = {0};

    if (r->shstrndx < r->shnum)
        names = section_header(r, r->shstrndx);
    for (unsigned i = 0; i < r->shnum; i++) {
        struct header h = section_header(r, i);

        if (h.type == SHT_PROGBITS && (h.flags & SHF_EXECINSTR) &&
            !add_section(r, &h, string_at(r, &names, h.name, 60), i, error))
            return false;
    }
    for (unsigned i = 0; r->shnum == 0 && i < r->phnum; i++) {
        struct header h = program_header(r, i);
        g_autofree char *name = g_strdup_printf("PT_LOAD#%u", i);

        if (h.type == PT_LOAD && (h.flags & PF_X) &&
            !add_section(r, &h, name, i, error))
            return false;
    }
    return true;
}

/* Functions before other names, global ones before local ones. */
static unsigned rank_of(unsigned info)
{
    unsigned type = info & 15, bind = info >> 4;

    return (type == STT_FUNC || type == STT_GNU_IFUNC ? 0 : 4) + (bind == STB_GLOBAL ? 0
                                                                  : bind == STB_WEAK
                                                                      ? 1
                                                                      : 2);
}

static void add_symbol(struct reader *r, const uint8_t *p, const struct header *strings)
{
    unsigned info =
        p[r->is64 ? offsetof(Elf64_Sym, st_info) : offsetof(Elf32_Sym, st_info)];
    unsigned type = info & 15;
    struct elf_symbol s = {
        .section = le16_get(p + (r->is64 ? offsetof(Elf64_Sym, st_shndx)
                                         : offsetof(Elf32_Sym, st_shndx))),
        .addr = r->is64 ? le64_get(p + offsetof(Elf64_Sym, st_value))
                        : le32_get(p + offsetof(Elf32_Sym, st_value)),
        .rank = rank_of(info),
    };

    if (type != STT_FUNC && type != STT_NOTYPE && type != STT_GNU_IFUNC &&
        type != STT_OBJECT)
        return;
    if (s.section == SHN_UNDEF || s.section >= SHN_LORESERVE)
        return;
    s.name = string_at(r, strings, le32_get(p), 512);
    if (*s.name)
        g_array_append_val(r->e->symbols, s);
}

static void read_symbols(struct reader *r, unsigned type)
{
    size_t entry = r->is64 ? sizeof(Elf64_Sym) : sizeof(Elf32_Sym);

    for (unsigned i = 0; i < r->shnum; i++) {
        struct header h = section_header(r, i), strings;

        if (h.type != type || h.link >= r->shnum || !inside(r, h.offset, h.size))
            continue;
        strings = section_header(r, h.link);
        for (uint64_t at = 0; h.size - at >= entry; at += entry)
            add_symbol(r, r->bytes + h.offset + at, &strings);
    }
}

static gint compare_symbols(gconstpointer a, gconstpointer b)
{
    const struct elf_symbol *x = a, *y = b;

    if (x->section != y->section)
        return x->section < y->section ? -1 : 1;
    if (x->addr != y->addr)
        return x->addr < y->addr ? -1 : 1;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return strcmp(x->name, y->name);
}

struct elf_code *elf_code_new(GBytes *file, GError **error)
{
    struct elf_code *e = g_new0(struct elf_code, 1);
    struct reader r = {.e = e};
    gsize size;

    e->file = g_bytes_ref(file);
    e->sections = g_array_new(FALSE, FALSE, sizeof(struct elf_section));
    e->symbols = g_array_new(FALSE, FALSE, sizeof(struct elf_symbol));
    e->text = g_string_chunk_new(64 * KIB);
    r.bytes = g_bytes_get_data(file, &size);
    r.size = size;
    if (!read_file_header(&r, error) || !read_sections(&r, error)) {
        elf_code_free(e);
        return NULL;
    }
    read_symbols(&r, SHT_SYMTAB);
    if (e->symbols->len == 0)
        read_symbols(&r, SHT_DYNSYM);
    g_array_sort(e->symbols, compare_symbols);
    return e;
}

void elf_code_free(struct elf_code *e)
{
    if (!e)
        return;
    g_array_unref(e->sections);
    g_array_unref(e->symbols);
    g_string_chunk_free(e->text);
    g_bytes_unref(e->file);
    g_free(e);
}

static const struct elf_symbol *symbol(const struct elf_code *e, size_t i)
{
    return &g_array_index(e->symbols, struct elf_symbol, i);
}

/* Index of the first symbol at or after @addr of section @index. */
static size_t lower_bound(const struct elf_code *e, unsigned index, uint64_t addr)
{
    size_t low = 0, high = e->symbols->len;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const struct elf_symbol *s = symbol(e, mid);

        if (s->section < index || (s->section == index && s->addr < addr))
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

const struct elf_symbol *elf_code_symbol(const struct elf_code *e, uint64_t addr)
{
    for (guint i = 0; i < e->sections->len && !e->relocatable; i++) {
        const struct elf_section *s =
            &g_array_index(e->sections, struct elf_section, i);
        size_t at;

        if (addr < s->addr || addr - s->addr >= s->len)
            continue;
        at = lower_bound(e, s->index, addr);
        if (at < e->symbols->len && symbol(e, at)->section == s->index &&
            symbol(e, at)->addr == addr)
            return symbol(e, at);
        if (at == 0 || symbol(e, at - 1)->section != s->index)
            return NULL;
        /* Of several names of that address the first. */
        return symbol(e, lower_bound(e, s->index, symbol(e, at - 1)->addr));
    }
    return NULL;
}

size_t elf_code_first_symbol(const struct elf_code *e, const struct elf_section *s)
{
    return lower_bound(e, s->index, s->addr);
}

const struct elf_symbol *elf_code_label(const struct elf_code *e,
                                        const struct elf_section *s, uint64_t addr,
                                        size_t *at)
{
    while (*at < e->symbols->len && symbol(e, *at)->section == s->index &&
           symbol(e, *at)->addr < addr)
        ++*at;
    if (*at == e->symbols->len || symbol(e, *at)->section != s->index)
        return NULL;
    return symbol(e, *at);
}
