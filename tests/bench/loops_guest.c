/* The loops as a bare-metal guest: NAME PICOTICKS-PER-OP lines on the serial port. */
#include "tests/bench/loops.h"
#include "tests/guest/lib/guest.h"

GUEST_TEST(loops)
{
    uint64_t cr4;
    __asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
    __asm__ volatile("mov %0, %%cr4" : : "r"(cr4 | 0x600)); /* OSFXSR, OSXMMEXCPT */
    __asm__ volatile("fninit");
    for (unsigned i = 0; i < nb_loop_benches; i++) {
        const struct loop_bench *b = &loop_benches[i];
        uint64_t ticks = loop_measure(b);
        guest_printf("loop %s %u\n", b->name, (unsigned)(ticks * 1000 / b->ops));
    }
}
