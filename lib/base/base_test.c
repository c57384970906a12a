#include "lib/base/base.h"
#include "lib/base/ck.h"

static void parse_size_reads_qemu_suffixes(void)
{
    static const struct {
        const char *text;
        uint64_t unit, bytes;
    } cases[] = {
        {"0", 1, 0},
        {"512", 1, 512},
        {"128", MIB, 128 * MIB},
        {"1k", 1, 1024},
        {"4G", MIB, 4 * GIB},
        {"1.5M", 1, 3 * MIB / 2},
        {"0x1000", 1, 0x1000},
        {"7E", 1, UINT64_C(7) << 60},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint64_t v = 1;
        GError *error = NULL;
        g_assert_true(parse_size(cases[i].text, cases[i].unit, &v, &error));
        g_assert_no_error(error);
        g_assert_cmpuint(v, ==, cases[i].bytes);
    }
}

static void parse_size_refuses_nonsense_by_name(void)
{
    static const char *const bad[] = {"",   "k", "-1", "1kk", "1z", "99999999999999E",
                                      "16E"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        uint64_t v = 42;
        g_autoptr(GError) error = NULL;
        g_assert_false(parse_size(bad[i], 1, &v, &error));
        g_assert_nonnull(strstr(error->message, bad[i]));
        g_assert_cmpuint(v, ==, 42);
    }
}

static void nearest_name_suggests_only_what_is_near(void)
{
    static const char *const names[] = {"virtio-blk-device", "virtio-rng-device",
                                        "isa-serial", NULL};
    g_assert_cmpstr(nearest_name("virtio-blk-devcie", names), ==, "virtio-blk-device");
    g_assert_cmpstr(nearest_name("isa-seral", names), ==, "isa-serial");
    g_assert_null(nearest_name("e1000", names));
}

static void ck_refuses_what_wraps(void)
{
    uint64_t v = 1;
    g_assert_false(ck_add(UINT64_MAX, 1, &v));
    g_assert_false(ck_mul(UINT64_MAX / 2, 3, &v));
    g_assert_cmpuint(v, ==, 1);
    g_assert_true(ck_range(10, 0, 10));
    g_assert_false(ck_range(11, 0, 10));
    g_assert_false(ck_range(1, UINT64_MAX, 10));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/base/parse-size", parse_size_reads_qemu_suffixes);
    g_test_add_func("/base/parse-size-bad", parse_size_refuses_nonsense_by_name);
    g_test_add_func("/base/nearest-name", nearest_name_suggests_only_what_is_near);
    g_test_add_func("/base/ck", ck_refuses_what_wraps);
    return g_test_run();
}
