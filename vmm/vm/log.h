#ifndef VMM_VM_LOG_H
#define VMM_VM_LOG_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <glib.h>

/*
 * What a machine writes about itself while it runs: -d, with the names and the text
 * that QEMU has. There is one log per machine, or none (vm->log is NULL), and it does
 * not change while the machine lives, so that an accelerator may look once.
 *
 * Any thread may write. What is between vm_log_begin() and vm_log_end() is not mixed
 * with what others write, and has reached the file afterwards.
 */

/* clang-format off */
#define VM_LOGS(X)                                                                \
    X(IN_ASM,       "in_asm",       "guest code, each block when it is decoded")  \
    X(OUT_ASM,      "out_asm",      "host code of each translation, when it is made") \
    X(INT,          "int",          "interrupts, exceptions and returns from them, " \
                                    "with the registers")                         \
    X(EXEC,         "exec",         "a line for every block executed (no translation)") \
    X(CPU,          "cpu",          "registers before every block executed "      \
                                    "(no translation)")                           \
    X(FPU,          "fpu",          "with cpu: floating-point and vector registers too") \
    X(CPU_RESET,    "cpu_reset",    "registers before a CPU is reset")            \
    X(UNIMP,        "unimp",        "what the guest asks for and is not there")   \
    X(GUEST_ERRORS, "guest_errors", "what the guest does wrong: accesses to nothing") \
    X(NOCHAIN,      "nochain",      "every block from the run loop (no translation)") \
    X(STATS,        "stats",        "at the end: exits, devices, instructions, as JSON") \
    X(ACCEL,        "accel",        "at the end: every CPU's registers and what its " \
                                    "accelerator counted")                        \
    X(BT,           "bt",           "at the end: the counters of the software CPU, as JSON")
/* clang-format on */

#define VM_LOG_NUMBER(id, name, help) VM_LOG_NUMBER_##id,
enum vm_log_number { VM_LOGS(VM_LOG_NUMBER) VM_LOG_COUNT };
#undef VM_LOG_NUMBER

#define VM_LOG_BIT(id, name, help) VM_LOG_##id = 1 << VM_LOG_NUMBER_##id,
enum vm_log_item { VM_LOGS(VM_LOG_BIT) };
#undef VM_LOG_BIT

/* Name and help of item @i, 0 .. VM_LOG_COUNT - 1. Static storage. */
const char *vm_log_name(unsigned i);
const char *vm_log_help(unsigned i);

/*
 * A log of @items (VM_LOG_*) into @out, which is borrowed. @ranges: what -dfilter has,
 * or NULL for all addresses; see vm_log_ranges_parse(); borrowed.
 */
struct vm_log *vm_log_new(unsigned items, FILE *out, const GArray *ranges);
void vm_log_free(struct vm_log *log);

/* The items of @log that @items names; 0 without a log. */
unsigned vm_log_has(const struct vm_log *log, unsigned items);

/* Whether code at @pc is to be logged. */
bool vm_log_covers(const struct vm_log *log, uint64_t pc);

FILE *vm_log_begin(struct vm_log *log);
void vm_log_end(struct vm_log *log);

/* One text, when @log has one of @items. @log may be NULL. */
void vm_log_printf(struct vm_log *log, unsigned items, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);

/* 0, 1, 2, ...: numbers the events of a machine. */
unsigned vm_log_count_event(struct vm_log *log);

/* Inclusive on both sides. */
struct vm_log_range {
    uint64_t first, last;
};

/*
 * "START..END,START+LEN,START-LEN,..." into @ranges (struct vm_log_range), added to
 * what is there. START-LEN are the LEN addresses that end with START. Numbers as C
 * has them. False with @error.
 */
bool vm_log_ranges_parse(const char *text, GArray *ranges, GError **error);

#endif
