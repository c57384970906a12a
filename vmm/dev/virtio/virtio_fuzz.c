#include "vmm/dev/virtio/virtio_test_drive.h"

/*
 * A hostile driver: register accesses, memory writes and the passing of time, as the
 * input says, against an entropy device and a disk. Nothing may happen but an end.
 *
 * The input is cut into pieces of 8 bytes: op, width or index, le16 offset,
 * le32 value.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_PIECES = 512, MAX_ROUNDS = 64 };

enum { OP_REG, OP_READ, OP_MEM, OP_DESC, OP_OFFER, OP_KICK, OP_START, OP_DRIVE, OPS };

static void piece(struct disk_machine *d, const uint8_t *p)
{
    struct machine *m = &d->m;
    unsigned op = p[0] % OPS, arg = p[1];
    uint16_t off = le16_get(p + 2);
    uint32_t v = le32_get(p + 4);
    gpa_t base = SLOT0 + (arg & 0x80 ? VIRTIO_MMIO_LEN : 0);
    switch (op) {
    case OP_REG:
        aspace_write(m->vm->mmio, NULL, base + off % VIRTIO_MMIO_LEN, v, 1u << arg % 4);
        break;
    case OP_READ:
        aspace_read(m->vm->mmio, NULL, base + off % VIRTIO_MMIO_LEN, 1u << arg % 4);
        break;
    case OP_MEM: put(m, off, v, 4); break;
    case OP_DESC:
        set_desc_at(m, arg & 8 ? TABLE : DESC, arg % 8,
                    v & 0x80000000u ? UINT64_MAX - off : (v & 0xfffff), off,
                    (uint16_t)(v >> 28), (uint16_t)(v >> 20 & 15));
        break;
    case OP_OFFER: offer(m, arg); break;
    case OP_KICK: aspace_write(m->vm->mmio, NULL, base + 0x50, arg & 3, 4); break;
    case OP_START:
        /* The way a real driver goes, features as the input likes. */
        aspace_write(m->vm->mmio, NULL, base + 0x70, 0, 4);
        aspace_write(m->vm->mmio, NULL, base + 0x70, 3, 4);
        aspace_write(m->vm->mmio, NULL, base + 0x20, v & 0x30007264, 4);
        aspace_write(m->vm->mmio, NULL, base + 0x24, 1, 4);
        aspace_write(m->vm->mmio, NULL, base + 0x20, 1, 4);
        aspace_write(m->vm->mmio, NULL, base + 0x70, 11, 4);
        aspace_write(m->vm->mmio, NULL, base + 0x38, QSIZE, 4);
        aspace_write(m->vm->mmio, NULL, base + 0x80, DESC, 4);
        aspace_write(m->vm->mmio, NULL, base + 0x90, AVAIL, 4);
        aspace_write(m->vm->mmio, NULL, base + 0xa0, USED, 4);
        aspace_write(m->vm->mmio, NULL, base + 0x44, 1, 4);
        aspace_write(m->vm->mmio, NULL, base + 0x70, 15, 4);
        m->avail_idx = 0;
        break;
    default: d->drive.fail = arg & 1 ? 5 : 0; break;
    }
    /* A ring that feeds itself keeps the loop busy for good: only some rounds. */
    for (unsigned i = 0; i < MAX_ROUNDS && loop_poll(m->loop, false); i++) {
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct disk_machine *d = g_new0(struct disk_machine, 1);
    drive_init(d);
    if (!plug(d, json_object(), NULL) ||
        !device_new(d->m.vm, &virtio_rng_device_type, NULL, NULL, NULL)) {
        g_assert_not_reached();
    }
    for (unsigned i = 0; i < MAX_PIECES && size >= 8; i++, data += 8, size -= 8) {
        piece(d, data);
    }
    machine_done(&d->m);
    g_free(d);
    return 0;
}
