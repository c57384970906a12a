#include "vmm/board/smbios.h"

#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"

static struct smbios build(const char *options, unsigned nb_cpus, uint64_t high)
{
    json_t *o = json_loads(options, 0, NULL);
    struct smbios_machine m = {
        .product = "Standard PC",
        .version = "pc-q35-7.2",
        .uuid = "01234567-89ab-cdef-0123-456789abcdef",
        .nb_cpus = nb_cpus,
        .cpu_id = 0x663,
        .low_memory = 0x80000000,
        .high_memory = high,
        .options = o,
    };
    struct smbios s;
    json_t *option;
    size_t i;

    g_assert_nonnull(o);
    json_array_foreach(o, i, option) g_assert_true(smbios_check(option, NULL));
    smbios_build(&m, &s);
    json_decref(o);
    return s;
}

static guint after(const GByteArray *t, guint at)
{
    const uint8_t *p = t->data;

    g_assert_cmpuint(at + 4, <=, t->len);
    g_assert_cmpuint(p[at + 1], >=, 4);
    at += p[at + 1];
    while (at + 1 < t->len && (p[at] || p[at + 1]))
        at++;
    return at + 2;
}

/* The @n-th structure of @type, or NULL. */
static const uint8_t *find(const struct smbios *s, uint8_t type, unsigned n)
{
    for (guint at = 0; at < s->tables->len; at = after(s->tables, at)) {
        if (s->tables->data[at] == type && n-- == 0)
            return s->tables->data + at;
    }
    return NULL;
}

static const char *text(const uint8_t *p, unsigned off)
{
    const char *t = (const char *)p + p[1];

    g_assert_cmpuint(p[off], !=, 0);
    for (unsigned i = 1; i < p[off]; i++)
        t += strlen(t) + 1;
    return t;
}

static void the_anchor_describes_the_tables(void)
{
    struct smbios s = build("[]", 4, 0);
    const uint8_t *a = s.anchor->data;
    uint8_t sum = 0, sum2 = 0;
    unsigned nb = 0, longest = 0;

    for (guint i = 0; i < s.anchor->len; i++) {
        sum += a[i];
        sum2 += i >= 16 ? a[i] : 0;
    }
    g_assert_cmpmem(a, 4, "_SM_", 4);
    g_assert_cmpuint(s.anchor->len, ==, a[5]);
    g_assert_cmpuint(sum | sum2, ==, 0);
    for (guint at = 0; at < s.tables->len; nb++) {
        guint next = after(s.tables, at);

        longest = MAX(longest, next - at);
        at = next;
    }
    g_assert_cmpuint(le16_get(a + 8), ==, longest);
    g_assert_cmpuint(le16_get(a + 22), ==, s.tables->len);
    g_assert_cmpuint(le16_get(a + 28), ==, nb);
    g_assert_cmpuint(find(&s, 127, 0) + 6 - s.tables->data, ==, s.tables->len);
    smbios_done(&s);
}

static void structures_say_what_the_machine_is(void)
{
    static const uint8_t uuid[16] = {0x67, 0x45, 0x23, 0x01, 0xab, 0x89, 0xef, 0xcd,
                                     0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef};
    struct smbios s = build("[]", 4, 30 * GIB);
    const uint8_t *system = find(&s, 1, 0), *cpu = find(&s, 4, 0);

    g_assert_null(find(&s, 0, 0));
    g_assert_null(find(&s, 2, 0));
    g_assert_cmpstr(text(system, 5), ==, "Standard PC");
    g_assert_cmpstr(text(system, 6), ==, "pc-q35-7.2");
    g_assert_cmpmem(system + 8, 16, uuid, 16);
    g_assert_cmpuint(cpu[35], ==, 4);
    g_assert_null(find(&s, 4, 1));
    g_assert_cmphex(le32_get(cpu + 8), ==, 0x663);
    /* 32 GiB: two pieces of 16, below and above 4 GiB. */
    g_assert_cmpuint(le16_get(find(&s, 17, 1) + 12), ==, 16384);
    g_assert_null(find(&s, 17, 2));
    g_assert_cmphex(le32_get(find(&s, 19, 0) + 8), ==, 0x80000000u / KIB - 1);
    g_assert_cmphex(le32_get(find(&s, 19, 1) + 4), ==, 4 * GIB / KIB);
    smbios_done(&s);
}

static void the_user_chooses_strings(void)
{
    struct smbios s = build("[{\"type\":\"0\",\"vendor\":\"V\",\"release\":\"3.7\"},"
                            "{\"type\":\"1\",\"serial\":\"S1\",\"product\":\"P\"},"
                            "{\"type\":\"1\",\"serial\":\"S2\"},"
                            "{\"type\":\"2\",\"location\":\"L\"},"
                            "{\"type\":\"3\",\"sku\":\"K\"}]",
                            1, 0);

    g_assert_cmpstr(text(find(&s, 0, 0), 4), ==, "V");
    g_assert_cmpuint(find(&s, 0, 0)[20], ==, 3);
    g_assert_cmpuint(find(&s, 0, 0)[21], ==, 7);
    g_assert_cmpstr(text(find(&s, 1, 0), 7), ==, "S2");
    g_assert_cmpstr(text(find(&s, 1, 0), 5), ==, "P");
    g_assert_cmpstr(text(find(&s, 2, 0), 10), ==, "L");
    g_assert_cmpstr(text(find(&s, 3, 0), 21), ==, "K");
    smbios_done(&s);
}

static void wrong_options_are_named(void)
{
    static const struct {
        const char *option, *why;
    } cases[] = {
        {"{\"type\":\"9\"}", "type=9"},
        {"{}", "type="},
        {"{\"type\":\"1\",\"colour\":\"x\"}", "'colour'"},
        {"{\"type\":\"1\",\"uuid\":\"x\"}", "not a UUID"},
        {"{\"type\":\"1\",\"serial\":\"\"}", "'serial'"},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        json_t *o = json_loads(cases[i].option, 0, NULL);
        g_autoptr(GError) error = NULL;

        g_assert_false(smbios_check(o, &error));
        g_assert_nonnull(strstr(error->message, cases[i].why));
        json_decref(o);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/smbios/anchor", the_anchor_describes_the_tables);
    g_test_add_func("/smbios/structures", structures_say_what_the_machine_is);
    g_test_add_func("/smbios/options", the_user_chooses_strings);
    g_test_add_func("/smbios/wrong", wrong_options_are_named);
    return g_test_run();
}
