#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>

#include "cmd/img/img.h"
#include "lib/base/base.h"

/* snapshot: list, apply, create or delete the snapshots inside an image. */

static int list_all(struct img *im, struct blk *b)
{
    g_autoptr(GArray) list = blk_snapshots(b);
    if (list->len) {
        printf("Snapshot list:\n");
        img_print_snapshots(list);
    }
    return 0;
}

static int create(struct img *im, struct blk *b, const char *name)
{
    struct blk_snapshot sn = {0};
    struct timeval now;
    GError *error = NULL;
    gettimeofday(&now, NULL);
    g_strlcpy(sn.name, name, sizeof(sn.name));
    sn.date_sec = (uint32_t)now.tv_sec;
    sn.date_nsec = (uint32_t)now.tv_usec * 1000;
    if (!blk_has_snapshots(b)) {
        img_error(im, "Could not create snapshot '%s': %d (%s)", name, -ENOTSUP,
                  g_strerror(ENOTSUP));
        return 1;
    }
    if (blk_snapshot_create(b, &sn, &error)) {
        return 0;
    }
    img_report(im, error, "Could not create snapshot '%s': ", name);
    return 1;
}

static int apply(struct img *im, struct blk *b, const char *name)
{
    g_autoptr(GArray) list = blk_snapshots(b);
    int i = blk_snapshot_find(list, name);
    GError *error = NULL;
    if (!blk_has_snapshots(b)) {
        img_error(im,
                  "Could not apply snapshot '%s': Block driver does not support "
                  "snapshots",
                  name);
        return 1;
    }
    if (i < 0) {
        img_error(im,
                  "Could not apply snapshot '%s': Failed to load snapshot: No such "
                  "file or directory",
                  name);
        return 1;
    }
    const struct blk_snapshot *s = &g_array_index(list, struct blk_snapshot, i);
    if (blk_snapshot_apply(b, s->id, &error)) {
        return 0;
    }
    img_report(im, error, "Could not apply snapshot '%s': ", name);
    return 1;
}

static int delete (struct img *im, struct blk *b, const char *name)
{
    g_autoptr(GArray) list = blk_snapshots(b);
    int i = blk_snapshot_find(list, name);
    GError *error = NULL;
    if (i < 0) {
        img_error(im, "Could not delete snapshot '%s': snapshot not found", name);
        return 1;
    }
    const struct blk_snapshot *s = &g_array_index(list, struct blk_snapshot, i);
    if (blk_snapshot_delete(b, s->id, &error)) {
        return 0;
    }
    img_report(im, error, "Could not delete snapshot '%s': ", name);
    return 1;
}

int img_snapshot(struct img *im, int argc, char **argv)
{
    static const struct option longs[] = {
        {"help", no_argument, 0, 'h'},
        {"object", required_argument, 0, OPT_OBJECT},
        {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
        {"force-share", no_argument, 0, 'U'},
        {"format", required_argument, 0, 'f'},
        {"list", no_argument, 0, 'l'},
        {"create", required_argument, 0, 'c'},
        {"apply", required_argument, 0, 'a'},
        {"delete", required_argument, 0, 'd'},
        {"quiet", no_argument, 0, 'q'},
        {0},
    };
    const char *name = NULL, *format = NULL;
    int action = 0;
    unsigned flags = 0;
    for (int o; (o = img_getopt(im, argc, argv, "la:c:d:f:hqU", longs)) != -1;) {
        switch (o) {
        case '?': return 1;
        case 'h': return 0;
        case 'l':
        case 'a':
        case 'c':
        case 'd':
            if (action) {
                return img_usage(im, "Cannot mix '-l', '-a', '-c', '-d'");
            }
            action = o;
            name = optarg;
            break;
        case 'f': format = optarg; break;
        case 'q': im->quiet = true; break;
        case 'U': flags |= IMG_FORCE_SHARE; break;
        case OPT_IMAGE_OPTS: flags |= IMG_IMAGE_OPTS; break;
        default: break;
        }
    }
    if (optind != argc - 1) {
        return img_usage(im, "Expecting one image file name");
    }
    bool change = action && action != 'l';
    struct blk *b = img_open(im, argv[optind], format,
                             flags | IMG_NO_BACKING | (change ? IMG_RW : 0), NULL);
    if (!b) {
        return 1;
    }
    int code = action == 'c'   ? create(im, b, name)
               : action == 'a' ? apply(im, b, name)
               : action == 'd' ? delete (im, b, name)
               : action == 'l' ? list_all(im, b)
                               : 0; /* nothing asked: only that it opens */
    return img_close(im, b) ? code : 1;
}
