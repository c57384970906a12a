#include "vmm/accel/kvm/kvm_priv.h"

#include <asm/kvm_para.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/base.h"
#include "vmm/accel/kvm/kvm.h"
#include "vmm/vm/clock.h"

/*
 * CPUID. KVM tells with KVM_GET_SUPPORTED_CPUID which feature bits a guest may see;
 * they bound the CPU model before it is made. A vCPU then gets the model's leaves as a
 * table. Bits that follow the guest (OSXSAVE, the APIC's enable) KVM keeps itself.
 *
 * Features whose registers struct x86_state cannot hold are left out, so that every
 * guest can be saved: AVX-512, protection keys, shadow stacks, nested virtualization.
 * Facts: Linux, Documentation/virt/kvm/api.rst and x86/cpuid.rst.
 */

enum { MAX_ENTRIES = 256 };

/* KVM's paravirtual leaf, EAX of 0x40000001. The others of its bits need registers
 * that struct x86_pv_regs does not have. */
#define PV_ALWAYS                                                      \
    (1u << KVM_FEATURE_NOP_IO_DELAY | 1u << KVM_FEATURE_CLOCKSOURCE2 | \
     1u << KVM_FEATURE_CLOCKSOURCE_STABLE_BIT)
#define PV_APIC                                               \
    (1u << KVM_FEATURE_PV_EOI | 1u << KVM_FEATURE_PV_UNHALT | \
     1u << KVM_FEATURE_PV_SEND_IPI | 1u << KVM_FEATURE_PV_SCHED_YIELD)

#define ECX_X2APIC       (1u << 21)
#define ECX_TSC_DEADLINE (1u << 24)

struct feat_place {
    uint32_t leaf, subleaf;
    uint8_t reg, bit;
};

#define FEAT_PLACE(id, text, l, s, r, b) [X86_FEAT_##id] = {l, s, X86_CPUID_##r, b},
static const struct feat_place places[X86_NB_FEATS] = {X86_FEATS(FEAT_PLACE)};

#define F(x) X86_FEAT_##x

static const uint8_t not_ours[] = {
    F(OSXSAVE),    F(VMX),        F(SMX),      F(SVM),        F(SKINIT),    F(MWAITX),
    F(MONITOR),    F(MPX),        F(PKU),      F(WAITPKG),    F(ARCH_CAPS), F(CET_IBT),
    F(CET_SS),     F(AVX512F),    F(AVX512DQ), F(AVX512CD),   F(AVX512BW),  F(AVX512VL),
    F(AVX512IFMA), F(AVX512VBMI), F(RTM),      X86_FEAT_NONE,
};

/* KVM does these itself whatever it says. */
static const uint8_t always[] = {F(HYPERVISOR), F(ARAT), X86_FEAT_NONE};

/* The table of KVM_GET_SUPPORTED_CPUID; NULL with errno. */
static struct kvm_cpuid2 *supported_cpuid(int dev_fd)
{
    for (unsigned n = MAX_ENTRIES; n <= 64 * MAX_ENTRIES; n *= 2) {
        struct kvm_cpuid2 *t = g_malloc0(sizeof(*t) + n * sizeof(t->entries[0]));
        t->nent = n;
        if (kvm_ioctl(dev_fd, KVM_GET_SUPPORTED_CPUID, t) == 0) {
            return t;
        }
        int err = errno;
        g_free(t);
        errno = err;
        if (err != E2BIG) {
            break;
        }
    }
    return NULL;
}

static uint32_t entry_reg(const struct kvm_cpuid_entry2 *e, unsigned reg)
{
    switch (reg) {
    case X86_CPUID_EAX: return e->eax;
    case X86_CPUID_EBX: return e->ebx;
    case X86_CPUID_ECX: return e->ecx;
    default: return e->edx;
    }
}

static bool is_supported(const struct kvm_cpuid2 *t, const struct feat_place *p)
{
    for (unsigned i = 0; i < t->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &t->entries[i];
        bool same =
            e->function == p->leaf &&
            (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == p->subleaf);
        if (same) {
            return entry_reg(e, p->reg) >> p->bit & 1;
        }
    }
    return false;
}

static void put_all(struct x86_featset *s, const uint8_t *feats, bool on)
{
    for (const uint8_t *f = feats; *f != X86_FEAT_NONE; f++) {
        x86_featset_put(s, *f, on);
    }
}

