/* Task switches of the hardware: AMD64 APM vol. 2, 12.2 and 12.3; Intel SDM vol. 3,
 * chapter 8. */
#include "tests/guest/lib/legacy.h"

enum {
    SEL_NEW = SEL_FREE, /* new_tss or new_tss16 */
    SEL_GATE = SEL_FREE + 8,
    SEL_X = SEL_FREE + 16, /* a segment to spoil */
    SEL_SMALL = SEL_FREE + 24,
    TASK_STACK = LOW_FREE + 0x1000,
};

static struct tss32 new_tss;
static struct tss16 new_tss16;

CODE32(jump, "ljmp $0x80, $0xdeadbeef; int3");
CODE32(call, "lcall $0x80, $0xdeadbeef; int3");
CODE32(jump_gate, "ljmp $0x88, $0xdeadbeef; int3");
CODE32(call_gate, "lcall $0x88, $0xdeadbeef; int3");
CODE32(interrupt, "int $0x80; int3");
CODE32(back, "iretl; int3");
CODE32(ud, "ud2");

/* The new task, with registers that can be told apart, at @eip at level 0. */
static struct context task_context(const void *eip)
{
    struct context c = kernel_context(eip);
    for (unsigned i = 0; i < 8; i++) {
        c.gpr[i] = 0x11110000u * (i + 1) + 0x77;
    }
    c.gpr[ESP] = TASK_STACK;
    return c;
}

static void set_up(const void *eip)
{
    struct context c = task_context(eip);
    fill_tss32(&new_tss, &c);
    new_tss.link = 0x5555;
    set_gdt(SEL_NEW, descriptor((uint32_t)&new_tss, sizeof(new_tss) - 1, ACC_TSS, 0));
    set_gdt(SEL_GATE, gate(SEL_NEW, 0, ACC_TASK, 0));
    set_idt(0x80, gate(SEL_NEW, 0, ACC_TASK | ACC_DPL3, 0));
}

static void set_up16(const void *code16)
{
    struct context c = task_context(0);
    c.eip = 0x100;
    set_gdt(SEL_X, descriptor(VM_CODE, 0xffff, ACC_CODE, 0));
    memcpy((void *)(VM_CODE + 0x100), code16, 16);
    c.seg[CS] = SEL_X;
    c.seg[SS] = c.seg[DS] = c.seg[ES] = SEL_DATA16;
    c.gpr[ESP] = 0x7f00;
    fill_tss16(&new_tss16, &c);
    set_gdt(SEL_NEW,
            descriptor((uint32_t)&new_tss16, sizeof(new_tss16) - 1, ACC_TSS16, 0));
    set_gdt(SEL_GATE, gate(SEL_NEW, 0, ACC_TASK, 0));
}

static bool busy(uint16_t sel)
{
    return found_access[sel / 8] & 2;
}

static struct trap go(const uint8_t *code)
{
    struct context c = kernel_context(code);
    c.gpr[EAX] = 0xa1, c.gpr[ECX] = 0xa2, c.gpr[EDX] = 0xa3, c.gpr[EBX] = 0xa4;
    c.gpr[EBP] = 0xa6, c.gpr[ESI] = 0xa7, c.gpr[EDI] = 0xa8;
    c.eflags |= FL_CF | FL_DF;
    return run(&c);
}

static void check_new_registers(const struct trap *t)
{
    CHECK_EQ(t->vector, VEC_TASK);
    CHECK_EQ(t->tr, SEL_NEW);
    for (unsigned i = 0; i < 8; i++) {
        if (i != ESP) {
            CHECK_EQ(t->c.gpr[i], 0x11110000u * (i + 1) + 0x77);
        }
    }
    CHECK_EQ(t->c.gpr[ESP], TASK_STACK);
    CHECK_EQ(t->cs, SEL_CODE);
    CHECK_EQ(t->ss, SEL_DATA);
    CHECK_EQ(t->gs, SEL_DATA);
    CHECK_EQ(t->cr0 & 8, 8);
}

