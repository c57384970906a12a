#include "vmm/vm/state.h"

#include <string.h>

#include "lib/base/base.h"

struct inner {
    uint16_t a;
    bool b;
};

struct outer {
    uint8_t u8;
    uint32_t u32[3];
    uint64_t u64;
    bool flag;
    uint8_t blob[4];
    struct inner in[2];
    uint16_t added; /* since version 2 */
    uint32_t extra; /* subsection, when not 0 */
    unsigned saved, loaded;
};

static const struct state_field inner_fields[] = {
    STATE_FIELD(U16, struct inner, a),
    STATE_FIELD(BOOL, struct inner, b),
    {.name = NULL},
};

static const struct state_table inner_table = {
    .name = "inner", .version = 1, .fields = inner_fields};

static const struct state_field outer_fields[] = {
    STATE_FIELD(U8, struct outer, u8),
    STATE_ARRAY(U32, struct outer, u32, 3),
    STATE_FIELD(U64, struct outer, u64),
    STATE_FIELD(BOOL, struct outer, flag),
    STATE_BUFFER(struct outer, blob),
    {.name = "in",
     .kind = STATE_STRUCT,
     .offset = offsetof(struct outer, in),
     .size = sizeof(struct inner),
     .count = 2,
     .table = &inner_table},
    {.name = "added",
     .kind = STATE_U16,
     .offset = offsetof(struct outer, added),
     .since = 2},
    {.name = NULL},
};

static const struct state_field extra_fields[] = {
    STATE_FIELD(U32, struct outer, extra),
    {.name = NULL},
};

static bool extra_needed(const void *object)
{
    return ((const struct outer *)object)->extra != 0;
}

static const struct state_table extra_table = {.name = "outer/extra",
                                               .version = 1,
                                               .fields = extra_fields,
                                               .needed = extra_needed};

static const struct state_table *const subsections[] = {&extra_table, NULL};

static void pre_save(void *object)
{
    ((struct outer *)object)->saved++;
}

static bool post_load(void *object, unsigned version, GError **error)
{
    struct outer *o = object;
    o->loaded++;
    return o->u8 <= 100 || error_msg(error, "u8 %u is more than 100", o->u8);
}

static const struct state_table outer_table = {
    .name = "outer",
    .version = 2,
    .fields = outer_fields,
    .subsections = subsections,
    .pre_save = pre_save,
    .post_load = post_load,
};

static const struct outer sample = {
    .u8 = 42,
    .u32 = {1, 2, UINT32_MAX},
    .u64 = UINT64_MAX - 1,
    .flag = true,
    .blob = {0xde, 0xad, 0x00, 0xff},
    .in = {{7, true}, {65535, false}},
    .added = 9,
    .extra = 77,
};

