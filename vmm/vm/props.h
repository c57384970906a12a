#ifndef VMM_VM_PROPS_H
#define VMM_VM_PROPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <glib.h>
#include <jansson.h>

/*
 * Properties: what a user may set of a device, board, chardev or accelerator. One
 * table per type serves `-device X,help`, the command line, JSON and QMP.
 */

enum prop_type {
    PROP_BOOL,    /* bool: on/off, yes/no, true/false */
    PROP_U8,      /* uint8_t, decimal or 0x */
    PROP_U16,     /* uint16_t */
    PROP_U32,     /* uint32_t */
    PROP_U64,     /* uint64_t */
    PROP_SIZE,    /* uint64_t bytes, with suffix */
    PROP_STRING,  /* char *, owned by the device */
    PROP_ENUM,    /* unsigned: index into values */
    PROP_CHARDEV, /* struct chardev *: an id, resolved by the device's creator */
    PROP_DRIVE,   /* struct blk *: an id or node name, resolved likewise */
};

struct prop {
    const char *name;
    enum prop_type type;
    size_t offset;             /* of the field in the device's struct */
    uint64_t def;              /* default: number, bool or enum index */
    const char *def_string;    /* default for PROP_STRING */
    uint64_t min, max;         /* accepted range of numbers; max 0: the type's */
    const char *const *values; /* PROP_ENUM: NULL-terminated names */
    bool required;
    const char *help;
};

#define PROP_FIELD(type, field) .offset = offsetof(type, field)

/* How ids become chardevs and drives: given by who creates devices. */
struct device_resolver {
    void *opaque;
    /* NULL with @error naming the id. Borrowed by the device. */
    void *(*chardev)(void *opaque, const char *id, GError **error);
    void *(*drive)(void *opaque, const char *id, GError **error);
};

/*
 * The machinery, for devices and for what is none (boards, chardevs, accelerators):
 * set the defaults of @props in @object, set one from text, free what it owns.
 */
void props_set_defaults(const struct prop *props, void *object);
bool props_set(const struct prop *props, void *object, const char *name,
               const json_t *value, const struct device_resolver *resolver,
               GError **error);
void props_done(const struct prop *props, void *object);
void props_help(const struct prop *props, FILE *out);

#endif
