#include "vmm/accel/bt/t1_priv.h"

#include "lib/base/base.h"

/*
 * The glue between translations and C: entering and leaving, and calls out of them with
 * the guest's registers put into the vCPU's state before and taken from it after. See
 * t1.h, and t1_code.c for what is called.
 */

static const uint8_t callee_saved[] = {X86_RBX, X86_RBP, X86_R12,
                                       X86_R13, X86_R14, X86_R15};

static void push_host(struct t1_emit *e, unsigned reg, bool pop)
{
    struct t1_enc x = {.opcode = (uint8_t)((pop ? 0x58 : 0x50) | (reg & 7))};
    t1_opcode(e, &x, reg >> 3);
}

/* All vector registers to or from the vCPU's state. */
static void put_vectors(struct t1_emit *e, int32_t above, bool store)
{
    for (unsigned n = 0; n < 16; n++) {
        struct t1_mem m = t1_field(offsetof(struct t0_cpu, s.fpu.ymm) + 32 * (size_t)n);
        m.disp += above;
        t1_vex(e, 1, false, 0, true, (n >> 3 & 1) << 2, 0, store ? 0x11 : 0x10);
        t1_modrm_mem(e, n, m);
    }
}

/* A field that is 0 or 1. */
static struct t1_mem flag_at(size_t off, int32_t above)
{
    struct t1_mem m = t1_field(off);
    m.disp += above;
    return m;
}

static void put_flag_set(struct t1_emit *e, struct t1_mem m, unsigned v)
{
    t1_op_mem(e, &(struct t1_enc){.opcode = 0xc6}, 0, m);
    t1_u8(e, v);
}

/* Compare with 0, and jump with condition @cc. */
static uint32_t put_flag_jump(struct t1_emit *e, struct t1_mem m, unsigned cc)
{
    t1_op_mem(e, &(struct t1_enc){.opcode = 0x80}, 7, m);
    t1_u8(e, 0);
    return t1_jcc(e, cc, 0);
}

/* Flags and registers to the vCPU's state; RAX is changed. @above: what lies between
 * rsp and where it is in translations. */
static void put_spill(struct t1_emit *e, int32_t above)
{
    for (unsigned i = 0; i < X86_NB_GPR; i++) {
        struct t1_mem m = T1_GPR(i);
        m.disp += above;
        if (t1_home[i] != T1_MEMORY) {
            t1_store(e, m, t1_home[i]);
        }
    }
    struct t1_mem m = T1_FIELD(insns);
    m.disp += above;
    t1_store(e, m, T1_COUNT);
    m = T1_FIELD(flags);
    m.disp += above;
    t1_u8(e, 0x9f);                                                       /* lahf */
    t1_op_reg(e, &(struct t1_enc){.map = 1, .opcode = 0x90}, 0, X86_RAX); /* seto al */
    t1_op_mem(e, &(struct t1_enc){.p66 = 0x66, .opcode = 0x89}, X86_RAX, m);
    struct t1_mem away = flag_at(offsetof(struct t0_cpu, t1.vec_away), above);
    uint32_t over = put_flag_jump(e, away, 5); /* jne */
    put_vectors(e, above, true);
    t1_u8(e, 0xc5); /* vzeroupper */
    t1_u8(e, 0xf8);
    t1_u8(e, 0x77);
    put_flag_set(e, away, 1);
    t1_set_rel32(e, over, t1_pos(e));
}

/* The vector registers come back where t1_do_step() said so. */
static void put_wanted(struct t1_emit *e, int32_t above)
{
    struct t1_mem want = flag_at(offsetof(struct t0_cpu, t1.vec_want), above);
    uint32_t over = put_flag_jump(e, want, 4); /* je */
    put_vectors(e, above, false);
    put_flag_set(e, want, 0);
    put_flag_set(e, flag_at(offsetof(struct t0_cpu, t1.vec_away), above), 0);
    t1_set_rel32(e, over, t1_pos(e));
}

static void put_reload(struct t1_emit *e, int32_t above)
{
    struct t1_mem m = T1_FIELD(flags);
    m.disp += above;
    t1_op_mem(e, &(struct t1_enc){.map = 1, .opcode = 0xb7}, X86_RAX, m); /* movzx */
    t1_u8(e, 0x04); /* add al, 0x7f: OF */
    t1_u8(e, 0x7f);
    t1_u8(e, 0x9e); /* sahf */
    m = T1_FIELD(insns);
    m.disp += above;
    t1_load(e, T1_COUNT, m);
    for (unsigned i = 0; i < X86_NB_GPR; i++) {
        m = T1_GPR(i);
        m.disp += above;
        if (t1_home[i] != T1_MEMORY) {
            t1_load(e, t1_home[i], m);
        }
    }
}

