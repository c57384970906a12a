/*
 * Reading through the data port gives the bytes of the selected item one after the
 * other and zeros behind its end. A DMA request is a block in guest memory, big endian:
 *
 *    0 control: bit 0 error, 1 read, 2 skip, 3 select (the key is in bits 31:16),
 *      4 write
 *    4 length   8 address
 *
 * It is done when the low half of its address is written; control then becomes 0, or 1
 * after an error. A request may be as long as it likes: it is done in pieces, and ends
 * at the first that is not in RAM.
 *
 * Items live in an array sorted by key, files in one sorted by name, whose keys are
 * their places. An item's content is reference counted: a vCPU uses it without the
 * lock, which guards the arrays and the registers.
 */
#include "vmm/dev/pc/fw_cfg.h"

#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/base/ck.h"
#include "vmm/dev/pc/isa.h"
#include "vmm/vm/device.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/state.h"
#include "vmm/vm/vm.h"

#define SIGNATURE     "QEMU"
#define DMA_SIGNATURE UINT64_C(0x51454d5520434647) /* "QEMU CFG" */
#define ID_PORTS      1
#define ID_DMA        2
#define WRITE_CHANNEL 0x4000 /* means nothing any more */
#define CHUNK         4096u

enum {
    DMA_ERROR = 1 << 0,
    DMA_READ = 1 << 1,
    DMA_SKIP = 1 << 2,
    DMA_SELECT = 1 << 3,
    DMA_WRITE = 1 << 4,
};

#define DIR_ENTRY_SIZE 64
#define DIR_ENTRY_NAME 8

/* Shared by the item and by who reads it just now; immutable but for writable bytes. */
struct fw_content {
    gatomicrefcount refs;
    struct fw_cfg_content c;
    uint8_t *bytes; /* owned; NULL with c.read */
};

struct item {
    uint16_t key; /* of numbered ones */
    char *name;   /* of files */
    struct fw_content *content;
};

struct fw_cfg {
    struct device dev;
    GMutex lock;   /* guards all below */
    GArray *items; /* struct item, ascending keys */
    GArray *files; /* struct item, ascending names */
    uint16_t key;
    uint32_t offset; /* where the next byte comes from */
    uint64_t dma_addr;
    struct io_region ports, dma;
};

/* ---- content ---- */

static struct fw_content *content_new(const struct fw_cfg_content *c)
{
    struct fw_content *n = g_new0(struct fw_content, 1);

    g_atomic_ref_count_init(&n->refs);
    n->c = *c;
    if (!c->read)
        n->bytes = c->len ? g_memdup2(c->bytes, c->len) : NULL;
    n->c.bytes = n->bytes;
    return n;
}

static struct fw_content *content_ref(struct fw_content *c)
{
    if (c)
        g_atomic_ref_count_inc(&c->refs);
    return c;
}

static void content_unref(struct fw_content *c)
{
    if (c && g_atomic_ref_count_dec(&c->refs)) {
        g_free(c->bytes);
        g_free(c);
    }
}

typedef struct fw_content fw_content; /* g_autoptr() wants a name */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(fw_content, content_unref)

static void item_clear(gpointer p)
{
    struct item *item = p;

    content_unref(item->content);
    g_free(item->name);
}

/* ---- items ---- */

static struct fw_cfg *fw_cfg_of(struct device *dev)
{
    return container_of(dev, struct fw_cfg, dev);
}

static struct item *nth(GArray *items, guint i)
{
    return &g_array_index(items, struct item, i);
}

/* The place of @key in items: where it is, or where it would be. */
static guint find_key(struct fw_cfg *d, uint16_t key)
{
    guint i = 0;

    while (i < d->items->len && nth(d->items, i)->key < key)
        i++;
    return i;
}

static guint find_name(struct fw_cfg *d, const char *name)
{
    guint i = 0;

    while (i < d->files->len && strcmp(nth(d->files, i)->name, name) < 0)
        i++;
    return i;
}

/* A reference to what @key names, or NULL. */
static struct fw_content *get_locked(struct fw_cfg *d, uint16_t key)
{
    guint i;

    if (key >= FW_CFG_FILE_FIRST && key < FW_CFG_ARCH_LOCAL) {
        i = key - FW_CFG_FILE_FIRST;
        return i < d->files->len ? content_ref(nth(d->files, i)->content) : NULL;
    }
    i = find_key(d, key);
    return i < d->items->len && nth(d->items, i)->key == key
               ? content_ref(nth(d->items, i)->content)
               : NULL;
}

