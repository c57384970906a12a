#ifndef VMM_ARCH_X86_LAPIC_H
#define VMM_ARCH_X86_LAPIC_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

#include "vmm/arch/x86/x86_vcpu.h"
#include "vmm/vm/irq.h"

struct vm;
struct state_table;

/*
 * The local APIC of each vCPU: xAPIC registers in memory and x2APIC registers as
 * MSRs, inter-processor interrupts, the APIC timer, and the border over which
 * interrupts reach the accelerator. Intel SDM vol. 3 chapter "APIC", AMD64 APM
 * vol. 2 chapter 16.
 *
 * Threads. Any thread may deliver (lapic_set_irr, lapic_deliver, lapic_msi, the
 * LINT lines): no lock is taken for a fixed interrupt. Register accesses, accept
 * and EOI are the vCPU's own thread. IRR is an atomic bitmap: a sender sets the
 * bit, then looks at the published processor priority and kicks the vCPU only when
 * the vector could be taken now; the vCPU publishes a lowered priority first and
 * looks at IRR then, so one of the two always sees the other.
 *
 * How an accelerator uses it, on the vCPU's thread:
 *
 *   vcpu_take_attention(vcpu, VCPU_ATTN_IRQ) at a block boundary, and whenever
 *   interrupts become possible (STI, POPF, IRET, CR8 or TPR lowered, EOI):
 *     if (lapic_nmi_pending(vcpu) && NMIs are open)
 *         lapic_take_nmi(vcpu), deliver vector 2
 *     else if (IF && !shadow && (v = lapic_pending_vector(vcpu)) >= 0)
 *         deliver lapic_accept(vcpu, v)
 *
 * EOI and TPR writes that open the way for something pending set VCPU_ATTN_IRQ on
 * the own vCPU, so nothing special is needed after them.
 */

#define LAPIC_BASE 0xfee00000u
/* The window of message-signalled interrupts; its first page is the registers. */
#define LAPIC_WINDOW 0x100000u

/* lapic_pending_vector(): the 8259 asks; lapic_accept() finds out which vector. */
#define LAPIC_EXTINT 256

/* MSRs that lapic_msr_read/write answer. */
#define MSR_APIC_BASE    0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC_FIRST 0x800u
#define MSR_X2APIC_LAST  0x8ffu

/* Timer ticks of the APIC bus clock per second, before the divide register. */
#define LAPIC_BUS_HZ UINT64_C(1000000000)

struct lapic;

/*
 * Make the LAPIC of @vcpu, APIC ID = vcpu->index, in the state after power-on.
 * The caller stores it in vcpu->arch. free: main thread, vCPU stopped.
 */
struct lapic *lapic_new(struct vcpu *vcpu);
void lapic_free(struct lapic *l);

static inline struct lapic *lapic_of(const struct vcpu *vcpu)
{
    return x86_vcpu_of(vcpu)->lapic;
}

/*
 * What CPUID promises of the APIC; without it the MSRs and bits raise #GP. Both are
 * on after lapic_new(). Thread: vCPU stopped.
 */
void lapic_set_features(struct vcpu *vcpu, bool x2apic, bool tsc_deadline);

/* The processor model's physical address bits, 32..52; the architecture's after
 * lapic_new(). Thread: vCPU stopped. */
void lapic_set_phys_bits(struct vcpu *vcpu, unsigned bits);

/*
 * Put the register page and the message window of all vCPUs at LAPIC_BASE of
 * vm->mmio. Each vCPU sees its own registers there while its APIC_BASE says enabled,
 * xAPIC and the default address; writes by others than vCPUs, or past the first
 * page, are messages. Once per VM, before the start; vCPUs exist.
 */
bool lapic_map(struct vm *vm, GError **error);

/*
 * An access of @vcpu, at most 4 bytes, to the register page where its APIC_BASE has
 * moved it: for accelerators to ask before they go to vm->mmio. False: not there.
 * Thread: the vCPU's.
 */
bool lapic_moved_read(struct vcpu *vcpu, uint64_t gpa, unsigned len, uint64_t *ret);
bool lapic_moved_write(struct vcpu *vcpu, uint64_t gpa, uint64_t value);

/* What the board connects to every LAPIC of @vm; NULL functions are allowed. */
struct lapic_board {
    /* A level-triggered @vector was ended on a LAPIC: the IOAPICs look. */
    void (*eoi)(void *opaque, uint8_t vector);
    void *eoi_opaque;
    /* INTA cycle to the 8259 pair: its vector, 0..255. */
    int (*extint_ack)(void *opaque);
    void *extint_opaque;
};
void lapic_connect(struct vm *vm, const struct lapic_board *board);

/*
 * The processor's interrupt pins of @vcpu: input 0 is LINT0/INTR (the 8259's
 * output), 1 is LINT1/NMI. Levels; any thread.
 */
struct irq_line lapic_lint(struct vcpu *vcpu, unsigned input);

/* State after power-on (vCPU stopped), and after INIT (the APIC ID, APIC_BASE and
 * the lines stay; thread: the vCPU's). */
void lapic_reset(struct vcpu *vcpu);
void lapic_init_reset(struct vcpu *vcpu);

/*
 * What firmware leaves behind, for boards that start a kernel without any:
 * software-enabled, LINT0 = ExtINT and LINT1 = NMI on the first vCPU (virtual wire
 * mode, MultiProcessor Specification 1.4, 3.6.2.2). vCPU stopped, after reset.
 */
void lapic_set_virtual_wire(struct vcpu *vcpu);

/* ---- MSRs and the task priority. Thread: the vCPU's. ---- */

