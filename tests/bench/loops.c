#include "tests/bench/loops.h"

#include <stddef.h>

#include "tests/bench/kernels.h"

/* See loops.h. Freestanding: no library, no state but what is here. */

#define BYTES (1u << 20)

static uint8_t buffer[BYTES] __attribute__((aligned(4096)));
static uint8_t other[BYTES] __attribute__((aligned(4096)));

static uint64_t integer(void)
{
    return kernel_integer(4000000);
}

static uint64_t bytes(void)
{
    return kernel_bytes(buffer, BYTES);
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

static uint64_t chase_32k(void)
{
    return kernel_chase((uint32_t *)buffer, 32768, 1000000);
}

static uint64_t chase_1m(void)
{
    return kernel_chase((uint32_t *)buffer, BYTES, 1000000);
}

static uint64_t calls(void)
{
    unsigned n = 25;
    OPAQUE(n);
    return kernel_fib(n); /* 242785 calls */
}

static uint64_t interpret(void)
{
    return kernel_interpret(200000);
}

static uint64_t pointers(void)
{
    return kernel_pointers(1000000);
}

static uint64_t copy(void)
{
    return kernel_rep_movsb(other, buffer, BYTES, 8);
}

static uint64_t sha(void)
{
    return kernel_sha((uint32_t *)buffer, 4000);
}

static uint64_t sort(void)
{
    return kernel_sort((uint32_t *)other, 20000);
}

static uint64_t divide(void)
{
    return kernel_divide(500000);
}

static uint64_t atomics(void)
{
    static uint64_t counter;
    return kernel_xadd(&counter, 500000);
}

static uint64_t scalar_fp(void)
{
    return kernel_scalar_fp(1000000);
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

/* --- Code and data in one page: what old compilers, boot loaders and JITs do --- */

uint8_t loop_code[LOOP_CODE_BYTES] __attribute__((aligned(4096)));

enum { BESIDE_ROUNDS = 200000, FRESH_ROUNDS = 10000 };

/* At the start of the code page, a loop that counts in the same page at @data. */
static uint64_t count_beside(unsigned data)
{
    static const uint8_t loop[] = {0x48, 0xff, 0x05, 0,    0,    0,
                                   0,    0xff, 0xcf, 0x75, 0xf5, 0xc3};
    uint32_t rel = data - 7;
    volatile uint8_t *p = loop_code;
    for (unsigned i = 0; i < sizeof(loop); i++) {
        p[i] = i >= 3 && i < 7 ? (uint8_t)(rel >> 8 * (i - 3)) : loop[i];
    }
    void (*fn)(unsigned) = (void (*)(unsigned))(uintptr_t)loop_code;
    fn(BESIDE_ROUNDS);
    return *(volatile uint64_t *)(loop_code + data);
}

static uint64_t beside_64(void)
{
    return count_beside(32);
}

static uint64_t beside_512(void)
{
    return count_beside(256);
}

static uint64_t beside_page(void)
{
    return count_beside(2048);
}

/* "mov eax, imm32; ret" is written and called; the same each time, or another. */
static uint64_t fresh(uint64_t step)
{
    volatile uint64_t *p = (volatile uint64_t *)(loop_code + 1024);
    unsigned (*fn)(void) = (unsigned (*)(void))(uintptr_t)p;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < FRESH_ROUNDS; i++) {
        *p = 0x9090c300000000b8 | (i * step & 0xffffff) << 8;
        sum += fn();
    }
    return sum;
}

static uint64_t trampoline(void)
{
    return fresh(0);
}

static uint64_t patched(void)
{
    return fresh(1);
}

const struct loop_bench loop_benches[] = {
    {"integer", integer, 4000000},
    {"bytes", bytes, BYTES},
    {"words", words, 16 * 4096},
    {"chase-32k", chase_32k, 1000000},
    {"chase-1m", chase_1m, 1000000},
    {"calls", calls, 242785},
    {"interpret", interpret, 2400000},
    {"pointers", pointers, 1000000},
    {"rep-movsb", copy, 8 * BYTES},
    {"sha256", sha, 4000 * 64},
    {"sort", sort, 20000 * 14},
    {"divide", divide, 1000000},
    {"atomics", atomics, 500000},
    {"scalar-fp", scalar_fp, 1000000},
    {"vector", vector, 64 * 1024},
    {"beside-64", beside_64, BESIDE_ROUNDS},
    {"beside-512", beside_512, BESIDE_ROUNDS},
    {"beside-page", beside_page, BESIDE_ROUNDS},
    {"trampoline", trampoline, FRESH_ROUNDS},
    {"patched", patched, FRESH_ROUNDS},
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
