#ifndef LIB_BASE_BASE_H
#define LIB_BASE_BASE_H

#include <stddef.h>
#include <stdint.h>

#include <glib.h>

#include "lib/base/tsan.h"

/*
 * What every folder may use: the error domain, small arithmetic and the likely
 * hints. Thin, over GLib.
 */

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* @a must be a power of two. */
#define ALIGN_DOWN(x, a) ((x) & ~((__typeof__(x))(a)-1))
#define ALIGN_UP(x, a)   ALIGN_DOWN((x) + (__typeof__(x))(a)-1, a)

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

/* One error domain; the message is what counts, the code is an errno or 0. */
#define LODGE_ERROR lodge_error_quark()
GQuark lodge_error_quark(void);

/*
 * Set @error from a positive errno: "<formatted message>: <strerror>".
 * Always returns false, so that a caller can `return error_errno(...)`.
 */
gboolean error_errno(GError **error, int err, const char *fmt, ...) G_GNUC_PRINTF(3, 4);

/* Set @error to the formatted message. Always returns false. */
gboolean error_msg(GError **error, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/*
 * The entry of the NULL-terminated @names nearest to @word by edit distance, or
 * NULL when nothing is near enough to be worth suggesting (more than a third of
 * the letters differ). Borrowed from @names.
 */
const char *nearest_name(const char *word, const char *const *names);

/*
 * Parse a size as QEMU's options do: a decimal or 0x number, an optional fraction
 * and a suffix b, k, K, M, G, T, P or E (powers of 1024). @default_unit multiplies
 * a number without suffix (1 for bytes, MIB for -m).
 * False with @error set, naming the text, on anything else or on overflow.
 */
gboolean parse_size(const char *text, uint64_t default_unit, uint64_t *ret,
                    GError **error);

#endif
