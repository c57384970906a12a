/* Segmentation and privilege in long mode: call gates, far transfers and returns,
 * 16-byte descriptors. AMD64 APM vol. 2, 4.8, 8.9; the instructions' pages in vol. 3.
 */
#include "tests/guest/lib/guest.h"

enum {
    GP = 13,
    SS = 12,
    NP = 11,
    ACC_CALL = 0xec,       /* present, DPL 3 */
    SEL_X = SEL_FREE + 32, /* a segment to spoil */
};

extern const char arrived[], returns[];
__asm__(".text\n"
        "arrived: ud2\n"
        "returns: mov %rsp, %rbx; mov %ss, %ecx; lretq\n");

/* What USER code calls: the far pointer of the gate. */
USER_DATA static struct {
    uint32_t off;
    uint16_t sel;
} __attribute__((packed)) to_gate = {0xdeadbeef, SEL_FREE};

#define CALL_GATE "mov %%rsp, %%r15; lcall *to_gate; mov %%rsp, %%r14; ud2"

static uint64_t segment(unsigned access, unsigned flags)
{
    return 0xffff | (uint64_t)access << 40 | (uint64_t)(flags << 4 | 15) << 48;
}

static void set_gate(uint16_t sel, uint64_t off, unsigned access)
{
    guest_gdt[SEL_FREE / 8] = (off & 0xffff) | (uint64_t)sel << 16 |
                              (uint64_t)access << 40 | (off >> 16 & 0xffff) << 48;
    guest_gdt[SEL_FREE / 8 + 1] = off >> 32;
}

static uint64_t rsp0(void)
{
    uint64_t v;
    memcpy(&v, guest_tss + 4, 8);
    return v;
}

GUEST_TEST(call_gate_to_level_0)
{
    struct trap t;
    set_gate(SEL_CODE64, (uint64_t)arrived, ACC_CALL);
    CHECK(USER_TRAPS(&t, CALL_GATE));
    CHECK_EQ(t.vector, 6);
    CHECK_EQ(t.rip, (uint64_t)arrived);
    CHECK_EQ(t.cs, SEL_CODE64);
    CHECK_EQ(t.ss, 0); /* null, RPL 0 */
    CHECK_EQ(t.rsp, rsp0() - 32);
    const uint64_t *s = (const uint64_t *)t.rsp;
    CHECK_EQ(s[1], SEL_USER64);
    CHECK_EQ(s[2], t.gpr[15]);
    CHECK_EQ(s[3], SEL_USER_DATA);
}

GUEST_TEST(far_return_to_level_3)
{
    struct trap t;
    set_gate(SEL_CODE64, (uint64_t)returns, ACC_CALL);
    CHECK(USER_TRAPS(&t, CALL_GATE));
    CHECK_EQ(t.vector, 6);
    CHECK_EQ(t.cs, SEL_USER64);
    CHECK_EQ(t.ss, SEL_USER_DATA);
    CHECK_EQ(t.gpr[14], t.gpr[15]);
    CHECK_EQ(t.gpr[3], rsp0() - 32);
    CHECK_EQ(t.gpr[1], 0);
}

GUEST_TEST(call_gate_at_the_same_level)
{
    struct trap t;
    set_gate(SEL_CODE64, (uint64_t)returns, ACC_CALL);
    CHECK(TRAPS(&t, CALL_GATE));
    CHECK_EQ(t.vector, 6);
    CHECK_EQ(t.gpr[3], t.gpr[15] - 16);
    CHECK_EQ(t.gpr[14], t.gpr[15]);
    guest_gdt[SEL_X / 8] = segment(0x9f, 10); /* conforming: stays at level 3 */
    set_gate(SEL_X, (uint64_t)returns, ACC_CALL);
    CHECK(USER_TRAPS(&t, CALL_GATE));
    CHECK_EQ(t.vector, 14); /* a supervisor's page */
    CHECK_EQ(t.cs, SEL_X | 3);
    CHECK_EQ(t.rsp, t.gpr[15] - 16);
}

/* The gate and, where @x is not 0, the descriptor at SEL_X. */
static void refused(uint16_t sel, uint64_t off, unsigned access, uint64_t x,
                    unsigned vector, uint64_t error)
{
    struct trap t;
    guest_gdt[SEL_X / 8] = x;
    set_gate(sel, off, access);
    CHECK(USER_TRAPS(&t, CALL_GATE));
    CHECK_EQ(t.vector, vector);
    CHECK_EQ(t.error, error);
    CHECK_EQ(t.cs, SEL_USER64);
    CHECK_EQ(t.rsp, t.gpr[15]);
}

