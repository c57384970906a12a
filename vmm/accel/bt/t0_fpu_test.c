#include <glib.h>
#include <immintrin.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "vmm/accel/bt/t0_fpu.h"
#include "vmm/accel/bt/t0_guest.h"
#include "vmm/accel/bt/t0_native.h"
#include "vmm/accel/bt/t0_test.h"
#include "vmm/vm/aspace.h"

/*
 * Floating point and vectors: what a comparison with the processor in user mode does
 * not reach. Expectations are from the AMD64 manual, volume and section given.
 */

#define CODE(t, ...)                           \
    do {                                       \
        const uint8_t code_[] = {__VA_ARGS__}; \
        t0_test_code(t, code_, sizeof(code_)); \
    } while (0)

#define DATA 0x20000u /* in guest RAM, free for tests */

/* A machine whose x87 is as FNINIT leaves it. */
static struct t0_test *machine(unsigned bits, const char *cpu)
{
    struct t0_test *t = t0_test_new(bits, 1024, cpu);
    t->s.fpu.fcw = 0x37f;
    t->s.fpu.ftw = 0;
    t->s.fpu.fsw = 0;
    return t;
}

/* --- Availability ---------------------------------------------------------- */

/* What each class of instructions needs (APM 2 3.1.1 to 3.1.3, 11.3). */
static void control_bits_forbid(void)
{
    enum { ALL = 1, NONE = 0 };
    const uint64_t em = X86_CR0_EM, ts = X86_CR0_TS, mp = X86_CR0_MP;
    const uint64_t fxsr = X86_CR4_OSFXSR, xsave = X86_CR4_OSXSAVE;
    static const struct {
        const char *name;
        uint8_t len, bytes[6];
        uint8_t em, ts, no_fxsr, no_xsave, no_avx; /* vector, or 0: runs */
    } cases[] = {
        {"fld1", 2, {0xd9, 0xe8}, 7, 7, 0, 0, 0},
        {"fwait", 1, {0x9b}, 0, 7, 0, 0, 0},
        {"fnstcw [rsi]", 2, {0xd9, 0x3e}, 7, 7, 0, 0, 0},
        {"paddb mm0, mm1", 3, {0x0f, 0xfc, 0xc1}, 6, 7, 0, 0, 0},
        {"emms", 2, {0x0f, 0x77}, 6, 7, 0, 0, 0},
        {"addps xmm0, xmm1", 3, {0x0f, 0x58, 0xc1}, 6, 7, 6, 0, 0},
        {"ldmxcsr [rsi]", 3, {0x0f, 0xae, 0x16}, 6, 7, 6, 0, 0},
        {"vaddps xmm0, xmm0, xmm1", 4, {0xc5, 0xf8, 0x58, 0xc1}, 0, 7, 0, 6, 6},
        {"vzeroupper", 3, {0xc5, 0xf8, 0x77}, 0, 7, 0, 6, 6},
        {"fxsave [rsi]", 3, {0x0f, 0xae, 0x06}, 7, 7, 0, 0, 0},
        {"fxrstor [rsi]", 3, {0x0f, 0xae, 0x0e}, 7, 7, 0, 0, 0},
        {"xsave [rsi]", 3, {0x0f, 0xae, 0x26}, 0, 7, 0, 6, 0},
        {"xrstor [rsi]", 3, {0x0f, 0xae, 0x2e}, 0, 7, 0, 6, 0},
        {"movnti [rsi], eax", 3, {0x0f, 0xc3, 0x06}, 0, 0, 0, 0, 0},
        {"crc32 eax, eax", 5, {0xf2, 0x0f, 0x38, 0xf1, 0xc0}, 0, 0, 0, 0, 0},
    };
    struct guest *g = guest_new(64);
    const struct x86_state start = g->start;
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        for (unsigned what = 0; what < 6; what++) {
            struct native_result r = {.gpr[X86_RSI] = NATIVE_ARENA};
            uint8_t fpu[NATIVE_XSAVE_SIZE] = {0x7f, 3};
            uint8_t want[] = {0,
                              cases[i].em,
                              cases[i].ts,
                              cases[i].no_fxsr,
                              cases[i].no_xsave,
                              cases[i].no_avx};
            g->start = start;
            g->start.cr0 = (start.cr0 & ~(em | ts)) | mp | (what == 1 ? em : 0) |
                           (what == 2 ? ts : 0);
            g->start.cr4 &= ~((what == 3 ? fxsr : 0) | (what == 4 ? xsave : 0));
            g->start.xcr0 = what == 5 ? 1 : 7;
            memset(g->arena, 0, 4096);
            le32_put(fpu + 24, 0x1f80);
            guest_run(g, cases[i].bytes, cases[i].len, &r, fpu);
            if (r.vector != want[what]) {
                g_test_message("%s, condition %u", cases[i].name, what);
            }
            g_assert_cmpuint(r.vector, ==, want[what]);
        }
    }
    guest_free(g);
}

