/*
 * Emission of native thunks: see t0_thunk.h for the theory. Encodings: Intel SDM
 * vol. 2 chapter 2, AMD64 APM vol. 3 chapter 1.
 */
#include "vmm/accel/bt/t0_thunk.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/base/base.h"
#include "lib/isa/x86/opspec.h"
#include "vmm/accel/bt/t0.h"

/* --- The arena ------------------------------------------------------------- */

#define INDEX_SIZE 16384u /* power of two; at most half full: see full() */
#define MAX_THUNKS (INDEX_SIZE / 2)

struct index_entry {
    uint32_t off; /* 0: free; code starts at 16 */
    uint16_t len;
    uint16_t hash;
};

struct thunk_arena {
    uint8_t *write; /* the same memory: writable, */
    uint8_t *exec;  /* and executable */
    size_t size;
    uint32_t used, nb;
    struct index_entry index[INDEX_SIZE];
};

struct thunk_arena *thunk_arena_new(size_t size, GError **error)
{
    struct thunk_arena *a = g_new0(struct thunk_arena, 1);
    a->write = a->exec = MAP_FAILED;
    a->used = 16;
    a->size = size;
    int fd = memfd_create("t0-thunks", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
        error_errno(error, errno, "cannot make memory for native thunks");
        goto fail;
    }
    a->write = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    a->exec = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (a->write == MAP_FAILED || a->exec == MAP_FAILED) {
        error_errno(error, errno, "cannot map memory for native thunks");
        goto fail;
    }
    close(fd);
    return a;
fail:
    if (fd >= 0) {
        close(fd);
    }
    thunk_arena_free(a);
    return NULL;
}

void thunk_arena_free(struct thunk_arena *a)
{
    if (!a) {
        return;
    }
    if (a->write != MAP_FAILED) {
        munmap(a->write, a->size);
    }
    if (a->exec != MAP_FAILED) {
        munmap(a->exec, a->size);
    }
    g_free(a);
}

static uint32_t hash_code(const uint8_t *code, unsigned len)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (unsigned i = 0; i < len; i++) {
        h = (h ^ code[i]) * 16777619u;
    }
    return h;
}

static thunk_fn function_at(const struct thunk_arena *a, uint32_t off)
{
    return (thunk_fn)(uintptr_t)(a->exec + off);
}

thunk_fn thunk_get(struct thunk_arena *a, const uint8_t *code, unsigned len)
{
    uint32_t h = hash_code(code, len), i = h & (INDEX_SIZE - 1);
    for (; a->index[i].off; i = (i + 1) & (INDEX_SIZE - 1)) {
        const struct index_entry *e = &a->index[i];
        if (e->hash == (uint16_t)(h >> 16) && e->len == len &&
            memcmp(a->write + e->off, code, len) == 0) {
            return function_at(a, e->off);
        }
    }
    if (a->nb >= MAX_THUNKS || a->used + len > a->size) {
        return NULL;
    }
    a->index[i] = (struct index_entry){a->used, (uint16_t)len, (uint16_t)(h >> 16)};
    a->nb++;
    memcpy(a->write + a->used, code, len);
    a->used = ALIGN_UP(a->used + len, 16u);
    return function_at(a, a->index[i].off);
}

unsigned thunk_arena_count(const struct thunk_arena *a)
{
    return a->nb;
}

void thunk_arena_reset(struct thunk_arena *a)
{
    memset(a->index, 0, sizeof(a->index));
    a->used = 16;
    a->nb = 0;
}

/* --- Emission -------------------------------------------------------------- */

struct emit {
    uint8_t *code;
    unsigned len;
};

static void put(struct emit *e, unsigned byte)
{
    e->code[e->len++] = (uint8_t)byte;
}

/* ModRM and disp32 for [rdi + off] with @reg. */
static void put_cpu_field(struct emit *e, unsigned reg, size_t off)
{
    put(e, 0x80 | (reg & 7) << 3 | 7);
    uint32_t disp = (uint32_t)off;
    memcpy(e->code + e->len, &disp, 4);
    e->len += 4;
}

