/* Paging: every bit of the entries, error codes, A/D, large pages, SMEP, SMAP, PCID.
 * AMD64 APM vol. 2 chapter 5 and 8.2.15. */
#include "tests/guest/lib/guest.h"

static void map(unsigned i, uint64_t flags)
{
    *guest_pte(i) = (uint64_t)guest_page(i & 15) | flags;
    invlpg(WINDOW + 4096 * i);
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

static USER_CODE void user_store(void *arg)
{
    *(volatile uint32_t *)arg = 0x12345678;
}

static void jump(void *arg)
{
    ((void (*)(void))arg)();
}

static USER_CODE void user_jump(void *arg)
{
    ((void (*)(void))arg)();
}

static void *at(unsigned i)
{
    return (void *)(WINDOW + 4096 * (uint64_t)i);
}

/* An access that must fault with @error at @addr, or not at all (~0). */
static void expect(bool (*how)(struct trap *, void (*)(void *), void *),
                   void (*fn)(void *), void *addr, uint64_t error)
{
    struct trap t;
    bool trapped = how(&t, fn, addr);
    if (error == ~UINT64_C(0)) {
        CHECK(!trapped);
        return;
    }
    CHECK_EQ(t.vector, 14);
    CHECK_EQ(t.error, error);
    CHECK_EQ(t.cr2, (uint64_t)addr);
}

#define NO_FAULT (~UINT64_C(0))

GUEST_TEST(absent_page_faults_with_w_and_u_bits)
{
    expect(guest_try, load, at(0), 0);
    expect(guest_try, store, at(0), 2);
    expect(guest_try_user, user_load, at(0), 4);
    expect(guest_try_user, user_store, at(0), 6);
    expect(guest_try, jump, at(0), 0x10);
}

GUEST_TEST(supervisor_page_is_not_the_users)
{
    map(0, PTE_P | PTE_W);
    expect(guest_try, store, at(0), NO_FAULT);
    expect(guest_try_user, user_load, at(0), 5);
    expect(guest_try_user, user_store, at(0), 7);
}

GUEST_TEST(read_only_page_stops_users_always_and_the_kernel_with_wp)
{
    map(0, PTE_P | PTE_U);
    expect(guest_try_user, user_load, at(0), NO_FAULT);
    expect(guest_try_user, user_store, at(0), 7);
    expect(guest_try, store, at(0), 3);
    write_cr0(read_cr0() & ~(UINT64_C(1) << 16));
    expect(guest_try, store, at(0), NO_FAULT);
    write_cr0(read_cr0() | 1 << 16);
    expect(guest_try, store, at(0), 3);
}

GUEST_TEST(upper_levels_restrict_too)
{
    map(0, PTE_P | PTE_W | PTE_U);
    guest_pde()[0] &= ~(uint64_t)PTE_W;
    guest_flush_tlb();
    expect(guest_try, store, at(0), 3);
    guest_pde()[0] = (guest_pde()[0] | PTE_W) & ~(uint64_t)PTE_U;
    guest_flush_tlb();
    expect(guest_try_user, user_load, at(0), 5);
    guest_pde()[0] |= PTE_U;
    guest_pdpte()[0] |= PTE_NX;
    guest_flush_tlb();
    *(volatile uint8_t *)guest_page(0) = 0xc3;
    expect(guest_try, jump, at(0), 0x11);
}

GUEST_TEST(nx_stops_fetches_only)
{
    map(0, PTE_P | PTE_W | PTE_NX);
    *(volatile uint8_t *)guest_page(0) = 0xc3;
    expect(guest_try, load, at(0), NO_FAULT);
    expect(guest_try, jump, at(0), 0x11);
    map(0, PTE_P | PTE_W);
    expect(guest_try, jump, at(0), NO_FAULT);
    map(0, PTE_P | PTE_W | PTE_U | PTE_NX);
    expect(guest_try_user, user_jump, at(0), 0x15);
}

GUEST_TEST(nx_bit_is_reserved_without_nxe)
{
    map(0, PTE_P | PTE_W | PTE_NX);
    uint64_t efer = rdmsr(MSR_EFER);
    wrmsr(MSR_EFER, efer & ~(UINT64_C(1) << 11));
    guest_flush_tlb();
    expect(guest_try, load, at(0), 9);
    wrmsr(MSR_EFER, efer);
    guest_flush_tlb();
}

GUEST_TEST(reserved_address_bits_fault)
{
    map(0, PTE_P | PTE_W | UINT64_C(1) << 51);
    expect(guest_try, load, at(0), 9);
    expect(guest_try, store, at(0), 0xb);
    map(0, 0);
    guest_pde()[1] = (uint64_t)guest_page(0) | PTE_P | PTE_W | PTE_PS | 1 << 13;
    guest_flush_tlb();
    expect(guest_try, load, at(512), 9);
}

GUEST_TEST(accessed_and_dirty_are_set_when_they_should)
{
    map(0, PTE_P | PTE_W);
    guest_pde()[0] &= ~(uint64_t)PTE_A;
    guest_flush_tlb();
    expect(guest_try, load, at(0), NO_FAULT);
    CHECK_EQ(*guest_pte(0) & (PTE_A | PTE_D), PTE_A);
    CHECK_EQ(guest_pde()[0] & PTE_A, PTE_A);
    expect(guest_try, store, at(0), NO_FAULT);
    CHECK_EQ(*guest_pte(0) & (PTE_A | PTE_D), PTE_A | PTE_D);
    CHECK_EQ(*(uint32_t *)guest_page(0), 0x12345678);
}

GUEST_TEST(a_fault_sets_neither_dirty_nor_memory)
{
    map(0, PTE_P);
    expect(guest_try, store, at(0), 3);
    CHECK_EQ(*guest_pte(0) & PTE_D, 0);
    CHECK_EQ(*(uint32_t *)guest_page(0), 0);
}

GUEST_TEST(two_mib_page_maps_its_offset)
{
    uint64_t base = (uint64_t)guest_page(0) & ~UINT64_C(0x1fffff);
    guest_pde()[1] = base | PTE_P | PTE_W | PTE_PS;
    guest_flush_tlb();
    uint64_t off = (uint64_t)guest_page(3) - base;
    expect(guest_try, store, (void *)(WINDOW + 0x200000 + off), NO_FAULT);
    CHECK_EQ(*(uint32_t *)guest_page(3), 0x12345678);
    CHECK_EQ(guest_pde()[1] & (PTE_A | PTE_D), PTE_A | PTE_D);
}

GUEST_TEST(one_gib_page_maps_its_offset)
{
    if (!has_cpuid(0x80000001, 3, 26)) {
        guest_skip("no 1 GiB pages");
        return;
    }
    guest_pdpte()[1] = 0 | PTE_P | PTE_W | PTE_PS;
    guest_flush_tlb();
    expect(guest_try, store, (void *)(WINDOW + 0x40000000 + (uint64_t)guest_page(2)),
           NO_FAULT);
    CHECK_EQ(*(uint32_t *)guest_page(2), 0x12345678);
    CHECK_EQ(guest_pdpte()[1] & PTE_D, PTE_D);
}

GUEST_TEST(page_crossing_store_that_faults_writes_nothing)
{
    map(0, PTE_P | PTE_W);
    struct trap t;
    CHECK(guest_try(&t, store, (void *)(WINDOW + 4094)));
    CHECK_EQ(t.vector, 14);
    CHECK_EQ(t.error, 2);
    CHECK_EQ(t.cr2, WINDOW + 4096);
    CHECK_EQ(*(uint16_t *)(guest_page(0) + 4094), 0);
    map(1, PTE_P | PTE_W);
    expect(guest_try, store, (void *)(WINDOW + 4094), NO_FAULT);
    CHECK_EQ(*(uint16_t *)(guest_page(0) + 4094), 0x5678);
    CHECK_EQ(*(uint16_t *)guest_page(1), 0x1234);
}

GUEST_TEST(smep_stops_the_kernel_in_user_pages)
{
    if (!has_cpuid(7, 1, 7)) {
        guest_skip("no SMEP");
        return;
    }
    map(0, PTE_P | PTE_W | PTE_U);
    *(volatile uint8_t *)guest_page(0) = 0xc3;
    expect(guest_try, jump, at(0), NO_FAULT);
    write_cr4(read_cr4() | 1 << 20);
    expect(guest_try, jump, at(0), 0x11);
    expect(guest_try_user, user_jump, at(0), NO_FAULT);
    write_cr4(read_cr4() & ~(UINT64_C(1) << 20));
}

GUEST_TEST(smap_stops_the_kernel_at_user_data_but_for_ac)
{
    if (!has_cpuid(7, 1, 20)) {
        guest_skip("no SMAP");
        return;
    }
    map(0, PTE_P | PTE_W | PTE_U);
    write_cr4(read_cr4() | 1 << 21);
    expect(guest_try, load, at(0), 1);
    expect(guest_try, store, at(0), 3);
    __asm__ volatile("stac");
    expect(guest_try, store, at(0), NO_FAULT);
    __asm__ volatile("clac");
    expect(guest_try, store, at(0), 3);
    expect(guest_try_user, user_store, at(0), NO_FAULT);
    write_cr4(read_cr4() & ~(UINT64_C(1) << 21));
    expect(guest_try, store, at(0), NO_FAULT);
}

GUEST_TEST(global_pages_survive_a_cr3_load_and_others_do_not)
{
    write_cr4(read_cr4() | 1 << 7);
    map(0, PTE_P | PTE_W | PTE_G);
    map(1, PTE_P | PTE_W);
    expect(guest_try, load, at(0), NO_FAULT);
    expect(guest_try, load, at(1), NO_FAULT);
    *guest_pte(1) = 0;
    write_cr3(read_cr3());
    expect(guest_try, load, at(1), 0);
    *guest_pte(0) = 0;
    invlpg(WINDOW);
    expect(guest_try, load, at(0), 0);
    write_cr4(read_cr4() & ~(UINT64_C(1) << 7));
}

GUEST_TEST(pcid_is_refused_where_it_must)
{
    if (!has_cpuid(1, 2, 17)) {
        guest_skip("no PCID");
        return;
    }
    struct trap t;
    write_cr3(read_cr3() | 1); /* PCID must be 0 when CR4.PCIDE is set */
    CHECK(TRAPS(&t, "mov %%cr4, %%rax; or $0x20000, %%rax; mov %%rax, %%cr4"));
    CHECK_EQ(t.vector, 13);
    write_cr3(read_cr3() & ~UINT64_C(0xfff));
    write_cr4(read_cr4() | 1 << 17);
    map(0, PTE_P | PTE_W);
    write_cr3(read_cr3() | 5 | UINT64_C(1) << 63);
    CHECK_EQ(read_cr3() & 0xfff, 5);
    CHECK_EQ(read_cr3() >> 63, 0);
    expect(guest_try, load, at(0), NO_FAULT);
    write_cr3(read_cr3() & ~UINT64_C(0xfff));
    write_cr4(read_cr4() & ~(UINT64_C(1) << 17));
    *guest_pte(0) = 0;
    guest_flush_tlb();
    expect(guest_try, load, at(0), 0);
}

GUEST_TEST(nw_without_cd_is_gp)
{
    struct trap t;
    CHECK(TRAPS(&t, "mov %%cr0, %%rbx; or $0x20000000, %%rbx; mov %%rbx, %%cr0"));
    CHECK_EQ(t.vector, 13); /* NW without CD */
}

/* MOV EAX, imm32 with two bytes in the first page; RET in the second. */
static uint32_t put_straddling(unsigned second, uint32_t high)
{
    uint8_t *p = guest_page(second);
    p[0] = (uint8_t)(high >> 8);
    p[1] = (uint8_t)(high >> 16);
    p[2] = (uint8_t)(high >> 24);
    p[3] = 0xc3;
    return (high & ~0xffu) | guest_page(0)[0xfff];
}

GUEST_TEST(instruction_over_two_pages_is_in_those_that_are_mapped)
{
    uint32_t (*fn)(void) = (uint32_t(*)(void))((uint8_t *)at(1) - 2);
    struct trap t;
    guest_page(0)[0xffe] = 0xb8;
    guest_page(0)[0xfff] = 0x11;
    uint32_t one = put_straddling(1, 0x22334400), two = put_straddling(2, 0x66778800);
    map(0, PTE_P);
    for (unsigned i = 0; i < 50; i++) {
        bool other = i & 1;
        *guest_pte(1) = (uint64_t)guest_page(other ? 2 : 1) | PTE_P;
        invlpg((uint64_t)at(1));
        CHECK_EQ(fn(), other ? two : one);
        CHECK_EQ(fn(), other ? two : one);
        if (i % 8 == 0) { /* a store into the second page */
            one = put_straddling(1, 0x22334400 + (i << 8));
            CHECK_EQ(fn(), other ? two : one);
        }
        if (i % 16 == 0) {
            *guest_pte(1) = 0;
            invlpg((uint64_t)at(1));
            CHECK(guest_try(&t, jump, (void *)fn));
            CHECK_EQ(t.vector, 14);
            CHECK_EQ(t.error, 0x10);
            CHECK_EQ(t.cr2, (uint64_t)at(1));
            CHECK_EQ(t.rip, (uint64_t)fn);
        }
    }
}
