/*
 * The command line: one table of options (name, argument, help, handler), from which
 * come the parser and the help. To add one: a field in struct vmm_config, a handler
 * here, a line in the table.
 */
#include "vmm/control/config.h"

#include <string.h>

#include "block/options.h"
#include "lib/base/base.h"
#include "vmm/control/serial.h"

struct option {
    const char *name;
    const char *arg; /* NULL: takes none */
    const char *help;
    bool (*parse)(struct vmm_config *c, const char *arg, GError **error);
};

/* ---- pieces ---- */

static bool has_help(const json_t *options)
{
    return json_object_get(options, "help") || json_object_get(options, "?");
}

static bool is_help(const char *text)
{
    return g_strcmp0(text, "help") == 0 || g_strcmp0(text, "?") == 0;
}

static void want_help(struct vmm_config *c, enum vmm_help help, const char *name)
{
    if (c->help != VMM_HELP_NONE)
        return;
    c->help = help;
    c->help_name = g_strdup(name);
}

static const char *get(const json_t *options, const char *key)
{
    return json_string_value(json_object_get(options, key));
}

/* An object of JSON text, or of k=v with @implied for the first. */
static json_t *parse_any(const char *arg, const char *implied, GError **error)
{
    json_error_t je;
    json_t *o;

    if (*arg != '{')
        return blk_options_parse(arg, implied, error);
    o = json_loads(arg, JSON_REJECT_DUPLICATES, &je);
    if (!o) {
        error_msg(error, "JSON: %s at column %d", je.text, je.column);
        return NULL;
    }
    return o;
}

static void add_item(GPtrArray *to, json_t *options)
{
    struct vmm_item *item = g_new0(struct vmm_item, 1);

    item->options = options;
    g_ptr_array_add(to, item);
}

static bool set_string(char **to, const char *value)
{
    g_free(*to);
    *to = g_strdup(value);
    return true;
}

/* Refuse keys that are not in the NULL-terminated @known. */
static bool check_keys(const json_t *options, const char *const *known, GError **error)
{
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)options, name, value)
    {
        const char *near;

        if (g_strv_contains(known, name))
            continue;
        near = nearest_name(name, known);
        return error_msg(error, "unknown parameter '%s'%s%s%s", name,
                         near ? ", did you mean '" : "", near ?: "", near ? "'?" : "");
    }
    return true;
}

static bool get_bool(const json_t *options, const char *key, bool *ret, GError **error)
{
    const char *v = get(options, key);

    if (!v)
        return true;
    if (strcmp(v, "on") == 0 || strcmp(v, "yes") == 0 || strcmp(v, "true") == 0)
        *ret = true;
    else if (strcmp(v, "off") == 0 || strcmp(v, "no") == 0 || strcmp(v, "false") == 0)
        *ret = false;
    else
        return error_msg(error, "'%s' is 'on' or 'off', not '%s'", key, v);
    return true;
}

static bool get_number(const json_t *options, const char *key, uint64_t max,
                       uint64_t *ret, GError **error)
{
    const char *v = get(options, key);

    if (!v)
        return true;
    if (!g_ascii_string_to_unsigned(v, 10, 1, max, ret, NULL))
        return error_msg(error,
                         "'%s' is a number of 1 to %" G_GUINT64_FORMAT ", not '%s'",
                         key, max, v);
    return true;
}

/* ---- handlers ---- */

static bool opt_machine(struct vmm_config *c, const char *arg, GError **error)
{
    json_t *o = blk_options_parse(arg, "type", error);
    const char *type, *accel;

    if (!o)
        return false;
    type = get(o, "type");
    if (is_help(type) || (has_help(o) && !type))
        want_help(c, VMM_HELP_MACHINES, NULL);
    else if (has_help(o))
        want_help(c, VMM_HELP_MACHINES, type);
    else if (type)
        set_string(&c->machine, type);
    accel = get(o, "accel");
    if (accel) {
        g_auto(GStrv) names = g_strsplit(accel, ":", -1);

        for (char **n = names; *n; n++)
            add_item(c->accels, json_pack("{s:s}", "accel", *n));
    }
    if (get(o, "firmware"))
        set_string(&c->bios, get(o, "firmware"));
    json_object_del(o, "type");
    json_object_del(o, "accel");
    json_object_del(o, "firmware");
    /* Say whether the host may merge or dump guest memory: nothing to choose yet. */
    json_object_del(o, "mem-merge");
    json_object_del(o, "dump-guest-core");
    json_object_update(c->machine_options, o);
    json_decref(o);
    return true;
}

