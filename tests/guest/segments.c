/* Segments in legacy protected mode: loads, types and limits, the instructions that
 * look at descriptors, tables, stacks. AMD64 APM vol. 2, chapter 4; the instructions'
 * pages in vol. 3. */
#include "tests/guest/lib/legacy.h"

#define LEN(a) (sizeof(a) / sizeof((a)[0]))

enum {
    SEL_A = SEL_FREE,
    FLAT = DESC_32 | DESC_G,
};
#define NOT_P(access) ((access) & ~ACC_P)

/* --- Segment registers --------------------------------------------------------------
 */

CODE32(load_ds, "mov %eax, %ds; int $0x80");
CODE32(load_ss, "mov %eax, %ss; nop; int $0x80");

static struct trap load(unsigned level, const uint8_t *code, uint16_t sel)
{
    struct context c = ring_context(level, code);
    c.gpr[EAX] = sel;
    return run(&c);
}

GUEST_TEST(data_segment_loads_are_checked)
{
    const struct {
        unsigned level;
        uint16_t rpl;
        unsigned access;
        unsigned vector;
    } k[] = {
        {0, 0, ACC_DATA, 0x80},
        {0, 0, ACC_RODATA, 0x80},
        {0, 0, ACC_DOWN, 0x80},
        {0, 0, ACC_CODE, 0x80},
        {0, 0, ACC_XCODE, 13},
        {0, 0, 0x9d, 13}, /* execute-only, conforming */
        {0, 3, ACC_DATA, 13},
        {0, 3, ACC_DATA | 3 << 5, 0x80},
        {3, 3, ACC_DATA, 13},
        {3, 0, ACC_DATA, 13},
        {3, 0, ACC_DATA | 3 << 5, 0x80},
        {2, 2, ACC_DATA | 1 << 5, 13},
        {2, 0, ACC_DATA | 2 << 5, 0x80},
        {3, 3, ACC_CONFORMING, 0x80},
        {3, 3, ACC_CODE, 13},
        {0, 0, NOT_P(ACC_DATA), 11},
        {3, 3, NOT_P(ACC_DATA), 13},
        {0, 0, ACC_TSS, 13},
        {0, 0, ACC_LDT, 13},
        {0, 0, ACC_CALL, 13},
    };
    for (unsigned i = 0; i < LEN(k); i++) {
        set_gdt(SEL_A, descriptor(0, 0xfffff, k[i].access & ~1u, FLAT));
        if (!(k[i].access & 0x10)) {
            set_gdt(SEL_A, descriptor(0, 0xfffff, k[i].access, 0));
        }
        struct trap t = load(k[i].level, load_ds, SEL_A | k[i].rpl);
        CHECK_EQ(t.vector, k[i].vector);
        CHECK_EQ(t.error, k[i].vector == 0x80 ? 0 : SEL_A);
        if (k[i].vector == 0x80) {
            CHECK_EQ(t.ds, SEL_A | k[i].rpl);
            CHECK(found_access[SEL_A / 8] & 1);
        }
    }
    for (uint16_t sel = 0; sel < 4; sel++) {
        struct trap t = load(3, load_ds, sel);
        CHECK_EQ(t.vector, 0x80);
        CHECK_EQ(t.ds, sel);
    }
    struct trap t = load(0, load_ds, 0x1ff + 1);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, 0x200);
}

GUEST_TEST(stack_segment_loads_are_checked)
{
    const struct {
        unsigned level;
        uint16_t rpl;
        unsigned access;
        unsigned vector;
    } k[] = {
        {0, 0, ACC_DATA, 0x80},
        {0, 0, ACC_RODATA, 13},
        {0, 0, ACC_CODE, 13},
        {0, 1, ACC_DATA, 13},
        {0, 0, ACC_DATA | 1 << 5, 13},
        {0, 1, ACC_DATA | 1 << 5, 13},
        {1, 1, ACC_DATA | 1 << 5, 0x80},
        {1, 0, ACC_DATA | 1 << 5, 13},
        {3, 3, ACC_DATA | 3 << 5, 0x80},
        {3, 3, ACC_DATA, 13},
        {0, 0, NOT_P(ACC_DATA), 12},
        {0, 0, ACC_TSS, 13},
    };
    for (unsigned i = 0; i < LEN(k); i++) {
        set_gdt(SEL_A, descriptor(0, 0xfffff, k[i].access, FLAT));
        struct trap t = load(k[i].level, load_ss, SEL_A | k[i].rpl);
        CHECK_EQ(t.vector, k[i].vector);
        CHECK_EQ(t.error, k[i].vector == 0x80 ? 0 : SEL_A);
    }
    for (unsigned level = 0; level < 4; level += 3) {
        struct trap t = load(level, load_ss, 0);
        CHECK_EQ(t.vector, 13);
        CHECK_EQ(t.error, 0);
    }
}

