/* Privilege in legacy protected mode: call, interrupt and trap gates, far transfers and
 * returns. AMD64 APM vol. 2, 4.11 and 8.7; the instructions' pages in vol. 3. */
#include "tests/guest/lib/legacy.h"

#define LEN(a) (sizeof(a) / sizeof((a)[0]))

enum {
    SEL_A = SEL_FREE, /* what `lcall $0x80` and `ljmp $0x80` go to */
    SEL_B = SEL_FREE + 8,
    FLAT = DESC_32 | DESC_G,
};
#define NOT_P(access) ((access) & ~ACC_P)

CODE32(call_a, "pushl $0x33333333; pushl $0x22222222; pushl $0x11111111\n"
               "lcall $0x80, $0xdeadbeef; int $0x81");
#define CALL_AT 15 /* of the LCALL in it */
CODE32(jump_a, "ljmp $0x80, $0xdeadbeef");
CODE32(arrived, "int $0x80");
CODE32(arrived_81, "int $0x81");
CODE32(return_12, "lret $12");
CODE32(return_6, "lretw $6");

static uint16_t level_code(unsigned level)
{
    return ring_context(level, NULL).seg[CS];
}

static uint16_t level_data(unsigned level)
{
    return ring_context(level, NULL).seg[SS];
}

static uint32_t level_esp(unsigned level)
{
    return level == 0   ? legacy_tss.esp0
           : level == 1 ? legacy_tss.esp1
                        : legacy_tss.esp2;
}

static void set_call_gate(uint16_t sel, const void *off, unsigned access, unsigned n)
{
    set_gdt(SEL_A, gate(sel, (uint32_t)off, access, n));
}

static struct trap go(unsigned level, const void *code)
{
    struct context c = ring_context(level, code);
    return run(&c);
}

/* --- Call gates ---------------------------------------------------------------- */

GUEST_TEST(call_gate_switches_stacks_and_copies)
{
    for (unsigned level = 0; level < 3; level++) {
        for (unsigned n = 0; n < 4; n += 3) {
            set_call_gate(level_code(level) & ~3, arrived, ACC_CALL | ACC_DPL3, n);
            uint32_t user_esp = user_context(NULL).gpr[ESP] - 12;
            struct trap t = go(3, call_a);
            CHECK_EQ(t.vector, 0x80);
            CHECK_EQ(t.c.eip, (uint32_t)arrived + 2);
            CHECK_EQ(t.c.seg[CS], level_code(level));
            CHECK_EQ(t.c.seg[SS], level_data(level));
            CHECK_EQ(t.c.gpr[ESP], level_esp(level) - 16 - 4 * n);
            const uint32_t *s = (const uint32_t *)t.c.gpr[ESP];
            CHECK_EQ(s[0], (uint32_t)call_a + CALL_AT + 7);
            CHECK_EQ(s[1], SEL_UCODE);
            for (unsigned i = 0; i < n; i++) {
                CHECK_EQ(s[2 + i], 0x11111111 * (i + 1));
            }
            CHECK_EQ(s[2 + n], user_esp);
            CHECK_EQ(s[3 + n], SEL_UDATA);
        }
    }
}

GUEST_TEST(far_return_goes_out_and_drops_parameters)
{
    CODE32(out,
           "mov $0x10, %eax; mov %eax, %ds; mov $0x48, %eax; mov %eax, %fs; lret $12");
    set_call_gate(SEL_CODE, out, ACC_CALL | ACC_DPL3, 3);
    struct trap t = go(3, call_a);
    CHECK_EQ(t.vector, 0x81);
    CHECK_EQ(t.c.seg[CS], SEL_UCODE);
    CHECK_EQ(t.c.seg[SS], SEL_UDATA);
    CHECK_EQ(t.c.gpr[ESP], user_context(NULL).gpr[ESP]);
    CHECK_EQ(t.ds, 0);              /* level 0's data is not for level 3, */
    CHECK_EQ(t.fs, SEL_CONFORMING); /* conforming code is */
    CHECK_EQ(t.es, SEL_UDATA);
}

