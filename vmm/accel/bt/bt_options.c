#include "vmm/accel/bt/bt_view.h"

#include "lib/base/base.h"
#include "vmm/accel/bt/t1.h"
#include "vmm/vm/log.h"

/* What users may choose about the software CPU. */

const struct prop bt_options[] = {
    {.name = "tier",
     .type = PROP_U32,
     PROP_FIELD(struct t0_vm, tier),
     .def = 1,
     .max = 2,
     .help = "0: interpret; 1: translate what is hot, where the host can; 2: and hot "
             "loops as a whole"},
    {.name = "cache-mib",
     .type = PROP_U32,
     PROP_FIELD(struct t0_vm, t1_mib),
     .def = T1_MIB,
     .min = T1_MIN_MIB,
     .max = T1_MAX_MIB,
     .help = "MiB of memory for each processor's translations"},
    {.name = "cache-size",
     .type = PROP_SIZE,
     PROP_FIELD(struct t0_vm, cache_bytes),
     .min = 64 * KIB,
     .max = GIB,
     .help = "bytes of memory for each processor's decoded blocks (default 32M, 5M "
             "with tier=0)"},
    {.name = "heat",
     .type = PROP_U32,
     PROP_FIELD(struct t0_vm, heat),
     .def = T1_HEAT,
     .min = 1,
     .help = "executions after which a block is translated"},
    {.name = "t2-heat",
     .type = PROP_U32,
     PROP_FIELD(struct t0_vm, t2_heat),
     .help = "with tier=2: executions after which a block is taken for a loop's head "
             "(default: found by samples)"},
    {.name = "one-insn-per-block",
     .type = PROP_BOOL,
     PROP_FIELD(struct t0_vm, one_insn),
     .help = "every instruction is a block of its own, for -d exec and in_asm"},
    {.name = "one-insn-per-tb",
     .type = PROP_BOOL,
     PROP_FIELD(struct t0_vm, one_insn),
     .help = "the same by QEMU's name"},
    {.name = "jitdump",
     .type = PROP_STRING,
     PROP_FIELD(struct t0_vm, jitdump_folder),
     .help = "a folder for jit-PID.dump, from which perf names translations"},
    {.name = "jrcxz",
     .type = PROP_BOOL,
     PROP_FIELD(struct t0_vm, jrcxz),
     .help = "translations check as on processors whose LOOP is slow"},
    {.name = "lockstep",
     .type = PROP_BOOL,
     PROP_FIELD(struct t0_vm, lockstep),
     .help = "check every translation against the interpreter (one processor)"},
    {.name = "record",
     .type = PROP_BOOL,
     PROP_FIELD(struct t0_vm, record),
     .help = "every block that is entered goes into the list that a dump ends with"},
    {.name = NULL},
};

bool bt_set_options(struct t0_vm *t, const json_t *options, GError **error)
{
    const struct vm_log *log = t->vm->log;
    const char *name;
    json_t *value;
    props_set_defaults(bt_options, t);
    t->tier = t1_supported();
    json_object_foreach((json_t *)options, name, value)
    {
        if (!props_set(bt_options, t, name, value, NULL, error)) {
            g_prefix_error(error, "-accel bt: ");
            return false;
        }
    }
    if (t->tier && !t1_supported()) {
        return error_msg(error, "-accel bt: tier=%u needs a processor with BMI2",
                         t->tier);
    }
    if (t->jitdump_folder) {
        t->jitdump = t1_jitdump_new(t->jitdump_folder, error);
        if (!t->jitdump) {
            return false;
        }
    }
    if (!t->cache_bytes) {
        /* When it is full, translations go too, and they are dearer. */
        t->cache_bytes = t->tier ? 32 * MIB : 5 * MIB;
    }
    /* Translations write no log. */
    t->t1 = t->tier && !vm_log_has(log, VM_LOG_CPU | VM_LOG_EXEC | VM_LOG_NOCHAIN);
    t->t2 = t->t1 && t->tier == 2;
    t->nochain = t->lockstep || vm_log_has(log, VM_LOG_NOCHAIN);
    t->block_insns = t->one_insn ? 1 : T0_BLOCK_MAX_INSNS;
    return true;
}

void bt_options_done(struct t0_vm *t)
{
    t1_jitdump_free(t->jitdump);
    props_done(bt_options, t);
}
