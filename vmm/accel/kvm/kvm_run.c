#include "vmm/accel/kvm/kvm_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "lib/base/base.h"
#include "vmm/arch/x86/lapic.h"

/*
 * Running a vCPU: KVM_RUN until it comes back with something for vcpu.c.
 *
 * Kicks. KVM_RUN ends early when kvm_run.immediate_exit is set at its start or when a
 * signal arrives in it. A kicker sets attention (vcpu_kick), then immediate_exit, then
 * sends the signal to the thread that is inside run(). The vCPU clears immediate_exit
 * first and looks at attention then: whatever the order, one of the three stops it.
 *
 * Accesses. The instruction behind a port or memory exit is finished by the next
 * KVM_RUN, so before run() returns for another reason that is called once with
 * immediate_exit set: the registers are whole only then.
 *
 * Interrupts, when the local APICs are lapic.c's: KVM_INTERRUPT queues a vector when
 * the kernel says that it can be taken at once; else an exit is asked for as soon as it
 * can. CR8 and APIC_BASE pass through kvm_run. With split controllers only the 8259's
 * interrupts come in this way. With all of them in the kernel none.
 *
 * Spec: Linux, Documentation/virt/kvm/api.rst, "The kvm_run structure".
 */

enum { KICK_SIGNAL = SIGUSR1 };

static void on_kick(int number)
{
    /* The point is that KVM_RUN ends with EINTR. */
}

bool kvm_init_kicks(GError **error)
{
    struct sigaction sa = {.sa_handler = on_kick};
    sigemptyset(&sa.sa_mask);
    return sigaction(KICK_SIGNAL, &sa, NULL) == 0 ||
           error_errno(error, errno, "signal %d", KICK_SIGNAL);
}

static void set_immediate(struct kvm_cpu *c, uint8_t on)
{
    __atomic_store_n(&c->run->immediate_exit, on, __ATOMIC_SEQ_CST);
}

void kvm_kick(struct vcpu *vcpu)
{
    struct kvm_cpu *c = kvm_cpu_of(vcpu);
    set_immediate(c, 1);
    pid_t tid = atomic_load(&c->tid);
    if (tid && tid != gettid()) {
        tgkill(getpid(), tid, KICK_SIGNAL);
    }
}

/* --- Exits ----------------------------------------------------------------- */

static uint64_t get_value(const uint8_t *data, unsigned len)
{
    uint64_t value = 0;
    memcpy(&value, data, len);
    return value;
}

static void on_pio(struct kvm_cpu *c)
{
    const struct kvm_run *run = c->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    unsigned len = run->io.size;
    for (uint32_t i = 0; i < run->io.count; i++, data += len) {
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            vcpu_pio_write(c->vcpu, run->io.port, get_value(data, len), len);
        } else {
            uint64_t value = vcpu_pio_read(c->vcpu, run->io.port, len);
            memcpy(data, &value, len);
        }
    }
    c->insn_exits[0]++;
    c->io_pending = true;
}

/* An access that crosses a page comes in pieces of any length up to 8. */
static void on_mmio(struct kvm_cpu *c)
{
    struct kvm_run *run = c->run;
    unsigned left = MIN(run->mmio.len, 8u);
    uint64_t gpa = run->mmio.phys_addr;
    uint8_t *data = run->mmio.data;
    while (left) {
        unsigned len = 1u << (31 - __builtin_clz(left));
        if (run->mmio.is_write) {
            vcpu_mmio_write(c->vcpu, gpa, get_value(data, len), len);
        } else {
            uint64_t value = vcpu_mmio_read(c->vcpu, gpa, len);
            memcpy(data, &value, len);
        }
        gpa += len;
        data += len;
        left -= len;
    }
    c->insn_exits[1]++;
    c->io_pending = true;
}

static uint64_t rip_of(struct kvm_cpu *c)
{
    struct kvm_regs regs = {0};
    kvm_ioctl(c->fd, KVM_GET_REGS, &regs);
    return regs.rip;
}