CODE32(ds_read, "mov (%ebx), %cl; int $0x80");
CODE32(ds_read4, "mov (%ebx), %ecx; int $0x80");
CODE32(ds_write, "mov %cl, (%ebx); int $0x80");
CODE32(ds_write4, "mov %ecx, (%ebx); int $0x80");
CODE32(cs_write, "mov %cl, %cs:(%ebx); int $0x80");
CODE32(ss_read4, "mov %ss:(%ebx), %ecx; int $0x80");

GUEST_TEST(limits_and_types_are_checked_at_each_access)
{
    const struct {
        const uint8_t *code;
        uint64_t a;
        uint32_t off;
        unsigned vector;
    } k[] = {
        {ds_read, descriptor(0, 0x500ff, ACC_DATA, DESC_32), 0x500ff, 0x80},
        {ds_read, descriptor(0, 0x500ff, ACC_DATA, DESC_32), 0x50100, 13},
        {ds_read4, descriptor(0, 0x500ff, ACC_DATA, DESC_32), 0x500fc, 0x80},
        {ds_read4, descriptor(0, 0x500ff, ACC_DATA, DESC_32), 0x500fd, 13},
        {ds_write4, descriptor(0, 0x500ff, ACC_DATA, DESC_32), 0x500fd, 13},
        {ds_read4, descriptor(0, 0x500ff, ACC_DATA, DESC_32), 0xfffffffe, 13},
        {ds_read, descriptor(0, 0x50, ACC_DATA, FLAT), 0x50fff, 0x80},
        {ds_read, descriptor(0, 0x50, ACC_DATA, FLAT), 0x51000, 13},
        {ds_read, descriptor(0x50000, 0xff, ACC_DATA, DESC_32), 0xff, 0x80},
        {ds_read, descriptor(0xfffff000, 0xfffff, ACC_DATA, FLAT), 0x51000, 0x80},
        /* expand-down: above the limit, below the top that B says */
        {ds_read, descriptor(0, 0x50000, ACC_DOWN, DESC_32), 0x50001, 0x80},
        {ds_read, descriptor(0, 0x50000, ACC_DOWN, DESC_32), 0x50000, 13},
        {ds_write4, descriptor(0, 0x50000, ACC_DOWN, DESC_32), 0x50001, 0x80},
        {ds_write4, descriptor(0, 0x50000, ACC_DOWN, DESC_32), 0x50000, 13},
        {ds_read, descriptor(0x40000, 0xfff, ACC_DOWN, 0), 0xffff, 0x80},
        {ds_read, descriptor(0x40000, 0xfff, ACC_DOWN, 0), 0x10000, 13},
        {ds_read4, descriptor(0x40000, 0xfff, ACC_DOWN, 0), 0xfffd, 13},
        {ds_read, descriptor(0x40000, 0xfff, ACC_DOWN, 0), 0xfff, 13},
        {ds_read, descriptor(0, 0xfffff, ACC_DOWN, FLAT), 0x50000, 13},
        /* types */
        {ds_write, descriptor(0, 0xfffff, ACC_RODATA, FLAT), 0x50000, 13},
        {ds_read, descriptor(0, 0xfffff, ACC_RODATA, FLAT), 0x50000, 0x80},
        {ds_write, descriptor(0, 0xfffff, ACC_CODE, FLAT), 0x50000, 13},
        {ds_read, descriptor(0, 0xfffff, ACC_CODE, FLAT), 0x50000, 0x80},
        {cs_write, descriptor(0, 0xfffff, ACC_DATA, FLAT), 0x50000, 13},
    };
    for (unsigned i = 0; i < LEN(k); i++) {
        set_gdt(SEL_A, k[i].a);
        struct context c = kernel_context(k[i].code);
        c.seg[DS] = SEL_A;
        c.gpr[EBX] = k[i].off;
        struct trap t = run(&c);
        CHECK_EQ(t.vector, k[i].vector);
        CHECK_EQ(t.error, 0);
    }
    struct context c = ring_context(1, ss_read4);
    set_gdt(SEL_A, descriptor(0, 0xfffff, ACC_DATA | 1 << 5, DESC_32));
    c.seg[SS] = SEL_A | 1;
    c.gpr[EBX] = 0xffffe;
    struct trap t = run(&c);
    CHECK_EQ(t.vector, 12);
    CHECK_EQ(t.error, 0);
}

