#include <glib.h>

#include "lib/base/bytes.h"
#include "vmm/accel/bt/t0_test.h"
#include "vmm/accel/bt/t1_priv.h"

/* What translations call, and how they are entered and left. */

#define RUN(t) g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT)

/*
 * A branch whose target is more than 2 GiB from the start of its page, which no site
 * can hold, goes to the target in T0: not from inside a translation. The third GiB is
 * the first once more.
 */
static void branches_over_2_gib(void)
{
    static const struct {
        uint8_t opcode, len;
    } kinds[] = {{0xe9, 1}, {0xe8, 1}, {0x85, 2}};
    for (unsigned k = 0; k < G_N_ELEMENTS(kinds); k++) {
        /* heat: before the translation T0 has chained its blocks. */
        struct t0_test *t =
            t0_test_new_options(64, 1024, NULL, "tier=1,heat=5,cache-size=1M");
        le64_put(t->ram + T0_TEST_PML4 + 0x1000 + 2 * 8, (T0_TEST_PML4 + 0x2000) | 7);
        const uint64_t from = T0_TEST_CODE + 0x300, to = T0_TEST_CODE + 0x200;
        const uint64_t far = UINT64_C(0x80000000);
        uint8_t *p = t->ram + from, *q = t->ram + to;
        if (kinds[k].len == 2) {
            *p++ = 0x0f;
        }
        *p++ = kinds[k].opcode;
        le32_put(p, (uint32_t)(to + far - (from + kinds[k].len + 4)));
        /* dec ecx; jz hlt; lea rsp, [rip to the start]: a stack that stays; test;
         * mov eax, from; jmp rax */
        static const uint8_t back[] = {0xff, 0xc9, 0x74, 0x10, 0xbc, 0x00, 0x90,
                                       0x00, 0x00, 0x83, 0xc9, 0x00, 0xb8, 0,
                                       0,    0,    0,    0xff, 0xe0, 0x90, 0xf4};
        memcpy(q, back, sizeof(back));
        le32_put(q + 13, (uint32_t)from);
        t->s.rip = from;
        t->s.gpr[X86_RCX] = 200;
        RUN(t);
        g_assert_cmphex(t->s.rip, ==, to + far + sizeof(back));
        g_assert_cmpuint(t->s.gpr[X86_RCX], ==, 0);
        t0_test_free(t);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!t1_supported()) {
        g_test_skip("no BMI2");
        return g_test_run();
    }
    g_test_add_func("/t1/code/branches_over_2_gib", branches_over_2_gib);
    return g_test_run();
}
