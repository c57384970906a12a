#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/base.h"
#include "vmm/accel/bt/bt.h"
#include "vmm/accel/kvm/kvm.h"
#include "vmm/accel/kvm/kvm_machine.h"
#include "vmm/vm/gmem.h"

/*
 * A guest that computes wanders between accelerators, state and memory, and ends with
 * the same result: the canonical state holds all that a guest is.
 *
 * The guest stirs rax, rbx and a table in memory, with flags carried from one round to
 * the next, and writes the round's number to port KM_STOP in the middle of each.
 */

enum { ROUNDS = 24, TABLE = 256 };

static const uint8_t program[] = {
    0xf9,                   /*    stc */
    0x48, 0x13, 0xc3,       /* 1: adc rax, rbx */
    0x48, 0xd3, 0xc0,       /*    rol rax, cl */
    0x9c,                   /*    pushfq */
    0x48, 0x0f, 0xaf, 0xdf, /*    imul rbx, rdi */
    0x48, 0x01, 0xc3,       /*    add rbx, rax */
    0x0f, 0xb6, 0xf3,       /*    movzx esi, bl */
    0x49, 0x31, 0x04, 0xf0, /*    xor [r8 + rsi * 8], rax */
    0x49, 0x03, 0x04, 0xf0, /*    add rax, [r8 + rsi * 8] */
    0x91,                   /*    xchg ecx, eax */
    0xef,                   /*    out dx, eax */
    0x91,                   /*    xchg ecx, eax: the upper half goes */
    0x9d,                   /*    popfq */
    0x48, 0x8d, 0x49, 0xff, /*    lea rcx, [rcx - 1] */
    0x67, 0xe3, 0x02,       /*    jecxz 2f */
    0xeb, 0xda,             /*    jmp 1b */
    0xf4,                   /* 2: hlt */
};

static void prepare(struct km *m)
{
    km_code(m, program, sizeof(program));
    m->s.gpr[X86_RAX] = UINT64_C(0x243f6a8885a308d3);
    m->s.gpr[X86_RBX] = UINT64_C(0x13198a2e03707344);
    m->s.gpr[X86_RDI] = UINT64_C(0x5851f42d4c957f2d);
    m->s.gpr[X86_RCX] = ROUNDS;
    m->s.gpr[X86_RDX] = KM_STOP;
    m->s.gpr[X86_R8] = KM_DATA;
}

static struct km *machine(const struct accel_ops *ops,
                          void (*features)(struct x86_featset *))
{
    GError *error = NULL;
    const char *options = ops == &kvm_accel_ops ? "kernel-irqchip=off" : NULL;
    struct km *m = km_new(ops, features, options, 64, MIB, &error);
    g_assert_no_error(error);
    return m;
}

/* What a guest can see of a state that both accelerators hold. */
static void expect_same(const struct km *a, const struct km *b)
{
    g_assert_cmpmem(a->s.gpr, sizeof(a->s.gpr), b->s.gpr, sizeof(b->s.gpr));
    g_assert_cmphex(a->s.rip, ==, b->s.rip);
    g_assert_cmphex(a->s.rflags, ==, b->s.rflags);
    g_assert_cmphex(a->s.cr0, ==, b->s.cr0);
    g_assert_cmphex(a->s.cr3, ==, b->s.cr3);
    g_assert_cmphex(a->s.cr4, ==, b->s.cr4);
    g_assert_cmphex(a->s.efer, ==, b->s.efer);
    for (unsigned i = 0; i < X86_NB_SEG; i++) {
        g_assert_cmphex(a->s.seg[i].attr, ==, b->s.seg[i].attr);
        g_assert_cmphex(a->s.seg[i].base, ==, b->s.seg[i].base);
        g_assert_cmphex(a->s.seg[i].limit, ==, b->s.seg[i].limit);
    }
    g_assert_cmpmem(&a->s.fpu, sizeof(a->s.fpu), &b->s.fpu, sizeof(b->s.fpu));
    g_assert_cmpmem(a->ram + KM_DATA, TABLE * 8, b->ram + KM_DATA, TABLE * 8);
}

static void a_guest_wanders_between_accelerators(void)
{
    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        g_test_skip("/dev/kvm is not there, or not for this user");
        return;
    }
    struct km *stays = machine(&bt_accel_ops, bt_features);
    struct km *ms[2] = {machine(&bt_accel_ops, bt_features),
                        machine(&kvm_accel_ops, kvm_features)};
    unsigned stops = 0;
    prepare(stays);
    prepare(ms[0]);
    for (;; stops++) {
        struct km *here = ms[stops % 2], *there = ms[(stops + 1) % 2];
        enum vcpu_exit a = km_run(stays), b = km_run(here);
        g_assert_cmpint(a, ==, b);
        expect_same(stays, here);
        if (a != VCPU_EXIT_KICK) {
            g_assert_cmpint(a, ==, VCPU_EXIT_HLT);
            break;
        }
        g_assert_cmphex(stays->stop_value, ==, here->stop_value);
        there->s = here->s;
        memcpy(there->ram, here->ram, MIB);
    }
    g_assert_cmpuint(stops, ==, ROUNDS);
    km_free(stays);
    km_free(ms[0]);
    km_free(ms[1]);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/accel/a_guest_wanders_between_accelerators",
                    a_guest_wanders_between_accelerators);
    return g_test_run();
}
