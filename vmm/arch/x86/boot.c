/*
 * What the boot protocols share: files, the memory map, the list of pieces to write.
 *
 * A boot image is a list of blobs (guest-physical address, length, where the bytes
 * come from). Looking at a hostile kernel file only ever produces such a list, with
 * every range checked against the memory map; x86_boot_write() then copies without
 * deciding anything, so that the fuzzer needs no guest memory and a reset is the
 * same code as the start.
 */
#include "vmm/arch/x86/boot_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"
#include "lib/isa/x86/state.h"

#define PAGE UINT64_C(4096)

#define MULTIBOOT_LOADED 0x2badb002 /* says that a multiboot loader started it */

bool x86_e820_add(struct x86_e820 *map, uint64_t base, uint64_t len,
                  enum x86_e820_type type)
{
    uint64_t end;

    if (len == 0)
        return true;
    if (map->n == X86_E820_MAX || !ck_add(base, len, &end))
        return false;
    if (map->n > 0 && base < map->e[map->n - 1].base + map->e[map->n - 1].len)
        return false;
    map->e[map->n].base = base;
    map->e[map->n].len = len;
    map->e[map->n].type = type;
    map->n++;
    return true;
}

bool x86_e820_is_ram(const struct x86_e820 *map, uint64_t base, uint64_t len)
{
    for (unsigned i = 0; i < map->n; i++) {
        if (map->e[i].type == X86_E820_RAM && base >= map->e[i].base &&
            ck_range(base - map->e[i].base, len, map->e[i].len))
            return true;
    }
    return false;
}

/* files */

struct x86_boot_file {
    const char *what; /* "kernel", "initrd" */
    char *path;
    int fd;              /* -1 for bytes in memory */
    const uint8_t *data; /* borrowed */
    uint64_t len;
};

gboolean boot_file_error(const struct x86_boot_file *f, GError **error, const char *fmt,
                         ...)
{
    va_list ap;
    g_autofree char *text = NULL;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return error_msg(error, "%s '%s': %s", f->what, f->path, text);
}

struct x86_boot_file *x86_boot_file_open(const char *what, const char *path,
                                         GError **error)
{
    struct x86_boot_file *f = g_new0(struct x86_boot_file, 1);
    struct stat st;

    f->what = what;
    f->path = g_strdup(path);
    /* O_NONBLOCK: a FIFO must not make us wait before we refuse it. */
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (f->fd < 0 || fstat(f->fd, &st) < 0) {
        error_errno(error, errno, "%s '%s'", what, path);
        goto fail;
    }
    if (!S_ISREG(st.st_mode)) {
        boot_file_error(f, error, "not a regular file");
        goto fail;
    }
    if (st.st_size == 0) {
        boot_file_error(f, error, "the file is empty");
        goto fail;
    }
    f->len = st.st_size;
    return f;
fail:
    x86_boot_file_free(f);
    return NULL;
}

struct x86_boot_file *x86_boot_file_mem(const char *what, const uint8_t *data,
                                        uint64_t len)
{
    struct x86_boot_file *f = g_new0(struct x86_boot_file, 1);

    f->what = what;
    f->path = g_strdup("memory");
    f->fd = -1;
    f->data = data;
    f->len = len;
    return f;
}

void x86_boot_file_free(struct x86_boot_file *f)
{
    if (!f)
        return;
    if (f->fd >= 0)
        close(f->fd);
    g_free(f->path);
    g_free(f);
}

uint64_t boot_file_len(const struct x86_boot_file *f)
{
    return f->len;
}

