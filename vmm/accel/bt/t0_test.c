#include "vmm/accel/bt/t0_test.h"

#include <jansson.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/isa/x86/cpu_model.h"
#include "lib/loop/loop.h"
#include "vmm/accel/bt/bt.h"
#include "vmm/arch/x86/arch.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/vcpu.h"
#include "vmm/vm/vm.h"

/* A segment that covers 4 GiB; bits of enum X86_SEG_*. */
static struct x86_segment flat(uint16_t sel, uint16_t attr)
{
    return (struct x86_segment){
        .sel = sel,
        .attr = (uint16_t)(attr | X86_SEG_P | X86_SEG_S | X86_SEG_RW |
                           X86_SEG_ACCESSED | X86_SEG_G),
        .limit = UINT32_MAX,
    };
}

static void put_descriptor(struct t0_test *t, const struct x86_segment *s)
{
    uint64_t limit = (s->attr & X86_SEG_G) ? s->limit >> 12 : s->limit;
    uint64_t raw = (limit & 0xffff) | (s->base & 0xffffff) << 16 |
                   (uint64_t)s->attr << 40 | (limit >> 16 & 0xf) << 48 |
                   (s->base >> 24 & 0xff) << 56;
    le64_put(t->ram + T0_TEST_GDT + (s->sel & 0xfff8), raw);
}

static void make_gdt(struct t0_test *t)
{
    const uint16_t user = 3 << X86_SEG_DPL_SHIFT;
    struct x86_segment seg[] = {
        flat(T0_TEST_CS64, X86_SEG_CODE | X86_SEG_L),
        flat(T0_TEST_CS32, X86_SEG_CODE | X86_SEG_DB),
        flat(T0_TEST_DS, X86_SEG_DB),
        flat(T0_TEST_UCS32, X86_SEG_CODE | X86_SEG_DB | user),
        flat(T0_TEST_UDS, X86_SEG_DB | user),
        flat(T0_TEST_UCS64, X86_SEG_CODE | X86_SEG_L | user),
        {.sel = T0_TEST_TR,
         .attr = X86_SEG_P | X86_SYS_TSS,
         .limit = 0x7ff,
         .base = T0_TEST_TSS},
    };
    for (unsigned i = 0; i < ARRAY_LEN(seg); i++) {
        put_descriptor(t, &seg[i]);
    }
    t->s.gdtr = (struct x86_dtable){.base = T0_TEST_GDT, .limit = 0xff};
    t->s.idtr = (struct x86_dtable){.base = T0_TEST_IDT, .limit = 0xfff};
    t->s.tr = seg[6];
    t->s.tr.attr = X86_SEG_P | X86_SYS_TSS_BUSY;
    /* RSP0, or ESP0 and SS0. */
    le64_put(t->ram + T0_TEST_TSS + 4, T0_TEST_STACK - 0x800);
    if (t->bits == 32) {
        le32_put(t->ram + T0_TEST_TSS + 8, T0_TEST_DS);
    }
    le16_put(t->ram + T0_TEST_TSS + 0x66, 0x68);
    memset(t->ram + T0_TEST_TSS + 0x68, 0xff, 0x790 - 0x68);
}

/* The first GiB onto itself. */
static void make_tables(struct t0_test *t)
{
    uint8_t *p = t->ram + T0_TEST_PML4;
    le64_put(p, (T0_TEST_PML4 + 0x1000) | 7);
    le64_put(p + 0x1000, (T0_TEST_PML4 + 0x2000) | 7);
    for (unsigned i = 0; i < 512; i++) {
        le64_put(p + 0x2000 + i * 8, (uint64_t)i << 21 | 0x87);
    }
    t->s.cr3 = T0_TEST_PML4;
    t->s.cr4 = X86_CR4_PAE;
    t->s.efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_SCE;
    t->s.cr0 |= X86_CR0_PG | X86_CR0_WP;
}

static void make_state(struct t0_test *t)
{
    struct x86_state *s = &t->s;
    bool m64 = t->bits == 64;
    x86_state_reset(s, 0, false);
    s->gpr[X86_RDX] = 0;
    s->gpr[X86_RSP] = T0_TEST_STACK;
    s->cr0 = X86_CR0_ET | X86_CR0_NE | X86_CR0_MP;
    if (t->bits == 16) {
        s->seg[X86_CS].sel = 0;
        s->seg[X86_CS].base = 0;
        s->idtr = (struct x86_dtable){.base = 0, .limit = 0x3ff};
        return;
    }
    s->cr0 |= X86_CR0_PE;
    s->seg[X86_CS] = m64 ? flat(T0_TEST_CS64, X86_SEG_CODE | X86_SEG_L)
                         : flat(T0_TEST_CS32, X86_SEG_CODE | X86_SEG_DB);
    for (unsigned i = 0; i < X86_NB_SEG; i++) {
        if (i != X86_CS) {
            s->seg[i] = flat(T0_TEST_DS, X86_SEG_DB);
        }
    }
    make_gdt(t);
    if (m64) {
        make_tables(t);
    }
    s->cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
}

struct t0_test *t0_test_new(unsigned bits, unsigned ram_kib, const char *cpu)
{
    return t0_test_new_tier(bits, ram_kib, cpu, 0);
}

