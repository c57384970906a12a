#include "vmm/accel/bt/t0_log.h"

#include <inttypes.h>

#include "lib/isa/x86/state.h"
#include "vmm/vm/log.h"

/*
 * -d in_asm, int, cpu, exec: the lines that users of QEMU know.
 *
 * Nothing is asked while guest code runs. When a block is decoded and there is a log,
 * t0_log_block() writes it and, where its execution is to be logged, puts op_log before
 * the handler of its first op (b->first_fn keeps that one, as it does for T1, which
 * does not translate then). An IRET gets a handler of its own around it. The only other
 * place is the delivery of events, which is slow by itself.
 */

static struct vm_log *log_of(const struct t0_cpu *c)
{
    return c->vcpu->vm->log;
}

static bool several_cpus(const struct t0_cpu *c)
{
    return c->vcpu->vm->nb_vcpus > 1;
}

/* Linear address of offset @rip in CS. */
static uint64_t linear(const struct t0_cpu *c, uint64_t rip)
{
    uint64_t lin = rip + c->seg_base[X86_CS];
    return t0_is64(c) ? lin : (uint32_t)lin;
}

static void dump_state(struct t0_cpu *c, uint64_t rip, unsigned parts, FILE *out)
{
    if (parts & X86_DUMP_FPU) {
        t0_fpu_put(c);
    }
    struct x86_state s = c->s;
    memcpy(s.gpr, c->gpr, sizeof(s.gpr));
    s.rip = rip;
    s.rflags = t0_get_rflags(c);
    x86_state_dump(&s, parts, out);
}

/* --- Blocks ---------------------------------------------------------------- */

static void write_bytes(const uint8_t *p, unsigned n, FILE *out)
{
    for (unsigned i = 0; i < X86_INSN_MAX_LEN; i++) {
        if (i < n) {
            fprintf(out, " %02x", p[i]);
        } else if (i < 8) {
            fputs("   ", out);
        }
    }
}

static void write_insn(const struct t0_log_code *code, unsigned i, FILE *out)
{
    const struct x86_insn *insn = &code->insn[i];
    const uint8_t *bytes = code->bytes + i * code->bytes_step;
    uint64_t lin = code->lin + code->start[i], rip = code->rip + code->start[i];
    char text[128];

    x86_format(insn, rip, text, sizeof(text));
    fprintf(out, "0x%08" PRIx64 ": ", lin);
    write_bytes(bytes, insn->len, out);
    fprintf(out, "  %s\n", text);
}

static void log_in_asm(struct t0_cpu *c, const struct t0_log_code *code)
{
    FILE *out = vm_log_begin(log_of(c));
    fprintf(out, "----------------\nIN: ");
    if (several_cpus(c)) {
        fprintf(out, "CPU %u", c->vcpu->index);
    }
    fputc('\n', out);
    for (unsigned i = 0; i < code->nb; i++) {
        write_insn(code, i, out);
    }
    if (code->nb == 0) {
        fprintf(out, "0x%08" PRIx64 ":  %02x  (bad)\n", code->lin, code->bytes[0]);
    }
    fputc('\n', out);
    vm_log_end(log_of(c));
}

/* Before the first instruction of a block. */
static const struct t0_op *op_log(struct t0_cpu *c, const struct t0_op *op)
{
    struct vm_log *log = log_of(c);
    struct t0_block *b = c->block;
    FILE *out = vm_log_begin(log);
    if (vm_log_has(log, VM_LOG_EXEC)) {
        fprintf(out, "Trace %u: %p [%016" PRIx64 "/%016" PRIx64 "/%08x/%08x]\n",
                c->vcpu->index, (void *)b, c->seg_base[X86_CS], linear(c, c->rip_base),
                b->mode, b->flags);
    }
    if (vm_log_has(log, VM_LOG_CPU)) {
        if (several_cpus(c)) {
            fprintf(out, "CPU#%u\n", c->vcpu->index);
        }
        dump_state(c, c->rip_base,
                   X86_DUMP_CC | (vm_log_has(log, VM_LOG_FPU) ? X86_DUMP_FPU : 0), out);
    }
    vm_log_end(log);
    return b->first_fn(c, op);
}

