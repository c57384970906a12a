#include "vmm/accel/bt/t1_priv.h"

#include <inttypes.h>

#include "lib/base/base.h"
#include "vmm/vm/log.h"

/*
 * -d out_asm: what a block was translated to, in QEMU's form:
 *
 *     OUT: [size=141]
 *       -- guest addr 0x0000000000010000 + block prologue
 *     0x7f3c5c000ac0:  48 8b 8c 24 ec 00 00 00  mov rcx, qword ptr [rsp+0xec]
 *     ...
 *       -- guest addr 0x0000000000010003
 *     ...
 *       -- slow paths
 *     ...
 *
 * With -dfilter: the blocks whose first guest address is in it.
 */

static void write_code(const struct t1_ctx *t, uint32_t from, uint32_t to, FILE *out)
{
    while (from < to) {
        const uint8_t *bytes = t->t1->write + from;
        uint64_t address = (uintptr_t)(t->t1->exec + from);
        struct x86_insn insn;
        char text[128] = "(bad)";
        int len = x86_decode(&insn, bytes, MIN(to - from, X86_INSN_MAX_LEN), 64);
        if (len > 0) {
            x86_format(&insn, address, text, sizeof(text));
        } else {
            len = 1;
        }
        fprintf(out, "0x%08" PRIx64 ": ", address);
        for (int i = 0; i < MAX(len, 8); i++) {
            fprintf(out, i < len ? " %02x" : "   ", bytes[i]);
        }
        fprintf(out, "  %s\n", text);
        from += (unsigned)len;
    }
}

void t1_log_code(const struct t1_ctx *t, uint32_t hot, uint32_t hot_end, uint32_t cold,
                 uint32_t cold_end)
{
    struct vm_log *log = t->c->vcpu->vm->log;
    const struct t0_block *b = t->b;
    uint64_t rip = t->c->rip_base;
    if (!vm_log_covers(log, rip)) {
        return;
    }
    FILE *out = vm_log_begin(log);
    fprintf(out, "OUT: [size=%u]", hot_end - hot + cold_end - cold);
    if (t->c->vcpu->vm->nb_vcpus > 1) {
        fprintf(out, " CPU %u", t->c->vcpu->index);
    }
    fprintf(out, "\n  -- guest addr 0x%016" PRIx64 " + block prologue\n", rip);
    write_code(t, hot, t->at[0], out);
    for (unsigned i = 0; i < b->nb_insns; i++) {
        uint32_t end = i + 1u < b->nb_insns ? t->at[i + 1] : hot_end;
        fprintf(out, "  -- guest addr 0x%016" PRIx64 "\n", rip + b->ops[i].start);
        write_code(t, t->at[i], end, out);
    }
    fprintf(out, "  -- slow paths\n");
    write_code(t, cold, cold_end, out);
    fputc('\n', out);
    vm_log_end(log);
}
