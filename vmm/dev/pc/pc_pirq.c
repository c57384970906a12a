#include "vmm/dev/pc/pc_pirq.h"

#include <string.h>

#include "lib/base/base.h"
#include "vmm/vm/vm.h"

void pc_pirq_init(struct pc_pirq *p, struct vm *vm, bool to_ioapic)
{
    *p = (struct pc_pirq){.vm = vm, .to_ioapic = to_ioapic};
    g_mutex_init(&p->lock);
    memset(p->route, PC_PIRQ_OFF, sizeof(p->route));
}

void pc_pirq_done(struct pc_pirq *p)
{
    if (p->vm) {
        g_mutex_clear(&p->lock);
    }
}

static void drive(struct pc_pirq *p, unsigned gsi, bool level)
{
    struct irq_line line = vm_gsi_line(p->vm, gsi);
    irq_set(&line, level);
}

/* Caller holds the lock. */
static void update_locked(struct pc_pirq *p)
{
    bool input[ARRAY_LEN(p->input)] = {false};
    for (unsigned i = 0; i < PC_PIRQ_SOURCES; i++) {
        if (!(p->route[i] & PC_PIRQ_OFF)) {
            input[p->route[i] & 0xf] |= p->level[i];
        }
    }
    for (unsigned n = 0; n < ARRAY_LEN(input); n++) {
        if (input[n] != p->input[n]) {
            p->input[n] = input[n];
            drive(p, n, input[n]);
        }
    }
}

void pc_pirq_set_route(struct pc_pirq *p, unsigned source, uint8_t route)
{
    g_mutex_lock(&p->lock);
    if (p->route[source] != route) {
        p->route[source] = route;
        update_locked(p);
    }
    g_mutex_unlock(&p->lock);
}

void pc_pirq_set(void *opaque, unsigned source, bool level)
{
    struct pc_pirq *p = opaque;
    g_mutex_lock(&p->lock);
    if (p->level[source] != level) {
        p->level[source] = level;
        update_locked(p);
        if (p->to_ioapic && source < PC_PIRQS) {
            drive(p, 16 + source, level);
        }
    }
    g_mutex_unlock(&p->lock);
}

void pc_pirq_refresh(struct pc_pirq *p)
{
    g_mutex_lock(&p->lock);
    update_locked(p);
    for (unsigned i = 0; p->to_ioapic && i < PC_PIRQS; i++) {
        drive(p, 16 + i, p->level[i]);
    }
    g_mutex_unlock(&p->lock);
}