static bool opt_accel(struct vmm_config *c, const char *arg, GError **error)
{
    json_t *o = blk_options_parse(arg, "accel", error);

    if (!o)
        return false;
    if (is_help(get(o, "accel")))
        want_help(c, VMM_HELP_ACCELS, NULL);
    else if (has_help(o))
        want_help(c, VMM_HELP_ACCELS, get(o, "accel"));
    add_item(c->accels, o);
    return true;
}

static bool opt_enable_kvm(struct vmm_config *c, const char *arg, GError **error)
{
    add_item(c->accels, json_pack("{s:s}", "accel", "kvm"));
    return true;
}

static bool opt_cpu(struct vmm_config *c, const char *arg, GError **error)
{
    if (is_help(arg))
        want_help(c, VMM_HELP_CPUS, NULL);
    return set_string(&c->cpu, arg);
}

static bool opt_memory(struct vmm_config *c, const char *arg, GError **error)
{
    static const char *const known[] = {"size", "slots", "maxmem", NULL};
    json_t *o = blk_options_parse(arg, "size", error);
    bool ok = false;

    if (!o)
        return false;
    if (!check_keys(o, known, error))
        goto out;
    if (json_object_get(o, "slots") || json_object_get(o, "maxmem")) {
        error_msg(error, "memory hot-plug (slots, maxmem) is not available");
        goto out;
    }
    if (!parse_size(get(o, "size") ?: "", MIB, &c->memory, error))
        goto out;
    if (c->memory > UINT64_MAX - GIB || c->memory == 0) {
        error_msg(error, "a guest needs memory, and less than 2^64 bytes");
        goto out;
    }
    c->memory = ALIGN_UP(c->memory, 4096u);
    ok = true;
out:
    json_decref(o);
    return ok;
}

/*
 * What is not said is 1, but the processors that remain are cores, or sockets when
 * cores are said (QEMU's rule since 6.2).
 */
static void complete_topology(unsigned cpus, uint64_t n[4])
{
    enum { SOCKETS, DIES, CORES, THREADS };
    unsigned free = !n[CORES] ? CORES : !n[SOCKETS] ? SOCKETS : THREADS;
    uint64_t others = 1;

    for (unsigned i = SOCKETS; i <= THREADS; i++) {
        if (i != free)
            others *= n[i] = n[i] ?: 1;
    }
    if (!n[free])
        n[free] = MAX(cpus / others, 1);
}

static bool opt_smp(struct vmm_config *c, const char *arg, GError **error)
{
    static const char *const known[] = {"cpus",  "maxcpus", "sockets",  "dies",
                                        "cores", "threads", "clusters", NULL};
    json_t *o = blk_options_parse(arg, "cpus", error);
    uint64_t cpus = 0, max = 0, clusters = 1, n[4] = {0};
    bool ok = false;

    if (!o)
        return false;
    if (!check_keys(o, known, error) || !get_number(o, "cpus", 65535, &cpus, error) ||
        !get_number(o, "maxcpus", 65535, &max, error) ||
        !get_number(o, "clusters", 65535, &clusters, error))
        goto out;
    for (unsigned i = 0; i < 4; i++) {
        if (!get_number(o, known[2 + i], 255, &n[i], error))
            goto out;
    }
    if (clusters != 1) {
        error_msg(error, "clusters is not supported by an x86 machine");
        goto out;
    }
    complete_topology(cpus ?: max, n);
    uint64_t product = n[0] * n[1] * n[2] * n[3];
    if (cpus == 0)
        cpus = max ?: product;
    if (max && max != cpus) {
        error_msg(error, "CPU hot-plug (maxcpus=%u with cpus=%u) is not available",
                  (unsigned)max, (unsigned)cpus);
        goto out;
    }
    if (product != cpus) {
        error_msg(error, "the topology has %u processors, cpus=%u", (unsigned)product,
                  (unsigned)cpus);
        goto out;
    }
    c->nb_cpus = cpus;
    c->topology = (struct x86_topology){n[0], n[1], n[2], n[3]};
    ok = x86_topology_check(&c->topology, error);
out:
    json_decref(o);
    return ok;
}