static void check_saved(const uint8_t *code, unsigned len)
{
    const struct tss32 *o = &legacy_tss;
    CHECK_EQ(o->eip, (uint32_t)code + len);
    CHECK_EQ(o->eflags & (FL_CF | FL_DF | FL_NT), FL_CF | FL_DF);
    CHECK_EQ(o->gpr[EAX], 0xa1);
    CHECK_EQ(o->gpr[EBX], 0xa4);
    CHECK_EQ(o->gpr[EDI], 0xa8);
    CHECK_EQ(o->gpr[ESP], kernel_context(NULL).gpr[ESP]);
    CHECK_EQ((uint16_t)o->seg[CS], SEL_CODE);
    CHECK_EQ((uint16_t)o->seg[SS], SEL_DATA);
    CHECK_EQ((uint16_t)o->seg[FS], SEL_DATA);
}

GUEST_TEST(jmp_leaves_one_task_for_another)
{
    set_up(task_end);
    legacy_tss.cr3 = 0x12345000;
    struct trap t = go(jump);
    check_new_registers(&t);
    check_saved(jump, 7);
    CHECK_EQ(t.c.eflags & (FL_NT | FL_CF), 0);
    CHECK_EQ(new_tss.link, 0x5555);
    CHECK(!busy(SEL_TSS));
    CHECK(busy(SEL_NEW));
    CHECK_EQ(legacy_tss.cr3, 0x12345000); /* CR3 and LDT are not saved */
}

GUEST_TEST(call_nests)
{
    set_up(task_end);
    struct trap t = go(call);
    check_new_registers(&t);
    check_saved(call, 7);
    CHECK_EQ(t.c.eflags & FL_NT, FL_NT);
    CHECK_EQ(new_tss.link & 0xffff, SEL_TSS);
    CHECK(busy(SEL_TSS));
    CHECK(busy(SEL_NEW));
}

GUEST_TEST(iret_goes_back_by_the_link)
{
    set_up(back);
    struct trap t = go(call);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.tr, SEL_TSS);
    CHECK_EQ(t.c.eip, (uint32_t)call + 8);
    CHECK_EQ(t.c.gpr[EDI], 0xa8);
    CHECK_EQ(t.c.eflags & (FL_NT | FL_CF), FL_CF);
    CHECK(busy(SEL_TSS));
    CHECK(!busy(SEL_NEW));
    CHECK_EQ(new_tss.eip, (uint32_t)back + 1);
    CHECK_EQ(new_tss.eflags & FL_NT, 0);
    CHECK_EQ(new_tss.gpr[EBX], 0x44440077);
}

GUEST_TEST(task_gates_lead_to_tasks)
{
    set_up(task_end);
    struct trap t = go(jump_gate);
    check_new_registers(&t);
    check_saved(jump_gate, 7);
    set_up(task_end);
    t = go(call_gate);
    check_new_registers(&t);
    CHECK_EQ(new_tss.link & 0xffff, SEL_TSS);
    CHECK_EQ(t.c.eflags & FL_NT, FL_NT);
}

static void faults_in_old(const uint8_t *code, unsigned vector, uint32_t error)
{
    struct trap t = go(code);
    CHECK_EQ(t.vector, vector);
    CHECK_EQ(t.error, error);
    CHECK_EQ(t.tr, SEL_TSS);
    CHECK_EQ(t.c.eip, (uint32_t)code);
    CHECK(!busy(SEL_NEW) || vector == 13);
}

