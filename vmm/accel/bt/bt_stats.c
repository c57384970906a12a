#include "vmm/accel/bt/bt_view.h"

#include <inttypes.h>

#include "vmm/accel/bt/t1_priv.h"

/* Counters of the software CPU. What each means is in bt_view.h. */

static const char *const bank_names[T0_NB_BANKS] = {
    [T0_BANK_USER] = "user",
    [T0_BANK_USER_AC] = "user-ac",
    [T0_BANK_KERNEL] = "kernel",
    [T0_BANK_KERNEL_SMAP] = "kernel-smap",
};

void bt_dump(struct vcpu *vcpu, FILE *out)
{
    struct t0_cpu *c = vcpu->accel;
    const struct t0_core *core = c->core;
    const struct t0_counters *n = &core->n;
    fprintf(out,
            "bt: %" PRIu64 " insns, %" PRIu64 " blocks built of %" PRIu64
            " insns, cache %u of %u bytes, %" PRIu64 " flushes, %" PRIu64
            " blocks killed, %" PRIu64 " stores to code\n",
            c->insns, n->blocks_built, n->insns_built, core->arena_used,
            core->arena_size, n->cache_flushes, n->blocks_killed, n->smc_stores);
    fprintf(out,
            "bt: %" PRIu64 " walks, %" PRIu64 " TLB flushes, %" PRIu64
            " jump cache flushes, %" PRIu64 " lookups, %" PRIu64 " steps, %" PRIu64
            " exceptions, %" PRIu64 " interrupts\n",
            n->walks, n->tlb_flushes, n->jump_flushes, n->lookups, n->steps,
            n->exceptions, n->irqs);
    fprintf(out, "bt: TLB misses:");
    for (unsigned i = 0; i < T0_NB_BANKS; i++) {
        fprintf(out, " %s %" PRIu64 ",", bank_names[i], n->fills[i]);
    }
    fprintf(out, " code %" PRIu64 "\n", n->code_fills);
    t1_dump(c, out);
    fprintf(out, "bt: last blocks entered by the run loop, oldest first:");
    for (unsigned i = 0; i < T0_RING_SIZE; i++) {
        uint64_t rip = core->ring[(core->ring_pos + i) % T0_RING_SIZE];
        fprintf(out, "%s%016" PRIx64, i % 4 ? " " : "\n  ", rip);
    }
    fprintf(out, "\nbt: code at RIP:\n");
    t0_dump_code(c, out);
}

struct item {
    const char *name;
    uint64_t value;
};

/* @items ends with a name of NULL. */
static json_t *numbers(const struct item *items)
{
    json_t *o = json_object();
    for (; items->name; items++) {
        json_object_set_new(o, items->name, json_integer((json_int_t)items->value));
    }
    return o;
}

static json_t *tlb_stats(const struct t0_counters *n)
{
    json_t *misses = json_object();
    json_t *tlb = numbers((struct item[]){{"walks", n->walks},
                                          {"flushes", n->tlb_flushes},
                                          {"jump-flushes", n->jump_flushes},
                                          {NULL, 0}});
    for (unsigned i = 0; i < T0_NB_BANKS; i++) {
        json_object_set_new(misses, bank_names[i],
                            json_integer((json_int_t)n->fills[i]));
    }
    json_object_set_new(misses, "code", json_integer((json_int_t)n->code_fills));
    json_object_set_new(tlb, "misses", misses);
    return tlb;
}

static json_t *translation_stats(const struct t1_core *t1)
{
    return numbers((struct item[]){{"blocks", t1->translated},
                                   {"bytes", t1_code_bytes(t1)},
                                   {"room", t1->size},
                                   {"evictions", t1->evictions},
                                   {"blocks-evicted", t1->evicted},
                                   {"enters", t1->enters},
                                   {"chained", t1->linked},
                                   {"resolves", t1->resolves},
                                   {"branches", t1->branches},
                                   {"fallbacks", t1->steps},
                                   {"slow-accesses", t1->fallbacks[X86_NB_OPS]},
                                   {"checked-in-lockstep", t1->checked},
                                   {NULL, 0}});
}

static json_t *fallback_stats(const struct t1_core *t1)
{
    json_t *o = json_object();
    for (unsigned i = 0; i < X86_NB_OPS; i++) {
        if (t1->fallbacks[i]) {
            json_object_set_new(o, x86_op_name(i),
                                json_integer((json_int_t)t1->fallbacks[i]));
        }
    }
    return o;
}

json_t *bt_stats(struct vcpu *vcpu)
{
    const struct t0_cpu *c = vcpu->accel;
    const struct t0_core *core = c->core;
    const struct t0_counters *n = &core->n;
    json_t *o = numbers((struct item[]){{"insns", c->insns},
                                        {"code-stores", n->smc_stores},
                                        {"exceptions", n->exceptions},
                                        {"interrupts", n->irqs},
                                        {"steps", n->steps},
                                        {"lookups", n->lookups},
                                        {NULL, 0}});
    json_object_set_new(o, "blocks",
                        numbers((struct item[]){{"decoded", n->blocks_built},
                                                {"insns-decoded", n->insns_built},
                                                {"killed", n->blocks_killed},
                                                {"pages-checked", n->pages_checked},
                                                {"checks-failed", n->checks_failed},
                                                {"bytes", core->arena_used},
                                                {"room", core->arena_size},
                                                {"flushes", n->cache_flushes},
                                                {NULL, 0}}));
    json_object_set_new(o, "tlb", tlb_stats(n));
    if (core->t1) {
        json_object_set_new(o, "translations", translation_stats(core->t1));
        json_object_set_new(o, "fallbacks", fallback_stats(core->t1));
    }
    return o;
}
