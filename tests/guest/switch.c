/*
 * Changes of the level in 64-bit code that have been seen before: SYSCALL, SYSRET and
 * IRET, which a fast CPU does in its own way once it knows where they lead. Each case
 * comes after ordinary ones through the same instruction. APM 3: the instructions'
 * pages.
 */
#include "tests/guest/lib/guest.h"

enum { CF = 1, TF = 0x100, IF = 0x200, DF = 0x400, OF = 0x800, NT = 0x4000 };
enum { RF = 0x10000, AC = 0x40000, ID = 0x200000, R1 = 2 };
enum { UD = 6, NP = 11, SS = 12, GP = 13, PF = 14 };

/* --- IRET ------------------------------------------------------------------- */

struct frame {
    uint64_t rip, cs, rflags, rsp, ss;
};

/* IRET of the frame at @sp, which has room below it; the second with NT set. They come
 * back by a trap only. */
void iret_from(void *sp);
void iret_nested(void *sp);
extern char kernel_ud[], user_ud[];
__asm__(".text\n"
        "iret_nested: mov %rdi, %rsp; pushfq; orl $0x4000, (%rsp); popfq; jmp 1f\n"
        "iret_from: mov %rdi, %rsp\n1: iretq\n"
        "kernel_ud: ud2\n"
        ".pushsection .user.text, \"ax\"\nuser_ud: mov %ds, %eax\nud2\n.popsection\n");

static uint8_t user_stack[256] USER_DATA;
static uint8_t stacks[2][8192] __attribute__((aligned(16)));

static struct frame to_user(void)
{
    return (struct frame){(uint64_t)user_ud, SEL_USER64, R1, (uint64_t)user_stack + 128,
                          SEL_USER_DATA};
}

static struct frame to_kernel(void)
{
    return (struct frame){(uint64_t)kernel_ud, SEL_CODE64, R1,
                          (uint64_t)stacks[1] + sizeof(stacks[1]) - 64, 0};
}

static void set_segments(uint32_t sel)
{
    __asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(sel));
}

/* With null data segments, as 64-bit kernels have: others may be more work. */
static void shoot(struct trap *t, void (*how)(void *), struct frame f)
{
    struct frame *at = (struct frame *)(stacks[0] + sizeof(stacks[0])) - 2;
    *at = f;
    set_segments(0);
    CHECK(guest_try(t, how, at));
    set_segments(SEL_DATA);
}

static void expect(const struct frame *f, unsigned vector, uint64_t error)
{
    struct trap t;
    shoot(&t, iret_from, *f);
    CHECK_EQ(t.vector, vector);
    if (vector == UD) {
        CHECK_EQ(t.cs, f->cs);
        CHECK_EQ(t.ss, f->ss);
        CHECK_EQ(t.rsp, f->rsp);
    } else {
        CHECK_EQ(t.error, error);
        CHECK_EQ(t.cs, SEL_CODE64);
    }
}

/* Ordinary ones, through the instruction that follows. */
static void warm_up(void)
{
    struct frame user = to_user(), kernel = to_kernel();
    for (unsigned i = 0; i < 3; i++) {
        expect(&user, UD, 0);
        expect(&kernel, UD, 0);
    }
}

GUEST_TEST(iret_goes_to_user_and_kernel_code_again_and_again)
{
    for (unsigned i = 0; i < 20; i++) {
        warm_up();
    }
}

static uint64_t flags_after(struct frame f, uint64_t rflags)
{
    struct trap t;
    f.rflags = rflags;
    shoot(&t, iret_from, f);
    CHECK_EQ(t.vector, UD);
    return t.rflags & ~(uint64_t)RF; /* the #UD's own */
}

GUEST_TEST(iret_loads_the_flags_of_its_frame)
{
    static const uint32_t bit[] = {CF,     4,      0x10, 0x40, 0x80, DF,
                                   0x1000, 0x2000, NT,   AC,   ID,   OF};
    warm_up();
    for (uint32_t n = 0; n < 200; n++) {
        uint64_t v = R1;
        for (unsigned i = 0; i < sizeof(bit) / sizeof(bit[0]); i++) {
            v |= (n * 2654435761u >> (i + 7)) & 1 ? bit[i] : 0;
        }
        CHECK_EQ(flags_after(to_kernel(), v), v);
        CHECK_EQ(flags_after(to_user(), v | RF), v);
        CHECK_EQ(flags_after(to_user(), v | IF), v | IF);
    }
}

