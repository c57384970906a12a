/*
 * A structure is a header (type, length, handle), fields of fixed place, and the
 * strings that fields name by number, each ended by a zero, and one more at the end
 * (6.1.3). The anchor says how long all are together.
 */
#include "vmm/board/smbios.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"

enum {
    TYPE_BIOS = 0,
    TYPE_SYSTEM = 1,
    TYPE_BOARD = 2,
    TYPE_CHASSIS = 3,
    TYPE_PROCESSOR = 4,
    TYPE_MEMORY_ARRAY = 16,
    TYPE_MEMORY_DEVICE = 17,
    TYPE_MEMORY_ADDRESS = 19,
    TYPE_BOOT = 32,
    TYPE_END = 127,

    CHASSIS_HANDLE = 0x300,
    ARRAY_HANDLE = 0x1000,
    NO_ERRORS_HANDLE = 0xfffe,
    DIMM_GIB = 16,
};

#define MANUFACTURER "Lodge"

/* Keys of -smbios that are strings, by type: the offset of the field that names each.
 */
static const struct {
    uint8_t type;
    const char *key;
    uint8_t off;
} strings[] = {
    {TYPE_BIOS, "vendor", 4},     {TYPE_BIOS, "version", 5},
    {TYPE_BIOS, "date", 8},       {TYPE_SYSTEM, "manufacturer", 4},
    {TYPE_SYSTEM, "product", 5},  {TYPE_SYSTEM, "version", 6},
    {TYPE_SYSTEM, "serial", 7},   {TYPE_SYSTEM, "sku", 25},
    {TYPE_SYSTEM, "family", 26},  {TYPE_BOARD, "manufacturer", 4},
    {TYPE_BOARD, "product", 5},   {TYPE_BOARD, "version", 6},
    {TYPE_BOARD, "serial", 7},    {TYPE_BOARD, "asset", 8},
    {TYPE_BOARD, "location", 10}, {TYPE_CHASSIS, "manufacturer", 4},
    {TYPE_CHASSIS, "version", 6}, {TYPE_CHASSIS, "serial", 7},
    {TYPE_CHASSIS, "asset", 8},   {TYPE_CHASSIS, "sku", 21},
};

static bool parse_uuid(const char *text, uint8_t out[16])
{
    unsigned n = 0;

    for (const char *p = text; *p; p++) {
        if (*p == '-')
            continue;
        if (!g_ascii_isxdigit(*p) || n == 32)
            return false;
        out[n / 2] = (uint8_t)(out[n / 2] << 4 | g_ascii_xdigit_value(*p));
        n++;
    }
    return n == 32;
}

static const char *option_text(const json_t *option, const char *key)
{
    return json_string_value(json_object_get(option, key));
}

static long option_type(const json_t *option)
{
    const char *text = option_text(option, "type");
    char *end;
    long type = text ? strtol(text, &end, 0) : -1;

    return text && *text && !*end ? type : -1;
}

static bool known_key(long type, const char *key)
{
    for (size_t i = 0; i < ARRAY_LEN(strings); i++) {
        if (strings[i].type == type && strcmp(strings[i].key, key) == 0)
            return true;
    }
    return (type == TYPE_SYSTEM && strcmp(key, "uuid") == 0) ||
           (type == TYPE_BIOS &&
            (strcmp(key, "release") == 0 || strcmp(key, "uefi") == 0)) ||
           strcmp(key, "type") == 0;
}

bool smbios_check(const json_t *option, GError **error)
{
    long type = option_type(option);
    const char *key, *uuid = option_text(option, "uuid");
    uint8_t bytes[16];
    json_t *value;

    if (type < TYPE_BIOS || type > TYPE_CHASSIS)
        return error_msg(error, "type=%s is not 0, 1, 2 or 3",
                         option_text(option, "type") ?: "");
    json_object_foreach((json_t *)option, key, value)
    {
        if (!known_key(type, key))
            return error_msg(error, "type %ld has no '%s'", type, key);
        if (!json_is_string(value) || !*json_string_value(value))
            return error_msg(error, "'%s' needs a value", key);
    }
    return !uuid || parse_uuid(uuid, bytes) ||
           error_msg(error, "'%s' is not a UUID", uuid);
}

