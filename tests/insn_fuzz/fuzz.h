#ifndef TESTS_INSN_FUZZ_FUZZ_H
#define TESTS_INSN_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/isa/x86/insn.h"
#include "lib/isa/x86/state.h"

/*
 * The instruction fuzzer: random user-mode sequences, run by the processor this runs on
 * and by the software CPU from the same state, and everything compared.
 *
 *   forms.c      what there is to run: the decoder's rows, in 64-bit and in 32-bit
 *                code, each with a register and a memory form; and the table of what
 *                cannot be compared, with reasons
 *   coverage.c   the cells of each form: operand sizes, W and L, prefixes, ways to
 *                address, kinds of registers; what was met, and which faults
 *   values.c     random numbers, operands at the edges, registers, memory
 *   encode.c     one instruction of a form, its memory operand aimed at a place
 *   prepare.c    what an instruction needs before it to be worth running
 *   structure.c  loops, functions, and code that changes code
 *   generate.c   a whole case from a seed and a number
 *   native.c     the processor; guest.c: the software CPU
 *   compare.c    outcomes: what differs, what is forgiven and why
 *   main.c       command line, worker process, minimiser, report
 *
 * A case depends on nothing but the seed and its number, so that any case can be had
 * again. Case n has the n-th cell (modulo their number) as its subject, which makes
 * coverage a matter of counting; what stands around it is random. Every second case is
 * 32-bit code: natively in compatibility mode.
 */

/* --- Where things are, natively and in the guest --------------------------- */

#define FZ_PAGE 4096u

/* Two writable pages, a read-only one, and nothing. */
#define FZ_DATA       UINT64_C(0x10000000)
#define FZ_DATA_PAGES 3u
#define FZ_DATA_RW    (2u * FZ_PAGE)
/* One page, nothing on both sides. */
#define FZ_STACK UINT64_C(0x18000000)
/* Two pages, writable and executable, and nothing. */
#define FZ_CODE       UINT64_C(0x20000000)
#define FZ_CODE_PAGES 2u
/* Where a sequence goes that comes to its end; of 32-bit code behind it. */
#define FZ_EXIT   UINT64_C(0x20100000)
#define FZ_EXIT32 (FZ_EXIT + 0x40)

#define FZ_FS_BASE (FZ_DATA - 0x12340)
#define FZ_GS_BASE (FZ_FS_BASE + 0x248) /* the other one's data is mapped, too */

/* In 32-bit code FS and GS are the first two of the process's own descriptors. 16-bit
 * addresses reach the data through both; GS ends before the last bytes of the second
 * page. */
#define FZ_FS_SEL     0x07u
#define FZ_GS_SEL     0x0fu
#define FZ_FS32_BASE  (FZ_DATA - 0x1340)
#define FZ_GS32_BASE  (FZ_DATA - 0x800)
#define FZ_GS32_LIMIT (0x800u + FZ_DATA_RW - 0x80u - 1u)

/* What a sequence can see of memory. */
struct fz_mem {
    _Alignas(64) uint8_t data[FZ_DATA_PAGES * FZ_PAGE];
    uint8_t stack[FZ_PAGE];
    uint8_t code[FZ_CODE_PAGES * FZ_PAGE];
};

/* --- State ----------------------------------------------------------------- */

/* x87, SSE and AVX state in XSAVE's standard format, and where things are in it. */
#define FZ_XSAVE_SIZE 832u
enum {
    FZ_FCW = 0,
    FZ_FSW = 2,
    FZ_FTW = 4,
    FZ_FOP = 6,
    FZ_FIP = 8,
    FZ_FDP = 16,
    FZ_MXCSR = 24,
    FZ_ST = 32,
    FZ_XMM = 160,
    FZ_XSTATE_BV = 512,
    FZ_YMM = 576,
};

enum fz_end {
    FZ_END_EXIT,    /* came to FZ_EXIT */
    FZ_END_FAULT,   /* an exception: vector, error, cr2 */
    FZ_END_TIMEOUT, /* did not come back */
    FZ_END_SYSCALL, /* the host's kernel was called: nothing to compare */
};

