#ifndef VMM_VM_DEVICE_H
#define VMM_VM_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <glib.h>
#include <jansson.h>

struct vm;
struct device;
struct state_table;

/*
 * Devices and their properties. One property table per device type serves
 * `-device X,help`, the command line, JSON and QMP.
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

struct device_type {
    const char *name;         /* as in -device NAME */
    const char *alias;        /* another accepted name, or NULL */
    const char *desc;         /* one line for -device help */
    const char *bus;          /* "isa", "virtio-mmio", ...: for help; NULL: system */
    size_t size;              /* of the struct that begins with struct device */
    const struct prop *props; /* ends with .name = NULL; may be NULL */
    const struct state_table *state; /* NULL: nothing to save */
    bool user;                       /* may be named with -device */

    /*
     * Properties are set: claim ports, lines, back ends. On failure false with
     * @error; done() is called on the half-built device.
     */
    bool (*init)(struct device *dev, GError **error);
    void (*done)(struct device *dev);
    /* Power-on state. vCPUs are stopped. */
    void (*reset)(struct device *dev);
};

struct device {
    const struct device_type *type;
    struct vm *vm;
    char *id; /* unique in the VM; made up when the user gave none */
};

/*
 * Make a device of @type: allocate, set defaults, set @options ({"name":
 * value}, values as JSON strings, numbers or booleans; "id" is taken for the id;
 * borrowed), init, append to vm->devices. An unknown property is refused with its
 * nearest neighbour, a bad value with the accepted range. @resolver may be NULL
 * when no property needs it. Thread: main.
 */
struct device *device_new(struct vm *vm, const struct device_type *type,
                          const json_t *options, const struct device_resolver *resolver,
                          GError **error);
void device_free(struct device *dev);

/* "-device NAME,help": each property with type, default, range, help. */
void device_type_help(const struct device_type *type, FILE *out);

/* The type named @name or aliased so in the NULL-terminated @types, or NULL with
 * @error suggesting the nearest. */
const struct device_type *device_type_find(const struct device_type *const *types,
                                           const char *name, GError **error);

/*
 * The property machinery alone, for things that are not devices (boards, chardevs):
 * set the defaults of @props in @object, set one from text, free what it owns.
 */
void props_set_defaults(const struct prop *props, void *object);
bool props_set(const struct prop *props, void *object, const char *name,
               const json_t *value, const struct device_resolver *resolver,
               GError **error);
void props_done(const struct prop *props, void *object);
void props_help(const struct prop *props, FILE *out);

#endif
