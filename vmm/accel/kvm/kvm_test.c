#include "vmm/accel/kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/loop/loop.h"
#include "vmm/accel/kvm/kvm_machine.h"
#include "vmm/accel/kvm/kvm_priv.h"
#include "vmm/arch/x86/lapic.h"
#include "vmm/vm/clock.h"
#include "vmm/vm/gmem.h"
#include "vmm/vm/state.h"

/*
 * KVM with guests of some bytes. They stay within what every KVM runs, also those that
 * emulate the guest's kernel: no INT n, no SSE. Everything but the errors is skipped
 * where /dev/kvm cannot be used.
 */

static const char *const modes[] = {"off", "split", "on"};

/* NULL: the test is skipped, with the reason. */
static struct km *machine(const char *options, unsigned bits, uint64_t ram)
{
    g_autoptr(GError) error = NULL;
    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        g_test_skip("/dev/kvm is not there, or not for this user");
        return NULL;
    }
    struct km *m = km_new(&kvm_accel_ops, kvm_features, options, bits, ram, &error);
    g_assert_no_error(error);
    return m;
}

static struct km *machine_in_mode(const char *mode, unsigned bits)
{
    g_autofree char *options = g_strdup_printf("kernel-irqchip=%s", mode);
    return machine(options, bits, MIB);
}

/* --- Errors ---------------------------------------------------------------- */

static void expect_error(const char *options, const char *text)
{
    GError *error = NULL;
    struct km *m = km_new(&kvm_accel_ops, kvm_features, options, 16, MIB, &error);
    g_assert_null(m);
    g_assert_nonnull(strstr(error->message, text));
    g_clear_error(&error);
}

static void a_device_that_is_none_is_named(void)
{
    expect_error("device=/nonexistent/kvm",
                 "Could not access KVM kernel module: /nonexistent/kvm: No such file");
    expect_error("device=/dev/null", "/dev/null is not KVM");
    expect_error("device=/", "/: Is a directory");
    expect_error("kernel-irqchip=maybe", "on, split, off");
    expect_error("irqchip=on", "irqchip");
}

static void dirty_ring_sizes_are_checked(void)
{
    struct km *m = machine(NULL, 16, MIB);
    if (m) {
        km_free(m);
        expect_error("dirty-ring-size=3", "not a power of two");
        expect_error("dirty-ring-size=9999999", "dirty-ring-size");
    }
}

/* --- State ----------------------------------------------------------------- */

static void fill_state(struct x86_state *s, const struct kvm_cpu *c)
{
    for (unsigned i = 0; i < X86_NB_GPR; i++) {
        s->gpr[i] = UINT64_C(0x1122334455667700) + i;
    }
    s->rip = 0x123456;
    s->rflags = X86_FL_R1 | X86_FL_CF | X86_FL_DF | X86_FL_AC | X86_FL_IF;
    for (unsigned i = 0; i < 4; i++) {
        s->dr[i] = 0x7000 + i;
    }
    s->dr[6] = 0xffff0ff1;
    s->dr[7] = 0x455;
    s->cr2 = 0xfedcba98;
    s->gdtr = (struct x86_dtable){.base = 0x5000, .limit = 0x7f};
    s->idtr = (struct x86_dtable){.base = 0x6000, .limit = 0xfff};
    s->seg[X86_FS].base = UINT64_C(0x7f0012345678);
    s->seg[X86_GS].base = UINT64_C(0xffff800012345678);
    s->ldtr =
        (struct x86_segment){.sel = 0x28, .attr = 0x82, .limit = 0xff, .base = 0x4000};
    s->tr =
        (struct x86_segment){.sel = 0x30, .attr = 0x8b, .limit = 0x67, .base = 0x4800};
    s->msr.star = UINT64_C(0x0023001000000000);
    s->msr.lstar = UINT64_C(0xffffffff81000000);
    s->msr.cstar = UINT64_C(0xffffffff81001000);
    s->msr.sfmask = 0x47700;
    s->msr.kernel_gs_base = UINT64_C(0xffff888000001000);
    s->msr.sysenter_cs = 0x10;
    s->msr.sysenter_esp = 0x3000;
    s->msr.sysenter_eip = 0x3100;
    s->msr.pat = UINT64_C(0x0407050600070106);
    s->msr.mtrr_def_type = 0xc06;
    s->msr.mtrr_fixed[0] = UINT64_C(0x0606060606060606);
    s->msr.mtrr_fixed[10] = UINT64_C(0x0505050505050505);
    s->msr.mtrr_var[0][0] = 0xc0000006;
    s->msr.mtrr_var[0][1] = UINT64_C(0xffc0000800);
    s->msr.mtrr_var[7][0] = 0x80000000;
    s->msr.tsc_offset = -1234567890;
    s->fpu.fcw = 0x37a;
    s->fpu.fsw = 0x3800; /* TOP is 7 */
    s->fpu.ftw = 0x80;
    s->fpu.mxcsr = 0x1fa5;
    for (unsigned i = 0; i < 10; i++) {
        s->fpu.st[0][i] = (uint8_t)(0x31 + i);
    }
    for (unsigned i = 0; i < 16; i++) {
        memset(s->fpu.ymm[i], (int)(0xa0 + i), 16);
        if (x86_cpu_has(c->vcpu->vm->cpu_model, X86_FEAT_AVX)) {
            memset(s->fpu.ymm[i] + 16, (int)(0xb0 + i), 16);
        }
    }
    if (x86_cpu_has(c->vcpu->vm->cpu_model, X86_FEAT_AVX)) {
        s->xcr0 = X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX;
    }
    s->nmi_blocked = true;
    s->int_shadow = true;
}