/*
 * Read / write an MSR of the list above. False: #GP(0). A write of EOI, TPR or ICR
 * acts at once.
 */
bool lapic_msr_read(struct vcpu *vcpu, uint32_t msr, uint64_t *ret);
bool lapic_msr_write(struct vcpu *vcpu, uint32_t msr, uint64_t value);

/* CR8: bits 7:4 of the TPR as 0..15. set ignores bits above; the accelerator has
 * raised #GP for those. */
unsigned lapic_get_cr8(struct vcpu *vcpu);
void lapic_set_cr8(struct vcpu *vcpu, unsigned cr8);

/* ---- Taking interrupts. Thread: the vCPU's. ---- */

/*
 * The highest vector that may be delivered now if EFLAGS.IF allows, LAPIC_EXTINT
 * for the 8259, or -1. Some nanoseconds.
 */
int lapic_pending_vector(struct vcpu *vcpu);

/*
 * Take @vector, which lapic_pending_vector() just returned: IRR to ISR, or the INTA
 * cycle of the 8259. Returns the vector to deliver, 0..255.
 */
unsigned lapic_accept(struct vcpu *vcpu, int vector);

/* End the highest interrupt in service, as a write to the EOI register. */
void lapic_eoi(struct vcpu *vcpu);

/* One NMI may be pending. take clears it. pending: any thread. */
/* An SMI waits, see struct x86_smm_ops; one is kept while in SMM. */
bool lapic_smi_pending(const struct vcpu *vcpu);
bool lapic_take_smi(struct vcpu *vcpu);

bool lapic_nmi_pending(const struct vcpu *vcpu);
bool lapic_take_nmi(struct vcpu *vcpu);

/*
 * INIT and STARTUP messages. They set VCPU_ATTN_RESET; arch_ops
 * .vcpu_attention_reset takes them, INIT first:
 *   INIT  reset the registers; lapic_init_reset(); a secondary vCPU then waits for
 *         SIPI, the first one starts at the reset vector
 *   SIPI  ignored unless waiting; else starts at CS = vector << 8, IP = 0
 */
enum {
    LAPIC_INIT = 1 << 0,
    LAPIC_SIPI = 1 << 1,
};
/* Clear and return what is pending; *ret_vector is written with LAPIC_SIPI. */
unsigned lapic_take_start(struct vcpu *vcpu, uint8_t *ret_vector);

/*
 * Whether a halted vCPU should look up: NMI, INIT, SIPI, or with @irq_enabled
 * (EFLAGS.IF) a deliverable vector.
 */
bool lapic_has_work(struct vcpu *vcpu, bool irq_enabled);

/*
 * For a halted vCPU that waits for its own timer: the guest time of its next
 * interrupt, UINT64_MAX when there is none; and raise that interrupt if the time has
 * come. Thread: the vCPU's.
 */
uint64_t lapic_timer_deadline_ns(struct vcpu *vcpu);
void lapic_timer_poll(struct vcpu *vcpu);

/* ---- Delivering. Any thread, any device lock held. ---- */

/*
 * A fixed interrupt for @vcpu: set @vector in IRR (and TMR by @level). Dropped when
 * its APIC is disabled; @vector below 16 is recorded in ESR. Returns whether the bit
 * was new: false means it merged with one not yet taken, or was dropped.
 */
bool lapic_set_irr(struct vcpu *vcpu, unsigned vector, bool level);

/* Delivery modes, as encoded in ICR, LVT, redirection entries and MSI data. */
enum lapic_mode {
    LAPIC_MODE_FIXED = 0,
    LAPIC_MODE_LOWEST = 1,
    LAPIC_MODE_SMI = 2,
    LAPIC_MODE_NMI = 4,
    LAPIC_MODE_INIT = 5,
    LAPIC_MODE_SIPI = 6,
    LAPIC_MODE_EXTINT = 7,
};

/* A message on the APIC bus, as an IOAPIC or an MSI sends it. */
struct lapic_msg {
    uint32_t dest; /* 8 bits, or 32 when x2apic */
    bool logical;
    bool x2apic; /* dest is an x2APIC destination; all ones means everybody */
    bool level;
    enum lapic_mode mode;
    uint8_t vector;
};

/* Returns how many vCPUs accepted the message. */
unsigned lapic_deliver(struct vm *vm, const struct lapic_msg *msg);

/* An MSI write of @data to @addr in [LAPIC_BASE, LAPIC_BASE + LAPIC_WINDOW). */
unsigned lapic_msi(struct vm *vm, uint64_t addr, uint32_t data);

/* ---- With local APICs that the accelerator has (vmm/arch/x86/x86_accel.h) ---- */

/* What pin @pin of the board's IOAPIC sends now, NULL: nothing. Any thread. */
void lapic_route(struct vm *vm, unsigned pin, const struct lapic_msg *msg);

/* A level-triggered @vector was ended: tell the board. Thread: the vCPU's. */
void lapic_broadcast_eoi(struct vcpu *vcpu, uint8_t vector);

/* Whether the 8259's output is high; lapic_accept(LAPIC_EXTINT) is its INTA cycle. */
bool lapic_intr_asserted(const struct vcpu *vcpu);

/* ---- KVM's paravirtual EOI (vmm/arch/x86/kvm_pv.c). Thread: the vCPU's. ---- */

/*
 * Guest-physical address of the EOI byte, or 0 to switch it off. When the bit is
 * set there the guest may end its interrupt by clearing it.
 */
void lapic_set_pv_eoi(struct vcpu *vcpu, uint64_t gpa);

/* ---- Save and load. vCPU stopped. ---- */

/* The table whose object is the struct lapic; load re-arms the timer. */
extern const struct state_table lapic_state;

#endif