static bool opt_kernel(struct vmm_config *c, const char *arg, GError **error)
{
    return set_string(&c->kernel, arg);
}

static bool opt_initrd(struct vmm_config *c, const char *arg, GError **error)
{
    return set_string(&c->initrd, arg);
}

static bool opt_append(struct vmm_config *c, const char *arg, GError **error)
{
    return set_string(&c->append, arg);
}

static bool opt_bios(struct vmm_config *c, const char *arg, GError **error)
{
    return set_string(&c->bios, arg);
}

static bool opt_data_dir(struct vmm_config *c, const char *arg, GError **error)
{
    if (is_help(arg))
        want_help(c, VMM_HELP_DATA_DIRS, NULL);
    else
        g_ptr_array_add(c->data_dirs, g_strdup(arg));
    return true;
}

static bool opt_drive(struct vmm_config *c, const char *arg, GError **error)
{
    json_t *o = blk_options_parse(arg, "file", error);

    if (!o)
        return false;
    add_item(c->drives, o);
    return true;
}

static bool opt_blockdev(struct vmm_config *c, const char *arg, GError **error)
{
    json_t *o = blk_options_from_blockdev(arg, error);

    if (!o)
        return false;
    add_item(c->blockdevs, o);
    if (!get(o, "node-name"))
        return error_msg(error, "'node-name' is missing");
    return true;
}

static bool opt_device(struct vmm_config *c, const char *arg, GError **error)
{
    json_t *o = parse_any(arg, "driver", error);
    const char *driver;

    if (!o)
        return false;
    driver = get(o, "driver");
    if (is_help(driver))
        want_help(c, VMM_HELP_DEVICES, NULL);
    else if (has_help(o))
        want_help(c, VMM_HELP_DEVICES, driver);
    add_item(c->devices, o);
    if (!driver)
        return error_msg(error, "'driver' is missing");
    return true;
}

/* "TYPE.PROPERTY=VALUE", where both may have dots of their own only in the long form.
 */
static bool opt_global(struct vmm_config *c, const char *arg, GError **error)
{
    static const char *const known[] = {"driver", "property", "value", NULL};
    const char *equals = strchr(arg, '=');
    const char *dot = equals ? memchr(arg, '.', equals - arg) : NULL;
    json_t *o;

    if (dot) {
        o = json_pack("{s:s%, s:s%, s:s}", "driver", arg, (size_t)(dot - arg),
                      "property", dot + 1, (size_t)(equals - dot - 1), "value",
                      equals + 1);
        if (!o)
            return error_msg(error, "not UTF-8");
    } else {
        o = blk_options_parse(arg, NULL, error);
    }
    if (!o)
        return false;
    add_item(c->globals, o);
    for (const char *const *k = known; *k; k++) {
        if (!get(o, *k) || !*get(o, *k))
            return error_msg(error, "'%s' is missing: TYPE.PROPERTY=VALUE", *k);
    }
    return check_keys(o, known, error);
}

static bool opt_fw_cfg(struct vmm_config *c, const char *arg, GError **error)
{
    static const char *const known[] = {"name", "file", "string", NULL};
    json_t *o = blk_options_parse(arg, "name", error);

    if (!o)
        return false;
    add_item(c->fw_files, o);
    return check_keys(o, known, error);
}

static bool opt_boot(struct vmm_config *c, const char *arg, GError **error)
{
    static const char *const known[] = {
        "order", "once", "menu", "splash-time", "reboot-timeout", "strict", NULL};
    json_t *o = blk_options_parse(arg, "order", error);
    bool ok = o && check_keys(o, known, error);

    if (ok)
        json_object_update(c->boot, o);
    json_decref(o);
    return ok;
}

