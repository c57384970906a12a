#include "vmm/accel/bt/t0_test.h"

#include <glib.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/arch/x86/lapic.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/vm.h"

/* Exceptions, interrupts and segments: APM 2 chapters 4, 8 and 12. */

#define RUN(t)    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT)
#define VECTOR(t) ((t)->s.gpr[X86_RBX])

static struct t0_test *machine(unsigned bits)
{
    struct t0_test *t = t0_test_new(bits, 4096, NULL);
    t0_test_catch_all(t);
    return t;
}

static uint64_t frame(struct t0_test *t, unsigned i)
{
    unsigned size = t->bits == 64 ? 8 : 4;
    const uint8_t *p = t->ram + (uint32_t)t->s.gpr[X86_RSP] + i * size;
    return size == 8 ? le64_get(p) : le32_get(p);
}

T0_TEST_ASM(divide, 64, "xor %ecx, %ecx\n div %ecx\n hlt");

/* 8.9.3: RIP of the instruction, the stack aligned to 16, SS:RSP always pushed; 3.1.6:
 * RF set in the image of a fault. */
static void fault_frame_64(void)
{
    struct t0_test *t = machine(64);
    t0_test_asm(t, divide);
    t->s.gpr[X86_RSP] = 0x8ffb;
    RUN(t);
    g_assert_cmpuint(VECTOR(t), ==, X86_EXC_DE);
    g_assert_cmphex(t->s.gpr[X86_RSP], ==, 0x8ff0 - 40);
    g_assert_cmphex(frame(t, 0), ==, T0_TEST_CODE + 2);
    g_assert_cmphex(frame(t, 1), ==, T0_TEST_CS64);
    g_assert_cmphex(frame(t, 2) & X86_FL_RF, ==, X86_FL_RF);
    g_assert_cmphex(frame(t, 3), ==, 0x8ffb);
    g_assert_cmphex(frame(t, 4), ==, T0_TEST_DS);
    t0_test_free(t);
}

T0_TEST_ASM(int_80, 64, "int $0x80\n nop");

/* From user level: RSP0 of the TSS, a null SS with the new RPL, the old SS pushed. */
static void interrupt_from_user_64(void)
{
    struct t0_test *t = machine(64);
    t0_test_gate(t, 0x80, X86_SYS_TRAP, 3, 0, T0_TEST_HANDLERS);
    t0_test_asm(t, int_80);
    t0_test_user(t);
    RUN(t);
    g_assert_cmpuint(t->s.cpl, ==, 0);
    g_assert_cmphex(t->s.seg[X86_SS].sel, ==, 0);
    g_assert_cmphex(t->s.gpr[X86_RSP], ==, T0_TEST_STACK - 0x800 - 40);
    g_assert_cmphex(frame(t, 0), ==, T0_TEST_CODE + 2);
    g_assert_cmphex(frame(t, 1), ==, T0_TEST_UCS64);
    g_assert_cmphex(frame(t, 4), ==, T0_TEST_UDS);
    t0_test_free(t);
}

/* A gate that user level may not call: #GP with the vector's index and IDT bit. */
static void gate_privilege(void)
{
    struct t0_test *t = machine(64);
    t0_test_gate(t, 0x80, X86_SYS_TRAP, 0, 0, T0_TEST_HANDLERS);
    t0_test_asm(t, int_80);
    t0_test_user(t);
    RUN(t);
    g_assert_cmpuint(VECTOR(t), ==, X86_EXC_GP);
    g_assert_cmphex(frame(t, 0), ==, 0x80 * 8 + 2);
    g_assert_cmphex(frame(t, 1), ==, T0_TEST_CODE);
    t0_test_free(t);
}

/* 12.2.5: the interrupt stack table. */
static void ist(void)
{
    struct t0_test *t = machine(64);
    t0_test_gate(t, X86_EXC_DE, X86_SYS_INT, 0, 3, T0_TEST_HANDLERS);
    le64_put(t->ram + T0_TEST_TSS + 0x24 + 16, 0x7ff8);
    t0_test_asm(t, divide);
    RUN(t);
    g_assert_cmphex(t->s.gpr[X86_RSP], ==, 0x7ff0 - 40);
    g_assert_cmphex(t->s.seg[X86_SS].sel, ==, T0_TEST_DS);
    t0_test_free(t);
}

static void no_gate(struct t0_test *t, unsigned vector)
{
    memset(t->ram + T0_TEST_IDT + vector * (t->bits == 64 ? 16 : 8), 0, 16);
}

