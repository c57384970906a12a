#include "vmm/accel/bt/t0_fpu.h"
#include "vmm/accel/bt/t1_priv.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/base/base.h"
#include "vmm/accel/bt/t2.h"

/*
 * Memory for translations. See t1.h.
 *
 * The memory is one memfd mapped twice, writable and executable:
 *
 *     glue | region 0: hot ... cold ... | region 1: hot ... cold ... | ...
 *
 * A region has its own part of the arrays of sites and translations, too. Regions are
 * filled one after the other, round and round: when one is full, the next one's
 * translations, which are the oldest, are undone: nothing leads to them any more, and
 * their blocks, which T0 keeps, are counted anew. So what is hot comes back within
 * T1_HEAT executions, and what is not leaves its room to others.
 *
 * That happens between two blocks, never under a translation that is running and goes
 * on; generation tells a function that was called from a translation whether that, and
 * the indices that it knows, still exist. A flush forgets everything.
 */

/* More than any block needs. */
#define CODE_ROOM    (32u << 10)
#define CODE_SITES   3u
#define REGION_BYTES (512u << 10) /* at least */

/* --- Regions ----------------------------------------------------------------- */

static void lay_out(struct t1_core *t1)
{
    uint32_t start = ALIGN_UP(t1->glue_end, 64u);
    uint32_t n = t1->nb_regions, each = (t1->size - start) / n & ~63u;
    for (unsigned i = 0; i < n; i++) {
        struct t1_region *r = &t1->region[i];
        r->hot = start + i * each;
        r->cold = r->hot + (each / 3 & ~63u);
        r->end = r->hot + each;
        /* Index 0 is none. */
        r->first_site = r->nb_sites = t1->size / 64 / n * i;
        r->first_trans = r->nb_trans = t1->size / 128 / n * i;
        r->hot_used = r->hot;
        r->cold_used = r->cold;
    }
}

static void open_region(struct t1_core *t1, unsigned i)
{
    const struct t1_region *r = &t1->region[i];
    t1->current = i;
    t1->used = r->hot;
    t1->cold = t1->cold_start = r->cold;
    t1->cold_end = r->end;
    t1->nb_sites = r->first_site;
    t1->nb_trans = r->first_trans;
    t1->max_sites = r->first_site + t1->size / 64 / t1->nb_regions;
    t1->max_trans = r->first_trans + t1->size / 128 / t1->nb_regions;
}

static void close_region(struct t1_core *t1)
{
    struct t1_region *r = &t1->region[t1->current];
    r->hot_used = t1->used;
    r->cold_used = t1->cold;
    r->nb_sites = t1->nb_sites;
    r->nb_trans = t1->nb_trans;
}

static void evict_block(struct t0_cpu *c, struct t0_block *b)
{
    struct t1_core *t1 = c->core->t1;
    t2_block_kill(c, b);
    t1->trans[b->t1].in_jumps = T1_JUMPS_NONE; /* the table is empty */
    t1_unlink_block(c, b);
    b->t1 = 0;
    t1_block_cool(c, b);
    t1->evicted++;
}

/* Undo the translations in region @i. */
static void evict(struct t0_cpu *c, unsigned i)
{
    struct t1_core *t1 = c->core->t1;
    struct t1_region *r = &t1->region[i];
    if (r->nb_trans == r->first_trans) {
        return;
    }
    t1->evictions++;
    t1->generation++;
    t1_jumps_flush(c, 0);
    t1_jumps_flush(c, 1);
    t2_evict(c, r->hot, r->end);
    for (uint32_t k = r->first_trans + 1; k <= r->nb_trans; k++) {
        if (t1->trans[k].block) {
            evict_block(c, t1_block_at(c, t1->trans[k].block));
        }
    }
    /* Those of other regions know these as where they are reached from. */
    for (uint32_t k = r->first_site + 1; k <= r->nb_sites; k++) {
        t1_forget_site(c, k);
    }
}

bool t1_make_room_for(struct t0_cpu *c, uint32_t hot, uint32_t cold, uint32_t sites)
{
    struct t1_core *t1 = c->core->t1;
    if (likely(t1->used + hot <= t1->cold_start && t1->cold + cold <= t1->cold_end &&
               t1->nb_sites + sites <= t1->max_sites && t1->nb_trans < t1->max_trans)) {
        return true;
    }
    unsigned next = (t1->current + 1) % t1->nb_regions;
    const struct t1_region *r = &t1->region[next];
    if (hot > r->cold - r->hot || cold > r->end - r->cold ||
        sites > t1->size / 64 / t1->nb_regions) {
        return false;
    }
    close_region(t1);
    evict(c, next);
    open_region(t1, next);
    return true;
}

