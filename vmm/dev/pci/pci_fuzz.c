#include "vmm/dev/pci/pci_test.h"

/*
 * A hostile guest: configuration writes and accesses behind BARs as the input says,
 * with BARs over RAM and each other, and devices that raise interrupts meanwhile.
 *
 * The input is cut into pieces of 8 bytes: op, width, le16 offset, le32 value.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_PIECES = 400 };

enum {
    OP_DEVICE,
    OP_PORT,
    OP_BELOW,
    OP_ANY,
    OP_MEMORY,
    OP_PORTS,
    OP_RAM,
    OP_IRQ,
    OP_RESET,
    OP_ECAM,
    OPS
};

static void piece(struct machine *m, struct test_device *d[2], const uint8_t *p)
{
    static const unsigned where[] = {5 << 3, 2 << 3, 1 << 8};
    unsigned op = p[0] % OPS, len = 1u << p[1] % 3;
    uint16_t off = le16_get(p + 2);
    uint32_t v = le32_get(p + 4);
    uint8_t bytes[8];
    switch (op) {
    case OP_DEVICE:
    case OP_PORT:
    case OP_BELOW:
        cfg_put(m, where[op], off & 0xfff & ~(len - 1), v, len);
        cfg(m, where[op], off & 0xfff & ~(len - 1), len);
        break;
    case OP_ANY: cfg_put(m, off, p[1] & ~3u, v, 4); break;
    case OP_MEMORY:
        aspace_write(m->vm->mmio, NULL, v, off, 1u << p[1] % 4);
        aspace_read(m->vm->mmio, NULL, v, 1u << p[1] % 4);
        break;
    case OP_PORTS:
        aspace_write(m->vm->pio, NULL, off, v, len);
        aspace_read(m->vm->pio, NULL, off, len);
        break;
    case OP_RAM:
        gmem_write(m->vm->gmem, v, p, 8);
        gmem_read(m->vm->gmem, v, bytes, 8);
        break;
    case OP_IRQ:
        pci_set_irq(&d[p[1] & 1]->pci, v & 1);
        pci_notify(&d[p[1] & 1]->pci, off);
        break;
    case OP_RESET: test_reset(&d[p[1] & 1]->dev); break;
    default: pci_host_set_ecam(m->host, (uint64_t)v << 20, off % 257); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct machine *m = machine_new(true);
    machine_try(m, &pcie_root_port_type, "{\"id\":\"port\",\"addr\":\"2\"}", NULL);
    struct test_device *d[2] = {machine_add(m, "{\"addr\":\"5\"}"),
                                machine_add(m, "{\"bus\":\"port\"}")};
    for (unsigned i = 0; i < MAX_PIECES && size >= 8; i++, data += 8, size -= 8) {
        piece(m, d, data);
    }
    machine_free(m);
    return 0;
}
