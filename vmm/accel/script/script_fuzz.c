#include "lib/base/base.h"
#include "vmm/accel/script/script_priv.h"
#include "vmm/vm/fake_accel.h"
#include "vmm/vm/gmem.h"

/* Any text is either a script or refused with a reason. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_STEPS = 10000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fake_model model = {0};
    struct vm *vm = fake_vm_new(&model, 1, NULL);
    g_autofree char *text = g_strndup((const char *)data, size);
    g_autoptr(GError) error = NULL;
    if (!gmem_add(vm->gmem, "ram", GMEM_RAM, 0, 0x10000, NULL)) {
        g_assert_not_reached();
    }
    struct script *s = script_new(vm, "fuzz", text, &error);
    enum script_step step = s ? SCRIPT_MORE : SCRIPT_FAILED;
    for (unsigned i = 0; step == SCRIPT_MORE && i < MAX_STEPS; i++) {
        step = script_step(s, NULL, &error);
    }
    g_assert((step == SCRIPT_FAILED) == (error != NULL));
    script_free(s);
    vm_free(vm);
    return 0;
}
