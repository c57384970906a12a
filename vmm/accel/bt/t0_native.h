#ifndef VMM_ACCEL_BT_T0_NATIVE_H
#define VMM_ACCEL_BT_T0_NATIVE_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/isa/x86/insn.h"

/*
 * The processor that a test runs on as an oracle for user-mode instructions: execute
 * bytes natively from given registers, and make random instructions to execute.
 *
 * Code runs at an address below 4 GiB that native_setup() was given: 32-bit code
 * through a far jump to the kernel's compatibility segment. Faults are caught and
 * reported. Memory operands belong in the arena:
 *
 *     page 0, 1 writable | page 2 (a test may make it read-only) | page 3 absent
 *
 * For test programs alone: signal handlers, fixed mappings, one thread.
 */

#define NATIVE_ARENA   UINT64_C(0x10000000)
#define NATIVE_PAGES   3
#define NATIVE_GS_BASE (NATIVE_ARENA - 0x12340) /* in 64-bit code */
#define NATIVE_FLAGS   (X86_FL_ARITH | X86_FL_DF)

/* What both ways of executing start from and end with. */
struct native_result {
    uint64_t gpr[16];
    uint64_t rflags, rip;
    bool faulted;
    uint8_t vector;
    uint32_t error;
    uint64_t cr2;
};

/* Map the arena and a page for code at @code; catch signals. Once. */
void native_setup(uint64_t code);

/* Execute @len (at most 2000) bytes, from and to @r. In 32-bit mode the upper halves
 * of the registers must be 0. r->rip becomes that of the fault or after the code. */
void native_run(const uint8_t *bytes, unsigned len, unsigned mode,
                struct native_result *r);

/* XSAVE area with x87, SSE and AVX in the standard format. */
#define NATIVE_XSAVE_SIZE 832

/* The same with the x87, SSE and AVX state, from and to @xsave. native_run() starts
 * from the initial one. */
void native_run_fpu(const uint8_t *bytes, unsigned len, unsigned mode,
                    struct native_result *r, uint8_t *xsave);

static inline uint8_t *native_arena(void)
{
    return (uint8_t *)(uintptr_t)NATIVE_ARENA;
}

/* How many random cases: all of them in a release tree, as many as take seconds in the
 * sanitizers', many times more with -m thorough. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    #define NATIVE_CASES(n, thorough) (g_test_thorough() ? (thorough) : (n) / 8)
#else
    #define NATIVE_CASES(n, thorough) (g_test_thorough() ? (thorough) : (n))
#endif

/* Random numbers: the same in every run, others with -m thorough. */
void native_seed(void);
uint64_t native_rnd(void);
uint64_t native_below(uint64_t n);
/* Values at which arithmetic has its edges, and any others. */
uint64_t native_rnd_value(void);

/* A random encoding of one row of the decoder's table. */
struct native_case {
    const struct x86_desc *row;
    struct x86_insn insn;
    uint8_t bytes[16 + 8];
    unsigned mode;
};

/* Some encoding of row @i in @mode. False: there is none. */
bool native_case_make(unsigned i, unsigned mode, struct native_case *k);

/* Change @size bytes of it from @at on, and decode it again. */
void native_case_patch(struct native_case *k, unsigned at, int64_t v, unsigned size);

/*
 * Make the memory operand reach @target: by its base register in @gpr, else by its
 * displacement, for which @rip is the address that it will be executed at. The index
 * of a gather is left alone. False: it cannot.
 */
bool native_case_aim(struct native_case *k, uint64_t target, uint64_t rip,
                     uint64_t gpr[16]);

/* Integer and string rows; of those, what is a system instruction at heart. */
bool native_is_integer(const struct x86_desc *row);
bool native_is_system(const struct x86_insn *i);
bool native_is_locked(const struct x86_insn *i);

#endif
