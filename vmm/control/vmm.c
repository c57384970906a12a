/*
 * From a command line to a running machine. The order is the promise: first everything
 * that can be wrong without touching anything (names, properties, ids, the kernel file
 * and whether it fits into memory), then what only opens (images with their locks),
 * then what writes or waits (chardevs), then the machine.
 */
#include "vmm/control/vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <glib-unix.h>

#include "lib/base/base.h"
#include "lib/loop/loop.h"
#include "vmm/arch/x86/arch.h"
#include "vmm/board/board.h"
#include "vmm/control/backends.h"
#include "vmm/control/firmware.h"
#include "vmm/control/fw_files.h"
#include "vmm/control/globals.h"
#include "vmm/control/objects.h"
#include "vmm/control/screen.h"
#include "vmm/dev/devices.h"
#include "vmm/vm/device.h"
#include "vmm/vm/vcpu.h"

struct vmm {
    struct vmm_config *config;
    const struct vmm_accel *accel;
    json_t *accel_options;
    struct x86_cpu_model *cpu;
    char *bios;       /* where -bios was found */
    GArray *fw_files; /* struct board_fw_file */
    struct loop *loop;
    struct secrets *secrets; /* of -object secret */
    struct backends *backends;
    struct screen *screen;
    struct board *board;
    struct vm *vm;
    FILE *log_out;
    struct vm_log *log; /* NULL without -d */
    bool pidfile_made;
    int ready_fd; /* the parent of -daemonize waits there; -1 */
    guint signals[3];
    uint64_t start_ns;
};

/* ---- choosing ---- */

const struct vmm_accel *vmm_accel_find(const struct vmm_accel *accels, const char *name,
                                       GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    const char *near;

    for (const struct vmm_accel *a = accels; a->ops; a++) {
        if (strcmp(a->ops->name, name) == 0 || g_strcmp0(a->alias, name) == 0)
            return a;
        g_ptr_array_add(names, (gpointer)a->ops->name);
    }
    g_ptr_array_add(names, NULL);
    near = nearest_name(name, (const char *const *)names->pdata);
    error_msg(error, "there is no accelerator '%s'%s%s%s; -accel help lists them", name,
              near ? ", did you mean '" : "", near ?: "", near ? "'?" : "");
    return NULL;
}

/* The first that exists; the error is that of the first. */
static bool choose_accel(struct vmm *v, const struct vmm_accel *accels, GError **error)
{
    GPtrArray *wanted = v->config->accels;
    GError *first = NULL;

    if (wanted->len == 0) {
        v->accel = &accels[0];
        v->accel_options = json_object();
        return true;
    }
    for (guint i = 0; i < wanted->len && !v->accel; i++) {
        const struct vmm_item *item = wanted->pdata[i];
        const char *name = json_string_value(json_object_get(item->options, "accel"));
        GError *e = NULL;

        v->accel = vmm_accel_find(accels, name ?: "", &e);
        if (v->accel) {
            v->accel_options = json_copy(item->options);
            json_object_del(v->accel_options, "accel");
        } else if (!first) {
            g_prefix_error(&e, "%s: ", item->where);
            first = g_steal_pointer(&e);
        }
        g_clear_error(&e);
    }
    if (!v->accel) {
        g_propagate_error(error, first);
        return false;
    }
    g_clear_error(&first);
    return true;
}

static bool choose_cpu(struct vmm *v, const struct board_type *board, GError **error)
{
    const char *spec = v->config->cpu ?: board->default_cpu;
    g_autofree char *missing = NULL;
    struct x86_featset supported = {0};

    if (v->accel->features)
        v->accel->features(&supported);
    else
        x86_featset_host(&supported);
    v->cpu = x86_cpu_model_new(spec, &supported, &missing, error);
    if (!v->cpu) {
        g_prefix_error(error, "-cpu %s: ", spec);
        return false;
    }
    if (v->config->topology.cores)
        v->cpu->topo = v->config->topology;
    if (missing && v->config->cpu)
        fprintf(stderr, "lodge-vmm: warning: -cpu %s: not available here: %s\n", spec,
                missing);
    return true;
}

/* Guest memory is reserved lazily: the host would agree to more than it can ever give,
 * and kill somebody later. */
static bool check_host_memory(uint64_t memory, GError **error)
{
    struct sysinfo si;
    uint64_t host;

    if (sysinfo(&si) < 0)
        return true;
    host = ((uint64_t)si.totalram + si.totalswap) * si.mem_unit;
    return memory <= host ||
           error_msg(error,
                     "-m: %" PRIu64 " MiB are more than the host's memory and swap of "
                     "%" PRIu64 " MiB",
                     memory / MIB, host / MIB);
}