enum { LOAD, STORE };

/* mov r64, [rdi+gpr] or back. @host is below 8. */
static void put_gpr(struct emit *e, int dir, unsigned host, unsigned guest)
{
    put(e, 0x48);
    put(e, dir == LOAD ? 0x8b : 0x89);
    put_cpu_field(e, host, offsetof(struct t0_cpu, gpr) + 8 * guest);
}

static size_t vector_off(unsigned n)
{
    return offsetof(struct t0_cpu, s.fpu.ymm) + 32 * (size_t)n;
}

/* movups xmm or vmovups ymm: 0F 10 / 0F 11. */
static void put_vector(struct emit *e, int dir, bool vex, unsigned n)
{
    if (vex) {
        put(e, 0xc5);
        put(e, (n < 8 ? 0x80 : 0) | 0x7c); /* R, vvvv = 1111b, L = 1, pp = 0 */
    } else {
        if (n >= 8) {
            put(e, 0x44);
        }
        put(e, 0x0f);
    }
    put(e, dir == LOAD ? 0x10 : 0x11);
    put_cpu_field(e, n, vector_off(n));
}

/* What of an instruction's encoding is carried over. */
struct encoding {
    bool has_reg_vector; /* ModRM.reg names a vector register: keep REX.R */
    bool rm_is_vector;
    bool rm_is_gpr, reg_is_gpr;
    bool has_rm_gpr; /* or memory in place of one */
    bool rm_is_mem;
    uint8_t base; /* host register that points to memory */
    bool is4;     /* the last byte names is4_reg */
    uint8_t is4_reg;
    uint8_t vvvv;       /* vector register of VEX.vvvv, or 0 for none */
    unsigned modrm_off; /* in the guest's bytes */
};

/* Where the ModRM byte is: after prefixes, REX or VEX, and the opcode. */
static unsigned modrm_offset(const struct x86_insn *insn, const uint8_t *bytes)
{
    unsigned i = 0;
    static const uint8_t legacy[] = {0x66, 0xf2, 0xf3, 0x67, 0x2e, 0x36,
                                     0x3e, 0x26, 0x64, 0x65, 0xf0};
    for (;; i++) {
        bool rex = insn->mode == 64 && (bytes[i] & 0xf0) == 0x40;
        if (!rex && !memchr(legacy, bytes[i], sizeof(legacy))) {
            break;
        }
    }
    if (insn->prefixes & X86_P_VEX) {
        return i + (bytes[i] == 0xc4 ? 3 : 2) + 1;
    }
    switch (x86_insn_desc(insn)->map) {
    case X86_MAP_ONE: return i + 1;
    case X86_MAP_0F: return i + 2;
    default: return i + 3;
    }
}

/* Sort the operands; false when one has no place in the scheme. */
static bool sort_operands(const struct x86_insn *insn, struct encoding *enc)
{
    const struct x86_desc *d = x86_insn_desc(insn);
    for (unsigned i = 0; i < insn->nb_opnds; i++) {
        const struct x86_opnd *o = &insn->opnd[i];
        switch (d->opnd[i].enc) {
        case X86_ENC_V: enc->has_reg_vector = true; break;
        case X86_ENC_U:
        case X86_ENC_W:
            enc->rm_is_mem = o->kind == X86_OPND_MEM;
            enc->rm_is_vector = !enc->rm_is_mem;
            break;
        case X86_ENC_H: enc->vvvv = o->reg; break;
        case X86_ENC_G: enc->reg_is_gpr = true; break;
        case X86_ENC_E:
        case X86_ENC_R:
            enc->has_rm_gpr = true;
            enc->rm_is_mem = o->kind == X86_OPND_MEM;
            enc->rm_is_gpr = !enc->rm_is_mem;
            break;
        case X86_ENC_M: enc->rm_is_mem = true; break;
        case X86_ENC_Q: enc->rm_is_mem = o->kind == X86_OPND_MEM; break;
        case X86_ENC_L:
            enc->is4 = true;
            enc->is4_reg = o->reg;
            break;
        case X86_ENC_P:
        case X86_ENC_N:
        case X86_ENC_XMM0:
        case X86_ENC_ST0:
        case X86_ENC_STI:
        case X86_ENC_I:
        case X86_ENC_IS:
        case X86_ENC_I2:
        case X86_ENC_ONE: break;
        default: return false;
        }
    }
    return true;
}

