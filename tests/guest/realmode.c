/* Real mode: AMD64 APM vol. 2, 4.3, 4.12 and 8.6; Intel SDM vol. 3, 21.1. */
#include "tests/guest/lib/legacy.h"

#define LEN(a) (sizeof(a) / sizeof((a)[0]))

static struct trap go(const uint8_t *code, unsigned len, struct context *c)
{
    memcpy((void *)VM_CODE, code, len);
    return run_real(c);
}
#define GO(code, c) go(code, (unsigned)(code##_end - code), &(c))

/* --- Interrupts ---------------------------------------------------------------- */

CODE16(int_21, "int $0x21");

GUEST_TEST(interrupts_go_through_the_vector_table)
{
    struct context c = real_context();
    c.eflags |= FL_CF | FL_IF | FL_NT | FL_IOPL;
    struct trap t = GO(int_21, c);
    CHECK_EQ(t.vector, 0x21);
    CHECK_EQ(t.c.eip, 2);
    CHECK_EQ(t.c.seg[CS], VM_CODE / 16);
    CHECK_EQ(t.c.eflags, FL_CF | FL_IF | FL_NT | FL_IOPL | FL_R1);
    CHECK_EQ(t.esp, VM_SP - 6);
    CHECK_EQ(t.eflags & (FL_IF | FL_TF), 0);
    CHECK_EQ(t.eflags & (FL_NT | FL_IOPL), FL_NT | FL_IOPL);
}

CODE16(sti_iret, "movw $handler - sti_iret, %es:(0x84); movw %cs, %es:(0x86)\n"
                 "sti; stc; int $0x21; int3\n"
                 "handler: clc; iret");

GUEST_TEST(iret_restores_the_flags)
{
    struct context c = real_context();
    c.seg[ES] = 0;
    struct trap t = GO(sti_iret, c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.eflags & (FL_IF | FL_CF), FL_IF | FL_CF);
    CHECK_EQ(t.c.gpr[ESP], VM_SP);
}

CODE16(iretl16, "pushl $0x246ed7; pushl $0x2002; pushl $0x40; iretl");

/* A 32-bit IRET changes all but VM, VIF and VIP (APM 3, IRET). */
GUEST_TEST(iret_of_32_bits)
{
    struct context c = real_context();
    *(uint8_t *)(VM_CODE + 0x60) = 0xcc;
    struct trap t = GO(iretl16, c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.eip, 0x41);
    CHECK_EQ(t.c.seg[CS], 0x2002);
    CHECK_EQ(t.c.eflags, 0x6ed7);
    CHECK_EQ(t.eflags & (FL_VM | FL_VIF | FL_VIP), 0);
}

CODE16(short_table, "int $0x21");

/* 8.6.1: a vector past the table's limit is #GP, of which there is no error code. */
GUEST_TEST(vectors_past_the_limit_are_gp)
{
    struct context c = real_context();
    real_idt_limit = 0x21 * 4 + 2;
    struct trap t = GO(short_table, c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.c.eip, 0);
    CHECK_EQ(t.esp, VM_SP - 6);
    real_idt_limit = 0x21 * 4 + 3;
    t = GO(short_table, c);
    CHECK_EQ(t.vector, 0x21);
    real_idt_limit = 13 * 4 + 2; /* which has #GP itself outside */
    t = GO(short_table, c);
    CHECK_EQ(t.vector, 8);
    CHECK_EQ(t.c.eip, 0);
}

/* Three pushes, each of which wraps by itself. */
GUEST_TEST(frames_wrap_around_the_segment)
{
    for (unsigned sp = 0; sp <= 4; sp += 2) {
        struct context c = real_context();
        c.gpr[ESP] = sp;
        struct trap t = GO(int_21, c);
        CHECK_EQ(t.vector, 0x21);
        CHECK_EQ(t.esp, (sp - 6) & 0xffff);
        CHECK_EQ(t.c.eip, 2);
        CHECK_EQ(t.c.seg[CS], VM_CODE / 16);
    }
}