GUEST_TEST(tss_descriptors_are_checked_in_the_old_task)
{
    set_up(task_end);
    uint64_t good = legacy_gdt[SEL_NEW / 8];
    set_gdt(SEL_NEW, good | UINT64_C(2) << 40); /* busy */
    faults_in_old(jump, 13, SEL_NEW);
    faults_in_old(call_gate, 13, SEL_NEW);
    set_gdt(SEL_NEW, good & ~(UINT64_C(0x80) << 40));
    faults_in_old(call, 11, SEL_NEW);
    faults_in_old(jump_gate, 11, SEL_NEW);
    set_gdt(SEL_NEW, descriptor((uint32_t)&new_tss, 0x66, ACC_TSS, 0));
    faults_in_old(jump, 10, SEL_NEW);
    set_gdt(SEL_NEW, descriptor((uint32_t)&new_tss, 0x2a, ACC_TSS16, 0));
    faults_in_old(jump, 10, SEL_NEW);
    set_gdt(SEL_NEW, good);
    set_gdt(SEL_GATE, gate(SEL_NEW, 0, ACC_TASK & ~ACC_P, 0));
    faults_in_old(jump_gate, 11, SEL_GATE);
    set_gdt(SEL_GATE, gate(SEL_DATA, 0, ACC_TASK, 0));
    faults_in_old(jump_gate, 13, SEL_DATA);
    set_gdt(SEL_GATE, gate(0, 0, ACC_TASK, 0));
    faults_in_old(jump_gate, 13, 0);
    set_gdt(SEL_GATE, gate(0xfff8, 0, ACC_TASK, 0));
    faults_in_old(jump_gate, 13, 0xfff8);
    set_gdt(SEL_GATE, gate(SEL_NEW | 4, 0, ACC_TASK, 0));
    faults_in_old(jump_gate, 13, SEL_NEW | 4);
}

GUEST_TEST(level_3_needs_a_gate_or_tss_of_level_3)
{
    set_up(task_end);
    struct context c = user_context(jump);
    struct trap t = run(&c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, SEL_NEW);
    c.eip = (uint32_t)jump_gate;
    t = run(&c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, SEL_GATE);
    set_gdt(SEL_GATE, gate(SEL_NEW, 0, ACC_TASK | ACC_DPL3, 0));
    t = run(&c);
    check_new_registers(&t);
    CHECK_EQ((uint16_t)legacy_tss.seg[CS], SEL_UCODE);
    set_up(task_end);
    legacy_gdt[SEL_NEW / 8] |= UINT64_C(0x60) << 40;
    c.eip = (uint32_t)jump;
    t = run(&c);
    check_new_registers(&t);
}

CODE32(jump_rpl3, "ljmp $0x83, $0");

GUEST_TEST(rpl_counts_for_a_tss)
{
    set_up(task_end);
    faults_in_old(jump_rpl3, 13, SEL_NEW);
}

GUEST_TEST(iret_checks_the_link)
{
    struct context c = kernel_context(back);
    set_up(task_end);
    c.eflags |= FL_NT;
    legacy_tss.link = SEL_NEW; /* not busy */
    struct trap t = run(&c);
    CHECK_EQ(t.vector, 10);
    CHECK_EQ(t.error, SEL_NEW);
    CHECK_EQ(t.c.eip, (uint32_t)back);
    legacy_tss.link = SEL_DATA;
    t = run(&c);
    CHECK_EQ(t.vector, 10);
    CHECK_EQ(t.error, SEL_DATA);
    legacy_tss.link = SEL_NEW | 4;
    t = run(&c);
    CHECK_EQ(t.vector, 10);
    CHECK_EQ(t.error, SEL_NEW | 4);
    legacy_tss.link = SEL_NEW;
    legacy_gdt[SEL_NEW / 8] ^= UINT64_C(0x82) << 40; /* busy, not present */
    t = run(&c);
    CHECK_EQ(t.vector, 11);
    CHECK_EQ(t.error, SEL_NEW);
    legacy_gdt[SEL_NEW / 8] ^= UINT64_C(0x80) << 40;
    t = run(&c);
    check_new_registers(&t);
    CHECK(!busy(SEL_TSS));
    CHECK_EQ(legacy_tss.eflags & FL_NT, 0);
}

