/* 5-level paging: who may switch it on, what is canonical, the fifth level's entries.
 * AMD64 APM vol. 2 5.3.2, Intel SDM vol. 3 4.5. */
#include "tests/guest/lib/guest.h"

#define CR4_LA57 (UINT64_C(1) << 12)
#define HIGH     (UINT64_C(1) << 48) /* canonical with 57 bits only */
#define TOO_HIGH (UINT64_C(1) << 56)

extern uint64_t pml4[512];
static volatile uint64_t pml5[512] __attribute__((aligned(4096)));

/* void set_paging(uint32_t cr4, uint32_t cr3): through 32-bit code without paging. */
void set_paging(uint64_t cr4, uint64_t cr3);
__asm__(".text\n"
        "set_paging:\n"
        "push $0x30; lea 1f(%rip), %rax; push %rax; lretq\n"
        ".code32\n"
        "1: mov %cr0, %eax; btr $31, %eax; mov %eax, %cr0\n"
        "mov %edi, %cr4; mov %esi, %cr3\n"
        "bts $31, %eax; mov %eax, %cr0\n"
        "ljmp $0x08, $2f\n"
        ".code64\n"
        "2: ret\n");

static bool lacks_la57(void)
{
    if (!has_cpuid(7, 2, 16)) {
        guest_skip("no LA57");
        return true;
    }
    return false;
}

static void five(void)
{
    for (unsigned i = 0; i < 512; i++) {
        pml5[i] = 0;
    }
    pml5[0] = (uint64_t)pml4 | PTE_P | PTE_W | PTE_U;
    set_paging(read_cr4() | CR4_LA57, (uint64_t)pml5);
}

static void four(void)
{
    set_paging(read_cr4() & ~CR4_LA57, (uint64_t)pml4);
}

static void load(void *arg)
{
    (void)*(volatile uint32_t *)arg;
}

static void store(void *arg)
{
    *(volatile uint32_t *)arg = 0x12345678;
}

static USER_CODE void user_load(void *arg)
{
    (void)*(volatile uint32_t *)arg;
}

static void jump(void *arg)
{
    ((void (*)(void))arg)();
}

static USER_CODE void user_jump(void *arg)
{
    ((void (*)(void))arg)();
}

static void expect(bool (*how)(struct trap *, void (*)(void *), void *),
                   void (*fn)(void *), uint64_t addr, unsigned vector, uint64_t error)
{
    struct trap t;
    how(&t, fn, (void *)addr);
    CHECK_EQ(t.vector, vector);
    if (vector != NO_TRAP) {
        CHECK_EQ(t.error, error);
    }
}

GUEST_TEST(la57_cannot_change_in_long_mode)
{
    struct trap t;
    CHECK(TRAPS(&t, "mov %%cr4, %%rax; bts $12, %%rax; mov %%rax, %%cr4"));
    CHECK_EQ(t.vector, 13);
    if (lacks_la57()) {
        return;
    }
    five();
    CHECK(read_cr4() & CR4_LA57);
    CHECK(TRAPS(&t, "mov %%cr4, %%rax; btr $12, %%rax; mov %%rax, %%cr4"));
    CHECK_EQ(t.vector, 13);
    four();
    CHECK(!(read_cr4() & CR4_LA57));
}

GUEST_TEST(cpuid_tells_57_bits)
{
    if (lacks_la57()) {
        return;
    }
    uint32_t r[4];
    cpuid(0x80000008, 0, r);
    CHECK_EQ(r[0] >> 8 & 0xff, 57);
}

GUEST_TEST(four_levels_have_48_bits)
{
    expect(guest_try, load, HIGH, 13, 0);
    expect(guest_try, store, HIGH, 13, 0);
    expect(guest_try, jump, HIGH, 13, 0);
}

GUEST_TEST(five_levels_have_57_bits)
{
    if (lacks_la57()) {
        return;
    }
    five();
    expect(guest_try, load, HIGH, 14, 0);
    expect(guest_try, store, HIGH, 14, 2);
    expect(guest_try, load, -HIGH, 14, 0);
    expect(guest_try_user, user_load, HIGH, 14, 4);
    expect(guest_try, load, TOO_HIGH, 13, 0);
    expect(guest_try, load, ~TOO_HIGH, 13, 0);
    expect(guest_try, load, TOO_HIGH - 2, 13, 0); /* its second half */
    expect(guest_try, jump, TOO_HIGH, 13, 0);
    four();
}