static bool check_sizes(struct vmm *v, const struct board_type *board, GError **error)
{
    struct vmm_config *c = v->config;

    if (c->memory == 0)
        c->memory = board->default_memory;
    if (c->memory > UINT64_C(1) << (v->cpu->phys_bits - 1))
        return error_msg(error,
                         "-m: %" PRIu64
                         " MiB are more than a processor with %u address "
                         "bits can use",
                         c->memory / MIB, v->cpu->phys_bits);
    if (!c->kernel && !c->bios && !board->firmware && !v->accel->no_guest)
        return error_msg(error,
                         "machine '%s' has no firmware of its own: it needs -kernel "
                         "or -bios",
                         board->name);
    if (c->nb_cpus > board->max_cpus)
        return error_msg(error, "-smp %u: machine '%s' has at most %u processors",
                         c->nb_cpus, board->name, board->max_cpus);
    return check_host_memory(c->memory, error);
}

/* ---- devices ---- */

/* Properties and references of a device, on an object that is thrown away. */
static bool check_device(struct vmm *v, const json_t *options, GError **error)
{
    const char *driver = json_string_value(json_object_get(options, "driver"));
    const struct device_type *type = device_type_find(device_types, driver, error);
    struct device_resolver checker = backends_checker(v->backends);
    g_autofree void *object = NULL;
    const char *name;
    json_t *value;
    bool ok = true;

    if (!type)
        return false;
    if (!type->user)
        return error_msg(error, "'%s' is part of the machine, not for -device", driver);
    object = g_malloc0(type->size);
    props_set_defaults(type->props, object);
    json_object_foreach((json_t *)options, name, value)
    {
        if (strcmp(name, "driver") != 0 && strcmp(name, "id") != 0)
            ok = ok && props_set(type->props, object, name, value, &checker, error);
    }
    for (const struct prop *p = type->props; ok && p && p->name; p++) {
        if (p->required && !json_object_get(options, p->name))
            ok = error_msg(error, "property '%s' is missing", p->name);
    }
    props_done(type->props, object);
    if (!ok)
        g_prefix_error(error, "%s: ", type->name);
    return ok;
}

static bool check_devices(struct vmm *v, GError **error)
{
    g_autoptr(GHashTable) ids = g_hash_table_new(g_str_hash, g_str_equal);

    for (guint i = 0; i < v->config->devices->len; i++) {
        const struct vmm_item *item = v->config->devices->pdata[i];
        const char *id = json_string_value(json_object_get(item->options, "id"));
        bool ok = check_device(v, item->options, error);

        if (ok && id && !g_hash_table_add(ids, (gpointer)id))
            ok = error_msg(error, "there is already a device with the id '%s'", id);
        if (!ok) {
            g_prefix_error(error, "%s: ", item->where);
            return false;
        }
    }
    return true;
}

static bool make_devices(struct vmm *v, GError **error)
{
    struct device_resolver resolver = backends_resolver(v->backends);

    for (guint i = 0; i < v->config->devices->len; i++) {
        const struct vmm_item *item = v->config->devices->pdata[i];
        const char *driver =
            json_string_value(json_object_get(item->options, "driver"));
        const struct device_type *type = device_type_find(device_types, driver, error);

        if (!type || !device_new(v->vm, type, item->options, &resolver, error)) {
            g_prefix_error(error, "%s: ", item->where);
            return false;
        }
    }
    return true;
}

static bool find_bios(struct vmm *v, const struct board_type *board, GError **error)
{
    const char *name = v->config->bios ?: board->firmware;

    /* Without a guest there is nobody to need what the user has not asked for. */
    if (!name || (!v->config->bios && v->accel->no_guest))
        return true;
    v->bios = firmware_find(v->config, name, error);
    if (!v->bios && v->config->bios)
        g_prefix_error(error, "-bios %s: ", name);
    else if (!v->bios)
        g_prefix_error(error,
                       "the firmware of machine '%s', %s (Debian's package "
                       "seabios has it): ",
                       board->name, name);
    return v->bios;
}

static char *find_file(void *opaque, const char *name, GError **error)
{
    const struct vmm *v = opaque;

    return firmware_find(v->config, name, error);
}

/* ---- making ---- */