CODE16(x_de, "xor %cx, %cx; div %cx");
CODE16(x_aam, "aam $0");
CODE16(x_idiv, "mov $0x7fff, %ax; mov $0xffff, %dx; mov $1, %cx; idiv %cx");
CODE16(x_br, "mov $5, %ax; movl $0x40001, (0); bound %ax, (0)");
CODE16(x_of, "mov $0x7f, %al; inc %al; into");
CODE16(x_ud, "ud2");
CODE16(x_lar, "lar %ax, %ax");
CODE16(x_sldt, "sldt %ax");
CODE16(x_ltr, "ltr %ax");
CODE16(x_arpl, "arpl %ax, %ax");
CODE16(x_verr, "verr %ax");
CODE16(x_lock, "lock; nop");
CODE16(x_mov_cs, ".byte 0x8e, 0xc8");
CODE16(x_bound_reg, ".byte 0x62, 0xc0");
CODE16(x_lds_reg, ".byte 0xc5, 0xc0");
CODE16(x_long, ".rept 15\n es\n .endr\n nop");
CODE16(x_nm, "mov %cr0, %eax; or $8, %al; mov %eax, %cr0; fnop");
CODE16(x_int1, ".byte 0xf1");

GUEST_TEST(exceptions_have_their_vectors_and_addresses)
{
    static const struct {
        const uint8_t *code, *end;
        uint8_t vector, ip;
    } k[] = {
        {x_de, x_de_end, 0, 2},           {x_aam, x_aam_end, 0, 0},
        {x_idiv, x_idiv_end, 0, 9},       {x_br, x_br_end, 5, 12},
        {x_of, x_of_end, 4, 5},           {x_ud, x_ud_end, 6, 0},
        {x_lar, x_lar_end, 6, 0},         {x_sldt, x_sldt_end, 6, 0},
        {x_ltr, x_ltr_end, 6, 0},         {x_arpl, x_arpl_end, 6, 0},
        {x_verr, x_verr_end, 6, 0},       {x_lock, x_lock_end, 6, 0},
        {x_mov_cs, x_mov_cs_end, 6, 0},   {x_bound_reg, x_bound_reg_end, 6, 0},
        {x_lds_reg, x_lds_reg_end, 6, 0}, {x_long, x_long_end, 13, 0},
        {x_nm, x_nm_end, 7, 8},           {x_int1, x_int1_end, 1, 1},
    };
    for (unsigned i = 0; i < LEN(k); i++) {
        struct context c = real_context();
        memset((void *)VM_CODE, 0xcc, 64);
        struct trap t = go(k[i].code, (unsigned)(k[i].end - k[i].code), &c);
        CHECK_EQ(t.vector, k[i].vector);
        CHECK_EQ(t.c.eip, k[i].ip);
        CHECK_EQ(t.c.gpr[ESP], VM_SP);
    }
}

CODE16(set_tf, "pushf; pop %ax; or $1, %ah; push %ax; popf; nop; nop");

GUEST_TEST(single_step)
{
    struct context c = real_context();
    struct trap t = GO(set_tf, c);
    CHECK_EQ(t.vector, 1);
    CHECK_EQ(t.c.eip, set_tf_end - set_tf - 1);
    CHECK_EQ(t.c.eflags & FL_TF, FL_TF);
    CHECK_EQ(t.eflags & FL_TF, 0);
}

/* --- Limits ---------------------------------------------------------------------- */

CODE16(l_word, "mov $0xffff, %bx; mov (%bx), %ax; int3");
CODE16(l_dword, "mov $0xfffd, %bx; movl %eax, (%bx); int3");
CODE16(l_byte, "mov $0xffff, %bx; mov (%bx), %al; int3");
CODE16(l_wrap, "mov $0xffff, %bx; mov 1(%bx), %ax; int3"); /* the address wraps */
CODE16(l_long, "movl $0x10000, %ebx; mov (%ebx), %al; int3");
CODE16(l_long_neg, "movl $-1, %ebx; mov (%ebx), %al; int3");
CODE16(l_bp, "mov $0xffff, %bp; mov (%bp), %ax; int3");
CODE16(l_pop, "mov $0xffff, %sp; pop %ax; int3");
CODE16(l_pop_long, "mov $0xfffe, %sp; popl %eax; int3");
CODE16(l_esp, "movl $0x20000, %esp; movl (%esp), %eax; int3");
CODE16(l_jump, "movl $0x10000, %eax; jmpl *%eax; int3");
CODE16(l_call, "movl $0x10000, %eax; calll *%eax; int3");
CODE16(l_movs, "mov $0xffff, %si; xor %di, %di; movsw; int3");
CODE16(l_stos, "mov $0xffff, %di; stosw; int3");
CODE16(l_fld, "fldl 0xfffc; int3");
CODE16(l_fild, "mov $0xfffd, %bp; fildl (%bp); int3");
CODE16(l_les, "les 0xfffe, %di; int3");
CODE16(l_cmpxchg8, "cmpxchg8b 0xfffc; int3");
CODE16(l_enter, "xor %sp, %sp; enter $0xfff0, $0; int3");