static void set_locked(struct fw_cfg *d, uint16_t key, const struct fw_cfg_content *c)
{
    struct item item = {.key = key, .content = content_new(c)};
    guint i = find_key(d, key);

    if (i < d->items->len && nth(d->items, i)->key == key) {
        content_unref(nth(d->items, i)->content);
        nth(d->items, i)->content = item.content;
    } else {
        g_array_insert_val(d->items, i, item);
    }
}

static void make_directory_locked(struct fw_cfg *d)
{
    uint32_t len = 4 + d->files->len * DIR_ENTRY_SIZE;
    g_autofree uint8_t *dir = g_malloc0(len);

    be32_put(dir, d->files->len);
    for (guint i = 0; i < d->files->len; i++) {
        uint8_t *e = dir + 4 + (size_t)i * DIR_ENTRY_SIZE;
        const struct item *file = nth(d->files, i);

        be32_put(e, file->content->c.len);
        be16_put(e + 4, FW_CFG_FILE_FIRST + i);
        memcpy(e + DIR_ENTRY_NAME, file->name, strlen(file->name));
    }
    set_locked(d, FW_CFG_FILE_DIR, &(struct fw_cfg_content){.bytes = dir, .len = len});
}

void fw_cfg_set(struct device *dev, uint16_t key, const struct fw_cfg_content *content)
{
    struct fw_cfg *d = fw_cfg_of(dev);

    g_mutex_lock(&d->lock);
    set_locked(d, key, content);
    g_mutex_unlock(&d->lock);
}

void fw_cfg_set_bytes(struct device *dev, uint16_t key, const void *bytes, uint32_t len)
{
    fw_cfg_set(dev, key, &(struct fw_cfg_content){.bytes = bytes, .len = len});
}

void fw_cfg_set_u16(struct device *dev, uint16_t key, uint16_t value)
{
    uint8_t b[2];

    le16_put(b, value);
    fw_cfg_set_bytes(dev, key, b, sizeof(b));
}

void fw_cfg_set_u32(struct device *dev, uint16_t key, uint32_t value)
{
    uint8_t b[4];

    le32_put(b, value);
    fw_cfg_set_bytes(dev, key, b, sizeof(b));
}

void fw_cfg_set_u64(struct device *dev, uint16_t key, uint64_t value)
{
    uint8_t b[8];

    le64_put(b, value);
    fw_cfg_set_bytes(dev, key, b, sizeof(b));
}

void fw_cfg_set_string(struct device *dev, uint16_t key, const char *text)
{
    fw_cfg_set_bytes(dev, key, text, strlen(text) + 1);
}

static bool check_name(const char *name, GError **error)
{
    if (!*name)
        return error_msg(error, "fw_cfg: a file needs a name");
    if (strlen(name) > FW_CFG_NAME_MAX)
        return error_msg(error, "fw_cfg: the name '%s' has more than %d bytes", name,
                         FW_CFG_NAME_MAX);
    for (const char *p = name; *p; p++) {
        if (!g_ascii_isprint(*p))
            return error_msg(error, "fw_cfg: a name has printable ASCII characters");
    }
    return true;
}

bool fw_cfg_set_file(struct device *dev, const char *name,
                     const struct fw_cfg_content *content, GError **error)
{
    struct fw_cfg *d = fw_cfg_of(dev);
    struct item item = {0};
    bool ok = true;
    guint i;

    if (!check_name(name, error))
        return false;
    g_mutex_lock(&d->lock);
    i = find_name(d, name);
    if (i < d->files->len && strcmp(nth(d->files, i)->name, name) == 0) {
        content_unref(nth(d->files, i)->content);
        nth(d->files, i)->content = content_new(content);
    } else if (d->files->len == FW_CFG_FILES_MAX) {
        ok = error_msg(error, "fw_cfg: no room for '%s' among %d files", name,
                       FW_CFG_FILES_MAX);
    } else {
        item.name = g_strdup(name);
        item.content = content_new(content);
        g_array_insert_val(d->files, i, item);
    }
    make_directory_locked(d);
    g_mutex_unlock(&d->lock);
    return ok;
}