/* CR0.TS and EM together: #UD of SSE is before #NM (APM 2 8.5). */
static void undefined_before_not_available(void)
{
    struct guest *g = guest_new(64);
    struct native_result r = {0};
    uint8_t fpu[NATIVE_XSAVE_SIZE] = {0x7f, 3};
    g->start.cr0 |= X86_CR0_EM | X86_CR0_TS;
    guest_run(g, (const uint8_t[]){0x0f, 0x58, 0xc1}, 3, &r, fpu);
    g_assert_cmpuint(r.vector, ==, X86_EXC_UD);
    guest_free(g);
}

/* Without OSXMMEXCPT an unmasked SSE exception is #UD (APM 2 3.1.3). */
static void simd_exception_without_osxmmexcpt(void)
{
    struct guest *g = guest_new(64);
    struct native_result r = {0};
    uint8_t fpu[NATIVE_XSAVE_SIZE] = {0x7f, 3};
    g->start.cr4 &= ~X86_CR4_OSXMMEXCPT;
    le32_put(fpu + 24, 0x1f80 & ~0x200); /* divide by zero unmasked */
    le32_put(fpu + 160, 0x3f800000);     /* 1.0 / 0.0 */
    guest_run(g, (const uint8_t[]){0xf3, 0x0f, 0x5e, 0xc1}, 4, &r, fpu);
    g_assert_cmpuint(r.vector, ==, X86_EXC_UD);
    g_assert_cmphex(le32_get(fpu + 24), ==, (0x1f80 & ~0x200) | 4);
    g_assert_cmphex(le32_get(fpu + 160), ==, 0x3f800000);
    guest_free(g);
}

/* A model without MISALIGNSSE has no MXCSR.MM. */
static void mxcsr_bits_of_the_model(void)
{
    static const struct {
        const char *cpu;
        uint32_t mxcsr;
        enum vcpu_exit exit;
    } cases[] = {
        {"max", 0x21f80, VCPU_EXIT_HLT},
        {"max", 0x11f80, VCPU_EXIT_SHUTDOWN}, /* bit 16 is nobody's */
        {"max,-misalignsse", 0x1f80, VCPU_EXIT_HLT},
        {"max,-misalignsse", 0x21f80, VCPU_EXIT_SHUTDOWN},
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct t0_test *t = machine(64, cases[i].cpu);
        le32_put(t->ram + DATA, cases[i].mxcsr);
        t->s.gpr[X86_RSI] = DATA;
        CODE(t, 0x0f, 0xae, 0x16, 0xf4); /* ldmxcsr [rsi]; hlt */
        g_assert_cmpint(t0_test_run(t), ==, cases[i].exit);
        t0_test_free(t);
    }
}

/* --- The host's own state -------------------------------------------------- */

struct watcher {
    struct io_region region;
    unsigned calls;
    uint32_t mxcsr;
    uint16_t fcw, tags;
};

static void watch(struct watcher *w)
{
    uint8_t env[28];
    __asm__ volatile("fnstenv %0\n\tfldenv %0" : "+m"(env));
    w->fcw = le16_get(env);
    w->tags = le16_get(env + 8);
    w->mxcsr = _mm_getcsr();
    w->calls++;
    /* A device may use floating point itself. */
    volatile long double x = 3.0L;
    x = x / 7.0L;
    _mm_setcsr(_mm_getcsr() | 0x3f);
    _mm_setcsr(w->mxcsr);
}

static uint64_t watch_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    watch(opaque);
    return UINT64_C(0x4000000000000000); /* 2.0 */
}

static void watch_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                        unsigned len)
{
    watch(opaque);
}

static const struct io_ops watch_ops = {.read = watch_read, .write = watch_write};

static uint16_t host_fcw(void)
{
    uint16_t fcw;
    __asm__ volatile("fnstcw %0" : "=m"(fcw));
    return fcw;
}

