#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "block/options.h"
#include "cmd/img/img.h"
#include "lib/base/base.h"

/* bitmap: dirty bitmaps in an image are made, removed and changed, in the order asked.
 */

enum action { ADD, REMOVE, CLEAR, ENABLE, DISABLE, MERGE, REMOVE_ALL };

static const char *const action_names[] = {"add",     "remove", "clear",     "enable",
                                           "disable", "merge",  "remove-all"};

struct step {
    enum action action;
    const char *from; /* MERGE */
};

struct bitmap {
    struct img *im;
    const char *format, *source_name, *source_format, *name;
    uint64_t granularity;
    unsigned flags;
    GArray *steps; /* of struct step */
    struct blk *b, *source;
};

static bool remove_all(struct bitmap *m, GError **error)
{
    g_autoptr(GArray) all = blk_bitmaps(m->b);
    bool ok = true;
    for (unsigned i = 0; ok && i < all->len; i++) {
        ok = blk_bitmap_remove(m->b, g_array_index(all, struct blk_bitmap, i).name,
                               error);
    }
    return ok;
}

static bool act(struct bitmap *m, const struct step *s, GError **error)
{
    switch (s->action) {
    case ADD: return blk_bitmap_add(m->b, m->name, m->granularity, error);
    case REMOVE: return blk_bitmap_remove(m->b, m->name, error);
    case CLEAR: return blk_bitmap_clear(m->b, m->name, error);
    case ENABLE: return blk_bitmap_enable(m->b, m->name, true, error);
    case REMOVE_ALL: return remove_all(m, error);
    case DISABLE: return blk_bitmap_enable(m->b, m->name, false, error);
    default:
        return blk_bitmap_merge(m->b, m->name, m->source ? m->source : m->b, s->from,
                                error);
    }
}

static bool run_steps(struct bitmap *m)
{
    GError *error = NULL;
    for (unsigned i = 0; i < m->steps->len; i++) {
        const struct step *s = &g_array_index(m->steps, struct step, i);
        if (!act(m, s, &error)) {
            img_report(m->im, error,
                       "Operation %s%s%s failed: ", action_names[s->action],
                       m->name ? " on bitmap " : "", m->name ? m->name : "");
            return false;
        }
    }
    return true;
}

static int run(struct bitmap *m, const char *filename)
{
    bool ok = false;
    m->b = img_open(m->im, filename, m->format, m->flags | IMG_RW, NULL);
    if (!m->b) {
        return 1;
    }
    if (m->source_name) {
        m->source = img_open(m->im, m->source_name, m->source_format, 0, NULL);
        ok = m->source && run_steps(m);
    } else {
        ok = run_steps(m);
    }
    blk_unref(m->source);
    return img_close(m->im, m->b) && ok ? 0 : 1;
}

static bool judge(const struct bitmap *m, bool added, unsigned merges)
{
    if (m->granularity && !added) {
        img_error(m->im, "granularity only supported with --add");
    } else if (m->source_format && !m->source_name) {
        img_error(m->im, "-F only supported with -b");
    } else if (m->source_name && !merges) {
        img_error(m->im, "Merge bitmap source file only supported with --merge");
    } else {
        return true;
    }
    return false;
}