static bool opt_smbios(struct vmm_config *c, const char *arg, GError **error)
{
    json_t *o = blk_options_parse(arg, NULL, error);

    return o && json_array_append_new(c->smbios, o) == 0;
}

static bool opt_object(struct vmm_config *c, const char *arg, GError **error)
{
    json_t *o = parse_any(arg, "qom-type", error);

    if (!o)
        return false;
    if (is_help(get(o, "qom-type")))
        want_help(c, VMM_HELP_OBJECTS, NULL);
    add_item(c->objects, o);
    return true;
}

static bool opt_chardev(struct vmm_config *c, const char *arg, GError **error)
{
    json_t *o = parse_any(arg, "backend", error);

    if (!o)
        return false;
    serial_fix_negations(o);
    if (is_help(get(o, "backend")))
        want_help(c, VMM_HELP_CHARDEVS, NULL);
    add_item(c->chardevs, o);
    if (c->help == VMM_HELP_NONE && !get(o, "id"))
        return error_msg(error, "'id' is missing");
    return true;
}

static bool opt_serial(struct vmm_config *c, const char *arg, GError **error)
{
    json_t *o = serial_parse(arg, c->serials->len, error);

    if (!o)
        return false;
    add_item(c->serials, o);
    return true;
}

/* A device at port 0xe9, made before the user's own so that one of them that claims
 * several ports may leave it this one. */
static bool opt_debugcon(struct vmm_config *c, const char *arg, GError **error)
{
    struct vmm_item *device;
    json_t *o = serial_parse(arg, 0, error);
    g_autofree char *id = NULL;

    if (!o)
        return false;
    if (get(o, "chardev")) {
        id = g_strdup(get(o, "chardev"));
        json_decref(o);
    } else if (strcmp(get(o, "backend"), "none") == 0) {
        json_decref(o);
        return true;
    } else {
        id = g_strdup_printf("debugcon%u", c->chardevs->len);
        json_object_set_new(o, "id", json_string(id));
        add_item(c->chardevs, o);
    }
    device = g_new0(struct vmm_item, 1);
    device->where = g_strdup_printf("-debugcon %s", arg);
    device->options = json_pack("{s:s, s:s}", "driver", "isa-debugcon", "chardev", id);
    g_ptr_array_insert(c->devices, 0, device);
    return true;
}

/* A VNC server, whose place is "vnc" in @o. */
static bool add_vnc(struct vmm_config *c, json_t *o, GError **error)
{
    static const char *const known[] = {"vnc",   "websocket",       "to", "password",
                                        "share", "password-secret", NULL};

    if (g_strcmp0(get(o, "vnc"), "none") == 0) {
        g_ptr_array_set_size(c->vncs, 0);
        json_decref(o);
        return true;
    }
    add_item(c->vncs, o);
    return check_keys(o, known, error);
}

static bool opt_vnc(struct vmm_config *c, const char *arg, GError **error)
{
    json_t *o = blk_options_parse(arg, "vnc", error);

    return o && add_vnc(c, o, error);
}

static bool opt_display(struct vmm_config *c, const char *arg, GError **error)
{
    static const char *const known[] = {"type", "screendump", NULL};
    json_t *o = blk_options_parse(arg, "type", error);

    if (!o)
        return false;
    if (get(o, "vnc"))
        return add_vnc(c, o, error);
    add_item(c->displays, o);
    if (is_help(get(o, "type")))
        want_help(c, VMM_HELP_DISPLAYS, NULL);
    else if (g_strcmp0(get(o, "type") ?: "none", "none") != 0)
        return error_msg(error, "there is no display '%s'; -display help lists them",
                         get(o, "type"));
    return check_keys(o, known, error);
}