bool fw_cfg_has_file(struct device *dev, const char *name)
{
    struct fw_cfg *d = fw_cfg_of(dev);
    bool has;
    guint i;

    g_mutex_lock(&d->lock);
    i = find_name(d, name);
    has = i < d->files->len && strcmp(nth(d->files, i)->name, name) == 0;
    g_mutex_unlock(&d->lock);
    return has;
}

/* ---- what the guest does ---- */

static void fw_cfg_select(struct fw_cfg *d, uint16_t key)
{
    g_autoptr(fw_content) c = NULL;

    key &= ~WRITE_CHANNEL;
    g_mutex_lock(&d->lock);
    c = get_locked(d, key);
    g_mutex_unlock(&d->lock);
    if (c && c->c.selected)
        c->c.selected(c->c.opaque);
    g_mutex_lock(&d->lock);
    d->key = key;
    d->offset = 0;
    g_mutex_unlock(&d->lock);
}

/* Take the selected item and @len bytes of its length; returns where they begin. */
static uint32_t advance(struct fw_cfg *d, uint64_t len, struct fw_content **ret)
{
    uint32_t at;

    g_mutex_lock(&d->lock);
    *ret = get_locked(d, d->key);
    at = d->offset;
    if (*ret)
        d->offset += MIN(len, (*ret)->c.len - MIN(at, (*ret)->c.len));
    g_mutex_unlock(&d->lock);
    return at;
}

/* [at, at + len) of the item, zeros behind its end. */
static bool content_read(struct fw_cfg *d, const struct fw_content *c, uint64_t at,
                         uint8_t *buf, uint32_t len)
{
    uint32_t have = c && at < c->c.len ? MIN(len, c->c.len - at) : 0;

    memset(buf + have, 0, len - have);
    if (have == 0)
        return true;
    if (c->c.read)
        return c->c.read(c->c.opaque, at, buf, have);
    g_mutex_lock(&d->lock); /* another vCPU may be writing */
    memcpy(buf, c->bytes + at, have);
    g_mutex_unlock(&d->lock);
    return true;
}

static uint64_t fw_cfg_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    g_autoptr(fw_content) c = NULL;
    uint8_t byte = 0;
    uint32_t at;

    if (off == 0) /* the selector cannot be read */
        return 0;
    at = advance(opaque, 1, &c);
    if (!content_read(opaque, c, at, &byte, 1))
        return 0;
    return byte;
}

static void fw_cfg_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                         unsigned len)
{
    if (off == 0 && len == 2)
        fw_cfg_select(opaque, value);
}

static const struct io_ops fw_cfg_ops = {
    .read = fw_cfg_read, .write = fw_cfg_write, .max_len = 2};

/* ---- DMA ---- */

struct request {
    struct fw_content *c;
    uint64_t gpa;
    uint32_t at, len;
};

static bool dma_read(struct fw_cfg *d, const struct request *r)
{
    struct gmem *m = d->dev.vm->gmem;
    uint8_t buf[CHUNK];

    for (uint32_t done = 0; done < r->len;) {
        uint32_t n = MIN(r->len - done, CHUNK);

        if (!content_read(d, r->c, (uint64_t)r->at + done, buf, n) ||
            gmem_write(m, r->gpa + done, buf, n) < 0)
            return false;
        done += n;
    }
    return true;
}

/* All of it must be within the item, and in RAM. */
static bool dma_write(struct fw_cfg *d, const struct request *r)
{
    struct fw_content *c = r->c;
    bool ok;

    if (!c || !c->c.writable || !c->bytes || !ck_range(r->at, r->len, c->c.len))
        return false;
    g_mutex_lock(&d->lock);
    ok = gmem_read(d->dev.vm->gmem, r->gpa, c->bytes + r->at, r->len) == 0;
    g_mutex_unlock(&d->lock);
    if (ok && c->c.written)
        c->c.written(c->c.opaque, c->bytes, r->at, r->len);
    return ok;
}

static bool dma_do(struct fw_cfg *d, uint32_t control, uint32_t len, uint64_t gpa)
{
    g_autoptr(fw_content) c = NULL;
    struct request r = {.gpa = gpa, .len = len};

    if (control & DMA_SELECT)
        fw_cfg_select(d, control >> 16);
    if (!(control & (DMA_READ | DMA_WRITE | DMA_SKIP)))
        return true;
    r.at = advance(d, len, &c);
    r.c = c;
    if (control & DMA_READ)
        return dma_read(d, &r);
    return control & DMA_WRITE ? dma_write(d, &r) : true;
}