/* Devices are called, and run() returns, with the host's MXCSR and x87 state, and the
 * guest's goes on as if nothing had been. */
static void host_state_is_not_the_guests(void)
{
    struct t0_test *t = machine(64, NULL);
    struct watcher w = {
        .region = {.name = "watcher", .base = 0xf0, .len = 1, .ops = &watch_ops}};
    struct watcher m = {
        .region = {
            .name = "memory", .base = 0x10000000, .len = 4096, .ops = &watch_ops}};
    w.region.opaque = &w;
    m.region.opaque = &m;
    g_assert_true(aspace_add(t->vm->pio, &w.region, NULL));
    g_assert_true(aspace_add(t->vm->mmio, &m.region, NULL));
    le16_put(t->ram + DATA, 0x0f7f);     /* round toward zero */
    le32_put(t->ram + DATA + 4, 0xff80); /* the same, flush to zero */
    le32_put(t->ram + DATA + 8, 1);      /* 1 */
    le32_put(t->ram + DATA + 12, 3);     /* 3 */
    t->s.gpr[X86_RSI] = DATA;
    t->s.gpr[X86_RDI] = 0x10000000;
    CODE(t, 0xd9, 0x2e,                 /* fldcw [rsi] */
         0x0f, 0xae, 0x56, 0x04,        /* ldmxcsr [rsi+4] */
         0xdb, 0x46, 0x08,              /* fild dword [rsi+8] */
         0xf3, 0x0f, 0x2a, 0x46, 0x08,  /* cvtsi2ss xmm0, [rsi+8] */
         0xe6, 0xf0,                    /* out f0h, al */
         0xda, 0x76, 0x0c,              /* fidiv dword [rsi+12] */
         0xf3, 0x0f, 0x2a, 0x4e, 0x0c,  /* cvtsi2ss xmm1, [rsi+12] */
         0xf3, 0x0f, 0x5e, 0xc1,        /* divss xmm0, xmm1 */
         0xe4, 0xf0,                    /* in al, f0h */
         0xdc, 0x07,                    /* fadd qword [rdi]: 2.0 from a device */
         0xf2, 0x0f, 0x58, 0x17,        /* addsd xmm2, [rdi] */
         0xdd, 0x1f,                    /* fstp qword [rdi] */
         0xd9, 0xe8,                    /* fld1 */
         0x66, 0x0f, 0x6f, 0x1f, 0xf4); /* movdqa xmm3, [rdi]; hlt */
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT);
    g_assert_cmphex(_mm_getcsr(), ==, 0x1f80);
    g_assert_cmphex(host_fcw(), ==, 0x37f);
    g_assert_cmpuint(w.calls, ==, 2);
    g_assert_cmpuint(m.calls, ==, 5); /* 16 bytes are two accesses */
    g_assert_cmphex(w.fcw, ==, 0x37f);
    g_assert_cmphex(w.tags, ==, 0xffff);
    g_assert_cmphex(w.mxcsr, ==, 0x1f80);
    g_assert_cmphex(m.fcw, ==, 0x37f);
    g_assert_cmphex(m.tags, ==, 0xffff);
    g_assert_cmphex(m.mxcsr, ==, 0x1f80);
    /* 1/3 rounded toward zero, and inexact. */
    g_assert_cmphex(le32_get(t->s.fpu.ymm[0]), ==, 0x3eaaaaaa);
    g_assert_cmphex(t->s.fpu.mxcsr, ==, 0xffa0);
    g_assert_cmphex(le64_get(t->s.fpu.ymm[2]), ==, 0x4000000000000000);
    g_assert_cmphex(le64_get(t->s.fpu.ymm[3] + 8), ==, 0x4000000000000000);
    g_assert_cmphex(t->s.fpu.fcw, ==, 0xf7f);
    g_assert_cmphex(t->s.fpu.fsw & 0x3fff, ==, 0x3820); /* one value, PE */
    g_assert_cmphex(t->s.fpu.ftw, ==, 0x80);
    g_assert_cmphex(le64_get(t->s.fpu.st[0]), ==, 0x8000000000000000);
    t0_test_free(t);
}

/* --- Thunks ---------------------------------------------------------------- */

