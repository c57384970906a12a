#ifndef VMM_ACCEL_BT_T0_GUEST_H
#define VMM_ACCEL_BT_T0_GUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/accel/bt/t0_native.h"
#include "vmm/accel/bt/t0_test.h"

#define GUEST_CODE UINT64_C(0x53370000)

/*
 * Instructions by the software CPU, as a user program that sees what
 * native_run_fpu() gives one at GUEST_CODE: the same address, arena, base of GS and
 * selectors. Of its own are only the contents of the arena, at @arena. Page 2 of it is
 * read-only.
 */
struct guest {
    struct t0_test *t;
    uint8_t *arena; /* NATIVE_PAGES pages */
    /* What every run starts from besides the arguments; the test may change it. */
    struct x86_state start;
};

/* @bits 32 or 64. */
struct guest *guest_new(unsigned bits);
void guest_free(struct guest *g);

#define GUEST_MAX_LEN 1000u

/* As native_run_fpu(), for at most GUEST_MAX_LEN bytes: INT 80h follows them. */
void guest_run(struct guest *g, const uint8_t *bytes, unsigned len,
               struct native_result *r, uint8_t *xsave);

/* The two forms of floating-point state. */
void fpu_to_xsave(const struct x86_fpu *s, uint8_t *p);
void fpu_from_xsave(struct x86_fpu *s, const uint8_t *p);

#endif
