#ifndef VMM_VM_VCPU_PRIV_H
#define VMM_VM_VCPU_PRIV_H

#include <stdbool.h>

#include <glib.h>

struct vm;
struct vcpu;

/* What vm.c does with its vCPUs. */

/* NULL with @error from the accelerator or the architecture. */
struct vcpu *vcpu_new(struct vm *vm, unsigned index, GError **error);
void vcpu_free(struct vcpu *vcpu); /* not running */

/* Start the thread; it parks at once when a stop is wanted. */
bool vcpu_start(struct vcpu *vcpu, GError **error);

/* End the thread at the next block boundary and join it. */
void vcpu_join(struct vcpu *vcpu);

/* The three steps of a stop: ask all, wait for all, let all go. */
void vcpu_want_stop(struct vcpu *vcpu);
void vcpu_wait_parked(struct vcpu *vcpu);
void vcpu_unpark(struct vcpu *vcpu);

/* What a vCPU's triple fault asks of the VM. Thread: the vCPU's. */
void vm_request_triple_fault(struct vm *vm, struct vcpu *vcpu);

#endif
