#include "vmm/control/config.h"

#include <string.h>

#include "lib/base/base.h"
#include "vmm/control/serial.h"

/* Parse @words, separated by blanks ('_' stands for a blank within one). */
static struct vmm_config *parse(const char *words, GError **error)
{
    g_auto(GStrv) argv = g_strsplit(words, " ", -1);
    struct vmm_config *c = vmm_config_new();

    for (char **a = argv; *a; a++)
        g_strdelimit(*a, "_", ' ');
    if (vmm_config_parse(c, g_strv_length(argv), argv, error))
        return c;
    vmm_config_free(c);
    return NULL;
}

static struct vmm_config *good(const char *words)
{
    g_autoptr(GError) error = NULL;
    struct vmm_config *c = parse(words, &error);

    g_assert_no_error(error);
    return c;
}

static void bad(const char *words, const char *why)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(parse(words, &error));
    if (!strstr(error->message, why))
        g_error("'%s' does not say '%s'", error->message, why);
}

static const char *item_get(const GPtrArray *items, guint i, const char *key)
{
    const struct vmm_item *item = items->pdata[i];

    return json_string_value(json_object_get(item->options, key));
}

static void options_arrive_in_the_config(void)
{
    struct vmm_config *c = good(
        "lodge-vmm -M microvm,pit=off --machine acpi=on -accel bt,tier=0 -cpu max,-avx "
        "-m 256M -smp 2 -kernel k -initrd i -append a_b=c -drive d.img,if=none,id=x "
        "-device virtio-blk-device,drive=x -device {\"driver\":\"isa-serial\"} "
        "-no-reboot -name guest=vm1,debug-threads=on -d stats,exec -D log "
        "-dfilter 0x10+4,1..2");

    g_assert_cmpstr(c->machine, ==, "microvm");
    g_assert_cmpuint(json_object_size(c->machine_options), ==, 2);
    g_assert_cmpstr(item_get(c->accels, 0, "tier"), ==, "0");
    g_assert_cmpstr(c->cpu, ==, "max,-avx");
    g_assert_cmpuint(c->memory, ==, 256 * MIB);
    g_assert_cmpuint(c->nb_cpus, ==, 2);
    g_assert_cmpstr(c->append, ==, "a b=c");
    g_assert_cmpstr(item_get(c->drives, 0, "file"), ==, "d.img");
    g_assert_cmpstr(item_get(c->devices, 0, "drive"), ==, "x");
    g_assert_cmpstr(item_get(c->devices, 1, "driver"), ==, "isa-serial");
    g_assert_cmpstr(((struct vmm_item *)c->devices->pdata[0])->where, ==,
                    "-device virtio-blk-device,drive=x");
    g_assert_true(c->no_reboot);
    g_assert_cmpstr(c->name, ==, "vm1");
    g_assert_cmpuint(c->log, ==, VM_LOG_STATS | VM_LOG_EXEC);
    g_assert_cmpuint(c->log_ranges->len, ==, 2);
    vmm_config_free(c);
}

static void firmware_and_its_ports_arrive_in_the_config(void)
{
    struct vmm_config *c = good(
        "lodge-vmm -L a -L b -bios x.bin -device isa-debug-exit -debugcon file:log "
        "-chardev null,id=n -debugcon chardev:n -debugcon none "
        "-global isa-debugcon.readback=1 "
        "-global driver=isa-debug-exit,property=iobase,value=0xf4");

    g_assert_cmpstr(c->bios, ==, "x.bin");
    g_assert_cmpuint(c->data_dirs->len, ==, 2);
    g_assert_cmpstr(c->data_dirs->pdata[1], ==, "b");
    g_assert_cmpuint(c->devices->len, ==, 3);
    g_assert_cmpstr(item_get(c->devices, 0, "chardev"), ==, "n");
    g_assert_cmpstr(item_get(c->devices, 1, "chardev"), ==, "debugcon0");
    g_assert_cmpstr(item_get(c->devices, 2, "driver"), ==, "isa-debug-exit");
    g_assert_cmpstr(item_get(c->chardevs, 0, "path"), ==, "log");
    for (guint i = 0; i < 3; i++)
        g_assert_nonnull(((struct vmm_item *)c->devices->pdata[i])->where);
    g_assert_cmpstr(item_get(c->globals, 0, "driver"), ==, "isa-debugcon");
    g_assert_cmpstr(item_get(c->globals, 0, "property"), ==, "readback");
    g_assert_cmpstr(item_get(c->globals, 0, "value"), ==, "1");
    g_assert_cmpstr(item_get(c->globals, 1, "value"), ==, "0xf4");
    vmm_config_free(c);

    c = good("lodge-vmm -M microvm,firmware=y.bin");
    g_assert_cmpstr(c->bios, ==, "y.bin");
    vmm_config_free(c);
    bad("lodge-vmm -global a.b", "TYPE.PROPERTY=VALUE");
    bad("lodge-vmm -global .b=c", "'driver' is missing");
    bad("lodge-vmm -global driver=a,property=b,value=c,x=d", "unknown parameter 'x'");
    bad("lodge-vmm -debugcon", "needs an argument");
}

static void memory_takes_qemus_forms(void)
{
    static const struct {
        const char *words;
        uint64_t bytes;
    } cases[] = {
        {"lodge-vmm -m 64", 64 * MIB},
        {"lodge-vmm -m 1.5G", GIB + 512 * MIB},
        {"lodge-vmm -m size=1G", GIB},
        {"lodge-vmm -m 1025k", 1028 * KIB},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct vmm_config *c = good(cases[i].words);

        g_assert_cmpuint(c->memory, ==, cases[i].bytes);
        vmm_config_free(c);
    }
}

