#include "vmm/vm/log.h"

#include <glib.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/base.h"

static void ranges_are_qemus(void)
{
    static const struct {
        const char *text;
        uint64_t first, last;
    } cases[] = {
        {"0x1000..0x1fff", 0x1000, 0x1fff},
        {"0x1000+0x200", 0x1000, 0x11ff},
        {"0x1000-0x200", 0xe01, 0x1000},
        {"4096+1", 4096, 4096},
        {"0xffffffff81000000+0x1000", 0xffffffff81000000, 0xffffffff81000fff},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        g_autoptr(GArray) a = g_array_new(FALSE, FALSE, sizeof(struct vm_log_range));
        GError *error = NULL;
        g_assert_true(vm_log_ranges_parse(cases[i].text, a, &error));
        g_assert_no_error(error);
        g_assert_cmpuint(a->len, ==, 1);
        struct vm_log_range r = g_array_index(a, struct vm_log_range, 0);
        g_assert_cmphex(r.first, ==, cases[i].first);
        g_assert_cmphex(r.last, ==, cases[i].last);
    }
}

static void bad_ranges_are_refused(void)
{
    static const char *const bad[] = {"",      "0x1000",      "0x1000+",   "+5",
                                      "5..4",  "0x1000+0",    "0x10-0x20", "1..2x",
                                      "1..2,", "-1..0x10000", "1.. 2"};

    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        g_autoptr(GArray) a = g_array_new(FALSE, FALSE, sizeof(struct vm_log_range));
        g_autoptr(GError) error = NULL;
        g_assert_false(vm_log_ranges_parse(bad[i], a, &error));
        g_assert_nonnull(error);
    }
}

static void a_log_covers_its_ranges_or_all(void)
{
    g_autoptr(GArray) a = g_array_new(FALSE, FALSE, sizeof(struct vm_log_range));
    struct vm_log *log = vm_log_new(VM_LOG_EXEC, stdout, a);

    g_assert_true(vm_log_covers(log, 0));
    g_assert_true(vm_log_ranges_parse("1..2,8+2", a, NULL));
    g_assert_true(vm_log_covers(log, 2));
    g_assert_true(vm_log_covers(log, 9));
    g_assert_false(vm_log_covers(log, 0));
    g_assert_false(vm_log_covers(log, 3));
    g_assert_false(vm_log_covers(log, 10));
    vm_log_free(log);
}

static void only_items_asked_for_are_written(void)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    struct vm_log *log = vm_log_new(VM_LOG_INT | VM_LOG_UNIMP, out, NULL);

    vm_log_printf(log, VM_LOG_INT, "one %d\n", 1);
    vm_log_printf(log, VM_LOG_CPU, "two\n");
    vm_log_printf(NULL, VM_LOG_CPU, "three\n");
    g_assert_cmpuint(vm_log_has(log, VM_LOG_INT | VM_LOG_CPU), ==, VM_LOG_INT);
    g_assert_cmpuint(vm_log_has(NULL, VM_LOG_INT), ==, 0);
    vm_log_free(log);
    fclose(out);
    g_assert_cmpstr(text, ==, "one 1\n");
    free(text);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/log/ranges", ranges_are_qemus);
    g_test_add_func("/log/bad-ranges", bad_ranges_are_refused);
    g_test_add_func("/log/covers", a_log_covers_its_ranges_or_all);
    g_test_add_func("/log/items", only_items_asked_for_are_written);
    return g_test_run();
}