GUEST_TEST(gate_of_16_bits_makes_words)
{
    set_gdt(SEL_B, descriptor((uint32_t)arrived, 0xfffff, ACC_CODE, FLAT));
    set_call_gate(SEL_B, NULL, ACC_CALL16 | ACC_DPL3, 2);
    struct trap t = go(3, call_a);
    CHECK_EQ(t.vector, 0x80);
    CHECK_EQ(t.c.gpr[ESP], level_esp(0) - 12);
    const uint16_t *s = (const uint16_t *)t.c.gpr[ESP];
    CHECK_EQ(s[0], (uint16_t)((uint32_t)call_a + CALL_AT + 7));
    CHECK_EQ(s[1], SEL_UCODE);
    CHECK_EQ(s[2], 0x1111);
    CHECK_EQ(s[3], 0x1111);
    CHECK_EQ(s[4], (uint16_t)(user_context(NULL).gpr[ESP] - 12));
    CHECK_EQ(s[5], SEL_UDATA);
}

GUEST_TEST(conforming_target_keeps_level_and_stack)
{
    set_call_gate(SEL_CONFORMING, arrived, ACC_CALL | ACC_DPL3, 3);
    struct trap t = go(3, call_a);
    CHECK_EQ(t.vector, 0x80);
    CHECK_EQ(t.c.seg[CS], SEL_CONFORMING | 3);
    CHECK_EQ(t.c.seg[SS], SEL_UDATA);
    CHECK_EQ(t.c.gpr[ESP], user_context(NULL).gpr[ESP] - 12 - 8);
    set_gdt(SEL_B, descriptor(0, 0xfffff, ACC_CONFORMING, FLAT));
    CODE32(direct, "lcall $0x88, $arrived");
    t = go(3, direct);
    CHECK_EQ(t.vector, 0x80);
    CHECK_EQ(t.c.seg[CS], SEL_B | 3);
}

GUEST_TEST(jmp_through_a_gate_stays_at_its_level)
{
    set_call_gate(SEL_UCODE, arrived, ACC_CALL | ACC_DPL3, 0);
    struct trap t = go(3, jump_a);
    CHECK_EQ(t.vector, 0x80);
    CHECK_EQ(t.c.seg[CS], SEL_UCODE);
    set_call_gate(SEL_CODE, arrived, ACC_CALL | ACC_DPL3, 0);
    t = go(3, jump_a);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, SEL_CODE);
    CHECK_EQ(t.c.eip, (uint32_t)jump_a);
    set_call_gate(SEL_CONFORMING, arrived, ACC_CALL | ACC_DPL3, 0);
    t = go(3, jump_a);
    CHECK_EQ(t.vector, 0x80);
    t = go(0, jump_a);
    CHECK_EQ(t.vector, 0x80);
    CHECK_EQ(t.c.seg[CS], SEL_CONFORMING);
}

