/* Floating point, scalar and in vectors; see work.h. */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "tests/bench/cpu/work.h"
#include "tests/bench/kernels.h"

struct matrices {
    size_t n;
    float *a, *b, *c;
};

static struct matrices matrices_new(size_t n)
{
    struct matrices m = {n, work_memory(n * n * 4), work_memory(n * n * 4),
                         work_memory(n * n * 4)};
    for (size_t i = 0; i < n * n; i++) {
        m.a[i] = (float)(i % 17) * 0.25f;
        m.b[i] = (float)(i % 13) * 0.5f - 1;
    }
    return m;
}

static NOVEC void multiply(const struct matrices *m)
{
    for (size_t i = 0; i < m->n; i++) {
        for (size_t j = 0; j < m->n; j++) {
            m->c[i * m->n + j] = 0;
        }
        for (size_t k = 0; k < m->n; k++) {
            float a = m->a[i * m->n + k];
            for (size_t j = 0; j < m->n; j++) {
                m->c[i * m->n + j] += a * m->b[k * m->n + j];
            }
        }
    }
}

static __attribute__((noinline)) void multiply_sse(const struct matrices *m)
{
    for (size_t i = 0; i < m->n; i++) {
        for (size_t j = 0; j < m->n; j += 8) {
            __m128 s0 = _mm_setzero_ps(), s1 = s0;
            for (size_t k = 0; k < m->n; k++) {
                const float *b = m->b + k * m->n + j;
                __m128 a = _mm_set1_ps(m->a[i * m->n + k]);
                s0 = _mm_add_ps(s0, _mm_mul_ps(a, _mm_loadu_ps(b)));
                s1 = _mm_add_ps(s1, _mm_mul_ps(a, _mm_loadu_ps(b + 4)));
            }
            _mm_storeu_ps(m->c + i * m->n + j, s0);
            _mm_storeu_ps(m->c + i * m->n + j + 4, s1);
        }
    }
}

static __attribute__((noinline, target("avx2,fma"))) void multiply_avx(
    const struct matrices *m)
{
    for (size_t i = 0; i < m->n; i += 2) {
        for (size_t j = 0; j < m->n; j += 8) {
            __m256 s0 = _mm256_setzero_ps(), s1 = s0;
            for (size_t k = 0; k < m->n; k++) {
                __m256 b = _mm256_loadu_ps(m->b + k * m->n + j);
                const float *a = m->a + i * m->n + k;
                s0 = _mm256_fmadd_ps(_mm256_broadcast_ss(a), b, s0);
                s1 = _mm256_fmadd_ps(_mm256_broadcast_ss(a + m->n), b, s1);
            }
            _mm256_storeu_ps(m->c + i * m->n + j, s0);
            _mm256_storeu_ps(m->c + (i + 1) * m->n + j, s1);
        }
    }
}

static uint64_t multiply_often(const uint64_t *arg, void (*fn)(const struct matrices *))
{
    struct matrices m = matrices_new(arg[0]);
    for (uint64_t t = 0; t < arg[1]; t++) {
        fn(&m);
        m.a[t % (m.n * m.n)] += m.c[t % m.n] * 0x1p-20f;
    }
    return work_hash(m.c, m.n * m.n * 4);
}

uint64_t work_matmul(const uint64_t *arg)
{
    return multiply_often(arg, multiply);
}

uint64_t work_matmul_sse(const uint64_t *arg)
{
    return multiply_often(arg, multiply_sse);
}

uint64_t work_matmul_avx(const uint64_t *arg)
{
    return multiply_often(arg, multiply_avx);
}

/* Five bodies that attract each other. */

#define BODIES 5

struct body {
    double at[3], speed[3], mass;
};

static void attract(struct body *b, double dt)
{
    for (unsigned i = 0; i < BODIES; i++) {
        for (unsigned j = i + 1; j < BODIES; j++) {
            double d[3], square = 0;
            for (unsigned k = 0; k < 3; k++) {
                d[k] = b[i].at[k] - b[j].at[k];
                square += d[k] * d[k];
            }
            double pull = dt / (square * sqrt(square));
            for (unsigned k = 0; k < 3; k++) {
                b[i].speed[k] -= d[k] * b[j].mass * pull;
                b[j].speed[k] += d[k] * b[i].mass * pull;
            }
        }
    }
    for (unsigned i = 0; i < BODIES; i++) {
        for (unsigned k = 0; k < 3; k++) {
            b[i].at[k] += dt * b[i].speed[k];
        }
    }
}

uint64_t work_nbody(const uint64_t *arg)
{
    struct body b[BODIES];
    for (unsigned i = 0; i < BODIES; i++) {
        b[i] = (struct body){{i * 3.0, i * i * 0.5, i * -1.25},
                             {i * 0.125, 0.5 - i * 0.25, 0.0625},
                             i ? 0.01 * i : 40};
    }
    for (uint64_t t = 0; t < arg[0]; t++) {
        attract(b, 0.001);
    }
    return work_hash(b, sizeof(b));
}

uint64_t work_x87(const uint64_t *arg)
{
    long double x = 0.5L, y = 1.25L, sum = 0;
    for (uint64_t i = 0; i < arg[0]; i++) {
        x = x * 1.0000001L + y / (long double)(i + 1);
        y = sqrtl(x + y) - 0.25L;
        sum += x * y;
    }
    uint64_t h;
    memcpy(&h, &sum, 8); /* the significand */
    return h;
}