#define SAME(field) g_assert_cmphex(got.field, ==, want.field)
#define SAME_BYTES(field) \
    g_assert_cmpmem(&got.field, sizeof(got.field), &want.field, sizeof(want.field))

static void same_segment(const char *name, const struct x86_segment *a,
                         const struct x86_segment *b)
{
    g_test_message("segment %s", name);
    g_assert_cmphex(a->sel, ==, b->sel);
    g_assert_cmphex(a->attr, ==, b->attr);
    g_assert_cmphex(a->limit, ==, b->limit);
    g_assert_cmphex(a->base, ==, b->base);
}

static void state_comes_back_as_it_was_set_in(const char *mode)
{
    static const char *const names[] = {"es", "cs", "ss", "ds", "fs", "gs"};
    struct km *m = machine_in_mode(mode, 64);
    struct x86_state got, want;
    GError *error = NULL;
    if (!m) {
        return;
    }
    want = m->s;
    fill_state(&want, kvm_cpu_of(m->vcpu));
    want.activity = !strcmp(mode, "off") ? X86_ACTIVE : X86_HALTED;
    kvm_set_state(m->vcpu, &want, &error);
    g_assert_no_error(error);
    kvm_get_state(m->vcpu, &got);
    SAME_BYTES(gpr);
    SAME(rip);
    SAME(rflags);
    SAME(cr0);
    SAME(cr2);
    SAME(cr3);
    SAME(cr4);
    SAME(cr8);
    SAME(efer);
    SAME(xcr0);
    SAME(xss);
    SAME(cpl);
    SAME_BYTES(dr);
    for (unsigned i = 0; i < X86_NB_SEG; i++) {
        same_segment(names[i], &got.seg[i], &want.seg[i]);
    }
    same_segment("ldtr", &got.ldtr, &want.ldtr);
    same_segment("tr", &got.tr, &want.tr);
    SAME(gdtr.base);
    SAME(gdtr.limit);
    SAME(idtr.base);
    SAME(idtr.limit);
    SAME(msr.star);
    SAME(msr.lstar);
    SAME(msr.cstar);
    SAME(msr.sfmask);
    SAME(msr.kernel_gs_base);
    SAME(msr.sysenter_cs);
    SAME(msr.sysenter_esp);
    SAME(msr.sysenter_eip);
    SAME(msr.pat);
    SAME(msr.misc_enable);
    SAME(msr.mtrr_def_type);
    SAME_BYTES(msr.mtrr_fixed);
    SAME_BYTES(msr.mtrr_var);
    SAME(fpu.fcw);
    SAME(fpu.fsw);
    SAME(fpu.ftw);
    SAME(fpu.mxcsr);
    SAME_BYTES(fpu.st);
    SAME_BYTES(fpu.ymm);
    SAME(activity);
    SAME(int_shadow);
    SAME(nmi_blocked);
    /* Where KVM has it written as a counter, it takes values that are less than a
     * second from what it expects for that. */
    bool exact = kvm_cpu_of(m->vcpu)->kv->tsc_way == KVM_TSC_OFFSET;
    int64_t second = (int64_t)vm_clock_tsc_khz(m->vm->clock) * 1000;
    g_assert_cmpint(ABS(got.msr.tsc_offset - want.msr.tsc_offset), <=,
                    exact ? 0 : second);
    km_free(m);
}

