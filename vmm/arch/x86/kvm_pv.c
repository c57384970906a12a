/*
 * KVM's paravirtual interface: identification leaves, kvmclock, PV EOI.
 *
 * kvmclock, per vCPU, at the address the guest wrote to MSR_KVM_SYSTEM_TIME:
 *
 *    0  u32 version         odd while being written
 *    8  u64 tsc_timestamp   guest TSC at the anchor
 *   16  u64 system_time     guest nanoseconds at the anchor
 *   24  u32 mul, 28 s8 shift, 29 u8 flags
 *
 *   now = system_time + (((rdtsc - tsc_timestamp) << shift) * mul >> 32)
 *
 * All vCPUs publish the same anchor, so that readings on different vCPUs differ by
 * nothing but the TSC, which is one counter here: that is what the "stable" flag
 * promises. The anchor is kept with the first vCPU and taken anew when guest time
 * and TSC have moved apart (the VM stood still).
 *
 * The wall clock is 12 bytes: version, seconds and nanoseconds of the moment when
 * system time was 0.
 */
#include "vmm/arch/x86/kvm_pv.h"

#include <string.h>

#include <glib.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/arch/x86/lapic.h"
#include "vmm/arch/x86/x86_accel.h"
#include "vmm/vm/clock.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/state.h"
#include "vmm/vm/vm.h"

#define NS_PER_S UINT64_C(1000000000)

/* CPUID 0x40000001 EAX. */
#define FEATURE_NOP_IO_DELAY  (1u << 1)
#define FEATURE_CLOCKSOURCE2  (1u << 3)
#define FEATURE_PV_EOI        (1u << 6)
#define FEATURE_CLOCK_STABLE  (1u << 24)
#define CLOCK_FLAG_TSC_STABLE 1

/* Guest time and anchored time that differ by more than this need a new anchor. */
#define ANCHOR_SLACK_NS 1000000

struct kvm_pv {
    struct vcpu *vcpu;
    uint64_t wall_clock; /* MSRs as written */
    uint64_t system_time;
    uint64_t pv_eoi;

    /* The first vCPU's: the VM's anchor. */
    GMutex lock;
    bool anchored;
    uint64_t anchor_tsc; /* vm_clock_tsc() */
    uint64_t anchor_ns;  /* vm_clock_ns() */
};

static struct kvm_pv *kvm_pv_of(const struct vcpu *vcpu)
{
    return x86_vcpu_of(vcpu)->pv;
}

struct kvm_pv *kvm_pv_new(struct vcpu *vcpu)
{
    struct kvm_pv *pv = g_new0(struct kvm_pv, 1);
    pv->vcpu = vcpu;
    g_mutex_init(&pv->lock);
    return pv;
}

void kvm_pv_free(struct kvm_pv *pv)
{
    if (pv) {
        g_mutex_clear(&pv->lock);
        g_free(pv);
    }
}

/* Hand the registers to an accelerator that serves them itself. False: there is none.
 */
static bool kvm_pv_hand_over(struct kvm_pv *pv)
{
    const struct x86_pv_ops *ops = x86_accel_pv(pv->vcpu->vm);
    if (ops) {
        ops->set(pv->vcpu, &(struct x86_pv_regs){.wall_clock = pv->wall_clock,
                                                 .system_time = pv->system_time,
                                                 .pv_eoi = pv->pv_eoi});
    }
    return ops;
}

void kvm_pv_reset(struct vcpu *vcpu)
{
    struct kvm_pv *pv = kvm_pv_of(vcpu);
    if (pv) {
        pv->wall_clock = pv->system_time = pv->pv_eoi = 0;
        if (!kvm_pv_hand_over(pv)) {
            lapic_set_pv_eoi(vcpu, 0);
        }
    }
}