/* 8.2.9: a contributory exception while delivering one is #DF with error code 0; #UD
 * is benign, and what happens while delivering it is delivered instead. */
static void double_fault(void)
{
    struct t0_test *t = machine(64);
    no_gate(t, X86_EXC_DE);
    t0_test_asm(t, divide);
    RUN(t);
    g_assert_cmpuint(VECTOR(t), ==, X86_EXC_DF);
    g_assert_cmphex(frame(t, 0), ==, 0);
    g_assert_cmphex(frame(t, 1), ==, T0_TEST_CODE + 2);
    t0_test_free(t);
}

T0_TEST_ASM(undefined, 64, "ud2");

static void benign_then_gp(void)
{
    struct t0_test *t = machine(64);
    no_gate(t, X86_EXC_UD);
    t0_test_asm(t, undefined);
    RUN(t);
    g_assert_cmpuint(VECTOR(t), ==, X86_EXC_GP);
    g_assert_cmphex(frame(t, 0), ==, X86_EXC_UD * 8 + 3); /* IDT and EXT */
    t0_test_free(t);
}

static void triple_fault(void)
{
    struct t0_test *t = t0_test_new(64, 1024, NULL);
    t0_test_asm(t, undefined);
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_SHUTDOWN);
    g_assert_cmphex(t->s.rip, ==, T0_TEST_CODE);
    t0_test_free(t);
}

T0_TEST_ASM(traced, 64, "pushfq\n orl $0x100, (%rsp)\n popfq\n nop\n nop");

/* 13.1.4: the trap comes after the instruction that began with TF set. */
static void single_step(void)
{
    struct t0_test *t = machine(64);
    t0_test_asm(t, traced);
    RUN(t);
    g_assert_cmpuint(VECTOR(t), ==, X86_EXC_DB);
    g_assert_cmphex(frame(t, 0), ==, t->s.gpr[X86_RDX] + T0_TEST_CODE + 10);
    g_assert_cmphex(t->s.dr[6] & (1 << 14), ==, 1 << 14);
    g_assert_cmphex(frame(t, 2) & X86_FL_RF, ==, 0);
    t0_test_free(t);
}

T0_TEST_ASM(window, 64, "sti\n inc %eax\n cli\n inc %eax\n hlt");

/* 8.1.1, STI: the instruction after it runs before a pending interrupt is taken, and
 * the window of that one instruction is enough. */
static void sti_shadow(void)
{
    struct t0_test *t = machine(64);
    t0_test_gate(t, 0x40, X86_SYS_INT, 0, 0, T0_TEST_HANDLERS + 31 * 16);
    t0_test_asm(t, window);
    lapic_set_virtual_wire(t->vcpu);
    g_assert_true(lapic_set_irr(t->vcpu, 0x40, false));
    RUN(t);
    g_assert_cmpuint(VECTOR(t), ==, 31);
    g_assert_cmpuint(t->s.gpr[X86_RAX], ==, 1);
    g_assert_cmphex(frame(t, 0), ==, T0_TEST_CODE + 3);
    t0_test_free(t);
}

T0_TEST_ASM(sti_hlt, 64, "sti\n hlt\n mov $7, %eax\n cli\n hlt");
T0_TEST_ASM(iretq, 64, "iretq");

/* An interrupt that is pending ends HLT; IRET goes on behind it. */
static void interrupt_ends_halt(void)
{
    struct t0_test *t = machine(64);
    t0_test_gate(t, 0x40, X86_SYS_INT, 0, 0, 0xb000);
    memcpy(t->ram + 0xb000, iretq, (size_t)(iretq_end - iretq));
    t0_test_asm(t, sti_hlt);
    lapic_set_virtual_wire(t->vcpu);
    g_assert_true(lapic_set_irr(t->vcpu, 0x40, false));
    RUN(t);
    g_assert_cmpuint(t->s.gpr[X86_RAX], ==, 7);
    t0_test_free(t);
}

T0_TEST_ASM(
    to_user, 64,
    "push $0x2b\n push $0x8000\n push $0x202\n push $0x33\n"
    "lea 1f(%rip), %rax\n push %rax\n iretq\n 1: mov %cs, %ecx\n mov %ss, %edx\n"
    "int3");

static void iret_to_user(void)
{
    struct t0_test *t = machine(64);
    t0_test_asm(t, to_user);
    RUN(t);
    g_assert_cmphex(t->s.gpr[X86_RCX], ==, 0x33);
    g_assert_cmphex(t->s.gpr[X86_RDX], ==, 0x2b);
    g_assert_cmphex(frame(t, 3), ==, 0x8000);
    t0_test_free(t);
}