static void state_comes_back_as_it_was_set(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
        state_comes_back_as_it_was_set_in(modes[i]);
    }
}

static void an_event_in_delivery_comes_back(void)
{
    static const struct {
        uint8_t vector;
        bool has_error, is_soft;
        uint32_t error;
    } events[] = {{X86_EXC_PF, true, false, 6},
                  {X86_EXC_UD, false, false, 0},
                  {X86_EXC_NMI, false, false, 0},
                  {0x41, false, false, 0}};
    struct km *m = machine_in_mode("off", 64);
    for (unsigned i = 0; m && i < ARRAY_LEN(events); i++) {
        struct x86_state got, want = m->s;
        GError *error = NULL;
        want.event.pending = true;
        want.event.vector = events[i].vector;
        want.event.has_error = events[i].has_error;
        want.event.is_soft = events[i].is_soft;
        want.event.error = events[i].error;
        kvm_set_state(m->vcpu, &want, &error);
        g_assert_no_error(error);
        kvm_get_state(m->vcpu, &got);
        g_assert_true(got.event.pending);
        SAME(event.vector);
        SAME(event.has_error);
        SAME(event.error);
    }
    km_free(m);
}

static void impossible_states_are_refused_by_name(void)
{
    struct km *m = machine_in_mode("off", 64);
    GError *error = NULL;
    if (!m) {
        return;
    }
    struct x86_state s = m->s;
    s.cr4 = UINT64_C(1) << 40;
    g_assert_false(kvm_set_state(m->vcpu, &s, &error));
    g_assert_nonnull(strstr(error->message, "cr4 0x10000000000"));
    g_clear_error(&error);
    s = m->s;
    s.msr.mtrr_def_type = UINT64_C(1) << 40;
    g_assert_false(kvm_set_state(m->vcpu, &s, &error));
    g_assert_nonnull(strstr(error->message, "msr.mtrr_def_type"));
    g_clear_error(&error);
    km_free(m);
}

/* --- Accesses -------------------------------------------------------------- */

static void check_log(const struct km *m, unsigned i, uint64_t off, uint64_t value,
                      unsigned len)
{
    g_assert_cmpuint(i, <, m->nb_log);
    g_assert_cmphex(m->log[i].off, ==, off);
    g_assert_cmphex(m->log[i].value, ==, value);
    g_assert_cmpuint(m->log[i].len, ==, len);
}

static void ports_reach_devices_in_every_size(void)
{
    struct km *m = machine_in_mode("off", 32);
    if (!m) {
        return;
    }
    /* mov dx, ECHO; mov eax, 11223344h; out dx, al; out dx, ax; out dx, eax;
     * in eax, dx; mov ebx, eax; inc edx; in al, dx; mov dx, STOP; out dx, al */
    KM_ASM(m, 0xba, 0x10, 5, 0, 0, 0xb8, 0x44, 0x33, 0x22, 0x11, 0xee, 0x66, 0xef, 0xef,
           0xed, 0x89, 0xc3, 0x42, 0xec, 0xba, 1, 5, 0, 0, 0xee, 0xf4);
    g_assert_cmpint(km_run(m), ==, VCPU_EXIT_KICK);
    check_log(m, 0, 0, 0x44, 1);
    check_log(m, 1, 0, 0x3344, 2);
    check_log(m, 2, 0, 0x11223344, 4);
    g_assert_cmphex(m->s.gpr[X86_RBX], ==, 0x03020100);
    g_assert_cmphex(m->stop_value, ==, 0x01);
    /* The OUT itself is over, and counted. */
    g_assert_cmphex(m->s.rip, ==, KM_CODE + 25);
    g_assert_cmpuint(m->vcpu->exits[VCPU_EXIT_PIO].count, ==, 6);
    g_assert_cmpuint(m->echo.writes.count, ==, 3);
    km_free(m);
}

