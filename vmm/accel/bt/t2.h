#ifndef VMM_ACCEL_BT_T2_H
#define VMM_ACCEL_BT_T2_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <glib.h>

struct t0_cpu;
struct t0_vm;
struct t0_block;

/*
 * T2, hot regions: the blocks of a hot loop, and of what it calls, as one translation.
 *
 * A region is the set of blocks that were executed while a hot loop was recorded, with
 * the branches between them. It is translated by T1's emitters (t1_insn() and others),
 * so everything in t1.h holds for it: flags, memory, T0 for what has no translation.
 * What a region has that a block has not:
 *
 * Registers. Guest registers that the region does not use lend their host register to
 * those that T1 keeps in memory (t2_regs.c). Between translations all are where T1 has
 * them: the way in and each way out exchange them, out of line, as does each slow path
 * around what T0 does.
 *
 *     way in      mov [gpr.rbp], rbp      rbp is not used here
 *                 mov rbp, [gpr.r9]       r9 is
 *     way out     the other way round
 *
 * Branches between its blocks are jumps, or nothing when the blocks follow each other.
 * A return, and an indirect branch, compares its target with those that were recorded,
 * or looks it up in a table of the region's own when these are many.
 *
 * Memory. Accesses through the same registers to nearby places share a check of their
 * page, over several blocks: t1_group.c, t2_group.c.
 *
 * page_base is that of the head's page throughout; the other pages of the region are
 * looked up in the instruction TLB on the way in, and nothing that a region executes
 * can change them.
 *
 * Vector and x87 registers are in the host's from the way in on when the region uses
 * them; slow paths bring them back.
 *
 *     poll        of blocks that a branch leads back to
 *     block       instructions; a branch to another block, or out
 *     ...
 *     ways in     for the head and for polled blocks: T1's links lead here
 *     slow paths, ways out
 *
 * Which loops are hot. A thread asks for the attention of vCPUs that run guest code,
 * about every millisecond. Translations look at attention on backward and indirect
 * branches, so RIP in the run loop is then the head of a loop that runs, at no cost
 * where it runs. A head met T2_SAMPLES times is recorded: T0 executes and each block
 * is noted, until the head was met often or the room is used up (t2_record.c).
 * Where tests want it (t2-heat=N), every block that is entered N times is, and no
 * thread runs.
 *
 * A region is dropped when one of its blocks is invalidated: T1's links lead to T1's
 * translations again. When that happens while the region runs, in a slow path, this
 * slow path leaves it (t1_do_step()). Its code stays until all is forgotten.
 *
 * Thread: the vCPU's, but for t2_thread_*().
 *
 * Files: t2_record.c which blocks, t2_thread.c the thread that samples; t2_shape.c
 * their order, t2_regs.c registers; t2_build.c translation, t2_branch.c of branches,
 * t2_group.c of accesses to one page; t2_region.c the end of a region, and what
 * lockstep asks.
 */

/* Memory of one vCPU. */
void t2_init(struct t0_cpu *c);
void t2_done(struct t0_cpu *c);

/* The run loop is about to execute @b at RIP. True: it was executed. Only while
 * core->t2_look. */
bool t2_turn(struct t0_cpu *c, struct t0_block *b);

/* The thread asked for attention. */
void t2_sample(struct t0_cpu *c);

/* Whether the run loop has to see @b, for t2-heat. */
bool t2_wants(const struct t0_cpu *c, const struct t0_block *b);

/* @b, which has a translation, was invalidated. Also while a region is executed. */
void t2_block_kill(struct t0_cpu *c, struct t0_block *b);

/* The code between positions @from and @to is forgotten. */
void t2_evict(struct t0_cpu *c, uint32_t from, uint32_t to);

/* All blocks were forgotten. */
void t2_flush(struct t0_cpu *c);

void t2_dump(const struct t0_cpu *c, FILE *out);

/* The thread that samples is started by the first vCPU in guest code. */
void t2_thread_stop(struct t0_vm *tvm);
/* Whether a sample was one of something new: how often they are taken. */
void t2_thread_tell(struct t0_vm *tvm, bool found);
/* A vCPU is in guest code from now on. t0_vm.lock is held. */
void t2_thread_wake_locked(struct t0_vm *tvm);

#endif