/* ---- structures ---- */

struct maker {
    const struct smbios_machine *m;
    GByteArray *out;
    unsigned nb, longest;

    guint at; /* of the structure being made */
    uint8_t nb_strings;
    GByteArray *text;
};

static uint8_t *field(struct maker *k, unsigned off)
{
    return k->out->data + k->at + off;
}

static void begin(struct maker *k, uint8_t type, uint8_t len, uint16_t handle)
{
    k->at = k->out->len;
    g_byte_array_set_size(k->out, k->at + len);
    memset(field(k, 0), 0, len);
    field(k, 0)[0] = type;
    field(k, 0)[1] = len;
    le16_put(field(k, 2), handle);
    k->nb_strings = 0;
    g_byte_array_set_size(k->text, 0);
}

static void set_string(struct maker *k, unsigned off, const char *text)
{
    if (text && *text) {
        *field(k, off) = ++k->nb_strings;
        g_byte_array_append(k->text, (const uint8_t *)text, strlen(text) + 1);
    }
}

static void end(struct maker *k)
{
    if (k->text->len == 0)
        g_byte_array_append(k->text, (const uint8_t *)"", 1);
    g_byte_array_append(k->text, (const uint8_t *)"", 1);
    g_byte_array_append(k->out, k->text->data, k->text->len);
    k->longest = MAX(k->longest, k->out->len - k->at);
    k->nb++;
}

/* The last -smbios of @type that has @key. */
static const char *chosen(const struct maker *k, uint8_t type, const char *key)
{
    const char *found = NULL;

    for (size_t i = 0; i < json_array_size(k->m->options); i++) {
        const json_t *o = json_array_get(k->m->options, i);

        if (option_type(o) == type && option_text(o, key))
            found = option_text(o, key);
    }
    return found;
}

/* Its strings: what the user chose, else of @defaults (pairs of key and text). */
static void set_strings(struct maker *k, uint8_t type, const char *const *defaults)
{
    for (size_t i = 0; i < ARRAY_LEN(strings); i++) {
        const char *text;

        if (strings[i].type != type)
            continue;
        text = chosen(k, type, strings[i].key);
        for (const char *const *d = defaults; !text && *d; d += 2) {
            if (strcmp(d[0], strings[i].key) == 0)
                text = d[1];
        }
        set_string(k, strings[i].off, text);
    }
}

static bool asked_for(const struct maker *k, uint8_t type)
{
    return chosen(k, type, "type") != NULL;
}

/* Firmware makes one of its own unless it is asked for. */
static void add_bios(struct maker *k)
{
    static const char *const none[] = {NULL};
    const char *release = chosen(k, TYPE_BIOS, "release");
    const char *uefi = chosen(k, TYPE_BIOS, "uefi");
    unsigned major = 0, minor = 0;

    if (!asked_for(k, TYPE_BIOS))
        return;
    if (release && sscanf(release, "%u.%u", &major, &minor) != 2)
        major = minor = 0;
    begin(k, TYPE_BIOS, 24, 0);
    set_strings(k, TYPE_BIOS, none);
    le16_put(field(k, 6), 0xe800); /* where it begins */
    field(k, 10)[0] = 1 << 3;      /* characteristics are not told... */
    field(k, 19)[0] = 1 << 2 | 1 << 4 | (g_strcmp0(uefi, "on") == 0 ? 1 << 3 : 0);
    field(k, 20)[0] = (uint8_t)major;
    field(k, 21)[0] = (uint8_t)minor;
    memset(field(k, 22), 0xff, 2);
    end(k);
}