static void string_output_reaches_the_device_item_by_item(void)
{
    struct km *m = machine_in_mode("off", 32);
    if (!m) {
        return;
    }
    memcpy(m->ram + KM_DATA, "abcd", 4);
    m->s.gpr[X86_RSI] = KM_DATA;
    m->s.gpr[X86_RCX] = 4;
    m->s.gpr[X86_RDX] = KM_ECHO;
    /* rep outsb; mov dx, STOP; out dx, al */
    KM_ASM(m, 0xf3, 0x6e, 0xba, 1, 5, 0, 0, 0xee);
    g_assert_cmpint(km_run(m), ==, VCPU_EXIT_KICK);
    for (unsigned i = 0; i < 4; i++) {
        check_log(m, i, 0, 'a' + i, 1);
    }
    g_assert_cmphex(m->s.gpr[X86_RSI], ==, KM_DATA + 4);
    g_assert_cmphex(m->s.gpr[X86_RCX], ==, 0);
    km_free(m);
}

static void memory_registers_reach_devices(void)
{
    struct km *m = machine_in_mode("off", 64);
    if (!m) {
        return;
    }
    m->s.gpr[X86_RBX] = KM_MMIO;
    m->s.gpr[X86_RAX] = UINT64_C(0x8877665544332211);
    m->s.gpr[X86_RDX] = KM_STOP;
    /* mov [rbx+8], al; mov [rbx+16], ax; mov [rbx+24], eax; mov [rbx+32], rax;
     * mov rcx, [rbx+40]; movzx esi, byte [rbx+3]; out dx, al */
    KM_ASM(m, 0x88, 0x43, 8, 0x66, 0x89, 0x43, 16, 0x89, 0x43, 24, 0x48, 0x89, 0x43, 32,
           0x48, 0x8b, 0x4b, 40, 0x0f, 0xb6, 0x73, 3, 0xee);
    g_assert_cmpint(km_run(m), ==, VCPU_EXIT_KICK);
    check_log(m, 0, 8, 0x11, 1);
    check_log(m, 1, 16, 0x2211, 2);
    check_log(m, 2, 24, 0x44332211, 4);
    check_log(m, 3, 32, UINT64_C(0x8877665544332211), 8);
    g_assert_cmphex(m->s.gpr[X86_RCX], ==, UINT64_C(0x2f2e2d2c2b2a2928));
    g_assert_cmphex(m->s.gpr[X86_RSI], ==, 3);
    g_assert_cmpuint(m->vcpu->exits[VCPU_EXIT_MMIO].count, ==, 6);
    km_free(m);
}

static void stores_to_rom_are_dropped(void)
{
    struct km *m = machine_in_mode("off", 32);
    if (!m) {
        return;
    }
    uint32_t was = 0x600df00d;
    GError *error = NULL;
    g_assert_true(
        gmem_add(m->vm->gmem, "rom", GMEM_ROM, 0xf0000000, GMEM_PAGE_SIZE, &error));
    gmem_load(m->vm->gmem, 0xf0000000, &was, 4);
    m->s.gpr[X86_RBX] = 0xf0000000;
    m->s.gpr[X86_RDX] = KM_STOP;
    /* mov dword [rbx], 1; mov eax, [rbx]; out dx, eax */
    KM_ASM(m, 0xc7, 3, 1, 0, 0, 0, 0x8b, 3, 0xef);
    g_assert_cmpint(km_run(m), ==, VCPU_EXIT_KICK);
    g_assert_cmphex(m->stop_value, ==, was);
    km_free(m);
}

/* --- Ends ------------------------------------------------------------------ */

