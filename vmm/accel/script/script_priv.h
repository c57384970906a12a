#ifndef VMM_ACCEL_SCRIPT_SCRIPT_PRIV_H
#define VMM_ACCEL_SCRIPT_SCRIPT_PRIV_H

#include <stdbool.h>

#include <glib.h>

struct vm;
struct vcpu;

/* A script being run: the text cut into lines, and where it stands. */
struct script;

/* Cut @text into commands and check their names and blocks; NULL with @error. */
struct script *script_new(struct vm *vm, const char *name, const char *text,
                          GError **error);
void script_free(struct script *s);

enum script_step {
    SCRIPT_MORE,
    SCRIPT_AGAIN, /* the command waits: call again soon */
    SCRIPT_END,
    SCRIPT_FAILED,
};

/* Run one command on behalf of @vcpu (NULL: nobody); FAILED sets @error. */
enum script_step script_step(struct script *s, struct vcpu *vcpu, GError **error);

#endif