bool kvm_pv_cpuid(const struct vcpu *vcpu, uint32_t leaf, uint32_t ret[4])
{
    if (!kvm_pv_of(vcpu)) {
        return false;
    }
    switch (leaf) {
    case 0x40000000:
        ret[0] = KVM_PV_CPUID_LAST;
        ret[1] = 0x4b4d564b; /* "KVMKVMKVM\0\0\0" */
        ret[2] = 0x564b4d56;
        ret[3] = 0x0000004d;
        return true;
    case 0x40000001:
        ret[0] = FEATURE_NOP_IO_DELAY | FEATURE_CLOCKSOURCE2 | FEATURE_PV_EOI |
                 FEATURE_CLOCK_STABLE;
        ret[1] = ret[2] = ret[3] = 0;
        return true;
    }
    return false;
}

/*
 * @khz as the pair that turns cycles into nanoseconds: shift so that the rate lies
 * in (1, 2] GHz, then mul = 10^9 * 2^32 / rate fits 32 bits with all its precision.
 */
static void kvm_pv_scale(uint64_t khz, uint32_t *ret_mul, int8_t *ret_shift)
{
    uint64_t hz = khz * 1000;
    int8_t shift = 0;
    if (hz == 0) {
        hz = NS_PER_S;
    }
    while (hz > 2 * NS_PER_S) {
        hz >>= 1;
        shift--;
    }
    while (hz <= NS_PER_S) {
        hz <<= 1;
        shift++;
    }
    *ret_mul = (uint64_t)(((unsigned __int128)NS_PER_S << 32) / hz);
    *ret_shift = shift;
}

static void kvm_pv_anchor(struct vm *vm, uint64_t *ret_tsc, uint64_t *ret_ns)
{
    struct kvm_pv *first = kvm_pv_of(vm->vcpus[0]);
    g_mutex_lock(&first->lock);
    uint64_t tsc = vm_clock_tsc(vm->clock);
    uint64_t ns = vm_clock_ns(vm->clock);
    uint64_t khz = vm_clock_tsc_khz(vm->clock);
    uint64_t gone = (uint64_t)((unsigned __int128)(tsc - first->anchor_tsc) * 1000000 /
                               (khz ? khz : 1));
    int64_t apart = (int64_t)(ns - (first->anchor_ns + gone));
    if (!first->anchored || apart > ANCHOR_SLACK_NS || apart < -ANCHOR_SLACK_NS) {
        first->anchored = true;
        first->anchor_tsc = tsc;
        first->anchor_ns = ns;
    }
    *ret_tsc = first->anchor_tsc;
    *ret_ns = first->anchor_ns;
    g_mutex_unlock(&first->lock);
}

/* Write @buf, whose first 4 bytes are a version, so that a reader who sees the same
 * even version before and after has read it whole. */
static void kvm_pv_publish(struct vm *vm, uint64_t gpa, uint8_t *buf, size_t len)
{
    uint8_t old[4];
    if (gmem_read(vm->gmem, gpa, old, 4)) {
        return; /* not RAM: the guest's own fault, nothing to tell it with */
    }
    uint32_t version = (le32_get(old) | 1) + 2;
    le32_put(buf, version);
    gmem_write(vm->gmem, gpa, buf, 4);
    atomic_thread_fence(memory_order_release);
    gmem_write(vm->gmem, gpa + 4, buf + 4, len - 4);
    atomic_thread_fence(memory_order_release);
    le32_put(buf, version + 1);
    gmem_write(vm->gmem, gpa, buf, 4);
}

static void kvm_pv_write_time(struct kvm_pv *pv)
{
    struct vm *vm = pv->vcpu->vm;
    int64_t offset = x86_vcpu_of(pv->vcpu)->tsc_offset;
    uint8_t buf[32] = {0};
    uint64_t tsc, ns;
    uint32_t mul;
    int8_t shift;
    if (!(pv->system_time & 1)) {
        return;
    }
    kvm_pv_anchor(vm, &tsc, &ns);
    kvm_pv_scale(vm_clock_tsc_khz(vm->clock), &mul, &shift);
    le64_put(buf + 8, tsc + offset);
    le64_put(buf + 16, ns);
    le32_put(buf + 24, mul);
    buf[28] = shift;
    /* Linux reads one vCPU's page on all of them when the flag is set: true only
     * while their TSCs are the same. */
    buf[29] = offset == 0 ? CLOCK_FLAG_TSC_STABLE : 0;
    kvm_pv_publish(vm, pv->system_time & ~UINT64_C(1), buf, sizeof(buf));
}

