#include "vmm/control/firmware.h"

#include <unistd.h>

#include "lib/base/base.h"

static const char *const default_dirs[] = {"/usr/share/seabios", "/usr/share/qemu",
                                           "/usr/share/ovmf"};

/* All folders, the user's first; the strings are borrowed. */
static GPtrArray *dirs_new(const struct vmm_config *c)
{
    GPtrArray *dirs = g_ptr_array_new();

    for (guint i = 0; i < c->data_dirs->len; i++)
        g_ptr_array_add(dirs, c->data_dirs->pdata[i]);
    for (size_t i = 0; i < ARRAY_LEN(default_dirs); i++)
        g_ptr_array_add(dirs, (gpointer)default_dirs[i]);
    return dirs;
}

char *firmware_find(const struct vmm_config *c, const char *name, GError **error)
{
    g_autoptr(GPtrArray) dirs = dirs_new(c);
    g_autoptr(GString) looked = g_string_new(NULL);

    if (access(name, F_OK) == 0)
        return g_strdup(name);
    for (guint i = 0; i < dirs->len; i++) {
        g_autofree char *path = g_build_filename(dirs->pdata[i], name, NULL);

        if (access(path, F_OK) == 0)
            return g_steal_pointer(&path);
        g_string_append_printf(looked, "%s%s", i ? ", " : "",
                               (const char *)dirs->pdata[i]);
    }
    error_msg(error, "there is no such file, nor one of this name in %s", looked->str);
    return NULL;
}

void firmware_dirs_help(const struct vmm_config *c, FILE *out)
{
    g_autoptr(GPtrArray) dirs = dirs_new(c);

    for (guint i = 0; i < dirs->len; i++)
        fprintf(out, "%s\n", (const char *)dirs->pdata[i]);
}