GUEST_TEST(accesses_past_64k_fault)
{
    static const struct {
        const uint8_t *code, *end;
        uint8_t vector, ip;
    } k[] = {
        {l_word, l_word_end, 13, 3},
        {l_dword, l_dword_end, 13, 3},
        {l_byte, l_byte_end, 3, 6},
        {l_wrap, l_wrap_end, 3, 7},
        {l_long, l_long_end, 13, 6},
        {l_long_neg, l_long_neg_end, 13, 6},
        {l_bp, l_bp_end, 12, 3},
        {l_pop, l_pop_end, 12, 3},
        {l_pop_long, l_pop_long_end, 12, 3},
        {l_esp, l_esp_end, 12, 6},
        {l_jump, l_jump_end, 13, 6},
        {l_call, l_call_end, 13, 6},
        {l_movs, l_movs_end, 13, 5},
        {l_stos, l_stos_end, 13, 3},
        {l_fld, l_fld_end, 13, 0},
        {l_fild, l_fild_end, 12, 3},
        {l_les, l_les_end, 3, 5}, /* two accesses, the second wraps */
        {l_cmpxchg8, l_cmpxchg8_end, 13, 0},
        {l_enter, l_enter_end, 3, 7},
    };
    for (unsigned i = 0; i < LEN(k); i++) {
        struct context c = real_context();
        memset((void *)VM_CODE, 0xcc, 64);
        struct trap t = go(k[i].code, (unsigned)(k[i].end - k[i].code), &c);
        CHECK_EQ(t.vector, k[i].vector);
        CHECK_EQ(t.c.eip, k[i].ip);
    }
}

/* Execution does not wrap: what follows the last byte is past the limit. */
GUEST_TEST(code_ends_at_64k)
{
    struct context c = real_context();
    memset((void *)(VM_CODE + 0xfff0), 0x90, 16);
    c.eip = 0xfff8;
    struct trap t = run_real(&c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.c.eip, 0);                              /* the low half of 0x10000 */
    memcpy((void *)(VM_CODE + 0xfffe), "\xb8\x12", 2); /* MOV AX, imm16 */
    t = run_real(&c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.c.eip, 0xfffe);
    memcpy((void *)(VM_CODE + 0xfffe), "\xeb\x0e", 2); /* JMP +14: IP wraps */
    *(uint8_t *)(VM_CODE + 0x0e) = 0xcc;
    t = run_real(&c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.eip, 0x0f);
    memset((void *)VM_CODE, 0xcc, 0x10000);
}

CODE16(wrap_sp,
       "xor %sp, %sp; mov $0x1234, %ax; push %ax; mov %sp, %bx; pop %cx; mov %sp, %dx\n"
       "int3");

GUEST_TEST(the_stack_pointer_wraps)
{
    struct context c = real_context();
    struct trap t = GO(wrap_sp, c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.gpr[EBX], 0xfffe);
    CHECK_EQ(t.c.gpr[ECX], 0x1234);
    CHECK_EQ(t.c.gpr[EDX], 0);
}

CODE16(push_esp,
       "movl $0xabcd1000, %esp; push %sp; pop %ax; pusha; popa; enter $4, $0\n"
       "movl %esp, %ebx; leave; movl %esp, %ecx; int3");

GUEST_TEST(a_16_bit_stack_leaves_the_upper_half_of_esp)
{
    struct context c = real_context();
    c.gpr[EBP] = 0x77770040;
    struct trap t = GO(push_esp, c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.gpr[EAX] & 0xffff, 0x1000);
    CHECK_EQ(t.c.gpr[EBX], 0xabcd0ffa);
    CHECK_EQ(t.c.gpr[ECX], 0xabcd1000);
    CHECK_EQ(t.c.gpr[EBP], 0x77770040);
}