static bool opt_vga(struct vmm_config *c, const char *arg, GError **error)
{
    static const char *const known[] = {"none", "std", NULL};
    const char *near = nearest_name(arg, known);

    if (is_help(arg))
        want_help(c, VMM_HELP_VGA, NULL);
    else if (!g_strv_contains(known, arg))
        return error_msg(error, "there is no graphics card '%s'%s%s%s; -vga help", arg,
                         near ? ", did you mean '" : "", near ?: "", near ? "'?" : "");
    return set_string(&c->vga, arg);
}

/* Options of which only "none" exists here. */
static bool only_none(struct vmm_config *c, const char *arg, GError **error)
{
    if (strcmp(arg, "none") == 0)
        return true;
    return error_msg(error, "only 'none' is available");
}

static bool opt_nographic(struct vmm_config *c, const char *arg, GError **error)
{
    return c->nographic = true;
}

static bool opt_nodefaults(struct vmm_config *c, const char *arg, GError **error)
{
    return c->nodefaults = true;
}

/* There are no configuration files to leave out. */
static bool opt_nothing(struct vmm_config *c, const char *arg, GError **error)
{
    return true;
}

static bool opt_no_reboot(struct vmm_config *c, const char *arg, GError **error)
{
    return c->no_reboot = true;
}

static bool opt_no_shutdown(struct vmm_config *c, const char *arg, GError **error)
{
    return c->no_shutdown = true;
}

static bool choose(const char *key, const char *value, const char *off, const char *on,
                   bool *ret, GError **error)
{
    if (!value)
        return true;
    if (strcmp(value, off) != 0 && strcmp(value, on) != 0)
        return error_msg(error, "'%s' is '%s' or '%s', not '%s'", key, off, on, value);
    *ret = strcmp(value, on) == 0;
    return true;
}

static bool opt_action(struct vmm_config *c, const char *arg, GError **error)
{
    static const char *const known[] = {"reboot", "shutdown", NULL};
    json_t *o = blk_options_parse(arg, NULL, error);
    bool ok;

    if (!o)
        return false;
    ok =
        check_keys(o, known, error) &&
        choose("reboot", get(o, "reboot"), "reset", "shutdown", &c->no_reboot, error) &&
        choose("shutdown", get(o, "shutdown"), "poweroff", "pause", &c->no_shutdown,
               error);
    json_decref(o);
    return ok;
}

static bool opt_name(struct vmm_config *c, const char *arg, GError **error)
{
    static const char *const known[] = {"guest", "process", "debug-threads", NULL};
    json_t *o = blk_options_parse(arg, "guest", error);
    bool ok, threads;

    if (!o)
        return false;
    ok = check_keys(o, known, error) && get_bool(o, "debug-threads", &threads, error);
    if (ok && get(o, "guest"))
        set_string(&c->name, get(o, "guest"));
    json_decref(o);
    return ok;
}

static bool opt_uuid(struct vmm_config *c, const char *arg, GError **error)
{
    if (!g_uuid_string_is_valid(arg))
        return error_msg(error, "not a UUID");
    return set_string(&c->uuid, arg);
}

static bool opt_pidfile(struct vmm_config *c, const char *arg, GError **error)
{
    /* Absolute, since -daemonize leaves the folder before the file is removed. */
    g_free(c->pidfile);
    c->pidfile = g_canonicalize_filename(arg, NULL);
    return true;
}

static bool opt_daemonize(struct vmm_config *c, const char *arg, GError **error)
{
    return c->daemonize = true;
}

static bool opt_rtc(struct vmm_config *c, const char *arg, GError **error)
{
    static const char *const known[] = {"base", "clock", "driftfix", NULL};
    json_t *o = blk_options_parse(arg, NULL, error);
    bool ok = false;

    if (!o)
        return false;
    if (!check_keys(o, known, error))
        goto out;
    if (g_strcmp0(get(o, "base") ?: "utc", "utc") != 0 ||
        g_strcmp0(get(o, "clock") ?: "host", "host") != 0 ||
        g_strcmp0(get(o, "driftfix") ?: "none", "none") != 0) {
        error_msg(error, "only base=utc, clock=host and driftfix=none are available");
        goto out;
    }
    ok = true;
out:
    json_decref(o);
    return ok;
}