static void what_is_saved_is_loaded(void)
{
    struct outer a = sample, b = {0};
    json_t *saved = state_save(&outer_table, &a);
    g_assert_cmpuint(a.saved, ==, 1);
    /* Through text, as it travels. */
    char *text = json_dumps(saved, 0);
    json_t *back = json_loads(text, 0, NULL);
    GError *error = NULL;
    g_assert_true(state_load(&outer_table, &b, back, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(b.loaded, ==, 1);
    g_assert_cmpuint(b.u64, ==, a.u64);
    g_assert_cmpmem(a.u32, sizeof(a.u32), b.u32, sizeof(b.u32));
    g_assert_cmpmem(a.blob, 4, b.blob, 4);
    g_assert_cmpuint(b.in[1].a, ==, 65535);
    g_assert_true(b.in[0].b && !b.in[1].b && b.flag);
    g_assert_cmpuint(b.added, ==, 9);
    g_assert_cmpuint(b.extra, ==, 77);
    free(text);
    json_decref(saved);
    json_decref(back);
}

static void an_older_state_keeps_what_it_does_not_know(void)
{
    struct outer a = sample, b = {.added = 1234};
    a.extra = 0;
    json_t *saved = state_save(&outer_table, &a);
    g_assert_null(json_object_get(saved, "subsections"));
    json_object_set_new(saved, "version", json_integer(1));
    json_object_del(json_object_get(saved, "fields"), "added");
    g_assert_true(state_load(&outer_table, &b, saved, NULL));
    g_assert_cmpuint(b.added, ==, 1234);
    json_decref(saved);
}

/* One change to a good state, as JSON text at a place; what the error names. */
static const struct {
    const char *where, *field, *value, *says;
} hostile[] = {
    {"fields", "u8", "256", "'u8': 256 is more than 255"},
    {"fields", "u8", "-1", "'u8'"},
    {"fields", "u8", "1.5", "'u8'"},
    {"fields", "u8", "\"1\"", "'u8'"},
    {"fields", "u8", "null", "'u8'"},
    {"fields", "u8", "101", "u8 101 is more than 100"},
    {"fields", "u64", "\"0x10000000000000000\"", "'u64'"},
    {"fields", "u64", "\"0x\"", "'u64'"},
    {"fields", "u64", "\"0x12g\"", "'u64'"},
    {"fields", "u64", "\"0x -1\"", "'u64'"},
    {"fields", "u32", "5", "'u32': is not an array of 3"},
    {"fields", "u32", "[1,2]", "array of 3"},
    {"fields", "u32", "[1,2,3,4]", "array of 3"},
    {"fields", "u32", "[1,2,4294967296]", "'u32[2]'"},
    {"fields", "flag", "1", "'flag'"},
    {"fields", "blob", "\"00\"", "'blob'"},
    {"fields", "blob", "\"0011223344\"", "'blob'"},
    {"fields", "blob", "\"0011223g\"", "'blob'"},
    {"fields", "blob", "\"\\u00e4\\u00e400ff\"", "'blob'"},
    {"fields", "blob", "[]", "'blob'"},
    {"fields", "in", "[1,2]", "'in[0]'"},
    {"fields", "in", "[{},{}]", "'in[0]'"},
    {"fields", "unknown", "1", "'unknown'"},
    {"", "fields", "[]", "no fields"},
    {"", "version", "3", "version 3 is not in 1 to 2"},
    {"", "version", "0", "version 0"},
    {"", "version", "\"2\"", "version"},
    {"", "name", "\"other\"", "state is of 'other'"},
    {"", "name", "1", "state is of"},
    {"", "subsections", "1", "subsections"},
    {"", "subsections", "[1]", "subsection"},
    {"", "subsections", "[{\"name\":\"evil\"}]", "'evil'"},
};

static void hostile_states_are_refused_by_name(void)
{
    for (size_t i = 0; i < ARRAY_LEN(hostile); i++) {
        struct outer a = sample, b = {0};
        g_autoptr(GError) error = NULL;
        json_t *state = state_save(&outer_table, &a);
        json_t *at =
            *hostile[i].where ? json_object_get(state, hostile[i].where) : state;
        json_t *value = json_loads(hostile[i].value, JSON_DECODE_ANY, NULL);
        g_assert_nonnull(value);
        json_object_set_new(at, hostile[i].field, value);
        g_assert_false(state_load(&outer_table, &b, state, &error));
        if (!strstr(error->message, hostile[i].says)) {
            g_test_message("'%s' does not say \"%s\"", error->message, hostile[i].says);
            g_test_fail();
        }
        json_decref(state);
    }
}

static void every_missing_field_is_refused_by_name(void)
{
    for (const struct state_field *f = outer_fields; f->name; f++) {
        struct outer a = sample, b = {0};
        g_autoptr(GError) error = NULL;
        g_autofree char *quoted = g_strdup_printf("'%s'", f->name);
        json_t *state = state_save(&outer_table, &a);
        json_object_del(json_object_get(state, "fields"), f->name);
        g_assert_false(state_load(&outer_table, &b, state, &error));
        g_assert_nonnull(strstr(error->message, quoted));
        json_decref(state);
    }
    struct outer b = {0};
    g_assert_false(state_load(&outer_table, &b, NULL, NULL));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/state/round-trip", what_is_saved_is_loaded);
    g_test_add_func("/state/older", an_older_state_keeps_what_it_does_not_know);
    g_test_add_func("/state/hostile", hostile_states_are_refused_by_name);
    g_test_add_func("/state/missing", every_missing_field_is_refused_by_name);
    return g_test_run();
}