/* --- Events ------------------------------------------------------------------- */

GUEST_TEST(int_n_through_a_task_gate)
{
    set_up(task_end);
    struct trap t = go(interrupt);
    check_new_registers(&t);
    check_saved(interrupt, 2);
    CHECK_EQ(new_tss.link & 0xffff, SEL_TSS);
    CHECK_EQ(t.c.eflags & FL_NT, FL_NT);
    set_up(back);
    t = go(interrupt);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.tr, SEL_TSS);
    CHECK_EQ(t.c.eip, (uint32_t)interrupt + 3);
    set_idt(0x80, gate(SEL_NEW, 0, ACC_TASK, 0));
    struct context c = user_context(interrupt);
    t = run(&c);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, 0x80 * 8 + 2);
}

CODE32(load_bad_ds, "mov $0x1f0, %eax; mov %eax, %ds");

GUEST_TEST(error_codes_go_to_the_new_stack)
{
    set_up(task_end);
    set_idt(13, gate(SEL_NEW, 0, ACC_TASK, 0));
    struct trap t = go(load_bad_ds);
    CHECK_EQ(t.vector, VEC_TASK);
    CHECK_EQ(t.c.gpr[ESP], TASK_STACK - 4);
    CHECK_EQ(*(uint32_t *)(TASK_STACK - 4), 0x1f0);
    CHECK_EQ(legacy_tss.eip, (uint32_t)load_bad_ds + 5);
    CHECK_EQ(legacy_tss.eflags & FL_RF, FL_RF);
}

GUEST_TEST(faults_on_the_way_have_ext)
{
    set_up(task_end);
    set_idt(6, gate(SEL_NEW, 0, ACC_TASK, 0));
    legacy_gdt[SEL_NEW / 8] |= UINT64_C(2) << 40;
    struct trap t = go(ud);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, SEL_NEW | 1);
    CHECK_EQ(t.tr, SEL_TSS);
    CHECK_EQ(t.c.eip, (uint32_t)ud);
    set_up(task_end);
    new_tss.seg[DS] = 0x1f0;
    t = go(ud);
    CHECK_EQ(t.vector, 10);
    CHECK_EQ(t.error, 0x1f1);
    CHECK_EQ(t.tr, SEL_NEW);
    CHECK_EQ(t.c.eip, (uint32_t)task_end);
}

GUEST_TEST(double_fault_through_a_task_gate)
{
    set_up(task_end);
    set_idt(8, gate(SEL_NEW, 0, ACC_TASK, 0));
    set_idt(13, 0);
    struct trap t = go(load_bad_ds);
    CHECK_EQ(t.vector, VEC_TASK);
    CHECK_EQ(*(uint32_t *)(TASK_STACK - 4), 0);
    CHECK_EQ(legacy_tss.eip, (uint32_t)load_bad_ds + 5);
}

GUEST_TEST(no_room_for_the_error_code_is_ss)
{
    set_up(task_end);
    set_gdt(SEL_X, descriptor(0, 0xffff, ACC_DATA, DESC_32));
    new_tss.seg[SS] = SEL_X;
    new_tss.gpr[ESP] = 0x20000;
    /* The #SS comes on the same stack: its handler has to be a task, too. */
    static struct tss32 third;
    struct context c = task_context(task_end);
    fill_tss32(&third, &c);
    set_gdt(SEL_SMALL, descriptor((uint32_t)&third, sizeof(third) - 1, ACC_TSS, 0));
    set_idt(12, gate(SEL_SMALL, 0, ACC_TASK, 0));
    set_idt(11, gate(SEL_NEW, 0, ACC_TASK, 0));
    /* #NP and then #SS: a double fault, by that task as well */
    set_idt(8, gate(SEL_SMALL, 0, ACC_TASK, 0));
    legacy_gdt[SEL_UDATA / 8] &= ~(UINT64_C(0x80) << 40);
    CODE32(load_absent, "mov $0x23, %eax; mov %eax, %ds");
    struct trap t = go(load_absent);
    CHECK_EQ(t.vector, VEC_TASK);
    CHECK_EQ(t.tr, SEL_SMALL);
    CHECK_EQ(new_tss.eip, (uint32_t)task_end);
    CHECK_EQ(new_tss.gpr[ESP], 0x20000);
}

