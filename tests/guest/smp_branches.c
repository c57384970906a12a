/* Calls, returns and indirect branches, and what they must not remember: code that is
 * changed, or mapped elsewhere, between a call and its return. Each test runs on one
 * processor, then on two at a time with pages of their own. AMD64 APM vol. 1 3.7,
 * vol. 2 5.5.2 and 7.6.1. */
#include "tests/guest/lib/smp.h"

/* --- A processor's own pages -------------------------------------------------- */

#define OWN        64 /* pages of the window for each processor */
#define STACKS     UINT64_C(0x4000000)
#define STACK_SIZE UINT64_C(0x800000)

static uint8_t memory[2][8][4096] __attribute__((aligned(4096)));
static uint8_t targets[2][64][4096] __attribute__((aligned(4096)));

static unsigned me(void)
{
    return guest_cpu() & 1;
}

static uint8_t *page(unsigned i)
{
    return memory[me()][i];
}

static uint64_t linear(unsigned i)
{
    return WINDOW + 4096 * (uint64_t)(me() * OWN + i);
}

/* Map the own window's page @i to the own memory's page @to; another TLB flush each
 * time. */
static void map(unsigned i, unsigned to, unsigned how)
{
    *guest_pte(me() * OWN + i) = (uint64_t)page(to) | PTE_P | PTE_W;
    if (how & 1) {
        invlpg(linear(i));
    } else {
        write_cr3(read_cr3());
    }
}

static void on_one_and_two(void (*fn)(void *))
{
    smp_start();
    fn(NULL);
    smp_run_all(2, fn, NULL);
}

static uint8_t *put(uint8_t *p, uint64_t bytes, unsigned nb)
{
    for (unsigned i = 0; i < nb; i++) {
        *p++ = (uint8_t)(bytes >> 8 * i);
    }
    return p;
}

static uint8_t *put_mov_eax(uint8_t *p, uint32_t v)
{
    return put(put(p, 0xb8, 1), v, 4);
}

/* CALL RDI; MOV EAX, @v; RET */
static void put_caller(uint8_t *p, uint32_t v)
{
    put(put_mov_eax(put(p, 0xd7ff, 2), v), 0xc3, 1);
}

typedef uint64_t (*caller_fn)(void (*callee)(void));

static unsigned turn[2];

static void nothing(void)
{
}

/* --- Mapped elsewhere ------------------------------------------------------------ */

static void remap(void)
{
    unsigned n = ++turn[me()];
    map(0, n % 3, n / 3);
}

static void remap_under_return(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < 3; i++) {
        put_caller(page(i), 100 + i);
    }
    turn[me()] = 0;
    map(0, 0, 0);
    caller_fn fn = (caller_fn)linear(0);
    for (unsigned i = 0; i < 300; i++) {
        SMP_CHECK_EQ(fn(remap), 100 + turn[me()] % 3);
        SMP_CHECK_EQ(fn(nothing), 100 + turn[me()] % 3);
        SMP_CHECK_EQ(fn(nothing), 100 + turn[me()] % 3);
    }
}

GUEST_TEST(return_goes_to_the_page_that_is_mapped_then)
{
    on_one_and_two(remap_under_return);
}

/* A page with ADD EAX, @add after a call of offset 0x10 of the next page. */
static void put_far_caller(uint8_t *p, uint32_t add)
{
    p = put(put(p, 0xe8, 1), 4096 + 0x10 - 5, 4);
    put(put(put(p, 0x05, 1), add, 4), 0xc3, 1);
}

static void call_over_pages(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < 2; i++) {
        put_far_caller(page(i), 0x1000 * (i + 1));
        put(put_mov_eax(page(2 + i) + 0x10, i + 1), 0xc3, 1);
    }
    uint64_t (*fn)(void) = (uint64_t(*)(void))linear(0);
    for (unsigned i = 0; i < 400; i++) {
        unsigned first = i / 2 & 1, second = i / 3 & 1;
        map(0, first, i);
        map(1, 2 + second, i / 2);
        for (unsigned k = 0; k < 3; k++) {
            SMP_CHECK_EQ(fn(), 0x1000 * (first + 1) + second + 1);
        }
    }
}

