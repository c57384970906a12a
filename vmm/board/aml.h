#ifndef VMM_BOARD_AML_H
#define VMM_BOARD_AML_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

/*
 * Writing ACPI machine language (ACPI 6.4, chapter 20): a buffer to which terms are
 * appended, in the order ASL would have them. What has a length around it is opened
 * and closed:
 *
 *     aml_scope(a, "\\_SB");
 *     aml_device(a, "COM1");
 *     aml_name_eisaid(a, "_HID", "PNP0501");
 *     aml_close(a);
 *     aml_close(a);
 *
 * The caller is trusted: it is a board, not a guest or a user.
 */
struct aml;

struct aml *aml_new(void);
void aml_free(struct aml *a);

/* The bytes written; everything opened has been closed. Borrowed. */
const GByteArray *aml_bytes(const struct aml *a);

/* Open: end each with aml_close(). Names have up to 4 characters, a path may begin
 * with '\' and have several names with '.'. */
void aml_scope(struct aml *a, const char *path);
void aml_device(struct aml *a, const char *name);
void aml_method(struct aml *a, const char *name, unsigned nb_args); /* serialized */
void aml_package(struct aml *a, unsigned nb_elements);
void aml_close(struct aml *a);

/* Data: an integer in its shortest form, a string. */
void aml_int(struct aml *a, uint64_t value);
void aml_string(struct aml *a, const char *text);

/* Name(name, ...): aml_name() is followed by its data. */
void aml_name(struct aml *a, const char *name);
void aml_name_int(struct aml *a, const char *name, uint64_t value);
void aml_name_string(struct aml *a, const char *name, const char *text);
void aml_name_eisaid(struct aml *a, const char *name, const char *id); /* "PNP0501" */

/*
 * Terms written one after the other, as the grammar has them: an operation, then its
 * operands, each a name, a number or another operation, then where the result goes.
 *
 *     aml_op(a, AML_OR);     PRQ0 = PRQ0 | 0x80
 *     aml_ref(a, "PRQ0");
 *     aml_int(a, 0x80);
 *     aml_ref(a, "PRQ0");
 */
enum aml_op {
    AML_NOWHERE = 0x00, /* as a target */
    AML_LOCAL0 = 0x60,
    AML_LOCAL1 = 0x61,
    AML_ARG0 = 0x68,
    AML_ARG1 = 0x69,
    AML_ARG2 = 0x6a,
    AML_ARG3 = 0x6b,
    AML_STORE = 0x70, /* value, target */
    AML_AND = 0x7b,   /* two values, target */
    AML_OR = 0x7d,
    AML_NOTIFY = 0x86,       /* object, value */
    AML_CREATE_DWORD = 0x8a, /* buffer, offset, name */
    AML_LNOT = 0x92,         /* value */
    AML_LEQUAL = 0x93,       /* two values */
    AML_RETURN = 0xa4,       /* value */
};
void aml_op(struct aml *a, enum aml_op op);
void aml_ref(struct aml *a, const char *path);

/* Open: If is followed by its condition, which is one term. End with aml_close(). */
void aml_if(struct aml *a);
void aml_else(struct aml *a);
/* Open: a buffer, of the bytes given. Closed already. */
void aml_buffer(struct aml *a, const void *bytes, unsigned len);

/* A region of registers; then its fields, in bytes, between aml_field() and
 * aml_close(); @name NULL: nothing is called so. */
enum aml_space { AML_MEMORY = 0, AML_PORTS = 1, AML_PCI_CONFIG = 2 };
void aml_region(struct aml *a, const char *name, enum aml_space space, uint64_t at,
                unsigned len);
void aml_field(struct aml *a, const char *region);
void aml_field_unit(struct aml *a, const char *name, unsigned bits);

/* Resource templates (6.4): between begin and end only the aml_res_...(). */
void aml_crs_begin(struct aml *a);
void aml_res_io(struct aml *a, uint16_t port, uint8_t len);
void aml_res_irq(struct aml *a, unsigned irq); /* ISA: edge, active high */
void aml_res_memory(struct aml *a, uint32_t base, uint32_t len);
void aml_res_interrupt(struct aml *a, uint32_t gsi); /* level, active high, exclusive */
/* Shared, level, active high; as an interrupt of the PIC or the IOAPIC. */
void aml_res_interrupts(struct aml *a, const uint32_t *gsis, unsigned n);
/* What a bridge passes on: bus numbers, ports, memory, from @first to @last. */
void aml_res_buses(struct aml *a, uint16_t first, uint16_t last);
void aml_res_ports(struct aml *a, uint16_t first, uint16_t last);
void aml_res_window(struct aml *a, uint64_t first, uint64_t last, bool prefetch);
void aml_crs_end(struct aml *a);
/* The same, named otherwise than _CRS. */
void aml_res_end(struct aml *a, const char *name);

/*
 * What an event device needs: a 32-bit register in memory called @field, and
 * If (Local0 & mask) { Notify(object, value) } after Local0 = field.
 */
void aml_register32(struct aml *a, const char *region, const char *field,
                    uint32_t address);
void aml_load_local0(struct aml *a, const char *field);
void aml_notify_if_local0(struct aml *a, uint64_t mask, const char *object,
                          uint8_t value);

#endif