/* Call @fn(c, ecx, r10d) on the thread's stack, after put_spill(). rbx is kept. */
static void put_c_call(struct t1_emit *e, void *fn, int32_t above)
{
    struct t1_mem c = t1_field(0), sp = T1_FIELD(t1.host_sp);
    c.disp += above;
    sp.disp += above;
    t1_mov_rr32(e, X86_RSI, T1_RCX);
    t1_mov_rr32(e, X86_RDX, T1_S1);
    t1_lea(e, X86_RDI, c);
    t1_mov_rr(e, X86_RBX, T1_SP);
    t1_load(e, T1_SP, sp);
    t1_mov_ri(e, X86_RAX, (int64_t)(uintptr_t)fn);
    t1_op_reg(e, &(struct t1_enc){.opcode = 0xff}, 2, X86_RAX); /* call rax */
    t1_mov_rr(e, T1_SP, X86_RBX);
    t1_op_reg(e, &(struct t1_enc){.w = true, .opcode = 0x85}, X86_RAX, X86_RAX);
}

/* The guest's state is where it belongs: return NULL to who called glue_enter. */
static void put_return(struct t1_emit *e, int32_t above)
{
    struct t1_mem sp = T1_FIELD(t1.host_sp);
    sp.disp += above;
    t1_load(e, T1_SP, sp);
    t1_mov_ri(e, X86_RAX, 0);
    for (unsigned i = ARRAY_LEN(callee_saved); i-- > 0;) {
        push_host(e, callee_saved[i], true);
    }
    /* The argument slot that keeps the stack aligned. */
    push_host(e, X86_RCX, true);
    t1_u8(e, 0xc3);
}

/* After put_c_call(): go to the code in rax, or return when there is none. */
static void put_go_or_return(struct t1_emit *e)
{
    uint32_t some = t1_jcc(e, 5, 0); /* jnz */
    put_return(e, 0);
    t1_set_rel32(e, some, t1_pos(e));
    t1_store(e, T1_FIELD(t1.target), X86_RAX);
    put_reload(e, 0);
    t1_op_mem(e, &(struct t1_enc){.opcode = 0xff}, 4, T1_FIELD(t1.target));
}

/* What C may change and translations need. */
static const uint8_t kept[] = {X86_RAX,  X86_RDX, X86_RSI, X86_RDI, X86_R8,
                               T1_COUNT, T1_S1,   T1_S2,   X86_RBX};

/* What lies above rsp in quick calls: a return address, these, and the flags. */
#define QUICK_ABOVE (8 * (1 + (int32_t)ARRAY_LEN(kept) + 1))

static struct t1_mem above_quick(struct t1_mem m)
{
    m.disp += QUICK_ABOVE;
    return m;
}

/*
 * A call of fn(c, arg, edx), which uses no vector registers, with @arg in a register:
 * begin; put_quick_end() leaves its result in rcx. In between the flags are in al and
 * ah, and pushed, after what is kept.
 */
static void put_quick_call(struct t1_emit *e, unsigned arg)
{
    for (unsigned i = 0; i < ARRAY_LEN(kept); i++) {
        push_host(e, kept[i], false);
    }
    t1_u8(e, 0x9f);                                                       /* lahf */
    t1_op_reg(e, &(struct t1_enc){.map = 1, .opcode = 0x90}, 0, X86_RAX); /* seto al */
    push_host(e, X86_RAX, false);
    t1_mov_rr(e, X86_RSI, arg);
    t1_lea(e, X86_RDI, above_quick(t1_field(0)));
}

static void put_quick_end(struct t1_emit *e, void *fn)
{
    t1_mov_rr(e, X86_RBX, T1_SP);
    t1_load(e, T1_SP, above_quick(T1_FIELD(t1.host_sp)));
    t1_mov_ri(e, X86_RAX, (int64_t)(uintptr_t)fn);
    t1_op_reg(e, &(struct t1_enc){.opcode = 0xff}, 2, X86_RAX); /* call rax */
    t1_mov_rr(e, T1_SP, X86_RBX);
    t1_mov_rr(e, T1_RCX, X86_RAX);
}

/* The host's flags are those in al and ah; then what was kept. */
static void put_quick_back(struct t1_emit *e)
{
    t1_u8(e, 0x04); /* add al, 0x7f: OF */
    t1_u8(e, 0x7f);
    t1_u8(e, 0x9e); /* sahf */
    for (unsigned i = ARRAY_LEN(kept); i-- > 0;) {
        push_host(e, kept[i], true);
    }
}

/* Changes no register but rcx, and no flags. */
static void put_quick(struct t1_emit *e, void *fn, unsigned arg, uint32_t more)
{
    put_quick_call(e, arg);
    t1_mov_ri(e, X86_RDX, more);
    put_quick_end(e, fn);
    push_host(e, X86_RAX, true);
    put_quick_back(e);
    t1_u8(e, 0xc3);
}

/*
 * To another level: @fn(c, arg, flags) says where to go on. Guest register @changed is
 * one that it has changed and that is in the host's, or T1_NO_REG. Returns when it has
 * done nothing.
 */