static bool check_all(struct vmm *v, const struct vmm_accel *accels, GError **error)
{
    struct vmm_config *c = v->config;
    const struct board_type *board =
        c->machine ? board_type_find(c->machine, error) : board_types[0];

    v->secrets = secrets_new();
    if (!board || !choose_accel(v, accels, error) || !choose_cpu(v, board, error) ||
        !check_sizes(v, board, error) || !objects_check(c, v->secrets, error) ||
        !screen_add_card(c, board, error))
        return false;
    v->screen = screen_new(c, v->secrets, error);
    if (!v->screen)
        return false;
    v->backends = backends_new(c, board, error);
    if (!v->backends || !globals_apply(c, error) || !check_devices(v, error) ||
        !find_bios(v, board, error))
        return false;
    v->fw_files = fw_files_new(c, error);
    if (!v->fw_files)
        return false;
    v->board = board_new(board, c->machine_options,
                         &(struct board_config){
                             .kernel = c->kernel,
                             .initrd = c->initrd,
                             .cmdline = c->append,
                             .bios = v->bios,
                             .memory = c->memory,
                             .nb_cpus = c->nb_cpus,
                             .uuid = c->uuid,
                             .nographic = c->nographic,
                             .boot = c->boot,
                             .smbios = c->smbios,
                             .fw_files = (void *)v->fw_files->data,
                             .nb_fw_files = v->fw_files->len,
                         },
                         error);
    return v->board != NULL;
}

static bool make_all(struct vmm *v, GError **error)
{
    struct vm_config vc = {
        .arch = &x86_arch,
        .accel = v->accel->ops,
        .accel_options = v->accel_options,
        .nb_vcpus = v->config->nb_cpus,
        .cpu_model = v->cpu,
        .name = v->config->name,
    };

    v->loop = loop_new(NULL, error);
    if (!v->loop)
        return false;
    loop_attach(v->loop, NULL);
    if (!backends_open(v->backends, v->loop, v->secrets, error) ||
        !screen_open(v->screen, error))
        return false;
    vc.loop = v->loop;
    vc.log = v->log;
    v->vm = vm_new(&vc, error);
    if (!v->vm)
        return false;
    v->vm->display = screen_display(v->screen);
    v->vm->find_file = find_file;
    v->vm->find_file_opaque = v;
    v->vm->no_reboot = v->config->no_reboot;
    v->vm->no_shutdown = v->config->no_shutdown;
    return board_build(v->board, v->vm, backends_serials(v->backends), error) &&
           make_devices(v, error) && board_finish(v->board, error);
}

/* "%d" in @file becomes the process ID. */
static char *log_path(const char *file)
{
    g_autofree char *pid = g_strdup_printf("%d", (int)getpid());
    g_auto(GStrv) parts = file ? g_strsplit(file, "%d", -1) : NULL;

    return parts ? g_strjoinv(pid, parts) : NULL;
}

static bool open_log(struct vmm *v, GError **error)
{
    const struct vmm_config *c = v->config;
    g_autofree char *path = log_path(c->log_file);

    v->log_out = path ? fopen(path, "we") : stderr;
    if (!v->log_out)
        return error_errno(error, errno, "-D %s", path);
    if (c->log)
        v->log = vm_log_new(c->log, v->log_out, c->log_ranges);
    return true;
}

static bool write_pidfile(struct vmm *v, GError **error)
{
    const char *path = v->config->pidfile;
    g_autofree char *text = g_strdup_printf("%d\n", (int)getpid());
    int fd;
    bool ok;

    if (!path)
        return true;
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (!ok)
        error_errno(error, errno, "-pidfile %s", path);
    if (fd >= 0)
        close(fd);
    v->pidfile_made = ok;
    return ok;
}

/*
 * -daemonize: the child makes the machine; the parent waits for a byte, which says
 * that the guest runs, and passes on a failure. Before any thread exists.
 */
static bool daemonize(struct vmm *v, GError **error)
{
    int fds[2];
    char byte;
    pid_t pid;

    if (!v->config->daemonize)
        return true;
    if (pipe2(fds, O_CLOEXEC) < 0)
        return error_errno(error, errno, "-daemonize");
    pid = fork();
    if (pid < 0)
        return error_errno(error, errno, "-daemonize");
    if (pid > 0) {
        close(fds[1]);
        _exit(read(fds[0], &byte, 1) == 1 ? 0 : 1);
    }
    close(fds[0]);
    v->ready_fd = fds[1];
    setsid();
    return true;
}

static void tell_parent(struct vmm *v)
{
    int null;

    if (v->ready_fd < 0)
        return;
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
        dup2(null, STDERR_FILENO);
        close(null);
    }
    if (write(v->ready_fd, "", 1) < 0 || chdir("/") < 0) {
        /* The parent was killed: nobody waits. */
    }
    close(v->ready_fd);
    v->ready_fd = -1;
}

struct vmm *vmm_new(struct vmm_config *c, const struct vmm_accel *accels,
                    GError **error)
{
    struct vmm *v = g_new0(struct vmm, 1);

    v->config = c;
    v->ready_fd = -1;
    if (!check_all(v, accels, error) || !daemonize(v, error) || !open_log(v, error) ||
        !make_all(v, error) || !write_pidfile(v, error)) {
        vmm_free(v);
        return NULL;
    }
    return v;
}

