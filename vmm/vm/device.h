#ifndef VMM_VM_DEVICE_H
#define VMM_VM_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <glib.h>
#include <jansson.h>

#include "vmm/vm/props.h"

struct vm;
struct device;
struct state_table;

/* Devices: what can be made by name, reset, saved and freed. */

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
 * value}, values as JSON strings, numbers or booleans; "id" is taken for the id and
 * "driver" skipped; borrowed), init, append to vm->devices. An unknown property is
 * refused with its nearest neighbour, a bad value with the accepted range, a missing
 * required one by name; messages begin with the type's name. @resolver may be NULL when
 * no property needs it. Thread: main.
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

#endif
