/*
 * Code that changes, on one processor, in 64-bit and (the same file, as guests smc32
 * and smc32_user) in 32-bit code at level 0 and 3: a store into the instruction stream
 * takes effect for the next instruction (APM vol. 2, 7.6.1; SDM vol. 3, "Handling Self-
 * and Cross-Modifying Code"). Everything is done often enough to be translated, and
 * each test checks what was computed, so that no old version can have run.
 */
#ifdef __x86_64__
    #include "tests/guest/lib/guest.h"
    #define SNIPPET(name, text)                                                    \
        __asm__(".pushsection .text.snippet, \"ax\"\n" #name ":\n" text "\n" #name \
                "_end:\n.popsection");                                             \
        extern const uint8_t name[], name##_end[]
    #define AX   "%rax"
    #define CX   "%rcx"
    #define DX   "%rdx"
    #define SI   "%rsi"
    #define DI   "%rdi"
    #define SP   "%rsp"
    #define WORD "8"
#else
    #include "tests/guest/lib/legacy.h"
    #define SNIPPET CODE32
    #define AX      "%eax"
    #define CX      "%ecx"
    #define DX      "%edx"
    #define SI      "%esi"
    #define DI      "%edi"
    #define SP      "%esp"
    #define WORD    "4"
#endif

#ifdef GUEST_smc32_user
/* Each test as a program at level 3, which may reach the serial port. */
CODE32(program, "call *%eax; int3");

static void at_level_3(void (*fn)(void))
{
    struct context c = user_context(program);
    c.gpr[EAX] = (uint32_t)fn;
    c.eflags |= FL_IOPL;
    struct trap t = run(&c);
    CHECK_EQ(t.vector, 3);
    CHECK_EQ(t.c.eip, (uint32_t)program_end);
    CHECK_EQ(t.c.seg[CS], SEL_UCODE);
}

    #undef GUEST_TEST
    #define GUEST_TEST(id)                                                 \
        static void id(void);                                              \
        static void test_of_##id(void)                                     \
        {                                                                  \
            at_level_3(id);                                                \
        }                                                                  \
        __attribute__((section("guest_tests"),                             \
                       used)) static const struct guest_test test_##id = { \
            #id, test_of_##id};                                            \
        static void id(void)
#endif

enum { PAGES = 17, PAGE = 4096, OFTEN = 60 };

/* What is written all the time is compared and no longer watched: each kind of test has
 * memory of its own. */
static uint8_t area[PAGES * PAGE] __attribute__((aligned(4096)));
static uint8_t beside[8 * PAGE] __attribute__((aligned(4096)));
static uint8_t jit[PAGES * PAGE] __attribute__((aligned(4096)));

/* Calls code that expects EDI and ESI, changes any register but the stack pointer, and
 * returns EAX. */
static uint32_t call(const void *code, uintptr_t di, uintptr_t si)
{
    uintptr_t ax = (uintptr_t)code;
#ifdef __x86_64__
    __asm__ volatile("push %%rbx; push %%rbp; call *%%rax; pop %%rbp; pop %%rbx"
                     : "+a"(ax), "+D"(di), "+S"(si)
                     :
                     : "rcx", "rdx", "r8", "r9", "r10", "r11", "cc", "memory");
#else
    __asm__ volatile("push %%ebx; push %%ebp; call *%%eax; pop %%ebp; pop %%ebx"
                     : "+a"(ax), "+D"(di), "+S"(si)
                     :
                     : "ecx", "edx", "cc", "memory");
#endif
    return (uint32_t)ax;
}

static void put32(uint8_t *p, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++) {
        ((volatile uint8_t *)p)[i] = (uint8_t)(v >> 8 * i);
    }
}

static uint32_t get32(const uint8_t *p)
{
    return *(const volatile uint32_t *)p;
}

static uint8_t *copy(uint8_t *to, const uint8_t *from, const uint8_t *end)
{
    for (volatile uint8_t *p = to; from < end;) {
        *p++ = *from++;
    }
    return to;
}
#define COPY(to, name) copy((to), name, name##_end)

/* mov eax, imm32; ret */
static uint8_t *put_constant(uint8_t *p, uint32_t v)
{
    *(volatile uint8_t *)p = 0xb8;
    put32(p + 1, v);
    *(volatile uint8_t *)(p + 5) = 0xc3;
    return p + 6;
}