struct t0_test *t0_test_new_tier(unsigned bits, unsigned ram_kib, const char *cpu,
                                 unsigned tier)
{
    static const char *const options[] = {
        "cache-size=128K,tier=0",
        "cache-size=128K,tier=1,heat=1",
        "cache-size=128K,tier=2,heat=1,t2-heat=1",
    };
    /* A small cache, so that tests also see it full. */
    return t0_test_new_options(bits, ram_kib, cpu, options[tier]);
}

static json_t *options_of(const char *text)
{
    g_auto(GStrv) items = g_strsplit(text, ",", -1);
    json_t *o = json_object();
    for (char **item = items; *item; item++) {
        char *value = strchr(*item, '=');
        *value++ = 0;
        json_object_set_new(o, *item, json_string(value));
    }
    return o;
}

bool t0_test_options_ok(const char *text, GError **error)
{
    json_t *options = options_of(text);
    struct vm vm = {0};
    void *state;
    bool ok = bt_accel_ops.init(&vm, options, &state, error);
    json_decref(options);
    if (ok) {
        bt_accel_ops.done(&vm, state);
    }
    return ok;
}

struct t0_test *t0_test_new_options(unsigned bits, unsigned ram_kib, const char *cpu,
                                    const char *text)
{
    struct t0_test *t = g_new0(struct t0_test, 1);
    g_autofree char *missing = NULL;
    GError *error = NULL;
    struct x86_featset feats;
    t->bits = bits;
    t->loop = loop_new(NULL, &error);
    g_assert_no_error(error);
    bt_features(&feats);
    t->model = x86_cpu_model_new(cpu ? cpu : "max", &feats, &missing, &error);
    g_assert_no_error(error);
    json_t *options = options_of(text);
    struct vm_config config = {
        .arch = &x86_arch,
        .accel = &bt_accel_ops,
        .accel_options = options,
        .loop = t->loop,
        .nb_vcpus = 1,
        .cpu_model = t->model,
    };
    t->vm = vm_new(&config, &error);
    json_decref(options);
    g_assert_no_error(error);
    g_assert_true(gmem_add(t->vm->gmem, "ram", GMEM_RAM, 0, ram_kib * KIB, &error));
    t->ram = gmem_find(t->vm->gmem, 0)->host;
    t->vcpu = t->vm->vcpus[0];
    make_state(t);
    return t;
}

void t0_test_free(struct t0_test *t)
{
    vm_free(t->vm);
    loop_free(t->loop);
    g_free(t->model);
    g_free(t);
}

void t0_test_code(struct t0_test *t, const void *code, size_t len)
{
    uint64_t at = t->bits == 16 ? 0x1000 : T0_TEST_CODE;
    g_assert_cmpint(gmem_write(t->vm->gmem, at, code, len), ==, 0);
    t->s.rip = at;
}

void t0_test_gate(struct t0_test *t, unsigned vector, unsigned type, unsigned dpl,
                  unsigned ist, uint64_t off)
{
    bool m64 = t->bits == 64;
    uint8_t *g = t->ram + T0_TEST_IDT + vector * (m64 ? 16 : 8);
    le16_put(g, (uint16_t)off);
    le16_put(g + 2, m64 ? T0_TEST_CS64 : T0_TEST_CS32);
    g[4] = (uint8_t)ist;
    g[5] = (uint8_t)(0x80 | dpl << 5 | type);
    le16_put(g + 6, (uint16_t)(off >> 16));
    if (m64) {
        le64_put(g + 8, off >> 32);
    }
}

void t0_test_catch_all(struct t0_test *t)
{
    for (unsigned v = 0; v < 32; v++) {
        uint8_t *h = t->ram + T0_TEST_HANDLERS + v * 16;
        t0_test_gate(t, v, X86_SYS_INT, 3, 0, T0_TEST_HANDLERS + v * 16);
        h[0] = 0xbb; /* mov ebx, v; hlt */
        le32_put(h + 1, v);
        h[5] = 0xf4;
    }
}

uint64_t t0_test_top(const struct t0_test *t)
{
    const uint8_t *p = t->ram + (uint32_t)t->s.gpr[X86_RSP];
    return t->bits == 64 ? le64_get(p) : le32_get(p);
}

void t0_test_user(struct t0_test *t)
{
    const uint16_t user = 3 << X86_SEG_DPL_SHIFT;
    t->s.seg[X86_CS] = t->bits == 64
                           ? flat(T0_TEST_UCS64, X86_SEG_CODE | X86_SEG_L | user)
                           : flat(T0_TEST_UCS32, X86_SEG_CODE | X86_SEG_DB | user);
    for (unsigned i = 0; i < X86_NB_SEG; i++) {
        if (i != X86_CS) {
            t->s.seg[i] = flat(T0_TEST_UDS, X86_SEG_DB | user);
        }
    }
    t->s.cpl = 3;
}

enum vcpu_exit t0_test_run(struct t0_test *t)
{
    GError *error = NULL;
    t->s.activity = X86_ACTIVE;
    g_assert_true(bt_accel_ops.set_state(t->vcpu, &t->s, &error));
    enum vcpu_exit exit;
    do {
        exit = bt_accel_ops.run(t->vcpu);
    } while (exit == VCPU_EXIT_KICK);
    bt_accel_ops.get_state(t->vcpu, &t->s);
    return exit;
}
