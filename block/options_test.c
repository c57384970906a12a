#include "block/options.h"

#include <string.h>

#include "lib/base/base.h"

static char *dump(json_t *v)
{
    return json_dumps(v, JSON_COMPACT | JSON_SORT_KEYS);
}

static void is(json_t *v, const char *want)
{
    g_assert_nonnull(v);
    char *got = dump(v);
    g_assert_cmpstr(got, ==, want);
    free(got);
    json_decref(v);
}

static void texts_parse_as_qemu_writes_them(void)
{
    is(blk_options_parse("", NULL, NULL), "{}");
    is(blk_options_parse("a=1,b=2", NULL, NULL), "{\"a\":\"1\",\"b\":\"2\"}");
    is(blk_options_parse("a=x,,y,b", NULL, NULL), "{\"a\":\"x,y\",\"b\":\"on\"}");
    is(blk_options_parse("disk,,1.img,format=raw", "file", NULL),
       "{\"file\":\"disk,1.img\",\"format\":\"raw\"}");
    is(blk_options_parse("a=,b=c=d", NULL, NULL), "{\"a\":\"\",\"b\":\"c=d\"}");
    is(blk_options_parse("a=1,a=2", NULL, NULL), "{\"a\":\"2\"}");
    is(blk_options_parse("a=1,", NULL, NULL), "{\"a\":\"1\"}");
}

static void texts_without_a_name_are_refused(void)
{
    static const char *const bad[] = {"=1", "a=1,=2", ",a=1"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        g_autoptr(GError) err = NULL;
        g_assert_null(blk_options_parse(bad[i], NULL, &err));
        g_assert_nonnull(strstr(err->message, "without a name"));
    }
}

static void dots_nest(void)
{
    is(blk_options_from_blockdev("driver=raw,file.driver=file,file.filename=x", NULL),
       "{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"x\"}}");
    is(blk_options_from_blockdev("{\"a\":{\"b.c\":1},\"a.b.d\":true}", NULL),
       "{\"a\":{\"b\":{\"c\":1,\"d\":true}}}");
}

static void contradicting_nests_are_refused(void)
{
    static const char *const bad[] = {
        "file=a,file.driver=b", "file.driver=b,file=a",        "file.=a", ".file=a",
        "{\"a\":1,\"a\":2}",    "{\"a.b\":1,\"a\":{\"b\":2}}", "{\"a\":", "{} x",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        g_autoptr(GError) err = NULL;
        g_assert_null(blk_options_from_blockdev(bad[i], &err));
        g_assert_nonnull(err);
    }
}

static void deep_nests_are_refused(void)
{
    GString *text = g_string_new(NULL);
    for (unsigned i = 0; i < 100000; i++) {
        g_string_append(text, "a.");
    }
    g_string_append(text, "a=1");
    g_autoptr(GError) err = NULL;
    g_assert_null(blk_options_from_blockdev(text->str, &err));
    g_assert_nonnull(strstr(err->message, "deeper"));
    g_clear_error(&err);
    g_string_truncate(text, 0);
    for (unsigned i = 0; i < 100000; i++) {
        g_string_append(text, "{\"a\":");
    }
    g_assert_null(blk_options_from_blockdev(text->str, &err));
    g_assert_nonnull(err);
    g_string_free(text, TRUE);
}

static void drive_leaves_the_device_its_keys(void)
{
    json_t *flat = blk_options_parse(
        "file=a.img,if=none,id=d0,format=raw,cache=none,aio=threads,readonly=on,"
        "discard=unmap,file.locking=off,serial=x",
        NULL, NULL);
    is(blk_options_from_drive(flat, NULL),
       "{\"cache\":{\"direct\":true,\"no-flush\":false,\"writeback\":true},"
       "\"discard\":\"unmap\",\"driver\":\"raw\","
       "\"file\":{\"aio\":\"threads\",\"driver\":\"file\",\"filename\":\"a.img\","
       "\"locking\":\"off\"},\"read-only\":\"on\"}");
    is(flat, "{\"id\":\"d0\",\"if\":\"none\",\"serial\":\"x\"}");
}

static void drive_cache_modes(void)
{
    static const struct {
        const char *mode, *want;
    } modes[] = {
        {"writeback", "{\"direct\":false,\"no-flush\":false,\"writeback\":true}"},
        {"none", "{\"direct\":true,\"no-flush\":false,\"writeback\":true}"},
        {"off", "{\"direct\":true,\"no-flush\":false,\"writeback\":true}"},
        {"writethrough", "{\"direct\":false,\"no-flush\":false,\"writeback\":false}"},
        {"directsync", "{\"direct\":true,\"no-flush\":false,\"writeback\":false}"},
        {"unsafe", "{\"direct\":false,\"no-flush\":true,\"writeback\":true}"},
    };
    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        json_t *flat = json_pack("{s:s}", "cache", modes[i].mode);
        json_t *tree = blk_options_from_drive(flat, NULL);
        char *got = dump(json_object_get(tree, "cache"));
        g_assert_cmpstr(got, ==, modes[i].want);
        free(got);
        json_decref(flat);
        json_decref(tree);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/options/texts_parse_as_qemu_writes_them",
                    texts_parse_as_qemu_writes_them);
    g_test_add_func("/options/texts_without_a_name_are_refused",
                    texts_without_a_name_are_refused);
    g_test_add_func("/options/dots_nest", dots_nest);
    g_test_add_func("/options/contradicting_nests_are_refused",
                    contradicting_nests_are_refused);
    g_test_add_func("/options/deep_nests_are_refused", deep_nests_are_refused);
    g_test_add_func("/options/drive_leaves_the_device_its_keys",
                    drive_leaves_the_device_its_keys);
    g_test_add_func("/options/drive_cache_modes", drive_cache_modes);
    return g_test_run();
}
