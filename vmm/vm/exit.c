#include "vmm/vm/exit.h"

#include <assert.h>

const char *vcpu_exit_name(enum vcpu_exit exit)
{
#define VCPU_EXIT_NAME(id, name) [VCPU_EXIT_##id] = name,
    static const char *const names[VCPU_EXIT_COUNT] = {VCPU_EXITS(VCPU_EXIT_NAME)};
#undef VCPU_EXIT_NAME
    assert((unsigned)exit < VCPU_EXIT_COUNT);
    return names[exit];
}