GUEST_TEST(gate_checks)
{
    const struct {
        uint64_t a, b;
        unsigned vector;
        uint32_t error;
    } k[] = {
        {gate(SEL_CODE, 0, ACC_CALL, 0), 0, 13, SEL_A}, /* DPL 0 */
        {gate(SEL_CODE, 0, NOT_P(ACC_CALL) | ACC_DPL3, 0), 0, 11, SEL_A},
        {gate(0, 0, ACC_CALL | ACC_DPL3, 0), 0, 13, 0},
        {gate(3, 0, ACC_CALL | ACC_DPL3, 0), 0, 13, 0},
        {gate(0x200, 0, ACC_CALL | ACC_DPL3, 0), 0, 13, 0x200},
        {gate(8 | 4, 0, ACC_CALL | ACC_DPL3, 0), 0, 13, 8 | 4}, /* there is no LDT */
        {gate(SEL_DATA, 0, ACC_CALL | ACC_DPL3, 0), 0, 13, SEL_DATA},
        {gate(SEL_TSS, 0, ACC_CALL | ACC_DPL3, 0), 0, 13, SEL_TSS},
        {gate(SEL_B, 0, ACC_CALL | ACC_DPL3, 0),
         descriptor(0, 0xfffff, NOT_P(ACC_CODE), FLAT), 11, SEL_B},
        {gate(SEL_B, 0x10000, ACC_CALL | ACC_DPL3, 0),
         descriptor(0, 0xffff, ACC_CODE, DESC_32), 13, 0},
        {gate(SEL_CODE, 0, ACC_INT | ACC_DPL3, 0), 0, 13, SEL_A},
        {gate(SEL_CODE, 0, ACC_TRAP16 | ACC_DPL3, 0), 0, 13, SEL_A},
        {descriptor(0, 0xfff, ACC_LDT | ACC_DPL3, 0), 0, 13, SEL_A},
        {descriptor(0, 0xfff, 0xe0, 0), 0, 13, SEL_A}, /* reserved types */
        {descriptor(0, 0xfff, 0xe8, 0), 0, 13, SEL_A},
        {descriptor(0, 0xfff, 0xea, 0), 0, 13, SEL_A},
        {descriptor(0, 0xfff, 0xed, 0), 0, 13, SEL_A},
        {descriptor(0, 0xfff, 0xeb, 0), 0, 13, SEL_A}, /* busy TSS */
    };
    for (unsigned i = 0; i < LEN(k); i++) {
        set_gdt(SEL_A, k[i].a);
        set_gdt(SEL_B, k[i].b);
        struct trap t = go(3, call_a);
        CHECK_EQ(t.vector, k[i].vector);
        CHECK_EQ(t.error, k[i].error);
        CHECK_EQ(t.c.eip, (uint32_t)call_a + CALL_AT);
        CHECK_EQ(t.c.gpr[ESP], user_context(NULL).gpr[ESP] - 12);
    }
}

/* 4.11.2: the stack of the inner level, here 1: #TS but for what is not present and
 * for what has no room. */
static void inner_stack_checks(const void *code, unsigned at, uint32_t esp_at)
{
    const unsigned data1 = ACC_DATA | 1 << 5;
    const struct {
        uint32_t ss;
        uint64_t b;
        unsigned vector;
        uint32_t error;
    } k[] = {
        {0, 0, 10, 0},
        {1, 0, 10, 0},
        {0x201, 0, 10, 0x200},
        {8 | 5, 0, 10, 8 | 4},
        {SEL_UDATA, 0, 10, SEL_UDATA & ~3},
        {SEL_DATA, 0, 10, SEL_DATA},
        {SEL_DATA1 & ~3, 0, 10, SEL_DATA1 & ~3}, /* RPL 0 */
        {SEL_CODE1, 0, 10, SEL_CODE1 & ~3},
        {SEL_TSS | 1, 0, 10, SEL_TSS},
        {SEL_B | 1, descriptor(0, 0xfffff, ACC_RODATA | 1 << 5, FLAT), 10, SEL_B},
        {SEL_B | 1, descriptor(0, 0xfffff, NOT_P(data1), FLAT), 12, SEL_B},
        {SEL_B | 1, descriptor(0, 0x50010, data1, DESC_32), 12, SEL_B},
        {SEL_B | 1, descriptor(0, 0x5000f, ACC_DOWN | 1 << 5, DESC_32), 12, SEL_B},
    };
    for (unsigned i = 0; i < LEN(k); i++) {
        legacy_tss.ss1 = k[i].ss;
        legacy_tss.esp1 = 0x50012;
        set_gdt(SEL_B, k[i].b);
        struct trap t = go(3, code);
        CHECK_EQ(t.vector, k[i].vector);
        CHECK_EQ(t.error, k[i].error);
        CHECK_EQ(t.c.eip, (uint32_t)code + at);
        CHECK_EQ(t.c.seg[CS], SEL_UCODE);
        CHECK_EQ(t.c.gpr[ESP], esp_at);
    }
}

