#include "block/proto/lock.h"

#include <errno.h>
#include <fcntl.h>

#include "block/blk.h"
#include "lib/base/base.h"

enum { USED_BASE = 100, UNSHARED_BASE = 200, PERM_BITS = 4 };

static const char *const perm_names[PERM_BITS] = {
    "consistent read",
    "write",
    "write unchanged",
    "resize",
};

static int lock_byte(int fd, short type, unsigned byte)
{
    struct flock fl = {
        .l_type = type,
        .l_whence = SEEK_SET,
        .l_start = (off_t)byte,
        .l_len = 1,
    };
    int r;
    do {
        r = fcntl(fd, F_OFD_SETLK, &fl);
    } while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

/* 1 when somebody else holds a lock on the byte, 0 when nobody does, or -errno. */
static int byte_taken(int fd, unsigned byte)
{
    struct flock fl = {
        .l_type = F_WRLCK,
        .l_whence = SEEK_SET,
        .l_start = (off_t)byte,
        .l_len = 1,
    };
    return fcntl(fd, F_OFD_GETLK, &fl) < 0 ? -errno : fl.l_type != F_UNLCK;
}

bool file_lock_works(int fd)
{
    return byte_taken(fd, USED_BASE) >= 0;
}

/* Lock the bits of @to that are not in @from. Errors are those of fcntl(). */
static int take(int fd, unsigned base, unsigned from, unsigned to)
{
    for (unsigned p = 0; p < PERM_BITS; p++) {
        if ((to & ~from) & (1u << p)) {
            int r = lock_byte(fd, F_RDLCK, base + p);
            if (r < 0) {
                return r;
            }
        }
    }
    return 0;
}

/* Unlocking cannot leave us worse off than before, so its failure is no news. */
static void give(int fd, unsigned base, unsigned from, unsigned to)
{
    for (unsigned p = 0; p < PERM_BITS; p++) {
        if ((from & ~to) & (1u << p)) {
            lock_byte(fd, F_UNLCK, base + p);
        }
    }
}

static bool look(int fd, unsigned base, unsigned bits, const char *filename,
                 GError **error)
{
    for (unsigned p = 0; p < PERM_BITS; p++) {
        if (!(bits & (1u << p))) {
            continue;
        }
        int r = byte_taken(fd, base + p);
        if (r < 0) {
            return error_errno(error, -r, "cannot query the locks of '%s'", filename);
        }
        if (r) {
            return error_msg(error,
                             "Failed to get %s\"%s\" lock\n"
                             "Is another process using the image [%s]?",
                             base == UNSHARED_BASE ? "" : "shared ", perm_names[p],
                             filename);
        }
    }
    return true;
}

bool file_lock_set(struct file_lock *lock, int fd, const struct blk_perms *perms,
                   const char *filename, GError **error)
{
    struct file_lock want = {
        .used = perms->used & BLK_PERM_ALL,
        .unshared = ~perms->shared & BLK_PERM_ALL,
    };
    struct file_lock old = *lock;

    int r = take(fd, USED_BASE, old.used, want.used);
    if (r == 0) {
        r = take(fd, UNSHARED_BASE, old.unshared, want.unshared);
    }
    if (r < 0) {
        error_errno(error, -r, "cannot lock '%s'", filename);
        goto fail;
    }
    if (!look(fd, UNSHARED_BASE, want.used, filename, error) ||
        !look(fd, USED_BASE, want.unshared, filename, error)) {
        goto fail;
    }
    give(fd, USED_BASE, old.used, want.used);
    give(fd, UNSHARED_BASE, old.unshared, want.unshared);
    *lock = want;
    return true;

fail:
    give(fd, USED_BASE, want.used, old.used);
    give(fd, UNSHARED_BASE, want.unshared, old.unshared);
    return false;
}
