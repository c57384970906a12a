/* Debug registers and single step: instruction, data and I/O breakpoints, general
 * detection, the order of traps and faults. AMD64 APM vol. 2 chapter 13, Intel SDM
 * vol. 3 chapter 17. */
#include "tests/guest/lib/guest.h"

#define ONES UINT64_C(0xffff0ff0) /* of DR6 */
enum { BS = 1 << 14, BD = 1 << 13, TF = 1 << 8, RF = 1 << 16 };
enum { EXEC, WRITE, IO, ACCESS };

#define SET_DR(n, v) \
    __asm__ volatile("mov %0, %%dr" #n : : "r"((uint64_t)(v)) : "memory")
#define GET_DR(n)                                          \
    ({                                                     \
        uint64_t v_;                                       \
        __asm__ volatile("mov %%dr" #n ", %0" : "=r"(v_)); \
        v_;                                                \
    })

/* What #DB found, in order. */
static struct {
    uint64_t rip, dr6, rflags;
} volatile seen[32];
static volatile unsigned nb_seen;
static volatile unsigned nb_bp; /* #BP */
static volatile uint64_t bp_rip;
static volatile bool resume_with_rf = true;

static bool on_trap(unsigned vector, uint64_t *frame)
{
    if (vector == 3) {
        nb_bp++;
        bp_rip = frame[18];
        return true;
    }
    if (vector != 1) {
        return false;
    }
    uint64_t dr6 = GET_DR(6);
    if (nb_seen < 32) {
        seen[nb_seen].rip = frame[18];
        seen[nb_seen].dr6 = dr6;
        seen[nb_seen].rflags = frame[20];
    }
    nb_seen++;
    if ((dr6 & 0xf) && resume_with_rf) {
        frame[20] |= RF;
    }
    if (nb_seen >= 32) {
        frame[20] &= ~(uint64_t)TF;
        SET_DR(7, 0x400);
    }
    SET_DR(6, 0);
    return true;
}

static void start(void)
{
    guest_trap_hook = on_trap;
    nb_seen = nb_bp = 0;
    resume_with_rf = true;
    SET_DR(6, 0);
}

static void stop(void)
{
    SET_DR(7, 0x400);
    guest_trap_hook = NULL;
}

/* DR7 for one breakpoint, globally enabled; len in bytes. */
static uint64_t dr7(unsigned n, unsigned rw, unsigned len)
{
    static const uint8_t code[] = {0, 0, 1, 0, 3, 0, 0, 0, 2};
    return 0x400 | UINT64_C(2) << (2 * n) | (uint64_t)rw << (16 + 4 * n) |
           (uint64_t)code[len] << (18 + 4 * n);
}

#define EXPECT(i, where, bits)                    \
    do {                                          \
        CHECK_EQ(seen[i].rip, (uint64_t)(where)); \
        CHECK_EQ(seen[i].dr6, ONES | (bits));     \
    } while (0)

/* --- Registers --------------------------------------------------------------- */

GUEST_TEST(dr6_and_dr7_have_fixed_bits)
{
    SET_DR(6, 0);
    CHECK_EQ(GET_DR(6), ONES);
    SET_DR(6, 0xffffffff);
    CHECK_EQ(GET_DR(6) & 0xfff, 0xfff);
    CHECK_EQ(GET_DR(6) & 0x1000, 0);
    CHECK_EQ(GET_DR(6) & 0xe000, 0xe000);
    SET_DR(6, 0);
    SET_DR(7, 0);
    CHECK_EQ(GET_DR(7), 0x400);
    SET_DR(7, 0xd800); /* reserved bits, as zero */
    CHECK_EQ(GET_DR(7), 0x400);
}

GUEST_TEST(upper_halves_of_dr6_and_dr7_must_be_zero)
{
    struct trap t;
    CHECK(TRAPS(&t, "mov $1, %%eax; shl $32, %%rax; mov %%rax, %%dr7"));
    CHECK_EQ(t.vector, 13);
    CHECK(TRAPS(&t, "mov $1, %%eax; shl $40, %%rax; mov %%rax, %%dr6"));
    CHECK_EQ(t.vector, 13);
    SET_DR(0, 0x8000123456789abc); /* addresses are not looked at */
    CHECK_EQ(GET_DR(0), 0x8000123456789abc);
    SET_DR(0, 0);
}

GUEST_TEST(dr4_and_dr5_are_dr6_and_dr7_unless_de)
{
    struct trap t;
    SET_DR(6, 0xf);
    CHECK_EQ(GET_DR(4), ONES | 0xf);
    CHECK_EQ(GET_DR(5), 0x400);
    SET_DR(4, 0);
    CHECK_EQ(GET_DR(6), ONES);
    write_cr4(read_cr4() | 8);
    CHECK(TRAPS(&t, "mov %%dr4, %%rax"));
    CHECK_EQ(t.vector, 6);
    CHECK(TRAPS(&t, "mov %%rax, %%dr5"));
    CHECK_EQ(t.vector, 6);
    write_cr4(read_cr4() & ~UINT64_C(8));
}

GUEST_TEST(debug_registers_are_not_for_users)
{
    struct trap t;
    CHECK(USER_TRAPS(&t, "mov %%dr0, %%rax"));
    CHECK_EQ(t.vector, 13);
    CHECK(USER_TRAPS(&t, "mov %%rax, %%dr7"));
    CHECK_EQ(t.vector, 13);
}

GUEST_TEST(general_detection_stops_every_access_once)
{
    start();
    uint64_t where, v;
    SET_DR(7, 0x400 | 1 << 13);
    __asm__ volatile("lea 1f(%%rip), %0; 1: mov %%dr0, %1" : "=&r"(where), "=r"(v));
    CHECK_EQ(nb_seen, 1);
    EXPECT(0, where, BD);
    CHECK_EQ(GET_DR(7), 0x400); /* GD was cleared on the way in */
    CHECK_EQ(nb_seen, 1);
    stop();
}

/* --- Instructions ------------------------------------------------------------ */

/* Code with known places. */
__asm__(".text\n"
        "code_a: inc %eax\n"
        "code_b: inc %eax\n"
        "code_c: add $2, %eax\n"
        "code_d: ret\n");
extern uint8_t code_a[], code_b[], code_c[], code_d[];

static uint32_t run_code(void)
{
    uint32_t r = 0;
    __asm__ volatile("call code_a" : "+a"(r) : : "memory");
    return r;
}

GUEST_TEST(instruction_breakpoint_hits_where_it_is)
{
    start();
    for (unsigned i = 0; i < 200; i++) {
        CHECK_EQ(run_code(), 4); /* the code is known to the CPU by now */
    }
    SET_DR(2, code_c);
    SET_DR(7, dr7(2, EXEC, 1));
    CHECK_EQ(run_code(), 4);
    CHECK_EQ(nb_seen, 1);
    EXPECT(0, code_c, 4);
    CHECK_EQ(seen[0].rflags & RF, 0); /* SDM 3 17.3.1.1 */
    CHECK_EQ(run_code(), 4);
    CHECK_EQ(nb_seen, 2);
    SET_DR(7, dr7(2, EXEC, 1) & ~UINT64_C(0xff));
    CHECK_EQ(run_code(), 4);
    CHECK_EQ(nb_seen, 2);
    SET_DR(7, (dr7(2, EXEC, 1) & ~UINT64_C(0xff)) | 1 << 4); /* locally */
    CHECK_EQ(run_code(), 4);
    CHECK_EQ(nb_seen, 3);
    SET_DR(7, 0x400);
    for (unsigned i = 0; i < 200; i++) {
        CHECK_EQ(run_code(), 4);
    }
    CHECK_EQ(nb_seen, 3);
    stop();
}

GUEST_TEST(each_of_the_four_can_watch_instructions)
{
    for (unsigned n = 0; n < 4; n++) {
        start();
        switch (n) {
        case 0: SET_DR(0, code_b); break;
        case 1: SET_DR(1, code_b); break;
        case 2: SET_DR(2, code_b); break;
        default: SET_DR(3, code_b); break;
        }
        SET_DR(7, dr7(n, EXEC, 1));
        CHECK_EQ(run_code(), 4);
        CHECK_EQ(nb_seen, 1);
        EXPECT(0, code_b, 1 << n);
        stop();
    }
}

GUEST_TEST(two_breakpoints_on_one_instruction_and_one_on_the_next)
{
    start();
    SET_DR(0, code_b);
    SET_DR(1, code_b);
    SET_DR(3, code_c);
    SET_DR(7, dr7(0, EXEC, 1) | dr7(1, EXEC, 1) | dr7(3, EXEC, 1));
    CHECK_EQ(run_code(), 4);
    CHECK_EQ(nb_seen, 2);
    EXPECT(0, code_b, 3);
    EXPECT(1, code_c, 8);
    stop();
}

GUEST_TEST(breakpoint_hits_again_without_rf)
{
    start();
    resume_with_rf = false;
    SET_DR(0, code_b);
    SET_DR(7, dr7(0, EXEC, 1));
    CHECK_EQ(run_code(), 4); /* the handler gives up after 32 */
    CHECK_EQ(nb_seen, 32);
    stop();
}

GUEST_TEST(rf_holds_for_one_instruction_only)
{
    start();
    SET_DR(0, code_b);
    SET_DR(7, dr7(0, EXEC, 1));
    for (unsigned i = 0; i < 5; i++) {
        CHECK_EQ(run_code(), 4);
    }
    CHECK_EQ(nb_seen, 5);
    stop();
}

GUEST_TEST(faults_push_rf_and_traps_do_not)
{
    struct trap t;
    CHECK(TRAPS(&t, "ud2"));
    CHECK_EQ(t.rflags & RF, RF);
    CHECK(TRAPS(&t, "int $0x41; ud2"));
    CHECK_EQ(t.vector, 6);
    uint64_t flags;
    __asm__ volatile("pushfq; pop %0" : "=r"(flags));
    CHECK_EQ(flags & RF, 0);
}

/* --- Data -------------------------------------------------------------------- */

static uint8_t data[64] __attribute__((aligned(64)));

#define STORE(type, at) (*(volatile type *)(data + (at)) = (type)0x11)
#define LOAD(type, at)  ((void)*(volatile type *)(data + (at)))

GUEST_TEST(write_breakpoint_is_a_trap_after_the_store)
{
    start();
    uint64_t after;
    SET_DR(1, data + 8);
    SET_DR(7, dr7(1, WRITE, 4));
    __asm__ volatile("movl $42, 8(%1); 1: lea 1b(%%rip), %0"
                     : "=&r"(after)
                     : "r"(data)
                     : "memory");
    CHECK_EQ(nb_seen, 1);
    EXPECT(0, after, 2);
    CHECK_EQ(*(uint32_t *)(data + 8), 42);
    LOAD(uint32_t, 8);
    CHECK_EQ(nb_seen, 1);
    stop();
}

GUEST_TEST(access_breakpoint_sees_loads_and_stores)
{
    start();
    SET_DR(0, data + 16);
    SET_DR(7, dr7(0, ACCESS, 1));
    LOAD(uint8_t, 16);
    CHECK_EQ(nb_seen, 1);
    STORE(uint8_t, 16);
    CHECK_EQ(nb_seen, 2);
    LOAD(uint8_t, 15);
    LOAD(uint8_t, 17);
    STORE(uint8_t, 17);
    CHECK_EQ(nb_seen, 2);
    LOAD(uint64_t, 9);
    CHECK_EQ(nb_seen, 3);
    stop();
}

GUEST_TEST(length_and_alignment_say_what_is_watched)
{
    static const struct {
        unsigned at, len, first, last;
    } rows[] = {{20, 1, 20, 20}, {20, 2, 20, 21}, {21, 2, 20, 21}, {20, 4, 20, 23},
                {23, 4, 20, 23}, {24, 8, 24, 31}, {29, 8, 24, 31}};
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        start();
        SET_DR(3, data + rows[i].at);
        SET_DR(7, dr7(3, WRITE, rows[i].len));
        for (unsigned at = 16; at < 40; at++) {
            unsigned before = nb_seen;
            STORE(uint8_t, at);
            bool want = at >= rows[i].first && at <= rows[i].last;
            CHECK_EQ(nb_seen - before, want);
            before = nb_seen;
            STORE(uint32_t, at);
            want = at + 3 >= rows[i].first && at <= rows[i].last;
            CHECK_EQ(nb_seen - before, want);
        }
        stop();
    }
}

GUEST_TEST(every_kind_of_store_is_seen)
{
    start();
    SET_DR(0, data + 32);
    SET_DR(7, dr7(0, WRITE, 8));
    unsigned n = 0;
#define SEEN(text)                                                                \
    do {                                                                          \
        __asm__ volatile(text : : "r"(data + 32) : "rax", "rcx", "memory", "cc"); \
        CHECK_EQ(nb_seen, ++n);                                                   \
    } while (0)
    SEEN("addl $1, (%0)");
    SEEN("lock addl $1, (%0)");
    SEEN("xor %%eax, %%eax; xchg %%eax, (%0)");
    SEEN("xor %%eax, %%eax; lock cmpxchg %%ecx, (%0)");
    SEEN("movups %%xmm0, (%0)");
    SEEN("movq %%xmm0, (%0)");
    SEEN("fninit; fstl (%0)");
    SEEN("bts $3, (%0)");
    SEEN("setz (%0)");
    SEEN("push %0; pop (%0)");
#undef SEEN
    stop();
}

/* Watch the place below the stack pointer, do something, watch nothing. */
#define BELOW_STACK(text)                                                           \
    __asm__ volatile("lea -8(%%rsp), %%rbx; mov %%rbx, %%dr0; mov %0, %%dr7\n" text \
                     "\nmov $0x400, %%ebx; mov %%rbx, %%dr7"                        \
                     :                                                              \
                     : "r"(dr7(0, WRITE, 8))                                        \
                     : "rax", "rbx", "memory")

GUEST_TEST(push_and_call_onto_a_watched_place)
{
    start();
    BELOW_STACK("push %%rax; lea 8(%%rsp), %%rsp");
    CHECK_EQ(nb_seen, 1);
    BELOW_STACK("call code_a");
    CHECK_EQ(nb_seen, 2);
    EXPECT(1, code_a, 1); /* the call is done */
    stop();
}

GUEST_TEST(access_over_a_page_boundary_is_seen_in_both)
{
    start();
    *guest_pte(0) = (uint64_t)guest_page(0) | PTE_P | PTE_W;
    *guest_pte(1) = (uint64_t)guest_page(3) | PTE_P | PTE_W;
    volatile uint64_t *across = (volatile uint64_t *)(WINDOW + 4092);
    SET_DR(0, WINDOW + 4096);
    SET_DR(7, dr7(0, WRITE, 2));
    *across = 1;
    CHECK_EQ(nb_seen, 1);
    SET_DR(0, WINDOW + 4094);
    *across = 1;
    CHECK_EQ(nb_seen, 2);
    *(volatile uint32_t *)(WINDOW + 4096) = 1;
    CHECK_EQ(nb_seen, 2);
    stop();
}

GUEST_TEST(repeated_string_stops_after_the_element)
{
    start();
    uint64_t after, rcx = 8, rdi = (uint64_t)data;
    SET_DR(0, data + 2);
    SET_DR(7, dr7(0, WRITE, 1));
    __asm__ volatile("lea 1f(%%rip), %2; mov $0x77, %%al; 1: rep stosb"
                     : "+c"(rcx), "+D"(rdi), "=&r"(after)
                     :
                     : "rax", "memory");
    CHECK_EQ(nb_seen, 1);
    EXPECT(0, after, 1); /* in the middle: RIP is the instruction's */
    CHECK_EQ(rcx, 0);
    CHECK_EQ(data[7], 0x77);
    SET_DR(0, data + 7);
    rcx = 8;
    rdi = (uint64_t)data;
    __asm__ volatile("mov $0x78, %%al; rep stosb; 1: lea 1b(%%rip), %2"
                     : "+c"(rcx), "+D"(rdi), "=&r"(after)
                     :
                     : "rax", "memory");
    CHECK_EQ(nb_seen, 2);
    EXPECT(1, after, 1); /* with the last element */
    stop();
}

static void movs_to_nowhere(void *arg)
{
    __asm__ volatile("movsb" : : "S"(data), "D"(arg) : "memory");
}

GUEST_TEST(instruction_that_faults_reports_no_data_breakpoint)
{
    struct trap t;
    start();
    SET_DR(0, data);
    SET_DR(7, dr7(0, ACCESS, 1));
    CHECK(guest_try(&t, movs_to_nowhere, (void *)WINDOW));
    CHECK_EQ(t.vector, 14);
    CHECK_EQ(nb_seen, 0);
    stop();
}

static USER_DATA uint64_t user_data[2];

static USER_CODE void user_stores(void *arg)
{
    (void)arg;
    user_data[1] = 7;
}

GUEST_TEST(user_stores_are_seen)
{
    struct trap t;
    start();
    SET_DR(0, &user_data[1]);
    SET_DR(7, dr7(0, WRITE, 8));
    CHECK(!guest_try_user(&t, user_stores, NULL));
    CHECK_EQ(nb_seen, 1);
    CHECK_EQ(seen[0].dr6, ONES | 1);
    stop();
}

/* --- Ports ------------------------------------------------------------------- */

GUEST_TEST(port_breakpoints_need_de)
{
    start();
    uint64_t after;
    SET_DR(1, 0x80);
    SET_DR(7, dr7(1, IO, 1));
    outb(0x80, 0);
    CHECK_EQ(nb_seen, 0);
    write_cr4(read_cr4() | 8);
    __asm__ volatile("out %%al, $0x80; 1: lea 1b(%%rip), %0" : "=r"(after));
    CHECK_EQ(nb_seen, 1);
    EXPECT(0, after, 2);
    __asm__ volatile("in $0x80, %%al" : : : "rax");
    CHECK_EQ(nb_seen, 2);
    outb(0x81, 0);
    CHECK_EQ(nb_seen, 2);
    __asm__ volatile("in $0x7e, %%eax" : : : "rax");
    CHECK_EQ(nb_seen, 3); /* four ports, 80h is among them */
    SET_DR(7, dr7(1, IO, 2));
    outb(0x81, 0);
    CHECK_EQ(nb_seen, 4);
    write_cr4(read_cr4() & ~UINT64_C(8));
    stop();
}

/* --- Single step --------------------------------------------------------------- */

/* TF on in rax, and off again: 5 and then 2 instructions that are not stepped over. */
#define TF_ON  "pushfq; pop %%rax; or $0x100, %%rax; push %%rax; popfq\n"
#define TF_OFF "pushfq; andl $~0x100, (%%rsp); popfq\n"

GUEST_TEST(single_step_begins_after_popf_and_ends_with_it)
{
    start();
    uint64_t where;
    __asm__ volatile("lea 1f(%%rip), %0\n" TF_ON "nop\n1: " TF_OFF
                     : "=&r"(where)
                     :
                     : "rax", "memory", "cc");
    CHECK_EQ(nb_seen, 4);
    EXPECT(0, where, BS);
    EXPECT(1, where + 1, BS);
    EXPECT(2, where + 8, BS);
    EXPECT(3, where + 9, BS); /* the popf that ends it */
    CHECK_EQ(seen[0].rflags & (TF | RF), TF);
    stop();
}

GUEST_TEST(single_step_over_cpuid_in_rdmsr)
{
    start();
    uint64_t where;
    __asm__ volatile("lea 1f(%%rip), %0\n" TF_ON
                     "1: cpuid; mov $0x3fd, %%edx; in %%dx, %%al\n" TF_OFF
                     : "=&r"(where)
                     :
                     : "rax", "rbx", "rcx", "rdx", "memory", "cc");
    CHECK_EQ(nb_seen, 6);
    EXPECT(0, where + 2, BS);
    EXPECT(1, where + 7, BS);
    EXPECT(2, where + 8, BS);
    stop();
}

GUEST_TEST(single_step_stops_at_each_element_of_a_string)
{
    start();
    uint64_t where, rcx = 3, rdi = (uint64_t)data;
    __asm__ volatile("lea 1f(%%rip), %2\n" TF_ON "1: rep stosb\n" TF_OFF
                     : "+c"(rcx), "+D"(rdi), "=&r"(where)
                     :
                     : "rax", "memory", "cc");
    CHECK_EQ(nb_seen, 6);
    EXPECT(0, where, BS);
    EXPECT(1, where, BS);
    EXPECT(2, where + 2, BS);
    stop();
}

GUEST_TEST(single_step_is_held_back_by_mov_ss)
{
    start();
    uint64_t where;
    __asm__ volatile("mov %%ss, %%ecx; lea 1f(%%rip), %0\n" TF_ON
                     "mov %%ecx, %%ss; nop; 1: nop\n" TF_OFF
                     : "=&r"(where)
                     :
                     : "rax", "rcx", "memory", "cc");
    CHECK_EQ(nb_seen, 5);
    EXPECT(0, where, BS);
    EXPECT(1, where + 1, BS);
    stop();
}

GUEST_TEST(single_step_is_not_held_back_by_sti)
{
    start();
    uint64_t where;
    __asm__ volatile("lea 1f(%%rip), %0\n" TF_ON "sti; 1: cli\n" TF_OFF
                     : "=&r"(where)
                     :
                     : "rax", "memory", "cc");
    CHECK_EQ(nb_seen, 5);
    EXPECT(0, where, BS);
    EXPECT(1, where + 1, BS);
    stop();
}

GUEST_TEST(interrupt_instruction_is_not_stepped_into)
{
    start();
    uint64_t where;
    __asm__ volatile("lea 1f(%%rip), %0\n" TF_ON "int $0x41; nop; 1:" TF_OFF
                     : "=&r"(where)
                     :
                     : "rax", "memory", "cc");
    /* INT clears TF on the way in; the step comes after the IRET's next one. */
    CHECK_EQ(nb_seen, 4);
    EXPECT(0, where, BS);
    stop();
}

static bool icebp_works(void)
{
    struct trap t;
    bool raised = TRAPS(&t, ".byte 0xf1");
    CHECK(!raised);
    nb_seen = 0;
    return !raised;
}

GUEST_TEST(icebp_is_a_trap_without_a_bit)
{
    start();
    if (!icebp_works()) {
        return;
    }
    uint64_t where;
    __asm__ volatile(".byte 0xf1; 1: lea 1b(%%rip), %0" : "=r"(where));
    CHECK_EQ(nb_seen, 1);
    EXPECT(0, where, 0);
    stop();
}

GUEST_TEST(single_step_and_icebp_are_two_traps)
{
    start();
    if (!icebp_works()) {
        return;
    }
    uint64_t where;
    __asm__ volatile("lea 1f(%%rip), %0\n" TF_ON ".byte 0xf1; 1: nop\n" TF_OFF
                     : "=&r"(where)
                     :
                     : "rax", "memory", "cc");
    EXPECT(0, where, 0); /* no step: TF was cleared with ICEBP's own delivery */
    EXPECT(1, where + 1, BS);
    stop();
}

GUEST_TEST(step_and_data_breakpoint_are_one_trap)
{
    start();
    uint64_t where;
    SET_DR(0, data);
    SET_DR(7, dr7(0, WRITE, 4));
    __asm__ volatile("lea 1f(%%rip), %0\n" TF_ON "movl $1, (%1)\n1: " TF_OFF
                     : "=&r"(where)
                     : "r"(data)
                     : "rax", "memory", "cc");
    CHECK_EQ(nb_seen, 4);
    EXPECT(0, where, BS | 1);
    stop();
}

GUEST_TEST(step_comes_before_the_next_ones_breakpoint)
{
    start();
    SET_DR(0, code_b);
    SET_DR(7, dr7(0, EXEC, 1));
    __asm__ volatile("xor %%ebx, %%ebx\n" TF_ON "call code_a\n1: " TF_OFF
                     :
                     :
                     : "rax", "rbx", "memory", "cc");
    EXPECT(0, code_a, BS);
    EXPECT(1, code_b, BS);
    EXPECT(2, code_b, 1);
    EXPECT(3, code_c, BS);
    stop();
}

GUEST_TEST(user_code_is_stepped_over)
{
    struct trap t;
    start();
    CHECK(USER_TRAPS(&t, "pushfq; orl $0x100, (%%rsp); popfq; nop; nop\n"
                         "pushfq; andl $~0x100, (%%rsp); popfq; ud2"));
    CHECK_EQ(t.vector, 6);
    CHECK_EQ(nb_seen, 5);
    stop();
}

GUEST_TEST(branch_step_stops_at_branches_only)
{
    struct trap t;
    if (TRAPS(&t, "mov $0x1d9, %%ecx; rdmsr; mov $2, %%eax; xor %%edx, %%edx; wrmsr\n"
                  "rdmsr; and $2, %%eax; sub $2, %%eax; mov %%eax, %%ebx; xor %%eax, "
                  "%%eax; wrmsr; test %%ebx, %%ebx; jz 1f; ud2; 1:")) {
        guest_skip("no branch single-step");
        return;
    }
    start();
    wrmsr(0x1d9, 2);
    __asm__ volatile("xor %%ebx, %%ebx\n" TF_ON "nop; nop; call code_a\n" TF_OFF
                     :
                     :
                     : "rax", "rbx", "memory", "cc");
    EXPECT(0, code_a, BS);
    EXPECT(1, code_b, BS); /* #DB has cleared BTF */
    CHECK_EQ(rdmsr(0x1d9) & 3, 0);
    wrmsr(0x1d9, 0);
    stop();
}

/* --- Traps in the shadow of MOV SS ------------------------------------------- */

static uint16_t ss_value = SEL_DATA;

GUEST_TEST(data_breakpoint_of_mov_ss_waits_one_instruction)
{
    start();
    uint64_t where;
    SET_DR(0, &ss_value);
    SET_DR(7, dr7(0, ACCESS, 2));
    __asm__ volatile("mov %1, %%ss; nop; 1: lea 1b(%%rip), %0"
                     : "=r"(where)
                     : "m"(ss_value));
    CHECK_EQ(nb_seen, 1);
    EXPECT(0, where, 1);
    stop();
}

GUEST_TEST(data_breakpoint_of_mov_ss_and_int3)
{
    start();
    uint64_t where;
    SET_DR(0, &ss_value);
    SET_DR(7, dr7(0, ACCESS, 2));
    __asm__ volatile("mov %1, %%ss; int3; 1: lea 1b(%%rip), %0"
                     : "=r"(where)
                     : "m"(ss_value));
    CHECK_EQ(nb_bp, 1);
    CHECK_EQ(bp_rip, where);
    CHECK_EQ(nb_seen, 1);
    EXPECT(0, guest_stub(3), 1); /* before the handler's first instruction */
    stop();
}

GUEST_TEST(data_breakpoint_of_mov_ss_and_icebp_are_one)
{
    start();
    if (!icebp_works()) {
        return;
    }
    uint64_t where;
    SET_DR(0, &ss_value);
    SET_DR(7, dr7(0, ACCESS, 2));
    __asm__ volatile("mov %1, %%ss; .byte 0xf1; 1: lea 1b(%%rip), %0"
                     : "=r"(where)
                     : "m"(ss_value));
    CHECK_EQ(nb_seen, 1);
    EXPECT(0, where, 1);
    stop();
}

/* --- System calls --------------------------------------------------------------- */

extern uint8_t tf_entry[];
static volatile uint64_t tf_syscalls;
__asm__(".text\ntf_entry: incq tf_syscalls(%rip)\n sysretq\n");

GUEST_TEST(system_call_is_one_step_when_the_mask_has_tf)
{
    struct trap t;
    start();
    wrmsr(MSR_STAR, (uint64_t)SEL_CODE64 << 32 | (uint64_t)(SEL_USER32 & ~3) << 48);
    wrmsr(MSR_LSTAR, (uint64_t)tf_entry);
    wrmsr(MSR_SFMASK, TF);
    tf_syscalls = 0;
    CHECK(USER_TRAPS(&t, "pushfq; orl $0x100, (%%rsp); popfq; syscall; nop\n"
                         "pushfq; andl $~0x100, (%%rsp); popfq; ud2"));
    CHECK_EQ(t.vector, 6);
    CHECK_EQ(tf_syscalls, 1);
    CHECK_EQ(nb_seen, 5); /* after SYSRET, nop, pushfq, andl, popfq */
    stop();
}