void vmm_log_help(FILE *out)
{
    fprintf(out, "Log items (comma separated):\n");
    for (unsigned i = 0; i < VM_LOG_COUNT; i++)
        fprintf(out, "%-15s %s\n", vm_log_name(i), vm_log_help(i));
}

static bool opt_log(struct vmm_config *c, const char *arg, GError **error)
{
    g_auto(GStrv) items = g_strsplit(arg, ",", -1);
    const char *names[VM_LOG_COUNT + 1] = {0};

    if (is_help(arg))
        want_help(c, VMM_HELP_LOG, NULL);
    for (unsigned i = 0; i < VM_LOG_COUNT; i++)
        names[i] = vm_log_name(i);
    for (char **item = items; *item && c->help == VMM_HELP_NONE; item++) {
        const char *near = nearest_name(*item, names);
        unsigned i = 0;

        while (i < VM_LOG_COUNT && strcmp(*item, names[i]) != 0)
            i++;
        if (i == VM_LOG_COUNT)
            return error_msg(
                error, "there is no log item '%s'%s%s%s; -d help lists them", *item,
                near ? ", did you mean '" : "", near ?: "", near ? "'?" : "");
        c->log |= 1u << i;
    }
    return true;
}

static bool opt_log_filter(struct vmm_config *c, const char *arg, GError **error)
{
    return vm_log_ranges_parse(arg, c->log_ranges, error);
}

static bool opt_log_file(struct vmm_config *c, const char *arg, GError **error)
{
    return set_string(&c->log_file, arg);
}

static bool opt_disas(struct vmm_config *c, const char *arg, GError **error)
{
    disas_options_clear(&c->disas);
    want_help(c, VMM_DISAS, NULL);
    return disas_options_parse(arg, &c->disas, error);
}

static bool opt_version(struct vmm_config *c, const char *arg, GError **error)
{
    want_help(c, VMM_HELP_VERSION, NULL);
    return true;
}

static bool opt_help(struct vmm_config *c, const char *arg, GError **error)
{
    want_help(c, VMM_HELP_USAGE, NULL);
    return true;
}

