/* Integer arithmetic and data structures; see work.h. */
#include <stdlib.h>
#include <string.h>

#include "tests/bench/cpu/work.h"
#include "tests/bench/kernels.h"

uint64_t work_integer(const uint64_t *arg)
{
    return kernel_integer(arg[0]);
}

uint64_t work_sha256(const uint64_t *arg)
{
    return kernel_sha(work_memory(256 << 10), arg[0]);
}

uint64_t work_divide(const uint64_t *arg)
{
    return kernel_divide(arg[0]);
}

/* What small controllers do: lists, a matrix of shorts, a state machine, a CRC. */

#define NODES 200
#define ROWS  10

struct node {
    struct node *next;
    int16_t key, value;
};

static uint16_t crc16(uint16_t crc, uint32_t v)
{
    for (unsigned i = 0; i < 16; i++, v >>= 1) {
        uint16_t odd = (crc ^ v) & 1;
        crc >>= 1;
        if (odd) {
            crc ^= 0xa001;
        }
    }
    return crc;
}

static struct node *list_reverse(struct node *list)
{
    struct node *done = NULL;
    while (list) {
        struct node *next = list->next;
        list->next = done;
        done = list;
        list = next;
    }
    return done;
}

static const struct node *list_find(const struct node *list, int16_t key)
{
    while (list && list->key != key) {
        list = list->next;
    }
    return list;
}

static uint16_t list_work(struct node *nodes, struct node **list, uint32_t seed)
{
    uint16_t crc = 0;
    for (unsigned i = 0; i < 20; i++) {
        *list = list_reverse(*list);
        const struct node *n = list_find(*list, (int16_t)((seed + i * 37) % NODES));
        crc = crc16(crc, n ? (uint16_t)n->value : 0xffff);
    }
    nodes[seed % NODES].value ^= (int16_t)crc;
    return crc;
}

static NOVEC uint16_t matrix_work(int16_t m[ROWS][ROWS], uint32_t seed)
{
    int32_t sum = 0;
    for (unsigned i = 0; i < ROWS; i++) {
        for (unsigned j = 0; j < ROWS; j++) {
            int32_t s = 0;
            for (unsigned k = 0; k < ROWS; k++) {
                s += m[i][k] * m[k][j];
            }
            sum += (s >> 2) & 0x7f;
        }
    }
    m[seed % ROWS][seed / ROWS % ROWS] += (int16_t)(seed & 15);
    return crc16(0, (uint32_t)sum);
}

/* What kind of number a text is: 0 none, 1 integer, 2 decimal, 3 with exponent. */
static unsigned number_kind(const char **text)
{
    unsigned state = 0;
    for (; **text && **text != ','; ++*text) {
        char c = **text;
        switch (state) {
        case 0: state = c >= '0' && c <= '9' ? 1 : c == '+' || c == '-' ? 0 : 4; break;
        case 1:
            state = c >= '0' && c <= '9' ? 1 : c == '.' ? 2 : c == 'e' ? 3 : 4;
            break;
        case 2: state = c >= '0' && c <= '9' ? 2 : c == 'e' ? 3 : 4; break;
        case 3: state = (c >= '0' && c <= '9') || c == '-' ? 3 : 4; break;
        default: break;
        }
    }
    *text += **text == ',';
    return state;
}

static uint16_t state_work(void)
{
    static const char input[] = "5012,1.5,-874,12e-9,+122,abc,0.5e1,7,8.x,-9,33.25,1e1,"
                                "T0.3,123456,-1.0,.5,66e,12-,99,0";
    unsigned counts[5] = {0};
    const char *p = input;
    while (*p) {
        counts[number_kind(&p)]++;
    }
    return crc16(0, counts[0] | counts[1] << 3 | counts[2] << 6 | counts[3] << 9);
}

