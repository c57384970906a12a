/*
 * ACPI machine language. A package length (20.2.4) stands before what it measures and
 * is 1 to 4 bytes long depending on its own value, so that it is put in when the
 * package is closed: the stack holds where.
 */
#include "vmm/board/aml.h"

#include <assert.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"

/* 20.3, "AML Byte Stream Byte Values". */
enum {
    OP_ZERO = 0x00,
    OP_ONE = 0x01,
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_METHOD = 0x14,
    OP_DUAL_NAME = 0x2e,
    OP_MULTI_NAME = 0x2f,
    OP_EXT = 0x5b,
    OP_EXT_REGION = 0x80,
    OP_EXT_FIELD = 0x81,
    OP_EXT_DEVICE = 0x82,
    OP_LOCAL0 = 0x60,
    OP_STORE = 0x70,
    OP_AND = 0x7b,
    OP_NOTIFY = 0x86,
    OP_IF = 0xa0,
    OP_ELSE = 0xa1,
};

/* 6.4.2, 6.4.3: resource descriptors. */
enum {
    RES_IRQ = 0x22,
    RES_IO = 0x47,
    RES_END = 0x79,
    RES_MEMORY32_FIXED = 0x86,
    RES_DWORD_WINDOW = 0x87,
    RES_WORD_WINDOW = 0x88,
    RES_INTERRUPT = 0x89,
    RES_QWORD_WINDOW = 0x8a,
};

#define NAME_SEGMENT  4
#define METHOD_SERIAL 0x08
#define REGION_MEMORY 0x00
#define FIELD_BYTE    0x01 /* ByteAcc, NoLock, Preserve */
#define FIELD_DWORD   0x03 /* DWordAcc, NoLock, Preserve */
#define DEPTH_MAX     8

struct aml {
    GByteArray *bytes;
    GByteArray *res; /* the resource template being made */
    unsigned depth;
    guint open[DEPTH_MAX]; /* where their package lengths go */
};

struct aml *aml_new(void)
{
    struct aml *a = g_new0(struct aml, 1);

    a->bytes = g_byte_array_new();
    a->res = g_byte_array_new();
    return a;
}

void aml_free(struct aml *a)
{
    if (!a)
        return;
    g_byte_array_unref(a->bytes);
    g_byte_array_unref(a->res);
    g_free(a);
}

const GByteArray *aml_bytes(const struct aml *a)
{
    assert(a->depth == 0);
    return a->bytes;
}

static void put8(struct aml *a, unsigned byte)
{
    uint8_t b = byte;

    g_byte_array_append(a->bytes, &b, 1);
}

static void put(GByteArray *to, uint64_t value, unsigned len)
{
    uint8_t b[8];

    le64_put(b, value);
    g_byte_array_append(to, b, len);
}

/* One name, filled up with '_' (20.2.2). */
static void put_segment(struct aml *a, const char *name, size_t len)
{
    char seg[NAME_SEGMENT + 1] = "____";

    assert(len <= NAME_SEGMENT);
    memcpy(seg, name, len);
    g_byte_array_append(a->bytes, (const uint8_t *)seg, NAME_SEGMENT);
}

static void put_path(struct aml *a, const char *path)
{
    g_auto(GStrv) names = NULL;
    guint n;

    if (*path == '\\') {
        put8(a, '\\');
        path++;
    }
    names = g_strsplit(path, ".", -1);
    n = g_strv_length(names);
    if (n == 0)
        put8(a, OP_ZERO);
    else if (n == 2)
        put8(a, OP_DUAL_NAME);
    else if (n > 2) {
        put8(a, OP_MULTI_NAME);
        put8(a, n);
    }
    for (guint i = 0; i < n; i++)
        put_segment(a, names[i], strlen(names[i]));
}

static void open_package(struct aml *a)
{
    assert(a->depth < DEPTH_MAX);
    a->open[a->depth++] = a->bytes->len;
}

/* The length counts its own bytes; the lead byte's top two bits say how many follow. */
static unsigned encode_length(uint8_t out[4], uint64_t content)
{
    for (unsigned n = 1; n <= 4; n++) {
        uint64_t total = content + n;

        if (n == 1 ? total > 0x3f : total >> (4 + 8 * (n - 1)))
            continue;
        if (n == 1) {
            out[0] = total;
            return 1;
        }
        out[0] = (n - 1) << 6 | (total & 0xf);
        for (unsigned i = 1; i < n; i++)
            out[i] = total >> (4 + 8 * (i - 1));
        return n;
    }
    assert(!"AML of 256 MiB");
    return 0;
}