static const struct option options[] = {
    {"help", NULL, "print this", opt_help},
    {"h", NULL, "the same", opt_help},
    {"version", NULL, "print the version", opt_version},
    {"machine", "[type=]NAME[,prop=VALUE...]", "the board (-machine help)",
     opt_machine},
    {"M", "[type=]NAME[,...]", "the same", opt_machine},
    {"accel", "[accel=]NAME[,prop=VALUE...]",
     "what executes guest code; several: the first that works\n(-accel help, -accel "
     "NAME,help)",
     opt_accel},
    {"enable-kvm", NULL, "-accel kvm", opt_enable_kvm},
    {"cpu", "MODEL[,+FEATURE][,-FEATURE]...", "the processor (-cpu help)", opt_cpu},
    {"m", "[size=]MEGABYTES[K|M|G|T]", "guest memory", opt_memory},
    {"smp", "[cpus=]N[,sockets=N][,cores=N][,threads=N]", "number of processors",
     opt_smp},
    {"bios", "FILE|NAME", "firmware, where the processor starts without -kernel",
     opt_bios},
    {"L", "DIR", "look for firmware there too (-L help)", opt_data_dir},
    {"kernel", "FILE", "Linux bzImage, multiboot, or ELF with a PVH entry", opt_kernel},
    {"initrd", "FILE | 'FILE ARGS,FILE ARGS...'", "initial RAM disk; multiboot modules",
     opt_initrd},
    {"append", "TEXT", "the kernel's command line", opt_append},
    {"drive", "[file=]FILE[,id=ID][,if=virtio|none][,format=F][,readonly=on]...",
     "a disk image, with if=virtio and its device", opt_drive},
    {"blockdev", "driver=DRIVER,node-name=NAME[,...] | JSON", "a node of a disk image",
     opt_blockdev},
    {"device", "TYPE[,id=ID][,prop=VALUE...] | JSON",
     "a device (-device help, -device TYPE,help)", opt_device},
    {"global", "TYPE.PROPERTY=VALUE", "a default for all devices of a type",
     opt_global},
    {"fw_cfg", "[name=]opt/NAME,file=FILE|string=TEXT",
     "a file that the guest finds by its firmware configuration device", opt_fw_cfg},
    {"boot",
     "[order=]DRIVES[,once=DRIVES][,menu=on|off][,splash-time=MS]\n"
     "[,reboot-timeout=MS][,strict=on|off]",
     "what firmware boots from: letters a floppy, c disk, d CD, n network", opt_boot},
    {"smbios", "type=0|1|2|3[,manufacturer=M][,product=P][,version=V][,serial=S]...",
     "strings that the guest finds in SMBIOS tables", opt_smbios},
    {"object", "TYPE,id=ID[,prop=VALUE...] | JSON", "a back end object (-object help)",
     opt_object},
    {"chardev", "BACKEND,id=ID[,...]", "a character device (-chardev help)",
     opt_chardev},
    {"serial", "DEV",
     "a serial port: none null stdio pty file:F pipe:F unix:F[,server]\n"
     "tcp:HOST:PORT[,server] chardev:ID mon:stdio",
     opt_serial},
    {"debugcon", "DEV", "what is written to port 0xe9, to the same kinds",
     opt_debugcon},
    {"parallel", "none", "accepted for compatibility", only_none},
    {"monitor", "none", "accepted for compatibility", only_none},
    {"nographic", NULL, "the serial port on this terminal; Ctrl-A x leaves",
     opt_nographic},
    {"display", "none[,screendump=FILE] | vnc=PLACE[,...]",
     "who shows the screen (-display help)", opt_display},
    {"vnc", "[HOST]:N|unix:PATH|none[,websocket=on|PORT][,password-secret=ID][,to=N]",
     "show the screen to VNC viewers; with share=allow-exclusive|force-shared|ignore",
     opt_vnc},
    {"vga", "std|none", "the graphics card (-vga help)", opt_vga},
    {"net", "none", "accepted for compatibility", only_none},
    {"nic", "none", "accepted for compatibility", only_none},
    {"nodefaults", NULL, "no device that was not asked for", opt_nodefaults},
    {"no-user-config", NULL, "accepted for compatibility", opt_nothing},
    {"no-reboot", NULL, "end instead of resetting", opt_no_reboot},
    {"no-shutdown", NULL, "stop instead of ending when the guest powers off",
     opt_no_shutdown},
    {"action", "[reboot=reset|shutdown][,shutdown=poweroff|pause]",
     "the same two, by name", opt_action},
    {"name", "[guest=]NAME", "the guest's name", opt_name},
    {"uuid", "UUID", "the guest's UUID", opt_uuid},
    {"rtc", "[base=utc][,clock=host]", "the CMOS clock", opt_rtc},
    {"pidfile", "FILE", "write the process ID there", opt_pidfile},
    {"daemonize", NULL, "go to the background when the guest runs", opt_daemonize},
    {"d", "ITEM,...", "log (-d help)", opt_log},
    {"disas", "FILE[,bits=16|32|64][,addr=N][,offset=N][,len=N][,raw=on]",
     "write the instructions of an ELF or raw file and end", opt_disas},
    {"D", "FILE", "log there instead of to standard error; %d is the process ID",
     opt_log_file},
    {"dfilter", "START..END,START+LEN,START-LEN,...",
     "of in_asm, exec and cpu log only code at these addresses", opt_log_filter},
};

void vmm_config_help(FILE *out)
{
    fprintf(out, "usage: lodge-vmm [options]\n\n");
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        const struct option *o = &options[i];
        g_auto(GStrv) lines = g_strsplit(o->help, "\n", -1);

        fprintf(out, "-%s%s%s\n", o->name, o->arg ? " " : "", o->arg ?: "");
        for (char **l = lines; *l; l++)
            fprintf(out, "        %s\n", *l);
    }
}