static void add_system(struct maker *k)
{
    const char *const defaults[] = {
        "manufacturer", MANUFACTURER,  "product", k->m->product,
        "version",      k->m->version, NULL};
    const char *uuid = chosen(k, TYPE_SYSTEM, "uuid") ?: k->m->uuid;
    uint8_t b[16] = {0};

    begin(k, TYPE_SYSTEM, 27, 0x100);
    if (uuid && parse_uuid(uuid, b)) {
        /* The first three groups are little-endian (7.2.1). */
        le32_put(field(k, 8), be32_get(b));
        le16_put(field(k, 12), be16_get(b + 4));
        le16_put(field(k, 14), be16_get(b + 6));
        memcpy(field(k, 16), b + 8, 8);
    }
    field(k, 24)[0] = 6; /* woken by the power switch */
    set_strings(k, TYPE_SYSTEM, defaults);
    end(k);
}

static void add_board(struct maker *k)
{
    const char *const defaults[] = {
        "manufacturer", MANUFACTURER,  "product", k->m->product,
        "version",      k->m->version, NULL};

    if (!asked_for(k, TYPE_BOARD))
        return;
    begin(k, TYPE_BOARD, 15, 0x200);
    field(k, 9)[0] = 1; /* hosting board */
    le16_put(field(k, 11), CHASSIS_HANDLE);
    field(k, 13)[0] = 0x0a; /* motherboard */
    set_strings(k, TYPE_BOARD, defaults);
    end(k);
}

static void add_chassis(struct maker *k)
{
    const char *const defaults[] = {"manufacturer", MANUFACTURER, "version",
                                    k->m->version, NULL};

    begin(k, TYPE_CHASSIS, 22, CHASSIS_HANDLE);
    field(k, 5)[0] = 1;        /* other */
    memset(field(k, 9), 3, 3); /* boot-up, power and thermal state: safe */
    field(k, 12)[0] = 2;       /* security: unknown */
    set_strings(k, TYPE_CHASSIS, defaults);
    end(k);
}

static void add_processor(struct maker *k, unsigned n, unsigned cores, unsigned threads)
{
    g_autofree char *socket = g_strdup_printf("CPU %u", n);

    begin(k, TYPE_PROCESSOR, 42, (uint16_t)(0x400 + n));
    set_string(k, 4, socket);
    field(k, 5)[0] = 3; /* central processor */
    field(k, 6)[0] = 1; /* family: other */
    set_string(k, 7, MANUFACTURER);
    le64_put(field(k, 8), k->m->cpu_id);
    set_string(k, 16, k->m->version);
    le16_put(field(k, 20), 2000); /* MHz */
    le16_put(field(k, 22), 2000);
    field(k, 24)[0] = 0x41;        /* populated, enabled */
    field(k, 25)[0] = 1;           /* upgrade: other */
    memset(field(k, 26), 0xff, 6); /* no caches */
    field(k, 35)[0] = (uint8_t)MIN(cores, 255);
    field(k, 36)[0] = (uint8_t)MIN(cores, 255);
    field(k, 37)[0] = (uint8_t)MIN(cores * threads, 255);
    le16_put(field(k, 38), 2); /* unknown */
    le16_put(field(k, 40), 1);
    end(k);
}

static void add_processors(struct maker *k)
{
    unsigned threads = MAX(k->m->threads, 1);
    unsigned cores = k->m->cores ?: MAX(k->m->nb_cpus / threads, 1);
    unsigned sockets = MAX(k->m->nb_cpus / (cores * threads), 1);

    for (unsigned n = 0; n < sockets; n++)
        add_processor(k, n, cores, threads);
}

static void add_dimm(struct maker *k, unsigned n, uint64_t mib)
{
    g_autofree char *where = g_strdup_printf("DIMM %u", n);

    begin(k, TYPE_MEMORY_DEVICE, 40, (uint16_t)(0x1100 + n));
    le16_put(field(k, 4), ARRAY_HANDLE);
    le16_put(field(k, 6), NO_ERRORS_HANDLE);
    memset(field(k, 8), 0xff, 4); /* widths: unknown */
    if (mib < 0x7fff) {
        le16_put(field(k, 12), (uint16_t)mib);
    } else {
        le16_put(field(k, 12), 0x7fff);
        le32_put(field(k, 28), (uint32_t)mib);
    }
    field(k, 14)[0] = 9; /* DIMM */
    set_string(k, 16, where);
    field(k, 18)[0] = 7; /* RAM */
    le16_put(field(k, 19), 1 << 1);
    set_string(k, 23, MANUFACTURER);
    end(k);
}

