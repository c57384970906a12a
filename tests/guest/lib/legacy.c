/* The framework of legacy.h: tables, the ways in and out, what was found. */
#include "tests/guest/lib/legacy.h"

/* Written by the stubs, which know the offsets. */
struct record {
    uint32_t gpr[8];
    uint32_t ds, eflags, cs, ss, es, fs, gs;
};

struct table_pointer {
    uint16_t limit;
    uint32_t base;
} __attribute__((packed));

#define REAL_CONTEXT ((struct context *)0x7000)
#define REAL_RECORD  ((struct record *)0x7100)
#define REAL_GDTR    ((struct table_pointer *)0x7200)
#define TRAMPOLINE   0x8000u
#define REAL_STUBS   0x8100u

extern const uint8_t legacy_stubs[], trampoline[], trampoline_end[];
extern struct table_pointer legacy_gdtr;
struct record legacy_rec;
struct table_pointer real_idtr;
uint32_t real_data_sel;
void legacy_main(void);
void legacy_caught(void);
void legacy_caught_real(void);
void legacy_enter(const struct context *c);
void legacy_enter_real(void);

/* Flat code and data are there from the start. */
uint64_t legacy_gdt[64] __attribute__((aligned(16))) = {
    [SEL_CODE / 8] = 0x00cf9b000000ffff,
    [SEL_DATA / 8] = 0x00cf93000000ffff,
};
uint64_t legacy_idt[256] __attribute__((aligned(16)));
uint64_t legacy_ldt[16] __attribute__((aligned(16)));
struct tss32 legacy_tss __attribute__((aligned(16)));
uint8_t found_access[64];
bool real_big;
uint16_t real_idt_limit = 0x3ff;

static uint8_t stacks[4][8192] __attribute__((aligned(16)));
static uint8_t inner_stack[3][8192] __attribute__((aligned(16)));
static struct trap caught;

/* --- Descriptors ------------------------------------------------------------ */

uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 |
           (uint64_t)access << 40 | (uint64_t)(limit >> 16 & 15) << 48 |
           (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

uint64_t gate(uint16_t sel, uint32_t off, unsigned access, unsigned params)
{
    return (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)params << 32 |
           (uint64_t)access << 40 | (uint64_t)(off >> 16) << 48;
}

void set_gdt(uint16_t sel, uint64_t raw)
{
    legacy_gdt[sel / 8] = raw;
}

void set_idt(unsigned vector, uint64_t raw)
{
    legacy_idt[vector] = raw;
}

void set_ldt(uint16_t sel, uint64_t raw)
{
    legacy_ldt[sel / 8] = raw;
}

uint32_t stub(unsigned vector)
{
    return (uint32_t)legacy_stubs + vector * 16;
}

static void make_gdt(void)
{
    const unsigned flat = DESC_32 | DESC_G;
    memset(legacy_gdt, 0, sizeof(legacy_gdt));
    set_gdt(SEL_CODE, descriptor(0, 0xfffff, ACC_CODE, flat));
    set_gdt(SEL_DATA, descriptor(0, 0xfffff, ACC_DATA, flat));
    set_gdt(SEL_UCODE, descriptor(0, 0xfffff, ACC_CODE | 3 << 5, flat));
    set_gdt(SEL_UDATA, descriptor(0, 0xfffff, ACC_DATA | 3 << 5, flat));
    set_gdt(SEL_CODE1, descriptor(0, 0xfffff, ACC_CODE | 1 << 5, flat));
    set_gdt(SEL_DATA1, descriptor(0, 0xfffff, ACC_DATA | 1 << 5, flat));
    set_gdt(SEL_CODE2, descriptor(0, 0xfffff, ACC_CODE | 2 << 5, flat));
    set_gdt(SEL_DATA2, descriptor(0, 0xfffff, ACC_DATA | 2 << 5, flat));
    set_gdt(SEL_CONFORMING, descriptor(0, 0xfffff, ACC_CONFORMING, flat));
    set_gdt(SEL_CODE16, descriptor(0, 0xffff, ACC_CODE, 0));
    set_gdt(SEL_DATA16, descriptor(0, 0xffff, ACC_DATA, 0));
    set_gdt(SEL_TSS,
            descriptor((uint32_t)&legacy_tss, sizeof(legacy_tss) - 1, ACC_TSS, 0));
    set_gdt(SEL_LDT,
            descriptor((uint32_t)legacy_ldt, sizeof(legacy_ldt) - 1, ACC_LDT, 0));
}

static void make_tss(void)
{
    memset(&legacy_tss, 0, sizeof(legacy_tss));
    legacy_tss.esp0 = (uint32_t)(inner_stack[0] + sizeof(inner_stack[0]));
    legacy_tss.ss0 = SEL_DATA;
    legacy_tss.esp1 = (uint32_t)(inner_stack[1] + sizeof(inner_stack[1]));
    legacy_tss.ss1 = SEL_DATA1;
    legacy_tss.esp2 = (uint32_t)(inner_stack[2] + sizeof(inner_stack[2]));
    legacy_tss.ss2 = SEL_DATA2;
    legacy_tss.io_base = (uint16_t)(IO_BITMAP - (uint8_t *)&legacy_tss);
    memset(IO_BITMAP, 0xff, 0x2001);
}

/* The processor as the tests expect it, whatever the last one did. */
static void restore(void)
{
    struct table_pointer idtr = {sizeof(legacy_idt) - 1, (uint32_t)legacy_idt};
    legacy_gdtr.limit = sizeof(legacy_gdt) - 1;
    __asm__ volatile("lgdt %0" : : "m"(legacy_gdtr));
    __asm__ volatile("lidt %0" : : "m"(idtr));
    write_cr0((read_cr0() & ~0x8001000cu) | 0x31); /* no PG, WP, TS, EM */
    write_cr4(0);
    legacy_gdt[SEL_TSS / 8] &= ~(UINT64_C(2) << 40);
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
    __asm__ volatile("lldt %w0" : : "r"(0));
    __asm__ volatile("mov %0, %%dr7" : : "r"(0x400));
    __asm__ volatile("pushl $2; popfl");
}

static void before_test(void)
{
    make_gdt();
    for (unsigned v = 0; v < 256; v++) {
        unsigned dpl = v == 3 || v == 4 || v >= 0x80 ? ACC_DPL3 : 0;
        set_idt(v, gate(SEL_CODE, stub(v), ACC_INT | dpl, 0));
    }
    memset(legacy_ldt, 0, sizeof(legacy_ldt));
    make_tss();
    memset((void *)VM_CODE, 0xcc, 0x10000); /* INT3 after what is put there */
    memset((void *)VM_STACK, 0, LOW_FREE - VM_STACK);
    restore();
}

/* --- Contexts --------------------------------------------------------------- */

struct context ring_context(unsigned level, const void *eip)
{
    static const uint16_t code[] = {SEL_CODE, SEL_CODE1, SEL_CODE2, SEL_UCODE};
    static const uint16_t data[] = {SEL_DATA, SEL_DATA1, SEL_DATA2, SEL_UDATA};
    uint16_t d = data[level];
    return (struct context){
        .gpr[ESP] = (uint32_t)(stacks[level] + sizeof(stacks[level])),
        .eip = (uint32_t)eip,
        .eflags = FL_R1,
        .seg = {d, code[level], d, d, d, d},
    };
}

struct context kernel_context(const void *eip)
{
    return ring_context(0, eip);
}

struct context user_context(const void *eip)
{
    return ring_context(3, eip);
}

struct context real_context(void)
{
    return (struct context){
        .gpr[ESP] = VM_SP,
        .eflags = FL_R1,
        .seg = {[CS] = VM_CODE / 16,
                [SS] = VM_STACK / 16,
                [DS] = VM_DATA / 16,
                [ES] = VM_DATA / 16,
                [FS] = VM_DATA / 16,
                [GS] = VM_DATA / 16},
    };
}

struct context vm86_context(unsigned iopl)
{
    struct context c = real_context();
    c.eflags |= FL_VM | iopl << 12;
    return c;
}

void fill_tss32(struct tss32 *t, const struct context *c)
{
    memset(t, 0, sizeof(*t));
    t->eip = c->eip;
    t->eflags = c->eflags;
    for (unsigned i = 0; i < 8; i++) {
        t->gpr[i] = c->gpr[i];
    }
    for (unsigned i = 0; i < 6; i++) {
        t->seg[i] = c->seg[i];
    }
    t->esp0 = legacy_tss.esp0;
    t->ss0 = legacy_tss.ss0;
    t->cr3 = read_cr3();
    t->io_base = sizeof(*t);
}

void fill_tss16(struct tss16 *t, const struct context *c)
{
    memset(t, 0, sizeof(*t));
    t->ip = (uint16_t)c->eip;
    t->flags = (uint16_t)c->eflags;
    for (unsigned i = 0; i < 8; i++) {
        t->gpr[i] = (uint16_t)c->gpr[i];
    }
    for (unsigned i = 0; i < 4; i++) {
        t->seg[i] = c->seg[i];
    }
    t->sp0 = (uint16_t)legacy_tss.esp0;
    t->ss0 = (uint16_t)legacy_tss.ss0;
}

/* --- What was found --------------------------------------------------------- */

static void from_record(const struct record *r)
{
    caught.cs = (uint16_t)r->cs;
    caught.ss = (uint16_t)r->ss;
    caught.ds = (uint16_t)r->ds;
    caught.es = (uint16_t)r->es;
    caught.fs = (uint16_t)r->fs;
    caught.gs = (uint16_t)r->gs;
    caught.eflags = r->eflags;
    for (unsigned i = 0; i < 8; i++) {
        caught.c.gpr[i] = r->gpr[i];
    }
    caught.c.seg[ES] = caught.es;
    caught.c.seg[SS] = caught.ss;
    caught.c.seg[DS] = caught.ds;
    caught.c.seg[FS] = caught.fs;
    caught.c.seg[GS] = caught.gs;
}

/* Base of the segment @sel, from our own tables. */
static uint32_t base_of(uint16_t sel)
{
    uint64_t d = sel & 4 ? legacy_ldt[sel / 8] : legacy_gdt[sel / 8];
    return (uint32_t)(d >> 16 & 0xffffff) | (uint32_t)(d >> 56) << 24;
}

static bool has_error(unsigned vector)
{
    return vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
}

void legacy_caught(void)
{
    from_record(&legacy_rec);
    uint32_t esp = legacy_rec.gpr[ESP];
    if (!(legacy_gdt[caught.ss / 8] >> 54 & 1) && !(caught.ss & 4)) {
        esp &= 0xffff; /* a 16-bit stack */
    }
    const uint32_t *p = (const uint32_t *)(base_of(caught.ss) + esp);
    caught.vector = *p++;
    caught.error = 0;
    if (has_error(caught.vector)) {
        caught.error = *p++;
    }
    caught.esp = esp + 4; /* without the vector, which the stub pushed */
    memcpy(caught.frame, p, sizeof(caught.frame));
    caught.c.eip = p[0];
    caught.c.seg[CS] = (uint16_t)p[1];
    caught.c.eflags = p[2];
    caught.c.gpr[ESP] = (uint32_t)(p + 3) - base_of(caught.ss);
    if ((p[2] & FL_VM) || (p[1] & 3) != (caught.cs & 3u)) {
        caught.c.gpr[ESP] = p[3];
        caught.c.seg[SS] = (uint16_t)p[4];
    }
    if (p[2] & FL_VM) {
        caught.c.seg[ES] = (uint16_t)p[5];
        caught.c.seg[DS] = (uint16_t)p[6];
        caught.c.seg[FS] = (uint16_t)p[7];
        caught.c.seg[GS] = (uint16_t)p[8];
    }
    __asm__ volatile("str %0" : "=r"(caught.tr));
    __asm__ volatile("mov %%cr2, %0" : "=r"(caught.cr2));
    caught.cr0 = read_cr0();
    caught.cr3 = read_cr3();
    for (unsigned i = 0; i < 64; i++) {
        found_access[i] = (uint8_t)(legacy_gdt[i] >> 40);
    }
    restore();
}

void legacy_caught_real(void)
{
    from_record(REAL_RECORD);
    caught.vector = 0;
    caught.error = 0;
    uint32_t sp = REAL_RECORD->gpr[ESP] & 0xffff, base = caught.ss * 16u;
    uint16_t words[4]; /* vector, IP, CS, flags; SP wraps */
    for (unsigned i = 0; i < 4; i++) {
        words[i] = *(const uint16_t *)(base + ((sp + 2 * i) & 0xffff));
    }
    caught.vector = words[0];
    memcpy(caught.frame16, words + 1, 6);
    caught.esp = (REAL_RECORD->gpr[ESP] & ~0xffffu) | ((sp + 2) & 0xffff);
    caught.c.eip = words[1];
    caught.c.seg[CS] = words[2];
    caught.c.eflags = words[3];
    caught.c.gpr[ESP] = (REAL_RECORD->gpr[ESP] & ~0xffffu) | ((sp + 8) & 0xffff);
    caught.cr0 = read_cr0();
    restore();
}

/* --- Running ---------------------------------------------------------------- */

struct trap run(const struct context *c)
{
    legacy_enter(c);
    return caught;
}

struct trap run_real(const struct context *c)
{
    for (unsigned v = 0; v < 256; v++) {
        ((uint32_t *)0)[v] = REAL_STUBS + 6 * v;
    }
    memcpy((void *)TRAMPOLINE, trampoline, (size_t)(trampoline_end - trampoline));
    *REAL_CONTEXT = *c;
    *REAL_GDTR = (struct table_pointer){sizeof(legacy_gdt) - 1, (uint32_t)legacy_gdt};
    real_idtr = (struct table_pointer){real_idt_limit, 0};
    real_data_sel = real_big ? SEL_DATA : SEL_DATA16;
    legacy_enter_real();
    real_big = false;
    real_idt_limit = 0x3ff;
    return caught;
}

void legacy_main(void)
{
    outb(0x21, 0xff); /* no interrupts but those of tests */
    outb(0xa1, 0xff);
    guest_run_tests(before_test);
}
