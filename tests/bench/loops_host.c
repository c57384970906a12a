/* The loops as a program of the host. */
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>

#include "tests/bench/loops.h"

int main(void)
{
    if (mprotect(loop_code, LOOP_CODE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC) < 0) {
        perror("memory for code");
        return 1;
    }
    for (unsigned i = 0; i < nb_loop_benches; i++) {
        const struct loop_bench *b = &loop_benches[i];
        printf("loop %s %" PRIu64 "\n", b->name, loop_measure(b) * 1000 / b->ops);
    }
    return 0;
}