static void halt_is_an_exit_with_own_controllers(void)
{
    struct km *m = machine_in_mode("off", 16);
    if (!m) {
        return;
    }
    KM_ASM(m, 0xf4);
    g_assert_cmpint(km_run(m), ==, VCPU_EXIT_HLT);
    g_assert_cmphex(m->s.rip, ==, KM_CODE + 1);
    g_assert_cmpint(m->s.activity, ==, X86_HALTED);
    km_free(m);
}

static void a_triple_fault_is_a_shutdown(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
        struct km *m = machine_in_mode(modes[i], 32);
        if (!m) {
            return;
        }
        KM_ASM(m, 0x0f, 0x0b); /* ud2, and the IDT is empty */
        g_assert_cmpint(km_run(m), ==, VCPU_EXIT_SHUTDOWN);
        km_free(m);
    }
}

/* --- Threads --------------------------------------------------------------- */

static void load_state(struct vm *vm, void *opaque)
{
    struct km *m = opaque;
    GError *error = NULL;
    lapic_set_virtual_wire(m->vcpu);
    m->ops->set_state(m->vcpu, &m->s, &error);
    g_assert_no_error(error);
}

static void start(struct km *m)
{
    GError *error = NULL;
    m->vm->board_reset = load_state;
    m->vm->board_opaque = m;
    vm_start(m->vm, &error);
    g_assert_no_error(error);
}

static void nothing(struct vcpu *vcpu, void *opaque)
{
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static void a_kick_stops_a_busy_guest_soon(void)
{
    enum { N = 200 };
    int64_t us[N];
    struct km *m = machine_in_mode("off", 32);
    if (!m) {
        return;
    }
    KM_ASM(m, 0xeb, 0xfe); /* jmp . */
    start(m);
    for (unsigned i = 0; i < N; i++) {
        int64_t begin = g_get_monotonic_time();
        vcpu_run_on(m->vcpu, nothing, NULL);
        us[i] = g_get_monotonic_time() - begin;
    }
    qsort(us, N, sizeof(us[0]), by_value);
    g_test_message("kick and back: median %d us, slowest of %d: %d us", (int)us[N / 2],
                   N, (int)us[N - 1]);
    g_assert_cmpint(us[N / 2], <, 1000000); /* a busy host may be slow */
    km_free(m);
}

static void halted_guests_are_woken_and_stopped_in_every_mode(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
        struct km *m = machine_in_mode(modes[i], 16);
        if (!m) {
            return;
        }
        KM_ASM(m, 0xfb, 0xf4, 0xeb, 0xfc); /* sti; 1: hlt; jmp 1b */
        start(m);
        for (unsigned n = 0; n < 20; n++) {
            vm_stop_all(m->vm);
            vm_resume_all(m->vm);
        }
        km_free(m);
    }
}

static void memory_can_be_added_while_the_guest_runs(void)
{
    struct km *m = machine_in_mode("off", 32);
    GError *error = NULL;
    uint32_t value = 0x12345678;
    if (!m) {
        return;
    }
    m->s.gpr[X86_RBX] = 0x200000;
    m->s.gpr[X86_RDX] = KM_ECHO;
    /* 1: mov eax, [rbx]; cmp eax, 12345678h; jne 1b; out dx, eax; 2: jmp 2b */
    KM_ASM(m, 0x8b, 3, 0x3d, 0x78, 0x56, 0x34, 0x12, 0x75, 0xf7, 0xef, 0xeb, 0xfe);
    start(m);
    g_usleep(2000);
    vm_stop_all(m->vm);
    g_assert_cmpuint(m->nb_log, ==, 0);
    gmem_add(m->vm->gmem, "more", GMEM_RAM, 0x200000, 16 * GMEM_PAGE_SIZE, &error);
    g_assert_no_error(error);
    vm_resume_all(m->vm);
    gmem_write(m->vm->gmem, 0x200000, &value, 4);
    for (unsigned i = 0; i < 60000 && !m->echo.writes.count; i++) {
        g_usleep(1000);
    }
    vm_stop_all(m->vm);
    check_log(m, 0, 0, value, 4);
    gmem_remove(m->vm->gmem, 0x200000);
    vm_resume_all(m->vm);
    km_free(m);
}

