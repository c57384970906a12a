/* Memory, strings and atomic operations; see work.h. */
#include <pthread.h>
#include <string.h>

#include "tests/bench/cpu/work.h"
#include "tests/bench/kernels.h"

static uint8_t *filled(size_t size, uint32_t seed)
{
    uint32_t *p = work_memory(size);
    for (size_t i = 0; i < size / 4; i++) {
        p[i] = (uint32_t)i * 2654435761u + seed;
    }
    return (uint8_t *)p;
}

uint64_t work_chase(const uint64_t *arg)
{
    size_t size = arg[0] << 10;
    return kernel_chase(work_memory(size), (uint32_t)size, arg[1]);
}

uint64_t work_memcpy(const uint64_t *arg)
{
    size_t size = arg[0] << 10;
    uint8_t *from = filled(size, 1), *to = work_memory(size);
    for (uint64_t i = 0; i < arg[1]; i++) {
        from[i % size] ^= 1;
        memcpy(to, from, size);
        __asm__ volatile("" : : : "memory");
    }
    return kernel_bytes(to, 4096) + to[arg[1] % size];
}

uint64_t work_movsb(const uint64_t *arg)
{
    size_t size = arg[0] << 10;
    uint8_t *from = filled(size, 2), *to = work_memory(size);
    return kernel_rep_movsb(to, from, size, arg[1]);
}

uint64_t work_stosq(const uint64_t *arg)
{
    size_t size = arg[0] << 10;
    uint64_t *p = work_memory(size), sum = 0;
    for (uint64_t i = 0; i < arg[1]; i++) {
        void *to = p;
        size_t count = size / 8;
        __asm__ volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(i) : "memory");
        sum += p[i % (size / 8)];
    }
    return sum;
}

uint64_t work_stream(const uint64_t *arg)
{
    size_t n = (arg[0] << 10) / sizeof(double);
    double *a = work_memory(n * 8), *b = work_memory(n * 8), *c = work_memory(n * 8);
    for (size_t i = 0; i < n; i++) {
        a[i] = (double)i;
    }
    for (uint64_t t = 0; t < arg[1]; t++) {
        for (size_t i = 0; i < n; i++) {
            c[i] = a[i];
        }
        for (size_t i = 0; i < n; i++) {
            b[i] = 0.25 * c[i];
        }
        for (size_t i = 0; i < n; i++) {
            c[i] = a[i] + b[i];
        }
        for (size_t i = 0; i < n; i++) {
            a[i] = b[i] + 0.5 * c[i];
        }
    }
    return work_hash(a + n / 2, 4096);
}

uint64_t work_strlen(const uint64_t *arg)
{
    size_t size = arg[0] << 10;
    char *p = work_memory(size);
    uint64_t state = 11, sum = 0;
    memset(p, 'x', size);
    for (size_t at = 0; at < size; at += work_random(&state) % 200 + 1) {
        p[at] = 0;
    }
    p[size - 1] = 0;
    for (uint64_t t = 0; t < arg[1]; t++) {
        for (size_t at = 0; at < size;) {
            size_t length = strlen(p + at);
            sum = sum * 31 + length;
            at += length + 1;
        }
    }
    return sum;
}

uint64_t work_xadd(const uint64_t *arg)
{
    static uint64_t counter;
    return kernel_xadd(&counter, arg[0]);
}

struct shared {
    pthread_mutex_t lock;
    uint64_t count, rounds;
};

static void *lock_often(void *opaque)
{
    struct shared *s = opaque;
    for (uint64_t i = 0; i < s->rounds; i++) {
        pthread_mutex_lock(&s->lock);
        s->count += i & 3;
        pthread_mutex_unlock(&s->lock);
    }
    return NULL;
}

uint64_t work_mutex(const uint64_t *arg)
{
    struct shared s = {.lock = PTHREAD_MUTEX_INITIALIZER, .rounds = arg[0]};
    pthread_t threads[2];
    for (unsigned i = 0; i < 2; i++) {
        if (pthread_create(&threads[i], NULL, lock_often, &s)) {
            work_fail("thread");
        }
    }
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    return s.count;
}