GUEST_TEST(call_over_a_page_goes_where_that_is_mapped)
{
    on_one_and_two(call_over_pages);
}

static void over_other(void)
{
    unsigned n = ++turn[me()];
    if (n < 4) {
        uint64_t at = linear(n & 1);
        SMP_CHECK_EQ(((caller_fn)at)(over_other), at + 9);
    }
}

static void two_addresses(void *arg)
{
    (void)arg;
    /* CALL RDI; LEA RAX, [RIP]; RET */
    put(put(put(page(0), 0xd7ff, 2), 0x00000000058d48, 7), 0xc3, 1);
    map(0, 0, 0);
    map(1, 0, 1);
    for (unsigned i = 0; i < 200; i++) {
        uint64_t at = linear(i / 3 & 1);
        turn[me()] = i & 3;
        SMP_CHECK_EQ(((caller_fn)at)(over_other), at + 9);
        SMP_CHECK_EQ(((caller_fn)at)(nothing), at + 9);
    }
}

GUEST_TEST(code_mapped_twice_knows_where_it_runs_after_a_return)
{
    on_one_and_two(two_addresses);
}

static void not_there(void)
{
    *guest_pte(me() * OWN) = 0;
    invlpg(linear(0));
}

static void call_from_the_page(void *arg)
{
    ((caller_fn)arg)(not_there);
}

static void unmapped_under_return(void *arg)
{
    (void)arg;
    put_caller(page(0), 1);
    for (unsigned i = 0; i < 50; i++) {
        struct trap t;
        map(0, 0, i);
        SMP_CHECK_EQ(((caller_fn)linear(0))(nothing), 1);
        SMP_CHECK(guest_try(&t, call_from_the_page, (void *)linear(0)));
        SMP_CHECK_EQ(t.vector, 14);
        SMP_CHECK_EQ(t.error, 0x10);
        SMP_CHECK_EQ(t.rip, linear(0) + 2);
        SMP_CHECK_EQ(t.cr2, linear(0) + 2);
    }
}

GUEST_TEST(return_to_a_page_that_has_gone_faults_there)
{
    on_one_and_two(unmapped_under_return);
}

/* --- Changed ------------------------------------------------------------------- */

static void change(void)
{
    put(page(4) + 3, ++turn[me()], 4);
    __asm__ volatile("cpuid" : : "a"(0) : "rbx", "rcx", "rdx", "memory");
}

static void change_under_return(void *arg)
{
    (void)arg;
    put_caller(page(4), 0);
    turn[me()] = 0;
    caller_fn fn = (caller_fn)page(4);
    for (unsigned i = 0; i < 300; i++) {
        SMP_CHECK_EQ(fn(i % 7 ? nothing : change), turn[me()]);
    }
}

GUEST_TEST(return_into_changed_code_executes_that)
{
    on_one_and_two(change_under_return);
}

/* --- Unusual returns ------------------------------------------------------------- */

/* Calls a function that returns to somewhere else: after its call for 0, else to one
 * of three more places. */
static __attribute__((noinline)) uint64_t twist(uint64_t which)
{
    uint64_t got;
    __asm__ volatile("call 1f\n"
                     "0: mov $10, %%eax; jmp 9f\n"
                     "2: mov $11, %%eax; jmp 9f\n"
                     "3: mov $12, %%eax; jmp 9f\n"
                     "4: mov $13, %%eax; jmp 9f\n"
                     "1: lea 0b(%%rip), %%rcx\n"
                     "lea 2b(%%rip), %%rdx; cmp $1, %%rbx; cmove %%rdx, %%rcx\n"
                     "lea 3b(%%rip), %%rdx; cmp $2, %%rbx; cmove %%rdx, %%rcx\n"
                     "lea 4b(%%rip), %%rdx; cmp $3, %%rbx; cmove %%rdx, %%rcx\n"
                     "mov %%rcx, (%%rsp); ret\n"
                     "9:"
                     : "=a"(got)
                     : "b"(which)
                     : "rcx", "rdx", "memory", "cc");
    return got;
}