int img_bitmap(struct img *im, int argc, char **argv)
{
    static const struct option longs[] = {
        {"help", no_argument, 0, 'h'},
        {"object", required_argument, 0, OPT_OBJECT},
        {"image-opts", no_argument, 0, OPT_IMAGE_OPTS},
        {"add", no_argument, 0, OPT_ACTION + ADD},
        {"remove", no_argument, 0, OPT_ACTION + REMOVE},
        {"clear", no_argument, 0, OPT_ACTION + CLEAR},
        {"enable", no_argument, 0, OPT_ACTION + ENABLE},
        {"disable", no_argument, 0, OPT_ACTION + DISABLE},
        {"merge", required_argument, 0, OPT_ACTION + MERGE},
        {"remove-all", no_argument, 0, OPT_ACTION + REMOVE_ALL},
        {"format", required_argument, 0, 'f'},
        {"granularity", required_argument, 0, 'g'},
        {"source-file", required_argument, 0, 'b'},
        {"source-format", required_argument, 0, 'F'},
        {0},
    };
    g_autoptr(GArray) steps = g_array_new(FALSE, FALSE, sizeof(struct step));
    struct bitmap m = {.im = im, .steps = steps};
    unsigned merges = 0;
    bool added = false, named = false;
    for (int o; (o = img_getopt(im, argc, argv, "b:f:F:g:h", longs)) != -1;) {
        switch (o) {
        case '?': return 1;
        case 'h': return 0;
        case 'b': m.source_name = optarg; break;
        case 'f': m.format = optarg; break;
        case 'F': m.source_format = optarg; break;
        case 'g':
            if (!img_parse_size(im, "granularity", optarg, &m.granularity)) {
                return 1;
            }
            break;
        case OPT_IMAGE_OPTS: m.flags |= IMG_IMAGE_OPTS; break;
        default:
            if (o >= OPT_ACTION && o <= OPT_ACTION + REMOVE_ALL) {
                struct step s = {(enum action)(o - OPT_ACTION), optarg};
                merges += s.action == MERGE;
                added |= s.action == ADD;
                named |= s.action != REMOVE_ALL;
                g_array_append_val(steps, s);
            }
        }
    }
    if (!steps->len) {
        img_error(im, "Need at least one of --add, --remove, --clear, --enable, "
                      "--disable, or --merge");
        return 1;
    }
    if (optind != argc - 1 - named) {
        img_error(im, named ? "Expecting filename and bitmap name"
                            : "Expecting one image file name");
        return 1;
    }
    m.name = named ? argv[optind + 1] : NULL;
    return judge(&m, added, merges) ? run(&m, argv[optind]) : 1;
}

/* ---- of convert
 * ------------------------------------------------------------------------------- */

bool img_can_copy_bitmaps(const struct img *im, struct blk *source, bool skip_broken)
{
    g_autoptr(GArray) all = blk_bitmaps(source);
    if (!blk_has_bitmaps(source)) {
        img_error(im, "Source lacks bitmap support");
        return false;
    }
    for (unsigned i = all->len; i-- > 0 && !skip_broken;) {
        const struct blk_bitmap *m = &g_array_index(all, struct blk_bitmap, i);
        if (m->inconsistent) {
            img_error(im, "Cannot copy inconsistent bitmap '%s'", m->name);
            fprintf(stderr, "Try --skip-broken-bitmaps, or use 'qemu-img bitmap "
                            "--remove' to delete it\n");
            return false;
        }
    }
    return true;
}

bool img_copy_bitmaps(const struct img *im, struct blk *source, struct blk *target)
{
    g_autoptr(GArray) all = blk_bitmaps(source);
    GError *error = NULL;
    for (unsigned i = all->len; i-- > 0;) {
        const struct blk_bitmap *m = &g_array_index(all, struct blk_bitmap, i);
        if (m->inconsistent) {
            fprintf(stderr, "%s: warning: Skipping inconsistent bitmap '%s'\n",
                    im->prog, m->name);
        }
    }
    for (unsigned i = 0; i < all->len; i++) {
        const struct blk_bitmap *m = &g_array_index(all, struct blk_bitmap, i);
        if (m->inconsistent) {
            continue;
        }
        if (!blk_bitmap_add(target, m->name, m->granularity, &error)) {
            img_report(im, error, "Failed to create bitmap %s: ", m->name);
            return false;
        }
        if (!blk_bitmap_enable(target, m->name, m->recording, &error) ||
            !blk_bitmap_merge(target, m->name, source, m->name, &error)) {
            img_report(im, error, "Failed to populate bitmap %s: ", m->name);
            blk_bitmap_remove(target, m->name, NULL);
            return false;
        }
    }
    return true;
}
