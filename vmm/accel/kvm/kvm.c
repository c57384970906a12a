#include "vmm/accel/kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/base/base.h"
#include "vmm/accel/kvm/kvm_priv.h"
#include "vmm/arch/x86/lapic.h"
#include "vmm/vm/clock.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/props.h"

/*
 * The accelerator's face: opening /dev/kvm, the VM, its vCPUs. The rest is in
 * kvm_cpuid.c (CPU models), kvm_mem.c (slots, dirty pages), kvm_state.c (registers),
 * kvm_run.c (the loop) and kvm_irq.c (controllers in the kernel).
 *
 * Facts: Linux, Documentation/virt/kvm/api.rst.
 */

/* Three pages for KVM's own TSS and one for its page table, which Intel processors
 * without "unrestricted guest" need: above all RAM below 4 GiB, below any firmware. */
#define IDENTITY_MAP UINT64_C(0xfeffc000)
#define OWN_TSS      (IDENTITY_MAP + 0x1000)

static const char *const irqchip_names[] = {"on", "split", "off", NULL};

static const struct prop options_table[] = {
    {.name = "kernel-irqchip",
     .type = PROP_ENUM,
     PROP_FIELD(struct kvm_vm, irqchip),
     .values = irqchip_names,
     .def = KVM_IRQCHIP_ON,
     .help = "interrupt controllers in the kernel: on, split or off"},
    {.name = "dirty-ring-size",
     .type = PROP_U32,
     PROP_FIELD(struct kvm_vm, ring_entries),
     .max = 1 << 20,
     .help = "entries of each vCPU's ring of dirty pages; 0: bitmaps"},
    {.name = "device",
     .type = PROP_STRING,
     PROP_FIELD(struct kvm_vm, device),
     .def_string = "/dev/kvm",
     .help = "the device node of KVM"},
    {.name = NULL},
};

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
    int r;
    do {
        r = ioctl(fd, request, arg);
    } while (r < 0 && errno == EINTR);
    return r;
}

static int check(const struct kvm_vm *kv, unsigned long cap)
{
    return kvm_ioctl_n(kv->fd >= 0 ? kv->fd : kv->dev_fd, KVM_CHECK_EXTENSION, cap);
}

/* --- The VM ---------------------------------------------------------------- */

static bool open_device(struct kvm_vm *kv, GError **error)
{
    kv->dev_fd = open(kv->device, O_RDWR | O_CLOEXEC);
    if (kv->dev_fd < 0) {
        int err = errno;
        const char *hint = err == ENOENT
                               ? " (is the processor's virtualization switched on?)"
                           : err == EACCES ? " (is the user in the group kvm?)"
                                           : "";
        error_errno(error, err, "Could not access KVM kernel module: %s", kv->device);
        if (error) {
            g_autofree char *text = g_strconcat((*error)->message, hint, NULL);
            g_free((*error)->message);
            (*error)->message = g_steal_pointer(&text);
        }
        return false;
    }
    int version = kvm_ioctl_n(kv->dev_fd, KVM_GET_API_VERSION, 0);
    if (version < 0) {
        return error_errno(error, errno, "%s is not KVM", kv->device);
    }
    return version == KVM_API_VERSION ||
           error_msg(error, "%s has version %d of KVM's interface; needed is %d",
                     kv->device, version, KVM_API_VERSION);
}