bool boot_file_read(const struct x86_boot_file *f, uint64_t off, void *buf, size_t len,
                    GError **error)
{
    size_t done = 0;

    if (!ck_range(off, len, f->len))
        return boot_file_error(f, error,
                               "truncated: %zu bytes are needed at offset %" PRIu64
                               ", the file has %" PRIu64,
                               len, off, f->len);
    if (f->fd < 0) {
        memcpy(buf, f->data + off, len);
        return true;
    }
    while (done < len) {
        ssize_t n = pread(f->fd, (uint8_t *)buf + done, len - done, off + done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_errno(error, errno, "%s '%s': read", f->what, f->path);
        if (n == 0)
            return boot_file_error(f, error, "the file has become shorter");
        done += n;
    }
    return true;
}

const char *boot_file_path(const struct x86_boot_file *f)
{
    return f->path;
}

/* blobs */

static void blob_clear(gpointer p)
{
    g_free(((struct boot_blob *)p)->bytes);
}

void boot_add_bytes(struct x86_boot *b, uint64_t gpa, const void *bytes, size_t len)
{
    struct boot_blob blob = {.gpa = gpa, .len = len, .bytes = g_memdup2(bytes, len)};

    g_array_append_val(b->blobs, blob);
}

void boot_add_file(struct x86_boot *b, uint64_t gpa, const struct x86_boot_file *f,
                   uint64_t off, uint64_t len)
{
    struct boot_blob blob = {.gpa = gpa, .len = len, .file = f, .file_off = off};

    g_array_append_val(b->blobs, blob);
}

void boot_add_zeros(struct x86_boot *b, uint64_t gpa, uint64_t len)
{
    struct boot_blob blob = {.gpa = gpa, .len = len};

    if (len > 0)
        g_array_append_val(b->blobs, blob);
}

bool boot_place_initrd(struct x86_boot *b, const struct x86_boot_config *config,
                       uint64_t kernel_end, uint64_t limit, uint64_t *ret_gpa,
                       GError **error)
{
    uint64_t len = b->initrd ? boot_file_len(b->initrd) : 0;

    *ret_gpa = 0;
    if (!b->initrd)
        return true;
    limit = MIN(limit, 4 * GIB);
    for (unsigned i = config->map.n; i-- > 0;) {
        uint64_t end = MIN(config->map.e[i].base + config->map.e[i].len, limit);
        uint64_t start = MAX(config->map.e[i].base, kernel_end);
        uint64_t at;

        if (config->map.e[i].type != X86_E820_RAM || start > end || len > end - start)
            continue;
        at = ALIGN_DOWN(end - len, PAGE);
        if (at < start)
            continue;
        *ret_gpa = at;
        boot_add_file(b, at, b->initrd, 0, len);
        return true;
    }
    return boot_file_error(b->initrd, error,
                           "its %" PRIu64 " KiB do not fit beside the kernel, which "
                           "ends at %" PRIu64 " MiB, into memory of %" PRIu64 " MiB",
                           (len + KIB - 1) / KIB, kernel_end / MIB,
                           config->memory / MIB);
}

/*
 * Flat segments at the selectors that the Linux 32-bit protocol asks for. The kernel
 * loads its own table at once; until then this one is what its selectors mean.
 */
static void add_gdt(struct x86_boot *b)
{
    uint8_t gdt[4 * 8] = {0};
    bool is64 = b->protocol == X86_BOOT_LINUX64;

    le64_put(gdt + X86_BOOT_CS,
             is64 ? UINT64_C(0x00af9b000000ffff) : UINT64_C(0x00cf9b000000ffff));
    le64_put(gdt + X86_BOOT_DS, UINT64_C(0x00cf93000000ffff));
    boot_add_bytes(b, X86_BOOT_GDT, gdt, sizeof(gdt));
    b->gdt = X86_BOOT_GDT;
}

static bool boot_probe(struct x86_boot *b, const struct x86_boot_config *config,
                       GError **error)
{
    uint8_t head[0x206] = {0};
    size_t n = MIN(boot_file_len(b->kernel), sizeof(head));

    if (!boot_file_read(b->kernel, 0, head, n, error))
        return false;
    if (boot_is_multiboot(b->kernel))
        return boot_multiboot(b, config, error);
    if (n >= 4 && memcmp(head, "\177ELF", 4) == 0)
        return boot_elf(b, config, error);
    if (n >= 0x206 && memcmp(head + 0x202, "HdrS", 4) == 0)
        return boot_bzimage(b, config, error);
    if (n >= 0x200 && le16_get(head + 0x1fe) == 0xaa55)
        return boot_file_error(b->kernel, error,
                               "not a Linux kernel, or one with a boot protocol older "
                               "than 2.00");
    return boot_file_error(b->kernel, error,
                           "not a kernel: neither a Linux bzImage nor an ELF file "
                           "nor multiboot");
}

struct x86_boot *x86_boot_new(const struct x86_boot_config *config, GError **error)
{
    struct x86_boot *b = g_new0(struct x86_boot, 1);

    b->kernel = config->kernel;
    b->initrd = config->initrd;
    b->nb_modules = config->nb_modules;
    memcpy(b->modules, config->modules, sizeof(b->modules));
    b->blobs = g_array_new(FALSE, FALSE, sizeof(struct boot_blob));
    g_array_set_clear_func(b->blobs, blob_clear);
    if (!x86_e820_is_ram(&config->map, 0, X86_BOOT_LOW_END)) {
        error_msg(error, "memory of %" PRIu64 " KiB is too small to boot anything",
                  config->memory / KIB);
        goto fail;
    }
    if (!boot_probe(b, config, error))
        goto fail;
    if (b->protocol < X86_BOOT_PVH || config->entry == X86_BOOT_ENTRY_AUTO) {
        if (!b->gdt && b->protocol != X86_BOOT_LINUX16)
            add_gdt(b);
        return b;
    }
    boot_file_error(b->kernel, error, "only a Linux bzImage has several entries");
fail:
    x86_boot_free(b);
    return NULL;
}

void x86_boot_free(struct x86_boot *b)
{
    if (!b)
        return;
    g_array_unref(b->blobs);
    g_free(b->pieces.setup.bytes);
    g_free(b->pieces.cmdline.bytes);
    x86_boot_file_free(b->kernel);
    x86_boot_file_free(b->initrd);
    for (unsigned i = 0; i < b->nb_modules; i++) {
        x86_boot_file_free(b->modules[i].file);
        g_free(b->modules[i].cmdline);
    }
    g_free(b);
}

enum x86_boot_protocol x86_boot_get_protocol(const struct x86_boot *b)
{
    return b->protocol;
}

uint32_t x86_boot_get_entry(const struct x86_boot *b)
{
    return b->entry;
}

const struct x86_boot_pieces *x86_boot_get_pieces(const struct x86_boot *b)
{
    return b->has_pieces ? &b->pieces : NULL;
}

bool x86_boot_piece_read(const struct x86_boot_piece *p, uint64_t off, void *buf,
                         size_t len, GError **error)
{
    if (p->file)
        return boot_file_read(p->file, p->off + off, buf, len, error);
    memcpy(buf, p->bytes + off, len);
    return true;
}

static struct x86_segment flat(uint16_t sel, unsigned type)
{
    return (struct x86_segment){
        .sel = sel,
        .attr = type | X86_SEG_ACCESSED | X86_SEG_RW | X86_SEG_S | X86_SEG_P |
                X86_SEG_DB | X86_SEG_G,
        .limit = UINT32_MAX,
    };
}

static void set_segments(const struct x86_boot *b, struct x86_state *state)
{
    bool multiboot = b->protocol == X86_BOOT_MULTIBOOT;

    for (unsigned i = 0; i < X86_NB_SEG; i++)
        state->seg[i] = flat(multiboot ? X86_BOOT_MULTIBOOT_DS : X86_BOOT_DS, 0);
    state->seg[X86_CS] =
        flat(multiboot ? X86_BOOT_MULTIBOOT_CS : X86_BOOT_CS, X86_SEG_CODE);
    state->tr = (struct x86_segment){
        .attr = X86_SYS_TSS_BUSY | X86_SEG_P,
        .limit = 0x67,
    };
    state->gdtr = (struct x86_dtable){
        .base = b->gdt,
        .limit = multiboot ? 3 * 8 - 1 : 4 * 8 - 1,
    };
}

/* boot.rst "64-bit Boot Protocol": paging is on. */
static void set_long_mode(struct x86_state *state)
{
    state->seg[X86_CS].attr &= ~X86_SEG_DB;
    state->seg[X86_CS].attr |= X86_SEG_L;
    state->cr3 = X86_BOOT_PAGES;
    state->cr4 = X86_CR4_PAE;
    state->efer = X86_EFER_LME | X86_EFER_LMA;
    state->cr0 |= X86_CR0_PG;
}

/* boot.rst "32-bit Boot Protocol"; pvh.pandoc "x86/HVM direct boot ABI"; multiboot
 * 3.2 "Machine state". */
void x86_boot_set_state(const struct x86_boot *b, struct x86_state *state)
{
    if (b->protocol == X86_BOOT_LINUX16) /* the firmware's, where it is */
        return;
    set_segments(b, state);
    state->cpl = 0;
    state->cr0 = X86_CR0_PE | X86_CR0_ET;
    state->cr4 = 0;
    state->efer = 0;
    state->rflags = X86_FL_R1;
    memset(state->gpr, 0, sizeof(state->gpr));
    switch (b->protocol) {
    case X86_BOOT_LINUX64:
        set_long_mode(state);
        state->gpr[X86_RSI] = X86_BOOT_ZEROPAGE;
        break;
    case X86_BOOT_LINUX32: state->gpr[X86_RSI] = X86_BOOT_ZEROPAGE; break;
    case X86_BOOT_LINUX16: break;
    case X86_BOOT_PVH: state->gpr[X86_RBX] = X86_BOOT_PVH_INFO; break;
    case X86_BOOT_MULTIBOOT:
        state->gpr[X86_RAX] = MULTIBOOT_LOADED;
        state->gpr[X86_RBX] = b->info;
        break;
    }
    state->rip = b->entry;
    state->activity = X86_ACTIVE;
}