GUEST_TEST(gates_are_checked)
{
    uint64_t ok = (uint64_t)arrived;
    refused(SEL_CODE64, ok, ACC_CALL & ~0x60, 0, GP, SEL_FREE); /* DPL 0 */
    refused(SEL_CODE64, ok, ACC_CALL & ~0x80, 0, NP, SEL_FREE);
    for (unsigned type = 0; type < 16; type++) { /* the only one there is is Ch */
        if (type != 12) {
            refused(SEL_CODE64, ok, 0xe0 | type, 0, GP, SEL_FREE);
        }
    }
    refused(0, ok, ACC_CALL, 0, GP, 0);
    refused(0x200, ok, ACC_CALL, 0, GP, 0x200);
    refused(SEL_DATA, ok, ACC_CALL, 0, GP, SEL_DATA);
    refused(SEL_CODE32, ok, ACC_CALL, 0, GP, SEL_CODE32);       /* L is clear */
    refused(SEL_X, ok, ACC_CALL, segment(0x9b, 14), GP, SEL_X); /* L and D */
    refused(SEL_X, ok, ACC_CALL, segment(0x1b, 10), NP, SEL_X);
    refused(SEL_CODE64, UINT64_C(0x800000000000), ACC_CALL, 0, GP, 0);
}

/* 4.8.3: the type of the second half is 0, and it is inside the table. */
GUEST_TEST(the_second_half_of_a_gate_is_checked)
{
    struct trap t;
    set_gate(SEL_CODE64, (uint64_t)arrived, ACC_CALL);
    guest_gdt[SEL_FREE / 8 + 1] |= UINT64_C(0x0c) << 40;
    CHECK(USER_TRAPS(&t, CALL_GATE));
    CHECK_EQ(t.vector, GP);
    CHECK_EQ(t.error, SEL_FREE);
    guest_gdt[15] = guest_gdt[SEL_FREE / 8]; /* the last of the table */
    to_gate.sel = 0x78;
    CHECK(USER_TRAPS(&t, CALL_GATE));
    CHECK_EQ(t.vector, GP);
    CHECK_EQ(t.error, 0x78);
    to_gate.sel = SEL_FREE;
}

/* The stack of level 0 cannot be used: #SS, through a stack of its own. */
GUEST_TEST(non_canonical_stacks_of_the_tss_are_ss)
{
    struct trap t;
    uint64_t good = rsp0(), bad = UINT64_C(0x800000000010);
    set_gate(SEL_CODE64, (uint64_t)arrived, ACC_CALL);
    guest_gate(SS, guest_stub(SS), 14, 0, 1);
    memcpy(guest_tss + 4, &bad, 8);
    CHECK(USER_TRAPS(&t, CALL_GATE));
    memcpy(guest_tss + 4, &good, 8);
    guest_gate(SS, guest_stub(SS), 14, 0, 0);
    CHECK_EQ(t.vector, SS);
    CHECK_EQ(t.error, 0);
    CHECK_EQ(t.cs, SEL_USER64);
}

/* --- Interrupts ------------------------------------------------------------------ */

GUEST_TEST(idt_entries_are_64_bit_gates)
{
    struct trap t;
    for (unsigned type = 0; type < 32; type++) {
        guest_gate(0x90, guest_stub(0x90), type, 3, 0);
        bool ok = type == 14 || type == 15;
        guest_irqs[0x90] = 0;
        CHECK_EQ(TRAPS(&t, "int $0x90"), !ok);
        if (ok) {
            CHECK_EQ(guest_irqs[0x90], 1);
        } else {
            CHECK_EQ(t.vector, GP);
            CHECK_EQ(t.error, 0x90 * 8 + 2);
        }
    }
    guest_gate(0x90, guest_stub(0x90), 14, 0, 0);
}

static void handler_code(uint16_t sel, uint64_t x, unsigned vector, uint64_t error)
{
    struct trap t;
    guest_gdt[SEL_X / 8] = x;
    guest_idt[2 * 0x90] = (guest_idt[2 * 0x90] & ~UINT64_C(0xffff0000)) | sel << 16;
    CHECK(TRAPS(&t, "int $0x90"));
    CHECK_EQ(t.vector, vector);
    CHECK_EQ(t.error, error);
}

