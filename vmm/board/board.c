#include "vmm/board/board.h"

#include <string.h>

#include "lib/base/base.h"
#include "vmm/board/microvm.h"
#include "vmm/board/pc.h"
#include "vmm/vm/vm.h"

const struct board_type *const board_types[] = {
    &microvm_board,
    &pc_board,
    &q35_board,
    NULL,
};

const struct board_type *board_type_find(const char *name, GError **error)
{
    const char *names[ARRAY_LEN(board_types)] = {0};
    const char *near;

    for (unsigned i = 0; board_types[i]; i++) {
        if (strcmp(board_types[i]->name, name) == 0 ||
            g_strcmp0(board_types[i]->alias, name) == 0)
            return board_types[i];
        names[i] = board_types[i]->name;
    }
    near = nearest_name(name, names);
    error_msg(error, "there is no machine type '%s'%s%s%s; -machine help lists them",
              name, near ? ", did you mean '" : "", near ?: "", near ? "'?" : "");
    return NULL;
}

void board_types_help(FILE *out)
{
    fprintf(out, "Machine types:\n");
    for (unsigned i = 0; board_types[i]; i++) {
        const struct board_type *t = board_types[i];

        fprintf(out, "  %-16s %s%s\n", t->name, t->desc, i == 0 ? " (default)" : "");
        if (t->alias)
            fprintf(out, "  %-16s the same as %s\n", t->alias, t->name);
    }
}

void board_type_help(const struct board_type *type, FILE *out)
{
    fprintf(out, "%s: %s\n", type->name, type->desc);
    props_help(type->props, out);
}

static bool set_options(struct board *b, const json_t *options, GError **error)
{
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)options, name, value)
    {
        if (!props_set(b->type->props, b, name, value, NULL, error))
            return false;
    }
    return true;
}

struct board *board_new(const struct board_type *type, const json_t *options,
                        const struct board_config *config, GError **error)
{
    struct board *b = g_malloc0(type->size);

    b->type = type;
    b->config = *config;
    props_set_defaults(type->props, b);
    if (!set_options(b, options, error)) {
        g_prefix_error(error, "machine '%s': ", type->name);
        goto fail;
    }
    if (!type->check(b, error))
        goto fail;
    return b;
fail:
    board_free(b);
    return NULL;
}

static void reset(struct vm *vm, void *opaque)
{
    struct board *b = opaque;

    b->type->reset(b);
}

bool board_build(struct board *b, struct vm *vm, struct chardev *const *serial,
                 GError **error)
{
    b->vm = vm;
    for (unsigned i = 0; i < BOARD_SERIALS; i++)
        b->serial[i] = serial[i];
    if (!b->type->build(b, error)) {
        g_prefix_error(error, "machine '%s': ", b->type->name);
        return false;
    }
    vm->board_reset = reset;
    vm->board_opaque = b;
    return true;
}

bool board_finish(struct board *b, GError **error)
{
    return b->type->finish(b, error);
}

void board_power_button(struct board *b)
{
    if (b->type->power_button)
        b->type->power_button(b);
}

void board_free(struct board *b)
{
    if (!b)
        return;
    if (b->type->done)
        b->type->done(b);
    props_done(b->type->props, b);
    g_free(b);
}