/* --- Dirty pages ----------------------------------------------------------- */

/* Pages of RAM that are dirty, which are cleared. */
static unsigned take_dirty(struct km *m, uint8_t *ret, unsigned n)
{
    const struct gmem_region *r = gmem_find(m->vm->gmem, 0);
    unsigned count = 0;
    GError *error = NULL;
    kvm_accel_ops.dirty->sync(m->vm, &error);
    g_assert_no_error(error);
    for (unsigned i = 0; i < n; i++) {
        ret[i] = atomic_exchange(&r->dirty[i], 0) & 1;
        count += ret[i];
    }
    return count;
}

static void dirty_pages_are_those_that_were_stored_to(const char *options)
{
    enum { PAGES = 2048, FIRST = 64 };
    struct km *m = machine(options, 32, PAGES * GMEM_PAGE_SIZE);
    uint8_t dirty[PAGES];
    GError *error = NULL;
    if (!m) {
        return;
    }
    m->s.gpr[X86_RBX] = FIRST * GMEM_PAGE_SIZE;
    m->s.gpr[X86_RCX] = (PAGES - FIRST) / 2;
    m->s.gpr[X86_RDX] = KM_STOP;
    /* 1: mov [rbx], ecx; add ebx, 2000h; loop 1b; out dx, eax; hlt */
    KM_ASM(m, 0x89, 0x0b, 0x81, 0xc3, 0, 0x20, 0, 0, 0xe2, 0xf6, 0xef, 0xf4);
    kvm_accel_ops.dirty->start(m->vm, &error);
    g_assert_no_error(error);
    take_dirty(m, dirty, PAGES);
    g_assert_cmpint(km_run(m), ==, VCPU_EXIT_KICK);
    take_dirty(m, dirty, PAGES);
    for (unsigned i = FIRST; i < PAGES; i++) {
        g_assert_cmpint(dirty[i], ==, i % 2 == 0);
    }
    g_assert_cmpuint(take_dirty(m, dirty, PAGES), ==, 0);
    /* Once more the first: it was protected again. */
    m->s.gpr[X86_RBX] = FIRST * GMEM_PAGE_SIZE;
    m->s.gpr[X86_RCX] = 1;
    m->s.rip = KM_CODE;
    g_assert_cmpint(km_run(m), ==, VCPU_EXIT_KICK);
    g_assert_cmpuint(take_dirty(m, dirty, PAGES), ==, 1);
    g_assert_true(dirty[FIRST]);
    kvm_accel_ops.dirty->stop(m->vm);
    km_free(m);
}

static void dirty_bitmap(void)
{
    dirty_pages_are_those_that_were_stored_to(NULL);
}

static void dirty_ring(void)
{
    dirty_pages_are_those_that_were_stored_to("dirty-ring-size=4096");
}

/* Whether the processor itself runs guests. A KVM that emulates the guest's kernel
 * executes on past a full ring, and entries are lost. */
static bool has_hardware(void)
{
    struct x86_featset host;
    x86_featset_host(&host);
    return x86_featset_has(&host, X86_FEAT_SVM) || x86_featset_has(&host, X86_FEAT_VMX);
}

static void dirty_ring_that_fills_up(void)
{
    if (!has_hardware()) {
        g_test_skip("this processor shows neither VT-x nor AMD-V");
        return;
    }
    dirty_pages_are_those_that_were_stored_to("dirty-ring-size=512");
}

/* --- Interrupts and eventfds ----------------------------------------------- */

/* Real mode: vector @v writes @v to port KM_STOP. */
static void set_handler(struct km *m, unsigned v)
{
    /* mov al, v; mov dx, STOP; out dx, al; hlt */
    const uint8_t code[] = {0xb0, (uint8_t)v, 0xba, 1, 5, 0xee, 0xf4};
    memcpy(m->ram + 0x2000 + 16 * v, code, sizeof(code));
    le32_put(m->ram + 4 * v, 0x2000 + 16 * v);
}

