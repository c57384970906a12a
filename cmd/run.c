/*
 * The options of `lodge run` are one table; each appends what it means to a lodge-vmm
 * command line, or remembers something that one option decides with another.
 */
#include "cmd/run.h"

#include <stdio.h>
#include <string.h>

#include "lib/base/base.h"

struct run {
    GPtrArray *argv; /* char *, what lodge-vmm gets */
    GPtrArray *disks;
    char *kernel, *initrd, *append, *memory, *cpus, *cpu, *accel, *machine, *name;
    bool print, help, no_reboot;
};

struct run_option {
    const char *name;
    const char *arg; /* NULL: none */
    const char *help;
    size_t string; /* offset of the char * to set, or 0 */
    bool (*parse)(struct run *r, const char *arg, GError **error);
};

static bool opt_disk(struct run *r, const char *arg, GError **error)
{
    g_ptr_array_add(r->disks, g_strdup(arg));
    return true;
}

static bool opt_print(struct run *r, const char *arg, GError **error)
{
    return r->print = true;
}

static bool opt_no_reboot(struct run *r, const char *arg, GError **error)
{
    return r->no_reboot = true;
}

static bool opt_help(struct run *r, const char *arg, GError **error)
{
    return r->help = true;
}

#define STRING(field) offsetof(struct run, field)

static const struct run_option options[] = {
    {"kernel", "FILE", "the kernel: a bzImage, or an ELF file with a PVH entry",
     STRING(kernel)},
    {"initrd", "FILE", "initial RAM disk", STRING(initrd)},
    {"append", "TEXT", "kernel command line (console=ttyS0 is put in front)",
     STRING(append)},
    {"disk", "FILE[,format=FORMAT][,readonly]", "a disk; may be given several times", 0,
     opt_disk},
    {"memory", "SIZE", "guest memory (512M)", STRING(memory)},
    {"cpus", "N", "number of processors (1)", STRING(cpus)},
    {"cpu", "MODEL", "processor model (max)", STRING(cpu)},
    {"accel", "NAME", "what executes guest code", STRING(accel)},
    {"machine", "NAME", "board (microvm)", STRING(machine)},
    {"name", "NAME", "the guest's name", STRING(name)},
    {"no-reboot", NULL, "end when the guest resets", 0, opt_no_reboot},
    {"print", NULL, "print the lodge-vmm command line instead of running it", 0,
     opt_print},
    {"help", NULL, "print this", 0, opt_help},
};

void run_help(void)
{
    printf("usage: lodge run --kernel FILE [options] [-- lodge-vmm options]\n\n"
           "Runs a virtual machine with its serial port on this terminal.\n"
           "Ctrl-] leaves: the machine is switched off.\n\n");
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        g_autofree char *left =
            g_strdup_printf("--%s%s%s", options[i].name, options[i].arg ? " " : "",
                            options[i].arg ?: "");

        printf("  %-42s %s\n", left, options[i].help);
    }
    printf("\nEverything after -- goes to lodge-vmm as it is (lodge-vmm -help).\n");
}

static const struct run_option *find_option(const char *arg, size_t len, GError **error)
{
    const char *names[ARRAY_LEN(options) + 1] = {0};
    g_autofree char *name = g_strndup(arg, len);
    const char *near;

    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        names[i] = options[i].name;
        if (g_str_has_prefix(name, "--") && strcmp(name + 2, names[i]) == 0)
            return &options[i];
    }
    near = g_str_has_prefix(name, "--") ? nearest_name(name + 2, names) : NULL;
    error_msg(error, "unknown option '%s'%s%s%s; lodge run --help lists them", name,
              near ? ", did you mean '--" : "", near ?: "", near ? "'?" : "");
    return NULL;
}

/* One of "--name VALUE", "--name=VALUE", "--name"; advances *i. */
static bool parse_one(struct run *r, int argc, char *const *argv, int *i,
                      GError **error)
{
    const char *arg = argv[*i], *equals = strchr(arg, '=');
    const struct run_option *o =
        find_option(arg, equals ? (size_t)(equals - arg) : strlen(arg), error);
    const char *value = equals ? equals + 1 : NULL;

    if (!o)
        return false;
    if (!o->arg && value)
        return error_msg(error, "--%s takes no value", o->name);
    if (o->arg && !value) {
        if (*i + 1 >= argc)
            return error_msg(error, "--%s needs a value: %s", o->name, o->arg);
        value = argv[++*i];
    }
    if (o->parse)
        return o->parse(r, value, error);
    char **to = (char **)((char *)r + o->string);
    g_free(*to);
    *to = g_strdup(value);
    return true;
}