/* Around the handler of IRET, which is in imm (it has no use for one). */
static const struct t0_op *op_log_iret(struct t0_cpu *c, const struct t0_op *op)
{
    unsigned cpl = c->s.cpl;
    uint64_t from = linear(c, t0_op_rip(c, op));
    const struct t0_op *next = ((t0_fn)(uintptr_t)op->imm)(c, op);
    if (!c->core->exc_pending) {
        vm_log_printf(log_of(c), VM_LOG_INT,
                      "  iret: cpl=%u pc=%016" PRIx64 " -> cpl=%u IP=%04x:%016" PRIx64
                      " pc=%016" PRIx64 " SP=%04x:%016" PRIx64 " cpu=%u\n",
                      cpl, from, c->s.cpl, c->s.seg[X86_CS].sel, c->s.rip,
                      linear(c, c->s.rip), c->s.seg[X86_SS].sel, c->gpr[X86_RSP],
                      c->vcpu->index);
    }
    return next;
}

void t0_log_block(struct t0_cpu *c, struct t0_block *b, const struct t0_log_code *code)
{
    struct vm_log *log = log_of(c);
    bool covered = vm_log_covers(log, code->lin);
    if (vm_log_has(log, VM_LOG_IN_ASM) && covered) {
        log_in_asm(c, code);
    }
    if (vm_log_has(log, VM_LOG_INT) && code->nb &&
        code->insn[code->nb - 1].op == X86_OP_IRET) {
        struct t0_op *op = &b->ops[code->nb - 1];
        op->imm = (int64_t)(uintptr_t)op->fn;
        op->fn = op_log_iret;
    }
    if (vm_log_has(log, VM_LOG_CPU | VM_LOG_EXEC) && covered) {
        b->first_fn = b->ops[0].fn;
        b->ops[0].fn = op_log;
    }
}

/* --- Events ---------------------------------------------------------------- */

/* Where QEMU says that an event happened: at an INT, not after it. */
static uint64_t event_rip(const struct t0_cpu *c, enum t0_event kind)
{
    const struct t0_block *b = c->block;
    if (kind != T0_EVENT_SOFT || !b || b->nb_insns == 0) {
        return c->s.rip;
    }
    return c->rip_base + b->ops[b->nb_insns - 1].start;
}

void t0_log_event(struct t0_cpu *c, enum t0_event kind, uint8_t vector, uint32_t error)
{
    struct vm_log *log = log_of(c);
    if (!vm_log_has(log, VM_LOG_INT)) {
        return;
    }
    uint64_t rip = event_rip(c, kind);
    FILE *out = vm_log_begin(log);
    if (kind == T0_EVENT_EXTERNAL && vector != X86_EXC_NMI) {
        fprintf(out, "Servicing hardware INT=0x%02x\n", vector);
    }
    fprintf(out,
            "%6u: v=%02x e=%04x i=%d cpl=%u IP=%04x:%016" PRIx64 " pc=%016" PRIx64
            " SP=%04x:%016" PRIx64,
            vm_log_count_event(log), vector, error, kind == T0_EVENT_SOFT, c->s.cpl,
            c->s.seg[X86_CS].sel, rip, linear(c, rip), c->s.seg[X86_SS].sel,
            c->gpr[X86_RSP]);
    if (vector == X86_EXC_PF) {
        fprintf(out, " CR2=%016" PRIx64, c->s.cr2);
    } else {
        fprintf(out, " env->regs[R_EAX]=%016" PRIx64, c->gpr[X86_RAX]);
    }
    if (several_cpus(c)) {
        fprintf(out, " cpu=%u", c->vcpu->index);
    }
    fputc('\n', out);
    dump_state(c, rip, X86_DUMP_CC, out);
    vm_log_end(log);
}

void t0_log_second_fault(struct t0_cpu *c, uint8_t first, uint8_t second)
{
    vm_log_printf(log_of(c), VM_LOG_INT, "check_exception old: 0x%x new 0x%x\n", first,
                  second);
}

void t0_log_msr(struct t0_cpu *c, uint32_t msr, const char *what)
{
    vm_log_printf(log_of(c), VM_LOG_UNIMP,
                  "%s of MSR 0x%x, which there is not: #GP (CPU %u)\n", what, msr,
                  c->vcpu->index);
}