GUEST_TEST(null_segments_fault_when_used)
{
    struct context c = user_context(ds_read);
    c.seg[DS] = 0;
    struct trap t = run(&c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, 0);
    c = user_context(ds_write);
    c.seg[DS] = 3;
    t = run(&c);
    CHECK_EQ(t.vector, 13);
}

/* --- Looking at descriptors
 * ----------------------------------------------------------- */

static struct trap look_at(unsigned level, uint16_t sel)
{
    CODE32(look4, "mov %eax, %esi; mov $0x5a5a5a5a, %ebx; mov $0x5a5a5a5a, %ecx\n"
                  "xor %eax, %eax; xor %edx, %edx\n"
                  "lar %si, %ebx; setz %dl; lsl %si, %ecx; setz %dh\n"
                  "verr %si; setz %al; verw %si; setz %ah; int $0x80");
    struct context c = ring_context(level, look4);
    c.gpr[EAX] = sel;
    return run(&c);
}

GUEST_TEST(lar_and_lsl_know_the_types)
{
    /* Bit n: system type n is shown (APM 3, LAR and LSL). */
    const unsigned lar = 0x1a3e, lsl = 0x0a0e;
    for (unsigned type = 0; type < 32; type++) {
        unsigned access = ACC_P | 3 << 5 | type;
        set_gdt(SEL_A, descriptor(0, 0x12345, access, 4));
        struct trap t = look_at(3, SEL_A | 3);
        bool user = type >= 16, code = type >= 24, rw = type & 2;
        bool in_lar = user || lar >> type & 1, in_lsl = user || lsl >> type & 1;
        CHECK_EQ(t.vector, 0x80);
        CHECK_EQ(t.c.gpr[EDX] & 0xff, in_lar);
        CHECK_EQ(t.c.gpr[EDX] >> 8 & 0xff, in_lsl);
        CHECK_EQ(t.c.gpr[EBX] & 0xf0ff00, in_lar ? 0x400000 | access << 8 : 0x505a00);
        CHECK_EQ(t.c.gpr[ECX], in_lsl ? 0x12345 : 0x5a5a5a5a);
        CHECK_EQ(t.c.gpr[EAX] & 0xff, user && (!code || rw));
        CHECK_EQ(t.c.gpr[EAX] >> 8 & 0xff, user && !code && rw);
        CHECK_EQ(found_access[SEL_A / 8], access); /* not marked accessed */
    }
}

GUEST_TEST(lar_and_lsl_know_levels_and_limits)
{
    const struct {
        unsigned level;
        uint16_t sel;
        bool ok;
    } k[] = {
        {0, SEL_DATA, true},
        {0, SEL_DATA | 3, false},
        {3, SEL_DATA, false},
        {3, SEL_UDATA, true},
        {3, SEL_UDATA & ~3, true},
        {2, SEL_DATA1 & ~3, false},
        {3, SEL_CONFORMING | 3, true},
        {0, 0, false},
        {0, 3, false},
        {0, 0x200, false},
        {0, 8 | 4, false},
        {0, SEL_TSS | 1, false},
    };
    for (unsigned i = 0; i < LEN(k); i++) {
        struct trap t = look_at(k[i].level, k[i].sel);
        CHECK_EQ(t.vector, 0x80);
        CHECK_EQ(t.c.gpr[EDX], k[i].ok ? 0x101 : 0);
        CHECK_EQ(t.c.gpr[EAX] & 1, k[i].ok);
    }
    set_gdt(SEL_A, descriptor(0, 0x12345, ACC_DATA, FLAT));
    struct trap t = look_at(0, SEL_A);
    CHECK_EQ(t.c.gpr[ECX], 0x12345fff);
    set_gdt(SEL_A, descriptor(0, 0x12345, NOT_P(ACC_DATA), FLAT));
    t = look_at(0, SEL_A); /* presence is not asked for */
    CHECK_EQ(t.c.gpr[EDX], 0x101);
}