static void add(struct run *r, const char *option, const char *value)
{
    if (option && !value)
        return;
    if (option)
        g_ptr_array_add(r->argv, g_strdup(option));
    g_ptr_array_add(r->argv, g_strdup(value));
}

static char **split_disk(const char *disk)
{
    /* A comma in a file's name is written twice, as in -drive. */
    g_auto(GStrv) parts = g_strsplit(disk, ",", -1);
    GPtrArray *out = g_ptr_array_new();

    for (char **p = parts; *p; p++) {
        if (p != parts && !**p && p[1]) {
            char *last = out->pdata[out->len - 1];

            out->pdata[out->len - 1] = g_strconcat(last, ",,", p[1], NULL);
            g_free(last);
            p++;
        } else {
            g_ptr_array_add(out, g_strdup(*p));
        }
    }
    g_ptr_array_add(out, NULL);
    return (char **)g_ptr_array_free(out, FALSE);
}

/* FILE[,option...] as a -drive: the file comes first, "readonly" needs no value. */
static bool add_disk(struct run *r, const char *disk, GError **error)
{
    g_auto(GStrv) parts = split_disk(disk);
    GString *s = g_string_new(NULL);

    if (!parts[0] || !*parts[0]) {
        g_string_free(s, TRUE);
        return error_msg(error, "--disk needs a file");
    }
    g_string_append_printf(s, "if=virtio,file=%s", parts[0]);
    for (char **p = parts + 1; *p; p++)
        g_string_append_printf(s, ",%s",
                               strcmp(*p, "readonly") == 0 ? "readonly=on" : *p);
    add(r, "-drive", s->str);
    g_string_free(s, TRUE);
    return true;
}

static bool lower(struct run *r, GError **error)
{
    g_autofree char *append = NULL;

    if (!r->kernel)
        return error_msg(error, "--kernel is missing; lodge run --help says more");
    append = g_strconcat("console=ttyS0", r->append && *r->append ? " " : "",
                         r->append ?: "", NULL);
    add(r, NULL, "lodge-vmm");
    add(r, "-machine", r->machine ?: "microvm");
    add(r, "-accel", r->accel);
    add(r, "-cpu", r->cpu ?: "max");
    add(r, "-m", r->memory ?: "512M");
    add(r, "-smp", r->cpus);
    add(r, "-name", r->name);
    add(r, NULL, "-nodefaults");
    add(r, "-display", "none");
    add(r, "-chardev", "stdio,id=console,signal=off,leave=ctrl-]");
    add(r, "-serial", "chardev:console");
    if (r->no_reboot)
        add(r, NULL, "-no-reboot");
    add(r, "-kernel", r->kernel);
    add(r, "-initrd", r->initrd);
    add(r, "-append", append);
    for (guint i = 0; i < r->disks->len; i++) {
        if (!add_disk(r, r->disks->pdata[i], error))
            return false;
    }
    add(r, "-device", "virtio-rng-device");
    return true;
}

static void run_done(struct run *r)
{
    g_ptr_array_unref(r->disks);
    g_free(r->kernel);
    g_free(r->initrd);
    g_free(r->append);
    g_free(r->memory);
    g_free(r->cpus);
    g_free(r->cpu);
    g_free(r->accel);
    g_free(r->machine);
    g_free(r->name);
}

char **run_lower(int argc, char *const *argv, bool *ret_print, bool *ret_help,
                 GError **error)
{
    struct run r = {
        .argv = g_ptr_array_new(),
        .disks = g_ptr_array_new_with_free_func(g_free),
    };
    bool ok = true;
    int i;

    for (i = 0; ok && i < argc && strcmp(argv[i], "--") != 0; i++)
        ok = parse_one(&r, argc, argv, &i, error);
    *ret_help = r.help;
    *ret_print = r.print;
    ok = ok && !r.help && lower(&r, error);
    for (i++; ok && i < argc; i++)
        add(&r, NULL, argv[i]);
    run_done(&r);
    g_ptr_array_add(r.argv, NULL);
    if (ok)
        return (char **)g_ptr_array_free(r.argv, FALSE);
    g_strfreev((char **)g_ptr_array_free(r.argv, FALSE));
    return NULL;
}
