/* The framework of guest.h: traps and the paging window. */
#include "tests/guest/lib/guest.h"

extern uint8_t guest_stubs[];
extern uint64_t guest_start_info;
extern uint8_t gdt_pointer[];
extern uint64_t window_pt[512], window_pd[512], window_pdpt[512];
bool try_call(void (*fn)(void *), void *arg, bool user, uint64_t *rsp_slot);
void try_resume(bool trapped, uint64_t rsp);
void guest_trap(uint64_t *frame);
void guest_main(void);

uint64_t guest_idt[512] __attribute__((aligned(16)));
uint8_t guest_tss[104] __attribute__((aligned(16)));
volatile uint32_t guest_irqs[256];
static uint8_t pages[16][4096] __attribute__((aligned(4096)));
static uint8_t ist_stack[8192] __attribute__((aligned(16)));
static uint8_t irq_stack[16384] __attribute__((aligned(16)));

bool (*guest_trap_hook)(unsigned vector, uint64_t *frame);

/* What each processor catches, and where its try_call() goes on. */
static struct {
    struct trap *catching;
    uint64_t rsp;
} tries[GUEST_CPUS];

/* The command line is at offset 24 of hvm_start_info. */
unsigned guest_option(const char *name, unsigned otherwise)
{
    const char *s = *(const char **)(guest_start_info + 24);
    while (s && *s) {
        const char *n = name;
        while (*n && *s == *n) {
            s++;
            n++;
        }
        if (!*n && *s == '=') {
            unsigned v = 0;
            for (s++; *s >= '0' && *s <= '9'; s++) {
                v = 10 * v + (unsigned)(*s - '0');
            }
            return v;
        }
        while (*s && *s != ' ') {
            s++;
        }
        s += *s == ' ';
    }
    return otherwise;
}

/* --- Traps ------------------------------------------------------------------- */

void guest_gate(unsigned vector, uint64_t handler, unsigned type, unsigned dpl,
                unsigned ist)
{
    guest_idt[2 * vector] =
        (handler & 0xffff) | (uint64_t)SEL_CODE64 << 16 | (uint64_t)ist << 32 |
        (uint64_t)(0x80 | dpl << 5 | type) << 40 | (handler >> 16 & 0xffff) << 48;
    guest_idt[2 * vector + 1] = handler >> 32;
}

uint64_t guest_stub(unsigned vector)
{
    return (uint64_t)guest_stubs + 16 * vector;
}

/* frame: gpr[16], vector, error, rip, cs, rflags, rsp, ss. */
void guest_trap(uint64_t *frame)
{
    unsigned vector = (unsigned)frame[16];
    frame[4] = frame[21];
    bool user_return = vector == 0x80 && (frame[19] & 3) == 3;
    if (guest_trap_hook && !user_return && guest_trap_hook(vector, frame)) {
        return;
    }
    if (vector >= 32 && !user_return) {
        guest_irqs[vector]++;
        return;
    }
    unsigned cpu = guest_cpu();
    struct trap *t = tries[cpu].catching;
    if (!t) {
        guest_printf("# unexpected exception %d error 0x%lx rip 0x%lx cr2 0x%lx\n",
                     vector, frame[17], frame[18], read_cr2());
        guest_bail_out("unexpected exception");
    }
    if (user_return) {
        t->vector = NO_TRAP;
    } else {
        for (unsigned i = 0; i < 16; i++) {
            t->gpr[i] = frame[i];
        }
        t->vector = vector;
        t->error = frame[17];
        t->rip = frame[18];
        t->cs = frame[19];
        t->rflags = frame[20];
        t->rsp = frame[21];
        t->ss = frame[22];
        t->cr2 = read_cr2();
    }
    try_resume(!user_return, tries[cpu].rsp);
}

static bool try_as(struct trap *t, void (*fn)(void *), void *arg, bool user)
{
    unsigned cpu = guest_cpu();
    struct trap *outer = tries[cpu].catching;
    uint64_t outer_rsp = tries[cpu].rsp;
    *t = (struct trap){.vector = NO_TRAP};
    tries[cpu].catching = t;
    bool trapped = try_call(fn, arg, user, &tries[cpu].rsp);
    tries[cpu].catching = outer;
    tries[cpu].rsp = outer_rsp;
    return trapped;
}

bool guest_try(struct trap *t, void (*fn)(void *), void *arg)
{
    return try_as(t, fn, arg, false);
}

bool guest_try_user(struct trap *t, void (*fn)(void *), void *arg)
{
    return try_as(t, fn, arg, true);
}

static void set_up_traps(void)
{
    for (unsigned v = 0; v < 256; v++) {
        guest_gate(v, guest_stub(v), 14, v == 3 || v == 4 || v == 0x80 ? 3 : 0, 0);
    }
    guest_gate(8, guest_stub(8), 14, 0, 1);
    uint64_t rsp0 = (uint64_t)(irq_stack + sizeof(irq_stack));
    uint64_t ist1 = (uint64_t)(ist_stack + sizeof(ist_stack));
    memcpy(guest_tss + 4, &rsp0, 8);
    memcpy(guest_tss + 36, &ist1, 8);
    guest_tss[102] = 104; /* no I/O bitmap */

    uint64_t base = (uint64_t)guest_tss;
    guest_gdt[SEL_TSS / 8] = (sizeof(guest_tss) - 1) | (base & 0xffffff) << 16 |
                             UINT64_C(0x89) << 40 | (base >> 24 & 0xff) << 56;
    guest_gdt[SEL_TSS / 8 + 1] = base >> 32;

    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) idt = {sizeof(guest_idt) - 1, (uint64_t)guest_idt};
    __asm__ volatile("lgdt %0" : : "m"(*gdt_pointer));
    __asm__ volatile("lidt %0" : : "m"(idt));
    __asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}

/* --- Paging ------------------------------------------------------------------ */

volatile uint64_t *guest_pte(unsigned i)
{
    return &window_pt[i];
}

volatile uint64_t *guest_pde(void)
{
    return window_pd;
}

volatile uint64_t *guest_pdpte(void)
{
    return window_pdpt;
}

uint8_t *guest_page(unsigned i)
{
    return pages[i];
}

void guest_flush_tlb(void)
{
    uint64_t cr4 = read_cr4();
    write_cr4(cr4 ^ (1 << 7)); /* changing PGE flushes global entries too */
    write_cr4(cr4);
}

static void reset_window(void)
{
    memset(window_pt, 0, sizeof(window_pt));
    memset(window_pd, 0, sizeof(window_pd));
    memset(window_pdpt, 0, sizeof(window_pdpt));
    window_pdpt[0] = (uint64_t)window_pd | PTE_P | PTE_W | PTE_U;
    window_pd[0] = (uint64_t)window_pt | PTE_P | PTE_W | PTE_U;
    memset(pages, 0, sizeof(pages));
    guest_flush_tlb();
}

/* --- The run ----------------------------------------------------------------- */

/* Firmware may have left a timer that ticks: with a vector of an exception. */
static void mask_pic(void)
{
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
}

void guest_main(void)
{
    set_up_traps();
    mask_pic();
    guest_run_tests(reset_window);
}