static struct km *machine_with_irqs(const char *mode)
{
    struct km *m = machine_in_mode(mode, 16);
    if (m) {
        m->vm->board_reset = NULL;
        vm_reset(m->vm);
        lapic_set_virtual_wire(m->vcpu);
        set_handler(m, 0x41);
        set_handler(m, 2);
        KM_ASM(m, 0xfb, 0xf4, 0xeb, 0xfc); /* sti; 1: hlt; jmp 1b */
    }
    return m;
}

static void messages_reach_the_handler_in_every_mode(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
        struct km *m = machine_with_irqs(modes[i]);
        if (!m) {
            return;
        }
        g_assert_cmpuint(lapic_msi(m->vm, LAPIC_BASE, 0x41), ==, 1);
        g_assert_cmpint(km_run(m), ==, VCPU_EXIT_KICK);
        g_assert_cmphex(m->stop_value, ==, 0x41);
        km_free(m);
    }
}

static void an_interrupt_waits_for_sti(void)
{
    struct km *m = machine_with_irqs("off");
    if (!m) {
        return;
    }
    /* mov cx, 1000; 1: loop 1b; mov dx, ECHO; out dx, al; sti; nop; hlt */
    KM_ASM(m, 0xb9, 0xe8, 3, 0xe2, 0xfe, 0xba, 0x10, 5, 0xee, 0xfb, 0x90, 0xf4);
    lapic_msi(m->vm, LAPIC_BASE, 0x41);
    g_assert_cmpint(km_run(m), ==, VCPU_EXIT_KICK);
    g_assert_cmphex(m->stop_value, ==, 0x41);
    g_assert_cmpuint(m->nb_log, ==, 1); /* the OUT before STI came first */
    g_assert_cmpuint(m->vcpu->exits[VCPU_EXIT_IRQ].count, ==, 1);
    km_free(m);
}

static void the_8259_interrupts_through_lint0(void)
{
    for (unsigned i = 0; i < 2; i++) { /* with on it is the kernel's */
        struct km *m = machine_with_irqs(modes[i]);
        if (!m) {
            return;
        }
        struct irq_line line = lapic_lint(m->vcpu, 0);
        irq_set(&line, true);
        set_handler(m, 0); /* the vector of a board without INTA cycles */
        g_assert_cmpint(km_run(m), ==, VCPU_EXIT_KICK);
        g_assert_cmphex(m->s.rip, ==, 0x2006);
        km_free(m);
    }
}

static void nmi_reaches_its_handler_without_sti(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
        struct km *m = machine_with_irqs(modes[i]);
        if (!m) {
            return;
        }
        /* cli; mov cx, 1000; 1: in al, 80h; loop 1b; mov dx, STOP; out dx, al; hlt */
        KM_ASM(m, 0xfa, 0xb9, 0xe8, 3, 0xe4, 0x80, 0xe2, 0xfc, 0xba, 1, 5, 0xee, 0xf4);
        g_assert_cmpuint(lapic_msi(m->vm, LAPIC_BASE, LAPIC_MODE_NMI << 8), ==, 1);
        g_assert_cmpint(km_run(m), ==, VCPU_EXIT_KICK);
        g_assert_cmphex(m->stop_value, ==, 2);
        g_assert_true(m->s.nmi_blocked);
        km_free(m);
    }
}

