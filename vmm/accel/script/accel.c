#include "vmm/accel/script/script.h"

#include <string.h>

#include "lib/base/base.h"
#include "lib/loop/loop.h"
#include "vmm/accel/script/script_priv.h"
#include "vmm/vm/accel.h"
#include "vmm/vm/props.h"
#include "vmm/vm/vcpu.h"
#include "vmm/vm/vm.h"

/* The script as an accelerator, and as a function for unit tests. */

enum { MAX_TEXT = 16 << 20, POLL_US = 50 };

struct script_state {
    char *file; /* the option */
    struct script *script;
};

static const struct prop options_table[] = {
    {.name = "file",
     .type = PROP_STRING,
     PROP_FIELD(struct script_state, file),
     .required = true,
     .help = "the script: docs/script.md"},
    {.name = NULL},
};

static void script_done(struct vm *vm, void *opaque)
{
    struct script_state *st = opaque;
    if (st) {
        script_free(st->script);
        props_done(options_table, st);
        g_free(st);
    }
}

static bool load(struct vm *vm, struct script_state *st, GError **error)
{
    g_autofree char *text = NULL;
    gsize len;
    if (!st->file) {
        return error_msg(error, "option 'file' is missing");
    }
    if (!g_file_get_contents(st->file, &text, &len, error)) {
        return false;
    }
    if (len > MAX_TEXT || strlen(text) != len) {
        return error_msg(error, "%s is not a text of at most %d MiB", st->file,
                         MAX_TEXT >> 20);
    }
    st->script = script_new(vm, st->file, text, error);
    return st->script != NULL;
}

static bool script_init(struct vm *vm, const json_t *options, void **ret_state,
                        GError **error)
{
    struct script_state *st = g_new0(struct script_state, 1);
    const char *name;
    json_t *v;
    props_set_defaults(options_table, st);
    json_object_foreach((json_t *)options, name, v)
    {
        if (!props_set(options_table, st, name, v, NULL, error)) {
            goto fail;
        }
    }
    if (!load(vm, st, error)) {
        goto fail;
    }
    *ret_state = st;
    return true;
fail:
    script_done(vm, st);
    return false;
}

/* Registers nobody runs: kept, so that what was set can be read back. */
static bool script_vcpu_new(struct vcpu *vcpu, GError **error)
{
    vcpu->accel = g_malloc0(vcpu->vm->arch->state_size + 1);
    return true;
}

static void script_vcpu_free(struct vcpu *vcpu)
{
    g_clear_pointer(&vcpu->accel, g_free);
}

static void script_get_state(struct vcpu *vcpu, void *ret_state)
{
    memcpy(ret_state, vcpu->accel, vcpu->vm->arch->state_size);
}

static bool script_set_state(struct vcpu *vcpu, const void *state, GError **error)
{
    memcpy(vcpu->accel, state, vcpu->vm->arch->state_size);
    return true;
}

static enum vcpu_exit script_run(struct vcpu *vcpu)
{
    struct script_state *st = vcpu->vm->accel_state;
    if (vcpu->index != 0) {
        vcpu_take_attention(vcpu, VCPU_ATTN_IRQ);
        return VCPU_EXIT_HLT;
    }
    for (;;) {
        vcpu_take_attention(vcpu, VCPU_ATTN_IRQ);
        if (vcpu_wants_attention(vcpu)) {
            return VCPU_EXIT_KICK;
        }
        switch (script_step(st->script, vcpu, &vcpu->error)) {
        case SCRIPT_MORE: break;
        case SCRIPT_AGAIN: g_usleep(POLL_US); break;
        case SCRIPT_END:
            vm_request_end(vcpu->vm, VM_END_EXIT, 0);
            vcpu_set_powered(vcpu, false);
            return VCPU_EXIT_KICK;
        case SCRIPT_FAILED: return VCPU_EXIT_ERROR;
        }
    }
}

const struct accel_ops script_accel = {
    .name = "script",
    .help = "no CPU: a text file does the accesses (file=PATH)",
    .init = script_init,
    .done = script_done,
    .vcpu_new = script_vcpu_new,
    .vcpu_free = script_vcpu_free,
    .run = script_run,
    .get_state = script_get_state,
    .set_state = script_set_state,
};

bool script_run_text(struct vm *vm, const char *name, const char *text, GError **error)
{
    struct script *s = script_new(vm, name, text, error);
    enum script_step step = s ? SCRIPT_MORE : SCRIPT_FAILED;
    while (step == SCRIPT_MORE || step == SCRIPT_AGAIN) {
        if (vm->loop) {
            while (loop_poll(vm->loop, false)) {
            }
        }
        if (step == SCRIPT_AGAIN) {
            g_usleep(POLL_US);
        }
        step = script_step(s, NULL, error);
    }
    script_free(s);
    return step == SCRIPT_END;
}