/* paddd xmm0, xmm1..7 and many more, in a loop: as many thunks as there are forms. */
static unsigned many_forms(uint8_t *p, unsigned nb)
{
    unsigned n = 0;
    for (unsigned i = 0; i < nb; i++) {
        static const uint8_t ops[] = {0xfe, 0xfa, 0xef, 0xfd, 0xf9, 0xd4, 0xfb, 0xf8};
        unsigned dst = i & 7, src = i >> 3 & 7; /* pxxx xmm(dst), xmm(src) */
        p[n++] = 0x66;
        p[n++] = 0x0f;
        p[n++] = ops[i >> 6 & 7];
        p[n++] = (uint8_t)(0xc0 | dst << 3 | src);
    }
    return n;
}

/* Results are the same however often the thunks' memory fills up. */
static void full_arena(void)
{
    enum { FORMS = 512 };
    struct x86_fpu want;
    for (unsigned small = 0; small < 2; small++) {
        struct t0_test *t = machine(64, NULL);
        struct t0_cpu *c = t->vcpu->accel;
        uint8_t code[FORMS * 4 + 16];
        if (small) {
            thunk_arena_free(c->fpu->arena);
            c->fpu->arena = thunk_arena_new(8192, NULL);
        }
        unsigned n = many_forms(code, FORMS);
        memcpy(code + n, "\xff\xc9\x0f\x85", 4); /* dec ecx; jnz start; hlt */
        le32_put(code + n + 4, (uint32_t) - (int)(n + 8));
        code[n + 8] = 0xf4;
        for (unsigned i = 0; i < 8; i++) {
            le64_put(t->s.fpu.ymm[i], 0x0123456789abcdef * (i + 1));
            le64_put(t->s.fpu.ymm[i] + 8, 0xfedcba9876543210 * (i + 3));
        }
        t->s.gpr[X86_RCX] = 5;
        t0_test_code(t, code, n + 9);
        g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT);
        if (small) {
            g_assert_cmpmem(&want, sizeof(want), &t->s.fpu, sizeof(want));
            g_assert_cmpuint(thunk_arena_count(c->fpu->arena), <, FORMS / 2);
            g_assert_cmpuint(c->insns, ==, 5 * (FORMS + 2) + 1);
        } else {
            want = t->s.fpu;
            g_assert_cmpuint(thunk_arena_count(c->fpu->arena), ==, FORMS);
        }
        t0_test_free(t);
    }
}

static void equal_thunks_are_one(void)
{
    struct t0_test *t = machine(64, NULL);
    struct t0_cpu *c = t->vcpu->accel;
    t->s.gpr[X86_RSI] = DATA;
    /* addps xmm0, [rsi]; the same with other addresses; hlt */
    CODE(t, 0x0f, 0x58, 0x06, 0x0f, 0x58, 0x46, 0x10, 0x0f, 0x58, 0x84, 0x26, 0x20, 0,
         0, 0, 0xf4);
    t->s.gpr[X86_RSP] = 0;
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT);
    g_assert_cmpuint(thunk_arena_count(c->fpu->arena), ==, 1);
    t0_test_free(t);
}

/* --- The kernel's and the real mode's instructions -------------------------- */

/* XSAVES, then XRSTORS over other contents, at level 0; #GP at level 3. */
static void xsaves_and_xrstors(void)
{
    struct t0_test *t = machine(64, NULL);
    t->s.cr4 |= X86_CR4_OSXSAVE;
    t->s.xcr0 = 7;
    for (unsigned i = 0; i < 16; i++) {
        memset(t->s.fpu.ymm[i], (int)(i * 7 + 1), 32);
    }
    t->s.fpu.mxcsr = 0x3f80;
    t->s.gpr[X86_RSI] = DATA;
    t->s.gpr[X86_RAX] = t->s.gpr[X86_RDX] = UINT32_MAX;
    const struct x86_fpu before = t->s.fpu;
    memset(t->ram + DATA, 0xa5, 4096);
    memset(t->ram + DATA + 512, 0, 64);
    CODE(t, 0x0f, 0xc7, 0x2e,     /* xsaves [rsi] */
         0xc5, 0xfc, 0x77,        /* vzeroall */
         0xd9, 0xe8,              /* fld1 */
         0x0f, 0xc7, 0x1e, 0xf4); /* xrstors [rsi]; hlt */
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT);
    /* x87 was in its initial state: not in XSTATE_BV, and initial again. */
    g_assert_cmphex(le64_get(t->ram + DATA + 512), ==, 6);
    g_assert_cmphex(le64_get(t->ram + DATA + 520), ==, UINT64_C(1) << 63 | 7);
    g_assert_cmpmem(t->s.fpu.ymm, sizeof(before.ymm), before.ymm, sizeof(before.ymm));
    g_assert_cmphex(t->s.fpu.mxcsr, ==, 0x3f80);
    g_assert_cmphex(t->s.fpu.ftw, ==, 0);
    g_assert_cmphex(t->s.fpu.fsw, ==, 0);
    t0_test_free(t);

    struct guest *g = guest_new(64);
    struct native_result r = {.gpr[X86_RSI] = NATIVE_ARENA};
    uint8_t fpu[NATIVE_XSAVE_SIZE] = {0x7f, 3};
    guest_run(g, (const uint8_t[]){0x0f, 0xc7, 0x2e}, 3, &r, fpu);
    g_assert_cmpuint(r.vector, ==, X86_EXC_GP);
    guest_free(g);
}