/* KVM gave up: say what it says. */
static enum vcpu_exit fail(struct kvm_cpu *c)
{
    static const char *const suberrors[] = {
        [KVM_INTERNAL_ERROR_EMULATION] = "an instruction that it cannot emulate",
        [KVM_INTERNAL_ERROR_SIMUL_EX] = "exceptions at the same time",
        [KVM_INTERNAL_ERROR_DELIVERY_EV] = "a fault while delivering an event",
        [KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON] = "an exit it does not know",
    };
    const struct kvm_run *run = c->run;
    GError **error = &c->vcpu->error;
    g_clear_error(error);
    switch (run->exit_reason) {
    case KVM_EXIT_FAIL_ENTRY:
        error_msg(error,
                  "vCPU %u: KVM: the processor refuses the guest's state, hardware "
                  "reason 0x%" PRIx64 ", rip 0x%" PRIx64,
                  c->vcpu->index,
                  (uint64_t)run->fail_entry.hardware_entry_failure_reason, rip_of(c));
        break;
    case KVM_EXIT_INTERNAL_ERROR: {
        g_autoptr(GString) bytes = g_string_new(NULL);
        const char *what = run->internal.suberror < ARRAY_LEN(suberrors)
                               ? suberrors[run->internal.suberror]
                               : NULL;
        if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION &&
            run->internal.ndata >= 4 &&
            (run->emulation_failure.flags &
             KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
            for (unsigned i = 0; i < MIN(run->emulation_failure.insn_size, 15); i++) {
                g_string_append_printf(bytes, "%s%02x", i ? " " : ", bytes ",
                                       run->emulation_failure.insn_bytes[i]);
            }
        }
        error_msg(error, "vCPU %u: KVM: internal error %u: %s, rip 0x%" PRIx64 "%s",
                  c->vcpu->index, run->internal.suberror, what ?: "unknown", rip_of(c),
                  bytes->str);
        break;
    }
    default:
        error_msg(error, "vCPU %u: KVM: exit reason %u is not handled, rip 0x%" PRIx64,
                  c->vcpu->index, run->exit_reason, rip_of(c));
    }
    return VCPU_EXIT_ERROR;
}

/* What the last KVM_RUN came back for. True: *ret is for vcpu.c. */
static bool take_exit(struct kvm_cpu *c, enum vcpu_exit *ret)
{
    switch (c->run->exit_reason) {
    case KVM_EXIT_IO: on_pio(c); return false;
    case KVM_EXIT_MMIO: on_mmio(c); return false;
    case KVM_EXIT_HLT: c->activity = X86_HALTED; return false;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_SET_TPR:
    case KVM_EXIT_INTR: return false;
    case KVM_EXIT_IOAPIC_EOI:
        lapic_broadcast_eoi(c->vcpu, c->run->eoi.vector);
        return false;
    case KVM_EXIT_DIRTY_RING_FULL:
        if (kvm_collect_rings(c->kv, &c->vcpu->error)) {
            return false;
        }
        *ret = VCPU_EXIT_ERROR;
        return true;
    case KVM_EXIT_SHUTDOWN:
        c->activity = X86_SHUTDOWN;
        *ret = VCPU_EXIT_SHUTDOWN;
        return true;
    case KVM_EXIT_DEBUG: *ret = VCPU_EXIT_DEBUG; return true;
    default: *ret = fail(c); return true;
    }
}

/* --- Interrupts ------------------------------------------------------------ */

/* Queue @v, which lapic.c or the 8259 has pending, or ask for a moment to do so. */
static void inject(struct kvm_cpu *c, int v)
{
    struct kvm_run *run = c->run;
    if (!run->ready_for_interrupt_injection || !run->if_flag) {
        run->request_interrupt_window = 1;
        return;
    }
    struct kvm_interrupt irq = {.irq = lapic_accept(c->vcpu, v)};
    kvm_ioctl(c->fd, KVM_INTERRUPT, &irq);
    run->ready_for_interrupt_injection = 0;
    exit_stat_add(&c->vcpu->exits[VCPU_EXIT_IRQ], 0);
}

