#include "tests/bench/loops.h"

#include <stddef.h>

/* See loops.h. Freestanding: no library, no state but what is here. */

#define N     4000000u
#define BYTES (1u << 20)

static uint8_t buffer[BYTES] __attribute__((aligned(4096)));
static uint8_t other[BYTES] __attribute__((aligned(4096)));

/* Keeps the compiler from knowing a value. */
#define OPAQUE(v) __asm__ volatile("" : "+r"(v))
#define NOVEC                \
    __attribute__((noinline, \
                   optimize("no-tree-vectorize", "no-tree-loop-distribute-patterns")))

static NOVEC uint64_t integer(void)
{
    uint64_t a = 88172645463325252u, sum = 0;
    for (unsigned i = 0; i < N; i++) {
        a ^= a << 13;
        a ^= a >> 7;
        a ^= a << 17;
        sum += a * 31 + (a > sum);
    }
    return sum;
}

static NOVEC uint64_t bytes(void)
{
    uint64_t h = 5381;
    for (unsigned i = 0; i < BYTES; i++) {
        h = h * 33 + buffer[i];
    }
    return h;
}

static NOVEC uint64_t words(void)
{
    uint64_t *p = (uint64_t *)buffer, sum = 0;
    for (unsigned n = 0; n < 16; n++) {
        for (unsigned i = 0; i < 32768 / 8; i++) {
            sum += p[i];
            p[i] = sum ^ i;
        }
    }
    return sum;
}

static NOVEC uint64_t chase(unsigned size)
{
    uint32_t *next = (uint32_t *)buffer, n = size / 64, at = 0;
    for (unsigned i = 0; i < n; i++) {
        next[i * 16] = (i * 389 + 71) % n * 16;
    }
    for (unsigned i = 0; i < 1000000; i++) {
        at = next[at];
    }
    return at;
}

static uint64_t chase_32k(void)
{
    return chase(32768);
}

static uint64_t chase_1m(void)
{
    return chase(BYTES);
}

static __attribute__((noinline)) uint64_t fib(unsigned n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t calls(void)
{
    unsigned n = 25;
    OPAQUE(n);
    return fib(n); /* 242785 calls */
}

/* A bytecode interpreter: an indirect jump for each step. */
static NOVEC uint64_t interpret(void)
{
    static const uint8_t code[] = {0, 1, 2, 3, 1, 4, 2, 0, 3, 4, 1, 5};
    uint64_t acc = 1, x = 3, count = 200000;
    for (unsigned pc = 0;;) {
        switch (code[pc++]) {
        case 0: acc += x; break;
        case 1: acc ^= acc << 5; break;
        case 2: x = x * 5 + 1; break;
        case 3: acc -= x >> 3; break;
        case 4: acc = acc >> 1 | acc << 63; break;
        case 5:
            if (--count == 0) {
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

static NOVEC uint64_t pointers(void)
{
    uint64_t (*volatile fn[4])(uint64_t) = {f0, f1, f2, f3};
    uint64_t v = 1;
    for (unsigned i = 0; i < 1000000; i++) {
        v = fn[i & 3](v);
    }
    return v;
}

static NOVEC uint64_t copy(void)
{
    for (unsigned n = 0; n < 8; n++) {
        void *to = other, *from = buffer;
        uint64_t count = BYTES;
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    }
    return other[77];
}

#define ROR(v, n) ((v) >> (n) | (v) << (32 - (n)))

/* The rounds of SHA-256 with made-up constants. */
static NOVEC uint64_t sha(void)
{
    uint32_t h[8] = {1, 2, 3, 4, 5, 6, 7, 8}, w[64];
    for (unsigned block = 0; block < 4000; block++) {
        for (unsigned i = 0; i < 16; i++) {
            w[i] = ((uint32_t *)buffer)[(block * 16 + i) & 0xffff] + i;
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

static NOVEC uint64_t sort(void)
{
    uint32_t *v = (uint32_t *)other, x = 1;
    const unsigned n = 20000;
    for (unsigned i = 0; i < n; i++) {
        v[i] = x = x * 1664525 + 1013904223;
    }
    for (unsigned gap = n / 2; gap; gap /= 2) {
        for (unsigned i = gap; i < n; i++) {
            uint32_t t = v[i];
            unsigned j = i;
            for (; j >= gap && v[j - gap] > t; j -= gap) {
                v[j] = v[j - gap];
            }
            v[j] = t;
        }
    }
    return v[77];
}

static NOVEC uint64_t divide(void)
{
    uint64_t a = UINT64_C(0x123456789abcdef), sum = 0;
    for (unsigned i = 1; i <= 500000; i++) {
        sum += a / (i | 1) + a % (i + 13);
    }
    return sum;
}

static NOVEC uint64_t atomics(void)
{
    static uint64_t counter;
    for (unsigned i = 0; i < 500000; i++) {
        __atomic_fetch_add(&counter, i, __ATOMIC_SEQ_CST);
    }
    return counter;
}

static NOVEC uint64_t scalar_fp(void)
{
    double x = 0.5, y = 0.25, s = 0;
    for (unsigned i = 0; i < 1000000; i++) {
        x = x * 1.0000001 + y;
        y = y * 0.9999999 - x * 1e-9;
        s += x / (y + 2.0);
    }
    uint64_t r;
    __builtin_memcpy(&r, &s, 8);
    return r;
}

static __attribute__((noinline)) uint64_t vector(void)
{
    typedef float v4 __attribute__((vector_size(16)));
    v4 *p = (v4 *)other, acc = {0, 0, 0, 0}, k = {1.5f, 2.5f, 3.5f, 4.5f};
    for (unsigned n = 0; n < 64; n++) {
        for (unsigned i = 0; i < 16384 / 16; i++) {
            acc += p[i & 1023] * k;
            p[i & 1023] = acc * 0.5f;
        }
    }
    return (uint64_t)(int64_t)acc[0];
}

const struct loop_bench loop_benches[] = {
    {"integer", integer, N},           {"bytes", bytes, BYTES},
    {"words", words, 16 * 4096},       {"chase-32k", chase_32k, 1000000},
    {"chase-1m", chase_1m, 1000000},   {"calls", calls, 242785},
    {"interpret", interpret, 2400000}, {"pointers", pointers, 1000000},
    {"rep-movsb", copy, 8 * BYTES},    {"sha256", sha, 4000 * 64},
    {"sort", sort, 20000 * 14},        {"divide", divide, 1000000},
    {"atomics", atomics, 500000},      {"scalar-fp", scalar_fp, 1000000},
    {"vector", vector, 64 * 1024},
};
const unsigned nb_loop_benches = sizeof(loop_benches) / sizeof(loop_benches[0]);

uint64_t loop_measure(const struct loop_bench *b)
{
    uint64_t best = UINT64_MAX;
    for (unsigned i = 0; i < 4; i++) {
        uint64_t begin = __builtin_ia32_rdtsc();
        volatile uint64_t sink = b->fn();
        uint64_t t = __builtin_ia32_rdtsc() - begin;
        (void)sink;
        best = t < best ? t : best;
    }
    return best;
}