/* --- Checks in the new task --------------------------------------------------- */

static void faults_in_new(unsigned vector, uint32_t error)
{
    struct trap t = go(jump);
    CHECK_EQ(t.vector, vector);
    CHECK_EQ(t.error, error);
    CHECK_EQ(t.tr, SEL_NEW);
    CHECK_EQ(t.c.eip, new_tss.eip);
    CHECK(busy(SEL_NEW));
    CHECK(!busy(SEL_TSS));
    CHECK_EQ(legacy_tss.eip, (uint32_t)jump + 7);
}

static void spoil(unsigned seg, uint16_t sel, uint64_t raw)
{
    set_up(task_end);
    if (raw) {
        set_gdt(SEL_X, raw);
    }
    new_tss.seg[seg] = sel;
}

GUEST_TEST(code_segment_is_checked_in_the_new_task)
{
    const unsigned flat = DESC_32 | DESC_G;
    spoil(CS, 0, 0);
    faults_in_new(10, 0);
    spoil(CS, 0x1f8 + 8, 0);
    faults_in_new(10, 0x200);
    spoil(CS, SEL_DATA, 0);
    faults_in_new(10, SEL_DATA);
    spoil(CS, SEL_TSS, 0);
    faults_in_new(10, SEL_TSS);
    spoil(CS, SEL_CODE | 3, 0); /* RPL is the level: DPL differs */
    faults_in_new(10, SEL_CODE);
    spoil(CS, SEL_UCODE & ~3, 0);
    faults_in_new(10, SEL_UCODE & ~3u);
    spoil(CS, SEL_X, descriptor(0, 0xfffff, ACC_CONFORMING | 3 << 5, flat));
    faults_in_new(10, SEL_X);
    spoil(CS, SEL_X, descriptor(0, 0xfffff, ACC_CODE & ~ACC_P, flat));
    faults_in_new(11, SEL_X);
    spoil(CS, SEL_X, descriptor(0, 0xffff, ACC_CODE, DESC_32));
    new_tss.eip = 0x10000;
    faults_in_new(13, 0);
}

GUEST_TEST(stack_segment_is_checked_in_the_new_task)
{
    const unsigned flat = DESC_32 | DESC_G;
    spoil(SS, 0, 0);
    faults_in_new(10, 0);
    spoil(SS, 0x1f8 + 8, 0);
    faults_in_new(10, 0x200);
    spoil(SS, SEL_UDATA, 0);
    faults_in_new(10, SEL_UDATA & ~3u);
    spoil(SS, SEL_DATA | 1, 0);
    faults_in_new(10, SEL_DATA);
    spoil(SS, SEL_CODE, 0);
    faults_in_new(10, SEL_CODE);
    spoil(SS, SEL_X, descriptor(0, 0xfffff, ACC_RODATA, flat));
    faults_in_new(10, SEL_X);
    spoil(SS, SEL_X, descriptor(0, 0xfffff, ACC_DATA & ~ACC_P, flat));
    faults_in_new(12, SEL_X);
}