static void change_return_address(void *arg)
{
    (void)arg;
    uint32_t x = 1;
    for (unsigned i = 0; i < 2000; i++) {
        x = x * 1664525 + 1013904223;
        SMP_CHECK_EQ(twist(x >> 30), 10 + (x >> 30));
    }
}

GUEST_TEST(return_goes_where_the_stack_says)
{
    on_one_and_two(change_return_address);
}

static __attribute__((noinline)) unsigned fib(unsigned n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

/* Leaves @depth calls behind by going back to the stack pointer and address in
 * @where. */
static __attribute__((noinline)) unsigned dive(unsigned depth, void **where)
{
    if (depth == 0) {
        __builtin_longjmp(where, 1);
    }
    unsigned n = dive(depth - 1, where);
    __asm__ volatile("" : "+r"(n));
    return n + 1;
}

static __attribute__((noinline)) unsigned dive_and_come_back(unsigned depth)
{
    void *where[5];
    if (__builtin_setjmp(where)) {
        return 1;
    }
    return 2 + dive(depth, where);
}

static void leave_calls_behind(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < 500; i++) {
        SMP_CHECK_EQ(dive_and_come_back(i % 37), 1);
        SMP_CHECK_EQ(fib(i % 9), i % 9 < 2 ? i % 9 : fib(i % 9 - 1) + fib(i % 9 - 2));
    }
    SMP_CHECK_EQ(fib(15), 610);
}

GUEST_TEST(calls_that_are_never_returned_from_do_not_matter)
{
    on_one_and_two(leave_calls_behind);
}

/* The sum of 0 to @n, with a call for each. */
static uint64_t deep_sum(uint64_t n, uint64_t stack)
{
    uint64_t sum;
    __asm__ volatile("mov %%rsp, %%r12; mov %%rbx, %%rsp\n"
                     "call 1f; jmp 2f\n"
                     "1: xor %%eax, %%eax; test %%rdi, %%rdi; je 3f\n"
                     "push %%rdi; dec %%rdi; call 1b; pop %%rdi; add %%rdi, %%rax\n"
                     "3: ret\n"
                     "2: mov %%r12, %%rsp"
                     : "=&a"(sum), "+D"(n)
                     : "b"(stack)
                     : "r12", "memory", "cc");
    return sum;
}

static void recurse(void *arg)
{
    (void)arg;
    uint64_t stack = STACKS + (me() + 1) * STACK_SIZE;
    for (unsigned i = 0; i < 3; i++) {
        uint64_t n = 100000 + i;
        SMP_CHECK_EQ(deep_sum(n, stack - 8 * i), n * (n + 1) / 2);
        SMP_CHECK_EQ(deep_sum(7, stack), 28);
    }
}

GUEST_TEST(hundred_thousand_calls_return)
{
    on_one_and_two(recurse);
}

/* --- Indirect branches --------------------------------------------------------------
 */

static uint64_t through_jump(uint64_t to)
{
    uint64_t got;
    __asm__ volatile("lea 1f(%%rip), %%rcx; push %%rcx; jmp *%1; 1:"
                     : "=a"(got)
                     : "r"(to)
                     : "rcx", "memory", "cc");
    return got;
}

