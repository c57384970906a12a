#include "cmd/io/io.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/base.h"
#include "lib/base/ck.h"

/* What all commands parse and print. */

void io_error(const struct io *io, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    fprintf(stderr, "%s: %s\n", io->prog, text);
}

void io_report(const struct io *io, GError *error)
{
    io_error(io, "%s", error->message);
    g_error_free(error);
}

/* ---- numbers -------------------------------------------------------------------- */

char *io_human(double bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB",
                                        "TiB",   "PiB", "EiB"};
    unsigned i = 0;
    while (bytes >= 1024 && i + 1 < ARRAY_LEN(units)) {
        bytes /= 1024;
        i++;
    }
    g_autofree char *n = g_strdup_printf(i ? "%.3f" : "%f", bytes);
    char *zeros = strstr(n, ".000");
    if (zeros) {
        *zeros = '\0';
    }
    return g_strdup_printf("%s %s", n, units[i]);
}

/* A number that only is too large for what we count in. */
static bool is_too_large(const char *text)
{
    const char *end = text + strspn(text, "0123456789");
    end += *end == '.' ? 1 + strspn(end + 1, "0123456789") : 0;
    bool suffix = *end && strchr("bkmgtpe", g_ascii_tolower(*end)) && !end[1];
    return end != text && (!*end || suffix);
}

bool io_number(const char *text, uint64_t *ret)
{
    bool ok = parse_size(text, 1, ret, NULL);
    if (ok && *ret <= INT64_MAX) {
        return true;
    }
    if (ok || is_too_large(text)) {
        printf("Parsing error: argument too large -- %s\n", text);
    } else {
        printf("Parsing error: non-numeric argument, or extraneous/unrecognized "
               "suffix -- %s\n",
               text);
    }
    return false;
}

int io_pattern(const char *text)
{
    char *end;
    long v = strtol(text, &end, 0);
    if (end == text || *end || v < 0 || v > 0xff) {
        printf("%s is not a valid pattern byte\n", text);
        return -1;
    }
    return (int)v;
}

/* ---- reports --------------------------------------------------------------------- */

static char *duration(double seconds, bool fixed)
{
    unsigned whole = (unsigned)seconds;
    unsigned hundredths = (unsigned)((seconds - whole) * 100);
    unsigned h = whole / 3600, m = whole / 60 % 60, s = whole % 60;
    if (fixed || h) {
        return g_strdup_printf("%u:%02u:%02u.%02u", h, m, s, hundredths);
    }
    return m ? g_strdup_printf("%02u:%02u.%02u", m, s, hundredths)
             : g_strdup_printf("%02u.%02u sec", s, hundredths);
}

void io_print_rates(const char *verb, const struct io_timer *t, uint64_t offset,
                    uint64_t len, bool machine)
{
    double seconds = (double)(loop_now_ns() - t->begun_ns) / 1e9;
    double divisor = seconds > 0 ? seconds : 1e-9;
    g_autofree char *time = duration(seconds, machine);
    if (machine) {
        printf("%" PRIu64 ",1,%s,%.3f,%.3f\n", len, time, (double)len / divisor,
               1 / divisor);
        return;
    }
    g_autofree char *total = io_human((double)len);
    g_autofree char *rate = io_human((double)len / divisor);
    printf("%s %" PRIu64 "/%" PRIu64 " bytes at offset %" PRIu64 "\n", verb, len, len,
           offset);
    printf("%s, 1 ops; %s (%s/sec and %.4f ops/sec)\n", total, time, rate, 1 / divisor);
}

void io_dump(const uint8_t *buf, uint64_t offset, uint64_t len)
{
    for (uint64_t i = 0; i < len; i += 16) {
        uint64_t end = MIN(i + 16, len);
        printf("%08" PRIx64 ":  ", offset + i);
        for (uint64_t k = i; k < end; k++) {
            printf("%02x ", buf[k]);
        }
        printf(" ");
        for (uint64_t k = i; k < end; k++) {
            printf("%c", isalnum(buf[k]) ? buf[k] : '.');
        }
        printf("\n");
    }
}

/* ---- buffers --------------------------------------------------------------------- */

bool io_buffer_init(const struct io *io, struct io_buffer *buf, uint64_t len,
                    int pattern)
{
    enum { PAGE = 4096, MISALIGN = 16 };
    size_t shift = io->misalign ? MISALIGN : 0;
    *buf = (struct io_buffer){.len = len, .nb_iov = 1};
    if (posix_memalign(&buf->mem, PAGE, MAX(len + shift, 1)) != 0) {
        buf->mem = NULL;
        io_error(io, "no memory for %" PRIu64 " bytes", len);
        return false;
    }
    buf->data = (uint8_t *)buf->mem + shift;
    memset(buf->data, pattern, len);
    buf->iov = g_new(struct iovec, 1);
    buf->iov[0] = (struct iovec){buf->data, len};
    return true;
}

bool io_buffer_parse(const struct io *io, struct io_buffer *buf, char *const *lengths,
                     int nb, int pattern)
{
    g_autofree uint64_t *len = g_new0(uint64_t, nb);
    uint64_t total = 0;
    for (int i = 0; i < nb; i++) {
        if (!io_number(lengths[i], &len[i])) {
            return false;
        }
        if (len[i] > IO_REQUEST_MAX) {
            printf("Argument '%s' exceeds maximum size %" PRIu64 "\n", lengths[i],
                   (uint64_t)IO_REQUEST_MAX);
            return false;
        }
        total += len[i];
        if (total > IO_REQUEST_MAX) {
            printf("The total number of bytes exceed the maximum size %" PRIu64 "\n",
                   (uint64_t)IO_REQUEST_MAX);
            return false;
        }
    }
    if (!io_buffer_init(io, buf, total, pattern)) {
        return false;
    }
    g_free(buf->iov);
    buf->iov = g_new(struct iovec, nb);
    buf->nb_iov = (unsigned)nb;
    uint8_t *p = buf->data;
    for (int i = 0; i < nb; i++) {
        buf->iov[i] = (struct iovec){p, len[i]};
        p += len[i];
    }
    return true;
}

void io_buffer_done(struct io_buffer *buf)
{
    g_free(buf->iov);
    free(buf->mem);
    *buf = (struct io_buffer){0};
}
