/* Output and the list of tests: tap.h. */
#include "tests/guest/lib/tap.h"

#include <stdarg.h>

#define COM1 0x3f8

extern const struct guest_test __start_guest_tests[], __stop_guest_tests[];

static unsigned failures;
static const char *skipped;

void *memcpy(void *to, const void *from, size_t n)
{
    void *r = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    return r;
}

void *memset(void *to, int c, size_t n)
{
    void *r = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
    return r;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *x = a, *y = b;
    for (; n; n--, x++, y++) {
        if (*x != *y) {
            return *x - *y;
        }
    }
    return 0;
}

/* --- Output ------------------------------------------------------------------ */

static void put(char ch)
{
    while (!(inb(COM1 + 5) & 0x20)) {
    }
    outb(COM1, (uint8_t)ch);
}

static void put_number(uint64_t v, unsigned base)
{
    char text[24];
    unsigned n = 0;
    if (base == 10) {
        for (uint32_t d = (uint32_t)v; d || !n; d /= 10) { /* counts and line numbers */
            text[n++] = (char)('0' + d % 10);
        }
    }
    for (; base == 16 && (v || !n); v >>= 4) {
        text[n++] = "0123456789abcdef"[v & 15];
    }
    while (n) {
        put(text[--n]);
    }
}

void guest_printf(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    for (; *fmt; fmt++) {
        if (*fmt != '%') {
            put(*fmt);
            continue;
        }
        bool wide = *++fmt == 'l';
        fmt += wide;
        if (*fmt == 's') {
            for (const char *s = va_arg(ap, const char *); *s; s++) {
                put(*s);
            }
        } else if (*fmt == 'c') {
            put((char)va_arg(ap, int));
        } else {
            uint64_t v = wide ? va_arg(ap, uint64_t) : va_arg(ap, unsigned);
            put_number(v, *fmt == 'x' ? 16 : 10);
        }
    }
    va_end(ap);
}

void guest_fail(const char *file, int line, const char *what, uint64_t a, uint64_t b)
{
    failures++;
    guest_printf("# %s:%d: %s (0x%lx, 0x%lx)\n", file, line, what, a, b);
}

void guest_skip(const char *why)
{
    skipped = why;
}

/* --- The run ----------------------------------------------------------------- */

static _Noreturn void end(uint8_t status)
{
    outb(0xf4, status);
    for (;;) {
        __asm__ volatile("cli; hlt");
    }
}

_Noreturn void guest_bail_out(const char *why)
{
    guest_printf("Bail out! %s\n", why);
    end(0x12);
}

void guest_run_tests(void (*before)(void))
{
    outb(COM1 + 3, 3);
    outb(COM1 + 2, 1);
    unsigned nb = (unsigned)(__stop_guest_tests - __start_guest_tests), failed = 0;
    guest_printf("1..%d\n", nb);
    for (unsigned i = 0; i < nb; i++) {
        failures = 0;
        skipped = NULL;
        before();
        __start_guest_tests[i].fn();
        failed += failures != 0;
        guest_printf("%s %d - %s%s%s\n", failures ? "not ok" : "ok", i + 1,
                     __start_guest_tests[i].name, skipped ? " # SKIP " : "",
                     skipped ? skipped : "");
    }
    end(failed ? 0x11 : 0x10);
}
