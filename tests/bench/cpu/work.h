#ifndef TESTS_BENCH_CPU_WORK_H
#define TESTS_BENCH_CPU_WORK_H

#include <stddef.h>
#include <stdint.h>

/*
 * The workloads of `./dev bench cpu` that are our own. Each is a function of up to
 * WORK_ARGS sizes (workloads.txt says which) and returns a checksum that is the same on
 * every machine. It runs in a process of its own and may leave everything to its exit.
 */

#define WORK_ARGS 3

/* clang-format off */
#define WORKS(X)                                                                \
    /* work_int.c */                                                            \
    X(integer)    /* rounds */                                                  \
    X(mix)        /* iterations of lists, a small matrix, a state machine, CRC */ \
    X(sha256)     /* blocks */                                                  \
    X(qsort)      /* elements, times */                                         \
    X(divide)     /* divisions / 2 */                                           \
    X(lz)         /* bytes, times: compress and decompress */                   \
    /* work_call.c */                                                           \
    X(bytecode)   /* passes of 12 steps */                                      \
    X(recurse)    /* argument of Fibonacci's function */                        \
    X(indirect)   /* calls through a table */                                   \
    X(virtual)    /* calls of objects of eight classes, in random order */      \
    X(smc)        /* patches, calls of each: the same code changes */           \
    X(jit)        /* functions, calls of each: fresh code each time */          \
    /* work_mem.c */                                                            \
    X(chase)      /* KiB, loads */                                              \
    X(memcpy)     /* KiB, times */                                              \
    X(movsb)      /* KiB, times */                                              \
    X(stosq)      /* KiB, times */                                              \
    X(stream)     /* KiB of each array, times: copy, scale, add, triad */       \
    X(strlen)     /* KiB of short strings, times */                             \
    X(xadd)       /* LOCK XADDs */                                              \
    X(mutex)      /* lock and unlock pairs of each of two threads */            \
    /* work_fp.c */                                                             \
    X(matmul)     /* rows, times: scalar */                                     \
    X(matmul_sse) /* rows (a multiple of 8), times */                           \
    X(matmul_avx) /* rows (a multiple of 8), times: AVX2 and FMA */             \
    X(nbody)      /* steps */                                                   \
    X(x87)        /* steps */                                                   \
    /* work_os.c */                                                             \
    X(getppid)    /* calls */                                                   \
    X(open_stat)  /* open, fstat, close and stat */                             \
    X(fork)       /* children that exit */                                      \
    X(exec)       /* children that run /bin/true */                             \
    X(pipe)       /* round trips between two processes */                       \
    X(fault)      /* KiB, times: first touch of anonymous pages */              \
    X(mmap)       /* maps of 64 KiB, one page touched, unmapped */              \
    X(sigsegv)    /* faults whose handler makes the page writable */            \
    X(tmpfs)      /* files of 64 KiB written, read, unlinked */                 \
    X(clock)      /* clock_gettime */
/* clang-format on */

#define WORK_DECLARE(id) uint64_t work_##id(const uint64_t *arg);
WORKS(WORK_DECLARE)

/* Anonymous memory of @size bytes, or the process ends with a message. */
void *work_memory(size_t size);
/* The process ends with a message about @what and errno. */
_Noreturn void work_fail(const char *what);
/* The next of a sequence of pseudo-random numbers; *@state is anything. */
uint32_t work_random(uint64_t *state);
/* Checksum of @n bytes. */
uint64_t work_hash(const void *p, size_t n);

#endif