void t1_make_room(struct t0_cpu *c)
{
    t1_make_room_for(c, CODE_ROOM, CODE_ROOM, CODE_SITES);
}

uint32_t t1_code_bytes(const struct t1_core *t1)
{
    uint32_t bytes = 0;
    for (unsigned i = 0; i < t1->nb_regions; i++) {
        const struct t1_region *r = &t1->region[i];
        bytes += i == t1->current ? t1->used - r->hot + t1->cold - r->cold
                                  : r->hot_used - r->hot + r->cold_used - r->cold;
    }
    return bytes;
}

void t1_flush(struct t0_cpu *c)
{
    struct t1_core *t1 = c->core->t1;
    if (!t1) {
        return;
    }
    t1->generation++;
    t2_flush(c);
    lay_out(t1);
    open_region(t1, 0);
    t1_jumps_flush(c, 0);
    t1_jumps_flush(c, 1);
}

/* The executable mapping, and as much behind it for slots. */
static size_t mapped_size(const struct t1_core *t1)
{
    return 2 * (size_t)t1->size;
}

/* --- Life -------------------------------------------------------------------- */

bool t1_supported(void)
{
    return __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("avx");
}

static bool loop_is_quick(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_is("amd");
}

bool t1_init(struct t0_cpu *c, GError **error)
{
    struct t1_core *t1 = c->core->t1 = g_new0(struct t1_core, 1);
    t1->size = c->core->tvm->t1_mib << 20;
    t1->loop = !c->core->tvm->jrcxz && loop_is_quick();
    t1->nb_regions = CLAMP(t1->size / REGION_BYTES, 2, T1_MAX_REGIONS);
    t1->write = t1->exec = MAP_FAILED;
    int fd = memfd_create("t1-code", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, t1->size) < 0) {
        error_errno(error, errno, "cannot make memory for translated code");
        goto out;
    }
    t1->write = mmap(NULL, t1->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    t1->exec = mmap(NULL, mapped_size(t1), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (t1->write == MAP_FAILED || t1->exec == MAP_FAILED ||
        mmap(t1->exec, t1->size, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, fd,
             0) == MAP_FAILED) {
        error_errno(error, errno, "cannot map memory for translated code");
        goto out;
    }
    close(fd);
    t1->sites = g_new(struct t1_site, t1->size / 64 + 1);
    t1->trans = g_new(struct t1_trans, t1->size / 128 + 1);
    c->t1.tlb_mask = (uint64_t)(T0_TLB_SIZE - 1) * sizeof(struct t0_tlb_entry);
    c->t1.itlb_mask = (uint64_t)(T0_ITLB_SIZE - 1) * 8;
    c->t1.x87_mask = T0_FPU_X87;
    c->t1.not_if = ~(uint64_t)X86_FL_IF;
    c->t1.not_df = ~(uint64_t)X86_FL_DF;
    c->t1.not_ac = ~(uint64_t)X86_FL_AC;
    c->t1.df = X86_FL_DF;
    c->t1.tsd = X86_CR4_TSD;
    c->t1.fsgsbase = X86_CR4_FSGSBASE;
    c->t1.fcw_mask = 0x1f3f;
    c->t1.mxcsr_masks = T0_MXCSR_MASKS;
    c->t1.mxcsr_high = 0xffff0000;
    c->t1.arith = X86_FL_ARITH;
    c->t1.pushf_keep = ~(uint64_t)(X86_FL_ARITH | X86_FL_VM | X86_FL_RF);
    for (unsigned i = 0; i < 3; i++) {
        c->t1.bits[i] = (16u << i) - 1;
    }
    c->t1.vec_away = 1;
    c->t1.align16_mask = 15;
    t1_links_init(c);
    t1_slots_init(c);
    t1_make_glue(t1);
    lay_out(t1);
    open_region(t1, 0);
    if (c->core->tvm->t2) {
        t2_init(c);
    }
    return true;
out:
    if (fd >= 0) {
        close(fd);
    }
    t1_done(c);
    return false;
}

void t1_done(struct t0_cpu *c)
{
    struct t1_core *t1 = c->core->t1;
    if (!t1) {
        return;
    }
    if (t1->write != MAP_FAILED) {
        munmap(t1->write, t1->size);
    }
    if (t1->exec != MAP_FAILED) {
        munmap(t1->exec, mapped_size(t1));
    }
    t2_done(c);
    g_free(t1->sites);
    g_free(t1->trans);
    g_free(t1);
    c->core->t1 = NULL;
}