GUEST_TEST(inner_stack_of_a_call_gate_is_checked)
{
    set_call_gate(SEL_CODE1 & ~3, arrived, ACC_CALL | ACC_DPL3, 0);
    inner_stack_checks(call_a, CALL_AT, user_context(NULL).gpr[ESP] - 12);
}

CODE32(int_80, "int $0x80; int $0x81");

GUEST_TEST(inner_stack_of_an_interrupt_gate_is_checked)
{
    set_idt(0x80, gate(SEL_CODE1 & ~3, (uint32_t)arrived_81, ACC_INT | ACC_DPL3, 0));
    inner_stack_checks(int_80, 0, user_context(NULL).gpr[ESP]);
}

CODE32(small_tss,
       "ltr %ax; push $0x23; push %ecx; pushl $2; push $0x1b; push %edx; iretl");

/* The TSS ends before the stack of level 1. */
GUEST_TEST(inner_stack_outside_the_tss_is_ts)
{
    set_call_gate(SEL_CODE1 & ~3, arrived, ACC_CALL | ACC_DPL3, 0);
    struct context c = kernel_context(small_tss);
    c.gpr[EAX] = SEL_B;
    c.gpr[ECX] = user_context(NULL).gpr[ESP];
    c.gpr[EDX] = (uint32_t)call_a;
    /* ESP1 and SS1 are at 0x0c to 0x11. */
    set_gdt(SEL_B, descriptor((uint32_t)&legacy_tss, 0x10, ACC_TSS, 0));
    struct trap t = run(&c);
    CHECK_EQ(t.vector, 10);
    CHECK_EQ(t.error, SEL_B);
    set_gdt(SEL_B, descriptor((uint32_t)&legacy_tss, 0x11, ACC_TSS, 0));
    t = run(&c);
    CHECK_EQ(t.vector, 0x80);
    CHECK_EQ(t.c.seg[CS], SEL_CODE1);
}

/* With a 16-bit TSS the stacks are pairs of words. */
GUEST_TEST(inner_stack_of_a_16_bit_tss)
{
    static struct tss16 tss;
    tss =
        (struct tss16){.sp0 = 0x7f00, .ss0 = SEL_DATA, .sp1 = 0x6f00, .ss1 = SEL_DATA1};
    set_call_gate(SEL_CODE1 & ~3, arrived, ACC_CALL | ACC_DPL3, 0);
    struct context c = kernel_context(small_tss);
    c.gpr[EAX] = SEL_B;
    c.gpr[ECX] = user_context(NULL).gpr[ESP];
    c.gpr[EDX] = (uint32_t)call_a;
    set_gdt(SEL_B, descriptor((uint32_t)&tss, sizeof(tss) - 1, ACC_TSS16, 0));
    struct trap t = run(&c);
    CHECK_EQ(t.vector, 0x80);
    CHECK_EQ(t.c.seg[CS], SEL_CODE1);
    CHECK_EQ(t.c.gpr[ESP], 0x6f00 - 16);
    CHECK_EQ(t.esp, 0x7f00 - 20);
}

/* --- Interrupt and trap gates ---------------------------------------------------- */

GUEST_TEST(interrupt_gates_clear_if_and_trap_gates_do_not)
{
    struct context c = kernel_context(int_80);
    c.eflags |= FL_IF | FL_NT | FL_AC | FL_DF;
    struct trap t = run(&c);
    CHECK_EQ(t.vector, 0x80);
    CHECK_EQ(t.eflags & (FL_IF | FL_NT | FL_TF | FL_AC | FL_DF), FL_AC | FL_DF);
    CHECK_EQ(t.c.eflags & (FL_IF | FL_NT), FL_IF | FL_NT);
    set_idt(0x80, gate(SEL_CODE, stub(0x80), ACC_TRAP, 0));
    t = run(&c);
    CHECK_EQ(t.eflags & (FL_IF | FL_NT), FL_IF);
    CHECK_EQ(t.esp, c.gpr[ESP] - 12);
}

