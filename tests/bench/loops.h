#ifndef TESTS_BENCH_LOOPS_H
#define TESTS_BENCH_LOOPS_H

#include <stdint.h>

/*
 * Small loops that each stress one thing of a CPU, for whoever can read the time stamp
 * counter: a bare-metal guest (loops_guest.c) and a program of the host
 * (loops_host.c) run the same code.
 */

struct loop_bench {
    const char *name;
    uint64_t (*fn)(void); /* returns something that depends on all it did */
    uint64_t ops;         /* what one call counts as */
};

extern const struct loop_bench loop_benches[];
extern const unsigned nb_loop_benches;

/* Memory that some of them write code into: it has to be executable. */
#define LOOP_CODE_BYTES 4096u
extern uint8_t loop_code[LOOP_CODE_BYTES];

/* Best of a few runs: time stamp counter ticks of one call. */
uint64_t loop_measure(const struct loop_bench *b);

#endif