/* False: the vCPU stays halted. */
static bool before_run_own_apic(struct kvm_cpu *c)
{
    struct vcpu *vcpu = c->vcpu;
    int v = lapic_pending_vector(vcpu);
    bool nmi = lapic_nmi_pending(vcpu);
    if (c->activity == X86_HALTED) {
        if (!nmi && !(v >= 0 && c->run->if_flag)) {
            return false;
        }
        c->activity = X86_ACTIVE;
    }
    if (nmi && lapic_take_nmi(vcpu)) {
        kvm_ioctl_n(c->fd, KVM_NMI, 0);
    }
    c->run->request_interrupt_window = 0;
    if (v >= 0) {
        inject(c, v);
    }
    c->run->cr8 = c->cr8 = lapic_get_cr8(vcpu);
    return true;
}

static void after_run_own_apic(struct kvm_cpu *c)
{
    if (c->run->cr8 != c->cr8) {
        lapic_set_cr8(c->vcpu, (unsigned)c->run->cr8);
    }
    if (c->run->apic_base != c->apic_base) {
        c->apic_base = c->run->apic_base;
        lapic_msr_write(c->vcpu, MSR_APIC_BASE, c->apic_base);
    }
}

static void before_run_split(struct kvm_cpu *c)
{
    c->run->request_interrupt_window = 0;
    if (lapic_intr_asserted(c->vcpu)) {
        inject(c, LAPIC_EXTINT);
    }
}

/* --- The loop -------------------------------------------------------------- */

/* False with vcpu->error: KVM_RUN failed. */
static bool enter(struct kvm_cpu *c)
{
    c->run->exit_reason = KVM_EXIT_INTR;
    c->runs++;
    int err = ioctl(c->fd, KVM_RUN, 0) < 0 ? errno : 0;
    c->io_pending = false;
    if (!kvm_has_apic(c->kv)) {
        after_run_own_apic(c);
    }
    if (err == EINTR || err == EAGAIN) {
        c->run->exit_reason = KVM_EXIT_INTR;
        return true;
    }
    if (err && c->run->exit_reason != KVM_EXIT_DIRTY_RING_FULL) {
        g_clear_error(&c->vcpu->error);
        return error_errno(&c->vcpu->error, err,
                           "vCPU %u: KVM_RUN, exit reason %u, rip 0x%" PRIx64,
                           c->vcpu->index, c->run->exit_reason, rip_of(c));
    }
    return true;
}

/* One turn. True: run() returns *ret. */
static bool turn(struct kvm_cpu *c, enum vcpu_exit *ret)
{
    set_immediate(c, 0);
    if (unlikely(vcpu_wants_attention(c->vcpu))) {
        vcpu_take_attention(c->vcpu, VCPU_ATTN_IRQ);
        if (vcpu_wants_attention(c->vcpu)) {
            *ret = VCPU_EXIT_KICK;
            return true;
        }
    }
    if (unlikely(c->activity == X86_SHUTDOWN)) {
        *ret = VCPU_EXIT_SHUTDOWN;
        return true;
    }
    if (c->kv->irqchip == KVM_IRQCHIP_SPLIT) {
        before_run_split(c);
    } else if (c->kv->irqchip == KVM_IRQCHIP_OFF && !before_run_own_apic(c)) {
        *ret = VCPU_EXIT_HLT;
        return true;
    }
    if (!enter(c)) {
        *ret = VCPU_EXIT_ERROR;
        return true;
    }
    return take_exit(c, ret);
}

/* Let KVM finish the access that it came back for last. */
static void finish_access(struct kvm_cpu *c)
{
    enum vcpu_exit ignored;
    while (c->io_pending) {
        set_immediate(c, 1);
        if (!enter(c)) {
            g_clear_error(&c->vcpu->error);
            break;
        }
        take_exit(c, &ignored); /* the access went on: its next piece */
    }
}

static void enter_thread(struct kvm_cpu *c)
{
    pid_t tid = gettid();
    if (tid != c->seen_tid) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, KICK_SIGNAL);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        c->seen_tid = tid;
    }
    atomic_store(&c->tid, tid);
}

enum vcpu_exit kvm_run_vcpu(struct vcpu *vcpu)
{
    struct kvm_cpu *c = kvm_cpu_of(vcpu);
    enum vcpu_exit ret = VCPU_EXIT_ERROR;
    enter_thread(c);
    while (!turn(c, &ret)) {
    }
    finish_access(c);
    atomic_store(&c->tid, 0);
    return ret;
}