GUEST_TEST(iret_with_tf_steps_one_instruction)
{
    struct trap t;
    for (unsigned i = 0; i < 3; i++) {
        struct frame f = to_user();
        warm_up();
        f.rflags |= TF;
        shoot(&t, iret_from, f);
        CHECK_EQ(t.vector, 1);
        CHECK_EQ(t.rip, (uint64_t)user_ud + 2);
    }
}

GUEST_TEST(iret_of_a_nested_task_is_gp)
{
    struct trap t;
    for (unsigned i = 0; i < 3; i++) {
        warm_up();
        shoot(&t, iret_nested, to_user());
        CHECK_EQ(t.vector, GP);
        CHECK_EQ(t.error, 0);
    }
}

/* Descriptors with this access byte: 64-bit code, and data. */
#define CODE(access) (UINT64_C(0x00af000000000000) | (uint64_t)(access) << 40)
#define DATA(access) (UINT64_C(0x00cf00000000ffff) | (uint64_t)(access) << 40)

struct row {
    uint64_t descriptor; /* of SEL_FREE */
    uint16_t sel;
    unsigned vector;
};

GUEST_TEST(iret_looks_at_its_code_segment)
{
    static const struct row row[] = {
        {0, 0, GP},
        {0, 3, GP},
        {0, SEL_DATA | 3, GP},
        {0, SEL_USER64 & ~1, GP}, /* RPL 2 */
        {0, SEL_USER64 & ~3, GP}, /* RPL 0 */
        {0, SEL_CODE64 | 3, GP},
        {0, 0xfffb, GP},
        {0, SEL_USER64 | 4, GP}, /* of no LDT */
        {CODE(0xfb), SEL_FREE | 3, UD},
        {CODE(0xf9), SEL_FREE | 3, UD},
        {CODE(0x9f), SEL_FREE | 3, UD}, /* conforming */
        {CODE(0x7b), SEL_FREE | 3, NP},
        {CODE(0x9b), SEL_FREE | 3, GP},
        {CODE(0xfb) | UINT64_C(1) << 54, SEL_FREE | 3, GP}, /* L and D */
        {DATA(0xf3), SEL_FREE | 3, GP},
        {CODE(0xeb), SEL_FREE | 3, GP}, /* of the system */
    };
    for (unsigned i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
        struct frame f = to_user();
        warm_up();
        guest_gdt[SEL_FREE / 8] = row[i].descriptor;
        f.cs = row[i].sel;
        expect(&f, row[i].vector, row[i].sel & 0xfffc);
        expect(&f, row[i].vector, row[i].sel & 0xfffc);
    }
}

GUEST_TEST(iret_looks_at_the_limit_of_its_table)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) gdt, shorter;
    struct frame f = to_user();
    __asm__ volatile("sgdt %0" : "=m"(gdt));
    shorter = gdt;
    shorter.limit = SEL_FREE + 6;
    guest_gdt[0] = guest_gdt[SEL_FREE / 8] = CODE(0xfb);
    for (unsigned i = 0; i < 3; i++) {
        warm_up();
        f.cs = SEL_FREE | 3;
        expect(&f, UD, 0);
        __asm__ volatile("lgdt %0" : : "m"(shorter));
        expect(&f, GP, SEL_FREE);
        __asm__ volatile("lgdt %0" : : "m"(gdt));
        f.cs = 3; /* of none, whatever the table has there */
        expect(&f, GP, 0);
    }
    guest_gdt[0] = guest_gdt[SEL_FREE / 8] = 0;
}

GUEST_TEST(iret_marks_its_segments_as_accessed)
{
    struct frame f = to_user();
    warm_up();
    guest_gdt[SEL_FREE / 8] = CODE(0xfa);
    f.cs = SEL_FREE | 3;
    expect(&f, UD, 0);
    CHECK_EQ(guest_gdt[SEL_FREE / 8], CODE(0xfb));
    guest_gdt[SEL_FREE / 8] = DATA(0xf2);
    f = to_user();
    f.ss = SEL_FREE | 3;
    expect(&f, UD, 0);
    CHECK_EQ(guest_gdt[SEL_FREE / 8], DATA(0xf3));
    guest_gdt[SEL_FREE / 8] = 0;
}

