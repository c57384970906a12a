#include "tests/bench/kernels.h"

/* See kernels.h. */

NOVEC uint64_t kernel_integer(uint64_t n)
{
    uint64_t a = 88172645463325252u, sum = 0;
    for (uint64_t i = 0; i < n; i++) {
        a ^= a << 13;
        a ^= a >> 7;
        a ^= a << 17;
        sum += a * 31 + (a > sum);
    }
    return sum;
}

NOVEC uint64_t kernel_bytes(const uint8_t *p, uint64_t n)
{
    uint64_t h = 5381;
    for (uint64_t i = 0; i < n; i++) {
        h = h * 33 + p[i];
    }
    return h;
}

NOVEC uint64_t kernel_chase(uint32_t *p, uint32_t size, uint64_t steps)
{
    uint32_t n = size / 64, at = 0;
    for (uint32_t i = 0; i < n; i++) {
        p[i * 16] = (i * 389 + 71) % n * 16; /* one cycle through all */
    }
    for (uint64_t i = 0; i < steps; i++) {
        at = p[at];
    }
    return at;
}

__attribute__((noinline)) uint64_t kernel_fib(unsigned n)
{
    return n < 2 ? n : kernel_fib(n - 1) + kernel_fib(n - 2);
}

NOVEC uint64_t kernel_interpret(uint64_t n)
{
    static const uint8_t code[] = {0, 1, 2, 3, 1, 4, 2, 0, 3, 4, 1, 5};
    uint64_t acc = 1, x = 3;
    for (unsigned pc = 0;;) {
        switch (code[pc++]) {
        case 0: acc += x; break;
        case 1: acc ^= acc << 5; break;
        case 2: x = x * 5 + 1; break;
        case 3: acc -= x >> 3; break;
        case 4: acc = acc >> 1 | acc << 63; break;
        case 5:
            if (--n == 0) {
                return acc;
            }
            pc = 0;
            break;
        default: __builtin_unreachable();
        }
    }
}

static uint64_t f0(uint64_t v)
{
    OPAQUE(v);
    return v + 1;
}
static uint64_t f1(uint64_t v)
{
    OPAQUE(v);
    return v * 3;
}
static uint64_t f2(uint64_t v)
{
    OPAQUE(v);
    return v ^ 0x55;
}
static uint64_t f3(uint64_t v)
{
    OPAQUE(v);
    return v - 7;
}

NOVEC uint64_t kernel_pointers(uint64_t n)
{
    uint64_t (*volatile fn[4])(uint64_t) = {f0, f1, f2, f3};
    uint64_t v = 1;
    for (uint64_t i = 0; i < n; i++) {
        v = fn[i & 3](v);
    }
    return v;
}

#define ROR(v, n) ((v) >> (n) | (v) << (32 - (n)))

NOVEC uint64_t kernel_sha(const uint32_t *p, uint64_t n)
{
    uint32_t h[8] = {1, 2, 3, 4, 5, 6, 7, 8}, w[64];
    for (uint64_t block = 0; block < n; block++) {
        for (unsigned i = 0; i < 16; i++) {
            w[i] = p[(block * 16 + i) & 0xffff] + i;
        }
        for (unsigned i = 16; i < 64; i++) {
            uint32_t a = w[i - 15], b = w[i - 2];
            w[i] = w[i - 16] + (ROR(a, 7) ^ ROR(a, 18) ^ a >> 3) + w[i - 7] +
                   (ROR(b, 17) ^ ROR(b, 19) ^ b >> 10);
        }
        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6],
                 k = h[7];
        for (unsigned i = 0; i < 64; i++) {
            uint32_t s = k + (ROR(e, 6) ^ ROR(e, 11) ^ ROR(e, 25)) +
                         ((e & f) ^ (~e & g)) + w[i] + i * 0x9e3779b9;
            uint32_t t =
                (ROR(a, 2) ^ ROR(a, 13) ^ ROR(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
            k = g, g = f, f = e, e = d + s, d = c, c = b, b = a, a = s + t;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d;
        h[4] += e, h[5] += f, h[6] += g, h[7] += k;
    }
    return h[0] + h[5];
}

NOVEC uint64_t kernel_sort(uint32_t *v, uint32_t n)
{
    uint32_t x = 1;
    for (uint32_t i = 0; i < n; i++) {
        v[i] = x = x * 1664525 + 1013904223;
    }
    for (uint32_t gap = n / 2; gap; gap /= 2) {
        for (uint32_t i = gap; i < n; i++) {
            uint32_t t = v[i], j = i;
            for (; j >= gap && v[j - gap] > t; j -= gap) {
                v[j] = v[j - gap];
            }
            v[j] = t;
        }
    }
    return v[77];
}

NOVEC uint64_t kernel_divide(uint64_t n)
{
    uint64_t a = UINT64_C(0x123456789abcdef), sum = 0;
    for (uint64_t i = 1; i <= n; i++) {
        sum += a / (i | 1) + a % (i + 13);
    }
    return sum;
}

NOVEC uint64_t kernel_xadd(uint64_t *counter, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t old = __atomic_fetch_add(counter, i, __ATOMIC_SEQ_CST);
        OPAQUE(old); /* or LOCK ADD would do */
    }
    return *counter;
}

NOVEC uint64_t kernel_rep_movsb(uint8_t *to, const uint8_t *from, uint64_t size,
                                uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        void *t = to;
        const void *f = from;
        uint64_t count = size;
        __asm__ volatile("rep movsb" : "+D"(t), "+S"(f), "+c"(count) : : "memory");
    }
    return to[77];
}

NOVEC uint64_t kernel_scalar_fp(uint64_t n)
{
    double x = 0.5, y = 0.25, s = 0;
    for (uint64_t i = 0; i < n; i++) {
        x = x * 1.0000001 + y;
        y = y * 0.9999999 - x * 1e-9;
        s += x / (y + 2.0);
    }
    uint64_t r;
    __builtin_memcpy(&r, &s, 8);
    return r;
}