GUEST_TEST(handlers_are_64_bit_code)
{
    guest_gate(0x90, guest_stub(0x90), 14, 0, 0);
    handler_code(SEL_CODE32, 0, GP, SEL_CODE32);
    handler_code(SEL_X, segment(0x9b, 14), GP, SEL_X);
    handler_code(SEL_X, segment(0x1b, 10), NP, SEL_X);
    handler_code(SEL_DATA, 0, GP, SEL_DATA);
    handler_code(SEL_USER64 & ~3, 0, GP, SEL_USER64 & ~3); /* outwards */
    handler_code(0, 0, GP, 0);
    guest_gate(0x90, guest_stub(0x90), 14, 0, 0);
}

/* --- Returns --------------------------------------------------------------------- */

#define FRAME(ss, flags, cs, rip)                                               \
    "mov %%rsp, %%r15; push $" #ss "; push %%r15; push $" #flags "; push $" #cs \
    "; lea " rip "(%%rip), %%rax; push %%rax\n"

GUEST_TEST(long_mode_has_no_nested_tasks)
{
    struct trap t;
    CHECK(TRAPS(&t, "pushfq; orl $0x4000, (%%rsp); popfq\n" FRAME(
                        0x10, 2, 8, "1f") "iretq; 1: ud2"));
    CHECK_EQ(t.vector, GP);
    CHECK_EQ(t.error, 0);
}

GUEST_TEST(iret_ignores_vm_in_long_mode)
{
    struct trap t;
    CHECK(TRAPS(&t, FRAME(0x10, 0x20002, 8, "1f") "iretq; 1: ud2"));
    CHECK_EQ(t.vector, 6);
    CHECK_EQ(t.rflags & 0x20000, 0);
}

GUEST_TEST(a_null_stack_segment_is_for_inner_levels)
{
    struct trap t;
    CHECK(TRAPS(&t, FRAME(0, 2, 8, "1f") "iretq; 1: mov %%ss, %%ecx; ud2"));
    CHECK_EQ(t.vector, 6);
    CHECK_EQ(t.gpr[1], 0);
    CHECK(TRAPS(&t, FRAME(3, 2, 0x2b, "1f") "iretq; 1: ud2"));
    CHECK_EQ(t.vector, GP);
    CHECK_EQ(t.error, 0);
    CHECK(TRAPS(&t, FRAME(1, 2, 8, "1f") "iretq; 1: ud2"));
    CHECK_EQ(t.vector, GP);
    CHECK(!TRAPS(&t, "xor %%eax, %%eax; mov %%eax, %%ss; push %%rax; pop %%rax\n"
                     "mov $0x10, %%eax; mov %%eax, %%ss"));
    CHECK(USER_TRAPS(&t, "mov $3, %%eax; mov %%eax, %%ss"));
    CHECK_EQ(t.vector, GP);
    CHECK_EQ(t.error, 0);
}

GUEST_TEST(returns_to_non_canonical_addresses_are_gp)
{
    struct trap t;
    CHECK(TRAPS(&t, "mov $0x800000000000, %%rax; push $8; push %%rax; lretq"));
    CHECK_EQ(t.vector, GP);
    CHECK_EQ(t.error, 0);
    CHECK(TRAPS(&t, "mov %%rsp, %%r15; push $0x10; push %%r15; push $2; push $8\n"
                    "mov $0x800000000000, %%rax; push %%rax; iretq"));
    CHECK_EQ(t.vector, GP);
    CHECK(TRAPS(&t, "mov $0x800000000000, %%rax; jmp *%%rax"));
    CHECK_EQ(t.vector, GP);
}

/* --- Compatibility mode -------------------------------------------------------------
 */

/* To 32-bit code by a far return, and a call gate back. */
GUEST_TEST(call_gate_out_of_compatibility_mode)
{
    struct trap t;
    set_gate(SEL_CODE64, (uint64_t)arrived, ACC_CALL);
    CHECK(USER_TRAPS(&t,
                     "mov %%rsp, %%r15; push $0x1b; lea 1f(%%rip), %%rax; push %%rax\n"
                     "lretq\n.code32\n1: mov %%esp, %%ebx; lcall $0x50, $0\n.code64"));
    CHECK_EQ(t.vector, 6);
    CHECK_EQ(t.rip, (uint64_t)arrived);
    CHECK_EQ(t.cs, SEL_CODE64);
    CHECK_EQ(t.rsp, rsp0() - 32);
    const uint64_t *s = (const uint64_t *)t.rsp;
    CHECK_EQ(s[1], SEL_USER32);
    CHECK_EQ(s[2], t.gpr[3]);
    CHECK_EQ(s[3], SEL_USER_DATA);
}