GUEST_TEST(iret_looks_at_its_stack_segment)
{
    static const struct row row[] = {
        {0, 0, GP},
        {0, 3, GP},
        {0, SEL_DATA, GP},
        {0, SEL_DATA | 3, GP},
        {0, SEL_USER_DATA & ~3, GP},
        {0, SEL_USER64, GP},
        {0, 0xfffb, GP},
        {DATA(0xf3), SEL_FREE | 3, UD},
        {DATA(0xf1), SEL_FREE | 3, GP}, /* read-only */
        {DATA(0x73), SEL_FREE | 3, SS}, /* not present */
        {DATA(0xe3), SEL_FREE | 3, GP}, /* of the system */
    };
    static const struct row inner[] = {
        {0, SEL_DATA, UD},
        {0, 0, UD},
        {0, 1, GP},
        {0, SEL_DATA | 3, GP},
        {0, SEL_USER_DATA, GP},
        {0, SEL_CODE64, GP},
        {DATA(0x91), SEL_FREE, GP},
    };
    for (unsigned i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
        struct frame f = to_user();
        warm_up();
        guest_gdt[SEL_FREE / 8] = row[i].descriptor;
        f.ss = row[i].sel;
        expect(&f, row[i].vector, row[i].sel & 0xfffc);
        expect(&f, row[i].vector, row[i].sel & 0xfffc);
    }
    for (unsigned i = 0; i < sizeof(inner) / sizeof(inner[0]); i++) {
        struct frame f = to_kernel();
        warm_up();
        guest_gdt[SEL_FREE / 8] = inner[i].descriptor;
        f.ss = inner[i].sel;
        expect(&f, inner[i].vector, inner[i].sel & 0xfffc);
        expect(&f, inner[i].vector, inner[i].sel & 0xfffc);
    }
    guest_gdt[SEL_FREE / 8] = 0;
}

GUEST_TEST(iret_to_a_non_canonical_address_is_gp)
{
    struct frame f = to_user();
    warm_up();
    f.rip = UINT64_C(0x800000000000);
    expect(&f, GP, 0);
    f = to_kernel();
    f.rip = UINT64_C(0xffff7ffffffffff0);
    expect(&f, GP, 0);
}

GUEST_TEST(iret_to_user_code_takes_the_kernels_segments_away)
{
    struct frame *at = (struct frame *)(stacks[0] + sizeof(stacks[0])) - 2;
    struct trap t;
    for (unsigned i = 0; i < 4; i++) {
        uint32_t sel = i & 1 ? SEL_DATA : SEL_USER_DATA;
        warm_up();
        *at = to_user();
        set_segments(sel);
        CHECK(guest_try(&t, iret_from, at));
        CHECK_EQ(t.vector, UD);
        CHECK_EQ(t.gpr[0], sel == SEL_DATA ? 0 : sel);
    }
}

GUEST_TEST(iret_faults_on_the_second_page_of_its_frame)
{
    struct trap t;
    struct frame *at = (struct frame *)(WINDOW + 4096 - 16);
    *guest_pte(0) = (uint64_t)guest_page(1) | PTE_P | PTE_W;
    for (unsigned i = 0; i < 3; i++) {
        *guest_pte(1) = (uint64_t)guest_page(2) | PTE_P | PTE_W;
        invlpg(WINDOW + 4096);
        warm_up();
        *at = to_user();
        set_segments(0);
        CHECK(guest_try(&t, iret_from, at));
        CHECK_EQ(t.vector, UD);
        *guest_pte(1) = 0;
        invlpg(WINDOW + 4096);
        set_segments(0);
        CHECK(guest_try(&t, iret_from, at));
        CHECK_EQ(t.vector, PF);
        CHECK_EQ(t.cr2, WINDOW + 4096);
        CHECK_EQ(t.error, 0);
    }
    *guest_pte(0) = 0;
    guest_flush_tlb();
}

