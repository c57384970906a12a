#ifndef VMM_BOARD_AML_H
#define VMM_BOARD_AML_H

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

/* Resource templates (6.4): between begin and end only the aml_res_...(). */
void aml_crs_begin(struct aml *a);
void aml_res_io(struct aml *a, uint16_t port, uint8_t len);
void aml_res_irq(struct aml *a, unsigned irq); /* ISA: edge, active high */
void aml_res_memory(struct aml *a, uint32_t base, uint32_t len);
void aml_res_interrupt(struct aml *a, uint32_t gsi); /* level, active high, exclusive */
void aml_crs_end(struct aml *a);

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
