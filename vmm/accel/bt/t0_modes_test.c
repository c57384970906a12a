#include "vmm/accel/bt/t0_test.h"

#include <glib.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/arch/x86/x86_accel.h"

/*
 * Modes, as far as guests cannot tell: how a machine ends, and states that come from
 * outside. The rest is in tests/guest.
 */

T0_TEST_ASM(real_int, 16, "int $0x21\n hlt");

/* APM 2 8.2.9: real mode without a vector for #GP nor one for #DF shuts down. */
static void real_mode_without_vectors_shuts_down(void)
{
    struct t0_test *t = t0_test_new(16, 1024, NULL);
    t0_test_asm(t, real_int);
    t->s.idtr.limit = 8 * 4 + 2;
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_SHUTDOWN);
    g_assert_cmphex(t->s.rip, ==, 0x1000);
    t0_test_free(t);
}

/* An odd stack pointer near 0: no frame can be pushed, for no vector. */
static void real_mode_without_a_stack_shuts_down(void)
{
    struct t0_test *t = t0_test_new(16, 1024, NULL);
    t0_test_asm(t, real_int);
    t->s.gpr[X86_RSP] = 1;
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_SHUTDOWN);
    g_assert_cmphex(t->s.gpr[X86_RSP], ==, 1);
    t0_test_free(t);
}

T0_TEST_ASM(vm86_code, 16, "mov %cs, %ax\n movw $0x55aa, (0x10)\n int3");

/* The canonical state may be one of virtual-8086 mode. */
static void a_state_of_virtual_8086_mode_is_taken(void)
{
    struct t0_test *t = t0_test_new(32, 1024, NULL);
    t0_test_catch_all(t);
    memcpy(t->ram + 0x20000, vm86_code, (size_t)(vm86_code_end - vm86_code));
    t->s.rflags |= X86_FL_VM;
    t->s.cpl = 3;
    t->s.rip = 0;
    for (unsigned i = 0; i < X86_NB_SEG; i++) {
        uint16_t sel = i == X86_CS ? 0x2000 : 0x3000;
        t->s.seg[i] = (struct x86_segment){
            .sel = sel, .base = sel * 16u, .limit = 0xffff, .attr = 0xf3};
    }
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT);
    g_assert_cmpuint(t->s.gpr[X86_RBX], ==, X86_EXC_BP);
    g_assert_cmphex(t->s.gpr[X86_RAX], ==, 0x2000);
    g_assert_cmphex(le16_get(t->ram + 0x30010), ==, 0x55aa);
    g_assert_cmphex(t->s.rflags & X86_FL_VM, ==, 0);
    t0_test_free(t);
}

T0_TEST_ASM(int_80, 32, "int $0x80\n nop");

/* The upper half of a 16-bit gate's offset is not looked at (APM 2 figure 4-15). */
static void a_16_bit_gate_has_an_offset_of_16_bits(void)
{
    struct t0_test *t = t0_test_new(32, 1024, NULL);
    t0_test_catch_all(t);
    t0_test_gate(t, 0x80, X86_SYS_INT16, 0, 0, 0xdead0000 | T0_TEST_HANDLERS);
    t0_test_asm(t, int_80);
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT);
    g_assert_cmphex(t->s.gpr[X86_RSP], ==, T0_TEST_STACK - 6);
    g_assert_cmphex(le16_get(t->ram + T0_TEST_STACK - 6), ==,
                    (T0_TEST_CODE + 2) & 0xffff);
    t0_test_free(t);
}

T0_TEST_ASM(task_jump, 32, "ljmp $0x48, $0");

/* A fault of the new task that nobody handles ends the machine in the new task. */
static void a_task_that_cannot_start_shuts_down(void)
{
    struct t0_test *t = t0_test_new(32, 1024, NULL);
    uint8_t *tss = t->ram + 0x20000;
    le64_put(t->ram + T0_TEST_GDT + T0_TEST_FREE, UINT64_C(0x0000890200000067));
    le32_put(tss + 0x20, 0x1234);
    t->s.idtr.limit = 0;
    t0_test_asm(t, task_jump);
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_SHUTDOWN);
    g_assert_cmphex(t->s.tr.sel, ==, T0_TEST_FREE);
    g_assert_cmphex(t->s.rip, ==, 0x1234);
    t0_test_free(t);
}

T0_TEST_ASM(read_high, 16, "mov %es:0x510, %al\n hlt");

/* What the state says of the line, which it is not for loading states to change. */
static void the_state_tells_a20(void)
{
    struct t0_test *t = t0_test_new(16, 2048, NULL);
    struct x86_state start;
    t->ram[0x500] = 1;
    t->ram[0x100500] = 2;
    t0_test_asm(t, read_high);
    t->s.seg[X86_ES].sel = 0xffff;
    t->s.seg[X86_ES].base = 0xffff0;
    start = t->s;
    x86_accel_set_a20(t->vm, false);
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT);
    g_assert_cmphex(t->s.gpr[X86_RAX], ==, 1);
    g_assert_true(t->s.a20_low);
    x86_accel_set_a20(t->vm, true);
    t->s = start;
    t->s.a20_low = true;
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT);
    g_assert_cmphex(t->s.gpr[X86_RAX], ==, 2);
    g_assert_false(t->s.a20_low);
    t0_test_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/t0/modes/real_mode_without_vectors_shuts_down",
                    real_mode_without_vectors_shuts_down);
    g_test_add_func("/t0/modes/real_mode_without_a_stack_shuts_down",
                    real_mode_without_a_stack_shuts_down);
    g_test_add_func("/t0/modes/a_state_of_virtual_8086_mode_is_taken",
                    a_state_of_virtual_8086_mode_is_taken);
    g_test_add_func("/t0/modes/a_16_bit_gate_has_an_offset_of_16_bits",
                    a_16_bit_gate_has_an_offset_of_16_bits);
    g_test_add_func("/t0/modes/a_task_that_cannot_start_shuts_down",
                    a_task_that_cannot_start_shuts_down);
    g_test_add_func("/t0/modes/the_state_tells_a20", the_state_tells_a20);
    return g_test_run();
}