GUEST_TEST(data_segments_are_checked_in_the_new_task)
{
    static const uint8_t data[] = {ES, DS, FS, GS};
    const unsigned flat = DESC_32 | DESC_G;
    for (unsigned i = 0; i < sizeof(data); i++) {
        unsigned seg = data[i];
        spoil(seg, 0x1f8 + 8, 0);
        faults_in_new(10, 0x200);
        spoil(seg, SEL_X, descriptor(0, 0xfffff, ACC_XCODE, flat));
        faults_in_new(10, SEL_X);
        spoil(seg, SEL_TSS, 0);
        faults_in_new(10, SEL_TSS);
        spoil(seg, SEL_DATA | 3, 0);
        faults_in_new(10, SEL_DATA);
        spoil(seg, SEL_X, descriptor(0, 0xfffff, ACC_DATA & ~ACC_P, flat));
        faults_in_new(11, SEL_X);
        spoil(seg, 0, 0); /* null is fine */
        struct trap t = go(jump);
        CHECK_EQ(t.vector, VEC_TASK);
    }
}

GUEST_TEST(ldt_is_loaded_first_and_checked)
{
    set_up(task_end);
    new_tss.ldt = SEL_LDT;
    new_tss.seg[DS] = 8 | 4;
    set_ldt(8, descriptor(0, 0xfffff, ACC_DATA, DESC_32 | DESC_G));
    struct trap t = go(jump);
    CHECK_EQ(t.vector, VEC_TASK);
    CHECK_EQ(t.ds, 8 | 4);
    set_up(task_end);
    new_tss.ldt = SEL_DATA;
    faults_in_new(10, SEL_DATA);
    set_up(task_end);
    new_tss.ldt = SEL_LDT | 4;
    faults_in_new(10, SEL_LDT | 4);
    set_up(task_end);
    new_tss.ldt = 0x200;
    faults_in_new(10, 0x200);
    set_up(task_end);
    legacy_gdt[SEL_LDT / 8] &= ~(UINT64_C(0x80) << 40);
    new_tss.ldt = SEL_LDT;
    faults_in_new(10, SEL_LDT);
}

GUEST_TEST(a_task_may_be_at_level_3)
{
    CODE32(user_task, "int $0x81");
    set_up(user_task);
    new_tss.seg[CS] = SEL_UCODE;
    new_tss.seg[SS] = new_tss.seg[DS] = new_tss.seg[ES] = SEL_UDATA;
    new_tss.seg[FS] = new_tss.seg[GS] = SEL_UDATA;
    struct trap t = go(jump);
    CHECK_EQ(t.vector, 0x81);
    CHECK_EQ(t.tr, SEL_NEW);
    CHECK_EQ(t.c.seg[CS], SEL_UCODE);
    CHECK_EQ(t.c.seg[SS], SEL_UDATA);
    CHECK_EQ(t.c.gpr[ESP], TASK_STACK);
    CHECK_EQ(t.esp, new_tss.esp0 - 20);
}

/* --- The rest ------------------------------------------------------------------ */

GUEST_TEST(t_bit_traps_before_the_first_instruction)
{
    set_up(task_end);
    new_tss.trap = 1;
    __asm__ volatile("mov %0, %%dr6" : : "r"(0));
    struct trap t = go(jump);
    uint32_t dr6;
    __asm__ volatile("mov %%dr6, %0" : "=r"(dr6));
    CHECK_EQ(t.vector, 1);
    CHECK_EQ(t.tr, SEL_NEW);
    CHECK_EQ(t.c.eip, (uint32_t)task_end);
    CHECK_EQ(dr6 & 0xe00f, 0x8000);
}

GUEST_TEST(local_breakpoints_end_with_the_task)
{
    CODE32(read_dr7, "mov %dr7, %eax; jmp task_end");
    set_up(read_dr7);
    __asm__ volatile("mov %0, %%dr7" : : "r"(0x7ff));
    struct trap t = go(jump);
    CHECK_EQ(t.vector, VEC_TASK);
    CHECK_EQ(t.c.gpr[EAX], 0x6aa);
}

CODE16(end16, "mov %cs, %bp; ljmpl $0x08, $task_end");
CODE16(back16, "inc %bx; iret");