void aml_close(struct aml *a)
{
    uint8_t len[4];
    guint at, content;
    unsigned n;

    assert(a->depth > 0);
    at = a->open[--a->depth];
    content = a->bytes->len - at;
    n = encode_length(len, content);
    g_byte_array_set_size(a->bytes, a->bytes->len + n);
    memmove(a->bytes->data + at + n, a->bytes->data + at, content);
    memcpy(a->bytes->data + at, len, n);
}

void aml_scope(struct aml *a, const char *path)
{
    put8(a, OP_SCOPE);
    open_package(a);
    put_path(a, path);
}

void aml_device(struct aml *a, const char *name)
{
    put8(a, OP_EXT);
    put8(a, OP_EXT_DEVICE);
    open_package(a);
    put_path(a, name);
}

void aml_method(struct aml *a, const char *name, unsigned nb_args)
{
    put8(a, OP_METHOD);
    open_package(a);
    put_path(a, name);
    put8(a, METHOD_SERIAL | nb_args);
}

void aml_package(struct aml *a, unsigned nb_elements)
{
    put8(a, OP_PACKAGE);
    open_package(a);
    put8(a, nb_elements);
}

void aml_int(struct aml *a, uint64_t value)
{
    static const struct {
        uint64_t max;
        uint8_t op, len;
    } forms[] = {
        {0xff, OP_BYTE, 1},
        {0xffff, OP_WORD, 2},
        {0xffffffff, OP_DWORD, 4},
        {UINT64_MAX, OP_QWORD, 8},
    };

    if (value <= 1) {
        put8(a, value ? OP_ONE : OP_ZERO);
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        if (value <= forms[i].max) {
            put8(a, forms[i].op);
            put(a->bytes, value, forms[i].len);
            return;
        }
    }
}

void aml_string(struct aml *a, const char *text)
{
    put8(a, OP_STRING);
    g_byte_array_append(a->bytes, (const uint8_t *)text, strlen(text) + 1);
}

void aml_name(struct aml *a, const char *name)
{
    put8(a, OP_NAME);
    put_path(a, name);
}

void aml_name_int(struct aml *a, const char *name, uint64_t value)
{
    aml_name(a, name);
    aml_int(a, value);
}

void aml_name_string(struct aml *a, const char *name, const char *text)
{
    aml_name(a, name);
    aml_string(a, text);
}

/* 19.6.36: three letters of 5 bits and four hexadecimal digits, big-endian. */
void aml_name_eisaid(struct aml *a, const char *name, const char *id)
{
    uint32_t letters, digits;

    assert(strlen(id) == 7);
    letters = (id[0] - '@') << 10 | (id[1] - '@') << 5 | (id[2] - '@');
    digits = g_ascii_strtoull(id + 3, NULL, 16);
    aml_name(a, name);
    put8(a, OP_DWORD);
    put(a->bytes, __builtin_bswap32(letters << 16 | digits), 4);
}

/* resources */

void aml_crs_begin(struct aml *a)
{
    assert(a->res->len == 0);
}

void aml_res_io(struct aml *a, uint16_t port, uint8_t len)
{
    put(a->res, RES_IO, 1);
    put(a->res, 1, 1); /* decodes 16 bits */
    put(a->res, port, 2);
    put(a->res, port, 2);
    put(a->res, 1, 1);
    put(a->res, len, 1);
}

void aml_res_irq(struct aml *a, unsigned irq)
{
    put(a->res, RES_IRQ, 1);
    put(a->res, 1u << irq, 2);
}

void aml_res_memory(struct aml *a, uint32_t base, uint32_t len)
{
    put(a->res, RES_MEMORY32_FIXED, 1);
    put(a->res, 9, 2);
    put(a->res, 1, 1); /* read and write */
    put(a->res, base, 4);
    put(a->res, len, 4);
}

void aml_res_interrupt(struct aml *a, uint32_t gsi)
{
    put(a->res, RES_INTERRUPT, 1);
    put(a->res, 6, 2);
    put(a->res, 1, 1); /* consumer, level, active high, exclusive */
    put(a->res, 1, 1);
    put(a->res, gsi, 4);
}

void aml_res_interrupts(struct aml *a, const uint32_t *gsis, unsigned n)
{
    put(a->res, RES_INTERRUPT, 1);
    put(a->res, 2 + 4 * n, 2);
    put(a->res, 9, 1); /* consumer, level, active high, shared */
    put(a->res, n, 1);
    for (unsigned i = 0; i < n; i++)
        put(a->res, gsis[i], 4);
}

enum { WINDOW_MEMORY, WINDOW_PORTS, WINDOW_BUSES };

/* Address space descriptors (6.4.3.5): produced, both ends fixed; @width of a number.
 */