/* --- The block itself, ahead of RIP ---------------------------------------------- */

/* Each overwrites the 1 of its "mov $1, %al" at DI, just before that is executed. */
SNIPPET(by_mov, "xor %eax, %eax; movb $0x22, (" DI "); mov $1, %al; ret");
SNIPPET(by_mov_reg,
        "xor %eax, %eax; mov $0x22, %cl; mov %cl, (" DI "); mov $1, %al; ret");
SNIPPET(by_rmw, "xor %eax, %eax; xorb $0x23, (" DI "); mov $1, %al; ret");
SNIPPET(by_lock, "xor %eax, %eax; lock addb $0x21, (" DI "); mov $1, %al; ret");
SNIPPET(by_xchg,
        "xor %eax, %eax; mov $0x22, %cl; xchg %cl, (" DI "); mov $1, %al; ret");
SNIPPET(by_stos, "mov $0x22, %eax; stosb; mov $0, %ah; mov $1, %al; ret");
SNIPPET(by_rep_stos, "mov $1, %ecx; mov $0x22, %eax; rep stosb; mov $1, %al; ret");
SNIPPET(by_movs, "xor %eax, %eax; movsb; mov $1, %al; ret");
SNIPPET(by_rep_movs, "xor %eax, %eax; mov $1, %ecx; rep movsb; mov $1, %al; ret");
SNIPPET(by_cmpxchg, "mov $1, %eax; mov $0x22, %cl; lock cmpxchg %cl, (" DI ")\n"
                    "mov $1, %al; ret");
SNIPPET(by_setcc, "xor %eax, %eax; setz (" DI "); shlb $5, (" DI "); orb $2, (" DI ")\n"
                  "mov $1, %al; ret");
SNIPPET(by_bts,
        "xor %eax, %eax; btrl $0, (" DI "); btsl $1, (" DI "); btsl $5, (" DI ")\n"
        "mov $1, %al; ret");
/* The byte is the lowest of a word that is pushed: the rest stays as it is. */
SNIPPET(by_push, "mov (" DI "), " CX "; mov $0x22, %cl; xchg " SP ", " DI "\n"
                 "add $" WORD ", " SP "; push " CX "\n"
                 "mov " DI ", " SP "; xor %eax, %eax; mov $1, %al; ret; .skip 8, 0x90");

static uint8_t *find_one(uint8_t *code, unsigned len)
{
    for (unsigned i = len - 1; i > 0; i--) {
        if (code[i - 1] == 0xb0 && code[i] == 1) {
            return code + i;
        }
    }
    return NULL;
}

GUEST_TEST(a_store_changes_the_next_instruction)
{
    static const struct {
        const char *name;
        const uint8_t *code, *end;
    } all[] = {
#define CASE(name) {#name, name, name##_end}
        CASE(by_mov),      CASE(by_mov_reg), CASE(by_rmw),      CASE(by_lock),
        CASE(by_xchg),     CASE(by_stos),    CASE(by_rep_stos), CASE(by_movs),
        CASE(by_rep_movs), CASE(by_cmpxchg), CASE(by_setcc),    CASE(by_bts),
        CASE(by_push),
    };
    static const uint8_t value = 0x22;
    for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        /* Inside a page, and over the border of two. */
        for (unsigned at = PAGE / 2; at < PAGE + 8;
             at += at < PAGE - 40 ? PAGE / 2 - 24 : 1) {
            unsigned len = (unsigned)(all[i].end - all[i].code);
            uint8_t *code = area + at;
            for (unsigned n = 0; n < 3; n++) {
                copy(code, all[i].code, all[i].end);
                uint32_t got =
                    call(code, (uintptr_t)find_one(code, len), (uintptr_t)&value);
                if (got != 0x22) {
                    guest_fail(__FILE__, __LINE__, all[i].name, got, at);
                }
            }
        }
    }
}

/* The same, hot: a loop that changes its own immediate in every round. */
SNIPPET(counting_loop, "mov $1000, %ecx; xor %eax, %eax\n"
                       "1: add $0x11111111, %eax\n"
                       "incl (" DI ")\n dec %ecx\n jnz 1b\n ret");