GUEST_TEST(tasks_of_16_bits)
{
    set_up16(end16);
    struct trap t = go(call);
    CHECK_EQ(t.vector, VEC_TASK);
    CHECK_EQ(t.tr, SEL_NEW);
    CHECK_EQ(t.c.gpr[EAX] & 0xffff, 0x77);
    CHECK_EQ(t.c.gpr[EBP] & 0xffff, SEL_X);
    CHECK_EQ(t.c.gpr[ESP] & 0xffff, 0x7f00);
    CHECK_EQ(t.ss, SEL_DATA16);
    CHECK_EQ(t.fs | t.gs, 0);
    CHECK_EQ(t.c.eflags & FL_NT, FL_NT);
    CHECK_EQ(new_tss16.link, SEL_TSS);
    check_saved(call, 7);
}

GUEST_TEST(a_task_of_16_bits_returns_to_one_of_32)
{
    set_up16(back16);
    struct trap t = go(call);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.tr, SEL_TSS);
    CHECK_EQ(t.c.eip, (uint32_t)call + 8);
    CHECK_EQ(t.c.gpr[EBX], 0xa4);
    CHECK_EQ(new_tss16.ip, 0x102);
    CHECK_EQ(new_tss16.gpr[EBX], 0x78);
    CHECK_EQ(new_tss16.flags & FL_NT, 0);
    CHECK_EQ(new_tss16.seg[CS], SEL_X);
}

CODE16(vm_task, "mov %ds, %ax; int3");

GUEST_TEST(a_task_may_be_in_virtual_8086_mode)
{
    struct context c = vm86_context(0);
    PUT16(VM_CODE, vm_task);
    set_up(NULL);
    fill_tss32(&new_tss, &c);
    struct trap t = go(jump);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.tr, SEL_NEW);
    CHECK_EQ(t.c.eflags & FL_VM, FL_VM);
    CHECK_EQ(t.c.seg[CS], VM_CODE / 16);
    CHECK_EQ(t.c.gpr[EAX], VM_DATA / 16);
    CHECK_EQ(t.c.gpr[ESP], VM_SP);
    CHECK_EQ(t.c.seg[GS], VM_DATA / 16);
    new_tss.eip = 0x10000;
    set_gdt(SEL_NEW, descriptor((uint32_t)&new_tss, sizeof(new_tss) - 1, ACC_TSS, 0));
    t = go(jump);
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, 0);
}

CODE16(vm_int, "int $0x80; int3");

GUEST_TEST(virtual_8086_mode_is_left_through_a_task_gate)
{
    struct context c = vm86_context(3);
    PUT16(VM_CODE, vm_int);
    set_up(task_end);
    struct trap t = run(&c);
    check_new_registers(&t);
    CHECK_EQ(t.eflags & FL_VM, 0);
    CHECK_EQ(legacy_tss.eflags & (FL_VM | FL_IOPL), FL_VM | FL_IOPL);
    CHECK_EQ(legacy_tss.eip, 2);
    CHECK_EQ((uint16_t)legacy_tss.seg[CS], VM_CODE / 16);
    CHECK_EQ((uint16_t)legacy_tss.seg[GS], VM_DATA / 16);
    CHECK_EQ(legacy_tss.gpr[ESP], VM_SP);
    set_up(back);
    t = run(&c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.eip, 3);
    CHECK_EQ(t.c.eflags & FL_VM, FL_VM);
    CHECK_EQ(t.c.seg[DS], VM_DATA / 16);
}

CODE32(small_old, "ltr %ax; ljmp $0x80, $0");

GUEST_TEST(the_old_tss_must_have_room)
{
    set_up(task_end);
    set_gdt(SEL_SMALL, descriptor((uint32_t)&legacy_tss, 0x5e, ACC_TSS, 0));
    struct context c = kernel_context(small_old);
    c.gpr[EAX] = SEL_SMALL;
    struct trap t = run(&c);
    CHECK_EQ(t.vector, 10);
    CHECK_EQ(t.error, SEL_SMALL);
    CHECK_EQ(t.c.eip, (uint32_t)small_old + 3);
    CHECK_EQ(t.tr, SEL_SMALL);
}