/* All at the same offset in their pages. */
static void change_targets(void *arg)
{
    (void)arg;
    uint32_t value[64], x = 5;
    for (unsigned i = 0; i < 64; i++) {
        value[i] = i * 3;
        put(put_mov_eax(targets[me()][i], value[i]), 0xc3, 1);
    }
    for (unsigned i = 0; i < 5000; i++) {
        x = x * 1664525 + 1013904223;
        unsigned to = x >> 26;
        uint8_t *fn = targets[me()][to];
        if (i % 97 == 0) {
            value[to] = x;
            put(fn + 1, x, 4);
        }
        SMP_CHECK_EQ(((uint64_t(*)(void))fn)(), value[to]);
        SMP_CHECK_EQ(through_jump((uint64_t)targets[me()][to / 2]), value[to / 2]);
    }
}

GUEST_TEST(indirect_branches_find_the_code_that_is_there)
{
    on_one_and_two(change_targets);
}

/* --- Loops without a direct branch back
 * ------------------------------------------------ */

static volatile uint32_t begun, arrived;

static void arrive(uint64_t *frame)
{
    (void)frame;
    arrived = 1;
}

/* Loops until @arrived, made of PUSH and RET, of JMP RCX, and of a CALL that returns to
 * before itself. */
static void loop_by_return(void)
{
    __asm__ volatile("lea 1f(%%rip), %%rcx\n"
                     "1: mov %0, %%eax; test %%eax, %%eax; jne 2f\n"
                     "push %%rcx; ret\n"
                     "2:"
                     :
                     : "m"(arrived)
                     : "rax", "rcx", "memory", "cc");
}

static void loop_by_jump(void)
{
    __asm__ volatile("lea 1f(%%rip), %%rcx\n"
                     "1: mov %0, %%eax; test %%eax, %%eax; jne 2f\n"
                     "jmp *%%rcx\n"
                     "2:"
                     :
                     : "m"(arrived)
                     : "rax", "rcx", "memory", "cc");
}

static void loop_by_changed_return(void)
{
    __asm__ volatile("jmp 1f\n"
                     "2: mov %%rcx, (%%rsp); ret\n"
                     "1: mov %0, %%eax; test %%eax, %%eax; jne 3f\n"
                     "lea 1b(%%rip), %%rcx\n"
                     "call 2b\n"
                     "3:"
                     :
                     : "m"(arrived)
                     : "rax", "rcx", "memory", "cc");
}

static void (*volatile loop)(void);

static void loop_or_end_it(void *arg)
{
    (void)arg;
    if (guest_cpu() == 0) {
        begun = 1;
        uint64_t sp, after;
        __asm__ volatile("mov %%rsp, %0" : "=r"(sp));
        loop();
        __asm__ volatile("mov %%rsp, %0" : "=r"(after));
        SMP_CHECK(arrived);
        SMP_CHECK_EQ(sp, after);
        return;
    }
    while (!begun) {
        cpu_pause();
    }
    for (uint64_t start = rdtsc(); rdtsc() - start < 3000000;) {
        cpu_pause();
    }
    apic_icr(ICR_FIXED | ICR_ASSERT | 0x41, 0);
}

GUEST_TEST(every_loop_is_interrupted)
{
    static void (*const loops[])(void) = {loop_by_return, loop_by_jump,
                                          loop_by_changed_return};
    smp_start();
    smp_handler[0x41] = arrive;
    for (unsigned i = 0; i < 6; i++) {
        loop = loops[i % 3];
        begun = arrived = 0;
        smp_run_all(2, loop_or_end_it, NULL);
    }
    smp_handler[0x41] = NULL;
}

/* --- What functions begin and end with ----------------------------------------------
 */

/* Each of the instructions is one byte. The access before them makes the page known. */
extern const uint8_t user_pushes_start[], user_pops_start[];

static USER_CODE void user_pushes(void *stack)
{
    __asm__ volatile("mov %%rsp, %%r8; mov %%rdi, %%rsp\n"
                     "mov $1, %%eax; mov $2, %%ebx; mov $3, %%ecx; mov $4, %%edx\n"
                     "mov (%%rsp), %%r9; mov %%r9, (%%rsp)\n"
                     "user_pushes_start:\n"
                     "push %%rax; push %%rbx; push %%rcx; push %%rdx; push %%rdi\n"
                     "mov %%r8, %%rsp"
                     :
                     : "D"(stack)
                     : "rax", "rbx", "rcx", "rdx", "r8", "r9", "memory");
}

