#ifndef VMM_ACCEL_BT_T0_TEST_H
#define VMM_ACCEL_BT_T0_TEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <glib.h>

#include "lib/isa/x86/state.h"
#include "vmm/vm/exit.h"

struct vm;
struct vcpu;
struct loop;

/*
 * A machine for tests of the software CPU: RAM from address 0, one vCPU in a flat
 * mode, no devices and no threads. Code runs until HLT or something that run()
 * returns for.
 *
 *     struct t0_test *t = t0_test_new(64, 1024, NULL);
 *     t0_test_code(t, (const uint8_t[]){0xb8, 1, 0, 0, 0, 0xf4}, 6);  // mov eax, 1;
 * hlt g_assert_cmpint(t0_test_run(t), ==, VCPU_EXIT_HLT);
 *     g_assert_cmpuint(t->s.gpr[X86_RAX], ==, 1);
 *     t0_test_free(t);
 *
 * In 64-bit mode the first GiB is mapped to itself, writable, user, with 2 MiB pages;
 * the tables are at T0_TEST_PML4. The 16-bit mode is real mode, the 32-bit mode is
 * protected mode without paging. The GDT at T0_TEST_GDT has the selectors below. The
 * IDT is empty: an exception is a triple fault, VCPU_EXIT_SHUTDOWN, until the test
 * fills it (t0_test_gate()).
 */
#define T0_TEST_GDT  0x500u
#define T0_TEST_IDT  0x800u
#define T0_TEST_TSS  0x1800u
#define T0_TEST_PML4 0x2000u
#define T0_TEST_CODE                                                                 \
    0x10000u                  /* where t0_test_code() puts code; 0x1000 in real mode \
                               */
#define T0_TEST_STACK 0x9000u /* initial stack pointer */

enum { /* selectors */
       T0_TEST_CS64 = 0x08,
       T0_TEST_CS32 = 0x10,
       T0_TEST_DS = 0x18,
       T0_TEST_UCS32 = 0x20 | 3, /* in SYSRET's order */
       T0_TEST_UDS = 0x28 | 3,
       T0_TEST_UCS64 = 0x30 | 3,
       T0_TEST_TR = 0x38,   /* 16 bytes */
       T0_TEST_FREE = 0x48, /* and up to 0xf8: the test's own */
};

struct t0_test {
    struct loop *loop;
    struct vm *vm;
    struct vcpu *vcpu;
    void *model;
    uint8_t *ram;
    unsigned bits;
    struct x86_state s; /* loaded by run, and stored by it */
};

/* @cpu as -cpu, NULL: "max". Aborts when the machine cannot be made. */
struct t0_test *t0_test_new(unsigned bits, unsigned ram_kib, const char *cpu);

/* The same with tier @tier; tier 1 translates every block at its first execution,
 * tier 2 also makes a hot region from there. */
struct t0_test *t0_test_new_tier(unsigned bits, unsigned ram_kib, const char *cpu,
                                 unsigned tier);

/* The same with options as -accel bt has them, "tier=1,cache-mib=1". */
struct t0_test *t0_test_new_options(unsigned bits, unsigned ram_kib, const char *cpu,
                                    const char *options);
void t0_test_free(struct t0_test *t);

/* Whether -accel bt takes them; @error says why not. */
bool t0_test_options_ok(const char *options, GError **error);

/* Copy @code to T0_TEST_CODE and point t->s.rip at it. */
void t0_test_code(struct t0_test *t, const void *code, size_t len);

/* Fill IDT entry @vector: a gate of @type and @dpl to @off in the kernel's CS. */
void t0_test_gate(struct t0_test *t, unsigned vector, unsigned type, unsigned dpl,
                  unsigned ist, uint64_t off);

/*
 * Fill the IDT so that every exception ends the run with HLT: RBX holds the vector,
 * and the stack pointer is at the error code or the return address. The handlers are
 * at T0_TEST_HANDLERS, 16 bytes each.
 */
#define T0_TEST_HANDLERS 0xa000u
void t0_test_catch_all(struct t0_test *t);

/* The top of the stack: an error code after t0_test_catch_all(). */
uint64_t t0_test_top(const struct t0_test *t);

/*
 * Assembler text as bytes: T0_TEST_ASM(name, 64, "mov $1, %eax\n hlt") declares
 * name[] and name_end[]; t0_test_asm(t, name) loads it.
 */
#define T0_TEST_ASM(name, bits, text)                                            \
    __asm__(".pushsection .rodata\n.code" #bits "\n" #name ":\n" text "\n" #name \
            "_end:\n.code64\n.popsection");                                      \
    extern const uint8_t name[], name##_end[]
#define t0_test_asm(t, name) t0_test_code(t, name, (size_t)(name##_end - name))

/* Put the CPU at user level (the flat user segments of the mode). */
void t0_test_user(struct t0_test *t);

/* Run from t->s; t->s is the state after it. */
enum vcpu_exit t0_test_run(struct t0_test *t);

#endif