GUEST_TEST(arpl_raises_the_rpl)
{
    CODE32(arpl, "arpl %bx, %ax; setz %cl; arpl %bx, (%esi); setz %ch; int $0x80");
    for (unsigned d = 0; d < 4; d++) {
        for (unsigned s = 0; s < 4; s++) {
            struct context c = user_context(arpl);
            c.gpr[EAX] = 0xabcd1230 | d;
            c.gpr[EBX] = 0x5550 | s;
            c.gpr[ECX] = 0;
            c.gpr[ESI] = LOW_FREE;
            *(uint16_t *)LOW_FREE = (uint16_t)(0x4560 | d);
            struct trap t = run(&c);
            unsigned want = s > d ? s : d;
            CHECK_EQ(t.c.gpr[EAX], 0xabcd1230 | want);
            CHECK_EQ(*(uint16_t *)LOW_FREE, 0x4560 | want);
            CHECK_EQ(t.c.gpr[ECX], s > d ? 0x101 : 0);
        }
    }
}

/* --- Tables
 * --------------------------------------------------------------------------- */

CODE32(do_lldt, "lldt %ax; sldt %ecx; int $0x80");
CODE32(do_ltr, "ltr %ax; str %ecx; int $0x80");

GUEST_TEST(lldt_and_ltr_are_checked)
{
    const struct {
        const uint8_t *code;
        uint16_t sel;
        uint64_t a;
        unsigned vector;
        uint32_t error;
    } k[] = {
        {do_lldt, SEL_LDT, 0, 0x80, 0},
        {do_lldt, 0, 0, 0x80, 0},
        {do_lldt, 3, 0, 0x80, 0},
        {do_lldt, SEL_LDT | 4, 0, 13, SEL_LDT | 4},
        {do_lldt, 0x200, 0, 13, 0x200},
        {do_lldt, SEL_DATA, 0, 13, SEL_DATA},
        {do_lldt, SEL_A, descriptor(0, 0xff, NOT_P(ACC_LDT), 0), 11, SEL_A},
        {do_lldt, SEL_A, descriptor(0, 0xff, ACC_TSS, 0), 13, SEL_A},
        {do_ltr, 0, 0, 13, 0},
        {do_ltr, SEL_TSS | 4, 0, 13, SEL_TSS | 4},
        {do_ltr, 0x200, 0, 13, 0x200},
        {do_ltr, SEL_DATA, 0, 13, SEL_DATA},
        {do_ltr, SEL_TSS, 0, 13, SEL_TSS}, /* busy */
        {do_ltr, SEL_A, descriptor(0, 0x67, NOT_P(ACC_TSS), 0), 11, SEL_A},
        {do_ltr, SEL_A, descriptor(0, 0x67, ACC_LDT, 0), 13, SEL_A},
        {do_ltr, SEL_A, descriptor(0, 0x67, ACC_TSS, 0), 0x80, 0},
        {do_ltr, SEL_A, descriptor(0, 0x2b, ACC_TSS16, 0), 0x80, 0},
    };
    for (unsigned i = 0; i < LEN(k); i++) {
        set_gdt(SEL_A, k[i].a);
        struct context c = kernel_context(k[i].code);
        c.gpr[EAX] = k[i].sel;
        struct trap t = run(&c);
        CHECK_EQ(t.vector, k[i].vector);
        CHECK_EQ(t.error, k[i].error);
        if (k[i].vector == 0x80) {
            CHECK_EQ(t.c.gpr[ECX], k[i].sel);
            CHECK(k[i].code == do_lldt || (found_access[SEL_A / 8] & 2));
        }
        struct trap u = load(3, k[i].code, k[i].sel);
        CHECK_EQ(u.vector, 13);
        CHECK_EQ(u.error, 0);
    }
}