static void kvm_pv_write_wall(struct kvm_pv *pv)
{
    struct vm *vm = pv->vcpu->vm;
    uint64_t start = vm_clock_wall_ns(vm->clock) - vm_clock_ns(vm->clock);
    uint8_t buf[12];
    le32_put(buf + 4, start / NS_PER_S);
    le32_put(buf + 8, start % NS_PER_S);
    kvm_pv_publish(vm, pv->wall_clock, buf, sizeof(buf));
}

void kvm_pv_refresh(struct vcpu *vcpu)
{
    struct kvm_pv *pv = kvm_pv_of(vcpu);
    if (pv && !x86_accel_pv(vcpu->vm)) {
        kvm_pv_write_time(pv);
    }
}

bool kvm_pv_msr_read(struct vcpu *vcpu, uint32_t msr, uint64_t *ret)
{
    struct kvm_pv *pv = kvm_pv_of(vcpu);
    if (!pv) {
        return false;
    }
    switch (msr) {
    case MSR_KVM_WALL_CLOCK: *ret = pv->wall_clock; return true;
    case MSR_KVM_SYSTEM_TIME: *ret = pv->system_time; return true;
    case MSR_KVM_PV_EOI: *ret = pv->pv_eoi; return true;
    }
    return false;
}

bool kvm_pv_msr_write(struct vcpu *vcpu, uint32_t msr, uint64_t value, bool *ret_gp)
{
    struct kvm_pv *pv = kvm_pv_of(vcpu);
    *ret_gp = false;
    if (!pv) {
        return false;
    }
    switch (msr) {
    case MSR_KVM_WALL_CLOCK:
        pv->wall_clock = value;
        kvm_pv_write_wall(pv);
        return true;
    case MSR_KVM_SYSTEM_TIME:
        pv->system_time = value;
        kvm_pv_write_time(pv);
        return true;
    case MSR_KVM_PV_EOI:
        if (value & 2) {
            *ret_gp = true;
            return true;
        }
        pv->pv_eoi = value;
        lapic_set_pv_eoi(vcpu, value & 1 ? value & ~UINT64_C(3) : 0);
        return true;
    }
    return false;
}

static bool kvm_pv_post_load(void *object, unsigned version, GError **error)
{
    struct kvm_pv *pv = object;
    if (pv->pv_eoi & 2) {
        return error_msg(error, "kvm-pv: pv_eoi: reserved bit 1 is set");
    }
    if (!kvm_pv_hand_over(pv)) {
        kvm_pv_write_time(pv);
    }
    return true;
}

static void kvm_pv_pre_save(void *object)
{
    struct kvm_pv *pv = object;
    const struct x86_pv_ops *ops = x86_accel_pv(pv->vcpu->vm);
    struct x86_pv_regs regs;
    if (ops) {
        ops->get(pv->vcpu, &regs);
        pv->wall_clock = regs.wall_clock;
        pv->system_time = regs.system_time;
        pv->pv_eoi = regs.pv_eoi;
    }
}

static const struct state_field kvm_pv_fields[] = {
    STATE_FIELD(U64, struct kvm_pv, wall_clock),
    STATE_FIELD(U64, struct kvm_pv, system_time),
    STATE_FIELD(U64, struct kvm_pv, pv_eoi),
    {0},
};

const struct state_table kvm_pv_state = {
    .name = "kvm-pv",
    .version = 1,
    .fields = kvm_pv_fields,
    .pre_save = kvm_pv_pre_save,
    .post_load = kvm_pv_post_load,
};
