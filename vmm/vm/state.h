#ifndef VMM_VM_STATE_H
#define VMM_VM_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <glib.h>
#include <jansson.h>

/*
 * State tables: what of a device (or a CPU) is saved, with names that stay.
 * Save, load, migration, `info` and the JSON dump all come out of the table.
 *
 * Compatibility: a field added in version N says .since = N and is skipped when an
 * older state is loaded (it keeps its reset value). A subsection is written only
 * when needed() says so, and an unknown subsection is refused on load.
 */

enum state_kind {
    STATE_BOOL,
    STATE_U8,
    STATE_U16,
    STATE_U32,
    STATE_U64,
    STATE_BYTES,  /* size bytes, shown as hex */
    STATE_STRUCT, /* table describes each element */
};

struct state_field {
    const char *name;
    enum state_kind kind;
    size_t offset;
    size_t size;    /* STATE_BYTES: bytes; STATE_STRUCT: of one element */
    unsigned count; /* elements of an array; 0 means a single value */
    unsigned since; /* version that introduced it; 0 means 1 */
    const struct state_table *table; /* STATE_STRUCT */
};

struct state_table {
    const char *name;
    unsigned version;
    const struct state_field *fields;             /* ends with .name = NULL */
    const struct state_table *const *subsections; /* NULL-terminated; may be NULL */
    bool (*needed)(const void *object);           /* for a subsection */
    void (*pre_save)(void *object);
    /* The fields are loaded, not yet trusted: check them. */
    bool (*post_load)(void *object, unsigned version, GError **error);
};

/* One field of an ordinary member. */
#define STATE_FIELD(KIND, type, field)                                        \
    {                                                                         \
        .name = #field, .kind = STATE_##KIND, .offset = offsetof(type, field) \
    }
#define STATE_ARRAY(KIND, type, field, n)                                      \
    {                                                                          \
        .name = #field, .kind = STATE_##KIND, .offset = offsetof(type, field), \
        .count = (n)                                                           \
    }
#define STATE_BUFFER(type, field)                                             \
    {                                                                         \
        .name = #field, .kind = STATE_BYTES, .offset = offsetof(type, field), \
        .size = sizeof(((type *)0)->field)                                    \
    }

/* The object as JSON: {"name","version","fields":{...},"subsections":[...]}. The
 * caller owns it. */
json_t *state_save(const struct state_table *table, void *object);

/*
 * Fill @object from @state, which came from outside: names, kinds, counts and
 * ranges are checked. On failure @error names the field and the object may be
 * half-filled (reset it).
 */
bool state_load(const struct state_table *table, void *object, const json_t *state,
                GError **error);

#endif