static void add_memory_range(struct maker *k, unsigned n, uint64_t base, uint64_t len)
{
    uint64_t first = base / KIB, last = (base + len) / KIB - 1;

    begin(k, TYPE_MEMORY_ADDRESS, 31, (uint16_t)(0x1300 + n));
    if (last < UINT32_MAX) {
        le32_put(field(k, 4), (uint32_t)first);
        le32_put(field(k, 8), (uint32_t)last);
    } else {
        memset(field(k, 4), 0xff, 8);
        le64_put(field(k, 15), base);
        le64_put(field(k, 23), base + len - 1);
    }
    le16_put(field(k, 12), ARRAY_HANDLE);
    field(k, 14)[0] = 1;
    end(k);
}

static void add_memory(struct maker *k)
{
    uint64_t all = k->m->low_memory + k->m->high_memory, dimm = DIMM_GIB * GIB;
    unsigned nb = (unsigned)MIN((all + dimm - 1) / dimm, 0x100);

    begin(k, TYPE_MEMORY_ARRAY, 23, ARRAY_HANDLE);
    field(k, 4)[0] = 1; /* other */
    field(k, 5)[0] = 3; /* system memory */
    field(k, 6)[0] = 6; /* corrects several bits */
    if (all / KIB < 0x80000000) {
        le32_put(field(k, 7), (uint32_t)(all / KIB));
    } else {
        le32_put(field(k, 7), 0x80000000);
        le64_put(field(k, 15), all);
    }
    le16_put(field(k, 11), NO_ERRORS_HANDLE);
    le16_put(field(k, 13), (uint16_t)nb);
    end(k);
    for (unsigned n = 0; n < nb; n++)
        add_dimm(k, n, MIN(all - n * dimm, dimm) / MIB);
    add_memory_range(k, 0, 0, k->m->low_memory);
    if (k->m->high_memory)
        add_memory_range(k, 1, 4 * GIB, k->m->high_memory);
}

static uint8_t checksum(const uint8_t *p, size_t len)
{
    uint8_t sum = 0;

    while (len-- > 0)
        sum += *p++;
    return (uint8_t)-sum;
}

/* 5.2.1; the address of the tables is the firmware's to fill in. */
static GByteArray *anchor_new(const struct maker *k)
{
    enum { LEN = 31 };
    GByteArray *a = g_byte_array_new();
    uint8_t p[LEN] = "_SM_";

    p[5] = LEN;
    p[6] = 2;
    p[7] = 8;
    le16_put(p + 8, (uint16_t)k->longest);
    memcpy(p + 16, "_DMI_", 5);
    le16_put(p + 22, (uint16_t)k->out->len);
    le16_put(p + 28, (uint16_t)k->nb);
    p[30] = 0x28;
    p[21] = checksum(p + 16, LEN - 16);
    p[4] = checksum(p, LEN);
    g_byte_array_append(a, p, LEN);
    return a;
}

void smbios_build(const struct smbios_machine *m, struct smbios *ret)
{
    struct maker k = {.m = m, .out = g_byte_array_new(), .text = g_byte_array_new()};

    add_bios(&k);
    add_system(&k);
    add_board(&k);
    add_chassis(&k);
    add_processors(&k);
    add_memory(&k);
    begin(&k, TYPE_BOOT, 11, 0x2000);
    end(&k);
    begin(&k, TYPE_END, 4, 0x7f00);
    end(&k);
    ret->tables = k.out;
    ret->anchor = anchor_new(&k);
    g_byte_array_unref(k.text);
}

void smbios_done(struct smbios *s)
{
    g_clear_pointer(&s->anchor, g_byte_array_unref);
    g_clear_pointer(&s->tables, g_byte_array_unref);
}
