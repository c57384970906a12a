#include "vmm/accel/bt/t0.h"

#include <asm/prctl.h>
#include <glib.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/*
 * The integer handlers against the processor this runs on.
 *
 * Every row of the decoder's table that is an integer or string instruction is made
 * into many random encodings. Each is executed twice from the same registers, flags
 * and memory: natively, in a page of code below 4 GiB (32-bit code through a far
 * jump to the kernel's compatibility segment), and by its handler. All registers,
 * flags, memory, and in case of a fault its vector and address must be equal.
 *
 * The handlers run without the interpreter's core: what they call of it is here, for
 * a flat memory whose linear addresses are the host's own.
 *
 *     arena:  page 0, 1 writable | page 2 read-only | page 3 absent
 */

#define ARENA      UINT64_C(0x10000000)
#define PAGE       UINT64_C(4096)
#define NB_MAPPED  3
#define CODE       UINT64_C(0x53370000)
#define GS_BASE    (ARENA - 0x12340)
#define FLAGS_MASK (X86_FL_ARITH | X86_FL_DF)

/* --- The core's part ------------------------------------------------------- */

static struct {
    struct t0_cpu cpu;
    struct vcpu vcpu;
    bool faulted;
    bool jumped;
    uint64_t jump_rip;
    unsigned nb_slow;
    struct {
        uint64_t la;
        unsigned size;
    } rmw;
    uint32_t port_value;
    unsigned nb_ports;
} t;

static bool page_ok(uint64_t la, bool write)
{
    uint64_t end = ARENA + (write ? NB_MAPPED - 1 : NB_MAPPED) * PAGE;
    return la >= ARENA && la < end;
}

static uint64_t raise_memory(struct t0_cpu *c, uint64_t la, bool write, unsigned seg)
{
    if ((uint64_t)((int64_t)(la << 16) >> 16) != la) {
        c->exc = (struct t0_exception){
            .vector = seg == X86_SS ? X86_EXC_SS : X86_EXC_GP, .has_error = true};
        return 1;
    }
    bool present = page_ok(la, false);
    c->exc = (struct t0_exception){
        .vector = X86_EXC_PF,
        .has_error = true,
        .error = X86_PF_U | (write ? X86_PF_W : 0) | (present ? X86_PF_P : 0),
        .cr2 = la,
    };
    return 1;
}

/* Both ends, and fill the TLB when it is one page. */
static uint64_t probe(struct t0_cpu *c, uint64_t la, unsigned size, bool write,
                      unsigned seg)
{
    uint64_t last = la + size - 1, second = last & ~(PAGE - 1);
    t.nb_slow++;
    if (!page_ok(la, write)) {
        return raise_memory(c, la, write, seg);
    }
    if ((la & ~(PAGE - 1)) != second) {
        return page_ok(second, write) ? 0 : raise_memory(c, second, write, seg);
    }
    struct t0_tlb_entry *e = &c->tlb[(la >> 12) & (T0_TLB_SIZE - 1)];
    e->read = second;
    e->write = page_ok(la, true) ? second : T0_TLB_NONE;
    e->addend = 0;
    return 0;
}

struct t0_val t0_load_slow(struct t0_cpu *c, uint64_t la, unsigned size, unsigned seg)
{
    uint64_t v = 0;
    if (probe(c, la, size, false, seg)) {
        return (struct t0_val){0, 1};
    }
    memcpy(&v, (void *)(uintptr_t)la, size);
    return (struct t0_val){v, 0};
}

uint64_t t0_store_slow(struct t0_cpu *c, uint64_t la, uint64_t v, unsigned size,
                       unsigned seg)
{
    if (probe(c, la, size, true, seg)) {
        return 1;
    }
    memcpy((void *)(uintptr_t)la, &v, size);
    return 0;
}

uint64_t t0_read_bytes(struct t0_cpu *c, uint64_t la, void *buf, unsigned size,
                       unsigned seg)
{
    if (probe(c, la, size, false, seg)) {
        return 1;
    }
    memcpy(buf, (void *)(uintptr_t)la, size);
    return 0;
}

uint64_t t0_write_bytes(struct t0_cpu *c, uint64_t la, const void *buf, unsigned size,
                        unsigned seg)
{
    if (probe(c, la, size, true, seg)) {
        return 1;
    }
    memcpy((void *)(uintptr_t)la, buf, size);
    return 0;
}

uint64_t t0_probe_write(struct t0_cpu *c, uint64_t la, unsigned size, unsigned seg)
{
    return probe(c, la, size, true, seg);
}

struct t0_val t0_rmw_begin_slow(struct t0_cpu *c, uint64_t la, unsigned size,
                                unsigned seg)
{
    if (probe(c, la, size, true, seg)) {
        return (struct t0_val){0, 1};
    }
    memcpy(c->bounce, (void *)(uintptr_t)la, size);
    t.rmw.la = la;
    t.rmw.size = size;
    return (struct t0_val){(uint64_t)(uintptr_t)c->bounce, 0};
}

void t0_rmw_end_slow(struct t0_cpu *c)
{
    memcpy((void *)(uintptr_t)t.rmw.la, c->bounce, t.rmw.size);
}

struct t0_val t0_ea_slow(struct t0_cpu *c, const struct t0_op *op, unsigned size,
                         bool write)
{
    uint64_t off = t0_offset(c, op);
    const struct x86_segment *s = &c->s.seg[op->seg];
    if (op->ea == T0_EA_GENERAL) {
        off = (uint16_t)off;
    } else if (op->ea == T0_EA_GENERAL32) {
        off = (uint32_t)off;
    }
    if (s->limit && off + size - 1 > s->limit) {
        c->exc = (struct t0_exception){.vector = X86_EXC_GP, .has_error = true};
        return (struct t0_val){0, 1};
    }
    return (struct t0_val){off + c->seg_base[op->seg], 0};
}

static unsigned stack_width(const struct t0_cpu *c)
{
    return (c->mode & T0_MODE_SIZE) == T0_MODE_64 ? 8
           : c->mode & T0_MODE_STACK32            ? 4
                                                  : 2;
}

static uint64_t stack_address(const struct t0_cpu *c, uint64_t sp)
{
    unsigned width = stack_width(c);
    return c->seg_base[X86_SS] + (width == 8   ? sp
                                  : width == 4 ? (uint32_t)sp
                                               : (uint16_t)sp);
}

void t0_sp_add(struct t0_cpu *c, int64_t delta)
{
    uint64_t sp = c->gpr[X86_RSP] + (uint64_t)delta;
    switch (stack_width(c)) {
    case 8: c->gpr[X86_RSP] = sp; break;
    case 4: c->gpr[X86_RSP] = (uint32_t)sp; break;
    default: T0_W16(c, X86_RSP * 8, sp); break;
    }
}

uint64_t t0_push(struct t0_cpu *c, uint64_t v, unsigned size)
{
    if (t0_store(c, stack_address(c, c->gpr[X86_RSP] - size), v, size, X86_SS)) {
        return 1;
    }
    t0_sp_add(c, -(int64_t)size);
    return 0;
}

struct t0_val t0_pop_peek(struct t0_cpu *c, unsigned size)
{
    return t0_load(c, stack_address(c, c->gpr[X86_RSP]), size, X86_SS);
}

const struct t0_op *t0_fault(struct t0_cpu *c, const struct t0_op *op)
{
    t.faulted = true;
    return NULL;
}

const struct t0_op *t0_raise(struct t0_cpu *c, const struct t0_op *op, uint8_t vector)
{
    c->exc = (struct t0_exception){.vector = vector};
    return t0_fault(c, op);
}

const struct t0_op *t0_jump(struct t0_cpu *c, const struct t0_op *op, uint64_t rip)
{
    t.jumped = true;
    t.jump_rip = rip;
    return NULL;
}

uint64_t t0_pio_check(struct t0_cpu *c, uint16_t port, unsigned size)
{
    return 0;
}

struct t0_val t0_pio_in(struct t0_cpu *c, uint16_t port, unsigned size)
{
    t.nb_ports++;
    return (struct t0_val){t.port_value++ + port, 0};
}

uint64_t t0_pio_out(struct t0_cpu *c, uint16_t port, uint32_t v, unsigned size)
{
    t.nb_ports++;
    t.port_value = t.port_value * 31 + v + port;
    return 0;
}

/* --- One instruction by its handler ---------------------------------------- */

static const struct t0_op *leave(struct t0_cpu *c, const struct t0_op *op)
{
    return NULL;
}

static void flush_tlb(void)
{
    for (unsigned i = 0; i < T0_TLB_SIZE; i++) {
        t.cpu.tlb[i] = (struct t0_tlb_entry){T0_TLB_NONE, T0_TLB_NONE, 0};
    }
}

static unsigned mode_bits(unsigned mode)
{
    return mode == 64   ? T0_MODE_64 | T0_MODE_FLAT
           : mode == 32 ? T0_MODE_32 | T0_MODE_FLAT | T0_MODE_STACK32 | T0_MODE_PE
                        : T0_MODE_16;
}

/* As the core does before it asks the lowerings. */
static void lower_common(const struct x86_insn *i, const struct t0_lower *ctx,
                         struct t0_op *op)
{
    bool is64 = i->mode == 64, flat = ctx->mode & T0_MODE_FLAT;
    *op = (struct t0_op){
        .imm = i->imm,
        .disp = i->disp + (i->base == X86_REG_RIP ? i->len : 0),
        .base = i->base == X86_REG_NONE  ? T0_REG_ZERO
                : i->base == X86_REG_RIP ? T0_REG_RIP
                                         : i->base,
        .index = i->index == X86_REG_NONE ? T0_REG_ZERO : i->index,
        .shift = i->scale ? (uint8_t)__builtin_ctz(i->scale) : 0,
        .seg = i->seg,
        .next = i->len,
        .size = i->opsize,
    };
    bool based = i->seg == X86_FS || i->seg == X86_GS;
    op->ea = is64 && i->addrsize == 8             ? (based ? T0_EA_SEG64 : T0_EA_FLAT64)
             : i->addrsize == 4 && flat && !based ? T0_EA_FLAT32
             : i->addrsize == 4                   ? T0_EA_GENERAL32
                                                  : T0_EA_GENERAL;
}

static const t0_lower_fn lowerings[] = {t0_lower_mov, t0_lower_alu,    t0_lower_shift,
                                        t0_lower_bit, t0_lower_muldiv, t0_lower_string};

static bool lower(const struct x86_insn *i, bool flags_dead, struct t0_op *op)
{
    struct t0_lower ctx = {
        .c = &t.cpu, .mode = mode_bits(i->mode), .flags_dead = flags_dead};
    lower_common(i, &ctx, op);
    for (unsigned k = 0; k < G_N_ELEMENTS(lowerings); k++) {
        if (lowerings[k](i, &ctx, op)) {
            g_assert_nonnull(op->fn);
            return true;
        }
    }
    return false;
}

/* What both ways of executing start from and end with. */
struct result {
    uint64_t gpr[16];
    uint64_t rflags, rip;
    bool faulted;
    uint8_t vector;
    uint32_t error;
    uint64_t cr2;
};

static void set_flags(struct t0_cpu *c, uint64_t f)
{
    c->flags = (uint16_t)((f & 0xd7) << 8 | 0x0200 | (f >> 11 & 1));
    c->s.rflags = f & X86_FL_DF;
}

static uint64_t get_flags(const struct t0_cpu *c)
{
    return (c->flags >> 8 & 0xd5) | (uint64_t)(c->flags & 1) << 11 | c->s.rflags;
}

/* Execute @op at @rip, from and to @r. */
static void run_handler(const struct t0_op *op, unsigned mode, struct result *r)
{
    struct t0_cpu *c = &t.cpu;
    struct t0_op ops[2] = {*op, {.fn = leave}};

    memcpy(c->gpr, r->gpr, sizeof(r->gpr));
    c->gpr[T0_REG_ZERO] = 0;
    c->rip_base = r->rip;
    c->mode = (uint16_t)mode_bits(mode);
    c->exc = (struct t0_exception){0};
    set_flags(c, r->rflags);
    t.faulted = t.jumped = false;
    for (const struct t0_op *o = ops; o;) {
        o = o->fn(c, o);
    }
    memcpy(r->gpr, c->gpr, sizeof(r->gpr));
    r->rflags = get_flags(c);
    r->rip += t.faulted ? 0 : op->next;
    r->faulted = t.faulted;
    r->vector = c->exc.vector;
    r->error = c->exc.error;
    r->cr2 = c->exc.cr2;
}

/* --- One instruction by the processor -------------------------------------- */

/* Offsets are known to the assembly below. */
struct native {
    uint64_t gpr[16];  /* 0 */
    uint64_t rflags;   /* 128 */
    uint64_t rip;      /* 136 */
    uint64_t host_rsp; /* 144 */
    uint32_t far_off;  /* 152 */
    uint32_t far_sel;  /* 156 */
    volatile bool running;
    struct result *r;
};

struct native native;
void native_enter64(void);
void native_enter32(void);
void native_exit(void);
void native_out(void);

__asm__(".pushsection .text\n"
        "native_enter32:\n"
        "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "mov $0x2b, %eax; mov %eax, %ds; mov %eax, %es\n"
        "lea 1f(%rip), %rax\n"
        "jmp 3f\n"
        "native_enter64:\n"
        "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "lea 2f(%rip), %rax\n"
        "3: mov %rax, native_go(%rip)\n"
        "mov %rsp, native+144(%rip)\n"
        "pushq native+128(%rip); popfq\n"
        "mov native(%rip), %rax; mov native+8(%rip), %rcx\n"
        "mov native+16(%rip), %rdx; mov native+24(%rip), %rbx\n"
        "mov native+32(%rip), %rsp; mov native+40(%rip), %rbp\n"
        "mov native+48(%rip), %rsi; mov native+56(%rip), %rdi\n"
        "mov native+64(%rip), %r8; mov native+72(%rip), %r9\n"
        "mov native+80(%rip), %r10; mov native+88(%rip), %r11\n"
        "mov native+96(%rip), %r12; mov native+104(%rip), %r13\n"
        "mov native+112(%rip), %r14; mov native+120(%rip), %r15\n"
        "jmp *native_go(%rip)\n"
        "1: ljmp *native+152(%rip)\n"
        "2: jmp *native+136(%rip)\n"
        "native_exit:\n"
        "mov %rax, native(%rip); mov %rcx, native+8(%rip)\n"
        "mov %rdx, native+16(%rip); mov %rbx, native+24(%rip)\n"
        "mov %rsp, native+32(%rip); mov %rbp, native+40(%rip)\n"
        "mov %rsi, native+48(%rip); mov %rdi, native+56(%rip)\n"
        "mov %r8, native+64(%rip); mov %r9, native+72(%rip)\n"
        "mov %r10, native+80(%rip); mov %r11, native+88(%rip)\n"
        "mov %r12, native+96(%rip); mov %r13, native+104(%rip)\n"
        "mov %r14, native+112(%rip); mov %r15, native+120(%rip)\n"
        "mov native+144(%rip), %rsp\n"
        "pushfq; popq native+128(%rip)\n"
        "native_out:\n"
        "cld\n"
        "xor %eax, %eax; mov %eax, %ds; mov %eax, %es\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
        "ret\n"
        ".popsection\n"
        ".pushsection .bss\n"
        ".balign 8\n"
        "native_go: .skip 8\n"
        ".popsection\n");

static void on_signal(int sig, siginfo_t *info, void *opaque)
{
    static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                  REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                  REG_R12, REG_R13, REG_R14, REG_R15};
    ucontext_t *uc = opaque;
    greg_t *g = uc->uc_mcontext.gregs;
    if (!native.running) {
        signal(sig, SIG_DFL);
        return;
    }
    for (unsigned i = 0; i < 16; i++) {
        native.gpr[i] = (uint64_t)g[order[i]];
    }
    native.rflags = (uint64_t)g[REG_EFL];
    native.r->faulted = true;
    native.r->rip = (uint64_t)g[REG_RIP];
    native.r->vector = (uint8_t)g[REG_TRAPNO];
    native.r->error = (uint32_t)g[REG_ERR];
    native.r->cr2 = g[REG_TRAPNO] == X86_EXC_PF ? (uint64_t)g[REG_CR2] : 0;
    g[REG_RIP] = (greg_t)(uintptr_t)native_out;
    g[REG_RSP] = (greg_t)native.host_rsp;
    g[REG_CSGSFS] = (g[REG_CSGSFS] & ~(greg_t)0xffff) | 0x33;
    g[REG_EFL] = 0x202;
}