GUEST_TEST(segments_come_from_the_ldt)
{
    CODE32(use_ldt, "lldt %ax; mov $0x0c, %eax; mov %eax, %fs; mov %fs:(0), %ebx\n"
                    "mov $0x7c, %eax; mov %eax, %gs; mov $0x84, %eax; mov %eax, %gs");
    struct context c = kernel_context(use_ldt);
    c.gpr[EAX] = SEL_LDT;
    *(uint32_t *)LOW_FREE = 0x600d600d;
    set_ldt(0x08, descriptor(LOW_FREE, 0xff, ACC_DATA, DESC_32));
    set_ldt(0x78, descriptor(LOW_FREE, 0xff, ACC_DATA, DESC_32));
    struct trap t = run(&c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, 0x84); /* past the LDT's limit */
    CHECK_EQ(t.c.gpr[EBX], 0x600d600d);
    CHECK_EQ(t.fs, 0x0c);
    CHECK_EQ(t.gs, 0x7c);
}

GUEST_TEST(lgdt_and_lidt_take_24_bits_of_base_with_16_bit_operands)
{
    CODE32(tables, "sgdt (%esi); sidt 8(%esi); lidtw (%edi); sidt 16(%esi)\n"
                   "lidtl (%edi); sidt 24(%esi); lidt 8(%esi); int $0x80");
    struct context c = kernel_context(tables);
    uint8_t *d = (uint8_t *)LOW_FREE;
    c.gpr[ESI] = LOW_FREE;
    c.gpr[EDI] = LOW_FREE + 64;
    memset(d, 0xee, 64);
    memcpy(d + 64, "\x34\x12\x78\x56\x34\x12", 6);
    struct trap t = run(&c);
    CHECK_EQ(t.vector, 0x80);
    CHECK_EQ(*(uint16_t *)d, sizeof(legacy_gdt) - 1);
    CHECK_EQ(*(uint32_t *)(d + 2), (uint32_t)legacy_gdt);
    CHECK_EQ(*(uint16_t *)(d + 16), 0x1234);
    CHECK_EQ(*(uint32_t *)(d + 18), 0x00345678);
    CHECK_EQ(*(uint32_t *)(d + 26), 0x12345678);
    c = user_context(tables);
    c.gpr[ESI] = LOW_FREE;
    c.gpr[EDI] = LOW_FREE + 64;
    t = run(&c);
    CHECK_EQ(t.vector, 13); /* SGDT and SIDT are for everybody, LIDT is not */
    CHECK_EQ(t.c.eip, (uint32_t)tables + 7);
}

/* --- Stacks
 * --------------------------------------------------------------------------- */

GUEST_TEST(stacks_of_16_bits_use_sp)
{
    CODE32(
        sp16,
        "mov %eax, %ss; mov $0x12340004, %esp; push %ecx; push %ecx; mov %esp, %ebx\n"
        "pop %edx; pop %edx; pop %edx; mov %esp, %ebp; mov $0x10, %eax; mov %eax, %ss\n"
        "mov %esi, %esp; int $0x80");
    struct context c = kernel_context(sp16);
    set_gdt(SEL_A, descriptor(LOW_FREE, 0xffff, ACC_DATA, 0));
    c.gpr[EAX] = SEL_A;
    c.gpr[ECX] = 0xc0ffee11;
    c.gpr[ESI] = c.gpr[ESP];
    *(uint32_t *)(LOW_FREE + 4) = 0x77777777;
    struct trap t = run(&c);
    CHECK_EQ(t.vector, 0x80);
    CHECK_EQ(t.c.gpr[EBX], 0x1234fffc);
    CHECK_EQ(t.c.gpr[EBP], 0x12340008);
    CHECK_EQ(t.c.gpr[EDX], 0x77777777);
    CHECK_EQ(*(uint32_t *)(LOW_FREE + 0xfffc), 0xc0ffee11);
    CHECK_EQ(*(uint32_t *)LOW_FREE, 0xc0ffee11);
}