T0_TEST_ASM(int_3_user, 32, "int3\n nop");

/* 8.7.3: ESP0 and SS0 of the TSS, a frame of 32-bit words. */
static void interrupt_from_user_32(void)
{
    struct t0_test *t = machine(32);
    t0_test_asm(t, int_3_user);
    t0_test_user(t);
    RUN(t);
    g_assert_cmpuint(VECTOR(t), ==, X86_EXC_BP);
    g_assert_cmphex(t->s.seg[X86_SS].sel, ==, T0_TEST_DS);
    g_assert_cmphex(t->s.gpr[X86_RSP], ==, T0_TEST_STACK - 0x800 - 20);
    g_assert_cmphex(frame(t, 0), ==, T0_TEST_CODE + 1);
    g_assert_cmphex(frame(t, 1), ==, T0_TEST_UCS32);
    g_assert_cmphex(frame(t, 3), ==, T0_TEST_STACK);
    g_assert_cmphex(frame(t, 4), ==, T0_TEST_UDS);
    t0_test_free(t);
}

T0_TEST_ASM(real_int, 16, "mov $0x1234, %ax\n int $0x21\n mov $2, %cx\n hlt");
T0_TEST_ASM(real_handler, 16, "mov $1, %bx\n iretw");

static void real_mode_interrupt(void)
{
    struct t0_test *t = t0_test_new(16, 1024, NULL);
    le16_put(t->ram + 0x21 * 4, 0x10);
    le16_put(t->ram + 0x21 * 4 + 2, 0x700);
    memcpy(t->ram + 0x7010, real_handler, (size_t)(real_handler_end - real_handler));
    t0_test_asm(t, real_int);
    RUN(t);
    g_assert_cmphex(t->s.gpr[X86_RAX], ==, 0x1234);
    g_assert_cmphex(t->s.gpr[X86_RBX], ==, 1);
    g_assert_cmphex(t->s.gpr[X86_RCX], ==, 2);
    g_assert_cmphex(t->s.gpr[X86_RSP], ==, T0_TEST_STACK);
    t0_test_free(t);
}

/* --- Segments, 32-bit ------------------------------------------------------ */

static uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access,
                           unsigned flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 |
           (uint64_t)access << 40 | (uint64_t)(limit >> 16) << 48 |
           (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

T0_TEST_ASM(fs_read, 32, "mov %ecx, %fs\n mov %fs:(%esi), %eax\n hlt");
T0_TEST_ASM(fs_write, 32, "mov %ecx, %fs\n mov %eax, %fs:(%esi)\n hlt");

struct seg_case {
    const char *name;
    uint64_t descriptor;
    uint32_t off;
    bool write;
    int vector; /* -1: none */
    uint32_t error;
};

#define SEL T0_TEST_FREE

static const struct seg_case seg_cases[] = {
    /* 4.12: limits */
    {"in limit", 0, 0xfc, false, -1, 0},
    {"last byte out", 0, 0xfd, false, X86_EXC_GP, 0},
    {"expand-down, below", 1, 0x0fff, false, X86_EXC_GP, 0},
    {"expand-down, above", 1, 0x1000, false, -1, 0},
    /* 4.10, 4.7.1: types */
    {"write to read-only", 2, 0, true, X86_EXC_GP, 0},
    {"read of read-only", 2, 0, false, -1, 0},
    {"readable code", 3, 0, false, -1, 0},
    {"write to code", 3, 0, true, X86_EXC_GP, 0},
    {"execute-only code", 4, 0, false, X86_EXC_GP, SEL},
    {"not present", 5, 0, false, X86_EXC_NP, SEL},
    {"system", 6, 0, false, X86_EXC_GP, SEL},
};

static void segment_rules(void)
{
    const uint64_t d[] = {
        descriptor(0x50000, 0xff, 0x93, 4),  descriptor(0x50000, 0xfff, 0x97, 4),
        descriptor(0x50000, 0xfff, 0x91, 4), descriptor(0x50000, 0xfff, 0x9b, 4),
        descriptor(0x50000, 0xfff, 0x99, 4), descriptor(0x50000, 0xfff, 0x13, 4),
        descriptor(0x50000, 0xfff, 0x82, 4),
    };
    for (unsigned i = 0; i < ARRAY_LEN(seg_cases); i++) {
        const struct seg_case *k = &seg_cases[i];
        struct t0_test *t = machine(32);
        g_test_message("%s", k->name);
        le64_put(t->ram + T0_TEST_GDT + SEL, d[k->descriptor]);
        le32_put(t->ram + 0x50000 + k->off, 0x600d);
        if (k->write) {
            t0_test_asm(t, fs_write);
        } else {
            t0_test_asm(t, fs_read);
        }
        t->s.gpr[X86_RCX] = SEL;
        t->s.gpr[X86_RSI] = k->off;
        VECTOR(t) = 99;
        RUN(t);
        if (k->vector < 0) {
            g_assert_cmpuint(VECTOR(t), ==, 99);
            g_assert_cmphex(t->s.gpr[X86_RAX], ==, 0x600d);
        } else {
            g_assert_cmpint((int)VECTOR(t), ==, k->vector);
            g_assert_cmphex(t0_test_top(t), ==, k->error);
        }
        t0_test_free(t);
    }
}

T0_TEST_ASM(load_ss, 32, "mov %ecx, %ss\n hlt");

/* 4.5.2: SS wants writable data, RPL = DPL = CPL; null is #GP(0). */
static void stack_segment_rules(void)
{
    static const struct {
        uint16_t sel;
        uint32_t error;
    } bad[] = {{0, 0},
               {T0_TEST_UDS, T0_TEST_UDS & ~3u},
               {T0_TEST_DS | 1, T0_TEST_DS},
               {T0_TEST_CS32, T0_TEST_CS32},
               {0x1000, 0x1000}};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        struct t0_test *t = machine(32);
        t0_test_asm(t, load_ss);
        t->s.gpr[X86_RCX] = bad[i].sel;
        RUN(t);
        g_assert_cmpuint(VECTOR(t), ==, X86_EXC_GP);
        g_assert_cmphex(t0_test_top(t), ==, bad[i].error);
        t0_test_free(t);
    }
}