/* Execute @bytes at CODE, from and to @r. */
static void run_native(const uint8_t *bytes, unsigned len, unsigned mode,
                       struct result *r)
{
    uint8_t *code = (uint8_t *)(uintptr_t)CODE;
    uint64_t out = (uint64_t)(uintptr_t)native_exit;

    memcpy(code, bytes, len);
    if (mode == 64) { /* jmp [rip]; the address */
        memcpy(code + len, "\xff\x25\0\0\0\0", 6);
        memcpy(code + len + 6, &out, 8);
    } else { /* jmp 33h:CODE + 64, and there the same */
        uint32_t stub = (uint32_t)CODE + 64;
        code[len] = 0xea;
        memcpy(code + len + 1, &stub, 4);
        memcpy(code + len + 5, "\x33\0", 2);
        memcpy(code + 64, "\xff\x25\0\0\0\0", 6);
        memcpy(code + 70, &out, 8);
    }
    memcpy(native.gpr, r->gpr, sizeof(r->gpr));
    native.rflags = (r->rflags & FLAGS_MASK) | X86_FL_R1 | X86_FL_IF;
    native.rip = CODE;
    native.far_off = (uint32_t)CODE;
    native.far_sel = 0x23;
    native.r = r;
    r->rip = CODE + len;
    r->faulted = false;
    r->vector = 0;
    r->error = 0;
    r->cr2 = 0;
    native.running = true;
    if (mode == 64) {
        native_enter64();
    } else {
        native_enter32();
    }
    native.running = false;
    memcpy(r->gpr, native.gpr, sizeof(r->gpr));
    r->rflags = native.rflags & FLAGS_MASK;
}