GUEST_TEST(enter_and_leave_follow_the_stack_size)
{
    CODE32(frames,
           "mov %eax, %ss; mov $0x12341000, %esp; mov $0x55551800, %ebp\n"
           "enter $0x10, $2; mov %esp, %ebx; mov %ebp, %ecx; leave; mov %esp, %edx\n"
           "mov $0x10, %eax; mov %eax, %ss; mov %esi, %esp; int $0x80");
    struct context c = kernel_context(frames);
    set_gdt(SEL_A, descriptor(LOW_FREE, 0xffff, ACC_DATA, 0));
    c.gpr[EAX] = SEL_A;
    c.gpr[ESI] = c.gpr[ESP];
    *(uint32_t *)(LOW_FREE + 0x17fc) = 0xd15b1a73;
    struct trap t = run(&c);
    CHECK_EQ(t.vector, 0x80);
    CHECK_EQ(t.c.gpr[EBX], 0x12340fe4);
    CHECK_EQ(t.c.gpr[ECX], 0x12340ffc);
    CHECK_EQ(t.c.gpr[EBP], 0x55551800);
    CHECK_EQ(t.c.gpr[EDX], 0x12341000);
    const uint32_t *s = (const uint32_t *)(LOW_FREE + 0xff4);
    CHECK_EQ(s[0], 0x12340ffc);
    CHECK_EQ(s[1], 0xd15b1a73);
    CHECK_EQ(s[2], 0x55551800);
}

/* MOV SS keeps the single-step trap away for one instruction (APM 2 8.5), LSS, with
 * which no instruction for the stack pointer has to follow, does not. */
GUEST_TEST(lss_holds_no_trap_back)
{
    CODE32(by_lss, "lss (%esi), %esp; nop; nop");
    CODE32(by_mov, "mov %eax, %ss; nop; nop");
    struct context c = kernel_context(by_lss);
    c.gpr[EAX] = SEL_DATA;
    c.gpr[ESI] = LOW_FREE;
    *(uint32_t *)LOW_FREE = c.gpr[ESP] - 64;
    *(uint16_t *)(LOW_FREE + 4) = SEL_DATA;
    c.eflags |= FL_TF;
    struct trap t = run(&c);
    CHECK_EQ(t.vector, 1);
    CHECK_EQ(t.c.eip, (uint32_t)by_lss + 3);
    CHECK_EQ(t.c.gpr[ESP], c.gpr[ESP] - 64);
    c.eip = (uint32_t)by_mov;
    t = run(&c);
    CHECK_EQ(t.vector, 1);
    CHECK_EQ(t.c.eip, (uint32_t)by_mov + 3);
}

/* A frame that wraps around, and one whose end is outside of the segment. */
GUEST_TEST(enter_checks_where_the_stack_ends)
{
    CODE32(wraps, "mov %eax, %ss; mov $0x20000, %esp; enter $0, $1; mov %ebp, %ebx\n"
                  "mov $0x10, %eax; mov %eax, %ss; mov %esi, %esp; int $0x80");
    CODE32(too_far, "enter $0x1000, $0; int $0x80");
    struct context c = kernel_context(wraps);
    set_gdt(SEL_A, descriptor(LOW_FREE, 0xffff, ACC_DATA, 0));
    c.gpr[EAX] = SEL_A;
    c.gpr[ESI] = c.gpr[ESP];
    struct trap t = run(&c);
    CHECK_EQ(t.vector, 0x80);
    CHECK_EQ(t.c.gpr[EBX], 0x2fffc);
    CHECK_EQ(*(uint32_t *)(LOW_FREE + 0xfff8), 0x2fffc);
    c = ring_context(1, too_far);
    set_gdt(SEL_A, descriptor(LOW_FREE, 0xfff, ACC_DATA | 1 << 5, DESC_32));
    c.seg[SS] = SEL_A | 1;
    c.gpr[ESP] = 0x1000;
    t = run(&c);
    CHECK_EQ(t.vector, 12);
    CHECK_EQ(t.error, 0);
    CHECK_EQ(t.c.gpr[ESP], 0x1000);
    CHECK_EQ(t.c.eip, (uint32_t)too_far);
}