GUEST_TEST(gates_of_16_bits_push_words)
{
    set_gdt(SEL_B, descriptor(stub(0x80), 0xfffff, ACC_CODE, FLAT));
    for (unsigned type = ACC_INT16; type <= ACC_TRAP16; type++) {
        set_idt(0x80, gate(SEL_B, 0, type | ACC_DPL3, 0));
        struct context c = kernel_context(int_80);
        struct trap t = run(&c);
        CHECK_EQ(t.vector, 0x80);
        CHECK_EQ(t.esp, c.gpr[ESP] - 6);
        CHECK_EQ(t.frame16[0], (uint16_t)((uint32_t)int_80 + 2));
        CHECK_EQ(t.frame16[1], SEL_CODE);
        t = go(3, int_80);
        CHECK_EQ(t.esp, level_esp(0) - 10);
        CHECK_EQ(t.frame16[3], (uint16_t)user_context(NULL).gpr[ESP]);
        CHECK_EQ(t.frame16[4], SEL_UDATA);
    }
}

GUEST_TEST(handlers_may_be_at_any_inner_level_or_conforming)
{
    CODE32(again, "int $0x81");
    for (unsigned level = 1; level < 4; level++) {
        set_idt(0x80,
                gate(level_code(level) & ~3, (uint32_t)again, ACC_INT | ACC_DPL3, 0));
        struct trap t = go(3, int_80);
        CHECK_EQ(t.vector, 0x81);
        CHECK_EQ(t.c.seg[CS], level_code(level));
        CHECK_EQ(t.c.seg[SS], level_data(level));
        uint32_t top =
            level < 3 ? level_esp(level) - 20 : user_context(NULL).gpr[ESP] - 12;
        CHECK_EQ(t.c.gpr[ESP], top);
    }
    set_idt(0x80, gate(SEL_CONFORMING, (uint32_t)again, ACC_INT | ACC_DPL3, 0));
    struct trap t = go(3, int_80);
    CHECK_EQ(t.vector, 0x81);
    CHECK_EQ(t.c.seg[CS], SEL_CONFORMING | 3);
    CHECK_EQ(t.c.gpr[ESP], user_context(NULL).gpr[ESP] - 12);
}

GUEST_TEST(idt_entries_are_checked)
{
    const uint32_t here = 0x80 * 8 + 2;
    const struct {
        uint64_t idt, b;
        unsigned vector;
        uint32_t error;
    } k[] = {
        {gate(SEL_CODE, 0, ACC_INT, 0), 0, 13, here}, /* DPL 0 */
        {gate(SEL_CODE, 0, NOT_P(ACC_INT) | ACC_DPL3, 0), 0, 11, here},
        {gate(SEL_CODE, 0, NOT_P(ACC_INT), 0), 0, 13, here}, /* DPL comes first */
        {gate(SEL_CODE, 0, ACC_CALL | ACC_DPL3, 0), 0, 13, here},
        {gate(SEL_CODE, 0, ACC_TSS | ACC_DPL3, 0), 0, 13, here},
        {gate(SEL_CODE, 0, ACC_CODE | ACC_DPL3, 0), 0, 13, here}, /* S is set */
        {0, 0, 13, here},
        {gate(0, 0, ACC_INT | ACC_DPL3, 0), 0, 13, 0},
        {gate(0x200, 0, ACC_INT | ACC_DPL3, 0), 0, 13, 0x200},
        {gate(SEL_DATA, 0, ACC_INT | ACC_DPL3, 0), 0, 13, SEL_DATA},
        {gate(SEL_B, 0, ACC_INT | ACC_DPL3, 0),
         descriptor(0, 0xfffff, NOT_P(ACC_CODE), FLAT), 11, SEL_B},
        {gate(SEL_B, 0x10000, ACC_INT | ACC_DPL3, 0),
         descriptor(0, 0xffff, ACC_CODE, DESC_32), 13, 0},
    };
    for (unsigned i = 0; i < LEN(k); i++) {
        set_idt(0x80, k[i].idt);
        set_gdt(SEL_B, k[i].b);
        struct trap t = go(3, int_80);
        CHECK_EQ(t.vector, k[i].vector);
        CHECK_EQ(t.error, k[i].error);
        CHECK_EQ(t.c.eip, (uint32_t)int_80);
    }
    set_idt(0x80, gate(SEL_UCODE & ~3, stub(0x80), ACC_INT | ACC_DPL3, 0));
    struct trap t = go(0, int_80); /* to an outer level */
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, SEL_UCODE & ~3u);
}