struct fz_state {
    uint64_t gpr[16];
    uint64_t rflags;
    uint64_t rip;
    uint64_t fs_base, gs_base;
    uint16_t seg[X86_NB_SEG]; /* selectors */
    uint8_t end;              /* enum fz_end */
    uint8_t vector;
    uint32_t error;
    uint64_t cr2; /* with #PF */
    _Alignas(64) uint8_t xsave[FZ_XSAVE_SIZE];
};

struct fz_outcome {
    struct fz_state s;
    struct fz_mem mem;
};

/* --- Forms ----------------------------------------------------------------- */

enum fz_skip {
    FZ_RUN,        /* compare everything */
    FZ_RUN_LAST,   /* compare everything, but nothing may come after it */
    FZ_RUN_RESULT, /* as the last one, without the registers it writes */
    FZ_RUN_NEVER,
};

#define FZ_MAX_VARIANTS 8u

/* What an instruction may have beside its form: counted each by itself. In the order
 * of their bits. */
/* clang-format off */
#define FZ_ASPECTS(X)                                                    \
    X(AD,    "67h")         /* the other address size                 */ \
    X(FS,    "fs:")                                                      \
    X(GS,    "gs:")                                                      \
    X(DISP,  "disp32")      /* no register: RIP-relative in 64-bit code */ \
    X(SIB,   "base+index")                                               \
    X(LOCK,  "lock")                                                     \
    X(REP,   "rep")                                                      \
    X(REPNE, "repne")                                                    \
    X(HIGH,  "ah..bh")                                                   \
    X(LOW,   "spl..r15b")   /* byte registers that need REX           */ \
    X(EXT,   "r8..r15")     /* or XMM8 to XMM15                       */
/* clang-format on */

#define FZ_ASPECT_ENUM(id, name) FZ_ASPECT_NR_##id,
enum { FZ_ASPECTS(FZ_ASPECT_ENUM) FZ_NB_ASPECTS };
#define FZ_ASPECT_BIT(id, name) FZ_A_##id = 1u << FZ_ASPECT_NR_##id,
enum { FZ_ASPECTS(FZ_ASPECT_BIT) };

struct fz_form {
    uint16_t row;
    uint8_t bits; /* of the code: 64, 32 */
    bool has_mem; /* the memory form of a row that has one */
    uint8_t skip; /* enum fz_skip */
    const char *reason;
    /* Cells: one for each variant, then one for each bit of aspects, then nb_index. */
    uint32_t cell;
    uint8_t nb_variants;
    uint8_t variant[FZ_MAX_VARIANTS]; /* keys, see coverage.c */
    uint8_t key_mask;
    uint8_t nb_index; /* 16 conditions, 8 registers of the x87, or 0 */
    uint32_t aspects;
};

/* The forms of one kind of code, in struct fz_forms' arrays. */
struct fz_range {
    unsigned first, nb, nb_run; /* forms: [first, first + nb_run) run */
    unsigned first_plain, nb_plain;
    unsigned first_cell, nb_cells; /* of forms that run */
    uint32_t *subject;             /* cells, those that are rarely met more often */
    unsigned nb_subjects;
};

/* All forms of user mode; in each range, those that never run come last. */
struct fz_forms {
    struct fz_form *form;
    unsigned nb;
    struct fz_range range[2]; /* 64, 32: fz_range_of() */
    unsigned *plain; /* indices of integer forms, which make up half of a case */
    uint16_t *cell;  /* the form of each cell */
    unsigned nb_cells;
};

static inline const struct fz_range *fz_range_of(const struct fz_forms *f,
                                                 unsigned bits)
{
    return &f->range[bits == 32];
}

void fz_forms_init(struct fz_forms *f);
void fz_forms_done(struct fz_forms *f);
/* "add r/m32, r32"-like text: mnemonic, encoding, "reg" or "mem". */
void fz_form_name(const struct fz_form *form, char *buf, size_t n);
/* Why a form always faults, or NULL. */
const char *fz_form_faults(const struct fz_form *form);
/* The table of exclusions, for people. */
void fz_forms_explain(FILE *out);

/* --- Random numbers and values --------------------------------------------- */

struct fz_rng {
    uint64_t s;
};

static inline uint64_t fz_rnd(struct fz_rng *r)
{
    r->s ^= r->s << 13;
    r->s ^= r->s >> 7;
    r->s ^= r->s << 17;
    return r->s * UINT64_C(0x2545f4914f6cdd1d);
}