GUEST_TEST(iret_to_where_alignment_is_checked)
{
    struct trap t;
    static uint64_t word[2] USER_DATA;
    uint64_t cr0 = read_cr0();
    struct frame f = to_user();
    warm_up();
    write_cr0(cr0 | 1 << 18); /* AM */
    void (*misaligned)(void *);
    __asm__ volatile(
        ".pushsection .user.text, \"ax\"\n1: mov 1+%c1(%%rip), %%eax\nud2\n"
        ".popsection\nlea 1b(%%rip), %0"
        : "=r"(misaligned)
        : "i"(word));
    f.rip = (uint64_t)misaligned;
    for (unsigned i = 0; i < 6; i++) {
        f.rflags = i & 1 ? R1 | AC : R1;
        shoot(&t, iret_from, f);
        CHECK_EQ(t.vector, i & 1 ? 17 : UD);
    }
    write_cr0(cr0);
}

/* --- Interrupts that wait ------------------------------------------------------- */

static volatile uint32_t *apic(unsigned reg)
{
    return (volatile uint32_t *)(UINT64_C(0xfee00000) + reg);
}

/* To itself; interrupts are off. */
static void send(unsigned vector)
{
    *apic(0xf0) = 0x1ff;
    *apic(0x300) = 1 << 18 | vector;
}

GUEST_TEST(an_interrupt_that_waits_comes_before_the_next_instruction)
{
    struct trap t;
    for (unsigned i = 0; i < 4; i++) {
        struct frame f = i & 1 ? to_kernel() : to_user();
        warm_up();
        uint32_t before = guest_irqs[0x40];
        f.rflags |= IF;
        send(0x40);
        shoot(&t, iret_from, f);
        CHECK_EQ(t.vector, UD);
        CHECK_EQ(guest_irqs[0x40], before + 1);
        *apic(0xb0) = 0;
    }
}

/* --- SYSCALL and SYSRET ------------------------------------------------------- */

static volatile uint64_t seen[5];
static volatile struct {
    uint64_t flags, after, xmm, rip;
} user USER_DATA;
extern char entry[], other_entry[], sending_entry[], call_six_times[], after_call[],
    bad_return[];
__asm__(
    ".text\n"
    "entry: mov %rcx, seen(%rip); mov %r11, 8+seen(%rip)\n"
    "pushfq; pop %rax; mov %rax, 16+seen(%rip)\n"
    "mov %cs, %eax; mov %rax, 24+seen(%rip); mov %ss, %eax; mov %rax, 32+seen(%rip)\n"
    "sysretq\n"
    "other_entry: movq $77, seen(%rip); sysretq\n"
    "sending_entry: mov $0xfee00300, %eax; movl $0x40040, (%rax)\n"
    "or $0x200, %r11; sysretq\n"
    "bad_return: mov $1, %ecx; shl $47, %rcx; sysretq\n"
    ".pushsection .user.text, \"ax\"\n"
    "call_six_times: mov $6, %ebx; movq user(%rip), %xmm5; movq user(%rip), %xmm15\n"
    "1: push user(%rip); popfq; cmc; syscall\n"
    "after_call: pushfq; pop %rax; mov %rax, 8+user(%rip)\n"
    "dec %ebx; jnz 1b\n"
    "movq %xmm5, %rax; movq %xmm15, %rcx; xor %rcx, %rax; mov %rax, 16+user(%rip)\n"
    "ud2\n.popsection\n");

static void set_up_calls(uint64_t mask)
{
    wrmsr(MSR_STAR, (uint64_t)SEL_CODE64 << 32 | (uint64_t)(SEL_USER32 & ~3) << 48);
    wrmsr(MSR_LSTAR, (uint64_t)entry);
    wrmsr(MSR_SFMASK, mask);
}

static void call(struct trap *t, uint64_t flags)
{
    user.flags = flags;
    user.xmm = 1;
    seen[0] = 0;
    CHECK(guest_try_user(t, (void (*)(void *))(void *)call_six_times, NULL));
}