void vmm_free(struct vmm *v)
{
    if (!v)
        return;
    vm_free(v->vm);
    board_free(v->board);
    screen_free(v->screen);
    backends_free(v->backends);
    secrets_free(v->secrets);
    loop_free(v->loop);
    vm_log_free(v->log);
    if (v->log_out && v->log_out != stderr)
        fclose(v->log_out);
    if (v->pidfile_made)
        unlink(v->config->pidfile);
    if (v->ready_fd >= 0)
        close(v->ready_fd);
    json_decref(v->accel_options);
    g_free(v->cpu);
    g_free(v->bios);
    if (v->fw_files)
        g_array_unref(v->fw_files);
    g_free(v);
}

/* ---- running ---- */

static void quit(void *opaque)
{
    struct vmm *v = opaque;

    vm_request_end(v->vm, VM_END_QUIT, 0);
}

static gboolean on_signal(gpointer opaque)
{
    quit(opaque);
    return G_SOURCE_CONTINUE;
}

/* Where every CPU of the guest was; which one died is said before. An accelerator
 * without a dump has no guest. */
static void dump_vcpus(struct vmm *v)
{
    fflush(stdout);
    for (unsigned i = 0; i < v->vm->nb_vcpus && v->accel->ops->dump; i++)
        vcpu_dump(v->vm->vcpus[i], stderr);
}

static int report_end(struct vmm *v, enum vm_end end)
{
    switch (end) {
    case VM_END_EXIT: return v->vm->exit_status;
    case VM_END_TRIPLE_FAULT:
        fprintf(stderr, "lodge-vmm: the guest died of a triple fault of CPU %u\n",
                v->vm->end_vcpu->index);
        dump_vcpus(v);
        return 1;
    case VM_END_ERROR:
        fprintf(stderr, "lodge-vmm: %s\n", v->vm->end_error->message);
        dump_vcpus(v);
        return 1;
    case VM_END_NONE:
    case VM_END_POWEROFF:
    case VM_END_RESET:
    case VM_END_QUIT: break;
    }
    return 0;
}

static void log_stats(struct vmm *v, enum vm_end end)
{
    json_t *stats = vm_stats(v->vm);
    uint64_t insns = 0;

    for (unsigned i = 0; i < v->vm->nb_vcpus; i++)
        insns += atomic_load_explicit(&v->vm->vcpus[i]->insns, memory_order_relaxed);
    json_object_set_new(stats, "end", json_string(vm_end_name(end)));
    json_object_set_new(stats, "insns", json_integer(insns));
    json_object_set_new(stats, "wall-ns", json_integer(loop_now_ns() - v->start_ns));
    json_dumpf(stats, v->log_out, JSON_COMPACT);
    fputc('\n', v->log_out);
    fflush(v->log_out);
    json_decref(stats);
}

static void log_accel_stats(struct vmm *v)
{
    json_t *all = json_array();

    for (unsigned i = 0; i < v->vm->nb_vcpus && v->accel->ops->stats; i++)
        json_array_append_new(all, v->accel->ops->stats(v->vm->vcpus[i]));
    json_dumpf(all, v->log_out, JSON_INDENT(2));
    fputc('\n', v->log_out);
    fflush(v->log_out);
    json_decref(all);
}

int vmm_run(struct vmm *v)
{
    static const int numbers[ARRAY_LEN(v->signals)] = {SIGINT, SIGTERM, SIGHUP};
    g_autoptr(GError) error = NULL;
    enum vm_end end;
    int code;

    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        v->signals[i] = g_unix_signal_add(numbers[i], on_signal, v);
    backends_set_leave(v->backends, quit, v);
    v->start_ns = loop_now_ns();
    if (!screen_start(v->screen, &error) || !vm_start(v->vm, &error)) {
        fprintf(stderr, "lodge-vmm: %s\n", error->message);
        code = 1;
    } else {
        tell_parent(v);
        end = vm_run_main(v->vm);
        screen_stop(v->screen);
        code = report_end(v, end);
        if (v->config->log & VM_LOG_STATS)
            log_stats(v, end);
        if (v->config->log & VM_LOG_BT)
            log_accel_stats(v);
        for (unsigned i = 0; i < v->vm->nb_vcpus && v->accel->ops->dump; i++)
            if (v->config->log & VM_LOG_ACCEL)
                vcpu_dump(v->vm->vcpus[i], v->log_out);
    }
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        g_source_remove(v->signals[i]);
    return code;
}