GUEST_TEST(a_loop_changes_its_own_immediate)
{
    for (unsigned n = 0; n < 20; n++) {
        uint8_t *code = COPY(area + 100, counting_loop);
        uint8_t *imm = code;
        while (get32(imm) != 0x11111111) {
            imm++;
        }
        put32(imm, 0);
        CHECK_EQ(call(code, (uintptr_t)imm, 0), 1000 * 999 / 2);
    }
}

/* --- Other blocks ----------------------------------------------------------------- */

/* EDI times: call to the function at the rel32 after it (patched by hand). */
static void put_caller(uint8_t *p, uint8_t opcode, const uint8_t *to)
{
    *(volatile uint8_t *)p = opcode;
    put32(p + 1, (uint32_t)(to - (p + 5)));
    *(volatile uint8_t *)(p + 5) = 0xc3;
}

/* A function that others reach by CALL, by JMP, by a table and by falling into it. */
static void change_function(uint8_t *at, uint8_t *callers)
{
    put_constant(at, 0);
    put_caller(callers, 0xe8, at);
    put_caller(callers + 16, 0xe9, at);
    for (uint32_t n = 0; n < 300; n++) {
        uint32_t v = n / 3 * 0x01010101;
        if (n % 3 == 0) {
            put_constant(at, v);
        }
        CHECK_EQ(call(at, 0, 0), v);
        CHECK_EQ(call(callers, 0, 0), v);
        CHECK_EQ(call(callers + 16, 0, 0), v);
    }
}

GUEST_TEST(functions_in_the_same_page_change)
{
    change_function(area + 0x400, area + 0x420);
    change_function(area + 0x1800, area + 0x1000);
}

GUEST_TEST(functions_in_another_page_change)
{
    change_function(area + 0x400, area + 0x3420);
    change_function(area + 0x5800, area + 0x1000);
}

GUEST_TEST(instructions_over_a_page_boundary_change_in_both_halves)
{
    for (unsigned before = 1; before < 6; before++) {
        uint8_t *at = area + 10 * PAGE - before; /* pages with few stores */
        put_constant(at, 0);
        for (uint32_t n = 0; n < 400; n++) {
            volatile uint8_t *byte = at + 1 + n / 4 % 4;
            *byte = (uint8_t)(n * 7);
            CHECK_EQ(call(at, 0, 0), get32(at + 1));
        }
    }
}

/* Targets of branches: jnz rel8 to one of 16 ways out. */
GUEST_TEST(branches_change_their_targets)
{
    uint8_t *code = area + 3 * PAGE - 64, *out = code + 8;
    static const uint8_t head[] = {0x85, 0xff, 0x75, 0x00, 0xb8, 0xff, 0xff, 0xff};
    copy(code, head, head + 8);
    for (unsigned i = 0; i < 16; i++) {
        put_constant(out + 8 * i, i);
    }
    for (uint32_t n = 0; n < 600; n++) {
        unsigned i = n / 3 % 16;
        ((volatile uint8_t *)code)[3] = (uint8_t)(out + 8 * i - (code + 4));
        CHECK_EQ(call(code, 1, 0), i);
    }
}

/* Two streams of instructions in the same bytes: b8 b8 <imm> ... from 0 and from 1. */
GUEST_TEST(overlapping_instructions_change_together)
{
    uint8_t *p = area + 0x123;
    static const uint8_t bytes[] = {0xb8, 0xb8, 1, 2, 3, 0x04, 0xc3};
    copy(p, bytes, bytes + sizeof(bytes));
    for (uint32_t n = 0; n < 300; n++) {
        ((volatile uint8_t *)p)[2] = (uint8_t)(n / 2);
        CHECK_EQ(call(p + 1, 0, 0), get32(p + 2)); /* mov eax, imm; ret */
        /* mov eax, imm; add al, 0xc3; then a breakpoint: put a ret there */
        ((volatile uint8_t *)p)[7] = 0xc3;
        uint32_t sum = get32(p + 1);
        CHECK_EQ(call(p, 0, 0), (sum & ~0xffu) | ((sum + 0xc3) & 0xff));
    }
}

/* --- Fresh code, as a JIT makes it ------------------------------------------------ */

/* A function that adds @n times something to EDI; its length. */
static unsigned put_sum(uint8_t *p, unsigned n, uint32_t seed, uint32_t *ret_sum)
{
    volatile uint8_t *q = p;
    *q++ = 0x89; /* mov eax, edi */
    *q++ = 0xf8;
    *ret_sum = 0;
    for (unsigned i = 0; i < n; i++) {
        uint32_t v = seed = seed * 1664525 + 1013904223;
        *q++ = 0x05; /* add eax, imm32 */
        put32((uint8_t *)q, v);
        q += 4;
        *ret_sum += v;
    }
    *q++ = 0xc3;
    return (unsigned)((uint8_t *)q - p);
}