static inline unsigned fz_below(struct fz_rng *r, unsigned n)
{
    return (unsigned)((fz_rnd(r) >> 32) * n >> 32);
}

/* True in @percent of 100. */
static inline bool fz_chance(struct fz_rng *r, unsigned percent)
{
    return fz_below(r, 100) < percent;
}

void fz_seed(struct fz_rng *r, uint64_t seed, uint64_t number);

/* Values at which arithmetic has its edges, and any others. */
uint64_t fz_value(struct fz_rng *r);
uint16_t fz_control_word(struct fz_rng *r);
uint32_t fz_mxcsr(struct fz_rng *r);
/* Fill @n bytes, a multiple of 16, with values of one kind: numbers of some format. */
void fz_fill(struct fz_rng *r, uint8_t *p, unsigned n);
/* A whole x87, SSE and AVX state. */
void fz_fill_xsave(struct fz_rng *r, uint8_t *p);
/* An area that XRSTOR takes, mostly; its first 512 bytes for FXRSTOR. */
void fz_fill_area(struct fz_rng *r, uint8_t *p, bool fxsave);

/* --- Cases ----------------------------------------------------------------- */

#define FZ_MAX_INSNS   64u
#define FZ_MAX_ITEMS   16u
#define FZ_MAX_PATCHES 24u
#define FZ_NO_FORM     0xffffu

enum fz_fix {
    FZ_FIX_NONE,
    FZ_FIX_RIP,    /* disp32 so that RIP-relative reaches target_la */
    FZ_FIX_BRANCH, /* relative, to item `target` */
    FZ_FIX_ADDR,   /* absolute address of item `target`, 4 bytes */
    FZ_FIX_CODE,   /* disp32 to byte `delta` of instruction `target` */
};

struct fz_insn {
    uint8_t bytes[X86_INSN_MAX_LEN + 1];
    struct x86_insn insn;
    uint16_t form; /* FZ_NO_FORM: set up for the next one */
    uint8_t item;
    uint8_t fix, fix_at, fix_size; /* enum fz_fix, in bytes[] */
    uint8_t target;
    uint8_t delta;
    uint64_t target_la;
    uint64_t mem_la; /* where its memory operand was aimed */
    uint64_t count;  /* RCX that it was given for REP */
    bool dropped;    /* by the minimiser */
    /* Filled by fz_layout(). */
    uint32_t off; /* in the code pages */
};

/* Bytes of memory that a case has of its own. */
struct fz_patch {
    uint64_t la;
    uint16_t len;
    uint8_t has_target; /* the address of item `target` goes to its beginning */
    uint8_t target;
    uint8_t bytes[16];
    const uint8_t *big; /* instead of bytes */
};

struct fz_case {
    uint64_t seed, number;
    unsigned bits; /* of the code */
    unsigned nb_insns, nb_items;
    struct fz_insn insn[FZ_MAX_INSNS];
    unsigned nb_patches;
    struct fz_patch patch[FZ_MAX_PATCHES];
    uint32_t start_off, end_off; /* of the code, in the code pages */
    uint8_t place;               /* where the code goes: see fz_layout() */
    uint8_t shape;               /* bits: loop, function, changed code */
    uint16_t ignored;            /* registers not to compare */
    struct fz_state from;
    struct fz_mem mem; /* from this */
    uint8_t big[2][FZ_XSAVE_SIZE];
    unsigned nb_big;
};

/* Memory before the patches of cases [number & ~4095, number | 4095]. */
void fz_base_memory(uint64_t seed, uint64_t number, struct fz_mem *mem);

/* @base: fz_base_memory() of the case. */
void fz_generate(const struct fz_forms *forms, const struct fz_mem *base, uint64_t seed,
                 uint64_t number, unsigned max_items, struct fz_case *k);

/* Place what is not dropped, resolve targets, make k->mem. False: no room. */
bool fz_layout(const struct fz_mem *base, struct fz_case *k);

/* --- Inside the generator -------------------------------------------------- */

struct fz_gen {
    struct fz_rng r;
    const struct fz_forms *forms;
    const struct fz_mem *base;
    struct fz_case *k;
    unsigned item;    /* being made */
    unsigned nb_regs; /* 16, 8 in 32-bit code */
    int loop_reg;     /* counts a loop, must stay; or -1 */
    bool no_stack;    /* in a function: the stack pointer must stay */
    uint64_t val[16]; /* of the registers that are known */
    uint16_t known;
    uint16_t keep;   /* registers better not written: they point to memory */
    uint64_t fs, gs; /* bases */
    bool fs_known, gs_known;
    struct { /* what was known where a branch to item `to` stands */
        uint8_t to;
        uint16_t known;
        uint64_t val[16];
    } join[FZ_MAX_ITEMS];
    unsigned nb_joins;
};

