#ifndef VMM_ACCEL_BT_T0_THUNK_H
#define VMM_ACCEL_BT_T0_THUNK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <glib.h>

#include "lib/isa/x86/insn.h"

struct t0_cpu;
struct t0_op;

/*
 * Native thunks: guest floating-point and vector instructions run as themselves.
 *
 * A thunk is a host function made for one instruction encoding. It loads the guest
 * registers that the instruction names from struct t0_cpu, executes the same
 * instruction with its memory operand redirected to [rdx], stores what it wrote, and
 * goes on with the next op as a handler does:
 *
 *     guest   pshufb xmm3, [rax+rcx*8]
 *     thunk   movups xmm3, [rdi+ymm3]     rdi: struct t0_cpu, rsi: struct t0_op
 *             pshufb xmm3, [rdx]          rdx: where the operand is in host memory
 *             movups [rdi+ymm3], xmm3
 *             add rsi, 40
 *             jmp [rsi]
 *
 * So the thunk of an instruction without memory operand, for which nothing has to be
 * made ready, is itself the op's handler. General registers are carried in eax
 * (ModRM.reg) and ecx (ModRM.rm); flags go through c->flags. Equal thunks are made
 * once. The memory is bounded: W^X by two mappings of one memfd, THUNK_ARENA bytes for
 * each CPU; when it is full, all blocks and all thunks are dropped and made anew as
 * they are needed.
 *
 * The registers of the x87 and MMX stay in the host's while guest code runs: their
 * thunks load and store nothing.
 */

#define THUNK_ARENA (1u << 20)

typedef const struct t0_op *(*thunk_fn)(struct t0_cpu *c, const struct t0_op *op,
                                        void *mem);

struct thunk_arena;

/* Memory for thunks, @size bytes: a multiple of 4096, enough for those of one block. */
struct thunk_arena *thunk_arena_new(size_t size, GError **error);
void thunk_arena_free(struct thunk_arena *a);

/* Longest code of one thunk in bytes. */
#define THUNK_MAX 160

/*
 * Write the thunk's code for @insn, whose own bytes are @bytes, to @code[THUNK_MAX].
 * Returns its length, or 0 when the instruction is none that a thunk can do: class
 * other than x87, MMX, SSE, AVX, gathers, or operands outside this scheme.
 */
unsigned thunk_emit(const struct x86_insn *insn, const uint8_t *bytes, uint8_t *code);

/* The function for @code, made or found; NULL when the arena is full. */
thunk_fn thunk_get(struct thunk_arena *a, const uint8_t *code, unsigned len);

/* How many there are. */
unsigned thunk_arena_count(const struct thunk_arena *a);

/* Forget all thunks. Nobody may hold one: the blocks that do are flushed first. */
void thunk_arena_reset(struct thunk_arena *a);

#endif
