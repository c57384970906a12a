#include "vmm/display/picture.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <png.h>

#include "lib/base/base.h"

static void get_row(const struct surface *s, unsigned y, uint8_t *rgb)
{
    const uint32_t *p = s->pixels + (size_t)y * s->stride;

    for (unsigned x = 0; x < s->width; x++, rgb += 3) {
        rgb[0] = (uint8_t)(p[x] >> 16);
        rgb[1] = (uint8_t)(p[x] >> 8);
        rgb[2] = (uint8_t)p[x];
    }
}

static bool save_ppm(const struct surface *s, const char *path, GError **error)
{
    g_autofree uint8_t *row = g_malloc((size_t)s->width * 3);
    FILE *f = fopen(path, "wbe");
    bool ok;

    if (!f)
        return error_errno(error, errno, "%s", path);
    ok = fprintf(f, "P6\n%u %u\n255\n", s->width, s->height) > 0;
    for (unsigned y = 0; ok && y < s->height; y++) {
        get_row(s, y, row);
        ok = fwrite(row, 3, s->width, f) == s->width;
    }
    if (!ok)
        error_errno(error, errno, "%s", path);
    if (fclose(f) != 0 && ok)
        ok = error_errno(error, errno, "%s", path);
    return ok;
}

static bool save_png(const struct surface *s, const char *path, GError **error)
{
    g_autofree uint8_t *all = g_try_malloc((size_t)s->width * s->height * 3);
    png_image image = {
        .version = PNG_IMAGE_VERSION,
        .width = s->width,
        .height = s->height,
        .format = PNG_FORMAT_RGB,
    };

    if (!all)
        return error_errno(error, ENOMEM, "%s", path);
    for (unsigned y = 0; y < s->height; y++)
        get_row(s, y, all + (size_t)y * s->width * 3);
    if (!png_image_write_to_file(&image, path, 0, all, 0, NULL))
        return error_msg(error, "%s: %s", path, image.message);
    return true;
}

bool picture_save(const struct surface *s, const char *path, GError **error)
{
    return g_str_has_suffix(path, ".png") ? save_png(s, path, error)
                                          : save_ppm(s, path, error);
}