void kvm_features(struct x86_featset *ret)
{
    struct x86_featset host;
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    g_autofree struct kvm_cpuid2 *t = fd >= 0 ? supported_cpuid(fd) : NULL;
    x86_featset_host(&host);
    *ret = host;
    if (t) {
        for (unsigned f = 1; f < X86_NB_FEATS; f++) {
            x86_featset_put(ret, f, is_supported(t, &places[f]));
        }
        /* Older kernels offer these without saying so here. */
        if (kvm_ioctl_n(fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0) {
            x86_featset_put(ret, X86_FEAT_TSC_DEADLINE, true);
        }
        if (x86_featset_has(&host, X86_FEAT_INVTSC)) {
            x86_featset_put(ret, X86_FEAT_INVTSC, true); /* it is the host's counter */
        }
    }
    put_all(ret, always, true);
    put_all(ret, not_ours, false);
    if (fd >= 0) {
        close(fd);
    }
}

/* --- A vCPU's table -------------------------------------------------------- */

struct table {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entries[MAX_ENTRIES];
};

static struct kvm_cpuid_entry2 *add(struct table *t, uint32_t leaf)
{
    if (t->head.nent == MAX_ENTRIES) {
        return NULL;
    }
    struct kvm_cpuid_entry2 *e = &t->entries[t->head.nent++];
    e->function = leaf;
    return e;
}

static void add_model_leaf(struct table *t, const struct x86_cpu_model *m,
                           const struct x86_cpuid_env *env, uint32_t leaf,
                           uint32_t subleaf, bool indexed)
{
    struct x86_cpuid r = x86_cpuid(m, env, leaf, subleaf);
    struct kvm_cpuid_entry2 *e = add(t, leaf);
    if (!e) {
        return;
    }
    e->index = subleaf;
    e->flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
    e->eax = r.reg[X86_CPUID_EAX];
    e->ebx = r.reg[X86_CPUID_EBX];
    e->ecx = r.reg[X86_CPUID_ECX];
    e->edx = r.reg[X86_CPUID_EDX];
}

/* How many subleaves of @leaf a guest may ask for; 0: ECX does not matter. */
static unsigned nb_subleaves(uint32_t leaf)
{
    switch (leaf) {
    case 4: return 5;
    case 7: return 2;
    case 0xb: return 3;
    case 0x1f: return 4;
    case 0xd: return 3;
    case 0x8000001d: return 5;
    default: return 0;
    }
}

static void add_model(struct table *t, const struct x86_cpu_model *m,
                      const struct x86_cpuid_env *env)
{
    const uint32_t ranges[2][2] = {{0, m->max_leaf}, {0x80000000, m->max_ext_leaf}};
    for (unsigned r = 0; r < 2; r++) {
        for (uint32_t leaf = ranges[r][0]; leaf <= ranges[r][1]; leaf++) {
            unsigned n = nb_subleaves(leaf);
            for (unsigned i = 0; i < MAX(n, 1u); i++) {
                add_model_leaf(t, m, env, leaf, i, n > 0);
            }
        }
    }
}

static void add_pv(struct table *t, const struct kvm_cpuid2 *supported, bool has_apic)
{
    for (unsigned i = 0; i < supported->nent; i++) {
        const struct kvm_cpuid_entry2 *s = &supported->entries[i];
        if (s->function != KVM_CPUID_SIGNATURE && s->function != KVM_CPUID_FEATURES) {
            continue;
        }
        struct kvm_cpuid_entry2 *e = add(t, s->function);
        if (!e) {
            return;
        }
        *e = *s;
        if (s->function == KVM_CPUID_SIGNATURE) {
            e->eax = KVM_CPUID_FEATURES;
        } else {
            e->eax &= PV_ALWAYS | (has_apic ? PV_APIC : 0);
            e->edx = 0;
        }
    }
}

bool kvm_set_cpuid(struct kvm_cpu *c, GError **error)
{
    struct vm *vm = c->vcpu->vm;
    const struct x86_cpu_model *m = vm->cpu_model;
    g_autofree struct kvm_cpuid2 *supported = supported_cpuid(c->kv->dev_fd);
    g_autofree struct table *t = g_new0(struct table, 1);
    int khz = kvm_ioctl_n(c->fd, KVM_GET_TSC_KHZ, 0);
    struct x86_cpuid_env env = {
        .apic_id = c->vcpu->index,
        .xcr0 = X86_XCR0_X87,
        .apic_enabled = true,
        .tsc_khz = khz > 0 ? (uint32_t)khz : (uint32_t)vm_clock_tsc_khz(vm->clock),
    };
    if (!supported) {
        return error_errno(error, errno, "KVM_GET_SUPPORTED_CPUID");
    }
    add_model(t, m, &env);
    if (x86_cpu_has(m, X86_FEAT_HYPERVISOR)) {
        add_pv(t, supported, kvm_has_apic(c->kv));
    }
    for (unsigned i = 0; i < t->head.nent && !kvm_has_apic(c->kv); i++) {
        if (t->entries[i].function == 1) {
            t->entries[i].ecx &= ~(ECX_X2APIC | ECX_TSC_DEADLINE);
        }
    }
    return kvm_ioctl(c->fd, KVM_SET_CPUID2, t) == 0 ||
           error_errno(error, errno, "KVM_SET_CPUID2 of %u leaves", t->head.nent);
}