/* What prepare.c wants of the encoding. */
struct fz_wish {
    bool no_seg;      /* no FS or GS */
    bool plain;       /* no prefixes but those that are needed */
    bool flat_target; /* memory operand at target */
    uint64_t target;
    uint8_t seg; /* 0, or X86_FS, X86_GS: prefix to use */
    bool rep, repne, adsize;
    /* A cell: what coverage.c calls key, aspect and index. */
    bool directed;
    int key;         /* or -1 */
    uint32_t aspect; /* one bit, or 0 */
    int index;       /* or -1 */
};

/* Any instruction of @form with the prefix 66h, W and L as told, in @bytes; false:
 * there is none. */
bool fz_encode_template(const struct fz_form *form, bool p66, bool w, bool l,
                        struct x86_insn *ret);

/* Make an instruction of @form; false: it did not work out (try another form). */
bool fz_encode(struct fz_gen *g, unsigned form, const struct fz_wish *w,
               struct fz_insn *ret, uint64_t *ret_target);

/* Cases with odd numbers are 32-bit code. */
static inline unsigned fz_bits_of(uint64_t number)
{
    return number & 1 ? 32 : 64;
}

/* The wish that leads to cell @cell, one of @form's. */
void fz_wish_cell(const struct fz_form *form, unsigned cell, struct fz_wish *w);
/* Whether @i fulfils it. */
bool fz_wish_met(const struct fz_form *form, const struct fz_wish *w,
                 const struct x86_insn *i);

/* Append an instruction given as bytes. */
struct fz_insn *fz_emit(struct fz_gen *g, const uint8_t *bytes, unsigned n);
/* Make register @reg have value @v, with a MOV if it has not. */
void fz_ensure(struct fz_gen *g, unsigned reg, uint64_t v);
/* A place for @size bytes of data; aligned (mostly) if @align. */
uint64_t fz_target(struct fz_gen *g, unsigned size, bool align, bool write);
/* The initial contents of memory at @la, or NULL when it is not in the data pages. */
const uint8_t *fz_contents(const struct fz_gen *g, uint64_t la, unsigned size);
struct fz_patch *fz_add_patch(struct fz_gen *g, uint64_t la, const void *p,
                              unsigned len);

/* Generate one item: @form with what it needs, cell @cell of it if that is not
 * FZ_NO_CELL. False: nothing was made. */
#define FZ_NO_CELL UINT32_MAX
bool fz_item(struct fz_gen *g, unsigned form, uint32_t cell);
/* The same of a form that makes sense anywhere. */
void fz_any_item(struct fz_gen *g);

/* Loops, functions and changing code instead of a row of items. */
void fz_structure(struct fz_gen *g, unsigned subject, uint32_t cell);
/* An item after this one is where a branch at this point may go. */
void fz_note_branch(struct fz_gen *g, unsigned to);

/* --- Coverage -------------------------------------------------------------- */

/* Faults that are worth counting by themselves. */
/* clang-format off */
#define FZ_FAULTS(X)                                                              \
    X(MIDDLE,   "behind other instructions of the sequence")                      \
    X(DIVIDE,   "#DE of a division")                                              \
    X(STEP,     "#DB after an instruction with TF")                               \
    X(BOUND,    "#BR of BOUND")                                                   \
    X(OVERFLOW, "#OF of INTO")                                                    \
    X(SECOND,   "#PF on the second page of an operand")                           \
    X(READONLY, "#PF of a write to a read-only page")                             \
    X(FETCH,    "#PF of an instruction over the edge of its page")                \
    X(REP,      "#PF of a REP instruction that had done a part")                  \
    X(GATHER,   "#PF of a gather")                                                \
    X(MASKED,   "#PF of a masked move")                                           \
    X(AREA,     "#PF in a save area or environment")                              \
    X(ALIGN,    "#GP of a misaligned SSE or AVX operand")                         \
    X(CANON,    "#GP or #SS of a non-canonical address")                          \
    X(LIMIT,    "#GP or #SS beyond a segment's limit (32-bit code)")              \
    X(SELECTOR, "#GP, #NP or #SS with a selector as error code")                  \
    X(AC,       "#AC of a misaligned access with AC")                             \
    X(MF_X87,   "#MF of an x87 instruction")                                      \
    X(MF_MMX,   "#MF of an MMX instruction")                                      \
    X(XM_SSE,   "#XM of an SSE instruction")                                      \
    X(XM_AVX,   "#XM of an AVX instruction")