/* --- With paging --------------------------------------------------------------- */

static uint32_t directory[2][1024] __attribute__((aligned(4096)));
static uint32_t table[1024] __attribute__((aligned(4096)));

static void paging_on(void)
{
    for (unsigned d = 0; d < 2; d++) {
        for (unsigned i = 0; i < 1024; i++) {
            directory[d][i] = i << 22 | 0x87;
        }
    }
    for (unsigned i = 0; i < 1024; i++) {
        table[i] = i << 12 | 7;
    }
    write_cr4(1 << 4); /* PSE */
    write_cr3((uint32_t)directory[0]);
    write_cr0(read_cr0() | 0x80000000);
}

GUEST_TEST(cr3_comes_from_the_new_task)
{
    set_up(task_end);
    new_tss.cr3 = (uint32_t)directory[1];
    write_cr3(0);
    struct trap t = go(jump);
    CHECK_EQ(t.cr3, 0); /* not without paging */
    set_up(task_end);
    new_tss.cr3 = (uint32_t)directory[1];
    paging_on();
    t = go(jump);
    CHECK_EQ(t.vector, VEC_TASK);
    CHECK_EQ(t.cr3, (uint32_t)directory[1]);
    CHECK_EQ(legacy_tss.cr3, 0);
    set_up(back);
    new_tss.cr3 = (uint32_t)directory[1];
    legacy_tss.cr3 = (uint32_t)directory[0];
    paging_on();
    t = go(call);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.cr3, (uint32_t)directory[0]);
    CHECK_EQ(new_tss.cr3, (uint32_t)directory[1]);
}

/* The new TSS is not mapped: #PF in the old task, which goes on as if nothing was. */
GUEST_TEST(an_absent_tss_is_a_page_fault_in_the_old_task)
{
    set_up(task_end);
    uint32_t la = 0x400000;
    set_gdt(SEL_NEW, descriptor(la, sizeof(new_tss) - 1, ACC_TSS, 0));
    paging_on();
    directory[0][1] = (uint32_t)table | 7;
    table[0] = 0;
    struct trap t = go(call);
    CHECK_EQ(t.vector, 14);
    CHECK_EQ(t.error & 5, 0);
    CHECK_EQ(t.tr, SEL_TSS);
    CHECK_EQ(t.cr2 & ~0xfffu, la);
    CHECK_EQ(t.c.eip, (uint32_t)call);
    CHECK_EQ(legacy_tss.eip, 0);
    CHECK(!busy(SEL_NEW));
}

/* The new TSS at 4 MiB, read-only. */
static void read_only_tss(void)
{
    paging_on();
    write_cr0(read_cr0() | 1 << 16); /* WP */
    directory[0][1] = (uint32_t)table | 7;
    for (unsigned i = 0; i < 4; i++) {
        table[i] = (((uint32_t)&new_tss & ~0xfffu) + i * 4096) | 5;
    }
}

/* The link cannot be written. */
GUEST_TEST(a_read_only_tss_is_a_page_fault_for_call)
{
    set_up(task_end);
    uint32_t la = 0x400000 + (uint32_t)&new_tss % 4096;
    set_gdt(SEL_NEW, descriptor(la, sizeof(new_tss) - 1, ACC_TSS, 0));
    new_tss.cr3 = (uint32_t)directory[0];
    read_only_tss();
    struct trap t = go(call);
    CHECK_EQ(t.vector, 14);
    CHECK_EQ(t.error & 7, 3);
    CHECK_EQ(t.tr, SEL_TSS);
    CHECK_EQ(t.c.eip, (uint32_t)call);
    CHECK_EQ(legacy_tss.eip, 0);
    read_only_tss();
    t = go(jump); /* which writes nothing there */
    CHECK_EQ(t.vector, VEC_TASK);
}
