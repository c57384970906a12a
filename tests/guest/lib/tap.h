#ifndef TESTS_GUEST_LIB_TAP_H
#define TESTS_GUEST_LIB_TAP_H

/*
 * What bare-metal test guests of every mode share: the list of tests, checks, and
 * results as TAP on the first serial port. 64-bit guests use lib/guest.h, those of the
 * older modes lib/legacy.h.
 *
 * A guest is an ELF file with a PVH entry: any VMM that boots PVH kernels runs it with
 * -kernel. It ends through isa-debug-exit at port 0xf4, status 0x10 (the process's exit
 * code is then 33) when all has passed, 0x11 (35) when not.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct guest_test {
    const char *name;
    void (*fn)(void);
};

#define GUEST_TEST(id)                                                          \
    static void id(void);                                                       \
    __attribute__((section("guest_tests"),                                      \
                   used)) static const struct guest_test test_##id = {#id, id}; \
    static void id(void)

/* Record a failure and go on. */
void guest_fail(const char *file, int line, const char *what, uint64_t a, uint64_t b);
/* Report this test as skipped: the CPU has not what it needs. */
void guest_skip(const char *why);

#define CHECK(cond)                                      \
    do {                                                 \
        if (!(cond)) {                                   \
            guest_fail(__FILE__, __LINE__, #cond, 0, 0); \
        }                                                \
    } while (0)

#define CHECK_EQ(got, want)                                                 \
    do {                                                                    \
        uint64_t got_ = (uint64_t)(got), want_ = (uint64_t)(want);          \
        if (got_ != want_) {                                                \
            guest_fail(__FILE__, __LINE__, #got " == " #want, got_, want_); \
        }                                                                   \
    } while (0)

void guest_printf(const char *fmt, ...); /* %s %d %u %x %lx %c only; l: 64 bits */

/* Run all tests, each after @before; does not return. */
void guest_run_tests(void (*before)(void));

/* Say why no test can go on, and end. */
_Noreturn void guest_bail_out(const char *why);

static inline void outb(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}
static inline uint8_t inb(uint16_t port)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);

#endif
