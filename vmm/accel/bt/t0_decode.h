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
};

/* Where code is read from: the page of @lin, and on demand the next one. */
struct t0_fetch {
    struct t0_cpu *c;
    uint64_t lin; /* of the block's start */
    const struct gmem_region *region;
    struct t0_page *page; /* NULL: not to be cached */
    const uint8_t *host;  /* of the block's first byte */
    uint64_t gpa;
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
void t0_mark_code(struct t0_cpu *c, const struct gmem_region *r,
                  const struct t0_page *p, uint64_t gpa);

/* Decode up to @max instructions. False with c->exc set. */
bool t0_decode(struct t0_fetch *f, struct t0_decoded *d, unsigned max);

/* Fill @b, which has room, from @d. Returns the bytes used. */
size_t t0_fill_block(struct t0_cpu *c, struct t0_block *b, const struct t0_fetch *f,
                     const struct t0_decoded *d);

#endif