/* Real mode: environments hold linear addresses (APM 1 figures 6-10 and 6-12); VEX
 * instructions do not exist. */
static void real_mode(void)
{
    struct t0_test *t = machine(16, NULL);
    t->s.cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXSAVE;
    t->s.xcr0 = 7;
    t->s.seg[X86_DS].sel = 0x2000;
    t->s.seg[X86_DS].base = 0x20000;
    t->s.gpr[X86_RSI] = 0x100;
    CODE(t, 0xd9, 0xe8,                 /* fld1 */
         0xd8, 0x04,                    /* fadd dword [si] */
         0xd9, 0x74, 0x20,              /* fnstenv [si+20h] */
         0x66, 0xd9, 0x74, 0x40, 0xf4); /* fnstenv [si+40h], 32-bit; hlt */
    memset(t->ram + 0x20100, 0xcc, 0x100);
    le32_put(t->ram + 0x20100, 0x3f800000);
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT);
    static const uint8_t env16[] = {0x7f, 0x03, 0x00, 0x38, 0xff, 0x3f, 0x02, 0x10,
                                    0x04, 0x00, 0x00, 0x01, 0x00, 0x00, 0xcc};
    g_assert_cmpmem(t->ram + 0x20120, sizeof(env16), env16, sizeof(env16));
    const uint8_t *env32 = t->ram + 0x20140;
    g_assert_cmphex(le32_get(env32), ==, 0xffff037f);
    g_assert_cmphex(le32_get(env32 + 12) & 0xffff, ==, 0x1002);
    g_assert_cmphex(le32_get(env32 + 16), ==, 0x0004); /* opcode D8 04 */
    g_assert_cmphex(env32[28], ==, 0xcc);
    g_assert_cmphex(le64_get(t->s.fpu.st[0]), ==, 0x8000000000000000);
    g_assert_cmphex(le16_get(t->s.fpu.st[0] + 8), ==, 0x4000); /* 2.0 */

    /* LDS with a register, in real mode: #UD, whose handler halts. */
    CODE(t, 0xc5, 0xf8, 0x58, 0xc1, 0xf4);
    le32_put(t->ram + 4 * X86_EXC_UD, 0x600);
    t->ram[0x600] = 0xf4;
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT);
    g_assert_cmphex(t->s.rip, ==, 0x601);
    g_assert_cmphex(t->s.fpu.ymm[0][0], ==, 0);
    t0_test_free(t);
}

/* --- Speed: with -m perf ---------------------------------------------------- */

static double nanoseconds(const uint8_t *insn, unsigned len, uint32_t mxcsr)
{
    enum { UNROLL = 32, LOOPS = 200000 };
    struct t0_test *t = machine(64, NULL);
    uint8_t code[UNROLL * 16 + 16];
    unsigned n = 0;
    t->s.cr4 |= X86_CR4_OSXSAVE;
    t->s.xcr0 = 7;
    t->s.fpu.mxcsr = mxcsr;
    t->s.fpu.ftw = 0xc0;
    t->s.gpr[X86_RSI] = DATA;
    for (unsigned i = 0; i < UNROLL; i++, n += len) {
        memcpy(code + n, insn, len);
    }
    memcpy(code + n, "\xff\xc9\x0f\x85", 4); /* dec ecx; jnz start; hlt */
    le32_put(code + n + 4, (uint32_t) - (int)(n + 8));
    code[n + 8] = 0xf4;
    t->s.gpr[X86_RCX] = LOOPS;
    t0_test_code(t, code, n + 9);
    gint64 start = g_get_monotonic_time();
    g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT);
    double ns = (double)(g_get_monotonic_time() - start) * 1000 / UNROLL / LOOPS;
    t0_test_free(t);
    return ns;
}

