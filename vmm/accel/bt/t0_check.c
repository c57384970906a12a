#include "lib/base/base.h"
#include "vmm/accel/bt/t0_decode.h"
#include "vmm/accel/bt/t1.h"

/*
 * Code and data in one page, written all the time: trampolines on the stack, old JITs,
 * boot loaders, variables between functions.
 *
 * Stores to a page with code are slow (t0_block.c). Where there are more than STORES of
 * them within WINDOW instructions, the page is "checked" from then on: it has no code
 * bits, stores to it are as fast as any, by all vCPUs and devices, and each entry to
 * one of its blocks compares the bytes with those that were decoded; T1 does that
 * inline. When they differ the block is dead, and decoded anew.
 *
 * That a block changes itself ahead of RIP has to be noticed, too, so that a block of a
 * checked page ends after an instruction that may store.
 *
 * After a while the page is protected again: what was hot may have become code that
 * stays as it is, for which comparing is the dearer way. If it was not, it is checked
 * after STORES more of them, for twice as long.
 */

#define STORES     8192u
#define WINDOW     (UINT64_C(1) << 20)
#define PERIOD     (UINT64_C(1) << 26)
#define MOST_TRIES 10u

bool t0_check_wanted(struct t0_cpu *c, uint64_t gpa)
{
    uint64_t page = gpa >> GMEM_PAGE_SHIFT;
    struct t0_stored *s = &c->core->stored[page % T0_NB_STORED];
    if (s->page != page || c->insns - s->since > WINDOW) {
        *s = (struct t0_stored){.page = page, .since = c->insns};
    }
    if (likely(++s->nb < STORES)) {
        return false;
    }
    s->nb = 0;
    return true;
}

uint64_t t0_check_period(unsigned tries)
{
    return PERIOD << MIN(tries, MOST_TRIES);
}

static struct t0_check *check_of(const struct t0_cpu *c, const struct t0_block *b)
{
    return (struct t0_check *)(c->core->arena + b->check);
}

const uint8_t *t0_check_bytes(const struct t0_cpu *c, const struct t0_block *b,
                              const uint8_t *ret_host[2])
{
    const struct t0_check *k = check_of(c, b);
    if (ret_host) {
        ret_host[0] = k->host;
        ret_host[1] = k->host2;
    }
    return k->bytes;
}

bool t0_same_bytes(const void *own, const void *of_guest, unsigned n)
{
    const uint8_t *a = own, *guest = of_guest;
    uint64_t x, y;
    for (; n >= 8; n -= 8, a += 8, guest += 8) {
        __builtin_memcpy(&x, a, 8);
        __builtin_memcpy(&y, guest, 8);
        if (x != y) {
            return false;
        }
    }
    for (; n; n--) {
        if (*a++ != *(const volatile uint8_t *)guest++) {
            return false;
        }
    }
    return true;
}

static bool same(const struct t0_check *k, const struct t0_block *b)
{
    return t0_same_bytes(k->bytes, k->host, k->first) &&
           (!k->host2 ||
            t0_same_bytes(k->bytes + k->first, k->host2, b->len - k->first));
}

bool t0_check_entry(struct t0_cpu *c, struct t0_block *b)
{
    if (likely(same(check_of(c, b), b))) {
        return true;
    }
    c->core->n.checks_failed++;
    t0_block_drop(c, b);
    return false;
}

/* The first op of a checked block. */
static const struct t0_op *op_check(struct t0_cpu *c, const struct t0_op *op)
{
    struct t0_block *b =
        (struct t0_block *)((uintptr_t)op - offsetof(struct t0_block, ops));
    if (unlikely(!t0_check_entry(c, b))) {
        c->s.rip = c->rip_base;
        return NULL;
    }
    return check_of(c, b)->next(c, op);
}

void t0_block_entry(struct t0_cpu *c, struct t0_block *b, t0_fn fn)
{
    if (b->flags & T0_BLOCK_CHECKED) {
        check_of(c, b)->next = fn;
    } else {
        b->ops[0].fn = fn;
    }
}

void t0_check_make(struct t0_block *b, struct t0_check *k, const struct t0_fetch *f,
                   const struct t0_decoded *d)
{
    bool two = b->flags & T0_BLOCK_STRADDLES;
    b->flags |= T0_BLOCK_CHECKED;
    k->next = b->ops[0].fn;
    k->host = f->host;
    k->host2 = two ? f->host2 : NULL;
    k->first = two ? (uint16_t)(GMEM_PAGE_SIZE - (b->gpa & 0xfff)) : b->len;
    for (unsigned i = 0; i < d->nb; i++) {
        unsigned end = i + 1 < d->nb ? d->start[i + 1] : d->len;
        memcpy(k->bytes + d->start[i], d->bytes[i], end - d->start[i]);
    }
}

void t0_check_first(struct t0_block *b, struct t0_check *k)
{
    if (b->ops[0].fn != b->first_fn) {
        k->next = b->ops[0].fn; /* a log's */
    }
    b->ops[0].fn = op_check;
}