static void mistakes_are_named(void)
{
    bad("lodge-vmm -kernl x", "-kernl: unknown option, did you mean '-kernel'?");
    bad("lodge-vmm -kernel", "-kernel: needs an argument: FILE");
    bad("lodge-vmm disk.img", "'disk.img' is not an option");
    bad("lodge-vmm -m lots", "-m lots: ");
    bad("lodge-vmm -m 0", "-m 0: a guest needs memory");
    bad("lodge-vmm -m 1G,slots=2", "hot-plug");
    bad("lodge-vmm -m 1G,sise=2", "did you mean 'size'?");
    bad("lodge-vmm -smp 0", "-smp 0: 'cpus' is a number of 1");
    bad("lodge-vmm -smp 2,maxcpus=4", "hot-plug");
    bad("lodge-vmm -smp 12,sockets=2,cores=6", "the cores of a die must be a power");
    bad("lodge-vmm -smp 4,clusters=2", "clusters");
    bad("lodge-vmm -smp 3,sockets=2,cores=2", "the topology has 4 processors, cpus=3");
    bad("lodge-vmm -display gtk", "-display gtk: there is no display 'gtk'");
    bad("lodge-vmm -uuid 123", "not a UUID");
    bad("lodge-vmm -action reboot=explode", "'reboot' is 'reset' or 'shutdown'");
    bad("lodge-vmm -action panik=none", "unknown parameter 'panik'");
    bad("lodge-vmm -device drive=x", "-device drive=x: 'driver' is missing");
    bad("lodge-vmm -device {\"driver\":", "JSON");
    bad("lodge-vmm -chardev null", "'id' is missing");
    bad("lodge-vmm -serial vc", "'vc' is no character device");
    bad("lodge-vmm -serial sdtio", "did you mean 'stdio'?");
    bad("lodge-vmm -serial tcp:localhost", "tcp: needs HOST:PORT");
    bad("lodge-vmm -blockdev driver=raw,file=x", "'node-name' is missing");
    bad("lodge-vmm -d stat", "did you mean 'stats'?");
    bad("lodge-vmm -dfilter 5", "'5' is no range of addresses");
    bad("lodge-vmm -rtc base=localtime", "only base=utc");
}

static void help_stops_the_rest(void)
{
    static const struct {
        const char *words;
        enum vmm_help help;
        const char *name;
    } cases[] = {
        {"lodge-vmm -help -nonsense", VMM_HELP_USAGE, NULL},
        {"lodge-vmm -machine help", VMM_HELP_MACHINES, NULL},
        {"lodge-vmm -M microvm,help", VMM_HELP_MACHINES, "microvm"},
        {"lodge-vmm -device help", VMM_HELP_DEVICES, NULL},
        {"lodge-vmm -device isa-serial,help", VMM_HELP_DEVICES, "isa-serial"},
        {"lodge-vmm -cpu help", VMM_HELP_CPUS, NULL},
        {"lodge-vmm -accel help", VMM_HELP_ACCELS, NULL},
        {"lodge-vmm -chardev help", VMM_HELP_CHARDEVS, NULL},
        {"lodge-vmm -object help", VMM_HELP_OBJECTS, NULL},
        {"lodge-vmm -d help", VMM_HELP_LOG, NULL},
    };

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct vmm_config *c = good(cases[i].words);

        g_assert_cmpint(c->help, ==, cases[i].help);
        g_assert_cmpstr(c->help_name, ==, cases[i].name);
        vmm_config_free(c);
    }
}

static void serial(const char *text, const char *json)
{
    g_autoptr(GError) error = NULL;
    json_t *got = serial_parse(text, 1, &error), *want = json_loads(json, 0, NULL);

    g_assert_no_error(error);
    if (!json_equal(got, want))
        g_error("%s: %s, not %s", text, json_dumps(got, 0), json);
    json_decref(got);
    json_decref(want);
}

static void serial_takes_qemus_forms(void)
{
    serial("stdio", "{\"backend\": \"stdio\", \"id\": \"serial1\"}");
    serial("none", "{\"backend\": \"none\", \"id\": \"serial1\"}");
    serial("file:/tmp/a,b",
           "{\"backend\": \"file\", \"id\": \"serial1\", \"path\": \"/tmp/a,b\"}");
    serial("unix:/tmp/s,server,nowait",
           "{\"backend\": \"socket\", \"id\": \"serial1\", \"path\": \"/tmp/s\","
           " \"server\": \"on\", \"wait\": \"off\"}");
    serial("tcp:::1:4000,server=on",
           "{\"backend\": \"socket\", \"id\": \"serial1\", \"host\": \"::1\","
           " \"port\": \"4000\", \"server\": \"on\"}");
    serial("tcp::4000",
           "{\"backend\": \"socket\", \"id\": \"serial1\", \"port\": \"4000\"}");
    serial("chardev:c0", "{\"chardev\": \"c0\"}");
    serial("mon:stdio", "{\"backend\": \"stdio\", \"id\": \"serial1\","
                        " \"signal\": \"off\", \"leave\": \"ctrl-a\"}");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/config/firmware_and_its_ports_arrive_in_the_config",
                    firmware_and_its_ports_arrive_in_the_config);
    g_test_add_func("/config/options_arrive_in_the_config",
                    options_arrive_in_the_config);
    g_test_add_func("/config/memory_takes_qemus_forms", memory_takes_qemus_forms);
    g_test_add_func("/config/mistakes_are_named", mistakes_are_named);
    g_test_add_func("/config/help_stops_the_rest", help_stops_the_rest);
    g_test_add_func("/config/serial_takes_qemus_forms", serial_takes_qemus_forms);
    return g_test_run();
}