/* The instruction itself, with the operands moved. */
static void put_insn(struct emit *e, const struct x86_insn *insn, const uint8_t *bytes,
                     const struct encoding *enc)
{
    unsigned r = (insn->prefixes & X86_P_R) && enc->has_reg_vector;
    unsigned b = (insn->prefixes & X86_P_B) && enc->rm_is_vector;
    const struct x86_desc *d = x86_insn_desc(insn);
    /* Outside 64-bit mode VEX.W makes no general register wider. */
    bool has_gpr = enc->reg_is_gpr || enc->has_rm_gpr || d->gpr_read;
    unsigned w = (insn->prefixes & X86_P_W) && !(insn->mode != 64 && has_gpr);

    if (insn->prefixes & X86_P_VEX) {
        unsigned last = bytes[enc->modrm_off - 2]; /* pp, and L */
        unsigned map = d->map - X86_MAP_VEX1 + 1;
        put(e, 0xc4);
        put(e, (r ? 0 : 0x80) | 0x40 | (b ? 0 : 0x20) | map);
        put(e, w << 7 | (~enc->vvvv & 0xfu) << 3 | (last & 7));
    } else {
        if (insn->prefixes & X86_P_OPSIZE) {
            put(e, 0x66);
        }
        if (insn->prefixes & (X86_P_REP | X86_P_REPNE)) {
            put(e, insn->prefixes & X86_P_REP ? 0xf3 : 0xf2);
        }
        if (r || b || w) {
            put(e, 0x40 | w << 3 | r << 2 | b);
        }
        if (d->map != X86_MAP_ONE) {
            put(e, 0x0f);
        }
        if (d->map == X86_MAP_0F38 || d->map == X86_MAP_0F3A) {
            put(e, d->map == X86_MAP_0F38 ? 0x38 : 0x3a);
        }
    }
    put(e, insn->opcode);
    if (!(insn->prefixes & X86_P_MODRM)) {
        return;
    }
    unsigned reg = enc->reg_is_gpr ? X86_RAX : insn->modrm >> 3 & 7;
    unsigned rm = enc->rm_is_gpr ? X86_RCX : insn->modrm & 7;
    put(e, enc->rm_is_mem ? (reg << 3 | enc->base) : (0xc0 | reg << 3 | rm));

    bool sib = insn->addrsize != 2 && insn->modrm < 0xc0 && (insn->modrm & 7) == 4;
    for (unsigned i = enc->modrm_off + 1 + sib + insn->disp_size; i < insn->len; i++) {
        put(e, bytes[i]); /* immediate or is4 */
    }
    if (enc->is4) { /* bit 7 counts only in 64-bit mode, where this is */
        e->code[e->len - 1] =
            (uint8_t)(enc->is4_reg << 4 | (bytes[insn->len - 1] & 15));
    }
}

/* A write that leaves part of the register as it was needs the old value. One to a
 * general register is of 32 or 64 bits here. */
static bool needs_load(const struct x86_opnd *o)
{
    return (o->access & X86_ACC_R) || (o->kind != X86_OPND_REG && o->size < 16);
}

/* Those whose result is XMM0 without naming it. */
static bool writes_xmm0(const struct x86_insn *insn)
{
    return insn->op == X86_OP_PCMPESTRM || insn->op == X86_OP_PCMPISTRM ||
           insn->op == X86_OP_VPCMPESTRM || insn->op == X86_OP_VPCMPISTRM;
}