/* Round and round through the area, with other lengths each time: what is new lies over
 * parts of what was there. */
GUEST_TEST(fresh_code_over_old_code)
{
    unsigned at = 0;
    for (uint32_t n = 0; n < 4000; n++) {
        uint32_t sum;
        unsigned terms = 1 + n * 7 % 37;
        if (at + 3 + 5 * terms > sizeof(jit)) {
            at = n % 61;
        }
        uint8_t *p = jit + at;
        at += put_sum(p, terms, n, &sum) + n % 3;
        unsigned times = n % 8 ? 2 : OFTEN;
        for (unsigned k = 0; k < times; k++) {
            CHECK_EQ(call(p, k, 0), sum + k);
        }
    }
}

/* --- Data beside code ---------------------------------------------------------------
 */

/* ECX = ESI times: increment at DI. */
SNIPPET(count_at, "mov " SI ", " CX "\n 1: incl (" DI ")\n dec " CX "\n jnz 1b\n"
                  "mov (" DI "), %eax\n ret");

GUEST_TEST(data_beside_code_counts)
{
    static const unsigned distance[] = {20, 32, 64, 128, 256, 512, 1024, 2048, 3000};
    enum { ROUNDS = 30000 };
    for (unsigned i = 0; i < sizeof(distance) / sizeof(distance[0]); i++) {
        uint8_t *code = COPY(beside + 0x40, count_at), *data = code + distance[i];
        put32(data, i);
        CHECK_EQ(call(code, (uintptr_t)data, ROUNDS), i + ROUNDS);
        /* The page was stored to all the time, and now its code changes. */
        change_function(beside + 0xf00, beside + 0xf20);
        change_function(beside + 0xf40, beside + 3 * PAGE);
        CHECK_EQ(call(code, (uintptr_t)data, 10), i + ROUNDS + 10);
    }
}

/* All that was done above, in a page in which there is data, too. */
GUEST_TEST(code_changes_in_a_page_of_data)
{
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned page = 0; page < 4; page++) {
            uint8_t *code = COPY(beside + page * PAGE + 0xe00, count_at);
            uint8_t *data = beside + page * PAGE + 0xff0;
            put32(data, 0);
            CHECK_EQ(call(code, (uintptr_t)data, 20000), 20000);
        }
        change_function(beside + 0x400, beside + 0x420);
        change_function(beside + 0x1400, beside + 0x2420);
        for (unsigned before = 1; before < 6; before++) {
            uint8_t *at = beside + 2 * PAGE - before;
            put_constant(at, 0);
            for (uint32_t n = 0; n < 40; n++) {
                ((volatile uint8_t *)at)[1 + n % 4] = (uint8_t)(n * 7);
                CHECK_EQ(call(at, 0, 0), get32(at + 1));
            }
        }
        uint8_t *code = COPY(beside + 0x600, counting_loop), *imm = code;
        while (get32(imm) != 0x11111111) {
            imm++;
        }
        put32(imm, 0);
        CHECK_EQ(call(code, (uintptr_t)imm, 0), 1000 * 999 / 2);
        copy(beside + 0x700, by_mov, by_mov_end);
        CHECK_EQ(
            call(beside + 0x700,
                 (uintptr_t)find_one(beside + 0x700, (unsigned)(by_mov_end - by_mov)),
                 0),
            0x22);
    }
}

/* A trampoline on the stack, in a frame that is used at the same time. */
static __attribute__((noinline)) uint32_t through_stack(uint32_t v, unsigned depth)
{
    volatile uint8_t code[16];
    code[0] = 0xb8;
    put32((uint8_t *)code + 1, v);
    code[5] = 0xc3;
    uint32_t deeper = depth ? through_stack(v + 1, depth - 1) : 0;
    return call((const void *)code, 0, 0) + deeper;
}

GUEST_TEST(trampolines_on_the_stack)
{
    for (uint32_t n = 0; n < 6000; n++) {
        uint32_t v = n / 10;
        CHECK_EQ(through_stack(v, 3), 4 * v + 6);
    }
}
