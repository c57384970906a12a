#include "vmm/accel/bt/t0_test.h"

#include <glib.h>

#include "lib/base/bytes.h"

/* The interpreter's core: blocks, translation, exceptions, segments. Expectations are
 * from the AMD64 manual, volume 2 (APM 2), unless another place is named. */

#define CODE(t, ...)                           \
    do {                                       \
        const uint8_t code_[] = {__VA_ARGS__}; \
        t0_test_code(t, code_, sizeof(code_)); \
    } while (0)

static void mov_and_halt(void)
{
    struct t0_test *t = t0_test_new(64, 1024, NULL);
    CODE(t, 0xb8, 1, 0, 0, 0, 0xf4); /* mov eax, 1; hlt */
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT);
    g_assert_cmphex(t->s.gpr[X86_RAX], ==, 1);
    g_assert_cmphex(t->s.rip, ==, T0_TEST_CODE + 6);
    t0_test_free(t);
}

static void loop_counts(void)
{
    struct t0_test *t = t0_test_new(64, 1024, NULL);
    /* mov ecx, 1000; xor eax, eax; l: add eax, ecx; dec ecx; jnz l; hlt */
    CODE(t, 0xb9, 0xe8, 3, 0, 0, 0x31, 0xc0, 0x01, 0xc8, 0xff, 0xc9, 0x75, 0xfa, 0xf4);
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT);
    g_assert_cmphex(t->s.gpr[X86_RAX], ==, 500500);
    t0_test_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/t0/mov_and_halt", mov_and_halt);
    g_test_add_func("/t0/loop_counts", loop_counts);
    return g_test_run();
}
