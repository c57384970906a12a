#include "vmm/vm/props.h"

#include <string.h>

#include "lib/base/base.h"
#include "vmm/vm/device.h"
#include "vmm/vm/fake_accel.h"

static unsigned done_calls;

struct toy {
    struct device dev;
    bool flag;
    uint8_t u8;
    uint32_t u32;
    uint64_t size;
    char *text;
    unsigned mode;
    void *drive;
};

static const char *const modes[] = {"slow", "fast", NULL};

static const struct prop toy_props[] = {
    {.name = "flag", .type = PROP_BOOL, PROP_FIELD(struct toy, flag), .def = 1},
    {.name = "u8", .type = PROP_U8, PROP_FIELD(struct toy, u8), .def = 7},
    {.name = "queue-size",
     .type = PROP_U32,
     PROP_FIELD(struct toy, u32),
     .def = 256,
     .min = 2,
     .max = 1024,
     .help = "descriptors per queue"},
    {.name = "size", .type = PROP_SIZE, PROP_FIELD(struct toy, size), .def = 4096},
    {.name = "serial",
     .type = PROP_STRING,
     PROP_FIELD(struct toy, text),
     .def_string = "none"},
    {.name = "mode",
     .type = PROP_ENUM,
     PROP_FIELD(struct toy, mode),
     .def = 1,
     .values = modes},
    {.name = "drive",
     .type = PROP_DRIVE,
     PROP_FIELD(struct toy, drive),
     .required = true},
    {.name = NULL},
};

static bool toy_init(struct device *dev, GError **error)
{
    struct toy *toy = (struct toy *)dev;
    return toy->u8 != 99 || error_msg(error, "99 is too much");
}

static void toy_done(struct device *dev)
{
    done_calls++;
}

static const struct device_type toy_type = {
    .name = "toy-device",
    .alias = "toy",
    .desc = "a toy",
    .bus = "isa",
    .size = sizeof(struct toy),
    .props = toy_props,
    .user = true,
    .init = toy_init,
    .done = toy_done,
};

static char disk[] = "disk";

static void *find_drive(void *opaque, const char *id, GError **error)
{
    if (strcmp(id, "d0") == 0) {
        return disk;
    }
    error_msg(error, "no drive '%s'", id);
    return NULL;
}

static const struct device_resolver resolver = {.drive = find_drive};

static struct toy *make(struct vm *vm, json_t *options, GError **error)
{
    struct device *dev = device_new(vm, &toy_type, options, &resolver, error);
    json_decref(options);
    return (struct toy *)dev;
}

static struct vm *new_vm(void)
{
    static struct fake_model model;
    return fake_vm_new(&model, 1, NULL);
}

static void options_reach_the_fields(void)
{
    struct vm *vm = new_vm();
    GError *error = NULL;
    struct toy *t = make(vm,
                         json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}",
                                   "driver", "toy-device", "id", "t0", "flag", "off",
                                   "u8", "0x10", "queue-size", "1024", "size", "1M",
                                   "serial", "abc", "mode", "slow", "drive", "d0"),
                         &error);
    g_assert_no_error(error);
    g_assert_cmpstr(t->dev.id, ==, "t0");
    g_assert_false(t->flag);
    g_assert_cmpuint(t->u8, ==, 16);
    g_assert_cmpuint(t->u32, ==, 1024);
    g_assert_cmpuint(t->size, ==, MIB);
    g_assert_cmpstr(t->text, ==, "abc");
    g_assert_cmpuint(t->mode, ==, 0);
    g_assert_true(t->drive == disk);

    struct toy *u = make(
        vm, json_pack("{s:b, s:i, s:s}", "flag", 0, "u8", 3, "drive", "d0"), &error);
    g_assert_no_error(error);
    g_assert_cmpstr(u->dev.id, ==, "toy-device-0");
    g_assert_false(u->flag);
    g_assert_cmpuint(u->u8, ==, 3);
    g_assert_cmpuint(u->u32, ==, 256);
    g_assert_cmpuint(u->size, ==, 4096);
    g_assert_cmpstr(u->text, ==, "none");
    g_assert_cmpuint(u->mode, ==, 1);
    vm_free(vm);
}

