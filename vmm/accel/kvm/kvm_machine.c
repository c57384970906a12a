#include "vmm/accel/kvm/kvm_machine.h"

#include <string.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/loop/loop.h"
#include "vmm/arch/x86/arch.h"
#include "vmm/arch/x86/lapic.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/vcpu.h"
#include "vmm/vm/vm.h"

static uint64_t stop_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    return 0;
}

static void stop_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                       unsigned len)
{
    struct km *m = opaque;
    m->stop_value = (uint32_t)value;
    vcpu_kick(m->vcpu, VCPU_ATTN_STOP);
}

static uint64_t echo_read(void *opaque, struct vcpu *vcpu, uint64_t off, unsigned len)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < len; i++) {
        value |= ((off + i) & 0xff) << 8 * i;
    }
    return value;
}

static void echo_write(void *opaque, struct vcpu *vcpu, uint64_t off, uint64_t value,
                       unsigned len)
{
    struct km *m = opaque;
    if (m->nb_log < ARRAY_LEN(m->log)) {
        m->log[m->nb_log++] = (struct km_write){off, value, len};
    }
}

static const struct io_ops stop_ops = {
    .read = stop_read, .write = stop_write, .max_len = 4};
static const struct io_ops echo_ops = {
    .read = echo_read, .write = echo_write, .max_len = 8};

static struct x86_segment flat(uint16_t sel, uint16_t attr)
{
    return (struct x86_segment){
        .sel = sel,
        .attr = (uint16_t)(attr | X86_SEG_P | X86_SEG_S | X86_SEG_RW |
                           X86_SEG_ACCESSED | X86_SEG_G),
        .limit = UINT32_MAX,
    };
}

static void make_tables(struct km *m)
{
    uint8_t *p = m->ram + KM_PML4;
    le64_put(p, (KM_PML4 + 0x1000) | 3);
    le64_put(p + 0x1000, (KM_PML4 + 0x2000) | 3);
    le64_put(p + 0x1000 + 3 * 8, (KM_PML4 + 0x3000) | 3);
    for (unsigned i = 0; i < 512; i++) {
        le64_put(p + 0x2000 + i * 8, (uint64_t)i << 21 | 0x83);
        le64_put(p + 0x3000 + i * 8, UINT64_C(0xc0000000) + ((uint64_t)i << 21) + 0x83);
    }
    m->s.cr3 = KM_PML4;
    m->s.cr4 = X86_CR4_PAE;
    m->s.efer = X86_EFER_LME | X86_EFER_LMA;
    m->s.cr0 |= X86_CR0_PG;
}

static void make_state(struct km *m)
{
    struct x86_state *s = &m->s;
    x86_state_reset(s, 0, false);
    s->gpr[X86_RDX] = 0;
    s->gpr[X86_RSP] = KM_STACK;
    s->rip = KM_CODE;
    s->cr0 = X86_CR0_ET | X86_CR0_NE;
    if (m->bits == 16) {
        s->seg[X86_CS].sel = 0;
        s->seg[X86_CS].base = 0;
        return;
    }
    s->idtr.limit = 0;
    s->cr0 |= X86_CR0_PE;
    s->seg[X86_CS] = flat(8, X86_SEG_CODE | (m->bits == 64 ? X86_SEG_L : X86_SEG_DB));
    for (unsigned i = 0; i < X86_NB_SEG; i++) {
        if (i != X86_CS) {
            s->seg[i] = flat(0x10, X86_SEG_DB);
        }
    }
    if (m->bits == 64) {
        make_tables(m);
    }
}

static json_t *parse_options(const char *text)
{
    json_t *o = json_object();
    g_auto(GStrv) words = g_strsplit(text ? text : "", ",", -1);
    for (char **w = words; *w; w++) {
        char *value = strchr(*w, '=');
        if (value) {
            *value++ = '\0';
            json_object_set_new(o, *w, json_string(value));
        }
    }
    return o;
}

static bool add_devices(struct km *m, GError **error)
{
    m->stop = (struct io_region){
        .name = "stop", .base = KM_STOP, .len = 4, .ops = &stop_ops, .opaque = m};
    m->echo = (struct io_region){
        .name = "echo", .base = KM_ECHO, .len = 8, .ops = &echo_ops, .opaque = m};
    m->mmio = (struct io_region){
        .name = "mmio", .base = KM_MMIO, .len = 0x2000, .ops = &echo_ops, .opaque = m};
    return aspace_add(m->vm->pio, &m->stop, error) &&
           aspace_add(m->vm->pio, &m->echo, error) &&
           aspace_add(m->vm->mmio, &m->mmio, error) && lapic_map(m->vm, error);
}

struct km *km_new(const struct accel_ops *ops, void (*features)(struct x86_featset *),
                  const char *options, unsigned bits, uint64_t ram, GError **error)
{
    struct km *m = g_new0(struct km, 1);
    json_t *o = parse_options(options);
    struct x86_featset feats;
    m->ops = ops;
    m->bits = bits;
    features(&feats);
    m->model = x86_cpu_model_new("max", &feats, NULL, error);
    m->loop = loop_new(NULL, error);
    g_assert_true(m->model && m->loop);
    m->vm = vm_new(&(struct vm_config){.arch = &x86_arch,
                                       .accel = ops,
                                       .accel_options = o,
                                       .loop = m->loop,
                                       .nb_vcpus = 1,
                                       .cpu_model = m->model},
                   error);
    json_decref(o);
    if (!m->vm || !gmem_add(m->vm->gmem, "ram", GMEM_RAM, 0, ram, error) ||
        !add_devices(m, error)) {
        km_free(m);
        return NULL;
    }
    m->ram = gmem_find(m->vm->gmem, 0)->host;
    m->vcpu = m->vm->vcpus[0];
    make_state(m);
    return m;
}

void km_free(struct km *m)
{
    if (!m) {
        return;
    }
    vm_free(m->vm);
    loop_free(m->loop);
    g_free(m->model);
    g_free(m);
}

void km_code(struct km *m, const void *code, size_t len)
{
    g_assert_cmpint(gmem_write(m->vm->gmem, KM_CODE, code, len), ==, 0);
    m->s.rip = KM_CODE;
}

enum vcpu_exit km_run(struct km *m)
{
    GError *error = NULL;
    m->stop_value = 0;
    g_assert_true(m->ops->set_state(m->vcpu, &m->s, &error));
    enum vcpu_exit exit = m->ops->run(m->vcpu);
    vcpu_take_attention(m->vcpu, VCPU_ATTN_STOP);
    if (exit == VCPU_EXIT_ERROR) {
        g_test_message("%s", m->vcpu->error->message);
    }
    m->ops->get_state(m->vcpu, &m->s);
    return exit;
}
