/* System instructions and mode switches: SYSCALL, SYSENTER, FSGSBASE, UMIP, MSRs, time,
 * compatibility mode. AMD64 APM vol. 2 and 3. */
#include "tests/guest/lib/guest.h"

static volatile uint64_t syscall_seen[4];
extern char syscall_entry[], sysret_out[];

/* The syscall handler: note what SYSCALL left, return to user mode with SYSRET. */
__asm__(".text\nsyscall_entry:\n"
        "mov %rcx, syscall_seen(%rip)\n"
        "mov %r11, 8+syscall_seen(%rip)\n"
        "pushfq\npop %rax\nmov %rax, 16+syscall_seen(%rip)\n"
        "mov %cs, %eax\nmov %rax, 24+syscall_seen(%rip)\n"
        "sysretq\n");

GUEST_TEST(syscall_and_sysret_carry_rip_and_flags)
{
    wrmsr(MSR_STAR, (uint64_t)SEL_CODE64 << 32 | (uint64_t)(SEL_USER32 & ~3) << 48);
    wrmsr(MSR_LSTAR, (uint64_t)syscall_entry);
    wrmsr(MSR_SFMASK, 0x1); /* CF */
    struct trap t;
    CHECK(USER_TRAPS(&t, "stc; lea 1f(%%rip), %%rbx; syscall\n"
                         "1: mov %%cs, %%r8d; mov %%ss, %%r9d; setc %%r10b; ud2"));
    CHECK_EQ(t.vector, 6);
    CHECK_EQ(syscall_seen[0], t.gpr[3]);
    CHECK_EQ(syscall_seen[1] & 1, 1);
    CHECK_EQ(syscall_seen[2] & 1, 0);
    CHECK_EQ(syscall_seen[3], SEL_CODE64);
    CHECK_EQ(t.gpr[8], SEL_USER64);
    CHECK_EQ(t.gpr[9], SEL_USER_DATA);
    CHECK_EQ(t.gpr[10] & 1, 1);
}

GUEST_TEST(syscall_without_sce_is_ud)
{
    struct trap t;
    uint64_t efer = rdmsr(MSR_EFER);
    wrmsr(MSR_EFER, efer & ~UINT64_C(1));
    CHECK(USER_TRAPS(&t, "syscall"));
    CHECK_EQ(t.vector, 6);
    wrmsr(MSR_EFER, efer);
}

GUEST_TEST(swapgs_exchanges_the_bases)
{
    wrmsr(MSR_GS_BASE, 0x1111000);
    wrmsr(MSR_KERNEL_GS_BASE, 0x2222000);
    __asm__ volatile("swapgs");
    CHECK_EQ(rdmsr(MSR_GS_BASE), 0x2222000);
    CHECK_EQ(rdmsr(MSR_KERNEL_GS_BASE), 0x1111000);
    __asm__ volatile("swapgs");
    wrmsr(MSR_GS_BASE, 0);
}

GUEST_TEST(fs_base_applies_to_addresses)
{
    *(volatile uint32_t *)(guest_page(2) + 0x10) = 0xfeedbeef;
    wrmsr(MSR_FS_BASE, (uint64_t)guest_page(2));
    uint32_t v;
    __asm__ volatile("mov %%fs:0x10, %0" : "=r"(v));
    CHECK_EQ(v, 0xfeedbeef);
    wrmsr(MSR_FS_BASE, 0);
}

GUEST_TEST(fsgsbase_needs_cr4_and_canonical)
{
    if (!has_cpuid(7, 1, 0)) {
        guest_skip("no FSGSBASE");
        return;
    }
    struct trap t;
    CHECK(TRAPS(&t, "rdfsbase %%rax"));
    CHECK_EQ(t.vector, 6);
    write_cr4(read_cr4() | 1 << 16);
    CHECK(!TRAPS(&t, "mov $0x123456789000, %%rax; wrgsbase %%rax"));
    CHECK_EQ(rdmsr(MSR_GS_BASE), 0x123456789000);
    CHECK(TRAPS(&t, "mov $0x923456789000, %%rax; wrgsbase %%rax"));
    CHECK_EQ(t.vector, 13);
    write_cr4(read_cr4() & ~(UINT64_C(1) << 16));
    wrmsr(MSR_GS_BASE, 0);
}

GUEST_TEST(umip_hides_tables_from_users)
{
    if (!has_cpuid(7, 2, 2)) {
        guest_skip("no UMIP");
        return;
    }
    struct trap t;
    CHECK(!USER_TRAPS(&t, "sgdt -32(%%rsp); smsw %%ax; str %%cx"));
    write_cr4(read_cr4() | 1 << 11);
    CHECK(USER_TRAPS(&t, "sgdt -32(%%rsp)"));
    CHECK_EQ(t.vector, 13);
    CHECK(USER_TRAPS(&t, "smsw %%ax"));
    CHECK_EQ(t.vector, 13);
    CHECK(!TRAPS(&t, "sgdt -32(%%rsp)"));
    write_cr4(read_cr4() & ~(UINT64_C(1) << 11));
}