GUEST_TEST(idt_limit_counts_and_ext_is_of_events)
{
    CODE32(short_idt, "lidt (%eax); int $0x80");
    CODE32(short_idt_ud, "lidt (%eax); ud2");
    struct {
        uint16_t limit;
        uint32_t base;
    } __attribute__((packed)) idtr = {0x80 * 8 + 6, (uint32_t)legacy_idt};
    struct context c = kernel_context(short_idt);
    c.gpr[EAX] = (uint32_t)&idtr;
    struct trap t = run(&c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, 0x80 * 8 + 2);
    set_idt(6, 0);
    idtr.limit = 0x7ff;
    c.eip = (uint32_t)short_idt_ud;
    t = run(&c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, 6 * 8 + 3);
    CHECK_EQ(t.c.eip, (uint32_t)short_idt_ud + 3);
}

GUEST_TEST(no_room_on_the_same_stack_is_ss)
{
    /* A handler of level 1 for what happens at level 1 on a stack with 8 bytes. */
    static const uint32_t esp = 0x50008;
    set_gdt(SEL_B, descriptor(0, 0x50000, ACC_DOWN | 1 << 5, DESC_32));
    set_idt(0x80, gate(SEL_CODE1 & ~3, (uint32_t)arrived_81, ACC_INT | ACC_DPL3, 0));
    struct context c = ring_context(1, int_80);
    c.seg[SS] = SEL_B | 1;
    c.gpr[ESP] = esp;
    struct trap t = run(&c);
    CHECK_EQ(t.vector, 12);
    CHECK_EQ(t.error, 0);
    CHECK_EQ(t.c.eip, (uint32_t)int_80);
    CHECK_EQ(t.c.gpr[ESP], esp);
}

/* --- Far transfers without gates ---------------------------------------------------
 */

CODE32(far_call, "lcall $0x80, $arrived");
CODE32(far_jump, "ljmp $0x80, $arrived");
CODE32(far_jump_3, "ljmp $0x83, $arrived");