GUEST_TEST(fifth_level_translates_and_restricts)
{
    if (lacks_la57()) {
        return;
    }
    five();
    uint64_t page = (uint64_t)guest_page(0);
    pml5[1] = (uint64_t)pml4 | PTE_P | PTE_W | PTE_U;
    expect(guest_try, store, HIGH + page, NO_TRAP, 0);
    CHECK_EQ(*(uint32_t *)guest_page(0), 0x12345678);
    CHECK_EQ(pml5[1] & PTE_A, PTE_A);
    expect(guest_try, load, HIGH * 2 + page, 14, 0);
    pml5[1] = (uint64_t)pml4 | PTE_P | PTE_U;
    write_cr3(read_cr3());
    expect(guest_try, store, HIGH + page, 14, 3);
    pml5[1] = (uint64_t)pml4 | PTE_P | PTE_W;
    write_cr3(read_cr3());
    expect(guest_try_user, user_load, HIGH + 0x400000, 14, 5);
    pml5[1] = (uint64_t)pml4 | PTE_P | PTE_W | PTE_NX;
    write_cr3(read_cr3());
    *(volatile uint8_t *)guest_page(0) = 0xc3;
    expect(guest_try, jump, HIGH + page, 14, 0x11);
    expect(guest_try, load, HIGH + page, NO_TRAP, 0);
    pml5[1] = (uint64_t)pml4 | PTE_P | PTE_W | PTE_PS;
    write_cr3(read_cr3());
    expect(guest_try, load, HIGH + page, 14, 9);
    four();
}

GUEST_TEST(code_runs_at_many_aliases)
{
    if (lacks_la57()) {
        return;
    }
    five();
    /* Bits 48-55, in user and kernel mode: every combination is another address. */
    for (unsigned i = 0; i < 256; i++) {
        pml5[i] = (uint64_t)pml4 | PTE_P | PTE_W | PTE_U;
    }
    uint8_t *p = guest_page(4);
    p[0] = 0xc3;
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 256; i += 5) {
            expect(guest_try, jump, HIGH * i + (uint64_t)p, NO_TRAP, 0);
            expect(guest_try_user, user_jump, HIGH * i + (uint64_t)p, 14, 0x15);
        }
    }
    four();
}

GUEST_TEST(bases_hold_what_the_processor_could_use)
{
    struct trap t;
    bool la57 = has_cpuid(7, 2, 16);
#define WRITES(msr)                                                         \
    do {                                                                    \
        uint64_t old_ = rdmsr(msr);                                         \
        wrmsr(msr, 0xffff800000000000);                                     \
        bool raised_ = TRAPS(&t, "mov $" #msr ", %%ecx; xor %%eax, %%eax\n" \
                                 "mov $0xff0f0000, %%edx; wrmsr");          \
        CHECK_EQ(raised_, !la57);                                           \
        CHECK(TRAPS(&t, "mov $" #msr ", %%ecx; xor %%eax, %%eax\n"          \
                        "mov $0x0f0f0000, %%edx; wrmsr"));                  \
        CHECK_EQ(t.vector, 13);                                             \
        wrmsr(msr, old_);                                                   \
    } while (0)
    WRITES(0xc0000082); /* LSTAR */
    WRITES(0xc0000083); /* CSTAR */
    WRITES(0xc0000100); /* FS.base */
    WRITES(0xc0000101); /* GS.base */
    WRITES(0xc0000102); /* KernelGSbase */
    CHECK(TRAPS(&t, "lidt bad_table(%%rip)"));
    CHECK_EQ(t.vector, 13);
    CHECK(TRAPS(&t, "lgdt bad_table(%%rip)"));
    CHECK_EQ(t.vector, 13);
}
__asm__(".data\nbad_table: .word 0xffff\n.quad 0x0f0f000000000000\n.text");