GUEST_TEST(system_calls_carry_flags_and_selectors_again_and_again)
{
    static const uint32_t masks[] = {0, CF, OF, 0x8d5, 0x47700, 0x257fd5, DF | AC};
    struct trap t;
    for (unsigned m = 0; m < sizeof(masks) / sizeof(masks[0]); m++) {
        set_up_calls(masks[m]);
        for (uint32_t n = 0; n < 40; n++) {
            static const uint32_t bit[] = {CF, 4, 0x10, 0x40, 0x80, DF, OF, AC, ID, NT};
            uint64_t v = R1;
            for (unsigned i = 0; i < sizeof(bit) / sizeof(bit[0]); i++) {
                v |= (n * 2654435761u >> (i + 9)) & 1 ? bit[i] : 0;
            }
            call(&t, v);
            CHECK_EQ(t.vector, UD);
            CHECK_EQ(t.cs, SEL_USER64);
            CHECK_EQ(t.ss, SEL_USER_DATA);
            CHECK_EQ(seen[0], (uint64_t)after_call);
            v ^= CF; /* by user code */
            CHECK_EQ(seen[1] & ~(uint64_t)IF, v);
            CHECK_EQ(seen[2] & ~(uint64_t)IF, (v & ~(uint64_t)masks[m]) | R1);
            CHECK_EQ(seen[3], SEL_CODE64);
            CHECK_EQ(seen[4], SEL_CODE64 + 8);
            CHECK_EQ(user.after & ~(uint64_t)IF, v);
            CHECK_EQ(user.xmm, 0);
        }
    }
}

GUEST_TEST(sysret_to_where_alignment_is_checked)
{
    struct trap t;
    uint64_t cr0 = read_cr0();
    set_up_calls(AC);
    write_cr0(cr0 | 1 << 18); /* AM */
    for (unsigned i = 0; i < 6; i++) {
        user.flags = i & 1 ? R1 | AC : R1;
        CHECK(USER_TRAPS(&t, "push user(%%rip); popfq; syscall\n"
                             "mov 1+user(%%rip), %%eax; ud2"));
        CHECK_EQ(t.vector, i & 1 ? 17 : UD);
    }
    write_cr0(cr0);
}

GUEST_TEST(sysret_enables_an_interrupt_that_waits)
{
    struct trap t;
    set_up_calls(IF);
    for (unsigned i = 0; i < 4; i++) {
        call(&t, R1);
        uint32_t before = guest_irqs[0x40];
        wrmsr(MSR_LSTAR, (uint64_t)sending_entry);
        *apic(0xf0) = 0x1ff;
        CHECK(USER_TRAPS(&t, "syscall; ud2"));
        CHECK_EQ(t.vector, UD);
        CHECK_EQ(guest_irqs[0x40], before + 1);
        *apic(0xb0) = 0;
        wrmsr(MSR_LSTAR, (uint64_t)entry);
    }
}

GUEST_TEST(system_calls_go_where_lstar_says_now)
{
    struct trap t;
    set_up_calls(0);
    for (unsigned i = 0; i < 4; i++) {
        call(&t, R1);
        CHECK_EQ(seen[0], (uint64_t)after_call);
        wrmsr(MSR_LSTAR, (uint64_t)other_entry);
        call(&t, R1);
        CHECK_EQ(seen[0], 77);
        wrmsr(MSR_LSTAR, (uint64_t)entry);
    }
}

GUEST_TEST(system_calls_need_sce)
{
    struct trap t;
    uint64_t efer = rdmsr(MSR_EFER);
    set_up_calls(0);
    for (unsigned i = 0; i < 3; i++) {
        call(&t, R1);
        CHECK_EQ(seen[0], (uint64_t)after_call);
        wrmsr(MSR_EFER, efer & ~UINT64_C(1));
        call(&t, R1);
        CHECK_EQ(seen[0], 0);
        CHECK_EQ(t.vector, UD);
        CHECK_EQ(t.gpr[3], 6);
        wrmsr(MSR_EFER, efer);
    }
}

GUEST_TEST(sysret_to_a_non_canonical_address_is_gp)
{
    struct trap t;
    set_up_calls(0);
    for (unsigned i = 0; i < 3; i++) {
        call(&t, R1);
        CHECK_EQ(t.vector, UD);
        wrmsr(MSR_LSTAR, (uint64_t)bad_return);
        call(&t, R1);
        CHECK_EQ(t.vector, GP); /* at either level: processors differ */
        wrmsr(MSR_LSTAR, (uint64_t)entry);
    }
}