GUEST_TEST(direct_far_transfers_are_checked)
{
    const struct {
        unsigned level;
        const uint8_t *code;
        uint64_t a;
        unsigned vector;
        uint32_t error;
    } k[] = {
        {0, far_call, descriptor(0, 0xfffff, ACC_CODE, FLAT), 0x80, 0},
        {0, far_jump, descriptor(0, 0xfffff, ACC_XCODE, FLAT), 0x80, 0},
        {0, far_jump_3, descriptor(0, 0xfffff, ACC_CODE, FLAT), 13, SEL_A}, /* RPL */
        {3, far_jump, descriptor(0, 0xfffff, ACC_CODE, FLAT), 13, SEL_A},
        {3, far_jump, descriptor(0, 0xfffff, ACC_CODE | 3 << 5, FLAT), 0x80, 0},
        {0, far_jump, descriptor(0, 0xfffff, ACC_CODE | 3 << 5, FLAT), 13, SEL_A},
        {3, far_jump, descriptor(0, 0xfffff, ACC_CONFORMING, FLAT), 0x80, 0},
        {0, far_jump_3, descriptor(0, 0xfffff, ACC_CONFORMING, FLAT), 0x80, 0},
        {0, far_call, descriptor(0, 0xfffff, ACC_CONFORMING | 3 << 5, FLAT), 13, SEL_A},
        {0, far_call, descriptor(0, 0xfffff, NOT_P(ACC_CODE), FLAT), 11, SEL_A},
        {0, far_call, descriptor(0, 0xfffff, ACC_DATA, FLAT), 13, SEL_A},
        {0, far_call, descriptor(0, 0xffff, ACC_CODE, DESC_32), 13, 0},
        {3, far_call, descriptor(0, 0xfffff, NOT_P(ACC_CODE), FLAT), 13, SEL_A},
    };
    for (unsigned i = 0; i < LEN(k); i++) {
        set_gdt(SEL_A, k[i].a);
        struct trap t = go(k[i].level, k[i].code);
        CHECK_EQ(t.vector, k[i].vector);
        CHECK_EQ(t.error, k[i].error);
        if (k[i].vector != 0x80) {
            CHECK_EQ(t.c.eip, (uint32_t)k[i].code);
        } else {
            CHECK_EQ(t.c.seg[CS], SEL_A | k[i].level);
            CHECK(found_access[SEL_A / 8] & 1); /* accessed */
        }
    }
    CODE32(null_jump, "ljmp $3, $0");
    struct trap t = go(0, null_jump);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, 0);
}

/* --- Returns ---------------------------------------------------------------------- */

CODE32(lret, "lret");
CODE32(iretl, "iretl");

/* A frame for `code` (LRET or IRETL) at level @level. */
static struct trap go_back(unsigned level, const uint8_t *code, uint16_t cs,
                           uint32_t eip, uint32_t esp, uint16_t ss)
{
    struct context c = ring_context(level, code);
    uint32_t words[] = {eip, cs, FL_R1, esp, ss}, n = 0;
    c.gpr[ESP] -= 20;
    for (unsigned i = 0; i < 5; i++) {
        if (i != 2 || code == iretl) {
            ((uint32_t *)c.gpr[ESP])[n++] = words[i];
        }
    }
    return run(&c);
}