static void put_switch(struct t1_emit *e, void *fn, unsigned arg, unsigned changed)
{
    const struct t1_enc test = {.w = true, .opcode = 0x85};
    put_quick_call(e, arg);
    t1_op_reg(e, &(struct t1_enc){.map = 1, .opcode = 0xb7}, X86_RDX, X86_RAX);
    put_quick_end(e, fn);
    t1_op_reg(e, &test, T1_RCX, T1_RCX);
    uint32_t done = t1_jcc(e, 5, 0); /* jnz */
    push_host(e, X86_RAX, true);
    put_quick_back(e);
    t1_u8(e, 0xc3);
    t1_set_rel32(e, done, t1_pos(e));
    push_host(e, X86_RAX, true);
    struct t1_mem m = above_quick(T1_FIELD(flags));
    m.disp -= 8;
    t1_op_mem(e, &(struct t1_enc){.map = 1, .opcode = 0xb7}, X86_RAX, m); /* movzx */
    put_quick_back(e);
    t1_lea(e, T1_SP, (struct t1_mem){T1_SP, T1_NO_REG, 0, 8});
    if (changed != T1_NO_REG) {
        t1_load(e, t1_home[changed], T1_GPR(changed));
    }
    t1_op_reg(e, &(struct t1_enc){.opcode = 0xff}, 4, T1_RCX); /* jmp rcx */
}

void t1_make_glue(struct t1_core *t1)
{
    struct t1_emit e = {.p = t1->write + 64, .base = t1->write};

    /* const struct t0_op *enter(struct t0_cpu *c, code) */
    t1->glue_enter = t1_pos(&e);
    push_host(&e, X86_RCX, false);
    for (unsigned i = 0; i < ARRAY_LEN(callee_saved); i++) {
        push_host(&e, callee_saved[i], false);
    }
    t1_store(
        &e, (struct t1_mem){X86_RDI, T1_NO_REG, 0, offsetof(struct t0_cpu, t1.host_sp)},
        T1_SP);
    t1_lea(&e, T1_SP, (struct t1_mem){X86_RDI, T1_NO_REG, 0, -T1_BIAS});
    t1_store(&e, T1_FIELD(t1.target), X86_RSI);
    put_reload(&e, 0);
    t1_op_mem(&e, &(struct t1_enc){.opcode = 0xff}, 4, T1_FIELD(t1.target));

    /* r10: RIP */
    t1->glue_exit = t1_pos(&e);
    t1_store(&e, T1_FIELD(s.rip), T1_S1);
    put_spill(&e, 0);
    put_return(&e, 0);

    /* ecx: site */
    t1->glue_resolve = t1_pos(&e);
    put_spill(&e, 0);
    put_c_call(&e, t1_do_resolve, 0);
    put_go_or_return(&e);

    t1->glue_go_on = t1_pos(&e);
    put_spill(&e, 0);
    put_c_call(&e, t1_do_go_on, 0);
    put_go_or_return(&e);

    /* ecx: block, r10d: op */
    t1->glue_branch = t1_pos(&e);
    put_spill(&e, 0);
    put_c_call(&e, t1_do_branch, 0);
    put_go_or_return(&e);

    /* The same, called */
    t1->glue_step = t1_pos(&e);
    put_spill(&e, 8);
    put_c_call(&e, t1_do_step, 8);
    uint32_t on = t1_jcc(&e, 4, 0); /* jz */
    t1_lea(&e, T1_SP, (struct t1_mem){T1_SP, T1_NO_REG, 0, 8});
    t1_op_reg(&e, &(struct t1_enc){.w = true, .opcode = 0x83}, 7, X86_RAX); /* cmp */
    t1_u8(&e, T1_LEAVE);
    _Static_assert(T1_LEAVE == 1, "no address of code");
    uint32_t other = t1_jcc(&e, 5, 0); /* jne */
    put_return(&e, 0);
    t1_set_rel32(&e, other, t1_pos(&e));
    t1_store(&e, T1_FIELD(t1.target), X86_RAX);
    put_reload(&e, 0);
    t1_op_mem(&e, &(struct t1_enc){.opcode = 0xff}, 4, T1_FIELD(t1.target));
    t1_set_rel32(&e, on, t1_pos(&e));
    put_wanted(&e, 8);
    put_reload(&e, 8);
    t1_u8(&e, 0xc3);
    t1_put_slot_glue(t1, &e);
    for (unsigned write = 0; write < 2; write++) {
        t1->glue_quick[write] = t1_pos(&e);
        put_quick(&e, t0_tlb_quick, T1_S2, write);
    }
    t1->glue_quick_jump = t1_pos(&e);
    put_quick(&e, t1_quick_jump, T1_S1, 0);
    t1->glue_syscall = t1_pos(&e);
    put_switch(&e, t1_quick_syscall, T1_S1, X86_RCX);
    t1->glue_sysret = t1_pos(&e);
    put_switch(&e, t1_quick_sysret, t1_home[X86_RCX], T1_NO_REG);
    t1->glue_iret = t1_pos(&e);
    put_switch(&e, t1_quick_iret, t1_home[X86_RSP], X86_RSP);
    t1->glue_end = t1_pos(&e);
}