static void speed(void)
{
    static const struct {
        const char *name;
        uint32_t mxcsr;
        uint8_t len, bytes[8];
    } insns[] = {
        {"add eax, edx", 0x1f80, 2, {0x01, 0xd0}},
        {"mov rax, [rsi]", 0x1f80, 3, {0x48, 0x8b, 0x06}},
        {"paddd xmm0, xmm1", 0x1f80, 4, {0x66, 0x0f, 0xfe, 0xc1}},
        {"movaps xmm0, [rsi]", 0x1f80, 3, {0x0f, 0x28, 0x06}},
        {"movaps [rsi], xmm0", 0x1f80, 3, {0x0f, 0x29, 0x06}},
        {"paddd xmm0, [rsi]", 0x1f80, 4, {0x66, 0x0f, 0xfe, 0x06}},
        {"paddd xmm0, [rsi+rbx*8]", 0x1f80, 5, {0x66, 0x0f, 0xfe, 0x04, 0xde}},
        {"addsd xmm0, xmm1", 0x1f80, 4, {0xf2, 0x0f, 0x58, 0xc1}},
        {"addsd xmm0, [rsi]", 0x1f80, 4, {0xf2, 0x0f, 0x58, 0x06}},
        {"addsd xmm0, xmm1, unmasked", 0x0, 4, {0xf2, 0x0f, 0x58, 0xc1}},
        {"cvtsi2sd xmm0, eax", 0x1f80, 4, {0xf2, 0x0f, 0x2a, 0xc0}},
        {"comisd xmm0, xmm1", 0x1f80, 4, {0x66, 0x0f, 0x2f, 0xc1}},
        {"movq rax, xmm0", 0x1f80, 5, {0x66, 0x48, 0x0f, 0x7e, 0xc0}},
        {"vaddps ymm0, ymm1, ymm2", 0x1f80, 4, {0xc5, 0xf4, 0x58, 0xc2}},
        {"vpaddd ymm0, ymm1, [rsi]", 0x1f80, 4, {0xc5, 0xf5, 0xfe, 0x06}},
        {"fadd st(0), st(1)", 0x1f80, 2, {0xd8, 0xc1}},
        {"fadd qword [rsi]", 0x1f80, 2, {0xdc, 0x06}},
        {"fst qword [rsi]", 0x1f80, 2, {0xdd, 0x16}},
        {"fnstcw [rsi]; fldcw [rsi]", 0x1f80, 4, {0xd9, 0x3e, 0xd9, 0x2e}},
        {"paddd mm0, mm1", 0x1f80, 3, {0x0f, 0xfe, 0xc1}},
        {"fxsave [rsi]", 0x1f80, 3, {0x0f, 0xae, 0x06}},
        {"xsaveopt [rsi]", 0x1f80, 3, {0x0f, 0xae, 0x36}},
        {"xrstor [rsi]", 0x1f80, 3, {0x0f, 0xae, 0x2e}},
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(insns); i++) {
        double best = 1e9;
        for (unsigned n = 0; n < 3; n++) {
            best = MIN(best, nanoseconds(insns[i].bytes, insns[i].len, insns[i].mxcsr));
        }
        g_test_minimized_result(best, "%-28s %7.2f ns", insns[i].name, best);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/t0/fpu/control_bits_forbid", control_bits_forbid);
    g_test_add_func("/t0/fpu/undefined_before_not_available",
                    undefined_before_not_available);
    g_test_add_func("/t0/fpu/simd_exception_without_osxmmexcpt",
                    simd_exception_without_osxmmexcpt);
    g_test_add_func("/t0/fpu/mxcsr_bits_of_the_model", mxcsr_bits_of_the_model);
    g_test_add_func("/t0/fpu/host_state_is_not_the_guests",
                    host_state_is_not_the_guests);
    g_test_add_func("/t0/fpu/full_arena", full_arena);
    g_test_add_func("/t0/fpu/equal_thunks_are_one", equal_thunks_are_one);
    g_test_add_func("/t0/fpu/xsaves_and_xrstors", xsaves_and_xrstors);
    g_test_add_func("/t0/fpu/real_mode", real_mode);
    if (g_test_perf()) {
        g_test_add_func("/t0/fpu/speed", speed);
    }
    return g_test_run();
}
