#ifndef VMM_ACCEL_KVM_KVM_MACHINE_H
#define VMM_ACCEL_KVM_KVM_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/isa/x86/cpu_model.h"
#include "lib/isa/x86/state.h"
#include "vmm/vm/accel.h"
#include "vmm/vm/aspace.h"

/*
 * A machine for tests of any accelerator: RAM from address 0, one vCPU in a flat mode
 * of 16 (real), 32 or 64 bits, and two devices. Code at KM_CODE runs on the caller's
 * thread until it halts, dies or writes to port KM_STOP.
 *
 *   port KM_STOP  a write of 1, 2 or 4 bytes ends km_run(); m->stop_value is the value
 *   port KM_ECHO  8 ports, and memory at KM_MMIO: a byte read is the low byte of its
 *                 address; writes are kept in m->log
 *
 * 64-bit mode maps the first GiB and the one of KM_MMIO to themselves. The IVT of real
 * mode and an empty IDT of the others are at 0.
 */
#define KM_CODE  0x1000u
#define KM_STACK 0x8000u
#define KM_PML4  0x9000u
#define KM_DATA  0x10000u
#define KM_STOP  0x501
#define KM_ECHO  0x510
#define KM_MMIO  0xd0000000u

struct km_write {
    uint64_t off, value;
    unsigned len;
};

struct km {
    const struct accel_ops *ops;
    struct loop *loop;
    struct vm *vm;
    struct vcpu *vcpu;
    struct x86_cpu_model *model;
    uint8_t *ram;
    unsigned bits;
    struct x86_state s; /* loaded by run, and stored by it */
    uint32_t stop_value;
    struct km_write log[16];
    unsigned nb_log;
    struct io_region stop, echo, mmio;
};

/* @options: "k=v,..." of -accel, or NULL. NULL with @error. */
struct km *km_new(const struct accel_ops *ops, void (*features)(struct x86_featset *),
                  const char *options, unsigned bits, uint64_t ram, GError **error);
void km_free(struct km *m);

void km_code(struct km *m, const void *code, size_t len);
#define KM_ASM(m, ...)                         \
    do {                                       \
        const uint8_t code_[] = {__VA_ARGS__}; \
        km_code(m, code_, sizeof(code_));      \
    } while (0)

/* Run from m->s; m->s is the state after it. KICK: port KM_STOP. */
enum vcpu_exit km_run(struct km *m);

#endif
