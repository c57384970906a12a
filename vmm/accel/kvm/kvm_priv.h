#ifndef VMM_ACCEL_KVM_KVM_PRIV_H
#define VMM_ACCEL_KVM_KVM_PRIV_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <glib.h>
#include <linux/kvm.h>

#include "lib/isa/x86/state.h"
#include "vmm/arch/x86/x86_accel.h"
#include "vmm/vm/vcpu.h"
#include "vmm/vm/vm.h"

/* What the files of this folder share. */

enum kvm_irqchip_mode { KVM_IRQCHIP_ON, KVM_IRQCHIP_SPLIT, KVM_IRQCHIP_OFF };

/* How a guest's TSC is set: kvm_state.c. */
enum kvm_tsc_way { KVM_TSC_KEPT, KVM_TSC_MSR, KVM_TSC_OFFSET };

enum { KVM_NB_PINS = 24 }; /* of the IOAPIC */

/* A slot of guest memory; free when len is 0. */
struct kvm_slot {
    uint64_t gpa, len;
    uint8_t *host;
    bool rom;
};

struct kvm_vm {
    struct vm *vm;

    /* Options. */
    char *device;
    unsigned irqchip; /* enum kvm_irqchip_mode */
    uint32_t ring_entries;

    int dev_fd; /* /dev/kvm */
    int fd;     /* the VM; -1 */
    int max_slots;
    size_t run_len; /* bytes of a vCPU's shared page */
    bool has_readonly, has_xcrs, has_debugregs;
    enum kvm_tsc_way tsc_way;
    uint64_t msrs; /* bit i: row i of kvm_state.c's table exists here */
    struct x86_accel_ops arch_ops;

    /* Guest TSC = host TSC + this + x86_state.msr.tsc_offset. */
    uint64_t tsc_base;

    GMutex lock;   /* guards what follows */
    GArray *slots; /* struct kvm_slot */
    bool logging;  /* stores are noticed */
    struct kvm_irq_routing *routing;
    struct x86_route {
        bool set;
        uint64_t addr;
        uint32_t data;
    } routes[KVM_NB_PINS];
};

struct kvm_cpu {
    struct vcpu *vcpu;
    struct kvm_vm *kv;
    int fd;
    struct kvm_run *run;        /* shared with the kernel */
    struct kvm_dirty_gfn *ring; /* NULL: there is none */
    uint32_t ring_at;           /* kv->lock */
    _Atomic pid_t tid;          /* the thread inside run(), 0: none */
    pid_t seen_tid;             /* whose signal mask was looked at */
    bool io_pending;            /* the last exit's access ends at the next KVM_RUN */
    enum x86_activity activity; /* not with local APICs in the kernel */
    uint64_t cr8, apic_base;    /* as the kernel was told or told; likewise */
    uint64_t insn_exits[2];     /* port and memory exits, for dump */
    uint64_t runs;              /* KVM_RUN calls */
};

static inline struct kvm_cpu *kvm_cpu_of(const struct vcpu *vcpu)
{
    return vcpu->accel;
}

/* Whether the local APICs are the kernel's. */
static inline bool kvm_has_apic(const struct kvm_vm *kv)
{
    return kv->irqchip != KVM_IRQCHIP_OFF;
}

/* ioctl that is repeated when a signal interrupts it: -1 with errno. */
int kvm_ioctl(int fd, unsigned long request, void *arg);
static inline int kvm_ioctl_n(int fd, unsigned long request, unsigned long n)
{
    return kvm_ioctl(fd, request, (void *)n);
}

/* kvm_mem.c */
bool kvm_map(struct vm *vm, const struct gmem_region *region, GError **error);
void kvm_unmap(struct vm *vm, const struct gmem_region *region);
/* Empty the rings of all vCPUs into the dirty bytes. Any thread. */
bool kvm_collect_rings(struct kvm_vm *kv, GError **error);
bool kvm_map_ring(struct kvm_cpu *c, GError **error);
void kvm_unmap_ring(struct kvm_cpu *c);
extern const struct accel_dirty_ops kvm_dirty_ops;

/* kvm_cpuid.c */
bool kvm_set_cpuid(struct kvm_cpu *c, GError **error);

/* kvm_state.c */
void kvm_probe_msrs(struct kvm_cpu *c);
void kvm_probe_tsc(struct kvm_cpu *c);
void kvm_get_state(struct vcpu *vcpu, void *ret_state);
bool kvm_set_state(struct vcpu *vcpu, const void *state, GError **error);
bool kvm_get_msr(struct kvm_cpu *c, uint32_t msr, uint64_t *ret);
bool kvm_set_msr(struct kvm_cpu *c, uint32_t msr, uint64_t value);

/* kvm_run.c */
bool kvm_init_kicks(GError **error);
enum vcpu_exit kvm_run_vcpu(struct vcpu *vcpu);
void kvm_kick(struct vcpu *vcpu);

/* kvm_irq.c */
bool kvm_make_irqchip(struct kvm_vm *kv, GError **error);
extern const struct x86_pv_ops kvm_own_pv_ops;
extern const struct accel_event_ops kvm_event_ops;

#endif
