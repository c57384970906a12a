#include "vmm/dev/pc/fw_cfg.h"

#include "lib/base/bytes.h"
#include "vmm/dev/pc/pc_test.h"
#include "vmm/vm/gmem.h"

/*
 * A hostile guest: selections, reads, requests anywhere. The input is cut into pieces
 * of 16 bytes: op, width, le16 value or key, le32 control, le32 length, le32 address.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_PIECES = 128, REQ = 0x1000 };

static void piece(const uint8_t *p)
{
    uint8_t req[16] = {0};
    uint16_t v = le16_get(p + 2);
    uint32_t control = le32_get(p + 4);

    switch (p[0] % 4) {
    case 0:
        vcpu_pio_write(vm->vcpus[0], 0x510 + p[1] % 12, control, 1u << p[1] / 64);
        break;
    case 1: vcpu_pio_read(vm->vcpus[0], 0x510 + p[1] % 12, 1u << p[1] / 64); break;
    case 2: vcpu_pio_write(vm->vcpus[0], 0x510, v, 2); break;
    case 3:
        be32_put(req, control);
        be32_put(req + 4, le32_get(p + 8));
        be32_put(req + 8, p[1] & 1 ? UINT32_MAX : 0);
        be32_put(req + 12, le32_get(p + 12));
        gmem_write(vm->gmem, REQ, req, sizeof(req));
        vcpu_pio_write(vm->vcpus[0], 0x518, __builtin_bswap32(REQ), 4);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fw_cfg_content c = {.bytes = "0123456789", .len = 10, .writable = true};
    struct device *cfg;

    setup(1);
    gmem_add(vm->gmem, "ram", GMEM_RAM, 0, 0x20000, NULL);
    cfg = add(&fw_cfg_type);
    fw_cfg_set_file(cfg, "opt/a", &c, NULL);
    fw_cfg_set_u64(cfg, FW_CFG_RAM_SIZE, 0x20000);
    for (unsigned i = 0; i < MAX_PIECES && size >= 16; i++, data += 16, size -= 16)
        piece(data);
    teardown();
    return 0;
}