static void setup(void)
{
    static uint8_t alt[65536];
    stack_t ss = {.ss_sp = alt, .ss_size = sizeof(alt)};
    struct sigaction sa = {.sa_sigaction = on_signal,
                           .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    static const int sigs[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};

    sigaltstack(&ss, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(sigs); i++) {
        sigaction(sigs[i], &sa, NULL);
    }
    void *p = mmap((void *)(uintptr_t)ARENA, NB_MAPPED * PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    void *q = mmap((void *)(uintptr_t)CODE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    g_assert_true(p == (void *)(uintptr_t)ARENA && q == (void *)(uintptr_t)CODE);
    syscall(SYS_arch_prctl, ARCH_SET_GS, GS_BASE);
    t.cpu.vcpu = &t.vcpu;
    t.cpu.tlb = t.cpu.banks[0];
    t.cpu.seg_base[X86_GS] = GS_BASE;
    flush_tlb();
}

/* --- Random instructions --------------------------------------------------- */

static uint64_t rng_state;

static uint64_t rnd(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state * UINT64_C(0x2545f4914f6cdd1d);
}

/* The same cases in every run, others with -m thorough. */
static void seed_rng(void)
{
    rng_state = UINT64_C(88172645463325252);
    if (g_test_thorough()) {
        rng_state ^= (uint64_t)(unsigned)g_test_rand_int() << 1;
    }
}

static uint64_t below(uint64_t n)
{
    return (rnd() >> 32) % n;
}

/* Values at which arithmetic has its edges, and any others. */
static uint64_t rnd_value(void)
{
    uint64_t one = UINT64_C(1) << below(64);
    switch (below(6)) {
    case 0: return below(4) - 2;
    case 1: return one - below(3) + 1;
    case 2: return -one + below(3) - 1;
    case 3: return below(256);
    default: return rnd();
    }
}

/* Where memory operands are: mostly inside pages, often over their borders. */
static uint64_t rnd_target(void)
{
    uint64_t kind = below(20);
    if (kind < 14) {
        return ARENA + 64 + below(2 * PAGE - 1024);
    }
    unsigned border = kind < 17 ? 1 : kind < 19 ? 2 : 3;
    return ARENA + border * PAGE - 20 + below(28);
}

struct test_case {
    const struct x86_desc *row;
    struct x86_insn insn;
    uint8_t bytes[16 + 8];
    unsigned mode;
};

/* The prefix state a row wants: 0, 66, F3 or F2. */
static uint8_t mandatory_prefix(uint32_t allow)
{
    bool np = allow & X86_A_NP, p66 = allow & X86_A_66;
    if (np) {
        return p66 && below(3) == 0 ? 0x66 : 0;
    }
    return p66 ? 0x66 : allow & X86_A_F3 ? 0xf3 : 0xf2;
}

static unsigned put_vex(uint8_t *p, const struct x86_desc *row, unsigned mode)
{
    uint8_t prefix = mandatory_prefix(row->allow);
    unsigned pp = prefix == 0x66 ? 1 : prefix == 0xf3 ? 2 : prefix == 0xf2 ? 3 : 0;
    unsigned n = 0;
    p[n++] = 0xc4;
    p[n++] =
        (uint8_t)((mode == 64 ? rnd() & 0xe0 : 0xe0) | (row->map - X86_MAP_VEX1 + 1));
    p[n++] = (uint8_t)((rnd() & 0x80) |
                       (mode == 64 ? rnd() & 0x78 : 0x40 | (rnd() & 0x38)) | pp);
    return n;
}

static unsigned put_legacy(uint8_t *p, const struct x86_desc *row, unsigned mode)
{
    uint8_t prefix = mandatory_prefix(row->allow);
    unsigned n = 0;
    if ((row->props & X86_D_LOCK) && below(3) == 0) {
        p[n++] = 0xf0;
    }
    if (row->cls == X86_CLASS_STRING && below(3)) {
        p[n++] = below(2) ? 0xf3 : 0xf2;
    }
    if (mode == 64 && below(8) == 0) {
        p[n++] = 0x65;
    }
    if (prefix) {
        p[n++] = prefix;
    }
    if (mode == 64 && below(2)) {
        p[n++] = 0x40 | (rnd() & 15);
    }
    if (row->map != X86_MAP_ONE) {
        p[n++] = 0x0f;
    }
    if (row->map == X86_MAP_0F38 || row->map == X86_MAP_0F3A) {
        p[n++] = row->map == X86_MAP_0F38 ? 0x38 : 0x3a;
    }
    return n;
}

static uint8_t rnd_modrm(const struct x86_desc *row)
{
    uint8_t m = (uint8_t)rnd();
    bool mem = row->allow & X86_A_MEM, reg = row->allow & X86_A_REG;
    if (reg && (!mem || below(2))) {
        m |= 0xc0;
    } else if (m >= 0xc0) {
        m &= 0x7f;
    }
    return (uint8_t)((m & ~row->modrm_mask) | (row->modrm & row->modrm_mask));
}

/* Some encoding of row @i in @mode. */
static bool make_case(unsigned i, unsigned mode, struct test_case *k)
{
    k->row = x86_desc_get(i);
    k->mode = mode;
    if (!(k->row->allow & (mode == 64 ? X86_A_64 : X86_A_32))) {
        return false;
    }
    for (unsigned tries = 0; tries < 400; tries++) {
        unsigned n = 0;
        if (below(10) == 0) {
            k->bytes[n++] = 0x67;
        }
        n += k->row->map >= X86_MAP_VEX1 ? put_vex(k->bytes + n, k->row, mode)
                                         : put_legacy(k->bytes + n, k->row, mode);
        k->bytes[n++] = (uint8_t)(k->row->opcode + below(k->row->nb_opcode));
        if (k->row->has_modrm) {
            k->bytes[n++] = rnd_modrm(k->row);
        }
        for (; n < sizeof(k->bytes); n++) {
            k->bytes[n] = (uint8_t)rnd();
        }
        if (x86_decode(&k->insn, k->bytes, 15, mode) > 0 && k->insn.desc == i) {
            return true;
        }
    }
    return false;
}

static void patch(struct test_case *k, unsigned at, int64_t v, unsigned size)
{
    memcpy(k->bytes + at, &v, size);
    g_assert_cmpint(x86_decode(&k->insn, k->bytes, 15, k->mode), >, 0);
}

/* Make the memory operand reach @target: by its base register, else by its
 * displacement. False: it cannot. */
static bool aim(struct test_case *k, uint64_t target, uint64_t gpr[16])
{
    struct x86_insn *i = &k->insn;
    unsigned disp_at = i->len - i->imm_size - i->disp_size;
    uint64_t off = target - (i->seg == X86_GS ? GS_BASE : 0);

    if (i->addrsize == 2 || i->base == i->index) {
        return i->addrsize != 2 && i->base == X86_REG_NONE && i->disp_size >= 4
                   ? (patch(k, disp_at, (int64_t)off, i->disp_size), true)
                   : false;
    }
    if (i->disp_size == 4 && i->base < 16) {
        patch(k, disp_at, (int16_t)rnd(), 4);
    }
    if (i->index != X86_REG_NONE) {
        gpr[i->index] = below(200) - 100;
        off -= gpr[i->index] * i->scale;
        if (i->addrsize == 4) {
            gpr[i->index] =
                k->mode == 64 ? gpr[i->index] ^ rnd() << 32 : (uint32_t)gpr[i->index];
        }
    }
    if (i->base < 16) {
        gpr[i->base] = off - (uint64_t)i->disp;
        if (i->addrsize == 4) {
            gpr[i->base] =
                k->mode == 64 ? gpr[i->base] ^ rnd() << 32 : (uint32_t)gpr[i->base];
        }
    } else if (i->base == X86_REG_RIP) {
        patch(k, disp_at, (int64_t)(off - CODE - i->len), 4);
    } else {
        patch(k, disp_at, (int64_t)off, i->disp_size);
    }
    return true;
}

/* Registers that make the instruction do something rather than fault. */
static void set_registers(struct test_case *k, struct result *r, uint64_t target)
{
    uint64_t mask = k->mode == 64 ? UINT64_MAX : UINT32_MAX;
    const struct x86_insn *i = &k->insn;
    uint64_t seg = i->seg == X86_GS ? GS_BASE : 0;

    if (k->row->props & X86_D_STACK) {
        r->gpr[X86_RSP] = rnd_target() & (below(2) ? ~7ull : ~0ull);
        r->gpr[X86_RBP] = rnd_target();
    }
    switch (i->op) {
    case X86_OP_DIV:
    case X86_OP_IDIV:
        if (below(3)) {
            bool neg = i->op == X86_OP_IDIV && below(2);
            r->gpr[X86_RDX] = neg ? UINT64_MAX : below(2) ? 0 : below(1000);
        }
        break;
    case X86_OP_BT:
    case X86_OP_BTS:
    case X86_OP_BTR:
    case X86_OP_BTC:
        if (i->opnd[1].kind == X86_OPND_REG && below(10)) {
            r->gpr[i->opnd[1].reg & 15] = below(4096) - 2048;
        }
        break;
    case X86_OP_XLAT: r->gpr[X86_RBX] = target - seg; break;
    case X86_OP_CLZERO: r->gpr[X86_RAX] = target - seg; break;
    case X86_OP_CMPXCHG8B:
    case X86_OP_CMPXCHG16B:
    case X86_OP_CMPXCHG:
        if (below(2)) { /* so that it is equal at times */
            unsigned size = i->op == X86_OP_CMPXCHG16B  ? 8
                            : i->op == X86_OP_CMPXCHG8B ? 4
                                                        : 8;
            if (page_ok(target, false) && page_ok(target + 15, false)) {
                memcpy(&r->gpr[X86_RAX], (void *)(uintptr_t)target, size);
                memcpy(&r->gpr[X86_RDX], (void *)(uintptr_t)(target + size), size);
            }
        }
        break;
    default: break;
    }
    if (k->row->cls == X86_CLASS_STRING) {
        uint64_t high = i->addrsize == 4 && k->mode == 64 ? rnd() << 32 : 0;
        r->gpr[X86_RSI] = (target - seg) ^ high;
        r->gpr[X86_RDI] = (below(2) ? rnd_target() : target + below(40) - 20) ^ high;
        r->gpr[X86_RCX] = below(3) == 0 ? below(2000) : below(20);
        r->gpr[X86_RCX] ^= high;
    }
    for (unsigned n = 0; n < 16; n++) {
        r->gpr[n] &= mask;
    }
}

/* --- Comparison ------------------------------------------------------------ */

static uint8_t template[4 * PAGE], after_native[NB_MAPPED * PAGE];

static void fill_template(void)
{
    for (unsigned i = 0; i < sizeof(template); i += 8) {
        uint64_t v = rnd_value();
        memcpy(template + i, &v, 8);
    }
}

static uint8_t *arena(void)
{
    return (uint8_t *)(uintptr_t)ARENA;
}

/* The read-only page always holds the same. */
static void reset_arena(uint64_t off)
{
    memcpy(arena(), template + off, 2 * PAGE);
}

static bool is_locked(const struct x86_insn *i)
{
    return (i->prefixes & X86_P_LOCK) || i->op == X86_OP_XCHG;
}

static void explain(const struct test_case *k, const struct result *from,
                    const struct result *want, const struct result *got,
                    const char *what)
{
    char text[128];
    GString *s = g_string_new(NULL);
    x86_format(&k->insn, CODE, text, sizeof(text));
    g_string_append_printf(s, "%u-bit: %s: %s differ;", k->mode, text, what);
    for (unsigned i = 0; i < 16; i++) {
        if (want->gpr[i] != got->gpr[i] || i < 2) {
            g_string_append_printf(s, " %s: %lx -> %lx, not %lx;", x86_gpr_name(i, 8),
                                   from->gpr[i], want->gpr[i], got->gpr[i]);
        }
    }
    g_string_append_printf(s, " flags %lx -> %lx, not %lx; rip %lx, not %lx;",
                           from->rflags, want->rflags, got->rflags, want->rip,
                           got->rip);
    g_string_append_printf(s, " fault %d:%u err %x at %lx, not %d:%u err %x at %lx",
                           want->faulted, want->vector, want->error, want->cr2,
                           got->faulted, got->vector, got->error, got->cr2);
    g_test_message("%s", s->str);
    g_string_free(s, true);
}

static const char *difference(const struct test_case *k, const struct result *want,
                              const struct result *got, bool flags)
{
    if (want->faulted != got->faulted ||
        (want->faulted && (want->vector != got->vector || want->cr2 != got->cr2))) {
        return "faults";
    }
    /* After a fault in its middle the processor has written some of POPA's registers;
     * the handler none. */
    if (memcmp(want->gpr, got->gpr, sizeof(want->gpr)) != 0 &&
        !(k->insn.op == X86_OP_POPA && want->faulted)) {
        return "registers";
    }
    if (want->rip != got->rip) {
        return "rip";
    }
    if (flags && (want->rflags != got->rflags)) {
        return "flags";
    }
    return memcmp(after_native, arena(), 2 * PAGE) == 0 ? NULL : "memory";
}

enum outcome { EQUAL, DIFFERENT, SKIPPED };

static enum outcome run_case(struct test_case *k)
{
    struct result from = {.rip = CODE}, want, got;
    struct t0_op op;
    uint64_t target = rnd_target(), off = below(2 * PAGE) & ~7ull;

    if (is_locked(&k->insn) || k->insn.op == X86_OP_CMPXCHG16B) {
        target &= k->insn.op == X86_OP_CMPXCHG16B && below(8) ? ~15ull : ~7ull;
    }
    for (unsigned i = 0; i < 16; i++) {
        from.gpr[i] = rnd_value();
    }
    from.rflags = rnd() & X86_FL_ARITH;
    if (k->row->cls == X86_CLASS_STRING && below(3) == 0) {
        from.rflags |= X86_FL_DF;
    }
    reset_arena(off);
    if (k->insn.op == X86_OP_ENTER) {
        patch(k, k->insn.len - 3u, (int64_t)below(300) | (int64_t)below(34) << 16, 3);
    }
    set_registers(k, &from, target);
    if (x86_insn_mem(&k->insn) && k->insn.op != X86_OP_LEA &&
        !aim(k, target, from.gpr)) {
        return SKIPPED;
    }
    if (!lower(&k->insn, false, &op)) {
        return SKIPPED;
    }

    want = from;
    run_native(k->bytes, k->insn.len, k->mode, &want);
    if (want.faulted && want.vector == X86_EXC_UD) {
        return SKIPPED; /* this processor has no such instruction */
    }
    memcpy(after_native, arena(), 2 * PAGE);
    for (unsigned dead = 0; dead < 2; dead++) {
        reset_arena(off);
        if (below(2)) {
            flush_tlb();
        }
        lower(&k->insn, dead, &op);
        got = from;
        run_handler(&op, k->mode, &got);
        const char *what = difference(k, &want, &got, !dead);
        if (what) {
            explain(k, &from, &want, &got, what);
            return DIFFERENT;
        }
    }
    return EQUAL;
}

/* What the core's files lower. */
static bool is_others(const struct x86_insn *i)
{
    static const uint16_t ops[] = {
        X86_OP_PUSHF,  X86_OP_POPF,  X86_OP_CPUID,     X86_OP_RDTSC,
        X86_OP_LAR,    X86_OP_LSL,   X86_OP_SERIALIZE, X86_OP_RDPID,
        X86_OP_RDPRU,  X86_OP_ARPL,  X86_OP_LDS,       X86_OP_LES,
        X86_OP_LFS,    X86_OP_LGS,   X86_OP_LSS,       X86_OP_RDRAND,
        X86_OP_RDSEED, X86_OP_PAUSE, X86_OP_CLFLUSH,   X86_OP_CLFLUSHOPT,
        X86_OP_CLWB,
    };
    for (unsigned n = 0; n < G_N_ELEMENTS(ops); n++) {
        if (i->op == ops[n]) {
            return true;
        }
    }
    return i->opnd[0].kind == X86_OPND_SEG || i->opnd[1].kind == X86_OPND_SEG;
}

static bool is_ours(const struct x86_desc *row)
{
    return row->cls == X86_CLASS_INT || row->cls == X86_CLASS_STRING;
}

/* Ports are not for processes. */
static bool is_incomparable(unsigned op)
{
    return op == X86_OP_INS || op == X86_OP_OUTS;
}

#define CASES_PER_ROW (g_test_thorough() ? 12000u : 1200u)

static void test_native(const void *opaque)
{
    unsigned mode = GPOINTER_TO_UINT(opaque), rows = 0, bad_rows = 0;
    uint64_t equal = 0, skipped = 0;

    seed_rng();
    fill_template();
    memcpy(arena() + 2 * PAGE, template, PAGE);
    mprotect(arena() + 2 * PAGE, PAGE, PROT_READ);
    for (unsigned i = 0; i < x86_desc_count(); i++) {
        const struct x86_desc *row = x86_desc_get(i);
        struct test_case k = {0};
        if (!is_ours(row) || is_incomparable(row->op) || !make_case(i, mode, &k) ||
            is_others(&k.insn)) {
            continue;
        }
        unsigned row_equal = 0, bad = 0;
        for (unsigned n = 0; n < CASES_PER_ROW && bad < 3; n++) {
            if (!make_case(i, mode, &k)) {
                continue;
            }
            enum outcome o = run_case(&k);
            row_equal += o == EQUAL;
            skipped += o == SKIPPED;
            bad += o == DIFFERENT;
        }
        equal += row_equal;
        rows++;
        bad_rows += bad > 0;
        if (row_equal == 0 && !bad) {
            g_test_message("not compared: %s %02x", x86_op_name(row->op), row->opcode);
        }
    }
    mprotect(arena() + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE);
    g_test_message("%u rows, %lu equal cases, %lu skipped", rows, equal, skipped);
    g_assert_cmpuint(bad_rows, ==, 0);
    g_assert_cmpuint(rows, >, mode == 64 ? 200 : 180);
}

/* No encoding that the decoder lets through is without a handler. */
static void test_every_form(const void *opaque)
{
    static const unsigned modes[] = {16, 32, 64};
    unsigned missing = 0;

    seed_rng();
    for (unsigned i = 0; i < x86_desc_count(); i++) {
        const struct x86_desc *row = x86_desc_get(i);
        for (unsigned m = 0; m < G_N_ELEMENTS(modes) && is_ours(row); m++) {
            struct test_case k = {0};
            unsigned found = 0;
            for (unsigned n = 0; n < 100 && !found; n++) {
                struct t0_op op;
                if (make_case(i, modes[m], &k) && !is_others(&k.insn) &&
                    !(lower(&k.insn, n & 1, &op) && lower(&k.insn, !(n & 1), &op))) {
                    char text[128];
                    x86_format(&k.insn, 0, text, sizeof(text));
                    g_test_message("%u-bit: no handler: %s", modes[m], text);
                    missing++;
                    found = 1;
                }
            }
        }
    }
    g_assert_cmpuint(missing, ==, 0);
}

/* --- What random cases do not reach ---------------------------------------- */

static struct test_case case_of(const char *hex, unsigned mode)
{
    struct test_case k = {.mode = mode};
    unsigned n = 0;
    for (const char *p = hex; *p; p += p[2] ? 3 : 2) {
        k.bytes[n++] =
            (uint8_t)(g_ascii_xdigit_value(p[0]) * 16 + g_ascii_xdigit_value(p[1]));
    }
    g_assert_cmpint(x86_decode(&k.insn, k.bytes, n, mode), ==, (int)n);
    k.row = x86_insn_desc(&k.insn);
    return k;
}

static void handle(const struct test_case *k, struct result *r)
{
    struct t0_op op;
    g_assert_true(lower(&k->insn, false, &op));
    r->rip = CODE;
    run_handler(&op, k->mode, r);
}

/* Quotients at the border of what fits, natively and by the handler. */
static void test_div_edges(const void *opaque)
{
    static const char *const insns[] = {"f6 f3", "66 f7 f3", "f7 f3", "48 f7 f3",
                                        "f6 fb", "66 f7 fb", "f7 fb", "48 f7 fb"};
    static const uint64_t values[] = {0,
                                      1,
                                      2,
                                      0x7f,
                                      0x80,
                                      0x81,
                                      0xff,
                                      0x7fff,
                                      0x8000,
                                      0xffff,
                                      0x7f80,
                                      0xff80,
                                      0x7fffffff,
                                      0x80000000,
                                      0xffffffff,
                                      INT64_MAX,
                                      1ull << 63,
                                      UINT64_MAX,
                                      UINT64_MAX - 1,
                                      UINT64_C(0x8000000000000001)};
    unsigned traps = 0, nb = 0;

    reset_arena(0);
    memcpy(after_native, arena(), 2 * PAGE);
    for (unsigned i = 0; i < G_N_ELEMENTS(insns); i++) {
        struct test_case k = case_of(insns[i], 64);
        for (unsigned v = 0; v < 20 * 20 * 20; v++) {
            struct result from = {.rip = CODE}, want, got;
            from.gpr[X86_RAX] = values[v % 20];
            from.gpr[X86_RDX] = values[v / 20 % 20];
            from.gpr[X86_RBX] = values[v / 400];
            want = got = from;
            run_native(k.bytes, k.insn.len, 64, &want);
            handle(&k, &got);
            const char *what = difference(&k, &want, &got, true);
            if (what) {
                explain(&k, &from, &want, &got, what);
            }
            g_assert_null(what);
            traps += want.faulted;
            nb++;
        }
    }
    g_assert_cmpuint(traps, >, 1000);
    g_assert_cmpuint(nb - traps, >, 1000);
}

/* LOCKed operations over a page border: natively they would lock the bus, so the
 * results are written here. RBX = 0x11, RAX = 5, memory = 5. */
static void test_locked_crossing(const void *opaque)
{
    static const struct {
        const char *hex;
        uint64_t memory, rbx;
    } cases[] = {
        {"f0 48 01 1f", 0x16, 0x11},       /* lock add [rdi], rbx */
        {"f0 48 83 2f 01", 4, 0x11},       /* lock sub [rdi], 1 */
        {"f0 48 0f c1 1f", 0x16, 5},       /* lock xadd [rdi], rbx */
        {"f0 48 0f b1 1f", 0x11, 0x11},    /* lock cmpxchg [rdi], rbx */
        {"f0 48 ff 07", 6, 0x11},          /* lock inc [rdi] */
        {"f0 48 f7 17", ~5ull, 0x11},      /* lock not [rdi] */
        {"f0 48 0f ba 2f 04", 0x15, 0x11}, /* lock bts [rdi], 4 */
        {"48 87 1f", 0x11, 5},             /* xchg [rdi], rbx */
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct test_case k = case_of(cases[i].hex, 64);
        for (unsigned border = 1; border <= 3; border++) {
            uint64_t five = 5, at = ARENA + border * PAGE - 3, now;
            struct result r = {0};
            memcpy((void *)(uintptr_t)at, &five, border == 3 ? 3 : 8);
            r.gpr[X86_RDI] = at;
            r.gpr[X86_RBX] = 0x11;
            r.gpr[X86_RAX] = 5;
            handle(&k, &r);
            /* Page 2 cannot be written and page 3 is absent: nothing changes. */
            g_assert_cmpint(r.faulted, ==, border > 1);
            if (border > 1) {
                g_assert_cmpuint(r.cr2, ==, border == 2 ? ARENA + 2 * PAGE : at);
                g_assert_cmpint(memcmp((void *)(uintptr_t)at, "\5\0", 3), ==, 0);
            } else {
                memcpy(&now, (void *)(uintptr_t)at, 8);
                g_assert_cmpuint(now, ==, cases[i].memory);
            }
            g_assert_cmpuint(r.gpr[X86_RBX], ==, border > 1 ? 0x11 : cases[i].rbx);
        }
    }
}

/* rep movsb over three pages, interrupted whenever it looks: as one native run. */
static void test_rep_interrupted(const void *opaque)
{
    struct test_case k = case_of("f3 a4", 64);
    struct result r = {.rip = CODE}, want;
    unsigned runs = 0;

    reset_arena(0);
    r.gpr[X86_RSI] = ARENA + 5;
    r.gpr[X86_RDI] = ARENA + PAGE / 2 + 3; /* overlaps: the pattern repeats */
    r.gpr[X86_RCX] = PAGE;
    want = r;
    run_native(k.bytes, k.insn.len, 64, &want);
    memcpy(after_native, arena(), 2 * PAGE);
    reset_arena(0);
    atomic_store(&t.vcpu.attention, 1);
    do {
        uint64_t left = r.gpr[X86_RCX];
        handle(&k, &r);
        g_assert_false(r.faulted);
        g_assert_cmpuint(r.gpr[X86_RCX], <, left);
        if (t.jumped) {
            g_assert_cmpuint(t.jump_rip, ==, CODE);
        }
        runs++;
    } while (t.jumped);
    atomic_store(&t.vcpu.attention, 0);
    g_assert_cmpuint(runs, >, 2);
    g_assert_null(difference(&k, &want, &r, true));
}

/* With TF set every element is an instruction of its own. */
static void test_rep_single_step(const void *opaque)
{
    struct test_case k = case_of("f3 48 ab", 64); /* rep stosq */
    struct result r = {0};
    struct t0_op op;

    r.gpr[X86_RDI] = ARENA + 8;
    r.gpr[X86_RCX] = 3;
    for (unsigned left = 3; left-- > 0;) {
        g_assert_true(lower(&k.insn, false, &op));
        struct t0_op ops[2] = {op, {.fn = leave}};
        struct t0_cpu *c = &t.cpu;
        memcpy(c->gpr, r.gpr, sizeof(r.gpr));
        c->s.rflags = X86_FL_TF;
        t.jumped = false;
        for (const struct t0_op *o = ops; o;) {
            o = o->fn(c, o);
        }
        memcpy(r.gpr, c->gpr, sizeof(r.gpr));
        g_assert_cmpuint(r.gpr[X86_RCX], ==, left);
        g_assert_cmpint(t.jumped, ==, left > 0);
    }
}

/* A fault leaves a REP that goes on when its page has come. */
static void test_rep_fault(const void *opaque)
{
    struct test_case k = case_of("f3 66 a5", 64); /* rep movsw */
    struct result r = {0};

    reset_arena(0);
    r.gpr[X86_RSI] = ARENA;
    r.gpr[X86_RDI] = ARENA + 2 * PAGE - 101;
    r.gpr[X86_RCX] = 200;
    handle(&k, &r);
    g_assert_true(r.faulted);
    g_assert_cmpuint(r.vector, ==, X86_EXC_PF);
    g_assert_cmpuint(r.cr2, ==, ARENA + 2 * PAGE);
    g_assert_cmpuint(r.gpr[X86_RCX], ==, 150);
    g_assert_cmpuint(r.gpr[X86_RSI], ==, ARENA + 100);
    g_assert_cmpuint(r.gpr[X86_RDI], ==, ARENA + 2 * PAGE - 1);
    g_assert_cmpint(memcmp(arena(), arena() + 2 * PAGE - 101, 100), ==, 0);
    r.gpr[X86_RDI] = ARENA + PAGE; /* as if the page were there now */
    handle(&k, &r);
    g_assert_false(r.faulted);
    g_assert_cmpuint(r.gpr[X86_RCX], ==, 0);
    g_assert_cmpint(memcmp(arena() + 100, arena() + PAGE, 300), ==, 0);
}

/* 16-bit addresses wrap at 64 KiB inside the segment, and limits hold. */
static void test_string_16(const void *opaque)
{
    struct test_case k = case_of("f3 aa", 16); /* rep stosb */
    struct result r = {0};

    t.cpu.seg_base[X86_ES] = ARENA - 0xf800; /* offset F800 is the arena's start */
    memset(arena(), 0, 2 * PAGE);
    r.gpr[X86_RAX] = 0x77;
    r.gpr[X86_RCX] = 0x12340010;
    r.gpr[X86_RDI] = 0xabcdfff8;
    handle(&k, &r);
    /* Eight bytes up to FFFF, and offset 0 is below the arena. */
    g_assert_true(r.faulted);
    g_assert_cmpuint(r.gpr[X86_RCX], ==, 0x12340008);
    g_assert_cmpuint(r.gpr[X86_RDI], ==, 0xabcd0000);
    g_assert_cmpuint(r.cr2, ==, ARENA - 0xf800);
    g_assert_cmpint(arena()[0x7f7], ==, 0);
    g_assert_cmpint(arena()[0x7f8], ==, 0x77);
    g_assert_cmpint(arena()[0x7ff], ==, 0x77);
    g_assert_cmpint(arena()[0x800], ==, 0);

    t.cpu.s.seg[X86_ES].limit = 0xf8ff;
    r = (struct result){0};
    r.gpr[X86_RCX] = 0x20;
    r.gpr[X86_RDI] = 0xf8f0;
    handle(&k, &r);
    g_assert_true(r.faulted);
    g_assert_cmpuint(r.vector, ==, X86_EXC_GP);
    g_assert_cmpuint(r.gpr[X86_RCX], ==, 0x10);
    t.cpu.s.seg[X86_ES].limit = 0;
    t.cpu.seg_base[X86_ES] = 0;
}

static void test_ports(const void *opaque)
{
    struct test_case ins = case_of("f3 66 6d", 64); /* rep insw */
    struct test_case outs = case_of("6e", 64);      /* outsb */
    struct result r = {0};
    uint16_t words[4];

    t.port_value = 0;
    t.nb_ports = 0;
    r.gpr[X86_RDX] = 0x1f0;
    r.gpr[X86_RCX] = 300;
    r.gpr[X86_RDI] = ARENA + 2 * PAGE - 8; /* four words, then no more */
    handle(&ins, &r);
    g_assert_true(r.faulted);
    g_assert_cmpuint(t.nb_ports, ==, 4); /* the fifth was not read from the port */
    g_assert_cmpuint(r.gpr[X86_RCX], ==, 296);
    memcpy(words, arena() + 2 * PAGE - 8, 8);
    g_assert_cmpuint(words[0], ==, 0x1f0);
    g_assert_cmpuint(words[3], ==, 0x1f3);

    r = (struct result){0};
    r.gpr[X86_RDX] = 0x80;
    r.gpr[X86_RSI] = ARENA + 2 * PAGE - 8;
    t.port_value = 0;
    handle(&outs, &r);
    g_assert_cmpuint(t.port_value, ==, 0xf0 + 0x80);
    g_assert_cmpuint(r.gpr[X86_RSI], ==, ARENA + 2 * PAGE - 7);
    r.gpr[X86_RSI] = ARENA + 3 * PAGE;
    handle(&outs, &r);
    g_assert_true(r.faulted);
    g_assert_cmpuint(t.nb_ports, ==, 5);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    setup();
    g_test_add_data_func("/t0/int/every_form_has_a_handler", NULL, test_every_form);
    g_test_add_data_func("/t0/int/as_the_processor_64", GUINT_TO_POINTER(64),
                         test_native);
    g_test_add_data_func("/t0/int/as_the_processor_32", GUINT_TO_POINTER(32),
                         test_native);
    g_test_add_data_func("/t0/int/div_edges", NULL, test_div_edges);
    g_test_add_data_func("/t0/int/locked_over_a_page_border", NULL,
                         test_locked_crossing);
    g_test_add_data_func("/t0/int/rep_interrupted", NULL, test_rep_interrupted);
    g_test_add_data_func("/t0/int/rep_single_step", NULL, test_rep_single_step);
    g_test_add_data_func("/t0/int/rep_fault", NULL, test_rep_fault);
    g_test_add_data_func("/t0/int/string_16", NULL, test_string_16);
    g_test_add_data_func("/t0/int/ports", NULL, test_ports);
    return g_test_run();
}