static USER_CODE void user_pops(void *stack)
{
    __asm__ volatile("mov %%rsp, %%r8; mov %%rdi, %%rsp\n"
                     "xor %%eax, %%eax; xor %%ebx, %%ebx; xor %%ecx, %%ecx\n"
                     "mov -8(%%rsp), %%r9\n"
                     "user_pops_start:\n"
                     "pop %%rax; pop %%rbx; pop %%rcx; pop %%rdx; pop %%rdi\n"
                     "mov %%r8, %%rsp"
                     :
                     : "D"(stack)
                     : "rax", "rbx", "rcx", "rdx", "r8", "r9", "memory");
}

static void map_for_user(unsigned i, unsigned to, bool present)
{
    *guest_pte(i) = present ? (uint64_t)page(to) | PTE_P | PTE_W | PTE_U : 0;
    invlpg(linear(i));
}

GUEST_TEST(pushes_fault_at_the_one_that_reaches_the_next_page)
{
    struct trap t;
    map_for_user(1, 1, false);
    map_for_user(2, 2, true);
    for (unsigned i = 0; i < 40; i++) {
        uint64_t *words = (uint64_t *)page(2), nb = i % 7;
        for (unsigned k = 0; k < 8; k++) {
            words[k] = 99;
        }
        bool trapped = guest_try_user(&t, user_pushes, (void *)(linear(2) + 8 * nb));
        CHECK_EQ(trapped, nb < 5);
        if (trapped) {
            CHECK_EQ(t.vector, 14);
            CHECK_EQ(t.error, 6);
            CHECK_EQ(t.cr2, linear(2) - 8);
            CHECK_EQ(t.rsp, linear(2));
            CHECK_EQ(t.rip, (uint64_t)user_pushes_start + nb);
        }
        for (unsigned k = 0; k < nb && k < 4; k++) {
            CHECK_EQ(words[nb - 1 - k], k + 1);
        }
    }
}

GUEST_TEST(pushes_over_a_page_are_in_both)
{
    struct trap t;
    for (unsigned i = 0; i < 40; i++) {
        unsigned lower = i & 1, nb = i % 6;
        map_for_user(1, lower, true);
        map_for_user(2, 2, true);
        uint64_t *top = (uint64_t *)(page(lower) + 4096), *words = (uint64_t *)page(2);
        for (int k = 0; k < 8; k++) {
            top[-1 - k] = words[k] = 0;
        }
        CHECK(!guest_try_user(&t, user_pushes, (void *)(linear(2) + 8 * nb)));
        for (unsigned k = 0; k < 4; k++) {
            CHECK_EQ(k < nb ? words[nb - 1 - k] : top[(int)nb - 1 - (int)k], k + 1);
        }
    }
}

GUEST_TEST(pops_fault_at_the_one_that_reaches_the_next_page)
{
    struct trap t;
    uint64_t *top = (uint64_t *)(page(2) + 4096);
    map_for_user(2, 2, true);
    map_for_user(3, 3, false);
    for (unsigned k = 0; k < 8; k++) {
        top[-1 - (int)k] = 100 + k;
    }
    for (unsigned i = 0; i < 40; i++) {
        unsigned nb = i % 7;
        bool trapped = guest_try_user(&t, user_pops, (void *)(linear(3) - 8 * nb));
        CHECK_EQ(trapped, nb < 5);
        if (trapped) {
            CHECK_EQ(t.vector, 14);
            CHECK_EQ(t.error, 4);
            CHECK_EQ(t.cr2, linear(3));
            CHECK_EQ(t.rsp, linear(3));
            CHECK_EQ(t.rip, (uint64_t)user_pops_start + nb);
            CHECK_EQ(t.gpr[0], nb > 0 ? 100 + nb - 1 : 0);
            CHECK_EQ(t.gpr[3], nb > 1 ? 100 + nb - 2 : 0);
        }
    }
}