GUEST_TEST(unknown_msr_is_gp)
{
    struct trap t;
    CHECK(TRAPS(&t, "mov $0x12345678, %%ecx; rdmsr"));
    CHECK_EQ(t.vector, 13);
    CHECK(TRAPS(&t,
                "mov $0xc0000102, %%ecx; xor %%eax, %%eax; mov $0x8000, %%edx; wrmsr"));
    CHECK_EQ(t.vector, 13); /* a non-canonical base */
}

GUEST_TEST(efer_guards_its_bits)
{
    struct trap t;
    CHECK(TRAPS(&t, "mov $0xc0000080, %%ecx; rdmsr; or $0x2, %%eax; wrmsr"));
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(rdmsr(MSR_EFER) & 0xd00, 0xd00); /* LME LMA NXE */
}

GUEST_TEST(tsc_runs_and_tsd_guards_it)
{
    uint64_t a, b;
    __asm__ volatile("rdtsc; shl $32, %%rdx; or %%rdx, %%rax" : "=a"(a) : : "rdx");
    for (volatile int i = 0; i < 1000; i++) {
    }
    __asm__ volatile("rdtsc; shl $32, %%rdx; or %%rdx, %%rax" : "=a"(b) : : "rdx");
    CHECK(b > a);
    struct trap t;
    CHECK(!USER_TRAPS(&t, "rdtsc"));
    write_cr4(read_cr4() | 4);
    CHECK(USER_TRAPS(&t, "rdtsc"));
    CHECK_EQ(t.vector, 13);
    CHECK(!TRAPS(&t, "rdtsc"));
    write_cr4(read_cr4() & ~UINT64_C(4));
}

GUEST_TEST(rdtscp_gives_tsc_aux)
{
    if (!has_cpuid(0x80000001, 3, 27)) {
        guest_skip("no RDTSCP");
        return;
    }
    wrmsr(MSR_TSC_AUX, 0x1234);
    uint32_t aux;
    __asm__ volatile("rdtscp" : "=c"(aux) : : "rax", "rdx");
    CHECK_EQ(aux, 0x1234);
}

GUEST_TEST(cmpxchg16b_compares_exchanges_and_wants_alignment)
{
    if (!has_cpuid(1, 2, 13)) {
        guest_skip("no CMPXCHG16B");
        return;
    }
    static uint64_t m[4] __attribute__((aligned(16))) = {1, 2, 3, 4};
    uint64_t lo = 1, hi = 2;
    uint8_t zf;
    __asm__ volatile("lock cmpxchg16b %0; setz %3"
                     : "+m"(*(__uint128_t *)m), "+a"(lo), "+d"(hi), "=q"(zf)
                     : "b"(7), "c"(8)
                     : "cc");
    CHECK_EQ(zf, 1);
    CHECK_EQ(m[0], 7);
    CHECK_EQ(m[1], 8);
    lo = hi = 0;
    __asm__ volatile("lock cmpxchg16b %0; setz %3"
                     : "+m"(*(__uint128_t *)m), "+a"(lo), "+d"(hi), "=q"(zf)
                     : "b"(9), "c"(9)
                     : "cc");
    CHECK_EQ(zf, 0);
    CHECK_EQ(lo, 7);
    CHECK_EQ(hi, 8);
    struct trap t;
    CHECK(TRAPS(&t, "lea -31(%%rsp), %%rsi; and $-16, %%rsi; cmpxchg16b 8(%%rsi)"));
    CHECK_EQ(t.vector, 13);
}

GUEST_TEST(cpuid_is_no_privilege_and_osxsave_follows_cr4)
{
    struct trap t;
    CHECK(!USER_TRAPS(&t, "xor %%eax, %%eax; cpuid"));
    if (!has_cpuid(1, 2, 26)) {
        guest_skip("no XSAVE");
        return;
    }
    CHECK(!has_cpuid(1, 2, 27));
    CHECK(TRAPS(&t, "xor %%ecx, %%ecx; xgetbv"));
    CHECK_EQ(t.vector, 6);
    write_cr4(read_cr4() | 1 << 18);
    CHECK(has_cpuid(1, 2, 27));
    CHECK(!TRAPS(&t, "xor %%ecx, %%ecx; xgetbv"));
    CHECK(TRAPS(&t, "xor %%ecx, %%ecx; xor %%eax, %%eax; xor %%edx, %%edx; xsetbv"));
    CHECK_EQ(t.vector, 13); /* bit 0 must stay */
    CHECK(!TRAPS(&t, "xor %%ecx, %%ecx; mov $3, %%eax; xor %%edx, %%edx; xsetbv"));
    write_cr4(read_cr4() & ~(UINT64_C(1) << 18));
}