/* --- Strings ---------------------------------------------------------------------- */

CODE16(s_stosb, "mov $0xfffc, %di; mov $8, %cx; mov $0x5a, %al; rep stosb; int3");
CODE16(s_movsb, "mov $0xfffe, %si; mov $0x100, %di; mov $4, %cx; rep movsb; int3");
CODE16(s_down, "std; mov $2, %si; mov $0x103, %di; mov $5, %cx; rep movsb; int3");
CODE16(s_repw, "mov $0xfffb, %di; mov $8, %cx; xor %ax, %ax; rep stosw; int3");
CODE16(s_ecx, "movl $0x10002, %ecx; mov $0x200, %di; rep stosb; int3");

GUEST_TEST(strings_wrap_and_stop_at_the_limit)
{
    struct context c = real_context();
    struct trap t = GO(s_stosb, c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.gpr[EDI], 4);
    CHECK_EQ(*(uint32_t *)(VM_DATA + 0xfffc), 0x5a5a5a5a);
    CHECK_EQ(*(uint32_t *)VM_DATA, 0x5a5a5a5a);
    memcpy((void *)(VM_DATA + 0xfffe), "ab", 2);
    memcpy((void *)VM_DATA, "cd", 2);
    t = GO(s_movsb, c);
    CHECK_EQ(t.c.gpr[ESI], 2);
    CHECK_EQ(t.c.gpr[EDI], 0x104);
    CHECK(!memcmp((void *)(VM_DATA + 0x100), "abcd", 4));
    *(uint8_t *)(VM_DATA + 2) = 'e';
    t = GO(s_down, c);
    CHECK_EQ(t.c.gpr[ESI], 0xfffd);
    CHECK(!memcmp((void *)(VM_DATA + 0xff), "abcde", 5));
    t = GO(s_repw, c); /* two words fit, the third crosses the end */
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.c.gpr[EDI], 0xffff);
    CHECK_EQ(t.c.gpr[ECX], 6);
    CHECK_EQ(t.c.eip, 8);
    t = GO(s_ecx, c); /* CX counts, not ECX */
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.gpr[ECX], 0x10000);
    CHECK_EQ(t.c.gpr[EDI], 0x202);
}

/* --- Transfers and segments ---------------------------------------------------------
 */

CODE16(far, "lcall $0x2010, $0x8; int3");
CODE16(far_in, "mov %cs, %ax; mov %sp, %bx; lret $4");

GUEST_TEST(far_calls_and_returns)
{
    struct context c = real_context();
    PUT16(0x20108, far_in);
    struct trap t = GO(far, c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.gpr[EAX], 0x2010);
    CHECK_EQ(t.c.gpr[EBX], VM_SP - 4);
    CHECK_EQ(t.c.gpr[ESP], VM_SP + 4);
    CHECK_EQ(t.c.seg[CS], VM_CODE / 16);
}

CODE16(pointers,
       "les (0x10), %di; lds %cs:0x80, %si; lfs %es:(%di), %bx; lss %cs:0x84, %sp\n"
       "mov %ds, %ax; push %fs; pop %dx; mov %ss, %cx; int3");

GUEST_TEST(far_pointers_load_segments)
{
    struct context c = real_context();
    *(uint32_t *)(VM_DATA + 0x10) = 0x40100020;
    *(uint32_t *)(VM_CODE + 0x80) = 0x43210011;
    *(uint32_t *)(VM_CODE + 0x84) = 0x30010ff0;
    *(uint32_t *)(0x40100 + 0x20) = 0x45671357;
    struct trap t = GO(pointers, c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.gpr[EDI], 0x20);
    CHECK_EQ(t.es, 0x4010);
    CHECK_EQ(t.c.gpr[ESI], 0x11);
    CHECK_EQ(t.c.gpr[EAX], 0x4321);
    CHECK_EQ(t.c.gpr[EBX], 0x1357);
    CHECK_EQ(t.c.gpr[EDX], 0x4567);
    CHECK_EQ(t.c.gpr[ECX], 0x3001);
    CHECK_EQ(t.c.gpr[ESP], 0xff0);
}