/* With instructions between them that change registers, those that have no register of
 * the host, too. */
static USER_CODE void user_pushes_and_more(void *stack)
{
    __asm__ volatile("mov %%rsp, %%r8; mov %%rdi, %%rsp\n"
                     "mov $1, %%eax; mov $2, %%ebx; mov $0x1000, %%r9d\n"
                     "mov $0x200, %%r10d; mov $0x30, %%r14d; mov $0x4, %%r15d\n"
                     "mov (%%rsp), %%rcx; mov %%rcx, (%%rsp)\n"
                     "push %%rax\n"
                     "add %%r9, %%r10; lea (%%rbx, %%r15), %%rdx; xor %%r14, %%r15\n"
                     "push %%rbx\n"
                     "mov %%r10, %%r11; sub %%r15, %%r11\n"
                     "push %%r11; push %%rdx\n"
                     "lea (%%rbx, %%r9), %%rdx\n"
                     "push %%rdx\n"
                     "mov %%r8, %%rsp"
                     :
                     : "D"(stack)
                     : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r14",
                       "r15", "memory");
}

static USER_CODE void user_pops_and_more(void *stack)
{
    __asm__ volatile(
        "mov %%rsp, %%r8; mov %%rdi, %%rsp\n"
        "mov $0x1000, %%r9d; mov $0x200, %%r10d; mov $0x30, %%r14d\n"
        "mov (%%rsp), %%rcx\n"
        "pop %%rax\n"
        "add %%r9, %%r10; lea (%%rax, %%r14), %%rdx; xor %%r10, %%r14\n"
        "pop %%rbx\n"
        "lea (%%rbx, %%r9), %%rsi\n"
        "pop %%r11; pop %%r15\n"
        "mov %%r11, (%%rdi); mov %%r15, 8(%%rdi)\n"
        "mov %%rdx, 16(%%rdi); mov %%rsi, 24(%%rdi); mov %%r14, 32(%%rdi)\n"
        "mov %%r8, %%rsp"
        :
        : "D"(stack)
        : "rax", "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r14", "r15",
          "memory");
}

GUEST_TEST(pushes_and_pops_go_on_behind_other_instructions)
{
    static const uint64_t pushed[] = {1, 2, 0x1200 - 0x34, 6, 0x1002};
    static const uint64_t popped[] = {12, 13, 10 + 0x30, 11 + 0x1000, 0x1230};
    struct trap t;
    for (unsigned i = 0; i < 40; i++) {
        uint64_t *words = (uint64_t *)(page(i & 1) + 0x800);
        map_for_user(1, i & 1, true);
        for (int k = -8; k < 8; k++) {
            words[k] = 99;
        }
        CHECK(!guest_try_user(&t, user_pushes_and_more, (void *)(linear(1) + 0x800)));
        for (int k = 0; k < 5; k++) {
            CHECK_EQ(words[-1 - k], pushed[k]);
        }
        for (unsigned k = 0; k < 8; k++) {
            words[k] = 10 + k;
        }
        CHECK(!guest_try_user(&t, user_pops_and_more, (void *)(linear(1) + 0x800)));
        for (unsigned k = 0; k < 5; k++) {
            CHECK_EQ(words[k], popped[k]);
        }
    }
}

/* The stack pointer moves to another page between them. */
static USER_CODE void user_pushes_apart(void *stack)
{
    __asm__ volatile("mov %%rsp, %%r8; mov %%rdi, %%rsp\n"
                     "mov $1, %%eax; mov $2, %%ebx\n"
                     "mov (%%rsp), %%rcx; mov %%rcx, (%%rsp)\n"
                     "push %%rax; lea -4096(%%rsp), %%rsp; push %%rbx\n"
                     "mov %%rdi, %%rsp\n"
                     "push %%rbx; sub $4096, %%rsp; push %%rax\n"
                     "mov %%r8, %%rsp"
                     :
                     : "D"(stack)
                     : "rax", "rbx", "rcx", "r8", "memory");
}

