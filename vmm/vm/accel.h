#ifndef VMM_VM_ACCEL_H
#define VMM_VM_ACCEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <glib.h>
#include <jansson.h>

#include "vmm/vm/exit.h"

struct prop;
struct vm;
struct vcpu;
struct gmem_region;

/*
 * Who wrote which page of RAM. Without this group (NULL) the accelerator marks the
 * regions' dirty bytes itself as it executes.
 *
 * start: from now on notice stores of the guest; sync: add what was stored since the
 * last sync to the dirty bytes of the regions; stop: notice no more. Thread: main;
 * vCPUs may run.
 */
struct accel_dirty_ops {
    bool (*start)(struct vm *vm, GError **error);
    bool (*sync)(struct vm *vm, GError **error);
    void (*stop)(struct vm *vm);
};

/* A store of the guest that signals an eventfd and is otherwise dropped. */
struct accel_doorbell {
    bool is_port;
    unsigned len; /* 1, 2, 4, 8; 0: any */
    bool match;   /* only a store of @value; needs a len */
    uint64_t addr, value;
    int fd;
};

/*
 * Eventfds in place of exits and interrupt lines; NULL: the accelerator has none.
 * false with @error also where the options that were chosen rule it out. Thread: main.
 */
struct accel_event_ops {
    bool (*doorbell)(struct vm *vm, const struct accel_doorbell *bell, bool on,
                     GError **error);
    /* A signal on @fd is an edge on global interrupt @gsi. With @resample_fd >= 0 it
     * is a level, dropped at the guest's EOI, which signals that fd. */
    bool (*irqfd)(struct vm *vm, unsigned gsi, int fd, int resample_fd, bool on,
                  GError **error);
};

/*
 * The border between the virtual machine and what executes guest code.
 *
 * Three providers: vmm/accel/kvm (hardware), vmm/accel/bt (the software CPU) and
 * vmm/accel/script (no CPU: a text file does the accesses). Everything above sees
 * only this; nothing above knows how the CPU is made, and nothing here or above in
 * vmm/vm says a word of x86.
 *
 * An accelerator reaches devices only through vcpu_mmio() and vcpu_pio() of
 * vmm/vm/vcpu.h, on the vCPU's own thread, so that every interception is counted
 * and timed in one place. run() returns only for what the vCPU loop must decide.
 */
struct accel_ops {
    const char *name;         /* as in -accel NAME */
    const char *help;         /* one line for -accel help */
    const struct prop *props; /* its options, for -accel NAME,help; NULL: not told */

    /*
     * Prepare @vm for this accelerator; @options are the k=v of -accel as JSON
     * strings, borrowed. On success *ret_state is passed to done().
     */
    bool (*init)(struct vm *vm, const json_t *options, void **ret_state,
                 GError **error);
    void (*done)(struct vm *vm, void *state);

    /* Create / destroy what executes @vcpu. Thread: the main one, before it runs. */
    bool (*vcpu_new)(struct vcpu *vcpu, GError **error);
    void (*vcpu_free)(struct vcpu *vcpu);

    /*
     * Execute guest code until something happens that the vCPU loop must decide:
     * HLT, KICK, SHUTDOWN, DEBUG or ERROR. A pending vcpu->attention makes it
     * return KICK at the next block boundary at the latest. Thread: the vCPU's.
     */
    enum vcpu_exit (*run)(struct vcpu *vcpu);

    /*
     * Make a running vCPU look at vcpu->attention soon (already set by the
     * caller). Any thread; NULL when polling the word is enough.
     */
    void (*kick)(struct vcpu *vcpu);

    /*
     * Copy the whole architectural state out of / into the accelerator, in the
     * canonical form of lib/isa (struct x86_state for x86), whatever the
     * accelerator: a VM saved under bt loads under kvm. set returns false with
     * @error naming the field that it cannot represent. Thread: the vCPU's, or any
     * while the vCPU is stopped.
     */
    void (*get_state)(struct vcpu *vcpu, void *ret_state);
    bool (*set_state)(struct vcpu *vcpu, const void *state, GError **error);

    /*
     * Guest memory changed: @region was added (which may be refused), or removed and
     * its memory is about to go. Thread: that of gmem_add() and gmem_remove(). Both
     * or none; NULL when the accelerator walks struct gmem itself.
     */
    bool (*map)(struct vm *vm, const struct gmem_region *region, GError **error);
    void (*unmap)(struct vm *vm, const struct gmem_region *region);

    /*
     * Bytes [gpa, gpa + len) of RAM were written from outside the vCPUs (DMA, a
     * loader) where the region's code bitmap says that code was cached from them.
     * Any thread. NULL when the hardware keeps its caches coherent.
     */
    void (*invalidate)(struct vm *vm, uint64_t gpa, uint64_t len);

    /* Whether @vcpu's own mask lets interrupts in: what arch asks of a halted one.
     * NULL: it looks at the whole state. Thread: the vCPU's. */
    bool (*irqs_open)(struct vcpu *vcpu);

    const struct accel_dirty_ops *dirty;
    const struct accel_event_ops *events;

    /* Counters and last instructions, for -d and a dump on error. NULL: nothing. */
    void (*dump)(struct vcpu *vcpu, FILE *out);

    /* The counters as a JSON object, the caller's. Any thread; while the vCPU runs they
     * may be a moment old. NULL: none. */
    json_t *(*stats)(struct vcpu *vcpu);
};

#endif