GUEST_TEST(sysret_is_gp_in_user_code)
{
    struct trap t;
    for (unsigned i = 0; i < 3; i++) {
        CHECK(USER_TRAPS(&t, "lea 1f(%%rip), %%rcx; mov $2, %%r11d; sysretq; 1: ud2"));
        CHECK_EQ(t.vector, GP);
    }
}

/* --- What goes with them -------------------------------------------------------- */

GUEST_TEST(selectors_are_read_into_16_32_and_64_bits)
{
    for (unsigned i = 0; i < 3; i++) {
        uint64_t in_reg = ~UINT64_C(0), wide = in_reg, full = in_reg, r9, r10;
        set_segments(SEL_USER_DATA);
        __asm__ volatile("mov %%ds, %w0; mov %%es, %k1; mov %%cs, %q2\n"
                         "mov $-1, %%r9; mov %%ds, %%r9w; mov %%r9, %3\n"
                         "mov $-1, %%r10; mov %%cs, %%r10; mov %%r10, %4"
                         : "+r"(in_reg), "+r"(wide), "+r"(full), "=r"(r9), "=r"(r10)
                         :
                         : "r9", "r10");
        set_segments(SEL_DATA);
        CHECK_EQ(in_reg, UINT64_C(0xffffffffffff0000) | SEL_USER_DATA);
        CHECK_EQ(wide, SEL_USER_DATA);
        CHECK_EQ(full, SEL_CODE64);
        CHECK_EQ(r9, UINT64_C(0xffffffffffff0000) | SEL_USER_DATA);
        CHECK_EQ(r10, SEL_CODE64);
    }
}

#define CR4_FSGSBASE (UINT64_C(1) << 16)

static uint64_t words[2] = {11, 22};

GUEST_TEST(bases_are_written_and_used_at_once)
{
    struct trap t;
    if (!has_cpuid(7, 1, 0)) {
        guest_skip("no FSGSBASE");
        return;
    }
    uint64_t cr4 = read_cr4();
    for (unsigned i = 0; i < 3; i++) {
        uint64_t a, b, c, upper = UINT64_C(0x5555) << 32;
        write_cr4(cr4 | CR4_FSGSBASE);
        __asm__ volatile("wrfsbase %3; mov %%fs:0, %0; wrfsbase %4; mov %%fs:0, %1\n"
                         "stc; wrgsbase %k5; rdgsbase %2; adc $0, %2"
                         : "=&r"(a), "=&r"(b), "=&r"(c)
                         : "r"(&words[0]), "r"(&words[1]), "r"(upper | 0x1234)
                         : "cc");
        CHECK_EQ(a, 11);
        CHECK_EQ(b, 22);
        CHECK_EQ(c, 0x1235);
        CHECK_EQ(rdmsr(MSR_GS_BASE), 0x1234);
        CHECK_EQ(rdmsr(MSR_FS_BASE), (uint64_t)&words[1]);
        CHECK(TRAPS(&t, "mov $1, %%eax; shl $62, %%rax; wrfsbase %%rax"));
        CHECK_EQ(t.vector, GP);
        CHECK(TRAPS(&t, "mov $1, %%r9d; shl $62, %%r9; wrgsbase %%r9"));
        CHECK_EQ(t.vector, GP);
        CHECK(!TRAPS(&t, "mov $-4096, %%rax; wrfsbase %%rax; wrgsbase %%rax"));
        CHECK_EQ(rdmsr(MSR_FS_BASE), (uint64_t)-4096);
        CHECK_EQ(rdmsr(MSR_GS_BASE), (uint64_t)-4096);
        write_cr4(cr4 & ~CR4_FSGSBASE);
        CHECK(TRAPS(&t, "xor %%eax, %%eax; wrfsbase %%rax"));
        CHECK_EQ(t.vector, UD);
        CHECK_EQ(rdmsr(MSR_FS_BASE), (uint64_t)-4096);
    }
    wrmsr(MSR_FS_BASE, 0);
    wrmsr(MSR_GS_BASE, 0);
    write_cr4(cr4);
}
