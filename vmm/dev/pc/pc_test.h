#ifndef VMM_DEV_PC_PC_TEST_H
#define VMM_DEV_PC_PC_TEST_H

#include "vmm/arch/x86/test_arch.h"
#include "vmm/dev/pc/i8259.h"
#include "vmm/dev/pc/ioapic.h"
#include "vmm/dev/pc/pc_irqs.h"
#include "vmm/vm/device.h"
#include "vmm/vm/state.h"

/*
 * For tests of PC devices: a VM with one vCPU (more on request) and port accesses on
 * its behalf. Interrupt inputs are watched through vm->gsi.
 */
static struct vm *vm;

static inline void test_ignore_irq(void *opaque, unsigned input, bool level)
{
}

static inline void setup(unsigned nb_vcpus)
{
    vm = test_vm_new(nb_vcpus);
    vm->gsi_fn = test_ignore_irq;
    vm->nb_gsi = 24;
}

static inline void teardown(void)
{
    test_vm_free(vm);
}

static inline struct device *add_with(const struct device_type *type, const char *json,
                                      const struct device_resolver *resolver)
{
    GError *error = NULL;
    json_t *options = json ? json_loads(json, 0, NULL) : json_object();
    g_assert_nonnull(options);
    struct device *dev = device_new(vm, type, options, resolver, &error);
    g_assert_no_error(error);
    json_decref(options);
    if (type->reset) {
        type->reset(dev);
    }
    return dev;
}

static inline struct device *add(const struct device_type *type)
{
    return add_with(type, NULL, NULL);
}

static inline uint8_t inb(uint16_t port)
{
    return vcpu_pio_read(vm->vcpus[0], port, 1);
}

static inline void outb(uint16_t port, uint8_t value)
{
    vcpu_pio_write(vm->vcpus[0], port, value, 1);
}

static inline bool irq_level(unsigned gsi)
{
    return atomic_load(&vm->gsi[gsi].level);
}

/* Rising edges of the input since the start. */
static inline uint64_t irq_rises(unsigned gsi)
{
    return atomic_load(&vm->gsi[gsi].rises);
}

/* Save @dev, reset it, load it again. */
static inline void save_and_load(struct device *dev)
{
    GError *error = NULL;
    json_t *saved = state_save(dev->type->state, dev);
    g_assert_nonnull(saved);
    dev->type->reset(dev);
    state_load(dev->type->state, dev, saved, &error);
    g_assert_no_error(error);
    json_decref(saved);
}

/*
 * 100,000 random accesses of all widths at the ports [first, first + n), with time
 * passing: nothing crashes, hangs or leaves the machine.
 */
static inline void storm(uint16_t first, unsigned n)
{
    GRand *rand = g_rand_new_with_seed(first);
    for (unsigned i = 0; i < 100000; i++) {
        uint16_t port = first + g_rand_int_range(rand, 0, n);
        unsigned len = 1u << g_rand_int_range(rand, 0, 4);
        uint64_t value = (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);
        switch (value >> 60 & 3) {
        case 0: vcpu_pio_read(vm->vcpus[0], port, len); break;
        case 1:
        case 2: vcpu_pio_write(vm->vcpus[0], port, value, len); break;
        case 3: test_advance(vm, value & 0x1ffff); break;
        }
    }
    g_rand_free(rand);
}

#endif
