#ifndef VMM_ACCEL_BT_T0_LOG_H
#define VMM_ACCEL_BT_T0_LOG_H

#include "vmm/accel/bt/t0_priv.h"

/*
 * -d of the software CPU; see t0_log.c. The machine's log is vcpu->vm->log; who calls
 * the first two has looked that there is one. Thread: the vCPU's.
 */

/* A decoded block. */
struct t0_log_code {
    uint64_t rip, lin; /* of its first byte: offset in CS, linear address */
    unsigned nb;       /* instructions; 0: the bytes are none */
    const struct x86_insn *insn;
    const uint16_t *start; /* of each instruction, from rip */
    const uint8_t *bytes;  /* of instruction i: at i * bytes_step */
    size_t bytes_step;
};

/* @b was lowered, and is not yet executed: write it; let its execution be written. */
void t0_log_block(struct t0_cpu *c, struct t0_block *b, const struct t0_log_code *code);

/* An event is going to be delivered. */
void t0_log_event(struct t0_cpu *c, enum t0_event kind, uint8_t vector, uint32_t error);

/* The delivery of @first raised @second. @c may be without a log. */
void t0_log_second_fault(struct t0_cpu *c, uint8_t first, uint8_t second);

/* The guest's RDMSR or WRMSR found no register. @c may be without a log. */
void t0_log_msr(struct t0_cpu *c, uint32_t msr, const char *what);

#endif
