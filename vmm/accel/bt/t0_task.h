#ifndef VMM_ACCEL_BT_T0_TASK_H
#define VMM_ACCEL_BT_T0_TASK_H

#include "vmm/accel/bt/t0_seg.h"

/* What switches to another task; it decides about links and busy bits. */
enum t0_task_how { T0_TASK_JMP, T0_TASK_CALL, T0_TASK_EVENT, T0_TASK_IRET };

/* Where the task that is left goes on, and what switches. */
struct t0_task_from {
    enum t0_task_how how;
    uint64_t rip;    /* saved in its TSS */
    uint64_t rflags; /* the same */
    uint32_t ext;    /* EXT bit of error codes */
};

/*
 * Switch to the task whose TSS has the selector @sel (APM 2 12.3): the checks of its
 * descriptor, the state of the present task saved, that of the new one loaded and
 * checked. Outside of long mode only.
 *
 * False with c->exc set. Then core->new_task says when the fault happened: false, the
 * present task still runs and nothing changed; true, the switch is done and the fault
 * is the new task's, at its first instruction. The caller clears core->new_task
 * before.
 */
bool t0_task_switch(struct t0_cpu *c, uint16_t sel, const struct t0_task_from *from);

/* After a switch and what else comes with it (an error code): the debug trap that the
 * new TSS asks for with its T bit. False with c->exc set. */
bool t0_task_trap(struct t0_cpu *c);

/* The selector of the TSS that the descriptor @raw of a task gate names. */
static inline uint16_t t0_task_gate_sel(uint64_t raw)
{
    return (uint16_t)(raw >> 16);
}

#endif
