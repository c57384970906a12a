/* Virtual-8086 mode, its extensions (CR4.VME) and protected-mode virtual interrupts
 * (CR4.PVI): AMD64 APM vol. 2, 8.10 and 12.2.4; Intel SDM vol. 3, chapter 21. */
#include "tests/guest/lib/legacy.h"

#define RUN(c) run(&(c))

CODE16(store_segs, "movw %cs, 0; movw %ss, 2; movw %ds, 4; movw %es, 6\n"
                   "movw %fs, 8; movw %gs, 10; movl %esp, 12; int3");

GUEST_TEST(iret_enters_with_all_segments)
{
    struct context c = vm86_context(0);
    c.seg[ES] = 0x4100, c.seg[FS] = 0x4200, c.seg[GS] = 0x4300;
    c.gpr[ESP] = 0x12340ff0;
    PUT16(VM_CODE, store_segs);
    struct trap t = RUN(c);
    CHECK_EQ(t.vector, 3);
    const uint16_t *d = (const uint16_t *)VM_DATA;
    CHECK_EQ(d[0], VM_CODE / 16);
    CHECK_EQ(d[1], VM_STACK / 16);
    CHECK_EQ(d[2], VM_DATA / 16);
    CHECK_EQ(d[3], 0x4100);
    CHECK_EQ(d[4], 0x4200);
    CHECK_EQ(d[5], 0x4300);
    CHECK_EQ(*(const uint32_t *)(d + 6), 0x12340ff0);
}

/* 8.10: GS, FS, DS, ES above SS; VM clear and the data segments null in the handler. */
GUEST_TEST(exception_saves_and_clears_the_segments)
{
    struct context c = vm86_context(0);
    c.seg[ES] = 0x4100, c.seg[FS] = 0x4200, c.seg[GS] = 0x4300;
    c.gpr[ESP] = 0xabcd0ff0;
    PUT16(VM_CODE, store_segs);
    struct trap t = RUN(c);
    CHECK_EQ(t.esp, legacy_tss.esp0 - 36);
    CHECK_EQ(t.frame[0], store_segs_end - store_segs);
    CHECK_EQ(t.frame[1], VM_CODE / 16);
    CHECK_EQ(t.frame[2] & (FL_VM | FL_IF), FL_VM);
    CHECK_EQ(t.frame[3], 0xabcd0ff0);
    CHECK_EQ(t.frame[4], VM_STACK / 16);
    CHECK_EQ(t.frame[5], 0x4100);
    CHECK_EQ(t.frame[6], VM_DATA / 16);
    CHECK_EQ(t.frame[7], 0x4200);
    CHECK_EQ(t.frame[8], 0x4300);
    CHECK_EQ(t.eflags & FL_VM, 0);
    CHECK_EQ(t.cs, SEL_CODE);
    CHECK_EQ(t.ss, SEL_DATA);
    CHECK_EQ(t.ds | t.es | t.fs | t.gs, 0);
}

CODE16(real_addresses, "movl $0x11223344, (0x10); movw $0x4001, %ax; movw %ax, %es\n"
                       "movl %es:(0), %ebx; int3");

