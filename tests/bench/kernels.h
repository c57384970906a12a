#ifndef TESTS_BENCH_KERNELS_H
#define TESTS_BENCH_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/*
 * Pieces of work that each stress one thing of a CPU. Freestanding: no library, no
 * state but the caller's. The loops of a bare-metal guest (loops.c) and the workloads
 * of a Linux guest (cpu/) are made of them.
 *
 * Each returns something that depends on all it did; the same on every machine.
 */

/* Keeps the compiler from knowing a value. */
#define OPAQUE(v) __asm__ volatile("" : "+r"(v))
/* What is compiled is what is written: no vectors, no calls of memcpy. Nothing is
 * measured of what clang makes of it. */
#ifdef __clang__
    #define NOVEC __attribute__((noinline))
#else
    #define NOVEC                                              \
        __attribute__((noinline, optimize("no-tree-vectorize", \
                                          "no-tree-loop-distribute-patterns")))
#endif

/* @n rounds of xorshift with a multiplication: arithmetic in registers. */
uint64_t kernel_integer(uint64_t n);
/* A hash over @n bytes, one load each. */
uint64_t kernel_bytes(const uint8_t *p, uint64_t n);
/* @steps dependent loads over @size bytes (a power of two, 64 or more), one per line.
 */
uint64_t kernel_chase(uint32_t *p, uint32_t size, uint64_t steps);
/* Fibonacci by recursion: about 2 * 1.618^@n calls. */
uint64_t kernel_fib(unsigned n);
/* A bytecode interpreter, 12 * @n indirect jumps. */
uint64_t kernel_interpret(uint64_t n);
/* @n calls through a table of four functions. */
uint64_t kernel_pointers(uint64_t n);
/* SHA-256's rounds, with made-up constants, over @n blocks taken from 256 KiB at @p. */
uint64_t kernel_sha(const uint32_t *p, uint64_t n);
/* Shell sort of @n words, which it makes first. */
uint64_t kernel_sort(uint32_t *v, uint32_t n);
/* @n pairs of 64-bit divisions. */
uint64_t kernel_divide(uint64_t n);
/* @n times LOCK XADD. */
uint64_t kernel_xadd(uint64_t *counter, uint64_t n);
/* REP MOVSB of @size bytes, @n times. */
uint64_t kernel_rep_movsb(uint8_t *to, const uint8_t *from, uint64_t size, uint64_t n);
/* @n steps of dependent scalar double arithmetic with a division. */
uint64_t kernel_scalar_fp(uint64_t n);

#endif