static void put_window(struct aml *a, uint8_t tag, unsigned kind, unsigned flags,
                       uint64_t first, uint64_t last, unsigned width)
{
    put(a->res, tag, 1);
    put(a->res, 3 + 5 * width, 2);
    put(a->res, kind, 1);
    put(a->res, 0x0c, 1); /* minimum and maximum fixed, positive decode */
    put(a->res, flags, 1);
    put(a->res, 0, width); /* granularity */
    put(a->res, first, width);
    put(a->res, last, width);
    put(a->res, 0, width); /* translation */
    put(a->res, last - first + 1, width);
}

void aml_res_buses(struct aml *a, uint16_t first, uint16_t last)
{
    put_window(a, RES_WORD_WINDOW, WINDOW_BUSES, 0, first, last, 2);
}

void aml_res_ports(struct aml *a, uint16_t first, uint16_t last)
{
    put_window(a, RES_WORD_WINDOW, WINDOW_PORTS, 3, first, last, 2); /* whole range */
}

void aml_res_window(struct aml *a, uint64_t first, uint64_t last, bool prefetch)
{
    unsigned flags = prefetch ? 7 : 1; /* read and write; prefetchable */

    if (last > UINT32_MAX)
        put_window(a, RES_QWORD_WINDOW, WINDOW_MEMORY, flags, first, last, 8);
    else
        put_window(a, RES_DWORD_WINDOW, WINDOW_MEMORY, flags, first, last, 4);
}

void aml_crs_end(struct aml *a)
{
    aml_res_end(a, "_CRS");
}

void aml_res_end(struct aml *a, const char *name)
{
    put(a->res, RES_END, 1);
    put(a->res, 0, 1); /* checksum not used */
    aml_name(a, name);
    put8(a, OP_BUFFER);
    open_package(a);
    aml_int(a, a->res->len);
    g_byte_array_append(a->bytes, a->res->data, a->res->len);
    aml_close(a);
    g_byte_array_set_size(a->res, 0);
}

/* code */

void aml_op(struct aml *a, enum aml_op op)
{
    put8(a, op);
}

void aml_ref(struct aml *a, const char *path)
{
    put_path(a, path);
}

void aml_if(struct aml *a)
{
    put8(a, OP_IF);
    open_package(a);
}

void aml_else(struct aml *a)
{
    put8(a, OP_ELSE);
    open_package(a);
}

void aml_buffer(struct aml *a, const void *bytes, unsigned len)
{
    put8(a, OP_BUFFER);
    open_package(a);
    aml_int(a, len);
    g_byte_array_append(a->bytes, bytes, len);
    aml_close(a);
}

void aml_region(struct aml *a, const char *name, enum aml_space space, uint64_t at,
                unsigned len)
{
    put8(a, OP_EXT);
    put8(a, OP_EXT_REGION);
    put_path(a, name);
    put8(a, space);
    aml_int(a, at);
    aml_int(a, len);
}

void aml_field(struct aml *a, const char *region)
{
    put8(a, OP_EXT);
    put8(a, OP_EXT_FIELD);
    open_package(a);
    put_path(a, region);
    put8(a, FIELD_BYTE);
}

/* The length of a field is written as that of a package, which does not count itself.
 */
void aml_field_unit(struct aml *a, const char *name, unsigned bits)
{
    if (name)
        put_path(a, name);
    else
        put8(a, 0);
    assert(bits < 0x1000);
    if (bits < 0x40) {
        put8(a, bits);
    } else {
        put8(a, 0x40 | (bits & 0xf));
        put8(a, bits >> 4);
    }
}

void aml_register32(struct aml *a, const char *region, const char *field,
                    uint32_t address)
{
    put8(a, OP_EXT);
    put8(a, OP_EXT_REGION);
    put_path(a, region);
    put8(a, REGION_MEMORY);
    aml_int(a, address);
    aml_int(a, 4);

    put8(a, OP_EXT);
    put8(a, OP_EXT_FIELD);
    open_package(a);
    put_path(a, region);
    put8(a, FIELD_DWORD);
    put_path(a, field);
    put8(a, 32); /* bits, a package length of one byte */
    aml_close(a);
}

void aml_load_local0(struct aml *a, const char *field)
{
    put8(a, OP_STORE);
    put_path(a, field);
    put8(a, OP_LOCAL0);
}

void aml_notify_if_local0(struct aml *a, uint64_t mask, const char *object,
                          uint8_t value)
{
    put8(a, OP_IF);
    open_package(a);
    put8(a, OP_AND);
    put8(a, OP_LOCAL0);
    aml_int(a, mask);
    put8(a, OP_ZERO); /* no target */
    put8(a, OP_NOTIFY);
    put_path(a, object);
    aml_int(a, value);
    aml_close(a);
}