GUEST_TEST(returns_are_checked)
{
    const unsigned user = 3 << 5;
    const struct {
        unsigned level;
        uint16_t cs, ss;
        uint64_t a;
        unsigned vector;
        uint32_t error;
    } k[] = {
        {0, SEL_CODE, 0, 0, 0x80, 0},
        {0, SEL_UCODE, SEL_UDATA, 0, 0x80, 0},
        {0, SEL_CODE2, SEL_DATA2, 0, 0x80, 0},
        {0, SEL_CONFORMING | 3, SEL_UDATA, 0, 0x80, 0},
        {0, 0, 0, 0, 13, 0},
        {0, 3, SEL_UDATA, 0, 13, 0},
        {0, 0x200, 0, 0, 13, 0x200},
        {0, SEL_DATA, 0, 0, 13, SEL_DATA},
        {0, SEL_TSS, 0, 0, 13, SEL_TSS},
        {0, SEL_CODE | 3, SEL_UDATA, 0, 13, SEL_CODE}, /* DPL is not RPL */
        {0, SEL_UCODE & ~3, 0, 0, 13, SEL_UCODE & ~3},
        {3, SEL_CODE, 0, 0, 13, SEL_CODE}, /* inwards */
        {3, SEL_CONFORMING | 0, 0, 0, 13, SEL_CONFORMING},
        {0, SEL_A, 0, descriptor(0, 0xfffff, NOT_P(ACC_CODE), FLAT), 11, SEL_A},
        {0, SEL_A, 0, descriptor(0, 0xffff, ACC_CODE, DESC_32), 13, 0},
        {0, SEL_A | 1, SEL_DATA1, descriptor(0, 0xfffff, ACC_CONFORMING | user, FLAT),
         13, SEL_A},
        {0, SEL_UCODE, 0, 0, 13, 0},
        {0, SEL_UCODE, 3, 0, 13, 0},
        {0, SEL_UCODE, 0x203, 0, 13, 0x200},
        {0, SEL_UCODE, SEL_UDATA & ~3, 0, 13, SEL_UDATA & ~3},
        {0, SEL_UCODE, SEL_DATA | 3, 0, 13, SEL_DATA},
        {0, SEL_UCODE, SEL_UCODE, 0, 13, SEL_UCODE & ~3},
        {0, SEL_UCODE, SEL_A | 3, descriptor(0, 0xfffff, ACC_RODATA | user, FLAT), 13,
         SEL_A},
        {0, SEL_UCODE, SEL_A | 3, descriptor(0, 0xfffff, NOT_P(ACC_DATA | user), FLAT),
         12, SEL_A},
        {0, SEL_A | 3, SEL_UDATA, descriptor(0, 0xffff, ACC_CODE | user, DESC_32), 13,
         0},
    };
    for (unsigned i = 0; i < 2 * LEN(k); i++) {
        unsigned n = i / 2;
        const uint8_t *code = i % 2 ? iretl : lret;
        set_gdt(SEL_A, k[n].a);
        struct trap t =
            go_back(k[n].level, code, k[n].cs, (uint32_t)arrived, 0x58000, k[n].ss);
        CHECK_EQ(t.vector, k[n].vector);
        CHECK_EQ(t.error, k[n].error);
        if (k[n].vector == 0x80) {
            CHECK_EQ(t.c.seg[CS], k[n].cs);
        } else {
            CHECK_EQ(t.c.eip, (uint32_t)code);
            CHECK_EQ(t.c.seg[CS] & 3, k[n].level);
        }
        if (k[n].vector == 0x80 && k[n].ss) {
            CHECK_EQ(t.c.seg[SS], k[n].ss);
            CHECK_EQ(t.c.gpr[ESP], 0x58000);
        }
    }
}

GUEST_TEST(iret_changes_the_flags_its_level_may)
{
    struct context c = kernel_context(iretl);
    const uint32_t all = FL_IF | FL_IOPL | FL_AC | FL_VIF | FL_VIP | FL_CF;
    uint32_t *s = (uint32_t *)(c.gpr[ESP] -= 12);
    s[0] = (uint32_t)arrived, s[1] = SEL_CODE, s[2] = all | FL_R1;
    struct trap t = run(&c);
    CHECK_EQ(t.vector, 0x80);
    CHECK_EQ(t.c.eflags & all, all);
    c = user_context(iretl);
    s = (uint32_t *)(c.gpr[ESP] -= 12);
    s[0] = (uint32_t)arrived, s[1] = SEL_UCODE, s[2] = all | FL_R1;
    t = run(&c);
    CHECK_EQ(t.vector, 0x80);
    CHECK_EQ(t.c.eflags & all, FL_AC | FL_CF);
    c.eflags |= FL_IOPL;
    t = run(&c);
    CHECK_EQ(t.c.eflags & all, FL_AC | FL_CF | FL_IF | FL_IOPL);
}

GUEST_TEST(lretw_and_lret_release_parameters_of_both_stacks)
{
    set_call_gate(SEL_CODE, return_12, ACC_CALL | ACC_DPL3, 3);
    struct trap t = go(3, call_a);
    CHECK_EQ(t.vector, 0x81);
    CHECK_EQ(t.c.gpr[ESP], user_context(NULL).gpr[ESP]);
    /* LRETW to the same level: words, and 6 bytes more. */
    struct context c = kernel_context(return_6);
    set_gdt(SEL_A, descriptor((uint32_t)arrived, 0xffff, ACC_CODE, DESC_32));
    uint16_t *s = (uint16_t *)(c.gpr[ESP] -= 16);
    s[0] = 0, s[1] = SEL_A;
    t = run(&c);
    CHECK_EQ(t.vector, 0x80);
    CHECK_EQ(t.c.gpr[ESP], c.gpr[ESP] + 10);
}
