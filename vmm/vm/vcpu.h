#ifndef VMM_VM_VCPU_H
#define VMM_VM_VCPU_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <glib.h>

#include "vmm/vm/accel.h"
#include "vmm/vm/exit.h"

struct vm;

/*
 * A virtual CPU: one thread that runs its accelerator and decides what an exit
 * means. Devices are reached from that thread, through vcpu_mmio()/vcpu_pio().
 */

/* Bits of vcpu->attention: why a vCPU should look up from guest code. */
enum {
    VCPU_ATTN_IRQ = 1 << 0,   /* the interrupt controller may have something: the
                                 accelerator takes the bit, then asks it */
    VCPU_ATTN_STOP = 1 << 1,  /* vm_stop_all() or the end wants the thread parked */
    VCPU_ATTN_RESET = 1 << 2, /* INIT or board reset: arch decides */
    VCPU_ATTN_WORK = 1 << 3,  /* run the queued functions (vcpu_run_on) */
};

struct vcpu {
    struct vm *vm;
    unsigned index;
    GThread *thread;

    /* Set by any thread, cleared by the vCPU's. Accelerators test it for non-zero
     * at block boundaries. Release on set, acquire on test: what was written before
     * setting is visible to the vCPU that sees the bit. */
    _Atomic uint32_t attention;

    void *accel; /* the accelerator's own */
    void *arch;  /* the architecture's own: local interrupt controller, ... */

    struct exit_stat exits[VCPU_EXIT_COUNT];
    _Atomic uint64_t insns; /* guest instructions retired, where the accel counts */
    GError *error;          /* set with VCPU_EXIT_ERROR */

    /*
     * powered: false until the architecture starts it (secondary CPUs) and after a
     * shutdown cycle. halted: executed HLT and waits for arch->vcpu_has_work().
     * Both written on the vCPU's thread or while it is stopped, see
     * vcpu_set_powered(); read by any. An architecture saves them.
     */
    _Atomic bool powered;
    _Atomic bool halted;

    /* Sleep and park; only vcpu.c touches these. */
    _Atomic bool sleeping;    /* on cond: see the top of vcpu.c */
    GMutex lock;              /* guards what follows */
    GCond cond;               /* attention changed, or resume */
    GCond parked;             /* is_parked or a work's done changed */
    bool stop;                /* stay parked while it is set */
    bool quit;                /* end the thread */
    bool is_parked;           /* at a block boundary, not touching guest or devices */
    bool gone;                /* there is no thread (yet, or any more) */
    GQueue work;              /* struct vcpu_work, for vcpu_run_on() */
    bool has_accel, has_arch; /* what vcpu_free() has to undo */
};

/*
 * One load or store that left RAM / one port access, at most 8 bytes, done on
 * behalf of @vcpu on its thread: counted, timed, dispatched through the VM's
 * address spaces. Accelerators call these from inside run().
 */
uint64_t vcpu_mmio_read(struct vcpu *vcpu, uint64_t gpa, unsigned len);
void vcpu_mmio_write(struct vcpu *vcpu, uint64_t gpa, uint64_t value, unsigned len);
uint64_t vcpu_pio_read(struct vcpu *vcpu, uint16_t port, unsigned len);
void vcpu_pio_write(struct vcpu *vcpu, uint16_t port, uint64_t value, unsigned len);

/* Set @bits of attention and wake or kick the vCPU. Any thread, any lock held
 * except vcpu->lock. */
void vcpu_kick(struct vcpu *vcpu, uint32_t bits);

/* Clear @bits; returns those of them that were set. Thread: the vCPU's. */
static inline uint32_t vcpu_take_attention(struct vcpu *vcpu, uint32_t bits)
{
    return atomic_fetch_and_explicit(&vcpu->attention, ~bits, memory_order_acquire) &
           bits;
}

static inline bool vcpu_wants_attention(const struct vcpu *vcpu)
{
    return atomic_load_explicit(&vcpu->attention, memory_order_acquire) != 0;
}

/* Sleep until attention is wanted, at most @ns. Thread: the vCPU's, with guest code
 * not running. */
void vcpu_doze(struct vcpu *vcpu, uint64_t ns);

/* Switch the CPU on or off; not halted then. Thread: the vCPU's, or stopped. */
void vcpu_set_powered(struct vcpu *vcpu, bool powered);

/*
 * Run @fn on @vcpu's thread at a block boundary and wait for it. Not from a vCPU
 * thread other than its own (deadlock); from its own, @fn runs at once. A stopped
 * vCPU runs it too; before the start and after the end the caller's thread does.
 */
void vcpu_run_on(struct vcpu *vcpu, void (*fn)(struct vcpu *vcpu, void *opaque),
                 void *opaque);

/* -d cpu_reset: the registers before a reset. Thread: the vCPU's, or stopped. */
void vcpu_log_reset(struct vcpu *vcpu);

/* Write the registers (through the architecture) and the accelerator's dump.
 * Thread: the vCPU's, or any while it is stopped. */
void vcpu_dump(struct vcpu *vcpu, FILE *out);

#endif
