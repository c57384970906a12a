/* Calls, indirect branches and code that is made at run time; see work.h. */
#include <string.h>
#include <sys/mman.h>

#include "tests/bench/cpu/work.h"
#include "tests/bench/kernels.h"

uint64_t work_bytecode(const uint64_t *arg)
{
    return kernel_interpret(arg[0]);
}

uint64_t work_recurse(const uint64_t *arg)
{
    return kernel_fib((unsigned)arg[0]);
}

uint64_t work_indirect(const uint64_t *arg)
{
    return kernel_pointers(arg[0]);
}

/* Objects of eight classes, whose methods are found through the object. */

struct shape;
struct shape_class {
    uint64_t (*grow)(struct shape *s, uint64_t v);
    uint64_t (*area)(const struct shape *s);
};
struct shape {
    const struct shape_class *class;
    uint64_t a, b;
};

#define SHAPE(n, expression)                                                       \
    static __attribute__((noinline)) uint64_t grow##n(struct shape *s, uint64_t v) \
    {                                                                              \
        s->a += v * (n);                                                           \
        s->b ^= s->a;                                                              \
        return s->b;                                                               \
    }                                                                              \
    static __attribute__((noinline)) uint64_t area##n(const struct shape *s)       \
    {                                                                              \
        return expression;                                                         \
    }
SHAPE(1, s->a * s->b)
SHAPE(2, s->a + s->b)
SHAPE(3, s->a - s->b)
SHAPE(4, s->a ^ s->b)
SHAPE(5, s->a | s->b)
SHAPE(6, s->a * 3 + s->b)
SHAPE(7, s->a >> (s->b & 7))
SHAPE(8, s->b << (s->a & 7))

static const struct shape_class classes[] = {
    {grow1, area1}, {grow2, area2}, {grow3, area3}, {grow4, area4},
    {grow5, area5}, {grow6, area6}, {grow7, area7}, {grow8, area8},
};

#define SHAPES 1024

uint64_t work_virtual(const uint64_t *arg)
{
    static struct shape shapes[SHAPES];
    uint64_t state = 5, sum = 0;
    for (unsigned i = 0; i < SHAPES; i++) {
        shapes[i] = (struct shape){&classes[work_random(&state) % 8], i, i * 3};
    }
    for (uint64_t n = arg[0] / 2; n; n--) {
        struct shape *s = &shapes[n % SHAPES];
        sum += s->class->grow(s, n);
        sum ^= s->class->area(s);
    }
    return sum;
}

/* A function of 64 steps "eax = eax * 5 + immediate"; returns its length. */
static size_t make_function(uint8_t *p, uint32_t seed)
{
    uint8_t *start = p;
    *p++ = 0x89; /* mov eax, edi */
    *p++ = 0xf8;
    for (unsigned i = 0; i < 64; i++) {
        static const uint8_t step[] = {0x8d, 0x04, 0x80, 0x05}; /* lea, add */
        uint32_t value = seed * 2654435761u + i;
        memcpy(p, step, 4);
        memcpy(p + 4, &value, 4);
        p += 8;
    }
    *p++ = 0xc3; /* ret */
    return (size_t)(p - start);
}

typedef uint32_t code_fn(uint32_t v);

static uint8_t *code_memory(size_t size)
{
    uint8_t *p = work_memory(size);
    if (mprotect(p, size, PROT_READ | PROT_WRITE | PROT_EXEC) < 0) {
        work_fail("memory for code");
    }
    return p;
}

/* One immediate of the function changes between calls. */
uint64_t work_smc(const uint64_t *arg)
{
    uint8_t *code = code_memory(4096);
    uint32_t v = 1;
    make_function(code, 1);
    for (uint64_t i = 0; i < arg[0]; i++) {
        uint32_t value = (uint32_t)i * 77;
        memcpy(code + 2 + 8 * (i % 64) + 4, &value, 4);
        __asm__ volatile("" : : : "memory");
        for (uint64_t n = 0; n < arg[1]; n++) {
            v = ((code_fn *)(uintptr_t)code)(v);
        }
    }
    return v;
}

/* Functions one after the other through 1 MiB, then from its start again. */
uint64_t work_jit(const uint64_t *arg)
{
    const size_t size = 1 << 20;
    uint8_t *code = code_memory(size);
    size_t at = 0;
    uint32_t v = 1;
    for (uint64_t i = 0; i < arg[0]; i++) {
        if (at + 1024 > size) {
            at = 0;
        }
        uint8_t *p = code + at;
        at += (make_function(p, (uint32_t)i) + 15) & ~(size_t)15;
        __asm__ volatile("" : : : "memory");
        for (uint64_t n = 0; n < arg[1]; n++) {
            v = ((code_fn *)(uintptr_t)p)(v);
        }
    }
    return v;
}
