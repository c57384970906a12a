#ifndef VMM_ACCEL_BT_T0_DECODE_H
#define VMM_ACCEL_BT_T0_DECODE_H

#include "vmm/accel/bt/t0_priv.h"

/* Between t0_block.c, which keeps blocks, and t0_decode.c, which makes one. */

/* A page that has, or had, code. */
struct t0_page {
    uint64_t gpa;
    t0_ref next;     /* same hash bucket */
    t0_ref blocks;   /* list over page_next[]; the low bit of a ref says which link */
    bool registered; /* in t0_vm.pages, and the code byte is set */
    bool checked;    /* stores to it are not noticed: t0_check.c */
    uint8_t tries;   /* how often it became that */
    uint64_t since;  /* instructions retired then */
    uint64_t lines;  /* of 64 bytes, that blocks were decoded from */
};

/* Where code is read from: the page of @lin, and on demand the next one. */
struct t0_fetch {
    struct t0_cpu *c;
    uint64_t lin; /* of the block's start */
    const struct gmem_region *region;
    struct t0_page *page; /* NULL: not to be cached */
    const uint8_t *host;  /* of the block's first byte */
    const uint8_t *host2; /* of the second page, when the block has one */
    uint64_t gpa;
    bool checked; /* the block is to be T0_BLOCK_CHECKED */
};

struct t0_decoded {
    struct x86_insn insn[T0_BLOCK_MAX_INSNS];
    uint8_t bytes[T0_BLOCK_MAX_INSNS][X86_INSN_MAX_LEN + 1];
    uint16_t start[T0_BLOCK_MAX_INSNS];
    bool dead[T0_BLOCK_MAX_INSNS]; /* flags */
    unsigned nb;
    unsigned len;
    uint8_t raise; /* vector of the last instruction's decode failure, or 0xff */
    bool stop;     /* nothing may follow the last instruction in this block */
    bool ends;     /* and its handler always leaves: no end op is needed */
    bool outside;  /* of the code segment's limit, which is no part of the block */
    uint64_t gpa2; /* UINT64_MAX: does not straddle */
};

/* The page of @gpa, made when new, with its code bits. t0_block.c. */
struct t0_page *t0_code_page(struct t0_cpu *c, const struct gmem_region *r,
                             uint64_t gpa);

/* Code bits for decoding up to 15 bytes at @gpa of page @p, before reading them. */
void t0_mark_code(struct t0_cpu *c, const struct gmem_region *r, struct t0_page *p,
                  uint64_t gpa);

/* Decode up to @max instructions. False with c->exc set. */
bool t0_decode(struct t0_fetch *f, struct t0_decoded *d, unsigned max);

/* Fill @b, which has room, from @d. Returns the bytes used. */
size_t t0_fill_block(struct t0_cpu *c, struct t0_block *b, const struct t0_fetch *f,
                     const struct t0_decoded *d);

/* --- t0_check.c --------------------------------------------------------------- */

#define T0_CHECK_ROOM(bytes) (sizeof(struct t0_check) + (bytes))
struct t0_check {
    t0_fn next;                  /* after the comparison */
    const uint8_t *host, *host2; /* what is compared, of up to two pages */
    uint16_t first;              /* bytes in the first of them */
    uint8_t bytes[];             /* with */
};

/* Fill @k, which has room for @b's bytes, and put it before @b's first op. */
void t0_check_make(struct t0_block *b, struct t0_check *k, const struct t0_fetch *f,
                   const struct t0_decoded *d);
/* To be called last, when others have put their own handlers there. */
void t0_check_first(struct t0_block *b, struct t0_check *k);

/* Nobody executes @b any more. Also while it is running. t0_block.c. */
void t0_block_drop(struct t0_cpu *c, struct t0_block *b);

/* A store to page @gpa took the slow way, because it has code. True: that is too often.
 */
bool t0_check_wanted(struct t0_cpu *c, uint64_t gpa);

/* For so many instructions a page that became checked @tries times stays that. */
uint64_t t0_check_period(unsigned tries);

#endif