GUEST_TEST(segments_are_16_times_the_selector)
{
    struct context c = vm86_context(0);
    PUT16(VM_CODE, real_addresses);
    struct trap t = RUN(c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(*(uint32_t *)(VM_DATA + 0x10), 0x11223344);
    CHECK_EQ(t.c.gpr[EBX], 0x11223344);
    CHECK_EQ(t.c.seg[ES], 0x4001);
}

CODE16(past_limit, "movl $0x10000, %ebx; nop; movb %al, (%ebx)");
CODE16(word_at_end, "movw 0xffff, %ax");
CODE16(stack_at_end, "mov $0xffff, %sp; pop %ax");
CODE16(push_at_1, "mov $1, %sp; push %ax");
CODE16(jump_out, "movl $0x10000, %eax; jmpl *%eax");

GUEST_TEST(limits_are_64k)
{
    struct context c = vm86_context(3);
    PUT16(VM_CODE, past_limit);
    struct trap t = RUN(c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, 0);
    CHECK_EQ(t.c.eip, 7);
    PUT16(VM_CODE, word_at_end);
    t = RUN(c);
    CHECK_EQ(t.vector, 13);
    PUT16(VM_CODE, stack_at_end);
    t = RUN(c);
    CHECK_EQ(t.vector, 12);
    CHECK_EQ(t.error, 0);
    CHECK_EQ(t.c.gpr[ESP] & 0xffff, 0xffff);
    PUT16(VM_CODE, push_at_1);
    t = RUN(c);
    CHECK_EQ(t.vector, 12);
    PUT16(VM_CODE, jump_out);
    t = RUN(c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.c.eip, 6);
}

CODE16(op_cli, "cli; int3");
CODE16(op_sti, "sti; int3");
CODE16(op_pushf, "pushf; int3");
CODE16(op_pushfl, "pushfl; int3");
CODE16(op_popf, "popf; int3");
CODE16(op_popfl, "popfl; int3");
CODE16(op_int, "int $0x80; int3");
CODE16(op_iret, "iret; int3");
CODE16(op_iretl, "iretl; int3");

static const struct {
    const uint8_t *code;
    unsigned len;
} sensitive[] = {{op_cli, 1},    {op_sti, 1},  {op_pushf, 1},
                 {op_pushfl, 2}, {op_popf, 1}, {op_popfl, 2},
                 {op_int, 2},    {op_iret, 1}, {op_iretl, 2}};
#define NB_SENSITIVE (sizeof(sensitive) / sizeof(sensitive[0]))

/* 8.10.1: the IOPL-sensitive instructions. */
GUEST_TEST(sensitive_instructions_are_gp_below_iopl_3)
{
    for (unsigned iopl = 0; iopl < 3; iopl++) {
        for (unsigned i = 0; i < NB_SENSITIVE; i++) {
            struct context c = vm86_context(iopl);
            memcpy((void *)VM_CODE, sensitive[i].code, 4);
            struct trap t = RUN(c);
            CHECK_EQ(t.vector, 13);
            CHECK_EQ(t.error, 0);
            CHECK_EQ(t.c.eip, 0);
            CHECK_EQ(t.c.gpr[ESP], VM_SP);
        }
    }
}

GUEST_TEST(cli_and_sti_work_with_iopl_3)
{
    struct context c = vm86_context(3);
    PUT16(VM_CODE, op_sti);
    struct trap t = RUN(c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.eflags & FL_IF, FL_IF);
    c.eflags |= FL_IF;
    PUT16(VM_CODE, op_cli);
    t = RUN(c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.eflags & FL_IF, 0);
}

/* PUSHF shows IOPL, not VM; POPF changes IF but not IOPL. */
GUEST_TEST(pushf_and_popf_with_iopl_3)
{
    struct context c = vm86_context(3);
    PUT16(VM_CODE, op_pushf);
    struct trap t = RUN(c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.gpr[ESP], VM_SP - 2);
    CHECK_EQ(*(uint16_t *)(VM_STACK + VM_SP - 2), FL_IOPL | FL_R1);
    PUT16(VM_CODE, op_pushfl);
    t = RUN(c);
    CHECK_EQ(*(uint32_t *)(VM_STACK + VM_SP - 4), FL_IOPL | FL_R1);
    *(uint16_t *)(VM_STACK + VM_SP) = FL_IF | FL_CF | FL_NT;
    PUT16(VM_CODE, op_popf);
    t = RUN(c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.eflags & (FL_IF | FL_CF | FL_NT | FL_IOPL | FL_VM),
             FL_IF | FL_CF | FL_NT | FL_IOPL | FL_VM);
    *(uint32_t *)(VM_STACK + VM_SP) = FL_AC | FL_VIF | FL_VIP;
    PUT16(VM_CODE, op_popfl);
    t = RUN(c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.eflags & (FL_AC | FL_VIF | FL_VIP | FL_VM | FL_IOPL),
             FL_AC | FL_VM | FL_IOPL);
}

GUEST_TEST(iret_stays_in_vm86_with_iopl_3)
{
    struct context c = vm86_context(3);
    uint16_t *s = (uint16_t *)(VM_STACK + VM_SP);
    s[0] = 0x40, s[1] = VM_CODE / 16 + 1, s[2] = FL_IF | FL_CF;
    PUT16(VM_CODE, op_iret);
    *(uint8_t *)(VM_CODE + 0x50) = 0xcc;
    struct trap t = RUN(c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.eip, 0x41);
    CHECK_EQ(t.c.seg[CS], VM_CODE / 16 + 1);
    CHECK_EQ(t.c.gpr[ESP], VM_SP + 6);
    CHECK_EQ(t.c.eflags & (FL_IF | FL_CF | FL_IOPL | FL_VM),
             FL_IF | FL_CF | FL_IOPL | FL_VM);
    uint32_t *w = (uint32_t *)(VM_STACK + VM_SP);
    w[0] = 0x40, w[1] = VM_CODE / 16 + 1, w[2] = FL_R1; /* VM clear in the image */
    PUT16(VM_CODE, op_iretl);
    t = RUN(c);
    CHECK_EQ(t.c.eflags & (FL_IF | FL_IOPL | FL_VM), FL_IOPL | FL_VM);
    w[0] = 0x10000;
    t = RUN(c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.c.eip, 0);
    CHECK_EQ(t.c.gpr[ESP], VM_SP);
}

GUEST_TEST(int_n_goes_through_the_idt_with_iopl_3)
{
    struct context c = vm86_context(3);
    c.eflags |= FL_IF;
    PUT16(VM_CODE, op_int);
    struct trap t = RUN(c);
    CHECK_EQ(t.vector, 0x80);
    CHECK_EQ(t.c.eip, 2);
    CHECK_EQ(t.esp, legacy_tss.esp0 - 36);
    CHECK_EQ(t.frame[8], VM_DATA / 16);
    CHECK_EQ(t.eflags & FL_IF, 0);
    CHECK_EQ(t.c.eflags & FL_IF, FL_IF);
    set_idt(0x80, gate(SEL_CODE, stub(0x80), ACC_TRAP | ACC_DPL3, 0));
    t = RUN(c);
    CHECK_EQ(t.eflags & FL_IF, FL_IF);
    set_idt(0x80, gate(SEL_CODE, stub(0x80), ACC_INT, 0));
    t = RUN(c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, 0x80 * 8 + 2);
    CHECK_EQ(t.c.eip, 0);
}

/* 8.10.2: only to nonconforming code of level 0. */
GUEST_TEST(gates_lead_to_level_0_only)
{
    static const uint16_t bad[] = {SEL_CONFORMING, SEL_UCODE, SEL_CODE1};
    struct context c = vm86_context(3);
    PUT16(VM_CODE, op_int);
    for (unsigned i = 0; i < 3; i++) {
        set_idt(0x80, gate(bad[i], stub(0x80), ACC_INT | ACC_DPL3, 0));
        struct trap t = RUN(c);
        CHECK_EQ(t.vector, 13);
        CHECK_EQ(t.error, bad[i] & ~3u);
        CHECK_EQ(t.c.eip, 0);
    }
}

CODE16(op_into, "into; int3");
CODE16(op_into_taken, "mov $0x7f, %al; inc %al; into");

GUEST_TEST(int3_and_into_do_not_depend_on_iopl)
{
    struct context c = vm86_context(0);
    PUT16(VM_CODE, op_into_taken);
    struct trap t = RUN(c);
    CHECK_EQ(t.vector, 4);
    CHECK_EQ(t.c.eip, 5);
    PUT16(VM_CODE, op_into);
    t = RUN(c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.eip, 2);
}

GUEST_TEST(a_16_bit_gate_makes_a_frame_of_words)
{
    struct context c = vm86_context(3);
    c.seg[ES] = 0x4100, c.seg[FS] = 0x4200, c.seg[GS] = 0x4300;
    set_gdt(SEL_FREE, descriptor(stub(0x80), 0xfffff, ACC_CODE, DESC_32 | DESC_G));
    set_idt(0x80, gate(SEL_FREE, 0, ACC_INT16 | ACC_DPL3, 0));
    PUT16(VM_CODE, op_int);
    struct trap t = RUN(c);
    CHECK_EQ(t.vector, 0x80);
    CHECK_EQ(t.esp, legacy_tss.esp0 - 18);
    static const uint16_t want[] = {VM_SP,        VM_STACK / 16, 0x4100,
                                    VM_DATA / 16, 0x4200,        0x4300};
    CHECK_EQ(t.frame16[0], 2);
    CHECK_EQ(t.frame16[1], VM_CODE / 16);
    CHECK_EQ(t.frame16[2], FL_R1 | FL_IOPL);
    for (unsigned i = 0; i < 6; i++) {
        CHECK_EQ(t.frame16[3 + i], want[i]);
    }
}

/* --- What protected mode has --------------------------------------------------- */

CODE16(p_lar, "lar %ax, %bx; int3");
CODE16(p_lsl, "lsl %ax, %bx; int3");
CODE16(p_verr, "verr %ax; int3");
CODE16(p_verw, "verw %ax; int3");
CODE16(p_arpl, "arpl %ax, %bx; int3");
CODE16(p_sldt, "sldt %ax; int3");
CODE16(p_str, "str %ax; int3");
CODE16(p_lldt, "lldt %ax; int3");
CODE16(p_ltr, "ltr %ax; int3");

GUEST_TEST(instructions_of_protected_mode_are_ud)
{
    static const uint8_t *const code[] = {p_lar,  p_lsl, p_verr, p_verw, p_arpl,
                                          p_sldt, p_str, p_lldt, p_ltr};
    struct context c = vm86_context(3);
    for (unsigned i = 0; i < sizeof(code) / sizeof(code[0]); i++) {
        memcpy((void *)VM_CODE, code[i], 4);
        struct trap t = RUN(c);
        CHECK_EQ(t.vector, 6);
        CHECK_EQ(t.c.eip, 0);
    }
}

CODE16(q_hlt, "hlt; int3");
CODE16(q_lgdt, "lgdt (0); int3");
CODE16(q_lidt, "lidt (0); int3");
CODE16(q_cr0, "mov %cr0, %eax; int3");
CODE16(q_dr0, "mov %dr0, %eax; int3");
CODE16(q_clts, "clts; int3");
CODE16(q_lmsw, "lmsw %ax; int3");
CODE16(q_invd, "invd; int3");
CODE16(q_rdmsr, "rdmsr; int3");

GUEST_TEST(privileged_instructions_are_gp)
{
    static const uint8_t *const code[] = {q_hlt,  q_lgdt, q_lidt, q_cr0,  q_dr0,
                                          q_clts, q_lmsw, q_invd, q_rdmsr};
    struct context c = vm86_context(3);
    for (unsigned i = 0; i < sizeof(code) / sizeof(code[0]); i++) {
        memcpy((void *)VM_CODE, code[i], 6);
        struct trap t = RUN(c);
        CHECK_EQ(t.vector, 13);
        CHECK_EQ(t.error, 0);
        CHECK_EQ(t.c.eip, 0);
    }
}

CODE16(smsw_sgdt, "smsw %ax; sgdt (0); sidt (8); int3");

GUEST_TEST(smsw_sgdt_and_sidt_work)
{
    struct context c = vm86_context(0);
    PUT16(VM_CODE, smsw_sgdt);
    struct trap t = RUN(c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.gpr[EAX] & 1, 1);
    CHECK_EQ(*(uint16_t *)VM_DATA, sizeof(legacy_gdt) - 1);
    CHECK_EQ(*(uint16_t *)(VM_DATA + 8), sizeof(legacy_idt) - 1);
}

CODE16(in_byte, "mov $0x61, %dx; in (%dx), %al; int3");
CODE16(in_word, "mov $0x61, %dx; in (%dx), %ax; int3");

/* 12.2.4: the bitmap decides whatever IOPL is. */
GUEST_TEST(ports_obey_the_bitmap_with_every_iopl)
{
    for (unsigned iopl = 0; iopl < 4; iopl += 3) {
        struct context c = vm86_context(iopl);
        IO_BITMAP[0x61 / 8] = 0xff;
        PUT16(VM_CODE, in_byte);
        struct trap t = RUN(c);
        CHECK_EQ(t.vector, 13);
        CHECK_EQ(t.c.eip, 3);
        IO_BITMAP[0x61 / 8] = (uint8_t)~2;
        t = RUN(c);
        CHECK_EQ(t.vector, 3);
        PUT16(VM_CODE, in_word);
        t = RUN(c);
        CHECK_EQ(t.vector, 13);
        IO_BITMAP[0x61 / 8] = (uint8_t)~6;
        t = RUN(c);
        CHECK_EQ(t.vector, 3);
        legacy_tss.io_base = 0xffff;
        t = RUN(c);
        CHECK_EQ(t.vector, 13);
        legacy_tss.io_base = (uint16_t)(IO_BITMAP - (uint8_t *)&legacy_tss);
    }
}

CODE16(far_code, "lcall $0x2010, $0x8; int3");
CODE16(far_target, "mov %cs, %ax; lret $2");

GUEST_TEST(far_calls_are_those_of_real_mode)
{
    struct context c = vm86_context(0);
    PUT16(VM_CODE, far_code);
    PUT16(0x20108, far_target);
    struct trap t = RUN(c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.gpr[EAX], 0x2010);
    CHECK_EQ(t.c.seg[CS], VM_CODE / 16);
    CHECK_EQ(t.c.gpr[ESP], VM_SP + 2);
}

GUEST_TEST(single_step_traps_in_vm86)
{
    struct context c = vm86_context(3);
    c.eflags |= FL_TF;
    PUT16(VM_CODE, op_cli);
    struct trap t = RUN(c);
    CHECK_EQ(t.vector, 1);
    CHECK_EQ(t.c.eip, 1);
    CHECK_EQ(t.c.eflags & (FL_TF | FL_VM), FL_TF | FL_VM);
    CHECK_EQ(t.eflags & (FL_TF | FL_VM), 0);
}

CODE32(iretl_here, "iretl");

/* EIP past the limit: the IRET itself faults, at level 0. */
GUEST_TEST(iret_to_vm86_checks_eip)
{
    struct context c = kernel_context(iretl_here);
    c.gpr[ESP] -= 36;
    uint32_t *s = (uint32_t *)c.gpr[ESP];
    s[0] = 0x10000, s[1] = VM_CODE / 16, s[2] = FL_VM | FL_R1;
    s[3] = VM_SP, s[4] = VM_STACK / 16;
    s[5] = s[6] = s[7] = s[8] = VM_DATA / 16;
    struct trap t = RUN(c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, 0);
    CHECK_EQ(t.c.seg[CS], SEL_CODE);
    CHECK_EQ(t.c.eip, (uint32_t)iretl_here);
}

/* Only level 0 gets there: elsewhere IRET leaves VM alone. */
GUEST_TEST(iret_at_level_3_does_not_enter_vm86)
{
    struct context c = user_context(iretl_here);
    c.gpr[ESP] -= 36;
    uint32_t *s = (uint32_t *)c.gpr[ESP];
    s[0] = (uint32_t)iretl_here, s[1] = SEL_UCODE, s[2] = FL_VM | FL_R1;
    s[3] = 0xffff0000; /* of the second IRET */
    s[4] = 0x1234;
    struct trap t = RUN(c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, 0x1234 & ~3u);
    CHECK_EQ(t.c.eflags & FL_VM, 0);
}

/* --- CR4.VME ------------------------------------------------------------------ */

static bool vme(void)
{
    if (!has_cpuid_1(3, 1)) {
        guest_skip("no VME");
        return false;
    }
    return true;
}

static struct trap run_vme(struct context *c)
{
    write_cr4(CR4_VME);
    return run(c);
}

GUEST_TEST(vme_cli_and_sti_work_on_vif)
{
    struct context c = vm86_context(0);
    if (!vme()) {
        return;
    }
    c.eflags |= FL_IF;
    PUT16(VM_CODE, op_sti);
    struct trap t = run_vme(&c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.eflags & (FL_VIF | FL_IF), FL_VIF | FL_IF);
    c.eflags |= FL_VIF;
    PUT16(VM_CODE, op_cli);
    t = run_vme(&c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.eflags & (FL_VIF | FL_IF), FL_IF);
    c.eflags = (c.eflags & ~(uint32_t)FL_VIF) | FL_VIP;
    PUT16(VM_CODE, op_sti);
    t = run_vme(&c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.c.eip, 0);
    CHECK_EQ(t.c.eflags & FL_VIF, 0);
}

GUEST_TEST(vme_pushf_shows_vif_as_if)
{
    struct context c = vm86_context(0);
    if (!vme()) {
        return;
    }
    c.eflags |= FL_VIF;
    PUT16(VM_CODE, op_pushf);
    struct trap t = run_vme(&c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(*(uint16_t *)(VM_STACK + VM_SP - 2), FL_IOPL | FL_IF | FL_R1);
    PUT16(VM_CODE, op_pushfl);
    t = run_vme(&c);
    CHECK_EQ(t.vector, 13);
    c.eflags = (c.eflags & ~(uint32_t)FL_VIF) | FL_IF;
    PUT16(VM_CODE, op_pushf);
    t = run_vme(&c);
    CHECK_EQ(*(uint16_t *)(VM_STACK + VM_SP - 2), FL_IOPL | FL_R1);
}

GUEST_TEST(vme_popf_sets_vif)
{
    struct context c = vm86_context(0);
    if (!vme()) {
        return;
    }
    uint16_t *s = (uint16_t *)(VM_STACK + VM_SP);
    *s = FL_IF | FL_IOPL | FL_CF;
    PUT16(VM_CODE, op_popf);
    struct trap t = run_vme(&c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.eflags & (FL_VIF | FL_IF | FL_IOPL | FL_CF), FL_VIF | FL_CF);
    c.eflags |= FL_VIP;
    t = run_vme(&c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.c.gpr[ESP], VM_SP);
    *s = FL_CF;
    t = run_vme(&c);
    CHECK_EQ(t.vector, 3);
    c.eflags &= ~(uint32_t)FL_VIP;
    *s = FL_TF;
    t = run_vme(&c);
    CHECK_EQ(t.vector, 13);
    PUT16(VM_CODE, op_popfl);
    *s = 0;
    t = run_vme(&c);
    CHECK_EQ(t.vector, 13);
}

GUEST_TEST(vme_iret_sets_vif)
{
    struct context c = vm86_context(0);
    if (!vme()) {
        return;
    }
    uint16_t *s = (uint16_t *)(VM_STACK + VM_SP);
    s[0] = 0x40, s[1] = VM_CODE / 16, s[2] = FL_IF | FL_CF;
    *(uint8_t *)(VM_CODE + 0x40) = 0xcc;
    PUT16(VM_CODE, op_iret);
    struct trap t = run_vme(&c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.eip, 0x41);
    CHECK_EQ(t.c.eflags & (FL_VIF | FL_IF | FL_IOPL | FL_CF), FL_VIF | FL_CF);
    c.eflags |= FL_VIP;
    t = run_vme(&c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.c.eip, 0);
    PUT16(VM_CODE, op_iretl);
    c.eflags &= ~(uint32_t)FL_VIP;
    t = run_vme(&c);
    CHECK_EQ(t.vector, 13);
}

/* SDM table 21-2, methods 5 and 6: a clear bit leads to the program's own handler. */
GUEST_TEST(vme_int_is_redirected_by_a_clear_bit)
{
    if (!vme()) {
        return;
    }
    for (unsigned iopl = 0; iopl < 4; iopl += 3) {
        struct context c = vm86_context(iopl);
        c.eflags |= FL_IF | FL_VIF | FL_CF;
        ((uint32_t *)0)[0x80] = (VM_CODE / 16 + 2) << 16 | 0x30;
        *(uint8_t *)(VM_CODE + 0x50) = 0xcc;
        PUT16(VM_CODE, op_int);
        struct trap t = run_vme(&c);
        CHECK_EQ(t.vector, 3);
        CHECK_EQ(t.c.eip, 0x31);
        CHECK_EQ(t.c.seg[CS], VM_CODE / 16 + 2);
        CHECK_EQ(t.c.gpr[ESP], VM_SP - 6);
        CHECK_EQ(t.c.eflags & (FL_IF | FL_VIF | FL_VM),
                 iopl ? FL_VIF | FL_VM : FL_IF | FL_VM);
        const uint16_t *s = (const uint16_t *)(VM_STACK + VM_SP - 6);
        CHECK_EQ(s[0], 2);
        CHECK_EQ(s[1], VM_CODE / 16);
        CHECK_EQ(s[2], FL_IOPL | FL_IF | FL_CF | FL_R1);
    }
}

/* Methods 3 and 4: a set bit leads to the monitor. */
GUEST_TEST(vme_int_goes_to_the_monitor_by_a_set_bit)
{
    if (!vme()) {
        return;
    }
    REDIRECTION[0x80 / 8] = 1;
    PUT16(VM_CODE, op_int);
    struct context c = vm86_context(0);
    struct trap t = run_vme(&c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, 0);
    CHECK_EQ(t.c.eip, 0);
    c = vm86_context(3);
    t = run_vme(&c);
    CHECK_EQ(t.vector, 0x80);
    CHECK_EQ(t.c.eip, 2);
}

/* SDM 21.3.2: both flags set at the beginning of an instruction. */
GUEST_TEST(vme_pending_virtual_interrupt_is_gp)
{
    if (!vme()) {
        return;
    }
    struct context c = vm86_context(0);
    c.eflags |= FL_VIF | FL_VIP;
    PUT16(VM_CODE, op_cli);
    struct trap t = run_vme(&c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, 0);
    CHECK_EQ(t.c.eip, 0);
    CHECK_EQ(t.c.eflags & FL_VM, FL_VM);
    t = RUN(c); /* without CR4.VME it is nothing; CLI faults */
    CHECK_EQ(t.vector, 13);
}

/* --- CR4.PVI ------------------------------------------------------------------ */

CODE32(u_cli, "cli; int3");
CODE32(u_sti, "sti; int3");

GUEST_TEST(pvi_gives_level_3_a_virtual_interrupt_flag)
{
    if (!vme()) {
        return;
    }
    struct context c = user_context(u_sti);
    struct trap t = RUN(c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.c.eip, (uint32_t)u_sti);
    write_cr4(CR4_PVI);
    t = RUN(c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.eflags & (FL_VIF | FL_IF), FL_VIF);
    c = user_context(u_cli);
    c.eflags |= FL_VIF | FL_IF;
    write_cr4(CR4_PVI);
    t = RUN(c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.eflags & (FL_VIF | FL_IF), FL_IF);
    c = user_context(u_sti);
    c.eflags |= FL_VIP;
    write_cr4(CR4_PVI);
    t = RUN(c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.c.eip, (uint32_t)u_sti);
    c = ring_context(2, u_sti); /* levels 1 and 2 have none */
    write_cr4(CR4_PVI);
    t = RUN(c);
    CHECK_EQ(t.vector, 13);
}

GUEST_TEST(pvi_needs_iopl_below_3_to_be_virtual)
{
    if (!vme()) {
        return;
    }
    struct context c = user_context(u_sti);
    c.eflags |= FL_IOPL;
    write_cr4(CR4_PVI);
    struct trap t = RUN(c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.eflags & (FL_VIF | FL_IF), FL_IF);
}