static void bad_options_are_refused_by_name(void)
{
    static const struct {
        const char *name, *value, *says;
    } bad[] = {
        {"queue-szie", "4", "did you mean 'queue-size'"},
        {"zzzzzzzz", "4", "no property 'zzzzzzzz'"},
        {"flag", "maybe", "'flag' expects on or off"},
        {"u8", "256", "'u8': 256 is out of range (0 to 255)"},
        {"u8", "-1", "'u8' expects a number"},
        {"u8", "1x", "'u8' expects a number"},
        {"u8", "", "'u8' expects a number"},
        {"u8", "0x", "'u8' expects a number"},
        {"u8", "99999999999999999999999", "'u8' expects a number"},
        {"queue-size", "1", "(2 to 1024)"},
        {"queue-size", "1025", "(2 to 1024)"},
        {"size", "1Q", "'size'"},
        {"mode", "medium", "slow, fast"},
        {"drive", "d1", "no drive 'd1'"},
        {"id", "", "an id is"},
        {"id", "used", "already a device with the id 'used'"},
        {"u8", "99", "99 is too much"},
    };
    struct vm *vm = new_vm();
    g_assert_nonnull(
        make(vm, json_pack("{s:s, s:s}", "id", "used", "drive", "d0"), NULL));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        g_autoptr(GError) error = NULL;
        json_t *options = json_pack("{s:s}", "drive", "d0");
        json_object_set_new(options, bad[i].name, json_string(bad[i].value));
        g_assert_null(make(vm, options, &error));
        g_assert_true(g_str_has_prefix(error->message, "toy-device: "));
        if (!strstr(error->message, bad[i].says)) {
            g_test_message("'%s' does not say '%s'", error->message, bad[i].says);
            g_test_fail();
        }
    }
    g_autoptr(GError) error = NULL;
    g_assert_null(make(vm, json_object(), &error));
    g_assert_nonnull(strstr(error->message, "property 'drive' is missing"));
    g_clear_error(&error);
    g_assert_null(make(vm, json_pack("{s:s, s:n}", "drive", "d0", "u8"), &error));
    g_assert_nonnull(strstr(error->message, "'u8'"));
    g_assert_cmpuint(vm->devices->len, ==, 1);
    vm_free(vm);
}

static void a_failed_init_is_undone(void)
{
    struct vm *vm = new_vm();
    done_calls = 0;
    g_assert_null(make(vm, json_pack("{s:s, s:i}", "drive", "d0", "u8", 99), NULL));
    g_assert_cmpuint(done_calls, ==, 1);
    g_assert_cmpuint(vm->devices->len, ==, 0);
    vm_free(vm);
}

static void types_are_found_by_name_and_alias(void)
{
    static const struct device_type *const types[] = {&toy_type, NULL};
    g_autoptr(GError) error = NULL;
    g_assert_true(device_type_find(types, "toy-device", NULL) == &toy_type);
    g_assert_true(device_type_find(types, "toy", NULL) == &toy_type);
    g_assert_null(device_type_find(types, "toy-devcie", &error));
    g_assert_nonnull(strstr(error->message, "did you mean 'toy-device'"));
}

static void help_shows_each_property(void)
{
    g_autofree char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    device_type_help(&toy_type, out);
    fclose(out);
    static const char *const wanted[] = {
        "toy-device (alias toy), bus isa: a toy",
        "flag=<bool>",
        "default on",
        "queue-size=<uint32>",
        "descriptors per queue",
        "2 to 1024, default 256",
        "slow|fast, default fast",
        "drive, required",
        "default \"none\"",
    };
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        g_assert_nonnull(strstr(text, wanted[i]));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/props/set", options_reach_the_fields);
    g_test_add_func("/props/bad", bad_options_are_refused_by_name);
    g_test_add_func("/device/failed-init", a_failed_init_is_undone);
    g_test_add_func("/device/find", types_are_found_by_name_and_alias);
    g_test_add_func("/device/help", help_shows_each_property);
    return g_test_run();
}
