#include "vmm/accel/bt/bt.h"
#include "vmm/accel/kvm/kvm.h"
#include "vmm/accel/script/script.h"
#include "vmm/control/vmm.h"

/* What can execute guest code, the default first. */
static const struct vmm_accel accels[] = {
    {&bt_accel_ops, .alias = "tcg", .features = bt_features},
    {&kvm_accel_ops, .features = kvm_features},
    {&script_accel, .no_guest = true},
    {NULL},
};

int main(int argc, char **argv)
{
    return vmm_main(argc, argv, accels);
}