/* What there is no going on without. */
static bool check_needed(const struct kvm_vm *kv, GError **error)
{
    static const struct {
        unsigned long cap;
        const char *name;
    } needed[] = {
        {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
        {KVM_CAP_DESTROY_MEMORY_REGION_WORKS, "KVM_CAP_DESTROY_MEMORY_REGION_WORKS"},
        {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
        {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
        {KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"},
        {KVM_CAP_XSAVE, "KVM_CAP_XSAVE"},
        {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},
        {KVM_CAP_USER_NMI, "KVM_CAP_USER_NMI"},
        {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
    };
    for (size_t i = 0; i < ARRAY_LEN(needed); i++) {
        if (check(kv, needed[i].cap) <= 0) {
            return error_msg(error, "KVM of this kernel lacks %s", needed[i].name);
        }
    }
    return true;
}

static bool make_vm(struct kvm_vm *kv, GError **error)
{
    uint64_t identity = IDENTITY_MAP;
    kv->fd = kvm_ioctl_n(kv->dev_fd, KVM_CREATE_VM, 0);
    if (kv->fd < 0) {
        return error_errno(error, errno, "KVM_CREATE_VM");
    }
    int run_len = kvm_ioctl_n(kv->dev_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (run_len < (int)sizeof(struct kvm_run)) {
        return error_msg(error, "KVM_GET_VCPU_MMAP_SIZE: %d", run_len);
    }
    kv->run_len = (size_t)run_len;
    kv->max_slots = MAX(check(kv, KVM_CAP_NR_MEMSLOTS), 32);
    kv->has_readonly = check(kv, KVM_CAP_READONLY_MEM) > 0;
    kv->has_xcrs = check(kv, KVM_CAP_XCRS) > 0;
    kv->has_debugregs = check(kv, KVM_CAP_DEBUGREGS) > 0;
    if (check(kv, KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0 &&
        kvm_ioctl(kv->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0) {
        return error_errno(error, errno, "KVM_SET_IDENTITY_MAP_ADDR");
    }
    return kvm_ioctl_n(kv->fd, KVM_SET_TSS_ADDR, OWN_TSS) == 0 ||
           error_errno(error, errno, "KVM_SET_TSS_ADDR");
}

static bool enable_ring(struct kvm_vm *kv, GError **error)
{
    uint32_t n = kv->ring_entries;
    struct kvm_enable_cap cap = {.cap = KVM_CAP_DIRTY_LOG_RING,
                                 .args[0] = n * sizeof(struct kvm_dirty_gfn)};
    if (!n) {
        return true;
    }
    if (n & (n - 1)) {
        return error_msg(error, "dirty-ring-size=%u is not a power of two", n);
    }
    int max = check(kv, KVM_CAP_DIRTY_LOG_RING);
    if (max <= 0) {
        return error_msg(error,
                         "dirty-ring-size: KVM of this kernel has no dirty ring");
    }
    if (n > (unsigned)max / sizeof(struct kvm_dirty_gfn)) {
        return error_msg(error, "dirty-ring-size=%u: at most %u", n,
                         max / (unsigned)sizeof(struct kvm_dirty_gfn));
    }
    return kvm_ioctl(kv->fd, KVM_ENABLE_CAP, &cap) == 0 ||
           error_errno(error, errno, "dirty-ring-size=%u", n);
}

/* The distance of the VM's counter to the host's, from the narrowest of some looks. */
static uint64_t measure_tsc_base(struct vm *vm)
{
    uint64_t best = UINT64_MAX, base = 0;
    for (unsigned i = 0; i < 16; i++) {
        uint64_t a = __builtin_ia32_rdtsc();
        uint64_t v = vm_clock_tsc(vm->clock);
        uint64_t b = __builtin_ia32_rdtsc();
        if (b - a < best) {
            best = b - a;
            base = v - (a + (b - a) / 2);
        }
    }
    return base;
}

static bool set_options(struct kvm_vm *kv, const json_t *options, GError **error)
{
    const char *name;
    json_t *value;
    props_set_defaults(options_table, kv);
    json_object_foreach((json_t *)options, name, value)
    {
        if (!props_set(options_table, kv, name, value, NULL, error)) {
            return false;
        }
    }
    return true;
}

static void kvm_done(struct vm *vm, void *state)
{
    struct kvm_vm *kv = state;
    if (!kv) {
        return;
    }
    vm->accel_arch = NULL;
    if (kv->fd >= 0) {
        close(kv->fd);
    }
    if (kv->dev_fd >= 0) {
        close(kv->dev_fd);
    }
    g_free(kv->routing);
    g_array_unref(kv->slots);
    g_mutex_clear(&kv->lock);
    props_done(options_table, kv);
    g_free(kv);
}

static bool kvm_init(struct vm *vm, const json_t *options, void **ret_state,
                     GError **error)
{
    struct kvm_vm *kv = g_new0(struct kvm_vm, 1);
    kv->vm = vm;
    kv->fd = kv->dev_fd = -1;
    kv->slots = g_array_new(FALSE, TRUE, sizeof(struct kvm_slot));
    g_mutex_init(&kv->lock);
    if (!set_options(kv, options, error) || !open_device(kv, error) ||
        !check_needed(kv, error) || !make_vm(kv, error) || !enable_ring(kv, error) ||
        !kvm_make_irqchip(kv, error) || !kvm_init_kicks(error)) {
        kvm_done(vm, kv);
        return false;
    }
    kv->tsc_base = measure_tsc_base(vm);
    kv->arch_ops.pv = &kvm_own_pv_ops;
    vm->accel_arch = &kv->arch_ops;
    *ret_state = kv;
    return true;
}

/* --- vCPUs ----------------------------------------------------------------- */

static void kvm_vcpu_free(struct vcpu *vcpu)
{
    struct kvm_cpu *c = kvm_cpu_of(vcpu);
    if (!c) {
        return;
    }
    kvm_unmap_ring(c);
    if (c->run) {
        munmap(c->run, c->kv->run_len);
    }
    if (c->fd >= 0) {
        close(c->fd);
    }
    g_free(c);
    vcpu->accel = NULL;
}

static bool map_run(struct kvm_cpu *c, GError **error)
{
    void *p = mmap(NULL, c->kv->run_len, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
    if (p == MAP_FAILED) {
        return error_errno(error, errno, "kvm_run");
    }
    c->run = p;
    return true;
}

static bool kvm_vcpu_new(struct vcpu *vcpu, GError **error)
{
    struct kvm_vm *kv = vcpu->vm->accel_state;
    struct kvm_cpu *c = g_new0(struct kvm_cpu, 1);
    vcpu->accel = c;
    c->vcpu = vcpu;
    c->kv = kv;
    c->fd = kvm_ioctl_n(kv->fd, KVM_CREATE_VCPU, vcpu->index);
    if (c->fd < 0) {
        error_errno(error, errno, "KVM_CREATE_VCPU");
        goto fail;
    }
    if (!map_run(c, error) || !kvm_map_ring(c, error) || !kvm_set_cpuid(c, error)) {
        goto fail;
    }
    kvm_probe_msrs(c);
    kvm_probe_tsc(c);
    return true;
fail:
    kvm_vcpu_free(vcpu);
    return false;
}

static bool kvm_irqs_open(struct vcpu *vcpu)
{
    return kvm_cpu_of(vcpu)->run->if_flag;
}

/* The counters that the kernel keeps of a vCPU, those that are not 0
 * (api.rst, KVM_GET_STATS_FD). */
static void dump_kernel_stats(struct kvm_cpu *c, FILE *out)
{
    struct kvm_stats_header h;
    int fd = kvm_ioctl_n(c->fd, KVM_GET_STATS_FD, 0);
    unsigned shown = 0;
    if (fd < 0) {
        return;
    }
    if (pread(fd, &h, sizeof(h), 0) != sizeof(h) || h.name_size > 256 ||
        h.num_desc > 1024) {
        close(fd);
        return;
    }
    size_t size = sizeof(struct kvm_stats_desc) + h.name_size;
    g_autofree char *d = g_malloc0(size + 1);
    for (unsigned i = 0; i < h.num_desc; i++) {
        const struct kvm_stats_desc *desc = (const void *)d;
        uint64_t value;
        if (pread(fd, d, size, h.desc_offset + i * size) != (ssize_t)size) {
            break;
        }
        if (desc->size != 1 ||
            pread(fd, &value, 8, h.data_offset + desc->offset) != 8 || !value) {
            continue;
        }
        fprintf(out, "%s%s %" PRIu64, shown++ ? ", " : "kvm: ", desc->name, value);
    }
    fputs(shown ? "\n" : "", out);
    close(fd);
}

static void kvm_dump(struct vcpu *vcpu, FILE *out)
{
    struct kvm_cpu *c = kvm_cpu_of(vcpu);
    fprintf(out,
            "kvm: kernel-irqchip=%s, %" PRIu64 " entries, %" PRIu64 " port and %" PRIu64
            " memory exits, last exit reason %u\n",
            irqchip_names[c->kv->irqchip], c->runs, c->insn_exits[0], c->insn_exits[1],
            c->run->exit_reason);
    dump_kernel_stats(c, out);
}

const struct accel_ops kvm_accel_ops = {
    .name = "kvm",
    .help = "the processor's own virtualization, through /dev/kvm",
    .props = options_table,
    .init = kvm_init,
    .done = kvm_done,
    .vcpu_new = kvm_vcpu_new,
    .vcpu_free = kvm_vcpu_free,
    .run = kvm_run_vcpu,
    .kick = kvm_kick,
    .get_state = kvm_get_state,
    .set_state = kvm_set_state,
    .map = kvm_map,
    .unmap = kvm_unmap,
    .irqs_open = kvm_irqs_open,
    .dirty = &kvm_dirty_ops,
    .events = &kvm_event_ops,
    .dump = kvm_dump,
};