static void a_doorbell_rings_without_an_exit(void)
{
    struct km *m = machine_in_mode("off", 32);
    GError *error = NULL;
    uint64_t count = 0;
    if (!m) {
        return;
    }
    struct accel_doorbell bell = {.is_port = true,
                                  .len = 2,
                                  .match = true,
                                  .addr = KM_ECHO,
                                  .value = 0x33,
                                  .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    kvm_accel_ops.events->doorbell(m->vm, &bell, true, &error);
    g_assert_no_error(error);
    m->s.gpr[X86_RDX] = KM_ECHO;
    /* mov eax, 33h; out dx, ax; inc eax; out dx, ax; mov dx, STOP; out dx, al */
    KM_ASM(m, 0xb8, 0x33, 0, 0, 0, 0x66, 0xef, 0x40, 0x66, 0xef, 0xba, 1, 5, 0, 0,
           0xee);
    g_assert_cmpint(km_run(m), ==, VCPU_EXIT_KICK);
    g_assert_cmpint(read(bell.fd, &count, 8), ==, 8);
    g_assert_cmpuint(count, ==, 1);
    g_assert_cmpuint(m->nb_log, ==, 1);
    check_log(m, 0, 0, 0x34, 2);
    kvm_accel_ops.events->doorbell(m->vm, &bell, false, &error);
    g_assert_no_error(error);
    m->s.rip = KM_CODE;
    m->s.gpr[X86_RDX] = KM_ECHO;
    g_assert_cmpint(km_run(m), ==, VCPU_EXIT_KICK);
    g_assert_cmpuint(m->nb_log, ==, 3);
    close(bell.fd);
    km_free(m);
}

static void an_irqfd_interrupts(void)
{
    struct km *m = machine_with_irqs("split");
    struct lapic_msg msg = {.vector = 0x41};
    GError *error = NULL;
    uint64_t one = 1;
    if (!m) {
        return;
    }
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    lapic_route(m->vm, 5, &msg);
    kvm_accel_ops.events->irqfd(m->vm, 5, fd, -1, true, &error);
    g_assert_no_error(error);
    g_assert_cmpint(write(fd, &one, 8), ==, 8);
    g_assert_cmpint(km_run(m), ==, VCPU_EXIT_KICK);
    g_assert_cmphex(m->stop_value, ==, 0x41);
    kvm_accel_ops.events->irqfd(m->vm, 5, fd, -1, false, &error);
    g_assert_no_error(error);
    km_free(m);

    m = machine_in_mode("off", 16);
    g_assert_false(kvm_accel_ops.events->irqfd(m->vm, 5, fd, -1, true, &error));
    g_assert_nonnull(strstr(error->message, "kernel-irqchip"));
    g_clear_error(&error);
    close(fd);
    km_free(m);
}

static void the_kernels_local_apic_saves_and_loads(void)
{
    struct km *m = machine_with_irqs("on");
    GError *error = NULL;
    if (!m) {
        return;
    }
    struct lapic *l = lapic_of(m->vcpu);
    lapic_msi(m->vm, LAPIC_BASE, 0x41);
    json_t *state = state_save(&lapic_state, l);
    vm_reset(m->vm); /* the interrupt is gone */
    json_t *fresh = state_save(&lapic_state, l);
    g_assert_false(json_equal(state, fresh));
    state_load(&lapic_state, l, state, &error);
    g_assert_no_error(error);
    json_t *again = state_save(&lapic_state, l);
    g_assert_true(json_equal(state, again));
    g_assert_cmpint(km_run(m), ==, VCPU_EXIT_KICK);
    g_assert_cmphex(m->stop_value, ==, 0x41);
    json_decref(state);
    json_decref(fresh);
    json_decref(again);
    km_free(m);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name) g_test_add_func("/kvm/" #name, name)
    ADD(a_device_that_is_none_is_named);
    ADD(dirty_ring_sizes_are_checked);
    ADD(state_comes_back_as_it_was_set);
    ADD(an_event_in_delivery_comes_back);
    ADD(impossible_states_are_refused_by_name);
    ADD(ports_reach_devices_in_every_size);
    ADD(string_output_reaches_the_device_item_by_item);
    ADD(memory_registers_reach_devices);
    ADD(stores_to_rom_are_dropped);
    ADD(halt_is_an_exit_with_own_controllers);
    ADD(a_triple_fault_is_a_shutdown);
    ADD(a_kick_stops_a_busy_guest_soon);
    ADD(halted_guests_are_woken_and_stopped_in_every_mode);
    ADD(memory_can_be_added_while_the_guest_runs);
    ADD(dirty_bitmap);
    ADD(dirty_ring);
    ADD(dirty_ring_that_fills_up);
    ADD(messages_reach_the_handler_in_every_mode);
    ADD(an_interrupt_waits_for_sti);
    ADD(the_8259_interrupts_through_lint0);
    ADD(nmi_reaches_its_handler_without_sti);
    ADD(a_doorbell_rings_without_an_exit);
    ADD(an_irqfd_interrupts);
    ADD(the_kernels_local_apic_saves_and_loads);
    return g_test_run();
}