CODE16(privileged,
       "clts; mov %cr0, %eax; smsw %bx; mov %dr7, %ecx; lidt (8); sgdt (0)\n"
       "invd; mov %cr3, %edx; mov %edx, %cr3; int3");

GUEST_TEST(everything_is_level_0)
{
    struct context c = real_context();
    struct trap t;
    *(uint16_t *)(VM_DATA + 8) = 0x3ff;
    *(uint32_t *)(VM_DATA + 10) = 0;
    t = GO(privileged, c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.gpr[EAX] & 1, 0);
    CHECK_EQ(t.c.gpr[EBX] & 1, 0);
    CHECK_EQ(t.c.gpr[ECX], 0x400);
    CHECK_EQ(*(uint16_t *)VM_DATA, sizeof(legacy_gdt) - 1);
}

CODE16(lidt_24,
       "sidt (0x20); lidt (8); sidt (0x10); lidtl (8); sidt (0x18); lidt (0x20); int3");

GUEST_TEST(lidt_takes_24_bits_of_base)
{
    struct context c = real_context();
    memcpy((void *)(VM_DATA + 8), "\xff\x03\x78\x56\x34\x12", 6);
    struct trap t = GO(lidt_24, c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(*(uint32_t *)(VM_DATA + 0x12), 0x345678);
    CHECK_EQ(*(uint32_t *)(VM_DATA + 0x1a), 0x12345678);
}

/* --- Limits of 4 GiB -----------------------------------------------------------------
 */

CODE16(big,
       "movl $0x500000, %ebx; movl (%ebx), %eax; movl %eax, 4(%ebx)\n"
       "mov $0x4001, %cx; mov %cx, %ds; mov %cx, %es; mov %cx, %fs; mov %cx, %gs\n"
       "movl $0x500000 - 0x40010, %ebx; movl 4(%ebx), %edx; movl %fs:(%ebx), %ecx\n"
       "movl %ebx, %edi; addl $8, %edi; mov $0x77, %al; addr32 stosb; int3");

/* What protected mode loaded stays when the segment registers are loaded: "unreal". */
GUEST_TEST(limits_of_protected_mode_stay)
{
    struct context c = real_context();
    c.seg[DS] = c.seg[ES] = 0;
    *(volatile uint32_t *)0x500000 = 0xb16b16;
    *(volatile uint32_t *)0x500004 = 0;
    *(volatile uint8_t *)0x500008 = 0;
    real_big = true;
    struct trap t = GO(big, c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.gpr[EDX], 0xb16b16);
    CHECK_EQ(t.c.gpr[ECX], 0xb16b16);
    CHECK_EQ(*(volatile uint8_t *)0x500008, 0x77);
    t = GO(big, c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.c.eip, 6);
}

/* A null selector of protected mode: an ordinary segment when real mode loads it. */
CODE16(through_null,
       "lgdtl %cs:0x80; mov %cr0, %eax; or $1, %al; mov %eax, %cr0; jmp 1f\n"
       "1: xor %bx, %bx; mov %bx, %es; and $0xfe, %al; mov %eax, %cr0; jmp 2f\n"
       "2: mov $0x4000, %bx; mov %bx, %es; movw $0x1234, %es:(0x30); int3");

GUEST_TEST(null_selectors_end_with_protected_mode)
{
    struct context c = real_context();
    *(uint16_t *)(VM_CODE + 0x80) = sizeof(legacy_gdt) - 1;
    *(uint32_t *)(VM_CODE + 0x82) = (uint32_t)legacy_gdt;
    struct trap t = GO(through_null, c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(*(uint16_t *)(VM_DATA + 0x30), 0x1234);
}

CODE16(loops,
       "movl $0x10003, %ecx; xor %ax, %ax; 1: inc %ax; loop 1b\n"
       "movl $0x10000, %edx; xchgl %ecx, %edx; jcxz 2f; int3\n"
       "2: addr32 jcxz 3f; movl $2, %ecx; 4: inc %ax; addr32 loop 4b; int3; 3: ud2");

GUEST_TEST(loops_count_with_the_address_size)
{
    struct context c = real_context();
    struct trap t = GO(loops, c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.gpr[EAX] & 0xffff, 5);
    CHECK_EQ(t.c.gpr[ECX], 0);
    CHECK_EQ(t.c.gpr[EDX], 0x10000);
}
