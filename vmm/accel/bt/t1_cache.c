#include "vmm/accel/bt/t0_fpu.h"
#include "vmm/accel/bt/t1_priv.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/base/base.h"

/*
 * Memory for translations. See t1.h.
 *
 * The memory is one memfd mapped twice, writable and executable. It only fills; when
 * it is full, all blocks (T0's too) are forgotten, which happens in the run loop or
 * between two blocks, never under a running one that goes on. generation tells a
 * function that was called from a translation whether that still exists.
 */

/* More than any block needs. */
#define CODE_ROOM (32u << 10)

bool t1_has_room(const struct t1_core *t1)
{
    return t1->used + CODE_ROOM <= t1->cold_start && t1->cold + CODE_ROOM <= t1->size &&
           t1->nb_sites + 3 < t1->max_sites && t1->nb_trans + 2 < t1->max_trans;
}

void t1_flush(struct t0_cpu *c)
{
    struct t1_core *t1 = c->core->t1;
    if (!t1) {
        return;
    }
    t1->generation++;
    t1->used = t1->glue_end;
    t1->cold = t1->cold_start;
    t1->nb_sites = t1->nb_trans = 0;
    t1_jumps_flush(c, true);
}

/* --- Life -------------------------------------------------------------------- */

bool t1_supported(void)
{
    return __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("avx");
}

bool t1_init(struct t0_cpu *c, GError **error)
{
    struct t1_core *t1 = c->core->t1 = g_new0(struct t1_core, 1);
    t1->size = c->core->tvm->t1_mib << 20;
    t1->cold_start = t1->size / 3;
    t1->max_sites = t1->size / 64;
    t1->max_trans = t1->size / 128;
    t1->write = t1->exec = MAP_FAILED;
    int fd = memfd_create("t1-code", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, t1->size) < 0) {
        error_errno(error, errno, "cannot make memory for translated code");
        goto out;
    }
    t1->write = mmap(NULL, t1->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    t1->exec = mmap(NULL, t1->size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (t1->write == MAP_FAILED || t1->exec == MAP_FAILED) {
        error_errno(error, errno, "cannot map memory for translated code");
        goto out;
    }
    close(fd);
    t1->sites = g_new(struct t1_site, t1->max_sites);
    t1->trans = g_new(struct t1_trans, t1->max_trans);
    c->t1.tlb_mask = (uint64_t)(T0_TLB_SIZE - 1) * sizeof(struct t0_tlb_entry);
    c->t1.itlb_mask = (uint64_t)(T0_ITLB_SIZE - 1) * 8;
    c->t1.x87_mask = T0_FPU_X87;
    c->t1.not_if = ~(uint64_t)X86_FL_IF;
    c->t1.not_df = ~(uint64_t)X86_FL_DF;
    c->t1.arith = X86_FL_ARITH;
    c->t1.pushf_keep = ~(uint64_t)(X86_FL_ARITH | X86_FL_VM | X86_FL_RF);
    for (unsigned i = 0; i < 3; i++) {
        c->t1.bits[i] = (16u << i) - 1;
    }
    for (unsigned i = 0; i < ARRAY_LEN(c->t1.outside); i++) {
        c->t1.outside[i] = ~((UINT64_C(0xfff) >> i) << i);
    }
    c->t1.vec_away = 1;
    c->t1.align16_mask = 15;
    t1_links_init(c);
    t1->nowhere = g_aligned_alloc0(1, GMEM_PAGE_SIZE, 64);
    t1_stack_forget(c);
    t1_make_glue(t1);
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
        munmap(t1->exec, t1->size);
    }
    g_free(t1->sites);
    g_free(t1->trans);
    g_aligned_free(t1->nowhere);
    g_free(t1);
    c->core->t1 = NULL;
}
