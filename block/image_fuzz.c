#include "block/image_fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

#include "block/image.h"
#include "lib/base/base.h"
#include "lib/base/bytes.h"
#include "lib/loop/loop.h"

enum { MOST = 256 * 1024, ROUNDS = 24, PIECE = 8192 };

enum {
    MODE_READ,
    MODE_WRITE,
    MODE_CHECK,
    MODE_REPAIR,
    MODE_SNAPSHOTS,
    MODE_AMEND,
    MODES
};

static struct blk *open_image(struct loop *l, const char *format, int fd, bool rw,
                              unsigned flags)
{
    struct blk_perms perms = {
        BLK_PERM_READ | (rw ? BLK_PERM_WRITE | BLK_PERM_RESIZE : 0), BLK_PERM_ALL};
    struct blk_open_args args = {
        .loop = l,
        .perms = &perms,
        .flags = flags | BLK_OPEN_NO_BACKING | BLK_OPEN_NO_IO,
    };
    GError *error = NULL;
    json_t *o = json_pack("{s:s, s:b, s:s, s:{s:s, s:i, s:s}}", "driver", format,
                          "read-only", !rw, "discard", "unmap", "file", "driver",
                          "file", "fd", fd, "locking", "off");
    struct blk *b = blk_open(&args, o, &error);
    json_decref(o);
    if (!b != (error != NULL)) {
        __builtin_trap(); /* a node and an error, or neither */
    }
    g_clear_error(&error);
    return b;
}

static void read_some(struct blk *b, uint64_t seed)
{
    static uint8_t buf[PIECE];
    uint64_t length = blk_length(b), at = length ? seed % length : 0;
    for (unsigned i = 0; i < ROUNDS && at < length; i++) {
        struct blk_status s;
        if (blk_map_at(b, at, length - at, &s) < 0) {
            break;
        }
        if (s.len == 0 || s.len > length - at) {
            __builtin_trap();
        }
        blk_pread(b, at, buf, MIN(s.len, (uint64_t)PIECE));
        at += s.len;
    }
}

static void write_some(struct blk *b, uint64_t seed)
{
    static uint8_t buf[PIECE];
    uint64_t length = blk_length(b);
    for (unsigned i = 0; i < ROUNDS && length; i++) {
        uint64_t at = seed % length, n = MIN(length - at, (seed >> 7) % PIECE);
        switch (seed >> 60 & 3) {
        case 0: blk_run(b, BLK_ZERO, at, NULL, 0, n, BLK_MAY_UNMAP); break;
        case 1:
            blk_run(b, BLK_DISCARD, at, NULL, 0, MIN(length - at, n * 16), 0);
            break;
        default: blk_pwrite(b, at, buf, n); break;
        }
        seed = seed * 6364136223846793005u + 1442695040888963407u;
    }
    blk_run(b, BLK_FLUSH, 0, NULL, 0, 0, 0);
}

static void check(struct blk *b, unsigned fix)
{
    struct blk_check c = {.fix = fix};
    blk_check(b, &c);
}

static void snapshots(struct blk *b, uint64_t seed)
{
    struct blk_snapshot sn = {.name = "new"};
    GArray *list = blk_snapshots(b);
    if (list->len) {
        const char *id = g_array_index(list, struct blk_snapshot, seed % list->len).id;
        if (seed & 1) {
            blk_snapshot_apply(b, id, NULL);
        } else {
            blk_snapshot_delete(b, id, NULL);
        }
    }
    g_array_free(list, TRUE);
    blk_snapshot_create(b, &sn, NULL);
    write_some(b, seed);
}

static void amend(struct blk *b, uint64_t seed)
{
    blk_truncate(b, seed % (64 * MIB) & ~UINT64_C(511), BLK_PREALLOC_OFF, NULL);
    blk_set_backing(b, "x", "raw", NULL);
    if (seed & 1) {
        blk_make_empty(b, NULL);
    }
    json_t *info = blk_info(b, "x", NULL);
    json_decref(info);
}

static void use(struct blk *b, unsigned mode, uint64_t seed)
{
    switch (mode) {
    case MODE_WRITE: write_some(b, seed); break;
    case MODE_CHECK: check(b, 0); break;
    case MODE_REPAIR: check(b, BLK_FIX_LEAKS | BLK_FIX_ERRORS); break;
    case MODE_SNAPSHOTS: snapshots(b, seed); break;
    case MODE_AMEND: amend(b, seed); break;
    default: break;
    }
    read_some(b, seed);
}

void image_fuzz_file(const char *format, int fd, unsigned mode, uint64_t seed)
{
    static struct loop *loop;
    if (!loop) {
        loop = loop_new(&(struct loop_opts){.engine = LOOP_IO_THREADS}, NULL);
    }
    mode %= MODES;
    bool rw = mode != MODE_READ && mode != MODE_CHECK;
    bool lax = mode == MODE_CHECK || mode == MODE_REPAIR;
    struct blk *b =
        loop ? open_image(loop, format, fd, rw, lax ? BLK_OPEN_CHECK : 0) : NULL;
    if (b) {
        use(b, mode, seed);
        blk_unref(b);
    }
}

int image_fuzz(const char *format, const uint8_t *data, size_t size)
{
    if (size < IMAGE_FUZZ_HEAD || size > MOST) {
        return 0;
    }
    int fd = memfd_create("image-fuzz", MFD_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    size_t n = size - IMAGE_FUZZ_HEAD;
    if (write(fd, data + IMAGE_FUZZ_HEAD, n) == (ssize_t)n) {
        image_fuzz_file(format, fd, data[0], le64_get(data + 1));
    }
    close(fd);
    return 0;
}
