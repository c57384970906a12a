/* Process-context identifiers: what each instruction has to forget of them. SDM 3
 * 4.10.4; the pages of MOV CR3, INVPCID and INVLPG. */
#include "tests/guest/lib/guest.h"

#define CR4_PGE   (UINT64_C(1) << 7)
#define CR4_PCIDE (UINT64_C(1) << 17)
#define KEEP      (UINT64_C(1) << 63)

static bool lacks_pcid(void)
{
    if (!has_cpuid(1, 2, 17) || !has_cpuid(7, 1, 10)) {
        guest_skip("no PCID");
        return true;
    }
    return false;
}

static void invpcid(uint64_t type, uint64_t pcid, uint64_t la)
{
    uint64_t what[2] = {pcid, la};
    __asm__ volatile("invpcid (%0), %1" : : "r"(what), "r"(type) : "memory");
}

static void use(uint64_t pcid, uint64_t keep)
{
    write_cr3((read_cr3() & ~UINT64_C(0xfff)) | pcid | keep);
}

/* The first page of the window is page @n of memory from now on. */
static void map(unsigned n, uint64_t flags)
{
    *guest_pte(0) = (uint64_t)guest_page(n) | PTE_P | PTE_W | flags;
}

static uint8_t seen(void)
{
    return *(volatile uint8_t *)WINDOW;
}

/* Which of the pages the window shows must be told apart by their contents; 1 is shown
 * to PCID 1 first. */
static void begin(uint64_t flags)
{
    *guest_page(1) = 1;
    *guest_page(2) = 2;
    use(0, 0);
    write_cr4(read_cr4() | CR4_PCIDE | CR4_PGE);
    use(1, 0);
    map(1, flags);
    invlpg(WINDOW);
    CHECK_EQ(seen(), 1);
}

static void end(void)
{
    use(0, 0);
    write_cr4(read_cr4() & ~CR4_PCIDE);
    *guest_pte(0) = 0;
    guest_flush_tlb();
}

GUEST_TEST(loading_cr3_drops_what_the_loaded_pcid_has)
{
    if (lacks_pcid()) {
        return;
    }
    begin(0);
    use(2, 0);
    map(2, 0);
    CHECK_EQ(seen(), 2);
    use(1, 0);
    CHECK_EQ(seen(), 2);
    map(1, 0);
    use(1, 0); /* the same again */
    CHECK_EQ(seen(), 1);
    end();
}

GUEST_TEST(a_pcid_does_not_see_what_others_have)
{
    if (lacks_pcid()) {
        return;
    }
    begin(0);
    use(2, 0);
    map(2, 0);
    CHECK_EQ(seen(), 2);
    for (unsigned i = 3; i < 40; i++) {
        use(i, 0);
        map(1 + i % 2, 0);
        CHECK_EQ(seen(), 1 + i % 2);
    }
    end();
}

GUEST_TEST(invpcid_drops_an_address_a_pcid_and_all)
{
    if (lacks_pcid()) {
        return;
    }
    for (unsigned type = 0; type < 4; type++) {
        begin(0); /* of another */
        use(2, 0);
        map(2, 0);
        invpcid(type, 1, WINDOW);
        use(1, KEEP);
        CHECK_EQ(seen(), 2);
        map(1, 0); /* of the current one */
        invpcid(type, 1, WINDOW);
        CHECK_EQ(seen(), 1);
        end();
    }
}

GUEST_TEST(global_pages_go_with_invlpg_invpcid_2_and_cr4)
{
    if (lacks_pcid()) {
        return;
    }
    begin(PTE_G);
    use(2, KEEP);
    map(2, PTE_G);
    invlpg(WINDOW); /* of all PCIDs, as the page is global */
    CHECK_EQ(seen(), 2);
    use(1, KEEP);
    CHECK_EQ(seen(), 2);
    map(1, PTE_G);
    invpcid(2, 0, 0);
    CHECK_EQ(seen(), 1);
    map(2, PTE_G);
    write_cr4(read_cr4() & ~CR4_PGE);
    CHECK_EQ(seen(), 2);
    write_cr4(read_cr4() | CR4_PGE);
    end();
}

GUEST_TEST(invpcid_faults_for_what_cannot_be)
{
    struct trap t;
    if (lacks_pcid()) {
        return;
    }
#define INVPCID(type, pcid, la)                            \
    "push $" la "\npush $" pcid "\nmov $" type ", %%ecx\n" \
    "invpcid (%%rsp), %%rcx\n"
    /* What is pushed stays there: the trap takes the stack pointer back. */
    CHECK(TRAPS(&t, INVPCID("4", "0", "0")));
    CHECK_EQ(t.vector, 13);
    CHECK(TRAPS(&t, INVPCID("0", "0x1000", "0")));
    CHECK_EQ(t.vector, 13);
    CHECK(TRAPS(&t, INVPCID("1", "1", "0"))); /* CR4.PCIDE is clear */
    CHECK_EQ(t.vector, 13);
    CHECK(!TRAPS(&t, INVPCID("2", "0", "0") "add $16, %%rsp"));
    CHECK(TRAPS(&t, "mov %%cr3, %%rax; bts $63, %%rax; mov %%rax, %%cr3"));
    CHECK_EQ(t.vector, 13); /* so is that bit's use */
}