static const struct option *find_option(const char *arg, GError **error)
{
    const char *names[ARRAY_LEN(options) + 1] = {0};
    const char *name = arg + 1, *near;

    if (*arg != '-' || !*name) {
        error_msg(error, "'%s' is not an option; disks are given with -drive", arg);
        return NULL;
    }
    name += *name == '-';
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        names[i] = options[i].name;
        if (strcmp(name, names[i]) == 0)
            return &options[i];
    }
    near = nearest_name(name, names);
    error_msg(error, "%s: unknown option%s%s%s; -help lists them", arg,
              near ? ", did you mean '-" : "", near ?: "", near ? "'?" : "");
    return NULL;
}

/* Items that @option has just added learn what the user wrote. */
static void set_where(struct vmm_config *c, const char *where)
{
    GPtrArray *const lists[] = {c->accels,   c->drives,   c->blockdevs, c->chardevs,
                                c->serials,  c->devices,  c->objects,   c->globals,
                                c->fw_files, c->displays, c->vncs};

    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        for (guint k = lists[i]->len; k-- > 0;) {
            struct vmm_item *item = lists[i]->pdata[k];

            if (item->where)
                break;
            item->where = g_strdup(where);
        }
    }
}

bool vmm_config_parse(struct vmm_config *c, int argc, char *const *argv, GError **error)
{
    for (int i = 1; i < argc; i++) {
        const struct option *o = find_option(argv[i], error);
        g_autofree char *where = NULL;
        const char *arg = NULL;

        if (!o)
            return false;
        if (o->arg) {
            if (i + 1 >= argc)
                return error_msg(error, "%s: needs an argument: %s", argv[i], o->arg);
            arg = argv[++i];
        }
        where = arg ? g_strdup_printf("-%s %s", o->name, arg)
                    : g_strdup_printf("-%s", o->name);
        if (!o->parse(c, arg, error)) {
            g_prefix_error(error, "%s: ", where);
            return false;
        }
        set_where(c, where);
        if (c->help != VMM_HELP_NONE)
            return true;
    }
    return true;
}

void vmm_item_free(struct vmm_item *item)
{
    json_decref(item->options);
    g_free(item->where);
    g_free(item);
}

static GPtrArray *items_new(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)vmm_item_free);
}

struct vmm_config *vmm_config_new(void)
{
    struct vmm_config *c = g_new0(struct vmm_config, 1);

    c->machine_options = json_object();
    c->accels = items_new();
    c->drives = items_new();
    c->blockdevs = items_new();
    c->chardevs = items_new();
    c->serials = items_new();
    c->devices = items_new();
    c->objects = items_new();
    c->log_ranges = g_array_new(FALSE, FALSE, sizeof(struct vm_log_range));
    c->globals = items_new();
    c->fw_files = items_new();
    c->displays = items_new();
    c->vncs = items_new();
    c->smbios = json_array();
    c->boot = json_object();
    c->data_dirs = g_ptr_array_new_with_free_func(g_free);
    c->nb_cpus = 1;
    return c;
}

void vmm_config_free(struct vmm_config *c)
{
    if (!c)
        return;
    json_decref(c->machine_options);
    g_ptr_array_unref(c->accels);
    g_ptr_array_unref(c->drives);
    g_ptr_array_unref(c->blockdevs);
    g_ptr_array_unref(c->chardevs);
    g_ptr_array_unref(c->serials);
    g_ptr_array_unref(c->devices);
    g_ptr_array_unref(c->objects);
    g_array_unref(c->log_ranges);
    g_ptr_array_unref(c->globals);
    g_ptr_array_unref(c->fw_files);
    g_ptr_array_unref(c->displays);
    g_ptr_array_unref(c->vncs);
    g_free(c->vga);
    json_decref(c->smbios);
    json_decref(c->boot);
    g_ptr_array_unref(c->data_dirs);
    g_free(c->bios);
    g_free(c->help_name);
    disas_options_clear(&c->disas);
    g_free(c->machine);
    g_free(c->cpu);
    g_free(c->kernel);
    g_free(c->initrd);
    g_free(c->append);
    g_free(c->name);
    g_free(c->uuid);
    g_free(c->pidfile);
    g_free(c->log_file);
    g_free(c);
}