static USER_CODE void user_pops_apart(void *stack)
{
    __asm__ volatile("mov %%rsp, %%r8; mov %%rdi, %%rsp\n"
                     "mov (%%rsp), %%rcx\n"
                     "pop %%rax; add $4096, %%rsp; pop %%rbx\n"
                     "mov %%rax, (%%rdi); mov %%rbx, 8(%%rdi)\n"
                     "mov %%r8, %%rsp"
                     :
                     : "D"(stack)
                     : "rax", "rbx", "rcx", "r8", "memory");
}

GUEST_TEST(pushes_and_pops_follow_the_stack_pointer)
{
    struct trap t;
    for (unsigned i = 0; i < 40; i++) {
        unsigned lower = i & 1, upper = 3 + (i >> 1 & 1);
        map_for_user(1, lower, true);
        map_for_user(2, 2, true);
        map_for_user(3, upper, true);
        uint64_t *low = (uint64_t *)(page(lower) + 0x800);
        uint64_t *here = (uint64_t *)(page(2) + 0x800);
        uint64_t *high = (uint64_t *)(page(upper) + 0x800);
        low[-2] = here[-1] = 99;
        CHECK(!guest_try_user(&t, user_pushes_apart, (void *)(linear(2) + 0x800)));
        CHECK_EQ(here[-1], 2);
        CHECK_EQ(low[-2], 1);
        here[0] = 20 + i;
        here[1] = 99;
        high[1] = 60 + i;
        CHECK(!guest_try_user(&t, user_pops_apart, (void *)(linear(2) + 0x800)));
        CHECK_EQ(here[0], 20 + i);
        CHECK_EQ(here[1], 60 + i);
    }
}

/* --- Fields of a struct ----------------------------------------------------------- */

/* The sum of a field here and of one there, through one register. */
static uint64_t sum_through_a_copy(const void *here, const void *there)
{
    uint64_t sum, more;
    __asm__ volatile("mov 8(%2), %0; mov %3, %2; mov 16(%2), %1"
                     : "=&r"(sum), "=&r"(more), "+&r"(here)
                     : "r"(there)
                     : "memory");
    return sum + more;
}

/* The first three of four fields become their doubles. */
static void double_fields(void *fields)
{
    uint64_t v;
    __asm__ volatile("mov (%1), %0; add %0, (%1); mov 8(%1), %0; add %0, 8(%1)\n"
                     "mov 16(%1), %0; add %0, 16(%1)"
                     : "=&r"(v)
                     : "r"(fields)
                     : "memory", "cc");
}

static void use_fields(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < 60; i++) {
        unsigned lower = i & 1, upper = 3 + (i >> 1 & 1), first = i % 5;
        map(1, lower, i);
        map(2, upper, i);
        uint64_t *end = (uint64_t *)(page(lower) + 4096);
        uint64_t *begin = (uint64_t *)page(upper);
        end[-2] = i;
        begin[9] = 1000;
        SMP_CHECK_EQ(
            sum_through_a_copy((void *)(linear(2) - 24), (void *)(linear(2) + 56)),
            i + 1000);
        /* The first ones are in one page, the others in the other. */
        for (unsigned k = 0; k < 4; k++) {
            *(k < first ? &end[(int)k - (int)first] : &begin[k - first]) = i + k;
        }
        double_fields((void *)(linear(2) - 8 * first));
        for (unsigned k = 0; k < 4; k++) {
            uint64_t v = *(k < first ? &end[(int)k - (int)first] : &begin[k - first]);
            SMP_CHECK_EQ(v, (i + k) << (k < 3));
        }
    }
}

GUEST_TEST(fields_are_in_the_pages_that_they_are_in)
{
    on_one_and_two(use_fields);
}