/* In compatibility mode segments have limits and types again. */
GUEST_TEST(limits_count_in_compatibility_mode)
{
    struct trap t;
    guest_gdt[SEL_X / 8] = 0xfff | UINT64_C(0xf3) << 40 | UINT64_C(0x40) << 48;
    CHECK(USER_TRAPS(
        &t, "push $0x1b; lea 1f(%%rip), %%rax; push %%rax; lretq\n.code32\n"
            "1: mov $0x73, %%eax; mov %%eax, %%fs; mov %%fs:0xffd, %%eax\n.code64"));
    CHECK_EQ(t.vector, GP);
    CHECK_EQ(t.error, 0);
    CHECK_EQ(t.cs, SEL_USER32);
    CHECK(USER_TRAPS(&t,
                     "push $0x1b; lea 1f(%%rip), %%rax; push %%rax; lretq\n.code32\n"
                     "1: mov $0x400000, %%ebx; mov %%al, %%cs:(%%ebx)\n.code64"));
    CHECK_EQ(t.vector, GP);
}

GUEST_TEST(far_jumps_and_old_instructions_are_gone_in_64_bit_code)
{
    struct trap t;
    CHECK(TRAPS(&t, ".byte 0xea, 0, 0, 0, 0, 8, 0"));
    CHECK_EQ(t.vector, 6);
    CHECK(TRAPS(&t, ".byte 0x9a, 0, 0, 0, 0, 8, 0"));
    CHECK_EQ(t.vector, 6);
    CHECK(TRAPS(&t, ".byte 0x60"));
    CHECK_EQ(t.vector, 6);
    CHECK(TRAPS(&t, ".byte 0xce"));
    CHECK_EQ(t.vector, 6);
    CHECK(TRAPS(&t, ".byte 0x1e"));
    CHECK_EQ(t.vector, 6);
}

/* --- Tables -------------------------------------------------------------------------
 */

static void put_system(unsigned access, uint64_t base)
{
    guest_gdt[SEL_FREE / 8] = 0x67 | (base & 0xffffff) << 16 | (uint64_t)access << 40 |
                              (base >> 24 & 0xff) << 56;
    guest_gdt[SEL_FREE / 8 + 1] = base >> 32;
}

GUEST_TEST(lldt_and_ltr_read_16_bytes)
{
    struct trap t;
    put_system(0x82, (uint64_t)guest_gdt);
    CHECK(!TRAPS(&t, "mov $0x50, %%eax; lldt %%ax; xor %%eax, %%eax; lldt %%ax"));
    put_system(0x82, UINT64_C(0x800000000000));
    CHECK(TRAPS(&t, "mov $0x50, %%eax; lldt %%ax"));
    CHECK_EQ(t.vector, GP);
    put_system(0x81, 0); /* there are no 16-bit TSSs */
    CHECK(TRAPS(&t, "mov $0x50, %%eax; ltr %%ax"));
    CHECK_EQ(t.vector, GP);
    CHECK_EQ(t.error, SEL_FREE);
    put_system(0x89, UINT64_C(0x800000000000));
    CHECK(TRAPS(&t, "mov $0x50, %%eax; ltr %%ax"));
    CHECK_EQ(t.vector, GP);
    guest_gdt[15] = guest_gdt[SEL_FREE / 8];
    CHECK(TRAPS(&t, "mov $0x78, %%eax; ltr %%ax"));
    CHECK_EQ(t.vector, GP);
    CHECK_EQ(t.error, 0x78);
}

GUEST_TEST(lar_and_lsl_show_long_modes_types)
{
    const unsigned lar = 0x1a04, lsl = 0x0a04; /* APM 3, LAR and LSL */
    struct trap t;
    for (unsigned type = 0; type < 16; type++) {
        put_system(0xe0 | type, 0);
        CHECK(TRAPS(&t,
                    "mov $0x53, %%eax; xor %%ebx, %%ebx; mov %%ebx, %%esi\n"
                    "lar %%eax, %%ecx; setz %%bl; lsl %%eax, %%edx; setz %%sil; ud2"));
        CHECK_EQ(t.vector, 6);
        CHECK_EQ(t.gpr[3], lar >> type & 1);
        CHECK_EQ(t.gpr[6], lsl >> type & 1);
    }
}