T0_TEST_ASM(null_use, 32, "xor %ecx, %ecx\n mov %ecx, %es\n mov %es:0, %eax\n hlt");

/* A null selector loads into a data segment and faults when it is used. */
static void null_segment(void)
{
    struct t0_test *t = machine(32);
    t0_test_asm(t, null_use);
    RUN(t);
    g_assert_cmpuint(VECTOR(t), ==, X86_EXC_GP);
    g_assert_cmphex(t0_test_top(t), ==, 0);
    g_assert_cmphex(frame(t, 1), ==, T0_TEST_CODE + 4);
    t0_test_free(t);
}

T0_TEST_ASM(look, 64,
            "lar %ecx, %eax\n setz %bl\n lsl %ecx, %edx\n setz %bh\n"
            "verr %cx\n setz %sil\n verw %cx\n setz %dil\n hlt");

/* APM 3, LAR, LSL, VERR, VERW. */
static void looking_at_descriptors(void)
{
    struct t0_test *t = machine(64);
    t0_test_asm(t, look);
    t->s.gpr[X86_RCX] = T0_TEST_DS;
    RUN(t);
    g_assert_cmphex(t->s.gpr[X86_RAX] & 0xf0ff00, ==, 0xc09300);
    g_assert_cmphex(t->s.gpr[X86_RDX], ==, UINT32_MAX);
    g_assert_cmphex(t->s.gpr[X86_RBX] & 0xffff, ==, 0x0101);
    g_assert_cmphex(t->s.gpr[X86_RSI] & 0xff, ==, 1);
    g_assert_cmphex(t->s.gpr[X86_RDI] & 0xff, ==, 1);
    t0_test_asm(t, look);
    t->s.gpr[X86_RCX] = T0_TEST_CS64;
    RUN(t);
    g_assert_cmphex(t->s.gpr[X86_RSI] & 0xff, ==, 1);
    g_assert_cmphex(t->s.gpr[X86_RDI] & 0xff, ==, 0);
    t0_test_asm(t, look);
    t->s.gpr[X86_RCX] = 0;
    RUN(t);
    g_assert_cmphex(t->s.gpr[X86_RBX] & 0xffff, ==, 0);
    t0_test_free(t);
}

T0_TEST_ASM(via_gate, 64, "lcall *1f(%rip)\n 1: .long 0\n .short 0x4b");

