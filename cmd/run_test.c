#include "cmd/run.h"

#include <string.h>

/* The lowering of @words (space-separated), joined by '|'; or "error: ...". */
static char *lower(const char *words)
{
    g_auto(GStrv) argv = g_strsplit(words, " ", -1);
    g_autoptr(GError) error = NULL;
    bool print, help;
    g_auto(GStrv) out = run_lower(g_strv_length(argv), argv, &print, &help, &error);

    if (help)
        return g_strdup("help");
    return out ? g_strjoinv("|", out) : g_strdup_printf("error: %s", error->message);
}

#define assert_has(text, part)                                 \
    do {                                                       \
        g_autofree char *t_ = (text);                          \
        if (!strstr(t_, part))                                 \
            g_error("'%s' does not contain '%s'", t_, (part)); \
    } while (0)

static void short_form_is_lowered(void)
{
    g_autofree char *s = lower("--kernel /k --initrd /i --append quiet --disk /d "
                               "--memory 1G --cpus 2 --cpu qemu64 --accel bt");

    g_assert_cmpstr(
        s, ==,
        "lodge-vmm|-machine|microvm|-accel|bt|-cpu|qemu64|-m|1G|-smp|2|-nodefaults|"
        "-display|none|-chardev|stdio,id=console,signal=off,leave=ctrl-]|-serial|"
        "chardev:console|-kernel|/k|-initrd|/i|-append|console=ttyS0 quiet|-drive|"
        "if=virtio,file=/d|-device|virtio-rng-device");
}

static void disks_keep_their_options(void)
{
    assert_has(
        lower("--kernel=/k --disk /a,format=raw,readonly --disk /b,,c,cache=none"),
        "-drive|if=virtio,file=/a,format=raw,readonly=on|"
        "-drive|if=virtio,file=/b,,c,cache=none|");
}

static void rest_goes_through(void)
{
    assert_has(lower("--kernel /k -- -d stats --print"),
               "|virtio-rng-device|-d|stats|--print");
}

static void mistakes_are_named(void)
{
    assert_has(lower("--kernl /k"),
               "error: unknown option '--kernl', did you mean '--kernel'?");
    assert_has(lower("--memory 1G"), "error: --kernel is missing");
    assert_has(lower("--kernel"), "error: --kernel needs a value: FILE");
    assert_has(lower("--kernel /k --print=yes"), "error: --print takes no value");
    assert_has(lower("--kernel /k disk.img"), "error: unknown option 'disk.img'");
    assert_has(lower("--kernel /k --disk ,format=raw"), "error: --disk needs a file");
    assert_has(lower("--help"), "help");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/run/short_form_is_lowered", short_form_is_lowered);
    g_test_add_func("/run/disks_keep_their_options", disks_keep_their_options);
    g_test_add_func("/run/rest_goes_through", rest_goes_through);
    g_test_add_func("/run/mistakes_are_named", mistakes_are_named);
    return g_test_run();
}