uint64_t work_mix(const uint64_t *arg)
{
    static struct node nodes[NODES];
    static int16_t m[ROWS][ROWS];
    struct node *list = NULL;
    for (unsigned i = 0; i < NODES; i++) {
        struct node *n = &nodes[i * 67 % NODES];
        *n = (struct node){list, (int16_t)i, (int16_t)(i * 7)};
        list = n;
    }
    for (unsigned i = 0; i < ROWS * ROWS; i++) {
        m[i / ROWS][i % ROWS] = (int16_t)(i * 13 % 50);
    }
    uint64_t sum = 0;
    for (uint64_t i = 0; i < arg[0]; i++) {
        sum = sum * 31 + list_work(nodes, &list, (uint32_t)i);
        sum = sum * 31 + matrix_work(m, (uint32_t)i);
        sum = sum * 31 + state_work();
    }
    return sum;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

uint64_t work_qsort(const uint64_t *arg)
{
    size_t n = arg[0];
    uint32_t *v = work_memory(n * sizeof(*v));
    uint64_t state = 7, sum = 0;
    for (uint64_t t = 0; t < arg[1]; t++) {
        for (size_t i = 0; i < n; i++) {
            v[i] = work_random(&state);
        }
        qsort(v, n, sizeof(*v), compare);
        sum = sum * 31 + v[n / 3];
    }
    return sum;
}

/*
 * An LZ77 of literals and matches: a token has the number of literals, then they come,
 * then length and 16-bit distance of a match. All lengths are one byte.
 */

static size_t lz_compress(const uint8_t *in, size_t n, uint8_t *out, uint32_t *heads)
{
    size_t at = 0, first = 0, o = 0;
    memset(heads, 0, sizeof(*heads) << 14);
    while (at + 4 <= n) {
        uint32_t word;
        memcpy(&word, in + at, 4);
        uint32_t *head = &heads[word * 2654435761u >> 18];
        size_t match = *head, length = 0;
        *head = (uint32_t)at;
        if (match < at && at - match < 65536) {
            while (at + length < n && length < 255 &&
                   in[match + length] == in[at + length]) {
                length++;
            }
        }
        if (length < 4 && at - first < 255) {
            at++;
            continue;
        }
        length = length < 4 ? 0 : length;
        out[o++] = (uint8_t)(at - first);
        while (first < at) {
            out[o++] = in[first++];
        }
        size_t distance = length ? at - match : 0;
        out[o++] = (uint8_t)length;
        out[o++] = (uint8_t)distance;
        out[o++] = (uint8_t)(distance >> 8);
        at += length;
        first = at;
    }
    out[o++] = (uint8_t)(n - first);
    while (first < n) {
        out[o++] = in[first++];
    }
    return o;
}

static NOVEC size_t lz_decompress(const uint8_t *in, size_t n, uint8_t *out)
{
    size_t o = 0;
    for (size_t i = 0; i < n;) {
        for (unsigned literals = in [i++]; literals; literals--) {
            out[o++] = in[i++];
        }
        if (i + 3 > n) {
            break;
        }
        size_t distance = in[i + 1] | (size_t)in[i + 2] << 8;
        for (unsigned length = in[i]; length; length--, o++) {
            out[o] = out[o - distance];
        }
        i += 3;
    }
    return o;
}

uint64_t work_lz(const uint64_t *arg)
{
    static uint32_t heads[1 << 14];
    size_t n = arg[0], packed = 0;
    uint8_t *in = work_memory(n), *out = work_memory(n * 2),
            *back = work_memory(n + 256);
    uint64_t state = 3;
    for (size_t i = 0; i < n; i++) { /* words that come again */
        uint32_t r = work_random(&state);
        in[i] = i >= 512 && r % 32 ? in[i - 64 * (1 + i / 97 % 8)]
                                   : (uint8_t)('a' + r % 26);
    }
    for (uint64_t t = 0; t < arg[1]; t++) {
        in[t % n]++;
        packed = lz_compress(in, n, out, heads);
        if (lz_decompress(out, packed, back) != n || memcmp(in, back, n) != 0) {
            return 0;
        }
    }
    return work_hash(out, packed);
}