static void put_operands(struct emit *e, const struct x86_insn *insn, int dir)
{
    const struct x86_desc *d = x86_insn_desc(insn);
    bool vex = insn->prefixes & X86_P_VEX;
    for (unsigned i = 0; i < insn->nb_opnds; i++) {
        const struct x86_opnd *o = &insn->opnd[i];
        bool wanted = dir == LOAD ? needs_load(o) : (o->access & X86_ACC_W) != 0;
        if (!wanted) {
            continue;
        }
        if (o->kind == X86_OPND_XMM || o->kind == X86_OPND_YMM) {
            put_vector(e, dir, vex, o->reg);
        } else if (o->kind == X86_OPND_REG) {
            put_gpr(e, dir, d->opnd[i].enc == X86_ENC_G ? X86_RAX : X86_RCX, o->reg);
        }
    }
    if (dir == STORE && writes_xmm0(insn)) {
        put_vector(e, STORE, vex, 0);
    }
    uint16_t implicit = dir == LOAD ? d->gpr_read : d->gpr_written;
    for (unsigned r = X86_RAX; r <= X86_RDX; r++) {
        if (implicit >> r & 1) {
            put_gpr(e, dir, r, r);
        }
    }
}

static void put_load_flags(struct emit *e)
{
    put(e, 0x66); /* mov ax, [rdi+flags] */
    put(e, 0x8b);
    put_cpu_field(e, X86_RAX, offsetof(struct t0_cpu, flags));
    put(e, 0x04); /* add al, 0x7f: OF */
    put(e, 0x7f);
    put(e, 0x9e); /* sahf */
}

static void put_store_flags(struct emit *e)
{
    put(e, 0x9f); /* lahf */
    put(e, 0x0f); /* seto al */
    put(e, 0x90);
    put(e, 0xc0);
    put(e, 0x66); /* mov [rdi+flags], ax */
    put(e, 0x89);
    put_cpu_field(e, X86_RAX, offsetof(struct t0_cpu, flags));
}

/* What T0_NEXT is. */
static void put_next(struct emit *e)
{
    put(e, 0x48);
    if (T0_TAIL_CALLS) {
        put(e, 0x83); /* add rsi, sizeof(struct t0_op) */
        put(e, 0xc6);
        put(e, sizeof(struct t0_op));
        put(e, 0xff); /* jmp [rsi] */
        put(e, 0x26);
    } else {
        put(e, 0x8d); /* lea rax, [rsi + sizeof(struct t0_op)] */
        put(e, 0x46);
        put(e, sizeof(struct t0_op));
        put(e, 0xc3);
    }
}

_Static_assert(offsetof(struct t0_op, fn) == 0, "jumped to");

unsigned thunk_emit(const struct x86_insn *insn, const uint8_t *bytes, uint8_t *code)
{
    const struct x86_desc *d = x86_insn_desc(insn);
    struct encoding enc = {0};
    bool scheme = d->cls == X86_CLASS_X87 || d->cls == X86_CLASS_MMX ||
                  d->cls == X86_CLASS_SSE || d->cls == X86_CLASS_AVX;
    if (!scheme || (d->props & (X86_D_VSIB | X86_D_VSIB_HALF)) ||
        !sort_operands(insn, &enc)) {
        return 0;
    }
    enc.modrm_off = modrm_offset(insn, bytes);

    struct emit e = {.code = code};
    if (d->flags_read & X86_FL_ARITH) {
        put_load_flags(&e); /* before eax is loaded: MOV leaves flags alone */
    }
    enc.base = X86_RDX;
    if (d->gpr_read >> X86_RDX & 1) { /* PCMPESTRI: the length takes its place */
        enc.base = X86_RCX;
        put(&e, 0x48); /* mov rcx, rdx */
        put(&e, 0x89);
        put(&e, 0xd1);
    }
    put_operands(&e, insn, LOAD);
    put_insn(&e, insn, bytes, &enc);
    put_operands(&e, insn, STORE);
    if ((d->flags_written | d->flags_undef) & X86_FL_ARITH) {
        put_store_flags(&e);
    }
    if (insn->prefixes & X86_P_VEX) {
        put(&e, 0xc5); /* vzeroupper: no dirty upper halves for the C code */
        put(&e, 0xf8);
        put(&e, 0x77);
    }
    put_next(&e);
    return e.len;
}