/* clang-format on */
#define FZ_FAULT_ENUM(id, text) FZ_FAULT_##id,
enum fz_fault { FZ_FAULTS(FZ_FAULT_ENUM) FZ_NB_FAULTS };

/* What one process has counted. */
struct fz_counts {
    uint64_t vector[2][32]; /* by kind of code */
    uint64_t fault[FZ_NB_FAULTS];
    uint64_t loops, calls, changes; /* structures made */
    struct {
        uint32_t completed, faulted;
    } form[8192];
    uint32_t cell[]; /* completed or faulted */
};

size_t fz_counts_size(const struct fz_forms *f);
void fz_counts_add(const struct fz_forms *f, struct fz_counts *sum,
                   const struct fz_counts *more);
/* Find out the cells of all forms. */
void fz_cells_init(struct fz_forms *f);
/* What was certainly executed of @k, which ended as @s says. */
void fz_count(const struct fz_forms *f, const struct fz_case *k,
              const struct fz_state *s, struct fz_counts *c);
/* The least that a cell was met. */
uint32_t fz_counts_least(const struct fz_forms *f, const struct fz_counts *c);

struct fz_run_facts {
    uint64_t seed, sequences, skipped;
    double seconds;
    unsigned tier, different;
};
/* For people: all that is below @target, what always faults, what is not run. */
void fz_report(const struct fz_forms *f, const struct fz_counts *c, unsigned target,
               FILE *out);
/* As JSON, all of it. False: errno says why not. */
bool fz_report_json(const struct fz_forms *f, const struct fz_counts *c,
                    const struct fz_run_facts *run, const char *path);

/* --- Running --------------------------------------------------------------- */

/* Map the pages, take the signals, forbid system calls from generated code. Once. */
void fz_native_init(void);
/* Run from @s and @mem; both are what it was after it. */
void fz_native_run(const struct fz_mem *mem, struct fz_outcome *ret,
                   const struct fz_state *from);

struct fz_guest;
struct fz_guest *fz_guest_new(unsigned tier);
void fz_guest_free(struct fz_guest *g);
enum {
    FZ_WARM = 1,    /* its TLB knows the data and the stack */
    FZ_NO_JUNK = 2, /* the upper halves of registers are 0 in 32-bit code, too */
};
/* @how: of the above. */
void fz_guest_run(struct fz_guest *g, const struct fz_mem *mem, struct fz_outcome *ret,
                  const struct fz_state *from, unsigned how);
/*
 * The tick of the watchdog, from its signal handler. What counts is the time that the
 * thread had the processor, since the first tick of a run.
 */
#define FZ_TICK_US 20000
uint64_t fz_cpu_time_ns(void);
void fz_guest_tick(void);
void fz_native_set_tick(void (*tick)(void));

/* --- Comparing ------------------------------------------------------------- */

enum fz_verdict {
    FZ_EQUAL,
    FZ_DIFFERENT,
    FZ_SKIPPED, /* cannot be compared: a system call, an endless loop, ... */
};

/* Clear in @s what is not state: both sides' in fz_compare(). */
void fz_normalise(const struct fz_case *k, struct fz_state *s);
/* Whether nothing differs in what is compared. */
bool fz_equal(const struct fz_outcome *want, const struct fz_outcome *got);
/* Forgives in @got what may differ. */
enum fz_verdict fz_compare(const struct fz_case *k, const struct fz_outcome *want,
                           struct fz_outcome *got);
void fz_print_case(const struct fz_case *k, FILE *out);
void fz_print_difference(const struct fz_case *k, const struct fz_outcome *want,
                         const struct fz_outcome *got, FILE *out);

/* Index of the instruction at @rip, or -1. */
int fz_insn_at(const struct fz_case *k, uint64_t rip);

#endif
