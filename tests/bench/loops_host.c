/* The loops as a program of the host. */
#include <inttypes.h>
#include <stdio.h>

#include "tests/bench/loops.h"

int main(void)
{
    for (unsigned i = 0; i < nb_loop_benches; i++) {
        const struct loop_bench *b = &loop_benches[i];
        printf("loop %s %" PRIu64 "\n", b->name, loop_measure(b) * 1000 / b->ops);
    }
    return 0;
}