static void dma_start(struct fw_cfg *d, uint64_t addr)
{
    struct gmem *m = d->dev.vm->gmem;
    uint8_t req[16];
    bool ok = false;

    if (gmem_read(m, addr, req, sizeof(req)) == 0)
        ok = dma_do(d, be32_get(req), be32_get(req + 4), be64_get(req + 8));
    be32_put(req, ok ? 0 : DMA_ERROR);
    gmem_write(m, addr, req, 4);
}

/* The register is big endian: its first byte is the most significant. */
static uint64_t fw_cfg_dma_read(void *opaque, struct vcpu *vcpu, uint64_t off,
                                unsigned len)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < len && off + i < 8; i++)
        value |= (DMA_SIGNATURE >> (56 - 8 * (off + i)) & 0xff) << 8 * i;
    return value;
}

static void fw_cfg_dma_write(void *opaque, struct vcpu *vcpu, uint64_t off,
                             uint64_t value, unsigned len)
{
    struct fw_cfg *d = opaque;
    uint64_t addr = 0;
    bool start = true;

    if (len != 8 && (len != 4 || off % 4 != 0))
        return;
    g_mutex_lock(&d->lock);
    if (len == 8) {
        addr = __builtin_bswap64(value);
    } else if (off == 4) {
        addr = d->dma_addr | __builtin_bswap32(value);
    } else {
        d->dma_addr = (uint64_t)__builtin_bswap32(value) << 32;
        start = false;
    }
    if (start)
        d->dma_addr = 0;
    g_mutex_unlock(&d->lock);
    if (start)
        dma_start(d, addr);
}

static const struct io_ops fw_cfg_dma_ops = {
    .read = fw_cfg_dma_read, .write = fw_cfg_dma_write, .max_len = 8};

/* ---- the device ---- */

static void fw_cfg_reset(struct device *dev)
{
    struct fw_cfg *d = fw_cfg_of(dev);

    g_mutex_lock(&d->lock);
    d->key = FW_CFG_SIGNATURE;
    d->offset = 0;
    d->dma_addr = 0;
    g_mutex_unlock(&d->lock);
}

static bool fw_cfg_init(struct device *dev, GError **error)
{
    struct fw_cfg *d = fw_cfg_of(dev);

    g_mutex_init(&d->lock);
    d->items = g_array_new(FALSE, FALSE, sizeof(struct item));
    g_array_set_clear_func(d->items, item_clear);
    d->files = g_array_new(FALSE, FALSE, sizeof(struct item));
    g_array_set_clear_func(d->files, item_clear);
    fw_cfg_set_bytes(dev, FW_CFG_SIGNATURE, SIGNATURE, strlen(SIGNATURE));
    fw_cfg_set_u32(dev, FW_CFG_ID, ID_PORTS | ID_DMA);
    make_directory_locked(d);
    return isa_claim(dev, &d->ports, FW_CFG_IO_BASE, 2, &fw_cfg_ops, error) &&
           isa_claim(dev, &d->dma, FW_CFG_IO_BASE + 4, 8, &fw_cfg_dma_ops, error);
}

static void fw_cfg_done(struct device *dev)
{
    struct fw_cfg *d = fw_cfg_of(dev);

    isa_release(dev, &d->ports);
    isa_release(dev, &d->dma);
    g_array_unref(d->items);
    g_array_unref(d->files);
    g_mutex_clear(&d->lock);
}

static const struct state_field fw_cfg_fields[] = {
    STATE_FIELD(U16, struct fw_cfg, key),
    STATE_FIELD(U32, struct fw_cfg, offset),
    STATE_FIELD(U64, struct fw_cfg, dma_addr),
    {0},
};

/* What a guest wrote into items is their owners' to save. */
static const struct state_table fw_cfg_state = {
    .name = "fw-cfg", .version = 1, .fields = fw_cfg_fields};

const struct device_type fw_cfg_type = {
    .name = "fw-cfg",
    .desc = "firmware configuration at ports 0x510..0x51b",
    .size = sizeof(struct fw_cfg),
    .state = &fw_cfg_state,
    .init = fw_cfg_init,
    .done = fw_cfg_done,
    .reset = fw_cfg_reset,
};