/* 4.8.3, 8.3: a call gate of long mode to level 0: RSP0, SS:RSP and CS:RIP pushed. */
static void call_gate_64(void)
{
    struct t0_test *t = machine(64);
    uint8_t *g = t->ram + T0_TEST_GDT + T0_TEST_FREE;
    le16_put(g, T0_TEST_HANDLERS);
    le16_put(g + 2, T0_TEST_CS64);
    g[4] = 0;
    g[5] = 0x80 | 3 << 5 | X86_SYS_CALL;
    le16_put(g + 6, 0);
    le64_put(g + 8, 0);
    t0_test_asm(t, via_gate);
    t0_test_user(t);
    RUN(t);
    g_assert_cmpuint(t->s.cpl, ==, 0);
    g_assert_cmphex(t->s.gpr[X86_RSP], ==, T0_TEST_STACK - 0x800 - 32);
    g_assert_cmphex(frame(t, 0), ==, T0_TEST_CODE + 6);
    g_assert_cmphex(frame(t, 1), ==, T0_TEST_UCS64);
    g_assert_cmphex(frame(t, 2), ==, T0_TEST_STACK);
    g_assert_cmphex(frame(t, 3), ==, T0_TEST_UDS);
    t0_test_free(t);
}

T0_TEST_ASM(user_syscall, 64, "syscall\n nop");
T0_TEST_ASM(kernel_entry, 64, "mov %cs, %eax\n mov %ss, %edx\n sysretq");
T0_TEST_ASM(after_sysret, 64, "mov %cs, %ebx\n int3");

/* 6.1.1: SYSCALL and SYSRET. */
static void system_call(void)
{
    struct t0_test *t = machine(64);
    memcpy(t->ram + 0x12000, kernel_entry, (size_t)(kernel_entry_end - kernel_entry));
    t0_test_asm(t, user_syscall);
    memcpy(t->ram + T0_TEST_CODE + 2, after_sysret,
           (size_t)(after_sysret_end - after_sysret));
    t->s.msr.star = (uint64_t)(T0_TEST_UCS32) << 48 | (uint64_t)T0_TEST_CS32 << 32;
    t->s.msr.lstar = 0x12000;
    t->s.msr.sfmask = X86_FL_IF;
    t->s.rflags |= X86_FL_IF;
    t0_test_user(t);
    RUN(t);
    g_assert_cmphex(t->s.gpr[X86_RAX], ==, T0_TEST_CS32);
    g_assert_cmphex(t->s.gpr[X86_RDX], ==, T0_TEST_DS);
    g_assert_cmphex(t->s.gpr[X86_RCX], ==, T0_TEST_CODE + 2);
    g_assert_cmphex(t->s.gpr[X86_R11] & X86_FL_IF, ==, X86_FL_IF);
    g_assert_cmphex(frame(t, 1), ==, T0_TEST_UCS64);
    t0_test_free(t);
}

T0_TEST_ASM(port_in, 64, "in $0x60, %al\n int3");

/* 12.2.4: the I/O permission bitmap. */
static void port_permission(void)
{
    struct t0_test *t = machine(64);
    t0_test_asm(t, port_in);
    struct x86_state s = t->s;
    t0_test_user(t);
    RUN(t);
    g_assert_cmpuint(VECTOR(t), ==, X86_EXC_GP);
    t->s = s;
    t->ram[T0_TEST_TSS + 0x68 + 0x60 / 8] = 0xfe;
    t0_test_user(t);
    RUN(t);
    g_assert_cmpuint(VECTOR(t), ==, X86_EXC_BP);
    t0_test_free(t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/t0/exc/fault_frame_64", fault_frame_64);
    g_test_add_func("/t0/exc/interrupt_from_user_64", interrupt_from_user_64);
    g_test_add_func("/t0/exc/gate_privilege", gate_privilege);
    g_test_add_func("/t0/exc/ist", ist);
    g_test_add_func("/t0/exc/double_fault", double_fault);
    g_test_add_func("/t0/exc/benign_then_gp", benign_then_gp);
    g_test_add_func("/t0/exc/triple_fault", triple_fault);
    g_test_add_func("/t0/exc/single_step", single_step);
    g_test_add_func("/t0/exc/sti_shadow", sti_shadow);
    g_test_add_func("/t0/exc/interrupt_ends_halt", interrupt_ends_halt);
    g_test_add_func("/t0/exc/iret_to_user", iret_to_user);
    g_test_add_func("/t0/exc/interrupt_from_user_32", interrupt_from_user_32);
    g_test_add_func("/t0/exc/real_mode_interrupt", real_mode_interrupt);
    g_test_add_func("/t0/seg/segment_rules", segment_rules);
    g_test_add_func("/t0/seg/stack_segment_rules", stack_segment_rules);
    g_test_add_func("/t0/seg/null_segment", null_segment);
    g_test_add_func("/t0/seg/looking_at_descriptors", looking_at_descriptors);
    g_test_add_func("/t0/seg/call_gate_64", call_gate_64);
    g_test_add_func("/t0/seg/system_call", system_call);
    g_test_add_func("/t0/seg/port_permission", port_permission);
    return g_test_run();
}