GUEST_TEST(xsave_keeps_and_xrstor_brings_back)
{
    if (!has_cpuid(1, 2, 26)) {
        guest_skip("no XSAVE");
        return;
    }
    static uint8_t area[1024] __attribute__((aligned(64)));
    write_cr4(read_cr4() | 1 << 18);
    __asm__ volatile("xor %%ecx, %%ecx; mov $3, %%eax; xor %%edx, %%edx; xsetbv"
                     :
                     :
                     : "rax", "rcx", "rdx");
    uint64_t back = 0;
    __asm__ volatile("mov $0x1122334455667788, %%rax; movq %%rax, %%xmm7\n"
                     "mov $3, %%eax; xor %%edx, %%edx; xsave %1\n"
                     "pxor %%xmm7, %%xmm7; mov $3, %%eax; xrstor %1; movq %%xmm7, %0"
                     : "=r"(back), "+m"(area)
                     :
                     : "rax", "rdx");
    CHECK_EQ(back, 0x1122334455667788);
    struct trap t;
    CHECK(TRAPS(&t, "lea -2000(%%rsp), %%rsi; and $-64, %%rsi; mov $3, %%eax; xor "
                    "%%edx, %%edx; xsave 16(%%rsi)"));
    CHECK_EQ(t.vector, 13);
    write_cr4(read_cr4() & ~(UINT64_C(1) << 18));
}

/* Into compatibility mode and back: 32-bit code at CPL 0 through far transfers. */
GUEST_TEST(compatibility_mode_has_32_bit_registers_and_pushes)
{
    uint64_t seen = 0, pushed = 0;
    __asm__ volatile("mov $0xffffffff00000001, %%rbx\n"
                     "mov %%rsp, %%r12\n"
                     "lea 1f(%%rip), %%rax\n"
                     "push $0x30\n push %%rax\n lretq\n"
                     ".code32\n"
                     "1: mov %%esp, %%ecx\n"
                     "inc %%ebx\n" /* FF C3 or the one-byte 43h: both here */
                     "push %%ebx\n pop %%edx\n"
                     "push %%ebx\n sub %%esp, %%ecx\n pop %%edx\n"
                     "ljmp $0x08, $2f\n"
                     ".code64\n"
                     "2: mov %%r12, %%rsp\n"
                     "mov %%rbx, %0\n mov %%rcx, %1\n"
                     : "=m"(seen), "=m"(pushed)
                     :
                     : "rax", "rbx", "rcx", "rdx", "r12", "memory");
    CHECK_EQ((uint32_t)seen, 2);
    CHECK_EQ((uint32_t)pushed, 4);
}

GUEST_TEST(iret_to_user_checks_its_selectors)
{
    struct trap t;
    CHECK(TRAPS(&t, "push $0x23; push $0; push $2; push $0xfff8; push $0; iretq"));
    CHECK_EQ(t.vector, 13);
    CHECK_EQ(t.error, 0xfff8);
}

GUEST_TEST(sti_shadows_one_instruction)
{
    /* A pending interrupt is not taken between STI and the next instruction. */
    struct trap t;
    CHECK(!TRAPS(&t, "sti; nop; cli"));
    CHECK(!TRAPS(&t, "pushfq; popfq"));
}

GUEST_TEST(self_modifying_code_takes_effect)
{
    uint8_t *p = guest_page(5);
    static const uint8_t code[] = {0xb8, 1, 0, 0, 0, 0xc3}; /* mov eax, 1; ret */
    __builtin_memcpy(p, code, sizeof(code));
    int (*fn)(void) = (int (*)(void))(uintptr_t)p;
    CHECK_EQ(fn(), 1);
    for (unsigned i = 2; i < 100; i++) {
        p[1] = (uint8_t)i;
        CHECK_EQ(fn(), i);
    }
    /* In the block that runs: the store changes the very next instruction. */
    uint64_t v;
    __asm__ volatile(
        "lea 1f(%%rip), %%rax; movb $7, 1(%%rax)\n1: mov $1, %%ecx; mov %%rcx, %0"
        : "=r"(v)
        :
        : "rax", "rcx", "memory");
    CHECK_EQ(v, 7);
}

GUEST_TEST(memory_without_a_device_reads_as_ones)
{
    CHECK_EQ(*(volatile uint32_t *)0xd0000000, 0xffffffff);
    *(volatile uint32_t *)0xd0000000 = 0;
    CHECK_EQ(*(volatile uint32_t *)0xd0000000, 0xffffffff);
    CHECK_EQ(inb(0x2fe), 0xff);
}

GUEST_TEST(hypervisor_leaves_name_themselves)
{
    uint32_t r[4];
    CHECK(has_cpuid(1, 2, 31));
    cpuid(0x40000000, 0, r);
    CHECK(r[0] == 0 || r[0] >= 0x40000000);
}
